"""What is read of stores, of people and of this machine's disk: listings, lists, manifests, options, messages, what is
kept. Each target calls what the product calls, with the same refusals as its callers expect."""

import json
import os
import pickletools
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mountd import config, control
from tests.fuzz import packed, video
from tests.fuzz.mutate import plain, words
from tests.fuzz.run import Target, by_name
from tests.fuzz.tree import check_catalog
from tests.memorysource import MemorySource
from vfs import bucketlist, weblisting
from vfs.catalog import Catalog, Entry, Tree
from vfs.datasets import ava_kinetics
from vfs.datasets.ego4d import manifest as ego4d
from vfs.datasets.egoexo4d import packed as egoexo4d
from vfs.datasets.egoexo4d.filters import Filters
from vfs.datasets.egoexo4d.manifests import Manifests
from vfs.datasets.egoexo4d.takes import Recordings, Splits, links_by_meaning
from vfs.datasets.kinetics import names, tables
from vfs.documents import Documents
from vfs.drive import api, fileids, titles
from vfs.errors import CorruptData, OptionError
from vfs.filelist import FileList
from vfs.hub import api as hub
from vfs.node import Kind
from vfs.sources import Listed, ObjectInfo
from vfs.valuefile import Damaged, Value, file_bytes_of, write_image

_MOST_LISTED = 2000
_MOST_DEPTH = 20
_SCRATCH = tempfile.TemporaryDirectory(prefix="egofs-fuzz-")  # for what reads files; gone with the process

# -- listings ---------------------------------------------------------------------------------------------------


def s3_list(data: bytes) -> None:
    """A page of ListObjectsV2, as a folder's names."""
    page = bucketlist.parse(data)
    if page is not None:
        rows = [Listed(key, "file", ObjectInfo(key, size, mtime_s * 1_000_000_000, etag)) for key, size, mtime_s, etag
                in page.rows]  # fmt: skip
        assert all(row.object is not None and row.object.size_bytes >= 0 for row in rows), "a size below nothing"
        check_catalog([*(Listed(prefix, "dir") for prefix in page.prefixes), *rows])


def web_page(data: bytes) -> None:
    """An index page, in HTML and in JSON."""
    for kind in ("text/html", "application/json"):
        try:
            found = weblisting.index(data, kind, "http://host/a%20folder/")
        except ValueError:
            continue
        _check_found(found)


def webdav(data: bytes) -> None:
    """An answer to PROPFIND."""
    _check_found(weblisting.multistatus(data, "http://host/a%20folder/")[1])


def _check_found(found: list[weblisting.Found]) -> None:
    assert all(each.size_bytes is None or 0 <= each.size_bytes < 1 << 63 for each in found), "no size"
    check_catalog(
        Listed(each.name, "dir")
        if each.is_folder
        else Listed(
            each.name, "file", ObjectInfo(each.name, each.size_bytes or 0, each.mtime_s * 1_000_000_000, each.etag)
        )
        for each in found
    )


def hub_tree(data: bytes) -> None:
    """A page of a repository's tree."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return  # as for `_json`, which is tried with the other answers
    rows = [*hub._rows("list", told)]
    check_catalog(
        Listed(row.path, "dir")
        if row.is_folder
        else Listed(row.path, "file", ObjectInfo(row.path, row.size_bytes, 0, row.version))
        for row in rows
    )


def drive_items(data: bytes) -> None:
    """Items of a folder of Drive, with the names that they get."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    items = [api._item("list", each) for each in api._list_of("list", told)]
    check_catalog(
        Listed(name, "file", ObjectInfo(name, max(item.size_bytes, 0), item.mtime_ns, item.version))
        for name, item in titles.named(items).items()
    )


def names_of_a_store(data: bytes) -> None:
    """A line a name, the first letter of which says what it is; lone surrogates too."""
    text = data.decode("utf-8", "surrogatepass" if b"\xed\xa0" in data else "surrogateescape")
    found = []
    for line in text.split("\n"):
        kind, name = line[:1], line[1:]
        if kind == "d":
            found.append(Listed(name, "dir"))
        elif kind == "l":
            found.append(Listed(name, "link", target=name))
        else:
            found.append(Listed(name, "file", ObjectInfo(name, len(name), 0, name)))
    check_catalog(found)


# -- lists and manifests ----------------------------------------------------------------------------------------


