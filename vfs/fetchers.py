"""Threads that do what can be done ahead of its need, of each line of work in turn.

Hides the queue and the threads' lives: one starts when there is work and none idle, and ends after a while without.
Called by cache.py. Any thread may call; `_lock` is over all that is kept, and no work is done under it.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

Work = Callable[[], None]


class Fetchers:
    """Up to `most` threads."""

    def __init__(self, most: int, idle_s: float, may_rest: Callable[[], bool], rest: Work) -> None:
        """The last thread ends when `may_rest` says so, and calls `rest`, each time that all work has ended."""
        self._most = most
        self._idle_s = idle_s
        self._may_rest = may_rest
        self._rest = rest
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._lines: OrderedDict[int, deque[Work]] = OrderedDict()
        self._waiting = 0
        self._threads = 0
        self._idle = 0
        self._closing = False

    def add(self, line: int, works: Iterable[Work] = ()) -> None:
        """Has these done, after what waits in their line already; without any, sees that somebody will rest."""
        with self._lock:
            if self._closing:
                return
            before = self._waiting
            for work in works:
                self._lines.setdefault(line, deque()).append(work)
                self._waiting += 1
            while self._threads < min(self._most, max(1, self._threads - self._idle + self._waiting)):
                threading.Thread(target=self._run, name="fetch-ahead", daemon=True).start()
                self._threads += 1
            if self._waiting > before:
                self._work.notify(self._waiting - before)

    @property
    def is_resting(self) -> bool:
        """Whether there is no thread."""
        return self._threads == 0

    def is_busy(self) -> bool:
        """Whether anything waits or is being done."""
        return bool(self._waiting or self._idle < self._threads)

    def close(self) -> None:
        """What waits is not done any more; the threads end with what they are doing."""
        with self._lock:
            self._closing = True
            self._lines.clear()
            self._waiting = 0
            self._work.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # whoever waits for it was told; the thread has to live for the others
                log.exception("a bug in what was done ahead")

    def _next(self) -> Work | None:
        """The next work, of each line in turn; None where the thread is not needed any more."""
        with self._lock:
            self._idle += 1
            try:
                while not self._lines:
                    began = time.monotonic()
                    if self._closing:
                        break
                    self._work.wait(self._idle_s)
                    if time.monotonic() - began < self._idle_s:
                        continue
                    if not self._lines and (self._threads > 1 or self._may_rest()):
                        break
                else:
                    line, works = self._lines.popitem(last=False)
                    self._waiting -= 1
                    work = works.popleft()
                    if works:
                        self._lines[line] = works
                    return work
                self._threads -= 1
                is_last = self._threads == 0
            finally:
                self._idle -= 1
        if is_last:
            self._rest()
        return None
