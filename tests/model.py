"""A store and its mount beside a plain model of what may be seen there: random operations, none of which may surprise.

    python -m tests.model [--seed S] [--minutes N]        as long as wanted, by hand

The model (`World`) knows what every path held when. Whoever looks at the mount (`Looker`) holds what he sees against
it, by the promises of doc/SEMANTICS.md: a listing is true of some moment that is no longer ago than listings are
believed; a file that is opened is one version that was there within that time, and all bytes that its handle gives are
that version's; ESTALE only where that version is no longer the newest; no other failure while nothing is wrong. Whoever
makes trouble (`Trouble`) changes the store, has it fail, ends its keys, kills the daemon and damages the cache.

All that is random comes from the seed, so that a failure is played again with it; what happens when is the machine's.
The daemon runs with deadlines of seconds (`HASTY`), since a minute is long for a test.
"""

import argparse
import contextlib
import errno
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mounting import Mount, mounted, patched
from tests.s3server import S3Server
from tests.trouble import Trouble, Turns
from tests.world import AFTERMATH_S, AGE_S, HASTY, Interval, Surprise, Tally, World

CACHE_SIZE = "12M"
"""Less than what the store holds, so that the store is asked all the time."""
_PASSING_ERRORS = {errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EACCES, errno.ESTALE}
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ESTALE, errno.EBADF, errno.ENODEV}


@dataclass
class Handle:
    """An open file, and which versions its bytes can be."""

    path: str
    descriptor: int
    candidates: set[int]
    opened: float


