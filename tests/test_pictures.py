"""Pictures as arrays and as files: colours, depth, size and rotation, held against the definitions of ITU-T H.273."""

import io
import threading
from itertools import product
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from tests import clips
from vfs.errors import UndecodableVideo
from vfs.video import encode as encoding
from vfs.video.encode import encode
from vfs.video.form import Form
from vfs.video.picture import Picture

Array = npt.NDArray[Any]

# Kr and Kb of AVColorSpace's numbers: 709, untagged, 601 (twice), FCC, 240M, 2020.
MATRICES = {
    1: (0.2126, 0.0722),
    2: (0.299, 0.114),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
COVERS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
SIZES = [(192, 128), (193, 127), (193, 128), (192, 127)]
TURNS = list(product((0, 90, 180, 270), (False, True)))


def psnr(one: Array, other: Array, top: int = 255) -> float:
    return float(10 * np.log10(top**2 / max(1e-12, np.mean((one.astype(float) - other) ** 2))))


def scene(width: int, height: int, speed: float = 0.5) -> npt.NDArray[np.float64]:
    """(height, width, 3) RGB in 0..1 with all hues, no edges, and a camera's noise."""
    x, y = np.linspace(0, speed, width)[None, :], np.linspace(0, speed, height)[:, None]
    parts = (np.sin(3 * x + 2 * y + 5), np.cos(2 * x - y * 3), np.sin(4 * y - x + 1))
    noise = np.random.default_rng(width).normal(0, 1.5 / 255, (height, width, 1))
    return np.clip(np.stack([0.5 + 0.4 * part for part in parts], axis=2) + noise, 0.02, 0.98)


def coded(
    rgb: Array, space: int, *, full: bool, bits: int = 8, chroma: str = "420", pixels: str | None = None
) -> av.VideoFrame:
    """RGB as planes, by the definition of the matrix and of the range (ITU-T H.273, 8.3)."""
    kr, kb = MATRICES[space]
    red, green, blue = np.moveaxis(rgb, 2, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    across, down = COVERS[chroma]
    parts = [thinned(c, across, down) for c in ((blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr))]
    unit, top = 1 << bits - 8, (1 << bits) - 1
    planes = [luma * top if full else (16 + 219 * luma) * unit]
    planes += [part * top + 128 * unit if full else (128 + 224 * part) * unit for part in parts]
    height, width = luma.shape
    frame = av.VideoFrame(width, height, pixels or f"yuv{chroma}p" + ("" if bits == 8 else f"{bits}le"))
    for place, plane in enumerate(planes):
        clips._fill(frame, place, np.clip(np.rint(plane), 0, top).astype(np.uint8 if bits == 8 else np.uint16))
    frame.colorspace, frame.color_range = space, 2 if full else 1
    return frame


def thinned(samples: Array, across: int, down: int) -> Array:
    """The mean of each `across` x `down`, edges repeated."""
    height, width = samples.shape
    wide = np.pad(samples, ((0, -height % down), (0, -width % across)), "edge")
    return wide.reshape(wide.shape[0] // down, down, wide.shape[1] // across, across).mean(axis=(1, 3))


def planes_of(frame: av.VideoFrame) -> list[Array]:
    bits = frame.format.components[0].bits
    dtype = np.uint8 if bits == 8 else np.dtype("<u2")
    return [
        np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width].astype(float)
        for plane in frame.planes
    ]


def defined(frame: av.VideoFrame, space: int, *, full: bool) -> Array:
    """The frame's own samples as RGB in 0..1 by the same definition; each sample of chroma stands for all it covers."""
    unit, top = 1 << frame.format.components[0].bits - 8, (1 << frame.format.components[0].bits) - 1
    luma, *parts = planes_of(frame)
    height, width = luma.shape
    across, down = round(width / parts[0].shape[1]), round(height / parts[0].shape[0])
    cb, cr = ((part - 128 * unit) / (top if full else 224 * unit) for part in parts)
    cb, cr = (part.repeat(down, 0).repeat(across, 1)[:height, :width] for part in (cb, cr))
    y = luma / top if full else (luma / unit - 16) / 219
    kr, kb = MATRICES[space]
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return np.clip(np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], axis=2), 0, 1)


