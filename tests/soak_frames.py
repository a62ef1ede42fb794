"""Many reads of stamped videos through real mounts: no picture may show another number than its file's.

    python -m tests.soak_frames [--reads 100000] [--minutes M] [--seed N] [--videos FOLDER]

Makes the videos of matrix.py (in --videos, where it finds them the next time), and mounts their folder: locally, again
with what is cached then, without any cache, and as a bucket whose server fails one request in twenty. In each mount
several processes of several threads read pictures and clips in every order that readers have, in all formats, rates and
sizes; meanwhile decoders are killed. Each picture's number is compared with what matrix.py expects, its length with
st_size, and its bytes with those that the same name had before, in whatever mount and by whoever read it.

Prints its progress and a table; ends with status 1 where a picture was wrong or could not be had. Before each read the
kernel is asked to forget the file, and what then still came to the daemon and to its decoders is printed.
"""

import argparse
import hashlib
import io
import itertools
import multiprocessing as mp
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import cv2
import numpy as np
import simplejpeg

from tests import matrix
from tests.faults import Fault, HangUp, Status, Truncate
from tests.matrix import SUBJECTS, VARIANTS, Directory, Subject
from tests.mounting import Mount, mounted
from tests.s3server import Request, S3Server

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
PROCESSES = 2
THREADS = 4
# A video that a decoder died of is kept apart for 300 s: of all of them, more would be apart than not.
KILL_EVERY_S = 20.0
TELL_EVERY_S = 10.0
FAILING = 0.05
MOST_NAMED = 40
PIECE_BYTES = 48_000


@dataclass
class Tally:
    """What came of the reads of one video in one order."""

    files: int = 0
    pictures: int = 0
    wrong: int = 0
    errors: int = 0
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Told:
    """What a reader tells from time to time."""

    tallies: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    digests: dict[str, bytes] = field(default_factory=dict)
    compared: int = 0
    failures: list[str] = field(default_factory=list)


# -- which files, in which order


