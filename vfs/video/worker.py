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

One thread receives. Several work: one goes through each GOP, waiting for its bytes, and hands its pictures to others
that encode. At most as many as there are cores are inside a library at once (`_Slots`).
"""

import gc
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from vfs import malloc
from vfs.errors import EgofsError, Timeout, UndecodableVideo
from vfs.extent import Buffer
from vfs.video import board as boards
from vfs.video.decode import Decoder
from vfs.video.encode import encode
from vfs.video.form import Form
from vfs.video.index import VideoIndex, dumps, loads, read_index
from vfs.video.picture import Picture
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
    malloc.keep_freed()
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
        self._free = threading.Semaphore(cores + 1)  # one waits for its frame threads, as a rule
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

    def gop_of(self, frame: int) -> int:
        """The packet that decoding a frame begins with; 0 where there is no such frame, which the decoder will say."""
        index = self.index
        if index is None or not 0 <= frame < index.frame_count:
            return 0
        return index.keyframe_before(int(index.shown[frame]))

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


@dataclass(eq=False, slots=True)
class _Task:
    """Frames to decode, one after the other: of one GOP, so that one codec goes through them. Without a form it is the
    video's index that is asked for."""

    video: _Video
    form: Form | None
    gop: int
    frames: deque[tuple[int, int]]
    """(request, frame) of each that is left."""
    wanted: Sequence[int] = ()
    """Frames that are not asked for yet and will be."""

    def goes_with(self, other: "_Task") -> bool:
        """Whether one codec should go through both."""
        return (self.video, self.gop, self.form) == (other.video, other.gop, other.form)

    def following(self, frame: int) -> list[int]:
        """What will be wanted after this frame, the next first."""
        frames = [each for _, each in self.frames]
        last = frames[-1] if frames else frame
        return frames + [each for each in self.wanted if each > last]


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A picture that is to be encoded."""

    request: int
    name: str
    frame: int
    picture: Picture
    form: Form


class _Worker:
    def __init__(self, wire: Wire, board: boards.Board, threads: int, cores: int) -> None:
        self._wire = wire
        self._board = board
        self._slots = _Slots(board, cores)
        self._videos: dict[int, _Video] = {}
        self._changed = threading.Condition()
        self._cores = cores
        # Guarded by _changed:
        self._decoded: deque[_Decoded] = deque()
        self._urgent: deque[_Task] = deque()
        self._others: deque[_Task] = deque()
        self._under_way: list[_Task] = []
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
        # Who works on it lets go of it in the end; it and its decoder refer to each other.
        self._videos.pop(message["video"], None)
        gc.collect()

    def _do_rest(self, message: Message, body: memoryview) -> None:
        for video in self._videos.values():
            video.rest()
        gc.collect()
        malloc.give_back()

    def _do_index(self, message: Message, body: memoryview) -> None:
        task = _Task(self._videos[message["video"]], None, -1, deque([(message["id"], -1)]))
        with self._changed:
            self._urgent.append(task)
            self._changed.notify()

    def _do_pictures(self, message: Message, body: memoryview) -> None:
        video, form = self._videos[message["video"]], Form(**message["form"])
        gops: dict[int, _Task] = {}
        for request, frame in message["frames"]:
            gop = video.gop_of(frame)
            task = gops.setdefault(gop, _Task(video, form, gop, deque(), message["wanted"]))
            task.frames.append((request, frame))
        with self._changed:
            if message["urgent"]:
                self._urgent.extend(gops.values())
            else:
                self._others.extend(task for task in gops.values() if not self._is_joined(task))
            self._changed.notify(len(gops))

    def _is_joined(self, task: _Task) -> bool:
        """Whether a task is done by somebody who goes through its GOP already, or will. With the lock."""
        for other in (*self._under_way, *self._others):
            if other.frames and other.goes_with(task):
                other.frames.extend(task.frames)
                other.wanted = task.wanted
                return True
        return False

    def _do_drop(self, message: Message, body: memoryview) -> None:
        dropped, gone = set(message["ids"]), []
        with self._changed:
            for task in (*self._others, *self._under_way):
                gone += [request for request, _ in task.frames if request in dropped]
                task.frames = deque(each for each in task.frames if each[0] not in dropped)
        for request in gone:
            self._wire.send({"is": "dropped", "id": request})

    def _do_bytes(self, message: Message, body: memoryview) -> None:
        with self._changed:
            answer = self._answers.pop(message["id"])
        if "error" in message:
            answer.set_exception(failure_of(message["error"]))
        else:
            answer.set_result(body)

    # -- the threads that work: one through each GOP, and others that encode what it finds

    def _work(self, row: int) -> None:
        self._slots.take_row(row)
        while True:
            with self._changed:
                while not (self._decoded or self._urgent or self._others):
                    self._changed.wait()
                if self._decoded:  # first, because they take memory
                    decoded, task = self._decoded.popleft(), None
                else:
                    task = (self._urgent or self._others).popleft()
                    self._under_way.append(task)
            if task is None:
                self._answer(row, decoded.request, decoded.name, decoded.frame, partial(self._encoded, decoded))
                del decoded  # or a thread that waits would hold its picture
                continue
            while self._decode_next(row, task):
                pass
            del task  # or a thread that waits would hold its video

    def _decode_next(self, row: int, task: _Task) -> bool:
        """Decodes the next frame of a task, and encodes it unless others have time for that; whether there was one."""
        with self._changed:
            if not task.frames:
                self._under_way.remove(task)
                return False
            request, frame = task.frames.popleft()
            wanted = task.following(frame)
        self._answer(row, request, task.video.name, frame, lambda: self._decoded_frame(task, request, frame, wanted))
        return True

    def _decoded_frame(self, task: _Task, request: int, frame: int, wanted: list[int]) -> tuple[Message, Buffer] | None:
        """The answer; None where another thread will give it."""
        if task.form is None:
            with self._slots:
                task.video.index = read_index(task.video, task.video.name)
            return {"is": "index", "id": request}, dumps(task.video.index)
        picture = task.video.decoder(self._slots).frame(frame, wanted=wanted)
        decoded = _Decoded(request, task.video.name, frame, picture, task.form)
        return None if task.frames and self._handed_on(decoded) else self._encoded(decoded)

    def _handed_on(self, decoded: _Decoded) -> bool:
        """Has another thread encode it, unless so many wait for that already that it is sooner done here."""
        with self._changed:
            if len(self._decoded) >= 2 * self._cores:
                return False
            self._decoded.append(decoded)
            self._changed.notify()
            return True

    def _encoded(self, decoded: _Decoded) -> tuple[Message, Buffer]:
        with self._slots:
            data = encode(decoded.picture, decoded.form)
        return {"is": "picture", "id": decoded.request, "bytes": len(data)}, data

    def _answer(
        self, row: int, request: int, name: str, frame: int, make: Callable[[], tuple[Message, Buffer] | None]
    ) -> None:
        """Sends what `make` gives, or what went wrong instead."""
        self._board.begin(row, request)
        try:
            answer = make()
        except EgofsError as failure:
            answer = {"is": "failed", "id": request, "error": words_of(failure)}, b""
        except Exception as failure:  # noqa: BLE001  a bug, or what no check foresaw: of this frame alone
            what = UndecodableVideo(f"{name}: frame {frame}: {type(failure).__name__}: {failure}")
            answer = {"is": "failed", "id": request, "error": words_of(what), "bug": traceback.format_exc()}, b""
        self._board.begin(row, 0)
        if answer is not None:
            self._wire.send(*answer)

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
