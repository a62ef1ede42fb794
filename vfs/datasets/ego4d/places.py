"""Where Ego4D's files are: in the store's buckets, as manifests name them, or in a copy, as the CLI has written them.

Hides what is asked of a source to find out which datasets there are. Called by the dataset, which adds what is told by
neither. Any thread may call; it blocks.
"""

import csv
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from vfs.catalog import Entry
from vfs.datasets.ego4d.filter import VIDEOS, Filter, side_by_side
from vfs.datasets.ego4d.manifest import Believed, Digests, Facts, Manifest, Row, uid_in
from vfs.datasets.plain import entry_of, has_video_suffix
from vfs.errors import AccessDenied, Changed, NotFound
from vfs.node import Kind
from vfs.sources import UNKNOWN_SIZE, ObjectInfo, Source

log = logging.getLogger(__name__)
_A = TypeVar("_A")

SHARING = "ego4d-consortium-sharing"
METADATA = "ego4d.json"
MANIFEST = "manifest.csv"
DATASETS = (
    *VIDEOS,
    *("annotations", "annotations_540ss", "3d", "3d_scans", "3d_scan_keypoints", "imu", "gaze", "viz", "fut_loc"),
    *("slowfast8x8_r101_k400", "omnivore_video_swinl", "omnivore_image_swinl", "social_test", "egotracks"),
    *("av_models", "lta_models", "moments_models", "nlq_models", "sta_models", "vq2d_models", "vq2d_detections"),
    *("paco_annotations", "paco_frames"),
)
"""What the CLI's README and its code name; datasets.csv may name more."""

BELIEVED_S = 600.0
"""What was asked is asked again after this long, not for each of a hundred folders that a walk goes through."""


class Place(Protocol):
    """A source as one of its two layouts."""

    major: str
    """The folder of the version."""
    top: frozenset[str]
    """Names of the root that are the source's own."""

    def datasets(self) -> list[str]:
        """The wanted datasets that are there. Raises AccessDenied where all are refused."""
        ...

    def datasets_of_videos(self) -> list[str]:
        """Those of VIDEOS among them."""
        ...

    def all_datasets(self) -> list[str]:
        """The datasets that are there, wanted or not."""
        ...

    def metadata(self) -> ObjectInfo | None:
        """ego4d.json, None where there is none."""
        ...

    def facts(self) -> Facts | None:
        """What ego4d.json tells, None where there is none."""
        ...

    def manifest(self, dataset: str) -> Manifest:
        """All rows of a dataset, wanted or not. Raises NotFound."""
        ...

    def entries(self, folder: str) -> Iterator[Entry]:
        """What stands in a folder, but for what is made of several manifests. Raises NotFound."""
        ...


