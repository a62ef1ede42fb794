"""A video's packets as bytes, and what can be told of one without decoding it.

Called by run.py. Where packets are ranges of the file, as many as are wanted and adjoin come by one read; sound
between them is read along and skipped. Containers that cut packets into pieces go through demux.py.
A PacketReader belongs to one thread at a time; `Layout` is immutable.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vfs.extent import Buffer
from vfs.video.demux import PacketStream
from vfs.video.table import ByteReader, VideoIndex

_MAX_READ_BYTES = 64 << 20
"""Of one read, and of one packet: a GOP of 250 at 8K is less; memory is given to no larger claim."""

_MAX_GAP_BYTES = 1 << 20
"""Between packets that are read together: a chunk of the cache beneath, which comes whole anyway."""

_FIRST_AHEAD_BYTES, _AHEAD_BYTES, _AHEAD_PACKETS = 128 << 10, 1 << 20, 256
"""What is read beyond the need when reading goes on where it stopped, so that frames in order do not cost a read each:
at first, and, doubled with each read, at most. At 8 Mb/s the one is a tenth of a second, the other a second."""

_STREAM_PACKETS = 16
"""That a demuxer is asked for at once."""

_HELD_BYTES = 2 << 20
"""Left in memory while a reader is idle, at most."""

# What may stand in a packet beside its picture and be left out with it; parameter sets and ends of sequences may not.
_H264_REMARKS = {6, 9, 12}  # messages, delimiter, filler (H.264, table 7-1)
_HEVC_REMARKS = {35, 38, 39, 40}  # delimiter, filler, messages (H.265, table 7-1)


@dataclass(frozen=True)
class Layout:
    """How the NAL units of a codec stand in a packet; `length_bytes` is 0 where that is not known.

    VP9 and AV1 have no picture that is certain to be of no use to others: VP9 takes motion vectors and probabilities
    from the frame before, whether or not it is kept as a reference.
    """

    codec: str
    length_bytes: int
    temporal_layers: int = 1

    @staticmethod
    def of(index: VideoIndex) -> "Layout":
        """From avcC (ISO/IEC 14496-15, 5.3.3) or hvcC (8.3.3), which begin with their version, 1."""
        data = index.extradata or b""
        if index.codec == "h264" and len(data) > 6 and data[0] == 1:
            return Layout("h264", (data[4] & 3) + 1)
        if index.codec == "hevc" and len(data) > 22 and data[0] == 1 and data[21] >> 3 & 7:  # 0: not known
            return Layout("hevc", (data[21] & 3) + 1, data[21] >> 3 & 7)
        return Layout(index.codec, 0)

    def is_disposable(self, packet: memoryview) -> bool:
        """Whether no other picture refers to this one; False where that cannot be told for certain."""
        if not self.length_bytes:
            return False
        is_spare = self._is_spare_h264 if self.codec == "h264" else self._is_spare_hevc
        position, end, has_picture = 0, len(packet), False
        while position + self.length_bytes + 1 < end:
            begin = position + self.length_bytes
            spare = is_spare(packet[begin], packet[begin + 1])
            if spare is False:
                return False
            has_picture = has_picture or bool(spare)
            position = begin + int.from_bytes(packet[position:begin], "big")
        return has_picture and position == end

    def may_start(self, packet: memoryview) -> bool:
        """Whether decoding may begin at what the file marks as a keyframe; True where that cannot be told.

        H.264 is also marked where an intra refresh begins, which spreads over the pictures that follow: exact is only
        what begins at an IDR picture or at one of I slices (H.264, 7.4.1.2.4 and table 7-6).
        """
        if self.codec != "h264":
            return True
        for unit in self._units(packet):
            if unit[0] & 31 == 5:
                return True
            if unit[0] & 31 in (1, 2):
                return _slice_type(bytes(unit[1:17])) % 5 in (2, 4)
        return True

    def _units(self, packet: memoryview) -> Iterator[memoryview]:
        """The beginnings of the NAL units, with lengths before them or start codes (H.264, annex B)."""
        position = 0
        if self.length_bytes:
            while position + self.length_bytes < len(packet):
                begin = position + self.length_bytes
                yield packet[begin:]
                position = begin + int.from_bytes(packet[position:begin], "big")
            return
        data = bytes(packet)
        while (position := data.find(b"\0\0\1", position) + 3) > 2 and position < len(data):
            yield packet[position:]

    def _is_spare_h264(self, first: int, _: int) -> bool | None:
        """Whether a NAL unit with this header may be left out; None where it is no picture either."""
        if first & 31 in _H264_REMARKS:
            return None
        return first & 0xE0 == 0 and 1 <= first <= 5  # nal_ref_idc and the forbidden bit are 0

    def _is_spare_hevc(self, first: int, second: int) -> bool | None:
        kind = first >> 1
        if kind in _HEVC_REMARKS:
            return None
        # Even types below 15 are *_N: nothing of their own temporal layer refers to them, but a higher one may.
        return kind < 15 and first % 4 == 0 and second == self.temporal_layers  # and of the first of several views

    def is_absurd(self, packet: memoryview) -> bool:
        """Whether the decoder would take these bytes for what no encoder writes, and show a wrong picture for it.

        A VP9 frame may say "show that reference again" (show_existing_frame) and then ends after 2 bytes; damage that
        says so has more behind it. A packet of several frames ends with an index (VP9 bitstream, annex B and 6.2).
        """
        if self.codec != "vp9" or len(packet) <= 16 or packet[-1] & 0xE0 == 0xC0:
            return False
        profile_3 = packet[0] & 0x30 == 0x30  # has a reserved bit more
        return bool(packet[0] & (0x04 if profile_3 else 0x08))


def _slice_type(header: bytes) -> int:
    """The second number of a slice's header; numbers are Exp-Golomb codes (H.264, 7.3.3 and 9.1)."""
    bits = f"{int.from_bytes(header, 'big'):0{8 * len(header)}b}" if header else ""
    position = value = 0
    for _ in range(2):
        zeros = len(bits) - position - len(bits[position:].lstrip("0"))
        if position + 2 * zeros + 1 > len(bits):
            return 2  # cut off: the decoder will say so
        value = int(bits[position + zeros : position + 2 * zeros + 1], 2) - 1
        position += 2 * zeros + 1
    return value


