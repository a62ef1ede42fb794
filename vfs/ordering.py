"""Fetches what a job is going to read, in the order in which it is going to read it, a bounded way ahead of it.

Hides how a list of paths becomes bytes in the cache and pictures on the shelf before their reader comes. An `Order` has
a list (orderlist.py) and a window over it (orderwindow.py, which says how far ahead to go). Its threads take lines in
turn: a file or a range is brought to hand by the cache, where it is kept until it is read as everything is that was
fetched ahead; of a picture the GOP's bytes are, and then it is made by the decoders, together with all others of that
GOP that are ahead. Readers are heard of from ops.py, through `Orders`; where they are in the list follows from that.

`Orders` has those of one mount, which share its memory. Everything here may be called by any thread; `opened` and
`read` never block. Threads of an order: one that reads the list, one that hears of readers, and those that fetch. One
lock an order, `_lock`; nothing is read, fetched or made under it.
"""

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from vfs.cache import MEMORY_BYTES, ChunkCache
from vfs.errors import EgofsError, OptionError
from vfs.flight import Flights
from vfs.frames import ClipFile, FrameFile
from vfs.mounted import MountedDataset, ObjectNode
from vfs.objectfile import ObjectFile
from vfs.orderlist import Bad, Base, OrderList
from vfs.orderwindow import Line, Room, State, Window
from vfs.resolving import Paths
from vfs.shelf import Pictures

log = logging.getLogger(__name__)

# Ahead of all readers of orders together. Half of the cache's memory, so that it is still there when they come, beside
# what they are in the middle of; on disk an order may hold more, where its readers are further apart.
_FILE_BYTES = MEMORY_BYTES // 2
_PICTURE_BYTES = 48 << 20
_SHARE_OF_CACHE = 8
_MOST_PICTURE_BYTES = 512 << 20
_LINES = 4096
# Lines of the list that are known beyond those: what is read there tells how far apart readers are.
_KNOWN_LINES = 8192
# Requests under way: at 50 ms to the first byte these are 960 small files a second, more than readers on a few cores
# take through a mount.
_THREADS = 48
# GOPs under way: some are fetched while others are decoded.
_MAKERS = 6
# A file is brought in pieces of the cache's largest units; of one larger than this share of the room the rest is left
# to the reader's own readahead, which it proves by then.
_PIECE_BYTES = 4 << 20
_SHARE_OF_ROOM = 2
# What readers did is looked at together, so that they do not wait for it.
_GATHER_S = 0.002
_WAIT_S = 0.5
# At the end of the list a reader who does nothing for so long has read what it wanted (loaders drop a last batch that
# is not full).
_END_S = 10.0
# Lines in a row that fail by the store: it is of no use to go on without a reader.
_FAILURES = 64
# Of the cache, where no reader is followed: more would drive out what was fetched first.
_FULL = 0.9
_NAMED = 5


@dataclass
class Progress:
    """What has come of an order so far; see orderwindow.Tally for the counts of readers."""

    fetched_bytes: int = 0
    made: int = 0
    done: int = 0
    """Lines whose bytes are at hand, or were."""
    lost: int = 0
    """Lines that lead nowhere."""
    failed: int = 0
    """Lines that could not be fetched."""
    named: list[tuple[int, str, str]] = field(default_factory=list)
    """The first of both: number, path, reason."""


@dataclass(eq=False)
class _Part:
    """Pictures of one GOP that a line wants."""

    line: Line
    pictures: Pictures
    key: int
    frames: list[int]
    whole: "_Whole"


@dataclass(eq=False)
class _Whole:
    """How many parts of a line are not made yet."""

    left: int


