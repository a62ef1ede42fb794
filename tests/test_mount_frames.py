"""Frames and clips through a real mount: what is decoded, how often, and what a decoder's end does to others."""

import hashlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.clips import make_clip
from tests.mounting import Mount, mounted, wait_until
from tests.s3server import S3Server
from tests.test_mount_s3 import ENV, options
from vfs.video import stamp
from vfs.video.index import read_index

pytestmark = pytest.mark.mount

FRAMES = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_clip(folder / "colour.mp4", frames=FRAMES, gop=30)
    make_clip(folder / "deep.mp4", codec="libx265", pix_fmt="gray10le", frames=FRAMES, gop=30)
    make_clip(folder / "portrait.mp4", frames=10, size=(128, 192))
    make_clip(folder / "large.mp4", frames=60, size=(640, 480))
    (folder / "broken.mp4").write_bytes((folder / "colour.mp4").read_bytes()[:3000])
    return folder


@pytest.fixture
def mount(source: Path, tmp_path: Path) -> Iterator[Mount]:
    with mounted(source, tmp_path / "m", cache=tmp_path / "c") as mount:
        yield mount


def number_in(path: Path) -> int:
    return stamp.read(simplejpeg.decode_jpeg(path.read_bytes()))


def made(mount: Mount) -> int:
    return int(mount.status()["frames_made"])


def settled(mount: Mount) -> int:
    """Frames made, once nothing more is made ahead."""
    last = -1
    while (now := made(mount)) != last:
        last = now
        threading.Event().wait(0.3)
    return now


# Clips


def test_a_clip_is_the_frames_of_its_numbers_as_one_array(mount: Mount) -> None:
    clip = np.load(mount / "frames/colour/31-51.npy")
    assert (clip.shape, clip.dtype) == ((20, 128, 192, 3), np.uint8)
    for place, picture in enumerate(clip):
        assert stamp.read(picture) == 30 + place
        with Image.open(mount / f"frames@format=png/colour/{31 + place:06d}.png") as lossless:
            assert np.array_equal(picture, np.asarray(lossless))


def test_a_clip_with_a_step_has_every_so_manyth_frame(mount: Mount) -> None:
    clip = np.load(mount / "frames/colour/1-100-30.npy")
    assert [stamp.read(picture) for picture in clip] == [0, 30, 60, 90]


def test_monochrome_10_bit_comes_as_coded(mount: Mount) -> None:
    clip = np.load(mount / "frames/deep/5-9.npy")
    assert (clip.shape, clip.dtype) == ((4, 128, 192), np.uint16)
    assert 255 < clip.max() <= 1023
    assert [stamp.read(picture) for picture in clip] == [4, 5, 6, 7]


def test_clips_follow_rate_size_and_crop_of_their_directory(mount: Mount) -> None:
    clip = np.load(mount / "frames@fps=10,short=96,crop=center/colour/1-5.npy")
    assert clip.shape == (4, 96, 96, 3)
    whole = np.load(mount / "frames@fps=10/colour/1-5.npy")
    assert [stamp.read(picture) for picture in whole] == [0, 3, 6, 9]


def test_a_clips_size_is_known_before_it_is_decoded_and_mapping_it_decodes_what_is_touched(mount: Mount) -> None:
    path = mount / "frames/large/1-61.npy"
    before = made(mount)
    assert path.stat().st_size == 128 + 60 * 480 * 640 * 3
    assert made(mount) == before
    mapped = np.load(path, mmap_mode="r")
    assert stamp.read(np.asarray(mapped[50])) == 50
    assert settled(mount) < before + 25
    assert np.array_equal(mapped[50], np.load(mount / "frames/large/51-52.npy")[0])
    del mapped


@pytest.mark.parametrize(
    "name", ["0-5", "5-5", "9-5", "100-122", "1-5-0", "1-5-", "-1-5", "1-5.5", "x-5", "1-999999999999"]
)
def test_a_clip_outside_the_video_is_not_there(mount: Mount, name: str) -> None:
    assert not (mount / f"frames/colour/{name}.npy").exists()


def test_clips_are_not_listed(mount: Mount) -> None:
    assert (mount / "frames/colour/1-5.npy").exists()
    assert os.listdir(mount / "frames/colour") == [f"{n:06d}.jpg" for n in range(1, FRAMES + 1)]


