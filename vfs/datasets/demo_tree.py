"""The demo's tree, made on the spot: two recordings as Assembly101 lays them out, stores of three more datasets.

Hides the names, the lengths and the texts, and how a tree comes to be complete or not to be there. Called by the
demo dataset at mount time; must not know how a video is drawn or encoded (vfs.video.sample does) nor who mounts it.
Forms of names and of files: the dataset's download scripts, annotation READMEs and annotation files. Recordings,
toys' parts and actions are made up: no byte of the dataset is in here. The stores are vfs.datasets.lookalike's.

Any thread of any process may call `ensure`; the first time it blocks while it takes 33 s of CPU
(measured: 18 s on two cores, 24 s where others use them too) and 20 MB of disk.
"""

import fcntl
import json
import logging
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lmdb
import numpy as np
import numpy.typing as npt

from vfs.datasets.lookalike import make_ego4d, make_egoexo4d, make_kinetics
from vfs.errors import SourceError
from vfs.video import sample

_log = logging.getLogger(__name__)

VERSION = 3
"""Goes up with every change of what the tree holds, so that a tree of an older version is not taken for this one."""

_STATIC = ("C10095", "C10115", "C10118", "C10119", "C10379", "C10390", "C10395", "C10404")
_EGO_8 = ("HMC_84346135", "HMC_84347414", "HMC_84355350", "HMC_84358933")
_EGO_2 = ("HMC_21176875", "HMC_21176623", "HMC_21110305", "HMC_21179183")


