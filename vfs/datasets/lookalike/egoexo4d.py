"""A store that looks like Ego-Exo4D's: release v2, takes of four universities, a manifest for each part.

Where the store's own form is not known (what a VRS file holds, where transcriptions and clips of keysteps lie, the tags
of some parts), it is a guess.
"""

import gzip
import io
import wave
from collections.abc import Iterable, Iterator
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

BASE = f"{ENTRY_BUCKET}/egoexo-public/v2"

_RGB = Footage(sample.ARIA_RGB, 704, 704, "ARIA RGB", 0, 60)
_ARIA = {
    ("rgb", "214-1"): _RGB,
    ("slam-left", "1201-1"): Footage(sample.ARIA_SLAM, 240, 320, "SLAM LEFT", 6, 60),
    ("slam-right", "1201-2"): Footage(sample.ARIA_SLAM, 240, 320, "SLAM RIGHT", 2, 60),
    ("et", "211-1"): Footage(sample.ARIA_EYE, 320, 240, "EYES", 0, 60),
}
_EXO = Footage(sample.EXO, 960, 540, "EXO", 3, 60)
_EXO_OVERHEAD = replace(_EXO, place=1)
_EXO_PORTRAIT = replace(_EXO, width=540, height=960, place=5)
_PREVIEW = replace(_EXO, width=640, height=360, label="PREVIEW", place=4)
# At this size the shorter side of the downscaled ones is 448 as it is there.
_DOWNSCALED = {
    _RGB: replace(_RGB, width=448, height=448),
    _EXO: replace(_EXO, width=796, height=448),
    _EXO_OVERHEAD: replace(_EXO_OVERHEAD, width=796, height=448),
    _EXO_PORTRAIT: replace(_EXO_PORTRAIT, width=448, height=796),
}


@dataclass(frozen=True, slots=True)
class Take:
    """A take, and its row in takes.json."""

    uid: str
    name: str
    university: str
    bucket: str
    task: str
    parent_task: str
    aria: str
    exos: dict[str, Footage]
    best_exo: str | None = None
    split: str | None = None
    benchmarks: tuple[str, ...] | None = None
    other_ego: dict[str, Any] | None = None
    """A further camera that the capture calls ego."""
    is_tagged: bool = True
    """Whether its entries in the manifests have splits and benchmarks."""
    has_metadata: bool = True
    is_dropped: bool = False
    source_folder: str = "takes"
    """Where its objects are: keys of the store need not be the paths of the tree."""

    @property
    def capture_uid(self) -> str:
        return made_up_uid(0xCA, int(self.uid[:8], 16))

    @property
    def capture_name(self) -> str:
        return self.name.rpartition("_")[0]

    @property
    def cameras(self) -> dict[str, Footage]:
        """Footage by the stems of its files in frame_aligned_videos."""
        return {f"{self.aria}_{stream}": footage for (_, stream), footage in _ARIA.items()} | self.exos


TAKES = (
    Take(
        *(made_up_uid(0xEE4D, 1), "cmu_bike99_2", "cmu", "ego4d-cmu", "Remove a Wheel", "Bike Repair", "aria01"),
        {"cam01": _EXO, "cam02": _EXO_OVERHEAD, "cam10": _EXO_PORTRAIT},
        best_exo="cam02",
        split="train",
        benchmarks=("keystep", "relations", "atomic_action_descriptions"),
    ),
    # Two Arias were worn, and one film is there; whether one is worn is said in text.
    Take(
        *(made_up_uid(0xEE4D, 2), "uniandes_dance_991_4", "uniandes", "ego4d-university-sa"),
        *("Performing / basic choreography", "Dance", "aria03"),
        {"cam01": _EXO, "cam02": _EXO_OVERHEAD},
        best_exo="cam01",
        split="val",
        benchmarks=("proficiency_demonstrator", "egopose"),
        other_ego={"cam_id": "aria01", "is_ego": "True"},
    ),
    Take(
        *(made_up_uid(0xEE4D, 3), "upenn_9901_Cooking_1_2", "upenn", "ego4d-penn", "Making Milk Tea", "Cooking"),
        *("aria01", {"gp01": _EXO, "gp03": _EXO_PORTRAIT}),
        split="test",
    ),
    # A phone is an ego camera too, and has a film.
    Take(
        *(made_up_uid(0xEE4D, 4), "sfu_cooking_991_1", "sfu", "ego4d-sfu", "Making an omelet", "Cooking", "aria02"),
        {"cam01": _EXO, "mobile": _EXO_OVERHEAD},
        best_exo="cam01",
        split="train",
        benchmarks=("keystep",),
        other_ego={"cam_id": "mobile", "is_ego": True},
        is_tagged=False,
        source_folder="trimmed",
    ),
    Take(
        *(made_up_uid(0xEE4D, 5), "iiith_soccer_991_1", "iiith", "ego4d-iiith", "Dribbling", "Soccer", "aria01"),
        {"cam01": _EXO},
        has_metadata=False,
        is_tagged=False,
    ),
    Take(
        *(made_up_uid(0xEE4D, 6), "cmu_bike98_7", "cmu", "ego4d-cmu", "Clean the Chain", "Bike Repair", "aria01"),
        {"cam01": _EXO},
        is_dropped=True,
    ),
)
_SHOWN = tuple(take for take in TAKES if not take.is_dropped)
_TOLD = tuple(take for take in TAKES if take.has_metadata)


