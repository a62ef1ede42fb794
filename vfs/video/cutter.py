"""Clips out of videos, from the daemon's side: each is cut in a process of its own (cut.py), whatever codecs do there.

Called by whoever has a video's bytes and wants a part of it as a file; imports no codec. Such a process takes half a
second to start, which is little beside finding a video and encoding ten seconds of it, and knows of no other video. It
gets a socket and nothing else that this process has open. Any thread may call; every call ends within its deadline.
"""

import logging
import signal
import socket
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from vfs.errors import EgofsError, Timeout, UndecodableVideo
from vfs.extent import Buffer
from vfs.video.wire import Message, Wire, failure_of, words_of

if TYPE_CHECKING:
    from vfs.video.table import ByteReader

log = logging.getLogger(__name__)

_AT_ONCE = 2
"""Each keeps one processor busy; reading frames must go on beside them."""
_CUT_S = 120.0
"""For one clip, its bytes included. A clip of ten seconds of 360p takes 5, of 1080p 42, on a processor of its own."""
_WAIT_S = 60.0
_END_S = 5.0


class Cutter:
    """Cuts clips, so many at a time."""

    def __init__(self, *, cut_s: float = _CUT_S, wait_s: float = _WAIT_S) -> None:
        """`cut_s` is the deadline of one clip, `wait_s` of waiting for those before."""
        self._cut_s = cut_s
        self._wait_s = wait_s
        self._free = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._waiting = 0
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def cut(self, reader: "ByteReader", name: str, start_s: Fraction, stop_s: Fraction) -> memoryview:
        """The clip's file. Raises what cut.cut does, and Timeout."""
        with self._lock:
            self._waiting += 1
        came = self._free.acquire(timeout=self._wait_s)
        with self._lock:
            self._waiting -= 1
            others = self._waiting
        if not came:
            raise Timeout(f"{name}: {_AT_ONCE} clips are being cut, and {others} more wait: try again later")
        try:
            return self._cut(reader, name, start_s, stop_s)
        finally:
            self._free.release()

    def close(self) -> None:
        """Ends what is being cut; who waits for it gets a failure."""
        with self._lock:
            self._closed = True
            running = set(self._running)
        for process in running:
            process.kill()

    def _cut(self, reader: "ByteReader", name: str, start_s: Fraction, stop_s: Fraction) -> memoryview:
        ours, its = socket.socketpair()
        try:
            process = self._started(its.fileno())
        except OSError as failure:
            ours.close()
            raise UndecodableVideo(f"{name}: no process can be started to cut it: {failure}") from failure
        finally:
            its.close()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._cut_s, end)
        timer.daemon = True
        timer.start()
        wire = Wire(ours)
        try:
            wire.send({"name": name, "size": reader.size_bytes, "start": str(start_s), "stop": str(stop_s)})
            clip = _served(wire, reader)
        except (OSError, ValueError) as failure:
            log.debug("the process that cuts %s is gone: %s", name, failure)
            clip = None
        finally:
            timer.cancel()
            wire.close()
            status = self._ended(process)
        if clip is not None:
            return clip
        if late.is_set():
            raise Timeout(f"{name}: it was not cut within {self._cut_s:g} s")
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        log.error("a process that cut %s %s", name, how)
        raise UndecodableVideo(f"{name}: the process that cut it {how}")

    def _started(self, descriptor: int) -> "subprocess.Popen[bytes]":
        top = str(Path(__file__).parents[2])
        program = f"import sys; sys.path.insert(0, {top!r}); from vfs.video.cut import main; main({descriptor})"
        with self._lock:
            if self._closed:
                raise OSError("the mount is ending")
            process = subprocess.Popen(
                [sys.executable, "-c", program, "egofs-cutter"],  # the last word is for who looks at `ps`
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                cwd="/",
            )
            self._running.add(process)
            return process

    def _ended(self, process: "subprocess.Popen[bytes]") -> int:
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status


def _served(wire: Wire, reader: "ByteReader") -> memoryview | None:
    """Gives the process the bytes that it asks for, until it gives the clip; None where it ends without.

    Raises what it says went wrong, and, as itself, what reading the video raised.
    """
    raised: EgofsError | None = None
    while (received := wire.receive()) is not None:
        message, body = received
        if message.get("is") == "clip":
            return body
        if message.get("is") == "failed":
            raise raised or failure_of(message["error"])
        answer: Message = {}
        data: Buffer = b""
        start, length = _range(message, reader.size_bytes)
        try:
            data = reader.read(start, length)
        except EgofsError as failure:
            raised = failure
            answer = {"error": words_of(failure)}
        wire.send(answer, data)
    return None


def _range(message: Message, size_bytes: int) -> tuple[int, int]:
    """The bytes that the process asks for, which may be anything once a codec has been taken over."""
    start, length = int(message["at"]), int(message["length"])
    if start < 0 or not 0 < length <= size_bytes - start:
        raise ValueError(f"{length} bytes at {start} are none of the video's")
    return start, length
