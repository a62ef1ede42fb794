"""Datasets: what a dataset is, and how one is found by its name.

A dataset says what the mounted tree looks like: which entries stand in a folder, with canonical names beside the
remote's own, how frames are numbered, and what is known of a file. Entries are asked for a folder at a time, may
come straight from a source or be made from manifests, and are remembered by the catalog: a dataset keeps nothing
but what it parsed, and can do without. Each is one module (or package) here, found by its name (`-` is written `_`),
which defines

    class Options                                            its mount options, an option group (vfs.options)
    def default_source(options, state: Path) -> str          the source's URL when the person names none;
                                                             raises OptionError if there has to be one
    STORE: str                                               if that is always of one store: its scheme
    def open_dataset(source: Source, options, state: Path) -> Dataset
                                                             `state`: a folder for what it parsed, which need not be
                                                             there, nor be writable

A dataset may have a `source` of its own, around the one that it was given: then that is what its objects are read from.

Any thread may call any method of a dataset.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Protocol

from vfs.catalog import Entry, Tree
from vfs.errors import OptionError
from vfs.frames import FrameRule

_NOT_DATASETS = {"demo_tree", "lookalike"}


@dataclass(frozen=True, slots=True)
class Part:
    """Frames [start, stop) of the video at `path` of the mounted tree, which may be a link to it; 0 <= start.

    Or those of the seconds [start_s, stop_s), counted from the first frame shown; where these are given, they count.
    """

    path: str
    start: int = 0
    stop: int | None = None
    start_s: Fraction | None = None
    stop_s: Fraction | None = None


class Dataset(Protocol):
    """What a source holds, as a tree; see the module's docstring. Datasets inherit from it what is given here."""

    name: str

    listing_age_s: float
    """How long a listing of a remote source is believed: long for datasets that never change."""

    selection: tuple[str, ...] = ()
    """What files that options name say: the tree depends on it as it does on the options themselves."""

    sizes_ahead: bool = True
    """Whether sizes that are not known may be asked for before anyone wants them; not where a stat makes the object."""

    parts_first: bool = False
    """Whether a part goes before the video of its name, so that looking at frames asks nothing of that video."""

    def check(self) -> None:
        """Called once at mount: raises OptionError for an option's value that matches nothing in the dataset."""
        ...

    def entries(self, folder: str) -> Iterator[Entry] | Tree:
        """What stands in a folder of the mounted tree ("" is the root), or all that stands in any folder, where one
        cannot be known without the others. Raises NotFound and the source's errors."""
        ...

    def unpack(self, pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
        """What a Tree has Packed of a folder, with all pieces of it: entries with folders below that one ("" is that
        one). The pieces may be those of an earlier release; asks nothing of any store."""
        return iter(())

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """How the frames of the video that is shown as `view` in `folder` are numbered and named."""
        ...

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """What the name of a file tells, for extended attributes `user.egofs.<key>`; asks nothing of any store."""
        ...

    def has_parts(self, folder: str) -> bool:
        """Whether `frames` of a folder may have parts of other folders' videos beside its own; asks nothing of any
        store."""
        return False

    def parts(self, folder: str) -> Iterator[str]:
        """The names under which a folder's `frames` has parts of videos, beside those of its own videos. A video of the
        folder itself hides the part of its name (but for `parts_first`), and a part whose video is not there is not
        shown."""
        return iter(())

    def part(self, folder: str, view: str) -> Part | None:
        """The part of that name, None if there is none."""
        return None

    def missing(self) -> Iterator[tuple[str, str]]:
        """(name, reason) of what the dataset should have and has not, as far as that is known. May block for long."""
        return iter(())


@functools.cache
def names() -> Sequence[str]:
    """The datasets there are."""
    return tuple(sorted({m.name for m in pkgutil.iter_modules(__path__)} - _NOT_DATASETS))


def module_for(name: str) -> ModuleType:
    """The dataset's module. Raises OptionError naming the datasets there are."""
    module = name.replace("-", "_")
    if module not in names():
        known = ", ".join(n.replace("_", "-") for n in names())
        raise OptionError(f"no dataset is called {name!r}: there are {known}")
    return importlib.import_module(f"{__name__}.{module}")
