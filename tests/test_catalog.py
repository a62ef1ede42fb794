import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from vfs.catalog import Catalog, Entry
from vfs.errors import AccessDenied, NotFound, Unavailable
from vfs.node import Kind
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


def test_entries_come_back_as_they_were_in_the_order_of_names(filler) -> None:
    known = catalog(None, filler)
    assert list(known.entries("")) == sorted(filler.folders[""], key=lambda entry: entry.name)
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
        assert len(list(known.entries(""))) == 4
        known.close()
    assert filler.asked == ["", ""]


def test_a_listing_past_its_age_is_renewed(filler) -> None:
    known = catalog(None, filler, age=0.05)
    known.lookup("", "a")
    filler.folders[""] = [file("new")]
    time.sleep(0.06)
    assert [entry.name for entry in known.entries("")] == ["new"]
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
        assert sorted(entry.name for entry in known.entries("")) == sorted(good)
        assert known.lookup("", "\udcff").object == ObjectInfo("k/\udcff", 5, 123, "v1")
    assert len(caplog.records) == 1
    assert "7 entries" in caplog.text
    known.close()


def test_of_a_file_and_a_folder_of_one_name_the_folder_is_kept(filler) -> None:
    for order in (1, -1):
        filler.folders[""] = [file("x"), Entry("x", Kind.DIRECTORY)][::order]
        known = catalog(None, filler)
        assert [entry.kind for entry in known.entries("")] == [Kind.DIRECTORY]
        known.close()


def test_videos_are_found_by_their_stem_alone(filler) -> None:
    names = ["a.b.mp4", "a.mkv", "a.mp4", "ab.mp4", "a-c.mp4"]
    filler.folders[""] = [file(name, is_video=True) for name in names] + [file("a.txt")]
    known = catalog(None, filler)
    assert [entry.name for entry in known.videos_of_stem("", "a")] == ["a.mkv", "a.mp4"]
    assert [entry.name for entry in known.videos_of_stem("", "a.b")] == ["a.b.mp4"]
    assert known.videos_of_stem("", "c") == []
    known.close()


def test_a_folder_of_many_pages_is_listed_whole(filler) -> None:
    filler.folders["deep/er"] = [file(f"{n:05d}") for n in range(3456)]
    known = catalog(None, filler)
    assert [entry.name for entry in known.entries("deep/er")] == [f"{n:05d}" for n in range(3456)]
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
