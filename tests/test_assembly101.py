import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.memorysource import MemorySource
from vfs.datasets.assembly101 import Assembly101, Options, default_source, merged_lmdb
from vfs.errors import NotFound, OptionError
from vfs.node import Kind

ONE = "nusar-2021_action_both_9099-a01_9099_user_id_2021-02-01_120000"
TWO = "nusar-2021_action_both_9098-b02_9098_user_id_2021-02-03_140000"
STATIC = ["C10095", "C10115", "C10118", "C10119", "C10379", "C10390", "C10395", "C10404"]
HMC_8 = ["HMC_84346135", "HMC_84347414", "HMC_84355350", "HMC_84358933"]
HMC_2 = ["HMC_21176875", "HMC_21176623", "HMC_21110305", "HMC_21179183"]


def recording(name: str, ego: list[str], root: str = "recordings/") -> dict[str, bytes]:
    cameras = [f"{camera}_rgb" for camera in STATIC] + [f"{camera}_mono10bit" for camera in ego]
    return {f"{root}{name}/{camera}.mp4": camera.encode() for camera in cameras}


def dataset(objects: dict[str, bytes], state: Path = Path("/nonexistent"), **options: Any) -> Assembly101:
    return Assembly101(MemorySource(objects), Options(**options), state)


def links(of: Assembly101, folder: str) -> dict[str, str]:
    return {entry.name: entry.target for entry in of.entries(folder) if entry.kind is Kind.LINK}


def files(of: Assembly101, folder: str) -> list[str]:
    return sorted(entry.name for entry in of.entries(folder) if entry.kind is Kind.FILE)


@pytest.mark.parametrize("family", [HMC_8, HMC_2])
def test_each_family_answers_to_e1_to_e4_beside_v1_to_v8(family: list[str]) -> None:
    expected = {f"v{n + 1}.mp4": f"{camera}_rgb.mp4" for n, camera in enumerate(STATIC)}
    expected |= {f"e{n + 1}.mp4": f"{camera}_mono10bit.mp4" for n, camera in enumerate(family)}
    one = dataset(recording(ONE, family))
    assert links(one, f"recordings/{ONE}") == expected
    assert files(one, f"recordings/{ONE}") == sorted(expected.values())


def test_a_missing_view_has_no_name() -> None:
    one = dataset(recording(ONE, HMC_2[:2] + HMC_2[3:]))
    assert sorted(name for name in links(one, f"recordings/{ONE}") if name[0] == "e") == ["e1.mp4", "e2.mp4", "e4.mp4"]


def test_a_recording_without_egocentric_views_has_only_static_names() -> None:
    assert all(name[0] == "v" for name in links(dataset(recording(ONE, [])), f"recordings/{ONE}"))


FEATURES = ["C10118_rgb", "HMC_84358933_mono10bit", "HMC_21179183_mono10bit", "HMC_21110305_mono10bit"]


def features(*suffixes: str, cameras: list[str] = FEATURES) -> dict[str, bytes]:
    """TSM_features as folders ("") and as archives (".zip")."""
    return {f"TSM_features/{c}{suffix or '/data.mdb'}": b"" for c in cameras for suffix in suffixes}


def shown(of: Assembly101, folder: str) -> list[str]:
    return sorted(entry.name + "/" * (entry.kind is Kind.DIRECTORY) for entry in of.entries(folder))


def test_features_get_canonical_names_where_one_camera_answers() -> None:
    one = dataset(features(""))
    assert links(one, "TSM_features") == {"v3": "C10118_rgb", "e3": "HMC_21110305_mono10bit"}


def test_archives_of_features_get_canonical_names_beside_the_folders_that_they_are_shown_as() -> None:
    one = dataset(features("", ".zip"))
    expected = {"v3": "C10118_rgb", "e3": "HMC_21110305_mono10bit"}
    assert links(one, "TSM_features") == expected | {f"{k}.zip": f"{v}.zip" for k, v in expected.items()}


