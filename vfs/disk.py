"""Values on local disk, evicted least recently used: where the cache keeps its chunks between mounts.

Hides files, checksums, their accounting, eviction, and what a full or broken disk does. Called by cache.py
only; knows nothing of objects or sources. A value belongs to an owner (one version of one object) and has a number.

Each value is one file that is written once and never changed: whoever has it open reads it whole even when it is
evicted meanwhile, by this process or by another that shares the folder. The file's name is made from
owner and number, so finding it needs no database; valuefile.py has its format and its checksums. SQLite only counts
(valuefolder.py): how many bytes there are, and what was used last.

Any thread may call. A few threads write values, many in one transaction; `keep` only puts them into their queue, which
is bounded. `_lock` is over the queue and the counters; nothing is read, written or waited for under it. The disk
is a convenience: when it fails, it is left alone for a while and reading goes on without it.
"""

import errno
import logging
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from vfs import valuefile, valuefolder
from vfs.arena import Arena
from vfs.database import is_damage, set_aside
from vfs.extent import Buffer
from vfs.valuefile import BLOCK_BYTES, Damaged, Key, Value, file_bytes_of

log = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["BLOCK_BYTES", "Damaged", "Disk", "Key", "Value"]

# What may wait to be written. A disk slower than the network then loses values instead of holding up readers.
_QUEUE_BYTES = 144 << 20
# Who fetches ahead should wait when so much waits to be written. What was under way at that moment still has room.
_BEHIND_BYTES = 64 << 20
# Values of one transaction: a commit costs 0.1 to 0.3 ms, a value's row 10 us.
_BATCH_VALUES = 128
_BATCH_BYTES = 9 << 20
# Threads that write: one alone waits for the disk most of the time (550 MB/s where three gave 900, measured).
_WRITERS = 3
# From this size on, files are written past the page cache: what a reader has just got stands in the kernel's pages of
# the mounted file already, and a second copy costs 0.3 ms a MiB, ten times that in a virtual machine whose memory has
# not been touched before (measured); 1 MiB by O_DIRECT costs 0.05 ms of CPU.
_DIRECT_BYTES = 256 << 10
# Larger values wait to be written, and are loaded, in memory that is used again: slots for so large ones, so many.
_SLOTS = ((1 << 20, 32), (4 << 20, 32))
# Small values wait for others, so that they share a transaction: until so much has come together, or for so long.
_WORTH_BYTES = 2 << 20
_LINGER_S = 0.1
# Evicted at once, beyond what is needed: 1/100 of the limit, so that not every batch has to look for victims.
_SLACK = 100
# Uses are noted this often at most; the order of eviction is that exact.
_NOTE_USE_S = 5.0
# Between the folders that are counted again while nothing is to be written: all of them in half a minute.
_SWEEP_S = 0.1
# After this many failures in a row the disk is left alone for a while.
_PATIENCE = 3
_PAUSE_S = 60.0
_CLOSE_S = 20.0
# Who waits for room looks so often whether it is still wanted.
_LOOK_S = 0.1
_FAILURES = (OSError, sqlite3.Error)


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of values and the disk that it is on: `reserve_bytes` of what is free there is left to others."""

    folder: Path
    files: int
    free_bytes: int
    reserve_bytes: int


class Disk:
    """A folder of values; see the module's docstring."""

    def __init__(self, folder: Path, limit_bytes: int, on_eviction: Callable[[Key], None] = lambda key: None) -> None:
        """`on_eviction` hears of values that are gone: an open one keeps its space. Raises OSError for the folder."""
        self.limit_bytes = limit_bytes
        self._on_eviction = on_eviction
        self.errors = 0
        self.not_kept = 0
        self._folder = folder
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._queue: dict[Key, memoryview] = {}
        """Files as they will be written."""
        self._queued_bytes = 0
        self._taken: set[Key] = set()
        """Of the queue what a writer is writing."""
        self._taken_bytes = 0
        self._linger_until = 0.0
        self._hurried = 0
        """How many wait for everything to be written."""
        self._swept = 0
        self._used: set[Key] = set()
        self._unwanted: set[Key] = set()
        self._failed_in_row = 0
        self._rest_until = 0.0
        self._closing = False
        self._direct = True
        self._arenas = [Arena(slots, file_bytes_of(size)) for size, slots in _SLOTS]
        self._temporary = f"{valuefolder.TEMPORARY}{os.getpid()}-{id(self):x}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database_lock = threading.Lock()
        self._database = valuefolder.open_index(folder)
        self._writers: list[threading.Thread] = []

    # -- finding

    def find(self, key: Key, length: int) -> "Value | Buffer | None":
        """The value, open or still as it waits to be written; None if there is none of that length. May block."""
        return self._found(key, length, lambda path: _opened(path, key, length))

    def load(self, key: Key, length: int) -> Buffer | None:
        """All bytes of the value, checked, read past the page cache; None if there is none of that length. Blocks.

        Raises Damaged.
        """

        def loaded(path: str) -> memoryview | None:
            data = self._load(path, file_bytes_of(length))
            if data is not None and not valuefile.is_whole(data, length, key):
                raise Damaged
            return data[:length] if data is not None else None

        return self._found(key, length, loaded)

    def load_filled(self, key: Key) -> memoryview | None:
        """`load` of a value that was kept `filled`: its bytes, and zeros after them. Raises Damaged."""

        def loaded(path: str) -> memoryview | None:
            size_bytes = os.stat(path).st_size
            length = valuefile.filled_length(size_bytes)
            data = self._load(path, size_bytes) if length > 0 else None
            if data is not None and not valuefile.is_whole(data, length, key):
                raise Damaged
            return data[:length] if data is not None else None

        return self._found(key, None, loaded)

    def _found(self, key: Key, length: int | None, get: Callable[[str], T | None]) -> T | memoryview | None:
        """What waits to be written, else what `get` makes of the value's file: None where that has another size."""
        waiting = self._queue.get(key)
        if waiting is not None:
            return waiting[: length or valuefile.filled_length(len(waiting))]
        if time.monotonic() < self._rest_until:
            return None
        path = self._path(key)
        try:
            # Mostly it is not there, and to hear that from access(2) costs a third of an exception.
            if not os.access(path, os.F_OK):
                return None
            found = get(path)
        except FileNotFoundError:
            return None
        except OSError as failure:
            self._failed(failure)
            return None
        if found is None:
            self.discard(key)  # the half of it that a crash left
            return None
        with self._lock:
            self._used.add(key)
        return found

    def _load(self, path: str, size_bytes: int) -> memoryview | None:
        into = self._memory(size_bytes)
        direct = os.O_DIRECT if self._direct and size_bytes >= _DIRECT_BYTES else 0
        try:
            return into if _read_into(path, direct, into) == size_bytes else None
        except OSError as failure:
            if not direct or failure.errno != errno.EINVAL:
                raise
            self._direct = False
            return into if _read_into(path, 0, into) == size_bytes else None

    def _memory(self, size_bytes: int) -> memoryview:
        for arena in self._arenas:
            if _DIRECT_BYTES <= size_bytes <= arena.slot_bytes:
                return arena.take()[:size_bytes]
        # O_DIRECT wants it aligned, and only a mapping is.
        return memoryview(mmap.mmap(-1, size_bytes) if size_bytes >= _DIRECT_BYTES else bytearray(size_bytes))

    def give_back_memory(self) -> None:
        """Nothing was read for a while: memory kept for loading goes back to the system."""
        for arena in self._arenas:
            arena.give_back()

    def used(self, key: Key) -> None:
        """Notes that a value that is held open was read again."""
        with self._lock:
            self._used.add(key)

    # -- keeping

    def keep(self, key: Key, data: Buffer, *, filled: bool = False) -> memoryview | None:
        """Has the value written soon. None where too much waits already or the disk is resting: it is not kept.

        `filled` is for `load_filled`: zeros are put behind it.

        Else gives the same bytes where they wait to be written: who uses those from now on lets the others go, while
        they are in the processor's cache and their memory can be used again at once.
        """
        if self._closing or time.monotonic() < self._rest_until:
            return None
        whole = file_bytes_of(len(data))
        if self._queued_bytes + whole > _QUEUE_BYTES or whole > self.limit_bytes:
            self.not_kept += 1
            return None
        image = self._memory(whole)
        length = valuefile.filled_length(whole) if filled else len(data)
        valuefile.write_image(image, key, memoryview(data), length)
        self._enqueue(key, image.toreadonly())
        return image[: len(data)].toreadonly()

    def _enqueue(self, key: Key, image: memoryview) -> None:
        whole = len(image)
        with self._lock:
            is_first = self._queued_bytes == self._taken_bytes
            if key not in self._queue:
                self._queue[key] = image
                self._queued_bytes += whole
            if is_first:
                self._linger_until = time.monotonic() + _LINGER_S
            if not self._closing and len(self._writers) < _WRITERS:
                begins = len(self._writers) == 0
                self._writers.append(
                    threading.Thread(target=self._write_on, args=(begins,), name="cache-writer", daemon=True)
                )
                self._writers[-1].start()
            if is_first or self._queued_bytes - self._taken_bytes >= _WORTH_BYTES:
                self._wake.notify()

    def keep_surely(
        self, key: Key, data: Buffer, is_wanted: Callable[[], bool], *, filled: bool = False
    ) -> memoryview | None:
        """`keep`, where room in the queue is waited for. None where it is not wanted any more, or the disk rests."""
        whole = file_bytes_of(len(data))
        while self._queued_bytes + whole > _QUEUE_BYTES and whole <= self.limit_bytes and is_wanted():
            with self._lock:
                self._done.wait(_LOOK_S)
        return self.keep(key, data, filled=filled)

    def await_turn(self, is_wanted: Callable[[], bool]) -> None:
        """Returns when little enough waits to be written that more may be fetched, or it is not wanted any more."""
        while self.is_behind() and is_wanted():
            with self._lock:
                self._done.wait(_LOOK_S)

    def is_behind(self) -> bool:
        """Whether so much waits to be written that more should not be fetched unasked."""
        return self._queued_bytes > _BEHIND_BYTES

    def is_writing(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._queue)

    def discard(self, key: Key) -> None:
        """The value is damaged or superseded: it is removed."""
        with self._lock:
            if key in self._queue:
                return  # another reader found the damage first, and what is there now takes the file's place soon
            self._unwanted.add(key)
        try:
            os.unlink(self._path(key))
        except FileNotFoundError:
            pass
        except OSError as failure:
            self._failed(failure)

    def settle(self) -> None:
        """Returns when everything that was to be kept is written or given up."""
        deadline = time.monotonic() + _CLOSE_S
        with self._lock:
            self._hurried += 1
            self._wake.notify_all()
            while self._queue and time.monotonic() < deadline:
                self._done.wait(0.05)
            self._hurried -= 1

    def close(self) -> None:
        """Writes what waits, for a while, and closes the accounting."""
        self.settle()
        with self._lock:
            self._closing = True
            self._wake.notify_all()
        for writer in self._writers:
            writer.join(_CLOSE_S)
        with self._database_lock, suppress(sqlite3.Error):
            self._account([])
            self._database.close()

    # -- counting

    def used_bytes(self) -> int:
        """Bytes that the files take, with those of other processes."""
        return self._ask(valuefolder.total_bytes, 0)

    def room(self) -> "Room":
        """What the folder has and may still have. Raises OSError where the folder is not there any more."""
        disk = os.statvfs(self._folder)
        files = self._ask(valuefolder.count, 0)
        return Room(self._folder, files, disk.f_bavail * disk.f_frsize, valuefolder.reserve_bytes(disk))

    def allowed_bytes(self) -> int:
        """What the files may take in all, now: the limit, held to what is free on the disk."""
        return self._ask(lambda database: self._room(), 0)

    def kept_of(self, owner: bytes) -> set[int]:
        """The numbers of the values that are kept of an owner."""
        return set(self.kept_of_all([owner]).get(owner, ()))

    def kept_of_all(self, owners: Iterable[bytes]) -> dict[bytes, list[int]]:
        """The numbers of the values that are kept of each of many owners, of those that have any."""
        found: dict[bytes, list[int]] = {}
        asked = [*owners]
        for at in range(0, len(asked), valuefolder.ROWS):
            some = asked[at : at + valuefolder.ROWS]
            rows: list[tuple[bytes, int, int]] = self._ask(partial(valuefolder.values_of, owners=some), [])
            for owner, number, _ in rows:
                found.setdefault(owner, []).append(number)
        return found

    def holds(self, key: Key, length: int | None = None) -> int:
        """How many bytes the file of such a value (of that length, if one is said) takes, written or waiting to be; 0
        where there is none. It counts as used. Reads none of it. May block."""
        waiting = self._queue.get(key)
        if waiting is not None:
            return len(waiting)
        try:
            size_bytes = os.stat(self._path(key)).st_size
        except OSError:  # whoever wants the value meets the failure
            return 0
        if length is not None and size_bytes != file_bytes_of(length):
            return 0
        self.used(key)
        return size_bytes

    def evict(self, owners: Sequence[bytes], numbers: Container[int] | None = None) -> int:
        """Removes all values of these owners (of these numbers, if any are said) that are written, and gives how many
        bytes their files took.

        One that is open keeps its place on the disk until it is closed. Raises OSError, sqlite3.Error.
        """
        freed = 0
        for at in range(0, len(owners), valuefolder.ROWS):
            with self._database_lock:
                rows = valuefolder.values_of(self._database, owners[at : at + valuefolder.ROWS])
                rows = [row for row in rows if numbers is None or row[1] in numbers]
                # In parts, so that whoever reads does not wait long for the accounting.
                for first in range(0, len(rows), _BATCH_VALUES):
                    part = rows[first : first + _BATCH_VALUES]
                    self._drop_files([row[:2] for row in part])
                    freed += sum(row[2] for row in part)
        return freed

    def _ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        try:
            with self._database_lock:
                return question(self._database)
        except _FAILURES as failure:
            self._failed(failure)
            return otherwise

    # -- the writers' threads

    def _write_on(self, sweeps: bool) -> None:
        """One of the writers; the one that sweeps counts files in that nobody has counted, while it has time."""
        while True:
            with self._lock:
                batch = self._batch()
                if not batch and not self._closing:
                    self._wake.wait(self._pause_s(sweeps))
                    batch = self._batch()
                if not batch and self._closing:
                    return
            database = self._database
            try:
                if batch or (sweeps and (self._used or self._unwanted)):
                    self._write(batch)
                if sweeps and self._swept < valuefolder.FOLDERS:
                    self._swept += 1
                    self._adopt(self._swept - 1)
            except _FAILURES as failure:
                self._failed(failure)
                # Files may have been written that were not counted.
                self._swept = 0 if batch else self._swept
                if is_damage(failure) or not (self._folder / valuefolder.DATABASE).exists():
                    self._begin_anew(database, failure)
            finally:
                self._written(batch)
                # Or its memory would be held until the next batch.
                batch = []

    def _written(self, batch: list[tuple[Key, memoryview]]) -> None:
        """What was a writer's is there now, or was given up."""
        if not batch:
            return
        with self._lock:
            for key, image in batch:
                del self._queue[key]
                self._taken.discard(key)
                self._queued_bytes -= len(image)
                self._taken_bytes -= len(image)
            if self._queued_bytes > self._taken_bytes:
                self._wake.notify()  # for whom the others' batches left no room
            self._done.notify_all()

    def _batch(self) -> list[tuple[Key, memoryview]]:
        """What is to be written next, and is from now on this writer's. Called with the lock."""
        batch: list[tuple[Key, memoryview]] = []
        if self._lingers():
            return batch
        most_bytes = min(_BATCH_BYTES, self.limit_bytes // 2 - self._taken_bytes)
        total = 0
        for key, image in self._queue.items():
            if key in self._taken:
                continue
            # Something is always being written, however small the limit.
            if (batch or self._taken) and (len(batch) >= _BATCH_VALUES or total + len(image) > most_bytes):
                break
            total += len(image)
            batch.append((key, image))
        self._taken.update(key for key, _ in batch)
        self._taken_bytes += total
        return batch

    def _lingers(self) -> bool:
        """Whether more should come before what there is is written."""
        little = self._queued_bytes - self._taken_bytes < min(_WORTH_BYTES, self.limit_bytes // 4)
        return little and not self._hurried and not self._closing and time.monotonic() < self._linger_until

    def _pause_s(self, sweeps: bool) -> float:
        pause_s = _SWEEP_S if sweeps and self._swept < valuefolder.FOLDERS else _NOTE_USE_S
        if self._queued_bytes > self._taken_bytes:
            # Not without a pause where there is only no room beside the others' batches: they tell when there is.
            pause_s = min(pause_s, max(0.01, self._linger_until - time.monotonic()))
        return pause_s

    def _write(self, batch: list[tuple[Key, memoryview]]) -> None:
        if time.monotonic() < self._rest_until:
            return
        with self._database_lock:
            # With what the other writers have, which is not counted yet, or was a moment ago.
            self._make_room(self._taken_bytes)
        for key, image in batch:
            self._write_file(key, image)
        with self._database_lock:
            self._account(batch)
        self._failed_in_row = 0

    def _write_file(self, key: Key, image: memoryview) -> None:
        path = self._path(key)
        # A large file takes milliseconds, and another process must not find half of it. A small one is there at once,
        # and of thousands the renaming is a third of the work. Half of one, left by a crash, has another size.
        place = f"{path}{self._temporary}" if len(image) >= _DIRECT_BYTES else path
        for is_last in (False, False, True):
            try:
                self._fill(place, image)
                break
            except FileNotFoundError:
                if is_last:
                    raise
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            except FileExistsError:
                if is_last:
                    raise
                # Never written over: somebody may have it open, and another process may be making it at this moment.
                place = f"{path}{self._temporary}"
                with suppress(FileNotFoundError):
                    os.unlink(place)
        if place is not path:
            os.rename(place, path)

    def _fill(self, path: str, image: memoryview) -> None:
        try:
            if self._direct and len(image) >= _DIRECT_BYTES:
                try:
                    _write_whole(path, os.O_DIRECT, image)
                    return
                except OSError as failure:
                    if failure.errno != errno.EINVAL:
                        raise
                    self._direct = False  # tmpfs and others cannot
            _write_whole(path, 0, image)
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError:
            with suppress(OSError):
                os.unlink(path)
            raise

    def resize(self, limit_bytes: int, go_on: Callable[[], None] = lambda: None) -> None:
        """Has another limit from now on; returns when what is kept is within it. `go_on` is called now and then, and
        may raise to end that early: what is too much then goes with the next values. Raises OSError.
        """
        self.limit_bytes = limit_bytes
        try:
            with self._database_lock:
                wanted = self._too_much(self._taken_bytes)
            while wanted > 0:
                go_on()
                # A batch at a time: writers, and whoever asks how much there is, come between.
                with self._database_lock:
                    gone = self._evict(wanted)
                if not gone:
                    break
                wanted -= gone
        except sqlite3.Error as failure:
            raise OSError(f"the accounting of {self._folder} failed: {failure}") from failure

    def room_bytes(self) -> int:
        """What the disk has for values, with those that are there. Raises OSError."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize + self.used_bytes()

    def _make_room(self, coming: int) -> None:
        """Evicts what was used longest ago until the coming bytes fit. Called with the database's lock."""
        wanted = self._too_much(coming)
        while wanted > 0:
            gone = self._evict(wanted)
            if not gone:
                if coming > self._room():
                    raise OSError("no room is left on the cache's disk")
                return
            wanted -= gone

    def _drop_files(self, keys: list[Key]) -> None:
        """Called with the database's lock."""
        valuefolder.remove(self._database, keys)
        for key in keys:
            with suppress(FileNotFoundError):
                os.unlink(self._path(key))
            self._on_eviction(key)

    def _room(self) -> int:
        """What all files may take: the limit, or what the disk has."""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize - valuefolder.reserve_bytes(disk)
        return min(self.limit_bytes, valuefolder.total_bytes(self._database) + free)

    def _too_much(self, coming: int) -> int:
        """Bytes to be evicted before the coming ones fit, and a little more then; 0 where they do."""
        total, limit = valuefolder.total_bytes(self._database), self._room()
        return total + coming - limit + limit // _SLACK if total + coming > limit else 0

    def _evict(self, wanted: int) -> int:
        """Evicts some of what was used longest ago, up to the wanted bytes or a batch; gives how many bytes went, 0
        where there is nothing. Called with the database's lock."""
        if self._used:
            self._account([])
        victims: list[Key] = []
        gone = 0
        for owner, number, file_bytes, _ in valuefolder.oldest(self._database, _BATCH_VALUES):
            if gone >= wanted:
                break
            if (owner, number) in self._taken:
                continue  # its file is being replaced
            victims.append((owner, number))
            gone += file_bytes
        if victims:
            self._drop_files(victims)
        return gone

    def _account(self, written: list[tuple[Key, memoryview]]) -> None:
        """Counts what was written, what was used and what is gone. Called with the database's lock."""
        now = int(time.time())
        with self._lock:
            used, self._used = self._used, set()
            unwanted, self._unwanted = self._unwanted, set()
        if unwanted:
            # Before what was written is counted: what was damaged has been fetched and written again by now.
            valuefolder.remove(self._database, unwanted)
        valuefolder.note_use(self._database, used, now, [(*key, len(image), now) for key, image in written])

    def _adopt(self, folder: int) -> None:
        """Counts the files of one folder that a crash, or a lost database, left uncounted; drops half-written ones."""
        place = self._folder / valuefolder.folder_name(folder)
        rows = []
        with suppress(FileNotFoundError), os.scandir(place) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                key = valuefolder.key_of(entry.name)
                if valuefolder.is_unfinished(entry.name) and time.time() - facts.st_mtime > 3600:
                    os.unlink(entry.path)
                elif key is not None:
                    rows.append((*key, facts.st_size, int(facts.st_mtime)))
        if rows:
            with self._database_lock:
                valuefolder.count_in(self._database, self._folder, rows)

    def _begin_anew(self, damaged: sqlite3.Connection, failure: Exception) -> None:
        """The database is damaged, or gone with its folder: another takes its place, and files are counted in again."""
        with self._database_lock, suppress(*_FAILURES):
            if self._database is not damaged:
                return  # another writer was first
            damaged.close()
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self._folder / valuefolder.DATABASE
            if file.exists():
                set_aside(file, failure)
            self._database = valuefolder.open_index(self._folder)
            self._swept = 0

    # -- names and failures

    def _path(self, key: Key) -> str:
        return valuefolder.path_of(self._folder, key)

    def _failed(self, failure: BaseException) -> None:
        with self._lock:
            self.errors += 1
            self._failed_in_row += 1
            if self._failed_in_row >= _PATIENCE:
                self._failed_in_row = 0
                self._rest_until = time.monotonic() + _PAUSE_S
        log.warning("the cache folder %s failed (%s); reading goes on without it", self._folder, failure)


def _opened(path: str, key: Key, length: int) -> Value | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    value = Value(key, descriptor, length)  # which closes it
    return value if os.fstat(descriptor).st_size == file_bytes_of(length) else None


def _read_into(path: str, flags: int, into: memoryview) -> int:
    """How many bytes of a file came."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        return os.preadv(descriptor, [into], 0)
    finally:
        os.close(descriptor)


def _write_whole(path: str, flags: int, image: memoryview) -> None:
    """Makes a new file of these bytes. Raises OSError where one is there, or not all could be written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, 0o600)
    try:
        if os.write(descriptor, image) != len(image):
            raise OSError(errno.ENOSPC, "it was not written whole", path)
    finally:
        os.close(descriptor)