class _Part:
    """A part's manifest in the making."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.entries: list[dict[str, Any]] = []

    def entry(self, uid: str, paths: Iterable[dict[str, Any]], **tags: Any) -> None:
        self.entries.append({"uid": uid, "paths": list(paths), "splits": None, "benchmarks": None, **tags})

    def take(self, take: Take, paths: Iterable[dict[str, Any]]) -> None:
        """An entry of a take, tagged as it is."""
        tags = {}
        if take.is_tagged:
            tags["splits"] = [take.split] if take.split else None
            tags["benchmarks"] = list(take.benchmarks) if take.benchmarks else None
        self.entry(take.uid, paths, **tags)

    def path(self, location: str, relative_path: str, **facts: Any) -> dict[str, Any]:
        """A path of an entry. A size is filled in at the end where it is not given, from the store."""
        kind = relative_path.rpartition(".")[2]
        told = {"views": None, "universities": None, "file_type": kind, "checksum": None, **facts}
        return {"source_path": location, "relative_path": relative_path, **told}

    def finish(self) -> None:
        """Writes it; all its objects have been written."""
        for entry in self.entries:
            for path in entry["paths"]:
                path.setdefault("size", self.store.size_bytes(path["source_path"]))
        self.store.put(f"s3://{BASE}/{self.name}/manifest.json", json_text(self.entries))


def make_egoexo4d(root: Path) -> None:
    """Writes a store of release v2. Raises SourceError and OSError."""
    store = Store(root)
    parts = [make(store) for make in _PARTS]
    store.develop()
    for part in parts:
        part.finish()


def _of_take(
    part: _Part, take: Take, relative_path: str, content: bytes | str | Footage, **facts: Any
) -> dict[str, Any]:
    """Writes an object of a take into its university's bucket."""
    key = relative_path.replace("takes/", f"{take.source_folder}/", 1)
    location = f"s3://{take.bucket}/egoexo-public/v2/{key}"
    if isinstance(content, Footage):
        part.store.film(location, content)
    else:
        part.store.put(location, content)
    return part.path(location, relative_path, **facts)


def _tags(take: Take, view: str | None) -> dict[str, Any]:
    return {"views": [view] if view else None, "universities": [take.university] if take.has_metadata else None}


def _view(take: Take, camera: str) -> str:
    return "ego" if camera.startswith(take.aria) else "exo"


# ---- Videos --------------------------------------------------------------------------------------------------------


def _takes(store: Store) -> _Part:
    part = _Part(store, "takes")
    for take in _SHOWN:
        folder = f"takes/{take.name}"
        films = [
            _of_take(
                *(part, take, f"{folder}/frame_aligned_videos/{camera}.mp4", footage),
                **_tags(take, _view(take, camera)),
            )
            for camera, footage in take.cameras.items()
        ]
        preview = _of_take(part, take, f"{folder}/ego_preview.mp4", _PREVIEW, **_tags(take, None))
        part.take(take, [*films, preview])
    return part


def _downscaled(store: Store) -> _Part:
    """Tells neither views nor universities. Only what cameras film in colour is in it."""
    part = _Part(store, "downscaled_takes/448")
    for take in _SHOWN:
        part.take(take, _downscaled_paths(part, take))
    return part


def _downscaled_paths(part: _Part, take: Take) -> Iterator[dict[str, Any]]:
    for camera, footage in take.cameras.items():
        if footage in _DOWNSCALED:
            location = f"s3://{take.bucket}/egoexo-public/v2/downscaled_takes/448/{take.name}/{camera}.mp4"
            part.store.film(location, _DOWNSCALED[footage])
            shown = f"takes/{take.name}/frame_aligned_videos/downscaled/448/{camera}.mp4"
            yield part.path(location, shown)


