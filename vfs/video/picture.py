"""A decoded picture, and its way to arrays: matrix, range, depth, size and rotation, done once and right.

decode.py makes pictures; encode.py and whoever hands out arrays read them. libav's frame stays in here.

Colour, by what the picture is tagged with (untagged is BT.601, of limited range, unless the caller knows better):
full-range BT.601 planes are what JPEG wants and are used as they are; limited ones are spread here; every other
matrix (BT.709, 2020, …) goes through RGB. Gray of unspecified range is full. Measured on one thread: ms a 1080p frame,
converting + JPEG at quality 90, and PSNR of that JPEG against the RGB that the picture was made from (smooth, with
noise); what is done is the first line of limited 601 and the fourth of 709:

| 8-bit 4:2:0                                             | limited 601     | limited 709     | full 709        |
|---------------------------------------------------------|-----------------|-----------------|-----------------|
| planes spread here                                      | 1.3 + 3.3, 42.4 |                 |                 |
| planes by swscale                                       | 1.7 + 3.3, 41.9 | 4.3 + 3.3, 39.9 | 4.2 + 3.3, 40.9 |
| RGB, fast                                               | 0.6 + 4.2, 40.8 | 0.6 + 4.2, 40.9 | 0.6 + 4.2, 41.8 |
| RGB, fast, and what it rounds down mended               |                 | 1.2 + 4.2, 42.1 | 1.2 + 4.2, 42.1 |
| RGB, with swscale's accurate flags                      | 7.4 + 4.2, 42.4 | 7.7 + 4.2, 42.4 | 7.6 + 4.2, 42.4 |

Traps of swscale: its fast way for 8-bit 4:2:0 and 4:2:2 of even height is 1.1 levels too dark; without
FULL_CHR_H_INT deeper video is 1.9 levels too dark (39.5 dB); with it, rgb48le of 4:2:0 is garbage, so that 16-bit
colour is made in planes (gbrp16le). It gives 4:2:0 chroma half a level less than it should in full range.

Any thread may call anything: a picture is guarded by its own lock, since swscale sets fields of its source while it
runs, and each thread has its own reformatter (sharing one deadlocks or crashes), of one thread.
"""

import threading
from functools import lru_cache
from math import ceil
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

Gray = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.uint8]
Deep = npt.NDArray[np.uint16]
Planes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_CONVERT = int(Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT)
# Bicubic widens its kernel when it makes a picture smaller: 57 to 61 dB to Pillow's, which does too, from 1.3 times
# as large to an eighth (1 to 2 ms of 1080p). Rounding accurately costs nothing where it becomes smaller.
_SCALE = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
_UNSPECIFIED, _LIMITED, _FULL = 0, 1, 2  # AVColorRange
_UNTAGGED = 2  # AVColorSpace
_SPACES_601 = {_UNTAGGED, 5, 6}  # and BT.470BG, SMPTE 170M

_GRAYS = {"gray", "gray9le", "gray10le", "gray12le", "gray14le", "gray16le"}
_HAS_FAST_WAY = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"}

# Samples worked on at once: with their 16-bit products they fit a core's second-level cache.
_BLOCK_SAMPLES = 1 << 18

_threads = threading.local()


