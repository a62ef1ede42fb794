"""The file of a value on disk: its format, its checksums, and reading it piece by piece.

Data, then one XXH3 for each `BLOCK_BYTES` of it, seeded with the value's key, then zeros up to a whole page. So a file
that is flipped, truncated, or swapped with another is found when the block is first read. Called by disk.py,
diskcare.py and cache.py; knows neither folders nor who keeps what. Any thread may read.
"""

import os
import struct

import xxhash

from vfs.extent import Buffer

BLOCK_BYTES = 64 << 10
_PAGE = 4096
_SUM = struct.Struct("<Q")

Key = tuple[bytes, int]
"""Owner (16 bytes) and number of a value."""


class Damaged(Exception):
    """A value's bytes are not those that were kept."""


class Value:
    """An open file of a value; the descriptor ends with the object.

    Blocks are checked each time: what was right once may have been damaged since, and would come from the disk as soon
    as the kernel has let its page go. That is 4 us for each 64 KiB (measured), less than to copy them.
    """

    __slots__ = ("_checked", "_descriptor", "_seed", "_sums", "key", "length", "misses")

    def __init__(self, key: Key, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        self.key = key
        self.length = length
        self.misses = 0
        """Reads that had to check a block first."""
        self._seed = _seed(key)
        blocks = -(-length // BLOCK_BYTES)
        # Those that a file which was cut off has not are none of any bytes.
        self._sums = os.pread(descriptor, _SUM.size * blocks, length).ljust(_SUM.size * blocks, b"\0")
        self._checked = bytearray(blocks)

    def __del__(self) -> None:
        # Not before the last thread that reads has let go: another file could get the number meanwhile.
        os.close(self._descriptor)

    def read(self, start: int, length: int) -> Buffer:
        """The bytes of a range that lies within the value; blocks. Raises Damaged, OSError."""
        first, last = start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES
        self.misses += not all(self._checked[first : last + 1])
        begin = first * BLOCK_BYTES
        data = memoryview(_whole(self._descriptor, begin, min(self.length, (last + 1) * BLOCK_BYTES) - begin))
        if not self._is_right(first, data):
            raise Damaged
        self._checked[first : last + 1] = b"\1" * (last - first + 1)
        return data[start - begin : start - begin + length]

    def ready(self, start: int, into: memoryview) -> bool:
        """Fills `into` from the kernel's pages; False where that would wait for the disk, where a block was not checked
        yet, and where one is damaged."""
        first, last = start // BLOCK_BYTES, (start + len(into) - 1) // BLOCK_BYTES
        if not all(self._checked[first : last + 1]):
            return False
        begin, end = first * BLOCK_BYTES, min(self.length, (last + 1) * BLOCK_BYTES)
        is_all = len(into) == end - begin
        blocks = into if is_all else memoryview(bytearray(end - begin))
        try:
            if os.preadv(self._descriptor, [blocks], begin, os.RWF_NOWAIT) != len(blocks):
                return False
        except OSError:  # EAGAIN, or a file system that cannot say
            return False
        if not self._is_right(first, blocks):
            return False
        if not is_all:
            into[:] = blocks[start - begin : start - begin + len(into)]
        return True

    def _is_right(self, first: int, blocks: memoryview) -> bool:
        """Whether blocks from that number on are those that were kept."""
        return all(
            xxhash.xxh3_64_intdigest(blocks[at : at + BLOCK_BYTES], self._seed)
            == _SUM.unpack_from(self._sums, (first + at // BLOCK_BYTES) * _SUM.size)[0]
            for at in range(0, len(blocks), BLOCK_BYTES)
        )


def write_image(image: memoryview, key: Key, data: memoryview, length: int) -> None:
    """Fills memory of `file_bytes_of(length)` bytes with the file of a value: the data, and zeros up to `length`."""
    seed = _seed(key)
    image[: len(data)] = data
    image[len(data) : length] = bytes(length - len(data))
    sums = b"".join(
        _SUM.pack(xxhash.xxh3_64_intdigest(image[at : min(at + BLOCK_BYTES, length)], seed))
        for at in range(0, length, BLOCK_BYTES)
    )
    image[length:] = sums.ljust(len(image) - length, b"\0")


def _seed(key: Key) -> int:
    """Makes a value's checksums differ from those of the same bytes under another name."""
    return int.from_bytes(key[0][:8]) ^ key[1]


def is_whole(data: memoryview, length: int, key: Key) -> bool:
    """Whether a file's bytes are data of that length with its checksums."""
    seed = _seed(key)
    return all(
        xxhash.xxh3_64_intdigest(data[at : min(at + BLOCK_BYTES, length)], seed)
        == _SUM.unpack_from(data, length + number * _SUM.size)[0]
        for number, at in enumerate(range(0, length, BLOCK_BYTES))
    )


def length_in(data: memoryview, key: Key) -> int:
    """The length of the value whose whole file these bytes are, which the file does not tell. Raises Damaged.

    Zeros fill up the page behind the last checksum, so that the last byte which is none lies in that. It may end with
    zeros itself: each of the few lengths that remain is tried on the last block, and one that fits on all.
    """
    size_bytes = len(data)
    if size_bytes == 0 or size_bytes % _PAGE:
        raise Damaged
    tail = bytes(data[-_PAGE - _SUM.size :])
    begin = size_bytes - len(tail) + len(tail.rstrip(b"\0"))
    for end in range(begin, min(begin + _SUM.size, size_bytes + 1)):
        length = end - _SUM.size * -(-end // (BLOCK_BYTES + _SUM.size))
        last = (length - 1) // BLOCK_BYTES * BLOCK_BYTES
        if (
            length > 0
            and file_bytes_of(length) == size_bytes
            and xxhash.xxh3_64_intdigest(data[last:length], _seed(key)) == _SUM.unpack_from(data, end - _SUM.size)[0]
            and is_whole(data, length, key)
        ):
            return length
    raise Damaged


def file_bytes_of(length: int) -> int:
    """Size of a value's file: data, checksums, and zeros up to a whole page."""
    return -(-(length + _SUM.size * -(-length // BLOCK_BYTES)) // _PAGE) * _PAGE


def filled_length(file_bytes: int) -> int:
    """The longest value whose file has this size: so a value that may end with zeros needs no length kept beside it."""
    return file_bytes - _SUM.size * -(-file_bytes // (BLOCK_BYTES + _SUM.size))


def _whole(descriptor: int, start: int, length: int) -> bytes:
    """Exactly these bytes of a file. Raises Damaged where it ends before."""
    data = os.pread(descriptor, length, start)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            raise Damaged
        data += more
    return data
