"""`egofs warm --order` on real mounts over an S3: what readers wait for, and what the store is asked."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Stall
from tests.mounting import EGOFS, Mount, egofs, mounted, wait_until
from tests.s3server import S3Server

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
FILES, SIZE = 600, 30_000
SHARD = 16 << 20
RANGE = 256 << 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket of small files in one folder, and a shard."""
    root = tmp_path_factory.mktemp("store")
    (root / "bucket/train").mkdir(parents=True)
    for number in range(FILES):
        (root / f"bucket/train/{number:04d}.jpg").write_bytes(os.urandom(SIZE))
    (root / "bucket/shard.bin").write_bytes(os.urandom(SHARD))
    return root


@pytest.fixture
def server(store: Path) -> Iterator[S3Server]:
    with S3Server(store) as server:
        yield server


@pytest.fixture
def demo(tmp_path: Path, demo_root: Path) -> Iterator[S3Server]:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/demo").symlink_to(demo_root)
    with S3Server(tmp_path / "store") as server:
        yield server


@contextmanager
def bucket(server: S3Server, tmp_path: Path, name: str = "bucket", *options: str) -> Iterator[Mount]:
    options = (f"endpoint_url={server.endpoint_url}", *options)
    with mounted(f"s3://{name}", tmp_path / "m", *options, cache=tmp_path / "c", env=ENV) as mount:
        yield mount


@contextmanager
def ordered(mount: Mount, *arguments: str | Path, stdin: Any = subprocess.DEVNULL) -> Iterator["subprocess.Popen[str]"]:
    """`egofs warm DIRECTORY …` while the block runs."""
    command = [*EGOFS, "warm", str(mount.directory), *map(str, arguments)]
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def written(tmp_path: Path, lines: list[str]) -> Path:
    file = tmp_path / "order.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def shuffled(seed: int = 0) -> list[str]:
    names = [f"train/{number:04d}.jpg" for number in range(FILES)]
    random.Random(seed).shuffle(names)
    return names


def gets(server: S3Server, part: str) -> list[str]:
    """The objects that were asked for, a name a request."""
    return [request.path for request in server.requests if request.method == "GET" and part in request.path]


def fetched(mount: Mount) -> int:
    return int(mount.status()["fetched"]["bytes_fetched"])