def turned(samples: Array, rotation: int, mirrored: bool) -> Array:
    samples = np.rot90(samples, -rotation // 90)
    return samples[:, ::-1] if mirrored else samples


def gray_frame(levels: Array, depth: int, *, full: bool) -> av.VideoFrame:
    """Levels of 0..1 in a gray picture."""
    top, unit = (1 << depth) - 1, 1 << depth - 8
    samples = levels * top if full else (16 + 219 * levels) * unit
    frame = av.VideoFrame(levels.shape[1], levels.shape[0], "gray" if depth == 8 else f"gray{depth}le")
    clips._fill(frame, 0, np.rint(samples).astype(np.uint8 if depth == 8 else np.uint16))
    frame.color_range = 2 if full else 1
    return frame


def ramp(width: int = 256, height: int = 64) -> Array:
    return np.repeat(np.linspace(0, 1, width)[None, :], height, axis=0)


def file_of(picture: Picture, form: Form) -> bytes:
    data = encode(picture, form)
    assert len(data) <= form.room_bytes
    assert form.format == "jpg" or len(data) == form.room_bytes
    return (form.header + bytes(data)).ljust(form.size_bytes, b"\0")


def read(file: bytes, form: Form) -> Array:
    """(height, width[, 3]) RGB in the file's own depth."""
    if form.format == "npy":
        return np.load(io.BytesIO(file))
    if form.format == "jpg":
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image)
    bgr = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return bgr[:, :, ::-1] if bgr.ndim == 3 else bgr


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", MATRICES)
def test_jpeg_has_the_right_colours_however_the_picture_is_turned(space: int, full: bool, bits: int) -> None:
    for chroma, size in product(COVERS, SIZES):
        frame = coded(scene(*size), space, full=full, bits=bits, chroma=chroma)
        right = defined(frame, space, full=full) * 255
        for rotation, mirrored in TURNS:
            width, height = size[::-1] if rotation % 180 else size
            form = Form("jpg", width, height, depth=bits)
            got = read(file_of(Picture(frame, width, height, rotation, mirrored), form), form)
            expected = turned(right, rotation, mirrored)
            assert psnr(got, expected) >= 40, (chroma, size, rotation, mirrored)
            assert abs(got.mean() - expected.mean()) < 0.75, (chroma, size, rotation, mirrored)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", MATRICES)
def test_files_without_loss_have_the_right_colours_however_the_picture_is_turned(
    space: int, full: bool, bits: int
) -> None:
    for chroma, size in product(COVERS, SIZES):
        frame = coded(scene(*size, speed=0.2), space, full=full, bits=bits, chroma=chroma)
        right = defined(frame, space, full=full)
        for name, (rotation, mirrored) in product(("png", "ppm", "npy"), TURNS):
            width, height = size[::-1] if rotation % 180 else size
            form = Form(name, width, height, depth=bits)
            got = read(file_of(Picture(frame, width, height, rotation, mirrored), form), form)
            top = 65535 if name == "png" and bits > 8 else 255
            assert got.shape == (height, width, 3)
            assert got.dtype == (np.uint16 if top == 65535 else np.uint8)
            levels = (got / top - turned(right, rotation, mirrored)) * 255
            # Where swscale draws chroma between its samples, that is not what `defined` does.
            most = 2.6 if chroma == "420" and size != (192, 128) else 2.1
            assert np.abs(levels).max() <= most, (chroma, size, name, rotation, mirrored)
            assert abs(levels.mean()) < 0.6, (chroma, size, name, rotation, mirrored)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("chroma", COVERS)
@pytest.mark.parametrize("name", ["jpg", "png", "ppm", "npy"])
def test_black_and_white_are_black_and_white(name: str, chroma: str, full: bool, bits: int) -> None:
    form = Form(name, 64, 32, depth=bits)
    for level in (0, 1):
        frame = coded(np.full((32, 64, 3), float(level)), 1, full=full, bits=bits, chroma=chroma)
        got = read(file_of(Picture(frame, 64, 32), form), form)
        assert np.unique(got).tolist() == [level * (65535 if got.dtype == np.uint16 else 255)]


