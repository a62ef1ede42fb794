"""Names of frames directories: what they ask for, and in which form pictures come."""

import logging
from fractions import Fraction
from typing import Any

import pytest

from vfs.errors import NotFound
from vfs.variant import Variant, parse_variant
from vfs.video.form import Form


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("frames", {}),
        ("frames@fps=30", {"fps": Fraction(30)}),
        ("frames@fps=29.97", {"fps": Fraction(2997, 100)}),
        ("frames@fps=0", {"every_frame": True}),
        ("frames@fps=native", {"every_frame": True}),
        ("frames@format=jpeg", {}),
        ("frames@format=npy,short=256", {"format": "npy", "short": 256}),
        ("frames@short=256,format=npy", {"format": "npy", "short": 256}),
        ("frames@quality=100", {"quality": 100}),
        ("frames@quality=50,format=jpg", {"quality": 50}),
        ("frames@width=640", {"width": 640}),
        ("frames@height=360,width=640,crop=center", {"width": 640, "height": 360, "crop": True}),
        ("frames@crop=center,short=224,fps=1.5", {"short": 224, "crop": True, "fps": Fraction(3, 2)}),
        ("frames@width=16384", {"width": 16384}),
    ],
)
def test_a_name_says_what_is_asked_for(name: str, asked: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert parse_variant(name) == Variant(**asked)
    assert not caplog.records


@pytest.mark.parametrize("name", ["frame", "frames2", "FRAMES", "", "framesfps=3", "views", "frames.jpg"])
def test_another_name_is_not_found_and_not_worth_a_word(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFound):
        parse_variant(name)
    assert not caplog.records


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("", "''"),
        ("30", "'30'"),
        ("size=30", "'size=30'"),
        ("Short=30", "'Short=30'"),
        ("fps=30,", "''"),
        ("fps=30,fps=30", "fps stands there twice"),
        ("fps=", "no number"),
        ("fps=-1", "no number"),
        ("fps=0.000", "no number"),
        ("fps=12345", "no number"),
        ("fps=1.2345", "no number"),
        ("fps=1e3", "no number"),
        ("fps=٣", "no number"),
        ("fps=30\n", "no number"),
        ("format=gif", "no format"),
        ("format=PNG", "no format"),
        ("quality=0", "1 to 100"),
        ("quality=101", "1 to 100"),
        ("quality=90,format=png", "png has no quality"),
        ("short=0", "1 to 16384"),
        ("short=+9", "1 to 16384"),
        ("short=007", "1 to 16384"),
        ("short=16385", "1 to 16384"),
        ("width=99999", "1 to 16384"),
        ("short=100,width=100", "does not go with"),
        ("height=100,short=100", "does not go with"),
        ("crop=left,short=100", "no way to crop"),
        ("crop=center", "crop goes with"),
        ("crop=center,width=100", "crop goes with"),
    ],
)
def test_a_misspelt_name_is_not_found_and_is_explained_once(
    asked: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotFound, match="frames@"):
        parse_variant(f"frames@{asked}")
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert why in said.getMessage()
    for known in ("fps=", "format=jpg|png|ppm|npy", "quality=1..100", "short=", "width=", "height=", "crop=center"):
        assert known in said.getMessage()


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (["frames", "frames@format=jpg", "frames@format=jpeg,quality=90"], "frames"),
        (["frames@fps=0", "frames@fps=native"], "frames@fps=native"),
        (["frames@fps=30", "frames@fps=30.0", "frames@fps=0030.000"], "frames@fps=30"),
        (["frames@fps=0.5", "frames@fps=0.500,format=jpg"], "frames@fps=0.5"),
        (["frames@fps=23.976"], "frames@fps=23.976"),
        (["frames@fps=100"], "frames@fps=100"),
        (
            ["frames@crop=center,short=9,format=png,fps=5", "frames@fps=5,format=png,short=9,crop=center"],
            "frames@fps=5,format=png,short=9,crop=center",
        ),
        (["frames@height=7,width=8,quality=3"], "frames@quality=3,width=8,height=7"),
    ],
)
def test_names_that_mean_the_same_have_one_key_which_is_one_of_them(names: list[str], key: str) -> None:
    assert {parse_variant(name).key for name in names} == {key}
    assert parse_variant(key) == parse_variant(names[0])


