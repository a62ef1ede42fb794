"""What makes egofs a filesystem of this machine: mount(8)'s helpers, the command on everybody's PATH, a systemd unit.

Hides where these things stand and how one's own are told from other people's: a link is ours if it leads to a program
of that name, a file if it carries the mark of this command and was not changed since. What is not ours is never
written over and never taken away. Called by `egofs install` and `egofs uninstall`; imports nothing of a mount.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mountd import mounts
from vfs.errors import OptionError

# The texts as they stand in systemd/, in a clone and in an installed package.
UNITS = Path(__file__).parent / "units"

_UNIT = "etc/systemd/system/egofs@.service"
_SETTINGS = "etc/egofs"
# Link below / → the program of this installation. mount(8) looks for mount.TYPE in /sbin: TYPE is egofs where a person
# says so, and fuse.egofs where it takes it from the kernel's table. mount.fuse3 starts `egofs` from sh's own PATH.
_LINKS = {"sbin/mount.egofs": "mount.egofs", "sbin/mount.fuse.egofs": "mount.egofs", "usr/local/bin/egofs": "egofs"}
_EXECUTABLE_IN_TEXT = "/usr/local/bin/egofs"
_MARK = "# Written by `egofs install`; changes belong into `systemctl edit`. Digest: "


@dataclass(frozen=True)
class _Where:
    """The root that everything is put below, and whether anything really is."""

    root: Path
    dry_run: bool

    def __truediv__(self, name: str) -> Path:
        return self.root / name


def install(root: Path | None, dry_run: bool) -> Iterator[str]:
    """Puts everything in place, below `root` where that is given; a line for each thing. Raises OptionError."""
    return _refusals(_install(root, dry_run))


def uninstall(root: Path | None, dry_run: bool) -> Iterator[str]:
    """Takes away what `install` put in place; a line for each thing. Raises OptionError."""
    return _refusals(_uninstall(root, dry_run))


def _install(root: Path | None, dry_run: bool) -> Iterator[str]:
    where = _Where(root or Path("/"), dry_run)
    _refuse_ordinary_user("install", root, dry_run)
    programs = _programs()
    unit = _unit_text(programs["egofs"])
    # All is looked at before anything is touched: half an installation helps nobody.
    for name, program in _LINKS.items():
        _refuse_foreign_link(where / name, programs[program])
    _refuse_foreign_file(where / _UNIT)
    for name, program in _LINKS.items():
        yield _link(where, name, programs[program])
    yield _write(where, _UNIT, unit)
    yield _make_folder(where, _SETTINGS)
    yield from _reload_systemd(root, dry_run)
    if root is None and (closed := _closed_folder(programs["egofs"])):
        yield f"note: ordinary users cannot look into {closed}: their own mounts need an installation elsewhere"


def _uninstall(root: Path | None, dry_run: bool) -> Iterator[str]:
    where = _Where(root or Path("/"), dry_run)
    _refuse_ordinary_user("uninstall", root, dry_run)
    programs = _programs()
    for name, program in _LINKS.items():
        yield _unlink(where, name, programs[program])
    yield _remove_file(where, _UNIT)
    yield _remove_folder(where, _SETTINGS)
    yield from _reload_systemd(root, dry_run)
    if root is None and (still := mounts.egofs_mounts()):
        yield f"note: {', '.join(str(mount.mountpoint) for mount in still)} stays mounted until it is unmounted"


def _refusals(lines: Iterator[str]) -> Iterator[str]:
    before = os.umask(0o022)  # what is put in place is for everybody
    try:
        yield from lines
    except OSError as failure:
        raise OptionError(f"{failure.filename}: {failure.strerror}") from failure
    finally:
        os.umask(before)


# -- what there is to put in place


def _programs() -> dict[str, Path]:
    """The programs of this installation by name. Raises OptionError."""
    called = Path(sys.argv[0]).absolute()
    folders = [called.parent, called.resolve().parent, Path(sys.executable).absolute().parent]
    found = {}
    for name in sorted(set(_LINKS.values())):
        # A link that an earlier `install` made leads to the installation: the program itself is what is wanted.
        there = [folder / name for folder in folders if (folder / name).is_file()]
        program = next((each for each in there if not _is_made_by_us(each)), None) or shutil.which(name)
        if program is None:
            raise OptionError(f"{name} was not found beside {called}: install the package with pip first")
        found[name] = Path(program)
    return found


def _is_made_by_us(path: Path) -> bool:
    return path.is_symlink() and str(path).lstrip("/") in {*_LINKS, *(f"usr/{name}" for name in _LINKS)}


def _unit_text(egofs: Path) -> str:
    """The unit, which names the program of this installation, under its mark."""
    # In a unit a % begins a specifier, and a path with spaces stands in quotes (systemd.service(5), COMMAND LINES).
    path = str(egofs).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = (UNITS / Path(_UNIT).name).read_text()
    if _EXECUTABLE_IN_TEXT not in text:
        raise AssertionError(f"the unit does not name {_EXECUTABLE_IN_TEXT}")
    text = text.replace(_EXECUTABLE_IN_TEXT, f'"{path}"' if set(path) & set(" \t'\"") else path)
    return f"{_MARK}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- whose a thing is


def _is_our_link(path: Path, program: Path) -> bool:
    """Whether a link leads to a program of that name: that of this installation, or of another, or of a lost one."""
    return path.is_symlink() and Path(os.readlink(path)).name == program.name


def _is_our_file(path: Path) -> bool:
    """Whether `install` wrote a file, and nobody changed it."""
    mark, _, text = path.read_text(errors="surrogateescape").partition("\n")
    return mark == _MARK + hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _refuse_foreign_link(path: Path, program: Path) -> None:
    if os.path.lexists(path) and path != program and not _is_our_link(path, program):
        raise OptionError(f"{path} is somebody else's: move it away first (nothing was done)")


def _refuse_foreign_file(path: Path) -> None:
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or not _is_our_file(path)):
        raise OptionError(
            f"{path} is not as egofs install writes it: move it away first, and put what is your own into "
            f"{path}.d/*.conf (nothing was done)"
        )


def _refuse_ordinary_user(command: str, root: Path | None, dry_run: bool) -> None:
    if os.geteuid() != 0 and root is None and not dry_run:
        raise OptionError(f"only root may: sudo {Path(sys.argv[0]).absolute()} {command}")


def _closed_folder(program: Path) -> Path | None:
    """A folder on the way to a program that others may not pass through."""
    # Its interpreter may stand somewhere else.
    ways = [folder for path in (program, Path(sys.executable)) for folder in reversed(path.resolve().parents)]
    return next((folder for folder in ways if not folder.stat().st_mode & 0o001), None)


# -- one thing each


def _link(where: _Where, name: str, program: Path) -> str:
    path = where / name
    if path == program or (path.is_symlink() and Path(os.readlink(path)) == program):
        return f"{path} is there already"
    before = f", no longer to {os.readlink(path)}" if path.is_symlink() else ""
    if not where.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By a rename, so that there is no moment without it.
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(program)
        new.replace(path)
    return f"{path} leads to {program}{before}"


def _unlink(where: _Where, name: str, program: Path) -> str:
    path = where / name
    if path == program or not os.path.lexists(path):
        return f"{path} is not there" if path != program else f"{path} is the installation itself and stays"
    if not _is_our_link(path, program) or (path.exists() and Path(os.readlink(path)) != program):
        return f"{path} is not of this installation and stays"
    if not where.dry_run:
        path.unlink()
    return f"{path} is gone"


def _write(where: _Where, name: str, text: str) -> str:
    path = where / name
    before = path.read_text(errors="surrogateescape") if path.exists() else None
    if before == text:
        return f"{path} is there already"
    if not where.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(path)
    return f"{path} is written{'' if before is None else ' anew'}: egofs@NAME mounts /etc/egofs/NAME.toml on /mnt/NAME"


def _remove_file(where: _Where, name: str) -> str:
    path = where / name
    if not os.path.lexists(path):
        return f"{path} is not there"
    if path.is_symlink() or not path.is_file() or not _is_our_file(path):
        return f"{path} is not as egofs install writes it and stays"
    if not where.dry_run:
        path.unlink()
    return f"{path} is gone"


def _make_folder(where: _Where, name: str) -> str:
    path = where / name
    if path.is_dir():
        return f"{path} is there already"
    if not where.dry_run:
        path.mkdir(parents=True)
    return f"{path} is made, for NAME.toml files"


def _remove_folder(where: _Where, name: str) -> str:
    path = where / name
    if not path.is_dir():
        return f"{path} is not there"
    if any(path.iterdir()):
        return f"{path} has files in it and stays"
    if not where.dry_run:
        path.rmdir()
    return f"{path} is gone"


def _reload_systemd(root: Path | None, dry_run: bool) -> Iterator[str]:
    """Tells a running systemd (sd_booted(3)) that its units are others now."""
    if root is not None or not os.path.isdir("/run/systemd/system"):
        return
    if not dry_run:
        done = subprocess.run(["systemctl", "daemon-reload"], capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"note: systemctl daemon-reload failed: {' '.join(done.stderr.split())}"
            return
    yield "systemd has read its units again"
