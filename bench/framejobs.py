"""The jobs of the frames benchmark: which frames are read, of which source, and what counts.

A row is measured for one system at a time. "Local" is a copy of the videos on this machine, which is in the page cache
for all alike; "S3" is the server of server.py. Each run has a new mount with a new cache.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import framedata, measure
from bench.framedata import FRAMES, GOP, HOUR, Kind
from bench.framememory import Watch
from bench.framesystems import EGOFS, FFMPEGFS, KEEPING, OWN, FrameSystem
from bench.server import Server, Traffic
from bench.stand import MB, Figure
from bench.systems import System, mounted
from vfs.video.index import read_index

TTFB_S, BYTES_PER_S = 0.020, 60 * MB

_DEADLINE_S = 120.0
_SETTLE_S = 1.0  # from a mount that answers to the first read: what it still loads is no part of what is measured
_KEPT_S = 3.0  # from the last read to the end of a mount whose cache is used again
_THREADS = 2
_TOUCHED_BYTES = 768 << 20  # what a mount and its reader use at most
_BLOCK_BYTES = 128 << 10  # of the cache: what an isolated read is rounded to
_GROUP, _STRIDE = 8, 30
_SAMPLES, _SAMPLE_FRAMES = 40, 8
_SMALL = 1000  # pixels across up to which a video decodes fast enough for larger counts
_MEMORY_FRAMES = 150
_AGAIN = 300

Asked = list[tuple[str, int]]


@dataclass(frozen=True)
class FrameStand:
    """Where a system is measured: the server, the folder of videos that it serves, and a folder for this run."""

    server: Server
    videos: Path
    folder: Path

    @contextmanager
    def base(self, system: FrameSystem, s3: bool, mount: System | None = None, cache: str = "") -> Iterator[Path]:
        """The directory in which the system finds videos or frames; nothing of it is at hand. `mount` stands for the
        system's own; a second mount with one `cache` finds what it kept."""
        with self.mount(mount or (system.store if s3 else system.local), s3, cache) as (directory, _):
            yield directory

    @contextmanager
    def mount(self, mount: System | None, s3: bool, cache: str = "") -> Iterator[tuple[Path, int]]:
        """The mount's directory and its daemon's process."""
        if mount is None:
            yield self.videos, 0
            return
        measure.drop_page_cache(_TOUCHED_BYTES)
        source = framedata.BUCKET if s3 else str(self.videos)
        with mounted(mount, self.server.url, source, self.folder / cache) as found:
            time.sleep(_SETTLE_S)
            self.server.traffic()
            yield found.directory, found.pid


@dataclass(frozen=True)
class Row:
    """One line of the report: its unit, how a system's figure is had, and which systems have one."""

    name: str
    unit: str
    run: Callable[[FrameStand, FrameSystem], Figure]
    takes: Callable[[FrameSystem], bool]


@dataclass(frozen=True)
class FrameJob:
    """A job and its lines."""

    name: str
    about: str
    lines: Sequence[Row]

    @property
    def rows(self) -> dict[str, str]:
        """Units by the lines' names, as report.py and chart.py take them."""
        return {line.name: line.unit for line in self.lines}


def _all(system: FrameSystem) -> bool:
    return True


def _of_store(system: FrameSystem) -> bool:
    return system.store is not None


def _ours(system: FrameSystem) -> bool:
    return system is EGOFS


def _takes(s3: bool) -> Callable[[FrameSystem], bool]:
    return _of_store if s3 else _all


def _where(system: FrameSystem, base: Path, videos: Sequence[str]) -> dict[str, str]:
    return {video: system.path(base, video) for video in videos}


def _read(do: str, how: str, where: dict[str, str], threads: int = _THREADS, **asked: object) -> dict[str, Any]:
    """What a job of framereaders.py tells. Raises MeasureFailed."""
    given = json.dumps({"do": do, "how": how, "where": where, "threads": threads, **asked})
    return measure.finish_read(measure.start([sys.executable, "-m", "bench.framereaders"], given), _DEADLINE_S)


