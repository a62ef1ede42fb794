"""Real mounts of a dataset whose manifest tells no sizes: what tools see, and what it costs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import mounting
from tests.faults import Status
from tests.mounting import Mount, mounted
from tests.s3server import Request, S3Server

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
PLACES = ("cmu/v2", "iiith/v2", "unc/v2")
SIZES = {f"{n:03d}": 100 * n + n % 7 for n in range(300)}

# A line of `manifest.txt` is a folder, a name, a key and a size (-1: not told), with a tab between them.
DATASET = '''
from collections.abc import Iterator
from pathlib import Path

from vfs.catalog import Entry, Tree
from vfs.datasets import Dataset
from vfs.frames import FrameRule
from vfs.node import Kind
from vfs.options import option_group
from vfs.sources import ObjectInfo, Source


@option_group
class Options:
    """None."""


class Manifest(Dataset):
    name = "manifest"
    listing_age_s = 1000.0

    def __init__(self, source: Source) -> None:
        self.source = source

    def check(self) -> None:
        pass

    def entries(self, folder: str) -> Tree:
        obj = self.source.stat("manifest.txt")
        lines = bytes(self.source.read(obj, 0, obj.size_bytes)).decode().splitlines()
        told = (line.split("\\t") for line in lines)
        return Tree(
            (folder, Entry(name, Kind.FILE, ObjectInfo(key, int(size), 0, ""))) for folder, name, key, size in told
        )

    def frame_rule(self, folder: str, view: str) -> FrameRule:
        return FrameRule(None, 0, "{number}.jpg")

    def facts(self, folder: str, name: str) -> dict[str, str]:
        return {}


def open_dataset(source: Source, options: Options, state: Path) -> Manifest:
    return Manifest(source)
'''


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bucket, whose dataset every `egofs` of this test knows."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/manifest.py").write_text(DATASET)
    known = f"import vfs.datasets; vfs.datasets.__path__.append({str(tmp_path / 'datasets')!r})"
    monkeypatch.setattr(
        mounting, "EGOFS", [sys.executable, "-c", f"{known}; from mountd.cli import main; main(prog_name='egofs')"]
    )
    bucket = tmp_path / "store/bucket"
    for place in PLACES:
        (bucket / place).mkdir(parents=True)
    for n, (name, size) in enumerate(SIZES.items()):
        (bucket / PLACES[n % 3] / name).write_bytes(name.encode() * size)
    tell(bucket, [("v2", f"{name}.bin", f"{PLACES[n % 3]}/{name}", -1) for n, name in enumerate(SIZES)])
    return bucket


@pytest.fixture
def server(store: Path) -> Iterator[S3Server]:
    with S3Server(store.parent) as server:
        yield server


def tell(bucket: Path, lines: list[tuple[str, str, str, int]]) -> None:
    (bucket / "manifest.txt").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))


def mount(server: S3Server, tmp_path: Path, name: str = "m"):  # type: ignore[no-untyped-def]
    return mounted(
        *("s3://bucket", tmp_path / name, f"endpoint_url={server.endpoint_url}", "dataset=manifest"),
        cache=tmp_path / "c",
        env=ENV,
    )


class Asked:
    """What a server was asked since."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._before = len(server.requests)

    def requests(self) -> list[Request]:
        """All but for the manifest, and where the bucket is."""
        of_mount = ("/bucket", "/bucket/manifest.txt")
        since = self._server.requests[self._before :]
        return [request for request in since if request.path not in of_mount or "prefix" in request.query]

    def lists(self) -> list[str]:
        return sorted(request.query["prefix"] for request in self.requests() if "prefix" in request.query)

    def heads(self) -> list[str]:
        return sorted(request.path for request in self.requests() if request.method == "HEAD")


def refuse_lists(server: S3Server) -> None:
    server.faults = lambda request: Status(403, "AccessDenied") if "prefix" in request.query else None


def sizes(m: Mount, folder: str = "v2") -> dict[str, int]:
    """As `ls -l` finds them."""
    with os.scandir(m / folder) as entries:
        return {entry.name.removesuffix(".bin"): entry.stat().st_size for entry in entries}


EXPECTED = {name: 3 * size for name, size in SIZES.items()}


def test_names_cost_nothing_and_sizes_a_listing_of_each_folder_of_the_store(server, tmp_path) -> None:
    with mount(server, tmp_path) as m:
        asked = Asked(server)
        assert sorted(os.listdir(m / "v2")) == [f"{name}.bin" for name in SIZES]
        assert (
            subprocess.run(["find", m.directory, "-type", "f"], capture_output=True, check=True).stdout.count(b"\n")
            == 300
        )
        assert asked.requests() == []
        assert m.status()["known_bytes"] == 0
        assert sizes(m) == EXPECTED
        assert asked.lists() == [f"{place}/" for place in PLACES]
        assert asked.heads() == []
        assert m.status()["known_bytes"] == sum(EXPECTED.values())
    with mount(server, tmp_path) as m:
        asked = Asked(server)
        assert sizes(m) == EXPECTED
        assert asked.requests() == []


def test_where_listing_is_refused_each_object_is_asked_for_once_in_all_mounts(server, tmp_path) -> None:
    refuse_lists(server)
    asked = Asked(server)
    for _ in range(2):
        with mount(server, tmp_path) as m:
            assert sizes(m) == EXPECTED
    assert len(asked.heads()) == len(set(asked.heads())) == 300
    assert set(asked.lists()) == {f"{place}/" for place in PLACES}


