"""What stand-ins of web services share: a server in a thread that records requests and can be told to fail.

A stand-in says in `answer` what its service answers; this sends it, with ranges where the answer has them, and refuses
whatever is no read. Faults are those of tests/s3server.py.
"""

import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.s3server import Body, Cut, Drip, Fault, Garble, HangUp, Request, Shift, Stall, Status, Truncate, Whole

READS = {"GET", "HEAD"}


@dataclass(frozen=True)
class Reply:
    """An answer. With `ranges`, a request for one gets that of the body; `length` False leaves its length out."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    ranges: bool = False
    length: bool = True


class StandIn:
    """A service, served from a thread between `with` and its end."""

    reads = READS
    protocol = "HTTP/1.1"

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.faults: Callable[[Request], Fault | None] = lambda request: None
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        handler = type("Handler", (_Handler,), {"protocol_version": self.protocol})
        self.http = _Http(("127.0.0.1", port), handler)
        self.http.standin = self
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def answer(self, request: Request) -> Reply:
        """What the service answers to a read."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        return int(self.http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrap(self, tls: ssl.SSLContext) -> None:
        """Speaks HTTPS from now on."""
        self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """The requests of a method whose path has a text in it."""
        return [each for each in self.requests if each.method.startswith(method) and path in each.path]

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self._thread.join()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was first
        self.http.server_close()
        assert {each.method for each in self.requests} <= self.reads, "something was to be written"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    standin: StandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error here; anything else is a bug of this server and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        with self.server.standin.lock:
            self.server.standin.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.standin.lock:
            self.server.standin.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what was asked stands in `requests`."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        # http.server asks for do_<METHOD>: every verb is served, so that those which must never come are recorded.
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        standin = self.server.standin
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        path = unquote(url.path, errors="surrogateescape")
        request = Request(self.command, path, query, headers.get("range", ""), headers, self.path)
        standin.requests.append(request)
        fault = standin.faults(request)
        self.rfile.read(int(headers.get("content-length", 0)))
        if isinstance(fault, HangUp):
            self.close_connection = True
        elif isinstance(fault, Status):
            self._send(Reply(fault.status, fault.headers, fault.code.encode()), fault)
        elif isinstance(fault, Body):
            self._send(Reply(200, {}, fault.content), fault)
        elif request.method not in standin.reads:
            self._send(Reply(405), None)
        else:
            reply = standin.answer(request)
            self._send(_ranged(reply, request, fault) if reply.ranges else reply, fault)

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        self.send_response(reply.status)
        length = {"Content-Length": str(len(reply.body))} if reply.length else {"Connection": "close"}
        for name, value in {**length, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in self._pieces(reply.body, fault):
                self.wfile.write(piece)

    def _pieces(self, body: bytes | memoryview, fault: Fault | None) -> Iterator[bytes | memoryview]:
        """The body in the pieces in which it is sent, with the fault's pauses between."""
        if isinstance(fault, Truncate):
            yield body[: fault.sent_bytes]
            self.close_connection = True
        elif isinstance(fault, Stall):
            yield body[: fault.after_bytes]
            self.server.standin.closing.wait(fault.seconds)
            yield body[fault.after_bytes :]
        elif isinstance(fault, Drip):
            for start in range(0, len(body), fault.bytes_per_piece):
                yield body[start : start + fault.bytes_per_piece]
                if self.server.standin.closing.wait(fault.pause_s):
                    return
        elif isinstance(fault, Garble):
            middle = len(body) // 2
            yield bytes(body[:middle]) + bytes([body[middle] ^ 1]) + bytes(body[middle + 1 :])
        else:
            yield body


def _ranged(reply: Reply, request: Request, fault: Fault | None) -> Reply:
    """The range that was asked for of a whole answer."""
    size = len(reply.body)
    headers = {"Accept-Ranges": "bytes", **reply.headers}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range)
    if not asked or isinstance(fault, Whole):
        return Reply(200, headers, reply.body, length=reply.length)
    start, stop = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size)
    if start >= size:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    if isinstance(fault, Shift):
        start, stop = start + fault.by, min(size, stop + fault.by)
    elif isinstance(fault, Cut):
        stop -= fault.by
    return Reply(
        206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, memoryview(reply.body)[start:stop]
    )
