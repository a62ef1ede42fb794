"""Where a mount's log goes, and how its lines look.

    file     <cache_dir>/log/<mount point>.log, 0600 in a folder of 0700, turned over at 5 MiB, three old ones kept
    stderr   lines for a terminal; under systemd with a priority that journald takes out (sd-daemon(3)), and no time
    journal  journald's own socket (systemd.io, "Native Journal Protocol"), and the file where that is not there

`log=auto` is the file for a mount in the background, and standard error for one in the foreground. As text or as JSON,
one object a line. Nothing that looks like a secret is written, whoever said it.

Called by the daemon once it knows whether it stays in the foreground. Any thread may log: nothing here blocks for
longer than the disk does.
"""

import errno
import json
import logging
import logging.handlers
import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from mountd.about import Refusals
from mountd.config import Config
from mountd.secrets import redacted
from vfs.errors import OptionError

_log = logging.getLogger(__name__)

_FILE_BYTES, _FILES = 5 << 20, 3
JOURNAL = "/run/systemd/journal/socket"
_IDENTIFIER = "egofs"
# A datagram on a Unix socket is refused beyond what the sender's buffer holds (net.core.wmem_default, 212,992 bytes).
# What is longer could be passed as a file; a message that long is a traceback whose beginning is enough.
_MOST_MESSAGE_BYTES = 64 << 10
# Our own: what libraries say below a warning is for debugging them, and may quote requests with their signatures.
_OURS = ("vfs", "mountd")
# Where something else writes down when, and how bad it is, a line does not say it.
_IN_FILE = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_ON_TERMINAL = "%(levelname)s %(message)s"
_ENTRY = "%(name)s: %(message)s"
# Of names that a store made up: on a terminal they would do something.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_where = ""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def file_of(config: Config, mountpoint: Path) -> Path:
    """The file that has, or would have, a mount's log."""
    return config.cache.cache_dir / "log" / (re.sub(r"[^\w.-]+", "-", str(mountpoint)).strip("-") + ".log")


def place(config: Config, mountpoint: Path, *, background: bool) -> str:
    """Where a person finds the log of such a mount: a file's path, or in words."""
    kind = _kind(config, background)
    if kind == "journal" and _can_send(JOURNAL):
        return f"journalctl -t {_IDENTIFIER}"
    if kind == "stderr":
        return "the journal of its service" if _under_systemd() else "standard error"
    return str(file_of(config, mountpoint))


def begin(config: Config, mountpoint: Path, *, background: bool) -> None:
    """Sends what is logged from now on to where the options say. Raises OptionError where it cannot be written."""
    try:
        handler = _handler(config, mountpoint, background)
    except OptionError:
        # Without a handler of ours, logging would write to the terminal what the pipe tells it already.
        logging.getLogger().addHandler(logging.NullHandler())
        raise
    global _where
    _where = place(config, mountpoint, background=background)
    handler.addFilter(Refusals())
    level = _LEVELS[config.log.log_level]
    handler.setLevel(level)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:  # others listen too, from INFO on: what a dataset says while it prepares, errors.log
        logging.getLogger(name).setLevel(min(level, logging.INFO))
    if config.log.log == "journal" and not isinstance(handler, JournalHandler):
        _log.warning("log=journal: nothing listens at %s: logging to %s", JOURNAL, file_of(config, mountpoint))


def where() -> str:
    """Where a person finds this process's log, "" before it has begun."""
    return _where


def _handler(config: Config, mountpoint: Path, background: bool) -> logging.Handler:
    """What writes the log. Raises OptionError."""
    kind = _kind(config, background)
    if kind == "journal" and _can_send(JOURNAL):
        handler = JournalHandler(JOURNAL, config.name, mountpoint, lambda: _file(config, mountpoint))
        handler.setFormatter(_formatter(config, mountpoint, _ENTRY))
        return handler
    if kind != "stderr":
        return _file(config, mountpoint)
    if background:
        raise OptionError("log=stderr is for a mount in the foreground (-f): say log=file or log=journal")
    on_stderr = logging.StreamHandler(sys.stderr)
    if _under_systemd():
        on_stderr.setFormatter(_Prioritised(_formatter(config, mountpoint, _ENTRY)))
    else:
        on_stderr.setFormatter(_formatter(config, mountpoint, _ON_TERMINAL))
    return on_stderr


