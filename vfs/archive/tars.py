"""Tars into an index: plain ones by hopping from header to header, gzipped ones in one pass.

Hides tarfile, which reads the headers (ustar, GNU, pax) from the files that are given to it here, and the place of a
member (its offset in the tar). Called by kept.py's thread for an archive. Tarfile takes some damage for the end of a
tar; here a tar ends with a block of zeros or at its last byte, or is damaged.
"""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from vfs.archive import Archive, link_target, path_of
from vfs.archive.index import Writer
from vfs.archive.inflate import Inflated
from vfs.errors import CorruptData

_HEADER_BYTES = 512
_ZEROS = bytes(_HEADER_BYTES)
# A name and the pax records of a file have hundreds of bytes, or with extended attributes up to 64 KiB; whoever says
# more wants memory. Records for all files that follow are kept by tarfile as long as it reads.
_MOST_HEADER_BYTES = 256 << 10
_MOST_RECORDS = 1000
# A header further on than this is hopped to: at 100 MB/s to read so much takes less than a request does.
_NEAR_BYTES = 256 << 10
_LEAST_READ_BYTES = 32 << 10
_MOST_READ_BYTES = 4 << 20
_SPARSE = "they are sparse files of GNU tar, which are not read in place: unpack the archive for them"
_LINKS_OUT = "they are links that lead out of the archive"
_NO_TARGET = "they are hard links to what is not in the archive before them"
_OTHERS = "they are devices or FIFOs"


def walk(file: Inflated, size_bytes: int | None, writer: Writer) -> None:
    """Adds what stands in a tar that is read from its beginning; of one of unknown size, None, to its end.

    Raises CorruptData for what is no tar, or not whole.
    """
    watched = _Watched(file)
    with _translated():
        opened: Any = tarfile.TarFile(fileobj=cast(Any, watched), mode="r", encoding="utf-8", errors="surrogateescape")
        with opened as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # it would keep all of them
                if len(tar.pax_headers) > _MOST_RECORDS:
                    raise CorruptData(f"it has {len(tar.pax_headers)} records for all its members: it is damaged")
                _add(writer, member, size_bytes)
        if watched.last not in (b"", _ZEROS):
            raise CorruptData(f"at byte {tar.offset} stands neither a header nor the end: the tar is damaged")


def _add(writer: Writer, member: tarfile.TarInfo, size_bytes: int | None) -> None:
    mtime_ns = int(member.mtime * 1e9) if 0 < member.mtime < 1 << 40 else 0
    if member.issparse() or "GNU.sparse.major" in member.pax_headers:
        writer.leave_out(_SPARSE)
    elif member.size < 0 or (size_bytes is not None and member.offset_data + member.size > size_bytes):
        raise CorruptData(f"member {member.name!r:.100} does not end within the tar: it is not whole")
    elif member.isreg():
        place = f"{member.offset_data:x}"
        writer.add(member.name, "file", size_bytes=member.size, mtime_ns=mtime_ns, place=place)
    elif member.isdir():
        writer.add(member.name, "dir")
    elif member.issym():
        target = link_target(path_of(member.name) or "", member.linkname)
        if target is None:
            writer.leave_out(_LINKS_OUT)
        else:
            writer.add(member.name, "link", mtime_ns=mtime_ns, target=target)
    elif member.islnk():
        if not writer.add_same(member.name, member.linkname):
            writer.leave_out(_NO_TARGET)
    else:
        writer.leave_out(_OTHERS)


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what tarfile raises for bytes that make no sense to it into CorruptData."""
    try:
        yield
    except tarfile.ReadError as failure:
        raise CorruptData(f"it is no tar, or not whole: {failure}") from failure
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, TypeError) as failure:
        raise CorruptData(f"a header of the tar makes no sense: {type(failure).__name__}: {failure}") from failure


class _Watched:
    """A file whose last read is known, and whose reads are bounded: tarfile reads headers with it, and no members."""

    def __init__(self, file: Inflated) -> None:
        self._file = file
        self.last = b""
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise CorruptData(f"a header of {size} bytes: the tar is damaged")
        self.last = self._file.read(size)
        return self.last


class Hopping:
    """An archive as a file that is read forwards (Inflated), for who wants a little here and a little there.

    Reads ahead as long as what is read next is near; hops over what is not.
    """

    def __init__(self, archive: Archive, note: Callable[[int], None] = lambda done_bytes: None) -> None:
        """`note` is told how far it is, and may raise to give it up."""
        self._archive = archive
        self._note = note
        self._held = b""
        self._start = self._position = 0
        self._ahead = _LEAST_READ_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        size = min(size, self._archive.size_bytes - self._position)
        if size <= 0:
            return b""
        end = self._start + len(self._held)
        if self._position + size > end:
            self._note(self._position)
            # What tarfile reads next is never before what is held.
            is_near = bool(self._held) and self._position - end <= _NEAR_BYTES
            self._ahead = min(2 * self._ahead, _MOST_READ_BYTES) if is_near else _LEAST_READ_BYTES
            count = min(max(size, self._ahead), self._archive.size_bytes - self._position)
            self._held, self._start = bytes(self._archive.read(self._position, count)), self._position
        first = self._position - self._start
        self._position += size
        return self._held[first : first + size]

    def seek(self, position: int) -> int:
        """Goes there, also past the end."""
        if position < self._position:
            raise CorruptData("an archive cannot lead back to what has been read of it")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position
