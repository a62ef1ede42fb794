"""What the mounts that there are say of themselves, and those that say nothing any more.

Called by mountd.doctor. Each mount is asked in its own thread, and none is waited for longer than a few seconds.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mountd import cachecontrol, mounts, shown
from mountd.doctor.finding import Finding, ok, problem, warning


def mounted(only: Path | None = None) -> Iterator[Finding]:
    """All mounts, or that on one mount point."""
    found = [mount for mount in mounts.egofs_mounts() if only in (None, mount.mountpoint)]
    if not found:
        yield ok("mounts", "nothing is mounted")
        return
    points = {mount.mountpoint: mount for mount in found}  # of those one upon the other, the one on top
    with ThreadPoolExecutor(len(points)) as threads:
        for findings in threads.map(_one, points.values()):
            yield from findings
    for point in points:
        count = sum(mount.mountpoint == point for mount in found)
        if count > 1:
            yield warning("mounts", f"{point}: {count} mounts stand one upon the other", f"egofs umount {point}")


def _one(mount: mounts.Mount) -> list[Finding]:
    name, point = str(mount.mountpoint), mount.mountpoint
    health = mounts.state(point)
    if health == "hung":
        connection = f"/sys/fs/fuse/connections/{mount.device.partition(':')[2]}/abort"
        remedy = f"egofs umount --lazy {point}; if that hangs too: echo 1 | sudo tee {connection}"
        return [problem(name, f"{mount.source}: its daemon does not answer", remedy)]
    if cachecontrol.is_dead(mount):
        remedy = f"egofs umount --lazy {point}, or mount it again there, which clears it"
        return [problem(name, f"{mount.source}: its daemon has died, readers get ENOTCONN", remedy)]
    status = cachecontrol.status_of(mount)
    if mount not in mounts.egofs_mounts():
        return []  # it was unmounted in the meantime
    if status is None:
        said = f"{mount.source}: it is uid {mount.uid}'s, and not for you to ask"
        return [warning(name, said, "ask as that user, or mount with allow_other")]
    troubles = list(_troubles(name, mount, status))
    return troubles or [ok(name, f"{mount.source}, pid {status['pid']}: no refusals, no errors")]


def _troubles(name: str, mount: mounts.Mount, status: Mapping[str, Any]) -> Iterator[Finding]:
    log = f"{mount.mountpoint}/.egofs/errors.log"
    if refusal := status.get("credentials"):
        ago = shown.duration(time.time() - refusal["refused_at"])
        yield problem(name, f"refused {ago} ago: {refusal['message']}", "new credentials work without a remount")
    errors = status.get("fetched", {}).get("errors", 0)
    if errors and not refusal:
        yield warning(name, f"{errors} reads or listings failed in the end{_last_line(log)}", f"cat {log}")
    cache = status.get("cache") or {}
    if cache.get("disk_errors"):
        said = f"the cache's disk failed {cache['disk_errors']} times: it is read past then"
        yield warning(name, said, f"cat {log}; egofs doctor; egofs cache verify --mount {mount.mountpoint}")
    if cache.get("damaged"):
        said = f"{cache['damaged']} pieces in the cache were damaged, and fetched again"
        yield warning(name, said, f"egofs cache verify --repair --mount {mount.mountpoint}; look after that disk")
    bugs = status.get("decoders", {}).get("bugs", 0)
    if bugs:
        yield warning(name, f"decoders ended by a bug {bugs} times", f"cat {log}, and report it")


def _last_line(log: str) -> str:
    try:
        lines = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return f", the last: {lines[-1]}" if lines else ""
