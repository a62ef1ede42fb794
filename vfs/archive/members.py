"""The bytes of a member: exactly those that were asked for, from as little of the archive as that takes.

Hides how members are packed. A stored one is a range of the archive; a deflated one is inflated whole where it is
small, and from seek points (inflate.py) where it is not. What was inflated stays for a little, because whoever reads a
member asks for one piece of it after another, and because many who ask at once shall not inflate the same.

Called by sources/archives.py. Any thread may enter; `_lock` is over what is remembered, and nothing is read under it.
"""

import threading
import zlib
from collections.abc import Callable
from functools import partial

from cachetools import LRUCache

from vfs.archive import Archive, Packed
from vfs.archive.index import Index
from vfs.archive.inflate import Stream, inflated
from vfs.archive.kept import Kept, inflated_bytes
from vfs.archive.zips import DEFLATED, LOCAL_HEADER_BYTES, Place, local_header_bytes
from vfs.errors import CorruptData
from vfs.flight import Flights

# A deflated member of up to this size is inflated whole, in 20 ms.
SMALL_BYTES = 4 << 20
# A member's header is read with its bytes. Beside its fixed part it has the name and some 30 bytes; where it is longer
# than this, a second request brings the rest.
_HEADER_ROOM_BYTES = 512
# What is read of a stored member before so many bytes is read together with its header, which is not known yet.
_NEAR_HEADER_BYTES = 1 << 20
_MOST_KNOWN = 100_000
_KEPT_BYTES = 64 << 20
# A larger piece between two points (of an archive of hundreds of GB, or where one block is so large) is not kept.
_MOST_PIECE_BYTES = 32 << 20


