"""The one who makes trouble: changes a store, has it fail, ends its keys, kills the daemon and damages the cache.

All of it is drawn from a seed and written into the truth (tests/world.py), so that who looks knows what may be seen.
"""

import os
import random
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

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
from tests.mounting import Mount
from tests.s3server import Request, S3Server
from tests.world import Interval, Surprise, Tally, World

SIZES = (0, 1, 1000, 131_071, 131_072, 131_073, 700_000, 1 << 20, (1 << 20) + 1, 3_000_001, (4 << 20) + 7)
FAULTS: tuple[Fault, ...] = (
    Status(500), Status(503, "SlowDown"), Status(429, "TooManyRequests"), Status(503, "SlowDown", {"Retry-After": "1"}),
    Status(403, "AccessDenied"), Status(404, "NoSuchKey"), HangUp(), Reset("once"), Reset("head"), Reset(900),
    Truncate(0), Truncate(500), Late(3.0), Stall(3.0, 500), Drip(50, 0.1), Whole(), Shift(4096), Shift(-1), Cut(1),
    Longer(10), Longer(300, announced=False), OtherVersion(), Body(b"<html>please log in</html>"),
)  # fmt: skip
_OF_OBJECTS = (403, 404)


class Trouble:
    """The one who changes the store and has things go wrong."""

    def __init__(self, world: World, server: S3Server, mount: Mount, cache: Path, draw: random.Random, tally: Tally):
        self._world = world
        self.server = server
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

        self.server.faults = faults

    def recover(self) -> None:
        self.server.faults = lambda request: None
        for each in self._world.store_fails:
            each.until = min(each.until, time.monotonic())

    def write_keys(self) -> None:
        new = self._keys.with_suffix(".new")
        new.write_text(f"[default]\naws_access_key_id = k{self._key}\naws_secret_access_key = s\n")
        new.replace(self._keys)

    def end_keys(self) -> None:
        self._world.keys_ended.append(Interval(time.monotonic()))
        self._key += 1
        self.server.access_key_id = f"k{self._key}"
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


class Turns:
    """When which trouble comes: short ones, so that most of what is seen is seen while nothing is wrong."""

    def __init__(self, trouble: Trouble, seed: str) -> None:
        self._draw = random.Random(f"{seed} turns")
        self._trouble = trouble
        self._failing = self._ended = False

    def maybe(self) -> bool:
        """Whether it was trouble's turn."""
        dice, trouble = self._draw.random(), self._trouble
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
        elif dice < 0.058 and not self._ended:  # whom the store refuses does not come up again
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
