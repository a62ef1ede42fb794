"""Frames of a Matroska file by its Cues (RFC 9559, 5.1.5): what little must be read, and the packets when they are.

Called by matroska.py (`lay_out`) and demux.py (`CuedPackets`), for codecs whose packets stand in the order of display.
A cue says when a keyframe is shown and in which cluster it stands. Where every cue lies on the grid of one even rate,
and the GOPs of the first cue and of the last, which are read, fill it without a gap, the number of frames between two
cues follows from their times. That is a promise until a GOP is read: then it has as many packets as were counted, at
their times, and begins with a keyframe, or none of its packets is given. So a file that breaks the promise loses
frames and shows no wrong one.

The index has, of each cue's packet, the place of its *cluster*, and of others no place and no size. (Where in the
cluster a cue's block stands counts from the end of the cluster's header, whose length only the cluster tells; and
writers begin clusters with keyframes.) A GOP comes by one read, up to the next cue's cluster. Keyframes between cues
are not known.

`CuedPackets` belongs to one thread at a time; the rest may be entered by any.
"""

import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vfs.extent import Buffer
from vfs.video.blocks import LEAST_BYTES, Blocks, Row
from vfs.video.configurations import PACKET_BYTES
from vfs.video.ebml import HEADER_BYTES, children, elements, header, unsigned
from vfs.video.table import MAX_FRAMES, ByteReader, Int64s, VideoIndex
from vfs.video.window import Window

CONTAINER = "matroska cues"
"""`VideoIndex.container` of an index by Cues; its `stream` is the number of the track."""

CUES = 0x1C53BB6B
_POINT, _TIME, _POSITIONS, _TRACK, _CLUSTER_POSITION = 0xBB, 0xB3, 0xB7, 0xF7, 0xF1

_CUES_BYTES = 64 << 10
"""Read of them at first: an hour with a keyframe every 2 s has 36 KiB."""

_MAX_CUES_BYTES = 4 << 20
"""200,000 cues, which take about a second; a file with more is passed over."""

_MAX_GOP_BYTES = 64 << 20
"""Read at once, as in packets.py; a file with larger GOPs is passed over."""

_AHEAD_BYTES = 1 << 20
"""Of GOPs that are read together when reading goes on: where every picture is a keyframe, a GOP is one packet."""

_HELD_BYTES = 4 << 20
"""Of GOPs that stay beside the one that was read last: frames may be asked for backwards."""

_NEAR_BYTES = 64 << 10
"""Read at once behind a GOP whose last packets stand in the next cue's cluster."""

_LEAST_TICKS = 4
"""Of a frame: some writers round times to ticks and some cut them off, and neighbours must differ by more than that."""

_BROKEN = "the video's cues do not hold what they promise"
_FOREVER = 1 << 62


@dataclass(frozen=True)
class Clusters:
    """Where a file's clusters are, and whose blocks are looked for."""

    reader: ByteReader
    track: int
    codec: str
    begin: int
    end: int
    head: memoryview
    """Bytes at `begin` that were read before."""

    def load(self, start: int, end: int) -> memoryview:
        """The bytes there. Errors of the reader pass through."""
        held = self.head[: end - start] if start == self.begin else memoryview(b"")
        start += len(held)
        rest = memoryview(self.reader.read(start, end - start)) if start < end else memoryview(b"")
        return memoryview(b"".join((held, rest))) if len(held) else rest


@dataclass(frozen=True)
class _Gop:
    """A cue's packets, as far as other cues tell."""

    start: int
    """Its cluster."""
    end: int
    """The next cue's cluster, in which its last packets may stand."""
    time: int
    until: int
    """The next cue's time."""
    count: int

    def walk(self, clusters: Clusters, window: Window) -> Iterator[Row]:
        """Its blocks, those of packets without a byte left out."""
        found = 0
        for start, end in ((self.start, self.end), (self.end, min(clusters.end, self.start + _MAX_GOP_BYTES))):
            if found >= self.count or start >= end:
                return
            for row in Blocks(window, clusters.track, clusters.codec, end, clusters.reader.size_bytes).walk(start):
                if row.pts >= self.until:
                    return
                if row.size and (found or row.pts >= self.time):
                    found += 1
                    yield row
                    if self.until == _FOREVER and found >= self.count:
                        return  # what stands behind the last may be no cluster


