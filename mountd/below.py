"""The directory below a mount, closed to everybody while its daemon is dead: empty, it looks like an empty dataset.

Its permission bits are taken away while something is mounted on it, where nobody sees that, and are given back when
the mount ends well. After a crash they stay away: who is not root then gets EACCES and not an empty listing. Root is
let in whatever the bits say, which is why a new mount of root is put over the dead one (kernelmount.py), so that there
is no moment in which what is below can be seen.

Called by session.py and mounts.py, in one thread. Only empty directories of one's own are closed, and what fails here
fails silently: it is a precaution.
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

# While it is being mounted on: fusermount3 goes into it (x) and wants to be able to write there (w); no listing (r).
_WHILE_MOUNTING = 0o300
_OWNERS = 0o700
_MODE = "user.egofs.mode"  # what the bits were, for whoever opens it after a crash


class Below:
    """The directory below one mount."""

    def __init__(self, mountpoint: Path) -> None:
        """Called when nothing is mounted there, or only what is dead: then what is below cannot be reached, and stays
        as whoever mounted that has left it."""
        self._mountpoint = mountpoint
        self._descriptor: int | None = None

    def begin(self) -> None:
        """Before mounting: takes away what the mount itself does not need."""
        with suppress(OSError):
            give_back(self._mountpoint)
            descriptor = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._descriptor = descriptor
            if os.listdir(descriptor) or os.fstat(descriptor).st_uid != os.geteuid():
                self._let_go()
                return
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            with suppress(OSError):  # a filesystem without such attributes
                os.setxattr(descriptor, _MODE, f"{mode:o}".encode())
            os.fchmod(descriptor, _WHILE_MOUNTING)

    def close(self) -> None:
        """Once it is mounted: takes the rest away too."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.fchmod(self._descriptor, 0)
            self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def give_back(directory: Path) -> None:
    """Gives a directory the bits back that were taken away, if any were. Called when nothing is mounted on it."""
    with suppress(OSError):
        mode = stat.S_IMODE(os.lstat(directory).st_mode)
        if mode not in (0, _WHILE_MOUNTING):
            return
        # Whose it is has to open it to see what it was.
        os.chmod(directory, _OWNERS)
        try:
            before = int(os.getxattr(directory, _MODE, follow_symlinks=False), 8) & 0o7777
            os.removexattr(directory, _MODE, follow_symlinks=False)
        except (OSError, ValueError):
            # Nobody told: closed by its owner, which a mount of root leaves so and any other cannot.
            before = mode if os.geteuid() == 0 and mode == 0 else _OWNERS
        os.chmod(directory, before)
