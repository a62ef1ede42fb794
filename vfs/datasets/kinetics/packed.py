"""Folders of links to clips as the catalog keeps them until somebody looks in: names, compressed.

A label of 700 or a split of half a million clips is one piece of 12 bytes a clip, and becomes rows when it is first
asked for. Pieces outlive the program that made them: `FORMAT` is in the datasets' `selection`, and changes with what
is understood here. Pure: any thread may enter.
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from vfs.catalog import Entry, Packed
from vfs.datasets.kinetics.names import SUFFIX, ava_frame
from vfs.node import Kind

if TYPE_CHECKING:
    from vfs.datasets.kinetics.stems import Array

FORMAT = "clips 1"

_CLIPS, _MOMENTS = b"clips ", b"moments"
VIDEOS = "videos"
# Names that are Python objects at a time.
_BATCH = 1 << 12


def clips(folder: str, stems: "Array") -> tuple[str, Packed]:
    """A folder with links to these clips."""
    some = (stems[begin : begin + _BATCH].tolist() for begin in range(0, len(stems), _BATCH))
    return folder, _packed(_CLIPS + b"%d" % (folder.count("/") + 1), chain.from_iterable(some))


def moments(annotated: Iterable[bytes]) -> Packed:
    """`<id>/<moment>.jpg`, of lines `<id>,<moment>,<stem of the clip>`, in a folder that stands in the root."""
    return _packed(_MOMENTS, annotated)


def entries(pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
    """(folder, link) of all pieces of a folder."""
    for piece in pieces:
        head, *lines = zlib.decompress(piece).split(b"\n")
        if head == _MOMENTS:
            yield from map(_moment, lines)
            continue
        up = "../" * int(head.removeprefix(_CLIPS)) + VIDEOS
        for line in lines:
            name = line.decode() + SUFFIX
            yield "", Entry(name, Kind.LINK, target=f"{up}/{name}", is_video=True)


def _moment(line: bytes) -> tuple[str, Entry]:
    youtube_id, moment, stem = line.decode().split(",")
    target = f"../../{VIDEOS}/frames/{stem}/{ava_frame(moment, stem):06d}.jpg"
    return youtube_id, Entry(f"{moment}.jpg", Kind.LINK, target=target)


def _packed(head: bytes, lines: Iterable[bytes]) -> Packed:
    compressor = zlib.compressobj(1)
    pieces, rest = [compressor.compress(head)], iter(lines)
    while batch := list(islice(rest, _BATCH)):
        pieces.append(compressor.compress(b"".join(b"\n" + line for line in batch)))
    return Packed(b"".join((*pieces, compressor.flush())), 0)
