"""Archives as folders through real mounts: against unpacking, with videos and databases in them, and what they cost."""

import errno
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import simplejpeg

from tests.archives import tame, tar_gz_of, tar_of, wild, zip_of
from tests.clips import make_clip
from tests.mounting import Mount, mounted
from tests.s3server import S3Server
from tests.test_mount_s3 import ENV, options
from vfs.video import stamp

pytestmark = pytest.mark.mount

MIB = 1 << 20
Mounting = Callable[..., AbstractContextManager[Mount]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder that is mounted, as it is or as a bucket."""
    folder = tmp_path / "store/bucket"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(params=["local", "s3"])
def mounting(request: pytest.FixtureRequest, store: Path, tmp_path: Path) -> Iterator[Mounting]:
    """Mounts the store; the same again with the same cache when it is called again."""
    if request.param == "local":
        yield lambda *extra: mounted(store, tmp_path / "m", *extra, cache=tmp_path / "c")
        return
    with S3Server(store.parent) as server:
        yield lambda *extra: mounted(
            "s3://bucket", tmp_path / "m", options(server), *extra, cache=tmp_path / "c", env=ENV
        )
        assert {each.method for each in server.requests} <= {"GET", "HEAD"}


def fill(folder: Path) -> None:
    """A tree of files of all kinds."""
    for path, data in {
        "a.txt": b"alpha",
        "empty": b"",
        "dir/small.bin": wild(3000),
        "dir/deep/er/tame.bin": tame(3 * MIB),
        "dir/large.bin": tame(9 * MIB, 2),
        "ünï code/日本": b"1",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "hollow").mkdir()
    (folder / "dir/link").symlink_to("../a.txt")
    os.link(folder / "dir/small.bin", folder / "hard")


def pack(tree: Path, store: Path) -> None:
    """The tree in an archive of each kind, made by the usual programs; extraction gives `tree` again."""
    subprocess.run(["zip", "-qry", store / "zipped.zip", "."], cwd=tree, check=True)
    subprocess.run(["tar", "cf", store / "tarred.tar", "-C", tree, "."], check=True)
    subprocess.run(["tar", "czf", store / "packed.tar.gz", "-C", tree, "."], check=True)
    subprocess.run(["tar", "czf", store / "short.tgz", "--format=pax", "-C", tree, "."], check=True)


def test_the_folders_equal_what_unpacking_gives(store: Path, mounting: Mounting, tmp_path: Path) -> None:
    fill(tmp_path / "tree")
    pack(tmp_path / "tree", store)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["unzip", "-q", store / "zipped.zip", "-d", out], check=True)
    archives = {"zipped": "zipped.zip", "tarred": "tarred.tar", "packed": "packed.tar.gz", "short": "short.tgz"}
    for _ in range(2):
        with mounting() as mount:
            assert set(os.listdir(mount.directory)) - {".egofs"} == {*archives, *archives.values()}
            for folder, name in archives.items():
                subprocess.run(["diff", "-r", "--no-dereference", mount / folder, out], check=True)
                subprocess.run(["cmp", mount / name, store / name], check=True)
                assert (mount / folder / "dir/large.bin").stat().st_size == 9 * MIB
                assert os.readlink(mount / folder / "dir/link") == "../a.txt"
                again = subprocess.run(["tar", "cf", "-", "-C", mount / folder, "."], check=True, capture_output=True)
                unpacked = tmp_path / f"again-{folder}"
                unpacked.mkdir(exist_ok=True)
                subprocess.run(["tar", "xf", "-", "-C", unpacked], check=True, input=again.stdout)
                subprocess.run(["diff", "-r", "--no-dereference", unpacked, out], check=True)


def test_any_place_of_any_member_reads_right_in_many_processes(store: Path, mounting: Mounting, tmp_path: Path) -> None:
    files = {f"m{number}": tame(6 * MIB, number) for number in range(3)}
    (store / "x.zip").write_bytes(zip_of(files))
    (store / "y.tar.gz").write_bytes(tar_gz_of(files, 1))
    (store / "z.zip").write_bytes(zip_of(files, zipfile.ZIP_STORED))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import os,random,sys\n"
        "rng=random.Random(int(sys.argv[1]))\n"
        "for _ in range(60):\n"
        "    name=f'm{rng.randrange(3)}'; start=rng.randrange(6<<20); length=rng.choice([1,4096,300_000])\n"
        "    a,b=(os.open(os.path.join(p,name),os.O_RDONLY) for p in (sys.argv[2],sys.argv[3]))\n"
        "    assert os.pread(a,length,start)==os.pread(b,length,start),(name,start,length)\n"
        "    os.close(a); os.close(b)\n"
    )
    with mounting() as mount:
        readers = [
            subprocess.Popen([sys.executable, "-c", code, str(number), mount / folder, tmp_path])
            for number, folder in enumerate(["x", "y", "z", "y"])
        ]
        assert [reader.wait(120) for reader in readers] == [0, 0, 0, 0]


def test_videos_in_archives_have_their_frames(store: Path, mounting: Mounting, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    make_clip(clip, frames=60, gop=30)
    files = {"deep/clip.mp4": clip.read_bytes()}
    (store / "stored.zip").write_bytes(zip_of(files, zipfile.ZIP_STORED))
    (store / "deflated.zip").write_bytes(zip_of(files))
    (store / "packed.tar.gz").write_bytes(tar_gz_of(files))
    with mounting() as mount:
        for name in ("stored", "deflated", "packed"):
            folder = mount / name / "deep"
            assert sorted(os.listdir(folder)) == ["clip.mp4", "frames"]
            pictures = sorted(os.listdir(folder / "frames/clip"))
            assert len(pictures) == 60
            for number in (0, 17, 59):
                picture = (folder / "frames/clip" / pictures[number]).read_bytes()
                assert stamp.read(simplejpeg.decode_jpeg(picture)) == number
            assert os.getxattr(folder / "clip.mp4", "user.egofs.frames") == b"60"
            assert (folder / "clip.mp4").read_bytes() == clip.read_bytes()


def test_databases_in_zips_are_opened_by_lmdb_under_their_canonical_names(
    store: Path, mounting: Mounting, tmp_path: Path
) -> None:
    import lmdb

    with lmdb.open(str(tmp_path / "env"), map_size=64 * MIB) as env, env.begin(write=True) as transaction:
        for number in range(500):
            transaction.put(f"view_{number:010d}.jpg".encode(), wild(8192, number))
    (store / "TSM_features").mkdir()
    for camera, inside in (("C10095_rgb", "C10095_rgb"), ("C10115_rgb", "TSM_features/C10115_rgb")):
        with zipfile.ZipFile(store / f"TSM_features/{camera}.zip", "w", zipfile.ZIP_STORED) as archive:
            archive.write(tmp_path / "env/data.mdb", f"{inside}/data.mdb")
            archive.write(tmp_path / "env/lock.mdb", f"{inside}/lock.mdb")
    code = (
        "import lmdb,random,sys\n"
        "env=lmdb.open(sys.argv[1],readonly=True,lock=False)\n"
        "with env.begin() as t:\n"
        "    for n in (0,17,499):\n"
        "        assert bytes(t.get(f'view_{n:010d}.jpg'.encode()))==random.Random(n).randbytes(8192)\n"
    )
    with mounting("dataset=assembly101") as mount:
        folders = {"C10095_rgb", "C10115_rgb", "v1", "v2"}
        assert set(os.listdir(mount / "TSM_features")) == folders | {f"{name}.zip" for name in folders}
        for name in sorted(folders):
            subprocess.run([sys.executable, "-c", code, mount / "TSM_features" / name], check=True, timeout=60)


def test_without_archives_they_are_files_alone(store: Path, mounting: Mounting) -> None:
    (store / "x.zip").write_bytes(zip_of({"a": b"1"}))
    with mounting("archives=false") as mount:
        assert set(os.listdir(mount.directory)) - {".egofs"} == {"x.zip"}
        assert not (mount / "x").exists()
        assert (mount / "x.zip").read_bytes() == (store / "x.zip").read_bytes()
    with mounting() as mount:
        assert (mount / "x/a").read_bytes() == b"1"


def test_an_archive_that_cannot_be_read_is_eio_and_the_log_says_why(store: Path, mounting: Mounting) -> None:
    (store / "x.zip").write_bytes(b"no zip" * 1000)
    (store / "y.tar.gz").write_bytes(tar_gz_of({"f": wild(10_000)})[:-100])
    (store / "good.tar").write_bytes(tar_of({"f": b"1"}))
    with mounting() as mount:
        for name in ("x", "y"):
            with pytest.raises(OSError) as caught:
                os.listdir(mount / name)
            assert caught.value.errno == errno.EIO
        assert (mount / "x.zip").read_bytes() == b"no zip" * 1000
        assert (mount / "good/f").read_bytes() == b"1"
        log = mount.log.read_text()
        assert "x.zip: it has no end record: it is no zip, or not whole" in log
        assert "y.tar.gz: ends in the middle of its deflated bytes" in log


def test_a_replaced_archive_is_stale_for_who_has_a_member_open_and_fresh_for_the_next(
    store: Path, mounting: Mounting
) -> None:
    def put(data: bytes) -> None:
        (store.parent / "new").write_bytes(zip_of({"f": data}, zipfile.ZIP_STORED))
        os.replace(store.parent / "new", store / "x.zip")

    put(b"a" * 4 * MIB)
    with mounting() as mount:
        descriptor = os.open(mount / "x/f", os.O_RDONLY)
        assert os.pread(descriptor, 5, 0) == b"aaaaa"
        put(b"b" * 3 * MIB)
        with pytest.raises(OSError) as caught:
            os.pread(descriptor, 5, 3 * MIB)
        assert caught.value.errno == errno.ESTALE
        os.close(descriptor)
        assert (mount / "x/f").read_bytes() == b"b" * 3 * MIB


def test_costs_through_a_mount_are_those_of_what_is_read(store: Path, tmp_path: Path) -> None:
    files = {f"d/f{number:05d}.jpg": wild(300, number) for number in range(10_000)} | {"big": wild(5 * MIB)}
    (store / "x.zip").write_bytes(zip_of(files, zipfile.ZIP_STORED))
    with S3Server(store.parent) as server:
        gets = lambda: [each for each in server.requests if each.path.endswith("x.zip")]  # noqa: E731
        with mounted("s3://bucket", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
            assert os.listdir(mount.directory)
            assert not gets()
            assert len(os.listdir(mount / "x/d")) == 10_000
            assert len(gets()) <= 3
            before = mount.status()["fetched"]["bytes_fetched"]
            assert (mount / "x/big").read_bytes() == files["big"]
            assert mount.status()["fetched"]["bytes_fetched"] - before <= 6 * MIB
        before_requests = len(server.requests)
        with mounted("s3://bucket", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
            assert len(os.listdir(mount / "x/d")) == 10_000
            assert (mount / "x/big").read_bytes() == files["big"]
        assert len(server.requests) == before_requests


def test_an_index_in_the_cache_serves_who_has_lost_the_catalog(store: Path, tmp_path: Path) -> None:
    (store / "x.tar.gz").write_bytes(tar_gz_of({"a/f": wild(2 * MIB)}))
    ranges = []
    with S3Server(store.parent) as server:
        for _ in range(2):
            with mounted("s3://bucket", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
                assert os.listdir(mount / "x/a") == ["f"]
            ranges.append(sum(bool(each.range) for each in server.requests))
            for file in (tmp_path / "c").glob("catalog.sqlite*"):
                file.unlink()
    assert ranges[0] == ranges[1] > 0
