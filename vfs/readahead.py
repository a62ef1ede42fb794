"""Access patterns in, ranges to fetch next out. Pure logic: no I/O, no threads, no clock of its own.

Called by cache.py with every read of an object, under the cache's lock: nothing here blocks or takes long.

There are two ways to fetch. A read at a new place gets what it asked for and nothing more: mounts that take each first
read for the beginning of a stream fetch 50 MB for a random 128 KiB. A read that continues another one proves a stream,
and a stream has a window: bytes ahead of the reader that are being fetched, over many ranges at once. Streams belong to
(object, place), not to an open file: sixteen workers reading one file at sixteen places are sixteen streams.

* The window doubles whenever the reader had to wait, up to what has been read so far times `_TRUST`: whoever has read
  1 MiB does not cause 64 MiB to be fetched. A reader who never waits keeps a small window.
* The kernel splits a read into requests that come in any order: a stream tolerates requests from before its position
  (`_BEHIND_BYTES`) and from anywhere in what has been asked for ahead. So a skip within the window stays in the stream.
* Isolated reads at equal distances, forwards or backwards, are a stride; the next places are fetched ahead.
* All windows together stay within `budget_bytes`, in equal shares of those who read at the moment: none starves, and
  memory is bounded.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

MIB = 1 << 20

# A stream begins with this window: the second read of a file fetches no more than this beyond itself.
_FIRST_WINDOW_BYTES = 2 * MIB
_TRUST = 8
# The kernel has up to read_ahead_kb under way at once, and sends it in any order.
_BEHIND_BYTES = 8 * MIB
# Requests of one window: long enough that the wait for the first byte (tens of ms) is small against the transfer,
# short enough that several are under way at once and a waiting reader gets the first of them soon. Each costs about
# 1 ms of CPU on its way: with a sixteenth instead of half of the window, 1 GiB took a fifth more.
_PIECES_A_WINDOW = 2
_LEAST_PIECE_BYTES = 1 * MIB
_MOST_PIECE_BYTES = 4 * MIB
# Who has read this many times a window in one go gets it without having waited, up to so much: a server so fast that
# nobody waits is asked for few large pieces too, and one that stops there has had an eighth fetched for nothing.
_PROOF_OF_WINDOW = 8
_MOST_UNASKED_BYTES = 16 * MIB
# Who has not read for this long no longer counts when the budget is shared.
_IDLE_S = 2.0
# Places remembered an object (a random reader makes one with each read), and objects.
_MOST_STREAMS = 64
_MOST_OBJECTS = 256
# So many equal distances make a stride, and so many places ahead are fetched at most.
_STRIDE_PROOF = 3
_MOST_STRIDES = 16


@dataclass(slots=True, eq=False)
class Stream:
    """A place of an object where somebody reads. Invariant: origin <= position <= ahead once it is proven."""

    origin: int
    position: int
    """End of the furthest read."""

    ahead: int = 0
    """Everything before this has been asked for."""

    window_bytes: int = 0
    """0: one isolated read so far."""

    read_at_s: float = 0.0


@dataclass(slots=True)
class _Object:
    """What is known of the reads of one object; `streams` has the one used last at its end."""

    streams: list[Stream] = field(default_factory=list)
    last_start: int = -1
    distance: int = 0
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A range to fetch ahead, as one request, for a stream (None: for a stride)."""

    start: int
    length: int
    stream: Stream | None

    def is_wanted(self) -> bool:
        """Whether its reader has not yet passed it by."""
        return self.stream is None or self.start + self.length > self.stream.position


