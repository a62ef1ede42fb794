"""Whole objects that a dataset is told by: manifests and metadata, of up to hundreds of MB, kept by version.

Hides ranges, parallel requests and the files. Called by datasets, which parse what they get; knows nothing of formats.
A document costs one HEAD each time, so that a new release is seen, and its bytes only when the store has another
version than the one that is kept. Any thread may call; it blocks.
"""

import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from vfs.errors import CorruptData, NotFound
from vfs.sources import ObjectInfo, Source

log = logging.getLogger(__name__)

# Requests of one document at a time, and of how much: a connection to S3 gives about 60 MB/s, so that 4 MiB are the
# time of three round trips.
_PIECE_BYTES = 4 << 20
_REQUESTS = 8
# Documents that are looked for at a time.
_DOCUMENTS = 16
_MOST_BYTES = 2 << 30
"""A larger one is no manifest."""


class Documents:
    """The documents of a source; `folder` keeps their bytes, where there is one and it can be written."""

    def __init__(self, source: Source, folder: Path | None) -> None:
        self._source = source
        self._folder = folder if source.remote else None

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from one HEAD. Raises NotFound and the source's errors."""
        return self._source.stat(key)

    def read(self, key: str) -> bytes | bytearray:
        """All of the object as it is now. Raises NotFound and the source's errors."""
        return self._bytes_of(self._source.stat(key))

    def read_all(self, keys: Iterable[str]) -> dict[str, bytes | bytearray | None]:
        """Several, side by side, in the order of their keys; None where there is no such object."""
        with ThreadPoolExecutor(_DOCUMENTS, thread_name_prefix="documents") as threads:
            found = {key: threads.submit(self._read_or_none, key) for key in keys}
            return {key: document.result() for key, document in found.items()}

    def stat_all(self, keys: Iterable[str]) -> dict[str, ObjectInfo | None]:
        """`stat` of several, side by side; None where there is no such object."""
        with ThreadPoolExecutor(_DOCUMENTS, thread_name_prefix="documents") as threads:
            found = {key: threads.submit(self._stat_or_none, key) for key in keys}
            return {key: document.result() for key, document in found.items()}

    def _read_or_none(self, key: str) -> bytes | bytearray | None:
        try:
            return self.read(key)
        except NotFound:
            return None

    def _stat_or_none(self, key: str) -> ObjectInfo | None:
        try:
            return self._source.stat(key)
        except NotFound:
            return None

    def _bytes_of(self, obj: ObjectInfo) -> bytes | bytearray:
        file = self._file_of(obj)
        if file is not None:
            with suppress(OSError):
                kept = file.read_bytes()
                if len(kept) == obj.size_bytes:
                    return kept
        data = self.fetch(obj)
        if file is not None:
            keep(file, data)
        return data

    def _file_of(self, obj: ObjectInfo) -> Path | None:
        """Where this version is kept; one that has no version is not."""
        if self._folder is None or not obj.version:
            return None
        name = xxh3_128_hexdigest(f"{self._source.url}\0{obj.identity}".encode(errors="surrogateescape"))
        return self._folder / name

    def fetch(self, obj: ObjectInfo) -> bytes | bytearray:
        """All of this version, from the store; nothing is kept, or copied. Raises Changed and the source's errors.

        What a listing told without its size is asked for first.
        """
        if obj.size_bytes < 0:
            obj = self._source.stat(obj.key)
        if obj.size_bytes > _MOST_BYTES:
            raise CorruptData(f"{obj.key}: {obj.size_bytes} bytes are no manifest")
        if obj.size_bytes <= _PIECE_BYTES:
            return bytes(self._source.read(obj, 0, obj.size_bytes)) if obj.size_bytes else b""
        data = bytearray(obj.size_bytes)

        def fetch(start: int) -> None:
            length = min(_PIECE_BYTES, obj.size_bytes - start)
            data[start : start + length] = self._source.read(obj, start, length)

        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="document") as threads:
            for piece in [threads.submit(fetch, start) for start in range(0, obj.size_bytes, _PIECE_BYTES)]:
                piece.result()
        return data


def keep(file: Path, data: bytes | bytearray) -> None:
    """Writes a file whole, or not at all: what is kept can be had again."""
    draft = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.write_bytes(data)
        draft.rename(file)
    except OSError as failure:
        log.info("%s is not kept: %s", file, failure)
        with suppress(OSError):
            draft.unlink(missing_ok=True)
