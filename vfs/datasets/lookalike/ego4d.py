"""A store that looks like Ego4D's: three versions, media in the buckets of several universities.

Where the store's own form is not known (keys of v2 videos, columns of gaze files and of some manifests), it is a guess.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfs.datasets.lookalike.store import (
    ENTRY_BUCKET,
    FPS,
    Footage,
    Store,
    csv_text,
    json_text,
    made_up_uid,
    tensor_file,
)
from vfs.video import sample

_FULL = Footage(sample.EGO4D_QUICK, 960, 720, "FULL SCALE", 0, 90)
_FULL_WITH_SOUND = replace(_FULL, family=sample.EGO4D, label="FULL SCALE", has_sound=True)
_FULL_WIDE = replace(_FULL, width=1280, place=3)
_SMALL = replace(_FULL, width=720, height=540, label="540SS")
_SMALL_WIDE = replace(_SMALL, width=960, place=3)
_COMPONENT = replace(_FULL, width=720, height=540, label="COMPONENT", place=5, frame_count=45)
_VIZ = replace(_COMPONENT, width=480, height=360, label="VIZ")
_SMALLEST = replace(_FULL, width=342, height=256, label="256SS")


@dataclass(frozen=True, slots=True)
class Ego4DVideo:
    """A row of the videos' manifests."""

    uid: str
    university: str
    bucket: str
    scenarios: tuple[str, ...]
    tags: str
    """As the benchmarks column has them."""
    footage: Footage = _FULL
    tiers: str = "v1/full_scale v2/full_scale v2_1/full_scale v2_1/video_540ss"
    """The manifests that have a row of it."""
    is_missing: bool = False
    """Whether its rows have no videos in the store, if that has gaps."""
    has_imu: bool = False
    has_gaze: bool = False
    v1_bucket: str = ""
    """Where it stood in v1, if elsewhere."""
    redacted: tuple[tuple[int, int], ...] = ()


def _video(number: int, place: str, scenarios: tuple[str, ...], tags: str, **more: Any) -> Ego4DVideo:
    university, bucket = place.split()
    video = Ego4DVideo(made_up_uid(0xE4D, number), university, bucket, scenarios, tags)
    return replace(video, **more)


_FIRST = _video(1, "iiith ego4d-iiith", ("Cooking",), "[FHO|EM]", footage=_FULL_WITH_SOUND)
EGO4D_VIDEOS = (
    replace(_FIRST, has_imu=True, redacted=((75, 90),)),
    # Its first bucket is in nobody's table of universities.
    _video(
        *(2, "unict ego4d-unict-milan", ("Gardening", "Cooking"), "[]"),
        footage=_FULL_WIDE,
        has_imu=True,
        v1_bucket="ego4d-unict",
    ),
    _video(3, "cmu ego4d-cmu", ("Bike / scooter repair",), "[AV | NLQ]"),
    _video(4, "cmu_africa ego4d-universityaf", (), "", footage=_FULL_WIDE),
    _video(5, f"frl_track_1_public {ENTRY_BUCKET}", ("Playing board games",), "[EM|NLQ|VQ]", has_gaze=True),
    _video(6, "minnesota ego4d-minnesota", ("Walking on street",), "[MQ]", is_missing=True, has_imu=True),
    _video(7, "unc ego4d-unc", ("Gardening",), "[FHO]", tiers=""),
    _video(
        *(8, "georgiatech ego4d-georgiatech", ("Cooking", "Cleaning / laundry"), "[FHO|MQ]"),
        tiers="v2/full_scale v2_1/full_scale",
    ),
    # Several videos in one, of which the first gives the name.
    replace(_FIRST, uid=f"grp-{_FIRST.uid}", tags="[goalstep]", tiers="v2_1/full_scale"),
)


@dataclass(frozen=True, slots=True)
class Ego4DClip:
    """A clip as ego4d.json tells it: frames of its parent from `start` to before `stop`."""

    uid: str
    parent: Ego4DVideo
    start: int | None
    stop: int | None
    has_row: bool = True
    """Whether the clips' manifests know it."""


def _clip(number: int, parent: int, start: int | None, stop: int | None, has_row: bool = True) -> Ego4DClip:
    return Ego4DClip(made_up_uid(0xC11B, number), EGO4D_VIDEOS[parent - 1], start, stop, has_row)