@dataclass(frozen=True)
class Laid:
    """Frames as Cues lay them out."""

    pts: Int64s
    keys: Int64s
    """Packets that cues point at."""
    places: Int64s
    """Of their clusters."""
    last_duration: int
    """Of the last frame; 0 where that is not said."""
    first_packet: bytes
    """Its first bytes."""


def lay_out(clusters: Clusters, period: Fraction, segment: int, cues: memoryview | int) -> Laid | None:
    """The frames by the Cues, of which `cues` is the content or the place; None where they do not suffice. `period`
    is a frame's length in ticks, `segment` where positions count from. The reader's errors pass through."""
    if period < _LEAST_TICKS:
        return None
    try:
        if isinstance(cues, int):
            cues = _content(clusters.reader, cues)
        times, places = _points(cues, clusters.track, segment)
        if len(times) < 3:  # all of the file would be read
            return None
        grid = _Grid(int(times[0]), period)
        keys = grid.numbers(times)
        if not _is_sound(clusters, keys, places) or not grid.admits(keys, times):
            return None
        return _proved(clusters, grid, times, keys, places)
    except (ValueError, IndexError, struct.error):
        return None  # whatever is wrong with them: the blocks tell the same


def _content(reader: ByteReader, place: int) -> memoryview:
    """What is in the Cues that stand there."""
    if not 0 < place < reader.size_bytes - HEADER_BYTES:
        raise ValueError("its cues are not where it says")
    first = memoryview(reader.read(place, min(_CUES_BYTES, reader.size_bytes - place)))
    kind, before, size = header(first[:HEADER_BYTES])
    if kind != CUES or size is None or place + before + size > reader.size_bytes or size > _MAX_CUES_BYTES:
        raise ValueError("its cues are not where it says")
    return Window(reader, first, place, _CUES_BYTES).at(place, before + size)[before : before + size]


def _points(content: memoryview, track: int, segment: int) -> tuple[Int64s, Int64s]:
    """(times, places of clusters) of the track's cues (5.1.5.1)."""
    if len(content) > _MAX_CUES_BYTES:
        raise ValueError("it has too many cues")
    rows: list[tuple[int, int]] = []
    for kind, point in elements(content):
        time = unsigned(children(point).get(_TIME)) if kind == _POINT else 0
        for child, positions in elements(point) if kind == _POINT else ():
            found = children(positions) if child == _POSITIONS else {}
            if unsigned(found.get(_TRACK)) == track:
                rows.append((time, segment + unsigned(found.get(_CLUSTER_POSITION))))
    if any(number >= _FOREVER for row in rows for number in row):
        raise ValueError("its cues are damaged")
    times, places = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    return times, places


