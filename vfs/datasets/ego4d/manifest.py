"""What Ego4D is told by: manifest.csv as rows, ego4d.json as facts; each parsed once a version.

Hides the shapes of both, and that what was parsed is kept in a folder beside the version it was parsed of, so that the
next mount asks for versions alone. Called by the dataset; knows nothing of trees, nor of which rows are wanted. Any
thread may call; whatever names a key blocks.

Shapes: a column `file_uid` makes a manifest one of files, else `exported_clip_uid`, `clip_uid` or `video_uid` one of
videos; the last also holds clips, or the parents of those that have a column of their own. The location is the first
of `canonical_s3_location`, `s3_path` and `path` that has one. `type` says whether a file is saved as `<uid>.mp4` (mp4,
video) or under its key's last part (file, json); where there is none, a manifest of files means the latter and one of
videos the former, unless the key's suffix is no video's (features and IMU are `.pt` and `.csv`). Keys may lack the
suffix that names have (v1). `benchmarks` is `[FHO|EM]`, in any case. What else stands there is passed over; rows that
name no object are left out, with one warning.
"""

import csv
import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import msgspec
from xxhash import xxh3_128_hexdigest

from vfs.datasets.plain import has_video_suffix
from vfs.documents import Documents
from vfs.errors import SourceError
from vfs.flight import Flights
from vfs.sources import ObjectInfo, Source

log = logging.getLogger(__name__)
T = TypeVar("T")

# Raised when what is kept, or how it is made, changes.
_FORMAT = 1

BUCKETS = {
    "ego4d-bristol": "bristol",
    "ego4d-cmu": "cmu",
    "ego4d-universityaf": "cmu_africa",
    "ego4d-fair": "fair",
    "ego4d-consortium-sharing": "frl_track_1_public",
    "ego4d-georgiatech": "georgiatech",
    "ego4d-iiith": "iiith",
    "ego4d-indiana": "indiana",
    "ego4d-kaust": "kaust",
    "ego4d-minnesota": "minnesota",
    "ego4d-speac": "nus",
    "ego4d-sfu": "sfu",
    "ego4d-unc": "unc",
    "ego4d-university-sa": "uniandes",
    "ego4d-unict-milan": "unict",
    "ego4d-penn": "upenn",
    "ego4d-utokyo": "utokyo",
}
"""University by bucket, as the official CLI has it; a bucket that is not here belongs to none."""

UID = re.compile(r"(?:grp-)?[0-9a-f-]{36}")
"""A video, a clip, or several videos in one (Goal-Step's groups)."""
_UID_IN_NAME = re.compile(r"(?:grp-)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_TAGS = re.compile(r"\s*\[(.*)\]\s*")
_LOCATIONS = ("canonical_s3_location", "s3_path", "path")
_UIDS = ("file_uid", "exported_clip_uid", "clip_uid", "video_uid")
_SCHEME = "s3://"
_NO_JSON = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=[,\]}\s])")
_MOST_FRAMES = 1 << 40


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A file of a dataset. `uid` is the video or clip that it is or is named after, "" if none; `parent` the video that
    a clip was cut from, where the manifest tells; `tags` are benchmarks in lower case; `location` is bucket/key."""

    name: str
    location: str
    uid: str
    parent: str
    tags: tuple[str, ...]

    @property
    def university(self) -> str:
        """Whose bucket it is in, "" if nobody's."""
        return BUCKETS.get(self.location.partition("/")[0], "")

    @property
    def is_untold(self) -> bool:
        """Whether it is a file of a copy of which nothing is known: no manifest has it, nor is it named after a uid."""
        return not self.location and not self.uid


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """A dataset's rows in their order; `has_benchmarks`: there is a column for them."""

    rows: list[Row]
    has_benchmarks: bool


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What is needed of ego4d.json. `videos`: the university and the numbers of the scenarios by uid. `clips`: by uid
    the parent video with the first frame and the one after the last (0, 0 where they are not told, or odd)."""

    scenarios: list[str]
    videos: dict[str, tuple[str, tuple[int, ...]]]
    clips: dict[str, tuple[str, int, int]]

    def parent(self, uid: str) -> str:
        """The video that a clip was cut from, "" if it is no known clip."""
        return self.clips[uid][0] if uid in self.clips else ""

    def video(self, uid: str, parent: str) -> tuple[str, tuple[int, ...]]:
        """University and scenarios of a video, of a clip's parent, or of the first member of a group."""
        for name in (uid, parent, self.parent(uid), uid.removeprefix("grp-")):
            if name in self.videos:
                return self.videos[name]
        return "", ()


