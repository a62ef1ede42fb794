"""What a file of a picture weighs and begins with, known before any picture is."""

import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vfs.video.form import FORMATS, MAX_CLIP_FRAMES, Form, clip_header, clip_size_bytes, jpeg_size_bytes


def test_the_size_of_a_jpeg_follows_from_pixels_and_quality() -> None:
    assert Form("jpg", 1920, 1080).size_bytes == jpeg_size_bytes(1920, 1080) == 1_245_184
    assert Form("jpg", 1, 1).size_bytes == 4096
    assert Form("jpg", 640, 480, 95).size_bytes > Form("jpg", 640, 480, 50).size_bytes
    assert Form("jpg", 640, 480, 100).size_bytes > Form("jpg", 640, 480, 95).size_bytes


@pytest.mark.parametrize(
    ("form", "header", "room"),
    [
        (Form("ppm", 7, 5), b"P6\n7 5\n255\n", 105),
        (Form("ppm", 7, 5, monochrome=True, depth=10), b"P6\n7 5\n255\n", 105),
        # 63 bytes around, 6 of a stored block's ends, and 5 scanlines with a filter byte each.
        (Form("png", 7, 5), b"", 63 + 5 + 5 * 22),
        (Form("png", 7, 5, depth=10), b"", 63 + 5 + 5 * 43),
        (Form("png", 7, 5, monochrome=True), b"", 63 + 5 + 5 * 8),
        (Form("png", 65534, 3, monochrome=True, depth=8), b"", 63 + 3 * 5 + 3 * 65535),
    ],
)
def test_files_without_compression_have_the_length_of_their_samples(form: Form, header: bytes, room: int) -> None:
    assert form.header == header
    assert form.room_bytes == room
    assert form.size_bytes == len(header) + room


@pytest.mark.parametrize(
    ("form", "shape", "dtype"),
    [
        (Form("npy", 7, 5), (5, 7, 3), np.uint8),
        (Form("npy", 7, 5, depth=10), (5, 7, 3), np.uint8),
        (Form("npy", 7, 5, monochrome=True), (5, 7), np.uint8),
        (Form("npy", 7, 5, monochrome=True, depth=10), (5, 7), np.uint16),
    ],
)
@pytest.mark.parametrize("count", [None, 1, 2, 37])
def test_npy_files_load_and_map(
    tmp_path: Path, form: Form, shape: tuple[int, ...], dtype: type, count: int | None
) -> None:
    header = form.header if count is None else clip_header(form, count)
    size = form.size_bytes if count is None else clip_size_bytes(form, count)
    assert len(header) % 64 == 0
    content = bytes(each % 251 for each in range(size - len(header)))
    assert len(content) == (count or 1) * form.room_bytes
    path = tmp_path / "a.npy"
    path.write_bytes(header + content)
    for array in (np.load(path), np.load(path, mmap_mode="r")):
        assert array.dtype == dtype
        assert array.shape == (shape if count is None else (count, *shape))
        assert array.tobytes() == content
    if count:
        first = form.room_bytes * (count - 1)
        assert np.load(path)[count - 1].tobytes() == content[first : first + form.room_bytes]


def test_the_header_of_a_clip_is_of_one_length() -> None:
    largest = Form("npy", 16384, 16384, monochrome=True, depth=16), Form("npy", 16384, 4096)
    lengths = {len(clip_header(form, count)) for form in largest for count in (1, 9, 10**6, MAX_CLIP_FRAMES)}
    assert lengths == {128}
    for form in largest:
        header = io.BytesIO(clip_header(form, MAX_CLIP_FRAMES))
        assert np.lib.format.read_magic(header) == (1, 0)
        assert np.lib.format.read_array_header_1_0(header)[0][0] == MAX_CLIP_FRAMES


def test_only_arrays_make_clips() -> None:
    for form, count in ((Form("jpg", 4, 4), 3), (Form("npy", 4, 4), 0), (Form("npy", 4, 4), MAX_CLIP_FRAMES + 1)):
        with pytest.raises(ValueError, match="no clip"):
            clip_header(form, count)


@pytest.mark.parametrize("name", FORMATS)
def test_a_form_goes_to_another_process_and_comes_back(name: str) -> None:
    form = Form(name, 321, 123, quality=77, crop=True, monochrome=True, depth=12)
    assert Form(**json.loads(json.dumps(asdict(form)))) == form


@pytest.mark.parametrize("wrong", [{"format": "gif"}, {"width": 0}, {"depth": 4}])
def test_what_is_no_form_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no form of a picture"):
        Form(**{"format": "jpg", "width": 1, "height": 1, **wrong})


def test_forms_that_differ_have_keys_that_differ() -> None:
    forms = [
        Form("jpg", 32, 18),
        Form("png", 32, 18),
        Form("jpg", 33, 18),
        Form("jpg", 32, 19),
        Form("jpg", 32, 18, quality=80),
        Form("jpg", 32, 18, crop=True),
        Form("jpg", 32, 18, monochrome=True),
        Form("jpg", 32, 18, depth=10),
    ]
    assert len({form.key for form in forms}) == len(forms)
    assert Form("jpg", 32, 18).key == forms[0].key


def test_a_form_is_known_without_any_codec() -> None:
    code = "import sys, vfs.variant; print(*{'av', 'numpy', 'simplejpeg'} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert said.split() == []
