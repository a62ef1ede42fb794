"""What may happen to a cache folder behind the back of those who use it: each kind of damage, to be done.

A damage is a function of the cache folder and of a random generator; it says whether there was anything to harm. The
files of values are told apart by what stands where in them (vfs/valuefile.py): data, checksums, padding.
"""

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vfs.cache import UNIT_BYTES
from vfs.valuefile import BLOCK_BYTES, file_bytes_of

Damage = Callable[[Path, random.Random], bool]
_WHOLE = {file_bytes_of(length): length for length in UNIT_BYTES}
"""Sizes of the files of whole units, and how much of each is data."""


def values(cache: Path) -> list[Path]:
    """The files of values that are there, in order."""
    return sorted(path for path in cache.glob("objects/??/*") if not path.name.startswith("."))


def _one(cache: Path, draw: random.Random, *, whole: bool = False) -> Path | None:
    found = [path for path in values(cache) if not whole or _size(path) in _WHOLE]
    return draw.choice(found) if found else None


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # evicted meanwhile
        return path.stat().st_size
    return 0


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flips a bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1 << bit]))


def _flipped(part: Callable[[int, int], range]) -> Damage:
    """Flips a bit in a part of a whole unit's file, of which length and size are told."""

    def damage(cache: Path, draw: random.Random) -> bool:
        path = _one(cache, draw, whole=True)
        if path is None or (size := _size(path)) not in _WHOLE:
            return False
        with suppress(FileNotFoundError):
            flip(path, draw.choice(part(_WHOLE[size], size)), draw.randrange(8))
        return True

    return damage


def _sums_end(length: int) -> int:
    return length + 8 * -(-length // BLOCK_BYTES)


def _resized(size_of: Callable[[int, random.Random], int]) -> Damage:
    def damage(cache: Path, draw: random.Random) -> bool:
        path = _one(cache, draw)
        if path is None:
            return False
        with suppress(FileNotFoundError):
            os.truncate(path, size_of(_size(path), draw))
        return True

    return damage


def _garbage(cache: Path, draw: random.Random) -> bool:
    path = _one(cache, draw)
    if path is None:
        return False
    with suppress(FileNotFoundError), path.open("r+b") as file:
        file.write(draw.randbytes(_size(path)))
    return True


def _zeros(cache: Path, draw: random.Random) -> bool:
    """As a file system leaves it whose machine lost its power: the size, and none of the bytes."""
    path = _one(cache, draw)
    if path is None:
        return False
    with suppress(FileNotFoundError):
        size = _size(path)
        os.truncate(path, 0)
        os.truncate(path, size)
    return True


def _swapped(cache: Path, draw: random.Random) -> bool:
    """Two files of one size have each other's names, so that nothing but their keys tells them apart."""
    path = _one(cache, draw)
    others = [each for each in values(cache) if path and each != path and _size(each) == _size(path)]
    if path is None or not others:
        return False
    other, between = draw.choice(others), path.with_name(".between")
    with suppress(FileNotFoundError):
        path.rename(between)
        other.rename(path)
        between.rename(other)
    return True


def _deleted(cache: Path, draw: random.Random) -> bool:
    path = _one(cache, draw)
    if path is not None:
        path.unlink(missing_ok=True)
    return path is not None


def _all_flipped(cache: Path, draw: random.Random) -> bool:
    found = values(cache)
    for path in found:
        with suppress(FileNotFoundError, IndexError):
            flip(path, draw.randrange(max(1, _size(path) * 9 // 10)))
    return bool(found)


def _folder_removed(cache: Path, draw: random.Random) -> bool:
    shutil.rmtree(cache / "objects", ignore_errors=True)
    return True


def _all_removed(cache: Path, draw: random.Random) -> bool:
    """All but the log, which tests look at."""
    _folder_removed(cache, draw)
    for path in cache.glob("catalog.sqlite*"):
        path.unlink(missing_ok=True)
    return True


def _of_database(name: str, harm: Callable[[Path, random.Random], None]) -> Damage:
    def damage(cache: Path, draw: random.Random) -> bool:
        path = cache / name
        if not path.exists():
            return False
        harm(path, draw)
        return True

    return damage


def _pages(path: Path, draw: random.Random) -> None:
    """Pages of noise; the first one, which has the header, is not spared."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(0, size, 4096):
            if draw.random() < 0.7:
                file.seek(page)
                file.write(draw.randbytes(min(4096, size - page)))


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.choice((0, 100, 4096, path.stat().st_size // 2)))


def _noise(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(20_000))


def _log_of_it(path: Path, draw: random.Random) -> None:
    """Of the write-ahead log: SQLite has checksums in it, and takes what is before the damage."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        flip(log, draw.randrange(log.stat().st_size))


def _gone(path: Path, draw: random.Random) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


VALUES: dict[str, Damage] = {
    "data flipped": _flipped(lambda length, size: range(length)),
    "checksum flipped": _flipped(lambda length, size: range(length, _sums_end(length))),
    "padding flipped": _flipped(lambda length, size: range(_sums_end(length), size)),
    "cut": _resized(lambda size, draw: draw.randrange(size) if size else 0),
    "emptied": _resized(lambda size, draw: 0),
    "made longer": _resized(lambda size, draw: size + draw.choice((1, 4096))),
    "zeros": _zeros,
    "noise": _garbage,
    "swapped": _swapped,
    "deleted": _deleted,
    "all flipped": _all_flipped,
    "folder removed": _folder_removed,
}
DATABASES: dict[str, Damage] = {
    f"{what} {name}": _of_database(name, harm)
    for name in ("objects/index.sqlite", "catalog.sqlite")
    for what, harm in {
        "pages of noise in": _pages,
        "cut": _cut,
        "noise instead of": _noise,
        "flipped log of": _log_of_it,
        "no more": _gone,
    }.items()
}
ALL: dict[str, Damage] = {**VALUES, **DATABASES, "all removed": _all_removed}