@dataclass(frozen=True, slots=True)
class View:
    """One camera's video of a recording."""

    name: str  # the camera's id with its suffix, as files and LMDB keys have it
    canonical: str
    family: sample.Family
    place: int
    picture_count: int

    @property
    def frame_count(self) -> int:
        """At 30 fps, where everything but the video itself counts: every other picture, from the first."""
        return -(-self.picture_count // 2)


@dataclass(frozen=True, slots=True)
class Recording:
    """One session: a person takes a toy apart and puts it together again."""

    name: str
    toy_id: str
    toy_name: str
    split: str
    is_shared: bool  # whether the toy is in several splits of the dataset
    views: tuple[View, ...]


def _views(ego: tuple[str, ...], static_counts: tuple[int, ...], ego_counts: tuple[int, ...]) -> tuple[View, ...]:
    """The views of a recording, in the dataset's order; a count of 0 leaves the camera out."""
    static = [
        View(f"{camera}_rgb", f"v{place + 1}", sample.STATIC, place, count)
        for place, (camera, count) in enumerate(zip(_STATIC, static_counts, strict=True))
    ]
    heads = [
        View(f"{camera}_mono10bit", f"e{place + 1}", sample.EGO, place, count)
        for place, (camera, count) in enumerate(zip(ego, ego_counts, strict=True))
    ]
    return tuple(view for view in (*static, *heads) if view.picture_count)


# Cameras of one recording stop at slightly different pictures in the dataset, and three recordings lack one
# egocentric view. Egocentric ids go by date: HMC_8… on 2021-02-01, HMC_2… from 02-02 to 02-12. No view is shorter
# than 162 pictures, so that frame files 1 to 81 exist of every one.
RECORDINGS = (
    Recording(
        "nusar-2021_action_both_9099-a01_9099_user_id_2021-02-01_120000",
        "a01",
        "excavator",
        "train",
        True,
        _views(_EGO_8, (180, 180, 179, 178, 178, 176, 174, 162), (200, 200, 198, 192)),
    ),
    Recording(
        "nusar-2021_action_both_9098-b02_9098_user_id_2021-02-03_140000",
        "b02",
        "dump truck",
        "validation",
        False,
        _views(_EGO_2, (170, 170, 170, 168, 168, 167, 166, 164), (188, 187, 0, 180)),
    ),
)

FEATURE_VIEWS = ("C10118_rgb", "HMC_84358933_mono10bit", "HMC_21179183_mono10bit")
"""v3 and both cameras that are e4: the views whose features the public training code reads."""

FEATURE_COUNT = 2048
"""Numbers in a frame's feature: a TSM ResNet-50's last layer."""

# A key and its 8,192 bytes take three pages of 4 KiB; the file grows by what is in use, up to the map's size.
_MAP_BYTES = 8 << 20

_ACTION_COLUMNS = "action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls"


@dataclass(frozen=True, slots=True)
class _Words:
    """What actions are made of, with ids. The dataset has 1,380 fine actions; these few are numbered freely."""

    verbs: dict[str, int]
    nouns: dict[str, int]
    ids: dict[tuple[str, str], int]


_FINE = _Words(
    {"inspect": 5, "pick up": 9, "position": 10, "screw": 15, "unscrew": 22},
    {"cabin": 31, "chassis": 33, "screwdriver": 62, "wheel": 84},
    {
        ("inspect", "chassis"): 402,
        ("pick up", "cabin"): 1012,
        ("pick up", "screwdriver"): 1043,
        ("position", "cabin"): 1105,
        ("screw", "wheel"): 1180,
        ("unscrew", "wheel"): 1342,
    },
)
_COARSE = _Words(
    {"attach": 0, "detach": 3, "inspect": 5},
    {"cabin": 8, "toy": 54, "wheel": 59},
    {
        ("attach", "cabin"): 7,
        ("attach", "wheel"): 44,
        ("detach", "cabin"): 81,
        ("detach", "wheel"): 117,
        ("inspect", "toy"): 160,
    },
)

# (first frame, frame after the last, action) at 30 fps, all before frame 81 where the shortest view ends. Fine
# segments leave gaps, coarse ones follow on each other.
_FINE_SEGMENTS = (
    (3, 11, ("inspect", "chassis")),
    (12, 19, ("pick up", "screwdriver")),
    (20, 36, ("unscrew", "wheel")),
    (41, 48, ("pick up", "cabin")),
    (48, 60, ("position", "cabin")),
    (62, 79, ("screw", "wheel")),
)
_COARSE_SEGMENTS = {
    "disassembly": (
        (0, 12, ("inspect", "toy")),
        (12, 27, ("detach", "wheel")),
        (27, 40, ("detach", "cabin")),
    ),
    "assembly": (
        (40, 60, ("attach", "cabin")),
        (60, 76, ("attach", "wheel")),
        (76, 81, ("inspect", "toy")),
    ),
}

_README = """\
This is the egofs demo: a tree in the shape of the Assembly101 dataset
(https://assembly-101.github.io), made by this machine the first time the
demo was mounted. Everything in it is synthetic: no video, annotation or
feature of the dataset is in here, and the recordings' names are made up.

recordings/       two recordings at 60 fps. Each picture carries its number,
                  from 0, and its camera's name; the ball passes one mark of
                  the dial every ten pictures. The second lacks camera e3.
annotations/      fine and coarse segments; frames count at 30 fps.
TSM_features/     LMDBs of 2048 float32 a frame: `<recording>/<view>/
                  <view>_%010d.jpg`, from 1. The numbers mean nothing.
ego4d/            a few videos and clips in the shape of Ego4D, with uids
                  that nobody was given.
egoexo4d/         a few takes in the shape of Ego-Exo4D.
kinetics/         a few clips, out of folders by label as a crawler of Kinetics
                  leaves them; some stand there twice, and here once.
metadata.zip      cameras' positions; metadata/ is what is in it.
"""


def ensure(folder: Path) -> Path:
    """Makes the demo tree below `folder` unless a complete one of this VERSION is there; returns its root.

    The tree is built beside its place and renamed into it, so what stands there is complete. Raises SourceError
    where it cannot be made, saying why; nothing is left then, and after a crash the next call clears up.
    """
    root = folder / f"demo-v{VERSION}"
    if root.is_dir():
        return root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            if not root.is_dir():  # another may have made it while this one waited
                _build_in_place(root)
    except (OSError, lmdb.Error) as failure:
        raise SourceError(
            f"cannot make the demo's tree (about 20 MB) in {folder}: {failure}; "
            "free some space or choose another folder"
        ) from failure
    return root


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Waits until no other thread or process builds in this folder. The kernel ends the lock of one that dies."""
    with (folder / ".demo.lock").open("ab") as lock:  # never removed: another may be waiting on this very file
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_in_place(root: Path) -> None:
    """Builds beside the root, then renames. Only the lock's holder builds, so a partial tree it finds is dead."""
    _log.info("making the demo's tree in %s: 20 MB, some 20 seconds, once", root.parent)
    draft = root.with_name(f".{root.name}.partial")
    if draft.exists():
        shutil.rmtree(draft)
    try:
        draft.mkdir()
        _write_videos(draft / "recordings")
        _write_stores(draft)
        _write_features(draft / "TSM_features")
        _write_texts(draft)
        _sync(draft)
        draft.rename(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # there only after a failure


def _sync(tree: Path) -> None:
    """Has the files on disk before the name says that they are complete, lest a power cut leave them empty."""
    for path in (*tree.rglob("*"), tree):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_videos(folder: Path) -> None:
    jobs = [(folder / r.name, session, view) for session, r in enumerate(RECORDINGS) for view in r.views]
    for recording in RECORDINGS:
        (folder / recording.name).mkdir(parents=True)
    # Encoders release the GIL and have one thread each. Longest first, so that none is left over at the end.
    jobs.sort(key=lambda job: job[2].picture_count * job[2].family.width, reverse=True)
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))), "egofs-demo") as pool:
        for _ in pool.map(_write_video, jobs):  # on a failure, map cancels what has not begun
            pass


def _write_video(job: tuple[Path, int, View]) -> None:
    folder, session, view = job
    label = f"{view.canonical} {view.name}"
    sample.write(folder / f"{view.name}.mp4", view.family, label, view.place, view.picture_count, session)


def _write_stores(root: Path) -> None:
    """Where the demo's other datasets have their own stores. Nobody's first look should meet a file that is missing."""
    makers: dict[str, Callable[[Path], None]] = {
        "ego4d": partial(make_ego4d, has_gaps=False),
        "egoexo4d": make_egoexo4d,
        "kinetics": make_kinetics,
    }
    for name, make in makers.items():
        (root / name).mkdir()
        make(root / name)


