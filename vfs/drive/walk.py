"""Folders of a Drive that somebody walks through, asked for many at a time.

It hides that one query may ask for what stands in several folders, and that Drive answers some such queries as if
there were nothing in some of the folders, without a word. Called by the Drive's source; it knows ids and no paths.
Any thread may enter; nothing is asked under the lock, and a folder that another thread is having listed is waited for.

A walk is known by two siblings being asked for one after the other, in order. From there on each query is for the
folder that is wanted, for the siblings after it, and for the one before it once more: what came of that when it was
asked for alone is what has to come of it again. If it does not, or if a folder of which nothing came has something in
it after all, no more queries of this kind are sent. Folders of which nothing came are asked for alone in any case. What
came of the others waits to be asked for, is given once, and goes when it is too old.

The defect: rclone's issues 3114, 4289 and 9810, Google's 149522397; seen there was nothing of a folder, never a part.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from vfs.drive.api import Item
from vfs.errors import AccessDenied, NotFound, SourceError

_log = logging.getLogger(__name__)

# A query of 40 ids has 2.2 kB; that many recordings of twelve files are half a page of an answer.
MOST_TOGETHER = 40
MAX_AGE_S = 30.0  # what was listed ahead waits no longer for being asked for
_MOST_HELD = 50_000  # items, of 1 kB
_MOST_PARENTS = 1_000
# How many siblings a walk may leave out and be one still: those that a catalog knows are not asked for here.
_STRIDE = 8
_WAIT_S = 75.0  # as whoever asks is given 60 s with all retries


@dataclass
class _Siblings:
    """The folders of one folder in the order in which they are walked through."""

    ids: Sequence[str]
    position: dict[str, int]
    last: tuple[int, frozenset[str]] | None = None
    """The one that was last asked for, and what stands in it."""
    hopeless: bool = False
    """Nobody walks here, or one of the folders refuses."""


class Walks:
    """What stands in folders, one folder an answer. `ask` is the query: what stands in any of some folders."""

    def __init__(self, ask: Callable[[Sequence[str]], list[Item]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._siblings: dict[str, _Siblings] = {}
        self._held: dict[str, tuple[float, list[Item]]] = {}
        self._coming: dict[str, Future[None]] = {}
        self._nothing_came: set[str] = set()
        self.is_trusted = True
        """Whether Drive has answered such queries in full so far."""

    def remember(self, parent: str, folders: Sequence[str]) -> None:
        """The folders of a folder, in the order in which somebody would walk through them."""
        with self._lock:
            before = self._siblings.pop(parent, None)
            if before and tuple(before.ids) == tuple(folders):
                self._siblings[parent] = before
            elif len(folders) > 2:
                self._siblings[parent] = _Siblings(folders, {each: at for at, each in enumerate(folders)})
            while len(self._siblings) > _MOST_PARENTS:
                del self._siblings[next(iter(self._siblings))]

    def children(self, parent: str, folder: str) -> list[Item]:
        """What stands in a folder of `parent`. Raises what asking for it alone raises, and what asking for several
        does that may be asked again."""
        with self._lock:
            coming = self._coming.get(folder)
        if coming:
            try:
                coming.result(_WAIT_S)
            except FutureTimeout:
                pass  # asked for alone then
        with self._lock:
            items = self._taken(parent, folder)
            group = self._group(parent, folder) if items is None and folder not in self._coming else []
            done: Future[None] = Future()
            self._coming |= dict.fromkeys(group, done)
        if group:
            try:
                self._ask_together(parent, group)
            finally:
                with self._lock:
                    for each in group:
                        del self._coming[each]
                done.set_result(None)
            with self._lock:
                items = self._taken(parent, folder)
        return self._ask_alone(parent, folder) if items is None else items

    def forget(self) -> None:
        """Gives nothing any more of what was listed until now."""
        with self._lock:
            self._held.clear()
            self._nothing_came.clear()

    def _ask_alone(self, parent: str, folder: str) -> list[Item]:
        items = self._ask([folder])
        with self._lock:
            if folder in self._nothing_came:
                self._nothing_came.discard(folder)
                if items:
                    self._distrust()
            self._note(parent, folder, items)
        return items

    def _ask_together(self, parent: str, group: Sequence[str]) -> None:
        """Holds what stands in these folders, as far as Drive is to be believed."""
        with self._lock:
            siblings = self._siblings.get(parent)
            control, known = ("", frozenset[str]())
            if siblings and siblings.last:
                control, known = siblings.ids[siblings.last[0]], siblings.last[1]
        asked_at = self._clock()
        found: dict[str, list[Item]] = {each: [] for each in (*group, control)}
        try:
            for item in self._ask([*group, control]):
                for above in item.parents:
                    if above in found:
                        found[above].append(item)
        except (AccessDenied, NotFound, SourceError):
            with self._lock:
                if siblings:
                    siblings.hopeless = True
            return
        with self._lock:
            if {item.id for item in found[control]} != known:
                self._distrust()
                return
            self._held |= {each: (asked_at, found[each]) for each in group if found[each]}
            self._nothing_came |= {each for each in group if not found[each]}

    # -- under the lock

    def _group(self, parent: str, folder: str) -> list[str]:
        """The folder with the siblings to ask for in one query; nothing where nobody walks."""
        siblings = self._siblings.get(parent)
        at = siblings.position.get(folder) if siblings else None
        if siblings is None or at is None or siblings.last is None or not self.is_trusted or siblings.hopeless:
            return []
        before, known = siblings.last
        if (
            not 0 < at - before <= _STRIDE
            or not known
            or sum(len(items) for _, items in self._held.values()) > _MOST_HELD
        ):
            return []
        following = siblings.ids[at : at + MOST_TOGETHER]
        group = [each for each in following if each not in self._held and each not in self._coming]
        return group if len(group) > 1 and group[0] == folder else []

    def _taken(self, parent: str, folder: str) -> list[Item] | None:
        """What is held of a folder, which then is held no more."""
        now = self._clock()
        if folder in self._held and now - self._held[folder][0] > MAX_AGE_S:
            # Whoever came by has gone, or takes so long over each that listing ahead is for nothing.
            self._held = {each: held for each, held in self._held.items() if now - held[0] <= MAX_AGE_S}
            if siblings := self._siblings.get(parent):
                siblings.hopeless = True
        _, items = self._held.pop(folder, (0.0, None))
        if items is not None:
            self._note(parent, folder, items)
        return items

    def _note(self, parent: str, folder: str, items: Sequence[Item]) -> None:
        siblings = self._siblings.get(parent)
        if siblings and (at := siblings.position.get(folder)) is not None:
            siblings.last = at, frozenset(item.id for item in items)

    def _distrust(self) -> None:
        self._held.clear()
        self._nothing_came.clear()
        if self.is_trusted:
            self.is_trusted = False
            _log.warning("Drive leaves out what stands in folders that are asked for together: each is asked for alone")
