"""What Kinetics and AVA-Kinetics have in common: clips in one folder, and what CSV files tell of them.

Hides when the store is looked into: the root is known without, the rest is one tree that is made when something below
the root is first asked for. A source that lists nothing (youtube:) has the clips that its CSV files name; they are cut
when they are looked at, and their frames are always those of the whole videos, in `full/`, so that none is cut for
them.

Any thread may call.
"""

import importlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from xxhash import xxh3_128_hexdigest

from vfs.catalog import Entry, Packed, Tree
from vfs.datasets import Dataset, Part
from vfs.datasets.kinetics import annotations, packed
from vfs.datasets.kinetics.annotations import Beside, Found
from vfs.datasets.kinetics.names import AVA_FPS, STEM_BYTES, SUFFIX, Shape, span_of
from vfs.documents import keep
from vfs.errors import OptionError
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import as_dict
from vfs.sources import UNKNOWN_SIZE, Listed, ObjectInfo, Source

if TYPE_CHECKING:
    from vfs.datasets.kinetics.stems import Array
    from vfs.datasets.kinetics.store import Store

_log = logging.getLogger(__name__)

Rows = Generator[tuple[str, Entry | Packed], None, "Array"]
"""Entries with their folders, and at the end the sorted names of the clips that are there."""

_ANNOTATIONS, _FULL = "annotations", "full"
_CUT_KEYS = "clips/"
_BELIEVED_S = 60.0
# The downloader's frame_extract.py: from 1, 30 a second, the shorter side at most 256 pixels.
_FRAMES = FrameRule(fps=Fraction(AVA_FPS), first=1, name="{number:06d}.jpg", most_short=256)


class _CutSource(Source, Protocol):
    """What clips.py makes of a source that has whole videos: `clips/<stem>.mp4` beside them."""

    def missing(self) -> Iterator[tuple[str, str]]:
        """(name, reason) of what could not be had."""
        ...


