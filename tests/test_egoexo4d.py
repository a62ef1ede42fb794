import json
import os
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.memorysource import MemorySource
from vfs.catalog import Entry, Packed, Tree
from vfs.datasets.egoexo4d import PARTS, EgoExo4D, Options
from vfs.errors import AccessDenied, CorruptData, NotFound, OptionError
from vfs.node import Kind
from vfs.sources import UNKNOWN_SIZE

BASE = "ego4d-consortium-sharing/egoexo-public/v2"
BIKE, BIKE_UID = "cmu_bike01_2", "00000001-0000-4000-8000-00000000000a"
COOK, COOK_UID = "upenn_0710_Cooking_1_2", "00000002-0000-4000-8000-00000000000b"
CAPTURE_UID = "00000003-0000-4000-8000-00000000000c"
# No folder can be made there.
NOWHERE = Path(os.devnull, "state")
ARIA = ("214-1", "1201-1", "1201-2", "211-1")


def stream(camera: str, name: str, video: str) -> dict[str, Any]:
    return {"cam_id": camera, "readable_stream_id": name, "relative_path": f"frame_aligned_videos/{video}.mp4"}


def aria(camera: str) -> dict[str, Any]:
    names = ("rgb", "slam-left", "slam-right", "et")
    return {name: stream(camera, name, f"{camera}_{each}") for name, each in zip(names, ARIA, strict=True)}


def take(name: str, uid: str, egos: list[str], exos: list[str], **more: Any) -> dict[str, Any]:
    videos = {camera: aria(camera) for camera in egos} | {camera: {"0": stream(camera, "0", camera)} for camera in exos}
    cameras = [{"cam_id": camera, "is_ego": "True"} for camera in egos]
    cameras += [{"cam_id": camera, "is_ego": "False"} for camera in exos]
    told = {
        "root_dir": f"takes/{name}",
        "take_name": name,
        "take_uid": uid,
        "university_name": name.split("_")[0],
        "best_exo": exos[-1] if exos else None,
        "parent_task_name": "Bike Repair" if "bike" in name else "Cooking",
        "frame_aligned_videos": videos | {"collage": None, "best_exo": {"0": stream("best_exo", "0", "best_exo")}},
        "capture": {"cameras": cameras},
    }
    return told | more


TAKES = [take(BIKE, BIKE_UID, ["aria01"], ["cam01", "cam02"]), take(COOK, COOK_UID, ["aria03"], ["gp01"])]
CAPTURES = [{"capture_name": "cmu_bike01", "capture_uid": CAPTURE_UID, "university_name": "cmu", "cameras": []}]
SPLITS = {
    "take_uid_to_split": {BIKE_UID: "train", COOK_UID: "val"},
    "take_uid_to_benchmark": {BIKE_UID: ["keystep", "relations"]},
}


def path(where: str, size: int | None = 7, bucket: str = "ego4d-consortium-sharing", **tags: Any) -> dict[str, Any]:
    # The key is not the path in the tree: nobody may make the one from the other.
    return {"source_path": f"s3://{bucket}/any/{where}", "relative_path": where, "size": size, **tags}


def entry(uid: str, paths: list[dict[str, Any]], splits: Any = None, benchmarks: Any = None) -> dict[str, Any]:
    return {"uid": uid, "paths": paths, "splits": splits, "benchmarks": benchmarks}


def videos_of(name: str, camera: str, exos: list[str], below: str = "", tagged: bool = True) -> list[dict[str, Any]]:
    folder = f"takes/{name}/frame_aligned_videos{below}"
    university = name.split("_")[0]
    return [
        path(
            f"{folder}/{video}.mp4",
            bucket=f"ego4d-{university}",
            views=[view] if tagged else None,
            universities=[university] if tagged else None,
        )
        for view, videos in (("ego", [f"{camera}_{each}" for each in ARIA]), ("exo", exos))
        for video in videos
    ]


