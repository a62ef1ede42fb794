"""Matroska and WebM by our own parser: every packet as libavformat has it, and what that costs to read."""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests import clips
from tests.clips import MemoryReader
from vfs.errors import Throttled, UndecodableVideo
from vfs.video import demux, ebml, matroska, mp4
from vfs.video.index import VideoIndex, read_index

KINDS: dict[str, dict[str, Any]] = {
    "h264.mkv": {},
    "h264-open-gop.mkv": {"open_gop": True, "bframes": 3},
    "h264-sound.mkv": {"audio": True},
    "hevc.mkv": {"codec": "libx265"},
    "hevc-gray10.mkv": {"codec": "libx265", "pix_fmt": "gray10le"},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "0"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.webm": {"codec": "libsvtav1"},
    "mpeg4.mkv": {"codec": "mpeg4"},
    "mpeg2.mkv": {"codec": "mpeg2video"},
    "live.webm": {"codec": "libvpx-vp9", "container_options": {"live": "1"}},
    "cues-in-front.mkv": {"container_options": {"cues_to_front": "1", "reserve_index_space": "4096"}},
    "small-clusters.mkv": {"container_options": {"cluster_time_limit": "100"}},
    "checksums.mkv": {"container_options": {"write_crc32": "1"}},
    "ntsc.mkv": {"rate": Fraction(30000, 1001)},
}


