"""Archives, as folders of a source that has one of them: each listed whole, and the beginning of each member read."""

from tests.fuzz.mutate import Mutator, plain, tars
from tests.fuzz.run import Target
from tests.fuzz.tree import check_listed
from tests.memorysource import MemorySource
from vfs.errors import EgofsError
from vfs.sources import ObjectInfo
from vfs.sources.archives import ArchiveSource

_MOST_ENTRIES = 300
_MOST_READ = 100_000


class _Walk:
    """Goes through a source's folders, so far as there are not too many."""

    def __init__(self, source: ArchiveSource) -> None:
        self._source = source
        self._left = _MOST_ENTRIES

    def folder(self, path: str) -> None:
        """All that is listed can be; each member gives what it says, or refuses."""
        names = set()
        for listed in self._source.list(path):
            self._left -= 1
            if self._left < 0:
                return
            check_listed(path.partition("/")[2], listed)
            assert listed.name not in names, "a name stands twice"
            names.add(listed.name)
            if listed.kind == "dir":
                self.folder(f"{path}/{listed.name}")
            elif listed.object is not None:
                self._read(listed.object)

    def _read(self, obj: ObjectInfo) -> None:
        size = obj.size_bytes
        for start in {0, size // 2}:
            length = min(_MOST_READ, size - start)
            if length > 0:
                try:
                    data = self._source.read(obj, start, length)
                except EgofsError:
                    continue
                assert len(data) == length, "fewer bytes than asked for"


def _target(suffix: str, mutate: Mutator) -> Target:
    def run(data: bytes) -> None:
        source = ArchiveSource(MemorySource({f"a{suffix}": data}), None)
        try:
            assert [listed.name for listed in source.list("")] == [f"a{suffix}", "a"]
            _Walk(source).folder("a")
        finally:
            source.close()

    return Target(suffix.strip(".").replace(".", ""), run, mutate)


TARGETS = (_target(".zip", plain), _target(".tar", tars), _target(".tar.gz", plain))