EGO4D_CLIPS = (
    _clip(1, 1, 0, 30),
    _clip(2, 1, 30, 60),
    _clip(3, 2, 10, 55),
    _clip(4, 3, 15, 45, has_row=False),
    _clip(5, 5, 20, 80, has_row=False),
    _clip(6, 6, 0, 60),  # there is no object for the row
    _clip(7, 7, 0, 60, has_row=False),  # nor a video here
    _clip(8, 3, None, None, has_row=False),
)

_FULL_SCALE_COLUMNS = """
video_uid path duration_sec scenarios split_em split_av split_fho benchmarks origin_video_id video_source device
deid_scrubbed_audio deid_scrubbed_faces physical_setting_name fb_participant_id display_resolution_width
display_resolution_height sample_resolution_width sample_resolution_height release_1 canonical_s3_location
canonical_fps canonical_display_width canonical_display_height canonical_num_frames canonical_mp4_duration_sec
canonical_video_start_sec canonical_video_duration_sec canonical_audio_start_sec canonical_audio_duration_sec
canonical_video_start_pts canonical_video_duration_pts canonical_video_base_numerator canonical_video_base_denominator
canonical_audio_start_pts canonical_audio_duration_pts canonical_audio_base_numerator canonical_audio_base_denominator
canonical_audio_channel_layout canonical_audio_channel_rate_hz canonical_is_validated
"""

EGO4D_DATASETS = {
    "full_scale": "Canonical videos",
    "video_540ss": "Canonical videos, shorter side 540",
    "clips": "Clips of the benchmarks",
    "clip_256ss": "Clips, shorter side 256",
    "components/videos": "What canonical videos were put together from",
    "annotations": "Annotations",
    "viz": "Pictures of annotations",
    "imu": "Accelerometer and gyroscope",
    "gaze": "Gaze",
    "slowfast8x8_r101_k400": "Features of SlowFast",
    "omnivore_video_swinl": "Features of Omnivore",
    "fut_loc": "Future locations",  # has no manifest: its prefix is refused
}


def make_ego4d(root: Path, *, has_gaps: bool = True) -> None:
    """Writes a store of three versions. Raises SourceError and OSError.

    `has_gaps`: whether manifests name some objects that are not there, as the dataset's do.
    """
    store = Store(root, has_gaps=has_gaps)
    for version in ("v1", "v2", "v2_1"):
        _manifest(store, version, "full_scale", _FULL_SCALE_COLUMNS.split(), _full_scale(store, version))
        _ego4d_metadata(store, version)
        _ego4d_annotations(store, version)
        listed = [{"dataset": name, "description": text} for name, text in EGO4D_DATASETS.items()]
        store.put(f"s3://{ENTRY_BUCKET}/public/{version}/datasets.csv", csv_text(("dataset", "description"), listed))
    _ego4d_clips(store)
    _ego4d_other_videos(store)
    _ego4d_sensors(store)
    _ego4d_features(store)
    store.develop()


