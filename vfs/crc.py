"""CRC-32C and CRC-64/NVME, as S3 tells them of objects: at 250 to 300 MiB a second, with numpy and nothing else.

zlib has neither, and a loop of Python over bytes makes 10 MiB a second. A CRC is linear: that of a long text follows
from those of its pieces. So a block is cut into thousands of lanes, whose CRCs are made side by side, two bytes of each
at a time, and then put together two by two: "followed by so many bytes" is a matrix over bits, which tables apply.

Called by digests.py. A Crc belongs to one thread.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vfs.extent import Buffer

_Words = npt.NDArray[np.uint64]

_LANE_BYTES = 256
_MOST_LANES = 4096  # lanes of a block: 1 MiB, whose lanes' states stay in a processor's own cache
_BYTE = np.uint64(0xFF)
_EIGHT, _SIXTEEN = np.uint64(8), np.uint64(16)

# Bits, and polynomial with the lowest bit first (RFC 3720, appendix B.4; NVM Express NVM Command Set, 5.2.1.3.4).
_KINDS = {"crc32c": (32, 0x82F63B78), "crc64nvme": (64, 0x9A6C9329AC4BC9B5)}


class Crc:
    """One of _KINDS, of bytes that come one after the other; begins with all bits set and ends with all turned."""

    def __init__(self, kind: str) -> None:
        self._bits, _ = _KINDS[kind]
        self._kind = kind
        self._ones = (1 << self._bits) - 1
        self._state = self._ones

    def update(self, data: Buffer) -> None:
        """Takes the next bytes."""
        values = np.frombuffer(data, dtype=np.uint8)
        while len(values) >= _LANE_BYTES:
            lanes = min(_MOST_LANES, 1 << (len(values) // _LANE_BYTES).bit_length() - 1)
            length = lanes * _LANE_BYTES
            after = _applied(_following(self._kind, length), np.array([self._state], dtype=np.uint64))
            self._state = int(after[0]) ^ self._of_lanes(values[:length].reshape(lanes, _LANE_BYTES))
            values = values[length:]
        table = _table(self._kind)
        state = self._state
        for byte in values.tolist():
            state = int(table[(state ^ byte) & 0xFF]) ^ (state >> 8)
        self._state = state

    def digest(self) -> bytes:
        """The CRC, its highest byte first."""
        return (self._state ^ self._ones).to_bytes(self._bits // 8, "big")

    def _of_lanes(self, lanes: npt.NDArray[np.uint8]) -> int:
        """The CRC of all lanes, one behind the other, from a state of nothing."""
        table = _table_of_pairs(self._kind)
        states = np.zeros(len(lanes), dtype=np.uint64)
        for column in np.ascontiguousarray(lanes.view("<u2").T):
            # To 16 bits is cut by the type, and take without a check is twice as fast as brackets.
            places = states.astype(np.uint16) ^ column
            states = np.take(table, places, mode="wrap") ^ (states >> _SIXTEEN)
        length = _LANE_BYTES
        while len(states) > 1:
            states = _applied(_following(self._kind, length), states[::2]) ^ states[1::2]
            length *= 2
        return int(states[0])


@cache
def _table(kind: str) -> _Words:
    """What a byte does to a state (256,)."""
    _, polynomial = _KINDS[kind]

    def of(byte: int) -> int:
        for _ in range(8):
            byte = (byte >> 1) ^ (polynomial if byte & 1 else 0)
        return byte

    return np.array([of(byte) for byte in range(256)], dtype=np.uint64)


@cache
def _table_of_pairs(kind: str) -> _Words:
    """What two bytes do to a state, by both as one number, the first being the lower (65536,)."""
    table, pairs = _table(kind), np.arange(1 << 16, dtype=np.uint64)
    once = table[pairs & _BYTE] ^ (pairs >> _EIGHT)
    twice: _Words = table[once & _BYTE] ^ (once >> _EIGHT)
    return twice


@cache
def _following(kind: str, zeros: int) -> _Words:
    """What so many bytes of zero, a power of two, do to a state: for each of its bytes a table (bits / 8, 256)."""
    bits, _ = _KINDS[kind]
    single = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    if zeros == 1:
        images = _table(kind)[single & _BYTE] ^ (single >> _EIGHT)
    else:
        half = _following(kind, zeros // 2)
        images = _applied(half, _applied(half, single))
    return np.stack([*_spans(images)])


def _spans(images: _Words) -> Iterator[_Words]:
    """Of the images of eight bits each the images of all bytes that they make."""
    for first in range(0, len(images), 8):
        table = np.zeros(1, dtype=np.uint64)
        for image in images[first : first + 8]:
            table = np.concatenate((table, table ^ image))
        yield table


def _applied(tables: _Words, states: _Words) -> _Words:
    result: Any = tables[0][states & _BYTE]
    for place in range(1, len(tables)):
        result = result ^ tables[place][(states >> np.uint64(8 * place)) & _BYTE]
    return np.asarray(result, dtype=np.uint64)