# ---- Features ------------------------------------------------------------------------------------------------------


def feature_keys(view_name: str) -> list[str]:
    """The keys of a view's LMDB: one for each of its frames at 30 fps, the first is 1."""
    return [
        f"{recording.name}/{view.name}/{view.name}_{number:010d}.jpg"
        for recording in RECORDINGS
        for view in recording.views
        if view.name == view_name
        for number in range(1, view.frame_count + 1)
    ]


def feature(key: str) -> npt.NDArray[np.float32]:
    """The feature under a key: (2048,) little-endian float32 in 0..1, the same on every machine."""
    # Knuth's multiplicative hash of the key's checksum and the place: integers, so no library's generator is in it.
    mixed = np.arange(FEATURE_COUNT, dtype=np.uint32) ^ np.uint32(zlib.crc32(key.encode()))
    return ((mixed * np.uint32(2654435761) >> np.uint32(8)) / np.float64(1 << 24)).astype("<f4")


def _write_features(folder: Path) -> None:
    for view_name in FEATURE_VIEWS:
        (folder / view_name).mkdir(parents=True)
        # Not synced here: the whole tree is, once, before it gets its name.
        with (
            lmdb.open(str(folder / view_name), map_size=_MAP_BYTES, sync=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            for key in feature_keys(view_name):
                transaction.put(key.encode(), feature(key).tobytes())


# ---- Texts ---------------------------------------------------------------------------------------------------------


def _write_texts(root: Path) -> None:
    texts = {
        "README.txt": _README,
        **_fine(Path("annotations/fine-grained-annotations")),
        **_coarse(Path("annotations/coarse-annotations")),
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with zipfile.ZipFile(root / "metadata.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _metadata().items():
            archive.writestr(zipfile.ZipInfo(f"metadata/{name}"), text)


def _fine(folder: Path) -> dict[str, str]:
    """The CSVs of fine segments by path: each segment once for every view of its recording."""
    actions = [f"{row},{_action(action, _FINE)}" for row, action in enumerate(_FINE.ids)]
    texts = {str(folder / "actions.csv"): _lines(f"id,{_ACTION_COLUMNS}", *actions)}
    for recording in RECORDINGS:
        rows = (
            f"{row},{recording.name}/{view.name}.mp4,{start},{stop},{_action(action, _FINE)}"
            f",{recording.toy_id},{recording.toy_name},{recording.is_shared:d},{view.family is sample.STATIC:d}"
            for row, (view, (start, stop, action)) in enumerate(
                (view, segment) for segment in _FINE_SEGMENTS for view in recording.views
            )
        )
        texts[str(folder / f"{recording.split}.csv")] = _lines(
            f"id,video,start_frame,end_frame,{_ACTION_COLUMNS},toy_id,toy_name,is_shared,is_RGB", *rows
        )
    return texts


def _metadata() -> dict[str, str]:
    """Made-up positions of each recording's cameras on a circle, by path."""
    texts = {}
    for recording in RECORDINGS:
        places = {
            view.name: [round(math.cos(place * math.pi / 6), 3), round(math.sin(place * math.pi / 6), 3), 1.0]
            for place, view in enumerate(recording.views)
        }
        texts[f"{recording.name}/camera_position.json"] = json.dumps(places, indent=1) + "\n"
    return texts


def _coarse(folder: Path) -> dict[str, str]:
    """The lists of coarse segments by path. Their last lines end without a newline, as the dataset's do."""
    actions = (_action(action, _COARSE) for action in _COARSE.ids)
    texts = {str(folder / "actions.csv"): _lines(_ACTION_COLUMNS, *actions)}
    seen = []
    for task, segments in _COARSE_SEGMENTS.items():
        labels = [f"{start:09d}\t{stop:09d}\t{' '.join(action)}" for start, stop, action in segments]
        for recording in RECORDINGS:
            name = f"{task}_{recording.name}"
            texts[str(folder / "coarse_labels" / f"{name}.txt")] = "\n".join(labels)
            split = {"train": "train", "validation": "val"}[recording.split]
            shared = "-" if split == "train" else "shared" if recording.is_shared else "notshared"
            # The second column is empty in the dataset, whatever its README says.
            row = f"{name}.txt\t\t{shared}\t{recording.toy_id}\t{recording.toy_name}"
            texts[str(folder / "coarse_splits" / f"{split}_coarse_{task}.txt")] = row
            seen += [f"{name}/{view.name}.mp4" for view in recording.views]
    texts[str(folder / "coarse_seq_views.txt")] = "\n".join(seen)
    return texts


def _action(action: tuple[str, str], words: _Words) -> str:
    """The columns of `_ACTION_COLUMNS`."""
    verb, noun = action
    return f"{words.ids[action]},{words.verbs[verb]},{words.nouns[noun]},{verb} {noun},{verb},{noun}"


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
