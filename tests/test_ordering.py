"""Orders over a source in memory: what is fetched, how far ahead, and how often."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clips import make_clip
from tests.memorysource import MemorySource
from tests.mounting import wait_until
from tests.nodes import Nodes
from vfs import orderwindow
from vfs.cache import MEMORY_BYTES, ChunkCache
from vfs.datasets.plain import PlainTree
from vfs.errors import AccessDenied, EgofsError, OptionError
from vfs.mounted import MountedDataset
from vfs.ordering import Order, Orders
from vfs.orderlist import Base

SIZE = 50_000
NOISE = random.Random(2).randbytes(8 << 20)
BASE = Base("", ("/m",))


def objects(count: int) -> dict[str, bytes]:
    return {f"train/{number:05d}.jpg": NOISE[number : number + SIZE] for number in range(count)}


class Stand:
    """A mounted source whose readers are this test."""

    def __init__(self, source: MemorySource, folder: Path | None, tmp_path: Path) -> None:
        self.source = source
        self.cache = ChunkCache(folder, 1 << 30)
        self.mounted = MountedDataset(
            PlainTree(source), source, self.cache, None, space="", listing_age_s=1000, disk=self.cache.disk
        )
        self.nodes = Nodes(self.mounted)
        self.orders = Orders(self.mounted, self._watch)
        self.watcher: Orders | None = None
        self.begun: list[Order] = []
        self._file = tmp_path / "list"

    def _watch(self, orders: Orders | None) -> None:
        self.watcher = orders

    def order(self, lines: list[str], *, follows: bool = True, ahead_bytes: int | None = None) -> Order:
        """Begins one, of a file of its own."""
        self._file.write_text("\n".join(lines) + "\n")
        descriptor = os.open(self._file, os.O_RDONLY)
        self.begun.append(self.orders.begin(descriptor, BASE, follows=follows, ahead_bytes=ahead_bytes))
        return self.begun[-1]

    def read(self, path: str) -> bytes:
        """Opens a file as a reader does, who is heard of."""
        if self.watcher is not None:
            self.watcher.opened(path)
        return self.nodes.read(path)

    def reads(self) -> list[str]:
        """The keys that the source was asked for."""
        return [key for key, _, _ in self.source.reads]

    def close(self) -> None:
        for order in self.begun:
            order.close()
        self.mounted.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    made: list[Stand] = []

    def make(source: MemorySource, folder: Path | None = tmp_path / "cache") -> Stand:
        made.append(Stand(source, folder, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "order"])


def settled(order: Order, **facts: Any) -> dict[str, Any]:
    """The facts, once these of them are so."""
    wait_until(lambda: all(order.facts()[name] == value for name, value in facts.items()))
    return order.facts()


def shuffled(keys: Any, seed: int = 0) -> list[str]:
    keys = list(keys)
    random.Random(seed).shuffle(keys)
    return keys


def test_a_shuffled_epoch_waits_for_nothing_and_fetches_each_byte_once(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(400))
    under_test = stand(source)
    order = shuffled(source.objects)
    begun = under_test.order(order)
    settled(begun, ahead_lines=400)
    for key in order:
        assert under_test.read(key) == source.objects[key]
    assert begun.wait(10)
    facts = begun.facts()
    assert (facts["read"], facts["hits"], facts["line"], facts["lines"]) == (400, 400, 400, 400)
    assert (facts["ahead_lines"], facts["ahead_bytes"]) == (0, 0)
    assert facts["fetched_bytes"] == 400 * SIZE
    assert under_test.cache.counters.misses == 0
    assert sorted(under_test.reads()) == sorted(order)


def test_nothing_more_is_fetched_ahead_of_a_reader_who_stands_still(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(400))
    under_test = stand(source)
    order = shuffled(source.objects)
    begun = under_test.order(order, ahead_bytes=100 * SIZE)
    settled(begun, ahead_lines=100)
    wait_until(lambda: len(under_test.reads()) >= 100)  # those under way count as ahead
    under_test.cache.settle()
    assert sorted(under_test.reads()) == sorted(order[:100])
    for key in order[:50]:
        under_test.read(key)
    settled(begun, line=50)
    wait_until(lambda: begun.facts()["ahead_lines"] >= 100 * 7 // 8)
    under_test.cache.settle()
    reads = under_test.reads()
    assert 50 + 100 * 7 // 8 <= len(reads) <= 150
    assert sorted(reads) == sorted(order[: len(reads)])


def test_what_is_ahead_fits_into_memory_by_itself(stand: Callable[..., Stand]) -> None:
    under_test = stand(MemorySource(objects(1)))
    first = under_test.order(["train/00000.jpg"])
    assert first._window.room.file_bytes <= MEMORY_BYTES // 2
    second = under_test.order(["train/00000.jpg"])
    assert first._window.room.file_bytes + second._window.room.file_bytes <= MEMORY_BYTES // 2


def test_without_a_disk_no_more_is_held_than_memory_has_room_for(stand: Callable[..., Stand]) -> None:
    under_test = stand(MemorySource(objects(1)), None)
    begun = under_test.order(["train/00000.jpg"], ahead_bytes=1 << 40)
    assert begun._window.room.most_file_bytes <= MEMORY_BYTES // 2


def test_what_was_fetched_ahead_is_there_after_a_pause_of_the_reader(
    stand: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.cache._IDLE_S", 0.05)
    source = MemorySource(objects(20))
    under_test = stand(source, None)
    begun = under_test.order(list(source.objects))
    settled(begun, ahead_lines=20)
    threading.Event().wait(0.3)
    for key in source.objects:
        under_test.read(key)
    assert len(source.reads) == 20


def test_a_reader_in_another_order_gets_its_bytes_and_each_is_fetched_once(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(300))
    under_test = stand(source)
    begun = under_test.order(shuffled(source.objects, 1), ahead_bytes=50 * SIZE)
    for key in shuffled(source.objects, 2):
        assert under_test.read(key) == source.objects[key]
    under_test.cache.settle()
    wait_until(lambda: begun.facts()["done"] + begun.facts()["read"] >= 300)
    assert sorted(under_test.reads()) == sorted(source.objects)


def test_a_reader_who_begins_at_a_checkpoint_far_down_the_list_is_found_there(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(300))
    under_test = stand(source)
    lines = [*[f"train/none{number}" for number in range(40_000)], *shuffled(source.objects)]
    begun = under_test.order(lines)
    for key in lines[40_000:40_050]:
        under_test.read(key)
    settled(begun, jumps=1)
    wait_until(lambda: len(under_test.reads()) >= 300)  # all that are left are at hand
    under_test.cache.settle()
    for key in lines[40_050:]:
        under_test.read(key)
    facts = settled(begun, line=40_300)
    assert facts["hits"] >= 250
    assert sorted(under_test.reads()) == sorted(source.objects)


def test_a_million_lines_begin_at_once_and_some_thousand_are_looked_up(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(100))
    under_test = stand(source)
    looked: list[str] = []
    entry = under_test.mounted.sizes.entry
    catalog_entry = under_test.mounted.catalog.entry
    under_test.mounted.sizes.entry = lambda f, n: looked.append(n) or entry(f, n)  # type: ignore[method-assign,func-returns-value]
    under_test.mounted.catalog.entry = lambda f, n: looked.append(n) or catalog_entry(f, n)  # type: ignore[method-assign,func-returns-value]
    keys = list(source.objects)
    begun = under_test.order([keys[n % 100] for n in range(1_000_000)])
    facts = settled(begun, lines=1_000_000)
    wait_until(lambda: begun.facts()["ahead_lines"] > 500)
    held = begun.facts()["ahead_lines"]
    assert held <= 4096
    assert len(looked) <= held + 100
    assert begun._window.waiting <= 40_000
    assert facts["failed"] == 0
    assert len(source.reads) == 100


def test_lines_that_lead_nowhere_are_counted_and_named_and_the_rest_is_fetched(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(3))
    under_test = stand(source)
    begun = under_test.order(
        ["train/none.jpg", "train", "train/00000.jpg", "/etc/passwd", "train/00001.jpg/x", "train/00002.jpg\t1"],
        follows=False,
    )
    assert begun.wait(10)
    facts = begun.facts()
    assert (facts["lost"], facts["done"], facts["failed"]) == (5, 1, 0)
    assert {number for number, _, _ in facts["named"]} == {1, 2, 4, 5, 6}
    assert under_test.reads() == ["train/00000.jpg"]


def test_an_order_of_no_line_fails(stand: Callable[..., Stand]) -> None:
    begun = stand(MemorySource(objects(3))).order(["# nothing", ""])
    assert begun.wait(10)
    assert isinstance(begun.failure, OptionError)
    assert "no line" in str(begun.failure)


def test_an_order_without_a_reader_fetches_all_of_it_in_its_order(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(300))
    under_test = stand(source)
    order = shuffled(source.objects)
    begun = under_test.order(order, follows=False)
    assert begun.wait(20)
    assert begun.facts()["done"] == 300
    assert sorted(under_test.reads()) == sorted(order)
    places = {key: place for place, key in enumerate(under_test.reads())}
    # Side by side by so many threads as there are, of which one may be held up.
    assert sum(abs(places[key] - place) for place, key in enumerate(order)) < 48 * 300


def test_an_order_of_what_is_on_disk_asks_the_store_for_nothing(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(50))
    first = stand(source)
    assert first.order(list(source.objects), follows=False).wait(10)
    first.close()
    second = stand(source)
    assert second.order(list(source.objects), follows=False).wait(10)
    assert len(source.reads) == 50


def test_a_full_cache_ends_an_order_without_a_reader(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(200))
    under_test = stand(source)
    assert under_test.cache.disk is not None
    under_test.cache.disk.limit_bytes = 50 * SIZE
    begun = under_test.order(list(source.objects), follows=False)
    assert begun.wait(10)
    assert begun.facts()["full"]
    assert len(source.reads) <= 50 + 48


def test_ranges_are_fetched_by_themselves(stand: Callable[..., Stand]) -> None:
    block = 128 << 10
    source = MemorySource({"shard": NOISE})
    under_test = stand(source)
    places = random.Random(4).sample(range(len(NOISE) // block), 20)
    begun = under_test.order([f"shard\t{place * block}\t{block}" for place in places])
    settled(begun, ahead_lines=20)
    assert sorted(start // block for _, start, _ in source.reads) == sorted(places) or (
        sum(length for _, _, length in source.reads) == 20 * block
    )
    reader = under_test.nodes / "shard"
    assert under_test.watcher is not None
    assert under_test.watcher.wants_reads
    file = reader.open()  # type: ignore[attr-defined]
    for place in places:
        under_test.watcher.read("shard", place * block, block)
        assert bytes(file.read(place * block, block)) == NOISE[place * block :][:block]
    assert begun.wait(10)
    assert begun.facts()["hits"] == 20
    assert under_test.cache.counters.misses == 0


def test_a_store_that_refuses_ends_an_order_without_a_reader(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(300))
    under_test = stand(source)

    def refuse() -> None:
        raise AccessDenied("no")

    source.before_read = refuse
    begun = under_test.order(list(source.objects), follows=False)
    assert begun.wait(10)
    assert isinstance(begun.failure, EgofsError)
    assert len(source.reads) < 200


def test_an_order_that_was_ended_fetches_nothing_more_and_nobody_listens(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(400))
    under_test = stand(source)
    order = shuffled(source.objects)
    begun = under_test.order(order, ahead_bytes=20 * SIZE)
    settled(begun, ahead_lines=20)
    begun.close()
    assert under_test.watcher is None
    for key in order[:20]:
        under_test.read(key)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "order"])
    assert len(source.reads) == 20


def test_two_orders_are_followed_side_by_side(stand: Callable[..., Stand]) -> None:
    source = MemorySource(objects(200))
    under_test = stand(source)
    keys = list(source.objects)
    first, second = under_test.order(keys[:100]), under_test.order(keys[100:])
    settled(first, ahead_lines=100)
    settled(second, ahead_lines=100)
    for one, other in zip(keys[:100], keys[100:], strict=True):
        under_test.read(one)
        under_test.read(other)
    assert first.wait(10)
    assert second.wait(10)
    assert first.facts()["hits"] == second.facts()["hits"] == 100


# -- pictures


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(path, frames=60, options={"g": "20", "bf": "2"})
    return path.read_bytes()


def pictures(*numbers: int) -> list[str]:
    return [f"frames/clip/{number:06d}.jpg" for number in numbers]


def test_pictures_are_made_ahead_and_none_of_them_twice(stand: Callable[..., Stand], clip: bytes) -> None:
    under_test = stand(MemorySource({"clip.mp4": clip}))
    order = shuffled(range(1, 61))
    begun = under_test.order(pictures(*order))
    settled(begun, done=60)
    assert under_test.mounted.shelf.frames_made == 60
    for number, path in zip(order, pictures(*order), strict=True):
        assert under_test.watcher is not None
        under_test.watcher.opened(path)
        assert under_test.nodes.number(path) == number - 1
    assert begun.wait(10)
    facts = begun.facts()
    assert (facts["hits"], facts["made"], facts["ahead_bytes"]) == (60, 60, 0)
    assert under_test.mounted.shelf.frames_made == 60


def test_no_more_pictures_are_made_than_there_is_room_for(stand: Callable[..., Stand], clip: bytes) -> None:
    under_test = stand(MemorySource({"clip.mp4": clip}))
    path = pictures(1)[0]
    size = (under_test.nodes / path).attributes.size_bytes
    begun = under_test.order(pictures(*range(1, 61)), ahead_bytes=10 * size)
    wait_until(lambda: begun.facts()["done"] >= 10)
    threading.Event().wait(0.2)
    # What was found out while others were is a line a thread.
    assert under_test.mounted.shelf.frames_made <= 10 + 48
    assert begun.facts()["ahead_bytes"] <= (10 + 48) * size


def test_the_parts_of_a_clip_are_made_ahead(stand: Callable[..., Stand], clip: bytes) -> None:
    under_test = stand(MemorySource({"clip.mp4": clip}))
    begun = under_test.order(["frames/clip/10-50.npy"])
    settled(begun, done=1)
    made = under_test.mounted.shelf.frames_made
    assert made == 40
    under_test.read("frames/clip/10-50.npy")
    assert under_test.mounted.shelf.frames_made == made


def test_pictures_on_disk_are_not_made_again(stand: Callable[..., Stand], clip: bytes) -> None:
    source = MemorySource({"clip.mp4": clip})
    first = stand(source)
    assert first.order(pictures(*range(1, 31)), follows=False).wait(20)
    assert first.mounted.shelf.frames_made == 30
    first.close()
    second = stand(source)
    before = len(source.reads)
    assert second.order(pictures(*range(1, 31)), follows=False).wait(20)
    assert second.mounted.shelf.frames_made == 0
    assert len(source.reads) == before


def test_a_video_that_cannot_be_decoded_fails_its_lines_alone(stand: Callable[..., Stand], clip: bytes) -> None:
    under_test = stand(MemorySource({"clip.mp4": clip, "bad.mp4": b"no video" * 100}))
    begun = under_test.order([*pictures(1, 2), "frames/bad/000001.jpg", *pictures(3)], follows=False)
    assert begun.wait(20)
    facts = begun.facts()
    assert facts["done"] == 3
    assert facts["lost"] + facts["failed"] == 1
    assert under_test.mounted.shelf.frames_made == 3


def test_windows_are_as_far_apart_as_a_loader_needs() -> None:
    # 8 workers with two batches of 64 under way each.
    assert orderwindow._LAG >= 8 * 2 * 64
