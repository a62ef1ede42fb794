"""Libraries that read frames of a video file in process, one face for all; and how a frame's number is checked.

Called by framereaders.py, in its processes. Each library is imported when it is used, since some may not be here. All
are asked for exact frames, and each in the way that suits it: who wants a frame that is ahead in the same GOP goes on
from where it stands, where the library does not do that by itself.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.framedata import GOP, shown
from vfs.video import stamp

QUALITY = 90

Array = npt.NDArray[Any]


class Frames(Protocol):
    """The frames of one video, counted from 0 in display order."""

    def frame(self, number: int) -> Any:
        """One frame: an array (height, width) or (height, width, 3), a picture of vfs.video, or a JPEG's bytes."""
        ...

    def in_order(self) -> Iterator[Any]:
        """Every frame, as `jpeg` takes it."""
        ...

    def jpeg(self, frame: Any) -> bytes:
        """A frame of `in_order` as JPEG 4:2:0 or gray of quality 90."""
        ...


class _Files:
    """The JPEG files of a mount's folder."""

    def __init__(self, path: str, threads: int) -> None:
        self._folder = path

    def frame(self, number: int) -> bytes:
        return Path(f"{self._folder}/{number + 1:06d}.jpg").read_bytes()

    def in_order(self) -> Iterator[Any]:
        raise NotImplementedError("cat reads them")

    def jpeg(self, frame: Any) -> bytes:
        return bytes(frame)


class _LocalFile:
    """A vfs.video ByteReader."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size_bytes = os.fstat(self._file).st_size

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._file, length, start)


class _Own:
    """The decoder that a mount uses, without the mount."""

    def __init__(self, path: str, threads: int) -> None:
        from vfs.video import decode, encode, index

        reader = _LocalFile(path)
        table = index.read_index(reader, path)
        self._count = table.frame_count
        self._decoder = decode.Decoder(reader, table, path)
        self._encode = encode.encode_jpeg

    def frame(self, number: int) -> Any:
        return self._decoder.frame(number)

    def in_order(self) -> Iterator[Any]:
        return map(self._decoder.frame, range(self._count))

    def jpeg(self, frame: Any) -> bytes:
        return self._encode(frame, QUALITY)


class _PyAv:
    """PyAV, with frame threads where there are several. A seek, and decoding until the time of the frame has come."""

    def __init__(self, path: str, threads: int) -> None:
        av = importlib.import_module("av")
        self._container = av.open(path)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = threads
        self._stream.thread_type = "FRAME" if threads > 1 else "NONE"
        self._ticks = 1 / (self._stream.average_rate * self._stream.time_base)
        self._pixels = "gray" if self._stream.codec_context.pix_fmt.startswith("gray") else "rgb24"
        self._place, self._decoding = -1, iter(())

    def frame(self, number: int) -> Array:
        wanted = round(number * self._ticks)
        if not _is_ahead(self._place, number):
            self._container.seek(wanted, stream=self._stream)
            self._decoding = self._container.decode(self._stream)
        self._place = number
        frame = next(frame for frame in self._decoding if frame.pts >= wanted)
        return frame.to_ndarray(format=self._pixels)

    def in_order(self) -> Iterator[Any]:
        from vfs.video.picture import Picture

        for frame in self._container.decode(self._stream):
            yield Picture(frame, frame.width, frame.height)

    def jpeg(self, frame: Any) -> bytes:
        """With the right colours and from planes where that is right: as the mount does it, for the mount's sake."""
        from vfs.video.encode import encode_jpeg

        return encode_jpeg(frame, QUALITY)


class _TorchCodec:
    """torchcodec in its exact mode."""

    def __init__(self, path: str, threads: int) -> None:
        decoders = importlib.import_module("torchcodec.decoders")
        self._decoder = decoders.VideoDecoder(
            path, seek_mode="exact", num_ffmpeg_threads=threads, dimension_order="NHWC"
        )

    def frame(self, number: int) -> Array:
        return self._decoder.get_frame_at(number).data.numpy()

    def clip(self, start: int, stop: int) -> Array:
        return self._decoder.get_frames_in_range(start, stop).data.numpy()

    def in_order(self) -> Iterator[Any]:
        return (frame.numpy() for frame in self._decoder)

    def jpeg(self, frame: Any) -> bytes:
        return _rgb_jpeg(frame, "RGB")


