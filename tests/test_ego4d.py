import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.memorysource import MemorySource
from tests.remotes import official_copy
from vfs.catalog import Entry
from vfs.datasets import Part, ego4d
from vfs.datasets.ego4d import Ego4D, Options
from vfs.datasets.ego4d import manifest as manifest_module
from vfs.datasets.ego4d.manifest import parse_facts, parse_manifest
from vfs.errors import AccessDenied, NotFound, OptionError, SourceError
from vfs.node import Kind
from vfs.sources import UNKNOWN_SIZE, ObjectInfo, Source, local

SHARING = "ego4d-consortium-sharing"
A, B, C, D = (f"{digit * 8}-1111-4222-8333-444444444444" for digit in "abcd")
GROUP = f"grp-{C}"
CLIP_A, CLIP_B, CLIP_C = (f"{digit * 8}-0000-4000-8000-000000000001" for digit in "123")
FILE = "0f0e0d0c-0000-4000-8000-00000000000"

MANIFESTS = {
    "full_scale": f"""\
video_uid,path,duration_sec,scenarios,benchmarks,canonical_s3_location,canonical_fps
{A},s3://x/no,480.03,"Cooking, at home",[FHO],s3://ego4d-iiith/public/v2/full_scale/{A},30.0
{B},s3://x/no,480.03,,[EM | fho],s3://ego4d-cmu/public/v2/full_scale/{B}.mp4,30.0
{GROUP},s3://x/no,9.5,,[goalstep],s3://ego4d-cmu/public/v2/full_scale/{GROUP}.mp4,30.0
{D},s3://x/no,,,[],s3://ego4d-unict/public/v2/full_scale/{D}.mp4,30.0
""",
    "video_540ss": f"""\
video_uid,s3_path,benchmarks
{A},s3://ego4d-iiith/public/v2/video_540ss/{A}.mp4,[FHO]
{B},s3://{SHARING}/public/v2/video_540ss/{B}.mp4,[FHO|EM]
""",
    "clips": f"""\
exported_clip_uid,parent_video_uid,parent_start_sec,parent_end_sec,s3_path,manifold_location
{CLIP_A},{A},0,300,s3://ego4d-iiith/public/v2/clips/{CLIP_A}.mp4,m/x
""",
    "components/videos": f"""\
video_uid,s3_path
{D},s3://ego4d-utokyo/public/v2/components/videos/{D}.mp4
""",
    "annotations": f"""\
file_uid,annotation,type,canonical_s3_location
{FILE}1,narration,json,s3://{SHARING}/public/v2/annotations/narration.json
{FILE}2,splits,csv,s3://{SHARING}/public/v2/annotations/splits.csv
""",
    "imu": f"""\
video_uid,s3_path
{A},s3://ego4d-iiith/public/v2/imu/canonical/{A}.csv
{B},s3://ego4d-cmu/public/v2/imu/canonical/{B}.csv
""",
    "omnivore_video_swinl": f"""\
file_uid,type,s3_path,benchmarks
{FILE}3,file,s3://{SHARING}/public/v2/omni/{A}.pt,[FHO]
{FILE}4,file,s3://{SHARING}/public/v2/omni/README.txt,
""",
}
METADATA = {
    "version": "2.1",
    "videos": [
        {"video_uid": A, "scenarios": ["Cooking", "Cleaning / laundry"], "video_source": "iiith", "device": "GoPro"},
        {"video_uid": B, "scenarios": ["Cooking"], "video_source": "cmu"},
        {"video_uid": C, "scenarios": ["jobs\n(Director etc.)"], "video_source": "cmu"},
        {"video_uid": D, "scenarios": None, "video_source": "unict"},
        {"video_uid": None, "scenarios": "x"},
    ],
    "clips": [
        {"clip_uid": CLIP_A, "video_uid": A, "video_start_frame": 0, "video_end_frame": 9000},
        {"clip_uid": CLIP_B, "video_uid": B, "video_start_frame": 300.0, "video_end_frame": 375},
        {"clip_uid": CLIP_C, "video_uid": B, "video_start_frame": None, "video_end_frame": 12},
    ],
}


