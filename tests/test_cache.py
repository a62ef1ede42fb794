import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.memorysource import MemorySource
from vfs.cache import CHUNK_BYTES, ChunkCache
from vfs.errors import Changed, CorruptData, Unavailable

SIZE = 3 * CHUNK_BYTES + 1000


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({"a": random.Random(1).randbytes(SIZE)})


@pytest.fixture
def cache(tmp_path: Path):
    cache = ChunkCache(tmp_path / "chunks", 1 << 30)
    yield cache
    cache.close()


def chunk_files(cache_folder: Path) -> list[Path]:
    return sorted(cache_folder.rglob("*.val"))


def test_a_read_across_a_chunk_boundary_fetches_two_chunks_in_one_request(cache, source) -> None:
    got = cache.read(source, source.info("a"), CHUNK_BYTES - 10, 20)
    assert got == source.objects["a"][CHUNK_BYTES - 10 : CHUNK_BYTES + 10]
    assert source.reads == [("a", 0, 2 * CHUNK_BYTES)]


def test_random_reads_give_the_sources_bytes_and_fetch_each_chunk_once(cache, source) -> None:
    dice = random.Random(2)
    for _ in range(200):
        start, length = dice.randrange(SIZE + 10), dice.randrange(1, 2 * CHUNK_BYTES)
        assert cache.read(source, source.info("a"), start, length) == source.objects["a"][start : start + length]
    fetched = [
        (start // CHUNK_BYTES + n) for _, start, length in source.reads for n in range(-(-length // CHUNK_BYTES))
    ]
    assert sorted(fetched) == [0, 1, 2, 3]


def test_a_hole_in_the_middle_is_fetched_alone(cache, source) -> None:
    info = source.info("a")
    cache.read(source, info, 0, 1)
    cache.read(source, info, 2 * CHUNK_BYTES, 1)
    source.reads.clear()
    assert cache.read(source, info, 0, SIZE) == source.objects["a"]
    assert source.reads == [("a", CHUNK_BYTES, CHUNK_BYTES), ("a", 3 * CHUNK_BYTES, 1000)]


def test_chunks_survive_a_restart(tmp_path: Path, source) -> None:
    for _ in range(2):
        cache = ChunkCache(tmp_path / "chunks", 1 << 30)
        assert cache.read(source, source.info("a"), 0, SIZE) == source.objects["a"]
        cache.close()
    assert len(source.reads) == 1


def test_many_readers_of_one_chunk_cause_one_request(cache, source) -> None:
    source.delay_s = 0.2
    start = threading.Barrier(16)
    got: list[bytes] = []

    def read() -> None:
        start.wait()
        got.append(cache.read(source, source.info("a"), 100, 50))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [source.objects["a"][100:150]] * 16
    assert len(source.reads) == 1


def test_a_failed_fetch_fails_all_its_waiters_and_is_not_remembered(cache, source) -> None:
    def fail() -> None:
        raise Unavailable("down")

    source.before_read = fail
    with pytest.raises(Unavailable, match="down"):
        cache.read(source, source.info("a"), 0, 1)
    source.before_read = lambda: None
    assert cache.read(source, source.info("a"), 0, 1) == source.objects["a"][:1]


def test_a_new_version_is_fetched_and_never_mixed_with_the_old(cache, source) -> None:
    old = source.info("a")
    cache.read(source, old, 0, 10)
    source.objects["a"] = bytes(SIZE)
    with pytest.raises(Changed):
        cache.read(source, old, 2 * CHUNK_BYTES, 10)
    assert cache.read(source, source.info("a"), 0, 10) == bytes(10)


def test_short_data_is_refused_and_not_kept(cache, source) -> None:
    info = source.info("a")
    right = source.read
    source.read = lambda obj, start, length: right(obj, start, length)[:-1]
    with pytest.raises(CorruptData):
        cache.read(source, info, 0, 10)
    source.read = right
    assert cache.read(source, info, 0, SIZE) == source.objects["a"]


def flip(files: list[Path]) -> None:
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 1
    files[0].write_bytes(data)


def truncate(files: list[Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-1])


def swap(files: list[Path]) -> None:
    a, b = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(b)
    files[1].write_bytes(a)


def delete(files: list[Path]) -> None:
    files[0].unlink()


def empty(files: list[Path]) -> None:
    files[0].write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, swap, delete, empty])
def test_damaged_chunk_files_are_found_and_fetched_again(
    tmp_path: Path, source, damage: Callable[[list[Path]], None]
) -> None:
    folder = tmp_path / "chunks"
    for round_ in range(3):
        cache = ChunkCache(folder, 1 << 30)
        assert cache.read(source, source.info("a"), 0, SIZE) == source.objects["a"]
        cache.close()
        if round_ == 0:
            # Whole chunks only: the last, short one lies in a file of another size.
            damage([file for file in chunk_files(folder) if file.stat().st_size > CHUNK_BYTES])
    chunks = 4 + (2 if damage is swap else 1)
    assert sum(-(-length // CHUNK_BYTES) for _, _, length in source.reads) == chunks


def test_a_garbled_database_is_set_aside(tmp_path: Path, source) -> None:
    folder = tmp_path / "chunks"
    cache = ChunkCache(folder, 1 << 30)
    cache.read(source, source.info("a"), 0, 10)
    cache.close()
    (folder / "cache.db").write_bytes(b"not a database" * 1000)
    cache = ChunkCache(folder, 1 << 30)
    assert cache.read(source, source.info("a"), 0, 10) == source.objects["a"][:10]
    cache.close()
    assert list(folder.glob("cache.db.damaged-*"))


def test_a_full_disk_degrades_to_reading_through(cache, source, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._disk, "set", full)
    for start in range(0, SIZE, CHUNK_BYTES):
        assert cache.read(source, source.info("a"), start, 10) == source.objects["a"][start : start + 10]
    # After three failures the disk is left alone.
    assert cache.counters.disk_errors == 3


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    limit = 8 * CHUNK_BYTES
    source = MemorySource({"big": bytes(40 * CHUNK_BYTES)})
    cache = ChunkCache(tmp_path / "chunks", limit, memory_bytes=CHUNK_BYTES)
    for index in range(40):
        cache.read(source, source.info("big"), index * CHUNK_BYTES, 1)
    files = sum(file.stat().st_size for file in chunk_files(tmp_path / "chunks"))
    cache.close()
    assert files <= limit + CHUNK_BYTES


def test_cached_bytes_counts_what_is_on_disk(cache, source) -> None:
    assert cache.cached_bytes(source, source.info("a")) == 0
    cache.read(source, source.info("a"), 3 * CHUNK_BYTES, 5)
    assert cache.cached_bytes(source, source.info("a")) == 1000
    cache.read(source, source.info("a"), 0, 5)
    assert cache.cached_bytes(source, source.info("a")) == CHUNK_BYTES + 1000
