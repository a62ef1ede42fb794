"""What a job is given and what it gives: the stand on which a system is measured, and its figures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure
from bench.data import Data
from bench.measure import MeasureFailed
from bench.server import Server, Traffic
from bench.systems import DIRECT, Mounted, System, mounted

MB = 1_000_000
Place = tuple[str, int, int]  # key, start, length


@dataclass(frozen=True)
class Figure:
    """One number of a system, or why there is none."""

    row: str
    value: float = 0.0
    traffic: Traffic | None = None
    more: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Stand:
    """Where a system is measured: the server, the data, and an empty folder for this run."""

    server: Server
    data: Data
    folder: Path
    bucket: str
    first: bool  # a system's first run also checks every byte, where that takes time
    touch: Callable[[], None]  # has the server's files at hand

    @contextmanager
    def mount(self, system: System, cache: str = "", wait: bool = True, drop: bool = True) -> Iterator[Mounted]:
        """The bucket, mounted with the page cache empty. A second mount with one `cache` finds what it kept."""
        if drop:
            measure.drop_page_cache()
            self.touch()
        with mounted(system, self.server.url, self.bucket, self.folder / cache, wait) as found:
            self.server.traffic()
            yield found

    @contextmanager
    def base(self, system: System, cache: str = "") -> Iterator[Path | str]:
        """What readers.py takes: the directory of a mount, or the server's own URL."""
        if system is DIRECT:
            self.touch()
            self.server.traffic()
            yield self.url
        else:
            with self.mount(system, cache) as mount:
                yield mount.directory

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.bucket}"

    @property
    def whole(self) -> list[Place]:
        return [(self.data.streams[0], 0, self.data.size_bytes)]

    def check(self, found: int, places: list[Place]) -> None:
        """Raises MeasureFailed if the hash of what was read is not that of what the server holds."""
        if found != self.data.hash_of(self.bucket, places):
            raise MeasureFailed("WRONG BYTES: what was read is not what the server holds")


@dataclass(frozen=True)
class Job:
    """A job: its rows with their units, and what runs it for a system."""

    name: str
    about: str
    rows: dict[str, str]
    run: Callable[[Stand, System], Iterator[Figure]]
    bucket: Callable[[Data], str] = lambda d: d.large
    runs: int | None = None  # where their number is the job's own
    ttfb_s: float = 0.020
    bytes_per_s: int = 60 * MB
    only: Callable[[System], bool] = lambda system: True
    long: bool = False