def test_untagged_video_is_limited_601_unless_the_container_says_more() -> None:
    rgb = scene(192, 128)
    for space, full, said in (
        (2, False, {}),
        (1, False, {"colorspace": 1}),
        (9, True, {"colorspace": 9, "color_range": 2}),
    ):
        frame = coded(rgb, space, full=full)
        right = defined(frame, space, full=full) * 255
        frame.colorspace, frame.color_range = 2, 0
        picture = Picture(frame, 192, 128, **said)
        assert psnr(picture.rgb(), right) > 45
        assert psnr(simplejpeg.decode_jpeg(encode(picture, Form("jpg", 192, 128))), right) > 40
        assert psnr(picture.scaled(96, 64).rgb(), cv2.resize(right, (96, 64), interpolation=cv2.INTER_AREA)) > 38


def test_a_tagged_frame_is_believed_before_the_container() -> None:
    frame = coded(scene(192, 128), 1, full=False)
    right = defined(frame, 1, full=False) * 255
    assert psnr(Picture(frame, 192, 128, colorspace=5, color_range=2).rgb(), right) > 45


def test_a_picture_coded_as_rgb_is_what_it_is() -> None:
    rgb = np.rint(scene(64, 48) * 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="gbrp")
    for name in ("png", "ppm", "npy"):
        form = Form(name, 64, 48)
        assert (read(file_of(Picture(frame, 64, 48), form), form) == rgb).all()


@pytest.mark.parametrize(("pixels", "bits"), [("gbrp", 8), ("gbrp10le", 10), ("gbrp12le", 12)])
def test_deep_files_of_a_picture_coded_as_rgb_are_within_a_level_of_it(pixels: str, bits: int) -> None:
    levels = np.linspace(0, (1 << bits) - 1, 256).round().astype(int)
    frame = av.VideoFrame(256, 16, pixels)
    for place in range(3):
        clips._fill(frame, place, np.repeat(levels[None, :], 16, 0).astype(np.uint8 if bits == 8 else np.uint16))
    form = Form("png", 256, 16, depth=max(bits, 9))
    got = read(file_of(Picture(frame, 256, 16), form), form)
    assert np.abs(got / 65535 - (levels / levels[-1])[None, :, None]).max() <= 1 / 255


# Monochrome


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_gray_of_any_depth_and_range(depth: int, full: bool, turn: tuple[int, bool]) -> None:
    levels = ramp(257, 31)
    frame = gray_frame(levels, depth, full=full)
    width, height = (31, 257) if turn[0] % 180 else (257, 31)
    picture = Picture(frame, width, height, *turn)
    right = turned(levels, *turn)

    def got(name: str) -> Array:
        form = Form(name, width, height, monochrome=True, depth=depth)
        return read(file_of(picture, form), form)

    assert np.abs(got("jpg") - right * 255.0).max() <= 4
    assert got("jpg").shape == (height, width)
    png = got("png")
    top = 255 if depth == 8 else 65535
    assert png.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert np.abs(png - right * top).max() <= max(1.01, top / ((1 << depth) - 1))
    assert (png.min(), png.max()) == (0, top)
    ppm = got("ppm")
    assert ppm.shape == (height, width, 3)
    assert np.abs(ppm - right[:, :, None] * 255.0).max() <= 1.01
    npy = got("npy")
    if depth == 8:
        assert np.abs(npy - right * 255.0).max() <= 1.01
    else:
        assert npy.dtype == np.uint16
        assert (npy == turned(planes_of(frame)[0], *turn)).all()


