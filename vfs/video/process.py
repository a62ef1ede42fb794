"""One decoder's process: how it is started, spoken to and ended.

Called by workers.py, which knows what it is asked. It gets the socket, the board and nothing else that this process has
open, above all not the descriptor of a mount, which would outlive it there. Any thread may call.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from vfs.extent import Buffer
from vfs.video import board as boards
from vfs.video.wire import Message, Wire

log = logging.getLogger(__name__)

_CLOSE_S = 5.0


class Process:
    """A process of worker.py and the way to it."""

    def __init__(self, threads: int, cores: int) -> None:
        """Returns before it has begun to work. Raises OSError."""
        ours, its = socket.socketpair()
        shared = boards.make_file()
        try:
            self.board = boards.Board(shared)
            call = f"main({its.fileno()}, {shared}, {min(threads, boards.MOST_THREADS)}, {cores})"
            self._popen = subprocess.Popen(
                [sys.executable, "-c", self.program(call), "egofs-decoder"],  # the last word is for who looks at `ps`
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(its.fileno(), shared),
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
            os.close(shared)
        self.wire = Wire(ours)
        self.pid = self._popen.pid
        self.ended = threading.Event()
        self.hung: list[int] = []
        """Requests for which it was killed."""

    @staticmethod
    def program(call: str) -> str:
        """What it runs, which ends with this call of worker.py. Where this module was found, that one is."""
        top = str(Path(__file__).parents[2])
        return f"import sys; sys.path.insert(0, {top!r}); from vfs.video.worker import main; {call}"

    def send(self, message: Message, body: Buffer) -> None:
        """To a process that has ended nothing is sent: who receives from it sees to the rest."""
        try:
            self.wire.send(message, body)
        except OSError as failure:
            log.debug("a decoder's process is gone: %s", failure)

    def kill(self) -> None:
        """At once, whatever it is doing."""
        self._popen.kill()

    def end(self) -> str:
        """Called when nothing comes any more: sees it end, and says how."""
        self.ended.set()
        self.wire.close()
        try:
            status = self._popen.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._popen.wait()
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def close(self) -> None:
        """Has it end."""
        self.wire.close()
