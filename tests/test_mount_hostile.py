"""Videos that are damaged, no videos or made to do harm, in a real mount: each costs its own frames and nothing else.

Whatever lies in a folder, its bytes can be read, its frames are right or EIO, and a good video beside it goes on
giving right ones.
"""

import errno
import io
import os
import random
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg

from tests import clips
from tests.clips import make_clip
from tests.mounting import Mount, mounted
from vfs.video import stamp

# Whatever a video is, it takes nobody longer; the clips are made outside of this time.
pytestmark = [pytest.mark.mount, pytest.mark.timeout(30, func_only=True)]

FRAMES = 48
TRUSTED = 12
GOOD = "in-order"
GOOD_FRAMES = 120
ENDLESS = 1 << 40
# Of a process, while it has to do with one bad video: several times what its largest libraries and buffers take. Of
# pictures as large as there may be (100 MB in 4:2:0) a codec holds some, and one is turned into a JPEG.
MOST_MEMORY_KIB = 400 << 10
MOST_BOMB_MEMORY_KIB = 1 << 20
FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
STSD_SIZE = 8 + 8 + 24  # version and count, an entry's head, its fields before width and height

# What becomes of a video's frames: its directory cannot be listed; all can be had; some can be had and some are EIO;
# that depends on what damage looks like to the codec.
NONE, ALL, SOME, DEPENDS = "none", "all", "some", "depends"

MAKE: dict[str, dict[str, Any]] = {
    "front": {"container_options": FASTSTART},
    "h264": {},
    "hevc": {"codec": "libx265", "open_gop": True},
    "vp9": {"codec": "libvpx-vp9"},
    "av1": {"codec": "libsvtav1"},
    "mpeg4": {"codec": "mpeg4"},
    "fragmented": {"container_options": FRAGMENTED},
}
# Without B-frames: of pictures that stand beyond the cut nobody knows that they would have been shown before others.
SUFFIXED: dict[str, dict[str, Any]] = {
    "mkv": {"bframes": 0},
    "ts": {"bframes": 0},
    "avi": {"bframes": 0},
    "mpg": {"codec": "mpeg2video"},
}


@dataclass(frozen=True)
class Bad:
    """A bad video: how its bytes are made of good ones, what becomes of its frames, and what it may cost."""

    make: Callable[["Good"], bytes]
    outcome: str
    endless: bool = False
    trusted: int = FRAMES
    """So many frames, from the first one, show their own number where they can be had."""
    most_memory_kib: int = MOST_MEMORY_KIB


