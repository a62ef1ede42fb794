"""`egofs stats`: what it says of mounted videos, what it costs, and what it does where it cannot."""

import contextlib
import csv
import io
import json
import os
import pickle
import pickletools
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountd import mounts, stats
from tests.clips import make_clip
from tests.mounting import EGOFS, Mount, egofs, mounted
from tests.s3server import S3Server
from vfs.datasets import demo_tree
from vfs.datasets.lookalike.ego4d import EGO4D_CLIPS, EGO4D_VIDEOS
from vfs.errors import OptionError

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
ALL = {r.name: {v.name: [1, v.frame_count + 1] for v in r.views} for r in demo_tree.RECORDINGS}
SOME = {"a": {"x": [1, 5]}, "ä,b": {"y z": [0, 0], "z": [1, 14522]}}


# -- forms


def test_a_pickle_is_plain_and_of_the_protocol_that_training_repositories_have() -> None:
    data = stats.as_bytes(SOME, "pickle")
    assert pickle.loads(data) == SOME
    operations = {operation.name for operation, *_ in pickletools.genops(data)}
    assert not operations & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "FRAME"}
    assert data[:2] == b"\x80\x02"


def test_json_and_csv_say_the_same() -> None:
    assert json.loads(stats.as_bytes(SOME, "json")) == SOME
    rows = list(csv.reader(io.StringIO(stats.as_bytes(SOME, "csv").decode())))
    assert rows == [
        ["recording", "view", "first", "stop"],
        ["a", "x", "1", "5"],
        ["ä,b", "y z", "0", "0"],
        ["ä,b", "z", "1", "14522"],
    ]


@pytest.mark.parametrize(
    ("name", "form"), [("s.pkl", "pickle"), ("s.pickle", "pickle"), ("s.csv", "csv"), ("s.json", "json"), ("s", "json")]
)
def test_a_files_suffix_says_its_form(name: str, form: str) -> None:
    assert stats.form_of(Path(name)) == form


def test_a_recording_that_stands_twice_is_a_failure_and_not_the_last_one() -> None:
    answers: list[Any] = [(stats.Video("r", "v", Path(str(n))), [1, n]) for n in (5, 6)]
    found, failures = stats.gather(answers)
    assert found == {"r": {"v": [1, 5]}}
    assert [failure.path for failure in failures] == [Path("6")]


