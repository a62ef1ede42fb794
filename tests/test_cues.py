"""Matroska by its Cues: what that costs to read, when it is not done, and that no frame is ever another's."""

import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from tests import clips
from tests.clips import MemoryReader
from vfs.errors import Throttled, UndecodableVideo
from vfs.video import cues, matroska, stamp
from vfs.video.decode import Decoder
from vfs.video.encode import encode_jpeg
from vfs.video.index import VideoIndex, dumps, loads, read_index

FRONT = {"cues_to_front": "1", "reserve_index_space": "4096"}

KINDS: dict[str, dict[str, Any]] = {
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "0"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9-sound.mkv": {"codec": "libvpx-vp9", "audio": True},
    "vp9-front.mkv": {"codec": "libvpx-vp9", "container_options": FRONT, "audio": True},
    "vp9-ntsc.webm": {"codec": "libvpx-vp9", "rate": Fraction(30000, 1001)},
    "vp9-late.mkv": {"codec": "libvpx-vp9", "ticks": range(50, 98), "time_base": Fraction(1, 30)},
    "vp9-keys-only.mkv": {"codec": "libvpx-vp9", "gop": 1},
    "vp9-keys-within-clusters.mkv": {"codec": "libvpx-vp9", "container_options": {"cluster_size_limit": "2600"}},
    "vp9-several-keys-a-cluster.mkv": {"codec": "libvpx-vp9", "gop": 4, "size": (96, 64)},
    "av1.webm": {"codec": "libsvtav1"},
    "av1-sound.mkv": {"codec": "libsvtav1", "audio": True, "rate": 24},
    "av1-60.mkv": {"codec": "libsvtav1", "rate": 60},
}
PASSED_OVER: dict[str, dict[str, Any]] = {
    "h264.mkv": {},
    "without-cues.webm": {"codec": "libvpx-vp9", "container_options": {"live": "1"}},
    "uneven.webm": {
        "codec": "libvpx-vp9",
        "ticks": [2 * n + n // 20 for n in range(48)],
        "time_base": Fraction(1, 60),
    },
    "two-keyframes.webm": {"codec": "libvpx-vp9", "gop": 24},
    "too-fast-for-its-clock.webm": {"codec": "libvpx-vp9", "rate": 480},
}


@pytest.fixture(autouse=True)
def _however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matroska, "_SMALL_BYTES", 0)