MANIFESTS = {
    "metadata": [entry(name, [path(f"{name}.json")]) for name in ("takes", "captures")],
    "captures": [entry(CAPTURE_UID, [path("captures/cmu_bike01/timesync.csv")], ["train"])],
    "takes": [
        entry(BIKE_UID, videos_of(BIKE, "aria01", ["cam01", "cam02"]), ["train"], ["keystep", "relations"]),
        entry(COOK_UID, videos_of(COOK, "aria03", ["gp01"]), ["val"], None),
    ],
    "downscaled_takes/448": [
        entry(BIKE_UID, videos_of(BIKE, "aria01", ["cam01", "cam02"], "/downscaled/448", tagged=False), ["train"]),
        entry(COOK_UID, videos_of(COOK, "aria03", ["gp01"], "/downscaled/448", tagged=False), ["val"]),
    ],
    "annotations": [
        entry("atomic_descriptions", [path("annotations/atomic_descriptions_train.json")], ["train"], ["keystep"]),
        entry("splits", [path("annotations/splits.json")]),
        entry(COOK_UID, [path(f"annotations/ego_pose/val/body/{COOK_UID}.json")], ["val"], ["hand_pose"]),
    ],
    "take_vrs": [
        entry(BIKE_UID, [path(f"takes/{BIKE}/aria01.vrs", size=None)]),
        entry(COOK_UID, [path(f"takes/{COOK}/aria03.vrs", size=0)]),
    ],
    "features/maws_clip_2b": [entry(COOK_UID, [path(f"features/maws_clip_2b/{COOK_UID}_gp01_0.pt")])],
}
DOCUMENTS = {"takes.json": TAKES, "captures.json": CAPTURES, "annotations/splits.json": SPLITS}


def remote(
    manifests: dict[str, Any] = MANIFESTS, documents: dict[str, Any] = DOCUMENTS, place: str = BASE
) -> dict[str, bytes]:
    objects = {f"{place}/{part}/manifest.json": entries for part, entries in manifests.items()}
    objects |= {f"ego4d-consortium-sharing/any/{name}": document for name, document in documents.items()}
    return {key: json.dumps(value).encode() for key, value in objects.items()}


def dataset(objects: dict[str, bytes], **options: Any) -> EgoExo4D:
    return EgoExo4D(MemorySource(objects), Options(**options), NOWHERE)


def tree(objects: dict[str, bytes], **options: Any) -> dict[str, Entry]:
    one = dataset(objects, **options)
    one.check()
    return unpacked(one)


def unpacked(one: EgoExo4D) -> dict[str, Entry]:
    found = one.entries("")
    assert isinstance(found, Tree)
    shown: dict[str, Entry] = {}
    packed: defaultdict[str, list[bytes]] = defaultdict(list)
    for folder, each in found.entries:
        if isinstance(each, Packed):
            packed[folder].append(each.data)
        else:
            shown[posixpath.join(folder, each.name)] = each
    for top, pieces in packed.items():
        shown |= {posixpath.join(top, folder, each.name): each for folder, each in one.unpack(pieces)}
    return shown


def files(objects: dict[str, bytes], **options: Any) -> set[str]:
    return {place for place, each in tree(objects, **options).items() if each.kind is Kind.FILE}


def links(objects: dict[str, bytes], folder: str, **options: Any) -> dict[str, str]:
    found = tree(objects, **options).items()
    return {
        each.name: each.target for place, each in found if each.kind is Kind.LINK and place.startswith(f"{folder}/")
    }


