"""Kinetics and AVA-Kinetics mounted for real, from folders and a bucket, by what their downloader's scripts do."""

import csv
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.clips import make_clip
from tests.mounting import Mount, egofs, mounted
from tests.s3server import S3Server
from vfs.video import stamp

pytestmark = pytest.mark.mount

A, B, C, D = "AAAAAAAAAAA", "-bbbbbbbbbb", "cc_cccccc-0", "d-dddd_dddd"
RATES = {A: Fraction(30), B: Fraction(25), C: Fraction(30000, 1001), D: Fraction(60)}
SECONDS = 4
SIZE = (480, 360)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of each rate, with its frames' numbers drawn in."""
    top = tmp_path_factory.mktemp("clips")
    return {
        youtube_id: make_clip(top / f"{rate.numerator}.mp4", frames=round(SECONDS * rate), rate=rate, size=SIZE, gop=30)
        for youtube_id, rate in RATES.items()
    }


@pytest.fixture(scope="module")
def store(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ActivityNet's crawler leaves behind for two releases: label folders, with clips that stand in both."""
    top = tmp_path_factory.mktemp("store")
    for release, label, youtube_id in (
        ("600", "picking fruit", A),
        ("700", "picking apples", A),
        ("700", "picking fruit", C),
        ("600", "passing american football (not in-game)", B),
        ("700", "passing American football (not in-game)", B),
        ("700", "picking fruit", D),
    ):
        folder = top / release / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips[youtube_id], folder / f"{youtube_id}_000010_{10 + SECONDS:06d}.mp4")
    (top / "kinetics_csv").mkdir()
    header = "label,youtube_id,time_start,time_end,split\n"
    (top / "kinetics_csv/kinetics-600_train.csv").write_text(
        f"{header}picking fruit,{A},10,14,train\npassing american football (not in-game),{B},10,14,train\n"
        "picking fruit,gone_______,3,13,train\n"
    )
    (top / "kinetics_csv/kinetics-700_train.csv").write_text(
        f"{header}picking apples,{A},10,14,train\npassing American football (not in-game),{B},10,14,train\n"
        f"picking fruit,{C},10,14,train\n"
    )
    (top / "kinetics_csv/kinetics-700_validate.csv").write_text(f"{header}picking fruit,{D},10,14,validate\n")
    return top


