"""What can be asked of a daemon about its disk cache: warm, check, evict, and listing with what is there.

The operations of the control socket behind `egofs warm` and `egofs ls`. Paths are those of the mount, relative to its
root; answers are JSON. Called by daemon.py; each call comes in a thread of its own and blocks.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mountd.control import Call, Operation
from vfs.errors import OptionError
from vfs.listing import Listing
from vfs.mounted import MountedDataset
from vfs.node import Directory
from vfs.warming import JOBS, MOST_JOBS, Warming
from vfs.warmrun import Counts, Progress


def operations(mounted: MountedDataset, root: Directory, mountpoint: Path) -> dict[str, Operation]:
    """By name. Progress of warm, check and evict has the fields of vfs.warmrun.Progress."""
    warming, listing = Warming(mounted, f"{mountpoint}/"), Listing(mounted, root, f"{mountpoint}/")

    def require(words: dict[str, Any], call: Call) -> dict[str, Any]:
        warming.require(_paths(words))
        return {}

    def warm(words: dict[str, Any], call: Call) -> dict[str, Any]:
        began = time.monotonic()
        progress, there = warming.warm(
            _paths(words),
            with_frames=bool(words.get("frames")),
            jobs=_jobs(words),
            force=bool(words.get("force")),
            report=lambda facts: call.tell(**facts),
        )
        return {**_told(warming, progress, there), "seconds": time.monotonic() - began}

    def check(words: dict[str, Any], call: Call) -> dict[str, Any]:
        progress, there = warming.check(
            _paths(words), with_frames=bool(words.get("frames")), report=lambda facts: call.tell(**facts)
        )
        return _told(warming, progress, there)

    def evict(words: dict[str, Any], call: Call) -> dict[str, Any]:
        progress, freed = warming.evict(
            _paths(words), with_frames=bool(words.get("frames")), report=lambda facts: call.tell(**facts)
        )
        return {"freed_bytes": freed, "files": progress.files, "local": warming.is_local, **_failures(progress)}

    def listed(words: dict[str, Any], call: Call) -> dict[str, Any]:
        for path in _paths(words):
            is_folder, batches = listing.of(path)
            call.tell(path=path, is_folder=is_folder)
            for rows in batches:
                call.tell(rows=[asdict(row) for row in rows])
        return {}

    return {"require": require, "warm": warm, "check": check, "evict": evict, "ls": listed}


def under_way(told: dict[str, Any]) -> tuple[str, int, int]:
    """A warming for `egofs status`, by the progress that it told last: what, and its bytes, done and in all."""
    asked = told["asked"]
    pictures = f", pictures {told['pictures']} of {asked['pictures']}" if asked["pictures"] else ""
    return f"{told['files']} of {asked['files']} files{pictures}", told["bytes"], asked["bytes"]


def _told(warming: Warming, progress: Progress, there: Counts) -> dict[str, Any]:
    return {
        **asdict(there),
        "all_there": there.is_all_there and not progress.failed,
        "fetched_bytes": progress.fetched_bytes,
        "made_pictures": progress.made_pictures,
        "local": warming.is_local,
        **_failures(progress),
    }


def _failures(progress: Progress) -> dict[str, Any]:
    return {"failed": progress.failed, "failures": progress.failures}


def _paths(words: dict[str, Any]) -> Sequence[str]:
    paths = words.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) and "\0" not in path for path in paths):
        raise OptionError("the request names no paths")
    return paths


def _jobs(words: dict[str, Any]) -> int:
    jobs = words.get("jobs") or JOBS
    if not isinstance(jobs, int) or not 1 <= jobs <= MOST_JOBS:
        raise OptionError(f"jobs={jobs!r}: write a number from 1 to {MOST_JOBS}")
    return jobs
