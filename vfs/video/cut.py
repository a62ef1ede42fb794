"""A clip out of a video, by time: H.264 and the video's own sound in an MP4 with moov in front.

What is on the screen from the start to the stop, and nothing else: the frame that is on it when the clip starts, at 0,
and every frame whose time comes before the stop, at its own time, the last until the stop. So a video of any rate, or
of none, keeps its times. The pictures are encoded anew, since a cut at any place falls between keyframes, with the
settings that ffmpeg has for `-c:v libx264`, on one thread; sound is copied packet by packet, which is a few
hundredths of a second more than the clip at both ends (at the beginning, an edit list leaves it out). Equal bytes and
times give equal clips, with the same libraries.

Read is what that takes: the index, and packets from the keyframe before the start to the stop. `cut` is called by
`main`, in a process of its own that cutter.py starts: whatever codecs do there, and whatever a header claims, ends with
it. It opens no file and no network; bytes are asked for over a socket. One thread.
"""

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from vfs import malloc
from vfs.errors import EgofsError, NotFound, UndecodableVideo
from vfs.extent import Buffer, clip
from vfs.video import demux
from vfs.video.decode import Decoder
from vfs.video.index import read_index
from vfs.video.table import ByteReader, VideoIndex
from vfs.video.wire import Wire, failure_of, words_of

_MOST_MEMORY_BYTES = 2 << 30
"""Of addresses. A clip of 1080p takes 0.73 GiB, one of 360p 0.37."""
_MOST_CPU_S = 120
"""Ten seconds of 360p take 5, of 1080p 42."""
_MOST_PIXELS = 1920 * 1200
"""Of one picture: what is larger would not be ready within a deadline that somebody waits for."""
_MOST_FRAMES_PER_S = 1000
_MOST_BYTES = 256 << 20
"""Fetched for one clip: ten seconds at 100 Mb/s, and an index of days."""
_BLOCK_BYTES = 256 << 10
"""Unit of fetching. Pictures and sound of a moment stand within one or two at the rates of 360p, and each is fetched
once, though index, pictures and sound are read one after the other."""
_WANTED = 16
"""Frames that the decoder is told of in advance, so that it leaves out none of them on its way."""

_BEFORE_S = Fraction(1, 8)
"""From which on sound is read, for the packet before the clip's first: one of AAC is of 0.02 to 0.13 s."""

_CODEC_OPTIONS = {"preset": "medium", "crf": "23"}  # ffmpeg's own, spelled out
_COPIED = {"aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac"}
"""Sound that an MP4 can hold; other sound is left out."""