def _keystep_clips(store: Store) -> _Part:
    """A part that came later: no built-in list has it."""
    part = _Part(store, "keystep_benchmark/clips_448p")
    take = TAKES[0]
    for start, stop in ((0, 1), (1, 2)):
        name = f"{take.split}/{take.name}/start{start}_end{stop}_{take.aria}_214-1.mp4"
        footage = replace(_DOWNSCALED[_RGB], first=start * FPS, frame_count=(stop - start) * FPS)
        shown = f"keystep_benchmark/clips_448p/{name}"
        location = part.store.film(f"s3://{take.bucket}/egoexo-public/v2/{shown}", footage)
        part.take(take, [part.path(location, shown)])
    return part


# ---- What else a take has ------------------------------------------------------------------------------------------


def _vrs(name: str, streams: str, kilobytes: int) -> Any:
    def make(store: Store) -> _Part:
        part = _Part(store, name)
        for take in _SHOWN:
            content = b"made up, and no VRS" + bytes(kilobytes << 10)
            path = f"takes/{take.name}/{take.aria}{streams}.vrs"
            part.take(take, [_of_take(part, take, path, content, **_tags(take, "ego"))])
        return part

    return make


def _trajectory_texts() -> dict[str, bytes | str]:
    columns = ("tracking_timestamp_us", "tx_world_device", "ty_world_device", "tz_world_device")
    rows = [dict(zip(columns, (n * 1000, n / 100, 0.0, 1.5), strict=True)) for n in range(100)]
    exos = [{"cam_uid": "cam01", "tx_world_cam": 1.0, "ty_world_cam": 2.0, "tz_world_cam": 0.5}]
    return {
        "closed_loop_trajectory.csv": csv_text(columns, rows),
        "open_loop_trajectory.csv": csv_text(columns, rows),
        "gopro_calibs.csv": csv_text(tuple(exos[0]), exos),
        "online_calibration.jsonl": '{"CameraCalibrations": []}\n',
        "summary.json": json_text({"status": "SUCCESS"}),
    }


def _trajectory(store: Store) -> _Part:
    part = _Part(store, "take_trajectory")
    for take in _SHOWN:
        files = _trajectory_texts().items()
        folder = f"takes/{take.name}/trajectory"
        part.take(take, [_of_take(part, take, f"{folder}/{n}", c, **_tags(take, None)) for n, c in files])
    return part


def _point_cloud(store: Store) -> _Part:
    part = _Part(store, "take_point_cloud")
    rows = [{"uid": n, "px_world": n / 10, "py_world": 1.0, "pz_world": 2.0} for n in range(300)]
    packed = gzip.compress(csv_text(tuple(rows[0]), rows).encode(), mtime=0)
    for take in _SHOWN[:2]:
        names = ("semidense_points.csv.gz", "semidense_observations.csv.gz")
        folder = f"takes/{take.name}/trajectory"
        part.take(take, [_of_take(part, take, f"{folder}/{n}", packed, **_tags(take, None)) for n in names])
    return part


def _eye_gaze(store: Store) -> _Part:
    part = _Part(store, "take_eye_gaze")
    rows = [{"tracking_timestamp_us": n * 100_000, "yaw_rads_cpf": 0.1, "pitch_rads_cpf": -0.2} for n in range(20)]
    text = csv_text(tuple(rows[0]), rows)
    files = {
        "general_eye_gaze.csv": text,
        "personalized_eye_gaze.csv": text,
        "general_eye_gaze_2d.csv": csv_text(
            ("frame_num", "x", "y"), [{"frame_num": n, "x": 9, "y": 9} for n in range(60)]
        ),
        "summary.json": json_text({"status": "SUCCESS"}),
    }
    for take in _SHOWN[:4]:
        folder = f"takes/{take.name}/eye_gaze"
        part.take(take, [_of_take(part, take, f"{folder}/{n}", c, **_tags(take, "ego")) for n, c in files.items()])
    return part


def _audio(store: Store) -> _Part:
    part = _Part(store, "take_audio")
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 4000))
    for take in _SHOWN[:4]:
        path = f"takes/{take.name}/audio/{take.aria}.wav"
        part.take(take, [_of_take(part, take, path, sound.getvalue(), **_tags(take, "ego"))])
    return part


def _transcription(store: Store) -> _Part:
    """Says no sizes."""
    part = _Part(store, "take_transcription")
    for take in _SHOWN[:3]:
        path = f"takes/{take.name}/audio/{take.aria}_transcription.json"
        text = json_text({"text": "There goes the ball.", "segments": []})
        part.take(take, [_of_take(part, take, path, text, size=None)])
    return part


