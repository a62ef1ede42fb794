"""Ego-Exo4D: takes seen by an Aria and several GoPros, from the manifests of its parts or from a copy.

In its own store (S3, a bucket for each university; also a folder of folders named like the buckets) the tree is what
the manifests say, all of it at once, with the paths of the official downloader (manifests.py). Any other
source is a copy as the downloader writes it: its listing is the tree, filtered by what the JSON files in it tell
(copy.py).

Beside the videos in `frame_aligned_videos` and `frame_aligned_videos/downscaled/448` stand links with canonical names:
ego.mp4, slam-left.mp4, slam-right.mp4, et.mp4, exo1.mp4 … and best_exo.mp4, as takes.json has the cameras; takes that
it does not have get none. by-split/, by-task/, by-university/, by-benchmark/ and by-uid/ hold links to the takes.

Filters have the downloader's names and meaning: what has tags of a kind, and none that is wanted, is left out. Unlike
there, parts that tag no view or university are filtered by what takes.json tells, uids leave the annotations of many
takes where they are, and a value that nothing has is an error. Files of no bytes are shown: they are there.

Numbering of frames: from 0 at the video's own rate, `%06d.jpg` as the pose baseline writes them; the names of the
relations baseline (`<number>.jpg`) are found too.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vfs.catalog import Entry, Packed, Tree
from vfs.datasets import Dataset
from vfs.datasets.egoexo4d.filters import Filters
from vfs.documents import Documents
from vfs.frames import FrameRule
from vfs.options import option, option_group
from vfs.sources import Source

if TYPE_CHECKING:
    from vfs.datasets.egoexo4d.copy import Copy

_log = logging.getLogger(__name__)

DEFAULT_PARTS = ("metadata", "captures", "takes", "take_trajectory", "take_vrs_noimagestream", "annotations")
PARTS = (
    *DEFAULT_PARTS, "take_eye_gaze", "take_point_cloud", "take_vrs", "capture_trajectory", "capture_eye_gaze",
    "capture_point_cloud", "downscaled_takes/448", "features/omnivore_video", "features/maws_clip_2b",
    "ego_pose_pseudo_gt", "expert_commentary", "take_transcription", "take_audio",
)  # fmt: skip
"""Those that the official downloader's `all` has; a release may have more."""

RENEWAL = (
    "keys to Ego-Exo4D end 14 days after they were given: "
    "sign the licence again at https://ego4d.dev/request/ego-exo4d to renew them"
)

_GROUPS = {"all": PARTS, "default": DEFAULT_PARTS}
_S3 = "s3://"
_ALIGNED = "frame_aligned_videos"
# Streams of an Aria by the ids in the names of its videos.
_STREAMS = {"214-1": "rgb", "1201-1": "slam-left", "1201-2": "slam-right", "211-1": "et"}
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_VIDEO = re.compile(rf"(?!ego_preview)(?P<camera>.+?)(?:_(?P<stream>{'|'.join(_STREAMS)}))?\.mp4")
_CLIP = re.compile(rf"start[^_]+_end[^_]+_{_VIDEO.pattern}")
_VRS = re.compile(r"(?P<camera>[^_]+)(?:_noimagestreams)?\.vrs")
_FEATURES = re.compile(rf"(?P<take_uid>{_UUID})(?:_(?P<camera>[^_]+)_(?P<stream>[^_.]+))?\.\w+")

STORE = "s3"


@option_group
class Options:
    """The official downloader's filters, each taking several values."""

    parts: tuple[str, ...] = option(
        default=("all",), description=f"parts to show: all, default, or several of {', '.join(PARTS)}, …"
    )
    release: str = option(default="v2", description="the release to show")
    uids: tuple[str, ...] = option(default=(), description="takes (or captures) to show, by take_uid (capture_uid)")
    benchmarks: tuple[str, ...] = option(default=(), description="benchmarks to show, such as keystep")
    splits: tuple[str, ...] = option(default=(), description="splits to show: train, val, test")
    views: tuple[str, ...] = option(
        default=(),
        description="kinds of cameras to show: ego, exo",
        form="ego or exo",
        check=lambda view: view in ("ego", "exo"),
    )
    universities: tuple[str, ...] = option(default=(), description="universities to show, such as cmu")
    base_dir: str = option(
        default="s3://ego4d-consortium-sharing/egoexo-public/",
        description="where the releases are",
        form="s3://BUCKET/PREFIX/",
        check=lambda url: bool(re.fullmatch(r"s3://[^/]+(/.*)?", url)),
    )


