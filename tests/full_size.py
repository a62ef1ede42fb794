"""The metadata of Ego4D and Ego-Exo4D at their true size, made up: what a mount reads before it can show a name.

    python -m tests.full_size ROOT [--videos N] [--takes N]

Writes folders ROOT/<bucket>/<key> as the stores have them: manifests and JSON files and no media, the same ones each
time. Shapes and counts are those of the published documentation: 10,000 videos in six datasets, 12,000 clips of which
2,000 have no file; 5,035 takes of 787 captures, whose 19 parts name twelve videos a take and all that goes with them,
330,000 files together. Every uid, name and number is made up.
"""

import argparse
import csv
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

VIDEOS = 10_000
TAKES = 5_035
ENTRY_BUCKET = "ego4d-consortium-sharing"

UNIVERSITIES = {
    "bristol": "ego4d-bristol",
    "cmu": "ego4d-cmu",
    "cmu_africa": "ego4d-universityaf",
    "fair": "ego4d-fair",
    "frl_track_1_public": "ego4d-consortium-sharing",
    "georgiatech": "ego4d-georgiatech",
    "iiith": "ego4d-iiith",
    "indiana": "ego4d-indiana",
    "kaust": "ego4d-kaust",
    "minnesota": "ego4d-minnesota",
    "nus": "ego4d-speac",
    "sfu": "ego4d-sfu",
    "unc": "ego4d-unc",
    "uniandes": "ego4d-university-sa",
    "unict": "ego4d-unict-milan",
    "upenn": "ego4d-penn",
    "utokyo": "ego4d-utokyo",
}
_SCENARIOS = [f"{what} / {where}" for what in ("Cooking", "Cleaning", "Playing", "Repairing") for where in range(35)]
_BENCHMARKS = ("EM", "FHO", "AV", "VQ", "NLQ", "MQ")
_FULL_SCALE = (
    "video_uid,path,duration_sec,scenarios,split_em,split_av,split_fho,benchmarks,origin_video_id,video_source,device,"
    "deid_scrubbed_audio,deid_scrubbed_faces,physical_setting_name,fb_participant_id,display_resolution_width,"
    "display_resolution_height,sample_resolution_width,sample_resolution_height,release_1,canonical_s3_location,"
    "canonical_fps,canonical_display_width,canonical_display_height,canonical_num_frames,canonical_mp4_duration_sec,"
    "canonical_video_start_sec,canonical_video_duration_sec,canonical_audio_start_sec,canonical_audio_duration_sec,"
    "canonical_video_start_pts,canonical_video_duration_pts,canonical_video_base_numerator,"
    "canonical_video_base_denominator,canonical_audio_start_pts,canonical_audio_duration_pts,"
    "canonical_audio_base_numerator,canonical_audio_base_denominator,canonical_audio_channel_layout,"
    "canonical_audio_channel_rate_hz,canonical_is_validated"
)


def uids(seed: str) -> Iterator[str]:
    """Version 4 UUIDs, always the same ones for a seed."""
    dice = random.Random(seed)
    while True:
        digits = f"{dice.getrandbits(128):032x}"
        yield f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


# ---- Ego4D


