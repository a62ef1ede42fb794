"""The sizes of objects that a manifest names: found out when the first of them is wanted, and kept in the catalog.

Hides how the store is asked. A bucket's manifest has no sizes, and to ask for each object costs a request: so the
folders of the source in which the unsized files of a mounted folder stand are listed, side by side, where several of
these stand in one. What a listing does not tell (it is refused, or goes on far beyond what is wanted) is asked by a
HEAD each, the wanted one first and then those that follow it, which whoever runs through the folder wants next.

Called by the mounted tree, by any thread but the event loop's: it waits, for the one answer that it needs. Whatever
many want at once is asked once. `_lock` is over what is under way; under it the catalog is read, and nothing fetched.
"""

import logging
import os
import posixpath
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeAlias

from vfs.catalog import Catalog, Entry
from vfs.errors import AccessDenied, EgofsError, NotFound, SourceError, Unavailable
from vfs.flight import Flights
from vfs.sources import ObjectInfo, Source

log = logging.getLogger(__name__)

_REQUESTS = 16
# HEADs from one lookup: four for each of the threads, so that the next lookups find theirs under way.
_HEADS = 64
# Files after the wanted one that are looked at for those to be asked so.
_NEAR = 1024
# A listing may go on beyond what is wanted for as long as HEADs would take: a page of a thousand names for sixteen of
# them, and the first page, and never for more than twenty pages.
_BEYOND_NAMES = 1000
_BEYOND_EACH = 1000 // _REQUESTS
_MOST_BEYOND_NAMES = 20_000
# An answer that came for another version of the folder's listing is asked for again, so often.
_TRIES = 10

_Slot: TypeAlias = tuple[str, str, str]
"""A mounted folder, what is asked, and of which name of the source."""


