"""A flat listing cut into folders: pure logic over keys in their order, which asks nothing of any store.

Called by what lists ahead. An object is anything that has a key. One thread at a time may enter a Cutter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """What is cut: an object of a store, by its name there."""

    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Keyed)


@dataclass(slots=True)
class Folder(Generic[T]):
    """A folder's listing: its files, and the names of its folders."""

    path: str
    asked_at: float
    """When the first of the pages was asked for that it was cut from."""
    page: int
    files: list[T] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    too_large: bool = False

    @property
    def size(self) -> int:
        """Entries, and one for itself."""
        return len(self.files) + len(self.folders) + 1


class Cutter(Generic[T]):
    """Cuts objects below a parent, in the order of their keys, into the listings of all folders on the way.

    All keys of a folder stand together, since they begin alike: it is whole when another begins, or at the end.
    """

    def __init__(self, base: str, most: int) -> None:
        """`base` is the parent with a / behind, "" for the root; its own files are passed over. A folder of more than
        `most` entries is not kept."""
        self._most = most
        self.open: list[Folder[T]] = []  # each within the one before
        self._base = base
        self._head = base
        self._named = True  # whether the objects at hand stand in a folder that has a name
        self._children = 0

    @property
    def too_large(self) -> str:
        """The innermost folder, where it has more than is kept."""
        return self.open[-1].path if self.open and self.open[-1].too_large else ""

    def feed(self, objects: Sequence[T], asked_at: float, page: int) -> list[Folder[T]]:
        """The folders that these objects make whole."""
        complete: list[Folder[T]] = []
        for obj in objects:
            end = obj.key.rfind("/") + 1
            if obj.key[:end] != self._head:
                complete += self._turn(obj.key[:end], asked_at, page)
            if self._named and self.open and end < len(obj.key):
                self.open[-1].files.append(obj)
        for folder in self.open:
            if folder.size > self._most:
                folder.too_large = True
                folder.files.clear()
        return complete

    def end(self) -> list[Folder[T]]:
        """All folders that are left: nothing more comes of them."""
        return self._close(0)

    def discard(self) -> None:
        """Forgets what is not whole."""
        self.open.clear()
        self._head = self._base

    def take_children(self) -> int:
        """How many children of the parent have begun since this was last asked."""
        count, self._children = self._children, 0
        return count

    def _turn(self, head: str, asked_at: float, page: int) -> list[Folder[T]]:
        """Leaves folders and enters others, up to the first that has no name ("a//b": nothing can show it)."""
        self._head = head
        names = head.removeprefix(self._base).split("/")[:-1]
        self._named = "" not in names
        if not self._named:
            names = names[: names.index("")]
        common = 0
        path = self._base
        while common < min(len(names), len(self.open)) and self.open[common].path == path + names[common]:
            path += f"{names[common]}/"
            common += 1
        complete = self._close(common)
        for name in names[common:]:
            if self.open:
                self.open[-1].folders.append(name)
            else:
                self._children += 1
            self.open.append(Folder(path + name, asked_at, page))
            path += f"{name}/"
        return complete

    def _close(self, depth: int) -> list[Folder[T]]:
        closed, self.open[depth:] = self.open[depth:], []
        return [folder for folder in closed if not folder.too_large]
