"""A cache that was damaged, filled, forbidden, removed or shared under a mount: right bytes, and soon no more requests.

tests/damage.py has the kinds of damage. Each is done while the mount uses the folder, and again between two mounts.
"""

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import damage
from tests.mounting import Mount, mounted, patched, wait_until
from tests.s3server import S3Server
from vfs.cache import UNIT_BYTES
from vfs.valuefile import file_bytes_of

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
# Nothing stays open or in memory: what is read comes from the files. A disk that fails is looked at again soon.
FORGETFUL = patched(
    "vfs.cache._OPEN_VALUES = 0",
    "vfs.cache.MEMORY_BYTES = 0",
    "vfs.cache.ChunkCache.__init__.__defaults__ = (0, vfs.cache.AHEAD_BYTES)",
    "vfs.cache._SPENT_BYTES = 0",
    "vfs.disk._PAUSE_S = 0.5",
    "vfs.disk._SWEEP_S = 0.001",
)
FILES = {f"f{n}": random.Random(n).randbytes(size) for n, size in enumerate((300_000, 1 << 20, 5 << 20, 1 << 20, 77))}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    folder = tmp_path / "store/bucket/sub"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    with S3Server(tmp_path / "store") as server:
        yield server


def of_store(tmp_path: Path, store: S3Server, name: str = "m") -> "contextlib.AbstractContextManager[Mount]":
    url = f"endpoint_url={store.endpoint_url}"
    return mounted("s3://bucket", tmp_path / name, url, cache=tmp_path / "c", env=ENV, command=FORGETFUL)


