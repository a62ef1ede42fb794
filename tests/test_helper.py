"""mount(8)'s helper: its arguments as a table, and mount(8) itself in a machine where /sbin and fstab are its own."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd import cli, config, daemon, helper
from tests.machine import NOBODY, Machine, machine, why_not
from tests.mounting import egofs, wait_until
from vfs.errors import OptionError

# -- arguments, with a daemon that only says what it was to mount


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was to be mounted: source, directory, options, foreground."""
    calls: list[tuple] = []

    def start(source, directory, options, note, *, foreground=False) -> None:
        calls.append((source, str(directory), config.of_egofs(options), foreground))

    monkeypatch.setattr(daemon, "start", start)
    return calls


@pytest.mark.parametrize(
    ("argv", "mounted"),
    [
        (["demo", "/m", "-o", "rw"], ("demo", "/m", [])),
        (["demo", "/m"], ("demo", "/m", [])),
        (["-o", "ro", "demo", "/m"], ("demo", "/m", [])),
        (["demo", "/m", "-n", "-o", "rw,umask=077"], ("demo", "/m", [("umask", "077")])),
        (["demo", "/m", "-o", "rw", "-t", "fuse.egofs"], ("demo", "/m", [])),
        (["s3://b/a,b?c d", "/m p", "-o", "rw"], ("s3://b/a,b?c d", "/m p", [])),
        (["demo", "/m", "-o", r"rw,csv=a\,b c,x=1=2"], ("demo", "/m", [("csv", "a,b c"), ("x", "1=2")])),
        (["demo", "/m", "-o", "ro,_netdev,nofail,x-systemd.automount,comment=a b"], ("demo", "/m", [])),
        (["demo", "/m", "-o", "rw,noexec,nosuid,nodev,user"], ("demo", "/m", [])),
        (["demo", "/m", "-o", "rw,nosuid,nodev,users,owner"], ("demo", "/m", [])),
        (["demo", "/m", "-o", "ro", "-o", "frames=false"], ("demo", "/m", [("frames", "false")])),
    ],
)
def test_what_mount_says_is_what_is_mounted(argv: list[str], mounted: tuple, asked: list[tuple]) -> None:
    helper.mount(argv, pytest.fail)
    assert asked == [(*mounted, False)]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "usage: mount.egofs SOURCE DIR"),
        (["demo"], "usage: mount.egofs SOURCE DIR"),
        (["demo", "/m", "/n"], "usage: mount.egofs SOURCE DIR"),
        (["demo", "/m", "-x"], "option -x not recognized; usage"),
        (["demo", "/m", "-o"], "option -o requires argument; usage"),
        (["demo", "/m", "-N", "17"], "another namespace is not supported"),
        (["demo", "/m", "-f", "-o", "rw,nonsense=1"], "no option is called 'nonsense'"),
        (["demo", "/m", "-f", "-o", "rw,cache_size=big"], "option cache_size='big'"),
        (["nothing", "/m", "-f", "-o", "rw"], "no source is called 'nothing'"),
        (["plain", "/m", "-s", "-f", "-o", "rw,endpoint_url=x,views=e1"], "belongs to"),
    ],
)
def test_what_is_wrong_is_one_line_and_usage(argv: list[str], says: str, asked: list[tuple]) -> None:
    with pytest.raises(OptionError, match=re.escape(says)) as caught:
        helper.mount(argv, lambda text: None)
    assert "\n" not in str(caught.value)
    assert asked == []


def test_fake_checks_everything_and_mounts_nothing(asked: list[tuple]) -> None:
    said: list[str] = []
    helper.mount(["demo", "/m", "-f", "-v", "-o", "rw,cache_size=5G"], said.append)
    assert said == ["demo could be mounted on /m: nothing was done"]
    assert asked == []


def test_verbose_says_what_was_done(asked: list[tuple]) -> None:
    said: list[str] = []
    helper.mount(["demo", "/m", "-v", "-o", "rw"], said.append)
    assert said == ["demo is mounted on /m"]


def test_sloppy_leaves_out_what_nobody_knows_and_says_so(asked: list[tuple]) -> None:
    said: list[str] = []
    helper.mount(["demo", "/m", "-s", "-o", "rw,intr,umask=077,timeo=600,_netdev"], said.append)
    assert said == [
        "option 'intr' is not known and is left out (-s)",
        "option 'timeo' is not known and is left out (-s)",
    ]
    assert asked == [("demo", "/m", [("umask", "077")], False)]


