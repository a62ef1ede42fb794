"""A decoder's process: everything that touches bytes of a video with parsers and codecs happens in here.

Started by workers.py and spoken to over a socket (wire.py); ends when that does. A codec that crashes ends this process
and not the mount, one that hangs is killed with it, and what a hostile header asks for is refused beyond
`_MOST_MEMORY_BYTES`. It opens no file and no network: bytes of a video are asked for from the daemon.

    do video     name, size, and its index where the daemon has that           is  -
    do index     the index of a video                                          is  index, or failed
    do pictures  frames of a video, encoded; those asked for urgently first    is  picture a frame, or failed
    do drop      pictures that nobody waits for any more                       is  -
    do bytes     (the answer to read)                                          is  read: bytes of a video
    do forget    a video                                                       is  -
    do rest      nothing was asked for a while: memory is given back           is  -

One thread receives. Several work, each on one picture at a time, and wait for bytes; at most as many as there are
cores are inside a codec at once (`_Slots`).
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from vfs.errors import EgofsError, Timeout, UndecodableVideo
from vfs.extent import Buffer
from vfs.video import board as boards
from vfs.video.decode import Decoder
from vfs.video.encode import encode
from vfs.video.form import Form
from vfs.video.index import VideoIndex, dumps, loads, read_index
from vfs.video.wire import Message, Wire, failure_of, words_of

_MOST_MEMORY_BYTES = 6 << 30
"""Of addresses: pictures of 2^26 pixels, 16 of them in a codec, twice; the libraries take 0.5 GiB."""

_READ_S = 75.0
"""For bytes: the daemon gives them or fails within 60 s."""

_KEPT_BYTES = 48 << 20
"""Decoded pictures kept a video."""


def main(descriptor: int, board: int, threads: int, cores: int) -> None:
    """Serves the socket with that number until it ends."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal's are meant for the daemon, which ends this process
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = _Worker(Wire(socket.socket(fileno=descriptor)), boards.Board(board), threads, cores)
    os.close(board)
    status = 1
    try:
        worker.serve()
        status = 0
    except OSError:
        status = 0  # the daemon has gone
    finally:
        sys.stderr.flush()
        os._exit(status)  # threads may be anywhere


class _Slots:
    """Room for so many threads inside libraries at once; the board hears who is. Who waits for bytes is not."""

    def __init__(self, board: boards.Board, cores: int) -> None:
        self._board = board
        self._free = threading.Semaphore(cores)
        self._mine = threading.local()

    def take_row(self, row: int) -> None:
        """Whose calls this thread's are, on the board."""
        self._mine.row = row
        self._mine.inside = False

    def __enter__(self) -> None:
        self._free.acquire()
        self._mine.inside = True
        self._board.enter(self._mine.row)

    def pause(self) -> None:
        """The library has asked for bytes."""
        if self._is_inside():
            self._board.leave(self._mine.row)
            self._free.release()

    def go_on(self) -> None:
        """It has them."""
        if self._is_inside():
            self._free.acquire()
            self._board.enter(self._mine.row)

    def _is_inside(self) -> bool:
        return getattr(self._mine, "inside", False)  # threads that a parser reads with have no row

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mine.inside = False
        self._board.leave(self._mine.row)
        self._free.release()


class _Video:
    """A video as the daemon named it. Is a reader of its bytes, too."""

    def __init__(self, worker: "_Worker", number: int, name: str, size_bytes: int, index: VideoIndex | None) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.index = index
        self._number = number
        self._worker = worker
        self._making = threading.Lock()
        self._decoder: Decoder | None = None

    def read(self, start: int, length: int) -> Buffer:
        """Bytes at a place of their own: those and no more are fetched."""
        return self._worker.ask_bytes(self._number, start, length, goes_on=False)

    def read_on(self, start: int, length: int) -> Buffer:
        """Bytes that follow those read before: more may be fetched ahead."""
        return self._worker.ask_bytes(self._number, start, length, goes_on=True)

    def decoder(self, slots: _Slots) -> Decoder:
        """The one decoder of this video."""
        with self._making:
            if self._decoder is None:
                if self.index is None:
                    raise UndecodableVideo(f"{self.name}: its index was not asked for before its frames")
                self._decoder = Decoder(self, self.index, self.name, kept_bytes=_KEPT_BYTES, slots=slots)
            return self._decoder

    def rest(self) -> None:
        """Lets go of the decoder and its pictures; who is in the middle of one goes on with it."""
        with self._making:
            self._decoder = None


@dataclass(frozen=True, slots=True)
class _Task:
    request: int
    video: _Video
    frame: int = -1
    """-1: the index is asked for."""
    form: Form | None = None
    wanted: tuple[int, ...] = ()