class Picture:
    """One displayed picture. `width` and `height` are as displayed."""

    def __init__(
        self,
        frame: av.VideoFrame,
        width: int,
        height: int,
        rotation: int = 0,
        mirrored: bool = False,
        *,
        colorspace: int = _UNTAGGED,
        color_range: int = _UNSPECIFIED,
    ) -> None:
        """`colorspace` and `color_range` (AVColorSpace, AVColorRange) stand in where the frame itself says none."""
        self.width = width
        self.height = height
        self._frame = frame
        self._rotation = rotation
        self._mirrored = mirrored
        name = frame.format.name
        self._space = colorspace if frame.colorspace == _UNTAGGED else int(frame.colorspace)
        full_by_name = name.startswith("yuvj") or frame.format.is_rgb
        self._range = _FULL if full_by_name else int(frame.color_range) or color_range
        self._lock = threading.Lock()
        self.is_gray = name in _GRAYS
        """Whether the picture has no colour at all."""
        self.depth: int = frame.format.components[0].bits
        """Bits a sample, as coded."""
        self.size_bytes = sum(plane.buffer_size for plane in frame.planes)

    def gray(self) -> Gray:
        """(height, width) uint8, full range; of a colour picture its luma."""
        if not self.is_gray:
            return _luma(self.rgb()).astype(np.uint8)
        samples = self._coded()
        if self._range == _LIMITED:
            samples = _limited_to_full(self.depth, 8).take(samples)
        elif self.depth > 8:
            samples = samples >> (self.depth - 8)
        return np.array(self._turned(samples), dtype=np.uint8, order="C")

    def deep_gray(self) -> Deep:
        """(height, width) uint16, full range from 0 to 65535; of a colour picture its luma."""
        if not self.is_gray:
            return _luma(self.deep_rgb()).astype(np.uint16)
        table = _limited_to_full(self.depth, 16) if self._range == _LIMITED else _full_to_full(self.depth)
        return np.ascontiguousarray(self._turned(table.take(self._coded())))

    def coded_gray(self, depth: int) -> Deep:
        """(height, width) uint16 samples as coded, of `depth` bits; where the picture has another depth, shifted."""
        if not self.is_gray:
            return np.right_shift(self.deep_gray(), 16 - depth, dtype=np.uint16)
        samples: Deep = self._turned(self._coded()).astype(np.uint16, order="C")
        np.left_shift(samples, max(0, depth - self.depth), out=samples)
        return np.right_shift(samples, max(0, self.depth - depth), out=samples)

    def rgb(self) -> Rgb:
        """(height, width, 3) uint8, full range, contiguous."""
        if self.is_gray:
            return np.repeat(self.gray()[:, :, None], 3, axis=2)
        width, height = self._coded_size()
        name = self._frame.format.name
        out = self._reformat("rgb24", width, height)
        samples = _plane(out, 0, np.uint8, channels=3)
        unscaled = (self._frame.width, self._frame.height) == (width, height)
        if name in _HAS_FAST_WAY and unscaled and height % 2 == 0 and _rounds_down(name):
            _mend(samples)
        return np.ascontiguousarray(self._turned(samples.reshape(height, width, 3)))

    def deep_rgb(self) -> Deep:
        """(height, width, 3) uint16, full range from 0 to 65535, contiguous."""
        if self.is_gray:
            return np.repeat(self.deep_gray()[:, :, None], 3, axis=2)
        out = self._reformat("gbrp16le", *self._coded_size())
        green, blue, red = (_plane(out, i, np.dtype("<u2")) for i in range(3))
        samples = np.stack([red, green, blue], axis=2)
        # White comes out as 255 · 256 of limited range, as its own value with zeros behind of full range.
        bits = 8 if self._range != _FULL else min(self.depth, 15)
        np.minimum(samples, 65536 - (65536 >> bits), out=samples)
        samples += samples >> bits
        return np.ascontiguousarray(self._turned(samples))

    def planes(self) -> Planes | None:
        """Y, U and V of 4:2:0 in full-range BT.601, as JPEG has it; None where only RGB gives the right colours."""
        if self.is_gray or self._space not in _SPACES_601 or "yuv" not in self._frame.format.name:
            return None
        if self.width % 2 or self.height % 2:  # TurboJPEG reads planes of even size, past the end of these
            return None
        frame, size = self._frame, self._coded_size()
        if frame.format.name not in ("yuv420p", "yuvj420p") or (frame.width, frame.height) != size:
            frame = self._reformat("yuvj420p" if self._range == _FULL else "yuv420p", *size, keeps_range=True)
        y, u, v = (_plane(frame, i, np.uint8) for i in range(3))
        if self._range != _FULL:
            y, u, v = _spread(y, *_LUMA), _spread(u, *_CHROMA), _spread(v, *_CHROMA)
        return self._flat(y), self._flat(u), self._flat(v)

    def yuv420(self) -> av.VideoFrame:
        """The picture as displayed for an encoder of 8-bit 4:2:0, in its own range and matrix. An odd column or row at
        the end is left out. Without a time and a type; it may be this picture's own frame: one caller at a time."""
        size = max(2, self.width & ~1), max(2, self.height & ~1)
        if size != (self.width, self.height):
            return self.scaled(*size, crop=True).yuv420()
        pixels = "yuvj420p" if self._range == _FULL else "yuv420p"
        frame, size = self._frame, self._coded_size()
        if frame.format.name != pixels or (frame.width, frame.height) != size:
            frame = self._reformat(pixels, *size, keeps_range=True)
        if self._rotation or self._mirrored:
            out = av.VideoFrame(self.width, self.height, pixels)
            for number, plane in enumerate(out.planes):
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : plane.width] = self._turned(_plane(frame, number, np.uint8))
                plane.update(rows.tobytes())
            frame = out
        frame.colorspace, frame.color_range = self._space, self._range
        frame.pict_type = 0
        return frame

    def scaled(self, width: int, height: int, crop: bool = False) -> "Picture":
        """The picture in another size, as displayed; with `crop` its shape is kept, and what then is over is cut off
        evenly (to whole samples of chroma)."""
        turned = bool(self._rotation % 180)
        target = (height, width) if turned else (width, height)
        cover = target
        if crop:
            factor = max(width / self.width, height / self.height)
            wide, high = (max(1, round(side * factor)) for side in self._coded_size())
            cover = max(target[0], wide), max(target[1], high)
        simple = self.is_gray or len(self._frame.planes) >= 3
        out = self._reformat(self._frame.format.name if simple else "rgb24", *cover)
        if cover != target:
            out = _cut(out, *target)
        return Picture(
            out, width, height, self._rotation, self._mirrored, colorspace=self._space, color_range=self._range
        )

    def _coded(self) -> npt.NDArray[Any]:
        """Samples of a gray picture, not turned, in the video's size: streams may change theirs midway."""
        frame, size = self._frame, self._coded_size()
        if (frame.width, frame.height) != size:
            frame = self._reformat(frame.format.name, *size)
        return _plane(frame, 0, np.uint8 if self.depth == 8 else np.dtype("<u2"))

    def _coded_size(self) -> tuple[int, int]:
        return (self.height, self.width) if self._rotation % 180 else (self.width, self.height)

    def _reformat(self, pixels: str, width: int, height: int, keeps_range: bool = False) -> av.VideoFrame:
        reformatter: VideoReformatter | None = getattr(_threads, "reformatter", None)
        if reformatter is None:
            reformatter = _threads.reformatter = VideoReformatter()
        source = target = _UNSPECIFIED  # only the size changes
        if pixels != self._frame.format.name:
            source = self._range or _LIMITED
            target = source if keeps_range else _FULL
        with self._lock:
            return reformatter.reformat(
                self._frame,
                width,
                height,
                format=pixels,
                src_colorspace=self._space,
                dst_colorspace=self._space,
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

    def _flat(self, samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(self._turned(samples))


def _plane(frame: av.VideoFrame, number: int, dtype: npt.DTypeLike, channels: int = 1) -> npt.NDArray[Any]:
    """(height, width · channels) of a plane, without its padding; a view of the frame's memory."""
    plane = frame.planes[number]
    rows = np.frombuffer(memoryview(plane), dtype=dtype).reshape(plane.height, -1)
    return rows[:, : plane.width * channels]


def _cut(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The middle of a frame that is gray, in planes or rgb24, from a whole sample of chroma on."""
    out = av.VideoFrame(width, height, frame.format.name)
    out.colorspace, out.color_range = frame.colorspace, frame.color_range
    each = 3 if frame.format.name == "rgb24" else (frame.format.components[0].bits + 7) // 8
    # How many of the picture's samples one of each plane covers.
    covers = [(ceil(frame.width / plane.width), ceil(frame.height / plane.height)) for plane in frame.planes]
    left, top = (frame.width - width) // 2, (frame.height - height) // 2
    left, top = left - left % max(covers)[0], top - top % max(down for _, down in covers)
    for source, target, (across, down) in zip(frame.planes, out.planes, covers, strict=True):
        x, y = left // across, top // down
        rows = np.frombuffer(memoryview(source), np.uint8).reshape(source.height, -1)
        into = np.zeros((target.height, target.line_size), np.uint8)
        into[:, : target.width * each] = rows[y : y + target.height, x * each : (x + target.width) * each]
        target.update(into.tobytes())
    return out


def _luma(rgb: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Y of BT.601 in 16 bits after the point; no sum of 16-bit samples passes 32 bits."""
    red, green, blue = np.moveaxis(rgb.astype(np.uint32), 2, 0)
    luma: npt.NDArray[np.uint32] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma


@lru_cache
def _limited_to_full(bits: int, to_bits: int) -> npt.NDArray[Any]:
    """Gray of this depth with black at 16 and white at 235 (of 255) to 8 or 16 bits, rounded (ITU-T H.273, 8.3)."""
    levels = np.arange(1 << bits) / (1 << bits - 8)
    top = (1 << to_bits) - 1
    return np.clip(np.rint((levels - 16) * top / 219), 0, top).astype(np.uint8 if to_bits == 8 else np.uint16)


@lru_cache
def _full_to_full(bits: int) -> Deep:
    """Gray of this depth to 16 bits, white to white."""
    return np.rint(np.arange(1 << bits) * 65535 / ((1 << bits) - 1)).astype(np.uint16)


# Lowest and highest level, factor and offset in 8 bits after the point, of limited to full range. At most one level
# from ITU-T H.273's rounded values, and for 6 of luma's 220 levels and 21 of chroma's 225.
_LUMA = (16, 235, 298, 65536 - 4636)
_CHROMA = (16, 240, 291, 65536 - 4352)


def _spread(plane: npt.NDArray[np.uint8], low: int, high: int, factor: int, offset: int) -> npt.NDArray[np.uint8]:
    """A plane of limited range in full range. The sums are modulo 2^16, and their high bytes the result."""
    height, width = plane.shape
    out = np.empty((height, width), np.uint8)
    step = max(1, _BLOCK_SAMPLES // width)
    levels, sums = np.empty((step, width), np.uint8), np.empty((step, width), np.dtype("<u2"))
    for top in range(0, height, step):
        rows = plane[top : top + step]
        level, total = levels[: len(rows)], sums[: len(rows)]
        np.clip(rows, low, high, out=level)
        np.multiply(level, factor, out=total, dtype=np.uint16)
        np.add(total, offset, out=total)
        out[top : top + step] = total.view(np.uint8)[:, 1::2]
    return out


@lru_cache
def _rounds_down(pixels: str) -> bool:
    """Whether swscale's fast way from this format to RGB is too dark in this build: x86's is, by 1.1 levels."""
    width, height = 128, 64
    frame = av.VideoFrame(width, height, pixels)
    down = 2 if "420" in pixels else 1
    luma = np.arange(64, 64 + width)[None, :] + np.zeros((height, 1))
    tint = np.arange(-16, 16).repeat(2 // down)[:, None] + np.zeros((1, width // 2))
    full = pixels.startswith("yuvj")
    for plane, samples in zip(frame.planes, (luma, 128 + tint, 128 - tint), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = samples
        plane.update(rows.tobytes())
    got = _plane(Picture(frame, width, height)._reformat("rgb24", width, height), 0, np.uint8, 3)
    # Both chromas cancel in the mean of red, green and blue but for their weights of BT.601.
    y = luma if full else (luma - 16) * 255 / 219
    cb, cr = (c.repeat(down, 0).repeat(2, 1) * (1 if full else 255 / 224) for c in (tint, -tint))
    mean = (3 * y + 1.402 * cr + 1.772 * cb - 0.344136 * cb - 0.714136 * cr).mean() / 3
    return bool(got.mean() - mean < -0.5)


def _mend(samples: npt.NDArray[np.uint8]) -> None:
    """Adds one to all samples in place, but to black and white, which are right."""
    step = max(1, _BLOCK_SAMPLES // samples.shape[1])
    room = np.empty((step, samples.shape[1]), np.uint8)
    for top in range(0, len(samples), step):
        rows = samples[top : top + step]
        less = np.subtract(rows, 1, out=room[: len(rows)])  # black becomes 255
        np.add(rows, np.less(less, 254).view(np.uint8), out=rows)
