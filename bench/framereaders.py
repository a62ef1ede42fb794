"""Reads frames as programs do, in a process of its own; prints what it took as JSON.

    echo '{"do": "in_order", "how": "pyav", "where": {VIDEO: PATH}, …}' | python -m bench.framereaders

`how` is a library of framelibraries.py. Libraries are imported before the clock starts; opening a video and reading
its index belong to what is timed. Every frame that was asked for singly is kept and its number read afterwards; of
those in order, one in fifty.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bench import framelibraries
from bench.framedata import FRAMES

_ENCODERS = 2  # threads that write JPEG beside the one that decodes
_UNDER_WAY = 4 * _ENCODERS  # frames decoded and not yet encoded, at most
_CHECKED = 50  # of frames in order, one in so many
_SAMPLE_FRAMES = 8
_WORKERS = 2
_BATCH = 4

Asked = list[tuple[str, int]]  # video, frame


def in_order(how: str, where: dict[str, str], threads: int, stop: int = FRAMES) -> dict[str, Any]:
    """The frames of one video up to `stop`, each as JPEG: seconds."""
    ((video, path),) = where.items()
    began = time.perf_counter()
    if how == "files":
        subprocess.run(["cat", *_names(path, stop)], stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        frames = framelibraries.open_frames(how, path, threads)
        kept: Iterable[tuple[int, Any]] = ((number, frames.frame(number)) for number in range(0, stop, _CHECKED))
    else:
        kept = list(_encoded(framelibraries.open_frames(how, path, threads), stop))
        seconds = time.perf_counter() - began
    return {"s": seconds, **_checked((video, number, frame) for number, frame in kept)}


def _names(folder: str, stop: int) -> list[str]:
    return [f"{folder}/{number + 1:06d}.jpg" for number in range(stop)]


def _encoded(frames: framelibraries.Frames, stop: int) -> Iterator[tuple[int, bytes]]:
    """(number, JPEG) of every frame to be checked; the others are encoded too."""
    under_way: deque[tuple[int, Future[bytes]]] = deque()
    count = 0
    with ThreadPoolExecutor(_ENCODERS) as pool:
        for number, frame in enumerate(frames.in_order()):
            if number == stop:
                break
            count += 1
            under_way.append((number, pool.submit(frames.jpeg, frame)))
            if len(under_way) > _UNDER_WAY:
                yield from _if_checked(*under_way.popleft())
        for each in under_way:
            yield from _if_checked(*each)
    if count != stop:
        raise ValueError(f"{count} frames came in place of {stop}")


def _if_checked(number: int, encoding: "Future[bytes]") -> Iterator[tuple[int, bytes]]:
    jpeg = encoding.result()
    if number % _CHECKED == 0:
        yield number, jpeg


def singly(how: str, where: dict[str, str], threads: int, asked: Asked) -> dict[str, Any]:
    """Frames one after the other: seconds for all."""
    began = time.perf_counter()
    kept = list(_singly(how, where, threads, asked))
    return {"s": time.perf_counter() - began, **_checked(kept)}


def _singly(how: str, where: dict[str, str], threads: int, asked: Asked) -> Iterator[tuple[str, int, Any]]:
    opened: dict[str, framelibraries.Frames] = {}
    for video, number in asked:
        if video not in opened:
            opened[video] = framelibraries.open_frames(how, where[video], threads)
        yield video, number, opened[video].frame(number)


def loaders(how: str, where: dict[str, str], threads: int, asked: list[Asked]) -> dict[str, Any]:
    """A process for each list of frames, all from one moment on: seconds until the last has ended."""
    begin = time.monotonic() + 0.3
    with multiprocessing.get_context("fork").Pool(len(asked)) as pool:
        given = [(how, where, threads, mine, begin) for mine in asked]
        found = pool.starmap(_loader, given, chunksize=1)
    return {
        "s": max(at for at, _ in found) - begin,
        "checked": sum(each["checked"] for _, each in found),
        "wrong": [text for _, each in found for text in each["wrong"]],
    }


def _loader(how: str, where: dict[str, str], threads: int, asked: Asked, begin: float) -> tuple[float, dict[str, Any]]:
    time.sleep(max(0.0, begin - time.monotonic()))
    kept = list(_singly(how, where, threads, asked))
    return time.monotonic(), _checked(kept)


def train(how: str, where: dict[str, str], threads: int, asked: Asked) -> dict[str, Any]:
    """Samples of 8 consecutive frames through torch's DataLoader: seconds from its start to the last batch."""
    from torch.utils.data import DataLoader

    loader = DataLoader(_Samples(how, where, asked), batch_size=_BATCH, num_workers=_WORKERS)
    kept: list[tuple[str, int, Any]] = []
    began = time.perf_counter()
    for places, clips in loader:
        for place, clip in zip(places.tolist(), clips, strict=True):
            video, start = asked[place]
            kept += [(video, start + step, clip[step].numpy().copy()) for step in (0, _SAMPLE_FRAMES - 1)]
    return {"s": time.perf_counter() - began, **_checked(kept)}


class _Samples:
    """A data set for torch: (its number, 8 frames of it)."""

    def __init__(self, how: str, where: dict[str, str], asked: Asked) -> None:
        self._how, self._where, self._asked = how, where, asked
        self._opened: dict[str, Any] = {}  # each worker's own, filled after the fork

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, place: int) -> tuple[int, Any]:
        video, start = self._asked[place]
        return place, _CLIPS[self._how](self, video, start, start + _SAMPLE_FRAMES)

    def from_files(self, video: str, start: int, stop: int) -> Any:
        import numpy as np
        import simplejpeg

        frames = self._open("files", video)
        return np.stack([simplejpeg.decode_jpeg(frames.frame(number)) for number in range(start, stop)])

    def from_npy(self, video: str, start: int, stop: int) -> Any:
        import numpy as np

        return np.load(f"{self._where[video]}/{start + 1}-{stop + 1}.npy")  # files count from 1

    def from_library(self, video: str, start: int, stop: int) -> Any:
        return self._open(self._how, video).clip(start, stop)

    def _open(self, how: str, video: str) -> Any:
        if video not in self._opened:
            self._opened[video] = framelibraries.open_frames(how, self._where[video], threads=1)
        return self._opened[video]


_CLIPS: dict[str, Callable[[_Samples, str, int, int], Any]] = {
    "files": _Samples.from_files,
    "npy": _Samples.from_npy,
    "decord": _Samples.from_library,
    "torchcodec": _Samples.from_library,
}


def look(how: str, where: dict[str, str], threads: int) -> dict[str, Any]:
    """The size of each video's first frame, which a mount knows from the video's index: seconds for all."""
    began = time.perf_counter()
    sizes = [os.stat(name).st_size for path in where.values() for name in _names(path, 1)]
    return {"s": time.perf_counter() - began, "sizes": sizes, "checked": 0, "wrong": []}


def _checked(kept: Iterable[tuple[str, int, Any]]) -> dict[str, Any]:
    """How many frames were looked at, and what is wrong with those that are not what was asked for."""
    found = [framelibraries.wrong(*each) for each in kept]
    return {"checked": len(found), "wrong": [text for text in found if text]}


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "in_order": in_order,
    "singly": singly,
    "loaders": loaders,
    "train": train,
    "look": look,
}

if __name__ == "__main__":
    given = json.load(sys.stdin)
    framelibraries.load("files" if given["how"] == "npy" else given["how"])
    json.dump(_JOBS[given.pop("do")](**given), sys.stdout)
