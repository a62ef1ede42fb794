"""One LMDB out of several: the features of all cameras that answer to one view, under the keys that they have.

Training code across both families of egocentric cameras opens one environment for `e4`, asks it for a frame under the
one camera's name and, where there is none, under the other's. This makes that environment: keys and values as they
are, in the order of keys, appended, so that its pages are full.

Hides lmdb. Called by `egofs lmdb merge`, in a process of its own: whoever maps a file that cannot be read is ended by
SIGBUS. Memory is that of one transaction. Nothing here knows how the members came to be folders (a mount's, or local).

The result is built in `<out>.partial`, with a record of what has been written as part of each transaction: the last
key, the count, and the sum of all pairs' hashes, which does not depend on their order. Killed anywhere, it goes on
after the last transaction. In the end the record moves into a file beside the data, all is read again and has to give
the same sum, and the folder takes its name.
"""

import fcntl
import heapq
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from mountd import mounts
from vfs import sources
from vfs.datasets.assembly101 import merged_lmdb, view_of
from vfs.errors import EgofsError, OptionError

_FEATURES = "TSM_features"
_DATASETS = "datasets"
_AND_ARCHIVES = "(archives are folders in a mount, or once they are unpacked)"
_DATA = "data.mdb"
_RECORD_FILE = "egofs-merge.json"
_LOCK_FILE = "egofs-merge.lock"
# Sorts before every key, so that those can be appended after it.
_RECORD_KEY = b"\0egofs-merge"
# A transaction's pages are in memory until it ends: half as much again as its values, which fill two of three pages.
_COMMIT_BYTES = 64 << 20
# A slow store must not lose more than this of its work either.
_COMMIT_S = 30.0
# Pages that are not the pairs' own: free ones between transactions, and those above the leaves.
_SPARE = 1.05
_SPARE_BYTES = 1 << 20
# The map is address space alone. What is asked for beyond the members' pages is never touched.
_MAP_SPARE_BYTES = 256 << 20
# Who was killed may still be on its way out, in the middle of a write.
_LOCK_S = 10.0
# Who watches is told after this many pairs: 8 MiB of features.
_TOLD_PAIRS = 1024
_MODULUS = 1 << 128

Show = Callable[[str, int], AbstractContextManager[Callable[[int, int], None]]]
"""Begins a bar: what is done and how many pairs there are; gives what is told of pairs done, with their bytes."""


class MergeFailed(EgofsError):
    """The members cannot be merged, or not now."""


class _Worthless(MergeFailed):
    """What was written is of no use."""


@dataclass
class Record:
    """What has been written of a merge. `checksum` is the sum of the pairs' 128-bit hashes, modulo 2^128, in hex."""

    members: list[list[Any]]
    """Of each its name, and how many pairs, pages and transactions it had."""
    last_key: str = ""
    count: int = 0
    bytes: int = 0
    checksum: str = "0"
    is_whole: bool = False


class _Sum:
    """Of pairs: how many, of how many bytes, and what they are."""

    def __init__(self, record: Record | None = None) -> None:
        self.count = record.count if record else 0
        self.bytes = record.bytes if record else 0
        self._sum = int(record.checksum, 16) if record else 0

    def add(self, key: bytes, value: Any) -> None:
        self.count += 1
        self.bytes += len(value)
        # The key as the seed: a value that stands under another key gives another hash.
        self._sum += xxh3_128_intdigest(value, xxh3_64_intdigest(key))

    @property
    def checksum(self) -> str:
        return f"{self._sum % _MODULUS:032x}"

    def is_of(self, record: Record) -> bool:
        return (self.count, self.bytes, self.checksum) == (record.count, record.bytes, record.checksum)


