"""Checksums of whole objects, as stores tell them: which there are, and how each is made of bytes as they come.

Called by verifying.py; sources give the Checksum. A digest belongs to one thread, all else to any.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vfs.errors import SourceError
from vfs.extent import Buffer

_PIECE_BYTES = 1 << 20  # what is inflated at once


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a store says of all bytes of an object: `digest`, of `before` and then the bytes.

    `algorithm` is md5, sha1, sha256, crc32, crc32c, crc64nvme, or gzip: bytes that hold their own checksums, whose
    digest is b"". With `part_bytes` it is the digest of the digests of parts of that size, one behind the other.
    """

    algorithm: str
    digest: bytes
    part_bytes: int = 0
    before: bytes = b""


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: Buffer, /) -> None:
        """Takes the next bytes."""
        ...

    def digest(self) -> bytes:
        """The checksum of what came."""
        ...


class _Crc32:
    def __init__(self) -> None:
        self._crc = 0

    def update(self, data: Buffer, /) -> None:
        self._crc = zlib.crc32(data, self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(4, "big")


class _Gzip:
    """Bytes that hold their own checksums, each gzip member a CRC-32 and its length (RFC 1952, 2.3.1): b"" where these
    are right to the end."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._is_wrong = self._is_padding = False

    def update(self, data: Buffer, /) -> None:
        rest = bytes(data)
        while rest and not self._is_wrong:
            if self._member.eof:
                self._is_padding = self._is_padding or not rest.startswith(b"\x1f")
                if self._is_padding:  # tapes and copies fill up with zeros
                    self._is_wrong = bool(rest.strip(b"\0"))
                    return
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                self._member.decompress(rest, _PIECE_BYTES)
            except zlib.error:
                self._is_wrong = True
                return
            rest = self._member.unconsumed_tail or self._member.unused_data

    def digest(self) -> bytes:
        return b"wrong" if self._is_wrong or not self._member.eof else b""


class _OfParts:
    """The digest of the digests of parts."""

    def __init__(self, make: Callable[[], Digest], part_bytes: int) -> None:
        self._make = make
        self._part_bytes = self._left = part_bytes
        self._whole, self._part = make(), make()

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        while len(view):
            if not self._left:
                self._end_part()
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def digest(self) -> bytes:
        self._end_part()
        return self._whole.digest()

    def _end_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part, self._left = self._make(), self._part_bytes


def _crc(kind: str) -> Callable[[], Digest]:
    def make() -> Digest:
        from vfs.crc import Crc  # numpy, which is here in a mount that shows frames, but not at once

        return Crc(kind)

    return make


_MAKE: dict[str, Callable[[], Digest]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "crc32": _Crc32,
    "crc32c": _crc("crc32c"),
    "crc64nvme": _crc("crc64nvme"),
    "gzip": _Gzip,
}


def begun(checksum: Checksum) -> Digest:
    """A digest of the checksum's kind, of no bytes yet. Raises SourceError for one that is not known."""
    make = _MAKE.get(checksum.algorithm)
    if make is None:
        raise SourceError(f"a checksum of kind {checksum.algorithm!r:.40} is not known: verify it with a newer release")
    digest = _OfParts(make, checksum.part_bytes) if checksum.part_bytes else make()
    if checksum.before:
        digest.update(checksum.before)
    return digest
