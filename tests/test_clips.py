"""Kinetics' clips as files: cut once, kept within a bound, cut again; and what is missing, remembered."""

import csv
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from mountd.about import AboutDirectory, ErrorLog
from tests.clips import MemoryReader, make_clip
from tests.memorysource import MemoryBucket, MemorySource
from vfs import flight
from vfs.datasets.kinetics.clips import CutSource
from vfs.datasets.kinetics.missing import ASKED_AGAIN_S, Missing
from vfs.errors import AccessDenied, Changed, EgofsError, NotFound, Throttled, Timeout, UndecodableVideo
from vfs.sources import Deep, Paged
from vfs.video import stamp
from vfs.video.cutter import Cutter
from vfs.video.decode import Decoder
from vfs.video.index import read_index

ID = "-bcd_fghij-"
KEY, CLIP = f"{ID}.mp4", f"clips/{ID}_000001_000003.mp4"


class FakeCutter(Cutter):
    """Cuts text: what it was asked for, and as many bytes as wanted."""

    def __init__(self, size: int = 1000) -> None:
        super().__init__()
        self.cuts: list[tuple[str, Fraction, Fraction]] = []
        self.size = size
        self.salt = ""
        self.before: Callable[[], None] = lambda: None

    def cut(self, reader: Any, name: str, start_s: Fraction, stop_s: Fraction) -> memoryview:
        self.cuts.append((name, start_s, stop_s))
        self.before()
        reader.read(0, 4)
        return memoryview(f"{name} {start_s} {stop_s} {self.salt}".encode().ljust(self.size, b"."))


@pytest.fixture
def inner() -> MemorySource:
    return MemorySource({KEY: b"a whole video", "annotations/k400.csv": b"label\n"})


class Opened:
    """A CutSource, what it cuts with, and a clock."""

    def __init__(self, inner: MemorySource, state: Path, **options: Any) -> None:
        self.cutter = FakeCutter()
        self.now = 1_000_000_000.0
        self.source = CutSource(inner, state, cutter=self.cutter, clock=lambda: self.now, **options)

    def whole(self, key: str) -> bytes:
        obj = self.source.stat(key)
        return self.source.read(obj, 0, obj.size_bytes)


def kept(state: Path) -> list[Path]:
    return sorted(state.rglob("*_*.mp4"))


def test_a_clip_is_cut_once_and_read_from_what_is_kept(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path / "state")
    found = opened.source.stat(CLIP)
    data = opened.source.read(found, 0, found.size_bytes)
    assert data.startswith(f"{CLIP} 1 3".encode())
    assert opened.source.read(found, 5, 7) == data[5:12]
    assert opened.source.stat(CLIP) == found
    assert (len(opened.cutter.cuts), inner.stats) == (1, [KEY])
    assert found.mtime_ns == inner.info(KEY).mtime_ns
    assert opened.source.url == inner.url
    assert opened.source.remote
    (file,) = kept(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    again = Opened(inner, tmp_path / "state")  # the next mount
    assert again.source.stat(CLIP) == found
    assert again.whole(CLIP) == data
    assert (again.cutter.cuts, inner.stats) == ([], [KEY])


SPANS = {
    f"{ID}_000001_000011": (1, 11),
    f"{ID}_000000_000005": (0, 5),
    f"{ID}_000902": (899, 905),
    f"{ID}_000002": (0, 6),
    f"{ID}_000003": (0, 6),
}


@pytest.mark.parametrize(("stem", "span"), SPANS.items())
def test_a_name_says_the_seconds(inner: MemorySource, tmp_path: Path, stem: str, span: tuple[int, int]) -> None:
    opened = Opened(inner, tmp_path)
    opened.source.stat(f"clips/{stem}.mp4")
    assert opened.cutter.cuts == [(f"clips/{stem}.mp4", *span)]


@pytest.mark.parametrize("stem", [f"{ID}_000005_000005", f"{ID}_000005_000001", f"{ID}_000000_000121"])
def test_seconds_of_no_clip_are_not_there(inner: MemorySource, tmp_path: Path, stem: str) -> None:
    opened = Opened(inner, tmp_path)
    with pytest.raises(NotFound, match="a clip is of 1 to 120 seconds"):
        opened.source.stat(f"clips/{stem}.mp4")
    assert (opened.cutter.cuts, inner.stats) == ([], [])


def test_other_names_are_the_sources(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path)
    assert opened.whole(KEY) == b"a whole video"
    assert opened.whole("annotations/k400.csv") == b"label\n"
    assert [each.name for each in opened.source.list("")] == ["annotations", KEY]
    assert list(opened.source.list("clips")) == []
    assert not isinstance(opened.source, Paged)
    assert isinstance(CutSource(MemoryBucket({}), tmp_path), Deep)
    assert opened.cutter.cuts == []


def test_clips_of_other_sources_are_others(inner: MemorySource, tmp_path: Path) -> None:
    other = MemorySource({KEY: b"another video"}, "memory://other")
    Opened(inner, tmp_path).source.stat(CLIP)
    opened = Opened(other, tmp_path)
    opened.source.stat(CLIP)
    assert len(opened.cutter.cuts) == 1
    assert len(kept(tmp_path)) == 2


def test_of_those_who_want_a_clip_one_cuts_it(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path)
    opened.cutter.before = lambda: time.sleep(0.2)
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: opened.source.stat(CLIP), range(8)))) == 1
    assert len(opened.cutter.cuts) == 1


