"""CSV files of every shape that they come in, and of some that they should not: rows of Kinetics as tables."""

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.memorysource import MemorySource
from tests.test_kinetics import Tree
from vfs.datasets.kinetics import tables
from vfs.datasets.kinetics.lines import rows
from vfs.datasets.kinetics.tables import SPLITS, Labels, read_table, release_of

A, B, C = "AAAAAAAAAAA", "-bbbbbbbbbb", "cc_cccccc-0"
HEADER = "label,youtube_id,time_start,time_end,split"

Row = tuple[str, str, str]


def read(text: str | bytes, name: str = "annotations/k700.csv") -> list[Row] | None:
    """(clip, label, split) of the rows of a file."""
    source = MemorySource({name: text.encode() if isinstance(text, str) else text})
    labels = Labels()
    table = read_table(source, source.info(name), name, "700", labels)
    if table is None:
        return None
    told = zip(table.clips.tolist(), table.labels, table.splits, strict=True)
    return [(clip.decode(), labels.names[label], SPLITS[split]) for clip, label, split in told]


ROW = (f"{A}_000010_000020", "abseiling", "train")

SHAPES = {
    "k700": f"{HEADER}\nabseiling,{A},10,20,train\n",
    "k400": f"{HEADER},is_cc\nabseiling,{A},10,20,train,0\n",
    "no newline at the end": f"{HEADER}\nabseiling,{A},10,20,train",
    "CRLF": f"{HEADER}\r\nabseiling,{A},10,20,train\r\n",
    "BOM": f"\ufeff{HEADER}\nabseiling,{A},10,20,train\n",
    "empty lines": f"{HEADER}\n\nabseiling,{A},10,20,train\n\r\n\n",
    "quotes": f'"label","youtube_id","time_start","time_end","split"\n"abseiling","{A}","10","20","train"\n',
    "padded": f"{HEADER}\nabseiling,{A},000010,000020,train\n",
    "floats": f"{HEADER}\nabseiling,{A},10.0,20.000000,train\n",
    "blanks": f" label , youtube_id,time_start,time_end,split\nabseiling , {A}, 10, 20, train\n",
    "another order": f"split,time_end,time_start,youtube_id,label\ntrain,20,10,{A},abseiling\n",
    "an index in front": f",{HEADER}\n0,abseiling,{A},10,20,train\n",
    "crawler's names": f"label-name,video-id,start-time,end-time,split\nabseiling,{A},10,20,train\n",
    "capitals": f"Label,YouTube_ID,Time_Start,Time_End,Split\nabseiling,{A},10,20,Train\n",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_a_row_is_read_in_every_shape(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(text) == [ROW]
    assert not caplog.records


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("passing American football (not in-game)", "passing American football (not in-game)"),
        ('"massaging person\'s head"', "massaging person's head"),
        ('"mixing, stirring"', "mixing, stirring"),
        ('"a ""quoted"" one"', 'a "quoted" one'),
        ("walking/running", "walking-running"),
        ("../../../etc/passwd", "..-..-..-etc-passwd"),
        ("..", ""),
        (".", ""),
        ("", ""),
        ("/", "-"),
        ("日本語", "日本語"),
        ("x" * 255, "x" * 255),
        ("x" * 256, ""),
        ("é" * 200, ""),
        ("nul\0nul", "nul-nul"),
    ],
)
def test_a_label_is_the_name_of_a_folder_or_none(written: str, label: str) -> None:
    assert read(f"{HEADER}\n{written},{A},10,20,train\n") == [(ROW[0], label, "train")]


@pytest.mark.parametrize(
    ("written", "name", "split"),
    [
        ("train", "k700.csv", "train"),
        ("val", "k700.csv", "val"),
        ("validate", "k700.csv", "val"),
        ("validation", "k700_train.csv", "val"),
        ("TEST", "k700.csv", "test"),
        ("", "kinetics-700_2020_val.csv", "val"),
        ("", "validate.csv", "val"),
        ("", "700/test.csv", "test"),
        ("holdout", "k700.csv", ""),
        ("../x", "k700.csv", ""),
        ("", "restraint.csv", ""),
    ],
)
def test_a_split_is_told_by_its_column_or_else_by_the_files_name(written: str, name: str, split: str) -> None:
    assert read(f"{HEADER}\nabseiling,{A},10,20,{written}\n", name) == [(*ROW[:2], split)]


def test_a_test_list_has_no_labels() -> None:
    text = f"youtube_id,time_start,time_end,split\n{C},7,17,test\n{B},0,5,test\n"
    assert read(text) == [(f"{C}_000007_000017", "", "test"), (f"{B}_000000_000005", "", "test")]


