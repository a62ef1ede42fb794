"""A source in memory: counts what it is asked for and fails on demand. A peer of the real ones, for tests."""

import threading
import time
from collections.abc import Callable, Iterator

from vfs.errors import Changed, NotFound
from vfs.sources import Listed, ObjectInfo


class MemorySource:
    """Objects by key; `reads` and `lists` are what was asked, in order."""

    remote = True

    def __init__(self, objects: dict[str, bytes], url: str = "memory://test") -> None:
        self.url = url
        self.objects = objects
        self.reads: list[tuple[str, int, int]] = []
        self.lists: list[str] = []
        self.before_read: Callable[[], None] = lambda: None
        self.before_list: Callable[[], None] = lambda: None
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
        return self.info(key)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        with self._lock:
            self.reads.append((obj.key, start, length))
        time.sleep(self.delay_s)
        self.before_read()
        if self.info(obj.key).version != obj.version:
            raise Changed(obj.key)
        return self.objects[obj.key][start : start + length]

    def close(self) -> None:
        pass
