"""A dataset for tests: a tree as its source has it, whose folder `links` has a link to a video of another folder, and
whose folder `clips` has parts of other folders' videos.

`PARTS` may be changed by a test; a mount in another process has those that stand here.
"""

from collections.abc import Iterator
from pathlib import Path

from vfs.catalog import Entry
from vfs.datasets import Part
from vfs.datasets.plain import Options, PlainTree, default_source
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.sources import Source

__all__ = ["PARTS", "Options", "Parts", "default_source", "open_dataset"]

PARTS = {
    "middle": Part("videos/whole.mp4", 10, 40),
    "end": Part("videos/whole.mp4", 50, 1000),
    "nothing": Part("videos/whole.mp4", 20, 20),
    "beyond": Part("videos/whole.mp4", 1000, 2000),
    "linked": Part("links/whole.mp4", 10, 40),
    "real": Part("videos/whole.mp4", 10, 40),
    "gone": Part("videos/gone.mp4", 10, 40),
    "nowhere": Part("no/such/folder.mp4", 10, 40),
}


def open_dataset(source: Source, options: Options, state: Path) -> "Parts":
    return Parts(source)


class Parts(PlainTree):
    name = "parts"

    def entries(self, folder: str) -> Iterator[Entry]:
        yield from super().entries(folder)
        if folder == "links":
            yield Entry("whole.mp4", Kind.LINK, target="../videos/whole.mp4", is_video=True)

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        return FrameRule(None, 0, "{view}_{number:07d}.jpg", also=("{number}.jpeg", "{number:06d}.jpg"))

    def has_parts(self, folder: str) -> bool:
        return folder == "clips"

    def parts(self, folder: str) -> Iterator[str]:
        return iter(PARTS)

    def part(self, folder: str, view: str) -> Part | None:
        return PARTS.get(view)