WRONG = {
    "no id": "x,,10,20,train",
    "a short id": "x,AAAAAAAAAA,10,20,train",
    "a long id": "x,AAAAAAAAAAAA,10,20,train",
    "a path as an id": "x,../../../etc,10,20,train",
    "eleven characters with a slash": "x,../../x/../,10,20,train",
    "NUL in an id": "x,AAAAA\0AAAAA,10,20,train",
    "another script's digits": f"x,{A},١,٢,train",
    "times the wrong way round": f"x,{A},20,10,train",
    "no length": f"x,{A},10,10,train",
    "an open end": f"x,{A},10,-1,train",
    "halves": f"x,{A},10.5,20.5,train",
    "no numbers": f"x,{A},ten,twenty,train",
    "infinity": f"x,{A},inf,nan,train",
    "beyond six digits": f"x,{A},10,1000000,train",
    "too few columns": f"x,{A}",
    "one": "x",
    "an open quote": f'"x,{A},10,20,train',
    "far too many columns": "x," * 1_000_000,
    "a huge field": f'"{"x" * 200_000}",{A},10,20,train',
    "a huge time": f"x,{A},{'1' * 60_000},20,train",
    "Latin-1": "\udcff\udcfe",
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_row_without_sense_is_left_out_and_its_neighbours_stay(line: str, caplog: pytest.LogCaptureFixture) -> None:
    text = f"{HEADER}\nabseiling,{A},10,20,train\n{line}\nabseiling,{A},10,20,train\n"
    assert read(text.encode("utf-8", "surrogateescape")) == [ROW, ROW]
    (record,) = caplog.records
    assert "annotations/k700.csv: 1 of 3 rows make no sense and are left out, such as" in record.message
    assert len(record.message) < 250
    assert "\0" not in record.message
    assert "\n" not in record.message


def test_rows_without_sense_are_told_once_a_file(caplog: pytest.LogCaptureFixture) -> None:
    assert read(f"{HEADER}\n" + "nonsense\n" * 5000 + f"abseiling,{A},10,20,train\n") == [ROW]
    assert [record.message for record in caplog.records] == [
        "annotations/k700.csv: 5000 of 5001 rows make no sense and are left out, such as b'nonsense'"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        f"{A},12.0,0.1,0.2,0.3,0.4,17\n",
        "video_id,kinetics_start,kinetics_end,repetition_start,repetition_end,count,class\n",
        "\0\0\0\0",
        "x" * 300_000,
        "label," * 100_000,
        "id,name\n1,2\n",
    ],
)
def test_a_file_of_something_else_is_no_table(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(text) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("place", "columns", "release"),
    [
        ("annotations/kinetics_400_train.csv", (), "400"),
        ("kinetics_csv/kinetics-700_2020_val.csv", (), "700_2020"),
        ("kinetics700-2020/val.csv", (), "700_2020"),
        ("600/annotations/k400_train.csv", (), "400"),
        ("k600/annotations/train.csv", ("label",), "600"),
        ("train.csv", ("is_cc",), "400"),
        ("14000/train.csv", (), "other"),
        ("4000.csv", (), "other"),
    ],
)
def test_a_release_is_told_by_the_files_name_its_folders_or_a_column(
    place: str, columns: tuple[str, ...], release: str
) -> None:
    assert release_of(place, columns) == release


def test_lines_are_cut_the_same_wherever_ranges_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"\ufeff{HEADER}\r\nabseiling,{A},10,20,train\r\n{'y' * 70}\r\nabseiling,{A},10,20,train".encode()
    source = MemorySource({"x.csv": text})
    monkeypatch.setattr("vfs.datasets.kinetics.lines._MOST_LINE_BYTES", 64)
    expected = None
    for size in range(3, len(text) + 1):
        monkeypatch.setattr("vfs.datasets.kinetics.lines._PIECE_BYTES", size)
        found = [fields for fields, _ in rows(source, source.info("x.csv"))]
        expected = expected or found
        assert found == expected
    row = ["abseiling", A, "10", "20", "train"]
    assert expected == [HEADER.split(","), row, [], row]


class Endless(MemorySource):
    """A file that is read as if it were huge: what it is asked for, it makes."""

    size = 100 << 20

    def read(self, obj: Any, start: int, length: int) -> bytes:
        head = f"{HEADER}\n".encode() if start == 0 else b""
        return (head + b"x" * length)[:length]


def test_a_line_of_a_hundred_megabytes_is_passed_over_as_it_comes() -> None:
    source = Endless({"k700.csv": b""})
    obj = source.info("k700.csv").__class__("k700.csv", Endless.size, 0, "v")
    tracemalloc.start()
    table = read_table(source, obj, "k700.csv", "700", Labels())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table is not None
    assert len(table.clips) == 0
    assert peak < 32 << 20


def test_more_labels_than_there_can_be_cost_their_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_LABELS", 3)
    found = read(f"{HEADER}\n" + "".join(f"label {n},{A},{n},20,train\n" for n in range(5)))
    assert found is not None
    assert [label for _, label, _ in found] == ["label 0", "label 1", "label 2", "", ""]


def test_more_rows_than_a_list_can_have_are_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables, "_MOST_ROWS", 3)
    found = read(f"{HEADER}\n" + f"abseiling,{A},10,20,train\n" * 5)
    assert found == [ROW] * 3
    assert "only its first 3 rows are read" in caplog.text


def test_nothing_hostile_escapes_into_the_tree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lines = [*WRONG.values(), f"../../x,{A},10,20,../../y", f"..,{B},10,20,train", f"frames,{C},10,20,val"]
    text = "\n".join((HEADER, *lines)).encode("utf-8", "surrogateescape")
    clips = {f"x/{youtube_id}_10_20.mp4": b"x" for youtube_id in (A, B, C)}
    tree = Tree({"annotations/700.csv": text, **clips}, tmp_path)
    try:
        assert tree.listed("by-label") == ["..-..-x", "frames"]
        assert tree.listed("by-split") == ["train", "val"]
        assert tree.listed("by-release") == ["700"]
        assert list(tree.links("by-label/..-..-x")) == [f"{A}_000010_000020.mp4"]
        assert sorted(tree.listed("")) == ["annotations", "by-label", "by-release", "by-split", "videos"]
        assert len(caplog.records) == 1
    finally:
        tree.mounted.close()
