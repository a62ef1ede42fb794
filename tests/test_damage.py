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
from tests.mounting import Mount, egofs, mounted, patched, wait_until
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
    (tmp_path / "store/bucket/other").mkdir()
    (tmp_path / "store/bucket/other/new").write_bytes(b"new")
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


def harm(cache: Path, what: str, draw: random.Random) -> None:
    done = wait_until(lambda: damage.ALL[what](cache, draw))  # what was just fetched may not be written yet
    assert done, f"{what}: there was nothing to damage"


def test_damaged_files_give_right_bytes_and_are_kept_again(tmp_path: Path, store: S3Server) -> None:
    draw = random.Random(1)
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        for what in damage.VALUES:
            harm(tmp_path / "c", what, draw)
            read(mount)
            settle(mount, store)
        assert mount.status()["cache"]["damaged"] > 0
        assert mount.status()["asked"]["bugs"] == 0


@pytest.mark.parametrize("what", ["data flipped", "swapped", "zeros", "all flipped"])
def test_files_that_were_damaged_between_two_mounts_give_right_bytes(
    tmp_path: Path, store: S3Server, what: str
) -> None:
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
    harm(tmp_path / "c", what, random.Random(2))
    with of_store(tmp_path, store) as mount:
        read(mount)
        settle(mount, store)


@pytest.mark.parametrize("what", [*damage.DATABASES, "all removed"])
def test_a_damaged_database_gives_right_bytes_or_one_clear_error(tmp_path: Path, store: S3Server, what: str) -> None:
    draw = random.Random(what)
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        assert damage.ALL[what](tmp_path / "c", draw), "there was nothing to damage"
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("2")  # the kernel forgets names: the catalog is asked again
        answers = [read_or_told(mount) for _ in range(3)]
        assert answers.count(False) <= 1, "it is told once, and then begun anew"
        assert answers[-1]
        settle(mount, store)
        assert sorted(os.listdir(mount / "sub")) == sorted(FILES)
        assert mount.status()["asked"]["bugs"] == 0
    damage.ALL[what](tmp_path / "c", draw)
    with of_store(tmp_path, store) as mount:
        read(mount)


def test_every_class_of_byte_of_a_file_may_be_flipped(tmp_path: Path, store: S3Server) -> None:
    """First and last bytes of data, of its blocks and of its checksums; the padding harms nobody."""
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        found = {path.stat().st_size: path for path in damage.values(tmp_path / "c")}
        whole = [(size, length) for length in UNIT_BYTES if (size := file_bytes_of(length)) in found]
        assert whole
        for size, length in whole:
            end = damage._sums_end(length)
            for at in (0, 65_535, 65_536, length - 1, length, length + 7, end - 1, size - 1):
                before = mount.status()["cache"]["damaged"]
                wait_until(found[size].exists)
                damage.flip(found[size], at, at % 8)
                read(mount)
                assert (mount.status()["cache"]["damaged"] > before) == (at < end), at
                settle(mount, store)


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
        for _ in range(3):
            read(mount)
        # A folder that nobody has listed yet: the catalog cannot write it down.
        assert os.listdir(mount / "other") == ["new"]
        assert (mount / "other/new").read_bytes() == b"new"
        ballast.unlink()
        settle(mount, store)


def test_a_disk_that_cannot_be_written_is_read_through_and_used_again(tmp_path: Path, store: S3Server) -> None:
    """Nothing can be made or removed there, as when a file system has failed: the kernel lets no file system become
    read-only by asking while logs and databases are open in it."""
    with of_store(tmp_path, store) as mount:
        settle(mount, store)
        objects = tmp_path / "c/objects"
        for path in damage.values(tmp_path / "c")[::2]:
            path.unlink()
        # SQLite maps a file of its accounting: a daemon that may not write there dies of SIGBUS, and is replaced.
        if subprocess.run(["chattr", "-R", "+i", objects], capture_output=True, check=False).returncode:
            pytest.skip("this file system cannot make folders immutable")
        try:
            for _ in range(3):
                wait_until(lambda: could_read(mount))
        finally:
            subprocess.run(["chattr", "-R", "-i", objects], check=True)
        # A daemon that took the place of another keeps nothing until it is mounted anew.
        if not mount.status()["restarts"]:
            settle(mount, store)
    with of_store(tmp_path, store) as mount:
        settle(mount, store)


def could_read(mount: Mount) -> bool:
    """Whether a daemon was there while all was read."""
    try:
        read(mount)
    except OSError as failure:
        if failure.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise
        return False
    return True


def test_a_read_only_cache_folder_is_one_line_and_no_mount(tmp_path: Path, store: S3Server) -> None:
    with small_disk(tmp_path / "c", "4m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        (tmp_path / "m").mkdir()
        options = f"cache_dir={disk},endpoint_url={store.endpoint_url}"
        done = egofs("mount", "s3://bucket", tmp_path / "m", "-o", options, env=ENV)
        assert done.returncode in (1, 32)
        assert len(done.stderr.strip().splitlines()) == 1
        assert "cache_dir" in done.stderr


def test_two_mounts_on_one_cache_survive_its_damage(tmp_path: Path, store: S3Server) -> None:
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
        # At once: a folder that is emptied file by file gets new ones meanwhile.
        (tmp_path / "c/objects").rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        read(mount)
        settle(mount, store)
        assert (tmp_path / "c/objects/index.sqlite").exists()
        assert (tmp_path / "c/objects").stat().st_mode & 0o077 == 0
