"""A SQLite file that several mounts share: opened, made, or, where it is damaged, set aside and made anew.

Called by those who own what stands in it (catalog.py, valuefolder.py), and by diskcare.py. Any thread may call.
"""

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger(__name__)

_BUSY_S = 20.0


def open_database(file: Path, schema: str, version: int) -> sqlite3.Connection:
    """A connection, for any thread, in autocommit mode. A file of another version is damaged too.

    Raises OSError where it cannot be used now, as when it is locked or the disk is full: then nothing is set aside.
    """
    # SQLite answers "locked" at once, whatever its timeout, when two processes make one file of this kind.
    with alone(file.parent):
        try:
            return _prepared(file, schema, version)
        except sqlite3.DatabaseError as failure:
            if not is_damage(failure):
                raise OSError(f"its database {file.name} cannot be used: {failure}") from failure
            set_aside(file, failure)
            return _prepared(file, schema, version)


def open_to_look(file: Path) -> sqlite3.Connection:
    """A connection that changes nothing, also of a file on a disk that is read-only. Raises sqlite3.Error."""
    place = f"file:{quote(os.fsencode(file))}"
    database = sqlite3.connect(f"{place}?mode=ro", uri=True, check_same_thread=False, timeout=_BUSY_S)
    try:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as failure:
        database.close()
        if not os.statvfs(file).f_flag & os.ST_RDONLY:
            raise failure
        # Nobody can write there, so that it need not be locked, for which files would have to be made beside it.
        return sqlite3.connect(f"{place}?immutable=1", uri=True, check_same_thread=False)
    except sqlite3.Error:
        database.close()
        raise
    return database


def remove_unused(file: Path) -> int:
    """Removes a database that nobody has open; gives the bytes that it took. Raises BlockingIOError where somebody has,
    and OSError.

    The file must be a database that can be read, or be damaged: only of those nobody can say who has them open.
    """
    sizes = [part.stat().st_size for part in _parts(file) if part.exists()]
    with alone(file.parent):
        database = sqlite3.connect(file, timeout=0.0, isolation_level=None)
        try:
            # Who has a file open in this mode is in the way of leaving it (sqlite.org/wal.html).
            database.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as failure:
            is_locked = failure.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            raise (BlockingIOError if is_locked else OSError)(errno.EBUSY, str(failure), str(file)) from failure
        except sqlite3.DatabaseError as failure:
            log.info("%s is damaged (%s) and is removed", file, failure)
        finally:
            database.close()
        for part in _parts(file):
            part.unlink(missing_ok=True)
    return sum(sizes)


def _parts(file: Path) -> list[Path]:
    return [file, *(file.with_name(f"{file.name}{suffix}") for suffix in ("-wal", "-shm"))]


def memory_database(schema: str) -> sqlite3.Connection:
    """The same, of nothing and for nobody else."""
    database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    database.executescript(schema)
    return database


def is_damage(failure: BaseException) -> bool:
    """Whether a database cannot be used ever again; one that is busy, or on a full disk, can."""
    return isinstance(failure, sqlite3.DatabaseError) and not isinstance(failure, sqlite3.OperationalError)


def is_busy(failure: sqlite3.Error) -> bool:
    """Whether another process has it locked, so that the same can be tried again."""
    return getattr(failure, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def set_aside(file: Path, failure: Exception) -> None:
    """Renames what is damaged, so that somebody can look at it."""
    aside = file.with_name(f"{file.name}.damaged")
    log.warning("the database %s cannot be used (%s): set aside as %s and begun anew", file, failure, aside.name)
    with contextlib.suppress(FileNotFoundError):
        file.rename(aside)
    for suffix in ("-wal", "-shm"):
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)


def _prepared(file: Path, schema: str, version: int) -> sqlite3.Connection:
    database = sqlite3.connect(file, check_same_thread=False, timeout=_BUSY_S, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # What a power cut loses is only found out again; waiting for the disk would cost each transaction.
        database.execute("PRAGMA synchronous = NORMAL")
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            raise sqlite3.DatabaseError(f"schema {found}, not {version}")
        database.executescript(schema)
        database.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process is in here with the same folder. Raises OSError where one does not leave."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up = time.monotonic() + _BUSY_S
        while not _locked(descriptor):
            if time.monotonic() > give_up:
                raise OSError(errno.EBUSY, "another process has been opening its databases for 20 s", str(folder))
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: SQLite then says what it can or cannot do
    return True
