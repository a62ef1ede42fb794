"""Sizes that a manifest does not tell: what they cost, and what is shown when the store has something else."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.memorysource import MemorySource
from tests.mounting import wait_until
from vfs import sizes as sizes_module
from vfs.cache import ChunkCache
from vfs.catalog import Catalog, Entry, Tree
from vfs.datasets import Dataset
from vfs.errors import AccessDenied, Changed, NotFound, Unavailable
from vfs.frames import FrameRule
from vfs.mounted import FolderNode, LinkNode, MountedDataset, ObjectNode
from vfs.node import Kind, NotAtHand
from vfs.sizes import Sizes
from vfs.sources import UNKNOWN_SIZE, Listed, ObjectInfo

PLACES = ("cmu/v2", "iiith/v2", "unc/v2")


def named(key: str, name: str = "", size: int = UNKNOWN_SIZE) -> Entry:
    """A file as a manifest tells it."""
    return Entry(name or key.rpartition("/")[2], Kind.FILE, ObjectInfo(key, size, 0, ""))


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"{PLACES[n % 3]}/{n:03d}": b"x" * n for n in range(300)})


class Asked:
    """A catalog of one folder that names objects of a source, and what asks for their sizes."""

    def __init__(self, source: MemorySource, entries: list[Entry] | None = None, file: Path | None = None) -> None:
        self.source = source
        all_of_them = [named(key) for key in sorted(source.objects, key=lambda key: key.rpartition("/")[2])]
        self.catalog = Catalog(file, "s", lambda path: iter(all_of_them if entries is None else entries), 1000)
        self.catalog.folder("")
        self.sizes = Sizes(source, self.catalog)

    def size(self, name: str) -> int:
        obj = self.sizes.entry("", name).object
        assert obj is not None
        assert obj.version
        return obj.size_bytes

    def all(self) -> list[int]:
        """As `ls -l` asks: one after the other, in the order of names."""
        return [self.size(os.fsdecode(name)) for name, *_ in self.catalog.children("")]

    def close(self) -> None:
        self.sizes.close()
        self.catalog.close()


@pytest.fixture
def asking(source: MemorySource) -> Iterator[Callable[..., Asked]]:
    made: list[Asked] = []

    def make(*arguments: object, **more: object) -> Asked:
        made.append(Asked(source, *arguments, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def refuse() -> None:
    raise AccessDenied("you may not list")


def test_all_sizes_of_a_folder_cost_a_listing_of_each_folder_of_the_source(source, asking, tmp_path) -> None:
    asked = asking(file=tmp_path / "c.sqlite")
    assert asked.all() == [*range(300)]
    assert sorted(source.lists) == list(PLACES)
    again = asking(file=tmp_path / "c.sqlite")
    assert again.all() == [*range(300)]
    assert (len(source.lists), source.stats) == (3, [])


def test_where_listing_is_refused_each_object_is_asked_for_once_and_never_again(source, asking, tmp_path) -> None:
    source.before_list = refuse
    assert asking(file=tmp_path / "c.sqlite").all() == [*range(300)]
    assert sorted(source.lists) == list(PLACES)
    assert sorted(source.stats) == sorted(source.objects)
    assert asking(file=tmp_path / "c.sqlite").all() == [*range(300)]
    assert (len(source.lists), len(source.stats)) == (3, 300)


def test_the_wanted_object_is_asked_for_first_and_then_those_that_follow_it(source, asking) -> None:
    source.before_list = refuse
    asked = asking()
    assert asked.size("100") == 100
    asked.sizes.close()
    assert source.stats[0].endswith("/100")
    assert {int(key[-3:]) for key in source.stats} <= {*range(100, 100 + 3 * 64)}


def test_many_who_ask_at_once_cause_no_more_requests(source, asking) -> None:
    asked = asking()
    threads = [threading.Thread(target=asked.all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(source.lists) == list(PLACES)
    assert source.stats == []


def test_whoever_wants_one_object_does_not_wait_for_another_bucket(source, asking) -> None:
    stuck = threading.Event()

    def wait_elsewhere() -> None:
        if source.lists[-1] != PLACES[0]:
            stuck.wait(20)

    source.before_list = wait_elsewhere
    assert asking().size("003") == 3
    stuck.set()


def test_a_single_object_of_a_folder_is_asked_for_by_itself(source, asking) -> None:
    asked = asking([named(f"{PLACES[0]}/000"), named(f"{PLACES[1]}/001"), named(f"{PLACES[2]}/002")])
    assert asked.all() == [0, 1, 2]
    assert source.lists == []
    assert sorted(source.stats) == [f"{PLACES[n]}/00{n}" for n in range(3)]


def test_a_listing_that_goes_on_and_on_is_given_up_for_good(source, asking, monkeypatch) -> None:
    monkeypatch.setattr(sizes_module, "_BEYOND_NAMES", 10)
    monkeypatch.setattr(sizes_module, "_BEYOND_EACH", 1)
    source.objects = {f"a/{n:03d}": b"x" for n in range(300)}
    asked = asking([named("a/150"), named("a/200"), named("a/005")])
    assert asked.all() == [1, 1, 1]
    assert source.lists == ["a"]
    assert sorted(source.stats) == ["a/150", "a/200"]


def test_a_listing_ends_when_all_that_is_wanted_is_known(source, asking) -> None:
    taken: list[Listed] = []
    real = source.list

    def watched(folder: str) -> Iterator[Listed]:
        for each in real(folder):
            taken.append(each)
            yield each

    source.list = watched  # type: ignore[method-assign]
    assert asking([named("cmu/v2/000"), named("cmu/v2/003")]).all() == [0, 3]
    assert len(taken) == 2


def test_what_the_store_does_not_have_is_left_out_and_named(source, asking, caplog) -> None:
    asked = asking([named("cmu/v2/000"), named("cmu/v2/gone"), named("nowhere/a"), named("nowhere/b"), named("one/c")])
    for name in ("gone", "a", "b", "c"):
        with pytest.raises(NotFound):
            asked.sizes.entry("", name)
    assert [name for name, *_ in asked.catalog.children("")] == [b"000"]
    for key in ("cmu/v2/gone", "nowhere/a, nowhere/b", "one/c"):
        assert key in caplog.text


def test_one_object_under_two_names_is_learnt_under_both(source, asking) -> None:
    asked = asking([named("cmu/v2/003", "a.mp4"), named("cmu/v2/003", "b.mp4"), named("cmu/v2/006", "c.mp4")])
    assert asked.all() == [3, 3, 6]
    assert source.lists == ["cmu/v2"]


def test_names_need_not_be_those_of_the_keys(source, asking) -> None:
    asked = asking([named("cmu/v2/003", "é.mp4"), named("cmu/v2/006", "\udcff.mp4")])
    assert sorted(asked.all()) == [3, 6]


def test_a_store_that_is_down_is_an_error_and_is_asked_again_later(source, asking) -> None:
    def fail(key: str = "") -> None:
        raise Unavailable("down")

    source.before_list, source.before_stat = fail, fail  # type: ignore[assignment]
    asked = asking()
    with pytest.raises(Unavailable, match="down"):
        asked.size("001")
    source.before_list = lambda: None
    wait_until(lambda: not asked.sizes._coming)
    assert asked.all() == [*range(300)]


def test_refused_objects_cost_no_more_than_a_few_requests_each_and_hide_no_others(source, asking) -> None:
    def refuse_some(key: str) -> None:
        if int(key[-3:]) % 10 == 0:
            raise AccessDenied(key)

    source.before_list, source.before_stat = refuse, refuse_some
    asked = asking()
    for n in range(300):
        if n % 10:
            assert asked.size(f"{n:03d}") == n
        else:
            with pytest.raises(AccessDenied):
                asked.size(f"{n:03d}")
    others = [key for key in source.stats if int(key[-3:]) % 10]
    assert len(others) == len(set(others)) == 270
    before = len(source.stats)
    source.before_stat = lambda key: refuse()  # the keys have ended
    for n in range(0, 300, 10):
        with pytest.raises(AccessDenied):
            asked.size(f"{n:03d}")
    assert len(source.stats) - before <= 30 + 64


def test_after_the_end_nothing_is_asked_and_who_waits_hears_of_it(source, asking) -> None:
    asked = asking()
    asked.sizes.close()
    with pytest.raises(Unavailable):
        asked.size("001")
    assert source.lists == []


class Manifest(Dataset):
    """A dataset of one manifest: `takes/` has a link and a video, `all/` has everything."""

    name = "manifest"
    listing_age_s = 1000.0

    def __init__(self, entries: list[tuple[str, Entry]]) -> None:
        self.told = entries
        self.asked = 0

    def check(self) -> None:
        pass

    def entries(self, folder: str) -> Tree:
        self.asked += 1
        return Tree(iter(self.told))

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        return FrameRule(None, 0, "{number}.jpg")

    def facts(self, folder: str, name: str) -> dict[str, str]:
        return {}


def mount(source: MemorySource, dataset: Dataset) -> MountedDataset:
    return MountedDataset(dataset, source, ChunkCache(None, 0), None, space="s", listing_age_s=1000, show_frames=True)


def found(mounted: MountedDataset, path: str) -> ObjectNode:
    """A file of the mounted tree as ops finds it: at hand, or else in a thread."""
    node = mounted.root
    for part in path.split("/"):
        here = node.at_hand()
        assert here is not None
        try:
            node = here.lookup(part)  # type: ignore[assignment]
        except NotAtHand:
            node = node.lookup(part)  # type: ignore[assignment]
    assert isinstance(node, ObjectNode)
    return node


def test_a_known_folder_is_at_hand_but_for_the_names_whose_sizes_are_not_known(source) -> None:
    video, link = named("cmu/v2/009", "v.mp4"), Entry("l.mp4", Kind.LINK, target="v.mp4", is_video=True)
    mounted = mount(source, Manifest([("a", named("cmu/v2/003", size=3)), ("a", link), ("a", video)]))
    here = mounted.root.lookup("a").at_hand()
    assert isinstance(here, FolderNode)
    assert isinstance(here.lookup("003"), ObjectNode)
    assert isinstance(here.lookup("l.mp4"), LinkNode)
    assert {name: size for name, _, _, size, _ in here.children()} == {
        b"003": 3,
        b"l.mp4": 5,
        b"v.mp4": -1,
        b"frames": 0,
    }
    with pytest.raises(NotAtHand):
        here.lookup("v.mp4")
    assert (source.lists, source.stats) == ([], [])
    assert found(mounted, "a/v.mp4").attributes.size_bytes == 9
    node = here.lookup("v.mp4")
    assert node.version == source.info("cmu/v2/009").identity
    assert source.stats == ["cmu/v2/009"]
    mounted.close()


def test_names_of_frames_ask_for_no_size_and_a_video_that_is_looked_into_for_its_own(source) -> None:
    entries = [
        ("v2", Entry(f"{n:03d}.mp4", Kind.FILE, named(f"{PLACES[n % 3]}/{n:03d}").object, "", True)) for n in range(9)
    ]
    mounted = mount(source, Manifest([*entries, ("views", Entry("x.mp4", Kind.LINK, None, "../v2/004.mp4", True))]))
    assert len(list(mounted.root.lookup("v2").lookup("frames").children())) == 9  # type: ignore[attr-defined]
    frames = mounted.root.lookup("views").lookup("frames")  # type: ignore[attr-defined]
    assert [name for name, *_ in frames.children()] == [b"x"]
    assert (source.lists, source.stats) == ([], [])
    frames.lookup("x")
    assert mounted.catalog.entry("v2", "004.mp4").object == source.info("iiith/v2/004")
    mounted.close()


@pytest.mark.parametrize("there", [b"longer than it was told", b"short"])
def test_an_object_of_another_size_than_was_told_is_stale_and_right_when_it_is_opened_again(source, there) -> None:
    source.objects["k/a"] = there
    dataset = Manifest([("", named("k/a", size=9))])
    mounted = mount(source, dataset)
    node = found(mounted, "a")
    before = mounted.catalog.folder("")
    with pytest.raises(Changed):
        node.open().read(0, 9)
    assert source.stats == ["k/a"]
    again = found(mounted, "a")
    assert (again.attributes.size_bytes, again.version) == (len(there), source.info("k/a").identity)
    assert again.tag != node.tag
    assert bytes(again.open().read(0, 100)) == there
    assert mounted.catalog.folder("") != before  # frames of the old one are not used any more
    assert dataset.asked == 1
    mounted.close()


def test_an_object_of_the_told_size_is_read_without_further_questions(source) -> None:
    source.objects["k/a"] = b"123456789"
    mounted = mount(source, Manifest([("", named("k/a", size=9))]))
    assert bytes(found(mounted, "a").open().read(2, 4)) == b"3456"
    assert (source.stats, source.lists) == ([], [])
    mounted.close()


def test_an_object_that_is_replaced_after_its_size_was_learnt_does_not_have_the_manifest_read_again(source) -> None:
    source.objects["k/a"] = b"old"
    dataset = Manifest([("", named("k/a")), ("", named("k/b", size=1))])
    mounted = mount(source, dataset)
    node = found(mounted, "a")
    source.objects["k/a"] = b"newer"
    with pytest.raises(Changed):
        node.open().read(0, 3)
    node = found(mounted, "a")
    assert node.attributes.size_bytes == 5
    del source.objects["k/a"]
    with pytest.raises(Changed):
        node.open().read(0, 5)
    with pytest.raises(NotFound):
        found(mounted, "a")
    assert dataset.asked == 1
    mounted.close()


def test_a_source_whose_listings_tell_no_sizes_is_listed_once_to_learn_that() -> None:
    """As index pages of web servers are."""

    class Pages(MemorySource):
        def list(self, folder: str) -> Iterator[Listed]:
            for entry in super().list(folder):
                told = entry.object and ObjectInfo(entry.object.key, UNKNOWN_SIZE, 0, "")
                yield Listed(entry.name, entry.kind, told)

    source = Pages({f"{place}/{n:02d}": b"x" * n for place in PLACES for n in range(20)})
    asked = Asked(source, [named(f"{place}/{n:02d}", f"{place[:3]}-{n:02d}") for place in PLACES for n in range(20)])
    assert asked.all() == [*range(20)] * 3
    assert sorted(source.stats) == sorted(source.objects)
    # One would do; those of a mounted folder are begun side by side.
    assert set(source.lists) <= set(PLACES)
    assert len(source.lists) == len(set(source.lists)) >= 1
    asked.close()
