"""What others name and send, where it was made to do harm: listings, pages, lists, archives, videos, messages.

Each of these did harm once, or is the plainest of its kind; tests/fuzz makes the rest. Those with a limit of time had
none that a person would wait for.
"""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountd import config, invalidation, verification
from tests import clips
from tests.archives import zip_of
from tests.clips import MemoryReader, make_clip
from tests.hubserver import HubServer
from tests.memorysource import MemorySource
from tests.s3server import Body, S3Server
from tests.test_sources import open_source
from vfs import bucketlist, direct, weblisting
from vfs.catalog import Catalog, Entry, Packed, Tree
from vfs.datasets.ego4d.manifest import parse_facts, parse_manifest
from vfs.datasets.egoexo4d import packed
from vfs.datasets.egoexo4d.takes import Items, Splits
from vfs.drive import titles
from vfs.errors import CorruptData, EgofsError, OptionError, SourceError
from vfs.filelist import FileList
from vfs.node import Kind
from vfs.sources import ObjectInfo
from vfs.sources.archives import ArchiveSource
from vfs.sources.local import LocalSource
from vfs.valuefile import Damaged, Value, file_bytes_of, write_image
from vfs.video.index import dumps, loads, read_index

quick = pytest.mark.timeout(40, func_only=True)
DEEP = b"[" * 100_000

# -- the catalog


def catalog(*entries: Entry | tuple[str, Entry | Packed], unpack: Any = None) -> Catalog:
    """A catalog of these entries, or of a tree of them."""
    if entries and isinstance(entries[0], tuple):
        return Catalog(None, "s", lambda folder: Tree(iter(entries)), 60.0, unpack or packed.entries)  # type: ignore[arg-type]
    return Catalog(None, "s", lambda folder: iter(entries), 60.0)  # type: ignore[arg-type]


def file(name: str, size: int = 1, version: str = "v", mtime_ns: int = 0, key: str = "k") -> Entry:
    return Entry(name, Kind.FILE, ObjectInfo(key, size, mtime_ns, version))


def names(catalog: Catalog) -> list[bytes]:
    catalog.folder("")
    return [child[0] for child in catalog.children("")]


@pytest.mark.parametrize(
    "odd",
    [
        file("half\ud800"),
        file("a", version="\udfff\ud800"),
        file("a", key="\ud800"),
        Entry("a", Kind.LINK, target="\ud800"),
        Entry("\ud800", Kind.DIRECTORY),
        file("a", size=1 << 63),
        file("a", size=10**30),
        file("a", mtime_ns=1 << 63),
        file("a", mtime_ns=-(1 << 70)),
    ],
)
def test_an_entry_that_nothing_can_show_is_left_out_and_the_rest_is_whole(odd: Entry) -> None:
    assert names(catalog(file("z"), odd, file("y"))) == [b"y", b"z"]
    assert names(catalog(("", file("z")), ("", odd), ("", file("y")))) == [b"y", b"z"]


def test_folders_whose_names_cannot_be_are_left_out_with_all_below() -> None:
    tree = catalog(("a\ud800/b", file("x")), ("c", file("y")))
    assert names(tree) == [b"c"]


def test_sizes_whose_sum_no_number_holds_are_shown() -> None:
    """SQLite's SUM fails where the sum has more than 63 bits, and all of the listing with it."""
    largest = (1 << 63) - 1
    flat = catalog(file("a", largest), file("b", largest))
    assert names(flat) == [b"a", b"b"]
    assert flat.known_bytes() > 1 << 62
    tree = catalog(
        ("c", file("a", largest)), ("c", file("b", largest)), ("d/e/f", Packed(b"\x95\x90\x90\xa0\xc0\x80", largest))
    )
    assert names(tree) == [b"c", b"d"]
    assert tree.known_bytes() > 1 << 62


@pytest.mark.parametrize("size", [-1, -(10**30), 1 << 63, 10**30, float("inf")])
def test_a_manifests_size_that_none_can_have_is_asked_of_the_store(size: Any) -> None:
    folder, entry = packed.file("takes/t/a.mp4", "s3://b/k", size)
    assert entry.object is not None
    assert (folder, entry.object.size_bytes) == ("takes/t", -1)
    piece = packed.files("takes/t", ["takes/t/a.mp4", "takes/t/b.mp4"], ["s3://b/1", "s3://b/2"], [size, 5])
    assert [entry.object.size_bytes for _, entry in packed.entries([piece.data]) if entry.object] == [-1, 5]
    assert piece.size_bytes == 5


# -- pages and listings


