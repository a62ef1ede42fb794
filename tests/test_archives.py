"""Archives as folders, over a source in memory: what is shown, what it costs, and what hostile archives get."""

import gzip
import io
import logging
import random
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import link, tame, tar_gz_of, tar_of, tree, wild, zip_of
from tests.memorysource import MemoryBucket, MemorySource
from vfs.archive import kept
from vfs.errors import AccessDenied, Changed, CorruptData, EgofsError, NotFound, SourceError, Timeout
from vfs.sources import UNKNOWN_SIZE, Listed, ObjectInfo
from vfs.sources.archives import ArchiveSource

MIB = 1 << 20
FILES = {"a.txt": b"alpha", "d/b.bin": wild(3000), "d/e/c.txt": tame(9000), "empty": b""}
FORMS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": zip_of,
    "x.ZIP": lambda files: zip_of(files, zipfile.ZIP_STORED),
    "x.tar": tar_of,
    "x.tar.gz": tar_gz_of,
    "x.tgz": tar_gz_of,
}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[dict[str, bytes]], ArchiveSource]]:
    """Opens objects as a source with archives, each time as another process with the same state would."""
    sources: list[ArchiveSource] = []

    def open_(objects: dict[str, bytes]) -> ArchiveSource:
        sources.append(ArchiveSource(MemorySource(objects), tmp_path / "state"))
        return sources[-1]

    yield open_
    for source in sources:
        source.close()


Open = Callable[[dict[str, bytes]], ArchiveSource]


def inner(source: ArchiveSource) -> MemorySource:
    assert isinstance(source.inner, MemorySource)
    return source.inner


def names(source: ArchiveSource, folder: str = "") -> dict[str, str]:
    found = [*source.list(folder)]
    assert len({entry.name for entry in found}) == len(found)
    return {entry.name: entry.kind for entry in found}


def member(source: ArchiveSource, path: str) -> ObjectInfo:
    folder, _, name = path.rpartition("/")
    found = next(entry for entry in source.list(folder) if entry.name == name)
    assert found.object is not None
    return found.object


def fetched(source: ArchiveSource) -> int:
    return sum(length for _, _, length in inner(source).reads)


# -- what is shown


@pytest.mark.parametrize("name", FORMS)
def test_an_archive_is_a_folder_beside_itself(name: str, opened: Open) -> None:
    source = opened({f"p/{name}": FORMS[name](FILES), "p/other": b"o"})
    assert names(source, "p") == {name: "file", "other": "file", "x": "dir"}
    assert names(source, "p/x") == {"a.txt": "file", "d": "dir", "empty": "file"}
    assert tree(source, "p/x") == {f"p/x/{path}": data for path, data in FILES.items()}


def test_an_archive_costs_nothing_before_its_folder_is_listed(opened: Open) -> None:
    source = opened({"x.zip": zip_of(FILES), "y.tar.gz": tar_gz_of(FILES)})
    assert names(source) == {"x.zip": "file", "y.tar.gz": "file", "x": "dir", "y": "dir"}
    assert (inner(source).reads, inner(source).stats, inner(source).lists) == ([], [], [""])


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        ({"x.zip", "x"}, {"x.zip.d"}),
        ({"x.zip", "x/y"}, {"x.zip.d"}),
        ({"x.zip", "x.tar"}, {"x.zip.d", "x.tar.d"}),
        ({"x.zip", "x.zip.d"}, {"x"}),
        ({"x.zip", "x", "x.zip.d"}, set()),
        ({"x.zip", "X.zip"}, {"x", "X"}),
        ({".zip", ".tar.gz"}, set()),
        ({"x.tar.gz.part", "x.gz", "xzip"}, set()),
        ({"a.b.tar.gz"}, {"a.b"}),
    ],
    ids=lambda names: "+".join(sorted(names)),
)
def test_the_folder_has_a_name_that_nothing_else_has(there: set[str], shown: set[str], opened: Open) -> None:
    for order in (sorted(there), sorted(there, reverse=True)):
        source = opened(dict.fromkeys(order, zip_of(FILES)))
        found = names(source)
        own = {name.split("/")[0] for name in there}
        assert found.keys() - own == shown
        assert all(found[name] == "dir" for name in shown)


def test_names_are_given_as_the_store_lists_them(opened: Open) -> None:
    source = opened({})
    taken = []

    def listing(folder: str) -> Iterator[Listed]:
        for number in range(1000):
            taken.append(number)
            yield Listed(f"n{number}", "dir")

    inner(source).list = listing  # type: ignore[method-assign]
    assert next(source.list("")).name == "n0"
    assert len(taken) == 1


@pytest.mark.parametrize("top", ["x", "deep/er/x", "./x"])
def test_a_single_top_folder_of_the_archives_name_is_what_is_shown(top: str, opened: Open) -> None:
    source = opened({"x.zip": zip_of({f"{top}/{path}": data for path, data in FILES.items()})})
    assert tree(source, "x") == {f"x/{path}": data for path, data in FILES.items()}