class SequentialReader(ByteReader, Protocol):
    """A ByteReader that can be told when reading goes on where it stopped. PacketReader takes one without it too."""

    def read_on(self, start: int, length: int) -> Buffer:
        """As `read`, of bytes right behind those read before; more of them will follow."""
        ...


class PacketReader:
    """Reads packets in decoding order, some ahead where reading goes on.

    `held` are the packets `first` and following that are in memory; the reads themselves are `load`'s.
    """

    def __init__(self, reader: ByteReader, index: VideoIndex) -> None:
        self._read = reader.read
        self._read_on: Callable[[int, int], Buffer] = getattr(reader, "read_on", reader.read)
        self._index = index
        self._stream = PacketStream(reader, index) if index.container else None
        self._ahead_bytes = _FIRST_AHEAD_BYTES
        self._buffer_bytes = 0
        self.first = 0
        self.held: list[memoryview] = []
        self.count = _available(index, reader.size_bytes)
        """Packets that the file has; fewer than the index says where the file is cut off."""

    @property
    def end(self) -> int:
        """The packet behind those in memory."""
        return self.first + len(self.held)

    def load(self, first: int, goal: int, likely: int) -> None:
        """Puts packets in memory, from `first` on. Those up to but without `goal` are needed, those up to `likely`
        are wanted where they cost little. Raises ValueError, av.FFmpegError and the reader's errors."""
        goal = min(max(goal, first + 1), self.count)
        going_on = first > 0 and first == self.end
        if self._stream is not None:
            got = self._stream.read(first, min(goal, first + _STREAM_PACKETS))
            self.first, self.held = first, [memoryview(data) for data in got]
            self._buffer_bytes = sum(map(len, got))
            return
        self._ahead_bytes = min(2 * self._ahead_bytes, _AHEAD_BYTES) if going_on else _FIRST_AHEAD_BYTES
        last, end = self._adjoining(first, goal, self.count if going_on else min(likely, self.count))
        offsets, sizes = self._index.packet_offset[first:last], self._index.packet_size[first:last]
        start = int(offsets[0])
        data = memoryview((self._read_on if going_on else self._read)(start, end - start))
        spans = zip((offsets - start).tolist(), sizes.tolist(), strict=True)
        self.first, self.held = first, [data[at : at + size] for at, size in spans]
        self._buffer_bytes = len(data)

    def rest(self, first: int) -> None:
        """Gives back memory between uses: packets before `first` will not be asked for."""
        used = first - self.first
        if 0 < used <= len(self.held) and self._buffer_bytes > _HELD_BYTES:
            # What is left of a large read would hold all of it.
            self.first, self.held = first, [memoryview(bytes(data)) for data in self.held[used:]]
            self._buffer_bytes = sum(map(len, self.held))

    def close(self) -> None:
        """Ends a demuxer, if there is one."""
        self.held = []
        if self._stream is not None:
            self._stream.close()

    def _adjoining(self, first: int, goal: int, likely: int) -> tuple[int, int]:
        """(packet, byte) where one read that begins with packet `first` ends."""
        last = min(self.count, max(goal, min(likely, first + _AHEAD_PACKETS)))
        starts = self._index.packet_offset[first:last]
        ends = starts + self._index.packet_size[first:last]
        gaps = starts[1:] - ends[:-1]
        length = ends - starts[0]
        fits = (gaps >= 0) & (gaps <= _MAX_GAP_BYTES) & (length[1:] <= _MAX_READ_BYTES)
        fits[goal - first - 1 :] &= length[goal - first :] <= self._ahead_bytes
        misfits = np.flatnonzero(~fits)
        count = int(misfits[0]) + 1 if len(misfits) else len(starts)
        return first + count, int(ends[count - 1])


def _available(index: VideoIndex, size_bytes: int) -> int:
    """How many packets stand within the file, up to the first that does not."""
    sizes = index.packet_size
    fits = sizes <= _MAX_READ_BYTES
    if not index.container:
        fits &= (index.packet_offset >= 0) & (index.packet_offset + sizes <= size_bytes)
    missing = np.flatnonzero(~fits)
    return int(missing[0]) if len(missing) else len(sizes)
