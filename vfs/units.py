"""Pieces of objects in memory, within bounds: those that were read to their ends go first.

They are there to be read once, from where the kernel keeps them in its pages. The kernel's requests come in any order,
so the one that ends a piece need not be the last: some that were read stay, for it and for others who read the same.

Called by cache.py, under its lock. Invariant: no key is both unread and spent.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Units:
    """Of so many bytes in all, of which those that were read take up to `spent_limit_bytes`."""

    def __init__(self, limit_bytes: int, spent_limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._spent_limit_bytes = spent_limit_bytes
        self.unread: OrderedDict[Hashable, memoryview] = OrderedDict()
        """In the order of their last use; so are those that are spent, by when they were."""
        self.spent: OrderedDict[Hashable, memoryview] = OrderedDict()
        self.unread_bytes = 0
        self._spent_bytes = 0

    def get(self, key: Hashable) -> memoryview | None:
        """The unit, if it is here."""
        unit = self.unread.get(key)
        if unit is None:
            return self.spent.get(key)
        self.unread.move_to_end(key)
        return unit

    def put(self, key: Hashable, unit: memoryview) -> None:
        """Takes a unit in, in place of one of that key; others go."""
        self.unread_bytes += len(unit) - len(self.unread.pop(key, b""))
        self._spent_bytes -= len(self.spent.pop(key, b""))
        self.unread[key] = unit
        self._shrink()

    def spend(self, key: Hashable, unit: memoryview) -> None:
        """The unit was read to its end, if it is this one that is here."""
        if self.unread.get(key) is unit:
            self.spent[key] = self.unread.pop(key)
            self.unread_bytes -= len(unit)
            self._spent_bytes += len(unit)
            self._shrink()

    def forget(self, is_meant: Callable[[Any], bool]) -> None:
        """Lets those go whose keys are meant; looks at all."""
        for units in (self.unread, self.spent):
            for key in [key for key in units if is_meant(key)]:
                del units[key]
        self.unread_bytes = sum(map(len, self.unread.values()))
        self._spent_bytes = sum(map(len, self.spent.values()))

    def clear(self) -> None:
        """Lets all of them go."""
        self.unread.clear()
        self.spent.clear()
        self.unread_bytes = self._spent_bytes = 0

    def _shrink(self) -> None:
        while self.spent and (
            self._spent_bytes > self._spent_limit_bytes or self._spent_bytes + self.unread_bytes > self._limit_bytes
        ):
            self._spent_bytes -= len(self.spent.popitem(last=False)[1])
        while self.unread_bytes > self._limit_bytes and len(self.unread) > 1:
            self.unread_bytes -= len(self.unread.popitem(last=False)[1])
