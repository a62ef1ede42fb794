"""The pictures that an order has made ahead: those of one GOP together, its bytes fetched first in one request.

Called by ordering.py. A line may want pictures of several GOPs (a clip), and a GOP may have pictures of several lines
that lie far apart in the order: decoding goes through a GOP from its keyframe on, so that each further picture costs
next to nothing there and as much as the first one later. `Gops` is not thread-safe: the order has a lock. `make`
blocks.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from vfs.errors import EgofsError
from vfs.flight import Flights
from vfs.objectfile import ObjectFile
from vfs.orderwindow import Line, State
from vfs.shelf import Pictures, VideoShelf


@dataclass(slots=True)
class _Whole:
    """How many parts of a line are not made yet."""

    left: int


@dataclass(eq=False, slots=True)
class Part:
    """Pictures of one GOP that a line wants: that of keyframe `key`."""

    line: Line
    pictures: Pictures
    key: int
    frames: list[int]
    whole: _Whole

    def made(self) -> bool:
        """It is made; whether that was the last of its line."""
        self.whole.left -= 1
        return self.whole.left == 0


class Gops:
    """What is to be made, by GOP, in the order of the lines that need it first."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int, Part]] = []
        self._by_gop: dict[tuple[bytes, int], list[Part]] = {}
        self._counted = count()

    def __bool__(self) -> bool:
        return bool(self._order)

    def add(self, line: Line, pictures: Pictures, gops: dict[int, list[int]]) -> None:
        """A line wants these frames, by their GOPs."""
        whole = _Whole(len(gops))
        for key, frames in gops.items():
            part = Part(line, pictures, key, frames, whole)
            heapq.heappush(self._order, (line.number, next(self._counted), part))
            self._by_gop.setdefault((pictures.owner, key), []).append(part)

    def take(self) -> list[Part]:
        """The parts that are needed first, with all others of their GOP; those that nobody waits for are dropped."""
        while self._order:
            _, _, first = heapq.heappop(self._order)
            gop = (first.pictures.owner, first.key)
            if first not in self._by_gop.get(gop, ()):
                continue  # made with others before
            batch = [part for part in self._by_gop.pop(gop) if part.line.state is State.TAKEN]
            if batch:
                return batch
        return []

    def clear(self) -> None:
        """Nothing of it is wanted any more."""
        self._order.clear()
        self._by_gop.clear()


def by_gop(pictures: Pictures, frames: Sequence[int]) -> dict[int, list[int]]:
    """Frames of a video by the keyframes that they are decoded from."""
    index = pictures.footage.index
    assert index is not None, "a picture is found by its video's index"
    gops: dict[int, list[int]] = {}
    for frame in frames:
        gops.setdefault(index.keyframe_before(int(index.shown[frame])), []).append(frame)
    return gops


def make(shelf: VideoShelf, batch: Sequence[Part], tell: Callable[[int, int], None]) -> dict[int, EgofsError]:
    """Has the pictures of a batch made, or come from disk; blocks. Tells how many bytes were fetched for that and how
    many pictures are made. Gives the frames that could not be, with the reasons. Raises what reading the video does."""
    pictures, key = batch[0].pictures, batch[0].key

    def fetch(missing: Sequence[int]) -> None:
        index, file = pictures.footage.index, pictures.footage.bytes
        assert index is not None, "a picture is found by its video's index"
        start, length = index.bytes_for(key, missing)
        tell(file.prefetch(start, length) if length and isinstance(file, ObjectFile) else 0, len(missing))

    frames = sorted({frame for part in batch for frame in part.frames})
    failures = {}
    for frame, coming in shelf.make_ahead(pictures, frames, frames, fetch):
        try:
            Flights.wait(coming, pictures.footage.name)
        except EgofsError as failure:
            failures[frame] = failure
    return failures
