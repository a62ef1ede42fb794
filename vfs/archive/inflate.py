"""Deflated streams read from any place: the seek points of a stream, and its bytes from such a point on.

Hides gzip. A deflated member of a zip is read as a gzip file too, with the header and trailer that it lacks put around
it, so that one way serves both. `scan` reads a stream once, from its beginning to its end, with bounded memory:
whoever wants it inflated gets it as it comes, and beside that indexed_gzip (a well-kept binding of zlib's zran) finds
block boundaries, which Python's zlib does not tell. `inflated` begins at such a point with nothing but Python's zlib:
without state, by any number of threads, from one range of the archive.

A boundary stands at any bit, Python's zlib begins at bytes. So deflate blocks that hold nothing are put in front of
the first byte, of as many bits as it has before the boundary (RFC 1951, 3.2.3).
"""

import io
import logging
import queue
import struct
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from vfs.archive.index import Point
from vfs.errors import CorruptData, SourceError, Unavailable

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_BLOCK_BYTES = 4 << 20  # what one request asks for in a scan
_BLOCKS_AHEAD = 2
_PIECE_BYTES = 1 << 20  # what is inflated at once
SPACING_BYTES = 4 << 20
"""Inflated bytes between two points of all streams but the largest."""
# Points for more than 16 GiB are too many to be kept, a kept one being up to 32 KiB: the distance between them grows
# with the stream, by what is known of it beforehand, and by what it turns out to be.
_MOST_POINTS = 4096
_POINTS_BY_SIZE = 1000
_WIDER = 8
# Each member of a gzip file takes 50 bytes of memory while its points are looked for: 100 MB of so many. They have
# 128 GB where each has 64 KiB, as bgzip makes them.
_MOST_MEMBERS = 1 << 21
# Scans at once: each takes up to 128 MiB, for points, and more than a processor.
_SCANS = threading.BoundedSemaphore(4)
_POLL_S = 0.5  # how soon one of two threads notices that the other has ended
# What one range of `inflated` asks for where the next point is far away.
_RANGE_BYTES = 16 << 20

_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952, 2.3: deflate, no name, no time, made by nobody
_GZIP_MAGIC = b"\x1f\x8b"
_TRAILER_BYTES = 8
# A header of indexed_gzip's index: magic, version, flags, two sizes, spacing, size of a dictionary, number of points.
_INDEX_HEADER = struct.Struct("<5sBBQQIII")
_INDEX_POINT = struct.Struct("<QQBB")

_Bits = list[tuple[int, int]]
# An empty block of Huffman codes that are given: block type 2, 257 literals, 2 distances, 18 code lengths, of which
# those of 18 and 1 are one bit; 138 and 118 times length 0, then length 1 for "end of block" and both distances; end.
_EMPTY_91: _Bits = [(0, 1), (2, 2), (0, 5), (1, 5), (14, 4), (0, 6), (1, 3), (0, 42), (1, 3)]
_EMPTY_91 += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1), (0, 1)]
_EMPTY_10: _Bits = [(0, 1), (1, 2), (0, 7)]  # one of fixed codes


@dataclass(frozen=True, slots=True)
class Stream:
    """A gzip file in an archive, or one that deflated bytes make together with a header and a trailer."""

    name: str
    read: Callable[[int, int], bytes]
    """Of the archive."""
    start: int
    length: int
    head: bytes = b""
    tail: bytes = b""

    @classmethod
    def of_deflated(
        cls, name: str, read: Callable[[int, int], bytes], start: int, length: int, *, crc: int, size_bytes: int
    ) -> "Stream":
        """Deflated bytes without anything around them, and what they are when inflated."""
        return cls(name, read, start, length, _GZIP_HEADER, struct.pack("<II", crc, size_bytes & 0xFFFFFFFF))

    @property
    def size_bytes(self) -> int:
        return len(self.head) + self.length + len(self.tail)

    def range(self, start: int, length: int) -> bytes:
        """The gzip file's bytes from `start`, as far as it goes."""
        stop = min(start + length, self.size_bytes)
        body, end = len(self.head), len(self.head) + self.length
        first, last = max(start, body), min(stop, end)
        middle = bytes(self.read(self.start + first - body, last - first)) if last > first else b""
        return self.head[start:stop] + middle + self.tail[max(0, start - end) : max(0, stop - end)]


class Inflated(Protocol):
    """A file that is read from its beginning to its end. `seek` goes forwards."""

    def read(self, size: int) -> bytes: ...
    def seek(self, position: int) -> int: ...
    def tell(self) -> int: ...


def scan(
    stream: Stream,
    consume: Callable[[Inflated], _T],
    keep: Callable[[Point], None],
    note: Callable[[int], None] = lambda done_bytes: None,
) -> tuple[_T, int]:
    """Reads a stream once. Gives what `consume` makes of it inflated, and its inflated size; `keep` has had all points.

    `note` is told how far it is, and may raise to give it up. `consume` begins anew where the stream turns out to be
    so large that its points must stand further apart. Raises CorruptData, and what reading raises.
    """
    with _SCANS:
        return _scan(stream, consume, keep, note)


