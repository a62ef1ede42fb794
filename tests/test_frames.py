from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vfs.frames import FrameRule, Variant

ASSEMBLY = FrameRule(fps=Fraction(30), first=1, name="{view}_{number:010d}.jpg")
PLAIN = FrameRule(fps=None, first=1, name="{number:06d}.jpg")


def index(times: list[int], time_base: Fraction, fps: Fraction, last: int) -> Any:
    """As much of a VideoIndex as numbering needs; `last` is how long the last frame stays, in ticks."""
    pts = np.array(times, dtype=np.int64)

    def frame_at_tick(tick: int) -> int:
        return max(0, int(np.searchsorted(pts, tick, side="right")) - 1)

    return SimpleNamespace(
        pts=pts,
        time_base=time_base,
        fps=fps,
        frame_count=len(pts),
        duration_ticks=times[-1] + last,
        frame_at_tick=frame_at_tick,
    )


def constant(frames: int, fps: int, timescale: int) -> Any:
    step = timescale // fps
    return index([n * step for n in range(frames)], Fraction(1, timescale), Fraction(fps), step)


def milliseconds(frames: int, fps: int) -> Any:
    """As Matroska stores times: rounded to a thousandth."""
    times = [round(n * 1000 / fps) for n in range(frames)]
    return index(times, Fraction(1, 1000), Fraction(fps), round(1000 / fps))


def frames_of(rule: FrameRule, video: Any) -> list[int]:
    """The video's frames behind all files, in order."""
    numbers, frame_of = rule.numbering(video)
    assert numbers.start == rule.first
    return list(map(frame_of, numbers))


@pytest.mark.parametrize("frames", [1, 2, 179, 180, 181])
@pytest.mark.parametrize("make", [lambda n: constant(n, 60, 15360), lambda n: milliseconds(n, 60)])
def test_at_30_of_60_a_second_file_k_is_source_frame_2_k_minus_1(frames: int, make: Any) -> None:
    video = make(frames)
    assert frames_of(ASSEMBLY, video) == list(range(0, frames, 2))


@pytest.mark.parametrize("make", [lambda n: constant(n, 30, 30), lambda n: milliseconds(n, 30)])
def test_at_the_videos_own_rate_every_frame_comes_once(make: Any) -> None:
    video = make(100)
    assert frames_of(ASSEMBLY, video) == list(range(100))


def test_above_the_videos_rate_frames_repeat_as_they_stay_on_the_screen() -> None:
    video = constant(5, 15, 15)
    assert frames_of(ASSEMBLY, video) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_of_uneven_frames_the_one_on_the_screen_is_given() -> None:
    video = index([0, 100, 1000, 1100], Fraction(1, 1000), Fraction(4), 900)
    rule = FrameRule(fps=Fraction(2), first=0, name="{number}.jpg")
    assert frames_of(rule, video) == [0, 1, 2, 3]


@pytest.mark.parametrize("fps", [Fraction(1, 7), Fraction(2997, 100), Fraction(24), Fraction(30), Fraction(1999, 1000)])
@pytest.mark.parametrize("make", [lambda n: constant(n, 60, 90000), lambda n: milliseconds(n, 50)])
def test_whole_numbers_give_what_fractions_would(make: Any, fps: Fraction) -> None:
    video = make(700)
    slack = video.time_base / 2 if video.fps * video.time_base * 4 <= 1 else 0
    rule = FrameRule(fps=fps, first=3, name="{number}.jpg")
    times = [n / fps + slack for n in range(len(rule.numbering(video)[0]))]
    expected = [max(n for n in range(700) if n == 0 or video.pts[n] * video.time_base <= time) for time in times[:50]]
    assert frames_of(rule, video)[:50] == expected


@pytest.mark.parametrize(
    ("rule", "view", "name", "number"),
    [
        (ASSEMBLY, "e4", "e4_0000000081.jpg", 81),
        (ASSEMBLY, "HMC_84358933_mono10bit", "HMC_84358933_mono10bit_0000000081.jpg", 81),
        (ASSEMBLY, "e4", "e4_81.jpg", None),
        (ASSEMBLY, "e4", "e3_0000000081.jpg", None),
        (ASSEMBLY, "e4", "e4_0000000081.png", None),
        (ASSEMBLY, "e4", "e4_00000000081.jpg", None),
        (PLAIN, "clip7", "000081.jpg", 81),
        (PLAIN, "clip7", "1234567.jpg", 1234567),
        (PLAIN, "clip7", "81.jpg", None),
        (PLAIN, "clip7", "x.jpg", None),
        (PLAIN, "clip7", "-00081.jpg", None),
        (PLAIN, "clip7", "٠٠٠٠٨١.jpg", None),
    ],
)
def test_only_the_exact_file_name_means_a_frame(rule: FrameRule, view: str, name: str, number: int | None) -> None:
    assert rule.number(view, name) == number


def test_every_frame_of_a_variant_keeps_first_and_name() -> None:
    rule = ASSEMBLY.varied(Variant(every_frame=True))
    assert (rule.fps, rule.first, rule.name) == (None, 1, ASSEMBLY.name)


def test_another_format_changes_the_suffix_and_nothing_else() -> None:
    rule = ASSEMBLY.varied(Variant(format="png"))
    assert (rule.fps, rule.first, rule.file_name("e4", 7)) == (30, 1, "e4_0000000007.png")
    assert rule.number("e4", "e4_0000000007.png") == 7


RATES = [
    lambda n: constant(n, 60, 15360),
    lambda n: constant(n, 30, 30),
    lambda n: milliseconds(n, 60),
    lambda n: milliseconds(n, 30),
]


