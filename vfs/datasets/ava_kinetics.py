"""AVA-Kinetics: six seconds around each annotated moment, and the annotated moments as pictures.

    annotations/                     the CSV files, as they stand in the source or in what `csv` names
    videos/<id>_%06d.mp4             clips of the store, whatever folders they stand in there (kinetics/store.py)
    videos/frames/<stem>/%06d.jpg    30 a second, from 1, the shorter side at most 256 pixels
    by-timestamp/<id>/<ts>.jpg       links to the frame file that shows an annotated moment; <ts> as it is annotated
    by-split/<split>/                links to the clips of train, val, test
    full/<id>.mp4                    whole videos, where the source is youtube:

A clip is named after the whole second of its moment, and begins three seconds before it, or at 0: the downloader's
README, whose rule for the frame (names.ava_frame) counts from 0, while its files count from 1. Where the store has no
such clip but one of Kinetics-700 that holds the moment, that one stands in videos/ under its own name, and
by-timestamp/ and by-split/ lead there. by-timestamp/ has what is annotated and in the store; a link leads nowhere where
the clip is shorter than it should be, which only its index would tell.

    id,ts,x1,y1,x2,y2,action         annotations of train and val, without a header; a row a box and action
    id,ts                            of test
    youtube_id,time_start,time_end   the downloader's list of clips, with its header: time_end is -1

Timestamps are decimal numbers, and stay text: nothing here passes through a binary one.
"""

import logging
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vfs.catalog import Entry, Packed
from vfs.datasets.kinetics import CSV, FOLDERS, packed
from vfs.datasets.kinetics.annotations import Found, absolute
from vfs.datasets.kinetics.base import ClipDataset
from vfs.datasets.kinetics.lines import rows
from vfs.datasets.kinetics.names import ID, STEM_BYTES, ava_shape, ava_stem, kinetics_shape, span_of
from vfs.datasets.kinetics.tables import SPLITS, columns_in, split_in, tell_wrong
from vfs.errors import OptionError
from vfs.options import option, option_group
from vfs.sources import ObjectInfo, Source

if TYPE_CHECKING:
    from vfs.datasets.kinetics.stems import Array, Stems

_log = logging.getLogger(__name__)

_BY_TIMESTAMP, _BY_SPLIT = "by-timestamp", "by-split"
_IS_ID = re.compile(ID).fullmatch
_IS_MOMENT = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,9})?", re.ASCII).fullmatch
_ID_BYTES, _MOMENT_BYTES = 11, 11 + 1 + 16
_AVA_BYTES = 18  # of a clip's name: <id>_%06d
_MOST_ROWS = 16 << 20
"""Of a file: ten times the longest list."""
_BATCH_ROWS = 1 << 14


@option_group
class Options:
    """Where to look."""

    csv: tuple[str, ...] = option(default=(), description=CSV, parse=absolute)
    folders: tuple[str, ...] = option(default=(), description=FOLDERS)


def default_source(options: Options, state: Path) -> str:
    """There is none: who made the dataset gives links to YouTube alone."""
    raise OptionError(
        "ava-kinetics needs its clips: -o source=/LOCAL/FOLDER or s3://BUCKET/PREFIX with <id>_<second>.mp4 (or those "
        "of Kinetics-700), in folders of any kind"
    )


def open_dataset(source: Source, options: Options, state: Path) -> "AvaKinetics":
    """AVA-Kinetics as a store of clips and its CSV files have it. Raises OptionError."""
    return AvaKinetics(source, options, state)


@dataclass(frozen=True, slots=True)
class _Annotated:
    """What one file names: clips, and moments as `<id>,<ts>`, each once."""

    split: int
    stems: "Array"
    moments: "Array"


def _shape(name: str) -> str | None:
    """A clip of either dataset."""
    return ava_shape(name) or kinetics_shape(name)


class AvaKinetics(ClipDataset):
    """See the module's docstring."""

    name = "ava-kinetics"
    shape = staticmethod(_shape)
    by = (_BY_TIMESTAMP, _BY_SPLIT)

    def _rest(self, found: list[Found]) -> Iterator[tuple[str, Entry | Packed]]:
        from vfs.datasets.kinetics.stems import groups, joined, places, union

        files = [each for each in (_read(self.source, found.obj, found.origin) for found in found) if each is not None]
        named = union((file.stems for file in files), STEM_BYTES)
        ids = union([named.astype(f"S{_ID_BYTES}")], _ID_BYTES)

        def is_wanted(names: "Array") -> "Array":
            # A clip of Kinetics only where something of its video is annotated: they are six hundred thousand.
            is_cut: Array = names == names.astype(f"S{_AVA_BYTES}")
            is_cut[places(ids, names.astype(f"S{_ID_BYTES}")) >= 0] = True
            return is_cut

        store = self._store(is_wanted)
        there = yield from self._videos(named, store)
        clip_of = _Clips(named, there)
        for number, clips in groups(
            joined([array("B", [file.split]) * len(file.stems) for file in files]),
            joined([clip_of.places(file.stems) for file in files]),
        ):
            yield packed.clips(f"{_BY_SPLIT}/{SPLITS[number]}", there[clips])
        moments = union((file.moments for file in files), _MOMENT_BYTES)
        yield _BY_TIMESTAMP, packed.moments(clip_of.lines(moments))
        self._keep_missing([named[clip_of.places(named) < 0]], store)


