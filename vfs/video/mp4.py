"""The index of an MP4 or QuickTime file, from its moov box alone (ISO/IEC 14496-12; QuickTime File Format).

Called by index.py. Knows boxes and tables, no codec library. Nothing that a file says is believed before it is
held against the file's size, the table's length or a bound: every failure of a parse is a ValueError.
Pure but for `find_moov`, which reads: any thread may call it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vfs.video.table import MAX_FRAMES, ByteReader, Int64s, VideoIndex, build, check_size

FIRST_BYTES = 64 << 10
"""Read at the start and wherever a top-level box may be moov: holds ftyp, and the moov of a minute or two."""

MAX_MOOV_BYTES = 256 << 20
"""A moov has some 12 bytes a frame and as much for the sound: days of video are under this."""

_MAX_TOP_BOXES = 1024  # before moov; real files have fewer than ten
_MAX_EDITS = 1024
_MAX_CHILDREN = 65536  # of one box; a moov has a few tens
_FOREVER = 1 << 60  # ticks

_CODECS = {
    b"avc1": "h264", b"avc3": "h264", b"dva1": "h264", b"dvav": "h264",
    b"hvc1": "hevc", b"hev1": "hevc", b"dvh1": "hevc", b"dvhe": "hevc",
    b"vp08": "vp8", b"vp09": "vp9", b"av01": "libdav1d",
    b"jpeg": "mjpeg", b"mjpa": "mjpeg", b"mjpg": "mjpeg", b"s263": "h263", b"H263": "h263",
    b"apcn": "prores", b"apch": "prores", b"apcs": "prores", b"apco": "prores", b"ap4h": "prores", b"ap4x": "prores",
}  # fmt: skip
# ISO/IEC 14496-1, table 5 (objectTypeIndication).
_OBJECT_TYPES = {0x20: "mpeg4", 0x6A: "mpeg1video", 0x6C: "mjpeg"} | dict.fromkeys(range(0x60, 0x66), "mpeg2video")
_CONFIGURATIONS = {b"avcC", b"hvcC", b"av1C"}

# (a, b, c, d) of the display matrix, as signs, to (degrees clockwise, mirrored afterwards).
_ORIENTATIONS = {
    (1, 0, 0, 1): (0, False), (0, 1, -1, 0): (90, False), (-1, 0, 0, -1): (180, False), (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True), (0, 1, 1, 0): (90, True), (1, 0, 0, -1): (180, True), (0, -1, -1, 0): (270, True),
}  # fmt: skip

Integers = npt.NDArray[np.integer]


def find_moov(reader: ByteReader, head: memoryview) -> memoryview:
    """The moov box's content; `head` is the file's first bytes. One read with moov in front (none if it is within
    `head`), two with moov at the end. Raises ValueError."""
    position, held, start = 0, head, 0
    for _ in range(_MAX_TOP_BOXES):
        if position + 8 > reader.size_bytes:
            break
        if not start <= position <= start + len(held) - min(16, reader.size_bytes - position):
            held, start = memoryview(reader.read(position, FIRST_BYTES)), position
        kind, header, size = _header(held[position - start :], reader.size_bytes - position)
        if kind == b"moov":
            if size > MAX_MOOV_BYTES:
                raise ValueError(f"its moov box of {size} bytes is larger than {MAX_MOOV_BYTES}")
            begin = position - start
            here = held[begin : begin + size]
            if len(here) < size:
                rest = reader.read(position + len(here), size - len(here))
                here = memoryview(b"".join((here, rest)))
            return here[header:]
        position += size
    raise ValueError("it has no moov box: it is cut off, or not a video")


def is_fragmented(moov: memoryview) -> bool:
    """Whether packets are described outside of moov, in fragments."""
    return any(kind == b"mvex" for kind, _ in _boxes(moov))


def parse(moov: memoryview, size_bytes: int) -> VideoIndex:
    """The index of the first video track with frames. Raises ValueError."""
    track = _video_track(moov)
    sizes, offsets = _sizes_and_offsets(track.stbl)
    count = len(sizes)
    if not ((offsets >= 0) & (offsets + sizes <= size_bytes)).any():
        raise ValueError("none of its frames lies within the file")
    durations = _expand(_table(track.stbl, b"stts", 2), count, "stts")
    durations[durations >= 1 << 31] = 1  # written by muxers for a timestamp that went back
    pts = np.cumsum(durations) - durations
    if _child(track.stbl, b"ctts") is not None:
        # Version 0 says unsigned, but writers use the sign there too.
        pts += _expand(_table(track.stbl, b"ctts", 2), count, "ctts").astype(np.uint32).view(np.int32)
    keys = _keys(track.stbl, count)
    solid = sizes > 0  # an empty sample repeats the picture before it: no packet
    sizes, offsets, pts, durations = (column[solid] for column in (sizes, offsets, pts, durations))
    keys = keys[solid]
    order = np.argsort(pts, kind="stable")
    shown, shown_pts = _edited(track, order, pts[order])
    codec, width, height, extradata = _description(track)
    rotation, mirrored = track.orientation
    return build(
        codec=codec,
        coded_size=(width, height),
        rotation=rotation,
        mirrored=mirrored,
        fps=None if len(shown) > 1 else Fraction(track.timescale, max(1, int(durations[0]))),
        time_base=Fraction(1, track.timescale),
        shown=shown,
        shown_pts=shown_pts,
        last_duration=int(durations[shown[-1]]) if len(shown) else 1,
        packet_offset=offsets,
        packet_size=sizes,
        packet_pts=pts,
        keys=keys,
        extradata=extradata,
    )


@dataclass(frozen=True)
class _Track:
    stbl: memoryview
    edits: memoryview | None
    timescale: int
    movie_timescale: int
    orientation: tuple[int, bool]


def orientation_of(moov: memoryview) -> tuple[int, bool]:
    """(degrees clockwise, mirrored) of the first video track. Raises ValueError."""
    return _video_track(moov, with_frames=False).orientation


def _video_track(moov: memoryview, *, with_frames: bool = True) -> _Track:
    movie = _need(moov, b"mvhd")
    long = movie[0] == 1
    (movie_timescale,) = struct.unpack_from(">I", movie, 20 if long else 12)
    turn = _matrix(movie, 48 if long else 36)
    for kind, trak in _boxes(moov):
        if kind != b"trak":
            continue
        media = _need(trak, b"mdia")
        if bytes(_need(media, b"hdlr")[8:12]) != b"vide":
            continue
        stbl = _need(_need(media, b"minf"), b"stbl")
        if with_frames and _sample_count(stbl) == 0:
            continue
        header = _need(media, b"mdhd")
        (timescale,) = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)
        if not timescale or not movie_timescale:
            raise ValueError("its clock has no ticks")
        track_header = _need(trak, b"tkhd")
        own = _matrix(track_header, 52 if track_header[0] == 1 else 40)
        edts = _child(trak, b"edts")
        return _Track(
            stbl=stbl,
            edits=None if edts is None else _child(edts, b"elst"),
            timescale=timescale,
            movie_timescale=movie_timescale,
            orientation=_orientation(own @ turn),
        )
    raise ValueError("it has no video track with frames")


def _header(view: memoryview, room: int) -> tuple[bytes, int, int]:
    """(type, header bytes, size with header) of the box that `view` begins with and `room` bytes are left for."""
    size, kind = struct.unpack_from(">I4s", view)
    header = 8
    if size == 1:
        (size,) = struct.unpack_from(">Q", view, 8)
        header = 16
    elif size == 0:
        size = room
    if size < header or (size > room and kind != b"mdat"):
        raise ValueError(f"a box {kind!r} of {size} bytes does not fit the {room} there are")
    return kind, header, size


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of each box; bytes at the end that hold no header are padding (QuickTime ends with 4)."""
    position = 0
    for _ in range(_MAX_CHILDREN):
        if position + 8 > len(view):
            return
        if not any(view[position : position + 8]):
            return
        kind, header, size = _header(view[position:], len(view) - position)
        yield kind, view[position + header : position + size]
        position += size
    raise ValueError("a box has too many children")


