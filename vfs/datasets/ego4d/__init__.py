"""Ego4D: the tree that its official CLI downloads, made of the manifests, with the CLI's filters as mount options.

    ego4d.json                     the metadata (its README has it at v2/ego4d.json: a link)
    v2/<dataset>/                  manifest.csv and what it names: full_scale/<uid>.mp4, annotations/…, imu/<uid>.csv
    v2/clips/frames/<clip_uid>/    of clips that have no file: frames of the parent video; <clip_uid> is a link to it
    by-university/<id>/<dataset>/  links to the videos; so by-benchmark/<benchmark>/ and by-scenario/<scenario>/

A version (`version`) is v1, v2 or v2_1, whose folder is that of its first number. Which datasets there may be is told
by `datasets.csv`, by the CLI (places.DATASETS) and by the option `datasets`, and proven by a manifest.csv in
`ego4d-consortium-sharing/public/<version>/<dataset>/`; rows name objects in buckets of universities, in several
regions. Nothing is listed, and what an object weighs is not told: it is asked when it is wanted. A 403 for a manifest
may mean that there is none (a store tells 404 only to who may list), so it counts only where all are refused. None of
this was tried against the live store: keys, headers and refusals are as its CLI, its documents and others' code have
them.

Options mean what the CLI's flags mean, but for this:

* `video_uids` choose in every dataset whose files are named after videos or clips, and not in four of them alone. A
  video's uid brings its clips too. Files that are named after none (annotations, models) stay. Upper case is taken. It
  is an error when no dataset has the uid, and not when one of several has it not.
* `benchmarks` whose manifest has no such column do not choose, as in the CLI, but it is told. Universities are those
  of the buckets, so that annotations (in the consortium's: frl_track_1_public) are not there with any other; that is
  told as well.
* A value that matches nothing is an error. `datasets` begin with all there are, since what is not read costs nothing.
* There is no `manifest.ver`: it would cost a request a file.

by-university goes by the bucket too, and by `video_source` of ego4d.json where that is the consortium's or unknown.
Names of scenarios are as ego4d.json has them, with `-` for a slash and a blank for a line's end.

A copy is any source without a folder `ego4d-consortium-sharing`: the tree as the CLI has written it. It is shown as it
is listed, filtered by its own manifest.csv and names, with all of the above that its ego4d.json allows.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from vfs.catalog import Entry
from vfs.datasets import Dataset, Part
from vfs.datasets.ego4d.filter import SPELT, Filter, side_by_side
from vfs.datasets.ego4d.manifest import BUCKETS, UID, Believed, Digests, Facts, Row, uid_in
from vfs.datasets.ego4d.places import (
    BELIEVED_S,
    DATASETS,
    METADATA,
    SHARING,
    Copy,
    Place,
    Store,
    folders,
    is_folder,
)
from vfs.datasets.plain import has_video_suffix
from vfs.errors import AccessDenied, NotFound, OptionError, SourceError
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import option, option_group
from vfs.sources import Source

log = logging.getLogger(__name__)

RENEWAL = (
    "Ego4D's keys end 14 days after they were issued: sign the licence again with the same e-mail address at "
    "https://ego4ddataset.com, which makes them work again"
)

_CLIPS = "clips"
_PARENTS = ("full_scale", "video_540ss")
_BY = ("by-university", "by-benchmark", "by-scenario")
_UNIVERSITIES = tuple(sorted(BUCKETS.values()))
_NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux
# Names as baselines have them: STA's object frames, hands-and-objects, HOI-Ref.
_FRAMES = FrameRule(
    fps=None,
    first=0,
    name="{view}_{number:010d}.jpg",
    also=("{view}_{number:07d}.jpg", "{number}.jpeg", "frame_{number:010d}.jpg"),
)

# Names of videos by view (by-…), value and dataset.
_Groups = dict[str, dict[str, dict[str, list[str]]]]

STORE = "s3"


@option_group
class Options:
    """The official CLI's filters, each taking several values."""

    datasets: tuple[str, ...] = option(
        default=("all",),
        description="datasets to show: all, or full_scale, annotations, …",
        form="all, or names of datasets",
        check=is_folder,
    )
    version: Literal["v1", "v2", "v2_1"] = option(
        default="v2_1", description="the release: v1, v2 or v2_1", parse=lambda text: text.replace(".", "_")
    )
    benchmarks: tuple[str, ...] = option(
        default=(), description="show what is of one of these benchmarks: AV, EM, FHO, MQ, NLQ, VQ, goalstep"
    )
    video_uids: tuple[str, ...] = option(
        default=(),
        description="videos and clips to show, by their uids",
        form="uids of videos or clips: 36 of 0-9, a-f and -, after grp- for a group",
        parse=lambda text: text.strip().lower(),
        check=lambda uid: UID.fullmatch(uid) is not None,
    )
    video_uid_file: Path | None = option(
        default=None, description="a file with uids, between blanks or lines, instead of video_uids"
    )
    universities: tuple[str, ...] = option(
        default=(),
        description="show what is in buckets of these universities",
        form=f"one of {', '.join(_UNIVERSITIES)}, or several of them",
        parse=str.lower,
        check=lambda university: university in _UNIVERSITIES,
    )
    metadata: bool = option(default=True, description="show ego4d.json, and what it tells: scenarios, clips' frames")

    def __attrs_post_init__(self) -> None:
        """Raises OptionError for both kinds of uids at once."""
        if self.video_uids and self.video_uid_file is not None:
            raise OptionError("video_uids and video_uid_file exclude each other: give one")


