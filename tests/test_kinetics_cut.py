"""Kinetics over a source that has whole videos and lists nothing: clips are cut when they are looked at, and only then.

What cuts is a stand-in: a clip's bytes tell which one it is, and each cut is counted.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from tests.clips import make_clip
from tests.memorysource import MemorySource
from tests.nodes import Nodes
from vfs.datasets import ava_kinetics, kinetics
from vfs.errors import NotFound, OptionError
from vfs.mounted import MountedDataset
from vfs.node import Directory
from vfs.sizes import Sizes
from vfs.sources import UNKNOWN_SIZE, Listed, ObjectInfo, Source

A, B, C = "AAAAAAAAAAA", "-bbbbbbbbbb", "cc_cccccc-0"
CLIPS = [f"{A}_000001_000002", f"{A}_000002_000003", f"{B}_000000_000002", f"{C}_000005_000015"]
LIST = "label,youtube_id,time_start,time_end,split\n" + "".join(
    f"abseiling,{clip[:11]},{int(clip[12:18])},{int(clip[19:])},train\n" for clip in CLIPS
)


class Videos(MemorySource):
    """Whole videos, which cannot be listed."""

    def list(self, folder: str) -> Iterator[Listed]:
        raise AssertionError("it lists nothing")


class FakeCut:
    """What cuts: see the module's docstring."""

    made: ClassVar[list["FakeCut"]] = []

    def __init__(self, source: Source, state: Path) -> None:
        self.url, self.remote = source.url, source.remote
        self.inner = source
        self.cuts: list[str] = []
        FakeCut.made.append(self)

    def list(self, folder: str) -> Iterator[Listed]:
        raise NotFound("it lists nothing")

    def stat(self, key: str) -> ObjectInfo:
        if not key.startswith("clips/"):
            return self.inner.stat(key)
        self.inner.stat(f"{key[6:17]}.mp4")
        self.cuts.append(key)
        return ObjectInfo(key, len(key), 0, "cut")

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        if not obj.key.startswith("clips/"):
            return self.inner.read(obj, start, length)
        return obj.key.encode()[start : start + length]

    def missing(self) -> Iterator[tuple[str, str]]:
        yield f"{C}.mp4", "private"

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "k700_train.csv").write_text(LIST)
    return tmp_path / "k700_train.csv"


class Tree(Nodes):
    def __init__(self, source: Source, state: Path, module: Any, csv: Path) -> None:
        self.dataset = module.open_dataset(source, module.Options(csv=(str(csv),)), state)
        self.dataset.check()
        super().__init__(MountedDataset(self.dataset, self.dataset.source, None, None, space="s", listing_age_s=1000.0))

    @property
    def cuts(self) -> list[str]:
        return FakeCut.made[-1].cuts


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Videos:
    module = ModuleType("vfs.datasets.kinetics.clips")
    module.CutSource = FakeCut  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    videos = {
        A: make_clip(tmp_path / "a.mp4", frames=120, gop=30),
        B: make_clip(tmp_path / "b.mp4", frames=70, rate=25),
    }
    return Videos({f"{youtube_id}.mp4": file.read_bytes() for youtube_id, file in videos.items()}, "youtube://")


