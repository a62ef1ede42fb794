"""Small videos with their frame numbers drawn in (vfs.video.stamp), in any codec, container and timing.

For tests: a decoder that gives a wrong frame gives a wrong number. Everything is written by libav and then, where no
writer makes what is wanted (a turned picture, a cut, damage), changed in its bytes.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 reads this when it is loaded

import av
import numpy as np
import numpy.typing as npt

from vfs.video import stamp

Array = npt.NDArray[Any]


class MemoryReader:
    """A vfs.video ByteReader over bytes, which counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)
        self.reads: list[tuple[int, int]] = []
        self.before_read: Callable[[int, int], None] = lambda start, length: None

    def read(self, start: int, length: int) -> bytes:
        self.before_read(start, length)
        got = self.data[start : start + length]
        self.reads.append((start, len(got)))
        return got

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def luma(number: int, size: tuple[int, int], *, black: int = 16, white: int = 235, depth: int = 8) -> Array:
    """(height, width) of a moving slope with the number drawn in."""
    width, height = size
    across = np.linspace(0, 3, width)[None, :] + np.linspace(0, 2, height)[:, None] + number / 9
    plane = black + (white - black) * (0.5 + 0.4 * np.sin(across))
    plane = plane.astype(np.uint8 if depth == 8 else np.uint16)
    stamp.draw(plane, number, black=black, white=white)
    return plane


