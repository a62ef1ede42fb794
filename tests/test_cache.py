import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.memorysource import MemorySource
from vfs import cache as cache_module
from vfs import disk as disk_module
from vfs.cache import BLOCK_BYTES, CHUNK_BYTES, UNIT_BYTES, CachedObject, ChunkCache
from vfs.errors import Changed, CorruptData, EgofsError, NotFound, Unavailable

MIB = 1 << 20
SIZE = 3 * CHUNK_BYTES + 1000
FAR = 10 * MIB
"""Of two reads so far from each other neither continues the other."""

NOISE = random.Random(0).randbytes(64 * MIB)

NAMED_THREADS = {"fetch-ahead", "cache-writer"}


def noise(size: int) -> bytes:
    """Bytes of which no two ranges are equal."""
    return NOISE[:size]


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in NAMED_THREADS]


@pytest.fixture(autouse=True)
def quick_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_NOTE_USE_S", 0.002)
    monkeypatch.setattr(disk_module, "_SWEEP_S", 0.0001)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({"a": noise(SIZE)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., ChunkCache]]:
    """Opens a cache over the folder, or over what is given; all are closed in the end."""
    caches: list[ChunkCache] = []

    def open_cache(folder: Path | None = folder, limit_bytes: int = 1 << 30, **bounds: int) -> ChunkCache:
        caches.append(ChunkCache(folder, limit_bytes, **bounds))
        return caches[-1]

    yield open_cache
    for cache in caches:
        cache.close()


def thing_of(cache: ChunkCache, source: MemorySource, key: str = "a") -> CachedObject:
    return cache.object(source, source.info(key))


def check(thing: CachedObject, start: int, length: int) -> None:
    """Reads a range as a mount does: what is ready at once, else by waiting."""
    data = thing.ready(start, length)
    if data is None:
        data = thing.read(start, length)
    assert data == thing.source.objects[thing.info.key][start : start + length]


def run(thing: CachedObject, start: int = 0, end: int | None = None, step: int = BLOCK_BYTES) -> None:
    end = thing.info.size_bytes if end is None else end
    for at in range(start, end, step):
        check(thing, at, min(step, end - at))


def ranges(source: MemorySource) -> list[tuple[int, int]]:
    return [(start, length) for _, start, length in source.reads]


