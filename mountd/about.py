"""What a mount says of itself: the read-only `.egofs` directory at its root.

    .egofs/status.json   one object: pid, source, cache use, requests, errors
    .egofs/metrics       the same as Prometheus has it
    .egofs/errors.log    the last warnings and errors
    .egofs/help.txt      what can be asked of this mount
    .egofs/missing.csv   name, reason and since when of what is known not to be there, where a dataset tells that

It is looked up and not listed, so that the tree is the dataset's own to tar, rsync and find. Any thread may call.
"""

import collections
import csv
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mountd import secrets
from vfs.errors import AccessDenied, NotFound, OverQuota
from vfs.node import Attributes, Child, Directory, File, Kind, Node, tag_of

NAME = ".egofs"
_KEPT_LINES = 200
_SAID_AGAIN_S = 60.0
_COLUMNS = ("name", "reason", "since")

Row = Sequence[str]
"""Of missing.csv: as many of its columns as are known."""

HELP = """\
This directory is a mount of egofs: a remote dataset, read-only. Bytes are fetched when they are read.

frames/VIDEO/…             pictures of each video, in every directory that has videos; decoded when opened
frames@KEY=VALUE,…/VIDEO/  the same with fps=N (0 or native: every frame), format=jpg|png|ppm|npy, quality=1..100,
                           short=PIXELS or width=, height=, crop=center; not listed
frames/VIDEO/START-STOP.npy  the files from START up to but without STOP as one array; also START-STOP-STEP.npy
getfattr -d FILE           facts: source, version, cached bytes; of a video its frames, rate, codec and size; of a
                           frame its number in the video, pts, time, and whether it is a keyframe
getfattr -d ROOT           what is mounted: source and dataset

.egofs/status.json         what this mount has read and fetched, what the cache holds, who let it in
.egofs/metrics             the same for Prometheus; over HTTP, on this machine alone, with -o metrics_port=PORT
.egofs/errors.log          the last warnings and errors
.egofs/missing.csv         what is known not to be there, where the dataset tells that

egofs status --watch       what all mounts do, live; egofs status DIR tells all of one, --json is for programs
egofs warm PATH…           fetches files, or the frames of videos, before they are read
egofs ls -l PATH           lists with how much of each file is in the cache
egofs invalidate PATH      has a listing asked for again
egofs cache info           what is kept on disk, and of which mounts
egofs doctor               looks for what is wrong, and says what to do
egofs umount DIR           ends the mount
"""


class Refusals(logging.Filter):
    """Lets a refusal pass once a minute, of whichever object: a job that goes on would fill every log with it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is no refusal, or one that was not heard lately."""
        failure = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if not isinstance(failure, AccessDenied | OverQuota):
            return True
        now = self._clock()
        why = str(failure).partition(": ")[2] or str(failure)  # what was asked for stands in front
        if now - self._said.get(why, -_SAID_AGAIN_S) < _SAID_AGAIN_S:
            return False
        self._said = {said: at for said, at in self._said.items() if now - at < _SAID_AGAIN_S} | {why: now}
        return True


class ErrorLog(logging.Handler):
    """Keeps the last warnings and errors of the whole process, for errors.log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.addFilter(Refusals())
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a line."""
        self._lines.append(secrets.redacted(self.format(record)) + "\n")

    def last(self) -> str | None:
        """The newest line, without what may follow it; None where there is none."""
        lines = list(self._lines)
        return lines[-1].splitlines()[0] if lines else None

    def text(self) -> bytes:
        """All lines that are kept."""
        return "".join(list(self._lines)).encode(errors="surrogateescape")


class RootWithAbout(Directory):
    """The dataset's root, with `.egofs` beside its own names."""

    def __init__(self, root: Directory, about: Directory) -> None:
        self.attributes = root.attributes
        self._root = root
        self._about = about

    def lookup(self, name: str) -> Node:
        """`.egofs`, or what the dataset has."""
        return self._about if name == NAME else self._root.lookup(name)

    def children(self) -> Iterator[Child]:
        """The dataset's own names."""
        return self._root.children()

    def names_valid_s(self) -> float:
        """As the dataset's root has it."""
        return self._root.names_valid_s()

    def xattr_names(self) -> list[str]:
        """What is mounted."""
        return self._root.xattr_names()

    def xattr(self, name: str) -> bytes:
        """As the dataset's root has it."""
        return self._root.xattr(name)

    def at_hand(self) -> "RootWithAbout | None":
        """`.egofs` beside what is known of the dataset's root."""
        root = self._root.at_hand()
        return RootWithAbout(root, self._about) if root else None


class AboutDirectory(Directory):
    """`.egofs`."""

    def __init__(
        self, status: Callable[[], dict[str, Any]], errors: ErrorLog, missing: Callable[[], Iterable[Row]] | None = None
    ) -> None:
        """`missing`: rows of name, reason and since when, of what was asked for and is not there, for `missing.csv`."""
        self.attributes = Attributes(0, 0, 3600.0)
        self.status = status
        self._texts: dict[str, Callable[[], bytes]] = {
            "errors.log": errors.text,
            "help.txt": HELP.encode,
            "metrics": self.metrics,
            "status.json": lambda: json.dumps(status(), indent=1).encode() + b"\n",
        }
        if missing is not None:
            self._texts["missing.csv"] = lambda: _table(missing())

    def metrics(self) -> bytes:
        """The status for Prometheus, whose library takes a tenth of a second that only those spend who ask for it."""
        from mountd import metrics

        return metrics.exposition(self.status())

    def lookup(self, name: str) -> Node:
        """One of the files."""
        if name not in self._texts:
            raise NotFound(f"{NAME}/{name}")
        return _Text(self._texts[name])

    def children(self) -> Iterator[Child]:
        """All files; none is made for it, since what is missing may take long to find out."""
        for name in self._texts:
            yield name.encode(), Kind.FILE, tag_of(Kind.FILE, ""), -1, 0


def _table(rows: Iterable[Row]) -> bytes:
    """CSV with a header; rows may end early."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")


class _Text(File):
    """A text as it was when it was looked up: opening gives the bytes whose number stat gave. The kernel looks it up
    anew each time (valid for 0 s)."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._text = make()
        self.attributes = Attributes(len(self._text), time.time_ns(), 0.0)

    def open(self) -> "_Snapshot":
        return _Snapshot(self._text)


class _Snapshot:
    def __init__(self, text: bytes) -> None:
        self._text = text

    def ready(self, start: int, length: int) -> bytes:
        return self._text[start : start + length]

    read = ready

    def close(self) -> None:
        self._text = b""
