"""Which lines of an order are ahead of its reader, which have been read, and how far to go. Pure logic: no I/O, no
threads, no clock.

Called by ordering.py, under its lock, with lines as they come from the list and with what readers open and read. A line
waits, is taken (somebody fetches it), is ready (its bytes are at hand), and is over when its reader came. Lines are
taken in their order. What is held of lines that nobody has read yet is bounded, in bytes and in lines, so that a reader
who stands still has no more fetched.

* Loaders' workers read batches side by side, so that the lines that are next lie some hundred lines apart: what is read
  may be any line that is known here, and the `furthest` of them is the reader's place. One stray read of a line far
  ahead moves nothing; several beside each other do.
* Lines behind the furthest are still expected, until they hold half of the room or lie `_LAG` lines behind: then they
  were skipped, and count no more. Where one of these is read after all, workers are further apart than the room is
  large, and it grows, up to a bound. So it does when a line is read that waits because the room is full.
* What is read and is no line that is known here is a stray. Many of them with nothing else between are a reader who
  is elsewhere in the list, where ordering.py looks for them.
"""

from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter

# Lines behind the furthest that workers may still come to: 8 workers with two batches of 64 each.
_LAG = 1024
# Far reads, within so many lines of each other, that make one a new place.
_PROOF = 4
# Lines that were read and may be read once more (a header first, then all of it) without being a line further on.
_RECENT = 1024
# A line that is as near as this is taken for what was read, even where the same was read a moment ago.
_NEAR = 64
# Strays in a row that make it worth to look for them in the list; twice as many after each look for nothing, because
# there are readers who have nothing to do with the list.
_STRAYS = 16
# Lines whose sizes are found out first, before it is known how many are likely to fit.
_FEW = 4
# How full a window that was full may be for more to be fetched.
_REFILL = 7 / 8
# The kernel reads whole pages, so that a range's first read may begin a little before it.
_PAGE_BYTES = 4096


class State(IntEnum):
    """What has become of a line."""

    WAITING = 0
    TAKEN = 1
    READY = 2
    SKIPPED = 3
    """Its reader has passed it by, as it seems."""
    OVER = 4


@dataclass(slots=True, eq=False)
class Line:
    """A line of the list: `number` counts from 1. `length` 0 is the whole file."""

    number: int
    path: str
    """Below the mount's root, as the list has it."""
    start: int = 0
    length: int = 0
    name: str = ""
    """Where the path leads to through all links, once that is known."""
    is_picture: bool = False
    held_bytes: int = 0
    state: State = State.WAITING

    @property
    def end(self) -> int:
        """Of the range."""
        return self.start + self.length


@dataclass(slots=True)
class Room:
    """What may be held for a reader: in bytes of files, in bytes of pictures, and in lines. It may grow so far."""

    file_bytes: int
    picture_bytes: int
    lines: int
    most_file_bytes: int
    most_picture_bytes: int


@dataclass(slots=True)
class Tally:
    """What has become of the lines. `hits` found their bytes at hand, for `late` ones they were on their way or not
    asked for; `again` were read a second time; `strays` are reads of what is no line near by."""

    hits: int = 0
    late: int = 0
    again: int = 0
    strays: int = 0
    skipped: int = 0
    jumps: int = 0

    @property
    def read(self) -> int:
        """Lines that were read."""
        return self.hits + self.late


@dataclass(slots=True)
class _Held:
    """Bytes of lines that nobody has read: all of them, and of those behind the furthest."""

    all_bytes: int = 0
    behind_bytes: int = 0


_by_start = attrgetter("start")


@dataclass(slots=True)
class _Named:
    """The lines of one name: whole ones in their order, ranges by where they begin."""

    whole: deque[Line] = field(default_factory=deque)
    ranges: list[Line] = field(default_factory=list)
    longest: int = 0


