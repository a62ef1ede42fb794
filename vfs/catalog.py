"""What is known of a dataset's folders, kept in SQLite between mounts.

Hides the database and when a listing is asked for again. A folder is filled whole, once, by the function that the
dataset gives; it is believed for `max_age_s` and filled again when it is asked for after that. A folder that is
known says by itself that a name is not there. Names that no directory can hold are left out, once for all sources.

A listing is written under a folder id that no path leads to yet, in batches, and takes the path when it is whole: a
folder of a million names never stands in memory, and one whose listing breaks off stays as it was. Rows that no path
leads to any more are swept away in batches. A dataset that gives its whole tree at once (`Tree`) has it written in the
same way, all folders under paths that nobody asks for, which become their own together. What it gives packed
(`Packed`) is kept so, and written as a tree of its own when something there is first asked for.

A file may have a size that nobody has asked the store for (vfs.sources.UNKNOWN_SIZE); `learn` takes it once known.

Called by the mounted tree. Any thread may call, and the event loop may call what is said not to wait for a listing.
One connection writes and one reads, each serving all threads under its lock for one short statement or batch at a
time; what is read never waits for what is written, but in a database in memory, which has one connection. A folder is
filled outside the locks.
"""

import gc
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from vfs.database import is_busy, is_damage, memory_database, open_database, set_aside
from vfs.errors import NotFound, SourceError, Throttled, Timeout, Unavailable
from vfs.flight import Flights
from vfs.node import Child, Kind, tag_of
from vfs.sources import ObjectInfo

log = logging.getLogger(__name__)

# Rows of one folder are read this many at a time. The event loop reads them too: 256 take it 0.2 ms.
_PAGE_ROWS = 256
# Rows written in one transaction, which takes 15 ms: so long at most does another folder's listing wait.
_BATCH_ROWS = 2048
# The same of a whole tree, whose entries may come in any order: of 60,000 folders few pages are written twice.
_TREE_BATCH_ROWS = 8 * _BATCH_ROWS
# A listing whose next batch did not come for this long was left by a process that is no more. A store's page has 60 s.
_ABANDONED_S = 600.0
_NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux
_LARGEST = (1 << 63) - 1  # of SQLite's integers, and of what stat can tell of a size or a time
# In front of the path of a folder of a tree that is not whole yet.
_TOKEN_BYTES = 16
_GIVEN_UP = f"the listing was given up: nothing had come for {_ABANDONED_S:.0f} s"
# A listing is believed for at least this many times what it took to make: however short `max_age_s` is, a walk through
# a huge folder spends a twentieth of its time on listing it again, and does not do so at every name.
_WORTH = 20

# A folder whose space is "" has no path: it is being filled, or its rows wait to be swept away (listed_at 0).
# `unversioned` counts its files whose versions the listing did not tell, `changes` what has been learnt of them that
# was told otherwise before. A folder that has rows in `packed` has none in `entry`, and no folders below it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (
    id INTEGER PRIMARY KEY, space TEXT NOT NULL, path BLOB NOT NULL, listed_at REAL NOT NULL,
    took_s REAL NOT NULL, videos INTEGER NOT NULL, bytes INTEGER NOT NULL, unversioned INTEGER NOT NULL,
    changes INTEGER NOT NULL, of_tree INTEGER NOT NULL, UNIQUE (space, path));
