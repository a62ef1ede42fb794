"""`egofs cache`, while nothing is mounted and while one mount or two use the folder."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount, egofs, mounted, wait_until
from tests.s3server import S3Server
from vfs.disk import Disk

MIB = 1 << 20
COUNT = 24

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    root = tmp_path_factory.mktemp("store")
    (root / "bucket").mkdir()
    for number in range(COUNT):
        (root / f"bucket/{number:02}.bin").write_bytes(os.urandom(MIB))
    with S3Server(root) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def options(store: S3Server) -> list[str]:
    return [f"endpoint_url={store.endpoint_url}", "anonymous"]


def read_all(mount: Mount) -> None:
    """All objects, and then all of them are on disk."""
    for number in range(COUNT):
        assert len((mount / f"{number:02}.bin").read_bytes()) == MIB
    wait_until(lambda: mount.status()["cache"]["used_bytes"] >= COUNT * MIB)


def info(cache: Path) -> dict:
    done = egofs("cache", "info", "--json", "--cache-dir", cache)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def values(cache: Path) -> list[Path]:
    return [path for path in (cache / "objects").glob("??/*") if re.fullmatch("[0-9a-f]{32}[.][0-9a-f]+", path.name)]


def bytes_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def test_a_cache_is_told_verified_resized_and_cleared_while_it_is_mounted(store, tmp_path, cache) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(store), "cache_size=1G", cache=cache) as mount:
        read_all(mount)
        told = info(cache)
        assert told["values"]["used_bytes"] == bytes_of(values(cache)) >= COUNT * MIB
        assert told["values"]["files"] == len(values(cache))
        assert (told["catalog"]["datasets"], told["catalog"]["entries"]) == (1, COUNT)
        assert told["mounts"] == [
            {"mountpoint": str(mount.directory), "source": "s3://bucket", "pid": mount.pid, "limit_bytes": 1 << 30}
        ]
        shown = egofs("cache", "info", "--mount", mount.directory).stdout
        assert f"{mount.directory} (pid {mount.pid}, s3://bucket)" in shown
        assert "of 1.0 GiB" in shown

        done = egofs("cache", "verify", "--mount", mount.directory)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{len(values(cache))} values" in done.stdout
        assert "all as they were kept" in done.stdout

        done = egofs("cache", "resize", "8M", "--mount", mount.directory)
        assert done.returncode == 0, done.stderr
        assert "cache_size=8M" in done.stderr
        status = mount.status()["cache"]
        assert status["limit_bytes"] == 8 * MIB
        assert 4 * MIB < status["used_bytes"] == bytes_of(values(cache)) <= 8 * MIB

        with (mount / "03.bin").open("rb") as opened:
            opened.read(1)
            done = egofs("cache", "clear", "--yes", "--mount", mount.directory)
            assert done.returncode == 0, done.stderr
            assert values(cache) == []
            assert mount.status()["cache"]["used_bytes"] == 0
            opened.seek(0)
            assert opened.read() == (store.root / "bucket/03.bin").read_bytes()
        assert (mount / "20.bin").read_bytes() == (store.root / "bucket/20.bin").read_bytes()
        held = [os.readlink(file) for file in Path(f"/proc/{mount.pid}/fd").iterdir() if file.is_symlink()]
        assert not any("objects" in file and "(deleted)" in file and ".sqlite" not in file for file in held)


def test_all_mounts_that_use_a_folder_are_resized(store, tmp_path, cache) -> None:
    with (
        mounted("s3://bucket", tmp_path / "one", *options(store), cache=cache) as one,
        mounted("s3://bucket", tmp_path / "two", *options(store), cache=cache) as two,
        mounted("s3://bucket", tmp_path / "other", *options(store), cache=tmp_path / "elsewhere") as other,
    ):
        before = other.status()["cache"]["limit_bytes"]
        done = egofs("cache", "resize", "300M", "--cache-dir", cache)
        assert done.returncode == 0, done.stderr
        assert {line.partition(":")[0] for line in done.stdout.splitlines()} == {str(one.directory), str(two.directory)}
        limits = [each.status()["cache"]["limit_bytes"] for each in (one, two, other)]
        assert limits == [300 * MIB, 300 * MIB, before]


def test_what_another_mount_of_the_folder_evicts_is_gone_for_both(store, tmp_path, cache) -> None:
    with (
        mounted("s3://bucket", tmp_path / "one", *options(store), cache=cache) as one,
        mounted("s3://bucket", tmp_path / "two", *options(store), cache=cache) as two,
    ):
        read_all(one)
        assert (two / "05.bin").read_bytes() == (store.root / "bucket/05.bin").read_bytes()
        egofs("cache", "resize", "4M", "--cache-dir", cache)
        used = [each.status()["cache"]["used_bytes"] for each in (one, two)]
        assert used == [bytes_of(values(cache))] * 2
        assert used[0] <= 4 * MIB
        assert (two / "05.bin").read_bytes() == (store.root / "bucket/05.bin").read_bytes()


@pytest.mark.parametrize(
    ("size", "said"), [("much", "a size above 0 such as 50G"), ("0", "a size above 0"), ("900T", "more than the disk")]
)
def test_a_size_that_cannot_be_changes_nothing(store, tmp_path, cache, size: str, said: str) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(store), "cache_size=1G", cache=cache) as mount:
        done = egofs("cache", "resize", size, "--mount", mount.directory)
        assert done.returncode == 1
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert mount.status()["cache"]["limit_bytes"] == 1 << 30


def test_listings_are_cleared_when_the_mount_has_ended_and_not_before(store, tmp_path, cache) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(store), cache=cache) as mount:
        read_all(mount)
        done = egofs("cache", "clear", "--listings", "--yes", "--cache-dir", cache)
        assert done.returncode == 32
        assert "egofs invalidate" in done.stderr
        assert (mount / "01.bin").stat().st_size == MIB
        assert values(cache), "nothing was removed"
    assert egofs("cache", "clear", "--listings", "--yes", "--cache-dir", cache).returncode == 0
    assert values(cache) == []
    assert info(cache)["catalog"]["entries"] == 0
    with mounted("s3://bucket", tmp_path / "m", *options(store), cache=cache) as mount:
        assert (mount / "01.bin").read_bytes() == (store.root / "bucket/01.bin").read_bytes()


def test_a_mount_reads_on_while_damage_below_it_is_repaired(store, tmp_path, cache) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(store), cache=cache) as mount:
        read_all(mount)
        for path in values(cache)[:7]:
            os.truncate(path, 4096)
        done = egofs("cache", "verify", "--cache-dir", cache)
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 5 + 1 + 1, "the first few, how many more, and the whole"
        assert "7 damaged (28.0 KiB), egofs cache verify --repair" in done.stdout
        assert egofs("cache", "verify", "--repair", "--cache-dir", cache).returncode == 1
        assert egofs("cache", "verify", "--cache-dir", cache).returncode == 0
        for number in range(COUNT):
            name = f"{number:02}.bin"
            assert (mount / name).read_bytes() == (store.root / "bucket" / name).read_bytes()
        assert mount.status()["cache"]["disk_errors"] == 0


# -- without a mount


@pytest.fixture
def kept(cache: Path) -> Path:
    """A cache with a few values in it that nothing uses."""
    cache.mkdir(0o700)
    disk = Disk(cache / "objects", 1 << 30)
    for number in range(5):
        disk.keep((b"0123456789abcdef", number), bytes([number]) * 1000)
    disk.close()
    return cache


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["clear"], 1, "say --yes"),
        (["clear", "--yes", "--older-than", "soon"], 1, "such as 90m, 12h, 30d or 4w"),
        (["clear", "--yes", "--older-than", "1d", "--listings"], 1, "give one"),
        (["resize", "10G"], 1, "no mount uses it now"),
        (["info", "--mount", "/"], 1, "no egofs is mounted here"),
        (["verify", "--jobs", "0"], 1, "--jobs"),
    ],
)
def test_what_cannot_be_is_one_line(kept, arguments, status, said) -> None:
    more = [] if "--mount" in arguments else ["--cache-dir", kept]
    done = egofs("cache", *arguments, *more)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    assert said in done.stderr
    assert len(values(kept)) == 5


def test_values_that_were_used_lately_stay(kept) -> None:
    done = egofs("cache", "clear", "--yes", "--older-than", "1d", "--cache-dir", kept)
    assert "0 files removed" in done.stdout
    assert len(values(kept)) == 5


def test_the_usual_cache_is_that_of_the_home(kept, tmp_path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    done = egofs("cache", "info", env=home)
    assert (done.returncode, "nothing has been kept there yet" in done.stderr) == (1, True)
    (tmp_path / "xdg").mkdir()
    kept.rename(tmp_path / "xdg/egofs")
    assert "in 5 files" in egofs("cache", "info", env=home).stdout


def test_a_folder_in_a_mount_is_no_cache(store, tmp_path, cache) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(store), cache=cache) as mount:
        done = egofs("cache", "clear", "--yes", "--cache-dir", mount.directory)
        assert (done.returncode, "lies in a mount of egofs" in done.stderr) == (1, True)
