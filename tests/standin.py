"""What stand-ins of web services share: a server in a thread that records requests and can be told to fail.

A stand-in says in `answer` what its service answers; this sends it, with ranges where the answer has them, and refuses
whatever is no read. Faults are those of tests/faults.py.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests import faults
from tests.faults import Body, Fault, Status
from tests.s3server import Request

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
        self.http = faults.Server(("127.0.0.1", port), handler)
        self.http.store = self
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
        self.http.wrap(tls)

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


class _Handler(faults.Handler):
    def serve(self) -> None:
        standin: StandIn = self.server.store
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        path = unquote(url.path, errors="surrogateescape")
        request = Request(self.command, path, query, headers.get("range", ""), headers, self.path)
        standin.requests.append(request)
        fault = standin.faults(request)
        self.rfile.read(int(headers.get("content-length", 0)))
        if self.spoil(fault):
            return
        if isinstance(fault, Status):
            self._send(Reply(fault.status, fault.headers, fault.code.encode()), fault)
        elif isinstance(fault, Body):
            self._send(Reply(200, {}, fault.content), fault)
        elif request.method not in standin.reads:
            self._send(Reply(405), None)
        else:
            reply = standin.answer(request)
            self._send(_ranged(reply, request, fault) if reply.ranges else reply, fault)

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        self.send(
            reply.status, reply.body, {**({} if reply.length else {"Connection": "close"}), **reply.headers}, fault
        )


def _ranged(reply: Reply, request: Request, fault: Fault | None) -> Reply:
    """The range that was asked for of a whole answer."""
    size = len(reply.body)
    headers = {"Accept-Ranges": "bytes", **reply.headers}
    part = faults.part(request.range, size, fault)
    if part is None:
        return Reply(200, headers, reply.body, length=reply.length)
    start, stop = part
    if start == stop:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206, headers, memoryview(reply.body)[start:stop])
