"""The videos that frames are read from: made once in the work folder, and which number each of their frames shows.

There are no moving photographs to be had, so pictures are synthesized: textures whose spectrum falls like that of
photographs, a background that a hand-held camera pans over, an object that moves by itself before it, and a sensor's
noise, drawn anew for each picture. That gives JPEGs and bit rates like those of
real footage. Every picture has its number drawn in (vfs.video.stamp).

Each kind is encoded once, in closed GOPs. Its four videos are the same GOPs, each video beginning at another: they
cost no further encoding, no two are the same file, and a frame of a wrong video shows a wrong number.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vfs.video import stamp

GOP = 250
FRAMES = 1_000
VIDEOS = 4
HOUR_FRAMES = 216_000
HOUR = "hour"
BUCKET = "frames"

_Array = npt.NDArray[Any]

_SEED = 20
# Of the amplitudes over frequency: photographs have 1 to 1.5 (Field 1987). With this one and the noise below a JPEG of
# quality 90 takes 0.24 (1080p) to 0.32 bytes a pixel.
_FALL = 1.3
_NOISE = 1.6  # levels of 255, standard deviation: a phone's sensor in a lit room
_PAN_PERIODS = (210, 167)  # pictures a sway across and down takes
_PAN_REACH = 0.08  # of the height, to each side
_OBJECT_RADIUS = 0.22  # of the height


@dataclass(frozen=True)
class Kind:
    """A kind of video: its name in the report, its size, and how it is encoded."""

    name: str
    about: str
    width: int
    height: int
    rate: int
    pixels: str
    encoder: str
    options: dict[str, str]

    @property
    def videos(self) -> list[str]:
        """Names of its videos, without their suffix."""
        return [f"{self.name}-{video}" for video in range(VIDEOS)]

    @property
    def gray(self) -> bool:
        """Whether it has no colour."""
        return self.pixels.startswith("gray")


_X264 = f"keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0"
KINDS = (
    Kind(
        "1080p",
        "H.264, 1920x1080, 60 fps, 8 Mb/s",
        1920,
        1080,
        60,
        "yuv420p",
        "libx264",
        {"preset": "veryfast", "bf": "3", "b": "8M", "maxrate": "12M", "bufsize": "16M", "x264-params": _X264},
    ),
    Kind(
        "448p",
        "H.264, 796x448, 30 fps, 1 Mb/s",
        796,
        448,
        30,
        "yuv420p",
        "libx264",
        {"preset": "veryfast", "bf": "3", "b": "1M", "maxrate": "2M", "bufsize": "2M", "x264-params": _X264},
    ),
    Kind(
        "mono",
        "HEVC, gray of 10 bits, 640x480, 60 fps, 2 Mb/s",
        640,
        480,
        60,
        "gray10le",
        "libx265",
        {"preset": "superfast", "b": "2M", "x265-params": f"{_X264}:bframes=3:log-level=none:pools=2"},
    ),
)

_TINY = Kind(
    HOUR, "", 128, 96, 60, "yuv420p", "libx264", {"preset": "ultrafast", "bf": "3", "crf": "45", "x264-params": _X264}
)


def key(video: str) -> str:
    """The file of a video, in its folder and in the bucket."""
    return f"{video}.mp4"


def shown(video: str, frame: int) -> int:
    """The number that a frame (from 0, in display order) of the video has drawn in."""
    return (int(video.rpartition("-")[2]) * GOP + frame) % FRAMES


def make(root: Path, kinds: list[Kind]) -> None:
    """The bucket below `root`, with the videos of these kinds and the hour; what is there stays."""
    folder = root / BUCKET
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        if not all((folder / key(video)).exists() for video in kind.videos):
            _make_kind(folder, kind)
    if not (folder / key(HOUR)).exists():
        _finished(folder, HOUR, _hour)


def moov_bytes(path: Path) -> int:
    """The size of a video's moov box (ISO/IEC 14496-12, 4.2)."""
    with path.open("rb") as file:
        while header := file.read(8):
            size, kind = struct.unpack(">I4s", header)
            if kind == b"moov":
                return int(size)
            length = struct.unpack(">Q", file.read(8))[0] - 16 if size == 1 else size - 8
            file.seek(length, os.SEEK_CUR)
    raise ValueError(f"{path.name} has no moov box")


def _make_kind(folder: Path, kind: Kind) -> None:
    first = _finished(folder, kind.videos[0], lambda path: _encode(path, kind))
    for number, video in enumerate(kind.videos[1:], 1):
        _finished(folder, video, lambda path, number=number: _rotate(first, path, number))  # type: ignore[misc]


