"""A dataset as nodes: its folders, files and links, with the virtual frames in every folder that has videos.

Hides how catalog, dataset, source, cache and frames work together. The tree gets its root node from here and knows
nothing of datasets. Any thread may call; whatever needs a listing blocks until the store has given it.

A name that the source really has always wins: `frames` is only there where nothing else is called so.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import vfs.video
from vfs import frames
from vfs.cache import CHUNK_BYTES, ChunkCache
from vfs.catalog import Catalog, Entry, Folder
from vfs.datasets import Dataset, Part
from vfs.disk import Disk
from vfs.errors import NoSuchAttribute, NotFound, SourceError
from vfs.node import Attributes, Child, Directory, File, Kind, Link, Node, NotAtHand
from vfs.objectfile import ObjectFile
from vfs.siblings import Question, Siblings
from vfs.sizes import Sizes
from vfs.sources import ObjectInfo, Renewable, Source

_PREFIX = "user.egofs."
_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))
_FILE_FACTS = ("source", "version", "cached_bytes")
_ROOT_FACTS = ("source", "dataset")
_VIDEO_FACTS = ("frames", "fps", "codec", "width", "height")


class MountedDataset:
    """All that the nodes of one mount share."""

    def __init__(
        self,
        dataset: Dataset,
        source: Source,
        cache: ChunkCache | None,
        catalog_file: Path | None,
        *,
        space: str,
        listing_age_s: float,
        show_frames: bool = True,
        disk: Disk | None = None,
    ) -> None:
        """`space` tells this source, dataset and options from all others in the catalog's file. `disk` keeps what is
        made of videos; it is the cache's, or, where there is no cache, closed with the rest."""
        self.dataset = dataset
        self.source = source
        self.cache = cache
        self.catalog = Catalog(catalog_file, space, dataset.entries, listing_age_s, dataset.unpack)
        self.sizes = Sizes(source, self.catalog, dataset.sizes_ahead)
        self.shelf = frames.VideoShelf(disk)
        self.disk = disk
        self.show_frames = show_frames
        self._siblings = Siblings(CHUNK_BYTES)
        self.before_close: list[Callable[[], None]] = []
        """What ends with it, and uses what it has."""
        self.expects: Callable[[str, bool], bool] | None = None
        """Whether a file of this path was said to be read (in ranges), by somebody who has it fetched. Never blocks."""

    @property
    def root(self) -> "FolderNode":
        """The mounted tree's root. Raises what listing the root raises, so that a mount of nothing fails."""
        return FolderNode(self, "", self.catalog.valid_s(self.catalog.folder("")))

    def object_file(self, folder: str, obj: ObjectInfo) -> ObjectFile:
        """The bytes of an object that `folder` lists. When its version is gone, the folder is listed anew, or, where a
        listing does not tell versions, the object is asked for."""
        return ObjectFile(self.source, self.cache, obj, on_change=lambda: self._is_replaced(folder, obj))

    def opened(self, folder: str, name: str, obj: ObjectInfo) -> ObjectFile:
        """`object_file`, opened by somebody; the files beside it are fetched ahead where they are opened in turn, and
        nothing is known of what its reader opens next."""
        file = self.object_file(folder, obj)
        if self.cache is None:
            return file
        path = f"{folder}/{name}" if folder else name
        file.plan(lambda: self.expects is not None and self.expects(path, True))
        if self.expects is not None and self.expects(path, False):
            return file
        if (question := self._siblings.opened(folder, obj)) is not None:
            self.cache.later(partial(self._fetch_siblings, self.cache, question))
        return file

    def _fetch_siblings(self, cache: ChunkCache, question: Question) -> None:
        name = posixpath.basename(question.key or "")
        following = self.catalog.objects_after(question.folder, name, question.count) if question.count else []
        for obj in self._siblings.answer(question, following):
            cache.fetch_ahead(self.source, obj)

    def _is_replaced(self, folder: str, obj: ObjectInfo) -> bool:
        """Has the catalog know better what a folder has instead of an object that is not there as it was told."""
        # Whoever is told of the object's change must not hear of the catalog's failure instead.
        with suppress(SourceError):
            if obj.version and self.catalog.is_told(folder):
                self.catalog.invalidate(folder)
            else:
                return self.sizes.renewed(folder, obj)
        return True

    def forget(self, path: str) -> int:
        """Has a path, and all below it ("" is everything), listed again when it is next asked for, and the source look
        at its credentials anew; gives how many listings were forgotten. Raises SourceError."""
        if isinstance(self.source, Renewable):
            self.source.renew()
        forgotten = self.catalog.invalidate(posixpath.dirname(path)) if path else 0
        return forgotten + self.catalog.invalidate_below(path)

    def file_of(self, folder: str, entry: Entry, through: dict[str, Folder]) -> tuple[str, Entry]:
        """The file that an entry is or, as a link, leads to, and the folder that lists it. `through` has listings that
        are known, and gets those that were needed too. Raises NotFound if there is none."""
        for _ in range(_MOST_LINKS):
            if entry.object is not None:
                return folder, entry
            path = posixpath.normpath(posixpath.join(folder, entry.target))
            if entry.kind is not Kind.LINK or path.startswith(("/", "..")):
                break
            folder, name = posixpath.split(path)
            if folder not in through:
                through[folder] = self.catalog.folder(folder)
            entry = self.catalog.entry(folder, name)
        raise NotFound(f"{folder}/{entry.name}: leads to no file of the dataset")

    def video(self, folder: str, known: Folder, view: str, entry: Entry) -> frames.Video:
        """An entry of `folder` (whose listing is `known`) as a video that is shown as `view`. Raises NotFound for a
        link to no file."""
        through = {folder: known}
        home, file = self.file_of(folder, entry, through)
        obj = self.sizes.entry(home, file.name).object
        assert obj is not None, "a file has an object"
        identity = f"{self.source.url}\0{obj.identity}"
        return frames.Video(
            view,
            identity,
            self.object_file(home, obj),
            self.dataset.frame_rule(folder, view),
            obj.mtime_ns,
            min(map(self.catalog.valid_s, through.values())),
            lambda: all(self.catalog.known(path) == listing for path, listing in through.items()),
        )

    def has_frames(self, folder: str, known: Folder) -> bool:
        """Whether a folder, whose listing is `known`, shows frames."""
        return self.show_frames and (known.has_videos or self.dataset.has_parts(folder))

    def close(self) -> None:
        """Releases decoders, database and connections."""
        for end in self.before_close:
            end()
        self.shelf.close()
        self.sizes.close()
        self.catalog.close()
        if self.cache is not None:
            self.cache.close()
        elif self.disk is not None:
            self.disk.close()
        self.source.close()


