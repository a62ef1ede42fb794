"""A cache folder that is looked after from outside: facts, verification, emptying, another limit."""

import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfs import disk as disk_module
from vfs import diskcare, valuefile, valuefolder
from vfs.catalog import Catalog, Entry
from vfs.disk import Disk, Key, Value
from vfs.diskcare import CacheFailed, CacheInUse, clear, verify
from vfs.errors import OptionError
from vfs.node import Kind
from vfs.sources import ObjectInfo
from vfs.valuefile import Damaged, file_bytes_of

KIB, MIB = 1 << 10, 1 << 20
LENGTHS = (1, 100, 4088, 20 * KIB, 64 * KIB, 128 * KIB, 300 * KIB + 7, MIB, 4 * MIB)
OLD = time.time() - 1800.0


def key(number: int, owner: int = 1) -> Key:
    return (bytes([owner]) * 16, number)


def content(of: Key, length: int) -> bytes:
    return random.Random(repr(of)).randbytes(length)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done from time to time, is done at once."""
    monkeypatch.setattr(disk_module, "_NOTE_USE_S", 0.002)
    monkeypatch.setattr(disk_module, "_SWEEP_S", 0.0001)
    monkeypatch.setattr(verify, "_AGAIN_S", 0.001)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(0o700)
    return tmp_path / "cache"


@pytest.fixture
def disk(cache: Path) -> Iterator[Disk]:
    """A disk as a mount has it, which lives on while the folder is looked after."""
    disk = Disk(cache / "objects", 1 << 30)
    disk._swept = valuefolder.FOLDERS  # else it would put right by itself, sooner or later, what is to be found here
    yield disk
    disk.close()


def fill(disk: Disk, lengths: tuple[int, ...] = LENGTHS, *, filled: bool = False) -> dict[Key, int]:
    """Values of these lengths by their keys; their files are half an hour old."""
    kept = {key(number): length for number, length in enumerate(lengths)}
    for each, length in kept.items():
        assert disk.keep(each, content(each, length), filled=filled)
    disk.settle()
    for path in paths(disk._folder).values():
        os.utime(path, (OLD, OLD))
    return kept


def paths(objects: Path) -> dict[Key, Path]:
    return {found: path for path in objects.glob("??/*") if (found := valuefolder.key_of(path.name))}


def bytes_of_files(objects: Path) -> int:
    return sum(path.stat().st_size for path in paths(objects).values())


def loaded(disk: Disk, of: Key, length: int) -> bytes | None:
    try:
        data = disk.load(of, length)
    except Damaged:
        return None
    return None if data is None else bytes(data)


def checked(cache: Path, *, repair: bool = False, in_use: bool = False, **more: object) -> verify.Report:
    return verify.verify(cache, repair=repair, in_use=in_use, **more)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


# -- the length that a file does not tell


@pytest.mark.parametrize("length", [*LENGTHS, 4087, 4089, 4096, 64 * KIB - 8, 64 * KIB + 1, 64 * KIB + 8, 5 * MIB])
@pytest.mark.parametrize("zeros", [False, True])
def test_the_length_of_a_value_is_found_in_its_file(length: int, zeros: bool) -> None:
    image = memoryview(bytearray(file_bytes_of(length)))
    data = bytes(length) if zeros else content(key(1), length)
    valuefile.write_image(image, key(1), memoryview(data), length)
    assert valuefile.length_in(image, key(1)) == length


def test_a_file_of_another_value_has_no_length() -> None:
    image = memoryview(bytearray(file_bytes_of(1000)))
    valuefile.write_image(image, key(1), memoryview(content(key(1), 1000)), 1000)
    for of, data in ((key(2), image), (key(1), image[:-1]), (key(1), image[:0]), (key(1), memoryview(bytes(4096)))):
        with pytest.raises(Damaged):
            valuefile.length_in(data, of)


# -- verification


@pytest.mark.parametrize("filled", [False, True])
def test_a_cache_that_is_whole_is_read_whole_and_nothing_is_found(cache, disk, filled) -> None:
    kept = fill(disk, filled=filled)
    told: list[tuple[int, int]] = []
    report = checked(cache, on_progress=lambda files, size: told.append((files, size)))
    assert report == verify.Report(values=len(kept), bytes=bytes_of_files(cache / "objects"))
    assert not report.is_damaged
    assert sum(files for files, _ in told) == len(kept)
    assert sum(size for _, size in told) == report.bytes == disk.used_bytes()


def test_verifying_reads_past_the_page_cache(cache, disk, monkeypatch) -> None:
    fill(disk)
    flags: list[int] = []
    right = os.open
    monkeypatch.setattr(os, "open", lambda path, flag, *args, **more: (flags.append(flag), right(path, flag, *args))[1])
    checked(cache)
    assert len(flags) == len(LENGTHS)
    assert all(flag & os.O_DIRECT for flag in flags)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


HARMS: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("length", [20 * KIB, MIB])
def test_damage_is_found_and_repaired_and_its_neighbours_stay(cache, disk, harm, length) -> None:
    fill(disk, (length,) * 4)
    victim = paths(cache / "objects")[key(2)]
    harm(victim)
    os.utime(victim, (OLD, OLD))
    report = checked(cache)
    assert (report.values, report.damaged, report.is_damaged) == (4, 1, True)
    assert report.damaged_names == [str(victim.relative_to(cache))]
    assert victim.exists(), "it was only looked at"
    assert checked(cache, repair=True).damaged == 1
    assert not victim.exists()
    assert checked(cache) == verify.Report(values=3, bytes=bytes_of_files(cache / "objects"))
    assert disk.used_bytes() == bytes_of_files(cache / "objects")
    assert [loaded(disk, key(n), length) is not None for n in range(4)] == [True, True, False, True]


def test_files_that_took_each_others_places_are_damaged(cache, disk) -> None:
    fill(disk, (MIB, MIB, MIB))
    one, other = (paths(cache / "objects")[key(number)] for number in (0, 1))
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)
    assert checked(cache, repair=True).damaged == 2
    assert checked(cache).values == 1


def test_a_reader_that_has_a_damaged_value_open_is_unharmed_by_its_repair(cache, disk) -> None:
    fill(disk, (MIB,))
    value = disk.find(key(0), MIB)
    assert isinstance(value, Value)
    whole = bytes(value.read(0, MIB))
    flip(paths(cache / "objects")[key(0)])
    checked(cache, repair=True)
    with pytest.raises(Damaged):
        value.read(0, MIB)  # found out even where it was right when it was read before
    assert disk.find(key(0), MIB) is None
    assert disk.keep(key(0), whole)
    disk.settle()
    assert loaded(disk, key(0), MIB) == whole
    assert disk.used_bytes() == bytes_of_files(cache / "objects")


def test_only_the_first_few_of_many_damaged_values_are_named(cache, disk) -> None:
    fill(disk, (1000,) * 50)
    for path in paths(cache / "objects").values():
        flip(path)
    report = checked(cache)
    assert (report.damaged, report.damaged_bytes, len(report.damaged_names)) == (50, 50 * 4096, 5)


def test_a_file_that_is_evicted_while_it_is_read_is_no_damage(cache, disk, monkeypatch) -> None:
    fill(disk, (1000,) * 5)
    right = verify._read

    def late(path: str, of: Key) -> object:
        if of == key(3):
            os.unlink(path)
        return right(path, of)

    monkeypatch.setattr(verify, "_read", late)
    assert checked(cache).values == 4


def test_a_file_that_is_being_written_is_looked_at_again(cache, disk, monkeypatch) -> None:
    fill(disk, (20 * KIB,))
    path = paths(cache / "objects")[key(0)]
    whole = path.read_bytes()
    path.write_bytes(whole[:4096])
    monkeypatch.setattr(verify.time, "sleep", lambda seconds: path.write_bytes(whole))
    assert not checked(cache).is_damaged


def test_what_a_crash_left_half_written_is_removed_when_it_is_old(cache, disk) -> None:
    fill(disk, (1000,))
    place = paths(cache / "objects")[key(0)]
    left, young = (place.with_name(f"{place.name}.new-{number}-a") for number in (1, 2))
    for path in (left, young):
        path.write_bytes(b"half")
    os.utime(left, (OLD, OLD))
    report = checked(cache, repair=True)
    assert (report.unfinished, report.is_damaged) == (1, False)
    assert (left.exists(), young.exists()) == (False, True)


def test_the_accounting_is_put_right(cache, disk) -> None:
    kept = fill(disk, (1000,) * 8)
    objects = cache / "objects"
    with sqlite3.connect(objects / "index.sqlite") as database:
        database.execute("DELETE FROM value WHERE number = 1")
        database.execute("UPDATE value SET file_bytes = 99 WHERE number = 2")
    paths(objects)[key(3)].unlink()
    report = checked(cache)
    assert (report.uncounted, report.lost, report.miscounted, report.damaged) == (1, 1, 2, 0)
    again = checked(cache, repair=True)
    assert (again.uncounted, again.lost, again.repaired) == (1, 1, True)
    assert checked(cache) == verify.Report(values=len(kept) - 1, bytes=bytes_of_files(objects))
    assert disk.used_bytes() == bytes_of_files(objects)


def test_a_value_that_is_not_counted_yet_is_nothing_to_tell(cache, disk) -> None:
    fill(disk, (1000,) * 3)
    valuefolder.remove(disk._database, [key(1)])
    os.utime(paths(cache / "objects")[key(1)])
    assert checked(cache).uncounted == 0


def test_a_damaged_accounting_is_replaced_only_while_no_mount_has_it_open(cache) -> None:
    disk = Disk(cache / "objects", 1 << 30)
    kept = fill(disk)
    disk.close()
    index = cache / "objects/index.sqlite"
    index.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 32)
    report = checked(cache)
    assert list(report.databases) == ["objects/index.sqlite"]
    assert (report.values, report.damaged) == (len(kept), 0), "values need no accounting to be compared"
    with pytest.raises(CacheInUse, match="umount"):
        checked(cache, repair=True, in_use=True)
    assert checked(cache, repair=True).databases
    assert not checked(cache).databases
    with sqlite3.connect(index) as database:
        assert database.execute("SELECT COUNT(*), SUM(file_bytes) FROM value").fetchone() == (
            len(kept),
            bytes_of_files(cache / "objects"),
        )
    assert index.with_name("index.sqlite.damaged").exists()


# -- emptying


def test_clearing_takes_all_values_and_says_how_much_that_was(cache, disk) -> None:
    fill(disk)
    before = bytes_of_files(cache / "objects")
    gone = clear.clear(cache, before=None, in_use=True)
    assert gone == clear.Gone(len(LENGTHS), before)
    assert paths(cache / "objects") == {}
    assert disk.used_bytes() == 0


def test_a_disk_in_use_goes_on_after_it_was_cleared(cache, disk) -> None:
    kept = fill(disk)
    value = disk.find(key(7), MIB)
    clear.clear(cache, before=None, in_use=True)
    assert isinstance(value, Value)
    assert value.read(0, MIB) == content(key(7), MIB)
    assert all(disk.find(each, length) is None for each, length in kept.items())
    fill(disk)
    assert all(loaded(disk, each, length) == content(each, length) for each, length in kept.items())
    assert disk.used_bytes() == bytes_of_files(cache / "objects")
    assert (disk.errors, disk.not_kept) == (0, 0)


def test_counts_converge_when_a_disk_is_cleared_while_it_is_filled(cache, disk) -> None:
    stop = threading.Event()

    def keep_on() -> None:
        number = 0
        while not stop.is_set():
            disk.keep(key(number % 500), content(key(0), 5000))
            number += 1
            time.sleep(0.0005)

    writer = threading.Thread(target=keep_on)
    writer.start()
    try:
        for _ in range(10):
            time.sleep(0.05)
            clear.clear(cache, before=None, in_use=True)
    finally:
        stop.set()
        writer.join()
    disk.settle()
    assert disk.errors == 0
    kept, counted = bytes_of_files(cache / "objects"), disk.used_bytes()
    assert 0 < kept <= counted
    gone = clear.clear(cache, before=None, in_use=True)
    assert (gone.bytes, disk.used_bytes(), bytes_of_files(cache / "objects")) == (kept, 0, 0)


def test_only_what_was_not_used_for_long_goes(cache, disk, monkeypatch) -> None:
    now = [time.time()]
    monkeypatch.setattr(disk_module.time, "time", lambda: now[0] - 10 * 86_400)
    fill(disk, (1000,) * 6)
    monkeypatch.setattr(disk_module.time, "time", lambda: now[0])
    disk.used(key(4))
    until(lambda: not disk._used)
    until(lambda: clear_count(disk, now[0] - 5 * 86_400) == 5)
    gone = clear.clear(cache, before=now[0] - 5 * 86_400, in_use=True)
    assert gone.files == 5
    assert list(paths(cache / "objects")) == [key(4)]
    assert disk.used_bytes() == bytes_of_files(cache / "objects")


def clear_count(disk: Disk, before: float) -> int:
    with disk._database_lock:
        return len(valuefolder.oldest(disk._database, 100, int(before)))


def test_clearing_touches_nothing_that_is_not_ours(cache, disk, tmp_path) -> None:
    fill(disk, (1000,) * 3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    name = f"{'ab' * 16}.1"
    (elsewhere / name).write_bytes(b"mine")
    os.utime(elsewhere / name, (OLD, OLD))
    (cache / "objects/ee").symlink_to(elsewhere)
    keep = [cache / "objects/00/notes.txt", cache / "objects/letters/x", cache / "datasets/d", cache / "log/a.log"]
    for path in keep:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"mine")
        os.utime(path, (OLD, OLD))
    (cache / "objects/00" / name).symlink_to(keep[0])
    clear.clear(cache, before=None, in_use=True)
    assert all(path.read_bytes() == b"mine" for path in (*keep, elsewhere / name))
    assert (cache / "objects/00" / name).is_symlink()


def test_listings_are_cleared_only_when_nobody_has_them_open(cache) -> None:
    (cache / "archives/ab").mkdir(parents=True)
    (cache / "archives/ab/abcd-12.index").write_bytes(b"x" * 10)
    (cache / "archives/ab/README").write_bytes(b"mine")
    info = ObjectInfo("a", 1, 0, "v")
    catalog = Catalog(cache / "catalog.sqlite", "space", lambda folder: [Entry("a", Kind.FILE, info)], 60.0)
    catalog.folder("")
    assert diskcare.facts(cache)["catalog"] | {"bytes": 0} == {
        "bytes": 0,
        "datasets": 1,
        "folders": 1,
        "entries": 1,
        "trouble": "",
    }
    with pytest.raises(CacheInUse, match="egofs invalidate"):
        clear.clear_listings(cache)
    assert catalog.entry("", "a").object == info
    catalog.close()
    gone = clear.clear_listings(cache)
    assert gone.files == 2
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["README"]


# -- another limit


def test_a_lower_limit_holds_at_once_without_another_value(cache, disk) -> None:
    fill(disk, (MIB,) * 20)
    disk.resize(5 * MIB)
    assert 3 * MIB < bytes_of_files(cache / "objects") <= 5 * MIB
    assert disk.used_bytes() == bytes_of_files(cache / "objects")
    assert disk.limit_bytes == 5 * MIB


def test_a_resize_that_is_broken_off_goes_on_with_the_next_value(cache, disk, monkeypatch) -> None:
    monkeypatch.setattr(disk_module, "_BATCH_VALUES", 4)
    fill(disk, (MIB,) * 20)
    left = [2]

    def go_on() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError("nobody listens any more")

    with pytest.raises(InterruptedError):
        disk.resize(5 * MIB, go_on)
    assert len(paths(cache / "objects")) == 12
    assert disk.keep(key(99), content(key(99), MIB))
    disk.settle()
    assert bytes_of_files(cache / "objects") <= 5 * MIB


# -- folders that are none of ours


def test_folders_that_are_no_caches_are_refused(tmp_path, cache, disk) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "nothing", "there is no cache"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "empty", "no cache of egofs"),
        (tmp_path, "no cache of egofs"),
    ):
        with pytest.raises(OptionError, match=said):
            diskcare.checked(path, writing=True)
    link = tmp_path / "link"
    link.symlink_to(cache)
    assert diskcare.checked(link, writing=True) == cache
    (cache / "objects").rename(tmp_path / "moved")
    (cache / "objects").symlink_to(tmp_path / "moved")
    with pytest.raises(OptionError, match="a link"):
        diskcare.checked(cache, writing=False)


def test_another_users_cache_is_refused_but_to_root(cache, disk, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OptionError, match=f"uid {cache.stat().st_uid}"):
        diskcare.checked(cache, writing=False)


def test_a_read_only_disk_is_looked_at_and_not_written(cache) -> None:
    disk = Disk(cache / "objects", 1 << 30)
    fill(disk)
    disk.close()
    bind = [["mount", "--bind", str(cache), str(cache)], ["mount", "-o", "remount,ro,bind", str(cache)]]
    if os.geteuid() != 0 or any(subprocess.run(command, capture_output=True).returncode for command in bind):
        subprocess.run(["umount", str(cache)], capture_output=True)
        pytest.skip("only root can mount a folder read-only, and not everywhere")
    try:
        assert diskcare.facts(diskcare.checked(cache, writing=False))["values"]["files"] == len(LENGTHS)
        assert checked(cache).values == len(LENGTHS)
        with pytest.raises(OptionError, match="read-only"):
            diskcare.checked(cache, writing=True)
        with pytest.raises(CacheFailed, match="cannot be used"):
            clear.clear(cache, before=None, in_use=False)
    finally:
        subprocess.run(["umount", str(cache)], check=True)
