"""Makes the demo's videos: what each of its cameras films, and how the families of cameras encode it.

Hides PyAV's encoders and the drawing. Called by the generators of the demo's trees; must not know where the videos
stand or what they are called. All cameras film one scene from their own side: a table with a dial of twelve marks
and a ball that passes one mark every ten pictures, so that a person sees the time in a picture; `stamp` draws the
camera's name and the picture's number in, so that a program does too.

Any thread may call `write`; each call has an encoder of its own with one thread, which makes its bytes the same
every time for one build of the encoders. It blocks for about a second of CPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import cos, pi, sin
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.stream import VideoStream

from vfs.errors import SourceError
from vfs.video import stamp

GOP_PICTURES = 60

_Plane = npt.NDArray[np.integer]
_Floats = npt.NDArray[np.float32]
_Colour = tuple[float, float, float]  # luma in 0..1, both chromas in -0.5..0.5

_BT709 = 1  # AVCOL_PRI_BT709, AVCOL_TRC_BT709 and AVCOL_SPC_BT709 of libavutil/pixfmt.h are all 1
_LIMITED = 1  # AVCOL_RANGE_MPEG


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Cameras of one kind: their picture and its encoding. Levels are those of the luma plane's limited range.

    Each equals itself alone.
    """

    width: int
    height: int
    encoder: str
    pixel_format: str
    dtype: type[np.integer]
    black: int
    white: int
    options: dict[str, str]
    sway: int = 0
    """How far the camera moves to each side, in pixels: a head does, a wall does not."""
    fps: int = 60
    has_matrix: bool = False
    """Whether the file says by which matrix its colours were made (BT.709); unsaid is common."""
    lit_every: int = 1
    """Of so many pictures only the first shows the scene, the others are black but for their numbers."""


# The cheapest preset, with what it drops and the demo wants put back: B-frames, so that decode order is not display
# order, and deblocking, without which a smooth gradient shows its blocks. `rc-lookahead=0` also saves the memory of 40
# pictures an encoder. Measured: 180 pictures a second of CPU, drawing included.
STATIC = Family(
    width=1920,
    height=1080,
    encoder="libx264",
    pixel_format="yuv420p",
    dtype=np.uint8,
    black=16,
    white=235,
    options={
        "preset": "ultrafast",
        "crf": "22",
        "x264-params": f"threads=1:rc-lookahead=0:bframes=2:deblock=0,0:no-deblock=0"
        f":keyint={GOP_PICTURES}:min-keyint={GOP_PICTURES}:scenecut=0",
    },
    has_matrix=True,
)

# x265 prints a page to stderr unless its own log level says otherwise. Closed GOPs, as the static cameras have.
EGO = Family(
    width=636,
    height=480,
    encoder="libx265",
    pixel_format="gray10le",
    dtype=np.uint16,
    black=64,
    white=940,
    options={
        "preset": "ultrafast",
        "crf": "24",
        "x265-params": "log-level=none:pools=none:frame-threads=1:wpp=0:open-gop=0"
        f":keyint={GOP_PICTURES}:min-keyint={GOP_PICTURES}:scenecut=0",
    },
    sway=20,
)

# A canonical video of Ego4D, two thirds as large as life. Pictures that are never shown (alt-ref, in one packet with
# one that is) are in it, as libvpx makes them when it has time: 24 ms of CPU a picture.
EGO4D = Family(
    width=960,
    height=720,
    encoder="libvpx-vp9",
    pixel_format="yuv420p",
    dtype=np.uint8,
    black=16,
    white=235,
    options={
        "deadline": "good",
        "cpu-used": "8",
        "crf": "41",
        "b": "0",
        "auto-alt-ref": "1",
        "lag-in-frames": "12",
        "g": str(GOP_PICTURES),
        "threads": "1",
    },
    sway=16,
    fps=30,
)
# Without them: 5 ms.
EGO4D_QUICK = replace(
    EGO4D, options={**EGO4D.options, "deadline": "realtime", "auto-alt-ref": "0", "lag-in-frames": "0"}
)