@pytest.mark.parametrize("suffixes", [("",), (".zip",), ("", ".zip")])
def test_a_view_of_both_families_is_a_folder_of_links_to_both(suffixes: tuple[str, ...]) -> None:
    one = dataset(features(*suffixes))
    assert "e4/" in shown(one, "TSM_features")
    both = {f"{camera}{suffix}" for camera in FEATURES[1:3] for suffix in suffixes}
    assert links(one, "TSM_features/e4") == {name: f"../{name}" for name in both}


def test_a_folder_of_links_is_not_there_for_a_view_of_one_camera() -> None:
    one = dataset(features(""))
    assert "e3/" not in shown(one, "TSM_features")
    for folder in ("TSM_features/e3", "TSM_features/v1", "e4"):
        with pytest.raises(NotFound):
            list(one.entries(folder))


def test_a_view_of_both_families_that_was_merged_is_a_link_to_that(tmp_path: Path) -> None:
    before = dataset(features(""), tmp_path)
    merged = merged_lmdb(tmp_path, "memory://test", "TSM_features", "e4")
    merged.mkdir(parents=True)
    (merged / "data.mdb").touch()
    after = dataset(features(""), tmp_path)
    assert links(after, "TSM_features")["e4"] == str(merged)
    assert before.selection != after.selection  # so that a listing of before is not believed


def test_what_was_merged_of_another_store_or_folder_is_not_shown(tmp_path: Path) -> None:
    for url, folder, view in (
        ("memory://test", "TSM", "e4"),
        ("memory://other", "TSM_features", "e4"),
        ("memory://test", "TSM_features", "e3"),
    ):
        merged_lmdb(tmp_path, url, folder, view).mkdir(parents=True)
        (merged_lmdb(tmp_path, url, folder, view) / "data.mdb").touch()
    one = dataset(features(""), tmp_path)
    assert "e4/" in shown(one, "TSM_features")
    assert links(one, "TSM_features")["e3"] == "HMC_21110305_mono10bit"


def test_a_place_is_the_same_from_whichever_folder_above_it_is_the_source() -> None:
    places = {
        merged_lmdb(Path("s"), url, folder, "e4")
        for url, folder in (("file:///d", "a b/TSM"), ("file:///d/a%20b", "TSM"), ("file:///d/a%20b/TSM", ""))
    }
    assert len(places) == 1


def test_a_canonical_name_that_the_source_has_already_is_the_sources() -> None:
    features = ["HMC_84358933_mono10bit/data.mdb", "e4/data.mdb"]
    assert links(dataset({f"TSM_features/{name}": b"" for name in features}), "TSM_features") == {}
    both = dataset({f"TSM_features/{name}/data.mdb": b"" for name in (*FEATURES, "e4")})
    assert sorted(links(both, "TSM_features")) == ["e3", "v3"]
    assert shown(both, "TSM_features/e4") == ["data.mdb"]


@pytest.mark.parametrize(
    ("views", "seen"),
    [
        (["all"], {*"12345678", "e1", "e2", "e3", "e4"}),
        (["fixed"], set("12345678")),
        (["egocentric"], {"e1", "e2", "e3", "e4"}),
        (["v3"], {"3"}),
        (["e4"], {"e4"}),
        (["v3", "e4"], {"3", "e4"}),
        (["egocentric", "v1"], {"1", "e1", "e2", "e3", "e4"}),
        (["fixed", "all"], {*"12345678", "e1", "e2", "e3", "e4"}),
    ],
)
@pytest.mark.parametrize("family", [HMC_8, HMC_2])
def test_views_selects_as_the_official_downloader_does(views: list[str], seen: set[str], family: list[str]) -> None:
    one = dataset(recording(ONE, family) | {f"recordings/{ONE}/notes.txt": b""}, views=views)
    expected = {f"{v}.mp4" if v[0] == "e" else f"v{v}.mp4" for v in seen}
    assert set(links(one, f"recordings/{ONE}")) == expected
    assert len(files(one, f"recordings/{ONE}")) == len(expected) + 1  # notes.txt is no camera's


