"""The CSV files of Kinetics as tables: a clip, a label and a split a row, in arrays.

    label,youtube_id,time_start,time_end,split[,is_cc]      training and validation lists
    youtube_id,time_start,time_end,split                    test lists, whose labels are withheld

Columns are found by their names, and may stand in any order and be called as the crawlers call them (`video-id`,
`start-time`, `label-name`). Times are whole seconds, written `10`, `10.0` or `000010`. The validation split is also
called `validate`. Rows that make no sense are left out, counted, and told once with an example.

All releases together are 2 million rows: 28 bytes each while they are read, 7 once all are. Called by the dataset.
Any thread may call; it blocks on the source.
"""

import logging
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfs.datasets.kinetics.lines import first_row, rows
from vfs.datasets.kinetics.names import ID, STEM_BYTES, whole_seconds
from vfs.sources import ObjectInfo, Source

if TYPE_CHECKING:
    from vfs.datasets.kinetics.stems import Array

_log = logging.getLogger(__name__)

RELEASES = ("400", "600", "700", "700_2020")
OTHER = "other"
"""The release of files whose names tell none."""

SPLITS = ("", "train", "val", "test")
"""By number; 0 for a row of which no split is known."""

_SPELT = {"validate": "val", "validation": "val", "valid": "val", "training": "train", "testing": "test"}
_IS_ID = re.compile(ID).fullmatch
_RELEASE = re.compile(r"(?<![0-9])(400|600|700)(?![0-9])(?:[-_ ]?(2020)(?![0-9]))?")
_SPLIT = re.compile(r"(?<![a-z])(train|validate|validation|val|test)(?![a-z])")
_COLUMNS = {
    "youtube_id": "id",
    "video_id": "id",
    "time_start": "start",
    "start_time": "start",
    "time_end": "end",
    "end_time": "end",
    "label": "label",
    "label_name": "label",
    "split": "split",
    "is_cc": "is_cc",
}
_NEEDED = {"id", "start", "end"}
_MOST_ROWS = 4 << 20
"""Of a file: seven times the longest list."""
_MOST_LABELS = 65_535
# Of fields whose meaning is remembered.
_MOST_REMEMBERED, _MOST_CHARACTERS = 10_000, 40
_NO_COLUMN = 1 << 30
_BATCH_ROWS = 1 << 14
_NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux


class _Seconds(dict[str, str | None]):
    """Times as six digits by how they are written, None for what is no time; a few thousand are remembered."""

    def __missing__(self, text: str) -> str | None:
        seconds = whole_seconds(text)
        digits = None if seconds is None else f"{seconds:06d}"
        if len(self) < _MOST_REMEMBERED and len(text) < _MOST_CHARACTERS:
            self[text] = digits
        return digits


class _Splits(dict[str, int]):
    """Numbers of splits by how they are written; 0 for what is none."""

    def __missing__(self, text: str) -> int:
        split = text.strip().lower()
        split = _SPELT.get(split, split)
        number = SPLITS.index(split) if split in SPLITS else 0
        if len(self) < _MOST_REMEMBERED and len(text) < _MOST_CHARACTERS:
            self[text] = number
        return number


class Labels(dict[str, int]):
    """Labels by how they are written as numbers from 1, over all tables; 0 is none: what can be no folder's name, or
    comes after more than can be labels. `names` are those of their folders."""

    def __init__(self) -> None:
        super().__init__()
        self.names = [""]
        self._numbers: dict[str, int] = {"": 0}

    def __missing__(self, text: str) -> int:
        name = folder_name(text)
        number = self._numbers.get(name)
        if number is None:
            number = len(self.names)
            if number > _MOST_LABELS:
                return 0
            self.names.append(name)
            self._numbers[name] = number
        if len(self) < _MOST_LABELS and len(text) <= _NAME_LIMIT_BYTES:
            self[text] = number
        return number


