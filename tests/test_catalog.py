import contextlib
import logging
import os
import pickle
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import wait_until
from vfs import catalog as catalog_module
from vfs.catalog import Catalog, Entry, Packed, Tree
from vfs.errors import AccessDenied, NotFound, SourceError, Unavailable
from vfs.node import Kind, tag_of
from vfs.sources import UNKNOWN_SIZE, ObjectInfo


def file(name: str, size: int = 5, is_video: bool = False) -> Entry:
    return Entry(name, Kind.FILE, ObjectInfo(f"k/{name}", size, 123, "v1"), "", is_video)


class Filler:
    """Folders by path; counts how often each was asked for."""

    def __init__(self, folders: dict[str, list[Entry]]) -> None:
        self.folders = folders
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, path: str) -> Iterable[Entry]:
        self.asked.append(path)
        if self.failure:
            raise self.failure
        if path not in self.folders:
            raise NotFound(path)
        return iter(self.folders[path])


@pytest.fixture
def filler() -> Filler:
    link = Entry("e1.mp4", Kind.LINK, target="b.mp4", is_video=True)
    return Filler({"": [file("b.mp4", is_video=True), Entry("d", Kind.DIRECTORY), file("a"), link]})


def catalog(file: Path | None, filler: Filler, age: float = 100, space: str = "s") -> Catalog:
    return Catalog(file, space, filler, age)


def entries(known: Catalog, folder: str) -> list[Entry]:
    """What readdir finds, each name looked up."""
    known.folder(folder)
    return [known.entry(folder, os.fsdecode(name)) for name, *_ in known.children(folder)]


def names(known: Catalog, folder: str) -> list[str]:
    known.folder(folder)
    return [os.fsdecode(name) for name, *_ in known.children(folder)]


def stored_rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT COUNT(*) FROM entry").fetchone()[0])


