"""Pictures as bytes of files: JPEG, PNG, PPM and npy.

Called by whoever serves frames as files; form.py says how long each file is, and what stands before and behind the
bytes that are made here. Equal pictures and forms give equal bytes, in every thread and every run: no time, no
metadata, no compression whose library might choose otherwise. Pure functions: any thread may call them.

Measured on one thread, as ms a frame, converting included:

| of             | jpg, limited 601 | jpg, full 601 | jpg, 709  | png | npy, ppm |
|----------------|------------------|---------------|-----------|-----|----------|
| 1920x1080      | 1.25 + 2.7       | 2.7           | 1.2 + 3.5 | 6.0 | 1.1      |
| 796x448        | 0.23 + 0.44      | 0.44          | 0.3 + 0.6 | 0.9 | 0.3      |
| 640x480 gray10 | 0.2 + 0.35       | 0.37          |           | 0.7 | 0.04 npy |

The samples of a 1080p PNG take 5 ms stored, as they are here; 20 with zlib's fastest strategy, 22 with PyAV's encoder,
52 with OpenCV's.
"""

import zlib
from collections.abc import Callable
from math import ceil

import numpy as np
import numpy.typing as npt
import simplejpeg

from vfs.errors import UndecodableVideo
from vfs.extent import Buffer
from vfs.video.form import QUALITY, STORED_BYTES, STORED_HEADER_BYTES, Form, jpeg_size_bytes
from vfs.video.picture import Picture

__all__ = ["encode", "encode_jpeg", "jpeg_size_bytes"]

_LESS = 10
"""Quality to go down by where a frame does not fit. White noise takes 0.4 bytes a pixel at 50, 0.05 at 1."""


def encode(picture: Picture, form: Form) -> Buffer:
    """The picture in this form, resized to it: what stands between the form's header and the zeros at the end.

    Never longer than `form.room_bytes`; shorter only as JPEG, whose quality is lowered where it does not fit. Raises
    UndecodableVideo where no quality fits.
    """
    if (picture.width, picture.height) != (form.width, form.height):
        picture = picture.scaled(form.width, form.height, crop=form.crop)
    if form.format == "jpg":
        return _jpeg(picture, form.quality, form.room_bytes, form.monochrome)
    if form.format == "ppm":
        return _bytes_of(picture.rgb())
    if form.format == "npy":
        return _bytes_of(_samples(picture, form, coded=True))
    return _png(_samples(picture, form, coded=False))


def encode_jpeg(picture: Picture, quality: int = QUALITY) -> bytes:
    """The picture as JPEG 4:2:0 (or gray), `jpeg_size_bytes` long; of lower quality where that does not fit.

    Equal pictures give equal bytes. Raises UndecodableVideo where no quality fits.
    """
    size = jpeg_size_bytes(picture.width, picture.height, quality)
    return _jpeg(picture, quality, size).ljust(size, b"\0")


def _jpeg(picture: Picture, quality: int, room_bytes: int, monochrome: bool = False) -> bytes:
    to_jpeg = _jpeg_encoder(picture, monochrome)
    for attempt in [*range(quality, 0, -_LESS), 1]:
        jpeg = to_jpeg(attempt)
        if len(jpeg) <= room_bytes:
            return jpeg
    raise UndecodableVideo(f"a picture of {picture.width}x{picture.height} does not fit {room_bytes} bytes of JPEG")


def _jpeg_encoder(picture: Picture, monochrome: bool) -> Callable[[int], bytes]:
    """Quality to JPEG, with the picture converted once."""
    if picture.is_gray or monochrome:
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


def _samples(picture: Picture, form: Form, coded: bool) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """(height, width) or (height, width, 3) in the form's sample size; `coded` leaves deep gray in its own depth."""
    deep = form.sample_bytes == 2
    if form.channels == 3:
        return picture.deep_rgb() if deep else picture.rgb()
    if not deep:
        return picture.gray()
    return picture.coded_gray(form.depth) if coded else picture.deep_gray()


def _bytes_of(samples: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> memoryview:
    """Little-endian, without a copy where the machine is."""
    little = samples.astype(samples.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _png(samples: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> memoryview:
    """A PNG whose length follows from its size: stored blocks of unfiltered scanlines (PNG, 5 and 9).

    Shape (height, width) becomes gray, (height, width, 3) RGB, and uint16 16 bits a sample.
    """
    height, width = samples.shape[:2]
    rows = samples.astype(samples.dtype.newbyteorder(">"), copy=False).reshape(height, -1).view(np.uint8)
    scanlines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    scanlines[:, 0] = 0  # no filter
    scanlines[:, 1:] = rows
    kind = bytes([8 * samples.itemsize, 2 if samples.ndim == 3 else 0, 0, 0, 0])
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + kind)
    end = _chunk(b"IEND", b"")
    length = _stored_bytes(scanlines.size)
    out = np.empty(len(start) + 8 + length + 4 + len(end), np.uint8)
    data = out[len(start) + 8 :][:length]
    _store(scanlines.reshape(-1), data)
    checksum = zlib.crc32(data.data, zlib.crc32(b"IDAT"))
    out[: len(start) + 8] = _array(start + length.to_bytes(4, "big") + b"IDAT")
    out[len(start) + 8 + length :] = _array(checksum.to_bytes(4, "big") + end)
    return out.data


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def _stored_bytes(length: int) -> int:
    """Of a zlib stream of stored blocks: its header, those of the blocks, the bytes and their checksum."""
    return 2 + ceil(length / STORED_BYTES) * STORED_HEADER_BYTES + length + 4


def _store(data: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """Writes a zlib stream of stored blocks (RFC 1950, 2.2; RFC 1951, 3.2.4)."""
    whole = (len(data) - 1) // STORED_BYTES  # the last block holds 1 to STORED_BYTES
    block, first = STORED_HEADER_BYTES + STORED_BYTES, whole * STORED_BYTES
    out[:2] = 0x78, 0x01  # deflate with a window of 32 KiB, fastest level
    blocks = out[2 : 2 + whole * block].reshape(whole, block)
    blocks[:, :STORED_HEADER_BYTES] = _block_header(STORED_BYTES, last=False)
    blocks[:, STORED_HEADER_BYTES:] = data[:first].reshape(whole, STORED_BYTES)
    end = out[2 + whole * block :]
    end[:STORED_HEADER_BYTES] = _block_header(len(data) - first, last=True)
    end[STORED_HEADER_BYTES:-4] = data[first:]
    end[-4:] = _array(zlib.adler32(data.data).to_bytes(4, "big"))


def _block_header(length: int, last: bool) -> npt.NDArray[np.uint8]:
    """BFINAL and BTYPE, LEN and its complement NLEN."""
    return _array(bytes([last]) + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little"))


def _array(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
