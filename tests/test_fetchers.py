"""Threads that do work ahead: lines in turn, a bounded number, and an end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vfs.fetchers import Fetchers


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.002)


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fetch-ahead"]


@pytest.fixture
def made() -> Iterator[Callable[..., Fetchers]]:
    all_made = []

    def make(most: int = 4, may_rest: Callable[[], bool] = lambda: True, rest: Callable[[], None] = int) -> Fetchers:
        all_made.append(Fetchers(most, 0.05, may_rest, rest))
        return all_made[-1]

    yield make
    for fetchers in all_made:
        fetchers.close()
    until(lambda: not ours())


def test_all_work_is_done_and_no_more_threads_than_allowed_do_it(made) -> None:
    fetchers = made(3)
    done: list[int] = []
    most: list[int] = []

    def work(number: int) -> Callable[[], None]:
        return lambda: (most.append(len(ours())), time.sleep(0.001), done.append(number))[2]

    for line in range(5):
        fetchers.add(line, [work(line * 20 + n) for n in range(20)])
    until(lambda: not fetchers.is_busy())
    assert sorted(done) == list(range(100))
    assert max(most) == 3


def test_lines_take_turns(made) -> None:
    fetchers = made(1)
    done: list[str] = []
    goes_on = threading.Event()
    fetchers.add(0, [lambda: goes_on.wait(10)])
    fetchers.add(1, [lambda n=n: done.append(f"long{n}") for n in range(4)])
    fetchers.add(2, [lambda n=n: done.append(f"short{n}") for n in range(2)])
    goes_on.set()
    until(lambda: len(done) == 6)
    assert done == ["long0", "short0", "long1", "short1", "long2", "long3"]


def test_a_bug_in_a_work_is_logged_and_the_others_are_done(made, caplog) -> None:
    fetchers = made(1)
    done: list[int] = []
    fetchers.add(0, [lambda: 1 / 0, lambda: done.append(1)])  # type: ignore[list-item, func-returns-value]
    until(lambda: done == [1])
    assert "ZeroDivisionError" in caplog.text


def test_the_last_thread_stays_until_it_may_rest_and_then_rests_once(made) -> None:
    may, rested = threading.Event(), []
    fetchers = made(4, may.is_set, lambda: rested.append(len(ours())))
    fetchers.add(0, [lambda: time.sleep(0.01)] * 8)
    until(lambda: len(ours()) == 1)
    time.sleep(0.2)
    assert (len(ours()), rested) == (1, [])
    may.set()
    until(lambda: not ours())
    assert rested == [1]
    fetchers.add(0)
    until(lambda: len(rested) == 2)


def test_after_close_nothing_waiting_is_done_and_nothing_is_taken(made) -> None:
    fetchers = made(1)
    done: list[int] = []
    goes_on = threading.Event()
    fetchers.add(0, [lambda: goes_on.wait(10), lambda: done.append(1)])  # type: ignore[list-item, func-returns-value]
    fetchers.close()
    fetchers.add(0, [lambda: done.append(2)])
    goes_on.set()
    until(lambda: not ours())
    assert done == []
    assert not fetchers.is_busy()
