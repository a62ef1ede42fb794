"""The command's end of `egofs warm --order`: opens the list, has a mount go through it, and shows how far that is.

Called by commands/warm.py. The daemon reads the list itself, from the open file that it is given (orders.py).
"""

import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from mountd import control, mounts, process, shown
from vfs.errors import OptionError

# Without a terminal, which has a line that changes.
_SAY_EVERY_S = 10.0
_COLUMNS = 80
_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def run(list_file: str, place: Path | None, *, follow: bool, ahead: str | None) -> None:
    """Goes through the list in the file ("-" is standard input) until its end. Raises EgofsError, KeyboardInterrupt."""
    mount = mounts.asked(place)
    ahead_bytes = _size_bytes(ahead) if ahead is not None else None
    if ahead_bytes is not None and not follow:
        raise OptionError("--ahead is for --follow: without it, all of the list is fetched")
    within, roots = _base(mount, place)
    words = {"within": within, "roots": roots, "follow": follow, "ahead": ahead_bytes}
    line = _Line(follows=follow)
    with _opened(list_file, mount) as descriptor:
        try:
            facts = control.ask(mount, "order", words, line.show, descriptor=descriptor)
        except KeyboardInterrupt:
            line.end()
            raise
        finally:
            line.clear()
    line.last = facts
    line.end()
    if not facts["done"] and facts["lost"] and not facts["failed"]:
        raise process.DaemonFailed(
            f"no line of {list_file} leads to a file below {mount.mountpoint / within}: "
            "paths are relative to that, or absolute in the mount",
            process.FAILED,
        )


def _base(mount: mounts.Mount, place: Path | None) -> tuple[str, list[str]]:
    """The folder below which relative paths are, and other names of the mount's root."""
    if place is None:
        return "", []
    within = str(mounts.real(place).relative_to(mount.mountpoint))
    within = "" if within == "." else within
    said = os.path.abspath(place.expanduser())
    if within and said.endswith(f"/{within}"):
        return within, [said[: -len(within) - 1]]
    return within, [] if within else [said]


@contextmanager
def _opened(list_file: str, mount: mounts.Mount) -> Iterator[int]:
    """The list's descriptor."""
    try:
        descriptor = os.dup(0) if list_file == "-" else os.open(list_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise OptionError(
            f"{list_file}: {failure.strerror}: --order takes a file with a path a line, or - for standard input"
        ) from failure
    try:
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise OptionError(f"{list_file}: a folder: --order takes a file with a path a line")
        if os.isatty(descriptor):
            raise OptionError("standard input is a terminal: pipe the order in, or name its file")
        major, minor = map(int, mount.device.split(":"))
        if facts.st_dev == os.makedev(major, minor):
            descriptor = _copied(descriptor)  # a daemon must not read its own mount
        yield descriptor
    finally:
        os.close(descriptor)


def _copied(descriptor: int) -> int:
    with os.fdopen(descriptor, "rb") as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        return os.dup(copy.fileno())


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise OptionError(f"--ahead {text}: a size above 0 such as 64M")
    return int(float(match[1]) * (1 << _SUFFIXES[match[2].upper()]))


class _Line:
    """How far it is: one line that changes, on a terminal; else a line from time to time. And what came of it."""

    def __init__(self, *, follows: bool) -> None:
        self.last: dict[str, Any] | None = None
        self._follows = follows
        self._live = sys.stderr.isatty()
        self._began = self._said = time.monotonic()
        self._shown = False
        self._named = 0

    def show(self, facts: dict[str, Any]) -> None:
        """Shows the facts of a moment."""
        self.last = facts
        self._name(facts)
        text = self._text(facts)
        now = time.monotonic()
        if self._live:
            columns = shutil.get_terminal_size((_COLUMNS, 24)).columns
            sys.stderr.write(f"\r{text[: columns - 1]}\x1b[K")
            sys.stderr.flush()
            self._shown = True
        elif now - self._said >= _SAY_EVERY_S:
            self._said = now
            shown.say(text)

    def _name(self, facts: dict[str, Any]) -> None:
        """Says which lines came to nothing, of the first of them."""
        for number, path, why in facts["named"][self._named :]:
            self.clear()
            shown.say(f"line {number}: {path}: {why}")
        self._named = len(facts["named"])

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            with suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            self._shown = False

    def _text(self, facts: dict[str, Any]) -> str:
        line, lines = facts["line"], facts["lines"]
        place = f"line {line:,} of {lines:,} ({line / max(1, lines):.0%})" if lines else f"line {line:,}"
        words = [place]
        if self._follows:
            words.append(f"{facts['ahead_lines']:,} ahead ({shown.size(facts['ahead_bytes'])})")
            if facts["read"]:
                words.append(f"{facts['hits'] / facts['read']:.0%} at hand")
        words.append(f"{shown.size(facts['fetched_bytes'])} fetched")
        if not self._follows:
            words.append(f"{shown.size(facts['fetched_bytes'] / max(time.monotonic() - self._began, 0.001))}/s")
        if facts["made"]:
            words.append(f"{facts['made']:,} pictures")
        return ", ".join(words)

    def end(self) -> None:
        """Says what came of it."""
        self.clear()
        facts, seconds = self.last, max(time.monotonic() - self._began, 0.001)
        if facts is None:
            return
        self._name(facts)
        made = f", {facts['made']:,} pictures made" if facts["made"] else ""
        if self._follows:
            share = f" ({facts['hits'] / facts['read']:.1%})" if facts["read"] else ""
            click.echo(
                f"{facts['read']:,} lines read in {_time(seconds)}, {facts['hits']:,} of them found at hand{share}; "
                f"{shown.size(facts['fetched_bytes'])} fetched{made}"
            )
        else:
            rate = f", {shown.size(facts['fetched_bytes'] / seconds)}/s" if facts["fetched_bytes"] else ""
            click.echo(
                f"{facts['done']:,} lines at hand in {_time(seconds)}; "
                f"{shown.size(facts['fetched_bytes'])} fetched{rate}{made}"
            )
        if facts["full"]:
            shown.say(f"the cache is full at line {facts['line']:,}: what follows would drive out what was fetched")
        if facts["lost"]:
            shown.say(f"{_lines(facts['lost'])} nowhere in the mount, and left out")
        if facts["failed"]:
            shown.say(f"{facts['failed']:,} of the lines could not be fetched: the mount's log has more")


def _lines(count: int) -> str:
    return "1 line leads" if count == 1 else f"{count:,} lines lead"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else shown.duration(seconds)
