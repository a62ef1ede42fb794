"""Which mounts and paths of theirs a person means: paths, patterns, and lists of paths, as a command line has them.

Called by the commands that ask daemons about paths. Of a mount nothing is opened here; symbolic links that lead into
one from outside are followed.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache

from mountd import mounts
from vfs.errors import OptionError


def by_mount(words: Iterable[str]) -> dict[mounts.Mount, list[str]]:
    """The paths below each mount's root that a person named, mounts and paths in their order.

    A word is a path; a pattern as glob(7) has it, with ** for any folders, where nothing is called so; or @FILE, a list
    with a path a line (@- reads standard input). Raises OptionError for what is in no mount, and for patterns and lists
    without a path.
    """
    finder = _Finder()
    found: dict[mounts.Mount, list[str]] = {}
    for word in words:
        count = 0
        for path, is_listed in _paths_of(word):
            mount, inside = finder.place(path, or_in_only=is_listed)
            found.setdefault(mount, []).append(inside)
            count += 1
        if not count:
            raise OptionError(f"{word}: {'an empty list' if word.startswith('@') else 'matches nothing'}")
    return found


def _paths_of(word: str) -> Iterator[tuple[str, bool]]:
    """The paths that a word stands for, and whether they came from a list."""
    if word.startswith("@"):
        for line in _lines_of(word[1:]):
            yield line, True
    elif glob.has_magic(word) and not os.path.lexists(word):
        for path in glob.iglob(word, recursive=True):
            yield path, False
    else:
        yield word, False


def _lines_of(name: str) -> Iterator[str]:
    """The paths in a list, as they stand there."""
    try:
        with open(0 if name == "-" else name, errors="surrogateescape", closefd=name != "-") as lines:
            for line in lines:
                if path := line.rstrip("\r\n"):
                    yield path
    except OSError as failure:
        raise OptionError(f"@{name}: {failure.strerror}") from failure


class _Finder:
    """Says in which mount a path is, of the mounts that there are now."""

    def __init__(self) -> None:
        self._mounts = sorted(mounts.egofs_mounts(), key=lambda mount: -len(mount.mountpoint.parts))
        self._real = lru_cache(4096)(os.path.realpath)

    def place(self, path: str, *, or_in_only: bool) -> tuple[mounts.Mount, str]:
        """The mount that a path leads into, and the path below its root. With `or_in_only`, one that is relative and
        leads into none is one of the only mount. Raises OptionError."""
        if "\0" in path:
            raise OptionError(f"{path!r:.80}: no path has a NUL in it")
        whole = os.path.expanduser(path)
        # What is in a mount is left to its daemon; and of a list's million paths each folder is looked at once.
        above, name = os.path.split(whole.rstrip("/") or "/")
        places = [os.path.join(self._real(above), name)] if name not in ("", ".", "..") else []
        for real in (*places, None):
            real = self._real(whole) if real is None else real
            for mount in self._mounts:
                root = str(mount.mountpoint)
                if real == root or real.startswith(root.rstrip("/") + "/"):
                    return mount, real[len(root) :].strip("/") + "/" * (path.endswith("/") and real != root)
        if or_in_only and not os.path.isabs(whole) and len(self._mounts) == 1:
            return self._mounts[0], os.path.normpath(whole).removeprefix("./")
        hint = "egofs status lists what is" if self._mounts else "nothing is mounted"
        raise OptionError(f"{path}: not in a mount of egofs ({hint})")