def test_a_picture_of_another_kind_than_its_video_still_fills_the_file() -> None:
    colour = coded(scene(64, 48), 5, full=False)
    right = defined(colour, 5, full=False) @ np.array([0.299, 0.587, 0.114])
    for name, depth, top in (("jpg", 8, 255), ("png", 8, 255), ("png", 10, 65535), ("npy", 8, 255), ("npy", 10, 1023)):
        form = Form(name, 64, 48, monochrome=True, depth=depth)
        got = read(file_of(Picture(colour, 64, 48), form), form)
        assert got.shape == (48, 64)
        assert np.abs(got / top - right).max() * 255 < (2 if name != "jpg" else 8)
    gray = Picture(gray_frame(ramp(), 8, full=True), 256, 64)
    for name in ("png", "ppm", "npy"):
        got = read(file_of(gray, Form(name, 256, 64)), Form(name, 256, 64))
        assert (got == np.rint(ramp() * 255)[:, :, None]).all()
    deeper = Form("npy", 256, 64, monochrome=True, depth=12)
    assert (read(file_of(gray, deeper), deeper) == np.rint(ramp() * 255).astype(int) << 4).all()
    less = Form("npy", 256, 64, monochrome=True, depth=10)
    twelve = Picture(gray_frame(ramp(), 12, full=True), 256, 64)
    assert (read(file_of(twelve, less), less) == np.rint(ramp() * 4095).astype(int) >> 2).all()


# Sizes


@pytest.mark.parametrize("size", [(160, 90), (107, 61), (80, 48), (640, 360), (64, 64)])
@pytest.mark.parametrize("depth", [8, 10])
def test_scaling_is_as_good_as_pillows(size: tuple[int, int], depth: int) -> None:
    random = np.random.default_rng(1)
    picture = cv2.GaussianBlur(random.integers(0, 256, (180, 320)).astype(np.uint8), (5, 5), 0) / 255.0
    top = (1 << depth) - 1
    expected = Image.fromarray((picture * 255).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    form = Form("npy", *size, monochrome=True, depth=depth)
    got = read(file_of(Picture(gray_frame(picture, depth, full=True), 320, 180), form), form)
    assert psnr(got / top * 255, np.clip(np.asarray(expected), 0, 255)) > 45


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "gray10le", "gbrp", "rgb24"])
@pytest.mark.parametrize("size", [(64, 64), (63, 91), (120, 20)])
def test_cropping_fills_the_size_and_keeps_the_middle(
    pixels: str, size: tuple[int, int], turn: tuple[int, bool]
) -> None:
    height, width = 128, 192
    x, y = (np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5) / height - 0.5
    rgb = np.stack(
        [0.5 + x[None, :] + 0 * y[:, None], 0.5 + y[:, None] + 0 * x[None, :], 0 * (x + y[:, None]) + 0.5], 2
    )
    samples = np.rint(rgb * 255).astype(np.uint8)
    if pixels.startswith("yuv"):
        frame = coded(rgb, 5, full=True, bits=10 if "10" in pixels else 8, chroma=pixels[3:6])
    elif pixels == "gray10le":
        frame = gray_frame(rgb[:, :, 0], 10, full=True)
    else:
        frame = av.VideoFrame.from_ndarray(samples, "rgb24")
        frame = frame.reformat(format="gbrp") if pixels == "gbrp" else frame
    shown = turned(rgb, *turn)
    form = Form("npy", *size, crop=True)
    got = read(file_of(Picture(frame, shown.shape[1], shown.shape[0], *turn), form), form) / 255
    assert got.shape == (size[1], size[0], 3)
    # Red rises by one over the picture's width and green over its height: their spans say what was cut off.
    factor = max(size[0] / shown.shape[1], size[1] / shown.shape[0])
    seen = size[0] / factor / shown.shape[1], size[1] / factor / shown.shape[0]
    spans = [abs(got[:, -1].mean(axis=0) - got[:, 0].mean(axis=0)), abs(got[-1].mean(axis=0) - got[0].mean(axis=0))]
    for axis, share in enumerate(seen):
        channel = axis if turn[0] % 180 == 0 else 1 - axis
        if pixels == "gray10le" and channel == 1:
            continue
        assert spans[axis][channel] == pytest.approx(share * (1 - 1 / size[axis]), abs=0.03)
        assert got[:, :, channel].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("bits", [8, 10])
def test_a_stream_that_changes_its_size_midway_keeps_to_the_videos(bits: int) -> None:
    frame = coded(scene(192, 128, speed=0.3), 1, full=False, bits=bits)
    expected = cv2.resize(defined(frame, 1, full=False), (96, 64), interpolation=cv2.INTER_AREA) * 255
    for name in ("jpg", "png", "npy"):
        form = Form(name, 96, 64, depth=bits)
        got = read(file_of(Picture(frame, 96, 64), form), form)
        got = got / 257 if got.dtype == np.uint16 else got
        assert psnr(got, expected) > 40
        assert abs(got.mean() - expected.mean()) < 0.75
    gray = Picture(gray_frame(ramp(), 10, full=True), 128, 32)
    form = Form("npy", 128, 32, monochrome=True, depth=10)
    assert np.abs(read(file_of(gray, form), form) - cv2.resize(ramp() * 1023, (128, 32))).max() < 3


