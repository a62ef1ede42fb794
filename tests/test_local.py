"""A local folder as a source: what stands in folders besides files, and what is kept from getting out."""

import errno
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfs.errors import AccessDenied, Changed, CorruptData, NotFound, OptionError, SourceError, Unavailable
from vfs.sources import local
from vfs.sources.local import LocalSource, Options, open_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "dir/sub/deep").write_bytes(b"deep")
    for outside in ("secret", "root-two"):
        (tmp_path / outside).mkdir()
        (tmp_path / outside / "key").write_bytes(b"outside")
    return root


@pytest.fixture
def source(root: Path) -> LocalSource:
    return open_source(str(root), Options())


def link(source: LocalSource, folder: str, name: str) -> str | None:
    """The target of a listed link, None where it is not listed."""
    found = {entry.name: entry for entry in source.list(folder)}
    if name not in found:
        return None
    assert found[name].kind == "link"
    assert found[name].object is None
    return found[name].target


@pytest.mark.parametrize(
    ("place", "written", "target"),
    [
        ("link", "file", "file"),
        ("link", "dir", "dir"),
        ("link", "./dir/../file", "./dir/../file"),
        ("dir/link", "../file", "../file"),
        ("dir/sub/link", "../../file", "../../file"),
        ("link", "{root}/dir/sub/deep", "dir/sub/deep"),
        ("dir/sub/link", "{root}/file", "../../file"),
        ("dir/link", "{root}", ".."),
        # These climb out of the root and come back, which a tree that is mounted elsewhere cannot.
        ("link", "../root/file", "file"),
        ("dir/link", "../../root/dir/sub", "sub"),
    ],
)
def test_a_link_within_the_source_is_a_link_that_holds_wherever_it_is_mounted(
    root: Path, source: LocalSource, place: str, written: str, target: str
) -> None:
    (root / place).symlink_to(written.format(root=root))
    folder, _, name = place.rpartition("/")
    assert link(source, folder, name) == target


def test_a_chain_of_links_keeps_its_links(root: Path, source: LocalSource) -> None:
    (root / "latest").symlink_to("v2")
    (root / "v2").symlink_to("dir")
    assert link(source, "", "latest") == "v2"
    assert source.stat("latest/sub/deep").size_bytes == 4


@pytest.mark.parametrize(
    "written", ["../root-two/key", "../secret/key", "../secret", "{root}/../secret/key", "/etc/passwd", "..", "/"]
)
def test_a_link_that_leads_outside_is_not_there_and_said_once(
    root: Path, source: LocalSource, written: str, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "link").symlink_to(written.format(root=root))
    for _ in range(2):
        assert sorted(entry.name for entry in source.list("")) == ["dir", "file"]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "mount that place as a source of its own" in warnings[0].getMessage()
    for key in ("link", "link/key", "link/passwd"):
        with pytest.raises(NotFound):
            source.stat(key)
        with pytest.raises(NotFound):
            list(source.list(key))


def test_a_folder_that_is_exchanged_for_a_link_outside_gives_nothing(root: Path, source: LocalSource) -> None:
    (root / "dir/key").write_bytes(b"inside!")
    obj = source.stat("dir/key")
    (root / "dir").rename(root / "moved")
    (root / "dir").symlink_to("../secret")
    with pytest.raises(NotFound):
        source.read(obj, 0, 7)


def test_links_that_lead_nowhere_are_not_there(root: Path, source: LocalSource) -> None:
    (root / "dangling").symlink_to("nothing")
    (root / "itself").symlink_to("itself")
    assert sorted(entry.name for entry in source.list("")) == ["dir", "file"]
    for key in ("dangling", "itself"):
        with pytest.raises(NotFound):
            source.stat(key)


def test_fifos_and_sockets_are_not_there_and_block_nobody(root: Path, source: LocalSource) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
        assert sorted(entry.name for entry in source.list("")) == ["dir", "file"]
        for key in ("fifo", "socket"):
            with pytest.raises(NotFound):
                source.stat(key)
            with pytest.raises(NotFound):
                list(source.list(key))


def test_a_file_that_became_a_fifo_is_not_read(root: Path, source: LocalSource) -> None:
    obj = source.stat("file")
    (root / "file").unlink()
    os.mkfifo(root / "file")
    with pytest.raises(NotFound):
        source.read(obj, 0, 6)


@pytest.mark.parametrize("key", ["../secret/key", "dir/../../secret/key", "/etc/passwd", "dir//sub/deep", "./file", ""])
def test_a_key_cannot_climb_out(source: LocalSource, key: str) -> None:
    with pytest.raises(NotFound):
        source.stat(key)


