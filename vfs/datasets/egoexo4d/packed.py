"""Files of one folder of Ego-Exo4D's tree in few bytes, as the catalog keeps them until somebody asks for them.

A folder such as takes/<take_name> or features/omnivore_video is packed with all below it, a piece for each entry of a
manifest, which takes a fifth of the time of making its files; one more piece of a take has its canonical names.
Pure: any thread may enter.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeAlias

from msgspec import Struct, msgpack

from vfs.catalog import Entry, Packed
from vfs.datasets.egoexo4d.takes import canonical
from vfs.node import Kind
from vfs.sources import UNKNOWN_SIZE, ObjectInfo
from vfs.video import VIDEO_SUFFIXES

# Where frame aligned videos stand, at any depth below it.
_ALIGNED = "frame_aligned_videos"
_S3 = "s3://"


_Size: TypeAlias = int | float | None
_LARGEST = (1 << 63) - 1


class _Piece(Struct, gc=False, array_like=True):
    """Files, each with its path below the folder.

    Pieces outlive the program that made them: the dataset's `selection` changes with what is understood here.
    """

    names: list[str] = []
    sizes: list[_Size] = []
    before: str = ""
    """What a key has in front of the file's name."""
    keys: list[str] | None = None
    """The keys, where these are others."""
    links: dict[str, str] = {}
    """The videos of a take by their canonical names."""


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(_Piece).decode


def files(folder: str, places: list[str], sources: list[str], sizes: list[_Size]) -> Packed:
    """Files of a folder, with their places in the tree and in the store."""
    cut = len(folder) + 1
    names = [place[cut:] for place in places]
    sizes = [size if size is not None and 0 <= size <= _LARGEST else None for size in sizes]
    before = sources[0].removesuffix(names[0])
    if before.startswith(_S3) and sources == [before + name for name in names]:
        piece = _Piece(names, sizes, key_of(before))
    else:
        piece = _Piece(names, sizes, "", list(map(key_of, sources)))
    return Packed(_encode(piece), min(int(sum(filter(None, sizes))), _LARGEST))


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
        for folder, entry in map(file, piece.names, keys, piece.sizes):
            if entry.is_video and _ALIGNED in folder:
                aligned.setdefault(folder, []).append(entry.name)
            yield folder, entry
    for folder, names in aligned.items():
        for link in canonical(named, names):
            yield folder, link


def file(place: str, source: str, size: _Size) -> tuple[str, Entry]:
    """The folder and the entry of a file."""
    folder, _, name = place.rpartition("/")
    is_known = size is not None and 0 <= size <= _LARGEST
    obj = ObjectInfo(key_of(source), int(size) if size is not None and is_known else UNKNOWN_SIZE, 0, "")
    return folder, Entry(name, Kind.FILE, obj, "", _is_video(name.rpartition(".")[2]))


def key_of(source: str) -> str:
    """The key of a place in the store."""
    return source.removeprefix(_S3)


@cache
def _is_video(suffix: str) -> bool:
    return f".{suffix.lower()}" in VIDEO_SUFFIXES
