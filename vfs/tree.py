"""Inodes and lookup counts: what the kernel holds, and where in the tree it stands.

An inode's number is made from its parent's number, its name and its node's tag (kind and version), so that it stays
the same for the life of the mount (and of the next one) without anything being remembered. A file that was replaced
is another inode: whoever has the old one open goes on with its pages, and never sees a page of the new one.

The kernel may hold millions of inodes, so that of each only its place and its count are kept: about 170 bytes. Whoever
needs the node looks its name up again, and sees by the number whether it still is the same; the nodes that were looked
up last, of open files and of files without a version are kept, for these are needed again or would not be the same.

Called by ops alone, from the event loop's one thread: nothing here blocks or locks. Finding a node, which may block,
is `Directory.lookup` in any thread; `remember` then takes it.
"""

import logging
import os
import struct
import time
from collections import OrderedDict
from typing import NewType

from xxhash import xxh3_64_intdigest

from vfs.errors import NotFound
from vfs.node import Directory, Kind, Node

log = logging.getLogger(__name__)

Inode = NewType("Inode", int)

ROOT = Inode(1)
# How a held inode is written: lookups and parent, then the name. One `bytes` takes 49 bytes and the name, where a tuple
# with its parts would take 150.
_HEAD = struct.Struct("<QQ")
_LOOKUPS_BYTES = 8
# Nodes that were looked up last: all directories that a walk is in, and the files between stat and open. About 4 MB.
_RECENT = 4096


class Tree:
    """The inodes that the kernel knows at this moment."""

    def __init__(self, root: Directory) -> None:
        self._root = root
        # `lookups` is the kernel's count; at 0 the inode is dropped.
        self._held: dict[Inode, bytes] = {ROOT: _HEAD.pack(1, ROOT)}
        self._unversioned: dict[Inode, Node] = {}
        self._pinned: dict[Inode, tuple[Node, int]] = {}
        # By place, so that a new version takes the place of the old one; with the time until which it is believed.
        self._recent: OrderedDict[bytes, tuple[Inode, Node, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, parent: Inode, name: bytes, tag: int) -> Inode:
        """Counts one reference of the kernel to a name that it was told of, and gives its inode."""
        inode = _number(parent, name, tag, 0)
        held = self._held.get(inode)
        if held is None:
            self._held[inode] = _HEAD.pack(1, parent) + name
            return inode
        lookups, of = _HEAD.unpack_from(held)
        if of != parent or held[_HEAD.size :] != name:
            inode = self.number(parent, name, tag)
            held = self._held.get(inode)
            lookups = _HEAD.unpack_from(held)[0] if held else 0
        self._held[inode] = _HEAD.pack(lookups + 1, parent) + name
        return inode

    def number(self, parent: Inode, name: bytes, tag: int) -> Inode:
        """The inode of a name; counts nothing."""
        place = _HEAD.pack(0, parent)[_LOOKUPS_BYTES:] + name
        salt = 0
        while True:
            inode = _number(parent, name, tag, salt)
            held = self._held.get(inode)
            if held is None or held[_LOOKUPS_BYTES:] == place:
                return inode
            # 2^63 numbers: with a million inodes held, two share one in one mount of ten million.
            log.warning("two names share inode %d: %r and %r", inode, held[_HEAD.size :], name)
            salt += 1

    def forget(self, inode: Inode, lookups: int) -> None:
        """The kernel gives references back."""
        held = self._held.get(inode)
        if held is None or inode == ROOT:
            return
        left = _HEAD.unpack_from(held)[0] - lookups
        if left > 0:
            self._held[inode] = left.to_bytes(_LOOKUPS_BYTES, "little") + held[_LOOKUPS_BYTES:]
        else:
            del self._held[inode]
            self._unversioned.pop(inode, None)

    def place(self, inode: Inode) -> tuple[Inode, str]:
        """The parent and the name of an inode. Raises NotFound for one that the kernel has given back."""
        try:
            held = self._held[inode]
        except KeyError:
            raise NotFound(f"inode {inode} is not in use") from None
        return Inode(_HEAD.unpack_from(held)[1]), os.fsdecode(held[_HEAD.size :])

    def names_in(self, parent: Inode) -> list[bytes]:
        """The names that the kernel holds in a directory. Looks at all inodes; any thread may call."""
        return [held[_HEAD.size :] for held in self._copy().values() if _HEAD.unpack_from(held)[1] == parent]

    def inodes_at(self, path: str) -> list[Inode]:
        """The inodes that a path has in the kernel: several where it was replaced. Looks at all inodes; any thread may
        call."""
        at, held = [ROOT], self._copy()
        for name in filter(None, os.fsencode(path).split(b"/")):
            places = {_HEAD.pack(0, parent)[_LOOKUPS_BYTES:] + name for parent in at}
            at = [inode for inode, entry in held.items() if entry[_LOOKUPS_BYTES:] in places and inode != ROOT]
        return at

    def _copy(self) -> dict[Inode, bytes]:
        """What is held at one moment: to copy a dict is one step of the interpreter."""
        return self._held.copy()

    # -- nodes

    def remember(self, inode: Inode, node: Node) -> None:
        """Takes the node that was found behind an inode in use; the newest one of a name stays."""
        if node.kind is Kind.FILE and not node.version:
            self._unversioned[inode] = node
            return
        place = self._held[inode][_LOOKUPS_BYTES:]
        self._recent[place] = (inode, node, time.monotonic() + node.attributes.valid_s)
        self._recent.move_to_end(place)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def kept(self, inode: Inode) -> Node | None:
        """The node, if it is one that stays: the root, an open file, a file without a version."""
        if inode == ROOT:
            return self._root
        if inode in self._pinned:
            return self._pinned[inode][0]
        return self._unversioned.get(inode)

    def recent(self, inode: Inode) -> Node | None:
        """The node, if it was looked up lately and its name may still be believed to lead to it."""
        held = self._held.get(inode)
        if held is None:
            return None
        place = held[_LOOKUPS_BYTES:]
        of, node, until = self._recent.get(place, (None, None, 0.0))
        if of != inode or time.monotonic() >= until:
            return None
        self._recent.move_to_end(place)
        return node

    def pin(self, inode: Inode, node: Node) -> None:
        """Keeps the node of a file that was opened: whoever has it open may ask for its size after its name is gone."""
        _, pins = self._pinned.get(inode, (None, 0))
        self._pinned[inode] = (node, pins + 1)

    def unpin(self, inode: Inode) -> None:
        """Takes back one `pin`."""
        node, pins = self._pinned.pop(inode)
        if pins > 1:
            self._pinned[inode] = (node, pins - 1)


def _number(parent: Inode, name: bytes, tag: int, salt: int) -> Inode:
    """63 bits of XXH3; 0 is not given (it means absent), and 1 is always held, by the root."""
    return Inode(xxh3_64_intdigest(name, (parent ^ tag) + salt) >> 1 or 2)
