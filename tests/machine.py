"""A machine within this one, for tests of what belongs to a machine: mount(8) and its helpers, fstab, users, systemd.

It has namespaces of its own (mounts, processes, host name, IPC, cgroups) and of this machine the files: /etc, /var,
/usr/sbin and /usr/local/bin may be written there and are as before here (overlayfs); /run, /mnt and /srv are empty. It
cannot harm: /proc/sys is read-only, there is no console and no kernel log, no mount of egofs from outside is kept from
ending, and all its processes end with the first.

egofs is installed in /srv/bin, where every user can run it: what is in the way to the interpreter, the libraries and
the project (such as root's own folder) is covered by an empty folder in which nothing else is.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
NOBODY = 65534
_TOOLS = ("unshare", "nsenter", "setpriv", "mount", "fusermount3")
_WRITABLE = ("/etc", "/var", "/usr/sbin", "/usr/local/bin")
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
SYSTEMD = Path("/usr/lib/systemd")
# What a boot needs to come to its end, and what units of egofs name.
_TARGETS = (
    "basic sysinit local-fs local-fs-pre remote-fs remote-fs-pre network network-online multi-user sockets timers "
    "paths slices shutdown umount final exit"
)

_BEGIN = """
set -eu
mount --make-rprivate /
umount -alt fuse.egofs || true
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir -p /srv/upper /srv/work /srv/kept /srv/bin /srv/units /srv/generators /srv/data
number=0
for folder in {kept}; do
    number=$((number + 1))
    mkdir /srv/kept/$number
    mount --bind "$folder" /srv/kept/$number
done
for folder in {covered}; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
chmod 1777 /tmp
number=0
for folder in {kept}; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --bind /srv/kept/$number "$folder"
done
for folder in {writable}; do
    mkdir -p /srv/upper$folder /srv/work$folder
    mount -t overlay -o lowerdir=$folder,upperdir=/srv/upper$folder,workdir=/srv/work$folder overlay $folder
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /mnt
mknod -m 666 /srv/fuse c 10 229
mount --bind /srv/fuse /dev/fuse
: >/srv/console
mount --bind /srv/console /dev/console
mount --bind /dev/null /dev/kmsg
if [ -e /proc/sysrq-trigger ]; then mount --bind /dev/null /proc/sysrq-trigger; fi
: >/etc/fstab
for program in egofs=cli mount.egofs=helper; do
    cat >/srv/bin/${{program%=*}} <<END
#!{python}
import sys
sys.path.insert(0, {top!r})
from mountd.${{program#*=}} import main
main()
END
    chmod 755 /srv/bin/${{program%=*}}
done
"""

_REST = """
: >/srv/ready
while :; do sleep 60 & wait; done
"""

_BOOT = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for target in {targets}; do cp {systemd}/system/$target.target /srv/units; done
cp {systemd}/system-generators/systemd-fstab-generator /srv/generators
cp {systemd}/system/systemd-exit.service /srv/units
rm -rf /etc/systemd/system
mkdir /etc/systemd/system
mount --bind /srv/units {systemd}/system
mount --bind /srv/generators {systemd}/system-generators
: >/srv/ready
exec env -i container=test PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 \\
    {systemd}/systemd --unit=multi-user.target --show-status=no --log-target=console
"""


def why_not() -> str:
    """Why there can be no such machine here; empty where it can be."""
    if os.geteuid() != 0:
        return "only root can make namespaces with mounts of their own"
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=_ENV["PATH"]) is None]:
        return f"{' and '.join(missing)} is not installed"
    done = subprocess.run(["unshare", "-fpmiuC", "true"], capture_output=True, text=True)
    return f"no namespaces can be made here: {done.stderr.strip()}" if done.returncode else ""


def why_no_boot() -> str:
    """Why no systemd can be booted here; empty where it can be."""
    if not (SYSTEMD / "systemd").exists():
        return "systemd is not installed"
    try:
        _cgroups()
    except LookupError as failure:
        return str(failure)
    return why_not()


