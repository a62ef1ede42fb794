"""The cache folder and the mounts that use it: which folder is meant, which mounts have it, and what they are told.

Both ends stand here: what a daemon does when it is asked at its control socket (`operations`), and the asking. Called
by the daemon, by `egofs cache` and by `egofs doctor`. What is in the folder, vfs.diskcare knows.
"""

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mountd import control, mounts, shown
from vfs.errors import EgofsError, OptionError

if TYPE_CHECKING:
    from vfs.cache import ChunkCache
    from vfs.disk import Disk

# The cache leaves the rest of its disk's free space to others, whatever cache_size says.
_SHARE_OF_FREE_SPACE = 0.8
# A mount that says nothing for so long is one that cannot be asked.
_PATIENCE_S = 5.0
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


# -- the daemon's end


def room_for(disk: "Disk") -> int:
    """Most that the values may take: a share of what is free, and of what they take already. Raises OSError."""
    return int(disk.room_bytes() * _SHARE_OF_FREE_SPACE)


def operations(cache: "ChunkCache | None", disk: "Disk | None") -> dict[str, control.Operation]:
    """What a mount does about its cache: `resize` and `let-go`."""

    def resize(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
        if disk is None:
            return {"limit_bytes": None}
        limit_bytes, room = int(words["limit_bytes"]), room_for(disk)
        if limit_bytes > room:
            raise OptionError(f"its disk has room for {room >> 20} MiB")
        before = disk.used_bytes()
        try:
            disk.resize(limit_bytes, call.tell)  # so that who asks hears that it goes on
        except OSError as failure:
            raise mounts.MountRefused(f"the new limit holds, but nothing could be removed: {failure}") from failure
        return {"limit_bytes": disk.limit_bytes, "before_bytes": before, "used_bytes": disk.used_bytes()}

    def let_go(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
        if cache is not None:
            cache.let_go()
        return {}

    return {"resize": resize, "let-go": let_go}


# -- the command's end


@dataclass(frozen=True)
class User:
    """A live mount that uses a cache folder."""

    mount: mounts.Mount
    status: Mapping[str, Any]


@dataclass(frozen=True)
class Users:
    """Which mounts use a cache folder, as far as they say."""

    known: tuple[User, ...]
    silent: tuple[mounts.Mount, ...]
    """Mounts that do not tell: hung ones, and those of other users. Behind a dead one nobody uses anything."""

    @property
    def may_be(self) -> bool:
        """Whether the folder is, or may be, in use."""
        return bool(self.known or self.silent)


def status_of(mount: mounts.Mount) -> dict[str, Any] | None:
    """What a mount says of itself, asked at its socket, or else read; None where it says nothing."""
    try:
        return control.ask(mount, "status", timeout_s=_PATIENCE_S)
    except EgofsError:
        return mounts.read_status(mount.mountpoint) if mounts.state(mount.mountpoint) == "live" else None


def statuses() -> list[tuple[mounts.Mount, dict[str, Any] | None]]:
    """All mounts with what they say, asked at the same time."""
    found = mounts.egofs_mounts()
    if not found:
        return []
    from concurrent.futures import ThreadPoolExecutor  # 8 ms, which `egofs --help` need not wait for

    with ThreadPoolExecutor(len(found)) as threads:
        return list(zip(found, threads.map(status_of, found), strict=True))


def is_dead(mount: mounts.Mount) -> bool:
    """Whether a mount has no daemon any more; one that a user keeps to himself is not dead."""
    if mounts.state(mount.mountpoint) != "dead":
        return False
    try:
        os.statvfs(mount.mountpoint)
    except OSError as failure:
        return failure.errno == errno.ENOTCONN
    return False


def users_of(folder: Path) -> Users:
    """The mounts that use a cache folder, which is told by its real path."""
    known, silent = [], []
    for mount, status in statuses():
        if status is None:
            silent += [] if is_dead(mount) else [mount]
        elif os.path.realpath(status.get("cache_dir", "")) == str(folder):
            known.append(User(mount, status))
    return Users(tuple(known), tuple(silent))


def folder_of(cache_dir: Path | None, directory: Path | None) -> Path:
    """The cache folder that is meant: the one named, that of a mount, or the usual one. Raises OptionError,
    MountRefused."""
    if cache_dir is not None and directory is not None:
        raise OptionError("--cache-dir and --mount: give one")
    if directory is not None:
        mount = mounts.asked(directory)
        status = status_of(mount)
        if status is None:
            raise mounts.MountRefused(f"{mount.mountpoint}: the mount does not answer: give --cache-dir")
        return Path(status["cache_dir"])
    if cache_dir is None:
        from mountd import config

        return config.default_cache_dir()
    inside = mounts.of(mounts.real(cache_dir))
    if inside is not None:
        raise OptionError(f"{cache_dir}: lies in a mount of egofs: give the cache folder, or --mount {cache_dir}")
    return cache_dir


def refuse_too_large(text: str, limit_bytes: int, facts: Mapping[str, Any]) -> None:
    """Raises OptionError for a limit beyond what the folder's disk has; `facts` are those of vfs.diskcare."""
    room = int((facts["disk"]["free_bytes"] + facts["values"]["used_bytes"]) * _SHARE_OF_FREE_SPACE)
    if limit_bytes > room:
        raise OptionError(
            f"{text} is more than the disk of {facts['folder']} has: {shown.size(room)}, "
            "which is four fifths of what is free and what is kept"
        )


def seconds(text: str) -> float:
    """An age such as 30d in seconds. Raises OptionError."""
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip().lower())
    if not match:
        raise OptionError(f"{text!r} is no age: write minutes, hours, days or weeks, such as 90m, 12h, 30d or 4w")
    return float(match[1]) * _UNITS_S[match[2]]


def size_bytes(text: str) -> int:
    """A size such as 50G in bytes, as `cache_size=` takes it. Raises OptionError."""
    from mountd import config

    given: dict[str, Any] = {"cache_size": text}
    return config.CacheOptions(**given).cache_size
