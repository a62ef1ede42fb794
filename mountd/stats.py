"""Statistics of mounted videos: which frame files each has, told by its header alone.

    {"<recording>": {"<view>": [first, last + 1]}}        numbers of frame files, half-open: what training code clips
                                                          its spans to

Hides the walk and its threads. Called by `egofs stats`; reads a mount of another process through the kernel, so that it
must never run in the daemon. No frame is listed or decoded: a frames directory tells its first and last number as
extended attributes. A recording is what the videos' attributes say, else the folder's path in the mount; a view is the
video's own name, never a link to it. One thread calls; others are its own.
"""

import csv
import errno
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mountd.mounts import MountRefused
from vfs.datasets.assembly101 import GROUPS
from vfs.errors import OptionError

Stats = dict[str, dict[str, list[int]]]
_T = TypeVar("_T")

_FRAMES = "frames"
_PREFIX = "user.egofs."
_RECORDINGS = "recordings"
_HAVE_RECORDINGS = {"assembly101", "demo"}
"""Datasets whose videos all stand in `recordings`: nothing else is walked through, which would list every archive."""
_PICKLE_PROTOCOL = 2  # that of the statistics which training repositories carry


@dataclass(frozen=True)
class Video:
    """A directory of frames."""

    recording: str
    view: str
    path: Path


@dataclass(frozen=True)
class Failure:
    """What could not be read, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class _Folder:
    """What stands in a folder. `canonical` has the names that are links to a video beside them, by that video's."""

    folders: list[Path]
    videos: list[Video]
    canonical: dict[str, list[str]]


def top_of(directory: Path, dataset: str) -> Path:
    """Where to begin, if a person names a folder of a mount."""
    recordings = directory / _RECORDINGS
    return recordings if dataset in _HAVE_RECORDINGS and recordings.is_dir() else directory


def find(top: Path, mountpoint: Path, views: tuple[str, ...], jobs: int) -> tuple[list[Video], list[Failure]]:
    """The videos at or below a folder, and the folders that could not be listed; links are not followed.

    `views` are names of videos, canonical ones too, and of Assembly101's groups of views; none means all. Raises
    OptionError for one that no video has.
    """
    wanted = {view: set(GROUPS.get(view, (view,))) for view in views if view != "all"}
    found: list[Video] = []
    failures: list[Failure] = []
    met: set[str] = set()
    level = [top]
    with ThreadPoolExecutor(jobs, thread_name_prefix="list") as threads:
        while level:
            listed = list(threads.map(lambda folder: _tried(folder, lambda: _list(folder, mountpoint)), level))
            failures += [each for each in listed if isinstance(each, Failure)]
            folders = [each for each in listed if isinstance(each, _Folder)]
            for folder in folders:
                for video in folder.videos:
                    names = {video.view, *folder.canonical.get(video.view, ())}
                    asked = [view for view, meant in wanted.items() if names & meant]
                    met.update(asked)
                    if asked or not wanted:
                        found.append(video)
            level = [below for folder in folders for below in folder.folders]
    if not failures and (unmet := sorted(wanted.keys() - met)):
        raise OptionError(f"views={unmet[0]}: no video below {top} has that name")
    return found, failures


def measured(videos: Iterable[Video], jobs: int) -> Iterator[tuple[Video, list[int] | Failure | None]]:
    """Each video with the number of its first frame file and the number after the last, in order; None for what is no
    directory of frames. Raises MountRefused where the mount is gone."""
    with ThreadPoolExecutor(jobs, thread_name_prefix="stats") as threads:
        asked = [(video, threads.submit(_tried, video.path, lambda v=video: _numbers(v.path))) for video in videos]
        try:
            for video, answer in asked:
                yield video, answer.result()
        finally:
            threads.shutdown(cancel_futures=True)


def gather(answers: Iterable[tuple[Video, list[int] | Failure | None]]) -> tuple[Stats, list[Failure]]:
    """The statistics, with what could not be read."""
    stats: Stats = {}
    failures = []
    for video, answer in answers:
        if isinstance(answer, Failure):
            failures.append(answer)
        elif answer is not None and video.view in stats.get(video.recording, {}):
            failures.append(Failure(video.path, f"{video.recording} has a {video.view} in another folder too"))
        elif answer is not None:
            stats.setdefault(video.recording, {})[video.view] = answer
    return {recording: dict(sorted(stats[recording].items())) for recording in sorted(stats)}, failures