class FolderNode(Directory):
    """A folder of the dataset."""

    def __init__(self, mounted: MountedDataset, path: str, valid_s: float, known: Folder | None = None) -> None:
        """`known` is the listing that answers; without one, the catalog is asked for one each time."""
        self.attributes = Attributes(0, 0, valid_s)
        self._mounted = mounted
        self._path = path
        self._known = known

    def at_hand(self) -> "FolderNode | None":
        """This folder with the listing that the catalog has of it, if it may still be believed."""
        known = self._mounted.catalog.known(self._path)
        return FolderNode(self._mounted, self._path, self.attributes.valid_s, known) if known else None

    def _listing(self) -> Folder:
        return self._known or self._mounted.catalog.folder(self._path)

    def lookup(self, name: str) -> Node:
        """The entry of that name, or the frames of this folder's videos. Raises NotFound and the source's errors."""
        known = self._listing()
        try:
            return self._node(self._entry(name), known)
        except NotFound:
            if name.startswith(frames.NAME) and self._has_frames(known):
                return self._frames(known, frames.parse_variant(name))
            raise

    def children(self) -> Iterator[Child]:
        """All entries, and `frames` where there are videos; no request a file."""
        known = self._listing()
        yield from self._mounted.catalog.children(self._path)
        if self._has_frames(known):
            try:
                self._mounted.catalog.entry(self._path, frames.NAME)  # a name of the source, which came above
            except NotFound:
                node = self._frames(known, frames.Variant())
                yield os.fsencode(frames.NAME), node.kind, node.tag, 0, 0

    def xattr_names(self) -> list[str]:
        """What is mounted, at the root. Of other folders nothing is known that their paths do not say."""
        return [] if self._path else [_PREFIX + fact for fact in _ROOT_FACTS]

    def xattr(self, name: str) -> bytes:
        """A fact's value; asks nothing of any store."""
        fact = name.removeprefix(_PREFIX)
        if self._path or fact not in _ROOT_FACTS:
            raise NoSuchAttribute(name)
        return (self._mounted.source.url if fact == "source" else self._mounted.dataset.name).encode()

    def names_valid_s(self) -> float:
        """A folder's listing is complete: what it lacks is not there for as long as it is believed."""
        return self._mounted.catalog.valid_s(self._listing())

    def _entry(self, name: str) -> Entry:
        """The entry of that name, with its size. Raises NotAtHand where the store has to be asked for that."""
        if self._known is None:
            return self._mounted.sizes.entry(self._path, name)
        entry = self._mounted.catalog.entry(self._path, name)
        if entry.object is not None and entry.object.size_bytes < 0:
            raise NotAtHand(name)
        return entry

    def _node(self, entry: Entry, known: Folder) -> Node:
        valid_s = self._mounted.catalog.valid_s(known)
        path = f"{self._path}/{entry.name}" if self._path else entry.name
        if entry.kind is Kind.DIRECTORY:
            return FolderNode(self._mounted, path, valid_s)
        if entry.kind is Kind.LINK:
            return LinkNode(entry.target, valid_s)
        return ObjectNode(self._mounted, self._path, entry, valid_s)

    def _has_frames(self, known: Folder) -> bool:
        return self._mounted.has_frames(self._path, known)

    def _frames(self, known: Folder, variant: frames.Variant) -> frames.FramesDirectory:
        attributes = Attributes(0, 0, self._mounted.catalog.valid_s(known))
        return frames.FramesDirectory(self._mounted.shelf, _Views(self._mounted, self._path), attributes, variant)


