"""Stamped videos of every codec, container and structure, and what each of their frames must show.

For the soak (soak_frames.py). What is expected follows from what a video was made of (its frames' own times, its edit,
how it is turned), never from vfs: this is the other side of the comparison.
"""

import bisect
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests import clips
from vfs.video import stamp

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# Without an edit list (empty_moov) libav makes the first frame longer by the time that sound begins before it.
DELAYED = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
FASTSTART = {"movflags": "faststart"}
# (a, b, c, d) of a display matrix: a pixel (x, y) comes to (ax + cy, bx + dy).
UPRIGHT = (1, 0, 0, 1)
# Matroska's times are whole milliseconds.
_COARSE = {".mkv": Fraction(1, 1000), ".webm": Fraction(1, 1000)}


@dataclass(frozen=True)
class Subject:
    """A video and what is known of it. `make` is what make_clip takes."""

    name: str
    frames: int = 300
    make: dict[str, Any] = field(default_factory=dict)
    matrix: tuple[int, int, int, int] = UPRIGHT
    edit: tuple[int, int] | None = None
    """The frames that are shown, from one up to another; all where None."""
    steps: Sequence[int] | None = None
    """Milliseconds from each frame to the next, over and over; even where None."""

    @property
    def view(self) -> str:
        """Its directory's name in `frames`."""
        return self.name.rpartition(".")[0]

    @property
    def gop(self) -> int:
        """Frames from keyframe to keyframe."""
        return int(self.make.get("gop", 12))

    @property
    def numbers(self) -> range:
        """What the frames that are shown show, in their order."""
        return range(*self.edit) if self.edit else range(self.frames)

    @property
    def ticks(self) -> list[int] | None:
        """Milliseconds at which the frames come, where they do not come evenly."""
        if self.steps is None:
            return None
        each = (self.steps[n % len(self.steps)] for n in range(self.frames - 1))
        return list(itertools.accumulate(each, initial=0))

    def times(self) -> list[Fraction]:
        """When each frame that is shown comes, in seconds after the first of them."""
        ticks = self.ticks
        every = [Fraction(t, 1000) for t in ticks] if ticks else [n / self.rate for n in range(self.frames)]
        return [every[n] - every[self.numbers[0]] for n in self.numbers]

    @property
    def rate(self) -> Fraction:
        """Frames a second, where they come evenly."""
        return Fraction(self.make.get("rate", 30))

    def shown_at(self, times: Sequence[Fraction], seconds: Fraction) -> set[int]:
        """What may be on the screen then: one number, or two where the container rounds times and this is the moment
        at which one follows the other."""
        at = bisect.bisect_right(times, seconds) - 1
        places = {max(0, at)}
        coarse = _COARSE.get(Path(self.name).suffix, Fraction(0))
        if at + 1 < len(times) and times[at + 1] - seconds < coarse:
            places.add(at + 1)
        if at > 0 and 0 < seconds - times[at] < coarse:
            places.add(at - 1)
        return {self.numbers[place] for place in places}

    def write(self, folder: Path) -> Path:
        """Makes the video."""
        path = folder / f"half-{self.name}"
        timing: dict[str, Any] = {"ticks": self.ticks, "time_base": Fraction(1, 1000)} if self.steps else {}
        clips.make_clip(path, frames=self.frames, draw=self._draw(), **timing, **self.make)
        data = path.read_bytes()
        if self.matrix != UPRIGHT:
            data = clips.turned(data, self.matrix)
        if self.edit:
            data = self._cut(data)
        path.write_bytes(data)
        return path.rename(folder / self.name)

    def number_in(self, picture: np.ndarray[Any, Any], *, cropped: bool = False) -> int:
        """The number that a displayed picture shows; with `cropped`, one of which only the middle is left.

        Raises ValueError where it shows none.
        """
        upright = self._upright(picture)
        return stamp.read(upright[upright.shape[0] // 2 :] if cropped else upright)

    def _upright(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The picture as it was coded."""
        a, b, c, d = self.matrix
        if a:
            return picture[::d, ::a]
        return picture[::b, ::c].swapaxes(0, 1)

    def _draw(self) -> Callable[[int], av.VideoFrame]:
        """Pictures with a second stamp in the lower half of the square in the middle, for when that alone is left."""
        size = self.make.get("size", (192, 128))
        pix_fmt = self.make.get("pix_fmt", "yuv420p")
        full = bool(self.make.get("full_range"))
        ten = pix_fmt == "yuv420p10le"

        def draw(number: int) -> av.VideoFrame:
            frame = clips.picture(number, size, pix_fmt, full=full)
            depth = int(pix_fmt[4:6]) if pix_fmt.startswith("gray1") else 10 if ten else 8
            black, white = (0, (1 << depth) - 1) if full else (16 << depth - 8, 235 << depth - 8)
            plane = frame.planes[0]
            rows = np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16)
            rows = rows.reshape(plane.height, -1)
            width, height = size
            side = min(size)
            top, left = (height - side) // 2, (width - side) // 2
            stamp.draw(rows[top + side // 2 : top + side, left : left + side], number, black=black, white=white)
            return frame

        return draw

    def _cut(self, data: bytes) -> bytes:
        """An MP4 whose edit list shows that range of its frames."""
        assert self.edit is not None, "only what has an edit is cut"
        media, movie = (_timescale(data, box) for box in (b"mdia", b"mvhd"))
        begin = _media_begin(data)
        first, end = self.edit
        return clips.with_edit(data, begin + int(first * media / self.rate), int((end - first) * movie / self.rate))


def _timescale(data: bytes, box: bytes) -> int:
    path = (b"moov", b"mvhd") if box == b"mvhd" else (b"moov", b"trak", b"mdia", b"mdhd")
    start, _ = clips.box(data, *path)
    return int.from_bytes(data[start + 12 : start + 16])


def _media_begin(data: bytes) -> int:
    """The media time at which libav's edit list begins to show: that of the first frame."""
    start, _ = clips.box(data, b"moov", b"trak", b"edts", b"elst")
    return int.from_bytes(data[start + 12 : start + 16])


def _by(codec: str) -> Callable[..., dict[str, Any]]:
    return lambda **make: {"codec": codec, **make}


REFRESH = "intra-refresh=1:keyint=48:scenecut=0:b-adapt=0"
_h264, _hevc, _vp9, _av1 = map(_by, ("libx264", "libx265", "libvpx-vp9", "libsvtav1"))
_mpeg4, _mpeg2 = map(_by, ("mpeg4", "mpeg2video"))


def _x264(parameters: str) -> dict[str, str]:
    return {"preset": "medium", "x264-params": parameters}


def _x265(parameters: str) -> dict[str, str]:
    return {"preset": "medium", "x265-params": f"{parameters}:log-level=none:pools=1"}


_UNEVEN = (33, 34, 33, 120, 7, 16, 17, 250, 41)

SUBJECTS = (
    Subject("h264-250.mp4", 600, _h264(gop=250, bframes=3)),
    Subject("h264-open.mp4", 400, _h264(gop=48, open_gop=True, bframes=4)),
    Subject("h264-intra.mov", 200, _h264(gop=1, bframes=0)),
    Subject("h264-refresh.mp4", 200, _h264(bframes=0, options={"x264-params": REFRESH})),
    Subject("h264-refresh-ts.ts", 200, _h264(bframes=0, options={"x264-params": REFRESH})),
    Subject("h264-no-b.mp4", 300, _h264(gop=48, bframes=0, container_options=FASTSTART)),
    Subject("h264-sound.mp4", 300, _h264(gop=12, bframes=1, audio=True, rate=25)),
    Subject("h264-front-2997.mp4", 300, _h264(gop=48, rate=Fraction(30000, 1001), container_options=FASTSTART)),
    Subject("h264-fragmented.mp4", 400, _h264(gop=48, container_options=FRAGMENTED)),
    Subject("h264-fragmented-open.mp4", 300, _h264(gop=12, open_gop=True, container_options=FRAGMENTED)),
    Subject("h264-fragmented-sound.mp4", 250, _h264(gop=12, audio=True, container_options=DELAYED)),
    Subject("h264-60.mkv", 400, _h264(gop=48, bframes=3, rate=60)),
    Subject("h264-open-ts.ts", 300, _h264(gop=48, open_gop=True)),
    Subject("h264-avi.avi", 250, _h264(gop=12, bframes=0)),
    Subject("h264-uneven.mp4", 250, _h264(gop=48), steps=_UNEVEN),
    Subject("h264-uneven-mkv.mkv", 250, _h264(gop=48), steps=_UNEVEN),
    Subject("h264-cut.mp4", 300, _h264(gop=48, bframes=2), edit=(17, 233)),
    Subject("h264-cut-open.mp4", 300, _h264(gop=48, open_gop=True, bframes=3), edit=(95, 290)),
    Subject("h264-medium.mp4", 250, _h264(gop=48, bframes=4, options={"preset": "medium"})),
    Subject("h264-scenes.mp4", 300, _h264(options=_x264("keyint=250"))),
    Subject("h264-slices.ts", 200, _h264(options=_x264("slices=4:keyint=48:bframes=3:ref=4:open-gop=1"))),
    Subject("h264-interlaced.mp4", 200, _h264(options=_x264("tff=1:keyint=48:bframes=2"))),
    Subject("h264-interlaced-ts.ts", 200, _h264(options=_x264("tff=1:keyint=48:bframes=2"))),
    Subject("h264-right.mp4", 200, _h264(), matrix=(0, 1, -1, 0)),
    Subject("h264-down.mp4", 200, _h264(gop=48), matrix=(-1, 0, 0, -1)),
    Subject("h264-left.mov", 200, _h264(gop=48), matrix=(0, -1, 1, 0)),
    Subject("h264-mirrored.mp4", 200, _h264(), matrix=(-1, 0, 0, 1)),
    Subject("h264-flipped.mp4", 200, _h264(), matrix=(1, 0, 0, -1)),
    Subject("h264-mirrored-left.mp4", 200, _h264(), matrix=(0, 1, 1, 0)),
    Subject("h264-mirrored-right.mp4", 200, _h264(), matrix=(0, -1, -1, 0)),
    Subject("h264-full-601.mp4", 200, _h264(full_range=True)),
    Subject("h264-709.mp4", 200, _h264(colorspace=1, gop=48)),
    Subject("h264-full-709-portrait.mp4", 200, _h264(full_range=True, colorspace=1, size=(144, 224))),
    Subject("hevc-open.mp4", 400, _hevc(gop=48, open_gop=True, bframes=4)),
    Subject("hevc-250.mov", 300, _hevc(gop=250, bframes=3)),
    Subject("hevc-open-mkv.mkv", 300, _hevc(gop=12, open_gop=True)),
    Subject("hevc-open-ts.ts", 300, _hevc(gop=48, open_gop=True, bframes=3)),
    Subject("hevc-fragmented.mp4", 300, _hevc(gop=12, bframes=1, container_options=FRAGMENTED)),
    Subject("hevc-10.mp4", 250, _hevc(gop=48, pix_fmt="yuv420p10le")),
    Subject("hevc-gray10.mp4", 400, _hevc(gop=48, open_gop=True, bframes=4, pix_fmt="gray10le", rate=60)),
    Subject("hevc-gray10-full-right.mp4", 200, _hevc(pix_fmt="gray10le", full_range=True), matrix=(0, 1, -1, 0)),
    Subject("hevc-gray12.mkv", 200, _hevc(gop=48, pix_fmt="gray12le")),
    Subject("hevc-cut.mp4", 300, _hevc(gop=48, open_gop=True, bframes=3), edit=(50, 250)),
    Subject("hevc-medium.mp4", 200, _hevc(gop=48, open_gop=True, options={"preset": "medium"})),
    Subject("hevc-layers.mp4", 200, _hevc(options=_x265("temporal-layers=3:keyint=48:bframes=4"))),
    Subject("vp9.webm", 300, _vp9(gop=48)),
    Subject("vp9-odd.mp4", 250, _vp9(gop=250, size=(193, 127))),
    Subject("vp9-uneven.mkv", 200, _vp9(gop=48), steps=_UNEVEN),
    Subject("av1.mp4", 300, _av1(gop=48)),
    Subject("av1-webm.webm", 250, _av1(gop=48)),
    Subject("av1-fragmented.mp4", 200, _av1(gop=12, container_options=FRAGMENTED)),
    Subject("mpeg4.mp4", 300, _mpeg4(gop=12)),
    Subject("mpeg4-odd.mov", 250, _mpeg4(gop=48, bframes=0, size=(193, 127))),
    Subject("mpeg4-avi.avi", 300, _mpeg4(gop=48, bframes=0)),
    Subject("mpeg4-mkv.mkv", 200, _mpeg4(gop=48, bframes=3)),
    Subject("mpeg2-mp4.mp4", 200, _mpeg2(gop=12)),
    Subject("mpeg2.mpg", 250, _mpeg2(gop=12)),
    Subject("mpeg2-ts.ts", 250, _mpeg2(gop=12, bframes=1)),
    Subject("mpeg2-mkv.mkv", 200, _mpeg2(gop=12, rate=25)),
)


# No picture is less than 96 a side, which a stamp needs.
VARIANTS = (
    *("frames", "frames", "frames", "frames@fps=native"),
    *(f"frames@fps={fps}" for fps in ("1", "7", "10", "12.5", "15", "24", "29.97", "60", "0.5", "23.976")),
    *("frames@format=png", "frames@format=npy", "frames@format=ppm", "frames@quality=60"),
    *("frames@short=112", "frames@short=256", "frames@width=240", "frames@width=200,height=120"),
    *("frames@short=128,crop=center", "frames@crop=center,short=112,format=npy", "frames@fps=10,crop=center,short=120"),
    *("frames@fps=15,format=png,short=100", "frames@fps=50,format=ppm", "frames@fps=8,format=npy,height=120"),
)


class Directory:
    """The frames of one video under one variant, as its reader finds them."""

    def __init__(self, root: Path, subject: Subject, variant: str) -> None:
        """Raises OSError, and AssertionError where there are not as many files as there should be."""
        self.path = root / variant / subject.view
        self.name = f"{variant}/{subject.view}"
        self.subject = subject
        self.cropped = "crop" in variant
        said = dict(part.split("=") for part in variant.partition("@")[2].split(",") if part)
        self.suffix = said.get("format", "jpg")
        self.fps = Fraction(said["fps"]) if said.get("fps", "native") != "native" else None
        self.times = subject.times()
        self.count = len(os.listdir(self.path))
        least, most = self._bounds()
        assert least <= self.count <= most, f"{self.name} has {self.count} files, not {least} to {most}"

    def _bounds(self) -> tuple[int, int]:
        """How many files there may be: the last frame's duration is nowhere written in some containers."""
        shown = len(self.subject.numbers)
        if self.fps is None:
            return shown, shown
        longest = max(b - a for a, b in itertools.pairwise(self.times))
        last = self.times[-1]
        return int(last * self.fps), int((last + longest) * self.fps) + 1

    def expected(self, number: int) -> set[int]:
        """What file `number` (from 1) may show."""
        if self.fps is None:
            return {self.subject.numbers[number - 1]}
        return self.subject.shown_at(self.times, (number - 1) / self.fps)


def _write(place: tuple[Path, Subject]) -> None:
    folder, subject = place
    subject.write(folder)


def write_all(folder: Path, subjects: Sequence[Subject] = SUBJECTS) -> None:
    """Makes the videos that are not there yet."""
    missing = [subject for subject in subjects if not (folder / subject.name).exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, [(folder, subject) for subject in missing]))
