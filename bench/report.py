"""The report: what was measured on what, the bars, every figure, and a chart."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench import server
from bench.bars import BARS, OURS, Bar, Figures
from bench.chart import draw
from bench.stand import MB, Figure, Job
from bench.systems import System

__all__ = ["Figures", "details", "facts", "machine", "markdown", "number", "write"]


def write(
    out: Path,
    figures: Figures,
    jobs: Sequence[Job],
    systems: Sequence[System],
    about: dict[str, str],
    bars: Sequence[Bar] = BARS,
) -> None:
    """The Markdown file, and the chart beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(figures, jobs, systems, about, bars, out.with_suffix(".png").name))
    draw(out.with_suffix(".png"), figures, jobs, systems)


def markdown(
    figures: Figures,
    jobs: Sequence[Job],
    systems: Sequence[System],
    about: dict[str, str],
    bars: Sequence[Bar] = BARS,
    chart: str = "",
) -> str:
    """The report as one text."""
    parts = ["# Benchmark", "", *(f"* {name}: {value}" for name, value in about.items()), ""]
    if chart:
        parts += [f"![Every figure, a panel a row]({chart})", ""]
    if any(system.name == OURS for system in systems):
        parts += ["## Bars", "", *_table(["bar", "", "reached", "", "made of"], _bars(figures, bars)), ""]
    header = ["", *(system.name for system in systems)]
    parts += ["## Figures", "", *_table(header, _rows(figures, jobs, systems)), ""]
    parts += ["The speed, time or size; requests; bytes of objects fetched. See doc/BENCHMARKS.md.", ""]
    return "\n".join(parts)


def _bars(figures: Figures, bars: Sequence[Bar]) -> Iterator[list[str]]:
    for bar in bars:
        reached, verdict, basis = bar.judged(figures)
        yield [bar.name, f"{bar.sense} {bar.limit:g}", reached, verdict, basis]


def _rows(figures: Figures, jobs: Sequence[Job], systems: Sequence[System]) -> Iterator[list[str]]:
    for job in jobs:
        for row, unit in job.rows.items():
            yield [f"{row}, {unit}", *(_cell(figures.get((row, system.name))) for system in systems)]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    return figure.failure.replace("|", "/") if figure.failure else f"**{number(figure.value)}**{details(figure)}"


def details(figure: Figure) -> str:
    """What goes with a value: what was asked of the server, and what else was seen."""
    found = []
    if figure.traffic:
        found = [f"{figure.traffic.requests:,} req", f"{number(figure.traffic.object_bytes / MB)} MB"]
        if figure.traffic.refused:
            found.append(f"{figure.traffic.refused:,} refused")
    return "".join(f"; {each}" for each in [*found, *(f"{name} {number(n)}" for name, n in figure.more.items())])


def number(value: float) -> str:
    """Three digits that count, no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def facts(systems: Sequence[System], data: Path, size_bytes: int, runs: int, load: float) -> dict[str, str]:
    """What the figures depend on: versions, the machine and what was asked for. No names of machines or folders."""
    return {
        **machine(systems, data, load, _first_line("fio", "--version")),
        "runs": f"large files of {size_bytes >> 20} MiB; median of {runs} runs where a job has no number of its own",
        "server": "on the same machine; 20 ms to the first byte and 60 MB/s a connection where a row says nothing else",
    }


def machine(systems: Sequence[System], data: Path, load: float, *tools: str) -> dict[str, str]:
    """The part of the facts that every benchmark has: systems, versions (those of `tools` too) and the machine."""
    versions = sorted({system.version() for system in systems} - {""})
    others = [f"nginx {server.version()}", *tools, f"Python {platform.python_version()}", f"Linux {platform.release()}"]
    return {
        "systems": "; ".join(f"{system.name}: {system.about}" for system in systems),
        "versions": ", ".join([*versions, f"commit {_commit()}", *others]),
        "machine": f"{os.cpu_count()} cores ({_processor()}), {_memory_gib():.0f} GiB of memory, {_disk(data)}",
        "other work": f"a load average of {load:.1f} at the beginning; the cores must be free for figures to count",
    }


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError) as failure:
        return f"unknown ({failure})"


def _commit() -> str:
    top = str(Path(__file__).resolve().parent.parent)
    return _first_line("git", "-C", top, "describe", "--always", "--dirty")


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def _disk(folder: Path) -> str:
    """What kind of disk holds the caches: by the block device's driver, and whether it calls itself rotating."""
    number_ = os.stat(folder).st_dev
    device = Path(f"/sys/dev/block/{os.major(number_)}:{os.minor(number_)}")
    if not device.exists():
        return "a file system without a block device"
    device = device.resolve()
    device = device if (device / "queue").exists() else device.parent
    if device.name.startswith("vd"):
        return "a virtual disk"
    if device.name.startswith("nvme"):
        return "an NVMe disk"
    return "a rotating disk" if (device / "queue/rotational").read_text().strip() == "1" else "a solid-state disk"
