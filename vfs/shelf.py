"""Indices and pictures of videos: in memory, on disk, or made by the decoders, and made before they are asked for.

Hides who decodes and encodes, what is kept where, and which pictures are made ahead. Called by frames.py with frames as
files have them; knows nothing of folders, names or FUSE. Kept are

* the indices of videos that were used lately in memory, and of all on disk, by the video's version;
* pictures as files, in memory until they were read (the kernel has them then), JPEG and PNG on disk as well: a second
  reading decodes nothing. What is kept on disk goes as bytes of objects do, least recently used first.

Whoever first misses a picture has it made, all others wait for that. Any thread may call. Lock order: `_lock` alone;
nothing is read, sent or waited for under it. `at_hand` never blocks and is for the event loop.
"""

import hashlib
import logging
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from cachetools import LRUCache

import vfs.video
from vfs.disk import Damaged, Disk
from vfs.errors import EgofsError, Unavailable, UndecodableVideo
from vfs.flight import Flights
from vfs.frameahead import FrameAhead, Next
from vfs.units import Units
from vfs.valuefile import file_bytes_of
from vfs.video.form import Form

if TYPE_CHECKING:
    from vfs.video import Encoded, Footage, VideoIndex, Workers

log = logging.getLogger(__name__)


# Indices in memory: some ten hours of video at 60 frames a second, with 32 bytes a frame.
_KEPT_INDICES_BYTES = 64 << 20
# Pictures in memory: those that wait for their readers, and some that were read, for others who read the same.
_MEMORY_BYTES = 96 << 20
_SPENT_BYTES = 8 << 20
# Made ahead for all readers together, in equal shares of those who read; of each at most so many, which is a tenth of
# a second at the speed of 448p: more only means that more is made for nothing.
_AHEAD_BYTES = 64 << 20
_MOST_AHEAD = 32
# Asked for at once of what is made for the disk alone: so much twice, so that the decoders need not wait.
_BATCH_BYTES = 16 << 20
# Who waits for one looks so often whether it is still wanted.
_LOOK_S = 0.2
# Directories of frames whose readers' places are known.
_MOST_SERIES = 256
# Who has not read for so long no longer counts when that is shared.
_IDLE_S = 2.0
# After so long without a picture, memory is given back.
_REST_S = 15.0
_LENGTH = struct.Struct("<Q")  # before an index on disk
_INDEX = 0  # the number under which an index is on disk; pictures have an owner of their own
# Part of what names a picture on disk. To be changed when the same frame would get other bytes.
_MAKING = 1


