"""pyfuse3.Operations over the tree: translation only.

Hides the kernel's protocol from the rest. Event-loop side: everything here runs in trio's one thread, and whatever
may block (a lookup, a listing, opening, reading) makes one hop to a worker thread, under a deadline, because a
request that hangs makes its caller unkillable. `_answered` is the one place that turns failures into errnos: any
other exception that left a handler would end the mount.
"""

import errno
import functools
import logging
import os
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT, XAttrNameT

from vfs.errors import Changed, EgofsError, IsADirectory, NoSuchAttribute, NotADirectory, NotFound, Timeout, errno_of
from vfs.node import Child, Directory, File, Kind, Link, Node, NotAtHand, Reader
from vfs.tree import ROOT, Inode, Tree

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A source gives up after 60 s with all its retries; a handler gives it a little longer and then answers ETIMEDOUT.
DEADLINE_S = 70.0
# Threads for opening and reading, and others for names, so that slow bytes do not hold up `ls`.
_DATA_THREADS = 64
_NAME_THREADS = 32
# Telling the kernel something takes microseconds, unless it holds the directory for a request that hangs.
_INVALIDATION_S = 5.0
# A reply to readdir has room for about this many names (32 KiB, 152 bytes each and the name).
_NAMES_A_REPLY = 200
# Names of a directory that one hop to a thread brings (a hop costs about 65 µs, a name about 1).
_NAMES_A_HOP = 1000
_MOST_ABSENT = 1000
# A read that fails is asked again by the kernel at once, as one page of what it had wanted to read ahead: it gets the
# same answer, or whoever waits would wait twice. In a machine that is busy "at once" is this.
_ASKED_AGAIN_S = 0.5
_BLOCK_BYTES = 512  # what st_blocks counts in, on every Linux
# st_blksize: what tools read at a time. `cat` has a new buffer of this size for each file, and the kernel clears it
# first: with 1 MiB that was half of the time of copying frames of 1080p out of the cache.
_IO_BYTES, _SMALL_IO_BYTES = 1 << 20, 128 << 10
_SMALL_BYTES = 8 << 20
_TYPES = {Kind.DIRECTORY: stat.S_IFDIR | 0o555, Kind.FILE: stat.S_IFREG | 0o444, Kind.LINK: stat.S_IFLNK | 0o777}
_OUR_ATTRIBUTES = "user.egofs."
# Asked for often, and answered very often with these: not worth a line in the log.
_ROUTINE = (NotFound, NoSuchAttribute, NotADirectory, IsADirectory)


@dataclass
class OpsCounters:
    """What was asked of the mount since it began."""

    lookups: int = 0
    getattrs: int = 0
    readdirs: int = 0
    xattrs: int = 0
    reads: int = 0
    bytes_read: int = 0
    opens: int = 0
    failures: int = 0
    bugs: int = 0


@dataclass
class _OpenDirectory:
    """A directory handle. `ahead` was fetched and begins at `position`; `children` continues after it, unless all are
    fetched (`whole`). What is `at_hand` needs no thread."""

    inode: Inode
    node: Directory
    children: Iterator[Child] | None = None
    at_hand: bool = False
    whole: bool = False
    position: int = 0
    ahead: deque[Child] = field(default_factory=deque)
    believed_until: float = 0.0
    turn: trio.Lock = field(default_factory=trio.Lock)


