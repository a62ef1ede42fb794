"""Files of a length known beforehand, as programs read them: none may stumble over what fills a JPEG up."""

import io
import os
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Callable
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
from vfs.video import stamp
from vfs.video.encode import encode
from vfs.video.form import Form
from vfs.video.picture import Picture

Array = npt.NDArray[Any]

WIDTH, HEIGHT, NUMBER = 192, 128, 1234
PIXELS = {"colour": "yuv420p", "gray": "gray", "colour-10": "yuv420p10le", "gray-10": "gray10le"}


def written(folder: Path, kind: str, name: str, number: int = NUMBER) -> Path:
    """A stamped picture as a file, header and padding included, as it is served."""
    frame = clips.picture(number, (WIDTH, HEIGHT), PIXELS[kind], full=True)
    frame.color_range = 2
    form = Form(name, WIDTH, HEIGHT, monochrome=kind.startswith("gray"), depth=10 if kind.endswith("10") else 8)
    data = form.header + bytes(encode(Picture(frame, WIDTH, HEIGHT), form))
    path = folder / f"{kind}-{number:04d}.{name}"
    path.write_bytes(data.ljust(form.size_bytes, b"\0"))
    return path


def by_pillow(path: Path) -> Array:
    with Image.open(path) as image:
        image.load()
        return np.asarray(image)


def by_verifying_pillow(path: Path) -> Array:
    with Image.open(path) as image:
        image.verify()
    return by_pillow(path)


def by_opencv(path: Path) -> Array:
    read: Array | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None
    return read


def by_imageio(path: Path) -> Array:
    return np.asarray(pytest.importorskip("imageio.v3").imread(path))


def by_scikit_image(path: Path) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports' own
        io_of_skimage = pytest.importorskip("skimage.io")
        return np.asarray(io_of_skimage.imread(path))


def by_matplotlib(path: Path) -> Array:
    image = pytest.importorskip("matplotlib.image").imread(path)
    return np.asarray(image * 255 if image.dtype == np.float32 else image).astype(np.uint8)


def by_av(path: Path) -> Array:
    with av.open(str(path), format="image2") as container:
        (frame,) = container.decode(video=0)
        return frame.to_ndarray(format="gray")


LIBRARIES = [by_pillow, by_verifying_pillow, by_opencv, by_imageio, by_scikit_image, by_matplotlib, by_av]


@pytest.mark.parametrize("name", ["jpg", "png", "ppm"])
@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_read_every_format(tmp_path: Path, library: Callable[[Path], Array], kind: str, name: str) -> None:
    got = library(written(tmp_path, kind, name))
    assert got.shape[:2] == (HEIGHT, WIDTH)
    assert stamp.read(got) == NUMBER


@pytest.mark.parametrize("kind", PIXELS)
def test_simplejpeg_reads_them(tmp_path: Path, kind: str) -> None:
    data = written(tmp_path, kind, "jpg").read_bytes()
    assert simplejpeg.decode_jpeg_header(data)[:2] == (HEIGHT, WIDTH)
    assert stamp.read(simplejpeg.decode_jpeg(data)) == NUMBER


@pytest.mark.parametrize("name", ["jpg", "png", "ppm"])
@pytest.mark.parametrize("kind", ["colour", "gray"])
def test_files_behind_each_other_in_a_pipe_are_so_many_pictures(tmp_path: Path, kind: str, name: str) -> None:
    """As `cat *.jpg | ffmpeg -f image2pipe -i -` reads them."""
    files = [written(tmp_path, kind, name, number).read_bytes() for number in range(3)]
    with av.open(
        io.BytesIO(b"".join(files)), format={"jpg": "jpeg_pipe", "png": "png_pipe", "ppm": "ppm_pipe"}[name]
    ) as pipe:
        assert [stamp.read(frame.to_ndarray(format="gray")) for frame in pipe.decode(video=0)] == [0, 1, 2]


# Each leaves the exit status of success and says nothing of a warning.
COMMANDS = {
    "djpeg": ("jpg", ["djpeg", "-strict", "{}"]),
    "jpegtran": ("jpg", ["jpegtran", "-strict", "-rotate", "90", "{}"]),
    "jpeginfo": ("jpg", ["jpeginfo", "-c", "{}"]),
    "identify jpg": ("jpg", ["identify", "-regard-warnings", "{}"]),
    "identify png": ("png", ["identify", "-regard-warnings", "{}"]),
    "identify ppm": ("ppm", ["identify", "-regard-warnings", "{}"]),
    "pngcheck": ("png", ["pngcheck", "-q", "{}"]),
    "pngtopam": ("png", ["pngtopam", "{}"]),
    "pnmfile": ("ppm", ["pnmfile", "{}"]),
    "file jpg": ("jpg", ["file", "-b", "{}"]),
    "file png": ("png", ["file", "-b", "{}"]),
    "file ppm": ("ppm", ["file", "-b", "{}"]),
    "ffmpeg jpg": ("jpg", ["ffmpeg", "-v", "warning", "-xerror", "-i", "{}", "-f", "null", "-"]),
    "ffmpeg png": ("png", ["ffmpeg", "-v", "warning", "-xerror", "-i", "{}", "-f", "null", "-"]),
    "ffmpeg ppm": ("ppm", ["ffmpeg", "-v", "warning", "-xerror", "-i", "{}", "-f", "null", "-"]),
}
SAID = {"jpeginfo": "OK", "file jpg": "JPEG image data", "file png": "PNG image data", "file ppm": "Netpbm image data"}


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("command", COMMANDS)
def test_programs_read_them_without_a_warning(tmp_path: Path, command: str, kind: str) -> None:
    name, words = COMMANDS[command]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    path = written(tmp_path, kind, name)
    ran = subprocess.run([word.format(path) for word in words], capture_output=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert SAID.get(command, "") in ran.stdout.decode(errors="replace")


@pytest.mark.parametrize("name", ["jpg", "png", "ppm", "npy"])
def test_what_stat_says_is_all_there_is_to_read(tmp_path: Path, name: str) -> None:
    """`read(getsize())` and tar's archives are whole where the size told beforehand is the size."""
    paths = [written(tmp_path, "colour", name, number) for number in range(3)]
    form = Form(name, WIDTH, HEIGHT)
    archive = tmp_path / "all.tar"
    with tarfile.open(archive, "w") as out:
        for path in paths:
            assert os.path.getsize(path) == form.size_bytes
            with open(path, "rb") as file:
                assert len(file.read(form.size_bytes)) == form.size_bytes
                assert file.read() == b""
            out.add(path, path.name)
    with tarfile.open(archive) as packed:
        for path in paths:
            member = packed.extractfile(path.name)
            assert member is not None
            assert member.read() == path.read_bytes()


@pytest.mark.parametrize("kind", PIXELS)
def test_arrays_load_and_map(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, "npy")
    for array in (np.load(path), np.load(path, mmap_mode="r"), np.load(io.BytesIO(path.read_bytes()))):
        assert stamp.read(array) == NUMBER
        assert array.dtype == (np.uint16 if kind == "gray-10" else np.uint8)