@pytest.fixture(scope="session")
def cued_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a clip by its name in KINDS or PASSED_OVER, made once."""
    folder = tmp_path_factory.mktemp("cues")

    def get(name: str) -> bytes:
        path: Path = folder / name
        if not path.exists():
            clips.make_clip(path, **(KINDS | PASSED_OVER)[name])
        return path.read_bytes()

    return get


@pytest.fixture
def pass_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], VideoIndex]:
    """The index of the pass over all blocks."""

    def index(data: bytes) -> VideoIndex:
        with monkeypatch.context() as patch:
            patch.setattr(matroska, "_SMALL_BYTES", len(data))
            return read_index(MemoryReader(data), "clip")

    return index


def opened(data: bytes) -> tuple[MemoryReader, VideoIndex, Decoder]:
    reader = MemoryReader(data)
    index = read_index(reader, "clip")
    assert index.container == cues.CONTAINER
    reader.reads.clear()
    return reader, index, Decoder(reader, index, "clip")


def number_at(decoder: Decoder, number: int) -> int:
    return stamp.read(simplejpeg.decode_jpeg(encode_jpeg(decoder.frame(number))))


def fates(decoder: Decoder, numbers: Iterable[int]) -> set[int]:
    """The frames that are given, each of which is the one that was asked for."""
    given = set()
    for number in numbers:
        try:
            assert number_at(decoder, number) == number
            given.add(number)
        except UndecodableVideo:
            pass
    return given


@pytest.mark.parametrize("name", KINDS)
def test_the_index_by_cues_is_that_of_the_blocks(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], name: str
) -> None:
    data = cued_clip(name)
    by_blocks = pass_over(data)
    assert by_blocks.container == ""
    _, index, _ = opened(data)
    assert index.packet_pts.tolist() == by_blocks.packet_pts.tolist()
    assert index.pts.tolist() == by_blocks.pts.tolist()
    assert index.shown.tolist() == by_blocks.shown.tolist()
    assert set(index.key_packets.tolist()) <= set(by_blocks.key_packets.tolist())
    assert len(index.key_packets) >= 3
    assert index.reorder_depth == 0
    for field in ("codec", "width", "height", "fps", "time_base", "duration_ticks", "extradata", "depth"):
        assert getattr(index, field) == getattr(by_blocks, field), field
    for field in ("monochrome", "colorspace", "color_range", "rotation", "mirrored"):
        assert getattr(index, field) == getattr(by_blocks, field), field
    for number in range(index.frame_count):
        assert index.frame_at(index.pts[number].item() * index.time_base) == number
        key = index.keyframe_before(number)
        assert key == max(each for each in index.key_packets.tolist() if each <= number)


@pytest.mark.parametrize("name", KINDS)
def test_an_index_by_cues_is_kept_and_had_back(cued_clip: Callable[[str], bytes], name: str) -> None:
    reader, index, _ = opened(cued_clip(name))
    kept = loads(dumps(index))
    for field in ("packet_size", "packet_offset", "packet_pts", "shown", "pts", "key_packets"):
        assert getattr(kept, field).tolist() == getattr(index, field).tolist()
    assert (kept.container, kept.stream, kept.fps, kept.reorder_depth) == (cues.CONTAINER, 1, index.fps, 0)
    decoder = Decoder(reader, kept, "clip")
    assert number_at(decoder, 30) == 30


@pytest.mark.parametrize("name", KINDS)
def test_each_frame_shows_its_number_in_any_order(cued_clip: Callable[[str], bytes], name: str) -> None:
    data = cued_clip(name)
    _, index, decoder = opened(data)
    numbers = list(range(index.frame_count))
    assert [number_at(decoder, number) for number in numbers] == numbers
    shuffled = random.Random(name).sample(numbers, len(numbers))
    _, _, decoder = opened(data)
    assert [number_at(decoder, number) for number in shuffled] == shuffled
    for number in (0, 11, 12, 30, len(numbers) - 1):
        assert number_at(opened(data)[2], number) == number


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_cues_do_not_tell_is_passed_over_as_before(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], name: str
) -> None:
    data = cued_clip(name)
    index, before = read_index(MemoryReader(data), name), pass_over(data)
    assert (index.container, index.frame_count) == ("", 48)
    assert dumps(index) == dumps(before)


# What is read


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Twenty GOPs of large frames."""
    options = {"auto-alt-ref": "0", "b": "40000000", "qmin": "2", "qmax": "4", "deadline": "realtime", "cpu-used": "8"}
    noise = np.random.default_rng(1).integers(0, 48, (240, 320), dtype=np.uint8)

    def draw(number: int) -> Any:
        frame = clips.picture(number, (320, 240), "yuv420p")
        plane = frame.to_ndarray(format="gray") // 2 + np.roll(noise, 7 * number, 1)
        stamp.draw(plane, number)
        whole = frame.to_ndarray()
        whole[:240] = plane
        return clips.av.VideoFrame.from_ndarray(whole, format="yuv420p")

    path = tmp_path_factory.mktemp("large") / "large.webm"
    clips.make_clip(path, codec="libvpx", frames=200, gop=10, size=(320, 240), options=options, draw=draw)
    return path.read_bytes()


