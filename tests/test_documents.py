import os
from pathlib import Path

import pytest

from tests.memorysource import MemorySource
from vfs import documents
from vfs.documents import Documents
from vfs.errors import NotFound, Unavailable
from vfs.sources import UNKNOWN_SIZE, ObjectInfo


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> MemorySource:
    monkeypatch.setattr(documents, "_PIECE_BYTES", 1000)
    return MemorySource({"small.csv": b"a,b\n", "large.json": bytes(range(256)) * 20, "empty": b""})


def test_a_document_is_read_whole_in_ranges(source, tmp_path) -> None:
    assert Documents(source, tmp_path).read("large.json") == source.objects["large.json"]
    assert sorted(source.reads) == [("large.json", start, min(1000, 5120 - start)) for start in range(0, 5120, 1000)]


def test_a_document_is_bytes_whatever_the_source_gives(source, monkeypatch) -> None:
    read = source.read
    monkeypatch.setattr(source, "read", lambda *arguments: memoryview(read(*arguments)))
    assert Documents(source, None).read("small.csv").decode() == "a,b\n"


def test_a_document_is_fetched_once_a_version(source, tmp_path) -> None:
    for _ in range(2):
        assert Documents(source, tmp_path / "not" / "there").read("small.csv") == b"a,b\n"
    assert len(source.reads) == 1
    source.objects["small.csv"] = b"a,c\n"
    assert Documents(source, tmp_path / "not" / "there").read("small.csv") == b"a,c\n"


def test_a_kept_document_that_is_cut_off_is_fetched_again(source, tmp_path) -> None:
    assert Documents(source, tmp_path).read("small.csv") == b"a,b\n"
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"a")
    assert Documents(source, tmp_path).read("small.csv") == b"a,b\n"
    assert kept.read_bytes() == b"a,b\n"


def test_documents_of_two_sources_are_not_taken_for_each_other(source, tmp_path) -> None:
    other = MemorySource(dict(source.objects), "memory://other")
    assert Documents(source, tmp_path).read("small.csv") == Documents(other, tmp_path).read("small.csv")
    assert len(other.reads) == 1


def test_a_folder_that_cannot_be_written_is_no_failure(source, tmp_path) -> None:
    (tmp_path / "file").touch()
    assert Documents(source, tmp_path / "file" / "below").read("small.csv") == b"a,b\n"
    assert os.listdir(tmp_path) == ["file"]


def test_of_several_documents_those_that_are_not_there_are_none(source, tmp_path) -> None:
    there = Documents(source, tmp_path).read_all(["small.csv", "missing", "empty"])
    assert there == {"small.csv": b"a,b\n", "missing": None, "empty": b""}
    sizes = Documents(source, tmp_path).stat_all(["small.csv", "missing"])
    assert {key: found and found.size_bytes for key, found in sizes.items()} == {"small.csv": 4, "missing": None}


def test_a_failure_of_the_store_passes_through(source, tmp_path) -> None:
    def away() -> None:
        raise Unavailable("the store is away")

    source.before_read = away
    with pytest.raises(Unavailable):
        Documents(source, tmp_path).read_all(["large.json"])
    assert list(Path(tmp_path).iterdir()) == []
    with pytest.raises(NotFound):
        Documents(source, tmp_path).read("missing")


def test_a_document_that_was_listed_without_its_size_is_asked_for_first() -> None:
    source = MemorySource({"a": b"hello"})
    assert Documents(source, None).fetch(ObjectInfo("a", UNKNOWN_SIZE, 0, "")) == b"hello"
    assert source.stats == ["a"]
