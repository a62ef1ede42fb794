"""Kinetics: any store of clips becomes one folder, with links by label, split and release."""

import itertools
import logging
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.memorysource import MemorySource
from tests.nodes import Nodes
from vfs.catalog import Packed
from vfs.catalog import Tree as WholeTree
from vfs.datasets import kinetics, module_for
from vfs.errors import AccessDenied, CorruptData, NotFound, OptionError
from vfs.mounted import MountedDataset
from vfs.node import Link

A, B, C, D = "AAAAAAAAAAA", "-bbbbbbbbbb", "cc_cccccc-0", "___________"
HEADER = b"label,youtube_id,time_start,time_end,split\n"


class Tree(Nodes):
    """Kinetics, or another dataset of clips, over objects in memory."""

    def __init__(self, objects: dict[str, bytes], state: Path, module: Any = kinetics, **options: Any) -> None:
        self.source = MemorySource(objects)
        self.dataset = module.open_dataset(self.source, module.Options(**options), state)
        self.dataset.check()
        super().__init__(MountedDataset(self.dataset, self.dataset.source, None, None, space="s", listing_age_s=1000.0))

    def videos(self) -> list[str]:
        return [name for name in self.listed("videos") if name != "frames"]

    def links(self, folder: str) -> dict[str, str]:
        """What each link of a folder leads to; all have to lead to a video that is there."""
        found = {name: self.target(f"{folder}/{name}") for name in self.listed(folder) if name != "frames"}
        videos = set(self.videos())
        up = "../" * (folder.count("/") + 1)
        assert all(target == f"{up}videos/{name}" and name in videos for name, target in found.items())
        return found


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made = []

    def tree(objects: dict[str, bytes], **options: Any) -> Tree:
        made.append(Tree(objects, tmp_path / "state", **options))
        return made[-1]

    yield tree
    for each in made:
        each.mounted.close()


def rows(*lines: str, header: bytes = HEADER) -> bytes:
    return header + "".join(f"{line}\n" for line in lines).encode()


TRAIN = rows(f"abseiling,{A},10,20,train", f"air drumming,{B},103,113,train", f"abseiling,{C},0,7,train")
STORE = {
    "annotations/kinetics-700_train.csv": TRAIN,
    f"{A}_000010_000020.mp4": b"a",
    f"{B}_000103_000113.mp4": b"bb",
    f"{C}_000000_000007.mp4": b"ccc",
}
NAMES = sorted(name for name in STORE if name.endswith(".mp4"))


def test_a_file_of_a_clip_tells_its_video_and_span(make: Any) -> None:
    facts = make(STORE).dataset.facts("videos", "cc_cccccc-0_000007_000017.mp4")
    assert facts == {"youtube_id": "cc_cccccc-0", "start_s": "7", "end_s": "17"}
    assert make(STORE).dataset.facts("annotations", "train.csv") == {}


# -- stores of any layout: what `reorg_kinetics_videos.py` would move into one folder