def test_who_waits_for_a_clip_waits_no_longer_than_a_deadline(
    inner: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "WAIT_S", 0.1)
    opened = Opened(inner, tmp_path)
    begun, end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        end.wait(10)

    opened.cutter.before = slow
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(opened.source.stat, CLIP)
        assert begun.wait(10)
        with pytest.raises(Timeout):
            opened.source.stat(CLIP)
        end.set()
        assert first.result(10).size_bytes


# -- what is kept


def test_clips_that_were_used_least_recently_go(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path, limit_bytes=4500)
    stems = [f"clips/{ID}_{second:06d}_{second + 1:06d}.mp4" for second in range(4)]
    found = [opened.source.stat(stem) for stem in stems]
    opened.source.read(found[0], 0, 10)
    opened.source.stat(f"clips/{ID}_000009_000010.mp4")
    assert sum(file.stat().st_size for file in kept(tmp_path)) <= 4500
    names = {file.name for file in kept(tmp_path)}
    assert found[0].key.removeprefix("clips/") in names
    assert found[1].key.removeprefix("clips/") not in names
    cuts = len(opened.cutter.cuts)
    assert opened.source.read(found[1], 0, 10) == found[1].key.encode()[:10]  # cut again: the same bytes
    assert len(opened.cutter.cuts) == cuts + 1
    assert opened.source.stat(found[1].key) == found[1]


def test_a_clip_that_is_cut_otherwise_has_changed(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path)
    found = opened.source.stat(CLIP)
    kept(tmp_path)[0].unlink()
    opened.cutter.salt = "with another encoder"
    with pytest.raises(Changed, match="open it again"):
        opened.source.read(found, 0, 10)
    now = opened.source.stat(CLIP)
    assert now.version != found.version
    assert opened.source.read(replace(now, version=""), 0, 5) == b"clips"


@pytest.mark.parametrize("damage", ["a_bit", "its_end", "everything", "more"])
def test_a_damaged_file_is_not_given(inner: MemorySource, tmp_path: Path, damage: str) -> None:
    opened = Opened(inner, tmp_path)
    found = opened.source.stat(CLIP)
    (file,) = kept(tmp_path)
    data = file.read_bytes()
    file.write_bytes(
        {"a_bit": bytes([data[0] ^ 1]) + data[1:], "its_end": data[:-7], "everything": b"", "more": data + b"x"}[damage]
    )
    assert opened.source.read(found, 0, found.size_bytes) == data
    assert len(opened.cutter.cuts) == 2
    assert kept(tmp_path)[0].read_bytes() == data


