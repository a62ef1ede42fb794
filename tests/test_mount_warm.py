"""`egofs warm` and `egofs ls` on real mounts: what they fetch and say, broken off in the middle, and with bad input."""

import json
import os
import random
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import simplejpeg

from tests import mounting
from tests.archives import tar_gz_of, wild
from tests.clips import make_clip
from tests.faults import Drip
from tests.mounting import Mount, egofs, mounted, wait_until
from tests.s3server import Fault, Request, S3Server, Status
from tests.terminals import terminals
from tests.test_mount_s3 import ENV, options
from vfs.video import stamp

pytestmark = pytest.mark.mount

MIB = 1 << 20
FRAMES = 30


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of a bucket."""
    folder = tmp_path / "store/bucket"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def server(store: Path) -> Iterator[S3Server]:
    with S3Server(store.parent) as server:
        yield server


def mount(server: S3Server, tmp_path: Path, *more: str, name: str = "m") -> AbstractContextManager[Mount]:
    return mounted("s3://bucket", tmp_path / name, options(server), *more, cache=tmp_path / "c", env=ENV)


def gets(server: S3Server) -> list[Request]:
    return [each for each in server.requests if each.method == "GET" and each.range]


def asked_bytes(server: S3Server, suffix: str = "") -> int:
    asked = [each for each in gets(server) if each.path.endswith(suffix)]
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", each.range) for each in asked]
    return sum(int(found[2]) - int(found[1]) + 1 for found in ranges if found)


def answer(*words: str | Path) -> tuple[int, dict[str, Any]]:
    """Status and the one mount's answer as JSON."""
    done = egofs(*words, "--json")
    (told,) = json.loads(done.stdout)["mounts"]
    return done.returncode, told


def test_what_was_warmed_is_read_without_a_request_also_after_a_remount(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    files = {"a/big": wild(9 * MIB + 5), "a/b/small": b"small", "top": b"1"}
    for name, data in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)
    with mount(server, tmp_path) as m:
        done = egofs("warm", "--check", m.directory)
        assert done.returncode == 1
        assert "3 files, 9.0 MiB" in done.stdout
        assert gets(server) == []
        done = egofs("warm", m.directory)
        assert done.returncode == 0, done.stderr
        assert re.search(r"3 files, 9\.0 MiB on disk; 9\.0 MiB fetched in [\d.]+ s", done.stderr)
        assert done.stdout == ""
        assert asked_bytes(server) == sum(map(len, files.values()))
        assert len(gets(server)) == 5
        assert egofs("warm", "--check", m.directory).returncode == 0
    with mount(server, tmp_path) as m:
        before = len(server.requests)
        for name, data in files.items():
            assert (m / name).read_bytes() == data
        assert len(server.requests) == before