@pytest.mark.parametrize("files", [{"y/a": b"1"}, {"x/a": b"1", "b": b"2"}, {"deep/x/a": b"1", "deep/b": b"2"}])
def test_any_other_top_folder_is_shown(files: dict[str, bytes], opened: Open) -> None:
    source = opened({"x.zip": zip_of(files)})
    assert tree(source, "x") == {f"x/{path}": data for path, data in files.items()}


def test_what_macos_adds_is_left_out(opened: Open) -> None:
    files = {"x/a": b"1", "x/._a": b"2", "__MACOSX/x/._a": b"3", "._x": b"4"}
    assert tree(opened({"x.zip": zip_of(files)}), "x") == {"x/a": b"1"}
    assert tree(opened({"x.tar.gz": tar_gz_of(files)}), "x") == {"x/a": b"1"}


def test_folders_are_there_with_and_without_a_member_of_their_own(opened: Open) -> None:
    for form in (zip_of, tar_of, tar_gz_of):
        name = {zip_of: "x.zip", tar_of: "x.tar", tar_gz_of: "x.tgz"}[form]
        source = opened({name: form({"told/": b"", "made/up/f": b"1", "told/f": b"2"})})  # type: ignore[operator]
        assert tree(source, "x") == {"x/made/up/f": b"1", "x/told/f": b"2"}
        source = opened({name: form({"empty/": b"", "f": b"1"})})  # type: ignore[operator]
        assert tree(source, "x") == {"x/empty/": "", "x/f": b"1"}


def test_what_an_archive_is_tells_how_it_is_read_and_not_its_name(opened: Open) -> None:
    objects = {"plain.tar.gz": tar_of(FILES), "gzipped.tar": tar_gz_of(FILES), "zipped.tgz": zip_of(FILES)}
    source = opened(objects)
    for name in ("plain", "gzipped", "zipped"):
        assert tree(source, name) == {f"{name}/{path}": data for path, data in FILES.items()}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_tars_are_whole_in_every_format(format: int, opened: Open) -> None:
    long = "/".join(["some folder"] * 9)
    files = {"ünï/日本": b"1", f"{long}/f": b"2"}
    if format != tarfile.USTAR_FORMAT:
        files["n" * 200] = b"3"
    assert tree(opened({"x.tar": tar_of(files, format)}), "x") == {f"x/{path}": data for path, data in files.items()}


def test_names_of_zips_are_read_in_utf_8_and_in_the_code_page_of_dos(opened: Open) -> None:
    plain = zip_of({"uber": b"1", "日本": b"2"})
    # The first name with a letter of code page 437, in both of its places.
    assert tree(opened({"x.zip": plain.replace(b"uber", b"\x81ber")}), "x") == {"x/über": b"1", "x/日本": b"2"}