class _Member:
    """An environment that is read. Raises OptionError where there is none, MergeFailed for one that cannot be whole."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder = folder
        file = folder / _DATA
        try:
            size_bytes = file.stat().st_size
            self.environment = opened.enter_context(lmdb.open(str(folder), readonly=True, lock=False, create=False))
        except (OSError, lmdb.Error) as failure:
            raise OptionError(f"{folder}: no LMDB can be read there: {_reason(failure)}") from failure
        stat, info = self.environment.stat(), self.environment.info()
        pages = info["last_pgno"] + 1
        if size_bytes < pages * stat["psize"]:
            raise MergeFailed(f"{file}: it is cut off: {size_bytes} bytes of {pages * stat['psize']}: fetch it again")
        self.entries: int = stat["entries"]
        self.used_bytes: int = stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
        self.identity = [folder.name, self.entries, pages, info["last_txnid"]]


def merge(folders: Sequence[Path], out: Path, show: Show, say: Callable[[str], None]) -> Record:
    """Merges environments into one at `out`, or goes on with that.

    Raises OptionError for what cannot be merged or written to, MergeFailed for what ended it on the way.
    """
    partial = out.with_name(f"{out.name}.partial")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out}: is there already: remove it, or give another place with --out")
    with ExitStack() as opened:
        members = [_Member(folder, opened) for folder in folders]
        needed = _room(partial, members)
        say(f"{sum(m.entries for m in members)} features, at most {needed >> 20} MiB more, go to {out}")
        opened.enter_context(_locked(partial))
        try:
            with _said(partial), _writable(partial, members) as environment:
                record = _record(environment, partial, members)
                if not record.is_whole:
                    _write(environment, members, record, show)
                _seal(environment, partial, record)
                _verify(environment, record, partial, show)
        except _Worthless:
            shutil.rmtree(partial)
            raise
        with _said(partial):
            (partial / _LOCK_FILE).unlink()
            _sync(partial)
            partial.rename(out)
            _sync(out.parent)
    return record


def verify(out: Path, show: Show) -> Record:
    """Reads a merged environment and compares it with its record. Raises OptionError where there is none, MergeFailed
    where it is not as it was written."""
    try:
        record = Record(**json.loads((out / _RECORD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError) as failure:
        raise OptionError(f"{out}: nothing that was merged is here: {_reason(failure)}") from failure
    with ExitStack() as opened:
        _verify(_Member(out, opened).environment, record, out, show)
    return record


# -- what is merged, and where


def plan(
    view: str, features: Path | None, out: Path | None, members: Sequence[str], cache_dir: Path
) -> tuple[list[Path], Path, bool]:
    """The folders that a person means, where their merge goes, and whether mounts will show it there.

    `features` is a folder of a mount or a local one; None is that of the only mount. Raises OptionError, MountRefused.
    """
    if features is None:
        mount = mounts.only()
        features = mount.mountpoint / _FEATURES
        if not features.is_dir():
            raise OptionError(f"{mount.mountpoint}: no {_FEATURES} are there: say where they are with --features")
    features = mounts.real(features)
    url, folder, cache_dir = _origin(features, cache_dir)
    folders = [features / name for name in members or _cameras(features, view)]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise OptionError(f"{features}: give two or more different members: {', '.join(members)} {_AND_ARCHIVES}")
    if missing := [each for each in folders if not (each / _DATA).is_file()]:
        raise OptionError(f"{missing[0]}: no LMDB is there {_AND_ARCHIVES}")
    if out is not None:
        return folders, out.absolute(), False
    if members:
        raise OptionError("of members that you choose: say where their merge goes with --out")
    return folders, merged_lmdb(cache_dir / _DATASETS, url, folder, view), True


def _origin(features: Path, cache_dir: Path) -> tuple[str, str, Path]:
    """The source's URL and the folder in it where features are, and the cache folder of whoever shows them."""
    mount = mounts.of(features)
    if mount is None:
        module = sources.module_for(str(features))
        return module.open_source(str(features), module.Options()).url, "", cache_dir
    status = mounts.live_status(mount)
    return status["url"], str(features.relative_to(mount.mountpoint)), Path(status["cache_dir"])


