"""The SQLite files that mounts share: opened by several at once, damaged, locked, of another version."""

import fcntl
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vfs import database
from vfs.database import memory_database, open_database

SCHEMA = "CREATE TABLE IF NOT EXISTS thing (name TEXT);"
# Many at once, so that some are there while the file is made.
OPENER = """
import sys, time
from pathlib import Path
from vfs.database import open_database
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
for number in range(20):
    file = Path(sys.argv[1]) / f"{number}.sqlite"
    connection = open_database(file, "CREATE TABLE IF NOT EXISTS thing (name TEXT);", 1)
    connection.execute("INSERT INTO thing VALUES ('here')")
    connection.close()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.sqlite"


def things(file: Path) -> int:
    connection = open_database(file, SCHEMA, 1)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM thing").fetchone()[0])
    finally:
        connection.close()


def insert(file: Path) -> None:
    connection = open_database(file, SCHEMA, 1)
    connection.execute("INSERT INTO thing VALUES ('here')")
    connection.close()


def test_processes_that_make_one_file_at_the_same_moment_all_get_it_and_lose_nothing(tmp_path: Path) -> None:
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = [sys.executable, "-c", OPENER, str(tmp_path), str(time.time() + 0.5)]
    processes = [subprocess.Popen(arguments, env=here, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert [things(tmp_path / f"{number}.sqlite") for number in range(20)] == [4] * 20
    assert not list(tmp_path.glob("*.damaged"))


def test_a_file_that_is_locked_is_told_and_stays_where_it_is(file: Path, monkeypatch) -> None:
    insert(file)
    monkeypatch.setattr(database, "_BUSY_S", 0.1)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="cannot be used: database is locked"):
        open_database(file, SCHEMA, 1)
    holder.close()
    assert things(file) == 1
    assert not list(file.parent.glob("*.damaged"))


def test_a_process_that_never_leaves_the_folder_is_not_waited_for_for_ever(file: Path, monkeypatch) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.1)
    folder = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="another process has been opening"):
        open_database(file, SCHEMA, 1)
    os.close(folder)
    insert(file)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""], ids=["words", "empty"])
def test_what_is_no_database_is_set_aside_and_begun_anew(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    insert(file)
    assert things(file) == 1
    aside = file.with_name("some.sqlite.damaged")
    assert (aside.read_bytes() if aside.exists() else b"") == content


def test_another_version_is_set_aside_and_can_be_looked_at(file: Path) -> None:
    insert(file)
    newer = open_database(file, "CREATE TABLE IF NOT EXISTS other (name TEXT);", 2)
    assert newer.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]
    newer.close()
    aside = sqlite3.connect(file.with_name("some.sqlite.damaged"))
    assert aside.execute("PRAGMA user_version").fetchone() == (1,)
    aside.close()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_database(tmp_path / "none" / "some.sqlite", SCHEMA, 1)


def test_a_database_in_memory_has_the_same_tables() -> None:
    connection = memory_database(SCHEMA)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("thing",)]
    connection.close()
