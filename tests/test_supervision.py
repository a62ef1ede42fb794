"""How a mount dies and comes back, what can be seen meanwhile, and what signals and `egofs invalidate` do."""

import contextlib
import errno
import os
import pty
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd import below, mounts
from tests.faults import Stall
from tests.mounting import EGOFS, Mount, egofs, is_mounted, mounted, wait_for_end, wait_until
from tests.s3server import S3Server

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    folder = tmp_path / "store/bucket"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(os.urandom(3 << 20))
    (folder / "b.txt").write_text("b")
    with S3Server(tmp_path / "store") as server:
        yield server


def of_store(tmp_path: Path, server: S3Server, *options: str) -> "contextlib.AbstractContextManager[Mount]":
    url = f"endpoint_url={server.endpoint_url}"
    return mounted("s3://bucket", tmp_path / "m", url, *options, cache=tmp_path / "c", env=ENV)


def replaced(mount: Mount, pid: int) -> int:
    """The pid of the daemon that has taken the place of one that was killed."""

    def other() -> int | None:
        try:
            return mount.pid if mount.pid != pid else None
        except OSError:
            return None

    return int(wait_until(other))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.mount
def test_a_killed_daemon_is_replaced_and_the_mount_is_warm(tmp_path: Path, store: S3Server) -> None:
    with of_store(tmp_path, store) as mount:
        content = (mount / "a.bin").read_bytes()
        wait_until(lambda: mount.status()["cache"]["used_bytes"] >= len(content))
        pid = mount.pid
        os.kill(pid, signal.SIGKILL)
        again = replaced(mount, pid)
        before = len(store.requests)
        assert (mount / "a.bin").read_bytes() == content
        assert sorted(each.name for each in mount.directory.iterdir()) == ["a.bin", "b.txt"]
        assert [each for each in store.requests[before:] if each.method == "GET" and each.range] == []
        assert mount.status()["restarts"] == 1
        # And once more: what was replaced once is looked after as before.
        os.kill(again, signal.SIGKILL)
        replaced(mount, again)
        assert mount.status()["restarts"] == 2
        supervisor = parent_of(mount.pid)
        assert "another takes its place" in mount.log.read_text()
        assert egofs("umount", mount.directory).returncode == 0
        assert wait_for_end(supervisor, 10)
        assert not is_mounted(mount.directory)


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts over a dead mount")
def test_nobody_ever_sees_the_empty_directory_below_while_a_daemon_is_replaced(tmp_path: Path, store: S3Server) -> None:
    seen: set[object] = set()
    over = threading.Event()

    def look(directory: Path) -> None:
        while not over.is_set():
            try:
                seen.add(tuple(sorted(os.listdir(directory))))
            except OSError as failure:
                seen.add(failure.errno)

    with of_store(tmp_path, store) as mount:
        looking = threading.Thread(target=look, args=(mount.directory,))
        looking.start()
        try:
            for _ in range(3):
                pid = mount.pid
                os.kill(pid, signal.SIGKILL)
                replaced(mount, pid)
        finally:
            over.set()
            looking.join()
    assert ("a.bin", "b.txt") in seen
    assert seen <= {("a.bin", "b.txt"), errno.ENOTCONN, errno.ECONNABORTED}


@pytest.mark.mount
def test_a_store_that_is_away_leaves_an_error_to_see_until_it_is_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    with mounted(source, tmp_path / "m", cache=tmp_path / "c") as mount:
        pid = mount.pid
        source.rename(tmp_path / "away")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mount.log.read_text().count("another takes its place") >= 2)
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            os.listdir(mount.directory)
        (tmp_path / "away").rename(source)
        replaced(mount, pid)
        assert os.listdir(mount.directory) == ["file"]


@pytest.mark.mount
def test_a_dead_mount_that_is_taken_away_is_not_made_again(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    for each in (source, directory):
        each.mkdir()
    script = "from mountd import supervisor; supervisor._FIRST_WAIT_S = 3; from mountd.cli import main; main()"
    command = [EGOFS[0], "-c", script, "mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'}"]
    subprocess.run(command, check=True)
    pid = Mount(directory, tmp_path).pid
    supervisor = parent_of(pid)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid, 10)
    done = egofs("umount", directory)
    assert done.returncode == 0, done.stderr
    assert wait_for_end(supervisor, 20)
    assert not is_mounted(directory)


