"""What was asked for and is not there: remembered between mounts, so that nobody is asked for it again for a while.

Called by clips.py. One file, a line each time that something is found to be missing or to be back: several processes
append to it, a line that was cut off by the end of one of them is skipped, and it is written anew, whole, when most of
it is out of date. Any thread may call; the lock guards what was read of the file.
"""

import csv
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

_log = logging.getLogger(__name__)

# Most of what is gone stays so; what was private, blocked or not yet shown is found within days of its return, and
# a dataset of which a tenth is gone costs as many requests a week as it has such names.
ASKED_AGAIN_S = 7 * 86_400.0

_SPARE_LINES = 1000  # out of date, before the file is written anew


@dataclass(frozen=True, slots=True)
class _Row:
    reason: str
    since: int
    """When it was first found to be missing, in seconds of the epoch."""
    asked: int
    """When it last was."""


class Missing:
    """Names with the reason why they are not there."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """The file need not be there, nor be writable."""
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._rows: dict[str, _Row] | None = None
        self._is_logged = False

    def reason(self, name: str) -> str | None:
        """Why a name is not there, None where it may be: it never was missing, or that was found long ago."""
        with self._lock:
            row = self._known().get(name)
        if row is None or not row.asked <= self._clock() + 1 < row.asked + ASKED_AGAIN_S:
            return None
        return row.reason

    def add(self, name: str, reason: str) -> None:
        """It was asked for, and is missing."""
        now = int(self._clock())
        line = " ".join(reason.split())
        with self._lock:
            before = self._known().get(name)
            row = _Row(line, now, now) if before is None else replace(before, reason=line, asked=now)
            self._known()[name] = row
            self._append(name, row)

    def remove(self, name: str) -> None:
        """It is there."""
        with self._lock:
            if self._known().pop(name, None) is not None:
                self._append(name, _Row("", 0, int(self._clock())))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(name, reason, since when as ISO 8601), by name."""
        with self._lock:
            rows = sorted(self._known().items())
        for name, row in rows:
            yield name, row.reason, datetime.fromtimestamp(row.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- the file, with the lock

    def _known(self) -> dict[str, _Row]:
        if self._rows is None:
            self._rows, lines = self._read()
            if lines > 2 * len(self._rows) + _SPARE_LINES:
                self._rewrite()
        return self._rows

    def _read(self) -> tuple[dict[str, _Row], int]:
        """The rows, and how many lines there are."""
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}, 0
        rows: dict[str, _Row] = {}
        lines = text.splitlines()
        for line in lines:
            try:
                fields = next(csv.reader([line]), [])
            except csv.Error:
                continue
            if len(fields) != 4 or not all(each.isascii() and each.isdigit() for each in fields[2:]):
                continue
            name, reason, since, asked = fields
            rows.pop(name, None)
            if reason and int(asked) < 1 << 33:  # a year that can be told
                rows[name] = _Row(reason, min(int(since), int(asked)), int(asked))
        return rows, len(lines)

    def _append(self, name: str, row: _Row) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
                # One write, which the kernel puts behind those of others whole.
                os.write(descriptor, b"\n" * bool(torn) + _line(name, row))
            finally:
                os.close(descriptor)
        except OSError as failure:
            if not self._is_logged:
                _log.warning("what is missing is not remembered: %s: %s", self._file, failure.strerror)
            self._is_logged = True

    def _rewrite(self) -> None:
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as out:
                out.writelines(_line(name, row) for name, row in (self._rows or {}).items())
            os.replace(new, self._file)
        except OSError as failure:
            _log.debug("%s is not written anew: %s", self._file, failure)


def _line(name: str, row: _Row) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow((name, row.reason, row.since, row.asked))
    return text.getvalue().encode(errors="replace")
