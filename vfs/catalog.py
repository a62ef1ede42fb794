"""What is known of a dataset's folders, kept in SQLite between mounts.

Hides the database and when a listing is asked for again. A folder is filled whole, once, by the function that the
dataset gives; it is believed for `max_age_s` and filled again when it is asked for after that. A folder that is
known says by itself that a name is not there. Names that no directory can hold are left out, once for all sources.

Called by the mounted tree. Any thread may call. One connection serves all threads under `_lock`, for one short
statement at a time; a folder is filled outside it.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vfs.errors import NotFound, SourceError, Throttled, Timeout, Unavailable
from vfs.flight import Flights
from vfs.node import Kind
from vfs.sources import ObjectInfo

log = logging.getLogger(__name__)

# Rows of one folder are read this many at a time: a folder of a million names never stands in memory whole.
_PAGE_ROWS = 1000
_NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux
# A listing is believed for at least this many times what it took to make: however short `max_age_s` is, a walk through
# a huge folder spends a twentieth of its time on listing it again, and does not do so at every name.
_WORTH = 20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (
    id INTEGER PRIMARY KEY, space TEXT NOT NULL, path BLOB NOT NULL, listed_at REAL NOT NULL,
    took_s REAL NOT NULL, videos INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE (space, path));
CREATE TABLE IF NOT EXISTS entry (
    folder INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, is_video INTEGER NOT NULL,
    key BLOB NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, version TEXT NOT NULL,
    target BLOB NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 2
_COLUMNS = "name, kind, is_video, key, size_bytes, mtime_ns, version, target"
_KINDS = (Kind.DIRECTORY, Kind.FILE, Kind.LINK)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder of the mounted tree. A file has an object; a link a target; `is_video` gives it frames."""

    name: str
    kind: Kind
    object: ObjectInfo | None = None
    target: str = ""
    is_video: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose names are known: since when (`time.time`), and whether videos stand in it."""

    id: int
    listed_at: float
    took_s: float
    has_videos: bool


class Catalog:
    """The known folders of one space (one source as one dataset with its options shows it)."""

    def __init__(self, file: Path | None, space: str, fill: Callable[[str], Iterable[Entry]], max_age_s: float) -> None:
        """`file` is the database, or None to remember nothing after close. `fill` raises NotFound and source errors."""
        self.max_age_s = max_age_s
        self._space = space
        self._fill = fill
        self._file = file
        self._lock = threading.Lock()
        self._flights: Flights[str, Folder] = Flights()
        self._database = _open(file)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._database.close()

    def lookup(self, folder: str, name: str) -> Entry:
        """The entry of that name. Raises NotFound, and where the folder has to be filled first what filling raises."""
        return self.entry_in(self.folder(folder), folder, name)

    def entry_in(self, known: Folder, folder: str, name: str) -> Entry:
        """`lookup` in a folder that `folder()` gave."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM entry WHERE folder = ? AND name = ?", (known.id, os.fsencode(name)))
        if not rows:
            raise NotFound(f"{folder}/{name}: no such entry")
        return _entry(rows[0])

    def entries(self, folder: str) -> Iterator[Entry]:
        """All entries of a folder in the order of their names' bytes. Raises what `lookup` raises."""
        return self._pages(self.folder(folder).id, "")

    def videos(self, folder: str) -> Iterator[Entry]:
        """The entries that are videos, or links to videos beside them, in order."""
        return self._pages(self.folder(folder).id, "AND is_video = 1")

    def videos_of_stem(self, folder: str, stem: str) -> list[Entry]:
        """The videos whose name without its suffix is `stem`; costs the same in a folder of a million."""
        first = os.fsencode(stem) + b"."
        after = os.fsencode(stem) + b"/"  # the byte that follows the dot
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM entry WHERE folder = ? AND name >= ? AND name < ? AND is_video = 1",
            (self.folder(folder).id, first, after),
        )
        return [entry for entry in map(_entry, rows) if PurePosixPath(entry.name).stem == stem]

    def folder(self, path: str) -> Folder:
        """A folder whose listing is young enough, filled if need be.

        When the store cannot be reached, a listing past its age is better than none, and is used with a warning.
        """
        known = self._known(path)
        if known and known.listed_at <= time.time() and self.valid_s(known):
            return known
        flight, mine = self._flights.join(path)
        if not mine:
            return self._flights.wait(flight, path)
        try:
            try:
                known = self._refill(path)
            except (Timeout, Throttled, Unavailable) as failure:
                if known is None:
                    raise
                log.warning("%s: the listing could not be renewed (%s); the known one is used", path, failure)
            except NotFound:
                if known is not None:
                    self._forget(known)
                raise
        except BaseException as failure:
            self._flights.crash(path, failure)
            raise
        self._flights.land(path, known)
        return known

    def valid_s(self, known: Folder) -> float:
        """How much longer the folder's listing will be believed."""
        age_s = max(self.max_age_s, _WORTH * known.took_s)
        return max(0.0, known.listed_at + age_s - time.time())

    def invalidate(self, path: str) -> None:
        """The folder is listed again when it is next asked for."""
        self._write(
            "UPDATE folder SET listed_at = 0, took_s = 0 WHERE space = ? AND path = ?", (self._space, os.fsencode(path))
        )

    def known_bytes(self) -> int:
        """The sum of the sizes of all files in folders that have been listed."""
        rows = self._rows("SELECT COALESCE(SUM(bytes), 0) FROM folder WHERE space = ?", (self._space,))
        return int(rows[0][0])

    # -- filling

    def _refill(self, path: str) -> Folder:
        began = time.monotonic()
        entries = _usable(path, self._fill(path))
        videos = sum(entry.is_video for entry in entries.values())
        total = sum(entry.object.size_bytes for entry in entries.values() if entry.object)
        where = (self._space, os.fsencode(path))
        with self._transaction() as database:
            database.execute(
                "INSERT INTO folder (space, path, listed_at, took_s, videos, bytes) VALUES (?, ?, 0, 0, ?, ?) "
                "ON CONFLICT (space, path) DO UPDATE SET (videos, bytes) = (excluded.videos, excluded.bytes)",
                (*where, videos, total),
            )
            identity = database.execute("SELECT id FROM folder WHERE space = ? AND path = ?", where).fetchone()[0]
            database.execute("DELETE FROM entry WHERE folder = ?", (identity,))
            database.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((identity, *_row(entry)) for entry in entries.values()),
            )
            now, took_s = time.time(), time.monotonic() - began
            database.execute("UPDATE folder SET listed_at = ?, took_s = ? WHERE id = ?", (now, took_s, identity))
        return Folder(identity, now, took_s, videos > 0)

    def _forget(self, known: Folder) -> None:
        self._write("DELETE FROM entry WHERE folder = ?", (known.id,))
        self._write("DELETE FROM folder WHERE id = ?", (known.id,))

    # -- the database

    def _known(self, path: str) -> Folder | None:
        rows = self._rows(
            "SELECT id, listed_at, took_s, videos FROM folder WHERE space = ? AND path = ?",
            (self._space, os.fsencode(path)),
        )
        return Folder(rows[0][0], rows[0][1], rows[0][2], rows[0][3] > 0) if rows else None

    def _pages(self, identity: int, condition: str) -> Iterator[Entry]:
        last = b""
        while True:
            rows = self._rows(
                f"SELECT {_COLUMNS} FROM entry WHERE folder = ? AND name > ? {condition} ORDER BY name LIMIT ?",
                (identity, last, _PAGE_ROWS),
            )
            yield from map(_entry, rows)
            if len(rows) < _PAGE_ROWS:
                return
            last = rows[-1][0]

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as failure:
            raise self._broken(failure) from failure

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._transaction() as database:
            database.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._database as database:
                yield database
        except sqlite3.Error as failure:
            raise self._broken(failure) from failure

    def _broken(self, failure: Exception) -> SourceError:
        return SourceError(
            f"the catalog {self._file or 'in memory'} failed ({failure}): unmount, delete it, mount again"
        )


