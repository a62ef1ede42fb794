"""What egofs is held to: each bar, the figure it is about, and whether it is reached."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from bench.stand import Figure

Figures = dict[tuple[str, str], Figure | None]  # by row and system

OURS = "egofs"
KEEPERS = ("rclone-full", "s3fs")  # what keeps a cache on disk
OTHERS = ("rclone-streams", "rclone-default")
PEERS = (*KEEPERS, *OTHERS)
_SETTLED_MB = 64.0  # what a daemon may have more after its work than before it and still count as "back down"


@dataclass(frozen=True)
class Bar:
    """A bar: `of` gives what was reached and what that is made of; at_least or at_most `limit`."""

    name: str
    sense: Literal["≥", "≤"]
    limit: float
    of: Callable[[Figures], tuple[float, str]]

    def judged(self, figures: Figures) -> tuple[str, str, str]:
        """Reached, PASS or MISS or why neither, and what it is made of."""
        try:
            reached, basis = self.of(figures)
        except Missing as missing:
            return "", missing.verdict, str(missing)
        passes = reached >= self.limit if self.sense == "≥" else reached <= self.limit
        return f"{reached:,.2f}", "PASS" if passes else "MISS", basis


class Missing(Exception):
    """A figure is not there, so that nothing can be said; or ours failed, which is a miss."""

    def __init__(self, text: str, verdict: str = "–") -> None:
        super().__init__(text)
        self.verdict = verdict


def ours(figures: Figures, row: str) -> Figure:
    """Our own figure of a row. Raises Missing."""
    figure = figures.get((row, OURS))
    if figure is None:
        raise Missing("not measured")
    if figure.failure:
        raise Missing(figure.failure, "MISS")
    return figure


def against(row: str, peers: tuple[str, ...], best: Callable[..., float]) -> Callable[[Figures], tuple[float, str]]:
    """Ours over the best of these peers; `best` is max where more is better and min where less is."""

    def of(figures: Figures) -> tuple[float, str]:
        own = ours(figures, row)
        values = {
            peer: figure.value
            for peer in peers
            if (figure := figures.get((row, peer))) is not None and not figure.failure
        }
        if not values:
            raise Missing("no peer gave a figure")
        value = best(values.values())
        peer = next(name for name in values if values[name] == value)
        return own.value / value, f"{own.value:,.4g} / {value:,.4g} ({peer})"

    return of


def value_of(row: str) -> Callable[[Figures], tuple[float, str]]:
    """Our own figure by itself."""
    return lambda figures: (ours(figures, row).value, "")


def more_of(row: str, name: str) -> Callable[[Figures], tuple[float, str]]:
    """What was seen beside our own figure, by its name."""
    return lambda figures: (ours(figures, row).more[name], "")


def _over_direct(row: str) -> Callable[[Figures], tuple[float, str]]:
    def of(figures: Figures) -> tuple[float, str]:
        own = ours(figures, row)
        direct = own.more["direct ms"]
        return own.value / direct, f"{own.value:.1f} / {direct:.1f} ms"

    return of


def _requests(row: str) -> Callable[[Figures], tuple[float, str]]:
    def of(figures: Figures) -> tuple[float, str]:
        traffic = ours(figures, row).traffic
        assert traffic is not None
        return traffic.requests, ""

    return of


def _left(row: str) -> Callable[[Figures], tuple[float, str]]:
    def of(figures: Figures) -> tuple[float, str]:
        before, after = (ours(figures, row).more[name] for name in ("before", "15 s after"))
        return after - before, f"{before:,.0f} MB before, {after:,.0f} MB after"

    return of


def _bars() -> Iterator[Bar]:
    yield Bar("cold sequential, over the best that keeps a cache", "≥", 2.0, against("seq_read", KEEPERS, max))
    yield Bar("cold sequential, over the best that keeps none", "≥", 0.8, against("seq_read", OTHERS, max))
    for row in ("random 128 KiB", "random 128 KiB, aligned"):
        yield Bar(f"cold {row}: median over the same asked directly", "≤", 1.6, _over_direct(row))
        yield Bar(f"cold {row}: bytes fetched per byte asked", "≤", 8.0, more_of(row, "fetched/asked"))
    for row in ("4 readers, 4 files", "16 readers, one file"):
        yield Bar(f"{row}, over the best peer", "≥", 1.0, against(row, PEERS, max))
        yield Bar(f"{row}: slowest over mean", "≥", 0.5, more_of(row, "slowest/mean"))
    for row in ("sequential, disk", "random 4 KiB, disk"):
        yield Bar(f"{row}, over the best peer", "≥", 1.0, against(row, KEEPERS, max))
    yield Bar("10,000 small files cold, over the best peer", "≥", 2.0, against("10,000 small files", PEERS, max))
    listing = "ls -lR of 100,000"
    yield Bar(f"{listing}: time over the best peer's", "≤", 0.5, against(listing, PEERS, min))
    yield Bar(f"{listing}, second mount: requests", "≤", 0, _requests(f"{listing}, second mount"))
    yield Bar(f"{listing}, second mount: seconds", "≤", 2.0, value_of(f"{listing}, second mount"))
    yield Bar("1,000,000 objects: memory, MB", "≤", 400, value_of("1,000,000 objects: memory"))
    yield Bar(
        "first byte after mount: time over the best peer's", "≤", 1.0, against("first byte after mount", PEERS, min)
    )
    yield Bar("memory with 16 streams, MB", "≤", 350, value_of("memory, 16 streams"))
    yield Bar("memory 15 s after 16 streams, MB over that before", "≤", _SETTLED_MB, _left("memory, 16 streams"))
    yield Bar(
        "sequential from a fast server, over the best peer", "≥", 1.0, against("seq_read, fast server", PEERS, max)
    )


BARS = tuple(_bars())
