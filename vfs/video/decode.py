"""Exact frames of a video by number.

Called by whoever serves frames: one Decoder an open video. Packets are read by the index's table (one range from the
keyframe to the frame) and fed to a bare codec context (run.py); reading that goes forward goes on with the context that
just stopped before. libav's types stay in here, in run.py and in picture.py.

What makes a frame exact:
* decoding starts at the last keyframe that is before the frame on the screen (table.keyframe_before), so that the
  pictures an open GOP's keyframe shows after, but needs the GOP before for, are right;
* every packet carries its own number as pts, and only the picture that comes out with that number is its picture;
* a picture counts only once every packet before it, back to the keyframe, has given its picture unharmed: a decoder
  patches over a lost reference without a word. Packets that nothing refers to may be lost (Layout.is_disposable);
* for the same reason those may be left out, where nobody asked for their pictures.
What no check here sees is damage within a packet that its decoder reads as a valid picture: single flipped bits of
HEVC and VP9 mostly are. The bytes' own checksums are the cache's and the store's affair.

Threads: any thread may call any method. A `Run` belongs to the thread that took it from the pool; the lock guards the
pool and the kept pictures, and is never held while bytes are read or decoded. A thread whose frame another's run is
about to pass waits for that run instead of decoding the same GOP beside it.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from itertools import islice
from typing import cast

import av
import numpy as np

from vfs.errors import Timeout, UndecodableVideo
from vfs.video.packets import Layout
from vfs.video.picture import Picture
from vfs.video.run import Run, Slots
from vfs.video.table import ByteReader, VideoIndex

__all__ = ["KEPT_BYTES", "THREADS", "Decoder", "Picture"]

KEPT_BYTES = 64 << 20
"""Decoded pictures kept: 125 of 796x448, 20 of 1080p. What comes out on the way to a frame is asked for next when
frames are read backwards or by several threads."""

THREADS = min(2, os.cpu_count() or 1)
"""Of one codec. Pictures a second in order, on two processors, with one, two (as frames) and four: H.264 of 1080p 244,
368 and 363; of 448p 1,422, 1,889 and 1,485; HEVC of 640x480 647, 1,016 and 908. A GOP of 200 without the pictures that
nothing refers to comes 2.98, 3.66 and 3.85 times a second; with them 1.22 times on one thread."""

_RUNS_KEPT = 4
"""Idle contexts kept, so that as many streams through one video go on where they stopped. A context holds up to 16
pictures of its own."""

_DOUBTS_KEPT = 8
"""GOPs of a video that are known to need care; where more do, all of it is decoded with care."""

_WAIT_S = 75.0
"""For another thread's run: a read is given 60 s with all its retries; one that takes longer has lost its owner."""