def expanded(*short: str) -> set[str]:
    """Paths of the tree from a notation that fits a table."""
    places = {
        "meta": {"takes.json", "captures.json"},
        "capture": {"captures/cmu_bike01/timesync.csv"},
        "atomic": {"annotations/atomic_descriptions_train.json"},
        "splits": {"annotations/splits.json"},
        "pose": {f"annotations/ego_pose/val/body/{COOK_UID}.json"},
        "features": {f"features/maws_clip_2b/{COOK_UID}_gp01_0.pt"},
        "bike.vrs": {f"takes/{BIKE}/aria01.vrs"},
        "cook.vrs": {f"takes/{COOK}/aria03.vrs"},
    }
    for name, camera, exos, own in ((BIKE, "aria01", ["cam01", "cam02"], "bike"), (COOK, "aria03", ["gp01"], "cook")):
        for below, suffix in (("", ""), ("/downscaled/448", "448")):
            folder = f"takes/{name}/frame_aligned_videos{below}"
            places[f"{own}{suffix}.ego"] = {f"{folder}/{camera}_{each}.mp4" for each in ARIA}
            places[f"{own}{suffix}.exo"] = {f"{folder}/{exo}.mp4" for exo in exos}
    return set().union(*(places[name] for name in short))


BIKES = ("bike.ego", "bike.exo", "bike448.ego", "bike448.exo", "bike.vrs")
COOKS = ("cook.ego", "cook.exo", "cook448.ego", "cook448.exo", "cook.vrs")
OTHERS = ("meta", "capture", "atomic", "splits", "pose", "features")
ANNOTATIONS = ("atomic", "splits", "pose")

# Options, and what is shown of the manifests above.
SELECTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, (*BIKES, *COOKS, *OTHERS)),
    ({"parts": ["all"]}, (*BIKES, *COOKS, *OTHERS)),
    ({"parts": ["default"]}, ("bike.ego", "bike.exo", "cook.ego", "cook.exo", "meta", "capture", *ANNOTATIONS)),
    ({"parts": ["takes"]}, ("bike.ego", "bike.exo", "cook.ego", "cook.exo")),
    ({"parts": ["downscaled_takes/448"]}, ("bike448.ego", "bike448.exo", "cook448.ego", "cook448.exo")),
    ({"parts": ["annotations", "take_vrs"]}, (*ANNOTATIONS, "bike.vrs", "cook.vrs")),
    ({"parts": ["takes", "all"]}, (*BIKES, *COOKS, *OTHERS)),
    # Tagged entries of another split go; those without a split stay.
    ({"splits": ["train"]}, (*BIKES, "cook.vrs", "meta", "capture", "atomic", "splits", "features")),
    ({"splits": ["val"]}, (*COOKS, "bike.vrs", "meta", "splits", "pose", "features")),
    ({"splits": ["train", "val"]}, (*BIKES, *COOKS, *OTHERS)),
    # So with benchmarks: cook and 448 have none.
    ({"benchmarks": ["keystep"]}, (*BIKES, *COOKS, "meta", "capture", "atomic", "splits", "features")),
    ({"benchmarks": ["hand_pose"]}, (*BIKES[2:], *COOKS, "meta", "capture", "splits", "pose", "features")),
    ({"benchmarks": ["relations", "hand_pose"]}, (*BIKES, *COOKS, "meta", "capture", "splits", "pose", "features")),
    # Views and universities of what has no tags are those that takes.json and captures.json know.
    ({"views": ["ego"]}, ("bike.ego", "bike448.ego", "bike.vrs", "cook.ego", "cook448.ego", "cook.vrs", *OTHERS[:-1])),
    ({"views": ["exo"]}, ("bike.exo", "bike448.exo", "cook.exo", "cook448.exo", *OTHERS)),
    ({"views": ["ego", "exo"]}, (*BIKES, *COOKS, *OTHERS)),
    ({"universities": ["cmu"]}, (*BIKES, "meta", "capture", "atomic", "splits")),
    ({"universities": ["upenn"]}, (*COOKS, "meta", "atomic", "splits", "pose", "features")),
    ({"universities": ["cmu"], "views": ["exo"], "parts": ["downscaled_takes/448"]}, ("bike448.exo",)),
    # A uid is one of entries; files of many takes stay.
    ({"uids": [BIKE_UID]}, (*BIKES, "meta", "atomic", "splits")),
    ({"uids": [CAPTURE_UID]}, ("capture", "meta", "atomic", "splits")),
    ({"uids": [BIKE_UID, COOK_UID], "splits": ["val"], "parts": ["takes"]}, ("cook.ego", "cook.exo")),
]


