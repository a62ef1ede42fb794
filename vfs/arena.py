"""Page-aligned memory that is used again: for reading files past the page cache.

O_DIRECT wants aligned memory, and memory that is fresh from the system costs a page fault each 4 KiB (0.2 ms a MiB, as
much as reading it costs; ten times that in a virtual machine). So a fixed number of slots is handed out, and
a slot comes back when the last view of it is gone. Any thread may call.
"""

import ctypes
import mmap
import weakref
from collections import deque

_PAGE = mmap.PAGESIZE


class Arena:
    """So many slots of one size."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        """`slot_bytes` is rounded up to whole pages. Memory is used from the first time that a slot is filled."""
        self.slot_bytes = -(-slot_bytes // _PAGE) * _PAGE
        # Private: of shared memory, which is what mmap makes by itself, MADV_DONTNEED gives nothing back.
        self._memory = mmap.mmap(-1, slots * self.slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._slot_type = ctypes.c_char * self.slot_bytes
        # Taken from and given back to at the same end: the slot used last is still in the processor's cache.
        self._free = deque(range(slots))

    def take(self) -> memoryview:
        """A slot, with whatever was in it; fresh memory where all are taken. Views of it keep it from others."""
        try:
            number = self._free.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, self.slot_bytes))
        slot = self._slot_type.from_buffer(self._memory, number * self.slot_bytes)
        weakref.finalize(slot, self._free.append, number).atexit = False
        return memoryview(slot).cast("B")

    def give_back(self) -> None:
        """Returns the memory of the slots that are free to the system."""
        idle = []
        while self._free:
            idle.append(self._free.pop())
        for number in idle:
            self._memory.madvise(mmap.MADV_DONTNEED, number * self.slot_bytes, self.slot_bytes)
        self._free.extend(reversed(idle))
