"""Bytes of remote objects at hand: in memory, on disk, or fetched, and fetched before they are asked for.

Hides what is kept where, who fetches what for whom, and how much is under way at once. Called by ObjectFile, which
holds one `CachedObject` for each open file. Three things meet here:

* units: pieces of one version of one object, aligned, of three sizes. An isolated read fetches and keeps blocks, so
  that random reading costs little more than what was asked for; a stream fetches and keeps the largest that fit. A unit
  is found in memory, else on disk (disk.py, where it is checksummed);
* flights: ranges that are being fetched. Whoever first misses a block fetches it, all others wait for that flight;
* readahead: every read is told to readahead.py, and the ranges that it names are fetched by threads of this module.

Any thread may call. There is one lock, `_lock`, over units, flights, readahead and the queue of ranges; nothing is
fetched, read, written or waited for under it (the threads that fetch ahead wait on it for work). `ready` never blocks
and is for the event loop's thread alone.
"""

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from vfs import malloc
from vfs.disk import Disk
from vfs.errors import CorruptData, EgofsError, Unavailable
from vfs.extent import Buffer, clip
from vfs.fetchers import Fetchers, Work
from vfs.flight import Flights
from vfs.readahead import Piece, Readahead
from vfs.sources import ObjectInfo, Source
from vfs.units import Units
from vfs.valuefile import Damaged, Key, Value

log = logging.getLogger(__name__)

# Sizes of units. Streams fetch the larger ones: each file costs 0.1 ms, and a piece that a request needs two of is
# copied. An isolated read is rounded to the smallest: 128 KiB take 2 ms at 60 MB/s, a tenth of a usual wait for the
# first byte.
UNIT_BYTES = (4 << 20, 1 << 20, 128 << 10)
BLOCK_BYTES = UNIT_BYTES[-1]
# An object of up to this size is fetched whole at its first read. A read of half as much loads whole units from disk.
CHUNK_BYTES = UNIT_BYTES[1]
_LEVELS = len(UNIT_BYTES)
# What is on disk between two ranges that are not is fetched again where it is smaller than this: to send 512 KiB takes
# less than the wait for another answer.
_ISLAND_BYTES = 512 << 10
# Fetched or being fetched ahead of all readers together: 20 requests of 4 MiB. A third of it has come and waits for its
# reader, so that 13 are under way, which at 60 MB/s a connection and 20 ms to the first byte come to 600 MB/s.
AHEAD_BYTES = 80 << 20
_FETCHERS = 28
# Units in memory. They are there to be read once, from where the kernel keeps them in its pages; read again, they come
# from disk. More than AHEAD_BYTES, for what readers are in the middle of, or what was fetched ahead would be gone
# before its reader comes; of those that were read to their ends so many stay, for others who read the same.
MEMORY_BYTES = 96 << 20
_SPENT_BYTES = 16 << 20
# Lines of what is fetched ahead that are no stream's.
_ERRANDS, _OBJECTS = -1, -2
# Open files of units on disk, whose checksums need not be compared again.
_OPEN_VALUES = 256
# So many reads of a unit on disk that each had to wait for it and check a block: then all of it is checked, which takes
# 2 ms, and further reads of it wait for nothing.
_WARM_AFTER = 3
# Largest request that `ready` serves; the kernel's largest.
_SCRATCH_BYTES = 1 << 20
# After so long without a read, memory is given back and the threads end.
_IDLE_S = 10.0
# Who reads on after a fetch fetches again within so long.
_MOMENT_S = 0.5
# A disk that is slower than the network is waited for before anything is fetched ahead, a little.
_BEHIND_S = 2.0


@dataclass
class CacheCounters:
    """What the cache has done since it was opened. The first four count blocks of 128 KiB that readers asked for."""

    memory_hits: int = 0
    """They were in memory, or in a file on disk that was open and checked."""
    disk_hits: int = 0
    misses: int = 0
    """They were fetched while their reader waited."""
    waits: int = 0
    """They were being fetched already, ahead or for another reader, and were waited for."""
    bytes_ahead: int = 0
    damaged: int = 0


Unit: TypeAlias = memoryview | Value
"""A piece of an object at hand: its bytes, or its open file."""


