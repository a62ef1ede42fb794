"""The index of a fragmented MP4: packets are described in moof boxes all through the file (ISO/IEC 14496-12, 8.8).

Called by index.py. What holds for the whole track (description, edits, orientation, clock) is moov's, see mp4.py.
Media data are not read, but for what lies within 128 KiB between two headers: a fragment costs one small read of
its moof and of the header behind it, or less. Where moofs stand is
known in advance from an index in front (sidx, 8.16.3) or at the end (mfra, 8.8.9); then several stretches are read at
a time, for the reader may be a network. What such an index says is only where stretches begin: each is walked from
box to box and must end where the next one begins, else the whole file is walked from its front.

Nothing that a file says is believed before it is held against the file's size or a bound: every failure is a
ValueError or struct.error. `parse` blocks on the reader, from several threads of its own; any thread may call it.
"""

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vfs.video import mp4
from vfs.video.boxes import boxes, child, header, need
from vfs.video.table import ByteReader, VideoIndex
from vfs.video.window import Window

_FIRST_BYTES = 16 << 10
"""Read where a moof may begin: one of a GOP of 250 with its sound is some 6 KB."""

_MAX_MOOF_BYTES = 16 << 20
"""A million packets in one fragment."""

_STRETCH_BYTES = 1 << 20
"""Of the file, at least, that one thread walks at a time: moofs that stand closer come by one read."""

_THREADS = 8
"""Walks at a time: requests that a store answers side by side without complaint."""

_MAX_IDLE_BOXES = 1024
"""Top-level boxes in a stretch that bring no packet nearer; real files have a few for each fragment."""

_MAX_TAIL_BYTES = 8 << 20
"""Of mfra: 19 bytes for each fragment."""

_MAX_SIDX_BYTES = 4 << 20

# 8.8.7 and 8.8.8: flags of tfhd and trun.
_BASE, _DESCRIPTION, _DURATION, _SIZE, _FLAGS, _BASE_IS_MOOF = 0x1, 0x2, 0x8, 0x10, 0x20, 0x20000
_OFFSET, _FIRST_FLAGS = 0x1, 0x4
_ROW_FIELDS = {0x100: "duration", 0x200: "size", 0x400: "flags", 0x800: "delay"}

_NOT_KEY = 0x10000 | 0x1000000
"""Of a sample's flags (8.8.3.1): it is no sync sample; it depends on others."""


@dataclass(frozen=True)
class _Defaults:
    """What holds for a track's packets that do not say otherwise (trex, 8.8.3; tfhd)."""

    description: int
    duration: int
    size: int
    flags: int


@dataclass(frozen=True)
class _Run:
    """The packets of one trun."""

    decode_time: int | None
    """Of the first; None: that of the end of the run before."""
    description: int
    offset: int
    sizes: npt.NDArray[np.int64]
    durations: npt.NDArray[np.int64]
    delays: npt.NDArray[np.int64]
    keys: npt.NDArray[np.bool_]


def is_fragmented(moov: memoryview) -> bool:
    """Whether packets are described outside of moov."""
    return child(moov, b"mvex") is not None


def parse(reader: ByteReader, moov: memoryview, moov_end: int, head: memoryview) -> VideoIndex:
    """The index of the first video track. `head` is the file's first bytes. Raises ValueError; errors of the reader
    pass through."""
    track = mp4.video_track(moov, fragmented=True)
    walk = _Walk(reader, track.number, _defaults(need(moov, b"mvex"), track.number))
    window = Window(reader, head, 0, _FIRST_BYTES)
    starts = _sidx(window, moov_end) or _mfra(reader, moov_end, track.number)
    runs = walk.stretches(_far_apart([moov_end, *starts]), head)
    if runs is None:
        runs = list(walk.between(window, moov_end, None))
    return mp4.assemble(track, _joined(track, runs, reader.size_bytes), reader.size_bytes)


