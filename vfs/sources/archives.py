"""A source whose archives are folders too: `X.zip`, `X.tar`, `X.tar.gz` or `X.tgz` has its members in `X`.

It hides that members are not objects of the store. The daemon wraps it around the source that datasets see; it knows no
store. Beside each archive in a folder's listing stands a directory under the archive's stem; where something else in
the folder has that name, or two archives would, under the archive's whole name and `.d`. Nothing is opened before
somebody lists that directory: then the archive's index is made, or found in `state` (vfs/archive/kept.py).

A member's key is its path in the tree. Its version tells the archive, the archive's version and where in it the member
stands, so that a range can be read by it without anything that is remembered, and of that version of the archive alone.
Whether a folder's path leads into an archive is remembered from listings; where it is not, as after a restart, the
nearest folder above it that the store has is listed when the folder is. A folder that the store has is asked for first,
so that a tree without archives costs what it did.

Any thread may enter. `_lock` is over what is remembered; nothing is asked under it.
"""

import logging
import os
import posixpath
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cachetools import LRUCache

from vfs.archive import Archive, Packed, stem_of
from vfs.digests import Checksum
from vfs.errors import AccessDenied, Changed, CorruptData, NotFound
from vfs.sources import Listed, ObjectInfo, Renewable, Source, checksum_of

if TYPE_CHECKING:
    from vfs.archive.index import Index, Row
    from vfs.archive.kept import Kept
    from vfs.archive.members import Members

log = logging.getLogger(__name__)

# In front of a member's version. No store's version looks so: ETags have no ";", revisions are letters and digits.
_MEMBER = "member;"
# Archives are looked at again, by one request, when a folder of theirs is listed so long after they were last seen.
_BELIEVED_S = 30.0
_BELIEVED_LOCAL_S = 1.0
_MOST_REMEMBERED = 50_000  # folders and archives in them: 20 MB at the most
_FOLDER_SUFFIX = ".d"
_GZIPPED = (".tar.gz", ".tgz")


@dataclass(slots=True)
class _Seen:
    """An archive, and when the store last said that it is this version."""

    obj: ObjectInfo
    seen_at: float


_NONE: Mapping[str, _Seen] = {}


