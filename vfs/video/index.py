"""Opens a video's bytes as an index: which container it is, and which parser reads it.

Called by whoever serves frames; the result is small and may be kept as long as the file's version stands. MP4 and
QuickTime cost two reads with moov in front (one if it is small), three at the end, about moov's bytes; the others are
read once from front to back (demux.py). Any thread may call `read_index`, which blocks on the reader.
"""

import struct

import av

from vfs.errors import UndecodableVideo
from vfs.video import demux, mp4
from vfs.video.table import ByteReader, VideoIndex

__all__ = ["ByteReader", "VideoIndex", "read_index"]


def read_index(reader: ByteReader, name: str) -> VideoIndex:
    """The index of the video; `name` is for messages. Raises UndecodableVideo; errors of the reader pass through."""
    head = memoryview(reader.read(0, mp4.FIRST_BYTES))
    container = demux.container_of(bytes(head[:1024]))
    if container is None:
        what = "it is empty" if not len(head) else "its first bytes are of no video format that is read"
        raise UndecodableVideo(f"{name}: {what}")
    try:
        if container != "mov":
            return demux.scan(reader, container, None)
        moov = mp4.find_moov(reader, head)
        if mp4.is_fragmented(moov):
            return demux.scan(reader, container, mp4.orientation_of(moov))
        return mp4.parse(moov, reader.size_bytes)
    except (ValueError, ArithmeticError, LookupError, struct.error, av.FFmpegError) as failure:
        raise UndecodableVideo(f"{name}: the video's index cannot be read: {failure}") from failure
