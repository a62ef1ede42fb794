"""Emptying a cache folder, whether mounts use it or not.

Called by `egofs cache clear`. A mount that has a value's file open reads on, and one that looks for it finds nothing
and fetches it again. Rows go before files, as when a mount evicts: a row whose file is gone would be counted for good.
What is made of datasets (the demo, merged LMDBs) and logs stay.
"""

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from vfs import diskcare, valuefolder
from vfs.database import remove_unused
from vfs.diskcare import ARCHIVES, CATALOG, INDEX, OBJECTS, YOUNG_S, CacheFailed, CacheInUse, Progress

_BATCH = 500  # rows of one transaction, which takes some 5 ms
_INDEX_SUFFIXES = (".index", ".making")


@dataclass
class Gone:
    """What was removed."""

    files: int = 0
    bytes: int = 0


def clear(cache: Path, *, before: float | None, in_use: bool, on_progress: Progress = lambda files, size: None) -> Gone:
    """Removes all values, or those that were used last `before` a time of the epoch.

    Raises CacheFailed; CacheInUse where the accounting is damaged and mounts have it open.
    """
    gone = Gone()
    objects = cache / OBJECTS
    try:
        if not objects.is_dir():
            return gone
        diskcare.replace_databases(cache, diskcare.damaged_databases(cache, INDEX), in_use)
        with closing(valuefolder.open_index(objects)) as database:
            for rows in _batches(database, before):
                valuefolder.remove(database, [row[:2] for row in rows])
                for row in rows:
                    _count(gone, diskcare.unlink(valuefolder.path_of(objects, row[:2])), on_progress)
            _clear_uncounted(objects, database, before, gone, on_progress)
            # Values that a mount wrote anew, and counted when they had just been removed.
            for keys in diskcare.lost(objects, database):
                valuefolder.remove(database, keys)
    except (OSError, sqlite3.Error) as failure:
        raise CacheFailed(f"{cache}: {failure}") from failure
    return gone


def clear_listings(cache: Path) -> Gone:
    """Removes what is known of datasets' folders and archives. Raises CacheFailed, CacheInUse."""
    gone = Gone()
    try:
        for file in (cache / CATALOG, cache / f"{CATALOG}.damaged"):
            if stat.S_ISREG(diskcare.mode_of(file)):
                _count(gone, remove_unused(file))
        for path in _indices(cache / ARCHIVES):
            _count(gone, diskcare.unlink(path))
    except BlockingIOError as failure:
        raise CacheInUse(
            f"{cache}: mounts have its listings open: umount them, or have one forget what it knows: egofs invalidate"
        ) from failure
    except (OSError, sqlite3.Error) as failure:
        raise CacheFailed(f"{cache}: {failure}") from failure
    return gone


def _batches(database: sqlite3.Connection, before: float | None) -> Iterator[list[valuefolder.Row]]:
    """Rows to be removed. All are taken by key, each once: a mount that goes on keeping would have this never end."""
    if before is None:
        yield from map(list, valuefolder.pages(database, _BATCH))
        return
    while rows := valuefolder.oldest(database, _BATCH, int(before)):
        yield rows


def _clear_uncounted(
    objects: Path, database: sqlite3.Connection, before: float | None, gone: Gone, on_progress: Progress
) -> None:
    """Removes what has no row, and is too old for a mount to be writing it."""
    until = time.time() - YOUNG_S if before is None else min(before, time.time() - YOUNG_S)
    for place in diskcare.folders(objects):
        for entry in diskcare.entries_of(place):
            key = valuefolder.key_of(entry.name)
            is_ours = valuefolder.is_unfinished(entry.name) or (
                key is not None and valuefolder.counted_bytes(database, key) is None
            )
            with suppress(FileNotFoundError):
                if is_ours and entry.stat(follow_symlinks=False).st_mtime < until:
                    _count(gone, diskcare.unlink(entry.path), on_progress)


def _indices(archives: Path) -> Iterator[str]:
    if not stat.S_ISDIR(diskcare.mode_of(archives)):
        return
    for place in diskcare.entries_of(archives):
        if place.is_dir(follow_symlinks=False) and len(place.name) == 2:
            yield from (
                file.path for file in diskcare.entries_of(Path(place.path)) if file.name.endswith(_INDEX_SUFFIXES)
            )


def _count(gone: Gone, size_bytes: int | None, on_progress: Progress = lambda files, size: None) -> None:
    if size_bytes is not None:
        gone.files += 1
        gone.bytes += size_bytes
        on_progress(1, size_bytes)
