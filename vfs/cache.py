"""Chunks of remote objects on disk and in memory.

Hides diskcache, chunk keys, checksums, and who fetches what for whom. Called by ObjectFile only. A chunk is one
aligned piece of one version of one object; only whole chunks that have the right length are kept. Each carries a
checksum over its key and its bytes, compared when it is loaded from disk (not at every read), so that a flipped,
truncated or swapped file is found and fetched again. The disk is a convenience: when it fails, reading goes on.

Any thread may call. Lock order: there is one lock, `_lock`, over the chunks in memory and the counters; nothing is
fetched, read from disk or written under it.
"""

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache
import xxhash
from cachetools import LRUCache

from vfs.errors import CorruptData, EgofsError
from vfs.extent import chunk_spans, clip
from vfs.flight import Flights
from vfs.sources import ObjectInfo, Source

log = logging.getLogger(__name__)

# One size for all chunks, because diskcache removes at most `cull_limit` items for each one that it adds: with
# chunks of several sizes it can stay far over its limit.
CHUNK_BYTES = 1 << 20
# Chunks kept in memory, so that eight kernel reads of 128 KiB verify and load a chunk once.
MEMORY_BYTES = 64 << 20
_DIGEST_BYTES = 8
# After this many disk failures in a row the disk is left alone for a while.
_DISK_PATIENCE = 3
_DISK_PAUSE_S = 60.0
_DISK_FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)


@dataclass
class CacheCounters:
    """What the cache has done since it was opened."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    damaged: int = 0
    disk_errors: int = 0


class _PlainDisk(diskcache.Disk):  # type: ignore[misc]
    """Values are bytes and keys are text: a pickle in the cache folder is somebody else's and is never opened."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == diskcache.core.MODE_PICKLE:
            raise OSError("a value that is not bytes")
        return super().fetch(mode, filename, value, read)


