"""Files held against what their store says of them: each read to its end, and its checksum compared.

Hides where the bytes come from. What is kept of a file is read through the cache, as a reader would get it; of a file
of which nothing is kept the bytes come from the store alone, and none are kept: whoever looks through a dataset must
not have the cache emptied of what others read. Where what is kept turns out wrong it is dropped, and the file is read
once more, from the store: a damaged copy is mended by that, a damaged object is not.

Called by the daemon. Any thread may call; everything blocks.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vfs.digests import Checksum, begun
from vfs.errors import EgofsError, NotFound
from vfs.extent import Buffer
from vfs.mounted import MountedDataset
from vfs.node import Kind
from vfs.sources import ObjectInfo, checksum_of

# What is asked for at once: enough that the wait for a first byte is a small part, from a store 50 ms away.
_PIECE_BYTES = 8 << 20

Outcome: TypeAlias = Literal["ok", "mended", "differs", "unknown", "failed"]
"""What became of a file: its bytes are right; are now, after what was kept was dropped; are not those that the store
says; the store says nothing of them; cannot be read."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a file; `how` is the checksum's kind, `why` what failed, in words."""

    outcome: Outcome
    how: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that is to be verified, by its path in the mounted tree."""

    folder: str
    name: str
    size_bytes: int

    @property
    def path(self) -> str:
        """Below the mount's root."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


class Verifier:
    """Verifies files of a mount. `note` hears of bytes as they come, and may raise to break off."""

    def __init__(self, mounted: MountedDataset, note: Callable[[int], None]) -> None:
        self._mounted = mounted
        self._note = note

    def files(self, path: str) -> Iterator[Verified]:
        """The file at a path, or all files below a folder; links are not followed: they lead to files beside them.

        Raises NotFound for what is neither, and the source's errors.
        """
        catalog = self._mounted.catalog
        folder, _, name = path.rpartition("/")
        if path:
            entry = catalog.lookup(folder, name)
            if entry.kind is Kind.FILE:
                size_bytes = entry.object.size_bytes if entry.object else 0
                yield Verified(folder, name, max(0, size_bytes))
                return
            if entry.kind is Kind.LINK:
                raise NotFound(f"{path}: is a link: name what it leads to")
        catalog.folder(path)
        folders = []
        for child, kind, _, size_bytes, _ in catalog.children(path):
            if kind == Kind.FILE:
                yield Verified(path, os.fsdecode(child), max(0, size_bytes))
            elif kind == Kind.DIRECTORY:
                folders.append(os.fsdecode(child))
        for each in folders:
            yield from self.files(f"{path}/{each}" if path else each)

    def verdict(self, file: Verified) -> Verdict:
        """What becomes of a file. Raises what `note` raises, and nothing else."""
        try:
            return self._verdict(file)
        except EgofsError as failure:
            return Verdict("failed", why=str(failure))

    def _verdict(self, file: Verified) -> Verdict:
        mounted = self._mounted
        obj = mounted.sizes.entry(file.folder, file.name).object
        assert obj is not None, "a file has an object"
        checksum = checksum_of(mounted.source, obj)
        if checksum is None:
            return Verdict("unknown")
        opened = mounted.object_file(file.folder, obj)
        is_kept = mounted.cache is not None and opened.cached_bytes() > 0
        if is_kept and self._agrees(checksum, obj, opened.fetch):
            return Verdict("ok", checksum.algorithm)
        if is_kept:
            opened.forget()
        if self._agrees(checksum, obj, lambda start, length: mounted.source.read(obj, start, length)):
            return Verdict("mended" if is_kept else "ok", checksum.algorithm)
        return Verdict("differs", checksum.algorithm)

    def _agrees(self, checksum: Checksum, obj: ObjectInfo, read: Callable[[int, int], Buffer]) -> bool:
        digest = begun(checksum)
        for start in range(0, obj.size_bytes, _PIECE_BYTES):
            data = read(start, min(_PIECE_BYTES, obj.size_bytes - start))
            digest.update(data)
            self._note(len(data))
        return digest.digest() == checksum.digest
