"""What a shell completes, asked of the shells themselves where they are there, and of click where they are not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mountd import config
from tests.mounting import EGOFS, egofs, mounted

SHELLS = ("bash", "zsh", "fish")

# What bash does with a line: words are split as its completion has them, and the function that stands for a command
# fills COMPREPLY (bash(1), Programmable Completion). compopt is for readline alone: here it says what it was told.
ASK_BASH = r"""
compopt() { printf 'compopt %s %s\n' "$1" "$2"; }
source "$1"
COMP_LINE=$2; COMP_POINT=${#COMP_LINE}
_egofs_completion egofs
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an `egofs` in it, and its scripts of completion."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "egofs").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mountd "$@"\n')
    (folder / "egofs").chmod(0o755)
    for shell in SHELLS:
        done = egofs("completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        (folder / f"script.{shell}").write_text(done.stdout)
    return folder


def environment(commands: Path) -> dict[str, str]:
    top = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": top}


def by_bash(commands: Path, line: str) -> list[str]:
    """What bash would offer at the end of a line."""
    command = ["bash", "--norc", "-c", ASK_BASH, "bash", commands / "script.bash", line]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(commands), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [each for each in done.stdout.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("egofs mo", ["mount"]),
        ("egofs completion ", ["bash", "zsh", "fish"]),
        ("egofs mount as", ["assembly101"]),
        ("egofs mount ego", ["ego4d", "egoexo4d"]),
        ("egofs mount s3", ["compopt -o nospace", "s3://"]),
        ("egofs mount s3:", ["compopt -o nospace", "//"]),
        ("egofs mount ./da", ["compopt -o default"]),
        ("egofs mount lab.to", ["compopt -o default"]),
        ("egofs mount demo ", ["compopt -o dirnames"]),
        ("egofs mount demo d --cache-d", ["--cache-dir"]),
        ("egofs mount --view", ["--views"]),
        ("egofs mount --no-fr", ["--no-frames"]),
        ("egofs mount demo d --cache ", ["auto", "on", "off"]),
        ("egofs mount demo d --cache=o", ["on", "off"]),
        ("egofs mount demo d --token-file ", ["compopt -o default"]),
        ("egofs mount demo d -o cache_s", ["compopt -o nospace", "cache_size="]),
        ("egofs mount demo d -o fram", ["frames"]),
        ("egofs mount demo d -o frames,cache_s", ["compopt -o nospace", "frames,cache_size="]),
        ("egofs mount demo d -o views=e1,cache_s", ["compopt -o nospace", "e1,cache_size="]),
        ("egofs mount demo d -o cache=", ["auto", "on", "off"]),
        ("egofs mount demo d -o frames,cache=o", ["on", "off"]),
        ("egofs mount demo d -o views=e1,log_level=w", ["warning"]),
        ("egofs mount demo d -o nothing=x", []),
        ("egofs nothing x", []),
        ("egofs 'mo", ["mount"]),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_offers_what_goes_on(commands: Path, line: str, offered: list[str]) -> None:
    assert by_bash(commands, line) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_is_offered_all_commands_datasets_schemes_and_options(commands: Path) -> None:
    assert {"mount", "umount", "status", "options", "completion"} <= set(by_bash(commands, "egofs "))
    assert {"demo", "kinetics", "gdrive://", "hf://", "https://", "youtube://"} <= set(
        by_bash(commands, "egofs mount ")
    )
    names = {each.rstrip("=") for each in by_bash(commands, "egofs mount demo d -o ")}
    assert config.all_options().keys() <= names


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_an_interactive_bash_completes_by_the_script(commands: Path) -> None:
    # With a terminal that is none: what it would show is what it completed, then run.
    typed = f"source {commands}/script.bash\negofs umo\t--he\t\nexit\n"
    command = ["bash", "--norc", "-i"]
    variables = {**environment(commands), "PS1": "$ ", "INPUTRC": "/dev/null", "TERM": "dumb", "HISTFILE": ""}
    done = subprocess.run(command, input=typed, capture_output=True, text=True, env=variables, timeout=60, check=False)
    if "umount --help" not in done.stderr and "Usage" not in done.stdout:
        pytest.skip("this bash has no readline without a terminal")
    assert "Usage: egofs umount" in done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_read_by_them(commands: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run([shell, "-n", commands / f"script.{shell}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variables", "has"),
    [
        ({"_EGOFS_COMPLETE": "zsh_complete", "COMP_WORDS": "egofs mount ego4", "COMP_CWORD": "2"}, "plain\nego4d\n_\n"),
        ({"_EGOFS_COMPLETE": "zsh_complete", "COMP_WORDS": "egofs mount demo ", "COMP_CWORD": "3"}, "dir\n"),
        ({"_EGOFS_COMPLETE": "zsh_complete", "COMP_WORDS": "egofs mount s3", "COMP_CWORD": "2"}, "plain\ns3://\n_\n"),
        ({"_EGOFS_COMPLETE": "fish_complete", "COMP_WORDS": "egofs mount ego4", "COMP_CWORD": "ego4"}, "plain,ego4d"),
        ({"_EGOFS_COMPLETE": "fish_complete", "COMP_WORDS": "egofs mou", "COMP_CWORD": "mou"}, "plain,mount"),
    ],
)
def test_what_the_scripts_of_zsh_and_fish_ask_is_answered(variables: dict[str, str], has: str) -> None:
    done = egofs(env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(has)


def test_a_shell_that_is_none_is_refused_in_one_line() -> None:
    done = egofs("completion", "tcsh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'bash', 'zsh', 'fish'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_commands_are_completed_without_importing_what_a_mount_needs() -> None:
    variables = {**os.environ, "_EGOFS_COMPLETE": "bash_complete", "COMP_LINE": "egofs umo"}
    command = [sys.executable, "-X", "importtime", *EGOFS[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.stdout == "plain,umount\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mountd.cli" in imported
    assert not imported & {"attr", "trio", "pyfuse3", "mountd.config", "boto3", "numpy"}


@pytest.mark.mount
def test_mount_points_are_offered_to_umount(tmp_path: Path, commands: Path) -> None:
    (tmp_path / "data").mkdir()
    with mounted(tmp_path / "data", tmp_path / "a b", cache=tmp_path / "c"):
        done = egofs(env={"_EGOFS_COMPLETE": "zsh_complete", "COMP_WORDS": "egofs umount ", "COMP_CWORD": "2"})
        assert f"plain\n{tmp_path / 'a b'}\n_" in done.stdout
        assert f"{tmp_path}/a\\ b" in by_bash(commands, f"egofs umount {tmp_path}/")
    assert str(tmp_path) not in "".join(by_bash(commands, f"egofs umount {tmp_path}/"))