def _scan(
    stream: Stream, consume: Callable[[Inflated], _T], keep: Callable[[Point], None], note: Callable[[int], None]
) -> tuple[_T, int]:
    spacing = max(SPACING_BYTES, stream.size_bytes // _POINTS_BY_SIZE)
    while True:
        finder = _Finder(stream, spacing)
        try:
            with closing(_blocks(stream)) as blocks:
                decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
                told = _told(blocks, finder, note)
                file = _File(_pieces(stream.name, told, decoder, is_bare=False), spacing * _MOST_POINTS)
                result = consume(file)
                file.drain()
                for _ in told:  # what stands behind it, if anything does
                    pass
                finder.finish(file.tell(), keep)
                return result, file.tell()
        except _TooLargeError:
            spacing *= _WIDER
            _log.info("%s: inflates to so much that it is read again for points further apart", stream.name)
        finally:
            finder.close()


def inflated(stream: Stream, point: Point, in_stop: int | None, start: int, length: int) -> bytes:
    """Exactly `length` inflated bytes from `start`, which is not before the point.

    `in_stop` is where in the gzip file the first point stands that is not before the end of these; None if none is.
    Raises CorruptData.
    """
    at = point.in_start - (1 if point.bits else 0)
    blocks = _ranges(stream, at, stream.size_bytes if in_stop is None else in_stop, point.bits)
    dictionary = {"zdict": point.dictionary} if point.dictionary else {}
    decoder = zlib.decompressobj(-zlib.MAX_WBITS, **dictionary)
    skip, parts, missing = start - point.out_start, [], length
    for piece in _pieces(stream.name, blocks, decoder, is_bare=True):
        kept = piece[skip : skip + missing]
        skip = max(0, skip - len(piece))
        parts.append(kept)
        missing -= len(kept)
        if not missing:
            return b"".join(parts)
    raise CorruptData(f"{stream.name}: inflates to fewer bytes than when it was indexed")


def _ranges(stream: Stream, at: int, stop: int, bits: int) -> Iterator[bytes]:
    """The gzip file's bytes, of the first of which only the last `bits` are wanted; all of it for 0."""
    while at < stop:
        block = stream.range(at, min(_RANGE_BYTES, stop - at))
        at += len(block)
        if bits:
            block, bits = _beginning(block[0], bits) + block[1:], 0
        yield block


def _beginning(byte: int, bits: int) -> bytes:
    """Bytes that end in the last `bits` of a byte, behind deflate blocks that hold nothing."""
    wanted = 8 - bits
    blocks = _EMPTY_91 if wanted % 2 else []
    # 91 is 3 beyond whole bytes, and each further block moves the end by 2.
    for _ in range((wanted - (3 if wanted % 2 else 0)) % 8 // 2):
        blocks = blocks + _EMPTY_10
    value = count = 0
    for number, width in blocks:
        value |= number << count
        count += width
    value |= byte >> wanted << count
    return value.to_bytes((count + bits) // 8, "little")


def _pieces(name: str, blocks: Iterator[bytes], decoder: Any, *, is_bare: bool) -> Iterator[bytes]:
    """What the blocks of a gzip file inflate to, one member after another. `is_bare`: they begin within a member, so
    that the trailer is passed over. Zlib compares the other trailers. Raises CorruptData."""
    data, members = b"", 0
    try:
        while True:
            members += 1
            if members > _MOST_MEMBERS:
                raise SourceError(f"{name}: is a gzip file of millions of members: unpack it and pack it as one")
            while not decoder.eof:
                data = data or next(blocks, b"")
                piece = decoder.decompress(data, _PIECE_BYTES)
                if not data and not piece and not decoder.eof:
                    raise CorruptData(f"{name}: ends in the middle of its deflated bytes: it is not whole")
                data = decoder.unconsumed_tail
                if piece:
                    yield piece
            data = _at_least(decoder.unused_data, blocks, (_TRAILER_BYTES if is_bare else 0) + len(_GZIP_MAGIC))
            data = data[_TRAILER_BYTES if is_bare else 0 :]
            if not data.startswith(_GZIP_MAGIC):
                return  # zeros mostly, with which tapes were filled up; gzip too takes it for the end
            decoder, is_bare = zlib.decompressobj(zlib.MAX_WBITS | 16), False
    except zlib.error as failure:
        raise CorruptData(f"{name}: cannot be inflated: {failure}") from failure


def _at_least(data: bytes, blocks: Iterator[bytes], count: int) -> bytes:
    while len(data) < count and (block := next(blocks, b"")):
        data += block
    return data


# -- reading all of it -------------------------------------------------------------------------------------------


class _TooLargeError(Exception):
    """There would be too many points."""


class _File:
    """Inflated pieces as a file that is read forwards (Inflated)."""

    def __init__(self, pieces: Iterator[bytes], most_bytes: int) -> None:
        self._pieces = pieces
        self._most_bytes = most_bytes
        self._piece = b""
        self._at = 0  # within the piece
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts = []
        while size and self._has_more():
            part = self._piece[self._at : self._at + size]
            self._pass(len(part))
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def seek(self, position: int) -> int:
        """Goes there, or to the end."""
        if position < self._position:
            raise CorruptData("an archive cannot lead back to what has been read of it")
        while self._position < position and self._has_more():
            self._pass(min(position - self._position, len(self._piece) - self._at))
        return self._position

    def tell(self) -> int:
        return self._position

    def drain(self) -> None:
        """Reads to the end, so that all of it is compared with its checksum."""
        while self._has_more():
            self._pass(len(self._piece) - self._at)

    def _pass(self, count: int) -> None:
        self._at += count
        self._position += count
        if self._position > self._most_bytes:
            raise _TooLargeError

    def _has_more(self) -> bool:
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True


def _blocks(stream: Stream) -> Generator[bytes, None, None]:
    """The gzip file from its beginning to its end, some of it asked for ahead."""
    starts = iter(range(0, stream.size_bytes, _BLOCK_BYTES))
    threads = ThreadPoolExecutor(_BLOCKS_AHEAD, thread_name_prefix="indexing")
    try:
        coming = deque(threads.submit(stream.range, start, _BLOCK_BYTES) for start in islice(starts, _BLOCKS_AHEAD))
        while coming:
            block = coming.popleft().result()
            coming.extend(threads.submit(stream.range, start, _BLOCK_BYTES) for start in islice(starts, 1))
            yield block
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _told(blocks: Iterator[bytes], finder: "_Finder", note: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    for block in blocks:
        finder.feed(block)
        done += len(block)
        note(done)
        yield block


class _Finder(io.RawIOBase):
    """Block boundaries, found by indexed_gzip in a thread of its own, which reads what `feed` is given as a file."""

    def __init__(self, stream: Stream, spacing_bytes: int) -> None:
        super().__init__()
        self._stream = stream
        self._spacing_bytes = spacing_bytes
        self._fed: queue.Queue[bytes] = queue.Queue(_BLOCKS_AHEAD)
        # The last two blocks, and where the second ends: indexed_gzip looks back by less than one.
        self._held = b""
        self._held_to = self._position = 0
        self._given_up = False
        self._failure: BaseException | None = None
        self._index = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by `close`
        self._thread = threading.Thread(target=self._find, name="seek points", daemon=True)
        self._thread.start()

    def feed(self, block: bytes) -> None:
        """The next block of the gzip file; waits while the thread is far behind."""
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._fed.put(block, timeout=_POLL_S)
                return

    def finish(self, inflated_bytes: int, keep: Callable[[Point], None]) -> None:
        """Hands out the points of the stream, all of which has been fed."""
        self._thread.join()
        name = self._stream.name
        if self._failure is not None:
            raise CorruptData(f"{name}: no seek points: {self._failure}") from self._failure
        self._index.seek(0)
        _, _, _, _, out_bytes, _, dictionary_bytes, count = _INDEX_HEADER.unpack(self._index.read(_INDEX_HEADER.size))
        if out_bytes != inflated_bytes:
            raise CorruptData(f"{name}: {out_bytes} inflated bytes were indexed of {inflated_bytes}")
        points = self._index.read(count * _INDEX_POINT.size)
        last: int | None = None
        for in_start, out_start, bits, has_dictionary in _INDEX_POINT.iter_unpack(points):
            dictionary = self._index.read(dictionary_bytes) if has_dictionary else b""
            # Each member of the gzip file has a point of its own, and there may be thousands to a MiB.
            if out_start < out_bytes and (last is None or out_start - last >= self._spacing_bytes):
                last = out_start
                keep(Point(out_start, in_start, bits, dictionary))

    def close(self) -> None:
        """Ends the thread."""
        self._given_up = True
        self._thread.join()
        self._index.close()
        super().close()

    # -- the thread

    def _find(self) -> None:
        try:
            import indexed_gzip

            with indexed_gzip.IndexedGzipFile(
                fileobj=self, spacing=self._spacing_bytes, readbuf_size=_PIECE_BYTES, drop_handles=False
            ) as file:
                file.build_full_index()
                file.export_index(filename=self._index.name)
        except BaseException as failure:  # noqa: BLE001 - raised again by `finish`
            self._failure = failure

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stream.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._stream.size_bytes if size < 0 else min(self._position + size, self._stream.size_bytes)
        while self._held_to < stop:
            self._take()
        first = self._held_to - len(self._held)
        if self._position < first:
            data = self._stream.range(self._position, max(0, stop - self._position))
        else:
            data = self._held[self._position - first : max(0, stop - first)]
        self._position += len(data)
        return data

    def _take(self) -> None:
        while True:
            if self._given_up:
                raise Unavailable(f"{self._stream.name}: indexing was given up")
            with suppress(queue.Empty):
                block = self._fed.get(timeout=_POLL_S)
                self._held = self._held[-_BLOCK_BYTES:] + block
                self._held_to += len(block)
                return
