"""Opens a video's bytes as an index: which container it is, and which parser reads it.

Called by whoever serves frames; the result is small and may be kept as long as the file's version stands, as bytes
too (`dumps`, `loads`). MP4 and QuickTime cost two reads with moov in front (one if it is small), three at the end,
about moov's bytes; fragmented ones a small read for each fragment; Matroska and WebM their head, their Cues and two
GOPs where those are enough, else one pass over the headers of their blocks; the others are read once from front to
back (demux.py). One more read of a few KiB tells the depth of samples where no header says it. Any thread may call
`read_index`, which blocks on the reader.
"""

import struct
from dataclasses import replace

import av

from vfs.errors import UndecodableVideo
from vfs.video import configurations, demux, fragments, matroska, mp4
from vfs.video.stored import dumps, loads
from vfs.video.table import UNKNOWN_DEPTH, ByteReader, VideoIndex

__all__ = ["ByteReader", "VideoIndex", "dumps", "loads", "read_index"]


def read_index(reader: ByteReader, name: str) -> VideoIndex:
    """The index of the video; `name` is for messages. Raises UndecodableVideo; errors of the reader pass through."""
    head = memoryview(reader.read(0, mp4.FIRST_BYTES))
    container = demux.container_of(bytes(head[:1024]))
    if container is None:
        what = "it is empty" if not len(head) else "its first bytes are of no video format that is read"
        raise UndecodableVideo(f"{name}: {what}")
    try:
        return _with_depth(reader, _parsed(reader, head, container))
    except (ValueError, ArithmeticError, LookupError, MemoryError, struct.error, av.FFmpegError) as failure:
        raise UndecodableVideo(f"{name}: the video's index cannot be read: {failure}") from failure


def _parsed(reader: ByteReader, head: memoryview, container: str) -> VideoIndex:
    if container == "matroska":
        index = matroska.parse(reader, head)
        return demux.scan(reader, container) if index is None else index
    if container != "mov":
        return demux.scan(reader, container)
    moov, end = mp4.find_moov(reader, head)
    if fragments.is_fragmented(moov):
        return fragments.parse(reader, moov, end, head)
    return mp4.parse(moov, reader.size_bytes)


def _with_depth(reader: ByteReader, index: VideoIndex) -> VideoIndex:
    """The index with the depth of samples that only the first packet tells."""
    if index.depth != UNKNOWN_DEPTH:
        return index
    first = int(index.key_packets[0])
    length = min(int(index.packet_size[first]), configurations.PACKET_BYTES)
    packet = bytes(reader.read(int(index.packet_offset[first]), length))
    samples = configurations.of_packet(index.codec, index.extradata, packet)
    return replace(index, depth=samples.depth, monochrome=samples.monochrome)
