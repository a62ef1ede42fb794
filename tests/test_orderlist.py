"""The list of an order: which lines say what, and where a reader is in a million of them."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfs.errors import OptionError
from vfs.orderlist import Bad, Base, OrderList
from vfs.orderwindow import Line

ROOT = Base("", ("/mnt/data",))


def opened(path: Path, base: Base = ROOT) -> OrderList:
    return OrderList(os.open(path, os.O_RDONLY), base)


def listed(tmp_path: Path, content: bytes, base: Base = ROOT) -> list[Line | Bad]:
    """All that a list says."""
    file = tmp_path / "list"
    file.write_bytes(content)
    lines = opened(file, base)
    try:
        return list(all_of(lines))
    finally:
        lines.close()


def all_of(lines: OrderList) -> Iterator[Line | Bad]:
    while (some := lines.more(0.01)) is not None:
        yield from some


def paths(lines: list[Line | Bad]) -> list[str]:
    return [line.path for line in lines if isinstance(line, Line)]


def test_paths_are_relative_to_the_folder_or_absolute_in_the_mount(tmp_path: Path) -> None:
    content = b"a/b.jpg\n./c.jpg\n/mnt/data/d.jpg\n/home/me/data/e/f.jpg\n../g.jpg\nx//y/../z\n"
    base = Base("train", ("/mnt/data", "/home/me/data"))
    found = listed(tmp_path, content, base)
    assert paths(found) == ["train/a/b.jpg", "train/c.jpg", "d.jpg", "e/f.jpg", "g.jpg", "train/x/z"]


def test_empty_lines_and_remarks_say_nothing_and_are_counted_as_lines(tmp_path: Path) -> None:
    found = listed(tmp_path, b"# an epoch\n\na\r\n   \n#b\nc")
    assert [(line.number, line.path) for line in found if isinstance(line, Line)] == [(3, "a"), (6, "c")]


def test_a_range_is_a_path_and_two_numbers_with_tabs_between(tmp_path: Path) -> None:
    (found,) = listed(tmp_path, b"shard with spaces.tar\t1024\t4096\n")
    assert isinstance(found, Line)
    assert (found.path, found.start, found.length) == ("shard with spaces.tar", 1024, 4096)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"/etc/passwd", "not in the mount"),
        (b"/mnt/database/x", "not in the mount"),
        (b"../../etc/passwd", "not in the mount"),
        (b"..", "not in the mount"),
        (b"x\t1", "a range is"),
        (b"x\t-1\t5", "a range is"),
        (b"x\t0\t0", "a range is"),
        (b"x\ta\tb", "a range is"),
        (b"x\t1\t2\t3", "a range is"),
        (b"x\t1\t%d" % (1 << 63), "a range is"),
        (b"x" * 5000, "no path"),
    ],
)
def test_a_line_that_says_nothing_readable_is_told_with_its_number(tmp_path: Path, text: bytes, why: str) -> None:
    good, bad = listed(tmp_path, b"good\n" + text + b"\n")
    assert isinstance(good, Line)
    assert isinstance(bad, Bad)
    assert bad.number == 2
    assert why in bad.why


def test_names_that_are_no_utf8_are_those_that_the_mount_shows(tmp_path: Path) -> None:
    assert paths(listed(tmp_path, b"caf\xe9.jpg\n")) == [os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.parametrize("content", [b"\x89PNG\0\0\0\rIHDR\n" * 10, bytes(range(256)) * 5000, b"x" * 1_000_000])
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OptionError, match="no list of paths"):
        listed(tmp_path, content)


def test_lines_come_out_of_a_pipe_as_they_are_written() -> None:
    reading, writing = os.pipe()
    lines = OrderList(reading, ROOT)
    assert lines.more(0.01) == []
    os.write(writing, b"a\nb\nc")
    assert paths(lines.more(0.01) or []) == ["a", "b"]
    os.write(writing, b"d\n")
    assert paths(lines.more(0.01) or []) == ["cd"]
    os.write(writing, b"e")
    os.close(writing)
    assert paths(list(all_of(lines))) == ["e"]
    assert lines.count() is None
    assert lines.find([("a", -1)]) == []
    lines.close()


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("list") / "million"
    file.write_text("".join(f"train/{number:07d}.jpg\n" for number in range(1, 1_000_001)))
    return file


def test_a_million_lines_are_counted_and_read_without_being_held(million: Path) -> None:
    lines = opened(million)
    tracemalloc.start()
    try:
        assert lines.count() == 1_000_000
        for _ in range(10):
            lines.more(0)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
        lines.close()


def test_lines_are_found_in_a_million_and_gone_to(million: Path) -> None:
    lines = opened(million, Base("train", ("/mnt/data",)))
    assert lines.find([("train/0700001.jpg", -1), ("train/0000003.jpg", -1), ("train/none", -1)]) == []
    lines.close()
    lines = opened(million)
    assert lines.find([("train/0700001.jpg", -1), ("train/0000003.jpg", -1), ("train/none", -1)]) == [3, 700_001]
    for number in (700_001, 1, 2, 1_000_000, 65_537):
        lines.go_to(number)
        first = (lines.more(0) or [])[0]
        assert isinstance(first, Line)
        assert (first.number, first.path) == (number, f"train/{number:07d}.jpg")
    lines.close()


def test_ranges_are_found_by_a_place_in_them_and_paths_by_all_their_names(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("s\t0\t100\ns\t100\t100\n# s\n/mnt/data/s\t200\t100\ns\n./t\nt\t0\t9")
    lines = opened(file)
    assert lines.find([("s", 150)]) == [2]
    assert lines.find([("s", 250)]) == [4]
    assert lines.find([("s", -1)]) == [5]
    assert lines.find([("t", -1), ("t", 8)]) == [6, 7]
    lines.close()
