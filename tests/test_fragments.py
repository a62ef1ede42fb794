"""Fragmented MP4 by our own parser: every packet as libavformat has it, and what that costs to read."""

import io
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests import clips
from tests.clips import MemoryReader
from vfs.errors import Throttled, UndecodableVideo
from vfs.video import fragments, mp4
from vfs.video.index import VideoIndex, read_index

KINDS: dict[str, dict[str, Any]] = {
    "empty-moov": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "default-base": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "omit-offset": {"container_options": {"movflags": "frag_keyframe+empty_moov+omit_tfhd_offset"}, "audio": True},
    "moov-with-packets": {"container_options": {"movflags": "frag_keyframe"}},
    "separate-moof": {"container_options": {"movflags": "frag_keyframe+empty_moov+separate_moof"}, "audio": True},
    "dash": {"container_options": {"movflags": "dash+frag_keyframe"}},
    "global-sidx": {"container_options": {"movflags": "dash+frag_keyframe+global_sidx"}},
    "global-sidx-audio": {"container_options": {"movflags": "dash+frag_keyframe+global_sidx"}, "audio": True},
    "cmaf": {"container_options": {"movflags": "cmaf+frag_keyframe"}},
    "faststart": {"container_options": {"movflags": "frag_keyframe+faststart+empty_moov"}},
    "every-frame": {"container_options": {"movflags": "frag_every_frame+empty_moov+default_base_moof"}},
    "signed-delays": {"container_options": {"movflags": "frag_keyframe+empty_moov+negative_cts_offsets"}},
    "delay-moov": {"container_options": {"movflags": "frag_keyframe+delay_moov"}},
    "no-b": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "bframes": 0},
    "audio": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "audio": True, "bframes": 3},
    "by-time": {"container_options": {"movflags": "empty_moov", "frag_duration": "300000"}, "audio": True},
    "open-gop": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "open_gop": True},
    "hevc": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "codec": "libx265"},
    "vp9": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "codec": "libvpx-vp9"},
}


