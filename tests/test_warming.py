"""Warming without a mount: what is fetched and made, how often, and what is on disk at the end."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import tar_gz_of, wild
from tests.clips import make_clip
from tests.memorysource import MemorySource
from tests.mounting import wait_until
from vfs import disk as disk_module
from vfs.cache import ChunkCache
from vfs.catalog import Entry
from vfs.datasets import plain
from vfs.disk import Disk
from vfs.errors import AccessDenied, OptionError, OverQuota, Unavailable
from vfs.listing import Listing, Row
from vfs.mounted import MountedDataset
from vfs.node import Kind
from vfs.sources import Source
from vfs.sources.archives import ArchiveSource
from vfs.warming import Warming
from vfs.warmrun import Counts, Progress

MIB = 1 << 20
UNIT = 4 * MIB
NOISE = random.Random(7).randbytes(24 * MIB)


class Linked(plain.PlainTree):
    """A plain tree with links added to some folders."""

    def __init__(self, source: Source, links: dict[str, dict[str, str]]) -> None:
        super().__init__(source)
        self._links = links

    def entries(self, folder: str) -> Iterator[Entry]:
        yield from super().entries(folder)
        for name, target in self._links.get(folder, {}).items():
            yield Entry(name, Kind.LINK, target=target, is_video=name.endswith(".mp4"))


Opening = Callable[..., MountedDataset]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opening]:
    """A mount's tree over a source, with a cache in one folder; all are closed in the end."""
    trees: list[MountedDataset] = []

    def open_tree(
        source: Source, links: dict[str, dict[str, str]] | None = None, limit_bytes: int = 1 << 30, cached: bool = True
    ) -> MountedDataset:
        folder = tmp_path / "objects"
        folder.mkdir(exist_ok=True)
        cache = ChunkCache(folder, limit_bytes) if cached else None
        trees.append(
            MountedDataset(
                Linked(source, links or {}),
                source,
                cache,
                None,
                space="test",
                listing_age_s=1000,
                disk=cache.disk if cache else Disk(folder, limit_bytes),
            )
        )
        return trees[-1]

    yield open_tree
    for tree in trees:
        tree.close()


def nothing(facts: dict[str, object]) -> None:
    """Hears of progress and goes on."""


def warm(
    tree: MountedDataset, *paths: str, frames: bool = False, jobs: int = 4, force: bool = False
) -> tuple[Progress, Counts]:
    return Warming(tree).warm(paths, with_frames=frames, jobs=jobs, force=force, report=nothing)


def check(tree: MountedDataset, *paths: str, frames: bool = False) -> Counts:
    return Warming(tree).check(paths, with_frames=frames, report=nothing)[1]


def fetched(source: MemorySource) -> int:
    return sum(length for _, _, length in source.reads)


# -- bytes


def test_a_large_file_is_fetched_in_whole_units_side_by_side_and_each_byte_once(opened: Opening) -> None:
    source = MemorySource({"a": NOISE[: 5 * UNIT + 1000]})
    together = threading.Barrier(4)  # broken, and so the test, unless four requests are under way at once
    first = iter(range(4))
    source.before_read = lambda: next(first, None) is not None and together.wait(10) and None
    progress, there = warm(opened(source), "a", jobs=4)
    assert sorted(source.reads) == [("a", at * UNIT, min(UNIT, 5 * UNIT + 1000 - at * UNIT)) for at in range(6)]
    assert (progress.files, progress.bytes, progress.fetched_bytes) == (1, 5 * UNIT + 1000, 5 * UNIT + 1000)
    assert there.is_all_there


def test_no_more_requests_are_under_way_than_jobs(opened: Opening) -> None:
    source = MemorySource({f"f{n}": b"x" * 100 for n in range(40)} | {"big": NOISE})
    now, most, lock = 0, 0, threading.Lock()

    def count() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    source.before_read = count
    assert warm(opened(source), "", jobs=3)[1].is_all_there
    assert most == 3


