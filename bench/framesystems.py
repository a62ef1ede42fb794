"""What frames are read with: filesystems that show them as files, and libraries that decode in process.

Of a store, a filesystem reads by itself; a library reads the file in a mount of rclone, which is what people do today.
"""

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import measure
from bench.framedata import key
from bench.measure import MeasureFailed
from bench.systems import SYSTEMS, System

_PROBE_S = 60.0
_BY_NAME = {system.name: system for system in SYSTEMS}


def _egofs_local(keep: str) -> Callable[[str, str, Path, Path], list[str]]:
    """Of a local folder, which stands in the bucket's place."""

    def command(url: str, folder: str, directory: Path, cache: Path) -> list[str]:
        options = f"cache_dir={cache},cache={keep}"
        return [sys.executable, "-m", "mountd", "mount", folder, str(directory), "-f", "-o", options]

    return command


def _ffmpegfs(url: str, folder: str, directory: Path, cache: Path) -> list[str]:
    options = ["--desttype=JPG", f"--cachepath={cache}", "--log_stderr", "-o", "ro"]
    return ["ffmpegfs", "-f", folder, str(directory), *options]


def _ffmpegfs_version() -> str:
    said = subprocess.run(["ffmpegfs", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"FFMPEGFS\D*([0-9][0-9.-]*)", said)
    return f"ffmpegfs {found[1]}" if found else ""


def _of(*packages: str) -> Callable[[], str]:
    return lambda: ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


@dataclass(frozen=True)
class FrameSystem:
    """A system: the library of framelibraries.py that reads it, and what must be mounted for that (None: nothing)."""

    name: str
    about: str
    how: str
    local: System | None
    store: System | None
    """None where it does not read from a store at all."""
    version: Callable[[], str]
    frames_at: str = ""
    """Where a mount has a video's frames, with {video}; empty where the file itself is read."""
    needs: str = ""
    """What must be imported, or found as a program, for it to be here."""

    @property
    def is_mount(self) -> bool:
        """Whether it shows frames as files."""
        return bool(self.frames_at)

    def path(self, base: Path, video: str) -> str:
        """Where its reader finds a video: the folder of frames, or the file."""
        return f"{base}/{self.frames_at.format(video=video) or key(video)}"


_EGOFS_VERSION = _BY_NAME["egofs"].version
EGOFS = FrameSystem(
    "egofs",
    "this project, defaults",
    "files",
    System("egofs", "", True, _egofs_local("auto"), _EGOFS_VERSION),
    _BY_NAME["egofs"],
    _EGOFS_VERSION,
    "frames@fps=0/{video}",
)
KEEPING = System("egofs", "", True, _egofs_local("on"), _EGOFS_VERSION)
"""egofs of a local folder, keeping what it made of it."""

OWN = FrameSystem("in process", "egofs' own decoder without the mount", "own", None, None, lambda: "")
FFMPEGFS = FrameSystem(
    "ffmpegfs",
    "ffmpegfs --desttype=JPG",
    "files",
    System("ffmpegfs", "", True, _ffmpegfs, _ffmpegfs_version),
    None,
    _ffmpegfs_version,
    "{video}.mp4",
    "ffmpegfs",
)
FRAME_SYSTEMS = (
    EGOFS,
    FFMPEGFS,
    OWN,
    FrameSystem("pyav", "PyAV in process", "pyav", None, _BY_NAME["rclone-full"], _of("av"), needs="av"),
    FrameSystem(
        "torchcodec",
        "torchcodec in process, exact mode",
        "torchcodec",
        None,
        None,
        _of("torch", "torchcodec"),
        needs="torchcodec.decoders",
    ),
    FrameSystem("decord", "decord in process", "decord", None, None, _of("decord"), needs="decord"),
    FrameSystem(
        "opencv",
        "OpenCV in process",
        "opencv",
        None,
        _BY_NAME["rclone-full"],
        _of("opencv-python-headless"),
        needs="cv2",
    ),
)


@cache
def missing(needs: str) -> str:
    """Why a program or a module is not here; empty if it is."""
    if not needs:
        return ""
    command = ["ffmpegfs", "--version"] if needs == "ffmpegfs" else [sys.executable, "-c", f"import {needs}"]
    try:
        measure.run(command, _PROBE_S)
    except (MeasureFailed, OSError) as failure:
        return f"not here ({failure})"
    return ""
