"""The index of an archive: its folders and members, and the seek points of what is deflated, in one SQLite file.

Hides the file's form. A `Writer` makes it, an `Index` reads it; between the two the file never changes. Neither holds
more than a page of rows in memory, however many members there are. Called by kept.py, which owns the files, by what
reads archives' forms, and by members.py. A Writer is one thread's; an Index any thread's: each question is asked over
a connection of its own (0.2 ms), so that nothing is held open for an archive that nobody reads.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vfs.archive import is_apple_double, path_of
from vfs.errors import SourceError

Kind: TypeAlias = Literal["file", "dir", "link"]
WriteError = sqlite3.Error
"""What a Writer raises where its file cannot be written."""

FORM, TOP = "form", "top"
"""Facts: how members are read ("zip", "tar", "gz"), and the folder that is shown as the archive's own."""

_KINDS: tuple[Kind, ...] = ("file", "dir", "link")
_FILE, _DIR, _LINK = range(3)

_SCHEMA = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    folder BLOB NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, place TEXT NOT NULL, target BLOB NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE point (out_start INTEGER PRIMARY KEY, in_start INTEGER NOT NULL, bits INTEGER NOT NULL, dictionary BLOB);
"""
# The later of two members stays, as when both are unpacked; but of a folder and another the folder does.
_INSERT = f"""
INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (folder, name) DO UPDATE
    SET (kind, size_bytes, mtime_ns, place, target) =
        (excluded.kind, excluded.size_bytes, excluded.mtime_ns, excluded.place, excluded.target)
    WHERE entry.kind <> {_DIR} OR excluded.kind = {_DIR}
"""
_BATCH_ROWS = 2048
_PAGE_ROWS = 256
# Folders that are known to be written already: what forgets them costs a row that is written again.
_MOST_FOLDERS = 10_000
_LARGEST = (1 << 63) - 1
_MTIMES_NS = 1 << 62  # SQLite's integers have 63 bits, and no file is from the year 148,000


@dataclass(frozen=True, slots=True)
class Row:
    """A name in a folder of an archive. `place` says to members.py where a file's bytes stand."""

    name: str
    kind: Kind
    size_bytes: int
    mtime_ns: int
    place: str
    target: str


@dataclass(frozen=True, slots=True)
class Point:
    """A place of a deflated stream where inflating can begin.

    `out_start` counts the bytes that come before it, inflated; `in_start` is the first whole byte behind it, of whose
    predecessor the last `bits` belong to it too. `dictionary`: the 32 KiB before it, b"" where a stream begins.
    """

    out_start: int
    in_start: int
    bits: int
    dictionary: bytes


