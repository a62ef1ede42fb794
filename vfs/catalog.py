"""What is known of a dataset's folders, kept in SQLite between mounts.

Hides the database and when a listing is asked for again. A folder is filled whole, once, by the function that the
dataset gives; it is believed for `max_age_s` and filled again when it is asked for after that. A folder that is
known says by itself that a name is not there. Names that no directory can hold are left out, once for all sources.

A listing is written under a folder id that no path leads to yet, in batches, and takes the path when it is whole: a
folder of a million names never stands in memory, and one whose listing breaks off stays as it was. Rows that no path
leads to any more are swept away in batches.

Called by the mounted tree. Any thread may call, and the event loop may call what is said not to wait for a listing.
One connection writes and one reads, each serving all threads under its lock for one short statement or batch at a
time; what is read never waits for what is written, but in a database in memory, which has one connection. A folder is
filled outside the locks.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from vfs.database import memory_database, open_database
from vfs.errors import NotFound, SourceError, Throttled, Timeout, Unavailable
from vfs.flight import Flights
from vfs.node import Child, Kind, tag_of
from vfs.sources import ObjectInfo

log = logging.getLogger(__name__)

# Rows of one folder are read this many at a time. The event loop reads them too: 256 take it 0.2 ms.
_PAGE_ROWS = 256
# Rows written in one transaction, which takes 15 ms: so long at most does another folder's listing wait.
_BATCH_ROWS = 2048
# A listing whose next batch did not come for this long was left by a process that is no more. A store's page has 60 s.
_ABANDONED_S = 600.0
_NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux
# A listing is believed for at least this many times what it took to make: however short `max_age_s` is, a walk through
# a huge folder spends a twentieth of its time on listing it again, and does not do so at every name.
_WORTH = 20

# A folder whose space is "" has no path: it is being filled, or its rows wait to be swept away (listed_at 0).
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (
    id INTEGER PRIMARY KEY, space TEXT NOT NULL, path BLOB NOT NULL, listed_at REAL NOT NULL,
    took_s REAL NOT NULL, videos INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE (space, path));
CREATE TABLE IF NOT EXISTS entry (
    folder INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, tag INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, is_video INTEGER NOT NULL, key BLOB NOT NULL,
    version TEXT NOT NULL, target BLOB NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 3
_CHILD = "name, kind, tag, size_bytes, mtime_ns"
_ENTRY = "name, kind, size_bytes, mtime_ns, is_video, key, version, target"
# By path and not by id: between two statements a folder may be listed anew, under another id.
_IN_FOLDER = "folder = (SELECT id FROM folder WHERE space = ? AND path = ?)"
# Of a file and a folder of one name the folder stays, of two others the first.
_INSERT = f"""
INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (folder, name) DO UPDATE
    SET (kind, tag, size_bytes, mtime_ns, is_video, key, version, target) = (excluded.kind, excluded.tag,
    excluded.size_bytes, excluded.mtime_ns, excluded.is_video, excluded.key, excluded.version, excluded.target)
    WHERE excluded.kind = {Kind.DIRECTORY:d} AND entry.kind <> {Kind.DIRECTORY:d}
