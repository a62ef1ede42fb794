"""The built-in demo: small trees in the shape of four datasets, made on the spot, with no account, network or server.

Assembly101 stands at the root, as it does in its own mount. Below the names of the others the source has stores that
look like theirs (vfs.datasets.lookalike), which are shown as those datasets show their own.
"""

import posixpath
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vfs.catalog import Entry, Packed, Tree
from vfs.datasets import Dataset, Part, assembly101, module_for
from vfs.datasets.assembly101 import Options
from vfs.errors import NotFound
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.sources import Listed, ObjectInfo, Source

__all__ = ["Options", "default_source", "open_dataset"]

# As demo_tree names the tree of its VERSION. Said here too, and held equal by a test, because that module brings
# encoders which a tree that is there does not need.
TREE = "demo-v3"

_GUESTS = ("ego4d", "egoexo4d", "kinetics")
"""Datasets that are shown in a folder of their name."""

STORE = "local"


def default_source(options: Options, state: Path) -> str:
    """The demo's tree below `state`, made (some seconds) when it is not there."""
    root = state / "demo" / TREE
    if not root.is_dir():
        from vfs.datasets import demo_tree

        root = demo_tree.ensure(state / "demo")
    return str(root)


def open_dataset(source: Source, options: Options, state: Path) -> "Demo":
    """The options are Assembly101's; of the other datasets all is shown."""
    return Demo(source, options, state)


class Demo(Dataset):
    """See the module's docstring."""

    name = "demo"
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Options, state: Path) -> None:
        self._host = assembly101.open_dataset(source, options, state)
        self.selection = self._host.selection
        self._source = source
        self._state = state
        self._guests: dict[str, _Guest] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises OptionError as Assembly101 does."""
        self._host.check()

    def entries(self, folder: str) -> Iterator[Entry]:
        """What the dataset to which the folder belongs has in it."""
        guest, inner = self._guest(folder)
        return guest.entries(inner) if guest else self._host.entries(folder)

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """That of the dataset to which the folder belongs; so below."""
        guest, inner = self._guest(folder)
        return (guest.dataset if guest else self._host).frame_rule(inner, view)

    def facts(self, folder: str, name: str) -> dict[str, str]:
        guest, inner = self._guest(folder)
        return (guest.dataset if guest else self._host).facts(inner, name)

    def has_parts(self, folder: str) -> bool:
        guest, inner = self._guest(folder)
        return guest is not None and guest.dataset.has_parts(inner)

    def parts(self, folder: str) -> Iterator[str]:
        guest, inner = self._guest(folder)
        return guest.dataset.parts(inner) if guest else iter(())

    def part(self, folder: str, view: str) -> Part | None:
        guest, inner = self._guest(folder)
        part = guest.dataset.part(inner, view) if guest else None
        return part and replace(part, path=posixpath.join(folder.partition("/")[0], part.path))

    def _guest(self, folder: str) -> "tuple[_Guest | None, str]":
        """The guest to whom the folder belongs, with the folder's path in its own tree; opened when first needed."""
        name, _, inner = folder.partition("/")
        if name not in _GUESTS:
            return None, folder
        with self._lock:
            if name not in self._guests:
                self._guests[name] = _Guest(name, self._source, self._state)
        return self._guests[name], inner


class _Guest:
    """A dataset over a folder of the demo's source."""

    def __init__(self, name: str, source: Source, state: Path) -> None:
        module = module_for(name)
        self._within = _Within(source, name)
        self.dataset: Dataset = module.open_dataset(self._within, module.Options(), state)
        self._tree: dict[str, list[Entry]] | None = None

    def entries(self, folder: str) -> Iterator[Entry]:
        """The dataset's, with their objects as the demo's source knows them."""
        if self._tree is None:
            found = self.dataset.entries(folder)
            if not isinstance(found, Tree):
                return map(self._shown, found)
            # It is small and does not change: all of it is kept. Two threads may both come here, and make the same.
            self._tree = self._by_folder(found)
        if folder not in self._tree:
            raise NotFound(f"{folder}: no such folder")
        return map(self._shown, self._tree[folder])

    def _by_folder(self, tree: Tree) -> dict[str, list[Entry]]:
        """The entries of each folder, folders included."""
        found: dict[str, list[Entry]] = {"": []}
        packed: defaultdict[str, list[bytes]] = defaultdict(list)

        def entries_of(folder: str) -> list[Entry]:
            if folder not in found:
                found[folder] = []
                parent, _, name = folder.rpartition("/")
                entries_of(parent).append(Entry(name, Kind.DIRECTORY))
            return found[folder]

        for folder, entry in tree.entries:
            if isinstance(entry, Packed):
                packed[folder].append(entry.data)
            else:
                entries_of(folder).append(entry)
        for top, pieces in packed.items():
            for below, each in self.dataset.unpack(pieces):
                entries_of(posixpath.join(top, below).rstrip("/")).append(each)
        return found

    def _shown(self, entry: Entry) -> Entry:
        return entry if entry.object is None else replace(entry, object=self._within.outside(entry.object))


class _Within:
    """A folder of a source, as a source."""

    def __init__(self, source: Source, folder: str) -> None:
        self._source = source
        self._prefix = f"{folder}/"
        self.url = f"{source.url}/{folder}"
        self.remote = source.remote

    def list(self, folder: str) -> Iterator[Listed]:
        for listed in self._source.list((self._prefix + folder).rstrip("/")):
            yield replace(listed, object=self._inside(listed.object)) if listed.object else listed

    def stat(self, key: str) -> ObjectInfo:
        return self._inside(self._source.stat(self._prefix + key))

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        return self._source.read(self.outside(obj), start, length)

    def close(self) -> None:
        """Nothing: the source is closed by whoever has it."""

    def outside(self, obj: ObjectInfo) -> ObjectInfo:
        """The object as the whole source knows it."""
        return replace(obj, key=self._prefix + obj.key)

    def _inside(self, obj: ObjectInfo) -> ObjectInfo:
        return replace(obj, key=obj.key.removeprefix(self._prefix))