class Decoder:
    """Frames of one video, by display index."""

    def __init__(
        self,
        reader: ByteReader,
        index: VideoIndex,
        name: str,
        kept_bytes: int = KEPT_BYTES,
        *,
        threads: int = THREADS,
        slots: Slots | None = None,
    ) -> None:
        """`kept_bytes` bounds the decoded pictures that are kept, `threads` those of one codec. `slots` is entered
        around the codecs' calls and never while bytes are read: a semaphore that many decoders share lets as many of
        their callers decode as there are processors, while the others wait for their bytes."""
        self._reader = reader
        self.index = index
        self._name = name
        self._keys = frozenset(index.key_packets.tolist())
        self._layout = Layout.of(index)
        self._threads = threads
        self._slots: Slots = contextlib.nullcontext() if slots is None else slots
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._kept = _Kept(kept_bytes, index.width * index.height * 3 // 2)
        self._idle: list[Run] = []  # least recently used first
        self._busy: set[Run] = set()
        self._awaited: set[int] = set()  # packets whose pictures other threads wait for
        self._tried: set[int] = set()  # keyframes that decoding began at, or before which it began in vain
        self._earlier: dict[int, int] = {}  # of a keyframe that is none, the one before it
        self._doubted: set[int] = set()  # keyframes whose GOPs need care
        self._refreshes = False  # some keyframes are none
        self._closed = False
        self.decoded_frames = 0
        """Pictures that came out of codecs so far."""

    def frame(self, number: int, *, wanted: Collection[int] = range(0)) -> Picture:
        """The frame, exactly. Blocks on the reader, whose errors pass through.

        `wanted` are frames that will be asked for soon, the next one first: their pictures are not left out on the
        way, and are kept before others (as many of them as there is room for).
        Raises UndecodableVideo where the frame cannot be had, IndexError where there is no such frame.
        """
        if not 0 <= number < self.index.frame_count:
            raise IndexError(f"{self._name} has frames 0 to {self.index.frame_count - 1}, not {number}")
        packet = int(self.index.shown[number])
        with self._changed:
            picture = self._kept.get(packet)
        if picture is not None:
            return picture
        asked = [packet, *self._packets_of(wanted)]
        key = self._start_of(packet)
        run = self._take(key, asked)
        if isinstance(run, Picture):
            return run
        try:
            picture = self._found(run, key, asked)
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
            self._changed.notify_all()
        for run in idle:
            run.close()

    def _packets_of(self, wanted: Collection[int]) -> list[int]:
        """The packets of as many wanted frames as can be kept."""
        numbers = np.fromiter(islice(wanted, self._kept.room), np.int64)
        there = numbers[(numbers >= 0) & (numbers < self.index.frame_count)]
        return cast(list[int], self.index.shown[there].tolist())

    def _take(self, key: int, asked: list[int]) -> "Picture | Run":
        """The picture of the first packet that is asked for, where it is kept; else a run to get it with, of which
        this thread is now the only user."""
        packet = asked[0]
        with self._changed:
            while True:
                if self._closed:
                    raise UndecodableVideo(f"{self._name}: the video is closed")
                picture = self._kept.get(packet)
                if picture is not None:
                    return picture
                self._kept.want(asked)
                run = self._idle_run(packet, key)
                if run is not None:
                    break
                passing = [run for run in self._busy if run.can_reach(packet, key)]
                if not passing:
                    run = self._new_run(key)
                    run.restart(key, careful=self._needs_care(key))
                    break
                max(passing, key=lambda r: r.settled).ask(asked)
                self._awaited.add(packet)
                if not self._changed.wait(_WAIT_S):
                    raise Timeout(f"{self._name}: another reader of this video has not come on for {_WAIT_S:.0f} s")
                self._awaited.discard(packet)
            run.ask(asked)
            run.drains = not self._refreshes
            self._busy.add(run)
            return run

    def _idle_run(self, packet: int, key: int) -> Run | None:
        """Of the idle runs that get to the packet, the nearest; it is no longer idle."""
        near = [run for run in self._idle if run.can_reach(packet, key)]
        if not near:
            return None
        run = max(near, key=lambda r: r.settled)
        self._idle.remove(run)
        return run

    def _new_run(self, key: int) -> Run:
        """A run to begin anew with at this keyframe: the one that has read it already, one that has come to its end,
        a new one, or the one that has rested longest."""
        best = next((run for run in self._idle if run.has_read(key)), None)
        best = best or next((run for run in self._idle if run.is_over), None)
        if best is None and len(self._idle) >= _RUNS_KEPT:
            best = self._idle[0]
        if best is None:
            return Run(self._reader, self.index, self._keys, self._layout, self._threads, self._slots)
        self._idle.remove(best)
        return best

    def _start_of(self, packet: int) -> int:
        key = self.index.keyframe_before(packet)
        while key in self._earlier:
            key = self._earlier[key]
        return key

    def _needs_care(self, key: int) -> bool:
        return key in self._doubted or len(self._doubted) > _DOUBTS_KEPT

    def _may_rescue(self, key: int) -> bool:
        """Whether to begin one keyframe earlier: once for a keyframe that decoding cannot begin at. Some writers mark
        pictures as keyframes that are none."""
        with self._changed:
            if key == 0 or key in self._tried:
                return False
            self._tried.add(key)
            return True

    def _give_back(self, run: Run) -> None:
        with self._changed:
            self._busy.discard(run)
            surplus: Run | None = run
            if not run.is_closed and not self._closed:
                self._idle.append(run)
                surplus = self._idle.pop(0) if len(self._idle) > _RUNS_KEPT else None
            self._changed.notify_all()
        if surplus is not None:
            surplus.close()

    def _found(self, run: Run, key: int, asked: list[int]) -> Picture | None:
        """The picture of the first packet that is asked for; None where it is lost."""
        picture = self._advance(run, asked)
        while run.is_false_start:
            self._refreshes, run.drains = True, False
            key = self._earlier[key] = self.index.keyframe_before(run.start - 1)
            run.restart(key, careful=self._needs_care(key))
            run.ask(asked)
            picture = self._advance(run, asked)
        if run.is_doubtful and picture is None:
            with self._changed:
                self._doubted.add(key)
            run.restart(key, careful=True)
            run.ask(asked)
            picture = self._advance(run, asked)
        if picture is None and self._may_rescue(key):
            earlier = self.index.keyframe_before(key - 1)
            run.restart(earlier, careful=True)
            run.ask(asked)
            picture = self._advance(run, asked)
            if picture is not None:
                self._earlier[key] = earlier
        return picture

    def _advance(self, run: Run, asked: list[int]) -> Picture | None:
        """Runs until it is settled whether the first packet that is asked for gives a picture."""
        index, packet, found = self.index, asked[0], None

        def deliver(number: int, frame: av.VideoFrame) -> None:
            nonlocal found
            picture = Picture(
                frame,
                index.width,
                index.height,
                index.rotation,
                index.mirrored,
                colorspace=index.colorspace,
                color_range=index.color_range,
            )
            if number == packet:
                found = picture
            self._keep(number, picture, run, wanted=number != packet and number in run.asked)

        before = run.decoded
        try:
            run.advance(packet, max(asked), deliver)
        finally:
            with self._changed:
                self.decoded_frames += run.decoded - before
        return found

    def _keep(self, packet: int, picture: Picture, run: Run, *, wanted: bool) -> None:
        with self._changed:
            if packet == run.start:
                self._tried.add(packet)
            if self._closed:
                return
            self._kept.put(packet, picture, wanted=wanted)
            if packet in self._awaited:
                self._changed.notify_all()


class _Kept:
    """Pictures by packet, within a bound; those that are wanted go last. Its owner's lock guards it."""

    def __init__(self, limit_bytes: int, picture_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._picture_bytes = picture_bytes
        self._bytes = 0
        # Least recently used first.
        self._wanted: OrderedDict[int, Picture] = OrderedDict()
        self._others: OrderedDict[int, Picture] = OrderedDict()

    @property
    def room(self) -> int:
        """Pictures that can be kept."""
        return self._limit_bytes // self._picture_bytes

    def get(self, packet: int) -> Picture | None:
        """The picture, which then is wanted no longer."""
        picture = self._wanted.pop(packet, None) or self._others.pop(packet, None)
        if picture is not None:
            self._others[packet] = picture
        return picture

    def want(self, packets: list[int]) -> None:
        """These are wanted, the first soonest."""
        for packet in reversed(packets):
            picture = self._others.pop(packet, None)
            if picture is not None:
                self._wanted[packet] = picture

    def put(self, packet: int, picture: Picture, *, wanted: bool) -> None:
        """Keeps the picture; others go for it."""
        if packet in self._wanted or packet in self._others:
            return
        (self._wanted if wanted else self._others)[packet] = picture
        self._bytes += picture.size_bytes
        self._picture_bytes = max(self._picture_bytes, picture.size_bytes)
        while self._bytes > self._limit_bytes and len(self._wanted) + len(self._others) > 1:
            # The newest stays in any case, so that what was wanted in vain does not keep out all else.
            pool = self._others if len(self._others) > 1 or not self._wanted else self._wanted
            _, gone = pool.popitem(last=False)
            self._bytes -= gone.size_bytes

    def clear(self) -> None:
        """Lets all go."""
        self._wanted.clear()
        self._others.clear()
        self._bytes = 0
