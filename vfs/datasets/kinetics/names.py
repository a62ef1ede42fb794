"""Names of clips: which video of YouTube a clip is cut from, and from when to when.

    <id>_%06d_%06d    Kinetics: seconds of begin and end
    <id>_%06d         AVA-Kinetics: the whole second of the annotated moment, of six seconds around it

An id has 11 characters, of which any may be `-` or `_`: it is never split at these. Stores also have times that are
not padded to six digits. Called by the other modules of both datasets. Pure: any thread may enter.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

ID = r"[A-Za-z0-9_-]{11}"
MOST_S = 999_999
"""The last second that six digits can name."""

STEM_BYTES = 25
"""Of a Kinetics clip, the longer of the two; arrays of names have items of this size."""

SUFFIX = ".mp4"

_KINETICS = re.compile(rf"({ID})_([0-9]{{1,9}})_([0-9]{{1,9}})", re.ASCII)
_AVA = re.compile(rf"({ID})_([0-9]{{1,9}})", re.ASCII)
_WHOLE = re.compile(r"([0-9]{1,9})(?:\.0{0,9})?", re.ASCII)
# AVA-Kinetics: how long before the annotated second a clip begins, and how long it is.
_BEFORE_S, _LENGTH_S = 3, 6
AVA_FPS = 30
"""At which AVA-Kinetics counts the frames of a clip."""

Shape: TypeAlias = Callable[[str], str | None]
"""A name without its suffix as the stem of a clip in its one form, None for one that is no clip's."""


def kinetics_stem(youtube_id: str, start_s: int, end_s: int) -> str:
    """The name of a clip of Kinetics, without suffix."""
    return f"{youtube_id}_{start_s:06d}_{end_s:06d}"


def ava_stem(youtube_id: str, second: int) -> str:
    """The name of a clip of AVA-Kinetics, without suffix."""
    return f"{youtube_id}_{second:06d}"


def kinetics_shape(name: str) -> str | None:
    """A clip of Kinetics (Shape)."""
    match = _KINETICS.fullmatch(name)
    if match is None:
        return None
    start_s, end_s = int(match[2]), int(match[3])
    return kinetics_stem(match[1], start_s, end_s) if start_s < end_s <= MOST_S else None


def ava_shape(name: str) -> str | None:
    """A clip of AVA-Kinetics (Shape)."""
    match = _AVA.fullmatch(name)
    return ava_stem(match[1], int(match[2])) if match and int(match[2]) <= MOST_S else None


def whole_seconds(text: str) -> int | None:
    """`10`, `10.0` or `000010` as a number; None for what is none, or has a fraction."""
    match = _WHOLE.fullmatch(text.strip())
    return int(match[1]) if match and int(match[1]) <= MOST_S else None


def span_of(stem: str) -> tuple[str, Fraction, Fraction] | None:
    """The video that a clip is cut from, and the seconds at which it begins and ends; None for no clip's name."""
    if match := _KINETICS.fullmatch(stem):
        return match[1], Fraction(int(match[2])), Fraction(int(match[3]))
    if match := _AVA.fullmatch(stem):
        begin = Fraction(max(0, int(match[2]) - _BEFORE_S))
        return match[1], begin, begin + _LENGTH_S
    return None


def ava_frame(moment: str, stem: str) -> int:
    """The number of the frame file, from 1, that shows an annotated moment (seconds into the video, as text) in a clip.

    In a clip of AVA-Kinetics three seconds and the moment's fraction after the beginning, or, in the first three
    seconds of a video, at the moment itself (README of the downloader). In a clip of Kinetics, which holds the
    moment, at its distance from the beginning. The arithmetic is exact: 22.07 is not a binary number.
    """
    seconds = Fraction(moment)
    if match := _KINETICS.fullmatch(stem):
        within = seconds - int(match[2])
    else:
        second = seconds // 1
        within = seconds if second <= _BEFORE_S else _BEFORE_S + seconds - second
    return int(within * AVA_FPS) + 1