def _cameras(features: Path, view: str) -> list[str]:
    """The folders of a view's cameras. Raises OptionError where there are not several."""
    try:
        names = sorted(each.name for each in features.iterdir() if view_of(each.name) == view and not each.is_symlink())
    except OSError as failure:
        raise OptionError(f"{features}: {failure.strerror}") from failure
    folders = [name for name in names if (features / name).is_dir()]
    if len(folders) < 2:
        there = ", ".join(names) or "nothing"
        raise OptionError(f"{features}: {view} needs two cameras' folders, and has {there} {_AND_ARCHIVES}")
    return folders


# -- what is read


def _pairs(member: _Member, opened: ExitStack, place: int, last: tuple[bytes, Any] | None) -> Iterator[Any]:
    """(key, place, value) of all pairs after the last that was written. Raises MergeFailed."""
    try:
        cursor = opened.enter_context(member.environment.begin(buffers=True)).cursor()
        opened.callback(cursor.close)
        if last is not None:
            if not cursor.set_range(last[0]):
                return
            if bytes(cursor.key()) == last[0]:
                _require_same(last[0], cursor.value(), last[1])
                if not cursor.next():
                    return
        for key, value in cursor.iternext():
            yield bytes(key), place, value
    except lmdb.Error as failure:
        raise MergeFailed(f"{member.folder}: it is damaged: {_reason(failure)}: fetch it again") from failure


def _distinct(pairs: Iterable[tuple[bytes, int, Any]]) -> Iterator[tuple[bytes, Any]]:
    """Each key once. Raises _Worthless for one that has several values."""
    last_key, last_value = b"", None
    for key, _, value in pairs:
        if key == last_key:
            _require_same(key, value, last_value)
            continue
        last_key, last_value = key, value
        yield key, value


def _require_same(key: bytes, one: Any, other: Any) -> None:
    if one != other:
        raise _Worthless(
            f"{key.decode(errors='replace')}: two members have other values under this key: nothing is kept"
        )


# -- what is written


def _room(partial: Path, members: Sequence[_Member]) -> int:
    """The bytes that are still to be written. Raises OptionError where the disk does not have them."""
    needed = int(sum(member.used_bytes for member in members) * _SPARE) + _SPARE_BYTES
    try:
        partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = (partial / _DATA).stat().st_blocks * 512 if (partial / _DATA).exists() else 0
        free_bytes = _free_bytes(partial.parent)
    except OSError as failure:
        raise _place_refused(partial, failure) from failure
    more = max(0, needed - there)
    if more > free_bytes:
        raise OptionError(
            f"{partial.parent}: {more >> 20} MiB are needed, {free_bytes >> 20} MiB are free: "
            "free some space, or choose another place with --out"
        )
    return more


def _free_bytes(folder: Path) -> int:
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize


def _place_refused(place: Path, failure: OSError) -> OptionError:
    return OptionError(f"{place}: {failure.strerror}: choose another place with --out")


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone. The kernel ends the lock of one that dies."""
    try:
        partial.mkdir(exist_ok=True, mode=0o700)
        lock = (partial / _LOCK_FILE).open("ab")
    except OSError as failure:
        raise _place_refused(partial, failure) from failure
    with lock:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as failure:
                if time.monotonic() > deadline:
                    raise OptionError(f"{partial}: another process merges here: wait for its end") from failure
                time.sleep(0.05)
        yield


@contextmanager
def _writable(partial: Path, members: Sequence[_Member]) -> Iterator["lmdb.Environment"]:
    pages = sum(member.used_bytes for member in members)
    with lmdb.open(str(partial), map_size=2 * pages + _MAP_SPARE_BYTES) as environment:
        yield environment


@contextmanager
def _said(partial: Path) -> Iterator[None]:
    """What ends a merge on its way, as one line that says how it goes on."""
    try:
        yield
    except (lmdb.Error, OSError) as failure:
        # LMDB says of a write that was short what it says of any other.
        why = "the disk is full" if _free_bytes(partial.parent) < _SPARE_BYTES else _reason(failure)
        raise MergeFailed(
            f"{partial}: {why}; what was written stays there: the same command goes on with it"
        ) from failure


def _record(environment: "lmdb.Environment", partial: Path, members: Sequence[_Member]) -> Record:
    """What has been written so far. Raises OptionError where that was of other members."""
    asked = sorted(member.identity for member in members)
    with environment.begin() as transaction:
        told = transaction.get(_RECORD_KEY)
    file = partial / _RECORD_FILE
    if told is None and file.exists():
        told = file.read_bytes()
    if told is None and not environment.stat()["entries"]:
        return Record(asked)
    try:
        record = Record(**json.loads(told or b""))
    except (ValueError, TypeError):
        record = None
    if record is None or record.members != asked:
        raise OptionError(f"{partial}: what is there was begun with other features: remove it")
    return record


def _write(environment: "lmdb.Environment", members: Sequence[_Member], record: Record, show: Show) -> None:
    """Appends all pairs that are not there yet, a transaction after the other."""
    written = _Sum(record)
    total = sum(member.entries for member in members)
    with ExitStack() as opened, show("merging", max(0, total - record.count)) as advance:
        last = None
        if record.last_key:
            key = bytes.fromhex(record.last_key)
            with environment.begin() as transaction:
                last = (key, transaction.get(key))
        streams = [_pairs(member, opened, place, last) for place, member in enumerate(members)]
        pairs = _told(_distinct(heapq.merge(*streams)), advance)
        while not record.is_whole:
            with environment.begin(write=True) as transaction:
                _fill(transaction, pairs, written, record)
                transaction.put(_RECORD_KEY, json.dumps(asdict(record)).encode())


def _fill(transaction: "lmdb.Transaction", pairs: Iterator[tuple[bytes, Any]], written: _Sum, record: Record) -> None:
    """Appends as much as one transaction takes, and says so in the record."""
    until_bytes, until = written.bytes + _COMMIT_BYTES, time.monotonic() + _COMMIT_S
    record.is_whole = True
    for key, value in pairs:
        if not transaction.put(key, value, append=True):
            raise _Worthless(f"{key.decode(errors='replace')}: a member's keys are not in order: nothing is kept")
        written.add(key, value)
        record.last_key = key.hex()
        if written.bytes >= until_bytes or time.monotonic() >= until:
            record.is_whole = False
            break
    record.count, record.bytes, record.checksum = written.count, written.bytes, written.checksum


def _seal(environment: "lmdb.Environment", partial: Path, record: Record) -> None:
    """Takes the record out of the environment, which has only the members' keys from then on."""
    file = partial / _RECORD_FILE
    draft = partial / f"{_RECORD_FILE}.new"
    draft.write_text(json.dumps(asdict(record)) + "\n")
    _sync(draft)
    draft.rename(file)
    _sync(partial)
    with environment.begin(write=True) as transaction:
        transaction.delete(_RECORD_KEY)


def _verify(environment: "lmdb.Environment", record: Record, place: Path, show: Show) -> None:
    """Reads all pairs. Raises _Worthless where they are not those of the record."""
    found = _Sum()
    try:
        with environment.begin(buffers=True) as transaction, show("verifying", record.count) as advance:
            for key, value in _told(transaction.cursor().iternext(), advance):
                found.add(key, value)
    except lmdb.Error as failure:
        raise _Worthless(f"{place}: it cannot be read again: {_reason(failure)}: merge it anew") from failure
    if not found.is_of(record):
        raise _Worthless(
            f"{place}: it is not what was written: {found.count} features with checksum {found.checksum} instead of "
            f"{record.count} with {record.checksum}: merge it anew"
        )


def _told(pairs: Iterable[tuple[Any, Any]], advance: Callable[[int, int], None]) -> Iterator[tuple[Any, Any]]:
    """The pairs; says now and then how many they were."""
    count = size_bytes = 0
    for key, value in pairs:
        yield key, value
        count += 1
        size_bytes += len(value)
        if count == _TOLD_PAIRS:
            advance(count, size_bytes)
            count = size_bytes = 0
    advance(count, size_bytes)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(failure: BaseException) -> str:
    return getattr(failure, "strerror", None) or str(failure)