def _list(folder: Path, mountpoint: Path) -> _Folder:
    folders: list[Path] = []
    files: list[Path] = []
    links: dict[str, str] = {}
    has_frames = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                links[entry.name] = os.readlink(entry.path)
            elif entry.is_file(follow_symlinks=False):
                files.append(folder / entry.name)
            elif entry.name == _FRAMES:
                has_frames = True
            elif entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
    if not has_frames:
        return _Folder(folders, [], {})
    # A view is a file's name without its suffix; with it, where several files would have the same. (A link without any
    # leads to a view itself: to the part of a video that Ego4D's clips are.)
    linked = {name for link in links if _stem(link) != link for name in (link, _stem(link))}
    linked -= {_stem(file.name) for file in files}
    views = sorted(set(os.listdir(folder / _FRAMES)) - linked)
    canonical: dict[str, list[str]] = {}
    for link, target in links.items():
        if "/" not in target:
            canonical.setdefault(_stem(target), []).append(_stem(link))
    recording = _recording_of(folder, mountpoint, files)
    return _Folder(folders, [Video(recording, view, folder / _FRAMES / view) for view in views], canonical)


def _recording_of(folder: Path, mountpoint: Path, files: list[Path]) -> str:
    """The name that all files of the folder tell, or else the folder's."""
    try:
        return os.fsdecode(os.getxattr(files[0], f"{_PREFIX}recording"))
    except IndexError:  # parts of other folders' videos
        return str(folder.relative_to(mountpoint))
    except OSError as failure:
        if failure.errno != errno.ENODATA:
            raise
        return str(folder.relative_to(mountpoint))


def _numbers(path: Path) -> list[int] | None:
    try:
        return [int(os.getxattr(path, f"{_PREFIX}first")), int(os.getxattr(path, f"{_PREFIX}last")) + 1]
    except OSError as failure:
        if failure.errno == errno.ENODATA:  # a folder of the dataset's own that is called frames
            return None
        raise


def _tried(path: Path, ask: Callable[[], _T]) -> _T | Failure:
    """What is asked for, or why it cannot be had."""
    try:
        return ask()
    except OSError as failure:
        if failure.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise MountRefused(f"{path}: the mount is gone: {failure.strerror}") from failure
        return Failure(path, failure.strerror or str(failure))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


class Result:
    """Where the statistics go: a file that is there when it is whole, or standard output. To be entered with `with`.

    Raises OptionError, before anything is measured, where the file cannot be.
    """

    def __init__(self, file: Path | None) -> None:
        self.place = file
        """Where what was written is; None for standard output."""
        self._file = file
        self._partial = file and file.with_name(f"{file.name}.partial")

    def __enter__(self) -> "Result":
        if self._file is not None and self._partial is not None:
            if self._file.is_dir():
                raise OptionError(f"{self._file}: a folder is there: give the name of a file")
            with _refused(self._partial):
                self._partial.touch()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._partial is not None and self.place != self._partial:
            self._partial.unlink(missing_ok=True)

    def write(self, data: bytes, *, whole: bool) -> None:
        """What is not whole goes into a file beside, whose name says so, and no file is replaced by it."""
        if self._file is None or self._partial is None:
            sys.stdout.buffer.write(data)
            return
        with _refused(self._partial):
            self._partial.write_bytes(data)
            if whole:
                self._partial.rename(self._file)
        self.place = self._file if whole else self._partial


@contextmanager
def _refused(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise OptionError(f"{file}: {failure.strerror}: choose another place with -O") from failure


def as_bytes(stats: Stats, form: str) -> bytes:
    """The statistics as a file has them: `pickle`, `json` or `csv`."""
    if form == "pickle":
        return pickle.dumps(stats, _PICKLE_PROTOCOL)
    if form == "json":
        lines = ",\n".join(f"{json.dumps(recording)}: {json.dumps(views)}" for recording, views in stats.items())
        return f"{{\n{lines}\n}}\n".encode()
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("recording", "view", "first", "stop"))
    rows.writerows((recording, view, *span) for recording, views in stats.items() for view, span in views.items())
    return text.getvalue().encode(errors="surrogateescape")


def form_of(file: Path | None) -> str:
    """The form that a file's suffix says; JSON if it says none."""
    return {".pkl": "pickle", ".pickle": "pickle", ".csv": "csv"}.get(file.suffix if file else "", "json")