def test_a_clip_decodes_each_frame_once_and_none_beyond_it(mount: Mount) -> None:
    before = settled(mount)
    np.load(mount / "frames/colour/31-61.npy")
    assert settled(mount) - before == 30


# Variants


@pytest.mark.parametrize(
    ("variant", "suffix", "size"),
    [
        ("format=png", "png", (192, 128)),
        ("format=ppm", "ppm", (192, 128)),
        ("short=64", "jpg", (96, 64)),
        ("width=100", "jpg", (100, 66)),
        ("height=64,format=png", "png", (96, 64)),
        ("width=100,height=50", "jpg", (100, 50)),
        ("crop=center,width=100,height=100", "jpg", (100, 100)),
        ("quality=30,fps=5,short=96", "jpg", (144, 96)),
    ],
)
def test_a_variant_says_format_and_size(mount: Mount, variant: str, suffix: str, size: tuple[int, int]) -> None:
    folder = mount / f"frames@{variant}/colour"
    names = sorted(os.listdir(folder))
    assert {Path(name).suffix for name in names} == {f".{suffix}"}
    data = (folder / names[3]).read_bytes()
    assert len(data) == (folder / names[3]).stat().st_size
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == size
        picture.load()


def test_the_shorter_side_of_a_portrait_is_its_width(mount: Mount) -> None:
    with Image.open(mount / "frames@short=64/portrait/000001.jpg") as picture:
        assert picture.size == (64, 96)


def test_deep_monochrome_comes_as_16_bit_png_and_as_arrays(mount: Mount) -> None:
    array = np.load(mount / "frames@format=npy/deep/000008.npy")
    assert (array.dtype, array.shape) == (np.uint16, (128, 192))
    with Image.open(mount / "frames@format=png/deep/000008.png") as picture:
        assert picture.mode.startswith("I;16")
        assert stamp.read(np.asarray(picture).astype(np.int64)) == stamp.read(array) == 7


def test_an_impossible_size_is_not_there(mount: Mount) -> None:
    assert not (mount / "frames@width=16384/portrait/000001.jpg").exists()


# What is told


def test_a_frames_attributes_tell_its_place_in_the_video(mount: Mount) -> None:
    def facts(path: Path) -> dict[str, str]:
        return {name: os.getxattr(path, name).decode() for name in os.listxattr(path)}

    index = read_index(_File(mount / "colour.mp4"), "colour")
    for number in (1, 31, 32):
        assert facts(mount / f"frames/colour/{number:06d}.jpg") == {
            "user.egofs.frame": str(number - 1),
            "user.egofs.pts": str(index.pts[number - 1]),
            "user.egofs.time_s": f"{(number - 1) / 30:.6f}",
            "user.egofs.keyframe": str(int((number - 1) % 30 == 0)),
        }
    assert facts(mount / "frames@fps=10/colour/000003.jpg")["user.egofs.frame"] == "6"
    assert made(mount) == 0


class _File:
    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self.size_bytes = len(self._data)

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]