def test_of_a_large_file_the_head_the_cues_and_two_gops_are_read(large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert len(large) > matroska._SMALL_BYTES
    reader = MemoryReader(large)
    index = read_index(reader, "large.webm")
    assert (index.container, index.frame_count, len(index.key_packets)) == (cues.CONTAINER, 200, 20)
    assert len(reader.reads) <= 4
    assert reader.bytes_read < len(large) * 0.15
    places = sorted(reader.reads)
    cues_at = places[-1][0]
    assert sum(places[0]) == places[1][0]  # the first GOP goes on where the head ends
    assert large[cues_at : cues_at + 4] == b"\x1c\x53\xbb\x6b"


def test_cues_of_any_length_are_read(cued_clip: Callable[[str], bytes]) -> None:
    data = cued_clip("vp9.webm")
    old = data.rindex(b"\x1c\x53\xbb\x6b")
    void = b"\xec\x23\x0d\x40" + bytes(200_000)
    content = void + data[old + 5 :]
    long = b"\x1c\x53\xbb\x6b\x08" + len(content).to_bytes(4, "big") + content
    seek = data.index(b"\x53\xab\x84\x1c\x53\xbb\x6b\x53\xac")
    length = data[seek + 9] & 0x7F
    begin = data.index(b"\x18\x53\x80\x67") + 12
    data = clips.patched(data, seek + 10, (len(data) - begin).to_bytes(length, "big")) + long
    _, index, decoder = opened(data)
    assert fates(decoder, range(48)) == set(range(48)) == set(range(index.frame_count))


def test_a_gop_is_one_read_and_is_read_once(large: bytes) -> None:
    reader, index, decoder = opened(large)
    assert number_at(decoder, 57) == 57
    places = index.packet_offset[index.key_packets]
    assert reader.reads == [(places[5], places[6] - places[5])]
    for number in (51, 59, 50, 55):
        assert number_at(decoder, number) == number
    assert len(reader.reads) == 1


class ToldReader(MemoryReader):
    """Notes which reads it was told go on where the last one ended."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.went_on = 0

    def read_on(self, start: int, length: int) -> bytes:
        assert start == sum(self.reads[-1])
        self.went_on += 1
        return self.read(start, length)


def test_frames_in_order_read_every_byte_once_and_say_that_they_go_on(large: bytes) -> None:
    reader = ToldReader(large)
    index = read_index(reader, "large.webm")
    reader.reads.clear()
    decoder = Decoder(reader, index, "large.webm")
    for number in range(200):
        assert decoder.frame(number).height == 240
    assert reader.went_on >= len(reader.reads) - 2
    assert reader.bytes_read <= len(large)
    assert len(reader.reads) <= 20


def test_where_every_picture_is_a_keyframe_many_come_by_one_read(cued_clip: Callable[[str], bytes]) -> None:
    reader, _, decoder = opened(cued_clip("vp9-keys-only.mkv"))
    assert fates(decoder, range(48)) == set(range(48))
    assert len(reader.reads) <= 4
    assert reader.bytes_read <= reader.size_bytes


def test_an_error_of_the_reader_passes(large: bytes) -> None:
    whole = MemoryReader(large)
    index = read_index(whole, "large.webm")
    for last_good in range(len(whole.reads)):
        reader = MemoryReader(large)

        def refuse(start: int, length: int, reader: MemoryReader = reader, last_good: int = last_good) -> None:
            if len(reader.reads) >= last_good:
                raise Throttled("try later")

        reader.before_read = refuse
        with pytest.raises(Throttled):
            read_index(reader, "large.webm")
    with pytest.raises(Throttled):
        Decoder(reader, index, "large.webm").frame(100)


# Promises that are not held


def flags_at(index: VideoIndex, packet: int) -> int:
    """Where the flags of a packet's block stand."""
    return int(index.packet_offset[packet]) - 1


def without(data: bytes, index: VideoIndex, packet: int) -> bytes:
    """The file with a packet's block become a Void of the same length."""
    size = int(index.packet_size[packet]) + 4
    for width in range((size.bit_length() + 6) // 7, 9):
        at = flags_at(index, packet) - 3 - width - 1
        if data[at : at + 1 + width] == b"\xa3" + (size | 1 << 7 * width).to_bytes(width, "big"):
            return clips.patched(data, at, b"\xec")
    raise LookupError(packet)


@pytest.mark.parametrize("name", ["vp8.webm", "vp9-sound.mkv", "av1.webm"])
@pytest.mark.parametrize("packet", [12, 17, 23])
def test_frames_of_a_gop_that_misses_one_are_refused_and_the_others_right(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], name: str, packet: int
) -> None:
    whole = cued_clip(name)
    data = without(whole, pass_over(whole), packet)
    assert pass_over(data).frame_count == 47
    hurt = set(range(12, 24))
    for order in (list(range(48)), random.Random(packet).sample(range(48), 48)):
        _, index, decoder = opened(data)
        assert index.frame_count == 48
        assert fates(decoder, order) == set(range(48)) - hurt
    _, _, decoder = opened(data)
    assert stamp.read(decoder.frame(11, wanted=range(12, 20)).gray()) == 11, "what is wrong behind it is not its own"
    with pytest.raises(UndecodableVideo, match="do not hold what they promise"):
        decoder.frame(13)


@pytest.mark.parametrize("packet", [3, 40, 47])
def test_a_gap_in_the_first_or_the_last_gop_is_seen_at_once(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], packet: int
) -> None:
    whole = cued_clip("vp9.webm")
    data = without(whole, pass_over(whole), packet)
    index = read_index(MemoryReader(data), "clip")
    if packet == 47:  # the video is shorter then
        assert (index.container, index.frame_count) == (cues.CONTAINER, 47)
    else:
        assert (index.container, index.frame_count) == ("", 47)


