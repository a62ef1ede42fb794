"""Assembly101: twelve cameras a recording, under their canonical names beside their own.

The tree is the source's: `recordings/<recording>/<camera>.mp4` (or `<recording>/…` at the root, as the download script
writes it), `TSM_features/<camera>/`, `annotations`, `poses@60fps`, … Wherever camera ids stand in a folder, before
whatever suffix, links with the canonical names stand beside them: v1–v8 for the static cameras, e1–e4 for the
egocentric ones, which come in two families of ids (HMC_8… and HMC_2…, by recording). Links are made from what a folder
lists: some recordings lack views or have no egocentric ones at all.

In TSM_features both families stand side by side, and nothing that is there answers for all recordings: `e4` is a folder
of links to both then, or, where `egofs lmdb merge e4` has made one LMDB of them, a link to that (`merged_lmdb`).
That is seen when the dataset is opened, and not by a mount that is there already.

    by-split/train/<recording>     links, as the lists of coarse segments have them; read when a split is looked at

Camera ids and view names: the dataset's download scripts (README, "Which camera_IDs correspond to which views").
Numbering of frames: annotations count at 30 fps although the videos have 60; extracted frames are
`<view>_%010d.jpg` from 1, so that file k is source frame 2(k-1). Splits: annotations/coarse-annotations/README.
"""

import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote_from_bytes

from xxhash import xxh3_64_hexdigest

from vfs.catalog import Entry
from vfs.datasets import Dataset
from vfs.datasets.plain import entry_of, has_video_suffix
from vfs.documents import Documents
from vfs.errors import NotFound, OptionError
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import option, option_group
from vfs.sources import Source

RENEWAL = (
    "Assembly101 is given to who asked for it: on the Hugging Face hub with the account whose token is used, at "
    "https://huggingface.co/datasets/cvml-nus/assembly101; on Google Drive access ends after 14 days, ask again with "
    "the word renewal in the comments"
)

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
GROUPS = {"all": VIEWS, "fixed": VIEWS[:8], "egocentric": VIEWS[8:]}
"""What the official downloader calls several views."""

_CAMERA = re.compile(rf"({'|'.join(CANONICAL)})(_rgb|_mono10bit)?(\..*)?")
_RECORDING = re.compile(r"nusar-\d{4}_action_both_.+_user_id_\d{4}-\d{2}-\d{2}_\d{6}")
_RECORDINGS = "recordings"
_BY_SPLIT = "by-split"
# Where the lists of coarse segments stand: on the hub, and where the annotations alone were fetched.
_SPLITS = ("annotations/coarse-annotations/coarse_splits", "coarse-annotations/coarse_splits")
# Its README says validation where its files say val.
_SPLIT_FILE = re.compile(r"(train|val|validation|test)_coarse_\w+\.txt")
_SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}

STORE = "hf"


@option_group
class Options:
    """The official downloader's filters, each taking several values."""

    views: tuple[str, ...] = option(
        default=("all",),
        description="cameras to show: all, fixed, egocentric, v1 to v8, e1 to e4, or several of them",
        form=f"one of {', '.join((*GROUPS, *VIEWS))}, or several of them",
        check=lambda view: view in GROUPS or view in VIEWS,
    )
    videos: tuple[str, ...] = option(default=("all",), description="recordings to show: all, or their names")
    videos_file: Path | None = option(
        default=None, description="a file with names of recordings, one a line, instead of videos"
    )

    def __attrs_post_init__(self) -> None:
        """Raises OptionError for both kinds of names at once."""
        if self.videos_file is not None and "all" not in self.videos:
            raise OptionError("videos and videos_file exclude each other: give one")


def default_source(options: Options, state: Path) -> str:
    """The dataset's home on the hub since May 2026; gated."""
    return "hf://datasets/cvml-nus/assembly101"


def open_dataset(source: Source, options: Options, state: Path) -> "Assembly101":
    """Assembly101 as the source's tree holds it. Raises OptionError for a file of names that cannot be used."""
    return Assembly101(source, options, state)