@pytest.mark.parametrize(
    ("views", "seen"),
    [
        (["fixed"], ["C10118_rgb/", "C10118_rgb.zip", "v3", "v3.zip"]),
        (["v1"], []),
        (["e3"], ["HMC_21110305_mono10bit.zip", "HMC_21110305_mono10bit/", "e3", "e3.zip"]),
        (
            ["e4"],
            ["e4/", *(f"HMC_{n}_mono10bit{end}" for n in (21179183, 84358933) for end in (".zip", "/"))],
        ),
    ],
)
def test_views_hold_for_features_and_their_archives(views: list[str], seen: list[str]) -> None:
    one = dataset(features("", ".zip") | {"TSM_features/README": b""}, views=views)
    assert shown(one, "TSM_features") == sorted([*seen, "README"])


def test_views_hold_wherever_camera_ids_stand() -> None:
    folder = f"AssemblyPoses/{ONE}/landmarks2D"
    names = ["C10095_rgb.json", "HMC_84346135_mono10bit.json", "HMC_84346135.tar.gz", "C10095", "other.json"]
    one = dataset({f"{folder}/{name}": b"" for name in names}, views=["e1"])
    kept = ["HMC_84346135.tar.gz", "HMC_84346135_mono10bit.json", "e1.json", "e1.tar.gz", "other.json"]
    assert shown(one, folder) == kept


def test_videos_selects_what_is_named_after_recordings_and_nothing_else() -> None:
    objects = recording(ONE, HMC_8) | recording(TWO, HMC_2) | {"annotations/train.csv": b""}
    objects |= {f"poses@60fps/{name}.json": b"" for name in (ONE, TWO)}
    one = dataset(objects, videos=[TWO])
    one.check()
    assert [entry.name for entry in one.entries("recordings")] == [TWO]
    assert [entry.name for entry in one.entries("poses@60fps")] == [f"{TWO}.json"]
    assert [entry.name for entry in one.entries("annotations")] == ["train.csv"]
    both = dataset(objects, videos=[ONE, TWO])
    assert len(list(both.entries("recordings"))) == 2


def test_a_file_of_names_selects_as_videos_does(tmp_path: Path) -> None:
    objects = recording(ONE, HMC_8) | recording(TWO, HMC_2)
    (tmp_path / "names").write_text(f"{ONE}\n\n")
    one = dataset(objects, videos_file=tmp_path / "names")
    one.check()
    assert [entry.name for entry in one.entries("recordings")] == [ONE]
    assert ONE in one.selection
    (tmp_path / "names").write_text(f"{ONE}\r\n{TWO}x")
    with pytest.raises(OptionError, match=f"videos_file=.*/names: videos={TWO}x: no such recording; .*is {TWO}"):
        dataset(objects, videos_file=tmp_path / "names").check()


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b" \n", "there is no name"), (b"\xff\xfe", "no text")]
)
def test_a_file_of_names_that_is_none_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(OptionError, match=says):
        dataset({}, videos_file=tmp_path / "names")


def test_names_and_a_file_of_names_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        Options(videos=[ONE], videos_file=tmp_path / "names")


def test_an_unknown_recording_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=f"nearest of 2 is {ONE}"):
        dataset(recording(ONE, HMC_8) | recording(TWO, HMC_2), videos=[ONE[:-1]]).check()
    with pytest.raises(OptionError, match="none at all"):
        dataset({"x": b""}, videos=[ONE]).check()


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="views='e5': write one of all, fixed, egocentric, v1"):
        Options(views=["e5"])


def test_the_downloaders_flat_tree_gains_recordings() -> None:
    one = dataset(recording(ONE, HMC_8, root=""))
    assert links(one, "") == {"recordings": "."}
    assert "e4.mp4" in links(one, ONE)
    one = dataset(recording(ONE, HMC_8, root=""), videos=[ONE])
    one.check()