@pytest.fixture(scope="session")
def fragmented(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a clip by its name in KINDS, made once."""
    folder = tmp_path_factory.mktemp("fragments")

    def get(name: str) -> bytes:
        path: Path = folder / f"{name}.mp4"
        if not path.exists():
            clips.make_clip(path, **KINDS[name])
        return path.read_bytes()

    return get


def check_packets(data: bytes, index: VideoIndex) -> None:
    """Every packet is where, as long, as late and as much of a keyframe as libavformat says."""
    with av.open(io.BytesIO(data)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        assert packets[0].time_base == index.time_base
    assert index.packet_offset.tolist() == [packet.pos for packet in packets]
    assert index.packet_size.tolist() == [packet.size for packet in packets]
    times = np.array([packet.pts for packet in packets])
    assert (index.packet_pts - index.packet_pts.min()).tolist() == (times - times.min()).tolist()
    assert index.key_packets.tolist() == [n for n, packet in enumerate(packets) if packet.is_keyframe]


@pytest.mark.parametrize("name", KINDS)
def test_every_packet_is_as_libavformat_has_it(fragmented: Callable[[str], bytes], name: str) -> None:
    data = fragmented(name)
    index = read_index(MemoryReader(data), name)
    assert (index.frame_count, index.fps, index.container) == (48, 30, "")
    check_packets(data, index)


# What is read


def padded(data: bytes, bytes_each: int) -> bytes:
    """The file with so much more media data behind each fragment's, and no index of fragments."""
    out, position = [], 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"mdat":
            content = data[position + 8 : position + size]
            out.append(struct.pack(">I4s", size + bytes_each, kind) + content + bytes(bytes_each))
        elif kind != b"mfra":
            out.append(data[position : position + size])
        position += size
    return b"".join(out)


def moofs(data: bytes) -> list[int]:
    found, position = [], 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        found += [position] if kind == b"moof" else []
        position += size
    return found


def with_mfra(data: bytes, track: int = 1) -> bytes:
    rows = b"".join(struct.pack(">IIBBB", 0, at, 1, 1, 1) for at in moofs(data))
    tfra = struct.pack(">I4sIIII", 24 + len(rows), b"tfra", 0, track, 0, len(rows) // 11) + rows
    length = 8 + len(tfra) + 16
    return data + struct.pack(">I4s", length, b"mfra") + tfra + struct.pack(">I4sII", 16, b"mfro", 0, length)


def test_without_an_index_a_fragment_costs_one_small_read(fragmented: Callable[[str], bytes]) -> None:
    data = padded(fragmented("default-base"), 1 << 20)
    reader = MemoryReader(data)
    index = read_index(reader, "c.mp4")
    assert index.frame_count == 48
    assert len(moofs(data)) == 4
    assert len(reader.reads) <= 1 + 1 + 4  # the head, the end where an index may be, a fragment each
    assert reader.bytes_read <= (64 << 10) + 5 * (32 << 10)


def test_fragments_close_together_come_by_a_few_reads(fragmented: Callable[[str], bytes]) -> None:
    reader = MemoryReader(fragmented("every-frame"))
    assert len(moofs(reader.data)) >= 47
    read_index(reader, "c.mp4")
    assert len(reader.reads) <= 4


@pytest.mark.parametrize("size", [1, 40])
def test_an_index_at_the_end_lets_fragments_be_read_side_by_side(fragmented: Callable[[str], bytes], size: int) -> None:
    data = with_mfra(padded(fragmented("default-base"), size << 20))
    reader = MemoryReader(data)
    together = threading.Barrier(3)
    places = moofs(data)[1:]

    def meet(start: int, length: int) -> None:
        if start in places:
            together.wait(30)

    reader.before_read = meet
    index = read_index(reader, "c.mp4")
    assert index.frame_count == 48
    assert len(reader.reads) <= 1 + 1 + 4
    plain = read_index(MemoryReader(padded(fragmented("default-base"), size << 20)), "c.mp4")
    assert index.packet_offset.tolist() == plain.packet_offset.tolist()
    assert index.pts.tolist() == plain.pts.tolist()


def test_an_index_in_front_is_used(fragmented: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "_STRETCH_BYTES", 1)
    monkeypatch.setattr(fragments, "_FIRST_BYTES", 1024)
    monkeypatch.setattr(mp4, "FIRST_BYTES", 2048)
    for name in ("global-sidx", "global-sidx-audio"):
        data = fragmented(name)
        reader = MemoryReader(data)
        threads: set[str] = set()

        def note(start: int, length: int, seen: set[str] = threads) -> None:
            seen.add(threading.current_thread().name)

        reader.before_read = note
        check_packets(data, read_index(reader, name))
        assert any(thread.startswith("fragments") for thread in threads)


@pytest.mark.parametrize("shift", [8, -8, 1 << 20])
def test_an_index_that_lies_is_not_believed(fragmented: Callable[[str], bytes], shift: int) -> None:
    data = padded(fragmented("default-base"), 1 << 20)
    honest = with_mfra(data)
    start = len(data) + 8 + 24 + 4
    rows = [struct.pack(">I", at + shift) for at in moofs(data)]
    for number, row in enumerate(rows):
        honest = clips.patched(honest, start + 11 * number, row)
    index = read_index(MemoryReader(honest), "c.mp4")
    assert index.packet_offset.tolist() == read_index(MemoryReader(data), "c.mp4").packet_offset.tolist()


def test_an_error_of_the_reader_passes_from_a_thread(fragmented: Callable[[str], bytes]) -> None:
    data = with_mfra(padded(fragmented("default-base"), 1 << 20))
    reader = MemoryReader(data)
    last = moofs(data)[-1]

    def refuse(start: int, length: int) -> None:
        if start == last:
            raise Throttled("try later")

    reader.before_read = refuse
    with pytest.raises(Throttled):
        read_index(reader, "c.mp4")


# What fragments may say


def test_a_recording_that_was_broken_off_has_its_whole_fragments(fragmented: Callable[[str], bytes]) -> None:
    data = fragmented("default-base")
    third = moofs(data)[2]
    for cut in (third, third + 4, third + 50):
        assert read_index(MemoryReader(data[:cut]), "c.mp4").frame_count == 24


def test_a_fragment_without_a_time_goes_on_where_the_last_ended(fragmented: Callable[[str], bytes]) -> None:
    data = fragmented("default-base")
    index = read_index(MemoryReader(data.replace(b"tfdt", b"free")), "c.mp4")
    assert index.pts.tolist() == read_index(MemoryReader(data), "c.mp4").pts.tolist()


def test_an_orientation_holds_for_fragments_too(fragmented: Callable[[str], bytes]) -> None:
    index = read_index(MemoryReader(clips.turned(fragmented("default-base"), (0, 1, -1, 0))), "c.mp4")
    assert (index.rotation, index.width, index.height) == (90, 128, 192)


def test_a_run_without_the_bytes_for_its_frames_is_refused(fragmented: Callable[[str], bytes]) -> None:
    data = fragmented("default-base")
    at = data.index(b"trun") + 8
    for count, words in ((1 << 31, "more than"), (2000, "has not the bytes")):
        with pytest.raises(UndecodableVideo, match=words):
            read_index(MemoryReader(clips.patched(data, at, struct.pack(">I", count))), "c.mp4")
