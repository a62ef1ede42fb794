"""Zips into an index, from their central directories alone.

Hides the format (PKWARE's APPNOTE.TXT, to whose sections comments refer) and the place of a member. Called by kept.py's
thread for an archive, and by members.py, which reads what a place says. The directory is read here, and not by zipfile,
because that makes an object of 600 bytes of each member, of which there may be millions, at once; the tests hold both
against each other.
"""

import calendar
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from vfs.archive import Archive, link_target, path_of
from vfs.archive.index import Writer
from vfs.errors import CorruptData, SourceError

STORED, DEFLATED = 0, 8
LOCAL_HEADER_BYTES = 30

# The end record has 22 bytes and a comment of up to 64 KiB; with what stands before it, a small zip's whole directory.
_TAIL_BYTES = 256 << 10
# A directory is read in as few ranges as that: one for 100,000 members.
_RANGE_BYTES = 16 << 20
_LOCAL = struct.Struct("<4s5HLLLHH")  # 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END_64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR_64 = struct.Struct("<4sLQL")  # 4.3.15
_ENCRYPTED, _UTF_8 = 1, 1 << 11  # 4.4.4
_EXTRA_64, _EXTRA_TIMES, _EXTRA_NAME = 0x0001, 0x5455, 0x7075  # 4.5.3; Info-ZIP's; 4.6.9
_FULL = 0xFFFFFFFF
_UNIX, _DOS = 3, 0
_LINK_MODE, _KIND_MODE = 0o120000, 0o170000
_METHODS = {1: "shrunk", 6: "imploded", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
# Links are read when the directory is: a request each.
_MOST_LINKS = 1000
_MOST_TARGET_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member of a zip stands, and how it is packed."""

    header: int
    packed_bytes: int
    method: int
    flags: int
    crc: int

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Of `str(place)`."""
        return cls(*(int(part, 16) for part in text.split(".")))

    def __str__(self) -> str:
        return f"{self.header:x}.{self.packed_bytes:x}.{self.method:x}.{self.flags:x}.{self.crc:x}"

    def require_readable(self, name: str) -> None:
        """Raises SourceError for a member that cannot be read in place."""
        if self.flags & _ENCRYPTED:
            raise SourceError(f"{name}: is encrypted: unpack the archive with its password, and mount the folder")
        if self.method not in (STORED, DEFLATED):
            how = _METHODS.get(self.method, f"packed by method {self.method}")
            raise SourceError(
                f"{name}: is {how}, which is not read in place: unpack the archive, or pack it by deflate"
            )


def local_header_bytes(header: bytes, name: str) -> int:
    """How long the header before a member's bytes is, by its fixed part. Raises CorruptData."""
    magic, *_, name_bytes, extra_bytes = _LOCAL.unpack_from(header)
    if magic != b"PK\3\4":
        raise CorruptData(f"{name}: does not stand where the archive's directory says: the archive is damaged")
    return LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)


def walk(
    archive: Archive,
    writer: Writer,
    read_link: Callable[[Place, int, str], bytes],
    note: Callable[[int], None] = lambda done_bytes: None,
) -> None:
    """Adds what stands in a zip. `read_link` reads a small member whole, given its place, size and name. `note` is told
    how far it is, and may raise to give it up.

    Raises CorruptData for what is no zip or is damaged, and SourceError for one that is a part of several.
    """
    links = 0
    for member in _members(archive, note):
        if member.name.endswith("/"):
            writer.add(member.name, "dir")
        elif member.is_link and member.size_bytes <= _MOST_TARGET_BYTES and links < _MOST_LINKS:
            links += 1
            _add_link(writer, member, read_link)
        else:
            writer.add(
                member.name, "file", size_bytes=member.size_bytes, mtime_ns=member.mtime_ns, place=str(member.place)
            )


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size_bytes: int
    mtime_ns: int
    is_link: bool
    place: Place


def _add_link(writer: Writer, member: _Member, read_link: Callable[[Place, int, str], bytes]) -> None:
    try:
        written = read_link(member.place, member.size_bytes, member.name) if member.size_bytes else b""
        target = link_target(path_of(member.name) or "", written.decode())
    except (CorruptData, SourceError, UnicodeDecodeError):
        writer.leave_out("they are links whose targets cannot be read")
        return
    if target is None:
        writer.leave_out("they are links that lead out of the archive")
    else:
        writer.add(member.name, "link", mtime_ns=member.mtime_ns, target=target)


# -- the directory -----------------------------------------------------------------------------------------------


def _members(archive: Archive, note: Callable[[int], None]) -> Iterator[_Member]:
    """The members in the order of the directory."""
    tail_bytes = min(_TAIL_BYTES, archive.size_bytes)
    tail_start = archive.size_bytes - tail_bytes
    tail = bytes(archive.read(tail_start, tail_bytes)) if tail_bytes else b""
    start, length, shift, count = _directory(tail, tail_start)
    if start >= tail_start:
        ranges = iter([tail[start - tail_start : start - tail_start + length]])
    else:
        bounds = [*range(start, start + length, _RANGE_BYTES), start + length]
        ranges = (bytes(archive.read(first, stop - first)) for first, stop in pairwise(bounds))
    found, data, at = 0, b"", 0
    for number, more in enumerate(ranges):
        note(start + number * _RANGE_BYTES)
        data, at = data[at:] + more, 0
        while len(data) - at >= _ENTRY.size:
            parsed = _entry(data, at, shift)
            if parsed is None:
                break
            member, at = parsed
            found += 1
            yield member
    # Without zip64 the number is told modulo 65536 by some programs.
    if at != len(data) or found & 0xFFFF != count & 0xFFFF:
        raise CorruptData(f"its directory has {found} of {count} members: the archive is damaged")


