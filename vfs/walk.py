"""What stands at and below paths of a mount, one thing at a time: files of the store, and pictures of videos.

Hides how a path is found (links are followed wherever they lead within the mount, `frames` directories are looked up)
and what a folder has below it. Called by warming.py; it knows the catalog and the nodes of frames, and neither cache
nor disk. Folders whose listings are not known are listed for it; no file is opened, and sizes that nobody knows are
asked for only where `may_read`.

A tree of millions is never held: of what was given only 8 bytes each, so that nothing is given twice however many
links lead to it. A Walk belongs to one thread.
"""

import logging
import os
import posixpath
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat

from xxhash import xxh3_64_intdigest

from vfs import frames
from vfs.archive import stem_of
from vfs.catalog import Entry, Folder
from vfs.errors import AccessDenied, EgofsError, NotADirectory, NotFound, OverQuota, Timeout
from vfs.frames import FramesDirectory, Stretch, ViewDirectory
from vfs.mounted import FolderNode, MountedDataset
from vfs.node import Kind
from vfs.objectfile import ObjectFile

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 256
_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the file at `path`. A length below 0 is not known."""

    path: str
    file: ObjectFile
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a directory of frames, or of one file of it; `stretch` is None where the video would have to be
    read to know them."""

    path: str
    stretch: Stretch | None


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A folder that a path leads to."""

    path: str


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A file of the store that a path leads to."""

    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class FramesPlace:
    """A `frames` directory of `folder`, the directory of one view in it, or a file in that."""

    folder: str
    frames: str
    view: str = ""
    name: str = ""

    @property
    def path(self) -> str:
        """In the mount."""
        return "/".join(part for part in (self.folder, self.frames, self.view, self.name) if part)


Place = FolderPlace | FilePlace | FramesPlace