def test_what_is_on_disk_is_not_fetched_again_also_where_it_is_there_in_parts(opened: Opening) -> None:
    source = MemorySource({"a": NOISE[: 2 * UNIT], "b": b"small"})
    tree = opened(source)
    obj = tree.catalog.lookup("", "a").object
    assert obj is not None
    tree.object_file("", obj).fetch(MIB, 10)  # one block of 128 KiB
    assert tree.cache is not None
    tree.cache.settle()
    assert check(tree, "a").bytes_on_disk == 128 << 10
    source.reads.clear()
    progress, _ = warm(tree, "")
    # The little that is there lies between two ranges that are not: it comes with them.
    assert fetched(source) <= 2 * UNIT + 5
    source.reads.clear()
    again, there = warm(tree, "")
    assert (source.reads, again.fetched_bytes, there.is_all_there) == ([], 0, True)
    assert progress.files == again.files == 2


def test_what_readers_hold_in_memory_stays(opened: Opening) -> None:
    source = MemorySource({"held": NOISE[:MIB], "a": NOISE})
    tree = opened(source)
    file = tree.object_file("", tree.catalog.lookup("", "held").object)  # type: ignore[arg-type]
    file.read(0, 10)
    for number in range(5):
        source.objects[f"more{number}"] = NOISE
    tree.catalog.invalidate("")
    assert warm(tree, "")[1].is_all_there
    assert file.ready(0, 10) == NOISE[:10]


def test_a_mount_that_is_made_anew_goes_on_where_the_last_was_broken_off(opened: Opening) -> None:
    source = MemorySource({f"f{n}": NOISE[: 2 * UNIT + n] for n in range(5)})
    size = sum(map(len, source.objects.values()))
    tree = opened(source)

    class Gone(Exception):
        pass

    def leave(facts: dict[str, object]) -> None:
        if len(source.reads) >= 4:
            raise Gone

    source.delay_s = 0.05
    with pytest.raises(Gone):
        Warming(tree).warm([""], with_frames=False, jobs=2, force=False, report=leave)
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "warming"])
    under_way = len(source.reads)
    time.sleep(0.2)
    assert len(source.reads) == under_way < 15
    tree.close()
    first = fetched(source)
    assert 0 < first < size
    source.delay_s = 0
    progress, there = warm(opened(source), "")
    assert progress.fetched_bytes == size - first
    assert fetched(source) == size
    assert there.is_all_there


