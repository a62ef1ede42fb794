"""Inodes and lookup counts: what the kernel holds, and which node stands behind it.

An inode's number is made from its parent's number, its kind, its name and its version, so that it stays the same for
the life of the mount (and of the next one) without anything being remembered. A file that was replaced is another
inode: whoever has the old one open goes on with its pages, and never sees a page of the new one. A node is kept only
while the kernel refers to its inode.

Called by ops alone, from the event loop's one thread: nothing here blocks or locks. Finding a node, which may block,
is `Directory.lookup` in any thread; `enter` then gives it its inode.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from typing import NewType

from vfs.errors import NotFound
from vfs.node import Directory, Kind, Node

log = logging.getLogger(__name__)

Inode = NewType("Inode", int)

ROOT = Inode(1)
_KIND_TAG = {Kind.DIRECTORY: b"d", Kind.FILE: b"f", Kind.LINK: b"l"}


@dataclass(slots=True)
class _Held:
    """An inode that the kernel refers to. `lookups` is the kernel's count; at 0 the inode is dropped."""

    node: Node
    parent: Inode
    name: str
    lookups: int


class Tree:
    """The inodes that the kernel knows at this moment."""

    def __init__(self, root: Directory) -> None:
        self._held: dict[Inode, _Held] = {ROOT: _Held(root, ROOT, "", 1)}

    def __len__(self) -> int:
        return len(self._held)

    def node(self, inode: Inode) -> Node:
        """The node behind an inode. Raises NotFound for one that the kernel has given back."""
        try:
            return self._held[inode].node
        except KeyError:
            raise NotFound(f"inode {inode} is not in use") from None

    def place(self, inode: Inode) -> tuple[Inode, str]:
        """The parent and the name of an inode in use."""
        held = self._held[inode]
        return held.parent, held.name

    def number(self, parent: Inode, name: str, node: Node) -> Inode:
        """The inode number of a node under its parent; counts nothing."""
        salt = 0
        while True:
            inode = _number(parent, name, node, salt)
            held = self._held.get(inode)
            if held is None or (held.parent == parent and held.name == name):
                return inode
            # 2^63 numbers: with a million inodes held, two share one in one mount of ten million.
            log.warning("two names share inode %d: %r and %r", inode, held.name, name)
            salt += 1

    def enter(self, parent: Inode, name: str, node: Node) -> Inode:
        """Counts one reference of the kernel to a node that it was told of; the newest node of a name stays."""
        inode = self.number(parent, name, node)
        held = self._held.get(inode)
        if held is None:
            self._held[inode] = _Held(node, parent, name, 1)
        else:
            held.node = node
            held.lookups += 1
        return inode

    def forget(self, inode: Inode, lookups: int) -> None:
        """The kernel gives references back."""
        held = self._held.get(inode)
        if held is None or inode == ROOT:
            return
        held.lookups -= lookups
        if held.lookups <= 0:
            del self._held[inode]


def _number(parent: Inode, name: str, node: Node, salt: int) -> Inode:
    """63 bits of BLAKE2b; 0 and 1 are not given (0 means absent, 1 is the root)."""
    parts = (parent.to_bytes(8), _KIND_TAG[node.kind], os.fsencode(name), b"\0", os.fsencode(node.version), bytes(salt))
    return Inode(max(2, int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest()) >> 1))
