"""A source whose folders are listed ahead of somebody who walks through them.

It hides that a store of objects can list a whole tree at once, many thousand names a second, where a program that
walks it (ls -R, find, os.walk, rsync) asks for one folder after another, a round trip each. The daemon wraps it around
the retrying source; it knows no store. A source that cannot list whole trees passes through as it is.

A walk is known by two child folders of one parent being asked for one soon after the other, in order. From there on
the parent's children, whose names its own listing told, are listed flat: in runs of some children, each page after
page, several runs at a time, more of them the more of what came is asked for (`_Walk.window`). Each page is cut into
the listings of folders (vfs/flat.py), which wait to be asked for, are given once, and go when they are too old. Whoever
asks for a folder that a run is about to bring waits for it; for all else the store is asked as if nobody walked. What
is given is what the plain way gives, or is not given: a folder is whole when a key after it has been seen, or the end.

Any thread may enter. All that is kept is under one lock, `_changed`; nothing is asked under it. A run under way has a
thread of its own, a daemon thread: the process does not wait for it.
"""

import logging
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from vfs.errors import EgofsError
from vfs.flat import Cutter, Folder
from vfs.sources import Deep, Listed, ObjectInfo, Page, Paged, Renewable, Source, checksum_of, following

_log = logging.getLogger(__name__)

MAX_AGE_S = 30.0  # what is listed ahead waits no longer for being asked for
# A parent's listing names its children in thousands; these bound what is remembered of recent ones, 10 MB.
_MOST_NAMES = 100_000
_MOST_PARENTS = 1_000
# 310 bytes an entry, measured: 31 MB wait at the most, and 50 more stand in folders that are not whole yet.
_MOST_HELD = 100_000
# A larger folder is not kept: page after page is the only way to list it, whoever asks.
_MOST_IN_FOLDER = 10_000
# How many children a walk may leave out and be one still: those that a catalog knows are not asked for here.
_STRIDE = 8
_MOST_RUNS = 16
_MOST_WALKS = 16
# Four pages, less what makes a fifth necessary where all children are of one size.
_RUN_OBJECTS = 3_900
# Whoever waits for a folder sees so many pages of other folders come, or so long none.
_PATIENCE_PAGES = 3
_PATIENCE_S = 2.0
# After so many pages in one child, which is a run's worth, somebody who walks inside it is listed ahead there.
_LARGE_PAGES = 4
# A walk that has left what is listed for it is forgotten after so many folders that had to be asked for.
_MOST_MISSED = 8

_Found = Folder[ObjectInfo]
_key = attrgetter("key")


