"""Stores of objects: what a source is, and how one is found by its URL.

A source lists, stats and reads a byte range of one version of one object. It hides its SDK, its credentials
and its errors: callers see only the types below and vfs.errors. It does not retry (retry.py does, for all).
Each store is one module here, found by its URL's scheme (`s3://` is s3.py; a path without a scheme is local.py),
which defines

    class Options(pydantic.BaseModel)                         its mount options, frozen, extra="forbid"
    def open_source(url: str, options: Options) -> Source     raises OptionError for a URL it cannot use

Any thread may call any method of a source at any time; every method blocks, and ends within its deadline.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Protocol

from vfs.errors import OptionError

_NOT_STORES = {"retry"}
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


class Source(Protocol):
    """A store of objects; see the module's docstring for the contract."""

    url: str
    """Identity of the store and of the place in it: part of every cache key, so equal URLs must mean equal objects."""

    remote: bool
    """Whether reading costs a network: bytes of a remote source are kept on disk, those of a local one are not."""

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder ("" is the root; no / at either end), in any order.

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


def names() -> list[str]:
    """The stores there are, by scheme."""
    found = {module.name for module in pkgutil.iter_modules(__path__)} - _NOT_STORES
    return sorted(found)


def module_for(url: str) -> ModuleType:
    """The store's module for a URL. Raises OptionError naming the schemes there are."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    name = _SCHEME_ALIASES.get(scheme, scheme)
    if name not in names():
        known = ", ".join(f"{n}://" for n in names() if n != "local")
        raise OptionError(f"no store is known for {url!r}: use {known}, or a local folder")
    return importlib.import_module(f"{__name__}.{name}")
