"""What a store held when, in a plain model: the truth that a mount is held against (tests/model.py).

Any thread may ask; one changes the store. A change takes a moment, so that the times of two versions overlap. With it
stand the measures of the game: how long a listing is believed, and how long a reader waits, in a mount of `HASTY`.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

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
    "vfs.sources.retry.RetryingSource.__init__.__kwdefaults__ |= {'first_wait_s': 0.02, 'longest_wait_s': 0.08}",
    "mountd.supervisor._LONGEST_WAIT_S = 0.3",
)


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

    @property
    def beyond_deadline_s(self) -> float:
        return max(0.0, self.longest_wait_s - DEADLINE_S)
