"""Messages between the daemon and its decoders' processes: a JSON object and bytes, over a stream socket.

Called by workers.py (the daemon's side) and worker.py (the other). Both sides are of one installation, so nothing is
negotiated. What comes from a decoder is data and never code: no pickle, because a codec that a hostile video has
taken over could otherwise take over the daemon. One thread receives; several may send.
"""

import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from vfs import errors
from vfs.errors import EgofsError
from vfs.extent import Buffer

Message = dict[str, Any]

_HEAD = struct.Struct("<IQ")
_MOST_TEXT_BYTES = 1 << 20
_MOST_BODY_BYTES = 1 << 30
# The socket holds a picture of 1080p, so that who sends it does not have to wait for who receives.
SOCKET_BYTES = 1 << 20


class Wire:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)

    def send(self, message: Message, body: Buffer = b"") -> None:
        """Returns when it is in the socket. Raises OSError where the other side is gone."""
        text = json.dumps(message, separators=(",", ":")).encode()
        view = memoryview(body).cast("B")
        with self._sending:
            self._send_all(b"".join((_HEAD.pack(len(text), len(view)), text)), view)

    def _send_all(self, head: bytes, view: memoryview) -> None:
        sent = self._socket.sendmsg([head, view])
        if sent < len(head):
            self._socket.sendall(head[sent:])
            sent = len(head)
        if sent - len(head) < len(view):
            self._socket.sendall(view[sent - len(head) :])

    def receive(self, room: Callable[[Message, int], memoryview] | None = None) -> tuple[Message, memoryview] | None:
        """The next message and its bytes, which stand at the beginning of what `room` gave for so many; None at the
        end. Raises OSError, and ValueError for what is no message."""
        head = memoryview(bytearray(_HEAD.size))
        if not self._fill(head):
            return None
        text_bytes, body_bytes = _HEAD.unpack(head)
        if text_bytes > _MOST_TEXT_BYTES or body_bytes > _MOST_BODY_BYTES:
            raise ValueError("a decoder's process sends what is no message")
        text = memoryview(bytearray(text_bytes))
        if not self._fill(text):
            return None
        message = json.loads(bytes(text))
        if not isinstance(message, dict):
            raise ValueError("a decoder's process sends what is no message")
        body = room(message, body_bytes) if room else memoryview(bytearray(body_bytes))
        return (message, body) if self._fill(body[:body_bytes]) else None

    def _fill(self, view: memoryview) -> bool:
        while len(view):
            got = self._socket.recv_into(view)
            if got == 0:
                return False
            view = view[got:]
        return True

    def close(self) -> None:
        """Both sides see the end, whatever their threads are doing."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def words_of(failure: EgofsError) -> list[str]:
    """A failure as it is sent."""
    return [type(failure).__name__, str(failure)]


def failure_of(words: list[str]) -> EgofsError:
    """The failure that was sent."""
    kind = getattr(errors, words[0], None)
    if isinstance(kind, type) and issubclass(kind, EgofsError):
        return kind(words[1])
    return EgofsError(words[1])
