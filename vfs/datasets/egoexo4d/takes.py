"""What takes.json, captures.json and splits.json of Ego-Exo4D tell: cameras, canonical names, views by meaning.

Hides those files' JSON and the rule by which one camera is the ego camera. Called by the other modules of the dataset;
knows nothing of manifests, sources or filters. Pure: any thread may enter.
"""

import logging
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Generic, TypeVar

from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from vfs.catalog import Entry
from vfs.errors import CorruptData
from vfs.node import Kind

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BY = ("by-split", "by-task", "by-university", "by-benchmark", "by-uid")
"""The folders of views by meaning."""

_EGO, _EXO = "ego", "exo"
# Streams of an Aria by the canonical names of their videos.
_STREAMS = {"rgb": "ego.mp4", "slam-left": "slam-left.mp4", "slam-right": "slam-right.mp4", "et": "et.mp4"}
# What frame_aligned_videos has beside cameras; either may also be null.
_NO_CAMERAS = {"collage", "best_exo"}
# What the decoder raises for what is no JSON, for texts that are no UTF-8, and for lists in lists without end.
_NO_JSON = (DecodeError, UnicodeDecodeError, RecursionError)


class _Stream(Struct, gc=False):
    relative_path: str | None = None


class _Camera(Struct, gc=False):
    cam_id: str
    is_ego: bool | str | int | None = None


class _Capture(Struct, gc=False):
    capture_uid: str | None = None
    capture_name: str | None = None
    university_name: str | None = None
    cameras: list[_Camera] | None = None


class _Take(Struct, gc=False):
    take_uid: str
    take_name: str
    capture_uid: str | None = None
    parent_task_name: str | None = None
    university_name: str | None = None
    best_exo: Any = None
    frame_aligned_videos: dict[str, dict[str, _Stream | None] | None] | None = None
    capture: _Capture | None = None


class _Splits(Struct, gc=False):
    take_uid_to_split: dict[str, Any] = {}
    take_uid_to_benchmark: dict[str, Any] = {}


class Items(Generic[_T]):
    """Reads a JSON list of one struct, an item at a time, so that what was read need not all stand in memory."""

    def __init__(self, kind: type[_T]) -> None:
        self._decoder = Decoder(kind)

    def read(self, document: str, data: bytes | bytearray) -> Iterator[_T]:
        """Leaves out with a warning what has another shape. Raises CorruptData for what is no list in JSON."""
        try:
            items = _RAW.decode(data)
        except _NO_JSON as failure:
            raise CorruptData(f"{document} cannot be understood: {failure}") from failure
        wrong: list[str] = []
        for item in items:
            try:
                yield self._decoder.decode(item)
            except (ValidationError, UnicodeDecodeError) as failure:
                wrong.append(str(failure))
        if wrong:
            _log.warning("%s: %d of %d entries are left out: %s", document, len(wrong), len(items), wrong[0])


_RAW = Decoder(list[Raw])
_TAKES, _CAPTURES = Items(_Take), Items(_Capture)
_SPLITS = Decoder(_Splits)


@dataclass(frozen=True, slots=True)
class Recording:
    """A take, or (without cameras, task and names) a capture."""

    folder: str
    """Where its files stand: `takes/<take_name>`, `captures/<capture_name>`."""
    uid: str
    university: str = ""
    task: str = ""
    views: Mapping[str, str] | None = None
    """`ego` or `exo` by camera."""
    links: dict[str, str] = field(default_factory=dict)
    """The videos in frame_aligned_videos by their canonical names."""

    @property
    def name(self) -> str:
        """The name of the take or capture."""
        return self.folder.rpartition("/")[2]

    def view_of(self, file_name: str) -> str | None:
        """`ego` or `exo` by the camera that the file is named after, None where it is named after none.

        Names have a camera's id between `_`: aria01_214-1.mp4, cam02.mp4, <take_uid>_cam02_0.pt, aria01.vrs.
        """
        stem = f"_{posixpath.splitext(file_name)[0]}_"
        return next((view for camera, view in (self.views or {}).items() if f"_{camera}_" in stem), None)


def canonical(links: Mapping[str, str], names: Collection[str]) -> Iterator[Entry]:
    """A link for each canonical name whose video is among the names of a folder, but never over one of these."""
    for name, target in links.items():
        if target in names and name not in names:
            yield Entry(name, Kind.LINK, target=target, is_video=True)


class Recordings:
    """All takes and captures."""

    def __init__(self, takes: bytes | bytearray | None = None, captures: bytes | bytearray | None = None) -> None:
        """From takes.json and captures.json. Raises CorruptData."""
        of_captures = list(_CAPTURES.read("captures.json", captures)) if captures else []
        cameras = {capture.capture_uid: capture.cameras for capture in of_captures}
        self.takes = [
            _recording(take, cameras.get(take.capture_uid))
            for take in (_TAKES.read("takes.json", takes) if takes else [])
        ]
        self.captures = [
            Recording(f"captures/{capture.capture_name}", capture.capture_uid, intern(capture.university_name or ""))
            for capture in of_captures
            if capture.capture_name and capture.capture_uid
        ]
        self.by_uid = {each.uid: each for each in (*self.captures, *self.takes)}
        self._by_folder = {each.folder: each for each in (*self.captures, *self.takes)}
        self._by_name = {take.name: take for take in self.takes}

    @property
    def universities(self) -> set[str]:
        """Their names, such as cmu."""
        return {each.university for each in self.by_uid.values() if each.university}

    def of(self, path: str) -> Recording | None:
        """The take or capture that a path of the tree belongs to: by its folder, or a name or uid in the path."""
        parts = path.split("/")
        if found := self._by_folder.get("/".join(parts[:2])):
            return found
        names = (self._by_name[part] for part in parts if part in self._by_name)
        uids = (self.by_uid[uid] for uid in UUID.findall(path) if uid in self.by_uid)
        return next(names, None) or next(uids, None)


