"""Trying again: what is tried again, how long is waited between, when it ends, and what is counted."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import tenacity

from tests.memorysource import MemoryBucket
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)
from vfs.sources import Deep, Listed, ObjectInfo, Paged, Source
from vfs.sources.retry import Counters, RetryingSource

OBJECT = ObjectInfo("x", 100, 0, "v1")
RETRYABLE = (Timeout, Throttled, Unavailable, CorruptData)
FINAL = (NotFound, AccessDenied, Changed, SourceError, OptionError)


class Faulty:
    """A source that raises the failures that it was given, one a call, and then answers."""

    url = "faulty://"
    remote = True

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.listed_before_failure = 0
        self.closed = False
        self.short_by = 0

    def _call(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

    def list(self, folder: str) -> Iterator[Listed]:
        for n in range(5):
            if n == self.listed_before_failure:
                self._call()
            yield Listed(f"{folder}{n}", "dir")

    def stat(self, key: str) -> ObjectInfo:
        self._call()
        return OBJECT

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        self._call()
        return bytes(length - self.short_by)

    def close(self) -> None:
        self.closed = True


class Clock:
    """Time that passes only by being slept; `naps` are the waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def retrying(inner: Source, clock: Clock | None = None, **settings: float) -> RetryingSource:
    clock = clock or Clock()
    return RetryingSource(inner, sleep=clock.sleep, clock=lambda: clock.now, **settings)


def throttled(retry_after_s: float) -> Throttled:
    failure = Throttled("slow down")
    vars(failure)["retry_after_s"] = retry_after_s
    return failure


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_passing_failure_is_tried_again_by_each_method(kind: type[EgofsError]) -> None:
    inner = Faulty()
    source = retrying(inner)
    for ask, answer in (
        (lambda: list(source.list("f")), [Listed(f"f{n}", "dir") for n in range(5)]),
        (lambda: source.stat("x"), OBJECT),
        (lambda: source.read(OBJECT, 0, 10), bytes(10)),
    ):
        inner.failures = [kind("once"), kind("twice")]
        inner.calls = 0
        assert ask() == answer
        assert inner.calls == 3
    assert source.counters == Counters(requests=9, retries=6, bytes_fetched=10, errors=0)


@pytest.mark.parametrize("kind", FINAL)
def test_a_failure_that_lasts_is_not_tried_again(kind: type[EgofsError]) -> None:
    inner, clock = Faulty(kind("no")), Clock()
    source = retrying(inner, clock)
    with pytest.raises(kind):
        source.read(OBJECT, 0, 10)
    assert inner.calls == 1
    assert clock.naps == []
    assert source.counters == Counters(requests=1, errors=0 if kind is NotFound else 1)