@pytest.mark.parametrize(("options", "shown"), SELECTIONS, ids=[str(options) for options, _ in SELECTIONS])
def test_options_select_what_the_official_downloader_would(options: dict[str, Any], shown: tuple[str, ...]) -> None:
    assert files(remote(), **options) == expanded(*shown)


def test_a_file_stands_where_the_manifest_says_with_its_size_and_its_place_in_the_store() -> None:
    shown = tree(remote())
    one = shown[f"takes/{BIKE}/frame_aligned_videos/cam01.mp4"]
    assert one.is_video
    assert one.object is not None
    assert one.object.key == f"ego4d-cmu/any/takes/{BIKE}/frame_aligned_videos/cam01.mp4"
    assert (one.object.size_bytes, one.object.mtime_ns, one.object.version) == (7, 0, "")
    sizes = [each.object.size_bytes for name, each in shown.items() if name.endswith(".vrs") and each.object]
    assert sizes == [UNKNOWN_SIZE, 0]


@pytest.mark.parametrize("below", ["", "/downscaled/448"])
def test_canonical_names_lead_to_the_cameras_of_a_take(below: str) -> None:
    expected = {"ego.mp4": "aria01_214-1.mp4", "slam-left.mp4": "aria01_1201-1.mp4"}
    expected |= {"slam-right.mp4": "aria01_1201-2.mp4", "et.mp4": "aria01_211-1.mp4"}
    expected |= {"exo1.mp4": "cam01.mp4", "exo2.mp4": "cam02.mp4", "best_exo.mp4": "cam02.mp4"}
    folder = f"takes/{BIKE}/frame_aligned_videos{below}"
    found = {name: target for name, target in links(remote(), folder).items() if below or "/" not in target}
    assert found == expected
    assert links(remote(), folder, views=["exo"], parts=["takes", "downscaled_takes/448"]).keys() == {
        "exo1.mp4", "exo2.mp4", "best_exo.mp4"
    }  # fmt: skip


def named(one: dict[str, Any], videos: list[str], **documents: Any) -> dict[str, str]:
    """The canonical names of a take that has these videos."""
    paths = [path(f"takes/{one['take_name']}/frame_aligned_videos/{video}.mp4") for video in videos]
    manifests = {"metadata": MANIFESTS["metadata"], "takes": [entry(one["take_uid"], paths)]}
    found = links(remote(manifests, {"takes.json": [one], **documents}), f"takes/{one['take_name']}", parts=["takes"])
    return found


def test_only_videos_that_are_there_get_names_and_exo_cameras_keep_their_numbers() -> None:
    exos = [f"cam{number}" for number in (10, 9, 1)]
    one = take(BIKE, BIKE_UID, ["aria01"], exos)
    assert named(one, ["cam9", "cam10"]) == {"exo2.mp4": "cam9.mp4", "exo3.mp4": "cam10.mp4"}


def test_a_canonical_name_that_is_a_files_own_stays_the_files() -> None:
    one = take(BIKE, BIKE_UID, ["aria01"], ["cam01"])
    assert named(one, ["cam01", "exo1", "best_exo", "ego", "aria01_214-1"]) == {}


