"""Walking the tree through the handlers as the kernel does: what a name costs, what stays right when it changes."""

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyfuse3
import pytest
import trio

from tests.memorysource import MemorySource
from vfs import ops
from vfs import tree as tree_module
from vfs.catalog import Entry
from vfs.datasets.plain import PlainTree
from vfs.errors import NotFound, Unavailable
from vfs.mounted import MountedDataset
from vfs.node import Attributes, Child, Directory, File, Kind, Node
from vfs.sources import UNKNOWN_SIZE, ObjectInfo
from vfs.tree import ROOT

CTX: Any = None


class Told(NamedTuple):
    """A name as readdir told it."""

    name: bytes
    inode: int
    mode: int
    size: int
    mtime_ns: int
    valid_s: float
    position: int


class Room(list[Told]):
    """Stands for pyfuse3's token: has room for so many names."""

    def __init__(self, names: int) -> None:
        super().__init__()
        self.names = names


@pytest.fixture(autouse=True)
def _reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(room: Room, name: bytes, entry: pyfuse3.EntryAttributes, position: int) -> bool:
        if len(room) == room.names:
            return False
        valid_s = min(entry.entry_timeout, entry.attr_timeout)
        room.append(Told(name, entry.st_ino, entry.st_mode, entry.st_size, entry.st_mtime_ns, valid_s, position))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done in other threads."""
    seen: list[str] = []
    real = trio.to_thread.run_sync

    def run_sync(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(work.__qualname__)
        return real(work, *args, **kwargs)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return seen


def operations(root: Directory) -> ops.Operations:
    return ops.Operations(root, uid=1, gid=2, umask=0o022, total_bytes=lambda: 0)


class Mount:
    """A dataset over a source in memory, with its catalog in a file."""

    def __init__(self, source: MemorySource, file: Path | None = None, age_s: float = 1000.0) -> None:
        self.source = source
        self.dataset = MountedDataset(
            PlainTree(source), source, None, file, space="s", listing_age_s=age_s, show_frames=True
        )
        self.handlers = operations(self.dataset.root)

    async def names(self, inode: int = ROOT, room: int = 7) -> list[Told]:
        """All of a directory, a few names a request."""
        return await read_whole(self.handlers, inode, room)

    async def walk(self, inode: int = ROOT) -> dict[str, Told]:
        """`ls -lR`."""
        found = {}
        for told in await self.names(inode):
            name = os.fsdecode(told.name)
            found[name] = told
            if stat.S_ISDIR(told.mode):
                found |= {f"{name}/{below}": of for below, of in (await self.walk(told.inode)).items()}
        return found


async def read_whole(handlers: ops.Operations, inode: int, room: int) -> list[Told]:
    handle = await handlers.opendir(pyfuse3.InodeT(inode), CTX)
    told: list[Told] = []
    while names := await read_some(handlers, handle, len(told), room):
        told += names
    await handlers.releasedir(handle)
    return told


async def read_some(handlers: ops.Operations, handle: Any, position: int, room: int) -> list[Told]:
    token: Any = Room(room)
    await handlers.readdir(handle, position, token)
    return list(token)


def tree_of_files() -> dict[str, bytes]:
    return {f"d{folder}/e/{name:02d}": bytes(name) for folder in range(3) for name in range(20)} | {"top": b"x"}


def test_a_second_mount_walks_everything_without_a_request_a_lookup_or_a_thread(tmp_path, hops) -> None:
    source = MemorySource(tree_of_files())
    first = Mount(source, tmp_path / "c.sqlite")
    found = trio.run(first.walk)
    first.dataset.close()
    assert sorted(source.lists) == ["", "d0", "d0/e", "d1", "d1/e", "d2", "d2/e"]
    assert len(found) == 3 * 22 + 1

    source.lists.clear()
    hops.clear()
    second = Mount(source, tmp_path / "c.sqlite")
    again = trio.run(second.walk)
    second.dataset.close()
    assert {name: told._replace(valid_s=0) for name, told in again.items()} == {
        name: told._replace(valid_s=0) for name, told in found.items()
    }
    assert (source.lists, hops) == ([], [])
    assert second.handlers.counters.lookups == 0


def test_readdir_tells_of_each_name_what_lookup_and_stat_tell(tmp_path) -> None:
    mount = Mount(MemorySource({"a.mp4": b"12345", "d/x": b"1"}))

    async def compare() -> list[str]:
        names = await mount.names()
        for told in names:
            looked_up = await mount.handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(told.name), CTX)
            for answer in (looked_up, await mount.handlers.getattr(pyfuse3.InodeT(told.inode), CTX)):
                assert (answer.st_ino, answer.st_mode) == (told.inode, told.mode)
                assert (answer.st_size, answer.st_mtime_ns) == (told.size, told.mtime_ns)
                assert answer.attr_timeout == pytest.approx(told.valid_s, abs=1)
        return [os.fsdecode(told.name) for told in names]

    assert trio.run(compare) == ["a.mp4", "d", "frames"]
    mount.dataset.close()


def test_a_lookup_in_a_known_folder_needs_no_thread_whether_the_name_is_there_or_not(hops) -> None:
    mount = Mount(MemorySource(tree_of_files()))

    async def look() -> tuple[int, int]:
        there = await mount.handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"top"), CTX)
        absent = await mount.handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"no"), CTX)
        assert absent.entry_timeout == pytest.approx(1000, abs=1)
        return there.st_size, absent.st_ino

    assert trio.run(look) == (1, 0)
    assert hops == []
    mount.dataset.close()


def test_a_lookup_in_an_unknown_folder_makes_one_hop_and_later_ones_none(hops) -> None:
    mount = Mount(MemorySource(tree_of_files()))

    async def look() -> None:
        folder = await mount.handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"d0"), CTX)
        for name in (b"e", b"no", b"e"):
            await mount.handlers.lookup(folder.st_ino, pyfuse3.FileNameT(name), CTX)

    trio.run(look)
    assert len(hops) == 1
    assert mount.source.lists == ["", "d0"]
    mount.dataset.close()


class Numbers(Directory):
    """Computed names, which are never at hand."""

    attributes = Attributes(0, 0, 5.0)

    def __init__(self, count: int) -> None:
        self.count = count
        self.fail_at = -1

    def lookup(self, name: str) -> Node:
        raise NotFound(name)

    def children(self) -> Iterator[Child]:
        for number in range(self.count):
            if number == self.fail_at:
                self.fail_at = -1
                raise Unavailable("down")
            yield b"%05d" % number, Kind.FILE, 7, number, 0

    def names_valid_s(self) -> float:
        return 5.0


def test_the_names_of_a_directory_that_is_not_at_hand_come_a_thousand_a_hop(hops) -> None:
    handlers = operations(Numbers(3500))
    told = trio.run(read_whole, handlers, ROOT, 190)
    assert [of.size for of in told] == list(range(3500))
    assert len(hops) == 4
    assert all(4.0 < of.valid_s <= 5.0 for of in told)


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 1000, 2000])
def test_every_name_is_told_once_whatever_the_number(count: int) -> None:
    handlers = operations(Numbers(count))
    told = trio.run(read_whole, handlers, ROOT, 150)
    assert [of.size for of in told] == list(range(count))
    assert len(handlers.tree) == count + 1


def known_folder() -> ops.Operations:
    return Mount(MemorySource({f"{number:05d}": bytes(number) for number in range(30)})).handlers


@pytest.mark.parametrize("make", [known_folder, lambda: operations(Numbers(30))], ids=["known", "computed"])
def test_going_back_and_forth_in_a_directory_finds_the_same_names_at_the_same_positions(
    make: Callable[[], ops.Operations],
) -> None:
    handlers = make()

    async def seek() -> None:
        handle = await handlers.opendir(pyfuse3.ROOT_INODE, CTX)
        for position in [0, 7, 3, 29, 0, 30, 12, 13, 0, 99]:
            told = await read_some(handlers, handle, position, 7)
            assert [of.size for of in told] == list(range(30))[position : position + 7]
            assert [of.position for of in told] == list(range(1, 31))[position : position + 7]

    trio.run(seek)


def test_a_directory_that_fails_half_way_loses_no_name_and_no_reference() -> None:
    numbers = Numbers(2500)
    numbers.fail_at = 1500
    handlers = operations(numbers)

    async def read() -> list[int]:
        handle = await handlers.opendir(pyfuse3.ROOT_INODE, CTX)
        sizes: list[int] = []
        failures: list[int] = []
        while True:
            try:
                told = await read_some(handlers, handle, len(sizes), 150)
            except pyfuse3.FUSEError as failure:
                failures.append(failure.errno)
                continue
            if not told:
                break
            sizes += [of.size for of in told]
        assert failures == [errno.EIO]
        return sizes

    assert trio.run(read) == list(range(2500))
    assert len(handlers.tree) == 2501
    handlers.tree.forget(handlers.tree.number(ROOT, b"01499", 7), 1)
    assert len(handlers.tree) == 2500


def test_what_the_kernel_had_no_room_for_is_not_counted() -> None:
    handlers = operations(Numbers(30))

    async def read() -> None:
        await read_some(handlers, await handlers.opendir(pyfuse3.ROOT_INODE, CTX), 0, 7)

    trio.run(read)
    assert len(handlers.tree) == 8


def replaced(mount: Mount) -> None:
    """The object `top` has another version, and the root is listed anew."""
    mount.source.objects["top"] = b"other"
    mount.dataset.catalog.invalidate("")


def test_an_inode_of_a_file_that_was_replaced_is_stale_and_the_next_lookup_gives_the_new_one() -> None:
    mount = Mount(MemorySource(tree_of_files()))
    handlers = mount.handlers

    async def use() -> None:
        old = (await handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"top"), CTX)).st_ino
        replaced(mount)
        new = (await handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"top"), CTX)).st_ino
        assert new != old
        for ask in (handlers.getattr(old, CTX), handlers.open(old, os.O_RDONLY, CTX), handlers.listxattr(old, CTX)):
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await ask
            assert caught.value.errno == errno.ESTALE
        assert (await handlers.getattr(new, CTX)).st_size == 5

    trio.run(use)
    assert handlers.counters.failures == 0
    mount.dataset.close()


def removed(mount: Mount) -> None:
    """The object `top` is gone, and the root is listed anew."""
    del mount.source.objects["top"]
    mount.dataset.catalog.invalidate("")


@pytest.mark.parametrize("change", [replaced, removed])
def test_stat_of_a_name_that_was_replaced_or_removed_is_stale_before_any_lookup(
    change: Callable[[Mount], None],
) -> None:
    mount = Mount(MemorySource(tree_of_files()))

    async def use() -> None:
        (top,) = [told for told in await mount.names() if told.name == b"top"]
        change(mount)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await mount.handlers.getattr(pyfuse3.InodeT(top.inode), CTX)
        assert caught.value.errno == errno.ESTALE

    trio.run(use)
    mount.dataset.close()


def test_an_open_file_keeps_its_size_while_its_name_stands_for_something_else() -> None:
    mount = Mount(MemorySource(tree_of_files()))
    handlers = mount.handlers

    async def use() -> None:
        old = (await handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"top"), CTX)).st_ino
        handle = (await handlers.open(old, os.O_RDONLY, CTX)).fh
        replaced(mount)
        new = (await handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"top"), CTX)).st_ino
        assert ((await handlers.getattr(old, CTX)).st_size, (await handlers.getattr(new, CTX)).st_size) == (1, 5)
        await handlers.release(handle)
        with pytest.raises(pyfuse3.FUSEError):
            await handlers.getattr(old, CTX)

    trio.run(use)
    mount.dataset.close()


def test_nodes_that_fell_out_of_memory_are_found_again_through_their_parents_without_a_request(
    monkeypatch, hops
) -> None:
    monkeypatch.setattr(tree_module, "_RECENT", 1)
    mount = Mount(MemorySource(tree_of_files()))

    async def use() -> None:
        inodes = {name: told.inode for name, told in (await mount.walk()).items()}
        mount.source.lists.clear()
        hops.clear()
        for name, inode in itertools.chain(inodes.items(), reversed(inodes.items())):
            answer = await mount.handlers.getattr(pyfuse3.InodeT(inode), CTX)
            assert answer.st_ino == inode
            if stat.S_ISDIR(answer.st_mode):
                assert len(await mount.names(inode)) in (1, 20)
            else:
                assert answer.st_size == len(mount.source.objects[name])

    trio.run(use)
    assert (mount.source.lists, hops) == ([], [])
    mount.dataset.close()


class Fresh(File):
    """A text that is another each time it is looked up."""

    def __init__(self, size: int) -> None:
        self.attributes = Attributes(size, 0, 0.0)


def test_a_file_that_is_made_anew_each_time_stays_what_was_looked_up_last() -> None:
    sizes = itertools.count(1)

    class Root(Numbers):
        def lookup(self, name: str) -> Node:
            return Fresh(next(sizes))

    handlers = operations(Root(0))

    async def use() -> None:
        for size in (1, 2):
            told = await handlers.lookup(pyfuse3.ROOT_INODE, pyfuse3.FileNameT(b"status"), CTX)
            again = [(await handlers.getattr(told.st_ino, CTX)).st_size for _ in range(3)]
            assert [told.st_size, *again] == [size] * 4

    trio.run(use)


@pytest.mark.parametrize("name", [b"system.posix_acl_access", b"security.capability", b"security.selinux"])
def test_there_are_no_access_lists_nor_labels_so_that_ls_asks_for_them_once(name: bytes) -> None:
    handlers = operations(Numbers(1))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(handlers.getxattr, pyfuse3.ROOT_INODE, pyfuse3.XAttrNameT(name), CTX)
    assert caught.value.errno == errno.ENOTSUP


def test_a_user_attribute_that_is_not_ours_does_not_exist() -> None:
    handlers = operations(Numbers(1))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(handlers.getxattr, pyfuse3.ROOT_INODE, pyfuse3.XAttrNameT(b"user.mime_type"), CTX)
    assert caught.value.errno == errno.ENODATA


class Untold(PlainTree):
    """A dataset that does not tell the sizes of files whose names begin with `u`."""

    def entries(self, folder: str) -> Iterator[Entry]:
        for entry in super().entries(folder):
            if entry.object is not None and entry.name.startswith("u"):
                yield Entry(entry.name, Kind.FILE, ObjectInfo(entry.object.key, UNKNOWN_SIZE, 0, ""))
            else:
                yield entry


def test_names_of_unknown_size_are_believed_for_no_time_and_found_out_in_one_hop(hops) -> None:
    source = MemorySource({"a": b"1", "u1": b"12", "u2": b"123", "v": b"1234"})
    mount = Mount(source)
    mount.dataset.close()
    mount.dataset = MountedDataset(Untold(source), source, None, None, space="s", listing_age_s=1000)
    mount.handlers = operations(mount.dataset.root)

    async def look(name: bytes) -> tuple[int, int, bool]:
        found = await mount.handlers.lookup(pyfuse3.ROOT_INODE, name, CTX)
        assert (await mount.handlers.getattr(found.st_ino, CTX)).st_size == found.st_size
        return found.st_ino, found.st_size, found.entry_timeout > 900

    async def use() -> None:
        before = {told.name: told for told in await mount.names()}
        assert [told.size for told in before.values()] == [1, 0, 0, 4]
        assert [told.valid_s > 900 for told in before.values()] == [True, False, False, True]
        assert {told.valid_s for told in before.values() if told.size == 0} == {0.0}
        lists = len(source.lists)
        assert hops == []
        assert [(await look(name))[1:] for name in (b"a", b"u1", b"u2", b"v")] == [(n, True) for n in (1, 2, 3, 4)]
        assert len(hops) == 1
        assert len(source.lists) == lists + 1
        # The kernel may still have the inode that readdir told: it is no version of the file, and ends there.
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await mount.handlers.getattr(pyfuse3.InodeT(before[b"u1"].inode), CTX)
        assert caught.value.errno == errno.ESTALE
        after = {told.name: told for told in await mount.names()}
        assert [told.size for told in after.values()] == [1, 2, 3, 4]
        assert {told.valid_s > 900 for told in after.values()} == {True}
        assert after[b"u1"].inode == (await look(b"u1"))[0] != before[b"u1"].inode
        assert len(hops) == 1

    trio.run(use)
    mount.dataset.close()