LAYOUTS = {
    "flat": "{name}",
    "a folder": "clips/{name}",
    "label folders": "abseiling and others (700)/{name}",
    "split folders": "train/{name}",
    "both": "train/abseiling/{name}",
    "extracted": "k400/train/{name}",
    "archives": "400/train/part_0/{name}",
    "archives of classes": "700_2020/train/k700_train_000/abseiling/{name}",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_clips_of_any_layout_stand_in_one_folder(make: Any, layout: str) -> None:
    objects = {layout.format(name=name) if name.endswith(".mp4") else name: data for name, data in STORE.items()}
    tree = make(objects)
    assert tree.videos() == NAMES
    assert [tree.read(f"videos/{name}") for name in NAMES] == [STORE[name] for name in NAMES]
    assert tree.links("by-label/abseiling") == {name: f"../../videos/{name}" for name in (NAMES[1], NAMES[2])}
    assert list(tree.links("by-split/train")) == NAMES


def test_names_are_given_in_their_one_form(make: Any) -> None:
    tree = make({"annotations/700.csv": TRAIN, f"x/{A}_10_20.mp4": b"a", f"{B}_0103_0113.MP4": b"bb"})
    assert tree.videos() == [f"{B}_000103_000113.mp4", f"{A}_000010_000020.mp4"]
    assert tree.read(f"videos/{A}_000010_000020.mp4") == b"a"
    assert list(tree.links("by-label/air drumming")) == [f"{B}_000103_000113.mp4"]


def test_what_is_no_clip_is_not_shown_and_told_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    others = {
        f"train/._{A}_000010_000020.mp4": b"apple",
        "train/.hidden/x_000010_000020.mp4": b"",
        "__MACOSX/train/._x.mp4": b"apple",
        "readme.txt": b"",
        "holiday.mp4": b"",
        "train/more holidays.mp4": b"",
        f"{A}.mp4": b"whole",
    }
    tree = make(STORE | others)
    assert tree.videos() == NAMES
    assert sum("3 videos are not shown" in record.message for record in caplog.records) == 1


def test_a_clip_that_stands_several_times_is_shown_once_the_first_by_path(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{A}_000010_000020.mp4"
    folders = ["picking fruit", "picking apples", "400/train", "zzz"]
    tree = make({f"{folder}/{name}": folder.encode() for folder in folders} | {"annotations/700.csv": TRAIN})
    assert tree.videos() == [name]
    assert tree.read(f"videos/{name}") == b"400/train"
    assert [r.message for r in caplog.records if "again" in r.message] == [
        "3 clips stand in the store again, such as picking apples/AAAAAAAAAAA_000010_000020.mp4: "
        "a replacement, or else the first by path, is shown"
    ]


@pytest.mark.parametrize(
    "folder", ["k400/replacement/replacement_for_corrupted_k400", "400/replacement_for_corrupted_k400", "replacement"]
)
def test_a_replacement_stands_for_the_corrupted_clip(make: Any, folder: str) -> None:
    name = f"{A}_000010_000020.mp4"
    tree = make({f"k400/train/{name}": b"corrupted", f"400/a/{name}": b"too", f"{folder}/{name}": b"good", **STORE})
    assert tree.read(f"videos/{name}") == b"good"
    assert tree.source.lists.count(folder) == 1


def test_an_empty_file_stands_for_no_clip(make: Any) -> None:
    name, other = f"{A}_000010_000020.mp4", f"{B}_000103_000113.mp4"
    tree = make({f"a/{name}": b"", f"b/{name}": b"full", f"a/{other}": b"", "annotations/700.csv": TRAIN})
    assert tree.videos() == [name]
    assert tree.read(f"videos/{name}") == b"full"
    assert list(tree.dataset.missing()) == [
        (other, "empty in the store"),
        (f"{C}_000000_000007.mp4", "not in the store"),
    ]


@pytest.mark.parametrize(
    ("folders", "shown"),
    [
        ((), "abcd"),
        (("400/val",), "b"),
        (("400",), "ab"),
        (("*/train/part_?",), "ac"),
        (("*/train/part_?", "400/val/"), "abc"),
        (("700_2020/*/k700_val_00*",), "d"),
        (("nowhere",), ""),
    ],
)
def test_folders_choose_where_clips_are_looked_for(make: Any, folders: tuple[str, ...], shown: str) -> None:
    places = {"a": "400/train/part_0", "b": "400/val/part_0", "c": "700_2020/train/part_1"}
    places["d"] = "700_2020/val/k700_val_003/abseiling"
    objects = {f"{place}/{letter * 11}_000001_000011.mp4": b"x" for letter, place in places.items()}
    tree = make({**objects, "400/annotations/train.csv": TRAIN}, folders=folders)
    assert [name[0] for name in tree.videos()] == list(shown)
    for letter, place in places.items():
        assert (place in tree.source.lists) == (letter in shown)
    assert tree.listed("annotations") == ["400"]


def test_the_root_is_known_before_the_store_is_looked_into(make: Any) -> None:
    tree = make({f"{folder}/{name}": b"x" for folder in "abc" for name in NAMES})
    assert tree.listed("") == ["annotations", "by-label", "by-release", "by-split", "videos"]
    assert tree.source.lists == [""]
    assert tree.videos() == NAMES
    assert sorted(set(tree.source.lists)) == ["", "a", "a/annotations", "b", "b/annotations", "c", "c/annotations"]
    asked = len(tree.source.lists)
    assert tree.listed("by-label") == []
    assert (tree.listed("by-split"), tree.listed("")) == (
        [],
        ["annotations", "by-label", "by-release", "by-split", "videos"],
    )
    assert len(tree.source.lists) == asked


def test_a_folder_that_cannot_be_read_costs_its_own_clips(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    objects = {f"{folder}/{folder * 11}_000001_000011.mp4": b"x" for folder in "abc"}
    tree = make(objects)

    def fail() -> None:
        if tree.source.lists[-1] == "b":
            raise CorruptData("the archive ends in the middle")

    tree.source.before_list = fail
    assert [name[0] for name in tree.videos()] == ["a", "c"]
    assert any("the archive ends in the middle" in record.message for record in caplog.records)


def test_a_store_that_refuses_shows_no_half_of_it(make: Any) -> None:
    tree = make({f"{folder}/{folder * 11}_000001_000011.mp4": b"x" for folder in "abc"})

    def fail() -> None:
        if tree.source.lists[-1] == "b":
            raise AccessDenied("b: no")

    tree.source.before_list = fail
    for _ in range(2):
        with pytest.raises(AccessDenied):
            tree.videos()
    tree.source.before_list = lambda: None
    assert len(tree.videos()) == 3


def test_a_mount_of_a_folder_that_is_not_there_fails(make: Any) -> None:
    tree = make({})

    def fail() -> None:
        raise NotFound("no such folder")

    tree.source.before_list = fail
    with pytest.raises(NotFound):
        tree.listed("")


# -- where CSV files are


@pytest.mark.parametrize(
    ("key", "place", "release"),
    [
        ("annotations/kinetics-700_2020_train.csv", "kinetics-700_2020_train.csv", "700_2020"),
        ("annotations/700/train.csv", "700/train.csv", "700"),
        ("kinetics_csv/kinetics_600_val.csv", "kinetics_600_val.csv", "600"),
        ("400/annotations/train.csv", "400/train.csv", "400"),
        ("k700-2020/annotations/train.csv", "k700-2020/train.csv", "700_2020"),
        ("mine/annotations/k400.csv", "mine/k400.csv", "400"),
        ("train_600.csv", "train_600.csv", "600"),
        ("train.csv", "train.csv", "other"),
    ],
)
def test_csv_files_are_found_and_tell_their_release(make: Any, key: str, place: str, release: str) -> None:
    tree = make({**{name: STORE[name] for name in NAMES}, key: TRAIN})
    assert tree.read(f"annotations/{place}") == TRAIN
    assert tree.listed("by-release") == [release]
    assert list(tree.links("by-label/abseiling")) == [NAMES[1], NAMES[2]]


def test_csv_files_that_an_option_names_are_the_only_ones(make: Any, tmp_path: Path) -> None:
    here = tmp_path / "lists"
    (here / "700").mkdir(parents=True)
    (here / "700/train.csv").write_bytes(rows(f"mine,{A},10,20,train"))
    (here / "notes.txt").write_text("no CSV file")
    objects = {**STORE, "elsewhere/k600.csv": rows(f"theirs,{B},103,113,val")}
    tree = make(objects, csv=(str(here), "elsewhere/k600.csv"))
    assert tree.listed("by-label") == ["mine", "theirs"]
    assert tree.read("annotations/700/train.csv") == (here / "700/train.csv").read_bytes()
    assert tree.listed("annotations") == ["700", "k600.csv"]
    assert tree.read(f"videos/{NAMES[0]}") == STORE[NAMES[0]]
    single = make(objects, csv=(str(here / "700/train.csv"),))
    assert (single.listed("by-label"), single.listed("annotations")) == (["mine"], ["train.csv"])
    folder = make(objects, csv=("elsewhere",))
    assert (folder.listed("by-label"), folder.listed("by-release")) == (["theirs"], ["600"])


def test_a_local_csv_file_that_changes_makes_another_tree(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    told = set()
    for text in (TRAIN, TRAIN + b"\n"):
        file.write_bytes(text)
        options = kinetics.Options(csv=(str(file),))
        told.add(kinetics.open_dataset(MemorySource(STORE), options, tmp_path).selection)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"csv": ("nowhere.csv",)}, "csv=nowhere.csv: neither this machine nor memory://test has such a file"),
        ({"csv": ("nowhere",)}, "csv=nowhere: neither this machine"),
        ({"release": "400"}, "release=400: no CSV file of it in memory://test; there are 700"),
        ({"release": "700+600"}, "release=600: no CSV file"),
    ],
)
def test_a_value_that_matches_nothing_is_an_error_at_mount(make: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make(STORE, **options)


@pytest.mark.parametrize("release", ["500", "kinetics", "400,600", "k400+x"])
def test_a_release_that_there_is_not_is_refused(release: str) -> None:
    with pytest.raises(OptionError, match="one of 400, 600, 700, 700_2020"):
        kinetics.Options(release=release)


def test_a_release_has_several_spellings() -> None:
    assert kinetics.Options(release="k400+kinetics-700-2020+700_2020").release == "400+700_2020+700_2020"


def test_kinetics_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="source="):
        kinetics.default_source(kinetics.Options(), tmp_path)
    assert module_for("kinetics") is kinetics


