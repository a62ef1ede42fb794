"""The jobs that fio runs: the read jobs with which mountpoint-s3 measures itself, on files of 1 GiB in place of 100.

Block sizes, patterns and thread counts are theirs. Ours go on for 8 s in place of 30, the blocks of the skipping
reader are 16 MiB in place of 256 so that it skips more than three times, and each first byte is of another object,
because a cache answers all but the first of ten reads of the same one.
"""

import statistics
from collections.abc import Callable, Iterator

from bench import measure
from bench.stand import MB, Figure, Job, Stand
from bench.systems import DIRECT, System

_Run = Callable[[Stand, System], Iterator[Figure]]
_RUNTIME_S = 8
_RANDOM = ("--rw=randread", "--bs=256k", "--time_based", f"--runtime={_RUNTIME_S}")


def _large(stand: Stand) -> tuple[str, ...]:
    return (f"--filename_format={stand.data.streams[0]}",)


def _five(stand: Stand) -> tuple[str, ...]:
    return (f"--filename_format={stand.data.five}",)


def _four(_: Stand) -> tuple[str, ...]:
    return ("--filename_format=large-$jobnum", "--numjobs=4", "--group_reporting")


def _sequential(row: str, warm: bool) -> _Run:
    """The bare limit is the same bytes over 16 connections."""

    def run(stand: Stand, system: System) -> Iterator[Figure]:
        with stand.base(system) as base:
            if system is DIRECT:
                found = measure.read("streams", base, places=stand.whole)
                yield Figure(row, stand.data.size_bytes / MB / max(found["s"]), stand.server.traffic())
                return
            options = (f"--directory={base}", *_large(stand), "--rw=read", "--bs=256k")
            yield Figure(row, measure.fio_mb_per_s(*options), stand.server.traffic())
            if warm:
                again = measure.fio_mb_per_s(*options, "--invalidate=0")
                yield Figure(f"{row}, warm", again, stand.server.traffic())
            if stand.first:
                stand.check(measure.read("streams", base, places=stand.whole)["hash"], stand.whole)

    return run


def _fio(row: str, files: Callable[[Stand], tuple[str, ...]], *options: str) -> _Run:
    """One run of fio on a cold mount."""

    def run(stand: Stand, system: System) -> Iterator[Figure]:
        with stand.base(system) as base:
            speed = measure.fio_mb_per_s(f"--directory={base}", *files(stand), *options)
            yield Figure(row, speed, stand.server.traffic())

    return run


def _first_bytes(stand: Stand, system: System) -> Iterator[Figure]:
    """fio opens the objects one after the other and times the read of one byte of each."""
    with stand.base(system) as base:
        sections = [
            option
            for name in stand.data.firsts
            for option in (f"--name={name}", f"--filename={base}/{name}", "--stonewall")
        ]
        found = measure.fio("--rw=read", "--bs=1", "--io_size=1", *sections)
        yield Figure("ttfb", statistics.median(job["lat_ns"]["mean"] for job in found) / 1e6, stand.server.traffic())


def _mounts(system: System) -> bool:
    return system is not DIRECT


FIO_JOBS = (
    Job(
        "seq_read",
        "fio: one reader from beginning to end, bs=256k; and again at once",
        {"seq_read": "MB/s", "seq_read, warm": "MB/s"},
        _sequential("seq_read", warm=True),
    ),
    Job(
        "seq_fast",
        "seq_read from a server without delay and without a limit",
        {"seq_read, fast server": "MB/s"},
        _sequential("seq_read, fast server", warm=False),
        ttfb_s=0,
        bytes_per_s=0,
    ),
    Job(
        "seq_read_4t",
        f"fio: four readers of four files, bs=256k, {_RUNTIME_S} s at most",
        {"seq_read_4t": "MB/s"},
        _fio("seq_read_4t", _four, "--rw=read", "--bs=256k", f"--runtime={_RUNTIME_S}"),
        only=_mounts,
    ),
    Job(
        "seq_read_skip_17m",
        "fio: reads 16 MiB, skips 17, and so on",
        {"seq_read_skip_17m": "MB/s"},
        _fio("seq_read_skip_17m", _large, "--rw=read:17m", "--bs=16m", f"--runtime={_RUNTIME_S}"),
        only=_mounts,
    ),
    Job(
        "rand_read",
        f"fio: random blocks of 256 KiB for {_RUNTIME_S} s",
        {"rand_read": "MB/s"},
        _fio("rand_read", _large, *_RANDOM),
        only=_mounts,
    ),
    Job(
        "rand_read_4t",
        f"fio: four readers of four files, random blocks of 256 KiB for {_RUNTIME_S} s",
        {"rand_read_4t": "MB/s"},
        _fio("rand_read_4t", _four, *_RANDOM),
        only=_mounts,
    ),
    Job(
        "rand_read_small",
        f"fio: random blocks of 256 KiB of a file of 5 MiB for {_RUNTIME_S} s",
        {"rand_read_small": "MB/s"},
        _fio("rand_read_small", _five, *_RANDOM),
        only=_mounts,
    ),
    Job(
        "ttfb",
        "fio: one byte of each of ten objects; median (the open is not in it)",
        {"ttfb": "ms"},
        _first_bytes,
        only=_mounts,
    ),
)