class Store(MemorySource):
    """Counts HEADs; keys in `refused` are told to nobody."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.heads: list[str] = []
        self.refused: Callable[[str], bool] = lambda key: False

    def stat(self, key: str) -> ObjectInfo:
        self.heads.append(key)
        if self.refused(key):
            raise AccessDenied(f"{key}: 403")
        return super().stat(key)


def store(version: str = "v2_1", manifests: dict[str, str] = MANIFESTS, metadata: Any = METADATA) -> Store:
    files = {f"{name}/manifest.csv": text for name, text in manifests.items()}
    files["datasets.csv"] = "dataset,description\n" + "".join(f"{name},made up\n" for name in manifests)
    if metadata is not None:
        files["ego4d.json"] = json.dumps(metadata)
    return Store({f"{SHARING}/public/{version}/{name}": text.encode() for name, text in files.items()})


def copy(**more: bytes) -> Store:
    """What the CLI would have written, and some more."""
    files = {f"v2/{name}/manifest.csv": text.encode() for name, text in MANIFESTS.items()}
    files["ego4d.json"] = json.dumps(METADATA).encode()
    media = (path for path in paths(dataset(store()), "v2") if path not in files and "." in path)
    files |= {path: b"-" for path in media if path != "v2/ego4d.json"}
    return Store(files | {name.replace("__", "/"): data for name, data in more.items()})


def dataset(source: Source, state: Path = Path("/dev/null"), **options: Any) -> Ego4D:
    return ego4d.open_dataset(source, Options(**options), state)


def found(of: Ego4D, folder: str) -> dict[str, Entry]:
    return {entry.name: entry for entry in of.entries(folder)}


def links(of: Ego4D, folder: str) -> dict[str, str]:
    return {name: entry.target for name, entry in found(of, folder).items() if entry.kind is Kind.LINK}


def paths(of: Ego4D, folder: str = "") -> set[str]:
    """All files and links below a folder."""
    seen = set()
    for name, entry in found(of, folder).items():
        path = f"{folder}/{name}".lstrip("/")
        seen |= paths(of, path) if entry.kind is Kind.DIRECTORY else {path}
    return seen


def media(of: Ego4D) -> set[str]:
    """What the options may choose, without the manifests."""
    of.check()
    list(of.entries(""))
    return {path.removeprefix("v2/") for path in paths(of, "v2") if "." in path and not path.endswith("manifest.csv")}


FULL = {f"full_scale/{uid}.mp4" for uid in (A, B, GROUP, D)}
SS540 = {f"video_540ss/{uid}.mp4" for uid in (A, B)}
ANNOTATIONS = {"annotations/narration.json", "annotations/splits.csv"}
IMU = {f"imu/{uid}.csv" for uid in (A, B)}
ALL = {
    *(FULL | SS540 | ANNOTATIONS | IMU),
    *(f"clips/{CLIP_A}.mp4", f"components/videos/{D}.mp4"),
    *(f"omnivore_video_swinl/{A}.pt", "omnivore_video_swinl/README.txt", "ego4d.json"),
}
UNTAGGED = ANNOTATIONS | IMU | {f"clips/{CLIP_A}.mp4", f"components/videos/{D}.mp4", "ego4d.json"}
OF_NO_VIDEO = ANNOTATIONS | {"omnivore_video_swinl/README.txt", "ego4d.json"}
OF_A = {f"full_scale/{A}.mp4", f"video_540ss/{A}.mp4", f"imu/{A}.csv", f"omnivore_video_swinl/{A}.pt"}

FLAGS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, ALL),
    ({"metadata": False}, ALL - {"ego4d.json"}),
    ({"datasets": ["full_scale"]}, FULL | {"ego4d.json"}),
    ({"datasets": ["full_scale", "annotations"], "metadata": False}, FULL | ANNOTATIONS),
    ({"datasets": ["components/videos"], "metadata": False}, {f"components/videos/{D}.mp4"}),
    ({"datasets": ["annotations", "all"]}, ALL),
    # Benchmarks: OR over tags, without regard to case; untagged rows go; manifests without a column stay.
    (
        {"benchmarks": ["FHO"]},
        UNTAGGED | SS540 | {f"full_scale/{uid}.mp4" for uid in (A, B)} | {f"omnivore_video_swinl/{A}.pt"},
    ),
    ({"benchmarks": ["em"], "datasets": ["full_scale"]}, {f"full_scale/{B}.mp4", "ego4d.json"}),
    (
        {"benchmarks": ["EM", "goalstep"], "datasets": ["full_scale"]},
        {f"full_scale/{B}.mp4", f"full_scale/{GROUP}.mp4", "ego4d.json"},
    ),
    # Universities: those of the buckets; a bucket of nobody (ego4d-unict) goes with any.
    (
        {"universities": ["cmu"]},
        {f"full_scale/{B}.mp4", f"full_scale/{GROUP}.mp4", f"imu/{B}.csv", "ego4d.json"},
    ),
    (
        {"universities": ["utokyo", "iiith"]},
        {*(OF_A - {f"omnivore_video_swinl/{A}.pt"}), f"clips/{CLIP_A}.mp4", f"components/videos/{D}.mp4", "ego4d.json"},
    ),
    (
        {"universities": ["frl_track_1_public"]},
        {f"video_540ss/{B}.mp4", f"omnivore_video_swinl/{A}.pt", *OF_NO_VIDEO},
    ),
    ({"universities": ["unict"], "datasets": ["full_scale"], "metadata": False}, set()),
    # Uids choose wherever a file is named after a video; a video brings its clips.
    ({"video_uids": [A]}, OF_A | OF_NO_VIDEO | {f"clips/{CLIP_A}.mp4"}),
    ({"video_uids": [A.upper()], "metadata": False}, (OF_A | OF_NO_VIDEO | {f"clips/{CLIP_A}.mp4"}) - {"ego4d.json"}),
    ({"video_uids": [GROUP]}, OF_NO_VIDEO | {f"full_scale/{GROUP}.mp4"}),
    ({"video_uids": [CLIP_A]}, OF_NO_VIDEO | {f"clips/{CLIP_A}.mp4"}),
    ({"video_uids": [A, D], "datasets": ["full_scale"]}, {*(f"full_scale/{u}.mp4" for u in (A, D)), "ego4d.json"}),
    # Together they must all agree.
    ({"video_uids": [A, B], "benchmarks": ["EM"], "datasets": ["full_scale"]}, {f"full_scale/{B}.mp4", "ego4d.json"}),
    ({"universities": ["cmu"], "benchmarks": ["EM"], "datasets": ["full_scale", "video_540ss"]},
     {f"full_scale/{B}.mp4", "ego4d.json"}),
]  # fmt: skip


def _told(value: dict[str, Any] | set[str]) -> str:
    """The same in every process."""
    return str(sorted(value) if isinstance(value, set) else value)


@pytest.mark.parametrize(("flags", "shown"), FLAGS, ids=_told)
def test_flags_choose_what_the_official_cli_chooses(flags: dict[str, Any], shown: set[str]) -> None:
    assert media(dataset(store(), **flags)) == shown


@pytest.mark.parametrize(("flags", "shown"), FLAGS, ids=_told)
def test_a_copy_is_filtered_as_the_store_is(flags: dict[str, Any], shown: set[str]) -> None:
    """But that the root's ego4d.json alone is the copy's own."""
    assert media(dataset(copy(), **flags)) == shown


def test_the_root_has_the_version_its_metadata_and_views_by_meaning() -> None:
    one = dataset(store())
    assert list(found(one, "")) == ["ego4d.json", "v2", "by-university", "by-benchmark", "by-scenario"]
    assert links(one, "v2") == {"ego4d.json": "../ego4d.json"}
    assert list(found(dataset(store(), metadata=False), "")) == ["v2", "by-university", "by-benchmark"]
    assert list(found(dataset(store(), datasets=["annotations"]), "")) == ["ego4d.json", "v2"]
    assert list(found(dataset(store("v1"), version="v1"), ""))[:2] == ["ego4d.json", "v1"]
    assert list(found(dataset(store("v2"), version="v2"), ""))[:2] == ["ego4d.json", "v2"]


def test_datasets_are_folders_with_their_manifests() -> None:
    one = dataset(store())
    assert {name for name, entry in found(one, "v2").items() if entry.kind is Kind.DIRECTORY} == {
        name.partition("/")[0] for name in MANIFESTS
    }
    assert list(found(one, "v2/components")) == ["videos"]
    for folder in ("v1", "v2/viz", "v2/component", "v2/full_scale/x", "x", "by-x"):
        with pytest.raises(NotFound):
            list(one.entries(folder))


def test_media_are_named_by_rows_and_have_no_size_yet_and_documents_have_theirs() -> None:
    source = store()
    one = dataset(source)
    full = found(one, "v2/full_scale")
    assert full["manifest.csv"].object == source.info(f"{SHARING}/public/v2_1/full_scale/manifest.csv")
    assert full[f"{A}.mp4"].object == ObjectInfo(f"ego4d-iiith/public/v2/full_scale/{A}", UNKNOWN_SIZE, 0, "")
    assert full[f"{A}.mp4"].is_video
    assert not found(one, "v2/imu")[f"{A}.csv"].is_video
    assert found(one, "")["ego4d.json"].object == source.info(f"{SHARING}/public/v2_1/ego4d.json")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"video_uid,s3_path\n{A},s3://b/k/{A}\n", [f"{A}.mp4"]),
        (f"video_uid,s3_path\n{A},s3://b/k/x.mp4\n", [f"{A}.mp4"]),
        (f"video_uid,s3_path\n{A},s3://b/k/x.pt\n", ["x.pt"]),
        (f"video_uid,s3_path,type\n{A},s3://b/k/x.pt,file\n", ["x.pt"]),
        (f"video_uid,s3_path,type\n{A},s3://b/k/x.bin,Video\n", [f"{A}.mp4"]),
        (f"file_uid,s3_path\n{A},s3://b/k/x.mp4\n", ["x.mp4"]),
        (f"file_uid,s3_path,type\n{A},s3://b/k/x.bin,mp4\n", [f"{A}.mp4"]),
        (f"file_uid,video_uid,s3_path\n{FILE}1,{A},s3://b/k/x.json\n", ["x.json"]),
        (f"clip_uid,video_uid,s3_path\n{CLIP_A},{A},s3://b/k/1\n", [f"{CLIP_A}.mp4"]),
        (f"\ufeff video_uid , s3_path ,new\r\n{A},s3://b/k/x,\"a\r\nb\"\r\n\r\n", [f"{A}.mp4"]),
        (f"video_uid,canonical_s3_location,path\n{A},,s3://b/k/x\n{B},https://b/x,\n{C}\n", [f"{A}.mp4"]),
        (f"video_uid,s3_path\n{A},s3://b/k/\n,s3://b/k/x\n", []),
        (f"video_uid,s3_path\n{A},s3://b/1\n{A},s3://b/2\n", [f"{A}.mp4"]),
        ("", []),
    ],
)  # fmt: skip
def test_manifests_of_every_shape_name_their_files(text: str, names: list[str]) -> None:
    assert [row.name for row in parse_manifest(text.encode(), "x/manifest.csv").rows] == names


@pytest.mark.parametrize(
    ("written", "tags"),
    [
        ("[FHO|EM]", ("fho", "em")),
        (" [ FHO | E M ] ", ("fho", "em")),
        ("[]", ()),
        ("", ()),
        ("FHO", ()),
        ("[|AV|]", ("av",)),
    ],
)
def test_benchmarks_are_read_in_brackets(written: str, tags: tuple[str, ...]) -> None:
    text = f"video_uid,s3_path,benchmarks\n{A},s3://b/k,{written}\n"
    assert parse_manifest(text.encode(), "x").rows[0].tags == tags


def test_what_is_no_manifest_or_metadata_is_told_by_name() -> None:
    with pytest.raises(SourceError, match=r"x/manifest.csv: line 2"):
        parse_manifest(b'video_uid,s3_path\n"' + b"x" * 200_000, "x/manifest.csv")
    with pytest.raises(SourceError, match=r"ego4d.json: not the metadata"):
        parse_facts(b'{"videos": 5}', "ego4d.json")
    assert parse_facts(b'{"videos": null}', "ego4d.json").videos == {}


# ---- Beside the official CLI

ANY = "full_scale video_540ss clips components/videos annotations imu gaze viz clip_256ss omnivore_video_swinl"
COMMANDS = [
    f"--datasets {ANY}",
    "--datasets full_scale --benchmarks EM",
    "--datasets full_scale video_540ss --benchmarks av goalstep",
    f"--datasets {ANY} --benchmarks FHO",
    f"--datasets {ANY} --universities cmu iiith",
    f"--datasets {ANY} --universities frl_track_1_public",
    f"--datasets {ANY} --universities unict --benchmarks FHO --no-metadata",
    "--datasets full_scale annotations --version v2",
    "--datasets full_scale clips annotations imu --version v1",
    "--datasets full_scale --universities unict --version v1",
]


def options_of(command: str) -> dict[str, Any]:
    """The mount options that a command line's flags are."""
    given: dict[str, Any] = {}
    for flag in command.split("--")[1:]:
        name, *values = flag.split()
        given |= {"metadata": False} if name == "no-metadata" else {name: values}
    return given | ({"version": given["version"][0]} if "version" in given else {})


