"""Which frames somebody reads in, and so which are next. Pure logic: no I/O, no threads, no clock.

Called by shelf.py with every picture that is asked for, under its lock. Numbers are those of frame files, so that every
file of a directory at another rate than the video's still is the next one. What is recognised:

* in order and backwards, from the second picture on; in equal steps, from the third on. Such a reader has pictures made
  ahead, more the longer it goes on: at most half of what it has read, so that eight frames at a random place, as
  training loops take them, cost at most four for nothing.
* several readers of one directory: each has its own place.
* anything else is isolated, and makes nothing ahead.
"""

from dataclasses import dataclass

# Places remembered: more readers of one video than a loader has workers.
_MOST_PLACES = 32
# Steps beyond these are chance: 30 seconds of 60 fps.
_LONGEST_STEP = 1800
# Equal distances in a row that make a step.
_STEP_PROOF = 2
# Behind an isolated picture these may come, so those that cost next to nothing on the way are not skipped.
_NEAR = 4


@dataclass(frozen=True, slots=True)
class Next:
    """What a reader will want, ascending. `make`: to be made now. `coming`: those and further ones, which need not be
    made yet, but should not be skipped on the way. `given_up`: made ahead for somebody who went elsewhere."""

    make: range = range(0)
    coming: range = range(0)
    given_up: range = range(0)


@dataclass(slots=True)
class _Place:
    """A reader. `asked` is the furthest number that was named in its direction; `step` 0 is one isolated read."""

    last: int
    step: int = 0
    run: int = 0
    """Pictures read in this step."""
    asked: int = 0


class FrameAhead:
    """The readers of one directory of frames."""

    def __init__(self, first: int, count: int) -> None:
        """Numbers are `first` and the `count` - 1 after it."""
        self._first = first
        self._end = first + count
        self._places: list[_Place] = []
        """The one used last at the end."""
        self._distance = 0
        self._repeats = 0
        self._last: int | None = None

    def access(self, number: int, most: int) -> Next:
        """A picture is asked for; at most so many may be made ahead for its reader."""
        place = self._continued(number)
        if place is None:
            return self._isolated(number)
        window = min(most, place.run // 2 + 1)
        ahead = (place.asked - place.last) // place.step if place.step else 0
        make = range(0)
        if window and ahead <= window // 2:
            make = self._numbers(place.asked + place.step, place.last + place.step * window, place.step)
            place.asked = place.last + place.step * window
        coming = self._numbers(number, place.last + place.step * 2 * max(window, _NEAR), place.step)
        return Next(make, coming)

    def _continued(self, number: int) -> _Place | None:
        """The reader whose next picture this is, moved to the end."""
        for at in range(len(self._places) - 1, -1, -1):
            place = self._places[at]
            if place.step:
                steps, rest = divmod(number - place.last, place.step)
                reach = (place.asked - place.last) // place.step + 1
                if rest or not 0 <= steps <= max(1, reach):
                    continue
                place.last += steps * place.step
                place.run += steps
                if (place.asked - place.last) // place.step < 0:
                    place.asked = place.last
            elif abs(number - place.last) == 1:
                place.step = number - place.last
                place.last = place.asked = number
                place.run = 1
            else:
                continue
            self._places.append(self._places.pop(at))
            self._last, self._repeats = number, 0
            return place
        return self._stepped(number)

    def _stepped(self, number: int) -> _Place | None:
        """A reader who has come here by the same distance twice."""
        distance = number - self._last if self._last is not None else 0
        self._repeats = self._repeats + 1 if distance and distance == self._distance else 1
        self._distance, self._last = distance, number
        if self._repeats < _STEP_PROOF or abs(distance) > _LONGEST_STEP:
            return None
        place = _Place(number, distance, self._repeats, number)
        self._places = [old for old in self._places if old.step or old.last not in (number - distance, number)]
        self._places.append(place)
        return place

    def _isolated(self, number: int) -> Next:
        self._places.append(_Place(number, asked=number))
        given_up = range(0)
        if len(self._places) > _MOST_PLACES:
            isolated = next((at for at, place in enumerate(self._places) if not place.step), 0)
            self._places.pop(isolated)
        else:
            given_up = self._left_behind()
        return Next(coming=self._numbers(number, number + _NEAR, 1), given_up=given_up)

    def _left_behind(self) -> range:
        """What was made ahead for the reader before this one, who as a rule is the same and has gone elsewhere."""
        if len(self._places) < 2 or not self._places[-2].step:
            return range(0)
        place = self._places[-2]
        numbers = self._numbers(place.last + place.step, place.asked, place.step)
        place.asked = place.last
        return numbers

    def _numbers(self, start: int, last: int, step: int) -> range:
        """Those of start, start + step, … last that there are, ascending. `start` lies within or beyond the end."""
        if step < 0:
            start, last = start + (last - start) // step * step, start
        step = abs(step)
        start = max(start, self._first + (start - self._first) % step)
        return range(start, max(start, min(last + 1, self._end)), step)
