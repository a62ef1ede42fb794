import sys
import time

import pytest

from vfs import tree as tree_module
from vfs.errors import NotFound
from vfs.node import Attributes, Directory, File, Kind, tag_of
from vfs.tree import ROOT, Inode, Tree

FOLDER = tag_of(Kind.DIRECTORY, "")
PLAIN = tag_of(Kind.FILE, "v1")


class Folder(Directory):
    attributes = Attributes(0, 0, 1.0)


class Plain(File):
    def __init__(self, version: str = "v1", valid_s: float = 100.0) -> None:
        self.version = version
        self.attributes = Attributes(3, 0, valid_s)


def test_inode_numbers_stay_after_everything_was_forgotten() -> None:
    tree = Tree(Folder())
    folder = tree.enter(ROOT, b"d", FOLDER)
    inode = tree.enter(folder, b"a", PLAIN)
    tree.forget(inode, 1)
    tree.forget(folder, 1)
    assert len(tree) == 1
    other = Tree(Folder())
    assert other.enter(other.enter(ROOT, b"d", FOLDER), b"a", PLAIN) == inode


def test_numbers_are_the_same_in_every_release() -> None:
    assert Tree(Folder()).number(ROOT, b"a", tag_of(Kind.FILE, "v1")) == 8844621535442828347


def test_same_name_below_another_parent_or_of_another_kind_is_another_inode() -> None:
    tree = Tree(Folder())
    a, b = tree.enter(ROOT, b"a", FOLDER), tree.enter(ROOT, b"b", FOLDER)
    numbers = {a, b, tree.enter(a, b"x", PLAIN), tree.enter(b, b"x", PLAIN), tree.enter(a, b"x", FOLDER)}
    assert len(numbers) == 5


def test_an_inode_lives_until_the_kernel_gave_all_references_back() -> None:
    tree = Tree(Folder())
    inode = tree.enter(ROOT, b"a", PLAIN)
    for _ in range(3):
        assert tree.enter(ROOT, b"a", PLAIN) == inode
    tree.forget(inode, 2)
    tree.forget(inode, 1)
    assert tree.place(inode) == (ROOT, "a")
    tree.forget(inode, 1)
    with pytest.raises(NotFound):
        tree.place(inode)
    assert tree.recent(inode) is None


def test_the_root_is_never_forgotten() -> None:
    root = Folder()
    tree = Tree(root)
    tree.forget(ROOT, 1000)
    assert tree.kept(ROOT) is root
    assert len(tree) == 1


def test_a_hundred_thousand_names_have_as_many_numbers_above_the_root() -> None:
    tree = Tree(Folder())
    numbers = {tree.number(ROOT, b"name-%d" % n, PLAIN) for n in range(100_000)}
    assert len(numbers) == 100_000
    assert min(numbers) > ROOT
    assert max(numbers) < 1 << 63


def test_a_hundred_thousand_inodes_take_less_than_200_bytes_each() -> None:
    tree = Tree(Folder())
    for _ in range(2):  # listed twice: two references each
        for n in range(100_000):
            tree.enter(ROOT, b"file-%07d.bin" % n, PLAIN)
    assert len(tree) == 100_001
    held = sys.getsizeof(tree._held) + sum(map(sys.getsizeof, [*tree._held, *tree._held.values()]))
    others = [value for name, value in vars(tree).items() if name not in ("_held", "_root")]
    assert held / 100_000 < 200
    assert not any(map(len, others)), others


def test_two_names_that_share_a_number_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(Folder())
    real = tree.number(ROOT, b"b", PLAIN)
    monkeypatch.setattr(tree_module, "_number", lambda parent, name, tag, salt: Inode(real + salt))
    a, b = tree.enter(ROOT, b"a", PLAIN), tree.enter(ROOT, b"b", PLAIN)
    assert a != b
    assert (tree.place(a), tree.place(b)) == ((ROOT, "a"), (ROOT, "b"))
    assert tree.enter(ROOT, b"b", PLAIN) == tree.number(ROOT, b"b", PLAIN) == b
    tree.forget(b, 1)
    assert tree.place(b) == (ROOT, "b")
    tree.forget(b, 1)
    assert len(tree) == 2


def test_a_replaced_file_is_another_inode() -> None:
    tree = Tree(Folder())
    old, new = (tree.enter(ROOT, b"a", tag_of(Kind.FILE, version)) for version in ("v1", "v2"))
    assert old != new
    assert tree.place(old) == tree.place(new) == (ROOT, "a")


def test_a_place_is_told_by_parent_and_name() -> None:
    tree = Tree(Folder())
    folder = tree.enter(ROOT, b"d", FOLDER)
    assert tree.place(tree.enter(folder, b"caf\xe9", PLAIN)) == (folder, "caf\udce9")


def test_the_nodes_looked_up_last_are_at_hand_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_RECENT", 2)
    tree = Tree(Folder())
    nodes = [Plain() for _ in range(3)]
    inodes = [tree.enter(ROOT, b"%d" % n, PLAIN) for n in range(3)]
    tree.remember(inodes[0], nodes[0])
    tree.remember(inodes[1], nodes[1])
    assert tree.recent(inodes[0]) is nodes[0]
    tree.remember(inodes[2], nodes[2])
    assert [tree.recent(inode) for inode in inodes] == [nodes[0], None, nodes[2]]


def test_a_node_is_at_hand_while_its_name_may_be_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(Folder())
    inode, node = tree.enter(ROOT, b"a", PLAIN), Plain(valid_s=5.0)
    tree.remember(inode, node)
    assert tree.recent(inode) is node
    later = time.monotonic() + 6
    monkeypatch.setattr(tree_module.time, "monotonic", lambda: later)
    assert tree.recent(inode) is None


def test_a_new_version_of_a_name_takes_the_place_of_the_old_one() -> None:
    tree = Tree(Folder())
    old, new = Plain("v1"), Plain("v2")
    of_old, of_new = tree.enter(ROOT, b"a", old.tag), tree.enter(ROOT, b"a", new.tag)
    tree.remember(of_old, old)
    tree.remember(of_new, new)
    assert (tree.recent(of_old), tree.recent(of_new)) == (None, new)


def test_a_file_without_a_version_is_kept_and_the_newest_of_its_name_is_told() -> None:
    tree = Tree(Folder())
    inode = tree.enter(ROOT, b"status", Plain("").tag)
    for _ in range(2):
        node = Plain("", valid_s=0.0)
        tree.remember(inode, node)
        assert tree.kept(inode) is node
    tree.forget(inode, 1)
    assert tree.kept(inode) is None


def test_an_open_file_is_kept_until_it_was_closed_as_often_as_opened() -> None:
    tree = Tree(Folder())
    node = Plain()
    inode = tree.enter(ROOT, b"a", node.tag)
    tree.pin(inode, node)
    tree.pin(inode, node)
    tree.unpin(inode)
    assert tree.kept(inode) is node
    tree.unpin(inode)
    assert tree.kept(inode) is None
