"""Clips cut out of videos: exactly what is on the screen, for the bytes of that part alone, whatever the video does."""

import io
import itertools
import os
import resource
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests import clips
from tests.clips import MemoryReader, make_clip
from vfs.errors import EgofsError, NotFound, Timeout, Unavailable, UndecodableVideo
from vfs.video import cut as cutting
from vfs.video import stamp
from vfs.video.cut import cut
from vfs.video.cutter import Cutter
from vfs.video.decode import Decoder
from vfs.video.index import VideoIndex, read_index

FAST = {"movflags": "faststart"}
Shown = list[tuple[int, Fraction]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is encoded how well is not what is tested here."""
    monkeypatch.setitem(cutting._CODEC_OPTIONS, "preset", "ultrafast")


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    made = Cutter()
    yield made
    made.close()


def index_of(data: bytes) -> VideoIndex:
    return read_index(MemoryReader(data), "clip")


def shown(data: bytes) -> Shown:
    """(number drawn in the frame, when it comes on the screen) of each frame."""
    index = index_of(data)
    decoder = Decoder(MemoryReader(data), index, "clip")
    numbers = [stamp.read(decoder.frame(number).gray()) for number in range(index.frame_count)]
    return list(zip(numbers, (int(ticks) * index.time_base for ticks in index.pts), strict=True))


def expected(times: list[Fraction], start: int, stop: int) -> Shown:
    """What is on the screen, from the times of a video's frames."""
    first = max(number for number, time in enumerate(times) if time <= start)
    return [(n, max(time, Fraction(start)) - start) for n, time in enumerate(times) if n >= first and time < stop]


def cut_of(path: Path, start: int, stop: int) -> bytes:
    return cut(MemoryReader(path.read_bytes()), path.name, Fraction(start), Fraction(stop))


RATES: dict[str, tuple[Fraction, dict[str, Any]]] = {
    "25": (Fraction(25), {}),
    "29.97": (Fraction(30000, 1001), {}),
    "30_with_many_b_frames": (Fraction(30), {"bframes": 4}),
    "60": (Fraction(60), {"gop": 50}),
    "30_in_open_gops": (Fraction(30), {"open_gop": True, "gop": 25}),
    "23.976_with_sound": (Fraction(24000, 1001), {"audio": True}),
    "25_of_hevc": (Fraction(25), {"codec": "libx265"}),
    "25_in_fragments": (Fraction(25), {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.mark.parametrize(("rate", "options"), RATES.values(), ids=RATES)
@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, 3)])
def test_a_clip_has_what_is_on_the_screen(
    tmp_path: Path, rate: Fraction, options: dict[str, Any], start: int, stop: int
) -> None:
    frames = int(4 * rate)
    path = make_clip(tmp_path / "a.mp4", frames=frames, rate=rate, **({"container_options": FAST} | options))
    data = cut_of(path, start, stop)
    assert shown(data) == expected([n / rate for n in range(frames)], start, stop)
    index = index_of(data)
    assert (index.codec, index.width, index.height) == ("h264", 192, 128)
    assert abs(index.fps - rate) < Fraction(1, 100)
    assert abs(index.duration_ticks * index.time_base - (stop - start)) < 1 / rate
    assert data.find(b"moov") < data.find(b"mdat")


def test_a_clip_keeps_the_times_of_frames_without_a_rate(tmp_path: Path) -> None:
    ticks = [*itertools.accumulate([0, 40, 1, 900, 33, 33, 500, 700, 10, 10, 10, 300, 2000, 40, 40])]
    path = make_clip(tmp_path / "a.mp4", frames=len(ticks), ticks=ticks, time_base=Fraction(1, 1000))
    times = [Fraction(tick, 1000) for tick in ticks]
    for start, stop in ((0, 1), (1, 3), (3, 4)):
        assert shown(cut_of(path, start, stop)) == expected(times, start, stop)


def test_a_clip_follows_an_edit_list(tmp_path: Path) -> None:
    data = make_clip(tmp_path / "a.mp4", frames=100, rate=25).read_bytes()
    timescale = struct.unpack_from(">I", data, clips.box(data, b"moov", b"trak", b"mdia", b"mdhd")[0] + 12)[0]
    (movie,) = struct.unpack_from(">I", data, clips.box(data, b"moov", b"mvhd")[0] + 12)
    late = clips.with_edits(data, [(3 * movie, timescale + 2 * timescale // 25)])  # begins with frame 25
    numbers = [number for number, _ in shown(late)]
    got = shown(cut(MemoryReader(late), "late", Fraction(1), Fraction(2)))
    assert got == [(number, Fraction(n, 25)) for n, number in enumerate(numbers[25:50])]
    assert got[0][0] == numbers[0] + 25


def test_a_clip_ends_where_the_video_ends(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=50, rate=25)
    assert [number for number, _ in shown(cut_of(path, 1, 11))] == list(range(25, 50))
    with pytest.raises(NotFound, match=r"a.mp4: it ends after 2.00 s, before the clip begins at 2 s"):
        cut_of(path, 2, 12)


PICTURES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "odd_sizes": ({"size": (193, 129), "codec": "libvpx-vp9"}, (192, 128)),
    "full_range": ({"full_range": True, "pix_fmt": "yuvj420p"}, (192, 128)),
    "bt709": ({"colorspace": 1}, (192, 128)),
    "ten_bits": ({"codec": "libx265", "pix_fmt": "yuv420p10le"}, (192, 128)),
}


@pytest.mark.parametrize(("options", "size"), PICTURES.values(), ids=PICTURES)
def test_a_clip_looks_as_the_video_does(tmp_path: Path, options: dict[str, Any], size: tuple[int, int]) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=50, rate=25, **options)
    data = cut_of(path, 1, 2)
    index, whole = index_of(data), index_of(path.read_bytes())
    assert (index.width, index.height) == size
    before = Decoder(MemoryReader(path.read_bytes()), whole, "a").frame(30).rgb()[: size[1], : size[0]]
    after = Decoder(MemoryReader(data), index, "clip").frame(5).rgb()
    assert stamp.read(after[:, :, 0]) == 30
    assert abs(after.astype(int) - before).mean() < 4


def test_a_clip_of_a_turned_video_is_turned(tmp_path: Path) -> None:
    data = clips.turned(make_clip(tmp_path / "a.mp4", frames=50, rate=25).read_bytes(), (0, 1, -1, 0))
    clip = cut(MemoryReader(data), "turned", Fraction(0), Fraction(1))
    index = index_of(clip)
    assert (index.width, index.height, index.rotation) == (128, 192, 0)
    upright = np.rot90(Decoder(MemoryReader(clip), index, "clip").frame(7).gray())
    assert stamp.read(np.ascontiguousarray(upright)) == 7


def test_the_same_clip_is_the_same_bytes(tmp_path: Path, cutter: Cutter, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=75, rate=25, audio=True)
    once = cut_of(path, 1, 2)
    time.sleep(1.1)  # of which no clock may tell
    assert cut_of(path, 1, 2) == once
    monkeypatch.undo()  # a process of its own has the real settings
    apart = [bytes(cutter.cut(MemoryReader(path.read_bytes()), "a", Fraction(1), Fraction(2))) for _ in range(2)]
    assert apart[0] == apart[1] == cut_of(path, 1, 2)


# -- sound


def make_sound(path: Path, seconds: int, *, rate: int = 44_100, late: Fraction = Fraction(0)) -> Path:
    """A video at 25 a second with a click of sound at each whole second of it; the sound begins late."""
    with av.open(str(path), "w", options=FAST) as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "2"})
        video.width, video.height, video.pix_fmt = 192, 128, "yuv420p"
        sound = out.add_stream("aac", rate=rate, layout="mono")
        samples = np.zeros(seconds * rate, np.float32)
        for second in range(seconds):
            at = second * rate - int(late * rate)
            samples[max(0, at) : max(0, at + rate // 100)] = np.sin(
                np.arange(len(samples[max(0, at) : max(0, at + rate // 100)])) * 0.3
            )
        for number in range(25 * seconds):
            frame = clips.picture(number, (192, 128), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        for at in range(0, len(samples) - 1023, 1024):
            piece = av.AudioFrame.from_ndarray(samples[None, at : at + 1024], "fltp", "mono")
            piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
            piece.pts = at + int(late * rate)
            out.mux(sound.encode(piece))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


def clicks(data: bytes) -> list[float]:
    """When the clicks of a file are heard, in seconds after its first frame is seen."""
    with av.open(io.BytesIO(data)) as source:
        video, sound = source.streams.video[0], source.streams.audio[0]
        origin = float((video.start_time or 0) * video.time_base)
        heard: list[float] = []
        for frame in source.decode(sound):
            loud = np.abs(frame.to_ndarray()[0]) > 0.3
            for at in np.flatnonzero(loud):
                second = float(frame.pts * frame.time_base) + int(at) / frame.sample_rate - origin
                if not heard or second - heard[-1] > 0.5:
                    heard.append(second)
    return heard


@pytest.mark.parametrize("late", [Fraction(0), Fraction(1, 4)])
def test_sound_stays_with_the_pictures(tmp_path: Path, late: Fraction) -> None:
    path = make_sound(tmp_path / "a.mp4", 6, late=late)
    begin = 1 if late else 0
    assert clicks(path.read_bytes()) == pytest.approx(range(begin, 6), abs=0.002)
    for start, stop in ((0, 3), (2, 5)):
        heard = clicks(cut_of(path, start, stop))
        # The last packet may reach beyond the clip.
        within = [each for each in heard if each < stop - start - 0.01]
        assert within == pytest.approx(range(max(0, begin - start), stop - start), abs=0.002)
        assert len(heard) <= len(within) + 1


def test_a_clip_without_sound_has_none(tmp_path: Path) -> None:
    data = cut_of(make_clip(tmp_path / "a.mp4", frames=50, rate=25), 0, 1)
    with av.open(io.BytesIO(data)) as source:
        assert not source.streams.audio


# -- cost


def test_a_clip_costs_the_bytes_of_its_part(tmp_path: Path) -> None:
    noise = np.random.default_rng(1)

    def draw(number: int) -> av.VideoFrame:
        frame = clips.picture(number, (192, 128), "yuv420p")
        plane = frame.planes[0]
        rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1).copy()
        rows[64:] = noise.integers(0, 255, rows[64:].shape)
        plane.update(rows.tobytes())
        return frame

    path = make_clip(
        tmp_path / "long.mp4", frames=1200, rate=2, draw=draw, container_options=FAST, gop=4, options={"crf": "4"}
    )
    reader = MemoryReader(path.read_bytes())
    assert reader.size_bytes > 16 << 20  # 600 s
    part = reader.size_bytes * 10 // 600
    data = cut(reader, "long", Fraction(300), Fraction(310))
    assert [number for number, _ in shown(data)] == list(range(600, 620))
    assert reader.bytes_read < part + (6 << 20)
    assert len(reader.reads) < 16
    read = sorted(reader.reads)
    assert all(start + length <= later for (start, length), (later, _) in itertools.pairwise(read))  # none twice


# -- videos that are none


def broken(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    entry = data.find(b"avc1", data.find(b"stsd")) + 28  # width and height
    mdat = data.find(b"mdat")
    return {
        "empty": b"",
        "text": b"<html>Sign in</html>" * 100,
        "only_its_beginning": data[: mdat + 100],
        "cut_off": data[: (mdat + len(data)) // 2],
        "huge_pictures": clips.patched(data, entry, struct.pack(">HH", 16000, 16000)),
        "pictures_larger_than_a_clips": clips.patched(data, entry, struct.pack(">HH", 8000, 8000)),
        "damaged_pictures": clips.patched(data, mdat + 2000, bytes(20_000)),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("empty", "text", "only_its_beginning", "cut_off", "huge_pictures"),
        *("pictures_larger_than_a_clips", "damaged_pictures"),
    ],
)
def test_what_is_no_whole_video_is_an_error(tmp_path: Path, name: str) -> None:
    data = broken(make_clip(tmp_path / "a.mp4", frames=100, rate=25, container_options=FAST))[name]
    with pytest.raises(UndecodableVideo, match=name):
        cut(MemoryReader(data), name, Fraction(0), Fraction(4))


def test_damage_anywhere_is_a_clip_or_an_error_of_ours(tmp_path: Path) -> None:
    data = make_clip(tmp_path / "a.mp4", frames=50, rate=25, audio=True, container_options=FAST).read_bytes()
    chance = np.random.default_rng(7)
    ends: set[str] = set()
    for _ in range(60):
        hurt = bytearray(data)
        for at in chance.integers(0, data.find(b"mdat") if chance.random() < 0.7 else len(data), 4):
            hurt[at] = int(chance.integers(0, 256))
        try:
            ends.add(type(cut(MemoryReader(bytes(hurt)), "hurt", Fraction(0), Fraction(2))).__name__)
        except EgofsError as failure:
            ends.add(type(failure).__name__)
    assert {"bytes", "UndecodableVideo"} <= ends <= {"bytes", "UndecodableVideo", "NotFound"}


def test_a_clip_that_would_take_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=100, rate=25)
    monkeypatch.setattr(cutting, "_MOST_BYTES", cutting._BLOCK_BYTES - 1)
    with pytest.raises(UndecodableVideo, match="takes more than"):
        cut_of(path, 0, 1)


def test_a_clip_of_too_many_frames_is_refused(tmp_path: Path) -> None:
    ticks = list(range(1100))
    path = make_clip(tmp_path / "a.mp4", frames=1100, size=(64, 64), ticks=ticks, time_base=Fraction(1, 100_000))
    with pytest.raises(UndecodableVideo, match="1100 frames are more"):
        cut_of(path, 0, 1)


# -- in a process of its own


class Reader(MemoryReader):
    """Tells what the processes that ask are like."""

    def __init__(self, data: bytes, cutter: Cutter) -> None:
        super().__init__(data)
        self._cutter = cutter
        self.seen: list[tuple[int, tuple[int, int], set[int]]] = []
        self.before_read = self._look

    def _look(self, start: int, length: int) -> None:
        for process in list(self._cutter._running):
            limit = resource.prlimit(process.pid, resource.RLIMIT_AS)
            policies = {os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{process.pid}/task")}
            self.seen.append((process.pid, limit, policies))


def test_a_cutters_process_is_limited_and_ends(tmp_path: Path, cutter: Cutter) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=50, rate=25)
    reader = Reader(path.read_bytes(), cutter)
    before = os.sched_getscheduler(0)
    data = bytes(cutter.cut(reader, "a", Fraction(0), Fraction(1)))
    assert [number for number, _ in shown(data)] == list(range(25))
    most = cutting._MOST_MEMORY_BYTES
    assert {(limit, *policies) for _, limit, policies in reader.seen} == {((most, most), before)}
    assert not any(os.path.exists(f"/proc/{pid}") for pid, _, _ in reader.seen)
    assert not cutter._running


def test_what_reading_raised_comes_back_as_itself(tmp_path: Path, cutter: Cutter) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=50, rate=25)
    reader = MemoryReader(path.read_bytes())
    failure = Unavailable("read a.mp4: the connection was lost")

    def fail(start: int, length: int) -> None:
        raise failure

    reader.before_read = fail
    with pytest.raises(Unavailable) as raised:
        cutter.cut(reader, "a", Fraction(0), Fraction(1))
    assert raised.value is failure
    assert cutter.cut(MemoryReader(path.read_bytes()), "a", Fraction(0), Fraction(1))


def test_a_process_that_dies_is_an_error_of_that_clip(tmp_path: Path, cutter: Cutter) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=50, rate=25)
    reader = MemoryReader(path.read_bytes())
    reader.before_read = lambda start, length: next(each.kill() for each in cutter._running)
    with pytest.raises(UndecodableVideo, match="a: the process that cut it died of SIGKILL"):
        cutter.cut(reader, "a", Fraction(0), Fraction(1))


def test_a_clip_has_a_deadline(tmp_path: Path) -> None:
    reader = MemoryReader(make_clip(tmp_path / "a.mp4", frames=50, rate=25).read_bytes())
    cutter = Cutter(cut_s=0.5)
    reader.before_read = lambda start, length: time.sleep(1)
    with pytest.raises(Timeout, match=r"not cut within 0\.5 s"):
        cutter.cut(reader, "a", Fraction(0), Fraction(1))


def test_two_are_cut_at_once_and_who_waits_is_told_how_many_do(tmp_path: Path) -> None:
    reader = MemoryReader(make_clip(tmp_path / "a.mp4", frames=50, rate=25).read_bytes())
    cutter = Cutter(wait_s=0.3)
    most = 0

    def slow(start: int, length: int) -> None:
        nonlocal most
        most = max(most, len(cutter._running))
        time.sleep(1)

    reader.before_read = slow
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(cutter.cut, reader, "a", Fraction(0), Fraction(1)) for _ in range(3)]
        failures = [each.exception() for each in asked]
    assert sorted(type(each).__name__ for each in failures) == ["NoneType", "NoneType", "Timeout"]
    assert "2 clips are being cut" in str(next(filter(None, failures)))
    assert most == 2


def test_closing_ends_what_is_being_cut(tmp_path: Path) -> None:
    reader = MemoryReader(make_clip(tmp_path / "a.mp4", frames=50, rate=25).read_bytes())
    cutter = Cutter()
    reader.before_read = lambda start, length: cutter.close()
    with pytest.raises(UndecodableVideo):
        cutter.cut(reader, "a", Fraction(0), Fraction(1))
    with pytest.raises(UndecodableVideo, match="the mount is ending"):
        cutter.cut(reader, "a", Fraction(0), Fraction(1))
