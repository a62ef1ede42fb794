"""Whether a folder can be a cache: that it can be written, by whom it can be read, and what its disk is and has.

Called by mountd.doctor. Nothing is made but a file without a name, in the folder or in the one that it would be made
in, which is gone at once.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mountd import mounts, shown
from mountd.doctor.finding import Finding, ok, problem, warning
from vfs import valuefolder

# File systems of other machines, by their types in mountinfo: SQLite's locks and shared memory are for one machine's
# processes (sqlite.org/wal.html), and on some of these they do not even hold for those.
_OF_NETWORKS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "pvfs2",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.mount-s3", "fuse.juicefs",
}  # fmt: skip
_IN_MEMORY = {"tmpfs", "ramfs"}
_ELSEWHERE = "choose a folder on a disk of this machine: -o cache_dir=DIR"


def cache(folder: Path, cache_size: int) -> Iterator[Finding]:
    """The cache folder, and how much it may have."""
    place = Path(os.path.realpath(folder.expanduser()))
    there = next(each for each in (place, *place.parents) if os.path.lexists(each))
    yield _place(place, there)
    yield _kind(there)
    yield from _space(place, there, cache_size)


def _place(place: Path, there: Path) -> Finding:
    name = "cache folder"
    if not there.is_dir():
        return problem(name, f"{there}: not a folder", _ELSEWHERE)
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return problem(name, f"{place}: its disk is read-only: nothing would be kept", _ELSEWHERE)
    if not os.access(there, os.W_OK | os.X_OK):
        return problem(name, f"{place}: you may not write there", f"{_ELSEWHERE}, or give it to you (chown)")
    if place != there:
        return ok(name, f"{place}: made at the first mount")
    facts = place.stat()
    if facts.st_uid != os.geteuid():
        return warning(name, f"{place}: belongs to uid {facts.st_uid}, whose mounts use it", _ELSEWHERE)
    if stat.S_IMODE(facts.st_mode) & 0o077:
        said = (
            f"{place}: others can look into it (mode {stat.S_IMODE(facts.st_mode):04o}), whatever licence it is under"
        )
        return warning(name, said, f"chmod 700 {place}")
    return ok(name, f"{place}, for you alone")


def _kind(there: Path) -> Finding:
    name = "cache disk"
    kind = kind_of(there)
    if kind in _OF_NETWORKS:
        said = f"{kind}, which is another machine's: its databases may be damaged, and locks be slow"
        return warning(name, said, _ELSEWHERE)
    if kind == mounts.FSTYPE:
        return problem(name, "it is a mount of egofs itself", _ELSEWHERE)
    if kind in _IN_MEMORY:
        return ok(name, f"{kind}: what is kept takes memory, and is gone after a boot")
    direct = "past the page cache" if _is_direct(there) else "through the page cache, for lack of O_DIRECT"
    return ok(name, f"{kind}, written {direct}")


def _space(place: Path, there: Path, cache_size: int) -> Iterator[Finding]:
    name = "cache space"
    disk = os.statvfs(there)
    free, reserve = disk.f_bavail * disk.f_frsize, valuefolder.reserve_bytes(disk)
    used = _used_bytes(place)
    room = free + used
    told = f"{shown.size(free)} free, {shown.size(used)} kept already"
    if free < reserve:
        said = f"{told}: of the last {shown.size(reserve)} none is taken, so nothing more is kept"
        yield warning(name, said, f"make room, or egofs cache clear, or {_ELSEWHERE}")
    elif room < cache_size:
        said = f"{told}: less than cache_size={shown.size(cache_size)}, so it is held to four fifths of that"
        yield ok(name, said)
    else:
        yield ok(name, f"{told}; cache_size is {shown.size(cache_size)}")


def kind_of(place: Path) -> str:
    """The type of the file system that a real path is on, as mountinfo has it."""
    found = [mount for mount in mounts.mounts() if place.is_relative_to(mount.mountpoint)]
    # The last of those that are mounted deepest: it lies upon the others.
    deepest = max((len(mount.mountpoint.parts) for mount in found), default=0)
    return next((m.fstype for m in reversed(found) if len(m.mountpoint.parts) == deepest), "?")


def _used_bytes(place: Path) -> int:
    from vfs import diskcare

    return int(diskcare.about_values(place)["used_bytes"])


def _is_direct(there: Path) -> bool:
    """Whether files can be written past the page cache; makes one that has no name and is gone when it is closed."""
    with suppress(OSError):
        descriptor = os.open(there, os.O_TMPFILE | os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        return True
    return False
