"""Seek points of deflated streams, and bytes from any of them on."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest

from tests.archives import tame, wild
from vfs.archive import inflate
from vfs.archive.index import Point
from vfs.errors import CorruptData, SourceError, Unavailable

KIB = 1 << 10
DATA = tame(300_000) + wild(200_000) + tame(300_000, 2) + bytes(200_000) + tame(100_000, 3)


@pytest.fixture(autouse=True)
def close_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points so near to each other that a small stream has many."""
    monkeypatch.setattr(inflate, "SPACING_BYTES", 64 * KIB)


def stream(data: bytes) -> inflate.Stream:
    return inflate.Stream("x.gz", lambda start, length: data[start : start + length], 0, len(data))


def points_of(data: bytes) -> tuple[list[Point], int]:
    points: list[Point] = []
    _, size_bytes = inflate.scan(stream(data), lambda file: None, points.append)
    return points, size_bytes


def from_points(data: bytes, points: list[Point], start: int, length: int) -> bytes:
    point = [point for point in points if point.out_start <= start][-1]
    after = [each.in_start for each in points if each.out_start >= start + length]
    return inflate.inflated(stream(data), point, min(after, default=None), start, length)


STREAMS: dict[str, Callable[[], bytes]] = {
    "level_1": lambda: gzip.compress(DATA, 1),
    "level_9": lambda: gzip.compress(DATA, 9),
    "stored": lambda: gzip.compress(DATA, 0),
    "fixed_codes": lambda: _packed(DATA, zlib.Z_FIXED),
    "huffman_alone": lambda: _packed(DATA, zlib.Z_HUFFMAN_ONLY),
    "two_members": lambda: gzip.compress(DATA[:500_000]) + gzip.compress(DATA[500_000:], 1),
    "many_members": lambda: b"".join(gzip.compress(DATA[at : at + 7000]) for at in range(0, len(DATA), 7000)),
    "empty_members": lambda: gzip.compress(b"") * 300 + gzip.compress(DATA) + gzip.compress(b"") * 300,
    "filled_up_with_zeros": lambda: gzip.compress(DATA) + bytes(10_240),
    "something_behind_it": lambda: gzip.compress(DATA) + b"something else",
}


def _packed(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31, 8, strategy)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("name", STREAMS)
def test_any_range_is_read_from_the_point_before_it(name: str) -> None:
    data = STREAMS[name]()
    points, size_bytes = points_of(data)
    assert size_bytes == len(DATA)
    assert len(points) >= (1 if name == "fixed_codes" else 8)
    rng = random.Random(3)
    for _ in range(200):
        start = rng.randrange(len(DATA))
        length = rng.randrange(1, min(150_000, len(DATA) - start) + 1)
        assert from_points(data, points, start, length) == DATA[start : start + length]


def test_points_stand_at_all_bits_and_each_is_a_beginning() -> None:
    seen = set()
    for seed in range(12):
        content = tame(700_000, seed)
        data = gzip.compress(content, 1 + seed % 9)
        points, _ = points_of(data)
        for point in points:
            seen.add(point.bits)
            start = point.out_start
            assert from_points(data, [point], start, min(500, len(content) - start)) == content[start : start + 500]
    assert seen == set(range(8))


def test_a_deflated_stream_without_header_and_trailer_is_read_alike() -> None:
    packer = zlib.compressobj(6, wbits=-15)
    packed = b"in front" + packer.compress(DATA) + packer.flush() + b"behind"
    around = inflate.Stream.of_deflated(
        "m",
        lambda start, length: packed[start : start + length],
        8,
        len(packed) - 14,
        crc=zlib.crc32(DATA),
        size_bytes=len(DATA),
    )
    points: list[Point] = []
    assert inflate.scan(around, lambda file: file.read(10), points.append) == (DATA[:10], len(DATA))
    for point in points:
        assert inflate.inflated(around, point, None, point.out_start, 100) == DATA[point.out_start :][:100]


def test_a_stream_is_fetched_once_whatever_its_size() -> None:
    data = gzip.compress(wild(20 << 20), 1)
    reads: list[tuple[int, int]] = []

    def read(start: int, length: int) -> bytes:
        reads.append((start, length))
        return data[start : start + length]

    told: list[int] = []
    inflate.scan(inflate.Stream("x", read, 0, len(data)), lambda file: None, lambda point: None, told.append)
    assert sum(length for _, length in reads) == len(data)
    assert told == sorted(told)
    assert told[-1] == len(data)


def test_points_of_a_stream_that_turns_out_to_be_large_stand_further_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "_MOST_POINTS", 4)
    begun = []
    points: list[Point] = []
    data = gzip.compress(DATA)
    inflate.scan(stream(data), lambda file: begun.append(file.tell()), points.append)
    assert begun == [0, 0]
    assert 1 < len(points) <= 4
    assert from_points(data, points, 900_000, 1000) == DATA[900_000:901_000]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        b"no gzip at all",
        gzip.compress(DATA)[:-1],
        gzip.compress(DATA)[:100_000],
        gzip.compress(DATA)[:-8] + bytes(8),
        gzip.compress(DATA)[:200_000] + b"????" + gzip.compress(DATA)[200_004:],
        gzip.compress(DATA) + gzip.compress(DATA)[:500],
    ],
    ids=range(8),
)
def test_a_stream_that_is_not_whole_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptData, match=r"x\.gz: "):
        points_of(data)


def test_a_stream_that_ends_before_a_range_does_is_corrupt() -> None:
    data = gzip.compress(DATA)
    points, _ = points_of(data)
    with pytest.raises(CorruptData, match="fewer bytes"):
        from_points(data, points, len(DATA) - 10, 11)


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "_MOST_MEMBERS", 100)
    with pytest.raises(SourceError, match="millions of members: unpack it and pack it as one"):
        points_of(gzip.compress(b"") * 101)


@pytest.mark.parametrize("failing", ["read", "consume", "note"])
def test_a_failure_ends_the_scan_and_is_told(failing: str) -> None:
    data = gzip.compress(wild(9 << 20), 1)

    def fail(*_: object) -> None:
        raise Unavailable(f"{failing} failed")

    def read(start: int, length: int) -> bytes:
        if failing == "read" and start:
            fail()
        return data[start : start + length]

    with pytest.raises(Unavailable, match=f"{failing} failed"):
        inflate.scan(
            inflate.Stream("x", read, 0, len(data)),
            fail if failing == "consume" else lambda file: file.seek(5 << 20),
            lambda point: None,
            fail if failing == "note" else lambda done: None,
        )
