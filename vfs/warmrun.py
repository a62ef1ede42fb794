"""One warming under way: how far it is, whether it goes on, and who does its work.

Called by warming.py, which says what is done; knows nothing of files or pictures. Any thread may call.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from vfs.errors import EgofsError, OptionError, SourceError
from vfs.walk import Seen

log = logging.getLogger(__name__)

# While readers fetch, this part of the jobs does.
_SHARE = 4
_MOST_FAILURES = 1000  # whose texts are kept; all are counted
LOOK_S = 0.1
"""Who waits for something looks so often whether it is still wanted."""


@dataclass
class Counts:
    """Of what was asked for, how much there is: files (each object once), their bytes, and pictures. Sizes that nobody
    knows are not in `bytes`, nor pictures of videos in `pictures` whose number nobody knows."""

    files: int = 0
    bytes: int = 0
    pictures: int = 0
    unknown_sizes: int = 0
    unknown_videos: int = 0
    files_on_disk: int = 0
    bytes_on_disk: int = 0
    pictures_on_disk: int = 0

    @property
    def is_all_there(self) -> bool:
        """Whether everything is on disk."""
        return not self.unknown_sizes and not self.unknown_videos and self.missing == (0, 0, 0)

    @property
    def missing(self) -> tuple[int, int, int]:
        """Files, bytes and pictures that are not on disk."""
        return (
            self.files - self.files_on_disk,
            self.bytes - self.bytes_on_disk,
            self.pictures - self.pictures_on_disk,
        )


@dataclass
class Progress:
    """How far a warming is. What was asked for is in `asked`, which grows until `is_counted`."""

    phase: str = "counting"
    asked: Counts = field(default_factory=Counts)
    is_counted: bool = False
    files: int = 0
    bytes: int = 0
    pictures: int = 0
    fetched_bytes: int = 0
    made_pictures: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of the first of them."""
    now: str = ""
    """What was last begun."""


class BrokenOff(Exception):
    """Nobody wants it any more."""


class Run:
    """One warming: how far it is, and whether it goes on. `lock` is over the numbers of `progress`."""

    def __init__(self, jobs: int = 1) -> None:
        self.progress = Progress()
        self.lock = threading.Lock()
        self.refusal: EgofsError | None = None
        """Why it goes no further."""
        self.room_bytes: int | None = None
        """What the disk may hold in all; None where that is not asked."""
        self.few = max(1, jobs // _SHARE)
        """Of the jobs those that go on while readers fetch."""
        self.fetching = 0
        self.moment = threading.Event()
        """Set at the end."""
        self.asked_disk_bytes = 0
        """What will stand there in the end."""
        self._failed = Seen()
        self._ended = False

    def is_wanted(self) -> bool:
        """Whether it goes on."""
        return not self._ended

    def begins(self, *, few: bool) -> bool:
        """Counts one that begins to fetch, unless there are to be `few` and these do already."""
        with self.lock:
            begins = not few or self.fetching < self.few or self._ended
            self.fetching += begins
            return begins

    def end(self) -> None:
        """Nothing is begun any more."""
        self._ended = True
        self.moment.set()

    def require_wanted(self) -> None:
        """Raises BrokenOff where it does not go on."""
        if self._ended:
            raise BrokenOff

    def require_room(self) -> None:
        """Ends it where more would stand on the disk than may: what came first would go again."""
        if self.room_bytes is not None and self.asked_disk_bytes > self.room_bytes:
            asked, room = (f"{size / (1 << 30):.1f} GiB" for size in (self.asked_disk_bytes, self.room_bytes))
            self.stop(
                OptionError(
                    f"{asked} at least are asked for, and the cache holds {room}: egofs cache resize, "
                    "ask for less, or --force"
                )
            )
            raise BrokenOff

    def stop(self, refusal: EgofsError) -> None:
        """Ends it with a reason."""
        with self.lock:
            self.refusal = self.refusal or refusal
        self.end()

    @contextmanager
    def beside(self, work: Callable[[], None], before_s: float) -> Iterator[None]:
        """Does something in a thread while something else is done, which begins so much later at most."""
        thread = threading.Thread(target=self.guarded, args=(work,), name="warming", daemon=True)
        thread.start()
        thread.join(before_s)
        self.require_wanted()
        yield
        while thread.is_alive():
            thread.join(LOOK_S)
            self.require_wanted()
        self.require_wanted()

    def guarded(self, work: Callable[[], None]) -> None:
        """Does a part of it in a thread; what must not go on ends it."""
        try:
            work()
        except BrokenOff:
            pass
        except EgofsError as refusal:
            self.stop(refusal)
        except Exception as failure:
            log.exception("a bug in warming")
            self.stop(SourceError(f"a bug: {type(failure).__name__}: {failure}"))

    def failed(self, path: str, failure: EgofsError) -> None:
        """Something cannot be had; the rest goes on. Of a path that is told twice only the first is heard."""
        with self.lock:
            if not self._failed.add(path):
                return
            self.progress.failed += 1
            if len(self.progress.failures) < _MOST_FAILURES:
                self.progress.failures.append((path, str(failure)))

    def facts(self) -> dict[str, object]:
        """The progress, without what is only told at the end."""
        with self.lock:
            return {**vars(self.progress), "asked": vars(self.progress.asked).copy(), "failures": []}


class Crew:
    """Threads that do what is handed to them, so many things at a time; who hands over waits for a free one."""

    def __init__(self, run: Run, count: int) -> None:
        self._run = run
        self._count = count
        self._free = threading.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="warm")

    def hand(self, work: Callable[[], None]) -> None:
        """Has it done. Raises BrokenOff where nothing is to be begun any more."""
        self._take()
        self._threads.submit(self._do, work)

    def finish(self) -> None:
        """Returns when all is done."""
        for _ in range(self._count):
            self._take()
        self._threads.shutdown(wait=False)

    def _take(self) -> None:
        while not self._free.acquire(timeout=LOOK_S):
            self._run.require_wanted()
        if not self._run.is_wanted():
            self._free.release()
            self._threads.shutdown(wait=False)
            raise BrokenOff

    def _do(self, work: Callable[[], None]) -> None:
        try:
            if self._run.is_wanted():
                self._run.guarded(work)
        finally:
            self._free.release()
