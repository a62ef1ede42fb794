"""Fetches what a job is going to read, in the order in which it is going to read it, a bounded way ahead of it.

Hides how a list of paths becomes bytes in the cache and pictures on the shelf before their reader comes. An `Order` has
a list (orderlist.py) and a window over it (orderwindow.py, which says how far ahead to go). Its threads take lines in
turn: a file or a range is brought to hand by the cache, where it is kept until it is read as everything is that was
fetched ahead; pictures are made by the decoders, those of one GOP together (orderpictures.py). Readers are heard of
from ops.py, through `Orders`; where they are in the list follows from that.

`Orders` has those of one mount, which share its memory. Everything here may be called by any thread; `opened` and
`read` never block. Threads of an order: one that reads the list, one that hears of readers, and those that fetch. One
lock an order, `_lock`; nothing is read, fetched or made under it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from vfs import orderpictures
from vfs.cache import MEMORY_BYTES, ChunkCache
from vfs.errors import EgofsError, OptionError, Unavailable
from vfs.frames import ClipFile, FrameFile
from vfs.mounted import MountedDataset, ObjectNode
from vfs.orderlist import Bad, Base, OrderList, Progress
from vfs.orderwindow import Line, Room, Window
from vfs.resolving import Paths

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


class Orders:
    """The orders of a mount."""

    wants_reads = False

    def __init__(self, mounted: MountedDataset, watch: Callable[["Orders | None"], None]) -> None:
        """`watch` is told who wants to hear of readers: this, while there is an order that follows one."""
        self.mounted = mounted
        self._watch = watch
        self._lock = threading.Lock()
        self._active: tuple[Order, ...] = ()
        mounted.before_close.append(self.close)

    def close(self) -> None:
        """The mount ends, and with it its orders."""
        for order in self._active:
            order.fail(Unavailable("the mount ended before the order did"))

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

    def expects(self, path: str, in_ranges: bool) -> bool:
        """Whether a file is one of the lines that a reader is near, or a range of it is."""
        return any(order.expects(path, in_ranges) for order in self._active)

    def opened(self, path: str) -> None:
        """A file was opened."""
        for order in self._concerned(path):
            order.hear(path, -1, 0)

    def read(self, path: str, start: int, length: int) -> None:
        """A range of it is read."""
        for order in self._concerned(path):
            order.hear(path, start, length)

    def _concerned(self, path: str) -> "Sequence[Order]":
        """Those that expect this file; all of them, where none does: one of their readers may be elsewhere."""
        return [order for order in self._active if order.expects(path)] or self._active

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
        self._gops = orderpictures.Gops()
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

    def expects(self, path: str, in_ranges: bool = False) -> bool:
        """Whether it follows a reader and this, or a range of it, is one of the lines near by."""
        return self.follows and (self._window.has_ranges or not in_ranges) and self._window.knows(path, in_ranges)

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
            self.fail(failure)
        except Exception as failure:  # whoever asked hears of it; readers read on
            if self._closing:
                return  # what it worked with is closed by now
            log.exception("a bug in an order")
            self.fail(OptionError(f"a bug: {type(failure).__name__}: {failure}"))

    def fail(self, failure: EgofsError) -> None:
        """Ends it with a failure, unless it has one."""
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
                        self.progress.lose(bad.number, bad.text, bad.why)
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
            self._gops.clear()
            self._is_listed = False
            self._list.go_to(number)

    def _look_for_end(self) -> None:
        with self._lock:
            rests = self._is_listed and not self._window.waiting and not self._under_way and not self._gops
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
                    if self._window.has_room() or (self._gops and self._making < _MAKERS):
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
                if self._making < _MAKERS and (batch := self._gops.take()):
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
            self._tell(file.prefetch(at, length), 0)
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
                self.progress.lose(line.number, line.path, str(failure))
                return
            self.progress.fail(line.number, line.path, str(failure))
            self._in_row += 1
            if self._in_row < _FAILURES or self.follows:
                return
        self.fail(failure)

    # -- pictures

    def _plan(self, line: Line, node: FrameFile | ClipFile) -> None:
        """Has the pictures of a line made when it is their turn."""
        series, numbers = node.shown
        pictures, frames = series.pictures, series.frames(numbers)
        with self._lock:
            room = self._window.room.picture_bytes // _SHARE_OF_ROOM
        if self.follows:
            frames = frames[: max(1, room // pictures.form.size_bytes)]
        gops = orderpictures.by_gop(pictures, frames)
        with self._lock:
            line.is_picture = True
            if self._window.hold(line, len(frames) * pictures.form.size_bytes):
                self._gops.add(line, pictures, gops)
                self._work_is_there.notify()

    def _make(self, batch: list[orderpictures.Part]) -> None:
        """Has the pictures of one GOP made."""
        try:
            failures = orderpictures.make(self._orders.mounted.shelf, batch, self._tell)
        except EgofsError as reason:
            failures = {frame: reason for part in batch for frame in part.frames}
        finally:
            with self._lock:
                self._making -= 1
                self._work_is_there.notify()
        for part in batch:
            failure = next((failures[frame] for frame in part.frames if frame in failures), None)
            if failure is not None:
                self._give_up(part.line, failure, is_lost=False)
            elif part.made():
                self._done(part.line)

    def _tell(self, fetched_bytes: int, made: int) -> None:
        with self._lock:
            self.progress.fetched_bytes += fetched_bytes
            self.progress.made += made


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
