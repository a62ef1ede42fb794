"""The index of an MP4 or QuickTime file, from its moov box alone (ISO/IEC 14496-12; QuickTime File Format).

Called by index.py, and by fragments.py for what moov says where packets are described outside of it. Knows tables of
packets, tracks and edit lists; no codec and no codec library. Nothing that a file says is believed before it is
held against the file's size, the table's length or a bound: every failure of a parse is a ValueError.
Pure but for `find_moov`, which reads: any thread may call it.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vfs.video.boxes import Integers, boxes, child, header, need, table
from vfs.video.entries import describe, is_still
from vfs.video.table import MAX_FRAMES, ByteReader, Int64s, VideoIndex, build

FIRST_BYTES = 64 << 10
"""Read at the start and wherever a top-level box may be moov: holds ftyp, and the moov of a minute or two."""

MAX_MOOV_BYTES = 256 << 20
"""A moov has some 12 bytes a frame and as much for the sound: days of video are under this."""

_MAX_TOP_BOXES = 1024  # before moov; real files have fewer than ten
_MAX_EDITS = 1024
_FOREVER = 1 << 60  # ticks
_NEVER = _FOREVER >> 1  # so that what is shown then still has a time

# (a, b, c, d) of the display matrix, as signs, to (degrees clockwise, mirrored afterwards).
_ORIENTATIONS = {
    (1, 0, 0, 1): (0, False), (0, 1, -1, 0): (90, False), (-1, 0, 0, -1): (180, False), (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True), (0, 1, 1, 0): (90, True), (1, 0, 0, -1): (180, True), (0, -1, -1, 0): (270, True),
}  # fmt: skip


def find_moov(reader: ByteReader, head: memoryview) -> tuple[memoryview, int]:
    """(the moov box's content, where it ends in the file); `head` is the file's first bytes. One read with moov in
    front (none if it is within `head`), two with moov at the end. Raises ValueError."""
    position, held, start = 0, head, 0
    for _ in range(_MAX_TOP_BOXES):
        if position + 8 > reader.size_bytes:
            break
        if not start <= position <= start + len(held) - min(16, reader.size_bytes - position):
            held, start = memoryview(reader.read(position, FIRST_BYTES)), position
        kind, before, size = header(held[position - start :], reader.size_bytes - position)
        if kind == b"moov":
            if size > MAX_MOOV_BYTES:
                raise ValueError(f"its moov box of {size} bytes is larger than {MAX_MOOV_BYTES}")
            begin = position - start
            here = held[begin : begin + size]
            if len(here) < size:
                rest = reader.read(position + len(here), size - len(here))
                here = memoryview(b"".join((here, rest)))
            return here[before:], position + size
        position += size
    raise ValueError("it has no moov box: it is cut off, or not a video")


@dataclass(frozen=True)
class Track:
    """The video's track: what moov says of it but for its packets."""

    number: int
    stbl: memoryview
    sample_count: int
    edits: memoryview | None
    timescale: int
    movie_timescale: int
    orientation: tuple[int, bool]


@dataclass(frozen=True)
class Packets:
    """A track's packets in decoding order, one element each."""

    sizes: Int64s
    offsets: Int64s
    pts: Int64s
    durations: Int64s
    keys: npt.NDArray[np.bool_]
    descriptions: frozenset[int]
    """The numbers, from 1, of the sample descriptions that they have."""


def parse(moov: memoryview, size_bytes: int) -> VideoIndex:
    """The index of a file whose packets are all described in moov. Raises ValueError."""
    track = video_track(moov, fragmented=False)
    return assemble(track, packets_of(track, size_bytes), size_bytes)


def assemble(track: Track, packets: Packets, size_bytes: int) -> VideoIndex:
    """The index from a track and all its packets. Raises ValueError."""
    if not ((packets.offsets >= 0) & (packets.offsets + packets.sizes <= size_bytes)).any():
        raise ValueError("none of its frames lies within the file")
    solid = packets.sizes > 0  # an empty sample repeats the picture before it: no packet
    columns = (packets.sizes, packets.offsets, packets.pts, packets.durations)
    sizes, offsets, pts, durations = (column[solid] for column in columns)
    order = np.argsort(pts, kind="stable")
    shown, shown_pts = _edited(track, order, pts[order])
    description = describe(track.stbl, packets.descriptions)
    rotation, mirrored = track.orientation
    return build(
        codec=description.codec,
        coded_size=(description.width, description.height),
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
        keys=packets.keys[solid],
        extradata=description.extradata,
        samples=description.samples,
    )


def video_track(moov: memoryview, *, fragmented: bool) -> Track:
    """The first video track with frames (in fragments they may all be) that shows neither a cover nor the pictures of
    chapters, which another track refers to (QuickTime File Format, "Chapter Lists"). Raises ValueError."""
    traks = [trak for kind, trak in boxes(moov) if kind == b"trak"]
    tracks = []
    chapters: set[int] = set()
    for trak in traks:
        references = child(trak, b"tref")
        chap = None if references is None else child(references, b"chap")
        if chap is not None:
            chapters.update(value for (value,) in struct.iter_unpack(">I", chap[: len(chap) & ~3]))
        track = _video(moov, trak)
        if track is not None and (track.sample_count or fragmented):
            tracks.append(track)
    if not tracks:
        raise ValueError("it has no video track with frames")
    films = (t for t in tracks if t.number not in chapters and (t.sample_count > 1 or not is_still(t.stbl)))
    return next(films, tracks[0])


def _video(moov: memoryview, trak: memoryview) -> Track | None:
    """The track, if it is one of video."""
    media = need(trak, b"mdia")
    if bytes(need(media, b"hdlr")[8:12]) != b"vide":
        return None
    movie, own, clock = need(moov, b"mvhd"), need(trak, b"tkhd"), need(media, b"mdhd")
    (movie_timescale,) = struct.unpack_from(">I", movie, 20 if movie[0] == 1 else 12)
    (timescale,) = struct.unpack_from(">I", clock, 20 if clock[0] == 1 else 12)
    if not timescale or not movie_timescale:
        raise ValueError("its clock has no ticks")
    (number,) = struct.unpack_from(">I", own, 20 if own[0] == 1 else 12)
    turn = _matrix(own, 52 if own[0] == 1 else 40) @ _matrix(movie, 48 if movie[0] == 1 else 36)
    edts = child(trak, b"edts")
    information = need(media, b"minf")
    _check_place(information)
    stbl = need(information, b"stbl")
    return Track(
        number=number,
        stbl=stbl,
        sample_count=_sample_count(stbl),
        edits=None if edts is None else child(edts, b"elst"),
        timescale=timescale,
        movie_timescale=movie_timescale,
        orientation=_orientation(turn),
    )


def _check_place(information: memoryview) -> None:
    """Raises ValueError where the track's packets are in another file: at the same places of this one stands something
    else. A reference that is not marked as to this file and names none is one by careless writers."""
    dinf = child(information, b"dinf")
    dref = None if dinf is None else child(dinf, b"dref")
    references = [] if dref is None else [content for _, content in boxes(dref[8:])]
    if references and all(not content[3] & 1 and any(content[4:]) for content in references):
        raise ValueError("its pictures are in another file, which it refers to")


def packets_of(track: Track, size_bytes: int) -> Packets:
    """The packets that moov describes. Raises ValueError."""
    sizes, offsets, descriptions = _sizes_and_offsets(track, size_bytes)
    count = len(sizes)
    durations = _expand(table(track.stbl, b"stts", 2), count, "stts")
    durations[durations >= 1 << 31] = 1  # written by muxers for a timestamp that went back
    pts = np.cumsum(durations) - durations
    if child(track.stbl, b"ctts") is not None:
        # Version 0 says unsigned, but writers use the sign there too.
        pts += _expand(table(track.stbl, b"ctts", 2), count, "ctts").astype(np.uint32).view(np.int32)
    return Packets(sizes, offsets, pts, durations, _keys(track.stbl, count), descriptions)


def _expand(runs: Integers, count: int, name: str) -> Int64s:
    """`count` values from rows of (repetitions, value); the last value goes on where the rows end early."""
    if not len(runs):
        raise ValueError(f"its box {name!r} is empty")
    ends = np.minimum(np.cumsum(runs[:, 0].astype(np.int64)), count)
    ends[-1] = count
    return np.repeat(runs[:, 1].astype(np.int64), np.diff(ends, prepend=0))


def _sample_count(stbl: memoryview) -> int:
    box = child(stbl, b"stsz")
    box = need(stbl, b"stz2") if box is None else box
    (count,) = struct.unpack_from(">I", box, 8)
    return int(count)


def _sample_sizes(track: Track, size_bytes: int) -> Int64s:
    stbl, count = track.stbl, track.sample_count
    check_count(count, size_bytes)
    box = child(stbl, b"stsz")
    if box is not None:
        (uniform,) = struct.unpack_from(">I", box, 4)
        if uniform:
            return np.full(count, uniform, dtype=np.int64)
        _room(box, 4 * count, "stsz")
        return np.frombuffer(box, ">u4", count, 12).astype(np.int64)
    box = need(stbl, b"stz2")
    bits = box[7]
    if bits not in (4, 8, 16):
        raise ValueError(f"sample sizes of {bits} bits are none")
    _room(box, (bits * count + 7) // 8, "stz2")
    if bits == 4:
        pairs = np.frombuffer(box, np.uint8, (count + 1) // 2, 12)
        return np.stack((pairs >> 4, pairs & 15), axis=1).ravel()[:count].astype(np.int64)
    return np.frombuffer(box, f">u{bits // 8}", count, 12).astype(np.int64)


def check_count(count: int, size_bytes: int) -> None:
    """Raises ValueError where a file of that size cannot have so many frames: a few bytes may claim any number."""
    most = min(MAX_FRAMES, size_bytes)
    if count > most:
        raise ValueError(f"it claims {count} frames, more than {most}")


def _room(box: memoryview, length: int, name: str) -> None:
    if length > len(box) - 12:
        raise ValueError(f"its box {name!r} has not the bytes for the frames it claims")


def _sizes_and_offsets(track: Track, size_bytes: int) -> tuple[Int64s, Int64s, frozenset[int]]:
    """Of each sample in decoding order, and the descriptions in use. Chunks that the tables do not reach end the list
    early."""
    stbl, sizes = track.stbl, _sample_sizes(track, size_bytes)
    if child(stbl, b"stco") is not None:
        chunks = table(stbl, b"stco", 1)[:, 0].astype(np.int64)
    else:
        chunks = table(stbl, b"co64", 1, ">u8")[:, 0].astype(np.int64)
    first, descriptions = _first_samples(table(stbl, b"stsc", 3), len(chunks), len(sizes))
    sizes = sizes[: first[-1]]
    if not len(sizes):
        raise ValueError("its tables describe no frame")
    per_chunk = np.diff(first)
    before = np.cumsum(sizes) - sizes
    used = per_chunk > 0
    starts = np.repeat(chunks[used] - before[first[:-1][used]], per_chunk[used])
    return sizes, starts + before, descriptions


def _first_samples(runs: Integers, chunks: int, samples: int) -> tuple[Int64s, frozenset[int]]:
    """((chunks + 1,) the first sample of each chunk, and the end; the descriptions in use)."""
    if not len(runs) or not chunks:
        raise ValueError("its tables describe no chunk")
    begins = runs[:, 0].astype(np.int64) - 1
    if begins[0] != 0 or (np.diff(begins) <= 0).any():
        raise ValueError("its chunks are not in order")
    ends = np.minimum(np.append(begins[1:], chunks), chunks)
    lengths = np.maximum(ends - np.minimum(begins, chunks), 0)
    per_chunk = np.repeat(runs[:, 1].astype(np.int64), lengths)
    descriptions = frozenset(np.unique(runs[lengths > 0, 2]).tolist())
    return np.minimum(np.concatenate(([0], np.cumsum(per_chunk))), samples), descriptions


def _keys(stbl: memoryview, count: int) -> npt.NDArray[np.bool_]:
    if child(stbl, b"stss") is None:
        return np.ones(count, dtype=bool)
    numbers = table(stbl, b"stss", 1)[:, 0].astype(np.int64) - 1
    keys = np.zeros(count, dtype=bool)
    keys[numbers[(numbers >= 0) & (numbers < count)]] = True
    return keys


def _edited(track: Track, order: Integers, pts: Int64s) -> tuple[Integers, Int64s]:
    """(packets, pts) that the edit list shows, in order, from all in display order.

    A frame is displayed where its pts lies in the range of an edit; edits follow one another, and one without media
    (start -1) only delays. A duration of 0 is the rest of the media, after which nothing comes.
    """
    edits = _edit_list(track.edits)
    if all(begin < 0 for _, begin in edits):
        return order, pts
    parts: list[Integers] = []
    times: list[Int64s] = []
    clock = 0  # ticks of the presentation that earlier edits take
    for duration, begin in edits:
        if clock >= _NEVER:  # behind one that never ends
            break
        length = -(-duration * track.timescale // track.movie_timescale)
        if not duration and begin >= 0:
            length = _FOREVER
        if begin >= 0:
            low, high = (int(np.searchsorted(pts, t)) for t in (begin, min(begin + length, _FOREVER)))
            parts.append(order[low:high])
            times.append(pts[low:high] - begin + clock)
            if sum(map(len, parts)) > MAX_FRAMES:
                raise ValueError("its edit list shows too many frames")
        clock = min(clock + length, _NEVER)
    if not parts:
        raise ValueError("its edit list shows no frame")
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