class _Walk:
    """Goes from box to box through stretches of the file, for one track's runs."""

    def __init__(self, reader: ByteReader, track: int, defaults: _Defaults) -> None:
        self._reader = reader
        self._track = track
        self._defaults = defaults

    def stretches(self, starts: Sequence[int], head: memoryview) -> list[_Run] | None:
        """The runs of all stretches, which begin at these places, read several at a time; None where there is only
        one, or where no box begins at the beginning of one."""
        if len(starts) < 2:
            return None
        ends: list[int | None] = [*starts[1:], None]

        def walked(start: int, end: int | None) -> list[_Run] | None:
            try:
                window = Window(self._reader, head, 0, _FIRST_BYTES)
                return list(self.between(window, start, end))
            except (ValueError, struct.error, IndexError):
                return None

        runs: list[_Run] = []
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="fragments") as pool:
            try:
                for found in pool.map(walked, starts, ends):
                    if found is None:
                        return None
                    runs += found
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return runs

    def between(self, window: Window, position: int, end: int | None) -> Iterator[_Run]:
        """The runs of the boxes from one place up to another, None for the end of the file; there a moof that is cut
        off is left out, as when a recording was broken off."""
        size_bytes, idle = self._reader.size_bytes, 0
        stop = size_bytes if end is None else end
        while position + 8 <= stop:
            kind, before, size = _top_box(window.at(position, min(16, size_bytes - position)))
            size = size or size_bytes - position
            idle += 1
            if kind == b"moof":
                if position + size > size_bytes:
                    return
                if size > _MAX_MOOF_BYTES:
                    raise ValueError(f"a fragment's header of {size} bytes is larger than {_MAX_MOOF_BYTES}")
                # With the header of the box behind, so that one read does for a fragment.
                view = window.at(position, min(size + 16, size_bytes - position))
                for run in self._fragment(view[before:size], position):
                    idle = 0
                    yield run
            if idle > _MAX_IDLE_BOXES:
                raise ValueError("it goes on for too long without a frame")
            position += size
        if end is not None and position != end:
            raise ValueError("its index of fragments does not fit its boxes")

    def _fragment(self, moof: memoryview, position: int) -> Iterator[_Run]:
        """The runs of one moof (8.8.4), which stands at that place."""
        data_end = position  # of the track before, where the next one's data begin if nothing else is said
        for kind, traf in boxes(moof):
            if kind != b"traf":
                continue
            tfhd = need(traf, b"tfhd")
            flags, number = struct.unpack_from(">II", tfhd)
            ours = number == self._track
            base, defaults = _track_header(tfhd, flags, self._defaults)
            if base is None:
                base = position if flags & _BASE_IS_MOOF else data_end
            tfdt = child(traf, b"tfdt")
            time = None if tfdt is None else struct.unpack_from(">Q" if tfdt[0] == 1 else ">I", tfdt, 4)[0]
            offset = base
            for inner, trun in boxes(traf):
                if inner != b"trun":
                    continue
                run = _run(trun, base, offset, defaults, time, self._reader.size_bytes)
                offset, time = run.offset + int(run.sizes.sum()), None
                if ours and len(run.sizes):
                    yield run
            data_end = offset


def _top_box(view: memoryview) -> tuple[bytes, int, int]:
    """(type, header bytes, size or 0 for the rest of the file), of which all may lie beyond the file's end."""
    if bytes(view[:4]) == b"\0\0\0\0":
        return bytes(view[4:8]), 8, 0
    return header(view, 1 << 63)


def _defaults(mvex: memoryview, track: int) -> _Defaults:
    for kind, trex in boxes(mvex):
        if kind == b"trex":
            _, number, *values = struct.unpack_from(">6I", trex)
            if number == track:
                return _Defaults(*values)
    return _Defaults(1, 0, 0, 0)  # libavformat's answer to a file without


def _track_header(tfhd: memoryview, flags: int, defaults: _Defaults) -> tuple[int | None, _Defaults]:
    """(where the data begin, if that is said; what holds in this fragment) of a tfhd (8.8.7)."""
    position, base = 8, None
    if flags & _BASE:
        (base,) = struct.unpack_from(">Q", tfhd, position)
        position += 8
    values = [defaults.description, defaults.duration, defaults.size, defaults.flags]
    for place, flag in enumerate((_DESCRIPTION, _DURATION, _SIZE, _FLAGS)):
        if flags & flag:
            (values[place],) = struct.unpack_from(">I", tfhd, position)
            position += 4
    return base, _Defaults(*values)


def _run(trun: memoryview, base: int, following: int, defaults: _Defaults, time: int | None, size_bytes: int) -> _Run:
    """The packets of a trun (8.8.8); `following` is where they begin if it does not say so itself."""
    flags, count = struct.unpack_from(">II", trun)
    mp4.check_count(count, size_bytes)
    position, offset = 8, following
    if flags & _OFFSET:
        offset = base + struct.unpack_from(">i", trun, position)[0]
        position += 4
    first_flags = None
    if flags & _FIRST_FLAGS:
        (first_flags,) = struct.unpack_from(">I", trun, position)
        position += 4
    if not -(1 << 62) < offset < 1 << 62:
        raise ValueError("a fragment's data are nowhere")
    names = [name for flag, name in _ROW_FIELDS.items() if flags & flag]
    if 4 * count * len(names) > len(trun) - position:
        raise ValueError(f"a run claims {count} frames and has not the bytes for them")
    rows = np.frombuffer(trun, ">u4", count * len(names), position).reshape(count, len(names))
    column = {name: rows[:, place].astype(np.int64) for place, name in enumerate(names)}
    sample_flags = column.get("flags")
    if sample_flags is None:
        sample_flags = np.full(count, defaults.flags, dtype=np.int64)
        if first_flags is not None and count:
            sample_flags[0] = first_flags
    # Version 0 says that delays have no sign, but writers use one there too.
    delays = column["delay"].astype(np.uint32).view(np.int32) if "delay" in column else np.zeros(count)
    return _Run(
        decode_time=time,
        description=defaults.description,
        offset=offset,
        sizes=column["size"] if "size" in column else np.full(count, defaults.size, dtype=np.int64),
        durations=column["duration"] if "duration" in column else np.full(count, defaults.duration, dtype=np.int64),
        delays=delays.astype(np.int64),
        keys=(sample_flags & _NOT_KEY) == 0,
    )


