"""The command line of the frames benchmark: egofs beside other ways to frames of a video."""

import argparse
import datetime
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import framedata, framejobs, report
from bench.compare import chosen, middle, names, say
from bench.data import pinned
from bench.framebars import FRAME_BARS
from bench.framedata import BUCKET, KINDS, Kind
from bench.framejobs import FrameJob, FrameStand, Row
from bench.framesystems import FRAME_SYSTEMS, FrameSystem, missing
from bench.measure import MeasureFailed, drop_page_cache
from bench.server import Server
from bench.stand import Figure
from bench.systems import SystemFailed

_RESULTS = Path(__file__).parent / "results"
_WORK = Path.home() / ".cache" / "egofs-bench"


def main(arguments: Sequence[str]) -> None:
    """Runs what the command line asks for."""
    asked = _arguments(arguments)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)  # however it is ended, everything is unmounted
    if not drop_page_cache():
        say("only root may empty the page cache: caches on disk are read from memory")
    work, load = asked.work.resolve(), os.getloadavg()[0]
    say("making the videos that are not there yet (about half a minute)")
    framedata.make(work / "videos", asked.clips)
    figures: report.Figures = {}
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=work) as scratch:
            _run_all(asked, Path(scratch), figures)
    except KeyboardInterrupt:
        say("interrupted: everything is unmounted; the report has what was measured before")
        raise SystemExit(130) from None
    finally:
        if figures:
            _report(asked, figures, load)
        if asked.clean:
            shutil.rmtree(work / "videos", ignore_errors=True)


def _run_all(asked: argparse.Namespace, scratch: Path, figures: report.Figures) -> None:
    root = asked.work.resolve() / "videos"
    videos = root / BUCKET
    with (
        Server(root, scratch / "server", framejobs.TTFB_S, framejobs.BYTES_PER_S) as server,
        pinned(videos.iterdir()) as touch,
    ):
        server.warm(BUCKET)
        for job in asked.jobs:
            say(f"{job.name}: {job.about}")
            for line in job.lines:
                touch()
                figures |= _run_line(line, asked.systems, FrameStand(server, videos, scratch / "mounted"), asked.runs)


def _run_line(line: Row, systems: list[FrameSystem], stand: FrameStand, runs: int) -> report.Figures:
    """Round by round, so that whatever else the machine does falls on all of them."""
    taken: dict[FrameSystem, list[list[Figure]]] = {system: [] for system in systems if line.takes(system)}
    failed = {system: why for system in taken if (why := missing(system.needs))}
    for _ in range(runs):
        for system in taken:
            if system not in failed:
                figure = _run_once(line, stand, system)
                taken[system].append([figure])
                if figure.failure:
                    failed[system] = figure.failure
    return {(line.name, system.name): middle(line.name, taken[system], failed.get(system, "")) for system in taken}


def _run_once(line: Row, stand: FrameStand, system: FrameSystem) -> Figure:
    stand.folder.mkdir()
    try:
        figure = line.run(stand, system)
    except (MeasureFailed, SystemFailed) as failure:
        figure = Figure(line.name, failure=str(failure))
    finally:
        shutil.rmtree(stand.folder, ignore_errors=True)
    value = f"{report.number(figure.value)} {line.unit}{report.details(figure)}"
    say(f"  {system.name:12} {line.name}: {f'FAILED: {figure.failure}' if figure.failure else value}")
    return figure


def _report(asked: argparse.Namespace, figures: report.Figures, load: float) -> None:
    isolation, ratios = framejobs.over_own(figures)
    figures = figures | ratios
    jobs: list[FrameJob] = [*asked.jobs, isolation]
    here = [system for system in asked.systems if not missing(system.needs)]
    about = report.machine(here, asked.work, load) | {
        "not here": ", ".join(system.name for system in asked.systems if system not in here) or "none",
        "videos": "; ".join(f"{kind.name}: {kind.about}" for kind in asked.clips)
        + f"; {framedata.FRAMES:,} frames each, a keyframe every {framedata.GOP}",
        "runs": f"median of {asked.runs}",
        "S3": "on the same machine; 20 ms to the first byte and 60 MB/s a connection",
    }
    print(report.markdown(figures, jobs, asked.systems, about, FRAME_BARS))
    if asked.out:
        report.write(asked.out, figures, jobs, asked.systems, about, FRAME_BARS)
        say(f"written: {asked.out} and {asked.out.with_suffix('.png').name}")


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev bench frames", description=__doc__)
    known = [job.name for job in framejobs.jobs(KINDS)]
    parser.add_argument("--jobs", type=names, metavar="A,B", help=f"these of {', '.join(known)}")
    parser.add_argument(
        "--systems", type=names, metavar="A,B", help=f"these of {', '.join(s.name for s in FRAME_SYSTEMS)}"
    )
    parser.add_argument(
        "--clips", type=names, metavar="A,B", help=f"videos of these kinds: {', '.join(k.name for k in KINDS)}"
    )
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="the median of so many runs is reported")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the report (else bench/results/DATE-frames.md of a run of all, none of a part)",
    )
    parser.add_argument(
        "--work", type=Path, default=_WORK, metavar="DIR", help="where videos and caches are (%(default)s)"
    )
    parser.add_argument("--clean", action="store_true", help="remove the videos afterwards")
    asked = parser.parse_args(arguments)
    if not (asked.out or asked.jobs or asked.systems or asked.clips):
        asked.out = _RESULTS / f"{datetime.date.today().isoformat()}-frames.md"
    kinds: list[Kind] = chosen(parser, asked.clips, {kind.name: kind for kind in KINDS})
    asked.clips = kinds
    asked.jobs = chosen(parser, asked.jobs, {job.name: job for job in framejobs.jobs(kinds)})
    asked.systems = chosen(parser, asked.systems, {system.name: system for system in FRAME_SYSTEMS})
    return asked