class Orders:
    """The orders of a mount."""

    wants_reads = False

    def __init__(self, mounted: MountedDataset, watch: Callable[["Orders | None"], None]) -> None:
        """`watch` is told who wants to hear of readers: this, while there is an order that follows one."""
        self.mounted = mounted
        self._watch = watch
        self._lock = threading.Lock()
        self._active: tuple[Order, ...] = ()

    def begin(self, descriptor: int, base: Base, *, follows: bool, ahead_bytes: int | None = None) -> "Order":
        """Begins with the list behind a descriptor, which is closed in the end. Raises OptionError."""
        order = Order(self, OrderList(descriptor, base), follows=follows, ahead_bytes=ahead_bytes)
        with self._lock:
            self._active = (*self._active, order)
            self._shared()
        if self.mounted.cache is not None:
            self.mounted.cache.hold(1)
        self.mounted.shelf.hold(1)
        order.start()
        return order

    def ended(self, order: "Order") -> None:
        """For the order: it has no threads any more."""
        with self._lock:
            if order not in self._active:
                return
            self._active = tuple(other for other in self._active if other is not order)
            self._shared()
        if self.mounted.cache is not None:
            self.mounted.cache.hold(-1)
        self.mounted.shelf.hold(-1)

    def changed(self) -> None:
        """For an order: it has ranges now."""
        self.wants_reads = any(order.wants_reads for order in self._active)

    def expects(self, path: str) -> bool:
        """Whether a file is one of the lines that a reader is near."""
        return any(order.expects(path) for order in self._active)

    def opened(self, path: str) -> None:
        """A file was opened."""
        for order in self._active:
            order.hear(path, -1, 0)

    def read(self, path: str, start: int, length: int) -> None:
        """A range of it is read."""
        for order in self._active:
            order.hear(path, start, length)

    def _shared(self) -> None:
        """Shares the room, and tells who listens. With the lock."""
        for order in self._active:
            order.share(len(self._active))
        self.changed()
        follows = any(order.follows for order in self._active)
        self._watch(self if follows else None)
        self.mounted.expects = self.expects if follows else None


