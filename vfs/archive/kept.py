"""Indices of archives, made once for each version and kept in a folder.

Hides where they are and who makes them. A file's name is made from the archive's identity and from its own bytes, whose
checksum is compared when a process first uses it: one that is damaged is made anew. It takes its name when it is whole,
so several mounts may share the folder. An index is made by a thread of its own, which goes on when those who wait for
it have given up, so that who asks again finds it further on. Of an archive that cannot be read that is remembered.

Called by sources/archives.py and members.py. Any thread may enter; `_lock` is over what is known, and nothing is read
or made under it.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from vfs.archive import Archive, stem_of, tars, zips
from vfs.archive.index import FORM, TOP, Index, WriteError, Writer
from vfs.archive.inflate import Inflated, Stream, scan
from vfs.errors import CorruptData, EgofsError, SourceError, Timeout, Unavailable

log = logging.getLogger(__name__)

# Part of each identity: an index of another form is none.
_FORM = "1"
_SUFFIX = ".index"
# Below the deadline of a request to the mount, 70 s, so that whoever waits hears how far it is.
WAIT_S = 50.0
# An archive that could not be read is not read again for so long: each look at its folder would read all of it.
_REMEMBERED_S = 600.0
_MOST_REMEMBERED = 1000
# What all indices take on disk: a thousand of the largest are 64 GB, but most are of some MB.
_MOST_BYTES = 4 << 30
_ABANDONED_S = 86_400.0
_SWEEP_EVERY = 64
# Files stand in 256 folders, by the beginning of their names: each is looked for among its own.
_FANOUT = 2
_HEAD_BYTES = 512
_GZIP_MAGIC = b"\x1f\x8b"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}

_INFLATED = "inflated_bytes"


@dataclass
class _Making:
    """An index that is being made."""

    name: str
    size_bytes: int
    done_bytes: int = 0
    waiters: Future[Path] = field(default_factory=Future)


class Kept:
    """The indices of a source's archives."""

    def __init__(
        self,
        folder: Path | None,
        read_link: "Callable[[Archive, zips.Place, int, str], bytes] | None" = None,
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        """Without a folder, or where it cannot be written, indices last as long as this. `read_link` reads a small
        member of a zip."""
        self._given = folder
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self.read_link = read_link
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._known: dict[str, Path] = {}
        self._failed: dict[str, tuple[float, EgofsError]] = {}
        self._making: dict[str, _Making] = {}
        self._made_count = 0
        self._closed = False

    def index(self, archive: Archive) -> Index:
        """The folders and members of an archive, which is waited for.

        Raises CorruptData or SourceError for one that cannot be read, Timeout, which says how far it is, and what
        reading it raises.
        """
        return self._kept(archive, "", lambda writer, note: _walk(archive, writer, note, self._link_of(archive)))

    def points(self, archive: Archive, part: str, stream: Stream, size_bytes: int) -> Index:
        """The seek points of a member that is deflated. `part` names it within the archive. Raises as `index` does."""

        def make(writer: Writer, note: Callable[[int], None]) -> None:
            _, inflated_bytes = scan(stream, lambda file: writer.clear(), writer.add_point, note)
            if inflated_bytes != size_bytes:
                raise CorruptData(f"{stream.name}: inflates to another size than the archive says: it is damaged")
            writer.set_fact(_INFLATED, str(size_bytes))

        return self._kept(archive, part, make)

    def being_made(self) -> list[tuple[str, int, int]]:
        """What indices are being made of: the archive's name, how much of it was read and how large it is, in bytes."""
        with self._lock:
            return [(making.name, making.done_bytes, making.size_bytes) for making in self._making.values()]

    def close(self) -> None:
        """Gives up what is being made."""
        with self._lock:
            self._closed = True
            own, self._own = self._own, None
        if own is not None:
            own.cleanup()

    def _link_of(self, archive: Archive) -> "Callable[[zips.Place, int, str], bytes]":
        def read(place: zips.Place, size_bytes: int, name: str) -> bytes:
            if self.read_link is None:
                raise SourceError(f"{name}: nothing reads links here")
            return self.read_link(archive, place, size_bytes, name)

        return read

    # -- what is known

    def _kept(self, archive: Archive, part: str, make: Callable[[Writer, Callable[[int], None]], None]) -> Index:
        name = xxhash.xxh3_128_hexdigest(f"{_FORM}\0{archive.identity}\0{part}".encode(errors="surrogateescape"))
        with self._lock:
            known = self._known.get(name)
            failed_at, failure = self._failed.get(name, (0.0, None))
            making = self._making.get(name)
            if failure is not None and time.monotonic() - failed_at < _REMEMBERED_S:
                raise type(failure)(str(failure))
            if known is not None and known.exists():
                return Index(known)
            if making is None:
                if self._closed:
                    raise Unavailable(f"{archive.name}: this mount has ended")
                making = self._making[name] = _Making(archive.name, archive.size_bytes)
                threading.Thread(target=self._work, args=(name, making, make), name="indexing", daemon=True).start()
        return Index(self._await(making))

    def _await(self, making: _Making) -> Path:
        try:
            return making.waiters.result(self._wait_s)
        except FutureTimeout as failure:
            if making.waiters.done():
                raise
            done, whole = making.done_bytes >> 20, making.size_bytes >> 20
            raise Timeout(
                f"{making.name}: is being read for its index, {done} of {whole} MiB so far: try again later"
            ) from failure

    # -- making one, in a thread

    def _work(self, name: str, making: _Making, make: Callable[[Writer, Callable[[int], None]], None]) -> None:
        try:
            path = self._found(name) or self._made(name, making, make)
        except BaseException as failure:  # noqa: BLE001 - raised again where it is waited for
            failure = _explained(making.name, failure)
            with self._lock:
                del self._making[name]
                if isinstance(failure, CorruptData | SourceError):
                    log.warning("%s", failure)
                    while len(self._failed) >= _MOST_REMEMBERED:
                        del self._failed[next(iter(self._failed))]
                    self._failed[name] = (time.monotonic(), failure)
            making.waiters.set_exception(failure)
            return
        with self._lock:
            self._known[name] = path
            del self._making[name]
        making.waiters.set_result(path)

    def _found(self, name: str) -> Path | None:
        """The file of an index that was made before, if it is what it was then."""
        folder = self._folder() / name[:_FANOUT]
        for path in folder.glob(f"{name}-*{_SUFFIX}"):
            if path.name == f"{name}-{_digest(path)}{_SUFFIX}":
                with suppress(OSError):
                    os.utime(path)  # for `_sweep`
                return path
            log.warning("the index %s is damaged and made anew", path)
            path.unlink(missing_ok=True)
        return None

    def _made(self, name: str, making: _Making, make: Callable[[Writer, Callable[[int], None]], None]) -> Path:
        def note(done_bytes: int) -> None:
            making.done_bytes = max(making.done_bytes, done_bytes)
            if self._closed:
                raise Unavailable(f"{making.name}: this mount has ended")

        folder = self._folder() / name[:_FANOUT]
        folder.mkdir(exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(".making", f"{name}-", folder)
        os.close(descriptor)
        file = Path(temporary)
        try:
            writer = Writer(file)
            try:
                make(writer, note)
                writer.finish()
            finally:
                writer.close()
            for reason, count in writer.left_out.items():
                log.warning("%s: %d members are left out: %s", making.name, count, reason)
            path = folder / f"{name}-{_digest(file)}{_SUFFIX}"
            os.replace(file, path)
        finally:
            file.unlink(missing_ok=True)
        with self._lock:
            self._made_count += 1
            is_turn = self._made_count % _SWEEP_EVERY == 1
        if is_turn:
            _sweep(self._folder())
        return path

    def _folder(self) -> Path:
        """Where indices are, made if need be."""
        with self._lock:
            if self._own is not None:
                return Path(self._own.name)
        if self._given is not None:
            try:
                self._given.mkdir(parents=True, exist_ok=True, mode=0o700)
                if os.access(self._given, os.W_OK | os.X_OK):
                    return self._given
            except OSError as failure:
                log.warning("indices of archives are not kept: %s", failure)
        with self._lock:
            if self._own is None:
                self._own = tempfile.TemporaryDirectory(prefix="egofs-archives-")
            return Path(self._own.name)


def inflated_bytes(index: Index) -> int:
    """How long the stream is, inflated, whose points an index has."""
    return int(index.fact(_INFLATED) or 0)


def _walk(
    archive: Archive,
    writer: Writer,
    note: Callable[[int], None],
    read_link: "Callable[[zips.Place, int, str], bytes]",
) -> None:
    """Writes the index of an archive of whatever form; what it is called may not be what it is."""
    is_zip = archive.name.lower().endswith(".zip")
    head = bytes(archive.read(0, min(_HEAD_BYTES, archive.size_bytes))) if archive.size_bytes and not is_zip else b""
    if head.startswith(_GZIP_MAGIC):
        form = "gz"
        _walk_gzip(archive, writer, note)
    elif is_zip or head.startswith(b"PK\3\4"):
        form = "zip"
        zips.walk(archive, writer, read_link, note)
    else:
        form = "tar"
        for magic, how in _OTHERS.items():
            if head.startswith(magic):
                raise SourceError(f"is packed by {how}, which is not read in place: unpack it, or pack it by gzip")
        tars.walk(tars.Hopping(archive, note), archive.size_bytes, writer)
    writer.set_fact(FORM, form)
    writer.set_fact(TOP, writer.top(stem_of(archive.name.rpartition("/")[2])))


def _walk_gzip(archive: Archive, writer: Writer, note: Callable[[int], None]) -> None:
    def consume(file: Inflated) -> None:
        writer.clear()
        tars.walk(file, None, writer)

    stream = Stream(archive.name, archive.read, 0, archive.size_bytes)
    _, inflated_bytes = scan(stream, consume, writer.add_point, note)
    writer.set_fact(_INFLATED, str(inflated_bytes))


def _explained(name: str, failure: BaseException) -> BaseException:
    """The failure with the archive's name in it, and as one of ours where it is the disk's."""
    if isinstance(failure, CorruptData | SourceError) and name not in str(failure):
        return type(failure)(f"{name}: {failure}")
    if isinstance(failure, OSError | WriteError):
        return Unavailable(f"{name}: its index cannot be written ({failure}): is the disk of cache_dir full?")
    return failure


def _digest(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sweep(folder: Path) -> None:
    """Holds the folder to its size: what was used longest ago goes first, and what a crash left."""
    with suppress(OSError):  # of two mounts that sweep, one finds files gone
        used = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*/*"))
        total = sum(size for _, size, _ in used)
        for mtime, size, path in used:
            is_left = path.suffix != _SUFFIX and time.time() - mtime > _ABANDONED_S
            if is_left or (total > _MOST_BYTES and path.suffix == _SUFFIX):
                path.unlink(missing_ok=True)
                total -= size