@pytest.mark.parametrize(
    ("name", "video", "size"),
    [
        ("frames", (1920, 1080), (1920, 1080)),
        ("frames", (193, 127), (193, 127)),
        ("frames@short=256", (1920, 1080), (456, 256)),
        ("frames@short=256", (1080, 1920), (256, 456)),
        ("frames@short=256", (796, 448), (454, 256)),
        ("frames@short=255", (100, 100), (255, 256)),
        ("frames@short=1080", (640, 480), (1440, 1080)),
        ("frames@short=1", (1000, 10), (100, 1)),
        ("frames@width=1", (1000, 10), (1, 2)),
        ("frames@width=641", (1920, 1080), (641, 360)),
        ("frames@height=360", (1920, 1080), (640, 360)),
        ("frames@height=3,width=5", (1920, 1080), (5, 3)),
        ("frames@height=3,width=5,crop=center", (1920, 1080), (5, 3)),
        ("frames@short=224,crop=center", (1920, 1080), (224, 224)),
        ("frames@width=16384,height=4096", (10, 10), (16384, 4096)),
    ],
)
def test_sizes(name: str, video: tuple[int, int], size: tuple[int, int]) -> None:
    variant = parse_variant(name)
    form = variant.form_of(*video)
    assert (form.width, form.height) == size
    assert form.crop == variant.crop


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("frames@short=16384", (1920, 1080)),
        ("frames@width=100", (1, 1000)),
        ("frames@width=16384,height=4097", (1920, 1080)),
        ("frames@height=9000", (1920, 1080)),
    ],
)
def test_a_size_beyond_all_bounds_is_not_found_and_says_why(name: str, video: tuple[int, int]) -> None:
    with pytest.raises(NotFound, match=r"would become \d+x\d+, which is more than 16384 a side or 67108864 pixels"):
        parse_variant(name).form_of(*video)


def test_a_form_has_what_the_video_is_and_what_was_asked_for() -> None:
    form = parse_variant("frames@quality=70,short=100").form_of(200, 100, monochrome=True, depth=10)
    assert form == Form("jpg", 200, 100, 70, monochrome=True, depth=10)
    assert parse_variant("frames@format=npy").form_of(6, 4) == Form("npy", 6, 4)


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("frames", "C1_0000000007.jpg"),
        ("frames@format=jpeg", "C1_0000000007.jpg"),
        ("frames@format=png", "C1_0000000007.png"),
        ("frames@format=npy", "C1_0000000007.npy"),
        ("frames@format=ppm,short=3", "C1_0000000007.ppm"),
    ],
)
def test_a_file_is_named_by_its_format(name: str, file_name: str) -> None:
    assert parse_variant(name).file_name("C1_0000000007.jpg") == file_name


@pytest.mark.parametrize(
    ("asked", "size", "given"),
    [
        ("frames", (640, 480), (342, 256)),
        ("frames", (480, 640), (256, 342)),
        ("frames", (340, 256), (340, 256)),
        ("frames", (200, 150), (200, 150)),
        ("frames", (150, 2000), (150, 2000)),
        ("frames@fps=15", (640, 480), (342, 256)),
        ("frames@format=npy", (640, 480), (342, 256)),
        ("frames@fps=0", (640, 480), (640, 480)),
        ("frames@fps=native,format=png", (640, 480), (640, 480)),
        ("frames@fps=0,short=256", (640, 480), (342, 256)),
        ("frames@short=300", (640, 480), (400, 300)),
        ("frames@short=600", (640, 480), (800, 600)),
        ("frames@width=320", (640, 480), (320, 240)),
        ("frames@height=120", (640, 480), (160, 120)),
        ("frames@short=224,crop=center", (640, 480), (224, 224)),
    ],
)
def test_the_datasets_size_holds_where_no_other_and_not_every_frame_is_asked_for(
    asked: str, size: tuple[int, int], given: tuple[int, int]
) -> None:
    form = parse_variant(asked).within(256, *size).form_of(*size)
    assert (form.width, form.height) == given


def test_a_dataset_without_a_size_gives_the_videos() -> None:
    variant = parse_variant("frames")
    assert variant.within(None, 640, 480) is variant
