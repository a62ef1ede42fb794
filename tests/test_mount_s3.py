"""A bucket mounted over HTTP: bytes, requests, versions, credentials."""

import hashlib
import os
import re
import shutil
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

from tests.clips import make_clip
from tests.mounting import egofs, files_below, is_mounted, mounted
from tests.s3server import S3Server
from vfs.video import stamp

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / "store/bucket/data/sub").mkdir(parents=True)
    with S3Server(tmp_path / "store") as server:
        yield server


def options(server: S3Server) -> str:
    return f"endpoint_url={server.endpoint_url}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_demo_over_s3_has_the_sources_bytes_frames_and_names(tmp_path: Path, demo_root: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/bucket").symlink_to(demo_root)
    with (
        S3Server(tmp_path / "store") as server,
        mounted(
            "s3://bucket", tmp_path / "m", options(server), "dataset=assembly101", cache=tmp_path / "c", env=ENV
        ) as m,
    ):
        there, here = files_below(m.directory), files_below(demo_root)
        archived = [there.pop(name) for name in list(there) if name.startswith("metadata/")]
        assert len(archived) == len(list((m / "recordings").iterdir()))
        assert sorted(there) == sorted(here)
        assert {n: p.stat().st_size for n, p in there.items()} == {n: p.stat().st_size for n, p in here.items()}
        assert {n: sha256(p) for n, p in there.items()} == {n: sha256(p) for n, p in here.items()}
        first = max((m / "recordings").iterdir())
        assert (first / "frames/e4/e4_0000000081.jpg").read_bytes().startswith(b"\xff\xd8")
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}


def test_a_remount_reads_what_was_read_before_without_one_request(server: S3Server, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "store/bucket/data/sub/x.bin").write_bytes(data)
    for _ in range(2):
        with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
            before = len(server.requests)
            assert os.listdir(mount.directory) == ["sub"]
            assert (mount / "sub/x.bin").read_bytes() == data
            assert (mount / "sub/x.bin").stat().st_size == len(data)
            assert not (mount / "sub/nothing").exists()
    assert len(server.requests) == before
    assert mount


def test_a_frame_read_again_after_a_remount_costs_no_request(tmp_path: Path, demo_root: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/bucket").symlink_to(demo_root)
    pictures = []
    with S3Server(tmp_path / "store") as server:
        for _ in range(2):
            with mounted(
                "s3://bucket", tmp_path / "m", options(server), "dataset=assembly101", cache=tmp_path / "c", env=ENV
            ) as mount:
                before = len(server.requests)
                first = max((mount / "recordings").iterdir())
                pictures.append((first / "frames/v3/v3_0000000041.jpg").read_bytes())
        assert len(server.requests) == before
    assert pictures[0] == pictures[1]


def test_listing_costs_no_request_a_file(server: S3Server, tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"store/bucket/data/sub/{n}").write_bytes(b"x" * n)
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        before = len(server.requests)
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(mount / "sub")}
        assert sizes == {str(n): n for n in range(300)}
        assert len(server.requests) - before <= 2


