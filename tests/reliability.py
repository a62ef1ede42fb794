"""The long run: everything that can go wrong, at scale, against a real mount; writes doc/RELIABILITY.md.

    python -m tests.reliability [--minutes N] [--seed S] [--page FILE]

Phases, each on a mount of its own: the model (tests/model.py) with several who look and one who makes trouble, again
and again until its time is over; a store that hangs, with a clock on every reader; damage after damage between reads;
readers by the thousand; and hours of random reading, seeking, listing and remounting, compressed, with an eye on what
the daemon holds. Status 0 where no byte was wrong and nothing that is promised was missed.

The page is a table of what can fail, what is promised, the tests that show it, and what this run has counted. The rows
stand here; the figures are only ever those of a run.
"""

import argparse
import gc
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests import damage, load, model
from tests.faults import Late
from tests.model import Looker, Stage, staged
from tests.reliabilitypage import Figures, page
from tests.trouble import Trouble
from tests.world import BELIEVED_S, DEADLINE_S, Interval, Surprise, Tally

TOP = Path(__file__).resolve().parent.parent
LOOKERS = 16
GAME_S = 100.0
"""So long a game lasts; then the next one begins, with another store and an empty cache."""
FAILING_S, CALM_S = 9.0, 3.0
SLOW_S = 5.0
"""Recovery is to take no longer."""


# -- the model, by several at once


def play_together(stage: Stage, seconds: float) -> list[str]:
    """Several look while one makes trouble. Gives what was seen that nobody promised."""
    surprises: list[str] = []
    over = threading.Event()

    def look(looker: Looker) -> None:
        try:
            while not over.is_set():
                looker.step()
        except Exception as failure:  # noqa: BLE001 - whatever ends a reader is what the run is to find
            surprises.append(f"seed {stage.seed}: {failure!r}" if not isinstance(failure, Surprise) else str(failure))
            over.set()
        finally:
            looker.close()

    threads = [threading.Thread(target=look, args=(stage.looker(n),)) for n in range(LOOKERS)]
    for thread in threads:
        thread.start()
    try:
        _make_trouble(stage.trouble, random.Random(f"{stage.seed} together"), seconds, over)
    except (Surprise, OSError) as failure:
        surprises.append(f"seed {stage.seed}: {failure!r}")
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    return surprises


