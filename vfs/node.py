"""What the mounted tree is made of: directories, files and links, as the tree sees them.

The catalog's entries, the virtual frames and the daemon's own files all are nodes; tree.py gives them inodes and
knows nothing else of them. `attributes` and `at_hand` never block: whoever makes a node has found out what stat
needs. Every other method may block and may be called from any thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

from xxhash import xxh3_64_intdigest

from vfs.errors import NoSuchAttribute
from vfs.extent import Buffer


class NotAtHand(Exception):
    """What is asked of a directory that is at hand is not, and has to be asked of the directory itself."""


class Kind(IntEnum):
    """What a node is to stat. The catalog stores these numbers."""

    DIRECTORY = 0
    FILE = 1
    LINK = 2


Child = tuple[bytes, int, int, int, int]
"""What readdir tells of a name: its bytes, then kind, tag, size in bytes and mtime in ns of its node. A size below 0 is
not known: lookup finds it out.

A bare tuple as a row of SQLite comes, because a directory may have a million: an object each would cost more than all
the rest of listing it.
"""


def tag_of(kind: Kind, version: str) -> int:
    """63 bits that tell two versions of one name apart, and a file from a folder; the same in every process."""
    return xxh3_64_intdigest(version.encode("utf-8", "surrogateescape"), seed=kind) >> 1


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat tells of a node. `valid_s` is how long the kernel may believe it without asking again."""

    size_bytes: int
    mtime_ns: int
    valid_s: float


class Reader(Protocol):
    """An open file, pinned to the version that it was opened at."""

    def ready(self, start: int, length: int) -> Buffer | None:
        """What `read` would give, where that needs no waiting, valid until the next call; else None. Never blocks."""
        ...

    def read(self, start: int, length: int) -> Buffer:
        """Exactly the bytes of the range that stand before the end of the file; never fewer."""
        ...

    def close(self) -> None:
        """Releases what the open file holds."""
        ...


class Node:
    """Base of all nodes: `version` names the content (equal versions, equal bytes), "" if it is made anew each time.

    A node is not kept for as long as the kernel refers to it: looked up again, its name gives an equal one. Only a
    file without a version is kept.
    """

    kind: ClassVar[Kind]
    attributes: Attributes
    version: str = ""

    @property
    def tag(self) -> int:
        """Half of an inode's number: the other half is its place."""
        return tag_of(self.kind, self.version)

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

    def children(self) -> Iterator[Child]:
        """The names that `ls` shows, in a stable order. Nothing happens, and nothing blocks, before the first is asked
        for; any thread may then continue."""
        raise NotImplementedError

    def names_valid_s(self) -> float:
        """How long the kernel may believe what was said of the names here, absent ones too; 0 asks each time."""
        return 0.0

    def at_hand(self) -> "Directory | None":
        """This directory as far as it is known, if all its names are: no method of what is returned waits for anything
        but SQLite, and `lookup` raises NotAtHand where it would have to. Never blocks itself."""
        return None


class File(Node):
    """A node with bytes."""

    kind = Kind.FILE
    opens_at_once = False
    """Whether `open` never blocks."""

    def open(self) -> Reader:
        """The file's bytes, pinned to this version."""
        raise NotImplementedError


class Link(Node):
    """A symbolic link."""

    kind = Kind.LINK

    def target(self) -> str:
        """What readlink answers."""
        raise NotImplementedError
