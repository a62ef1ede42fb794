import os
import signal

import pytest
import trio

from mountd import session


def test_the_wait_for_readability_returns_only_when_there_is_something_to_read(monkeypatch) -> None:
    real = trio.lowlevel.wait_readable
    monkeypatch.setattr(trio.lowlevel, "wait_readable", real)
    waits = 0
    reading, writing = os.pipe()

    async def spurious(descriptor: int) -> None:
        """Says that there is something to read, twice without reason."""
        nonlocal waits
        waits += 1
        if waits == 3:
            os.write(writing, b"x")
        await trio.lowlevel.checkpoint()

    trio.lowlevel.wait_readable = spurious
    session._look_twice()
    trio.run(trio.lowlevel.wait_readable, reading)
    assert waits == 3
    os.close(reading)
    os.close(writing)


def test_a_blocking_read_is_interrupted_by_the_timer() -> None:
    before = signal.getsignal(signal.SIGALRM)
    session._interrupt_blocking_reads()
    try:
        delay, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < delay <= interval == session._INTERRUPT_S
        signal.pause()  # returns only because the signal comes and its handler does nothing
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "escaped"), [("s3://b/x", "s3://b/x"), ("a,b\\c", "a\\,b\\\\c")])
def test_a_name_with_commas_stays_one_option(name: str, escaped: str) -> None:
    assert session._escaped(name) == escaped
