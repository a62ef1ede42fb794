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
    monkeypatch.setattr("vfs.tree._number", lambda parent, name, kind, salt: real if salt == 0 else real + salt)
    assert tree.enter(ROOT, "a", Plain()) != tree.enter(ROOT, "b", Plain())


def test_pages_are_kept_while_the_version_is_the_same() -> None:
    tree = Tree(Folder())
    inode = tree.enter(ROOT, "a", Plain("v1"))
    assert tree.is_same_version(inode)
    assert tree.is_same_version(inode)
    tree.enter(ROOT, "a", Plain("v2"))
    assert not tree.is_same_version(inode)
    assert tree.is_same_version(inode)


def test_a_node_without_a_version_is_never_kept() -> None:
    tree = Tree(Folder())
    assert not tree.is_same_version(tree.enter(ROOT, "a", Plain("")))
