"""`egofs install` and `uninstall`, below a folder of their own; in a machine they are tried by the tests of systemd."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mountd import install
from tests.machine import NOBODY, TOP, machine, why_not
from tests.mounting import egofs
from vfs.errors import OptionError

LINKS = ("sbin/mount.egofs", "sbin/mount.fuse.egofs", "usr/local/bin/egofs")
UNIT = "etc/systemd/system/egofs@.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation."""
    folder = tmp_path / "in stalled"
    folder.mkdir()
    for name in ("egofs", "mount.egofs"):
        (folder / name).write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(folder / "egofs"), "install"])
    return folder


def tree(root: Path) -> dict[str, object]:
    """What stands below a folder: of files their text, of links where they lead to."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else path.is_dir() or path.read_text()
    return found


def test_it_puts_helpers_command_unit_and_folder_in_place_and_says_each(root: Path, programs: Path) -> None:
    lines = list(install.install(root, dry_run=False))
    assert [line.partition(" ")[0] for line in lines] == [str(root / n) for n in (*LINKS, UNIT, "etc/egofs")]
    assert [os.readlink(root / name) for name in LINKS] == [
        str(programs / "mount.egofs"), str(programs / "mount.egofs"), str(programs / "egofs"),
    ]  # fmt: skip
    assert stat.S_IMODE((root / UNIT).stat().st_mode) == 0o644
    assert (root / "etc/egofs").is_dir()


def test_the_unit_names_this_installation_also_with_a_space_and_a_percent_sign(
    root: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = programs.rename(programs.with_name("10% mine"))
    monkeypatch.setattr(sys, "argv", [str(other / "egofs")])
    list(install.install(root, dry_run=False))
    text = (root / UNIT).read_text()
    assert f'ExecStart="{str(other).replace("%", "%%")}/egofs" mount -f /etc/egofs/%i.toml' in text
    assert "/usr/local/bin" not in text


def test_a_second_time_changes_nothing(root: Path) -> None:
    list(install.install(root, dry_run=False))
    before = tree(root)
    inode = (root / UNIT).stat().st_ino
    lines = list(install.install(root, dry_run=False))
    assert all(line.endswith("is there already") for line in lines)
    assert len(lines) == 5
    assert tree(root) == before
    assert (root / UNIT).stat().st_ino == inode


def test_a_dry_run_says_the_same_and_does_nothing(root: Path) -> None:
    planned = list(install.install(root, dry_run=True))
    assert not root.exists()
    assert list(install.install(root, dry_run=False)) == planned
    before = tree(root)
    planned = list(install.uninstall(root, dry_run=True))
    assert tree(root) == before
    assert list(install.uninstall(root, dry_run=False)) == planned


def test_uninstall_takes_away_what_install_put_there_and_nothing_else(root: Path) -> None:
    for name in ("sbin/mount.other", "etc/systemd/system/other.service"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("other\n")
    before = tree(root)
    list(install.install(root, dry_run=False))
    lines = list(install.uninstall(root, dry_run=False))
    assert all(line.endswith("is gone") for line in lines)
    assert {name: what for name, what in tree(root).items() if what is not True} == {
        name: what for name, what in before.items() if what is not True
    }
    assert all(line.endswith("is not there") for line in install.uninstall(root, dry_run=False))


@pytest.mark.parametrize("name", [*LINKS, UNIT])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_somebody_elses_is_refused_before_anything_is_done_and_never_taken_away(
    root: Path, name: str, kind: str
) -> None:
    place = root / name
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine\n")
    elif kind == "link":
        place.symlink_to("/usr/bin/mine")
    else:
        place.mkdir()
    before = tree(root)
    with pytest.raises(OptionError, match="nothing was done") as caught:
        list(install.install(root, dry_run=False))
    assert str(place) in str(caught.value)
    assert tree(root) == before
    assert any(str(place) in line and line.endswith("stays") for line in install.uninstall(root, dry_run=False))
    assert tree(root) == before


def test_a_unit_that_was_edited_is_somebodys_own(root: Path) -> None:
    list(install.install(root, dry_run=False))
    text = (root / UNIT).read_text().replace("RestartSec=2", "RestartSec=9")
    (root / UNIT).write_text(text)
    with pytest.raises(OptionError, match=r"egofs@\.service\.d/\*\.conf"):
        list(install.install(root, dry_run=False))
    assert any(UNIT in line and line.endswith("stays") for line in install.uninstall(root, dry_run=False))
    assert (root / UNIT).read_text() == text


def test_a_newer_installation_takes_over_and_says_from_whom(
    root: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(install.install(root, dry_run=False))
    newer = programs.with_name("newer")
    newer.mkdir()
    for name in ("egofs", "mount.egofs"):
        (newer / name).write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(newer / "egofs")])
    lines = list(install.install(root, dry_run=False))
    assert lines[0].endswith(f"leads to {newer / 'mount.egofs'}, no longer to {programs / 'mount.egofs'}")
    assert "is written anew" in lines[3]
    assert f"ExecStart={newer}/egofs mount" in (root / UNIT).read_text()
    # The older one takes away nothing that leads to the newer one.
    monkeypatch.setattr(sys, "argv", [str(programs / "egofs")])
    list(install.uninstall(root, dry_run=False))
    assert os.readlink(root / LINKS[0]) == str(newer / "mount.egofs")


def test_links_of_an_installation_that_is_gone_are_put_right_and_taken_away(root: Path, programs: Path) -> None:
    (root / "sbin").mkdir(parents=True)
    (root / LINKS[0]).symlink_to("/gone/bin/mount.egofs")
    assert f"{root / LINKS[0]} is gone" in list(install.uninstall(root, dry_run=False))
    (root / LINKS[0]).symlink_to("/gone/bin/mount.egofs")
    list(install.install(root, dry_run=False))
    assert os.readlink(root / LINKS[0]) == str(programs / "mount.egofs")


def test_a_folder_of_settings_that_is_in_use_stays(root: Path) -> None:
    list(install.install(root, dry_run=False))
    (root / "etc/egofs/lab.toml").write_text('dataset = "demo"\n')
    assert f"{root}/etc/egofs has files in it and stays" in list(install.uninstall(root, dry_run=False))
    assert (root / "etc/egofs/lab.toml").exists()


def test_without_a_helper_beside_it_there_is_nothing_to_install(
    root: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "mount.egofs").unlink()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(OptionError, match="install the package with pip first"):
        list(install.install(root, dry_run=False))
    assert not root.exists()


def test_a_place_that_cannot_be_written_is_told_in_one_line(root: Path) -> None:
    root.write_text("a file\n")
    with pytest.raises(OptionError, match="root/sbin: Not a directory"):
        list(install.install(root, dry_run=False))


def test_the_command_shows_the_lines_and_takes_the_same_words(root: Path) -> None:
    done = egofs("install", "--root", root)
    if "install the package with pip first" in done.stderr:
        pytest.skip("egofs is not installed here with its commands")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 5
    assert egofs("uninstall", "--root", root, "--dry-run").stdout.count("is gone") == 5
    assert egofs("uninstall", "--root", root).stdout.count("is gone") == 5


def test_the_units_are_in_the_package_and_stand_once(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is too old here to build the package")
    code = "from setuptools import setup; setup()"
    work = tmp_path / "clone"
    work.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "mountd", "systemd"):
        subprocess.run(["cp", "-a", TOP / name, work], check=True)
    command = [sys.executable, "-c", code, "-q", "build_py", "-d", tmp_path / "built"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = tmp_path / "built/mountd/units"
    assert not shipped.is_symlink()
    names = {path.name for path in (TOP / "systemd").iterdir()}
    assert names == {path.name for path in shipped.iterdir()}
    assert (shipped / "egofs@.service").read_text() == (TOP / "systemd/egofs@.service").read_text()
    assert install.UNITS.resolve() == TOP / "systemd"


@pytest.mark.mount
@pytest.mark.skipif(why_not() != "", reason=why_not() or "-")
def test_an_ordinary_user_is_refused_in_one_line() -> None:
    with machine() as inner:
        done = inner.run("/srv/bin/egofs", "install", user=NOBODY)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "egofs: only root may: sudo /srv/bin/egofs install\n"
        assert inner.run("/srv/bin/egofs", "install", "--dry-run", user=NOBODY).returncode == 0
