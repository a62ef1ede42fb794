"""A video's packets as bytes, and what can be told of one without decoding it.

Called by decode.py. Where packets are ranges of the file, as many as are wanted and adjoin come by one read; sound
between them is read along and skipped. Containers that cut packets into pieces go through demux.py.
A PacketReader belongs to one thread at a time; `Layout` is immutable.
"""

from dataclasses import dataclass

import numpy as np

from vfs.video.demux import PacketStream
from vfs.video.table import ByteReader, VideoIndex

_MAX_READ_BYTES = 64 << 20
"""Of one read, and of one packet: a GOP of 250 at 8K is less; memory is given to no larger claim."""

_MAX_GAP_BYTES = 1 << 20
"""Between packets that are read together: a chunk of the cache beneath, which comes whole anyway."""

_AHEAD_PACKETS, _AHEAD_BYTES = 16, 512 << 10
"""What is read beyond the need when reading goes on, so that frames in order do not cost a read each."""

_HELD_BYTES = 2 << 20
"""Left in memory while a reader is idle, at most."""


@dataclass(frozen=True)
class Layout:
    """How the NAL units of a codec stand in a packet; `length_bytes` is 0 where that is not known."""

    codec: str
    length_bytes: int

    @staticmethod
    def of(index: VideoIndex) -> "Layout":
        """From avcC (ISO/IEC 14496-15, 5.3.3) or hvcC (8.3.3), which begin with their version, 1."""
        data = index.extradata or b""
        if index.codec == "h264" and len(data) > 6 and data[0] == 1:
            return Layout("h264", (data[4] & 3) + 1)
        # With temporal layers, a picture that its own layer does not refer to may still serve a higher one.
        if index.codec == "hevc" and len(data) > 22 and data[0] == 1 and data[21] >> 3 & 7 == 1:
            return Layout("hevc", (data[21] & 3) + 1)
        return Layout(index.codec, 0)

    def is_disposable(self, packet: memoryview) -> bool:
        """Whether no other picture refers to this one; False where that cannot be told for certain."""
        kinds = []
        position = 0
        while self.length_bytes and position + self.length_bytes < len(packet):
            length = int.from_bytes(packet[position : position + self.length_bytes], "big")
            position += self.length_bytes
            kinds.append(packet[position])
            position += length
        if position != len(packet) or not kinds:
            return False
        if self.codec == "h264":
            pictures = [kind for kind in kinds if kind & 31 in (1, 2, 3, 4, 5)]
            return bool(pictures) and all(kind & 0xE0 == 0 for kind in pictures)  # nal_ref_idc and forbidden bit
        types = [kind >> 1 for kind in kinds if kind >> 1 < 32]
        return bool(types) and all(kind < 15 and kind % 2 == 0 for kind in types)  # H.265, table 7-1: *_N

    def is_absurd(self, packet: memoryview) -> bool:
        """Whether the decoder would take these bytes for what no encoder writes, and show a wrong picture for it.

        A VP9 frame may say "show that reference again" (show_existing_frame) and then ends after 2 bytes; damage that
        says so has more behind it. A packet of several frames ends with an index (VP9 bitstream, annex B and 6.2).
        """
        if self.codec != "vp9" or len(packet) <= 16 or packet[-1] & 0xE0 == 0xC0:
            return False
        profile_3 = packet[0] & 0x30 == 0x30  # has a reserved bit more
        return bool(packet[0] & (0x04 if profile_3 else 0x08))


class PacketReader:
    """Reads packets in decoding order, some ahead."""

    def __init__(self, reader: ByteReader, index: VideoIndex) -> None:
        self._reader = reader
        self._index = index
        self._stream = PacketStream(reader, index) if index.container else None
        self._first = 0
        self._held: list[memoryview] = []
        self._held_bytes = 0
        self.count = _available(index, reader.size_bytes)
        """Packets that the file has; fewer than the index says where the file is cut off."""

    def get(self, packet: int, goal: int, *, going_on: bool) -> memoryview:
        """The packet; those up to but without `goal` will be wanted next. Raises ValueError."""
        if not 0 <= packet - self._first < len(self._held):
            self._load(packet, min(max(goal, packet + 1), self.count), going_on)
        return self._held[packet - self._first]

    def rest(self) -> None:
        """Gives back memory between uses."""
        if self._held_bytes > _HELD_BYTES:
            self._held, self._held_bytes = [], 0

    def close(self) -> None:
        """Ends a demuxer, if there is one."""
        self._held, self._held_bytes = [], 0
        if self._stream is not None:
            self._stream.close()

    def _load(self, first: int, goal: int, going_on: bool) -> None:
        self._held, self._held_bytes = [], 0
        if self._stream is not None:
            held = [memoryview(data) for data in self._stream.read(first, min(goal, first + _AHEAD_PACKETS))]
            self._first, self._held, self._held_bytes = first, held, sum(map(len, held))
            return
        last, end = self._adjoining(first, goal, going_on)
        start = int(self._index.packet_offset[first])
        data = memoryview(self._reader.read(start, end - start))
        spans = zip(self._index.packet_offset[first:last], self._index.packet_size[first:last], strict=True)
        self._held = [data[int(at) - start : int(at) - start + int(size)] for at, size in spans]
        self._first, self._held_bytes = first, len(data)

    def _adjoining(self, first: int, goal: int, going_on: bool) -> tuple[int, int]:
        """(packet, byte) where one read that begins with packet `first` ends."""
        offsets, sizes = self._index.packet_offset, self._index.packet_size
        start = int(offsets[first])
        end = start + int(sizes[first])
        last = first + 1
        limit = min(self.count, goal + _AHEAD_PACKETS if going_on else goal)
        while last < limit:
            at, until = int(offsets[last]), int(offsets[last]) + int(sizes[last])
            if not 0 <= at - end <= _MAX_GAP_BYTES or until - start > _MAX_READ_BYTES:
                break
            if last >= goal and until - start > _AHEAD_BYTES:
                break
            last, end = last + 1, until
        return last, end


def _available(index: VideoIndex, size_bytes: int) -> int:
    """How many packets stand within the file, up to the first that does not."""
    sizes = index.packet_size
    fits = sizes <= _MAX_READ_BYTES
    if not index.container:
        fits &= (index.packet_offset >= 0) & (index.packet_offset + sizes <= size_bytes)
    missing = np.flatnonzero(~fits)
    return int(missing[0]) if len(missing) else len(sizes)