# Ego-Exo4D's cameras: the colour camera of Aria glasses, half as large as life; the two of its SLAM system, upright as
# the takes have them; the one of its eye tracker, which films ten pictures a second into a video of thirty; those that
# stand around, a quarter as large. Its documents say yuv420p of all, and mono of SLAM: what libav makes of gray H.264.
ARIA_RGB = replace(
    STATIC,
    width=704,
    height=704,
    options={**STATIC.options, "preset": "superfast", "crf": "30"},
    sway=8,
    fps=30,
    has_matrix=False,
)
ARIA_SLAM = replace(ARIA_RGB, width=240, height=320, pixel_format="gray")
ARIA_EYE = replace(ARIA_RGB, width=320, height=240, pixel_format="gray", sway=0, lit_every=3)
EXO = replace(ARIA_RGB, width=960, height=540, sway=0)


def write(
    path: Path,
    family: Family,
    label: str,
    place: int,
    picture_count: int,
    session: int = 0,
    *,
    first: int = 0,
    sound: bool = False,
) -> None:
    """Writes an MP4, its index in front, of `picture_count` pictures stamped with `label` and `first`, `first` + 1, …

    `place` (from 0) is where the camera stands, and so from where it sees the scene; `session` chooses the ball, so
    that one camera's videos of two recordings are not alike. `sound` adds a track of silence. Raises SourceError where
    PyAV lacks the encoder, and OSError where the file cannot be written.
    """
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = cast("VideoStream", container.add_stream(family.encoder, rate=family.fps, options=family.options))
            _configure(stream, family)
            silence = _Silence(container) if sound else None
            for shown, picture in enumerate(_pictures(_Scene(family, label, place, session), first, picture_count), 1):
                container.mux(stream.encode(picture))
                if silence is not None:
                    silence.until(shown / family.fps)
            container.mux(stream.encode(None))
            if silence is not None:
                silence.end()
    except OSError:
        raise  # FFmpeg's own errors of the file system are OSErrors too
    except (UnknownCodecError, av.FFmpegError) as failure:
        raise SourceError(
            f"cannot encode {path.name} with {family.encoder}: {failure}; "
            "the demo needs a PyAV with x264, x265 and libvpx, as its wheels on PyPI are"
        ) from failure


def _configure(stream: VideoStream, family: Family) -> None:
    stream.width, stream.height, stream.pix_fmt = family.width, family.height, family.pixel_format
    stream.codec_context.thread_count = 1
    stream.codec_context.color_range = _LIMITED
    if family.has_matrix:
        stream.codec_context.color_primaries = _BT709
        stream.codec_context.color_trc = _BT709
        stream.codec_context.colorspace = _BT709


def _pictures(scene: "_Scene", first: int, count: int) -> Iterator[av.VideoFrame]:
    family = scene.family
    picture = av.VideoFrame(family.width, family.height, family.pixel_format)
    for shown in range(count):
        picture.make_writable()  # a new buffer if the encoder still holds the last one
        scene.paint([_pixels(plane, family.dtype) for plane in picture.planes], first + shown)
        picture.pts, picture.time_base = shown, Fraction(1, family.fps)
        yield picture


class _Silence:
    """A track of it, which is fed as the pictures are, so that both lie side by side in the file."""

    _RATE = 16_000
    _SAMPLES = 1024  # of an AAC frame

    def __init__(self, container: OutputContainer) -> None:
        self._container = container
        self._stream = container.add_stream("aac", rate=self._RATE, options={"b": "16k"})
        self._stream.layout = "mono"
        self._written = 0

    def until(self, seconds: float) -> None:
        """Sound up to that time, in whole AAC frames."""
        while self._written + self._SAMPLES <= seconds * self._RATE:
            frame = av.AudioFrame(format="fltp", layout="mono", samples=self._SAMPLES)
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.sample_rate, frame.pts, frame.time_base = self._RATE, self._written, Fraction(1, self._RATE)
            self._container.mux(self._stream.encode(frame))
            self._written += self._SAMPLES

    def end(self) -> None:
        """What the encoder still holds."""
        self._container.mux(self._stream.encode(None))


def _pixels(plane: av.video.plane.VideoPlane, dtype: type[np.integer]) -> _Plane:
    """The plane as an array over its own memory, without the padding at the right."""
    rows = np.frombuffer(cast("memoryview", plane), dtype).reshape(plane.height, -1)
    return rows[:, : plane.width]


# ---- The scene. Lengths are in heights of the picture, (0, 0) is its top left corner. ------------------------------


def _yuv(red: float, green: float, blue: float) -> _Colour:
    """BT.709 (ITU-R BT.709-6, items 3.2 and 3.3)."""
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return luma, (blue - luma) / 1.8556, (red - luma) / 1.5748