def view_of(name: str) -> str | None:
    """The canonical view that a file or folder is named after, None if it is no camera's."""
    match = _CAMERA.fullmatch(name)
    return CANONICAL[match[1]] if match else None


def merged_lmdb(state: Path, source_url: str, folder: str, view: str) -> Path:
    """Where the one LMDB of all cameras of a view is kept, made of those that stand in a folder of a source."""
    place = f"{source_url}/{quote_from_bytes(os.fsencode(folder))}".rstrip("/")
    return state / "assembly101" / "merged" / xxh3_64_hexdigest(place.encode()) / view


class Assembly101(Dataset):
    """See the module's docstring."""

    name = "assembly101"
    # Published once in 2022; a day bounds how long a correction can go unseen.
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Options, state: Path) -> None:
        names = options.videos if options.videos_file is None else _names_of(options.videos_file)
        self._source = source
        self._state = state
        self._views = {view for option in options.views for view in GROUPS.get(option, (option,))}
        self._videos = None if "all" in names else set(names)
        self._asked = "videos" if options.videos_file is None else f"videos_file={options.videos_file}: videos"
        # The tree depends on what is merged, as it does on the options.
        merged = map(str, state.glob("assembly101/merged/*/*/data.mdb"))
        self.selection = (*sorted(() if options.videos_file is None else names), *sorted(merged))

    def check(self) -> None:
        """Raises OptionError for a recording that the source does not have, naming the nearest that it has."""
        if not self._videos:
            return
        recordings = sorted(self._recordings())
        for video in sorted(self._videos - set(recordings)):
            near = get_close_matches(video, recordings, 1, 0) or ["none at all: is this the dataset's root?"]
            raise OptionError(
                f"{self._asked}={video}: no such recording; the nearest of {len(recordings)} is {near[0]}"
            )

    def entries(self, folder: str) -> Iterator[Entry]:
        """The source's folder, filtered, with canonical names; and what is made beside it."""
        parent, _, name = folder.rpartition("/")
        made = None
        if folder.partition("/")[0] == _BY_SPLIT:
            made = self._by_split(folder)
        elif name in VIEWS:
            made = self._shared(parent, name)
        yield from self._listed(folder) if made is None else made

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """30 fps, from 1, `<view>_%010d.jpg`."""
        return FrameRule(fps=Fraction(30), first=1, name="{view}_{number:010d}.jpg")

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """Recording, camera and canonical view of a video."""
        facts = {}
        if match := _CAMERA.fullmatch(name):
            facts = {"camera": match[1] + (match[2] or ""), "view": CANONICAL[match[1]]}
        recording = folder.rpartition("/")[2]
        return {"recording": recording, **facts} if _RECORDING.fullmatch(recording) else facts

    def _listed(self, folder: str) -> Iterator[Entry]:
        entries = [entry_of(listed) for listed in self._source.list(folder)]
        kept = [entry for entry in entries if self._is_wanted(entry)]
        yield from kept
        yield from self._canonical(folder, kept)
        if folder == "":
            names = {entry.name for entry in entries}
            if _RECORDINGS not in names and any(map(_RECORDING.fullmatch, names)):
                # The downloader writes <outDir>/<recording>, the dataset itself has recordings/<recording>.
                yield Entry(_RECORDINGS, Kind.LINK, target=".")
            if _BY_SPLIT not in names and names & {place.partition("/")[0] for place in _SPLITS}:
                yield Entry(_BY_SPLIT, Kind.DIRECTORY)

    def _is_wanted(self, entry: Entry) -> bool:
        """Whether the options leave what is named after a recording or after a camera."""
        stem = entry.name.partition(".")[0]
        if self._videos is not None and _RECORDING.fullmatch(stem):
            return stem in self._videos
        view = view_of(entry.name)
        return view is None or view in self._views

    def _recordings(self) -> set[str]:
        """Those that the source has."""
        names = {entry.name for folder in ("", _RECORDINGS) for entry in self._list_or_none(folder)}
        return set(filter(_RECORDING.fullmatch, names))

    def _list_or_none(self, folder: str) -> Iterator[Entry]:
        try:
            yield from map(entry_of, self._source.list(folder))
        except NotFound:
            return

    # -- canonical names

    def _canonical(self, folder: str, entries: list[Entry]) -> Iterator[Entry]:
        """A link for each canonical name that one of the entries answers to, and that no entry has already; what stands
        for several of them, where several do."""
        taken = {entry.name for entry in entries}
        for view, claims in _claims(entries).items():
            is_given = view in taken
            for name, claimants in claims.items():
                if len(claimants) == 1 and name not in taken:
                    is_given |= name == view
                    yield Entry(name, Kind.LINK, target=claimants[0].name, is_video=has_video_suffix(name))
            if not is_given and _is_shared(claims):
                merged = merged_lmdb(self._state, self._source.url, folder, view)
                if (merged / "data.mdb").is_file():
                    yield Entry(view, Kind.LINK, target=str(merged.absolute()))
                else:
                    yield Entry(view, Kind.DIRECTORY)

    def _shared(self, folder: str, view: str) -> Iterator[Entry] | None:
        """The folder that stands for a view of several cameras in another: links to all that is theirs. None if the
        folder of that name is the source's own."""
        entries = [entry_of(listed) for listed in self._source.list(folder)]
        claims = _claims(filter(self._is_wanted, entries)).get(view, {})
        if any(entry.name == view for entry in entries) or len(claims.get(view, ())) == 1 or not _is_shared(claims):
            return None
        claimants = (entry for each in claims.values() for entry in each)
        return (Entry(e.name, Kind.LINK, target=f"../{e.name}", is_video=e.is_video) for e in claimants)

    # -- views by meaning

    def _by_split(self, folder: str) -> Iterator[Entry] | None:
        """The splits, or the recordings of one that the source has and the options leave. None if `by-split` is the
        source's own."""
        if any(entry.name == _BY_SPLIT for entry in self._list_or_none("")):
            return None
        files: dict[str, list[str]] = {}
        for place in _SPLITS:
            for entry in self._list_or_none(place):
                match = _SPLIT_FILE.fullmatch(entry.name)
                if match is not None and entry.object is not None:
                    files.setdefault(_SPLIT_NAMES[match[1]], []).append(entry.object.key)
        split = folder.removeprefix(_BY_SPLIT).removeprefix("/")
        if not split:
            return (Entry(name, Kind.DIRECTORY) for name in files)
        if split not in files:
            raise NotFound(f"{folder}: no such split; there are {', '.join(files) or 'none'}")
        there = self._recordings() if self._videos is None else self._videos
        names = there & {name for key in files[split] for name in self._recordings_in(key)}
        return (Entry(name, Kind.LINK, target=f"../../{_RECORDINGS}/{name}") for name in sorted(names))

    def _recordings_in(self, key: str) -> Iterator[str]:
        """Those of a list of segments: `<task>_<recording>.txt` in the first column."""
        text = bytes(Documents(self._source, None).read(key)).decode(errors="replace")
        for line in text.splitlines():
            if match := _RECORDING.search(line.partition("\t")[0]):
                yield match[0]


# The entries that answer to each canonical name (with their suffix), by view.
_Claims = dict[str, dict[str, list[Entry]]]


def _claims(entries: Iterable[Entry]) -> _Claims:
    """Who answers to which canonical name."""
    claims: _Claims = {}
    for entry in entries:
        match = _CAMERA.fullmatch(entry.name)
        if match is not None and entry.kind is not Kind.LINK:
            view = CANONICAL[match[1]]
            claims.setdefault(view, {}).setdefault(view + (match[3] or ""), []).append(entry)
    return claims


def _is_shared(claims: dict[str, list[Entry]]) -> bool:
    """Whether several answer to one name of a view."""
    return any(len(claimants) > 1 for claimants in claims.values())


def _names_of(file: Path) -> list[str]:
    """The names that a file holds, one a line. Raises OptionError."""
    try:
        names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as failure:
        raise OptionError(f"videos_file={file}: {getattr(failure, 'strerror', None) or 'no text'}") from failure
    if not names:
        raise OptionError(f"videos_file={file}: there is no name in it")
    return names
