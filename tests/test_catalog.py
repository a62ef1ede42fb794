import contextlib
import logging
import os
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vfs import catalog as catalog_module
from vfs.catalog import Catalog, Entry
from vfs.errors import AccessDenied, NotFound, SourceError, Unavailable
from vfs.node import Kind, tag_of
from vfs.sources import ObjectInfo


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
        database.execute("INSERT INTO folder VALUES (NULL, 's', 'other', 0, 0, 0, 0)")
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