CREATE TABLE IF NOT EXISTS packed (folder INTEGER NOT NULL, data BLOB NOT NULL, size_bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS packed_of_folder ON packed (folder);
CREATE TABLE IF NOT EXISTS entry (
    folder INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, tag INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, is_video INTEGER NOT NULL, key BLOB NOT NULL,
    version TEXT NOT NULL, target BLOB NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 5
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
_OUTDATE = "UPDATE folder SET listed_at = 0, took_s = 0 WHERE space = ?"
_STAGE = "INSERT INTO folder VALUES (?, '', ?, ?, 0, 0, 0, 0, 0, 0)"
# What is told of a folder by its entries. SUM fails where a sum has more than 63 bits, which is for the store to say.
_SUMS = f"""
SELECT COALESCE(SUM(is_video), 0),
    CAST(TOTAL(size_bytes) FILTER (WHERE kind = {Kind.FILE:d} AND size_bytes >= 0) AS INTEGER),
    COUNT(*) FILTER (WHERE kind = {Kind.FILE:d} AND version = '')
FROM entry WHERE folder = """
_IS_PACKED = "EXISTS (SELECT 1 FROM packed WHERE packed.folder = folder.id)"
_KINDS = tuple(Kind)
_FILE = int(Kind.FILE)
# What os.fsencode looks up each time, which took a tenth of writing a tree.
_FILE_NAMES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder of the mounted tree. A file has an object; a link a target; `is_video` gives it frames."""

    name: str
    kind: Kind
    object: ObjectInfo | None = None
    target: str = ""
    is_video: bool = False


class Packed(NamedTuple):
    """Some of what stands in a folder and all folders below it, in a form that the dataset's `unpack` understands.

    All of what stands there comes packed, in as many pieces as it may be; of what is packed nothing is packed again.
    """

    data: bytes
    size_bytes: int
    """The sum of the sizes of its files, as far as they are known."""


@dataclass(frozen=True)
class Tree:
    """Every entry of the dataset at once, where one folder cannot be known without all."""

    entries: Iterator[tuple[str, Entry | Packed]]
    """Each with its folder, in any order. Folders are made from these paths: every part of them is a directory."""


Unpack: TypeAlias = Callable[[Iterable[bytes]], Iterable[tuple[str, Entry]]]
"""All pieces of a folder as entries, each with its folder, whose path begins below that one ("" is that one)."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose names are known: since when (`time.time`), and whether videos stand in it.

    `is_told`: the listing told the versions of all its files. `changes` is another number whenever a file turned out
    not to be what was told of it. `of_tree`: it came with all others.
    """

    listed_at: float
    took_s: float
    has_videos: bool
    is_told: bool = True
    changes: int = 0
    of_tree: bool = False


class Lost(Unavailable):
    """What was known is not any more: the database was damaged, or its disk failed. It is asked for anew."""


class Catalog:
    """The known folders of one space (one source as one dataset with its options shows it)."""

    def __init__(
        self,
        file: Path | None,
        space: str,
        fill: Callable[[str], Iterable[Entry] | Tree],
        max_age_s: float,
        unpack: Unpack = lambda pieces: (),
    ) -> None:
        """`file` is the database, or None to remember nothing after close. `fill` raises NotFound and source errors.
        `unpack` is for what a Tree has packed, maybe in another process."""
        self.max_age_s = max_age_s
        self._space = space
        self._fill = fill
        self._unpack = unpack
        self._file = file
        self._flights: Flights[str, Folder] = Flights()
        self._trees: Flights[str, None] = Flights()
        self._sweeper: threading.Thread | None = None
        self._closed = False
        self._writing, self._reading = _open(file)
        self._generation = 0
        """How often all that was known was lost; written with both locks held."""
        # Held while something is unpacked, so that nobody does it twice; outside the other two.
        self._unpack_lock = threading.Lock()
        # Held for one statement, or one transaction of at most a batch; never both.
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock() if self._reading is not self._writing else self._write_lock

    def close(self) -> None:
        """Closes the database."""
        self._closed = True
        with self._write_lock:
            self._writing.close()
        with self._read_lock:
            self._reading.close()

    # -- what is known: nothing here waits for a listing

    def known(self, path: str) -> Folder | None:
        """The folder, if its listing is known and young enough."""
        try:
            folder = self._there(path)
        except Lost:
            return None
        return folder if folder and self._is_fresh(folder) else None

    def entry(self, folder: str, name: str) -> Entry:
        """The entry of that name in a folder that `known` or `folder` gave. Raises NotFound."""
        rows = self._rows(f"SELECT {_ENTRY} FROM entry WHERE {_IN_FOLDER} AND name = ?", folder, os.fsencode(name))
        if not rows:
            self._require_kept(folder)
            raise NotFound(f"{folder}/{name}: no such entry")
        return _entry(rows[0])

    def children(self, folder: str) -> Iterator[Child]:
        """All names of a folder that `known` or `folder` gave, in the order of their bytes.

        When the folder is listed anew meanwhile, what follows is of the new listing.
        """
        return self._pages(_CHILD, folder, "")

    def entries(self, folder: str) -> Iterator[Entry]:
        """The entries behind `children`, in the same order."""
        return map(_entry, self._pages(_ENTRY, folder, ""))

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
        """The first `count` files of known size after a name, in the order of their names' bytes."""
        rows = self._rows(
            f"SELECT {_ENTRY} FROM entry WHERE {_IN_FOLDER} AND name > ? AND kind = ? AND size_bytes >= 0 "
            "ORDER BY name LIMIT ?",
            *(folder, os.fsencode(name), int(Kind.FILE), count),
        )
        return [entry.object for entry in map(_entry, rows) if entry.object is not None]

    def unsized(self, folder: str, after: str = "") -> Iterator[tuple[str, str]]:
        """The names after another whose sizes are not known, in order, each with the key of its object."""
        condition = f"AND size_bytes < 0 AND kind = {Kind.FILE:d}"
        for name, key in self._pages("name, key", folder, condition, os.fsencode(after)):
            yield os.fsdecode(name), os.fsdecode(key)

    def names_of(self, folder: str, key: str) -> list[str]:
        """The names that an object has in a folder; looks at all of them."""
        rows = self._rows(f"SELECT name FROM entry WHERE {_IN_FOLDER} AND key = ?", folder, os.fsencode(key))
        return [os.fsdecode(name) for (name,) in rows]

    def valid_s(self, known: Folder) -> float:
        """How much longer the folder's listing will be believed."""
        age_s = max(self.max_age_s, _WORTH * known.took_s)
        return max(0.0, known.listed_at + age_s - time.time())

    def is_told(self, folder: str) -> bool:
        """Whether the folder's listing, however old, told the versions of all its files."""
        last = self._last(folder)
        return last is None or last.is_told

    def known_bytes(self) -> int:
        """The sum of the sizes of all files in folders that have been listed."""
        rows = self._select("SELECT CAST(TOTAL(bytes) AS INTEGER) FROM folder WHERE space = ?", self._space)
        return int(rows[0][0])

    def oldest_listing(self) -> float | None:
        """When the oldest of the listings was made (`time.time`); None where nothing has been listed. What a walk
        through many folders left counts, believed or not."""
        rows = self._select("SELECT MIN(listed_at) FROM folder WHERE space = ?", self._space)
        return None if rows[0][0] is None else float(rows[0][0])

    def learn(
        self, folder: str, found: Iterable[tuple[str, str, ObjectInfo | None]], before: ObjectInfo | None = None
    ) -> None:
        """Writes what the store told of files whose sizes were not known, or that were `before`: for a name and its
        key the object as it is, or None where it is not there: then the name is not there either.

        What was written meanwhile by others stays.
        """
        told = None if before is None else tag_of(Kind.FILE, before.identity)
        rest = iter(found)
        while batch := list(islice(rest, _BATCH_ROWS)):
            with self._transaction() as database:
                _learn(database, self._at(folder), batch, told)

    def invalidate(self, path: str) -> int:
        """The folder is listed again when it is next asked for. Gives whether it was known, as 0 or 1."""
        with self._transaction() as database:
            return database.execute(f"{_OUTDATE} AND path = ?", self._at(path)).rowcount

    def invalidate_below(self, path: str) -> int:
        """The same of the folder and all folders below it, "" being all there are. Gives how many were known."""
        with self._transaction() as database:
            if not path:
                return database.execute(_OUTDATE, (self._space,)).rowcount
            space, first = self._at(path)
            after = first + b"0"  # the byte that follows the slash
            return database.execute(
                f"{_OUTDATE} AND (path = ? OR (path > ? AND path < ?))", (space, first, first + b"/", after)
            ).rowcount

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
        self._require_in_tree(path)
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
            with suppress(Lost):
                return self._refill(path)
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
        root = self._last("")
        if root is not None and root.of_tree:
            return self._of_tree(path, lambda: self._fill(path))
        filling = self._fill(path)
        if isinstance(filling, Tree):
            return self._of_tree(path, lambda: filling)
        return self._write(path, filling, began)

    def _write(self, path: str, filling: Iterable[Entry], began: float) -> Folder:
        refused: list[str] = []
        rows = _as_rows(filling, refused)
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
        count = database.execute("SELECT COUNT(*) FROM entry WHERE folder = ?", (identity,)).fetchone()[0]
        videos, total, unversioned = database.execute(f"{_SUMS} ?", (identity,)).fetchone()
        folder = Folder(time.time(), time.monotonic() - began, videos > 0, unversioned == 0)
        database.execute(
            "UPDATE folder SET (space, path, listed_at, took_s, videos, bytes, unversioned) = (?, ?, ?, ?, ?, ?, ?) "
            "WHERE id = ?",
            (*self._at(path), folder.listed_at, folder.took_s, videos, total, unversioned, identity),
        )
        return folder, count

    # -- a dataset that gives its whole tree

    def _require_in_tree(self, path: str) -> None:
        """Raises NotFound for a folder that a tree which may still be believed does not have."""
        root = self.known("")
        if root is not None and root.of_tree and self._last(path) is None:
            raise NotFound(f"{path}: no such folder")

    def _of_tree(self, path: str, fill: Callable[[], Iterable[Entry] | Tree]) -> Folder:
        """A folder of a tree that is filled whole, whichever of its folders is asked for."""
        flight, mine = self._trees.join("")
        if not mine:
            self._trees.wait(flight, path)
        else:
            try:
                # Whoever filled it may have landed between the question and the flight.
                if self.known(path) is None:
                    self._require_in_tree(path)
                    self._write_tree(path, fill())
            except BaseException as failure:
                self._trees.crash("", failure)
                raise
            else:
                self._trees.land("", None)
        folder = self._last(path)
        if folder is None:
            raise NotFound(f"{path}: no such folder")
        return folder

    def _write_tree(self, path: str, filling: Iterable[Entry] | Tree) -> None:
        """Writes all folders, and lets their paths lead to them when they are whole."""
        began = time.monotonic()
        if not isinstance(filling, Tree):  # a newer release of the dataset's module has folders
            self._write(path, filling, began)
            return
        try:
            self._stage("", filling.entries, lambda staging, database: staging.publish(database, self._space, began))
        finally:
            # To delete what it replaced takes about as long as it did, and nobody should wait for that.
            self._sweeper = threading.Thread(target=self._delete_old, name="sweeper", daemon=True)
            self._sweeper.start()

    def _stage(
        self,
        top: str,
        entries: Iterable[tuple[str, Entry | Packed]],
        publish: "Callable[[_Staging, sqlite3.Connection], None]",
    ) -> None:
        """Writes the entries of a tree whose root is the folder `top`, and publishes it when it is whole."""
        staging, rest = _Staging(top), iter(entries)
        collects = gc.isenabled()
        gc.disable()  # nothing here is in cycles, and to look for them took a tenth of the time
        try:
            while True:
                some = list(islice(rest, _TREE_BATCH_ROWS))
                batch, is_last = staging.rows_of(some), len(some) < _TREE_BATCH_ROWS
                del some
                with self._transaction() as database:
                    staging.write(database, batch)
                    if is_last:
                        doubles = staging.doubles(database)
                        publish(staging, database)
                        break
        except BaseException:
            with self._transaction() as database:
                staging.give_up(database)
            raise
        finally:
            if collects:
                gc.enable()
        _warn(top, staging.refused, doubles)

    def _unpack_at(self, path: str) -> None:
        """Makes a tree of what is packed at or above a path."""
        if self._packed_at(path):
            with self._unpack_lock:
                while found := self._packed_at(path):
                    self._unpack_folder(*found[0])

    def _packed_at(self, path: str) -> list[tuple[int, bytes]]:
        """Id and path of the folder that is packed with all that stands at or below a path, if there is one."""
        steps = path.split("/")
        above = [os.fsencode("/".join(steps[:count])) for count in range(1, len(steps) + 1)]
        return self._select(
            f"SELECT id, path FROM folder WHERE space = ? AND {_IS_PACKED} AND path IN ({', '.join('?' * len(above))})",
            *(self._space, *above),
        )

    def _unpack_folder(self, identity: int, path: bytes) -> None:
        pieces = [data for (data,) in self._select("SELECT data FROM packed WHERE folder = ? ORDER BY rowid", identity)]
        with suppress(_Unpacked):
            self._stage(
                os.fsdecode(path),
                self._unpack(pieces),
                lambda staging, database: staging.replace(database, self._space, identity),
            )

    def _sweep(self) -> None:
        """Deletes rows that no path leads to: of listings that were replaced, broke off or were left by a crash."""
        if self._sweeper is None or not self._sweeper.is_alive():
            self._delete_old()

    def _delete_old(self) -> None:
        try:
            while not self._closed and (
                swept := self._select(
                    "SELECT id FROM folder WHERE space = '' AND listed_at < ? LIMIT ?",
                    *(time.time() - _ABANDONED_S, _BATCH_ROWS),
                )
            ):
                with self._transaction() as database:
                    _sweep(database, [identity for (identity,) in swept])
        except SourceError as failure:  # whoever asked for a folder has it; the next listing sweeps again
            if not self._closed:
                log.warning("old listings could not be deleted: %s", failure)

    # -- the database

    def _at(self, path: str) -> tuple[str, bytes]:
        return self._space, os.fsencode(path)

    def _last(self, path: str) -> Folder | None:
        """The folder as it was last listed, however long ago."""
        if there := self._there(path):
            return there
        self._unpack_at(path)  # or another thread has done so since
        return self._there(path)

    def _there(self, path: str) -> Folder | None:
        """The same, None for one that is packed."""
        rows = self._select(
            "SELECT listed_at, took_s, videos > 0, unversioned = 0, changes, of_tree FROM folder "
            f"WHERE space = ? AND path = ? AND NOT {_IS_PACKED}",
            *self._at(path),
        )
        if not rows:
            return None
        listed_at, took_s, has_videos, is_told, changes, of_tree = rows[0]
        return Folder(listed_at, took_s, bool(has_videos), bool(is_told), changes, bool(of_tree))

    def _is_fresh(self, folder: Folder) -> bool:
        return folder.listed_at <= time.time() and self.valid_s(folder) > 0

    def _pages(self, columns: str, folder: str, condition: str, after: bytes = b"") -> Iterator[tuple[Any, ...]]:
        """Rows of a folder in the order of names, after one of them; the first column is the name."""
        statement = (
            f"SELECT {columns} FROM entry WHERE {_IN_FOLDER} AND name > ? {condition} ORDER BY name LIMIT {_PAGE_ROWS}"
        )
        last = after
        while True:
            rows = self._rows(statement, folder, last)
            if not set(map(type, map(itemgetter(0), rows))) <= {bytes}:
                raise self._broken(sqlite3.DatabaseError("a name that is none"), self._reading)
            yield from rows
            if len(rows) < _PAGE_ROWS:
                self._require_kept(folder)
                return
            last = rows[-1][0]

    def _rows(self, statement: str, folder: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement with _IN_FOLDER first."""
        rows = self._select(statement, *self._at(folder), *values)
        if rows:
            return rows
        # The tree may have been renewed since the caller knew the folder. Asked again in any case: where nothing is
        # packed now, another thread may have unpacked it since the first question.
        self._unpack_at(folder)
        return self._select(statement, *self._at(folder), *values)

    def _require_kept(self, folder: str) -> None:
        """Raises Lost where nothing is known of a folder that was known to the caller: not even that it is empty."""
        if self._generation and self._there(folder) is None:
            raise Lost(f"{folder}: what was known of it was lost; it is asked for anew")

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        database = self._reading
        try:
            with self._read_lock:
                database = self._reading
                return database.execute(statement, values).fetchall()
        except sqlite3.Error as failure:
            raise self._broken(failure, database) from failure

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = self._writing
        try:
            with self._write_lock:
                database = self._writing
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    yield database
        except sqlite3.Error as failure:
            raise self._broken(failure, database) from failure

    def _broken(self, failure: sqlite3.Error, database: sqlite3.Connection) -> SourceError | Lost:
        """What is raised for a failure of the database, in whose place there is another by then.

        A damaged one is set aside and begun anew; where its disk is full or fails, there is one in memory from now on.
        """
        if self._closed or self._file is None or is_busy(failure) or isinstance(failure, sqlite3.ProgrammingError):
            return SourceError(f"the catalog {self._file or 'in memory'} failed ({failure}): try again")
        with ExitStack() as held:
            for lock in {id(each): each for each in (self._write_lock, self._read_lock)}.values():
                held.enter_context(lock)
            if database in (self._writing, self._reading):
                self._begin_anew(self._file, failure)
        return Lost(f"the catalog {self._file} failed ({failure}): what it knew is asked for anew")

    def _begin_anew(self, file: Path, failure: sqlite3.Error) -> None:
        for each in (self._reading, self._writing):
            with suppress(sqlite3.Error):
                each.close()
        self._generation += 1
        try:
            if is_damage(failure):
                set_aside(file, failure)
                self._writing, self._reading = _open(file)
                return
        except (OSError, sqlite3.Error) as another:
            failure = sqlite3.OperationalError(str(another))
        log.warning("the catalog %s failed (%s): this mount goes on without it", file, failure)
        self._writing, self._reading = _open(None)
        self._read_lock = self._write_lock  # they are one connection now


def known_in(database: sqlite3.Connection) -> tuple[int, int, int]:
    """How many spaces, folders and entries a catalog's database knows. Looks at all of it."""
    spaces, folders = database.execute(
        "SELECT COUNT(DISTINCT space), COUNT(*) FROM folder WHERE space <> ''"
    ).fetchone()
    return spaces, folders, database.execute("SELECT COUNT(*) FROM entry").fetchone()[0]


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
        made = database.execute(_STAGE, (None, os.urandom(_TOKEN_BYTES), now)).lastrowid
        assert made is not None, "SQLite gives the id of a row that it inserted"
        return made
    if not database.execute("UPDATE folder SET listed_at = ? WHERE id = ?", (now, identity)).rowcount:
        raise Unavailable(_GIVEN_UP)
    return identity


class _Unpacked(Exception):
    """Somebody else has unpacked a folder, or the tree was renewed."""


class _Staging:
    """A tree that is being written: its folders' paths have random bytes in front until all of them are whole."""

    def __init__(self, top: str = "") -> None:
        """`top` is the folder that is the tree's root."""
        self.refused: list[str] = []
        self._top = os.fsencode(top)
        self._offered = 0  # names, each directory once
        token = os.urandom(_TOKEN_BYTES)
        after = (int.from_bytes(token) + 1) % (1 << 8 * _TOKEN_BYTES)
        self._token = token
        self._staged = ("space = '' AND path >= ? AND path < ?", token, after.to_bytes(_TOKEN_BYTES))
        self._ids: dict[str, int | None] = {}  # None: a folder that cannot be shown
        self._made = 0
        self._touched_at = 0.0
        # Of the transaction under way: the next id, and what is to be written.
        self._next = 0
        self._folders: list[tuple[int, bytes, float]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._packed: list[tuple[int, bytes, int]] = []

    def rows_of(self, entries: Iterable[tuple[str, Entry | Packed]]) -> "list[tuple[str, _Row | Packed]]":
        """The entries as rows, each with its folder."""
        rows: list[tuple[str, _Row | Packed]] = []
        for folder, entry in entries:
            if isinstance(entry, Packed):
                rows.append((folder, entry))
            elif row := _as_row(entry):
                rows.append((folder, row))
            else:
                self.refused.append(entry.name)
        return rows

    def write(self, database: sqlite3.Connection, entries: "Iterable[tuple[str, _Row | Packed]]") -> None:
        """Writes some entries, and the folders that they stand in or are."""
        now = time.time()
        if now - self._touched_at > _ABANDONED_S / 8:
            self._update(database, "listed_at = ?", now)
            self._touched_at = now
        self._next = 1 + database.execute("SELECT COALESCE(MAX(id), 0) FROM folder").fetchone()[0]
        self._folder("")
        ids, rows = self._ids, self._rows
        for folder, row in entries:
            if not isinstance(row, Packed) and row[1] == Kind.DIRECTORY:
                name = os.fsdecode(row[0])
                self._folder(f"{folder}/{name}" if folder else name)
                continue
            identity = ids[folder] if folder in ids else self._folder(folder)
            if identity is None:
                continue
            if isinstance(row, Packed):
                self._packed.append((identity, *row))
            else:
                rows.append((identity, *row))
        # In the order of the table: of a folder whose entries come here and there, each page is looked for once.
        rows.sort(key=itemgetter(0, 1))
        database.executemany(_STAGE, self._folders)
        database.executemany(_INSERT, rows)
        database.executemany("INSERT INTO packed VALUES (?, ?, ?)", self._packed)
        self._offered += len(rows)
        self._folders.clear()
        self._packed.clear()
        rows.clear()

    def doubles(self, database: sqlite3.Connection) -> int:
        """How many names were offered again."""
        condition, *bounds = self._staged
        written = f"SELECT COUNT(*) FROM entry WHERE folder IN (SELECT id FROM folder WHERE {condition})"
        return self._offered - int(database.execute(written, bounds).fetchone()[0])

    def publish(self, database: sqlite3.Connection, space: str, began: float) -> None:
        """Lets all paths of a space lead to the new folders."""
        database.execute(f"{_UNLINK} WHERE space = ?", (space,))
        self._publish(database, space, time.time(), time.monotonic() - began)
        database.execute(
            "UPDATE folder SET bytes = "
            "(SELECT CAST(TOTAL(size_bytes) AS INTEGER) FROM packed WHERE packed.folder = folder.id) "
            f"WHERE space = ? AND {_IS_PACKED}",
            (space,),
        )

    def replace(self, database: sqlite3.Connection, space: str, packed: int) -> None:
        """Puts the new folders in the place of the packed one. Raises _Unpacked if it is not there."""
        found = database.execute(
            f"DELETE FROM folder WHERE id = ? AND space = ? AND path = ? AND {_IS_PACKED} RETURNING listed_at, took_s",
            (packed, space, self._top),
        ).fetchall()
        if not found:
            raise _Unpacked
        database.execute("DELETE FROM packed WHERE folder = ?", (packed,))
        self._publish(database, space, *found[0])

    def _publish(self, database: sqlite3.Connection, space: str, listed_at: float, took_s: float) -> None:
        self._update(
            database,
            f"(space, path, listed_at, took_s, of_tree) = (?, substr(path, {_TOKEN_BYTES + 1}), ?, ?, 1), "
            f"(videos, bytes, unversioned) = ({_SUMS} folder.id)",
            *(space, listed_at, took_s),
        )

    def give_up(self, database: sqlite3.Connection) -> None:
        """Leaves what was written to be swept away."""
        condition, *bounds = self._staged
        database.execute(f"UPDATE folder SET listed_at = 0 WHERE {condition}", bounds)

    def _update(self, database: sqlite3.Connection, assignments: str, *values: object) -> None:
        """Changes all folders of the tree. Raises Unavailable where another process has begun to sweep them away."""
        condition, *bounds = self._staged
        if (
            database.execute(f"UPDATE folder SET {assignments} WHERE {condition}", (*values, *bounds)).rowcount
            < self._made
        ):
            raise Unavailable(_GIVEN_UP)

    def _folder(self, path: str) -> int | None:
        """The id of a folder, which is made, with all above it, where it is not there; None for one without a name."""
        if path in self._ids:
            return self._ids[path]
        identity = None
        above, _, name = path.rpartition("/")
        row = _as_row(Entry(name, Kind.DIRECTORY)) if path else None
        parent = self._folder(above) if row else None
        if path and row is None:
            self.refused.append(name)
        if not path or parent is not None:
            identity, self._next = self._next, self._next + 1
            place = self._top + b"/" * bool(path and self._top) + os.fsencode(path)
            self._folders.append((identity, self._token + place, self._touched_at))
            self._made += 1
        if parent is not None and row:
            self._rows.append((parent, *row))
        self._ids[path] = identity
        return identity


def _sweep(database: sqlite3.Connection, identities: list[int]) -> None:
    """Deletes folders with their entries, as many of these as one transaction may have."""
    left = _BATCH_ROWS
    for identity in identities:
        cut = database.execute(
            "SELECT name FROM entry WHERE folder = ? ORDER BY name LIMIT 1 OFFSET ?", (identity, left)
        ).fetchone()
        if cut:
            database.execute("DELETE FROM entry WHERE folder = ? AND name < ?", (identity, cut[0]))
            return
        left -= 1 + database.execute("DELETE FROM entry WHERE folder = ?", (identity,)).rowcount
        left -= database.execute("DELETE FROM packed WHERE folder = ?", (identity,)).rowcount
        database.execute("DELETE FROM folder WHERE id = ?", (identity,))
        if left <= 0:
            return


def _learn(
    database: sqlite3.Connection,
    at: tuple[str, bytes],
    found: Iterable[tuple[str, str, ObjectInfo | None]],
    told: int | None,
) -> None:
    """`Catalog.learn` in one transaction; `told` is the tag of the version that was known."""
    folder = database.execute("SELECT id FROM folder WHERE space = ? AND path = ?", at).fetchone()
    if folder is None:
        return
    total = videos = changes = 0
    for name, key, obj in found:
        place = (folder[0], os.fsencode(name))
        row = database.execute(
            "SELECT size_bytes, tag, is_video, key FROM entry WHERE folder = ? AND name = ?", place
        ).fetchone()
        if row is None or row[3] != os.fsencode(key) or (row[0] >= 0 and row[1] != told):
            continue
        total += (obj.size_bytes if obj else 0) - max(row[0], 0)
        changes += obj is None or row[0] >= 0
        if obj is not None:
            tag = tag_of(Kind.FILE, obj.identity)
            database.execute(
                "UPDATE entry SET (tag, size_bytes, mtime_ns, version) = (?, ?, ?, ?) WHERE folder = ? AND name = ?",
                (tag, obj.size_bytes, obj.mtime_ns, obj.version, *place),
            )
        else:
            videos -= row[2]
            database.execute("DELETE FROM entry WHERE folder = ? AND name = ?", place)
    database.execute(
        "UPDATE folder SET (bytes, videos, changes) = (bytes + ?, videos + ?, changes + ?) WHERE id = ?",
        (total, videos, changes, folder[0]),
    )


def _as_rows(entries: Iterable[Entry], refused: list[str]) -> Iterator[tuple[Any, ...]]:
    """The entries as rows, without their folder. Those whose names the kernel refuses go to `refused`."""
    for entry in entries:
        row = _as_row(entry)
        if row is None:
            refused.append(entry.name)
        else:
            yield row


_Row: TypeAlias = tuple[Any, ...]


def _as_row(entry: Entry) -> _Row | None:
    """An entry as a row, without its folder; None where the kernel refuses its name, or it says what cannot be.

    One name with a slash in it makes the whole directory unreadable (EIO from readdir).
    """
    text = entry.name
    try:
        name = text.encode(*_FILE_NAMES)
        if text in ("", ".", "..") or b"/" in name or b"\0" in name or len(name) > _NAME_LIMIT_BYTES:
            return None
        obj = entry.object
        if obj is not None and entry.kind is Kind.FILE:
            if obj.size_bytes > _LARGEST or not -_LARGEST <= obj.mtime_ns <= _LARGEST:
                return None
            obj.version.encode()
            facts = (tag_of(Kind.FILE, obj.identity), obj.size_bytes, obj.mtime_ns, entry.is_video)
            return name, _FILE, *facts, obj.key.encode(*_FILE_NAMES), obj.version, b""
        target = os.fsencode(entry.target)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can have in a text
        return None
    return name, int(entry.kind), tag_of(entry.kind, ""), len(target), 0, entry.is_video, b"", "", target


def _entry(row: tuple[Any, ...]) -> Entry:
    """Raises SourceError for a row that no listing was written as: SQLite finds damage to its pages, not to values."""
    name, kind, size_bytes, mtime_ns, is_video, key, version, target = row
    try:
        found = _KINDS[kind]
        obj = ObjectInfo(os.fsdecode(key), size_bytes + 0, mtime_ns + 0, version) if found is Kind.FILE else None
        return Entry(os.fsdecode(name), found, obj, os.fsdecode(target), bool(is_video))
    except (TypeError, IndexError) as failure:
        raise SourceError(f"the catalog is damaged at {name!r:.80}: unmount, delete it, mount again") from failure


def _warn(folder: str, refused: list[str], doubles: int) -> None:
    where = folder or "the root"
    if refused:
        log.warning(
            "%s: %d entries cannot be shown (no name for a file, or no size), such as %r",
            *(where, len(refused), refused[0][:80]),
        )
    if doubles:
        log.warning("%s: %d names stand twice; the folder, else the first of the two, is shown", where, doubles)
