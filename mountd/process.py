"""How the process of a command begins and ends: quick to import, and out with mount(8)'s exit statuses.

Called by the command line and the mount helper, and by the daemon for its statuses.
"""

import gc
import os
import signal
import sys
from typing import NoReturn

from vfs.errors import EgofsError, OptionError

_PR_SET_PDEATHSIG = 1
USAGE, SYSTEM, BUG, INTERRUPTED, FAILED = 1, 2, 4, 8, 32


class DaemonFailed(EgofsError):
    """The daemon ended before it had mounted; carries its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def begin() -> None:
    """Called before anything large is imported; `settle` when everything is."""
    # Nothing imported is garbage: 10 ms of a mount.
    gc.disable()


def settle() -> None:
    """Collects garbage from now on; what was imported stays, and no collection has to look at it again."""
    gc.freeze()
    gc.enable()


def exit_status(failure: BaseException) -> int:
    """mount(8)'s status for a failure."""
    if isinstance(failure, DaemonFailed):
        return failure.status
    if isinstance(failure, OptionError):
        return USAGE
    return FAILED if isinstance(failure, EgofsError) else BUG


def end_with_parent() -> None:
    """Has the kernel kill this process when the one that forked it dies (prctl(2), PR_SET_PDEATHSIG)."""
    import ctypes  # 5 ms, of which a mount needs none

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave(status: int) -> NoReturn:
    """Ends the process without taking every module down in order, for which a person would wait 20 ms after a mount."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as Python has it where the descriptor was closed
            stream.flush()
    os._exit(status)
