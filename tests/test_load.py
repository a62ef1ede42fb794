"""Many readers, few descriptors, many videos and long use, in short; a store that hangs, and how long its readers wait.

tests/load.py has the readers; tests/reliability.py uses it at length.
"""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import simplejpeg

from tests import load
from tests.clips import make_clip
from tests.faults import Late
from tests.load import Grown, Sample
from tests.mounting import mounted, patched
from tests.s3server import S3Server
from vfs.video import stamp

pytestmark = pytest.mark.mount


def test_a_thousand_readers_are_served(tmp_path: Path) -> None:
    crowd = load.crowd(tmp_path, 1000, 65_536)
    assert (crowd.wrong, crowd.errors) == (0, 0)


def test_a_daemon_of_256_descriptors_serves_many_readers(tmp_path: Path) -> None:
    crowd = load.crowd(tmp_path, 200, 256)
    assert (crowd.wrong, crowd.errors) == (0, 0)
    assert crowd.most_held <= 256


def test_64_videos_are_decoded_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    make_clip(folder / "0.mp4", frames=24, size=(320, 240))
    for n in range(1, 64):
        os.link(folder / "0.mp4", folder / f"{n}.mp4")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        begin = threading.Barrier(64)

        def number_in(video: int) -> int:
            begin.wait()
            data = (mount / f"frames/{video}/{video % 24 + 1:06d}.jpg").read_bytes()
            return stamp.read(simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0])

        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(number_in, range(64))) == [video % 24 for video in range(64)]
        status = mount.status()
        assert status["asked"]["bugs"] == 0
        assert len(status["decoders"]["pids"]) <= 2 * (os.cpu_count() or 1) + 2


def test_use_leaves_no_descriptor_thread_or_inode_behind(tmp_path: Path) -> None:
    grown = load.compressed(tmp_path, "short", 6.0, files=20, remounts=1)
    assert grown.operations > 100
    assert grown.inodes < 40
    first, rest = grown.samples[0], grown.idle
    assert rest is not None
    # At rest there are no connections but those that are kept, and no threads that fetch.
    assert rest.threads <= first.threads
    assert rest.descriptors <= max(each.descriptors for each in grown.samples)


def test_growth_is_measured_by_the_second_half() -> None:
    flat = Grown(samples=[Sample(at, 100.0 + min(at, 10), 1, 1) for at in range(0, 40, 2)])
    assert abs(flat.slope_mib_an_hour) < 1e-6
    steep = Grown(samples=[Sample(at, 100.0 + at, 1, 1) for at in range(0, 40, 2)])
    assert steep.slope_mib_an_hour == pytest.approx(3600)


def test_a_reader_of_a_store_that_hangs_is_released_within_the_deadline_and_asked_once(tmp_path: Path) -> None:
    (tmp_path / "store/bucket").mkdir(parents=True)
    (tmp_path / "store/bucket/x").write_bytes(bytes(9 << 20))
    hasty = ("vfs.ops.DEADLINE_S = 3", "mountd.daemon.TOTAL_S = 20", "vfs.bulk.IDLE_S = 20")
    with (
        S3Server(tmp_path / "store") as server,
        mounted(
            "s3://bucket", tmp_path / "m", f"endpoint_url={server.endpoint_url}", cache=tmp_path / "c",
            env=load.ENV, command=patched(*hasty),
        ) as mount,
    ):  # fmt: skip
        descriptor = os.open(mount / "x", os.O_RDONLY)
        server.faults = lambda request: Late(60.0)
        server.requests.clear()
        for at in (0, 5 << 20):
            began = time.monotonic()
            with pytest.raises(OSError) as raised:
                os.pread(descriptor, 4096, at)
            assert raised.value.errno == errno.ETIMEDOUT
            # The kernel asks for the page again that it could not read ahead; nobody waits a second time for that.
            assert time.monotonic() - began < 3 + 2
        assert len(server.requests) == 2
        os.close(descriptor)
