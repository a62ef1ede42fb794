"""Reads a mount, or the server itself, as a program would, in a process of its own; prints what it saw as JSON.

    echo '{"do": "random", "base": DIRECTORY_OR_URL, …}' | python -m bench.readers

Where `base` is a URL the same ranges are asked of the server: the bare limit, and what a range costs by itself. What
was read is hashed (outside of what is timed, where single reads are timed), and the caller compares.
"""

import http.client
import json
import multiprocessing
import os
import sys
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import xxhash

_BLOCK_BYTES = 256 << 10
_RANGE_BYTES = 8 << 20
_CONNECTIONS = 16


class _Readable(Protocol):
    def read_into(self, start: int, view: memoryview) -> int: ...


class _File:
    """A file of a mount."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read_into(self, start: int, view: memoryview) -> int:
        return os.preadv(self._descriptor, [view], start)


class _Object:
    """An object of the server, over one connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        self._connection.connect()

    def read_into(self, start: int, view: memoryview) -> int:
        self._connection.request("GET", self._path, headers={"Range": f"bytes={start}-{start + len(view) - 1}"})
        answer = self._connection.getresponse()
        if answer.status not in (200, 206):
            raise OSError(f"{self._path}: {answer.status}")
        done = 0
        while count := answer.readinto(view[done:]):
            done += count
        return done


def _open(base: str, key: str) -> _Readable:
    place = f"{base}/{key}"
    return _Object(place) if base.startswith("http://") else _File(place)


def random_reads(base: str, key: str, starts: list[int], length: int) -> dict[str, Any]:
    """Each range by itself, one after the other: milliseconds of each."""
    file, buffer, times, total = _open(base, key), memoryview(bytearray(length)), [], 0
    for start in starts:
        began = time.perf_counter()
        count = file.read_into(start, buffer)
        times.append((time.perf_counter() - began) * 1e3)
        total += xxhash.xxh3_64_intdigest(buffer[:count])
    return {"ms": times, "hash": _sum(total)}


def streams(base: str, places: list[tuple[str, int, int]]) -> dict[str, Any]:
    """A process for each (key, start, length), all from one moment on: seconds of each, and until the last ended."""
    connections = max(1, _CONNECTIONS // len(places))
    begin = time.monotonic() + 0.2
    with multiprocessing.get_context("fork").Pool(len(places)) as pool:
        asked = [(base, *place, begin, connections) for place in places]
        ended, hashes = zip(*pool.starmap(_stream, asked, chunksize=1), strict=True)
    return {"s": [at - begin for at in ended], "hash": _sum(sum(hashes))}


def _stream(base: str, key: str, start: int, length: int, begin: float, connections: int) -> tuple[float, int]:
    time.sleep(max(0.0, begin - time.monotonic()))
    if base.startswith("http://"):
        _parallel(base, key, start, length, connections)
        return time.monotonic(), 0
    file, buffer, digest = _open(base, key), memoryview(bytearray(_BLOCK_BYTES)), xxhash.xxh3_64()
    for at in range(start, start + length, _BLOCK_BYTES):
        digest.update(buffer[: file.read_into(at, buffer[: start + length - at])])
    return time.monotonic(), digest.intdigest()


def _parallel(base: str, key: str, start: int, length: int, connections: int) -> None:
    """Fetches the range and keeps nothing of it."""

    def fetch(first: int) -> None:
        file, buffer = _open(base, key), memoryview(bytearray(_RANGE_BYTES))
        for at in range(first, length, connections * _RANGE_BYTES):
            file.read_into(start + at, buffer[: length - at])

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(fetch, range(0, min(length, connections * _RANGE_BYTES), _RANGE_BYTES)))


def files(base: str, keys: list[str], readers: int) -> dict[str, Any]:
    """Whole small files, shared among the readers: seconds for all."""
    began = time.monotonic()
    with multiprocessing.get_context("fork").Pool(readers) as pool:
        shares = [(base, keys[reader::readers]) for reader in range(readers)]
        hashes = pool.starmap(_whole_files, shares, chunksize=1)
        return {"s": time.monotonic() - began, "hash": _sum(sum(hashes))}


def _whole_files(base: str, keys: list[str]) -> int:
    total = 0
    if not base.startswith("http://"):
        for key in keys:
            with open(f"{base}/{key}", "rb", buffering=0) as file:
                total += xxhash.xxh3_64_intdigest(file.read())
        return total
    parts = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    for key in keys:
        connection.request("GET", f"{parts.path}/{key}")
        total += xxhash.xxh3_64_intdigest(connection.getresponse().read())
    return total


def first_byte(base: str, key: str) -> dict[str, Any]:
    """The moment (of the machine's monotonic clock) when 4 KiB had been read of a mount that may not be yet."""
    while not base.startswith("http://") and not _is_mounted(base):
        time.sleep(0.002)
    began, view = time.monotonic(), memoryview(bytearray(4096))
    count = _open(base, key).read_into(0, view)
    ended = time.monotonic()
    return {"at": ended, "ms": (ended - began) * 1e3, "hash": xxhash.xxh3_64_intdigest(view[:count])}


def _is_mounted(directory: str) -> bool:
    return any(line.split(" ")[4] == directory for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _sum(hashes: int) -> int:
    return hashes & 0xFFFF_FFFF_FFFF_FFFF


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "random": random_reads,
    "streams": streams,
    "files": files,
    "first_byte": first_byte,
}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(_JOBS[asked.pop("do")](**asked), sys.stdout)
