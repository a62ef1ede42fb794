"""What a mount says of itself, gathered in one place: `.egofs/status.json`, `.egofs/metrics`, `egofs status`.

Each part of a mount counts for itself; here their numbers get the names under which everybody else knows them. Called
by about.py, the control socket and metrics.py, through `MountFacts.status`. Must not know how it is shown. Any thread
may call but the event loop's: it asks two databases and the cache's disk, some milliseconds in all.
No value is a secret.
"""

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mountd import logs
from mountd.about import ErrorLog
from mountd.config import Config
from vfs.mounted import MountedDataset
from vfs.options import as_dict
from vfs.sources import Admitted
from vfs.sources.retry import RetryingSource

if TYPE_CHECKING:
    from vfs.ops import Operations

UnderWay: TypeAlias = tuple[str, int, int]
"""Something long that a mount is doing: a name for it, how much of it is done, and how much it is in all, in bytes; 0
where nobody knows."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat what stands after the command's name (proc(5)): its fields 14, 15, 20 and 24.
_UTIME, _STIME, _THREADS, _RSS = 11, 12, 17, 21
_SECRET = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=\?).*")


@dataclass
class MountFacts:
    """A mount, as far as it says anything of itself."""

    config: Config
    mountpoint: Path
    mounted: MountedDataset
    source: RetryingSource
    operations: "Operations"
    errors: ErrorLog
    options: Iterable[Any] = ()
    """The option groups that it was mounted with."""
    control: Path | None = None
    """Its control socket, once there is one."""
    under_way: dict[str, Callable[[], Iterable[UnderWay]]] = field(default_factory=dict)
    """By its kind, such as "indexing", what asks for all of that kind that is being done now."""
    restarts: int = 0
    """How many daemons of this mount have died before this one."""
    mounted_at: float = field(default_factory=time.time)
    _began_s: float = field(default_factory=time.monotonic)

    def status(self) -> dict[str, Any]:
        """All of it, as JSON can have it. A key that is not there is a part that this mount does not have."""
        source, mounted, operations = self.source, self.mounted, self.operations
        refused, shelf = source.refusal, mounted.shelf
        return {
            "mountpoint": str(self.mountpoint),
            "source": self.config.name,
            "url": source.url,
            "dataset": mounted.dataset.name,
            "options": dict(changed(self.options)),
            "cache_dir": str(self.config.cache.cache_dir),
            "log": logs.where(),
            "control": str(self.control) if self.control else None,
            "pid": os.getpid(),
            "restarts": self.restarts,
            "version": metadata.version("egofs"),
            "mounted_at": self.mounted_at,
            "uptime_s": time.monotonic() - self._began_s,
            "known_bytes": mounted.catalog.known_bytes(),
            "oldest_listing_at": mounted.catalog.oldest_listing(),
            "asked": dict(vars(operations.counters)),
            "open_files": operations.open_files,
            "inodes": len(operations.tree),
            "fetched": dict(vars(source.counters)),
            "amplification": _ratio(source.counters.bytes_fetched, operations.counters.bytes_read),
            "credentials": vars(refused) if refused else None,
            "access": self._access(),
            "frames_made": shelf.frames_made,
            "frames_from_disk": shelf.frames_from_disk,
            "decoders": {"pids": shelf.processes(), "restarts": shelf.restarts, "bugs": shelf.bugs},
            "under_way": self._under_way(),
            "last_error": self.errors.last(),
            "process": _process(),
            **self._cache(),
        }

    def _cache(self) -> dict[str, Any]:
        """What is kept: of a source's bytes and of pictures in one folder, or of pictures alone."""
        cache, disk = self.mounted.cache, self.mounted.disk
        told: dict[str, Any] = {}
        if cache is not None:
            told |= vars(cache.counters) | {"hit_rate": cache.hit_rate}
        if cache is not None or disk is not None:
            told["limit_bytes"] = disk.limit_bytes if disk else 0
            told["used_bytes"] = disk.used_bytes() if disk else 0
            told["disk_errors"] = disk.errors if disk else 0
        if disk is not None:
            told["not_kept"] = disk.not_kept
            try:
                room = disk.room()
                told |= {"folder": str(room.folder), "files": room.files}
                told |= {"free_bytes": room.free_bytes, "reserve_bytes": room.reserve_bytes}
            except OSError as failure:
                told["failure"] = f"the cache folder cannot be looked at: {failure}"
        return {"cache": told} if told else {}

    def _access(self) -> dict[str, Any]:
        """Whether the store lets us in, and as whom."""
        source = self.source
        state = "none needed"
        if source.remote:
            state = "refused" if source.refusal else "ok" if source.counters.requests else "not asked"
        inner = source.inner
        return {"state": state, "whose": inner.whose() if isinstance(inner, Admitted) else None}

    def _under_way(self) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "name": name, "done_bytes": done, "all_bytes": whole}
            for kind, ask in self.under_way.items()
            for name, done, whole in ask()
        ]


def changed(groups: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """The options that are not what they are by themselves, as they are written behind `-o`."""
    for group in groups:
        defaults = as_dict(type(group)())
        for name, value in as_dict(group).items():
            if value != defaults[name]:
                yield name, _written(name, value)


def _written(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if name == "umask":
        return f"{value:04o}"
    text = str(value)
    # A URL may be signed, or have a password in it.
    return _SECRET.sub("…", text) if "://" in text else text


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _process() -> dict[str, Any]:
    """What the daemon itself takes of the machine."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return {
        "rss_bytes": int(fields[_RSS]) * _PAGE_BYTES,
        "cpu_s": (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_A_SECOND,
        "threads": int(fields[_THREADS]),
        "open_fds": len(os.listdir("/proc/self/fd")),
    }
