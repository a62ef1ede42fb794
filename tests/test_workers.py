"""Decoders in processes of their own: what they give, and what their crashes and hangs leave unharmed."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import simplejpeg

from tests import clips
from tests.clips import MemoryReader
from tests.mounting import wait_for_end, wait_until
from vfs.errors import AccessDenied, UndecodableVideo
from vfs.video import stamp, workers
from vfs.video.form import Form
from vfs.video.index import read_index
from vfs.video.process import Process
from vfs.video.workers import Encoded, Footage, Workers

JPEG = Form("jpg", 192, 128)
FRAMES = 48


class Bytes(MemoryReader):
    """A clip in memory as the bytes of a footage; `fetches` are reads of a place of their own."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.fetches: list[tuple[int, int]] = []

    def fetch(self, start: int, length: int) -> bytes:
        self.fetches.append((start, length))
        return self.read(start, length)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clips.make_clip(tmp_path_factory.mktemp("workers") / "clip.mp4").read_bytes()


@pytest.fixture
def pool() -> Iterator[Workers]:
    pool = Workers()
    yield pool
    pids = pool.processes()
    pool.close()
    assert all(wait_for_end(pid, 10) for pid in pids)


def footage(data: bytes, name: str = "clip", *, known: bool = True) -> Footage:
    index = read_index(MemoryReader(data), name) if known else None
    return Footage(f"identity of {name}", name, Bytes(data), index)


def ask(pool: Workers, of: Footage, frames: Any, *, urgent: bool = True) -> list[Future[Encoded]]:
    return pool.pictures(of, JPEG, frames, list(frames), urgent=urgent)


def number_in(answer: Future[Encoded]) -> int:
    encoded = answer.result(30)
    assert len(encoded.file) == JPEG.size_bytes
    assert not any(encoded.file[encoded.used_bytes :])
    return stamp.read(simplejpeg.decode_jpeg(encoded.file))


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str, when: str) -> None:
    """From now on, processes do `fault` when they are asked for a frame for which `when` is true."""
    plain = Process.program

    def program(call: str) -> str:
        patch = (
            "import ctypes, os, time; from vfs.video.decode import Decoder; frame = Decoder.frame\n"
            "def broken(self, n, **more):\n"
            f"    name = self._name\n    if {when}:\n        with self._slots: {fault}\n"
            "    return frame(self, n, **more)\nDecoder.frame = broken\n"
        )
        return plain(patch + call)

    monkeypatch.setattr(Process, "program", staticmethod(program))


CRASH = "ctypes.string_at(0)"


def test_frames_are_those_asked_for(pool: Workers, clip: bytes) -> None:
    answers = ask(pool, footage(clip), [5, 0, 47, 12, 11])
    assert [number_in(answer) for answer in answers] == [5, 0, 47, 12, 11]


def test_the_index_is_that_of_the_video_and_is_read_with_nothing_ahead(pool: Workers, clip: bytes) -> None:
    of = footage(clip, known=False)
    index = pool.index(of).result(30)
    right = read_index(MemoryReader(clip), "clip")
    assert (index.frame_count, index.pts.tolist(), index.extradata) == (FRAMES, right.pts.tolist(), right.extradata)
    assert len(of.bytes.reads) == len(of.bytes.fetches) > 0
    assert number_in(ask(pool, of, [9])[0]) == 9


def test_what_is_no_video_is_undecodable(pool: Workers) -> None:
    with pytest.raises(UndecodableVideo, match="rubbish: its first bytes are of no video"):
        pool.index(footage(b"x" * 5000, "rubbish", known=False)).result(30)


def test_failures_of_reading_come_out_as_they_were(pool: Workers, clip: bytes) -> None:
    of = footage(clip)

    def refuse(start: int, length: int) -> None:
        raise AccessDenied("the key has ended: renew it")

    of.bytes.before_read = refuse
    with pytest.raises(AccessDenied, match="the key has ended: renew it"):
        ask(pool, of, [9])[0].result(30)
    of.bytes.before_read = lambda start, length: None
    assert number_in(ask(pool, of, [9])[0]) == 9