class Looker:
    """One who uses the mount, and compares."""

    def __init__(self, world: World, root: Path, draw: random.Random, tally: Tally, lock: threading.Lock) -> None:
        self._world = world
        self._root = root
        self._draw = draw
        self._tally = tally
        self._lock = lock
        self._handles: list[Handle] = []
        self.troubles: deque[str] = deque()
        self._fresh: dict[str, float] = {}
        """Paths of which something newer than that moment must be seen."""
        self.told: deque[str] = deque(maxlen=40)

    def step(self) -> None:
        """One operation. Raises Surprise."""
        kinds = ("list", "stat", "open", "read", "read", "read", "read", "close", "whole")
        kind = self._draw.choice(kinds)
        if kind in ("read", "close") and not self._handles:
            kind = "open"
        if kind == "open" and len(self._handles) >= 8:
            kind = "close"
        {"list": self._list, "stat": self._stat, "open": self._open, "read": self._read, "close": self._close,
         "whole": self._whole}[kind]()  # fmt: skip

    def close(self) -> None:
        while self._handles:
            self._close()

    # -- operations

    def _path(self) -> str:
        known = self._world.paths()
        return self._draw.choice(known) if known and self._draw.random() < 0.97 else "a/never"

    def _list(self) -> None:
        paths = self._world.paths()
        folder = self._draw.choice(["", *sorted({path.rpartition("/")[0] for path in paths} - {""})])
        began, seen = self._do("list", folder, lambda: sorted(os.listdir(self._root / folder)))
        if seen is None:
            return
        now, since, paths = time.monotonic(), self._since(began, folder), self._world.paths()
        names = {path.removeprefix(f"{folder}/" if folder else "") for path in paths if path.startswith(folder)}
        files = {name for name in names if "/" not in name}
        if len(set(seen)) != len(seen):
            self._surprise(f"{folder}: a name stands twice: {seen}")
        for name in files:
            held = self._world.versions(f"{folder}/{name}" if folder else name, since, now)
            if None not in held and name not in seen:
                self._surprise(f"{folder}: {name} was there all the time and is not listed")
        for name in seen:
            path = f"{folder}/{name}" if folder else name
            if name in files and not self._world.versions(path, since, now) - {None}:
                self._surprise(f"{folder}: {name} is listed and was not there")
            below = [each for each in paths if each.startswith(f"{path}/")]
            if name not in files and not any(self._world.versions(each, since, now) - {None} for each in below):
                self._surprise(f"{folder}: {name} is listed and never was")

    def _stat(self) -> None:
        path = self._path()
        began, facts = self._do("stat", path, lambda: os.stat(self._root / path), path)
        if facts is None:
            return
        held = self._world.versions(path, self._since(began, path), time.monotonic()) - {None}
        if facts.st_size not in {self._world.size(path, version) for version in held if version is not None}:
            self._surprise(f"{path}: stat says {facts.st_size} bytes; it had {held}")

    def _open(self) -> None:
        path = self._path()
        began, descriptor = self._do("open", path, lambda: os.open(self._root / path, os.O_RDONLY), path)
        if descriptor is not None:
            held = self._world.versions(path, self._since(began, path), time.monotonic())
            self._handles.append(Handle(path, descriptor, {each for each in held if each is not None}, began))

    def _close(self) -> None:
        handle = self._handles.pop(self._draw.randrange(len(self._handles)))
        with suppress(OSError):
            os.close(handle.descriptor)

    def _whole(self) -> None:
        path = self._path()

        def read() -> tuple[int, bytes]:
            descriptor = os.open(self._root / path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                # Not by Python's files: these make None of EAGAIN.
                return os.fstat(descriptor).st_size, all_of(descriptor, 1 << 30, 0)
            finally:
                os.close(descriptor)

        began, found = self._do("whole", path, read, path)
        if found is not None:
            held = self._world.versions(path, self._since(began, path), time.monotonic()) - {None}
            size, data = found
            self._compared(len(data))
            if len(data) != size:
                self._surprise(f"{path}: {len(data)} bytes came and stat says {size}")
            if not any(data == self._world.contents(path, each) for each in held if each is not None):
                self._surprise(f"{path}: {len(data)} bytes are none of versions {held}")

    def _read(self) -> None:
        handle = self._draw.choice(self._handles)
        size = max(self._world.size(handle.path, each) for each in handle.candidates)
        edges = (0, size, *(edge for edge in (131_072, 1 << 20, 4 << 20) if edge < size))
        start = max(0, self._draw.choice(edges) + self._draw.choice((-1, 0, 1, -4096, self._draw.randrange(size + 1))))
        length = self._draw.choice((1, 100, 4096, 65_536, 300_000, 1 << 20))
        held = handle.candidates
        self._describe(f"of versions {held}")
        what = f"{handle.path} {length} at {start}"
        if self._draw.random() < 0.5:  # else much would come from the kernel's pages, and nobody be asked
            os.posix_fadvise(handle.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        _, data = self._do("read", what, lambda: all_of(handle.descriptor, length, start), handle.path, handle=handle)
        if data is None:
            return
        self._compared(len(data))
        fitting = {each for each in held if self._world.contents(handle.path, each)[start : start + length] == data}
        if not fitting:
            self._surprise(f"{handle.path}: {len(data)} of {length} bytes at {start} are none of versions {held}")
        handle.candidates = fitting

    # -- judging

    def _do(
        self, kind: str, what: str, ask: Callable[[], Any], path: str = "", handle: Handle | None = None
    ) -> tuple[float, Any]:
        """When it began, and what was seen; None for a failure that may be. Raises Surprise for others."""
        began = time.monotonic()
        failure: OSError | None = None
        try:
            seen = ask()
        except OSError as raised:
            failure, seen = raised, None
        now = time.monotonic()
        words = "" if failure is None else errno.errorcode.get(failure.errno or 0, str(failure))
        self._describe(f"{now:.3f} {kind} {what}: {words or 'ok'} after {now - began:.3f} s")
        with self._lock:
            self._tally.operations[kind] += 1
            self._tally.longest_wait_s = max(self._tally.longest_wait_s, now - began)
            if words:
                self._tally.errors[words] += 1
        if failure is not None:
            self._judge(failure, kind, what, path, began, now, handle)
        return began, seen

    def _judge(
        self, failure: OSError, kind: str, what: str, path: str, began: float, now: float, handle: Handle | None
    ) -> None:
        world, number = self._world, failure.errno
        since = self._since(began, path)
        absent = kind == "list" or None in world.versions(path, since, now)
        if number == errno.ENOENT and handle is None and absent:
            return
        dead = any(each.since <= now and each.until + 1.0 >= (handle.opened if handle else began)
                   for each in world.daemon_dead)  # fmt: skip
        if handle is not None and dead:
            self._drop(handle)
        if dead and number in _DEAD:
            time.sleep(0.1)  # as who waits for the next daemon does; to fail at once is no operation worth counting
            return
        if number == errno.ESTALE:
            held = handle.candidates if handle else world.versions(path, since, now)
            if world.versions(path, now, now) != held or handle is None:
                self._fresh[path] = began
                return
        if number == errno.EACCES and _overlaps(world.keys_ended, began, now, AFTERMATH_S):
            return
        if number in _PASSING_ERRORS and _overlaps(world.store_fails, began, now, AFTERMATH_S):
            return
        if number == errno.EIO and _overlaps(world.cache_harmed, began, now, AFTERMATH_S):
            return
        self._surprise(f"{kind} {what}: {failure.strerror} ({number}), and nothing was wrong")

    def _since(self, began: float, path: str) -> float:
        """From when on what is seen of a path must have been true."""
        world, fresh = self._world, min(self._fresh.get(path, 0.0), began)
        wrong = [*world.store_fails, *world.keys_ended, *world.daemon_dead]
        # What could not be asked for anew is believed as it was.
        return max(world.horizon(began), 0.0 if _overlaps(wrong, fresh, began, 0.0) else fresh)

    def _drop(self, handle: Handle) -> None:
        with suppress(OSError):
            os.close(handle.descriptor)
        with suppress(ValueError):
            self._handles.remove(handle)

    def _compared(self, count: int) -> None:
        with self._lock:
            self._tally.bytes_compared += count

    def _describe(self, words: str) -> None:
        self.told.append(words)

    def _surprise(self, words: str) -> None:
        raise Surprise("\n".join([words, "what came before:", *sorted([*self.told, *self.troubles])]))


def all_of(descriptor: int, length: int, start: int) -> bytes:
    """As programs read that want so much: on where the kernel gave less, which it does before it tells a failure."""
    data = b""
    while len(data) < length and (more := os.pread(descriptor, min(length - len(data), 8 << 20), start + len(data))):
        data += more
    return data


def _overlaps(intervals: list[Interval], began: float, ended: float, after_s: float) -> bool:
    return any(each.since <= ended and each.until + after_s >= began for each in intervals)


@dataclass
class Stage:
    """All that plays together."""

    world: World
    server: S3Server
    mount: Mount
    cache: Path
    trouble: Trouble
    tally: Tally
    lock: threading.Lock
    seed: str

    def looker(self, name: object) -> Looker:
        draw = random.Random(f"{self.seed} looker {name}")
        looker = Looker(self.world, self.mount.directory, draw, self.tally, self.lock)
        looker.troubles = self.trouble.told
        return looker


@contextlib.contextmanager
def staged(work: Path, seed: str, *, files: int = 30, kept: bool = True) -> Iterator[Stage]:
    """A store with some files, mounted, and nothing wrong yet. Without `kept` there is no cache on disk."""
    world, cache, tally = World(work / "store", seed), work / "cache", Tally()
    cache.mkdir()
    draw = random.Random(f"{seed} trouble")
    env = {
        "AWS_SHARED_CREDENTIALS_FILE": str(work / "credentials"),
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with S3Server(work / "store", access_key_id="k0") as server:
        mount = Mount(work / "m", cache)
        trouble = Trouble(world, server, mount, cache, draw, tally)
        trouble.fill(files)
        options = (
            f"endpoint_url={server.endpoint_url}",
            f"listing_age={AGE_S}",
            f"cache_size={CACHE_SIZE}" if kept else "cache=off",
        )
        with mounted("s3://bucket", work / "m", *options, cache=cache, env=env, command=patched(*HASTY)) as mount:
            yield Stage(world, server, mount, cache, trouble, tally, threading.Lock(), seed)
            trouble.recover()
            trouble.renew_keys()
    assert {each.method for each in server.requests} <= {"GET", "HEAD"}, "something was to be written"


def play(stage: Stage, seconds: float, *, steps: int = 10**9) -> None:
    """One who looks and one who makes trouble, in turn, for so long or for so many steps. Raises Surprise."""
    looker, turns = stage.looker(0), Turns(stage.trouble, stage.seed)
    until = time.monotonic() + seconds
    try:
        for step in range(steps):
            if time.monotonic() > until:
                return
            if not turns.maybe():
                looker.step()
            if step % 500 == 0:
                stage.server.requests.clear()
    except Surprise as surprise:
        raise Surprise(f"seed {stage.seed}, step {step}: {surprise}") from surprise
    finally:
        looker.close()
        turns.end()


def main() -> int:
    """Plays from a seed until something is seen that nobody promised; status 0 where nothing was."""
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--minutes", type=float, default=2.0)
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="model-"))
    print(f"seed {asked.seed}", flush=True)
    try:
        with staged(work, asked.seed) as stage:
            try:
                play(stage, 60 * asked.minutes)
            finally:
                print(stage.tally)
    except Surprise as surprise:
        print(surprise)
        log = next((work / "cache/log").glob("*.log"), None)
        if log:
            print("\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
