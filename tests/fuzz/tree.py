"""What must be true of names and of the tree that they become, whatever named them."""

import os
import posixpath
from collections.abc import Iterable

from vfs.catalog import Catalog, Entry
from vfs.datasets.plain import entry_of
from vfs.errors import NotFound
from vfs.node import Kind
from vfs.sources import Listed

_MOST_TESTED = 50


def check_listed(folder: str, listed: Listed) -> None:
    """A name that stands in a folder, by itself; a link of an archive stays within it."""
    assert listed.name not in ("", ".", ".."), "no name"
    assert "/" not in listed.name, "a path for a name"
    assert "\0" not in listed.name, "a name that the kernel would cut"
    if listed.object is not None:
        assert listed.object.size_bytes >= 0, "a size below nothing"
        assert listed.object.size_bytes < 1 << 63, "a size that stat cannot tell"
    if listed.kind == "link":
        there = posixpath.normpath(posixpath.join("/top", folder, listed.target))
        assert not listed.target.startswith("/"), "a link that begins at the root"
        assert there == "/top" or there.startswith("/top/"), "a link that leads out"


def check_catalog(found: Iterable[Listed | Entry]) -> None:
    """A catalog takes it as a folder: what is shown of it can be looked up, and nothing else is."""
    entries = [entry_of(each) if isinstance(each, Listed) else each for each in found]
    catalog = Catalog(None, "fuzz", lambda folder: iter(entries), 60.0)
    try:
        catalog.folder("")
        shown = [child[0] for child in catalog.children("")]
        assert shown == sorted(set(shown)), "names twice, or out of order"
        for name in shown[:_MOST_TESTED]:
            assert 0 < len(name) <= 255
            assert b"/" not in name
            assert b"\0" not in name
            assert name not in (b".", b"..")
            entry = catalog.entry("", os.fsdecode(name))
            assert (entry.object is not None) == (entry.kind is Kind.FILE)
        for entry in entries[:_MOST_TESTED]:
            try:
                catalog.entry("", entry.name)
            except (NotFound, UnicodeEncodeError):
                pass
    finally:
        catalog.close()