class Readahead:
    """All streams of a mount. Not thread-safe: the caller has a lock."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._objects: OrderedDict[Hashable, _Object] = OrderedDict()
        self._active: dict[int, Stream] = {}
        self._counted_at_s = -1.0

    def access(
        self, key: Hashable, size_bytes: int, start: int, length: int, *, waits: bool, now_s: float
    ) -> list[Piece]:
        """What to fetch ahead after a read of [start, start + length) of an object. `waits`: its bytes are not here.

        The read's own bytes are never among the pieces of a read at a new place; a proven stream's pieces begin where
        its last ones ended.
        """
        known = self._objects.get(key)
        if known is None:
            known = self._objects[key] = _Object()
            while len(self._objects) > _MOST_OBJECTS:
                self._objects.popitem(last=False)
        else:
            self._objects.move_to_end(key)
        end = min(start + length, size_bytes)
        stream = _stream_of(known, start, end)
        if stream is None:
            self._begin(known, start, end, now_s)
            return self._stride(known, size_bytes, start, length)
        stream.read_at_s = now_s
        if stream.window_bytes == 0:
            stream.window_bytes = _FIRST_WINDOW_BYTES
            stream.ahead = stream.position
            known.repeats = 0
        elif waits and stream.window_bytes < self.budget_bytes:
            stream.window_bytes *= 2
        stream.position = max(stream.position, end)
        stream.ahead = max(stream.ahead, stream.position)
        return self._pieces(stream, size_bytes, now_s)

    def _begin(self, known: _Object, start: int, end: int, now_s: float) -> None:
        known.streams.append(Stream(start, end, read_at_s=now_s))
        if len(known.streams) > _MOST_STREAMS:
            # Of isolated reads there is always another; a proven stream is given up last.
            isolated = next((n for n, stream in enumerate(known.streams) if stream.window_bytes == 0), 0)
            dropped = known.streams.pop(isolated)
            self._active.pop(id(dropped), None)

    def _pieces(self, stream: Stream, size_bytes: int, now_s: float) -> list[Piece]:
        share = max(_LEAST_PIECE_BYTES, self.budget_bytes // self._readers(stream, now_s))
        trusted = max(_FIRST_WINDOW_BYTES, _TRUST * (stream.position - stream.origin))
        proven = min(_MOST_UNASKED_BYTES, (stream.position - stream.origin) // _PROOF_OF_WINDOW)
        stream.window_bytes = max(proven, min(stream.window_bytes, trusted))
        window = min(stream.window_bytes, share)
        target = min(size_bytes, stream.position + window)
        most_bytes = min(_MOST_PIECE_BYTES, window // _PIECES_A_WINDOW)
        pieces: list[Piece] = []
        while stream.ahead < target:
            # What is needed soon comes in small pieces, which are here sooner.
            piece_bytes = max(_LEAST_PIECE_BYTES, min(most_bytes, (stream.ahead - stream.position) // 2))
            # A power of two, so that what is kept of it is whole chunks.
            piece_bytes = 1 << (piece_bytes.bit_length() - 1)
            # Pieces end where whole chunks do. One that would pass the window waits until that has moved on, unless
            # less than the kernel's requests under way is ahead.
            end = (stream.ahead // piece_bytes + 1) * piece_bytes
            if end > target < size_bytes and (pieces or stream.ahead - stream.position >= _FIRST_WINDOW_BYTES):
                break
            end = min(end, size_bytes)
            pieces.append(Piece(stream.ahead, end - stream.ahead, stream))
            stream.ahead = end
        return pieces

    def _readers(self, stream: Stream, now_s: float) -> int:
        """How many streams share the budget now."""
        self._active[id(stream)] = stream
        if len(self._active) > 1 and now_s - self._counted_at_s > _IDLE_S / 4:
            self._counted_at_s = now_s
            self._active = {
                number: other for number, other in self._active.items() if now_s - other.read_at_s <= _IDLE_S
            }
        return len(self._active)

    @staticmethod
    def _stride(known: _Object, size_bytes: int, start: int, length: int) -> list[Piece]:
        """The next places of isolated reads at equal distances; more of them the longer it goes on."""
        distance = start - known.last_start if known.last_start >= 0 else 0
        known.repeats = known.repeats + 1 if distance and distance == known.distance else 1
        known.last_start, known.distance = start, distance
        if not distance or known.repeats < _STRIDE_PROOF:
            return []
        first = 1 if known.repeats == _STRIDE_PROOF else min(_MOST_STRIDES, known.repeats - 1)
        last = min(_MOST_STRIDES, known.repeats)
        places = (start + distance * n for n in range(first, last + 1))
        return [Piece(at, min(length, size_bytes - at), None) for at in places if 0 <= at < size_bytes]


def _stream_of(known: _Object, start: int, end: int) -> Stream | None:
    """The stream that a read continues, moved to the end of the list; the newest where several would do."""
    for number in range(len(known.streams) - 1, -1, -1):
        stream = known.streams[number]
        if stream.window_bytes:
            belongs = stream.position - _BEHIND_BYTES <= start <= max(stream.ahead, stream.position)
            belongs = belongs and start >= stream.origin
        else:
            belongs = start <= stream.position < end and start > stream.origin
        if belongs:
            known.streams.append(known.streams.pop(number))
            return stream
    return None