def test_a_bug_is_not_tried_again() -> None:
    inner = Faulty(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        retrying(inner).stat("x")
    assert inner.calls == 1


def test_the_last_failure_itself_is_raised_after_a_minute() -> None:
    failures = [Unavailable(str(n)) for n in range(1000)]
    inner, clock = Faulty(*failures), Clock()
    source = retrying(inner, clock)
    with pytest.raises(Unavailable) as raised:
        source.stat("x")
    assert raised.value is failures[inner.calls - 1]
    assert not isinstance(raised.value, tenacity.RetryError)
    assert 45 < clock.now - 1000 <= 60
    assert source.counters == Counters(requests=inner.calls, retries=inner.calls - 1, errors=1)


def test_waits_are_random_up_to_a_limit_that_doubles_to_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def highest(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", highest)
    clock = Clock()
    retrying(Faulty(*[Unavailable("x")] * 8), clock).stat("x")
    assert clock.naps == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert {low for low, _ in asked} == {0}


def test_time_that_the_tries_take_counts() -> None:
    clock = Clock()

    class Slow(Faulty):
        def _call(self) -> None:
            clock.now += 25
            super()._call()

    inner = Slow(*[Timeout("slow")] * 10)
    with pytest.raises(Timeout):
        retrying(inner, clock).stat("x")
    assert inner.calls == 3


def test_the_time_that_a_store_asks_for_is_waited() -> None:
    clock = Clock()
    retrying(Faulty(throttled(7)), clock).stat("x")
    assert len(clock.naps) == 1
    assert 7 <= clock.naps[0] <= 7.2


def test_a_store_that_asks_for_an_hour_is_tried_again_within_the_minute() -> None:
    clock, inner = Clock(), Faulty(throttled(3600))
    assert retrying(inner, clock).stat("x") == OBJECT
    assert 30 <= clock.naps[0] <= 30.2


def test_no_wait_begins_that_would_end_after_the_last_try() -> None:
    clock, inner = Clock(), Faulty(*[throttled(20)] * 9)
    with pytest.raises(Throttled):
        retrying(inner, clock).stat("x")
    assert inner.calls == 3
    assert sum(clock.naps) < 60


def test_corrupt_bytes_are_fetched_three_times_at_the_most() -> None:
    inner = Faulty(*[CorruptData("flipped")] * 9)
    with pytest.raises(CorruptData):
        retrying(inner).read(OBJECT, 0, 10)
    assert inner.calls == 3


def test_other_failures_between_do_not_use_up_the_tries_of_corrupt_bytes() -> None:
    inner = Faulty(Timeout("1"), CorruptData("2"), Timeout("3"), CorruptData("4"), Timeout("5"))
    assert retrying(inner).read(OBJECT, 0, 10) == bytes(10)
    assert inner.calls == 6


def test_a_source_that_gives_too_few_bytes_is_corrupt() -> None:
    inner = Faulty()
    inner.short_by = 1
    source = retrying(inner)
    with pytest.raises(CorruptData, match="9 bytes came of 10"):
        source.read(OBJECT, 0, 10)
    assert inner.calls == 3
    assert source.counters.bytes_fetched == 0


def test_a_page_is_tried_again_by_itself_and_no_name_is_shown_twice() -> None:
    store = MemoryBucket({f"d/{n}": b"" for n in range(5)}, page_size=2)
    failures = iter([None, Unavailable("page 2"), Throttled("page 2"), None, Unavailable("page 3"), None])

    def fail() -> None:
        if failure := next(failures):
            raise failure

    store.before_list = fail
    source = retrying(store)
    assert [entry.name for entry in source.list("d")] == ["0", "1", "2", "3", "4"]
    assert [after for _, after in store.pages] == ["", "d/1", "d/1", "d/1", "d/3", "d/3"]
    assert source.counters == Counters(requests=6, retries=3)


def test_a_page_is_asked_for_when_its_first_name_is_taken() -> None:
    store = MemoryBucket({str(n): b"" for n in range(5)}, page_size=2)
    names = retrying(store).list("")
    assert len(store.pages) == 0
    for n in range(5):
        assert next(names).name == str(n)
        assert len(store.pages) == n // 2 + 1


def test_a_listing_without_pages_is_tried_again_until_its_first_name_and_not_after() -> None:
    inner = Faulty(Unavailable("at first"), Unavailable("again"))
    assert [entry.name for entry in retrying(inner).list("")] == ["0", "1", "2", "3", "4"]
    assert inner.calls == 3
    inner = Faulty(Unavailable("half way"))
    inner.listed_before_failure = 3
    names = retrying(inner).list("")
    assert [next(names).name for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(Unavailable):
        next(names)
    assert inner.calls == 1


def test_a_source_can_list_whole_trees_where_the_one_within_can() -> None:
    store = MemoryBucket({"a/b/c": b"", "a/d": b""})
    source = retrying(store)
    assert isinstance(source, Deep)
    assert [obj.key for obj in source.deep_page("a", "b/").objects] == ["a/b/c", "a/d"]
    assert not isinstance(retrying(Faulty()), Paged)


def test_a_refusal_says_how_keys_are_renewed_and_says_it_once() -> None:
    inner, refusal = Faulty(), AccessDenied("read x: refused")
    source = RetryingSource(inner, renewal="Keys end after 14 days: https://renew.example")
    for ask in (lambda: list(source.list("")), lambda: source.stat("x"), lambda: source.read(OBJECT, 0, 10)):
        inner.failures = [refusal]
        with pytest.raises(AccessDenied) as raised:
            ask()
        assert str(raised.value) == (
            "read x: refused: the keys have ended, or are not valid for this, or it is not there: "
            "Keys end after 14 days: https://renew.example"
        )
    inner.failures = [NotFound("x")]
    with pytest.raises(NotFound, match=r"\Ax\Z"):
        source.stat("x")


def test_the_last_refusal_is_remembered_until_something_is_had() -> None:
    inner = Faulty(AccessDenied("one"), AccessDenied("two"), NotFound("x"), Unavailable("y"))
    source = retrying(inner)
    assert source.refusal is None
    before = time.time()
    for message in ("one", "two", "two"):
        with pytest.raises((AccessDenied, NotFound)):
            source.stat("x")
        assert source.refusal is not None
        assert source.refusal.message == message
        assert before <= source.refusal.refused_at <= time.time()
    source.read(OBJECT, 0, 1)
    assert source.refusal is None


def test_counting_by_many_threads_loses_nothing() -> None:
    source = retrying(Faulty())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: source.read(OBJECT, 0, 3), range(2000)))
    assert source.counters == Counters(requests=2000, bytes_fetched=6000)


def test_it_stands_in_for_the_source_within() -> None:
    inner = Faulty()
    source = retrying(inner)
    assert (source.url, source.remote) == (inner.url, inner.remote)
    source.close()
    assert inner.closed
