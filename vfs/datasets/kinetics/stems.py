"""Hundreds of thousands of clips' names in arrays: 25 bytes each, where Python's own would take 60 and an entry more.

Called by the other modules of both datasets while a tree is made; imports numpy, and is imported then. Not for several
threads at once.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class Stems:
    """A list of names, up to `width` bytes each, that grows."""

    def __init__(self, width: int) -> None:
        self._type = f"S{width}"
        self._parts: list[Array] = []

    def extend(self, names: Sequence[bytes]) -> None:
        """Adds names; a few thousand at a time are quick. A name has no NUL at its end."""
        if names:
            self._parts.append(np.array(names, dtype=self._type))

    def array(self) -> Array:
        """All of them, in their order."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate(self._parts) if self._parts else np.empty(0, dtype=self._type)]
        return self._parts[0]


class StemSet:
    """A set of names: sorted arrays, each at least twice as long as the next."""

    def __init__(self, width: int) -> None:
        self._empty: Array = np.empty(0, dtype=f"S{width}")
        self._runs: list[Array] = []

    def new_of(self, names: Array) -> Array:
        """Which of these are not in it, nor stand before in the same array; adds them."""
        order = np.argsort(names, kind="stable")
        in_order = names[order]
        new = _firsts(in_order)
        for run in self._runs:
            new &= places(run, in_order) < 0
        if new.any():
            self._runs.append(in_order[new])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = _merged(self._runs[-1], last)
        mask = np.zeros(len(names), dtype=bool)
        mask[order[new]] = True
        return mask

    def array(self) -> Array:
        """All of them, sorted."""
        while len(self._runs) > 1:
            last = self._runs.pop()
            self._runs[-1] = _merged(self._runs[-1], last)
        return self._runs[0] if self._runs else self._empty


def union(arrays: Iterable[Array], width: int) -> Array:
    """The distinct names of several arrays, sorted."""
    found: Array = np.empty(0, dtype=f"S{width}")
    for names in arrays:
        both = _merged(found, np.sort(names, kind="stable"))
        found = both[_firsts(both)]
    return found


def _merged(one: Array, other: Array) -> Array:
    """Two sorted arrays as one: what is called stable is a merge of runs."""
    both = np.concatenate((one, other))
    both.sort(kind="stable")
    return both


def _firsts(names: Array) -> Array:
    """Of a sorted array, which are not what stands before them."""
    first = np.ones(len(names), dtype=bool)
    first[1:] = names[1:] != names[:-1]
    return first


def places(among: Array, names: Array) -> Array:
    """(len(names),) int32: where each name stands in a sorted array, -1 where it does not."""
    if not len(among):
        return np.full(len(names), -1, dtype=np.int32)
    found = np.minimum(np.searchsorted(among, names), len(among) - 1).astype(np.int32)
    found[among[found] != names] = -1
    return found


def joined(arrays: "Sequence[Array | array[int]]") -> Array:
    """Numbers one after the other."""
    return np.concatenate([np.empty(0, dtype=np.int32), *map(np.asarray, arrays)])


def groups(numbers: Array, at: Array) -> Iterator[tuple[int, Array]]:
    """For each number that is not 0, the places that it stands beside, rising, each once; none of those below 0."""
    both = numbers.astype(np.int64) << 32 | at.astype(np.int64)
    both = np.sort(both[(at >= 0) & (numbers > 0)])
    both = both[_firsts(both)]
    if not len(both):
        return
    of, place = both >> 32, (both & 0xFFFFFFFF).astype(np.int32)
    cuts = np.flatnonzero(np.diff(of)) + 1
    for number, part in zip(of[[0, *cuts]], np.split(place, cuts), strict=True):
        yield int(number), part
