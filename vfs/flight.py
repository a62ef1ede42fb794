"""One fetch for many waiters: whoever asks first for a key fetches it, all who ask meanwhile wait for that result.

The cache uses it for chunks and the catalog for folders. No lock is held while anything is fetched. Any thread may
call; the owner of a flight must settle it, whatever happens.
"""

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

from vfs.errors import Timeout

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A fetch is given 60 s with all its retries; one that takes longer has lost its owner.
WAIT_S = 75.0


class Flights(Generic[K, V]):
    """The fetches under way, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Future[V]] = {}

    def join(self, key: K) -> tuple["Future[V]", bool]:
        """The flight for a key, and whether the caller now owns it and must settle it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Future()
            return flight, True

    def land(self, key: K, value: V) -> None:
        """Ends a flight that the caller owns; its waiters get the value."""
        self._pop(key).set_result(value)

    def crash(self, key: K, failure: BaseException) -> None:
        """Ends a flight that the caller owns; its waiters get the failure."""
        self._pop(key).set_exception(failure)

    def _pop(self, key: K) -> "Future[V]":
        with self._lock:
            return self._flights.pop(key)

    @staticmethod
    def wait(flight: "Future[V]", what: str) -> V:
        """The result of somebody else's flight. Raises its failure, or Timeout."""
        try:
            return flight.result(WAIT_S)
        except FutureTimeout as failure:
            if flight.done():
                raise
            raise Timeout(f"{what}: still being fetched for another reader after {WAIT_S:.0f} s") from failure