@pytest.fixture(scope="session")
def matroska_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a clip by its name in KINDS, made once."""
    folder = tmp_path_factory.mktemp("matroska")

    def get(name: str) -> bytes:
        path: Path = folder / name
        if not path.exists():
            clips.make_clip(path, **KINDS[name])
        return path.read_bytes()

    return get


def check_packets(data: bytes, index: VideoIndex) -> None:
    """Every packet is where, as long, as late and as much of a keyframe as libavformat says."""
    with av.open(io.BytesIO(data)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        assert packets[0].time_base == index.time_base
    assert index.packet_size.tolist() == [packet.size for packet in packets]
    assert index.packet_pts.tolist() == [packet.pts for packet in packets]
    assert index.key_packets.tolist() == [n for n, packet in enumerate(packets) if packet.is_keyframe]
    spans = zip(index.packet_offset.tolist(), index.packet_size.tolist(), strict=True)
    assert [data[at : at + size] for at, size in spans] == [bytes(packet) for packet in packets]


@pytest.mark.parametrize("name", KINDS)
def test_every_packet_is_as_libavformat_has_it(matroska_clip: Callable[[str], bytes], name: str) -> None:
    data = matroska_clip(name)
    reader = MemoryReader(data)
    index = read_index(reader, name)
    rate = KINDS[name].get("rate", 30)
    assert (index.frame_count, index.width, index.height, index.fps, index.container) == (48, 192, 128, rate, "")
    check_packets(data, index)
    assert reader.bytes_read <= len(data) + 2 * (16 << 10)


# Files that no writer at hand makes


def element(kind: int, content: bytes = b"", *, length_bytes: int = 4) -> bytes:
    """An element; a length of 0 bytes stands for the one byte that says "unknown"."""
    name = kind.to_bytes((kind.bit_length() + 7) // 8, "big")
    if not length_bytes:
        return name + b"\xff" + content
    return name + (len(content) | 1 << 7 * length_bytes).to_bytes(length_bytes, "big") + content


def number(kind: int, value: int) -> bytes:
    return element(kind, value.to_bytes(4, "big"))


class Written:
    """A file of one H.264 track, from the packets of another."""

    def __init__(self, source: bytes) -> None:
        with av.open(io.BytesIO(source)) as opened:
            self.packets = [packet for packet in opened.demux(video=0) if packet.size]
            self.extradata = opened.streams.video[0].codec_context.extradata or b""
        self.length_bytes = 4
        self.cluster_bytes = 4
        self.encodings = b""
        self.stripped = b""
        self.video = b""
        self.flags = 0
        self.grouped = False
        self.between = b""

    def block(self, packet: "av.Packet[Any]", start: int) -> bytes:
        data = bytes(packet)
        assert data.startswith(self.stripped)
        head = b"\x81" + struct.pack(">h", packet.pts - start)
        payload = data[len(self.stripped) :]
        if self.grouped:
            reference = b"" if packet.is_keyframe else element(0xFB, b"\xff")
            inner = element(0xA1, head + bytes([self.flags]) + payload) + number(0x9B, 33) + reference
            return element(0xA0, inner, length_bytes=self.length_bytes)
        flags = self.flags | 0x80 * packet.is_keyframe
        return element(0xA3, head + bytes([flags]) + payload, length_bytes=self.length_bytes)

    def bytes(self) -> bytes:
        video = element(0xE0, number(0xB0, 192) + number(0xBA, 128) + self.video)
        codec = element(0x86, b"V_MPEG4/ISO/AVC") + element(0x63A2, self.extradata)
        track = number(0xD7, 1) + number(0x83, 1) + codec + video + self.encodings + number(0x23E383, 33_333_333)
        out = [number(0x2AD7B1, 1_000_000)]
        out = [element(0x1549A966, out[0]), self.between, element(0x1654AE6B, element(0xAE, track)), self.between]
        for first in range(0, len(self.packets), 12):
            start = self.packets[first].pts
            blocks = [self.between + self.block(packet, start) for packet in self.packets[first : first + 12]]
            content = self.between + number(0xE7, start) + b"".join(blocks)
            out.append(element(0x1F43B675, content, length_bytes=self.cluster_bytes))
        head = element(0x1A45DFA3, element(0x4282, b"matroska"))
        return head + element(0x18538067, b"".join(out), length_bytes=8 if self.cluster_bytes else 0)


@pytest.fixture
def written(matroska_clip: Callable[[str], bytes]) -> Written:
    return Written(matroska_clip("h264.mkv"))


@pytest.mark.parametrize("length_bytes", [3, 8])
@pytest.mark.parametrize("cluster_bytes", [0, 8])
@pytest.mark.parametrize("grouped", [False, True])
def test_lengths_of_any_width_or_none_and_groups_are_read(
    written: Written, length_bytes: int, cluster_bytes: int, grouped: bool
) -> None:
    written.length_bytes, written.cluster_bytes, written.grouped = length_bytes, cluster_bytes, grouped
    written.between = element(0xEC, b"nothing", length_bytes=1) + element(0xBF, b"\1\2\3\4")  # Void, CRC-32
    data = written.bytes()
    index = read_index(MemoryReader(data), "c.mkv")
    assert (index.frame_count, index.fps, index.container) == (48, 30, "")
    check_packets(data, index)


def encoding(algorithm: int, settings: bytes) -> bytes:
    compression = number(0x4254, algorithm) + element(0x4255, settings)
    return element(0x6D80, element(0x6240, number(0x5033, 0) + element(0x5034, compression)))


def test_packets_with_their_common_beginning_left_out_are_whole_again(written: Written) -> None:
    plain = [bytes(packet) for packet in written.packets]
    written.stripped = b"\0\0"
    written.encodings = encoding(3, b"\0\0")
    reader = MemoryReader(written.bytes())
    index = read_index(reader, "c.mkv")
    stream = demux.PacketStream(reader, index)
    try:
        assert stream.read(0, 48) == plain
        assert stream.read(30, 33) == plain[30:33]
    finally:
        stream.close()


def test_other_encodings_of_packets_are_refused_in_words(written: Written) -> None:
    written.encodings = encoding(0, b"")
    with pytest.raises(UndecodableVideo, match="compressed once more"):
        read_index(MemoryReader(written.bytes()), "c.mkv")
    written.encodings = element(0x6D80, element(0x6240, number(0x5033, 1)))
    with pytest.raises(UndecodableVideo, match="encrypted"):
        read_index(MemoryReader(written.bytes()), "c.mkv")


@pytest.mark.parametrize("lacing", [2, 4, 6])
def test_several_pictures_in_a_block_are_refused(written: Written, lacing: int) -> None:
    written.flags = lacing
    with pytest.raises(UndecodableVideo, match="in one block"):
        read_index(MemoryReader(written.bytes()), "c.mkv")


@pytest.mark.parametrize("yaw", [0.0, 180.0])
@pytest.mark.parametrize("roll", [-90.0, 90.0, 180.0, 0.0])
def test_a_projection_turns_and_mirrors_as_in_libavformat(written: Written, yaw: float, roll: float) -> None:
    pose = element(0x7673, struct.pack(">f", yaw)) + element(0x7675, struct.pack(">d", roll))
    written.video = element(0x7670, number(0x7671, 0) + pose)
    data = written.bytes()
    index = read_index(MemoryReader(data), "c.mkv")
    assert (index.width, index.height) == ((128, 192) if index.rotation % 180 else (192, 128))
    with av.open(io.BytesIO(data)) as source:
        matrix = next(source.decode(video=0)).side_data.get("DISPLAYMATRIX")
    values = np.frombuffer(bytes(matrix), "=i4") if matrix else np.array([1, 0, 0, 0, 1], "=i4")
    a, b, _, c, d = (int(value) for value in np.sign(values[:5]))
    assert (index.rotation, index.mirrored) == mp4._ORIENTATIONS[a, b, c, d]


def test_a_recording_that_was_broken_off_has_its_whole_blocks(matroska_clip: Callable[[str], bytes]) -> None:
    data = matroska_clip("h264.mkv")
    whole = read_index(MemoryReader(data), "c.mkv")
    cut = int(whole.packet_offset[30]) + 5
    index = read_index(MemoryReader(data[:cut]), "c.mkv")
    assert index.packet_offset.tolist() == whole.packet_offset[:30].tolist()


def test_vp8s_pictures_for_reference_only_are_not_frames(matroska_clip: Callable[[str], bytes]) -> None:
    data = matroska_clip("vp8.webm")
    index = read_index(MemoryReader(data), "c.webm")
    at = int(index.packet_offset[5])
    hidden = read_index(MemoryReader(clips.patched(data, at, bytes([data[at] & ~0x10]))), "c.webm")
    assert hidden.shown.tolist() == [n for n in range(48) if n != 5]
    assert len(hidden.packet_pts) == 48


# What is read


class Fat:
    """A packet with a megabyte behind it."""

    def __init__(self, packet: "av.Packet[Any]") -> None:
        self.pts, self.is_keyframe, self.data = packet.pts, packet.is_keyframe, bytes(packet)

    def __bytes__(self) -> bytes:
        return self.data + bytes(1 << 20)


def test_large_blocks_are_hopped_over_and_small_ones_read_in_large_pieces(written: Written) -> None:
    small = MemoryReader(written.bytes())
    read_index(small, "c.mkv")
    assert len(small.reads) <= 2
    written.packets = [Fat(packet) for packet in written.packets]  # type: ignore[misc]
    large = MemoryReader(written.bytes())
    assert read_index(large, "c.mkv").frame_count == 48
    assert len(large.reads) <= 49
    assert large.bytes_read <= 49 * matroska._FIRST_BYTES
    places = sorted(large.reads)
    assert all(at + length <= following for (at, length), (following, _) in pairwise(places))


class ToldReader(MemoryReader):
    """Notes which reads it was told go on where the last one ended."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.went_on: list[int] = []

    def read_on(self, start: int, length: int) -> bytes:
        assert start == sum(self.reads[-1])
        self.went_on.append(start)
        return self.read(start, length)


