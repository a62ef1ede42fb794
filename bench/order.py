"""`./dev bench order`: an epoch of shuffled reading from a store that is far away, with its order given and without.

    files      small files of one folder in random order
    ranges     ranges of 256 KiB of a few large files (tar shards, LMDB, HDF5), in random order
    pictures   frames of videos in random order, as JPEG

Workers take batches in turn, as torch's DataLoader deals them out, and do something for `--step` ms with each sample,
in which the machine is free (a GPU's step). Each kind is read from four places, each with an empty page cache: "local",
without a mount and without a store (of pictures: a mount of a local folder that is given the order too); "warm", a
mount whose cache on disk holds all of it; "none", a new mount without an order; "order", a new mount while `egofs warm
--order LIST --follow` runs, which starts together with the workers. What was read is hashed and compared.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from bench import framedata, measure
from bench.data import pinned
from bench.framesystems import EGOFS, KEEPING
from bench.measure import MeasureFailed
from bench.server import Server, ServerFailed, Traffic
from bench.stand import MB
from bench.systems import SystemFailed, mounted

_BYTES_PER_S = 60 * MB
_DEADLINE_S = 1_800.0
_BATCH = 16
_FILES, _FILE_BYTES = 3_000, 40_000
_SHARDS, _SHARD_BYTES, _RANGE_BYTES = 4, 128 << 20, 256 << 10
_PICTURES = 400
_KIND = framedata.KINDS[1]
_TOUCHED_BYTES = 768 << 20
_KEPT_S = 3.0
_PLACES = ("local", "warm", "none", "order")
_SHARE_OF_WARM = 0.8
# Over no order: at 50 ms and 4 workers, 5 ms a sample, 11 is what there is without any other cost. Pictures are decoded
# as well, which takes longer than their bytes.
_TIMES_NONE = {"files": 5.0, "ranges": 2.0, "pictures": 2.0}

Sample = tuple[str, int, int]
"""A path, and a range of it: (0, 0) is all."""


@dataclass(frozen=True)
class Kind:
    """What is read: the bucket, and the samples of an epoch in their order."""

    name: str
    bucket: str
    samples: Callable[[], list[Sample]]


@dataclass(frozen=True)
class Epoch:
    """Samples a second, what the store was asked, and what the command said of itself."""

    speed: float
    traffic: Traffic
    waited: int
    """Blocks of 128 KiB that a reader had to wait for."""
    told: str = ""


def main(arguments: list[str]) -> None:
    """Measures what the command line asks for; exits with 1 where a bar is not reached."""
    asked = _arguments(arguments)
    work: Path = asked.work.resolve()
    reached = True
    for kind in asked.kinds:
        _make(work, kind)
        root = work / ("videos" if kind.bucket == framedata.BUCKET else "orders")
        with (
            tempfile.TemporaryDirectory(prefix="run-", dir=work) as scratch,
            pinned(path for path in (root / kind.bucket).rglob("*") if path.is_file()) as touch,
            Server(root, Path(scratch) / "server", asked.ttfb / 1e3, _BYTES_PER_S) as server,
        ):
            server.warm(kind.bucket)
            stand = _Stand(
                server, root / kind.bucket, Path(scratch), kind, asked.workers, asked.step / 1e3, touch, asked.samples
            )
            try:
                found = {place: stand.epoch(place) for place in asked.places}
            except (MeasureFailed, ServerFailed, SystemFailed) as failure:
                raise SystemExit(f"{kind.name}: {failure}") from failure
        reached &= _told(kind, found, asked)
    raise SystemExit(0 if reached else 1)


def _told(kind: Kind, found: dict[str, Epoch], asked: argparse.Namespace) -> bool:
    """Prints the table; whether the bars are reached."""
    print(f"\n{kind.name}: {asked.workers} workers, {asked.ttfb} ms to the first byte, {asked.step} ms a sample\n")
    print("| place | samples/s | requests | MB | blocks waited for |\n|---|---|---|---|---|")
    for place, epoch in found.items():
        traffic = epoch.traffic
        fetched = f"{traffic.requests:,} | {traffic.object_bytes / MB:,.1f}"
        print(f"| {place} | {epoch.speed:,.1f} | {fetched} | {epoch.waited:,} |")
    if "order" not in found:
        return True
    print(f"\n{found['order'].told}\n")
    near = "local" if kind.name == "pictures" else "warm"
    bars = ((near, _SHARE_OF_WARM), ("none", _TIMES_NONE[kind.name]))
    print("| the order over | at least | measured | |\n|---|---|---|---|")
    ratios = [(place, least, found["order"].speed / found[place].speed) for place, least in bars if place in found]
    for place, least, ratio in ratios:
        print(f"| {place} | {least:g} | {ratio:.2f} | {'reached' if ratio >= least else 'NOT REACHED'} |", flush=True)
    return all(ratio >= least for _, least, ratio in ratios)


@dataclass(frozen=True)
class _Stand:
    """Where a kind is read."""

    server: Server
    folder: Path
    scratch: Path
    kind: Kind
    workers: int
    step_s: float
    touch: Callable[[], None]
    most: int | None

    def epoch(self, place: str) -> Epoch:
        """An epoch read from a place. Raises MeasureFailed, SystemFailed."""
        samples = self.kind.samples()[: self.most]
        is_far = place != "local"
        if place == "warm":
            with self._mount("warm", is_far) as base, self._ordered(base, samples, follow=False) as told:
                told()
                time.sleep(_KEPT_S)
        if place == "local" and self.kind.name != "pictures":
            return self._read(self.folder, samples)
        with self._mount(place, is_far) as base:
            if place in ("warm", "none"):
                return self._read(base, samples)
            with self._ordered(base, samples, follow=True) as told:
                epoch = self._read(base, samples)
                return replace(epoch, told=told())

    @contextmanager
    def _mount(self, cache: str, is_far: bool) -> Iterator[Path]:
        measure.drop_page_cache(_TOUCHED_BYTES)
        self.touch()
        system = EGOFS.store if is_far else KEEPING
        assert system is not None
        source = self.kind.bucket if is_far else str(self.folder)
        with mounted(system, self.server.url, source, self.scratch / cache) as found:
            # Names are no part of what is measured: who has a list of files has no need to list folders.
            measure.run(["find", str(found.directory), "-name", "frames", "-prune", "-o", "-printf", ""], 60)
            time.sleep(1.0)
            self.server.traffic()
            yield found.directory

    @contextmanager
    def _ordered(self, base: Path, samples: list[Sample], *, follow: bool) -> Iterator[Callable[[], str]]:
        """`egofs warm --order`, and what gives its last words when it has ended."""
        lines = [path if not length else f"{path}\t{start}\t{length}" for path, start, length in samples]
        file = self.scratch / "order.txt"
        file.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "mountd", "warm", str(base), "--order", str(file)]
        process = subprocess.Popen([*command, *["--follow"] * follow], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def told() -> str:
            out, err = process.communicate(timeout=_DEADLINE_S)
            if process.returncode:
                raise MeasureFailed(f"egofs warm: {err.decode(errors='replace').strip()}")
            return out.decode().strip()

        try:
            yield told
        finally:
            process.kill()
            process.communicate()

    def _read(self, base: Path, samples: list[Sample]) -> Epoch:
        asked = {"base": str(base), "samples": samples, "workers": self.workers, "step_s": self.step_s}
        process = measure.start([sys.executable, "-m", "bench.order"], json.dumps(asked))
        found = json.loads(measure.finish(process, _DEADLINE_S))
        if self.kind.name != "pictures":
            right = sum(_hash(str(self.folder), sample) for sample in samples) & 0xFFFF_FFFF_FFFF_FFFF
            if found["hash"] != right:
                raise MeasureFailed("WRONG BYTES: what was read is not what the server holds")
        status = base / ".egofs/status.json"
        waited = json.loads(status.read_text()).get("cache", {}).get("misses", 0) if status.exists() else 0
        return Epoch(len(samples) / found["s"], self.server.traffic(), waited)


# ---- what is read


def _files() -> list[Sample]:
    samples = [(f"train/{number:05d}.jpg", 0, 0) for number in range(_FILES)]
    random.Random(1).shuffle(samples)
    return samples


def _ranges() -> list[Sample]:
    starts = range(0, _SHARD_BYTES, _RANGE_BYTES)
    samples = [(f"shard-{number}.bin", start, _RANGE_BYTES) for number in range(_SHARDS) for start in starts]
    random.Random(2).shuffle(samples)
    return samples


def _pictures() -> list[Sample]:
    dice = random.Random(3)
    frames = [(video, number) for video in _KIND.videos for number in range(1, framedata.FRAMES + 1)]
    return [(f"frames@fps=0/{video}/{number:06d}.jpg", 0, 0) for video, number in dice.sample(frames, _PICTURES)]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("files", "order-files", _files),
        Kind("ranges", "order-shards", _ranges),
        Kind("pictures", framedata.BUCKET, _pictures),
    )
}


def _make(work: Path, kind: Kind) -> None:
    """The bucket, which stays for the next run."""
    if kind.bucket == framedata.BUCKET:
        framedata.make(work / "videos", [_KIND])
        return
    folder = work / "orders" / kind.bucket
    if folder.exists():
        return
    draft = work / f"making-{kind.bucket}-{os.getpid()}"
    (draft / "train").mkdir(parents=True)
    sizes = dict.fromkeys((path for path, _, _ in kind.samples()), _FILE_BYTES)
    for path, start, length in kind.samples():
        sizes[path] = max(sizes[path], start + length)
    for path, size in sizes.items():
        with (draft / path).open("wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
    folder.parent.mkdir(exist_ok=True)
    draft.rename(folder)


# ---- the job, in a process of its own


def _epoch(base: str, samples: list[Sample], workers: int, step_s: float) -> dict[str, Any]:
    """Seconds that the workers took for all of the samples, and the sum of the hashes of what they read."""
    context = multiprocessing.get_context("fork")
    following = context.Value("q", 0)
    began = time.monotonic()
    with context.Pool(workers, _become_worker, (following, base, samples, step_s)) as pool:
        total = sum(pool.map(_work, range(workers), chunksize=1))
    return {"s": time.monotonic() - began, "hash": total & 0xFFFF_FFFF_FFFF_FFFF}


_worker: tuple[Any, str, list[Sample], float]


def _become_worker(*given: Any) -> None:
    global _worker
    _worker = given  # type: ignore[assignment]


def _work(number: int) -> int:
    """One worker: the next batch, until there is none. A file of ranges is opened once."""
    following, base, samples, step_s = _worker
    total = 0
    while True:
        with following.get_lock():
            at = following.value
            following.value += _BATCH
        if at >= len(samples):
            return total
        for sample in samples[at : at + _BATCH]:
            total += _hash(base, sample)
            time.sleep(step_s)


_opened: dict[str, int] = {}


def _hash(base: str, sample: Sample) -> int:
    path, start, length = sample
    if not length:
        with open(f"{base}/{path}", "rb", buffering=0) as file:
            return xxhash.xxh3_64_intdigest(file.read())
    name = f"{base}/{path}"
    if name not in _opened:
        _opened[name] = os.open(name, os.O_RDONLY)
    return xxhash.xxh3_64_intdigest(os.pread(_opened[name], length, start))


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev bench order", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument("--ttfb", type=float, default=50.0, metavar="MS", help="to the first byte (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="that read (%(default)s)")
    parser.add_argument("--step", type=float, default=5.0, metavar="MS", help="a sample takes (%(default)s)")
    parser.add_argument("--samples", type=int, metavar="N", help="the first so many of the epoch")
    parser.add_argument("--places", default=",".join(_PLACES), metavar="A,B", help="from which to read (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/egofs-bench", metavar="DIR")
    asked = parser.parse_args(arguments)
    asked.places = [place for place in _PLACES if place in asked.places.split(",")]
    if unknown := set(asked.kinds) - KINDS.keys():
        parser.error(f"{', '.join(unknown)}: there are {', '.join(KINDS)}")
    asked.kinds = [KINDS[name] for name in asked.kinds or KINDS]
    asked.work.mkdir(parents=True, exist_ok=True)
    return asked


if __name__ == "__main__":
    print(json.dumps(_epoch(**json.load(sys.stdin))))