_WALLS = tuple(
    _yuv(*rgb)
    for rgb in (
        (0.36, 0.52, 0.66),
        (0.42, 0.58, 0.48),
        (0.62, 0.52, 0.40),
        (0.54, 0.44, 0.60),
        (0.34, 0.56, 0.58),
        (0.64, 0.46, 0.44),
        (0.46, 0.48, 0.64),
        (0.58, 0.58, 0.42),
    )
)
_TABLE_EDGE, _TABLE = _yuv(0.42, 0.29, 0.19), _yuv(0.86, 0.74, 0.58)
_MARK, _TWELVE = _yuv(0.30, 0.22, 0.16), _yuv(0.93, 0.93, 0.90)
_BALLS = (_yuv(0.86, 0.23, 0.16), _yuv(0.10, 0.26, 0.58))
_SHINE, _SHADOW = _yuv(1.0, 0.90, 0.86), _yuv(0.20, 0.13, 0.09)

_MARKS = 12
_PICTURES_A_MARK = 10
_BALL_RADIUS = 0.07
_SOFT = 0.0015  # an edge's width: about a pixel and a half of 1080


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where a plane's pixels stand: a row of x and a column of y."""

    x: _Floats
    y: _Floats

    @classmethod
    def of(cls, height: int, width: int, picture_height: int, border: int = 0) -> "_Grid":
        scale = np.float32(1 / picture_height)
        x = (np.arange(width + 2 * border, dtype=np.float32) + np.float32(0.5 - border)) * scale
        y = (np.arange(height + 2 * border, dtype=np.float32) + np.float32(0.5 - border)) * scale
        return cls(x[None, :], y[:, None])

    def around(self, x: float, y: float, reach: float) -> tuple["_Grid", tuple[slice, slice]]:
        """The part within `reach` of a point, and which rows and columns that is."""
        top, bottom = np.searchsorted(self.y[:, 0], [y - reach, y + reach])
        left, right = np.searchsorted(self.x[0], [x - reach, x + reach])
        return _Grid(self.x[:, left:right], self.y[top:bottom]), (slice(top, bottom), slice(left, right))

    def distance(self, x: float, y: float, flat: float = 1.0) -> _Floats:
        """From a point, where a circle seen aslant is `flat` times as high as wide."""
        across, down = self.x - np.float32(x), (self.y - np.float32(y)) * np.float32(1 / flat)
        squares = across * across + down * down
        return cast("_Floats", np.sqrt(squares, out=squares))  # np.hypot takes over six times as long


