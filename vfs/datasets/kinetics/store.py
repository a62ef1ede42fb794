"""A store of clips: which there are, whatever folders they stand in.

Hides layouts. Clips may stand in one folder, in folders of labels or splits, or as CVDF's archives have them (shown as
folders by the source): `400/train/part_0/`, a class folder in each archive of 700_2020, those that replace corrupted
ones in `replacement_for_corrupted_k400/`. Every folder is looked into, in the order of names, those of replacements
first; a clip that stands several times is given once: the replacement, else the first that is not empty. Names are
given in their one form. What begins with a dot (`._*` of AppleDouble, too) and what is no clip is passed over.

Called by both datasets while they make a tree. Blocks on the source; not for several threads at once.
"""

import logging
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from operator import attrgetter
from posixpath import splitext

from vfs.datasets.kinetics.names import STEM_BYTES, SUFFIX, Shape
from vfs.datasets.kinetics.stems import Array, Stems, StemSet
from vfs.errors import CorruptData, NotFound
from vfs.sources import Listed, ObjectInfo, Source

_log = logging.getLogger(__name__)

# Files whose names are looked at together: 10 MB of them.
_BATCH_FILES = 1 << 14
_MOST_DEPTH = 8
_MOST_FOLDERS = 100_000
"""In one folder: CVDF's archives of one split are 700."""

RELEASE_FOLDER = re.compile(r"(?:k|kinetics)?[-_]?(?:400|600|700)(?:[-_]?2020)?", re.IGNORECASE)
"""What top folders are called that hold a release."""

_REPLACEMENTS = ("replacement", "replacement_for_corrupted_k400")


class Store:
    """The clips of a source. What was found is told once all of `clips` was taken."""

    def __init__(
        self,
        source: Source,
        folders: tuple[str, ...],
        shape: Shape,
        top: list[str],
        wanted: Callable[[Array], Array] | None = None,
    ) -> None:
        """`folders` are patterns (empty: all), `top` the names of folders in the root; `wanted` tells for an array of
        names which of them are to be given."""
        self._source = source
        self._patterns = [pattern.strip("/").split("/") for pattern in folders]
        self._shape = shape
        self._top = top
        self._wanted = wanted
        self._seen = StemSet(STEM_BYTES)
        self._empty = Stems(STEM_BYTES)
        self._others, self._other = 0, ""
        self._doubles, self._double = 0, ""
        self.unreadable: list[tuple[str, str]] = []
        """Folders that cannot be read, such as damaged archives, and why."""

    def clips(self) -> Iterator[tuple[str, ObjectInfo]]:
        """Each clip's name and object. Raises the source's errors."""
        first = [folder for folder in self._replacements() if self._is_wanted(folder)]
        for folder in first:
            yield from self._below(folder, ())
        yield from self._below("", tuple(first))
        self._tell()

    def there(self) -> Array:
        """The names of the clips that were given, sorted."""
        return self._seen.array()

    def empty(self) -> Array:
        """The names of clips that the store has without bytes."""
        return self._empty.array()

    # -- folders

    def _replacements(self) -> Iterator[str]:
        """Folders of replacements, which are looked into before the folders that hold what they replace."""
        for above in ("", *filter(RELEASE_FOLDER.fullmatch, self._top)):
            for name in _REPLACEMENTS:
                if above or name in self._top:
                    yield f"{above}/{name}" if above else name

    def _below(self, folder: str, done: tuple[str, ...]) -> Iterator[tuple[str, ObjectInfo]]:
        """The clips of a folder, and then of those below it."""
        below: list[str] = []
        if self._is_on_the_way(folder):
            yield from self._in(folder, below)
        for name in sorted(below):
            path = f"{folder}/{name}" if folder else name
            if path not in done and path.count("/") < _MOST_DEPTH:
                yield from self._below(path, done)

    def _in(self, folder: str, below: list[str]) -> Iterator[tuple[str, ObjectInfo]]:
        """The clips of a folder alone; appends the names of the folders in it."""
        wanted = self._is_wanted(folder)
        try:
            listing = iter(self._source.list(folder))
            while batch := list(islice(listing, _BATCH_FILES)):
                below += [listed.name for listed in batch if listed.kind == "dir" and not listed.name.startswith(".")]
                if wanted:
                    yield from self._of(folder, batch)
                if len(below) > _MOST_FOLDERS:
                    raise CorruptData(f"more than {_MOST_FOLDERS} folders are in it")
        except NotFound:
            if folder == "":
                raise
        except CorruptData as failure:
            _log.warning("%s: its clips are not shown: %s", folder or "the root", failure)
            self.unreadable.append((folder, str(failure)))

    def _is_on_the_way(self, folder: str) -> bool:
        """Whether a folder that is wanted may be this one or stand below it."""
        parts = folder.split("/") if folder else []
        return not self._patterns or any(all(map(fnmatchcase, parts, pattern)) for pattern in self._patterns)

    def _is_wanted(self, folder: str) -> bool:
        parts = folder.split("/") if folder else []
        return not self._patterns or any(
            len(parts) >= len(pattern) and all(map(fnmatchcase, parts, pattern)) for pattern in self._patterns
        )

    # -- files

    def _of(self, folder: str, batch: list[Listed]) -> Iterator[tuple[str, ObjectInfo]]:
        """The clips among names of a folder that were not there before."""
        named: dict[str, list[Listed]] = {}
        for listed in sorted(batch, key=attrgetter("name")):
            if listed.kind == "dir" or listed.name.startswith("."):
                continue
            name, suffix = splitext(listed.name)
            if suffix.lower() != SUFFIX:
                continue
            if stem := self._shape(name):
                named.setdefault(stem, []).append(listed)
            else:
                self._others, self._other = self._others + 1, self._other or f"{folder}/{listed.name}".lstrip("/")
        clips = [(stem, obj) for stem, files in named.items() for obj in self._objects(folder, files)]
        self._empty.extend([stem.encode() for stem, obj in clips if not obj.size_bytes])
        clips = [(stem, obj) for stem, obj in clips if obj.size_bytes]
        if not clips:
            return
        stems = Stems(STEM_BYTES)
        stems.extend([stem.encode() for stem, _ in clips])
        wanted = self._wanted(stems.array()) if self._wanted else [True] * len(clips)
        clips = [clip for clip, is_wanted in zip(clips, wanted, strict=True) if is_wanted]
        new = self._seen.new_of(stems.array()[wanted] if self._wanted else stems.array())
        for (stem, obj), is_new in zip(clips, new, strict=True):
            if is_new:
                yield stem, obj
            else:
                self._doubles, self._double = self._doubles + 1, self._double or obj.key

    def _objects(self, folder: str, files: list[Listed]) -> Iterator[ObjectInfo]:
        """The objects of files, and of what links lead to."""
        for listed in files:
            if listed.object is not None:
                yield listed.object
                continue
            try:
                yield self._source.stat(f"{folder}/{listed.name}" if folder else listed.name)
            except NotFound:
                continue

    def _tell(self) -> None:
        if self._doubles:
            _log.warning(
                "%d clips stand in the store again, such as %s: a replacement, or else the first by path, is shown",
                *(self._doubles, self._double),
            )
        if self._others:
            _log.warning("%d videos are not shown, whose names are no clip's: %.200r", self._others, self._other)
        if len(empty := self.empty()):
            _log.warning("%d clips have no bytes in the store, such as %s", len(empty), empty[0].decode())
