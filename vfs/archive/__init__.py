"""Archives as folders: what stands in a zip or a tar, and the bytes of its members, read by range where they are.

`kept.py` gives an archive's index, made by zips.py or tars.py once a version; `members.py` gives a member's bytes, with
inflate.py where they are deflated. Nothing here knows a store: an archive is a size and a way to read ranges. Called by
sources/archives.py. Any thread may enter; who asks for an index waits while one thread of its own makes it.

Archives are not to be trusted. No name leads out of its archive, nothing is held in memory that an archive decides the
size of, and whatever does not agree with what the archive says of it is CorruptData, never short or other bytes.
"""

import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""What archives are called, in any case of letters."""

_PATH_MAX = 4096  # Linux's, with the NUL at the end
_SHORT = 1000
_ODD = re.compile(r"^[/.]|/[/.]|/$|\0|^$")
_APPLE_DOUBLE = "._"  # macOS keeps attributes of a file in one beside it
_APPLE_FOLDER = "__MACOSX"


@dataclass(frozen=True, slots=True)
class Archive:
    """One version of an archive. `read` gives exactly the bytes of a range that lies within it."""

    identity: str
    """Equal only for equal bytes, in any store."""
    name: str
    size_bytes: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Packed:
    """A member: of which archive, of what form ("zip", "tar" or "gz"), where it stands there (Row.place), its size."""

    archive: Archive
    form: str
    place: str
    size_bytes: int
    name: str


def stem_of(name: str) -> str:
    """What a file is called without an archive's suffix; "" for one that is called like no archive."""
    if not name.lower().endswith(SUFFIXES):  # of most names that is all there is to ask
        return ""
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(suffix)]


def path_of(name: str) -> str | None:
    """Where a member is shown, without / at either end; None for one that is not: it leads out, has no name, or cannot
    be opened. A / in front is dropped, as tar and unzip do. Raises nothing."""
    # Nearly every name is one that nothing has to be done to.
    if name.isascii() and len(name) < _SHORT and _ODD.search(name) is None:
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    path = "/".join(parts)
    return path if parts and ".." not in parts and _can_be_opened(path) else None


def is_apple_double(path: str) -> bool:
    """Whether a member is what macOS puts beside another, which nobody unpacks on purpose."""
    return (_APPLE_DOUBLE in path or _APPLE_FOLDER in path) and (
        path.partition("/")[0] == _APPLE_FOLDER or posixpath.basename(path).startswith(_APPLE_DOUBLE)
    )


def link_target(path: str, written: str) -> str | None:
    """The target of a link at a member's path, None where it may lead out of the archive.

    `..` stands only in front of what is given: after the name of a folder that is a link it leads where nobody can
    tell from the names.
    """
    parts = [part for part in written.split("/") if part not in ("", ".")]
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    is_within = up <= path.count("/") and ".." not in parts[up:]
    return written if written and not written.startswith("/") and is_within and _can_be_opened(written) else None


def _can_be_opened(path: str) -> bool:
    try:
        return "\0" not in path and len(os.fsencode(path)) < _PATH_MAX
    except UnicodeEncodeError:
        return False
