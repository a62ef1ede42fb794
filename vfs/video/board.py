"""What each thread of a decoder's process is doing, in memory that the daemon shares: readable after the process died.

Written by worker.py's threads, each in its own row, and read by workers.py, which so learns whom a crash or a codec
that never returns belongs to. No locks: a row is two aligned numbers of 8 bytes.
"""

import mmap
import os
import struct
import time

_ROW = struct.Struct("=qq")
_NUMBER = struct.Struct("=q")
BYTES = 4096
MOST_THREADS = BYTES // _ROW.size


class Board:
    """A row a thread: the request it works on (0: none), and since when it has been inside a library (0: it is not).

    Times are of CLOCK_MONOTONIC, which all processes of a machine share.
    """

    def __init__(self, descriptor: int) -> None:
        """Over a file of `BYTES`, whose descriptor may be closed afterwards."""
        self._memory = mmap.mmap(descriptor, BYTES)

    def begin(self, thread: int, request: int) -> None:
        """The thread works on this request from now on; on none with 0."""
        _ROW.pack_into(self._memory, thread * _ROW.size, request, 0)

    def enter(self, thread: int) -> None:
        """The thread goes into a library that might not come back, or has seen it come on."""
        _NUMBER.pack_into(self._memory, thread * _ROW.size + _NUMBER.size, time.monotonic_ns())

    def leave(self, thread: int) -> None:
        """It came back."""
        _NUMBER.pack_into(self._memory, thread * _ROW.size + _NUMBER.size, 0)

    def running(self) -> list[int]:
        """The requests that threads work on."""
        return [request for request, _ in _ROW.iter_unpack(self._memory[:BYTES]) if request]

    def stuck(self, after_s: float) -> list[int]:
        """The requests whose thread has been inside a library for longer."""
        before = time.monotonic_ns() - int(after_s * 1e9)
        return [request for request, since in _ROW.iter_unpack(self._memory[:BYTES]) if request and 0 < since < before]

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()


def make_file() -> int:
    """A descriptor of memory for a board, inherited by no process that is not given it."""
    descriptor = os.memfd_create("egofs-board", os.MFD_CLOEXEC)
    os.truncate(descriptor, BYTES)
    return descriptor