@pytest.mark.mount
def test_a_daemon_that_stands_still_is_ended_and_replaced(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    for each in (source, directory):
        each.mkdir()
    script = (
        "from mountd import mounts, supervisor;"
        "supervisor._LOOK_S = 0.1; supervisor._HUNG_S = 0.5; mounts._PROBE_S = 0.5;"
        "from mountd.cli import main; main()"
    )
    command = [EGOFS[0], "-c", script, "mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'}"]
    subprocess.run(command, check=True)
    mount = Mount(directory, next((tmp_path / "c/log").glob("*.log")))
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    assert wait_for_end(pid, 20)
    replaced(mount, pid)
    assert "it is ended" in mount.log.read_text()
    assert egofs("umount", directory).returncode == 0


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_supervisor_passes_on_what_ends_the_mount(tmp_path: Path, number: signal.Signals) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    with mounted(source, tmp_path / "m", cache=tmp_path / "c") as mount:
        pid = mount.pid
        supervisor = parent_of(pid)
        with (mount / "file").open() as file:
            file.read()
            os.kill(supervisor, number)
            assert wait_for_end(pid, 20)
            assert wait_for_end(supervisor, 20)
            assert not is_mounted(mount.directory)
            with contextlib.suppress(OSError):
                file.close()


@pytest.mark.mount
def test_without_supervision_a_dead_mount_stays_and_fails_loudly(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    for each in (source, directory):
        each.mkdir()
    assert egofs("mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'},supervise=false").returncode == 0
    pid = Mount(directory, tmp_path).pid
    assert parent_of(pid) == 1
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid, 10)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(directory)
    assert egofs("umount", directory).returncode == 0
    assert not is_mounted(directory)


@pytest.mark.mount
def test_the_directory_below_is_closed_while_mounted_and_given_back_at_the_end(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    source.mkdir()
    directory.mkdir(0o710)
    beneath = os.open(directory, os.O_RDONLY)
    try:
        with mounted(source, directory, cache=tmp_path / "c"):
            assert stat.S_IMODE(os.fstat(beneath).st_mode) == 0
        assert stat.S_IMODE(os.fstat(beneath).st_mode) == 0o710
        assert os.listxattr(beneath) == []
        # After a crash it stays closed, until somebody says that the mount is over.
        assert egofs("mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'},supervise=false").returncode == 0
        pid = Mount(directory, tmp_path).pid
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid, 10)
        assert stat.S_IMODE(os.fstat(beneath).st_mode) == 0
        assert egofs("umount", directory).returncode == 0
        assert stat.S_IMODE(os.fstat(beneath).st_mode) == 0o710
    finally:
        os.close(beneath)


def test_a_directory_with_files_in_it_keeps_its_bits(tmp_path: Path) -> None:
    (tmp_path / "m/file").mkdir(parents=True)
    covered = below.Below(tmp_path / "m")
    covered.begin()
    covered.close()
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o755


def test_a_directory_left_closed_by_a_crash_is_opened_as_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir(0o750)
    covered = below.Below(directory)
    covered.begin()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o300
    covered.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0
    again = below.Below(directory)
    again.begin()
    again.close()
    below.give_back(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750


@pytest.mark.mount
def test_hangup_has_listings_asked_for_anew_and_ends_nothing(tmp_path: Path, store: S3Server) -> None:
    with of_store(tmp_path, store, "listing_age=3600") as mount:
        assert not (mount / "new.txt").exists()
        assert (mount / "b.txt").read_text() == "b"
        (tmp_path / "store/bucket/new.txt").write_text("new")
        (tmp_path / "store/bucket/b.txt").write_text("another")
        assert not (mount / "new.txt").exists()  # the listing is believed
        os.kill(parent_of(mount.pid), signal.SIGHUP)  # the supervisor passes it on
        wait_until(lambda: "reloaded in" in mount.log.read_text())
        assert (mount / "new.txt").read_text() == "new"
        assert (mount / "b.txt").read_text() == "another"
        assert mount.status()["restarts"] == 0


@pytest.mark.mount
def test_hangup_has_other_keys_used_from_then_on(tmp_path: Path, store: S3Server) -> None:
    keys = tmp_path / "credentials"
    write = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\n".format
    keys.write_text(write("first"))
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(keys), "AWS_EC2_METADATA_DISABLED": "true"}
    url = f"endpoint_url={store.endpoint_url}"
    with mounted("s3://bucket", tmp_path / "m", url, "listing_age=0", cache=tmp_path / "c", env=env) as mount:
        keys.write_text(write("second"))
        (mount / "b.txt").read_bytes()
        assert "Credential=first/" in store.requests[-1].headers["authorization"]
        os.kill(mount.pid, signal.SIGHUP)
        wait_until(lambda: "reloaded in" in mount.log.read_text())
        (mount / "a.bin").read_bytes()
        assert "Credential=second/" in store.requests[-1].headers["authorization"]


@pytest.mark.mount
def test_a_terminal_that_closes_ends_what_it_has_in_the_foreground(tmp_path: Path) -> None:
    for name in ("source", "m"):
        (tmp_path / name).mkdir()
    ours, theirs = pty.openpty()
    command = [*EGOFS, "mount", tmp_path / "source", tmp_path / "m", "-f", "-o", f"cache_dir={tmp_path / 'c'}"]
    with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "is mounted on" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0
    os.close(ours)
    os.close(theirs)
    assert not is_mounted(tmp_path / "m")


@pytest.mark.mount
def test_a_second_signal_does_not_wait_for_readers_that_hang(tmp_path: Path, store: S3Server) -> None:
    with of_store(tmp_path, store, "supervise=false") as mount:
        pid = mount.pid
        store.faults = lambda request: Stall(30.0) if request.range else None
        reader = subprocess.Popen(["cat", mount / "a.bin"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: any(each.range for each in store.requests))
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.3)
            os.kill(pid, signal.SIGTERM)
            assert wait_for_end(pid, 30)
            assert time.monotonic() - began < 9  # it would wait for 10 s
            assert not is_mounted(mount.directory)
        finally:
            reader.kill()
            reader.wait()


@pytest.mark.mount
def test_invalidate_shows_what_has_changed_at_one_place_only(tmp_path: Path, store: S3Server) -> None:
    bucket = tmp_path / "store/bucket"
    for name in ("x", "y"):
        (bucket / name / "deep").mkdir(parents=True)
        (bucket / name / "deep/old").write_text("old")
    with of_store(tmp_path, store, "listing_age=3600") as mount:
        for name in ("x", "y"):
            assert os.listdir(mount / name / "deep") == ["old"]
            assert not (mount / name / "deep/new").exists()
            (bucket / name / "deep/new").write_text("new")
        before = len(store.requests)
        done = egofs("invalidate", mount / "x")
        assert done.returncode == 0, done.stderr
        assert len(store.requests) == before  # asked when it is next looked at
        assert sorted(os.listdir(mount / "x/deep")) == ["new", "old"]
        assert (mount / "x/deep/new").read_text() == "new"
        assert not (mount / "y/deep/new").exists()
        # A name by itself, which is not there yet as far as anybody knows.
        assert egofs("invalidate", mount / "y/deep/new").returncode == 0
        assert (mount / "y/deep/new").read_text() == "new"
        # All of it, from within.
        (bucket / "top").write_text("top")
        assert not (mount / "top").exists()
        done = subprocess.run([*EGOFS, "invalidate", "."], cwd=mount.directory, capture_output=True, text=True)
        assert "listings are forgotten" in done.stderr
        assert (mount / "top").read_text() == "top"


@pytest.mark.mount
def test_invalidate_outside_of_mounts_is_one_line(tmp_path: Path) -> None:
    done = egofs("invalidate", tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stderr == f"egofs: {tmp_path / 'nothing'}: no egofs is mounted here (egofs status lists what is)\n"


@pytest.mark.mount
def test_a_dead_mount_is_cleared_where_somebody_else_looks_after_it(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    for each in (source, directory):
        each.mkdir()
    for _ in range(2):  # two dead ones, one over the other
        assert egofs("mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'},supervise=false").returncode == 0
        pid = Mount(directory, tmp_path).pid
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid, 10)
    assert len([each for each in mounts.mounts() if each.mountpoint == directory]) == 2
    assert egofs("umount", directory).returncode == 0
    assert not is_mounted(directory)


@pytest.mark.mount
def test_a_mount_that_hangs_can_be_taken_away(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "m"
    for each in (source, directory):
        each.mkdir()
    assert egofs("mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'},supervise=false").returncode == 0
    pid = Mount(directory, tmp_path).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        done = egofs("umount", "--lazy", directory, timeout=60)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(directory)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wait_for_end(pid, 20)


# Of the first daemon, once told to: its loop stands still, and a thread of it asks for what only the loop can answer.
ASKS_ITSELF = """
import os, sys, threading, time
import mountd.daemon as daemon
import vfs.ops
told, directory = sys.argv.pop(), sys.argv.pop()
settle = daemon._settle

async def stand_still(self, ctx):
    time.sleep(1000)

def ask():
    while not os.path.exists(told):
        time.sleep(0.02)
    vfs.ops.Operations.statfs = stand_still
    os.unlink(told)
    os.statvfs(directory)

def begin(*words):
    settle(*words)
    threading.Thread(target=ask, daemon=True).start()

daemon._settle = begin
from mountd.cli import main
main()
"""


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may abort a mount where fusectl is not mounted")
def test_a_daemon_killed_while_it_asks_its_own_mount_is_replaced_and_its_readers_are_freed(tmp_path: Path) -> None:
    source, directory, told = tmp_path / "source", tmp_path / "m", tmp_path / "told"
    for each in (source, directory):
        each.mkdir()
    (source / "file").write_text("text")
    words = ["mount", source, directory, "-o", f"cache_dir={tmp_path / 'c'}", directory, told]
    subprocess.run([EGOFS[0], "-c", ASKS_ITSELF, *words], check=True)
    mount = Mount(directory, next((tmp_path / "c/log").glob("*.log")))
    pid = mount.pid
    told.touch()
    wait_until(lambda: not told.exists())
    time.sleep(0.5)
    reader = subprocess.Popen(["stat", "-f", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.kill(pid, signal.SIGKILL)
    replaced(mount, pid)
    assert "all requests are given up" in mount.log.read_text()
    assert reader.wait(20) in (0, 1)
    assert (mount / "file").read_text() == "text"
    assert egofs("umount", directory).returncode == 0