def orders(directory: Directory, draw: random.Random) -> tuple[str, list[int]]:
    """An order's name and the numbers that such a reader opens."""
    count = directory.count
    start = draw.randrange(1, count + 1)
    length = draw.randrange(16, 64)
    kind = draw.choice(("in order", "backwards", "strided", "by GOP", "shuffled", "samples of 8", "two at once"))
    if kind == "in order":
        numbers = list(range(start, start + length))
    elif kind == "backwards":
        numbers = list(range(start, start - length, -1))
    elif kind == "strided":
        numbers = list(range(start, start + 400, draw.choice((2, 3, 5, 7, 13, 30))))[:length]
    elif kind == "by GOP":
        rate = directory.fps or directory.subject.rate
        gop = max(4, min(64, int(directory.subject.gop * rate / directory.subject.rate)))
        begin = start // gop * gop + 1
        numbers = draw.sample(range(begin, begin + gop), gop)
    elif kind == "shuffled":
        numbers = [draw.randrange(1, count + 1) for _ in range(length // 2)]
    elif kind == "samples of 8":
        places = [draw.randrange(1, count + 1) for _ in range(4)]
        numbers = [place + n for place in places for n in range(8)]
    else:
        other = draw.randrange(1, count + 1)
        numbers = [number for n in range(length // 2) for number in (start + n, other + n)]
    return kind, [number for number in numbers if 1 <= number <= count]


# -- a reader


class Reader:
    """One thread that reads until enough was read by all of its process."""

    def __init__(self, root: Path, draws: list[random.Random], told: Told, lock: threading.Lock) -> None:
        self._root = root
        self._draws = draws
        self._told = told
        self._lock = lock
        self._directories: dict[tuple[str, str], Directory] = {}

    def session(self, turn: int) -> int:
        """One walk through one directory. Gives how many pictures were compared."""
        draw = self._draws[turn % len(self._draws)]
        subject, variant = draw.choice(SUBJECTS), draw.choice(VARIANTS)
        begun = time.monotonic()
        tally = Tally()
        kind = "listing"
        try:
            directory = self._directory(subject, variant)
            if draw.random() < 0.15:
                kind = "clips"
                self._clip(directory, draw, tally)
            else:
                kind, numbers = orders(directory, draw)
                for number in numbers:
                    self._picture(directory, number, tally)
        except (OSError, AssertionError) as failure:
            tally.errors += 1
            self._fail(f"{variant}/{subject.view}: {type(failure).__name__}: {failure}")
        tally.seconds = time.monotonic() - begun
        with self._lock:
            self._told.tallies[subject.name, kind].add(tally)
        return tally.pictures + tally.errors

    def _directory(self, subject: Subject, variant: str) -> Directory:
        directory = self._directories.get((subject.name, variant))
        if directory is None:
            directory = self._directories[subject.name, variant] = Directory(self._root, subject, variant)
        return directory

    def _picture(self, directory: Directory, number: int, tally: Tally) -> None:
        file = f"{number:06d}.{directory.suffix}"
        data = self._bytes(directory, file, tally)
        if data is None:
            return
        tally.pictures += 1
        self._judge(directory, file, decoded(data, directory.suffix), directory.expected(number), tally)

    def _clip(self, directory: Directory, draw: random.Random, tally: Tally) -> None:
        step = draw.choice((1, 1, 2, 5))
        start = draw.randrange(1, directory.count + 1)
        stop = min(start + step * draw.randrange(1, 24), directory.count + 1)
        file = f"{start}-{stop}.npy" if step == 1 else f"{start}-{stop}-{step}.npy"
        data = self._bytes(directory, file, tally, draw.choice((None, draw)))
        if data is None:
            return
        for number, picture in zip(range(start, stop, step), np.load(io.BytesIO(data)), strict=True):
            tally.pictures += 1
            self._judge(directory, f"{file} at {number}", lambda p=picture: p, directory.expected(number), tally)

    def _bytes(self, directory: Directory, file: str, tally: Tally, draw: random.Random | None = None) -> bytes | None:
        """The file's bytes, of the length that stat gave and the same as ever. With `draw` its pieces are read in any
        order."""
        name = f"{directory.name}/{file}"
        tally.files += 1
        try:
            data, told_bytes = _read(directory.path / file, draw)
        except OSError as failure:
            tally.errors += 1
            self._fail(f"{name}: {failure.strerror}")
            return None
        if len(data) != told_bytes:
            tally.wrong += 1
            self._fail(f"{name}: {len(data)} bytes, and stat says {told_bytes}")
        digest = hashlib.blake2b(data, digest_size=8).digest()
        with self._lock:
            before = self._told.digests.setdefault(name, digest)
            self._told.compared += before is not digest
        if before != digest:
            tally.wrong += 1
            self._fail(f"{name}: other bytes than before")
        return data

    def _judge(
        self, directory: Directory, file: str, picture: Callable[[], Any], expected: set[int], tally: Tally
    ) -> None:
        try:
            shown: object = directory.subject.number_in(picture(), cropped=directory.cropped)
        except ValueError as failure:
            shown = failure
        if shown not in expected:
            tally.wrong += 1
            self._fail(f"{directory.name}/{file}: shows {shown}, not {' or '.join(map(str, sorted(expected)))}")

    def _fail(self, words: str) -> None:
        with self._lock:
            self._told.failures.append(f"{time.strftime('%H:%M:%S')} {words}")


def _read(path: Path, draw: random.Random | None) -> tuple[bytes, int]:
    """A file's bytes and what stat said of their number. The kernel forgets its pages before, as far as it likes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        told_bytes = os.fstat(descriptor).st_size
        if draw is not None:
            places = range(0, told_bytes, PIECE_BYTES)
            pieces = {at: os.pread(descriptor, PIECE_BYTES, at) for at in draw.sample(places, len(places))}
            return b"".join(pieces[at] for at in places), told_bytes
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts), told_bytes
    finally:
        os.close(descriptor)


def decoded(data: bytes, suffix: str) -> Callable[[], Any]:
    """What a file of that format shows. Raises ValueError where it is none."""
    if suffix == "jpg":
        return lambda: simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
    if suffix == "npy":
        return lambda: np.load(io.BytesIO(data))
    return lambda: _by_opencv(data)


def _by_opencv(data: bytes) -> Any:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("OpenCV cannot read it")
    return picture


def read_for(root: Path, seeds: list[str], quota: int, until: float, queue: "mp.Queue[tuple[Told, bool]]") -> None:
    """A process of readers: reads so many pictures, or until that time, and tells what came of it."""
    told, lock = Told(), threading.Lock()
    left = quota

    def work(thread: int) -> None:
        nonlocal left
        reader = Reader(root, [random.Random(f"{seed} {thread}") for seed in seeds], told, lock)
        for turn in itertools.count():
            if left <= 0 or time.monotonic() > until:
                return
            pictures = reader.session(turn)
            with lock:
                left -= pictures

    with ThreadPoolExecutor(THREADS) as pool:
        readers = [pool.submit(work, thread) for thread in range(THREADS)]
        while wait(readers, timeout=1.0).not_done:
            queue.put((_handed_over(told, lock), False))
    told.failures += [f"a reader ended: {reader.exception()!r}" for reader in readers if reader.exception()]
    last = _handed_over(told, lock)
    last.digests = told.digests
    queue.put((last, True))


def _handed_over(told: Told, lock: threading.Lock) -> Told:
    """What has come since the last time, but for the digests, which the readers go on comparing with."""
    with lock:
        part = Told(dict(told.tallies), {}, told.compared, list(told.failures))
        told.tallies.clear()
        told.failures.clear()
        told.compared = 0
        return part


# -- the soak


class Soak:
    """All mounts, one after the other, and what was found in them."""

    def __init__(self, seed: str, reads: int, most_s: float) -> None:
        self._seed = seed
        self._reads = reads
        self._most_s = most_s
        self.tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self.failures: list[str] = []
        self.reached: dict[str, Counter[str]] = {}
        self._digests: dict[str, bytes] = {}
        self.compared = 0
        self.kills = 0

    def run(self, what: str, mount: Mount, share: float) -> None:
        """Reads a share of all through this mount."""
        context = mp.get_context("spawn")
        queue: mp.Queue[tuple[Told, bool]] = context.Queue()
        quota = int(self._reads * share / PROCESSES)
        # Every other walk is the same in all mounts, so that the same names are read again.
        seeds = [[f"{self._seed} {n} always", f"{self._seed} {n} {what}"] for n in range(PROCESSES)]
        until = time.monotonic() + self._most_s * share
        readers = [
            context.Process(target=read_for, args=(mount.directory, each, quota, until, queue)) for each in seeds
        ]
        for reader in readers:
            reader.start()
        self._follow(what, mount, queue)
        for reader in readers:
            reader.join()
        status = mount.status()
        self.reached[what] = Counter(
            reads=status["asked"]["reads"],
            made=status["frames_made"],
            from_disk=status["frames_from_disk"],
            restarts=status["decoders"]["restarts"],
            bugs=status["asked"].get("bugs", 0),
        )

    def _follow(self, what: str, mount: Mount, queue: "mp.Queue[tuple[Told, bool]]") -> None:
        running, begun = PROCESSES, time.monotonic()
        pictures, next_kill, next_word = 0, begun + KILL_EVERY_S, begun
        while running:
            try:
                told, last = queue.get(timeout=60)
            except Empty:
                self.failures.append(f"{what}: no reader has said anything for 60 s")
                return
            running -= last
            pictures += sum(tally.pictures for tally in told.tallies.values())
            self._take(what, told)
            now = time.monotonic()
            if now > next_kill:
                next_kill = now + KILL_EVERY_S
                self._kill_decoder(mount)
            if now > next_word:
                next_word = now + TELL_EVERY_S
                _say(f"{what}: {pictures} pictures, {pictures / (now - begun):.0f}/s, {len(self.failures)} failures")

    def _take(self, what: str, told: Told) -> None:
        for key, tally in told.tallies.items():
            self.tallies[key].add(tally)
        self.compared += told.compared
        for words in told.failures:
            self.failures.append(f"{what}: {words}")
            if len(self.failures) <= MOST_NAMED:
                _say(self.failures[-1])
        for name, digest in told.digests.items():
            before = self._digests.setdefault(name, digest)
            self.compared += before is not digest
            if before != digest:
                self.failures.append(f"{what}: {name}: other bytes than in a mount before, or for another reader")
                _say(self.failures[-1])

    def _kill_decoder(self, mount: Mount) -> None:
        """The first one listed works for all; the last may be that for videos which a decoder died of, whose frame at
        hand fails if that dies too. It stands first only while the other is being started."""
        before = mount.status()["decoders"]["pids"]
        time.sleep(0.5)
        pids = mount.status()["decoders"]["pids"]
        if pids and pids[:1] == before[:1]:
            os.kill(pids[0], signal.SIGKILL)
            self.kills += 1

    def report(self) -> None:
        """The table, and what reached the daemon."""
        print(f"\n{'video':28} {'order':14} {'files':>7} {'pictures':>8} {'wrong':>6} {'errors':>6} {'files/s':>8}")
        by_order: dict[str, Tally] = defaultdict(Tally)
        total = Tally()
        for (video, order), tally in sorted(self.tallies.items()):
            _row(video, order, tally)
            by_order[order].add(tally)
            total.add(tally)
        for order, tally in sorted(by_order.items()):
            _row("all", order, tally)
        _row("all", "all", total)
        for what, counts in self.reached.items():
            print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        print(f"{self.compared} files had the bytes that they had before; {self.kills} decoders were killed")
        for words in self.failures[:MOST_NAMED]:
            print(words)
        print(
            f"{total.wrong} wrong and {total.errors} errors in {total.pictures} pictures; {len(self.failures)} failures"
        )


def _row(video: str, order: str, tally: Tally) -> None:
    speed = tally.files / tally.seconds if tally.seconds else 0.0
    counts = f"{tally.files:7} {tally.pictures:8} {tally.wrong:6} {tally.errors:6} {speed:8.1f}"
    print(f"{video:28} {order:14} {counts}")


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _failing(seed: str) -> Callable[[Request], Fault | None]:
    """A server's mood: one request in twenty fails."""
    draw = random.Random(f"{seed} server")
    faults = itertools.cycle((Status(503, "SlowDown"), HangUp(), Status(500), Truncate(500)))
    return lambda request: next(faults) if draw.random() < FAILING else None


def _mounts(work: Path, videos: Path, seed: str) -> Iterator[tuple[str, float, Callable[[ExitStack], Mount]]]:
    """Each mount's name, its share of the reads, and how it is made."""

    def local(cache: str, *options: str) -> Callable[[ExitStack], Mount]:
        return lambda stack: stack.enter_context(mounted(videos, work / "m", *options, cache=work / cache))

    def remote(stack: ExitStack) -> Mount:
        server = stack.enter_context(S3Server(work / "store"))
        server.faults = _failing(seed)
        options = (f"endpoint_url={server.endpoint_url}",)
        return stack.enter_context(mounted("s3://bucket", work / "m", *options, cache=work / "c3", env=ENV))

    (work / "store").mkdir()
    (work / "store/bucket").symlink_to(videos)
    yield "local", 0.4, local("c1")
    yield "local, again", 0.15, local("c1")
    yield "no cache", 0.15, local("c2", "cache=off")
    yield "failing bucket", 0.2, remote
    yield "failing bucket, again", 0.1, remote


def main() -> int:
    """Status 0 where every picture was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_frames")
    parser.add_argument("--reads", type=int, default=100_000, help="pictures to compare")
    parser.add_argument("--minutes", type=float, default=1e6, help="at most so long")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--videos", type=Path, help="folder to keep the videos in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        work = Path(folder)
        videos = (asked.videos or work / "videos").absolute()
        videos.mkdir(parents=True, exist_ok=True)
        _say(f"making {len(SUBJECTS)} videos in {videos}")
        matrix.write_all(videos)
        soak = Soak(asked.seed, asked.reads, 60 * asked.minutes)
        for what, share, make in _mounts(work, videos, asked.seed):
            with ExitStack() as stack:
                soak.run(what, make(stack), share)
    soak.report()
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