# A demuxer of TS looks at the end first, and what it saw there is not read again.
@pytest.mark.parametrize(("suffix", "least"), [("mkv", 2), ("ts", 1)])
def test_a_reader_is_told_that_a_pass_goes_on_where_it_stopped(tmp_path: Path, suffix: str, least: int) -> None:
    path = clips.make_clip(tmp_path / f"c.{suffix}", size=(640, 480), frames=120, options={"crf": "1"})
    reader = ToldReader(path.read_bytes())
    assert reader.size_bytes > 3 << 20
    read_index(reader, path.name)
    assert len(reader.went_on) >= least
    assert reader.bytes_read <= reader.size_bytes + (4 << 20 if suffix == "ts" else 0)


def test_an_error_of_the_reader_passes(written: Written) -> None:
    written.packets = [Fat(packet) for packet in written.packets]  # type: ignore[misc]
    reader = MemoryReader(written.bytes())

    def refuse(start: int, length: int) -> None:
        if start:
            raise Throttled("try later")

    reader.before_read = refuse
    with pytest.raises(Throttled):
        read_index(reader, "c.mkv")


@pytest.mark.parametrize("data", [b"\0", b"\x08\x80", b"\xec\0", b"\x1a\x45\xdf\xa3"])
def test_what_is_no_element_is_a_value_error(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        ebml.header(memoryview(data))
