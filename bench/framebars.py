"""What egofs is held to where frames are read: each bar, and the figures it is about."""

from collections.abc import Callable, Iterator

from bench.bars import Bar, Figures, Missing, against, more_of, ours, value_of


def _over(row: str, their_row: str, peer: str) -> Callable[[Figures], tuple[float, str]]:
    """Ours of one row over a peer's of another."""

    def of(figures: Figures) -> tuple[float, str]:
        own, theirs = ours(figures, row).value, figures.get((their_row, peer))
        if theirs is None or theirs.failure:
            raise Missing("no peer gave a figure")
        return own / theirs.value, f"{own:,.4g} / {theirs.value:,.4g} ({peer})"

    return of


def _bars() -> Iterator[Bar]:
    for kind in ("1080p", "448p"):
        row = f"in order {kind}"
        yield Bar(f"{row}, over PyAV and simplejpeg in process", "≥", 0.8, against(row, ("pyav",), max))
        yield Bar(f"{row}, over ffmpegfs", "≥", 1.4, against(row, ("ffmpegfs",), max))
    for kind in ("1080p", "448p", "mono"):
        for peer in ("torchcodec", "decord"):
            yield Bar(f"random {kind}, over {peer}", "≥", 1.0, against(f"random {kind}", (peer,), max))
    for kind in ("1080p", "448p"):
        yield Bar(f"grouped {kind}, over PyAV", "≥", 1.5, against(f"grouped {kind}", ("pyav",), max))
    for kind in ("1080p", "448p", "mono"):
        row = f"isolated {kind}, S3"
        yield Bar(f"{row}: bytes over keyframe…target in blocks of 128 KiB", "≤", 1.1, more_of(row, "fetched/needed"))
        yield Bar(f"{row}: requests a frame after the index", "≤", 2.0, more_of(row, "requests a frame"))
    row = "index of an hour, S3"
    yield Bar(f"{row}: requests", "≤", 3.0, more_of(row, "requests"))
    yield Bar(f"{row}: bytes over moov's", "≤", 1.2, more_of(row, "bytes/moov"))
    yield Bar(f"{row}: seconds beyond the network", "≤", 0.3, value_of(row))
    for kind in ("1080p", "448p"):
        for place in ("", ", S3"):
            for order in ("in order", "random"):
                row = f"again, {order} {kind}{place}"
                yield Bar(f"{row}, over the first reading", "≥", 5.0, value_of(row))
    for way in ("", ", clips"):
        row = f"training loop{way} 448p"
        yield Bar(f"{row}, over decord", "≥", 0.9, _over(row, "training loop 448p", "decord"))
    yield Bar("memory with 4 readers of 1080p, MB", "≤", 700, value_of("memory, 4 readers 1080p"))


FRAME_BARS = tuple(_bars())