def test_a_read_of_little_fetches_little(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data/big").write_bytes(bytes(64 << 20))
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        descriptor = os.open(mount / "big", os.O_RDONLY)
        assert os.pread(descriptor, 10, 40 << 20) == bytes(10)
        os.close(descriptor)
        assert mount.status()["fetched"]["bytes_fetched"] <= 2 << 20


def test_an_object_changed_under_an_open_file_is_stale_and_fresh_for_the_next_open(
    server: S3Server, tmp_path: Path
) -> None:
    file = tmp_path / "store/bucket/data/x"
    file.write_bytes(b"a" * (4 << 20))
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        descriptor = os.open(mount / "x", os.O_RDONLY)
        assert os.pread(descriptor, 5, 0) == b"aaaaa"
        file.write_bytes(b"b" * (3 << 20))
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(descriptor, 5, 3 << 20)
        assert (mount / "x").read_bytes() == b"b" * (3 << 20)
        assert (mount / "x").stat().st_size == 3 << 20
        # The old handle goes on with its own version: what it has, or nothing, but no page of the new one.
        assert os.pread(descriptor, 5, 0) == b"aaaaa"
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(descriptor, 5, 2 << 20)
        os.close(descriptor)


def test_frames_of_a_replaced_video_are_the_new_ones_at_the_next_open(server: S3Server, tmp_path: Path) -> None:
    file = tmp_path / "store/bucket/data/clip.mp4"
    # Larger than two chunks, so that not all of the old version is in the cache when it is replaced.
    noise = np.random.default_rng(1)

    def draw(number: int) -> av.VideoFrame:
        luma = noise.integers(0, 255, (512, 512), dtype=np.uint8)
        stamp.draw(luma, number)
        return av.VideoFrame.from_ndarray(np.vstack([luma, np.full((256, 512), 128, np.uint8)]), format="yuv420p")

    def number_in(frame: Path) -> int:
        return stamp.read(simplejpeg.decode_jpeg(frame.read_bytes(), colorspace="GRAY")[..., 0])

    make_clip(file, frames=60, size=(512, 512), options={"crf": "4"}, draw=draw)
    assert file.stat().st_size > 3 << 20
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        frames = mount / "frames/clip"
        assert number_in(frames / "000001.jpg") == 0
        make_clip(file, frames=30, size=(512, 512), options={"crf": "4"}, draw=lambda number: draw(number + 1000))
        with pytest.raises(OSError, match="Stale file handle"):
            number_in(frames / "000030.jpg")
        assert number_in(frames / "000030.jpg") == 1029
        assert number_in(frames / "000002.jpg") == 1001
        assert not (frames / "000031.jpg").exists()
        assert len(os.listdir(frames)) == 30


def test_expired_credentials_are_refused_and_new_ones_work_without_a_remount(tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data").mkdir(parents=True)
    (tmp_path / "store/bucket/data/x").write_bytes(b"hello")
    credentials = tmp_path / "credentials"
    credentials.write_text("[lab]\naws_access_key_id = old\naws_secret_access_key = s\n")
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "AWS_EC2_METADATA_DISABLED": "true"}
    with (
        S3Server(tmp_path / "store", access_key_id="old") as server,
        mounted(
            "s3://bucket/data", tmp_path / "m", options(server), "aws_profile=lab", cache=tmp_path / "c", env=env
        ) as mount,
    ):
        assert mount.status()["credentials"] is None
        server.access_key_id = "new"
        for _ in range(5):
            with pytest.raises(PermissionError):
                (mount / "x").read_bytes()
        (line,) = (mount / ".egofs/errors.log").read_text().splitlines()
        assert "'lab'" in line
        refusal = mount.status()["credentials"]
        assert line.endswith(refusal["message"])
        assert 0 <= time.time() - refusal["refused_at"] < 600
        (told,) = (line for line in egofs("status", tmp_path / "m").stdout.splitlines() if "refused" in line)
        assert re.fullmatch(r"  access +profile 'lab'.*: refused \d+ s ago: " + re.escape(refusal["message"]), told)
        credentials.write_text("[lab]\naws_access_key_id = new\naws_secret_access_key = s\n")
        assert (mount / "x").read_bytes() == b"hello"
        assert mount.status()["credentials"] is None


def test_readers_of_one_chunk_share_one_request(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data/x").write_bytes(os.urandom(1 << 20))
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        threads = [threading.Thread(target=(mount / "x").read_bytes) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(request.method == "GET" and request.path.endswith("/x") for request in server.requests) == 1


def test_keys_that_need_escaping_are_files_like_others(server: S3Server, tmp_path: Path) -> None:
    names = ["ünï +&%.txt", "a=b?c#d", "quote'\"<>", "plain"]
    for name in names:
        (tmp_path / "store/bucket/data" / name).write_text(name)
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        assert sorted(os.listdir(mount.directory)) == sorted(names)
        assert [(mount / name).read_text() for name in names] == names


@pytest.mark.parametrize(
    ("source", "extra", "env", "says"),
    [
        ("s3://wrong-bucket", "", ENV, "wrong-bucket"),
        ("s3://bucket/nothing/here", "", ENV, "nothing"),
        ("s3://bucket/data", "aws_profile=nobody", ENV, "nobody"),
        ("s3://bucket/data", "", {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}, "anonymous"),
        ("s3://", "", ENV, "bucket"),
    ],
)
def test_a_bucket_that_cannot_be_had_is_one_line_and_no_mount(
    server: S3Server, tmp_path: Path, source: str, extra: str, env: dict[str, str], says: str
) -> None:
    (tmp_path / "m").mkdir()
    done = egofs(
        "mount", source, tmp_path / "m", "-o", f"{options(server)},cache_dir={tmp_path / 'c'},{extra}", env=env
    )
    assert done.returncode in (1, 32), done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not is_mounted(tmp_path / "m")


def test_a_dead_endpoint_is_one_line_and_no_mount(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    text = f"endpoint_url=http://127.0.0.1:9,cache_dir={tmp_path / 'c'}"
    done = egofs("mount", "s3://bucket", tmp_path / "m", "-o", text, env=ENV, timeout=150)
    assert done.returncode == 32
    assert len(done.stderr.strip().splitlines()) == 1
    assert "127.0.0.1:9" in done.stderr
    assert not is_mounted(tmp_path / "m")


def test_the_cache_folder_is_the_owners_alone(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "store/bucket/data/x").write_bytes(b"x")
    with mounted("s3://bucket/data", tmp_path / "m", options(server), cache=tmp_path / "c", env=ENV) as mount:
        (mount / "x").read_bytes()
    for path in (tmp_path / "c/objects", tmp_path / "c/log"):
        assert path.stat().st_mode & 0o077 == 0, path
    shutil.rmtree(tmp_path / "c")