class _Clips:
    """Which clip of the store stands for a named one: itself, or a clip of Kinetics that holds its second."""

    def __init__(self, named: "Array", there: "Array") -> None:
        from vfs.datasets.kinetics.stems import places

        self._named = named
        self._there = there
        self._place = places(there, named)
        for at in (self._place < 0).nonzero()[0].tolist():
            self._place[at] = self._holding(named[at].decode())

    def places(self, stems: "Array") -> "Array":
        """Where the clips for these named ones stand among those there are, -1 for none."""
        from vfs.datasets.kinetics.stems import places

        return self._place[places(self._named, stems)]

    def lines(self, moments: "Array") -> Iterator[bytes]:
        """`<id>,<ts>,<clip>` of those moments whose clips are there."""
        from vfs.datasets.kinetics.stems import Stems

        for begin in range(0, len(moments), _BATCH_ROWS):
            some = moments[begin : begin + _BATCH_ROWS].tolist()
            stems = Stems(_AVA_BYTES)
            stems.extend([_stem_of(moment).encode() for moment in some])
            for moment, place in zip(some, self.places(stems.array()).tolist(), strict=True):
                if place >= 0:
                    yield moment + b"," + bytes(self._there[place])

    def _holding(self, stem: str) -> int:
        """The first clip of Kinetics that has the second of a clip in it, -1 for none."""
        youtube_id, second = stem[:_ID_BYTES], int(stem[_ID_BYTES + 1 :])
        at = int(self._there.searchsorted(f"{youtube_id}_".encode()))
        while at < len(self._there) and (name := self._there[at].decode()).startswith(f"{youtube_id}_"):
            span = span_of(name)
            if len(name) > _AVA_BYTES and span is not None and span[1] <= second < span[2]:
                return at
            at += 1
        return -1


def _stem_of(moment: bytes) -> str:
    """The clip of `<id>,<ts>`."""
    youtube_id, _, timestamp = moment.decode().partition(",")
    return ava_stem(youtube_id, int(timestamp.partition(".")[0]))


def _read(source: Source, obj: ObjectInfo, place: str) -> _Annotated | None:
    """What a file names; None for one that is of Kinetics, or anything else. Raises the source's errors."""
    from vfs.datasets.kinetics.stems import Stems

    stems, moments = Stems(_AVA_BYTES), Stems(_MOMENT_BYTES)
    columns: dict[str, int] = {}
    batch: set[bytes] = set()
    wrong, example, count = 0, b"", 0
    for count, (fields, line) in enumerate(rows(source, obj)):
        if count == 0 and (columns := columns_in(fields)):
            if "label" in columns:
                return None
            continue
        if count > _MOST_ROWS:
            _log.warning("%s: only its first %d rows are read", place, _MOST_ROWS)
            break
        named = _listed(columns, fields) if columns else _annotated(fields)
        if named is None:
            wrong, example = wrong + 1, example or line
            continue
        batch.add(named)
        if len(batch) == _BATCH_ROWS:
            _take(batch, stems, moments, bool(columns))
    _take(batch, stems, moments, bool(columns))
    annotated = _Annotated(split_in(place), _distinct(stems), _distinct(moments))
    if not len(annotated.stems):  # a file of something else
        return None
    tell_wrong(place, wrong, count + 1, example)
    return annotated


def _take(batch: set[bytes], stems: "Stems", moments: "Stems", is_list: bool) -> None:
    rows = sorted(batch)
    stems.extend([_stem_of(row).encode() for row in rows])
    if not is_list:
        moments.extend(rows)
    batch.clear()


def _distinct(stems: "Stems") -> "Array":
    from vfs.datasets.kinetics.stems import union

    names = stems.array()
    return union([names], names.dtype.itemsize)


def _annotated(fields: list[str]) -> bytes | None:
    """A row of annotations as `<id>,<ts>`, None for one that makes no sense."""
    if len(fields) < 2:
        return None
    youtube_id, timestamp = fields[0].strip(), fields[1].strip()
    return f"{youtube_id},{timestamp}".encode() if _IS_ID(youtube_id) and _IS_MOMENT(timestamp) else None


def _listed(columns: dict[str, int], fields: list[str]) -> bytes | None:
    """A row of the downloader's list as `<id>,<second>`; None for one that makes no sense, or has an end."""
    try:
        end = fields[columns["end"]].strip()
        row = _annotated([fields[columns["id"]], fields[columns["start"]]])
    except IndexError:
        return None
    return row if end.startswith("-") else None
