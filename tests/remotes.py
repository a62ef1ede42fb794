"""The look-alike stores of Ego4D and Ego-Exo4D, served; and what the official downloaders would make of them.

`official_copy` is written from the datasets' documents alone and shares nothing with the mounted datasets, so that a
mount can be compared with it. It reads ROOT/<bucket>/<key>, where a store has been made with vfs.datasets.lookalike.
"""

import argparse
import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.s3server import S3Server

ENTRY = "ego4d-consortium-sharing"
REGIONS = {
    "ego4d-consortium-sharing": "us-west-2",
    "ego4d-cmu": "us-east-2",
    "ego4d-iiith": "ap-south-1",
    "ego4d-unict-milan": "eu-south-1",
    "ego4d-universityaf": "af-south-1",
    "ego4d-university-sa": "sa-east-1",
}
"""Where buckets stand; the others stand in us-east-1."""

_UNIVERSITIES = {
    "ego4d-bristol": "bristol",
    "ego4d-cmu": "cmu",
    "ego4d-universityaf": "cmu_africa",
    "ego4d-fair": "fair",
    "ego4d-consortium-sharing": "frl_track_1_public",
    "ego4d-georgiatech": "georgiatech",
    "ego4d-iiith": "iiith",
    "ego4d-indiana": "indiana",
    "ego4d-kaust": "kaust",
    "ego4d-minnesota": "minnesota",
    "ego4d-speac": "nus",
    "ego4d-sfu": "sfu",
    "ego4d-unc": "unc",
    "ego4d-university-sa": "uniandes",
    "ego4d-unict-milan": "unict",
    "ego4d-penn": "upenn",
    "ego4d-utokyo": "utokyo",
}
# The only ones that --video_uids is for.
_VIDEO_DATASETS = ("full_scale", "clips", "components/videos", "video_540ss")

_EGOEXO_ALL = (
    *("metadata", "annotations", "takes", "captures", "take_trajectory", "take_eye_gaze", "take_point_cloud"),
    *("take_vrs", "take_vrs_noimagestream", "capture_trajectory", "capture_eye_gaze", "capture_point_cloud"),
    *("downscaled_takes/448", "features/omnivore_video", "features/maws_clip_2b", "ego_pose_pseudo_gt"),
    *("expert_commentary", "take_transcription", "take_audio"),
)
_EGOEXO_DEFAULT = ("metadata", "captures", "takes", "take_trajectory", "take_vrs_noimagestream", "annotations")


def serve(root: Path, **options: Any) -> S3Server:
    """A server of the stores below the root, each bucket in its region, to be entered with `with`."""
    return S3Server(root, region="us-east-1", regions=REGIONS, **options)


def official_copy(root: Path, out: Path, command: str) -> list[str]:
    """Writes below `out` what the official command would have downloaded; returns the paths, sorted.

    `command` is `ego4d` or `egoexo` with its flags. What the tools themselves write beside it (manifest.ver) is left
    out. Raises RuntimeError where they end without having downloaded anything.
    """
    name, *flags = shlex.split(command)
    wanted: dict[str, Path] = {}
    {"ego4d": _ego4d, "egoexo": _egoexo}[name](root, flags, wanted)
    for path, source in wanted.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return sorted(wanted)


def _object(root: Path, location: str) -> Path:
    return root / location.removeprefix("s3://")


# ---- ego4d ---------------------------------------------------------------------------------------------------------


