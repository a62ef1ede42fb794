"""A folder on this machine as a source: a dataset that someone has downloaded, a disk, an NFS mount.

It hides that a folder holds more than files: a symbolic link may lead out of it, a device may stand in it, a name
need not be UTF-8. Everything is reached beneath the root. A link whose target stays beneath it is a link; one that
leads outside or nowhere, and devices, FIFOs and sockets, are not there. Found by its URL, a path or file://.

Any thread may enter. Nothing is kept between calls but what has been logged.

How a name is opened: first as a place (O_PATH), which follows links but opens nothing, so that no device notices;
then the kernel says which path that place has and what kind it is; then that very place is opened through
/proc/self/fd. No one can exchange a folder for a link in between, so a daemon that runs as root shows no file from
outside the root, whoever may write inside it.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Timeout,
    Unavailable,
)
from vfs.options import option_group
from vfs.sources import Listed, ObjectInfo

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Descriptors come back as other reads end, after milliseconds. Past a second the process is starved of them, and
# the caller's own retry is the better place to wait.
_DESCRIPTOR_WAIT_S = 1.0
_DESCRIPTOR_POLL_S = 0.01

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

_KIND_OF_ERRNO: dict[int | None, type[EgofsError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.ELOOP: NotFound,  # links that lead to each other lead nowhere
    errno.ENAMETOOLONG: NotFound,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EMFILE: Unavailable,
    errno.ENFILE: Unavailable,
    errno.ENOMEM: Unavailable,
    errno.ESTALE: Unavailable,  # an NFS server that lost the file's handle; the next open asks it anew
    errno.ETIMEDOUT: Timeout,
}

# What is left out is logged once each, up to so many: a folder of a million broken links is not a million lines.
_MOST_LOGGED = 1000


@option_group
class Options:
    """A local folder has no options."""


def open_source(url: str, options: Options) -> "LocalSource":
    """The folder as a source. Raises OptionError where there is no such folder."""
    path = _path_of(url)
    try:
        root = os.path.realpath(path, strict=True)
    except OSError as failure:
        reason = os.strerror(failure.errno or 0)
        raise OptionError(f"no folder at {path} ({reason}): check the path, or mount its disk first") from failure
    if not os.path.isdir(root):
        raise OptionError(f"{path} is not a folder: give the folder that holds the files")
    return LocalSource(root)


def _path_of(url: str) -> str:
    """The path that a URL or a path names."""
    if not url.lower().startswith("file://"):
        path = url
    else:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise OptionError(f"{url!r} names the machine {parts.netloc!r}: write file:///path, with three slashes")
        path = os.fsdecode(unquote_to_bytes(parts.path))
    if not path or "\0" in path:
        raise OptionError(f"{url!r} names no folder: give the path of one")
    return path


class LocalSource:
    """A folder, by the real path of its root; see the module's docstring."""

    remote = False

    def __init__(self, root: str) -> None:
        self.url = "file://" + quote_from_bytes(os.fsencode(root))
        self._root = root
        self._below = root if root.endswith("/") else f"{root}/"
        self._logged: set[str] = set()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder, in the file system's order; the names are as os.fsdecode makes them."""
        with (
            self._opened(folder, os.O_DIRECTORY) as (descriptor, where),
            _translated(f"list {where}"),
            os.scandir(descriptor) as entries,
        ):
            for entry in entries:
                listed = self._listed(folder, where, entry)
                if listed is not None:
                    yield listed

    def stat(self, key: str) -> ObjectInfo:
        """The file as it is now; a link's file under the link's own key."""
        with self._anchored(key) as (anchor, where):
            facts = os.fstat(anchor)
            if not stat.S_ISREG(facts.st_mode):
                raise NotFound(f"{where} is not a regular file")
            return _object(key, facts)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes, checked before and after for being of this version."""
        with self._opened(obj.key, 0) as (descriptor, where), _translated(f"read {where}"):
            _require(obj, os.fstat(descriptor), where)
            data = _pread_whole(descriptor, start, length)
            _require(obj, os.fstat(descriptor), where)
        if len(data) != length:
            raise CorruptData(f"{where} gave {len(data)} of {length} bytes at {start}: check its file system")
        return data

    def close(self) -> None:
        """Nothing is held open."""

    # -- names ------------------------------------------------------------------------------------------------

    def _listed(self, folder: str, where: str, entry: "os.DirEntry[str]") -> Listed | None:
        """A name of a folder, None where it is left out or has just gone."""
        key = f"{folder}/{entry.name}" if folder else entry.name
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISREG(facts.st_mode):
            return Listed(entry.name, "file", _object(key, facts))
        if stat.S_ISDIR(facts.st_mode):
            return Listed(entry.name, "dir")
        if stat.S_ISLNK(facts.st_mode):
            target = self._target(where, entry.name)
            return None if target is None else Listed(entry.name, "link", target=target)
        self._leave_out(logging.INFO, f"{where}/{entry.name} is left out: it is a device, a FIFO or a socket")
        return None

    def _target(self, where: str, name: str) -> str | None:
        """Where a link leads, relative to its folder and never above the root; None outside and for dangling ones."""
        path = f"{where}/{name}"
        try:
            written = os.readlink(path)
            destination = os.path.realpath(path, strict=True)
        except OSError as failure:
            if failure.errno in _NO_DESCRIPTORS:
                raise
            self._leave_out(logging.INFO, f"{path} is left out: the link leads nowhere ({failure.strerror})")
            return None
        if not self._is_beneath(destination):
            outside = f"{path} is left out: it leads outside the source, to {destination}"
            self._leave_out(logging.WARNING, f"{outside}; mount that place as a source of its own")
            return None
        # The tree is mounted elsewhere: only a relative target holds there, and only if it never climbs above the
        # root on its way. Such a one stays as it was written, so that a copy of the tree equals the source's.
        depth = os.path.relpath(where, self._root).count("/") + 1 if where != self._root else 0
        if not written.startswith("/") and not _climbs_above(written, depth):
            return written
        return os.path.relpath(destination, where)

    def _is_beneath(self, path: str) -> bool:
        return path == self._root or path.startswith(self._below)

    def _leave_out(self, level: int, message: str) -> None:
        if message not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(message)
            _log.log(level, "%s", message)

    # -- opening ----------------------------------------------------------------------------------------------

    @contextmanager
    def _anchored(self, key: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the place that a key names, not of its content, and its real path beneath the root."""
        if key and any(part in ("", ".", "..") for part in key.split("/")):
            raise NotFound(f"{key!r} is not a name beneath {self._root}")
        path = self._below + key
        with _translated(f"open {path}"):
            try:
                anchor = _patiently(lambda: os.open(path, os.O_PATH | os.O_CLOEXEC))
            except ValueError as failure:  # a NUL, or characters that no byte of a name decodes to
                raise NotFound(f"{path!r} cannot be a name") from failure
            try:
                where = os.readlink(f"/proc/self/fd/{anchor}")
                if not self._is_beneath(where):
                    raise NotFound(f"{path} leads outside the source, to {where}")
                yield anchor, where
            finally:
                os.close(anchor)

    @contextmanager
    def _opened(self, key: str, flags: int) -> Iterator[tuple[int, str]]:
        """A descriptor that reads a regular file, or a folder with O_DIRECTORY, and its real path."""
        with self._anchored(key) as (anchor, where):
            wanted = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
            if not wanted(os.fstat(anchor).st_mode):
                raise NotFound(f"{where} is not a {'folder' if flags & os.O_DIRECTORY else 'regular file'}")
            place = f"/proc/self/fd/{anchor}"
            descriptor = _patiently(lambda: os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags))
        try:
            yield descriptor, where
        finally:
            os.close(descriptor)