def _finished(folder: Path, video: str, write: Any) -> Path:
    """A file that is there only when it is whole."""
    draft, path = folder.parent / f"making-{os.getpid()}.mp4", folder / key(video)
    try:
        write(draft)
        shutil.move(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _encode(path: Path, kind: Kind, frames: int = FRAMES) -> None:
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream(kind.encoder, rate=kind.rate, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, kind.pixels
        stream.codec_context.gop_size = GOP
        stream.codec_context.color_range = 1
        stream.codec_context.thread_count = 2  # its bytes follow from the number of threads
        for number, planes in enumerate(_pictures(kind, frames)):
            frame = _frame(kind, planes)
            frame.pts, frame.time_base, frame.color_range = number, Fraction(1, kind.rate), 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _frame(kind: Kind, planes: list[_Array]) -> av.VideoFrame:
    frame = av.VideoFrame(kind.width, kind.height, kind.pixels)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), dtype=samples.dtype).reshape(plane.height, -1)
        rows[:, : samples.shape[1]] = samples
    return frame


def _pictures(kind: Kind, frames: int) -> Iterator[list[_Array]]:
    """The planes of each picture in turn."""
    dice = np.random.default_rng(_SEED)
    scales = [1] if kind.gray else [1, 2, 2]
    layers = [_Layer.made(dice, kind.width // scale, kind.height // scale, chroma=scale > 1) for scale in scales]
    for number in range(frames):
        planes = [layer.picture(dice, number) for layer in layers]
        if kind.gray:
            planes[0] = planes[0].astype(np.uint16) << 2
        black, white = (64, 940) if kind.gray else (16, 235)
        stamp.draw(planes[0], number, kind.name, black=black, white=white)
        yield planes


@dataclass(frozen=True)
class _Layer:
    """A plane's ingredients: the background, the object and its shape, and the noise that pictures are cut from."""

    width: int
    height: int
    background: _Array
    thing: _Array
    shape: _Array
    noise: _Array

    @classmethod
    def made(cls, dice: np.random.Generator, width: int, height: int, chroma: bool) -> "_Layer":
        reach = int(2 * _PAN_REACH * height) + 2
        size = int(2 * _OBJECT_RADIUS * height)
        middle, spread = (128, 9) if chroma else (120, 34)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        noise = dice.normal(0, _NOISE / 2 if chroma else _NOISE, (height + 64, width + 64))
        return cls(
            width,
            height,
            _texture(dice, width + reach, height + reach, middle, spread),
            _texture(dice, size, size, middle + 20, spread),
            x * x + y * y < 1,
            np.rint(noise).astype(np.int16),
        )

    def picture(self, dice: np.random.Generator, number: int) -> _Array:
        """The plane of one picture, uint8."""
        reach = _PAN_REACH * self.height
        across, down = (np.sin(2 * np.pi * number / period) for period in _PAN_PERIODS)
        top, left = round(reach * (1 + down)), round(reach * (1 + across))
        plane = self.background[top : top + self.height, left : left + self.width].copy()
        size = len(self.shape)
        y = round((self.height - size) * (0.5 + 0.4 * np.cos(number / 37)))
        x = round((self.width - size) * (0.5 + 0.4 * np.sin(number / 53)))
        np.copyto(plane[y : y + size, x : x + size], self.thing, where=self.shape)
        dy, dx = dice.integers(0, 64, 2)
        plane += self.noise[dy : dy + self.height, dx : dx + self.width]
        return plane.clip(16, 235).astype(np.uint8)


def _texture(dice: np.random.Generator, width: int, height: int, middle: float, spread: float) -> _Array:
    """Noise with a photograph's spectrum, as levels."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(dice.standard_normal((height, width))) / frequency**_FALL
    levels = np.fft.irfft2(spectrum, (height, width))
    return np.rint(middle + spread * levels / levels.std()).astype(np.int16)


def _rotate(source: Path, path: Path, gops: int) -> None:
    """The same GOPs, the first `gops` of them moved to the end."""
    with av.open(str(source)) as given, av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        video = given.streams.video[0]
        stream = out.add_stream_from_template(video)
        stream.time_base = video.time_base
        packets = [packet for packet in given.demux(video) if packet.size]
        first = gops * GOP
        span = max(packet.pts for packet in packets) + packets[0].duration - min(packet.pts for packet in packets)
        moved = [*packets[first:], *packets[:first]]
        back = packets[first].pts - packets[0].pts
        for place, packet in enumerate(moved):
            shift = -back if place < len(packets) - first else span - back
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
            out.mux(packet)


def _hour(path: Path) -> None:
    """216,000 pictures, one GOP over and over: a table of contents of its full size, and little else.

    moov is at the end, as cameras and ffmpeg write it.
    """
    tiny = path.with_name(f"tiny-{os.getpid()}.mp4")
    try:
        _encode(tiny, _TINY, GOP)
        with av.open(str(tiny)) as given, av.open(str(path), "w") as out:
            video = given.streams.video[0]
            stream = out.add_stream_from_template(video)
            packets = [packet for packet in given.demux(video) if packet.size]
            each = packets[0].duration
            for turn in range(HOUR_FRAMES // GOP):
                for place, given_packet in enumerate(packets):
                    packet = av.Packet(bytes(given_packet))
                    packet.stream, packet.time_base, packet.duration = stream, video.time_base, each
                    packet.pts = given_packet.pts + turn * GOP * each
                    packet.dts = given_packet.dts + turn * GOP * each
                    packet.is_keyframe = not place
                    out.mux(packet)
    finally:
        tiny.unlink(missing_ok=True)
