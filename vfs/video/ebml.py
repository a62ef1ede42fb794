"""The elements that a Matroska or WebM file is made of (RFC 8794, EBML), as views into bytes.

Called by matroska.py. It knows no element's meaning. What is no element, or does not fit its parent, is a ValueError.
Pure: any thread may call it.
"""

import struct
from collections.abc import Iterator

HEADER_BYTES = 12
"""Of an element at most: 4 of its id (RFC 9559, 5.1.1), 8 of its length."""

_MAX_CHILDREN = 1 << 20


def header(view: memoryview) -> tuple[int, int, int | None]:
    """(id, bytes before the content, length of the content or None where that is not known) of the element that
    `view` begins with."""
    first = view[0]
    wide = 9 - first.bit_length()
    if wide > 4:
        raise ValueError("it is damaged: no element begins where one should")
    kind = int.from_bytes(view[:wide], "big")
    marker = view[wide]
    long = 9 - marker.bit_length()
    if long > 8:
        raise ValueError("it is damaged: an element's length is longer than 8 bytes")
    end = wide + long
    if end > len(view):
        raise ValueError("it is damaged: an element is cut off")
    size = int.from_bytes(view[wide:end], "big") & (1 << 7 * long) - 1
    return kind, end, None if size == (1 << 7 * long) - 1 else size


def elements(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(id, content) of each element."""
    position = 0
    for _ in range(_MAX_CHILDREN):
        if position >= len(view):
            return
        kind, before, size = header(view[position:])
        begin = position + before
        if size is None or begin + size > len(view):
            raise ValueError(f"it is damaged: an element {kind:#x} does not fit its parent")
        yield kind, view[begin : begin + size]
        position = begin + size
    raise ValueError("an element has too many children")


def children(view: memoryview) -> dict[int, memoryview]:
    """The first child of each id."""
    found: dict[int, memoryview] = {}
    for kind, content in elements(view):
        found.setdefault(kind, content)
    return found


def unsigned(content: memoryview | None, default: int = 0) -> int:
    """An unsigned integer of up to 8 bytes; the default where it is not there or empty (RFC 8794, 7.2)."""
    if not content:
        return default
    if len(content) > 8:
        raise ValueError("it is damaged: a number is longer than 8 bytes")
    return int.from_bytes(content, "big")


def real(content: memoryview | None) -> float:
    """A float of 4 or 8 bytes; 0 where it is not there (RFC 8794, 7.3)."""
    if not content:
        return 0.0
    value: float = struct.unpack(">f" if len(content) == 4 else ">d", content)[0]
    return value
