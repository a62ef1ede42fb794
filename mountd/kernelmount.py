"""Mounts over a dead mount, as root: mount(2) by itself, where libfuse would first ask the dead one and give up.

So whoever opens a path below the mount point gets ENOTCONN until the very moment at which the new mount is there, and
never sees what is below both. libfuse takes an open /dev/fuse that is mounted already as the mount point /dev/fd/N
(fuse_session_mount(3), libfuse 3.3 and later). Called by session.py, and by the supervisor to `abort`.
"""

import ctypes
import errno
import os
from pathlib import Path

from mountd.mounts import FSTYPE

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4  # mount(2), sys/mount.h
_MNT_FORCE, _MNT_DETACH = 1, 2  # umount(2)


def mount_over(mountpoint: Path, name: str, allow_other: bool) -> int:
    """Mounts, and gives the open /dev/fuse. Raises OSError."""
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    words = [f"fd={descriptor}", "rootmode=40000", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    words += ["default_permissions", *(["allow_other"] if allow_other else [])]
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    if libc.mount(os.fsencode(name), os.fsencode(mountpoint), FSTYPE.encode(), flags, ",".join(words).encode()):
        os.close(descriptor)
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


def abort(mountpoint: Path, device: str) -> bool:
    """Fails all requests of a mount that nobody will answer any more, and leaves it there, dead; whether that could be.

    The owner of a mount may where fusectl is mounted (Documentation/filesystems/fuse.rst), and root in any case.
    """
    try:
        (Path("/sys/fs/fuse/connections") / device.partition(":")[2] / "abort").write_text("1")
        return True
    except OSError:
        pass
    try:
        # In use, so that it is not taken away.
        held = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(mountpoint), _MNT_FORCE)
        return ctypes.get_errno() == errno.EBUSY
    finally:
        os.close(held)


def detach(mountpoint: Path) -> None:
    """Takes the topmost mount away, used or not. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
