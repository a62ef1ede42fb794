"""What the headers of an S3 object say of the checksum of its bytes.

Hides S3's ways of telling: checksums of its own, of the whole object or of its parts, and ETags, which are the MD5 of
what was uploaded in one piece, and the MD5 of MD5s of what came in parts, where no key of the store's encrypts it (S3
User Guide, "Checking object integrity"; API Reference, "Object", ETag). Called by the S3 source; asks nothing itself.
Any thread may call.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping

from vfs.digests import Checksum
from vfs.errors import CorruptData

# The surest first; any of them finds what happens by accident.
_ALGORITHMS = ("sha256", "crc64nvme", "sha1", "crc32c", "crc32")
_MOST_PARTS = 10_000
_ETAG = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?")


def find(headers: Mapping[str, str], size_bytes: int, part_bytes: Callable[[int], int]) -> Checksum | None:
    """The checksum that an answer to HEAD tells, its headers by lower-case names; None where it tells none that can be
    compared. `part_bytes` gives the size of the part with that number, from 1. Raises CorruptData, and what that
    raises."""
    told = _own(headers) or _etag(headers)
    if told is None:
        return None
    algorithm, digest, parts = told
    if parts is None:
        return Checksum(algorithm, digest)
    if parts > _MOST_PARTS:
        raise CorruptData(f"an object of {parts} parts, of which there can be {_MOST_PARTS}")
    size = size_bytes if parts == 1 else part_bytes(1)
    # All parts but the last are as large as the first, by whatever program; where they are not, they are not guessed.
    is_even = size > 0 and (parts - 1) * size < size_bytes <= parts * size
    if parts > 1 and is_even:
        is_even = part_bytes(parts) == size_bytes - (parts - 1) * size
    return Checksum(algorithm, digest, size) if is_even else None


def _own(headers: Mapping[str, str]) -> tuple[str, bytes, int | None] | None:
    for algorithm in _ALGORITHMS:
        text, dash, parts = headers.get(f"x-amz-checksum-{algorithm}", "").partition("-")
        if not text:
            continue
        try:
            digest = base64.b64decode(text, validate=True)
        except binascii.Error as failure:
            raise CorruptData(f"the store tells a checksum that is none: {text!r:.80}") from failure
        if not dash:
            return algorithm, digest, None
        if re.fullmatch("[1-9][0-9]{0,4}", parts):
            return algorithm, digest, int(parts)
    return None


def _etag(headers: Mapping[str, str]) -> tuple[str, bytes, int | None] | None:
    match = _ETAG.fullmatch(headers.get("etag", "").strip('"'))
    by_key = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    if match is None or by_key or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    return "md5", bytes.fromhex(match[1]), int(match[2]) if match[2] else None
