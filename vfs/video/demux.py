"""Videos that only libavformat's demuxers are asked about: AVI, MPEG-TS and -PS, and rare kinds of Matroska.

Called by index.py (`scan`) and decode.py (`PacketStream`). libavformat's demuxers run over a ByteReader; the format
comes from the file's first bytes and is one of a few, so that nothing that names other files (a playlist, a concat
script) is ever opened.

**Cost: `scan` reads the whole file once.** It compares each packet with the file's bytes, which it has just read,
and so learns where the packet stands; where all are found in one piece (AVI, but for rare features), decoding needs
no demuxer afterwards and is the same as for MP4. MPEG-TS and -PS cut packets into pieces: their frames go through a
demuxer again, started at the keyframe's position.

A `_File` or `PacketStream` belongs to one thread at a time.
"""

import contextlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vfs.errors import EgofsError
from vfs.extent import Buffer
from vfs.video.cues import CONTAINER, CuedPackets
from vfs.video.table import MAX_FRAMES, MAX_PIXELS, ByteReader, Samples, VideoIndex, build

_BLOCK_BYTES = 1 << 20
"""Unit of reading: demuxers ask for 32 KiB at a time, and jump back a little."""

_BLOCKS_KEPT = 12
"""Holds a packet that has just been demuxed, while its place is looked for."""

_HEADER_BYTES = 64
"""A packet's bytes begin at the position that the demuxer gives, or after a header this long at most (Matroska: 4)."""

_MAX_BARREN_BYTES = 64 << 20
"""Read without a packet of the video coming out: a scan of what is no video after its first bytes ends there. One
packet is no larger, and between two of them stands little else."""

_OPTIONS = {
    "max_pixels": str(MAX_PIXELS),
    "enable_drefs": "0",  # tracks in other files
    "protocol_whitelist": "none",  # only the file object is read
    "probesize": "1048576",
    "max_streams": "100",
}

# Seeking by byte is native to these (libavformat's AVFMT_NO_BYTE_SEEK is not set and no index is needed).
_SEEK_BY_BYTE = {"mpegts", "mpeg"}

_DECODERS = {"av1": "libdav1d"}  # libavcodec's own av1 needs a graphics card


