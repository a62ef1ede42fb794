"""`egofs verify`, in the daemon: files are verified by several threads, and the asker hears of each.

The asker's messages are sent by the one thread that serves the request. Who breaks off ends the reading at the next
piece. Called in a thread of the control socket.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from mountd.control import Call, Operation, texts
from vfs.errors import OptionError
from vfs.mounted import MountedDataset
from vfs.verifying import Verdict, Verified, Verifier

if TYPE_CHECKING:
    from vfs.ops import Operations

MOST_JOBS = 64
_TELL_EVERY_S = 0.25


class _Over(Exception):
    """Nobody waits for it any more."""


def operation(mounted: MountedDataset, operations: "Operations") -> Operation:
    """The control operation `verify`, with `paths` and `jobs`."""

    def verify(words: dict[str, Any], call: Call) -> dict[str, Any]:
        paths, jobs = texts(words, "paths"), words.get("jobs")
        if type(jobs) is not int or not 1 <= jobs <= MOST_JOBS:
            raise OptionError(f"jobs: write a number from 1 to {MOST_JOBS}")
        return _Verification(mounted, operations, call).run(paths, jobs)

    return verify


class _Verification:
    """One request that is being answered."""

    def __init__(self, mounted: MountedDataset, operations: "Operations", call: Call) -> None:
        self._operations = operations
        self._call = call
        self._verifier = Verifier(mounted, self._note)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._done_bytes = 0  # under the lock
        self._told_at = 0.0
        self._counts = {"ok": 0, "mended": 0, "differs": 0, "unknown": 0, "failed": 0}

    def run(self, paths: list[str], jobs: int) -> dict[str, Any]:
        """Verifies all, and gives how many files had which outcome."""
        total, total_bytes = 0, 0
        for file in self._files(paths):  # asks for the listings, which are known when they are gone through again
            total, total_bytes = total + 1, total_bytes + file.size_bytes
            self._tell(total, total_bytes)
        files = self._files(paths)
        with ThreadPoolExecutor(jobs, thread_name_prefix="verify") as threads:
            try:
                under_way = {self._begun(threads, file): file for file in islice(files, 2 * jobs)}
                while under_way:
                    ended, _ = wait(under_way, timeout=_TELL_EVERY_S, return_when=FIRST_COMPLETED)
                    for verdict in ended:
                        self._settle(under_way.pop(verdict), verdict.result())
                        under_way |= {self._begun(threads, file): file for file in islice(files, 1)}
                    self._tell(total, total_bytes)
            except BaseException:
                self._over.set()
                threads.shutdown(cancel_futures=True)
                raise
        return {**self._counts, "bytes": self._done_bytes}

    def _files(self, paths: list[str]) -> Iterator[Verified]:
        return chain.from_iterable(map(self._verifier.files, paths))

    def _begun(self, threads: ThreadPoolExecutor, file: Verified) -> "Future[Verdict]":
        return threads.submit(self._verifier.verdict, file)

    def _settle(self, file: Verified, verdict: Verdict) -> None:
        if verdict.outcome == "mended":
            self._operations.forget_pages(file.path)  # the kernel may have them too
        self._counts[verdict.outcome] += 1
        self._call.tell(file=file.path, size=file.size_bytes, outcome=verdict.outcome, how=verdict.how, why=verdict.why)

    def _tell(self, total: int, total_bytes: int) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._call.tell(files=total, bytes=total_bytes, done_bytes=self._done_bytes)

    def _note(self, count: int) -> None:
        """Called by the threads that read."""
        if self._over.is_set():
            raise _Over
        with self._lock:
            self._done_bytes += count
