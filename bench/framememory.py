"""The memory of a mount's processes together: of its daemon and all that descend from it.

Proportional set size (proc(5), smaps_rollup): pages that several of them share count once.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_S = 0.2


class Watch:
    """Looks at a daemon's processes every fifth of a second; a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0
        self.processes = 0

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def look(self) -> int:
        """Bytes of all of them now."""
        found = [size for pid in _family(self._pid) if (size := _pss_bytes(pid))]
        self.processes = max(self.processes, len(found))
        self.peak_bytes = max(self.peak_bytes, sum(found))
        return sum(found)

    def _watch(self) -> None:
        while not self._ending.wait(_EVERY_S):
            self.look()


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _pss_bytes(pid: int) -> int:
    """0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
