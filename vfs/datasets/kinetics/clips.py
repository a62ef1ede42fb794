"""Clips as files, of a source that has whole videos: each is cut when it is first asked for, and kept.

    clips/<id>_%06d_%06d.mp4    from one second to another
    clips/<id>_%06d.mp4         six seconds around one: from three before it, or from the beginning (AVA-Kinetics)
    anything else               as the source has it, above all <id>.mp4, the whole video

It hides cutting, and what is not there: videos that are gone are asked for once a week, whoever wants a clip of them.
The dataset wraps its source in this; it knows datasets' keys, and no store.

A clip's size is known when it has been cut, so that `stat` of one takes seconds. Its version is a checksum of its
bytes: one that is cut anew, after it was evicted, is the same or has changed. A clip that is kept is given without
asking the source. A kept file ends with a box `free` that holds the checksum of all before it, and is not believed
without.

Any thread may call. No lock is held while anything is read or cut; of those who want the same clip one cuts it.
"""

import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from xxhash import xxh3_64_hexdigest, xxh3_128_digest

from vfs.datasets.kinetics.missing import Missing
from vfs.digests import Checksum
from vfs.errors import Changed, NotFound
from vfs.extent import clip
from vfs.flight import Flights
from vfs.sources import Deep, Listed, ObjectInfo, Paged, Source, checksum_of
from vfs.video.cutter import Cutter

_log = logging.getLogger(__name__)

FOLDER = "clips"

# What is read of a clip is in the mount's cache as well: this is for those of which little was read yet. Ten seconds
# of 360p take 0.5 to 1.5 MB, so that it is some thousand.
KEPT_BYTES = 4 << 30
_KEPT_AFTERWARDS = 0.9  # of that, so that not every clip makes room for itself alone
_ABANDONED_S = 3600.0  # an unfinished file of a process that has ended
_IN_MEMORY = 8  # clips that no disk would take

_ID = r"([A-Za-z0-9_-]{11})"
_SPAN = re.compile(rf"{FOLDER}/{_ID}_(\d{{6}})_(\d{{6}})\.mp4")
_AROUND = re.compile(rf"{FOLDER}/{_ID}_(\d{{6}})\.mp4")
_AROUND_S, _BEFORE_S = 6, 3
_LONGEST_S = 120  # the longest of any release has ten

_SEAL = b"\0\0\0\x18free"
_SEAL_BYTES = len(_SEAL) + 16


@dataclass(frozen=True, slots=True)
class _Span:
    """What a key asks for: seconds [start, stop) of a video."""

    video: str
    """The source's key of it."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip that is there."""

    object: ObjectInfo
    data: memoryview