# -- egofs SOURCE DIR -o …, as mount.fuse3 has it


@pytest.mark.parametrize(
    ("words", "foreground"),
    [
        (["demo", "/m", "-o", "rw,umask=077,dev,suid"], False),
        (["demo", "/m", "-orw,umask=077,dev,suid"], False),
        (["demo", "/m", "-f", "-o", "rw,umask=077"], True),
    ],
)
def test_a_first_word_that_is_no_command_is_a_source_where_options_follow(
    words: list[str], foreground: bool, asked: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr("mountd.process.leave", left.append)
    monkeypatch.setattr("mountd.process.begin", lambda: None)
    cli.main(words)
    assert asked == [("demo", "/m", [("umask", "077")], foreground)]
    assert left == [0]


@pytest.mark.parametrize("words", [["mont", "demo", "/m"], ["staus"], ["demo", "/m"], ["--bad", "/m", "-o", "rw"]])
def test_a_command_that_is_mistyped_is_told_and_not_mounted(words: list[str]) -> None:
    done = egofs(*words)
    assert done.returncode == 1
    assert re.search(r"no command is called|No such option", done.stderr)


def test_a_command_wins_over_a_source_of_its_name() -> None:
    done = egofs("status", "/m", "-o", "rw")
    assert done.returncode == 1
    assert "No such option" in done.stderr


# -- mount(8)

pytestmark = pytest.mark.timeout(120)
needs_machine = pytest.mark.skipif(why_not() != "", reason=why_not() or "-")


@pytest.fixture(scope="module")
def inner() -> Iterator[Machine]:
    with machine() as made:
        made.run("/srv/bin/egofs", "install", check=True)
        made.write("/srv/data/hello.txt", "hello\n")
        made.path("/srv/data/more").mkdir()
        yield made


@pytest.fixture
def place(inner: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder with a space in its name, nobody's and not mounted on in the end."""
    name = f"/mnt/a {len(os.listdir(inner.path('/mnt')))}"
    inner.path(name).mkdir()
    os.chown(inner.path(name), NOBODY, NOBODY)
    yield name
    while inner.mounted(name.replace(" ", "\\040")):
        inner.run("umount", "-l", name, check=True)


def on(inner: Machine, place: str) -> list[str]:
    return inner.mounted(place.replace(" ", "\\040"))


@pytest.mark.mount
@needs_machine
def test_mount_8_mounts_read_only_what_is_asked_without_a_home_or_a_path(inner: Machine, place: str) -> None:
    done = inner.run("mount", "-v", "-t", "egofs", "/srv/data", place, "-o", "rw,_netdev,nofail,user,allow_other")
    assert (done.returncode, done.stderr) == (0, f"mount.egofs: /srv/data is mounted on {place}\n")
    assert inner.out("cat", f"{place}/hello.txt", user=NOBODY) == "hello"
    assert "Read-only file system" in inner.run("touch", f"{place}/x").stderr
    assert inner.out("findmnt", "-no", "FSTYPE,SOURCE", place) == "fuse.egofs /srv/data"
    inner.run("umount", place, check=True)
    assert on(inner, place) == []


@pytest.mark.mount
@needs_machine
@pytest.mark.parametrize(
    ("options", "status", "says"),
    [("nonsense=1", 1, "nonsense"), ("cache_dir=/proc/x", 1, "cache_dir"), ("source=/srv/other", 1, "two sources")],
)
def test_the_helpers_status_and_words_come_through(
    options: str, status: int, says: str, inner: Machine, place: str
) -> None:
    done = inner.run("mount", "-t", "egofs", "/srv/data", place, "-o", options)
    assert done.returncode == status
    assert says in done.stderr
    assert on(inner, place) == []


@pytest.mark.mount
@needs_machine
def test_a_live_mount_is_refused_and_one_over_a_stale_one_made(inner: Machine, place: str) -> None:
    command = ["mount", "-t", "egofs", "/srv/data", place, "-o", "supervise=false"]
    inner.run(*command, check=True)
    again = inner.run(*command)
    assert (again.returncode, "is mounted here already" in again.stderr) == (32, True)
    assert on(inner, place) == ["fuse.egofs"]
    inner.run("kill", "-9", str(pid_of(inner, place)), check=True)
    assert re.search("not connected|connection abort", inner.run("ls", place).stderr)
    inner.run(*command, check=True)
    assert inner.out("cat", f"{place}/hello.txt") == "hello"
    # The stale one goes with the one that is over it.
    inner.run("umount", place, check=True)
    wait_until(lambda: on(inner, place) == [])


def pid_of(inner: Machine, place: str) -> int:
    text = inner.out("cat", f"{place}/.egofs/status.json")
    return int(re.search(r'"pid": (\d+)', text)[1])


@pytest.mark.mount
@needs_machine
def test_a_remount_of_what_is_there_changes_nothing_and_any_other_is_refused(inner: Machine, place: str) -> None:
    inner.run("mount", "-t", "egofs", "/srv/data", place, "-o", "cache_size=2G,allow_other", check=True)
    before = pid_of(inner, place)
    for options in ("remount", "remount,ro", "remount,rw", "remount,ro,cache_size=2048M", "remount,allow_other"):
        done = inner.run("mount", place, "-o", options)
        assert done.returncode == 0, done.stderr
    for options, says in (
        ("remount,cache_size=3G", "cache_size is 2147483648"),
        ("remount,frames=false", "frames is true"),
    ):
        done = inner.run("mount", place, "-o", options)
        assert done.returncode == 32
        assert f"a remount changes nothing, and {says}: umount it" in done.stderr
    assert inner.run("mount", place, "-o", "remount,nonsense").returncode == 1
    other = inner.run("mount", "-t", "egofs", "/srv/data/more", place, "-o", "remount,ro")
    assert (other.returncode, "what is mounted is /srv/data" in other.stderr) == (32, True)
    assert on(inner, place) == ["fuse.egofs"]
    assert pid_of(inner, place) == before


@pytest.mark.mount
@needs_machine
def test_a_remount_where_nothing_answers_is_refused(inner: Machine, place: str) -> None:
    command = ["/sbin/mount.egofs", "/srv/data", place, "-o", "ro,remount"]
    done = inner.run(*command)
    assert (done.returncode, "no egofs is mounted on it" in done.stderr) == (32, True)
    inner.run("mount", "-t", "egofs", "/srv/data", place, "-o", "supervise=false", check=True)
    inner.run("kill", "-9", str(pid_of(inner, place)), check=True)
    done = inner.run(*command)
    assert (done.returncode, "its daemon does not answer" in done.stderr) == (32, True)
    assert on(inner, place) == ["fuse.egofs"]


@pytest.mark.mount
@needs_machine
def test_the_type_fuse_egofs_works_with_our_helper_and_through_that_of_fuse(inner: Machine, place: str) -> None:
    command = ["mount", "-v", "-t", "fuse.egofs", "/srv/data", place, "-o", r"allow_other,cache_dir=/tmp/a\,b c"]
    done = inner.run(*command)
    assert done.stderr == f"mount.egofs: /srv/data is mounted on {place}\n"
    inner.run("umount", place, check=True)
    if not inner.path("/usr/sbin/mount.fuse3").exists():
        pytest.skip("mount.fuse3 is not installed")
    inner.run("mv", "/sbin/mount.fuse.egofs", "/srv/aside", check=True)
    try:
        assert inner.run(*command).returncode == 0
        assert inner.out("cat", f"{place}/hello.txt") == "hello"
        assert inner.path("/tmp/a,b c/log").is_dir()
        done = inner.run("mount", place, "-o", "remount,ro")
        assert (done.returncode, on(inner, place)) == (0, ["fuse.egofs"])
    finally:
        inner.run("mv", "/srv/aside", "/sbin/mount.fuse.egofs", check=True)


@pytest.mark.mount
@needs_machine
def test_mount_a_mounts_the_lines_of_fstab_once(inner: Machine) -> None:
    for name in ("plain", "toml", "with space", "later"):
        inner.path(f"/mnt/{name}").mkdir()
    inner.write("/etc/egofs/data.toml", 'source = "/srv/data"\numask = "077"\n')
    inner.write("/srv/d a,t=a/x", "x")
    inner.write(
        "/etc/fstab",
        "/srv/data /mnt/plain egofs ro,_netdev,nofail,allow_other,x-systemd.automount 0 0\n"
        "/etc/egofs/data.toml /mnt/toml egofs defaults,_netdev,nofail,comment=lab 0 0\n"
        "/srv/d\\040a,t=a /mnt/with\\040space egofs _netdev,cache_dir=/tmp/c\\,\\040=d 0 0\n"
        "/srv/data /mnt/later egofs noauto 0 0\n",
    )
    for _ in range(2):
        done = inner.run("mount", "-a")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [inner.mounted(f"/mnt/{name}") for name in ("plain", "toml", r"with\040space", "later")] == [
            ["fuse.egofs"], ["fuse.egofs"], ["fuse.egofs"], [],
        ]  # fmt: skip
    assert inner.out("ls", "/mnt/with space") == "x"
    assert inner.path("/tmp/c, =d/log").is_dir()
    inner.run("umount", "-a", "-t", "fuse.egofs", check=True)
    assert inner.mounted("/mnt/toml") == []


# -- an ordinary user


@pytest.fixture
def user(inner: Machine) -> int:
    if inner.run("/srv/bin/egofs", "--version", user=NOBODY).returncode:
        pytest.skip("the interpreter, the libraries or the project cannot be read by an ordinary user here")
    return NOBODY


@pytest.mark.mount
@needs_machine
def test_an_ordinary_user_mounts_and_unmounts(inner: Machine, place: str, user: int) -> None:
    options = "cache_dir=/tmp/of-nobody"
    done = inner.run("/srv/bin/egofs", "mount", "/srv/data", place, "-o", options, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert inner.out("cat", f"{place}/hello.txt", user=user) == "hello"
    assert "Permission denied" in inner.run("setpriv", "--reuid=1", "--clear-groups", "ls", place).stderr
    assert place in inner.out("/srv/bin/egofs", "status", user=user)
    done = inner.run("/srv/bin/egofs", "umount", place, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert on(inner, place) == []


@pytest.mark.mount
@needs_machine
def test_an_ordinary_user_mounts_by_a_line_of_fstab_that_says_user(inner: Machine, place: str, user: int) -> None:
    options = "noauto,user,cache_dir=/tmp/of-nobody"
    inner.write("/etc/fstab", f"/srv/data {place.replace(' ', chr(92) + '040')} egofs {options} 0 0\n")
    done = inner.run("mount", place, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert inner.out("cat", f"{place}/hello.txt", user=user) == "hello"
    assert f"user_id={user}" in inner.out("findmnt", "-no", "OPTIONS", place)
    assert inner.run("mount", place, "-o", "remount,ro", user=user).returncode == 0
    assert on(inner, place) == ["fuse.egofs"]
    done = inner.run("umount", place, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert on(inner, place) == []


@pytest.mark.mount
@needs_machine
def test_an_ordinary_user_lets_others_in_only_where_fuse_conf_says_so(inner: Machine, place: str, user: int) -> None:
    command = ["/srv/bin/egofs", "mount", "/srv/data", place, "-o", "cache_dir=/tmp/of-nobody,allow_other"]
    inner.write("/etc/fuse.conf", "#user_allow_other\n")
    done = inner.run(*command, user=user)
    assert done.returncode == 32
    assert done.stderr == (
        f"egofs: {place}: mounting failed: only root may say allow_other, unless /etc/fuse.conf has a line "
        "user_allow_other: leave it out\n"
    )
    assert on(inner, place) == []
    inner.write("/etc/fuse.conf", "user_allow_other\n")
    inner.run(*command, user=user, check=True)
    assert inner.out("setpriv", "--reuid=1", "--clear-groups", "cat", f"{place}/hello.txt") == "hello"
    inner.run("/srv/bin/egofs", "umount", place, user=user, check=True)


@pytest.mark.mount
@needs_machine
def test_an_ordinary_user_may_not_mount_where_fstab_does_not_let_him(inner: Machine, place: str, user: int) -> None:
    inner.write("/etc/fstab", "")
    done = inner.run("mount", "-t", "egofs", "/srv/data", place, user=user)
    assert (done.returncode, on(inner, place)) == (1, [])
    assert Path(inner.path(place)).is_dir()