class Walk:
    """See the module's docstring."""

    def __init__(
        self,
        mounted: MountedDataset,
        *,
        with_frames: bool,
        may_read: bool,
        on_failure: Callable[[str, EgofsError], None],
        waits_on: Callable[[], bool] = lambda: False,
    ) -> None:
        """`with_frames`: the default `frames` of folders and videos count too. `on_failure` hears of a path that cannot
        be looked into; the rest goes on, but where the store refuses, which is raised. `waits_on` says whether a
        listing that took too long is to be waited for once more."""
        self._mounted = mounted
        self._with_frames = with_frames
        self._may_read = may_read
        self._on_failure = on_failure
        self._waits_on = waits_on
        self._given = Seen()
        # What many paths, or links, ask for one after the other.
        self._through: dict[str, Folder] = {}
        self._recent: dict[str, ViewDirectory] = {}

    # -- what a path means

    def place(self, path: str) -> Place:
        """What a path of the mount means ("" is its root). Raises NotFound, NotADirectory, and what a listing raises.

        An archive with a / behind it means the folder that it is shown as.
        """
        todo = deque(part for part in path.split("/") if part not in ("", "."))
        folder, links = "", 0
        while todo:
            name = todo.popleft()
            if name == "..":
                folder = posixpath.dirname(folder)
                continue
            self._listed(folder)
            try:
                entry = self._mounted.catalog.entry(folder, name)
            except NotFound:
                if name.startswith(frames.NAME):
                    return self._frames_place(folder, name, [*todo])
                raise
            if entry.kind is Kind.DIRECTORY:
                folder = _joined(folder, name)
            elif entry.kind is Kind.LINK:
                links += 1
                if links > _MOST_LINKS or entry.target.startswith("/"):
                    raise NotFound(f"{path}: a link that leads to nothing in the mount")
                todo.extendleft(part for part in reversed(entry.target.split("/")) if part not in ("", "."))
            elif todo:
                raise NotADirectory(f"{path}: {name} is a file")
            else:
                return self._file_place(folder, name, as_folder=path.endswith("/"))
        return FolderPlace(folder)

    def _file_place(self, folder: str, name: str, *, as_folder: bool) -> Place:
        if not as_folder:
            return FilePlace(folder, name)
        for shown in (stem_of(name), f"{name}.d") if stem_of(name) else ():
            with suppress(NotFound):
                if self._mounted.catalog.entry(folder, shown).kind is Kind.DIRECTORY:
                    return FolderPlace(_joined(folder, shown))
        raise NotADirectory(f"{_joined(folder, name)}: is a file, and has no folder")

    def _frames_place(self, folder: str, name: str, rest: list[str]) -> FramesPlace:
        place = FramesPlace(folder, name, *rest[:2])
        if len(rest) > 2:
            raise NotADirectory(f"{place.path}: is a file")
        if rest:
            view = self._view(place)
            if len(rest) > 1:
                view.stretch(rest[1], may_read=self._may_read)
        else:
            self._frames(place)
        return place

    def _view(self, place: FramesPlace) -> ViewDirectory:
        """Raises NotFound."""
        path = FramesPlace(place.folder, place.frames, place.view).path
        if path not in self._recent:
            if len(self._recent) > _MOST_REMEMBERED:
                self._recent.clear()
            self._recent[path] = self._frames(place).view(place.view)
        return self._recent[path]

    def _frames(self, place: FramesPlace) -> FramesDirectory:
        """Raises NotFound where the folder has none."""
        node = FolderNode(self._mounted, place.folder, 0.0).lookup(place.frames)
        if not isinstance(node, FramesDirectory):
            raise NotFound(f"{place.path}: no such file or folder")
        return node

    # -- what is there

    def pieces(self, place: Place) -> Iterator[Piece]:
        """The bytes: of files; and of pictures that are never kept themselves, what they are decoded from."""
        if isinstance(place, FolderPlace):
            for folder, _, entry in self._below(place.path):
                if entry is not None and (piece := self._piece(folder, entry)) is not None:
                    yield piece
        elif isinstance(place, FilePlace):
            entry = self._mounted.catalog.entry(place.folder, place.name)
            if (piece := self._piece(place.folder, entry)) is not None:
                yield piece
        else:
            for path, view in self._views(place):
                if (piece := self._raw(path, view, place.name)) is not None:
                    yield piece

    def pictures(self, place: Place) -> Iterator[Pictures]:
        """The pictures of `frames` that are asked for, and are kept."""
        if isinstance(place, FramesPlace):
            for path, view in self._views(place):
                yield from self._kept(path, view, place.name)
        elif self._with_frames and isinstance(place, FilePlace):
            yield from self._of_file(place)
        elif self._with_frames and isinstance(place, FolderPlace):
            for folder, known, entry in self._below(place.path):
                if entry is None and self._mounted.has_frames(folder, known):
                    with suppress(NotFound):  # something of the store's is called so
                        for path, view in self._views(FramesPlace(folder, frames.NAME)):
                            yield from self._kept(path, view, "")

    def _below(self, top: str) -> Iterator[tuple[str, Folder, Entry | None]]:
        """Each folder from `top` down with its files, and then with None when these have been given. Links to folders
        are followed, each folder is given once."""
        pending: list[Iterator[tuple[str, Folder, Entry | None]]] = [self._inside(top)]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
                continue
            folder, known, entry = found
            if entry is None or entry.kind is Kind.FILE:
                yield found
            elif entry.kind is Kind.DIRECTORY:
                pending.append(self._inside(_joined(folder, entry.name)))
            else:
                with suppress(NotFound, NotADirectory):  # a link to nothing is nothing
                    place = self._behind(folder, entry)
                    if isinstance(place, FolderPlace):
                        pending.append(self._inside(place.path))
                    elif isinstance(place, FilePlace):
                        yield place.folder, known, self._mounted.catalog.entry(place.folder, place.name)

    def _behind(self, folder: str, link: Entry) -> Place:
        """What a link leads to. Mostly that is a file whose folder was looked at before, which is soon found."""
        if len(self._through) > _MOST_REMEMBERED:
            self._through.clear()
        with suppress(NotFound):
            home, entry = self._mounted.file_of(folder, link, self._through)
            return FilePlace(home, entry.name)
        return self.place(_joined(folder, link.name))

    def _inside(self, folder: str) -> Iterator[tuple[str, Folder, Entry | None]]:
        """What stands directly in a folder that was not given yet, and None at its end."""
        if not self._given.add(f"folder\0{folder}"):
            return
        try:
            known = self._listed(folder)
            yield from zip(repeat(folder), repeat(known), self._mounted.catalog.entries(folder))
        except (AccessDenied, OverQuota):
            raise
        except EgofsError as failure:
            self._on_failure(folder, failure)
        else:
            yield folder, known, None

    def _listed(self, folder: str) -> Folder:
        """The folder's listing; that of an archive may take longer than anybody waits for at once."""
        while True:
            try:
                return self._mounted.catalog.folder(folder)
            except Timeout:  # 50 s have passed with it
                if not self._waits_on():
                    raise

    def _piece(self, folder: str, entry: Entry) -> Piece | None:
        """A file's bytes, all of them, if they were not given yet."""
        obj, path = entry.object, _joined(folder, entry.name)
        assert obj is not None, "a file has an object"
        if not self._given.add(f"{obj.key}\0{obj.version}\0{obj.mtime_ns}"):
            return None
        if obj.size_bytes < 0 and self._may_read:
            try:
                obj = self._mounted.sizes.entry(folder, entry.name).object
            except (AccessDenied, OverQuota):
                raise
            except EgofsError as failure:
                self._on_failure(path, failure)
                return None
            assert obj is not None, "a file has an object"
        return Piece(path, self._mounted.object_file(folder, obj), 0, obj.size_bytes)

    # -- frames

    def _views(self, place: FramesPlace) -> Iterator[tuple[str, ViewDirectory]]:
        children = () if place.view else self._frames(place).children()
        for name in (place.view,) if place.view else (os.fsdecode(child[0]) for child in children):
            one = FramesPlace(place.folder, place.frames, name)
            path = one.path
            try:
                yield path, self._view(one)
            except (AccessDenied, OverQuota):
                raise
            except EgofsError as failure:
                self._on_failure(path, failure)

    def _of_file(self, place: FilePlace) -> Iterator[Pictures]:
        """The default pictures of a file that is a video."""
        if not self._mounted.catalog.entry(place.folder, place.name).is_video:
            return
        for name in (posixpath.splitext(place.name)[0], place.name):
            one = FramesPlace(place.folder, frames.NAME, name)
            with suppress(NotFound):
                yield from self._kept(one.path, self._view(one), "")
                return

    def _kept(self, path: str, view: ViewDirectory, name: str) -> Iterator[Pictures]:
        try:
            stretch = view.stretch(name, may_read=self._may_read)
        except (AccessDenied, OverQuota):
            raise
        except EgofsError as failure:
            self._on_failure(_joined(path, name), failure)
            return
        if stretch is None:
            yield Pictures(_joined(path, name), None)
        elif stretch.is_kept and self._given.add(stretch.key):
            yield Pictures(_joined(path, name), stretch)

    def _raw(self, path: str, view: ViewDirectory, name: str) -> Piece | None:
        """What pictures that are not kept are decoded from."""
        try:
            stretch = view.stretch(name, may_read=self._may_read)
        except (AccessDenied, OverQuota):
            raise
        except EgofsError:  # which `pictures` meets too
            return None
        if stretch is None or stretch.is_kept:
            return None
        start, length = stretch.byte_range()
        video = stretch.video
        if not self._given.add(f"{video.identity}\0{start}\0{length}"):
            return None
        return Piece(_joined(path, name), video.file, start, length)


class Seen:
    """A set of texts that is only added to: 8 bytes for each, in a table that is at most half full.

    Of a million texts two share 64 bits once in 37 million times.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, text: str) -> bool:
        """Whether it was not there yet."""
        if 2 * self._count >= len(self._table):
            before, self._table = self._table, array("Q", bytes(2 * 8 * len(self._table)))
            for number in filter(None, before):
                self._table[self._slot(number)] = number
        number = xxh3_64_intdigest(text.encode(errors="surrogateescape")) or 1
        slot = self._slot(number)
        if self._table[slot]:
            return False
        self._table[slot] = number
        self._count += 1
        return True

    def _slot(self, number: int) -> int:
        """Where a number is, or would be."""
        table, mask = self._table, len(self._table) - 1
        slot = number & mask
        while table[slot] and table[slot] != number:
            slot = slot + 1 & mask
        return slot


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
