"""The decoders' processes, from the daemon's side: pictures and indices of videos, whatever their codecs do.

Hides processes, what they are told and when they are replaced. Called by whoever serves frames; imports no codec, and
numpy only for the first index, so that processes can be started while a mount has better to do. A
video's parsers and codecs run in processes of their own (worker.py): one for four cores, each video in one of them, so
that all its readers share what is decoded. They are started when they are first needed, or by `warm`.

When a process dies, or a call in it does not come back for `_HUNG_S`, it is replaced. What it was working on at that
moment is under suspicion: those videos go on in another process, one picture at a time, so that the next death has one
culprit, whose frame then is undecodable. All that merely waited is asked again of the new process.

Any thread may call. One lock; nothing is sent, read or waited for under it. Callbacks come from the threads that
receive, and must not block.
"""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Protocol

from vfs.errors import EgofsError, UndecodableVideo
from vfs.extent import Buffer
from vfs.video.form import Form
from vfs.video.process import Process
from vfs.video.wire import Message, failure_of, words_of

if TYPE_CHECKING:
    from vfs.video.table import VideoIndex

log = logging.getLogger(__name__)

_CORES_A_PROCESS = 4
_MOST_PROCESSES = 4
# Threads of a process beyond two a core: they wait for bytes.
_WAITING_THREADS = 4
_READERS = 32
# The largest picture there may be is encoded as PNG in 8 s.
_HUNG_S = 30.0
_LOOK_S = 1.0
# A process that cannot even begin must not be begun for ever.
_MOST_DEATHS = 4
# A video that was being decoded when a process died is under suspicion for so long.
_SUSPECTED_S = 300.0
# Videos that a process keeps open, by the pictures that their decoders hold, and in number.
_KEPT_BYTES = 512 << 20
_KEPT_VIDEOS = 256
_PICTURES_A_DECODER = 16


class Bytes(Protocol):
    """The bytes of a video, to whoever asks from any thread; both may block, and raise EgofsError."""

    size_bytes: int

    def fetch(self, start: int, length: int) -> Buffer:
        """Exactly this range, and nothing ahead of it."""
        ...

    def read(self, start: int, length: int) -> Buffer:
        """This range, of somebody who may be reading on."""
        ...


