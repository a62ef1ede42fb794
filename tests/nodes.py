"""A mounted dataset walked through its nodes: no kernel between."""

import os

import simplejpeg

from vfs.mounted import MountedDataset
from vfs.node import Directory, File, Link, Node, NotAtHand
from vfs.video import stamp


class Nodes:
    """The tree of a mounted dataset, by path."""

    def __init__(self, mounted: MountedDataset) -> None:
        self.mounted = mounted

    def __truediv__(self, path: str) -> Node:
        node: Node = self.mounted.root
        for name in path.split("/"):
            assert isinstance(node, Directory)
            try:
                node = (node.at_hand() or node).lookup(name)
            except NotAtHand:
                node = node.lookup(name)
        return node

    def listed(self, path: str) -> list[str]:
        folder = self / path if path else self.mounted.root
        assert isinstance(folder, Directory)
        return [os.fsdecode(child[0]) for child in folder.children()]

    def read(self, path: str) -> bytes:
        file = self / path
        assert isinstance(file, File)
        reader = file.open()
        try:
            return bytes(reader.read(0, file.attributes.size_bytes))
        finally:
            reader.close()

    def target(self, path: str) -> str:
        link = self / path
        assert isinstance(link, Link)
        return link.target()

    def number(self, path: str) -> int:
        """The number that is drawn into a picture."""
        return stamp.read(simplejpeg.decode_jpeg(self.read(path)))

    @property
    def made(self) -> int:
        return self.mounted.shelf.frames_made
