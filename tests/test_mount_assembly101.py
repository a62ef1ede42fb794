"""Assembly101 mounted out of a store: each thing that the official download script does, and what it cannot.

`downloaded` says what the script would have fetched, from its own documents alone.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from tests.faults import Fault, Status
from tests.mounting import Mount, egofs, is_mounted, mounted, wait_for_end, wait_until
from tests.s3server import Request, S3Server

pytestmark = pytest.mark.mount

ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
FIXED = ["C10095", "C10115", "C10118", "C10119", "C10379", "C10390", "C10395", "C10404"]
HMC_8 = ["HMC_84346135", "HMC_84347414", "HMC_84355350", "HMC_84358933"]
HMC_2 = ["HMC_21176875", "HMC_21176623", "HMC_21110305", "HMC_21179183"]
EIGHT = "nusar-2021_action_both_9086-c14a_9086_user_id_2021-02-16_153910"
TWO = "nusar-2021_action_both_9071-b06b_9071_user_id_2021-02-11_100739"
# As one of the dataset's lacks e3, and as five of them have no egocentric view at all.
NO_E3 = "nusar-2021_action_both_9031-b01b_9031_user_id_2021-02-23_160708"
NO_EGO = "nusar-2021_action_both_9013-a28_9013_user_id_2021-02-02_134134"
CAMERAS = {EIGHT: FIXED + HMC_8, TWO: FIXED + HMC_2, NO_E3: FIXED + HMC_8[:2] + HMC_8[3:], NO_EGO: FIXED}
VIEWS = [*(f"v{n}" for n in range(1, 9)), *(f"e{n}" for n in range(1, 5))]


def file_of(camera: str) -> str:
    return f"{camera}_rgb.mp4" if camera.startswith("C") else f"{camera}_mono10bit.mp4"


def downloaded(names: list[str], views: str) -> dict[str, set[str]]:
    """What `download.py --videos NAME --views VIEWS` fetches, for each of several names."""
    ids = {f"v{n + 1}": [camera] for n, camera in enumerate(FIXED)}
    ids |= {f"e{n + 1}": list(both) for n, both in enumerate(zip(HMC_8, HMC_2, strict=True))}
    groups = {"all": FIXED + HMC_8 + HMC_2, "fixed": FIXED, "egocentric": HMC_8 + HMC_2}
    wanted = {camera for view in views.split("+") for camera in groups.get(view) or ids[view]}
    return {name: {file_of(camera) for camera in CAMERAS[name] if camera in wanted} for name in names}


def content(name: str, camera: str) -> bytes:
    return random.Random(name + camera).randbytes(3000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for name, cameras in CAMERAS.items():
        (root / "bucket/recordings" / name).mkdir(parents=True)
        for camera in cameras:
            (root / "bucket/recordings" / name / file_of(camera)).write_bytes(content(name, camera))
    return root


@pytest.fixture
def server(store: Path) -> Iterator[S3Server]:
    with S3Server(store) as server:
        yield server


def options(server: S3Server, *more: str) -> list[str]:
    return [f"endpoint_url={server.endpoint_url}", "dataset=assembly101", "frames=false", *more]


def shown(mount: Mount) -> dict[str, set[str]]:
    """The files of each recording, links left out."""
    return {
        folder.name: {path.name for path in folder.iterdir() if not path.is_symlink()}
        for folder in (mount / "recordings").iterdir()
    }


def gets(server: S3Server, name: str = "") -> list[Request]:
    return [request for request in server.requests if request.method == "GET" and request.path.endswith(name)]


@pytest.mark.parametrize("views", ["all", "fixed", "egocentric", *VIEWS, "v3+e4", "egocentric+v1"])
def test_views_show_what_the_script_would_download_for_all_videos(server: S3Server, tmp_path: Path, views: str) -> None:
    with mounted("s3://bucket", tmp_path / "m", *options(server, f"views={views}"), cache=tmp_path / "c", env=ENV) as m:
        found = shown(m)
        assert found == downloaded(list(CAMERAS), views)
        for name, files in found.items():
            folder = m / "recordings" / name
            links = {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}
            assert set(links.values()) == files
            assert len(links) == len(files)


def test_one_video_is_shown_alone_with_its_bytes(server: S3Server, tmp_path: Path) -> None:
    more = (f"videos={TWO}", "views=e4")
    with mounted("s3://bucket", tmp_path / "m", *options(server, *more), cache=tmp_path / "c", env=ENV) as mount:
        assert shown(mount) == downloaded([TWO], "e4")
        assert (mount / f"recordings/{TWO}/e4.mp4").read_bytes() == content(TWO, HMC_2[3])
        assert not (mount / f"recordings/{EIGHT}").exists()


def test_several_videos_and_a_file_of_their_names_are_shown_alike(server: S3Server, tmp_path: Path) -> None:
    names = [EIGHT, NO_E3, NO_EGO]
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    for more in (f"videos={'+'.join(names)}", f"videos_file={tmp_path / 'names.txt'}"):
        with mounted("s3://bucket", tmp_path / "m", *options(server, more), cache=tmp_path / "c", env=ENV) as mount:
            assert shown(mount) == downloaded(names, "all")


def test_another_file_of_names_under_the_same_path_is_another_tree(server: S3Server, tmp_path: Path) -> None:
    for names in ([EIGHT], [TWO, NO_EGO]):
        (tmp_path / "names.txt").write_text("\n".join(names))
        more = f"videos_file={tmp_path / 'names.txt'}"
        with mounted("s3://bucket", tmp_path / "m", *options(server, more), cache=tmp_path / "c", env=ENV) as mount:
            assert shown(mount) == downloaded(names, "all")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (f"videos={EIGHT}x", f"videos={EIGHT}x: no such recording; the nearest of 4 is {EIGHT}"),
        (f"videos={TWO}+{TWO[:-1]}7", f"the nearest of 4 is {TWO}"),
        ("views=e5", "views='e5': write one of all, fixed, egocentric, v1"),
        ("videos_file=/nonexistent/names", "No such file or directory"),
        (f"videos={TWO},videos_file=/nonexistent/names", "exclude each other"),
    ],
)
def test_what_there_is_not_is_one_line_and_no_mount(server: S3Server, tmp_path: Path, more: str, says: str) -> None:
    (tmp_path / "m").mkdir()
    texts = ",".join([f"cache_dir={tmp_path / 'c'}", *options(server, more)])
    done = egofs("mount", "s3://bucket", tmp_path / "m", "-o", texts, env=ENV)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not is_mounted(tmp_path / "m")


def test_a_killed_mount_goes_on_without_fetching_again_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "store/bucket/recordings" / EIGHT
    folder.mkdir(parents=True)
    files = {file_of(camera): random.Random(camera).randbytes(6 << 20) for camera in HMC_8[:3]}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    first, second, third = files
    with S3Server(tmp_path / "store") as server:
        unsupervised = [*options(server), "supervise=false"]
        with mounted("s3://bucket", tmp_path / "m", *unsupervised, cache=tmp_path / "c", env=ENV) as mount:
            recording = mount / "recordings" / EIGHT
            assert (recording / first).read_bytes() == files[first]
            with (recording / second).open("rb", buffering=0) as file:
                assert file.read(1 << 20) == files[second][: 1 << 20]
            # On disk are what was read and what was read ahead; nothing more is on its way.
            wait_until(lambda: mount.status()["cache"]["used_bytes"] >= 7 << 20)
            wait_until(lambda: mount.status()["fetched"]["bytes_fetched"] <= mount.status()["cache"]["used_bytes"])
            pid = mount.pid
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid, 10)
            before = len(server.requests)
            # Over the dead one, as a person would.
            texts = ",".join([f"cache_dir={tmp_path / 'c'}", *options(server)])
            assert egofs("mount", "s3://bucket", tmp_path / "m", "-o", texts, env=ENV).returncode == 0
            assert sorted(path.name for path in recording.iterdir() if not path.is_symlink()) == sorted(files)
            assert (recording / first).read_bytes() == files[first]
            with (recording / second).open("rb", buffering=0) as file:
                assert file.read(1 << 20) == files[second][: 1 << 20]
            assert gets(server, first)[0] in server.requests[:before]
            assert not [request for request in server.requests[before:] if request.path.endswith(first)]
            for name in (second, third):
                assert (recording / name).read_bytes() == files[name]
            fetched = mount.status()["fetched"]["bytes_fetched"]
            assert 6 << 20 <= fetched <= 11 << 20  # of 18 MiB: all of the third, and of the second what was not there
            assert {request.method for request in server.requests} <= {"GET", "HEAD"}
        # The listings too were there: one of each folder for both mounts.
        assert len([request for request in server.requests if "list-type" in request.query]) <= 3


def test_what_cannot_be_read_is_in_the_error_log_and_the_rest_goes_on(server: S3Server, tmp_path: Path) -> None:
    refused, gone = file_of(HMC_8[0]), file_of(FIXED[2])

    def fault(request: Request) -> Fault | None:
        if request.path.endswith(f"{EIGHT}/{refused}"):
            return Status(403, "AccessDenied")
        return Status(404, "NoSuchKey") if request.path.endswith(f"{TWO}/{gone}") else None

    server.faults = fault
    with mounted("s3://bucket", tmp_path / "m", *options(server), cache=tmp_path / "c", env=ENV) as mount:
        failed = []
        for name, files in shown(mount).items():
            for file in sorted(files):
                try:
                    data = (mount / "recordings" / name / file).read_bytes()
                except OSError as failure:
                    failed.append((name, file, type(failure)))
                else:
                    assert data == content(
                        name, file.replace(".mp4", "").removesuffix("_rgb").removesuffix("_mono10bit")
                    )
        assert sorted((name, file) for name, file, _ in failed) == sorted([(EIGHT, refused), (TWO, gone)])
        assert PermissionError in {kind for *_, kind in failed}
        log = (mount / ".egofs/errors.log").read_text()
        assert f"{EIGHT}/{refused}" in log
        assert f"{TWO}/{gone}" in log
        assert "cvml-nus/assembly101" in log  # where to ask for access
        server.faults = lambda request: None
        assert (mount / f"recordings/{EIGHT}/{refused}").read_bytes() == content(EIGHT, HMC_8[0])


def test_a_store_that_fails_under_a_merge_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    pairs = {}
    for camera in (HMC_8[3], HMC_2[3]):
        name = f"{camera}_mono10bit"
        folder = tmp_path / "store/bucket/TSM_features" / name
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=64 << 20) as environment, environment.begin(write=True) as writing:
            for number in range(1, 800):
                key = f"{EIGHT}/{name}/{name}_{number:010d}.jpg".encode()
                pairs[key] = random.Random(key).randbytes(8192)
                writing.put(key, pairs[key], append=True)

    def fault(request: Request) -> Fault | None:
        start = int(request.range.removeprefix("bytes=").split("-")[0] or 0) if request.range else 0
        is_late = f"{HMC_2[3]}_mono10bit/data.mdb" in request.path and start >= 3 << 20
        return Status(403, "AccessDenied") if is_late else None

    with (
        S3Server(tmp_path / "store") as server,
        mounted("s3://bucket", tmp_path / "m", *options(server), cache=tmp_path / "c", env=ENV) as mount,
    ):
        server.faults = fault
        command = ["lmdb", "merge", "e4", "--features", mount / "TSM_features", "--out", tmp_path / "e4"]
        done = egofs(*command)
        assert done.returncode == 32
        assert done.stderr.splitlines()[1:] == [
            f"egofs: {tmp_path / 'e4'}: ended by signal 7: a page of a file could not be read (.egofs/errors.log of "
            "its mount says why); the same command goes on"
        ]
        assert not (tmp_path / "e4").exists()
        assert "HMC_21179183_mono10bit/data.mdb" in (mount / ".egofs/errors.log").read_text()
        server.faults = lambda request: None
        done = egofs(*command)
        assert done.returncode == 0, done.stderr
        with lmdb.open(str(tmp_path / "e4"), readonly=True, lock=False) as merged, merged.begin() as reading:
            assert dict(reading.cursor().iternext()) == pairs