def container_of(head: bytes) -> str | None:
    """The demuxer for a file that begins so ("mov" for all of MP4); None for what is no video that can be read."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    for packet, sync in ((188, 0), (192, 4)):  # 192: Blu-ray and AVCHD put a time in front of each
        places = range(sync, min(len(head), 5 * packet), packet)
        if len(places) >= 2 and all(head[place] == 0x47 for place in places):
            return "mpegts"
    return None


def scan(reader: ByteReader, container: str) -> VideoIndex:
    """The index from one pass over the whole file.

    Raises ValueError or av.FFmpegError; an error of the reader passes through.
    """
    with opened(reader, container) as (file, source):
        stream = _video_stream(source)
        context = stream.codec_context
        if context is None:
            raise ValueError("its codec is not supported")
        size = (context.width, context.height)
        numbers = array("q")  # not a list of tuples, which would take 300 bytes a packet
        for row in _rows(file, source, stream):
            numbers.extend(row)
        file.check()
        if not numbers:
            raise ValueError("its video stream is empty")
        pts, offsets, sizes, flags, durations = np.frombuffer(numbers, dtype=np.int64).reshape(-1, 5).T
        located = bool((flags & _LOCATED).all())
        if container == "avi":
            _check_order(source, stream)
            file.check()
        order = np.argsort(pts, kind="stable")
        shown = order[(flags & _HIDDEN)[order] == 0]
        rotation = _first_rotation(source, stream)
        file.check()
        return build(
            codec=_DECODERS.get(context.name, context.name),
            coded_size=size,
            rotation=rotation,
            fps=fraction(stream.average_rate) if stream.average_rate else None,
            time_base=fraction(stream.time_base),
            shown=shown,
            shown_pts=pts[shown],
            last_duration=int(durations[shown[-1]]) if len(shown) else 1,
            packet_offset=offsets,
            packet_size=sizes,
            packet_pts=pts,
            keys=(flags & _KEY) != 0,
            extradata=context.extradata,
            container="" if located else container,
            stream=stream.index,
            samples=_samples(context),
        )


def _samples(context: VideoCodecContext) -> Samples:
    """What libavformat found when it decoded the first pictures; plain 8 bits where it found nothing."""
    samples = Samples(colorspace=int(context.colorspace), color_range=int(context.color_range))
    if context.pix_fmt is None:
        return samples
    components = av.VideoFormat(context.pix_fmt).components
    return replace(samples, depth=components[0].bits, monochrome=len(components) == 1)


_KEY, _HIDDEN, _LOCATED = 1, 2, 4


def _rows(file: "_File", source: InputContainer, stream: VideoStream) -> Iterator[tuple[int, int, int, int, int]]:
    """(pts, offset, size, flags, duration) of each packet."""
    for count, packet in enumerate(_packets(source, stream)):
        file.barren_bytes = 0
        if count >= MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES} frames")
        if packet.pts is None:
            raise ValueError("it does not say when its pictures are shown")
        flags = _KEY * packet.is_keyframe | _HIDDEN * packet.is_discard
        offset = -1
        if packet.pos is not None and packet.pos >= 0:
            offset = packet.pos
            place = file.find(bytes(packet), offset)
            if place is not None:
                flags |= _LOCATED
                offset = place
        yield packet.pts, offset, packet.size, flags, packet.duration or 0


class PacketStream:
    """Packets of a video by way of its demuxer, for containers that cut them into pieces, or of its Cues."""

    def __init__(self, reader: ByteReader, index: VideoIndex) -> None:
        self._cued = CuedPackets(reader, index) if index.container == CONTAINER else None
        self._reader = reader
        self._index = index
        self._stack = contextlib.ExitStack()
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._file: _File | None = None
        self._next = -1

    def read(self, first: int, last: int) -> list[bytes]:
        """The packets `first` up to but without `last`, or as many of them as come together. Raises ValueError or
        av.FFmpegError where the demuxer does not give them; an error of the reader passes through."""
        if self._cued is not None:
            return self._cued.read(first, last)
        got = []
        for number in range(first, last):
            if self._file is not None:
                self._file.barren_bytes = 0
            try:
                got.append(self._seek(number) if number != self._next else self._take(number))
            except av.FFmpegError:
                if self._file is not None:
                    self._file.check()
                raise
            self._next = number + 1
        return got

    def close(self) -> None:
        """Ends the demuxer."""
        if self._cued is not None:
            self._cued.close()
        self._packets = iter(())
        self._stack.close()
        self._next = -1

    def _take(self, number: int) -> bytes:
        packet = next(self._packets, None)
        if self._file is not None:
            self._file.check()
        if packet is None or not self._is(packet, number):
            raise ValueError(f"its packet {number} is not the one that was there before")
        return bytes(packet)

    def _is(self, packet: "Packet[VideoStream]", number: int) -> bool:
        known = int(self._index.packet_pts[number]), int(self._index.packet_size[number])
        return (packet.pts, packet.size) == known

    def _seek(self, number: int) -> bytes:
        """The packet, from the nearest place before it that the demuxer finds its feet at."""
        for start in self._starts(number):
            self.close()
            self._file, source = self._stack.enter_context(opened(self._reader, self._index.container))
            stream = cast(VideoStream, source.streams[self._index.stream])
            if self._index.container in _SEEK_BY_BYTE:
                source.seek(max(0, int(self._index.packet_offset[start])), unsupported_byte_offset=True)
            else:
                source.seek(int(self._index.packet_pts[start]), stream=stream)
            self._file.check()
            self._packets = _packets(source, stream)
            for _, packet in zip(range(number - start + 64), self._packets, strict=False):
                if self._is(packet, number):
                    return bytes(packet)
            self._file.check()
        raise ValueError(f"its packet {number} is not found again")

    def _starts(self, number: int) -> Iterator[int]:
        """Packets to seek to: this one, one a few before it, a keyframe before it, the first."""
        known = np.flatnonzero(self._index.packet_offset[: number + 1] >= 0)
        before = [int(known[-back]) for back in (1, 4, 32) if len(known) >= back]
        yield from dict.fromkeys([*before, 0])


@contextlib.contextmanager
def opened(reader: ByteReader, container: str) -> Iterator[tuple["_File", InputContainer]]:
    """The demuxer over a reader, whose errors come out as they were, not as what libavformat made of them."""
    file = _File(reader)
    try:
        with av.open(file, mode="r", format=container, options=_OPTIONS, buffer_size=1 << 16) as source:
            yield file, source
    except av.FFmpegError:
        file.check()
        raise


def _video_stream(source: InputContainer) -> VideoStream:
    """The first video stream that is no cover picture."""
    for stream in source.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            return stream
    raise ValueError("it has no video stream")


def _packets(source: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """The stream's packets; those without bytes (the end of the stream, dropped pictures) are none."""
    return (packet for packet in source.demux(stream) if packet.size)