def _kind(config: Config, background: bool) -> str:
    if config.log.log != "auto":
        return config.log.log
    return "file" if background else "stderr"


def _under_systemd() -> bool:
    """Whether standard error is the journal's: it may have been redirected since (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        facts = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def _formatter(config: Config, mountpoint: Path, text: str) -> logging.Formatter:
    """How records look: as this text, or as JSON where that is wanted."""
    return _Json(config.name, mountpoint) if config.log.log_format == "json" else _Text(text)


def _file(config: Config, mountpoint: Path) -> logging.Handler:
    """The rotating file. Raises OptionError where it cannot be written."""
    file = file_of(config, mountpoint)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = _PrivateFile(
            file, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as failure:
        where = config.cache.cache_dir
        raise OptionError(f"cache_dir {where}: {failure.strerror}: choose another with -o cache_dir=…") from failure
    handler.setFormatter(_formatter(config, mountpoint, _IN_FILE))
    return handler


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """For its owner alone, whatever the process's umask is."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self.baseFilename, flags, 0o600))
        return super()._open()


class _Text(logging.Formatter):
    """A record as lines for people: its message is one, a traceback is below."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _CONTROL.sub(lambda found: repr(found[0])[1:-1], record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The lines."""
        return redacted(super().format(record))


class _Json(logging.Formatter):
    """A record as one object in one line, in ASCII."""

    def __init__(self, source: str, mountpoint: Path) -> None:
        super().__init__()
        self._about = {"mountpoint": str(mountpoint), "source": source}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            "pid": record.process,
            **self._about,
        }
        if record.exc_info:
            told["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(told)


class _Prioritised(logging.Formatter):
    """Lines as journald and syslog want them on standard error: each begins with how bad it is."""

    def __init__(self, text: logging.Formatter) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        """The lines, each of which the journal takes for an entry of its own."""
        return "\n".join(f"<{_priority(record)}>{line}" for line in self._text.format(record).split("\n"))


class JournalHandler(logging.Handler):
    """Sends records to journald, a datagram each; what it does not take goes to another handler."""

    def __init__(self, address: str, source: str, mountpoint: Path, instead: Callable[[], logging.Handler]) -> None:
        """`instead` makes the handler for what journald does not take, when there is something."""
        super().__init__()
        self._address = address
        self._about = {"EGOFS_SOURCE": source, "EGOFS_MOUNTPOINT": str(mountpoint)}
        self._instead = instead
        self._other: logging.Handler | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends it, or has the other handler write it where nobody listens, or listens fast enough."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": _IDENTIFIER,
            "EGOFS_LOGGER": record.name,
            **self._about,
        }
        try:
            self._socket.sendto(_datagram(fields), socket.MSG_DONTWAIT, self._address)
        except OSError:
            with suppress(OptionError):  # then there is no place to say it
                self._other = self._other or self._instead()
                self._other.handle(record)

    def close(self) -> None:
        """Closes the socket, and the other handler."""
        self._socket.close()
        if self._other:
            self._other.close()
        super().close()


def _datagram(fields: dict[str, str]) -> bytes:
    """Fields as journald reads them: `NAME=value`, or with a length where the value has lines."""
    parts = []
    for name, value in fields.items():
        content = value.encode(errors="backslashreplace")[:_MOST_MESSAGE_BYTES]
        if b"\n" in content:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n")
        else:
            parts.append(name.encode() + b"=" + content + b"\n")
    return b"".join(parts)


def _can_send(address: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        return asking.connect_ex(address) in (0, errno.EISCONN)


def _priority(record: logging.LogRecord) -> int:
    """As syslog(3) counts."""
    return next(
        number
        for level, number in (
            (logging.CRITICAL, 2),
            (logging.ERROR, 3),
            (logging.WARNING, 4),
            (logging.INFO, 6),
            (0, 7),
        )
        if record.levelno >= level
    )