def _dice(*what: object) -> random.Random:
    return random.Random(" ".join(map(str, what)))


def _figure(row: str, count: int, found: dict[str, Any], traffic: Traffic | None = None, **more: float) -> Figure:
    """Frames a second; a failure where one of them was wrong."""
    speed = count / found["s"]
    if found["wrong"]:
        failure = f"WRONG: {len(found['wrong'])} of {found['checked']} ({speed:.3g} 1/s); {found['wrong'][0]}"
        return Figure(row, failure=failure)
    return Figure(row, speed, traffic, more)


# ---- in order ----


def _in_order(kind: Kind, s3: bool) -> Row:
    row = f"in order {kind.name}{', S3' * s3}"

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        with stand.base(system, s3) as base:
            found = _read("in_order", system.how, _where(system, base, kind.videos[:1]))
            return _figure(row, FRAMES, found, stand.server.traffic() if s3 else None)

    return Row(row, "frames/s", run, _takes(s3))


# ---- single frames ----


def anywhere(kind: Kind) -> Asked:
    """Frames at random, of one video."""
    dice = _dice("anywhere", kind.name)
    return [(kind.videos[0], dice.randrange(FRAMES)) for _ in range(16 if kind.width > _SMALL else 40)]


def isolated(kind: Kind) -> Asked:
    """A frame somewhere in each GOP of each video, in random order: none helps with another."""
    dice = _dice("isolated", kind.name)
    found = [(video, start + dice.randrange(GOP)) for video in kind.videos for start in range(0, FRAMES, GOP)]
    dice.shuffle(found)
    return found


def strided(kind: Kind) -> Asked:
    """Every 30th."""
    return [(kind.videos[0], number) for number in range(0, FRAMES, _STRIDE)]


def grouped(kind: Kind) -> Asked:
    """Of each GOP of each video eight frames in rising order, the GOPs in random order."""
    dice = _dice("grouped", kind.name)
    gops = [(video, start) for video in kind.videos for start in range(0, FRAMES, GOP)]
    dice.shuffle(gops)
    return [(video, start + n) for video, start in gops for n in sorted(dice.sample(range(GOP), _GROUP))]


def _singly(name: str, kind: Kind, choose: Callable[[Kind], Asked], s3: bool) -> Row:
    row, asked = f"{name} {kind.name}{', S3' * s3}", choose(kind)
    videos = sorted({video for video, _ in asked})

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        with stand.base(system, s3) as base:
            where = _where(system, base, videos)
            before = _look(stand, system, where) if s3 else None
            found = _read("singly", system.how, where, asked=asked)
            if not s3:
                return _figure(row, len(asked), found)
            traffic = stand.server.traffic()
            more = _beside_need(stand, asked, traffic)
            if before:
                more["index MB"] = before.object_bytes / MB
            return _figure(row, len(asked), found, traffic, **more)

    return Row(row, "frames/s", run, _takes(s3))


def _look(stand: FrameStand, system: FrameSystem, where: dict[str, str]) -> Traffic | None:
    """Has a mount read the indices of these videos; what that cost. A library reads them when it opens a file."""
    if not system.is_mount:
        return None
    _read("look", system.how, where)
    return stand.server.traffic()


