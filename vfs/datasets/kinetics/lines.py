"""The lines of a CSV file, as fields: read in ranges, within bounds whatever stands in the file.

Hides how a file is cut into lines (LF or CRLF, a BOM in front), and quotes. A line is a row: no label has a line's end
in it, and so a quote that is never closed costs its own line alone. Called by the readers of both datasets; knows no
columns. Any thread may call; it blocks on the source.
"""

import csv
import logging
from collections.abc import Iterator

from vfs.sources import ObjectInfo, Source

_log = logging.getLogger(__name__)

_PIECE_BYTES = 4 << 20
# Real lines have less than 200. What is longer is no row, and is passed over as it comes.
_MOST_LINE_BYTES = 64 << 10
_MOST_FIELDS = 64
_MOST_BYTES = 1 << 30
"""Of a file: thirty times the largest there is."""


def rows(source: Source, obj: ObjectInfo) -> Iterator[tuple[list[str], bytes]]:
    """The fields of each line that is not empty, with the line itself; no fields for what is no row: too long, too many
    fields, or no text. Raises the source's errors."""
    for line in _lines(source, obj):
        if line is None:
            yield [], b"a line of more than 64 KiB"
        elif line:
            yield _fields(line), line


def first_row(source: Source, obj: ObjectInfo) -> list[str]:
    """The fields of the first line, from one small read. Raises the source's errors."""
    length = min(max(obj.size_bytes, 0), _MOST_LINE_BYTES)
    head = bytes(source.read(obj, 0, length)) if length else b""
    return _fields(head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").partition(b"\n")[0].strip())


def _lines(source: Source, obj: ObjectInfo) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long."""
    if obj.size_bytes > _MOST_BYTES:
        _log.warning("%s: only the first %d of its bytes are read", obj.key, _MOST_BYTES)
    size = min(obj.size_bytes, _MOST_BYTES)
    rest, passing = b"", False
    for start in range(0, size, _PIECE_BYTES):
        piece = bytes(source.read(obj, start, min(_PIECE_BYTES, size - start)))  # some give other buffers
        *whole, rest = (rest + piece.removeprefix(b"\xef\xbb\xbf" if start == 0 else b"")).split(b"\n")
        for line in whole:
            if not passing:
                yield line.strip() if len(line) <= _MOST_LINE_BYTES else None
            passing = False
        if passing or len(rest) > _MOST_LINE_BYTES:
            if not passing:
                yield None
            rest, passing = b"", True
    if not passing:
        yield rest.strip()


def _fields(line: bytes) -> list[str]:
    if line.count(b",") >= _MOST_FIELDS:
        return []
    text = line.decode("utf-8", "replace")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text]), [])
    except csv.Error:
        return []