def test_a_name_that_is_not_utf8_is_listed_and_read(root: Path, source: LocalSource) -> None:
    (root / "dir/sub/deep").rename(os.fsdecode(os.fsencode(root) + b"/dir/sub/\xff\xfe"))
    (entry,) = source.list("dir/sub")
    assert entry.name == "\udcff\udcfe"
    assert entry.object is not None
    assert source.read(entry.object, 0, 4) == b"deep"


def test_a_file_written_in_place_is_changed(root: Path, source: LocalSource) -> None:
    obj = source.stat("file")
    os.utime(root / "file", ns=(0, obj.mtime_ns + 1))
    with pytest.raises(Changed):
        source.read(obj, 0, 6)


def test_a_file_that_changes_during_the_read_is_changed(
    root: Path, source: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = source.stat("file")
    pread = os.pread

    def pread_then_write(descriptor: int, length: int, start: int) -> bytes:
        data = pread(descriptor, length, start)
        (root / "file").write_bytes(b"inside, and more")
        return data

    monkeypatch.setattr(local.os, "pread", pread_then_write)
    with pytest.raises(Changed):
        source.read(obj, 0, 6)


def test_a_file_system_that_gives_bytes_in_pieces_gives_them_whole(
    source: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(local.os, "pread", lambda fd, length, start: pread(fd, min(length, 2), start))
    assert source.read(source.stat("file"), 1, 5) == b"nside"


def test_a_file_system_that_gives_too_little_is_an_error(source: LocalSource, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(local.os, "pread", lambda fd, length, start: pread(fd, max(0, 4 - start), start))
    with pytest.raises(CorruptData, match="4 of 6"):
        source.read(source.stat("file"), 0, 6)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, SourceError), (errno.EACCES, AccessDenied), (errno.ESTALE, Unavailable)]
)
def test_the_systems_errors_become_ours(
    source: LocalSource, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    obj = source.stat("file")

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.os, "pread", fail)
    with pytest.raises(kind, match=r"/root/file: " + os.strerror(number)):
        source.read(obj, 0, 6)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_denied(root: Path, source: LocalSource) -> None:
    obj = source.stat("file")
    (root / "file").chmod(0)
    with pytest.raises(AccessDenied):
        source.read(obj, 0, 6)


@pytest.fixture
def no_descriptors() -> Iterator[list[int]]:
    """Every descriptor that this process may have, taken, but for the lowest few numbers' worth of slack."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield taken
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_descriptors_is_waited_out(source: LocalSource, no_descriptors: list[int]) -> None:
    timer = threading.Timer(0.1, lambda: [os.close(no_descriptors.pop()) for _ in range(4)])
    timer.start()
    assert source.stat("file").size_bytes == 6
    timer.join()


def test_a_lack_of_descriptors_that_lasts_is_worth_another_try(
    source: LocalSource, no_descriptors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_DESCRIPTOR_WAIT_S", 0.05)
    with pytest.raises(Unavailable):
        source.stat("file")
    assert no_descriptors


def test_reading_leaves_no_descriptor_open(source: LocalSource) -> None:
    before = os.listdir("/proc/self/fd")
    obj = source.stat("file")
    for _ in range(10):
        source.read(obj, 0, 6)
        list(source.list(""))
        half = source.list("")
        next(half)
        half.close()  # type: ignore[attr-defined]
        with pytest.raises(NotFound):
            source.stat("nothing")
        with pytest.raises(NotFound):
            list(source.list("file"))
    assert os.listdir("/proc/self/fd") == before


def test_equal_places_have_equal_urls(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alias").symlink_to("root")
    monkeypatch.chdir(tmp_path)
    spellings = [str(root), f"{root}/", f"file://{root}", f"FILE://localhost{root}", str(tmp_path / "alias"), "root"]
    assert {open_source(spelling, Options()).url for spelling in spellings} == {f"file://{root}"}


def test_a_file_url_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a b#?").mkdir()
    source = open_source(f"file://{tmp_path}/a%20b%23%3F", Options())
    assert list(source.list("")) == []
    assert source.url == f"file://{tmp_path}/a%20b%23%3F"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{root}/nothing", "mount its disk"),
        ("{root}/file", "not a folder"),
        ("file://otherhost/data", "three slashes"),
        ("file://", "names no folder"),
        ("", "names no folder"),
    ],
)
def test_a_url_that_is_no_folder_says_what_to_do(root: Path, url: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        open_source(url.format(root=root), Options())
