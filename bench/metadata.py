"""`./dev bench metadata`: Ego4D and Ego-Exo4D mounted with metadata of true size, and `ls` of all kinds of folders.

The metadata is made up (tests/full_size.py) and served as by S3, 20 ms late and with 60 MB/s a connection. Each dataset
is mounted twice with one cache folder. Of every folder that has up to 12 folders below it all are listed, of larger
ones the first, the middle and the last; videos are not opened, so what `frames/<view>` has is not asked. From the first
mount the time is taken off in which the same documents come over 16 connections by themselves.
"""

import argparse
import http.client
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measure
from bench.measure import MeasureFailed
from bench.server import Server, ServerFailed, Traffic
from bench.stand import MB
from bench.systems import System, SystemFailed, mounted
from tests import full_size

_TTFB_S = 0.020
_BYTES_PER_S = 60 * MB
_FEW_FOLDERS = 12
_CONNECTIONS = 16
_PIECE_BYTES = 4 << 20
_DEADLINE_S = 600.0

DATASETS = {"ego4d": "public", "egoexo4d": "egoexo-public"}
"""Where the documents of each are in the entry bucket."""

_BARS = {
    "first mount and the slowest ls, s beyond the transfer": 5.0,
    "second mount and the slowest ls, s": 0.5,
    "memory at most, MB": 300.0,
    "requests a name": 0.01,
}


@dataclass(frozen=True)
class _Run:
    """A mount: seconds until it answered and of each listing, names that were listed, and what it cost."""

    mount_s: float
    listings_s: dict[str, float]
    names: int
    traffic: Traffic
    memory_bytes: int


def main(arguments: list[str]) -> None:
    """Measures what the command line asks for; exits with 1 where a bar is not reached."""
    asked = _arguments(arguments)
    root = _made(asked.work.resolve(), asked.videos, asked.takes)
    reached = True
    with tempfile.TemporaryDirectory(prefix="run-", dir=asked.work.resolve()) as scratch:
        for dataset in asked.datasets or DATASETS:
            folder = Path(scratch) / dataset
            try:
                with Server(root, folder / "server", _TTFB_S, _BYTES_PER_S) as server:
                    transfer_s, size_bytes = _transfer(server, root, dataset)
                    first, second = [_run(server, dataset, folder) for _ in range(2)]
            except (MeasureFailed, ServerFailed, SystemFailed) as failure:
                raise SystemExit(f"{dataset}: {failure}") from failure
            print(f"\n{dataset}: {size_bytes / MB:,.0f} MB of documents, {transfer_s:.2f} s by themselves\n")
            for name, run in (("first", first), ("second", second)):
                _tell(name, run)
            reached &= _judge(first, second, transfer_s)
    raise SystemExit(0 if reached else 1)


def _judge(first: _Run, second: _Run, transfer_s: float) -> bool:
    values = (
        first.mount_s + max(first.listings_s.values()) - transfer_s,
        second.mount_s + max(second.listings_s.values()),
        max(first.memory_bytes, second.memory_bytes) / MB,
        max(run.traffic.requests / run.names for run in (first, second)),
    )
    print("\n| bar | at most | measured | |\n|---|---|---|---|")
    for (bar, most), value in zip(_BARS.items(), values, strict=True):
        print(f"| {bar} | {most:g} | {value:.3g} | {'reached' if value <= most else 'NOT REACHED'} |")
    return all(value <= most for most, value in zip(_BARS.values(), values, strict=True))


def _tell(name: str, run: _Run) -> None:
    asked = f"{run.traffic.requests:,} requests ({run.traffic.heads:,} HEAD, {run.traffic.lists:,} LIST)"
    print(
        f"{name} mount: {run.mount_s:.2f} s, then {len(run.listings_s):,} folders of {run.names:,} names in "
        f"{sum(run.listings_s.values()):.2f} s, {asked}, {run.memory_bytes / MB:.0f} MB"
    )
    slowest = sorted(run.listings_s.items(), key=lambda listing: -listing[1])[:5]
    print("  slowest: " + ", ".join(f"{path or '.'} {seconds:.2f} s" for path, seconds in slowest))