# -- releases

RELEASES = {
    "400/annotations/train.csv": b"label,youtube_id,time_start,time_end,split,is_cc\n"
    + f"picking fruit,{A},10,20,train,0\npassing american football (not in-game),{B},103,113,val,1\n".encode(),
    "600/annotations/train.csv": rows(f"picking fruit,{A},10,20,train", f"picking fruit,{C},0,7,train"),
    "700_2020/annotations/train.csv": rows(
        f"picking apples,{A},10,20,train", f"passing American football (not in-game),{B},103,113,train"
    ),
    "700_2020/annotations/val.csv": rows(f"picking fruit,{D},5,15,validate"),
    "700_2020/annotations/test.csv": rows(f"{C},0,7,test", header=b"youtube_id,time_start,time_end,split\n"),
    **{f"clips/{name}": STORE[name] for name in NAMES},
    f"clips/{D}_000005_000015.mp4": b"d",
}
a, b, c, d = (f"{A}_000010_000020.mp4", f"{B}_000103_000113.mp4", f"{C}_000000_000007.mp4", f"{D}_000005_000015.mp4")


def test_each_release_has_its_own_labels_and_splits(make: Any) -> None:
    tree = make(RELEASES)
    assert tree.listed("by-release") == ["400", "600", "700_2020"]
    assert tree.listed("by-release/700_2020") == ["by-label", "by-split"]
    labels = {
        release: {
            label: list(tree.links(f"by-release/{release}/by-label/{label}"))
            for label in tree.listed(f"by-release/{release}/by-label")
        }
        for release in tree.listed("by-release")
    }
    assert labels == {
        "400": {"passing american football (not in-game)": [b], "picking fruit": [a]},
        "600": {"picking fruit": [a, c]},
        "700_2020": {
            "passing American football (not in-game)": [b],
            "picking apples": [a],
            "picking fruit": [d],
        },
    }
    for release, found in labels.items():
        clips = list(itertools.chain(*found.values()))
        assert len(clips) == len(set(clips)), f"{release}: a clip has two labels"
    assert {s: list(tree.links(f"by-release/700_2020/by-split/{s}")) for s in ("train", "val", "test")} == {
        "train": [b, a],
        "val": [d],
        "test": [c],
    }


