"""From paths below a mount's root to nodes, through all links: what the kernel does for readers, without the kernel.

Called by who fetches what a list names. Folders that were passed lately are kept, so that a path costs one look at its
last folder. Any thread may enter; a look may block, on a listing or on a video's index.
"""

import posixpath
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from cachetools import LRUCache

from vfs.errors import NotADirectory, NotFound
from vfs.node import Directory, File, Link, Node, NotAtHand

_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))
# A listing costs nothing here: it is the folders on the way to a list's files that are kept.
_FOLDERS = 4096
# What a folder has at hand is taken for so long without a look at whether it still stands: that is half of the cost of
# finding a file, and the listings themselves are believed for longer.
_AT_HAND_S = 1.0


@dataclass(slots=True)
class _Known:
    """A folder, where its path leads to, and until when that is believed; and what it had at hand lately."""

    node: Directory
    name: str
    until: float
    here: Directory | None = None
    here_until: float = 0.0

    def look(self, name: str) -> Node:
        """The node of that name. Raises what `Directory.lookup` raises."""
        if not name:
            raise NotFound("a path without a name")
        now = time.monotonic()
        if self.here is None or now >= self.here_until:
            self.here, self.here_until = self.node.at_hand(), now + _AT_HAND_S
        if here := self.here:
            with suppress(NotAtHand):
                return here.lookup(name)
        return self.node.lookup(name)


class Paths:
    """The tree below a root."""

    def __init__(self, root: Directory) -> None:
        self._root = _Known(root, "", float("inf"))
        self._lock = threading.Lock()
        self._folders: LRUCache[str, _Known] = LRUCache(_FOLDERS)

    def file(self, path: str) -> tuple[str, File]:
        """The file that a path leads to, and its own path. Raises NotFound, also for a folder, NotADirectory, and what
        finding out raises."""
        name, node = self._found(path, _MOST_LINKS)
        if not isinstance(node, File):
            raise NotFound(f"{path}: a folder, and no file")
        return name, node

    def _found(self, path: str, links: int) -> tuple[str, Node]:
        """The node that is no link, and its path."""
        folder, _, last = path.rpartition("/")
        parent = self._folder(folder, links)
        node = parent.look(last)
        name = f"{parent.name}/{last}" if parent.name else last
        if not isinstance(node, Link):
            return name, node
        target = posixpath.normpath(posixpath.join(parent.name, node.target()))
        if links == 0 or target.startswith(("/", "../")) or target in (".", ".."):
            raise NotFound(f"{path}: a link that leads nowhere in the mount")
        return self._found(target, links - 1)

    def _folder(self, path: str, links: int) -> _Known:
        if not path:
            return self._root
        with self._lock:
            known = self._folders.get(path)
        if known is not None and time.monotonic() < known.until:
            return known
        name, node = self._found(path, links)
        if not isinstance(node, Directory):
            raise NotADirectory(f"{path}: a file, and no folder")
        known = _Known(node, name, time.monotonic() + node.attributes.valid_s)
        with self._lock:
            self._folders[path] = known
        return known
