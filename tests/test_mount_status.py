"""`egofs status` of real mounts: live, dead, hung, another user's; its screen; metrics; what files tell."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mountd.config import MountOptions
from tests.mounting import EGOFS, Mount, egofs, is_mounted, mounted, wait_for_end, wait_until
from tests.s3server import S3Server
from tests.terminals import Terminal, terminals
from tests.test_metrics import free_port
from tests.test_start import imported, in_foreground
from vfs.options import described

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secretkey", "AWS_EC2_METADATA_DISABLED": "true"}
# Whose daemon is killed stays dead.
ALONE = ("supervise=false",) if "supervise" in described(MountOptions) else ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/x").write_bytes(b"x" * 100_000)
    return tmp_path / "source"


def status_of(mount: Mount | Path) -> dict[str, Any]:
    """What `egofs status --json` tells of one mount."""
    directory = mount if isinstance(mount, Path) else mount.directory
    done = egofs("status", directory, "--json")
    (told,) = json.loads(done.stdout)["mounts"]
    assert done.returncode == (32 if told["state"] in ("dead", "hung") else 0), done.stderr
    return told


def samples(text: str) -> dict[str, float]:
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}


@contextlib.contextmanager
def killed(folder: Path, directory: Path, cache: Path) -> Iterator[int]:
    """A mount whose daemon is no more."""
    with mounted(folder, directory, *ALONE, cache=cache) as mount:
        pid = mount.pid
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid, 10)
        yield pid


@contextlib.contextmanager
def stopped(mount: Mount) -> Iterator[int]:
    """A mount that answers nobody for a while."""
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


# -- what is told


def test_a_mount_tells_what_was_read_what_was_fetched_and_that_a_warm_one_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data").mkdir(parents=True)
    size = 3 << 20
    (tmp_path / "store/bucket/data/x").write_bytes(os.urandom(size))
    with S3Server(tmp_path / "store") as server:
        options = (f"endpoint_url={server.endpoint_url}", "umask=0022")
        for warm in (False, True):
            with mounted("s3://bucket/data", tmp_path / "m", *options, cache=tmp_path / "c", env=ENV) as mount:
                (mount / "x").read_bytes()
                told = status_of(mount)
                assert (told["state"], told["pid"], told["source"]) == ("live", mount.pid, "s3://bucket/data")
                read = told["asked"]["bytes_read"]
                assert size <= read < size + 20_000  # what the mount tells was read too
                assert told["fetched"]["bytes_fetched"] == (0 if warm else size)
                assert told["amplification"] == (0 if warm else size / read)
                assert told["options"] == {
                    "umask": "0022", "cache_dir": str(tmp_path / "c"), "endpoint_url": server.endpoint_url
                }  # fmt: skip
                assert told["access"] == {
                    # The listing is believed for a while: a warm mount need not have asked for anything.
                    "state": "ok" if told["fetched"]["requests"] else "not asked",
                    "whose": "the credentials (from env)",
                }
                cache = told["cache"]
                assert 0 <= cache["hit_rate"] <= 1
                assert (cache["hit_rate"] == 1.0) == warm
                wait_until(lambda mount=mount: status_of(mount)["cache"]["used_bytes"] >= size)
                assert Path(told["control"]).is_socket()
                assert Path(told["log"]).is_file()
                assert "secretkey" not in json.dumps(told) + (mount / ".egofs/metrics").read_text()
                text = egofs("status", mount.directory).stdout
                # What was read of `.egofs` meanwhile counts as read, and was not fetched.
                assert re.search(("0.00" if warm else r"(0\.[89]\d|1\.00)") + " of what was read", text)


def test_open_files_inodes_and_the_last_error_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.mp4").write_bytes(b"no video")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        before = status_of(mount)
        with (mount / "x").open("rb") as file:
            file.read(1)
            told = status_of(mount)
            assert told["open_files"] == before["open_files"] + 1
        assert told["inodes"] >= before["inodes"] > 1
        assert told["last_error"] is None
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mount / "frames/broken")
        told = status_of(mount)
        assert told["last_error"] == (mount / ".egofs/errors.log").read_text().splitlines()[-1]
        assert "broken" in told["last_error"]
        assert told["asked"]["failures"] == 1


def test_an_archive_that_is_being_read_is_told_with_how_far_that_is(tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data").mkdir(parents=True)
    plain = tmp_path / "plain"
    plain.write_bytes(os.urandom(6 << 20))
    archive = tmp_path / "store/bucket/data/a.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "plain"], check=True)
    with S3Server(tmp_path / "store") as server:
        options = f"endpoint_url={server.endpoint_url}"
        with mounted("s3://bucket/data", tmp_path / "m", options, cache=tmp_path / "c", env=ENV) as mount:
            assert status_of(mount)["under_way"] == []
            go_on = threading.Event()
            server.faults = lambda request: go_on.wait(30) and None if request.range else None
            with subprocess.Popen(["ls", mount / "a"], stdout=subprocess.DEVNULL) as listing:
                (each,) = wait_until(lambda: status_of(mount)["under_way"])
                assert (each["kind"], each["name"]) == ("indexing", "a.tar.gz")
                assert 0 <= each["done_bytes"] <= each["all_bytes"] == archive.stat().st_size
                go_on.set()
                assert listing.wait(60) == 0
            assert status_of(mount)["under_way"] == []


# -- states


def test_one_that_hangs_is_told_with_its_pid_and_holds_up_no_other(folder: Path, tmp_path: Path) -> None:
    with (
        mounted(folder, tmp_path / "hung", *ALONE, cache=tmp_path / "c1") as hung,
        mounted(folder, tmp_path / "live", cache=tmp_path / "c2") as live,
    ):
        with stopped(hung) as pid:
            done = egofs("status", "--json")
            assert done.returncode == 32
            told = {each["mountpoint"]: each for each in json.loads(done.stdout)["mounts"]}
            assert told[str(live.directory)]["state"] == "live"
            assert told[str(live.directory)]["asked"]["failures"] == 0
            assert told[str(hung.directory)]["state"] == "hung"
            assert told[str(hung.directory)]["pid"] == pid
            text = egofs("status", hung.directory).stdout
            assert f"kill -9 {pid}, then egofs umount -l {hung.directory}" in text
        assert status_of(hung)["state"] == "live"


def test_one_that_is_dead_is_told_with_what_to_type(folder: Path, tmp_path: Path) -> None:
    with killed(folder, tmp_path / "m", tmp_path / "c"):
        told = status_of(tmp_path / "m")
        assert (told["state"], told["pid"]) == ("dead", None)
        assert f"egofs mount {folder} {tmp_path / 'm'}" in told["remedy"]
        assert egofs("status").returncode == 32


def test_a_place_that_is_no_mount_is_a_wrong_argument(tmp_path: Path) -> None:
    for more in ((), ("--json",), ("--watch",)):
        done = egofs("status", tmp_path, *more)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(f"egofs: {tmp_path}: no egofs is mounted here .*\n", done.stderr)


# In a process of root's whose modules are all there: as this user it could not read them.
AS_ANOTHER = """
import encodings.idna, json, os, sys
from pathlib import Path
from mountd import control, mounts, standing, survey
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
found = [each for each in survey.places(mounts.mounts()) if str(each.mountpoint) == sys.argv[1]]
(seen,) = survey.look(found)
print(json.dumps(seen.as_json()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("lets_in", [False, True])
def test_another_users_mount_is_told_as_far_as_it_lets_us_in(folder: Path, tmp_path: Path, lets_in: bool) -> None:
    place = Path(tempfile.mkdtemp())  # where others may go, as they may not below tmp_path
    place.chmod(0o755)
    options = ["allow_other"] if lets_in else []
    try:
        with mounted(folder, place / "m", *options, cache=tmp_path / "c") as mount:
            command = [sys.executable, "-c", AS_ANOTHER, str(mount.directory)]
            told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            if lets_in:
                assert (told["state"], told["pid"], told["remedy"]) == ("live", mount.pid, None)
            else:
                assert (told["state"], told["pid"]) == ("foreign", None)
                assert told["remedy"] == "it is uid 0's: ask as that user, or as root"
                assert "asked" not in told
    finally:
        shutil.rmtree(place)


# -- again and again


def test_without_a_terminal_watching_is_the_plain_text_again_and_again(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        command = [*EGOFS, "status", str(mount.directory), "--watch", "--interval", "0.2"]
        # As a terminal has it: what runs these tests in the background may ignore the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        with watching:
            assert watching.stdout is not None
            assert watching.stderr is not None
            heads = 0
            for line in watching.stdout:
                assert "\x1b" not in line
                heads += line.startswith(f"{mount.directory}  {folder}  live")
                if heads == 3:
                    break
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
            assert watching.stderr.read() == ""


def test_watching_as_json_is_a_line_each_time_and_ends_when_its_reader_does(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        command = [*EGOFS, "status", str(mount.directory), "--watch", "--json", "--interval", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert watching.stderr is not None
            for _ in range(2):
                assert json.loads(watching.stdout.readline())["mounts"][0]["state"] == "live"
            watching.stdout.close()
            watching.wait(20)
            assert watching.stderr.read() == ""


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    with terminals() as open_one:
        yield lambda columns, lines, *arguments: open_one(columns, lines, "status", "--watch", *arguments)


def test_the_screen_shows_a_mount_at_work_in_any_size_and_leaves_the_terminal_as_it_was(
    folder: Path, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        watching = terminal(80, 24, mount.directory, "--interval", "0.3")
        lines = watching.until(lambda text: "reading" in text)
        assert lines[0].startswith("egofs: 1 mount  ")
        assert lines[0].endswith("Ctrl-C ends")
        assert re.fullmatch(r"● .*/m  .*  live, up \d+ s, pid \d+", lines[1])
        assert [line.split()[0] for line in lines[2:5]] == ["reading", "fetching", "requests"]
        for _ in range(5):
            (mount / "x").read_bytes()
        watching.until(
            lambda text: re.search("reading .*[▂▃▄▅▆▇█]", text) or (mount / ".egofs/help.txt").read_bytes() == b""
        )
        watching.resize(120, 40)
        lines = watching.until(
            lambda text: text.splitlines()[0].startswith("egofs") and len(text.splitlines()[0]) == 120
        )
        assert any(len(line) > 80 for line in lines[2:7])
        watching.press("C-c")
        lines = watching.until(lambda text: "ended with" in text)
        assert [line for line in lines if line] == ["ended with 0"]


def test_a_mount_that_comes_dies_and_goes_is_seen_to(
    folder: Path, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with mounted(folder, first, *ALONE, cache=tmp_path / "c1") as mount:
        watching = terminal(250, 50, "--interval", "0.3")
        watching.until(lambda text: f"● {first}  {folder}  live" in text and str(second) not in text)
        with mounted(folder, second, cache=tmp_path / "c2"):
            watching.until(lambda text: f"● {second}  {folder}  live" in text)
        watching.until(lambda text: str(second) not in text)
        with stopped(mount) as pid:
            watching.until(lambda text: f"● {first}  {folder}  hung, pid {pid}" in text)
        watching.until(lambda text: f"● {first}  {folder}  live" in text)
        os.kill(mount.pid, signal.SIGKILL)
        watching.until(lambda text: "its daemon has ended" in text)
        watching.press("C-c")
        watching.until(lambda text: "ended with 0" in text)


def test_ten_mounts_have_room_on_a_small_screen(
    folder: Path, tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(10):
            stack.enter_context(mounted(folder, tmp_path / f"m{number}", "frames=false", cache=tmp_path / "c"))
        watching = terminal(80, 24, "--interval", "0.5")
        lines = watching.until(lambda text: text.count("● ") >= 10)
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
        told = egofs("status").stdout
        assert [told.count(f"{tmp_path / f'm{number}'}  ") for number in range(10)] == [1] * 10


# -- metrics


def test_metrics_and_status_tell_the_same(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        (mount / "x").read_bytes()
        found = samples((mount / ".egofs/metrics").read_text())
        told = status_of(mount)
        assert found["egofs_source_requests_total"] == told["fetched"]["requests"]
        assert found["egofs_fetched_bytes_total"] == told["fetched"]["bytes_fetched"] == 100_000
        assert found["egofs_process_open_fds"] > 3
        assert found["egofs_process_resident_memory_bytes"] > 10 << 20
        before = found["egofs_opens_total"]
        (mount / "x").read_bytes()
        # The opening of the metrics themselves counts too.
        assert samples((mount / ".egofs/metrics").read_text())["egofs_opens_total"] >= before + 2


def test_a_port_answers_the_same_to_this_machine_and_is_given_back(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        with mounted(folder, tmp_path / "m", f"metrics_port={port}", cache=tmp_path / "c") as mount:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                found = samples(answer.read().decode())
            assert found["egofs_reads_total"] == mount.status()["asked"]["reads"]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


@pytest.mark.parametrize("text", ["metrics_port=70000", "metrics_port=-1", "metrics_port=http"])
def test_a_port_that_is_none_is_a_wrong_option(folder: Path, tmp_path: Path, text: str) -> None:
    done = egofs("mount", folder, tmp_path, "-o", f"{text},cache_dir={tmp_path / 'c'}")
    assert done.returncode == 1
    assert "a port from 1 to 65535, or 0 for none" in done.stderr


def test_a_port_in_use_is_one_line_and_nothing_is_mounted(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "second").mkdir()
    with mounted(folder, tmp_path / "first", f"metrics_port={port}", cache=tmp_path / "c"):
        done = egofs("mount", folder, tmp_path / "second", "-o", f"metrics_port={port},cache_dir={tmp_path / 'c'}")
        assert done.returncode == 1
        assert done.stderr == f"egofs: metrics_port={port}: Address already in use (127.0.0.1): choose another port\n"
        assert not is_mounted(tmp_path / "second")


def test_a_mount_imports_neither_metrics_nor_http_before_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    options = f"cache_dir={tmp_path / 'c'},frames=false"
    with in_foreground(folder, tmp_path / "m", "-o", options, until="is mounted on") as lines:
        assert "pyfuse3" in imported("".join(lines))
        assert not imported("".join(lines)) & {"prometheus_client", "http.server", "mountd.metrics", "rich"}
        assert "egofs_reads_total" in (tmp_path / "m/.egofs/metrics").read_text()
    assert {"prometheus_client", "mountd.metrics"} <= imported("".join(lines))


# -- what files tell


def facts_of(path: Path) -> dict[str, str]:
    return {name.removeprefix("user.egofs."): os.getxattr(path, name).decode() for name in os.listxattr(path)}


def test_every_file_of_the_demo_tells_what_it_is_and_every_video_what_is_in_it(
    tmp_path: Path, demo_cache: Path
) -> None:
    of_any = {"source", "version", "cached_bytes"}
    of_video = of_any | {"frames", "fps", "codec", "width", "height"}
    with mounted("demo", tmp_path / "m", cache=demo_cache) as mount:
        assert facts_of(mount.directory) == {"source": mount.status()["url"], "dataset": "demo"}
        videos = [path for path in mount.directory.rglob("*.mp4") if "frames" not in path.parts]
        assert len(videos) > 20
        for path in videos[::5]:
            told = facts_of(path)
            assert told.keys() >= of_video
            assert int(told["frames"]) > 0
            assert int(told["width"]) > 0
            assert int(told["height"]) > 0
        for path in (mount / "recordings").glob("*/*.mp4"):
            assert {"camera", "view", "recording"} <= {n.removeprefix("user.egofs.") for n in os.listxattr(path)}
        assert facts_of(next(mount.directory.rglob("*.json"))).keys() >= of_any
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(mount.directory, "user.egofs.frames")
        assert os.listxattr(mount / "recordings") == []


def test_help_names_what_can_be_asked(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        text = (mount / ".egofs/help.txt").read_text()
        assert max(map(len, text.splitlines())) <= 120
        for name in os.listdir(mount / ".egofs"):
            assert name == "help.txt" or f".egofs/{name}" in text
        for command in ("status --watch", "warm PATH", "ls -l", "invalidate PATH", "cache info", "doctor"):
            assert f"egofs {command}" in text


def test_asking_costs_the_store_nothing(tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data").mkdir(parents=True)
    (tmp_path / "store/bucket/data/x").write_bytes(b"x" * 1000)
    with S3Server(tmp_path / "store") as server:
        options = f"endpoint_url={server.endpoint_url}"
        with mounted("s3://bucket/data", tmp_path / "m", options, cache=tmp_path / "c", env=ENV) as mount:
            before = len(server.requests)
            for _ in range(3):
                status_of(mount)
                (mount / ".egofs/metrics").read_bytes()
                facts_of(mount.directory)
            time.sleep(0.1)
            assert len(server.requests) == before
