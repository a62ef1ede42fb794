import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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


# Of read(2), as /proc/PID/syscall shows it.
READ = {"x86_64": "0", "aarch64": "63"}.get(platform.machine())

READER = """
import os, sys
while True:
    try:
        os.stat(sys.argv[1] + "/x")
    except OSError:
        pass
"""


@pytest.mark.mount
@pytest.mark.skipif(READ is None, reason="the number of read(2) on this machine is not known here")
def test_killing_all_readers_of_a_busy_daemon_never_freezes_it(tmp_path: Path) -> None:
    # Without the two cures about one round in eight leaves the process in a blocking read: 40 rounds miss that
    # once in two hundred runs.
    command = [sys.executable, "-m", "tests.busydaemon", str(tmp_path)]
    dice = random.Random(11)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
            for _ in range(40):
                _kill_readers(tmp_path, seconds=dice.uniform(0.15, 0.3))
                # Nobody asks anything now: a daemon that stands in read(2) would stand there for ever.
                seen = set()
                for _ in range(4):
                    time.sleep(0.1)
                    seen.add(Path(f"/proc/{daemon.pid}/syscall").read_text().split()[0])
                assert seen != {READ}, "the daemon stands still in read(2)"
            daemon.terminate()
            assert daemon.wait(20) == 0
        finally:
            if daemon.poll() is None:
                daemon.kill()
                subprocess.run(["fusermount3", "-uzq", tmp_path], check=False)


def _kill_readers(directory: Path, seconds: float) -> None:
    """Has three processes ask for names for a while, then kills them at once."""
    start = [sys.executable, "-S", "-c", READER, str(directory)]
    readers = [subprocess.Popen(start, stderr=subprocess.DEVNULL) for _ in range(3)]
    time.sleep(seconds)
    for reader in readers:
        reader.kill()
    for reader in readers:
        reader.wait(20)