def main(descriptor: int) -> None:
    """Cuts the one clip that is asked for over the socket with that number, and ends."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal's are meant for the daemon, which ends this process
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU_S, _MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    malloc.keep_freed()
    wire = Wire(socket.socket(fileno=descriptor))
    received = wire.receive()
    if received is None:
        return
    asked = received[0]
    try:
        reader = _Asking(wire, asked["size"])
        data = cut(reader, asked["name"], Fraction(asked["start"]), Fraction(asked["stop"]))
    except EgofsError as failure:
        wire.send({"is": "failed", "error": words_of(failure)})
    except OSError:
        return  # the daemon has gone
    except Exception as failure:  # noqa: BLE001  a bug, or what no check foresaw
        what = UndecodableVideo(f"{asked['name']}: {type(failure).__name__}: {failure}")
        wire.send({"is": "failed", "error": words_of(what)})
    else:
        wire.send({"is": "clip"}, data)


class _Asking:
    """The video's bytes, from the daemon."""

    def __init__(self, wire: Wire, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._wire = wire

    def read(self, start: int, length: int) -> memoryview:
        self._wire.send({"is": "read", "at": start, "length": length})
        received = self._wire.receive()
        if received is None:
            raise OSError("the daemon has gone")
        message, body = received
        if "error" in message:
            raise failure_of(message["error"])
        return body


def cut(reader: ByteReader, name: str, start_s: Fraction, stop_s: Fraction) -> bytes:
    """What the video shows from `start_s` to `stop_s`, in seconds after its first frame; less where it ends before.

    Raises NotFound where it ends before the start, UndecodableVideo where a frame or the sound cannot be had or all is
    larger than a clip may be, and the reader's errors.
    """
    blocks = _Blocks(reader, name)
    index = read_index(blocks, name)
    length_s = index.duration_ticks * index.time_base
    if start_s >= length_s:
        raise NotFound(f"{name}: it ends after {float(length_s):.2f} s, before the clip begins at {float(start_s):g} s")
    if index.width * index.height > _MOST_PIXELS:
        raise UndecodableVideo(f"{name}: pictures of {index.width}x{index.height} are more than a clip may have")
    moments = _moments(index, start_s, min(stop_s, length_s))
    if len(moments) > _MOST_FRAMES_PER_S * (stop_s - start_s) + 1:
        raise UndecodableVideo(f"{name}: {len(moments)} frames are more than a clip may have")
    try:
        return _written(blocks, index, name, moments, start_s, stop_s)
    except (ValueError, ArithmeticError, LookupError, MemoryError, av.FFmpegError) as failure:
        raise UndecodableVideo(f"{name}: no clip can be cut out of it: {failure}") from failure


Moment = tuple[int, int, int]
"""(frame, when it comes on the screen, for how long): ticks of the video's clock, from the clip's start on."""


def _moments(index: VideoIndex, start_s: Fraction, stop_s: Fraction) -> list[Moment]:
    """What is on the screen from the start to the stop; a frame that another comes at the same time as never is."""
    begin, end = int(start_s / index.time_base), -int(-stop_s // index.time_base)
    first, behind = index.frame_at_tick(begin), int(np.searchsorted(index.pts, end))
    times = np.maximum(index.pts[first:behind], begin)
    lengths = np.diff(times, append=end)
    return [
        (first + place, int(time) - begin, int(length))
        for place, (time, length) in enumerate(zip(times.tolist(), lengths.tolist(), strict=True))
        if length
    ]


def _written(
    reader: "_Blocks", index: VideoIndex, name: str, moments: list[Moment], start_s: Fraction, stop_s: Fraction
) -> bytes:
    """The clip's file. It is made in memory that has a name for as long as this takes: moov is moved to the front by
    reading what was written."""
    memory = os.memfd_create("clip")
    try:
        with ExitStack() as stack:
            sound = _Sound(stack, reader, start_s, stop_s)
            options = {"movflags": "+faststart", "fflags": "+bitexact"}  # neither a time nor a version in it
            out = av.open(f"/proc/self/fd/{memory}", "w", format="mp4", options=options)
            stack.enter_context(out)
            packets = [*_pictures(out, Decoder(reader, index, name, threads=1), index, moments), *sound.packets(out)]
            packets.sort(key=lambda packet: (packet.dts or 0) * demux.fraction(packet.time_base))
            for packet in packets:
                out.mux(packet)
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)


def _pictures(
    out: OutputContainer, decoder: Decoder, index: VideoIndex, moments: list[Moment]
) -> list["Packet[Stream]"]:
    """The clip's frames, encoded."""
    stream = out.add_stream("libx264", rate=index.fps, options=_CODEC_OPTIONS)
    stream.codec_context.thread_count = 1
    stream.time_base = stream.codec_context.time_base = index.time_base
    lengths = {time: length for _, time, length in moments}
    packets: list[Packet[Stream]] = []
    for place, (number, time, _) in enumerate(moments):
        wanted = [frame for frame, _, _ in moments[place + 1 : place + 1 + _WANTED]]
        frame = decoder.frame(number, wanted=wanted).yuv420()
        if place == 0:
            _describe(stream, frame)
        frame.pts, frame.time_base = time, index.time_base
        packets += stream.encode(frame)
    packets += stream.encode(None)
    for packet in packets:
        assert packet.pts is not None, "an encoder keeps times"
        packet.duration = lengths[packet.pts]
    return packets


def _describe(stream: VideoStream, frame: av.VideoFrame) -> None:
    """Has the encoder take frames like this one as they are."""
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.colorspace, context.color_range = frame.colorspace, frame.color_range
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc


class _Sound:
    """The sound of the video's file, if an MP4 can hold it."""

    def __init__(self, stack: ExitStack, reader: "_Blocks", start_s: Fraction, stop_s: Fraction) -> None:
        """The stack has the file open afterwards. Raises ValueError, av.FFmpegError and the reader's errors."""
        container = demux.container_of(bytes(reader.read(0, 1024)))
        assert container is not None, "it has an index"
        self._source = stack.enter_context(demux.opened(reader, container))[1]
        self._start_s, self._stop_s = start_s, stop_s

    def packets(self, out: OutputContainer) -> list["Packet[Stream]"]:
        """Those that sound in the clip, and the one before, without which the first does not."""
        sounding = [each for each in self._source.streams.audio if each.codec_context.name in _COPIED]
        if not sounding:
            return []
        stream = sounding[0]
        clock = demux.fraction(stream.time_base)
        origin_s = self._origin_s()
        start, stop = int((self._start_s + origin_s) / clock), int((self._stop_s + origin_s) / clock)
        copied = out.add_stream_from_template(stream)
        packets: list[Packet[Stream]] = []
        for packet in self._from(stream, start):
            assert packet.pts is not None, "whoever asks has looked"
            if packet.pts >= stop:
                break
            if packet.pts + (packet.duration or 0) <= start:
                packets.clear()
            packets.append(packet)
        for packet in packets:
            assert packet.pts is not None, "whoever asks has looked"
            packet.pts -= start
            packet.dts = packet.pts  # sound is not put in another order
            packet.stream = copied
        return packets

    def _origin_s(self) -> Fraction:
        """When the first frame is shown, by libavformat's clock: the index counts from there."""
        for stream in self._source.streams.video:
            if not stream.disposition & stream.disposition.attached_pic:
                return (stream.start_time or 0) * demux.fraction(stream.time_base)
        return Fraction(0)

    def _from(self, stream: AudioStream, start: int) -> "Iterator[Packet[Stream]]":
        """The stream's packets from one before a tick on; bytes of other streams are not read."""
        source: InputContainer = self._source
        for each in source.streams:
            each.discard = Discard.default if each is stream else Discard.all
        source.seek(start - int(_BEFORE_S / demux.fraction(stream.time_base)), stream=stream)
        for packet in source.demux(stream):
            if packet.size and packet.pts is not None:
                yield cast("Packet[Stream]", packet)


class _Blocks:
    """A reader that fetches whole blocks, each once, and not more than a clip may take."""

    def __init__(self, reader: ByteReader, name: str) -> None:
        self.size_bytes = reader.size_bytes
        self._reader = reader
        self._name = name
        self._blocks: dict[int, memoryview] = {}

    def read(self, start: int, length: int) -> Buffer:
        """The bytes of the range that stand before the end; neighbours that are missing come by one request."""
        length = clip(start, length, self.size_bytes)
        if not length:
            return b""
        first, last = start // _BLOCK_BYTES, (start + length - 1) // _BLOCK_BYTES
        number = first
        while number <= last:
            behind = number
            while behind <= last and behind not in self._blocks:
                behind += 1
            if behind > number:
                self._fetch(number, behind)
            number = behind + 1
        parts = [self._blocks[number] for number in range(first, last + 1)]
        at = start - first * _BLOCK_BYTES
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return whole[at : at + length]

    def _fetch(self, first: int, behind: int) -> None:
        if (len(self._blocks) + behind - first) * _BLOCK_BYTES > _MOST_BYTES:
            raise UndecodableVideo(f"{self._name}: a clip of it takes more than {_MOST_BYTES >> 20} MiB")
        begin = first * _BLOCK_BYTES
        data = memoryview(self._reader.read(begin, min(behind * _BLOCK_BYTES, self.size_bytes) - begin))
        for number in range(first, behind):
            at = number * _BLOCK_BYTES - begin
            self._blocks[number] = data[at : at + _BLOCK_BYTES]
