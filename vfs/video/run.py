"""A codec on its way through a video's packets: what decode.py's rules of exactness are made of.

Called by decode.py, which says which packet's picture is to come out and keeps what comes. A `Run` begins at a
keyframe and goes forward; it knows no other run, no lock and no kept picture.

Two ways to go. At first with frame threads: packet n + 1 is decoded while n is, which uses a second processor where
the pictures have one slice; pictures and errors then come late, and an error does not say whose it is. So at the first
sign that anything is wrong the run is *doubtful*: it stops, and its owner begins anew from the keyframe *carefully*,
with one packet at a time, where it can be told which pictures are hurt and which are not.

A Run belongs to one thread at a time; `asked` may be added to by others, and `can_reach` be asked, at any time.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import av
import numpy as np
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext

from vfs.video.packets import Layout, PacketReader
from vfs.video.table import MAX_PIXELS, ByteReader, VideoIndex

Deliver = Callable[[int, av.VideoFrame], None]
Slots = AbstractContextManager[object]

_FRAME_THREADED = {"h264", "hevc", "vp9"}
"""Decoders that take frame threads; the others have slices and tiles. Of 300 clips with one flipped bit, 2 had their
damage seen carefully and not with frame threads: the picture is let go before what was patched over is marked on it."""

_REUSABLE = {"h264", "hevc", "vp9", "libdav1d", "mpeg4", "mpeg2video"}
"""Decoders that are as new after avcodec_flush_buffers: every order of access gives the same bytes."""

_PATIENCE = 32
"""Packets after which a picture that has not come out never will: decoders keep 16 at most, dav1d some more."""

_WINDOW = 64
"""Packets looked through for those shown before the target; reordering reaches no further than 16."""

_HELD_BACK = 1
"""Pictures that a decoder keeps beyond the file's reordering, at first: x264 always tells it to keep two."""


class _Fed:
    """A packet that the decoder was given and whose fate is open."""

    __slots__ = ("disposable", "frame", "is_key", "leading", "lost", "number", "order", "time")

    def __init__(self, number: int, order: int, time: int, leading: bool, disposable: bool, is_key: bool) -> None:
        self.number = number
        self.order = order  # among those fed
        self.time = time
        self.leading = leading  # shown before the keyframe that it stands behind in the file
        self.disposable = disposable
        self.is_key = is_key
        self.lost = False
        self.frame: av.VideoFrame | None = None  # came out, but behind packets that are not settled