def children(page: str, base: str = "http://host/a/") -> list[tuple[str, bool]]:
    return [(found.name, found.is_folder) for found in weblisting.index(page.encode(), "text/html", base)]


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<a href="b">', [("b", False)]),
        ("<A  HREF = 'b/' >x</A>", [("b", True)]),
        ("<a href=b>", [("b", False)]),
        ("<a class='>' title=\">\" href='b'>", [("b", False)]),
        ("<a href='b' href='c'>", [("b", False)]),
        ("<a href='x&amp;y&#x41;'>", [("x&yA", False)]),
        ("<a\nhref\n=\n'b'\n>", [("b", False)]),
        ("<area href='b'><abbr href='c'><a2 href='d'>", []),
        ("<!-- <a href='no'> --><a href='b'>", [("b", False)]),
        ("<script>'<a href=\"no\">'</script><a href='b'>", [("b", False)]),
        ("<title><a href='no'></TITLE><a href='b'>", [("b", False)]),
        ("<base href='/a/'><a href='b'>", [("b", False)]),
        ("<![ <![CDATA[ <? <! </ < <<a href='b'>", [("b", False)]),
        ("<a =x = href='b'>", []),
        ("<a/href='b'/>", [("b", False)]),
        ("<a href='b", [("'b", False)]),
        ("<a href", []),
        ("<a href=''><a>", []),
    ],
)
def test_links_are_found_as_browsers_find_them(page: str, found: list[tuple[str, bool]]) -> None:
    assert children(page) == found


@quick
@pytest.mark.parametrize(
    "piece",
    ["<!--", "<a", "<a href='", "<a <", "</", "<a x=", "<a x='", "<script>", "<", "<a " + " " * 50, "<a x=\"'", "&"],
)
def test_a_page_made_to_be_slow_is_not(piece: str) -> None:
    """A megabyte of these took html.parser hours."""
    weblisting.index((piece * (1_000_000 // len(piece))).encode(), "text/html", "http://host/a/")


def test_a_list_in_lists_without_end_is_no_page() -> None:
    with pytest.raises(ValueError, match="lists in lists"):
        weblisting.index(DEEP, "application/json", "http://host/a/")


@pytest.mark.parametrize("size", [-1, 10**18, 10**400, True, 1.5, "5", None])
def test_a_size_in_a_page_that_is_none_is_not_told(size: Any) -> None:
    (found,) = weblisting.index(json.dumps([{"name": "a", "size": size}]).encode(), "application/json", "http://h/")
    assert found.size_bytes is None


@pytest.mark.parametrize("size", ["-1", "", "1.5", "0x10", "1_0", "1e3", "9" * 5000])
def test_a_size_in_a_buckets_listing_that_is_none_is_an_error(size: str) -> None:
    page = f"<ListBucketResult><Contents><Key>a</Key><Size>{size}</Size></Contents></ListBucketResult>"
    with pytest.raises(ValueError):  # whichever it is
        bucketlist.parse(page.encode())


@pytest.mark.parametrize("encoding", ["UTF-a8", "x" * 300, "utf-7", "rot13", "\u00fc"])
def test_xml_in_an_encoding_that_there_is_not_is_none(encoding: str) -> None:
    said = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
    try:
        assert bucketlist.parse(said + b"<ListBucketResult/>") is None
    except ValueError:
        pass  # one that there is, and that the parser cannot read
    with pytest.raises(ValueError):  # whichever it is
        weblisting.multistatus(said + b"<multistatus xmlns='DAV:'>", "http://host/")


@quick
def test_entities_of_entities_are_no_listing() -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "a" * 10}">' for n in range(12))
    rows = "<Contents><Key>&e11;</Key><Size>1</Size></Contents>"
    page = f"<!DOCTYPE a [{levels}]><ListBucketResult>{rows}</ListBucketResult>"
    tracemalloc.start()
    try:
        assert bucketlist.parse(page.encode()) is None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_listing_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_MOST_BYTES", 100_000)
    (tmp_path / "bucket").mkdir()
    with S3Server(tmp_path) as server:
        server.faults = lambda request: Body(b" " * 200_000)
        source = open_source("s3://bucket", endpoint_url=server.endpoint_url, anonymous=True)
        with pytest.raises(SourceError, match="which it cannot need"):
            list(source.list(""))
        source.close()


def test_what_a_hub_answers_that_is_no_listing_is_corrupt() -> None:
    entry = {"type": "file", "path": "a", "oid": "0", "size": 1}
    answers = [DEEP, *(json.dumps([entry | odd]).encode() for odd in ({"path": {}}, {"size": -1}, {"size": None}))]
    answers += [json.dumps([entry]).replace(": 1", ": 1e999").encode()]
    with HubServer() as server:
        server.repository("datasets", "org/name").put("a", b"a")
        for answer in answers:
            server.faults = lambda request, answer=answer: Body(answer) if "/tree/" in request.path else None  # type: ignore[misc]
            source = open_source("hf://datasets/org/name", endpoint_url=server.url)
            with pytest.raises(CorruptData):
                list(source.list(""))
            source.close()


@quick
def test_a_hundred_thousand_files_of_one_title_have_names() -> None:
    class Item:
        title, created = "a.mp4", ""

        def __init__(self, number: int) -> None:
            self.id = f"{number:020d}"

    assert len(titles.named(map(Item, range(100_000)))) == 100_000


# -- lists and manifests


@quick
def test_a_manifest_of_a_million_columns_and_a_hundred_thousand_rows_is_read() -> None:
    header = "video_uid,s3_path," + "x," * 1_000_000
    rows = "".join(f"{n:036d},s3://b/k{n}\n" for n in range(100_000))
    assert len(parse_manifest(f"{header}\n{rows}".encode(), "manifest.csv").rows) == 100_000


def test_rows_may_be_shorter_and_longer_than_their_header() -> None:
    text = "x,video_uid,s3_path,benchmarks\n,a,s3://b/k,[EM],y,z,w\n,b,s3://b/l\n,c\n,,\n"
    assert [(row.uid, row.tags) for row in parse_manifest(text.encode(), "m").rows] == [("a", ("em",)), ("b", ())]


@pytest.mark.parametrize("data", [b"\xff", DEEP, b'{"videos": [{"video_uid": "\xff"}]}', b'{"videos": ' + DEEP])
def test_json_that_is_none_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(SourceError):
        parse_facts(data, "ego4d.json")
    with pytest.raises(CorruptData):
        list(Items(dict).read("takes.json", data))
    with pytest.raises(CorruptData):
        Splits(data if data != b'{"videos": [{"video_uid": "\xff"}]}' else b"\xff")


def test_a_list_of_files_with_huge_fields_or_lists_in_lists_is_none() -> None:
    for content in (b"path,url\n" + b"a" * 1_000_000 + b",b\n", DEEP, b'{"path": ' + DEEP):
        with pytest.raises(ValueError):  # whichever it is
            FileList(content, root="https://host/", base="https://host/list")


# -- options and messages


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, 'dataset = "' + "x" * 5000 + '"', 'source = "/\\u0000"', "a = 0000-00-00", "\ufeff["],
)
def test_a_toml_file_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(OptionError) as raised:
        config.load(str(tmp_path / "m.toml"), []).source_module("x://")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", [{}, {"paths": None}, {"paths": "a"}, {"paths": [5]}, {"paths": [["a"]], "jobs": 1}])