def _child(view: memoryview, wanted: bytes) -> memoryview | None:
    return next((content for kind, content in _boxes(view) if kind == wanted), None)


def _need(view: memoryview, wanted: bytes) -> memoryview:
    found = _child(view, wanted)
    if found is None:
        raise ValueError(f"its box {wanted.decode()!r} is missing")
    return found


def _table(parent: memoryview, kind: bytes, columns: int, dtype: str = ">u4") -> Integers:
    """(rows, columns) of a full box that is a count and its rows. Raises ValueError where rows are missing."""
    box = _need(parent, kind)
    (rows,) = struct.unpack_from(">I", box, 4)
    length = rows * columns * np.dtype(dtype).itemsize
    if length > len(box) - 8:
        raise ValueError(f"its box {kind.decode()!r} claims {rows} rows and has not the bytes for them")
    return np.frombuffer(box, dtype=dtype, count=rows * columns, offset=8).reshape(rows, columns)


def _expand(runs: Integers, count: int, name: str) -> Int64s:
    """`count` values from rows of (repetitions, value); the last value goes on where the rows end early."""
    if not len(runs):
        raise ValueError(f"its box {name!r} is empty")
    ends = np.minimum(np.cumsum(runs[:, 0].astype(np.int64)), count)
    ends[-1] = count
    return np.repeat(runs[:, 1].astype(np.int64), np.diff(ends, prepend=0))


