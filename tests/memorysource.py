"""A source in memory: counts what it is asked for and fails on demand. A peer of the real ones, for tests."""

import itertools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator

from vfs.errors import Changed, CorruptData, NotFound
from vfs.sources import DeepPage, Listed, ObjectInfo, Page, by_pages


class MemorySource:
    """Objects by key; `reads`, `lists` and `stats` are what was asked, in order."""

    remote = True

    def __init__(self, objects: dict[str, bytes], url: str = "memory://test") -> None:
        self.url = url
        self.objects = objects
        self.reads: list[tuple[str, int, int]] = []
        self.lists: list[str] = []
        self.stats: list[str] = []
        self.before_read: Callable[[], None] = lambda: None
        self.before_list: Callable[[], None] = lambda: None
        self.before_stat: Callable[[str], None] = lambda key: None
        self.delay_s = 0.0
        self._lock = threading.Lock()

    def info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(key)
        data = self.objects[key]
        return ObjectInfo(key, len(data), 1_600_000_000_000_000_000, f"{hash(data):x}")

    def list(self, folder: str) -> Iterator[Listed]:
        with self._lock:
            self.lists.append(folder)
        self.before_list()
        prefix = f"{folder}/" if folder else ""
        below = [key.removeprefix(prefix) for key in self.objects if key.startswith(prefix)]
        if folder and not below:
            raise NotFound(folder)
        for name in dict.fromkeys(rest.split("/")[0] for rest in below if "/" in rest):
            yield Listed(name, "dir")
        for rest in below:
            if "/" not in rest:
                yield Listed(rest, "file", self.info(prefix + rest))

    def stat(self, key: str) -> ObjectInfo:
        with self._lock:
            self.stats.append(key)
        self.before_stat(key)
        return self.info(key)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        with self._lock:
            self.reads.append((obj.key, start, length))
        time.sleep(self.delay_s)
        self.before_read()
        now = self.info(obj.key)
        if obj.version and now.version != obj.version:
            raise Changed(obj.key)
        if now.size_bytes != obj.size_bytes:
            raise CorruptData(f"{obj.key}: it came from an object of {now.size_bytes} bytes")
        return self.objects[obj.key][start : start + length]

    def close(self) -> None:
        pass


class MemoryBucket(MemorySource):
    """Objects under any keys at all, listed as S3 does; `lists` holds folders, `pages` and `deeps` each request."""

    def __init__(self, objects: dict[str, bytes], page_size: int = 1000) -> None:
        super().__init__(objects, "memory://bucket")
        self.page_size = page_size
        self.pages: list[tuple[str, str]] = []
        self.deeps: list[tuple[str, str]] = []
        self.before_deep: Callable[[str, str], None] = lambda folder, after: None
        self._keys = sorted(objects, key=str.encode)

    def list(self, folder: str) -> Iterator[Listed]:
        return by_pages(folder, self.page)

    def page(self, folder: str, after: str) -> Page:
        with self._lock:
            self.pages.append((folder, after))
            if not after:
                self.lists.append(folder)
        self.before_list()
        prefix = f"{folder}/" if folder else ""
        found = {prefix + rest.partition("/")[0] + rest.partition("/")[1]: rest for rest in self._below(prefix, "")}
        if prefix and not found:
            raise NotFound(folder)
        names = [name for name in found if name > after]
        shown = names[: self.page_size]
        listed = [
            Listed(name.removeprefix(prefix).removesuffix("/"), "dir")
            if name.endswith("/")
            else Listed(name.removeprefix(prefix), "file", self.info(name))
            for name in shown
            if name != prefix and name != f"{prefix}/"
        ]
        return Page(listed, shown[-1] if len(names) > len(shown) else "")

    def deep_page(self, folder: str, after: str) -> DeepPage:
        with self._lock:
            self.deeps.append((folder, after))
        self.before_deep(folder, after)
        prefix = f"{folder}/" if folder else ""
        found = self._below(prefix, after)
        return DeepPage(
            [self.info(prefix + rest) for rest in found[: self.page_size]], more=len(found) > self.page_size
        )

    def _below(self, prefix: str, after: str) -> "list[str]":
        """What follows the prefix in the keys that have it and come after another."""
        first = bisect_left(self._keys, prefix + after)
        below = itertools.takewhile(lambda key: key.startswith(prefix), itertools.islice(self._keys, first, None))
        return [key.removeprefix(prefix) for key in below if key > prefix + after or not after]
