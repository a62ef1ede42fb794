"""Google Drive mounted for real: Assembly101's tree, a second mount without a query, tokens, quotas, ended access."""

import errno
import os
import pickle
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driveserver import DriveServer
from tests.googletokens import Refuse
from tests.mounting import EGOFS, Mount, egofs, is_mounted, mounted, wait_until
from tests.test_gdrive import CAMERAS, assembly, recording

pytestmark = pytest.mark.mount


@pytest.fixture
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
        yield server
        assert {request.kind for request in server.requests if request.method != "GET"} <= {"token"}


@pytest.fixture
def credentials(server: DriveServer, tmp_path: Path) -> Path:
    server.write_credentials(tmp_path / "credentials.json")
    return tmp_path / "credentials.json"


@pytest.fixture
def options(server: DriveServer, credentials: Path) -> list[str]:
    """What follows -o for Assembly101 on the server."""
    return [
        f"source=gdrive://{server.root}",
        f"endpoint_url={server.endpoint_url}",
        f"credentials={credentials}",
        "frames=false",
        "archives=false",  # the one that is there is none
    ]


def tree(mount: Mount) -> list[str]:
    """Every name, as `find` gives it."""
    done = subprocess.run(["find", mount.directory], capture_output=True, text=True, check=True, timeout=120)
    return sorted(line.removeprefix(str(mount.directory)) for line in done.stdout.splitlines())


def test_a_second_mount_lists_and_reads_without_a_query(
    server: DriveServer, options: list[str], tmp_path: Path
) -> None:
    assembly(server, 362)
    read = f"recordings/{recording(200)}/{CAMERAS[3]}"
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        first = tree(mount)
        assert server.count("list") == 1 + 1 + 1 + 10  # the root, `recordings`, the first alone, 361 in forties
    assert len(first) == 3 + 362 + 362 * 24  # each camera under two names
    server.requests.clear()
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert tree(mount) == first
        assert server.requests == []
        assert (mount / read).read_bytes() == f"200 {CAMERAS[3]}".encode()
        assert (mount / f"recordings/{recording(200)}/v4.mp4").read_bytes() == f"200 {CAMERAS[3]}".encode()
    assert [request.kind for request in server.requests] == ["media", "get"]
    server.requests.clear()
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert (mount / read).read_bytes() == f"200 {CAMERAS[3]}".encode()
    assert server.requests == []


def test_with_file_ids_a_recording_costs_one_query(server: DriveServer, options: list[str], tmp_path: Path) -> None:
    ids = assembly(server, 362)
    (tmp_path / "file_ids.pkl").write_bytes(pickle.dumps(ids, 2))
    options = [*options, f"file_ids={tmp_path / 'file_ids.pkl'}"]
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        root = server.count("list")
        assert len(os.listdir(mount / "recordings")) == 362
        assert server.count("list") == root == 1
        assert "e1.mp4" in os.listdir(mount / f"recordings/{recording(5)}")
        assert server.count("list") == root + 1
    server.requests.clear()
    options[0] = "source=gdrive://"
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert "e1.mp4" in os.listdir(mount / f"recordings/{recording(5)}")
        assert server.count("list") == 1


def test_files_are_found_from_the_folder_in_which_the_mount_was_made(
    server: DriveServer, credentials: Path, tmp_path: Path
) -> None:
    server.file("a.mp4", b"data")
    (tmp_path / "m").mkdir()
    for named in ("", ",credentials=credentials.json"):
        texts = f"cache_dir={tmp_path / 'c'},endpoint_url={server.endpoint_url}{named}"
        command = ["mount", f"gdrive://{server.root}", "m", "-o", texts]
        subprocess.run(
            ["env", f"HOME={tmp_path}", f"PYTHONPATH={os.getcwd()}", *EGOFS, *command],
            cwd=credentials.parent,
            check=True,
            timeout=60,
        )
        assert (tmp_path / "m/a.mp4").read_bytes() == b"data"
        assert egofs("umount", tmp_path / "m").returncode == 0


def test_a_killed_daemon_goes_on_where_it_was(server: DriveServer, options: list[str], tmp_path: Path) -> None:
    assembly(server, 5)
    data = os.urandom(16 << 20)
    server.file("large.bin", data)
    options = [*options, "supervise=false"]
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        before = tree(mount)
        assert (mount / "large.bin").read_bytes() == data
        wait_until(lambda: mount.status()["cache"]["used_bytes"] >= len(data))
        os.kill(mount.pid, signal.SIGKILL)
        server.requests.clear()
        with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as again:
            assert tree(again) == before
            assert (again / "large.bin").read_bytes() == data
    assert server.requests == []