@pytest.mark.parametrize(("packet", "container"), [(0, ""), (24, cues.CONTAINER), (36, "")])
def test_a_cue_must_point_at_a_keyframe(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], packet: int, container: str
) -> None:
    data = cued_clip("vp9.webm")
    at = flags_at(pass_over(data), packet)
    data = clips.patched(data, at, bytes([data[at] & 0x7F]))
    reader = MemoryReader(data)
    index = read_index(reader, "clip")
    assert (index.container, index.frame_count) == (container, 48)
    if container:
        assert fates(Decoder(reader, index, "clip"), range(48)) == set(range(48)) - set(range(24, 36))


@pytest.mark.parametrize("packet", [5, 29, 40])
def test_vp8s_pictures_for_reference_only_are_never_counted_as_frames(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex], packet: int
) -> None:
    data = cued_clip("vp8.webm")
    at = flags_at(pass_over(data), packet) + 1
    data = clips.patched(data, at, bytes([data[at] & ~0x10]))
    reader = MemoryReader(data)
    index = read_index(reader, "clip")
    if packet != 29:
        assert (index.container, index.frame_count, len(index.packet_pts)) == ("", 47, 48)
    else:
        assert (index.container, index.frame_count) == (cues.CONTAINER, 48)
        assert fates(Decoder(reader, index, "clip"), range(48)) == set(range(48)) - set(range(24, 36))


def test_vp8s_pictures_for_reference_only_harm_no_other(
    cued_clip: Callable[[str], bytes], pass_over: Callable[[bytes], VideoIndex]
) -> None:
    data, hidden = cued_clip("vp8.webm"), (5, 17, 30)
    for packet in hidden:
        at = flags_at(pass_over(data), packet) + 1
        data = clips.patched(data, at, bytes([data[at] & ~0x10]))
    reader = MemoryReader(data)
    index = read_index(reader, "clip")
    decoder = Decoder(reader, index, "clip")
    shown = [number for number in range(48) if number not in hidden]
    assert index.frame_count == len(shown)
    assert [stamp.read(decoder.frame(number).gray()) for number in range(len(shown))] == shown


def cue_time(milliseconds: int) -> bytes:
    return b"\xb3\x82" + milliseconds.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("moved_to", "container", "lost"),
    [
        (810, "", set()),  # between two frames
        (400, "", set()),  # no later than the one before it
        (1333, "", set()),  # behind the next
        (833, cues.CONTAINER, set(range(25, 36))),  # a frame that is no keyframe
        (767, cues.CONTAINER, set(range(23, 36))),  # likewise, earlier
    ],
)
def test_a_cue_with_another_time_shows_no_wrong_frame(
    cued_clip: Callable[[str], bytes], moved_to: int, container: str, lost: set[int]
) -> None:
    data = cued_clip("vp9.webm")
    assert data.count(cue_time(800)) == 1
    data = data.replace(cue_time(800), cue_time(moved_to))
    reader = MemoryReader(data)
    index = read_index(reader, "clip")
    assert (index.container, index.frame_count) == (container, 48)
    assert fates(Decoder(reader, index, "clip"), range(48)) == set(range(48)) - lost


def test_a_file_that_became_shorter_gives_the_gops_that_it_has(large: bytes) -> None:
    _, index, _ = opened(large)
    cut = int(index.packet_offset[100]) + 100
    decoder = Decoder(MemoryReader(large[:cut]), index, "clip")
    assert fates(decoder, (0, 99, 100, 109, 199)) == {0, 99}