@pytest.fixture(scope="module")
def mount(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    top = tmp_path_factory.mktemp("kinetics")
    with mounted("kinetics", top / "m", f"source={store}", cache=top / "c") as mount:
        yield mount


def test_label_folders_become_one_folder_without_doubles(mount: Mount, store: Path) -> None:
    """reorg_kinetics_videos.py <videos_dir> <dst_dir>"""
    names = {f"{youtube_id}_000010_000014.mp4" for youtube_id in RATES}
    assert set(os.listdir(mount / "videos")) == {*names, "frames"}
    for name in names:
        original = next(path for path in sorted(store.rglob(name)))
        assert (mount / "videos" / name).read_bytes() == original.read_bytes()


def test_a_loop_over_csv_files_finds_each_clip_by_its_name(mount: Mount) -> None:
    """download.py <output_dir>: which names it gives, and which are there."""
    found, missing = 0, []
    for file in sorted((mount / "annotations").glob("*.csv")):
        for row in pd.read_csv(file).itertuples():
            path = mount / f"videos/{row.youtube_id}_{row.time_start:06d}_{row.time_end:06d}.mp4"
            if not path.exists():
                missing.append(path.name)
                continue
            found += 1
            assert path.stat().st_size > 1
            linked = mount / "by-label" / row.label / path.name
            assert linked.is_symlink()
            assert linked.samefile(path)
            split = {"validate": "val"}.get(row.split, row.split)
            assert (mount / "by-split" / split / path.name).samefile(path)
            release = "600" if "600" in file.name else "700"
            assert (mount / f"by-release/{release}/by-label" / row.label / path.name).samefile(path)
    assert (found, missing) == (6, ["gone________000003_000013.mp4"])


def test_labels_that_changed_do_no_harm(mount: Mount) -> None:
    for release, classes in (("600", 2), ("700", 3)):
        folder = mount / f"by-release/{release}/by-label"
        clips = [name for label in os.listdir(folder) for name in os.listdir(folder / label) if name != "frames"]
        assert len(os.listdir(folder)) == classes
        assert len(clips) == len(set(clips))
    assert len(os.listdir(mount / "by-label")) == 4


@pytest.mark.parametrize("youtube_id", RATES)
def test_frames_are_30_a_second_from_1_and_not_larger_than_256(mount: Mount, youtube_id: str) -> None:
    """frame_extract.py <videos_dir> <output_dir> --fps=30"""
    rate, stem = RATES[youtube_id], f"{youtube_id}_000010_000014"
    folder = mount / "videos/frames" / stem
    names = sorted(os.listdir(folder))
    count = math.ceil(round(SECONDS * rate) / rate * 30)
    assert names == [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for number in (1, 2, 3, 31, 100, count):
        with Image.open(folder / f"{number:06d}.jpg") as picture:
            assert picture.size == (342, 256)
            # On the screen at (number - 1) / 30 seconds.
            assert stamp.read(np.asarray(picture)) == Fraction(number - 1, 30) * rate // 1


@pytest.mark.parametrize("youtube_id", RATES)
def test_at_rate_0_every_frame_comes_in_its_own_size(mount: Mount, youtube_id: str) -> None:
    """frame_extract.py <videos_dir> <output_dir> --fps=0"""
    folder = mount / f"videos/frames@fps=0/{youtube_id}_000010_000014"
    count = round(SECONDS * RATES[youtube_id])
    assert sorted(os.listdir(folder)) == [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for number in (1, 2, count):
        with Image.open(folder / f"{number:06d}.jpg") as picture:
            assert picture.size == SIZE
            assert stamp.read(np.asarray(picture)) == number - 1


def test_another_rate_keeps_the_size_and_another_size_the_rate(mount: Mount) -> None:
    """frame_extract.py <videos_dir> <output_dir> --fps=15"""
    stem = f"{A}_000010_000014"
    assert len(os.listdir(mount / f"videos/frames@fps=15/{stem}")) == 60
    for variant, size in (("fps=15", (342, 256)), ("short=128", (170, 128)), ("width=480", SIZE)):
        with Image.open(mount / f"videos/frames@{variant}/{stem}/000003.jpg") as picture:
            assert picture.size == size
            assert stamp.read(np.asarray(picture)) == (4 if variant == "fps=15" else 2)
    assert np.load(mount / f"videos/frames/{stem}/1-9.npy").shape == (8, 256, 342, 3)


@pytest.mark.parametrize("youtube_id", RATES)
def test_ffmpeg_makes_the_same_size_and_frames_that_differ_by_rounding_alone(
    mount: Mount, clips: dict[str, Path], tmp_path: Path, youtube_id: str
) -> None:
    filters = "fps=30,scale='if(gt(iw,ih),-2,min(256,iw))':'if(gt(iw,ih),min(256,ih),-2)'"
    command = ["ffmpeg", "-v", "error", "-i", str(clips[youtube_id]), "-vf", filters, str(tmp_path / "%06d.png")]
    subprocess.run(command, check=True)
    rate, folder = RATES[youtube_id], mount / f"videos/frames@format=png/{youtube_id}_000010_000014"
    theirs = sorted(tmp_path.glob("*.png"))
    ours = sorted(folder.iterdir())
    assert len(theirs) == SECONDS * 30
    assert len(ours) - len(theirs) == (1 if youtube_id == C else 0)
    for k in (*range(1, 20), 60, 118, 119):
        with Image.open(theirs[k - 1]) as one, Image.open(ours[k - 1]) as other:
            assert one.size == other.size
            numbers = stamp.read(np.asarray(one.convert("RGB"))), stamp.read(np.asarray(other))
        # Its filter takes the last frame whose time, rounded to thirtieths (halves up), is not after (k - 1) / 30.
        assert numbers == (math.ceil((k - Fraction(1, 2)) / 30 * rate) - 1, Fraction(k - 1, 30) * rate // 1)


def test_frames_of_links_are_those_of_the_clips(mount: Mount) -> None:
    linked = mount / f"by-label/picking apples/frames/{A}_000010_000014/000031.jpg"
    assert linked.read_bytes() == (mount / f"videos/frames/{A}_000010_000014/000031.jpg").read_bytes()


def test_facts_of_a_clip_are_its_video_and_seconds(mount: Mount) -> None:
    path = mount / f"videos/{B}_000010_000014.mp4"
    names = ("youtube_id", "start_s", "end_s", "fps")
    facts = {name: os.getxattr(path, f"user.egofs.{name}").decode() for name in names}
    assert facts == {"youtube_id": B, "start_s": "10", "end_s": "14", "fps": "25"}


def test_a_bucket_is_mounted_and_known_to_the_next_mount(store: Path, tmp_path: Path) -> None:
    """CVDF's layout, with one of the releases; its clips are read from where they stand."""
    root = tmp_path / "s3"
    bucket = root / "kinetics"
    (bucket / "k400/annotations").mkdir(parents=True)
    (bucket / "k400/replacement/replacement_for_corrupted_k400").mkdir(parents=True)
    clips = sorted((store / "600").rglob("*.mp4"))
    (bucket / "k400/train").mkdir()
    for clip in clips:
        shutil.copy(clip, bucket / "k400/train" / clip.name)
    corrupted = bucket / "k400/train" / f"{A}_000010_000014.mp4"
    good = corrupted.read_bytes()
    corrupted.write_bytes(b"corrupted")
    (bucket / f"k400/replacement/replacement_for_corrupted_k400/{corrupted.name}").write_bytes(good)
    (bucket / f"k400/train/._{A}_000010_000014.mp4").write_bytes(b"AppleDouble")
    shutil.copy(store / "kinetics_csv/kinetics-600_train.csv", bucket / "k400/annotations/train.csv")
    with S3Server(root) as server:
        options = (f"endpoint_url={server.endpoint_url}", "anonymous", "release=400", "source=s3://kinetics")
        with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            assert sorted(os.listdir(mount / "by-label/picking fruit")) == [corrupted.name, "frames"]
            assert (mount / "videos" / corrupted.name).read_bytes() == good
            assert os.listdir(mount / "annotations/k400") == ["train.csv"]
        before = len(server.requests)
        with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            assert len(os.listdir(mount / "videos")) == 3
            assert (mount / "by-split/train" / corrupted.name).read_bytes() == good
        assert len(server.requests) - before <= 6
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}


def test_a_mount_says_what_is_wrong_with_its_options(store: Path, tmp_path: Path) -> None:
    for options, said in (
        ("release=400", "release=400: no CSV file of it"),
        ("release=500", "one of 400, 600, 700, 700_2020"),
        ("csv=nowhere.csv", "csv=nowhere.csv: neither this machine nor"),
    ):
        (tmp_path / "m").mkdir(exist_ok=True)
        done = egofs("mount", "kinetics", tmp_path / "m", "-o", f"source={store},{options},cache_dir={tmp_path / 'c'}")
        assert done.returncode != 0
        assert said in done.stderr
    done = egofs("mount", "kinetics", tmp_path / "m", "-o", f"cache_dir={tmp_path / 'c'}")
    assert "-o source=" in done.stderr


def test_csv_files_of_this_machine_may_stand_anywhere(store: Path, tmp_path: Path) -> None:
    lists = tmp_path / "my lists"
    lists.mkdir()
    (lists / "train.csv").write_text(f"label,youtube_id,time_start,time_end,split\nmine,{A},10,14,train\n")
    with mounted("kinetics", tmp_path / "m", f"source={store}", f"csv={lists}", cache=tmp_path / "c") as mount:
        assert os.listdir(mount / "by-label") == ["mine"]
        assert (mount / "annotations/train.csv").read_bytes() == (lists / "train.csv").read_bytes()
        assert (mount / f"by-label/mine/{A}_000010_000014.mp4").exists()
        assert len(os.listdir(mount / "videos")) == 5


# -- AVA-Kinetics


def test_annotated_moments_are_pictures(clips: dict[str, Path], tmp_path: Path) -> None:
    """The README's rule, by a loop over the annotations: which frame of which clip shows a box."""
    store = tmp_path / "store"
    (store / "annotations").mkdir(parents=True)
    (store / "clips").mkdir()
    annotated = [(A, "12.0"), (A, "12.9"), (A, "2.066667"), (D, "47.3"), (D, "47.999999"), (B, "50.5")]
    lines = [f"{youtube_id},{moment},0.1,0.2,0.3,0.4,17\n" for youtube_id, moment in annotated]
    (store / "annotations/kinetics_train_v1.0.csv").write_text("".join(lines + lines))
    for youtube_id, second in ((A, 12), (A, 2), (D, 47)):
        shutil.copy(clips[youtube_id], store / f"clips/{youtube_id}_{second:06d}.mp4")
    make_clip(store / f"clips/{B}_000050.mp4", frames=60)
    with mounted("ava-kinetics", tmp_path / "m", f"source={store}", cache=tmp_path / "c") as mount:
        with (mount / "annotations/kinetics_train_v1.0.csv").open() as file:
            rows = list(csv.reader(file))
        assert len(rows) == 12
        shown = {}
        for youtube_id, moment, *_ in rows:
            path = mount / f"by-timestamp/{youtube_id}/{moment}.jpg"
            assert path.is_symlink()
            if path.exists():
                with Image.open(path) as picture:
                    shown[youtube_id, moment] = stamp.read(np.asarray(picture))
        # A has 30 frames a second and D 60. The clip of B ends before the moment: its link leads nowhere.
        assert shown == {
            (A, "12.0"): 90,
            (A, "12.9"): 117,
            (A, "2.066667"): 62,
            (D, "47.3"): 198,
            (D, "47.999999"): 238,
        }
        assert sorted(os.listdir(mount / "by-split/train")) == [
            f"{B}_000050.mp4",
            f"{A}_000002.mp4",
            f"{A}_000012.mp4",
            f"{D}_000047.mp4",
            "frames",
        ]
