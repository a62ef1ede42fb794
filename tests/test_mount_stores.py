"""Ego4D and Ego-Exo4D mounted over S3, in several buckets and regions: beside what their official tools download."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import plain_paths
from tests.mounting import Mount, egofs, files_below, is_mounted, mounted, wait_until
from tests.remotes import official_copy, serve
from tests.s3server import S3Server

pytestmark = pytest.mark.mount

KEYS = """[{profile}]
aws_access_key_id = {key}
aws_secret_access_key = secret
"""


@dataclass
class Lab:
    """The stores, served, and whose keys they take."""

    server: S3Server
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "credentials"),
            "AWS_CONFIG_FILE": str(self.home / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def write_keys(self, key: str, profile: str = "ego4d") -> None:
        (self.home / "credentials").write_text(KEYS.format(profile=profile, key=key))

    def options(self, *more: str) -> list[str]:
        return [f"endpoint_url={self.server.endpoint_url}", "aws_profile=ego4d", *more]


@pytest.fixture
def lab(lookalikes: Path, tmp_path: Path) -> Iterator[Lab]:
    home = tmp_path / "home"
    home.mkdir()
    with serve(lookalikes, access_key_id="first") as server:
        lab = Lab(server, home)
        lab.write_keys("first")
        yield lab


ALL_OF_EGO4D = "full_scale video_540ss clips annotations imu"
COMMANDS = {
    "ego4d everything": (
        "ego4d",
        f"ego4d --datasets {ALL_OF_EGO4D}",
        f"datasets={ALL_OF_EGO4D.replace(' ', '+')}",
    ),
    "ego4d v1": ("ego4d", "ego4d --version v1 --datasets full_scale", "version=v1,datasets=full_scale"),
    "ego4d filtered": (
        "ego4d",
        "ego4d --datasets video_540ss --benchmarks FHO --universities iiith cmu --no-metadata",
        "datasets=video_540ss,benchmarks=FHO,universities=iiith+cmu,metadata=false",
    ),
    "egoexo4d everything": ("egoexo4d", "egoexo --parts all", "parts=all"),
    "egoexo4d filtered": (
        "egoexo4d",
        "egoexo --parts metadata takes take_trajectory --views ego --splits train --universities cmu upenn",
        "parts=metadata+takes+take_trajectory,views=ego,splits=train,universities=cmu+upenn",
    ),
}


@pytest.mark.parametrize(("dataset", "command", "options"), COMMANDS.values(), ids=COMMANDS)
def test_a_mount_has_what_the_official_tool_downloads_byte_by_byte(
    dataset: str, command: str, options: str, lab: Lab, lookalikes: Path, tmp_path: Path
) -> None:
    official_copy(lookalikes, tmp_path / "copy", command)
    official = {name: path.read_bytes() for name, path in files_below(tmp_path / "copy").items()}
    with mounted(dataset, tmp_path / "m", *lab.options(options), cache=tmp_path / "c", env=lab.env) as mount:
        shown = {name: path for name, path in files_below(mount.directory).items() if path.exists()}
        here = {name: path.read_bytes() for name, path in shown.items()}
        assert {name: path.stat().st_size for name, path in shown.items()} == {n: len(b) for n, b in here.items()}
    # The tool passes over files of no bytes.
    assert {name: data for name, data in here.items() if data} == official


@pytest.mark.parametrize("dataset", ["ego4d", "egoexo4d"])
def test_a_script_of_plain_paths_finds_the_same_on_a_mount_on_a_copy_and_on_a_mounted_copy(
    dataset: str, lab: Lab, lookalikes: Path, tmp_path: Path
) -> None:
    command = f"ego4d --datasets {ALL_OF_EGO4D}" if dataset == "ego4d" else "egoexo --parts all"
    copy = tmp_path / "copy"
    official_copy(lookalikes, copy, command)
    found = {"copy": _run(dataset, copy)}
    has_torch = _has("torch")
    with mounted(dataset, tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        found["mount"] = _run(dataset, mount.directory, frames=has_torch)
    with mounted(dataset, tmp_path / "n", f"source={copy}", cache=tmp_path / "d") as mount:
        found["mounted copy"] = _run(dataset, mount.directory, frames=has_torch)
    assert len(found["copy"]["media"]) > 3
    loaded = [found[name].pop("loaded", None) for name in ("mount", "mounted copy")]
    assert loaded[0] == loaded[1]
    assert (loaded[0] is not None) == has_torch
    assert found["mount"] == found["copy"]
    assert found["mounted copy"] == found["copy"]


def _run(dataset: str, root: Path, frames: bool = False) -> dict:
    command = [sys.executable, plain_paths.__file__, dataset, root, *["--frames"] * frames]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _has(library: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {library}"], capture_output=True, check=False).returncode == 0


def test_keys_that_end_are_told_with_the_page_to_renew_them_and_new_ones_work_without_a_remount(
    lab: Lab, tmp_path: Path
) -> None:
    with mounted("ego4d", tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        first, second, *_ = sorted(path for path in (mount / "v2/full_scale").glob("*.mp4") if path.exists())
        assert first.read_bytes()
        assert mount.status()["credentials"] is None
        lab.server.access_key_id = "second"  # what was issued 14 days ago is refused from now on
        with pytest.raises(PermissionError):
            second.read_bytes()
        assert first.read_bytes()  # what is kept is there
        told = (mount / ".egofs/errors.log").read_text()
        assert "14 days" in told
        assert "https://" in told
        assert "14 days" in mount.status()["credentials"]["message"]
        assert "14 days" in egofs("status", env=lab.env).stdout
        lab.write_keys("second")
        assert wait_until(lambda: _read_or_none(second))
        assert mount.status()["credentials"] is None


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except PermissionError:
        return None


WRONG = {
    "a dataset that is not there": ("ego4d", "datasets=full_scales", ["full_scale"]),
    "a benchmark": ("ego4d", "benchmarks=FH0", ["FHO"]),
    "a university": ("ego4d", "universities=mit", ["cmu", "bristol"]),
    "a uid": ("ego4d", "video_uids=99999999-0000-4000-8000-000000000000", ["99999999"]),
    "a part": ("egoexo4d", "parts=takess", ["takes"]),
    "a split": ("egoexo4d", "splits=training", ["train"]),
    "a university of Ego-Exo4D": ("egoexo4d", "universities=mit", ["cmu"]),
}


@pytest.mark.parametrize(("dataset", "option", "named"), WRONG.values(), ids=WRONG)
def test_a_value_that_matches_nothing_is_one_line_that_names_what_there_is(
    dataset: str, option: str, named: list[str], lab: Lab, tmp_path: Path
) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    options = ",".join([f"cache_dir={tmp_path / 'c'}", *lab.options(option)])
    done = egofs("mount", dataset, directory, "-o", options, env=lab.env)
    assert done.returncode == 1
    assert not is_mounted(directory)
    last = done.stderr.strip().splitlines()[-1]
    assert all(each in last for each in named), last


def test_names_by_meaning_and_canonical_cameras_lead_to_the_same_pictures(lab: Lab, tmp_path: Path) -> None:
    with mounted("egoexo4d", tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        takes = json.loads((mount / "takes.json").read_text())
        take = next(each for each in takes if (mount / each["root_dir"] / "frame_aligned_videos/ego.mp4").exists())
        here = mount / take["root_dir"] / "frame_aligned_videos"
        (aria,) = (each for each, streams in take["frame_aligned_videos"].items() if streams and "rgb" in streams)
        own = Path(take["frame_aligned_videos"][aria]["rgb"]["relative_path"]).stem
        picture = (here / "frames/ego/000000.jpg").read_bytes()
        assert picture == (here / f"frames/{own}/0.jpg").read_bytes()
        views = (f"by-university/{take['university_name']}", f"by-task/{take['parent_task_name']}")
        for view in views:
            at = mount / view / take["take_name"]
            assert (at / "frame_aligned_videos/frames/ego/000000.jpg").read_bytes() == picture
        by_uid = mount / "by-uid" / take["take_uid"]
        assert by_uid.resolve() == here.parent


def test_a_clip_without_a_file_is_frames_of_its_parent(lab: Lab, tmp_path: Path) -> None:
    with mounted("ego4d", tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        clip = next(link for link in (mount / "v2/clips").iterdir() if link.is_symlink())
        metadata = json.loads((mount / "ego4d.json").read_text())
        told = next(each for each in metadata["clips"] if each["clip_uid"] == clip.name)
        start, stop = told["video_start_frame"], told["video_end_frame"]
        pictures = sorted(clip.iterdir())
        assert len(pictures) == stop - start
        parent = mount / "v2/full_scale/frames" / told["video_uid"]
        assert pictures[1].read_bytes() == (parent / f"{told['video_uid']}_{start + 1:010d}.jpg").read_bytes()


def test_listing_asks_nothing_of_a_file(lab: Lab, tmp_path: Path) -> None:
    with mounted("ego4d", tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        lab.server.requests.clear()
        assert len(_names(mount, "v2/full_scale")) > 5
        asked = [request for request in lab.server.requests if not request.path.endswith(("manifest.csv", ".json"))]
        assert asked == []
    lab.server.requests.clear()
    with mounted("ego4d", tmp_path / "m", *lab.options(), cache=tmp_path / "c", env=lab.env) as mount:
        assert len(_names(mount, "v2/full_scale")) > 5
    assert lab.server.requests == []


def _names(mount: Mount, folder: str) -> list[str]:
    done = subprocess.run(["ls", "-U", mount / folder], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()
