"""The virtual `frames` directories: a directory a video, a picture a frame, decoded when it is opened.

Hides indices and decoders, which frame of a video a file name means, and what a picture weighs before anyone decoded
it. Called by the mounted tree, which says what videos stand in a folder; knows nothing of folders, datasets or FUSE.

    frames/<view>/<frame file>           at the dataset's own rate, first index and file name
    frames@fps=60/<view>/<frame file>    the same at another rate (0 or `native`: every frame); looked up, not listed

Any thread may call. Lock order: `VideoShelf._lock` is the only lock here; nothing is fetched or decoded under it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from cachetools import LRUCache

import vfs.video
from vfs.errors import NoSuchAttribute, NotFound
from vfs.flight import Flights
from vfs.node import Attributes, Child, Directory, File, Kind, Node, tag_of
from vfs.objectfile import ObjectFile

if TYPE_CHECKING:
    from vfs.video import Decoder, VideoIndex

log = logging.getLogger(__name__)

NAME = "frames"
_VARIANT = re.compile(r"frames@(.+)")
# Indices that are kept: some ten hours of video at 60 frames a second, with 32 bytes a frame.
_KEPT_INDICES_BYTES = 64 << 20
_INDEX_BYTES_A_FRAME = 32
# Decoders that are kept, by what they are reckoned to hold: the pictures they keep, and those of a codec's own (up to
# 16, as a rule 12). That is 9 videos of 1080p or 30 of 448p at once, in as many streams; more begin each frame anew.
_KEPT_DECODERS_BYTES = 512 << 20
_PICTURES_A_DECODER_BYTES = 16 << 20
_PICTURES_A_CODEC = 12


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How a dataset numbers and names the frames of its videos.

    `fps` None takes every frame as it is in the video; otherwise file number `first` + n is the frame that is on the
    screen n/fps seconds after the first. `name` is a format of `view` and `number`.
    """

    fps: Fraction | None
    first: int
    name: str

    def file_name(self, view: str, number: int) -> str:
        """The frame's file name."""
        return self.name.format(view=view, number=number)

    def number(self, view: str, file_name: str) -> int | None:
        """The number that a file name means, None if it is no name of a frame of this view."""
        digits = re.findall(r"[0-9]+", file_name.removeprefix(view))
        if not digits:
            return None
        number = int(digits[-1])
        return number if self.file_name(view, number) == file_name else None

    def count(self, index: VideoIndex) -> int:
        """How many frame files the video has."""
        if self.fps is None or not index.frame_count:
            return index.frame_count
        shown = index.duration_ticks * index.time_base
        # The last frame's time and its duration may both be rounded up.
        return max(1, ceil((shown - 2 * _slack(index)) * self.fps))

    def source_frame(self, index: VideoIndex, number: int) -> int:
        """The video's frame (from 0, in display order) behind a file number. Raises NotFound outside the video."""
        if not 0 <= number - self.first < self.count(index):
            last = self.first + self.count(index) - 1
            raise NotFound(f"frame {number} is not one of {self.first} to {last}")
        if self.fps is None:
            return number - self.first
        return index.frame_at(Fraction(number - self.first) / self.fps + _slack(index))


def _slack(index: VideoIndex) -> Fraction:
    """Seconds by which a frame's time may be off because it was rounded to ticks: half a tick.

    In milliseconds, frame 4 of 60 fps has pts 67, after its own time of 66.67 ms. Where a frame has few ticks, they
    were chosen to count frames, and nothing was rounded.
    """
    few = 4
    return index.time_base / 2 if index.fps * index.time_base * few <= 1 else Fraction(0)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the name of a frames directory asks for. Without anything it is the dataset's own convention."""

    fps: Fraction | None = None
    every_frame: bool = False

    def apply(self, rule: FrameRule) -> FrameRule:
        """The dataset's rule with what the variant changes."""
        return replace(rule, fps=self.fps) if self.fps or self.every_frame else rule


@dataclass(frozen=True, slots=True)
class Video:
    """A video as its frames need it: `identity` names one version of it; `view` is the name it is shown under."""

    view: str
    identity: str
    file: ObjectFile
    rule: FrameRule
    mtime_ns: int
    valid_s: float


class VideoShelf:
    """The indices and decoders of videos that were used lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._indices: LRUCache[str, VideoIndex] = LRUCache(_KEPT_INDICES_BYTES, _index_bytes)
        self._decoders: LRUCache[str, Decoder] = LRUCache(_KEPT_DECODERS_BYTES, _decoder_bytes)
        self._flights: Flights[str, VideoIndex] = Flights()
        self.frames_encoded = 0

    def index(self, video: Video) -> VideoIndex:
        """The video's frame table, read once. Raises UndecodableVideo and what reading the video raises."""
        with self._lock:
            index = self._indices.get(video.identity)
        if index is not None:
            return index
        flight, mine = self._flights.join(video.identity)
        if not mine:
            return self._flights.wait(flight, video.view)
        try:
            index = vfs.video.read_index(video.file, video.view)
        except BaseException as failure:
            self._flights.crash(video.identity, failure)
            raise
        with self._lock:
            self._indices[video.identity] = index
        self._flights.land(video.identity, index)
        return index

    def jpeg(self, video: Video, frame: int) -> bytes:
        """A frame as JPEG of the constant length. Raises UndecodableVideo and what reading the video raises."""
        picture = self._decoder(video).frame(frame)
        encoded = vfs.video.encode_jpeg(picture)
        with self._lock:
            self.frames_encoded += 1
        return encoded

    def close(self) -> None:
        """Releases all decoders."""
        with self._lock:
            decoders = list(self._decoders.values())
            self._decoders.clear()
        for decoder in decoders:
            decoder.close()

    def _decoder(self, video: Video) -> Decoder:
        index = self.index(video)
        with self._lock:
            decoder = self._decoders.get(video.identity)
            if decoder is None:
                # A decoder that falls off may be in use; it is collected when its last user lets go of it.
                decoder = vfs.video.Decoder(video.file, index, video.view, kept_bytes=_PICTURES_A_DECODER_BYTES)
                self._decoders[video.identity] = decoder
            return decoder