def _beside_need(stand: FrameStand, asked: Asked, traffic: Traffic) -> dict[str, float]:
    """What was fetched for these frames, beside what each needs: its packets from the keyframe on, in whole blocks."""
    blocks: set[tuple[str, int]] = set()
    for video in {video for video, _ in asked}:
        index = read_index(_Bytes(stand.videos / framedata.key(video)), video)
        for number in (number for each, number in asked if each == video):
            packet = int(index.shown[number])
            first = index.keyframe_before(packet)
            start = int(index.packet_offset[first])
            stop = int(np.max(index.packet_offset[first : packet + 1] + index.packet_size[first : packet + 1]))
            blocks |= {(video, block) for block in range(start // _BLOCK_BYTES, -(-stop // _BLOCK_BYTES))}
    needed = len(blocks) * _BLOCK_BYTES
    return {
        "fetched/needed": traffic.object_bytes / needed,
        "MB a frame": traffic.object_bytes / MB / len(asked),
        "requests a frame": traffic.gets / len(asked),
    }


class _Bytes:
    """A vfs.video ByteReader."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self.size_bytes = len(self._data)

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]


# ---- loaders ----


def _loaders(kind: Kind, one_video: bool, s3: bool) -> Row:
    row = f"4 loaders, {'1 video' if one_video else '4 videos'} {kind.name}{', S3' * s3}"
    each = 6 if kind.width > _SMALL else 16
    asked: list[Asked] = []
    for worker, video in enumerate(kind.videos):
        dice = _dice("loader", worker)
        asked.append([(kind.videos[0] if one_video else video, dice.randrange(FRAMES)) for _ in range(each)])

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        with stand.base(system, s3) as base:
            where = _where(system, base, kind.videos)
            found = _read("loaders", system.how, where, threads=1, asked=asked)
            return _figure(row, each * len(asked), found, stand.server.traffic() if s3 else None)

    return Row(row, "frames/s", run, _takes(s3))


def _train(kind: Kind, how: str, s3: bool) -> Row:
    """`how` "" is that of the system; else the mount is read in this way."""
    row = f"training loop{', clips' * (how == 'npy')} {kind.name}{', S3' * s3}"
    dice = _dice("train")
    asked = [(dice.choice(kind.videos), dice.randrange(FRAMES - _SAMPLE_FRAMES)) for _ in range(_SAMPLES)]

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        with stand.base(system, s3) as base:
            found = _read("train", how or system.how, _where(system, base, kind.videos), asked=asked)
            return _figure(row, _SAMPLES * _SAMPLE_FRAMES, found, stand.server.traffic() if s3 else None)

    others = set() if how or s3 else {"decord", "torchcodec"}
    return Row(row, "frames/s", run, lambda system: system is EGOFS or system.name in others)


# ---- again, the index alone, memory ----


def _again(kind: Kind, at_random: bool, s3: bool) -> Row:
    row = f"again, {'random' if at_random else 'in order'} {kind.name}{', S3' * s3}"

    def read(system: FrameSystem, base: Path) -> tuple[int, dict[str, Any]]:
        where = _where(system, base, kind.videos[:1])
        if at_random:
            asked = anywhere(kind)
            return len(asked), _read("singly", system.how, where, asked=asked)
        return _AGAIN, _read("in_order", system.how, where, stop=_AGAIN)

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        speeds = []
        mount = None if s3 else KEEPING
        for _ in range(2):
            with stand.base(system, s3, mount, cache="kept") as base:
                figure = _figure(row, *read(system, base), stand.server.traffic() if s3 else None)
                if figure.failure:
                    return figure
                speeds.append(figure.value)
                time.sleep(_KEPT_S)
        more = {"first, frames/s": speeds[0], "again, frames/s": speeds[1]}
        return Figure(row, speeds[1] / speeds[0], figure.traffic, more)

    return Row(row, "x", run, _ours)


def _index_of_hour() -> Row:
    row = "index of an hour, S3"

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        moov = framedata.moov_bytes(stand.videos / framedata.key(HOUR))
        with stand.base(system, s3=True) as base:
            measure.run(["ls", str(base)])
            stand.server.traffic()
            found = _read("look", system.how, _where(system, base, [HOUR]))
            traffic = stand.server.traffic()
        network_s = traffic.gets * TTFB_S + traffic.object_bytes / BYTES_PER_S
        more = {"all, s": found["s"], "bytes/moov": traffic.object_bytes / moov, "requests": traffic.gets}
        return Figure(row, found["s"] - network_s, traffic, more)

    return Row(row, "s", run, _ours)


def _memory(kind: Kind) -> Row:
    row = f"memory, 4 readers {kind.name}"

    def run(stand: FrameStand, system: FrameSystem) -> Figure:
        with stand.mount(system.local, s3=False) as (base, pid), Watch(pid) as watch:
            before = watch.look()
            asked = [[(video, number) for number in range(_MEMORY_FRAMES)] for video in kind.videos]
            found = _read("loaders", system.how, _where(system, base, kind.videos), threads=1, asked=asked)
            peak = watch.peak_bytes
        figure = _figure(row, len(asked) * _MEMORY_FRAMES, found)
        more = {"before": before / MB, "processes": float(watch.processes), "frames/s": figure.value}
        return Figure(row, peak / MB, None, more, figure.failure)

    return Row(row, "MB", run, lambda system: system in (EGOFS, FFMPEGFS))


# ---- all of them ----


def jobs(kinds: Sequence[Kind]) -> list[FrameJob]:
    """The jobs with their lines for these kinds of video."""
    colour = [kind for kind in kinds if not kind.gray]
    small = [kind for kind in kinds if kind.width <= _SMALL and not kind.gray]
    both = (False, True)
    found = [
        FrameJob("in_order", "every frame of a video", [_in_order(kind, s3) for s3 in both for kind in kinds]),
        FrameJob(
            "random",
            "frames at random: of one local video; of S3, one of each GOP of four videos, and what that fetched",
            [
                *(_singly("random", kind, anywhere, False) for kind in kinds),
                *(_singly("isolated", kind, isolated, True) for kind in kinds),
            ],
        ),
        FrameJob(
            "strided", "every 30th frame", [_singly("strided", kind, strided, s3) for s3 in both for kind in colour]
        ),
        FrameJob(
            "grouped",
            "8 rising frames of each GOP, GOPs in random order",
            [_singly("grouped", kind, grouped, s3) for s3 in both for kind in colour],
        ),
        FrameJob(
            "loaders",
            "4 processes that read random frames of 4 videos, and of one",
            [_loaders(kind, one, False) for kind in colour for one in both]
            + [_loaders(kind, one, True) for kind in small for one in both],
        ),
        FrameJob(
            "train",
            "torch's DataLoader with 2 workers, samples of 8 frames: by JPEG files, by .npy clips",
            [_train(kind, how, s3) for kind in small for s3 in both for how in ("", "npy")],
        ),
        FrameJob(
            "again",
            "the same frames in a new mount with the same cache, over the first reading",
            [_again(kind, at_random, s3) for kind in colour for s3 in both for at_random in both],
        ),
        FrameJob("index", "the index of an hour of video: seconds beyond the network", [_index_of_hour()]),
        FrameJob("memory", "of a mount's processes together", [_memory(kind) for kind in kinds if kind.width > _SMALL]),
    ]
    return [job for job in found if job.lines]


def over_own(figures: dict[tuple[str, str], Figure | None]) -> tuple[FrameJob, dict[tuple[str, str], Figure | None]]:
    """What the mount costs: frames in order through it over those of its own decoder in process."""
    found: dict[tuple[str, str], Figure | None] = {}
    for (row, name), ours in figures.items():
        own = figures.get((row, OWN.name))
        if name == EGOFS.name and own and own.value and ours and ours.value and row.startswith("in order"):
            line = f"mount/decoder, {row}"
            found[line, name] = Figure(line, ours.value / own.value)
    lines = [Row(line, "x", _never, _ours) for line, _ in found]
    return FrameJob("isolation", "frames in order: the mount over its own decoder in process", lines), found


def _never(stand: FrameStand, system: FrameSystem) -> Figure:
    raise AssertionError("made of other figures")
