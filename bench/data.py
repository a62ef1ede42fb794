"""The buckets that are read: made once in the work folder, and what their bytes should be.

Large objects are one mebibyte of random bytes repeated, each with its number at its beginning, so that no two blocks
of any two objects are equal and none can be compressed. Objects that are only listed are holes.
"""

import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import xxhash

BLOCK_BYTES = 1 << 20
SMALL_BYTES = 20_000
SMALL_FOLDERS = SMALL_IN_FOLDER = 100
TREE_FOLDERS, TREE_IN_FOLDER = 1_000, 100
MILLION_FOLDERS = MILLION_IN_FOLDER = 1_000

SMALL, TREE, MILLION = "small", "tree", "million"


class Data:
    """The buckets below `root`; `size` is that of the four large objects."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        self.root = root
        self.size_bytes = size_bytes
        self.large = f"large-{size_bytes >> 20}m"
        self.streams = [f"large-{number}" for number in range(4)]
        self.firsts = [f"first-{number}" for number in range(10)]
        self.five = "five"

    def make(self, bucket: str) -> None:
        """Makes a bucket that is not there; one that was interrupted is made anew."""
        if (self.root / bucket).exists():
            return
        makers: dict[str, Callable[[Path], None]] = {SMALL: _small, TREE: _tree, MILLION: _million}
        # Others may be making the same one: the first to finish wins.
        draft = self.root.with_name(f"making-{bucket}-{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        self.root.mkdir(exist_ok=True)
        makers.get(bucket, self._make_large)(draft)
        try:
            draft.rename(self.root / bucket)
        except OSError:
            shutil.rmtree(draft)
            if not (self.root / bucket).exists():
                raise

    def path(self, bucket: str, key: str) -> Path:
        return self.root / bucket / key

    def hash_of(self, bucket: str, places: Iterable[tuple[str, int, int]]) -> int:
        """The sum of the hashes of these (key, start, length), as readers.py reports it."""
        total = 0
        for key, start, length in places:
            with self.path(bucket, key).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
                total += xxhash.xxh3_64_intdigest(memoryview(view)[start : start + length].tobytes())
        return total & 0xFFFF_FFFF_FFFF_FFFF

    def _make_large(self, folder: Path) -> None:
        for number, name in enumerate([*self.streams, *self.firsts, self.five]):
            size = {self.five: 5 << 20}.get(name, self.size_bytes if name in self.streams else 8 << 20)
            _write_numbered(folder / name, number, size)


@contextmanager
def pinned(paths: Iterable[Path]) -> Iterator[Callable[[], None]]:
    """The server's files stay in memory although the page cache is emptied: the kernel leaves mapped pages alone.

    Gives what touches each of their pages: a virtual machine's host takes memory that nobody used for half a minute,
    and the first to read 1 GiB of it again waits 0.7 to 1.9 s more (measured), whichever system that is for.
    """
    maps: list[mmap.mmap] = []
    with ExitStack() as stack:
        for path in paths:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size:
                    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                    maps.append(stack.enter_context(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)))
        yield lambda: [view[:: mmap.PAGESIZE] for view in maps].clear()


def small_keys() -> list[str]:
    """The keys of the bucket of small objects."""
    return [f"{folder:03d}/{name:03d}.jpg" for folder in range(SMALL_FOLDERS) for name in range(SMALL_IN_FOLDER)]


def _write_numbered(path: Path, number: int, size_bytes: int) -> None:
    block = bytearray(os.urandom(BLOCK_BYTES))
    with path.open("wb", buffering=0) as file:
        for at in range(0, size_bytes, BLOCK_BYTES):
            block[:16] = number.to_bytes(8, "little") + at.to_bytes(8, "little")
            file.write(memoryview(block)[: size_bytes - at])


def _small(folder: Path) -> None:
    for number, key in enumerate(small_keys()):
        (folder / key).parent.mkdir(exist_ok=True)
        _write_numbered(folder / key, number, SMALL_BYTES)


def _tree(folder: Path) -> None:
    _holes(folder, TREE_FOLDERS, TREE_IN_FOLDER)


def _million(folder: Path) -> None:
    _holes(folder, MILLION_FOLDERS, MILLION_IN_FOLDER)


def _holes(folder: Path, folders: int, in_folder: int) -> None:
    for outer in range(folders):
        (folder / f"{outer:04d}").mkdir()
        for inner in range(in_folder):
            with (folder / f"{outer:04d}" / f"{inner:04d}.bin").open("wb") as file:
                file.truncate(SMALL_BYTES)
