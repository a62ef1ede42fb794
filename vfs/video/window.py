"""A walk from front to back through a file that is mostly skipped, in few reads.

Called by the parsers that go from header to header (fragments.py, matroska.py). Where headers stand close together it
reads on in growing pieces; where something large was skipped it begins small again. A walk that only goes forward
reads no byte twice. It knows no format. Belongs to one thread at a time.
"""

from collections.abc import Callable

from vfs.extent import Buffer
from vfs.video.table import ByteReader

_NEAR_BYTES = 128 << 10
"""What is read along with what follows it: the cache beneath fetches at least this much at once, and a reader that is
told that reading goes on fetches ahead."""

_MOST_BYTES = 1 << 20
"""Of one piece: a network's latency is small against it."""


class Window:
    """The bytes of a file around a position that moves forward."""

    def __init__(self, reader: ByteReader, head: memoryview, start: int, first_bytes: int) -> None:
        """`head` was read before, at `start`; `first_bytes` is what a read takes after something was skipped."""
        self._read = reader.read
        # A reader that has it fetches ahead when it is told that reading goes on where it stopped.
        self._read_on: Callable[[int, int], Buffer] = getattr(reader, "read_on", reader.read)
        self._size_bytes = reader.size_bytes
        self._held = head
        self._start = start
        self._first_bytes = self._piece = first_bytes

    def at(self, position: int, length: int) -> memoryview:
        """The bytes there: `length` of them and those that are held besides; fewer where the file ends."""
        begin = position - self._start
        if 0 <= begin <= len(self._held) - length:
            return self._held[begin:]
        if position >= self._size_bytes:
            return memoryview(b"")
        held_end = self._start + len(self._held)
        if 0 <= begin <= len(self._held) + _NEAR_BYTES:
            self._piece = min(2 * self._piece, max(_MOST_BYTES, self._first_bytes))
            kept, read, from_here = self._held[begin:], self._read_on, held_end
        else:
            self._piece = self._first_bytes
            kept, read, from_here = memoryview(b""), self._read, position
        wanted = min(max(position + length - from_here, self._piece), self._size_bytes - from_here)
        got = memoryview(read(from_here, wanted) if wanted else b"")
        if len(got) < wanted:
            raise ValueError("the file is shorter than it was")
        got = got[max(0, position - from_here) :]
        self._held = memoryview(b"".join((kept, got))) if kept else got
        self._start = position
        return self._held