def test_a_shuffled_epoch_by_several_workers_waits_for_next_to_nothing_and_fetches_each_byte_once(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    order = shuffled()
    # What the command is told is what its reader finds: the same order by 4 workers, in batches of 16.
    batches = [order[at : at + 16] for at in range(0, FILES, 16)]
    with bucket(server, tmp_path) as mount, ordered(mount, "--order", written(tmp_path, order), "--follow") as command:
        wait_until(lambda: len(gets(server, ".jpg")) > 100)

        def read(batch: list[str]) -> bool:
            return all((mount / name).read_bytes() == (store / "bucket" / name).read_bytes() for name in batch)

        with ThreadPoolExecutor(4) as workers:
            assert all(workers.map(read, batches))
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert f"{FILES} lines read" in out
        assert mount.status()["cache"]["misses"] <= FILES // 50
        assert sorted(gets(server, ".jpg")) == sorted(f"/bucket/{name}" for name in order)
        assert fetched(mount) == FILES * SIZE


def test_two_epochs_of_one_list_are_followed_to_its_end(server: S3Server, tmp_path: Path) -> None:
    order = shuffled(1)[:200] + shuffled(2)[:200]
    with bucket(server, tmp_path) as mount, ordered(mount, "--order", written(tmp_path, order), "--follow") as command:
        wait_until(lambda: len(gets(server, ".jpg")) > 50)
        for name in order:
            assert len((mount / name).read_bytes()) == SIZE
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert "400 lines read" in out
        assert len(gets(server, ".jpg")) == len(set(order))


def test_nothing_more_is_fetched_ahead_of_a_reader_who_stands_still(server: S3Server, tmp_path: Path) -> None:
    order = shuffled()
    with (
        bucket(server, tmp_path) as mount,
        ordered(mount, "--order", written(tmp_path, order), "--follow", "--ahead", "1.5M"),
    ):
        wait_until(lambda: len(gets(server, ".jpg")) >= 50)
        time.sleep(0.5)
        bound = (3 << 19) // SIZE + 5
        assert len(gets(server, ".jpg")) <= bound
        for name in order[:40]:
            (mount / name).read_bytes()
        wait_until(lambda: len(gets(server, ".jpg")) >= 80)
        time.sleep(0.5)
        assert len(gets(server, ".jpg")) <= bound + 40


def test_a_reader_in_another_order_gets_right_bytes_each_fetched_once(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    with bucket(server, tmp_path) as mount, ordered(mount, "--order", written(tmp_path, shuffled(1)), "--follow"):
        for name in shuffled(2):
            assert (mount / name).read_bytes() == (store / "bucket" / name).read_bytes()
        assert sorted(set(gets(server, ".jpg"))) == sorted(gets(server, ".jpg"))


def test_ranges_of_a_shard_are_at_hand_when_they_are_read(server: S3Server, store: Path, tmp_path: Path) -> None:
    places = list(range(0, SHARD, RANGE))
    random.Random(3).shuffle(places)
    places = places[:32]
    lines = [f"shard.bin\t{place}\t{RANGE}" for place in places]
    whole = (store / "bucket/shard.bin").read_bytes()
    with bucket(server, tmp_path) as mount, ordered(mount, "--order", written(tmp_path, lines), "--follow") as command:
        wait_until(lambda: fetched(mount) >= 32 * RANGE)
        descriptor = os.open(mount / "shard.bin", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for place in places:
            assert os.pread(descriptor, RANGE, place) == whole[place : place + RANGE]
        os.close(descriptor)
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert "32 lines read" in out
        assert "32 of them found at hand" in out
        assert mount.status()["cache"]["misses"] == 0


def test_pictures_through_links_are_made_ahead_and_none_of_them_twice(demo: S3Server, tmp_path: Path) -> None:
    with bucket(demo, tmp_path, "demo", "dataset=assembly101") as mount:
        recording = min((mount / "recordings").iterdir()).name
        folder = f"recordings/{recording}/frames@short=120/e4"
        names = [
            f"{folder}/e4_{number:010d}.jpg" for number in random.Random(5).sample(range(1, 60, 3), 20)
        ]  # none follows another
        made = mount.status()["frames_made"]
        with ordered(mount, "--order", written(tmp_path, names), "--follow") as command:
            wait_until(lambda: mount.status()["frames_made"] - made >= 20)
            misses = mount.status()["cache"]["misses"]
            for name in names:
                assert (mount / name).read_bytes().startswith(b"\xff\xd8")
            out, err = command.communicate(timeout=60)
            assert command.returncode == 0, err
            assert "20 lines read" in out
            assert "20 pictures made" in out
        status = mount.status()
        assert status["frames_made"] - made == 20
        assert status["cache"]["misses"] == misses


def test_a_whole_video_by_its_canonical_name_is_followed(demo: S3Server, tmp_path: Path) -> None:
    with bucket(demo, tmp_path, "demo", "dataset=assembly101") as mount:
        recording = min((mount / "recordings").iterdir()).name
        lines = [f"recordings/{recording}/{view}.mp4" for view in ("e4", "v3")]
        with ordered(mount, "--order", written(tmp_path, lines), "--follow") as command:
            wait_until(lambda: fetched(mount) >= sum((mount / line).stat().st_size for line in lines))
            for line in lines:
                (mount / line).read_bytes()
            out, _ = command.communicate(timeout=60)
            assert "2 lines read" in out
            assert "2 of them found at hand" in out


def test_a_list_comes_through_a_pipe_while_the_job_reads(server: S3Server, tmp_path: Path) -> None:
    order = shuffled(4)[:150]
    with (
        bucket(server, tmp_path) as mount,
        ordered(mount, "--order", "-", "--follow", stdin=subprocess.PIPE) as command,
    ):
        assert command.stdin is not None
        for epoch in (order[:50], order[50:100], order[100:]):
            before = len(gets(server, ".jpg"))
            command.stdin.write("\n".join(epoch) + "\n")
            command.stdin.flush()
            wait_until(lambda count=before + 50: len(gets(server, ".jpg")) == count)  # type: ignore[misc]
            for name in epoch:
                (mount / name).read_bytes()
        command.stdin.close()
        command.stdin = None
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert "150 lines read" in out
        assert mount.status()["cache"]["misses"] == 0


def test_without_a_reader_all_is_fetched_and_a_second_time_nothing(server: S3Server, tmp_path: Path) -> None:
    file = written(tmp_path, shuffled())
    with bucket(server, tmp_path) as mount:
        for _ in range(2):
            done = egofs("warm", mount.directory, "--order", file)
            assert done.returncode == 0, done.stderr
            assert f"{FILES} lines at hand" in done.stdout
            assert len(gets(server, ".jpg")) == FILES
        before = mount.status()["fetched"]["requests"]
        for name in shuffled(9)[:50]:
            (mount / name).read_bytes()
        assert mount.status()["fetched"]["requests"] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_order_ends_with_its_command(server: S3Server, tmp_path: Path, number: signal.Signals) -> None:
    order = shuffled()
    with (
        bucket(server, tmp_path) as mount,
        ordered(mount, "--order", written(tmp_path, order), "--follow", "--ahead", "600K") as command,
    ):
        wait_until(lambda: len(gets(server, ".jpg")) >= 20)
        command.send_signal(number)
        out, err = command.communicate(timeout=20)
        if number == signal.SIGINT:
            assert command.returncode == 8
            assert "interrupted" in err
            assert "lines read" in out or not out
        time.sleep(1)  # ten times what the daemon takes to see that nobody listens any more
        before = len(gets(server, ".jpg"))
        for name in order[:10]:
            (mount / name).read_bytes()
        time.sleep(0.3)
        assert len(gets(server, ".jpg")) == before


def test_a_mount_ends_while_an_order_waits_for_a_slow_store(server: S3Server, tmp_path: Path) -> None:
    with bucket(server, tmp_path) as mount:
        server.faults = lambda request: Stall(5) if request.path.endswith(".jpg") else None
        with ordered(mount, "--order", written(tmp_path, shuffled()), "--follow") as command:
            wait_until(lambda: gets(server, ".jpg"))
            done = egofs("umount", mount.directory)
            assert done.returncode == 0, done.stderr
            _, err = command.communicate(timeout=30)
            assert command.returncode == 32
            assert err.strip().splitlines()[-1].startswith("egofs: ")
            assert "a bug" not in mount.log.read_text()
            server.faults = lambda request: None


# -- bad input


def failed(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    """The one line that a command says when it fails."""
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("egofs: ")
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_what_is_no_list_fails_in_one_line(server: S3Server, tmp_path: Path) -> None:
    empty, binary, wrong = tmp_path / "empty", tmp_path / "binary", tmp_path / "wrong"
    empty.write_text("# nothing\n\n")
    binary.write_bytes(b"\x7fELF\0\0\0\1\n" * 1000)
    wrong.write_text("/etc/passwd\n../../etc/shadow\nnone.jpg\n")
    with bucket(server, tmp_path) as mount:
        said = {
            arguments: failed(egofs("warm", mount.directory, "--order", *arguments), status)
            for arguments, status in {
                (tmp_path / "none",): 1,
                (tmp_path,): 1,
                (empty,): 1,
                (binary,): 1,
                (wrong,): 32,
                (wrong, "--follow", "--ahead", "much"): 1,
                (wrong, "--ahead", "5M"): 1,
            }.items()
        }
        assert "No such file" in said[tmp_path / "none",]
        assert "a folder" in said[tmp_path,]
        assert "no line" in said[empty,]
        assert "no list of paths" in said[binary,]
        assert "no line of" in said[wrong,]
        assert gets(server, ".jpg") == []
    assert "no egofs is mounted here" in failed(egofs("warm", tmp_path, "--order", wrong), 1)


def test_lines_that_lead_nowhere_are_told_and_the_others_fetched(server: S3Server, tmp_path: Path) -> None:
    file = written(tmp_path, ["train/0000.jpg", "train/none.jpg", "/etc/passwd", "train/0001.jpg"])
    with bucket(server, tmp_path) as mount:
        done = egofs("warm", mount.directory, "--order", file)
        assert done.returncode == 0
        assert "2 lines at hand" in done.stdout
        assert "2 lines lead nowhere in the mount" in done.stderr
        assert "line 2: train/none.jpg" in done.stderr
        assert len(gets(server, ".jpg")) == 2


def test_paths_may_be_relative_to_a_folder_of_the_mount_or_absolute_by_any_name_of_it(
    server: S3Server, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "m")
    with bucket(server, tmp_path) as mount:
        file = written(tmp_path, ["0000.jpg", "./0001.jpg", f"{mount.directory}/train/0002.jpg"])
        done = egofs("warm", mount / "train", "--order", file)
        assert "3 lines at hand" in done.stdout, done.stderr
        file = written(tmp_path, [f"{tmp_path}/alias/train/0003.jpg", "0004.jpg"])
        done = egofs("warm", tmp_path / "alias/train", "--order", file)
        assert "2 lines at hand" in done.stdout, done.stderr


def test_a_list_that_stands_in_the_mount_itself_is_used(server: S3Server, store: Path, tmp_path: Path) -> None:
    (store / "bucket/lists").mkdir(exist_ok=True)
    (store / "bucket/lists/train.txt").write_text("train/0000.jpg\ntrain/0001.jpg\n")
    with bucket(server, tmp_path) as mount:
        done = egofs("warm", mount.directory, "--order", mount / "lists/train.txt")
        assert "2 lines at hand" in done.stdout, done.stderr