def test_facts_name_recording_camera_and_view() -> None:
    one = dataset({})
    facts = {"recording": ONE, "camera": "HMC_21179183_mono10bit", "view": "e4"}
    assert one.facts(f"recordings/{ONE}", "HMC_21179183_mono10bit.mp4") == facts
    assert one.facts("annotations", "train.csv") == {}


def test_frames_are_named_as_the_training_code_names_them() -> None:
    rule = dataset({}).frame_rule(f"recordings/{ONE}", "e4")
    assert (rule.fps, rule.first) == (Fraction(30), 1)
    assert rule.file_name("e4", 81) == "e4_0000000081.jpg"


def test_its_own_store_is_its_home_on_the_hub(tmp_path: Path) -> None:
    assert default_source(Options(), tmp_path) == "hf://datasets/cvml-nus/assembly101"


COARSE = "annotations/coarse-annotations/coarse_splits"
SPLITS = {
    f"{COARSE}/train_coarse_assembly.txt": f"assembly_{ONE}.txt\t\t-\ta01\texcavator".encode(),
    f"{COARSE}/train_coarse_disassembly.txt": b"",
    f"{COARSE}/val_coarse_assembly.txt": f"assembly_{TWO}.txt\t\tshared\tb02\t-\nassembly_{TWO}x.txt".encode(),
    f"{COARSE}/test_coarse_disassembly.txt": f"disassembly_{ONE.replace('99', '88')}.txt\t\tnotshared".encode(),
    f"{COARSE}/README.txt": ONE.encode(),
}


@pytest.mark.parametrize("root", ["", "annotations/"])
@pytest.mark.parametrize("recordings", ["", "recordings/"])
def test_splits_are_folders_of_links_to_the_recordings_that_are_there(root: str, recordings: str) -> None:
    splits = {root + name.removeprefix("annotations/"): data for name, data in SPLITS.items()}
    one = dataset(splits | recording(ONE, HMC_8, recordings) | recording(TWO, HMC_2, recordings))
    assert "by-split/" in shown(one, "")
    assert shown(one, "by-split") == ["test/", "train/", "validation/"]
    assert links(one, "by-split/train") == {ONE: f"../../recordings/{ONE}"}
    assert links(one, "by-split/validation") == {TWO: f"../../recordings/{TWO}"}
    assert links(one, "by-split/test") == {}
    with pytest.raises(NotFound, match="there are"):
        list(one.entries("by-split/val"))


def test_splits_cost_nothing_until_they_are_looked_at_and_then_one_split() -> None:
    source = MemorySource(SPLITS | recording(ONE, HMC_8))
    one = Assembly101(source, Options(), Path("/nonexistent"))
    list(one.entries(""))
    assert (source.lists, source.reads, source.stats) == ([""], [], [])
    list(one.entries("by-split"))
    assert source.reads == []
    list(one.entries("by-split/train"))
    assert [os.path.basename(key) for key, _, _ in source.reads] == ["train_coarse_assembly.txt"]


def test_splits_have_only_the_recordings_that_videos_leaves() -> None:
    one = dataset(SPLITS | recording(ONE, HMC_8) | recording(TWO, HMC_2), videos=[TWO])
    assert links(one, "by-split/train") == {}
    assert sorted(links(one, "by-split/validation")) == [TWO]


def test_without_lists_of_segments_there_are_no_splits() -> None:
    assert "by-split/" not in shown(dataset(recording(ONE, HMC_8)), "")
    one = dataset(recording(ONE, HMC_8) | {"annotations/fine-grained-annotations/train.csv": b""})
    assert shown(one, "by-split") == []


def test_a_folder_by_split_of_the_sources_own_is_shown_as_it_is() -> None:
    one = dataset(SPLITS | {"by-split/train/x": b""})
    assert shown(one, "") == ["annotations/", "by-split/"]
    assert shown(one, "by-split/train") == ["x"]
