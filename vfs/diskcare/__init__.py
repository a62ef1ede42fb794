"""A cache folder as it is looked after from outside: what is in it, whether that is whole, and emptying it.

Hides where in the folder what stands, which files may ever be removed, and how that is done while mounts use them.
Called by `egofs cache` and `egofs doctor`; knows nothing of mounts, but is told whether some use the folder. It works
through the folder alone, as any process that shares it does (disk.py): rows are taken away in short transactions, and
files may go at any time. verify.py compares what is there with its checksums, clear.py removes.

Nothing is removed but files whose names are those of values, unfinished values and indices of archives, in folders
whose names are those that we make, none of them a link, and databases by name. Whose bytes a value has cannot be told
from outside: its name is a digest.

Any thread may call. Progress is told in the thread that called; what that raises ends the work, as Ctrl-C does.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from vfs import catalog, valuefolder
from vfs.database import open_to_look, set_aside
from vfs.errors import EgofsError, OptionError
from vfs.valuefile import Key

OBJECTS, CATALOG, ARCHIVES = "objects", "catalog.sqlite", "archives"
INDEX = f"{OBJECTS}/{valuefolder.DATABASE}"
"""The accounting of values."""
_DATASETS, _DEMO, _LOGS = "datasets", "demo", "log"

YOUNG_S = 60.0
"""A file so young may be one that a mount is writing, or has written and not counted yet."""

Progress = Callable[[int, int], None]
"""Told how many files have been dealt with since the last time, and how many bytes."""


class CacheFailed(EgofsError):
    """The cache folder could not be read or written."""


class CacheInUse(EgofsError):
    """A mount uses what was to be removed."""


def checked(folder: Path, *, writing: bool) -> Path:
    """The folder by its real path, where it is a cache of ours that we may look after.

    Raises OptionError, one line, for what is none, is another user's, or is to be written on a disk that is read-only.
    """
    place = Path(os.path.realpath(folder.expanduser()))
    try:
        about = place.stat()
        if not stat.S_ISDIR(about.st_mode):
            raise OptionError(f"{place}: not a folder, so not a cache: name one with --cache-dir")
        if os.geteuid() not in (0, about.st_uid):
            raise OptionError(f"{place}: a cache of uid {about.st_uid}: ask as that user, or as root")
        if not any(stat.S_ISREG(mode_of(file)) for file in (place / INDEX, place / CATALOG)):
            raise OptionError(f"{place}: no cache of egofs: it has neither {INDEX} nor {CATALOG}")
        for inner in (place / OBJECTS, place / ARCHIVES):
            if stat.S_ISLNK(mode_of(inner)):
                raise OptionError(f"{inner}: a link, which is not followed: make all of the cache the link instead")
        if writing and os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OptionError(f"{place}: its disk is read-only: nothing can be changed there")
    except FileNotFoundError:
        raise OptionError(f"{place}: there is no cache: nothing has been kept there yet") from None
    except OSError as failure:
        raise OptionError(f"{place}: {failure.strerror}: ask as its owner, or as root") from failure
    return place


# -- what there is


def facts(cache: Path) -> dict[str, Any]:
    """What the folder has: bytes, files and ages by part, and what its disk has left."""
    disk = os.statvfs(cache)
    return {
        "folder": str(cache),
        "values": about_values(cache),
        "catalog": _about_catalog(cache / CATALOG),
        "archives": _about_files(cache / ARCHIVES),
        "datasets": _about_files(cache / _DATASETS),
        "demo": _about_files(cache / _DEMO),
        "logs": _about_files(cache / _LOGS),
        "disk": {
            "total_bytes": disk.f_blocks * disk.f_frsize,
            "free_bytes": disk.f_bavail * disk.f_frsize,
            "reserved_bytes": valuefolder.reserve_bytes(disk),
            "read_only": bool(disk.f_flag & os.ST_RDONLY),
        },
    }


def about_values(cache: Path) -> dict[str, Any]:
    """How many values are counted, their bytes, and when they were used."""
    question = "SELECT COUNT(*), COALESCE(SUM(file_bytes), 0), MIN(used_at), MAX(used_at) FROM value"
    row, trouble = asked(cache / INDEX, lambda database: database.execute(question).fetchone(), (0, 0, None, None))
    files, size_bytes, oldest, newest = row
    return {
        "files": files,
        "used_bytes": size_bytes,
        "database_bytes": _size_with_log(cache / INDEX),
        "oldest_use": oldest,
        "newest_use": newest,
        "trouble": trouble,
    }


def _about_catalog(file: Path) -> dict[str, Any]:
    (spaces, folders, entries), trouble = asked(file, catalog.known_in, (0, 0, 0))
    return {
        "bytes": _size_with_log(file),
        "datasets": spaces,
        "folders": folders,
        "entries": entries,
        "trouble": trouble,
    }


def asked(
    file: Path, question: Callable[[sqlite3.Connection], tuple[Any, ...]], otherwise: tuple[Any, ...]
) -> tuple[tuple[Any, ...], str]:
    """What a database answers, and "" or why it does not; it need not be there."""
    if not file.exists():
        return otherwise, ""
    try:
        with closing(open_to_look(file)) as database:
            return question(database), ""
    except sqlite3.Error as failure:
        return otherwise, str(failure)


def _about_files(folder: Path) -> dict[str, int]:
    count = size_bytes = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size_bytes += os.lstat(os.path.join(base, name)).st_blocks * 512
                count += 1
    return {"files": count, "bytes": size_bytes}


def _size_with_log(file: Path) -> int:
    total = 0
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            total += os.lstat(f"{file}{suffix}").st_size
    return total


# -- files


def entries_of(place: Path) -> list["os.DirEntry[str]"]:
    """What stands in a folder; nothing where it is gone."""
    with suppress(FileNotFoundError), os.scandir(place) as entries:
        return list(entries)
    return []


def mode_of(path: Path) -> int:
    """A file's kind and permissions, of a link its own; 0 where nothing is there."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def folders(objects: Path) -> Iterator[Path]:
    """The folders that values stand in."""
    for number in range(valuefolder.FOLDERS):
        place = objects / valuefolder.folder_name(number)
        if stat.S_ISDIR(mode_of(place)):
            yield place