def _features(store: Store) -> _Part:
    part = _Part(store, "features/omnivore_video")
    for take in _SHOWN[:3]:
        streams = [(f"{take.aria}_rgb", "ego"), *((f"{camera}_0", "exo") for camera in take.exos)]
        part.take(take, [_feature(part, take, camera, view) for camera, view in streams])
    location = store.put(f"s3://{BASE}/features/omnivore_video/config.yaml", "window: 32\nstride: 16\n")
    part.entry("config", [part.path(location, "features/omnivore_video/config.yaml", file_type=None)])
    return part


def _feature(part: _Part, take: Take, camera: str, view: str) -> dict[str, Any]:
    shown = f"features/omnivore_video/{take.uid}_{camera}.pt"
    location = part.store.put(f"s3://{ENTRY_BUCKET}/egoexo-public/v2/{shown}", tensor_file(4, 256))
    return part.path(location, shown, **_tags(take, view))


# ---- Captures ------------------------------------------------------------------------------------------------------


def _captures(store: Store) -> _Part:
    part = _Part(store, "captures")
    for take in _SHOWN:
        cameras = (f"{take.aria}_214-1", *take.exos)
        rows = [{f"{camera}_{what}": n for camera in cameras for what in ("pts", "frame_number")} for n in range(100)]
        columns = [f"{camera}_{what}" for camera in cameras for what in ("pts", "frame_number")]
        # Nobody answered in one of them: an object of no bytes.
        files = {
            "timesync.csv": csv_text(columns, rows),
            "post_surveys.csv": "" if take is TAKES[2] else "question,answer\nHow was it?,Round.\n",
        }
        folder = f"captures/{take.capture_name}"
        tags = {"universities": [take.university]}
        paths = [_of_take(part, take, f"{folder}/{name}", text, **tags) for name, text in files.items()]
        part.entry(take.capture_uid, paths)
    return part


def _capture_trajectory(store: Store) -> _Part:
    part = _Part(store, "capture_trajectory")
    take = TAKES[0]
    folder = f"captures/{take.capture_name}/trajectory"
    part.entry(take.capture_uid, [_of_take(part, take, f"{folder}/{n}", c) for n, c in _trajectory_texts().items()])
    return part


# ---- Metadata and annotations --------------------------------------------------------------------------------------


def _metadata(store: Store) -> _Part:
    part = _Part(store, "metadata")
    files: dict[str, object] = {
        "takes": [_take_metadata(index, take) for index, take in enumerate(_TOLD)],
        "captures": [_capture_metadata(take) for take in _TOLD],
        "participants": [{"participant_uid": n, "participant_metadata": {}} for n in range(1, 5)],
        "physical_setting": [{"physical_setting_uid": made_up_uid(0x5E, 1), "setting_name": "Room"}],
        "visual_objects": [],
        "metadata": {"version": "v2", "date": "made up"},
    }
    for name, value in files.items():
        location = store.put(f"s3://{BASE}/metadata/{name}.json", json_text(value))
        part.entry(name, [part.path(location, f"{name}.json")])
    return part


def _take_metadata(index: int, take: Take) -> dict[str, Any]:
    return {
        "root_dir": f"takes/{take.name}",
        "take_name": take.name,
        "take_uid": take.uid,
        "take_idx": index,
        "participant_uid": index + 1,
        "is_dropped": take.is_dropped,
        "objects": [],
        "task_id": 1000 + index,
        "task_name": take.task,
        "parent_task_id": 1000,
        "parent_task_name": take.parent_task,
        "duration_sec": 2.0,
        "best_exo": take.best_exo,
        "task_start_sec": 0.0,
        "task_end_sec": 2.0,
        "is_narrated": bool(take.benchmarks),
        "capture_uid": take.capture_uid,
        "timesync_start_idx": 20,
        "timesync_end_idx": 81,
        # Nothing is said of the films of a take that was dropped.
        "frame_aligned_videos": None if take.is_dropped else _frame_aligned_videos(take),
        "capture": _capture_metadata(take),
        "university_name": take.university,
        "university_id": take.bucket,
        "physical_setting_uid": made_up_uid(0x5E, 1),
        "validated": True,
        "has_trimmed_vrs": True,
        "has_trimmed_trajectory": True,
        "has_trimmed_eye_gaze": True,
        "vrs_relative_path": f"{take.aria}_noimagestreams.vrs",
        "vrs_all_streams_relative_path": f"{take.aria}.vrs",
    }