def _run(server: Server, dataset: str, folder: Path) -> _Run:
    def command(url: str, bucket: str, directory: Path, cache: Path) -> list[str]:
        options = f"endpoint_url={url},cache_dir={cache}"
        return [sys.executable, "-m", "mountd", "mount", dataset, str(directory), "-f", "-o", options]

    server.traffic()
    began = time.monotonic()
    with mounted(System("egofs", "", True, command, str), server.url, "", folder) as mount:
        mount_s = time.monotonic() - began
        found = _asked({"do": "walk", "base": str(mount.directory)})
        memory = mount.memory()["VmHWM"]
        return _Run(mount_s, found["s"], found["names"], server.traffic(), memory)


def _transfer(server: Server, root: Path, dataset: str) -> tuple[float, int]:
    """Seconds in which the dataset's documents come, and their bytes."""
    top = root / full_size.ENTRY_BUCKET / DATASETS[dataset]
    sizes = {str(file.relative_to(root)): file.stat().st_size for file in top.rglob("*") if file.is_file()}
    found = _asked({"do": "fetch", "base": server.url, "sizes": sizes})
    return found["s"], sum(sizes.values())


def _made(work: Path, videos: int, takes: int) -> Path:
    """The remotes, made once for each size."""
    root = work / f"metadata-{videos}-{takes}"
    if not root.exists():
        draft = work / f"making-{root.name}-{os.getpid()}"
        full_size.make_ego4d(draft, videos)
        full_size.make_egoexo4d(draft, takes)
        try:
            draft.rename(root)
        except OSError:  # somebody else was first
            shutil.rmtree(draft)
    return root


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev bench metadata", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=f"{' or '.join(DATASETS)} (both)")
    parser.add_argument("--videos", type=int, default=full_size.VIDEOS, metavar="N", help="of Ego4D (%(default)s)")
    parser.add_argument("--takes", type=int, default=full_size.TAKES, metavar="N", help="of Ego-Exo4D (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/egofs-bench", metavar="DIR")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.datasets) - DATASETS.keys():
        parser.error(f"{', '.join(unknown)}: there are {', '.join(DATASETS)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    return asked


# ---- what is done in a process of its own: one that hangs in a mount can be killed


def _asked(what: dict[str, object]) -> dict[str, Any]:
    process = measure.start([sys.executable, "-m", "bench.metadata"], json.dumps(what))
    found: dict[str, Any] = json.loads(measure.finish(process, _DEADLINE_S))
    return found


def _answer() -> dict[str, Any]:
    asked = json.load(sys.stdin)
    if asked["do"] == "fetch":
        return {"s": _fetch(asked["base"], asked["sizes"])}
    listed = {path: (seconds, names) for path, seconds, names in _walk(asked["base"], "")}
    return {
        "s": {path: seconds for path, (seconds, _) in listed.items()},
        "names": sum(names for _, names in listed.values()),
    }


def _walk(base: str, path: str) -> Iterator[tuple[str, float, int]]:
    """Folders with the seconds in which they were listed and the number of their names."""
    began = time.perf_counter()
    with os.scandir(os.path.join(base, path)) as entries:
        folders, names = [], 0
        for entry in entries:
            names += 1
            if entry.is_dir(follow_symlinks=False) and entry.name != ".egofs":
                folders.append(entry.name)
    yield path, time.perf_counter() - began, names
    if os.path.basename(path) == "frames":
        return
    if len(folders) > _FEW_FOLDERS:
        folders = [folders[0], folders[len(folders) // 2], folders[-1]]
    for folder in folders:
        yield from _walk(base, os.path.join(path, folder))


def _fetch(url: str, sizes: dict[str, int]) -> float:
    """Seconds in which these objects come over so many connections."""
    place, own = urllib.parse.urlsplit(url).netloc, threading.local()

    def fetch(key: str, start: int) -> None:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(place, timeout=60)
        end = min(start + _PIECE_BYTES, sizes[key]) - 1
        own.connection.request("GET", f"/{urllib.parse.quote(key)}", headers={"Range": f"bytes={start}-{end}"})
        answer = own.connection.getresponse()
        if len(answer.read()) != end + 1 - start:
            raise OSError(f"{key}: {answer.status}")

    began = time.perf_counter()
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for done in [pool.submit(fetch, key, at) for key, size in sizes.items() for at in range(0, size, _PIECE_BYTES)]:
            done.result()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(_answer()))
