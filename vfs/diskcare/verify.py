"""Whether all that a cache folder keeps is whole: every value is read and compared with its checksums, every row with
its file, and what is not right is removed or put right where that is asked for.

Called by `egofs cache verify`, while mounts use the folder or not. What is read does not go through the page cache,
which has what people read. What a mount may be doing at the moment (a file without its row, a row without its file)
is looked at again, or is not counted while it is young.
"""

import mmap
import os
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vfs import diskcare, valuefile, valuefolder
from vfs.database import open_to_look
from vfs.diskcare import CATALOG, INDEX, OBJECTS, YOUNG_S, CacheFailed, Progress
from vfs.valuefile import Damaged, Key

# No value is larger: that is what waits to be written at most (disk.py), and more.
_MOST_BYTES = 256 << 20
# A file that is not whole and was changed so lately may be in the middle of being written, which takes milliseconds: it
# is looked at again after so long, so often.
_JUST_NOW_S = 3.0
_AGAIN_S, _AGAIN_TIMES = 0.5, 3
_NAMED = 5  # of what is damaged, in a report


@dataclass
class Report:
    """What was found. Damage is bytes that are not those that were kept; the rest is what a crash leaves, or somebody
    who removed files by hand."""

    values: int = 0
    bytes: int = 0
    damaged: int = 0
    damaged_bytes: int = 0
    damaged_names: list[str] = field(default_factory=list)
    """The first few, below the folder."""
    databases: dict[str, str] = field(default_factory=dict)
    """Of each that is damaged, by its name in the folder, what SQLite says of it."""
    unfinished: int = 0
    """Files that a crash left half-written."""
    uncounted: int = 0
    """Values without a row."""
    lost: int = 0
    """Rows without a value."""
    miscounted: int = 0
    """Rows that tell another size than the value has; and the total, where it is not their sum."""
    repaired: bool = False

    @property
    def is_damaged(self) -> bool:
        """Whether bytes are not those that were kept."""
        return bool(self.damaged or self.databases)


def verify(
    cache: Path, *, repair: bool, in_use: bool, jobs: int = 2, on_progress: Progress = lambda files, size: None
) -> Report:
    """Reads and compares all there is, `jobs` files at a time.

    With `repair` what is damaged is removed, and the accounting put right. Raises CacheFailed; CacheInUse where a
    database would have to be replaced that mounts have open.
    """
    report = Report(repaired=repair)
    objects = cache / OBJECTS
    threads = ThreadPoolExecutor(jobs, thread_name_prefix="verify")
    try:
        # In a thread, since SQLite does not hear of Ctrl-C.
        report.databases = threads.submit(diskcare.damaged_databases, cache, INDEX, CATALOG).result()
        if repair:
            diskcare.replace_databases(cache, report.databases, in_use)
        with closing(_accounting(objects, report, repair)) as database:
            check = _Check(objects, database, report, repair)
            for place in diskcare.folders(objects):
                check.folder(place, threads, on_progress)
            check.rows()
    except (OSError, sqlite3.Error) as failure:
        raise CacheFailed(f"{cache}: {failure}") from failure
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return report


def _accounting(objects: Path, report: Report, repair: bool) -> sqlite3.Connection:
    """The folder's, or, where that cannot be read and is not to be made anew, an empty one in its place."""
    if repair and objects.is_dir():
        return valuefolder.open_index(objects)
    file = objects / valuefolder.DATABASE
    return open_to_look(file) if file.exists() and INDEX not in report.databases else valuefolder.empty_index()


