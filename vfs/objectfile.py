"""A stored object as an open file: `read(start, length)` over the cache.

Hides whether bytes come from memory, disk or the store. Called by tree nodes and by the video code. Any thread may
read at any time; a read blocks until its bytes are there.
"""

from collections.abc import Callable
from typing import TypeVar

from vfs.cache import ChunkCache
from vfs.errors import Changed, CorruptData, NotFound
from vfs.extent import Buffer, clip
from vfs.sources import ObjectInfo, Source

_T = TypeVar("_T")


class ObjectFile:
    """One version of one object. Without a cache (a local source) every read goes to the source."""

    def __init__(
        self, source: Source, cache: ChunkCache | None, obj: ObjectInfo, on_change: Callable[[], bool]
    ) -> None:
        """`on_change` is called when the store says that this version is gone, before Changed is raised, and, for an
        object without a version, when what came is not of this size: it says whether that is so."""
        self.size_bytes = obj.size_bytes
        self._source = source
        self._obj = obj
        self._cached = cache.object(source, obj) if cache is not None else None
        self._on_change = on_change

    def ready(self, start: int, length: int) -> Buffer | None:
        """The same as `read` where nothing has to be waited for, else None; the buffer is valid until the next call.

        Never blocks. For the event loop's thread alone, which calls `read` next where it got None.
        """
        if self._cached is None:
            return None
        length = clip(start, length, self.size_bytes)
        return self._cached.ready(start, length) if length else b""

    def read(self, start: int, length: int) -> Buffer:
        """Exactly the bytes of the range that stand before the end; b"" past it.

        Raises Changed where the store holds another version by now, and what else `Source.read` raises.
        """
        return self._read(start, length, isolated=False)

    def fetch(self, start: int, length: int) -> Buffer:
        """`read` of somebody who knows what comes next and fetches that too: nothing is fetched ahead for it."""
        return self._read(start, length, isolated=True)

    def _read(self, start: int, length: int, *, isolated: bool) -> Buffer:
        length = clip(start, length, self.size_bytes)
        if length == 0:
            return b""
        cached = self._cached
        if cached is None:
            return self._of_this_version(lambda: self._source.read(self._obj, start, length))
        return self._of_this_version(lambda: cached.read(start, length, isolated=isolated))

    def is_on_disk(self, start: int, length: int) -> bool:
        """Whether the range, within the object, needs no request, or will need none in a moment. Reads none of it."""
        return self._cached is None or self._cached.is_on_disk(start, length)

    def bring(self, start: int, length: int, is_wanted: Callable[[], bool]) -> int:
        """Has a range on disk (`ChunkCache.bring`), and gives how many bytes were fetched for it: none of a local
        source. Raises what `read` raises."""
        cached = self._cached
        return 0 if cached is None else self._of_this_version(lambda: cached.bring(start, length, is_wanted))

    def _of_this_version(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except (Changed, NotFound) as failure:
            self._on_change()
            # To somebody who has the file open, an object that is gone has changed.
            raise Changed(f"{failure}; open it again for what is there now") from failure
        except CorruptData as failure:
            if self._obj.version or not self._on_change():
                raise
            raise Changed(f"{failure}; it is another object than was told: open it again") from failure

    @property
    def owner(self) -> bytes:
        """Under what the cache has it; b"" where there is none."""
        return self._cached.owner if self._cached is not None else b""

    def plan(self, is_planned: Callable[[], bool]) -> None:
        """Who reads it here may be one of whom all is known, as long as this says so: what it finds at hand then says
        nothing of what it reads next. Never blocks."""
        if self._cached is not None:
            self._cached.is_planned = is_planned

    def prefetch(self, start: int, length: int) -> int:
        """Has a range at hand before its reader comes, and gives how many bytes were fetched for that; blocks. Of a
        local source nothing is. Raises what `read` raises."""
        length = clip(start, length, self.size_bytes)
        if self._cached is None or length == 0:
            return 0
        try:
            return self._cached.prefetch(start, length)
        except (Changed, NotFound):
            self._on_change()
            raise

    def forget(self) -> None:
        """Lets go of what is kept of it: it is not what the store has."""
        if self._cached is not None:
            self._cached.forget()

    def cached_bytes(self) -> int:
        """How many bytes need no request; all of them where the source is local."""
        return self.size_bytes if self._cached is None else self._cached.cached_bytes()

    def close(self) -> None:
        """Nothing is held open for one file."""
