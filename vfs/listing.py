"""Folders of a mount as `egofs ls` shows them: what the catalog tells, and how much of each file is on disk.

Opens no file and asks for no size; a folder whose listing is not known is listed. Called by the daemon's control
operations. Any thread may call.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from vfs import frames
from vfs.cache import covered_bytes
from vfs.catalog import Entry, Folder
from vfs.errors import NotADirectory, NotFound, OptionError
from vfs.mounted import MountedDataset
from vfs.node import Child, Directory, Kind, Node
from vfs.walk import FilePlace, FolderPlace, Walk

_T = TypeVar("_T")

_ROWS = 512
_MOST_REMEMBERED = 256
_LETTERS = {Kind.DIRECTORY: "d", Kind.FILE: "-", Kind.LINK: "l"}


@dataclass(slots=True)
class Row:
    """A name. `kind` is a letter of ls: d, - or l. Of a link to a file, size, mtime and bytes on disk are the file's.

    `size_bytes` is None where it is not known, `bytes_on_disk` where nothing is kept of such a thing."""

    name: str
    kind: str
    size_bytes: int | None = None
    mtime_ns: int = 0
    target: str = ""
    bytes_on_disk: int | None = None


class Listing:
    """Lists one mount."""

    def __init__(self, mounted: MountedDataset, root: Directory, top: str = "") -> None:
        """`root` is the mounted root, which may have more names than the dataset's; `top` stands before paths in
        messages."""
        self._top = top
        self._mounted = mounted
        self._root = root

    def of(self, path: str) -> tuple[bool, Iterator[list[Row]]]:
        """Whether a path is a folder, and its rows, some at a time; of a file its own. Raises OptionError for a path
        that is not there, and what a listing raises."""
        walk = Walk(self._mounted, with_frames=False, may_read=True, on_failure=lambda at, failure: None)
        try:
            try:
                place = walk.place(path)
            except NotFound:  # what the daemon adds to the dataset's root
                return self._of_node(self._node(path), path)
        except (NotFound, NotADirectory) as failure:
            raise OptionError(f"{self._top}{path}: no such file or folder") from failure
        if isinstance(place, FolderPlace):
            return True, self._of_folder(place.path)
        if isinstance(place, FilePlace):
            entry = self._mounted.catalog.entry(place.folder, place.name)
            return False, iter([self._rows(place.folder, [replace(entry, name=path)], {})])
        return self._of_node(self._node(place.path), path)

    def _of_folder(self, folder: str) -> Iterator[list[Row]]:
        catalog = self._mounted.catalog
        through = {folder: catalog.folder(folder)}
        entries = catalog.entries(folder)
        has_frames = self._mounted.has_frames(folder, through[folder])
        while some := [*islice(entries, _ROWS)]:
            has_frames = has_frames and all(entry.name != frames.NAME for entry in some)
            yield self._rows(folder, some, through)
            if len(through) > _MOST_REMEMBERED:
                through = {folder: through[folder]}
        if has_frames:
            yield [Row(frames.NAME, "d")]

    def _rows(self, folder: str, entries: list[Entry], through: dict[str, Folder]) -> list[Row]:
        rows, files = [], []
        for entry in entries:
            row = Row(entry.name, _LETTERS[entry.kind], target=entry.target)
            rows.append(row)
            with suppress(NotFound):  # a folder, or a link to one or to nothing
                home, file = self._mounted.file_of(folder, entry, through)
                assert file.object is not None, "a file has an object"
                row.mtime_ns = file.object.mtime_ns
                if file.object.size_bytes >= 0:
                    row.size_bytes = file.object.size_bytes
                    files.append((row, self._mounted.object_file(home, file.object).owner))
        cache = self._mounted.cache
        kept = cache.disk.kept_of_all(owner for _, owner in files) if cache is not None and cache.disk else {}
        for row, owner in files:
            assert row.size_bytes is not None, "only files of known size are looked for"
            row.bytes_on_disk = covered_bytes(kept.get(owner, ()), 0, row.size_bytes) if cache else row.size_bytes
        return rows

    # -- what is no folder of the dataset

    def _node(self, path: str) -> Node:
        """Raises NotFound."""
        node: Node = self._root
        for name in path.split("/"):
            if not isinstance(node, Directory):
                raise NotFound(path)
            node = node.lookup(name) if name not in ("", ".") else node
        return node

    def _of_node(self, node: Node, path: str) -> tuple[bool, Iterator[list[Row]]]:
        if isinstance(node, frames.ViewDirectory):
            return True, self._of_view(node)
        if isinstance(node, Directory):
            return True, ([_row(child) for child in some] for some in _batches(node.children()))
        attributes = node.attributes
        row = Row(path, _LETTERS[node.kind], attributes.size_bytes, attributes.mtime_ns)
        place, _, name = path.rpartition("/")
        above = self._node(place) if place else None
        if isinstance(above, frames.ViewDirectory):
            self._mark(above, name, [row])
        return False, iter([[row]])

    def _of_view(self, view: frames.ViewDirectory) -> Iterator[list[Row]]:
        rows = [_row(child) for child in view.children()]
        self._mark(view, "", rows)
        yield from _batches(rows)

    def _mark(self, view: frames.ViewDirectory, name: str, rows: list[Row]) -> None:
        """Says which pictures are on disk."""
        disk, stretch = self._mounted.disk, view.stretch(name, may_read=True)
        if disk is None or stretch is None or not stretch.is_kept:
            return
        kept = disk.kept_of(stretch.series.pictures.owner)
        for row, number in zip(rows, stretch.numbers, strict=True):
            row.bytes_on_disk = row.size_bytes if stretch.series.frame_of(number) in kept else 0


def _row(child: Child) -> Row:
    name, kind, _, size_bytes, mtime_ns = child
    is_sized = kind == Kind.FILE and size_bytes >= 0
    return Row(os.fsdecode(name), _LETTERS[Kind(kind)], size_bytes if is_sized else None, mtime_ns)


def _batches(things: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(things)
    while some := [*islice(rest, _ROWS)]:
        yield some
