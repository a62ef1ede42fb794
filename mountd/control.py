"""The control socket of a mount: what can be asked of a running daemon beside reading, and how it is asked.

One Unix socket a mount, for its owner and root alone. A request is a line of JSON, `{"do": NAME, …}`; it is answered by
any number of lines `{"progress": {…}}` and one last `{"done": {…}}` or `{"failed": TEXT, "status": N}`. Who closes the
connection breaks off what was asked. An open file may come with a request (unix(7), SCM_RIGHTS): so the daemon reads
what the asker may read, be it a pipe, and needs no rights of its own.

Both ends stand here. The daemon's end runs in threads of its own, so that it answers while the event loop is busy;
operations block, and say how far they are with `Call.tell`. Called by daemon.py (Server) and by commands (ask).
"""

import json
import logging
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from mountd import mounts, process
from vfs.errors import EgofsError, OptionError

log = logging.getLogger(__name__)

_CALLS = 32  # at a time; who comes beyond that is told so
_REQUEST_BYTES = 256 << 20  # a list of a million paths is some 80 MB
_PATIENCE_S = 10.0  # for the other end to take or give a piece of a message
_DRAINED_PIECES = 256  # of the request of somebody who is refused
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Gone(Exception):
    """The asker has gone: what was asked for is broken off."""


class Call:
    """One request that is being answered, as the operation sees it."""

    def __init__(self, connection: socket.socket, descriptors: list[int] | None = None) -> None:
        self._connection = connection
        self._descriptors = [] if descriptors is None else descriptors
        self.name = ""
        """Of the operation."""
        self.told: dict[str, Any] = {}
        """The progress that was told last."""

    def descriptor(self) -> int | None:
        """The open file that came with the request: from now on the operation's to close."""
        return self._descriptors.pop() if self._descriptors else None

    def close(self) -> None:
        """Closes a file that no operation took."""
        while (descriptor := self.descriptor()) is not None:
            os.close(descriptor)

    def tell(self, **facts: Any) -> None:
        """Sends progress. Raises Gone where nobody listens any more."""
        self.told = facts
        self._send({"progress": facts})
        self.go_on()

    def go_on(self) -> None:
        """Raises Gone where the asker has gone. Costs a system call."""
        if _has_gone(self._connection):
            raise Gone

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as failure:
            raise Gone from failure


Operation: TypeAlias = Callable[[dict[str, Any], Call], dict[str, Any]]
"""`operation(words, call)`: does what was asked, with these words; gives what the last line tells. Raises EgofsError,
whose text the asker sees, and lets Gone through."""


class Server:
    """Answers at a mount's socket until it is closed."""

    def __init__(self, device: str, operations: Mapping[str, Operation]) -> None:
        """`device` is the mount's device number, MAJOR:MINOR. Raises OSError where no socket can be made."""
        self._operations = operations
        self._free = threading.Semaphore(_CALLS)
        self._calls: set[Call] = set()
        self.path = _place_of_own(device)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Under its name only when it can be asked, or it would look like one that was left.
        coming = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        before = os.umask(0o177)
        try:
            self._listener.bind(str(coming))
        finally:
            os.umask(before)
        self._listener.listen(_CALLS)
        coming.rename(self.path)  # over one that a mount which had this number before has left
        _sweep(self.path.parent)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def told(self, name: str) -> list[dict[str, Any]]:
        """How far each call of an operation is that is under way and has said so."""
        return [call.told for call in self._calls.copy() if call.name == name and call.told]

    def close(self) -> None:
        """Takes the socket away. Requests under way go on until they end or the process does."""
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._free.acquire(blocking=False):
                _refuse(connection, f"{_CALLS} requests are under way: try again later")
                continue
            threading.Thread(target=self._serve, args=(connection,), name="control-call", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_PATIENCE_S)
                self._answer(connection)
        except (OSError, Gone):
            pass
        finally:
            self._free.release()

    def _answer(self, connection: socket.socket) -> None:
        uid = peer_uid(connection)
        if uid not in (0, os.geteuid()):
            _refuse(connection, f"the mount belongs to uid {os.geteuid()}: ask as that user, or as root")
            return
        descriptors: list[int] = []
        call = Call(connection, descriptors)
        try:
            words = _words(connection, descriptors)
            call.name = str(words.pop("do", ""))
            operation = self._operations.get(call.name)
            if operation is None:
                raise OptionError("the mount does not know what was asked of it: it runs another version; mount anew")
            self._calls.add(call)
            call._send({"done": operation(words, call)})
        except EgofsError as failure:
            call._send({"failed": str(failure), "status": process.exit_status(failure)})
        except Gone:
            raise
        except Exception as failure:
            log.exception("a bug in an operation of the control socket")
            call._send({"failed": f"a bug: {type(failure).__name__}: {failure}", "status": process.BUG})
        finally:
            self._calls.discard(call)
            call.close()