def test_where_nothing_can_be_kept_clips_are_still_given(inner: MemorySource, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    opened = Opened(inner, tmp_path / "state")
    found = opened.source.stat(CLIP)
    assert opened.source.read(found, 0, 5) == b"clips"
    assert opened.source.stat(CLIP) == found
    assert len(opened.cutter.cuts) == 1
    for second in range(20):
        opened.source.stat(f"clips/{ID}_{second:06d}_000100.mp4")
    assert len(opened.source._in_memory) == 8


def test_a_failure_is_not_kept(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path)

    def fail() -> None:
        raise UndecodableVideo("x")

    opened.cutter.before = fail
    with pytest.raises(UndecodableVideo):
        opened.source.stat(CLIP)
    opened.cutter.before = lambda: None
    assert opened.source.stat(CLIP).size_bytes
    assert list(opened.source.missing()) == []


def test_a_video_that_is_replaced_meanwhile_is_cut_anew(inner: MemorySource, tmp_path: Path) -> None:
    opened = Opened(inner, tmp_path)

    def replace_it() -> None:
        if len(opened.cutter.cuts) == 1:
            inner.objects[KEY] = b"another video"

    opened.cutter.before = replace_it
    assert opened.whole(CLIP).startswith(CLIP.encode())
    assert (len(opened.cutter.cuts), inner.stats) == (2, [KEY, KEY])


# -- what is missing


def test_a_dead_video_is_asked_for_once_a_week_whatever_is_wanted_of_it(inner: MemorySource, tmp_path: Path) -> None:
    del inner.objects[KEY]
    reason = 'find x: Private video, and "more"\nof it'

    def gone(key: str) -> None:
        if key not in inner.objects:
            raise NotFound(reason)

    inner.before_stat = gone
    opened = Opened(inner, tmp_path)
    for key in (CLIP, f"clips/{ID}_000100_000110.mp4", f"clips/{ID}_000007.mp4", KEY):
        with pytest.raises(NotFound, match="Private video"):
            opened.source.stat(key)
    again = Opened(inner, tmp_path)  # the next mount
    with pytest.raises(NotFound, match="Private video"):
        again.source.stat(CLIP)
    assert inner.stats == [KEY]
    row = (KEY, 'Private video, and "more" of it', "2001-09-09T01:46:40Z")
    assert [*again.source.missing()] == [row]
    again.now += ASKED_AGAIN_S
    with pytest.raises(NotFound):
        again.source.stat(CLIP)
    assert inner.stats == [KEY, KEY]
    assert [*again.source.missing()] == [row]  # since the first time
    again.now += ASKED_AGAIN_S
    inner.objects[KEY] = b"it is back"
    assert again.source.stat(CLIP).size_bytes
    assert [*again.source.missing()] == []
    assert [*Opened(inner, tmp_path).source.missing()] == []


@pytest.mark.parametrize("failure", [AccessDenied("cookies"), Throttled("later"), Timeout("slow")])
def test_what_may_be_there_is_asked_for_again(inner: MemorySource, tmp_path: Path, failure: EgofsError) -> None:
    def fail(key: str) -> None:
        raise failure

    inner.before_stat = fail
    opened = Opened(inner, tmp_path)
    for _ in range(2):
        with pytest.raises(type(failure)):
            opened.source.stat(CLIP)
    assert inner.stats == [KEY, KEY]
    assert list(opened.source.missing()) == []


def test_lines_that_were_cut_off_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a/missing.csv"
    now = 2_000_000_000.0
    missing = Missing(file, lambda: now)
    missing.add("a.mp4", "removed")
    missing.add("b.mp4", "private, it says")
    with open(file, "ab") as out:
        out.write(b"c.mp4,remo")
    other = Missing(file, lambda: now)
    other.add("d.mp4", "gone")
    with open(file, "ab") as out:
        out.write(
            b"\0\xff,x,1,1\ne.mp4,x,one,1\n\n,,,,,\nf.mp4,x,1,99999999999999999999\n" + b"g" * 200_000 + b",x,1,1\n"
        )
    third = Missing(file, lambda: now)
    assert [name for name, _, _ in third.rows() if name < "g"][-3:] == ["a.mp4", "b.mp4", "d.mp4"]
    assert third.reason("b.mp4") == "private, it says"
    assert third.reason("c.mp4") is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_out_of_date_is_written_out_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfs.datasets.kinetics.missing._SPARE_LINES", 5)
    missing = Missing(tmp_path / "missing.csv")
    missing.add("z.mp4", "gone")
    for _ in range(10):
        missing.add("a.mp4", "gone")
        missing.remove("a.mp4")
    rows = [*missing.rows()]
    assert [*Missing(tmp_path / "missing.csv").rows()] == rows
    assert (tmp_path / "missing.csv").read_text().count("\n") == 1


def test_a_time_to_come_is_not_believed(tmp_path: Path) -> None:
    now = 2_000_000_000.0
    Missing(tmp_path / "m", lambda: now + 1e6).add("a.mp4", "gone")
    assert Missing(tmp_path / "m", lambda: now).reason("a.mp4") is None


def test_what_is_missing_is_a_file_of_the_mount() -> None:
    rows = [("a.mp4", 'it is "private", they say', "2026-01-01T00:00:00Z"), ("b_000001_000002.mp4", "too short")]
    about = AboutDirectory(dict, ErrorLog(), lambda: iter(rows))
    assert [name for name, *_ in about.children()] == [
        b"errors.log",
        b"help.txt",
        b"metrics",
        b"status.json",
        b"missing.csv",
    ]
    node: Any = about.lookup("missing.csv")
    data = node.open().read(0, 1 << 20)
    assert node.attributes.size_bytes == len(data)
    assert [*csv.reader(io.StringIO(data.decode()))] == [["name", "reason", "since"], *map(list, rows)]
    with pytest.raises(NotFound):
        AboutDirectory(dict, ErrorLog()).lookup("missing.csv")


# -- with the real cutter


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / KEY
    return make_clip(path, frames=100, rate=25, audio=True, container_options={"movflags": "faststart"})


def test_a_clip_is_a_video_of_its_seconds(video: Path, tmp_path: Path) -> None:
    inner = MemorySource({KEY: video.read_bytes()})
    source = CutSource(inner, tmp_path)
    found = source.stat(CLIP)
    data = source.read(found, 0, found.size_bytes)
    index = read_index(MemoryReader(data), "clip")
    decoder = Decoder(MemoryReader(data), index, "clip")
    assert [stamp.read(decoder.frame(n).gray()) for n in range(index.frame_count)] == list(range(25, 75))
    short = f"clips/{ID}_000004_000014.mp4"
    reads = len(inner.reads)
    with pytest.raises(NotFound, match=r"it ends after 4.00 s"):
        source.stat(short)
    asked = len(inner.reads)
    assert asked > reads
    with pytest.raises(NotFound, match=r"it ends after 4.00 s"):
        source.stat(short)
    assert len(inner.reads) == asked
    assert [name for name, _, _ in source.missing()] == [f"{ID}_000004_000014.mp4"]
    source.close()


PROGRAM = """
import sys
from pathlib import Path
from tests.memorysource import MemorySource
from vfs.datasets.kinetics.clips import CutSource
video, state, key = sys.argv[1:]
source = CutSource(MemorySource({Path(video).name: Path(video).read_bytes()}), Path(state))
print("ready", flush=True)
sys.stdin.readline()
found = source.stat(key)
print(found.version, found.size_bytes, flush=True)
"""


def started(video: Path, state: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(video), str(state), CLIP]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def test_two_processes_that_cut_the_same_clip_have_the_same(video: Path, tmp_path: Path) -> None:
    with started(video, tmp_path) as one, started(video, tmp_path) as two:
        for each in (one, two):
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        answers = [each.communicate("go\n")[0] for each in (one, two)]
    assert answers[0] == answers[1]
    assert int(answers[0].split()[1]) == kept(tmp_path)[0].stat().st_size
    assert len(kept(tmp_path)) == 1


def test_a_process_that_is_killed_leaves_no_half_clip(video: Path, tmp_path: Path) -> None:
    with started(video, tmp_path) as process:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(0.8)  # wherever that is
        process.send_signal(signal.SIGKILL)
    opened = CutSource(MemorySource({KEY: video.read_bytes()}), tmp_path)
    found = opened.stat(CLIP)
    assert len(opened.read(found, 0, found.size_bytes)) == found.size_bytes
    assert len(kept(tmp_path)) == 1
    opened.close()


def test_what_was_left_unfinished_is_deleted_later(
    inner: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(inner, tmp_path)
    opened.source.stat(CLIP)
    left = kept(tmp_path)[0].parent / ".x.mp4.1.1"
    left.write_bytes(b"half")
    opened.source.stat(f"clips/{ID}_000002.mp4")
    assert left.exists()
    monkeypatch.setattr("vfs.datasets.kinetics.clips._ABANDONED_S", -1.0)
    opened.source.stat(f"clips/{ID}_000003.mp4")
    assert not left.exists()