class ClipDataset(Dataset):
    """See the module's docstring. Datasets give `shape`, `by` and `_rest`."""

    shape: Shape
    """Which videos of a store are clips."""
    by: ClassVar[tuple[str, ...]]
    """The folders of links in the root."""
    # Lists were published once, and so were stores of clips; a day bounds how long a new clip can go unseen.
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Any, state: Path) -> None:
        """Of the options, `csv` and `folders` are used here. Raises OptionError."""
        self._options = options
        self._state = state
        self._cut = None if not source.url.startswith("youtube:") else _cut_source(source, state)
        inner: Source = self._cut or source
        local = tuple(name for name in options.csv if name.startswith("/"))
        self._beside = Beside(inner, local) if local else None
        self.source: Source = self._beside or inner
        """What files are read from."""
        self.selection = (packed.FORMAT, *annotations.state_of(local))
        # Where stat makes a clip out of a video that is fetched for it, none is made that nobody asked for.
        self.parts_first = self._cut is not None
        self.sizes_ahead = not self.parts_first
        self._missing = b""
        self._listed_top: tuple[float, list[Listed]] | None = None

    def check(self) -> None:
        """Raises OptionError for CSV files that are not there, or that there have to be."""
        if self._cut is not None and not self._options.csv:
            raise OptionError(f"{self.name} of {self.source.url} needs csv=FILES: the store lists nothing")
        if self._options.csv and not any(found.is_csv for found in self._found()):
            raise OptionError(f"csv={'+'.join(self._options.csv)}: no CSV file is there")

    def entries(self, folder: str) -> Iterator[Entry] | Tree:
        """The root, or all that stands below it. Raises what listing the store's root raises."""
        if folder:
            return Tree(self._tree())
        if self._cut is None:
            next(iter(self.source.list("")), None)
        return iter(self._top())

    def unpack(self, pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
        """Links to clips and frames."""
        return packed.entries(pieces)

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """30 fps, from 1, `%06d.jpg`, the shorter side not above 256."""
        return _FRAMES

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """The video that a clip is cut from, and the seconds of it."""
        span = span_of(name.removesuffix(SUFFIX))
        return {"youtube_id": span[0], "start_s": str(span[1]), "end_s": str(span[2])} if span else {}

    def part(self, folder: str, view: str) -> Part | None:
        """A clip that would have to be cut, as seconds of the whole video."""
        span = span_of(view) if self._cut is not None else None
        return Part(f"{_FULL}/{span[0]}{SUFFIX}", start_s=span[1], stop_s=span[2]) if span else None

    def missing(self) -> Iterator[tuple[str, str]]:
        """(name, reason) of the clips that CSV files name and that are not there. Blocks: where the tree was not made
        by this machine with these options, it is made for this."""
        if self._cut is not None:
            yield from self._cut.missing()
            return
        if not self._missing:
            with suppress(OSError):
                self._missing = self._missing_file.read_bytes()
        if not self._missing:
            for _ in self._tree():
                pass
        for line in zlib.decompress(self._missing).decode().splitlines():
            name, _, reason = line.partition(",")
            yield name, reason

    # -- for datasets

    def _rest(self, found: list[Found]) -> Iterator[tuple[str, Entry | Packed]]:
        """Clips and links, from the CSV files."""
        raise NotImplementedError

    def _store(self, wanted: "Callable[[Array], Array] | None") -> "Store":
        """The store, from which clips are taken whose names are wanted (None: all)."""
        from vfs.datasets.kinetics.store import Store

        folders = [listed.name for listed in self._source_top() if listed.kind == "dir"]
        return Store(self.source, self._options.folders, self.shape, folders, wanted)

    def _videos(self, named: "Array", store: "Store") -> Rows:
        """The clips: those of the store, or, of a store that lists nothing, those named."""
        if self._cut is None:
            for stem, obj in store.clips():
                yield packed.VIDEOS, Entry(stem + SUFFIX, Kind.FILE, obj, is_video=True)
            return store.there()
        last = ""
        for stem in map(bytes.decode, named):
            name, youtube_id = stem + SUFFIX, stem[:11]
            yield packed.VIDEOS, Entry(name, Kind.FILE, _unmade(_CUT_KEYS + name), is_video=True)
            if youtube_id != last:  # names are sorted
                last = youtube_id
                whole = _unmade(youtube_id + SUFFIX)
                yield _FULL, Entry(whole.key, Kind.FILE, whole, is_video=True)
        return named

    def _keep_missing(self, missing: "Iterable[Array]", store: "Store") -> None:
        """Takes note of names that are not there, for `missing`."""
        from vfs.datasets.kinetics.stems import places, union

        names, empty = union(missing, STEM_BYTES), union([store.empty()], STEM_BYTES)
        reasons = ["not in the store" if at < 0 else "empty in the store" for at in places(empty, names)]
        lines = (f"{name.decode()}{SUFFIX},{reason}" for name, reason in zip(names, reasons, strict=True))
        self._missing = zlib.compress("\n".join(lines).encode(), 1)
        _log.info("%d clips that CSV files name are not in the store", len(names))
        if self.source.remote:
            keep(self._missing_file, self._missing)

    # -- what there is

    def _top(self) -> Iterator[Entry]:
        names = (_ANNOTATIONS, packed.VIDEOS, *self.by, *((_FULL,) if self._cut else ()))
        return (Entry(name, Kind.DIRECTORY) for name in names)

    def _tree(self) -> Iterator[tuple[str, Entry | Packed]]:
        found = self._found()
        yield from (("", entry) for entry in self._top())
        for each in found:
            folder, _, name = f"{_ANNOTATIONS}/{each.place}".rpartition("/")
            yield folder, Entry(name, Kind.FILE, each.obj)
        yield from self._rest([each for each in found if each.is_csv])

    def _found(self) -> list[Found]:
        """The files of annotations, each place once."""
        if self._options.csv:
            keys = tuple(name for name in self._options.csv if not name.startswith("/"))
            found = [*(self._beside.found() if self._beside else ()), *annotations.find_named(self.source, keys)]
        else:
            found = [*annotations.find(self.source, self._source_top())]
        places: dict[str, Found] = {}
        for each in found:
            first = places.setdefault(each.place, each)
            if first is not each:
                _log.warning("%s is left out: %s has its place in annotations/", each.origin, first.origin)
        return list(places.values())

    def _source_top(self) -> list[Listed]:
        """The folders and CSV files of the source's root, which may hold every clip too: listed for all that need them
        within a minute."""
        if self._cut is not None:
            return []
        now = time.monotonic()
        if self._listed_top is None or now - self._listed_top[0] > _BELIEVED_S:
            self._listed_top = now, annotations.top_of(self.source)
        return self._listed_top[1]

    @property
    def _missing_file(self) -> Path:
        told = [self.name, self.source.url, as_dict(self._options), *self.selection]
        return self._state / f"missing-{xxh3_128_hexdigest(json.dumps(told, default=str).encode())}"


def _unmade(key: str) -> ObjectInfo:
    return ObjectInfo(key, UNKNOWN_SIZE, 0, "")


def _cut_source(source: Source, state: Path) -> _CutSource:
    # What cuts (av, processes) is needed for no other store.
    cut: _CutSource = importlib.import_module("vfs.datasets.kinetics.clips").CutSource(source, state)
    return cut