def _sample_count(stbl: memoryview) -> int:
    box = _child(stbl, b"stsz")
    box = _need(stbl, b"stz2") if box is None else box
    (count,) = struct.unpack_from(">I", box, 8)
    return int(count)


def _sample_sizes(stbl: memoryview) -> Int64s:
    count = _sample_count(stbl)
    if count > MAX_FRAMES:
        raise ValueError(f"it claims {count} frames, more than {MAX_FRAMES}")
    box = _child(stbl, b"stsz")
    if box is not None:
        (uniform,) = struct.unpack_from(">I", box, 4)
        if uniform:
            return np.full(count, uniform, dtype=np.int64)
        _room(box, 4 * count, "stsz")
        return np.frombuffer(box, ">u4", count, 12).astype(np.int64)
    box = _need(stbl, b"stz2")
    bits = box[7]
    if bits not in (4, 8, 16):
        raise ValueError(f"sample sizes of {bits} bits are none")
    _room(box, (bits * count + 7) // 8, "stz2")
    if bits == 4:
        pairs = np.frombuffer(box, np.uint8, (count + 1) // 2, 12)
        return np.stack((pairs >> 4, pairs & 15), axis=1).ravel()[:count].astype(np.int64)
    return np.frombuffer(box, f">u{bits // 8}", count, 12).astype(np.int64)


def _room(box: memoryview, length: int, name: str) -> None:
    if length > len(box) - 12:
        raise ValueError(f"its box {name!r} has not the bytes for the frames it claims")


def _sizes_and_offsets(stbl: memoryview) -> tuple[Int64s, Int64s]:
    """Of each sample in decoding order. Chunks that the tables do not reach end the list early."""
    sizes = _sample_sizes(stbl)
    if _child(stbl, b"stco") is not None:
        chunks = _table(stbl, b"stco", 1)[:, 0].astype(np.int64)
    else:
        chunks = _table(stbl, b"co64", 1, ">u8")[:, 0].astype(np.int64)
    first = _first_samples(_table(stbl, b"stsc", 3), len(chunks), len(sizes))
    sizes = sizes[: first[-1]]
    if not len(sizes):
        raise ValueError("its tables describe no frame")
    per_chunk = np.diff(first)
    before = np.cumsum(sizes) - sizes
    used = per_chunk > 0
    starts = np.repeat(chunks[used] - before[first[:-1][used]], per_chunk[used])
    return sizes, starts + before


def _first_samples(runs: Integers, chunks: int, samples: int) -> Int64s:
    """(chunks + 1,) the first sample of each chunk, and the end."""
    if not len(runs) or not chunks:
        raise ValueError("its tables describe no chunk")
    begins = runs[:, 0].astype(np.int64) - 1
    if begins[0] != 0 or (np.diff(begins) <= 0).any():
        raise ValueError("its chunks are not in order")
    ends = np.minimum(np.append(begins[1:], chunks), chunks)
    lengths = np.maximum(ends - np.minimum(begins, chunks), 0)
    per_chunk = np.repeat(runs[:, 1].astype(np.int64), lengths)
    used = runs[lengths > 0, 2]
    if (used != used[0]).any() or used[0] != 1:
        raise ValueError("it changes its codec's description midway, which is not supported")
    return np.minimum(np.concatenate(([0], np.cumsum(per_chunk))), samples)


def _keys(stbl: memoryview, count: int) -> npt.NDArray[np.bool_]:
    if _child(stbl, b"stss") is None:
        return np.ones(count, dtype=bool)
    numbers = _table(stbl, b"stss", 1)[:, 0].astype(np.int64) - 1
    keys = np.zeros(count, dtype=bool)
    keys[numbers[(numbers >= 0) & (numbers < count)]] = True
    return keys


def _edited(track: _Track, order: Integers, pts: Int64s) -> tuple[Integers, Int64s]:
    """(packets, pts) that the edit list shows, in order, from all in display order.

    A frame is displayed where its pts lies in the range of an edit; edits follow one another, and one without media
    (start -1) only delays. A duration of 0 is the rest of the media.
    """
    edits = _edit_list(track.edits)
    if all(begin < 0 for _, begin in edits):
        return order, pts
    parts: list[Integers] = []
    times: list[Int64s] = []
    clock = 0  # ticks of the presentation that earlier edits take
    for duration, begin in edits:
        length = -(-duration * track.timescale // track.movie_timescale) if duration else _FOREVER
        if begin >= 0:
            low, high = (int(np.searchsorted(pts, t)) for t in (begin, min(begin + length, _FOREVER)))
            parts.append(order[low:high])
            times.append(pts[low:high] - begin + clock)
            if sum(map(len, parts)) > MAX_FRAMES:
                raise ValueError("its edit list shows too many frames")
        clock = min(clock + length, _FOREVER >> 1)
    return np.concatenate(parts), np.concatenate(times)


def _edit_list(box: memoryview | None) -> list[tuple[int, int]]:
    """(duration in the movie's ticks, start in the media's ticks or -1) of each edit."""
    if box is None:
        return []
    row = struct.Struct(">QqI" if box[0] == 1 else ">IiI")
    (count,) = struct.unpack_from(">I", box, 4)
    if count > _MAX_EDITS or count * row.size > len(box) - 8:
        raise ValueError(f"its edit list of {count} entries is too long")
    return [row.unpack_from(box, 8 + i * row.size)[:2] for i in range(count)]


def _matrix(box: memoryview, offset: int) -> npt.NDArray[np.int64]:
    """The part of a display matrix that turns and mirrors, as signs; rows of (x, y) as in the file."""
    values = np.frombuffer(box, ">i4", 5, offset).astype(np.int64)
    return np.sign(np.where(abs(values) < 1 << 12, 0, values))[[0, 1, 3, 4]].reshape(2, 2)


def _orientation(matrix: npt.NDArray[np.int64]) -> tuple[int, bool]:
    """(degrees clockwise, mirrored); a matrix that is neither turn nor mirror (or all zeros) counts as none."""
    a, b, c, d = (int(v) for v in matrix.ravel())
    return _ORIENTATIONS.get((a, b, c, d), (0, False))


def _description(track: _Track) -> tuple[str, int, int, bytes | None]:
    """(codec, width, height, extradata) of the first sample description."""
    entries = _boxes(_need(track.stbl, b"stsd")[8:])
    fourcc, entry = next(entries, (b"", memoryview(b"")))
    if fourcc in (b"encv", b"drmi"):
        raise ValueError("it is encrypted")
    if len(entry) < 78:
        raise ValueError("its sample description is cut off")
    width, height = check_size(*struct.unpack_from(">HH", entry, 24))
    extensions = entry[78:]
    if fourcc == b"mp4v":
        codec, extradata = _elementary(_need(extensions, b"esds"))
        return codec, width, height, extradata
    if fourcc not in _CODECS:
        raise ValueError(f"its codec {fourcc.decode('latin-1')!r} is not supported")
    found = (content for kind, content in _boxes(extensions) if kind in _CONFIGURATIONS)
    configuration = next(found, None)
    return _CODECS[fourcc], width, height, None if configuration is None else bytes(configuration)


def _elementary(esds: memoryview) -> tuple[str, bytes | None]:
    """(codec, extradata) of an esds box: descriptors within descriptors (ISO/IEC 14496-1, 7.2.6)."""
    view, codec = esds[4:], ""
    while len(view) >= 2:
        tag, content, following = _descriptor(view)
        if tag == 3:  # ES_Descriptor: id, flags, and what the flags say
            flags = content[2]
            skip = 3 + 2 * bool(flags & 0x80) + 2 * bool(flags & 0x20)
            view = content[skip + (1 + content[3] if flags & 0x40 else 0) :]
        elif tag == 4:  # DecoderConfigDescriptor
            if content[0] not in _OBJECT_TYPES:
                raise ValueError(f"its MPEG-4 object type {content[0]:#x} is not supported")
            codec = _OBJECT_TYPES[content[0]]
            view = content[13:]
        elif tag == 5:  # DecoderSpecificInfo
            return codec or "mpeg4", bytes(content)
        else:
            view = following
    if not codec:
        raise ValueError("its elementary stream descriptor names no codec")
    return codec, None


def _descriptor(view: memoryview) -> tuple[int, memoryview, memoryview]:
    """(tag, content, what follows); the length is 7 bits a byte, at most 4 bytes."""
    length, at = 0, 1
    for _ in range(4):
        byte = view[at]
        at += 1
        length = length << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return view[0], view[at : at + length], view[at + length :]
