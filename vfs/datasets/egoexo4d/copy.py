"""A copy of Ego-Exo4D as the official downloader writes it: its own folders, with what its JSON files add to them.

Called by the dataset. Filters go by the take or capture that a path belongs to, since a copy has no tags of entries.
Any thread may call; it blocks.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from vfs.catalog import Entry
from vfs.datasets.egoexo4d.filters import Filters, refuse_unknown, rejects
from vfs.datasets.egoexo4d.takes import BY, Recordings, Splits, canonical, links_by_meaning
from vfs.datasets.plain import entry_of
from vfs.documents import Documents
from vfs.errors import NotFound
from vfs.node import Kind
from vfs.sources import Source

_log = logging.getLogger(__name__)

_TAKES = "takes"
_METADATA = ("takes.json", "captures.json", "annotations/splits.json")
_ALIGNED = "/frame_aligned_videos"


@dataclass(frozen=True)
class _Told:
    """What the JSON files tell, and which versions of them."""

    versions: object
    recordings: Recordings
    splits: Splits


class Copy:
    """See the module's docstring."""

    def __init__(self, source: Source, documents: Documents, filters: Filters) -> None:
        self._source = source
        self._documents = documents
        self._filters = filters
        self._last: _Told | None = None

    def check(self) -> None:
        """Raises OptionError for a value that no take or capture has."""
        told = self._read()
        refuse_unknown("uids", self._filters.uids, told.recordings.by_uid.keys())
        refuse_unknown("benchmarks", self._filters.benchmarks, set().union(*told.splits.benchmarks.values()))
        refuse_unknown("splits", self._filters.splits, set().union(*told.splits.splits.values()))
        refuse_unknown("universities", self._filters.universities, told.recordings.universities)

    def entries(self, folder: str) -> Iterator[Entry]:
        """The source's folder, filtered, with canonical names and views by meaning."""
        told = self._last if self._last and folder else self._read()
        if folder.partition("/")[0] in BY:
            yield from self._by_meaning(told, folder)
            return
        aligned: set[str] | None = set() if _ALIGNED in folder else None
        for entry in map(entry_of, self._source.list(folder)):
            if not self._rejects(told, f"{folder}/{entry.name}" if folder else entry.name, entry):
                yield entry
                if aligned is not None and entry.is_video:
                    aligned.add(entry.name)
        if aligned and (take := told.recordings.of(folder)):
            yield from canonical(take.links, aligned)
        if folder == "" and told.recordings.takes:
            yield from (Entry(by, Kind.DIRECTORY) for by in BY)

    def _read(self) -> _Told:
        """The JSON files as they are now, parsed if they are others than before."""
        versions = self._documents.stat_all(_METADATA)
        if self._last is None or self._last.versions != versions:
            takes, captures, splits = self._documents.read_all(_METADATA).values()
            if takes is None:
                _log.warning("no takes.json stands in %s: nothing is filtered or named after it", self._source.url)
            self._last = _Told(versions, Recordings(takes, captures), Splits(splits))
        return self._last

    def _by_meaning(self, told: _Told, folder: str) -> Iterator[Entry]:
        there = set(self._takes_there())
        takes = (
            take
            for take in told.recordings.takes
            if take.name in there and not self._rejects(told, take.folder, Entry(take.name, Kind.DIRECTORY))
        )
        found = False
        seen = set()
        for place, link in links_by_meaning(takes, told.splits):
            by, _, value = place.partition("/")
            if place == folder:
                found = True
                yield link
            elif by == folder and value not in seen:
                seen.add(value)
                yield Entry(value, Kind.DIRECTORY)
        if not found and folder not in BY:
            raise NotFound(folder)

    def _takes_there(self) -> Iterator[str]:
        with suppress(NotFound):
            yield from (listed.name for listed in self._source.list(_TAKES))

    def _rejects(self, told: _Told, path: str, entry: Entry) -> bool:
        if not self._filters or (found := told.recordings.of(path)) is None:
            return False
        filters, splits = self._filters, told.splits
        if (
            rejects(filters.uids, (found.uid,))
            or rejects(filters.universities, (found.university,) if found.university else None)
            or rejects(filters.splits, splits.splits.get(found.uid))
            or rejects(filters.benchmarks, splits.benchmarks.get(found.uid))
        ):
            return True
        view = found.view_of(entry.name) if entry.kind is Kind.FILE else None
        return rejects(filters.views, (view,) if view else None)
