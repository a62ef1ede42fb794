"""Mounts over a dead mount, as root: mount(2) by itself, where libfuse would first ask the dead one and give up.

So whoever opens a path below the mount point gets ENOTCONN until the very moment at which the new mount is there, and
never sees what is below both. libfuse takes an open /dev/fuse that is mounted already as the mount point /dev/fd/N
(fuse_session_mount(3), libfuse 3.3 and later). Called by session.py.
"""

import ctypes
import os
from pathlib import Path

from mountd.mounts import FSTYPE

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4  # mount(2), sys/mount.h
_MNT_DETACH = 2


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


def detach(mountpoint: Path) -> None:
    """Takes the topmost mount away, used or not. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
