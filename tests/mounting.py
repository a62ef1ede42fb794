"""Real mounts for tests: egofs in a subprocess, as a person runs it. A process must never read its own mount."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

EGOFS = [sys.executable, "-m", "mountd"]


def patched(*lines: str) -> list[str]:
    """The command line with something changed in it first, such as "vfs.ops.DEADLINE_S = 3"."""
    modules = {re.match(r"[a-z_]+(\.[a-z_]+)*(?=\.)", line)[0] for line in lines}  # type: ignore[index]
    script = [f"import {', '.join(sorted(modules))}", *lines, "from mountd.cli import main", "main()"]
    return [sys.executable, "-c", "; ".join(script)]


def egofs(
    *arguments: str | Path,
    env: dict[str, str] | None = None,
    timeout: float = 120,
    command: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end; without whatever credentials this machine has."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [*(command or EGOFS), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**own, **(env or {})},
    )


def is_mounted(directory: Path) -> bool:
    """Whether anything is mounted there, asked of the kernel and not of the mount."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(directory).replace(" ", "\\040") for line in lines)


class Mount:
    """A mount and its daemon."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.log = log

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def status(self) -> dict[str, Any]:
        """What the mount says of itself."""
        return json.loads((self.directory / ".egofs/status.json").read_text())

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])


@contextlib.contextmanager
def mounted(
    source: str | Path,
    directory: Path,
    *options: str,
    cache: Path,
    env: dict[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Mount]:
    """`egofs mount SOURCE DIRECTORY -o OPTIONS`, unmounted at the end; the daemon must have ended by itself then."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = ",".join([f"cache_dir={cache}", *options])
    done = egofs("mount", source, directory, "-o", texts, env=env, command=command)
    assert done.returncode == 0, done.stderr
    mount = Mount(directory, next((cache / "log").glob("*.log"), cache))
    pid = mount.pid
    try:
        yield mount
    finally:
        if is_mounted(directory):
            done = egofs("umount", directory)
            if done.returncode:
                subprocess.run(["umount", "-l", str(directory)], check=False)
            assert done.returncode == 0, done.stderr
        gone = wait_for_end(pid, 20)
        if not gone:
            os.kill(pid, signal.SIGKILL)
        assert gone, "the daemon was still there 20 s after its mount had gone"


def wait_for_end(pid: int, seconds: float) -> bool:
    """Whether the process ends within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def wait_until(question: Callable[[], Any], seconds: float = 20) -> Any:
    """What the question gives as soon as that is true; fails where it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)
    return answer


def files_below(root: Path, skip: tuple[str, ...] = ("frames",)) -> dict[str, Path]:
    """All regular files below a root by their relative path, links not followed, `frames` left out."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                found[str(path.relative_to(root))] = path
    return found