def _index_bytes(index: VideoIndex) -> int:
    return min(_KEPT_INDICES_BYTES, index.frame_count * _INDEX_BYTES_A_FRAME)


def _decoder_bytes(decoder: Decoder) -> int:
    codec = decoder.index.width * decoder.index.height * 3 // 2 * _PICTURES_A_CODEC
    return min(_KEPT_DECODERS_BYTES, codec + _PICTURES_A_DECODER_BYTES)


class FramesDirectory(Directory):
    """`frames`, or `frames@…`: a directory for each video of a folder, by the name that `views` gives it."""

    def __init__(
        self,
        shelf: VideoShelf,
        views: Callable[[], Iterator[str]],
        find: Callable[[str], Video],
        attributes: Attributes,
        variant: Variant,
    ) -> None:
        """`find` raises NotFound for a view that is not there."""
        self.attributes = attributes
        self._shelf = shelf
        self._views = views
        self._find = find
        self._variant = variant

    def lookup(self, name: str) -> Node:
        """The directory of a view."""
        return self._view(name)

    def children(self) -> Iterator[Child]:
        """All views but those that are links to nowhere; no video is opened for it."""
        for view in self._views():
            try:
                node = self._view(view)
            except NotFound:
                continue
            yield os.fsencode(view), node.kind, node.tag, 0, node.attributes.mtime_ns

    def names_valid_s(self) -> float:
        """The folder's listing says which views there are."""
        return self.attributes.valid_s

    def _view(self, name: str) -> ViewDirectory:
        return ViewDirectory(self._shelf, lambda: self._video(name))

    def _video(self, name: str) -> Video:
        video = self._find(name)
        return replace(video, rule=self._variant.apply(video.rule))


class ViewDirectory(Directory):
    """The frames of one video. Its index is read when a frame is looked up or listed, not before.

    The video is found anew each time: the kernel keeps a directory for as long as a listing is believed, and a video
    may be replaced meanwhile.
    """

    def __init__(self, shelf: VideoShelf, find: Callable[[], Video]) -> None:
        """Raises what `find` raises."""
        video = find()
        self.attributes = Attributes(0, video.mtime_ns, video.valid_s)
        self._shelf = shelf
        self._find = find

    def lookup(self, name: str) -> Node:
        """The frame of that file name. Raises NotFound outside the video, UndecodableVideo where it has no index."""
        video = self._find()
        number = video.rule.number(video.view, name)
        if number is None:
            raise NotFound(f"{name}: no frame of {video.view} has such a name")
        index = self._shelf.index(video)
        return FrameFile(self._shelf, video, index, video.rule.source_frame(index, number))

    def children(self) -> Iterator[Child]:
        """All frames in order; nothing is decoded."""
        video = self._find()
        index = self._shelf.index(video)
        tag, size = tag_of(Kind.FILE, video.identity), vfs.video.jpeg_size_bytes(index.width, index.height)
        for number in range(video.rule.first, video.rule.first + video.rule.count(index)):
            yield os.fsencode(video.rule.file_name(video.view, number)), Kind.FILE, tag, size, video.mtime_ns

    def names_valid_s(self) -> float:
        """The index says which frames there are."""
        return self._find().valid_s


class FrameFile(File):
    """A picture: its size is known from the video's width and height, its bytes when it is opened."""

    def __init__(self, shelf: VideoShelf, video: Video, index: VideoIndex, frame: int) -> None:
        size = vfs.video.jpeg_size_bytes(index.width, index.height)
        self.attributes = Attributes(size, video.mtime_ns, video.valid_s)
        self.version = video.identity
        self._shelf = shelf
        self._video = video
        self._index = index
        self._frame = frame

    def open(self) -> _Picture:
        """Decodes and encodes the frame. Raises UndecodableVideo and what reading the video raises."""
        return _Picture(self._shelf.jpeg(self._video, self._frame))

    def xattr_names(self) -> list[str]:
        """Of a frame: where in the video it stands."""
        return ["user.egofs.frame", "user.egofs.time_s"]

    def xattr(self, name: str) -> bytes:
        """`frame` counts from 0 in display order; `time_s` from the first frame."""
        if name == "user.egofs.frame":
            return str(self._frame).encode()
        if name == "user.egofs.time_s":
            return f"{float(int(self._index.pts[self._frame]) * self._index.time_base):.6f}".encode()
        raise NoSuchAttribute(name)


class _Picture:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def ready(self, start: int, length: int) -> memoryview:
        return self._data[start : start + length]

    read = ready

    def close(self) -> None:
        self._data = memoryview(b"")


def parse_variant(name: str) -> Variant:
    """What a directory name asks for.

    Raises NotFound for a name that is none; a misspelt variant is said in the log with what there is.
    """
    if name == NAME:
        return Variant()
    match = _VARIANT.fullmatch(name)
    if not match:
        raise NotFound(name)
    value = match[1].removeprefix("fps=")
    if value != match[1]:
        if value in ("0", "native"):
            return Variant(every_frame=True)
        if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value) and Fraction(value) > 0:
            return Variant(fps=Fraction(value))
    log.warning("%s is no variant of frames: write frames@fps=N, with N frames a second, 0 or native", name)
    raise NotFound(name)