def downloads(of: Ego4D, folder: str = "") -> dict[str, Entry]:
    """What a downloader would have made of the tree."""
    seen = {}
    for name, entry in found(of, folder).items():
        if entry.kind is Kind.FILE:
            seen[f"{folder}/{name}".lstrip("/")] = entry
        elif entry.kind is Kind.DIRECTORY and not name.startswith("by-"):
            seen |= downloads(of, f"{folder}/{name}".lstrip("/"))
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_the_tree_is_what_the_official_cli_downloads(lookalikes: Path, tmp_path: Path, command: str) -> None:
    official = official_copy(lookalikes, tmp_path / "copy", f"ego4d {command}")
    shown = downloads(dataset(local.LocalSource(str(lookalikes)), **options_of(command)))
    # Rows whose objects are missing show when sizes are asked for; the CLI passes over them.
    there = {path for path, entry in shown.items() if entry.object and (lookalikes / entry.object.key).exists()}
    assert sorted(there) == official
    assert sorted(downloads(dataset(local.LocalSource(str(tmp_path / "copy")), **options_of(command)))) == official


@pytest.mark.parametrize("command", [command for command in COMMANDS if "version" not in command])
def test_a_copy_of_all_is_filtered_to_what_the_official_cli_downloads(
    lookalikes: Path, tmp_path: Path, command: str
) -> None:
    official_copy(lookalikes, tmp_path / "all", f"ego4d {COMMANDS[0]}")
    official = official_copy(lookalikes, tmp_path / "some", f"ego4d {command}")
    assert sorted(downloads(dataset(local.LocalSource(str(tmp_path / "all")), **options_of(command)))) == official


