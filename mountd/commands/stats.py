"""`egofs stats`."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from mountd import mounts, process, shown
from vfs.errors import OptionError

_T = TypeVar("_T")
_EPILOG = """\b
  egofs stats ~/a101 -O stats.pkl       as training code reads it
  egofs stats ~/a101/recordings --views e4 --format csv
"""


@click.command("stats", epilog=_EPILOG)
@click.argument("directory", required=False, type=Path)
@click.option("--format", "form", type=click.Choice(["pickle", "json", "csv"]), help="As FILE's suffix says, or json.")
@click.option("-O", "--output", "file", type=click.Path(path_type=Path), help="Where to write it, instead of here.")
@click.option("--views", metavar="NAME+…", help="Of these views alone: v3+e4, egocentric, … or videos' names.")
@click.option("--jobs", type=click.IntRange(1, 256), default=16, show_default=True, help="Videos at a time.")
def command(directory: Path | None, form: str | None, file: Path | None, views: str | None, jobs: int) -> None:
    """Tells which frames the videos of a mount have, as training code wants it: {recording: {view: [1, last + 1]}}.

    DIRECTORY is a mount or a folder in one; where there is one mount, it need not be said. Only headers are read.
    """
    from mountd import stats

    top = mounts.real(directory or mounts.only().mountpoint)
    mount = mounts.of(top)
    if mount is None:
        raise OptionError(f"{top}: no egofs is mounted here (egofs status lists what is)")
    before = mounts.live_status(mount)
    if not top.is_dir():
        raise OptionError(f"{top}: no such folder")
    form = form or stats.form_of(file)
    if file is None and form == "pickle" and sys.stdout.isatty():
        raise OptionError("a pickle is not for terminals: say -O FILE")
    with stats.Result(file) as result:
        asked = tuple((views or "all").split("+"))
        videos, failures = stats.find(stats.top_of(top, before["dataset"]), mount.mountpoint, asked, jobs)
        if not videos and not failures:
            raise OptionError(f"{top}: no videos with frames are below it")
        with shown.progress("videos", len(videos)) as bar:
            found, more = stats.gather(_counted(stats.measured(videos, jobs), bar))
        result.write(stats.as_bytes(found, form), whole=not (failures := failures + more))
    for failure in failures:
        shown.say(f"{failure.path}: {failure.why}")
    shown.say(_cost(found, before, mounts.live_status(mount), failures, result.place))
    if failures:
        raise click.exceptions.Exit(process.USAGE)


def _cost(
    found: dict[str, Any], before: dict[str, Any], after: dict[str, Any], failures: Sequence[Any], place: Path | None
) -> str:
    count = sum(map(len, found.values()))
    fetched, requests = (after["fetched"][key] - before["fetched"][key] for key in ("bytes_fetched", "requests"))
    text = f"{len(found)} recordings, {count} videos; {shown.size(fetched)} fetched in {requests} requests"
    if failures:
        errors = f"{after['mountpoint']}/.egofs/errors.log"
        text += f"; {len(failures)} could not be read ({errors} has more)" + (
            f": {place} has the rest" if place else ""
        )
    return text


def _counted(all_of: Iterable[_T], advance: Callable[[int, int], None]) -> Iterator[_T]:
    for each in all_of:
        yield each
        advance(1, 0)
