"""What the name of a frames directory asks for, and in which form its pictures then come.

    frames                                     the dataset's own rate and size, as JPEG
    frames@fps=30,format=png,short=256         the same with what is asked for, in any order

| key     | values                        | meaning                                                            |
|---------|-------------------------------|--------------------------------------------------------------------|
| fps     | up to 9999.999; 0 or native   | frames a second; 0 and native: every frame, in the video's size    |
| format  | jpg (or jpeg), png, ppm, npy  | of each file                                                       |
| quality | 1 to 100                      | of JPEG; 90 where none is said                                     |
| short   | 1 to 16384                    | pixels of the shorter side; the other keeps the shape              |
| width   | 1 to 16384                    | pixels; alone, the height keeps the shape, with height, both are so |
| height  | 1 to 16384                    | likewise                                                           |
| crop    | center                        | with width and height: filled and cut off evenly; with short: square |

Called by frames.py. Pure: it opens no video and imports no codec. Any thread may call it.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

from vfs.errors import NotFound
from vfs.video.form import FORMATS, QUALITY, Form

log = logging.getLogger(__name__)

NAME = "frames"

MAX_SIDE = 16384
"""Of a picture, in pixels, and of all of it; the bounds of videos that are read, so that every one fits unscaled."""

MAX_PIXELS = 1 << 26

_KEYS = (
    f"fps=N (frames a second, 0 or native for all), format={'|'.join(FORMATS)}, quality=1..100 (of jpg), "
    f"short=PIXELS or width=PIXELS and height=PIXELS (up to {MAX_SIDE}), crop=center (with short, or width and height)"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the name of a frames directory asks for. Without anything it is the dataset's own convention."""

    fps: Fraction | None = None
    """Frames a second; None for the dataset's own rate, or with `every_frame` for all there are."""
    every_frame: bool = False
    format: str = "jpg"
    quality: int = QUALITY
    short: int | None = None
    width: int | None = None
    height: int | None = None
    crop: bool = False

    @property
    def key(self) -> str:
        """The one name for all that ask for the same: their parts in one order, without what goes without saying."""
        native = "native" if self.every_frame else None
        parts = {
            "fps": native if self.fps is None else _decimal(self.fps),
            "format": None if self.format == "jpg" else self.format,
            "quality": None if self.quality == QUALITY else self.quality,
            "short": self.short,
            "width": self.width,
            "height": self.height,
            "crop": "center" if self.crop else None,
        }
        said = ",".join(f"{key}={value}" for key, value in parts.items() if value is not None)
        return f"{NAME}@{said}" if said else NAME

    @property
    def suffix(self) -> str:
        """Of the files' names."""
        return f".{self.format}"

    def file_name(self, name: str) -> str:
        """A frame's file name, which a dataset gives as that of a JPEG, with this format's suffix."""
        return name if self.format == "jpg" else name.removesuffix(".jpg").removesuffix(".jpeg") + self.suffix

    def within(self, most_short: int | None, width: int, height: int) -> "Variant":
        """This variant for a video of this size in a dataset whose pictures are not larger than that at the shorter
        side. Who asks for a size, or for the video's own frames, has what they ask for."""
        asked = self.short or self.width or self.height or self.every_frame
        is_smaller = most_short is None or min(width, height) <= most_short
        return self if asked or is_smaller else replace(self, short=most_short)

    def form_of(self, width: int, height: int, monochrome: bool = False, depth: int = 8) -> Form:
        """How pictures of a video of this displayed size come. Raises NotFound where they would become too large."""
        wide, high = self._size(width, height)
        if max(wide, high) > MAX_SIDE or wide * high > MAX_PIXELS:
            raise NotFound(
                f"{self.key}: pictures of {width}x{height} would become {wide}x{high}, which is more than "
                f"{MAX_SIDE} a side or {MAX_PIXELS} pixels"
            )
        return Form(self.format, wide, high, self.quality, self.crop, monochrome, depth)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Of what is delivered for a video of this size."""
        wide, high = self.width, self.height
        if self.short is not None:
            if self.crop:
                return self.short, self.short
            wide, high = (self.short, None) if width <= height else (None, self.short)
        if wide is not None and high is not None:
            return wide, high
        if wide is not None:
            return wide, _even(Fraction(wide * height, width))
        if high is not None:
            return _even(Fraction(high * width, height)), high
        return width, height


def parse_variant(name: str) -> Variant:
    """What a directory name asks for.

    Raises NotFound for a name that is none; of one that is misspelt or contradicts itself the log says, once, what is
    wrong with it and what there is.
    """
    if name == NAME:
        return Variant()
    if not name.startswith(f"{NAME}@"):
        raise NotFound(name)
    try:
        return _parse(name.removeprefix(f"{NAME}@"))
    except ValueError as failure:
        log.warning("%s is no variant of frames (%s); there are: %s", name, failure, _KEYS)
        raise NotFound(f"{name}: {failure}") from failure


def _parse(text: str) -> Variant:
    """Raises ValueError with what is wrong."""
    asked: dict[str, Any] = {}
    said: set[str] = set()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in _READERS:
            raise ValueError(f"{part!r} is not one of them")
        if key in said:
            raise ValueError(f"{key} stands there twice")
        said.add(key)
        asked |= _READERS[key](key, value)
    variant = Variant(**asked)
    if "quality" in said and variant.format != "jpg":
        raise ValueError(f"{variant.format} has no quality")
    if "short" in said and said & {"width", "height"}:
        raise ValueError("short does not go with width or height")
    if "crop" in said and not ("short" in said or {"width", "height"} <= said):
        raise ValueError("crop goes with short, or with both width and height")
    return variant


def _fps(key: str, value: str) -> dict[str, Any]:
    if value in ("0", "native"):
        return {"every_frame": True}
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value, re.ASCII) or not Fraction(value):
        raise ValueError(f"{key}={value} is no number of frames a second")
    return {"fps": Fraction(value)}


def _format(key: str, value: str) -> dict[str, Any]:
    suffix = "jpg" if value == "jpeg" else value
    if suffix not in FORMATS:
        raise ValueError(f"{key}={value} is no format")
    return {"format": suffix}


def _crop(key: str, value: str) -> dict[str, Any]:
    if value != "center":
        raise ValueError(f"{key}={value} is no way to crop")
    return {"crop": True}


def _whole(most: int) -> Callable[[str, str], dict[str, Any]]:
    def read(key: str, value: str) -> dict[str, Any]:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", value) or int(value) > most:
            raise ValueError(f"{key}={value} is not a number from 1 to {most}")
        return {key: int(value)}

    return read


_READERS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "fps": _fps,
    "format": _format,
    "quality": _whole(100),
    "short": _whole(MAX_SIDE),
    "width": _whole(MAX_SIDE),
    "height": _whole(MAX_SIDE),
    "crop": _crop,
}


def _even(size: Fraction) -> int:
    """The nearest even number, the larger of two; at least 2."""
    return max(2, 2 * floor(size / 2 + Fraction(1, 2)))


def _decimal(number: Fraction) -> str:
    """A number of up to three digits after the point, as short as it can be written."""
    whole, thousandths = divmod(int(number * 1000), 1000)
    return f"{whole}.{thousandths:03d}".rstrip("0").rstrip(".")