def picture(number: int, size: tuple[int, int], pix_fmt: str, *, full: bool = False) -> av.VideoFrame:
    """A stamped frame: 4:2:0 with a slow drift of colour, or gray of 8, 10 or 12 bits."""
    width, height = size
    if pix_fmt.startswith("gray"):
        depth = int(pix_fmt.removeprefix("gray").removesuffix("le") or 8)
        black, white = (0, (1 << depth) - 1) if full else (16 << depth - 8, 235 << depth - 8)
        plane = luma(number, size, black=black, white=white, depth=depth)
        frame = av.VideoFrame(width, height, pix_fmt)
        _fill(frame, 0, plane)
        return frame
    black, white = (0, 255) if full else (16, 235)
    ten = pix_fmt == "yuv420p10le"
    frame = av.VideoFrame(width, height, pix_fmt)
    plane = luma(number, size, black=black, white=white)
    chroma = np.linspace(90, 160, (width + 1) // 2)[None, :] + np.zeros(((height + 1) // 2, 1)) + number % 8
    for place, samples in enumerate((plane, chroma, 250 - chroma)):
        _fill(frame, place, samples.astype(np.uint16) << 2 if ten else samples.astype(np.uint8))
    return frame


def _fill(frame: av.VideoFrame, place: int, samples: Array) -> None:
    plane = frame.planes[place]
    rows = np.zeros((plane.height, plane.line_size // samples.itemsize), dtype=samples.dtype)
    rows[:, : samples.shape[1]] = samples
    plane.update(rows.tobytes())


def make_clip(
    path: str | Path,
    *,
    codec: str = "libx264",
    frames: int = 48,
    size: tuple[int, int] = (192, 128),
    rate: int | Fraction = 30,
    gop: int = 12,
    bframes: int = 2,
    open_gop: bool = False,
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    full_range: bool = False,
    colorspace: int | None = None,
    audio: bool = False,
    draw: Callable[[int], av.VideoFrame] | None = None,
) -> Path:
    """A clip whose frame n shows n.

    `ticks` are the frames' times in `time_base` (for variable rates and late starts); `colorspace` is libav's
    AVColorSpace (1 for BT.709); `draw` makes the pictures instead of `picture`; `audio` adds a track of silence.
    """
    time_base = time_base or 1 / Fraction(rate)
    options_of_file = container_options or {}
    with _turns_kept(), av.open(str(path), "w", format=container, options=options_of_file) as out:
        stream = out.add_stream(codec, rate=rate, options=_options(codec, gop, bframes, open_gop) | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if full_range:
            stream.codec_context.color_range = 2
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
            stream.codec_context.color_primaries = stream.codec_context.color_trc = colorspace
        sound = out.add_stream("aac", rate=8000) if audio else None
        for number in range(frames):
            frame = draw(number) if draw else picture(number, size, pix_fmt, full=full_range)
            frame.pts = ticks[number] if ticks is not None else number
            frame.time_base = time_base
            frame.color_range = 2 if full_range else 1
            if colorspace is not None:
                frame.colorspace = colorspace
            out.mux(stream.encode(frame))
            if sound is not None and number % 4 == 0:
                out.mux(sound.encode(_silence(number // 4)))
        out.mux(stream.encode(None))
        if sound is not None:
            out.mux(sound.encode(None))
    return Path(path)


@contextmanager
def _turns_kept() -> Iterator[None]:
    """Undoes what SVT-AV1 does for root: the thread that encodes runs under SCHED_FIFO at 99 from then on.

    So would the processes that it starts, and of two such threads on a core one waits for ever while the other spins.
    """
    policy, turn = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, turn)


def _silence(number: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate = 8000
    frame.pts = number * 1024
    frame.time_base = Fraction(1, 8000)
    return frame


def _options(codec: str, gop: int, bframes: int, open_gop: bool) -> dict[str, str]:
    if codec == "libx264":
        extra = f"keyint={gop}:min-keyint={gop}:scenecut=0:b-adapt=0:open-gop={int(open_gop)}"
        return {"preset": "ultrafast", "crf": "20", "bf": str(bframes), "x264-params": extra}
    if codec == "libx265":
        extra = f"keyint={gop}:min-keyint={gop}:scenecut=0:b-adapt=0:bframes={bframes}:open-gop={int(open_gop)}"
        return {"preset": "ultrafast", "crf": "18", "x265-params": extra + ":log-level=none:pools=1"}
    if codec == "libsvtav1":
        return {"preset": "12", "crf": "25", "svtav1-params": "lp=1"}
    if codec == "libvpx-vp9":
        return {"deadline": "good", "cpu-used": "5", "crf": "20", "b": "0", "auto-alt-ref": "1", "lag-in-frames": "12"}
    return {"bf": str(bframes), "qscale": "3", "b": "2000000"}


def box(data: bytes, *names: bytes) -> tuple[int, int]:
    """(start, length) of the content of the first box at this path, in the whole file."""
    start, end = 0, len(data)
    for name in names:
        while True:
            size, kind = struct.unpack_from(">I4s", data, start)
            header = 8
            if size == 1:
                (size,), header = struct.unpack_from(">Q", data, start + 8), 16
            if kind == name:
                start, end = start + header, start + size
                break
            start += size
            if start >= end:
                raise LookupError(name)
    return start, end - start


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes with others at that place."""
    return data[:at] + new + data[at + len(new) :]


def with_edit(data: bytes, media_time: int, duration: int) -> bytes:
    """An MP4 whose edit list's first entry shows another range: from `media_time` in media ticks, for `duration` in
    the movie's ticks."""
    start, _ = box(data, b"moov", b"trak", b"edts", b"elst")
    return patched(data, start + 8, struct.pack(">Ii", duration, media_time))


def replaced(data: bytes, path: Sequence[bytes], kind: bytes, content: bytes) -> bytes:
    """An MP4 (moov at the end) with the box at that path become one of another kind and content."""
    start, length = box(data, *path)
    grown = len(content) - length
    out = data[: start - 4] + kind + content + data[start + length :]
    for depth in range(1, len(path) + 1):
        at = box(data, *path[:depth])[0] - 8
        out = patched(out, at, struct.pack(">I", struct.unpack_from(">I", data, at)[0] + grown))
    return out


def with_edits(data: bytes, edits: Iterable[tuple[int, int]]) -> bytes:
    """An MP4 (moov at the end) with this edit list of (duration, media_time), in place of the one it has."""
    rows = [struct.pack(">IiI", duration, media_time, 1 << 16) for duration, media_time in edits]
    content = struct.pack(">II", 0, len(rows)) + b"".join(rows)
    return replaced(data, (b"moov", b"trak", b"edts", b"elst"), b"elst", content)


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 with (a, b, c, d) of its first track's display matrix set; (0, 1, -1, 0) turns right by 90°."""
    start, _ = box(data, b"moov", b"trak", b"tkhd")
    a, b, c, d = (value << 16 for value in matrix)
    return patched(data, start + 40, struct.pack(">iiiii", a, b, 0, c, d))
