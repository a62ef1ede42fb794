"""Stores of objects: what a source is, and how one is found by its URL.

A source lists, stats and reads a byte range of one version of one object. It hides its SDK, its credentials
and its errors: callers see only the types below and vfs.errors. It does not retry (retry.py does, for all).
Each store is one module here, found by its URL's scheme (`s3://` is s3.py; a path without a scheme is local.py),
which defines

    class Options                                             its mount options, an option group (vfs.options)
    def open_source(url: str, options: Options) -> Source     raises OptionError for a URL it cannot use
    ALONE: str                                                if need be: why its bare scheme is no plain tree, and what
                                                              to say instead
    def credentials(url: str, options: Options) -> Credentials
                                                              if it is asked with any; asks the store nothing
    def address(url: str, options: Options) -> str            if it is on a network: the server that is asked first, by
                                                              its URL; asks nothing either

Any thread may call any method of a source at any time; every method blocks, and ends within its deadline.

A store that lists by requests also has `page` (Paged), so that one page can be asked for again by itself; one that can
list all that stands below a folder at once has `deep_page` (Deep). One that knows checksums of whole objects has
`checksum` (Checked), which a wrapper has in any case. A wrapper looks once, when it is made, with
isinstance; what wraps a source has these where the source has them.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, runtime_checkable

from vfs.digests import Checksum
from vfs.errors import AccessDenied, CorruptData, OptionError
from vfs.tokenfile import TokenFile

UNKNOWN_SIZE = -1
"""The size of an object that something else than the store names, and that the store has not been asked for yet. Only
folders' entries have such objects: whoever wants one asks for it first."""

_NOT_STORES = {"ahead", "archives", "retry"}
_SCHEME_ALIASES = {"": "local", "file": "local", "https": "http"}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of one object.

    `key` is its name in the source, with / between folders and none in front. `version` is opaque (an ETag, a
    revision): two equal versions mean equal bytes. `mtime_ns` is 0 where a store does not know it.
    """

    key: str
    size_bytes: int
    mtime_ns: int
    version: str

    @property
    def identity(self) -> str:
        """Names this version within its source. Size and mtime stand in for the version of stores that have none."""
        return f"{self.key}\0{self.version or f'mtime-{self.mtime_ns}'}\0{self.size_bytes}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A name in a folder of a source: a file with its object, a folder, or a link with its target."""

    name: str
    kind: Literal["file", "dir", "link"]
    object: ObjectInfo | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a folder's listing. `after` is where the next one begins, opaque; "" at the end."""

    listed: Sequence[Listed]
    after: str


@dataclass(frozen=True, slots=True)
class DeepPage:
    """Objects below a folder, at any depth, in the order of their keys' bytes (which is that of Python's strings).

    Keys are as the store has them: one that ends in / marks a folder, one with // in it stands in a folder without a
    name, and neither can be opened. `more`: objects stand after the last of these, of which there is at least one.
    """

    objects: Sequence[ObjectInfo]
    more: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """With what a store would be asked, told without asking it; no secret stands in it."""

    what: str
    """Such as "keys of profile 'ego4d'"."""
    where: str = ""
    """What they were found in: a file, variables, the machine's role; "" where there are none."""
    file: Path | None = None
    """The file with the secret, if it is in one."""
    is_dated: bool = False
    """Whether the file is as old as the keys in it: nobody writes it but who puts keys there."""
    until: float = 0.0
    """When they end, in seconds of the epoch; 0 where nobody knows."""
    missing: str = ""
    """Why there are none, or none that can be used, and what to do; "" where there are, or none are needed."""


def token_in(file: Path) -> Credentials:
    """A token's file, and whether there is one in it."""
    try:
        TokenFile(file).read()
    except AccessDenied as failure:
        return Credentials("a token", missing=str(failure))
    return Credentials("a token", str(file), file)


class Source(Protocol):
    """A store of objects; see the module's docstring for the contract."""

    url: str
    """Identity of the store and of the place in it: part of every cache key, so equal URLs must mean equal objects."""

    remote: bool
    """Whether reading costs a network: bytes of a remote source are kept on disk, those of a local one are not."""

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder ("" is the root; no / at either end), in any order, as it comes.

        Asks when the first name is taken, and for more when more are: a folder of millions is never held whole.
        Raises NotFound where there is no such folder, AccessDenied, Timeout, Throttled, Unavailable.
        A folder that a store does not record but that objects stand below counts as there.
        """
        ...

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now. Raises NotFound and the errors of `list`."""
        ...

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` of this version; the range lies within the object and is not empty.

        Raises Changed where the store holds another version now, NotFound where it holds none, CorruptData where
        the answer is short, long or of another range, and the errors of `list`.
        """
        ...

    def close(self) -> None:
        """Ends connections; the source is not used afterwards."""
        ...


@runtime_checkable
class Renewable(Protocol):
    """A source that holds something of what it was told."""

    def renew(self) -> None:
        """Forgets listings that wait to be asked for, and credentials: both are looked at anew when they are next
        needed. Asks nothing by itself. What is under way goes on as it began."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A source that may know checksums."""

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What is known of the bytes of this version, None for nothing. May ask the store. Raises the errors of
        `Source.read`."""
        ...


@runtime_checkable
class Paged(Protocol):
    """What a source has that lists by requests."""

    def page(self, folder: str, after: str) -> Page:
        """The part of `list(folder)` that one request gives: the first for "", and that after `Page.after` of another.

        No name stands in two pages. Raises the errors of `list`.
        """
        ...


@runtime_checkable
class Deep(Paged, Protocol):
    """What a source has that lists whole trees."""

    def deep_page(self, folder: str, after: str) -> DeepPage:
        """One request for the objects below a folder whose keys come after `folder`/`after`; "" is the beginning.

        `after` need not be the key of any object, so that several callers can begin at places of their own. A folder
        that is not there has no objects. Raises the errors of `list` but NotFound.
        """
        ...


@runtime_checkable
class Admitted(Protocol):
    """What a source has that a store admits by credentials, and that can tell whose they are."""

    def whose(self) -> str:
        """As whom the store is asked, for a person to find them: never a key. Asks nothing of the store."""
        ...


def checksum_of(source: Source, obj: ObjectInfo) -> Checksum | None:
    """What any source knows of the bytes of this version. Raises the errors of `Source.read`."""
    return source.checksum(obj) if isinstance(source, Checked) else None


def by_pages(folder: str, page: Callable[[str, str], Page]) -> Iterator[Listed]:
    """What all pages of a folder list, each asked for when the one before it has been taken."""
    after = ""
    while True:
        part = page(folder, after)
        yield from part.listed
        if not part.after:
            return
        after = following(folder, after, part)


def following(folder: str, after: str, part: Page) -> str:
    """Where the page after this one begins. Raises CorruptData for one that would be the same again."""
    if part.after == after:
        raise CorruptData(f"list {folder!r}: the store says there is more, and gives the same page again")
    return part.after


@functools.cache
def names() -> Sequence[str]:
    """The stores there are, by scheme."""
    found = {module.name for module in pkgutil.iter_modules(__path__)} - _NOT_STORES
    return tuple(sorted(found))


def module_for(url: str) -> ModuleType:
    """The store's module for a URL. Raises OptionError naming the schemes there are."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    name = _SCHEME_ALIASES.get(scheme, scheme)
    if name not in names():
        known = ", ".join(f"{n}://" for n in names() if n != "local")
        raise OptionError(f"no store is known for {url!r}: use {known}, or a local folder")
    return importlib.import_module(f"{__name__}.{name}")