def make_ego4d(root: Path, videos: int = VIDEOS) -> None:
    """v2_1 of Ego4D with so many videos, and 1.2 clips for each."""
    public = root / ENTRY_BUCKET / "public/v2_1"
    made = list(_videos(videos))
    clips = list(_clips(made))
    with_files = clips[: len(clips) * 10 // 12]
    manifests = {
        "full_scale": [_full_scale_row(video) for video in made],
        "video_540ss": [_row(video, "video_540ss", ".mp4") for video in made],
        "imu": [_row(video, "imu", ".csv") for video in made],
        "slowfast8x8_r101_k400": [_row(video, "slowfast8x8_r101_k400", ".pt") for video in made],
        "omnivore_video_swinl": [_row(video, "omnivore_video_swinl", ".pt") for video in made],
        "clips": [_clip_row(clip) for clip in with_files],
        "annotations": list(_annotation_rows()),
    }
    for dataset, rows in manifests.items():
        _write_csv(public / dataset / "manifest.csv", list(rows[0]), rows)
    described = [{"dataset": dataset, "description": f"made-up rows of {dataset}"} for dataset in manifests]
    _write_csv(public / "datasets.csv", ["dataset", "description"], described)
    whole = {
        "date": "240101",
        "version": "2.1",
        "description": "made up",
        "videos": [_of_video(video) for video in made],
        "concurrent_video_sets": [],
        "physical_settings": [],
        "clips": [_of_clip(clip) for clip in clips],
    }
    _write_json(public / "ego4d.json", whole)


def _videos(count: int) -> Iterator[dict[str, Any]]:
    dice = random.Random("videos")
    names = list(UNIVERSITIES)
    for uid in (uid for uid, _ in zip(uids("video"), range(count), strict=False)):
        university = dice.choice(names)
        yield {
            "uid": uid,
            "university": university,
            "bucket": UNIVERSITIES[university],
            "frames": dice.randrange(9_000, 60_000),
            "scenarios": dice.sample(_SCENARIOS, dice.choice((1, 1, 2, 3))),
            "benchmarks": sorted(dice.sample(_BENCHMARKS, dice.choice((0, 1, 2, 3)))),
            "redactions": dice.choice((0, 0, 0, 2, 12)),
            "components": dice.choice((1, 2, 3, 6)),
        }


def _clips(videos: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    dice = random.Random("clips")
    for uid, _ in zip(uids("clip"), range(len(videos) * 12 // 10), strict=False):
        video = dice.choice(videos)
        start = dice.randrange(0, video["frames"] - 8_900)
        yield {"uid": uid, "video": video, "start": start, "stop": start + dice.randrange(300, 8_900)}


def _row(video: dict[str, Any], dataset: str, suffix: str) -> dict[str, Any]:
    return {
        "video_uid": video["uid"],
        "s3_path": f"s3://{video['bucket']}/public/v2/{dataset}/{video['uid']}{suffix}",
        "type": "video" if suffix == ".mp4" else "file",
        "benchmarks": f"[{'|'.join(video['benchmarks'])}]",
    }


def _full_scale_row(video: dict[str, Any]) -> dict[str, Any]:
    location = f"s3://{video['bucket']}/public/v2/full_scale/{video['uid']}.mp4"
    known = {
        "video_uid": video["uid"],
        "path": location,
        "canonical_s3_location": location,
        "scenarios": "|".join(video["scenarios"]),
        "benchmarks": f"[{'|'.join(video['benchmarks'])}]",
        "video_source": video["university"],
        "canonical_fps": "30.0",
        "canonical_num_frames": video["frames"],
        "canonical_is_validated": "True",
    }
    seconds = f"{video['frames'] / 30:.6f}"
    return {column: known.get(column, seconds) for column in _FULL_SCALE.split(",")}


def _clip_row(clip: dict[str, Any]) -> dict[str, Any]:
    return {
        "exported_clip_uid": clip["uid"],
        "parent_video_uid": clip["video"]["uid"],
        "parent_start_sec": clip["start"] / 30,
        "parent_end_sec": clip["stop"] / 30,
        "s3_path": f"s3://{clip['video']['bucket']}/public/v2/clips/{clip['uid']}.mp4",
        "manifold_location": "",
    }


def _annotation_rows() -> Iterator[dict[str, Any]]:
    for uid, number in zip(uids("annotation"), range(40), strict=False):
        name = f"annotation_{number:02d}"
        yield {
            "file_uid": uid,
            "annotation": name,
            "type": "json",
            "canonical_s3_location": f"s3://{ENTRY_BUCKET}/public/v2/annotations/{name}.json",
        }


def _of_video(video: dict[str, Any]) -> dict[str, Any]:
    """A video of ego4d.json: about 6 kB."""
    frames, seconds = video["frames"], video["frames"] / 30
    metadata = {
        "fps": 30.0,
        "num_frames": frames,
        "video_codec": "vp9",
        "audio_codec": "aac",
        **dict.fromkeys(("display_resolution_width", "sample_resolution_width"), 1920),
        **dict.fromkeys(("display_resolution_height", "sample_resolution_height"), 1440),
        **dict.fromkeys(("mp4_duration_sec", "video_duration_sec", "audio_duration_sec"), seconds),
        **dict.fromkeys(("video_start_sec", "audio_start_sec"), 0.0),
        **dict.fromkeys(("video_start_pts", "audio_start_pts"), 0),
        **dict.fromkeys(("video_base_numerator", "audio_base_numerator"), 1),
        "video_base_denominator": 15360,
        "audio_base_denominator": None,
    }
    return {
        "video_uid": video["uid"],
        "duration_sec": seconds,
        "scenarios": video["scenarios"],
        "video_metadata": metadata,
        **dict.fromkeys(("split_em", "split_av", "split_fho"), "train"),
        "s3_path": f"s3://{video['bucket']}/public/v2/full_scale/{video['uid']}.mp4",
        "origin_video_id": f"made-up-{video['uid']}",
        "video_source": video["university"],
        "device": "GoPro Hero 4",
        "physical_setting_name": None,
        "fb_participant_id": 7,
        "is_stereo": False,
        "has_imu": True,
        "has_gaze": False,
        "imu_s3_path": f"s3://{video['bucket']}/public/v2/imu/{video['uid']}.csv",
        "gaze_s3_path": None,
        "video_components": [
            {"component_idx": number, "video_component_uid": video["uid"], "has_audio": True, **metadata}
            | {f"canonical_{key}": value for key, value in metadata.items()}
            for number in range(video["components"])
        ],
        "concurrent_sets": [],
        "has_redacted_regions": video["redactions"] > 0,
        "redacted_intervals": [
            {"start_sec": at * 10.0, "end_sec": at * 10.0 + 2.5, "start_frame": at * 300, "end_frame": at * 300 + 75}
            for at in range(video["redactions"])
        ],
        "gaps": [],
    }


def _of_clip(clip: dict[str, Any]) -> dict[str, Any]:
    length = clip["stop"] - clip["start"]
    return {
        "clip_uid": clip["uid"],
        "video_uid": clip["video"]["uid"],
        "video_start_sec": clip["start"] / 30 + 0.0210286,
        "video_end_sec": clip["stop"] / 30 + 0.0210286,
        "video_start_frame": clip["start"],
        "video_end_frame": clip["stop"],
        "clip_metadata": {"fps": 30.0, "num_frames": length, "video_codec": "vp9", "mp4_duration_sec": length / 30},
        "s3_path": f"s3://{clip['video']['bucket']}/public/v2/clips/{clip['uid']}.mp4",
        "manifold_path": None,
    }


# ---- Ego-Exo4D

_EXO = tuple(f"cam{number:02d}" for number in range(1, 8))
_ARIA = {"rgb": "214-1", "slam-left": "1201-1", "slam-right": "1201-2", "et": "211-1"}
_TASKS = ("Bike Repair", "Cooking", "Health", "Music", "Basketball", "Rock Climbing", "Soccer", "Dance")
_VIDEOS = (*(f"{{aria}}_{stream}" for stream in _ARIA.values()), *_EXO)
_TRAJECTORY = (
    "trajectory/closed_loop_trajectory.csv",
    "trajectory/open_loop_trajectory.csv",
    "trajectory/gopro_calibs.csv",
    "trajectory/online_calibration.jsonl",
    "trajectory/summary.json",
)
_POINTS = ("trajectory/semidense_points.csv.gz", "trajectory/semidense_observations.csv.gz")
_GAZE = ("eye_gaze/general_eye_gaze.csv", "eye_gaze/personalized_eye_gaze.csv", "eye_gaze/summary.json")
_SURVEYS = ("timesync.csv", "post_surveys.csv", "timesync/pilot.csv", "timesync/summary.json")
_COMMENTARY = ("recordings/0.webm", "data.json", "transcriptions.json")
_METADATA = ("takes", "captures", "participants", "physical_setting", "visual_objects", "metadata")
_ANNOTATIONS = ("atomic_descriptions", "keystep", "relations", "expert_commentary", "proficiency_demonstrator")


def _below(folder: str, names: Iterable[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


_SMALL = "takes/{name}/frame_aligned_videos/downscaled/448"
_OF_TAKES = {
    "takes": [
        *_below("takes/{name}/frame_aligned_videos", (f"{video}.mp4" for video in _VIDEOS)),
        "takes/{name}/ego_preview.mp4",
    ],
    "downscaled_takes/448": _below(_SMALL, (f"{video}.mp4" for video in (*_VIDEOS, "ego_preview"))),
    "take_trajectory": _below("takes/{name}", _TRAJECTORY),
    "take_point_cloud": _below("takes/{name}", _POINTS),
    "take_eye_gaze": _below("takes/{name}", _GAZE),
    "take_vrs": ["takes/{name}/{aria}.vrs"],
    "take_vrs_noimagestream": ["takes/{name}/{aria}_noimagestreams.vrs"],
    "take_audio": _below("takes/{name}/audio", ("{aria}.wav", "{aria}.json", "cam01.wav", "cam01.json")),
    "take_transcription": ["takes/{name}/audio/transcription.json"],
    "ego_pose_pseudo_gt": _below("ego_pose_pseudo_gt", ("body/{uid}.json", "hand/{uid}.json")),
    "expert_commentary": _below("annotations/expert_commentary/{name}/Expert1", _COMMENTARY),
    **{
        part: _below(part, ("{uid}_{aria}_rgb.pt", *(f"{{uid}}_{camera}_0.pt" for camera in _EXO)))
        for part in ("features/omnivore_video", "features/maws_clip_2b")
    },
}
"""Of each part, the paths of the files of a take."""

_POSES = _below("annotations/ego_pose/{split}", (f"{what}/{{uid}}.json" for what in ("camera_pose", "body/annotation")))
_OF_CAPTURES = {
    "captures": _below("captures/{capture}", _SURVEYS),
    "capture_trajectory": _below("captures/{capture}", _TRAJECTORY),
    "capture_point_cloud": _below("captures/{capture}", _POINTS),
    "capture_eye_gaze": _below("captures/{capture}", _GAZE),
}


def make_egoexo4d(root: Path, takes: int = TAKES) -> None:
    """Release v2 of Ego-Exo4D with so many takes, and a capture for every 6.4 of them."""
    public = root / ENTRY_BUCKET / "egoexo-public/v2"
    made = list(_takes(takes))
    captures = {take["capture_uid"]: take for take in made}
    splits = {take["uid"]: take["split"] for take in made}
    documents: dict[str, Any] = {
        "takes.json": [_of_take(take) for take in made],
        "captures.json": [_of_capture(take) for take in captures.values()],
        **{f"{name}.json": [] for name in _METADATA[2:]},
        "annotations/splits.json": {
            "take_uid_to_split": splits,
            "take_uid_to_benchmark": {take["uid"]: take["benchmarks"] for take in made},
        },
    }
    for name, content in documents.items():
        _write_json(public / name, content)
    annotations = [f"annotations/{name}_{split}.json" for name in _ANNOTATIONS for split in ("train", "val")]
    manifests = {
        "metadata": [_shared(f"{name}.json") for name in _METADATA],
        "annotations": [
            *map(_shared, ("annotations/splits.json", *annotations)),
            *(_entry(take, take["uid"], _POSES) for take in made),
        ],
        **{
            part: [_entry(take, take["uid"], paths, tagged=part != "downscaled_takes/448") for take in made]
            for part, paths in _OF_TAKES.items()
        },
        **{part: [_entry(take, uid, paths) for uid, take in captures.items()] for part, paths in _OF_CAPTURES.items()},
    }
    for part, entries in manifests.items():
        _write_json(public / part / "manifest.json", entries)


def _takes(count: int) -> Iterator[dict[str, Any]]:
    dice = random.Random("takes")
    places = ("cmu", "uniandes", "indiana", "iiith", "minnesota", "nus", "sfu", "unc", "upenn", "utokyo")
    ids, captures = uids("take"), uids("capture")
    for number in range(count):
        if number * 787 // TAKES != (number - 1) * 787 // TAKES:
            capture, university = next(captures), dice.choice(places)
        yield {
            "uid": next(ids),
            "name": f"{university}_task{number // 7:04d}_{number % 7}",
            "number": number,
            "university": university,
            "bucket": UNIVERSITIES[university],
            "capture_uid": capture,
            "capture": f"{university}_{capture[:8]}",
            "aria": dice.choice(("aria01", "aria01", "aria02", "aria03")),
            "split": dice.choices(("train", "val", "test"), (3072, 842, 1121))[0],
            "benchmarks": sorted(dice.sample(("keystep", "relations", "egopose", "correspondence"), dice.randrange(4))),
            "task": dice.choice(_TASKS),
            "frames": dice.randrange(600, 9_000),
        }


def _entry(take: dict[str, Any], uid: str, paths: Iterable[str], *, tagged: bool = True) -> dict[str, Any]:
    """An entry of a manifest; where it is not tagged, no file says what it is of."""
    return {
        "uid": uid,
        "paths": [
            _path(take["bucket"], path.format_map(take), take["university"] if tagged else None) for path in paths
        ],
        "splits": [take["split"]],
        "benchmarks": take["benchmarks"] or None,
    }


def _shared(path: str) -> dict[str, Any]:
    """An entry of no take."""
    uid = path.rpartition("/")[2].rpartition("_")[0]
    return {"uid": uid, "paths": [_path(ENTRY_BUCKET, path, None)], "splits": None, "benchmarks": None}


def _path(bucket: str, path: str, university: str | None) -> dict[str, Any]:
    views = None
    if university and "/frame_aligned_videos/" in path:
        views = ["ego"] if "/aria" in path else ["exo"]
    return {
        "source_path": f"s3://{bucket}/egoexo-public/v2/{path}",
        "relative_path": path,
        "views": views,
        "universities": [university] if university else None,
        "file_type": path.rpartition(".")[2],
        "size": 1_000_000 + len(path),
        "checksum": None,
    }


def _of_take(take: dict[str, Any]) -> dict[str, Any]:
    def stream(camera: str, name: str, stream_id: str, file: str) -> dict[str, Any]:
        return {
            "cam_id": camera,
            "stream_id": stream_id,
            "readable_stream_id": name,
            "clip_uid": take["uid"],
            "relative_path": f"frame_aligned_videos/{file}.mp4",
            "is_collage": False,
        }

    aria = take["aria"]
    cameras = {aria: {name: stream(aria, name, at, f"{aria}_{at}") for name, at in _ARIA.items()}}
    cameras |= {camera: {"0": stream(camera, "0", "0", camera)} for camera in _EXO}
    return {
        "root_dir": f"takes/{take['name']}",
        "take_name": take["name"],
        "take_uid": take["uid"],
        "take_idx": take["number"],
        "participant_uid": take["number"] % 740,
        "is_dropped": False,
        "objects": [],
        "task_id": take["number"] % 100,
        "task_name": f"{take['task']} {take['number'] % 9}",
        "parent_task_id": 1,
        "parent_task_name": take["task"],
        "duration_sec": take["frames"] / 30,
        "best_exo": "cam03",
        "capture_uid": take["capture_uid"],
        "timesync_start_idx": 0,
        "timesync_end_idx": take["frames"] + 1,
        "frame_aligned_videos": {**cameras, "collage": None, "best_exo": None},
        "capture": _of_capture(take),
        "university_name": take["university"],
        "university_id": take["bucket"],
        "validated": True,
        "vrs_relative_path": f"{aria}_noimagestreams.vrs",
        "vrs_all_streams_relative_path": f"{aria}.vrs",
    }


def _of_capture(take: dict[str, Any]) -> dict[str, Any]:
    return {
        "root_dir": f"captures/{take['capture']}",
        "capture_name": take["capture"],
        "capture_uid": take["capture_uid"],
        "university_name": take["university"],
        "cameras": [
            {"cam_id": camera, "is_ego": camera == take["aria"], "device_type": "made up"}
            for camera in (take["aria"], *_EXO)
        ],
        "timesync_validated": True,
        "validated": True,
    }


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(content))


def _write_csv(file: Path, header: list[str], rows: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, header)
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Makes both below a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.full_size", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--takes", type=int, default=TAKES)
    asked = parser.parse_args()
    make_ego4d(asked.root, asked.videos)
    make_egoexo4d(asked.root, asked.takes)


if __name__ == "__main__":
    main()