@pytest.mark.parametrize("name", ["vp9.webm", "av1-sound.mkv", "vp9-front.mkv"])
def test_garbled_cues_show_no_wrong_frame(cued_clip: Callable[[str], bytes], name: str) -> None:
    data = cued_clip(name)
    at = data.rindex(b"\x1c\x53\xbb\x6b") if name != "vp9-front.mkv" else data.index(b"\x1c\x53\xbb\x6b", 300)
    draw = random.Random(name)
    ways = set()
    for _ in range(80):
        garbled = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            garbled[at + draw.randrange(12, 76)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        reader = MemoryReader(bytes(garbled))
        index = read_index(reader, "clip")
        ways.add(index.container)
        assert index.frame_count == 48
        fates(Decoder(reader, index, "clip"), (0, 13, 25, 47))
    assert "" in ways


def point(time: int, place: int) -> bytes:
    """A CuePoint of track 1."""
    positions = b"\xf7\x81\x01\xf1\x84" + place.to_bytes(4, "big")
    content = b"\xb3\x88" + time.to_bytes(8, "big") + b"\xb7" + bytes([0x80 | len(positions)]) + positions
    return b"\xbb" + bytes([0x80 | len(content)]) + content


@pytest.mark.parametrize(
    "points",
    [
        [(0, 100), (40, 200), (40 * 9000, 300)],  # more frames than the file has bytes for
        [(0, 100), (40, 200), (40 << 40, 300)],
        [(0, 100), (40, 200), (1 << 63, 300)],
        [(0, 100), (40, 300), (80, 200)],  # back
        [(0, 100), (40, 200), (80, 70_000)],  # beyond the end
        [(0, 200), (40, 200), (80, 300)],  # not from the first cluster on
        [(0, 100), (80, 200), (40, 300)],
        [(0, 100), (40, 200)],
    ],
)
def test_cues_that_cannot_be_are_refused_before_more_is_read(points: list[tuple[int, int]]) -> None:
    reader = MemoryReader(bytes(60_000))
    clusters = cues.Clusters(reader, 1, "vp9", 100, 60_000, memoryview(b""))
    content = memoryview(b"".join(point(*each) for each in points))
    assert cues.lay_out(clusters, Fraction(40), 0, content) is None
    assert not reader.reads
    sound = memoryview(b"".join(point(*each) for each in [(0, 100), (40, 200), (80, 300)]))
    assert cues.lay_out(clusters, Fraction(40), 0, sound) is None
    assert reader.reads


def test_garbled_stored_indexes_raise_nothing_but_undecodable(cued_clip: Callable[[str], bytes]) -> None:
    reader, index, _ = opened(cued_clip("vp9-several-keys-a-cluster.mkv"))
    stored = dumps(index)
    draw = random.Random(1)
    taken = 0
    for _ in range(300):
        garbled = bytearray(stored)
        for _ in range(draw.choice((1, 4))):
            garbled[draw.randrange(len(stored) // 2, len(stored))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
        try:
            decoder = Decoder(reader, loads(bytes(garbled)), "clip")
        except ValueError:
            continue
        for number in (0, 13, 25, 47):
            try:
                decoder.frame(number)
                taken += 1
            except UndecodableVideo:
                pass
    assert taken
    assert max(length for _, length in reader.reads) <= reader.size_bytes


@pytest.mark.parametrize("name", ["vp9.webm", "av1-sound.mkv", "vp9-front.mkv", "vp8.webm"])
def test_garbled_files_raise_nothing_but_undecodable(cued_clip: Callable[[str], bytes], name: str) -> None:
    data = cued_clip(name)
    draw = random.Random(name)
    ways = set()
    for _ in range(120):
        garbled = bytearray(data)
        for _ in range(draw.choice((1, 4, 30))):
            at = draw.choice((draw.randrange(600), draw.randrange(len(data)), len(data) - 1 - draw.randrange(90)))
            garbled[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        reader = MemoryReader(bytes(garbled))
        try:
            index = read_index(reader, "clip")
        except UndecodableVideo:
            continue
        ways.add(index.container)
        assert 0 < index.frame_count <= len(data) // 7
        assert reader.bytes_read <= 4 * len(data)
        decoder = Decoder(reader, loads(dumps(index)), "clip")
        for number in {0, 13, 25, index.frame_count - 1} & set(range(index.frame_count)):
            try:
                decoder.frame(number)
            except UndecodableVideo:
                pass
    assert ways == {"", cues.CONTAINER}