# ---- Options that match nothing


@pytest.mark.parametrize("make", [store, copy])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"datasets": ["full_scal"]}, "datasets=full_scal: it is not there, or is refused; there are annotations"),
        ({"datasets": ["full_scale", "viz"]}, "datasets=viz"),
        ({"benchmarks": ["EM", "XYZ"]}, "benchmarks=xyz: there is none; there are EM, FHO, goalstep"),
        ({"video_uids": [A, f"{A[:-1]}0"]}, f"video_uids={A[:-1]}0: no dataset has it; the nearest of .* is {A}"),
        ({"video_uids": [CLIP_B]}, f"video_uids={CLIP_B}: a clip without a file; ask for {B}"),
        ({"video_uids": [A], "datasets": ["annotations"]}, "none of 0 is near it"),
    ],
    ids=str,
)
def test_a_value_that_matches_nothing_is_refused_with_those_there_are(
    make: Callable[[], Store], flags: dict[str, Any], said: str
) -> None:
    one = dataset(make(), **flags)
    with pytest.raises(OptionError, match=said) as caught:
        list(one.entries(""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"universities": ["mit"]}, "write one of bristol, cmu, cmu_africa, fair"),
        ({"video_uids": ["x"]}, "36 of 0-9"),
        ({"version": "v3"}, "one of v1, v2, v2_1"),
        ({"datasets": ["../x"]}, "names of datasets"),
        ({"video_uids": [A], "video_uid_file": "/x"}, "exclude each other"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_once(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Options(**flags)


def test_versions_and_names_are_taken_as_they_are_spoken() -> None:
    assert Options(version="v2.1") == Options()
    assert Options(universities=["CMU"]).universities == ("cmu",)


def test_uids_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "uids.txt"
    file.write_text(f"{A}\n\t{GROUP.upper()} \n")
    one = dataset(store(), video_uid_file=file, datasets=["full_scale"], metadata=False)
    assert media(one) == {f"full_scale/{A}.mp4", f"full_scale/{GROUP}.mp4"}
    assert one.selection == (A, GROUP)
    for text, said in [("", "no uid in it"), ("x y", "'x' is no uid")]:
        file.write_text(text)
        with pytest.raises(OptionError, match=said):
            dataset(store(), video_uid_file=file)
    with pytest.raises(OptionError, match="No such file"):
        dataset(store(), video_uid_file=tmp_path / "none")


def test_what_cannot_be_filtered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    media(dataset(store(), benchmarks=["EM"]))
    assert "imu: its manifest tells no benchmarks" in caplog.text
    media(dataset(store(), universities=["cmu"]))
    assert "annotations: nothing is in a bucket of cmu" in caplog.text


def test_a_dataset_that_nobody_names_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    source = store()
    source.objects[f"{SHARING}/public/v2_1/new/manifest.csv"] = MANIFESTS["imu"].encode()
    assert "new" not in found(dataset(source), "v2")
    assert media(dataset(source, datasets=["new"], metadata=False)) == {f"new/{A}.csv", f"new/{B}.csv"}
    assert "datasets=new: neither datasets.csv nor the CLI names it" in caplog.text


# ---- The store's refusals


def test_a_refusal_may_mean_that_there_is_nothing_unless_all_is_refused() -> None:
    source = store()
    source.refused = lambda key: key not in source.objects or "imu" in key
    assert "imu" not in found(dataset(source), "v2")
    assert "full_scale" in found(dataset(source), "v2")
    source.refused = lambda key: True
    for flags in ({}, {"metadata": False}, {"datasets": ["full_scale"]}):
        with pytest.raises(AccessDenied):
            list(dataset(source, **flags).entries(""))


def test_without_metadata_the_rest_is_there(caplog: pytest.LogCaptureFixture) -> None:
    for source in (store(metadata=None), store(metadata={"videos": 5})):
        one = dataset(source)
        assert f"{A}.mp4" in found(one, "v2/full_scale")
        assert f"{CLIP_A}.mp4" in found(one, "v2/clips")
        assert set(found(one, "by-university")) == {"iiith", "cmu", "utokyo", "frl_track_1_public"}
    assert "no scenarios, no frames of clips" in caplog.text


def test_a_source_without_the_dataset_is_no_mount() -> None:
    with pytest.raises(NotFound, match="no manifest of Ego4D v2_1"):
        list(dataset(MemorySource({})).entries(""))
    with pytest.raises(NotFound):
        list(dataset(store("v1")).entries(""))


def test_listing_asks_for_no_media_and_for_each_document_once() -> None:
    source = store()
    one = dataset(source)
    paths(one)
    assert [key for key in source.heads if f"{SHARING}/" not in key] == []
    reads = [key for key, _, _ in source.reads]
    assert max(reads.count(key) for key in reads if "clips" not in key and "full_scale" not in key) <= 3
    seen = len(source.heads)
    paths(one, "by-university")
    paths(one, "by-scenario")
    assert len(source.heads) == seen


# ---- What was parsed is kept


def test_what_was_parsed_is_not_parsed_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = store()
    before = paths(dataset(source, tmp_path / "state"))
    source.reads.clear()
    assert paths(dataset(source, tmp_path / "state")) == before
    assert [key for key, _, _ in source.reads] == [f"{SHARING}/public/v2_1/datasets.csv"]
    source.objects[f"{SHARING}/public/v2_1/imu/manifest.csv"] = b"video_uid,s3_path\n"
    assert "v2/imu/manifest.csv" in paths(dataset(source, tmp_path / "state"))
    assert [key.split("/")[3] for key, _, _ in source.reads] == ["datasets.csv", "datasets.csv", "imu"]


def test_what_was_kept_wrongly_is_parsed_again(tmp_path: Path) -> None:
    source = store()
    before = paths(dataset(source, tmp_path))
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == len(MANIFESTS) + 1
    for file, data in zip(kept, [b"", b"\xc1", b"\x90", *[b"{}"] * len(kept)], strict=False):
        file.write_bytes(data)
    assert paths(dataset(source, tmp_path)) == before


def test_a_document_that_changes_after_it_was_asked_for_is_asked_for_again() -> None:
    source = store()
    one = dataset(source)
    list(one.entries("v2"))
    source.objects[f"{SHARING}/public/v2_1/ego4d.json"] = json.dumps({"videos": []}).encode()
    source.objects[f"{SHARING}/public/v2_1/full_scale/manifest.csv"] += f"{C},,,,,s3://ego4d-fair/{C}\n".encode()
    assert f"{C}.mp4" in found(one, "v2/full_scale")
    assert found(one, "by-scenario") == {}
    assert list(found(one, "by-university/fair/full_scale")) == [f"{C}.mp4"]


# ---- Views by meaning


def test_videos_stand_by_university_benchmark_and_scenario() -> None:
    one = dataset(store())
    assert paths(one, "by-university") == {
        f"by-university/{path}"
        for path in (
            *(f"iiith/full_scale/{A}.mp4", f"iiith/video_540ss/{A}.mp4", f"iiith/clips/{CLIP_A}.mp4"),
            # The consortium has what cmu recorded, and nobody's bucket what unict did.
            *(f"cmu/full_scale/{B}.mp4", f"cmu/full_scale/{GROUP}.mp4", f"cmu/video_540ss/{B}.mp4"),
            *(f"unict/full_scale/{D}.mp4", f"utokyo/components/videos/{D}.mp4"),
        )
    }
    assert paths(one, "by-benchmark/EM") == {f"by-benchmark/EM/{d}/{B}.mp4" for d in ("full_scale", "video_540ss")}
    assert list(found(one, "by-benchmark")) == ["EM", "FHO", "goalstep"]
    assert list(found(one, "by-scenario")) == ["Cleaning - laundry", "Cooking", "jobs (Director etc.)"]
    assert list(found(one, "by-scenario/jobs (Director etc.)/full_scale")) == [f"{GROUP}.mp4"]  # as its first member
    assert list(found(one, "by-scenario/Cleaning - laundry/clips")) == [f"{CLIP_A}.mp4"]  # as its parent


def test_links_by_meaning_lead_to_the_videos() -> None:
    one = dataset(store())
    name = f"{D}.mp4"
    assert links(one, "by-university/utokyo/components/videos") == {name: f"../../../../v2/components/videos/{name}"}
    assert links(one, "by-benchmark/goalstep/full_scale") == {f"{GROUP}.mp4": f"../../../v2/full_scale/{GROUP}.mp4"}
    assert all(entry.is_video for entry in one.entries("by-scenario/Cooking/full_scale"))
    for folder in ("by-university/mit", "by-university/cmu/imu", "by-scenario/Cooking/components"):
        with pytest.raises(NotFound):
            list(one.entries(folder))


def test_views_show_what_the_filters_leave() -> None:
    one = dataset(store(), benchmarks=["EM"], datasets=["full_scale"])
    assert paths(one, "by-scenario") == {f"by-scenario/Cooking/full_scale/{B}.mp4"}


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b", "a-b"), ("a \n\tb", "a b"), ("..", "_"), (" ", "_"), ("é" * 200, "é" * 127), ("a\0b", "a b")],
)
def test_a_scenario_of_any_text_is_a_name_for_a_folder(text: str, name: str) -> None:
    assert ego4d._file_name(text) == name


# ---- Clips without a file


def test_a_clip_without_a_file_is_frames_of_its_parent(caplog: pytest.LogCaptureFixture) -> None:
    one = dataset(store())
    assert links(one, "v2/clips") == {CLIP_B: f"frames/{CLIP_B}"}
    assert list(one.parts("v2/clips")) == [CLIP_B]
    assert one.part("v2/clips", CLIP_B) == Part(f"v2/full_scale/{B}.mp4", 300, 375)
    assert one.part("v2/clips", CLIP_A) is None
    assert one.part("v2/full_scale", CLIP_B) is None
    assert one.has_parts("v2/clips")
    assert not one.has_parts("v2/full_scale")
    assert caplog.text.count("1 clips have no frames that can be") == 1


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({"datasets": ["clips", "video_540ss"]}, f"v2/video_540ss/{B}.mp4"),
        ({"datasets": ["clips"]}, None),
        ({"video_uids": [A]}, None),
        ({"benchmarks": ["EM"]}, f"v2/full_scale/{B}.mp4"),
        ({"metadata": False}, None),
    ],
)
def test_a_clips_frames_are_there_where_its_parent_is(flags: dict[str, Any], path: str | None) -> None:
    one = dataset(store(), **flags)
    part = one.part("v2/clips", CLIP_B)
    assert (part and part.path) == path
    assert links(one, "v2/clips") == ({CLIP_B: f"frames/{CLIP_B}"} if path else {})