class Store:
    """The buckets, of which manifests tell."""

    top: frozenset[str] = frozenset()

    def __init__(
        self, digests: Digests, version: str, wanted: Filter, has_metadata: bool, facts: Callable[[], Facts | None]
    ) -> None:
        self.major = version[:2]
        self._digests = digests
        self._version = version
        self._wanted = wanted
        self._has_metadata = has_metadata
        self._facts = facts
        # By key: when it was asked for, and the answer; None where there is nothing.
        self._heads: dict[str, tuple[float, ObjectInfo | AccessDenied | None]] = {}
        self._listed = Believed("datasets.csv", self._listed_datasets, BELIEVED_S)

    def datasets(self) -> list[str]:
        """Proven by their manifests. A 403 may mean that there is none, and counts only where there is no other."""
        if self._wanted.datasets:
            return self._those_there(sorted(self._wanted.datasets))
        return self.all_datasets()

    def is_named(self, dataset: str) -> bool:
        """Whether the CLI or datasets.csv names it."""
        return dataset in DATASETS or dataset in self._listed.get()

    def datasets_of_videos(self) -> list[str]:
        """As `datasets` has them; others are not asked for."""
        names = [name for name in VIDEOS if not self._wanted.datasets or name in self._wanted.datasets]
        found = self._asked([self._manifest_key(name) for name in names])
        return [name for name, head in zip(names, found, strict=True) if isinstance(head, ObjectInfo)]

    def all_datasets(self) -> list[str]:
        """Those that the CLI knows or datasets.csv names."""
        with ThreadPoolExecutor(1) as other:
            listed = other.submit(self._listed.get)
            self._asked([*([self._key(METADATA)] if self._has_metadata else ()), *map(self._manifest_key, DATASETS)])
            return self._those_there([*dict.fromkeys((*DATASETS, *listed.result()))])

    def metadata(self) -> ObjectInfo | None:
        """Raises AccessDenied."""
        return self._there(self._key(METADATA)) if self._has_metadata else None

    def facts(self) -> Facts | None:
        """Raises AccessDenied."""
        return self._read(self._key(METADATA), self._digests.facts) if self._has_metadata else None

    def manifest(self, dataset: str) -> Manifest:
        """Raises NotFound and AccessDenied."""
        manifest = self._read(self._manifest_key(dataset), self._digests.manifest)
        if manifest is None:
            raise NotFound(self._manifest_key(dataset))
        return manifest

    def entries(self, folder: str) -> Iterator[Entry]:
        """Media have no size yet."""
        if folder == "":
            if (metadata := self._metadata_or_none()) is not None:
                yield Entry(METADATA, Kind.FILE, metadata)
            elif self._has_metadata:
                log.warning("%s is not there, or refused: no scenarios, no frames of clips", self._key(METADATA))
            yield Entry(self.major, Kind.DIRECTORY)
            return
        major, _, path = folder.partition("/")
        if major != self.major:
            raise NotFound(f"{folder}: the version is {self._version}")
        if not path and self._metadata_or_none() is not None:
            yield Entry(METADATA, Kind.LINK, target=f"../{METADATA}")
        names = self.datasets()
        if path and not any(f"{name}/".startswith(f"{path}/") for name in names):
            raise NotFound(f"{folder}: no such dataset of {self._version}")
        if path in names:
            self._heads.pop(key := self._manifest_key(path), None)
            if (obj := self._there(key)) is None:
                raise NotFound(key)
            yield Entry(MANIFEST, Kind.FILE, obj)
            for row in self._wanted.rows(path, self._digests.manifest(obj), self._facts):
                media = ObjectInfo(row.location, UNKNOWN_SIZE, 0, "")
                yield Entry(row.name, Kind.FILE, media, is_video=has_video_suffix(row.name))
        yield from folders(names, path)

    def _metadata_or_none(self) -> ObjectInfo | None:
        try:
            return self.metadata()
        except AccessDenied:
            return None

    def _key(self, name: str) -> str:
        return f"{SHARING}/public/{self._version}/{name}"

    def _manifest_key(self, dataset: str) -> str:
        return self._key(f"{dataset}/{MANIFEST}")

    def _there(self, key: str) -> ObjectInfo | None:
        (head,) = self._asked([key])
        if isinstance(head, AccessDenied):
            raise head
        return head

    def _read(self, key: str, digest: Callable[[ObjectInfo], _A]) -> _A | None:
        """What is parsed of a document, None where there is none."""
        try:
            return None if (obj := self._there(key)) is None else digest(obj)
        except Changed:  # since it was asked for, which may be minutes ago
            self._heads.pop(key, None)
            return None if (obj := self._there(key)) is None else digest(obj)

    def _those_there(self, names: list[str]) -> list[str]:
        found = dict(zip(names, self._asked(map(self._manifest_key, names)), strict=True))
        there = [name for name, head in found.items() if isinstance(head, ObjectInfo)]
        if not there and (refusal := next((head for head in found.values() if head is not None), None)):
            assert isinstance(refusal, AccessDenied), "what is there was found"
            raise refusal
        return there

    def _asked(self, keys: Iterable[str]) -> list[ObjectInfo | AccessDenied | None]:
        """A HEAD of each, side by side, unless one was made lately."""
        keys, now = list(keys), time.monotonic()
        made = {key: head for key in keys if (head := self._heads.get(key)) and now - head[0] < BELIEVED_S}
        missing = [key for key in keys if key not in made]
        made.update((key, (now, head)) for key, head in zip(missing, side_by_side(self._head, missing), strict=True))
        self._heads.update(made)
        return [made[key][1] for key in keys]

    def _head(self, key: str) -> ObjectInfo | AccessDenied | None:
        try:
            return self._digests.documents.stat(key)
        except NotFound:
            return None
        except AccessDenied as refusal:
            return refusal

    def _listed_datasets(self) -> list[str]:
        try:
            text = self._digests.documents.read(self._key("datasets.csv")).decode("utf-8-sig", "replace")
        except (NotFound, AccessDenied):
            return []
        names = ((row.get("dataset") or "").strip() for row in csv.DictReader(text.splitlines()))
        return [name for name in names if is_folder(name)]


