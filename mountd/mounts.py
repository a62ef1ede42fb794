"""Mount points: what is mounted where, whether it answers, and taking it away.

Reads /proc/self/mountinfo; calls umount2 through fusermount3 or umount. Called by the command line and the daemon.
Nothing here trusts a mount to answer: every look at one has a deadline, because a dead or hung mount blocks its
caller (and `stat` of a dead one still succeeds from the kernel's cache: only statvfs asks the daemon).
"""

import json
import os
import re
import select
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mountd import below
from vfs.errors import EgofsError, OptionError

FSTYPE = "fuse.egofs"
_PROBE_S = 5.0
_UNMOUNT_S = 20.0


class MountRefused(EgofsError):
    """The mount point cannot be mounted on, or not be unmounted now."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo."""

    mountpoint: Path
    source: str
    fstype: str
    device: str
    """Its device number, MAJOR:MINOR."""
    uid: int = 0
    """Who mounted it (of FUSE mounts: user_id)."""


def real(directory: Path) -> Path:
    """The path under which the kernel knows a mount point, even one whose daemon is dead or hangs: what is said to be
    one is not looked at."""
    absolute = Path(os.path.abspath(directory.expanduser()))
    if any(mount.mountpoint == absolute for mount in mounts()):
        return absolute
    return Path(os.path.realpath(directory.expanduser()))


def mounts() -> list[Mount]:
    """All mounts of this namespace, in the order they were made (proc(5), /proc/pid/mountinfo)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fstype, source = after.split(" ")[:2]
        place = before.split(" ")
        owner = re.search(r"\buser_id=(\d+)", after)
        uid = int(owner[1]) if owner else 0
        found.append(Mount(Path(_unescaped(place[4])), _unescaped(source), fstype, place[2], uid))
    return found


def egofs_mounts() -> list[Mount]:
    """The mounts of egofs; of several on one mount point the one that is seen."""
    return list({mount.mountpoint: mount for mount in mounts() if mount.fstype == FSTYPE}.values())


def top(mountpoint: Path) -> Mount | None:
    """What is mounted on a mount point, last and thus over all others."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == mountpoint), None)


def of(path: Path) -> Mount | None:
    """The egofs mount that a real path lies in; None for a path that lies in none."""
    found = [mount for mount in egofs_mounts() if path.is_relative_to(mount.mountpoint)]
    return max(found, key=lambda mount: len(mount.mountpoint.parts), default=None)


def asked(place: Path | None) -> Mount:
    """The mount that a command is about: the one that a path lies in, or the only one. Raises OptionError."""
    if place is None:
        return only()
    mount = of(real(place))
    if mount is None:
        raise OptionError(f"{place}: no egofs is mounted here (egofs status lists what is)")
    return mount


def only() -> Mount:
    """The one mount of egofs that there is. Raises OptionError for none, and for several."""
    found = egofs_mounts()
    if len(found) != 1:
        there = f"there are {', '.join(str(mount.mountpoint) for mount in found)}" if found else "nothing is mounted"
        raise OptionError(f"say which mount: {there}")
    return found[0]


def live_status(mount: Mount) -> dict[str, Any]:
    """What a mount says of itself. Raises MountRefused for one that does not answer."""
    status = read_status(mount.mountpoint) if state(mount.mountpoint) == "live" else None
    if status is None:
        raise MountRefused(f"{mount.mountpoint}: the mount does not answer: mount {mount.source} again")
    return status


def state(mountpoint: Path) -> Literal["live", "dead", "hung"]:
    """Whether the daemon behind a mount answers."""
    outcome: list[Literal["live", "dead"]] = []

    def probe() -> None:
        try:
            os.statvfs(mountpoint)
            outcome.append("live")
        except OSError:
            outcome.append("dead")

    # A thread that hangs in the kernel cannot be ended; as a daemon thread it does not keep this process either.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return outcome[0] if outcome else "hung"


