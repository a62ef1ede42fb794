"""The boxes that an MP4 or QuickTime file is made of (ISO/IEC 14496-12, 4.2), as views into bytes.

Called by the parsers of what stands in boxes (mp4.py, entries.py, fragments.py). It knows no box's meaning. Every
length is held against what is there before it is used: what does not fit is a ValueError (or struct.error, IndexError
where a field is cut off). Pure: any thread may call it.
"""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer]

_MAX_CHILDREN = 65536  # of one box; a moov has a few tens


def header(view: memoryview, room: int) -> tuple[bytes, int, int]:
    """(type, header bytes, size with header) of the box that `view` begins with and `room` bytes are left for."""
    size, kind = struct.unpack_from(">I4s", view)
    length = 8
    if size == 1:
        (size,) = struct.unpack_from(">Q", view, 8)
        length = 16
    elif size == 0:
        size = room
    if size < length or (size > room and kind != b"mdat"):
        raise ValueError(f"a box {kind!r} of {size} bytes does not fit the {room} there are")
    return kind, length, size


def boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of each box; bytes at the end that hold no header are padding (QuickTime ends with 4)."""
    position = 0
    for _ in range(_MAX_CHILDREN):
        if position + 8 > len(view):
            return
        if not any(view[position : position + 8]):
            return
        kind, length, size = header(view[position:], len(view) - position)
        yield kind, view[position + length : position + size]
        position += size
    raise ValueError("a box has too many children")


def child(view: memoryview, wanted: bytes) -> memoryview | None:
    """The content of the first child of this type."""
    return next((content for kind, content in boxes(view) if kind == wanted), None)


def need(view: memoryview, wanted: bytes) -> memoryview:
    """The content of the first child of this type. Raises ValueError where there is none."""
    found = child(view, wanted)
    if found is None:
        raise ValueError(f"its box {wanted.decode()!r} is missing")
    return found


def table(parent: memoryview, kind: bytes, columns: int, dtype: str = ">u4") -> Integers:
    """(rows, columns) of a full box that is a count and its rows. Raises ValueError where rows are missing."""
    box = need(parent, kind)
    (rows,) = struct.unpack_from(">I", box, 4)
    length = rows * columns * np.dtype(dtype).itemsize
    if length > len(box) - 8:
        raise ValueError(f"its box {kind.decode()!r} claims {rows} rows and has not the bytes for them")
    return np.frombuffer(box, dtype=dtype, count=rows * columns, offset=8).reshape(rows, columns)