def _frame_aligned_videos(take: Take) -> dict[str, Any]:
    def stream(camera: str, stream_id: str, name: str, stem: str) -> dict[str, Any]:
        return {
            "cam_id": camera,
            "stream_id": stream_id,
            "readable_stream_id": name,
            "clip_uid": made_up_uid(0xF11, int(take.uid[:8], 16)),
            "relative_path": f"frame_aligned_videos/{stem}.mp4",
            "is_collage": False,
        }

    glasses = {name: stream(take.aria, number, name, f"{take.aria}_{number}") for name, number in _ARIA}
    others = {camera: {"0": stream(camera, "0", "0", camera)} for camera in take.exos}
    collage = {
        "0": {**stream("collage", "0", "0", "ego_preview"), "relative_path": "ego_preview.mp4", "is_collage": True}
    }
    best = others[take.best_exo] if take.best_exo else None
    return {take.aria: glasses, **others, "collage": collage, "best_exo": best}


def _capture_metadata(take: Take) -> dict[str, Any]:
    cameras = [{"cam_id": take.aria, "is_ego": True, "device_type": "aria"}]
    if take.other_ego:
        cameras.insert(0, {"device_type": "aria", **take.other_ego})
    known = {camera["cam_id"] for camera in cameras}
    cameras += [
        {"cam_id": camera, "is_ego": False, "device_type": "gopro"} for camera in take.exos if camera not in known
    ]
    return {
        "root_dir": f"captures/{take.capture_name}",
        "capture_name": take.capture_name,
        "capture_uid": take.capture_uid,
        "university_name": take.university,
        "physical_setting_uid": made_up_uid(0x5E, 1),
        "ds_recorded": "2000-01-01",
        "has_trajectory": True,
        "has_gaze": True,
        "has_postsurvey": True,
        "cameras": [
            {"has_walkaround": False, "includes_audio": True, "relative_path": f"{camera['cam_id']}.mp4", **camera}
            for camera in cameras
        ],
        "timesync_validated": True,
        "validated": True,
    }


def _annotations(store: Store) -> _Part:
    """Files of many takes have a uid made from their name; those of one have the take's. Says no sizes of some."""
    part = _Part(store, "annotations")
    for stem, benchmark in (
        ("atomic_descriptions", "atomic_action_descriptions"),
        ("keystep", "keystep"),
        ("relations", "relations"),
        ("proficiency_demonstrator", "proficiency_demonstrator"),
    ):
        for split in ("train", "val"):
            tagged = [take for take in _TOLD if take.split == split and benchmark in (take.benchmarks or ())]
            text = json_text({"ds": "made up", "annotations": {take.uid: [] for take in tagged}})
            tags = {"splits": [split], "benchmarks": [benchmark]}
            part.entry(stem, [_annotation(part, f"{stem}_{split}.json", text)], **tags)
    splits = {
        "take_uid_to_split": {take.uid: take.split for take in _TOLD if take.split},
        "take_uid_to_benchmark": {take.uid: list(take.benchmarks) for take in _TOLD if take.benchmarks},
    }
    part.entry("splits", [_annotation(part, "splits.json", json_text(splits))])
    take = TAKES[1]
    pose = {f"{frame}": [{"annotation3D": {"nose": {"x": 0.0, "y": 1.0, "z": 2.0}}}] for frame in range(6, 60, 6)}
    files = {"body/annotation": pose, "camera_pose": {"metadata": {"take_uid": take.uid}}}
    paths = [
        _annotation(part, f"ego_pose/{take.split}/{folder}/{take.uid}.json", json_text(value), size=None)
        for folder, value in files.items()
    ]
    part.entry(take.uid, paths, splits=[take.split], benchmarks=["egopose"])
    return part


def _annotation(part: _Part, name: str, text: str, **facts: Any) -> dict[str, Any]:
    return part.path(part.store.put(f"s3://{BASE}/annotations/{name}", text), f"annotations/{name}", **facts)


def _expert_commentary(store: Store) -> _Part:
    part = _Part(store, "expert_commentary")
    for take in _SHOWN[:2]:
        for expert in ("expert1", "expert2"):
            folder = f"expert_commentary/{take.name}/{expert}"
            files = {"data.json": {"ratings": []}, "transcriptions.json": {"0": {"text": "Mind the ball."}}}
            paths = [_annotation(part, f"{folder}/{name}", json_text(value)) for name, value in files.items()]
            part.entry(f"{take.uid}_{expert}", paths, splits=[take.split])
    return part


_PARTS = (
    _metadata,
    _annotations,
    _takes,
    _captures,
    _trajectory,
    _eye_gaze,
    _point_cloud,
    _vrs("take_vrs", "", 64),
    _vrs("take_vrs_noimagestream", "_noimagestreams", 16),
    _capture_trajectory,
    _downscaled,
    _features,
    _expert_commentary,
    _transcription,
    _audio,
    _keystep_clips,
)