def test_a_message_with_other_words_is_refused(words: dict[str, Any]) -> None:
    nothing: Any = None
    for operation in (invalidation.operation(nothing, nothing), verification.operation(nothing, nothing)):
        with pytest.raises(OptionError, match="paths"):
            operation(words, nothing)


@pytest.mark.parametrize("jobs", [None, 0, -1, 65, 10**9, "4", True, 1.5])
def test_a_number_of_jobs_that_is_none_is_refused(jobs: Any) -> None:
    nothing: Any = None
    with pytest.raises(OptionError, match="jobs"):
        verification.operation(nothing, nothing)({"paths": [], "jobs": jobs}, nothing)


# -- archives


@pytest.fixture
def folder_of() -> Iterator[Any]:
    made: list[ArchiveSource] = []

    def opened(data: bytes) -> ArchiveSource:
        made.append(ArchiveSource(MemorySource({"a.zip": data}), None))
        return made[-1]

    yield opened
    for source in made:
        source.close()


def objects(source: ArchiveSource) -> dict[str, ObjectInfo]:
    return {listed.name: listed.object for listed in source.list("a") if listed.object is not None}


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    """A zip with other numbers at a place of its first directory entry."""
    start = data.index(b"PK\1\2") + at
    packed = struct.pack(form, *values)
    return data[:start] + packed + data[start + len(packed) :]


