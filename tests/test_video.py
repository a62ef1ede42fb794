"""Indexes, exact frames and JPEG files of videos, without a mount: every frame shows its own number."""

import dataclasses
import hashlib
import io
import random
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from tests import clips
from tests.clips import MemoryReader
from vfs.errors import Throttled, UndecodableVideo
from vfs.video import VIDEO_SUFFIXES, decode, mp4, run, stamp
from vfs.video.decode import Decoder
from vfs.video.encode import encode_jpeg, jpeg_size_bytes
from vfs.video.index import VideoIndex, read_index
from vfs.video.picture import Picture

STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-open-gop.mp4": {"open_gop": True},
    "h264-no-b.mp4": {"bframes": 0},
    "h264-sound.mp4": {"audio": True, "bframes": 3},
    "h264-front.mp4": {"container_options": {"movflags": "faststart"}},
    "h264.mov": {},
    "h264-fragmented.mp4": {"container_options": FRAGMENTED},
    "h264.mkv": {},
    "h264-open-gop.ts": {"open_gop": True},
    "hevc-open-gop.mp4": {"codec": "libx265", "open_gop": True, "bframes": 3},
    "hevc-open-gop.ts": {"codec": "libx265", "open_gop": True},
    "hevc-10bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "hevc-gray10-open-gop.mp4": {"codec": "libx265", "pix_fmt": "gray10le", "open_gop": True, "bframes": 4},
    "hevc-gray10-full.mp4": {"codec": "libx265", "pix_fmt": "gray10le", "full_range": True},
    "hevc-gray12.mp4": {"codec": "libx265", "pix_fmt": "gray12le", "open_gop": True},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "vp9-odd.webm": {"codec": "libvpx-vp9", "size": (193, 127)},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4-odd.mp4": {"codec": "mpeg4", "size": (193, 127)},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a clip by its name in CLIPS, made once."""
    folder = tmp_path_factory.mktemp("clips")

    def get(name: str) -> bytes:
        path: Path = folder / name
        if not path.exists():
            clips.make_clip(path, **CLIPS[name])
        return path.read_bytes()

    return get


def opened(data: bytes, name: str = "clip") -> tuple[MemoryReader, VideoIndex, Decoder]:
    reader = MemoryReader(data)
    index = read_index(reader, name)
    reader.reads.clear()
    return reader, index, Decoder(reader, index, name)


def number_in(jpeg: bytes) -> int:
    return stamp.read(simplejpeg.decode_jpeg(jpeg))


def shown_numbers(data: bytes) -> list[int]:
    _, index, decoder = opened(data)
    return [number_in(encode_jpeg(decoder.frame(number))) for number in range(index.frame_count)]


# Exact frames


@pytest.mark.parametrize("name", CLIPS)
def test_each_frame_shows_its_number_with_the_same_bytes_in_any_order(clip: Callable[[str], bytes], name: str) -> None:
    reader, index, decoder = opened(clip(name))
    size = CLIPS[name].get("size", (192, 128))
    assert (index.frame_count, index.width, index.height, index.fps) == (48, *size, 30)
    count = index.frame_count
    shuffled = random.Random(7).sample(range(count), count)
    digests: dict[int, str] = {}
    for order in (range(count), reversed(range(count)), shuffled):
        for number in order:
            jpeg = encode_jpeg(decoder.frame(number))
            assert number_in(jpeg) == number
            assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (index.height, index.width)
            digest = hashlib.sha256(jpeg).hexdigest()
            assert digests.setdefault(number, digest) == digest
        decoder = Decoder(reader, index, name)  # without the pictures that it kept


@pytest.mark.parametrize("name", CLIPS)
def test_a_single_frame_is_right_when_nothing_was_decoded_before(clip: Callable[[str], bytes], name: str) -> None:
    reader, index, _ = opened(clip(name))
    for number in (0, 9, 10, 11, 12, 13, 23, 24, 35, 36, 47):  # around the keyframes
        assert number_in(encode_jpeg(Decoder(reader, index, name).frame(number))) == number


@pytest.mark.parametrize("name", CLIPS)
def test_sequential_reading_decodes_each_picture_once(clip: Callable[[str], bytes], name: str) -> None:
    _, index, decoder = opened(clip(name))
    for number in range(index.frame_count):
        decoder.frame(number)
    assert decoder.decoded_frames == index.frame_count


