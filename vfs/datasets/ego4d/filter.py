"""Which of Ego4D's datasets and files are wanted: the options, compared with manifests.

Called by the dataset and by places.py; asks nothing of any store but by what it is given. Any thread may call.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import TypeVar

from vfs.datasets.ego4d.manifest import Facts, Manifest, Row
from vfs.errors import OptionError

log = logging.getLogger(__name__)
_A = TypeVar("_A")
_B = TypeVar("_B")

VIDEOS = ("full_scale", "video_540ss", "clips", "components/videos", "clips_540ss", "clip_256ss")
"""Datasets of videos, which by-university and the others lead to."""

SPELT = {name.lower(): name for name in ("AV", "EM", "FHO", "MQ", "NLQ", "VQ", "goalstep")}
"""Benchmarks as they are written; compared are they in lower case."""

_REQUESTS = 16


class Filter:
    """Which datasets and rows are wanted; everything where nothing is said. All values are in lower case."""

    def __init__(
        self, datasets: Iterable[str], benchmarks: Iterable[str], universities: Iterable[str], uids: Iterable[str]
    ) -> None:
        self.datasets = frozenset(datasets)
        self.benchmarks = frozenset(benchmarks)
        self.universities = frozenset(universities)
        self.uids = frozenset(uids)
        self._said: set[str] = set()

    @property
    def chooses_rows(self) -> bool:
        """Whether a dataset may be shown in part."""
        return bool(self.benchmarks or self.universities or self.uids)

    def has_folder(self, path: str) -> bool:
        """Whether a folder is a wanted dataset, or within one, or leads to one."""
        return not self.datasets or any(
            f"{name}/".startswith(f"{path}/") or path.startswith(f"{name}/") for name in self.datasets
        )

    def rows(self, dataset: str, manifest: Manifest, facts: Callable[[], Facts | None]) -> list[Row]:
        """The rows of a dataset that are wanted; `facts` is asked where it is a clip's parent that matters."""
        benchmarks = self.benchmarks if manifest.has_benchmarks else frozenset()
        if self.benchmarks and manifest.rows and not manifest.has_benchmarks:
            self._say(f"{dataset}: its manifest tells no benchmarks, so that all of it is shown")
        known = facts() if self.uids and "clip" in dataset else None
        kept = [
            row
            for row in manifest.rows
            if (not benchmarks or not benchmarks.isdisjoint(row.tags) or row.is_untold)
            and (not self.universities or self._has_university(row))
            and (not self.uids or not row.uid or self._has_uid(row, known))
        ]
        if self.universities and not kept and manifest.rows and not any(map(self._has_university, manifest.rows)):
            self._say(f"{dataset}: nothing is in a bucket of {', '.join(sorted(self.universities))}")
        return kept

    def _has_university(self, row: Row) -> bool:
        return not row.location or row.university in self.universities

    def _has_uid(self, row: Row, facts: Facts | None) -> bool:
        if row.uid in self.uids or row.parent in self.uids:
            return True
        return facts is not None and facts.parent(row.uid) in self.uids

    def check(
        self, datasets: Iterable[str], manifest: Callable[[str], Manifest], facts: Callable[[], Facts | None]
    ) -> None:
        """Raises OptionError for a benchmark or uid that no dataset has (of a copy: that no file in it has). Those of
        videos are asked first, and the others where these do not tell."""
        there = sorted(datasets, key=lambda name: name not in VIDEOS)
        of_videos = sum(name in VIDEOS for name in there)
        benchmarks, uids = set(self.benchmarks), set(self.uids)
        tags: set[str] = set()
        seen: set[str] = set()
        tells_benchmarks = False
        for some in (there[:of_videos], there[of_videos:]):
            if not benchmarks and not uids:
                return
            for told in side_by_side(manifest, some):
                tells_benchmarks |= told.has_benchmarks and any(row.location for row in told.rows)
                tags.update(*(row.tags for row in told.rows))
                seen.update(uid for row in told.rows for uid in (row.uid, row.parent) if uid)
            benchmarks -= tags
            uids -= seen
        if benchmarks and tells_benchmarks:
            known_names = ", ".join(sorted(SPELT.get(tag, tag) for tag in tags))
            raise OptionError(f"benchmarks={min(benchmarks)}: there is none; there are {known_names}")
        known = facts() if uids else None
        if known is not None:
            uids -= {known.parent(uid) for uid in seen}
        for uid in sorted(uids):
            if known is not None and (parent := known.parent(uid)):
                raise OptionError(f"video_uids={uid}: a clip without a file; ask for {parent}, the video that has it")
            near = get_close_matches(uid, seen, 1, 0.8)
            hint = f"the nearest of {len(seen)} is {near[0]}" if near else f"none of {len(seen)} is near it"
            raise OptionError(f"video_uids={uid}: no dataset has it; {hint}")

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", what)


def side_by_side(function: Callable[[_A], _B], arguments: Iterable[_A]) -> list[_B]:
    """What the function gives for each, asked by several threads."""
    each = list(arguments)
    if len(each) < 2:
        return [function(one) for one in each]
    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="ego4d") as threads:
        return list(threads.map(function, each))
