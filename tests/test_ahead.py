"""Walks listed ahead: the same facts as the plain way, for how many requests, and what ends it."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.memorysource import MemoryBucket, MemorySource
from vfs.errors import NotFound, Unavailable
from vfs.sources import Listed, Paged, ahead
from vfs.sources.ahead import AheadSource

ODD = ["a", "a!", "a-", "a.", "a.txt", "a0", "b", "B", "c d", "é", "日本", "\U0001f600", "\ufffd", "x%2Fy", "~"]


@pytest.fixture
def opened() -> Iterator[list[AheadSource]]:
    sources: list[AheadSource] = []
    yield sources
    for source in sources:
        source.close()


def walk(source: AheadSource | MemoryBucket, folder: str = "") -> Iterator[tuple[str, list[Listed]]]:
    """Every folder below one with its entries in a fixed order, depth first, as ls -R, find and os.walk go."""
    entries = sorted(source.list(folder), key=lambda entry: (entry.name, entry.kind))
    yield folder, entries
    for entry in entries:
        if entry.kind == "dir":
            yield from walk(source, f"{folder}/{entry.name}" if folder else entry.name)


def tree(folders: int, files: int) -> dict[str, bytes]:
    return {f"d{n:04}/f{m:04}": b"x" for n in range(folders) for m in range(files)}


def random_keys(dice: random.Random) -> dict[str, bytes]:
    """Keys of few names, so that files, folders, markers and folders without a name meet each other."""
    names = dice.sample(ODD, dice.randint(2, 6))
    keys: dict[str, bytes] = {}
    for _ in range(dice.randint(1, 150)):
        parts = [dice.choice(names) for _ in range(dice.randint(1, 6))]
        if dice.random() < 0.1:
            parts.insert(dice.randrange(len(parts) + 1), "")
        keys["/".join(parts) + ("/" if dice.random() < 0.15 else "")] = b"x" * dice.randint(0, 9)
    return keys


@pytest.mark.parametrize("seed", range(150))
def test_every_folder_of_any_tree_is_listed_as_the_plain_way_does(opened: list[AheadSource], seed: int) -> None:
    dice = random.Random(seed)
    store = MemoryBucket(random_keys(dice), page_size=dice.choice([1, 2, 3, 7, 1000]))
    wanted = list(walk(store))
    opened.append(AheadSource(store))
    store.lists.clear()
    assert list(walk(opened[0])) == wanted


def test_most_folders_of_these_trees_are_listed_ahead(opened: list[AheadSource]) -> None:
    """The comparison above compares something."""
    asked = listed = 0
    for seed in range(40):
        store = MemoryBucket(random_keys(random.Random(seed)))
        opened.append(AheadSource(store))
        listed += len(list(walk(opened[-1])))
        asked += len(store.lists)
    assert asked < listed / 2


# -- how much is asked ---------------------------------------------------------------------------------------------


def test_a_walk_costs_about_a_request_a_thousand_objects(opened: list[AheadSource]) -> None:
    store = MemoryBucket(tree(400, 100))
    opened.append(AheadSource(store))
    assert sum(len(entries) for _, entries in walk(opened[0])) == 400 + 40_000
    assert store.lists == ["", "d0000"]
    assert 40 <= len(store.deeps) <= 60


def test_folders_larger_than_a_page_are_listed_ahead_too(opened: list[AheadSource]) -> None:
    store = MemoryBucket(tree(30, 250), page_size=100)
    opened.append(AheadSource(store))
    assert sum(len(entries) for _, entries in walk(opened[0])) == 30 + 7_500
    assert store.lists == ["", "d0000"]
    assert len(store.deeps) <= 120


def test_what_is_inside_a_large_folder_is_walked_in_parallel(opened: list[AheadSource]) -> None:
    store = MemoryBucket({f"{top}/{key}": b"" for top in ("a", "b") for key in tree(200, 50)}, page_size=100)
    opened.append(AheadSource(store))
    assert sum(len(entries) for _, entries in walk(opened[0])) == 2 + 400 + 20_000
    assert len(store.deeps) <= 300
    assert {folder for folder, _ in store.deeps} == {"a", "", "b"}


def test_two_folders_cost_what_the_second_holds_and_no_more(opened: list[AheadSource]) -> None:
    store = MemoryBucket({f"d{n}/sub{m}/{k}": b"" for n in range(9) for m in range(30) for k in range(100)})
    opened.append(AheadSource(store))
    for folder in ("", "d3", "d4"):
        list(opened[0].list(folder))
    settled(opened[0])
    assert len(store.deeps) <= 4


def test_a_walk_that_does_not_go_down_is_soon_left_alone(opened: list[AheadSource]) -> None:
    store = MemoryBucket({f"d{n:02}/sub{m}/{k}": b"" for n in range(20) for m in range(10) for k in range(500)})
    opened.append(AheadSource(store))
    for folder in ("", *(f"d{n:02}" for n in range(20))):
        list(opened[0].list(folder))
    settled(opened[0])
    assert len(store.deeps) <= 4


def test_folders_asked_for_in_any_order_are_no_walk(opened: list[AheadSource]) -> None:
    store = MemoryBucket(tree(100, 5))
    opened.append(AheadSource(store))
    for folder in ("", "d0090", "d0010", "d0050", "d0030", "d0020"):
        list(opened[0].list(folder))
    assert store.deeps == []


def test_the_next_page_of_a_large_folder_is_asked_for_before_it_is_wanted(opened: list[AheadSource]) -> None:
    store = MemoryBucket({f"{n:03}": b"" for n in range(250)}, page_size=100)
    opened.append(AheadSource(store))
    names = opened[0].list("")
    assert store.pages == []
    next(names)
    wait_until(lambda: len(store.pages) == 2)
    assert [entry.name for entry in names] == [f"{n:03}" for n in range(1, 250)]
    assert len(store.pages) == 3


def test_listing_ahead_pauses_when_nobody_takes_what_came(
    opened: list[AheadSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_MOST_HELD", 3_000)
    store = MemoryBucket(tree(1000, 20), page_size=100)
    opened.append(AheadSource(store))
    folders = walk(opened[0])
    for _ in range(200):
        next(folders)
    settled(opened[0])
    # What is held at the limit, and a page of each run that was under way then.
    assert opened[0]._entries_held <= 3_000 + 16 * 110
    assert len(store.deeps) < 100
    assert len(list(folders)) == 1001 - 200


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_what_waited_too_long_is_asked_for_again(opened: list[AheadSource]) -> None:
    now = [0.0]
    store = MemoryBucket(tree(10, 5))
    opened.append(AheadSource(store, clock=lambda: now[0]))
    folders = walk(opened[0])
    for _ in range(4):
        next(folders)
    settled(opened[0])
    store.objects["d0005/f0000"] = b"other"
    now[0] = 31.0
    assert next(iter(opened[0].list("d0005"))).object == store.info("d0005/f0000")
    assert "d0005" in store.lists


def test_a_listing_is_given_once(opened: list[AheadSource]) -> None:
    store = MemoryBucket(tree(10, 5))
    opened.append(AheadSource(store))
    assert len(list(walk(opened[0]))) == 11
    list(opened[0].list("d0005"))
    assert store.lists == ["", "d0000", "d0005"]


def test_a_failure_ahead_is_not_seen_and_the_store_is_asked_for_each_folder(
    opened: list[AheadSource], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: str, after: str) -> None:
        raise Unavailable("no flat lists here")

    store = MemoryBucket(tree(20, 5))
    store.before_deep = fail
    opened.append(AheadSource(store))
    with caplog.at_level("INFO"):
        assert len(list(walk(opened[0]))) == 21
    assert len(store.lists) == 21
    assert len(store.deeps) == 1
    assert "no flat lists here" in caplog.text


def test_a_failure_of_the_plain_way_is_the_callers(opened: list[AheadSource]) -> None:
    opened.append(AheadSource(MemoryBucket(tree(3, 3))))
    with pytest.raises(NotFound):
        list(opened[0].list("d0009"))


def test_a_flat_list_that_hangs_holds_nobody_up(opened: list[AheadSource], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_PATIENCE_S", 0.05)
    release = threading.Event()
    store = MemoryBucket(tree(4, 2))
    store.before_deep = lambda folder, after: void(release.wait(30))
    opened.append(AheadSource(store))
    assert len(list(walk(opened[0]))) == 5
    assert len(store.lists) == 5
    opened[0].close()
    release.set()
    settled(opened[0])


def test_eight_walkers_of_one_tree_see_the_same(opened: list[AheadSource]) -> None:
    keys = {f"t{t}/{key}": b"x" for t in range(4) for key in tree(40, 20)}
    store = MemoryBucket(keys, page_size=50)
    wanted = list(walk(store))
    opened.append(AheadSource(store))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: list(walk(opened[0])), range(8)):
            assert found == wanted


def test_a_source_without_flat_lists_passes_through(opened: list[AheadSource]) -> None:
    store = MemorySource(tree(10, 2))
    assert not isinstance(store, Paged)
    opened.append(AheadSource(store))
    assert len(list(walk(opened[0]))) == 11
    assert len(store.lists) == 11
    assert opened[0].stat("d0000/f0000") == store.info("d0000/f0000")
    assert opened[0].read(store.info("d0000/f0000"), 0, 1) == b"x"


def settled(source: AheadSource) -> None:
    """Waits until nothing is being listed ahead."""
    wait_until(lambda: source._running == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def void(_: object) -> None:
    """Nothing of it."""
