"""The blocks of one track of a Matroska file, from cluster to cluster (RFC 9559, 5.1.3 and 10).

Called by matroska.py for a whole file and by cues.py for a part of one. Each packet's place, length, time and key flag
stand in front of it, so that a walk sees only headers; what its window reads along with them is the window's affair.
Clusters of unknown length (live WebM) are walked like others: a cluster's elements and what stands between clusters
have different ids, so that one flat walk does for all. A last block that is cut off is left out, as when a recording
was broken off; what else does not fit is a ValueError, IndexError or struct.error. Belongs to one thread at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vfs.video.ebml import HEADER_BYTES, header, unsigned
from vfs.video.window import Window

CLUSTER = 0x1F43B675
_TIMESTAMP, _SIMPLE_BLOCK, _GROUP = 0xE7, 0xA3, 0xA0
_BLOCK, _REFERENCE, _DURATION = 0xA1, 0xFB, 0x9B

_LACED = 0x06  # of a block's flags (10.2); keyframe, in a SimpleBlock, is 0x80
_KEY = 0x80

_MAX_GROUP_CHILDREN = 64

LEAST_BYTES = 7
"""Of a block with its header and the shortest packet."""

MAX_OTHERS = 1 << 16
"""Elements that are no block of the video, beyond `_OTHERS_PER_FRAME`: a walk of what holds none ends there."""

_OTHERS_PER_FRAME = 64


class Row(NamedTuple):
    """A packet as its block describes it."""

    pts: int
    offset: int
    size: int
    key: int
    """Not 0 for a keyframe."""
    duration: int
    """0 where it is not said."""
    hidden: bool
    """Whether its picture is for reference only."""


def element(window: Window, position: int) -> tuple[int, int, int | None]:
    """The header of the element there (ebml.header)."""
    view = window.at(position, HEADER_BYTES)
    if len(view) < 2:
        raise ValueError("it is cut off")
    return header(view[:HEADER_BYTES])


class Blocks:
    """The blocks of one track, from cluster to cluster."""

    def __init__(self, window: Window, track: int, codec: str, end: int, size_bytes: int) -> None:
        """The walk ends at `end`; `size_bytes` is the file's."""
        self._window = window
        self._track = track
        self._may_hide = codec == "vp8"
        self._end = end
        self._size_bytes = size_bytes
        self._time: int | None = None  # of the cluster

    def walk(self, position: int) -> Iterator[Row]:
        """Each block from this place on."""
        at, end = self._window.at, self._end
        spare = MAX_OTHERS
        while position < end:
            view = at(position, HEADER_BYTES)
            if len(view) < 2 or (len(view) < HEADER_BYTES and not any(view)):
                return
            kind, before, size = header(view[:HEADER_BYTES])
            position += before
            spare -= 1
            if spare < 0:
                raise ValueError("it goes on for too long without a frame")
            if kind == CLUSTER:  # what is in it comes next
                self._time = None
                continue
            if size is None:
                raise ValueError(f"it is damaged: an element {kind:#x} has no length")
            if position + size > self._size_bytes:
                return  # cut off
            row = None
            if kind == _SIMPLE_BLOCK:
                row = self._block(position, size)
            elif kind == _GROUP:
                row = self._group(position, size)
            elif kind == _TIMESTAMP:
                self._time = unsigned(at(position, min(size, 9))[:size])
            if row is not None:
                spare = min(spare + _OTHERS_PER_FRAME, MAX_OTHERS)
                yield row
            position += size

    def _group(self, position: int, length: int) -> Row | None:
        """A BlockGroup (5.1.3.5): a keyframe where no other block is referred to."""
        end, row, key, duration = position + length, None, 1, 0
        for _ in range(_MAX_GROUP_CHILDREN):
            if position >= end:
                return None if row is None else row._replace(key=key, duration=duration)
            kind, before, size = element(self._window, position)
            position += before
            if size is None or position + size > end:
                raise ValueError("it is damaged: a block does not fit its group")
            if kind == _BLOCK:
                row = self._block(position, size)
                if row is None:
                    return None
            elif kind == _REFERENCE:
                key = 0
            elif kind == _DURATION:
                duration = unsigned(self._window.at(position, min(size, 9))[:size])
            position += size
        raise ValueError("it is damaged: a block's group has too many parts")

    def _block(self, position: int, size: int) -> Row | None:
        """A Block or SimpleBlock (10.1, 10.2), if it is of this track: the track's number, a time relative to the
        cluster's, flags, and the packet."""
        view = self._window.at(position, min(size, HEADER_BYTES))
        wide = 9 - view[0].bit_length()
        if wide > 8 or size < wide + 3:
            raise ValueError("it is damaged: a block has no head")
        if int.from_bytes(view[:wide], "big") & (1 << 7 * wide) - 1 != self._track:
            return None
        flags = view[wide + 2]
        if flags & _LACED:
            raise ValueError("several of its pictures stand in one block, which is not supported")
        if self._time is None:
            raise ValueError("it is damaged: a cluster has no time")
        time = int.from_bytes(view[wide : wide + 2], "big", signed=True)
        # VP8's pictures for reference only have packets of their own (RFC 6386, 9.1: show_frame).
        hidden = self._may_hide and len(view) > wide + 3 and not view[wide + 3] & 0x10
        return Row(self._time + time, position + wide + 3, size - wide - 3, flags & _KEY, 0, hidden)