def _manifest(store: Store, version: str, dataset: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    store.put(f"s3://{ENTRY_BUCKET}/public/{version}/{dataset}/manifest.csv", csv_text(columns, rows))


def _rows_of(tier: str) -> list[Ego4DVideo]:
    return [video for video in EGO4D_VIDEOS if tier in video.tiers.split()]


def _film(store: Store, location: str, video: Ego4DVideo, footage: Footage) -> str:
    return location if video.is_missing and store.has_gaps else store.film(location, footage)


def _full_scale(store: Store, version: str) -> Iterable[dict[str, Any]]:
    for video in _rows_of(f"{version}/full_scale"):
        # Keys of v1 have no extension.
        bucket, key = video.bucket, f"public/v2/full_scale/{video.uid}.mp4"
        if version == "v1":
            bucket, key = video.v1_bucket or bucket, f"public/v1/full_scale/{video.uid}"
        location = _film(store, f"s3://{bucket}/{key}", video, video.footage)
        yield {**_media_columns(video), "path": location, "canonical_s3_location": location}


def _media_columns(video: Ego4DVideo) -> dict[str, Any]:
    footage = video.footage
    seconds = footage.frame_count / FPS
    columns: dict[str, Any] = {
        "video_uid": video.uid,
        "duration_sec": seconds,
        "scenarios": list(video.scenarios),
        **_splits_of(video),
        "benchmarks": video.tags,
        "origin_video_id": f"made-up-{video.uid[:8]}",
        "video_source": video.university,
        "device": "",
        "physical_setting_name": "",
        "release_1": True,
        "canonical_fps": float(FPS),
        "canonical_num_frames": footage.frame_count,
        "canonical_mp4_duration_sec": seconds,
        "canonical_video_start_sec": 0.0,
        "canonical_video_duration_sec": seconds,
        "canonical_video_start_pts": 0,
        "canonical_video_duration_pts": footage.frame_count * 512,
        "canonical_video_base_numerator": 1,
        "canonical_video_base_denominator": 15360,
        "canonical_is_validated": True,
    }
    for name, value in (("width", footage.width), ("height", footage.height)):
        columns |= {
            f"{kind}_{name}": value for kind in ("display_resolution", "sample_resolution", "canonical_display")
        }
    if footage.has_sound:
        columns |= {
            "canonical_audio_start_sec": 0.0,
            "canonical_audio_duration_sec": seconds,
            "canonical_audio_base_numerator": 1,
            "canonical_audio_base_denominator": 16000,
            "canonical_audio_channel_layout": "mono",
            "canonical_audio_channel_rate_hz": 16000,
        }
    return columns


def _splits_of(video: Ego4DVideo) -> dict[str, str | None]:
    return {f"split_{name}": "train" if name.upper() in video.tags else None for name in ("em", "av", "fho")}


def _ego4d_clips(store: Store) -> None:
    """Each version's manifest has its own columns; that of v2 has none that is called a uid of this kind."""
    rows = []
    for clip in EGO4D_CLIPS:
        if not clip.has_row or clip.start is None or clip.stop is None:
            continue
        parent = clip.parent
        footage = replace(parent.footage, family=sample.EGO4D_QUICK, label="CLIP", has_sound=False)
        footage = replace(footage, first=clip.start, frame_count=clip.stop - clip.start)
        location = _film(store, f"s3://{parent.bucket}/public/v1/clips/{clip.uid}.mp4", parent, footage)
        row = {
            "video_uid": clip.uid,
            "exported_clip_uid": clip.uid,
            "parent_video_uid": parent.uid,
            "parent_start_sec": clip.start / FPS,
            "parent_end_sec": clip.stop / FPS,
            "s3_path": location,
            "benchmarks": parent.tags,
        }
        rows.append(row)
    _manifest(store, "v1", "clips", ("video_uid", "s3_path"), rows)
    parents = ("parent_video_uid", "parent_start_sec", "parent_end_sec")
    _manifest(store, "v2", "clips", ("exported_clip_uid", *parents, "s3_path", "manifold_location"), rows)
    _manifest(store, "v2_1", "clips", ("video_uid", "s3_path", "benchmarks"), rows)


def _ego4d_other_videos(store: Store) -> None:
    rows: list[dict[str, Any]] = []
    for video in _rows_of("v2_1/video_540ss"):
        footage = _SMALL_WIDE if video.footage is _FULL_WIDE else _SMALL
        location = f"s3://{video.bucket}/public/v2/video_540ss/{video.uid}.mp4"
        rows.append(_row(video, _film(store, location, video, footage)))
    _manifest(store, "v2_1", "video_540ss", ("video_uid", "s3_path", "benchmarks"), rows)

    # The type gives the name `<uid>.mp4`, whatever the key ends in.
    video = EGO4D_VIDEOS[0]
    location = f"s3://{video.bucket}/public/v2/viz/{video.uid}_hands"
    rows = [{**_row(video, store.film(location, _VIZ)), "type": "mp4"}]
    _manifest(store, "v2_1", "viz", ("video_uid", "type", "s3_path", "benchmarks"), rows)

    clip = EGO4D_CLIPS[0]
    location = f"s3://{clip.parent.bucket}/public/v2/clip_256ss/{clip.uid}_256ss.mp4"
    footage = replace(_SMALLEST, frame_count=30)
    rows = [{"video_uid": clip.uid, "type": "video", "s3_path": store.film(location, footage)}]
    _manifest(store, "v2_1", "clip_256ss", ("video_uid", "type", "s3_path"), rows)

    # Components have uids of their own.
    rows = []
    for number, video in ((1, EGO4D_VIDEOS[0]), (2, EGO4D_VIDEOS[2])):
        uid = made_up_uid(0xC0, number)
        location = f"s3://{video.bucket}/public/v2/components/videos/{uid}.mp4"
        rows.append({"video_uid": uid, "canonical_s3_location": store.film(location, _COMPONENT)})
    _manifest(store, "v2_1", "components/videos", ("video_uid", "canonical_s3_location"), rows)


def _row(video: Ego4DVideo, location: str) -> dict[str, Any]:
    return {"video_uid": video.uid, "file_uid": video.uid, "s3_path": location, "benchmarks": video.tags}


def _ego4d_sensors(store: Store) -> None:
    """Files that are called after a video: by their type, or because they have a file's uid."""
    axes = [f"{sensor}_{axis}" for sensor in ("gyro", "accl") for axis in "xyz"]
    imu = [
        {
            "component_idx": 0,
            "component_timestamp_ms": tick * 5.0,
            "canonical_timestamp_ms": tick * 5.0,
            **{axis: (tick * (place + 3) % 97) / 97 for place, axis in enumerate(axes)},
        }
        for tick in range(200)
    ]
    text = csv_text(("component_idx", "component_timestamp_ms", "canonical_timestamp_ms", *axes), imu)
    videos = [video for video in EGO4D_VIDEOS if video.has_imu]
    rows = [_row(v, store.put(f"s3://{v.bucket}/public/v1/imu/canonical/{v.uid}.csv", text)) for v in videos]
    columns = ("video_uid", "type", "s3_path", "benchmarks")
    _manifest(store, "v1", "imu", ("file_uid", "s3_path"), rows)
    _manifest(store, "v2_1", "imu", columns, [{**row, "type": "file"} for row in rows])
    seen = [{"canonical_timestamp_ms": n * 33.3, "norm_pos_x": n % 7 / 7, "norm_pos_y": 0.5} for n in range(90)]
    text = csv_text(("canonical_timestamp_ms", "norm_pos_x", "norm_pos_y"), seen)
    videos = [video for video in EGO4D_VIDEOS if video.has_gaze]
    rows = [_row(v, store.put(f"s3://{v.bucket}/public/v2/gaze/{v.uid}.csv", text)) for v in videos]
    _manifest(store, "v2_1", "gaze", ("file_uid", "s3_path"), rows)


def _ego4d_features(store: Store) -> None:
    """A tensor a video, of windows of 32 frames every 16."""
    for dataset, width, columns in (
        ("slowfast8x8_r101_k400", 2304, ("file_uid", "s3_path")),
        ("omnivore_video_swinl", 1536, ("video_uid", "type", "s3_path")),
    ):
        videos = [video for video in _rows_of("v2_1/video_540ss") if not video.is_missing]
        rows = []
        for video in videos:
            tensor = tensor_file(-(-video.footage.frame_count // 16), width)
            location = store.put(f"s3://{ENTRY_BUCKET}/public/v1/{dataset}/{video.uid}.pt", tensor)
            rows.append({**_row(video, location), "type": "file"})
        _manifest(store, "v2_1", dataset, columns, rows)


def _ego4d_annotations(store: Store, version: str) -> None:
    hands = [_actions(video) for video in EGO4D_VIDEOS if "FHO" in video.tags]
    files = {
        "narration.json": json_text({video.uid: _narration(video) for video in EGO4D_VIDEOS[:5]}),
        "fho_main.json": json_text({"version": version, "videos": hands}),
        "vq_train.json": json_text({"version": version, "videos": [_visual_query(EGO4D_CLIPS[4])]}),
        "narration_verb_taxonomy.csv": csv_text(("label", "group"), [{"label": "turn", "group": "move"}]),
    }
    rows = []
    for number, (name, text) in enumerate(files.items(), 1):
        location = store.put(f"s3://{ENTRY_BUCKET}/public/{version}/annotations/{name}", text)
        stem, _, kind = name.partition(".")
        rows.append(
            {
                "file_uid": made_up_uid(0xA, number),
                "annotation": stem,
                "type": "json" if kind == "json" else "file",
                "canonical_s3_location": location,
                "s3_path": location,
            }
        )
    columns = ("file_uid", "annotation", "type", "canonical_s3_location")
    _manifest(store, version, "annotations", ("file_uid", "s3_path") if version == "v1" else columns, rows)


def _narration(video: Ego4DVideo) -> dict[str, Any]:
    frames = range(0, video.footage.frame_count, 30)
    narrations = [
        {
            "timestamp_sec": frame / FPS,
            "timestamp_frame": frame,
            "narration_text": f"#C C watches the ball pass mark {frame // 10}",
            "annotation_uid": made_up_uid(0xA0, frame),
        }
        for frame in frames
    ]
    summaries = [{"start_sec": 0.0, "end_sec": video.footage.frame_count / FPS, "summary_text": "#C C watches a ball"}]
    return {"status": "complete", "narration_pass_1": {"narrations": narrations, "summaries": summaries}}


def _actions(video: Ego4DVideo) -> dict[str, Any]:
    frames = {f"{kind}_{end}_frame": at for kind in ("start", "end") for end, at in (("first", 3), ("last", 27))}
    action = {"start_sec": 0.1, "end_sec": 0.9, "narration_text": "#C C turns the ball", **frames}
    interval = {"start_sec": 0.0, "end_sec": 1.0, "narrated_actions": [action]}
    return {"video_uid": video.uid, "annotated_intervals": [interval]}


def _visual_query(clip: Ego4DClip) -> dict[str, Any]:
    query = {
        "query_frame": 6,
        "object_title": "ball",
        "response_track": [{"frame_number": 3, "video_frame_number": 38}],
    }
    annotations = [{"query_sets": {"1": query}}]
    told = {"clip_uid": clip.uid, "clip_fps": 5.0, "annotations": annotations}
    return {"video_uid": clip.parent.uid, "clips": [told]}


def _ego4d_metadata(store: Store, version: str) -> None:
    newest = version == "v2_1"
    videos = [video for video in EGO4D_VIDEOS if newest or not video.uid.startswith("grp-")]
    told = {
        "date": "240101",
        "version": {"v1": "1.0", "v2": "2.0", "v2_1": "2.1"}[version],
        "description": "Made up; see egofs",
        "videos": [_video_metadata(video) for video in videos],
        "concurrent_video_sets": [],
        "physical_settings": [],
        "clips": [_clip_metadata(clip) for clip in EGO4D_CLIPS],
    }
    store.put(f"s3://{ENTRY_BUCKET}/public/{version}/ego4d.json", json_text(told))


def _video_metadata(video: Ego4DVideo) -> dict[str, Any]:
    columns = _media_columns(video)
    prefix = "canonical_"
    form = {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}
    form |= {name: value for name, value in columns.items() if "resolution" in name}
    form["video_codec"] = "vp9"
    form.setdefault("audio_base_denominator", None)
    intervals = [
        {"start_sec": start / FPS, "end_sec": stop / FPS, "start_frame": start, "end_frame": stop}
        for start, stop in video.redacted
    ]
    return {
        "video_uid": video.uid,
        "duration_sec": columns["duration_sec"],
        "scenarios": list(video.scenarios),
        "video_metadata": form,
        **_splits_of(video),
        "s3_path": f"s3://{video.bucket}/public/v2/full_scale/{video.uid}.mp4",
        "origin_video_id": columns["origin_video_id"],
        "video_source": video.university,
        "device": None,
        "physical_setting_name": None,
        "fb_participant_id": None,
        "is_stereo": False,
        "has_imu": video.has_imu,
        "has_gaze": video.has_gaze,
        "imu_s3_path": f"s3://{video.bucket}/public/v1/imu/canonical/{video.uid}.csv" if video.has_imu else None,
        "gaze_s3_path": f"s3://{video.bucket}/public/v2/gaze/{video.uid}.csv" if video.has_gaze else None,
        "video_components": [],
        "concurrent_sets": None,
        "has_redacted_regions": bool(video.redacted),
        "redacted_intervals": intervals,
        "gaps": [],
    }


def _clip_metadata(clip: Ego4DClip) -> dict[str, Any]:
    return {
        "clip_uid": clip.uid,
        "video_uid": clip.parent.uid,
        # Seconds and frames do not agree in the dataset either: some are this much later.
        "video_start_sec": None if clip.start is None else clip.start / FPS + 0.0210286,
        "video_end_sec": None if clip.stop is None else clip.stop / FPS + 0.0210286,
        "video_start_frame": clip.start,
        "video_end_frame": clip.stop,
        "clip_metadata": None,
        "s3_path": f"s3://{clip.parent.bucket}/public/v1/clips/{clip.uid}.mp4" if clip.has_row else None,
        "manifold_path": None,
    }