@dataclass(frozen=True, eq=False)
class Footage:
    """One version of a video: `identity` names it, `name` is for messages. `index` is None until it is known."""

    identity: str
    name: str
    bytes: Bytes
    index: "VideoIndex | None" = None

    def kept_bytes(self) -> int:
        """What its decoder is reckoned to hold."""
        index = self.index
        if index is None:
            return 0
        return min(_KEPT_BYTES, index.size_bytes + index.width * index.height * 3 // 2 * _PICTURES_A_DECODER)


@dataclass(frozen=True)
class Encoded:
    """A picture's file, padded to its form's size; `used_bytes` of it are not padding."""

    file: memoryview
    used_bytes: int


@dataclass(eq=False)
class _Request:
    footage: Footage
    form: Form | None
    frame: int
    wanted: Sequence[int]
    urgent: bool
    answer: "Future[Encoded] | Future[VideoIndex]"
    number: int = 0
    deaths: int = 0
    """Processes that died while it waited."""


class Workers:
    """See the module's docstring."""

    def __init__(self, start: "Callable[[int, int], Process] | None" = None) -> None:
        """`start` (threads, cores) begins a process."""
        cores = len(os.sched_getaffinity(0))
        lanes = max(1, min(_MOST_PROCESSES, cores // _CORES_A_PROCESS))
        each = -(-cores // lanes)
        begin = start or Process
        self._reading = ThreadPoolExecutor(_READERS, "frames-read")
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._suspects: dict[str, float] = {}
        self._closed = False
        self._lanes = [_Lane(self, lambda: begin(2 * each + _WAITING_THREADS, each)) for _ in range(lanes)]
        self._alone = _Lane(self, lambda: begin(1, 1), alone=True)
        self.restarts = 0
        """Processes that died or were killed since the beginning."""
        self.bugs = 0
        """Failures that nothing foresaw."""

    def warm(self) -> None:
        """Starts the processes, so that the first frame need not wait for it."""
        for lane in self._lanes:
            lane.warm()

    def index(self, footage: Footage) -> "Future[VideoIndex]":
        """The video's index. The future's failure is UndecodableVideo, or what reading the video raised."""
        answer: Future[VideoIndex] = Future()
        self._give([_Request(footage, None, -1, (), True, answer)])
        return answer

    def pictures(
        self, footage: Footage, form: Form, frames: Iterable[int], wanted: Sequence[int], *, urgent: bool
    ) -> "list[Future[Encoded]]":
        """Frames of a video, each as a file; `wanted` are those that will be asked for soon, these included.

        Urgent ones come before all that are not. The futures' failures are those of `index`.
        """
        requests = [_Request(footage, form, frame, wanted, urgent, Future()) for frame in frames]
        self._give(requests)
        return [request.answer for request in requests]  # type: ignore[misc]

    def drop(self, footage: Footage, answers: "Iterable[Future[Encoded]]") -> None:
        """Nobody waits for these any more: those that were not begun are cancelled."""
        self._lane(footage.identity).drop(set(answers))

    def rest(self) -> None:
        """Nobody has asked for anything for a while: decoders and their pictures are given up."""
        for lane in (*self._lanes, self._alone):
            lane.rest()

    def processes(self) -> list[int]:
        """Ids of the processes that run."""
        return [lane.pid for lane in (*self._lanes, self._alone) if lane.pid]

    def close(self) -> None:
        """Ends the processes; what waits for them fails."""
        with self._lock:
            self._closed = True
        for lane in (*self._lanes, self._alone):
            lane.close()
        self._reading.shutdown(wait=False, cancel_futures=True)

    # -- for the lanes

    def number(self) -> int:
        """A number for a request."""
        return next(self._numbers)

    def fetch(self, work: Callable[[], None]) -> None:
        """Has bytes read by a thread that may wait."""
        try:
            self._reading.submit(work)
        except RuntimeError:
            pass  # closed: nobody waits for them

    def died(self, lane: "_Lane", begun: list[_Request], waiting: list[_Request], why: str) -> None:
        """A process is gone: what it worked on goes on alone, the rest as before."""
        if self._closed:
            for request in begun + waiting:
                _fail(request, UndecodableVideo(f"{request.footage.name}: the mount is ending"))
            return
        self.restarts += 1
        names = ", ".join(sorted({f"{request.footage.name} frame {request.frame}" for request in begun}))
        log.error("a decoder's process %s while it worked on %s", why, names or "nothing")
        if lane is self._alone:
            for request in begun:
                words = f"{request.footage.name}: frame {request.frame}: the decoder's process {why}"
                _fail(request, UndecodableVideo(words))
            begun = []
        with self._lock:
            until = time.monotonic() + _SUSPECTED_S
            self._suspects |= {request.footage.identity: until for request in begun}
        again = []
        for request in begun + waiting:
            request.deaths += 1
            if request.deaths < _MOST_DEATHS:
                again.append(request)
            else:
                _fail(request, UndecodableVideo(f"{request.footage.name}: again and again the decoder's process {why}"))
        self._give(again)

    def _give(self, requests: list[_Request]) -> None:
        for lane, group in _grouped(requests, lambda request: self._lane(request.footage.identity)):
            lane.ask(group)

    def _lane(self, identity: str) -> "_Lane":
        with self._lock:
            until = self._suspects.get(identity)
            if until is not None and time.monotonic() < until:
                return self._alone
            self._suspects.pop(identity, None)
        return self._lanes[hash(identity) % len(self._lanes)]


def _grouped(
    requests: list[_Request], lane_of: "Callable[[_Request], _Lane]"
) -> "Iterable[tuple[_Lane, list[_Request]]]":
    groups: dict[_Lane, list[_Request]] = {}
    for request in requests:
        groups.setdefault(lane_of(request), []).append(request)
    return groups.items()


def _as_bytes(index: "VideoIndex") -> bytes:
    from vfs.video.stored import dumps  # only now: it brings numpy

    return dumps(index)


def _as_index(data: memoryview) -> "VideoIndex":
    from vfs.video.stored import loads

    return loads(data)


def _fail(request: _Request, failure: Exception) -> None:
    if request.answer.set_running_or_notify_cancel():
        request.answer.set_exception(failure)


class _Lane:
    """One process after the other, and what it was asked.

    `_telling` orders what is sent (a video before its pictures) and is taken before `_lock`; the thread that receives
    takes `_lock` alone, and so goes on while somebody sends.
    """

    def __init__(self, workers: Workers, begin: "Callable[[], Process]", *, alone: bool = False) -> None:
        self._workers = workers
        self._begin = begin
        self._alone = alone
        self._telling = threading.Lock()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._process: Process | None = None
        self._pending: dict[int, _Request] = {}
        self._known: OrderedDict[str, int] = OrderedDict()
        """Videos that the process has, by identity; used last at the end."""
        self._footage: dict[int, Footage] = {}
        self._closed = False

    @property
    def pid(self) -> int:
        """Of the process; 0 where none runs."""
        process = self._process
        return process.pid if process else 0

    def warm(self) -> None:
        """Starts the process."""
        with self._telling:
            self._running()

    def ask(self, requests: list[_Request]) -> None:
        """Sends requests; their answers come to their futures."""
        with self._telling:
            try:
                process = self._running()
            except OSError as failure:
                for request in requests:
                    _fail(request, UndecodableVideo(f"{request.footage.name}: no decoder can be started: {failure}"))
                return
            messages: list[tuple[Message, Buffer]] = []
            with self._lock:
                for request in requests:
                    request.number = self._workers.number()
                    self._pending[request.number] = request
                for footage in {request.footage for request in requests}:
                    messages += self._introduced(footage)
                messages += [(message, b"") for message in self._orders(requests)]
            for message, body in messages:
                process.send(message, body)

    def drop(self, answers: "set[Future[Encoded]]") -> None:
        """Cancels what was not begun."""
        with self._telling:
            with self._lock:
                process = self._process
                numbers = [number for number, request in self._pending.items() if request.answer in answers]
            if process is not None and numbers:
                process.send({"do": "drop", "ids": numbers}, b"")

    def rest(self) -> None:
        """Has the process give back memory, unless it works."""
        with self._telling:
            with self._lock:
                process = None if self._pending else self._process
            if process is not None:
                process.send({"do": "rest"}, b"")

    def close(self) -> None:
        """Ends the process."""
        with self._telling, self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.close()

    def _running(self) -> "Process":
        """The process, started where there is none. Raises OSError."""
        with self._lock:
            if self._closed:
                raise OSError("the mount is ending")
            if self._process is None:
                self._process = self._begin()
                self._known.clear()
                threading.Thread(target=self._receive, args=(self._process,), name="frames-in", daemon=True).start()
                threading.Thread(target=self._watch, args=(self._process,), name="frames-watch", daemon=True).start()
            return self._process

    def _introduced(self, footage: Footage) -> list[tuple[Message, Buffer]]:
        """What the process must hear before it is asked for this video. With the lock."""
        number = self._known.get(footage.identity)
        if number is not None:
            self._footage[number] = footage
            self._known.move_to_end(footage.identity)
            return []
        number = self._known[footage.identity] = self._workers.number()
        self._footage[number] = footage
        index = _as_bytes(footage.index) if footage.index else b""
        about = {"do": "video", "video": number, "name": footage.name, "size": footage.bytes.size_bytes}
        return [(about, index), *(({"do": "forget", "video": gone}, b"") for gone in self._surplus())]

    def _surplus(self) -> list[int]:
        """Videos that the process may forget. With the lock."""
        gone: list[int] = []
        kept = sum(self._footage[number].kept_bytes() for number in self._known.values())
        while len(self._known) > 1 and (kept > _KEPT_BYTES or len(self._known) > _KEPT_VIDEOS):
            _, number = self._known.popitem(last=False)
            kept -= self._footage[number].kept_bytes()
            gone.append(number)
        # Those that are still being worked on may ask for bytes yet.
        in_use = {request.footage.identity for request in self._pending.values()}
        known = set(self._known.values())
        self._footage = {n: each for n, each in self._footage.items() if n in known or each.identity in in_use}
        return gone

    def _orders(self, requests: list[_Request]) -> Iterable[Message]:
        """The messages that ask; what is asked alike of one video goes together. With the lock."""
        together: dict[tuple[object, ...], list[_Request]] = {}
        for request in requests:
            alike = (request.footage.identity, request.form, id(request.wanted), request.urgent)
            together.setdefault(alike, []).append(request)
        for group in together.values():
            first = group[0]
            video = self._known[first.footage.identity]
            if first.form is None:
                yield from ({"do": "index", "id": request.number, "video": video} for request in group)
                continue
            yield {
                "do": "pictures",
                "video": video,
                "form": asdict(first.form),
                "frames": [(request.number, request.frame) for request in group],
                "wanted": list(first.wanted),
                "urgent": first.urgent,
            }

    # -- the thread that receives

    def _receive(self, process: "Process") -> None:
        try:
            while (received := process.wire.receive(self._room)) is not None:
                self._take(process, *received)
        except OSError as failure:
            log.debug("a decoder's process: %s", failure)
        except Exception:  # it sent what is no answer
            log.exception("a decoder's process said what cannot be understood")
        self._ended(process)

    def _room(self, message: Message, size_bytes: int) -> memoryview:
        """Where a message's bytes go: a picture into its file, behind the header and before the padding."""
        if message["is"] != "picture":
            return memoryview(bytearray(size_bytes))
        form = self._pending[message["id"]].form
        assert form is not None, "only pictures that were asked for come"
        if size_bytes > form.room_bytes:
            raise ValueError(f"a picture of {size_bytes} bytes is larger than {form.room_bytes}")
        header = form.header
        file = bytearray(form.size_bytes)
        file[: len(header)] = header
        return memoryview(file)[len(header) :]

    def _take(self, process: "Process", message: Message, body: memoryview) -> None:
        if message["is"] == "read":
            self._workers.fetch(lambda: self._give_bytes(process, message))
            return
        with self._lock:
            request = self._pending.pop(message["id"])
        if message["is"] == "failed":
            if "bug" in message:
                self._workers.bugs += 1
                log.error("a bug in a decoder's process: %s", message["bug"])
            _fail(request, failure_of(message["error"]))
        elif message["is"] == "dropped":
            request.answer.cancel()
        elif not request.answer.set_running_or_notify_cancel():
            return
        elif message["is"] == "index":
            try:
                request.answer.set_result(_as_index(body))  # type: ignore[arg-type]
            except ValueError as failure:
                request.answer.set_exception(UndecodableVideo(f"{request.footage.name}: {failure}"))
        else:
            file = body.obj
            assert request.form is not None, "only pictures that were asked for come"
            assert isinstance(file, bytearray), "it stands in the room that it was given"
            used = len(request.form.header) + message["bytes"]
            request.answer.set_result(Encoded(memoryview(file).toreadonly(), used))  # type: ignore[arg-type]

    def _give_bytes(self, process: "Process", message: Message) -> None:
        footage = self._footage.get(message["video"])
        answer: Message = {"do": "bytes", "id": message["id"]}
        data: Buffer = b""
        try:
            if footage is None:
                raise UndecodableVideo("the video is closed")
            read = footage.bytes.read if message["on"] else footage.bytes.fetch
            data = read(message["at"], message["length"])
        except EgofsError as failure:
            answer["error"] = words_of(failure)
        except Exception as failure:  # or its reader would wait for ever
            log.exception("a bug in reading a video for its decoder")
            answer["error"] = words_of(UndecodableVideo(f"{type(failure).__name__}: {failure}"))
        process.send(answer, data)

    def _watch(self, process: "Process") -> None:
        while not process.ended.wait(_LOOK_S):
            stuck = process.board.stuck(_HUNG_S)
            if stuck:
                process.hung = stuck
                process.kill()
                return

    def _ended(self, process: "Process") -> None:
        begun = set(process.hung or process.board.running())
        why = process.end()
        if process.hung:
            why = f"did not come back within {_HUNG_S:.0f} s"
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
            self._process = None
        guilty = [request for request in pending if request.number in begun]
        self._workers.died(self, guilty, [request for request in pending if request.number not in begun], why)
