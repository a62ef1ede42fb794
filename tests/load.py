"""Many readers, few descriptors, and long use: what a daemon holds while it is used hard.

Called by the tests in short and by the long run (tests/reliability.py) at length. Readers are threads of processes of
their own, as programs are: `python -m tests.load ROOT READERS SEED` is one such process.
"""

import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mounting import Mount, mounted, wait_until
from tests.s3server import S3Server

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
FILE_BYTES = (2 << 20) + 11
_READERS_A_PROCESS = 250


def content(name: str) -> bytes:
    """What a file of that name holds."""
    return random.Random(name).randbytes(FILE_BYTES)


@contextmanager
def of_files(work: Path, count: int, *options: str, descriptors: int = 65_536) -> Iterator[tuple[Mount, S3Server]]:
    """A bucket of so many files, mounted by a daemon that may have so many descriptors."""
    folder = work / "store/bucket/d"
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}").write_bytes(content(str(n)))
    own, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What is raised is the test's own need: it serves a connection to each reader.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65_536, hard), hard))
    with S3Server(work / "store") as server:
        command = ["prlimit", f"--nofile={min(descriptors, hard)}", sys.executable, "-m", "mountd"]
        settings = (f"endpoint_url={server.endpoint_url}", *options)
        try:
            with mounted("s3://bucket", work / "m", *settings, cache=work / "c", env=ENV, command=command) as mount:
                yield mount, server
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (own, hard))


@dataclass
class Crowd:
    """What came of many readers at once."""

    readers: int
    descriptors: int
    wrong: int
    errors: int
    seconds: float
    most_held: int
    """Descriptors that the daemon had at most."""


def crowd(work: Path, readers: int, descriptors: int, files: int = 40) -> Crowd:
    """Has so many readers each open a file, read at three places, and compare, all at once."""
    with of_files(work, files, descriptors=descriptors) as (mount, _):
        pid, held = mount.pid, [0]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                held[0] = max(held[0], len(os.listdir(f"/proc/{pid}/fd")))

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.monotonic()
        parts = [min(_READERS_A_PROCESS, readers - at) for at in range(0, readers, _READERS_A_PROCESS)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.load", str(mount.directory), str(part), str(n), str(files)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n, part in enumerate(parts)
        ]
        told: Counter[str] = Counter()
        for process in processes:
            told.update(dict(zip(("wrong", "errors"), map(int, process.communicate()[0].split()), strict=True)))
        seconds = time.monotonic() - began
        over.set()
        watcher.join()
    return Crowd(readers, descriptors, told["wrong"], told["errors"], seconds, held[0])


def _read_as_crowd(root: Path, readers: int, seed: str, files: int) -> tuple[int, int]:
    """How many of the readers of this process got wrong bytes, and how many an error."""
    told: Counter[str] = Counter()
    start = threading.Barrier(readers)
    contents = {str(n): content(str(n)) for n in range(files)}

    def read(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        name = str(draw.randrange(files))
        start.wait()
        try:
            descriptor = os.open(root / "d" / name, os.O_RDONLY)
            for _ in range(3):
                at = draw.randrange(FILE_BYTES)
                right = contents[name][at : at + 50_000]
                data = os.pread(descriptor, 50_000, at)
                told["wrong"] += data != right
            os.close(descriptor)
        except OSError:
            told["errors"] += 1

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told["wrong"], told["errors"]


# -- long use


@dataclass
class Sample:
    """What a daemon held at one moment."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int


@dataclass
class Grown:
    """What long use did to a daemon. Inodes are those left after the kernel was asked to forget all of them."""

    operations: int = 0
    remounts: int = 0
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    inodes: int = 0
    idle: Sample | None = None

    @property
    def slope_mib_an_hour(self) -> float:
        """Of resident memory, by least squares over the second half, which begins when all caches are full."""
        some = self.samples[len(self.samples) // 2 :]
        if len(some) < 3:
            return 0.0
        mean_t = sum(each.at_s for each in some) / len(some)
        mean_m = sum(each.rss_mib for each in some) / len(some)
        above = sum((each.at_s - mean_t) * (each.rss_mib - mean_m) for each in some)
        below = sum((each.at_s - mean_t) ** 2 for each in some)
        return 3600 * above / below if below else 0.0


def held(pid: int, began: float) -> Sample:
    """What a process holds now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    rss_mib = int(status["VmRSS"].split()[0]) / 1024
    return Sample(time.monotonic() - began, rss_mib, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))


def compressed(work: Path, seed: str, seconds: float, *, files: int = 60, remounts: int = 3) -> Grown:
    """Random reads, seeks and listings for so long in one mount; before that, some mounts of the same cache."""
    grown = Grown()
    options = ("cache_size=64M", "listing_age=1")
    with of_files(work, files, *options) as (mount, server):
        for n in range(400):
            (work / f"store/bucket/d/small{n}").write_bytes(b"x" * n)
        for n in range(remounts):
            url = f"endpoint_url={server.endpoint_url}"
            with mounted("s3://bucket", work / "again", url, *options, cache=work / "c", env=ENV) as again:
                grown.operations += _use(again, random.Random(f"{seed} {n}"), time.monotonic() + 1.0, files)
                grown.remounts += 1
        pid, began = mount.pid, time.monotonic()
        draw = random.Random(f"{seed} long")
        while time.monotonic() < began + seconds:
            grown.operations += _use(mount, draw, time.monotonic() + 2.0, files)
            server.requests.clear()
            grown.samples.append(held(pid, began))
        grown.seconds = time.monotonic() - began
        grown.inodes = _inodes_left(mount)
        grown.idle = _at_rest(pid, began)
    return grown


def _use(mount: Mount, draw: random.Random, until: float, files: int) -> int:
    """Uses a mount as programs do. Raises AssertionError for a wrong byte."""
    done = 0
    while time.monotonic() < until:
        name = str(draw.randrange(files))
        right = _contents(name)
        with (mount / f"d/{name}").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(draw.randrange(1, 12)):
                at = draw.randrange(FILE_BYTES)
                file.seek(at)
                assert file.read(40_000) == right[at : at + 40_000], f"{name} is wrong at {at}"
                done += 1
        if draw.random() < 0.05:
            assert len(os.listdir(mount / "d")) >= files
            done += 1
        done += sum((mount / f"d/small{draw.randrange(400)}").exists() for _ in range(5))
    return done


_kept: dict[str, bytes] = {}


def _contents(name: str) -> bytes:
    return _kept.setdefault(name, content(name))


def _inodes_left(mount: Mount) -> int:
    """How many inodes the daemon still holds once the kernel has forgotten what it may."""

    def left() -> Any:
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("2")
        count = int(mount.status()["inodes"])
        return count if count < 40 else None

    return int(wait_until(left, 30))


def _at_rest(pid: int, began: float) -> Sample:
    """What is held once nothing was read for a while: threads that fetch ahead end after 10 s."""
    time.sleep(14.0)
    return held(pid, began)


if __name__ == "__main__":
    print(*_read_as_crowd(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
