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
    assert numbers == range(rule.first, rule.first + rule.count(video))
    return list(map(frame_of, numbers))


@pytest.mark.parametrize("frames", [1, 2, 179, 180, 181])
@pytest.mark.parametrize("make", [lambda n: constant(n, 60, 15360), lambda n: milliseconds(n, 60)])
def test_at_30_of_60_a_second_file_k_is_source_frame_2_k_minus_1(frames: int, make: Any) -> None:
    video = make(frames)
    files = ASSEMBLY.count(video)
    assert files == (frames + 1) // 2
    assert frames_of(ASSEMBLY, video) == list(range(0, frames, 2))


@pytest.mark.parametrize("make", [lambda n: constant(n, 30, 30), lambda n: milliseconds(n, 30)])
def test_at_the_videos_own_rate_every_frame_comes_once(make: Any) -> None:
    video = make(100)
    assert ASSEMBLY.count(video) == 100
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
    times = [n / fps + slack for n in range(rule.count(video))]
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