def zip64_saying(size: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo("big")
        # Sizes that do not fit stand in this field of the directory alone.
        info.extra = struct.pack("<HHQ", 1, 8, size)
        archive.writestr(info, b"0123456789")
    return patched(made.getvalue(), 24, "<L", 0xFFFFFFFF)


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_zip64_that_lies_about_a_size_has_that_member_left_out_or_refused(size: int, folder_of: Any) -> None:
    source = folder_of(zip64_saying(size))
    there = objects(source)
    if size >= 1 << 63:  # more than any file can have
        assert there == {}
        return
    assert there["big"].size_bytes == size
    with pytest.raises(CorruptData):
        source.read(there["big"], 0, 10)


def test_a_bomb_that_says_its_size_gives_what_is_asked_and_no_more_memory(folder_of: Any) -> None:
    source = folder_of(zip_of({"bomb": bytes(400 << 20)}))
    bomb = objects(source)["bomb"]
    tracemalloc.start()
    try:
        assert bytes(source.read(bomb, 200 << 20, 1 << 20)) == bytes(1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


def test_members_that_overlap_are_each_what_the_directory_says_or_refused(folder_of: Any) -> None:
    """As in a bomb of many members with the same bytes: each costs its own reading alone."""
    data = zip_of({"one": b"first", "two": b"second"}, zipfile.ZIP_STORED)
    second = data.rindex(b"PK\1\2")
    both = data[: second + 42] + struct.pack("<L", 0) + data[second + 46 :]
    source = folder_of(both)
    there = objects(source)
    assert source.read(there["one"], 0, 5) == b"first"
    with pytest.raises(CorruptData):
        source.read(there["two"], 0, 6)


# -- files of this machine


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_not_there_and_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    try:
        os.mknod(tmp_path / "data/zero", 0o600 | 0o020000, os.makedev(1, 5))
    except OSError as failure:
        pytest.skip(f"no device can be made here: {failure}")
    for name, target in (("dev", "/dev/zero"), ("proc", "/proc/self/environ"), ("loop", "loop"), ("up", "../../etc")):
        (tmp_path / "data" / name).symlink_to(target)
    (tmp_path / "data/link").symlink_to("zero")
    source = LocalSource(str(tmp_path / "data"))
    assert [listed for listed in source.list("") if listed.kind == "file"] == []
    assert {listed.name for listed in source.list("")} <= {"link"}
    for name in ("zero", "dev", "proc", "loop", "up/passwd", "link"):
        with pytest.raises(EgofsError):
            source.read(ObjectInfo(name, 10, 0, ""), 0, 10)
        with pytest.raises(EgofsError):
            source.stat(name)
    source.close()


@pytest.mark.parametrize("kept_bytes", [0, 3, 100_000, 200_000, 200_008])
def test_a_kept_file_that_was_cut_off_gives_no_byte_unchecked(kept_bytes: int, tmp_path: Path) -> None:
    key, length = (bytes(16), 1), 200_000
    image = bytearray(file_bytes_of(length))
    write_image(memoryview(image), key, memoryview(bytes(length)), length)
    image[0] ^= 1
    (tmp_path / "value").write_bytes(image[:kept_bytes])
    value = Value(key, os.open(tmp_path / "value", os.O_RDONLY), length)
    for start in (0, 1, 2):
        with pytest.raises(Damaged):
            value.read(start, 1)


# -- videos


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "c.mp4", frames=12, bframes=0).read_bytes()


def test_behind_an_edit_without_end_nothing_comes(clip: bytes) -> None:
    whole = read_index(MemoryReader(clip), "c")
    for edits in ([(0, 0), (500, 0), (0, 0)], [(0, -1), (0, 0)], [(0, -1), (0, 0), (0, 0)]):
        index = read_index(MemoryReader(clips.with_edits(clip, edits)), "c")
        assert index.pts.tolist() == whole.pts.tolist()


def test_an_edit_list_that_shows_nothing_is_told(clip: bytes) -> None:
    with pytest.raises(EgofsError, match="no frame"):
        read_index(MemoryReader(clips.with_edits(clip, [(0xFFFFFFFF, -1)] * 3 + [(5, 1 << 30)])), "c")


def test_a_kept_index_whose_last_frame_never_ends_is_none(clip: bytes) -> None:
    kept = dumps(read_index(MemoryReader(clip), "c"))
    at = kept.index(b'"duration_ticks": ') + len(b'"duration_ticks": ')
    with pytest.raises(ValueError, match="contradicts itself"):
        loads(kept[:at] + b"1".ljust(kept.index(b",", at) - at) + kept[kept.index(b",", at) :])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz"), b"stsz"),
        ((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"), b"stts"),
        ((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsc"), b"stsc"),
        ((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco"), b"stco"),
        ((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stss"), b"stss"),
        ((b"moov", b"trak", b"edts", b"elst"), b"elst"),
    ],
)
@pytest.mark.parametrize("count", [1 << 20, (1 << 32) - 1])
def test_a_count_that_the_box_has_no_bytes_for_takes_no_memory(
    path: tuple[bytes, ...], kind: bytes, count: int, clip: bytes
) -> None:
    start, _ = clips.box(clip, *path)
    said = clips.patched(clip, start + (8 if kind == b"stsz" else 4), struct.pack(">I", count))
    read_index(MemoryReader(clip), "c")  # imports what it needs
    tracemalloc.start()
    try:
        with pytest.raises(EgofsError):
            read_index(MemoryReader(said), "c")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