def _joined(track: mp4.Track, runs: Sequence[_Run], size_bytes: int) -> mp4.Packets:
    """moov's own packets, if it has any, and those of all fragments."""
    own = mp4.packets_of(track, size_bytes) if track.sample_count else None
    clock = int(own.durations.sum()) if own is not None else 0
    columns: list[tuple[npt.NDArray[np.generic], ...]] = []
    if own is not None:
        columns.append((own.sizes, own.offsets, own.pts, own.durations, own.keys))
    count = 0
    for run in runs:
        count += len(run.sizes)
        mp4.check_count(count, size_bytes)
        clock = clock if run.decode_time is None else run.decode_time
        if clock >= 1 << 62:
            raise ValueError("a fragment's time is beyond all bounds")
        times = clock + np.cumsum(run.durations) - run.durations + run.delays
        offsets = run.offset + np.cumsum(run.sizes) - run.sizes
        columns.append((run.sizes, offsets, times, run.durations, run.keys))
        clock += int(run.durations.sum())
    if not columns:
        raise ValueError("it has no fragment with a frame")
    sizes, offsets, times, durations, keys = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    descriptions = frozenset(run.description for run in runs) | (own.descriptions if own is not None else frozenset())
    return mp4.Packets(sizes, offsets, times, durations, keys, descriptions)


def _far_apart(places: Sequence[int]) -> list[int]:
    """Those of the rising places that stand far enough from the one before that is kept."""
    kept = list(places[:1])
    for place in places[1:]:
        if place - kept[-1] >= _STRETCH_BYTES:
            kept.append(place)
    return kept


def _sidx(window: Window, position: int) -> list[int]:
    """Where the parts of the file begin by the sidx that stands first after moov (8.16.3); none where it refers to
    further indexes, or is not there."""
    view = window.at(position, 16)
    if len(view) < 16 or bytes(view[4:8]) != b"sidx":
        return []
    _, before, size = _top_box(view)
    if not 32 <= size <= _MAX_SIDX_BYTES:
        return []
    box = window.at(position, size)[before:size]
    version = box[0]
    (first,) = struct.unpack_from(">Q" if version else ">I", box, 20 if version else 16)
    (count,) = struct.unpack_from(">H", box, 30 if version else 22)
    begin = 32 if version else 24
    if len(box) < begin + 12 * count:
        return []
    sizes = np.frombuffer(box, ">u4", 3 * count, begin)[::3].astype(np.int64)
    if (sizes >> 31).any():  # a reference to another sidx
        return []
    places = position + size + first + np.cumsum(sizes) - sizes
    return _rising(places.tolist(), position + size)


def _mfra(reader: ByteReader, moov_end: int, track: int) -> list[int]:
    """Where moofs stand by the index at the end of the file (8.8.9 to 8.8.11), whose last bytes say its length."""
    size_bytes = reader.size_bytes
    if size_bytes - moov_end < 1 << 20:  # walked as fast
        return []
    tail = memoryview(reader.read(size_bytes - _FIRST_BYTES, _FIRST_BYTES))
    if len(tail) < 16 or bytes(tail[-16:-8]) != b"\0\0\0\x10mfro":
        return []
    (length,) = struct.unpack(">I", tail[-4:])
    if not 24 <= length <= min(_MAX_TAIL_BYTES, size_bytes - moov_end):
        return []
    if length > len(tail):
        tail = memoryview(reader.read(size_bytes - length, length))
    try:
        content = tail[-length:]
        if bytes(content[4:8]) != b"mfra":
            return []
        places = next((_tfra(box) for kind, box in boxes(content[8:]) if kind == b"tfra" and _is_of(box, track)), [])
    except (ValueError, struct.error):
        return []
    return _rising(places, moov_end)


def _is_of(tfra: memoryview, track: int) -> bool:
    return bool(struct.unpack_from(">I", tfra, 4)[0] == track)


def _tfra(box: memoryview) -> list[int]:
    """The moofs' places in a tfra (8.8.10): rows of time, moof, and three numbers of 1 to 4 bytes each."""
    lengths, count = struct.unpack_from(">II", box, 8)
    wide = 8 if box[0] == 1 else 4
    numbers = sum((lengths >> shift & 3) + 1 for shift in (4, 2, 0))
    dtype = np.dtype([("time", f">u{wide}"), ("moof", f">u{wide}"), ("numbers", np.uint8, numbers)])
    if count * dtype.itemsize > len(box) - 16:
        raise ValueError("its box 'tfra' has not the bytes for its rows")
    places: list[int] = np.unique(np.frombuffer(box, dtype, count, 16)["moof"]).tolist()
    return places


def _rising(places: list[int], least: int) -> list[int]:
    """The places, if each comes after the one before and none before `least`; else none."""
    fits = all(one < other for one, other in pairwise([least - 1, *places]))
    return places if fits else []