class AheadSource:
    """Another source, `inner`, with walks listed ahead; see the module's docstring."""

    def __init__(self, inner: Source, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner = inner
        self.url = inner.url
        self.remote = inner.remote
        self.max_age_s = MAX_AGE_S
        """How long a listing may wait for being asked for; may be changed at any time."""
        self.stat = inner.stat
        self.read = inner.read
        self.checksum = partial(checksum_of, inner)
        self._page = inner.page if isinstance(inner, Paged) else None
        self._deep_page = inner.deep_page if isinstance(inner, Deep) else None
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._known: OrderedDict[str, _Children] = OrderedDict()
        self._names_known = 0
        self._walks: dict[str, _Walk] = {}
        self._held: dict[str, tuple[_Found, _Run]] = {}
        self._entries_held = 0
        self._running = 0
        self._expiry: threading.Timer | None = None

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder, from what was listed ahead or from the store."""
        ready = self._ready(folder) if self._deep_page else None
        listed = _entries(ready) if ready else self._streamed(folder)
        names: list[str] = []
        for entry in listed:
            if entry.kind == "dir" and len(names) < _MOST_NAMES:
                names.append(f"{entry.name}/")
            yield entry
        if self._deep_page:
            self._remember(folder, names)

    def renew(self) -> None:
        """Gives nothing any more of what was listed until now."""
        with self._changed:
            for walk in list(self._walks.values()):
                walk.given = 0  # what is under way for it is not held then
                self._end(walk)
            self._discard(lambda found, run: True)
        if isinstance(self.inner, Renewable):
            self.inner.renew()

    def close(self) -> None:
        """Ends the inner source's connections; what is listed ahead ends with the answers that are under way."""
        with self._changed:
            self._closed = True
            if self._expiry:
                self._expiry.cancel()
            self._changed.notify_all()
        self.inner.close()

    # -- one folder -------------------------------------------------------------------------------------------

    def _streamed(self, folder: str) -> Iterator[Listed]:
        """The folder from the store, each page asked for while the one before it is taken."""
        if self._page is None:
            yield from self.inner.list(folder)
            return
        after, part = "", self._page(folder, "")
        while part.after:
            after = following(folder, after, part)
            coming = _begun(self._page, folder, after)
            yield from part.listed
            part = coming.result()
        yield from part.listed

    def _remember(self, folder: str, names: Sequence[str]) -> None:
        """Keeps the names of child folders, in the order of their keys, for a walk to be known by."""
        with self._changed:
            if before := self._known.pop(folder, None):
                self._names_known -= len(before.names)
            if 1 < len(names) < _MOST_NAMES:
                self._known[folder] = _Children(sorted(names))
                self._names_known += len(names)
            while self._names_known > _MOST_NAMES or len(self._known) > _MOST_PARENTS:
                self._names_known -= len(self._known.popitem(last=False)[1].names)

    def _ready(self, folder: str) -> _Found | None:
        """The listing made ahead, waited for where it is about to come; None where the store is to be asked."""
        with self._changed:
            self._notice(folder)
            if found := self._taken(folder):
                return found
            run = self._run_for(folder)
            if run is None:
                return None
            run.waiting.append(folder)
            self._feed(run.walk)
            self._wait(folder, run)
            run.waiting.remove(folder)
            return self._taken(folder)

    def _wait(self, folder: str, run: "_Run") -> None:
        """Until a run has brought a folder, or will not, or takes too long."""
        first = seen = run.pages
        give_up = time.monotonic() + _PATIENCE_S
        while run.running and not self._closed and run.may_bring(folder) and folder not in self._held:
            if not self._changed.wait(max(0.0, give_up - time.monotonic())):
                return
            if run.pages == seen:
                continue
            seen, give_up = run.pages, time.monotonic() + _PATIENCE_S
            # A large folder comes no sooner any other way. One with folders below it does: those are left out.
            if seen - first >= _PATIENCE_PAGES and run.filling != folder:
                if run.reached < f"{folder}/":  # nobody waits for what is being listed: whoever walks has passed it
                    run.skip_to = folder
                return

    def _taken(self, folder: str) -> _Found | None:
        """The folder's listing if it is held and young enough, which then is held no more."""
        held = self._let_go(folder)
        if held is None:
            return None
        found, run = held
        if self._clock() - found.asked_at > self.max_age_s:
            return None
        walk = run.walk
        walk.given, walk.missed = walk.given + 1, 0
        # The first is the one that began the walk: it would have been asked for anyway.
        if walk.given > 1 and not run.proven:
            run.proven = True
            walk.window = min(_MOST_RUNS, 2 * walk.window)
        walk.runs = [other for other in walk.runs if not other.over or (other.first >= run.first and other.held)]
        self._feed(walk)
        return found

    # -- walks ------------------------------------------------------------------------------------------------

    def _notice(self, folder: str) -> None:
        """Begins to list a parent flat when its children are asked for in order."""
        parent, _, name = folder.rpartition("/")
        children = self._known.get(parent) if folder else None
        index = children.index(f"{name}/") if children else None
        if children is None or index is None:
            return
        self._known.move_to_end(parent)
        before, children.last = children.last, index
        stride = 0 if before is None else index - before
        if not 0 < stride <= _STRIDE or children.hopeless or parent in self._walks or self.max_age_s <= 0:
            return
        walk = _Walk(parent, children, index)
        outer = self._run_for(parent, only_look=True)
        if outer is not None:
            if not any(path == parent and outer.pages - page >= _LARGE_PAGES for path, page in outer.open):
                return  # it will be here soon
            walk.next = max(index, bisect_right(children.names, outer.reached.removeprefix(walk.base)) - 1)
            walk.given = outer.walk.given
            outer.leave(parent)
        elif folder in self._held:
            return
        while len(self._walks) >= _MOST_WALKS:
            self._end(next(iter(self._walks.values())))
        self._walks[parent] = walk
        self._feed(walk)

    def _run_for(self, folder: str, only_look: bool = False) -> "_Run | None":
        """The run that is about to bring a folder. Counts those that no run brings, unless it is only to look."""
        for walk in list(self._walks.values()):
            if not folder.startswith(walk.base) or not folder:
                continue
            child = f"{folder.removeprefix(walk.base).partition('/')[0]}/"
            index = walk.children.index(child)
            if index is None:
                continue
            run = walk.run_of(index)
            if run and run.may_bring(folder) and (run.running or walk.given):
                return run
            if not only_look and (index >= walk.next or (run and not run.running)):
                self._miss(walk)
        return None

    def _miss(self, walk: "_Walk") -> None:
        """A folder was asked for that the walk would have brought, had it been right. Too many end it."""
        walk.missed += 1
        if walk.missed > _MOST_MISSED or not walk.given:
            walk.children.hopeless = not walk.given
            self._end(walk)
            self._discard(lambda found, run: run.walk is walk)

    def _feed(self, walk: "_Walk") -> None:
        """Sets as many runs going as the walk has earned and as there is room for."""
        if walk.over or self._closed:
            return
        for run in walk.runs:
            if not run.running and not run.over and self._running < _MOST_RUNS and self._may_go_on(run):
                self._start(run)
        names = walk.children.names
        while walk.next < len(names) and len(walk.runs) < walk.window and self._running < _MOST_RUNS:
            if self._entries_held > _MOST_HELD:
                return
            first, walk.next = walk.next, min(walk.next + walk.stride(), len(names))
            run = _Run(walk, first, walk.next)
            walk.runs.append(run)
            self._start(run)
        if walk.next >= len(names) and all(run.over for run in walk.runs):
            self._end(walk)

    def _may_go_on(self, run: "_Run") -> bool:
        """Whether a run may ask for its next page."""
        if run.over or run.walk.over or self._closed:
            return False
        if any(folder not in self._held for folder in run.waiting):
            return True
        return self._entries_held <= _MOST_HELD and (run.walk.given > 1 or run.pages == 0)

    def _end(self, walk: "_Walk") -> None:
        walk.over = True
        if self._walks.get(walk.parent) is walk:
            del self._walks[walk.parent]

    def _discard(self, unwanted: Callable[[_Found, "_Run"], bool]) -> None:
        for path in [path for path, held in self._held.items() if unwanted(*held)]:
            self._let_go(path)

    def _let_go(self, path: str) -> "tuple[_Found, _Run] | None":
        """What is held of a folder, which then is held no more."""
        held = self._held.pop(path, None)
        if held:
            self._entries_held -= held[0].size
            held[1].held -= 1
        return held

    # -- runs -------------------------------------------------------------------------------------------------

    def _start(self, run: "_Run") -> None:
        run.running = True
        self._running += 1
        threading.Thread(target=self._work, args=(run,), name="listing ahead", daemon=True).start()

    def _work(self, run: "_Run") -> None:
        """Lists a run, page after page, until it is whole or has to wait. A thread's whole life."""
        going = True
        try:
            while going:
                going = self._step(run)
        except EgofsError as failure:
            # Whoever asks for one of these folders hears from the store itself.
            _log.info("%s: listing ahead is given up: %s", run.walk.parent or "the root", failure)
        finally:
            with self._changed:
                run.running = False
                self._running -= 1
                if going:  # it failed
                    run.walk.children.hopeless = True
                    self._end(run.walk)
                for walk in list(self._walks.values()):
                    self._feed(walk)
                self._changed.notify_all()

    def _step(self, run: "_Run") -> bool:
        """Asks for a page and cuts it into folders. Gives whether the next may be asked for at once."""
        assert self._deep_page is not None
        asked_at = self._clock()
        page = self._deep_page(run.walk.parent, run.after)
        with self._changed:
            if run.over:
                return False
            limit = run.claim(page.objects[-1].key if page.objects else "")
        objects = page.objects[: bisect_left(page.objects, limit, key=_key)]
        complete = run.cutter.feed(objects, asked_at, run.pages)
        over = len(objects) < len(page.objects) or not page.more
        if over:
            complete += run.cutter.end()
        with self._changed:
            # At once: who finds a folder passed, and it is not held, asks the store.
            run.advance(objects, over)
            for folder in complete:
                self._hold(folder, run)
            self._changed.notify_all()
            return self._may_go_on(run)

    def _hold(self, folder: _Found, run: "_Run") -> None:
        if run.walk.over and not run.walk.given:
            return
        self._let_go(folder.path)
        self._held[folder.path] = folder, run
        self._entries_held += folder.size
        run.held += 1
        self._expire_later()

    def _expire_later(self) -> None:
        if self._expiry is None and not self._closed:
            self._expiry = threading.Timer(self.max_age_s, self._expire)
            self._expiry.daemon = True
            self._expiry.start()

    def _expire(self) -> None:
        """Lets go of what nobody came for, so that a walk that was given up costs no memory."""
        with self._changed:
            self._expiry = None
            oldest = self._clock() - self.max_age_s
            self._discard(lambda found, run: found.asked_at < oldest)
            for walk in list(self._walks.values()):
                if not any(run.running or run.held for run in walk.runs):
                    self._end(walk)
            if self._held:
                self._expire_later()


def _entries(folder: _Found) -> Iterator[Listed]:
    """A folder that was cut, as a source lists it."""
    for name in folder.folders:
        yield Listed(name, "dir")
    for obj in folder.files:
        yield Listed(obj.key.rpartition("/")[2], "file", obj)


def _begun(ask: Callable[[str, str], Page], folder: str, after: str) -> "Future[Page]":
    """The answer to come of a question that is asked by another thread."""
    coming: Future[Page] = Future()

    def answer() -> None:
        try:
            coming.set_result(ask(folder, after))
        except BaseException as failure:  # noqa: BLE001 - raised again where the answer is taken
            coming.set_exception(failure)

    threading.Thread(target=answer, name="next page", daemon=True).start()
    return coming


@dataclass(slots=True)
class _Children:
    """The child folders of a parent: names with a / behind, in the order of their keys."""

    names: list[str]
    last: int | None = None
    """Which was asked for last."""
    hopeless: bool = False
    """Listing them flat brought nothing that anybody asked for, or failed."""

    def index(self, name: str) -> int | None:
        at = bisect_left(self.names, name)
        return at if at < len(self.names) and self.names[at] == name else None


class _Walk:
    """Somebody's way through the children of a parent, from one of them on."""

    def __init__(self, parent: str, children: _Children, first: int) -> None:
        self.parent = parent
        self.base = f"{parent}/" if parent else ""
        self.children = children
        self.next = first  # the first child that no run has
        self.runs: list[_Run] = []  # those that are not whole, or wait to be asked for and have not been passed
        self.window = 1  # how many of them there may be
        self.given = 0  # listings of it that were asked for
        self.missed = 0  # folders that were asked for since and were not here
        self.over = False
        self.objects_seen = 0
        self.children_seen = 0

    def run_of(self, index: int) -> "_Run | None":
        """The run that a child is in, or may be when the first page of all has come."""
        ahead = index >= self.next and self.children_seen == 0
        return next(
            (run for run in self.runs if not run.over and (ahead or run.first <= index < run.stop)),
            None,
        )

    def stride(self) -> int:
        """How many children make a run; the first run has one and grows by what comes."""
        return max(1, _RUN_OBJECTS * self.children_seen // max(1, self.objects_seen)) if self.children_seen else 1


class _Run:
    """Some children of a walk, one after the other. `cutter` is its thread's, and `after` is changed by it alone."""

    def __init__(self, walk: _Walk, first: int, stop: int) -> None:
        self.walk = walk
        self.first, self.stop = first, stop
        self.cutter: Cutter[ObjectInfo] = Cutter(walk.base, _MOST_IN_FOLDER)
        # The first child is there, whatever stands in it: only its own marker is left out.
        self.after = walk.children.names[first]
        self.reached = walk.base + self.after
        self.open: list[tuple[str, int]] = []  # folders that are not whole, with the page in which they began
        self.filling = ""  # the innermost of them, if nothing but files has come of it
        self.skip_to = ""  # children up to this folder's are not wanted any more
        self.pages = 0
        self.waiting: list[str] = []  # folders that somebody waits for
        self.held = 0
        self.running = self.over = self.proven = False

    def may_bring(self, folder: str) -> bool:
        """Whether the folder is still to come, or under way."""
        return f"{folder}/" >= self.reached or any(path == folder for path, _ in self.open)

    def leave(self, folder: str) -> None:
        """Gives the child that a folder is in, or is, to another walk; what comes after it is another run."""
        self.over = True
        index = bisect_right(self.walk.children.names, f"{folder}/".removeprefix(self.walk.base))
        if index < self.stop:
            self.walk.runs.append(_Run(self.walk, index, self.stop))

    def claim(self, last: str) -> str:
        """Where the run ends, as a key, after it has taken what came of children that nobody has yet."""
        walk, names = self.walk, self.walk.children.names
        if self.stop == walk.next:
            walk.next = max(walk.next, bisect_right(names, last.removeprefix(walk.base)))
            self.stop = walk.next
        # "0" follows "/": after the last child nothing but files of the parent comes, a million maybe.
        return walk.base + (names[self.stop] if self.stop < len(names) else f"{names[-1][:-1]}0")

    def advance(self, objects: Sequence[ObjectInfo], over: bool) -> None:
        """Notes that a page has been cut, and where the next one begins."""
        if self.over:  # left meanwhile
            return
        walk, names, cutter = self.walk, self.walk.children.names, self.cutter
        self.pages += 1
        walk.objects_seen += len(objects)
        walk.children_seen += cutter.take_children()
        self.over = over
        if over:
            self.open, self.filling = [], ""
            return
        self.after = objects[-1].key.removeprefix(walk.base)
        at = bisect_right(names, self.after)
        if self.skip_to:
            child = f"{self.skip_to.removeprefix(walk.base).partition('/')[0]}/"
            if names[at - 1] < child:
                cutter.discard()
                at = bisect_right(names, child)
                self.after = names[at] if at < self.stop else ""
            self.skip_to = ""
        elif cutter.too_large:  # to its end: no key of a folder comes after this
            self.after = f"{cutter.too_large.removeprefix(walk.base)}/\U0010ffff"
        elif not cutter.open:  # among the parent's own files: on to its next child
            self.after = names[at] if at < self.stop else ""
        self.over = not self.after
        self.reached = walk.base + self.after
        self.open = [(part.path, part.page) for part in cutter.open if not part.too_large]
        self.filling = cutter.open[-1].path if cutter.open and not cutter.open[-1].folders else ""