class Copy:
    """A tree as the CLI has written it."""

    def __init__(
        self,
        source: Source,
        digests: Digests,
        major: str,
        top: frozenset[str],
        wanted: Filter,
        has_metadata: bool,
        facts: Callable[[], Facts | None],
    ) -> None:
        others = top & {"v1", "v2"}
        self.major = min(others) if len(others) == 1 else major
        self.top = top
        self._source = source
        self._digests = digests
        self._wanted = wanted
        self._has_metadata = has_metadata
        self._facts = facts

    def datasets(self) -> list[str]:
        """The wanted folders."""
        return [name for name in self.all_datasets() if not self._wanted.datasets or name in self._wanted.datasets]

    def datasets_of_videos(self) -> list[str]:
        """The wanted folders that are named so."""
        there = self.datasets()
        return [name for name in VIDEOS if name in there]

    def all_datasets(self) -> list[str]:
        """The folders of the version, and those further down that are known to be datasets."""
        there = self._folders(self.major)
        for name in {*DATASETS, *self._wanted.datasets}:
            above, _, last = name.rpartition("/")
            if above.partition("/")[0] in there and last in self._folders(f"{self.major}/{above}"):
                there.append(name)
        return sorted(there)

    def metadata(self) -> ObjectInfo | None:
        """At the root, or in the folder of the version."""
        for key in (METADATA, f"{self.major}/{METADATA}") if self._has_metadata else ():
            try:
                return self._digests.documents.stat(key)
            except NotFound:
                continue
        return None

    def facts(self) -> Facts | None:
        """Raises AccessDenied."""
        return None if (obj := self.metadata()) is None else self._digests.facts(obj)

    def manifest(self, dataset: str) -> Manifest:
        """The files of a folder with what its manifest.csv tells of them."""
        folder = f"{self.major}/{dataset}"
        return self._told(folder, [listed.name for listed in self._source.list(folder) if listed.kind != "dir"])

    def entries(self, folder: str) -> Iterator[Entry]:
        """As the source lists them, without what is not wanted."""
        major, _, path = folder.partition("/")
        entries = [entry_of(listed) for listed in self._source.list(folder)]
        names = {entry.name for entry in entries}
        if folder in ("", self.major) and METADATA not in names and (obj := self.metadata()) is not None:
            yield Entry(METADATA, Kind.LINK, target=f"../{obj.key}" if folder else obj.key)
        if path and major in ("v1", "v2") and self._wanted.chooses_rows:
            files = [entry.name for entry in entries if entry.kind is not Kind.DIRECTORY]
            wanted = {row.name for row in self._wanted.rows(path, self._told(folder, files), self._facts)}
            yield from (entry for entry in entries if entry.kind is not Kind.DIRECTORY and entry.name in wanted)
            folders = [entry for entry in entries if entry.kind is Kind.DIRECTORY]
            yield from (entry for entry in folders if self._wanted.has_folder(f"{path}/{entry.name}"))
        else:
            yield from (entry for entry in entries if self._is_wanted(folder, entry))

    def _is_wanted(self, folder: str, entry: Entry) -> bool:
        """Whether an entry is shown where rows are not chosen."""
        major, _, path = folder.partition("/")
        if entry.name == METADATA and not path:
            return self._has_metadata
        if major in ("v1", "v2") and entry.kind is Kind.DIRECTORY:
            return self._wanted.has_folder(f"{path}/{entry.name}".lstrip("/"))
        return True

    def _folders(self, folder: str) -> list[str]:
        try:
            return [listed.name for listed in self._source.list(folder) if listed.kind == "dir"]
        except NotFound:
            return []

    def _told(self, folder: str, names: list[str]) -> Manifest:
        rows: dict[str, Row] = {}
        has_benchmarks = False
        if MANIFEST in names:
            told = self._digests.manifest(self._digests.documents.stat(f"{folder}/{MANIFEST}"))
            rows, has_benchmarks = {row.name: row for row in told.rows}, told.has_benchmarks
        here = [rows.get(name) or Row(name, "", uid_in(name), "", ()) for name in names]
        return Manifest(here, has_benchmarks)


def is_folder(name: str) -> bool:
    """Whether a dataset can be called so."""
    return all(part not in ("", ".", "..") for part in name.split("/"))


def folders(names: Iterable[str], path: str) -> Iterator[Entry]:
    """The folders that stand in `path` because datasets have these names."""
    within = f"{path}/" if path else ""
    found = {name.removeprefix(within).partition("/")[0] for name in names if name.startswith(within)}
    return (Entry(name, Kind.DIRECTORY) for name in sorted(found))