def file_list(data: bytes) -> None:
    """A list of files that a person gave, walked from its root."""
    listed = FileList(data, root="https://host/root/", base="https://host/root/list.csv")
    left = _MOST_LISTED

    def walk(folder: str, depth: int) -> None:
        nonlocal left
        there = [*listed.entries(folder)]
        seen = [name for name, _ in there]
        assert len(seen) == len(set(seen)), "a name stands twice"
        for name, row in there:
            left -= 1
            if left < 0 or depth > _MOST_DEPTH:
                return
            assert name not in ("", ".", "..")
            assert "\0" not in name
            assert "/" not in name
            path = f"{folder}/{name}" if folder else name
            if row is None:
                walk(path, depth + 1)
            else:
                assert listed.get(path) == row
                assert row.size_bytes is None or row.size_bytes >= 0
                assert row.url.lower().startswith(("http://", "https://"))

    walk("", 0)


def kinetics(data: bytes) -> None:
    """A list of clips with labels."""
    source, labels = MemorySource({"train.csv": data}), tables.Labels()
    table = tables.read_table(source, source.info("train.csv"), "kinetics400/train.csv", "400", labels)
    if table is not None:
        assert len(table.clips) == len(table.labels) == len(table.splits)
        assert all(label < len(labels.names) for label in table.labels)
        assert all(split < len(tables.SPLITS) for split in table.splits)
        for name in labels.names[1:]:
            assert name not in ("", ".", "..")
            assert not {"/", "\0"} & set(name)
        for stem in table.clips[:_MOST_LISTED].tolist() if hasattr(table.clips, "tolist") else ():
            assert isinstance(stem, int) or names.span_of(stem.decode())


def ava(data: bytes) -> None:
    """A list of annotated moments."""
    source = MemorySource({"ava_train.csv": data})
    found = ava_kinetics._read(source, source.info("ava_train.csv"), "ava_train.csv")
    if found is not None:
        for stem in found.stems[:_MOST_LISTED].tolist():
            assert names.ava_shape(stem.decode()) == stem.decode()


def ego4d_manifest(data: bytes) -> None:
    """manifest.csv, whose names become a folder."""
    rows = ego4d.parse_manifest(data, "manifest.csv").rows
    check_catalog(Listed(row.name, "file", ObjectInfo(row.location, 1, 0, "")) for row in rows)


def ego4d_facts(data: bytes) -> None:
    """ego4d.json."""
    facts = ego4d.parse_facts(data, "ego4d.json")
    for _, start, stop in facts.clips.values():
        assert 0 <= start <= stop
    for _, scenarios in facts.videos.values():
        assert all(number < len(facts.scenarios) for number in scenarios)


def egoexo4d_manifest(data: bytes) -> None:
    """A manifest of a part, as a tree that is unpacked again."""
    place = "egoexo/releases/v2/"
    source = MemorySource({f"{place}{part}/manifest.json": data for part in ("metadata", "takes")})
    manifests = Manifests(Documents(source, None), place, {"takes"}, ("metadata", "takes"), ("takes",))
    none: frozenset[str] = frozenset()
    _check_tree(manifests.rows(Filters(none, none, none, none, none)))


def egoexo4d_takes(data: bytes) -> None:
    """takes.json and captures.json."""
    recordings = Recordings(data, data)
    assert len(recordings.universities) <= len(recordings.by_uid)
    _check_tree(links_by_meaning(recordings.takes, Splits()))


def egoexo4d_splits(data: bytes) -> None:
    """splits.json."""
    splits = Splits(data)
    assert all(isinstance(each, set) for each in (*splits.splits.values(), *splits.benchmarks.values()))


def _check_tree(rows: "Iterator[tuple[str, object]]") -> None:
    """A dataset's whole tree, taken by a catalog, whose folders are then listed."""
    filling = [*rows]
    catalog = Catalog(None, "fuzz", lambda folder: Tree(iter(filling)), 60.0, egoexo4d.entries)  # type: ignore[arg-type]
    left = _MOST_LISTED

    def walk(path: str, depth: int) -> None:
        nonlocal left
        catalog.folder(path)
        shown = [*catalog.children(path)]
        assert len({child[0] for child in shown}) == len(shown)
        for child in shown:
            left -= 1
            if left < 0 or depth > _MOST_DEPTH:
                return
            name = os.fsdecode(child[0])
            assert name not in ("", ".", "..")
            assert "/" not in name
            below = f"{path}/{name}" if path else name
            if child[1] == Kind.DIRECTORY:
                walk(below, depth + 1)
            else:
                catalog.entry(path, name)

    try:
        walk("", 0)
    finally:
        catalog.close()


# -- what people write ------------------------------------------------------------------------------------------


def toml(data: bytes) -> None:
    """A mount's file of options."""
    file = _scratch("mount.toml", data)
    config.load(str(file), [])


