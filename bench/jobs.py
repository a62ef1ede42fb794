"""The jobs: what is read of a mount, how it is timed, and what counts.

A job is run for one system at a time and gives a figure for each of its rows. "Cold" is a new cache folder, a new
mount and an empty page cache; "disk" is the same cache folder under a new mount and an empty page cache; "warm" is the
same again at once, the mount left as it was.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import data, measure
from bench.data import Data
from bench.fiojobs import FIO_JOBS
from bench.measure import MeasureFailed
from bench.stand import MB, Figure, Job, Place, Stand
from bench.systems import DIRECT, System

_RANGE_BYTES = 128 << 10
_RANGES = 100
_ALIGNMENTS = {"random 128 KiB": 4 << 10, "random 128 KiB, aligned": _RANGE_BYTES}
_READERS = 16
_SETTLED_S = 15.0
# rclone writes down what its cache holds 5 s after the last read of a file; unmounted before, it fetches all again.
_KEPT_S = 8.0
_LISTING_S = 1_800.0
_MOUNT_S = 30.0


def _random_128k(stand: Stand, system: System) -> Iterator[Figure]:
    """Each alignment with a mount and a cache of its own, so that neither finds what the other fetched."""
    for row, alignment in _ALIGNMENTS.items():
        dice = random.Random(f"{row} {stand.data.size_bytes}")
        last = (stand.data.size_bytes - _RANGE_BYTES) // alignment
        starts = [alignment * dice.randint(0, last) for _ in range(_RANGES)]
        asked = {"key": stand.data.streams[0], "starts": starts, "length": _RANGE_BYTES}
        with stand.base(system, cache=f"aligned-{alignment}") as base:
            found = measure.read("random", base, **asked)
            traffic = stand.server.traffic()
        direct = measure.read("random", stand.url, **asked)
        stand.server.traffic()
        if found["hash"] != direct["hash"]:
            raise MeasureFailed("WRONG BYTES: not those that the server gives")
        more = {
            "mean": statistics.mean(found["ms"]),
            "direct ms": statistics.median(direct["ms"]),
            "fetched/asked": traffic.object_bytes / (_RANGES * _RANGE_BYTES),
        }
        yield Figure(row, statistics.median(found["ms"]), traffic, more=more)


def _streams(row: str, places: Callable[[Data], list[Place]]) -> Callable[[Stand, System], Iterator[Figure]]:
    def run(stand: Stand, system: System) -> Iterator[Figure]:
        where = places(stand.data)
        with stand.base(system) as base:
            found = measure.read("streams", base, places=where)
            traffic = stand.server.traffic()
        if system is not DIRECT:
            stand.check(found["hash"], where)
        speeds = [length / MB / seconds for (_, _, length), seconds in zip(where, found["s"], strict=True)]
        total = sum(length for _, _, length in where) / MB / max(found["s"])
        yield Figure(row, total, traffic, more={"slowest/mean": min(speeds) / statistics.mean(speeds)})

    return run


def _one_file(d: Data) -> list[Place]:
    """16 places of one file, evenly spread, half of it in all (32 MiB each of a file of 1 GiB)."""
    step = d.size_bytes // _READERS
    return [(d.streams[0], reader * step, step // 2) for reader in range(_READERS)]


def _four_files(d: Data) -> list[Place]:
    return [(name, 0, d.size_bytes // 4) for name in d.streams]


def _disk(stand: Stand, system: System) -> Iterator[Figure]:
    """The cache is filled by one reading of the whole, which is not timed; 4 KiB reads find it in a further mount."""
    with stand.base(system) as base:
        stand.check(measure.read("streams", base, places=stand.whole)["hash"], stand.whole)
        time.sleep(_KEPT_S)
    with stand.base(system) as base:
        speed = measure.fio_mb_per_s("--rw=read", "--bs=256k", f"--filename={base}/{stand.data.streams[0]}")
        yield Figure("sequential, disk", speed, stand.server.traffic())
        time.sleep(_KEPT_S)
    with stand.base(system) as base:
        file = f"--filename={base}/{stand.data.streams[0]}"
        (found,) = measure.fio("--name=random", "--rw=randread", "--bs=4k", file, "--time_based", "--runtime=8")
        yield Figure("random 4 KiB, disk", found["iops"], stand.server.traffic())


def _small_files(stand: Stand, system: System) -> Iterator[Figure]:
    keys = data.small_keys()
    random.Random(0).shuffle(keys)  # as loaders do
    right = stand.data.hash_of(stand.bucket, [(key, 0, data.SMALL_BYTES) for key in keys])
    for row in ("10,000 small files", "10,000 small files, disk"):
        with stand.base(system) as base:
            found = measure.read("files", base, keys=keys, readers=_READERS)
            if found["hash"] != right:
                raise MeasureFailed("WRONG BYTES: what was read is not what the server holds")
            yield Figure(row, len(keys) / found["s"], stand.server.traffic())
            if not system.keeps:
                return
            time.sleep(_KEPT_S)


def _ls_tree(stand: Stand, system: System) -> Iterator[Figure]:
    for row in ("ls -lR of 100,000", "ls -lR of 100,000, second mount"):
        with stand.base(system) as base:
            began = time.monotonic()
            out = measure.run(["ls", "-lR", str(base)])
            seconds = time.monotonic() - began
            _count_listed(out.count(b".bin\n"), data.TREE_FOLDERS * data.TREE_IN_FOLDER)
            yield Figure(row, seconds, stand.server.traffic())


def _list_million(stand: Stand, system: System) -> Iterator[Figure]:
    with stand.mount(system) as mount:
        began = time.monotonic()
        out = measure.run(["find", str(mount.directory), "-type", "f", "-printf", "."], _LISTING_S)
        seconds = time.monotonic() - began
        _count_listed(len(out), data.MILLION_FOLDERS * data.MILLION_IN_FOLDER)
        memory = mount.memory()
        yield Figure("1,000,000 objects: time", seconds, stand.server.traffic())
        yield Figure("1,000,000 objects: memory", memory["VmHWM"] / MB, more={"at the end": memory["VmRSS"] / MB})


def _count_listed(found: int, right: int) -> None:
    if found != right:
        raise MeasureFailed(f"WRONG LISTING: {found:,} of {right:,} objects")


def _first_byte(stand: Stand, system: System) -> Iterator[Figure]:
    """From the start of the mount's process (of the request, where nothing is mounted) to 4 KiB read.

    The programs' own files are in the page cache, or reading those from disk would be what is measured.
    """
    stand.server.traffic()
    base: Path | str = stand.url if system is DIRECT else stand.folder / "mount"
    reader = measure.start_read("first_byte", base, key=stand.data.firsts[0])
    try:
        if system is DIRECT:
            found = measure.finish_read(reader)
            yield Figure("first byte after mount", found["ms"], stand.server.traffic())
            return
        time.sleep(1.0)  # the reader must be looking before there is something to see
        began = time.monotonic()
        with stand.mount(system, wait=False, drop=False):
            found = measure.finish_read(reader, _MOUNT_S)
            stand.check(found["hash"], [(stand.data.firsts[0], 0, 4096)])
            yield Figure("first byte after mount", (found["at"] - began) * 1e3, stand.server.traffic())
    finally:
        measure.kill(reader)


def _memory(stand: Stand, system: System) -> Iterator[Figure]:
    with stand.mount(system) as mount:
        before = mount.memory()["VmRSS"]
        measure.read("streams", mount.directory, places=_one_file(stand.data))
        traffic = stand.server.traffic()
        peak = mount.memory()["VmHWM"]
        time.sleep(_SETTLED_S)
        after = mount.memory()["VmRSS"]
        yield Figure("memory, 16 streams", peak / MB, traffic, more={"before": before / MB, "15 s after": after / MB})


JOBS = (
    *FIO_JOBS,
    Job(
        "random_128k",
        "100 reads of 128 KiB at random places, one after the other; median",
        {"random 128 KiB": "ms", "random 128 KiB, aligned": "ms"},
        _random_128k,
    ),
    Job(
        "streams_16",
        "16 readers of one file at 16 places, each a 32nd of it",
        {"16 readers, one file": "MB/s"},
        _streams("16 readers, one file", _one_file),
    ),
    Job(
        "streams_4",
        "4 readers of 4 files, each the first quarter of its own",
        {"4 readers, 4 files": "MB/s"},
        _streams("4 readers, 4 files", _four_files),
    ),
    Job(
        "warm_disk",
        "a file whose bytes are all in the disk cache: sequential, and fio's random reads of 4 KiB",
        {"sequential, disk": "MB/s", "random 4 KiB, disk": "reads/s"},
        _disk,
        only=lambda system: system.keeps,
    ),
    Job(
        "small_files",
        "10,000 files of 20 kB by 16 readers",
        {"10,000 small files": "files/s", "10,000 small files, disk": "files/s"},
        _small_files,
        bucket=lambda _: data.SMALL,
    ),
    Job(
        "ls_tree",
        "ls -lR of 100,000 objects in 1,000 folders, and again in a second mount",
        {"ls -lR of 100,000": "s", "ls -lR of 100,000, second mount": "s"},
        _ls_tree,
        bucket=lambda _: data.TREE,
        runs=1,
        only=lambda system: system is not DIRECT,
    ),
    Job(
        "first_byte",
        "from starting the mount to 4 KiB read; median of 5",
        {"first byte after mount": "ms"},
        _first_byte,
        runs=5,
    ),
    Job(
        "memory_16",
        "resident memory of the daemon during streams_16, and 15 s after it",
        {"memory, 16 streams": "MB"},
        _memory,
        runs=1,
        only=lambda system: system is not DIRECT,
    ),
    Job(
        "list_million",
        "1,000,000 objects in 1,000 folders listed to the end (long; only when named, or with --long)",
        {"1,000,000 objects: time": "s", "1,000,000 objects: memory": "MB"},
        _list_million,
        bucket=lambda _: data.MILLION,
        runs=1,
        only=lambda system: system.name == "egofs",
        long=True,
    ),
)
