"""The whole tree of Ego-Exo4D from the manifests of its parts, as `<base_dir><release>/<part>/manifest.json` has them.

A manifest is the only listing there is: a list of entries with a uid, tags and paths, each with its place in the store,
its place in the tree and a size. Manifests are read and decoded one after the other, a few being fetched ahead, and
what they name goes on as it comes, nearly all of it packed: of a hundred MB only one part stands in memory. What the
user gave as filters is held against all entries meanwhile, so that a value that nothing has is told at the end.

Not verified at the store: which tags each part has (those without views or universities are filtered by what takes.json
tells), and how it answers for a part that is not there. Where keys may not list a bucket, S3 answers 403 for a missing
object: behind a manifest that could be read, that is taken for "not there".

Called by the dataset. Any thread may read the rows; it blocks.
"""

import logging
import posixpath
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from msgspec import Struct

from vfs.catalog import Entry, Packed
from vfs.datasets.egoexo4d import packed
from vfs.datasets.egoexo4d.filters import Filters, refuse_unknown, rejects
from vfs.datasets.egoexo4d.takes import BY, UUID, Items, Recordings, Splits, links_by_meaning
from vfs.documents import Documents
from vfs.errors import AccessDenied, NotFound, OptionError

_log = logging.getLogger(__name__)

# Manifests that are fetched or wait while one is gone through; a large one has 20 MB. With two, a third of the time was
# spent waiting for the next: the threads that fetch get the processor only now and then.
_AHEAD = 6
_METADATA, _ANNOTATIONS = "metadata", "annotations"
_TAKES, _CAPTURES, _SPLITS = "takes.json", "captures.json", "annotations/splits.json"
_S3 = "s3://"


class _Path(Struct, gc=False):
    source_path: str
    relative_path: str
    views: tuple[str, ...] | None = None
    universities: tuple[str, ...] | None = None
    size: int | float | None = None


class _Entry(Struct, gc=False):
    uid: str | None = None
    paths: tuple[_Path, ...] = ()
    splits: tuple[str, ...] | None = None
    benchmarks: tuple[str, ...] | None = None


_ENTRIES = Items(_Entry)


class Manifests:
    """The manifests of some parts of a release."""

    def __init__(
        self,
        documents: Documents,
        place: str,
        required: Collection[str],
        parts: Collection[str],
        known: Collection[str],
    ) -> None:
        """`place` is the key in front of a part's name. Of the `parts` those that are `required` have to be there;
        `known` are those to name where one is not."""
        self._documents = documents
        self._place = place
        self._required = required
        self._parts = parts
        self._known = known

    def rows(self, filters: Filters) -> Iterator[tuple[str, Entry | Packed]]:
        """(folder, entry) of everything that the filters leave, most of it packed. Raises OptionError, maybe at the end
        only, for a part or a value that is not there, and the source's errors."""
        metadata = self._metadata()
        missing = []
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="manifests") as threads:
            manifests = self._read(metadata, threads)
            tree = _Tree(filters, self._recordings(metadata or b"[]"))
            for part, manifest in manifests:
                if manifest is None:
                    missing.append(part)
                else:
                    yield from tree.files(part, _ENTRIES.read(self._key(part), manifest))
        if len(missing) == len(self._parts):
            raise OptionError(f"no manifest stands in {self._place}: are release and base_dir right?")
        if missing:
            _log.warning("these parts have no manifest and are left out: %s", ", ".join(missing))
        tree.refuse_unknown()
        if tree.splits_key:
            tree.splits.add(self._documents.read(tree.splits_key))
        yield from tree.links()

    def _metadata(self) -> bytes | bytearray | None:
        """The manifest that names takes.json; whoever may read nothing is told so by it."""
        try:
            return self._documents.read(self._key(_METADATA))
        except NotFound:
            _log.warning("%s is not there: no canonical names, no views by meaning", self._key(_METADATA))
            return None

    def _recordings(self, metadata: bytes | bytearray) -> Recordings:
        keys = {
            path.relative_path: packed.key_of(path.source_path)
            for entry in _ENTRIES.read(self._key(_METADATA), metadata)
            for path in entry.paths
            if path.relative_path in (_TAKES, _CAPTURES)
        }
        found = self._documents.read_all(keys.values())
        return Recordings(*(found.get(keys.get(name, "")) for name in (_TAKES, _CAPTURES)))

    def _read(
        self, metadata: bytes | bytearray | None, threads: ThreadPoolExecutor
    ) -> Iterator[tuple[str, bytes | bytearray | None]]:
        """The parts with their manifests, None for one that is not there; the first are on their way at once."""
        coming = ((part, threads.submit(self._manifest, part, metadata)) for part in self._parts)
        ahead = deque(islice(coming, _AHEAD))

        def arriving() -> Iterator[tuple[str, bytes | bytearray | None]]:
            while ahead:
                part, manifest = ahead.popleft()
                yield part, manifest.result()
                ahead.extend(islice(coming, 1))

        return arriving()

    def _manifest(self, part: str, metadata: bytes | bytearray | None) -> bytes | bytearray | None:
        if part == _METADATA:
            return metadata
        try:
            return self._documents.read(self._key(part))
        except (NotFound, AccessDenied) as failure:
            if isinstance(failure, AccessDenied) and metadata is None:
                raise
            if part not in self._required:
                return None
            known = ", ".join(self._known)
            raise OptionError(f"parts={part}: it has no manifest here ({failure}); there are {known}") from failure

    def _key(self, part: str) -> str:
        return f"{self._place}{part}/manifest.json"


