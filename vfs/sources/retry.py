"""A source that tries again: the one layer in which anything is retried, and where what a source is asked is counted.

It hides that networks fail. The daemon wraps it around whichever source was opened; it knows no store, and no store
knows it. Any thread may enter; the counters have a lock of their own, and nothing else is shared but the last refusal.

A failure is tried again where its type says that this may help (EgofsError.retryable), after a random wait of up to
a limit that doubles ("full jitter": a thousand readers that failed together do not come back together), or as long
as the store asked for. After `total_s` no further try begins, and the last failure itself is raised.

A refusal is not tried again. What it means where keys end with a licence is said here, as only the dataset knows it.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from vfs.digests import Checksum
from vfs.errors import AccessDenied, CorruptData, EgofsError, NotFound
from vfs.sources import Deep, Listed, ObjectInfo, Paged, Renewable, Source, by_pages, checksum_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Waiting out a failure must end before the programs above give up (pools and watchdogs use minutes), and after the
# usual failures have: a throttled prefix or a server that restarts is back within tens of seconds.
TOTAL_S = 60.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
# A Retry-After of an hour is not waited for, and one of half a minute leaves time for a try after it.
_LONGEST_RETRY_AFTER_S = 30.0
# Bytes that came wrong twice more are wrong where they are stored.
_CORRUPT_TRIES = 3


@dataclass
class Counters:
    """What a source was asked since it was opened. Written under the source's lock; a reader may be one behind."""

    requests: int = 0
    """Tries, the first and the repeated."""

    retries: int = 0
    """Tries that repeated a failed one."""

    bytes_fetched: int = 0
    """Bytes that reads gave."""

    errors: int = 0
    """Failures that the caller saw in the end. That a name is not there is an answer and no failure."""


@dataclass(frozen=True)
class Refusal:
    """When the store refused us, in seconds of the epoch, and what it was that it refused."""

    refused_at: float
    message: str


class RetryingSource:
    """Another source with failures tried again; `inner` is that other source."""

    def __init__(
        self,
        inner: Source,
        *,
        total_s: float = TOTAL_S,
        renewal: str = "",
        first_wait_s: float = _FIRST_WAIT_S,
        longest_wait_s: float = _LONGEST_WAIT_S,
        longest_retry_after_s: float = _LONGEST_RETRY_AFTER_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`renewal`: a sentence for whoever is refused, that the keys of this dataset end, and where to renew them."""
        self.inner = inner
        self.url = inner.url
        self.remote = inner.remote
        self.counters = Counters()
        self.refusal: Refusal | None = None
        """The last, while nothing was asked with success since."""
        self._renewal = renewal
        self._lock = threading.Lock()
        self.total_s = total_s
        """After this no further try begins; may be changed at any time."""
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._longest_retry_after_s = longest_retry_after_s
        self._sleep = sleep
        self._clock = clock
        # It has what the source within has, so that whoever looks at it learns what that one can do.
        if isinstance(inner, Paged):
            self.page = self._persistent("list", inner.page)
        if isinstance(inner, Deep):
            self.deep_page = self._persistent("list all below", inner.deep_page)

    def list(self, folder: str) -> Iterator[Listed]:
        """The folder's names as they come. Each page is tried again by itself, so that no name is shown twice.

        A source without pages is tried again until it has given its first name; a failure after that is the caller's.
        """
        if isinstance(self, Paged):
            return by_pages(folder, self.page)
        return self._unpaged(folder)

    def _unpaged(self, folder: str) -> Iterator[Listed]:
        def first() -> tuple[list[Listed], Iterator[Listed]]:
            rest = iter(self.inner.list(folder))
            return [*itertools.islice(rest, 1)], rest

        head, rest = self._persist(f"list {folder!r}", first)
        yield from head
        yield from rest

    def _persistent(self, what: str, ask: Callable[[str, str], _T]) -> Callable[[str, str], _T]:
        return lambda folder, after: self._persist(f"{what} {folder!r}", lambda: ask(folder, after))

    def renew(self) -> None:
        """As the source within does; that it refused us is forgotten too."""
        self.refusal = None
        if isinstance(self.inner, Renewable):
            self.inner.renew()

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now."""
        return self._persist(f"stat {key!r}", lambda: self.inner.stat(key))

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes of the range. Their number is checked here once more, whatever the source is."""

        def attempt() -> bytes:
            data = self.inner.read(obj, start, length)
            if len(data) != length:
                raise CorruptData(f"{obj.key}: {len(data)} bytes came of {length} at {start}")
            return data

        data = self._persist(f"read {obj.key!r}", attempt)
        self._count(bytes_fetched=len(data))
        return data

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the source within knows of the object's bytes."""
        return self._persist(f"checksum of {obj.key!r}", lambda: checksum_of(self.inner, obj))

    def close(self) -> None:
        """Ends the inner source's connections."""
        self.inner.close()

    def _persist(self, what: str, attempt: Callable[[], _T]) -> _T:
        """`_persisted`, with note taken of what the store refuses."""
        try:
            result = self._persisted(what, attempt)
        except AccessDenied as failure:
            if self._renewal and self._renewal not in str(failure):
                # A store says that something is not there to those alone who may list.
                meant = "the keys have ended, or are not valid for this, or it is not there"
                failure.args = (f"{failure}: {meant}: {self._renewal}",)
            self.refusal = Refusal(time.time(), str(failure))
            raise
        self.refusal = None
        return result

    def _persisted(self, what: str, attempt: Callable[[], _T]) -> _T:
        """The attempt's result, from as many tries as there may be."""
        began = self._clock()
        corrupt = 0
        first: EgofsError | None = None

        def counted() -> _T:
            nonlocal first
            if first is not None:
                failure, first = first, None
                raise failure
            self._count(requests=1)
            return attempt()

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal corrupt
            corrupt += isinstance(_failure(state), CorruptData)
            return corrupt >= _CORRUPT_TRIES or self._clock() - began + state.upcoming_sleep > self.total_s

        def before_sleep(state: tenacity.RetryCallState) -> None:
            self._count(retries=1)
            _log.info("%s: %s; next try in %.1f s", what, _failure(state), state.upcoming_sleep)

        try:
            try:
                return counted()
            except EgofsError as failure:
                first = failure
            # Nearly every first try is the last, and setting this up takes 50 us: it begins with the failure that was.
            persist = tenacity.Retrying(
                retry=tenacity.retry_if_exception(lambda failure: getattr(failure, "retryable", False)),
                wait=self._wait_s,
                stop=stop,
                sleep=self._sleep,
                before_sleep=before_sleep,
                reraise=True,
            )
            return persist(counted)
        except NotFound:
            raise
        except EgofsError:
            self._count(errors=1)
            raise

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        """How long to wait before the next try: what the store asked for, or full jitter."""
        asked_s = min(getattr(_failure(state), "retry_after_s", 0.0), self._longest_retry_after_s)
        # The exponent is bounded so that thousands of tries do not overflow a float.
        limit_s = min(self._longest_wait_s, self._first_wait_s * 2.0 ** min(state.attempt_number - 1, 30))
        return float(asked_s + random.uniform(0, self._first_wait_s) if asked_s else random.uniform(0, limit_s))

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
