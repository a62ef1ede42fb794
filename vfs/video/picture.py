"""A decoded picture, and its way to 8-bit arrays: matrix, range, depth, size and rotation, done once and right.

decode.py makes pictures; encode.py and whoever hands out arrays read them. libav's frame stays in here.

Colour, by what the picture is tagged with: full-range BT.601 planes are what JPEG wants and are used as they are;
limited 601 or untagged goes through swscale to full-range 601; every other matrix (BT.709, 2020, …) goes through RGB.
Monochrome of any depth becomes 8-bit gray by a shift (full range) or a table (limited range).

Any thread may call anything: a picture is guarded by its own lock, since swscale sets fields of its source while it
runs, and each thread has its own reformatter (sharing one deadlocks or crashes).
"""

import threading
from functools import lru_cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

Gray = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.uint8]
Planes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

# Converting 1080p to RGB at 1,500 a second and 45 dB; the accurate flags give 53 dB at 65 a second, and after JPEG
# at quality 90 both differ less from each other than from the picture.
_CONVERT = int(Interpolation.BILINEAR)
_SCALE = int(Interpolation.BICUBIC)
_UNSPECIFIED, _LIMITED, _FULL = 0, 1, 2  # AVColorRange
_SPACES_601 = {2, 5, 6}  # AVColorSpace: unspecified, BT.470BG, SMPTE 170M

_GRAYS = {"gray", "gray9le", "gray10le", "gray12le", "gray14le", "gray16le"}

_threads = threading.local()


class Picture:
    """One displayed picture. `width` and `height` are as displayed."""

    def __init__(
        self, frame: av.VideoFrame, width: int, height: int, rotation: int = 0, mirrored: bool = False
    ) -> None:
        self.width = width
        self.height = height
        self._frame = frame
        self._rotation = rotation
        self._mirrored = mirrored
        self._lock = threading.Lock()
        self.size_bytes = sum(plane.buffer_size for plane in frame.planes)

    @property
    def is_gray(self) -> bool:
        """Whether the picture has no colour at all."""
        return self._frame.format.name in _GRAYS

    def gray(self) -> Gray:
        """(height, width) uint8, full range; of a colour picture its luma."""
        if not self.is_gray:
            red, green, blue = np.moveaxis(self.rgb().astype(np.uint32), 2, 0)
            luma: Gray = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)  # BT.601, 16 bits
            return luma
        frame = self._sized()
        bits = frame.format.components[0].bits
        samples: npt.NDArray[Any] = _plane(frame, 0, np.uint8 if bits == 8 else np.dtype("<u2"))
        if self._frame.color_range == _LIMITED:
            samples = _limited_to_full(bits)[samples]
        elif bits > 8:
            samples = samples >> (bits - 8)
        return np.array(self._turned(samples), dtype=np.uint8, order="C")

    def rgb(self) -> Rgb:
        """(height, width, 3) uint8, full range, contiguous."""
        if self.is_gray:
            return np.repeat(self.gray()[:, :, None], 3, axis=2)
        width, height = self._coded_size()
        out = self._reformat("rgb24", width, height)
        samples = _plane(out, 0, np.uint8, channels=3)
        return np.ascontiguousarray(self._turned(samples.reshape(height, width, 3)))

    def planes(self) -> Planes | None:
        """Y, U and V of 4:2:0 in full-range BT.601, as JPEG has it; None where only RGB gives the right colours."""
        if self.is_gray or self._frame.colorspace not in _SPACES_601 or "yuv" not in self._frame.format.name:
            return None
        if self.width % 2 or self.height % 2:  # TurboJPEG reads planes of even size, past the end of these
            return None
        width, height = self._coded_size()
        frame = self._frame
        full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        ready = full and frame.format.name in ("yuv420p", "yuvj420p")
        if not ready or (frame.width, frame.height) != (width, height):
            frame = self._reformat("yuvj420p", width, height)
        y, u, v = (np.ascontiguousarray(self._turned(_plane(frame, i, np.uint8))) for i in range(3))
        return y, u, v

    def scaled(self, width: int, height: int) -> "Picture":
        """The picture in another size, as displayed."""
        coded = (height, width) if self._rotation % 180 else (width, height)
        out = self._reformat(self._frame.format.name, *coded)
        return Picture(out, width, height, self._rotation, self._mirrored)

    def _coded_size(self) -> tuple[int, int]:
        return (self.height, self.width) if self._rotation % 180 else (self.width, self.height)

    def _sized(self) -> av.VideoFrame:
        """The frame in the video's size: streams may change theirs midway."""
        width, height = self._coded_size()
        if (self._frame.width, self._frame.height) == (width, height):
            return self._frame
        return self._reformat(self._frame.format.name, width, height)

    def _reformat(self, pixels: str, width: int, height: int) -> av.VideoFrame:
        reformatter: VideoReformatter | None = getattr(_threads, "reformatter", None)
        if reformatter is None:
            reformatter = _threads.reformatter = VideoReformatter()
        name = self._frame.format.name
        source = target = _UNSPECIFIED  # only the size changes
        if pixels != name:
            source = self._frame.color_range or (_FULL if name.startswith("yuvj") else _LIMITED)
            target = _FULL
        with self._lock:
            return reformatter.reformat(
                self._frame,
                width,
                height,
                format=pixels,
                src_color_range=source,
                dst_color_range=target,
                interpolation=_CONVERT if (width, height) == (self._frame.width, self._frame.height) else _SCALE,
                threads=1,
            )

    def _turned(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._rotation:
            samples = np.rot90(samples, -self._rotation // 90)
        if self._mirrored:
            samples = samples[:, ::-1]
        return samples


def _plane(frame: av.VideoFrame, number: int, dtype: npt.DTypeLike, channels: int = 1) -> npt.NDArray[Any]:
    """(height, width · channels) of a plane, without its padding; a view of the frame's memory."""
    plane = frame.planes[number]
    rows = np.frombuffer(memoryview(plane), dtype=dtype).reshape(plane.height, -1)
    return rows[:, : plane.width * channels]


@lru_cache
def _limited_to_full(bits: int) -> npt.NDArray[np.uint8]:
    """Gray of this depth with black at 16 and white at 235 (of 255) to 8 bits, rounded (ITU-T H.273, 8.3)."""
    levels = np.arange(1 << bits) / (1 << bits - 8)
    return np.clip(np.rint((levels - 16) * 255 / 219), 0, 255).astype(np.uint8)
