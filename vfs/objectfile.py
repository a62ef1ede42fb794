"""A stored object as an open file: `read(start, length)` over the cache.

Hides whether bytes come from memory, disk or the store. Called by tree nodes and by the video code. Any thread may
read at any time; a read blocks until its bytes are there.
"""

from collections.abc import Callable

from vfs.cache import ChunkCache
from vfs.errors import Changed, NotFound
from vfs.extent import clip
from vfs.sources import ObjectInfo, Source


class ObjectFile:
    """One version of one object. Without a cache (a local source) every read goes to the source."""

    def __init__(
        self, source: Source, cache: ChunkCache | None, obj: ObjectInfo, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called when the store says that this version is gone, before Changed is raised."""
        self.size_bytes = obj.size_bytes
        self._source = source
        self._cache = cache
        self._obj = obj
        self._on_change = on_change

    def read(self, start: int, length: int) -> bytes:
        """Exactly the bytes of the range that stand before the end; b"" past it.

        Raises Changed where the store holds another version by now, and what else `Source.read` raises.
        """
        length = clip(start, length, self.size_bytes)
        if length == 0:
            return b""
        try:
            if self._cache is None:
                return self._source.read(self._obj, start, length)
            return self._cache.read(self._source, self._obj, start, length)
        except (Changed, NotFound) as failure:
            self._on_change()
            # To somebody who has the file open, an object that is gone has changed.
            raise Changed(f"{failure}; open it again for what is there now") from failure

    def cached_bytes(self) -> int:
        """How many bytes need no request; all of them where the source is local."""
        if self._cache is None:
            return self.size_bytes
        return self._cache.cached_bytes(self._source, self._obj)

    def close(self) -> None:
        """Nothing is held open for one file."""