def test_ctrl_c_stops_at_once_and_the_same_command_fetches_just_the_rest(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    for n in range(6):
        (store / f"f{n}").write_bytes(wild(8 * MIB, n))
    go_on = threading.Event()

    def hold(request: Request) -> Fault | None:
        if request.range and len(gets(server)) > 5:
            go_on.wait(30)
        return None

    server.faults = hold
    with mount(server, tmp_path) as m:
        command = [*mounting.EGOFS, "warm", "--jobs", "2", str(m.directory)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: len(gets(server)) > 5)
        threading.Event().wait(0.5)  # for what came to be told of
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 8, said
        assert re.search(r"interrupted: [\d.]+ MiB of 48\.0 MiB on disk by now; the same command goes on", said)
        threading.Event().wait(1)  # until the daemon has heard of it
        go_on.set()
        first = wait_until(lambda: asked_bytes(server))
        threading.Event().wait(0.5)
        assert asked_bytes(server) == first < 48 * MIB
        status, told = answer("warm", m.directory)
        assert (status, told["all_there"]) == (0, True)
        assert told["fetched_bytes"] == 48 * MIB - first
        assert asked_bytes(server) == 48 * MIB


def test_pictures_that_were_warmed_are_read_without_decoding(server: S3Server, store: Path, tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        (store / name).mkdir()
        make_clip(store / name / "v.mp4", frames=FRAMES, gop=10)
    with mount(server, tmp_path) as m:
        assert answer("warm", "--check", "--frames", m / "r1")[0] == 1
        status, told = answer("warm", "--frames", m / "r1", m / "r2/frames@short=32/v")
        assert (status, told["made_pictures"], told["pictures"], told["files"]) == (0, 2 * FRAMES, 2 * FRAMES, 1)
        assert answer("warm", "--check", "--frames", m / "r1")[0] == 0
        assert answer("warm", "--check", "--frames", m / "r2")[0] == 1
    with mount(server, tmp_path) as m:
        before = len(server.requests)
        for number in range(1, FRAMES + 1):
            picture = (m / f"r1/frames/v/{number:06}.jpg").read_bytes()
            assert stamp.read(simplejpeg.decode_jpeg(picture)) == number - 1
            assert (m / f"r2/frames@short=32/v/{number:06}.jpg").read_bytes().startswith(b"\xff\xd8")
        assert m.status()["frames_made"] == 0
        assert m.status()["frames_from_disk"] == 2 * FRAMES
        assert len(server.requests) == before


def test_patterns_lists_and_links_name_what_they_name(
    server: S3Server, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("r/one/a.bin", "r/two/a.bin", "r/two/b.bin", "odd [1]", "naïve"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(name.encode())
    with mount(server, tmp_path) as m:
        (tmp_path / "data").symlink_to(m.directory)
        (tmp_path / "list").write_text(f"{m.directory}/r/one/a.bin\n\n{m.directory}/r/two/a.bin\n")
        (tmp_path / "inside").symlink_to(m / "r/two")

        def count(*words: str | Path) -> int:
            return int(answer("warm", "--check", *words)[1]["files"])

        assert count(f"{m.directory}/r/*/a.bin") == 2
        assert count(f"{m.directory}/**/*.bin") == 3
        assert count(tmp_path / "data") == 5
        assert count(tmp_path / "data/r/two/") == 2
        assert count(tmp_path / "inside") == 2
        assert count(m / "odd [1]", m / "naïve") == 2
        assert count(f"@{tmp_path / 'list'}") == 2
        monkeypatch.chdir(tmp_path / "data/r")
        assert count("one", "two/../two/b.bin") == 2
        assert count(".") == 3
        for word in ("two/a.bin", "two/a.bin/"):
            done = subprocess.run(
                [*mounting.EGOFS, "warm", "--check", "@-", "--json"], input=f"{word}\n", capture_output=True, text=True
            )
            assert done.returncode == 1
            assert ("no such file" in done.stderr) == word.endswith("/")
        monkeypatch.chdir("/")


def test_canonical_cameras_views_and_archives_are_warmed_once(tmp_path: Path, demo_root: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/bucket").symlink_to(demo_root)
    with S3Server(tmp_path / "store") as server, mount(server, tmp_path, "dataset=assembly101") as m:
        recording = max((m / "recordings").iterdir())
        size = (recording / "e1.mp4").stat().st_size
        assert (recording / "e1.mp4").is_symlink()
        status, told = answer("warm", recording / "e1.mp4", os.path.realpath(recording / "e1.mp4"))
        assert (status, told["files"], told["bytes"], told["fetched_bytes"]) == (0, 1, size, size)
        status, told = answer("warm", recording)
        assert status == 0
        videos = [each for each in recording.iterdir() if each.suffix == ".mp4" and not each.is_symlink()]
        assert told["files"] >= len(videos)
        before = asked_bytes(server, ".mp4")  # beside the dataset's own tables
        status, told = answer("warm", m / "by-split")
        listed = egofs("ls", "-l", recording)
        assert f"e1.mp4 → {os.readlink(recording / 'e1.mp4')}" in listed.stdout
        assert status == 0
        assert 0 < asked_bytes(server, ".mp4") - before == told["fetched_bytes"] < told["bytes"]


def test_an_archives_folder_is_warmed_by_the_archives_name_with_a_slash(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    (store / "x.tar.gz").write_bytes(tar_gz_of({"d/one": wild(100_000), "two": b"2"}))
    with mount(server, tmp_path) as m:
        status, told = answer("warm", f"{m.directory}/x.tar.gz/")
        assert (status, told["files"], told["bytes"]) == (0, 2, 100_001)
        before = len(gets(server))
        assert (m / "x/d/one").read_bytes() == wild(100_000)
        assert len(gets(server)) == before


def test_evicting_frees_what_status_counts(server: S3Server, store: Path, tmp_path: Path) -> None:
    make_clip(store / "v.mp4", frames=FRAMES, gop=10)
    (store / "keep").write_bytes(b"k" * 1000)
    with mount(server, tmp_path) as m:
        assert egofs("warm", "--frames", m.directory).returncode == 0
        used = m.status()["cache"]["used_bytes"]
        done = egofs("warm", "--evict", "--frames", m / "v.mp4")
        assert done.returncode == 0
        assert re.fullmatch(r"1 files: [\d.]+ [KM]iB became free\n", done.stdout)
        assert m.status()["cache"]["used_bytes"] < used / 4
        assert answer("warm", "--check", m / "keep")[0] == 0
        status, told = answer("warm", "--check", "--frames", m / "v.mp4")
        assert (status, told["bytes_on_disk"], told["pictures_on_disk"], told["pictures"]) == (1, 0, 0, FRAMES)


def test_a_local_folder_is_there_already_and_its_pictures_can_be_made(store: Path, tmp_path: Path) -> None:
    make_clip(store / "v.mp4", frames=FRAMES, gop=10)
    with mounted(store, tmp_path / "m", cache=tmp_path / "c") as m:
        done = egofs("warm", m.directory)
        assert done.returncode == 0
        assert "on local disk anyway" in done.stderr
        status, told = answer("warm", "--frames", m.directory)
        assert (status, told["made_pictures"], told["fetched_bytes"]) == (0, FRAMES, 0)
        assert (m / "frames/v/000003.jpg").read_bytes().startswith(b"\xff\xd8")
        assert m.status()["frames_made"] == FRAMES


def test_failures_are_a_line_each_and_the_rest_is_warm(server: S3Server, store: Path, tmp_path: Path) -> None:
    for n in range(4):
        (store / f"f{n}").write_bytes(b"x" * 1000)
    with mount(server, tmp_path) as m:
        os.listdir(m.directory)
        (store / "f2").unlink()
        (store / "f2").write_bytes(b"y" * 999)
        done = egofs("warm", m.directory)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if "/f2: " in line]
        assert line.startswith(f"egofs: {m.directory}/f2: ")
        assert "not all is on disk" in done.stderr
        server.faults = lambda request: Status(403, "AccessDenied") if request.range else None
        (store / "g").write_bytes(b"g")
        assert egofs("warm", "--evict", m.directory).returncode == 0
        done = egofs("warm", m / "f0", m / "f1")
        assert done.returncode == 32
        assert len(done.stderr.splitlines()) == 1


def test_more_than_the_cache_holds_is_refused_in_one_line(server: S3Server, store: Path, tmp_path: Path) -> None:
    (store / "big").write_bytes(wild(12 * MIB))
    with mount(server, tmp_path, "cache_size=8M") as m:
        done = egofs("warm", m.directory)
        assert done.returncode == 1
        assert "egofs cache resize" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert gets(server) == []
        done = egofs("warm", "--force", m.directory)
        assert done.returncode == 1
        assert "not all is on disk" in done.stderr


def test_two_mounts_are_looked_at_before_either_is_fetched(server: S3Server, store: Path, tmp_path: Path) -> None:
    (store / "a").write_bytes(b"a")
    with mount(server, tmp_path, name="m") as one, mount(server, tmp_path, name="n") as other:
        done = egofs("warm", one / "a", other / "none")
        assert done.returncode == 1
        assert done.stderr == f"egofs: {other.directory}/none: no such file or folder\n"
        assert gets(server) == []
        done = egofs("warm", "--json", one / "a", other / "a")
        assert done.returncode == 0
        assert [each["files_on_disk"] for each in json.loads(done.stdout)["mounts"]] == [1, 1]
        assert len(gets(server)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/etc/passwd"], "/etc/passwd: not in a mount of egofs"),
        (["M/none"], "none: no such file or folder"),
        (["M/a", "M/none*"], "none*: matches nothing"),
        (["@/nonexistent"], "@/nonexistent: No such file or directory"),
        (["@/dev/null"], "@/dev/null: an empty list"),
        (["M/.egofs/status.json"], ".egofs/status.json: no such file or folder"),
        (["--jobs", "0", "M"], "0 is not in the range"),
        (["--check", "--evict", "M"], "do not go together"),
        ([], "say what: a PATH, a GLOB or an @LIST"),
    ],
)
def test_bad_input_is_one_line_and_fetches_nothing(
    server: S3Server, store: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    (store / "a").write_bytes(b"a")
    with mount(server, tmp_path) as m:
        done = egofs("warm", *(word.replace("M", str(m.directory)) for word in words))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert said in done.stderr
        assert gets(server) == []


def test_ls_tells_sizes_and_shares_in_columns_that_fit_a_terminal(
    server: S3Server, store: Path, tmp_path: Path
) -> None:
    (store / "d").mkdir()
    for name, size in {"d/large": 5 * MIB, "d/small": 10, "d/none": 0, "d/od\nd": 1}.items():
        (store / name).write_bytes(b"x" * size)
    with mount(server, tmp_path) as m:
        with (m / "d/large").open("rb") as file:
            file.read(10)
        egofs("warm", m / "d/small")
        done = egofs("ls", "-l", m / "d")
        assert done.returncode == 0
        lines = {line.split()[-1]: line.split() for line in done.stdout.splitlines()}
        assert lines["small"][:4] == ["-", "10", "100%", "10"]
        assert lines["large"][1] == "5.0M"
        assert 1 < int(lines["large"][2].removesuffix("%")) < 50
        assert "od\\x0ad" in lines
        assert {len(line) - len(line.split()[-1]) for line in done.stdout.splitlines()} == {40}
        assert egofs("ls", m.directory).stdout.split() == ["d"]
        found = [json.loads(line) for line in egofs("ls", "--json", m / "d").stdout.splitlines()]
        assert {each["path"]: each["bytes_on_disk"] for each in found}[f"{m.directory}/d/small"] == 10
        assert egofs("ls", m / "x").stderr == f"egofs: {m.directory}/x: no such file or folder\n"
        assert "status.json" in egofs("ls", m / ".egofs").stdout
        both = egofs("ls", m / "d/small", m / "d").stdout
        assert both.startswith("d/small\n")
        assert f"\n{m.directory}/d:\n" in both


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_how_far_warming_is_and_ctrl_c_ends_it(
    server: S3Server, store: Path, tmp_path: Path, columns: int
) -> None:
    for number in range(3):
        (store / f"video{number}.bin").write_bytes(random.Random(number).randbytes(16 << 20))
    server.faults = lambda request: Drip(1 << 17, 0.05) if request.range else None
    with terminals() as open_one, mount(server, tmp_path) as m:
        shown = open_one(columns, 24, "warm", m.directory, "--jobs", "2")
        lines = shown.until(lambda text: re.search(r"[1-9]\d? ?%.*B/s", text))
        bar = next(line for line in lines if "%" in line)
        assert re.search(r"\d+:\d\d|-:--", bar), "the time that is left"
        assert max(map(len, lines)) <= columns
        shown.press("C-c")
        lines = shown.until(lambda text: "ended with" in text)
        assert "ended with 8" in "\n".join(lines)
        assert "the same command goes on" in " ".join(" ".join(lines).split())