def _directory(tail: bytes, tail_start: int) -> tuple[int, int, int, int]:
    """Where the directory stands, its length, what is to be added to the offsets in it, and how many members it has.

    Something may stand before the zip (a program that unpacks it): offsets count from the zip's own beginning.
    """
    at = _end_record(tail)
    _, disk, first_disk, _, count, length, offset, _ = _END.unpack_from(tail, at)
    end = at
    locator = at - _LOCATOR_64.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        end = locator - _END_64.size
        if end < 0 or not tail.startswith(b"PK\6\6", end):
            raise CorruptData("its zip64 end record is not where it must be: the archive is damaged")
        _, _, _, _, disk, first_disk, _, count, length, offset = _END_64.unpack_from(tail, end)
    if disk or first_disk:
        raise SourceError("it is one part of a zip in several: join the parts with zip -s 0")
    start = tail_start + end - length
    if start < 0 or offset > start:
        raise CorruptData("its directory does not stand where its end record says: the archive is not whole")
    return start, length, start - offset, count


def _end_record(tail: bytes) -> int:
    """Where the end record is, which a comment follows that may look like one, and in some files something else."""
    last = -1
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        stop = at + _END.size + (_END.unpack_from(tail, at)[-1] if at + _END.size <= len(tail) else len(tail))
        if stop == len(tail):
            return at
        last = at if last < 0 and stop < len(tail) else last
        at = tail.rfind(b"PK\5\6", 0, at)
    if last < 0:
        raise CorruptData("it has no end record: it is no zip, or not whole")
    return last


def _entry(data: bytes, at: int, shift: int) -> tuple[_Member, int] | None:
    """The member whose entry begins at a place, and where the next begins; None where the entry is not whole."""
    head = _ENTRY.unpack_from(data, at)
    magic, made_by, _, flags, method, time, date, crc, packed, size, *lengths, _, _, attributes, offset = head
    if magic != b"PK\1\2":
        raise CorruptData("its directory holds something else than members: the archive is damaged")
    name_stop = at + _ENTRY.size + lengths[0]
    extra_stop = name_stop + lengths[1]
    stop = extra_stop + lengths[2]
    if stop > len(data):
        return None
    extras = _extras(data[name_stop:extra_stop]) if lengths[1] else {}
    size, packed, offset = _large((size, packed, offset), extras.get(_EXTRA_64, b""))
    host = made_by >> 8
    is_link = host == _UNIX and (attributes >> 16) & _KIND_MODE == _LINK_MODE
    name = _name(data[at + _ENTRY.size : name_stop], flags, host, extras)
    place = Place(offset + shift, packed, method, flags & _ENCRYPTED, crc)
    return _Member(name, size, _mtime_ns(date, time, extras), is_link, place), stop


def _extras(data: bytes) -> dict[int, bytes]:
    """The extra fields by their number (4.5.1), as far as they are whole."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        number, length = struct.unpack_from("<HH", data, at)
        found.setdefault(number, data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _large(small: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """Numbers that did not fit into 32 bits, from the zip64 field, which has those alone, in this order (4.5.3)."""
    found = []
    for number in small:
        if number == _FULL and len(extra) >= 8:
            number, extra = struct.unpack_from("<Q", extra)[0], extra[8:]
        found.append(number)
    return tuple(found)


def _name(raw: bytes, flags: int, host: int, extras: dict[int, bytes]) -> str:
    # Info-ZIP's field has a version, a CRC of the name that it stands for, and the name in UTF-8.
    better = extras.get(_EXTRA_NAME, b"")
    try:
        if flags & _UTF_8:
            name = raw.decode()
        elif len(better) > 5:
            name = better[5:].decode()
        else:
            name = raw.decode() if host == _UNIX else raw.decode("cp437")
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    return name.replace("\\", "/") if host == _DOS and "/" not in name else name


def _mtime_ns(date: int, time: int, extras: dict[int, bytes]) -> int:
    """When a member was changed: in UTC where that is told, else the packer's own clock taken for UTC."""
    times = extras.get(_EXTRA_TIMES, b"")
    if len(times) >= 5 and times[0] & 1:
        return max(0, int(struct.unpack_from("<i", times, 1)[0])) * 1_000_000_000
    return _dos_time_ns(date, time)


@lru_cache(4096)
def _dos_time_ns(date: int, time: int) -> int:
    """A date and a time as DOS has them (4.4.6)."""
    clock = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, 2 * (time & 31))
    try:
        return calendar.timegm(clock) * 1_000_000_000
    except ValueError:  # month 0, for "not known"
        return 0
