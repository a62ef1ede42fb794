"""How far a warming is, drawn on a terminal. Imported only where there is one, since it brings rich."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from mountd import shown

_RATE_S = 10.0  # the rate is that of the last seconds


class Bars:
    """A bar of bytes, or of pictures while these are made, and a line below: files, failures, and what was begun last.

    Takes what a daemon tells (vfs.warmrun.Progress)."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self._bars = _Below(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[of]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task = self._bars.add_task("", total=None, of="", rate="", left="")
        self._phase = ""
        self._marks: deque[tuple[float, int]] = deque()
        self._bars.start()

    def show(self, facts: dict[str, Any]) -> None:
        """Draws it."""
        self.last = facts
        whole, phase = facts["asked"], facts["phase"]
        if phase != self._phase:
            self._phase = phase
            self._marks.clear()
        if phase == "making pictures":
            done, total, to_do = facts["pictures"], whole["pictures"], whole["pictures"] - facts["pictures"]
            gone, of = facts["made_pictures"], f"{done:,}/{total:,}"
        else:
            done, total = facts["bytes"], whole["bytes"]
            gone, of = facts["fetched_bytes"], f"{shown.size(done)}/{shown.size(total)}"
            to_do = total - whole["bytes_on_disk"] - gone
        rate = self._rate(gone)
        is_known = facts["is_counted"] and phase in ("fetching", "making pictures")
        if phase in ("counting", "checking", "evicting"):
            of = f"{whole['files'] or facts['files']:,} files"
        unit = "pictures/s" if phase == "making pictures" else "/s"
        said = f"{rate:.0f} {unit}" if phase == "making pictures" else shown.size(rate) + unit
        self._bars.update(
            self._task,
            description=phase,
            completed=min(done, total) if is_known else 0,
            total=max(total, 1) if is_known else None,
            of=of,
            rate=said if rate else "",
            left=_clock(max(to_do, 0) / rate) if rate and is_known else "",
        )
        self._bars.below = _below(facts)

    def close(self) -> None:
        """Takes it away."""
        self._bars.stop()

    def _rate(self, done: int) -> float:
        """What was done a second lately."""
        now = time.monotonic()
        self._marks.append((now, done))
        while now - self._marks[0][0] > _RATE_S:
            self._marks.popleft()
        began, before = self._marks[0]
        return (done - before) / (now - began) if now > began else 0.0


class _Below(Progress):
    """Bars with a line below that is cut at the terminal's edge."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        yield from super().get_renderables()
        yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


def _below(facts: dict[str, Any]) -> str:
    whole = facts["asked"]
    if "indexing" in facts:
        name, done, size = facts["indexing"]
        return f"reading {name.rpartition('/')[2]} for its index: {shown.size(done)} of {shown.size(size)}"
    text = f"{facts['files']:,} of {whole['files']:,}{'' if facts['is_counted'] else ' or more'} files"
    if facts["failed"]:
        text += f", {facts['failed']:,} failed"
    return f"{text}  {facts['now']}" if facts["now"] and facts["phase"] != "checking" else text


def _clock(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours}:{minutes % 60:02d}:{int(seconds) % 60:02d} left"
