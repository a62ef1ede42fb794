"""Exact frames of a video by number.

Called by whoever serves frames: one Decoder an open video. Packets are read by the index's table (one range from the
keyframe to the frame) and fed to a bare codec context; sequential reading goes on with the context that just stopped
before. libav's types stay in here and in picture.py.

What makes a frame exact:
* decoding starts at the last keyframe that is before the frame on the screen (table.keyframe_before), so that the
  pictures an open GOP's keyframe shows after, but needs the GOP before for, are right;
* every packet carries its own number as pts, and only the picture that comes out with that number is its picture;
* a picture counts only once every packet before it, back to the keyframe, has given its picture unharmed: a decoder
  patches over a lost reference without a word. Packets that nothing refers to may be lost (Layout.is_disposable).
What no check here sees is damage within a packet that its decoder reads as a valid picture: single flipped bits of
HEVC and VP9 mostly are. The bytes' own checksums are the cache's and the store's affair.

Threads: any thread may call any method. A context (`_Run`) belongs to the thread that took it from the pool; the
lock guards the pool and the kept pictures, and is never held while bytes are read or decoded. A thread whose frame
another's run is about to pass waits for that run instead of decoding the same GOP beside it.
"""

import threading
from collections.abc import Iterator

import av
import numpy as np
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from cachetools import LRUCache

from vfs.errors import Timeout, UndecodableVideo
from vfs.video.packets import Layout, PacketReader
from vfs.video.picture import Picture
from vfs.video.table import MAX_PIXELS, ByteReader, VideoIndex

__all__ = ["KEPT_BYTES", "Decoder", "Picture"]

KEPT_BYTES = 64 << 20
"""Decoded pictures kept: 125 of 796x448, 20 of 1080p. What comes out on the way to a frame is asked for next when
frames are read backwards or by several threads."""

_RUNS_KEPT = 4
"""Idle contexts kept, so that as many streams through one video go on where they stopped. A context holds up to 16
pictures of its own."""

_CODEC_THREADS = 2
"""Slices and tiles in parallel (1.5 times as fast for HEVC). Not frames: that delays pictures and their errors."""

_PATIENCE = 32
"""Packets after which a picture that has not come out never will: decoders keep 16 at most, dav1d some more."""

_WINDOW = 64
"""Packets looked through for those shown before the target; reordering reaches no further than 16."""

_HELD_BACK = 1
"""Pictures that a decoder keeps beyond the file's reordering, at first: x264 always tells it to keep two."""

_WAIT_S = 75.0
"""For another thread's run: a read is given 60 s with all its retries; one that takes longer has lost its owner."""