@pytest.mark.parametrize(
    ("egos", "cameras", "there", "ego"),
    [
        (["aria02"], None, ["aria02_214-1"], "aria02_214-1.mp4"),
        # Several that say so: those with aligned videos, then those called aria.
        (["aria01"], [("aria01", True), ("aria02", True), ("cam01", False)], ["aria01_214-1"], "aria01_214-1.mp4"),
        (["gogle1", "aria04"], None, ["aria04_214-1", "gogle1_214-1"], "aria04_214-1.mp4"),
        (["aria01", "aria02"], None, ["aria01_214-1", "aria02_214-1"], None),
        (["aria01"], [("aria01", "False"), ("aria02", "True")], ["aria01_214-1"], None),
        # Nobody says which it is: the one with an Aria's streams.
        (["aria05"], [], ["aria05_214-1"], "aria05_214-1.mp4"),
    ],
)
def test_the_ego_camera_is_that_of_the_official_rule(
    egos: list[str], cameras: list[tuple[str, Any]] | None, there: list[str], ego: str | None
) -> None:
    one = take(BIKE, BIKE_UID, egos, [])
    if cameras is not None:
        one["capture"] = {"cameras": [{"cam_id": camera, "is_ego": is_ego} for camera, is_ego in cameras]}
    assert named(one, there).get("ego.mp4") == ego


def test_the_cameras_of_a_capture_serve_its_takes() -> None:
    one = take(BIKE, BIKE_UID, ["aria01", "aria02"], [], capture=None, capture_uid=CAPTURE_UID)
    cameras = [{"cam_id": "aria01", "is_ego": False}, {"cam_id": "aria02", "is_ego": True}]
    captures = [{"capture_name": "c", "capture_uid": CAPTURE_UID, "cameras": cameras}]
    names = named(one, ["aria01_214-1", "aria02_214-1"], **{"captures.json": captures})
    assert names["ego.mp4"] == "aria02_214-1.mp4"


def test_views_by_meaning_lead_to_the_takes_that_are_there() -> None:
    bike, cook = f"../../takes/{BIKE}", f"../../takes/{COOK}"
    assert links(remote(), "by-split/train") == links(remote(), "by-task/Bike Repair") == {BIKE: bike}
    assert links(remote(), "by-split/val") == links(remote(), "by-university/upenn") == {COOK: cook}
    assert links(remote(), "by-benchmark") == {BIKE: bike}
    assert links(remote(), "by-uid") == {BIKE_UID: f"../takes/{BIKE}", COOK_UID: f"../takes/{COOK}"}
    assert links(remote(), "by-split", uids=[COOK_UID]) == {COOK: cook}
    assert links(remote(), "by-uid", parts=["annotations"]) == {}
    tags_of_entries = {"metadata": MANIFESTS["metadata"], "takes": MANIFESTS["takes"]}
    assert links(remote(tags_of_entries), "by-split", parts=["takes"]) == {BIKE: bike, COOK: cook}