def default_source(options: Options, state: Path) -> str:
    """The buckets of Ego4D."""
    return "s3://"


def open_dataset(source: Source, options: Options, state: Path) -> "Ego4D":
    """Ego4D out of its buckets, or a copy of it. Raises OptionError for a file of uids that cannot be used."""
    return Ego4D(source, options, state)


class Ego4D(Dataset):
    """See the module's docstring."""

    name = "ego4d"
    # Versions are published once; a day bounds how long a correction can go unseen.
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Options, state: Path) -> None:
        uids = _uids_of(options.video_uid_file) if options.video_uid_file is not None else options.video_uids
        self.selection = tuple(sorted(uids)) if options.video_uid_file is not None else ()
        """What a file that an option names says, which the tree depends on as it does on the options."""
        self._source = source
        self._options = options
        self._filter = Filter(
            () if "all" in options.datasets else options.datasets,
            ("".join(benchmark.split()).lower() for benchmark in options.benchmarks),
            options.universities,
            uids,
        )
        self._digests = Digests(source, state)
        self._place = Believed("the source's root", self._find_place, float("inf"))
        self._facts = Believed(METADATA, self._read_facts, BELIEVED_S)
        self._clips = Believed("the clips", self._find_parts, BELIEVED_S)
        self._groups = Believed("the videos", self._group, BELIEVED_S)
        self._is_checked = False

    def check(self) -> None:
        """Asks nothing: values are compared with the manifests when the root is first listed."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """See the module's docstring. Raises OptionError, at the root, where an option's value matches nothing."""
        place = self._place.get()
        if folder == "":
            self._check()
        top, _, rest = folder.partition("/")
        if top in _BY and top not in place.top:
            yield from self._grouped(top, rest)
            return
        yield from place.entries(folder)
        if folder == "":
            yield from (Entry(by, Kind.DIRECTORY) for by in self._views() if by not in place.top)
        elif folder == f"{place.major}/{_CLIPS}":
            yield from (Entry(clip, Kind.LINK, target=f"frames/{clip}") for clip in self._clips.get())

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """Every frame (there are 30 a second), from 0."""
        return _FRAMES

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """Uid, dataset and university, where name and folder tell them."""
        uid = uid_in(name)
        facts = {"uid": uid} if uid else {}
        top, _, dataset = folder.partition("/")
        if top in _BY:
            value, _, dataset = dataset.partition("/")
            if top == "by-university" and value:
                facts["university"] = value
        if dataset and top in ("v1", "v2", *_BY):
            facts["dataset"] = dataset
        return facts

    def has_parts(self, folder: str) -> bool:
        """In the folder of clips."""
        return self._options.metadata and folder in (f"v1/{_CLIPS}", f"v2/{_CLIPS}")

    def parts(self, folder: str) -> Iterator[str]:
        """Clips without a file."""
        return iter(self._parts_in(folder))

    def part(self, folder: str, view: str) -> Part | None:
        """Such a clip's frames of its parent."""
        return self._parts_in(folder).get(view)

    # -- what there is

    def _find_place(self) -> Place:
        top = set()
        for listed in self._source.list(""):
            top.add(listed.name)
            if listed.name == SHARING:
                break
        has_metadata = self._options.metadata
        if SHARING in top or not top:  # which buckets it has, the store does not tell
            return Store(self._digests, self._options.version, self._filter, has_metadata, self._facts.get)
        major = self._options.version[:2]
        return Copy(self._source, self._digests, major, frozenset(top), self._filter, has_metadata, self._facts.get)

    def _check(self) -> None:
        """Raises OptionError for a value that matches nothing, NotFound where there is no dataset at all; once."""
        place = self._place.get()
        if self._is_checked:
            return
        if isinstance(place, Store):
            for name in sorted(self._filter.datasets - {*DATASETS}):
                if not place.is_named(name):
                    log.warning("datasets=%s: neither datasets.csv nor the CLI names it; it is tried", name)
        if isinstance(place, Store) or self._filter.datasets or self._filter.chooses_rows:
            there = place.datasets()
            for name in sorted(self._filter.datasets - {*there}):
                known = ", ".join(sorted(place.all_datasets())) or "none"
                raise OptionError(f"datasets={name}: it is not there, or is refused; there are {known}")
            if not there:
                version = self._options.version
                raise NotFound(f"{self._source.url} has no manifest of Ego4D {version}: give the folder of its buckets")
            self._filter.check(there, place.manifest, self._facts.get)
        self._is_checked = True

    def _read_facts(self) -> Facts | None:
        """What ego4d.json tells, None where it is not wanted, or cannot be had for good."""
        try:
            return self._place.get().facts()
        except (AccessDenied, NotFound, SourceError) as failure:
            log.warning("no scenarios, no frames of clips: %s", failure)
            return None

    def _kept(self, dataset: str) -> list[Row]:
        """The videos of a dataset that the options leave."""
        manifest = self._place.get().manifest(dataset)
        rows = self._filter.rows(dataset, manifest, self._facts.get)
        return [row for row in rows if has_video_suffix(row.name)]

    # -- clips without a file

    def _parts_in(self, folder: str) -> dict[str, Part]:
        return self._clips.get() if folder == f"{self._place.get().major}/{_CLIPS}" else {}

    def _find_parts(self) -> dict[str, Part]:
        """The clips that have no file, with the frames of the videos that have them, by uid."""
        facts, place = self._facts.get(), self._place.get()
        there = place.datasets_of_videos() if facts is not None else []
        if facts is None or _CLIPS not in there:
            return {}
        have_files = {row.uid for row in place.manifest(_CLIPS).rows}
        datasets = [dataset for dataset in _PARENTS if dataset in there]
        parents: dict[str, str] = {}
        for dataset, rows in zip(datasets, side_by_side(self._kept, datasets), strict=True):
            for row in rows:
                parents.setdefault(row.uid, f"{place.major}/{dataset}/{row.name}")
        return {
            clip: Part(parents[parent], start, stop)
            for clip, (parent, start, stop) in facts.clips.items()
            if stop and clip not in have_files and parent in parents
        }

    # -- views by meaning

    def _views(self) -> tuple[str, ...]:
        """Those of _BY that something tells."""
        place = self._place.get()
        if not place.datasets_of_videos():
            return ()
        return _BY if self._has_metadata() else _BY[:-1]

    def _has_metadata(self) -> bool:
        try:
            return self._place.get().metadata() is not None
        except AccessDenied:
            return False

    def _group(self) -> _Groups:
        place, facts = self._place.get(), self._facts.get() or Facts([], {}, {})
        scenarios = [_file_name(scenario) for scenario in facts.scenarios]
        groups: _Groups = {by: {} for by in _BY}
        datasets = place.datasets_of_videos()
        for dataset, rows in zip(datasets, side_by_side(self._kept, datasets), strict=True):
            for row in rows:
                told, numbers = facts.video(row.uid, row.parent)
                # What is in the consortium's bucket may have been recorded by others.
                is_shared = not row.university or row.location.startswith(f"{SHARING}/")
                university = told if told and is_shared else row.university
                values = (
                    (_file_name(university),) if university else (),
                    [SPELT.get(tag) or _file_name(tag) for tag in row.tags],
                    dict.fromkeys(scenarios[number] for number in numbers),
                )
                for by, found in zip(_BY, values, strict=True):
                    for value in found:
                        groups[by].setdefault(value, {}).setdefault(dataset, []).append(row.name)
        return groups

    def _grouped(self, by: str, rest: str) -> Iterator[Entry]:
        """A folder in by-…: its values, their datasets, links to the videos of one."""
        if by not in self._views():
            raise NotFound(f"{by}: nothing tells it")
        values = self._groups.get()[by]
        value, _, path = rest.partition("/")
        if not value:
            yield from (Entry(name, Kind.DIRECTORY) for name in sorted(values))
            return
        datasets = values.get(value, {})
        if not any(f"{name}/".startswith(f"{path}/" if path else "") for name in datasets):
            raise NotFound(f"{by}/{rest}: no videos")
        up = "../" * (2 + len(PurePosixPath(path).parts))
        for name in datasets.get(path, ()):
            yield Entry(name, Kind.LINK, target=f"{up}{self._place.get().major}/{path}/{name}", is_video=True)
        yield from folders(datasets, path)


def _file_name(text: str) -> str:
    """A text as the name of a folder: `-` for a slash, a blank for what cannot be printed or is several."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text.replace("/", "-"))
    name = os.fsencode(" ".join(plain.split()))[:_NAME_LIMIT_BYTES].decode(errors="ignore")
    return name if name.strip(".") else "_"


def _uids_of(file: Path) -> list[str]:
    """The uids that a file holds. Raises OptionError."""
    try:
        uids = file.read_text().lower().split()
    except (OSError, UnicodeDecodeError) as failure:
        raise OptionError(f"video_uid_file={file}: {getattr(failure, 'strerror', None) or 'no text'}") from failure
    if wrong := [uid for uid in uids if not UID.fullmatch(uid)]:
        raise OptionError(f"video_uid_file={file}: {wrong[0]!r:.80} is no uid of a video or clip")
    if not uids:
        raise OptionError(f"video_uid_file={file}: there is no uid in it")
    return uids
