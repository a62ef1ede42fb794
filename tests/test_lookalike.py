"""The look-alike stores: the shapes and gaps that the datasets have, videos that say what they are, made up."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.remotes import ENTRY, REGIONS, official_copy, serve
from vfs.datasets.lookalike.ego4d import EGO4D_CLIPS, EGO4D_VIDEOS, make_ego4d
from vfs.datasets.lookalike.egoexo4d import TAKES, make_egoexo4d
from vfs.video import sample, stamp

PUBLIC = f"{ENTRY}/public"
EGOEXO = f"{ENTRY}/egoexo-public/v2"
V = [video.uid for video in EGO4D_VIDEOS]
C = [clip.uid for clip in EGO4D_CLIPS]


def manifest(root: Path, name: str) -> list[dict[str, str]]:
    with (root / PUBLIC / name / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def part(root: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / EGOEXO / name / "manifest.json").read_text())
    return found


def parts(root: Path) -> list[str]:
    manifests = (root / EGOEXO).rglob("manifest.json")
    return sorted(str(path.parent.relative_to(root / EGOEXO)) for path in manifests)


def paths_of(root: Path) -> Iterator[dict[str, Any]]:
    for name in parts(root):
        for entry in part(root, name):
            yield from entry["paths"]


def form(path: Path) -> tuple[str, str, int, int]:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.name, context.format.name, context.width, context.height


def numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.time_base.denominator) == (30, 15360)
        return [stamp.read(picture.to_ndarray(format="gray")) for picture in container.decode(stream)]


# ---- Both ----------------------------------------------------------------------------------------------------------


def test_the_stores_are_small_and_every_video_has_its_own_bytes(lookalikes: Path) -> None:
    files = [path for path in lookalikes.rglob("*") if path.is_file()]
    assert 1 << 20 < sum(path.stat().st_size for path in files) < 8 << 20
    videos = [path for path in files if path.read_bytes()[4:8] == b"ftyp"]
    assert len(videos) > 60
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in videos}) == len(videos)
    assert not [path for path in lookalikes.iterdir() if not path.name.startswith("ego4d-")]


def test_a_store_is_the_same_every_time(lookalikes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "write", lambda path, *rest, **more: path.write_bytes(b"v"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_ego4d(tmp_path / name)
        make_egoexo4d(tmp_path / name)
    made = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert made[0] == made[1]
    there = {path.relative_to(lookalikes) for path in lookalikes.rglob("*") if path.is_file()}
    assert there == set(made[0])


def test_every_uid_is_plainly_made_up(lookalikes: Path) -> None:
    texts = [str(lookalikes / path) for path in lookalikes.rglob("*")]
    texts += [path.read_text() for suffix in ("csv", "json") for path in lookalikes.rglob(f"*.{suffix}")]
    uids = {uid for text in texts for uid in re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", text)}
    assert len(uids) > 20
    for uid in uids:
        first, _, *middle, last = uid.split("-")
        assert (middle, int(last, 16)) == (["4000", "8000"], int(first, 16))


def test_buckets_stand_in_several_regions_and_tell_theirs(lookalikes: Path) -> None:
    assert len({REGIONS.get(path.name, "us-east-1") for path in lookalikes.iterdir()}) >= 5
    with serve(lookalikes) as server:
        assert server.regions["ego4d-unict-milan"] == "eu-south-1"


# ---- Ego4D ---------------------------------------------------------------------------------------------------------


def test_manifests_have_all_shapes_that_there_are(lookalikes: Path) -> None:
    shapes = {
        str(path.parent.relative_to(lookalikes / PUBLIC)): path.read_text().partition("\n")[0]
        for path in (lookalikes / PUBLIC).rglob("manifest.csv")
    }
    assert shapes["v2_1/annotations"] == "file_uid,annotation,type,canonical_s3_location"
    assert shapes["v1/annotations"] == "file_uid,s3_path"
    assert shapes["v2_1/video_540ss"] == "video_uid,s3_path,benchmarks"
    assert shapes["v2_1/clips"] == "video_uid,s3_path,benchmarks"
    assert shapes["v2/clips"] == (
        "exported_clip_uid,parent_video_uid,parent_start_sec,parent_end_sec,s3_path,manifold_location"
    )
    assert shapes["v1/full_scale"].startswith("video_uid,path,duration_sec,scenarios,split_em")
    assert len(shapes["v1/full_scale"].split(",")) == 41
    assert shapes["v2_1/imu"] == "video_uid,type,s3_path,benchmarks"
    assert set(shapes) >= {f"{version}/full_scale" for version in ("v1", "v2", "v2_1")} | {"v2_1/components/videos"}


def test_manifests_have_the_gaps_that_there_are(lookalikes: Path) -> None:
    rows = manifest(lookalikes, "v2_1/full_scale")
    tags = {row["video_uid"]: row["benchmarks"] for row in rows}
    assert {"[FHO|EM]", "[]", "", "[AV | NLQ]", "[goalstep]"} <= set(tags.values())
    assert f"grp-{V[0]}" in tags
    assert f"grp-{V[0]}" not in {row["video_uid"] for row in manifest(lookalikes, "v2_1/video_540ss")}
    missing = [row for row in rows if not (lookalikes / row["canonical_s3_location"][5:]).exists()]
    assert [row["video_uid"] for row in missing] == [V[5]]
    assert (lookalikes / "ego4d-minnesota").is_dir()
    old = manifest(lookalikes, "v1/full_scale")
    assert f"s3://ego4d-unict/public/v1/full_scale/{V[1]}" in {row["canonical_s3_location"] for row in old}


def test_a_store_without_gaps_has_every_object_that_its_manifests_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "write", lambda path, *rest, **more: path.write_bytes(b"v"))
    make_ego4d(tmp_path, has_gaps=False)
    names = [str(path.parent.relative_to(tmp_path / PUBLIC)) for path in (tmp_path / PUBLIC).rglob("manifest.csv")]
    rows = [row for name in names for row in manifest(tmp_path, name)]
    assert len(rows) > 50
    assert all((tmp_path / (row.get("canonical_s3_location") or row["s3_path"])[5:]).is_file() for row in rows)


def test_metadata_knows_videos_and_clips_that_no_manifest_has(lookalikes: Path) -> None:
    told = json.loads((lookalikes / PUBLIC / "v2_1/ego4d.json").read_text())
    videos = {video["video_uid"]: video for video in told["videos"]}
    assert V[6] in videos
    assert V[6] not in {row["video_uid"] for row in manifest(lookalikes, "v2_1/full_scale")}
    assert videos[V[0]]["redacted_intervals"] == [
        {"start_sec": 2.5, "end_sec": 3.0, "start_frame": 75, "end_frame": 90}
    ]
    assert videos[V[3]]["scenarios"] == []
    assert videos[V[1]]["video_metadata"]["audio_base_denominator"] is None
    in_manifest = {row["video_uid"] for row in manifest(lookalikes, "v2_1/clips")}
    assert {clip["clip_uid"] for clip in told["clips"]} - in_manifest == {C[3], C[4], C[6], C[7]}


@pytest.mark.parametrize("tier", ["full_scale", "video_540ss"])
def test_videos_are_vp9_of_their_tiers_size_and_show_their_numbers(lookalikes: Path, tier: str) -> None:
    rows = [row for row in manifest(lookalikes, f"v2_1/{tier}") if row["video_uid"] in V[:2]]
    sizes = {"full_scale": [(960, 720), (1280, 720)], "video_540ss": [(720, 540), (960, 540)]}[tier]
    for row, size in zip(rows, sizes, strict=True):
        path = lookalikes / (row.get("canonical_s3_location") or row["s3_path"])[5:]
        assert form(path) == ("vp9", "yuv420p", *size)
        assert numbers(path) == list(range(90))


def test_a_clip_shows_its_parents_numbers(lookalikes: Path) -> None:
    for clip in EGO4D_CLIPS[:3]:
        assert clip.start is not None
        assert clip.stop is not None
        path = lookalikes / clip.parent.bucket / f"public/v1/clips/{clip.uid}.mp4"
        assert numbers(path) == list(range(clip.start, clip.stop))


def test_a_video_has_sound_where_the_metadata_says_so(lookalikes: Path) -> None:
    for row in manifest(lookalikes, "v2_1/full_scale")[:2]:
        with av.open(str(lookalikes / row["canonical_s3_location"][5:])) as container:
            seconds = [float(s.duration * s.time_base) for s in container.streams.audio]
        assert seconds == pytest.approx([3] if row["canonical_audio_duration_sec"] else [], abs=0.1)


def test_features_are_tensors_that_torch_reads(lookalikes: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.load(lookalikes / PUBLIC / f"v1/slowfast8x8_r101_k400/{V[0]}.pt")
    assert (tuple(tensor.shape), tensor.dtype) == ((6, 2304), torch.float32)
    assert 0 <= tensor.min() < tensor.max() < 1


# ---- Ego-Exo4D -----------------------------------------------------------------------------------------------------


def test_every_part_has_a_manifest_and_every_path_in_it_an_object_of_that_size(lookalikes: Path) -> None:
    assert len(parts(lookalikes)) == 16
    sizes = []
    for path in paths_of(lookalikes):
        there = (lookalikes / path["source_path"][5:]).stat().st_size
        assert path["size"] in (there, None), path
        sizes.append(path["size"])
    assert {None, 0} <= set(sizes)


def test_manifests_have_entries_without_tags_and_paths_that_keys_do_not_tell(lookalikes: Path) -> None:
    entries = part(lookalikes, "takes")
    assert [entry["splits"] for entry in entries] == [["train"], ["val"], ["test"], None, None]
    assert entries[2]["benchmarks"] is None
    assert {view for entry in entries for path in entry["paths"] for view in path["views"] or [None]} == {
        *("ego", "exo", None)
    }
    untagged = [path for entry in part(lookalikes, "downscaled_takes/448") for path in entry["paths"]]
    assert {(path["views"], path["universities"]) for path in untagged} == {(None, None)}
    apart = [path for path in paths_of(lookalikes) if not path["source_path"].endswith(path["relative_path"])]
    assert {path["source_path"].split("/")[5] for path in apart} >= {"trimmed", "downscaled_takes"}


def test_metadata_and_takes_differ_as_they_do(lookalikes: Path) -> None:
    told = {take["take_uid"]: take for take in json.loads((lookalikes / EGOEXO / "metadata/takes.json").read_text())}
    here = {entry["uid"] for entry in part(lookalikes, "takes")}
    assert here - told.keys() == {TAKES[4].uid}
    assert told.keys() - here == {TAKES[5].uid}
    assert told[TAKES[5].uid]["is_dropped"]
    assert told[TAKES[5].uid]["frame_aligned_videos"] is None
    cameras = told[TAKES[1].uid]["capture"]["cameras"]
    assert [(camera["cam_id"], camera["is_ego"]) for camera in cameras[:2]] == [("aria01", "True"), ("aria03", True)]
    assert "aria01" not in told[TAKES[1].uid]["frame_aligned_videos"]
    assert {take["best_exo"] for take in told.values()} == {"cam01", "cam02", None}


def test_cameras_have_their_shapes_and_show_their_numbers(lookalikes: Path) -> None:
    folder = lookalikes / "ego4d-cmu/egoexo-public/v2/takes/cmu_bike99_2/frame_aligned_videos"
    shapes = {
        "aria01_214-1": ("yuv420p", 704, 704),
        "aria01_1201-1": ("yuv420p", 240, 320),
        "aria01_1201-2": ("yuv420p", 240, 320),
        "aria01_211-1": ("yuv420p", 320, 240),
        "cam01": ("yuv420p", 960, 540),
        "cam02": ("yuv420p", 960, 540),
        "cam10": ("yuv420p", 540, 960),
    }
    assert {path.stem for path in folder.iterdir()} == set(shapes)
    for name, shape in shapes.items():
        assert form(folder / f"{name}.mp4") == ("h264", *shape)
        assert numbers(folder / f"{name}.mp4") == list(range(60))
    with av.open(str(folder / "aria01_1201-1.mp4")) as container:
        chroma = next(container.decode(video=0)).to_ndarray()[320:]
    assert set(chroma.flat) == {128}, "SLAM is without colour"
    small = lookalikes / "ego4d-cmu/egoexo-public/v2/downscaled_takes/448/cmu_bike99_2"
    assert {min(form(path)[2:]) for path in small.iterdir()} == {448}


def test_an_eye_tracker_films_every_third_picture(lookalikes: Path) -> None:
    path = lookalikes / "ego4d-penn/egoexo-public/v2/takes/upenn_9901_Cooking_1_2/frame_aligned_videos/aria01_211-1.mp4"
    with av.open(str(path)) as container:
        pictures = [p.to_ndarray(format="gray") for p in container.decode(video=0)][:6]
    bright = [bool((picture[200:] > 60).mean() > 0.5) for picture in pictures]
    assert bright == [True, False, False] * 2


# ---- The official copy ---------------------------------------------------------------------------------------------


def names(prefix: str, *stems: str) -> list[str]:
    return sorted(f"{prefix}/{stem}" for stem in stems)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--no-metadata",
            ["fho_main.json", "manifest.csv", "narration.json", "narration_verb_taxonomy.csv", "vq_train.json"],
        ),
        ("--datasets full_scale --benchmarks fho", [f"{V[0]}.mp4", f"{V[7]}.mp4", "manifest.csv"]),
        ("--datasets video_540ss --universities cmu unict", [f"{V[1]}.mp4", f"{V[2]}.mp4", "manifest.csv"]),
        ("--datasets full_scale --version v1 --universities unict", ["manifest.csv"]),
        (f"--datasets clips --version v1 --video_uids {C[0]}", [f"{C[0]}.mp4", "manifest.csv"]),
        (f"--datasets imu --video_uids {V[0]} --benchmarks EM", [f"{V[0]}.csv", "manifest.csv"]),
        ("--datasets viz clip_256ss", [f"{V[0]}.mp4", "manifest.csv", f"{C[0]}.mp4", "manifest.csv"]),
    ],
)
def test_an_official_copy_of_ego4d_has_what_the_flags_ask_for(
    lookalikes: Path, tmp_path: Path, flags: str, expected: list[str]
) -> None:
    made = [name for name in official_copy(lookalikes, tmp_path, f"ego4d {flags}") if name != "ego4d.json"]
    assert sorted(name.rpartition("/")[2] for name in made) == sorted(expected)
    assert all(name.startswith("v1/" if "v1" in flags else "v2/") for name in made)
    assert all((tmp_path / name).is_file() for name in made)


@pytest.mark.parametrize(
    "flags",
    [f"--datasets full_scale --video_uids {'0' * 36}", "--datasets clips --version v2", "--datasets fut_loc"],
)
def test_an_official_copy_of_ego4d_fails_where_the_tool_does(lookalikes: Path, tmp_path: Path, flags: str) -> None:
    with pytest.raises(RuntimeError):
        official_copy(lookalikes, tmp_path, f"ego4d {flags}")
    assert list(tmp_path.iterdir()) == []


def test_an_official_copy_of_egoexo4d_has_what_the_flags_ask_for(lookalikes: Path, tmp_path: Path) -> None:
    def takes(flags: str) -> set[str]:
        made = official_copy(lookalikes, tmp_path / str(hash(flags)), f"egoexo {flags}")
        return {name.split("/")[1] for name in made if name.startswith("takes/")}

    names = [take.name for take in TAKES[:5]]
    assert takes("") == set(names)
    assert takes("--parts takes --splits val") == {names[1], names[3], names[4]}
    assert takes("--parts takes --benchmarks keystep") == {names[0], names[2], names[3], names[4]}
    assert takes("--parts takes -u cmu") == {names[0], names[4]}
    assert takes(f"--parts takes --uids {TAKES[0].uid}") == {names[0]}
    assert takes("--parts downscaled_takes/448 --views ego -u cmu") == set(names)


def test_an_official_copy_of_egoexo4d_lies_where_the_manifests_say(lookalikes: Path, tmp_path: Path) -> None:
    made = official_copy(lookalikes, tmp_path, "egoexo --parts all")
    told = {path["relative_path"] for path in paths_of(lookalikes) if "clips_448p" not in path["relative_path"]}
    assert told - set(made) == {"captures/upenn_9901_Cooking_1/post_surveys.csv"}
    assert "takes/cmu_bike99_2/frame_aligned_videos/downscaled/448/cam01.mp4" in made
    assert "takes.json" in made
    with pytest.raises(RuntimeError, match="does not exist"):
        official_copy(lookalikes, tmp_path, "egoexo --parts features/maws_clip_2b")