def test_a_token_that_ends_while_bytes_are_read_is_not_noticed(
    server: DriveServer, options: list[str], tmp_path: Path
) -> None:
    data = os.urandom(24 << 20)
    server.file("large.bin", data)
    with (
        mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount,
        (mount / "large.bin").open("rb", buffering=0) as file,
    ):
        found = file.read(1 << 20)
        server.expire()
        while part := file.read(1 << 20):
            found += part
        assert found == data
        assert mount.status()["credentials"] is None
    assert server.count("token") == 1


def test_a_spent_quota_is_an_error_of_its_own_with_a_line_that_says_when_it_ends(
    server: DriveServer, options: list[str], tmp_path: Path
) -> None:
    server.file("a.mp4", bytes(5000))
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        server.faults = lambda request: (
            Refuse(403, "downloadQuotaExceeded", "usageLimits") if request.kind == "media" else None
        )
        for _ in range(3):
            with pytest.raises(OSError) as raised:
                (mount / "a.mp4").read_bytes()
            assert raised.value.errno == errno.EDQUOT
        lines = (mount / ".egofs/errors.log").read_text().splitlines()
        assert len([line for line in lines if "24 hours" in line and "a.mp4" in line]) == 1
        assert mount.status()["credentials"] is None
    assert server.count("media") == 1


def test_a_store_that_asks_for_fewer_requests_is_waited_for(
    server: DriveServer, options: list[str], tmp_path: Path
) -> None:
    server.file("a.mp4", b"data")
    faults = iter([Refuse(403, "userRateLimitExceeded", "usageLimits")] * 2)
    server.faults = lambda request: next(faults, None) if request.kind == "media" else None
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert (mount / "a.mp4").read_bytes() == b"data"
        assert mount.status()["fetched"]["retries"] == 2


def test_access_that_ended_is_told_in_the_status_and_works_again_without_a_remount(
    server: DriveServer, options: list[str], credentials: Path, tmp_path: Path
) -> None:
    server.file("a.mp4", b"data")
    server.file("b.mp4", b"more")
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        assert (mount / "a.mp4").read_bytes() == b"data"
        server.hidden.add(server.root)
        with pytest.raises(PermissionError):
            (mount / "b.mp4").read_bytes()
        assert (mount / "a.mp4").read_bytes() == b"data"  # what is kept is there
        message = mount.status()["credentials"]["message"]
        assert "14 days" in message
        assert server.root in message
        assert "14 days" in egofs("status").stdout
        everything = message + (mount / ".egofs/errors.log").read_text() + mount.log.read_text()
        assert not [secret for secret in (*server.tokens, *server.refresh_tokens) if secret in everything]
        server.hidden.clear()
        assert (mount / "b.mp4").read_bytes() == b"more"
        assert mount.status()["credentials"] is None


def test_credentials_that_are_replaced_work_without_a_remount(
    server: DriveServer, options: list[str], credentials: Path, tmp_path: Path
) -> None:
    server.file("a.mp4", b"data")
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        server.expire()
        server.refresh_tokens.clear()
        with pytest.raises(PermissionError):
            (mount / "a.mp4").read_bytes()
        assert "egofs auth gdrive" in mount.status()["credentials"]["message"]
        server.write_credentials(credentials)
        assert wait_until(lambda: _read_or_none(mount / "a.mp4")) == b"data"


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except PermissionError:
        return None


def test_a_replaced_file_is_stale_for_who_has_it_open_and_fresh_for_the_next(
    server: DriveServer, options: list[str], tmp_path: Path
) -> None:
    identity = server.file("a.bin", os.urandom(8 << 20))
    new = os.urandom(6 << 20)
    with mounted("assembly101", tmp_path / "m", *options, cache=tmp_path / "c") as mount:
        with (mount / "a.bin").open("rb", buffering=0) as file:
            file.read(1000)
            server.replace(identity, new)
            with pytest.raises(OSError) as raised:
                os.pread(file.fileno(), 1000, 7 << 20)
            assert raised.value.errno == errno.ESTALE
        assert wait_until(lambda: (mount / "a.bin").stat().st_size == 6 << 20)
        assert (mount / "a.bin").read_bytes() == new


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("gdrive://1noSuchFolder", "drive.google.com/drive/folders/1noSuchFolder"),
        ("gdrive://a b", "gdrive://FOLDER_ID"),
    ],
)
def test_a_folder_that_is_not_there_is_told_by_the_mount_in_a_line(
    source: str, named: str, server: DriveServer, credentials: Path, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    texts = f"cache_dir={tmp_path / 'c'},endpoint_url={server.endpoint_url},credentials={credentials}"
    done = egofs("mount", source, tmp_path / "m", "-o", texts)
    assert done.returncode in (1, 32)
    assert not is_mounted(tmp_path / "m")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1