def lost(objects: Path, database: sqlite3.Connection) -> Iterator[list[Key]]:
    """Rows whose files are not there, some at a time."""
    for page in valuefolder.pages(database):
        gone = [row[:2] for row in page if not os.path.exists(valuefolder.path_of(objects, row[:2]))]
        # A mount that evicts takes away the row and then the file: by now both are gone.
        yield [key for key in gone if valuefolder.counted_bytes(database, key) is not None]


def damaged_databases(cache: Path, *names: str) -> dict[str, str]:
    """What SQLite says of those of these databases that are damaged. Reads them whole."""
    found = {}

    def check(database: sqlite3.Connection) -> tuple[str]:
        said: tuple[str] = database.execute("PRAGMA quick_check(1)").fetchone()
        return said

    for name in names:
        said, trouble = asked(cache / name, check, ("ok",))
        if trouble or said != ("ok",):
            found[name] = trouble or " ".join(str(said[0]).split())
    return found


def replace_databases(cache: Path, damaged: dict[str, str], in_use: bool) -> None:
    """Sets damaged databases aside. Raises CacheInUse where mounts may have them open: they would go on with those."""
    if damaged and in_use:
        raise CacheInUse(
            f"{cache}: {', '.join(damaged)} cannot be read, and mounts have it open: umount them, then verify --repair"
        )
    for name, said in damaged.items():
        set_aside(cache / name, sqlite3.DatabaseError(said))


def unlink(path: str) -> int | None:
    """The bytes of a regular file that is gone now; None where there was none."""
    try:
        about = os.lstat(path)
        if not stat.S_ISREG(about.st_mode):
            return None
        os.unlink(path)
    except FileNotFoundError:
        return None
    return about.st_size