class ArchiveSource:
    """Another source, `inner`, with its archives as folders; see the module's docstring."""

    def __init__(self, inner: Source, state: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`state` is a folder for indices, which need not be there; None keeps them for as long as this lives."""
        self.inner = inner
        self.url = inner.url
        self.remote = inner.remote
        self._clock = clock
        self._state = state
        self._lock = threading.Lock()
        self._made: tuple[Kept, Members] | None = None
        # Of each folder that was listed its archives, by the name of the directory that each is shown as.
        self._folders: LRUCache[str, Mapping[str, _Seen]] = LRUCache(
            _MOST_REMEMBERED, getsizeof=lambda found: 1 + len(found)
        )
        self._largest: Mapping[str, Mapping[str, _Seen]] = {}
        self._logged: set[str] = set()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder of the store, with its archives' directories last, or in an archive's."""
        known = self._known_place(folder)
        if known is not None:
            yield from self._members_of(folder, *known)
            return
        listed = self._with_archives(folder)
        try:
            first = next(listed, None)
        except NotFound:
            place = self._place(folder)
            if place is None:
                raise
            yield from self._members_of(folder, *place)
            return
        if first is not None:
            yield first
            yield from listed

    def renew(self) -> None:
        """As the source within does. Archives are known by their versions, which are listed anew."""
        if isinstance(self.inner, Renewable):
            self.inner.renew()

    def stat(self, key: str) -> ObjectInfo:
        """The object, or the member of an archive whose folder is remembered, as it is now.

        Where it is not, nothing is listed for it: who asks for objects that may not be there asks for many.
        """
        place = self._known_place(key)
        if place is None:
            return self.inner.stat(key)
        seen, root, inside = place
        archive, index = self._opened(seen, root)
        folder, _, name = index.below_top(inside).rpartition("/")
        row = index.entry(folder, name)
        if row is None or row.kind != "file":
            raise NotFound(f"stat {key}: {archive.key} has no such member")
        return _member(key, archive, index.form, row)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes; of a member, from the version of the archive that its own version names."""
        if not obj.version.startswith(_MEMBER):
            if obj.version or self._known_place(obj.key) is None:
                return self.inner.read(obj, start, length)
            now = self.stat(obj.key)
            if now.size_bytes != obj.size_bytes:
                raise Changed(f"{obj.key} has {now.size_bytes} bytes now and not {obj.size_bytes}: open it again")
            obj = now
        form, place, archive = _parsed(obj.version)
        member = Packed(self._archive(archive), form, place, obj.size_bytes, obj.key)
        try:
            return self._tools()[1].read(member, start, length)
        except (Changed, NotFound):
            self._forget(archive.key)
            raise

    def under_way(self) -> Collection[tuple[str, int, int]]:
        """Of each archive that is being read for its index its key, how many bytes were read, and how many it has."""
        with self._lock:
            opened = self._made
        return opened[0].under_way() if opened is not None else []

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the store knows, or else what the archive says of a zip's member, or a gzip file of itself."""
        if obj.version.startswith(_MEMBER):
            form, place, _ = _parsed(obj.version)
            if form != "zip":
                return None
            from vfs.archive.zips import Place

            return Checksum("crc32", Place.parse(place).crc.to_bytes(4, "big"))
        return checksum_of(self.inner, obj) or (Checksum("gzip", b"") if obj.key.lower().endswith(_GZIPPED) else None)

    def close(self) -> None:
        """Gives up the indices that are being made, and ends the inner source's connections."""
        with self._lock:
            opened = self._made
        if opened is not None:
            opened[0].close()
        self.inner.close()

    # -- folders of the store

    def _with_archives(self, folder: str) -> Iterator[Listed]:
        """A folder as the store lists it, then the directories of its archives."""
        archives: deque[ObjectInfo] = deque()
        names = array("q")  # of a million names 8 MB, as against 100
        for listed in self.inner.list(folder):
            names.append(hash(listed.name))
            if listed.object is not None and stem_of(listed.name):
                archives.append(listed.object)
            yield listed
        now = self._clock()
        # One whose size its listing does not tell has to be looked at first.
        shown = {
            name: _Seen(obj, now if obj.size_bytes >= 0 else float("-inf"))
            for name, obj in (_names(archives, names).items() if archives else ())
        } or _NONE
        given = {id(seen.obj) for seen in shown.values()}
        for obj in archives:
            if id(obj) not in given:
                self._say(f"{obj.key} is not shown as a folder: its folder has all names already that it could have")
        with self._lock:
            try:
                self._folders[folder] = shown
            except ValueError:  # more archives than are remembered of all folders
                self._largest = {folder: shown}
        for name in shown:
            yield Listed(name, "dir")

    def _say(self, message: str) -> None:
        if message not in self._logged and len(self._logged) < 1000:
            self._logged.add(message)
            log.warning("%s", message)

    # -- folders of archives

    def _known_place(self, path: str) -> tuple[_Seen, str, str] | None:
        """The archive that a path leads into as far as is remembered, the directory it is shown as, and the rest."""
        with self._lock:
            parts = path.split("/")
            for count in range(len(parts)):
                found = self._remembered("/".join(parts[:count]))
                if found is not None and parts[count] in found:
                    return found[parts[count]], "/".join(parts[: count + 1]), "/".join(parts[count + 1 :])
        return None

    def _place(self, path: str) -> tuple[_Seen, str, str] | None:
        """The same for a path that the store does not have, from the nearest folder above it that it has; None if that
        may not be listed either."""
        above = path
        while above:
            above = above.rpartition("/")[0]
            with self._lock:
                is_known = self._remembered(above) is not None
            if not is_known:
                try:
                    for _ in self._with_archives(above):
                        pass
                except NotFound:
                    continue
                except AccessDenied:
                    return None
            return self._known_place(path)
        return None

    def _members_of(self, folder: str, seen: _Seen, root: str, inside: str) -> Iterator[Listed]:
        archive, index = self._opened(seen, root)
        rows = index.entries(index.below_top(inside))
        if rows is None:
            raise NotFound(f"list {folder}: {archive.key} has no such folder")
        form = index.form
        for row in rows:
            if row.kind == "file":
                yield Listed(row.name, "file", _member(f"{folder}/{row.name}", archive, form, row))
            else:
                yield Listed(row.name, row.kind, target=row.target)

    def _opened(self, seen: _Seen, root: str) -> "tuple[ObjectInfo, Index]":
        """The archive as it is now, and its index. Raises NotFound where it is gone."""
        obj, again = seen.obj, False
        while True:
            believed_s = _BELIEVED_S if self.remote else _BELIEVED_LOCAL_S
            if again or self._clock() - seen.seen_at > believed_s:
                obj = self._looked_at(seen, root)
            try:
                return obj, self._tools()[0].index(self._archive(obj))
            except Changed:
                if again:
                    raise
                again = True

    def _looked_at(self, seen: _Seen, root: str) -> ObjectInfo:
        asked_at = self._clock()
        try:
            obj = self.inner.stat(seen.obj.key)
        except NotFound:
            self._forget(seen.obj.key)
            raise
        with self._lock:
            seen.obj, seen.seen_at = obj, asked_at
        return obj

    def _forget(self, key: str) -> None:
        """Has an archive looked at before it is used again, and its folder listed where it is not there any more."""
        with self._lock:
            for seen in (self._remembered(posixpath.dirname(key)) or _NONE).values():
                if seen.obj.key == key:
                    seen.seen_at = float("-inf")

    def _remembered(self, folder: str) -> Mapping[str, _Seen] | None:
        """What is remembered of a folder. Called with the lock."""
        return self._folders.get(folder, self._largest.get(folder))

    def _tools(self) -> "tuple[Kept, Members]":
        """The indices and the members, for who has an archive to look into: 30 ms that others do not take."""
        with self._lock:
            if self._made is None:
                from vfs.archive.kept import Kept
                from vfs.archive.members import Members

                kept = Kept(self._state, lambda *member: self._tools()[1].read_link(*member))
                self._made = kept, Members(kept)
            return self._made

    def _archive(self, obj: ObjectInfo) -> Archive:
        return Archive(f"{self.url}\0{obj.identity}", obj.key, obj.size_bytes, partial(self.inner.read, obj))


def _names(archives: Collection[ObjectInfo], names: "array[int]") -> Mapping[str, ObjectInfo]:
    """What the directory of each archive of a folder is called, given the hashes of all names there."""
    stems: dict[str, list[ObjectInfo]] = {}
    for obj in archives:
        stems.setdefault(stem_of(posixpath.basename(obj.key)), []).append(obj)
    wanted = {hash(name) for stem, group in stems.items() for name in (stem, *map(_long_name, group))}
    taken = wanted.intersection(names)
    shown: dict[str, ObjectInfo] = {}
    for stem, group in stems.items():
        is_free = len(group) == 1 and hash(stem) not in taken
        shown |= {stem: group[0]} if is_free else {_long_name(o): o for o in group if hash(_long_name(o)) not in taken}
    return shown


def _long_name(obj: ObjectInfo) -> str:
    return posixpath.basename(obj.key) + _FOLDER_SUFFIX


# -- versions of members


def _member(key: str, archive: ObjectInfo, form: str, row: "Row") -> ObjectInfo:
    quoted = quote_from_bytes(os.fsencode(archive.key))
    version = f"{_MEMBER}{form};{row.place};{archive.size_bytes:x};{archive.mtime_ns:x};{quoted};{archive.version}"
    return ObjectInfo(key, row.size_bytes, row.mtime_ns or archive.mtime_ns, version)


def _parsed(version: str) -> tuple[str, str, ObjectInfo]:
    """Of a member's version the archive's form, the member's place in it, and the archive. Raises CorruptData."""
    parts = version.removeprefix(_MEMBER).split(";", 5)
    try:
        form, place, size_bytes, mtime_ns, quoted, of_archive = parts
        key = os.fsdecode(unquote_to_bytes(quoted))
        return form, place, ObjectInfo(key, int(size_bytes, 16), int(mtime_ns, 16), of_archive)
    except ValueError as failure:
        raise CorruptData(f"{version!r:.200} is the version of no member: list its folder again") from failure