@pytest.mark.parametrize(
    "frames", [(None, 5), (5, 5), (-1, 5), (0.5, 5), ("0", 5), (True, 5), (5, 1e300), (5, float("nan"))]
)
def test_odd_frames_are_no_clip(frames: tuple[object, object]) -> None:
    clip = {"clip_uid": CLIP_A, "video_uid": A, "video_start_frame": frames[0], "video_end_frame": frames[1]}
    assert parse_facts(json.dumps({"clips": [clip]}).encode(), "x").clips == {CLIP_A: (A, 0, 0)}


# ---- Frames and facts


def test_frames_are_looked_up_under_all_names_of_baselines() -> None:
    rule = dataset(store()).frame_rule("v2/clips", CLIP_A)
    assert (rule.fps, rule.first, rule.file_name(CLIP_A, 7)) == (None, 0, f"{CLIP_A}_0000000007.jpg")
    names = [f"{CLIP_A}_0000000007.jpg", f"{CLIP_A}_0000007.jpg", "7.jpeg", "frame_0000000007.jpg", "7.png"]
    assert [rule.number(CLIP_A, name) for name in names] == [7, 7, 7, 7, None]


def test_facts_name_uid_dataset_and_university() -> None:
    one = dataset(store())
    assert one.facts("v2/components/videos", f"{GROUP}.mp4") == {"uid": GROUP, "dataset": "components/videos"}
    assert one.facts("by-university/cmu/imu", f"{A}.csv") == {"uid": A, "dataset": "imu", "university": "cmu"}
    assert one.facts("by-scenario/Cooking/imu", "x") == {"dataset": "imu"}
    assert one.facts("", "ego4d.json") == {}