def test_a_task_with_a_slash_is_one_folder() -> None:
    odd = [
        take(BIKE, BIKE_UID, [], [], parent_task_name="Rock/Wall"),
        take(COOK, COOK_UID, [], [], parent_task_name=".."),
    ]
    assert {place for place in tree(remote(documents={**DOCUMENTS, "takes.json": odd})) if "by-task" in place} == {
        f"by-task/Rock-Wall/{BIKE}"
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"universities": ["cmuu"]}, "universities=cmuu: nothing here has this; there are cmu, upenn"),
        ({"splits": ["Train"]}, "splits=Train: nothing here has this; there are train, val"),
        ({"benchmarks": ["egopose"]}, "benchmarks=egopose: nothing here has this; there are hand_pose, keystep, rel"),
        ({"benchmarks": ["keystep"], "parts": ["take_vrs"]}, "there are none at all"),
        ({"uids": [BIKE_UID[:-1]], "parts": ["takes"]}, f"uids={BIKE_UID[:-1]}: .* the nearest of 2 is {BIKE_UID}"),
        ({"parts": ["takess"]}, "parts=takess: .*there are all, default, metadata, .*, take_audio$"),
        ({"parts": ["take_audio"]}, "parts=take_audio: "),
        ({"release": "v9"}, "no manifest stands in ego4d-consortium-sharing/egoexo-public/v9/"),
    ],
)
def test_a_value_that_nothing_has_is_refused_with_those_there_are(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        tree(remote(), **options)


def test_options_that_can_be_checked_without_a_manifest_are() -> None:
    with pytest.raises(OptionError, match="views='side': write ego or exo"):
        Options(views=["side"])
    with pytest.raises(OptionError, match="base_dir"):
        Options(base_dir="/local")


def test_a_value_is_known_though_another_filter_leaves_nothing_of_it() -> None:
    assert files(remote(), universities=["cmu"], splits=["val"], parts=["takes"]) == set()


def test_a_part_that_is_not_in_the_list_is_shown_if_it_has_a_manifest() -> None:
    clip = f"keystep/val/{BIKE}/start1.2_end3_aria01_214-1.mp4"
    more = {**MANIFESTS, "keystep_benchmark/clips_448p": [entry(BIKE_UID, [path(clip)])]}
    assert clip not in files(remote(more))
    assert clip in files(remote(more), parts=["all", "keystep_benchmark/clips_448p"])
    for view, shown in (("ego", {clip}), ("exo", set())):
        assert files(remote(more), parts=["keystep_benchmark/clips_448p"], views=[view]) == shown


def test_another_release_in_another_place_is_read_there() -> None:
    objects = remote(place="mine/prefix/v3")
    assert files(objects, base_dir="s3://mine/prefix", release="v3", parts=["takes"]) == expanded(
        "bike.ego", "bike.exo", "cook.ego", "cook.exo"
    )


class Denying(MemorySource):
    """Keys that may not list: what is not there is refused like what is secret."""

    def stat(self, key: str) -> Any:
        if key not in self.objects:
            raise AccessDenied(key)
        return super().stat(key)


def test_where_a_missing_object_is_refused_a_part_of_all_may_be_missing() -> None:
    one = EgoExo4D(Denying(remote()), Options(), NOWHERE)
    assert unpacked(one) == tree(remote())
    with pytest.raises(OptionError, match="parts=takess"):
        list(EgoExo4D(Denying(remote()), Options(parts=["takess"]), NOWHERE).entries("").entries)


def test_keys_that_may_read_nothing_are_refused() -> None:
    with pytest.raises(AccessDenied):
        list(EgoExo4D(Denying({f"{BASE}/x": b""}), Options(), NOWHERE).entries("").entries)


def test_a_mount_asks_for_nothing_before_the_tree_is_wanted() -> None:
    source = MemorySource(remote())
    EgoExo4D(source, Options(parts=["takes"], universities=["cmu"]), NOWHERE).check()
    assert source.reads == []


def test_without_takes_json_there_are_files_and_no_links() -> None:
    assert set(tree(remote({"takes": MANIFESTS["takes"]}, {}))) == expanded(
        "bike.ego", "bike.exo", "cook.ego", "cook.exo"
    )


def test_takes_and_entries_of_another_shape_are_left_out() -> None:
    documents = {**DOCUMENTS, "takes.json": [{"take_name": 3}, TAKES[0], None, {**TAKES[1], "best_exo": {"x": 1}}]}
    manifests = {**MANIFESTS, "takes": [*MANIFESTS["takes"], {"uid": 1, "paths": "x"}, "x"]}
    assert files(remote(manifests, documents)) == files(remote())
    assert set(links(remote(manifests, documents), "by-uid")) == {BIKE_UID, COOK_UID}


def test_a_document_that_is_no_json_is_told_by_its_name() -> None:
    objects = remote()
    objects[f"{BASE}/takes/manifest.json"] = b"<html>"
    with pytest.raises(CorruptData, match=r"takes/manifest\.json"):
        tree(objects)


def test_takes_and_captures_come_packed_and_what_stands_above_them_does_not() -> None:
    found = dataset(remote()).entries("")
    assert isinstance(found, Tree)
    of_each = [(folder, isinstance(each, Packed)) for folder, each in found.entries]
    assert {folder for folder, is_packed in of_each if is_packed} == {
        f"takes/{BIKE}", f"takes/{COOK}", "captures/cmu_bike01", "annotations/ego_pose/val", "features/maws_clip_2b",
    }  # fmt: skip
    plain = {folder for folder, is_packed in of_each if not is_packed}
    assert {folder for folder in plain if not folder.startswith("by-")} == {"", "annotations"}


def test_files_of_one_entry_may_stand_anywhere_in_tree_and_store() -> None:
    places = [f"takes/{BIKE}/a.csv", f"takes/{COOK}/b/c.csv", "takes/d.csv", "e.csv", f"takes/{BIKE}/b/../f.csv"]
    paths = [path(place) | {"source_path": f"s3://bucket/{n}"} for n, place in enumerate(places)]
    more = [path(f"takes/{COOK}/g.csv"), path(f"takes/{COOK}/h.csv", bucket="other")]
    manifests = {"metadata": MANIFESTS["metadata"], "takes": [entry(BIKE_UID, paths), entry(COOK_UID, more)]}
    shown = tree(remote(manifests), parts=["takes"])
    assert {place: each.object.key for place, each in shown.items() if each.object} == {
        f"takes/{BIKE}/a.csv": "bucket/0",
        f"takes/{COOK}/b/c.csv": "bucket/1",
        "takes/d.csv": "bucket/2",
        "e.csv": "bucket/3",
        f"takes/{BIKE}/f.csv": "bucket/4",
        f"takes/{COOK}/g.csv": f"ego4d-consortium-sharing/any/takes/{COOK}/g.csv",
        f"takes/{COOK}/h.csv": f"other/any/takes/{COOK}/h.csv",
    }


@pytest.mark.parametrize("place", ["../x.json", "/", "a/../../x", "", "a/"])
def test_a_path_that_leads_out_of_the_tree_is_left_out(place: str) -> None:
    manifests = {"metadata": MANIFESTS["metadata"], "takes": [entry("x", [path(place), path("/a//b/./c.json")])]}
    assert files(remote(manifests), parts=["takes"]) == {"a/b/c.json"}


def test_frames_count_from_0_at_the_videos_own_rate() -> None:
    rule = dataset({}).frame_rule(f"takes/{BIKE}/frame_aligned_videos", "ego")
    assert (rule.fps, rule.first, rule.file_name("ego", 81), rule.number("ego", "81.jpg")) == (
        None,
        0,
        "000081.jpg",
        81,
    )


@pytest.mark.parametrize(
    ("place", "facts"),
    [
        (f"takes/{BIKE}/frame_aligned_videos/aria01_214-1.mp4", {"take": BIKE, "camera": "aria01", "stream": "rgb"}),
        (f"takes/{BIKE}/frame_aligned_videos/downscaled/448/cam02.mp4", {"take": BIKE, "camera": "cam02"}),
        (f"takes/{BIKE}/frame_aligned_videos/downscaled/448/ego_preview.mp4", {"take": BIKE}),
        (f"takes/{BIKE}/aria02_noimagestreams.vrs", {"take": BIKE, "camera": "aria02"}),
        ("captures/cmu_bike01/timesync.csv", {"capture": "cmu_bike01"}),
        (
            f"features/maws_clip_2b/{COOK_UID}_aria01_rgb.pt",
            {"take_uid": COOK_UID, "camera": "aria01", "stream": "rgb"},
        ),
        (f"annotations/ego_pose/val/body/{COOK_UID}.json", {"take_uid": COOK_UID}),
        ("clips/val/x/start1.5_end3_aria01_214-1.mp4", {"camera": "aria01", "stream": "rgb"}),
        ("takes.json", {}),
    ],
)
def test_facts_are_what_a_name_tells(place: str, facts: dict[str, str]) -> None:
    assert dataset({}).facts(*posixpath.split(place)) == facts


# -- a copy


def copied() -> dict[str, bytes]:
    """What the official downloader would have written."""
    own = {name: json.dumps(document).encode() for name, document in DOCUMENTS.items()}
    return dict.fromkeys(expanded(*BIKES, *COOKS, *OTHERS), b"7 bytes") | own


def listed(one: EgoExo4D, folder: str) -> dict[str, str]:
    found = one.entries(folder)
    assert not isinstance(found, Tree)
    return {each.name: each.target for each in found}


def walked(one: EgoExo4D, folder: str = "") -> set[str]:
    """All files below a folder."""
    found = one.entries(folder)
    assert not isinstance(found, Tree)
    shown: set[str] = set()
    for each in found:
        place = posixpath.join(folder, each.name)
        shown |= walked(one, place) if each.kind is Kind.DIRECTORY else {place} if each.kind is Kind.FILE else set()
    return shown


@pytest.mark.parametrize(
    "folder", ["", "takes", f"takes/{BIKE}/frame_aligned_videos", "by-split", "by-split/train", "by-uid"]
)
def test_a_folder_of_a_copy_is_as_in_the_tree_of_the_manifests(folder: str) -> None:
    shown = {
        posixpath.relpath(place, folder or ".").split("/")[0]
        for place in tree(remote())
        if f"{place}/".startswith(folder)
    }
    assert set(listed(dataset(copied()), folder)) == {name for name in shown if name != ".."}


def test_links_of_a_copy_are_those_of_the_manifests() -> None:
    one = dataset(copied())
    assert listed(one, f"takes/{COOK}/frame_aligned_videos/downscaled/448")["ego.mp4"] == "aria03_214-1.mp4"
    assert listed(one, "by-university/cmu") == {BIKE: f"../../takes/{BIKE}"}
    with pytest.raises(NotFound):
        listed(one, "by-university/nowhere")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"universities": ["cmu"]}, (*BIKES, "meta", "capture", "atomic", "splits")),
        ({"splits": ["val"]}, (*COOKS, "meta", "capture", "atomic", "splits", "pose", "features")),
        ({"benchmarks": ["keystep"]}, (*BIKES, *COOKS, *OTHERS)),
        ({"uids": [BIKE_UID]}, (*BIKES, "meta", "atomic", "splits")),
        (
            {"views": ["ego"]},
            ("bike.ego", "bike448.ego", "bike.vrs", "cook.ego", "cook448.ego", "cook.vrs", *OTHERS[:-1]),
        ),
    ],
)
def test_a_copy_is_filtered_by_what_its_json_files_tell(options: dict[str, Any], shown: tuple[str, ...]) -> None:
    one = dataset(copied(), **options)
    one.check()
    assert walked(one) == expanded(*shown)


def test_a_value_that_no_take_of_a_copy_has_is_refused_at_mount() -> None:
    for options in ({"universities": ["x"]}, {"splits": ["x"]}, {"benchmarks": ["x"]}, {"uids": ["x"]}):
        with pytest.raises(OptionError, match=f"{next(iter(options))}=x"):
            dataset(copied(), **options).check()


def test_a_copy_without_its_json_files_is_shown_as_it_is() -> None:
    one = dataset({"takes/x/frame_aligned_videos/cam01.mp4": b""})
    assert listed(one, "") == {"takes": ""}
    assert listed(one, "takes/x/frame_aligned_videos") == {"cam01.mp4": ""}


def test_the_json_files_of_a_copy_are_parsed_once_a_version() -> None:
    source = MemorySource(copied())
    one = EgoExo4D(source, Options(), NOWHERE)
    for folder in ("", "takes", "", "by-split"):
        listed(one, folder)
    assert len(source.reads) == 3
    source.objects["takes.json"] = json.dumps(TAKES[:1]).encode()
    listed(one, "")
    assert set(listed(one, "by-uid")) == {BIKE_UID}


def test_the_built_in_parts_are_those_of_the_downloader() -> None:
    assert len(PARTS) == len(set(PARTS)) == 19