"""
_UNLINK = "UPDATE folder SET space = '', path = randomblob(16), listed_at = 0"
_KINDS = tuple(Kind)


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
        self._flights: Flights[str, Folder] = Flights()
        self._writing, self._reading = _open(file)
        # Held for one statement, or one transaction of at most a batch; never both.
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock() if self._reading is not self._writing else self._write_lock

    def close(self) -> None:
        """Closes the database."""
        with self._write_lock:
            self._writing.close()
        with self._read_lock:
            self._reading.close()

    # -- what is known: nothing here waits for a listing

    def known(self, path: str) -> Folder | None:
        """The folder, if its listing is known and young enough."""
        folder = self._last(path)
        return folder if folder and self._is_fresh(folder) else None

    def entry(self, folder: str, name: str) -> Entry:
        """The entry of that name in a folder that `known` or `folder` gave. Raises NotFound."""
        rows = self._rows(f"SELECT {_ENTRY} FROM entry WHERE {_IN_FOLDER} AND name = ?", folder, os.fsencode(name))
        if not rows:
            raise NotFound(f"{folder}/{name}: no such entry")
        return _entry(rows[0])

    def children(self, folder: str) -> Iterator[Child]:
        """All names of a folder that `known` or `folder` gave, in the order of their bytes.

        When the folder is listed anew meanwhile, what follows is of the new listing.
        """
        return self._pages(_CHILD, folder, "")

    def videos(self, folder: str) -> Iterator[Entry]:
        """The entries that are videos, or links to videos beside them, in order."""
        return map(_entry, self._pages(_ENTRY, folder, "AND is_video = 1"))

    def videos_of_stem(self, folder: str, stem: str) -> list[Entry]:
        """The videos whose name without its suffix is `stem`; costs the same in a folder of a million."""
        first = os.fsencode(stem) + b"."
        after = os.fsencode(stem) + b"/"  # the byte that follows the dot
        rows = self._rows(
            f"SELECT {_ENTRY} FROM entry WHERE {_IN_FOLDER} AND name >= ? AND name < ? AND is_video = 1",
            *(folder, first, after),
        )
        return [entry for entry in map(_entry, rows) if PurePosixPath(entry.name).stem == stem]

    def objects_after(self, folder: str, name: str, count: int) -> list[ObjectInfo]:
        """The first `count` files after a name, in the order of their names' bytes."""
        rows = self._rows(
            f"SELECT {_ENTRY} FROM entry WHERE {_IN_FOLDER} AND name > ? AND kind = ? ORDER BY name LIMIT ?",
            *(folder, os.fsencode(name), int(Kind.FILE), count),
        )
        return [entry.object for entry in map(_entry, rows) if entry.object is not None]

    def valid_s(self, known: Folder) -> float:
        """How much longer the folder's listing will be believed."""
        age_s = max(self.max_age_s, _WORTH * known.took_s)
        return max(0.0, known.listed_at + age_s - time.time())

    def known_bytes(self) -> int:
        """The sum of the sizes of all files in folders that have been listed."""
        rows = self._select("SELECT COALESCE(SUM(bytes), 0) FROM folder WHERE space = ?", self._space)
        return int(rows[0][0])

    def invalidate(self, path: str) -> None:
        """The folder is listed again when it is next asked for."""
        with self._transaction() as database:
            database.execute("UPDATE folder SET listed_at = 0, took_s = 0 WHERE space = ? AND path = ?", self._at(path))

    # -- filling

    def lookup(self, folder: str, name: str) -> Entry:
        """The entry of that name. Raises NotFound, and where the folder has to be filled first what filling raises."""
        self.folder(folder)
        return self.entry(folder, name)

    def folder(self, path: str) -> Folder:
        """A folder whose listing is young enough, filled if need be.

        When the store cannot be reached, a listing past its age is better than none, and is used with a warning.
        """
        if known := self.known(path):
            return known
        flight, mine = self._flights.join(path)
        if not mine:
            return self._flights.wait(flight, path)
        try:
            # Whoever filled it may have landed between the question and the flight.
            folder = self.known(path) or self._renewed(path)
        except BaseException as failure:
            self._flights.crash(path, failure)
            raise
        else:
            self._flights.land(path, folder)
        finally:
            self._sweep()
        return folder

    def _renewed(self, path: str) -> Folder:
        try:
            return self._refill(path)
        except (Timeout, Throttled, Unavailable) as failure:
            last = self._last(path)
            if last is None:
                raise
            log.warning("%s: the listing could not be renewed (%s); the known one is used", path, failure)
            return last
        except NotFound:
            with self._transaction() as database:
                database.execute(f"{_UNLINK} WHERE space = ? AND path = ?", self._at(path))
            raise

    def _refill(self, path: str) -> Folder:
        """Writes what the source lists, and lets the path lead to it when it is whole."""
        began = time.monotonic()
        refused: list[str] = []
        rows = _as_rows(self._fill(path), refused)
        offered, identity = 0, None
        try:
            while True:
                batch = list(islice(rows, _BATCH_ROWS))
                offered += len(batch)
                with self._transaction() as database:
                    identity = _staged(database, identity)
                    database.executemany(_INSERT, ((identity, *row) for row in batch))
                    if len(batch) < _BATCH_ROWS:
                        folder, count = self._publish(database, identity, path, began)
                        break
        except BaseException:
            if identity is not None:
                with self._transaction() as database:
                    database.execute(f"{_UNLINK} WHERE id = ?", (identity,))
            raise
        _warn(path, refused, offered - count)
        return folder

    def _publish(self, database: sqlite3.Connection, identity: int, path: str, began: float) -> tuple[Folder, int]:
        """Gives the path to a listing that is whole, and the number of its names with the folder."""
        database.execute(f"{_UNLINK} WHERE space = ? AND path = ?", self._at(path))
        count, videos, total = database.execute(
            "SELECT COUNT(*), COALESCE(SUM(is_video), 0), COALESCE(SUM(size_bytes) FILTER (WHERE kind = ?), 0) "
            "FROM entry WHERE folder = ?",
            (int(Kind.FILE), identity),
        ).fetchone()
        folder = Folder(time.time(), time.monotonic() - began, videos > 0)
        database.execute(
            "UPDATE folder SET (space, path, listed_at, took_s, videos, bytes) = (?, ?, ?, ?, ?, ?) WHERE id = ?",
            (*self._at(path), folder.listed_at, folder.took_s, videos, total, identity),
        )
        return folder, count

    def _sweep(self) -> None:
        """Deletes rows that no path leads to: of listings that were replaced, broke off or were left by a crash."""
        try:
            while swept := self._select(
                "SELECT id FROM folder WHERE space = '' AND listed_at < ? LIMIT 1", time.time() - _ABANDONED_S
            ):
                self._sweep_batch(swept[0][0])
        except SourceError as failure:  # whoever asked for a folder has it; the next listing sweeps again
            log.warning("old listings could not be deleted: %s", failure)

    def _sweep_batch(self, identity: int) -> None:
        with self._transaction() as database:
            cut = database.execute(
                "SELECT name FROM entry WHERE folder = ? ORDER BY name LIMIT 1 OFFSET ?", (identity, _BATCH_ROWS)
            ).fetchone()
            if cut:
                database.execute("DELETE FROM entry WHERE folder = ? AND name < ?", (identity, cut[0]))
            else:
                database.execute("DELETE FROM entry WHERE folder = ?", (identity,))
                database.execute("DELETE FROM folder WHERE id = ?", (identity,))

    # -- the database

    def _at(self, path: str) -> tuple[str, bytes]:
        return self._space, os.fsencode(path)

    def _last(self, path: str) -> Folder | None:
        """The folder as it was last listed, however long ago."""
        rows = self._select(
            "SELECT listed_at, took_s, videos FROM folder WHERE space = ? AND path = ?", *self._at(path)
        )
        return Folder(rows[0][0], rows[0][1], rows[0][2] > 0) if rows else None

    def _is_fresh(self, folder: Folder) -> bool:
        return folder.listed_at <= time.time() and self.valid_s(folder) > 0

    def _pages(self, columns: str, folder: str, condition: str) -> Iterator[tuple[Any, ...]]:
        """Rows of a folder in the order of names; the first column is the name."""
        statement = (
            f"SELECT {columns} FROM entry WHERE {_IN_FOLDER} AND name > ? {condition} ORDER BY name LIMIT {_PAGE_ROWS}"
        )
        last = b""
        while True:
            rows = self._rows(statement, folder, last)
            yield from rows
            if len(rows) < _PAGE_ROWS:
                return
            last = rows[-1][0]

    def _rows(self, statement: str, folder: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement with _IN_FOLDER first."""
        return self._select(statement, *self._at(folder), *values)

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._read_lock:
                return self._reading.execute(statement, values).fetchall()
        except sqlite3.Error as failure:
            raise self._broken(failure) from failure

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._write_lock, self._writing as database:
                database.execute("BEGIN IMMEDIATE")
                yield database
        except sqlite3.Error as failure:
            raise self._broken(failure) from failure

    def _broken(self, failure: Exception) -> SourceError:
        return SourceError(
            f"the catalog {self._file or 'in memory'} failed ({failure}): unmount, delete it, mount again"
        )


def _open(file: Path | None) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """The connection that writes and the one that reads: of a database in memory they are one."""
    if file is None:
        only = memory_database(_SCHEMA)
        return only, only
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Losing the newest listings in a power cut costs a request each.
    writing = open_database(file, _SCHEMA, _SCHEMA_VERSION)
    reading = sqlite3.connect(str(file), check_same_thread=False)
    reading.execute("PRAGMA query_only = ON")
    return writing, reading


def _staged(database: sqlite3.Connection, identity: int | None) -> int:
    """The id under which a listing is written, made if there is none yet; says that it is still being written."""
    now = time.time()
    if identity is None:
        made = database.execute("INSERT INTO folder VALUES (NULL, '', randomblob(16), ?, 0, 0, 0)", (now,)).lastrowid
        assert made is not None, "SQLite gives the id of a row that it inserted"
        return made
    if not database.execute("UPDATE folder SET listed_at = ? WHERE id = ?", (now, identity)).rowcount:
        raise Unavailable(f"the listing was given up: nothing had come for {_ABANDONED_S:.0f} s")
    return identity


def _as_rows(entries: Iterable[Entry], refused: list[str]) -> Iterator[tuple[Any, ...]]:
    """The entries as rows, without their folder. Those whose names the kernel refuses go to `refused`.

    One name with a slash in it makes the whole directory unreadable (EIO from readdir).
    """
    for entry in entries:
        name = os.fsencode(entry.name)
        if entry.name in ("", ".", "..") or b"/" in name or b"\0" in name or len(name) > _NAME_LIMIT_BYTES:
            refused.append(entry.name)
        elif entry.object is not None and entry.kind is Kind.FILE:
            obj, tag = entry.object, tag_of(Kind.FILE, entry.object.identity)
            facts = (tag, obj.size_bytes, obj.mtime_ns, entry.is_video, os.fsencode(obj.key), obj.version)
            yield name, int(Kind.FILE), *facts, b""
        else:
            target = os.fsencode(entry.target)
            yield name, int(entry.kind), tag_of(entry.kind, ""), len(target), 0, entry.is_video, b"", "", target


def _entry(row: tuple[Any, ...]) -> Entry:
    name, kind, size_bytes, mtime_ns, is_video, key, version, target = row
    found = _KINDS[kind]
    obj = ObjectInfo(os.fsdecode(key), size_bytes, mtime_ns, version) if found is Kind.FILE else None
    return Entry(os.fsdecode(name), found, obj, os.fsdecode(target), bool(is_video))


def _warn(folder: str, refused: list[str], doubles: int) -> None:
    where = folder or "the root"
    if refused:
        log.warning(
            "%s: %d entries cannot be shown (no name for a file), such as %r", where, len(refused), refused[0][:80]
        )
    if doubles:
        log.warning("%s: %d names stand twice; the folder, else the first of the two, is shown", where, doubles)
