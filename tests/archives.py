"""Archives for tests: made of files by Python's own modules, and bytes of all kinds to put into them."""

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Mapping

from tests.memorysource import MemorySource
from vfs.sources.archives import ArchiveSource


def wild(count: int, seed: int = 1) -> bytes:
    """Bytes that deflate cannot make smaller."""
    return random.Random(seed).randbytes(count)


def tame(count: int, seed: int = 1) -> bytes:
    """Bytes of which deflate makes about half, in blocks of both kinds of Huffman codes."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(2, 12)) for _ in range(3000)]
    parts: list[bytes] = []
    while count > 0:
        parts.append(b" ".join(rng.choices(words, k=100)))
        count -= len(parts[-1])
    return b"".join(parts)[: count or None]


def zip_of(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip; a name that ends in / is a folder."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def tar_of(files: Mapping[str, bytes | tarfile.TarInfo], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar; a TarInfo is a member without bytes, such as a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for name, data in files.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A symbolic link, or with LNKTYPE a hard one."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tar_gz_of(files: Mapping[str, bytes | tarfile.TarInfo], level: int = 6) -> bytes:
    """A gzipped tar."""
    return gzip.compress(tar_of(files), level)


def tree(source: ArchiveSource | MemorySource, folder: str = "") -> dict[str, bytes | str]:
    """All that stands below a folder, by path: files with their bytes, links with "-> " and their target."""
    found: dict[str, bytes | str] = {}
    for entry in source.list(folder):
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.kind == "dir":
            found |= tree(source, path) or {f"{path}/": ""}
        elif entry.kind == "link":
            found[path] = f"-> {entry.target}"
        else:
            assert entry.object is not None
            assert entry.object.key == path
            size = entry.object.size_bytes
            found[path] = bytes(source.read(entry.object, 0, size)) if size else b""
    return found