class Machine:
    """A running machine; files in it are reached through `path`."""

    def __init__(self, first: int) -> None:
        self.first = first

    def path(self, name: str) -> Path:
        """Where this process finds a file of the machine. Not for what is below a mount of egofs made in there."""
        return Path(f"/proc/{self.first}/root{name}")

    def write(self, name: str, text: str) -> None:
        """Writes a file there; makes its folder."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def run(
        self,
        *words: str,
        user: int = 0,
        cwd: str = "/",
        timeout: float = 60,
        check: bool = False,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program there to its end."""
        enter = ["nsenter", "-t", str(self.first), "-m", "-p", "-i", "-u", "-C", f"--wd={self.path(cwd)}", "--"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        done = subprocess.run(
            [*enter, *become, *words], capture_output=True, text=True, timeout=timeout, env={**_ENV, **(env or {})}
        )
        assert not check or done.returncode == 0, f"{shlex.join(words)}: {done.stderr}{done.stdout}"
        return done

    def out(self, *words: str, user: int = 0, timeout: float = 60) -> str:
        """What a program that succeeds there writes."""
        return self.run(*words, user=user, timeout=timeout, check=True).stdout.strip()

    def mounted(self, directory: str) -> list[str]:
        """The types of what is mounted on a folder there, the last one on top."""
        lines = Path(f"/proc/{self.first}/mountinfo").read_text().splitlines()
        return [line.partition(" - ")[2].split()[0] for line in lines if line.split()[4] == directory]


@contextlib.contextmanager
def machine(*, booted: bool = False) -> Iterator[Machine]:
    """A machine, with a systemd that has booted or with nothing but a shell; everything in it ends with the block."""
    kept = [Path(sys.base_prefix), Path(sys.prefix), TOP]
    begin = _BEGIN.format(
        kept=_words(kept),
        covered=_words(_closed(kept) | {Path("/tmp")}),
        writable=_words(_WRITABLE),
        python=sys.executable,
        top=str(TOP),
    )
    script = begin + (_BOOT.format(targets=_TARGETS, systemd=SYSTEMD) if booted else _REST)
    group = _cgroups() / f"egofs-test-{os.getpid()}" if booted else None
    enter = ""
    if group is not None:
        group.mkdir()
        enter = f"echo $$ >{group}/cgroup.procs; "
    command = f"{enter}exec unshare -fpmiuC --kill-child sh -c {shlex.quote(script)}"
    outer = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        inner = Machine(_first(outer))
        if booted:
            _await_boot(inner)
        yield inner
    finally:
        _end(outer, group)


def _words(paths: Iterable[str | Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)


def _closed(folders: Iterable[Path]) -> set[Path]:
    """Of the folders that these are in, the outermost that not everybody may pass through."""
    ways = ([each for each in reversed(folder.parents) if not each.stat().st_mode & 0o001] for folder in folders)
    return {way[0] for way in ways if way}


def _first(outer: subprocess.Popen[str]) -> int:
    """The process that is 1 in there, when it has set everything up."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if outer.poll() is not None:
            assert outer.stdout is not None
            raise AssertionError(f"the machine could not be set up: {outer.stdout.read()}")
        with contextlib.suppress(OSError, IndexError):
            first = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
            if Path(f"/proc/{first}/root/srv/ready").exists():
                return first
        time.sleep(0.02)
    raise AssertionError("the machine was not set up within 20 s")


def _await_boot(inner: Machine) -> None:
    deadline = time.monotonic() + 20
    state = ""
    while time.monotonic() < deadline:
        state = inner.run("systemctl", "is-system-running").stdout.strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.1)
    raise AssertionError(f"systemd is {state!r} after 20 s: {inner.path('/srv/console').read_text()}")


def _end(outer: subprocess.Popen[str], group: Path | None) -> None:
    """Ends all processes in there, by their group or with the first of them, which the kernel lets nothing outlive."""
    if group is not None:
        (group / "cgroup.kill").write_text("1")
    outer.send_signal(signal.SIGKILL)
    outer.wait(20)
    assert outer.stdout is not None
    outer.stdout.close()
    if group is not None:
        deadline = time.monotonic() + 20
        while "populated 1" in (group / "cgroup.events").read_text():
            assert time.monotonic() < deadline, "processes of the machine do not end"
            time.sleep(0.05)
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)


def _cgroups() -> Path:
    """Where the second version of control groups is mounted. Raises LookupError."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return Path(place)
    raise LookupError("there are no control groups of version 2 that can be written")