class CutSource:
    """See the module's docstring."""

    def __init__(
        self,
        source: Source,
        state: Path,
        *,
        limit_bytes: int = KEPT_BYTES,
        cutter: Cutter | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`state`: a folder that need not be there; what is kept in it is this source's, by its URL."""
        self.url = source.url
        self.remote = True
        self._source = source
        self._folder = state / FOLDER / xxh3_64_hexdigest(source.url.encode())
        self._limit_bytes = limit_bytes
        self._cutter = cutter or Cutter()
        self._missing = Missing(self._folder / "missing.csv", clock)
        self._flights: Flights[str, _Clip] = Flights()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._in_memory: OrderedDict[str, _Clip] = OrderedDict()
        # Keys of clips are in no listing, so that all that is listed is the source's.
        if isinstance(source, Paged):
            self.page = source.page
        if isinstance(source, Deep):
            self.deep_page = source.deep_page

    def list(self, folder: str) -> Iterator[Listed]:
        """As the source has it. What clips there could be is not listed."""
        return iter(()) if folder == FOLDER else self._source.list(folder)

    def stat(self, key: str) -> ObjectInfo:
        """The clip, which is cut where it is not kept, or what the source has.

        Raises NotFound with the reason where the video is gone, or ends before the clip begins; what cutting raises.
        """
        span = _span(key)
        return self._whole(key) if span is None else self._clip(key, span).object

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes. A clip that is not kept any more is cut again."""
        span = _span(obj.key)
        if span is None:
            return self._source.read(obj, start, length)
        found = self._clip(obj.key, span)
        if found.object.size_bytes != obj.size_bytes or (obj.version and found.object.version != obj.version):
            raise Changed(f"{obj.key}: it was cut again, and is another: open it again")
        return bytes(found.data[start : start + length])

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the source knows of whole videos."""
        return checksum_of(self._source, obj) if _span(obj.key) is None else None

    def close(self) -> None:
        """Ends what is being cut, and the source."""
        self._cutter.close()
        self._source.close()

    def missing(self) -> Iterator[tuple[str, str, str]]:
        """(name, reason, since when) of what was asked for and is not there: <id>.mp4 for a whole video, with all its
        clips, and a clip's name for that clip alone."""
        return self._missing.rows()

    # -- whole videos

    def _whole(self, key: str) -> ObjectInfo:
        """What the source has, and what is missing there remembered."""
        if reason := self._missing.reason(key):
            raise NotFound(f"{key}: {reason}")
        try:
            found = self._source.stat(key)
        except NotFound as failure:
            self._missing.add(key, _reason(failure))
            raise
        self._missing.remove(key)
        return found

    # -- clips

    def _clip(self, key: str, span: _Span) -> _Clip:
        """The clip, kept or cut now, by this caller or another."""
        kept = self._kept(key)
        if kept is not None:
            return kept
        flight, mine = self._flights.join(key)
        if not mine:
            return Flights.wait(flight, f"cut {key}")
        try:
            made = self._kept(key) or self._made(key, span)
        except BaseException as failure:
            self._flights.crash(key, failure)
            raise
        self._flights.land(key, made)
        return made

    def _made(self, key: str, span: _Span) -> _Clip:
        """Cuts the clip and keeps it."""
        name = key.rpartition("/")[2]
        if reason := self._missing.reason(name):
            raise NotFound(f"{key}: {reason}")
        whole = self._whole(span.video)
        begin, end = Fraction(span.start), Fraction(span.stop)
        try:
            data = self._cutter.cut(_Bytes(self._source, whole), key, begin, end)
        except Changed:
            whole = self._whole(span.video)  # once: it was replaced since its address was found
            data = self._cutter.cut(_Bytes(self._source, whole), key, begin, end)
        except NotFound as failure:
            self._missing.add(name, _reason(failure))
            raise
        self._missing.remove(name)
        sealed = memoryview(b"".join((data, _SEAL, xxh3_128_digest(data))))
        made = _Clip(_object(key, sealed, whole.mtime_ns), sealed)
        self._keep(name, made)
        return made

    def _kept(self, key: str) -> _Clip | None:
        """The clip, where it is kept whole."""
        name = key.rpartition("/")[2]
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            with self._lock:
                return self._in_memory.get(name)
        try:
            facts = os.fstat(descriptor)
            data = memoryview(os.pread(descriptor, facts.st_size, 0))
            if not _is_whole(data):
                _log.warning("%s is damaged, and cut again", path)
                path.unlink(missing_ok=True)
                return None
            # When it was used last, on file systems that do not note it too; what stat shows is the video's own time.
            os.utime(descriptor, ns=(time.time_ns(), facts.st_mtime_ns))
        except OSError as failure:
            _log.debug("%s cannot be read, and is cut again: %s", path, failure)
            return None
        finally:
            os.close(descriptor)
        return _Clip(_object(key, data, facts.st_mtime_ns), data)

    def _keep(self, name: str, made: _Clip) -> None:
        """Keeps the clip, on disk if that is possible; others may go for it."""
        new = self._folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as out:
                out.write(made.data)
            os.utime(new, ns=(time.time_ns(), made.object.mtime_ns))
            os.replace(new, self._folder / name)
            self._make_room(name)
        except OSError as failure:
            _log.warning("%s is not kept: %s: %s", name, self._folder, failure.strerror)
            with self._lock:
                self._in_memory[name] = made
                if len(self._in_memory) > _IN_MEMORY:
                    self._in_memory.popitem(last=False)

    def _make_room(self, newest: str) -> None:
        """Deletes the clips that were used least recently, where they take more than they may. Raises OSError."""
        used, files = 0, []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if entry.name.startswith(".") and time.time() - facts.st_ctime > _ABANDONED_S:
                    os.unlink(entry.path)
                elif entry.name.endswith(".mp4"):
                    used += facts.st_size
                    files.append((facts.st_atime_ns, facts.st_size, entry.name))
        if used <= self._limit_bytes:
            return
        for _, size, name in sorted(files):
            if used <= self._limit_bytes * _KEPT_AFTERWARDS:
                return
            if name != newest:
                (self._folder / name).unlink(missing_ok=True)
                used -= size


class _Bytes:
    """A video of the source, for the cutter."""

    def __init__(self, source: Source, obj: ObjectInfo) -> None:
        self.size_bytes = obj.size_bytes
        self._source = source
        self._object = obj

    def read(self, start: int, length: int) -> bytes:
        length = clip(start, length, self.size_bytes)
        return self._source.read(self._object, start, length) if length else b""


def _span(key: str) -> _Span | None:
    """What the key of a clip asks for; None for other keys. Raises NotFound for seconds that are no clip's."""
    if named := _SPAN.fullmatch(key):
        start, stop = int(named[2]), int(named[3])
    elif named := _AROUND.fullmatch(key):
        start = max(0, int(named[2]) - _BEFORE_S)
        stop = start + _AROUND_S
    else:
        return None
    if not start < stop <= start + _LONGEST_S:
        raise NotFound(f"{key}: a clip is of 1 to {_LONGEST_S} seconds")
    return _Span(f"{named[1]}.mp4", start, stop)


def _object(key: str, data: memoryview, mtime_ns: int) -> ObjectInfo:
    return ObjectInfo(key, len(data), mtime_ns, data[-_SEAL_BYTES + len(_SEAL) :].hex())


def _is_whole(data: memoryview) -> bool:
    body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    return bytes(seal) == _SEAL + xxh3_128_digest(body)


def _reason(failure: NotFound) -> str:
    """What was said of it, without what was asked."""
    return str(failure).partition(": ")[2] or str(failure)