def options(data: bytes) -> None:
    """What stands behind -o, of any dataset."""
    text = data.decode("utf-8", "surrogateescape")
    for dataset in ("demo", "kinetics", "s3://bucket/a"):
        try:
            config.load(dataset, config.parse_o(text))
        except OptionError:
            continue


def file_ids(data: bytes) -> None:
    """The pickle of Assembly101's scripts: nothing in it is ever executed."""
    found = fileids.read(_scratch("file_ids.pkl", data))
    assert all(titles.can_be_name(name) and api.ID.fullmatch(identity) for name, identity in found.items())
    for opcode, _, _ in pickletools.genops(data):
        assert opcode.name not in ("REDUCE", "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "BUILD", "EXT1")


def message(data: bytes) -> None:
    """A request at the control socket, up to the operation's own words."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        theirs.sendall(data[: 100 << 10] + b"\n")
        theirs.shutdown(socket.SHUT_WR)
        try:
            asked = control._words(ours, [])
        except control.Gone:
            return
        assert isinstance(asked, dict)


# -- what is kept on disk ---------------------------------------------------------------------------------------

_KEY = (bytes(range(16)), 7)
_LENGTH = 200_000
_VALUE = bytes(range(250)) * (_LENGTH // 250)


def value(data: bytes) -> None:
    """A value's file with this damage in it (where it begins, then what stands there): right bytes, or Damaged."""
    image = bytearray(file_bytes_of(_LENGTH))
    write_image(memoryview(image), _KEY, memoryview(_VALUE), _LENGTH)
    at = int.from_bytes(data[:4], "little") % len(image)
    image[at : at + len(data) - 4] = data[4:]
    descriptor = os.open(_scratch("value", bytes(image)), os.O_RDONLY)
    kept = Value(_KEY, descriptor, _LENGTH)
    for start, length in ((0, _LENGTH), (at % _LENGTH, 1), (_LENGTH - 1, 1), (65_000, 2000)):
        length = min(length, _LENGTH - start)
        try:
            assert bytes(kept.read(start, length)) == _VALUE[start : start + length], "wrong bytes"
        except Damaged:
            continue


def catalog(data: bytes) -> None:
    """A catalog's database with this damage in it: it is used, set aside, or fails in words."""
    file = _scratch("catalog.sqlite", _good_catalog())
    at = int.from_bytes(data[:4], "little") % file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data[4:])
    for suffix in ("-wal", "-shm", ".damaged"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    entries = [Entry(f"n{number}", Kind.DIRECTORY) for number in range(20)]
    with closing(Catalog(file, "fuzz", lambda folder: iter(entries), 60.0)) as there:
        there.folder("")
        for child in [*there.children("")][:_MOST_LISTED]:
            there.entry("", os.fsdecode(child[0]))
        there.known_bytes()


_GOOD: list[bytes] = []


def _good_catalog() -> bytes:
    if not _GOOD:
        file = _scratch("good.sqlite", b"")
        file.unlink()
        some = [
            Entry(f"{number}.mp4", Kind.FILE, ObjectInfo(f"k{number}", 5, 7, "v"), "", True) for number in range(300)
        ]
        with closing(Catalog(file, "fuzz", lambda folder: iter(some), 60.0)) as made:
            made.folder("")
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _GOOD.append(file.read_bytes())
    return _GOOD[0]


def _scratch(name: str, data: bytes) -> Path:
    file = Path(_SCRATCH.name) / name
    file.write_bytes(data)
    return file


TARGETS = by_name(
    (
        *video.TARGETS,
        *packed.TARGETS,
        Target("s3-list", s3_list, words, (ValueError, CorruptData)),
        Target("web-page", web_page, words, (ValueError,)),
        Target("webdav", webdav, words, (ValueError,)),
        Target("hub-tree", hub_tree, words),
        Target("drive-items", drive_items, words),
        Target("names", names_of_a_store, words, (UnicodeDecodeError,)),
        Target("file-list", file_list, words, (ValueError,)),
        Target("kinetics", kinetics, words),
        Target("ava", ava, words),
        Target("ego4d-manifest", ego4d_manifest, words),
        Target("ego4d-facts", ego4d_facts, words),
        Target("egoexo4d-manifest", egoexo4d_manifest, words),
        Target("egoexo4d-takes", egoexo4d_takes, words),
        Target("egoexo4d-splits", egoexo4d_splits, words),
        Target("toml", toml, words, (OptionError,)),
        Target("options", options, words, (OptionError,)),
        Target("file-ids", file_ids, plain, (OptionError,)),
        Target("message", message, words, (OptionError,)),
        Target("value", value, plain),
        Target("catalog", catalog, plain),
    )
)
