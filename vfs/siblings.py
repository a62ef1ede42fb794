"""Small files that are opened in the order of their names: which to fetch next. Pure logic, no I/O.

Readahead within a file does nothing for ten thousand files of 20 KB, where each costs the wait for a first byte. So
whoever opens several files of a folder in turn (cp, tar, a loader over an image folder, alone or sixteen side by side)
has the next ones fetched. Who opens them at random (a loader that shuffles) has the rest of a small folder fetched once
an eighth of it was opened, and nothing of a large one.

Called by mounted.py at every opening. Any thread may enter; `_lock` is over all that is kept, and nothing blocks.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from vfs.sources import ObjectInfo

# Openings among the names that follow another one, before anything is fetched ahead.
_PROOF = 4
# Names that are looked at after one that was opened: more than loaders have workers.
_NEAR = 32
# Names passed that are still known, for those who open them late; and openings elsewhere before a walk is given up.
_BEHIND = 256
_ASTRAY = 16
_MOST_FILES = 96
_MOST_BYTES = 16 << 20
# A folder of up to so many files and bytes is fetched whole once this share of it was opened in no order: what is
# fetched for nothing is at most seven times what was read, and no more than so much.
_WHOLE_FILES = 256
_WHOLE_BYTES = 16 << 20
_WHOLE_SHARE = 8
# Names of one folder that are kept in order, and folders.
_MOST_NAMES = 1024
_MOST_FOLDERS = 512


@dataclass(slots=True)
class _Walk:
    """Who opens files of one folder in turn. Invariant: opened <= fetched <= len(objects), unless nothing is proven.

    `astray` counts openings elsewhere since the last one here; after more than `patience` of them it is given up.
    """

    objects: list[ObjectInfo] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)
    proof: int = 0
    astray: int = 0
    patience: int = 0
    opened: int = 0
    fetched: int = 0
    is_asking: bool = False
    is_whole: bool = False


@dataclass(slots=True)
class _Folder:
    """A folder of which files were opened: who walks through it, and what was opened until that is known to matter."""

    walk: _Walk = field(default_factory=_Walk)
    strays: int = 0
    opened: set[str] = field(default_factory=set)
    ask_at: int = 2 * _PROOF
    is_decided: bool = False
    """Whether all of it was fetched, or is never going to be."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which objects follow this one in its folder (None: which are there)? `Siblings.answer` takes up to so many."""

    folder: str
    key: str | None
    count: int


class Siblings:
    """All walks of a mount."""

    def __init__(self, largest_bytes: int) -> None:
        """Objects larger than this are never fetched ahead."""
        self._largest_bytes = largest_bytes
        self._lock = threading.Lock()
        self._folders: OrderedDict[str, _Folder] = OrderedDict()

    def opened(self, folder: str, obj: ObjectInfo) -> Question | None:
        """Notes an opening. What is to be found out now, if anything, away from the caller's thread."""
        if obj.size_bytes > self._largest_bytes:
            return None
        with self._lock:
            known = self._folders.setdefault(folder, _Folder())
            self._folders.move_to_end(folder)
            while len(self._folders) > _MOST_FOLDERS:
                self._folders.popitem(last=False)
            return self._in_turn(folder, known, obj) or self._at_random(folder, known, obj)

    def _in_turn(self, folder: str, known: _Folder, obj: ObjectInfo) -> Question | None:
        walk = known.walk
        number = walk.place.get(obj.key)
        if number is not None:
            walk.opened = max(walk.opened, number)
            walk.proof += 1
            walk.astray = 0
            return self._question(folder, walk)
        known.strays += 1
        walk.astray += 1
        if walk.is_asking or walk.astray <= (_ASTRAY if walk.proof >= _PROOF else walk.patience):
            return None
        # Each question costs as much as an opening: who opens at random is asked about ever more rarely.
        patience = min(_ASTRAY, 2 * walk.patience + 1)
        known.walk = _Walk([obj], {obj.key: 0}, patience=patience, is_asking=True)
        return Question(folder, obj.key, _NEAR)

    @staticmethod
    def _at_random(folder: str, known: _Folder, obj: ObjectInfo) -> Question | None:
        if known.is_decided:
            return None
        known.opened.add(obj.key)
        if known.strays < _PROOF or len(known.opened) < known.ask_at:
            return None
        known.ask_at = 2 * len(known.opened)
        return Question(folder, None, _WHOLE_FILES + 1)

    def _question(self, folder: str, walk: _Walk) -> Question | None:
        window = self._window(walk)
        is_known = walk.is_whole or len(walk.objects) - walk.opened > window
        is_fetched = walk.fetched == len(walk.objects) if walk.is_whole else walk.fetched - walk.opened > window // 2
        if walk.is_asking or walk.proof < _PROOF or (is_known and is_fetched):
            return None
        walk.is_asking = True
        return Question(folder, walk.objects[-1].key, 0 if is_known else _MOST_FILES)

    def answer(self, question: Question, following: list[ObjectInfo]) -> list[ObjectInfo]:
        """The objects to fetch now, given those that follow (fewer than asked for at the folder's end)."""
        with self._lock:
            known = self._folders.get(question.folder)
            if known is None:
                return []
            if question.key is None:
                return self._rest(known, following)
            walk = known.walk
            if not walk.is_asking:
                return []
            walk.is_asking = False
            walk.is_whole = walk.is_whole or len(following) < question.count
            for obj in following:
                walk.place[obj.key] = len(walk.objects)
                walk.objects.append(obj)
            if walk.proof < _PROOF:
                return []
            due = self._due(walk)
            if len(walk.objects) > _MOST_NAMES:
                self._shorten(walk)
            return due

    def _rest(self, known: _Folder, files: list[ObjectInfo]) -> list[ObjectInfo]:
        """What was not opened yet of a folder that is to be fetched whole."""
        small = [obj for obj in files if self._is_small(obj)]
        if len(files) > _WHOLE_FILES or sum(obj.size_bytes for obj in small) > _WHOLE_BYTES:
            small = []
        elif len(known.opened) * _WHOLE_SHARE < len(files):
            known.ask_at = -(-len(files) // _WHOLE_SHARE)
            return []
        due = [obj for obj in small if obj.key not in known.opened]
        known.is_decided, known.opened = True, set()
        return due

    @staticmethod
    def _window(walk: _Walk) -> int:
        return min(_MOST_FILES, 4 * walk.proof)

    def _due(self, walk: _Walk) -> list[ObjectInfo]:
        walk.fetched = max(walk.fetched, walk.opened + 1)
        ahead = sum(obj.size_bytes for obj in walk.objects[walk.opened + 1 : walk.fetched] if self._is_small(obj))
        due = []
        for obj in walk.objects[walk.fetched : walk.opened + 1 + self._window(walk)]:
            ahead += obj.size_bytes if self._is_small(obj) else 0
            if ahead > _MOST_BYTES:
                break
            walk.fetched += 1
            if self._is_small(obj):
                due.append(obj)
        return due

    def _is_small(self, obj: ObjectInfo) -> bool:
        return obj.size_bytes <= self._largest_bytes

    @staticmethod
    def _shorten(walk: _Walk) -> None:
        """Forgets names long passed; those opened a little out of turn are still known."""
        gone = max(0, walk.opened - _BEHIND)
        walk.objects = walk.objects[gone:]
        walk.place = {obj.key: number for number, obj in enumerate(walk.objects)}
        walk.opened -= gone
        walk.fetched -= gone
