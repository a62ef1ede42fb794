"""The index of a Matroska or WebM file (RFC 9559): by its Cues where they are enough, else by a pass over all blocks.

Called by index.py. Frames of VP8, VP9 and AV1 stand in the order in which they are shown; at an even rate a few times
then tell all others, and the file's Cues with the first and the last GOP are all that is read (cues.py). For the rest,
the headers of all blocks (blocks.py) are read: what stands close together in large pieces, and what is large is hopped
over; that pass reads no byte twice, and media data only where hopping would be no faster.

Nothing that a file says is believed before it is held against the file's size or a bound: what does not fit is a
ValueError or struct.error. The cropping of pictures (PixelCrop…), their display size and an alpha channel are not
followed: frames are given in the size they are coded in. `parse` blocks on the reader; any thread may call it.
"""

import math
from array import array
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vfs.video import configurations, cues
from vfs.video.blocks import CLUSTER, MAX_OTHERS, Blocks, element
from vfs.video.ebml import children, elements, real, unsigned
from vfs.video.table import MAX_FRAMES, UNKNOWN_DEPTH, ByteReader, Int64s, Samples, VideoIndex, build, check_size
from vfs.video.window import Window

_FIRST_BYTES = 64 << 10
"""Read after a large block was skipped: the cache beneath fetches 128 KiB at once anyway."""

_SMALL_BYTES = 1 << 20
"""A file that is passed over whole: the cache beneath fetches so much at once, and knows then where each packet is."""

_MAX_HEADER_BYTES = 16 << 20
_MAX_BEFORE_SEGMENT = 16

_SEGMENT, _INFO, _TRACKS = 0x18538067, 0x1549A966, 0x1654AE6B
_SEEK_HEAD, _SEEK, _SEEK_ID, _SEEK_POSITION = 0x114D9B74, 0x4DBB, 0x53AB, 0x53AC
_TIMESTAMP_SCALE = 0x2AD7B1

_CODECS = {
    "V_MPEG4/ISO/AVC": "h264", "V_MPEGH/ISO/HEVC": "hevc", "V_VP8": "vp8", "V_VP9": "vp9", "V_AV1": "libdav1d",
    "V_MPEG4/ISO/SP": "mpeg4", "V_MPEG4/ISO/ASP": "mpeg4", "V_MPEG4/ISO/AP": "mpeg4",
    "V_MPEG1": "mpeg1video", "V_MPEG2": "mpeg2video", "V_MJPEG": "mjpeg",
}  # fmt: skip
_WITHOUT_RECORD = {"vp8", "vp9", "mjpeg"}
_IN_ORDER = {"vp8", "vp9", "libdav1d"}  # packets stand in the order in which their pictures are shown

_LARGEST_DENOMINATOR = 1001
"""Of a frame rate in use (30000/1001): DefaultDuration is rounded to nanoseconds, and this finds what was meant."""


@dataclass(frozen=True)
class _Track:
    """The file's first video track (5.1.4)."""

    number: int
    codec: str
    width: int
    height: int
    orientation: tuple[int, bool]
    extradata: bytes | None
    frame_ns: int
    """DefaultDuration: nanoseconds a frame, 0 where that is not said."""
    samples: Samples
    stripped: bool
    """Whether bytes that all packets begin with are left out of the file."""


class _Foreign(Exception):
    """The codec is one whose packets are put together otherwise than they stand in the file."""


@dataclass
class _Head:
    """What stands before the pictures."""

    begin: int
    """Of the segment's content; positions in the file count from there."""
    end: int
    scale: int = 1_000_000
    """Nanoseconds a tick (TimestampScale)."""
    track: _Track | None = None
    clusters: int = 0
    """Where the first stands."""
    cues: memoryview | None = None
    """What is in them, where they stand in front too."""
    cues_place: int = 0
    """Where they stand, as the SeekHead says; 0 where it does not."""


def parse(reader: ByteReader, head: memoryview) -> VideoIndex | None:
    """The index of the first video track; None where packets do not stand in the file as the codec wants them (rare
    codecs, header stripping), so that only a demuxer gives them. `head` is the file's first bytes. Raises ValueError;
    errors of the reader pass through."""
    window = Window(reader, head, 0, _FIRST_BYTES)
    try:
        found = _before_clusters(window, _Head(*_segment(window, reader.size_bytes)))
    except _Foreign:
        return None
    track = found.track
    if track is None or track.stripped:
        return None
    if reader.size_bytes > _SMALL_BYTES and track.codec in _IN_ORDER:
        index = _by_cues(reader, window, found, track)
        if index is not None:
            return index
    rows = array("q")  # not a list of tuples, which would take 300 bytes a packet
    for row in Blocks(window, track.number, track.codec, found.end, reader.size_bytes).walk(found.clusters):
        rows.extend(row)
        if len(rows) > 6 * MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES} frames")
    return _built(track, found.scale, np.frombuffer(rows, dtype=np.int64).reshape(-1, 6).T)


def _by_cues(reader: ByteReader, window: Window, head: _Head, track: _Track) -> VideoIndex | None:
    """The index from Cues; None where they do not suffice."""
    rate = _nominal(track.frame_ns)
    if not rate or not (head.cues or head.cues_place):
        return None
    clusters = cues.Clusters(reader, track.number, track.codec, head.clusters, head.end, window.at(head.clusters, 1))
    period = Fraction(10**9, head.scale) / rate
    laid = cues.lay_out(clusters, period, head.begin, head.cues_place if head.cues is None else head.cues)
    if laid is None:
        return None
    count = len(laid.pts)
    offsets, keys = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=bool)
    offsets[laid.keys], keys[laid.keys] = laid.places, True
    samples = track.samples
    if samples.depth == UNKNOWN_DEPTH:
        told = configurations.of_packet(track.codec, track.extradata, laid.first_packet)
        samples = replace(samples, depth=told.depth, monochrome=told.monochrome)
    index = _index(
        replace(track, samples=samples),
        head.scale,
        shown=np.arange(count),
        last_duration=laid.last_duration,
        packet_pts=laid.pts,
        packet_offset=offsets,
        packet_size=np.zeros(count, dtype=np.int64),
        keys=keys,
    )
    return replace(index, container=cues.CONTAINER, stream=track.number)


def _built(track: _Track, scale: int, columns: Int64s) -> VideoIndex:
    solid = columns[2] > 0
    pts, offsets, sizes, keys, durations, hidden = (column[solid] for column in columns)
    order = np.argsort(pts, kind="stable")
    order = order[hidden[order] == 0]
    if not len(order):
        raise ValueError("its video track has no frame")
    return _index(
        track,
        scale,
        shown=order,
        last_duration=int(durations[order[-1]]),
        packet_pts=pts,
        packet_offset=offsets,
        packet_size=sizes,
        keys=keys != 0,
    )


def _index(
    track: _Track,
    scale: int,
    *,
    shown: npt.NDArray[np.integer],
    last_duration: int,
    packet_pts: Int64s,
    packet_offset: Int64s,
    packet_size: Int64s,
    keys: npt.NDArray[np.bool_],
) -> VideoIndex:
    frame_ticks = Fraction(track.frame_ns, scale)
    shown_pts = packet_pts[shown]
    return build(
        codec=track.codec,
        coded_size=(track.width, track.height),
        rotation=track.orientation[0],
        mirrored=track.orientation[1],
        fps=_rate(track, frame_ticks, shown_pts),
        time_base=Fraction(scale, 10**9),
        shown=shown,
        shown_pts=shown_pts,
        last_duration=last_duration or round(frame_ticks),
        packet_offset=packet_offset,
        packet_size=packet_size,
        packet_pts=packet_pts,
        keys=keys,
        extradata=track.extradata,
        samples=track.samples,
    )


def _rate(track: _Track, frame_ticks: Fraction, pts: Int64s) -> Fraction | None:
    """The rate that DefaultDuration says, if the frames keep to it but for rounding; None for their average."""
    if not track.frame_ns:
        return None
    even = np.arange(len(pts)) * float(frame_ticks)
    if np.abs(pts - pts[0] - even).max() > 2:  # the first and this one are each rounded, by some writers down
        return None
    return _nominal(track.frame_ns) or None


def _nominal(frame_ns: int) -> Fraction:
    """The rate that DefaultDuration means; 0 where it is not said."""
    return Fraction(10**9, frame_ns).limit_denominator(_LARGEST_DENOMINATOR) if frame_ns else Fraction(0)


def _segment(window: Window, size_bytes: int) -> tuple[int, int]:
    """(where the segment's content begins, where it ends): the file's one element beside its EBML header."""
    position = 0
    for _ in range(_MAX_BEFORE_SEGMENT):
        kind, before, size = element(window, position)
        position += before
        if kind == _SEGMENT:
            return position, size_bytes if size is None else min(size_bytes, position + size)
        if size is None or position + size > size_bytes:
            break
        position += size
    raise ValueError("it has no segment: it is cut off, or no video")


def _before_clusters(window: Window, found: _Head) -> _Head:
    """With what the segment's elements say, up to its first cluster."""
    position = found.begin
    for _ in range(MAX_OTHERS):
        if position >= found.end:
            break
        kind, before, size = element(window, position)
        if kind == CLUSTER:
            if found.track is None:
                raise ValueError("it says what is in it only behind its pictures, which is not supported")
            found.clusters = position
            return found
        if size is None:
            raise ValueError(f"it is damaged: an element {kind:#x} has no length")
        if kind in (_INFO, _TRACKS) and size > _MAX_HEADER_BYTES:
            raise ValueError(f"its header of {size} bytes is larger than {_MAX_HEADER_BYTES}")
        if kind in (_SEEK_HEAD, _INFO, _TRACKS, cues.CUES) and size <= _MAX_HEADER_BYTES:
            _note(found, kind, window.at(position, before + size)[before : before + size])
        position += before + size
    raise ValueError("it has no pictures: it is cut off, or no video")


