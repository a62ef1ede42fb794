"""What commands say to a person: sizes, durations, progress, and lines on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


def say(text: str) -> None:
    """A line on standard error, which is for people; standard output is for what was asked for."""
    click.echo(f"egofs: {text}", err=True)


def size(count: float) -> str:
    """A number of bytes, such as 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A time, in the largest unit of which there are two."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{days:.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{minutes:.0f} min"


@contextmanager
def progress(what: str, length: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; gives what is told how many have been done since, and of how many bytes."""
    if not sys.stderr.isatty():
        yield lambda count, size_bytes: None
        return
    began, done_bytes = time.monotonic(), 0

    def rate(size_bytes: int | None) -> str:
        return f"{size(done_bytes / max(time.monotonic() - began, 0.001))}/s" if size_bytes else ""

    with click.progressbar(
        length=length, label=what, show_pos=True, show_eta=True, item_show_func=rate, file=sys.stderr
    ) as bar:

        def advance(count: int, size_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += size_bytes
            bar.update(count, size_bytes)

        yield advance
