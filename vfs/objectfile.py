"""A stored object as an open file: `read(start, length)` over the cache.

Hides whether bytes come from memory, disk or the store. Called by tree nodes and by the video code. Any thread may
read at any time; a read blocks until its bytes are there.
"""

from collections.abc import Callable

from vfs.cache import ChunkCache
from vfs.errors import Changed, CorruptData, NotFound
from vfs.extent import Buffer, clip
from vfs.sources import ObjectInfo, Source


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
        try:
            if self._cached is None:
                return self._source.read(self._obj, start, length)
            return self._cached.read(start, length, isolated=isolated)
        except (Changed, NotFound) as failure:
            self._on_change()
            # To somebody who has the file open, an object that is gone has changed.
            raise Changed(f"{failure}; open it again for what is there now") from failure
        except CorruptData as failure:
            if self._obj.version or not self._on_change():
                raise
            raise Changed(f"{failure}; it is another object than was told: open it again") from failure

    def forget(self) -> None:
        """Lets go of what is kept of it: it is not what the store has."""
        if self._cached is not None:
            self._cached.forget()

    def cached_bytes(self) -> int:
        """How many bytes need no request; all of them where the source is local."""
        return self.size_bytes if self._cached is None else self._cached.cached_bytes()

    def close(self) -> None:
        """Nothing is held open for one file."""
