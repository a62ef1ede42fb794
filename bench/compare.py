"""The command line of the comparison: which jobs for which systems, how often, and where the report goes."""

import argparse
import datetime
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import report
from bench.data import Data, pinned
from bench.jobs import JOBS
from bench.measure import MeasureFailed, drop_page_cache
from bench.server import Server
from bench.stand import Figure, Job, Stand
from bench.systems import SYSTEMS, System, SystemFailed

_RESULTS = Path(__file__).parent / "results"
_WORK = Path.home() / ".cache" / "egofs-bench"


def main() -> None:
    """Runs what the command line asks for."""
    asked = _arguments()
    if asked.list:
        _print_list()
        return
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)  # however it is ended, everything is unmounted
    asked.work.mkdir(parents=True, exist_ok=True)
    if not drop_page_cache():
        say("only root may empty the page cache: figures 'cold' and 'disk' are of what the kernel still holds")
    made = Data(asked.work.resolve() / "buckets", asked.size)
    figures: report.Figures = {}
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=asked.work.resolve()) as scratch:
            for job in asked.jobs:
                figures |= _run_job(job, asked.systems, made, Path(scratch), asked.runs)
    except KeyboardInterrupt:
        say("interrupted: everything is unmounted; the report has what was measured before")
        raise SystemExit(130) from None
    finally:
        if figures:
            _report(asked, figures, load)
        if asked.clean:
            shutil.rmtree(asked.work / "buckets", ignore_errors=True)


def _report(asked: argparse.Namespace, figures: report.Figures, load: float) -> None:
    about = report.facts(asked.systems, asked.work, asked.size, asked.runs, load)
    print(report.markdown(figures, asked.jobs, asked.systems, about))
    if asked.out:
        report.write(asked.out, figures, asked.jobs, asked.systems, about)
        say(f"written: {asked.out} and {asked.out.with_suffix('.png').name}")


def _run_job(job: Job, systems: list[System], made: Data, scratch: Path, runs: int) -> report.Figures:
    bucket = job.bucket(made)
    say(f"{job.name}: {job.about}")
    made.make(bucket)
    taken: dict[System, list[list[Figure]]] = {system: [] for system in systems if job.only(system)}
    failed: dict[System, str] = {}
    with _served(job, made, bucket, scratch) as (server, touch):
        # Round by round, so that whatever else the machine does falls on all of them.
        for number in range(job.runs or runs):
            for system in taken:
                if system not in failed:
                    stand = Stand(server, made, scratch / "mounted", bucket, number == 0, touch)
                    figures, failed_now = _run_once(job, stand, system)
                    taken[system].append(figures)
                    if failed_now:
                        failed[system] = failed_now
    return {
        (row, system.name): middle(row, taken[system], failed.get(system, "")) for system in taken for row in job.rows
    }


@contextmanager
def _served(job: Job, made: Data, bucket: str, scratch: Path) -> Iterator[tuple[Server, Callable[[], None]]]:
    """The server, and what has its files at hand when called."""
    folder = scratch / f"server-{job.name}"
    touch: Callable[[], None] = _nothing
    with ExitStack() as stack:
        server = stack.enter_context(Server(made.root, folder, job.ttfb_s, job.bytes_per_s))
        if bucket in (made.large, "small"):
            touch = stack.enter_context(pinned(path for path in (made.root / bucket).rglob("*") if path.is_file()))
        server.warm(bucket)
        yield server, touch


def _nothing() -> None:
    """Objects that nobody reads need not be at hand."""


def _run_once(job: Job, stand: Stand, system: System) -> tuple[list[Figure], str]:
    """The figures of one run, and why there are no more of them."""
    stand.folder.mkdir()
    figures: list[Figure] = []
    try:
        for figure in job.run(stand, system):
            figures.append(figure)
            unit = job.rows[figure.row]
            say(f"  {system.name:15} {figure.row}: {report.number(figure.value)} {unit}{report.details(figure)}")
    except (MeasureFailed, SystemFailed) as failure:
        say(f"  {system.name:15} FAILED: {failure}")
        return figures, str(failure)
    finally:
        shutil.rmtree(stand.folder, ignore_errors=True)
    return figures, ""


def middle(row: str, runs: list[list[Figure]], failure: str) -> Figure | None:
    """The run whose value is the median, with what was counted in that run; None where a system has no such row."""
    found = sorted((figure for run in runs for figure in run if figure.row == row), key=lambda figure: figure.value)
    if failure:
        return Figure(row, failure=failure)
    if not found:
        return None
    middle = statistics.median_low([figure.value for figure in found])
    return next(figure for figure in found if figure.value == middle)


def _print_list() -> None:
    print("jobs:")
    for job in JOBS:
        print(f"  {job.name:18} {job.about}")
    print("systems:")
    for system in SYSTEMS:
        print(f"  {system.name:18} {system.about}")


def say(text: str) -> None:
    """Tells the person who waits."""
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev bench", description=__doc__)
    parser.add_argument("--jobs", type=names, metavar="A,B", help="these jobs (see --list; else all but the long)")
    parser.add_argument("--systems", type=names, metavar="A,B", help="these systems (else all)")
    parser.add_argument("--size", type=_size, default=1 << 30, metavar="1GiB", help="of the large files")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="the median of so many runs is reported")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the report (else bench/results/DATE.md of a run of all, none of a part)",
    )
    parser.add_argument(
        "--work", type=Path, default=_WORK, metavar="DIR", help="where data and caches are (%(default)s)"
    )
    parser.add_argument("--clean", action="store_true", help="remove the data afterwards")
    parser.add_argument("--long", action="store_true", help="the long jobs too")
    parser.add_argument("--list", action="store_true", help="say which jobs and systems there are")
    asked = parser.parse_args()
    if not asked.out and not asked.jobs and not asked.systems:
        asked.out = _RESULTS / f"{datetime.date.today().isoformat()}.md"
    asked.jobs = chosen(parser, asked.jobs, {job.name: job for job in JOBS if asked.jobs or asked.long or not job.long})
    asked.systems = chosen(parser, asked.systems, {system.name: system for system in SYSTEMS})
    return asked


def names(text: str) -> list[str]:
    """Those of a list on the command line."""
    return [name for name in text.split(",") if name]


def chosen(parser: argparse.ArgumentParser, wanted: list[str] | None, known: dict[str, Any]) -> list[Any]:
    """What is known by the wanted names; all of it where none are given."""
    for name in wanted or ():
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return [thing for name, thing in known.items() if wanted is None or name in wanted]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(MiB|GiB)", text)
    if not match or (bytes_ := int(match[1]) << {"MiB": 20, "GiB": 30}[match[2]]) < 64 << 20:
        raise argparse.ArgumentTypeError("write a size such as 512MiB or 1GiB, of 64 MiB at least")
    return bytes_
