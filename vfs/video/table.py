"""What is known of a video before any of it is decoded: its pictures, where their packets stand, when they show.

The parsers (mp4.py, fragments.py, matroska.py, demux.py) make a VideoIndex; decode.py and whoever names frames read
it. It knows no container and no codec library. Immutable: any thread may use it. Callers outside of this package
import these names from vfs.video.index.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vfs.extent import Buffer

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

MAX_PIXELS = 8192 * 8192
"""Of one picture: 8K and 360° video fit; a header that claims more is refused before memory is given to it."""

MAX_SIDE = 16384
"""Of one picture, in pixels."""

MAX_FRAMES = 1 << 23
"""Of one video: 38 hours at 60 a second, 270 MB of index."""

_EVEN = 0.9  # of the gaps between frames are one length: its inverse is the rate that was meant

# H.264 and HEVC keep at most 16 pictures waiting (ITU-T H.264 A.3.1, H.265 A.4.1).
_MAX_REORDER = 16

# Packets that a decoder wants beyond those before it gives a picture: with two frame threads, and x264's two more.
_HELD_BACK = 4


UNSPECIFIED_MATRIX = 2
"""ITU-T H.273, table 4: the container says nothing of how colour was turned into luma and chroma."""

UNKNOWN_DEPTH = 0
"""Stands for a depth that only the first packet tells, until index.py has looked; never in a finished index."""


class ByteReader(Protocol):
    """The bytes of a file. `read` may block on a network; any thread may call it."""

    size_bytes: int

    def read(self, start: int, length: int) -> Buffer:
        """Exactly the bytes of the range that stand before the end of the file."""
        ...


@dataclass(frozen=True)
class Samples:
    """What a picture's samples are, as far as the container says it. The fields are those of VideoIndex."""

    depth: int = 8
    monochrome: bool = False
    colorspace: int = UNSPECIFIED_MATRIX
    color_range: int = 0


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """A video's pictures in display order and its packets in decoding order; about 32 bytes a frame.

    Invariants: `pts` never falls and begins with 0; every element of `shown` is an index into the packet arrays,
    which are of one length; `key_packets` rises and begins with 0.
    """

    codec: str
    """The decoder's name in libavcodec."""
    width: int
    """Of a picture as displayed, after rotation; every frame of the video is given in this size."""
    height: int
    rotation: int
    """Degrees clockwise that turn a decoded picture into the displayed one: 0, 90, 180 or 270."""
    mirrored: bool
    """Whether the turned picture is then mirrored, left for right."""
    fps: Fraction
    """Nominal rate; the average where most frames are not evenly spaced."""
    time_base: Fraction
    """Seconds a tick."""
    pts: Int64s
    """(frame_count,) ticks of the displayed frames, the first at 0."""
    duration_ticks: int
    """When the last frame ends."""
    shown: Int32s
    """(frame_count,) the packet of each displayed frame."""
    packet_offset: Int64s
    """Of each packet in the file. With a container, those known (else -1) are places to start its demuxer at."""
    packet_size: Int32s
    packet_pts: Int64s
    """As the file says it: the order of display, packets that are not displayed included."""
    key_packets: Int32s
    """Packets at which decoding may start."""
    extradata: bytes | None
    """What the decoder needs to know before the first packet (avcC, hvcC, …)."""
    container: str = ""
    """Demuxer that packets must be had through; "" where each packet is one range of the file."""
    stream: int = 0
    """The video's stream in that container."""
    depth: int = 8
    """Bits a sample, as coded."""
    monochrome: bool = False
    """Whether only luma is coded."""
    colorspace: int = UNSPECIFIED_MATRIX
    """The matrix between RGB and YUV by the container's tags: a number of ITU-T H.273, table 4 (AVColorSpace)."""
    color_range: int = 0
    """By the container's tags, an AVColorRange: 0 unspecified, 1 limited (16 to 235 of 255), 2 full."""
    reorder_depth: int = field(init=False)
    """Pictures that come before another in the file and after it on the screen, at most."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reorder_depth", _reorder_depth(self.packet_pts))

    @property
    def frame_count(self) -> int:
        """How many frames are displayed."""
        return len(self.shown)

    @property
    def size_bytes(self) -> int:
        """What the index takes in memory, about."""
        arrays = (self.pts, self.shown, self.packet_offset, self.packet_size, self.packet_pts, self.key_packets)
        return sum(array.nbytes for array in arrays)

    def frame_at(self, seconds: Fraction) -> int:
        """The frame on screen at that time: the last whose pts is not after it; the first for times before."""
        return self.frame_at_tick(seconds // self.time_base)

    def frame_at_tick(self, tick: int) -> int:
        """`frame_at`, for a time in ticks."""
        return max(0, int(self.pts.searchsorted(min(tick, self.duration_ticks), side="right")) - 1)

    def keyframe_before(self, packet: int) -> int:
        """The packet to start decoding at for this one: the last keyframe that is before it both in the file and on
        the screen. After an open GOP's keyframe stand pictures that show before it and need the GOP before."""
        place = int(np.searchsorted(self.key_packets, packet, side="right")) - 1
        while place > 0 and self.packet_pts[self.key_packets[place]] > self.packet_pts[packet]:
            place -= 1
        return int(self.key_packets[max(place, 0)])

    def bytes_for(self, key: int, frames: Iterable[int]) -> tuple[int, int]:
        """Start and length of what has to be read for frames that are decoded from keyframe `key` on; length 0 where
        it cannot be told, because packets are had through a demuxer."""
        # A decoder lets a picture go when it has those that come before it on the screen, and a few more.
        last = max(int(self.shown[frame]) for frame in frames) + 2 * self.reorder_depth + _HELD_BACK
        starts = self.packet_offset[key : last + 1]
        if self.container or not len(starts):
            return 0, 0
        start = int(np.min(starts))
        return start, int(np.max(starts + self.packet_size[key : last + 1])) - start


