"""Video as those who serve frames see it: the names below, each brought in when it is first asked for.

What stands behind them imports numpy, which a mount does not pay before it answers, and `egofs status` never. So a name
is taken from here as `video.Workers` and not imported by itself; whoever expects frames soon calls `load` from a thread
with time to spare. Codecs are imported in processes of their own (worker.py). Any thread may enter.
"""

import importlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfs.video.index import VideoIndex, dumps, loads
    from vfs.video.workers import Encoded, Footage, Workers

__all__ = ["VIDEO_SUFFIXES", "Encoded", "Footage", "VideoIndex", "Workers", "dumps", "load", "loads"]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi"}
    | {".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"}
)
"""Lower-case suffixes of the files that are taken for videos; what they are in truth, their first bytes say."""

_HOMES = {
    "Encoded": "workers",
    "Footage": "workers",
    "Workers": "workers",
    "VideoIndex": "table",
    "dumps": "stored",
    "loads": "stored",
}
# One thread imports at a time: a second one would see extension modules that are half there.
_loading = threading.Lock()


def load() -> None:
    """Imports everything that frames need; returns at once where that has been done."""
    with _loading:
        for name in _HOMES:
            _brought_in(name)


def _brought_in(name: str) -> object:
    """With the lock."""
    if name not in globals():
        globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return globals()[name]


def __getattr__(name: str) -> object:
    """A name of `_HOMES` that was not asked for before (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _loading:
        return _brought_in(name)