class ChunkCache:
    """A disk cache for the objects of all sources; see the module's docstring."""

    def __init__(self, folder: Path, limit_bytes: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.counters = CacheCounters()
        self._lock = threading.Lock()
        self._memory: LRUCache[str, bytes] = LRUCache(memory_bytes, len)
        self._flights: Flights[str, bytes] = Flights()
        self._failures = 0
        self._rest_until = 0.0
        self._disk = _open_disk(folder, limit_bytes)

    def resize(self, limit_bytes: int) -> None:
        """Changes how much may be kept on disk; what is over it goes as chunks come."""
        self.limit_bytes = limit_bytes
        self._disk.reset("size_limit", limit_bytes)

    def close(self) -> None:
        """Closes the disk cache; the chunks stay for the next mount."""
        self._disk.close()

    def read(self, source: Source, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes of the range that stand before the object's end, from cache or source.

        Chunks that are missing are fetched whole, adjoining ones in one request. Raises what `source.read` raises.
        """
        length = clip(start, length, obj.size_bytes)
        spans = list(chunk_spans(start, length, CHUNK_BYTES))
        chunks = self._chunks(source, obj, [index for index, _, _ in spans])
        if len(spans) == 1:
            _, offset, count = spans[0]
            chunk = chunks[spans[0][0]]
            return chunk if count == len(chunk) else chunk[offset : offset + count]
        return b"".join(memoryview(chunks[i])[offset : offset + count] for i, offset, count in spans)

    def cached_bytes(self, source: Source, obj: ObjectInfo) -> int:
        """How many of the object's bytes are on disk."""
        prefix = _object_id(source, obj)
        total = 0
        for index in range(-(-obj.size_bytes // CHUNK_BYTES)):
            try:
                if f"{prefix}:{index}" in self._disk:
                    total += clip(index * CHUNK_BYTES, CHUNK_BYTES, obj.size_bytes)
            except _DISK_FAILURES as failure:
                self._disk_failed(failure)
                break
        return total

    def used_bytes(self) -> int:
        """Bytes that the cache folder holds, as diskcache counts them."""
        try:
            return int(self._disk.volume())
        except _DISK_FAILURES as failure:
            self._disk_failed(failure)
            return 0

    # -- chunks

    def _chunks(self, source: Source, obj: ObjectInfo, wanted: Iterable[int]) -> dict[int, bytes]:
        """The chunks of these indices; what no one has and no one else is fetching is fetched here."""
        prefix = _object_id(source, obj)
        chunks: dict[int, bytes] = {}
        owned: list[int] = []
        awaited = {}
        try:
            for index in wanted:
                key = f"{prefix}:{index}"
                chunk = self._from_memory(key)
                if chunk is None:
                    flight, mine = self._flights.join(key)
                    if mine:
                        owned.append(index)
                        # Between the look into memory and the flight somebody may have landed this chunk.
                        chunk = self._from_memory(key) or self._from_disk(key, _chunk_bytes(obj, index))
                        if chunk is not None:
                            owned.pop()
                            self._land(key, chunk)
                    else:
                        awaited[index] = flight
                if chunk is not None:
                    chunks[index] = chunk
            while owned:
                run = _first_run(owned)
                for index, chunk in self._fetch(source, obj, run).items():
                    self._to_disk(f"{prefix}:{index}", chunk)
                    self._land(f"{prefix}:{index}", chunk)
                    owned.remove(index)
                    chunks[index] = chunk
        except BaseException as failure:
            # Waiters must not share a KeyboardInterrupt or the like; for them the fetch has just failed.
            shared = failure if isinstance(failure, EgofsError) else CorruptData(f"{obj.key}: fetch broken off")
            for index in owned:
                self._flights.crash(f"{prefix}:{index}", shared)
            raise
        for index, flight in awaited.items():
            chunks[index] = self._flights.wait(flight, obj.key)
        return chunks

    def _fetch(self, source: Source, obj: ObjectInfo, run: list[int]) -> dict[int, bytes]:
        start = run[0] * CHUNK_BYTES
        length = clip(start, len(run) * CHUNK_BYTES, obj.size_bytes)
        data = source.read(obj, start, length)
        if len(data) != length:
            raise CorruptData(f"{obj.key}: {len(data)} bytes came for {length} at {start}")
        with self._lock:
            self.counters.misses += len(run)
        if len(run) == 1:
            return {run[0]: data}
        return {index: data[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES] for n, index in enumerate(run)}

    def _land(self, key: str, chunk: bytes) -> None:
        with self._lock:
            self._memory[key] = chunk
        self._flights.land(key, chunk)

    def _from_memory(self, key: str) -> bytes | None:
        with self._lock:
            chunk = self._memory.get(key)
            if chunk is not None:
                self.counters.memory_hits += 1
            return chunk

    # -- disk

    def _from_disk(self, key: str, length: int) -> bytes | None:
        if time.monotonic() < self._rest_until:
            return None
        try:
            stored = self._disk.get(key)
            if stored is None:
                return None
            if len(stored) == length + _DIGEST_BYTES:
                chunk = bytes(memoryview(stored)[:length])
                if _digest(key, chunk) == stored[length:]:
                    self._failures = 0
                    with self._lock:
                        self.counters.disk_hits += 1
                    return chunk
            log.warning("a damaged chunk was found in the cache and dropped; it is fetched again")
            with self._lock:
                self.counters.damaged += 1
            self._disk.delete(key)
        except _DISK_FAILURES as failure:
            self._disk_failed(failure)
        return None

    def _to_disk(self, key: str, chunk: bytes) -> None:
        if time.monotonic() < self._rest_until:
            return
        try:
            self._disk.set(key, chunk + _digest(key, chunk))
        except _DISK_FAILURES as failure:
            self._disk_failed(failure)

    def _disk_failed(self, failure: BaseException) -> None:
        with self._lock:
            self.counters.disk_errors += 1
            self._failures += 1
            if self._failures >= _DISK_PATIENCE:
                self._failures = 0
                self._rest_until = time.monotonic() + _DISK_PAUSE_S
        log.warning("the cache folder %s failed (%s); reading goes on without it", self._disk.directory, failure)


def _open_disk(folder: Path, limit_bytes: int) -> Any:
    """diskcache with settings of ours; a database that cannot be opened is set aside and begun anew."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {
        "disk": _PlainDisk,
        "size_limit": limit_bytes,
        # The default evicts what was stored first, not what was used last.
        "eviction_policy": "least-recently-used",
        "cull_limit": 10,
        "statistics": 0,
        "tag_index": 0,
    }
    try:
        return diskcache.Cache(str(folder), **settings)
    except sqlite3.DatabaseError as failure:
        aside = folder / f"cache.db.damaged-{os.getpid()}"
        log.warning("the cache's database %s is damaged (%s): set aside as %s", folder, failure, aside.name)
        (folder / "cache.db").rename(aside)
        for suffix in ("-wal", "-shm"):
            (folder / f"cache.db{suffix}").unlink(missing_ok=True)
        return diskcache.Cache(str(folder), **settings)


def _object_id(source: Source, obj: ObjectInfo) -> str:
    return hashlib.blake2b(os.fsencode(f"{source.url}\0{obj.identity}"), digest_size=16).hexdigest()


def _chunk_bytes(obj: ObjectInfo, index: int) -> int:
    return clip(index * CHUNK_BYTES, CHUNK_BYTES, obj.size_bytes)


def _first_run(indices: list[int]) -> list[int]:
    """The leading indices that adjoin one another: they are one request."""
    run = [indices[0]]
    for index in indices[1:]:
        if index != run[-1] + 1:
            break
        run.append(index)
    return run


def _digest(key: str, chunk: bytes) -> bytes:
    """XXH3 over key and bytes: finds damage and swapped files at memory speed; it is no defence against forgery."""
    digest = xxhash.xxh3_64(key.encode())
    digest.update(chunk)
    return digest.digest()