class _Worker:
    def __init__(self, wire: Wire, board: boards.Board, threads: int, cores: int) -> None:
        self._wire = wire
        self._board = board
        self._slots = _Slots(board, cores)
        self._videos: dict[int, _Video] = {}
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._urgent: deque[_Task] = deque()
        self._others: deque[_Task] = deque()
        self._dropped: set[int] = set()
        self._answers: dict[int, Future[memoryview]] = {}
        self._reads = 0
        for row in range(threads):
            threading.Thread(target=self._work, args=(row,), name=f"decode-{row}", daemon=True).start()

    def serve(self) -> None:
        """Takes messages until there are no more."""
        while (received := self._wire.receive()) is not None:
            message, body = received
            getattr(self, f"_do_{message['do']}")(message, body)

    # -- what the daemon says

    def _do_video(self, message: Message, body: memoryview) -> None:
        index = loads(body) if len(body) else None
        number = message["video"]
        self._videos[number] = _Video(self, number, message["name"], message["size"], index)

    def _do_forget(self, message: Message, body: memoryview) -> None:
        # Who works on it lets go of it in the end.
        self._videos.pop(message["video"], None)

    def _do_rest(self, message: Message, body: memoryview) -> None:
        for video in self._videos.values():
            video.rest()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc
            trim(0)

    def _do_index(self, message: Message, body: memoryview) -> None:
        self._put([_Task(message["id"], self._videos[message["video"]])], urgent=True)

    def _do_pictures(self, message: Message, body: memoryview) -> None:
        video, form = self._videos[message["video"]], Form(**message["form"])
        wanted = tuple(message["wanted"])
        tasks = [_Task(request, video, frame, form, wanted) for request, frame in message["frames"]]
        self._put(tasks, urgent=message["urgent"])

    def _do_drop(self, message: Message, body: memoryview) -> None:
        dropped = set(message["ids"])
        with self._changed:
            gone = [task for task in self._others if task.request in dropped]
            for task in gone:
                self._others.remove(task)
        for task in gone:
            self._wire.send({"is": "dropped", "id": task.request})

    def _do_bytes(self, message: Message, body: memoryview) -> None:
        with self._changed:
            answer = self._answers.pop(message["id"])
        if "error" in message:
            answer.set_exception(failure_of(message["error"]))
        else:
            answer.set_result(body)

    def _put(self, tasks: list[_Task], *, urgent: bool) -> None:
        with self._changed:
            (self._urgent if urgent else self._others).extend(tasks)
            self._changed.notify(len(tasks))

    # -- the threads that work

    def _work(self, row: int) -> None:
        self._slots.take_row(row)
        while True:
            with self._changed:
                while not (self._urgent or self._others):
                    self._changed.wait()
                task = (self._urgent or self._others).popleft()
            self._board.begin(row, task.request)
            answer, body = self._done(task)
            self._board.begin(row, 0)
            self._wire.send(answer, body)

    def _done(self, task: _Task) -> tuple[Message, Buffer]:
        try:
            if task.form is None:
                index = task.video.index = self._parsed(task.video)
                return {"is": "index", "id": task.request}, dumps(index)
            picture = task.video.decoder(self._slots).frame(task.frame, wanted=task.wanted)
            with self._slots:
                data = encode(picture, task.form)
            return {"is": "picture", "id": task.request, "bytes": len(data)}, data
        except EgofsError as failure:
            return {"is": "failed", "id": task.request, "error": words_of(failure)}, b""
        except Exception as failure:  # noqa: BLE001  a bug, or what no check foresaw: of this frame alone
            what = UndecodableVideo(f"{task.video.name}: frame {task.frame}: {type(failure).__name__}: {failure}")
            return {"is": "failed", "id": task.request, "error": words_of(what)}, b""

    def ask_bytes(self, video: int, start: int, length: int, *, goes_on: bool) -> memoryview:
        """A range of a video, from the daemon. Raises what reading it raised there."""
        answer: Future[memoryview] = Future()
        with self._changed:
            self._reads += 1
            number = self._reads
            self._answers[number] = answer
        self._slots.pause()
        self._wire.send({"is": "read", "id": number, "video": video, "at": start, "length": length, "on": goes_on})
        try:
            return answer.result(_READ_S)
        except TimeoutError as failure:
            raise Timeout(f"no bytes came within {_READ_S:.0f} s") from failure
        finally:
            self._slots.go_on()

    def _parsed(self, video: _Video) -> VideoIndex:
        with self._slots:
            return read_index(video, video.name)