@pytest.mark.parametrize("name", ["h264.mp4", "h264-open-gop.mp4", "h264-sound.mp4"])
def test_h264_that_does_not_say_how_many_pictures_to_hold_back_loses_none(
    clip: Callable[[str], bytes], name: str
) -> None:
    reader, index, _ = opened(clip(name))
    avcc = index.extradata or b""
    (length,) = struct.unpack_from(">H", avcc, 6)
    sps = without_vui(avcc[8 : 8 + length])
    silent = avcc[:6] + struct.pack(">H", len(sps)) + sps + avcc[8 + length :]
    decoder = Decoder(reader, dataclasses.replace(index, extradata=silent), name)
    for number in [*range(48), *random.Random(1).sample(range(48), 48)]:
        assert number_in(encode_jpeg(decoder.frame(number))) == number


def without_vui(sps: bytes) -> bytes:
    """An H.264 sequence parameter set without its last part, which holds max_num_reorder_frames (H.264, 7.3.2.1.1)."""
    bits = "".join(f"{byte:08b}" for byte in sps[1:].replace(b"\0\0\x03", b"\0\0"))
    at = 24  # after profile, constraints and level

    def skip(codes: int, flags: int = 0) -> int:
        """Skips Exp-Golomb codes, then flags; the last code's value."""
        nonlocal at
        value = 0
        for _ in range(codes):
            zeros = bits.index("1", at) - at
            value = int(bits[at + zeros : at + 2 * zeros + 1], 2) - 1
            at += 2 * zeros + 1
        at += flags
        return value

    skip(1)  # id
    if sps[1] >= 100:
        skip(3, 2)  # chroma format, depths, bypass, scaling
    skip(1)  # frame numbers' length
    skip(0 if skip(1) else 1)  # picture order
    skip(1, 1)  # references, gaps
    skip(2)  # size
    at += 1 if bits[at] == "1" else 2  # frames only, else fields
    at += 1  # direct inference
    cropped = bits[at] == "1"
    at += 1
    skip(4 if cropped else 0)
    assert bits[at] == "1"
    out = bits[:at] + "01"
    out += "0" * (-len(out) % 8)
    return sps[:1] + bytes(int(out[place : place + 8], 2) for place in range(0, len(out), 8))


def test_reading_backwards_decodes_a_gop_once_while_its_pictures_are_kept(clip: Callable[[str], bytes]) -> None:
    _, index, decoder = opened(clip("h264.mp4"))
    for number in reversed(range(index.frame_count)):
        decoder.frame(number, wanted=range(number - 1, number - 13, -1))
    assert decoder.decoded_frames <= index.frame_count + 3 * (index.reorder_depth + decode.THREADS - 1)


def test_a_frame_that_is_not_there_is_an_index_error(clip: Callable[[str], bytes]) -> None:
    _, index, decoder = opened(clip("h264.mp4"))
    for number in (-1, index.frame_count):
        with pytest.raises(IndexError):
            decoder.frame(number)


def test_a_closed_decoder_gives_no_frames(clip: Callable[[str], bytes]) -> None:
    _, _, decoder = opened(clip("h264.mp4"))
    decoder.frame(3)
    decoder.close()
    with pytest.raises(UndecodableVideo, match="closed"):
        decoder.frame(3)


# What is read


@pytest.mark.parametrize(("name", "reads"), [("h264-front.mp4", 2), ("h264.mp4", 3)])
def test_an_mp4s_index_costs_moov_and_little_else(
    clip: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, name: str, reads: int
) -> None:
    monkeypatch.setattr(mp4, "FIRST_BYTES", 512)
    reader = MemoryReader(clip(name))
    read_index(reader, name)
    assert len(reader.reads) == reads
    _, moov = clips.box(reader.data, b"moov")
    assert reader.bytes_read <= moov + 8 + 2 * 512


def test_a_small_mp4s_index_costs_one_read(clip: Callable[[str], bytes]) -> None:
    reader = MemoryReader(clip("h264-front.mp4"))
    read_index(reader, "clip")
    assert len(reader.reads) == 1


@pytest.mark.parametrize("name", ["h264-fragmented.mp4", "h264.mkv", "vp9-odd.webm", "mpeg4.avi"])
def test_a_scanned_files_packets_are_found_in_it_so_that_no_demuxer_is_needed(
    clip: Callable[[str], bytes], name: str
) -> None:
    reader, index, decoder = opened(clip(name))
    assert index.container == ""
    decoder.frame(20)
    assert len(reader.reads) == 1


@pytest.mark.parametrize("name", ["h264.mp4", "h264-sound.mp4", "hevc-open-gop.mp4", "vp9.mp4", "mpeg4.mp4"])
def test_a_random_frame_costs_one_read_of_its_gop_up_to_it(clip: Callable[[str], bytes], name: str) -> None:
    reader, index, decoder = opened(clip(name))
    decoder.frame(17)
    assert len(reader.reads) == 1
    start, length = reader.reads[0]
    key, packet = index.keyframe_before(int(index.shown[17])), int(index.shown[17])
    assert start == index.packet_offset[key]
    last = packet + 2 + 3 * index.reorder_depth  # those that the decoder must see before it lets the frame go
    assert length <= index.packet_offset[last] + index.packet_size[last] - start
    assert decoder.decoded_frames <= last - key + 1


