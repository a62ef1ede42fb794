"""What a stand-in of a service can be told to do wrong, and how its handler plays it.

A fault is a value: the stand-in's `faults` gives one, or None, for each request. All stand-ins share the handler and
the server of this module, so that a fault means the same wherever it exists. What is no HTTP (a Drive that refuses,
keys that ended) the stand-ins have in their own words.
"""

import re
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal


@dataclass(frozen=True)
class Status:
    """Answers this error instead."""

    status: int
    code: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Truncate:
    """Announces the whole answer, sends only so many bytes of its body, and hangs up."""

    sent_bytes: int


@dataclass(frozen=True)
class Whole:
    """Answers 200 with the whole object to a request for a range."""


@dataclass(frozen=True)
class Shift:
    """Answers with a Content-Range, and bytes, that lie so many bytes further on."""

    by: int


@dataclass(frozen=True)
class Cut:
    """Answers fewer bytes than asked for, honestly announced."""

    by: int


@dataclass(frozen=True)
class Longer:
    """Sends more bytes than were asked for; not `announced`, the next answer on the connection begins with them."""

    by: int
    announced: bool = True


@dataclass(frozen=True)
class OtherVersion:
    """Answers with the ETag of another version."""


@dataclass(frozen=True)
class Garble:
    """Flips a bit of the body."""


@dataclass(frozen=True)
class Late:
    """Sends nothing for a while (or until the server closes), then the answer."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Sends so many bytes of the body, then nothing for a while (or until the server closes), then the rest."""

    seconds: float
    after_bytes: int = 0


@dataclass(frozen=True)
class Drip:
    """Sends the body a few bytes at a time."""

    bytes_per_piece: int
    pause_s: float


@dataclass(frozen=True)
class HangUp:
    """Closes the connection without any answer."""


@dataclass(frozen=True)
class Reset:
    """Resets the connection (RST): at once, in the middle of the head, or after so many bytes of the body."""

    at: Literal["once", "head"] | int = "once"


@dataclass(frozen=True)
class Body:
    """Answers 200 with this body instead of the real one."""

    content: bytes


@dataclass(frozen=True)
class Redirect:
    """Sends elsewhere; to the same address again where no other is given, which has no end."""

    to: str = ""
    status: int = 307


Fault = (
    Status | Truncate | Whole | Shift | Cut | Longer | OtherVersion | Garble | Late | Stall | Drip | HangUp | Reset
    | Body | Redirect
)  # fmt: skip


def part(asked: str, size: int, fault: object = None) -> tuple[int, int] | None:
    """Start and end of what a request gets that has this Range header; None for the whole file.

    An empty part lies outside of the file.
    """
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if not match or isinstance(fault, Whole):
        return None
    start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    if start >= size:
        return start, start
    if isinstance(fault, Shift) and 0 <= start + fault.by < size:
        return start + fault.by, min(size, stop + fault.by)
    return start, stop - fault.by if isinstance(fault, Cut) else stop


class Server(ThreadingHTTPServer):
    """Serves `store`, which has `closing`, `connections` and `lock`, each connection in a thread."""

    daemon_threads = True
    request_queue_size = 1024
    store: Any
    handshake_s = 0.0
    """How long it takes until it begins to speak TLS."""

    def wrap(self, tls: ssl.SSLContext) -> None:
        """Speaks TLS from now on; hands are shaken in the connection's own thread."""
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error here; anything else is a bug of this server and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """A connection to a stand-in: `serve` says what is answered, `spoil` and `send` play faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def serve(self) -> None:
        """Answers a request of whichever method."""
        raise NotImplementedError

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.server.store.closing.wait(self.server.handshake_s)
            try:
                self.request.do_handshake()
            except OSError as failure:
                raise ConnectionAbortedError("the client does not trust this server, or has gone") from failure
        super().setup()
        with self.server.store.lock:
            self.server.store.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.store.lock:
            self.server.store.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what was asked stands in `requests`."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        # http.server asks for do_<METHOD>: every verb is served, so that those which must never come are recorded.
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    # -- faults

    def spoil(self, fault: object) -> bool:
        """Plays a fault that needs no answer to be known, or the part of it that comes before; whether that is all."""
        if isinstance(fault, Late):
            self.server.store.closing.wait(fault.seconds)
        elif isinstance(fault, HangUp):
            self.close_connection = True
        elif fault == Reset("once"):
            self._reset()
        elif isinstance(fault, Redirect):
            self.send(fault.status, b"", {"Location": fault.to or self.path})
        return isinstance(fault, HangUp | Redirect) or fault == Reset("once")

    def send(self, status: int, body: bytes | memoryview, headers: dict[str, str], fault: object = None) -> None:
        """Sends an answer as the fault has it. A header of the length is added, unless the connection is to close."""
        if isinstance(fault, OtherVersion) and "ETag" in headers:
            headers = {**headers, "ETag": '"0123456789abcdef0123456789abcdef"'}
        if isinstance(fault, Longer) and fault.announced:
            body = bytes(body) + bytes(fault.by)
        length = {} if "Connection" in headers else {"Content-Length": str(len(body))}
        if fault == Reset("head"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            return self._reset()
        self.send_response(status)
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        for piece in self._pieces(body, fault):
            self.wfile.write(piece)
        if isinstance(fault, Reset):
            self._reset()
        return None

    def _pieces(self, body: bytes | memoryview, fault: object) -> Iterator[bytes | memoryview]:
        """The body in the pieces in which it is sent, with the fault's pauses between."""
        closing: threading.Event = self.server.store.closing
        if isinstance(fault, Truncate):
            self.close_connection = True
            yield body[: fault.sent_bytes]
        elif isinstance(fault, Reset):
            yield body[: int(fault.at)]
        elif isinstance(fault, Garble) and body:
            middle = len(body) // 2
            yield bytes(body[:middle]) + bytes([body[middle] ^ 1]) + bytes(body[middle + 1 :])
        elif isinstance(fault, Longer) and not fault.announced:
            yield bytes(body) + bytes(fault.by)
        elif isinstance(fault, Stall):
            yield body[: fault.after_bytes]
            closing.wait(fault.seconds)
            yield body[fault.after_bytes :]
        elif isinstance(fault, Drip):
            for start in range(0, len(body), fault.bytes_per_piece):
                yield body[start : start + fault.bytes_per_piece]
                if closing.wait(fault.pause_s):
                    return
        else:
            yield body

    def _reset(self) -> None:
        """Closes the connection so that the other end hears of it as of a failure, and not as of an end."""
        self.close_connection = True
        with self.server.store.lock:
            self.server.store.connections.discard(self.connection)
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The files that read and write it would keep it open until the handler ends, which closes it politely.
        socket.close(self.connection.detach())
