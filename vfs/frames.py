"""The virtual `frames` directories: a directory a video, a picture a frame, and clips; decoded when they are read.

Hides which frame of a video a file name means and what a file weighs before anyone decoded it. Called by the mounted
tree, which says what videos stand in a folder; knows nothing of folders, datasets or FUSE, nor who decodes (shelf.py).

    frames/<view>/<frame file>                    at the dataset's own rate, first index and file name
    frames/<view>/<start>-<stop>[-<step>].npy     the files from start up to but without stop, as one array; looked up,
                                                  not listed
    frames@short=224,fps=8/<view>/…               the same with what variant.py reads; looked up, not listed

Any thread may call. Nothing is decoded before a file is read, so that opening one whose pages the kernel has is free.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Protocol

import vfs.video
from vfs.errors import NoSuchAttribute, NotFound
from vfs.extent import Buffer, clip
from vfs.node import Attributes, Child, Directory, File, Kind, Node, tag_of
from vfs.objectfile import ObjectFile
from vfs.shelf import Pictures, Series, VideoShelf
from vfs.variant import NAME, Variant, parse_variant
from vfs.video.form import Form, clip_header, clip_size_bytes

if TYPE_CHECKING:
    from vfs.video import VideoIndex

__all__ = ["NAME", "FrameRule", "FramesDirectory", "Variant", "Video", "VideoShelf", "Views", "parse_variant"]

_CLIP = re.compile(r"([0-9]{1,9})-([0-9]{1,9})(?:-([1-9][0-9]{0,8}))?\.npy", re.ASCII)
_NUMBER = re.compile(r"\{number(?::[^}]*)?\}")
_PREFIX = "user.egofs."
# Pictures of a clip that its reader may be in the middle of.
_CLIP_PICTURES_HELD = 2
_FRAME_FACTS = ("frame", "pts", "time_s", "keyframe")
_VIEW_FACTS = ("first", "last", "frames")


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How a dataset numbers and names the frames of its videos.

    `fps` None takes every frame as it is in the video; otherwise file number `first` + n is the frame that is on the
    screen n/fps seconds after the first. Both count from frame `start` of the video and end before its frame `stop`, or
    take the frames that begin in the seconds [`start_s`, `stop_s`) of it, where these are given. `name` is a format of
    `view` and `number`, with one `number`; `also` are further ones, by which files are looked up and not listed.
    `most_short` is how long the shorter side of a picture is where nothing else is asked for and the video's is longer.
    """

    fps: Fraction | None
    first: int
    name: str
    also: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    start_s: Fraction | None = None
    stop_s: Fraction | None = None
    most_short: int | None = None

    def varied(self, variant: Variant) -> FrameRule:
        """This rule with what a directory's name changes."""
        rule = replace(self, name=variant.file_name(self.name), also=tuple(map(variant.file_name, self.also)))
        return replace(rule, fps=variant.fps) if variant.fps or variant.every_frame else rule

    def file_name(self, view: str, number: int) -> str:
        """The frame's file name."""
        return self.name.format(view=view, number=number)

    def number(self, view: str, file_name: str) -> int | None:
        """The number that a file name means, by the first of the formats that gives it back; None if none does."""
        for name in (self.name, *self.also):
            before, after = _around_number(name, view)
            digits = file_name.removeprefix(before).removesuffix(after)
            if digits.isascii() and digits.isdigit() and name.format(view=view, number=int(digits)) == file_name:
                return int(digits)
        return None

    def numbering(self, index: VideoIndex) -> tuple[range, Callable[[int], int]]:
        """The numbers of a video's frame files, and what gives the video's frame (from 0, in display order) behind
        one of them."""
        first = self.first
        start, stop = self._part(index)
        if self.fps is None or start >= stop:
            return range(first, first + max(0, stop - start)), lambda number: number - first + start
        # Where it begins was rounded as well as where it ends.
        half = _slack(index)
        begin, late = int(index.pts[start]), 2 * half if start else half
        # Whole numbers instead of fractions, which take ten times as long, at each frame that is looked up.
        ticks, more = 1 / (self.fps * index.time_base), late / index.time_base
        each, add = ticks.numerator * more.denominator, more.numerator * ticks.denominator
        divisor = ticks.denominator * more.denominator

        def frame_of(number: int) -> int:
            return index.frame_at_tick(begin + ((number - first) * each + add) // divisor)

        # The last frame's time and its duration may both be rounded up.
        shown = (index.duration_ticks - begin) * index.time_base - half - late
        numbers = range(first, first + max(1, ceil(shown * self.fps)))
        return numbers if stop == index.frame_count else numbers[: bisect_left(numbers, stop, key=frame_of)], frame_of

    def _part(self, index: VideoIndex) -> tuple[int, int]:
        """The first frame, and the one after the last."""
        start, stop = self.start, self.stop
        if self.start_s is not None:
            start = _first_from(index, self.start_s)
        if self.stop_s is not None:
            stop = _first_from(index, self.stop_s)
        return start, index.frame_count if stop is None else min(stop, index.frame_count)


def _first_from(index: VideoIndex, seconds: Fraction) -> int:
    """The first frame that begins at this time or later; how many there are where none does."""
    return int(index.pts.searchsorted(ceil((seconds - _slack(index)) / index.time_base)))


@lru_cache(4096)
def _around_number(name: str, view: str) -> tuple[str, str]:
    """What stands before the number in a file name, and after it."""
    before, after = _NUMBER.split(name)
    return before.format(view=view), after.format(view=view)


def _slack(index: VideoIndex) -> Fraction:
    """Seconds by which a frame's time may be off because it was rounded to ticks: half a tick.

    In milliseconds, frame 4 of 60 fps has pts 67, after its own time of 66.67 ms. Where a frame has few ticks, they
    were chosen to count frames, and nothing was rounded.
    """
    few = 4
    return index.time_base / 2 if index.fps * index.time_base * few <= 1 else Fraction(0)


@dataclass(frozen=True, slots=True)
class Video:
    """A video as its frames need it: `identity` names one version of it among all of all sources; `view` is the name it
    is shown under. `stands` says, without waiting, whether `Views.video` would give the same again."""

    view: str
    identity: str
    file: ObjectFile
    rule: FrameRule
    mtime_ns: int
    valid_s: float
    stands: Callable[[], bool]

    @property
    def version(self) -> str:
        """Of the files: what is behind a file's name."""
        begin = f"{self.rule.start_s}s" if self.rule.start_s is not None else self.rule.start
        return f"{self.identity}\0{begin}" if begin else self.identity


class Views(Protocol):
    """The videos of a folder, and what is shown of other folders' videos as if it were one."""

    def names(self) -> Iterator[str]:
        """Those that are there: no link to nowhere. Opens none, and asks no store for any of them by itself."""
        ...

    def video(self, view: str) -> Video:
        """The video of that name. Raises NotFound, also for a link to nowhere."""
        ...


class FramesDirectory(Directory):
    """`frames`, or `frames@…`: a directory for each video of a folder."""

    def __init__(self, shelf: VideoShelf, views: Views, attributes: Attributes, variant: Variant) -> None:
        self.attributes = attributes
        self._shelf = shelf
        self._views = views
        self._variant = variant

    def lookup(self, name: str) -> Node:
        """The directory of a view. Raises NotFound for a view that is not there."""
        return ViewDirectory(self._shelf, self._views, name, self._variant)

    def children(self) -> Iterator[Child]:
        """All views; no video is opened for it."""
        tag = tag_of(Kind.DIRECTORY, "")
        for view in self._views.names():
            yield os.fsencode(view), Kind.DIRECTORY, tag, 0, 0

    def names_valid_s(self) -> float:
        """The folder's listing says which views there are."""
        return self.attributes.valid_s


class ViewDirectory(Directory):
    """The frames of one video. Its index is read when a frame is looked up or listed, not before.

    The kernel keeps a directory for as long as a listing is believed, and a video may be replaced meanwhile: so what
    was found is only used for as long as the folder's listing stands.
    """

    def __init__(self, shelf: VideoShelf, views: Views, view: str, variant: Variant) -> None:
        """Raises NotFound where there is no such video."""
        self._found = views.video(view)
        self.attributes = Attributes(0, 0, self._found.valid_s)
        self._shelf = shelf
        self._views = views
        self._view = view
        self._variant = variant
        self._decoded: _Indexed | None = None

    def lookup(self, name: str) -> Node:
        """The frame or clip of that name. Raises NotFound outside the video, UndecodableVideo where it has no index."""
        return self._indexed().lookup(name)

    def children(self) -> Iterator[Child]:
        """All frames in order; nothing is decoded."""
        yield from self._indexed().children()

    def names_valid_s(self) -> float:
        """The index says which frames there are."""
        return self._video().valid_s

    def xattr_names(self) -> list[str]:
        """Which frame files there are."""
        return [_PREFIX + fact for fact in _VIEW_FACTS]

    def xattr(self, name: str) -> bytes:
        """`first` and `last` are numbers of files, at this directory's rate; `frames` is how many there are; where
        that is none, `last` is before `first`. Reads the index and lists nothing. Raises UndecodableVideo."""
        if name.removeprefix(_PREFIX) not in _VIEW_FACTS:
            raise NoSuchAttribute(name)
        return self._indexed().xattr(name)

    def at_hand(self) -> Directory | None:
        """The frames, if the video and its index are known."""
        video, decoded = self._found, self._decoded
        return decoded if decoded is not None and decoded.shows(video) and video.stands() else None

    def _video(self) -> Video:
        if not self._found.stands():
            self._found = self._views.video(self._view)
        return self._found

    def _indexed(self) -> _Indexed:
        video, decoded = self._video(), self._decoded
        if decoded is None or not decoded.shows(video):
            footage = vfs.video.Footage(video.identity, video.view, video.file)
            decoded = self._decoded = _Indexed(self._shelf, video, self._shelf.index(footage), self._variant)
        return decoded


class _Indexed(Directory):
    """The frames of a video whose index is there: answers without waiting for anything."""

    def __init__(self, shelf: VideoShelf, video: Video, index: VideoIndex, variant: Variant) -> None:
        """Raises NotFound where the variant asks for pictures that are too large."""
        self.attributes = Attributes(0, 0, video.valid_s)
        self._shelf = shelf
        self._video = video
        self._index = index
        self._rule = video.rule.varied(variant)
        self._footage = vfs.video.Footage(video.identity, video.view, video.file, index)
        variant = variant.within(self._rule.most_short, index.width, index.height)
        self._form = variant.form_of(index.width, index.height, index.monochrome, index.depth)
        self._array = replace(variant, format="npy").form_of(index.width, index.height, index.monochrome, index.depth)
        self._numbers, self._frame_of = self._rule.numbering(index)
        self._series = self._series_of(self._form)

    def shows(self, video: Video) -> bool:
        """Whether these are the frames of this version, under this rule."""
        return (self._video.identity, self._video.rule) == (video.identity, video.rule)

    def lookup(self, name: str) -> Node:
        """The frame or clip of that name. Raises NotFound."""
        video = self._video
        number = self._rule.number(video.view, name)
        if number is not None:
            if number not in self._numbers:
                last = self._numbers.stop - 1
                raise NotFound(f"{name}: the frames of {video.view} go from {self._numbers.start} to {last}")
            return FrameFile(self._shelf, self._series, video, self._index, number)
        match = _CLIP.fullmatch(name)
        if match is None:
            raise NotFound(f"{name}: no frame of {video.view} has such a name")
        numbers = range(int(match[1]), int(match[2]), int(match[3] or 1))
        if not len(numbers) or numbers[0] not in self._numbers or int(match[2]) - 1 not in self._numbers:
            raise NotFound(f"{name}: a clip of {video.view} lies within {self._numbers.start}-{self._numbers.stop}")
        return ClipFile(self._shelf, self._series_of(self._array), video, numbers)

    def children(self) -> Iterator[Child]:
        """All frames in order."""
        tag, size, mtime_ns = tag_of(Kind.FILE, self._video.version), self._form.size_bytes, self._video.mtime_ns
        for number in self._numbers:
            yield os.fsencode(self._rule.file_name(self._video.view, number)), Kind.FILE, tag, size, mtime_ns

    def xattr(self, name: str) -> bytes:
        """See ViewDirectory, which knows the names."""
        numbers = self._numbers
        facts = {"first": numbers.start, "last": numbers.stop - 1, "frames": len(numbers)}
        return str(facts[name.removeprefix(_PREFIX)]).encode()

    def names_valid_s(self) -> float:
        """As long as the folder's listing."""
        return self._video.valid_s

    def at_hand(self) -> Directory:
        """All of it is."""
        return self

    def _series_of(self, form: Form) -> Series:
        pictures = self._shelf.pictures(self._footage, form)
        return self._shelf.series(pictures, self._rule, self._numbers, self._frame_of)


class FrameFile(File):
    """A picture: its size follows from its form, its bytes are made when they are read."""

    opens_at_once = True

    def __init__(self, shelf: VideoShelf, series: Series, video: Video, index: VideoIndex, number: int) -> None:
        self.attributes = Attributes(series.pictures.form.size_bytes, video.mtime_ns, video.valid_s)
        self.version = video.version
        self._shelf = shelf
        self._series = series
        self._index = index
        self._number = number
        self._frame = series.frame_of(number)

    @property
    def parts(self) -> tuple[Pictures, list[int]]:
        """The pictures that it is made of, as the shelf has them: which of them, in order."""
        return self._series.pictures, [self._frame]

    def open(self) -> _PictureReader:
        """The picture, of which nothing is made yet."""
        return _PictureReader(self._shelf, self._series, self._number, self._frame)

    def xattr_names(self) -> list[str]:
        """Where in the video it stands."""
        return [_PREFIX + fact for fact in _FRAME_FACTS]

    def xattr(self, name: str) -> bytes:
        """`frame` counts from 0 in display order, `pts` in the video's ticks and `time_s` from the first frame."""
        pts, packet = int(self._index.pts[self._frame]), int(self._index.shown[self._frame])
        facts = {
            "frame": lambda: str(self._frame),
            "pts": lambda: str(pts),
            "time_s": lambda: f"{float(pts * self._index.time_base):.6f}",
            "keyframe": lambda: str(int(self._index.keyframe_before(packet) == packet)),
        }
        fact = facts.get(name.removeprefix(_PREFIX))
        if fact is None:
            raise NoSuchAttribute(name)
        return fact().encode()


class _PictureReader:
    """An open picture."""

    def __init__(self, shelf: VideoShelf, series: Series, number: int, frame: int) -> None:
        self._shelf = shelf
        self._series = series
        self._number = number
        self._frame = frame
        self._file: memoryview | None = None
        self._coming: range | None = None

    def ready(self, start: int, length: int) -> Buffer | None:
        if self._file is None:
            self._observe()
            self._file = self._shelf.at_hand(self._series.pictures, self._frame)
            if self._file is None:
                return None
        return self._file[start : start + length]

    def read(self, start: int, length: int) -> Buffer:
        """Decodes the picture. Raises UndecodableVideo and what reading the video raises."""
        if self._file is None:
            coming, series = self._observe(), self._series
            self._file = self._shelf.file(series.pictures, self._frame, lambda: series.frames(coming))
        return self._file[start : start + length]

    def close(self) -> None:
        if self._file is not None:
            self._shelf.spend(self._series.pictures, self._frame)
            self._file = None

    def _observe(self) -> range:
        if self._coming is None:
            self._coming = self._series.observe(self._number)
        return self._coming


class ClipFile(File):
    """Pictures of a range as one array; each is decoded when its part of the file is read."""

    opens_at_once = True

    def __init__(self, shelf: VideoShelf, series: Series, video: Video, numbers: range) -> None:
        size = clip_size_bytes(series.pictures.form, len(numbers))
        self.attributes = Attributes(size, video.mtime_ns, video.valid_s)
        self.version = video.version
        self._shelf = shelf
        self._series = series
        self._numbers = numbers

    @property
    def parts(self) -> tuple[Pictures, list[int]]:
        """The pictures that it is made of, as the shelf has them: which of them, each once."""
        return self._series.pictures, self._series.frames(self._numbers)

    def open(self) -> _ClipReader:
        """The array, of which nothing is made yet."""
        return _ClipReader(self._shelf, self._series, self._numbers, self.attributes.size_bytes)


class _ClipReader:
    """An open clip. The kernel reads a picture in several pieces, in any order: the last few are held."""

    def __init__(self, shelf: VideoShelf, series: Series, numbers: range, size_bytes: int) -> None:
        form = series.pictures.form
        self._shelf = shelf
        self._series = series
        self._numbers = numbers
        self._size_bytes = size_bytes
        self._header = clip_header(form, len(numbers))
        self._before = len(form.header)  # of a picture's own file, what is no sample
        self._each = form.room_bytes
        self._held: dict[int, memoryview] = {}
        self._last = -1
        self._run = 0
        self._asked = 0

    def ready(self, start: int, length: int) -> Buffer | None:
        parts = self._parts(start, clip(start, length, self._size_bytes), self._picture_at_hand)
        return None if parts is None else _joined(parts)

    def read(self, start: int, length: int) -> Buffer:
        """Decodes the pictures that the range touches. Raises UndecodableVideo and what reading the video raises."""
        parts = self._parts(start, clip(start, length, self._size_bytes), self._picture)
        assert parts is not None, "a picture is made or raises"
        return _joined(parts)

    def close(self) -> None:
        self._let_go(len(self._numbers))

    def _parts(self, start: int, length: int, picture: Callable[[int], memoryview | None]) -> list[memoryview] | None:
        end, header = start + length, len(self._header)
        parts = [memoryview(self._header)[start:end]] if start < header else []
        at = max(start, header)
        while at < end:
            place, offset = divmod(at - header, self._each)
            samples = picture(place)
            if samples is None:
                return None
            part = samples[offset : min(self._each, offset + end - at)]
            parts.append(part)
            at += len(part)
        return parts

    def _picture_at_hand(self, place: int) -> memoryview | None:
        held = self._held.get(place)
        if held is None:
            number = self._numbers[place]
            file = self._shelf.at_hand(self._series.pictures, self._series.frame_of(number))
            if file is None:
                return None
            self._begin(place)
            held = self._hold(place, file)
        return held

    def _picture(self, place: int) -> memoryview:
        held = self._held.get(place)
        if held is None:
            number = self._numbers[place]
            wanted = self._begin(place)
            file = self._shelf.file(
                self._series.pictures, self._series.frame_of(number), lambda: self._series.frames(wanted)
            )
            held = self._hold(place, file)
        return held

    def _hold(self, place: int, file: memoryview) -> memoryview:
        samples = self._held[place] = file[self._before :]
        self._let_go(place - _CLIP_PICTURES_HELD)
        return samples

    def _begin(self, place: int) -> range:
        """A picture is touched for the first time: those that follow are made, more of them the longer it goes on, and
        none that the clip does not have. Gives the numbers that will be wanted. Never blocks."""
        goes_on = 0 <= place - self._last <= _CLIP_PICTURES_HELD
        self._run = self._run + 1 if goes_on else 0
        self._last = place
        most = self._shelf.most_ahead(self._series, self._each)
        until = min(place + 1 + min(most, self._run + 1), len(self._numbers))
        begin = max(self._asked, place + 1) if goes_on else place + 1
        wanted = self._numbers[place : place + 2 * most + 1]
        if goes_on and begin < until and (until - begin > most // 2 or self._asked <= place + 1):
            self._asked = until
            series, following = self._series, self._numbers[begin:until]
            self._shelf.later(
                lambda: self._shelf.make_ahead(series.pictures, series.frames(following), series.frames(wanted))
            )
        return wanted

    def _let_go(self, before: int) -> None:
        """Pictures before this one were read."""
        for place in [each for each in self._held if each < before]:
            samples = self._held.pop(place, None)
            if samples is not None:
                frame = self._series.frame_of(self._numbers[place])
                self._shelf.spend(self._series.pictures, frame)


def _joined(parts: list[memoryview]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)
