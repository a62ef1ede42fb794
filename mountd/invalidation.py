"""`egofs invalidate` and SIGHUP, in the daemon: what is known of names is forgotten, here and in the kernel.

Bytes in the cache stay: they are of versions, and a version's bytes do not change. Called in threads that may block.
"""

from typing import TYPE_CHECKING, Any

from mountd.control import Call, Operation, texts
from vfs.mounted import MountedDataset

if TYPE_CHECKING:
    from vfs.ops import Operations


def forget(mounted: MountedDataset, operations: "Operations", path: str) -> int:
    """Has a path below the mount's root ("" is all of it), and all below it, asked of the store anew when it is next
    used; gives how many listings were forgotten. Raises SourceError where the catalog cannot be written."""
    listings = mounted.forget(path)
    # After the catalog, or the kernel could be told again what is forgotten.
    operations.forget_names(path)
    return listings


def operation(mounted: MountedDataset, operations: "Operations") -> Operation:
    """The control operation `invalidate`, with `paths`."""

    def invalidate(words: dict[str, Any], call: Call) -> dict[str, Any]:
        listings = 0
        for path in texts(words, "paths"):
            call.go_on()
            listings += forget(mounted, operations, path)
        return {"listings": listings}

    return invalidate
