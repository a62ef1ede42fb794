"""A store and its mount beside a plain model of what may be seen there: random operations, none of which may surprise.

    python -m tests.model [--seed S] [--steps N]        as long as wanted, by hand

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
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests import damage
from tests.faults import (
    Body,
    Cut,
    Drip,
    Fault,
    HangUp,
    Late,
    Longer,
    OtherVersion,
    Reset,
    Shift,
    Stall,
    Status,
    Truncate,
    Whole,
)
from tests.mounting import Mount, mounted, patched
from tests.s3server import Request, S3Server

AGE_S = 0.5
DEADLINE_S = 4.0
# A listing may have waited, listed ahead of a walk, before it was believed; and a busy machine takes its time.
BELIEVED_S = 2 * AGE_S + 1.5
# What was under way when a trouble ended may still fail for so long.
AFTERMATH_S = DEADLINE_S + 1.0
HASTY = (
    f"vfs.ops.DEADLINE_S = {DEADLINE_S}",
    "mountd.daemon.TOTAL_S = 2.5",
    "vfs.bulk.CONNECT_S = 0.5",
    "vfs.bulk.IDLE_S = 0.5",
    "vfs.bulk.LONGEST_BODY_S = 1.0",
    "vfs.cache.ChunkCache.__init__.__defaults__ = (8 << 20, 16 << 20)",
    "vfs.flight.WAIT_S = 5.0",
    "vfs.catalog._WORTH = 0",
    "vfs.disk._PAUSE_S = 2.0",
    "vfs.sources.retry.RetryingSource.__init__.__kwdefaults__ |= {'first_wait_s': 0.02, 'longest_wait_s': 0.3}",
    "mountd.supervisor._LONGEST_WAIT_S = 0.3",
)
CACHE_SIZE = "12M"
"""Less than what the store holds, so that the store is asked all the time."""
SIZES = (0, 1, 1000, 131_071, 131_072, 131_073, 700_000, 1 << 20, (1 << 20) + 1, 3_000_001, (4 << 20) + 7)
FAULTS: tuple[Fault, ...] = (
    Status(500), Status(503, "SlowDown"), Status(429, "TooManyRequests"), Status(503, "SlowDown", {"Retry-After": "1"}),
    Status(403, "AccessDenied"), Status(404, "NoSuchKey"), HangUp(), Reset("once"), Reset("head"), Reset(900),
    Truncate(0), Truncate(500), Late(3.0), Stall(3.0, 500), Drip(50, 0.1), Whole(), Shift(4096), Shift(-1), Cut(1),
    Longer(10), Longer(300, announced=False), OtherVersion(), Body(b"<html>please log in</html>"),
)  # fmt: skip
_OF_OBJECTS = (403, 404)
_PASSING_ERRORS = {errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EACCES, errno.ESTALE}
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ESTALE, errno.EBADF, errno.ENODEV}


class Surprise(AssertionError):
    """Something was seen that nobody promised."""


@dataclass
class Span:
    """A version of a path (None: it is not there), and from when to when it may have been the newest."""

    version: int | None
    since: float
    until: float = float("inf")


@dataclass
class Interval:
    """A time in which something was wrong."""

    since: float
    until: float = float("inf")


class World:
    """The store, and what it held when. Any thread may ask; one changes it."""

    def __init__(self, root: Path, seed: str) -> None:
        self.bucket = root / "bucket"
        self.bucket.mkdir(parents=True)
        self._seed = seed
        self._lock = threading.Lock()
        self._spans: dict[str, list[Span]] = {}
        self._sizes: dict[tuple[str, int], int] = {}
        self._next = 0
        self.store_fails: list[Interval] = []
        self.keys_ended: list[Interval] = []
        self.daemon_dead: list[Interval] = []
        self.cache_harmed: list[Interval] = []
        self.contents = lru_cache(400)(self._content)

    def _content(self, path: str, version: int) -> bytes:
        return random.Random(f"{self._seed} {path} {version}").randbytes(self._sizes[path, version])

    # -- the past

    def paths(self) -> list[str]:
        """All that ever were."""
        with self._lock:
            return sorted(self._spans)

    def there(self) -> list[str]:
        with self._lock:
            return sorted(path for path, spans in self._spans.items() if spans[-1].version is not None)

    def versions(self, path: str, since: float, until: float) -> set[int | None]:
        """What the path held at some moment of that time; None stands for not being there."""
        with self._lock:
            spans = self._spans.get(path, [Span(None, 0.0)])
            found = {span.version for span in spans if span.until >= since and span.since <= until}
        return found | ({None} if spans[0].since > since else set())

    def size(self, path: str, version: int) -> int:
        return self._sizes[path, version]

    def horizon(self, now: float) -> float:
        """What is seen now was true at some moment since then. While the store fails, or refuses us, what was known
        before goes on being believed."""
        since = now - BELIEVED_S
        for interval in sorted((*self.store_fails, *self.keys_ended, *self.daemon_dead), key=lambda each: -each.since):
            if interval.until + AFTERMATH_S >= since:
                since = min(since, interval.since - BELIEVED_S)
        return since

    # -- the present

    def put(self, path: str, size: int) -> None:
        """Makes or replaces a file, whole."""
        with self._lock:
            self._next += 1
            version = self._next
            self._sizes[path, version] = size
        file = self.bucket / path
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self.bucket.parent / "new"
        new.write_bytes(self.contents(path, version))
        self._begin(path, version)
        new.replace(file)
        self._end(path)

    def delete(self, path: str) -> None:
        self._begin(path, None)
        (self.bucket / path).unlink()
        self._end(path)

    def _begin(self, path: str, version: int | None) -> None:
        now = time.monotonic()
        with self._lock:
            self._spans.setdefault(path, [Span(None, 0.0)]).append(Span(version, now))

    def _end(self, path: str) -> None:
        with self._lock:
            self._spans[path][-2].until = time.monotonic()


@dataclass
class Tally:
    """What was done and seen, by all together."""

    operations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    bytes_compared: int = 0
    longest_wait_s: float = 0.0
    recoveries_s: list[float] = field(default_factory=list)
    """From a kill of the daemon to the first answer of the next."""
    calms_s: list[float] = field(default_factory=list)
    """From the end of the store's faults to the first file that is read anew, whole."""

    @property
    def beyond_deadline_s(self) -> float:
        return max(0.0, self.longest_wait_s - DEADLINE_S)


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
            with (self._root / path).open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return os.fstat(file.fileno()).st_size, file.readall()

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
        _, data = self._do("read", what, lambda: _all_of(handle.descriptor, length, start), handle.path, handle=handle)
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
        return max(self._world.horizon(began), min(self._fresh.get(path, 0.0), began))

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