# ---- Copies


def test_a_copy_is_its_own_tree_with_all_that_its_metadata_tells() -> None:
    source = copy(v2__full_scale__notes__a="", README="")
    one = dataset(source)
    assert list(found(one, "")) == ["v2", "ego4d.json", "README", "by-university", "by-benchmark", "by-scenario"]
    assert set(source.objects) <= paths(one)
    assert found(one, "v2/full_scale")[f"{A}.mp4"].object == source.info(f"v2/full_scale/{A}.mp4")
    assert paths(one, "by-scenario") == paths(dataset(store()), "by-scenario")
    assert paths(one, "by-university") == paths(dataset(store()), "by-university")
    assert one.part("v2/clips", CLIP_B) == Part(f"v2/full_scale/{B}.mp4", 300, 375)
    assert links(one, "v2") == {"ego4d.json": "../ego4d.json"}


def test_a_clip_that_a_copy_lacks_is_frames_of_its_parent() -> None:
    source = copy()
    del source.objects[f"v2/clips/{CLIP_A}.mp4"]
    assert set(links(dataset(source), "v2/clips")) == {CLIP_A, CLIP_B}


def test_a_copy_of_v1_with_its_metadata_elsewhere_is_understood() -> None:
    source = Store({name.replace("v2/", "v1/"): data for name, data in copy().objects.items()})
    source.objects["v1/ego4d.json"] = source.objects.pop("ego4d.json")
    one = dataset(source)
    assert links(one, "") == {"ego4d.json": "v1/ego4d.json"}
    assert links(one, "by-benchmark/goalstep/full_scale") == {f"{GROUP}.mp4": f"../../../v1/full_scale/{GROUP}.mp4"}
    assert list(found(dataset(source, metadata=False), "v1")) == [*dict.fromkeys(n.split("/")[0] for n in MANIFESTS)]


