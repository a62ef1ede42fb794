"""Keeps a mount up: another daemon takes the place of one that died by itself, or that stands still.

The supervisor is the process that the command line leaves behind; the daemon is its child. It holds next to nothing,
asks the mount every few seconds (statvfs, which only the daemon can answer), and passes signals on. Called by
daemon.py, in a process without threads; knows nothing of what is mounted.

A daemon that ended well (unmounted, or told to end) is not replaced, and neither is one that never came up. One that
died is replaced for as long as its dead mount is there: whoever takes that away has had enough of it.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mountd import below, mounts, process

log = logging.getLogger(__name__)

# statvfs takes 22 us; a reader that hangs is given this much longer than the interval until somebody looks.
_LOOK_S = 10.0
# A daemon that was killed while it asked its own mount (as each does once, when it begins) cannot end before somebody
# answers, and nobody will. How often it is looked whether that is so:
_DYING_S = 1.0
# A daemon may be busy for a while (a listing of a million names, a machine that swaps); a minute without any answer
# is longer than whatever is asked of its event loop.
_HUNG_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 60.0
# Who was up for so long has not died of what is there from the start.
_STEADY_S = 60.0

Serve = Callable[[Callable[[], None], int], NoReturn]
"""`serve(ready, restarts)`: the daemon's whole life in this process, which ends with it."""


def keep_up(mountpoint: Path, serve: Serve, begin: Callable[[], None], tell: Callable[[str], None]) -> NoReturn:
    """Has a daemon serve until it ends well. `begin` is called once the first daemon has been started, in this process;
    `tell` writes a line to the log."""
    _Supervisor(mountpoint, serve, tell).run(begin)


class _Supervisor:
    def __init__(self, mountpoint: Path, serve: Serve, tell: Callable[[str], None]) -> None:
        self._mountpoint = mountpoint
        self._serve = serve
        self._tell = tell
        self._daemon: int | None = None
        self._ending = False

    def run(self, begin: Callable[[], None]) -> NoReturn:
        # INT only when the daemon is there and the terminal left behind: until then it is for the process that waits.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        restarts, wait_s, was_up = 0, _FIRST_WAIT_S, False
        while True:
            began = time.monotonic()
            ready = self._start(restarts)
            if not restarts:
                begin()
            status = self._watch(ready)
            is_up = _came_up(ready) or was_up
            if status == 0 or self._ending or not is_up:
                os._exit(max(status, 0))
            was_up = True
            wait_s = _FIRST_WAIT_S if time.monotonic() - began > _STEADY_S else wait_s
            self._tell(f"the daemon ended ({_words(status)}): another takes its place in {wait_s:.1f} s")
            self._rest(wait_s)
            if not self._may_replace():
                self._tell("the mount is gone, or another is there: no daemon is started for it any more")
                os._exit(0)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            restarts += 1

    def _start(self, restarts: int) -> int:
        """Forks a daemon; gives the end of a pipe on which it says when it is ready, and which it closes by ending."""
        reading, writing = os.pipe()
        daemon = os.fork()
        if daemon == 0:
            os.close(reading)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._serve(lambda: _say_ready(writing), restarts)
        os.close(writing)
        self._daemon = daemon
        os.set_blocking(reading, False)
        return reading

    def _watch(self, ready: int) -> int:
        """Waits for the daemon's end and gives its status, negative for a signal; ends one that stands still."""
        assert self._daemon is not None, "it was started"
        descriptor = os.pidfd_open(self._daemon)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(ready, select.POLLIN)
        is_up, looked = False, time.monotonic()
        answered = looked
        try:
            while descriptor not in (events := dict(poll.poll(_DYING_S * 1000))):
                if ready in events:
                    is_up = bool(events[ready] & select.POLLIN)
                    poll.unregister(ready)
                    self._leave_group()
                    continue
                if _is_dying(self._daemon):
                    self._free()
                if time.monotonic() - looked < _LOOK_S:
                    continue
                looked = time.monotonic()
                if not is_up or mounts.state(self._mountpoint) != "hung":
                    answered = time.monotonic()
                elif time.monotonic() - answered > _HUNG_S:
                    self._tell(f"the daemon {self._daemon} has not answered for {_HUNG_S:.0f} s: it is ended")
                    os.kill(self._daemon, signal.SIGKILL)
                    answered = time.monotonic()
        finally:
            os.close(descriptor)
        _, status = os.waitpid(self._daemon, 0)
        self._daemon = None
        return os.waitstatus_to_exitcode(status)

    def _leave_group(self) -> None:
        """As the daemon does when its mount is there."""
        if os.getsid(0) != os.getpid():
            os.setsid()
            signal.signal(signal.SIGINT, self._pass_on)

    def _free(self) -> None:
        """Lets a daemon end that waits for itself, and all who wait for it."""
        from mountd import kernelmount  # ctypes takes 5 ms, of which a mount needs none

        top = mounts.top(self._mountpoint)
        if top is not None and top.fstype == mounts.FSTYPE and kernelmount.abort(self._mountpoint, top.device):
            self._tell("the daemon died in the middle of a request of its own: all requests are given up")

    def _may_replace(self) -> bool:
        """Whether the dead daemon's mount is still there, and nobody else's over it."""
        top = mounts.top(self._mountpoint)
        return top is not None and top.fstype == mounts.FSTYPE and mounts.state(self._mountpoint) == "dead"

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._ending:
            time.sleep(min(left, 0.2))
        if self._ending:
            mounts.clear_dead(self._mountpoint)
            below.give_back(self._mountpoint)
            os._exit(0)

    def _pass_on(self, number: int, frame: object) -> None:
        self._ending = self._ending or number != signal.SIGHUP
        if self._daemon is not None:
            os.kill(self._daemon, number)


def _is_dying(pid: int) -> bool:
    """Whether a process has ended but for threads that cannot (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _came_up(ready: int) -> bool:
    try:
        return bool(os.read(ready, 1))
    except BlockingIOError:  # something that the daemon started has the other end still
        return False
    finally:
        os.close(ready)


def _say_ready(pipe: int) -> None:
    os.write(pipe, b"1")


def _words(status: int) -> str:
    if status >= 0:
        return f"status {status}{', a bug' if status == process.BUG else ''}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
