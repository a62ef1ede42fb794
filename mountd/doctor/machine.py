"""What a machine needs so that anything can be mounted: the kernel's FUSE, its helpers, limits, and libraries.

Called by mountd.doctor. Looks at files below a root and at the environment, both given, so that a test can show it
another machine; opens /dev/fuse and changes nothing.
"""

import ctypes
import os
import platform
import re
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mountd.doctor.finding import Finding, ok, problem, skipped, warning

# Readers, decoders, connections and open values: a daemon at work has some hundreds open (_OPEN_VALUES, CONNECTIONS).
_FEW_DESCRIPTORS = 1024
_CAP_SYS_ADMIN = 21  # capabilities(7), linux/capability.h
_PATIENCE_S = 5.0
_INSTALL_FUSE = "apt install fuse3 (dnf install fuse3)"
_LIBRARIES = ("pyfuse3", "trio", "av", "boto3", "obstore", "urllib3")
_EXTRAS = {"hf": "huggingface_hub", "gdrive": "pydrive2", "youtube": "yt_dlp"}
_CONTAINERS = {"/.dockerenv": "a Docker container", "/run/.containerenv": "a container"}
_UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)


@dataclass(frozen=True)
class Machine:
    """What is looked at."""

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    programs: Path = field(default_factory=lambda: Path(sys.executable).parent)
    """Where this installation's own commands are."""

    def at(self, path: str) -> Path:
        """A path of the machine."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """What a file says; "" where it cannot be read."""
        with suppress(OSError):
            return self.at(path).read_text(errors="replace")
        return ""


def fuse(machine: Machine) -> Iterator[Finding]:
    """Whether the kernel lets one mount."""
    yield from _device(machine)
    yield _kernel(machine)
    yield _rights(machine)
    yield _fusermount(machine)
    yield _allow_other(machine)
    yield _tuning(machine)


def helper(machine: Machine) -> Iterator[Finding]:
    """Whether mount(8) and systemd find us."""
    link, install = machine.at("/sbin/mount.egofs"), "sudo egofs install"
    own = machine.programs / "mount.egofs"
    name = "mount helper"
    if link.is_symlink() and not link.exists():
        yield problem(name, f"{link} leads to {os.readlink(link)}, which is not there", install)
    elif not link.exists():
        yield skipped(name, f"there is no {link}, so that mount -t egofs and fstab do not work", install)
    elif not os.access(link, os.X_OK):
        yield problem(name, f"{link} cannot be run", install)
    elif own.exists() and not _same_program(link, own):
        yield warning(name, f"{link} leads to another egofs than this: {os.path.realpath(link)}", install)
    else:
        yield ok(name, f"{link} leads to this egofs")
    if shutil.which("mount", path=machine.path) is None:
        yield warning("mount(8)", "mount was not found in PATH", "apt install mount; see that /bin is in PATH")
    yield _units(machine)


def libraries(machine: Machine) -> Iterator[Finding]:
    """Versions, and which stores can be reached with what is installed."""
    found = {name: _version(name) for name in _LIBRARIES}
    missing = [name for name, version in found.items() if not version]
    if missing:
        yield problem("libraries", f"{', '.join(missing)} not installed", "pip install egofs, in this environment")
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield ok("libraries", f"egofs {_version('egofs') or '?'}, Python {platform.python_version()}, {told}")
    yield _libfuse()
    absent = [extra for extra, module in _EXTRAS.items() if find_spec(module) is None]
    there = ", ".join(extra for extra in _EXTRAS if extra not in absent) or "none"
    if absent:
        yield skipped("extras", f"{there}; not {', '.join(absent)}", f"pip install 'egofs[{','.join(absent)}]'")
    else:
        yield ok("extras", there)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FEW_DESCRIPTORS:
        remedy = "ulimit -n 65536" if hard >= _FEW_DESCRIPTORS else "raise nofile in /etc/security/limits.conf"
        yield warning("open files", f"only {soft} at a time: busy mounts have to wait for each other", remedy)
    else:
        yield ok("open files", f"{soft:,} at a time")


# -- FUSE


def _device(machine: Machine) -> Iterator[Finding]:
    device = machine.at("/dev/fuse")
    load = "sudo modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield problem("/dev/fuse", "there is none: nothing can be mounted", load)
    except OSError as failure:
        remedy = "sudo chmod 666 /dev/fuse; in a container: --device /dev/fuse"
        yield problem("/dev/fuse", f"it cannot be opened ({failure.strerror})", remedy)
    else:
        yield ok("/dev/fuse", "can be opened")


def _kernel(machine: Machine) -> Finding:
    release = machine.text("/proc/sys/kernel/osrelease").strip() or platform.release()
    if not re.search(r"^nodev\tfuse$", machine.text("/proc/filesystems"), re.MULTILINE):
        return problem("kernel", f"{release} knows no FUSE now", "sudo modprobe fuse")
    version = machine.text("/sys/module/fuse/version").strip()
    return ok("kernel", f"{release} with FUSE{f' {version}' if version else ''}")


def _rights(machine: Machine) -> Finding:
    status = dict(re.findall(r"^(\w+):\t(\S+)", machine.text("/proc/self/status"), re.MULTILINE))
    contained = next((kind for file, kind in _CONTAINERS.items() if machine.at(file).exists()), "")
    where = f" in {contained}" if contained else ""
    if machine.uid == 0 and not int(status.get("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1:
        remedy = "start it with --cap-add SYS_ADMIN --device /dev/fuse (some also want apparmor=unconfined)"
        return problem("rights", f"root without CAP_SYS_ADMIN{where}: it may not mount", remedy)
    if machine.uid != 0 and status.get("NoNewPrivs") == "1":
        remedy = "start it without no-new-privileges (NoNewPrivileges= of a service)"
        return problem("rights", f"no_new_privs is set{where}: fusermount3 cannot become root", remedy)
    return ok(
        "rights", ("root, with CAP_SYS_ADMIN" if machine.uid == 0 else f"uid {machine.uid}, by fusermount3") + where
    )


def _fusermount(machine: Machine) -> Finding:
    found = shutil.which("fusermount3", path=machine.path) or shutil.which("fusermount", path=machine.path)
    if found is None:
        if machine.uid == 0:
            remedy = _INSTALL_FUSE
            return warning("fusermount3", "it is not installed: only root can mount, and umount", remedy)
        return problem("fusermount3", "it is not installed: only root can mount without it", _INSTALL_FUSE)
    facts = os.stat(found)
    if facts.st_uid != 0 or not facts.st_mode & stat.S_ISUID:
        remedy = f"sudo chown root {found} && sudo chmod 4755 {found}"
        said = f"{found} is not setuid root: ordinary users cannot mount"
        return warning("fusermount3", said, remedy) if machine.uid == 0 else problem("fusermount3", said, remedy)
    return ok("fusermount3", f"{found}, setuid root")


def _allow_other(machine: Machine) -> Finding:
    allowed = re.search(r"^\s*user_allow_other\s*$", machine.text("/etc/fuse.conf"), re.MULTILINE)
    if allowed:
        return ok("allow_other", "for everybody (user_allow_other in /etc/fuse.conf)")
    remedy = "for ordinary users: echo user_allow_other | sudo tee -a /etc/fuse.conf"
    if machine.uid == 0:
        return skipped("allow_other", "for root alone", remedy)
    return warning("allow_other", "not for you: -o allow_other would fail", remedy)


def _tuning(machine: Machine) -> Finding:
    if machine.uid != 0:
        return skipped("tuning", "only root's mounts ask the kernel for larger and more requests at once")
    if not re.search(r" /sys/fs/fuse/connections .* - fusectl ", machine.text("/proc/self/mountinfo")):
        remedy = "mount -t fusectl none /sys/fs/fuse/connections"
        return warning("tuning", "no fusectl: at most 12 reads are under way at once", remedy)
    return ok("tuning", "fusectl is mounted")


# -- programs and libraries


def _same_program(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return os.path.realpath(one) == os.path.realpath(other) or one.read_bytes() == other.read_bytes()
    return False


def _units(machine: Machine) -> Finding:
    name = "systemd"
    if not machine.at("/run/systemd/system").is_dir():
        return skipped(name, "it does not run here")
    places = (machine.at(folder) / "egofs@.service" for folder in _UNIT_FOLDERS)
    unit = next((place for place in places if place.exists()), None)
    if unit is None:
        return skipped(name, "egofs@.service is not installed", "sudo egofs install")
    systemctl = shutil.which("systemctl", path=machine.path) or "systemctl"
    command = [systemctl, "list-units", "--state=failed", "--plain", "--no-legend", "egofs@*"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S).stdout
    except (OSError, subprocess.TimeoutExpired) as failure:
        return warning(name, f"systemctl does not answer ({type(failure).__name__})", "systemctl status")
    failed = [line.split()[0] for line in listed.splitlines() if line.split()]
    if failed:
        return problem(
            name, f"failed: {', '.join(failed)}", f"journalctl -u {failed[0]}; systemctl restart {failed[0]}"
        )
    return ok(name, f"{unit}, none of its services failed")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _libfuse() -> Finding:
    try:
        library = ctypes.CDLL("libfuse3.so.3")
    except OSError:
        try:
            library = ctypes.CDLL("libfuse3.so.4")
        except OSError as failure:
            return problem("libfuse", f"it cannot be loaded ({failure})", _INSTALL_FUSE)
    library.fuse_pkgversion.restype = ctypes.c_char_p
    return ok("libfuse", str(library.fuse_pkgversion().decode()))