def _all_of(descriptor: int, length: int, start: int) -> bytes:
    """As programs read that want so much: on where the kernel gave less, which it does before it tells a failure."""
    data = b""
    while len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
        data += more
    return data


def _overlaps(intervals: list[Interval], began: float, ended: float, after_s: float) -> bool:
    return any(each.since <= ended and each.until + after_s >= began for each in intervals)


class Trouble:
    """The one who changes the store and has things go wrong."""

    def __init__(self, world: World, server: S3Server, mount: Mount, cache: Path, draw: random.Random, tally: Tally):
        self._world = world
        self._server = server
        self._mount = mount
        self._cache = cache
        self._draw = draw
        self._tally = tally
        self._keys = cache.parent / "credentials"
        self._faulty = random.Random(draw.random())
        self._key = 0
        self._turn = threading.Lock()
        self.told: deque[str] = deque(maxlen=40)
        self.write_keys()

    def _tell(self, words: str) -> None:
        self.told.append(f"{time.monotonic():.3f} {words}")

    # -- the store's content

    def fill(self, count: int) -> None:
        for _ in range(count):
            self._add()

    def change(self) -> None:
        """Adds, replaces or deletes a file."""
        there = self._world.there()
        kind = self._draw.choice(("add", "replace", "replace", "delete"))
        self._tell("a change of the store")
        if (kind == "add" and len(there) < 60) or len(there) < 10:
            self._add()
        elif kind == "delete":
            self._world.delete(self._draw.choice(there))
        else:
            self._world.put(self._draw.choice(there), self._size())

    def _add(self) -> None:
        folder = self._draw.choice(("", "a", "b", "a/deep/er", "c/x"))
        name = f"f{self._draw.randrange(40)}.bin"
        self._world.put(f"{folder}/{name}" if folder else name, self._size())

    def _size(self) -> int:
        return self._draw.choice(SIZES) if self._draw.random() < 0.7 else self._draw.randrange(2_000_000)

    # -- the store's failures

    def fail(self, share: float) -> None:
        """That share of all requests meets a fault, until `recover`."""
        self._tell("the store begins to fail")
        self._world.store_fails.append(Interval(time.monotonic()))

        def faults(request: Request) -> Fault | None:
            with self._turn:
                if self._faulty.random() >= share:
                    return None
                fault = self._faulty.choice(FAULTS)
            if isinstance(fault, Status) and fault.status in _OF_OBJECTS and request.path.count("/") < 2:
                return None  # the folder would be believed not to be there
            with self._turn:
                self._tally.faults[
                    type(fault).__name__ + (f" {fault.status}" if isinstance(fault, Status) else "")
                ] += 1
            return fault

        self._server.faults = faults

    def recover(self) -> None:
        self._server.faults = lambda request: None
        for each in self._world.store_fails:
            each.until = min(each.until, time.monotonic())

    def write_keys(self) -> None:
        new = self._keys.with_suffix(".new")
        new.write_text(f"[default]\naws_access_key_id = k{self._key}\naws_secret_access_key = s\n")
        new.replace(self._keys)

    def end_keys(self) -> None:
        self._world.keys_ended.append(Interval(time.monotonic()))
        self._key += 1
        self._server.access_key_id = f"k{self._key}"
        self._tally.faults["keys ended"] += 1

    def renew_keys(self) -> None:
        self.write_keys()
        for each in self._world.keys_ended:
            each.until = min(each.until, time.monotonic())

    # -- what befalls the machine

    def kill(self) -> None:
        """Kills the daemon and waits until another has taken its place."""
        self._tell("a kill")
        pid = self._mount_pid(20)
        dead = Interval(time.monotonic())
        self._world.daemon_dead.append(dead)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._tally.kills += 1
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError, ValueError):
                if self._mount.pid != pid:
                    break
            if time.monotonic() > deadline:
                raise Surprise("no daemon has taken the killed one's place for 60 s")
            time.sleep(0.02)
        dead.until = time.monotonic()
        self._tally.recoveries_s.append(dead.until - dead.since)

    def _mount_pid(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._mount.pid
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def harm(self) -> None:
        """Damages the cache. Where a database has to be begun anew, one question may fail."""
        what = self._draw.choice(sorted(damage.ALL))
        began = time.monotonic()
        if what not in damage.VALUES:
            self._world.cache_harmed.append(Interval(began))
        if damage.ALL[what](self._cache, self._draw):
            self._tally.damages[what] += 1
            self._tell(f"damage: {what}")
        if what not in damage.VALUES:
            self._world.cache_harmed[-1].until = time.monotonic()


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
    looker, turns = stage.looker(0), Turns(stage)
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


class Turns:
    """When which trouble comes: short ones, so that most of what is seen is seen while nothing is wrong."""

    def __init__(self, stage: Stage, *, often: float = 1.0) -> None:
        self._draw = random.Random(f"{stage.seed} turns")
        self._trouble = stage.trouble
        self._often = often
        self._failing = self._ended = False

    def maybe(self) -> bool:
        """Whether it was trouble's turn."""
        dice, trouble = self._draw.random() / self._often, self._trouble
        if self._failing and self._draw.random() < 0.03:
            self._failing = False
            trouble.recover()
        elif self._ended and self._draw.random() < 0.1:
            self._ended = False
            trouble.renew_keys()
        elif dice < 0.04:
            trouble.change()
        elif dice < 0.055:
            trouble.harm()
        elif dice < 0.058:
            trouble.kill()
        elif dice < 0.063 and not self._failing:
            self._failing = True
            trouble.fail(self._draw.choice((0.1, 0.3, 0.6)))
        elif dice < 0.066 and not self._ended:
            self._ended = True
            trouble.end_keys()
        else:
            return False
        return True

    def end(self) -> None:
        """Nothing is wrong any more."""
        self._trouble.recover()
        self._trouble.renew_keys()


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