def test_all_releases_together_have_every_label_and_no_clip_twice_in_one(make: Any) -> None:
    tree = make(RELEASES)
    assert tree.videos() == sorted([a, b, c, d])
    assert list(tree.links("by-label/picking fruit")) == sorted([a, c, d])
    assert list(tree.links("by-label/picking apples")) == [a]
    assert {s: list(tree.links(f"by-split/{s}")) for s in tree.listed("by-split")} == {
        "test": [c],
        "train": sorted([a, b, c]),
        "val": sorted([b, d]),
    }


def test_of_a_single_release_its_folders_are_those_of_the_root(make: Any) -> None:
    tree = make(STORE)
    assert tree.listed("by-release") == ["700"]
    assert tree.target("by-release/700/by-label") == "../../by-label"
    assert tree.target("by-release/700/by-split") == "../../by-split"


def test_release_shows_what_its_files_name_alone(make: Any) -> None:
    tree = make(RELEASES, release="400")
    assert tree.videos() == sorted([a, b])
    assert tree.listed("by-label") == ["passing american football (not in-game)", "picking fruit"]
    assert tree.listed("by-release") == ["400"]
    both = make(RELEASES, release="600+700_2020")
    assert both.videos() == sorted([a, b, c, d])
    assert both.listed("by-release") == ["600", "700_2020"]