class _Views:
    """The videos of a folder, as its frames see them (frames.Views), and the parts of videos that it has."""

    def __init__(self, mounted: MountedDataset, path: str) -> None:
        self._mounted = mounted
        self._path = path

    def names(self) -> Iterator[str]:
        """A video's view is its name without the suffix; where that stands for several, all keep their suffix."""
        mounted, path = self._mounted, self._path
        through = {path: mounted.catalog.folder(path)}
        for videos in _of_one_beginning(mounted.catalog.videos(path)):
            stems = Counter(map(_stem, videos))
            for entry in videos:
                if entry.object is not None or self._leads_to_file(path, entry, through):
                    yield _stem(entry) if stems[_stem(entry)] == 1 else entry.name
        if mounted.dataset.has_parts(path):
            for view in mounted.dataset.parts(path):
                part = mounted.dataset.part(path, view) if self._entry(view) is None else None
                if part is not None and self._leads_to_file(path, _link_to(part, path), through):
                    yield view

    def video(self, view: str) -> frames.Video:
        """The video behind a view, which may be a link to a file, or the part of one. Raises NotFound."""
        dataset = self._mounted.dataset
        known = self._mounted.catalog.folder(self._path)
        own = self._entry(view)
        has_part = dataset.parts_first if own is not None else dataset.has_parts(self._path)
        part = dataset.part(self._path, view) if has_part else None
        if part is not None:
            whole = self._mounted.video(self._path, known, view, _link_to(part, self._path))
            rule = replace(whole.rule, start=part.start, stop=part.stop, start_s=part.start_s, stop_s=part.stop_s)
            return replace(whole, rule=rule)
        if own is None:
            raise NotFound(f"{view}: no video of that name in {self._path or 'the root'}")
        return self._mounted.video(self._path, known, view, own)

    def _entry(self, view: str) -> Entry | None:
        """The folder's own video that is shown under this name, None if there is none."""
        catalog = self._mounted.catalog
        candidates = catalog.videos_of_stem(self._path, view)
        if not candidates:
            several = catalog.videos_of_stem(self._path, PurePosixPath(view).stem)
            candidates = [entry for entry in several if entry.name == view and len(several) > 1]
        return candidates[0] if len(candidates) == 1 else None

    def _leads_to_file(self, folder: str, entry: Entry, through: dict[str, Folder]) -> bool:
        with suppress(NotFound):
            return bool(self._mounted.file_of(folder, entry, through))
        return False