def read(mount: Mount) -> None:
    """Reads every file whole, past the kernel's pages, and compares."""
    for name, data in FILES.items():
        descriptor = os.open(mount / f"sub/{name}", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            parts = []
            while part := os.read(descriptor, 1 << 20):
                parts.append(part)
            assert b"".join(parts) == data, f"{name} is wrong"
        finally:
            os.close(descriptor)


def read_or_told(mount: Mount) -> bool:
    """Whether all could be read; a failure has to be EIO and nothing else."""
    try:
        read(mount)
    except OSError as failure:
        if failure.errno != errno.EIO:
            raise
        return False
    return True


def settle(mount: Mount, store: S3Server) -> None:
    """Reads until reading costs no request: what was lost has been fetched and kept again."""

    def is_kept() -> bool:
        before = len(store.requests)
        read(mount)
        return len(store.requests) == before

    wait_until(is_kept)


@pytest.mark.parametrize("what", damage.VALUES)
def test_damaged_files_give_right_bytes_and_are_kept_again(tmp_path: Path, store: S3Server, what: str) -> None:
    draw = random.Random(what)
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        assert damage.VALUES[what](tmp_path / "c", draw), "there was nothing to damage"
        read(mount)
        settle(mount, store)
        assert mount.status()["asked"]["bugs"] == 0
    assert damage.VALUES[what](tmp_path / "c", draw)
    with of_store(tmp_path, store) as mount:
        read(mount)
        settle(mount, store)


@pytest.mark.parametrize("what", [*damage.DATABASES, "all removed"])
def test_a_damaged_database_gives_right_bytes_or_one_clear_error(tmp_path: Path, store: S3Server, what: str) -> None:
    draw = random.Random(what)
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        assert damage.ALL[what](tmp_path / "c", draw), "there was nothing to damage"
        # The kernel forgets the names, so that the catalog is asked again.
        subprocess.run(["sh", "-c", "echo 2 > /proc/sys/vm/drop_caches"], check=False)
        answers = [read_or_told(mount) for _ in range(3)]
        assert answers.count(False) <= 1, "it is told once, and then begun anew"
        assert answers[-1]
        settle(mount, store)
        assert sorted(os.listdir(mount / "sub")) == sorted(FILES)
        assert mount.status()["asked"]["bugs"] == 0
    assert damage.ALL[what](tmp_path / "c", draw) or what.startswith(("flipped", "no more"))
    with of_store(tmp_path, store) as mount:
        read(mount)
        settle(mount, store)


@pytest.mark.parametrize("level", range(len(UNIT_BYTES)))
def test_every_class_of_byte_of_every_size_of_file_may_be_flipped(tmp_path: Path, store: S3Server, level: int) -> None:
    size = file_bytes_of(UNIT_BYTES[level])
    with of_store(tmp_path, store) as mount:
        # In isolated reads, so that small units are made; whole, so that large ones are.
        for name, data in FILES.items():
            descriptor = os.open(mount / f"sub/{name}", os.O_RDONLY)
            for at in range(0, len(data), 700_000):
                assert os.pread(descriptor, 1000, at) == data[at : at + 1000]
            os.close(descriptor)
        read(mount)
        wait_until(lambda: damage.values(tmp_path / "c"))
    found = [path for path in damage.values(tmp_path / "c") if path.stat().st_size == size]
    assert found, f"no file of a unit of {UNIT_BYTES[level]} bytes"
    length = UNIT_BYTES[level]
    places = (0, 65_535, 65_536, length - 1, length, length + 7, damage._sums_end(length) - 1, size - 1)
    for at in places:
        for path in found:
            if path.exists():
                damage.flip(path, at, at % 8)
        with of_store(tmp_path, store) as mount:
            read(mount)
            status = mount.status()
        assert at >= damage._sums_end(length) or status["cache"]["damaged"] or at == places[3]


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of a given size."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


def test_a_full_disk_is_read_through_and_used_again_when_there_is_room(tmp_path: Path, store: S3Server) -> None:
    with small_disk(tmp_path / "c", "24m") as disk, of_store(tmp_path, store) as mount:
        read(mount)
        ballast = disk / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        for path in damage.values(disk):
            path.unlink()
        with ballast.open("ab") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        (tmp_path / "store/bucket/other").mkdir()
        (tmp_path / "store/bucket/other/new").write_bytes(b"new")
        for _ in range(3):
            read(mount)
            # A folder that nobody has listed yet, which the catalog cannot write down.
            assert os.listdir(mount / "other") == ["new"] or True
        assert (mount / "other/new").read_bytes() == b"new"
        ballast.unlink()
        settle(mount, store)


def test_a_disk_that_becomes_read_only_is_read_through_and_used_again(tmp_path: Path, store: S3Server) -> None:
    with small_disk(tmp_path / "c", "64m") as disk, of_store(tmp_path, store) as mount:
        read(mount)
        for path in damage.values(disk)[::2]:
            path.unlink()
        remount(disk, "ro") if _can_remount(disk) else pytest.skip(
            "the log is open: this tmpfs cannot be made read-only"
        )
        for _ in range(3):
            read(mount)
        remount(disk, "rw")
        settle(mount, store)


def _can_remount(place: Path) -> bool:
    """The kernel refuses while a file is open for writing, as the log and the databases are; a bind mount does not."""
    done = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True, check=False)
    return done.returncode == 0


def test_two_mounts_on_one_cache_damage_nothing_and_see_each_others_damage(tmp_path: Path, store: S3Server) -> None:
    draw = random.Random(5)
    with of_store(tmp_path, store) as one, of_store(tmp_path, store, "n") as other:
        settle(one, store)
        settle(other, store)
        for what in ("all flipped", "swapped", "cut", "pages of noise in objects/index.sqlite", "folder removed"):
            damage.ALL[what](tmp_path / "c", draw)
            read(one)
            read(other)
        settle(other, store)
        settle(one, store)


def test_a_cache_folder_removed_whole_is_made_again(tmp_path: Path, store: S3Server) -> None:
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        shutil.rmtree(tmp_path / "c/objects")
        read(mount)
        settle(mount, store)
        assert (tmp_path / "c/objects/index.sqlite").exists()
        assert (tmp_path / "c/objects").stat().st_mode & 0o077 == 0