class Sizes:
    """The sizes that one mount asks for."""

    def __init__(self, source: Source, catalog: Catalog, ahead: bool = True) -> None:
        """`ahead`: whether a size may be asked for that nobody wants yet; else each is a HEAD when it is wanted."""
        self._source = source
        self._catalog = catalog
        self._ahead = ahead
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False
        self._coming: dict[_Slot, Future[bool]] = {}
        # Folders of the source that are not listed any more for as long as the mount lives.
        self._unlistable: set[str] = set()
        # Whether listings of the source tell no sizes: an index page of a web server does not.
        self._tells_none = False
        # Whether the last HEAD failed: only those are sent then that somebody waits for.
        self._failing = False

    def close(self) -> None:
        """Asks for nothing any more. What is under way ends by itself."""
        with self._lock:
            self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def entry(self, folder: str, name: str) -> Entry:
        """An entry of a folder that the catalog knows, with its size. Raises NotFound where there is none, or where the
        store does not have its object, and what the store raises."""
        for _ in range(_TRIES):
            entry = self._catalog.entry(folder, name)
            if _is_known(entry):
                return entry
            if coming := self._asked(folder, name):
                self._await(coming, f"{folder}/{name}")
        raise Unavailable(f"{folder}/{name}: its size could not be found out, because others ask for it too: try again")

    def renewed(self, folder: str, obj: ObjectInfo) -> bool:
        """Whether the store has something else than this now under its key, which the catalog then knows.

        False where it cannot be asked either.
        """
        try:
            with self._lock:
                future = self._submitted((folder, "renew", obj.key), self._renew, folder, obj)
            return self._await(future, obj.key)
        except EgofsError as failure:
            log.warning("%s: what is there now could not be found out: %s", obj.key, failure)
            return False

    # -- who asks

    def _asked(self, folder: str, name: str) -> "Future[bool] | None":
        """The answer to come that is likely to have the size of a name; None where that has come. Raises NotFound."""
        following: Iterator[tuple[str, str]]
        with self._lock:
            entry = self._catalog.entry(folder, name)
            if entry.object is None or _is_known(entry):
                return None
            key, place = entry.object.key, posixpath.dirname(entry.object.key)
            for slot in ((folder, "list", place), (folder, "head", name)):
                if slot in self._coming:
                    return self._coming[slot]
            if not self._ahead:
                following = iter(())
            elif self._is_unlistable(place):
                near = islice(self._catalog.unsized(folder, name), _NEAR)
                following = (each for each in near if self._is_unlistable(posixpath.dirname(each[1])))
            else:
                listing, following = self._list_all(folder, name, place)
                if listing is not None:
                    return listing
            return self._head_all(folder, name, key, following)

    def _list_all(self, folder: str, name: str, place: str) -> "tuple[Future[bool] | None, Iterator[tuple[str, str]]]":
        """Has the places listed in which several files of a folder stand. Gives the listing of one of them, and the
        files after a name that stand alone."""
        places: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
        for each, key in self._catalog.unsized(folder):
            places[posixpath.dirname(key)].setdefault(key, []).append(each)
        listing = None
        for other, keys in sorted(places.items(), key=lambda item: item[0] != place):
            if len(keys) > 1 and not self._is_unlistable(other):
                future = self._submitted((folder, "list", other), self._list, folder, other, keys)
                listing = future if other == place else listing
        alone = [
            (each, key) for keys in places.values() if len(keys) == 1 for key, names in keys.items() for each in names
        ]
        alone.sort(key=lambda pair: os.fsencode(pair[0]))
        return listing, (pair for pair in alone if os.fsencode(pair[0]) > os.fsencode(name))

    def _is_unlistable(self, place: str) -> bool:
        return self._tells_none or place in self._unlistable

    def _head_all(self, folder: str, name: str, key: str, following: Iterator[tuple[str, str]]) -> "Future[bool]":
        """Has a file asked for, and those that follow it. Gives the answer to come for the first."""
        wanted = self._submitted((folder, "head", name), self._head, folder, name, key, True)
        for each, other in islice(following, 0 if self._failing else _HEADS - 1):
            self._submitted((folder, "head", each), self._head, folder, each, other, False)
        return wanted

    def _submitted(self, slot: _Slot, work: Callable[..., bool], *arguments: object) -> "Future[bool]":
        """The answer to come of a question, which is asked unless it is already. Called with the lock."""
        if slot in self._coming:
            return self._coming[slot]
        if self._closed:
            raise Unavailable(f"{slot[2]}: this mount has ended")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="sizes")
        future = self._coming[slot] = self._threads.submit(self._answer, slot, work, *arguments)
        return future

    @staticmethod
    def _await(future: "Future[bool]", key: str) -> bool:
        try:
            return Flights.wait(future, key)
        except CancelledError as failure:
            raise Unavailable(f"{key}: this mount has ended") from failure

    # -- in threads

    def _answer(self, slot: _Slot, work: Callable[..., bool], *arguments: object) -> bool:
        try:
            return work(*arguments)
        finally:
            with self._lock:
                del self._coming[slot]

    def _list(self, folder: str, place: str, wanted: dict[str, list[str]]) -> bool:
        """Learns the sizes of the objects that are wanted in a folder of the source, by key with their names."""
        most_beyond = min(_MOST_BEYOND_NAMES, _BEYOND_NAMES + _BEYOND_EACH * len(wanted))
        found: list[tuple[str, str, ObjectInfo | None]] = []
        beyond = 0
        try:
            for each in self._source.list(place):
                key = f"{place}/{each.name}" if place else each.name
                names = wanted.pop(key, None)
                if names is None:
                    beyond += 1
                elif each.object is not None and each.object.size_bytes < 0:
                    self._tells_none = True
                elif each.object is not None:
                    found += [(name, key, each.object) for name in names]
                else:  # a link, of which HEAD tells more
                    self._unlistable.add(place)
                if not wanted:
                    break
                if beyond > most_beyond:
                    self._unlistable.add(place)
                    log.info("%s is not listed to its end: %d files are asked for one by one", place, len(wanted))
                    return False
            found += self._gone(wanted)
        except NotFound:
            found += self._gone(wanted)
        except (AccessDenied, SourceError) as failure:
            self._unlistable.add(place)
            log.info("%s cannot be listed; sizes are asked for one by one: %s", place, failure)
        finally:
            self._catalog.learn(folder, found)
        return True

    def _head(self, folder: str, name: str, key: str, is_wanted: bool) -> bool:
        """Learns the size of one object; of one that nobody is known to want only as long as none fails."""
        if self._failing and not is_wanted:
            return False
        try:
            found: list[tuple[str, str, ObjectInfo | None]] = [(name, key, self._source.stat(key))]
        except NotFound:
            found = self._gone({key: [name]})
        except EgofsError:
            self._failing = True
            raise
        self._failing = False
        self._catalog.learn(folder, found)
        return True

    def _renew(self, folder: str, obj: ObjectInfo) -> bool:
        now: ObjectInfo | None
        try:
            now = self._source.stat(obj.key)
            if now.size_bytes == obj.size_bytes and obj.version in ("", now.version):
                return False
        except NotFound:
            now = None
        names = self._catalog.names_of(folder, obj.key)
        self._catalog.learn(folder, [(name, obj.key, now) for name in names], before=obj)
        return True

    @staticmethod
    def _gone(missing: dict[str, list[str]]) -> list[tuple[str, str, ObjectInfo | None]]:
        """What is learnt of keys under which the store has nothing; says so."""
        if missing:
            some = ", ".join(islice(missing, 5)) + (", …" if len(missing) > 5 else "")
            log.warning(
                "the store does not have %d files that the dataset names; they are left out: %s", len(missing), some
            )
        return [(name, key, None) for key, names in missing.items() for name in names]


def _is_known(entry: Entry) -> bool:
    return entry.object is None or entry.object.size_bytes >= 0
