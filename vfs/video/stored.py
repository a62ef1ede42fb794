"""A VideoIndex as bytes and back, for a cache on disk and for another process.

Called by whoever keeps indexes (through vfs.video.index). Format: magic with a version, the length of a header in
JSON, the header, and the arrays one behind another, little-endian. An array is stored as the differences between its
elements, in the narrowest integers that hold them all (offsets: less what the sizes explain), so that an hour at 60
frames a second takes 2 to 4 MB. Nothing in the bytes is executed, and nothing is believed: `loads` checks what
VideoIndex promises and raises ValueError for all else. Pure: any thread may call it.
"""

import json
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vfs.extent import Buffer
from vfs.video.table import MAX_FRAMES, Int64s, VideoIndex, check_size

_MAGIC = b"vindex\x00\x01"
"""The last byte is the version, raised whenever the format or the meaning of a field changes."""

_MAX_HEADER_BYTES = 32 << 20
"""The codec's configuration is in it, in hexadecimal; some KB."""

_INTEGERS = {"i1": 1, "i2": 2, "i4": 4, "i8": 8}

_SCALARS: dict[str, type] = {
    "codec": str, "width": int, "height": int, "rotation": int, "mirrored": bool, "duration_ticks": int,
    "container": str, "stream": int, "depth": int, "monochrome": bool, "colorspace": int, "color_range": int,
}  # fmt: skip
_ARRAYS = ("packet_size", "packet_offset", "packet_pts", "shown", "pts", "key_packets")


def dumps(index: VideoIndex) -> bytes:
    """The index as bytes."""
    arrays = {name: getattr(index, name).astype(np.int64) for name in _ARRAYS}
    arrays["packet_offset"] = arrays["packet_offset"] - _ends(arrays["packet_size"])
    header: dict[str, Any] = {name: getattr(index, name) for name in _SCALARS}
    header["fps"] = [index.fps.numerator, index.fps.denominator]
    header["time_base"] = [index.time_base.numerator, index.time_base.denominator]
    header["extradata"] = None if index.extradata is None else index.extradata.hex()
    header["arrays"] = []
    parts = []
    for array in arrays.values():
        steps = np.diff(array, prepend=0)
        kind = _narrowest(steps)
        header["arrays"].append([kind, len(steps)])
        parts.append(steps.astype(f"<{kind}").tobytes())
    text = json.dumps(header).encode()
    return b"".join((_MAGIC, len(text).to_bytes(4, "little"), text, *parts))


def loads(data: Buffer) -> VideoIndex:
    """The index that `dumps` made these bytes of. Raises ValueError for all other bytes."""
    view = memoryview(data).cast("B")
    length = int.from_bytes(view[len(_MAGIC) : len(_MAGIC) + 4], "little")
    begin = len(_MAGIC) + 4
    if view[: len(_MAGIC)] != _MAGIC or not 0 < length <= min(_MAX_HEADER_BYTES, len(view) - begin):
        raise ValueError("these bytes are no stored index of this version")
    try:
        header = json.loads(bytes(view[begin : begin + length]))
        index = _index(header, view[begin + length :])
    except (TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as failure:
        raise ValueError(f"a stored index is damaged: {failure!r}") from failure
    _check(index)
    return index


def _index(header: dict[str, Any], view: memoryview) -> VideoIndex:
    fields: dict[str, Any] = {}
    for name, kind in _SCALARS.items():
        if type(header[name]) is not kind:
            raise ValueError(f"a stored index is damaged: its {name} is no {kind.__name__}")
        fields[name] = header[name]
    arrays: dict[str, Int64s] = {}
    for name, (kind, count) in zip(_ARRAYS, header["arrays"], strict=True):
        size = _INTEGERS[kind] * count
        if not 0 <= count <= MAX_FRAMES or size > len(view):
            raise ValueError("a stored index is cut off")
        arrays[name] = np.cumsum(np.frombuffer(view[:size], f"<{kind}"), dtype=np.int64)
        view = view[size:]
    if len(view) or len(arrays["packet_size"]) != len(arrays["packet_offset"]):
        raise ValueError("a stored index has the wrong length")
    arrays["packet_offset"] += _ends(arrays["packet_size"])
    for name in ("packet_size", "shown", "key_packets"):
        if len(arrays[name]) and not 0 <= int(arrays[name].min()) <= int(arrays[name].max()) < 1 << 31:
            raise ValueError(f"a stored index is damaged in its {name}")
        arrays[name] = arrays[name].astype(np.int32)
    extradata = header["extradata"]
    return VideoIndex(
        **fields,
        **arrays,  # type: ignore[arg-type]
        fps=_fraction(header["fps"]),
        time_base=_fraction(header["time_base"]),
        extradata=None if extradata is None else bytes.fromhex(extradata),
    )


def _check(index: VideoIndex) -> None:
    """Raises ValueError for what VideoIndex does not allow."""
    packets = len(index.packet_size)
    keys, shown, pts = index.key_packets, index.shown, index.pts
    check_size(index.width, index.height)
    sound = (
        len(index.packet_offset) == len(index.packet_pts) == packets
        and len(pts) == len(shown) > 0
        and len(keys) > 0
        and int(keys[0]) == int(pts[0]) == 0
        and max(int(keys[-1]), int(shown.max())) < packets
        and not (np.diff(keys) <= 0).any()
        and not (np.diff(pts) < 0).any()
        and int(pts[-1]) < index.duration_ticks
        and index.rotation in (0, 90, 180, 270)
        and index.fps > 0
        and index.time_base > 0
        and 1 <= index.depth <= 16
    )
    if not sound:
        raise ValueError("a stored index contradicts itself")


def _ends(sizes: npt.NDArray[np.int64]) -> Int64s:
    """Where each packet would begin if nothing stood between packets."""
    ends: Int64s = np.cumsum(sizes) - sizes
    return ends


def _narrowest(steps: npt.NDArray[np.int64]) -> str:
    low, high = int(steps.min(initial=0)), int(steps.max(initial=0))
    return next(kind for kind, size in _INTEGERS.items() if -(1 << 8 * size - 1) <= low and high < 1 << 8 * size - 1)


def _fraction(pair: list[int]) -> Fraction:
    numerator, denominator = pair
    if type(numerator) is not int or type(denominator) is not int:
        raise ValueError("a stored index is damaged: a ratio of no whole numbers")
    return Fraction(numerator, denominator)