def _object(key: str, facts: os.stat_result) -> ObjectInfo:
    # The inode tells a file that was replaced by rename from the one before, even at equal size and times.
    version = f"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"
    return ObjectInfo(key, facts.st_size, facts.st_mtime_ns, version)


def _require(obj: ObjectInfo, facts: os.stat_result, where: str) -> None:
    now = _object(obj.key, facts)
    # An object that was named without a version is whatever has its size.
    if now.size_bytes != obj.size_bytes or (obj.version and now.version != obj.version):
        raise Changed(f"{where} is not the version that was opened: open it again")


def _pread_whole(descriptor: int, start: int, length: int) -> bytes:
    """The bytes of the range, fewer only at the end of the file."""
    data = os.pread(descriptor, length, start)
    if len(data) == length:
        return data
    parts = [data]
    while parts[-1] and (missing := length - sum(map(len, parts))):
        parts.append(os.pread(descriptor, missing, start + length - missing))
    return b"".join(parts)


def _climbs_above(target: str, depth: int) -> bool:
    """Whether a relative target, followed from `depth` folders beneath the root, ever stands above the root."""
    for part in Path(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _patiently(open_it: Callable[[], _T]) -> _T:
    """Opens, waiting a little while the process has no descriptor left."""
    give_up = time.monotonic() + _DESCRIPTOR_WAIT_S
    while True:
        try:
            return open_it()
        except OSError as failure:
            if failure.errno not in _NO_DESCRIPTORS or time.monotonic() > give_up:
                raise
        time.sleep(_DESCRIPTOR_POLL_S)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turns the system's errors into ours."""
    try:
        yield
    except OSError as failure:
        kind = _KIND_OF_ERRNO.get(failure.errno, SourceError)
        raise kind(f"cannot {what}: {failure.strerror}") from failure
