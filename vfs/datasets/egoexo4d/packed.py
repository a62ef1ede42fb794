"""Files of one folder of Ego-Exo4D's tree in few bytes, as the catalog keeps them until somebody asks for them.

Packed is what has two folders above it, such as takes/<take_name> or features/omnivore_video: an entry of a manifest
is a piece, which took a fortieth of the time of making the entries; another piece of a take has its canonical names.
Pure: any thread may enter.
"""

import posixpath
from collections.abc import Iterable, Iterator
from functools import cache

from msgspec import Struct, msgpack

from vfs.catalog import Entry, Packed
from vfs.datasets.egoexo4d.takes import canonical
from vfs.node import Kind
from vfs.sources import UNKNOWN_SIZE, ObjectInfo
from vfs.video import VIDEO_SUFFIXES

# Where frame aligned videos stand, at any depth below it.
_ALIGNED = "frame_aligned_videos"


class _Piece(Struct, gc=False, array_like=True):
    """Files, each name with a size (UNKNOWN_SIZE where it is not known); names are paths below the folder.

    Pieces outlive the program that made them: the dataset's `selection` changes with what is understood here.
    """

    names: list[str] = []
    sizes: list[int] = []
    before: str = ""
    """What a key has in front of the file's name."""
    keys: list[str] | None = None
    """The keys, where these are others."""
    links: dict[str, str] = {}
    """The videos of a take by their canonical names."""


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(_Piece).decode


def files(names: list[str], keys: list[str], sizes: list[int]) -> Packed:
    """Files of a folder; a name is a path below it."""
    before = keys[0].removesuffix(names[0])
    alike = keys == [before + name for name in names]
    piece = _Piece(names, sizes, before) if alike else _Piece(names, sizes, "", keys)
    return Packed(_encode(piece), sum(sizes) - UNKNOWN_SIZE * sizes.count(UNKNOWN_SIZE))


def links(videos: dict[str, str]) -> Packed:
    """The videos of a take by their canonical names."""
    return Packed(_encode(_Piece(links=videos)), 0)


def entries(pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
    """(folder, entry) of all pieces of a folder, canonical names where the videos are there."""
    named: dict[str, str] = {}
    aligned: dict[str, list[str]] = {}
    for piece in map(_decode, pieces):
        named |= piece.links
        keys = piece.keys or [piece.before + name for name in piece.names]
        for place, key, size in zip(piece.names, keys, piece.sizes, strict=True):
            folder, name, entry = file(place, key, size)
            if entry.is_video and _ALIGNED in folder:
                aligned.setdefault(folder, []).append(name)
            yield folder, entry
    for folder, names in aligned.items():
        for link in canonical(named, names):
            yield folder, link


def file(place: str, key: str, size: int) -> tuple[str, str, Entry]:
    """The folder, the name and the entry of the file at a path."""
    folder, name = posixpath.split(place)
    return folder, name, Entry(name, Kind.FILE, ObjectInfo(key, size, 0, ""), "", _is_video(name.rpartition(".")[2]))


@cache
def _is_video(suffix: str) -> bool:
    return f".{suffix.lower()}" in VIDEO_SUFFIXES