def test_a_video_without_an_index_has_no_frames_and_its_bytes_all_the_same(mount: Mount, source: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(mount / "frames/broken")
    assert "broken" in (mount / ".egofs/errors.log").read_text()
    assert (mount / "broken.mp4").read_bytes() == (source / "broken.mp4").read_bytes()
    assert number_in(mount / "frames/colour/000008.jpg") == 7


# What is decoded, and what is kept


def test_opening_a_frame_decodes_nothing(mount: Mount) -> None:
    for number in range(1, 40):
        os.close(os.open(mount / f"frames/colour/{number:06d}.jpg", os.O_RDONLY))
    assert settled(mount) == 0


def test_in_order_every_frame_is_made_once(mount: Mount) -> None:
    assert [number_in(mount / f"frames/colour/{n:06d}.jpg") for n in range(1, FRAMES + 1)] == list(range(FRAMES))
    assert settled(mount) == FRAMES


@pytest.mark.parametrize("readers", [4, 16])
def test_many_readers_of_one_video_have_each_frame_made_once(mount: Mount, readers: int) -> None:
    paths = [mount / f"frames/colour/{number:06d}.jpg" for number in range(1, FRAMES + 1)]
    with ThreadPoolExecutor(readers) as pool:
        assert list(pool.map(number_in, paths)) == list(range(FRAMES))
    assert settled(mount) == FRAMES


def test_a_second_mount_decodes_nothing_that_the_first_one_has(source: Path, tmp_path: Path) -> None:
    digests, counts = [], []
    for _ in range(2):
        with mounted(source, tmp_path / "m", cache=tmp_path / "c") as mount:
            paths = [mount / f"frames/colour/{number:06d}.jpg" for number in range(10, 90)]
            digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
            settled(mount)
            counts.append((made(mount), mount.status()["frames_from_disk"]))
    assert digests[0] == digests[1]
    assert counts[0][0] >= 80
    assert counts[0][1] == 0
    assert counts[1][1] >= 80
    assert counts[1][0] <= 32  # made ahead beyond what the first mount had


def test_a_damaged_picture_on_disk_is_made_again(source: Path, tmp_path: Path) -> None:
    for damage in (False, True):
        if damage:
            for file in (tmp_path / "c/objects").glob("*/*"):
                data = bytearray(file.read_bytes())
                data[len(data) // 3] ^= 0x55
                file.write_bytes(data)
        with mounted(source, tmp_path / "m", cache=tmp_path / "c") as mount:
            assert number_in(mount / "frames/colour/000050.jpg") == 49
            assert made(mount) == 1


def test_without_a_cache_frames_are_made_anew(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with mounted(source, tmp_path / "m", "cache=off", cache=tmp_path / "c") as mount:
            assert number_in(mount / "frames/colour/000050.jpg") == 49
            assert made(mount) == 1


# Decoders that end


def test_a_killed_decoder_is_replaced_under_its_readers(mount: Mount) -> None:
    assert number_in(mount / "frames/colour/000001.jpg") == 0
    (pid,) = mount.status()["decoders"]["pids"]
    paths = [mount / f"frames/colour/{number:06d}.jpg" for number in range(2, FRAMES + 1)]
    with ThreadPoolExecutor(4) as pool:
        numbers = pool.map(number_in, paths)
        os.kill(pid, signal.SIGKILL)
        assert list(numbers) == list(range(1, FRAMES))
    status = mount.status()
    assert status["decoders"]["restarts"] == 1
    assert status["asked"]["failures"] == 0


def test_a_stopped_decoder_holds_up_no_other_file(mount: Mount, source: Path) -> None:
    assert number_in(mount / "frames/colour/000001.jpg") == 0
    (pid,) = mount.status()["decoders"]["pids"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            frame = pool.submit(number_in, mount / "frames/colour/000100.jpg")
            assert (mount / "colour.mp4").read_bytes() == (source / "colour.mp4").read_bytes()
            assert len(os.listdir(mount / "frames/colour")) == FRAMES
            assert not frame.done()
            os.kill(pid, signal.SIGCONT)
            assert frame.result(30) == 99
    finally:
        os.kill(pid, signal.SIGCONT)


# Over a network


@pytest.fixture
def remote(source: Path, tmp_path: Path) -> Iterator[Callable[[], tuple[Mount, S3Server]]]:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/bucket").mkdir()
    make_clip(tmp_path / "store/bucket/long.mp4", size=(320, 240), frames=400, gop=100, options={"crf": "1"})
    with (
        S3Server(tmp_path / "store") as server,
        mounted("s3://bucket", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount,
    ):
        yield mount, server


def test_a_cold_frame_costs_one_range_from_its_keyframe_on(remote, tmp_path: Path) -> None:
    mount, server = remote
    assert (mount / "frames/long/000001.jpg").exists()
    index = read_index(_File(tmp_path / "store/bucket/long.mp4"), "long")
    before = len(server.requests)
    assert number_in(mount / "frames/long/000278.jpg") == 277
    gets = [request for request in server.requests[before:] if request.method == "GET"]
    assert len(gets) == 1
    start, end = (int(n) for n in gets[0].headers["range"].removeprefix("bytes=").split("-"))
    key, packet = index.keyframe_before(int(index.shown[277])), int(index.shown[277])
    first, last = int(index.packet_offset[key]), int(index.packet_offset[packet] + index.packet_size[packet])
    block = 128 << 10
    assert first // block * block == start
    assert end + 1 <= (last // block + 2) * block


def test_an_index_is_read_once_and_kept_for_the_next_mount(remote, tmp_path: Path) -> None:
    mount, server = remote
    assert len(os.listdir(mount / "frames/long")) == 400
    before = len(server.requests)
    assert len(os.listdir(mount / "frames/long")) == 400
    assert wait_until(lambda: os.getxattr(mount / "long.mp4", "user.egofs.frames") == b"400")
    assert len(server.requests) == before
