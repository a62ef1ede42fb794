"""Who has a picture made, who waits for it, and what is kept; the decoders are a stand-in that answers when told to."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vfs.video
from tests import clips
from tests.clips import MemoryReader
from tests.mounting import wait_until
from vfs.disk import Disk
from vfs.errors import AccessDenied, UndecodableVideo
from vfs.shelf import Pictures, VideoShelf
from vfs.video.form import Form
from vfs.video.index import VideoIndex, read_index
from vfs.video.workers import Encoded, Footage

FORM = Form("jpg", 64, 64)
ARRAY = Form("npy", 64, 64)


class StandIn:
    """Workers that note what they are asked, and answer at once or when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.waiting: dict[int, Future[Encoded]] = {}
        self.at_once = True
        self.indices = 0
        self.rested = threading.Event()
        self.index_of: VideoIndex | None = None

    def pictures(self, footage: Footage, form: Form, frames: Any, wanted: Any, *, urgent: bool) -> list[Any]:
        answers = []
        for frame in frames:
            self.asked.append((frame, urgent))
            answer: Future[Encoded] = Future()
            answers.append(answer)
            if self.at_once:
                self.give(answer, form, frame)
            else:
                self.waiting[frame] = answer
        return answers

    def give(self, answer: Future[Encoded], form: Form, frame: int) -> None:
        data = form.header + b"%05d" % frame
        answer.set_result(Encoded(memoryview(data.ljust(form.size_bytes, b"\0")), len(data)))

    def drop(self, footage: Footage, answers: Any) -> None:
        for answer in answers:
            answer.cancel()

    def index(self, footage: Footage) -> Future[Any]:
        self.indices += 1
        answer: Future[Any] = Future()
        answer.set_result(self.index_of)
        return answer

    def rest(self) -> None:
        self.rested.set()

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    workers = StandIn()
    vfs.video.load()
    monkeypatch.setattr(vfs.video, "Workers", lambda: workers)
    return workers


@pytest.fixture
def shelf(workers: StandIn) -> Iterator[VideoShelf]:
    shelf = VideoShelf(None)
    yield shelf
    shelf.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "objects", 64 << 20)
    yield disk
    disk.close()


def footage(identity: str = "a") -> Any:
    return SimpleNamespace(identity=identity, name=identity)


def pictures(shelf: VideoShelf, form: Form = FORM, identity: str = "a") -> Pictures:
    return shelf.pictures(footage(identity), form)


def frame_in(file: memoryview) -> int:
    return int(bytes(file[:5]))


def test_a_picture_is_made_once_and_then_at_hand(shelf: VideoShelf, workers: StandIn) -> None:
    of = pictures(shelf)
    assert shelf.at_hand(of, 7) is None
    assert frame_in(shelf.file(of, 7)) == frame_in(shelf.file(of, 7)) == 7
    at_hand = shelf.at_hand(of, 7)
    assert at_hand is not None
    assert len(at_hand) == FORM.size_bytes
    assert workers.asked == [(7, True)]


def test_who_comes_while_it_is_made_waits_for_the_same(shelf: VideoShelf, workers: StandIn) -> None:
    workers.at_once = False
    of = pictures(shelf)
    with ThreadPoolExecutor(8) as pool:
        files = [pool.submit(shelf.file, of, 7) for _ in range(8)]
        answer = wait_until(lambda: workers.waiting.get(7))
        workers.give(answer, FORM, 7)
        assert [frame_in(file.result(10)) for file in files] == [7] * 8
    assert workers.asked == [(7, True)]


def test_forms_and_videos_are_told_apart(shelf: VideoShelf, workers: StandIn) -> None:
    shelf.file(pictures(shelf), 7)
    shelf.file(pictures(shelf, ARRAY), 7)
    shelf.file(pictures(shelf, identity="b"), 7)
    shelf.file(pictures(shelf, Form("jpg", 64, 64)), 7)
    assert len(workers.asked) == 3


def test_a_failure_reaches_all_who_wait_and_is_not_kept(shelf: VideoShelf, workers: StandIn) -> None:
    workers.at_once = False
    of = pictures(shelf)
    with ThreadPoolExecutor(4) as pool:
        files = [pool.submit(shelf.file, of, 7) for _ in range(4)]
        wait_until(lambda: workers.waiting.get(7)).set_exception(UndecodableVideo("no"))
        for file in files:
            with pytest.raises(UndecodableVideo):
                file.result(10)
    workers.at_once = True
    assert frame_in(shelf.file(of, 7)) == 7


def test_what_is_made_ahead_is_made_once_and_no_more_urgently_than_that(shelf: VideoShelf, workers: StandIn) -> None:
    of = pictures(shelf)
    shelf.make_ahead(of, [3, 4, 5], [3, 4, 5])
    shelf.make_ahead(of, [4, 5, 6], [4, 5, 6])
    assert frame_in(shelf.file(of, 5)) == 5
    assert workers.asked == [(3, False), (4, False), (5, False), (6, False)]