class Window:
    """See the module's docstring. Not thread-safe: the caller has a lock."""

    def __init__(self, room: Room, *, follows: bool) -> None:
        """Where it follows nobody, a line is over as soon as it is ready."""
        self.room = room
        self.tally = Tally()
        self.furthest = 0
        """The number of the furthest line that was read."""
        self.taken = 0
        """The number of the last line that was taken."""
        self.has_ranges = False
        """Whether reads are to be told, and not openings alone."""
        self._follows = follows
        self._fills = True
        self._waiting: deque[Line] = deque()
        self._taken: OrderedDict[int, Line] = OrderedDict()
        """Those that somebody may still come for, by their numbers."""
        self._names: dict[str, _Named] = {}
        self._recent: deque[Line] = deque()
        """Those that are over or skipped and still have their names."""
        self._held = (_Held(), _Held())  # of files, of pictures
        self._unknown: set[int] = set()
        """Those that were taken and for which nothing is held yet."""
        self._each = (0, 0)
        """Bytes that were held for lines, and for how many, ever: what the unknown ones are likely to be."""
        self._far: deque[int] = deque(maxlen=2 * _PROOF)
        self._strays: deque[tuple[str, int]] = deque(maxlen=4 * _STRAYS)
        self._patience = _STRAYS
        self._astray = 0

    # -- lines

    def add(self, lines: Iterable[Line]) -> None:
        """Takes in the lines that come next in the list."""
        for line in lines:
            self._waiting.append(line)
            self._index(line, line.path)
            self.has_ranges |= line.length > 0

    @property
    def waiting(self) -> int:
        """How many lines wait."""
        return len(self._waiting)

    @property
    def unread(self) -> int:
        """How many were taken and have not been read."""
        return len(self._taken)

    @property
    def lowest(self) -> int:
        """The number of the first of those; 0 where there is none."""
        return next(iter(self._taken), 0)

    def held_bytes(self) -> int:
        """What is ahead of the reader."""
        return sum(held.all_bytes for held in self._held)

    def take(self) -> Line | None:
        """The next line that is to be fetched, if there is one, and room for it."""
        while self._waiting and self._waiting[0].state is not State.WAITING:
            self._waiting.popleft()
        if not self._waiting or not self._has_room_for_more():
            return None
        base = self.furthest if self._follows else self.lowest or self._waiting[0].number
        if self._waiting[0].number > base + self.room.lines:
            return None
        line = self._waiting.popleft()
        line.state = State.TAKEN
        self._taken[line.number] = line
        self._unknown.add(line.number)
        self.taken = line.number
        return line

    def has_room(self) -> bool:
        """Whether more may be held. Once all is full, some must have been read: the threads that fetch then have more
        than one line to do when they are woken, which took a third of their time."""
        files, pictures = self._held
        share = 1 if self._fills else _REFILL
        self._fills = (
            files.all_bytes < self.room.file_bytes * share and pictures.all_bytes < self.room.picture_bytes * share
        )
        return self._fills

    def _has_room_for_more(self) -> bool:
        """Whether there is room beside those of which nothing is known yet."""
        held_bytes, count = self._each
        if not count and len(self._unknown) >= _FEW:
            return False
        likely = len(self._unknown) * held_bytes // max(1, count)
        files, pictures = self._held
        return (
            self.has_room()
            and files.all_bytes + likely < self.room.file_bytes
            and pictures.all_bytes + likely < self.room.picture_bytes
        )

    def found(self, line: Line, name: str) -> bool:
        """The line leads to this name. False where nobody waits for it any more."""
        line.name = name
        if name != line.path and line.state is State.TAKEN:
            self._forget(line, line.path)
            self._index(line, name)
        return line.state is State.TAKEN

    def hold(self, line: Line, count: int) -> bool:
        """So many bytes are going to be held for the line. False where nobody waits for it any more."""
        if line.state is not State.TAKEN:
            return False
        self._each = self._each[0] + count, self._each[1] + (line.held_bytes == 0)
        self._unknown.discard(line.number)
        line.held_bytes += count
        held = self._held[line.is_picture]
        held.all_bytes += count
        if line.number <= self.furthest:
            held.behind_bytes += count
            self._skip()
        return True

    def ready(self, line: Line) -> None:
        """All that is to be held for the line is at hand."""
        self._unknown.discard(line.number)
        if line.state is State.TAKEN:
            line.state = State.READY
            if not self._follows:
                self._end(line, State.OVER)

    def lose(self, line: Line) -> None:
        """Nothing can be had for the line."""
        if line.state in (State.WAITING, State.TAKEN):
            self._end(line, State.OVER)

    def knows(self, name: str, in_ranges: bool) -> bool:
        """Whether there are lines of this name, or ranges of it. For any thread, without the lock."""
        named = self._names.get(name)
        return named is not None and (bool(named.ranges) or not in_ranges)

    # -- what readers do

    def opened(self, name: str) -> bool:
        """A file was opened; whether that was of one of the lines."""
        named = self._names.get(name)
        if named is None:
            self._stray(name, -1)
            return False
        return self._match(named.whole) if named.whole else False

    def read(self, name: str, start: int, length: int) -> bool:
        """A range was read; whether that was of one of the lines."""
        named = self._names.get(name)
        if named is None:
            self._stray(name, start)
            return False
        if not named.ranges:
            return False  # its opening was told
        # The read begins within the range, or on the page on which that begins.
        end = start + length
        last = bisect_right(named.ranges, min(start + _PAGE_BYTES, end) - 1, key=_by_start)
        near = []
        for at in range(last - 1, -1, -1):
            if named.ranges[at].start + named.longest <= start:
                break
            if named.ranges[at].end > start:
                near.append(named.ranges[at])
        # The kernel reads ahead: whole ranges that come along will not be asked for again.
        along = []
        for line in named.ranges[last:]:
            if line.start >= end:
                break
            if line.end <= end and line.state < State.SKIPPED:
                along.append(line)
        is_ours = self._match(sorted(near, key=attrgetter("number"))) if near else False
        for line in along:
            self._count(line)
            self._end(line, State.OVER)
        if not near and not along:
            self._stray(name, start)
        return is_ours or bool(along)

    def _match(self, lines: Sequence[Line]) -> bool:
        """One of these lines, in their order, was read."""
        expected = next((line for line in lines if line.state < State.OVER), None)
        was_read = any(line.state is State.OVER for line in lines)
        self._astray = 0
        if expected is None or (was_read and expected.number > self.furthest + _NEAR):
            self.tally.again += 1
            return False
        self._come_to(expected)
        return True

    def _count(self, line: Line) -> None:
        if line.state is State.READY or (line.state is State.SKIPPED and line.held_bytes):
            self.tally.hits += 1
        else:
            self.tally.late += 1

    def _come_to(self, line: Line) -> None:
        self._count(line)
        if line.state is State.SKIPPED:
            self.tally.skipped -= 1
            self._grow()
        elif line.state is State.WAITING and not self.has_room():
            self._grow()
        self._end(line, State.OVER)
        self._move(line.number)

    def _grow(self) -> None:
        """Workers are further apart than there is room for."""
        room = self.room
        room.file_bytes = min(room.most_file_bytes, room.file_bytes + room.file_bytes // 8)
        room.picture_bytes = min(room.most_picture_bytes, room.picture_bytes + room.picture_bytes // 8)

    def _move(self, number: int) -> None:
        """A line was read: the reader's place moves, unless it is one stray read far ahead."""
        if number <= self.furthest:
            return
        if number - self.furthest > _LAG:
            self._far.append(number)
            beside = [other for other in self._far if abs(other - number) <= _LAG]
            if len(beside) < _PROOF:
                return
            number = max(beside)
            self._far.clear()
        before, self.furthest = self.furthest, number
        for each in range(max(before, number - 2 * self.room.lines) + 1, number + 1):
            line = self._taken.get(each)
            if line is not None:
                self._held[line.is_picture].behind_bytes += line.held_bytes
        self._skip()

    def _skip(self) -> None:
        """Gives up lines behind the furthest: too far, or too many."""
        files, pictures = self._held
        while self._taken:
            number, line = next(iter(self._taken.items()))
            too_many = (
                files.behind_bytes > self.room.file_bytes // 2
                if not line.is_picture
                else (pictures.behind_bytes > self.room.picture_bytes // 2)
            )
            if number >= self.furthest or not (too_many or number < self.furthest - _LAG):
                return
            self.tally.skipped += 1
            self._end(line, State.SKIPPED)

    def _end(self, line: Line, state: State) -> None:
        """Nothing more is held for the line."""
        self._unknown.discard(line.number)
        if self._taken.pop(line.number, None) is not None:
            held = self._held[line.is_picture]
            held.all_bytes -= line.held_bytes
            if line.number <= self.furthest:
                held.behind_bytes -= line.held_bytes
        was_known = line.state in (State.SKIPPED, State.OVER)
        line.state = state
        if not was_known:
            self._recent.append(line)
            if len(self._recent) > _RECENT:
                gone = self._recent.popleft()
                self._forget(gone, gone.name or gone.path)

    # -- names

    def _index(self, line: Line, name: str) -> None:
        named = self._names.get(name)
        if named is None:
            named = self._names[name] = _Named()
        if line.length:
            insort(named.ranges, line, key=_by_start)
            named.longest = max(named.longest, line.length)
        elif named.whole and named.whole[-1].number > line.number:
            named.whole = deque(sorted([*named.whole, line], key=attrgetter("number")))
        else:
            named.whole.append(line)

    def _forget(self, line: Line, name: str) -> None:
        named = self._names.get(name)
        if named is None:
            return
        lines: deque[Line] | list[Line] = named.ranges if line.length else named.whole
        if line in lines:
            lines.remove(line)
        if not named.whole and not named.ranges:
            del self._names[name]

    # -- elsewhere in the list

    def _stray(self, name: str, start: int) -> None:
        self.tally.strays += 1
        self._astray += 1
        self._strays.append((name, start))

    def strays(self) -> list[tuple[str, int]]:
        """What to look for in the list: names, each with a place in it or -1. Empty while there is no need."""
        if self._astray < self._patience:
            return []
        return list(dict.fromkeys(self._strays))

    def place_of(self, found: Sequence[int], wanted: int) -> int | None:
        """Where the reader is, by the numbers of lines on which `wanted` strays were found: the first of the lines
        that lie together and are at least half of them. None, and more patience, where it is nowhere."""
        numbers = sorted(found)
        after = [number for number in numbers if number > self.furthest]
        for some in (after, numbers):
            first = 0
            for last, number in enumerate(some):
                while number - some[first] > _LAG:
                    first += 1
                if 2 * (last - first + 1) >= max(wanted, _STRAYS // 2):
                    return some[first]
        self._patience = min(2 * max(self._patience, self._astray), 1 << 16)
        return None

    def jump(self, number: int) -> None:
        """The reader is at this line: all others are given up. What comes next is to be added from there."""
        for line in [*self._taken.values(), *self._waiting]:
            if line.state < State.SKIPPED:
                self._end(line, State.SKIPPED)
        self._waiting.clear()
        self._taken.clear()
        self._unknown.clear()
        self._recent.clear()
        self._names.clear()
        self._far.clear()
        self._strays.clear()
        self._astray = 0
        self._patience = _STRAYS
        self.furthest = number - 1
        self.tally.jumps += 1