def default_source(options: Options, state: Path) -> str:
    """S3, with the names of buckets in front of keys."""
    return _S3


def open_dataset(source: Source, options: Options, state: Path) -> "EgoExo4D":
    """Ego-Exo4D in its own store, or a copy of it."""
    return EgoExo4D(source, options, state)


class EgoExo4D(Dataset):
    """See the module's docstring."""

    name = "egoexo4d"
    # The form of what is packed (packed.py), since the catalog keeps that.
    selection = ("packed 1",)
    # Manifests were mended after a release; a day bounds how long that can go unseen.
    listing_age_s = 86_400.0

    def __init__(self, source: Source, options: Options, state: Path) -> None:
        self._source = source
        self._options = options
        self._documents = Documents(source, state)
        self._filters = Filters(
            uids=frozenset(options.uids),
            benchmarks=frozenset(options.benchmarks),
            splits=frozenset(options.splits),
            views=frozenset(options.views),
            universities=frozenset(options.universities),
        )

    def check(self) -> None:
        """Raises OptionError for a value that nothing in a copy has. Of manifests it is told when they are read, so
        that a mount whose tree is known already asks for none."""
        if self._filters and (copy := self._copy):
            copy.check()

    def entries(self, folder: str) -> Iterator[Entry] | Tree:
        """A folder of a copy, or the whole tree of the manifests, which raises OptionError too."""
        return copy.entries(folder) if (copy := self._copy) else Tree(self._of_manifests())

    def unpack(self, pieces: Iterable[bytes]) -> Iterator[tuple[str, Entry]]:
        """The entries of a folder that a tree has packed."""
        from vfs.datasets.egoexo4d import packed

        return packed.entries(pieces)

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        """Every frame, from 0."""
        return FrameRule(fps=None, first=0, name="{number:06d}.jpg", also=("{number}.jpg",))

    def facts(self, folder: str, name: str) -> dict[str, str]:
        """The take or capture, and the camera and stream that the name of a video, VRS or feature file has."""
        parts = folder.split("/")
        facts = {parts[0].removesuffix("s"): parts[1]} if parts[0] in ("takes", "captures") and parts[1:] else {}
        match = _FEATURES.fullmatch(name) or _VRS.fullmatch(name) or _CLIP.fullmatch(name)
        if match is None and _ALIGNED in parts:
            match = _VIDEO.fullmatch(name)
        if match is not None:
            facts |= {fact: _STREAMS.get(value, value) for fact, value in match.groupdict().items() if value}
        return facts

    def _of_manifests(self) -> Iterator[tuple[str, Entry | Packed]]:
        from vfs.datasets.egoexo4d.manifests import Manifests

        given = self._options.parts or ("all",)
        manifests = Manifests(
            self._documents,
            f"{self._options.base_dir.removeprefix(_S3).rstrip('/')}/{self._options.release}/",
            parts=list(dict.fromkeys(part for name in given for part in _GROUPS.get(name, (name,)))),
            required={part for part in given if part not in _GROUPS},
            known=(*_GROUPS, *PARTS),
        )
        return manifests.rows(self._filters)

    @cached_property
    def _copy(self) -> "Copy | None":
        """The source as a copy, None where buckets stand in it. S3 as a whole lists none, and is not asked for that."""
        names = {listed.name for listed in self._source.list("")}
        if not names or self._options.base_dir.removeprefix(_S3).split("/")[0] in names:
            return None
        from vfs.datasets.egoexo4d.copy import Copy

        if self._options.parts != ("all",):
            _log.warning("parts: %s is a copy, of which all is shown", self._source.url)
        return Copy(self._source, self._documents, self._filters)
