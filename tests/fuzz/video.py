"""Videos: what makes an index of each container, what keeps one as bytes, and the codecs' edge."""

import numpy as np

from tests.clips import MemoryReader
from tests.fuzz.mutate import boxes, elements, plain
from tests.fuzz.run import Target
from vfs.errors import UndecodableVideo
from vfs.video.decode import Decoder
from vfs.video.index import VideoIndex, dumps, loads, read_index
from vfs.video.table import MAX_FRAMES, MAX_PIXELS, MAX_SIDE

# Of pictures that are decoded here: of larger ones each takes a second.
_MOST_DECODED = 1 << 20


def check(index: VideoIndex) -> None:
    """What VideoIndex promises, and that it outlives being kept."""
    packets, frames = len(index.packet_size), index.frame_count
    assert 0 < frames <= MAX_FRAMES
    assert packets == len(index.packet_offset) == len(index.packet_pts)
    assert len(index.pts) == frames
    assert int(index.pts[0]) == 0
    assert not (np.diff(index.pts) < 0).any(), "time goes back"
    assert int(index.pts[-1]) < index.duration_ticks
    assert int(index.shown.min()) >= 0
    assert int(index.shown.max()) < packets
    assert int(index.key_packets[0]) == 0
    assert not (np.diff(index.key_packets) <= 0).any()
    assert int(index.key_packets[-1]) < packets
    assert not (index.packet_size < 0).any()
    assert 0 < index.width <= MAX_SIDE
    assert 0 < index.height <= MAX_SIDE
    assert index.width * index.height <= MAX_PIXELS
    assert index.fps > 0
    assert index.time_base > 0
    assert index.frame_at_tick(0) >= 0
    assert index.frame_at_tick(1 << 62) == frames - 1
    kept = loads(dumps(index))
    assert dumps(kept) == dumps(index)


def index_of(data: bytes) -> None:
    """Any container, by its first bytes."""
    check(read_index(MemoryReader(data), "video"))


def decode(data: bytes) -> None:
    """The first frame, one in the middle and the last, of whatever has an index."""
    reader = MemoryReader(data)
    index = read_index(reader, "video")
    if index.width * index.height > _MOST_DECODED:
        return
    decoder = Decoder(reader, index, "video", threads=2)
    try:
        for number in sorted({0, index.frame_count // 2, index.frame_count - 1}):
            try:
                picture = decoder.frame(number)
                rgb = picture.rgb()
            except UndecodableVideo:
                continue
            assert rgb.shape == (index.height, index.width, 3)
    finally:
        decoder.close()


def stored(data: bytes) -> None:
    """An index as it is kept."""
    check(loads(data))


TARGETS = (
    Target("mp4", index_of, boxes),
    Target("fragments", index_of, boxes),
    Target("matroska", index_of, elements),
    Target("demux", index_of, plain),
    Target("decode", decode, plain, deadline_s=20.0, memory_bytes=1 << 30),
    Target("stored-index", stored, plain, (ValueError,)),
)