def _make_trouble(trouble: Trouble, draw: random.Random, seconds: float, over: threading.Event) -> None:
    """Turns of failing and of calm; in both, changes, damages and kills."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.is_set():
        trouble.fail(draw.choice((0.5, 0.8, 0.95)))
        _busy(trouble, draw, FAILING_S, over)
        trouble.recover()
        if draw.random() < 0.3:
            trouble.end_keys()
            over.wait(0.3)
            trouble.renew_keys()
        _busy(trouble, draw, CALM_S, over)


def _busy(trouble: Trouble, draw: random.Random, seconds: float, over: threading.Event) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.wait(0.05):
        dice = draw.random()
        if dice < 0.5:
            trouble.harm()
        elif dice < 0.8:
            trouble.change()
        elif dice < 0.812:
            trouble.kill()
        trouble.server.requests.clear()


# -- hangs, with a clock


def hang(stage: Stage, seconds: float) -> tuple[list[float], list[float]]:
    """The store stops answering, again and again; how long each reader waited, and how long after the end of the
    hang it took until a file that nobody had read came whole."""
    waits: list[float] = []
    recoveries: list[float] = []
    world, server = stage.world, stage.server
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for _ in range(4):
            number += 1
            world.put(f"hang/{number}.bin", 3_000_001)
        time.sleep(BELIEVED_S)
        os.listdir(stage.mount / "hang")
        world.store_fails.append(Interval(time.monotonic()))
        server.faults = lambda request: Late(20.0)
        waits += _wait_each([lambda n=number - k: _read(stage.mount / f"hang/{n}.bin") for k in range(3)])
        server.faults = lambda request: None
        ended = time.monotonic()
        world.store_fails[-1].until = ended
        data = None
        while data is None and time.monotonic() < ended + 60:
            with suppress(OSError):
                data = (stage.mount / f"hang/{number}.bin").read_bytes()  # None for EAGAIN, says Python
        if data not in [world.contents(f"hang/{number}.bin", each) for each in _versions(stage, f"hang/{number}.bin")]:
            raise Surprise(f"hang/{number}.bin is wrong")
        recoveries.append(time.monotonic() - ended)
        stage.tally.faults["hang"] += len(server.requests)
        server.requests.clear()
    return waits, recoveries


def _versions(stage: Stage, path: str) -> list[int]:
    now = time.monotonic()
    return [each for each in stage.world.versions(path, now, now) if each is not None]


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        file.read(100_000)


def _wait_each(asks: list[Callable[[], None]]) -> list[float]:
    """How long each took, all at once."""
    took: list[float] = []

    def ask(what: Callable[[], None]) -> None:
        began = time.monotonic()
        with suppress(OSError):
            what()
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(each,)) for each in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


# -- damage after damage


def damage_on(stage: Stage, seconds: float) -> None:
    """Damages the cache and reads files whole, in turn; what is read must be right at once."""
    draw = random.Random(f"{stage.seed} damage")
    until = time.monotonic() + seconds
    paths = stage.world.there()
    while time.monotonic() < until:
        what = draw.choice(sorted(damage.VALUES))
        stage.tally.damages[what] += damage.VALUES[what](stage.cache, draw)
        for path in draw.sample(paths, 2):
            descriptor = os.open(stage.mount / path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                data = model.all_of(descriptor, 8 << 20, 0)
            finally:
                os.close(descriptor)
            (version,) = _versions(stage, path)
            stage.tally.operations["whole"] += 1
            stage.tally.bytes_compared += len(data)
            if data != stage.world.contents(path, version):
                raise Surprise(f"{path} is wrong after {what}")
        stage.server.requests.clear()


# -- all of it


@dataclass
class Run:
    """What a run has found."""

    seed: str
    tally: Tally = field(default_factory=Tally)
    surprises: list[str] = field(default_factory=list)
    hang_waits_s: list[float] = field(default_factory=list)
    hang_recoveries_s: list[float] = field(default_factory=list)
    grown: "load.Grown | None" = None
    crowds: list[load.Crowd] = field(default_factory=list)
    games: int = 0

    def add(self, tally: Tally) -> None:
        ours = self.tally
        for name in ("operations", "errors", "faults", "damages"):
            getattr(ours, name).update(getattr(tally, name))
        ours.kills += tally.kills
        ours.bytes_compared += tally.bytes_compared
        ours.longest_wait_s = max(ours.longest_wait_s, tally.longest_wait_s)
        ours.recoveries_s += tally.recoveries_s


@contextmanager
def _work() -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(seed: str, minutes: float) -> Run:
    """All phases: the model has two thirds of the time, the others share the rest."""
    done = Run(seed)
    total_s = 60 * minutes
    with _work() as work:
        done.grown = load.compressed(work, seed, 0.22 * total_s)
    for readers, descriptors in ((1000, 65_536), (300, 256)):
        with _work() as work:
            done.crowds.append(load.crowd(work, readers, descriptors))
    done.tally.operations["load"] += done.grown.operations + sum(each.readers for each in done.crowds)
    with _work() as work, staged(work, f"{seed}-hang", files=5) as stage:
        waits, recoveries = hang(stage, 0.06 * total_s)
        done.hang_waits_s += waits
        done.hang_recoveries_s += recoveries
        done.add(stage.tally)
    _say(done)
    with _work() as work, staged(work, f"{seed}-damage") as stage:
        try:
            damage_on(stage, 0.05 * total_s)
        except (Surprise, OSError) as failure:
            done.surprises.append(f"damage: {failure!r}")
        done.add(stage.tally)
    _say(done)
    until = time.monotonic() + 0.65 * total_s
    while (left := until - time.monotonic()) > 10 and len(done.surprises) < 5:
        # Every other game without a cache on disk, so that the store is asked for everything.
        with _work() as work, staged(work, f"{seed}-{done.games}", kept=done.games % 2 == 0) as stage:
            done.surprises += play_together(stage, min(GAME_S, left))
            done.add(stage.tally)
        done.games += 1
        gc.collect()
        _say(done)
        print("\n".join(done.surprises[-1:]), flush=True)
    return done


def _say(done: Run) -> None:
    tally = done.tally
    print(
        f"{time.strftime('%H:%M:%S')} {tally.operations.total()} operations, {tally.faults.total()} faults, "
        f"{tally.kills} kills, {tally.damages.total()} damages, {len(done.surprises)} surprises",
        flush=True,
    )


def figures(done: Run, minutes: float) -> Figures:
    """What the page tells of a run."""
    tally, grown = done.tally, done.grown
    assert grown is not None, "the run has come to its end"
    return Figures(
        seed=done.seed,
        minutes=minutes,
        machine=f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        when=time.strftime("%Y-%m-%d"),
        games=done.games,
        operations=dict(tally.operations),
        errors=dict(tally.errors),
        faults=dict(tally.faults),
        damages=dict(tally.damages),
        kills=tally.kills,
        gib_compared=tally.bytes_compared / (1 << 30),
        wrong=len(done.surprises),
        beyond_deadline_s=max([0.0, *(each - DEADLINE_S for each in done.hang_waits_s)]),
        longest_operation_s=tally.longest_wait_s,
        hangs=len(done.hang_waits_s),
        fault_recovery_s=max(done.hang_recoveries_s, default=0.0),
        kill_recovery_s=sorted(tally.recoveries_s),
        crowds=done.crowds,
        grown=grown,
    )


def main() -> int:
    """Status 0 where nothing was wrong; the page is written in any case."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--seed", default=time.strftime("%Y%m%d%H%M%S"))
    parser.add_argument("--page", type=Path, default=TOP / "doc/RELIABILITY.md")
    asked = parser.parse_args()
    began = time.monotonic()
    done = run(asked.seed, asked.minutes)
    told = figures(done, (time.monotonic() - began) / 60)
    asked.page.write_text(page(told))
    print("\n".join(told.lines()))
    for each in done.surprises:
        print(each)
    return 1 if done.surprises else 0


if __name__ == "__main__":
    sys.exit(main())