def test_what_is_given_up_is_not_made_unless_somebody_waits(shelf: VideoShelf, workers: StandIn) -> None:
    workers.at_once = False
    of = pictures(shelf)
    shelf.make_ahead(of, [3, 4], [3, 4])
    with ThreadPoolExecutor(1) as pool:
        file = pool.submit(shelf.file, of, 4)
        wait_until(lambda: any(flight.waiters for flight in shelf._flights.values()))
        shelf.drop(of, [3, 4])
        assert workers.waiting[3].cancelled()
        workers.give(workers.waiting[4], FORM, 4)
        assert frame_in(file.result(10)) == 4
    workers.at_once = True
    assert frame_in(shelf.file(of, 3)) == 3


def test_who_comes_to_what_is_just_given_up_has_it_made(shelf: VideoShelf, workers: StandIn) -> None:
    workers.at_once = False
    of = pictures(shelf)
    shelf.make_ahead(of, [3], [3])
    first = workers.waiting[3]
    with ThreadPoolExecutor(1) as pool:
        file = pool.submit(shelf.file, of, 3)
        wait_until(lambda: any(flight.waiters for flight in shelf._flights.values()))
        first.cancel()
        workers.give(wait_until(lambda: workers.waiting[3] is not first and workers.waiting[3]), FORM, 3)
        assert frame_in(file.result(10)) == 3
    assert workers.asked == [(3, False), (3, True)]


def test_a_picture_on_disk_is_found_by_the_next_shelf(workers: StandIn, disk: Disk) -> None:
    for number in range(2):
        shelf = VideoShelf(disk)
        assert frame_in(shelf.file(pictures(shelf), 7)) == 7
        assert (shelf.frames_made, shelf.frames_from_disk) == ((1, 0), (0, 1))[number]
        disk.settle()
        shelf.close()


def test_arrays_are_not_kept_on_disk(workers: StandIn, disk: Disk) -> None:
    shelf = VideoShelf(disk)
    shelf.file(pictures(shelf, ARRAY), 7)
    disk.settle()
    assert disk.used_bytes() == 0
    shelf.close()


def test_an_index_is_asked_for_once_and_kept(
    workers: StandIn, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = clips.make_clip(tmp_path / "c.mp4", frames=20).read_bytes()
    workers.index_of = read_index(MemoryReader(data), "c")
    for _ in range(2):
        shelf = VideoShelf(disk)
        assert shelf.known_index("a") is None
        for _ in range(2):
            assert shelf.index(footage()).pts.tolist() == workers.index_of.pts.tolist()
        assert shelf.known_index("a") is not None
        disk.settle()
        shelf.close()
    assert workers.indices == 1
    monkeypatch.setattr("vfs.video.loads", lambda data: (_ for _ in ()).throw(ValueError("of another version")))
    shelf = VideoShelf(disk)
    shelf.index(footage())
    assert workers.indices == 2


def test_in_order_what_follows_is_made_ahead_by_another_thread(shelf: VideoShelf, workers: StandIn) -> None:
    series = shelf.series(pictures(shelf), "rule", range(1, 101), lambda number: 2 * (number - 1))
    for number in range(10, 20):
        series.observe(number)
    wait_until(lambda: len(workers.asked) >= 8)
    assert {frame for frame, _ in workers.asked} <= {2 * (number - 1) for number in range(12, 40)}
    assert not any(urgent for _, urgent in workers.asked)
    assert shelf.series(pictures(shelf), "rule", range(1, 101), lambda number: 0) is series


def test_pictures_are_made_ahead_in_equal_shares_of_those_who_read(shelf: VideoShelf) -> None:
    first, second = (shelf.series(pictures(shelf, identity=name), "", range(1, 10), int) for name in "ab")
    assert shelf.most_ahead(first, 4 << 20) == 16
    assert shelf.most_ahead(second, 4 << 20) == 8
    assert shelf.most_ahead(first, 4 << 20) == 8
    assert shelf.most_ahead(first, 100 << 20) == 0


def test_a_failure_of_making_ahead_ends_nothing(shelf: VideoShelf, workers: StandIn, caplog: Any) -> None:
    done = threading.Event()

    def fail() -> None:
        raise AccessDenied("no key")

    def break_down() -> None:
        raise RuntimeError("a bug")

    with caplog.at_level("INFO"):
        for errand in (fail, break_down, done.set):
            shelf.later(errand)
        assert done.wait(10)
    assert "no key" in caplog.text
    assert "a bug in making frames ahead" in caplog.text
    caplog.clear()


def test_a_closed_shelf_makes_nothing(workers: StandIn) -> None:
    shelf = VideoShelf(None)
    shelf.close()
    with pytest.raises(UndecodableVideo, match="the mount is ending"):
        shelf.file(pictures(shelf), 7)


def test_after_a_while_without_a_reader_memory_is_given_back(
    shelf: VideoShelf, workers: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.shelf._REST_S", 0.2)
    of = pictures(shelf)
    shelf.file(of, 7)
    assert workers.rested.wait(10)
    assert shelf.at_hand(of, 7) is None
    assert frame_in(shelf.file(of, 7)) == 7