class Good:
    """Clips that are in order, made once each; and a pipe that nobody may open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pipe = folder / "pipe.mp4"
        os.mkfifo(self.pipe)

    def __call__(self, name: str) -> bytes:
        suffixed = name in SUFFIXED
        path = self._folder / (f"clip.{name}" if suffixed else f"{name}.mp4")
        if not path.exists():
            make_clip(path, frames=FRAMES, **(SUFFIXED if suffixed else MAKE)[name])
        return path.read_bytes()


def cut(name: str, share: float) -> Callable[[Good], bytes]:
    """So much of a clip."""

    def make(good: Good) -> bytes:
        data = good(name)
        return data[: int(len(data) * share)]

    return make


def flipped(name: str) -> Callable[[Good], bytes]:
    """A clip with a byte in 300 of its pictures changed, beginning after the first few."""

    def make(good: Good) -> bytes:
        data, draw = bytearray(good(name)), random.Random(name)
        start, length = clips.box(bytes(data), b"mdat")
        for _ in range(length // 300):
            data[start + draw.randrange(length // 3, length)] ^= 1 << draw.randrange(8)
        return bytes(data)

    return make


def text(words: str) -> Callable[[Good], bytes]:
    """A text in which PIPE stands for the file that must not be opened."""
    return lambda good: words.replace("PIPE", str(good.pipe)).encode()


def sized(width: int, height: int) -> Callable[[Good], bytes]:
    """A clip whose header claims another size."""

    def make(good: Good) -> bytes:
        data = good("h264")
        start, _ = clips.box(data, *STBL, b"stsd")
        return clips.patched(data, start + STSD_SIZE, struct.pack(">HH", width, height))

    return make


def claiming(frames: int) -> Callable[[Good], bytes]:
    """A clip whose header claims so many frames."""
    content = struct.pack(">III", 0, 1, frames)
    return lambda good: clips.replaced(good("h264"), (*STBL, b"stsz"), b"stsz", content)


def jpeg(good: Good) -> bytes:
    return simplejpeg.encode_jpeg(np.zeros((128, 192, 3), np.uint8))


def archive(good: Good) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("clip.mp4", good("h264"))
        return file.getvalue()


def sound(good: Good) -> bytes:
    with io.BytesIO() as file:
        with av.open(file, "w", format="mp4") as out:
            stream = out.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 8192), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = 8000, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return file.getvalue()


def bomb(good: Good) -> bytes:
    """Three pictures of 2^26 pixels in some kilobytes."""
    with io.BytesIO() as file:
        with av.open(file, "w", format="mp4") as out:
            stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast", "x264-params": "threads=1"})
            stream.width, stream.height, stream.pix_fmt = 16384, 4096, "yuv420p"
            for number in range(3):
                frame = av.VideoFrame(16384, 4096, "yuv420p")
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.pts = number
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return file.getvalue()


def elsewhere(good: Good) -> bytes:
    """A movie that says its pictures are in another file."""
    url = f"file://{good.pipe}".encode() + b"\0"
    entry = struct.pack(">I4sI", 12 + len(url), b"url ", 0) + url
    content = struct.pack(">II", 0, 1) + entry
    path = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    return clips.replaced(good("h264"), path, b"dref", content)


def no_pictures(good: Good) -> bytes:
    """The head of a fragmented movie, and no fragment."""
    data = good("fragmented")
    start, length = clips.box(data, b"moov")
    return data[: start + length]


def nested_boxes(good: Good) -> bytes:
    """A movie whose boxes stand in one another, 30,000 deep."""
    depth = 30_000
    inner = b"".join(struct.pack(">I4s", 8 * (depth - n), b"trak" if n % 2 else b"udta") for n in range(depth))
    return file_type(good) + struct.pack(">I4s", 8 + len(inner), b"moov") + inner


def nested_elements(good: Good) -> bytes:
    """Matroska whose tags stand in one another, each of unknown size, 30,000 deep."""
    data, unknown = good("mkv"), b"\x01" + b"\xff" * 7
    segment, tags, tag, simple = b"\x18\x53\x80\x67", b"\x12\x54\xc3\x67", b"\x73\x73", b"\x67\xc8"
    return data[: data.index(segment)] + b"".join(kind + unknown for kind in (segment, tags, tag, *[simple] * 30_000))


def file_type(good: Good) -> bytes:
    """The box that an MP4 begins with."""
    data = good("h264")
    return data[: sum(clips.box(data, b"ftyp"))]


def endless_media(good: Good) -> bytes:
    """A movie whose pictures never end."""
    data = good("h264")
    start, _ = clips.box(data, b"mdat")
    return file_type(good) + struct.pack(">I4sQ", 1, b"mdat", ENDLESS - 64) + data[start:]


def endless_boxes(good: Good) -> bytes:
    """A movie that begins with very many boxes of nothing."""
    return file_type(good) + struct.pack(">I4s", 8, b"free") * 100_000


BAD: dict[str, Bad] = {
    "cut-in-data.mp4": Bad(cut("front", 0.7), SOME),
    "cut-in-moov.mp4": Bad(cut("front", 0.02), NONE),
    "cut-before-moov.mp4": Bad(cut("h264", 0.7), NONE),
    "cut-fragment.mp4": Bad(cut("fragmented", 0.6), SOME),
    "cut-mkv.mkv": Bad(cut("mkv", 0.6), DEPENDS),
    "cut-ts.ts": Bad(cut("ts", 0.6), ALL),
    "cut-avi.avi": Bad(cut("avi", 0.6), SOME),
    "flipped-h264.mp4": Bad(flipped("h264"), SOME),
    "flipped-mpeg4.mp4": Bad(flipped("mpeg4"), SOME),
    # No decoder of these tells of a flipped bit: what it changes is visibly broken, now and then an older picture.
    **{f"flipped-{name}.mp4": Bad(flipped(name), DEPENDS, trusted=TRUSTED) for name in ("hevc", "vp9", "av1")},
    "jpeg.mp4": Bad(jpeg, NONE),
    "mislabelled.avi": Bad(lambda good: good("h264"), ALL),
    "text.mkv": Bad(text("no video\n"), NONE),
    "page.mp4": Bad(text("<!DOCTYPE html><html><body>503 Service Unavailable</body></html>"), NONE),
    "zip.mov": Bad(archive, NONE),
    "empty.mp4": Bad(lambda good: b"", NONE),
    "sound.mp4": Bad(sound, NONE),
    "claims-65535.mp4": Bad(sized(65535, 65535), NONE),
    "claims-half.mp4": Bad(sized(96, 64), ALL),
    "claims-more.mp4": Bad(sized(1920, 1080), ALL),
    "claims-frames.mp4": Bad(claiming(0xFFFFFFFF), NONE, endless=True),
    "playlist.mp4": Bad(text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nPIPE\n#EXT-X-ENDLIST\n"), NONE),
    "playlist.ts": Bad(text("#EXTM3U\n#EXTINF:10,\nfile://PIPE\n#EXT-X-ENDLIST\n"), NONE),
    "concat.mkv": Bad(text("ffconcat version 1.0\nfile PIPE\n"), NONE),
    "session.avi": Bad(text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"), NONE),
    "elsewhere.mov": Bad(elsewhere, NONE),
    "no-pictures.mp4": Bad(no_pictures, NONE),
    "nested.mp4": Bad(nested_boxes, NONE),
    "nested.mkv": Bad(nested_elements, NONE),
    "endless-ts.ts": Bad(lambda good: good("ts"), NONE, endless=True),
    "endless-mpg.mpg": Bad(lambda good: good("mpg"), NONE, endless=True),
    "endless-mkv.mkv": Bad(lambda good: good("mkv"), ALL, endless=True),
    "endless-avi.avi": Bad(lambda good: good("avi"), NONE, endless=True),
    "endless-media.mp4": Bad(endless_media, NONE, endless=True),
    "endless-boxes.mp4": Bad(endless_boxes, NONE, endless=True),
    "endless-zeros.ts": Bad(lambda good: b"", NONE, endless=True),
    # The last one: a decoder keeps pictures for those who read on, and these are large.
    "bomb.mp4": Bad(bomb, ALL, trusted=0, most_memory_kib=MOST_BOMB_MEMORY_KIB),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return Good(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def source(good: Good, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them in one folder, beside one that is in order."""
    folder = tmp_path_factory.mktemp("videos")
    make_clip(folder / f"{GOOD}.mp4", frames=GOOD_FRAMES, gop=30)
    for name, bad in BAD.items():
        (folder / name).write_bytes(bad.make(good))
        if bad.endless:
            os.truncate(folder / name, ENDLESS)
    return folder