@dataclass(frozen=True, slots=True)
class Pictures:
    """The frames of a video in one form, as files; `owner` names them on disk."""

    footage: "Footage"
    form: Form
    owner: bytes


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A picture that is on disk: what its file takes there, and whether it was made now."""

    file_bytes: int
    is_new: bool


class VideoShelf:
    """See the module's docstring."""

    def __init__(self, disk: Disk | None) -> None:
        """Keeps nothing on disk where there is none."""
        self.frames_made = 0
        self.frames_from_disk = 0
        self._disk = disk
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._indices: LRUCache[str, VideoIndex] = LRUCache(_KEPT_INDICES_BYTES, _index_bytes)
        self._files = Units(_MEMORY_BYTES, _SPENT_BYTES)
        self._flights: dict[tuple[bytes, int], _Flight] = {}
        self._readers: dict[Series, float] = {}
        self._series: LRUCache[Hashable, Series] = LRUCache(_MOST_SERIES)
        self._workers: Workers | None = None
        self._index_flights: Flights[str, VideoIndex] = Flights()
        self._errands: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._runner: threading.Thread | None = None
        self._used_at_s = 0.0
        self._holding = 0
        self._closed = False

    # -- indices

    def index(self, footage: "Footage") -> "VideoIndex":
        """The video's frame table, read once. Raises UndecodableVideo and what reading the video raises."""
        if (index := self.known_index(footage.identity)) is not None:
            return index
        flight, mine = self._index_flights.join(footage.identity)
        if not mine:
            return self._index_flights.wait(flight, footage.name)
        try:
            index = self._index_from_disk(footage) or self._index_from_video(footage)
        except BaseException as failure:
            self._index_flights.crash(footage.identity, failure)
            raise
        with self._lock:
            self._indices[footage.identity] = index
        self._index_flights.land(footage.identity, index)
        return index

    def known_index(self, identity: str) -> "VideoIndex | None":
        """The video's frame table, if it is in memory. Never blocks."""
        with self._lock:
            return self._indices.get(identity)

    def kept_index(self, footage: "Footage") -> "VideoIndex | None":
        """The video's frame table, if it is in memory or on disk. Reads nothing of the video."""
        index = self.known_index(footage.identity)
        if index is None and (index := self._index_from_disk(footage)) is not None:
            with self._lock:
                self._indices[footage.identity] = index
        return index

    def _index_from_disk(self, footage: "Footage") -> "VideoIndex | None":
        data = self._from_disk((_owner("index", footage.identity), _INDEX))
        if data is None:
            return None
        try:
            (length,) = _LENGTH.unpack_from(data)
            return vfs.video.loads(data[_LENGTH.size : _LENGTH.size + length])
        except (ValueError, struct.error):  # of another version of this program
            return None

    def _index_from_video(self, footage: "Footage") -> "VideoIndex":
        index = Flights.wait(self._decoders().index(footage), footage.name)
        if self._disk is not None:
            data = vfs.video.dumps(index)
            self._disk.keep((_owner("index", footage.identity), _INDEX), _LENGTH.pack(len(data)) + data, filled=True)
        return index

    # -- pictures

    def pictures(self, footage: "Footage", form: Form) -> Pictures:
        """The video's frames in a form. Its index must be in `footage`."""
        return Pictures(footage, form, _owner(f"{_MAKING} {form.key}", footage.identity))

    def series(self, pictures: Pictures, rule: Hashable, numbers: range, frame_of: Callable[[int], int]) -> "Series":
        """The one series of these pictures under this rule."""
        key = (pictures.owner, rule)
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = Series(self, pictures, numbers, frame_of)
            return series

    def at_hand(self, pictures: Pictures, frame: int) -> memoryview | None:
        """The frame's file, if it is in memory. Never blocks."""
        with self._lock:
            return self._files.get((pictures.owner, frame))

    def file(self, pictures: Pictures, frame: int, wanted: Callable[[], Sequence[int]] = tuple) -> memoryview:
        """The frame's file, of its form's size; blocks. `wanted` gives frames that will be asked for soon.

        Raises UndecodableVideo and what reading the video raises.
        """
        flight, mine = self._join(pictures, frame)
        if isinstance(flight, memoryview):
            return flight
        if mine:
            self.later(_nothing)  # somebody has to give memory back in the end
            self._fly(pictures, [frame], wanted(), urgent=True)
        return Flights.wait(flight.landed, pictures.footage.name)

    @property
    def keeps(self) -> bool:
        """Whether there is a disk for pictures."""
        return self._disk is not None

    def spend(self, pictures: Pictures, frame: int) -> None:
        """The file was read: it is the next to go from memory."""
        key = (pictures.owner, frame)
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.spend(key, file)

    def most_ahead(self, reader: "Series", size_bytes: int) -> int:
        """How many pictures of this size may be made ahead for this reader, who is reading now."""
        now_s = time.monotonic()
        with self._lock:
            self._used_at_s = now_s
            self._readers[reader] = now_s
            if len(self._readers) > 1:
                self._readers = {who: at for who, at in self._readers.items() if now_s - at <= _IDLE_S}
            return min(_MOST_AHEAD, _AHEAD_BYTES // (len(self._readers) * size_bytes))

    def _rest(self) -> bool:
        """Gives memory back, if nothing was read for a while."""
        with self._lock:
            if self._holding or time.monotonic() - self._used_at_s < _REST_S:
                return False
            self._files.clear()
            workers = self._workers
        if workers is not None:
            workers.rest()
        return True

    def later(self, errand: Callable[[], object]) -> None:
        """Has something done ahead, by a thread that may wait."""
        self._errands.put(errand)
        with self._lock:
            if self._runner is None and not self._closed:
                self._runner = threading.Thread(target=self._run_errands, name="frames-ahead", daemon=True)
                self._runner.start()

    def make_ahead(
        self,
        pictures: Pictures,
        frames: Iterable[int],
        wanted: Sequence[int],
        prepare: Callable[[Sequence[int]], None] = lambda frames: None,
    ) -> "list[tuple[int, Future[memoryview]]]":
        """Has frames made that nobody waits for yet. May block, on a disk. Gives those that are on their way.

        `prepare` is called with those that have to be decoded, before they are.
        """
        joined = [(frame, *self._join(pictures, frame, waits=False)) for frame in frames]
        self._fly(pictures, [frame for frame, _, mine in joined if mine], wanted, urgent=False, prepare=prepare)
        return [(frame, flight.landed) for frame, flight, _ in joined if isinstance(flight, _Flight)]

    def hold(self, count: int) -> None:
        """So many more (or fewer) have pictures made that must not go when nothing is read for a while."""
        with self._lock:
            self._holding += count

    def make_for_disk(
        self, pictures: Pictures, frames: Iterable[int], is_wanted: Callable[[], bool]
    ) -> "Generator[OnDisk | EgofsError, None, None]":
        """Has frames on disk: those that are not there are made. Gives of each, in order, as it comes, that it is there
        or why it cannot be had. Blocks.

        Ends before the last where it is not `wanted` any more. What is in memory for readers stays, and what is made
        for them goes first.
        """
        coming: deque[tuple[int, Future[Encoded] | OnDisk]] = deque()
        most = max(1, min(_MOST_AHEAD, _BATCH_BYTES // pictures.form.size_bytes))
        rest = iter(frames)
        try:
            while is_wanted():
                if len(coming) <= most and (some := [*islice(rest, most)]):
                    coming += self._asked(pictures, some)
                if not coming:
                    return
                frame, answer = coming[0]
                if isinstance(answer, Future) and not _is_there(answer):
                    continue
                coming.popleft()
                yield self._kept(pictures, frame, answer, is_wanted) if isinstance(answer, Future) else answer
        finally:
            left = [answer for _, answer in coming if isinstance(answer, Future)]
            if left and self._workers is not None:
                self._workers.drop(pictures.footage, left)

    def _asked(self, pictures: Pictures, frames: Sequence[int]) -> "list[tuple[int, Future[Encoded] | OnDisk]]":
        """The frames, each with the answer to come of who makes it, or as it is on disk."""
        assert self._disk is not None, "made for the disk"
        held = {frame: self._disk.holds((pictures.owner, frame)) for frame in frames}
        missing = [frame for frame in frames if not held[frame]]
        answers = (
            self._decoders().pictures(pictures.footage, pictures.form, missing, missing, urgent=False)
            if missing
            else []
        )
        made = dict(zip(missing, answers, strict=True))
        return [(frame, made.get(frame) or OnDisk(held[frame], is_new=False)) for frame in frames]

    def _kept(
        self, pictures: Pictures, frame: int, answer: "Future[Encoded]", is_wanted: Callable[[], bool]
    ) -> "OnDisk | EgofsError":
        assert self._disk is not None, "made for the disk"
        try:
            encoded = answer.result()
        except EgofsError as failure:
            return failure
        self.frames_made += 1
        data = encoded.file[: encoded.used_bytes]
        if self._disk.keep_surely((pictures.owner, frame), data, is_wanted, filled=True) is None and is_wanted():
            return Unavailable("the cache's disk does not keep it: egofs doctor may know why")
        return OnDisk(file_bytes_of(encoded.used_bytes), is_new=True)

    def drop(self, pictures: Pictures, frames: Iterable[int]) -> None:
        """Frames that were made ahead are not wanted any more: those that were not begun are not made."""
        with self._lock:
            flights = [self._flights.get((pictures.owner, frame)) for frame in frames]
            answers = [each.answer for each in flights if each and not each.waiters and each.answer]
            workers = self._workers
        if answers and workers is not None:
            workers.drop(pictures.footage, answers)

    def warm(self) -> None:
        """Starts the decoders, so that the first frame need not wait for that."""
        self._decoders().warm()

    def close(self) -> None:
        """Ends the decoders."""
        with self._lock:
            self._closed = True
            workers = self._workers
        self._errands.put(None)
        if workers is not None:
            workers.close()

    def processes(self) -> list[int]:
        """Ids of the decoders' processes."""
        return self._workers.processes() if self._workers else []

    @property
    def restarts(self) -> int:
        """How often a decoder's process had to be replaced."""
        return self._workers.restarts if self._workers else 0

    @property
    def bugs(self) -> int:
        """Failures of decoders that nothing foresaw."""
        return self._workers.bugs if self._workers else 0

    # -- one maker for many who wait

    def _join(self, pictures: Pictures, frame: int, *, waits: bool = True) -> "tuple[_Flight | memoryview, bool]":
        """The file, or its flight, and whether it is the caller who has to have it made."""
        key = (pictures.owner, frame)
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                return file, False
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
            flight.waiters += waits
            return flight, mine

    def _fly(
        self,
        pictures: Pictures,
        frames: Sequence[int],
        wanted: Sequence[int],
        *,
        urgent: bool,
        prepare: Callable[[Sequence[int]], None] = lambda frames: None,
    ) -> None:
        """Has the files of the caller's flights come, from disk or from the decoders."""
        missing = list(frames)
        try:
            for frame in frames:
                if self._landed_from_disk(pictures, frame):
                    missing.remove(frame)
            if not missing:
                return
            prepare(missing)
            answers = self._decoders().pictures(pictures.footage, pictures.form, missing, wanted, urgent=urgent)
        except BaseException as failure:
            for frame in missing:
                self._crash((pictures.owner, frame), failure)
            raise
        for frame, answer in zip(missing, answers, strict=True):
            with self._lock:
                flight = self._flights.get((pictures.owner, frame))
                if flight is not None:
                    flight.answer = answer
            answer.add_done_callback(partial(self._made, pictures, frame, wanted))

    def _landed_from_disk(self, pictures: Pictures, frame: int) -> bool:
        key = (pictures.owner, frame)
        data = self._from_disk(key) if pictures.form.is_kept else None
        if data is None:
            return False
        form = pictures.form
        file = bytearray(form.size_bytes)
        used = min(len(data), len(file))
        file[:used] = data[:used]
        self.frames_from_disk += 1
        self._land(key, memoryview(file).toreadonly())
        return True

    def _made(self, pictures: Pictures, frame: int, wanted: Sequence[int], answer: "Future[Encoded]") -> None:
        """A decoder has answered."""
        key = (pictures.owner, frame)
        try:
            encoded = answer.result()
        except CancelledError:
            with self._lock:
                flight = self._flights[key]
                waited_for = flight.waiters > 0
                if not waited_for:
                    del self._flights[key]
            if waited_for:  # somebody came while it was being given up
                with suppress(EgofsError):  # whoever waits hears of it
                    self._fly(pictures, [frame], wanted, urgent=True)
            return
        except EgofsError as failure:
            self._crash(key, failure)
            return
        self.frames_made += 1
        self._land(key, encoded.file)
        if self._disk is not None and pictures.form.is_kept:
            self._disk.keep(key, encoded.file[: encoded.used_bytes], filled=True)

    def _land(self, key: tuple[bytes, int], file: memoryview) -> None:
        with self._lock:
            self._files.put(key, file)
            flight = self._flights.pop(key)
        flight.landed.set_result(file)

    def _crash(self, key: tuple[bytes, int], failure: BaseException) -> None:
        with self._lock:
            flight = self._flights.pop(key, None)
        if flight is not None:
            flight.landed.set_exception(failure)

    def _from_disk(self, key: tuple[bytes, int]) -> memoryview | None:
        if self._disk is None:
            return None
        try:
            return self._disk.load_filled(key)
        except Damaged:
            self._disk.discard(key)
            log.warning("a damaged picture or index was found in the cache and dropped; it is made again")
            return None

    def _decoders(self) -> "Workers":
        make = vfs.video.Workers
        with self._lock:
            if self._closed:
                raise UndecodableVideo("the mount is ending")
            if self._workers is None:
                self._workers = make()
            return self._workers

    def _run_errands(self) -> None:
        rested = False
        while True:
            try:
                errand = self._errands.get(timeout=None if rested else _REST_S)
            except queue.Empty:
                rested = self._rest()
                continue
            if errand is None:
                return
            rested = False
            try:
                errand()
            except EgofsError as failure:
                log.info("making frames ahead: %s", failure)
            except Exception:  # or no frame would be made ahead any more
                log.exception("a bug in making frames ahead")


def _is_there(answer: "Future[Encoded]") -> bool:
    """Whether it has come, after a wait that is short enough for who may be called off."""
    with suppress(FutureTimeout, EgofsError):
        answer.exception(_LOOK_S)
    return answer.done()


def _nothing() -> None:
    """An errand that only says that something was read."""


class _Flight:
    """A picture that is being made."""

    __slots__ = ("answer", "landed", "waiters")

    def __init__(self) -> None:
        self.landed: Future[memoryview] = Future()
        self.answer: Future[Encoded] | None = None
        self.waiters = 0


class Series:
    """The pictures of one directory of frames, by the numbers of its files, as readers go through them."""

    def __init__(self, shelf: VideoShelf, pictures: Pictures, numbers: range, frame_of: Callable[[int], int]) -> None:
        """`frame_of` says which frame is behind one of the numbers."""
        self.pictures = pictures
        self.frame_of = frame_of
        self._shelf = shelf
        self._lock = threading.Lock()
        self._ahead = FrameAhead(numbers.start, len(numbers))
        self._due: list[Next] = []

    def observe(self, number: int) -> range:
        """A picture is asked for: has the next ones made, and gives the numbers that will be wanted. Never blocks."""
        most = self._shelf.most_ahead(self, self.pictures.form.size_bytes)
        with self._lock:
            following = self._ahead.access(number, most)
            if following.make or following.given_up:
                self._due.append(following)
        if following.make or following.given_up:
            self._shelf.later(self._go_ahead)
        return following.coming

    def frames(self, numbers: Iterable[int]) -> list[int]:
        """The frames behind numbers, each once."""
        return list(dict.fromkeys(map(self.frame_of, numbers)))

    def _go_ahead(self) -> None:
        """Does what was found to be wanted. May block, on a disk."""
        with self._lock:
            due, self._due = self._due, []
        for following in due:
            if following.given_up:
                self._shelf.drop(self.pictures, self.frames(following.given_up))
            if following.make:
                self._shelf.make_ahead(self.pictures, self.frames(following.make), self.frames(following.coming))


def _owner(what: str, identity: str) -> bytes:
    return hashlib.blake2b(f"{what}\0{identity}".encode(errors="surrogateescape"), digest_size=16).digest()


def _index_bytes(index: "VideoIndex") -> int:
    return min(_KEPT_INDICES_BYTES, index.size_bytes)