class _Tree:
    """What was seen in the manifests, for what can be told only at their end."""

    def __init__(self, filters: Filters, recordings: Recordings) -> None:
        self.splits = Splits()
        self.splits_key = ""
        self._filters = filters
        self._recordings = recordings
        self._uids: set[str] = set()
        self._benchmarks: set[str] = set()
        self._splits: set[str] = set()
        self._universities = set(recordings.universities)
        self._packed: set[str] = set()
        self._tags: dict[tuple[bool, str | None], tuple[object, object]] = {}

    def files(self, part: str, entries: Iterable[_Entry]) -> Iterator[tuple[str, Entry | Packed]]:
        """The files of a part that the filters leave."""
        by_path = bool(self._filters.views or self._filters.universities)
        for entry in entries:
            self._note(part, entry)
            if self._rejects(entry):
                continue
            paths: Sequence[_Path] = entry.paths
            if by_path:
                paths = [path for path in paths if not self._rejects_path(entry, path)]
            for folder, places, files in _by_folder(paths):
                sources, sizes = [path.source_path for path in files], [path.size for path in files]
                if folder:
                    self._packed.add(folder)
                    yield folder, packed.files(folder, places, sources, sizes)
                else:
                    yield from map(packed.file, places, sources, sizes)

    def refuse_unknown(self) -> None:
        """Raises OptionError for a value that nothing of what was seen has."""
        refuse_unknown("uids", self._filters.uids, self._uids)
        refuse_unknown("benchmarks", self._filters.benchmarks, self._benchmarks)
        refuse_unknown("splits", self._filters.splits, self._splits)
        refuse_unknown("universities", self._filters.universities, self._universities)

    def links(self) -> Iterator[tuple[str, Entry | Packed]]:
        """Canonical names, and views by meaning, of the takes that are there."""
        there = [take for take in self._recordings.takes if take.folder in self._packed]
        for take in there:
            if take.links:
                yield take.folder, packed.links(take.links)
        yield from links_by_meaning(there, self.splits)

    def _note(self, part: str, entry: _Entry) -> None:
        """Remembers what is said of values and takes, whether it is wanted or not."""
        if self._filters.uids and entry.uid:
            self._uids.add(entry.uid)
        if self._filters.universities:
            for path in entry.paths:
                self._universities.update(path.universities or ())
        if part == _ANNOTATIONS and not self.splits_key:
            self.splits_key = next(
                (packed.key_of(path.source_path) for path in entry.paths if path.relative_path == _SPLITS), ""
            )
        about, tags = (part == _ANNOTATIONS, entry.uid), (entry.splits, entry.benchmarks)
        if self._tags.get(about) == tags:  # as nearly all parts of a take
            return
        self._tags[about] = tags
        self._splits.update(entry.splits or ())
        self._benchmarks.update(entry.benchmarks or ())
        if part != _ANNOTATIONS and entry.uid in self._recordings.by_uid:  # there they are those of the file
            self.splits.tag(entry.uid, entry.splits, entry.benchmarks)

    def _rejects(self, entry: _Entry) -> bool:
        filters = self._filters
        if rejects(filters.splits, entry.splits) or rejects(filters.benchmarks, entry.benchmarks):
            return True
        return bool(filters.uids) and entry.uid not in filters.uids and self._is_of_one(entry)

    def _is_of_one(self, entry: _Entry) -> bool:
        """Whether an entry is a take's or capture's, and not a file about many such as the annotations of a split: the
        official downloader loses those as soon as uids are given."""
        if entry.uid and (entry.uid in self._recordings.by_uid or UUID.search(entry.uid)):
            return True
        paths = [path.relative_path for path in entry.paths]
        return any(UUID.search(path) or self._recordings.of(path) for path in paths)

    def _rejects_path(self, entry: _Entry, path: _Path) -> bool:
        filters, universities, views = self._filters, path.universities, path.views
        if universities is None or views is None:
            found = self._recordings.of(path.relative_path) or self._recordings.by_uid.get(entry.uid or "")
            if found and universities is None and found.university:
                universities = (found.university,)
            if found and views is None and (view := found.view_of(posixpath.basename(path.relative_path))):
                views = (view,)
        return rejects(filters.universities, universities) or rejects(filters.views, views)


def _by_folder(paths: Sequence[_Path]) -> Iterable[tuple[str, list[str], Sequence[_Path]]]:
    """The files with their places in the tree, by the folders in which they are packed; "" are those that are not."""
    places = [path.relative_path for path in paths]
    if not _is_plain(places):
        places = [_place_of(place) for place in places]
    elif paths and (folder := _folder_of(min(places))) and max(places).startswith(f"{folder}/"):
        return ((folder, places, paths),)
    found: dict[str, tuple[str, list[str], list[_Path]]] = {}
    for place, path in zip(places, paths, strict=True):
        if place:
            folder = _folder_of(place)
            _, its_places, its_paths = found.setdefault(folder, (folder, [], []))
            its_places.append(place)
            its_paths.append(path)
        else:
            _log.warning("%s: left out, its place in the tree is %r", path.source_path, path.relative_path)
    return found.values()


def _folder_of(place: str) -> str:
    """The folder in which a file is packed; "" for one that is not."""
    depth = 3 if place.startswith("annotations/") else 2  # annotations/expert_commentary has a folder for each take
    names = place.split("/", depth)
    return "/".join(names[:depth]) if len(names) > depth and names[0] not in BY else ""


def _is_plain(places: list[str]) -> bool:
    """Whether places need not be looked at: no part of a path is empty, `.` or `..`."""
    text = f"/{'/'.join(places)}/"
    return "//" not in text and "/." not in text


def _place_of(place: str) -> str:
    """Where a file stands in the tree; "" for a path that leads out of it."""
    if place.startswith(("/", ".")) or "//" in place or "/." in place:
        place = posixpath.normpath(place.lstrip("/"))
    return "" if place == "." or place.startswith("..") or place.endswith("/") else place