def _is_sound(clusters: Clusters, keys: Int64s, places: Int64s) -> bool:
    """Whether cues and clusters go forward together from the first cluster on, and the file can hold as many frames."""
    return (
        int(places[0]) == clusters.begin
        and int(places[-1]) < clusters.end
        and int(keys[0]) == 0
        and bool((np.diff(keys) > 0).all() and (np.diff(places) >= 0).all())
        and int(keys[-1]) < min(MAX_FRAMES, clusters.reader.size_bytes // LEAST_BYTES)
    )


class _Grid:
    """Times at an even rate, rounded to ticks: frame n has the time floor(phase + n * period), for one phase."""

    def __init__(self, first: int, period: Fraction) -> None:
        self._first = first
        self._unit = 2 * period.denominator  # so that half a tick is a whole number
        self._step = 2 * period.numerator
        if self._step >= _FOREVER // MAX_FRAMES or self._unit >= 1 << 24:
            raise ValueError("its rate is too odd")
        # The phases that give all times that were admitted.
        self._low, self._high = -_FOREVER, _FOREVER

    def numbers(self, times: Int64s) -> Int64s:
        """The frames that are nearest to these times."""
        if np.abs(times - self._first).max() >= 1 << 36:
            raise ValueError("its times are too large")
        numbers: Int64s = (2 * (times - self._first) * self._unit + self._step) // (2 * self._step)
        return numbers

    def admits(self, numbers: Int64s, times: Int64s) -> bool:
        """Whether these frames may have these times, and those admitted before too."""
        if not 0 <= int(numbers.min()) <= int(numbers.max()) < MAX_FRAMES:
            return False
        phases = (times - self._first) * self._unit - numbers * self._step
        self._low = max(self._low, int(phases.max()))
        self._high = min(self._high, int(phases.min()) + self._unit)
        return self._low < self._high

    def times(self, count: int) -> Int64s:
        """Of the first frames. Of several phases that fit, rounding to the nearest and down are what writers do."""
        fitting = (phase for phase in (self._unit // 2, 0, self._low) if self._low <= phase < self._high)
        times: Int64s = (next(fitting) + np.arange(count, dtype=np.int64) * self._step) // self._unit + self._first
        return times


def _proved(clusters: Clusters, grid: _Grid, times: Int64s, keys: Int64s, places: Int64s) -> Laid | None:
    """The frames, once the first GOP and the last were seen to be whole."""
    ends = _ends(places, clusters.end)
    if int((ends - places).max()) > _MAX_GOP_BYTES or ends[0] == clusters.end:
        return None
    first = _Gop(int(places[0]), int(ends[0]), int(times[0]), int(times[1]), int(keys[1]))
    last = _Gop(int(places[-1]), clusters.end, int(times[-1]), _FOREVER, MAX_FRAMES)
    head, _, packet = _walked(clusters, first)
    if len(head) != first.count or not _is_gapless(grid, head, 0):
        return None
    tail, duration, _ = _walked(clusters, last)
    if not _is_gapless(grid, tail, int(keys[-1])):
        return None
    return Laid(grid.times(int(keys[-1]) + len(tail)), keys, places, duration, packet)


def _ends(places: Int64s, end: int) -> Int64s:
    """The cluster behind each of these at which a cue points."""
    ends: Int64s = np.append(places, end)[np.searchsorted(places, places, side="right")]
    return ends


def _walked(clusters: Clusters, gop: _Gop) -> tuple[Int64s, int, bytes]:
    """(times, duration of the last, first bytes of the first) of a GOP's packets; no times where it does not begin
    with a keyframe, or has packets that are not shown, or too many."""
    window = Window(clusters.reader, clusters.load(gop.start, gop.end), gop.start, _NEAR_BYTES)
    times, duration, packet = array("q"), 0, b""
    for row in gop.walk(clusters, window):
        if row.hidden or not (times or row.key) or len(times) == gop.count:
            return np.zeros(0, dtype=np.int64), 0, b""
        if not times:
            size = min(row.size, PACKET_BYTES)
            packet = bytes(window.at(row.offset, size)[:size])
        times.append(row.pts)
        duration = row.duration
    return np.frombuffer(times, dtype=np.int64), duration, packet


def _is_gapless(grid: _Grid, times: Int64s, first: int) -> bool:
    """Whether these are the times of as many frames, the first of which has this number."""
    if not len(times):
        return False
    numbers = grid.numbers(times)
    return bool((numbers == first + np.arange(len(times))).all()) and grid.admits(numbers, times)


class CuedPackets:
    """Packets of an index by Cues, read and held to the cues' promise by whole GOPs."""

    def __init__(self, reader: ByteReader, index: VideoIndex) -> None:
        self._clusters = Clusters(reader, index.stream, index.codec, 0, reader.size_bytes, memoryview(b""))
        self._read_on: Callable[[int, int], Buffer] = getattr(reader, "read_on", reader.read)
        self._index = index
        self._keys = index.key_packets
        self._places = index.packet_offset[self._keys]
        self._ends = np.minimum(_ends(self._places, reader.size_bytes), self._places + _MAX_GOP_BYTES)
        self._read_end = -1
        self._held: OrderedDict[int, list[bytes]] = OrderedDict()  # by GOP, the one used last at the end
        self._held_bytes = 0

    def read(self, first: int, last: int) -> list[bytes]:
        """The packets from `first` on, up to but without `last` or the end of the GOP. Raises ValueError where the
        file does not hold what its cues promise; an error of the reader passes through."""
        gop = int(np.searchsorted(self._keys, first, side="right")) - 1
        if gop not in self._held:
            try:
                self._load(gop)
            except (IndexError, struct.error) as failure:
                raise ValueError(_BROKEN) from failure
        self._held.move_to_end(gop)
        begin = int(self._keys[gop])
        return self._held[gop][first - begin : last - begin]

    def close(self) -> None:
        """Lets the packets go."""
        self._held.clear()
        self._held_bytes = 0
        self._read_end = -1

    def _load(self, gop: int) -> None:
        """Holds the GOP, and those that stand in the same clusters or, where reading goes on, close behind."""
        start, end = int(self._places[gop]), int(self._ends[gop])
        if start < 0 or start >= end:
            raise ValueError(_BROKEN)
        going_on = start == self._read_end
        if going_on:
            near = int(np.searchsorted(self._ends, start + _AHEAD_BYTES, side="right")) - 1
            end = max(end, int(self._ends[near]))
        data = memoryview((self._read_on if going_on else self._clusters.reader.read)(start, end - start))
        self._read_end = end
        for number in range(gop, max(gop + 1, int(np.searchsorted(self._places, end)))):
            try:
                packets = self._packets(number, data[int(self._places[number]) - start :])
            except (ValueError, IndexError, struct.error):
                if number == gop:
                    raise
                break  # it is said when it is asked for
            self._hold(number, packets, gop)

    def _packets(self, number: int, data: memoryview) -> list[bytes]:
        """The GOP's packets, from bytes that begin with its cluster. Raises ValueError where they are not those."""
        index, begin = self._index, int(self._keys[number])
        is_last = number + 1 == len(self._keys)
        end = len(index.packet_pts) if is_last else int(self._keys[number + 1])
        times = index.packet_pts[begin:end]
        until = _FOREVER if is_last else int(index.packet_pts[end])
        gop = _Gop(int(self._places[number]), int(self._ends[number]), int(times[0]), until, end - begin)
        window = Window(self._clusters.reader, data, gop.start, _NEAR_BYTES)
        found: list[int] = []
        packets: list[bytes] = []
        for row in gop.walk(self._clusters, window):
            if row.hidden or not (found or row.key) or len(found) == gop.count:
                raise ValueError(_BROKEN)
            found.append(row.pts)
            packets.append(bytes(window.at(row.offset, row.size)[: row.size]))
            if row.offset >= gop.end:
                self._read_end = -1  # more was read than the next GOP begins behind
        if len(found) != gop.count or np.abs(times - found).max() > 1:  # between cues, rounding may be another
            raise ValueError(_BROKEN)
        return packets

    def _hold(self, number: int, packets: list[bytes], wanted: int) -> None:
        """Keeps a GOP; others go for it, but for the one that is wanted."""
        self._held_bytes += sum(map(len, packets)) - sum(map(len, self._held.pop(number, ())))
        self._held[number] = packets
        if number != wanted:
            self._held.move_to_end(wanted)
        while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            self._held_bytes -= sum(map(len, gone))