def folder_name(text: str) -> str:
    """A text as the name of a folder; "" where there is none."""
    name = re.sub(r"[/\0]+", "-", text).strip()
    return "" if name in (".", "..") or len(name.encode()) > _NAME_LIMIT_BYTES else name


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file: its clips, and the number of label and split of each."""

    release: str
    clips: "Array"
    """Their names, or numbers that stand for them."""
    labels: "array[int]"
    splits: "array[int]"


def release_of(place: str, columns: Iterable[str]) -> str:
    """The release that a file is of, by its name, the folders that it stands in, or a column that one release has."""
    for part in reversed(place.split("/")):
        if found := _RELEASE.search(part):
            return "_".join(filter(None, found.groups()))
    return RELEASES[0] if "is_cc" in columns else OTHER


def columns_of(source: Source, obj: ObjectInfo) -> dict[str, int]:
    """Where a file's columns stand; empty for one that is no list of Kinetics' clips. Raises the source's errors."""
    return columns_in(first_row(source, obj))


def columns_in(header: list[str]) -> dict[str, int]:
    """Where the columns stand in a header; empty for what is none, or that of something else."""
    found: dict[str, int] = {}
    for place, name in enumerate(header):
        if column := _COLUMNS.get(name.strip().lower().replace("-", "_").replace(" ", "_")):
            found.setdefault(column, place)
    return found if found.keys() >= _NEEDED else {}


def read_table(source: Source, obj: ObjectInfo, place: str, release: str, labels: Labels) -> Table | None:
    """The file as a table, `place` being where it stands; None for one that is no list of Kinetics' clips. Raises the
    source's errors."""
    from vfs.datasets.kinetics.stems import Stems

    lines = rows(source, obj)
    columns = columns_in(next(lines, ([], b""))[0])
    if not columns:
        return None
    youtube_id, start, end = columns["id"], columns["start"], columns["end"]
    label, split = columns.get("label", _NO_COLUMN), columns.get("split", _NO_COLUMN)
    stems, of_labels, of_splits, default = Stems(STEM_BYTES), array("H"), array("B"), split_in(place)
    seconds, numbers = _Seconds(), _Splits()
    wrong, example, count = 0, b"", 0
    batch: list[bytes] = []
    for count, (fields, line) in enumerate(lines, 1):
        if count > _MOST_ROWS:
            _log.warning("%s: only its first %d rows are read", place, _MOST_ROWS)
            break
        width = len(fields)
        stem = None
        if youtube_id < width and start < width and end < width:
            stem = _stem(fields[youtube_id].strip(), seconds[fields[start]], seconds[fields[end]])
        if stem is None:
            wrong, example = wrong + 1, example or line
            continue
        batch.append(stem)
        of_labels.append(labels[fields[label]] if label < width else 0)
        of_splits.append((numbers[fields[split]] if split < width else 0) or default)
        if len(batch) == _BATCH_ROWS:
            stems.extend(batch)
            batch.clear()
    stems.extend(batch)
    tell_wrong(place, wrong, count, example)
    return Table(release, stems.array(), of_labels, of_splits)


def tell_wrong(place: str, wrong: int, count: int, example: bytes) -> None:
    """Logs how many rows of a file were left out, with one of them."""
    if wrong:
        _log.warning("%s: %d of %d rows make no sense and are left out, such as %.80r", place, wrong, count, example)


def _stem(youtube_id: str, start: str | None, end: str | None) -> bytes | None:
    """The clip that a row names, with its times in six digits; None for one that makes no sense."""
    if start is None or end is None or start >= end or not _IS_ID(youtube_id):
        return None
    return f"{youtube_id}_{start}_{end}".encode()


def split_in(place: str) -> int:
    """The number of the split that a file's name tells, 0 if none."""
    found = _SPLIT.findall(place.rpartition("/")[2].lower())
    return _Splits()[found[-1]] if found else 0


def of_releases(tables: Iterable[Table]) -> Iterator[tuple[str, list[Table]]]:
    """The tables of each release, in the order of releases."""
    by_release: dict[str, list[Table]] = {}
    for table in tables:
        by_release.setdefault(table.release, []).append(table)
    yield from sorted(by_release.items())
