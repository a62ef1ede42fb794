"""The screen of `egofs status --watch`: what each mount does at this moment, and did in the last minute.

Hides rich, and where rates come from: a mount tells sums, and what lies between two of them is a rate. Called by
commands/status.py on a terminal, in the main thread; the mounts are asked in threads (survey.py), and one that does not
answer is shown as it was until it is known to hang. As much of each mount is drawn as there is room for: a block of
lines, two lines, or one.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from mountd import mounts, shown, standing, survey
from mountd.survey import Asked, Seen

_HISTORY_S = 60.0
_WAIT_S = 0.4  # for answers, before what is known is drawn; or half of the interval, where that is less
_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"live": "green", "dead": "red", "hung": "red", "foreign": "yellow", "covered": "yellow"}
_LABEL, _NUMBER, _REST = 10, 12, 32  # columns of a block, in characters
_COLUMNS, _LINES = 80, 24  # of a terminal that does not know its size
_LEAST = 12  # of a name, to know it by
_WIDE = 96  # where requests stand beside the rest in one line
_RATES: dict[str, Callable[[dict[str, Any]], int]] = {
    "reading": lambda status: int(status["asked"]["bytes_read"]),
    "fetching": lambda status: int(status["fetched"]["bytes_fetched"]),
    "requests": lambda status: int(status["fetched"]["requests"]),
    "frames": lambda status: int(status["frames_made"]) + int(status["frames_from_disk"]),
}


def show(place: Path | None, interval_s: float) -> NoReturn:
    """Draws until KeyboardInterrupt, which TERM and HUP become too, so that the terminal is left as it was."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = Console()
    watched = Watched(place)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            watched.ask(min(_WAIT_S, interval_s / 2))
            # Of the terminal itself: variables that tell its size do not change with it.
            width, height = os.get_terminal_size(sys.stdout.fileno())
            console.size = ConsoleDimensions(width or _COLUMNS, height or _LINES)
            live.update(drawn(watched.all(), console.width, console.height), refresh=True)
            time.sleep(max(0.0, began + interval_s - time.monotonic()))