class _Decord:
    """decord; a frame is a batch of one."""

    def __init__(self, path: str, threads: int) -> None:
        decord = importlib.import_module("decord")
        self._video = decord.VideoReader(path, num_threads=threads)

    def frame(self, number: int) -> Array:
        return self._video.get_batch([number]).asnumpy()[0]

    def clip(self, start: int, stop: int) -> Array:
        return self._video.get_batch(range(start, stop)).asnumpy()

    def in_order(self) -> Iterator[Any]:
        return (self._video.next().asnumpy() for _ in range(len(self._video)))

    def jpeg(self, frame: Any) -> bytes:
        return _rgb_jpeg(frame, "RGB")


class _OpenCv:
    """OpenCV's VideoCapture. Its number of threads is its own affair, save that 1 is 1."""

    def __init__(self, path: str, threads: int) -> None:
        cv2 = importlib.import_module("cv2")
        options = [cv2.CAP_PROP_N_THREADS, threads] if threads == 1 else []
        self._video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
        self._seek = lambda number: self._video.set(cv2.CAP_PROP_POS_FRAMES, number)
        self._place = -1

    def frame(self, number: int) -> Array:
        if _is_ahead(self._place, number):
            for _ in range(number - self._place - 1):
                self._video.grab()
        else:
            self._seek(number)
        self._place = number
        return self._read()

    def in_order(self) -> Iterator[Any]:
        while self._video.grab():
            yield self._video.retrieve()[1]

    def jpeg(self, frame: Any) -> bytes:
        return _rgb_jpeg(frame, "BGR")

    def _read(self) -> Array:
        there, frame = self._video.read()
        if not there:
            raise EOFError("OpenCV gave no frame")
        return frame


def _is_ahead(place: int, number: int) -> bool:
    """Whether decoding on from `place` leads to `number` without passing a keyframe."""
    return 0 <= place < number and place // GOP == number // GOP


def _rgb_jpeg(frame: Array, colours: str) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(frame, quality=QUALITY, colorspace=colours, colorsubsampling="420")


_LIBRARIES: dict[str, tuple[Callable[[str, int], Frames], tuple[str, ...]]] = {
    "files": (_Files, ("simplejpeg",)),
    "own": (_Own, ("vfs.video.decode", "vfs.video.encode", "vfs.video.index")),
    "pyav": (_PyAv, ("av", "vfs.video.picture", "vfs.video.encode")),
    "torchcodec": (_TorchCodec, ("torch", "torchcodec.decoders", "simplejpeg")),
    "decord": (_Decord, ("decord", "simplejpeg")),
    "opencv": (_OpenCv, ("cv2", "simplejpeg")),
}


def load(how: str) -> None:
    """Imports what a library needs, so that this is no part of what is timed."""
    for module in _LIBRARIES[how][1]:
        importlib.import_module(module)


def open_frames(how: str, path: str, threads: int) -> Frames:
    """A video's frames: `path` is the file, or for "files" the folder of JPEGs."""
    return _LIBRARIES[how][0](path, threads)


def wrong(video: str, number: int, frame: Any) -> str:
    """Why this is not that frame of the video; empty if it is."""
    right = shown(video, number)
    try:
        found = stamp.read(_pixels(frame))
    except ValueError as failure:
        return f"frame {number} of {video} is damaged: {failure}"
    return "" if found == right else f"frame {number} of {video} shows {found} in place of {right}"


def _pixels(frame: Any) -> Array:
    """The array behind whatever a reader gave. Raises ValueError for a JPEG that is none."""
    if isinstance(frame, bytes):
        import simplejpeg

        return np.asarray(simplejpeg.decode_jpeg(frame))
    return np.asarray(frame.rgb() if hasattr(frame, "rgb") else frame)