def test_find_by_size_ls_and_stat_agree_with_the_store(server, tmp_path) -> None:
    with mount(server, tmp_path) as m:
        found = subprocess.run(
            ["find", m / "v2", "-size", "+80000c", "-printf", "%f\n"], capture_output=True, text=True, check=True
        ).stdout
        assert sorted(found.split()) == [f"{name}.bin" for name, size in EXPECTED.items() if size > 80000]
    with mount(server, tmp_path) as m:
        listed = subprocess.run(["ls", "-ln", m / "v2"], capture_output=True, text=True, check=True).stdout
        assert [int(line.split()[4]) for line in listed.splitlines()[1:]] == [*EXPECTED.values()]


def test_what_is_read_right_after_its_name_was_listed_is_whole(server, tmp_path, store) -> None:
    with mount(server, tmp_path) as m:
        names = os.listdir(m / "v2")
        assert (m / "v2" / names[5]).read_bytes() == (store / PLACES[5 % 3] / "005").read_bytes()
        data = subprocess.run(["cat", m / "v2/017.bin"], capture_output=True, check=True).stdout
        assert data == (store / PLACES[17 % 3] / "017").read_bytes()


def test_a_copy_of_the_tree_is_the_store(server, tmp_path, store) -> None:
    with mount(server, tmp_path) as m:
        subprocess.run(["cp", "-r", m / "v2", tmp_path / "copy"], check=True)
    copied = {path.name.removesuffix(".bin"): path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert copied == {name: name.encode() * size for name, size in SIZES.items()}


def test_an_open_file_lasts_while_names_are_listed_and_sizes_are_found(server, tmp_path, store) -> None:
    with mount(server, tmp_path) as m, (m / "v2/200.bin").open("rb", buffering=0) as file:
        first = file.read(100)
        assert len(os.listdir(m / "v2")) == 300
        assert sizes(m) == EXPECTED
        assert os.fstat(file.fileno()).st_size == EXPECTED["200"]
        assert os.fstat(file.fileno()).st_ino == (m / "v2/200.bin").stat().st_ino
        assert first + file.read() == (store / PLACES[200 % 3] / "200").read_bytes()


def test_many_processes_in_two_mounts_at_once_see_the_same(server, tmp_path) -> None:
    with mount(server, tmp_path) as m, mount(server, tmp_path, "n") as n, ThreadPoolExecutor(8) as threads:
        asked = Asked(server)
        lists = [
            threads.submit(subprocess.run, ["ls", "-lnU", each / "v2"], capture_output=True) for each in (m, n) * 4
        ]
        told = {frozenset(tuple(line.split()[4:]) for line in each.result().stdout.splitlines()[1:]) for each in lists}
        assert len(told) == 1
        assert len(next(iter(told))) == 300
        assert asked.heads() == []
        assert len(asked.lists()) <= 6


def test_a_file_that_the_store_does_not_have_is_absent_and_named_in_the_log(server, tmp_path, store) -> None:
    (store / PLACES[0] / "003").unlink()
    with mount(server, tmp_path) as m:
        assert "003.bin" in os.listdir(m / "v2")
        with pytest.raises(FileNotFoundError):
            (m / "v2/003.bin").stat()
        assert "003.bin" not in os.listdir(m / "v2")
        assert f"{PLACES[0]}/003" in (m / ".egofs/errors.log").read_text()
        assert len(sizes(m)) == 299


@pytest.mark.parametrize("told", [4000, 70_000, 3_000_000])
def test_an_object_of_another_size_than_the_manifest_tells_is_stale_and_right_when_opened_again(
    server, tmp_path, store, told
) -> None:
    data = os.urandom(65_000)
    (store / "cmu/v2/x").write_bytes(data)
    tell(store, [("", "x.bin", "cmu/v2/x", told)])
    for attempt in range(2):
        with mount(server, tmp_path) as m:
            if not attempt:
                assert (m / "x.bin").stat().st_size == told
                with pytest.raises(OSError, match="Stale file handle"):
                    (m / "x.bin").read_bytes()
            assert (m / "x.bin").stat().st_size == len(data)
            assert (m / "x.bin").read_bytes() == data


def test_an_object_of_the_size_that_the_manifest_tells_costs_its_bytes_alone(server, tmp_path, store) -> None:
    data = os.urandom(65_000)
    (store / "cmu/v2/x").write_bytes(data)
    tell(store, [("", "x.bin", "cmu/v2/x", len(data))])
    with mount(server, tmp_path) as m:
        asked = Asked(server)
        assert (m / "x.bin").read_bytes() == data
        assert [(request.method, request.path) for request in asked.requests()] == [("GET", "/bucket/cmu/v2/x")]


def test_a_local_store_is_read_by_a_manifest_too(store, tmp_path) -> None:
    shutil.copy(store / PLACES[1] / "001", store / "cmu/v2/x")
    lines = [("d", "x.bin", "cmu/v2/x", 3 * SIZES["001"]), ("d", "y.bin", f"{PLACES[2]}/299", -1), ("d", "z", "no", -1)]
    tell(store, lines)
    with mounted(store, tmp_path / "m", "dataset=manifest", cache=tmp_path / "c") as m:
        assert sorted(os.listdir(m / "d")) == ["x.bin", "y.bin", "z"]
        assert (m / "d/x.bin").read_bytes() == b"001" * SIZES["001"]
        assert (m / "d/y.bin").read_bytes() == b"299" * SIZES["299"]
        assert not (m / "d/z").exists()