class Pace:
    """How fast the sums of one mount grow."""

    def __init__(self) -> None:
        self._last: tuple[float, dict[str, Any]] | None = None
        self._rates: deque[tuple[float, dict[str, float]]] = deque()

    def take(self, status: dict[str, Any], now_s: float) -> None:
        """The mount's sums as they are now. Those of another daemon begin anew."""
        if self._last is not None and self._last[1]["pid"] != status["pid"]:
            self._last = None
            self._rates.clear()
        if self._last is not None and now_s > self._last[0]:
            before_s, before = self._last
            rates = {name: (of(status) - of(before)) / (now_s - before_s) for name, of in _RATES.items()}
            self._rates.append((now_s, rates))
        self._last = now_s, status
        while self._rates and now_s - self._rates[0][0] >= _HISTORY_S:
            self._rates.popleft()

    def now(self, name: str) -> float:
        """The rate between the last two, each second."""
        return self._rates[-1][1][name] if self._rates else 0.0

    def line(self, name: str, width: int) -> str:
        """The last minute as so many bars, the newest last, the highest as high as a line."""
        rates = [rates[name] for _, rates in self._rates]
        if len(rates) > width:
            edges = [len(rates) * n // width for n in range(width + 1)]
            rates = [sum(rates[a:b]) / (b - a) for a, b in pairwise(edges)]
        top = max(rates, default=0.0)
        bars = "".join(_BARS[min(7, int(rate / top * 8))] if rate > 0 else _BARS[0] for rate in rates)
        return bars.rjust(width)


class Watched:
    """The mounts that there are, as they were last seen."""

    def __init__(self, place: Path | None) -> None:
        """Of all mounts, or of those at one place."""
        self._place = place
        self._seen: dict[mounts.Mount, tuple[Seen, Pace]] = {}
        self._asked: dict[mounts.Mount, Asked[Seen]] = {}

    def all(self) -> list[tuple[Seen, Pace]]:
        """Those of which anything is known yet."""
        return list(self._seen.values())

    def ask(self, wait_s: float) -> None:
        """Asks each mount that has answered before, and waits a little for all."""
        everything = mounts.mounts()
        found = [each for each in survey.places(everything) if self._place in (None, each.mountpoint)]
        covered = set(survey.covered(everything))
        for mount in found:
            if mount not in self._asked:
                self._asked[mount] = Asked(partial(_looked_at, mount, covered))
        until = time.monotonic() + wait_s
        for mount, asked in list(self._asked.items()):
            seen = asked.result(until)
            if seen is not None or mount not in found:
                del self._asked[mount]
            if seen is not None:
                self._take(seen)
        self._seen = {mount: self._seen[mount] for mount in found if mount in self._seen}

    def _take(self, seen: Seen) -> None:
        _, pace = self._seen.get(seen.mount, (None, Pace()))
        if seen.status is not None:
            pace.take(seen.status, time.monotonic())
        self._seen[seen.mount] = seen, pace


def _looked_at(mount: mounts.Mount, covered: Iterable[mounts.Mount]) -> Seen:
    return survey.look([mount], covered=covered)[0]


def drawn(all_seen: Sequence[tuple[Seen, Pace]], width: int, height: int) -> Group:
    """The screen, at most `height` lines of `width` characters."""
    room = height - 1
    for draw in (_block, _pair, _single):
        lines = [line for seen, pace in all_seen for line in draw(seen, pace, width)]
        if len(lines) <= room:
            break
    else:
        left = len(lines) - (room - 1)
        lines = [*lines[: room - 1], Text(f"  and {left} more: make the window higher", "dim")]
    if not all_seen:
        lines = [Text("  nothing is mounted: egofs mount demo ~/demo needs no account and no network", "dim")]
    return Group(_title(all_seen, width), *(_cut(line, width) for line in lines[:room]))


def _title(all_seen: Sequence[tuple[Seen, Pace]], width: int) -> Text:
    count = len(all_seen)
    text = f"egofs: {count} mount{'' if count == 1 else 's'}"
    return Text(text + f"{time.strftime('%H:%M:%S')}  Ctrl-C ends".rjust(width - len(text)), "bold")


def _cut(line: Text, width: int) -> Text:
    """One line on any screen: a name may have any characters in it."""
    line.plain = "".join(each if each.isprintable() else "?" for each in line.plain)
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line


# -- a mount, with more or less room


def _block(seen: Seen, pace: Pace, width: int) -> Iterable[Text]:
    """A line for each thing that happens, with its last minute."""
    yield _head(seen, standing.state(seen), width)
    if seen.status is not None:
        bars = max(8, width - _LABEL - _NUMBER - _REST - 5)
        for name, now, rest in _happening(seen.status, pace):
            line = Text(f"  {name:<{_LABEL}}")
            line.append(f"{now:>{_NUMBER}} ", "bold")
            line.append(pace.line(name, bars), "cyan")
            yield line.append(f"  {rest}")
        cache = seen.status.get("cache", {})
        if cache.get("limit_bytes"):
            yield _cache(cache, bars)
        if seen.status["access"]["state"] == "ok":
            yield Text(f"  {'access':<{_LABEL}}{standing.access(seen.status)}")
    for note in _notes(seen):
        yield Text(f"  ! {note}", "yellow" if seen.is_well else "red")


def _happening(status: dict[str, Any], pace: Pace) -> Iterable[tuple[str, str, str]]:
    """Of each rate its name, what it is now, and what it has come to in all."""
    asked, fetched, decoders = status["asked"], status["fetched"], status["decoders"]
    read = f"{shown.size(asked['bytes_read'])}, {status['open_files']} files open"
    yield "reading", _speed(pace.now("reading")), read
    yield (
        "fetching",
        _speed(pace.now("fetching")),
        f"{shown.size(fetched['bytes_fetched'])}{standing.amplification(status)}",
    )
    failed = f"{fetched['retries']} retries, {fetched['errors']} errors"
    yield "requests", f"{pace.now('requests'):.1f} /s", f"{fetched['requests']}, {failed}"
    if decoders["pids"]:
        made = f"{status['frames_made']} made, {status['frames_from_disk']} from disk"
        yield "frames", f"{pace.now('frames'):.1f} /s", f"{made}, {_decoders(len(decoders['pids']))}"


def _decoders(count: int) -> str:
    return f"{count} decoder{'' if count == 1 else 's'}"


def _cache(cache: dict[str, Any], bars: int) -> Text:
    full = min(1.0, cache["used_bytes"] / cache["limit_bytes"])
    line = Text(f"  {'cache':<{_LABEL}}")
    line.append(f"{standing.share(full):>{_NUMBER}} ", "bold")
    line.append("█" * int(full * bars), "cyan").append("·" * (bars - int(full * bars)), "dim")
    of = f"  {shown.size(cache['used_bytes'])} of {shown.size(cache['limit_bytes'])}"
    rate = cache.get("hit_rate")
    return line.append(of if rate is None else f"{of}, {standing.share(rate)} hits")


def _pair(seen: Seen, pace: Pace, width: int) -> Iterable[Text]:
    """What it is and what is wrong, and then its numbers."""
    head = _head(seen, standing.state(seen), width)
    if seen.status is None:
        yield head
        yield Text(f"  ! {seen.why}", "yellow" if seen.is_well else "red")
        return
    for note in _notes(seen):
        head.append(f"  ! {note}", "yellow" if seen.is_well else "red")
    yield head
    has_room = width >= _WIDE
    numbers = _rates(seen.status, pace, max(4, min(30, (width - (84 if has_room else 69)) // 2)))
    yield numbers.append(f"  {pace.now('requests'):>7.1f} req/s") if has_room else numbers


def _single(seen: Seen, pace: Pace, width: int) -> Iterable[Text]:
    """What it is, and its numbers where there is room."""
    line = _head(seen, seen.state, max(20, width // 2))
    line.truncate(max(20, width // 2), overflow="ellipsis", pad=True)
    yield line.append_text(_rates(seen.status, pace, 0)) if seen.status else line.append(f" {seen.why}")


def _notes(seen: Seen) -> Iterable[str]:
    """What somebody should hear of."""
    yield from standing.troubles(seen)
    if seen.status is not None and (last := standing.last_error(seen.status)):
        yield f"{seen.status['asked']['failures']} failures; the last line of the log: {last}"


def _head(seen: Seen, state: str, width: int) -> Text:
    """Where and what it is, of which the ends tell most where there is no room for all, and its state."""
    room = width - len(state) - len("●     ")
    place, source = str(seen.mount.mountpoint), seen.mount.source
    source = _end_of(source, max(_LEAST, room - len(place)))
    place = _end_of(place, max(_LEAST, room - len(source)))
    line = Text("● ", _COLOURS.get(seen.state, ""))
    line.append(place, "bold default").append(f"  {source}  ", "default")
    return line.append(state, _COLOURS.get(seen.state, ""))


def _end_of(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]


def _rates(status: dict[str, Any], pace: Pace, bars: int) -> Text:
    """The rates of this moment, with so many bars each, and how full the cache is."""
    cache = status.get("cache", {})
    line = Text("")
    for name, word in (("reading", "read"), ("fetching", "fetch")):
        line.append(f"  {word} ").append(f"{_speed(pace.now(name)):>12}", "bold")
        line.append(f" {pace.line(name, bars)}" if bars else "", "cyan")
    line.append(f"  hits {standing.share(cache.get('hit_rate')):>5}")
    full = cache["used_bytes"] / cache["limit_bytes"] if cache.get("limit_bytes") else None
    return line.append(f"  cache {standing.share(full):>5}")


def _speed(bytes_a_second: float) -> str:
    return f"{shown.size(bytes_a_second)}/s"