class _Check:
    """What is found goes into the report, and is put right where `repair` is true."""

    def __init__(self, objects: Path, database: sqlite3.Connection, report: Report, repair: bool) -> None:
        self._objects = objects
        self._database = database
        self._report = report
        self._repair = repair

    def folder(self, place: Path, threads: ThreadPoolExecutor, on_progress: Progress) -> None:
        """Compares the values of a folder with their checksums and their rows."""
        values: list[tuple[str, Key]] = []
        for entry in diskcare.entries_of(place):
            key = valuefolder.key_of(entry.name)
            if key is not None and valuefolder.path_of(self._objects, key) == entry.path:
                values.append((entry.path, key))
            elif valuefolder.is_unfinished(entry.name):
                self._unfinished(entry)
        rows: list[valuefolder.Row] = []
        for (path, key), found in zip(values, threads.map(_examined, values), strict=True):
            if found is None:
                continue  # it was evicted in the meantime
            self._report.values += 1
            self._report.bytes += found.size_bytes
            on_progress(1, found.size_bytes)
            if not found.is_whole:
                self._damaged(path, key, found)
            elif self._is_miscounted(key, found):
                rows.append((*key, found.size_bytes, int(found.mtime)))
        if self._repair and rows:
            valuefolder.remove(self._database, [row[:2] for row in rows])
            valuefolder.count_in(self._database, self._objects, rows)

    def rows(self) -> None:
        """Finds rows without a value, and a total that is not their sum."""
        for keys in diskcare.lost(self._objects, self._database):
            self._report.lost += len(keys)
            if self._repair and keys:
                valuefolder.remove(self._database, keys)
        if not valuefolder.is_sum(self._database):
            self._report.miscounted += 1
            if self._repair:
                valuefolder.recount(self._database)

    def _unfinished(self, entry: "os.DirEntry[str]") -> None:
        with suppress(FileNotFoundError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > YOUNG_S:
                self._report.unfinished += 1
                if self._repair:
                    diskcare.unlink(entry.path)

    def _is_miscounted(self, key: Key, found: "_Found") -> bool:
        counted = valuefolder.counted_bytes(self._database, key)
        if counted == found.size_bytes or time.time() - found.mtime < YOUNG_S:
            return False
        if counted is None:
            self._report.uncounted += 1
        else:
            self._report.miscounted += 1
        return True

    def _damaged(self, path: str, key: Key, found: "_Found") -> None:
        self._report.damaged += 1
        self._report.damaged_bytes += found.size_bytes
        if len(self._report.damaged_names) < _NAMED:
            self._report.damaged_names.append(str(Path(OBJECTS, *Path(path).parts[-2:])))
        if not self._repair:
            return
        with suppress(FileNotFoundError):
            # Not what a mount that found the damage too has put there since.
            if os.stat(path, follow_symlinks=False).st_ino == found.inode:
                os.unlink(path)
                valuefolder.remove(self._database, [key])


# -- reading, in threads


@dataclass(frozen=True, slots=True)
class _Found:
    """A value's file as it was read."""

    size_bytes: int
    is_whole: bool
    mtime: float
    inode: int


_buffers = threading.local()


def _examined(value: tuple[str, Key]) -> _Found | None:
    """Reads a value whole; None where it is not there any more."""
    path, key = value
    for again in range(_AGAIN_TIMES + 1):
        try:
            found = _read(path, key)
        except FileNotFoundError:
            return None
        if found.is_whole or again == _AGAIN_TIMES or time.time() - found.mtime > _JUST_NOW_S:
            return found
        time.sleep(_AGAIN_S)  # a small one is written where it stands, and may not have been whole yet
    raise AssertionError("the last try returns")


def _read(path: str, key: Key) -> _Found:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT)
    except OSError as failure:
        if isinstance(failure, FileNotFoundError | PermissionError):
            raise
        # A file system without: what is read then stays in the page cache, as with any reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        about = os.fstat(descriptor)
        size_bytes, is_whole = about.st_size, False
        if stat.S_ISREG(about.st_mode) and 0 < size_bytes <= _MOST_BYTES:
            data = _buffer(size_bytes)
            with suppress(Damaged, OSError):  # EIO: a bad sector
                is_whole = os.preadv(descriptor, [data], 0) == size_bytes and valuefile.length_in(data, key) > 0
        return _Found(size_bytes, is_whole, about.st_mtime, about.st_ino)
    finally:
        os.close(descriptor)


def _buffer(size_bytes: int) -> memoryview:
    """Memory of this thread, aligned as O_DIRECT wants it."""
    data: memoryview | None = getattr(_buffers, "data", None)
    if data is None or len(data) < size_bytes:
        data = _buffers.data = memoryview(mmap.mmap(-1, max(size_bytes, (4 << 20) + mmap.PAGESIZE)))
    return data[:size_bytes]
