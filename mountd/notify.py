"""What a service tells systemd: that it is ready, how it is, that it is alive (sd_notify(3), sd_watchdog_enabled(3)).

Hides the protocol: datagrams of NAME=VALUE lines to the socket that NOTIFY_SOCKET names. Where nobody asked to be told,
all of it does nothing. Called by daemon.py and session.py; must not know what is mounted. Any thread may enter, and
nothing waits: a message that cannot be taken now is dropped.
"""

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


def ready(status: str) -> None:
    """The service does its work from now on; `status` is a line for those who look at it."""
    _tell(f"READY=1\nSTATUS={_line(status)}")


def status(text: str) -> None:
    """A line for `systemctl status`."""
    _tell(f"STATUS={_line(text)}")


def reloading() -> None:
    """The service reads its configuration again; `ready` says that it has."""
    # Type=notify-reload wants to know when: by the clock that the kernel calls CLOCK_MONOTONIC.
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str) -> None:
    """The service ends: it is no crash when it is gone."""
    _tell(f"STOPPING=1\nSTATUS={_line(status)}")


def alive() -> None:
    """The service works; to be said again before `watchdog_s` seconds have passed."""
    _tell("WATCHDOG=1")


def watchdog_s() -> float | None:
    """The seconds after which systemd takes a silent service for dead; None where it does not watch this process."""
    pid = os.environ.get("WATCHDOG_PID")
    try:
        if pid is not None and int(pid) != os.getpid():
            return None  # meant for the process that this one comes from
        seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        log.warning("WATCHDOG_USEC and WATCHDOG_PID are no numbers: systemd will not be told that the mount is alive")
        return None
    return seconds if seconds > 0 else None


def _line(text: str) -> str:
    """A value: a line of it would be another assignment."""
    return " ".join(text.split())


def _tell(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        with socket.socket(socket.AF_UNIX, kind) as channel:
            # @ stands for the NUL before a name that is in no folder (unix(7), "Abstract").
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(state.encode(errors="replace"))
    except OSError as failure:
        # Whoever started us will see it missing; the mount is as good without.
        log.warning("systemd was not told %s: %s", state.partition("\n")[0], failure.strerror or failure)
