"""A folder of values: how its files are called, and the accounting of them in SQLite that processes share.

Hides names and tables. Called by disk.py, which keeps values there while something is mounted, and by diskcare.py,
which looks after the folder from outside; knows neither what a value is of nor who wants it. Each function is one short
transaction on the caller's connection, so that nobody else waits for long; any thread may call, one at a time for each
connection.

What holds at every moment for everybody: `total` is the sum of the rows, since both change in one transaction, and rows
are taken away by what DELETE says it deleted. A file may be there without its row, for as long as its writer takes to
count it, and a row without its file, until whoever removed the file has it taken away.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from vfs.database import memory_database, open_database
from vfs.valuefile import Key

DATABASE = "index.sqlite"
FOLDERS = 256
TEMPORARY = ".new-"
"""Stands between a file's name and what tells its writer, until the file is whole."""

# Left free for others on the disk, at most: a twentieth of a small one.
_RESERVE_BYTES = 512 << 20
_SCHEMA_VERSION = 1
# Rows of one statement; SQLite allows 32,766 words in one since 3.32, 999 before.
ROWS = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS value (
    owner BLOB NOT NULL, number INTEGER NOT NULL, file_bytes INTEGER NOT NULL,
    used_at INTEGER NOT NULL, PRIMARY KEY (owner, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS value_by_use ON value (used_at);
CREATE TABLE IF NOT EXISTS total (file_bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
"""

Row: TypeAlias = tuple[bytes, int, int, int]
"""Owner, number, bytes of the file, and when it was used last, in seconds of the epoch."""


# -- names


def folder_name(number: int) -> str:
    """One of the `FOLDERS` folders that files stand in."""
    return f"{number:02x}"


def path_of(folder: Path | str, key: Key) -> str:
    """Where the value's file is."""
    owner, number = key
    return f"{folder}/{folder_name((owner[0] + number) % FOLDERS)}/{owner.hex()}.{number:x}"


def key_of(name: str) -> Key | None:
    """The key that a file's name was made from; None for other files."""
    match = re.fullmatch(r"([0-9a-f]{32})\.([0-9a-f]{1,12})", name)
    return (bytes.fromhex(match[1]), int(match[2], 16)) if match else None


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was being written, now or when a crash came."""
    name, temporary, _ = name.partition(TEMPORARY)
    return bool(temporary) and key_of(name) is not None


def reserve_bytes(disk: os.statvfs_result) -> int:
    """What is left free on a disk for others."""
    return min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 20)


# -- accounting


def open_index(folder: Path) -> sqlite3.Connection:
    """The folder's accounting, made where there is none. Raises OSError, and sets aside what is damaged."""
    return open_database(folder / DATABASE, _SCHEMA, _SCHEMA_VERSION)


def empty_index() -> sqlite3.Connection:
    """The accounting of nothing, in memory."""
    return memory_database(_SCHEMA)


def total_bytes(database: sqlite3.Connection) -> int:
    """Bytes of all files that are counted."""
    return int(database.execute("SELECT file_bytes FROM total").fetchone()[0])


def count(database: sqlite3.Connection) -> int:
    """How many values are counted."""
    return int(database.execute("SELECT COUNT(*) FROM value").fetchone()[0])


def values_of(database: sqlite3.Connection, owners: Sequence[bytes]) -> list[tuple[bytes, int, int]]:
    """Owner, number and file's bytes of the values of at most ROWS owners."""
    places = ",".join("?" * len(owners))
    statement = f"SELECT owner, number, file_bytes FROM value WHERE owner IN ({places})"
    return database.execute(statement, owners).fetchall()


def counted_bytes(database: sqlite3.Connection, key: Key) -> int | None:
    """Bytes of a value's file as it was counted; None for one that is not."""
    row = database.execute("SELECT file_bytes FROM value WHERE owner = ? AND number = ?", key).fetchone()
    return int(row[0]) if row else None


def oldest(database: sqlite3.Connection, count: int, before: int | None = None) -> list[Row]:
    """Up to `count` values that were used longest ago, of those that were used last before some time."""
    condition, words = ("", ()) if before is None else ("WHERE used_at < ?", (before,))
    question = f"SELECT owner, number, file_bytes, used_at FROM value {condition} ORDER BY used_at LIMIT ?"
    return database.execute(question, (*words, count)).fetchall()


def pages(database: sqlite3.Connection, count: int = 1000) -> Iterator[Sequence[Row]]:
    """All rows in the order of their keys, so many at a time; nothing is held between two pages."""
    after: Key = (b"", -1)
    question = (
        "SELECT owner, number, file_bytes, used_at FROM value WHERE (owner, number) > (?, ?) ORDER BY 1, 2 LIMIT ?"
    )
    while rows := database.execute(question, (*after, count)).fetchall():
        yield rows
        after = rows[-1][:2]


def note_use(database: sqlite3.Connection, keys: Iterable[Key], at: int, written: list[Row]) -> None:
    """Notes what was used, and counts in what was written."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            "UPDATE value SET used_at = ? WHERE owner = ? AND number = ?", ((at, *key) for key in keys)
        )
        _count_in(database, written)


def count_in(database: sqlite3.Connection, folder: Path, rows: Iterable[Row]) -> int:
    """Counts in what nobody has counted, if it is still there; gives how many those were."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        # Another process may have counted and evicted one since it was found.
        uncounted = [
            row
            for row in rows
            if counted_bytes(database, row[:2]) is None and os.access(path_of(folder, row[:2]), os.F_OK)
        ]
        _count_in(database, uncounted)
    return len(uncounted)


def _count_in(database: sqlite3.Connection, rows: list[Row]) -> None:
    """In few statements: for each, sqlite3 lets the interpreter go to another thread."""
    for at in range(0, len(rows), ROWS):
        some = rows[at : at + ROWS]
        places = ",".join(["(?, ?)"] * len(some))
        before = database.execute(
            f"SELECT COALESCE(SUM(file_bytes), 0) FROM value WHERE (owner, number) IN (VALUES {places})",
            [word for row in some for word in row[:2]],
        ).fetchone()[0]
        values = ",".join(["(?, ?, ?, ?)"] * len(some))
        database.execute(f"INSERT OR REPLACE INTO value VALUES {values}", [word for row in some for word in row])
        added = sum(row[2] for row in some) - before
        database.execute("UPDATE total SET file_bytes = file_bytes + ?", (added,))


def remove(database: sqlite3.Connection, keys: Iterable[Key]) -> int:
    """Counts values out; gives the bytes that had been counted of them. Their files are the caller's."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        gone = 0
        for key in keys:
            row = database.execute("DELETE FROM value WHERE owner = ? AND number = ? RETURNING file_bytes", key)
            gone += sum(file_bytes for (file_bytes,) in row.fetchall())
        database.execute("UPDATE total SET file_bytes = file_bytes - ?", (gone,))
    return gone


def is_sum(database: sqlite3.Connection) -> bool:
    """Whether the total is the sum of the rows."""
    question = "SELECT (SELECT file_bytes FROM total) = (SELECT COALESCE(SUM(file_bytes), 0) FROM value)"
    return bool(database.execute(question).fetchone()[0])


def recount(database: sqlite3.Connection) -> None:
    """Makes the total the sum of the rows, should it not be."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE total SET file_bytes = (SELECT COALESCE(SUM(file_bytes), 0) FROM value)")