def test_clips_that_no_csv_file_names_stand_in_videos_alone(make: Any) -> None:
    tree = make({**STORE, f"x/{D}_000005_000015.mp4": b"d"})
    assert d in tree.videos()
    assert [*tree.links("by-split/train")] == NAMES


# -- what is missing


def test_what_a_csv_file_names_and_the_store_lacks_is_missing(make: Any) -> None:
    tree = make({"annotations/700.csv": TRAIN, f"{A}_000010_000020.mp4": b"a"})
    assert tree.videos() == [a]
    assert tree.listed("by-label") == ["abseiling"]
    asked = len(tree.source.lists)
    assert list(tree.dataset.missing()) == [(b, "not in the store"), (c, "not in the store")]
    assert len(tree.source.lists) == asked


def test_what_is_missing_is_known_to_the_next_mount_or_found_out_when_asked_for(make: Any, tmp_path: Path) -> None:
    objects = {"annotations/700.csv": TRAIN, f"{A}_000010_000020.mp4": b"a"}
    make(objects).videos()
    again = make(objects)
    assert [name for name, _ in again.dataset.missing()] == [b, c]
    assert again.source.lists == []
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    anew = make(objects)
    assert [name for name, _ in anew.dataset.missing()] == [b, c]
    assert anew.source.lists != []


def test_nothing_is_missing_where_all_is_there(make: Any) -> None:
    assert list(make(STORE).dataset.missing()) == []


def test_rows_by_the_thousand_are_not_as_many_objects(tmp_path: Path) -> None:
    ids = [f"{number:011d}" for number in range(12_000)]
    lists = {
        f"{release}/annotations/train.csv": rows(*(f"label {n % 99},{i},10,20,train" for n, i in enumerate(ids)))
        for release in ("400", "600", "700", "700_2020")
    }
    source = MemorySource({**lists, **{f"x/{i}_000010_000020.mp4": b"x" for i in ids}})
    dataset = kinetics.open_dataset(source, kinetics.Options(), tmp_path)
    next(iter(dataset.entries("")))
    tracemalloc.start()
    tree = dataset.entries("videos")
    assert isinstance(tree, WholeTree)
    links = sum(not isinstance(entry, Packed) for _, entry in tree.entries)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 12_000 < links < 12_100
    # The store's folder, listed as one batch, takes most of it. A tuple a row would be 8 MB more.
    assert peak < 14 << 20


def test_links_are_links(make: Any) -> None:
    tree = make(STORE)
    assert isinstance(tree / f"by-label/abseiling/{NAMES[1]}", Link)
    with pytest.raises(NotFound):
        _ = tree / f"by-label/abseiling/{NAMES[0]}"
    with pytest.raises(NotFound):
        _ = tree / "by-label/no such label"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterable[None]:
    caplog.set_level(logging.WARNING)
    return ()
