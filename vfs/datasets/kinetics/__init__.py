"""Kinetics-400, -600, -700 and -700-2020: every clip once in one folder, and links to it by label, split and release.

    annotations/                     the CSV files, as they stand in the source or in what `csv` names
    videos/<id>_%06d_%06d.mp4        all clips of the store, whatever folders they stand in there (store.py)
    videos/frames/<stem>/%06d.jpg    30 a second, from 1, the shorter side at most 256 pixels
    by-label/<label>/                links; of all releases together
    by-split/<split>/                train, val, test; likewise
    by-release/<release>/by-label/   the same of one release; so by-split/
    full/<id>.mp4                    whole videos, where the source is youtube:

Releases call one class by several names (`passing american football (not in-game)` became `… American …`), and made
several of one (`picking fruit`). In by-label/ a clip stands under each label that a mounted release gives it; in
by-release/<release>/by-label/ it has the label of that release alone. So with splits: what was trained on in one may be
validated on in another. Where a single release is mounted its two folders are links to those of the root.

What a CSV file names and the store lacks is in none of these folders, but in `missing`; what the store has and no CSV
file names is in videos/ alone. With `release`, only what files of these releases name is there.

File names and columns: ActivityNet's crawler, CVDF's mirror, gurkirt/kinetics-download-prep. None was tried against
CVDF's store itself.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vfs.catalog import Entry, Packed
from vfs.datasets.kinetics import packed
from vfs.datasets.kinetics.annotations import Found, absolute
from vfs.datasets.kinetics.base import ClipDataset
from vfs.datasets.kinetics.names import STEM_BYTES, kinetics_shape
from vfs.datasets.kinetics.tables import (
    RELEASES,
    SPLITS,
    Labels,
    Table,
    columns_of,
    of_releases,
    read_table,
    release_of,
)
from vfs.errors import OptionError
from vfs.node import Kind
from vfs.options import option, option_group
from vfs.sources import Source

if TYPE_CHECKING:
    from vfs.datasets.kinetics.stems import Array

_BY_LABEL, _BY_SPLIT, _BY_RELEASE = "by-label", "by-split", "by-release"

CSV = "files and folders with the CSV files, of this machine or of the source; else they are looked for in the source"
FOLDERS = "patterns of the source's folders to look for clips in, such as k400/val or 700_2020/train/*_00?; all"


def _release_named(text: str) -> str:
    """`k400`, `kinetics-700-2020` as a release is called here."""
    name = text.strip().lower().removeprefix("kinetics").lstrip("-_k").replace("-", "_")
    return name if name in RELEASES else text


@option_group
class Options:
    """Which releases to show, and where to look."""

    release: str = option(
        default="",
        description="the release to show: 400, 600, 700, 700_2020, several joined with +; those with CSV files",
        form=f"one of {', '.join(RELEASES)}, or several joined with +",
        parse=lambda text: "+".join(map(_release_named, text.split("+"))),
        check=lambda releases: not releases or set(releases.split("+")) <= {*RELEASES},
    )
    csv: tuple[str, ...] = option(default=(), description=CSV, parse=absolute)
    folders: tuple[str, ...] = option(default=(), description=FOLDERS)


def default_source(options: Options, state: Path) -> str:
    """There is none: who made the dataset gives links to YouTube alone."""
    raise OptionError(
        "kinetics needs its clips: -o source=/LOCAL/FOLDER or s3://BUCKET/PREFIX, in folders of any kind; CVDF's "
        "mirror is s3://kinetics (anonymous), whose archives are read whole once, when they are looked into (folders=…)"
    )


def open_dataset(source: Source, options: Options, state: Path) -> "Kinetics":
    """Kinetics as a store of clips and its CSV files have it. Raises OptionError."""
    return Kinetics(source, options, state)


class Kinetics(ClipDataset):
    """See the module's docstring."""

    name = "kinetics"
    shape = staticmethod(kinetics_shape)
    by = (_BY_LABEL, _BY_SPLIT, _BY_RELEASE)

    def check(self) -> None:
        """Raises OptionError for a release of which there is no CSV file too, naming those there are."""
        super().check()
        if wanted := self._wanted:
            there = {self._release_of(each) for each in self._found() if each.is_csv} - {None}
            for release in sorted(wanted - there):
                known = ", ".join(sorted(map(str, there))) or "none"
                raise OptionError(f"release={release}: no CSV file of it in {self.source.url}; there are {known}")

    @property
    def _wanted(self) -> set[str]:
        return set(filter(None, self._options.release.split("+")))

    def _release_of(self, found: Found) -> str | None:
        """The release of a file; None for one that is no list of Kinetics' clips."""
        columns = columns_of(self.source, found.obj)
        return release_of(found.origin, columns) if columns else None

    def _rest(self, found: list[Found]) -> Iterator[tuple[str, Entry | Packed]]:
        from vfs.datasets.kinetics.stems import places, union

        labels = Labels()
        tables = list(self._tables(found, labels))
        named = union((table.clips for table in tables), STEM_BYTES)
        tables = [replace(table, clips=places(named, table.clips)) for table in tables]
        store = self._store((lambda names: places(named, names) >= 0) if self._wanted else None)
        there = yield from self._videos(named, store)
        at = places(there, named)
        tables = [replace(table, clips=at[table.clips]) for table in tables]
        yield from self._links(tables, labels.names, there)
        self._keep_missing([named[at < 0]], store)

    def _tables(self, found: list[Found], labels: Labels) -> Iterator[Table]:
        for each in found:
            release = self._release_of(each)
            if release is not None and (not self._wanted or release in self._wanted):
                table = read_table(self.source, each.obj, each.origin, release, labels)
                if table is not None:
                    yield table

    @staticmethod
    def _links(tables: list[Table], labels: list[str], there: "Array") -> Iterator[tuple[str, Entry | Packed]]:
        """Of tables whose clips are places among those there, -1 where they are not."""
        from vfs.datasets.kinetics.stems import groups, joined

        def links(some: list[Table], above: str) -> Iterator[tuple[str, Packed]]:
            clips = joined([table.clips for table in some])
            for by, names, numbers in (
                (_BY_LABEL, labels, joined([table.labels for table in some])),
                (_BY_SPLIT, SPLITS, joined([table.splits for table in some])),
            ):
                for number, found in groups(numbers, clips):
                    yield packed.clips(f"{above}{by}/{names[number]}", there[found])

        yield from links(tables, "")
        releases = list(of_releases(tables))
        for release, some in releases:
            above = f"{_BY_RELEASE}/{release}"
            if len(releases) > 1:
                yield from ((above, Entry(by, Kind.DIRECTORY)) for by in (_BY_LABEL, _BY_SPLIT))
                yield from links(some, f"{above}/")
            else:
                yield from ((above, Entry(by, Kind.LINK, target=f"../../{by}")) for by in (_BY_LABEL, _BY_SPLIT))
