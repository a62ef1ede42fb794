"""Environments merged into one: every pair, whatever ends it on the way; and what is refused."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from mountd import lmdbmerge, mounts
from mountd.lmdbmerge import MergeFailed
from tests.mounting import egofs
from vfs.datasets.assembly101 import merged_lmdb
from vfs.errors import OptionError

HMC_8, HMC_2 = "HMC_84358933_mono10bit", "HMC_21179183_mono10bit"
Pairs = dict[bytes, bytes]


def features(camera: str, recording: str, count: int, size: int = 8192) -> Pairs:
    dice = random.Random(f"{camera}{recording}")
    return {
        f"{recording}/{camera}/{camera}_{number:010d}.jpg".encode(): dice.randbytes(size)
        for number in range(1, count + 1)
    }


ONE = features(HMC_8, "nusar-b", 40)
TWO = features(HMC_2, "nusar-a", 30) | features(HMC_2, "nusar-c", 30)


def make(folder: Path, pairs: Pairs, **options: Any) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=64 << 20, **options) as environment, environment.begin(write=True) as writing:
        for key, value in pairs.items():
            writing.put(key, value)
    return folder


def pairs_in(folder: Path) -> list[tuple[bytes, bytes]]:
    """In the order of the environment."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reading:
        return list(reading.cursor().iternext())


@contextlib.contextmanager
def _show(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    yield lambda count, size_bytes: None


def merge(members: list[Path], out: Path) -> lmdbmerge.Record:
    return lmdbmerge.merge(members, out, _show, lambda text: None)


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / "TSM" / HMC_8, ONE), make(tmp_path / "TSM" / HMC_2, TWO)]


def test_the_merge_has_every_pair_of_all_members_in_order_and_nothing_else(members: list[Path], tmp_path: Path) -> None:
    record = merge(members, tmp_path / "e4")
    assert pairs_in(tmp_path / "e4") == sorted((ONE | TWO).items())
    assert (record.count, record.bytes) == (100, 100 * 8192)
    assert sorted(os.listdir(tmp_path / "e4")) == ["data.mdb", "egofs-merge.json", "lock.mdb"]
    assert not (tmp_path / "e4.partial").exists()


def test_three_members_are_merged_and_the_checksum_does_not_depend_on_their_order(tmp_path: Path) -> None:
    parts = [dict(list(TWO.items())[n::3]) for n in range(3)]
    folders = [make(tmp_path / str(n), part) for n, part in enumerate(parts)]
    records = [merge(order, tmp_path / f"out{n}") for n, order in enumerate((folders, folders[::-1]))]
    assert records[0].checksum == records[1].checksum
    assert pairs_in(tmp_path / "out0") == pairs_in(tmp_path / "out1") == sorted(TWO.items())


def test_values_of_any_size_stay_as_they_are(tmp_path: Path) -> None:
    odd = {b"a": b"", b"b": b"x", b"c": bytes(8191), b"d": os.urandom(100_001), b"\xff\xfe": b"y"}
    merge([make(tmp_path / "x", odd), make(tmp_path / "y", {b"aa": b"z"})], tmp_path / "out")
    assert dict(pairs_in(tmp_path / "out")) == odd | {b"aa": b"z"}


def test_an_empty_member_adds_nothing(members: list[Path], tmp_path: Path) -> None:
    empty = make(tmp_path / "empty", {})
    merge([members[0], empty], tmp_path / "out")
    assert dict(pairs_in(tmp_path / "out")) == ONE
    assert merge([empty, make(tmp_path / "empty2", {})], tmp_path / "none").count == 0


def test_a_key_that_two_members_have_with_one_value_stands_once(tmp_path: Path) -> None:
    both = [make(tmp_path / name, pairs) for name, pairs in (("x", ONE), ("y", ONE | {b"z": b"1"}))]
    assert merge(both, tmp_path / "out").count == len(ONE) + 1


def test_a_key_with_two_values_ends_the_merge_and_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lmdbmerge, "_COMMIT_BYTES", 8192)
    other = dict(ONE) | {sorted(ONE)[20]: bytes(8192)}
    with pytest.raises(MergeFailed, match=r"000021\.jpg: two members have other values") as failure:
        merge([make(tmp_path / "x", ONE), make(tmp_path / "y", other)], tmp_path / "out")
    assert "\n" not in str(failure.value)
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_a_conflict_at_the_key_where_it_was_interrupted_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    # The last key that is written before the end of the transaction: its double in the other member comes after.
    x, y = make(tmp_path / "x", {b"a": b"1" * 9000, b"b": b"2"}), make(tmp_path / "y", {b"a": b"3" * 9000})
    monkeypatch.setattr(lmdbmerge, "_COMMIT_BYTES", 8192)
    plain = lmdbmerge._fill

    def once(*arguments: Any) -> None:
        if arguments[3].count:
            raise KeyboardInterrupt
        plain(*arguments)

    monkeypatch.setattr(lmdbmerge, "_fill", once)
    with pytest.raises(KeyboardInterrupt):
        merge([x, y], tmp_path / "out")
    monkeypatch.setattr(lmdbmerge, "_fill", plain)
    with pytest.raises(MergeFailed, match="a: two members have other values"):
        merge([x, y], tmp_path / "out")