class Run:
    """Packets below `settled` have had their say: their picture came out, or it never will, or they were left out.
    Those below `next` were fed or left out."""

    def __init__(
        self,
        reader: ByteReader,
        index: VideoIndex,
        keys: frozenset[int],
        layout: Layout,
        threads: int,
        slots: Slots,
    ) -> None:
        """`slots` is entered around the codec's calls."""
        self._index = index
        self._keys = keys
        self._layout = layout
        self._packets = PacketReader(reader, index)
        self._slots = slots
        self._threads = threads
        self._context: VideoCodecContext | None = None
        self._used = False  # the context has been fed since it was new
        self._times: list[int] = []  # of the packets that are in memory
        self._lag = 0  # packets that the decoder holds back beyond what the index lets expect
        self._can_thread = threads > 1 and index.codec in _FRAME_THREADED
        self._hidden = _hidden(index)
        self.is_closed = self.is_doubtful = self.is_false_start = False
        self.is_careful = not self._can_thread
        self.drains = True
        """Whether it may end at a keyframe to get what it holds; not where another run could not begin there."""
        self.decoded = 0
        """Pictures that came out, ever."""
        self.restart(0, careful=False)

    def restart(self, key: int, *, careful: bool) -> None:
        """Begins anew at a keyframe. Reads nothing and opens nothing yet."""
        careful = careful or not self._can_thread
        if careful != self.is_careful or self.is_doubtful:
            self._context = None
        self.is_careful = careful
        self._lag = max(self._lag, _HELD_BACK + (0 if careful else self._threads - 1))
        self.start = self.settled = self.next = key
        self.asked: set[int] = set()
        """Packets whose pictures are not left out."""
        self.left_out: set[int] = set()
        self.is_doubtful = False
        self.is_false_start = False
        """Decoding cannot begin at this keyframe, which is none."""
        self._is_spent = False
        self._broken = False  # nothing can be decoded before the next keyframe
        self._open: deque[_Fed] = deque()
        self._by_number: dict[int, _Fed] = {}
        self._order = 0
        self._latest = -(1 << 63)  # time of the picture that came out last
        self._key_time = -(1 << 63)  # of the GOP that `next` is in
        self._key = -1  # of the GOP that `settled` is in
        self._harmed = True  # a reference of this GOP is lost
        self._leading_harmed = True  # a reference of the pictures that show before its keyframe is lost
        self._gop = (0, 0, 0)

    def close(self) -> None:
        """Frees what it holds; it cannot go on."""
        self.is_closed = self._is_spent = True
        self._context = None
        self._open.clear()
        self._by_number.clear()
        self._packets.close()

    @property
    def is_over(self) -> bool:
        """Whether it can only begin anew."""
        return self._is_spent or self.is_doubtful or self.is_false_start

    def has_read(self, packet: int) -> bool:
        """Whether the packet's bytes are in memory."""
        return self._packets.first <= packet < self._packets.end

    def can_reach(self, packet: int, key: int) -> bool:
        """Whether going on gets to a packet whose keyframe is `key`, at about the cost of beginning there or less."""
        if self.is_over or self.start > key or self.settled > packet or packet in self.left_out:
            return False
        if self.is_careful and self._can_thread and key != self.start:
            return False  # the damage is behind it
        # At the end of a GOP, `next` may be short of the keyframe by what the decoder held back.
        return key - self.next <= self._index.reorder_depth + 1

    def ask(self, packets: list[int]) -> None:
        """Has the pictures of these packets not left out. The caller sees to it that nobody else calls meanwhile."""
        if len(self.asked) > 2 * len(packets) + 64:
            settled = self.settled
            self.asked -= {packet for packet in self.asked if packet < settled}
        self.asked.update(packets)

    def advance(self, packet: int, last: int, deliver: Deliver) -> None:
        """Goes on until it is settled whether the packet gives a picture, or the run is doubtful; `deliver` gets what
        comes out true, in decoding order. Packets up to `last` will be asked for next.

        Raises ValueError, av.FFmpegError and the reader's errors; it cannot go on after one.
        """
        if packet >= self._packets.count:
            raise ValueError("its data are not in the file, which is cut off or damaged")
        stop = self._stop(packet, last)
        self.left_out = {number for number in self.left_out if number >= self.settled}
        needed = 0
        while self.settled <= packet and not self.is_doubtful and not self.is_false_start:
            if self.next >= stop:
                with self._slots:
                    self._drain(deliver)
            elif self._broken and self.next not in self._keys:
                self._skip_broken(deliver)
            elif self.has_read(self.next):
                with self._slots:
                    self._feed_held(packet, stop, deliver)
            else:
                needed = self._needed(packet)
                try:
                    self._packets.load(self.next, min(max(needed + self._lag, self.next + 1), stop), last + 1)
                except ValueError:
                    if self.next <= packet:
                        raise
                    stop = self.next  # what is wrong behind the picture does not concern it
                    continue
                self._times = self._index.packet_pts[self.next : self._packets.end].tolist()
        if needed:
            self._lag = max(self._lag, self.next - needed)
        self._packets.rest(self.next)

    def _needed(self, packet: int) -> int:
        """Packets to feed (counted from 0) until the picture is settled: those that show before it or before one of
        its references, and as many as the decoder holds back to put pictures in order."""
        times = self._index.packet_pts
        latest = np.max(times[max(self.start, packet - _WINDOW) : packet + 1])
        earlier = np.flatnonzero(times[packet + 1 : packet + 1 + _WINDOW] <= latest)
        last = packet + 1 + int(earlier[-1]) if len(earlier) else packet
        return last + 1 + self._index.reorder_depth

    def _stop(self, packet: int, last: int) -> int:
        """Where to end the decoder to get the rest of its pictures, instead of feeding it more: where the file ends,
        and where the GOP ends if nothing behind it is to be asked for next, or needs it."""
        begin, end, stop = self._gop
        if not begin <= packet < end:
            keys, times = self._index.key_packets, self._index.packet_pts
            place = int(np.searchsorted(keys, packet, side="right"))
            begin = int(keys[place - 1])
            end = stop = int(keys[place]) if place < len(keys) else self._packets.count
            if end < len(times) and np.any(times[end + 1 : end + 1 + _WINDOW] < times[end]):
                stop = self._packets.count
            self._gop = begin, end, stop
        if self.next > stop or last >= stop or not self.drains:
            return self._packets.count
        return min(stop, self._packets.count)

    def _feed_held(self, target: int, stop: int, deliver: Deliver) -> None:
        """Feeds packets that are in memory, until the target is settled. What is shown before the target, refers to
        nothing and was not asked for is left out."""
        packets, first, end = self._packets.held, self._packets.first, min(self._packets.end, stop)
        times, asked, keys, is_disposable = self._times, self.asked, self._keys, self._layout.is_disposable
        shift = first + len(packets) - len(times)
        shown = int(self._index.packet_pts[target])
        while self.settled <= target and self.next < end:
            number = self.next
            data, time = packets[number - first], times[number - shift]
            is_key = number in keys and (number == 0 or self._layout.may_start(data))
            if is_key:
                self._key_time = time
            elif number == self.start and number:
                self.is_false_start = True
                return
            elif self._broken:
                if number in keys:  # and is none
                    self._skip_broken(deliver)
                return
            disposable = is_disposable(data)
            if disposable and number < target and time < shown and number not in asked:
                self.left_out.add(number)
                self.next = number + 1
                if not self._open:
                    self.settled = self.next
                continue
            fed = _Fed(number, self._order, time, time < self._key_time, disposable, is_key)
            self._order += 1
            self._open.append(fed)
            self._by_number[number] = fed
            self.next = number + 1
            self._feed(fed, data)
            self._settle(deliver)
            if self.is_doubtful:
                return

    def _feed(self, fed: _Fed, data: memoryview) -> None:
        packet: av.Packet[Stream] = av.Packet(len(data))  # zeros behind it: decoders read past the end
        packet.update(cast(bytes, data))  # any buffer is taken
        packet.pts = packet.dts = fed.number
        packet.is_keyframe = fed.number in self._keys
        if self._order == 1 or self._broken:
            self._begin()
            self._broken = False
        frames = self._decoded(packet, data)
        if frames is not None:
            self._collect(frames)
        elif not self.is_careful:
            self.is_doubtful = True
        else:
            fed.lost = True
            if not fed.disposable:
                # What follows needs this picture; and a decoder that has lost one puts others out of order.
                self._broken = True
                self._flush()
                self._context = None

    def _begin(self) -> None:
        """Has a context that knows of no packet."""
        if self._context is not None and self._used:
            if self._index.codec in _REUSABLE:
                self._context.flush_buffers()
            else:
                self._context = None
        if self._context is None:
            self._context = _opened(self._index, self._threads, careful=self.is_careful)
        self._used = False

    def _decoded(self, packet: "av.Packet[Stream]", data: memoryview) -> list[av.VideoFrame] | None:
        """What comes out when this goes in; None where the decoder refuses it."""
        assert self._context is not None
        self._used = True
        if self._layout.is_absurd(data):
            return None
        try:
            return self._context.decode(packet)
        except av.FFmpegError:
            return None

    def _drain(self, deliver: Deliver) -> None:
        """Ends the decoder and settles everything."""
        self._flush()
        self._is_spent = True
        self._settle(deliver)

    def _flush(self) -> None:
        """Takes what the decoder still holds."""
        if self._context is not None and self._used:
            try:
                self._collect(self._context.decode(None))
            except av.FFmpegError:
                self._context = None  # what has not come out counts as lost

    def _skip_broken(self, deliver: Deliver) -> None:
        """Up to the next keyframe or the end, each packet counts as lost."""
        time = int(self._index.packet_pts[self.next])
        fed = _Fed(self.next, self._order, time, time < self._key_time, disposable=False, is_key=False)
        fed.lost = True
        self._order += 1
        self._open.append(fed)
        self.next += 1
        self._settle(deliver)

    def _collect(self, frames: list[av.VideoFrame]) -> None:
        for frame in frames:
            self.decoded += 1
            fed = self._by_number.get(frame.pts) if frame.pts is not None else None
            if fed is None:
                continue
            if frame.is_corrupt or fed.time < self._latest:  # out of order: not the picture it says it is
                fed.lost = True
            else:
                fed.frame = frame
                self._latest = fed.time

    def _settle(self, deliver: Deliver) -> None:
        """Moves `settled` on, past packets whose fate is known."""
        fates = self._open
        while fates:
            fed = fates[0]
            number = fed.number
            if fed.is_key and number != self._key:
                self._leading_harmed, self._harmed, self._key = self._harmed, False, number
            hopeless = fed.leading and self._leading_harmed
            if fed.frame is None and (fed.lost or number not in self._hidden):
                due = fed.lost or self._is_spent or fed.order < self._order - _PATIENCE
                if not due and not hopeless:
                    return
                if not hopeless and not self.is_careful:
                    self.is_doubtful = True
                    return
                if not fed.disposable:
                    self._leading_harmed = self._leading_harmed or fed.leading
                    self._harmed = self._harmed or not fed.leading
            fates.popleft()
            self._by_number.pop(number, None)
            self.settled = fates[0].number if fates else self.next
            if fed.frame is not None and not self._harmed and not hopeless:
                deliver(number, fed.frame)