@pytest.fixture(scope="module")
def mount(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    work = tmp_path_factory.mktemp("work")
    with mounted(source, work / "m", cache=work / "c") as mount:
        assert number_in(mount / f"frames/{GOOD}/000001.jpg") == 0  # from here on there is a decoder
        yield mount


@pytest.fixture(scope="module")
def qualities() -> Iterator[int]:
    """Each is another directory, whose pictures nobody has made yet."""
    return count(20)


@pytest.fixture
def beside(mount: Mount, qualities: Iterator[int]) -> Iterator[None]:
    """Reads the good video all the while: each picture is made anew, and right."""
    over = threading.Event()

    def read() -> int:
        wrong = 0
        while True:
            quality = next(qualities) % 80 + 20
            folder = mount / f"frames@quality={quality}/{GOOD}"
            for number in random.Random(quality).sample(range(GOOD_FRAMES), 4):
                wrong += number_in(folder / f"{number + 1:06d}.jpg") != number
            if over.wait(0.02):
                return wrong

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        yield
        over.set()
        assert reader.result(20) == 0


def number_in(path: Path) -> int:
    return stamp.read(simplejpeg.decode_jpeg(path.read_bytes(), "GRAY")[:, :, 0])


def view_of(mount: Mount, name: str) -> Path:
    """The directory of its frames: the file's stem, or its whole name where another one has that stem."""
    views = set(os.listdir(mount / "frames"))
    return mount / "frames" / (name if name in views else name.rpartition(".")[0])


def fates(view: Path, trusted: int) -> list[bool]:
    """Which frames can be had; those to be trusted show their own numbers."""
    had = []
    for place, name in enumerate(os.listdir(view)):
        try:
            data = (view / name).read_bytes()
        except OSError as failure:
            if failure.errno != errno.EIO:
                raise
            had.append(False)
            continue
        had.append(True)
        picture = simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
        assert place >= trusted or stamp.read(picture) == place
    return had


def outcome_of(had: list[bool]) -> str:
    return ALL if all(had) else SOME if any(had) else "listed, and nothing can be had"


def forget_peaks(pids: list[int]) -> None:
    """What the processes take is counted anew (proc(5), clear_refs)."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid: int) -> int:
    """The most memory that the process has had since then."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def is_waited_for(pipe: Path) -> bool:
    """Whether anybody stands in opening the pipe, which they do until there is a writer."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as failure:
        if failure.errno != errno.ENXIO:
            raise
        return False
    return True


@pytest.mark.parametrize("name", BAD)
def test_a_bad_video_costs_its_own_frames_and_nothing_else(
    mount: Mount, source: Path, good: Good, name: str, beside: None
) -> None:
    bad, view, before = BAD[name], view_of(mount, name), mount.status()
    pids = [before["pid"], *before["decoders"]["pids"]]
    forget_peaks(pids)
    had: list[bool] = []
    if bad.outcome == NONE:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                os.listdir(view)
        with pytest.raises(OSError, match="Input/output error"):
            (view / "000001.jpg").read_bytes()
    else:
        had = fates(view, bad.trusted)
        assert all(had[:TRUSTED])
        assert bad.outcome in (outcome_of(had), DEPENDS)
    after = mount.status()
    assert max(map(peak_kib, pids)) < bad.most_memory_kib
    assert after["asked"]["bugs"] == after["decoders"]["restarts"] == 0
    assert bool(lines_of(mount, view.name)) == (not all(had) or not had)
    assert not is_waited_for(good.pipe)
    assert (mount / name).stat().st_size == (source / name).stat().st_size
    with (mount / name).open("rb") as shown, (source / name).open("rb") as stored:
        assert shown.read(2 << 20) == stored.read(2 << 20)


def lines_of(mount: Mount, name: str) -> list[str]:
    """What errors.log says of a video."""
    lines = (mount / ".egofs/errors.log").read_text().splitlines()
    return [line for line in lines if f" {name}: " in line]


@pytest.mark.parametrize("file", ["000000.jpg", "000121.jpg", "999999.jpg", "1.jpg", "000001.png", "000001.jpg.jpg"])
def test_a_frame_that_the_video_does_not_have_is_not_there(mount: Mount, file: str) -> None:
    with pytest.raises(FileNotFoundError):
        (mount / f"frames/{GOOD}/{file}").read_bytes()


@pytest.mark.parametrize(
    "variant", ["frames@fps=x", "frames@size=3", "frames@", "frames@short=0", "frames@fps=1,fps=2"]
)
def test_a_variant_that_is_none_is_not_there_and_the_log_says_which_there_are(mount: Mount, variant: str) -> None:
    with pytest.raises(FileNotFoundError):
        os.listdir(mount / variant)
    (line,) = [line for line in (mount / ".egofs/errors.log").read_text().splitlines() if f" {variant} " in line]
    assert "fps=N" in line
    assert "crop=center" in line