class Order:
    """One list that is being gone through."""

    def __init__(self, orders: Orders, lines: OrderList, *, follows: bool, ahead_bytes: int | None) -> None:
        self.follows = follows
        self.progress = Progress()
        self.total: int | None = None
        """Lines of the list, those that say nothing among them; None where that is not known."""
        self.failure: EgofsError | None = None
        self.is_full = False
        """The cache was full before the list's end."""
        self._orders = orders
        self._list = lines
        self._paths = Paths(orders.mounted.root)
        self._window = Window(_room(orders.mounted, ahead_bytes, follows=follows), follows=follows)
        self._own = replace(self._window.room)
        self._lock = threading.Lock()
        self._work_is_there = threading.Condition(self._lock)
        self._list_is_wanted = threading.Condition(self._lock)
        # Guarded by _lock:
        self._is_listed = False
        self._under_way = 0
        self._making = 0
        self._parts: list[tuple[int, int, _Part]] = []
        self._by_gop: dict[tuple[bytes, int], list[_Part]] = {}
        self._in_row = 0
        self._closing = False
        self._ended = threading.Event()
        self._events: deque[tuple[str, int, int]] = deque()
        self._heard = threading.Event()
        self._heard_at_s = time.monotonic()
        self._threads: list[threading.Thread] = []

    # -- for Orders and the daemon

    def start(self) -> None:
        """Begins."""
        works = [self._read_list, *([self._listen] if self.follows else []), *[self._work] * _THREADS]
        for work in works:
            thread = threading.Thread(target=self._run, args=(work,), name="order", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it has come to its end within this time."""
        return self._ended.wait(seconds)

    def close(self) -> None:
        """Ends it; what is under way still comes."""
        with self._lock:
            self._closing = True
            self._work_is_there.notify_all()
            self._list_is_wanted.notify()
        self._heard.set()
        self._ended.set()
        self._orders.ended(self)

    @property
    def wants_reads(self) -> bool:
        """Whether it has ranges."""
        return self._window.has_ranges

    def expects(self, path: str) -> bool:
        """Whether it follows a reader and this is one of the lines near by."""
        return self.follows and self._window.knows(path)

    def facts(self) -> dict[str, Any]:
        """How far it is."""
        with self._lock:
            window, progress = self._window, self.progress
            place = window.furthest if self.follows else max(0, (window.lowest or window.taken + 1) - 1)
            return {
                "line": place,
                "lines": self.total,
                "read": window.tally.read,
                "hits": window.tally.hits,
                "again": window.tally.again,
                "skipped": window.tally.skipped,
                "strays": window.tally.strays,
                "jumps": window.tally.jumps,
                "ahead_lines": window.unread,
                "ahead_bytes": window.held_bytes(),
                "done": progress.done,
                "fetched_bytes": progress.fetched_bytes,
                "made": progress.made,
                "lost": progress.lost,
                "failed": progress.failed,
                "named": list(progress.named),
                "full": self.is_full,
            }

    def share(self, count: int) -> None:
        """The memory is for so many orders together."""
        with self._lock:
            room = self._window.room
            room.file_bytes = self._own.file_bytes // count
            room.picture_bytes = self._own.picture_bytes // count

    def hear(self, path: str, start: int, length: int) -> None:
        """A reader opened (start -1) or reads a file. Never blocks."""
        self._events.append((path, start, length))
        if not self._heard.is_set():
            self._heard.set()

    # -- threads

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EgofsError as failure:
            self._fail(failure)
        except Exception as failure:  # whoever asked hears of it; readers read on
            log.exception("a bug in an order")
            self._fail(OptionError(f"a bug: {type(failure).__name__}: {failure}"))

    def _fail(self, failure: EgofsError) -> None:
        with self._lock:
            self.failure = self.failure or failure
            self._closing = True
            self._work_is_there.notify_all()
            self._list_is_wanted.notify()
        self._ended.set()

    def _read_list(self) -> None:
        """Keeps some thousand lines known, and finds readers who are elsewhere in the list."""
        try:
            self._go_through_list()
        finally:
            self._list.close()

    def _go_through_list(self) -> None:
        self.total = self._list.count()
        said = 0
        while not self._closing:
            self._find_strays()
            if self._is_listed or self._window.waiting >= _KNOWN_LINES:
                with self._lock:
                    self._list_is_wanted.wait(_WAIT_S)
                self._look_for_end()
                continue
            lines = self._list.more(_WAIT_S)
            if lines is None and said == 0:
                raise OptionError("the order has no line that names a file")
            said += len(lines or ())
            self._add(lines)

    def _add(self, lines: list[Line | Bad] | None) -> None:
        with self._lock:
            if lines is None:
                self._is_listed = True
            else:
                self._window.add(line for line in lines if isinstance(line, Line))
                for bad in lines:
                    if isinstance(bad, Bad):
                        self._lost(bad.number, bad.text, bad.why)
            self._work_is_there.notify_all()
        if self.wants_reads and not self._orders.wants_reads:
            self._orders.changed()

    def _find_strays(self) -> None:
        with self._lock:
            wanted = self._window.strays()
        if not wanted:
            return
        found = self._list.find(wanted)
        with self._lock:
            number = self._window.place_of(found, len(wanted))
            if number is None:
                return
            log.info("the reader of an order is at line %d of it", number)
            self._window.jump(number)
            self._parts.clear()
            self._by_gop.clear()
            self._is_listed = False
            self._list.go_to(number)

    def _look_for_end(self) -> None:
        with self._lock:
            rests = self._is_listed and not self._window.waiting and not self._under_way and not self._parts
            waits = self.follows and self._window.unread
            is_idle = time.monotonic() - self._heard_at_s > _END_S
        if rests and (not waits or is_idle):
            self._ended.set()

    def _listen(self) -> None:
        """Takes in what readers did."""
        while not self._closing:
            if not self._heard.wait(_WAIT_S):
                continue
            time.sleep(_GATHER_S)
            self._heard.clear()
            with self._lock:
                moved = 0
                while self._events:
                    path, start, length = self._events.popleft()
                    is_ours = self._window.opened(path) if start < 0 else self._window.read(path, start, length)
                    moved += is_ours
                if moved:
                    self._heard_at_s = time.monotonic()
                    if self._window.has_room() or self._parts:
                        self._work_is_there.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._under_way -= 1

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next; None when the order ends."""
        with self._lock:
            while not self._closing:
                if self._making < _MAKERS and (batch := self._next_batch()):
                    self._making += 1
                    self._under_way += 1
                    return partial(self._make, batch)
                line = self._window.take()
                if line is not None:
                    self._under_way += 1
                    if not self._is_listed and self._window.waiting == _KNOWN_LINES // 2:
                        self._list_is_wanted.notify()
                    return partial(self._bring, line)
                self._work_is_there.wait(_WAIT_S)
        return None

    # -- a line

    def _bring(self, line: Line) -> None:
        """Finds out what a line leads to, and has it at hand."""
        try:
            name, node = self._paths.file(line.path)
        except EgofsError as failure:
            self._give_up(line, failure, is_lost=not failure.retryable)
            return
        with self._lock:
            if not self._window.found(line, name):
                return
        if isinstance(node, FrameFile | ClipFile):
            self._plan(line, node)
        elif isinstance(node, ObjectNode):
            try:
                self._bring_bytes(line, node)
            except EgofsError as failure:
                self._give_up(line, failure, is_lost=False)
        else:
            with self._lock:
                self._window.ready(line)

    def _bring_bytes(self, line: Line, node: ObjectNode) -> None:
        file = node.stored()
        start, end = line.start, min(line.end or file.size_bytes, file.size_bytes)
        if not self.follows and start == 0 and end == file.size_bytes and file.cached_bytes() == file.size_bytes:
            start = end  # it is on disk, and nobody is about to read it
        at = start
        while at < end:
            length = min(_PIECE_BYTES - at % _PIECE_BYTES, end - at)
            if not self._hold(line, length, is_first=at == start):
                return
            fetched = file.bring(at, length)
            with self._lock:
                self.progress.fetched_bytes += fetched
                self._in_row = 0
            at += length
        self._done(line)

    def _hold(self, line: Line, count: int, *, is_first: bool) -> bool:
        """Waits for room for more of a line; whether anybody still waits for it."""
        with self._lock:
            if self._closing or self._is_too_full():
                return False
            window = self._window
            if not is_first and self.follows and line.held_bytes + count > window.room.file_bytes // _SHARE_OF_ROOM:
                window.ready(line)  # what is more comes when it is read
                return False
            while line.number != window.lowest and not window.has_room() and not self._closing:
                self._work_is_there.wait(_WAIT_S)
            self._work_is_there.notify()  # how large lines are is known better now
            return window.hold(line, count)

    def _is_too_full(self) -> bool:
        """Whether more would drive out of the cache what was fetched first. With the lock."""
        cache = self._orders.mounted.cache
        if self.follows or cache is None or self.progress.fetched_bytes < cache.limit_bytes * _FULL:
            return False
        self.is_full = True
        self._closing = True
        self._ended.set()
        return True

    def _done(self, line: Line) -> None:
        with self._lock:
            self.progress.done += 1
            self._window.ready(line)
            if not self.follows:
                self._work_is_there.notify()

    def _give_up(self, line: Line, failure: EgofsError, *, is_lost: bool) -> None:
        with self._lock:
            self._window.lose(line)
            if is_lost:
                self._lost(line.number, line.path, str(failure))
                return
            self.progress.failed += 1
            self._name(line.number, line.path, str(failure))
            self._in_row += 1
            if self._in_row < _FAILURES or self.follows:
                return
        self._fail(failure)

    def _lost(self, number: int, path: str, why: str) -> None:
        self.progress.lost += 1
        self._name(number, path, why)

    def _name(self, number: int, path: str, why: str) -> None:
        if len(self.progress.named) < _NAMED:
            self.progress.named.append((number, path, why.removeprefix(f"{path}: ")))

    # -- pictures

    def _plan(self, line: Line, node: FrameFile | ClipFile) -> None:
        """Has the pictures of a line made when it is their turn."""
        pictures, frames = node.parts
        index = pictures.footage.index
        assert index is not None, "a picture is found by its video's index"
        gops: dict[int, list[int]] = {}
        with self._lock:
            room = self._window.room.picture_bytes // _SHARE_OF_ROOM
        most = max(1, room // pictures.form.size_bytes) if self.follows else len(frames)
        for frame in frames[:most]:
            gops.setdefault(index.keyframe_before(int(index.shown[frame])), []).append(frame)
        whole = _Whole(len(gops))
        with self._lock:
            line.is_picture = True
            if not self._window.hold(line, min(most, len(frames)) * pictures.form.size_bytes):
                return
            for key, some in gops.items():
                part = _Part(line, pictures, key, some, whole)
                heapq.heappush(self._parts, (line.number, id(part), part))
                self._by_gop.setdefault((pictures.owner, key), []).append(part)
            self._work_is_there.notify()

    def _next_batch(self) -> list[_Part]:
        """The parts that are needed first, with all others of their GOP; those that nobody waits for are dropped.
        With the lock."""
        while self._parts:
            _, _, first = heapq.heappop(self._parts)
            batch = self._by_gop.pop((first.pictures.owner, first.key), [])
            if first not in batch:  # made with others before
                if batch:
                    self._by_gop[first.pictures.owner, first.key] = batch
                continue
            batch = [part for part in batch if part.line.state is State.TAKEN]
            if batch:
                return batch
        return []

    def _make(self, batch: list[_Part]) -> None:
        """Has the pictures of one GOP made: its bytes first, in one request."""
        pictures, key = batch[0].pictures, batch[0].key
        frames = sorted({frame for part in batch for frame in part.frames})
        try:
            self._make_frames(pictures, key, frames)
        except EgofsError as failure:
            for part in batch:
                self._give_up(part.line, failure, is_lost=False)
            return
        finally:
            with self._lock:
                self._making -= 1
                self._work_is_there.notify()
        for part in batch:
            part.whole.left -= 1
            if part.whole.left == 0:
                self._done(part.line)

    def _make_frames(self, pictures: Pictures, key: int, frames: list[int]) -> None:
        def fetch(missing: Sequence[int]) -> None:
            index, file = pictures.footage.index, pictures.footage.bytes
            assert index is not None, "a picture is found by its video's index"
            start, length = index.bytes_for(key, missing)
            fetched = file.bring(start, length) if length and isinstance(file, ObjectFile) else 0
            with self._lock:
                self.progress.fetched_bytes += fetched
                self.progress.made += len(missing)

        for coming in self._orders.mounted.shelf.make_ahead(pictures, frames, frames, fetch):
            Flights.wait(coming, pictures.footage.name)


def _room(mounted: MountedDataset, ahead_bytes: int | None, *, follows: bool) -> Room:
    """How much may be held."""
    cache: ChunkCache | None = mounted.cache
    on_disk = cache.limit_bytes // _SHARE_OF_CACHE if cache is not None else 0
    most = max(_FILE_BYTES, on_disk)
    files = min(ahead_bytes or _FILE_BYTES, most) if follows else 1 << 62
    keeps = mounted.shelf.keeps
    most_pictures = max(_PICTURE_BYTES, min(_MOST_PICTURE_BYTES, on_disk)) if keeps else _PICTURE_BYTES
    pictures = min(ahead_bytes or _PICTURE_BYTES, most_pictures)
    return Room(files, pictures, _LINES, max(most, files), most_pictures)
