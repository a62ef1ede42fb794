import pytest

from vfs.errors import NotFound
from vfs.node import Attributes, Directory, File
from vfs.tree import ROOT, Tree


class Folder(Directory):
    attributes = Attributes(0, 0, 1.0)


class Plain(File):
    attributes = Attributes(3, 0, 1.0)

    def __init__(self, version: str = "v1") -> None:
        self.version = version


def test_inode_numbers_stay_after_everything_was_forgotten() -> None:
    tree = Tree(Folder())
    folder = tree.enter(ROOT, "d", Folder())
    inode = tree.enter(folder, "a", Plain())
    tree.forget(inode, 1)
    tree.forget(folder, 1)
    assert len(tree) == 1
    other = Tree(Folder())
    assert other.enter(other.enter(ROOT, "d", Folder()), "a", Plain()) == inode


def test_same_name_below_another_parent_or_of_another_kind_is_another_inode() -> None:
    tree = Tree(Folder())
    a, b = tree.enter(ROOT, "a", Folder()), tree.enter(ROOT, "b", Folder())
    numbers = {a, b, tree.enter(a, "x", Plain()), tree.enter(b, "x", Plain()), tree.enter(a, "x", Folder())}
    assert len(numbers) == 5


def test_an_inode_lives_until_the_kernel_gave_all_references_back() -> None:
    tree = Tree(Folder())
    inode = tree.enter(ROOT, "a", Plain())
    assert tree.enter(ROOT, "a", Plain()) == inode
    tree.forget(inode, 1)
    tree.node(inode)
    tree.forget(inode, 1)
    with pytest.raises(NotFound):
        tree.node(inode)


def test_the_root_is_never_forgotten() -> None:
    tree = Tree(Folder())
    tree.forget(ROOT, 1000)
    tree.node(ROOT)


def test_a_hundred_thousand_names_have_as_many_numbers_above_the_root() -> None:
    tree = Tree(Folder())
    numbers = {tree.number(ROOT, f"name-{n}", Plain()) for n in range(100_000)}
    assert len(numbers) == 100_000
    assert min(numbers) > ROOT
    assert max(numbers) < 1 << 63


def test_two_names_that_share_a_number_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(Folder())
    real = tree.number(ROOT, "b", Plain())
    monkeypatch.setattr("vfs.tree._number", lambda parent, name, node, salt: real if salt == 0 else real + salt)
    assert tree.enter(ROOT, "a", Plain()) != tree.enter(ROOT, "b", Plain())


def test_a_replaced_file_is_another_inode_and_the_old_one_stays_what_it_was() -> None:
    tree = Tree(Folder())
    old = tree.enter(ROOT, "a", Plain("v1"))
    new = tree.enter(ROOT, "a", Plain("v2"))
    assert old != new
    assert (tree.node(old).version, tree.node(new).version) == ("v1", "v2")
    assert tree.enter(ROOT, "a", Plain("v1")) == old


def test_a_place_is_told_by_parent_and_name() -> None:
    tree = Tree(Folder())
    folder = tree.enter(ROOT, "d", Folder())
    assert tree.place(tree.enter(folder, "a", Plain())) == (folder, "a")
