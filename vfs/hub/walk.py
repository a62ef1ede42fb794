"""Folders of a repository that are listed before they are asked for, because somebody walks from one to the next.

The hub lists one folder a request, or all below one in pages of a thousand entries; in which order is not promised,
and a page can be asked for only after the one before it. So that a folder is whole is known when the last page has come
(vfs/sources/ahead.py wants keys in order, and places to begin at). Two children of a folder that are asked for in turn
begin a walk: all below their parent is listed, by a thread, with no more requests than half of what asking for each
child would take. Who asks for a child then waits a little for that, once. What came is given once, and let go of when
nobody comes for it.

The source of hf:// calls it, which gives the asking; what is listed is of one commit and cannot become wrong. Any
thread may enter. All that is kept is under one lock, and nothing is asked under it.
"""

import logging
import threading
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence

from vfs.errors import EgofsError
from vfs.hub.api import Row

_log = logging.getLogger(__name__)

# Child folders that may be left out of a walk: those that a catalog knows are not asked for.
_STRIDE = 8
# The hub gives an account some hundred to a thousand requests in five minutes.
_MOST_PAGES = 50
_MOST_NAMES = 100_000  # of child folders that are remembered: 10 MB
_PATIENCE_S = 3.0
_KEPT_S = 120.0

Ask = Callable[[str, str], tuple[list[Row], str]]
"""A page of all that stands below a folder: its entries, and where the next begins."""


class Walks:
    """The walks through one repository."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._changed = threading.Condition()  # over a lock that its holder may take again
        self._closed = False
        self._children: OrderedDict[str, _Children] = OrderedDict()
        self._names = 0
        self._walk: _Walk | None = None

    def note(self, folder: str, rows: Iterable[Row], *, is_first: bool) -> None:
        """Remembers which folders stand in one, as a page of its listing tells, the first or one that follows."""
        names = [row.path for row in rows if row.is_folder]
        with self._changed:
            if before := self._children.pop(folder, None):
                self._names -= len(before.names)
                names += () if is_first else before.names
            names.sort()
            if 1 < len(names) <= _MOST_NAMES:
                self._children[folder] = _Children(names)
                self._names += len(names)
            while self._names > _MOST_NAMES:
                self._names -= len(self._children.popitem(last=False)[1].names)

    def take(self, folder: str) -> Sequence[Row] | None:
        """What stands in a folder, where it was listed ahead; None where it has to be asked for."""
        with self._changed:
            self._notice(folder)
            walk = self._walk
            if walk is None or not folder.startswith(walk.base) or not folder:
                return None
            if walk.found is None and not walk.waited_for:
                walk.waited_for = not self._changed.wait_for(lambda: walk.over or self._closed, _PATIENCE_S)
            if walk.found is None:
                return None
            return walk.found.pop(folder, None)

    def forget(self) -> None:
        """Gives nothing any more of what was listed until now."""
        with self._changed:
            self._walk = None

    def close(self) -> None:
        """Waits for nothing any more; a page that is under way is the last."""
        with self._changed:
            self._closed = True
            self._walk = None
            self._changed.notify_all()

    def _notice(self, folder: str) -> None:
        """Begins a walk where children of a folder are asked for in order."""
        parent = folder.rpartition("/")[0]
        children = self._children.get(parent) if folder else None
        index = children.index(folder) if children else None
        if children is None or index is None:
            return
        before, children.last = children.last, index
        is_next = before is not None and 0 < index - before <= _STRIDE
        if not is_next or children.walked or self._closed or (self._walk is not None and not self._walk.over):
            return
        pages = min(_MOST_PAGES, (len(children.names) - index) // 2)
        if pages:
            children.walked = True
            self._walk = _Walk(parent, pages)
            threading.Thread(target=self._work, args=(self._walk,), name="listing ahead", daemon=True).start()

    def _work(self, walk: "_Walk") -> None:
        """Lists all below a folder. A thread's whole life."""
        found: defaultdict[str, list[Row]] = defaultdict(list)
        is_whole = False
        try:
            after = ""
            for _ in range(walk.pages):
                rows, after = self._ask(walk.parent, after)
                for row in rows:
                    found[row.path.rpartition("/")[0]].append(row)
                if not after or self._closed:
                    break
            is_whole = not after
            if after:
                _log.info("%s is not listed ahead: it has too many entries", walk.parent or "the root")
        except EgofsError as failure:
            # Whoever asks for one of these folders hears from the hub itself.
            _log.info("%s: listing ahead is given up: %s", walk.parent or "the root", failure)
        finally:
            with self._changed:
                walk.found = dict(found) if is_whole else None
                walk.over = True
                if not is_whole:
                    self._forget(walk)
                self._changed.notify_all()
        if walk.found:
            timer = threading.Timer(_KEPT_S, self._forget, (walk,))
            timer.daemon = True
            timer.start()

    def _forget(self, walk: "_Walk") -> None:
        with self._changed:
            if self._walk is walk:
                self._walk = None


class _Children:
    """The folders in a folder, by their paths in order."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.last: int | None = None  # which was asked for last
        self.walked = False

    def index(self, path: str) -> int | None:
        at = bisect_left(self.names, path)
        return at if at < len(self.names) and self.names[at] == path else None


class _Walk:
    """All below one folder, on its way or here."""

    def __init__(self, parent: str, pages: int) -> None:
        self.base = f"{parent}/" if parent else ""
        self.parent = parent
        self.pages = pages  # how many may be asked for
        self.found: dict[str, list[Row]] | None = None
        self.over = False
        self.waited_for = False  # in vain: nobody waits again