def test_the_later_of_two_members_of_one_name_is_shown_and_a_folder_before_a_file(opened: Open) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in [
            ("a", b"old"),
            ("f", b"file"),
            ("f/in", b"in"),
            ("a", b"new"),
            ("g/in", b"in"),
            ("g", b"no"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert tree(opened({"x.tar": made.getvalue()}), "x") == {"x/a": b"new", "x/f/in": b"in", "x/g/in": b"in"}


def test_links_of_tars_lead_where_they_did(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "d/file": b"bytes",
        "near": link("near", "d/file"),
        "d/up": link("d/up", "../d/./file"),
        "d/loop": link("d/loop", "loop"),
        "d/hard": link("d/hard", "d/file", tarfile.LNKTYPE),
        "out": link("out", "../out"),
        "d/far": link("d/far", "../../x/d/file"),
        "abs": link("abs", "/etc/passwd"),
        "tricky": link("tricky", "d/../../../etc/passwd"),
        "behind": link("behind", "near/../.."),
        "lost": link("lost", "no/such", tarfile.LNKTYPE),
        "device": link("device", "", tarfile.CHRTYPE),
    }
    for name, data in (("x.tar", tar_of(files)), ("x.tgz", tar_gz_of(files))):
        caplog.clear()
        assert tree(opened({name: data}), "x") == {
            "x/d/file": b"bytes",
            "x/near": "-> d/file",
            "x/d/up": "-> ../d/./file",
            "x/d/loop": "-> loop",
            "x/d/hard": b"bytes",
        }
        assert "5 members are left out: they are links that lead out" in caplog.text
        assert "1 members are left out: they are hard links" in caplog.text


def test_links_of_zips_lead_where_they_did(opened: Open) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/file", b"bytes")
        for name, target in (("near", "d/file"), ("out", "../../etc")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    assert tree(opened({"x.zip": made.getvalue()}), "x") == {"x/d/file": b"bytes", "x/near": "-> d/file"}


# -- what it costs


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_ten_thousand_members_is_listed_by_two_requests(method: int, opened: Open) -> None:
    files = {f"d{number % 10}/frame_{number:010d}.jpg": wild(200, number) for number in range(10_000)}
    data = zip_of(files, method)
    source = opened({"x.zip": data})
    assert sum(len(names(source, f"x/d{digit}")) for digit in range(10)) == 10_000
    assert len(inner(source).reads) == 2
    assert inner(source).stats == []
    assert fetched(source) < len(data) / 2
    inner(source).reads.clear()
    obj = member(source, "x/d3/frame_0000000123.jpg")
    assert source.read(obj, 0, obj.size_bytes) == files["d3/frame_0000000123.jpg"]
    assert len(inner(source).reads) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [1, 100_000, 3 * MIB])
def test_reading_a_member_costs_its_own_size_and_one_request(size: int, method: int, opened: Open) -> None:
    source = opened({"x.zip": zip_of({"before": wild(5 * MIB), "f": tame(size), "after": wild(5 * MIB)}, method)})
    obj = member(source, "x/f")
    inner(source).reads.clear()
    assert source.read(obj, 0, size) == tame(size)
    assert len(inner(source).reads) == 1
    assert fetched(source) <= size + 1024


def test_a_range_of_a_stored_member_is_a_range_of_the_zip(opened: Open) -> None:
    data = wild(8 * MIB)
    source = opened({"x.zip": zip_of({"f": data}, zipfile.ZIP_STORED)})
    obj = member(source, "x/f")
    for start, length in [(5 * MIB, 1000), (6 * MIB, MIB), (0, 10), (8 * MIB - 1, 1)]:
        inner(source).reads.clear()
        assert source.read(obj, start, length) == data[start : start + length]
        assert fetched(source) <= length + 30


def test_pieces_of_a_small_deflated_member_are_fetched_once(opened: Open) -> None:
    data = tame(3 * MIB)
    source = opened({"x.zip": zip_of({"f": data})})
    obj = member(source, "x/f")
    inner(source).reads.clear()
    for start in range(0, len(data), 128 << 10):
        assert source.read(obj, start, 128 << 10) == data[start : start + (128 << 10)]
    assert len(inner(source).reads) == 1


def test_a_tar_is_listed_by_its_headers_alone(opened: Open) -> None:
    files = {f"v{number}": wild(2 * MIB, number) for number in range(20)}
    source = opened({"x.tar": tar_of(files)})
    assert len(names(source, "x")) == 20
    assert len(inner(source).reads) <= 22
    assert fetched(source) <= 22 * (32 << 10)
    obj = member(source, "x/v7")
    inner(source).reads.clear()
    assert source.read(obj, 12345, 6789) == files["v7"][12345 : 12345 + 6789]
    assert [length for _, _, length in inner(source).reads] == [6789]


def test_a_tar_of_small_members_is_read_through(opened: Open) -> None:
    data = tar_of({f"f{number}": wild(10_000, number) for number in range(1000)})
    source = opened({"x.tar": data})
    assert len(names(source, "x")) == 1000
    assert len(inner(source).reads) < 15
    assert fetched(source) <= len(data) + 1024


def test_a_gzipped_tar_is_read_once_and_then_any_member_from_near(opened: Open, tmp_path: Path) -> None:
    files = {f"m{number:03d}": tame(MIB, number) if number % 3 else wild(MIB, number) for number in range(40)}
    data = tar_gz_of(files, level=1)
    source = opened({"x.tar.gz": data})
    assert len(names(source, "x")) == 40
    assert fetched(source) <= len(data) + 4096
    rng = random.Random(5)
    for _ in range(20):
        name = rng.choice([*files])
        start = rng.randrange(MIB)
        length = rng.randrange(1, MIB - start + 1)
        source = opened({"x.tar.gz": data})  # nothing is in memory
        obj = member(source, f"x/{name}")
        assert source.read(obj, start, length) == files[name][start : start + length]
        assert fetched(source) <= 12 * MIB
        assert len(inner(source).reads) <= 2
    assert sum(path.stat().st_size for path in (tmp_path / "state").glob("*/*")) < MIB


def test_reading_a_gzipped_tar_from_end_to_end_fetches_it_once_more(opened: Open) -> None:
    files = {f"m{number:03d}": tame(MIB, number) for number in range(24)}
    data = tar_gz_of(files, level=1)
    source = opened({"x.tar.gz": data})
    objects = [entry.object for entry in source.list("x") if entry.object]
    inner(source).reads.clear()
    for obj in objects:
        read = b"".join(source.read(obj, start, 128 << 10) for start in range(0, MIB, 128 << 10))
        assert read == files[obj.key.removeprefix("x/")]
    assert fetched(source) < 1.1 * len(data)


def test_a_large_deflated_member_is_read_once_and_then_from_near(opened: Open) -> None:
    data = tame(20 * MIB)
    packed = zip_of({"other": wild(1000), "f": data})
    source = opened({"x.zip": packed})
    obj = member(source, "x/f")
    assert source.read(obj, 15 * MIB, 1000) == data[15 * MIB : 15 * MIB + 1000]
    assert fetched(source) < len(packed) + 16 * MIB
    source = opened({"x.zip": packed})
    for start, length in [(0, 5), (7 * MIB - 3, 6 * MIB), (20 * MIB - 1, 1), (0, 20 * MIB)]:
        assert source.read(obj, start, length) == data[start : start + length]
    assert fetched(source) < 1.2 * len(packed)


@pytest.mark.parametrize("name", FORMS)
def test_a_second_mount_asks_nothing_for_what_is_known_of_an_archive(name: str, opened: Open) -> None:
    objects = {name: FORMS[name](FILES)}
    assert tree(opened(objects), "x")
    source = opened(objects)
    assert len(names(source)) == 2
    inner(source).lists.clear()
    assert names(source, "x") == {"a.txt": "file", "d": "dir", "empty": "file"}
    assert (inner(source).reads, inner(source).stats, inner(source).lists) == ([], [], [])


def test_a_folder_inside_an_archive_is_found_after_a_restart(opened: Open) -> None:
    source = opened({"a/b/x.zip": zip_of(FILES), "a/b/y": b"1"})
    assert names(source, "a/b/x/d/e") == {"c.txt": "file"}
    # That folder and the two above it, which the store does not have, and the one that has the archive.
    assert inner(source).lists == ["a/b/x/d/e", "a/b/x/d", "a/b/x", "a/b"]
    assert inner(source).stats == []
    assert source.stat("a/b/x/a.txt").size_bytes == 5
    assert len(inner(source).lists) == 4


def test_what_is_in_no_archive_either_is_not_there(opened: Open) -> None:
    source = opened({"a/x.zip": zip_of(FILES), "b/c": b"1"})
    for path in ("nothing", "a/nothing/at/all", "a/x/nothing", "a/x/a.txt", "b/x", "a/x.zip/d", "a/x.zip.d"):
        with pytest.raises(NotFound):
            next(source.list(path), None)
    for path in ("nothing", "a/x", "a/x/d", "a/x/d/nothing"):
        with pytest.raises(NotFound):
            source.stat(path)


def test_nothing_is_listed_for_an_object_that_is_not_there(opened: Open) -> None:
    source = opened({"a/x.zip": zip_of(FILES)})
    for path in ("nothing", "a/nothing", "a/x/a.txt", "b/c/d"):
        with pytest.raises(NotFound):
            source.stat(path)
    assert inner(source).lists == []


def test_a_folder_above_that_may_not_be_listed_makes_no_refusal_of_what_is_not_there(opened: Open) -> None:
    source = opened({"a/x.zip": zip_of(FILES)})
    listed = inner(source).list

    def refused(folder: str) -> Iterator[Listed]:
        if folder in ("", "a"):
            raise AccessDenied(f"list {folder}")
        return listed(folder)

    inner(source).list = refused  # type: ignore[method-assign]
    with pytest.raises(NotFound):
        next(source.list("a/nothing"), None)
    with pytest.raises(AccessDenied):
        next(source.list("a"), None)


def test_a_tree_without_archives_costs_what_it_did(opened: Open) -> None:
    objects = {f"d{number % 3}/f{number}": wild(10, number) for number in range(30)}
    plain, source = MemorySource(objects), opened(objects)
    for each in (plain, source):
        assert len(tree(each)) == 30  # type: ignore[arg-type]
        each.stat("d0/f0")
        for missing in ("d9", "d0/d9"):
            with pytest.raises(NotFound):
                next(each.list(missing), None)
    assert (inner(source).lists, inner(source).reads, inner(source).stats) == (plain.lists, plain.reads, plain.stats)


def test_what_lists_by_pages_is_listed_once(tmp_path: Path) -> None:
    bucket = MemoryBucket({f"f{number:04d}": b"" for number in range(2500)} | {"f1000.zip": zip_of(FILES)})
    source = ArchiveSource(bucket, tmp_path)
    # The archive comes a page after the file that has its stem.
    assert {entry.name for entry in source.list("")} - bucket.objects.keys() == {"f1000.zip.d"}
    assert len(bucket.pages) == 3
    source.close()


# -- versions


def test_a_members_version_tells_the_archives_and_the_place(opened: Open) -> None:
    source = opened({"x.zip": zip_of(FILES), "y.zip": zip_of(FILES)})
    versions = {entry.object.version for x in "xy" for entry in source.list(x) if entry.object}
    assert len(versions) == 4
    assert member(source, "x/a.txt") == member(opened(inner(source).objects), "x/a.txt")
    inner(source).objects["x.zip"] += b"\0"
    assert member(opened(inner(source).objects), "x/a.txt").version not in versions


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_member_of_a_replaced_archive_has_changed_and_the_next_listing_is_right(name: str, opened: Open) -> None:
    make = FORMS[name]
    source = opened({name: make({"f": tame(6 * MIB)})})
    obj = member(source, "x/f")
    inner(source).objects[name] = make({"f": b"new"})
    with pytest.raises(Changed):
        source.read(obj, 0, 10)
    now = member(source, "x/f")
    assert source.read(now, 0, 3) == b"new"
    assert inner(source).stats == [name]


def test_an_archive_that_was_replaced_before_it_was_opened_is_read_as_it_is_now(opened: Open) -> None:
    source = opened({"x.zip": zip_of({"old": b"1"})})
    assert "x" in names(source)
    inner(source).objects["x.zip"] = zip_of({"new": b"2"})
    assert names(source, "x") == {"new": "file"}


def test_an_archive_is_looked_at_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    source = ArchiveSource(MemorySource({"x.zip": zip_of({"old": b"1"})}), tmp_path, clock=lambda: now[0])
    assert names(source)["x"] == "dir"
    assert names(source, "x") == {"old": "file"}
    inner(source).objects["x.zip"] = zip_of({"new": b"2"})
    now[0] = 29
    assert names(source, "x") == {"old": "file"}
    now[0] = 61
    assert names(source, "x") == {"new": "file"}
    assert inner(source).stats == ["x.zip"]
    del inner(source).objects["x.zip"]
    now[0] = 99
    with pytest.raises(NotFound):
        names(source, "x")
    source.close()


def test_a_member_that_was_named_without_its_version_is_read_where_its_size_is_right(opened: Open) -> None:
    source = opened({"x.zip": zip_of(FILES)})
    obj = replace(member(source, "x/a.txt"), version="")
    names(source)
    assert source.read(obj, 1, 3) == b"lph"
    with pytest.raises(Changed):
        source.read(replace(obj, size_bytes=4), 1, 3)


# -- indices


def index_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state").glob("*/*"))


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-100], lambda data: data[:5000] + b"?" + data[5001:], lambda data: b""]
)
def test_a_damaged_index_is_made_anew(harm: Callable[[bytes], bytes], opened: Open, tmp_path: Path) -> None:
    objects = {"x.tar.gz": tar_gz_of(FILES)}
    assert tree(opened(objects), "x")
    (file,) = index_files(tmp_path)
    file.write_bytes(harm(file.read_bytes()))
    source = opened(objects)
    assert tree(source, "x") == {f"x/{path}": data for path, data in FILES.items()}
    assert index_files(tmp_path) == [file]


def test_indices_that_are_deleted_meanwhile_are_made_anew(opened: Open, tmp_path: Path) -> None:
    source = opened({"x.tar.gz": tar_gz_of(FILES)})
    obj = member(source, "x/d/b.bin")
    for file in index_files(tmp_path):
        file.unlink()
    assert source.read(obj, 5, 50) == FILES["d/b.bin"][5:55]


@pytest.mark.parametrize("state", [None, Path("/proc/none"), Path(__file__) / "below"])
def test_without_a_place_for_indices_they_last_as_long_as_the_source(state: Path | None) -> None:
    source = ArchiveSource(MemorySource({"x.tar.gz": tar_gz_of(FILES)}), state)
    assert tree(source, "x") == {f"x/{path}": data for path, data in FILES.items()}
    source.close()


def test_stores_of_different_urls_do_not_share_an_index(tmp_path: Path) -> None:
    for url in ("memory://1", "memory://2"):
        source = ArchiveSource(MemorySource({"x.zip": zip_of(FILES)}, url), tmp_path)
        assert names(source, "x")
        assert inner(source).reads
        source.close()


def test_many_who_ask_at_once_have_the_archive_read_once(opened: Open) -> None:
    files = {f"m{number}": tame(MIB, number) for number in range(16)}
    data = tar_gz_of(files, 1)
    source = opened({"x.tgz": data})
    inner(source).delay_s = 0.01
    with ThreadPoolExecutor(16) as threads:
        found = [*threads.map(lambda _: len(names(source, "x")), range(16))]
        assert found == [16] * 16
        assert fetched(source) <= len(data) + 4096
        inner(source).reads.clear()
        objects = [member(source, f"x/m{number}") for number in range(16)]
        parts = threads.map(lambda obj: source.read(obj, 1000, 5000), objects * 4)
        assert [*parts] == [files[f"m{number}"][1000:6000] for number in range(16)] * 4
    assert fetched(source) <= 1.1 * len(data)


def test_who_waits_too_long_is_told_how_far_it_is_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept.Kept.__init__, "__kwdefaults__", {"wait_s": 0.1})
    data = tar_gz_of({"f": wild(20 * MIB)}, 1)
    source = ArchiveSource(MemorySource({"x.tgz": data}), tmp_path)
    go_on, reads = threading.Event(), []

    def before_read() -> None:
        reads.append(1)
        if len(reads) > 3:
            assert go_on.wait(60)

    inner(source).before_read = before_read
    for _ in range(3):
        with pytest.raises(Timeout, match=r"x.tgz: is being read for its index, \d+ of 20 MiB so far: try again"):
            names(source, "x")
    go_on.set()
    for _ in range(600):
        try:
            assert names(source, "x") == {"f": "file"}
            break
        except Timeout:
            continue
    assert fetched(source) <= len(data) + 4096
    source.close()


def test_what_is_being_made_ends_with_the_source(tmp_path: Path) -> None:
    source = ArchiveSource(MemorySource({"x.tgz": tar_gz_of({"f": wild(40 * MIB)}, 1)}), tmp_path)
    first, go_on = threading.Event(), threading.Event()

    def before_read() -> None:
        first.set()
        assert go_on.wait(60)

    inner(source).before_read = before_read
    with ThreadPoolExecutor(1) as threads:
        listing = threads.submit(names, source, "x")
        assert first.wait(60)
        source.close()
        go_on.set()
        with pytest.raises(EgofsError, match="this mount has ended"):
            listing.result()
    assert list(tmp_path.glob("*/*")) == []


# -- every member and any range, against Python's own modules

CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 200_000).map(tame),
    st.integers(0, 100_000).map(wild),
    st.integers(0, 500_000).map(bytes),
)
PARTS = st.sampled_from(["a", "b", "c d", "é", "ff.zip"])
TREES = st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map("/".join), CONTENTS, max_size=8)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def without_files_that_are_folders(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)}