# -- on mounts


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> Iterator[Mount]:
    with mounted("demo", tmp_path_factory.mktemp("demo"), cache=demo_cache) as mount:
        yield mount


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of clips, one of which has a video that is none."""
    folder = tmp_path / "data"
    for name, count in (("a/one.mp4", 7), ("a/two.mkv", 8), ("b/three.mp4", 9), ("top.mp4", 5)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_clip(folder / name, frames=count, size=(64, 64))
    (folder / "a/link.mp4").symlink_to("one.mp4")
    (folder / "elsewhere.mp4").symlink_to("b/three.mp4")
    return folder


EXPECTED = {".": {"top": [1, 6]}, "a": {"one": [1, 8], "two": [1, 9]}, "b": {"three": [1, 10]}}


@pytest.mark.mount
@pytest.mark.parametrize("form", ["pickle", "json", "csv"])
def test_each_form_has_the_frames_of_all_views_under_their_full_names(demo: Mount, tmp_path: Path, form: str) -> None:
    done = egofs("stats", demo.directory, "--format", form, "-O", tmp_path / "s")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.startswith("egofs: 2 recordings, 23 videos; ")
    assert (tmp_path / "s").read_bytes() == stats.as_bytes(
        {name: dict(sorted(ALL[name].items())) for name in sorted(ALL)}, form
    )
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.mount
@pytest.mark.parametrize(
    ("views", "kept"),
    [
        ("all", lambda view: True),
        ("fixed", lambda view: view[0] == "C"),
        ("egocentric", lambda view: view[0] == "H"),
        ("v3+e4", lambda view: view in ("C10118_rgb", "HMC_84358933_mono10bit", "HMC_21179183_mono10bit")),
        ("HMC_84358933_mono10bit", lambda view: view == "HMC_84358933_mono10bit"),
    ],
)
def test_views_are_chosen_by_canonical_names_groups_and_full_names(demo: Mount, views: str, kept: Any) -> None:
    done = egofs("stats", demo / "recordings", "--views", views)
    expected = {name: {view: span for view, span in of.items() if kept(view)} for name, of in ALL.items()}
    assert json.loads(done.stdout) == {name: of for name, of in expected.items() if of}


@pytest.mark.mount
def test_a_folder_beneath_is_measured_alone_and_another_datasets_by_its_path(demo: Mount) -> None:
    one = min(ALL)
    assert json.loads(egofs("stats", demo / "recordings" / one).stdout) == {one: ALL[one]}
    found = json.loads(egofs("stats", demo / "ego4d/v2").stdout)
    assert found["ego4d/v2/full_scale"][EGO4D_VIDEOS[0].uid] == [0, 90]
    # A clip without a file is a part of another's video, and counts like its own.
    clip = EGO4D_CLIPS[3]
    assert found["ego4d/v2/clips"][clip.uid] == [0, len(os.listdir(demo / f"ego4d/v2/clips/{clip.uid}"))]


@pytest.mark.mount
def test_any_folder_of_videos_is_measured_and_links_are_not(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert json.loads(egofs("stats", mount.directory).stdout) == EXPECTED
        assert json.loads(egofs("stats", mount.directory, "--views", "link").stdout) == {"a": {"one": [1, 8]}}


@pytest.mark.mount
def test_what_cannot_be_read_is_told_and_no_whole_file_is_replaced(folder: Path, tmp_path: Path) -> None:
    (folder / "a/broken.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "s.json").write_text("a whole one")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        done = egofs("stats", mount.directory, "-O", tmp_path / "s.json")
        assert (done.returncode, done.stdout) == (1, "")
        lines = done.stderr.splitlines()
        assert lines[0] == f"egofs: {mount / 'a/frames/broken'}: Input/output error"
        assert len(lines) == 2
        assert "1 could not be read" in lines[1]
        assert lines[1].endswith(f"{tmp_path / 's.json.partial'} has the rest")
        assert (tmp_path / "s.json").read_text() == "a whole one"
        assert json.loads((tmp_path / "s.json.partial").read_text()) == EXPECTED
        assert "broken" in (mount / ".egofs/errors.log").read_text()
        (folder / "a/broken.mp4").unlink()
        (folder / "a/new.mp4").write_bytes((folder / "a/one.mp4").read_bytes())
        os.utime(folder / "a")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert egofs("stats", mount.directory, "-O", tmp_path / "s.json").returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["a"]["new"] == [1, 8]
    assert not (tmp_path / "s.json.partial").exists()


@pytest.mark.mount
def test_it_costs_the_headers_and_says_so_and_the_second_time_nothing(tmp_path: Path) -> None:
    (tmp_path / "store/bucket/r").mkdir(parents=True)
    for name in ("a", "b"):
        path = tmp_path / f"store/bucket/r/{name}.mp4"
        index_in_front = {"movflags": "+faststart"}
        make_clip(path, frames=60, size=(640, 480), options={"crf": "0"}, container_options=index_in_front)
    total = sum(path.stat().st_size for path in (tmp_path / "store/bucket/r").iterdir())
    with (
        S3Server(tmp_path / "store") as server,
        mounted(
            "s3://bucket", tmp_path / "m", f"endpoint_url={server.endpoint_url}", cache=tmp_path / "c", env=ENV
        ) as mount,
    ):
        before = len(server.requests)
        first = egofs("stats", mount.directory)
        assert json.loads(first.stdout) == {"r": {"a": [1, 61], "b": [1, 61]}}
        fetched = mount.status()["fetched"]
        assert fetched["bytes_fetched"] < total / 4
        assert mount.status()["frames_made"] == 0
        assert len(server.requests) - before <= 6
        requests = len(server.requests)
        second = egofs("stats", mount.directory)
        assert second.stderr == "egofs: 1 recordings, 2 videos; 0 B fetched in 0 requests\n"
        assert len(server.requests) == requests
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}


@pytest.mark.mount
def test_a_view_tells_its_first_and_last_frame_at_its_directorys_rate(demo: Mount) -> None:
    recording = demo / f"recordings/{max(ALL)}"
    for folder, first, last in (("frames/e4", 1, 96), ("frames@fps=0/e4", 1, 192), ("frames@fps=10/e4", 1, 32)):
        path = recording / folder
        told = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        assert told == {
            "user.egofs.first": str(first).encode(),
            "user.egofs.last": str(last).encode(),
            "user.egofs.frames": str(last - first + 1).encode(),
        }
        assert len(os.listdir(path)) == last - first + 1
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(recording / "frames/e4", "user.egofs.nothing")


@pytest.mark.mount
def test_a_terminal_sees_how_far_it_is_and_others_do_not(demo: Mount) -> None:
    reading, writing = os.openpty()
    command = [*EGOFS, "stats", str(demo.directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, check=True)
    os.close(writing)
    told = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while data := os.read(reading, 65536):
            told += data
    os.close(reading)
    assert b"23/23" in told
    assert json.loads(done.stdout) == ALL
    assert len(egofs("stats", demo.directory).stderr.splitlines()) == 1


@pytest.mark.mount
def test_bad_input_is_one_line_and_leaves_nothing(demo: Mount, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for arguments, says in (
        ([tmp_path], "no egofs is mounted here"),
        ([demo / "TSM_features"], "no videos with frames are below it"),
        ([demo / "nothing"], "no such folder"),
        ([demo / "README.txt"], "no such folder"),
        ([demo.directory, "--views", "v3+e5"], "views=e5: no video below"),
        ([demo.directory, "--format", "xml"], "'xml' is not one of"),
        ([demo.directory, "--jobs", "0"], "0 is not in the range"),
        ([demo.directory, "-O", tmp_path / "d"], "a folder is there"),
        ([demo.directory, "-O", tmp_path / "no/s.json"], "No such file or directory"),
        ([demo.directory, "-O", demo / "s.json"], "Read-only file system"),
    ):
        done = egofs("stats", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [*tmp_path.iterdir()] == [tmp_path / "d"]


@pytest.mark.mount
def test_a_mount_that_is_gone_is_one_line(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", "supervise=false", cache=tmp_path / "c") as mount:
        os.kill(mount.pid, signal.SIGKILL)
        done = egofs("stats", tmp_path / "m", "-O", tmp_path / "s.json")
        subprocess.run(["umount", "-l", tmp_path / "m"], check=True)
    assert done.returncode == 32
    assert "does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("s.json*"))


def test_a_mount_must_be_said_where_there_is_not_exactly_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (mounts.Mount(Path(place), "demo", mounts.FSTYPE, "0:1") for place in ("/a", "/a/b"))
    for there, says in (
        ([], "say which mount: nothing is mounted"),
        ([one, two], "say which mount: there are /a, /a/b"),
    ):
        monkeypatch.setattr(mounts, "egofs_mounts", lambda there=there: there)
        with pytest.raises(OptionError, match=says):
            mounts.only()
    assert mounts.of(Path("/a/b/c")) == two
    assert mounts.of(Path("/a/bc")) == one
    assert mounts.of(Path("/ab")) is None
    monkeypatch.setattr(mounts, "egofs_mounts", lambda: [one])
    assert mounts.only() == one
