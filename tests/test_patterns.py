"""What programs do to files, as requests and bytes: small versions of the benchmarks, at the level of an open file."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.memorysource import MemorySource
from vfs.cache import BLOCK_BYTES, CHUNK_BYTES, ChunkCache
from vfs.objectfile import ObjectFile

MIB = 1 << 20
STEP = 128 << 10
SIZE = 64 * MIB
NOISE = random.Random(0).randbytes(SIZE)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({"a": NOISE})


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], ChunkCache]]:
    caches: list[ChunkCache] = []

    def open_cache() -> ChunkCache:
        caches.append(ChunkCache(tmp_path / "cache", 1 << 30))
        return caches[-1]

    yield open_cache
    for cache in caches:
        cache.close()


def no_change() -> None:
    raise AssertionError("nothing changes here")


def file_of(cache: ChunkCache, source: MemorySource, key: str = "a") -> ObjectFile:
    return ObjectFile(source, cache, source.info(key), no_change)


def read(file: ObjectFile, start: int, length: int = STEP) -> None:
    """A read as the mount does it, checked."""
    data = file.ready(start, length)
    if data is None:
        data = file.read(start, length)
    assert data == NOISE[start : min(start + length, file.size_bytes)]


def fetched(source: MemorySource) -> int:
    return sum(length for _, _, length in source.reads)


def test_a_file_read_from_its_beginning_to_its_end_is_fetched_once_in_few_requests(opened, source) -> None:
    cache = opened()
    file = file_of(cache, source)
    for at in range(0, SIZE, STEP):
        read(file, at)
    cache.settle()
    assert fetched(source) == SIZE
    # One for each MiB at most, and one more where the reader came to a piece before its turn.
    assert len(source.reads) <= 2 * SIZE // MIB


def test_a_slow_reader_waits_twice_and_its_stream_is_fetched_in_whole_chunks(opened, source) -> None:
    cache = opened()
    file = file_of(cache, source)
    for at in range(0, 8 * MIB, STEP):
        read(file, at)
        cache.settle()
    begin = [(0, STEP), (STEP, STEP), (2 * STEP, MIB - 2 * STEP)]
    # Up to the first whole chunk that ends 2 MiB or more beyond the reader.
    assert sorted(source.reads) == [("a", *each) for each in begin + [(n * MIB, MIB) for n in range(1, 10)]]
    assert cache.counters.misses == 2


@pytest.mark.parametrize("step", [4096, 100_001, 3 * MIB])
def test_reads_of_any_size_one_after_another_fetch_each_byte_once(opened, source, step: int) -> None:
    cache = opened()
    file = file_of(cache, source)
    for at in range(0, 8 * MIB, step):
        read(file, at, min(step, 8 * MIB - at))
    cache.settle()
    blocks = [start // BLOCK_BYTES + n for _, start, length in source.reads for n in range(-(-length // BLOCK_BYTES))]
    assert len(blocks) == len(set(blocks))
    # A reader who stops has caused no more to be fetched than it has read, eight times over.
    assert fetched(source) <= 9 * 8 * MIB


@pytest.mark.parametrize(("aligned", "most"), [(True, 3), (False, 4)])
def test_random_reads_fetch_little_more_than_was_asked_for(opened, aligned: bool, most: int) -> None:
    """Measured: 1.0 to 2.5 bytes for each that was asked for in a file of 64 MiB, of which 100 reads are a fifth."""
    total = 0
    for seed in range(4):
        source = MemorySource({"a": NOISE}, url=f"memory://{seed}")
        cache = opened()
        file, dice = file_of(cache, source), random.Random(seed)
        for _ in range(100):
            read(file, dice.randrange(SIZE // STEP) * STEP if aligned else dice.randrange(SIZE - STEP))
        cache.settle()
        total += fetched(source)
    assert total <= most * 4 * 100 * STEP


def test_one_isolated_read_fetches_one_block(opened, source) -> None:
    cache = opened()
    read(file_of(cache, source), 33 * MIB)
    cache.settle()
    assert source.reads == [("a", 33 * MIB, BLOCK_BYTES)]


def test_sixteen_readers_of_one_file_at_sixteen_places_fetch_each_byte_once(opened, source) -> None:
    cache = opened()
    file = file_of(cache, source)
    wrong: list[BaseException] = []

    def reader(number: int) -> None:
        try:
            for at in range(number * 4 * MIB, (number + 1) * 4 * MIB, STEP):
                assert file.read(at, STEP) == NOISE[at : at + STEP]
        except BaseException as failure:
            wrong.append(failure)
            raise

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.settle()
    assert wrong == []
    assert fetched(source) == SIZE
    assert len(source.reads) <= 16 * (4 + 3)


def test_reading_a_little_then_skipping_far_fetches_little_more_than_is_read(opened, source) -> None:
    cache = opened()
    file = file_of(cache, source)
    asked = 0
    for begin in range(0, SIZE, 17 * MIB):
        for at in range(begin, min(begin + MIB, SIZE), STEP):
            read(file, at)
            cache.settle()
            asked += STEP
    assert fetched(source) <= 4 * asked


@pytest.mark.parametrize("distance", [MIB, -MIB, 3 * MIB])
def test_a_stride_fetches_its_own_blocks_and_is_there_before_its_reader(opened, source, distance: int) -> None:
    cache = opened()
    file = file_of(cache, source)
    first = 0 if distance > 0 else SIZE - MIB
    waited = 0
    for number in range(20):
        at = first + number * distance
        data = file.ready(at, STEP)
        if data is None:
            waited += 1
            data = file.read(at, STEP)
        assert data == NOISE[at : at + STEP]
        cache.settle()
    assert waited == 4
    assert all(length == BLOCK_BYTES and (start - first) % distance == 0 for _, start, length in source.reads)
    assert len(source.reads) == len(set(source.reads)) <= 20 + 16


def test_a_file_read_backwards_is_fetched_once(opened, source) -> None:
    cache = opened()
    file = file_of(cache, source)
    for at in range(SIZE - STEP, SIZE - 8 * MIB - STEP, -STEP):
        read(file, at)
        cache.settle()
    # And sixteen blocks ahead of the reader.
    assert fetched(source) <= 8 * MIB + 17 * BLOCK_BYTES
    assert len(source.reads) == len(set(source.reads))


def test_small_objects_cost_one_request_each_and_none_when_they_are_read_again(opened) -> None:
    source = MemorySource({f"{number}.jpg": NOISE[:20_000] for number in range(4000)})
    cache = opened()
    for number in range(4000):
        read(file_of(cache, source, f"{number}.jpg"), 0, 20_000)
        if number % 1000 == 999:
            cache.settle()
    assert source.reads == [(f"{number}.jpg", 0, 20_000) for number in range(4000)]
    cache.close()
    source.reads.clear()
    cache = opened()
    for number in range(0, 4000, 7):
        read(file_of(cache, source, f"{number}.jpg"), 0, 20_000)
    assert source.reads == []


def test_a_second_mount_reads_without_a_request(opened, source) -> None:
    for round_ in range(2):
        cache = opened()
        file = file_of(cache, source)
        for at in range(0, 16 * MIB, STEP):
            read(file, at)
        read(file, 40 * MIB + 5, 1000)
        cache.settle()
        assert file.cached_bytes() >= 16 * MIB + BLOCK_BYTES
        cache.close()
        if round_ == 0:
            asked = len(source.reads)
    assert len(source.reads) <= asked + 16, "at most what was being fetched ahead when the first one ended"
    assert all(start >= 16 * MIB for _, start, _ in source.reads[asked:])


def test_the_end_of_a_file_is_where_reading_stops(opened) -> None:
    source = MemorySource({"a": NOISE[: CHUNK_BYTES + 1], "empty": b""})
    cache = opened()
    file, empty = file_of(cache, source), file_of(cache, source, "empty")
    read(file, CHUNK_BYTES - 10, 1000)
    read(file, CHUNK_BYTES, 1000)
    for at in (CHUNK_BYTES + 1, 10 * CHUNK_BYTES):
        assert file.ready(at, 1000) == b""
        assert file.read(at, 1000) == b""
    assert empty.ready(0, 10) == empty.read(0, 10) == b""
    assert empty.cached_bytes() == 0
    cache.settle()
    assert fetched(source) == BLOCK_BYTES + 1
