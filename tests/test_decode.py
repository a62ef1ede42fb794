"""How frames are come by: in any order of access, with what is left out, shared, read and given back."""

import gc
import hashlib
import random
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from tests import clips
from tests.clips import MemoryReader
from tests.test_video import CLIPS, number_in, opened, wiped
from vfs.errors import UndecodableVideo
from vfs.video import decode
from vfs.video.decode import Decoder
from vfs.video.encode import encode_jpeg
from vfs.video.index import VideoIndex, read_index
from vfs.video.packets import Layout
from vfs.video.picture import Picture

FRAMES = 48
LEFT_OUT = ["h264.mp4", "h264-open-gop.mp4", "hevc-open-gop.mp4", "hevc-gray10-open-gop.mp4"]
Order = list[tuple[int, Iterable[int]]]


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


@pytest.fixture(scope="module")
def long_gop(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One GOP of 96 pictures, half of which nothing refers to."""
    return clips.make_clip(tmp_path_factory.mktemp("long") / "c.mp4", frames=96, gop=96, bframes=3).read_bytes()


def digest(picture: Picture) -> str:
    return hashlib.sha256(picture.rgb().tobytes()).hexdigest()


def orders(count: int) -> dict[str, Order]:
    draw = random.Random(9)
    forward, shuffled = list(range(count)), draw.sample(range(count), count)
    grouped = [number for gop in range(0, count, 12) for number in sorted(draw.sample(range(gop, gop + 12), 5))]
    return {
        "in order": [(n, range(n + 1, n + 9)) for n in forward],
        "in order, untold": [(n, ()) for n in forward],
        "reversed": [(n, range(n - 1, -1, -1)) for n in reversed(forward)],
        "reversed, untold": [(n, ()) for n in reversed(forward)],
        "strided": [(n, range(n + 5, count, 5)) for n in range(0, count, 5)],
        "strided, untold": [(n, ()) for n in range(0, count, 5)],
        "grouped": [(n, ()) for n in grouped],
        "shuffled": [(n, ()) for n in shuffled],
        "shuffled, with what comes": [(n, shuffled[at + 1 : at + 9]) for at, n in enumerate(shuffled)],
        "with what never comes": [(n, draw.sample(range(-5, count + 5), 9)) for n in shuffled],
    }


# Exact in any order


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CLIPS)
def test_every_order_gives_the_same_bytes_of_the_right_frames(
    clip: Callable[[str], bytes], name: str, threads: int
) -> None:
    reader, index, whole = opened(clip(name))
    expected = []
    for number in range(FRAMES):
        picture = whole.frame(number, wanted=range(number + 1, FRAMES))
        assert number_in(encode_jpeg(picture)) == number
        expected.append(digest(picture))
    kept_bytes = 6 * whole.frame(0).size_bytes  # so that most orders have to begin anew
    for order, asked in orders(FRAMES).items():
        decoder = Decoder(reader, index, name, kept_bytes, threads=threads)
        for number, wanted in asked:
            assert digest(decoder.frame(number, wanted=list(wanted))) == expected[number], (order, number)
        decoder.close()


@pytest.mark.parametrize("name", ["h264.mp4", "h264-open-gop.mp4", "hevc-open-gop.mp4", "vp9.mp4", "av1.mp4"])
def test_threads_in_different_orders_get_the_same_bytes(clip: Callable[[str], bytes], name: str) -> None:
    reader, index, whole = opened(clip(name))
    expected = [digest(whole.frame(number)) for number in range(FRAMES)]
    slots = threading.Semaphore(2)
    decoder = Decoder(reader, index, name, 6 * whole.frame(0).size_bytes, slots=slots)
    wrong: list[object] = []

    def work(asked: Order) -> None:
        try:
            wrong.extend(n for n, wanted in asked if digest(decoder.frame(n, wanted=list(wanted))) != expected[n])
        except UndecodableVideo as failure:
            wrong.append(failure)

    chosen = [order for name, order in orders(FRAMES).items() if name in ("in order", "reversed", "strided", "grouped")]
    together(*(lambda order=order: work(order) for order in chosen))
    assert not wrong


def together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", CLIPS)
def test_no_frame_of_a_whole_video_raises_doubts(
    clip: Callable[[str], bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_care: list[int] = []
    restart = decode.Run.restart

    def restarted(run: decode.Run, key: int, *, careful: bool) -> None:
        with_care.extend([key] if careful else [])
        restart(run, key, careful=careful)

    reader, index, _ = opened(clip(name))
    monkeypatch.setattr(decode.Run, "restart", restarted)
    for number in range(0, FRAMES, 5):
        Decoder(reader, index, name, threads=2).frame(number)
    assert not with_care


# What is decoded


@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_isolated_frame_leaves_out_what_it_does_not_need(clip: Callable[[str], bytes], name: str) -> None:
    data = clip(name)
    reader, index, _ = opened(data)
    layout = Layout.of(index)
    spans = zip(index.packet_offset.tolist(), index.packet_size.tolist(), strict=True)
    spare = [layout.is_disposable(memoryview(data)[at : at + size]) for at, size in spans]
    decoder = Decoder(reader, index, name, threads=1)
    number = 22
    decoder.frame(number)
    packet = int(index.shown[number])
    key = index.keyframe_before(packet)
    way = range(key, packet)
    needless = [n for n in way if spare[n] and index.packet_pts[n] < index.packet_pts[packet]]
    # Pictures that an open GOP shows before its keyframe may come out or not.
    behind = 2 + 2 * index.reorder_depth
    assert len(needless) >= 3
    assert decoder.decoded_frames <= len(way) - len(needless) + 1 + behind


def test_wanted_pictures_are_not_left_out(long_gop: bytes) -> None:
    _, _, decoder = opened(long_gop)
    decoder.frame(90, wanted=range(89, 59, -1))
    before = decoder.decoded_frames
    assert [number_in(encode_jpeg(decoder.frame(n))) for n in range(60, 90)] == list(range(60, 90))
    assert decoder.decoded_frames == before


def test_a_frame_that_was_left_out_is_decoded_when_it_is_asked_for(long_gop: bytes) -> None:
    _, _, decoder = opened(long_gop)
    for number in (90, 61, 62, 63, 60):
        assert number_in(encode_jpeg(decoder.frame(number))) == number


@pytest.mark.parametrize("threads", [1, 2])
def test_ascending_frames_of_a_gop_cost_the_way_from_the_one_before(long_gop: bytes, threads: int) -> None:
    reader, index, _ = opened(long_gop)
    decoder = Decoder(reader, index, "clip", threads=threads)
    numbers = [11, 30, 31, 47, 60, 77, 92, 93]
    for number in numbers:
        assert number_in(encode_jpeg(decoder.frame(number))) == number
    assert decoder.decoded_frames <= 96
    assert reader.bytes_read <= index.packet_size.sum()


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("told", [False, True])
def test_in_order_each_picture_is_decoded_once(clip: Callable[[str], bytes], name: str, told: bool) -> None:
    _, _, decoder = opened(clip(name))
    for number in range(FRAMES):
        decoder.frame(number, wanted=range(number + 1, number + 9) if told else ())
    assert decoder.decoded_frames == FRAMES


def test_frames_in_order_are_decoded_once_when_there_is_room_for_few(long_gop: bytes) -> None:
    reader, index, whole = opened(long_gop)
    decoder = Decoder(reader, index, "clip", 8 * whole.frame(0).size_bytes)
    for number in range(96):
        decoder.frame(number)
    assert decoder.decoded_frames == 96


def test_wanted_pictures_stay_when_others_come(long_gop: bytes) -> None:
    reader, index, whole = opened(long_gop)
    decoder = Decoder(reader, index, "clip", 10 * whole.frame(0).size_bytes)
    decoder.frame(40, wanted=range(39, 31, -1))
    decoder.frame(80)  # more pictures than there is room for come out on the way
    before = decoder.decoded_frames
    for number in range(39, 31, -1):
        assert number_in(encode_jpeg(decoder.frame(number))) == number
    assert decoder.decoded_frames == before


def test_a_frame_that_another_thread_is_on_its_way_past_is_not_left_out(long_gop: bytes) -> None:
    reader, _, decoder = opened(long_gop)
    asked, arrived = threading.Event(), threading.Event()
    took = decode.Run.ask

    def hold(start: int, length: int) -> None:
        arrived.set()
        assert asked.wait(30)

    reader.before_read = hold
    got: list[int] = []
    first = threading.Thread(target=lambda: got.append(number_in(encode_jpeg(decoder.frame(80)))))
    first.start()
    assert arrived.wait(30)

    def ask(run: decode.Run, packets: list[int]) -> None:
        took(run, packets)
        asked.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode.Run, "ask", ask)
        assert number_in(encode_jpeg(decoder.frame(41))) == 41
    first.join()
    assert got == [80]
    assert len(reader.reads) == 1
    assert decoder.decoded_frames < 80


# What is read


@pytest.mark.parametrize("threads", [1, 2])
def test_isolated_frames_fetch_little_beyond_their_way(tmp_path_factory: pytest.TempPathFactory, threads: int) -> None:
    path = clips.make_clip(tmp_path_factory.mktemp("c") / "c.mp4", frames=250, gop=250, bframes=3)
    reader, index, _ = opened(path.read_bytes())
    least = 0
    for number in random.Random(4).sample(range(250), 40):
        Decoder(reader, index, "clip", threads=threads).frame(number)
        packet = int(index.shown[number])
        least += int(index.packet_offset[packet] + index.packet_size[packet] - index.packet_offset[0])
    assert len(reader.reads) == 40
    assert reader.bytes_read <= 1.1 * least


def test_reading_that_goes_on_says_so(clip: Callable[[str], bytes]) -> None:
    class Telling(MemoryReader):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            self.further: list[int] = []

        def read_on(self, start: int, length: int) -> bytes:
            self.further.append(start)
            return self.read(start, length)

    reader = Telling(clip("h264.mp4"))
    index = read_index(reader, "clip")
    reader.reads.clear()
    decoder = Decoder(reader, index, "clip")
    for number in range(FRAMES):
        decoder.frame(number)
    (first, length), *others = reader.reads
    assert first == index.packet_offset[0]
    assert reader.further == [start for start, _ in others] != []
    assert reader.further[0] == first + length
    reader.further.clear()
    Decoder(reader, index, "clip").frame(40)
    assert not reader.further


def test_slots_are_held_while_decoding_and_never_while_reading(clip: Callable[[str], bytes]) -> None:
    class Slots:
        held = entered = 0

        def __enter__(self) -> None:
            self.held += 1
            self.entered += 1

        def __exit__(self, *_: object) -> None:
            self.held -= 1

    slots = Slots()
    reader = MemoryReader(clip("h264.mp4"))
    index = read_index(reader, "clip")
    during: list[int] = []
    reader.before_read = lambda start, length: during.append(slots.held)
    decoder = Decoder(reader, index, "clip", slots=slots)
    for number in (30, 3, 4, 5, 47):
        decoder.frame(number)
    assert slots.entered >= 3
    assert slots.held == 0
    assert set(during) == {0}


# Damage


@pytest.mark.parametrize("name", ["h264.mp4", "h264-open-gop.mp4", "mpeg4.mp4", "av1.mp4"])
@pytest.mark.parametrize("threads", [1, 2])
def test_damage_shows_right_frames_or_none_in_every_order(
    clip: Callable[[str], bytes], name: str, threads: int
) -> None:
    data = clip(name)
    index = read_index(MemoryReader(data), name)
    harmed = int(index.key_packets[1]) + 1
    broken = wiped(data, index, harmed)
    lost: dict[str, set[int]] = {}
    for order, asked in orders(FRAMES).items():
        decoder = Decoder(MemoryReader(broken), index, name, threads=threads)
        lost[order] = {number for number, wanted in asked if not right(decoder, index, number, wanted)}
    own = int(np.flatnonzero(index.shown == harmed)[0])
    assert all(own in lost[order] for order in lost if order not in ("grouped", "strided", "strided, untold"))
    assert lost["in order"] == lost["shuffled"] == lost["reversed"]


def right(decoder: Decoder, index: VideoIndex, number: int, wanted: Iterable[int]) -> bool:
    """Whether the frame can be had; if so, it shows its number."""
    try:
        picture = decoder.frame(number, wanted=list(wanted))
    except UndecodableVideo:
        return False
    assert number_in(encode_jpeg(picture)) == number
    return True


# What is given back


def test_what_is_kept_stays_within_its_bound(long_gop: bytes) -> None:
    reader, index, whole = opened(long_gop)
    size = whole.frame(0).size_bytes
    decoder = Decoder(reader, index, "clip", 5 * size)
    pictures = [weakref.ref(decoder.frame(n, wanted=range(n + 1, 96))) for n in range(96)]
    gc.collect()
    assert sum(picture() is not None for picture in pictures) <= 5


def test_closing_gives_back_contexts_and_pictures(
    clip: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[decode.Run] = []
    runs: list[decode.Run] = []
    close, restart = decode.Run.close, decode.Run.restart
    monkeypatch.setattr(decode.Run, "close", lambda run: (closed.append(run), close(run))[1])

    def restarted(run: decode.Run, key: int, *, careful: bool) -> None:
        runs.append(run)
        restart(run, key, careful=careful)

    monkeypatch.setattr(decode.Run, "restart", restarted)
    _, _, decoder = opened(clip("h264-no-b.mp4"))
    pictures = [weakref.ref(decoder.frame(number)) for number in (0, 13, 26, 39, 3)]
    decoder.close()
    gc.collect()
    assert set(closed) == set(runs) != set()
    assert not any(picture() for picture in pictures)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_where_an_intra_refresh_begins_decoding_cannot_begin(tmp_path: Path, suffix: str) -> None:
    """Such places are marked as keyframes; a picture decoded from there is not quite that of the encoder."""
    path = clips.make_clip(
        tmp_path / f"c.{suffix}",
        bframes=0,
        frames=150,
        options={"x264-params": "intra-refresh=1:keyint=48:scenecut=0:b-adapt=0"},
    )
    reader = MemoryReader(path.read_bytes())
    index = read_index(reader, "c")
    assert len(index.key_packets) > 1
    in_order = Decoder(reader, index, "c")
    pictures = [encode_jpeg(in_order.frame(number)) for number in range(index.frame_count)]
    assert in_order.decoded_frames <= index.frame_count + 60, "begun anew once, when the first was found to be none"
    for number in (149, 100, 52, 51, 49, 48, 30, 97):
        assert encode_jpeg(Decoder(reader, index, "c").frame(number)) == pictures[number]
    shuffled = Decoder(reader, index, "c")
    for number in random.Random(3).sample(range(index.frame_count), 40):
        assert encode_jpeg(shuffled.frame(number)) == pictures[number]
