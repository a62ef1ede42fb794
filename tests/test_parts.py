"""Frames by their other names, and parts of videos that stand elsewhere: the same pictures, decoded once."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import mounting
from tests.clips import make_clip
from tests.datasets import parts
from tests.memorysource import MemorySource
from tests.mounting import Mount, mounted
from tests.nodes import Nodes
from vfs.datasets import Part
from vfs.errors import NotFound, UndecodableVideo
from vfs.mounted import MountedDataset
from vfs.node import Directory
from vfs.video import stamp

FRAMES = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("parts")
    for folder in ("videos", "clips", "links"):
        (top / folder).mkdir()
    make_clip(top / "videos/whole.mp4", frames=FRAMES, gop=30)
    make_clip(top / "clips/real.mp4", frames=5)
    (top / "clips/notes.txt").write_text("a clip is a part of a video")
    (top / "links/notes.txt").write_text("the dataset has a link here")
    return top


# Through the tree's nodes


class Tree(Nodes):
    """The dataset over a source in memory: no kernel between."""

    def __init__(self, objects: dict[str, bytes], age_s: float = 1000.0) -> None:
        self.source = MemorySource(objects)
        super().__init__(
            MountedDataset(
                parts.Parts(self.source), self.source, None, None, space="s", listing_age_s=age_s, show_frames=True
            )
        )


@pytest.fixture
def objects(source: Path) -> dict[str, bytes]:
    return {
        "videos/whole.mp4": (source / "videos/whole.mp4").read_bytes(),
        "clips/real.mp4": (source / "clips/real.mp4").read_bytes(),
        "clips/notes.txt": b"",
        "links/notes.txt": b"",
    }


@pytest.fixture
def tree(objects: dict[str, bytes]) -> Iterator[Tree]:
    tree = Tree(objects)
    yield tree
    tree.mounted.close()


def test_a_parts_pictures_are_the_wholes_own(tree: Tree) -> None:
    whole = tree.read("videos/frames/whole/whole_0000013.jpg")
    assert tree.number("videos/frames/whole/whole_0000013.jpg") == 13
    assert tree.made == 1
    assert tree.read("clips/frames/middle/middle_0000003.jpg") == whole
    assert tree.read("clips/frames/middle/3.jpeg") == whole
    assert tree.made == 1


def test_another_name_of_a_frame_has_the_same_bytes_size_and_facts(tree: Tree) -> None:
    listed, other = tree / "videos/frames/whole/whole_0000007.jpg", tree / "videos/frames/whole/7.jpeg"
    assert (other.attributes.size_bytes, other.attributes.mtime_ns) == (
        listed.attributes.size_bytes,
        listed.attributes.mtime_ns,
    )
    assert other.tag == listed.tag
    for fact in listed.xattr_names():
        assert other.xattr(fact) == listed.xattr(fact)
    assert tree.read("videos/frames/whole/7.jpeg") == tree.read("videos/frames/whole/whole_0000007.jpg")
    assert tree.made == 1


def test_a_frames_version_tells_where_its_part_begins(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (tree / "clips/frames/middle/3.jpeg").tag
    monkeypatch.setitem(parts.PARTS, "middle", Part("videos/whole.mp4", 11, 40))
    assert (tree / "clips/frames/middle/3.jpeg").tag != before


def test_sizes_and_listings_of_parts_ask_for_no_video(tree: Tree) -> None:
    assert sorted(tree.listed("clips")) == ["frames", "notes.txt", "real.mp4"]
    assert tree.listed("clips/frames") == ["real", "middle", "end", "nothing", "beyond", "linked"]
    assert tree.source.reads == []


def test_a_part_whose_video_was_replaced_shows_the_new_one(
    objects: dict[str, bytes], source: Path, tmp_path: Path
) -> None:
    tree = Tree(objects, age_s=0.05)
    try:
        middle = tree / "clips/frames/middle"
        assert isinstance(middle, Directory)
        assert len(list(middle.children())) == 30
        shorter = make_clip(tmp_path / "shorter.mp4", frames=20)
        objects["videos/whole.mp4"] = shorter.read_bytes()
        time.sleep(1)  # a listing is believed for twenty times what it took
        assert middle.at_hand() is None
        assert len(list(middle.children())) == 10
    finally:
        tree.mounted.close()


def test_what_a_part_is_is_asked_again_when_either_listing_is_renewed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("clips", "videos"):
        middle = tree / "clips/frames/middle"
        assert isinstance(middle, Directory)
        tree.mounted.catalog.folder(folder)
        middle.lookup("3.jpeg")
        assert middle.at_hand() is not None
        tree.mounted.catalog.invalidate(folder)
        assert middle.at_hand() is None
        monkeypatch.setitem(parts.PARTS, "middle", Part("videos/whole.mp4", 20, 25))
        assert len(list(middle.children())) == 5
        monkeypatch.undo()


@pytest.mark.parametrize("path", ["links/frames/whole", "clips/frames/linked"])
def test_what_is_behind_a_link_is_asked_again_when_the_listing_of_its_goal_is_renewed(
    tree: Tree, objects: dict[str, bytes], path: str
) -> None:
    behind = tree / path
    assert isinstance(behind, Directory)
    behind.lookup("3.jpeg")
    assert behind.at_hand() is not None
    objects["videos/whole.mp4"] = b"another"
    tree.mounted.catalog.invalidate("videos")
    assert behind.at_hand() is None
    with pytest.raises(UndecodableVideo):
        behind.lookup("3.jpeg")


@pytest.mark.parametrize("view", ["gone", "nowhere", "unheard-of"])
def test_a_part_without_its_video_is_not_there(tree: Tree, view: str) -> None:
    with pytest.raises(NotFound):
        _ = tree / f"clips/frames/{view}"


@settings(max_examples=40, deadline=None)
@given(st.sets(st.from_regex(r"[ab]{1,2}(\.[abm]{1,2}){0,2}\.(mp4|mov|MOV|webm)", fullmatch=True), max_size=30))
def test_videos_are_called_by_their_stems_where_these_stand_for_one(names: set[str]) -> None:
    tree = Tree(dict.fromkeys(names, b""))
    try:
        stems = [name.rpartition(".")[0] for name in sorted(names)]
        expected = [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, sorted(names), strict=True)]
        assert (tree.listed("frames") if names else []) == expected
    finally:
        tree.mounted.close()


# Through the kernel


@pytest.fixture
def mount(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    code = (
        f"import vfs.datasets; vfs.datasets.__path__.append({str(Path(parts.__file__).parent)!r})\n"
        "from mountd.cli import main; main()"
    )
    monkeypatch.setattr(mounting, "EGOFS", [sys.executable, "-c", code])
    with mounted(source, tmp_path / "m", "dataset=parts", cache=tmp_path / "c") as mount:
        yield mount


@pytest.mark.mount
def test_parts_are_listed_where_their_videos_are_and_read_by_their_own_numbers(mount: Mount) -> None:
    assert sorted(os.listdir(mount / "clips/frames")) == ["beyond", "end", "linked", "middle", "nothing", "real"]
    assert os.listdir(mount / "clips/frames/middle") == [f"middle_{number:07d}.jpg" for number in range(30)]
    assert os.listdir(mount / "clips/frames/end") == [f"end_{number:07d}.jpg" for number in range(10)]
    assert os.listdir(mount / "clips/frames/nothing") == os.listdir(mount / "clips/frames/beyond") == []
    assert len(os.listdir(mount / "clips/frames/real")) == 5
    assert os.getxattr(mount / "clips/frames/middle/3.jpeg", "user.egofs.frame") == b"13"
    clip = np.load(mount / "clips/frames/middle/3-7.npy")
    assert [stamp.read(picture) for picture in clip] == [13, 14, 15, 16]
    clip = np.load(mount / "clips/frames@fps=10/linked/0-10.npy")
    assert [stamp.read(picture) for picture in clip] == list(range(10, 40, 3))
    with Image.open(mount / "clips/frames@format=png/middle/3.png") as picture:
        assert stamp.read(np.asarray(picture)) == 13
    for path in ("middle/middle_0000030.jpg", "middle/29-31.npy", "nothing/0.jpeg", "gone", "nowhere"):
        with pytest.raises(FileNotFoundError) as failed:
            (mount / "clips/frames" / path).stat()
        assert failed.value.errno == errno.ENOENT


@pytest.mark.mount
def test_the_names_of_a_frame_are_files_of_the_same_bytes_and_one_is_listed(mount: Mount) -> None:
    folder = mount / "videos/frames/whole"
    paths = [folder / name for name in ("whole_0000013.jpg", "13.jpeg", "000013.jpg")]
    paths += [mount / "clips/frames/middle/3.jpeg", mount / "clips/frames/linked/000003.jpg"]
    assert len({path.read_bytes() for path in paths}) == 1
    assert len({(path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_mode) for path in paths}) == 1
    assert mount.status()["frames_made"] == 1
    assert os.listdir(folder) == [f"whole_{number:07d}.jpg" for number in range(FRAMES)]
    assert os.listdir(mount / "videos/frames@format=png/whole")[7] == "whole_0000007.png"
    for missing in ("60.jpeg", "013.jpeg", "13.jpg", "13.png"):
        assert not (folder / missing).exists()