def test_scaling_to_a_shape_without_crop_shows_all() -> None:
    frame = coded(scene(192, 128, speed=0.3), 1, full=False)
    form = Form("png", 50, 90)
    got = read(file_of(Picture(frame, 192, 128), form), form)
    expected = cv2.resize(defined(frame, 1, full=False), (50, 90), interpolation=cv2.INTER_AREA)
    assert psnr(got, expected * 255) > 40


# Bytes


@pytest.mark.parametrize(
    "form", [Form("jpg", 192, 128), Form("jpg", 96, 64), Form("png", 192, 128), Form("npy", 90, 90, crop=True)]
)
@pytest.mark.parametrize("space", [1, 5])
def test_every_thread_makes_the_same_bytes(form: Form, space: int) -> None:
    rgb = scene(192, 128)
    shared = Picture(coded(rgb, space, full=False), 192, 128)
    made: list[bytes] = []
    start = threading.Barrier(4)

    def make(picture: Picture) -> None:
        start.wait()
        made.extend(bytes(encode(picture, form)) for _ in range(5))

    pictures = [shared, shared, *(Picture(coded(rgb, space, full=False), 192, 128) for _ in range(2))]
    threads = [threading.Thread(target=make, args=[picture]) for picture in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 20
    assert len(set(made)) == 1


def test_making_files_leaves_the_decoded_picture_as_it_is() -> None:
    frame = coded(scene(192, 128), 1, full=False)
    before = [plane.copy() for plane in planes_of(frame)]
    picture = Picture(frame, 192, 128)
    for name in ("jpg", "png", "ppm", "npy"):
        encode(picture, Form(name, 192, 128))
        encode(picture, Form(name, 40, 60, crop=True))
    assert all((one == other).all() for one, other in zip(before, planes_of(frame), strict=True))
    raw = av.VideoFrame.from_ndarray(np.rint(scene(64, 48) * 255).astype(np.uint8), "rgb24")
    assert (Picture(raw, 64, 48).rgb() == raw.to_ndarray()).all()
    assert (Picture(raw, 64, 48).rgb() == raw.to_ndarray()).all()


def test_the_older_way_gives_the_same_jpeg() -> None:
    picture = Picture(coded(scene(192, 128), 1, full=False), 192, 128)
    assert encoding.encode_jpeg(picture, 80) == file_of(picture, Form("jpg", 192, 128, 80))


@pytest.mark.parametrize("quality", [100, 95, 90, 30, 1])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (16, 16), (97, 63), (640, 480)])
def test_noise_fits_at_lower_quality(size: tuple[int, int], quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    form = Form("jpg", *size, quality)
    file = file_of(Picture(av.VideoFrame.from_ndarray(noise, "rgb24"), *size), form)
    assert read(file, form).shape == noise.shape


def test_a_jpeg_that_fits_at_no_quality_is_an_undecodable_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding.simplejpeg, "encode_jpeg_yuv_planes", lambda *planes, quality: bytes(1 << 20))
    with pytest.raises(UndecodableVideo, match="does not fit"):
        encode(Picture(coded(scene(64, 48), 5, full=False), 64, 48), Form("jpg", 64, 48))


@pytest.mark.parametrize("width", [1, 21844, 21845, 65534, 65535])
def test_png_of_any_length_has_whole_blocks(width: int) -> None:
    """A stored block ends with a scanline, just before its end, or just behind it."""
    samples = np.random.default_rng(0).integers(0, 256, (3, width)).astype(np.uint8)
    form = Form("png", width, 3, monochrome=True)
    png = bytes(encoding._png(samples))
    assert len(png) == form.size_bytes
    with Image.open(io.BytesIO(png)) as image:
        assert (np.asarray(image) == samples).all()