# -- interruptions


def killed(members: list[Path], out: Path, events: int, commit_bytes: int) -> tuple[bool, int]:
    """Merges in a child that kills itself with SIGKILL after so many calls and returns of this module's functions, of
    lmdb and of the system. Gives whether it was killed, and how many there were if not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal seen
            if frame.f_code.co_filename == lmdbmerge.__file__:
                seen += 1
                if seen == events:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            lmdbmerge._COMMIT_BYTES = commit_bytes
            sys.setprofile(count)
            merge(members, out)
            sys.setprofile(None)
            os.write(writing, str(seen).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as told:
        count = told.read()
    was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert was_killed or status == 0, "the merge failed"
    return was_killed, int(count or 0)


def contents(folder: Path) -> tuple[Any, Any]:
    return pairs_in(folder), json.loads((folder / "egofs-merge.json").read_text())


@pytest.fixture
def whole(members: list[Path], tmp_path: Path) -> tuple[Any, Any]:
    merge(members, tmp_path / "whole")
    return contents(tmp_path / "whole")


def test_killed_at_random_again_and_again_it_goes_on_and_gives_the_same(
    members: list[Path], tmp_path: Path, whole: Any
) -> None:
    _, total = killed(members, tmp_path / "e4", 0, 10 * 8192)
    assert contents(tmp_path / "e4") == whole
    dice = random.Random(4)
    kills = 0
    for chain in range(6):
        out = tmp_path / f"chain{chain}"
        while killed(members, out, dice.randrange(1, total // 2), 10 * 8192)[0]:
            assert not out.exists()
            kills += 1
        assert contents(out) == whole
        assert not out.with_name(f"{out.name}.partial").exists()
    assert kills >= 12


def test_killed_at_any_place_of_its_end_it_goes_on_and_gives_the_same(
    members: list[Path], tmp_path: Path, whole: Any
) -> None:
    def verified(commit_bytes: int, out: Path) -> int:
        return killed(members, out, 0, commit_bytes)[1]

    total = verified(1 << 20, tmp_path / "e4")
    # The pairs are read again in the last half; around it is what seals the result and gives it its name.
    places = [*range(total - 60, total + 1), *range(total // 2 - 20, total // 2 + 60, 2)]
    kills = 0
    for place in places:
        out = tmp_path / "x"
        kills += killed(members, out, place, 1 << 20)[0]
        if not out.exists():
            killed(members, out, 0, 1 << 20)
        assert contents(out) == whole
        shutil.rmtree(out)
    assert kills >= len(places) - 5


def test_what_was_written_before_is_not_read_again(members: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lmdbmerge, "_COMMIT_BYTES", 10 * 8192)
    told: list[tuple[str, int]] = []
    _, total = killed(members, tmp_path / "e4", 0, 10 * 8192)
    assert killed(members, tmp_path / "x", total // 3, 10 * 8192)[0]

    @contextlib.contextmanager
    def show(what: str, count: int) -> Iterator[Callable[[int, int], None]]:
        done = []
        yield lambda more, size_bytes: done.append(more)
        told.append((what, sum(done)))
        assert sum(done) == count

    lmdbmerge.merge(members, tmp_path / "x", show, lambda text: None)
    (_, merged), (_, verified) = told
    assert verified == 100
    assert 0 < merged < 100
    assert merged % 10 == 0


def test_a_transaction_is_ended_as_soon_as_it_is_large(members: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lmdbmerge, "_COMMIT_BYTES", 10 * 8192)
    merge(members, tmp_path / "e4")
    with lmdb.open(str(tmp_path / "e4"), readonly=True, lock=False) as environment:
        # Ten of ten pairs, the one that finds that there are no more, and the one that takes the record away.
        assert environment.info()["last_txnid"] == 12


def test_other_features_than_it_was_begun_with_are_refused(members: list[Path], tmp_path: Path) -> None:
    _, total = killed(members, tmp_path / "e4", 0, 10 * 8192)
    assert killed(members, tmp_path / "x", total // 3, 10 * 8192)[0]
    with lmdb.open(str(members[0]), map_size=64 << 20) as environment, environment.begin(write=True) as writing:
        writing.put(b"z", b"")
    with pytest.raises(OptionError, match=r"x\.partial: what is there was begun with other features: remove it"):
        merge(members, tmp_path / "x")


def test_two_that_merge_into_one_place_do_not_meet(members: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lmdbmerge, "_LOCK_S", 0.1)
    (tmp_path / "e4.partial").mkdir()
    with (tmp_path / "e4.partial/egofs-merge.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OptionError, match="another process merges here"):
            merge(members, tmp_path / "e4")
    merge(members, tmp_path / "e4")


# -- what is wrong


def test_a_member_that_is_cut_off_is_refused_and_nothing_is_left(members: list[Path], tmp_path: Path) -> None:
    os.truncate(members[1] / "data.mdb", 200_000)
    with pytest.raises(MergeFailed, match=r"data\.mdb: it is cut off: 200000 bytes of \d+: fetch it again"):
        merge(members, tmp_path / "e4")
    assert sorted(os.listdir(tmp_path)) == ["TSM"]


@pytest.mark.parametrize("content", [b"", b"no LMDB" * 2000, bytes(100_000)])
def test_a_member_that_is_no_lmdb_is_refused(members: list[Path], tmp_path: Path, content: bytes) -> None:
    (members[1] / "data.mdb").write_bytes(content)
    with pytest.raises(OptionError, match="no LMDB can be read there"):
        merge(members, tmp_path / "e4")


def test_a_result_that_was_changed_is_found(members: list[Path], tmp_path: Path) -> None:
    merge(members, tmp_path / "e4")
    assert lmdbmerge.verify(tmp_path / "e4", _show).count == 100
    data = tmp_path / "e4/data.mdb"
    content = bytearray(data.read_bytes())
    at = content.index(next(iter(TWO.values())))
    content[at + 77] ^= 1
    data.write_bytes(content)
    with pytest.raises(MergeFailed, match="not what was written: 100 features with checksum"):
        lmdbmerge.verify(tmp_path / "e4", _show)


def test_values_that_changed_places_are_found(tmp_path: Path) -> None:
    sums = []
    for pairs in ({b"a": b"1", b"b": b"2"}, {b"a": b"2", b"b": b"1"}):
        found = lmdbmerge._Sum()
        for key, value in pairs.items():
            found.add(key, value)
        sums.append(found.checksum)
    assert sums[0] != sums[1]


@pytest.mark.parametrize("content", [None, "", "{}", '{"x": 1}', "[]"])
def test_what_was_not_merged_cannot_be_verified(members: list[Path], content: str | None) -> None:
    if content is not None:
        (members[0] / "egofs-merge.json").write_text(content)
    with pytest.raises(OptionError, match="nothing that was merged is here"):
        lmdbmerge.verify(members[0], _show)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "egofs-test", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_without_room_is_refused_before_anything_is_written(members: list[Path], disk: Path) -> None:
    with pytest.raises(OptionError, match=r"disk: 2 MiB are needed, 1 MiB are free: free some space, or .* --out"):
        merge(members, disk / "e4")
    assert os.listdir(disk) == []


def test_a_disk_that_fills_up_ends_it_and_it_goes_on_when_there_is_room(
    members: list[Path], disk: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lmdbmerge, "_COMMIT_BYTES", 10 * 8192)
    with monkeypatch.context() as patch:
        patch.setattr(lmdbmerge, "_room", lambda partial, members: 0)
        with pytest.raises(MergeFailed, match=r"e4\.partial: the disk is full; .*the same command goes on") as failure:
            merge(members, disk / "e4")
    assert "\n" not in str(failure.value)
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    merge(members, disk / "e4")
    assert pairs_in(disk / "e4") == sorted((ONE | TWO).items())


def test_a_disk_that_cannot_be_written_is_refused(members: list[Path], disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=8m", disk], check=True)
    with pytest.raises(OptionError, match="Read-only file system: choose another place with --out"):
        merge(members, disk / "sub/e4")
    with pytest.raises(OptionError, match="Read-only file system: choose another place with --out"):
        merge(members, disk / "e4")


# -- the command


def run(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    return egofs("lmdb", "merge", *arguments, env={"XDG_CACHE_HOME": str(home)})


def test_the_command_merges_a_local_folder_where_its_mounts_look_and_verifies_it(
    members: list[Path], tmp_path: Path
) -> None:
    done = run("e4", "--features", members[0].parent, home=tmp_path / "cache")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (out,) = (tmp_path / "cache/egofs/datasets/assembly101/merged").glob("*/e4")
    assert pairs_in(out) == sorted((ONE | TWO).items())
    again = run("e4", "--features", members[0].parent, home=tmp_path / "cache")
    assert (again.returncode, again.stderr) == (
        1,
        f"egofs: {out}: is there already: remove it, or give another place with --out\n",
    )
    for arguments in (["--features", members[0].parent], ["--out", out]):
        done = run("e4", "--verify-only", *arguments, home=tmp_path / "cache")
        assert (done.returncode, done.stderr) == (0, f"egofs: {out}: 100 features, 800.0 KiB, verified\n")


def test_members_and_a_place_can_be_chosen(members: list[Path], tmp_path: Path) -> None:
    make(tmp_path / "TSM/more", {b"k": b"v"})
    chosen = ["--members", f"{HMC_8}+{HMC_2}+more"]
    done = run("e4", "--features", tmp_path / "TSM", *chosen, "--out", tmp_path / "o/x", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pairs_in(tmp_path / "o/x")) == 101


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["v3"], "'v3' is not one of"),
        (["e4"], "say which mount: nothing is mounted"),
        (["e3", "--features", "{TSM}"], "e3 needs two cameras' folders, and has nothing"),
        (["e4", "--features", "{TSM}/nothing"], "No such file or directory"),
        (["e4", "--features", "{TSM}", "--members", HMC_8], "give two or more different members"),
        (["e4", "--features", "{TSM}", "--members", f"{HMC_8}+{HMC_8}"], "give two or more different members"),
        (["e4", "--features", "{TSM}", "--members", f"{HMC_8}+x"], "x: no LMDB is there"),
        (["e4", "--features", "{TSM}", "--members", f"{HMC_8}+{HMC_2}"], "say where their merge goes with --out"),
        (["e4", "--features", "{TSM}", "--out", "{TSM}"], "is there already"),
        (["e4", "--features", "{TSM}", "--verify-only"], "nothing that was merged is here"),
        (["e4", "--features", "{TSM}", "--nothing"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    members: list[Path], tmp_path: Path, arguments: list[str], says: str
) -> None:
    if "nothing is mounted" in says and "fuse.egofs" in Path("/proc/self/mountinfo").read_text():
        pytest.skip("something is mounted here")
    done = run(*(argument.format(TSM=tmp_path / "TSM") for argument in arguments), home=tmp_path / "cache")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["TSM"]


def test_a_mount_without_features_is_told_and_one_with_them_is_the_default(
    members: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def planned() -> Any:
        return lmdbmerge.plan("e4", None, None, [], tmp_path / "unused")

    mount = mounts.Mount(tmp_path, "s3://bucket", mounts.FSTYPE, "0:1")
    monkeypatch.setattr(mounts, "egofs_mounts", lambda: [mount])
    monkeypatch.setattr(mounts, "live_status", lambda mount: {"url": "s3://bucket", "cache_dir": str(tmp_path / "c")})
    with pytest.raises(OptionError, match="no TSM_features are there: say where they are with --features"):
        planned()
    (tmp_path / "TSM").rename(tmp_path / "TSM_features")
    folders, out, is_shown = planned()
    assert folders == [tmp_path / "TSM_features" / name for name in (HMC_2, HMC_8)]
    assert out == merged_lmdb(tmp_path / "c/datasets", "s3://bucket", "TSM_features", "e4")
    assert is_shown


def test_only_archives_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "TSM").mkdir()
    for camera in (HMC_8, HMC_2):
        (tmp_path / f"TSM/{camera}.zip").touch()
    done = run("e4", "--features", tmp_path / "TSM", home=tmp_path)
    assert f"has {HMC_2}.zip, {HMC_8}.zip (archives are folders in a mount" in done.stderr


def test_a_page_that_cannot_be_read_is_one_line_and_not_the_end_of_what_was_written(tmp_path: Path) -> None:
    # What is cut off while it is read: SIGBUS, which only another process can tell.
    make(tmp_path / "TSM" / HMC_8, ONE)
    make(tmp_path / "TSM" / HMC_2, TWO)
    script = (
        "import os, sys\n"
        "from mountd import cli, lmdbmerge\n"
        "plain = lmdbmerge._locked\n"
        "def cut(partial):\n"
        f"    os.truncate({str(tmp_path / 'TSM' / HMC_8 / 'data.mdb')!r}, 8192)\n"
        "    return plain(partial)\n"
        "lmdbmerge._locked = cut\n"
        "cli.main(['lmdb', 'merge', 'e4', '--features', sys.argv[1], '--out', sys.argv[2]])\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "TSM", tmp_path / "o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 32
    assert lines[0].startswith("egofs: 100 features, at most 2 MiB more, go to")
    assert lines[1:] == [
        f"egofs: {tmp_path / 'o'}: ended by signal 7: a page of a file could not be read (.egofs/errors.log of its "
        "mount says why); the same command goes on"
    ]
    assert not (tmp_path / "o").exists()