@FEW
@given(TREES, st.sampled_from(sorted(FORMS)), st.data())
def test_all_members_and_ranges_are_those_that_unpacking_gives(
    files: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    files = without_files_that_are_folders(files) | {"top": b"t"}
    # Drawing may end the example.
    with closing(ArchiveSource(MemorySource({name: FORMS[name](files)}), None)) as source:
        assert tree(source, "x") == {f"x/{path}": content for path, content in files.items()}
        for path, content in files.items():
            if content:
                start = data.draw(st.integers(0, len(content) - 1))
                length = data.draw(st.integers(1, len(content) - start))
                assert source.read(source.stat(f"x/{path}"), start, length) == content[start : start + length]


@FEW
@given(st.sampled_from(["x.zip", "x.tar", "x.tar.gz"]), st.data())
def test_a_harmed_archive_gives_the_right_bytes_or_an_error(name: str, data: st.DataObject) -> None:
    files = {"a": tame(2000), "d/b": wild(700), "c": b""}
    packed = bytearray(FORMS[name](files))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    packed = packed[: data.draw(st.sampled_from([len(packed), len(packed) - 3, len(packed) // 2]))]
    source = ArchiveSource(MemorySource({name: bytes(packed)}), None)
    try:
        for entry in [*source.list("x"), *source.list("x/d")]:
            if entry.object is None or entry.object.size_bytes == 0:
                continue
            try:
                read = source.read(entry.object, 0, entry.object.size_bytes)
            except EgofsError:
                continue
            assert len(read) == entry.object.size_bytes
            if name != "x.tar":  # which has checksums of its headers alone
                assert read in files.values()
    except EgofsError:
        pass
    finally:
        source.close()


# -- zips out of the ordinary


def test_a_zip64_is_read(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    data = zip_of(FILES)
    assert b"PK\6\6" in data
    assert tree(opened({"x.zip": data}), "x") == {f"x/{path}": content for path, content in FILES.items()}


def test_a_zip_behind_something_else_and_with_a_comment_is_read(opened: Open) -> None:
    made = io.BytesIO(zip_of(FILES))
    with zipfile.ZipFile(made, "a") as archive:
        archive.comment = b"PK\5\6" + wild(20)
    data = wild(1000) + made.getvalue()
    assert tree(opened({"x.zip": data}), "x") == {f"x/{path}": content for path, content in FILES.items()}


@pytest.mark.parametrize("extra", [0, 28, 5000, 65_000])
def test_the_header_before_a_member_may_be_longer_than_the_directory_says(extra: int, opened: Open) -> None:
    plain = zip_of({"f": tame(9000)})
    at = plain.index(b"PK\3\4")
    header = bytearray(plain[at : at + 31])
    struct.pack_into("<H", header, 28, extra)
    data = bytearray(bytes(header) + bytes(extra) + plain[at + 31 :])
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<L", data, end + 16, struct.unpack_from("<L", data, end + 16)[0] + extra)
    source = opened({"x.zip": bytes(data)})
    assert tree(source, "x") == {"x/f": tame(9000)}


def test_members_without_sizes_in_front_of_them_are_read(opened: Open) -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *where: int) -> int:
            raise OSError

    made = Unseekable()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert tree(opened({"x.zip": made.getvalue()}), "x") == {f"x/{path}": data for path, data in FILES.items()}


@pytest.mark.parametrize(
    ("method", "said"), [(zipfile.ZIP_BZIP2, "is bzip2, which"), (zipfile.ZIP_LZMA, "is LZMA, which")]
)
def test_members_packed_in_other_ways_are_listed_and_refused_with_the_remedy(
    method: int, said: str, opened: Open
) -> None:
    source = opened({"x.zip": zip_of({"f": tame(1000)}, method)})
    obj = member(source, "x/f")
    assert obj.size_bytes == 1000
    with pytest.raises(SourceError, match=f"x/f: {said} is not read in place: unpack the archive"):
        source.read(obj, 0, 10)


def test_an_encrypted_member_is_listed_and_refused_with_the_remedy(opened: Open) -> None:
    data = bytearray(zip_of({"f": tame(1000)}))
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + at] |= 1
    source = opened({"x.zip": bytes(data)})
    with pytest.raises(SourceError, match="x/f: is encrypted: unpack the archive with its password"):
        source.read(member(source, "x/f"), 0, 10)


def with_size(data: bytes, size: int, packed: int | None = None, crc: int | None = None) -> bytes:
    """A zip of one member whose directory says something else of it."""
    changed = bytearray(data)
    at = changed.index(b"PK\1\2")
    struct.pack_into("<L", changed, at + 24, size)
    if packed is not None:
        struct.pack_into("<L", changed, at + 20, packed)
    if crc is not None:
        struct.pack_into("<L", changed, at + 16, crc)
    return bytes(changed)


@pytest.mark.parametrize(
    "data",
    [
        with_size(zip_of({"f": tame(1000)}), 999),
        with_size(zip_of({"f": tame(1000)}), 1001),
        with_size(zip_of({"f": tame(1000)}), 3 << 20),
        with_size(zip_of({"f": tame(1000)}), 3 << 30),
        with_size(zip_of({"f": tame(5 * MIB)}), 5 * MIB - 1),
        with_size(zip_of({"f": tame(5 * MIB)}), 5 * MIB + 1),
        with_size(zip_of({"f": tame(5 * MIB)}), 5 * MIB, crc=7),
        with_size(zip_of({"f": tame(1000)}), 1000, crc=7),
        with_size(zip_of({"f": tame(1000)}), 1000, packed=50),
        with_size(zip_of({"f": tame(1000)}), 1000, packed=2_000_000),
        with_size(zip_of({"f": tame(1000)}), 1000, packed=4_000_000_000),
        with_size(zip_of({"f": tame(1000)}, zipfile.ZIP_STORED), 1001),
        with_size(zip_of({"f": tame(1000)}, zipfile.ZIP_STORED), 999),
        with_size(zip_of({"f": tame(1000)}, zipfile.ZIP_STORED), 1000, crc=7),
        with_size(zip_of({"f": tame(1000)}, zipfile.ZIP_STORED), 5000, packed=5000),
        zip_of({"f": tame(1000)}).replace(b"PK\3\4", b"PK\3\5"),
    ],
    ids=range(16),
)
def test_a_member_that_is_not_what_the_directory_says_is_corrupt(data: bytes, opened: Open) -> None:
    source = opened({"x.zip": data})
    obj = member(source, "x/f")
    with pytest.raises(CorruptData, match="x/f"):
        source.read(obj, 0, obj.size_bytes)
    assert names(source, "x") == {"f": "file"}


# -- archives that cannot be read

BROKEN = {
    "empty.zip": b"",
    "empty.tar": b"",
    "text.zip": b"this is no zip" * 100,
    "text.tar": b"this is no tar" * 100,
    "text.tar.gz": b"neither is this" * 100,
    "cut.zip": zip_of(FILES)[:-30],
    "headless.zip": zip_of(FILES)[200:],
    "cut.tar": tar_of(FILES)[:2000],
    "cut.tar.gz": tar_gz_of(FILES)[:-200],
    "crc.tar.gz": tar_gz_of(FILES)[:-8] + bytes(8),
    "text.tgz": gzip.compress(b"no tar in here" * 100),
    "hole.tar": tar_of(FILES)[:1024] + b"?" * 512 + tar_of(FILES)[1536:],
    "xz.tar.gz": b"\xfd7zXZ\0" + wild(1000),
    "parts.zip": zip_of(FILES)[:-18] + b"\1\0\1\0" + zip_of(FILES)[-14:],
    "count.zip": zip_of(FILES)[:-14] + b"\xff\xff\xff\xff" + zip_of(FILES)[-10:],
    "size.tar": tar_of(FILES)[:124] + b"\xff" * 12 + tar_of(FILES)[136:],
    "long.tar": tar_of({"n" * 200: b""})[:124] + b"77777777777\0" + tar_of({"n" * 200: b""})[136:],
    "nested.tar": tar_of({"n" * 200: b""})[:1024] * 2000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_archive_that_cannot_be_read_says_so_once_and_stays_a_file(
    name: str, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    source = opened({name: BROKEN[name], "good.zip": zip_of(FILES)})
    stem = name.split(".")[0]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises((CorruptData, SourceError)) as caught:
                names(source, stem)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
    assert len(caplog.records) == 1
    reads = len(inner(source).reads)
    with pytest.raises((CorruptData, SourceError)):
        names(source, stem)
    assert len(inner(source).reads) == reads
    whole = member(source, name)
    assert not BROKEN[name] or source.read(whole, 0, whole.size_bytes) == BROKEN[name]
    assert "good" in names(source)
    assert len(names(source, "good")) == 3


HOSTILE_NAMES = ["../out", "a/../../out", "/abs/olute", "..", "/", "a/./b", "a//c", "x" * 5000, "nul\0name"]


def test_no_name_leads_out_of_an_archive(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    made, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, tarfile.open(fileobj=tarred, mode="w") as tar:
        for number, name in enumerate(HOSTILE_NAMES):
            info = zipfile.ZipInfo(f"{number:05d}")
            info.filename = name
            archive.writestr(info, name)
            packed = tarfile.TarInfo(name)
            packed.size = 1
            tar.addfile(packed, io.BytesIO(b"1"))
    for archive_name, data in (("x.zip", made.getvalue()), ("x.tar", tarred.getvalue())):
        source = opened({archive_name: data})
        shown = set(tree(source, "x")) - {"x/nul"}  # a tar's names end at a NUL
        assert shown == {"x/abs/olute", "x/a/b", "x/a/c"}
        assert "members are left out: their names" in caplog.text
        caplog.clear()


def test_sparse_members_of_a_tar_are_left_out_with_the_remedy(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    sparse = tarfile.TarInfo("sparse")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100000"}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        body = b"1\n0\n512\n".ljust(512, b"\0") + b"s" * 512
        sparse.size = len(body)
        archive.addfile(sparse, io.BytesIO(body))
        plain = tarfile.TarInfo("plain")
        plain.size = 3
        archive.addfile(plain, io.BytesIO(b"abc"))
    assert tree(opened({"x.tar": made.getvalue()}), "x") == {"x/plain": b"abc"}
    assert "1 members are left out: they are sparse files of GNU tar" in caplog.text


def test_a_bomb_is_inflated_as_far_as_is_asked(opened: Open) -> None:
    import tracemalloc

    size = 160 * MIB
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(160)) + packer.flush()
    crc = 0
    for _ in range(160):
        crc = zlib.crc32(bytes(MIB), crc)
    plain = zip_of({"f": b"1"})
    local = bytearray(plain[:31])
    struct.pack_into("<H", local, 8, 8)
    entry = bytearray(plain[plain.index(b"PK\1\2") : plain.index(b"PK\5\6")])
    struct.pack_into("<3L", entry, 16, crc, len(packed), size)
    struct.pack_into("<H", entry, 10, 8)
    end = bytearray(plain[-22:])
    struct.pack_into("<L", end, 16, 31 + len(packed))
    source = opened({"x.zip": bytes(local) + packed + bytes(entry) + bytes(end)})
    obj = member(source, "x/f")
    tracemalloc.start()
    try:
        assert source.read(obj, size - 1000, 1000) == bytes(1000)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


class _Unsized(MemorySource):
    """Lists names alone, as an index page does."""

    def list(self, folder: str) -> Iterator[Listed]:
        for listed in super().list(folder):
            obj = listed.object and ObjectInfo(listed.object.key, UNKNOWN_SIZE, 0, "")
            yield replace(listed, object=obj)


def test_an_archive_whose_size_is_not_listed_is_asked_for_once_and_only_when_it_is_looked_into() -> None:
    source = _Unsized({"a/x.zip": zip_of({"f": b"hello"}), "a/y.tar.gz": tar_gz_of({"g": b"hello"})})
    archives = ArchiveSource(source, None)
    assert [listed.name for listed in archives.list("a")] == ["x.zip", "y.tar.gz", "x", "y"]
    assert source.stats == []
    for folder, name in (("a/x", "f"), ("a/y", "g")):
        (listed,) = archives.list(folder)
        assert listed.name == name
        assert listed.object is not None
        assert archives.read(listed.object, 1, 3) == b"ell"
    assert source.stats == ["a/x.zip", "a/y.tar.gz"]
    archives.close()
