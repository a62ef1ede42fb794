from fractions import Fraction

import pytest

from tests.memorysource import MemorySource
from vfs.datasets.assembly101 import Assembly101, Options
from vfs.errors import OptionError
from vfs.node import Kind

ONE = "nusar-2021_action_both_9099-a01_9099_user_id_2021-02-01_120000"
TWO = "nusar-2021_action_both_9098-b02_9098_user_id_2021-02-03_140000"
STATIC = ["C10095", "C10115", "C10118", "C10119", "C10379", "C10390", "C10395", "C10404"]
HMC_8 = ["HMC_84346135", "HMC_84347414", "HMC_84355350", "HMC_84358933"]
HMC_2 = ["HMC_21176875", "HMC_21176623", "HMC_21110305", "HMC_21179183"]


def recording(name: str, ego: list[str], root: str = "recordings/") -> dict[str, bytes]:
    cameras = [f"{camera}_rgb" for camera in STATIC] + [f"{camera}_mono10bit" for camera in ego]
    return {f"{root}{name}/{camera}.mp4": camera.encode() for camera in cameras}


def dataset(objects: dict[str, bytes], **options: list[str]) -> Assembly101:
    return Assembly101(MemorySource(objects), Options(**options))


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


def test_features_get_canonical_names_where_one_camera_answers() -> None:
    cameras = ["C10118_rgb", "HMC_84358933_mono10bit", "HMC_21179183_mono10bit", "HMC_21110305_mono10bit"]
    one = dataset({f"TSM_features/{camera}/data.mdb": b"" for camera in cameras})
    assert links(one, "TSM_features") == {"v3": "C10118_rgb", "e3": "HMC_21110305_mono10bit"}


def test_a_canonical_name_that_the_source_has_already_is_the_sources() -> None:
    features = ["HMC_84358933_mono10bit/data.mdb", "e4/data.mdb"]
    assert links(dataset({f"TSM_features/{name}": b"" for name in features}), "TSM_features") == {}


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


def test_videos_selects_recordings_and_nothing_else() -> None:
    objects = recording(ONE, HMC_8) | recording(TWO, HMC_2) | {"annotations/train.csv": b""}
    one = dataset(objects, videos=[TWO])
    one.check()
    assert [entry.name for entry in one.entries("recordings")] == [TWO]
    assert [entry.name for entry in one.entries("annotations")] == ["train.csv"]
    both = dataset(objects, videos=[ONE, TWO])
    assert len(list(both.entries("recordings"))) == 2


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