class _Flight:
    """A range that is being fetched. `parts` are the units of it, by where they start, once `landed` has a result."""

    __slots__ = ("end", "fetched_bytes", "landed", "parts", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.parts: list[tuple[int, Unit]] = []
        self.landed: Future[None] = Future()
        self.fetched_bytes = 0


class ChunkCache:
    """A cache for the objects of all sources; see the module's docstring."""

    def __init__(
        self,
        folder: Path | None,
        limit_bytes: int,
        memory_bytes: int = MEMORY_BYTES,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        """Keeps nothing on disk where `folder` is None. Raises OSError where the folder cannot be used."""
        self.counters = CacheCounters()
        self._lock = threading.Lock()
        self._units = Units(memory_bytes, _SPENT_BYTES)
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._readahead = Readahead(ahead_bytes)
        self._disk_turn = threading.Lock()
        self._fetchers = Fetchers(_FETCHERS, _IDLE_S, self._is_unused, self._give_back_memory)
        self._read_at_s = self._fetched_at_s = 0.0
        self._holding = 0
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._disk = Disk(folder, limit_bytes, self._evicted) if folder is not None else None

    @property
    def disk(self) -> Disk | None:
        """What is kept on disk, for others who keep something there."""
        return self._disk

    @property
    def hit_rate(self) -> float | None:
        """Which part of what readers asked for they had without waiting for a store; None before anybody asked."""
        counters = self.counters
        hits = counters.memory_hits + counters.disk_hits
        asked = hits + counters.misses + counters.waits
        return hits / asked if asked else None

    @property
    def limit_bytes(self) -> int:
        """How much may be kept on disk."""
        return self._disk.limit_bytes if self._disk else 0

    @property
    def disk_errors(self) -> int:
        """How often the disk has failed."""
        return self._disk.errors if self._disk else 0

    def used_bytes(self) -> int:
        """Bytes that the cache folder holds."""
        return self._disk.used_bytes() if self._disk else 0

    def bytes_on_disk(self, thing: "CachedObject") -> int:
        """How many of an object's bytes are on disk; what several units hold counts once."""
        if self._disk is None:
            return 0
        return covered_bytes(self._disk.kept_of(thing.owner), 0, thing.info.size_bytes)

    def let_go(self) -> None:
        """Closes values' files that nobody reads at the moment: one that was removed takes its space until then."""
        with self._lock:
            values, self._values = self._values, OrderedDict()
        values.clear()

    def settle(self) -> None:
        """Returns when nothing is being fetched ahead and everything is on disk that is to be."""
        deadline = time.monotonic() + _IDLE_S
        while (self._flights or self._fetchers.is_busy()) and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._disk:
            self._disk.settle()

    def close(self) -> None:
        """Ends the threads; what is kept stays for the next mount."""
        self._fetchers.close()
        if self._disk:
            self._disk.close()

    def object(self, source: Source, obj: ObjectInfo) -> "CachedObject":
        """One version of one object, to be read."""
        return CachedObject(self, source, obj)

    # -- reading

    def ready(self, thing: "CachedObject", start: int, length: int) -> Buffer | None:
        """The range if it is at hand without waiting. The buffer is valid until the next call."""
        with self._lock:
            parts = self._at_hand(thing, start, length)
            if parts is None or not thing.is_planned():
                self._observe(thing, start, length, waits=parts is None)
            self._let_go(thing, parts or (), start + length)
        if parts is None:
            thing.observed.add((start, length))
            return None
        at, unit = parts[0]
        if len(parts) == 1 and not isinstance(unit, Value):
            self.counters.memory_hits += -(-length // BLOCK_BYTES)
            return unit[start - at : start - at + length]
        if length <= _SCRATCH_BYTES and self._gather(parts, start, length):
            self.counters.memory_hits += -(-length // BLOCK_BYTES)
            return self._scratch[:length]
        thing.observed.add((start, length))
        return None

    def _gather(self, parts: list[tuple[int, Unit]], start: int, length: int) -> bool:
        """Copies the range together in the scratch buffer; False where a part would have to be waited for."""
        position = start
        for at, unit in parts:
            count = min(at + _length(unit), start + length) - position
            into = self._scratch[position - start : position - start + count]
            if isinstance(unit, Value):
                if not unit.ready(position - at, into):
                    return False
            else:
                into[:] = unit[position - at : position - at + count]
            position += count
        return True

    def read(self, thing: "CachedObject", start: int, length: int) -> Buffer:
        """The range, which lies within the object; blocks. Raises what the source raises."""
        observed = (start, length) in thing.observed
        with self._lock:
            thing.observed.discard((start, length))
            if not observed:
                waits = self._at_hand(thing, start, length) is None
                if waits or not thing.is_planned():
                    self._observe(thing, start, length, waits=waits)
            parts, mine = self._launch(thing, start, length)
            self._count(parts, mine, start, start + length)
        self._fly(thing, mine, load=False)
        units: list[tuple[int, Unit]] = []
        for at, part in parts:
            if isinstance(part, _Flight):
                if part not in mine:
                    Flights.wait(part.landed, thing.info.key)
                units += part.parts
            else:
                units.append((at, part))
        with self._lock:
            self._let_go(thing, units, start + length)
        try:
            data = _joined(units, start, length)
            self._warm(units)
            return data
        except _Useless as failure:
            self._drop(failure.value.key)
            thing.observed.add((start, length))
            return self.read(thing, start, length)

    def _warm(self, units: list[tuple[int, Unit]]) -> None:
        """Has the rest of a unit checked, and brought into the kernel's pages, when it is read here and there."""
        for _, unit in units:
            if isinstance(unit, Value) and unit.misses == _WARM_AFTER:
                unit.misses += 1
                self.later(partial(self._check, unit))

    def _check(self, value: Value) -> None:
        for start in range(0, value.length, CHUNK_BYTES):
            try:
                value.read(start, min(CHUNK_BYTES, value.length - start))
            except (Damaged, OSError):
                self._drop(value.key)
                return

    # -- finding; all called with the lock

    def _unit_at(self, thing: "CachedObject", position: int) -> tuple[int, Unit] | None:
        """The unit at hand that holds a byte, and where it starts."""
        for level, size_bytes in enumerate(UNIT_BYTES):
            index = position // size_bytes
            key = (thing.owner, index * _LEVELS + level)
            unit = self._units.get(key)
            if unit is not None:
                return index * size_bytes, unit
            value = self._values.get(key)
            if value is not None and self._disk is not None:
                self._values.move_to_end(key)
                self._disk.used(key)
                return index * size_bytes, value
        return None

    def _let_go(self, thing: "CachedObject", parts: Iterable[tuple[int, Unit]], end: int) -> None:
        """Units read to their ends are the next to go from memory, before those that nobody has read yet."""
        for at, unit in parts:
            if isinstance(unit, Value) or at + len(unit) > end:
                continue
            for level, size_bytes in enumerate(UNIT_BYTES):
                key = (thing.owner, at // size_bytes * _LEVELS + level)
                if at % size_bytes == 0:
                    self._units.spend(key, unit)

    def _at_hand(self, thing: "CachedObject", start: int, length: int) -> list[tuple[int, Unit]] | None:
        """The units that make up a range, in order; None where one is missing."""
        parts = []
        position = start
        while position < start + length:
            found = self._unit_at(thing, position)
            if found is None:
                return None
            parts.append(found)
            position = found[0] + _length(found[1])
        return parts

    def _launch(
        self, thing: "CachedObject", start: int, length: int
    ) -> "tuple[list[tuple[int, Unit | _Flight]], list[_Flight]]":
        """The units and flights that make up a range; and the flights among them that the caller has to fly."""
        parts: list[tuple[int, Unit | _Flight]] = []
        mine: list[_Flight] = []
        size_bytes = thing.info.size_bytes
        end = min(-(-(start + length) // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        position = start // BLOCK_BYTES * BLOCK_BYTES
        if size_bytes <= CHUNK_BYTES:
            position, end = 0, size_bytes
        while position < end:
            found = self._unit_at(thing, position)
            flight = self._flights.get((thing.owner, position // BLOCK_BYTES)) if found is None else None
            if found is not None:
                parts.append(found)
                position = found[0] + _length(found[1])
            elif flight is not None:
                parts.append((flight.start, flight))
                position = flight.end
            else:
                position, begin = self._free_until(thing, position, end), position
                flight = self._take_off(thing, begin, position)
                parts.append((begin, flight))
                mine.append(flight)
        return parts, mine

    def _count(self, parts: "list[tuple[int, Unit | _Flight]]", mine: list[_Flight], start: int, end: int) -> None:
        """Counts the blocks of a reader's range but those that `mine` fetches, which `_fill` does."""
        for at, part in parts:
            stop = part.end if isinstance(part, _Flight) else at + _length(part)
            blocks = -(-max(0, min(stop, end) - max(at, start)) // BLOCK_BYTES)
            if isinstance(part, _Flight):
                self.counters.waits += 0 if part in mine else blocks
            elif isinstance(part, Value):
                self.counters.disk_hits += blocks
            else:
                self.counters.memory_hits += blocks

    def _free_until(self, thing: "CachedObject", position: int, end: int) -> int:
        """How far from a position on nothing is at hand or under way."""
        while position < end:
            position = min(position + BLOCK_BYTES, end)
            if (thing.owner, position // BLOCK_BYTES) in self._flights or self._unit_at(thing, position) is not None:
                break
        return position

    def _observe(self, thing: "CachedObject", start: int, length: int, *, waits: bool) -> None:
        """Tells readahead of a read, and has fetched what it names."""
        self._read_at_s = now_s = time.monotonic()
        pieces = self._readahead.access(thing.owner, thing.info.size_bytes, start, length, waits=waits, now_s=now_s)
        for piece in pieces:
            self._fetchers.add(id(piece.stream), [partial(self._fetch_piece, thing, piece)])
        if not pieces and self._fetchers.is_resting:
            self._fetchers.add(_ERRANDS)  # somebody has to give memory back in the end

    # -- fetching

    def _fly(
        self,
        thing: "CachedObject",
        flights: list[_Flight],
        *,
        load: bool,
        is_wanted: Callable[[], bool] | None = None,
    ) -> None:
        """Gets the ranges of the caller's flights from disk or source, and ends each of them whatever happens.

        With `is_wanted` for the disk alone, which is waited for."""
        for number, flight in enumerate(flights):
            try:
                self._fill(thing, flight, load=load, is_wanted=is_wanted)
            except BaseException as failure:
                # Waiters must not share a KeyboardInterrupt or the like; for them the fetch has just failed.
                shared = failure if isinstance(failure, EgofsError) else None
                for lost in flights[number:]:
                    self._end(thing, lost)
                    lost.landed.set_exception(shared or CorruptData(f"{thing.info.key}: fetching it was broken off"))
                raise
            flight.parts.sort(key=_start_of)
            self._end(thing, flight)
            flight.landed.set_result(None)

    def _fill(
        self, thing: "CachedObject", flight: _Flight, *, load: bool, is_wanted: Callable[[], bool] | None
    ) -> None:
        whole = load or (is_wanted is None and flight.end - flight.start >= CHUNK_BYTES // 2)
        missing = self._missing(thing, flight, load=whole)
        if not load and is_wanted is None:
            found = flight.end - flight.start - sum(end - start for start, end in missing)
            with self._lock:
                self.counters.disk_hits += -(-found // BLOCK_BYTES)
        for start, end in missing:
            if is_wanted is None:
                self._fetched_at_s = time.monotonic()
            data = thing.source.read(thing.info, start, end - start)
            if len(data) != end - start:
                raise CorruptData(f"{thing.info.key}: {len(data)} bytes came for {end - start} at {start}")
            flight.fetched_bytes += end - start
            self._keep(thing, flight, start, memoryview(data), is_wanted)
            with self._lock:
                if load:
                    self.counters.bytes_ahead += end - start
                elif is_wanted is None:
                    self.counters.misses += -(-(end - start) // BLOCK_BYTES)

    def _end(self, thing: "CachedObject", flight: _Flight) -> None:
        with self._lock:
            for block in range(flight.start // BLOCK_BYTES, -(-flight.end // BLOCK_BYTES)):
                del self._flights[thing.owner, block]

    def _missing(self, thing: "CachedObject", flight: _Flight, *, load: bool) -> list[tuple[int, int]]:
        """The ranges of a flight that are not on disk. What is there becomes part of the flight."""
        missing: list[tuple[int, int]] = []
        position = flight.start
        while position < flight.end:
            # A larger unit that holds this byte began before, and was looked for there. What is always fetched whole
            # is one unit.
            levels = [n for n, size in enumerate(UNIT_BYTES) if position % size == 0 or position == flight.start]
            levels = levels if thing.info.size_bytes > CHUNK_BYTES else levels[:1]
            found = self._on_disk(thing, position, levels, load=load)
            if found is not None:
                flight.parts.append(found)
                position = found[0] + _length(found[1])
                continue
            end = min(position + BLOCK_BYTES, flight.end)
            if missing and position - missing[-1][1] < _ISLAND_BYTES:
                missing[-1] = missing[-1][0], end
            else:
                missing.append((position, end))
            position = end
        return missing

    def _on_disk(
        self, thing: "CachedObject", position: int, levels: list[int], *, load: bool
    ) -> tuple[int, Unit] | None:
        """The unit on disk that holds a byte, and where it starts; with `load` its bytes too, else an open file."""
        if self._disk is None:
            return None
        for level in levels:
            size_bytes = UNIT_BYTES[level]
            index = position // size_bytes
            start = index * size_bytes
            key = (thing.owner, index * _LEVELS + level)
            length = clip(start, size_bytes, thing.info.size_bytes)
            try:
                found = self._disk.load(key, length) if load else self._disk.find(key, length)
            except Damaged:
                self._drop(key)
                continue
            if found is None:
                continue
            unit: Unit
            if isinstance(found, Value):
                unit = found
                self._remember_value(found)
            else:
                unit = memoryview(found)
                self._remember(key, unit)
            return start, unit
        return None

    def _keep(
        self,
        thing: "CachedObject",
        flight: _Flight,
        start: int,
        data: memoryview,
        is_wanted: Callable[[], bool] | None,
    ) -> None:
        """Cuts fetched bytes into units, for memory and for disk; with `is_wanted` for the disk alone."""
        position, end = start, start + len(data)
        while position < end:
            level, stop = _largest_unit(position, end, thing.info.size_bytes)
            key = (thing.owner, position // UNIT_BYTES[level] * _LEVELS + level)
            unit = data[position - start : stop - start]
            kept = None
            if self._disk is not None:
                kept = self._disk.keep(key, unit) if is_wanted is None else self._disk.keep_surely(key, unit, is_wanted)
            unit = unit if kept is None else kept
            flight.parts.append((position, unit))
            if is_wanted is None:
                self._remember(key, unit)
            position = stop

    def _remember(self, key: Key, unit: memoryview) -> None:
        with self._lock:
            self._units.put(key, unit)

    def _remember_value(self, value: Value) -> None:
        with self._lock:
            self._values[value.key] = value
            if len(self._values) > _OPEN_VALUES:
                self._values.popitem(last=False)

    # -- for the disk

    def is_on_disk(self, thing: "CachedObject", start: int, length: int) -> bool:
        """Whether all of a range is on disk, or about to be. Reads none of it."""
        return self._absent(thing, start, length) is None

    def bring(self, thing: "CachedObject", start: int, length: int, is_wanted: Callable[[], bool]) -> int:
        """Has a range on disk that lies within one of the largest units, and gives how many bytes were fetched for it.

        What is there is not fetched, what somebody fetches is waited for, and memory is left to readers. A disk slower
        than the network is waited for while `is_wanted`; after that the range may not be on disk. Raises what the
        source raises, and Unavailable where the disk takes nothing.
        """
        assert self._disk is not None, "only a disk is brought anything to"
        self._disk.await_turn(is_wanted)
        while (absent := self._absent(thing, start, length)) is not None and is_wanted():
            with self._lock:
                flight = self._first_flight(thing, *absent)
                mine = self._take_off(thing, *absent) if flight is None else None
            if mine is not None:
                self._fly(thing, [mine], load=False, is_wanted=is_wanted)
                if is_wanted() and self._absent(thing, start, length) is not None:
                    raise Unavailable(f"{thing.info.key}: the cache's disk does not keep it: egofs doctor may know why")
                return mine.fetched_bytes
            if flight is not None:
                with suppress(EgofsError):  # who fetches it hears of it, and then it is fetched again
                    Flights.wait(flight.landed, thing.info.key)
        return 0

    @property
    def is_fetching(self) -> bool:
        """Whether something is being fetched for readers, or was a moment ago."""
        return time.monotonic() - self._fetched_at_s < _MOMENT_S

    def rest_later(self) -> None:
        """Sees that memory is given back when nothing has been read for a while."""
        self._fetchers.add(_ERRANDS)

    def _absent(self, thing: "CachedObject", start: int, length: int) -> tuple[int, int] | None:
        """From where to where, in whole blocks, something of a range is not on disk."""
        assert self._disk is not None, "only a disk holds anything"
        size_bytes = thing.info.size_bytes
        end = min(start + length, size_bytes)
        position = start // BLOCK_BYTES * BLOCK_BYTES
        first = last = -1
        none: set[int] = set()  # not looked for again at each of their blocks
        while position < end:
            for level, unit_bytes in enumerate(UNIT_BYTES):
                index = position // unit_bytes
                number = index * _LEVELS + level
                if number in none:
                    continue
                if self._disk.holds((thing.owner, number), clip(index * unit_bytes, unit_bytes, size_bytes)):
                    position = (index + 1) * unit_bytes
                    break
                none.add(number)
            else:
                first = position if first < 0 else first
                position = last = position + BLOCK_BYTES
        return (first, min(last, size_bytes)) if first >= 0 else None

    def _first_flight(self, thing: "CachedObject", start: int, end: int) -> _Flight | None:
        """Called with the lock."""
        blocks = range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        return next(
            (self._flights[thing.owner, block] for block in blocks if (thing.owner, block) in self._flights), None
        )

    def _take_off(self, thing: "CachedObject", start: int, end: int) -> _Flight:
        """A flight of a range of which nothing is under way. Called with the lock."""
        flight = _Flight(start, end)
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            self._flights[thing.owner, block] = flight
        return flight

    def _evicted(self, key: Key) -> None:
        with self._lock:
            self._values.pop(key, None)

    def _drop(self, key: Key) -> None:
        """What was kept is not what is there: it is fetched again."""
        assert self._disk is not None, "only the disk keeps anything"
        with self._lock:
            self._values.pop(key, None)
            self.counters.damaged += 1
        self._disk.discard(key)
        log.warning("a damaged piece was found in the cache and dropped; it is fetched again")

    def forget(self, thing: "CachedObject") -> None:
        """Lets go of all that is kept of an object, in memory and on disk: it is not what the store has."""
        if self._disk is not None:
            self._disk.settle()  # what waits to be written cannot be discarded
        with self._lock:
            self._units.forget(lambda key: key[0] == thing.owner)
            for key in [key for key in self._values if key[0] == thing.owner]:
                del self._values[key]
        if self._disk is not None:
            for number in self._disk.kept_of(thing.owner):
                self._disk.discard((thing.owner, number))

    # -- ahead

    def later(self, work: Work) -> None:
        """Has something small done by a thread that may block."""
        self._fetchers.add(_ERRANDS, [work])

    def fetch_ahead(self, source: Source, obj: ObjectInfo) -> None:
        """Has an object brought to hand that is likely to be read soon, whole."""
        if obj.size_bytes:
            thing, piece = self.object(source, obj), Piece(0, obj.size_bytes, None)
            self._fetchers.add(_OBJECTS, [partial(self._fetch_piece, thing, piece)])

    def prefetch(self, thing: "CachedObject", start: int, length: int) -> int:
        """Has a range at hand that is going to be read, and gives how many bytes were fetched; blocks. Readahead hears
        nothing of it. Raises what the source raises."""
        self._wait_for_disk()
        with self._lock:
            parts, mine = self._launch(thing, start, length)
        self._fly(thing, mine, load=True)
        for _, part in parts:
            if isinstance(part, _Flight) and part not in mine:
                Flights.wait(part.landed, thing.info.key)
        return sum(flight.fetched_bytes for flight in mine)

    def hold(self, count: int) -> None:
        """So many more (or fewer) have things brought to hand that must not go when nothing is read for a while."""
        with self._lock:
            self._holding += count

    def _fetch_piece(self, thing: "CachedObject", piece: Piece) -> None:
        self._wait_for_disk()
        with self._lock:
            if not piece.is_wanted():
                return
            _, mine = self._launch(thing, piece.start, piece.length)
        try:
            self._fly(thing, mine, load=True)
        except EgofsError as failure:
            # Whoever waits for it has been told; a reader who comes later asks again.
            log.info("fetching ahead: %s", failure)

    def _wait_for_disk(self) -> None:
        """A disk slower than the network sets the pace, so that what is read is kept: for a while, not for ever.

        One thread at a time looks, so that who came first goes first: its bytes are needed before those of the others.
        """
        if self._disk is None or not self._disk.is_behind():
            return
        give_up = time.monotonic() + _BEHIND_S
        if self._disk_turn.acquire(timeout=_BEHIND_S):
            try:
                while self._disk.is_behind() and time.monotonic() < give_up:
                    time.sleep(0.002)
            finally:
                self._disk_turn.release()

    def _is_unused(self) -> bool:
        return not self._holding and time.monotonic() - self._read_at_s > _IDLE_S

    def _give_back_memory(self) -> None:
        """Nothing was read for a while."""
        with self._lock:
            self._units.clear()
        if self._disk is not None:
            self._disk.give_back_memory()
        malloc.give_back()


class CachedObject:
    """One version of one object, as one opener reads it."""

    def __init__(self, cache: ChunkCache, source: Source, info: ObjectInfo) -> None:
        self.source = source
        self.info = info
        self.owner = owner_of(source.url, info)
        self.observed: set[tuple[int, int]] = set()
        """Ranges that readahead need not hear of: `ready` told it and did not have them, or they are isolated."""
        self.is_planned: Callable[[], bool] = _no
        """Whether readahead need not hear of reads whose bytes are at hand: they were brought, and prove no stream."""
        self._cache = cache

    def ready(self, start: int, length: int) -> Buffer | None:
        """The range, within the object, if it is at hand; never blocks. The buffer is valid until the next call."""
        return self._cache.ready(self, start, length)

    def read(self, start: int, length: int, *, isolated: bool = False) -> Buffer:
        """The range, within the object; blocks. Readahead hears nothing of an isolated one. Raises what `Source.read`
        raises."""
        if isolated:
            self.observed.add((start, length))
        return self._cache.read(self, start, length)

    def prefetch(self, start: int, length: int) -> int:
        """`ChunkCache.prefetch`."""
        return self._cache.prefetch(self, start, length)

    def forget(self) -> None:
        """`ChunkCache.forget`."""
        self._cache.forget(self)

    def cached_bytes(self) -> int:
        """How many of the object's bytes are on disk."""
        return self._cache.bytes_on_disk(self)

    def is_on_disk(self, start: int, length: int) -> bool:
        """`ChunkCache.is_on_disk`."""
        return self._cache.is_on_disk(self, start, length)

    def bring(self, start: int, length: int, is_wanted: Callable[[], bool]) -> int:
        """`ChunkCache.bring`."""
        return self._cache.bring(self, start, length, is_wanted)


def owner_of(source_url: str, info: ObjectInfo) -> bytes:
    """Under what the units of one version of one object are on disk."""
    return hashlib.blake2b(os.fsencode(f"{source_url}\0{info.identity}"), digest_size=16).digest()


def covered_bytes(numbers: Iterable[int], start: int, end: int) -> int:
    """How many bytes of a range within an object the units of these numbers have; what several have counts once."""
    places = sorted(
        (number // _LEVELS * UNIT_BYTES[number % _LEVELS], UNIT_BYTES[number % _LEVELS]) for number in numbers
    )
    total, position = 0, start
    for begin, size in places:
        stop = min(begin + size, end)
        total += max(0, stop - max(begin, position))
        position = max(position, stop)
    return total


def units_within(start: int, end: int) -> set[int]:
    """The numbers of all units that lie in a range of an object."""
    return {
        index * _LEVELS + level
        for level, size_bytes in enumerate(UNIT_BYTES)
        for index in range(-(-start // size_bytes), end // size_bytes)
    }


def _no() -> bool:
    return False


class _Useless(Exception):
    """A value that turned out damaged."""

    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value


def _joined(units: list[tuple[int, Unit]], start: int, length: int) -> Buffer:
    """The range out of units that cover it, in order. Raises _Useless."""
    pieces: list[Buffer] = []
    position, end = start, start + length
    for at, unit in units:
        stop = min(at + _length(unit), end)
        if not at <= position < stop:
            continue
        if isinstance(unit, Value):
            try:
                pieces.append(unit.read(position - at, stop - position))
            except (Damaged, OSError) as failure:
                raise _Useless(unit) from failure
        else:
            pieces.append(unit[position - at : stop - at])
        position = stop
    assert position == end, "the units cover the range"
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _largest_unit(start: int, end: int, size_bytes: int) -> tuple[int, int]:
    """Level and end of the largest unit that begins at `start` and lies before `end`, in an object of that size."""
    for level, unit_bytes in enumerate(UNIT_BYTES):
        stop = min(start + unit_bytes, size_bytes)
        if start % unit_bytes == 0 and stop <= end:
            return level, stop
    raise AssertionError(f"ranges are made of whole blocks, not {start} to {end} of {size_bytes}")


def _start_of(part: tuple[int, Unit]) -> int:
    return part[0]


def _length(unit: Unit) -> int:
    return unit.length if isinstance(unit, Value) else len(unit)
