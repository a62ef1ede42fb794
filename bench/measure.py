"""Runs one measured command, under a deadline and in a session of its own, and reads what it says.

The readers are always other processes: one that hangs in a mount can then be killed, and the benchmark goes on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DEADLINE_S = 120.0


class MeasureFailed(Exception):
    """The command failed, or did not end in time, or read wrong bytes."""


def run(command: list[str], deadline_s: float = DEADLINE_S) -> bytes:
    """The command's standard output. Raises MeasureFailed."""
    process = start(command)
    return finish(process, deadline_s)


# What a cold job of 1 GiB uses at most: the mounted file in the page cache, the cache's file too, and buffers.
_TOUCHED_BYTES = 3 << 30


def start(command: list[str], given: str = "") -> subprocess.Popen[bytes]:
    """The command under way, with what it is given on its standard input; `finish` must be called on it."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write(given.encode())
        stdin.seek(0)
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], deadline_s: float = DEADLINE_S) -> bytes:
    """What it wrote, once it has ended. Raises MeasureFailed."""
    try:
        out, err = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise MeasureFailed(f"timeout {deadline_s:.0f} s") from None
    finally:
        kill(process)
    if process.returncode != 0:
        words = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
        raise MeasureFailed(words[-1][-200:] if words else f"exit code {process.returncode}")
    return out


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends it and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def start_read(do: str, base: Path | str, **asked: object) -> subprocess.Popen[bytes]:
    """A job of readers.py on a mount's directory or the server's URL, under way."""
    return start([sys.executable, "-m", "bench.readers"], json.dumps({"do": do, "base": str(base), **asked}))


def read(do: str, base: Path | str, **asked: object) -> dict[str, Any]:
    """What a job of readers.py tells. Raises MeasureFailed."""
    return finish_read(start_read(do, base, **asked))


def finish_read(process: subprocess.Popen[bytes], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """What a reader that was started tells. Raises MeasureFailed."""
    found: dict[str, Any] = json.loads(finish(process, deadline_s))
    return found


def fio(*options: str) -> list[dict[str, Any]]:
    """The read side of each job that fio reports; it never writes or lays out a file. Raises MeasureFailed."""
    fixed = ["--readonly", "--allow_file_create=0", "--ioengine=sync", "--fallocate=none", "--output-format=json"]
    out = run(["fio", *fixed, *options]).decode()
    jobs = json.loads(out[out.index("{") :])["jobs"]
    for job in jobs:
        if job["error"]:
            raise MeasureFailed(f"fio: {os.strerror(job['error'])}")
    return [job["read"] for job in jobs]


def fio_mb_per_s(*options: str) -> float:
    """The speed of all readers together, in 10^6 bytes a second. Raises MeasureFailed."""
    return float(sum(job["bw_bytes"] for job in fio("--name=read", *options))) / 1e6


def drop_page_cache(touched_bytes: int = _TOUCHED_BYTES) -> bool:
    """Empties the kernel's page cache; whether that is allowed here. As much of what was freed is then used once."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    _touch_memory(touched_bytes)
    return True


def _touch_memory(size_bytes: int) -> None:
    """Uses the memory that was freed once, in a process that ends.

    A virtual machine gives freed memory back to its host, and the first to use it again pays: up to 2.5 s a GiB were
    measured, ten times what a mount costs. Whoever ran after a dropped page cache would be measured with that.
    """
    code = f"import ctypes, mmap\nm = mmap.mmap(-1, {size_bytes}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    code += f"ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(m)), 1, {size_bytes})"
    run([sys.executable, "-c", code])
