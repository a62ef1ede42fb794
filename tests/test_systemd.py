"""The units, by systemd's own judgement and under a systemd that has booted in a machine of its own."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.faults import Stall
from tests.machine import NOBODY, TOP, Machine, machine, why_no_boot
from tests.mounting import wait_until
from tests.s3server import S3Server

UNITS = TOP / "systemd"
# Of 10 (anything may be done) as `systemd-analyze security` of systemd 252 counts; a plain service has 9.6. What is
# left is what would give the service a mount namespace, and root.
MOST_EXPOSED = 4.3

_HIDES = """
ProtectSystem ProtectHome ProtectProc ProcSubset ProtectKernelTunables ProtectKernelModules ProtectKernelLogs
ProtectControlGroups PrivateMounts PrivateTmp PrivateDevices PrivateUsers PrivateIPC ReadOnlyPaths RootDirectory
ReadWritePaths InaccessiblePaths ExecPaths NoExecPaths BindPaths BindReadOnlyPaths TemporaryFileSystem RootImage
MountFlags MountImages ExtensionImages DynamicUser IPCNamespacePath RootHash LogNamespace
"""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
needs_systemd = pytest.mark.skipif(why_no_boot() != "", reason=why_no_boot() or "-")
pytestmark = pytest.mark.timeout(180)


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with programs that are there: whether those exist is part of what is verified."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/local/bin/egofs", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_analyze
@pytest.mark.parametrize("name", ["egofs@.service", "mnt-demo.mount", "mnt-demo.automount"])
def test_systemd_finds_nothing_wrong_with_the_units(name: str, units: Path) -> None:
    done = analyze("verify", "--man=no", units / name)
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_a_wrong_unit_would_be_found(units: Path) -> None:
    with (units / "egofs@.service").open("a") as unit:
        unit.write("[Service]\nWatchdogSecs=3\n")
    assert "WatchdogSecs" in analyze("verify", "--man=no", units / "egofs@.service").stderr


@needs_analyze
def test_the_service_is_exposed_no_more_than_a_mount_must_be(units: Path) -> None:
    (units / "egofs@.service").rename(units / "egofs@x.service")
    done = analyze("security", "--offline=true", "--no-pager", units / "egofs@x.service")
    found = re.search(r"Overall exposure level for egofs@x.service: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_no_option_gives_the_service_a_mount_namespace_of_its_own() -> None:
    # systemd.exec(5) and exec_needs_mount_namespace in systemd's src/core/execute.c.
    hides = re.findall(r"\w+", _HIDES)
    options = {line.partition("=")[0] for line in (UNITS / "egofs@.service").read_text().splitlines()}
    assert not options & set(hides)
    assert {"NoNewPrivileges", "SystemCallFilter", "WatchdogSec"} <= options


# -- booted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    (root / "bucket/hello.txt").write_bytes(b"hello\n" * 100_000)
    (root / "bucket/late.bin").write_bytes(b"x" * 1_000_000)
    make_clip(root / "bucket/a.mp4", frames=3)
    with S3Server(root) as running:
        running.faults = lambda request: Stall(60) if request.path.endswith("late.bin") else None
        yield running


@pytest.fixture(scope="module")
def booted(server: S3Server) -> Iterator[Machine]:
    """A machine in which systemd runs and egofs is installed; `store` is a bucket, `folder` a folder."""
    with machine(booted=True) as inner:
        inner.write("/srv/data/hello.txt", "hello\n")
        inner.write("/etc/systemd/system/egofs@.service.d/log.conf", "[Service]\nStandardError=append:/srv/log\n")
        inner.run("/srv/bin/egofs", "install", check=True)
        # By a name, so that the sandbox has to let it be looked up.
        url = f"http://localhost:{server.port}"
        inner.write(
            "/etc/egofs/store.toml",
            f'source = "s3://bucket"\nendpoint_url = "{url}"\nanonymous = true\nlisting_age = 3600\n',
        )
        inner.write("/etc/egofs/folder-1.toml", 'source = "/srv/data"\n')
        yield inner


def shown(inner: Machine, unit: str, name: str) -> str:
    return inner.out("systemctl", "show", "-P", name, unit)


def restarted(inner: Machine, unit: str, before: str) -> str:
    """The new main process, once the service has started again."""

    def new() -> str | None:
        state, pid = shown(inner, unit, "ActiveState"), shown(inner, unit, "MainPID")
        return pid if state == "active" and pid not in ("0", before) else None

    return str(wait_until(new, 40))


def objects_asked(server: S3Server) -> int:
    """How many requests for bytes of objects there were."""
    return sum(request.path.startswith("/bucket/") for request in server.requests)


@pytest.mark.mount
@needs_systemd
def test_install_makes_the_service_known_to_the_running_systemd(booted: Machine) -> None:
    assert shown(booted, "egofs@folder-1", "LoadState") == "loaded"
    assert "/srv/bin/egofs mount -f /etc/egofs/folder-1.toml /mnt/folder-1" in shown(
        booted, "egofs@folder-1", "ExecStart"
    )
    assert "there already" in booted.out("/srv/bin/egofs", "install")


@pytest.mark.mount
@needs_systemd
def test_start_returns_when_it_is_mounted_for_all_and_stop_when_it_is_gone(booted: Machine) -> None:
    unit = "egofs@folder-1"
    booted.run("systemctl", "start", unit, check=True)
    assert booted.mounted("/mnt/folder-1") == ["fuse.egofs"]
    assert booted.out("cat", "/mnt/folder-1/hello.txt", user=NOBODY) == "hello"
    assert shown(booted, unit, "StatusText") == "/etc/egofs/folder-1.toml is mounted on /mnt/folder-1"
    assert "/mnt/folder-1  /etc/egofs/folder-1.toml  live, up " in booted.out("egofs", "status")
    assert booted.path("/var/cache/egofs").stat().st_mode & 0o777 == 0o700
    pid = shown(booted, unit, "MainPID")
    assert "NoNewPrivs:\t1" in booted.out("cat", f"/proc/{pid}/status")
    booted.run("systemctl", "stop", unit, check=True)
    assert booted.mounted("/mnt/folder-1") == []
    assert [shown(booted, unit, name) for name in ("ActiveState", "Result", "ExecMainStatus")] == [
        "inactive", "success", "0",
    ]  # fmt: skip
    # What is below is nobody's to read.
    assert booted.path("/mnt/folder-1").stat().st_mode & 0o777 == 0


@pytest.mark.mount
@needs_systemd
def test_the_sandbox_leaves_what_a_mount_does_alone(booted: Machine, server: S3Server) -> None:
    """A store over the network, a cache on disk, decoders: with all that the service may not do."""
    booted.run("systemctl", "start", "egofs@store", check=True)
    assert len(booted.out("cat", "/mnt/store/hello.txt")) == 599_999
    picture = booted.path("/srv/picture")
    booted.run("sh", "-c", "cat /mnt/store/frames/a/000002.jpg >/srv/picture", check=True)
    assert picture.read_bytes().startswith(b"\xff\xd8")
    clip = booted.run("sh", "-c", "cat /mnt/store/frames/a/1-3.npy >/srv/clip", check=True)
    assert (clip.stderr, booted.path("/srv/clip").read_bytes()[:6]) == ("", b"\x93NUMPY")
    assert "Errno 1" not in booted.path("/srv/log").read_text()


@pytest.mark.mount
@needs_systemd
def test_a_killed_daemon_is_started_again_warm_and_nobody_sees_an_empty_folder(
    booted: Machine, server: S3Server
) -> None:
    booted.run("systemctl", "start", "egofs@store", check=True)
    booted.run("cat", "/mnt/store/hello.txt", check=True)
    asked = objects_asked(server)
    pid = shown(booted, "egofs@store", "MainPID")
    booted.run("kill", "-9", pid, check=True)
    seen = set()
    deadline = time.monotonic() + 40
    while "hello.txt" not in seen and time.monotonic() < deadline:
        done = booted.run("ls", "/mnt/store", user=NOBODY)
        seen |= set(done.stdout.split()) or {done.stderr.rpartition(": ")[2].strip()}
    # Who was reading at that moment has his own error.
    failures = {"Transport endpoint is not connected", "Software caused connection abort", "Permission denied"}
    assert seen <= {"hello.txt", "a.mp4", "late.bin", "frames", *failures}
    assert {"hello.txt", "Transport endpoint is not connected"} <= seen
    restarted(booted, "egofs@store", pid)
    assert len(booted.out("cat", "/mnt/store/hello.txt")) == 599_999
    assert objects_asked(server) == asked


@pytest.mark.mount
@needs_systemd
def test_a_daemon_that_stands_still_is_ended_by_the_watchdog_and_started_again(booted: Machine) -> None:
    booted.write("/run/systemd/system/egofs@folder-1.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    booted.run("systemctl", "daemon-reload", check=True)
    booted.run("systemctl", "start", "egofs@folder-1", check=True)
    pid = shown(booted, "egofs@folder-1", "MainPID")
    # That it lives twice as long as that says that the watchdog is told.
    time.sleep(6)
    assert shown(booted, "egofs@folder-1", "MainPID") == pid
    booted.run("kill", "-STOP", pid, check=True)
    restarted(booted, "egofs@folder-1", pid)
    assert int(shown(booted, "egofs@folder-1", "NRestarts")) == 1
    assert booted.out("cat", "/mnt/folder-1/hello.txt") == "hello"
    log = booted.path("/srv/log").read_text()
    assert "Fatal Python error: Aborted" in log, "it does not say where it stood"
    booted.run("systemctl", "stop", "egofs@folder-1", check=True)
    assert booted.mounted("/mnt/folder-1") == []


@pytest.mark.mount
@needs_systemd
def test_a_store_that_stands_still_is_no_dead_daemon_and_does_not_keep_a_stop_from_unmounting(
    booted: Machine, server: S3Server
) -> None:
    drop_in = "/run/systemd/system/egofs@store.service.d/short.conf"
    booted.write(drop_in, "[Service]\nWatchdogSec=3\nTimeoutStopSec=2\n")
    booted.run("systemctl", "daemon-reload", check=True)
    booted.run("systemctl", "restart", "egofs@store", check=True)
    pid = shown(booted, "egofs@store", "MainPID")
    # More readers than trio has threads for all that says nothing of how many.
    start = 'pids=; for i in $(seq 45); do cat /mnt/store/late.bin >/dev/null 2>&1 & pids="$pids $!"; done; sleep 6; '
    assert booted.out("sh", "-c", start + "for pid in $pids; do kill -0 $pid && echo waits; done").count("waits") == 45
    assert shown(booted, "egofs@store", "MainPID") == pid
    booted.run("systemctl", "stop", "egofs@store", check=True)
    assert shown(booted, "egofs@store", "Result") == "timeout"
    assert booted.mounted("/mnt/store") == []
    booted.path(drop_in).unlink()
    booted.run("systemctl", "daemon-reload", check=True)
    booted.run("systemctl", "reset-failed", check=True)


@pytest.mark.mount
@needs_systemd
def test_a_service_that_gives_up_leaves_errors_and_no_empty_folder(booted: Machine) -> None:
    booted.write("/etc/egofs/lost.toml", 'source = "/srv/data"\n')
    booted.run("systemctl", "start", "egofs@lost", check=True)
    # Nothing that trying again would mend: it is tried once.
    booted.write("/etc/egofs/lost.toml", 'source = "/srv/data"\nnonsense = 1\n')
    booted.run("kill", "-9", shown(booted, "egofs@lost", "MainPID"), check=True)
    wait_until(lambda: shown(booted, "egofs@lost", "ActiveState") == "failed", 40)
    assert shown(booted, "egofs@lost", "NRestarts") == "1"
    assert "Transport endpoint is not connected" in booted.run("ls", "/mnt/lost").stderr
    # Mended, it clears what was left.
    booted.write("/etc/egofs/lost.toml", 'source = "/srv/data"\n')
    booted.run("systemctl", "start", "egofs@lost", check=True)
    assert booted.out("cat", "/mnt/lost/hello.txt") == "hello"
    booted.run("systemctl", "stop", "egofs@lost", check=True)
    # With it goes the dead mount that it was put over.
    assert booted.mounted("/mnt/lost") == []


@pytest.mark.mount
@needs_systemd
def test_a_mount_that_is_taken_away_by_hand_ends_the_service_well(booted: Machine) -> None:
    booted.run("systemctl", "start", "egofs@folder-1", check=True)
    booted.run("umount", "/mnt/folder-1", check=True)
    wait_until(lambda: shown(booted, "egofs@folder-1", "ActiveState") == "inactive", 40)
    assert shown(booted, "egofs@folder-1", "Result") == "success"


@pytest.mark.mount
@needs_systemd
def test_a_line_of_fstab_mounts_at_the_first_look(booted: Machine) -> None:
    if not os.path.exists("/dev/autofs"):
        pytest.skip("the kernel has no autofs")
    line = (
        "/srv/data /mnt/auto egofs ro,_netdev,nofail,allow_other,x-systemd.automount,x-systemd.mount-timeout=60 0 0\n"
    )
    booted.write("/etc/fstab", line)
    booted.run("systemctl", "daemon-reload", check=True)
    # Of the network's mounts, so that no boot waits for it.
    assert "mnt-auto.automount" in shown(booted, "remote-fs.target", "Wants")
    assert "mnt-auto" not in shown(booted, "local-fs.target", "Wants") + shown(booted, "local-fs.target", "Requires")
    booted.run("systemctl", "restart", "remote-fs.target", check=True)
    assert booted.mounted("/mnt/auto") == ["autofs"]
    assert booted.out("cat", "/mnt/auto/hello.txt", user=NOBODY) == "hello"
    assert booted.mounted("/mnt/auto") == ["autofs", "fuse.egofs"]
    # By hand it is mounted there as elsewhere.
    booted.run("umount", "/mnt/auto", check=True)
    booted.run("mount", "/mnt/auto", check=True)
    assert booted.mounted("/mnt/auto") == ["autofs", "fuse.egofs"]
    booted.run("systemctl", "stop", "mnt-auto.automount", "mnt-auto.mount", check=True)
    assert booted.mounted("/mnt/auto") == []


@pytest.mark.mount
@needs_systemd
def test_the_units_without_fstab_mount_at_the_first_look(booted: Machine) -> None:
    if not os.path.exists("/dev/autofs"):
        pytest.skip("the kernel has no autofs")
    for name in ("mnt-demo.mount", "mnt-demo.automount"):
        booted.write(f"/etc/systemd/system/{name}", (UNITS / name).read_text().replace("What=demo", "What=/srv/data"))
    booted.run("systemctl", "daemon-reload", check=True)
    booted.run("systemctl", "start", "mnt-demo.automount", check=True)
    assert booted.mounted("/mnt/demo") == ["autofs"]
    assert booted.out("cat", "/mnt/demo/hello.txt", user=NOBODY) == "hello"
    assert booted.mounted("/mnt/demo") == ["autofs", "fuse.egofs"]
    booted.run("systemctl", "stop", "mnt-demo.automount", "mnt-demo.mount", check=True)
    assert booted.mounted("/mnt/demo") == []


@pytest.mark.mount
@needs_systemd
def test_the_lines_of_the_example_are_lines_that_mount_understands(booted: Machine) -> None:
    booted.write("/srv/fstab", (UNITS / "fstab.example").read_text())
    found = booted.out("findmnt", "--tab-file", "/srv/fstab", "-rno", "SOURCE,TARGET,FSTYPE,OPTIONS").splitlines()
    assert [line.split()[2] for line in found] == ["egofs"] * 4
    booted.write("/etc/egofs/lab.toml", 'dataset = "demo"\n')
    for line in found:
        source, target, _, options = line.split()
        done = booted.run("/sbin/mount.egofs", source, target, "-f", "-o", options)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.mount
@needs_systemd
def test_uninstall_takes_the_unit_from_the_running_systemd(booted: Machine) -> None:
    booted.run("systemctl", "stop", "egofs@store", check=True)
    said = booted.out("/srv/bin/egofs", "uninstall")
    assert "/etc/egofs has files in it and stays" in said
    assert shown(booted, "egofs@new", "LoadState") == "not-found"
    assert booted.run("mount", "-t", "egofs", "/srv/data", "/mnt").returncode == 32
