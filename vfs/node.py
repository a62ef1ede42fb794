"""What the mounted tree is made of: directories, files and links, as the tree sees them.

The catalog's entries, the virtual frames and the daemon's own files all are nodes; tree.py gives them inodes and
knows nothing else of them. `attributes` never blocks: whoever makes a node has found out what stat needs. Every
other method may block and may be called from any thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from vfs.errors import NoSuchAttribute


class Kind(Enum):
    """What a node is to stat."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat tells of a node. `valid_s` is how long the kernel may believe it without asking again."""

    size_bytes: int
    mtime_ns: int
    valid_s: float


class Reader(Protocol):
    """An open file, pinned to the version that it was opened at."""

    def read(self, start: int, length: int) -> "bytes | memoryview":
        """Exactly the bytes of the range that stand before the end of the file; never fewer."""
        ...

    def close(self) -> None:
        """Releases what the open file holds."""
        ...


class Node:
    """Base of all nodes: `version` names the content (equal versions, equal bytes), "" if it is made anew each time."""

    kind: ClassVar[Kind]
    attributes: Attributes
    version: str = ""

    def xattr_names(self) -> list[str]:
        """Names of the extended attributes, with their namespace; asks nothing of any store."""
        return []

    def xattr(self, name: str) -> bytes:
        """An extended attribute's value. Raises NoSuchAttribute."""
        raise NoSuchAttribute(name)


class Directory(Node):
    """A node with names below it."""

    kind = Kind.DIRECTORY

    def lookup(self, name: str) -> Node:
        """The node of that name. Raises NotFound."""
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Node]]:
        """The names that `ls` shows with their nodes, in a stable order."""
        raise NotImplementedError

    def negative_valid_s(self) -> float:
        """How long the kernel may remember that a name is not there; 0 asks each time."""
        return 0.0


class File(Node):
    """A node with bytes."""

    kind = Kind.FILE

    def open(self) -> Reader:
        """The file's bytes, pinned to this version."""
        raise NotImplementedError


class Link(Node):
    """A symbolic link."""

    kind = Kind.LINK

    def target(self) -> str:
        """What readlink answers."""
        raise NotImplementedError
