"""The files that say which clips there are: found in the source, or named by the option `csv`.

    annotations/…  kinetics_csv/…  ava_kinetics_csv/…     in the root, or in a folder of it (400/annotations)
    *.csv                                                  in the root

What `csv` names is a file or folder of this machine, or a key or folder of the source; then only these count. Those of
this machine become objects of the mounted source (`Beside`), so that `annotations/` shows and reads them like others.

Called by both datasets. Any thread may call; what lists blocks.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from vfs import sources
from vfs.datasets.kinetics.store import RELEASE_FOLDER
from vfs.digests import Checksum
from vfs.errors import NotFound, OptionError
from vfs.options import whole_path
from vfs.sources import Listed, ObjectInfo, Source

FOLDERS = ("annotations", "kinetics_csv", "ava_kinetics_csv")
_CSV = ".csv"
# So many folders in the root are asked for annotations whatever they are called: more are labels.
_FEW_FOLDERS = 64
_MOST_DEPTH = 3
_MOST_FILES = 4096
_MOST_NAMES = 100_000
_LOCAL = ".egofs-csv"  # in front of the keys of files of this machine; no store lists a clip there


@dataclass(frozen=True, slots=True)
class Found:
    """A file of annotations: `place` is its path below `annotations/` of the mounted tree, `origin` where it stands."""

    place: str
    obj: ObjectInfo
    origin: str

    @property
    def is_csv(self) -> bool:
        """By its name."""
        return self.place.lower().endswith(_CSV)


class Beside:
    """Another source, and files of this machine beside it, under keys of their own."""

    def __init__(self, inner: Source, named: tuple[str, ...]) -> None:
        """`named` are absolute paths of files and folders. Raises OptionError."""
        self.url, self.remote = inner.url, inner.remote
        self._inner = inner
        self._folders: list[tuple[Path, Source]] = []
        self._names: list[str | None] = []
        for path in map(Path, named):
            folder = path if path.is_dir() else path.parent
            module = sources.module_for(str(folder))
            self._folders.append((folder, module.open_source(str(folder), module.Options())))
            self._names.append(None if path.is_dir() else path.name)

    def found(self) -> Iterator[Found]:
        """The files of this machine. Raises NotFound for one that is gone."""
        for number, (name, (folder, source)) in enumerate(zip(self._names, self._folders, strict=True)):
            for each in below(source, "") if name is None else [Found(name, source.stat(name), name)]:
                if each.is_csv or name is not None:
                    obj = replace(each.obj, key=f"{_LOCAL}/{number}/{each.obj.key}")
                    yield Found(each.place, obj, f"{folder}/{each.origin}")

    def list(self, folder: str) -> Iterator[Listed]:
        """The inner source's."""
        return self._inner.list(folder)

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now."""
        source, inner = self._of(key)
        return replace(source.stat(inner), key=key)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes of the range."""
        source, inner = self._of(obj.key)
        return source.read(obj if inner == obj.key else replace(obj, key=inner), start, length)

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the inner source knows of its own."""
        return None if obj.key.startswith(f"{_LOCAL}/") else sources.checksum_of(self._inner, obj)

    def close(self) -> None:
        """Closes all."""
        for _, source in self._folders:
            source.close()
        self._inner.close()

    def _of(self, key: str) -> tuple[Source, str]:
        if not key.startswith(f"{_LOCAL}/"):
            return self._inner, key
        number, _, inner = key.removeprefix(f"{_LOCAL}/").partition("/")
        if not number.isdecimal() or int(number) >= len(self._folders):
            raise NotFound(key)
        return self._folders[int(number)][1], inner


def absolute(text: str) -> str:
    """What the option `csv` names: an absolute path where there is such a file or folder here, else a key."""
    path = whole_path(text)
    return str(path) if os.path.exists(path) else text.strip("/")  # False for a name that is too long


def state_of(named: tuple[str, ...]) -> tuple[str, ...]:
    """What tells the files of this machine, as they are now, from others. Raises OptionError for one that is gone."""
    told = []
    for path in map(Path, named):
        try:
            files = sorted(path.rglob("*.[cC][sS][vV]")) if path.is_dir() else [path]
            told += [f"{file}\0{file.stat().st_mtime_ns}\0{file.stat().st_size}" for file in files]
        except OSError as failure:
            raise OptionError(f"csv={path}: {failure.strerror or failure}") from failure
    return tuple(told)


def find_named(source: Source, keys: tuple[str, ...]) -> Iterator[Found]:
    """What the option `csv` names in the source. Raises OptionError for what is not there, and the source's errors."""
    for key in keys:
        name = key.rpartition("/")[2]
        if key.lower().endswith(_CSV):
            with suppress(NotFound):
                yield Found(name, source.stat(key), key)
                continue
        else:
            with suppress(NotFound):
                yield from (replace(each, origin=f"{key}/{each.origin}") for each in below(source, key))
                continue
        raise OptionError(f"csv={key}: neither this machine nor {source.url} has such a file or folder")


def find(source: Source, top: list[Listed]) -> Iterator[Found]:
    """The annotations of a source, of whose root `top` has the folders and CSV files."""
    for listed in top:
        if listed.kind == "file":
            yield from _told(source, listed, listed.name)
    names = sorted(listed.name for listed in top if listed.kind == "dir" and not listed.name.startswith("."))
    for name in names:
        if name in FOLDERS:
            yield from _in(source, name, "")
        elif len(names) <= _FEW_FOLDERS or RELEASE_FOLDER.fullmatch(name):
            for folder in FOLDERS[:1]:
                yield from _in(source, f"{name}/{folder}", f"{name}/")


def top_of(source: Source) -> list[Listed]:
    """The folders and CSV files of a source's root. Raises the source's errors."""
    kept = (each for each in source.list("") if each.kind == "dir" or each.name.lower().endswith(_CSV))
    return list(islice((each for each in kept if not each.name.startswith(".")), _MOST_NAMES))


def below(source: Source, folder: str, depth: int = 0) -> Iterator[Found]:
    """The files below a folder, with their places there. Raises NotFound where there is no such folder."""
    inner: list[str] = []
    for listed in islice(source.list(folder), _MOST_FILES):
        key = f"{folder}/{listed.name}" if folder else listed.name
        if listed.name.startswith("."):
            continue
        if listed.kind == "dir":
            inner.append(listed.name)
        else:
            yield from _told(source, listed, key)
    for name in sorted(inner) if depth < _MOST_DEPTH else ():
        for each in below(source, f"{folder}/{name}" if folder else name, depth + 1):
            yield replace(each, place=f"{name}/{each.place}", origin=f"{name}/{each.origin}")


def _told(source: Source, listed: Listed, key: str) -> Iterator[Found]:
    """A file of a listing, which is asked for where the listing does not tell its size."""
    obj = listed.object
    if obj is None or obj.size_bytes < 0:
        try:
            obj = source.stat(key)
        except NotFound:
            return
    yield Found(listed.name, obj, listed.name)


def _in(source: Source, folder: str, place: str) -> Iterator[Found]:
    with suppress(NotFound):
        for each in below(source, folder):
            yield replace(each, place=place + each.place, origin=f"{folder}/{each.origin}")