class Decoder:
    """Frames of one video, by display index."""

    def __init__(self, reader: ByteReader, index: VideoIndex, name: str, kept_bytes: int = KEPT_BYTES) -> None:
        """`kept_bytes` bounds the decoded pictures that are kept."""
        self._reader = reader
        self.index = index
        self._name = name
        self._keys = frozenset(index.key_packets.tolist())
        self._layout = Layout.of(index)
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._kept: LRUCache[int, Picture] = LRUCache(  # by packet
            kept_bytes, lambda picture: min(kept_bytes, picture.size_bytes)
        )
        self._idle: list[_Run] = []  # least recently used first
        self._busy: set[_Run] = set()
        self._tried: set[int] = set()  # keyframes that decoding began at, or before which it began in vain
        self._earlier: dict[int, int] = {}  # of a keyframe that is none, the one before it
        self._closed = False
        self.decoded_frames = 0
        """Pictures that came out of codecs so far."""

    def frame(self, number: int) -> Picture:
        """The frame, exactly. Blocks on the reader, whose errors pass through.

        Raises UndecodableVideo where the frame cannot be had, IndexError where there is no such frame.
        """
        if not 0 <= number < self.index.frame_count:
            raise IndexError(f"{self._name} has frames 0 to {self.index.frame_count - 1}, not {number}")
        packet = int(self.index.shown[number])
        key = self._start_of(packet)
        run = self._take(packet, key)
        if isinstance(run, Picture):
            return run
        try:
            picture = self._advance(run, packet)
            if picture is None and self._may_rescue(key):
                earlier = self.index.keyframe_before(key - 1)
                run.restart(earlier)
                picture = self._advance(run, packet)
                if picture is not None:
                    self._earlier[key] = earlier
        except (ValueError, MemoryError, av.FFmpegError) as failure:
            run.close()
            raise UndecodableVideo(f"{self._name}: frame {number} cannot be decoded: {failure}") from failure
        except BaseException:
            run.close()
            raise
        finally:
            self._give_back(run)
        if picture is None:
            raise UndecodableVideo(f"{self._name}: frame {number} cannot be decoded: its data are damaged")
        return picture

    def close(self) -> None:
        """Frees contexts and pictures. Calls still under way end as they would have."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._kept.clear()
        for run in idle:
            run.close()

    def _take(self, packet: int, key: int) -> "Picture | _Run":
        """The picture, where it is kept; else a run to get it with, of which this thread is now the only user."""
        with self._changed:
            while True:
                if self._closed:
                    raise UndecodableVideo(f"{self._name}: the video is closed")
                picture = self._kept.get(packet)
                if picture is not None:
                    return picture
                near = [run for run in self._idle if run.can_reach(packet, key)]
                if near:
                    run = max(near, key=lambda r: r.settled)
                    self._idle.remove(run)
                    break
                if not any(run.can_reach(packet, key) for run in self._busy):
                    full = len(self._idle) >= _RUNS_KEPT
                    run = self._idle.pop(0) if full else self._new_run()
                    run.restart(key)
                    break
                if not self._changed.wait(_WAIT_S):
                    raise Timeout(f"{self._name}: another reader of this video has not come on for {_WAIT_S:.0f} s")
            self._busy.add(run)
            return run

    def _start_of(self, packet: int) -> int:
        key = self.index.keyframe_before(packet)
        return self._earlier.get(key, key)

    def _may_rescue(self, key: int) -> bool:
        """Whether to begin one keyframe earlier: once for a keyframe that decoding cannot begin at. Some writers mark
        pictures as keyframes that are none."""
        with self._changed:
            if key == 0 or key in self._tried:
                return False
            self._tried.add(key)
            return True

    def _give_back(self, run: "_Run") -> None:
        with self._changed:
            self._busy.discard(run)
            surplus: _Run | None = run
            if not run.is_over and not self._closed:
                self._idle.append(run)
                surplus = self._idle.pop(0) if len(self._idle) > _RUNS_KEPT else None
            self._changed.notify_all()
        if surplus is not None:
            surplus.close()

    def _new_run(self) -> "_Run":
        return _Run(self._reader, self.index, self._keys, self._layout)

    def _advance(self, run: "_Run", packet: int) -> Picture | None:
        """Runs until it is settled whether the packet gives a picture."""
        wanted = None
        try:
            for number, frame in run.until(packet):
                index = self.index
                picture = Picture(frame, index.width, index.height, index.rotation, index.mirrored)
                wanted = picture if number == packet else wanted
                self._keep(number, picture, run.start)
        finally:
            with self._changed:
                self.decoded_frames += run.take_count()
        return wanted

    def _keep(self, packet: int, picture: Picture, start: int) -> None:
        with self._changed:
            if packet == start:
                self._tried.add(packet)
            if self._closed or packet in self._kept:
                return
            self._kept[packet] = picture


class _Run:
    """A codec context on its way through the packets, from a keyframe on.

    Packets below `settled` have had their say: their picture came out, or it never will. Those below `next` were fed.
    `_out` holds pictures that came out, but behind packets that are not settled.
    """

    def __init__(self, reader: ByteReader, index: VideoIndex, keys: frozenset[int], layout: Layout) -> None:
        self._index = index
        self._keys = keys
        self._layout = layout
        self._packets = PacketReader(reader, index)
        self._count = 0
        self._lag = _HELD_BACK  # packets that the decoder holds back beyond what the index lets expect
        self.restart(0)

    def restart(self, key: int) -> None:
        """Begins anew at a keyframe. Reads nothing and opens nothing yet."""
        self._context: VideoCodecContext | None = None
        self.start = self.settled = self.next = key
        self._going_on = False
        self._drained = False
        self._broken = False  # nothing can be decoded before the next keyframe
        self._out: dict[int, av.VideoFrame] = {}
        self._lost: set[int] = set()
        self._disposable: set[int] = set()
        self._shown_until = -(1 << 63)
        self._key = -1  # of the GOP that `settled` is in
        self._harmed = True  # a reference of this GOP is lost
        self._leading_harmed = True  # a reference of the pictures that show before its keyframe is lost

    @property
    def is_over(self) -> bool:
        """Whether it cannot go on."""
        return self._drained

    def close(self) -> None:
        """Frees what it holds; it cannot go on."""
        self._drained = True
        self._context = None
        self._out.clear()
        self._packets.close()

    def can_reach(self, packet: int, key: int) -> bool:
        """Whether going on gets to a packet whose keyframe is `key`, at about the cost of beginning there or less."""
        if self._drained or self.start > key or self.settled > packet:
            return False
        # At the end of a GOP, `next` may be short of the keyframe by what the decoder held back.
        return key - self.next <= self._index.reorder_depth + 1

    def take_count(self) -> int:
        """Pictures that came out since the last call."""
        count, self._count = self._count, 0
        return count

    def until(self, packet: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """(packet, picture) of what comes out true, in decoding order, until `packet` is settled.

        Raises ValueError, av.FFmpegError and the reader's errors; it cannot go on after one.
        """
        if packet >= self._packets.count:
            raise ValueError("its data are not in the file, which is cut off or damaged")
        needed = self._needed(packet)
        while self.settled <= packet:
            if self.next >= self._packets.count:
                self._drained = True
                self._flush()
            elif self._broken and self.next not in self._keys:
                self._lost.add(self.next)
                self.next += 1
            else:
                goal = max(needed + self._lag, self.next + 1)
                self._feed(self._packets.get(self.next, goal, going_on=self._going_on))
            for number, frame in self._settle():
                if number == packet:
                    self._lag = max(self._lag, self.next - needed)
                yield number, frame
        self._going_on = True
        self._packets.rest()

    def _needed(self, packet: int) -> int:
        """Packets to feed (counted from 0) until the picture is settled: those that show before it or before one of
        its references, and as many as the decoder holds back to put pictures in order."""
        times = self._index.packet_pts
        latest = np.max(times[max(self.start, packet - _WINDOW) : packet + 1])
        earlier = np.flatnonzero(times[packet + 1 : packet + 1 + _WINDOW] <= latest)
        last = packet + 1 + int(earlier[-1]) if len(earlier) else packet
        return last + 1 + self._index.reorder_depth

    def _feed(self, data: memoryview) -> None:
        number = self.next
        packet = av.Packet(len(data))  # zeros behind it: decoders read past the end
        packet.update(bytes(data))
        packet.pts = packet.dts = number
        packet.is_keyframe = number in self._keys
        if self._layout.is_disposable(data):
            self._disposable.add(number)
        if self._context is None:
            self._context = _open(self._index)
            self._broken = False
        self.next += 1
        frames = self._decoded(packet, data)
        if frames is not None:
            self._collect(frames)
            return
        self._lost.add(number)
        if number not in self._disposable:
            # What follows needs this picture; and a decoder that has lost one puts others out of order.
            self._broken = True
            self._flush()

    def _decoded(self, packet: "av.Packet[Stream]", data: memoryview) -> list[av.VideoFrame] | None:
        """What comes out when this goes in; None where the decoder refuses it."""
        assert self._context is not None
        if self._layout.is_absurd(data):
            return None
        try:
            return self._context.decode(packet)
        except av.FFmpegError:
            return None

    def _flush(self) -> None:
        """Takes what the decoder still holds, and ends it."""
        context, self._context = self._context, None
        if context is not None:
            try:
                self._collect(context.decode(None))
            except av.FFmpegError:
                pass  # what has not come out counts as lost

    def _collect(self, frames: list[av.VideoFrame]) -> None:
        for frame in frames:
            self._count += 1
            number = frame.pts
            if number is None or not self.settled <= number < self.next:
                continue
            shown = int(self._index.packet_pts[number])
            if frame.is_corrupt or shown < self._shown_until:  # out of order: not the picture it says it is
                self._lost.add(number)
            else:
                self._out[number] = frame
                self._shown_until = shown

    def _settle(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Moves `settled` on, past packets whose fate is known."""
        while self.settled < self.next:
            number = self.settled
            if number in self._keys and number != self._key:
                self._leading_harmed, self._harmed, self._key = self._harmed, False, number
            leading = self._index.packet_pts[number] < self._index.packet_pts[self._key]
            harmed = self._harmed or (leading and self._leading_harmed)
            frame = self._out.pop(number, None)
            due = number < self.next - _PATIENCE or self._drained or number in self._lost
            if frame is None and not due and not (leading and self._leading_harmed):
                return
            if frame is None and number not in self._disposable:
                self._leading_harmed = self._leading_harmed or leading
                self._harmed = self._harmed or not leading
            self._lost.discard(number)
            self._disposable.discard(number)
            self.settled = number + 1
            if frame is not None and not harmed:
                yield number, frame


def _open(index: VideoIndex) -> VideoCodecContext:
    """A decoder for the video. Raises av.FFmpegError."""
    context = av.CodecContext.create(index.codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = index.extradata
    context.thread_count = _CODEC_THREADS
    context.options = {"max_pixels": str(MAX_PIXELS)}
    if index.codec == "libdav1d":
        context.options = {**context.options, "max_frame_delay": "1"}  # else it works on two pictures at a time
    context.open()
    # Streams need not say how many pictures to hold back, and a decoder that finds out drops some (H.264, E.2.1).
    context.reorder_depth = index.reorder_depth
    return context
