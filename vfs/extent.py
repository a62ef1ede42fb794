"""Byte-range arithmetic. A range is (start, length) in bytes; only the HTTP edge writes inclusive ranges.

Pure functions: any thread may call them.
"""

import re
from collections.abc import Iterator
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that need not be copied to be handed on. Of one that came from below nobody changes anything."""


def clip(start: int, length: int, size_bytes: int) -> int:
    """How many of `length` bytes at `start` stand before the end of an object of `size_bytes`."""
    return max(0, min(length, size_bytes - start))


def chunk_spans(start: int, length: int, chunk_bytes: int) -> Iterator[tuple[int, int, int]]:
    """The chunks that a range touches, as (chunk index, first byte within the chunk, byte count)."""
    end = start + length
    while start < end:
        index, offset = divmod(start, chunk_bytes)
        count = min(chunk_bytes - offset, end - start)
        yield index, offset, count
        start += count


def http_range(start: int, length: int) -> str:
    """The Range header's value for these bytes (RFC 9110, section 14.1.2: both ends inclusive)."""
    return f"bytes={start}-{start + length - 1}"


def parse_content_range(value: str) -> tuple[int, int, int | None]:
    """(start, length, size of the whole or None) of a Content-Range header (RFC 9110, section 14.4).

    Raises ValueError for anything that is not a satisfied byte range.
    """
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value.strip())
    if not match or int(match[2]) < int(match[1]):
        raise ValueError(f"not a satisfied Content-Range: {value!r}")
    start, end = int(match[1]), int(match[2])
    return start, end - start + 1, None if match[3] == "*" else int(match[3])
