"""Operations without a kernel: what a handler makes of failures, deadlines and bugs."""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyfuse3
import pytest
import trio

from vfs import ops
from vfs.errors import EgofsError, NotFound, Unavailable
from vfs.node import Attributes, Child, Directory, File, Kind, Node


class Reader:
    def __init__(self, data: bytes, failure: Exception | None) -> None:
        self.data, self.failure, self.closed = data, failure, False

    def ready(self, start: int, length: int) -> bytes | None:
        return None

    def read(self, start: int, length: int) -> bytes:
        if self.failure:
            raise self.failure
        return self.data[start : start + length]

    def close(self) -> None:
        self.closed = True


class Text(File):
    version = "v"

    def __init__(self, data: bytes = b"text", failure: Exception | None = None) -> None:
        self.attributes = Attributes(len(data), 5_000_000_001, 3.0)
        self.reader = Reader(data, failure)

    def open(self) -> Reader:
        return self.reader


class Folder(Directory):
    attributes = Attributes(0, 0, 2.0)

    def __init__(self, look: Callable[[str], Node]) -> None:
        self.lookup = look  # type: ignore[method-assign]

    def children(self) -> Iterator[Child]:
        return iter([(name, Kind.FILE, Text().tag, 4, 5_000_000_001) for name in (b"a", b"b")])

    def names_valid_s(self) -> float:
        return 7.0


def operations(look: Callable[[str], Node]) -> ops.Operations:
    return ops.Operations(Folder(look), uid=1, gid=2, umask=0o077, total_bytes=lambda: 5000)


def failing(failure: Exception) -> Callable[[str], Node]:
    def look(name: str) -> Node:
        raise failure

    return look


def run(work: Callable[[], Any]) -> Any:
    return trio.run(work)


CTX: Any = None


def test_a_bug_in_a_handler_is_eio_and_a_traceback_in_the_log_and_nothing_more(caplog) -> None:
    mount = operations(failing(ZeroDivisionError("oops")))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX))
    assert caught.value.errno == errno.EIO
    assert "Traceback" in caplog.text
    assert "oops" in caplog.text
    assert mount.counters.bugs == 1


def test_every_handler_of_the_kernels_requests_lets_only_fuse_errors_out() -> None:
    quiet = {"forget", "releasedir", "flush", "fsync", "init", "stacktrace", "enable_acl"}
    base = {n for n in dir(pyfuse3.Operations) if not n.startswith("_")} - quiet
    ours = {name for name in vars(ops.Operations) if not name.startswith("_")}
    handlers = {n for n in base if callable(getattr(pyfuse3.Operations, n))} - {"fsyncdir", "poll", "ioctl"}
    assert handlers <= ours, handlers - ours
    for name in handlers:
        handler = getattr(ops.Operations, name)
        assert hasattr(handler, "__wrapped__") or handler.__qualname__.startswith("_refuses"), name


@pytest.mark.parametrize("name", ["write", "create", "unlink", "setattr", "rename", "setxattr", "mkdir", "link"])
def test_everything_that_writes_is_erofs(name: str) -> None:
    mount = operations(lambda name: Text())
    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(lambda: getattr(mount, name)(1, 2, 3, 4, 5))
    assert caught.value.errno == errno.EROFS


def test_a_known_failure_is_its_errno_and_one_line_in_the_log(caplog) -> None:
    mount = operations(failing(Unavailable("the store is down")))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX))
    assert caught.value.errno == errno.EIO
    assert [record.message for record in caplog.records] == ["the store is down"]
    assert mount.counters.failures == 1


def test_an_absent_name_is_remembered_by_the_kernel_and_is_no_failure(caplog) -> None:
    mount = operations(failing(NotFound("x")))
    with caplog.at_level(logging.DEBUG):
        answer = run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX))
    assert (answer.st_ino, answer.entry_timeout) == (0, 7.0)
    assert mount.counters.failures == 0
    assert not caplog.records
    assert len(mount.tree) == 1


def test_what_stat_shows() -> None:
    mount = operations(lambda name: Text(b"x" * 600))
    answer = run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX))
    assert (answer.st_size, answer.st_blocks, answer.st_nlink) == (600, 2, 1)
    assert (answer.st_uid, answer.st_gid, answer.st_mode) == (1, 2, 0o100400)
    assert (answer.st_mtime_ns, answer.attr_timeout, answer.entry_timeout) == (5_000_000_001, 3.0, 3.0)


def test_names_that_are_no_utf_8_reach_the_tree_and_come_back(monkeypatch) -> None:
    seen: list[str] = []

    def look(name: str) -> Node:
        seen.append(name)
        return Text()

    mount = operations(look)
    run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"caf\xe9", CTX))
    assert os.fsencode(seen[0]) == b"caf\xe9"


def test_a_lookup_that_hangs_is_released_at_its_deadline(monkeypatch) -> None:
    monkeypatch.setattr(ops, "DEADLINE_S", 0.2)
    release = threading.Event()

    def hang(name: str) -> Node:
        release.wait(30)
        return Text()

    mount = operations(hang)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(lambda: mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX))
    release.set()
    assert caught.value.errno == errno.ETIMEDOUT
    assert len(mount.tree) == 1


def test_open_read_release() -> None:
    text = Text(b"0123456789")
    mount = operations(lambda name: text)

    async def use() -> tuple[bytes, bool]:
        inode = (await mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX)).st_ino
        info = await mount.open(inode, os.O_RDONLY, CTX)
        data = bytes(await mount.read(info.fh, 3, 4))
        await mount.release(info.fh)
        return data, info.keep_cache

    assert run(use) == (b"3456", True)
    assert text.reader.closed
    assert mount.counters.bytes_read == 4


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
def test_opening_for_writing_is_erofs(flags: int) -> None:
    mount = operations(lambda name: Text())

    async def use() -> None:
        inode = (await mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX)).st_ino
        await mount.open(inode, flags, CTX)

    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(use)
    assert caught.value.errno == errno.EROFS


def test_a_failing_read_is_an_error_and_never_short() -> None:
    mount = operations(lambda name: Text(b"0123", EgofsError("no")))

    async def use() -> bytes:
        inode = (await mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX)).st_ino
        info = await mount.open(inode, os.O_RDONLY, CTX)
        return await mount.read(info.fh, 0, 4)

    with pytest.raises(pyfuse3.FUSEError) as caught:
        run(use)
    assert caught.value.errno == errno.EIO


def test_forget_releases_inodes() -> None:
    mount = operations(lambda name: Text())

    async def use() -> None:
        for _ in range(3):
            inode = (await mount.lookup(pyfuse3.ROOT_INODE, b"x", CTX)).st_ino
        assert len(mount.tree) == 2
        await mount.forget([(inode, 3)])

    run(use)
    assert len(mount.tree) == 1
