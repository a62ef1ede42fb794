"""Metadata as large as the datasets' own, on a smaller scale: what a mount asks for before it shows a name."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import full_size
from tests.mounting import mounted
from tests.s3server import S3Server
from tests.test_mount_s3 import ENV, options

VIDEOS, TAKES = 300, 128


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full-size")
    full_size.make_ego4d(root, VIDEOS)
    full_size.make_egoexo4d(root, TAKES)
    return root


def digest(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


def test_what_is_made_is_the_same_each_time(root: Path, tmp_path: Path) -> None:
    full_size.make_ego4d(tmp_path, VIDEOS)
    full_size.make_egoexo4d(tmp_path, TAKES)
    assert digest(root) == digest(tmp_path)


def test_six_datasets_name_every_video_and_nineteen_parts_every_take(root: Path) -> None:
    entry = root / full_size.ENTRY_BUCKET
    with (entry / "public/v2_1/full_scale/manifest.csv").open(newline="") as text:
        videos = {row["video_uid"] for row in csv.DictReader(text)}
    assert len(videos) == VIDEOS
    counts = {file.parent.name: len(file.read_text().splitlines()) - 1 for file in entry.glob("public/v2_1/*/*.csv")}
    assert sorted(counts.values()) == [40, *[VIDEOS] * 6]
    whole = json.loads((entry / "public/v2_1/ego4d.json").read_bytes())
    assert {video["video_uid"] for video in whole["videos"]} == videos
    assert len(whole["clips"]) == VIDEOS * 12 // 10
    manifests = [json.loads(file.read_bytes()) for file in entry.glob("egoexo-public/v2/**/manifest.json")]
    assert len(manifests) == 19
    assert sum(len(manifest) == TAKES for manifest in manifests) == 13
    paths = [path["relative_path"] for manifest in manifests for each in manifest for path in each["paths"]]
    assert len(set(paths)) == len(paths) > 60 * TAKES


DOCUMENTS = {
    "ego4d": {"manifest.csv", "datasets.csv", "ego4d.json"},
    "egoexo4d": {"manifest.json", "takes.json", "captures.json", "splits.json"},
}
MOST_REQUESTS = 2 * 60
"""A HEAD and a GET for each document there might be, however many files they name."""


def names_below(folder: Path) -> Iterator[str]:
    """What `ls -R` without -l shows; of a video's frames, no more than that there are some."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        yield entry.path
        if entry.is_dir(follow_symlinks=False) and folder.name != "frames" and entry.name != ".egofs":
            yield from names_below(Path(entry.path))


@pytest.mark.mount
@pytest.mark.parametrize("dataset", DOCUMENTS)
def test_listing_everything_reads_the_documents_once_and_asks_for_no_file(
    root: Path, tmp_path: Path, dataset: str
) -> None:
    listed = []
    with S3Server(root) as server:
        for methods in ({"HEAD", "GET"}, {"HEAD"}):
            server.requests.clear()
            with mounted(dataset, tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
                listed.append(sorted(names_below(mount.directory)))
            assert {Path(request.path).name for request in server.requests} <= DOCUMENTS[dataset]
            assert {request.method for request in server.requests} <= methods
            assert len(server.requests) <= MOST_REQUESTS
            gets = [request.path for request in server.requests if request.method == "GET"]
            assert len(gets) == len(set(gets))
    assert listed[0] == listed[1]
    assert len(listed[0]) > 20 * MOST_REQUESTS