@pytest.fixture
def tree(source: Videos, lists: Path, tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(source, tmp_path / "state", kinetics, lists)
    yield tree
    tree.mounted.close()


def sizes_of(tree: Tree, path: str) -> list[int]:
    folder = tree / path
    assert isinstance(folder, Directory)
    return [child[3] for child in folder.children() if child[0] != b"frames"]


def test_csv_files_say_which_clips_there_are_and_nothing_is_asked_for_them(tree: Tree, source: Videos) -> None:
    assert tree.listed("") == ["annotations", "by-label", "by-release", "by-split", "full", "videos"]
    assert [name for name in tree.listed("videos") if name != "frames"] == sorted(f"{clip}.mp4" for clip in CLIPS)
    assert sizes_of(tree, "videos") == [UNKNOWN_SIZE] * 4
    assert sizes_of(tree, "full") == [UNKNOWN_SIZE] * 3
    assert len(tree.listed("by-label/abseiling")) == 5
    assert sorted(tree.listed("videos/frames")) == sorted(CLIPS)
    assert tree.read("annotations/k700_train.csv") == LIST.encode()
    assert tree.cuts == source.stats == source.reads == []


def test_a_clip_is_cut_when_it_is_looked_at_and_no_other(tree: Tree) -> None:
    assert tree.read(f"videos/{CLIPS[0]}.mp4") == f"clips/{CLIPS[0]}.mp4".encode()
    assert tree.cuts == [f"clips/{CLIPS[0]}.mp4"]
    tree.read(f"videos/{CLIPS[0]}.mp4")
    assert len(tree.cuts) == 1


def test_a_clip_whose_video_is_gone_is_gone(tree: Tree) -> None:
    with pytest.raises(NotFound):
        tree.read(f"videos/{CLIPS[3]}.mp4")
    assert f"{CLIPS[3]}.mp4" not in tree.listed("videos")
    assert f"{CLIPS[2]}.mp4" in tree.listed("videos")
    with pytest.raises(NotFound):
        _ = tree / f"videos/frames/{CLIPS[3]}"
    assert list(tree.dataset.missing()) == [(f"{C}.mp4", "private")]


def test_frames_of_a_clip_are_those_of_the_whole_video_and_cut_nothing(tree: Tree) -> None:
    assert tree.listed(f"videos/frames/{CLIPS[0]}") == [f"{number:06d}.jpg" for number in range(1, 31)]
    assert [tree.number(f"videos/frames/{CLIPS[0]}/{k:06d}.jpg") for k in (1, 2, 30)] == [30, 31, 59]
    assert tree.number(f"videos/frames/{CLIPS[1]}/000001.jpg") == 60
    assert tree.number(f"by-label/abseiling/frames/{CLIPS[0]}/000003.jpg") == 32
    assert tree.number(f"full/frames/{A}/000031.jpg") == 30
    assert tree.number(f"videos/frames@fps=10/{CLIPS[0]}/000002.jpg") == 33
    assert tree.cuts == []
    with pytest.raises(NotFound):
        _ = tree / f"videos/frames/{A}_000000_000001"


def test_frames_are_the_same_after_the_clip_was_cut(tree: Tree) -> None:
    before = (tree / f"videos/frames/{CLIPS[0]}/000001.jpg").tag
    tree.read(f"videos/{CLIPS[0]}.mp4")
    assert (tree / f"videos/frames/{CLIPS[0]}/000001.jpg").tag == before
    assert tree.number(f"videos/frames/{CLIPS[0]}/000001.jpg") == 30
    other = (tree / f"videos/frames/{CLIPS[1]}/000001.jpg").tag
    assert other != before


def test_a_video_of_25_frames_a_second_gives_those_on_the_screen(tree: Tree) -> None:
    numbers = [tree.number(f"videos/frames/{CLIPS[2]}/{k:06d}.jpg") for k in (1, 2, 7, 60)]
    assert numbers == [0, 0, 5, 49]
    assert len(tree.listed(f"videos/frames/{CLIPS[2]}")) == 60


def test_sizes_of_whole_videos_are_asked_for_one_by_one(tree: Tree, source: Videos) -> None:
    tree.read(f"full/{A}.mp4")
    assert source.stats == [f"{A}.mp4"]


def test_such_a_source_needs_csv_files(source: Videos, tmp_path: Path) -> None:
    dataset = kinetics.open_dataset(source, kinetics.Options(), tmp_path)
    with pytest.raises(OptionError, match="csv=FILES"):
        dataset.check()


def test_moments_of_ava_kinetics_are_frames_of_whole_videos(source: Videos, tmp_path: Path) -> None:
    csv = tmp_path / "kinetics_train_v1.0.csv"
    csv.write_text(f"{A},1.5,0.1,0.2,0.3,0.4,17\n{A},3.100,0.1,0.2,0.3,0.4,17\n{C},7.0,0.1,0.2,0.3,0.4,17\n")
    tree = Tree(source, tmp_path / "state", ava_kinetics, csv)
    try:
        for moment, shown in (("1.5", 45), ("3.100", 93)):
            target = tree.target(f"by-timestamp/{A}/{moment}.jpg")
            assert tree.number(target.removeprefix("../../")) == shown
        assert tree.cuts == []
        assert tree.listed("by-timestamp") == [A, C]
        tree.read(f"videos/{A}_000003.mp4")
        assert tree.cuts == [f"clips/{A}_000003.mp4"]
    finally:
        tree.mounted.close()


def test_sizes_are_asked_for_ahead_elsewhere(tree: Tree) -> None:
    assert Sizes(tree.mounted.source, tree.mounted.catalog)._ahead
    assert not tree.mounted.sizes._ahead
