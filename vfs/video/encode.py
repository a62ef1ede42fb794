"""JPEG files of one constant length.

Called by whoever serves frames as files. `stat` must tell a file's size before the frame is decoded, and programs
believe it: so every JPEG of a video is padded with zeros, after its end-of-image marker, to a length that follows
from the picture's size alone. Every decoder tried ignores them. Pure functions: any thread may call them.
"""

import math
from collections.abc import Callable

import simplejpeg

from vfs.errors import UndecodableVideo
from vfs.video.picture import Picture

_BLOCK = 4096
"""Sizes are whole pages, the unit of the kernel's cache and of disks."""

# Bytes a pixel at a quality up to the first number. 0.6 is measured: the largest frame of natural video took 0.45 at
# quality 90. The others stand to it as the sizes of one picture with a camera's noise do, 1 to 1.9 to 4.9.
_BYTES_A_PIXEL = ((90, 0.6), (95, 1.2), (100, 3.0))

_LESS = 10
"""Quality to go down by where a frame does not fit. White noise takes 0.4 bytes a pixel at 50, 0.05 at 1."""


def jpeg_size_bytes(width: int, height: int, quality: int = 90) -> int:
    """How long every JPEG of pictures of this size is."""
    each = next(size for limit, size in _BYTES_A_PIXEL if quality <= limit)
    return max(1, math.ceil(width * height * each / _BLOCK)) * _BLOCK


def encode_jpeg(picture: Picture, quality: int = 90) -> bytes:
    """The picture as JPEG 4:2:0 (or gray), `jpeg_size_bytes` long; of lower quality where that does not fit.

    Equal pictures give equal bytes. Raises UndecodableVideo where no quality fits.
    """
    size = jpeg_size_bytes(picture.width, picture.height, quality)
    encode = _encoder(picture)
    for attempt in [*range(quality, 0, -_LESS), 1]:
        jpeg = encode(attempt)
        if len(jpeg) <= size:
            return jpeg.ljust(size, b"\0")
    raise UndecodableVideo(f"a picture of {picture.width}x{picture.height} does not fit {size} bytes of JPEG")


def _encoder(picture: Picture) -> Callable[[int], bytes]:
    """Quality to JPEG, with the picture converted once."""
    if picture.is_gray:
        gray = picture.gray()[:, :, None]
        return lambda quality: bytes(
            simplejpeg.encode_jpeg(gray, quality=quality, colorspace="GRAY", colorsubsampling="Gray")
        )
    planes = picture.planes()
    if planes is not None:
        y, u, v = planes
        return lambda quality: bytes(simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality=quality))
    rgb = picture.rgb()
    return lambda quality: bytes(simplejpeg.encode_jpeg(rgb, quality=quality, colorspace="RGB", colorsubsampling="420"))