def _note(found: _Head, kind: int, content: memoryview) -> None:
    """Adds what one of these elements says."""
    if kind == _TRACKS and found.track is None:
        found.track = _video_track(content)
    elif kind == _INFO:
        found.scale = unsigned(children(content).get(_TIMESTAMP_SCALE), found.scale)
        if not 0 < found.scale <= 10**9:
            raise ValueError("its clock has no sensible ticks")
    elif kind == cues.CUES:
        found.cues = content
    elif kind == _SEEK_HEAD:
        found.cues_place = _sought(content, found.begin) or found.cues_place


def _sought(seek_head: memoryview, begin: int) -> int:
    """Where the Cues stand by a SeekHead (5.1.1); 0 where it does not say, or is damaged."""
    try:
        for kind, entry in elements(seek_head):
            fields = children(entry) if kind == _SEEK else {}
            if unsigned(fields.get(_SEEK_ID)) == cues.CUES and _SEEK_POSITION in fields:
                return begin + unsigned(fields[_SEEK_POSITION])
    except (ValueError, IndexError):
        return 0  # only the Cues are looked for in it, and pictures are found without them
    return 0


def _video_track(tracks: memoryview) -> _Track:
    """From Tracks (5.1.4). Raises _Foreign for a codec that is not read here."""
    for kind, entry in elements(tracks):
        if kind != 0xAE:
            continue
        fields = children(entry)
        if unsigned(fields.get(0x83)) != 1:  # TrackType: video
            continue
        name = bytes(fields.get(0x86, b"")).split(b"\0")[0].decode("latin-1")
        stripped = _is_stripped(fields.get(0x6D80))
        if name not in _CODECS:
            raise _Foreign
        video = children(fields.get(0xE0, memoryview(b"")))
        width, height = check_size(unsigned(video.get(0xB0)), unsigned(video.get(0xBA)))
        codec = _CODECS[name]
        private = fields.get(0x63A2)
        extradata = None if private is None or codec in _WITHOUT_RECORD else bytes(private)
        return _Track(
            number=unsigned(fields.get(0xD7)),
            codec=codec,
            width=width,
            height=height,
            orientation=_orientation(video.get(0x7670)),
            extradata=extradata,
            frame_ns=unsigned(fields.get(0x23E383)),
            samples=_colour(configurations.of_record(codec, extradata), video.get(0x55B0)),
            stripped=stripped,
        )
    raise ValueError("it has no video track")


def _is_stripped(encodings: memoryview | None) -> bool:
    """Whether packets lack their common beginning (ContentEncodings, 5.1.4.1.31); other encodings are refused."""
    if encodings is None:
        return False
    stripped = False
    for kind, encoding in elements(encodings):
        if kind != 0x6240:
            continue
        fields = children(encoding)
        if unsigned(fields.get(0x5033)) != 0:  # ContentEncodingType
            raise ValueError("it is encrypted")
        if not unsigned(fields.get(0x5032), 1) & 1:  # ContentEncodingScope: not the frames
            continue
        compression = children(fields.get(0x5034, memoryview(b"")))
        if unsigned(compression.get(0x4254)) != 3:  # ContentCompAlgo: header stripping
            raise ValueError("its packets are compressed once more, which is not supported")
        stripped = stripped or bool(compression.get(0x4255))
    return stripped


def _colour(samples: Samples, colour: memoryview | None) -> Samples:
    """With what Colour says (5.1.4.1.28.16): matrix, and range where it is 1 (broadcast) or 2 (full)."""
    if colour is None:
        return samples
    fields = children(colour)
    stretch = unsigned(fields.get(0x55B9))
    matrix = unsigned(fields.get(0x55B1), samples.colorspace)
    return replace(samples, colorspace=min(matrix, 255), color_range=stretch if stretch in (1, 2) else 0)


def _orientation(projection: memoryview | None) -> tuple[int, bool]:
    """(degrees clockwise, mirrored) as libavformat understands a flat Projection (5.1.4.1.28.41): ProjectionPoseRoll
    counts against the clock, but with it where a yaw of 180° mirrors the picture."""
    if projection is None:
        return 0, False
    fields = children(projection)
    yaw, roll = real(fields.get(0x7673)), real(fields.get(0x7675))
    if unsigned(fields.get(0x7671)) or not math.isfinite(roll):  # a sphere or a cube
        return 0, False
    mirrored = abs(yaw) == 180
    turn = round(roll / 90) * 90
    if abs(roll - turn) >= 1:
        return 0, mirrored
    return (turn if mirrored else -turn) % 360, mirrored