def _check_order(source: InputContainer, stream: VideoStream) -> None:
    """AVI keeps no times: libavformat knows the order of display of MPEG-4's pictures, and of H.264's only where it
    is that of the file. Raises ValueError where the first pictures come out in another."""
    source.seek(0)
    latest = None
    for _, packet in zip(range(64), _packets(source, stream), strict=False):
        try:
            times = [picture.pts for picture in packet.decode()]
        except av.FFmpegError:
            continue
        for time in times:
            if time is None or (latest is not None and time < latest):
                raise ValueError("its container does not say in which order the pictures are shown")
            latest = time


def _first_rotation(source: InputContainer, stream: VideoStream) -> int:
    """Degrees clockwise; the display matrix comes with a decoded picture only."""
    source.seek(0)
    for _, packet in zip(range(64), _packets(source, stream), strict=False):
        try:
            for picture in packet.decode():
                return -picture.rotation % 360 // 90 * 90
        except av.FFmpegError:
            continue
    return 0


class _File:
    """A ByteReader as the file object that PyAV reads."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        # A reader that has it fetches ahead when it is told that reading goes on where it stopped.
        self._read_on: Callable[[int, int], Buffer] = getattr(reader, "read_on", reader.read)
        self._last_block = -1
        self._position = 0
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()
        self._failure: Exception | None = None
        self.barren_bytes = 0
        """Read since this was last set to 0."""

    def check(self) -> None:
        """Raises what the reader raised: libavformat takes an error for the end of the file."""
        if self._failure is not None:
            raise self._failure

    def find(self, wanted: bytes, position: int) -> int | None:
        """Where these bytes stand in the file, at the position or a header's length after it."""
        for start in range(position, position + _HEADER_BYTES):
            if self._bytes(start, min(8, len(wanted))) == wanted[:8] and self._bytes(start, len(wanted)) == wanted:
                return start
        return None

    def read(self, length: int) -> bytes:
        """For libavformat: fewer bytes than asked for at the end of the file only."""
        got = self._bytes(self._position, length)
        self._position += len(got)
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        """For libavformat."""
        base = (0, self._position, self._reader.size_bytes)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """For libavformat."""
        return self._position

    def _bytes(self, start: int, length: int) -> bytes:
        end = min(start + length, self._reader.size_bytes)
        parts = []
        while start < end:
            number, offset = divmod(start, _BLOCK_BYTES)
            part = self._block(number)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _block(self, number: int) -> memoryview:
        block = self._blocks.get(number)
        if block is None:
            start = number * _BLOCK_BYTES
            try:
                self.barren_bytes += _BLOCK_BYTES
                if self.barren_bytes > _MAX_BARREN_BYTES:
                    raise ValueError(f"in {_MAX_BARREN_BYTES >> 20} MiB of it stands no picture")
                read = self._read_on if number == self._last_block + 1 and number else self._reader.read
                self._last_block = number
                block = memoryview(read(start, min(_BLOCK_BYTES, self._reader.size_bytes - start)))
            except (EgofsError, ValueError) as failure:
                self._failure = failure
                raise
            self._blocks[number] = block
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block


def fraction(ratio: Any) -> Fraction:
    """PyAV gives a Fraction up to version 18, and from 19 on a type of its own with less arithmetic."""
    return Fraction(ratio.numerator, ratio.denominator)
