"""Assembly101: twelve cameras a recording, under their canonical names beside their own.

The tree is the source's (`recordings/<recording>/<camera>.mp4`, `TSM_features/<camera>/`, annotations, poses).
Wherever camera ids stand in a folder, links with the canonical names stand beside them: v1–v8 for the static
cameras, e1–e4 for the egocentric ones, which come in two families of ids (HMC_8… and HMC_2…, by recording). Links
are made from what a folder lists: some recordings lack views or have no egocentric ones at all, and where two
cameras would answer to one name (both families in one TSM_features) the name is not given.

Camera ids and view names: the dataset's download scripts (README, "Which camera_IDs correspond to which views").
Numbering of frames: annotations count at 30 fps although the videos have 60; extracted frames are
`<view>_%010d.jpg` from 1, so that file k is source frame 2(k-1).
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path, PurePosixPath

from vfs.catalog import Entry
from vfs.datasets import Dataset
from vfs.datasets.plain import entry_of, has_video_suffix
from vfs.errors import NotFound, OptionError
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import option, option_group
from vfs.sources import Source

CANONICAL = {
    "C10095": "v1",
    "C10115": "v2",
    "C10118": "v3",
    "C10119": "v4",
    "C10379": "v5",
    "C10390": "v6",
    "C10395": "v7",
    "C10404": "v8",
    "HMC_84346135": "e1",
    "HMC_21176875": "e1",
    "HMC_84347414": "e2",
    "HMC_21176623": "e2",
    "HMC_84355350": "e3",
    "HMC_21110305": "e3",
    "HMC_84358933": "e4",
    "HMC_21179183": "e4",
}
"""Canonical view name by camera id."""

VIEWS = tuple(dict.fromkeys(CANONICAL.values()))
_GROUPS = {"all": VIEWS, "fixed": VIEWS[:8], "egocentric": VIEWS[8:]}
_CAMERA = re.compile(rf"({'|'.join(CANONICAL)})(_rgb|_mono10bit)?")
_RECORDING = re.compile(r"nusar-\d{4}_action_both_.+_user_id_\d{4}-\d{2}-\d{2}_\d{6}")
_RECORDINGS = "recordings"


@option_group
class Options:
    """The official downloader's filters, each taking several values."""

    views: tuple[str, ...] = option(
        default=("all",),
        description="cameras to show: all, fixed, egocentric, v1 to v8, e1 to e4, or several of them",
        form=f"one of {', '.join((*_GROUPS, *VIEWS))}, or several of them",
        check=lambda view: view in _GROUPS or view in VIEWS,
    )
    videos: tuple[str, ...] = option(default=("all",), description="recordings to show: all, or their names")


def default_source(options: Options, state: Path) -> str:
    """There is none yet: the dataset is gated, and its own stores are not among the sources."""
    raise OptionError(
        "assembly101 needs to be told where its tree is: -o source=s3://BUCKET/PREFIX or -o source=/LOCAL/FOLDER"
    )


def open_dataset(source: Source, options: Options, state: Path) -> "Assembly101":
    """Assembly101 as the source's tree holds it."""
    return Assembly101(source, options)


class Assembly101(Dataset):
    """See the module's docstring."""

    name = "assembly101"
    # Published once in 2022; a day bounds how long a correction can go unseen.
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Options) -> None:
        self._source = source
        self._views = {view for option in options.views for view in _GROUPS.get(option, (option,))}
        self._videos = None if "all" in options.videos else set(options.videos)

    def check(self) -> None:
        """Raises OptionError for a recording that the source does not have, naming the nearest that it has."""
        if not self._videos:
            return
        here = {listed.name for folder in ("", _RECORDINGS) for listed in self._list_or_none(folder)}
        recordings = sorted(filter(_RECORDING.fullmatch, here))
        for video in sorted(self._videos - set(recordings)):
            near = get_close_matches(video, recordings, 1, 0) or ["none at all: is this the dataset's root?"]
            raise OptionError(f"videos={video}: no such recording; the nearest of {len(recordings)} is {near[0]}")

    def entries(self, folder: str) -> Iterator[Entry]:
        """The source's folder, filtered, with links of canonical names."""
        entries = [entry_of(listed) for listed in self._source.list(folder)]
        kept = [entry for entry in entries if self._is_wanted(entry)]
        yield from kept
        yield from _canonical_links(kept)
        names = {entry.name for entry in entries}
        if folder == "" and _RECORDINGS not in names and any(map(_RECORDING.fullmatch, names)):
            # The downloader writes <outDir>/<recording>, the dataset itself has recordings/<recording>.
            yield Entry(_RECORDINGS, Kind.LINK, target=".")

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """30 fps, from 1, `<view>_%010d.jpg`."""
        return FrameRule(fps=Fraction(30), first=1, name="{view}_{number:010d}.jpg")

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """Recording, camera and canonical view of a video."""
        facts = {}
        if match := _CAMERA.match(PurePosixPath(name).stem):
            facts = {"camera": match[0], "view": CANONICAL[match[1]]}
        recording = PurePosixPath(folder).name
        return {"recording": recording, **facts} if _RECORDING.fullmatch(recording) else facts

    def _is_wanted(self, entry: Entry) -> bool:
        if entry.kind is Kind.DIRECTORY and _RECORDING.fullmatch(entry.name):
            return self._videos is None or entry.name in self._videos
        if entry.is_video and len(self._views) < len(VIEWS):
            view = _view_of(entry.name)
            return view is None or view in self._views
        return True

    def _list_or_none(self, folder: str) -> Iterator[Entry]:
        try:
            yield from map(entry_of, self._source.list(folder))
        except NotFound:
            return


def _view_of(name: str) -> str | None:
    """The canonical view that a file or folder is named after, None if it is not a camera's."""
    match = _CAMERA.fullmatch(PurePosixPath(name).stem)
    return CANONICAL[match[1]] if match else None


def _canonical_links(entries: list[Entry]) -> Iterator[Entry]:
    """A link for each canonical name that exactly one of the entries answers to, and that no entry has already."""
    taken = {entry.name for entry in entries}
    claims: dict[str, list[Entry]] = {}
    for entry in entries:
        view = _view_of(entry.name)
        if view is not None and entry.kind is not Kind.LINK:
            claims.setdefault(view + PurePosixPath(entry.name).suffix, []).append(entry)
    for name, claimants in claims.items():
        if len(claimants) == 1 and name not in taken:
            yield Entry(name, Kind.LINK, target=claimants[0].name, is_video=has_video_suffix(name))
