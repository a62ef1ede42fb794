"""Names for what stands in a folder of Google Drive: one each, and the same each time.

It hides that Drive has titles instead of names. A folder may hold several files of one title, and a file and a folder
of one; a title may be empty, have `/` or NUL in it, or more bytes than a name can have. Called by the Drive's source.
Pure logic: any thread may enter.

The rule: whatever was made first of its title, file or folder, has the title as its name, if that can be one. All
else gets the last eight characters of its id, `TITLE~k3J9-x_Q.mp4`, with `／` for `/` and `␀` for NUL in it. A name
does not depend on the order of a listing, nor does it change when something of the same title is added later; when the
first is taken away, the next takes its name. Eight characters of an id's end, since old ids begin alike.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

_MOST_BYTES = 255  # NAME_MAX of Linux
_ID_CHARACTERS = 8
# A longer suffix is no suffix, but a dot in a sentence.
_MOST_SUFFIX_BYTES = 16
_CANNOT_BE = str.maketrans({"/": "／", "\0": "␀"})  # as other tools for Drives write them


class Titled(Protocol):
    """What is to be named. `created` is a time as RFC 3339 has it, in UTC."""

    @property
    def id(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def created(self) -> str: ...


_T = TypeVar("_T", bound=Titled)


def named(items: Iterable[_T]) -> dict[str, _T]:
    """All of a folder by the names they are shown under. What has no name even with its whole id is left out."""
    by_age = sorted(items, key=lambda item: (item.created, item.id))
    found: dict[str, _T] = {}
    rest = [item for item in by_age if not can_be_name(item.title) or found.setdefault(item.title, item) is not item]
    for tell in (lambda item: item.id[-_ID_CHARACTERS:], lambda item: item.id):
        rest = _add(found, rest, tell)
    return found


def _add(found: dict[str, _T], items: list[_T], tell: Callable[[_T], str]) -> list[_T]:
    """Adds those whose names with a part of their ids are theirs alone; gives the others."""
    wishes = [(_marked(item.title, tell(item)), item) for item in items]
    names = [name for name, _ in wishes]
    alone = {name for name, count in Counter(names).items() if name not in found and count == 1}
    found |= {name: item for name, item in wishes if name in alone}
    return [item for name, item in wishes if name not in alone]


def can_be_name(title: str) -> bool:
    """Whether a title can be the name of a file."""
    return title not in ("", ".", "..") and not {"/", "\0"} & set(title) and 0 < _size(title) <= _MOST_BYTES


def _size(title: str) -> int:
    """In bytes; 0 for what has no encoding, as half of a surrogate pair has none."""
    try:
        return len(title.encode())
    except UnicodeEncodeError:
        return 0


def _marked(title: str, mark: str) -> str:
    text = title.translate(_CANNOT_BE).encode(errors="replace").decode()
    stem, suffix = os.path.splitext(text)
    if len(suffix.encode()) > _MOST_SUFFIX_BYTES:
        stem, suffix = text, ""
    tail = f"~{mark}{suffix}"
    room = _MOST_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail
