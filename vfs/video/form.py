"""What a frame is delivered as: file format and size, and with that every byte count that `stat` tells.

Called by whoever lists and serves frames, and by encode.py, which makes the bytes. `stat` must be right before
anything is decoded, and programs believe it, so every size here follows from the form alone. It knows no codec and
imports none: a listing must not wait for them. Pure data and functions: any thread may use them.

A file is `header`, then what `encode` gives, then zeros up to `size_bytes`:

| format | samples                                                    | header       | encoded part            |
|--------|------------------------------------------------------------|--------------|-------------------------|
| jpg    | 8-bit 4:2:0, or gray                                       | none         | at most `room_bytes`    |
| png    | RGB or gray, of 16 bits where the video has more than 8    | none         | `room_bytes`, exactly   |
| ppm    | 8-bit RGB (P6); of monochrome video too, as its name says  | P6, size     | `room_bytes`, exactly   |
| npy    | 8-bit RGB; monochrome: 8-bit, or the samples as coded      | npy 1.0      | `room_bytes`, exactly   |

JPEG is padded: its decoders stop at the end-of-image marker. PNG is not: of zeros after IEND ffmpeg makes a second
picture, which is damaged, and pngcheck an error. Its length follows from its size because it is stored and not
deflated: with room for every picture the file would be as long anyway, and storing takes a quarter of the time.
"""

import math
from dataclasses import dataclass

FORMATS = ("jpg", "png", "ppm", "npy")

QUALITY = 90
"""Of JPEG where nothing else is asked for."""

_BLOCK = 4096
"""Sizes of JPEG are whole pages, the unit of the kernel's cache and of disks."""

# Bytes a pixel at a quality up to the first number. 0.6 is measured: the largest frame of natural video took 0.45 at
# quality 90. The others stand to it as the sizes of one picture with a camera's noise do, 1 to 1.9 to 4.9.
_BYTES_A_PIXEL = ((90, 0.6), (95, 1.2), (100, 3.0))

STORED_BYTES = 65535
"""Of a stored block of deflate, at most (RFC 1951, 3.2.4)."""

STORED_HEADER_BYTES = 5

# Signature 8, IHDR 25, IDAT 12, zlib's own header and checksum 6, IEND 12 (PNG, 5.3 and 11.2; RFC 1950, 2.2).
_PNG_FRAME_BYTES = 8 + 25 + 12 + 6 + 12

_NPY_BYTES = 128
"""Of npy's header: holds the longest shape there can be, and the samples begin at a multiple of 64, as np.save has
them and as memory maps like them."""

MAX_CLIP_FRAMES = 10**9


@dataclass(frozen=True, slots=True)
class Form:
    """How a picture is delivered: its file format and its size."""

    format: str
    """One of FORMATS."""
    width: int
    """Of what is delivered."""
    height: int
    quality: int = QUALITY
    """Of JPEG."""
    crop: bool = False
    """Fill width x height and cut off evenly what is over; else the picture is resized to it."""
    monochrome: bool = False
    """Whether the video has no colour at all."""
    depth: int = 8
    """Bits a sample of the video, as coded."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no form."""
        if self.format not in FORMATS or min(self.width, self.height) < 1 or not 8 <= self.depth <= 16:
            raise ValueError(f"no form of a picture: {self}")

    @property
    def channels(self) -> int:
        """Samples a pixel, but of JPEG."""
        return 1 if self.monochrome and self.format != "ppm" else 3

    @property
    def sample_bytes(self) -> int:
        """Bytes a sample, but of JPEG: npy gives colour in 8 bits, as those who train want it."""
        deep = self.format == "png" or (self.format == "npy" and self.monochrome)
        return 2 if deep and self.depth > 8 else 1

    @property
    def header(self) -> bytes:
        """What stands before the encoded part."""
        if self.format == "ppm":
            return f"P6\n{self.width} {self.height}\n255\n".encode()
        return _npy_header(self, ()) if self.format == "npy" else b""

    @property
    def room_bytes(self) -> int:
        """Bytes after the header, whatever the picture shows."""
        if self.format == "jpg":
            return jpeg_size_bytes(self.width, self.height, self.quality)
        row = self.width * self.channels * self.sample_bytes
        if self.format != "png":
            return row * self.height
        scanlines = (1 + row) * self.height
        return _PNG_FRAME_BYTES + scanlines + STORED_HEADER_BYTES * math.ceil(scanlines / STORED_BYTES)

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return len(self.header) + self.room_bytes

    @property
    def is_kept(self) -> bool:
        """Whether its files are worth a place on disk: raw samples cost more to keep than to make again."""
        return self.format in ("jpg", "png")

    @property
    def key(self) -> str:
        """Equal for equal forms, and only for them; for the names of what is kept."""
        crop, gray = "c" if self.crop else "", "g" if self.monochrome else ""
        return f"{self.format}{self.quality}-{self.width}x{self.height}{crop}-{gray}{self.depth}"


def jpeg_size_bytes(width: int, height: int, quality: int = QUALITY) -> int:
    """How long every JPEG of pictures of this size is."""
    each = next(size for limit, size in _BYTES_A_PIXEL if quality <= limit)
    return max(1, math.ceil(width * height * each / _BLOCK)) * _BLOCK


def clip_header(form: Form, count: int) -> bytes:
    """What an array of `count` pictures of an npy form begins with, of one length for every count.

    Its shape is (count, height, width, 3), or (count, height, width) of monochrome video. The samples of picture k
    stand at len(header) + k * form.room_bytes and are `form.room_bytes` long. Raises ValueError for another form and
    for a count that is not in 1..MAX_CLIP_FRAMES.
    """
    if form.format != "npy" or not 1 <= count <= MAX_CLIP_FRAMES:
        raise ValueError(f"no clip of {count} pictures of {form.format}")
    return _npy_header(form, (count,))


def clip_size_bytes(form: Form, count: int) -> int:
    """The size of a clip's file."""
    return len(clip_header(form, count)) + count * form.room_bytes


def _npy_header(form: Form, first: tuple[int, ...]) -> bytes:
    """Magic, version 1.0, length, and a Python dict padded with spaces (numpy.lib.format)."""
    shape = (*first, form.height, form.width) + ((3,) if form.channels == 3 else ())
    kind = "<u2" if form.sample_bytes == 2 else "|u1"
    said = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (_NPY_BYTES - 10).to_bytes(2, "little") + f"{said:<{_NPY_BYTES - 11}}\n".encode()