class _Scene:
    """What the camera at one place sees. The still part is drawn once; a picture is a copy and the ball."""

    def __init__(self, family: Family, label: str, place: int, session: int) -> None:
        self.family = family
        # The second static camera hangs above the table and the others stand around it; a head looks down at it.
        self._flat = 0.95 if place == 1 else 0.62 + 0.03 * (place % 4)
        self._turn = 2 * pi * place / 8
        aspect = family.width / family.height
        self._centre = (0.64 * aspect, 0.56)  # the number's digits stand at the left
        self._radius = 0.27 * aspect if self._flat < 0.9 else 0.40
        self._wall = _WALLS[place % len(_WALLS)]
        self._ball = _BALLS[session % len(_BALLS)]
        depth = 1 if family.pixel_format.startswith("gray") else 3
        self._still = [self._draw_still(channel) for channel in range(depth)]
        self._grids = [_Grid.of(*self._shape(channel)) for channel in range(depth)]
        self._label = label
        if not family.sway:  # the label is drawn once too (it takes 0.5 ms); numbers will cover this one
            self._stamp(self._still[0], 0)
            self._label = ""

    def paint(self, planes: list[_Plane], number: int) -> None:
        """Draws picture `number` into its planes."""
        if number % self.family.lit_every:
            for channel, plane in enumerate(planes):
                plane[...] = 128 if channel else self.family.black
            self._stamp(planes[0], number)
            return
        sway = self.family.sway
        right, down = round(sway * sin(2 * pi * number / 150)), round(sway * sin(2 * pi * number / 110) / 2)
        mark = number / _PICTURES_A_MARK
        for channel, plane in enumerate(planes):
            top, left = sway + down, sway + right
            plane[...] = self._still[channel][top : top + plane.shape[0], left : left + plane.shape[1]]
            self._draw_ball(plane, channel, mark, right / self.family.height, down / self.family.height)
        self._stamp(planes[0], number)

    def _stamp(self, luma: _Plane, number: int) -> None:
        stamp.draw(luma, number, self._label, black=self.family.black, white=self.family.white)

    def _shape(self, channel: int) -> tuple[int, int, int]:
        halving = 2 if channel else 1  # 4:2:0
        height, width = self.family.height // halving, self.family.width // halving
        return height, width, height

    def _on_dial(self, mark: float, reach: float) -> tuple[float, float]:
        """Where a mark stands that is `reach` radii from the table's centre."""
        angle = 2 * pi * mark / _MARKS + self._turn - pi / 2
        x, y = self._centre
        return x + reach * self._radius * cos(angle), y + reach * self._radius * self._flat * sin(angle)

    def _draw_still(self, channel: int) -> _Plane:
        grid = _Grid.of(*self._shape(channel), border=self.family.sway)
        wall = np.float32(self._wall[channel])
        layer = wall * (np.float32(0.75) + np.float32(0.4) * grid.y) * (np.float32(1.1) - np.float32(0.12) * grid.x)
        away = grid.distance(*self._centre, self._flat)
        _mix(layer, _SHADOW[channel], _within(away, self._radius * 1.1, 0.14) * np.float32(0.55))
        _mix(layer, _TABLE_EDGE[channel], _within(away, self._radius * 1.03, _SOFT))
        grain = np.float32(_TABLE[channel]) * (np.float32(1.04) - np.float32(0.25) * away)
        _mix(layer, grain, _within(away, self._radius, _SOFT))
        for mark in range(_MARKS):
            size, colour = (0.024, _TWELVE) if mark == 0 else (0.013, _MARK)
            at = self._on_dial(mark, 0.9)
            near, place = grid.around(*at, 2 * size)
            _mix(layer[place], colour[channel], _within(near.distance(*at, self._flat), size, _SOFT))
        return self._levels(layer, channel)

    def _draw_ball(self, plane: _Plane, channel: int, mark: float, right: float, down: float) -> None:
        x, y = self._on_dial(mark, 0.62)
        x, y = x - right, y - down
        grid, place = self._grids[channel].around(x, y, 2 * _BALL_RADIUS)
        part = self._unlevels(plane[place], channel)
        shade = _within(grid.distance(x + 0.02, y, self._flat * 0.8), _BALL_RADIUS, 0.03)
        _mix(part, _SHADOW[channel], shade * np.float32(0.6))
        y -= 0.7 * _BALL_RADIUS  # it stands on the table, not in it
        lit = grid.distance(x - 0.3 * _BALL_RADIUS, y - 0.4 * _BALL_RADIUS) / np.float32(_BALL_RADIUS)
        ball = np.float32(self._ball[channel]) * (np.float32(1.15) - np.float32(0.45) * lit)
        _mix(ball, _SHINE[channel], _within(lit, 0.2, 0.5) * np.float32(0.8))
        _mix(part, ball, _within(grid.distance(x, y), _BALL_RADIUS, _SOFT))
        plane[place] = self._levels(part, channel)

    def _levels(self, layer: _Floats, channel: int) -> _Plane:
        start, span = self._range(channel)
        return cast("_Plane", (layer.clip(-0.5, 1) * span + (start + np.float32(0.5))).astype(self.family.dtype))

    def _unlevels(self, plane: _Plane, channel: int) -> _Floats:
        start, span = self._range(channel)
        return (plane.astype(np.float32) - start) / span

    def _range(self, channel: int) -> tuple[np.float32, np.float32]:
        """The level of 0 and how many levels 1 is above it (chroma: 128 and 224, BT.709-6, item 4.6)."""
        if channel:
            return np.float32(128), np.float32(224)
        return np.float32(self.family.black), np.float32(self.family.white - self.family.black)


def _within(away: _Floats, radius: float, soft: float) -> _Floats:
    """1 within the radius, 0 without, and a slope `soft` wide between."""
    slope = (np.float32(radius) - away) * np.float32(1 / soft) + np.float32(0.5)
    return cast("_Floats", np.clip(slope, 0, 1, out=slope))


def _mix(layer: _Floats, colour: "float | _Floats", cover: _Floats) -> None:
    """Lays a colour over a layer in place."""
    layer += (np.asarray(colour, np.float32) - layer) * cover
