"""What the mount costs beside the same work done without it, on this machine, in this run.

Everything is local and warm, so that the numbers are those of egofs and not of a store: reading a file through the
mount against reading it in place, and every frame of one video through `frames/` against decoding and encoding it in
this process.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vfs.datasets import demo_tree
from vfs.video.decode import Decoder
from vfs.video.encode import encode_jpeg
from vfs.video.index import read_index

_BIG_BYTES = 512 << 20
_RUNS = 3
_EGOFS = [sys.executable, "-m", "mountd"]


class _InMemory:
    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self.size_bytes = len(self._data)

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="egofs-bench-") as folder:
        top = Path(folder)
        data = demo_tree.ensure(top / "demo")
        big = top / "big"
        big.mkdir()
        (big / "file").write_bytes(os.urandom(1 << 20) * (_BIG_BYTES >> 20))
        print("| job | through the mount | without | ratio |\n|---|---|---|---|")
        _compare("sequential read, MB/s", *_sequential(top, big))
        for view in ("e4", "v3"):
            _compare(f"frames of {view} in order, 1/s", *_frames(top, data, view))


def _compare(name: str, mounted: float, direct: float) -> None:
    print(f"| {name} | {mounted:,.0f} | {direct:,.0f} | {mounted / direct:.2f} |")


def _sequential(top: Path, big: Path) -> tuple[float, float]:
    def read(path: Path) -> float:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return _seconds(lambda: [None for _ in iter(lambda: file.read(1 << 20), b"")])

    mount = _mount(big, top / "m")
    try:
        times = [(read(mount / "file"), read(big / "file")) for _ in range(_RUNS)]
    finally:
        _unmount(mount)
    return _BIG_BYTES / 1e6 / min(t for t, _ in times), _BIG_BYTES / 1e6 / min(t for _, t in times)


def _frames(top: Path, data: Path, view: str) -> tuple[float, float]:
    recording = max((data / "recordings").iterdir()).name
    video = _InMemory(next((data / "recordings" / recording).glob("HMC_84358933*" if view == "e4" else "C10118*")))
    index = read_index(video, view)
    decoder = Decoder(video, index, view)
    direct = _seconds(lambda: [encode_jpeg(decoder.frame(n)) for n in range(index.frame_count)])
    decoder.close()
    mount = _mount(data, top / "m", "-o", "dataset=assembly101")
    try:
        paths = sorted((mount / "recordings" / recording / "frames@fps=0" / view).iterdir())
        mounted = _seconds(lambda: [path.read_bytes() for path in paths])
    finally:
        _unmount(mount)
    return len(paths) / mounted, index.frame_count / direct


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _mount(source: Path, directory: Path, *options: str) -> Path:
    directory.mkdir(exist_ok=True)
    command = [*_EGOFS, "mount", str(source), str(directory), "--cache-dir", f"{directory}-cache", *options]
    subprocess.run(command, check=True)
    return directory


def _unmount(directory: Path) -> None:
    subprocess.run([*_EGOFS, "umount", str(directory)], check=True)


if __name__ == "__main__":
    main()