def ask(
    mount: mounts.Mount,
    what: str,
    words: Mapping[str, Any] | None = None,
    on_progress: Callable[[dict[str, Any]], None] = lambda facts: None,
    timeout_s: float | None = 30.0,
    descriptor: int | None = None,
) -> dict[str, Any]:
    """Has a mount do something and gives what it answers. `timeout_s` is how long it may say nothing; `descriptor` an
    open file that the daemon is to read.

    Raises what the operation raised, as `process.DaemonFailed` with its text and status; MountRefused where the daemon
    cannot be asked, with the reason.
    """
    with _connected(mount) as connection:
        connection.settimeout(timeout_s)
        try:
            request = json.dumps({"do": what, **(words or {})}).encode() + b"\n"
            sent = socket.send_fds(connection, [request], [descriptor]) if descriptor is not None else 0
            connection.sendall(request[sent:])
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "progress" in answer:
                        on_progress(answer["progress"])
                    elif "failed" in answer:
                        raise process.DaemonFailed(answer["failed"], int(answer["status"]))
                    else:
                        done: dict[str, Any] = answer["done"]
                        return done
        except TimeoutError as failure:
            raise mounts.MountRefused(f"{mount.mountpoint}: its daemon said nothing for {timeout_s:.0f} s") from failure
        except (OSError, ValueError) as failure:
            raise mounts.MountRefused(f"{mount.mountpoint}: its daemon broke off: {failure}") from failure
    raise mounts.MountRefused(f"{mount.mountpoint}: its daemon ended while it was asked")


def texts(words: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts among the words of a request. Raises OptionError where it is none."""
    found = words.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise OptionError(f"{name}: a list of texts is wanted there")
    return found


def peer_uid(connection: socket.socket) -> int:
    """Whose the process at the other end is (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def pid_of(mount: mounts.Mount) -> int | None:
    """The process at a mount's socket, be it stopped or not; None where there is none, or it may not be asked."""
    try:
        with _connected(mount) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid: int = _CREDENTIALS.unpack(credentials)[0]
            return pid or None  # 0: it is not of this namespace
    except (mounts.MountRefused, OSError):
        return None


def _connected(mount: mounts.Mount) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(_PATIENCE_S)
    try:
        for folder in _folders(mount.uid):
            with suppress(FileNotFoundError):
                connection.connect(str(folder / _name(mount.device)))
                if peer_uid(connection) not in (0, mount.uid):
                    raise mounts.MountRefused(f"{mount.mountpoint}: its socket is another user's and is not used")
                return connection
    except PermissionError as failure:
        connection.close()
        raise mounts.MountRefused(
            f"{mount.mountpoint}: it belongs to uid {mount.uid}: ask as that user, or as root"
        ) from failure
    except (OSError, mounts.MountRefused) as failure:
        connection.close()
        if isinstance(failure, mounts.MountRefused):
            raise
        raise mounts.MountRefused(
            f"{mount.mountpoint}: its daemon does not answer ({failure.strerror or failure}): mount it again"
        ) from failure
    connection.close()
    raise mounts.MountRefused(f"{mount.mountpoint}: it has no control socket: umount it, and mount it again")


def _name(device: str) -> str:
    """Device numbers are one mount's in all of the machine, also where containers have mount points of one name."""
    return f"{device.replace(':', '-')}.sock"


def _folders(uid: int) -> list[Path]:
    """Where the sockets of a user's mounts may be, whatever the environment says: others have to find them too."""
    first = Path("/run/egofs") if uid == 0 else Path(f"/run/user/{uid}/egofs")
    return [first, Path(f"/tmp/egofs-{uid}")]


def _place_of_own(device: str) -> Path:
    uid = os.geteuid()
    failures = []
    for folder in _folders(uid):
        try:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            facts = folder.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != uid or facts.st_mode & 0o077:
                raise PermissionError(f"{folder}: not a folder of uid {uid} alone")
            return folder / _name(device)
        except OSError as failure:
            failures.append(str(failure))
    raise OSError("; ".join(failures))


def _sweep(folder: Path) -> None:
    """Takes away what daemons that were killed have left."""
    for path in folder.glob("*.sock"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def _words(connection: socket.socket, descriptors: list[int]) -> dict[str, Any]:
    request = bytearray()
    while not request.endswith(b"\n"):
        try:
            piece, came, _, _ = socket.recv_fds(connection, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as failure:
            raise Gone from failure
        descriptors += came
        if not piece:
            raise Gone
        request += piece
        if len(request) > _REQUEST_BYTES:
            raise OptionError(f"a request of more than {_REQUEST_BYTES >> 20} MiB: ask for less at a time")
    try:
        words = json.loads(request)
    except (ValueError, RecursionError) as failure:
        raise OptionError(f"the request is no JSON: {failure}") from failure
    if not isinstance(words, dict):
        raise OptionError("the request is no object")
    return words


def _refuse(connection: socket.socket, text: str) -> None:
    with suppress(OSError), connection:
        connection.settimeout(_PATIENCE_S)
        connection.sendall(json.dumps({"failed": text, "status": process.USAGE}).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        # Closed before the request is read, it would be reset, and what was said lost.
        for _ in range(_DRAINED_PIECES):
            if not connection.recv(1 << 16):
                break


def _has_gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    # Nothing more is sent after a request: what can be read is the end.
    return bool(poll.poll(0))
