"""The built-in demo: a small Assembly101-shaped tree made on the spot, with no account, network or server."""

from pathlib import Path

from vfs.datasets import assembly101
from vfs.datasets.assembly101 import Options
from vfs.sources import Source

__all__ = ["Options", "default_source", "open_dataset"]


def default_source(options: Options, state: Path) -> str:
    """The demo's tree below `state`, made (some seconds) when it is not there."""
    # Only here: it brings encoders that no other mount needs.
    from vfs.datasets import demo_tree

    return str(demo_tree.ensure(state / "demo"))


def open_dataset(source: Source, options: Options) -> assembly101.Assembly101:
    """Behaves as Assembly101 does."""
    return assembly101.Assembly101(source, options)
