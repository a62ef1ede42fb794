"""`egofs verify`."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mountd import mounts, shown
from mountd.process import FAILED
from vfs.errors import OptionError

_WORDS = {
    "ok": "ok",
    "mended": "ok now: what was kept of it was damaged, and is dropped",
    "differs": "DIFFERS from what the store says of it",
    "unknown": "no checksum is known",
}
_DIFFERS = 1
# Told each quarter of a second; a file's end may wait for a reader on a slow disk.
_PATIENCE_S = 300.0


_EPILOG = """\b
  egofs verify ~/ego4d/v2/annotations
  egofs verify ~/a101/recordings/*/e4.mp4
"""


@click.command("verify", epilog=_EPILOG)
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=Path)
@click.option("--jobs", metavar="N", type=click.IntRange(1, 64), default=4, help="Files read at a time. [4]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, for programs.")
def command(paths: tuple[Path, ...], jobs: int, as_json: bool) -> None:
    """Reads files to their ends and compares them with the checksums that their store has; folders with all below.

    Says of each file: ok, DIFFERS, or that no checksum is known. What is kept of a file on disk is verified as it is
    kept; where that is damaged, and the store is not, it is dropped and the file is ok. Exit status 1 where a file
    differs, 32 where one could not be read.
    """
    from mountd import control

    counts: dict[str, int] = {}
    for mount, inside in _by_mount(paths).items():
        with _screen() as (advance, write):

            def told(
                facts: dict[str, Any],
                mount: mounts.Mount = mount,
                advance: Callable[[dict[str, Any]], None] = advance,
                write: Callable[[str], None] = write,
            ) -> None:
                if "file" in facts:
                    write(_line(f"{mount.mountpoint}/{facts['file']}", facts, as_json))
                else:
                    advance(facts)

            done = control.ask(mount, "verify", {"paths": inside, "jobs": jobs}, told, timeout_s=_PATIENCE_S)
        for outcome, count in done.items():
            counts[outcome] = counts.get(outcome, 0) + count
    if not as_json:
        shown.say(_summary(counts))
    sys.exit(_DIFFERS if counts["differs"] else FAILED if counts["failed"] else 0)


def _by_mount(paths: tuple[Path, ...]) -> dict[mounts.Mount, list[str]]:
    """The paths below each mount's root. Raises OptionError."""
    asked: dict[mounts.Mount, list[str]] = {}
    for path in paths:
        real = mounts.real(path)
        mount = mounts.of(real)
        if mount is None:
            raise OptionError(f"{path}: no egofs is mounted here (egofs status lists what is)")
        inside = os.path.relpath(real, mount.mountpoint)
        asked.setdefault(mount, []).append("" if inside == "." else inside)
    return asked


def _line(path: str, facts: dict[str, Any], as_json: bool) -> str:
    """What became of a file."""
    if as_json:
        told = {"path": path, "size": facts["size"], "outcome": facts["outcome"], "checksum": facts["how"] or None}
        return json.dumps(told | ({"reason": facts["why"]} if facts["why"] else {}))
    words = _WORDS.get(facts["outcome"], f"cannot be read: {facts['why']}")
    return f"{path}: {words}" + (f" ({facts['how']})" if facts["how"] else "")


def _summary(counts: dict[str, int]) -> str:
    said = [f"{counts['ok'] + counts['mended']} ok"]
    said += [f"{counts['differs']} differ"] if counts["differs"] else []
    said += [f"{counts['mended']} of them mended in the cache"] if counts["mended"] else []
    said += [f"{counts['failed']} could not be read"] if counts["failed"] else []
    said += [f"{counts['unknown']} without a known checksum"] if counts["unknown"] else []
    return f"{', '.join(said)}; {shown.size(counts['bytes'])} read"


@contextmanager
def _screen() -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[str], None]]]:
    """What shows how far it is, on a terminal a bar with bytes, rate and time left; and what writes a file's line."""
    if not sys.stderr.isatty():
        yield lambda facts: None, click.echo
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("verifying"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as screen:
        task = screen.add_task("", total=None, text="")

        def advance(facts: dict[str, Any]) -> None:
            done, total = facts["done_bytes"], facts["bytes"]
            screen.update(task, total=total or None, completed=done)
            rate = f", {shown.size(screen.tasks[0].speed)}/s" if screen.tasks[0].speed else ""
            screen.update(task, text=f"{shown.size(done)} of {shown.size(total)}{rate}")

        def write(line: str) -> None:
            """Above the bar, where that is on the same terminal."""
            if sys.stdout.isatty():
                screen.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                click.echo(line)

        yield advance, write
