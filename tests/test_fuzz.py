"""The fuzzer's targets, over the corpus and a few mutants of it, the same each time; and that the fuzzer can find."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run as fuzz
from tests.fuzz.mutate import boxes, elements, plain, tars, words
from tests.fuzz.run import CORPUS, corpus

INPUTS = 120
# Together in a process, so that it is begun and its modules are imported once; in three, for machines with more cores.
GROUPS = {
    "videos": ("mp4", "fragments", "matroska", "demux", "decode", "stored-index"),
    "archives": ("zip", "tar", "targz", "value", "catalog", "names", "file-ids", "message", "toml", "options"),
    "listings": (
        *("s3-list", "web-page", "webdav", "hub-tree", "drive-items", "file-list", "kinetics", "ava"),
        *("ego4d-manifest", "ego4d-facts", "egoexo4d-manifest", "egoexo4d-takes", "egoexo4d-splits"),
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_comes_of_the_corpus_but_refusals_and_what_is_right(group: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *GROUPS[group], "--child", "--inputs", str(INPUTS)]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    reports = {report["target"]: report for report in map(json.loads, done.stdout.splitlines())}
    assert set(reports) == set(GROUPS[group])
    for name, report in reports.items():
        assert report["inputs"] == INPUTS, name
        assert report["findings"] == {}, name
        assert report["given"] > 0, f"{name}: nothing was taken for what it is"


def test_every_corpus_has_a_target_and_every_target_a_corpus() -> None:
    from tests.fuzz.targets import TARGETS

    tried = {name for group in GROUPS.values() for name in group}
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == tried
    assert all(corpus(name) for name in TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 1 << 20


@pytest.mark.parametrize("mutate", [plain, boxes, elements, words, tars])
def test_a_seed_makes_the_same_mutants_again_and_no_two_alike(mutate: fuzz.Mutator) -> None:
    import random

    kept = corpus("mp4") if mutate is boxes else corpus("tar") if mutate is tars else corpus("matroska")
    first, second = ([mutate(random.Random(n), kept[0], kept) for n in range(40)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 30


def bad(data: bytes) -> None:
    """What the fuzzer is there to find, each for an input of its own."""
    if data.startswith(b"raise"):
        raise ZeroDivisionError("a slip")
    if data.startswith(b"claim"):
        raise AssertionError("not so")
    if data.startswith(b"spin"):
        while True:
            pass
    if data.startswith(b"grow"):
        assert len(bytearray(b"x") * (300 << 20))
    if data.startswith(b"log"):
        import logging

        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("vfs").exception("survived")
    if data.startswith(b"refuse"):
        raise ValueError("no such thing")


def python(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end."""
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"raise", "ZeroDivisionError"),
        (b"claim", "AssertionError"),
        (b"spin", "too long"),
        (b"grow", "too much memory"),
        (b"log", "logged as a bug"),
        (b"refuse", ""),
        (b"fine", ""),
    ],
)
def test_the_fuzzer_finds_what_it_is_there_to_find(data: bytes, found: str, tmp_path: Path) -> None:
    """In a process of its own: it sets limits and signal handlers."""
    deadline_s = 0.3 if data == b"spin" else 10.0
    program = (
        "import sys, json; from pathlib import Path; from tests import test_fuzz; from tests.fuzz import run\n"
        f"run.corpus = lambda name: [{data!r}]\n"
        f"target = run.Target('bad', test_fuzz.bad, refusals=(ValueError,), deadline_s={deadline_s})\n"
        "report = run.run(target, seed=0, seconds=0, inputs=1, folder=Path(sys.argv[1]))\n"
        "print(json.dumps(vars(report)))"
    )
    done = python(program, tmp_path)
    report = json.loads(done.stdout)
    assert report["inputs"] == 1
    assert [place.partition(":")[0] for place in report["findings"]] == ([found] if found else [])
    kept = [path.read_bytes() for path in tmp_path.iterdir()]
    assert kept == ([data] if found else [])


def test_a_process_that_an_input_ends_is_a_finding_with_that_input(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.fuzz import __main__ as main\n"
        "main._child = lambda *words: ({}, 'its process ended: status -11') if not done else ({'inputs': 1}, '')\n"
        "done = False\n"
        "from pathlib import Path\n"
        "print(main._run_target('mp4', 0, 0.0, 5, Path(sys.argv[1])))"
    )
    done = python(program, tmp_path)
    assert "FOUND mp4: its process ended: status -11" in done.stdout
    assert done.stdout.strip().endswith("1")