def _of_one_beginning(videos: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Entries in the order of their names, those together that may have one stem: a folder of a million is never held.

    Names with one stem begin with it and a dot, and so does all that stands between the first of them and the last.
    """
    some: list[Entry] = []
    for entry in videos:
        if some and not entry.name.startswith(f"{_stem(some[0])}."):
            yield some
            some = []
        some.append(entry)
    if some:
        yield some


def _stem(entry: Entry) -> str:
    return posixpath.splitext(entry.name)[0]


def _link_to(part: Part, folder: str) -> Entry:
    """A part as a link in a folder: what it leads to is found in the same way."""
    up = "../" * (folder.count("/") + 1) if folder else ""
    return Entry("", Kind.LINK, target=up + part.path)


class LinkNode(Link):
    """A link beside the files that it leads to."""

    def __init__(self, target: str, valid_s: float) -> None:
        self.attributes = Attributes(len(target.encode(errors="surrogateescape")), 0, valid_s)
        self._target = target

    def target(self) -> str:
        """Relative to the link's own folder, or as the source has it."""
        return self._target


class ObjectNode(File):
    """A file of the dataset."""

    opens_at_once = True

    def __init__(self, mounted: MountedDataset, folder: str, entry: Entry, valid_s: float) -> None:
        assert entry.object is not None, "an entry of kind FILE has an object"
        self.attributes = Attributes(entry.object.size_bytes, entry.object.mtime_ns, valid_s)
        self.version = entry.object.identity
        self._mounted = mounted
        self._folder = folder
        self._entry = entry
        self._object = entry.object

    def open(self) -> ObjectFile:
        """The file's bytes, pinned to the version that stat showed."""
        return self._mounted.opened(self._folder, self._entry.name, self._object)

    def stored(self) -> ObjectFile:
        """The file's bytes, for somebody who has them fetched and does not read them."""
        return self._mounted.object_file(self._folder, self._object)

    def xattr_names(self) -> list[str]:
        """Facts of any file, of a name, and of a video."""
        facts = [*_FILE_FACTS, *self._mounted.dataset.facts(self._folder, self._entry.name)]
        if self._entry.is_video:
            facts += _VIDEO_FACTS
        return [_PREFIX + fact for fact in facts]

    def xattr(self, name: str) -> bytes:
        """A fact's value; those of a video read its index."""
        fact = name.removeprefix(_PREFIX)
        named = self._mounted.dataset.facts(self._folder, self._entry.name)
        if fact in named:
            return named[fact].encode()
        if fact == "source":
            return f"{self._mounted.source.url}/{self._object.key}".encode(errors="surrogateescape")
        if fact == "version":
            return self._object.version.encode()
        if fact == "cached_bytes":
            return str(self.open().cached_bytes()).encode()
        if fact in _VIDEO_FACTS and self._entry.is_video:
            return self._video_fact(fact).encode()
        raise NoSuchAttribute(name)

    def _video_fact(self, fact: str) -> str:
        known = self._mounted.catalog.folder(self._folder)
        video = self._mounted.video(self._folder, known, self._entry.name, self._entry)
        index = self._mounted.shelf.index(vfs.video.Footage(video.identity, video.view, video.file))
        return str(index.frame_count if fact == "frames" else getattr(index, fact))
