"""The frames benchmark's own judgement: that a frame that is not the one asked for is noticed, whoever gives it."""

from pathlib import Path

import numpy as np
import pytest

from bench import framedata, framejobs, framelibraries, framereaders
from bench.bars import Figures
from bench.framebars import FRAME_BARS
from bench.framedata import FRAMES, GOP, KINDS
from bench.stand import Figure
from tests.clips import make_clip
from vfs.video import stamp
from vfs.video.encode import encode_jpeg


def _drawn(number: int) -> np.ndarray:
    picture = np.full((96, 192), 120, np.uint8)
    stamp.draw(picture, number)
    return picture


def test_a_frame_that_shows_its_own_number_is_right() -> None:
    assert framelibraries.wrong("448p-0", 7, _drawn(7)) == ""


def test_the_frame_beside_it_is_wrong() -> None:
    assert framelibraries.wrong("448p-0", 7, _drawn(8)) == "frame 7 of 448p-0 shows 8 in place of 7"


def test_the_same_frame_of_another_video_is_wrong() -> None:
    assert framelibraries.wrong("448p-1", 7, _drawn(7)) != ""


def test_a_picture_without_a_number_is_damaged() -> None:
    assert "is damaged" in framelibraries.wrong("448p-0", 7, np.full((96, 192, 3), 120, np.uint8))


def test_bytes_that_are_no_jpeg_are_damaged() -> None:
    assert "is damaged" in framelibraries.wrong("448p-0", 7, b"\xff\xd8" + bytes(4096))


def test_videos_of_a_kind_show_other_numbers_at_the_same_frame() -> None:
    assert len({framedata.shown(video, 5) for video in KINDS[0].videos}) == framedata.VIDEOS
    assert framedata.shown("448p-3", FRAMES - 1) == 3 * GOP - 1


@pytest.mark.parametrize("how", ["own", "pyav", "opencv"])
def test_a_library_gives_the_frames_that_are_asked_for(tmp_path: Path, how: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    asked = [("clip-0", number) for number in (31, 3, 5, 30, 0)]
    found = framereaders.singly(how, {"clip-0": str(clip)}, 1, asked)
    assert (found["checked"], found["wrong"]) == (5, [])


@pytest.mark.parametrize("how", ["own", "pyav", "opencv"])
def test_a_library_gives_every_frame_in_order(tmp_path: Path, how: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    assert framereaders.in_order(how, {"clip-0": str(clip)}, 1, stop=48)["wrong"] == []
    with pytest.raises(ValueError, match="48 frames came in place of 49"):
        framereaders.in_order(how, {"clip-0": str(clip)}, 1, stop=49)


def test_files_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    right = framelibraries.open_frames("own", str(clip), 1)
    for name, number in ((1, 0), (2, 2), (3, 1)):
        (tmp_path / f"{name:06d}.jpg").write_bytes(encode_jpeg(right.frame(number)))
    found = framereaders.singly("files", {"clip-0": str(tmp_path)}, 1, [("clip-0", n) for n in range(3)])
    assert len(found["wrong"]) == 2


def test_isolated_frames_are_one_of_each_gop_of_each_video() -> None:
    asked = framejobs.isolated(KINDS[1])
    assert {(video, number // GOP) for video, number in asked} == {
        (video, gop) for video in KINDS[1].videos for gop in range(FRAMES // GOP)
    }
    assert len(asked) == framedata.VIDEOS * FRAMES // GOP


def test_the_size_of_moov_is_that_of_its_box(tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4").read_bytes()
    at = data.index(b"moov") - 4
    assert framedata.moov_bytes(tmp_path / "clip.mp4") == int.from_bytes(data[at : at + 4], "big")


def test_every_bar_is_about_a_line_that_a_job_has() -> None:
    figures: Figures = {
        (line, system): Figure(line, 1.0, more=dict.fromkeys(_MORE, 1.0))
        for job in framejobs.jobs(KINDS)
        for line in job.rows
        for system in ("egofs", "ffmpegfs", "pyav", "torchcodec", "decord")
    }
    assert {bar.name for bar in FRAME_BARS if bar.judged(figures)[1] not in ("PASS", "MISS")} == set()


_MORE = ("fetched/needed", "requests a frame", "requests", "bytes/moov")