def test_a_reader_that_waits_for_bytes_holds_up_no_other_video(pool: Workers, clip: bytes) -> None:
    slow, other = footage(clip, "slow"), footage(clip, "other")
    go_on = threading.Event()
    slow.bytes.before_read = lambda start, length: go_on.wait(30)
    waiting = [ask(pool, slow, [frame])[0] for frame in (5, 17)]
    assert number_in(ask(pool, other, [7])[0]) == 7
    assert not any(answer.done() for answer in waiting)
    go_on.set()
    assert [number_in(answer) for answer in waiting] == [5, 17]


def test_what_was_not_begun_can_be_dropped(pool: Workers, clip: bytes) -> None:
    of = footage(clip)
    go_on = threading.Event()
    of.bytes.before_read = lambda start, length: go_on.wait(30)
    answers = ask(pool, of, range(FRAMES), urgent=False)
    wait_until(lambda: of.bytes.fetches)
    pool.drop(of, answers[1:])
    wait_until(lambda: sum(answer.cancelled() for answer in answers) > FRAMES // 2)
    go_on.set()
    assert number_in(answers[0]) == 0
    assert [number_in(answer) for answer in answers if not answer.cancelled()]


def test_urgent_pictures_come_before_those_made_ahead(pool: Workers, clip: bytes, tmp_path: Path) -> None:
    # Each frame is a GOP of its own, and so a piece of work.
    keyframes = clips.make_clip(tmp_path / "c.mp4", gop=1, bframes=0).read_bytes()
    ahead, wanted = footage(keyframes, "ahead"), footage(clip, "wanted")
    go_on = threading.Event()
    ahead.bytes.before_read = lambda start, length: go_on.wait(30)
    late = ask(pool, ahead, range(FRAMES), urgent=False)
    threads_busy = wait_until(lambda: ahead.bytes.fetches)
    assert threads_busy
    order: list[str] = []
    soon = ask(pool, wanted, [3])[0]
    soon.add_done_callback(lambda _: order.append("wanted"))
    late[-1].add_done_callback(lambda _: order.append("ahead"))
    go_on.set()
    assert number_in(soon) == 3
    assert number_in(late[-1]) == FRAMES - 1
    assert order == ["wanted", "ahead"]


def test_a_process_that_is_killed_is_replaced_and_nobody_notices(pool: Workers, clip: bytes) -> None:
    of = footage(clip)
    assert number_in(ask(pool, of, [1])[0]) == 1
    (pid,) = pool.processes()
    answers = ask(pool, of, range(FRAMES))
    os.kill(pid, signal.SIGKILL)
    assert [number_in(answer) for answer in answers] == list(range(FRAMES))
    assert pool.restarts == 1
    assert pid not in pool.processes()


def test_a_frame_that_crashes_its_decoder_is_undecodable_and_all_others_come(
    monkeypatch: pytest.MonkeyPatch, pool: Workers, clip: bytes
) -> None:
    faulty(monkeypatch, CRASH, "name == 'bad' and n == 20")
    bad, good = footage(clip, "bad"), footage(clip, "good")
    answers = {name: ask(pool, of, range(FRAMES)) for name, of in (("bad", bad), ("good", good))}
    assert [number_in(answer) for answer in answers["good"]] == list(range(FRAMES))
    with pytest.raises(UndecodableVideo, match=r"bad: frame 20: the decoder's process died of SIGSEGV"):
        answers["bad"][20].result(60)
    rest = [answer for n, answer in enumerate(answers["bad"]) if n != 20]
    assert [number_in(answer) for answer in rest] == [n for n in range(FRAMES) if n != 20]


def test_a_video_that_crashed_a_decoder_is_kept_from_the_others_from_then_on(
    monkeypatch: pytest.MonkeyPatch, pool: Workers, clip: bytes
) -> None:
    faulty(monkeypatch, CRASH, "name == 'bad'")
    bad, good = footage(clip, "bad"), footage(clip, "good")
    with pytest.raises(UndecodableVideo):
        ask(pool, bad, [1])[0].result(30)
    assert number_in(ask(pool, good, [2])[0]) == 2
    serving = pool.processes()[0]
    for frame in (3, 4):
        with pytest.raises(UndecodableVideo):
            ask(pool, bad, [frame])[0].result(30)
    assert pool.processes()[0] == serving


def test_a_codec_that_does_not_come_back_is_ended(monkeypatch: pytest.MonkeyPatch, pool: Workers, clip: bytes) -> None:
    monkeypatch.setattr(workers, "_HUNG_S", 1.0)
    faulty(monkeypatch, "time.sleep(1000)", "name == 'bad' and n == 3")
    bad, good = footage(clip, "bad"), footage(clip, "good")
    hung = ask(pool, bad, [3])[0]
    assert number_in(ask(pool, good, [2])[0]) == 2
    with pytest.raises(UndecodableVideo, match="did not come back within 1 s"):
        hung.result(30)
    assert number_in(ask(pool, bad, [4])[0]) == 4


def test_a_process_that_cannot_begin_is_not_begun_for_ever(
    monkeypatch: pytest.MonkeyPatch, pool: Workers, clip: bytes
) -> None:
    monkeypatch.setattr(Process, "program", staticmethod(lambda call: "raise SystemExit(3)"))
    with pytest.raises(UndecodableVideo, match="again and again the decoder's process ended with status 3"):
        ask(pool, footage(clip), [1])[0].result(30)
    assert pool.restarts == workers._MOST_DEATHS


def test_closing_ends_the_process_and_fails_what_waits(clip: bytes) -> None:
    pool = Workers()
    of = footage(clip)
    go_on = threading.Event()
    of.bytes.before_read = lambda start, length: go_on.wait(30)
    answer = ask(pool, of, [1])[0]
    (pid,) = wait_until(pool.processes)
    wait_until(lambda: of.bytes.fetches)
    pool.close()
    go_on.set()
    with pytest.raises(UndecodableVideo, match="the mount is ending"):
        answer.result(30)
    assert wait_for_end(pid, 10)
    with pytest.raises(UndecodableVideo):
        ask(pool, of, [1])[0].result(30)


def test_the_process_holds_no_file_of_the_daemon_and_ends_with_it(tmp_path: Path) -> None:
    """Or a mount's descriptor in it would keep the mount from ending."""
    with (tmp_path / "held").open("wb") as held:
        pool = Workers()
        pool.warm()
        (pid,) = pool.processes()
        wait_until(lambda: "libavcodec" in Path(f"/proc/{pid}/maps").read_text())
        held_there = set()
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a module that was being imported
                held_there.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        assert held_there
        assert held.name not in held_there
        pool.close()
        assert wait_for_end(pid, 10)


def test_memory_beyond_all_pictures_is_refused_to_a_process(
    monkeypatch: pytest.MonkeyPatch, pool: Workers, clip: bytes
) -> None:
    faulty(monkeypatch, "bytearray(7 << 30)", "n == 3")
    of = footage(clip)
    with pytest.raises(UndecodableVideo, match="MemoryError"):
        ask(pool, of, [3])[0].result(30)
    assert number_in(ask(pool, of, [4])[0]) == 4
    assert pool.restarts == 0


def test_memory_is_given_back_when_nothing_is_asked_for_and_frames_come_all_the_same(
    pool: Workers, tmp_path: Path
) -> None:
    data = clips.make_clip(tmp_path / "large.mp4", size=(1280, 720), frames=40).read_bytes()
    of, form = footage(data), Form("jpg", 1280, 720)
    for answer in pool.pictures(of, form, range(40), range(40), urgent=True):
        answer.result(60)
    (pid,) = pool.processes()

    def resident_bytes() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    pool.rest()
    wait_until(lambda: resident_bytes() < before - (30 << 20))
    (again,) = pool.pictures(of, form, [7], [7], urgent=True)
    assert stamp.read(simplejpeg.decode_jpeg(again.result(30).file)) == 7
