"""The built-in demo: a small Assembly101-shaped tree made on the spot, with no account, network or server."""

from pathlib import Path

from vfs.datasets import assembly101
from vfs.datasets.assembly101 import Options
from vfs.sources import Source

__all__ = ["Options", "default_source", "open_dataset"]

# As demo_tree names the tree of its VERSION. Said here too, and held equal by a test, because that module brings
# encoders which a tree that is there does not need.
TREE = "demo-v1"


def default_source(options: Options, state: Path) -> str:
    """The demo's tree below `state`, made (some seconds) when it is not there."""
    root = state / "demo" / TREE
    if not root.is_dir():
        from vfs.datasets import demo_tree

        root = demo_tree.ensure(state / "demo")
    return str(root)


def open_dataset(source: Source, options: Options, state: Path) -> assembly101.Assembly101:
    """Behaves as Assembly101 does."""
    return assembly101.Assembly101(source, options)