def _open(file: Path | None) -> sqlite3.Connection:
    if file is None:
        return _prepare(":memory:")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _prepare(str(file))
    except sqlite3.DatabaseError as failure:
        log.warning("the catalog %s cannot be used (%s); it is made anew", file, failure)
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        return _prepare(str(file))


def _prepare(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, check_same_thread=False, timeout=20.0)
    try:
        # Losing the newest listings in a power cut costs a request each; waiting for the disk would cost every listing.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema {version}, not {_SCHEMA_VERSION}")
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _row(entry: Entry) -> tuple[Any, ...]:
    obj = entry.object or ObjectInfo("", 0, 0, "")
    return (
        os.fsencode(entry.name),
        _KINDS.index(entry.kind),
        entry.is_video,
        os.fsencode(obj.key),
        obj.size_bytes,
        obj.mtime_ns,
        obj.version,
        os.fsencode(entry.target),
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    name, kind, is_video, key, size_bytes, mtime_ns, version, target = row
    found = _KINDS[kind]
    obj = ObjectInfo(os.fsdecode(key), size_bytes, mtime_ns, version) if found is Kind.FILE else None
    return Entry(os.fsdecode(name), found, obj, os.fsdecode(target), bool(is_video))


def _usable(folder: str, entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entries by name, without names that the kernel refuses.

    One name with a slash in it makes the whole directory unreadable (EIO from readdir), so such names are left out,
    and of two entries of one name the folder, else the first, is kept.
    """
    usable: dict[str, Entry] = {}
    refused: list[str] = []
    for entry in entries:
        name = os.fsencode(entry.name)
        bad = entry.name in ("", ".", "..") or b"/" in name or b"\0" in name or len(name) > _NAME_LIMIT_BYTES
        other = usable.get(entry.name)
        if bad or (other and not (entry.kind is Kind.DIRECTORY and other.kind is not Kind.DIRECTORY)):
            refused.append(entry.name)
        else:
            if other:
                refused.append(entry.name)
            usable[entry.name] = entry
    if refused:
        log.warning(
            "%s: %d entries cannot be shown (no file system name, or a name twice), such as %r",
            folder or "the root",
            len(refused),
            refused[0][:80],
        )
    return usable