def _opened(index: VideoIndex, threads: int, *, careful: bool) -> VideoCodecContext:
    """A decoder for the video. Raises av.FFmpegError."""
    context = av.CodecContext.create(index.codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = index.extradata
    context.thread_type = "SLICE" if careful else "FRAME"
    context.thread_count = threads
    options = {"max_pixels": str(MAX_PIXELS)}
    if not careful and not _has_open_gops(index):
        # Where an error is patched over, the picture says so; but with frame threads it may be let go before that. An
        # open GOP's first pictures cannot be right, and are no error. Carefully, where an error ends the GOP, this
        # would lose right pictures and let more wrong ones pass (H.264: 33 instead of 25 of 60 damaged clips).
        options["err_detect"] = "explode"
    if index.codec == "libdav1d":
        options["max_frame_delay"] = "1"  # else it works on two pictures at a time
    context.options = options
    context.open()
    # Streams need not say how many pictures to hold back, and a decoder that finds out drops some (H.264, E.2.1).
    context.reorder_depth = index.reorder_depth
    return context


def _hidden(index: VideoIndex) -> frozenset[int]:
    """Packets of which no picture comes out: VP8 has its pictures for reference only in packets of their own."""
    if index.codec != "vp8":
        return frozenset()
    return frozenset(np.setdiff1d(np.arange(len(index.packet_pts)), index.shown).tolist())


def _has_open_gops(index: VideoIndex) -> bool:
    """Whether pictures that show before a keyframe stand behind it."""
    keys, times = index.key_packets, index.packet_pts
    behind = np.minimum(keys + 1, len(times) - 1)
    return bool(np.any(times[behind] < times[keys]))