# ---- Parsing -------------------------------------------------------------------------------------------------------


def parse_manifest(data: bytes | bytearray, key: str) -> Manifest:
    """The rows of a manifest.csv. Raises SourceError for what is no CSV."""
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "surrogateescape", newline="")
    lines = csv.reader(text)
    try:
        return _rows([column.strip() for column in next(lines, [])], lines, key)
    except csv.Error as failure:
        raise SourceError(f"{key}: line {lines.line_num} is no CSV: {failure}") from failure


def _rows(header: list[str], lines: Iterator[list[str]], key: str) -> Manifest:
    columns = {name: place for place, name in reversed([*enumerate(header)])}
    uid_column = next((name for name in _UIDS if name in columns), "")
    locations = [columns[name] for name in _LOCATIONS if name in columns]
    uid_at, video_at = columns.get(uid_column, -1), columns.get("video_uid", -1)
    type_at, tags_at = columns.get("type", -1), columns.get("benchmarks", -1)
    parent_at = columns.get("parent_video_uid", video_at if "clip_uid" in uid_column else -1)
    is_files = uid_column in ("file_uid", "")
    # The one more is the cell of a column that is not there. What stands behind the last that is looked at may be much.
    width = 2 + max((*locations, uid_at, video_at, type_at, tags_at, parent_at))
    known_tags: dict[str, tuple[str, ...]] = {}
    rows: dict[str, Row] = {}
    left_out = 0
    for cells in lines:
        if not any(cells):
            continue
        cells = [*cells[: width - 1], *[""] * (width - min(len(cells), width - 1))]
        location = next((cells[at] for at in locations if cells[at].startswith(_SCHEME)), "").removeprefix(_SCHEME)
        uid = cells[uid_at].strip() if uid_at >= 0 else ""
        name = _name(location, uid, cells[type_at] if type_at >= 0 else "", is_files)
        if not name or name in rows:
            left_out += 1
            continue
        written = cells[tags_at] if tags_at >= 0 else ""
        tags = known_tags.get(written)
        if tags is None:
            tags = known_tags[written] = _tags(written)
        if is_files:
            uid = cells[video_at].strip() if video_at >= 0 else ""
            uid = uid or uid_in(name)
        parent = cells[parent_at].strip() if parent_at >= 0 else ""
        rows[name] = Row(name, location, uid.lower(), parent.lower(), tags)
    if left_out:
        log.warning("%s: %d of %d rows name no object, or one twice", key, left_out, left_out + len(rows))
    return Manifest([*rows.values()], tags_at >= 0)


def _name(location: str, uid: str, kind: str, is_files: bool) -> str:
    """The name that a row's object is saved under, "" where it has none."""
    bucket, _, key = location.partition("/")
    base = key.rpartition("/")[2]
    if not bucket or not base:
        return ""
    kind = kind.strip().lower()
    if kind not in ("mp4", "video", "file", "json"):
        suffix = PurePosixPath(base).suffix
        kind = "file" if is_files or (suffix and not has_video_suffix(base)) else "video"
    if kind in ("file", "json"):
        return base
    return f"{uid}.mp4" if uid else ""


def _tags(written: str) -> tuple[str, ...]:
    match = _TAGS.fullmatch(written)
    tags = "".join(match[1].split()).lower().split("|") if match else ()
    return tuple(tag for tag in tags if tag)


def uid_in(name: str) -> str:
    """The uid that a file is named after, "" if there is none in its name."""
    match = _UID_IN_NAME.search(name)
    return match[0].lower() if match else ""


# Leaves are Any: a number where a text should be costs one video's facts and not all.
class _Video(msgspec.Struct, gc=False):
    video_uid: Any = None
    scenarios: Any = None
    video_source: Any = None


class _Clip(msgspec.Struct, gc=False):
    clip_uid: Any = None
    video_uid: Any = None
    video_start_frame: Any = None
    video_end_frame: Any = None


class _Metadata(msgspec.Struct):
    videos: list[_Video] | None = None
    clips: list[_Clip] | None = None


