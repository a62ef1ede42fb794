"""The demo, mounted: every byte, every frame, and the tools that people use."""

import hashlib
import os
import random
import shutil
import stat
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
import simplejpeg

from tests.mounting import Mount, files_below, mounted
from tests.remotes import official_copy
from vfs.datasets.lookalike.ego4d import EGO4D_CLIPS, EGO4D_DATASETS, EGO4D_VIDEOS
from vfs.video import stamp

pytestmark = pytest.mark.mount

E = EGO4D_VIDEOS[0]
CLIP = EGO4D_CLIPS[3]


@pytest.fixture(scope="module")
def mount(tmp_path_factory, demo_cache: Path):
    with mounted("demo", tmp_path_factory.mktemp("demo"), cache=demo_cache) as mount:
        yield mount


def recordings(mount: Mount) -> list[Path]:
    return sorted((mount / "recordings").iterdir())


def videos(mount: Mount) -> list[Path]:
    return sorted(path for r in recordings(mount) for path in r.glob("*.mp4") if not path.is_symlink())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def number_in(picture: bytes) -> int:
    return stamp.read(simplejpeg.decode_jpeg(picture, colorspace="GRAY")[..., 0])


@pytest.fixture(scope="module")
def here(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that the mount must have, on local disk: as they were made, or as the official tools copy them."""
    guests = ("ego4d/", "egoexo4d/", "kinetics/")
    files = {name: path for name, path in files_below(demo_root).items() if not name.startswith(guests)}
    copies = tmp_path_factory.mktemp("copies")
    datasets = [name for name in EGO4D_DATASETS if name != "fut_loc"]
    official_copy(demo_root / "ego4d", copies / "ego4d", f"ego4d --datasets {' '.join(datasets)}")
    official_copy(demo_root / "egoexo4d", copies / "egoexo4d", "egoexo --parts all")
    # The tools pass over files of no bytes.
    (copies / "egoexo4d/captures/upenn_9901_Cooking_1/post_surveys.csv").touch()
    shutil.copytree(demo_root / "kinetics/annotations", copies / "kinetics/annotations")
    (copies / "kinetics/videos").mkdir()
    # What reorg_kinetics_videos.py does: all clips into one folder, the first of those that are there twice.
    for clip in sorted((demo_root / "kinetics").glob("[67]00/*/*.mp4")):
        youtube_id, start, stop = clip.stem.rsplit("_", 2)
        flat = copies / f"kinetics/videos/{youtube_id}_{int(start):06d}_{int(stop):06d}.mp4"
        if not flat.exists():
            shutil.copyfile(clip, flat)
    shutil.unpack_archive(demo_root / "metadata.zip", copies)
    return files | files_below(copies)


def test_every_file_has_the_sources_bytes_and_size(mount: Mount, here: dict[str, Path]) -> None:
    there = files_below(mount.directory)
    assert sorted(there) == sorted(here)
    for name, path in there.items():
        assert path.stat().st_size == here[name].stat().st_size
        assert sha256(path) == sha256(here[name]), name


def test_stat_of_every_file_says_what_reading_gives(mount: Mount) -> None:
    some_frames = [path for r in recordings(mount) for path in sorted((r / "frames").glob("*/*"))[::97]]
    for path in [*files_below(mount.directory).values(), *some_frames]:
        before = path.stat()
        assert len(path.read_bytes()) == before.st_size, path
        assert path.stat().st_size == before.st_size, path
    for path in (mount / ".egofs").iterdir():
        with path.open("rb") as file:  # these do change; an open one does not
            assert os.fstat(file.fileno()).st_size == len(file.read()), path


def test_canonical_names_are_links_beside_the_cameras_own(mount: Mount) -> None:
    first, second = sorted(recordings(mount), key=lambda path: path.name, reverse=True)
    assert os.readlink(first / "e4.mp4") == "HMC_84358933_mono10bit.mp4"
    assert os.readlink(second / "e4.mp4") == "HMC_21179183_mono10bit.mp4"
    assert sum(path.is_symlink() for path in first.iterdir()) == 12
    assert sum(path.is_symlink() for path in second.iterdir()) == 11
    assert sorted(path.name for path in (mount / "TSM_features").iterdir() if path.is_symlink()) == ["v3"]
    both = {path.name: os.readlink(path) for path in (mount / "TSM_features/e4").iterdir()}
    assert both == {name: f"../{name}" for name in ("HMC_84358933_mono10bit", "HMC_21179183_mono10bit")}
    assert (mount / "TSM_features/e4/HMC_21179183_mono10bit/data.mdb").stat().st_size > 0


def test_frames_are_named_and_numbered_as_the_training_code_expects(mount: Mount) -> None:
    first = max(recordings(mount))
    for view in ("e4", "HMC_84358933_mono10bit"):
        folder = first / "frames" / view
        names = sorted(os.listdir(folder))
        assert names[0] == f"{view}_0000000001.jpg"
        assert number_in((folder / f"{view}_0000000081.jpg").read_bytes()) == 160
        assert not (folder / f"{view}_0000000000.jpg").exists()
        assert not (folder / f"{view}_{len(names) + 1:010d}.jpg").exists()
        assert not (folder / f"{view}_81.jpg").exists()


@pytest.mark.timeout(600)
def test_every_frame_of_every_video_shows_its_own_number(mount: Mount) -> None:
    def check(video: Path) -> int:
        folder = video.parent / "frames@fps=0" / video.stem
        names = sorted(os.listdir(folder))
        for number, name in enumerate(names):
            picture = (folder / name).read_bytes()
            assert len(picture) == (folder / name).stat().st_size
            assert number_in(picture) == number, f"{folder}/{name}"
        return len(names)

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(check, videos(mount)))
    assert len(counts) == 23
    assert min(counts) >= 150


def test_random_order_gives_the_same_pictures_as_in_order(demo_cache: Path, tmp_path: Path) -> None:
    # Each order has a mount of its own and keeps nothing, so that no cache can answer for the decoder.
    digests = []
    for order in ("in order", "random"):
        with mounted("demo", tmp_path / "m", "cache=off", cache=demo_cache) as mount:
            first = max(recordings(mount))
            paths = [p for view in ("e4", "v3") for p in sorted((first / "frames" / view).iterdir())[:60]]
            if order == "random":
                random.Random(5).shuffle(paths)
            digests.append({str(path.relative_to(mount.directory)): sha256(path) for path in paths})
    assert digests[0] == digests[1]


def test_frames_of_the_other_datasets_show_their_numbers(mount: Mount) -> None:
    for folder, name, number in (
        (f"ego4d/v2/full_scale/frames/{E.uid}", f"{E.uid}_0000000089.jpg", 89),
        (f"ego4d/by-scenario/Cooking/full_scale/frames/{E.uid}", f"{E.uid}_0000000031.jpg", 31),
        (f"ego4d/v2/clips/{CLIP.uid}", f"{CLIP.uid}_0000000007.jpg", 22),  # frames of another video, from 15
        ("egoexo4d/takes/cmu_bike99_2/frame_aligned_videos/frames/ego", "000059.jpg", 59),
        ("kinetics/videos/frames/-DEMO_clip2_000103_000108", "000150.jpg", 149),
        ("kinetics/by-release/700/by-label/air drumming/frames/DEMO_clip-4_000027_000032", "000001.jpg", 0),
        ("egoexo4d/by-task/Dance/uniandes_dance_991_4/frame_aligned_videos/frames/et", "000030.jpg", 30),
    ):
        assert number_in((mount / folder / name).read_bytes()) == number, folder
        assert name in os.listdir(mount / folder)


def test_all_frames_of_a_video_have_one_size_and_listing_them_decodes_nothing(mount: Mount) -> None:
    before = mount.status()["frames_made"]
    for video in videos(mount)[::5]:
        sizes = {entry.stat().st_size for entry in os.scandir(video.parent / "frames" / video.stem)}
        assert len(sizes) == 1
    assert mount.status()["frames_made"] == before


def test_tar_keeps_files_links_and_frames_whole(mount: Mount, tmp_path: Path) -> None:
    first = max(recordings(mount)).relative_to(mount.directory)
    frame = first / "frames/e4/e4_0000000081.jpg"
    for make in ("gnu", "python"):
        archive = tmp_path / f"{make}.tar"
        names = ["annotations", str(first / "e4.mp4"), str(first / "HMC_84358933_mono10bit.mp4"), str(frame)]
        if make == "gnu":
            subprocess.run(["tar", "-C", mount.directory, "-cf", archive, *names], check=True)
        else:
            with tarfile.open(archive, "w") as tar:
                for name in names:
                    tar.add(mount / name, name)
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.isfile():
                    data = tar.extractfile(member)
                    assert data is not None
                    assert data.read() == (mount / member.name).read_bytes()
            assert tar.getmember(str(frame)).size > 0
            assert tar.getmember(str(first / "e4.mp4")).issym()


def test_cp_and_rsync_copy_the_tree_and_rsync_finds_nothing_the_second_time(
    mount: Mount, demo_root: Path, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", mount / "annotations", tmp_path / "cp"], check=True)
    assert sorted(files_below(tmp_path / "cp")) == sorted(files_below(demo_root / "annotations"))
    recording = max(recordings(mount))
    command = ["rsync", "-a", "--exclude=frames", "--itemize-changes", f"{recording}/", f"{tmp_path}/rsync/"]
    first = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "HMC_84358933_mono10bit.mp4" in first
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""
    local = demo_root / "recordings" / recording.name
    assert {n: sha256(p) for n, p in files_below(tmp_path / "rsync").items()} == {
        n: sha256(p) for n, p in files_below(local).items()
    }
    assert os.readlink(tmp_path / "rsync/e4.mp4") == "HMC_84358933_mono10bit.mp4"


def test_rsync_of_frames_finds_nothing_the_second_time(mount: Mount, tmp_path: Path) -> None:
    frames = max(recordings(mount)) / "frames/e1"
    command = ["rsync", "-a", "--itemize-changes", f"{frames}/", f"{tmp_path}/f/"]
    subprocess.run(command, check=True, capture_output=True)
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""
    assert len(list((tmp_path / "f").iterdir())) == len(list(frames.iterdir()))


def test_find_by_size_sees_the_true_sizes(mount: Mount, demo_root: Path) -> None:
    def found(root: Path) -> list[str]:
        command = ["find", "recordings", "TSM_features", "-name", "frames", "-prune"]
        command += ["-o", "-type", "f", "-size", "+100k", "-print"]
        return sorted(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split())

    assert found(mount.directory) == found(demo_root)
    assert found(demo_root)


def test_pil_opencv_and_ffmpeg_read_the_frames(mount: Mount, tmp_path: Path) -> None:
    import cv2
    from PIL import Image

    first = max(recordings(mount))
    for view, shape in (("e4", (480, 636)), ("v3", (1080, 1920))):
        path = first / "frames" / view / f"{view}_0000000041.jpg"
        with Image.open(path) as picture:
            assert stamp.read(np.asarray(picture)) == 80
        picture = cv2.imread(str(path))
        assert picture.shape == (*shape, 3)
        assert stamp.read(picture) == 80
    pattern = first / "frames/e4/e4_%010d.jpg"
    # image2 begins with the first number that is there, 1; frames 10 to 14 are numbers 11 to 15.
    command = ["ffmpeg", "-v", "error", "-i", pattern, "-vf", "select=between(n\\,10\\,14)", "-fps_mode", "passthrough"]
    subprocess.run([*command, "-q:v", "1", tmp_path / "%d.bmp"], check=True)
    numbers = [stamp.read(cv2.imread(str(tmp_path / f"{n}.bmp"))) for n in range(1, 6)]
    assert numbers == [20, 22, 24, 26, 28]


def test_opencv_and_pyav_read_the_videos_through_a_canonical_name(mount: Mount) -> None:
    import av
    import cv2

    path = max(recordings(mount)) / "v3.mp4"
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 100)
    ok, picture = capture.read()
    capture.release()
    assert ok
    assert stamp.read(picture) == 100
    with av.open(str(path)) as container:
        assert stamp.read(next(container.decode(video=0)).to_ndarray(format="gray")) == 0


def test_lmdb_opens_on_the_mount(mount: Mount) -> None:
    first = max(recordings(mount)).name
    with lmdb.open(str(mount / "TSM_features/v3"), readonly=True, lock=False) as env, env.begin() as transaction:
        value = transaction.get(f"{first}/C10118_rgb/C10118_rgb_0000000001.jpg".encode())
    assert np.frombuffer(value, "<f4").shape == (2048,)


def test_nothing_can_be_written(mount: Mount) -> None:
    first = max(recordings(mount))
    file = first / "HMC_84358933_mono10bit.mp4"
    attempts = [
        lambda: file.open("wb"),
        lambda: file.open("r+b"),
        lambda: (first / "new").touch(),
        lambda: (first / "new").mkdir(),
        lambda: file.unlink(),
        lambda: first.rmdir(),
        lambda: file.rename(first / "x"),
        lambda: (first / "x").symlink_to("y"),
        lambda: (first / "x").hardlink_to(file),
        lambda: file.chmod(0o777),
        lambda: os.utime(file),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.x", b"1"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_inode_numbers_are_stable_and_distinct(mount: Mount) -> None:
    def numbers() -> dict[str, int]:
        return {name: path.stat().st_ino for name, path in files_below(mount.directory).items()}

    first = numbers()
    Path("/proc/sys/vm/drop_caches").write_text("2") if os.access("/proc/sys/vm/drop_caches", os.W_OK) else None
    assert numbers() == first
    assert len(set(first.values())) == len(first)


def test_modes_and_kinds_are_those_of_a_read_only_tree(mount: Mount) -> None:
    assert stat.S_IMODE(mount.directory.stat().st_mode) == 0o555
    file = max(recordings(mount)) / "e4.mp4"
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert stat.S_ISLNK(file.lstat().st_mode)
    assert os.access(file, os.R_OK)


def test_extended_attributes_tell_what_a_file_is(mount: Mount, demo_root: Path) -> None:
    first = max(recordings(mount))
    path = first / "HMC_84358933_mono10bit.mp4"
    told = {name.removeprefix("user.egofs."): os.getxattr(path, name).decode() for name in os.listxattr(path)}
    assert {k: told[k] for k in ("recording", "camera", "view", "codec", "width", "height", "fps")} == {
        "recording": first.name,
        "camera": "HMC_84358933_mono10bit",
        "view": "e4",
        "codec": "hevc",
        "width": "636",
        "height": "480",
        "fps": "60",
    }
    assert int(told["frames"]) == len(os.listdir(first / "frames@fps=native/e4"))
    assert told["cached_bytes"] == str(path.stat().st_size)
    assert told["source"].endswith(f"recordings/{first.name}/HMC_84358933_mono10bit.mp4")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "user.egofs.nothing")
    frame = first / "frames/e4/e4_0000000081.jpg"
    assert os.getxattr(frame, "user.egofs.frame") == b"160"
    assert os.getxattr(frame, "user.egofs.time_s") == b"2.666667"


def test_a_variant_that_is_none_is_not_there_and_the_log_says_what_is(mount: Mount) -> None:
    first = max(recordings(mount))
    assert not (first / "frames@fsp=5").exists()
    assert not (first / "frames@").exists()
    assert not (mount / "frames").exists()
    assert "frames@fsp=5 is no variant of frames" in (mount / ".egofs/errors.log").read_text()
    assert len(os.listdir(first / "frames@fps=10/e4")) == -(-len(os.listdir(first / "frames/e4")) // 3)


def test_the_tree_is_listed_as_the_datasets_own_and_about_is_there_when_asked(mount: Mount, demo_root: Path) -> None:
    assert sorted(os.listdir(mount.directory)) == sorted([*os.listdir(demo_root), "by-split", "metadata"])
    assert sorted(os.listdir(mount / "by-split")) == ["train", "validation"]
    assert [os.path.samefile(path, max(recordings(mount))) for path in (mount / "by-split/train").iterdir()] == [True]
    assert sorted(os.listdir(mount / ".egofs")) == ["errors.log", "help.txt", "metrics", "status.json"]
    assert mount.status()["source"] == "demo"
    assert "frames/VIDEO" in (mount / ".egofs/help.txt").read_text()