def build(
    *,
    codec: str,
    coded_size: tuple[int, int],
    rotation: int = 0,
    mirrored: bool = False,
    fps: Fraction | None,
    time_base: Fraction,
    shown: npt.NDArray[np.integer],
    shown_pts: Int64s,
    last_duration: int,
    packet_offset: npt.NDArray[np.integer],
    packet_size: npt.NDArray[np.integer],
    packet_pts: Int64s,
    keys: npt.NDArray[np.bool_],
    extradata: bytes | None,
    container: str = "",
    stream: int = 0,
    samples: Samples = Samples(),
) -> VideoIndex:
    """An index from what a parser found: `shown` in display order, `shown_pts` on any origin, `keys` a flag a packet.

    Raises ValueError for what no video can be.
    """
    width, height = check_size(*coded_size)
    if not len(shown):
        raise ValueError("the video has no frame that is displayed")
    if rotation % 180:
        width, height = height, width
    pts = shown_pts - shown_pts[0]
    duration = int(pts[-1]) + max(1, last_duration)
    if fps is None:
        fps = _rate(pts, duration) / time_base
    starts = np.flatnonzero(keys)
    if not len(starts) or starts[0]:  # no keyframe before the first pictures: the file's start must do
        starts = np.insert(starts, 0, 0)
    return VideoIndex(
        codec=codec,
        width=width,
        height=height,
        rotation=rotation,
        mirrored=mirrored,
        fps=fps,
        time_base=time_base,
        pts=np.ascontiguousarray(pts, dtype=np.int64),
        duration_ticks=duration,
        shown=shown.astype(np.int32),
        packet_offset=packet_offset.astype(np.int64),
        packet_size=np.minimum(packet_size, np.iinfo(np.int32).max).astype(np.int32),
        packet_pts=np.ascontiguousarray(packet_pts, dtype=np.int64),
        key_packets=starts.astype(np.int32),
        extradata=extradata,
        container=container,
        stream=stream,
        depth=samples.depth,
        monochrome=samples.monochrome,
        colorspace=samples.colorspace,
        color_range=samples.color_range,
    )


def _rate(pts: Int64s, duration: int) -> Fraction:
    """Frames a tick: by the usual gap between two, where a pause or a late first frame is the exception; else the
    average."""
    gaps = np.diff(pts)
    usual = int(np.partition(gaps, len(gaps) // 2)[len(gaps) // 2]) if len(gaps) else 0
    if usual and np.count_nonzero(gaps == usual) >= _EVEN * len(gaps):
        return Fraction(1, usual)
    return Fraction(len(gaps), int(pts[-1])) if len(gaps) and pts[-1] else Fraction(1, duration)


def check_size(width: int, height: int) -> tuple[int, int]:
    """The size, where a picture may have it. Raises ValueError."""
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width}x{height} is none")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"pictures of {width}x{height} are larger than {MAX_PIXELS} pixels or {MAX_SIDE} a side")
    return width, height


def _reorder_depth(pts: Int64s) -> int:
    """For each picture, those before it in the file and after it on the screen; the largest such number."""
    ahead = np.zeros(len(pts), dtype=np.int8)
    for distance in range(1, min(_MAX_REORDER, len(pts) - 1) + 1):
        ahead[distance:] += pts[:-distance] > pts[distance:]
    return int(np.max(ahead, initial=0))