@pytest.mark.parametrize("make", RATES)
@pytest.mark.parametrize("fps", [None, "own"])
def test_a_part_is_the_frames_from_start_up_to_but_without_stop(make: Any, fps: str | None) -> None:
    video = make(90)
    for start in range(0, 90, 7):
        for stop in (start + 1, start + 2, start + 20, 89, 90, 91, 1000, None):
            rule = FrameRule(fps=video.fps if fps else None, first=4, name="{number}", start=start, stop=stop)
            assert frames_of(rule, video) == list(range(90))[start:stop]


@pytest.mark.parametrize("make", [lambda n: constant(n, 60, 15360), lambda n: milliseconds(n, 60)])
def test_at_another_rate_a_part_counts_from_its_own_start(make: Any) -> None:
    video = make(90)
    for start in range(0, 80, 7):
        for stop in (start + 1, start + 2, start + 7, 90, None):
            rule = FrameRule(fps=Fraction(30), first=1, name="{number}", start=start, stop=stop)
            assert frames_of(rule, video) == list(range(90))[start:stop:2]


def test_a_part_above_the_videos_rate_repeats_its_frames_alone() -> None:
    rule = FrameRule(fps=Fraction(60), first=0, name="{number}", start=3, stop=5)
    assert frames_of(rule, constant(9, 30, 15360)) == [3, 3, 4, 4]


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (5, 3), (9, None), (9, 12), (100, 200), (0, 0)])
@pytest.mark.parametrize("fps", [None, Fraction(10)])
def test_an_empty_part_has_no_frames(start: int, stop: int | None, fps: Fraction | None) -> None:
    rule = FrameRule(fps=fps, first=1, name="{number}", start=start, stop=stop)
    assert frames_of(rule, constant(9, 30, 15360)) == []


MANY = FrameRule(
    fps=None,
    first=0,
    name="{view}_{number:010d}.jpg",
    also=("{view}_{number:07d}.jpg", "{number}.jpeg", "frame_{number:010d}.jpg", "{number:06d}.jpg", "{number}.jpg"),
)


@pytest.mark.parametrize(
    ("view", "name", "number"),
    [
        ("e4", "e4_0000000081.jpg", 81),
        ("e4", "e4_0000081.jpg", 81),
        ("e4", "e4_000081.jpg", None),
        ("e4", "frame_0000000081.jpg", 81),
        ("e4", "81.jpeg", 81),
        ("e4", "000081.jpg", 81),
        ("e4", "81.jpg", 81),
        ("e4", "0081.jpg", None),
        ("e4", "1234567.jpg", 1234567),
        ("4", "42.jpg", 42),
        ("4", "4.jpg", 4),
        ("{number}", "{number}_0000007.jpg", 7),
    ],
)
def test_a_frame_has_the_names_of_every_format(view: str, name: str, number: int | None) -> None:
    assert MANY.number(view, name) == number


def test_a_name_of_several_formats_means_the_frame_of_the_first() -> None:
    rule = FrameRule(fps=None, first=0, name="{number}.jpg", also=("1{number:02d}.jpg",))
    assert rule.number("", "123.jpg") == 123


def test_another_format_changes_the_suffix_of_all_names() -> None:
    rule = MANY.varied(Variant(format="png"))
    assert [rule.number("e4", name) for name in ("e4_0000007.png", "7.png", "7.jpeg", "7.jpg")] == [7, 7, None, None]
    assert MANY.varied(Variant(short=64)).number("e4", "7.jpeg") == 7


# Parts in seconds


@pytest.mark.parametrize("make", [lambda n: constant(n, 30, 15360), lambda n: milliseconds(n, 30)])
@pytest.mark.parametrize("fps", [None, Fraction(30)])
def test_a_part_in_seconds_is_the_frames_that_begin_in_them(make: Any, fps: Fraction | None) -> None:
    video = make(90)
    for start in range(4):
        for stop in range(start, 5):
            rule = FrameRule(fps, 1, "{number}", start_s=Fraction(start), stop_s=Fraction(stop))
            assert frames_of(rule, video) == list(range(90))[30 * start : 30 * stop]


@pytest.mark.parametrize("make", [lambda n: constant(n, 30, 15360), lambda n: milliseconds(n, 30)])
def test_a_part_that_begins_with_a_frame_has_it_although_its_time_was_rounded(make: Any) -> None:
    video = make(90)
    for start in range(90):
        rule = FrameRule(None, 1, "{number}", start_s=Fraction(start, 30), stop_s=Fraction(start + 1, 30))
        assert frames_of(rule, video) == [start]


def test_a_part_in_seconds_begins_with_its_first_frame_and_not_before() -> None:
    video = index([n * 1001 for n in range(90)], Fraction(1, 30000), Fraction(30000, 1001), 1001)
    # Frame 30 begins at 1.001 s, frame 60 at 2.002.
    rule = FrameRule(None, 1, "{number}", start_s=Fraction(1), stop_s=Fraction(2))
    assert frames_of(rule, video) == list(range(30, 60))
    assert frames_of(FrameRule(Fraction(10), 1, "{number}", start_s=Fraction(1), stop_s=Fraction(2)), video)[:3] == [
        30,
        32,
        35,
    ]


@pytest.mark.parametrize(("start", "stop"), [(3, 4), (7, 9), (1, 1), (2, 1)])
def test_a_part_of_seconds_without_a_frame_is_empty(start: int, stop: int) -> None:
    rule = FrameRule(Fraction(30), 1, "{number}", start_s=Fraction(start), stop_s=Fraction(stop))
    assert frames_of(rule, constant(90, 30, 15360)) == []


def test_a_part_without_a_last_second_goes_to_the_end() -> None:
    rule = FrameRule(None, 1, "{number}", start_s=Fraction(5, 2))
    assert frames_of(rule, constant(90, 30, 15360)) == list(range(75, 90))