class Members:
    """The members of all archives of a source."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        # Where the bytes of a zip's member begin, by the archive's identity and where its header does.
        self._starts: LRUCache[tuple[str, int], int] = LRUCache(_MOST_KNOWN)
        self._pieces: LRUCache[tuple[str, str, int], bytes] = LRUCache(_KEPT_BYTES, getsizeof=len)
        self._flights: Flights[tuple[str, str, int], bytes] = Flights()

    def read(self, member: Packed, start: int, length: int) -> bytes:
        """Exactly the bytes of a range that lies within the member.

        Raises CorruptData where the archive does not hold what it says, SourceError for what cannot be read in place,
        Timeout while seek points are being made, and what reading the archive raises.
        """
        if member.form == "zip":
            return self._of_zip(member, Place.parse(member.place), start, length)
        offset = int(member.place, 16) + start
        if member.form == "tar":
            _require_within(member, offset + length)
            return member.archive.read(offset, length)
        stream = Stream(member.archive.name, member.archive.read, 0, member.archive.size_bytes)
        return self._from_points(member, "", stream, self._kept.index(member.archive), offset, length)

    def read_link(self, archive: Archive, place: Place, size_bytes: int, name: str) -> bytes:
        """A small member of a zip, whole."""
        return bytes(self._of_zip(Packed(archive, "zip", str(place), size_bytes, name), place, 0, size_bytes))

    def _of_zip(self, member: Packed, place: Place, start: int, length: int) -> bytes:
        place.require_readable(member.name)
        if place.method != DEFLATED:
            if place.packed_bytes != member.size_bytes:
                raise CorruptData(f"{member.name}: has {place.packed_bytes} bytes, says {member.size_bytes}")
            data = self._packed(member, place, start, length)
            if length == member.size_bytes and zlib.crc32(data) != place.crc:
                raise CorruptData(f"{member.name}: its checksum is another: the archive is damaged")
            return data
        if max(member.size_bytes, place.packed_bytes) <= SMALL_BYTES:
            key = (member.archive.identity, member.place, 0)
            return self._piece(key, lambda: self._inflated_whole(member, place))[start : start + length]
        stream = Stream.of_deflated(
            member.name,
            member.archive.read,
            self._start(member, place),
            place.packed_bytes,
            crc=place.crc,
            size_bytes=member.size_bytes,
        )
        _require_within(member, stream.start + stream.length)
        index = self._kept.points(member.archive, member.place, stream, member.size_bytes)
        return self._from_points(member, member.place, stream, index, start, length)

    # -- stored bytes

    def _packed(self, member: Packed, place: Place, start: int, length: int) -> bytes:
        """A range of a member of a zip as it is stored."""
        with self._lock:
            at = self._starts.get((member.archive.identity, place.header))
        if at is None and start + length > _NEAR_HEADER_BYTES and length < place.packed_bytes:
            at = self._start(member, place)
        if at is not None:
            _require_within(member, at + place.packed_bytes)
            return member.archive.read(at + start, length)
        wanted = LOCAL_HEADER_BYTES + _HEADER_ROOM_BYTES + start + length
        count = min(wanted, member.archive.size_bytes - place.header)
        _require_within(member, place.header + LOCAL_HEADER_BYTES)
        data = bytes(member.archive.read(place.header, count))
        at = self._remember(member, place, data)
        first, stop = at - place.header + start, at - place.header + start + length
        if stop > count:
            data += bytes(member.archive.read(place.header + count, stop - count))
        return data[first:stop]

    def _start(self, member: Packed, place: Place) -> int:
        """Where the bytes of a member begin: its header has a length of its own, which the directory does not tell."""
        with self._lock:
            at = self._starts.get((member.archive.identity, place.header))
        if at is None:
            _require_within(member, place.header + LOCAL_HEADER_BYTES)
            at = self._remember(member, place, bytes(member.archive.read(place.header, LOCAL_HEADER_BYTES)))
        return at

    def _remember(self, member: Packed, place: Place, header: bytes) -> int:
        at = place.header + local_header_bytes(header, member.name)
        _require_within(member, at + place.packed_bytes)
        with self._lock:
            self._starts[member.archive.identity, place.header] = at
        return at

    # -- deflated bytes

    def _inflated_whole(self, member: Packed, place: Place) -> bytes:
        data = self._packed(member, place, 0, place.packed_bytes) if place.packed_bytes else b""
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            whole = decoder.decompress(data, member.size_bytes + 1)
        except zlib.error as failure:
            raise CorruptData(f"{member.name}: cannot be inflated: {failure}") from failure
        if len(whole) != member.size_bytes or not decoder.eof or zlib.crc32(whole) != place.crc:
            raise CorruptData(f"{member.name}: inflates to other bytes than the archive says: it is damaged")
        return whole

    def _from_points(self, member: Packed, part: str, stream: Stream, index: Index, start: int, length: int) -> bytes:
        """A range of an inflated stream, piece by piece from one point to the next."""
        total, stop = inflated_bytes(index), start + length
        if stop > total:
            raise CorruptData(f"{member.name}: does not end within the archive")
        parts: list[bytes] = []
        at = start
        while at < stop:
            point = index.point_at(at)
            if point is None:
                raise CorruptData(f"{member.name}: the index of the archive has no point for byte {at}")
            end, in_stop = index.next_point(point) or (total, None)
            count = end - point.out_start
            if count > _MOST_PIECE_BYTES:
                parts.append(inflated(stream, point, in_stop, at, min(stop, end) - at))
            else:
                key = (member.archive.identity, part, point.out_start)
                make = partial(inflated, stream, point, in_stop, point.out_start, count)
                # Copied: a part of it must not keep all of it in memory.
                parts.append(self._piece(key, make)[at - point.out_start : stop - point.out_start])
            at = min(stop, end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, key: tuple[str, str, int], make: Callable[[], bytes]) -> bytes:
        """What has been inflated, once for all who want it now and for a little longer."""
        with self._lock:
            piece = self._pieces.get(key)
        if piece is not None:
            return piece
        flight, mine = self._flights.join(key)
        if not mine:
            return self._flights.wait(flight, key[0].partition("\0")[0])
        try:
            piece = make()
        except BaseException as failure:
            self._flights.crash(key, failure)
            raise
        with self._lock:
            self._pieces[key] = piece
        self._flights.land(key, piece)
        return piece


def _require_within(member: Packed, stop: int) -> None:
    if stop > member.archive.size_bytes:
        raise CorruptData(f"{member.name}: stands beyond the end of its archive, which is damaged or not whole")