class Writer:
    """An index in the making."""

    def __init__(self, file: Path) -> None:
        """`file` must not be there yet."""
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        # Nobody sees the file before it is whole, and a crash leaves it to be swept away.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self._folders: set[str] = set()
        self._last = "", b""  # the folder of the last member, and its bytes
        self.left_out: dict[str, int] = {}
        """How many members are not shown, by reason."""
        self._database.execute("BEGIN")

    def clear(self) -> None:
        """Begins anew."""
        self._rows.clear()
        self._folders.clear()
        self.left_out.clear()
        for table in ("fact", "entry", "point"):
            self._database.execute(f"DELETE FROM {table}")

    def add(
        self, name: str, kind: Kind, *, size_bytes: int = 0, mtime_ns: int = 0, place: str = "", target: str = ""
    ) -> None:
        """A member under the name that the archive has for it, unless it cannot be shown."""
        path = path_of(name)
        if path is None:
            if name.strip("./"):  # "./" is the archive's own top
                self.leave_out("their names lead out of the archive, or are none")
            return
        if is_apple_double(path):
            return
        if size_bytes > _LARGEST:
            self.leave_out("they say sizes that no file can have")
            return
        folder, _, last = path.rpartition("/")
        self._add_folder(folder)
        if kind == "dir":
            self._add_folder(path)
            return
        self._add(folder, last, _KINDS.index(kind), size_bytes, min(max(0, mtime_ns), _MTIMES_NS), place, target)

    def add_same(self, name: str, other: str) -> bool:
        """A member that is another one's bytes under one more name; whether that one is there."""
        path = path_of(other)
        folder, _, last = (path or "").rpartition("/")
        self._flush()
        found = self._database.execute(
            "SELECT kind, size_bytes, mtime_ns, place, target FROM entry WHERE folder = ? AND name = ?",
            (os.fsencode(folder), os.fsencode(last)),
        ).fetchone()
        if found is None or found[0] != _FILE:
            return False
        self.add(name, "file", size_bytes=found[1], mtime_ns=found[2], place=found[3])
        return True

    def leave_out(self, reason: str) -> None:
        """Counts a member that is not shown."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def add_point(self, point: Point) -> None:
        """A place where inflating can begin."""
        self._database.execute(
            "INSERT OR REPLACE INTO point VALUES (?, ?, ?, ?)",
            (
                point.out_start,
                point.in_start,
                point.bits,
                zlib.compress(point.dictionary, 1) if point.dictionary else b"",
            ),
        )

    def set_fact(self, name: str, value: str) -> None:
        """Something that is known of the archive as a whole."""
        self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def top(self, stem: str) -> str:
        """The folder that all members stand in and that is called like the archive; "" if there is none."""
        self._flush()
        path = ""
        while True:
            rows = self._database.execute(
                "SELECT name, kind FROM entry WHERE folder = ? LIMIT 2", (os.fsencode(path),)
            ).fetchall()
            if len(rows) != 1 or rows[0][1] != _DIR:
                return ""
            name = os.fsdecode(rows[0][0])
            path = f"{path}/{name}" if path else name
            if name == stem:
                return path

    def finish(self) -> None:
        """Writes what is left; the file is whole then."""
        self._flush()
        self._database.execute("COMMIT")
        self._database.close()

    def close(self) -> None:
        """Ends it, whole or not."""
        self._database.close()

    def _add_folder(self, path: str) -> None:
        while path and path not in self._folders:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            self._folders.add(path)
            folder, _, name = path.rpartition("/")
            self._add(folder, name, _DIR, 0, 0, "", "")
            path = folder

    def _add(self, folder: str, name: str, kind: int, size_bytes: int, mtime_ns: int, place: str, target: str) -> None:
        if folder != self._last[0]:
            self._last = folder, os.fsencode(folder)
        encoded = os.fsencode(target) if target else b""
        self._rows.append((self._last[1], os.fsencode(name), kind, size_bytes, mtime_ns, place, encoded))
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany(_INSERT, self._rows)
        self._rows.clear()


class Index:
    """An index that is whole."""

    def __init__(self, file: Path) -> None:
        self._uri = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
        self._file = file

    def fact(self, name: str) -> str:
        """What was set of the archive under that name; "" if nothing was."""
        rows = self._select("SELECT value FROM fact WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""

    @property
    def form(self) -> str:
        """How members are read: Packed.form."""
        return self.fact(FORM)

    def below_top(self, path: str) -> str:
        """A path in the folder that is shown as the archive's own, as it is in the archive."""
        return "/".join(part for part in (self.fact(TOP), path) if part)

    def entries(self, folder: str) -> Iterator[Row] | None:
        """What stands in a folder, in the order of the names' bytes; None where there is no such folder."""
        parent, _, name = folder.rpartition("/")
        if folder:
            found = self.entry(parent, name)
            if found is None or found.kind != "dir":
                return None
        return self._pages(folder)

    def entry(self, folder: str, name: str) -> Row | None:
        """The entry of that name."""
        rows = self._select(
            "SELECT name, kind, size_bytes, mtime_ns, place, target FROM entry WHERE folder = ? AND name = ?",
            *(os.fsencode(folder), os.fsencode(name)),
        )
        return _row(rows[0]) if rows else None

    def point_at(self, out_start: int) -> Point | None:
        """The last point that is not after a byte of the inflated stream."""
        rows = self._select(
            "SELECT out_start, in_start, bits, dictionary FROM point WHERE out_start <= ? "
            "ORDER BY out_start DESC LIMIT 1",
            out_start,
        )
        if not rows:
            return None
        out_start, in_start, bits, dictionary = rows[0]
        return Point(out_start, in_start, bits, zlib.decompress(dictionary) if dictionary else b"")

    def next_point(self, point: Point) -> tuple[int, int] | None:
        """`out_start` and `in_start` of the point that follows."""
        rows = self._select(
            "SELECT out_start, in_start FROM point WHERE out_start > ? ORDER BY out_start LIMIT 1", point.out_start
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def _pages(self, folder: str) -> Iterator[Row]:
        last = b""
        while True:
            rows = self._select(
                "SELECT name, kind, size_bytes, mtime_ns, place, target FROM entry WHERE folder = ? AND name > ? "
                f"ORDER BY name LIMIT {_PAGE_ROWS}",
                *(os.fsencode(folder), last),
            )
            yield from map(_row, rows)
            if len(rows) < _PAGE_ROWS:
                return
            last = rows[-1][0]

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(self._uri, uri=True)) as database:
                return database.execute(statement, values).fetchall()
        except sqlite3.Error as failure:
            raise SourceError(
                f"the index {self._file} cannot be read ({failure}): delete it and try again"
            ) from failure


def _row(row: tuple[Any, ...]) -> Row:
    name, kind, size_bytes, mtime_ns, place, target = row
    return Row(os.fsdecode(name), _KINDS[kind], size_bytes, mtime_ns, place, os.fsdecode(target))