def stored_folders(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT COUNT(*) FROM folder").fetchone()[0])


def test_entries_come_back_as_they_were_in_the_order_of_names(filler) -> None:
    known = catalog(None, filler)
    assert entries(known, "") == sorted(filler.folders[""], key=lambda entry: entry.name)
    assert known.lookup("", "e1.mp4").target == "b.mp4"
    assert [entry.name for entry in known.videos("")] == ["b.mp4", "e1.mp4"]
    assert known.known_bytes() == 10
    known.close()


def test_a_folder_is_filled_once_and_answers_absence_by_itself(filler) -> None:
    known = catalog(None, filler)
    for _ in range(5):
        known.lookup("", "a")
        with pytest.raises(NotFound):
            known.lookup("", "nothing")
    assert filler.asked == [""]
    known.close()


def test_a_second_mount_asks_nothing_and_another_space_does(tmp_path, filler) -> None:
    for space in ("s", "s", "other"):
        known = catalog(tmp_path / "c.sqlite", filler, space=space)
        assert len(entries(known, "")) == 4
        known.close()
    assert filler.asked == ["", ""]


def test_a_listing_past_its_age_is_renewed(filler) -> None:
    known = catalog(None, filler, age=0.05)
    known.lookup("", "a")
    filler.folders[""] = [file("new")]
    time.sleep(0.06)
    assert names(known, "") == ["new"]
    known.close()


def test_a_listing_is_believed_for_at_least_twenty_times_what_it_took(filler) -> None:
    known = catalog(None, filler, age=0)
    quick = filler.__call__
    known._fill = lambda path: (time.sleep(0.2), quick(path))[1]
    for _ in range(5):
        known.lookup("", "a")
    assert filler.asked == [""]
    known.close()


def test_an_invalidated_folder_is_listed_again(filler) -> None:
    known = catalog(None, filler)
    known.lookup("", "a")
    known.invalidate("")
    known.lookup("", "a")
    assert filler.asked == ["", ""]
    known.close()


def test_a_known_listing_serves_past_its_age_while_the_store_is_down(filler, caplog) -> None:
    known = catalog(None, filler)
    known.lookup("", "a")
    known.invalidate("")
    filler.failure = Unavailable("down")
    assert known.lookup("", "a").name == "a"
    assert "could not be renewed" in caplog.text
    filler.failure = AccessDenied("licence ended")
    with pytest.raises(AccessDenied):
        known.lookup("", "a")
    filler.failure = None
    assert known.lookup("", "a").name == "a"
    known.close()


def test_a_folder_that_is_gone_is_forgotten(filler) -> None:
    known = catalog(None, filler)
    known.lookup("", "a")
    known.invalidate("")
    del filler.folders[""]
    with pytest.raises(NotFound):
        known.lookup("", "a")
    filler.failure = Unavailable("down")
    with pytest.raises(Unavailable):
        known.lookup("", "a")
    known.close()


def test_many_askers_of_one_folder_cause_one_listing(filler) -> None:
    known = catalog(None, filler)
    slow = filler.__call__
    known._fill = lambda path: (time.sleep(0.2), slow(path))[1]
    threads = [threading.Thread(target=known.lookup, args=("", "a")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filler.asked == [""]
    known.close()


def test_names_that_no_directory_can_hold_are_left_out_and_said_once(filler, caplog) -> None:
    bad = ["", ".", "..", "a/b", "nul\0", "x" * 256, "é" * 128]
    good = ["x" * 255, "é" * 127, "control\x01\n", "-", "ünï", "\udcff"]
    filler.folders[""] = [file(name) for name in bad + good]
    known = catalog(None, filler)
    with caplog.at_level(logging.WARNING):
        assert sorted(names(known, "")) == sorted(good)
        assert known.lookup("", "\udcff").object == ObjectInfo("k/\udcff", 5, 123, "v1")
    assert len(caplog.records) == 1
    assert "7 entries" in caplog.text
    known.close()


@pytest.mark.parametrize("between", [0, 10])
@pytest.mark.parametrize("order", [1, -1])
def test_of_a_file_and_a_folder_of_one_name_the_folder_is_kept(filler, monkeypatch, caplog, order, between) -> None:
    monkeypatch.setattr(catalog_module, "_BATCH_ROWS", 4)
    video, folder = file("x.mp4", is_video=True), Entry("x.mp4", Kind.DIRECTORY)
    fillers = [file(f"{n}") for n in range(between)]
    filler.folders[""] = [*[video, folder][::order][:1], *fillers, *[video, folder][::order][1:]]
    known = catalog(None, filler)
    assert known.lookup("", "x.mp4") == folder
    assert len(names(known, "")) == between + 1
    assert not known.folder("").has_videos
    assert known.known_bytes() == 5 * between
    assert "1 names stand twice" in caplog.text
    known.close()


def test_of_two_files_of_one_name_the_first_is_kept(filler, caplog) -> None:
    filler.folders[""] = [file("x", 1), file("x", 2)]
    known = catalog(None, filler)
    assert [entry.object.size_bytes for entry in entries(known, "") if entry.object] == [1]
    assert "1 names stand twice" in caplog.text
    known.close()


def test_videos_are_found_by_their_stem_alone(filler) -> None:
    names = ["a.b.mp4", "a.mkv", "a.mp4", "ab.mp4", "a-c.mp4"]
    filler.folders[""] = [file(name, is_video=True) for name in names] + [file("a.txt")]
    known = catalog(None, filler)
    known.folder("")
    assert [entry.name for entry in known.videos_of_stem("", "a")] == ["a.mkv", "a.mp4"]
    assert [entry.name for entry in known.videos_of_stem("", "a.b")] == ["a.b.mp4"]
    assert known.videos_of_stem("", "c") == []
    known.close()


def test_a_folder_of_many_pages_is_listed_whole(filler) -> None:
    filler.folders["deep/er"] = [file(f"{n:05d}") for n in range(3456)]
    known = catalog(None, filler)
    assert names(known, "deep/er") == [f"{n:05d}" for n in range(3456)]
    known.close()


def test_children_tell_what_stat_shows_and_what_tells_versions_apart(filler) -> None:
    known = catalog(None, filler)
    known.folder("")
    (a, b, d, link) = known.children("")
    plain = file("a").object
    assert plain is not None
    assert a == (b"a", Kind.FILE, tag_of(Kind.FILE, plain.identity), 5, 123)
    assert d == (b"d", Kind.DIRECTORY, tag_of(Kind.DIRECTORY, ""), 0, 0)
    assert link == (b"e1.mp4", Kind.LINK, tag_of(Kind.LINK, ""), len("b.mp4"), 0)
    assert len({a[2], b[2], d[2], link[2]}) == 4
    known.close()


class Counted(Entry):
    """An entry that knows how many of its kind there are, and how many there were at most."""

    living = most = 0

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        Counted.living += 1
        Counted.most = max(Counted.most, Counted.living)

    def __del__(self) -> None:
        Counted.living -= 1


def test_a_huge_listing_is_never_held_whole(tmp_path) -> None:
    made = (Counted(f"{n:06d}", Kind.FILE, ObjectInfo(f"k/{n:06d}", 1, 1, "v")) for n in range(200_000))
    known = Catalog(tmp_path / "c.sqlite", "s", lambda path: made, 100)
    known.folder("")
    assert sum(1 for _ in known.children("")) == 200_000
    assert 0 < Counted.most < 10
    known.close()


def test_rows_of_a_listing_are_held_a_batch_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_BATCH_ROWS", 100)
    made = (file(f"{n:06d}") for n in range(10_000))
    known = Catalog(tmp_path / "c.sqlite", "s", lambda path: made, 100)
    tracemalloc.start()
    known.folder("")
    assert sum(1 for _ in known.children("")) == 10_000
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A row is about 700 bytes: all of them would be 7 MB, a batch and a page 250 KB.
    assert peak_bytes < 1 << 20
    known.close()


def breaking_off(after: int) -> Iterator[Entry]:
    yield from (file(f"{n:05d}") for n in range(after))
    raise AccessDenied("licence ended")


@pytest.mark.parametrize("after", [0, 1, 25, 40])
def test_a_listing_that_breaks_off_leaves_the_old_one_whole_and_nothing_behind(
    tmp_path, filler, monkeypatch, after
) -> None:
    monkeypatch.setattr(catalog_module, "_BATCH_ROWS", 10)
    known = catalog(tmp_path / "c.sqlite", filler)
    before = entries(known, "")
    known.invalidate("")
    known._fill = lambda path: breaking_off(after)
    with pytest.raises(AccessDenied):
        known.folder("")
    assert [os.fsdecode(name) for name, *_ in known.children("")] == [entry.name for entry in before]
    assert (stored_rows(tmp_path / "c.sqlite"), stored_folders(tmp_path / "c.sqlite")) == (4, 1)
    known._fill = filler
    assert entries(known, "") == before
    known.close()


def test_the_old_listing_stays_until_the_new_one_is_whole_and_then_is_gone(tmp_path, filler, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_BATCH_ROWS", 10)
    path = tmp_path / "c.sqlite"
    filler.folders[""] = [file(f"old-{n:03d}") for n in range(35)]
    known = catalog(path, filler)
    known.folder("")
    seen: list[list[bytes]] = []

    def fill(folder: str) -> Iterator[Entry]:
        for n in range(42):
            if n % 10 == 5:
                seen.append([name for name, *_ in known.children("")])
            yield file(f"new-{n:03d}")

    known._fill = fill
    known.invalidate("")
    assert names(known, "") == [f"new-{n:03d}" for n in range(42)]
    assert seen == [[b"old-%03d" % n for n in range(35)]] * 4
    assert (stored_rows(path), stored_folders(path)) == (42, 1)
    known.close()


def test_a_reader_of_a_folder_that_is_listed_anew_meets_each_lasting_name_once(filler, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_PAGE_ROWS", 10)
    filler.folders[""] = [file(f"{n:03d}") for n in range(100)]
    known = catalog(None, filler)
    known.folder("")
    reading = known.children("")
    first = [next(reading) for _ in range(30)]
    filler.folders[""] = [file(f"{n:03d}") for n in range(0, 100, 2)]
    known.invalidate("")
    known.folder("")
    met = [int(name) for name, *_ in [*first, *reading]]
    assert met == [*range(30), *range(30, 100, 2)]
    known.close()


def test_what_a_process_that_died_had_begun_is_swept_away(tmp_path, filler, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_BATCH_ROWS", 10)
    path = tmp_path / "c.sqlite"
    dead = catalog(path, filler)
    monkeypatch.setattr(dead, "_sweep", lambda: None)
    filling = iter([file(f"{n}") for n in range(25)])

    def die(folder: str) -> Iterator[Entry]:
        yield from filling
        dead._writing.close()  # as a killed process leaves it: what was committed stays

    dead._fill = die
    with pytest.raises(SourceError):
        dead.folder("gone")
    dead.close()
    assert stored_rows(path) == 20
    known = catalog(path, filler)
    known.folder("")
    assert stored_rows(path) == 24  # another process may still be at it
    monkeypatch.setattr(catalog_module, "_ABANDONED_S", 0.0)
    known.invalidate("")
    known.folder("")
    assert (stored_rows(path), stored_folders(path)) == (4, 1)
    known.close()


def test_what_is_known_is_read_while_another_folder_is_being_written(tmp_path, filler) -> None:
    known = catalog(tmp_path / "c.sqlite", filler)
    known.folder("")
    with known._transaction() as database:
        database.execute("INSERT INTO folder VALUES (NULL, 's', 'other', 0, 0, 0, 0, 0, 0, 0)")
        assert known.known("") is not None
        assert known.entry("", "a").name == "a"
        assert len(list(known.children(""))) == 4
    known.close()


def test_what_is_not_known_or_too_old_is_not_known_at_once_and_nobody_is_asked(filler) -> None:
    known = catalog(None, filler)
    assert known.known("") is None
    assert filler.asked == []
    known.folder("")
    assert known.known("") is not None
    known.invalidate("")
    assert known.known("") is None
    assert filler.asked == [""]
    known.close()


@pytest.mark.parametrize("damage", [b"garbage" * 1000, b""])
def test_a_database_that_cannot_be_used_is_made_anew(tmp_path, filler, damage) -> None:
    path = tmp_path / "c.sqlite"
    known = catalog(path, filler)
    known.lookup("", "a")
    known.close()
    path.write_bytes(damage)
    known = catalog(path, filler)
    assert known.lookup("", "a").name == "a"
    known.close()


class TreeFiller:
    """A whole tree, whichever folder is asked for; counts how often."""

    def __init__(self, entries: list[tuple[str, Entry]]) -> None:
        self.entries = entries
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, path: str) -> Tree:
        self.asked.append(path)
        return Tree(self._entries())

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        yield from self.entries
        if self.failure:
            raise self.failure


@pytest.fixture
def tree() -> TreeFiller:
    made = [("takes/b", file("v.mp4", is_video=True)), ("", file("top")), ("takes/a", file("x")), ("takes", file("y"))]
    return TreeFiller([*made, ("takes/b", file("w")), ("takes/a", Entry("empty", Kind.DIRECTORY))])


def walked(known: Catalog, folder: str = "") -> dict[str, list[str]]:
    """All folders with their names."""
    found = {folder: names(known, folder)}
    for entry in entries(known, folder):
        if entry.kind is Kind.DIRECTORY:
            found |= walked(known, f"{folder}/{entry.name}" if folder else entry.name)
    return found


WHOLE = {
    "": ["takes", "top"],
    "takes": ["a", "b", "y"],
    "takes/a": ["empty", "x"],
    "takes/b": ["v.mp4", "w"],
    "takes/a/empty": [],
}


@pytest.mark.parametrize("first", ["", "takes/b"])
@pytest.mark.parametrize("batch", [1, 2, 6, 100])
def test_a_tree_is_given_once_and_makes_all_folders(tmp_path, tree, monkeypatch, first, batch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", batch)
    for _ in range(2):
        known = catalog(tmp_path / "c.sqlite", tree)  # type: ignore[arg-type]
        known.folder(first)
        assert walked(known) == WHOLE
        assert {known.folder(path).listed_at for path in WHOLE} == {known.folder("").listed_at}
        assert [path for path in WHOLE if known.folder(path).has_videos] == ["takes/b"]
        assert known.known_bytes() == 25
        known.close()
    assert tree.asked == [first]


def test_a_folder_that_a_tree_does_not_have_is_absent_and_nobody_is_asked(tree) -> None:
    known = catalog(None, tree)
    known.folder("")
    for _ in range(3):
        with pytest.raises(NotFound):
            known.folder("takes/c")
    assert tree.asked == [""]
    known.close()
    known = catalog(None, tree)
    with pytest.raises(NotFound):
        known.folder("takes/c")
    assert walked(known) == WHOLE
    assert tree.asked == ["", "takes/c"]
    known.close()


def test_a_tree_of_nothing_is_an_empty_root(tree) -> None:
    tree.entries = []
    known = catalog(None, tree)
    assert walked(known) == {"": []}
    known.close()


def test_one_invalid_folder_has_the_whole_tree_renewed_once_and_what_is_gone_forgotten(tmp_path, tree) -> None:
    path = tmp_path / "c.sqlite"
    known = catalog(path, tree)
    known.folder("")
    known.invalidate("takes/a")
    tree.entries = [("takes/b", file("new"))]
    assert names(known, "takes/b") == ["v.mp4", "w"]  # still believed
    with pytest.raises(NotFound):
        known.folder("takes/a")
    assert walked(known) == {"": ["takes"], "takes": ["b"], "takes/b": ["new"]}
    assert tree.asked == ["", "takes/a"]
    wait_until(lambda: (stored_rows(path), stored_folders(path)) == (3, 3))
    known.close()


def test_a_tree_past_its_age_is_renewed_once_for_all_who_ask_for_any_folder(tmp_path, tree) -> None:
    known = catalog(tmp_path / "c.sqlite", tree, age=0.05)
    known.folder("")
    known._fill = lambda path: (time.sleep(0.2), tree(path))[1]
    time.sleep(0.06)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.sqlite")) as database, database:
        database.execute("UPDATE folder SET took_s = 0")
    threads = [threading.Thread(target=known.folder, args=(path,)) for path in WHOLE]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tree.asked) == 2
    assert walked(known) == WHOLE
    known.close()


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_a_tree_that_breaks_off_leaves_the_old_one_whole_and_nothing_behind(tmp_path, tree, monkeypatch, batch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", batch)
    path = tmp_path / "c.sqlite"
    known = catalog(path, tree)
    known.folder("")
    known.invalidate("")
    tree.failure = AccessDenied("licence ended")
    with pytest.raises(AccessDenied):
        known.folder("")
    wait_until(lambda: (stored_rows(path), stored_folders(path)) == (9, 5))
    tree.failure = Unavailable("down")
    assert walked(known) == WHOLE
    known.close()


def test_the_old_tree_is_shown_until_the_new_one_is_whole(tmp_path, tree, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", 1)
    known = catalog(tmp_path / "c.sqlite", tree)
    known.folder("")
    seen = []

    def new() -> Iterator[tuple[str, Entry]]:
        for n in range(5):
            seen.append((walked(known, "takes/b"), os.fsencode("top") in [name for name, *_ in known.children("")]))
            yield f"other/{n}", file("x")

    known._fill = lambda path: Tree(new())
    known.invalidate("takes/a")
    with pytest.raises(NotFound):
        known.folder("takes/a")
    assert seen == [({"takes/b": ["v.mp4", "w"]}, True)] * 5
    assert names(known, "") == ["other"]
    known.close()


def test_in_a_tree_names_that_cannot_be_shown_are_left_out_with_what_stands_below_and_said_once(tree, caplog) -> None:
    tree.entries = [
        ("a", file("x/y")),
        ("..", file("x")),
        ("a//b", file("x")),
        ("a", file("good")),
        ("a//b", file("y")),
    ]
    known = catalog(None, tree)
    assert walked(known) == {"": ["a"], "a": ["good"]}
    assert len(caplog.records) == 1
    known.close()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("batch", [1, 100])
def test_in_a_tree_a_folder_wins_over_a_file_and_the_first_over_the_second(
    tree, monkeypatch, caplog, order, batch
) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", batch)
    tree.entries = [*[("", file("a")), ("a", file("x", 1))][::order], ("a", file("x", 2))]
    known = catalog(None, tree)
    assert walked(known) == {"": ["a"], "a": ["x"]}
    assert entries(known, "a") == [file("x", 1)]
    assert "2 names stand twice" in caplog.text
    known.close()


def test_of_a_tree_a_batch_is_held_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", 100)
    obj = ObjectInfo("k", 1, 1, "v")
    made = ((f"f{n % 50}", Counted(f"{n:06d}", Kind.FILE, obj)) for n in range(5000))
    Counted.most = 0
    known = Catalog(tmp_path / "c.sqlite", "s", lambda path: Tree(made), 100)
    assert len(names(known, "f7")) == 100
    assert 0 < Counted.most <= 101
    known.close()


def test_a_tree_whose_beginning_another_process_has_swept_away_is_not_shown(tmp_path, tree, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", 2)
    known = catalog(tmp_path / "c.sqlite", tree)

    def slow() -> Iterator[tuple[str, Entry]]:
        yield from tree.entries
        monkeypatch.setattr(catalog_module, "_ABANDONED_S", 0.0)
        other = catalog(tmp_path / "c.sqlite", Filler({"": []}), space="other")
        other.folder("")
        other.close()

    known._fill = lambda path: Tree(slow())
    with pytest.raises(Unavailable, match="given up"):
        known.folder("")
    known._fill = tree
    assert walked(known) == WHOLE
    known.close()


def test_a_dataset_may_give_folders_where_it_gave_a_tree(tree, filler) -> None:
    known = catalog(None, tree)
    known.folder("")
    known._fill = filler
    known.invalidate("")
    assert names(known, "") == ["a", "b.mp4", "d", "e1.mp4"]
    assert not known.folder("").of_tree
    known.close()


class PackedFiller(TreeFiller):
    """The same tree with what stands below `takes/` packed, as one piece for each file; counts how often it unpacks."""

    def __init__(self, entries: list[tuple[str, Entry]]) -> None:
        super().__init__(entries)
        self.unpacked: list[int] = []
        self.during: Callable[[], object] = lambda: None

    def _entries(self) -> Iterator[tuple[str, Any]]:
        for folder, entry in super()._entries():
            top, _, below = folder.partition("/")
            if below:
                name, _, rest = below.partition("/")
                size = entry.object.size_bytes if entry.object else 0
                yield f"{top}/{name}", Packed(pickle.dumps((rest, entry)), max(size, 0))
            else:
                yield folder, entry

    def unpack(self, pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
        self.unpacked.append(len(list(pieces)))
        self.during()
        yield from map(pickle.loads, pieces)


@pytest.fixture
def packed(tree) -> PackedFiller:
    deep = [("takes/b/deep/er", file("z", UNKNOWN_SIZE)), ("takes/b/deep/er", Entry("l.mp4", Kind.LINK, target="z"))]
    return PackedFiller([*tree.entries, *deep])


PACKED = {**WHOLE, "takes/b": ["deep", "v.mp4", "w"], "takes/b/deep": ["er"], "takes/b/deep/er": ["l.mp4", "z"]}


def of_packed(file: Path | None, filler: PackedFiller, age: float = 100) -> Catalog:
    return Catalog(file, "s", filler, age, filler.unpack)


def stored_pieces(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT COUNT(*) FROM packed").fetchone()[0])


@pytest.mark.parametrize("first", ["", "takes/b", "takes/b/deep/er"])
@pytest.mark.parametrize("batch", [1, 2, 6, 100])
def test_what_is_packed_is_a_tree_like_any_other_and_unpacked_once_by_whichever_process(
    tmp_path, packed, monkeypatch, first, batch
) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", batch)
    for _ in range(2):
        known = of_packed(tmp_path / "c.sqlite", packed)
        known.folder(first)
        assert known.known_bytes() == 25
        assert names(known, "takes") == ["a", "b", "y"]
        known.close()
    assert packed.unpacked == ([] if first == "" else [4])
    for _ in range(2):
        known = of_packed(tmp_path / "c.sqlite", packed)
        assert walked(known) == PACKED
        assert {known.folder(path).listed_at for path in PACKED} == {known.folder("").listed_at}
        assert [path for path in PACKED if known.folder(path).has_videos] == ["takes/b"]
        assert not known.is_told("takes/b/deep/er") or known.entry("takes/b/deep/er", "z").object.version
        assert known.known_bytes() == 25
        known.close()
    assert sorted(packed.unpacked) == [2, 4]
    assert packed.asked == [first]
    wait_until(lambda: stored_pieces(tmp_path / "c.sqlite") == 0)


def test_nothing_is_unpacked_for_what_is_known_at_once_and_absence_is_told_below_it(packed) -> None:
    known = of_packed(None, packed)
    known.folder("")
    assert known.known("takes/b") is None
    assert known.known("takes/b/deep") is None
    with pytest.raises(NotFound):
        known.folder("takes/c/deep")
    with pytest.raises(NotFound):
        known.lookup("takes", "c")
    assert packed.unpacked == []
    for _ in range(2):
        with pytest.raises(NotFound):
            known.folder("takes/b/nothing")
    assert packed.unpacked == [4]
    assert packed.asked == [""]
    known.close()


def test_many_who_ask_for_what_is_packed_have_it_unpacked_once(tmp_path, packed) -> None:
    known = of_packed(tmp_path / "c.sqlite", packed)
    known.folder("")
    packed.during = lambda: time.sleep(0.1)
    found: list[list[str]] = []
    ask = [lambda path=path: found.append(names(known, path)) for path in ("takes/b", "takes/b/deep", "takes/b")]
    threads = [threading.Thread(target=each) for each in ask]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([PACKED["takes/b"], PACKED["takes/b"], PACKED["takes/b/deep"]])
    assert packed.unpacked == [4]
    known.close()


@pytest.mark.parametrize("batch", [1, 100])
def test_what_two_processes_unpack_at_once_stands_there_once(tmp_path, packed, monkeypatch, batch) -> None:
    monkeypatch.setattr(catalog_module, "_TREE_BATCH_ROWS", batch)
    path = tmp_path / "c.sqlite"
    known, other = of_packed(path, packed), of_packed(path, packed)
    known.folder("")

    def meanwhile() -> None:
        packed.during = lambda: None
        assert walked(other) == PACKED

    packed.during = meanwhile
    assert walked(known) == PACKED
    assert packed.unpacked == [4, 2, 4] or packed.unpacked == [2, 2, 4]
    wait_until(lambda: (stored_rows(path), stored_folders(path), stored_pieces(path)) == (13, 7, 0))
    known.close()
    other.close()


def test_a_tree_that_is_renewed_while_its_old_one_is_unpacked_is_the_new_one(tmp_path, packed) -> None:
    known, other = of_packed(tmp_path / "c.sqlite", packed), of_packed(tmp_path / "c.sqlite", packed)
    known.folder("")

    def meanwhile() -> None:
        packed.during = lambda: None
        packed.entries = [("takes/b", file("new"))]
        other.invalidate("")
        other.folder("")

    packed.during = meanwhile
    assert names(known, "takes/b") == ["new"]
    known.close()
    other.close()


def test_a_renewed_tree_is_packed_anew_and_whoever_reads_the_old_goes_on(tmp_path, packed, monkeypatch) -> None:
    monkeypatch.setattr(catalog_module, "_PAGE_ROWS", 2)
    path = tmp_path / "c.sqlite"
    known = of_packed(path, packed)
    known.folder("takes/b/deep/er")
    known.learn("takes/b/deep/er", [("z", "k/z", info("z", 100))])
    assert known.known_bytes() == 125
    reading = known.children("takes/b")
    first = [next(reading), next(reading)]
    known.invalidate("")
    known.folder("")
    assert packed.unpacked == [4]
    wait_until(lambda: (stored_rows(path), stored_folders(path), stored_pieces(path)) == (5, 4, 6))
    assert known.known_bytes() == 25
    assert [name for name, *_ in [*first, *reading]] == [b"deep", b"v.mp4", b"w"]
    assert known.entry("takes/a", "x") == file("x")
    assert list(known.unsized("takes/b/deep/er")) == [("z", "k/z")]
    assert packed.unpacked == [4, 4, 2]
    known.close()


def test_a_packed_tree_serves_past_its_age_while_the_store_is_down(tmp_path, packed) -> None:
    known = of_packed(tmp_path / "c.sqlite", packed)
    known.folder("")
    known.invalidate("")
    known.invalidate("takes/b")
    packed.failure = Unavailable("down")
    assert walked(known) == PACKED
    known.close()


def test_what_cannot_be_unpacked_stays_packed(tmp_path, packed) -> None:
    known = of_packed(tmp_path / "c.sqlite", packed)
    known.folder("")

    def fail() -> None:
        raise AccessDenied("no")

    packed.during = fail
    with pytest.raises(AccessDenied):
        known.folder("takes/b/deep")
    packed.during = lambda: None
    assert walked(known) == PACKED
    known.close()


def test_of_what_is_packed_names_that_stand_twice_or_cannot_be_shown_are_told_when_it_is_unpacked(
    packed, caplog
) -> None:
    packed.entries += [("takes/b", file("w", 9)), ("takes/a", file("..")), ("takes/b", file("deep"))]
    known = of_packed(None, packed)
    known.folder("")
    assert caplog.records == []
    assert walked(known) == PACKED
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "takes/a: 1 entries cannot be shown (no name for a file, or no size), such as '..'",
        "takes/b: 2 names stand twice",
    ]
    assert known.entry("takes/b", "w") == file("w")
    known.close()


def unsized(name: str, is_video: bool = False) -> Entry:
    return Entry(name, Kind.FILE, ObjectInfo(f"k/{name}", UNKNOWN_SIZE, 0, ""), "", is_video)


def info(name: str, size: int, version: str = "v1") -> ObjectInfo:
    return ObjectInfo(f"k/{name}", size, 7, version)


def test_sizes_are_learnt_and_survive_the_mount(tmp_path, filler) -> None:
    filler.folders[""] = [unsized("a"), file("b"), unsized("c"), unsized("d")]
    known = catalog(tmp_path / "c.sqlite", filler)
    assert not known.folder("").is_told
    assert list(known.unsized("")) == [("a", "k/a"), ("c", "k/c"), ("d", "k/d")]
    assert list(known.unsized("", "a")) == [("c", "k/c"), ("d", "k/d")]
    assert known.known_bytes() == 5
    assert [obj.key for obj in known.objects_after("", "", 9)] == ["k/b"]
    known.learn("", [("a", "k/a", info("a", 100)), ("c", "k/c", info("c", 0))])
    assert known.known_bytes() == 105
    known.close()
    known = catalog(tmp_path / "c.sqlite", filler)
    assert known.entry("", "a").object == info("a", 100)
    assert {name: (size, tag) for name, _, tag, size, _ in known.children("")}[b"a"] == (
        100,
        tag_of(Kind.FILE, info("a", 100).identity),
    )
    assert list(known.unsized("")) == [("d", "k/d")]
    assert filler.asked == [""]
    known.close()


def test_a_file_that_the_store_does_not_have_is_dropped(filler) -> None:
    filler.folders[""] = [unsized("a", is_video=True), unsized("b")]
    known = catalog(None, filler)
    before = known.folder("")
    known.learn("", [("a", "k/a", None)])
    assert names(known, "") == ["b"]
    assert (before.has_videos, known.folder("").has_videos) == (True, False)
    assert known.folder("") != before
    known.close()


def test_what_was_learnt_or_listed_meanwhile_stays(filler) -> None:
    filler.folders[""] = [unsized("a"), file("b"), Entry("c", Kind.LINK, target="b")]
    known = catalog(None, filler)
    known.folder("")
    known.learn("", [("a", "k/a", info("a", 1))])
    late = [("a", "k/a", info("a", 2)), ("b", "k/b", None), ("c", "", None), ("gone", "k/gone", info("gone", 1))]
    known.learn("", late)
    known.learn("", [("a", "k/other", None)], before=info("a", 1))
    known.learn("nowhere", late)
    assert [entry.object and entry.object.size_bytes for entry in entries(known, "")] == [1, 5, None]
    assert known.folder("").changes == 0
    assert known.known_bytes() == 6
    known.close()


def test_an_object_that_turned_out_otherwise_is_replaced_and_the_folder_is_another(filler) -> None:
    filler.folders[""] = [Entry("a", Kind.FILE, ObjectInfo("k/a", 9, 0, "")), file("b")]
    known = catalog(None, filler)
    before = known.folder("")
    known.learn("", [("a", "k/a", info("a", 4))], before=ObjectInfo("k/a", 9, 0, ""))
    assert known.entry("", "a").object == info("a", 4)
    assert known.known_bytes() == 9
    assert known.folder("") != before
    assert known.names_of("", "k/a") == ["a"]
    known.close()


# -- a database that fails while it is open


def begin_anew(tmp_path: Path) -> tuple[Catalog, list[str]]:
    """A catalog that has been filled, and whose file is noise by now; and what has been asked of the store."""
    asked: list[str] = []

    def fill(path: str) -> list[Entry]:
        asked.append(path)
        return [Entry(f"{n:03}", Kind.DIRECTORY) for n in range(600)]

    catalog = Catalog(tmp_path / "c.sqlite", "s", fill, 3600)
    catalog.folder("")
    catalog._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for each in (catalog._reading, catalog._writing):
        each.execute("PRAGMA cache_size = 0")
    size = (tmp_path / "c.sqlite").stat().st_size
    (tmp_path / "c.sqlite").write_bytes(os.urandom(size))
    asked.clear()
    return catalog, asked


def test_a_database_damaged_while_it_is_open_is_begun_anew_and_told_once(tmp_path: Path) -> None:
    catalog, asked = begin_anew(tmp_path)
    names = catalog.children("")
    with pytest.raises(Unavailable):
        list(names)
    assert (tmp_path / "c.sqlite.damaged").exists()
    with pytest.raises(Unavailable):
        catalog.entry("", "007")  # what is lost is not absent
    catalog.folder("")
    assert asked == [""]
    assert catalog.entry("", "007").name == "007"
    assert len(list(catalog.children(""))) == 600
    catalog.close()


def test_who_asks_whether_a_folder_is_known_is_not_told_of_the_damage(tmp_path: Path) -> None:
    catalog, asked = begin_anew(tmp_path)
    assert catalog.known("") is None
    assert len(listed(catalog, "")) == 600
    assert asked == [""]
    catalog.close()


def test_a_full_disk_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog(tmp_path / "c.sqlite", "s", lambda path: [Entry(f"in {path}", Kind.DIRECTORY)], 3600)
    catalog.folder("a")
    catalog._writing.execute("PRAGMA max_page_count = 1")
    for n in range(200):
        assert [os.fsdecode(name) for name, *_ in listed(catalog, f"b{n}")] == [f"in b{n}"]
    assert "goes on without it" in caplog.text
    assert len(listed(catalog, "b0")) == 1
    assert not (tmp_path / "c.sqlite.damaged").exists()
    catalog.close()


def listed(catalog: Catalog, folder: str) -> list[tuple[bytes, Kind, int, int, int]]:
    catalog.folder(folder)
    return list(catalog.children(folder))
