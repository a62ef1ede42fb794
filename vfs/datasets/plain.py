"""Any tree, as its source has it; every video gets its frames.

Frames are numbered from 1 at the video's own rate with six digits, as ffmpeg's `%06d.jpg` makes them.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vfs.catalog import Entry
from vfs.datasets import Dataset
from vfs.errors import OptionError
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import option_group
from vfs.sources import Listed, Source
from vfs.video import VIDEO_SUFFIXES

_KINDS = {"file": Kind.FILE, "dir": Kind.DIRECTORY, "link": Kind.LINK}


@option_group
class Options:
    """A plain tree has no options."""


def default_source(options: Options, state: Path) -> str:
    """There is none."""
    raise OptionError("a plain tree needs its source: egofs mount s3://BUCKET/PREFIX DIR, or a local folder")


def open_dataset(source: Source, options: Options, state: Path) -> "PlainTree":
    """The source's tree as it is."""
    return PlainTree(source)


class PlainTree(Dataset):
    """The source's own folders and files."""

    name = "plain"
    # A bucket of one's own does change; five minutes is what people know from other mounts.
    listing_age_s = 300.0

    def __init__(self, source: Source) -> None:
        self.source = source

    def check(self) -> None:
        """Nothing can be wrong."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """The folder as the source lists it."""
        return map(entry_of, self.source.list(folder))

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """Every frame, from 1."""
        return FrameRule(fps=None, first=1, name="{number:06d}.jpg")

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """Names tell nothing here."""
        return {}


def entry_of(listed: Listed) -> Entry:
    """What a source lists, as an entry of the tree under its own name."""
    is_video = listed.kind != "dir" and has_video_suffix(listed.name)
    return Entry(listed.name, _KINDS[listed.kind], listed.object, listed.target, is_video)


def has_video_suffix(name: str) -> bool:
    """Whether a name is that of a video."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
