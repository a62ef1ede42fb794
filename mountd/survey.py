"""All mounts of this machine, and how each is: live, dead, hung, or not ours to ask.

Hides that a mount may not answer. Called by `egofs status`. Of each mount two things are asked at once, in threads of
their own that nobody waits for longer than a few seconds: the kernel, whether the daemon answers it (statvfs), and the
daemon, what it says of itself (the control socket, or `.egofs/status.json` where another user has let everybody in).
So one mount that hangs holds up no other, and a daemon whose event loop stands still is seen to although its socket
answers.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from mountd import control, mounts, process
from vfs.errors import OptionError

T = TypeVar("T")
State: TypeAlias = Literal["live", "dead", "hung", "foreign", "covered"]
"""`foreign`: another user's, who lets nobody in. `covered`: something else is mounted over it."""

# What answers does so within milliseconds; a machine that is busy may take a second.
PATIENCE_S = 3.0
_SOON_S = 0.5
# What is shown of a status. One that lacks a part is of a daemon that was there before this version was installed.
_NEEDED = {
    "asked", "fetched", "open_files", "inodes", "uptime_s", "options", "credentials", "access", "amplification",
    "frames_made", "frames_from_disk", "decoders", "under_way", "last_error", "oldest_listing_at", "log", "url",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """How a mount is."""

    mount: mounts.Mount
    state: State
    status: dict[str, Any] | None
    """What it says of itself, None where it says nothing."""
    why: str = ""
    """Where it is not live, or says nothing: what is known of that, and what to do."""
    pid: int | None = None

    @property
    def is_well(self) -> bool:
        """Whether nobody has to do anything."""
        return self.state not in ("dead", "hung")

    def as_json(self) -> dict[str, Any]:
        """What programs are told: always mountpoint, source, pid, state and remedy, and all that the mount says."""
        always = {"mountpoint": str(self.mount.mountpoint), "source": self.mount.source, "pid": self.pid}
        return {**always, "state": self.state, "remedy": self.why or None, **(self.status or {})}


def survey(patience_s: float = PATIENCE_S) -> list[Seen]:
    """All mounts, as they are. Takes at most `patience_s`, but for a moment."""
    everything = mounts.mounts()
    return look(places(everything), patience_s, covered(everything))


def places(everything: Iterable[mounts.Mount]) -> list[mounts.Mount]:
    """Those of egofs among all mounts, in the order of their mount points; of several on one the last, which is seen:
    what a daemon that was killed has left may lie below the mount that took its place."""
    last = {each.mountpoint: each for each in everything if each.fstype == mounts.FSTYPE}
    return [last[mountpoint] for mountpoint in sorted(last)]


def look(
    found: Sequence[mounts.Mount], patience_s: float = PATIENCE_S, covered: Iterable[mounts.Mount] = ()
) -> list[Seen]:
    """How some mounts are; all are asked at once."""
    looks = [(each, Asked(partial(_probe, each)), Asked(partial(_told, each, patience_s))) for each in found]
    until = time.monotonic() + patience_s
    hidden = set(covered)
    return [
        judged(mount, answers.result(until), told.result(until), is_covered=mount in hidden)
        for mount, answers, told in looks
    ]


def at(place: Path) -> mounts.Mount:
    """The mount that a path lies in, asking nothing of it: it may hang. Raises OptionError where there is none."""
    absolute = Path(os.path.abspath(place.expanduser()))
    mount = mounts.of(absolute)
    if mount is None:
        # Links may lead there, and may lead through a mount that hangs.
        real = Asked(lambda: mounts.real(place)).result(time.monotonic() + PATIENCE_S)
        mount = mounts.of(real) if real is not None else None
    if mount is None:
        raise OptionError(f"{place}: no egofs is mounted here (egofs status lists what is)")
    return mount


class Asked(Generic[T]):
    """A question that may never be answered, asked in a thread that holds up nobody."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._answers: list[T] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(question()), daemon=True)
        self._thread.start()

    def result(self, until: float) -> T | None:
        """The answer, None if there is none by then (`time.monotonic`)."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._answers[0] if self._answers else None


def _probe(mount: mounts.Mount) -> int:
    """Why the kernel has no answer from the daemon: an errno, 0 where it has one."""
    try:
        facts = os.statvfs(mount.mountpoint)
    except OSError as failure:
        return failure.errno or errno.EIO
    # Of a mount that we may not enter the kernel tells nothing, and asks nobody (fuse_statfs in fs/fuse/inode.c).
    return 0 if facts.f_namemax else errno.EACCES


def _told(mount: mounts.Mount, patience_s: float) -> dict[str, Any] | str:
    """What the daemon says of itself, or why it does not."""
    try:
        status: dict[str, Any] | None = control.ask(mount, "status", timeout_s=patience_s)
        why = ""
    except (mounts.MountRefused, process.DaemonFailed) as failure:
        why = str(failure).removeprefix(f"{mount.mountpoint}: ")
        # Its file says the same to whom it lets in.
        status = mounts.read_status(mount.mountpoint)
    if status is not None and not status.keys() >= _NEEDED:
        return f"it runs another version of egofs, {status.get('version')}: umount it, and mount it again"
    return status or why


def judged(mount: mounts.Mount, failure: int | None, told: dict[str, Any] | str | None, *, is_covered: bool) -> Seen:
    """What the kernel's answer (an errno, 0, or None for none) and the daemon's mean together."""
    status = told if isinstance(told, dict) else None
    pid = int(status["pid"]) if status else None
    where = mount.mountpoint
    if is_covered:
        return Seen(mount, "covered", status, f"another mount is over it: egofs umount {where} takes that away", pid)
    if failure is None:
        pid = pid or Asked(lambda: control.pid_of(mount)).result(time.monotonic() + _SOON_S)
        stop = f"kill -9 {pid}, then " if pid else ""
        return Seen(mount, "hung", status, f"it does not answer: {stop}egofs umount -l {where}", pid)
    if failure == 0 or (failure == errno.EACCES and status):
        silent = told if isinstance(told, str) else "its daemon says nothing of itself"
        return Seen(mount, "live", status, "" if status else silent, pid)
    if failure == errno.EACCES:
        theirs = f"it is uid {mount.uid}'s: ask as that user, or as root"
        return Seen(mount, "foreign", None, told if isinstance(told, str) and os.geteuid() == 0 else theirs)
    return Seen(mount, "dead", None, f"its daemon has ended: egofs mount {mount.source} {where} mounts it again")


def covered(everything: Sequence[mounts.Mount]) -> list[mounts.Mount]:
    """Mounts at whose mount points something else was mounted later."""
    top = {mount.mountpoint: mount for mount in everything}
    return [mount for mount in everything if top[mount.mountpoint] is not mount]
