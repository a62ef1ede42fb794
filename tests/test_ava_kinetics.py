"""AVA-Kinetics: clips around annotated moments, and links from a moment to the frame that shows it."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_kinetics import Tree
from vfs.datasets import ava_kinetics, module_for
from vfs.datasets.kinetics.names import ava_frame, ava_shape, ava_stem, span_of
from vfs.errors import NotFound, OptionError

D, E, F = "ddddddddddd", "d-dddd_dddd", "-07ctVNyMHQ"

TRAIN = (
    f"{D},12.0,0.100,0.200,0.600,0.900,12\n{D},12.0,0.100,0.200,0.600,0.900,80\n{E},47.3,0.000,0.050,0.310,0.980,17\n"
)
TEST = f"{F},225.050500\n{F},2.5\n"
OBJECTS = {
    "annotations/kinetics_train_v1.0.csv": TRAIN.encode(),
    "annotations/kinetics_test_v1.0.csv": TEST.encode(),
    f"clips/{D}_000012.mp4": b"d",
    f"clips/{E}_000047.mp4": b"e",
    f"clips/{F}_000225.mp4": b"f",
    f"clips/{F}_000002.mp4": b"f2",
}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made = []

    def tree(objects: dict[str, bytes], **options: Any) -> Tree:
        made.append(Tree(objects, tmp_path / "state", ava_kinetics, **options))
        return made[-1]

    yield tree
    for each in made:
        each.mounted.close()


# -- the rule


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        # Seconds into the clip are 3 + ts - floor(ts), from the fourth second of the video on.
        ("12.0", 91),  # 3.0 * 30 = 90
        ("12", 91),
        ("12.000000", 91),
        ("47.3", 100),  # 3.3 * 30 = 99
        ("225.050500", 92),  # 3.0505 * 30 = 91.515
        ("17.010000", 91),  # 3.01 * 30 = 90.3
        ("31.066501", 92),  # 3.066501 * 30 = 91.99503
        ("31.066667", 93),  # 3.066667 * 30 = 92.00001
        ("4.999999", 120),  # 3.999999 * 30 = 119.99997
        ("4.0", 91),
        # Before that the clip begins with the video, and they are ts.
        ("3.999999", 120),  # 3.999999 * 30 = 119.99997
        ("3.0", 91),
        ("3.1", 94),  # 3.1 * 30 = 93; in binary 3.1 * 30 is 93.00000000000000
        ("2.5", 76),
        ("1.000000", 31),
        ("0.1", 4),  # 0.1 * 30 = 3; in binary it is 3.0000000000000004
        ("0.7", 22),  # 0.7 * 30 = 21; in binary it is 20.999999999999996
        ("0.9", 28),
        ("0", 1),
        ("0.033333", 1),
        ("0.033334", 2),
    ],
)
def test_the_frame_file_of_a_moment(moment: str, number: int) -> None:
    assert ava_frame(moment, ava_stem(D, int(float(moment)))) == number


@given(st.decimals(0, 999_999, places=6, allow_nan=False))
def test_the_frame_file_of_any_moment_is_the_last_that_begins_by_then(timestamp: Decimal) -> None:
    moment = f"{timestamp:f}"
    stem = ava_stem(D, floor(timestamp))
    span = span_of(stem)
    assert span is not None
    _, begin, end = span
    number = ava_frame(moment, stem)
    # A file k is on the screen from (k - 1) / 30 seconds after the clip's beginning until k / 30.
    assert begin + Fraction(number - 1, 30) <= Fraction(timestamp) < begin + Fraction(number, 30)
    assert end - begin == 6
    assert 1 <= number <= 120
    assert ava_shape(stem) == stem


@given(st.decimals(0, 999, places=3, allow_nan=False), st.integers(0, 9))
def test_in_a_clip_of_kinetics_a_moment_is_at_its_distance_from_the_beginning(timestamp: Decimal, before: int) -> None:
    start = max(0, floor(timestamp) - before)
    number = ava_frame(f"{timestamp:f}", f"{D}_{start:06d}_{start + 10:06d}")
    assert start + Fraction(number - 1, 30) <= Fraction(timestamp) < start + Fraction(number, 30)


# -- the tree


def test_annotated_moments_are_links_to_the_frames_of_their_clips(make: Any) -> None:
    tree = make(OBJECTS)
    assert tree.videos() == sorted([f"{D}_000012.mp4", f"{E}_000047.mp4", f"{F}_000002.mp4", f"{F}_000225.mp4"])
    assert {youtube_id: tree.listed(f"by-timestamp/{youtube_id}") for youtube_id in tree.listed("by-timestamp")} == {
        F: ["2.5.jpg", "225.050500.jpg"],
        E: ["47.3.jpg"],
        D: ["12.0.jpg"],
    }
    assert tree.target(f"by-timestamp/{D}/12.0.jpg") == f"../../videos/frames/{D}_000012/000091.jpg"
    assert tree.target(f"by-timestamp/{E}/47.3.jpg") == f"../../videos/frames/{E}_000047/000100.jpg"
    assert tree.target(f"by-timestamp/{F}/2.5.jpg") == f"../../videos/frames/{F}_000002/000076.jpg"
    with pytest.raises(NotFound):
        _ = tree / f"by-timestamp/{D}/12.jpg"


def test_each_spelling_of_a_moment_that_is_annotated_is_a_link(make: Any) -> None:
    tree = make({**OBJECTS, "annotations/kinetics_val_v1.0.csv": f"{D},12,0.1,0.2,0.6,0.9,12\n{D},12.000,\n".encode()})
    names = tree.listed(f"by-timestamp/{D}")
    assert names == ["12.0.jpg", "12.000.jpg", "12.jpg"]
    assert len({tree.target(f"by-timestamp/{D}/{name}") for name in names}) == 1


def test_splits_are_told_by_the_names_of_files(make: Any) -> None:
    tree = make(OBJECTS)
    assert tree.listed("by-split") == ["test", "train"]
    assert list(tree.links("by-split/train")) == sorted([f"{D}_000012.mp4", f"{E}_000047.mp4"])


def test_the_downloaders_list_names_clips(make: Any) -> None:
    listed = f"youtube_id,time_start,time_end\n{D},12.000000,-1.000000\n{E},47,-1\n{F},3,13\n"
    tree = make({"ava_kinetics_csv/videos_to_download.csv": listed.encode(), f"clips/{D}_12.mp4": b"d"})
    assert tree.videos() == [f"{D}_000012.mp4"]
    assert tree.listed("by-timestamp") == tree.listed("by-split") == []
    assert list(tree.dataset.missing()) == [(f"{E}_000047.mp4", "not in the store")]


def test_files_of_kinetics_are_no_annotations(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    kinetics = f"label,youtube_id,time_start,time_end,split\nabseiling,{D},10,20,train\n"
    tree = make({**OBJECTS, "annotations/train.csv": kinetics.encode(), "annotations/notes.csv": b"a,b\n1,2\n"})
    assert len(tree.videos()) == 4
    assert list(tree.dataset.missing()) == []
    assert not caplog.records


def test_a_clip_of_kinetics_stands_for_one_that_the_store_lacks(make: Any) -> None:
    objects = {name: data for name, data in OBJECTS.items() if D not in name and E not in name}
    covers, later, other = f"{D}_000007_000017.mp4", f"{D}_000013_000023.mp4", f"{'x' * 11}_000007_000017.mp4"
    objects |= {f"700_2020/train/k700_train_000/{name}": b"k" for name in (covers, later, other)}
    tree = make(objects)
    assert tree.videos() == sorted([f"{F}_000002.mp4", f"{F}_000225.mp4", covers, later])
    assert tree.target(f"by-timestamp/{D}/12.0.jpg") == f"../../videos/frames/{covers[:-4]}/000151.jpg"
    assert list(tree.links("by-split/train")) == [covers]
    assert list(tree.dataset.missing()) == [(f"{E}_000047.mp4", "not in the store")]
    with pytest.raises(NotFound):
        _ = tree / f"by-timestamp/{E}"


def test_rows_without_sense_are_left_out_and_told_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    wrong = ["../../../etc,1.0", f"{D},-1", f"{D},1e3", f"{D},nan", f"{D},../x", f"{D},1.0/../..", f"{D},0x10", f"{D}"]
    wrong += [f"{D},٣", f"{D},1" + "0" * 60_000, "A" * 100_000, "AAAAA\0AAAAA,1.0", "," * 1_000_000, f"{D},1000000"]
    text = "\n".join([TRAIN.strip(), *wrong])
    tree = make({**OBJECTS, "annotations/kinetics_train_v1.0.csv": text.encode()})
    assert tree.listed("by-timestamp") == [F, E, D]
    assert tree.listed(f"by-timestamp/{D}") == ["12.0.jpg"]
    (record,) = caplog.records
    assert f"annotations/kinetics_train_v1.0.csv: {len(wrong)} of {len(wrong) + 3} rows make no sense" in record.message


def test_facts_of_a_clip_tell_the_seconds_that_it_was_cut_from(make: Any) -> None:
    dataset = make(OBJECTS).dataset
    assert dataset.facts("videos", f"{E}_000047.mp4") == {"youtube_id": E, "start_s": "44", "end_s": "50"}
    assert dataset.facts("videos", f"{E}_000002.mp4") == {"youtube_id": E, "start_s": "0", "end_s": "6"}


def test_ava_kinetics_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="source="):
        ava_kinetics.default_source(ava_kinetics.Options(), tmp_path)
    assert module_for("ava-kinetics") is ava_kinetics