def test_files_that_no_manifest_tells_are_filtered_by_their_names() -> None:
    source = copy(**{f"v2__own__{A}.mp4": b"", f"v2__own__{B}.mp4": b"", "v2__own__list.txt": b""})
    one = dataset(source, video_uids=[B], benchmarks=["EM"])
    assert set(found(one, "v2/own")) == {f"{B}.mp4", "list.txt"}
    source.objects[f"v2/full_scale/{C}.mp4"] = b""
    assert f"{C}.mp4" not in found(dataset(source, benchmarks=["EM"]), "v2/full_scale")


def test_a_name_that_a_copy_has_is_the_copys() -> None:
    source = copy(**{"by-scenario__mine": b""})
    assert list(found(dataset(source), "by-scenario")) == ["mine"]


def test_a_plain_copy_without_manifests_is_shown() -> None:
    source = Store({f"v2/full_scale/{A}.mp4": b"", "notes.txt": b""})
    assert paths(dataset(source)) == {f"v2/full_scale/{A}.mp4", "notes.txt"}


def test_what_is_believed_is_made_again_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(manifest_module.time, "monotonic", lambda: now)
    made: list[int] = []
    one = manifest_module.Believed("x", lambda: made.append(1) or len(made), 10)
    assert [one.get(), one.get()] == [1, 1]
    now = 11.0
    assert one.get() == 2
