"""A page for this machine alone over HTTP: `GET /metrics` at a port of the loopback addresses.

Hides HTTP and its threads. Called by daemon.py: the port is taken before anything is mounted, so that one in use is a
wrong option and no surprise, and answered once the mount is. Knows nothing of what is on the page. Who asks slowly, or
without end, holds one of a few threads and not the mount.
"""

import errno
import http.server
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any

from vfs.errors import OptionError

log = logging.getLogger(__name__)

PATH = "/metrics"
# Of the text format's version 0.0.4, which every Prometheus reads.
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE_S = 10.0  # for a request to come, and for an answer to be taken
_CALLS = 8  # at a time; who comes beyond that is hung up on
# Whether a machine has IPv6, and this address of it, is its own affair.
_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Endpoint:
    """A port that has been taken."""

    def __init__(self, port: int) -> None:
        """Raises OptionError where the port cannot be had."""
        self._listeners: list[socket.socket] = []
        self._servers: list[_Server] = []
        for family, address in _ADDRESSES:
            try:
                self._listeners.append(_bound(family, address, port))
            except OSError as failure:
                if family == socket.AF_INET6 and failure.errno != errno.EADDRINUSE:
                    continue
                self.close()
                why = failure.strerror or failure
                raise OptionError(f"metrics_port={port}: {why} ({address}): choose another port") from failure

    def serve(self, page: Callable[[], bytes]) -> None:
        """Answers from now on, in threads of its own, with the page as it is then."""
        free = threading.Semaphore(_CALLS)
        while self._listeners:
            server = _Server(self._listeners.pop(), page, free)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Gives the port back. Answers under way go on until they end or the process does."""
        for listener in self._listeners:
            listener.close()
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # What a mount before this one answered is still in TIME_WAIT; who listens keeps the port all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_CALLS)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers at a listening socket."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, page: Callable[[], bytes], free: threading.Semaphore) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()  # it was made for an address, and is not bound
        self.socket = listener
        self.page = page
        self._free = free

    def process_request(self, request: Any, client_address: Any) -> None:
        """Has a thread answer, if there are not too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone, or the page has a bug; neither is to be printed."""
        log.debug("a request for metrics was broken off", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection, one request."""

    timeout = _PATIENCE_S
    server_version = "egofs"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """The page, at its path alone."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, explain=f"there is {PATH}")
            return
        try:
            page = self.server.page()
        except Exception:
            log.exception("a bug in making the metrics")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""