def _ego4d(root: Path, flags: list[str], wanted: dict[str, Path]) -> None:
    parser = argparse.ArgumentParser("ego4d", exit_on_error=False)
    parser.add_argument("--datasets", nargs="+", default=["annotations"])
    parser.add_argument("--version", default="v2_1", choices=("v1", "v2", "v2_1"))
    for flag in ("--benchmarks", "--universities", "--video_uids"):
        parser.add_argument(flag, nargs="+", default=[])
    parser.add_argument("--video_uid_file", type=Path)
    parser.add_argument("--metadata", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args(flags)
    if options.video_uids and options.video_uid_file:
        raise RuntimeError("--video_uids and --video_uid_file")
    uids = options.video_uids or (options.video_uid_file.read_text().split() if options.video_uid_file else [])
    if any(re.search("[A-Z]", uid) for uid in uids):
        raise RuntimeError("uids are in lower case")
    public = root / ENTRY / "public" / options.version
    if options.metadata:
        wanted["ego4d.json"] = public / "ego4d.json"
    for dataset in options.datasets:
        manifest = public / dataset / "manifest.csv"
        if not manifest.is_file():
            raise RuntimeError(f"{dataset}: no manifest")
        folder = f"{options.version.partition('_')[0]}/{dataset}"
        wanted[f"{folder}/manifest.csv"] = manifest
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        asked = uids if dataset in _VIDEO_DATASETS else []
        for row in _ego4d_rows(rows, asked, options.benchmarks, options.universities):
            source = _object(root, _location(row))
            if source.is_file():  # a row without an object is passed over
                wanted[f"{folder}/{_saved_name(row)}"] = source


def _ego4d_rows(
    rows: list[dict[str, str]], uids: list[str], benchmarks: list[str], universities: list[str]
) -> Iterable[dict[str, str]]:
    if missing := set(uids) - {_uid(row) for row in rows}:
        raise RuntimeError(f"not in the manifest: {missing}")
    asked = {name.lower() for name in benchmarks}
    for row in rows:
        if uids and _uid(row) not in uids:
            continue
        if asked and "benchmarks" in row and not asked & _tags(row["benchmarks"]):
            continue
        bucket = _location(row).removeprefix("s3://").partition("/")[0]
        if universities and _UNIVERSITIES.get(bucket, "") not in universities:
            continue
        yield row


def _uid(row: dict[str, str]) -> str:
    for column in ("file_uid", "video_uid"):
        if column in row:
            return row[column]
    raise RuntimeError("the manifest has neither file_uid nor video_uid")


def _location(row: dict[str, str]) -> str:
    return row["canonical_s3_location"] if "canonical_s3_location" in row else row["s3_path"]


def _saved_name(row: dict[str, str]) -> str:
    kind = row.get("type") or ("file" if "file_uid" in row else "video")
    return f"{_uid(row)}.mp4" if kind in ("mp4", "video") else _location(row).rpartition("/")[2]


def _tags(text: str) -> set[str]:
    return {tag for tag in text.strip("[]").replace(" ", "").lower().split("|") if tag}


# ---- egoexo --------------------------------------------------------------------------------------------------------


def _egoexo(root: Path, flags: list[str], wanted: dict[str, Path]) -> None:
    parser = argparse.ArgumentParser("egoexo", exit_on_error=False)
    parser.add_argument("--parts", nargs="+", default=["default"])
    for flag in ("--uids", "--benchmarks", "--splits", "--views"):
        parser.add_argument(flag, nargs="+")
    parser.add_argument("-u", "--universities", nargs="+")
    parser.add_argument("--release", default="v2")
    options = parser.parse_args(flags)
    parts = options.parts
    for group, members in (("all", _EGOEXO_ALL), ("default", _EGOEXO_DEFAULT)):
        if group in parts:
            # Of `all`, what has no manifest is passed over: a small store has not every part.
            parts = [p for p in members if _part(root, options.release, p).is_file()]
            break
    passes = _filter(options)
    for part in parts:
        manifest = _part(root, options.release, part)
        if not manifest.is_file():
            raise RuntimeError(f"part {part} does not exist")
        for entry in json.loads(manifest.read_text()):
            for path in entry["paths"]:
                source = _object(root, path["source_path"])
                # A file of no bytes is passed over.
                if passes(entry, path) and source.stat().st_size:
                    wanted[path["relative_path"]] = source


def _part(root: Path, release: str, part: str) -> Path:
    return root / ENTRY / "egoexo-public" / release / part / "manifest.json"


def _filter(options: argparse.Namespace) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    def passes(entry: dict[str, Any], path: dict[str, Any]) -> bool:
        held = (
            (options.uids, [entry["uid"]]),
            (options.benchmarks, entry["benchmarks"]),
            (options.splits, entry["splits"]),
            (options.views, path["views"]),
            (options.universities, path["universities"]),
        )
        return all(asked is None or tags is None or set(asked) & set(tags) for asked, tags in held)

    return passes