class Splits:
    """The splits and benchmarks of takes, by uid."""

    def __init__(self, document: bytes | bytearray | None = None) -> None:
        """From splits.json. Raises CorruptData."""
        self.splits: dict[str, set[str]] = {}
        self.benchmarks: dict[str, set[str]] = {}
        if document:
            self.add(document)

    def add(self, document: bytes | bytearray) -> None:
        """What splits.json tells. Raises CorruptData."""
        try:
            told = _SPLITS.decode(document)
        except _NO_JSON as failure:
            raise CorruptData(f"splits.json cannot be understood: {failure}") from failure
        for uid, split in told.take_uid_to_split.items():
            self.tag(uid, _texts(split), None)
        for uid, benchmarks in told.take_uid_to_benchmark.items():
            self.tag(uid, None, _texts(benchmarks))

    def tag(self, uid: str, splits: Iterable[str] | None, benchmarks: Iterable[str] | None) -> None:
        """A take has these, where anything is known of them."""
        if splits is not None:
            self.splits.setdefault(uid, set()).update(map(intern, splits))
        if benchmarks is not None:
            self.benchmarks.setdefault(uid, set()).update(map(intern, benchmarks))


def links_by_meaning(takes: Iterable[Recording], splits: Splits) -> Iterator[tuple[str, Entry]]:
    """(folder, link) of all views by meaning of these takes."""
    none: set[str] = set()
    of: dict[str, Callable[[Recording], Iterable[str]]] = {
        "by-split": lambda take: splits.splits.get(take.uid, none),
        "by-task": lambda take: (take.task,),
        "by-university": lambda take: (take.university,),
        "by-benchmark": lambda take: splits.benchmarks.get(take.uid, none),
    }
    for take in takes:
        for by, values in of.items():
            for value in filter(None, map(_file_name, values(take))):
                yield f"{by}/{value}", Entry(take.name, Kind.LINK, target=f"../../{take.folder}")
        yield "by-uid", Entry(take.uid, Kind.LINK, target=f"../{take.folder}")


def _recording(take: _Take, cameras_of_capture: list[_Camera] | None) -> Recording:
    cameras = (take.capture and take.capture.cameras) or cameras_of_capture or []
    videos = {
        intern(camera): {stream: _base_name(each) for stream, each in streams.items() if each and each.relative_path}
        for camera, streams in (take.frame_aligned_videos or {}).items()
        if streams and camera not in _NO_CAMERAS
    }
    views = {intern(camera.cam_id): _EGO if _is_true(camera.is_ego) else _EXO for camera in cameras}
    for camera, streams in videos.items():
        views.setdefault(camera, _EGO if "rgb" in streams else _EXO)
    return Recording(
        f"takes/{take.take_name}",
        take.take_uid,
        intern(take.university_name or ""),
        intern(take.parent_task_name or ""),
        views,
        dict(_canonical_names(videos, views, take.best_exo)),
    )


def _canonical_names(
    videos: Mapping[str, Mapping[str, str]], views: Mapping[str, str], best_exo: object
) -> Iterator[tuple[str, str]]:
    ego = _ego_camera(views, videos)
    streams = videos[ego] if ego else {}
    if len(streams) == 1 and "rgb" not in streams:  # an ego camera that is no Aria has one nameless stream
        streams = {"rgb": next(iter(streams.values()))}
    yield from ((name, streams[stream]) for stream, name in _STREAMS.items() if stream in streams)
    exo = sorted((camera for camera in videos if views[camera] == _EXO and videos[camera]), key=_naturally)
    of_exo = {camera: next(iter(videos[camera].values())) for camera in exo}
    yield from ((f"exo{number}.mp4", of_exo[camera]) for number, camera in enumerate(exo, 1))
    if isinstance(best_exo, str) and best_exo in of_exo:
        yield "best_exo.mp4", of_exo[best_exo]


def _ego_camera(views: Mapping[str, str], videos: Collection[str]) -> str | None:
    """The official rule: of the cameras that say they are ego, if they are several those that have aligned videos, if
    they are several still those called aria. None where that leaves none, or more than one."""
    found = [camera for camera, view in views.items() if view == _EGO]
    if len(found) > 1:
        found = [camera for camera in found if camera in videos]
    if len(found) > 1:
        found = [camera for camera in found if "aria" in camera]
    return found[0] if len(found) == 1 and found[0] in videos else None


def _is_true(value: object) -> bool:
    """`is_ego` is a bool in some files, "True" in others."""
    return str(value).lower() in ("true", "1")


def _base_name(stream: _Stream) -> str:
    return intern((stream.relative_path or "").rpartition("/")[2])


def _naturally(name: str) -> list[tuple[int, str]]:
    """cam2 before cam10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _texts(value: object) -> list[str] | None:
    """A text, or a list of texts, as a list."""
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else None


def _file_name(text: str) -> str:
    """A text as the name of a folder; "" where there is none."""
    name = re.sub(r"[/\0]+", "-", text).strip()
    return "" if name in (".", "..") else name