def parse_facts(data: bytes | bytearray, key: str) -> Facts:
    """What is needed of an ego4d.json. Raises SourceError for what is none."""
    try:
        document = _decoded(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as failure:
        raise SourceError(f"{key}: not the metadata of Ego4D: {failure}") from failure
    del data  # of up to 100 MB
    numbers: dict[str, int] = {}
    videos: dict[str, tuple[str, tuple[int, ...]]] = {}
    for video in document.videos or ():
        if isinstance(video.video_uid, str):
            told = video.scenarios if isinstance(video.scenarios, list) else [video.scenarios]
            names = (scenario for scenario in told if isinstance(scenario, str) and scenario.strip())
            scenarios = tuple(dict.fromkeys(numbers.setdefault(name, len(numbers)) for name in names))
            source = video.video_source if isinstance(video.video_source, str) else ""
            videos[video.video_uid.lower()] = source, scenarios
    clips: dict[str, tuple[str, int, int]] = {}
    odd = []
    for clip in document.clips or ():
        if isinstance(clip.clip_uid, str) and isinstance(clip.video_uid, str):
            start, stop = _frame(clip.video_start_frame), _frame(clip.video_end_frame)
            if not 0 <= start < stop:
                odd.append(clip.clip_uid)
                start = stop = 0
            clips[clip.clip_uid.lower()] = clip.video_uid.lower(), start, stop
    if odd:
        log.warning("%s: %d clips have no frames that can be, such as %s", key, len(odd), odd[0])
    return Facts([*numbers], videos, clips)


def _decoded(data: bytes | bytearray) -> _Metadata:
    try:
        return msgspec.json.decode(data, type=_Metadata)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # Python writes NaN, which is no JSON
        return msgspec.json.decode(_NO_JSON.sub(b"null", data), type=_Metadata)


def _frame(number: object) -> int:
    """A frame's number, -1 for what is none."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _MOST_FRAMES:
        return -1
    return int(number) if number == int(number) else -1


# ---- Keeping -------------------------------------------------------------------------------------------------------


class Digests:
    """What was parsed of a source's documents, kept in `folder` where it can be written."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.documents = Documents(source, None)  # what is parsed is kept, so the bytes need not be
        self._source = source
        self._folder = folder

    def manifest(self, obj: ObjectInfo) -> Manifest:
        """What this version of a manifest.csv tells. Raises the source's errors."""
        return self._digest(obj, Manifest, parse_manifest)

    def facts(self, obj: ObjectInfo) -> Facts:
        """What this version of an ego4d.json tells. Raises the source's errors."""
        return self._digest(obj, Facts, parse_facts)

    def _digest(self, obj: ObjectInfo, kind: type[T], parse: Callable[[bytes | bytearray, str], T]) -> T:
        key = obj.key
        name = xxh3_128_hexdigest(f"{self._source.url}\0{key}".encode(errors="surrogateescape"))
        file = self._folder / f"ego4d-{_FORMAT}-{name}"
        identity = os.fsencode(obj.identity)
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            kept, digest = msgspec.msgpack.decode(file.read_bytes(), type=tuple[bytes, kind])  # type: ignore[valid-type]
            if kept == identity:
                return digest
        parsed = parse(self.documents.fetch(obj), key)
        self._keep(file, identity, parsed)
        return parsed

    def _keep(self, file: Path, identity: bytes, parsed: object) -> None:
        """Writes the file whole, or not at all."""
        draft = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_bytes(msgspec.msgpack.encode((identity, parsed)))
            draft.rename(file)
        except (OSError, UnicodeError) as failure:  # a text that is no UTF-8 cannot be kept either
            log.info("%s is not kept: %s", file, failure)
            with suppress(OSError):
                draft.unlink(missing_ok=True)


class Believed(Generic[T]):
    """What `make` gives, made when it is first wanted and again when it is older than `age_s`; by one thread at a
    time."""

    def __init__(self, what: str, make: Callable[[], T], age_s: float) -> None:
        self._what = what
        self._make = make
        self._age_s = age_s
        self._made: tuple[float, T] | None = None
        self._flights: Flights[str, T] = Flights()

    def get(self) -> T:
        """Raises what making it raises; nothing is remembered then."""
        made = self._made
        if made is not None and time.monotonic() - made[0] < self._age_s:
            return made[1]
        flight, mine = self._flights.join(self._what)
        if not mine:
            return self._flights.wait(flight, self._what)
        try:
            value = self._make()
        except BaseException as failure:
            self._flights.crash(self._what, failure)
            raise
        self._made = time.monotonic(), value
        self._flights.land(self._what, value)
        return value