def test_sequential_reading_reads_each_byte_about_once_in_few_reads(clip: Callable[[str], bytes]) -> None:
    reader, index, decoder = opened(clip("h264.mp4"))
    for number in range(index.frame_count):
        decoder.frame(number)
    assert len(reader.reads) <= index.frame_count / 6
    assert reader.bytes_read <= 1.1 * index.packet_size.sum()


def test_packets_far_apart_are_not_read_with_what_is_between(
    clip: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.video.packets._MAX_GAP_BYTES", 0)
    reader, index, decoder = opened(clip("h264-sound.mp4"))
    for number in range(index.frame_count):
        assert number_in(encode_jpeg(decoder.frame(number))) == number
    assert reader.bytes_read <= 1.1 * index.packet_size.sum()


# The index


@pytest.mark.parametrize("name", [n for n in CLIPS if n.endswith((".mp4", ".mov")) and "frag" not in n])
def test_the_moov_parser_agrees_with_libavformat_on_every_packet(clip: Callable[[str], bytes], name: str) -> None:
    data = clip(name)
    index = read_index(MemoryReader(data), name)
    with av.open(io.BytesIO(data)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
    assert index.packet_offset.tolist() == [packet.pos for packet in packets]
    assert index.packet_size.tolist() == [packet.size for packet in packets]
    assert index.key_packets.tolist() == [n for n, packet in enumerate(packets) if packet.is_keyframe]
    assert index.pts.tolist() == sorted(packet.pts for packet in packets)


def test_an_index_takes_a_few_tens_of_bytes_a_frame(clip: Callable[[str], bytes]) -> None:
    index = read_index(MemoryReader(clip("h264.mp4")), "clip")
    arrays = (index.pts, index.shown, index.packet_offset, index.packet_size, index.packet_pts, index.key_packets)
    assert sum(array.nbytes for array in arrays) <= 40 * index.frame_count


def test_frame_at_is_exact_where_a_float_would_not_be(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "c.mp4", codec="mpeg4", rate=Fraction(30000, 1001), frames=40)
    index = read_index(MemoryReader(path.read_bytes()), "clip")
    assert index.fps == Fraction(30000, 1001)
    for number in range(index.frame_count):
        begins = int(index.pts[number]) * index.time_base
        assert index.frame_at(begins) == number
        assert index.frame_at(begins - Fraction(1, 10**30)) == max(0, number - 1)
    assert index.frame_at(Fraction(-5)) == 0
    assert index.frame_at(Fraction(10**9)) == 39


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_keeps_each_frames_time(tmp_path: Path, suffix: str) -> None:
    ticks = [0, 40, 50, 200, 201, 300, 1000, 1033, 1066, 2000]
    path = clips.make_clip(
        tmp_path / f"c.{suffix}", frames=10, gop=4, bframes=1, ticks=ticks, time_base=Fraction(1, 1000)
    )
    _, index, decoder = opened(path.read_bytes())
    assert [int(pts) * index.time_base * 1000 for pts in index.pts] == ticks
    assert index.frame_at(Fraction(999, 1000)) == 5
    assert [number_in(encode_jpeg(decoder.frame(n))) for n in range(10)] == list(range(10))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_late_start_is_time_0(tmp_path: Path, suffix: str) -> None:
    path = clips.make_clip(tmp_path / f"c.{suffix}", frames=20, ticks=[300 + n for n in range(20)])
    _, index, decoder = opened(path.read_bytes())
    assert index.pts[0] == 0
    assert index.frame_at(Fraction(1, 2)) == 15
    assert number_in(encode_jpeg(decoder.frame(15))) == 15


def test_small_sample_sizes_and_64_bit_chunk_offsets_are_read(clip: Callable[[str], bytes]) -> None:
    data = clip("h264.mp4")
    plain = read_index(MemoryReader(data), "clip")
    start, _ = clips.box(data, *STBL, b"stsz")
    (count,) = struct.unpack_from(">I", data, start + 8)
    sizes = np.frombuffer(data, ">u4", count, start + 12)
    other = clips.replaced(
        data, (*STBL, b"stsz"), b"stz2", struct.pack(">III", 0, 16, count) + sizes.astype(">u2").tobytes()
    )
    start, _ = clips.box(other, *STBL, b"stco")
    (chunks,) = struct.unpack_from(">I", other, start + 4)
    offsets = np.frombuffer(other, ">u4", chunks, start + 8).astype(">u8").tobytes()
    other = clips.replaced(other, (*STBL, b"stco"), b"co64", struct.pack(">II", 0, chunks) + offsets)
    index = read_index(MemoryReader(other), "clip")
    assert index.packet_offset.tolist() == plain.packet_offset.tolist()
    assert index.packet_size.tolist() == plain.packet_size.tolist()


def test_negative_composition_offsets_are_read(clip: Callable[[str], bytes], tmp_path: Path) -> None:
    options = {"movflags": "negative_cts_offsets"}
    path = clips.make_clip(tmp_path / "c.mp4", container_options=options)
    data = path.read_bytes()
    start, _ = clips.box(data, *STBL, b"ctts")
    assert data[start] == 1  # the version that has a sign
    assert shown_numbers(data) == list(range(48))


def test_the_suffixes_are_lower_case_and_have_their_dot() -> None:
    assert {".mp4", ".mkv", ".avi"} <= VIDEO_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in VIDEO_SUFFIXES)


# Edit lists


def cut(data: bytes, first: int, frames: int) -> bytes:
    """Shows `frames` frames from `first`, by the edit list; 512 ticks of the media and 1000/30 of the movie a frame."""
    start, _ = clips.box(data, b"moov", b"trak", b"edts", b"elst")
    (media_time,) = struct.unpack_from(">i", data, start + 12)
    return clips.with_edit(data, media_time + first * 512, round(frames * 1000 / 30))


@pytest.mark.parametrize("name", ["h264.mp4", "h264-open-gop.mp4", "hevc-open-gop.mp4"])
def test_frames_that_an_edit_list_hides_are_not_counted(clip: Callable[[str], bytes], name: str) -> None:
    data = cut(clip(name), 7, 30)
    assert shown_numbers(data) == list(range(7, 37))
    index = read_index(MemoryReader(data), name)
    assert index.pts.tolist() == [512 * n for n in range(30)]
    with av.open(io.BytesIO(data)) as source:
        assert len(list(source.decode(video=0))) == index.frame_count


def test_an_empty_edit_in_front_hides_nothing(clip: Callable[[str], bytes]) -> None:
    data = clips.with_edits(clip("h264.mp4"), [(500, -1), (1600, 1024)])
    assert shown_numbers(data) == list(range(48))


def test_several_edits_follow_one_another(clip: Callable[[str], bytes]) -> None:
    begin = 1024
    data = clips.with_edits(clip("h264.mp4"), [(100, begin + 20 * 512), (200, -1), (100, begin + 2 * 512)])
    assert shown_numbers(data) == [20, 21, 22, 2, 3, 4]
    index = read_index(MemoryReader(data), "clip")
    assert np.diff(index.pts).tolist() == [512, 512, 512 + 3072, 512, 512]


def test_an_edit_that_shows_nothing_is_refused(clip: Callable[[str], bytes]) -> None:
    with pytest.raises(UndecodableVideo, match="no frame"):
        read_index(MemoryReader(clips.with_edit(clip("h264.mp4"), 1 << 30, 1000)), "clip")


# Rotation


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
        ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
        ((1, 0, 0, -1), lambda a: a[::-1]),
    ],
)
@pytest.mark.parametrize("name", ["h264.mp4", "hevc-gray10-full.mp4", "h264-fragmented.mp4"])
def test_rotation_is_applied(
    clip: Callable[[str], bytes], name: str, matrix: Any, turn: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> None:
    data = clip(name)
    _, _, upright = opened(data)
    _, index, decoder = opened(clips.turned(data, matrix))
    expected = turn(upright.frame(13).rgb())
    picture = decoder.frame(13)
    assert (picture.height, picture.width) == (index.height, index.width) == expected.shape[:2]
    assert (picture.rgb() == expected).all()
    jpeg = simplejpeg.decode_jpeg(encode_jpeg(picture))
    assert psnr(jpeg, expected) > 38


def test_libav_agrees_on_what_is_clockwise(clip: Callable[[str], bytes]) -> None:
    data = clips.turned(clip("h264.mp4"), (0, 1, -1, 0))
    with av.open(io.BytesIO(data)) as source:
        assert next(source.decode(video=0)).rotation == -90  # counterclockwise, as libav counts
    assert read_index(MemoryReader(data), "clip").rotation == 90


# Files that are no videos, or hostile


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0\0\x18ftyp",
        b"hello, this is text\n" * 100,
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/secret.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x1a\x45\xdf\xa3" + bytes(200),
        b"RIFF\xff\0\0\0AVI LIST" + bytes(100),
        b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x47" + bytes(187),
        b"\0\0\x01\xba" + bytes(500),
        b"\0\0\0\x08free" * 5000,
        b"\0\0\0\x01mdat" + b"\xff" * 8,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_video_is_refused_in_one_line_with_its_name(data: bytes) -> None:
    with pytest.raises(UndecodableVideo, match=r"^films/a\.mp4: .+$") as refused:
        read_index(MemoryReader(data), "films/a.mp4")
    assert "\n" not in str(refused.value)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        for number in range(4):
            out.mux(stream.encode(clips._silence(number)))
        out.mux(stream.encode(None))
    with pytest.raises(UndecodableVideo, match="no video track"):
        read_index(MemoryReader((tmp_path / "a.mp4").read_bytes()), "a.mp4")


@pytest.mark.parametrize("name", ["h264.mp4", "h264-front.mp4"])
def test_a_file_cut_off_in_moov_is_refused(clip: Callable[[str], bytes], name: str) -> None:
    start, length = clips.box(clip(name), b"moov")
    for kept in (start - 8, start + 3, start + length // 2, start + length - 1):
        with pytest.raises(UndecodableVideo):
            read_index(MemoryReader(clip(name)[:kept]), name)


def test_a_file_cut_off_in_its_pictures_gives_those_before(clip: Callable[[str], bytes]) -> None:
    whole = clip("h264-front.mp4")
    _, index, decoder = opened(whole[: len(whole) * 2 // 3])
    fates = []
    for number in range(index.frame_count):
        try:
            assert number_in(encode_jpeg(decoder.frame(number))) == number
            fates.append(True)
        except UndecodableVideo:
            fates.append(False)
    assert 24 <= sum(fates) < 48
    assert all(fates[:24])
    assert not any(fates[36:])
    with pytest.raises(UndecodableVideo, match="cut off"):
        decoder.frame(47)


def test_huge_dimensions_are_refused_before_anything_is_decoded(clip: Callable[[str], bytes]) -> None:
    data = clip("h264.mp4")
    start, _ = clips.box(data, *STBL, b"stsd")
    for size in ((65535, 65535), (16385, 2), (0, 128)):
        huge = clips.patched(data, start + 8 + 8 + 24, struct.pack(">HH", *size))
        with pytest.raises(UndecodableVideo, match=r"pictures? of"):
            read_index(MemoryReader(huge), "clip")


@pytest.mark.parametrize("name", ["h264.mp4", "hevc-open-gop.mp4", "vp9.mp4", "av1.mp4", "mpeg4.mp4"])
def test_a_codec_refuses_pictures_beyond_the_limit_too(
    clip: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(run, "MAX_PIXELS", 100 * 100)
    _, _, decoder = opened(clip(name))
    with pytest.raises(UndecodableVideo):
        decoder.frame(0)
    assert decoder.decoded_frames == 0


def test_more_frames_than_the_bound_are_refused_without_memory_for_them(clip: Callable[[str], bytes]) -> None:
    data = clip("h264.mp4")
    content = struct.pack(">III", 0, 1, 0xFFFFFFFF)
    with pytest.raises(UndecodableVideo, match="more than"):
        read_index(MemoryReader(clips.replaced(data, (*STBL, b"stsz"), b"stsz", content)), "clip")


@pytest.mark.parametrize("name", ["h264.mp4", "h264-fragmented.mp4", "mpeg4.mp4", "h264.mkv", "h264-open-gop.ts"])
def test_garbled_headers_raise_nothing_but_undecodable(clip: Callable[[str], bytes], name: str) -> None:
    data = clip(name)
    start, length = clips.box(data, b"moov") if name.endswith(".mp4") else (0, len(data))
    draw = random.Random(name)
    survived = 0
    for _ in range(120):
        garbled = bytearray(data)
        for _ in range(draw.choice((1, 4, 30))):
            at = start + draw.randrange(length)
            garbled[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        try:
            _, index, decoder = opened(bytes(garbled))
            assert 0 < index.frame_count <= 48 * 48
            for number in {0, index.frame_count // 2, index.frame_count - 1}:
                decoder.frame(number)
            survived += 1
        except UndecodableVideo:
            pass
    assert 0 < survived < 120


def test_an_encrypted_or_unknown_codec_is_named(clip: Callable[[str], bytes]) -> None:
    data = clip("h264.mp4")
    start, _ = clips.box(data, *STBL, b"stsd")
    for fourcc, message in ((b"encv", "encrypted"), (b"zzzz", "'zzzz'")):
        with pytest.raises(UndecodableVideo, match=message):
            read_index(MemoryReader(clips.patched(data, start + 12, fourcc)), "clip")


def test_avi_without_the_order_of_its_pictures_is_refused(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "c.avi", codec="libx264", bframes=2)
    with pytest.raises(UndecodableVideo, match="order"):
        read_index(MemoryReader(path.read_bytes()), "c.avi")
    assert shown_numbers(clips.make_clip(tmp_path / "d.avi", bframes=0).read_bytes()) == list(range(48))


# Damage


def fates(data: bytes, index: VideoIndex, order: Iterator[int] | range) -> dict[int, bool]:
    """Which frames can be had; each that can shows its own number."""
    decoder = Decoder(MemoryReader(data), index, "clip")
    result = {}
    for number in order:
        try:
            jpeg = encode_jpeg(decoder.frame(number))
        except UndecodableVideo:
            result[number] = False
        else:
            assert number_in(jpeg) == number
            result[number] = True
    return result


def wiped(data: bytes, index: VideoIndex, packet: int) -> bytes:
    return clips.patched(data, int(index.packet_offset[packet]), bytes(int(index.packet_size[packet])))


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264-open-gop.mp4", "hevc-open-gop.mp4", "vp9.mp4", "av1.mp4", "mpeg4.mp4"]
)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_wiped_packet_costs_no_frame_of_another_gop(clip: Callable[[str], bytes], name: str, backwards: bool) -> None:
    data = clip(name)
    index = read_index(MemoryReader(data), name)
    for offset in (0, 1, 5):
        harmed = int(index.key_packets[1]) + offset
        order = reversed(range(48)) if backwards else range(48)
        had = fates(wiped(data, index, harmed), index, order)
        lost = [number for number, there in had.items() if not there]
        assert int(np.flatnonzero(index.shown == harmed)[0]) in lost
        first, after = index.packet_pts[[index.key_packets[1], index.key_packets[2]]]
        spared = index.packet_pts[index.shown]
        # Pictures that an open GOP shows before its keyframe hang on the GOP before.
        reach = 0 if name == "h264.mp4" else 512 * CLIPS[name].get("bframes", 2)
        assert all(first - reach <= spared[number] < after for number in lost)


def test_a_lost_picture_that_no_other_refers_to_costs_only_itself(clip: Callable[[str], bytes]) -> None:
    for name in ("h264.mp4", "hevc-open-gop.mp4"):
        data = clip(name)
        index = read_index(MemoryReader(data), name)
        layout = decode.Layout.of(index)
        spans = zip(index.packet_offset.tolist(), index.packet_size.tolist(), strict=True)
        views = [memoryview(data)[at : at + size] for at, size in spans]
        packet = next(n for n, view in enumerate(views) if n > 14 and layout.is_disposable(view))
        (slice_at,) = (int(index.packet_offset[packet]) + 4,)
        # All but the NAL unit's header goes, so that the decoder sees which picture it cannot have.
        broken = clips.patched(data, slice_at + 2, b"\xff" * (int(index.packet_size[packet]) - 6))
        had = fates(broken, index, range(48))
        assert [n for n, there in had.items() if not there] == [int(np.flatnonzero(index.shown == packet)[0])]


@pytest.mark.parametrize("name", ["h264.mp4", "h264-open-gop.mp4", "av1.mp4", "mpeg4.mp4"])
def test_random_damage_never_shows_one_frame_for_another(clip: Callable[[str], bytes], name: str) -> None:
    data = clip(name)
    index = read_index(MemoryReader(data), name)
    draw = random.Random(5)
    lost = 0
    for _ in range(12):
        packet = draw.randrange(len(index.packet_size))
        at, size = int(index.packet_offset[packet]), int(index.packet_size[packet])
        broken = clips.patched(data, at + size // 2, draw.randbytes(size - size // 2))
        decoder = Decoder(MemoryReader(broken), index, name)
        for number in draw.sample(range(48), 48):
            try:
                shown = number_in(encode_jpeg(decoder.frame(number)))
            except (UndecodableVideo, ValueError):  # refused, or visibly broken
                lost += 1
            else:
                assert shown == number
    assert lost > 0


def test_a_vp9_packet_that_damage_makes_repeat_an_older_picture_is_refused(clip: Callable[[str], bytes]) -> None:
    data = clip("vp9.mp4")
    index = read_index(MemoryReader(data), "clip")
    last = index.packet_offset + index.packet_size - 1
    packet = next(n for n in range(15, 24) if data[last[n]] & 0xE0 != 0xC0 and index.packet_size[n] > 100)
    at = int(index.packet_offset[packet])
    with pytest.raises(UndecodableVideo, match="damaged"):
        Decoder(MemoryReader(clips.patched(data, at, bytes([data[at] | 8]))), index, "clip").frame(packet)


@pytest.mark.parametrize("name", ["h264-no-b.mp4", "mpeg4.mp4"])
def test_a_picture_wrongly_marked_as_keyframe_is_begun_before(clip: Callable[[str], bytes], name: str) -> None:
    data = clip(name)
    index = read_index(MemoryReader(data), name)
    keys = sorted({*index.key_packets.tolist(), int(index.key_packets[1]) + 4})
    content = struct.pack(f">II{len(keys)}I", 0, len(keys), *(key + 1 for key in keys))
    data = clips.replaced(data, (*STBL, b"stss"), b"stss", content)
    had = fates(data, read_index(MemoryReader(data), name), iter(random.Random(2).sample(range(48), 48)))
    if name == "h264-no-b.mp4":
        assert all(had.values())


# Readers and threads


def refuse(start: int, length: int) -> None:
    raise Throttled("try later")


def test_an_error_of_the_reader_passes_and_the_next_call_works(clip: Callable[[str], bytes]) -> None:
    for name in ("h264.mp4", "h264.mkv", "h264-open-gop.ts"):
        reader = MemoryReader(clip(name))
        works = reader.before_read
        reader.before_read = refuse
        with pytest.raises(Throttled):
            read_index(reader, name)
        reader.before_read = works
        index = read_index(reader, name)
        decoder = Decoder(reader, index, name)
        reader.before_read = refuse
        with pytest.raises(Throttled):
            decoder.frame(20)
        reader.before_read = works
        assert number_in(encode_jpeg(decoder.frame(20))) == 20


def test_an_error_in_the_middle_of_a_scan_passes(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "c.mkv", size=(640, 480), frames=90, options={"crf": "1"})
    reader = MemoryReader(path.read_bytes())
    assert reader.size_bytes > 2 << 20

    reader.before_read = lambda start, length: refuse(start, length) if start >= 1 << 20 else None
    with pytest.raises(Throttled):
        read_index(reader, "c.mkv")


def test_a_frame_waits_for_no_read_of_another_gop(clip: Callable[[str], bytes]) -> None:
    reader, index, decoder = opened(clip("h264.mp4"))
    decoder.frame(40)
    slow, arrived = threading.Event(), threading.Event()
    first_gop_end = int(index.packet_offset[index.key_packets[1]])

    def hang(start: int, length: int) -> None:
        if start < first_gop_end:
            arrived.set()
            assert slow.wait(30)

    reader.before_read = hang
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(number_in(encode_jpeg(decoder.frame(3)))))
    thread.start()
    assert arrived.wait(30)
    assert number_in(encode_jpeg(decoder.frame(40))) == 40
    assert number_in(encode_jpeg(decoder.frame(30))) == 30
    assert not got
    slow.set()
    thread.join()
    assert got == [3]


@pytest.mark.parametrize("name", ["h264-open-gop.mp4", "hevc-gray10-open-gop.mp4", "vp9.mp4", "h264-open-gop.ts"])
def test_many_threads_get_right_frames(clip: Callable[[str], bytes], name: str) -> None:
    _, index, decoder = opened(clip(name))
    wrong: list[object] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        order = range(index.frame_count) if seed % 2 else draw.sample(range(48), 48)
        for number in order:
            try:
                shown = number_in(encode_jpeg(decoder.frame(number)))
            except (ValueError, UndecodableVideo) as failure:
                wrong.append((number, failure))
            else:
                if shown != number:
                    wrong.append((number, shown))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_want_one_gop_together_decode_it_once(clip: Callable[[str], bytes]) -> None:
    _, index, decoder = opened(clip("h264.mp4"))
    together = threading.Barrier(4)

    def work(first: int) -> None:
        together.wait(30)
        for number in range(first, 48, 4):
            decoder.frame(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoder.decoded_frames <= index.frame_count + 24  # one may be ahead, and begin in the next GOP


def test_streams_through_one_video_do_not_disturb_each_other(clip: Callable[[str], bytes]) -> None:
    reader, index, _ = opened(clip("h264-no-b.mp4"))
    decoder = Decoder(reader, index, "clip", kept_bytes=1)
    for step in range(12):
        for first in (0, 12, 24, 36):
            decoder.frame(first + step)
    assert decoder.decoded_frames <= 48 + 4


# Pictures


def psnr(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def smooth(width: int, height: int) -> npt.NDArray[np.float64]:
    """(height, width, 3) RGB with all hues and no edges."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    parts = (np.sin(3 * x + 2 * y), np.cos(2 * x - y * 3), np.sin(4 * y - x + 1))
    return np.stack([255 * (0.5 + 0.45 * part) for part in parts], axis=2)


_MATRICES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def coded(rgb: npt.NDArray[np.float64], space: int, *, full: bool, bits: int = 8) -> av.VideoFrame:
    """RGB as 4:2:0 by the definition of the matrix and of the range (ITU-T H.273, 8.3)."""
    kr, kb = _MATRICES[space]
    red, green, blue = np.moveaxis(rgb / 255, 2, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr)]
    height, width = luma.shape
    halves = [c.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for c in chroma]
    unit, top = 1 << bits - 8, (1 << bits) - 1
    planes = [luma * top if full else (16 + 219 * luma) * unit]
    planes += [half * top + 128 * unit if full else (128 + 224 * half) * unit for half in halves]
    frame = av.VideoFrame(width, height, "yuv420p" if bits == 8 else "yuv420p10le")
    for place, plane in enumerate(planes):
        clips._fill(frame, place, np.clip(np.rint(plane), 0, top).astype(np.uint8 if bits == 8 else np.uint16))
    frame.colorspace, frame.color_range = space, 2 if full else 1
    return frame


@pytest.mark.parametrize("space", _MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_are_right(space: int, full: bool, bits: int) -> None:
    rgb = smooth(320, 240)
    picture = Picture(coded(rgb, space, full=full, bits=bits), 320, 240)
    assert psnr(picture.rgb(), rgb) > 40
    assert psnr(simplejpeg.decode_jpeg(encode_jpeg(picture)), rgb) > 40


def test_untagged_video_is_limited_601() -> None:
    rgb = smooth(320, 240)
    frame = coded(rgb, 2, full=False)
    frame.color_range = 0
    assert psnr(simplejpeg.decode_jpeg(encode_jpeg(Picture(frame, 320, 240))), rgb) > 40


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
def test_gray_of_any_depth_and_range_fills_8_bits(depth: int, full: bool) -> None:
    ramp = np.repeat(np.linspace(0, 1, 256)[None, :], 64, axis=0)
    top, unit = (1 << depth) - 1, 1 << depth - 8
    levels = ramp * top if full else (16 + 219 * ramp) * unit
    frame = av.VideoFrame(256, 64, "gray" if depth == 8 else f"gray{depth}le")
    clips._fill(frame, 0, np.rint(levels).astype(np.uint8 if depth == 8 else np.uint16))
    frame.color_range = 2 if full else 1
    picture = Picture(frame, 256, 64)
    assert np.abs(picture.gray().astype(float) - ramp * 255).max() < 1.01
    jpeg = encode_jpeg(picture)
    assert simplejpeg.decode_jpeg_header(jpeg)[2].lower() == "gray"
    assert np.abs(simplejpeg.decode_jpeg(jpeg, "GRAY")[:, :, 0].astype(float) - ramp * 255).max() <= 4


def test_a_picture_is_scaled_to_the_size_that_is_asked_for(clip: Callable[[str], bytes]) -> None:
    _, _, decoder = opened(clips.turned(clip("h264.mp4"), (0, 1, -1, 0)))
    small = decoder.frame(5).scaled(64, 96)
    assert small.rgb().shape == (96, 64, 3)
    assert stamp.read(np.rot90(small.rgb())) == 5


# JPEG files


@pytest.mark.parametrize("name", ["h264.mp4", "hevc-gray10-open-gop.mp4", "vp9-odd.webm"])
def test_every_jpeg_of_a_video_has_one_length_and_reads_everywhere(clip: Callable[[str], bytes], name: str) -> None:
    _, index, decoder = opened(clip(name))
    size = jpeg_size_bytes(index.width, index.height)
    assert size % 4096 == 0
    for number in (0, 17, 47):
        jpeg = encode_jpeg(decoder.frame(number))
        assert len(jpeg) == size
        assert jpeg.rstrip(b"\0").endswith(b"\xff\xd9")
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.size == (index.width, index.height)
            assert stamp.read(np.asarray(image)) == number
        assert stamp.read(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)) == number


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (97, 63), (640, 480)])
def test_noise_fits_at_lower_quality(size: tuple[int, int]) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture = Picture(av.VideoFrame.from_ndarray(noise, "rgb24"), width, height)
    jpeg = encode_jpeg(picture)
    assert len(jpeg) == jpeg_size_bytes(width, height)
    assert simplejpeg.decode_jpeg(jpeg).shape == (height, width, 3)


def test_the_size_follows_from_pixels_and_quality() -> None:
    assert jpeg_size_bytes(1920, 1080) == 1_245_184
    assert jpeg_size_bytes(1, 1) == 4096
    assert jpeg_size_bytes(640, 480, 95) > jpeg_size_bytes(640, 480, 90) == jpeg_size_bytes(640, 480, 50)
    assert jpeg_size_bytes(640, 480, 100) > jpeg_size_bytes(640, 480, 95)