def check(mountpoint: Path, nonempty: bool) -> None:
    """Sees that something can be mounted here: on an empty directory, or over what a dead daemon left.

    Raises OptionError, MountRefused.
    """
    if not os.path.exists("/dev/fuse"):
        raise MountRefused(
            "there is no /dev/fuse: load the module (modprobe fuse), or start the container with --device /dev/fuse"
        )
    there = top(mountpoint)
    if there is not None and there.fstype == FSTYPE:
        if state(mountpoint) == "live":
            raise MountRefused(f"{mountpoint}: {there.source} is mounted here already; egofs umount {mountpoint} first")
        return
    if there is not None and there.fstype == "autofs":
        return  # empty, and to look into it would have it mounted
    below.give_back(mountpoint)
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError:
        raise OptionError(f"{mountpoint}: no such directory: mkdir -p {mountpoint}") from None
    except NotADirectoryError:
        raise OptionError(f"{mountpoint}: not a directory") from None
    except OSError as failure:
        raise MountRefused(f"{mountpoint}: {failure.strerror}") from failure
    if names and not nonempty:
        raise MountRefused(
            f"{mountpoint}: not empty ({names[0]!r} and {len(names) - 1} more would be hidden): "
            "choose an empty directory, or say -o nonempty"
        )


def is_over_dead(mountpoint: Path) -> bool:
    """Whether a mount of a dead daemon is there, that can be left where it is until another is over it: as root.

    One that cannot is cleared, and so is that of a daemon that hangs, so that it hears that its mount is gone.
    """
    there = top(mountpoint)
    if there is None or there.fstype != FSTYPE:
        return False
    if os.geteuid() == 0 and state(mountpoint) == "dead":
        return True
    _unmount_command(mountpoint, lazy=True)
    return is_over_dead(mountpoint)


def clear_dead(mountpoint: Path) -> None:
    """Takes mounts of dead daemons away that can be seen at a mount point. Raises MountRefused."""
    while (there := top(mountpoint)) and there.fstype == FSTYPE and state(mountpoint) == "dead":
        _unmount_command(mountpoint, lazy=True)


def unmount(mountpoint: Path, lazy: bool) -> None:
    """Unmounts egofs and waits until its daemon has ended. Raises OptionError, MountRefused."""
    if not any(mount.mountpoint == mountpoint for mount in egofs_mounts()):
        raise OptionError(f"{mountpoint}: no egofs is mounted here (egofs status lists what is)")
    answers = state(mountpoint) == "live"
    status = read_status(mountpoint) if answers else None
    _unmount_command(mountpoint, lazy=lazy or not answers)
    if status and not lazy:
        _wait_for_end(int(status["pid"]))
    clear_dead(mountpoint)
    if top(mountpoint) is None:
        below.give_back(mountpoint)


def read_status(mountpoint: Path) -> dict[str, Any] | None:
    """What a live mount says of itself in .egofs/status.json; None where it says nothing."""
    try:
        status = json.loads((mountpoint / ".egofs" / "status.json").read_text())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


def _unmount_command(mountpoint: Path, lazy: bool) -> None:
    if os.getuid() == 0:
        command = ["umount", *(["-l"] if lazy else []), str(mountpoint)]
    else:
        fusermount = shutil.which("fusermount3") or shutil.which("fusermount")
        if fusermount is None:
            raise MountRefused("fusermount3 was not found: install fuse3")
        command = [fusermount, "-uz" if lazy else "-u", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_UNMOUNT_S)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        busy = "busy" in done.stderr
        hint = (
            "; something uses it: fuser -vm shows what, egofs umount --lazy takes it away all the same" if busy else ""
        )
        raise MountRefused(f"{mountpoint}: {said[-1].removeprefix('umount: ')}{hint}")


def _wait_for_end(pid: int) -> None:
    """Waits for a daemon that was unmounted; it has only to close its files."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(_UNMOUNT_S * 1000)
    os.close(descriptor)


def _unescaped(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
