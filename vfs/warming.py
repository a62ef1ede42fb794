"""Bringing parts of a mount to the disk cache ahead of their use, seeing what is there, and taking it out again.

Hides in what order and how many at a time things are fetched and made. Called by the daemon's control operations, with
paths of the mount (walk.py says what they mean); knows nothing of sockets. Bytes come first, then pictures: decoders
find those on disk. Of a file that is larger than a unit of the cache several are fetched at a time. Readers go first: a
warming has its own few requests under way, leaves memory alone and waits for the disk when that has too much to write.

What is on disk is not fetched, so whoever is interrupted goes on when asked for the same again. What a warming says of
the end is looked up there: on disk is what the disk has counted.

Any thread may call; each call does its work in threads of its own, while the caller's reports several times a second. A
`report` that raises breaks it off: what is being fetched at that moment still comes, nothing else is begun.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from vfs.cache import UNIT_BYTES, covered_bytes, units_within
from vfs.disk import Disk
from vfs.errors import (
    AccessDenied,
    EgofsError,
    NotADirectory,
    NotFound,
    OptionError,
    OverQuota,
    Timeout,
    Unavailable,
)
from vfs.mounted import MountedDataset
from vfs.shelf import OnDisk
from vfs.sources.archives import ArchiveSource
from vfs.valuefile import file_bytes_of
from vfs.walk import Pictures, Piece, Place, Walk
from vfs.warmrun import LOOK_S, BrokenOff, Counts, Crew, Progress, Run

_T = TypeVar("_T")

JOBS = 16
"""Requests under way where nothing else is asked for: of 200 MiB, at 20 ms to the first byte and 60 MB/s a connection,
4 took 1.8 s, 8 0.9, 16 0.8 and 32 longer again, on two cores that others used too (measured)."""

MOST_JOBS = 128
# Videos whose pictures are made at the same time: there is a decoder's process for four cores.
_VIDEOS = 4
_REPORT_S = 0.2
# Before anything is fetched, what is asked for is counted, for so long; then it is counted while it is fetched.
_COUNT_S = 5.0
# Files whose units on disk are asked for together.
_TOGETHER = 1000
_UNIT = UNIT_BYTES[0]
# Each waits for the disk for 20 s.
_MOST_SETTLES = 6
_REFUSALS = (AccessDenied, OverQuota)

Report = Callable[[dict[str, object]], None]
"""Is told how far it is: the fields of Progress. May raise, which breaks off what it is told of."""


class Warming:
    """What can be warmed, looked at and taken out of one mount's cache."""

    def __init__(self, mounted: MountedDataset, top: str = "") -> None:
        """`top` stands before paths in messages."""
        self._mounted = mounted
        self._top = top
        self._disk = mounted.disk
        source = mounted.source
        self._archives = source if isinstance(source, ArchiveSource) else None

    @property
    def is_local(self) -> bool:
        """Whether all bytes are on local disk anyway."""
        return self._mounted.cache is None

    def require(self, paths: Iterable[str]) -> None:
        """Raises OptionError for a path that is not there, and what finding it raises."""
        self._places(self._walk(Run(), with_frames=False, may_read=True), paths)

    def check(self, paths: Sequence[str], *, with_frames: bool, report: Report) -> tuple[Progress, Counts]:
        """How much of what stands at and below these paths is on disk. Fetches nothing but listings.

        Raises OptionError for a path that is not there, and what `report` raises."""

        def work(run: Run) -> tuple[Progress, Counts]:
            return run.progress, self._count(run, run.progress.asked, paths, with_frames)

        return self._reporting(work, report)

    def warm(
        self, paths: Sequence[str], *, with_frames: bool, jobs: int, force: bool, report: Report
    ) -> tuple[Progress, Counts]:
        """Brings all of it to disk that is not there; gives what was done, and what is there at the end.

        Raises OptionError for a path that is not there, for more than the cache holds unless `force`, and where nothing
        is kept; AccessDenied and OverQuota where the store refuses; and what `report` raises.
        """
        disk = self._disk
        if disk is None:
            raise OptionError("this mount keeps nothing on disk: mount it with cache=on")

        def work(run: Run) -> tuple[Progress, Counts]:
            run.room_bytes = None if force else disk.allowed_bytes()
            places = self._places(self._walk(run, with_frames=with_frames, may_read=True), paths)
            with run.beside(lambda: self._count_first(run, paths, with_frames), _COUNT_S):
                self._bring_bytes(run, places, with_frames, jobs)
            run.progress.phase, run.progress.is_counted = "making pictures", False
            counts = run.progress.asked
            with run.beside(
                # Their numbers stand in the videos, whose bytes are there by now.
                lambda: self._count_pictures(run, counts, places, with_frames, may_read=True),
                0,
            ):
                self._bring_pictures(run, places, with_frames, jobs)
            self._settle(run, disk)
            run.progress.phase, run.room_bytes = "checking", None
            return run.progress, self._count(run, Counts(), paths, with_frames)

        return self._reporting(work, report, jobs)

    def evict(self, paths: Sequence[str], *, with_frames: bool, report: Report) -> tuple[Progress, int]:
        """Takes all of it out of the cache; gives what was asked for, and how many bytes became free on disk.

        Raises as `check` does."""

        def work(run: Run) -> tuple[Progress, int]:
            places = self._places(self._walk(run, with_frames=with_frames, may_read=False), paths)
            if self._disk is None:
                return run.progress, 0
            self._settle(run, self._disk)
            run.progress.phase = "evicting"
            return run.progress, self._evict_all(run, self._disk, places, with_frames)

        return self._reporting(work, report)

    # -- who does it

    def _reporting(self, work: Callable[[Run], _T], report: Report, jobs: int = 1) -> _T:
        """Has it done in another thread, and reports meanwhile."""
        run, done = Run(jobs), Future[_T]()

        def run_it() -> None:
            try:
                done.set_result(work(run))
            except BaseException as failure:  # noqa: BLE001 - it is raised where it is waited for
                done.set_exception(failure)

        threading.Thread(target=run_it, name="warming", daemon=True).start()
        try:
            while not done.done():
                with suppress(FutureTimeout):
                    done.exception(_REPORT_S)
                report(self._facts(run))
            return done.result()
        except BrokenOff:
            raise run.refusal or Unavailable("it was broken off") from None
        finally:
            run.end()

    def _facts(self, run: Run) -> dict[str, object]:
        facts = run.facts()
        for name, done_bytes, size_bytes in [*self._being_indexed()][:1]:
            facts["indexing"] = [name, done_bytes, size_bytes]
        return facts

    def _being_indexed(self) -> Collection[tuple[str, int, int]]:
        return self._archives.under_way() if self._archives is not None else []

    def _walk(self, run: Run, *, with_frames: bool, may_read: bool) -> Walk:
        return Walk(
            self._mounted,
            with_frames=with_frames,
            may_read=may_read,
            on_failure=run.failed,
            waits_on=lambda: run.is_wanted() and bool(self._being_indexed()),
        )

    def _places(self, walk: Walk, paths: Iterable[str]) -> list[Place]:
        places = []
        for path in paths:
            try:
                places.append(walk.place(path))
            except (NotFound, NotADirectory) as failure:
                raise OptionError(f"{self._top}{path}: no such file or folder") from failure
        return places

    # -- what is there

    def _count_first(self, run: Run, paths: Sequence[str], with_frames: bool) -> None:
        self._count_bytes(run, run.progress.asked, paths, with_frames)
        run.progress.is_counted = True

    def _count(self, run: Run, counts: Counts, paths: Sequence[str], with_frames: bool) -> Counts:
        """Adds what is asked for to `counts`, and how much of it is on disk. Some seconds for 100,000 files."""
        places = self._count_bytes(run, counts, paths, with_frames)
        self._count_pictures(run, counts, places, with_frames, may_read=False)
        return counts

    def _count_bytes(self, run: Run, counts: Counts, paths: Sequence[str], with_frames: bool) -> list[Place]:
        walk = self._walk(run, with_frames=with_frames, may_read=False)
        places = self._places(walk, paths)
        for some in _batches((piece for place in places for piece in walk.pieces(place)), _TOGETHER):
            self._count_pieces(run, counts, some)
        return places

    def _count_pieces(self, run: Run, counts: Counts, pieces: list[Piece]) -> None:
        run.require_wanted()
        kept: dict[bytes, list[int]] = {}
        if self._disk is not None and not self.is_local:
            kept = self._disk.kept_of_all(piece.file.owner for piece in pieces)
        for piece in pieces:
            counts.files += 1
            if piece.length < 0:
                counts.unknown_sizes += 1
                continue
            start, end = piece.start, piece.start + piece.length
            there = piece.length if self.is_local else covered_bytes(kept.get(piece.file.owner, ()), start, end)
            counts.bytes += piece.length
            counts.bytes_on_disk += there
            counts.files_on_disk += there == piece.length
            whole, rest = divmod(piece.length, _UNIT)
            run.asked_disk_bytes += 0 if self.is_local else whole * file_bytes_of(_UNIT) + file_bytes_of(rest)
        run.require_room()

    def _count_pictures(
        self, run: Run, counts: Counts, places: list[Place], with_frames: bool, *, may_read: bool
    ) -> None:
        walk = self._walk(run, with_frames=with_frames, may_read=may_read)
        for pictures in (each for place in places for each in walk.pictures(place)):
            run.require_wanted()
            if pictures.stretch is None:
                counts.unknown_videos += 1
                continue
            frames = pictures.stretch.frames
            counts.pictures += len(frames)
            if self._disk is not None:
                kept = self._disk.kept_of(pictures.stretch.series.pictures.owner)
                counts.pictures_on_disk += len(kept.intersection(frames))
        run.progress.is_counted = True

    # -- bringing it

    def _bring_bytes(self, run: Run, places: list[Place], with_frames: bool, jobs: int) -> None:
        run.progress.phase = "fetching"
        if self.is_local:
            return
        walk, crew = self._walk(run, with_frames=with_frames, may_read=True), Crew(run, jobs)
        for place in places:
            for piece in walk.pieces(place):
                self._bring(run, crew, piece)
        crew.finish()
        if self._mounted.cache is not None:
            self._mounted.cache.rest_later()

    def _bring_pictures(self, run: Run, places: list[Place], with_frames: bool, jobs: int) -> None:
        walk = self._walk(run, with_frames=with_frames, may_read=True)
        # A video's pictures are made in order, by one of few processes: more at a time would only take memory.
        crew = Crew(run, min(jobs, _VIDEOS))
        for place in places:
            for pictures in walk.pictures(place):
                run.require_wanted()
                crew.hand(partial(self._make, run, pictures))
        crew.finish()

    def _bring(self, run: Run, crew: Crew, piece: Piece) -> None:
        """Has the units of a file fetched that are not there."""
        file = _File(piece)
        position, end = piece.start, piece.start + piece.length
        while position < end and not file.has_failed:
            stop = min(position // _UNIT * _UNIT + _UNIT, end)
            run.require_wanted()
            with run.lock:
                file.left += 1
            if piece.file.is_on_disk(position, stop - position):
                self._brought(run, file, stop - position, 0)
            else:
                run.progress.now = piece.path
                crew.hand(partial(self._fetch, run, file, position, stop - position))
            position = stop
        self._brought(run, file, 0, 0)

    def _fetch(self, run: Run, file: "_File", start: int, length: int) -> None:
        try:
            fetched = 0
            while not file.has_failed:
                try:
                    with self._in_turn(run):
                        fetched = file.piece.file.bring(start, length, run.is_wanted)
                    break
                except Timeout:
                    if not run.is_wanted() or not self._being_indexed():
                        raise
            self._brought(run, file, 0 if file.has_failed else length, fetched)
        except _REFUSALS:
            raise
        except EgofsError as failure:
            with run.lock:
                is_first, file.has_failed = not file.has_failed, True
            if is_first:
                run.failed(file.piece.path, failure)
            self._brought(run, file, 0, 0)

    @contextmanager
    def _in_turn(self, run: Run) -> Iterator[None]:
        """Lets readers go first: while they fetch, few of the jobs do."""
        cache = self._mounted.cache
        while not run.begins(few=cache is not None and cache.is_fetching):
            run.moment.wait(LOOK_S)
        try:
            yield
        finally:
            with run.lock:
                run.fetching -= 1

    @staticmethod
    def _brought(run: Run, file: "_File", length: int, fetched: int) -> None:
        with run.lock:
            file.left -= 1
            run.progress.bytes += length
            run.progress.fetched_bytes += fetched
            run.progress.files += file.left == 0 and not file.has_failed

    def _make(self, run: Run, pictures: Pictures) -> None:
        """Has pictures of one video made that are not there."""
        stretch = pictures.stretch
        assert stretch is not None, "who may read knows them"
        run.progress.now = pictures.path
        failures: list[EgofsError] = []
        try:
            shelf, frames = self._mounted.shelf, stretch.frames
            with closing(shelf.make_for_disk(stretch.series.pictures, frames, run.is_wanted)) as coming:
                for outcome in coming:
                    if not isinstance(outcome, EgofsError):
                        self._made(run, outcome)
                        continue
                    failures.append(outcome)
                    if isinstance(outcome, _REFUSALS):
                        break
        except EgofsError as failure:  # no decoder, say
            failures.append(failure)
        if failures and isinstance(failures[-1], _REFUSALS):
            raise failures[-1]
        if failures:
            more = f"; and {len(failures) - 1} more of its pictures" if len(failures) > 1 else ""
            run.failed(pictures.path, type(failures[0])(f"{failures[0]}{more}"))

    @staticmethod
    def _made(run: Run, picture: OnDisk) -> None:
        with run.lock:
            run.progress.pictures += 1
            run.progress.made_pictures += picture.is_new
            run.asked_disk_bytes += picture.file_bytes
        run.require_room()

    @staticmethod
    def _settle(run: Run, disk: Disk) -> None:
        run.progress.phase = "writing"
        for _ in range(_MOST_SETTLES):
            if not disk.is_writing():
                break
            run.require_wanted()
            disk.settle()

    # -- taking it out

    def _evict_all(self, run: Run, disk: Disk, places: list[Place], with_frames: bool) -> int:
        freed = 0
        walk = self._walk(run, with_frames=with_frames, may_read=False)
        for some in _batches((piece for place in places for piece in walk.pieces(place)), _TOGETHER):
            run.require_wanted()
            run.progress.files += len(some)
            whole = [piece.file.owner for piece in some if piece.length in (-1, piece.file.size_bytes)]
            freed += disk.evict([owner for owner in whole if owner])
            for piece in some:
                if piece.length not in (-1, piece.file.size_bytes):
                    end = piece.start + piece.length
                    freed += disk.evict([piece.file.owner], units_within(piece.start, end))
        walk = self._walk(run, with_frames=with_frames, may_read=False)
        for place in places:
            for pictures in walk.pictures(place):
                run.require_wanted()
                if pictures.stretch is not None:
                    frames = set(pictures.stretch.frames)
                    freed += disk.evict([pictures.stretch.series.pictures.owner], frames)
        return freed


class _File:
    """A file that is being brought: how many of its units are under way, and one for who hands them out."""

    __slots__ = ("has_failed", "left", "piece")

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.left = 1
        self.has_failed = False


def _batches(things: Iterable[_T], count: int) -> Iterator[list[_T]]:
    rest = iter(things)
    while some := [*islice(rest, count)]:
        yield some
