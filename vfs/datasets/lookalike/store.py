"""Buckets in folders, and the forms of what stands in them: texts, tensors, and videos that are encoded once.

Hides how a few encodings become many videos. Called by the look-alikes; must not know what any dataset looks like.
"""

import csv
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vfs.video import sample

FPS = 30
ENTRY_BUCKET = "ego4d-consortium-sharing"
"""Where manifests and metadata stand, of both datasets."""


@dataclass(frozen=True, slots=True)
class Footage:
    """What a video shows and how it is encoded: equal ones are encoded once."""

    family: sample.Family
    width: int
    height: int
    label: str
    place: int
    frame_count: int
    first: int = 0
    has_sound: bool = False

    def write(self, path: Path) -> None:
        family = replace(self.family, width=self.width, height=self.height)
        sample.write(path, family, self.label, self.place, self.frame_count, first=self.first, sound=self.has_sound)


class Store:
    """Buckets below a root. Videos are remembered and written at the end, side by side."""

    def __init__(self, root: Path, *, has_gaps: bool = True) -> None:
        self.has_gaps = has_gaps
        """Whether objects are missing that manifests name."""
        self._root = root
        self._videos: dict[str, Footage] = {}

    def put(self, location: str, content: bytes | str) -> str:
        """Writes an object; returns `location`, which is its bucket and key behind s3://."""
        path = self._path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return location

    def film(self, location: str, footage: Footage) -> str:
        """Has a video written by `develop`; returns `location`."""
        self._videos[location] = footage
        return location

    def develop(self) -> None:
        """Writes the videos. Raises SourceError and OSError."""
        # Slowest first, so that none is left over at the end. Encoders release the GIL and have one thread each.
        wanted = sorted(dict.fromkeys(self._videos.values()), key=_work, reverse=True)
        with (
            tempfile.TemporaryDirectory(dir=self._root) as folder,
            ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))), "egofs-demo") as pool,
        ):
            files = {footage: Path(folder) / f"{number}.mp4" for number, footage in enumerate(wanted)}
            for _ in pool.map(lambda footage: footage.write(files[footage]), wanted):
                pass
            for location, footage in self._videos.items():
                self.put(location, files[footage].read_bytes() + _box(location))
        self._videos.clear()

    def size_bytes(self, location: str) -> int:
        """Of an object that has been written."""
        return self._path(location).stat().st_size

    def _path(self, location: str) -> Path:
        return self._root / location.removeprefix("s3://")


def _work(footage: Footage) -> int:
    return footage.width * footage.height * footage.frame_count * (4 if footage.family is sample.EGO4D else 1)


def _box(text: str) -> bytes:
    """A free box of MP4 (ISO 14496-12, 8.1.2): readers skip it."""
    return struct.pack(">I4s", 8 + len(text), b"free") + text.encode()


def made_up_uid(kind: int, number: int) -> str:
    """A uid that says by its zeros that nobody was given it."""
    return f"{number:08x}-{kind:04x}-4000-8000-{number:012x}"


def json_text(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tensor_file(rows: int, columns: int) -> bytes:
    """A float32 tensor as torch.save writes it: a zip of a pickle, which tells the form, and the numbers."""
    values = (np.arange(rows * columns, dtype="<u4") * np.uint32(2654435761) >> 8) / np.float64(1 << 24)

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpu" + number(values.size) + b"tQ"
    shape = number(0) + number(rows) + number(columns) + b"\x86" + number(columns) + number(1) + b"\x86"
    built = b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape + b"\x89ccollections\nOrderedDict\n)RtR."
    parts = {"data.pkl": built, "byteorder": b"little", "data/0": values.astype("<f4").tobytes(), "version": b"3\n"}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return packed.getvalue()