def _answered(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The handler, with every failure made an errno, logged where somebody should hear of it, and counted."""

    @functools.wraps(handler)
    async def answered(*args: P.args, **kwargs: P.kwargs) -> T:
        counters = cast("Operations", args[0]).counters
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except EgofsError as failure:
            if not isinstance(failure, _ROUTINE):
                counters.failures += 1
                log.error("%s", failure)
            raise FUSEError(errno_of(failure)) from failure
        except Exception as failure:  # anything that left here would unmount
            counters.failures += 1
            counters.bugs += 1
            log.exception("a bug in %s; the caller gets EIO", handler.__name__)
            raise FUSEError(errno.EIO) from failure

    return answered


class Watcher(Protocol):
    """Who wants to hear what readers do. Never blocks."""

    wants_reads: bool
    """Whether reads are to be told, and not openings alone."""

    def opened(self, path: str) -> None:
        """A file was opened, of this path below the root."""
        ...

    def read(self, path: str, start: int, length: int) -> None:
        """A range of it is read."""
        ...


class Operations(pyfuse3.Operations):
    """Serves a tree, read-only."""

    enable_acl = False
    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, root: Directory, *, uid: int, gid: int, umask: int, total_bytes: Callable[[], int]) -> None:
        """`total_bytes` is what statfs shows as the size; it must not block for long."""
        super().__init__()
        self.tree = Tree(root)
        self.counters = OpsCounters()
        self._owner = (uid, gid)
        self._modes = [ModeT(_TYPES[kind] & ~umask) for kind in sorted(Kind)]
        self._total_bytes = total_bytes
        self._files: dict[FileHandleT, tuple[Inode, Reader]] = {}
        # Of reads that failed just now: until when that is so, the range, and the failure.
        self._failed: dict[FileHandleT, tuple[float, range, EgofsError]] = {}
        self._directories: dict[FileHandleT, _OpenDirectory] = {}
        self._next_handle = 0
        # What the kernel was told is not at the root: only by its name can it be told otherwise.
        self._absent_at_root: deque[bytes] = deque(maxlen=_MOST_ABSENT)
        self.watcher: Watcher | None = None
        self._data_threads = trio.CapacityLimiter(_DATA_THREADS)
        self._name_threads = trio.CapacityLimiter(_NAME_THREADS)

    @property
    def open_files(self) -> int:
        """How many files are open now. Any thread may ask."""
        return len(self._files)

    # -- names

    @_answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        self.counters.lookups += 1
        parent = await self._directory(Inode(parent_inode))
        try:
            node = await self._look(parent, os.fsdecode(name))
        except NotFound:
            here = parent.at_hand()
            valid_s = here.names_valid_s() if here else await self._in_thread(self._name_threads, parent.names_valid_s)
            if valid_s <= 0:
                raise
            if parent_inode == ROOT:
                self._absent_at_root.append(name)
            absent = EntryAttributes()
            absent.st_ino = InodeT(0)
            absent.entry_timeout = valid_s
            return absent
        inode = self.tree.enter(Inode(parent_inode), name, node.tag)
        self.tree.remember(inode, node)
        return self._attributes(inode, node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self.tree.forget(Inode(inode), lookups)

    @_answered
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        self.counters.getattrs += 1
        node = self.tree.kept(Inode(inode)) or await self._found_again(Inode(inode))
        return self._attributes(Inode(inode), node)

    @_answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        if mode & os.W_OK:
            raise FUSEError(errno.EROFS)
        return True

    @_answered
    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        node = await self._node(Inode(inode))
        if not isinstance(node, Link):
            raise FUSEError(errno.EINVAL)
        return FileNameT(os.fsencode(node.target()))

    async def _look(self, directory: Directory, name: str) -> Node:
        """`lookup`, with a hop to a thread only where the directory, or what stat needs of the name, is not known."""
        if here := directory.at_hand():
            with suppress(NotAtHand):
                return here.lookup(name)
        return await self._in_thread(self._name_threads, directory.lookup, name)

    async def _node(self, inode: Inode) -> Node:
        """The node behind an inode. Raises what `_found_again` raises."""
        return self.tree.kept(inode) or self.tree.recent(inode) or await self._found_again(inode)

    async def _directory(self, inode: Inode) -> Directory:
        """`_node`, where it has to be a directory. Raises NotADirectory too."""
        node = await self._node(inode)
        if not isinstance(node, Directory):
            raise NotADirectory("a file is no directory")
        return node

    async def _found_again(self, inode: Inode) -> Node:
        """The node that an inode's name leads to now: ESTALE where that is not the version that the inode stands for.

        The kernel then looks the path up once more by itself, and comes with the inode of what is there now.
        """
        parent, name = self.tree.place(inode)
        try:
            node = await self._look(await self._directory(parent), name)
        except NotFound as failure:
            raise FUSEError(errno.ESTALE) from failure
        if self.tree.number(parent, os.fsencode(name), node.tag) != inode:
            raise FUSEError(errno.ESTALE)
        self.tree.remember(inode, node)
        return node

    def forget_names(self, path: str) -> None:
        """Has the kernel look a path up anew, and all below it ("" is everything). Blocks until the kernel has heard:
        for any thread but the event loop's."""
        above, _, name = os.fsencode(path).rpartition(b"/")
        if path:
            names = [(parent, name) for parent in self.tree.inodes_at(os.fsdecode(above))]
        else:
            names = [(ROOT, each) for each in {*self.tree.names_in(ROOT), *self._absent_at_root.copy()}]
        for parent, each in names:
            with suppress(OSError):  # the kernel does not know it, which is as good
                pyfuse3.invalidate_entry(InodeT(parent), FileNameT(each))

    def forget_pages(self, path: str) -> None:
        """Has the kernel read a file anew whose bytes were not right. Blocks: for any thread but the event loop's."""
        for inode in self.tree.inodes_at(path):
            with suppress(OSError):
                pyfuse3.invalidate_inode(InodeT(inode))

    # -- directories

    @_answered
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        node = await self._directory(Inode(inode))
        handle = self._handle()
        self._directories[handle] = _OpenDirectory(Inode(inode), node)
        return handle

    @_answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        self.counters.readdirs += 1
        directory = self._directories[fh]
        try:
            directory.turn.acquire_nowait()  # acquire() would let the loop go round once, free or not
        except trio.WouldBlock:
            await directory.turn.acquire()
        try:
            if directory.children is None or start_id != directory.position:
                await self._rewind(directory, start_id)
            if len(directory.ahead) < _NAMES_A_REPLY and not directory.whole:
                await self._fetch_names(directory)
            self._reply_names(directory, token)
        finally:
            directory.turn.release()

    def _reply_names(self, directory: _OpenDirectory, token: pyfuse3.ReaddirToken) -> None:
        """Tells the kernel the names that are ahead, as many as it has room for; none tells it that this was all."""
        # One for all: pyfuse3 copies what is in it into the reply.
        valid_s = max(0.0, directory.believed_until - time.monotonic())
        answer = self._blank(valid_s)
        ahead, parent, enter = directory.ahead, directory.inode, self.tree.enter
        while ahead:
            name, kind, tag, size_bytes, mtime_ns = ahead[0]
            # What the kernel takes from readdirplus counts as a lookup.
            inode = enter(parent, name, tag)
            self._describe(answer, inode, kind, max(0, size_bytes), mtime_ns)
            # Without a size there is nothing to believe: the kernel looks the name up before it uses it.
            answer.entry_timeout = answer.attr_timeout = 0.0 if size_bytes < 0 else valid_s
            if not pyfuse3.readdir_reply(token, FileNameT(name), answer, directory.position + 1):
                self.tree.forget(inode, 1)
                return
            directory.position += 1
            ahead.popleft()

    async def _rewind(self, directory: _OpenDirectory, position: int) -> None:
        """Somebody went back (rewinddir, seekdir): listings are in a stable order, so count from the start."""
        directory.children = None
        directory.ahead.clear()
        here = directory.node.at_hand()
        children = (here or directory.node).children()
        if position:
            await self._in_thread(self._name_threads, lambda: next(islice(children, position, position), None))
        directory.children, directory.at_hand, directory.position = children, here is not None, position
        directory.whole = False

    async def _fetch_names(self, directory: _OpenDirectory) -> None:
        """Brings the next names. Nothing was replied yet: what it raises reaches the caller, and no name is lost."""
        # A thread that outlives its deadline still runs the iterator, which then may not be used again.
        children, directory.children = directory.children, None
        assert children is not None, "the directory was rewound before it was read"
        if directory.at_hand:
            here = directory.node.at_hand()  # no more, when the listing became too old meanwhile
            wanted, valid_s = _NAMES_A_REPLY, here.names_valid_s() if here else 0.0
            names = list(islice(children, wanted))
        else:
            wanted = _NAMES_A_HOP
            names, valid_s = await self._in_thread(
                self._name_threads, lambda: (list(islice(children, wanted)), directory.node.names_valid_s())
            )
        directory.ahead.extend(names)
        directory.believed_until = time.monotonic() + valid_s
        directory.children, directory.whole = children, len(names) < wanted

    async def releasedir(self, fh: FileHandleT) -> None:
        self._directories.pop(fh, None)

    # -- files

    @_answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        node = await self._node(Inode(inode))
        if not isinstance(node, File):
            raise IsADirectory("a directory was opened as a file")
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND):
            raise FUSEError(errno.EROFS)
        if node.opens_at_once:
            reader = node.open()
        else:
            async with self._fresh_after_change(Inode(inode)):
                reader = await self._in_thread(self._data_threads, node.open)
        handle = self._handle()
        self._files[handle] = (Inode(inode), reader)
        self.tree.pin(Inode(inode), node)
        self.counters.opens += 1
        if self.watcher is not None:
            self.watcher.opened(self._path(Inode(inode)))
        # An inode is one version, so its pages stay right. A file that is made anew at each opening has no version,
        # and neither pages worth keeping nor a size that they could follow.
        return FileInfo(fh=handle, keep_cache=bool(node.version), direct_io=not node.version)

    @_answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        inode, reader = self._files[fh]
        if self.watcher is not None and self.watcher.wants_reads:
            self.watcher.read(self._path(inode), off, size)
        # What is at hand costs no thread. The buffer may be used again at the next read: pyfuse3 has sent it by then,
        # because nothing is awaited from here to its reply.
        data = reader.ready(off, size)
        if data is None:
            self._raise_again(fh, off)
            try:
                async with self._fresh_after_change(inode):
                    data = await self._in_thread(self._data_threads, reader.read, off, size)
            except EgofsError as failure:
                self._failed[fh] = time.monotonic() + _ASKED_AGAIN_S, range(off, off + size), failure
                raise
        self.counters.reads += 1
        self.counters.bytes_read += len(data)
        return cast(bytes, data)  # any contiguous buffer will do

    def _raise_again(self, fh: FileHandleT, off: int) -> None:
        """Raises what a read of this place has just failed with, once."""
        until, asked, failure = self._failed.pop(fh, (0.0, range(0), None))
        if failure is not None and off in asked and time.monotonic() < until:
            raise failure

    @_answered
    async def release(self, fh: FileHandleT) -> None:
        inode, reader = self._files.pop(fh)
        self._failed.pop(fh, None)
        self.tree.unpin(inode)
        reader.close()

    async def flush(self, fh: FileHandleT) -> None:
        """Nothing was written. The kernel hears that once, and from then on closes files without asking."""
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing was written."""

    # -- the rest

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK_BYTES
        data.f_blocks = -(-self._total_bytes() // _BLOCK_BYTES)
        data.f_bfree = data.f_bavail = 0
        data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    @_answered
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[XAttrNameT]:
        self.counters.xattrs += 1
        node = await self._node(Inode(inode))
        return [XAttrNameT(name.encode()) for name in node.xattr_names()]

    @_answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        self.counters.xattrs += 1
        text = os.fsdecode(name)
        if not text.startswith("user."):
            # `ls -l` asks every file for access lists and security labels, unless the first says that there are none.
            raise FUSEError(errno.ENOTSUP)
        if not text.startswith(_OUR_ATTRIBUTES):
            raise NoSuchAttribute(text)
        node = await self._node(Inode(inode))
        return await self._in_thread(self._name_threads, node.xattr, text)

    def _attributes(self, inode: Inode, node: Node) -> EntryAttributes:
        known = node.attributes
        answer = self._blank(known.valid_s)
        self._describe(answer, inode, node.kind, known.size_bytes, known.mtime_ns)
        return answer

    def _blank(self, valid_s: float) -> EntryAttributes:
        """What all entries have in common."""
        answer = EntryAttributes()
        # 1 for directories too: it tells find that links do not count subdirectories.
        answer.st_nlink = 1
        answer.st_uid, answer.st_gid = self._owner
        answer.entry_timeout = answer.attr_timeout = valid_s
        return answer

    def _describe(self, answer: EntryAttributes, inode: Inode, kind: int, size_bytes: int, mtime_ns: int) -> None:
        answer.st_ino = InodeT(inode)
        answer.st_mode = self._modes[kind]
        answer.st_size = size_bytes
        answer.st_blksize = _IO_BYTES if size_bytes > _SMALL_BYTES else _SMALL_IO_BYTES
        answer.st_blocks = -(-size_bytes // _BLOCK_BYTES)
        answer.st_mtime_ns = answer.st_ctime_ns = answer.st_atime_ns = mtime_ns

    def _path(self, inode: Inode) -> str:
        """The path below the root that an inode stands for; "" for one that the kernel has given back."""
        names: list[str] = []
        with suppress(NotFound):
            while inode != ROOT:
                inode, name = self.tree.place(inode)
                names.append(name)
            return "/".join(reversed(names))
        return ""

    @asynccontextmanager
    async def _fresh_after_change(self, inode: Inode) -> AsyncIterator[None]:
        """Has the kernel forget a name whose object was replaced, so that the next open asks for what is there now."""
        try:
            yield
        except Changed:
            parent, name = self.tree.place(inode)
            # The kernel may be waiting for this loop with the parent locked: only a thread may wait for the kernel.
            with trio.move_on_after(_INVALIDATION_S), suppress(OSError):
                await trio.to_thread.run_sync(
                    pyfuse3.invalidate_entry, InodeT(parent), FileNameT(os.fsencode(name)), abandon_on_cancel=True
                )
            raise

    def _handle(self) -> FileHandleT:
        self._next_handle += 1
        return FileHandleT(self._next_handle)

    async def _in_thread(self, limiter: trio.CapacityLimiter, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)` in a worker thread. After the deadline the caller goes free; the thread ends when it ends."""
        with trio.move_on_after(DEADLINE_S):
            return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True, limiter=limiter)
        raise Timeout(f"no answer within {DEADLINE_S:.0f} s; try again, or see whether the store can be reached")


def _refuses(name: str) -> Callable[..., Coroutine[Any, Any, NoReturn]]:
    async def refuse(*args: object) -> NoReturn:
        raise FUSEError(errno.EROFS)

    refuse.__name__ = name
    return refuse


# Everything that would write. The mount is `ro`, so the kernel refuses these itself; this holds if it did not.
_WRITES = ("setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "write", "create")
for _name in (*_WRITES, "setxattr", "removexattr"):
    setattr(Operations, _name, staticmethod(_refuses(_name)))
