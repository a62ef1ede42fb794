"""Datasets out of their own homes, all parts together: the hub, the Drive, CVDF's archives, YouTube."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import simplejpeg

from tests.archives import tar_gz_of, zip_of
from tests.clips import make_clip
from tests.driveserver import DriveServer
from tests.hubserver import HubServer
from tests.mounting import Mount, egofs, files_below, mounted
from tests.webserver import WebServer
from tests.youtubeserver import Format, Video, YouTubeServer
from vfs.datasets import demo_tree
from vfs.video import stamp

pytestmark = pytest.mark.mount

V3, E4_8, E4_2 = demo_tree.FEATURE_VIEWS
FIRST, SECOND = (recording.name for recording in demo_tree.RECORDINGS)
# Maps files of a mount: a process that waits for a page has the interpreter, so that no server can be in it.
READ_FEATURES = """
import json, lmdb, sys
import numpy as np
from vfs.datasets import demo_tree
environment = lmdb.open(sys.argv[1], readonly=True, lock=False)
with environment.begin() as reading:
    count = 0
    for key, value in reading.cursor():
        assert np.array_equal(np.frombuffer(value, "<f4"), demo_tree.feature(key.decode())), key
        count += 1
print(json.dumps(count))
"""


def number_in(frame: Path) -> int:
    return stamp.read(simplejpeg.decode_jpeg(frame.read_bytes(), colorspace="GRAY")[..., 0])


def features_in(folder: Path) -> int:
    """How many features an environment has, each compared with what was put in."""
    done = subprocess.run([sys.executable, "-c", READ_FEATURES, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout))


@pytest.fixture(scope="module")
def home(demo_root: Path) -> dict[str, bytes]:
    """The demo's recordings as Assembly101's own stores have them: features zipped, poses in an archive of all."""
    files = {
        name: path.read_bytes()
        for name, path in files_below(demo_root).items()
        if name.startswith(("recordings/", "annotations/", "poses"))
    }
    for view in demo_tree.FEATURE_VIEWS:
        data = (demo_root / f"TSM_features/{view}/data.mdb").read_bytes()
        # One as it is, one packed, one with the path that somebody zipped it under.
        form, inside = {
            V3: (zipfile.ZIP_STORED, f"{view}/data.mdb"),
            E4_8: (zipfile.ZIP_DEFLATED, "data.mdb"),
            E4_2: (zipfile.ZIP_DEFLATED, f"TSM_features/{view}/data.mdb"),
        }[view]
        files[f"TSM_features/{view}.zip"] = zip_of({inside: data}, form)
    files["AssemblyPoses.zip"] = zip_of({f"AssemblyPoses/{FIRST}/camera_{n}.json": b"{}" for n in range(40)})
    return files


def holds_assembly101(mount: Mount) -> None:
    """What has to be true of it, whichever home it comes from."""
    features = mount / "TSM_features"
    assert {V3, f"{V3}.zip", "v3", "v3.zip", "e4"} <= set(os.listdir(features))
    assert os.listdir(features / "v3") == ["data.mdb"]
    assert features_in(features / "v3") == sum(
        view.frame_count for recording in demo_tree.RECORDINGS for view in recording.views if view.name == V3
    )
    assert sorted(os.listdir(features / "e4")) == sorted(name + end for name in (E4_8, E4_2) for end in ("", ".zip"))
    assert number_in(mount / f"recordings/{FIRST}/frames/e4/e4_0000000081.jpg") == 160
    assert len(os.listdir(mount / f"AssemblyPoses/{FIRST}")) == 40
    assert os.readlink(mount / f"recordings/{SECOND}/e4.mp4") == f"{E4_2}.mp4"
    assert os.listdir(mount / "by-split/train") == [FIRST]


def test_assembly101_is_mounted_from_the_hub_and_its_zipped_features_are_merged(
    tmp_path: Path, home: dict[str, bytes]
) -> None:
    with HubServer() as hub:
        repo = hub.repository("datasets", "cvml-nus/assembly101", gated="manual")
        for name, data in home.items():
            repo.put(name, data)
        hub.tokens = {"hf_good": {"cvml-nus/assembly101"}}
        (tmp_path / "token").write_text("hf_good\n")
        options = (f"endpoint_url={hub.url}", f"token_file={tmp_path / 'token'}")
        env = {"HF_HOME": str(tmp_path / "nobody"), "HF_TOKEN": ""}
        with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c", env=env) as mount:
            holds_assembly101(mount)
            done = egofs("stats", mount.directory, "--views", "e4", "--format", "json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)[FIRST] == {E4_8: [1, 97]}
            done = egofs("lmdb", "merge", "e4", "--features", mount / "TSM_features")
            assert done.returncode == 0, done.stderr
        with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c", env=env) as mount:
            assert (mount / "TSM_features/e4").is_symlink()
            assert features_in(mount / "TSM_features/e4") == 96 + 90
        assert "hf_good" not in "".join(path.read_text() for path in (tmp_path / "c/log").iterdir())


def test_assembly101_is_mounted_from_the_drive_and_a_second_mount_lists_nothing(
    tmp_path: Path, home: dict[str, bytes]
) -> None:
    with DriveServer() as server:
        for name, data in home.items():
            server.put(name, data)
        server.write_credentials(tmp_path / "credentials.json")
        options = (
            f"source=gdrive://{server.root}",
            f"endpoint_url={server.endpoint_url}",
            f"credentials={tmp_path / 'credentials.json'}",
        )
        with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            holds_assembly101(mount)
        asked = server.count("list")
        with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            holds_assembly101(mount)
        assert server.count("list") == asked


A, B, C = "AAAAAAAAAAA", "-bbbbbbbbbb", "cc_cccccc-0"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=60, rate=30, size=(480, 360)).read_bytes()


def test_kinetics_is_read_out_of_cvdfs_archives_each_read_once(tmp_path: Path, clip: bytes) -> None:
    top = tmp_path / "store/kinetics/400"
    (top / "annotations").mkdir(parents=True)
    (top / "train").mkdir()
    rows = [("air drumming", A, 10, 20), ("abseiling", B, 3, 13), ("abseiling", C, 0, 10)]
    (top / "annotations/train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        + "".join(f"{label},{each},{start},{stop},train,0\n" for label, each, start, stop in rows)
    )
    parts = {
        "part_0": {f"./{A}_000010_000020.mp4": clip, f"./._{A}_000010_000020.mp4": b"apple"},
        "part_1": {f"./{B}_000003_000013.mp4": clip, "./README": os.urandom(3 << 20)},
    }
    sizes = 0
    for name, files in parts.items():
        archive = tar_gz_of(files)
        sizes += len(archive)
        (top / f"train/{name}.tar.gz").write_bytes(archive)
    with WebServer(tmp_path / "store", pages="") as server:
        url = f"{server.url}/kinetics/400"
        # Whole URLs, as in CVDF's lists.
        listing = "".join(f"{url}/train/{name}.tar.gz\n" for name in parts) + "annotations/train.csv\n"
        (top / "paths.txt").write_text(listing)
        options = (f"source={url}", "manifest=paths.txt", "listing_age=3600")
        with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            names = [f"{B}_000003_000013.mp4", f"{A}_000010_000020.mp4"]
            assert sorted(set(os.listdir(mount / "videos")) - {"frames"}) == sorted(names)
            fetched = mount.status()["fetched"]["bytes_fetched"]
            assert sizes <= fetched <= sizes + 100_000
            assert set(os.listdir(mount / "by-label/air drumming")) == {f"{A}_000010_000020.mp4", "frames"}
            assert (mount / f"by-split/train/{B}_000003_000013.mp4").read_bytes() == clip
            frames = mount / f"videos/frames/{A}_000010_000020"
            assert number_in(frames / "000008.jpg") == 7
            assert simplejpeg.decode_jpeg_header((frames / "000001.jpg").read_bytes())[:2] == (256, 342)
            missing = list(csv.reader(io.StringIO((mount / ".egofs/missing.csv").read_text())))
            assert [row[:2] for row in missing[1:]] == [[f"{C}_000000_000010.mp4", "not in the store"]]
        asked = len(server.requests)
        with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
            assert len(os.listdir(mount / "videos")) == 3
            assert (mount / f"videos/{B}_000003_000013.mp4").read_bytes() == clip
        # What the mount itself looks at: its list, and the version of what it was told of before.
        assert len(server.requests) - asked <= 4


@pytest.fixture
def tube(tmp_path: Path) -> Iterator[YouTubeServer]:
    whole = make_clip(tmp_path / "whole.mp4", frames=600, rate=30, size=(480, 360), gop=30).read_bytes()
    with YouTubeServer({A: Video([Format(18, whole)]), B: Video(status="ERROR", reason="Private video")}) as server:
        yield server


def test_kinetics_clips_are_cut_out_of_youtubes_videos(tmp_path: Path, tube: YouTubeServer) -> None:
    rows = "".join(f"abseiling,{each},4,14,train\n" for each in (A, B))
    (tmp_path / "k.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")
    options = (f"source=youtube://,endpoint_url={tube.endpoint_url}", "interval=0", f"csv={tmp_path / 'k.csv'}")
    with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        videos = mount / "videos"
        assert {f"{A}_000004_000014.mp4", f"{B}_000004_000014.mp4"} <= set(os.listdir(videos))
        assert tube.extractions == 0
        # Frames come from the whole video, and none is cut for them.
        frames = videos / f"frames/{A}_000004_000014"
        assert number_in(frames / "000001.jpg") == 120
        assert not list((tmp_path / "c").rglob("clips/*/*.mp4"))
        assert len(os.listdir(frames)) == 300
        clip = (videos / f"{A}_000004_000014.mp4").read_bytes()
        assert clip[4:8] == b"ftyp"
        assert len(clip) == (videos / f"{A}_000004_000014.mp4").stat().st_size
        assert not (videos / f"{B}_000004_000014.mp4").exists()
        assert f"{B}.mp4" in (mount / ".egofs/missing.csv").read_text()
    found = tube.extractions
    with mounted("kinetics", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert (mount / f"videos/{A}_000004_000014.mp4").read_bytes() == clip
        assert not (mount / f"full/{B}.mp4").exists()
    assert tube.extractions <= found + 1