def test_while_readers_fetch_a_quarter_of_the_jobs_goes_on(opened: Opening) -> None:
    source = MemorySource({"a": NOISE} | {f"r{n}": NOISE[:UNIT] for n in range(200)})
    tree = opened(source)
    objects = [tree.catalog.lookup("", f"r{n}").object for n in range(200)]
    together: list[int] = []
    now = 0
    lock = threading.Lock()
    is_read = threading.Event()
    read = source.read

    def counted(obj: Any, start: int, length: int) -> bytes:
        nonlocal now
        if obj.key != "a":
            return read(obj, start, length)
        with lock:
            now += 1
            together.append(now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return read(obj, start, length)

    source.read = counted  # type: ignore[method-assign]

    def go_on_reading() -> None:
        for obj in objects:
            assert obj is not None
            tree.object_file("", obj).fetch(0, 10)
            if is_read.wait(0.02):
                return

    reader = threading.Thread(target=go_on_reading)
    reader.start()
    wait_until(lambda: source.reads)
    assert warm(tree, "a", jobs=8)[1].is_all_there
    is_read.set()
    reader.join()
    assert max(together) <= 2


def test_a_reader_and_a_warming_of_the_same_file_fetch_it_once(opened: Opening) -> None:
    source = MemorySource({"a": NOISE[:UNIT]})
    tree = opened(source)
    file = tree.object_file("", tree.catalog.lookup("", "a").object)  # type: ignore[arg-type]
    source.delay_s = 0.2
    warmer = threading.Thread(target=warm, args=(tree, "a"))
    warmer.start()
    wait_until(lambda: source.reads)
    assert file.read(1000, 10) == NOISE[1000:1010]
    warmer.join()
    assert source.reads == [("a", 0, UNIT)]


def test_a_disk_slower_than_the_network_is_waited_for_and_loses_nothing(
    opened: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_QUEUE_BYTES", 3 * UNIT)
    monkeypatch.setattr(disk_module, "_BEHIND_BYTES", UNIT)
    write = Disk._write_file

    def slowly(disk: Disk, key: Any, image: memoryview) -> None:
        time.sleep(0.03)
        write(disk, key, image)

    monkeypatch.setattr(Disk, "_write_file", slowly)
    source = MemorySource({f"f{n}": NOISE[:UNIT] for n in range(20)})
    assert warm(opened(source), "", jobs=8)[1].is_all_there
    assert len(source.reads) == 20


def test_a_disk_that_keeps_nothing_is_said_and_not_called_warm(
    opened: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(disk: Disk, key: Any, image: memoryview) -> None:
        raise OSError("broken")

    monkeypatch.setattr(Disk, "_write_file", fail)
    tree = opened(MemorySource({f"f{n}": NOISE[:UNIT] for n in range(3)}))
    _, there = warm(tree, "", jobs=1)
    assert there.files_on_disk == 0
    assert not there.is_all_there


# -- failures


def test_a_file_that_cannot_be_had_is_told_once_and_the_rest_goes_on(opened: Opening) -> None:
    source = MemorySource({"a/x": NOISE, "b": b"1", "c": b"2"})
    read = source.read

    def failing(obj: Any, start: int, length: int) -> bytes:
        if obj.key == "a/x":
            raise Unavailable("a/x: the store is ill")
        return read(obj, start, length)

    source.read = failing  # type: ignore[method-assign]
    progress, there = warm(opened(source), "")
    assert progress.failures == [("a/x", "a/x: the store is ill")]
    assert (progress.failed, progress.files, there.files_on_disk) == (1, 2, 2)


@pytest.mark.parametrize("refusal", [AccessDenied("no"), OverQuota("tomorrow")])
def test_a_refusal_ends_it(opened: Opening, refusal: Exception) -> None:
    source = MemorySource({f"f{n:03}": b"x" for n in range(200)})

    def refuse() -> None:
        raise refusal

    source.before_read = refuse
    with pytest.raises(type(refusal)):
        warm(opened(source), "", jobs=2)
    assert len(source.reads) <= 4


def test_a_folder_that_cannot_be_listed_is_a_failure_and_the_rest_goes_on(opened: Opening) -> None:
    source = MemorySource({"a/x": b"1", "b/y": b"2"})
    tree = opened(source)

    def fail() -> None:
        if source.lists[-1] == "a":
            raise Unavailable("a: ill")

    source.before_list = fail
    progress, there = warm(tree, "")
    assert progress.failures == [("a", "a: ill")]
    assert there.files_on_disk == 1


@pytest.mark.parametrize("path", ["none", "a/none", "b/", "b/c", "frames", "a/frames/x", "b/.."])
def test_a_path_that_is_not_there_is_refused_before_anything_is_fetched(opened: Opening, path: str) -> None:
    source = MemorySource({"a/x": b"1", "b": b"2"})
    tree = opened(source)
    assert check(tree, "../a/../..").files == 2  # cannot lead out
    for ask in (warm, check):
        with pytest.raises(OptionError, match=f"{path}: no such file or folder"):
            ask(tree, "b", path)
    assert source.reads == []


def test_more_than_the_cache_holds_is_refused_before_anything_is_fetched_unless_forced(opened: Opening) -> None:
    source = MemorySource({f"f{n}": NOISE[:UNIT] for n in range(4)})
    tree = opened(source, limit_bytes=3 * UNIT)
    with pytest.raises(OptionError, match="egofs cache resize"):
        warm(tree, "")
    assert source.reads == []
    _, there = warm(tree, "", force=True, jobs=1)
    assert len(source.reads) == 4
    assert 0 < there.files_on_disk < 4
    assert not there.is_all_there


def test_a_mount_without_a_disk_cache_refuses(opened: Opening) -> None:
    tree = opened(MemorySource({"a": b"1"}))
    tree.disk = None
    with pytest.raises(OptionError, match="cache=on"):
        warm(tree, "a")


# -- what a path means


def test_each_object_is_fetched_and_counted_once_however_many_links_lead_to_it(opened: Opening) -> None:
    source = MemorySource({"r/1/x.bin": b"1" * 100, "r/2/x.bin": b"2" * 200, "views/note": b"n"})
    links = {
        "r/1": {"e1.bin": "x.bin", "twice.bin": "e1.bin", "nowhere": "gone"},
        "views": {"one": "../r/1", "again": "../r/1", "file": "../r/2/x.bin", "up": ".."},
    }
    tree = opened(source, links)
    assert check(tree, "views/one").files == 1
    assert check(tree, "views/file", "r/2", "r/1/e1.bin").files == 2
    progress, there = warm(tree, "views", "r", "r/1/e1.bin")
    assert sorted(source.reads) == [("r/1/x.bin", 0, 100), ("r/2/x.bin", 0, 200), ("views/note", 0, 1)]
    assert (progress.files, there.files, there.bytes) == (3, 3, 301)


def test_links_that_lead_in_a_circle_or_out_are_nothing(opened: Opening) -> None:
    tree = opened(MemorySource({"a/x": b"1"}), {"a": {"p": "q", "q": "p", "out": "/etc/passwd", "above": "../../.."}})
    assert warm(tree, "")[1].files == 1
    with pytest.raises(OptionError):
        warm(tree, "a/p")
    with pytest.raises(OptionError):
        warm(tree, "a/out")


def test_check_fetches_nothing_and_evict_frees_what_was_warmed(opened: Opening) -> None:
    source = MemorySource({"a/1": NOISE[: UNIT + 5], "a/2": b"x" * 10, "b": b"y" * 10})
    tree = opened(source)
    before = check(tree, "")
    assert (before.files, before.bytes, before.files_on_disk, before.bytes_on_disk) == (3, UNIT + 25, 0, 0)
    assert source.reads == []
    warm(tree, "")
    assert check(tree, "").is_all_there
    assert tree.cache is not None
    used = tree.cache.used_bytes()
    progress, freed = Warming(tree).evict(["a"], with_frames=False, report=nothing)
    assert progress.files == 2
    assert freed == used - tree.cache.used_bytes() > UNIT
    after = check(tree, "")
    assert (after.files_on_disk, after.bytes_on_disk) == (1, 10)
    source.reads.clear()
    warm(tree, "")
    assert fetched(source) == UNIT + 15


def test_a_value_that_is_damaged_or_gone_on_disk_is_brought_again(opened: Opening, tmp_path: Path) -> None:
    source = MemorySource({"a": b"x" * 1000})
    tree = opened(source)
    warm(tree, "a")
    (file,) = [each for each in (tmp_path / "objects").glob("*/*") if len(each.name) > 30]
    file.unlink()
    warm(tree, "a")
    assert len(source.reads) == 2
    assert file.exists()


def test_counting_many_files_asks_the_disk_in_few_questions(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = opened(MemorySource({f"{n % 7}/{n:05}": b"x" for n in range(3000)}))
    asked = []
    kept_of_all = Disk.kept_of_all
    monkeypatch.setattr(Disk, "kept_of_all", lambda *words: asked.append(1) or kept_of_all(*words))
    assert check(tree, "").files == 3000
    assert len(asked) <= 4


# -- archives


def test_the_folder_of_an_archive_is_warmed_and_its_index_is_made(opened: Opening, tmp_path: Path) -> None:
    inner = MemorySource({"x.tar.gz": tar_gz_of({"d/one": wild(5000), "two": wild(70_000, 2)})})
    source = ArchiveSource(inner, tmp_path / "archives")
    tree = opened(source)
    _, there = warm(tree, "x.tar.gz/")
    assert (there.files, there.bytes, there.is_all_there) == (2, 75_000, True)
    assert list((tmp_path / "archives").glob("*/*.index"))
    inner.reads.clear()
    assert warm(tree, "x", "x/d/one")[0].fetched_bytes == 0
    assert inner.reads == []
    assert check(tree, "x.tar.gz").files_on_disk == 0
    with pytest.raises(OptionError):
        warm(tree, "x/d/one/")


def test_an_index_that_takes_longer_than_anybody_waits_is_waited_for(
    opened: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfs.archive import kept

    monkeypatch.setattr(kept.Kept.__init__, "__kwdefaults__", {"wait_s": 0.05})
    inner = MemorySource({"x.tar.gz": tar_gz_of({"one": wild(5000)})})
    inner.delay_s = 0.2
    told: list[Any] = []
    tree = opened(ArchiveSource(inner, tmp_path / "archives"))
    _, there = Warming(tree).warm(
        ["x"], with_frames=False, jobs=2, force=False, report=lambda facts: told.append(facts.get("indexing"))
    )
    assert there.is_all_there
    assert any(told)


# -- pictures


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "v.mp4", frames=50, gop=10)
    make_clip(folder / "w.mp4", frames=20, gop=10)
    return {name: (folder / name).read_bytes() for name in ("v.mp4", "w.mp4")}


def test_pictures_are_made_once_and_the_files_bytes_fetched_once(opened: Opening, clips: dict[str, bytes]) -> None:
    source = MemorySource({"r/v.mp4": clips["v.mp4"], "w.mp4": clips["w.mp4"]})
    tree = opened(source, {"r": {"e1.mp4": "v.mp4"}})
    assert check(tree, "", frames=True).unknown_videos == 3  # e1 and v are one, which nobody knows before they are read
    progress, there = warm(tree, "", frames=True)
    assert (there.pictures, there.pictures_on_disk, there.files, progress.made_pictures) == (70, 70, 2, 70)
    assert there.is_all_there
    assert fetched(source) == sum(map(len, source.objects.values()))
    assert tree.shelf.frames_made == 70
    again, _ = warm(tree, "", frames=True)
    assert (again.made_pictures, again.pictures, tree.shelf.frames_made) == (0, 70, 70)
    view = tree.root.lookup("r").lookup("frames").lookup("e1")  # type: ignore[attr-defined]
    reader = view.lookup("000007.jpg").open()
    assert reader.read(0, 2) == b"\xff\xd8"
    assert tree.shelf.frames_made == 70


def test_pictures_of_a_directory_a_file_and_other_parameters_are_what_is_named(
    opened: Opening, clips: dict[str, bytes]
) -> None:
    tree = opened(MemorySource({"v.mp4": clips["v.mp4"], "w.mp4": clips["w.mp4"]}))
    for path, count in {
        "frames/v/000003.jpg": 1,
        "frames@short=32/w": 20,
        "frames@fps=1/v": 2,
        "frames/w": 20,
    }.items():
        progress, there = warm(tree, path)
        assert (there.pictures, progress.made_pictures, there.is_all_there, there.files) == (count, count, True, 0)
    assert check(tree, "frames").pictures == 70
    assert 22 <= check(tree, "frames").pictures_on_disk <= 23
    progress, _ = warm(tree, "v.mp4", frames=True)
    assert progress.pictures == 50
    assert check(tree, "frames").is_all_there
    _, freed = Warming(tree).evict(["frames/w"], with_frames=False, report=nothing)
    assert freed > 0
    assert check(tree, "frames").pictures_on_disk == 50
    for path in ("frames/v/000051.jpg", "frames/none", "frames@nothing=1/v", "frames/v/000001.jpg/x"):
        with pytest.raises(OptionError):
            warm(tree, path)


def test_a_clip_is_warm_when_the_bytes_it_is_decoded_from_are_there(opened: Opening, tmp_path: Path) -> None:
    make_clip(tmp_path / "long.mp4", frames=120, gop=10, size=(640, 480))
    data = (tmp_path / "long.mp4").read_bytes()
    source = MemorySource({"long.mp4": data})
    tree = opened(source)
    progress, there = warm(tree, "frames/long/60-70.npy")
    assert there.is_all_there
    assert (there.files, there.pictures, progress.made_pictures) == (1, 0, 0)
    source.reads.clear()
    view = tree.root.lookup("frames").lookup("long")  # type: ignore[attr-defined]
    clip = view.lookup("60-70.npy")
    reader = clip.open()
    for at in range(0, clip.attributes.size_bytes, MIB):
        reader.read(at, MIB)
    assert source.reads == []


def test_pictures_that_cannot_be_decoded_are_one_failure_a_video(opened: Opening, clips: dict[str, bytes]) -> None:
    broken = bytearray(clips["v.mp4"])
    start = broken.index(b"mdat") + 3000
    broken[start : start + 4000] = bytes(4000)
    tree = opened(MemorySource({"v.mp4": bytes(broken), "w.mp4": clips["w.mp4"], "no.mp4": b"no video"}))
    progress, there = warm(tree, "frames")
    assert {path for path, _ in progress.failures} == {"frames/no", "frames/v"}
    assert progress.failed == 2
    assert 20 < there.pictures_on_disk < 70


def test_pictures_of_local_videos_are_made_and_their_files_count_as_there(
    opened: Opening, clips: dict[str, bytes]
) -> None:
    source = MemorySource(dict(clips))
    source.remote = False
    tree = opened(source, cached=False)
    assert check(tree, "").is_all_there
    progress, there = warm(tree, "", frames=True)
    assert (there.pictures_on_disk, there.files_on_disk, progress.fetched_bytes) == (70, 2, 0)
    assert Warming(tree).is_local


def test_pictures_that_would_push_out_others_stop_it(opened: Opening, clips: dict[str, bytes]) -> None:
    tree = opened(MemorySource(dict(clips)), limit_bytes=200 << 10)
    with pytest.raises(OptionError, match="egofs cache resize"):
        warm(tree, "frames")


# -- listing


def rows(tree: MountedDataset, path: str) -> dict[str, Row]:
    return {row.name: row for some in Listing(tree, tree.root).of(path)[1] for row in some}


def test_a_listing_tells_shares_and_opens_nothing(opened: Opening, clips: dict[str, bytes]) -> None:
    source = MemorySource({"r/v.mp4": clips["v.mp4"], "r/x": NOISE[: UNIT + MIB], "r/d/y": b"y", "z": b"z"})
    tree = opened(source, {"r": {"e1.mp4": "v.mp4", "none": "gone", "up": ".."}})
    file = tree.object_file("r", tree.catalog.lookup("r", "x").object)  # type: ignore[arg-type]
    file.fetch(0, 10)
    warm(tree, "r/v.mp4")
    source.reads.clear()
    found = rows(tree, "r")
    assert {name: row.kind for name, row in found.items()} == {
        **dict.fromkeys(("e1.mp4", "none", "up"), "l"),
        **dict.fromkeys(("v.mp4", "x"), "-"),
        **dict.fromkeys(("d", "frames"), "d"),
    }
    assert found["x"].bytes_on_disk == 128 << 10
    assert found["v.mp4"].bytes_on_disk == found["e1.mp4"].bytes_on_disk == len(clips["v.mp4"])
    assert (found["e1.mp4"].target, found["none"].bytes_on_disk, found["none"].size_bytes) == ("v.mp4", None, None)
    assert source.reads == []
    assert [*rows(tree, "r/x")] == ["r/x"]
    with pytest.raises(OptionError):
        rows(tree, "r/nothing")
    warm(tree, "r/frames/v/000002.jpg")
    pictures = rows(tree, "r/frames/v")
    assert [name for name, row in pictures.items() if row.bytes_on_disk] == ["000002.jpg"]
    assert rows(tree, "r/frames/v/000002.jpg")["r/frames/v/000002.jpg"].bytes_on_disk
    assert [*rows(tree, "r/frames")] == ["e1", "v"]


def test_sizes_that_nobody_knows_are_not_asked_for_by_counting_and_listing(opened: Opening) -> None:
    class Unsized(Linked):
        def entries(self, folder: str) -> Iterator[Entry]:
            for entry in super().entries(folder):
                assert entry.object is not None
                yield Entry(entry.name, entry.kind, type(entry.object)(entry.object.key, -1, 0, ""))

    source = MemorySource({"a": b"12345", "b": b"1"})
    tree = opened(source)
    tree.catalog._fill = Unsized(source, {}).entries
    counts = check(tree, "")
    assert (counts.files, counts.unknown_sizes, counts.bytes, counts.is_all_there) == (2, 2, 0, False)
    assert rows(tree, "")["a"].size_bytes is None
    assert source.stats == []
    progress, there = warm(tree, "")
    assert (there.bytes, there.is_all_there, progress.fetched_bytes) == (6, True, 6)
    assert rows(tree, "")["a"].size_bytes == 5


def test_a_table_of_what_was_seen_knows_all_that_was_added() -> None:
    from vfs.walk import Seen

    seen = Seen()
    assert all(seen.add(f"{n}") for n in range(20_000))
    assert not any(seen.add(f"{n}") for n in range(20_000))
