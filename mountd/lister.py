"""`egofs ls`, from the person's side: asks the daemons and writes what they list, as it comes."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from mountd import asked, control, mounts

_SILENCE_S = 120.0
_SIZES = "BKMGTP"
_LINE_END = "\n"


def run(words: Sequence[str], *, long: bool, as_json: bool) -> None:
    """Writes the rows of all that `words` name. Raises EgofsError."""
    found = asked.by_mount(words)
    writer = _Writer(long, as_json, several=sum(map(len, found.values())) > 1)
    for mount, paths in found.items():
        writer.begin(mount)
        control.ask(mount, "ls", {"paths": paths}, writer.take, timeout_s=_SILENCE_S)


class _Writer:
    """Writes rows as they come: columns have widths of their own, so that nothing has to wait for the last row."""

    def __init__(self, long: bool, as_json: bool, several: bool) -> None:
        self._row = self._as_json if as_json else _long if long else _short
        self._titles = several and not as_json
        self._root = ""
        self._folder = ""
        self._is_first = True

    def begin(self, mount: mounts.Mount) -> None:
        """What follows is of this mount."""
        self._root = str(mount.mountpoint)

    def take(self, told: dict[str, Any]) -> None:
        """Writes what a daemon tells: a path, or rows of it."""
        out = sys.stdout
        if "path" in told:
            inside = told["path"].strip("/")
            self._folder = f"{self._root}/{inside}".rstrip("/") if told["is_folder"] else self._root
            if self._titles and told["is_folder"]:
                out.write(f"{'' if self._is_first else _LINE_END}{_shown(self._folder)}:\n")
            self._is_first = False
        else:
            out.write("".join(self._row(row) + _LINE_END for row in told["rows"]))
        try:
            out.flush()
        except BrokenPipeError:  # head(1) has seen enough
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is left is to be flushed at the end
            raise click.exceptions.Exit(0) from None

    def _as_json(self, row: dict[str, Any]) -> str:
        return json.dumps({"path": f"{self._folder}/{row['name']}", **row})


def _short(row: dict[str, Any]) -> str:
    return _shown(row["name"])


def _long(row: dict[str, Any]) -> str:
    size, there = row["size_bytes"], row["bytes_on_disk"]
    share = "-" if there is None else f"{100 * there // size if size else 100}%"
    sized = "-" if row["kind"] == "d" else "?" if size is None else _size(size)
    when = _time(row["mtime_ns"])
    target = f" → {_shown(row['target'])}" if row["kind"] == "l" else ""
    columns = f"{row['kind']} {sized:>6} {share:>4} {_size(there) if there else '-':>6}  {when}"
    return f"{columns}  {_shown(row['name'])}{target}"


def _size(count: int) -> str:
    """In six columns at most: 999, 1.2K, 34.5M, 1023K."""
    if count < 1000:
        return str(count)
    value, unit = float(count), 0
    while value >= 1000:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f}{_SIZES[unit]}" if value < 100 else f"{value:.0f}{_SIZES[unit]}"


def _time(mtime_ns: int) -> str:
    if mtime_ns <= 0:
        return f"{'-':<16}"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(mtime_ns / 1e9))


def _shown(name: str) -> str:
    """A name as a terminal can have it: bytes that are no text, and control characters, would garble it."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in name)
