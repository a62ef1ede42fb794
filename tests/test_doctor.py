"""`egofs doctor`: what it finds on machines that lack something, and of stores that refuse or hang."""

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd import mounts
from mountd.doctor import LIMIT_S, examined, folder, groups, live, machine, store
from mountd.doctor.finding import Finding, ok
from tests.faults import HangUp, Stall, Status
from tests.mounting import egofs, mounted, wait_until
from tests.s3server import S3Server
from vfs.datasets import ego4d
from vfs.errors import OptionError
from vfs.valuefolder import reserve_bytes

GIB = 1 << 30
DAY = 86_400.0
SECRET = "wJalrXUtnFEMI"  # no real one

pytestmark = pytest.mark.timeout(120)


def by_check(findings: Iterator[Finding] | list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def states(findings: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.state for check, finding in findings.items()}


# -- the machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a machine that has everything."""
    root = tmp_path / "root"
    texts = {
        "proc/filesystems": "nodev\tsysfs\n\text4\nnodev\tfuse\n",
        "proc/sys/kernel/osrelease": "6.1.0\n",
        "proc/self/status": "Name:\tegofs\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t0\n",
        "proc/self/mountinfo": "31 24 0:29 / /sys/fs/fuse/connections rw - fusectl fusectl rw\n",
        "etc/fuse.conf": "# mount_max = 1000\nuser_allow_other\n",
        "own/mount.egofs": "#!/bin/sh\n",
        "bin/fusermount3": "#!/bin/sh\n",
        "bin/mount": "#!/bin/sh\n",
        "dev/fuse": "",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("own/mount.egofs", "bin/mount"):
        (root / name).chmod(0o755)
    (root / "bin/fusermount3").chmod(0o4755)
    (root / "sbin").mkdir()
    (root / "sbin/mount.egofs").symlink_to(root / "own/mount.egofs")
    return root


def here(root: Path, uid: int = 0) -> machine.Machine:
    return machine.Machine(root, uid, str(root / "bin"), root / "own")


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_machine_that_has_everything_has_no_problem(root, uid, monkeypatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("what is setuid root must belong to root")
    found = by_check([*machine.fuse(here(root, uid)), *machine.helper(here(root, uid))])
    assert {each.check for each in found.values() if each.state in ("warning", "problem")} == set()
    assert found["rights"].state == "ok"


def without(name: str):
    return lambda root: (root / name).unlink()


def saying(name: str, text: str):
    return lambda root: (root / name).write_text(text)


HARMS = {
    "no_device": (0, without("dev/fuse"), "/dev/fuse", "problem", "modprobe fuse"),
    "no_module": (0, saying("proc/filesystems", "nodev\tproc\n"), "kernel", "problem", "modprobe fuse"),
    "no_capability": (
        0,
        saying("proc/self/status", "CapEff:\t00000000a80425fb\n"),
        "rights",
        "problem",
        "--cap-add SYS_ADMIN",
    ),
    "no_new_privileges": (
        1000,
        saying("proc/self/status", "CapEff:\t0\nNoNewPrivs:\t1\n"),
        "rights",
        "problem",
        "no-new-privileges",
    ),
    "no_fusermount": (1000, without("bin/fusermount3"), "fusermount3", "problem", "apt install fuse3"),
    "no_fusermount_for_root": (0, without("bin/fusermount3"), "fusermount3", "warning", "apt install fuse3"),
    "fusermount_not_setuid": (
        1000,
        lambda root: (root / "bin/fusermount3").chmod(0o755),
        "fusermount3",
        "problem",
        "chmod 4755",
    ),
    "others_not_allowed": (1000, saying("etc/fuse.conf", "#user_allow_other\n"), "allow_other", "warning", "fuse.conf"),
    "no_fuse_conf": (1000, without("etc/fuse.conf"), "allow_other", "warning", "fuse.conf"),
    "no_fusectl": (0, saying("proc/self/mountinfo", ""), "tuning", "warning", "mount -t fusectl"),
    "no_helper": (0, without("sbin/mount.egofs"), "mount helper", "skipped", "egofs install"),
    "a_helper_that_leads_nowhere": (0, without("own/mount.egofs"), "mount helper", "problem", "egofs install"),
    "a_helper_of_another_egofs": (
        0,
        lambda root: ((root / "sbin/mount.egofs").unlink(), (root / "sbin/mount.egofs").symlink_to("/bin/sh")),
        "mount helper",
        "warning",
        "egofs install",
    ),
    "no_mount": (0, without("bin/mount"), "mount(8)", "warning", "PATH"),
}


@pytest.mark.parametrize(("uid", "harm", "check", "state", "remedy"), HARMS.values(), ids=HARMS)
def test_what_a_machine_lacks_is_found_with_its_remedy(root, uid, harm, check, state, remedy) -> None:
    harm(root)
    found = by_check([*machine.fuse(here(root, uid)), *machine.helper(here(root, uid))])
    assert found[check].state == state
    assert remedy in found[check].remedy


def test_a_device_that_cannot_be_opened_is_a_problem(root) -> None:
    (root / "dev/fuse").unlink()
    (root / "dev/fuse").mkdir()
    found = by_check(machine.fuse(here(root)))["/dev/fuse"]
    assert (found.state, "cannot be opened" in found.found) == ("problem", True)


def test_a_service_that_failed_is_a_problem(root) -> None:
    (root / "run/systemd/system").mkdir(parents=True)
    assert by_check(machine.helper(here(root)))["systemd"].state == "skipped", "its unit is not installed"
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system/egofs@.service").touch()
    systemctl = root / "bin/systemctl"
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    assert by_check(machine.helper(here(root)))["systemd"].state == "ok"
    systemctl.write_text("#!/bin/sh\necho 'egofs@lab.service loaded failed failed egofs mount'\n")
    found = by_check(machine.helper(here(root)))["systemd"]
    assert (found.state, "journalctl -u egofs@lab.service" in found.remedy) == ("problem", True)


def test_few_descriptors_are_a_warning(root, monkeypatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (256, 4096))
    found = by_check(machine.libraries(here(root)))
    assert found["open files"].state == "warning"
    assert "ulimit -n" in found["open files"].remedy
    assert found["libraries"].state == found["libfuse"].state == "ok"


def test_extras_that_are_missing_are_told_with_how_to_get_them(root, monkeypatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "pydrive2" else object())
    found = by_check(machine.libraries(here(root)))["extras"]
    assert (found.state, found.remedy) == ("skipped", "pip install 'egofs[gdrive]'")


# -- the cache folder


def test_a_cache_folder_that_is_not_there_will_be_made_and_is_not_made_now(tmp_path) -> None:
    found = by_check(folder.cache(tmp_path / "a/b", GIB))
    assert (found["cache folder"].state, "made at the first mount" in found["cache folder"].found) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_others_can_look_into_is_a_warning(tmp_path) -> None:
    (tmp_path / "c").mkdir(0o755)
    found = by_check(folder.cache(tmp_path / "c", GIB))["cache folder"]
    assert (found.state, found.remedy) == ("warning", f"chmod 700 {tmp_path}/c")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_file_where_the_cache_should_be_is_a_problem(tmp_path) -> None:
    (tmp_path / "c").write_bytes(b"")
    assert by_check(folder.cache(tmp_path / "c", GIB))["cache folder"].state == "problem"


def test_a_read_only_disk_is_a_problem(tmp_path) -> None:
    bind = [["mount", "--bind", str(tmp_path), str(tmp_path)], ["mount", "-o", "remount,ro,bind", str(tmp_path)]]
    if os.geteuid() != 0 or any(subprocess.run(command, capture_output=True).returncode for command in bind):
        subprocess.run(["umount", str(tmp_path)], capture_output=True)
        pytest.skip("only root can mount a folder read-only, and not everywhere")
    try:
        found = by_check(folder.cache(tmp_path / "c", GIB))["cache folder"]
        assert (found.state, "read-only" in found.found) == ("problem", True)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("kind", "state", "said"),
    [
        ("nfs4", "warning", "another machine's"),
        ("lustre", "warning", "another machine's"),
        ("cifs", "warning", "another machine's"),
        ("tmpfs", "ok", "gone after a boot"),
        ("fuse.egofs", "problem", "egofs itself"),
        ("ext4", "ok", "ext4"),
    ],
)
def test_the_kind_of_disk_below_the_cache_counts(tmp_path, monkeypatch, kind, state, said) -> None:
    lines = [mounts.Mount(Path("/"), "dev", "ext4", "8:1"), mounts.Mount(tmp_path, "x", kind, "0:9")]
    monkeypatch.setattr(mounts, "mounts", lambda: lines)
    found = by_check(folder.cache(tmp_path / "c", GIB))["cache disk"]
    assert (found.state, said in found.found) == (state, True), found


def test_a_disk_with_only_the_reserve_left_keeps_nothing_more(tmp_path, monkeypatch) -> None:
    right = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize, f_blocks, f_flag = 10, right.f_frsize, right.f_blocks, 0

    assert reserve_bytes(Full) > 10 * right.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    found = by_check(folder.cache(tmp_path, GIB))["cache space"]
    assert (found.state, "nothing more is kept" in found.found) == ("warning", True)


# -- a SOURCE


@pytest.fixture
def served(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "store/bucket/deep/er").mkdir(parents=True)
    (tmp_path / "store/bucket/deep/er/file.bin").write_bytes(b"x" * 1000)
    with S3Server(tmp_path / "store") as server:
        yield server


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credentials file with one profile, which is all there is."""
    file = tmp_path / "credentials"
    file.write_text(f"[lab]\naws_access_key_id = tester\naws_secret_access_key = {SECRET}\n")
    file.chmod(0o600)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return file


def asked(
    server: S3Server, *options: tuple[str, str | bool], what: str = "s3://bucket", tmp_path: Path, offline: bool = False
) -> dict[str, Finding]:
    given = {"endpoint_url": server.endpoint_url, "cache_dir": str(tmp_path / "cache"), **dict(options)}
    found = by_check(store.source(store.Asked(what, [*given.items()]), offline))
    assert SECRET not in repr(found)
    assert all(request.method in ("GET", "HEAD") for request in server.requests)
    return found


LAB = ("aws_profile", "lab")


def test_a_store_that_works_is_listed_and_one_byte_is_read(served, keys, tmp_path) -> None:
    served.access_key_id = "tester"
    found = asked(served, LAB, tmp_path=tmp_path)
    assert set(states(found).values()) == {"ok"}
    assert str(keys) in found["credentials"].found
    assert "deep/er/file.bin" in found["reading"].found
    ranges = [request.range for request in served.requests if request.range]
    assert ranges == ["bytes=0-0"]


def test_wrong_keys_are_a_problem_that_names_the_profile(served, keys, tmp_path) -> None:
    served.access_key_id = "somebody-else"
    found = asked(served, LAB, tmp_path=tmp_path)["listing"]
    assert found.state == "problem"
    assert "profile 'lab'" in found.found
    assert "put keys that are valid into" in found.remedy


def test_ended_keys_of_a_licence_are_a_problem_with_where_to_renew_them(served, keys, tmp_path) -> None:
    served.faults = lambda request: Status(400, "ExpiredToken") if "authorization" in request.headers else None
    found = asked(served, LAB, what="ego4d", tmp_path=tmp_path)["listing"]
    assert (found.state, ego4d.RENEWAL in found.remedy) == ("problem", True)


@pytest.mark.parametrize(("age_s", "state"), [(3 * DAY, "ok"), (13.9 * DAY, "ok"), (15 * DAY, "warning")])
def test_keys_of_a_licence_that_are_older_than_it_are_a_warning(served, keys, tmp_path, age_s, state) -> None:
    os.utime(keys, (time.time() - age_s,) * 2)
    found = asked(served, LAB, what="ego4d", tmp_path=tmp_path, offline=True)
    assert found["keys' age"].state == state
    assert (ego4d.RENEWAL in found["keys' age"].remedy) == (state == "warning")
    assert "keys' age" not in asked(served, LAB, tmp_path=tmp_path, offline=True), "whose keys do not end"


def test_a_credentials_file_that_others_can_read_is_a_warning(served, keys, tmp_path) -> None:
    keys.chmod(0o644)
    found = asked(served, LAB, tmp_path=tmp_path, offline=True)["credentials file"]
    assert (found.state, found.remedy) == ("warning", f"chmod 600 {keys}")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o644, "it only says so"


def test_missing_credentials_are_a_problem_and_the_store_is_not_listed(served, keys, tmp_path) -> None:
    keys.unlink()
    found = asked(served, tmp_path=tmp_path)
    assert found["credentials"].state == "problem"
    assert "~/.aws/credentials" in found["credentials"].remedy
    assert found["listing"].state == "skipped"


def test_a_profile_that_is_not_there_is_a_problem(served, keys, tmp_path) -> None:
    found = asked(served, ("aws_profile", "elsewhere"), tmp_path=tmp_path)
    assert list(states(found).values()) == ["problem"]
    assert "elsewhere" in found["configuration"].found


def test_nobody_needs_credentials_who_says_so(served, keys, tmp_path) -> None:
    found = asked(served, ("anonymous", True), tmp_path=tmp_path)
    assert "anonymous" in found["credentials"].found
    assert set(states(found).values()) == {"ok"}


@pytest.mark.parametrize(
    ("clock_s", "state"), [(0, "ok"), (45, "ok"), (-300, "warning"), (3600, "problem"), (-3600, "problem")]
)
def test_a_clock_that_differs_from_the_stores_is_found(served, keys, tmp_path, clock_s, state) -> None:
    served.clock_s = clock_s
    found = asked(served, LAB, tmp_path=tmp_path)["clock"]
    assert found.state == state
    if state != "ok":
        assert ("behind" if clock_s > 0 else "ahead of") in found.found
        assert "timedatectl" in found.remedy


def test_offline_nothing_is_asked(served, keys, tmp_path) -> None:
    found = asked(served, LAB, tmp_path=tmp_path, offline=True)
    assert (found["store"].state, served.requests) == ("skipped", [])


def test_a_port_where_nobody_listens_and_a_name_that_is_none_are_problems(served, keys, tmp_path) -> None:
    for url, check in (("http://127.0.0.1:1", "connection"), ("http://no-such-host.invalid", "name")):
        found = asked(served, LAB, ("endpoint_url", url), tmp_path=tmp_path)
        assert states(found)[check] == "problem"
        assert "listing" not in found


def test_a_store_that_refuses_reading_and_not_listing_is_found(served, keys, tmp_path) -> None:
    served.faults = lambda request: Status(403, "AccessDenied") if request.range else None
    found = asked(served, LAB, tmp_path=tmp_path)
    assert (found["listing"].state, found["reading"].state) == ("ok", "problem")


def test_a_store_without_the_bucket_or_with_nothing_in_it_is_found(served, keys, tmp_path) -> None:
    found = asked(served, LAB, what="s3://another", tmp_path=tmp_path)["listing"]
    assert (found.state, "no bucket" in found.found, found.remedy) == ("problem", True, "check its name")
    (tmp_path / "store/empty").mkdir()
    assert asked(served, LAB, what="s3://empty", tmp_path=tmp_path)["listing"].state == "warning"


def test_a_store_that_breaks_off_is_a_problem_and_no_bug(served, keys, tmp_path) -> None:
    served.faults = lambda request: HangUp() if request.query else None
    assert asked(served, LAB, tmp_path=tmp_path)["listing"].state == "problem"


def test_a_store_that_hangs_does_not_hold_up_what_is_known(served, keys, tmp_path) -> None:
    served.faults = lambda request: Stall(30.0) if request.query else None
    place = [("endpoint_url", served.endpoint_url), ("cache_dir", str(tmp_path / "cache")), LAB]
    checks = [("store", lambda: store.source(store.Asked("s3://bucket", place), offline=False))]
    began = time.monotonic()
    ((name, findings),) = examined(checks, 1.0)
    assert time.monotonic() - began < 10
    assert name == "store"
    assert states(by_check(findings)) == {
        "configuration": "ok",
        "credentials": "ok",
        "credentials file": "ok",
        "name": "ok",
        "connection": "ok",
        "clock": "ok",
        "no answer": "problem",
    }


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("nosuch", [], "no source is called 'nosuch'"),
        ("s3://bucket", [("viws", "all")], "viws"),
        ("/no/such/folder", [], "no folder at"),
        ("/no/such.toml", [], "No such file"),
        ("https://me:pw@host/x", [], "netrc=FILE"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_problem(what, options, said) -> None:
    found = list(store.source(store.Asked(what, options), offline=True))
    assert [finding.state for finding in found] == ["problem"]
    assert said in found[0].found + found[0].remedy
    assert "pw" not in found[0].found + found[0].remedy or what != "https://me:pw@host/x"


def test_stores_tell_where_their_credentials_are(tmp_path, keys) -> None:
    token = tmp_path / "token"
    token.write_text("hf_secret\n")
    token.chmod(0o600)
    for what in ("hf://datasets/a/b", "https://host/x/"):
        found = by_check(store.source(store.Asked(what, [("token_file", str(token))]), offline=True))
        assert str(token) in found["credentials"].found
        assert found["credentials file"].state == "ok"
        assert "hf_secret" not in repr(found)
        missing = by_check(store.source(store.Asked(what, [("token_file", str(tmp_path / "none"))]), offline=True))
        assert missing["credentials"].state == "problem"


def test_google_credentials_that_cannot_be_renewed_are_told_when_they_end(tmp_path) -> None:
    pytest.importorskip("pydrive2")
    file = tmp_path / "credentials.json"
    told = {"_module": "oauth2client.client", "_class": "OAuth2Credentials", "access_token": "ya29.secret"}
    for more, state in (
        ({"refresh_token": "1//secret"}, "ok"),
        ({"token_expiry": "2020-01-01T00:00:00Z"}, "problem"),
        ({"token_expiry": "2999-01-01T00:00:00Z"}, "ok"),
    ):
        file.write_text(json.dumps({**told, **more}))
        file.chmod(0o600)
        options = [("credentials", str(file))]
        found = by_check(store.source(store.Asked("gdrive://abc", options), offline=True))
        assert found["credentials"].state == state
        assert "secret" not in repr(found)


# -- the run


def test_checks_that_fail_or_hang_take_nothing_from_the_others() -> None:
    never = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("first", "came")
        never.wait(60)

    def fails() -> Iterator[Finding]:
        yield ok("second", "came")
        raise RuntimeError("oh")

    found = dict(examined([("a", hangs), ("b", fails), ("c", lambda: iter([ok("third", "came")]))], 0.3))
    never.set()
    assert [finding.state for finding in found["a"]] == ["ok", "problem"]
    assert "after first" in found["a"][1].found
    assert [finding.check for finding in found["b"]] == ["second", "bug"]
    assert [finding.check for finding in found["c"]] == ["third"]
    assert LIMIT_S < 30


def test_options_without_a_source_are_refused() -> None:
    with pytest.raises(OptionError, match="name one"):
        groups(None, [("version", "v2")], offline=True)


def test_the_command_tells_as_json_and_exits_with_1_where_there_is_a_problem(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_bytes(b"x")
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    done = egofs("doctor", "--json", "--offline", "nosuch", env=home)
    found = json.loads(done.stdout)
    assert all(finding.keys() == {"check", "state", "found", "remedy"} for finding in found)
    assert {finding["state"] for finding in found} <= {"ok", "skipped", "warning", "problem"}
    assert [f["check"] for f in found if f["state"] == "problem" and "nosuch" in f["found"]] == ["configuration"]
    assert done.returncode == 1
    done = egofs("doctor", tmp_path / "data", env=home)
    assert "reading: x: one byte" in done.stdout
    assert "\x1b" not in done.stdout, "colours are for terminals"
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line and "/" not in line)


# -- what is mounted


@pytest.mark.mount
def test_a_mount_is_asked_and_its_troubles_are_told(served, keys, tmp_path) -> None:
    places = [f"endpoint_url={served.endpoint_url}", "aws_profile=lab", "listing_age=0"]
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with mounted("s3://bucket", tmp_path / "m", *places, cache=tmp_path / "cache", env=environment) as mount:
        found = by_check(live.mounted(mount.directory))[str(mount.directory)]
        assert (found.state, f"pid {mount.pid}" in found.found) == ("ok", True)
        served.access_key_id = "somebody-else"
        with pytest.raises(PermissionError):
            (mount / "deep/er/file.bin").read_bytes()
        found = by_check(live.mounted(mount.directory))[str(mount.directory)]
        assert (found.state, "refused" in found.found) == ("problem", True)
        done = egofs("doctor", mount.directory)
        assert done.returncode == 1
        assert "profile 'lab'" in " ".join(done.stdout.split())


def kept_up_by(pid: int) -> list[int]:
    """The process that would put another daemon in the place of this one, if there is one."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [parent] if b"mountd" in Path(f"/proc/{parent}/cmdline").read_bytes() else []


@pytest.mark.mount
def test_dead_and_hung_mounts_are_told_with_how_to_clear_them(tmp_path, monkeypatch) -> None:
    (tmp_path / "source").mkdir()
    with mounted(tmp_path / "source", tmp_path / "m", cache=tmp_path / "cache") as mount:
        pids = [*kept_up_by(mount.pid), mount.pid]
        monkeypatch.setattr(mounts, "_PROBE_S", 0.5)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            found = by_check(live.mounted(mount.directory))[str(mount.directory)]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        assert (found.state, "does not answer" in found.found) == ("problem", True)
        assert f"egofs umount --lazy {mount.directory}" in found.remedy
        assert "/abort" in found.remedy
        wait_until(lambda: mounts.state(mount.directory) == "dead")
        found = by_check(live.mounted(mount.directory))[str(mount.directory)]
        assert (found.state, "has died" in found.found) == ("problem", True)
