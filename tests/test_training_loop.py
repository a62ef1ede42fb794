"""What training code does with Assembly101, on a mount: statistics, spans of labels, features and frames of two views.

Written from the dataset's documents and from what published loaders ask for: `recording/view/view_%010d.jpg` in one
LMDB a view, spans of coarse labels clipped to the statistics, for the egocentric view the one family's key and then the
other's.
"""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import pytest
import simplejpeg

from tests.mounting import Mount, egofs, mounted
from vfs.datasets import demo_tree
from vfs.video import stamp

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
EXO = "C10118_rgb"
EGO = ("HMC_21179183_mono10bit", "HMC_84358933_mono10bit")  # the order in which loaders try them

Stats = dict[str, dict[str, list[int]]]


@dataclass
class Lab:
    """A mount on which the features of both families were merged, with its statistics."""

    mount: Mount
    stats: Stats


@pytest.fixture(scope="module")
def lab(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    top = tmp_path_factory.mktemp("lab")
    (top / "store").mkdir()
    (top / "store/bucket").symlink_to(demo_root)
    # In a process of its own: who waits for a page of a mapped file has the interpreter, and the server would wait too.
    command = [sys.executable, "-m", "tests.s3server", top / "store"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield from _prepared(top, server)
    finally:
        server.kill()
        server.communicate()


def _prepared(top: Path, server: "subprocess.Popen[str]") -> Iterator[Lab]:
    assert server.stdout is not None
    options = (f"endpoint_url=http://127.0.0.1:{int(server.stdout.readline())}", "dataset=assembly101")
    with mounted("s3://bucket", top / "m", *options, cache=top / "c", env=ENV) as mount:
        done = egofs("stats", mount.directory, "-O", top / "stats.pkl", "--views", "v3+e4")
        assert done.returncode == 0, done.stderr
        assert (mount / "TSM_features/e4").is_dir()
        assert not (mount / "TSM_features/e4").is_symlink()
        done = egofs("lmdb", "merge", "e4", "--features", mount / "TSM_features")
        assert done.returncode == 0, done.stderr
    with mounted("s3://bucket", top / "m", *options, cache=top / "c", env=ENV) as mount:
        yield Lab(mount, pickle.loads((top / "stats.pkl").read_bytes()))


class Features:
    """One view's environment."""

    def __init__(self, folder: Path) -> None:
        self._environment = lmdb.open(str(folder), readonly=True, lock=False)

    def frame(self, recording: str, views: tuple[str, ...], number: int) -> np.ndarray:
        """The feature of a frame under the first of the views that has one."""
        with self._environment.begin() as reading:
            for view in views:
                value = reading.get(f"{recording}/{view}/{view}_{number:010d}.jpg".encode())
                if value is not None:
                    return np.frombuffer(value, "<f4")
        raise KeyError((recording, views, number))


def segments(annotations: Path, split: str, task: str) -> Iterator[tuple[str, int, int, str]]:
    """Recording, first frame, frame after the last and action of a split's labels."""
    for line in (annotations / f"coarse_splits/{split}_coarse_{task}.txt").read_text().splitlines():
        name = line.split("\t")[0]
        recording = name.removeprefix(f"{task}_").removesuffix(".txt")
        for row in (annotations / "coarse_labels" / name).read_text().splitlines():
            start, stop, action = row.split("\t")
            yield recording, int(start), int(stop), action


def clipped(stats: Stats, recording: str, view: str, start: int, stop: int) -> range:
    first, after = stats[recording][view]
    return range(max(start, first), min(stop, after))


def ego_of(stats: Stats, recording: str) -> str:
    return next(view for view in EGO if view in stats[recording])


def expected(recording: str, view: str, numbers: range) -> np.ndarray:
    return np.stack([demo_tree.feature(f"{recording}/{view}/{view}_{n:010d}.jpg") for n in numbers])


def test_statistics_are_what_the_videos_have(lab: Lab) -> None:
    assert lab.stats == {
        recording.name: {v.name: [1, v.frame_count + 1] for v in recording.views if v.canonical in ("v3", "e4")}
        for recording in demo_tree.RECORDINGS
    }


@pytest.mark.parametrize(("split", "count"), [("train", 1), ("val", 1)])
@pytest.mark.parametrize("task", ["assembly", "disassembly"])
def test_the_reading_loop_gives_the_features_of_both_views(lab: Lab, split: str, task: str, count: int) -> None:
    exo, ego = (Features(lab.mount / "TSM_features" / view) for view in (EXO, "e4"))
    annotations = lab.mount / "annotations/coarse-annotations"
    found = list(segments(annotations, split, task))
    assert len({recording for recording, *_ in found}) == count
    # A segment that runs on after the end of every video, as some of the dataset's do.
    found += [(recording, 70, 100_000, "attach wheel") for recording in {recording for recording, *_ in found}]
    for recording, start, stop, _ in found:
        family = ego_of(lab.stats, recording)
        for features, views, view in ((exo, (EXO,), EXO), (ego, EGO, family)):
            numbers = clipped(lab.stats, recording, view, start, stop)
            assert len(numbers) > 0
            read = np.stack([features.frame(recording, views, number) for number in numbers])
            assert np.array_equal(read, expected(recording, view, numbers))
            if stop == 100_000:
                with pytest.raises(KeyError):
                    features.frame(recording, views, numbers.stop)


def test_each_recording_is_of_another_family(lab: Lab) -> None:
    assert {ego_of(lab.stats, recording) for recording in lab.stats} == set(EGO)


def test_the_merged_features_are_read_from_local_disk(lab: Lab) -> None:
    features = lab.mount / "TSM_features/e4"
    assert features.is_symlink()
    before = lab.mount.status()["fetched"]["requests"]
    ego = Features(features)
    for recording, views in lab.stats.items():
        view = ego_of(lab.stats, recording)
        for number in range(*views[view]):
            ego.frame(recording, EGO, number)
    assert lab.mount.status()["fetched"]["requests"] == before


def test_the_loop_over_pictures_gives_the_frames_of_both_views(lab: Lab) -> None:
    annotations = lab.mount / "annotations/coarse-annotations"
    for split in ("train", "val"):
        recording, start, stop, _ = list(segments(annotations, split, "assembly"))[1]
        for view, camera in (("v3", EXO), ("e4", ego_of(lab.stats, recording))):
            numbers = clipped(lab.stats, recording, camera, start, stop)
            frames = lab.mount / "recordings" / recording / "frames"
            for number in numbers[::3]:
                data = (frames / view / f"{view}_{number:010d}.jpg").read_bytes()
                shown = stamp.read(simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0])
                assert shown == 2 * (number - 1)
            clip = np.load(frames / camera / f"{numbers.start}-{numbers.stop}.npy", mmap_mode="r")
            assert len(clip) == len(numbers)


def test_the_last_frame_of_the_statistics_is_there_and_none_after_it(lab: Lab) -> None:
    for recording, views in lab.stats.items():
        for view, (first, stop) in views.items():
            frames = lab.mount / "recordings" / recording / "frames" / view
            assert (frames / f"{view}_{first:010d}.jpg").exists()
            assert (frames / f"{view}_{stop - 1:010d}.jpg").exists()
            assert not (frames / f"{view}_{stop:010d}.jpg").exists()
            assert not (frames / f"{view}_{first - 1:010d}.jpg").exists()