def fetched(source: MemorySource) -> int:
    return sum(length for _, _, length in source.reads)


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What the calls give, or raise, each in a thread of its own."""
    got: list[object] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def call(number: int) -> None:
        start.wait()
        try:
            got[number] = calls[number]()
        except Exception as failure:  # noqa: BLE001 - it is the result
            got[number] = failure

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
    return got


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


# -- what is fetched


@pytest.mark.parametrize(
    ("start", "length", "request_"),
    [
        (0, BLOCK_BYTES, (0, BLOCK_BYTES)),
        (FAR, BLOCK_BYTES, (FAR, BLOCK_BYTES)),
        (FAR + 7, 1, (FAR, BLOCK_BYTES)),
        (FAR + 7, BLOCK_BYTES, (FAR, 2 * BLOCK_BYTES)),
        (FAR + CHUNK_BYTES - 10, 20, (FAR + CHUNK_BYTES - BLOCK_BYTES, 2 * BLOCK_BYTES)),
        (2 * FAR - 5, 5, (2 * FAR - BLOCK_BYTES, BLOCK_BYTES)),
        (2 * FAR, 3, (2 * FAR, 1000)),
        (FAR + 5 * BLOCK_BYTES, 3 * CHUNK_BYTES, (FAR + 5 * BLOCK_BYTES, 3 * CHUNK_BYTES)),
    ],
)
def test_an_isolated_read_fetches_its_own_blocks_in_one_request(opened, start, length, request_) -> None:
    source = MemorySource({"a": noise(2 * FAR + 1000)})
    cache = opened()
    check(thing_of(cache, source), start, length)
    cache.settle()
    assert ranges(source) == [request_]


@pytest.mark.parametrize("size", [1, 20_000, BLOCK_BYTES, BLOCK_BYTES + 1, CHUNK_BYTES - 1, CHUNK_BYTES])
def test_a_small_object_is_fetched_whole_in_one_request(opened, size: int) -> None:
    source = MemorySource({"a": noise(size)})
    cache = opened()
    thing = thing_of(cache, source)
    check(thing, size // 2, size - size // 2)
    run(thing, step=50_000)
    cache.settle()
    assert ranges(source) == [(0, size)]
    assert thing.cached_bytes() == size


def test_an_object_of_no_bytes_needs_no_request(opened) -> None:
    source = MemorySource({"a": b""})
    thing = thing_of(opened(), source)
    assert thing.read(0, 0) == b""
    assert thing.cached_bytes() == 0
    assert source.reads == []


@pytest.mark.parametrize("whole", [BLOCK_BYTES, CHUNK_BYTES, UNIT_BYTES[0], UNIT_BYTES[0] + CHUNK_BYTES])
@pytest.mark.parametrize("more", [-1, 0, 1, 4097, BLOCK_BYTES + 1])
@pytest.mark.parametrize("step", [BLOCK_BYTES, 100_001])
def test_objects_of_sizes_around_a_units_are_read_right_and_fetched_once(opened, whole, more, step) -> None:
    source = MemorySource({"a": noise(whole + more)})
    cache = opened()
    thing = thing_of(cache, source)
    run(thing, step=step)
    cache.settle()
    assert fetched(source) == whole + more
    assert thing.cached_bytes() == whole + more
    source.reads.clear()
    cache.close()
    cache = opened()
    run(thing_of(cache, source), step=step)
    check(thing_of(cache, source), 0, whole + more)
    assert source.reads == []


def test_random_reads_give_the_sources_bytes_and_fetch_each_byte_once(opened, source) -> None:
    cache = opened()
    thing, dice = thing_of(cache, source), random.Random(2)
    for _ in range(300):
        start = dice.randrange(SIZE)
        check(thing, start, dice.randrange(1, min(2 * CHUNK_BYTES, SIZE - start) + 1))
    cache.settle()
    assert fetched(source) == SIZE


def test_only_the_gaps_between_cached_pieces_are_fetched(opened) -> None:
    source = MemorySource({"a": noise(16 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    check(thing, 3 * MIB, BLOCK_BYTES)
    check(thing, 9 * MIB, 3 * MIB)
    source.reads.clear()
    check(thing, 2 * MIB, 12 * MIB)
    assert ranges(source)[:3] == [(2 * MIB, MIB), (3 * MIB + BLOCK_BYTES, 6 * MIB - BLOCK_BYTES), (12 * MIB, 2 * MIB)]


def test_only_the_gaps_between_pieces_on_disk_are_fetched(opened) -> None:
    source = MemorySource({"a": noise(16 * MIB)})
    cache = opened()
    check(thing_of(cache, source), 9 * MIB, 3 * MIB)
    cache.close()
    source.reads.clear()
    check(thing_of(opened(), source), 6 * MIB, 8 * MIB)
    assert ranges(source)[:2] == [(6 * MIB, 3 * MIB), (12 * MIB, 2 * MIB)]


def test_units_are_kept_as_large_as_they_came(opened, folder) -> None:
    source = MemorySource({"a": noise(8 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    thing.read(MIB, 7 * MIB)
    thing.read(0, 1)
    cache.settle()
    assert cache._disk is not None
    numbers = cache._disk.kept_of(thing.owner)
    assert sorted(UNIT_BYTES[number % len(UNIT_BYTES)] for number in numbers) == [BLOCK_BYTES, MIB, MIB, MIB, 4 * MIB]
    assert thing.cached_bytes() == 7 * MIB + BLOCK_BYTES


# -- what is found again


def test_what_was_read_is_found_after_a_restart_without_a_request(opened) -> None:
    source = MemorySource({"a": noise(20 * MIB + 5), "b": noise(40 * MIB)})
    cache = opened()
    run(thing_of(cache, source))
    for at in (0, 7 * MIB + 1, 30 * MIB):
        check(thing_of(cache, source, "b"), at, BLOCK_BYTES)
    cache.settle()
    cache.close()
    source.reads.clear()
    cache = opened()
    dice = random.Random(4)
    for _ in range(100):
        start = dice.randrange(20 * MIB)
        check(thing_of(cache, source), start, dice.randrange(1, 300_000) if start < 19 * MIB else 1)
    run(thing_of(cache, source), step=100_000)
    check(thing_of(cache, source), 0, 20 * MIB + 5)
    for at in (30 * MIB, 0, 7 * MIB + 1):
        check(thing_of(cache, source, "b"), at, BLOCK_BYTES)
    assert source.reads == []
    assert cache.counters.damaged == 0


def test_cached_bytes_counts_what_is_on_disk_once(opened) -> None:
    source = MemorySource({"a": noise(10 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    assert thing.cached_bytes() == 0
    check(thing, MIB + 5, 1)
    cache.settle()
    assert thing.cached_bytes() == BLOCK_BYTES
    cache.close()
    cache = opened()
    thing = thing_of(cache, source)
    thing.read(0, 8 * MIB)
    cache.settle()
    assert thing.cached_bytes() == 8 * MIB


def test_a_new_version_is_fetched_and_never_mixed_with_the_old(opened, source) -> None:
    cache = opened()
    old = thing_of(cache, source)
    old.read(0, 10)
    source.objects["a"] = bytes(SIZE)
    with pytest.raises(Changed):
        old.read(2 * CHUNK_BYTES, 10)
    assert thing_of(cache, source).read(0, 10) == bytes(10)
    del source.objects["a"]
    with pytest.raises(NotFound):
        old.read(2 * CHUNK_BYTES, 10)


def test_equal_keys_of_two_sources_are_two_objects(opened) -> None:
    one, other = MemorySource({"a": b"one"}, "memory://one"), MemorySource({"a": b"one"}, "memory://other")
    cache = opened()
    for source in (one, other):
        check(thing_of(cache, source), 0, 3)
    assert len(one.reads) == len(other.reads) == 1


# -- ready


def test_ready_never_asks_the_source_by_itself_and_gives_what_is_at_hand(opened, source) -> None:
    cache = opened()
    thing = thing_of(cache, source)
    assert thing.ready(10, 20) is None
    assert source.reads == []
    thing.read(10, 20)
    assert thing.ready(10, 20) == source.objects["a"][10:30]
    assert thing.ready(BLOCK_BYTES - 5, 10) is None, "half of it is not here"
    assert len(source.reads) == 1


def test_ready_gives_a_range_over_several_units(opened, source) -> None:
    cache = opened()
    thing = thing_of(cache, source)
    thing.read(BLOCK_BYTES, 3 * BLOCK_BYTES)
    assert thing.ready(2 * BLOCK_BYTES - 9, 20) == source.objects["a"][2 * BLOCK_BYTES - 9 : 2 * BLOCK_BYTES + 11]


def test_ready_gives_checked_blocks_of_open_files(opened, source) -> None:
    cache = opened()
    check(thing_of(cache, source), 0, 1)
    cache.close()
    cache = opened()
    thing = thing_of(cache, source)
    assert thing.ready(0, 100) is None
    thing.read(0, 100)
    assert thing.ready(5, 50) == source.objects["a"][5:55]


def test_ready_does_not_wait_for_what_is_being_fetched(opened, source) -> None:
    cache = opened()
    thing = thing_of(cache, source)
    goes_on = threading.Event()
    source.before_read = lambda: goes_on.wait(10)
    reader = threading.Thread(target=thing.read, args=(0, 10))
    reader.start()
    until(lambda: len(source.reads) == 1)
    assert thing_of(cache, source).ready(0, 10) is None
    goes_on.set()
    reader.join()
    assert thing_of(cache, source).ready(0, 10) == source.objects["a"][:10]


def test_ready_and_the_read_that_follows_are_one_read_to_readahead(opened, source, monkeypatch) -> None:
    cache = opened()
    thing = thing_of(cache, source)
    told: list[tuple[int, int, bool]] = []
    right = cache._readahead.access

    def access(key, size_bytes, start, length, *, waits, now_s):
        told.append((start, length, waits))
        return right(key, size_bytes, start, length, waits=waits, now_s=now_s)

    monkeypatch.setattr(cache._readahead, "access", access)
    for at in (0, BLOCK_BYTES, 2 * BLOCK_BYTES):
        check(thing, at, BLOCK_BYTES)
        cache.settle()
    assert told == [(0, BLOCK_BYTES, True), (BLOCK_BYTES, BLOCK_BYTES, True), (2 * BLOCK_BYTES, BLOCK_BYTES, False)]
    assert thing.observed == set()


# -- many readers


def test_many_readers_of_one_block_cause_one_request(opened, source) -> None:
    source.delay_s = 0.1
    cache = opened()
    assert at_once(*[lambda: thing_of(cache, source).read(100, 50)] * 16) == [source.objects["a"][100:150]] * 16
    assert ranges(source) == [(0, BLOCK_BYTES)]


def test_readers_of_overlapping_ranges_fetch_each_block_once(opened) -> None:
    source = MemorySource({"a": noise(16 * MIB)})
    source.delay_s = 0.05
    cache = opened()
    thing, dice = thing_of(cache, source), random.Random(5)
    starts = [dice.randrange(12 * MIB) for _ in range(16)]
    got = at_once(*[lambda start=start: thing.read(start, 3 * MIB) for start in starts])
    assert got == [source.objects["a"][start : start + 3 * MIB] for start in starts]
    cache.settle()
    blocks = [start // BLOCK_BYTES + n for start, length in ranges(source) for n in range(-(-length // BLOCK_BYTES))]
    assert len(blocks) == len(set(blocks))


@pytest.mark.parametrize("failure", [Unavailable("down"), Changed("other"), NotFound("gone")])
def test_a_failed_fetch_fails_all_its_waiters_and_is_not_remembered(opened, source, failure: EgofsError) -> None:
    cache = opened()
    waiting = threading.Event()

    def fail() -> None:
        waiting.wait(0.2)
        raise failure

    source.before_read = fail
    got = at_once(*[lambda: thing_of(cache, source).read(0, 1)] * 8)
    assert {type(each) for each in got} == {type(failure)}
    assert len(source.reads) < 8
    source.before_read = lambda: None
    check(thing_of(cache, source), 0, 1)
    assert cache._flights == {}


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), MemoryError()])
def test_a_failure_that_is_none_of_ours_does_not_hang_the_waiters(opened, source, failure: Exception) -> None:
    cache = opened()
    waiting = threading.Event()

    def fail() -> None:
        waiting.wait(0.2)
        raise failure

    source.before_read = fail
    got = at_once(*[lambda: thing_of(cache, source).read(0, 1)] * 8)
    assert {type(each) for each in got} <= {type(failure), CorruptData}
    assert type(failure) in {type(each) for each in got}
    source.before_read = lambda: None
    check(thing_of(cache, source), 0, 1)


def test_short_and_long_data_is_refused_and_not_kept(opened, source, monkeypatch) -> None:
    cache = opened()
    right = source.read
    for wrong in (lambda data: data[:-1], lambda data: data + b"x", lambda data: b""):
        monkeypatch.setattr(source, "read", lambda *args, wrong=wrong: wrong(right(*args)))
        with pytest.raises(CorruptData):
            thing_of(cache, source).read(0, 10)
    monkeypatch.setattr(source, "read", right)
    check(thing_of(cache, source), 0, SIZE)


def test_sixteen_readers_at_random_get_the_right_bytes_from_a_tiny_cache(opened) -> None:
    source = MemorySource({str(n): random.Random(n).randbytes(2 * MIB * n + 777 * n) for n in range(1, 5)})
    cache = opened(limit_bytes=4 * MIB, memory_bytes=2 * MIB, ahead_bytes=2 * MIB)

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(25):
            key = str(dice.randrange(1, 5))
            thing = thing_of(cache, source, key)
            start = dice.randrange(thing.info.size_bytes)
            for _ in range(dice.randrange(1, 6)):
                length = min(dice.randrange(1, 300_000), thing.info.size_bytes - start)
                if length:
                    assert thing.read(start, length) == source.objects[key][start : start + length]
                start += length

    assert at_once(*[lambda seed=seed: read(seed) for seed in range(16)]) == [None] * 16
    cache.settle()
    assert cache.used_bytes() <= 4 * MIB
    assert cache._flights == {}
    assert cache.counters.damaged == 0
    assert cache.disk_errors == 0


# -- fetched ahead


def test_a_reader_waits_for_what_is_being_fetched_ahead_and_does_not_ask_again(opened) -> None:
    source = MemorySource({"a": noise(6 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    check(thing, 0, BLOCK_BYTES)
    source.delay_s = 0.1
    run(thing, BLOCK_BYTES)
    cache.settle()
    blocks = [start // BLOCK_BYTES + n for start, length in ranges(source) for n in range(length // BLOCK_BYTES)]
    assert sorted(blocks) == list(range(48)), "each block once"


def test_a_failure_while_fetching_ahead_does_not_end_the_reading(opened) -> None:
    source = MemorySource({"a": noise(12 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    failures = iter([RuntimeError("a bug"), Unavailable("down")] * 20)

    def fail_ahead() -> None:
        if threading.current_thread().name == "fetch-ahead" and (failure := next(failures, None)):
            raise failure

    source.before_read = fail_ahead
    for at in range(0, 12 * MIB, BLOCK_BYTES):
        for _ in range(50):
            try:
                check(thing, at, BLOCK_BYTES)
                break
            except (Unavailable, CorruptData):
                pass
        else:
            pytest.fail("a reader does not get past failures of fetching ahead")
    cache.settle()
    assert not cache._fetchers.is_busy()
    source.before_read = lambda: None
    check(thing, 0, 12 * MIB)


@pytest.mark.parametrize("with_disk", [True, False])
@pytest.mark.parametrize("shuffled", [1, 4])
def test_reading_on_through_a_file_larger_than_memory_fetches_each_byte_once(opened, folder, with_disk, shuffled):
    source = MemorySource({"a": noise(40 * MIB)})
    cache = opened(folder if with_disk else None, memory_bytes=10 * MIB, ahead_bytes=8 * MIB)
    thing, dice = thing_of(cache, source), random.Random(7)
    for begin in range(0, 40 * MIB, shuffled * BLOCK_BYTES):
        places = list(range(begin, begin + shuffled * BLOCK_BYTES, BLOCK_BYTES))
        if begin:
            dice.shuffle(places)
        for at in places:
            check(thing, at, BLOCK_BYTES)
            assert cache._units.unread_bytes <= 10 * MIB
    assert fetched(source) == 40 * MIB


def test_what_was_fetched_ahead_stays_while_what_was_read_goes(opened) -> None:
    source = MemorySource({"a": noise(64 * MIB), "b": noise(8 * MIB)})
    cache = opened(None, memory_bytes=4 * MIB, ahead_bytes=2 * MIB)
    thing = thing_of(cache, source)
    run(thing, 0, 2 * BLOCK_BYTES)
    cache.settle()
    ahead = fetched(source)
    other = thing_of(cache, source, "b")
    for at in range(0, 8 * MIB, 2 * BLOCK_BYTES):
        check(other, at, BLOCK_BYTES)
    source.reads.clear()
    run(thing, 2 * BLOCK_BYTES, ahead)
    assert [start for key, start, _ in source.reads if key == "a" and start < ahead] == []


def test_memory_is_bounded_and_counted_right(opened) -> None:
    source = MemorySource({"a": noise(40 * MIB)})
    cache = opened(None, memory_bytes=3 * MIB, ahead_bytes=2 * MIB)
    thing, dice = thing_of(cache, source), random.Random(8)
    for _ in range(100):
        check(thing, dice.randrange(39 * MIB), BLOCK_BYTES)
        assert cache._units.unread_bytes <= 3 * MIB
    cache.settle()
    units = cache._units
    assert sum(map(len, units.unread.values())) == units.unread_bytes
    assert sum(map(len, units.spent.values())) == units._spent_bytes
    assert units.unread_bytes + units._spent_bytes <= 3 * MIB


def test_settle_returns_when_all_that_was_asked_for_ahead_is_on_disk(opened, monkeypatch) -> None:
    source = MemorySource({"a": noise(4 * MIB)})
    source.delay_s = 0.03
    cache = opened()
    # Neither in the line any more nor on its way yet.
    monkeypatch.setattr(cache, "_wait_for_disk", lambda: time.sleep(0.05))
    thing = thing_of(cache, source)
    run(thing, 0, 2 * BLOCK_BYTES)
    cache.settle()
    asked = fetched(source)
    assert asked >= 2 * MIB - BLOCK_BYTES
    assert thing.cached_bytes() == asked
    time.sleep(0.05)
    assert fetched(source) == asked


# -- ends


def test_no_thread_and_no_memory_remains_after_a_while_without_reads(opened, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_IDLE_S", 0.1)
    source = MemorySource({"a": noise(8 * MIB)})
    cache = opened(None)
    thing = thing_of(cache, source)
    run(thing)
    assert ours()
    until(lambda: not ours())
    assert (len(cache._units.unread), len(cache._units.spent), cache._units.unread_bytes) == (0, 0, 0)
    source.reads.clear()
    run(thing)
    assert fetched(source) == 8 * MIB, "and it goes on as before"


def test_memory_of_a_reader_of_isolated_places_is_given_back_too(opened, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_IDLE_S", 0.1)
    source = MemorySource({"a": noise(SIZE)})
    cache = opened(None)
    check(thing_of(cache, source), 5, 5)
    assert cache._units.unread_bytes == BLOCK_BYTES
    until(lambda: cache._units.unread_bytes == 0 and not ours())


def test_close_ends_threads_that_are_in_the_middle_of_fetching(opened) -> None:
    source = MemorySource({"a": noise(32 * MIB)})
    cache = opened()
    thing = thing_of(cache, source)
    goes_on = threading.Event()
    run(thing, 0, 2 * BLOCK_BYTES)
    source.before_read = lambda: goes_on.wait(10)
    readers = [threading.Thread(target=thing.read, args=(at * MIB, MIB)) for at in (8, 9, 10, 11)]
    for reader in readers:
        reader.start()
    until(lambda: len(cache._flights) >= 8)
    cache.close()
    goes_on.set()
    for reader in readers:
        reader.join()
    until(lambda: not ours())


# -- a disk that lies or fails


def unit_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*"))


def flip(files: list[Path]) -> None:
    data = bytearray(files[0].read_bytes())
    data[70_000] ^= 1
    files[0].write_bytes(data)


def truncate(files: list[Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-1])


def swap(files: list[Path]) -> None:
    a, b = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(b)
    files[1].write_bytes(a)


def remove(files: list[Path]) -> None:
    files[0].unlink()


def empty(files: list[Path]) -> None:
    files[0].write_bytes(b"")


@pytest.mark.parametrize("length", [BLOCK_BYTES, CHUNK_BYTES])
@pytest.mark.parametrize("damage", [flip, truncate, swap, remove, empty])
def test_damaged_files_are_found_and_fetched_again_and_kept(opened, folder, damage, length: int) -> None:
    source = MemorySource({"a": noise(4 * FAR)})
    places = [FAR, 2 * FAR, 3 * FAR]
    for round_ in range(3):
        cache = opened()
        for at in places:
            check(thing_of(cache, source), at, length)
        cache.settle()
        cache.close()
        if round_ == 0:
            assert len(unit_files(folder)) == 3
            damage(unit_files(folder))
    assert len(source.reads) == 3 + (2 if damage is swap else 1)
    assert len(unit_files(folder)) == 3


def test_damage_in_an_open_file_is_found_when_its_block_is_first_read(opened, folder) -> None:
    source = MemorySource({"a": noise(FAR)})
    cache = opened()
    check(thing_of(cache, source), 0, CHUNK_BYTES)
    cache.settle()
    cache.close()
    cache = opened()
    thing = thing_of(cache, source)
    check(thing, 0, 10)
    (file,) = unit_files(folder)
    with file.open("r+b") as damaged:
        damaged.seek(500_000)
        damaged.write(b"garbage")
    check(thing, 0, 10)
    assert len(source.reads) == 1
    check(thing, 490_000, 20_000)
    assert ranges(source) == [(0, CHUNK_BYTES), (3 * BLOCK_BYTES, BLOCK_BYTES)]
    assert cache.counters.damaged == 1
    cache.settle()
    until(lambda: cache.used_bytes() == sum(file.stat().st_size for file in unit_files(folder)))
    assert thing.cached_bytes() == BLOCK_BYTES


def test_a_damaged_file_that_cannot_be_removed_does_not_fail_the_reader(opened, folder, monkeypatch) -> None:
    source = MemorySource({"a": noise(CHUNK_BYTES)})
    cache = opened()
    check(thing_of(cache, source), 0, CHUNK_BYTES)
    cache.close()
    flip(unit_files(folder))
    cache = opened()

    def refuse(*args: object) -> None:
        raise PermissionError("Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        check(thing_of(cache, source), 0, CHUNK_BYTES)
    assert len(source.reads) == 2


def test_a_garbled_database_is_set_aside_and_what_is_kept_is_still_found(opened, folder, source) -> None:
    cache = opened()
    check(thing_of(cache, source), 0, 10)
    cache.close()
    (folder / "index.sqlite").write_bytes(b"not a database" * 1000)
    check(thing_of(opened(), source), 0, 10)
    assert len(source.reads) == 1
    assert list(folder.glob("index.sqlite.damaged*"))


def test_a_full_disk_degrades_to_reading_through(opened, source, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    cache = opened(memory_bytes=BLOCK_BYTES)
    assert cache._disk is not None
    monkeypatch.setattr(cache._disk, "_write_file", full)
    thing = thing_of(cache, source)
    for _ in range(4):
        for start in range(0, SIZE, CHUNK_BYTES):
            check(thing, start, 10)
            cache.settle()
    # After three failures the disk is left alone.
    assert cache.disk_errors == 3


def test_the_cache_stays_within_its_limit_and_within_a_lower_one(opened, folder) -> None:
    source = MemorySource({"a": bytes(40 * CHUNK_BYTES)})
    cache = opened(limit_bytes=8 * CHUNK_BYTES, memory_bytes=CHUNK_BYTES, ahead_bytes=CHUNK_BYTES)
    run(thing_of(cache, source))
    cache.settle()
    assert sum(file.stat().st_size for file in unit_files(folder)) == cache.used_bytes() <= cache.limit_bytes
    cache.disk.limit_bytes = 4 * CHUNK_BYTES
    run(thing_of(cache, source), 0, 2 * CHUNK_BYTES)
    cache.settle()
    assert sum(file.stat().st_size for file in unit_files(folder)) <= 4 * CHUNK_BYTES


def test_what_is_evicted_while_its_file_is_open_is_read_on_or_fetched_again(opened) -> None:
    source = MemorySource({"a": noise(2 * MIB), "b": noise(20 * MIB)})
    for _ in range(2):
        cache = opened(limit_bytes=6 * MIB, memory_bytes=MIB, ahead_bytes=MIB)
        thing = thing_of(cache, source)
        check(thing, 0, 100)
        run(thing_of(cache, source, "b"))
        cache.settle()
        check(thing, 0, 100)
        cache.close()


def test_isolated_reads_are_no_stream_even_where_they_adjoin(opened, source) -> None:
    source.objects["long"] = noise(32 * MIB)
    cache = opened()
    thing = thing_of(cache, source, "long")
    for start in range(0, 8 * BLOCK_BYTES, BLOCK_BYTES):
        assert thing.read(start, BLOCK_BYTES, isolated=True) == NOISE[start : start + BLOCK_BYTES]
    cache.settle()
    assert sum(length for _, _, length in source.reads) == 8 * BLOCK_BYTES
    for start in range(16 * MIB, 16 * MIB + 8 * BLOCK_BYTES, BLOCK_BYTES):
        thing.read(start, BLOCK_BYTES)
    cache.settle()
    assert sum(length for _, _, length in source.reads) > 17 * BLOCK_BYTES
