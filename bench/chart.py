"""The chart: a small panel for each row of the report, a bar for each system."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.bars import Figures
from bench.stand import Job
from bench.systems import System

_COLORS = {
    "egofs": "#d1495b",
    "rclone-full": "#2e6f95",
    "rclone-streams": "#5b9bc0",
    "rclone-default": "#a9cce3",
    "s3fs": "#6a994e",
    "direct": "#b8b8b8",
    "ffmpegfs": "#6a994e",
    "in process": "#e5a3ad",
    "pyav": "#2e6f95",
    "torchcodec": "#5b9bc0",
    "decord": "#a9cce3",
    "opencv": "#b8b8b8",
}
_COLUMNS = 3
_INCH_PER_BAR, _INCH_PER_TITLE = 0.21, 0.62
_LESS_IS_BETTER = {"ms", "s", "MB"}


def draw(path: Path, figures: Figures, jobs: Sequence[Job], systems: Sequence[System]) -> None:
    """Writes the picture."""
    rows = [(row, unit) for job in jobs for row, unit in job.rows.items()]
    rows = [(row, unit) for row, unit in rows if any(figures.get((row, system.name)) for system in systems)]
    lines = -(-len(rows) // _COLUMNS)
    height = lines * (len(systems) * _INCH_PER_BAR + _INCH_PER_TITLE)
    sheet, axes = plt.subplots(lines, _COLUMNS, figsize=(13, height), squeeze=False, layout="constrained")
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, (row, unit) in zip(axes.flat, rows, strict=False):
        _panel(axis, row, unit, figures, systems)
    sheet.savefig(path, dpi=110)
    plt.close(sheet)


def _panel(axis: Axes, row: str, unit: str, figures: Figures, systems: Sequence[System]) -> None:
    found = [(system.name, figures.get((row, system.name))) for system in systems]
    most = max((figure.value for _, figure in found if figure), default=0.0) or 1.0
    for place, (name, figure) in enumerate(found):
        ours = name == "egofs"
        value = figure.value if figure else 0.0
        label = "–" if figure is None else figure.failure.partition(":")[0][:36] or f"{value:,.3g}"
        if value >= 1000:
            label = f"{value:,.0f}"
        axis.barh(place, value, color=_COLORS.get(name, "#888888"), height=0.78)
        axis.text(
            value + most * 0.015,
            place,
            label,
            va="center",
            fontsize=8,
            fontweight="bold" if ours else "normal",
            color="black" if figure and not figure.failure else "#999999",
        )
    better = "less is better" if unit in _LESS_IS_BETTER else "more is better"
    axis.set_title(f"{row}  ", loc="left", fontsize=10, fontweight="bold")
    axis.set_title(f"{unit}, {better}", loc="right", fontsize=8, color="#666666")
    axis.set_yticks(range(len(found)), [name for name, _ in found], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, most * 1.18)
    axis.xaxis.set_visible(False)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
