"""Repositories of the hub and folders of web servers, mounted: names, bytes, frames, versions, tokens, requests."""

import hashlib
import os
from pathlib import Path

import pytest
import simplejpeg

from tests.clips import make_clip
from tests.faults import Status
from tests.hubserver import HubServer, Repository
from tests.mounting import egofs, files_below, is_mounted, mounted, wait_until
from tests.webserver import WebServer, basic
from vfs.video import stamp

pytestmark = pytest.mark.mount

URL = "hf://datasets/org/name"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Nobody is logged in."""
    return {"HF_HOME": str(tmp_path / "nobody"), "HF_TOKEN": ""}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(file, frames=40)
    return file


def number_in(frame: Path) -> int:
    return stamp.read(simplejpeg.decode_jpeg(frame.read_bytes(), colorspace="GRAY")[..., 0])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_trees(there: Path, here: Path) -> bool:
    """Whether both have the same files, sizes and bytes."""
    mounted_files, files = files_below(there, ("frames", ".egofs")), files_below(here)
    assert sorted(mounted_files) == sorted(files)
    assert {n: p.stat().st_size for n, p in mounted_files.items()} == {n: p.stat().st_size for n, p in files.items()}
    return {n: digest(p) for n, p in mounted_files.items()} == {n: digest(p) for n, p in files.items()}


@pytest.fixture
def tree(tmp_path: Path, clip: Path) -> Path:
    """A tree of a few files, with names that a URL cannot have as they are."""
    root = tmp_path / "tree"
    (root / "a b/ü+;?#%41").mkdir(parents=True)
    (root / "a b/ü+;?#%41/x y.bin").write_bytes(os.urandom(3_000_000))
    (root / "a b/clip.mp4").write_bytes(clip.read_bytes())
    for n in range(30):
        (root / f"a b/{n:02}.txt").write_text(f"file {n}")
    (root / "empty").write_bytes(b"")
    return root


def put_tree(repo: Repository, tree: Path) -> None:
    for name, path in files_below(tree).items():
        repo.put(name, path.read_bytes())


# -- the hub ------------------------------------------------------------------------------------------------------


def test_a_repository_has_its_bytes_and_frames_and_a_remount_asks_for_nothing(
    tmp_path: Path, tree: Path, env: dict[str, str]
) -> None:
    with HubServer() as hub:
        put_tree(hub.repository("datasets", "org/name"), tree)
        for turn in range(2):
            with mounted(
                URL, tmp_path / "m", f"endpoint_url={hub.url}", "listing_age=3600", cache=tmp_path / "c", env=env
            ) as mount:
                asked = len(hub.requests) + len(hub.network.requests)
                assert same_trees(mount.directory, tree)
                assert number_in(mount / "a b/frames/clip/000008.jpg") == 7
                assert not (mount / "nothing").exists()
            if turn == 0:
                assert {request.method for request in hub.requests} == {"GET", "HEAD"}
        assert len(hub.requests) + len(hub.network.requests) == asked


def test_a_walk_through_recordings_and_their_views_is_a_few_requests(tmp_path: Path, env: dict[str, str]) -> None:
    with HubServer() as hub:
        repo = hub.repository("datasets", "org/name")
        for n in range(362):
            name = f"nusar-2021_action_both_{n:04}-a01_{n:04}_user_id_2021-02-01_120000"
            for camera in ("C10095_rgb", "C10118_rgb", "HMC_84358933_mono10bit"):
                repo.put(f"recordings/{name}/{camera}.mp4", b"no video")
        with mounted(
            URL, tmp_path / "m", f"endpoint_url={hub.url}", "dataset=assembly101", cache=tmp_path / "c", env=env
        ) as mount:
            listed = []
            for _, folders, names in os.walk(mount / "recordings"):
                folders[:] = [folder for folder in folders if folder != "frames"]  # these read the videos
                listed += names
            assert sum(name.endswith("_rgb.mp4") for name in listed) == 2 * 362
            assert {"e4.mp4", "v1.mp4", "v3.mp4"} <= set(listed)
            assert (mount / f"recordings/{name}/v3.mp4").stat().st_size == 8
        assert len(hub.asked(path="/tree/")) <= 8
        assert hub.asked("HEAD") == []


def test_an_address_that_ends_in_the_middle_of_a_file_is_asked_for_anew(tmp_path: Path, env: dict[str, str]) -> None:
    data = os.urandom(24 << 20)
    with HubServer(lives_s=3600) as hub:
        repo = hub.repository("datasets", "org/name")
        repo.put("x.bin", data)
        with (
            mounted(URL, tmp_path / "m", f"endpoint_url={hub.url}", cache=tmp_path / "c", env=env) as mount,
            (mount / "x.bin").open("rb") as file,
        ):
            assert file.read(1 << 20) == data[: 1 << 20]
            hub.network.revoked |= {request.query["X-Amz-Signature"] for request in hub.network.requests}
            hub.lives_s = 1800
            assert file.read() == data[1 << 20 :]
        assert len(hub.asked("HEAD")) == 2


def test_a_branch_that_moves_is_seen_by_the_next_mount_and_never_mixed(tmp_path: Path, env: dict[str, str]) -> None:
    old, new, same = b"a" * (4 << 20), b"b" * (4 << 20), os.urandom(2 << 20)
    options = ("listing_age=3600",)
    with HubServer() as hub:
        repo = hub.repository("datasets", "org/name")
        repo.put("x.bin", old)
        repo.put("same.bin", same)
        with mounted(URL, tmp_path / "m", f"endpoint_url={hub.url}", *options, cache=tmp_path / "c", env=env) as mount:
            descriptor = os.open(mount / "x.bin", os.O_RDONLY)
            assert os.pread(descriptor, 5, 0) == b"aaaaa"
            repo.put("x.bin", new)
            repo.put("new.bin", new)
            repo.commit()
            assert os.pread(descriptor, 5, 3 << 20) == b"aaaaa"
            assert sorted(os.listdir(mount.directory)) == ["same.bin", "x.bin"]
            os.close(descriptor)
        with mounted(URL, tmp_path / "m", f"endpoint_url={hub.url}", *options, cache=tmp_path / "c", env=env) as mount:
            descriptor = os.open(mount / "x.bin", os.O_RDONLY)
            assert os.pread(descriptor, 5, 0) == b"aaaaa"  # what is cached, and known under the listing of then
            with pytest.raises(OSError, match="Stale file handle"):
                os.pread(descriptor, 5, 2 << 20)
            os.close(descriptor)
            assert (mount / "x.bin").read_bytes() == new
            assert (mount / "same.bin").read_bytes() == same
            assert (mount / "new.bin").stat().st_size == len(new)


def test_a_token_that_is_added_later_opens_the_files(tmp_path: Path, env: dict[str, str]) -> None:
    token = tmp_path / "token"
    with HubServer() as hub:
        repo = hub.repository("datasets", "org/name", gated="manual")
        repo.put("x.bin", b"hello" * 1000)
        hub.tokens = {"hf_good": {"org/name"}, "hf_other": set()}
        token.write_text("hf_good")
        options = (f"endpoint_url={hub.url}", f"token_file={token}")
        with mounted(URL, tmp_path / "m", *options, cache=tmp_path / "c", env=env) as mount:
            token.write_text("hf_other")
            with pytest.raises(PermissionError):
                (mount / "x.bin").read_bytes()
            assert "ask for it at" in (mount / ".egofs/errors.log").read_text()
            token.write_text("hf_good\n")
            assert (mount / "x.bin").read_bytes() == b"hello" * 1000
            assert mount.status()["credentials"] is None
            log = mount.log.read_text()
        assert "hf_good" not in log
        assert "hf_other" not in log
        assert "X-Amz-Signature" not in log


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, "access is gated: ask for it at {url}/datasets/org/name, then put a token into a file"),
        ("hf_other", "has not been given access: ask for it at {url}/datasets/org/name"),
        ("hf_wrong", "the hub does not know the token (the token in "),
    ],
)
def test_a_dataset_that_is_not_open_to_us_is_one_line_and_no_mount(
    tmp_path: Path, env: dict[str, str], token: str | None, says: str
) -> None:
    (tmp_path / "m").mkdir()
    with HubServer() as hub:
        hub.repository("datasets", "org/name", gated="manual").put("recordings/x", b"x")
        hub.tokens = {"hf_good": {"org/name"}, "hf_other": set()}
        options = f"dataset=assembly101,cache_dir={tmp_path / 'c'},endpoint_url={hub.url}"
        if token:
            (tmp_path / "token").write_text(token)
            options += f",token_file={tmp_path / 'token'}"
        done = egofs("mount", URL, tmp_path / "m", "-o", options, env=env)
        assert says.format(url=hub.url) in done.stderr
    assert done.returncode == 32
    assert len(done.stderr.strip().splitlines()) == 1
    assert not is_mounted(tmp_path / "m")


def test_without_the_library_a_mount_is_one_line(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'huggingface_hub' else f(name, *more)\n"
    )
    paths = f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"
    done = egofs("mount", URL, tmp_path / "m", "-o", f"cache_dir={tmp_path / 'c'}", env=env | {"PYTHONPATH": paths})
    assert done.returncode == 1
    assert done.stderr.strip().endswith("huggingface_hub is not installed: pip install 'egofs[hf]'")
    assert len(done.stderr.strip().splitlines()) == 1


# -- web servers --------------------------------------------------------------------------------------------------


def manifest_of(tree: Path, file: Path) -> str:
    """A list without sizes."""
    lines = ["path", *files_below(tree)]
    file.write_text("\n".join(f'"{line}"' if line != "path" else "path,url" for line in lines))
    return f"manifest={file}"


@pytest.mark.parametrize("kind", ["index", "nginx-json", "webdav", "manifest"])
def test_a_web_folder_has_its_bytes_and_frames_and_a_remount_asks_for_nothing(
    tmp_path: Path, tree: Path, kind: str
) -> None:
    pages = {"nginx-json": "nginx-json", "index": "apache-table"}.get(kind, "")
    options = [manifest_of(tree, tmp_path / "list")] if kind == "manifest" else []
    with WebServer(tmp_path, pages=pages, dav=kind == "webdav") as server:
        for _ in range(2):
            with mounted(
                f"{server.url}/tree/", tmp_path / "m", *options, "listing_age=3600", cache=tmp_path / "c"
            ) as mount:
                asked = len(server.requests)
                assert same_trees(mount.directory, tree)
                assert number_in(mount / "a b/frames/clip/000008.jpg") == 7
                assert not (mount / "nothing").exists()
        assert len(server.requests) == asked


def test_names_of_an_index_page_are_listed_without_asking_for_a_file(tmp_path: Path, tree: Path) -> None:
    with (
        WebServer(tree, pages="nginx") as server,
        mounted(f"{server.url}/", tmp_path / "m", cache=tmp_path / "c") as mount,
    ):
        assert len(os.listdir(mount / "a b")) == 33
        assert server.asked("HEAD") == []
        assert sum(entry.stat().st_size for entry in os.scandir(mount / "a b") if entry.name.endswith("txt")) == 200
        # Each file is asked for once, and the page once more to learn that it tells no sizes.
        heads = [request.path for request in server.asked("HEAD")]
        assert len(heads) == len(set(heads)) <= 31
        assert len(server.asked("GET", "/a b/")) == 2


def test_a_url_of_one_file_is_a_mount_of_that(tmp_path: Path, clip: Path) -> None:
    with (
        WebServer(clip.parent) as server,
        mounted(f"{server.url}/clip.mp4", tmp_path / "m", cache=tmp_path / "c") as mount,
    ):
        assert (mount / "clip.mp4").read_bytes() == clip.read_bytes()
        assert number_in(mount / "frames/clip/000040.jpg") == 39


@pytest.mark.parametrize("dav", [False, True])
@pytest.mark.parametrize("etags", ["strong", "weak", ""])
def test_a_file_that_was_replaced_is_stale_and_fresh_for_the_next_open(tmp_path: Path, dav: bool, etags: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "x.bin").write_bytes(b"a" * (4 << 20))
    os.utime(root / "x.bin", (1_700_000_000, 1_700_000_000))
    with WebServer(root, dav=dav) as server:
        server.etags = etags
        with mounted(f"{server.url}/", tmp_path / "m", cache=tmp_path / "c") as mount:
            descriptor = os.open(mount / "x.bin", os.O_RDONLY)
            assert os.pread(descriptor, 5, 0) == b"aaaaa"
            (root / "y").write_bytes(b"b" * (4 << 20))
            os.replace(root / "y", root / "x.bin")
            with pytest.raises(OSError, match="Stale file handle"):
                os.pread(descriptor, 5, 2 << 20)
            assert (mount / "x.bin").read_bytes() == b"b" * (4 << 20)
            with pytest.raises(OSError, match="Stale file handle"):
                os.pread(descriptor, 5, 2 << 20)
            os.close(descriptor)


def test_a_server_that_is_started_again_goes_on(tmp_path: Path, tree: Path) -> None:
    with WebServer(tree) as server:
        port = server.port
    with WebServer(tree, port=port) as server:
        mounting = mounted(f"{server.url}/a%20b", tmp_path / "m", cache=tmp_path / "c")
        mount = mounting.__enter__()
        assert (mount / "00.txt").read_text() == "file 0"
    try:
        with WebServer(tree, port=port):
            assert (mount / "01.txt").read_text() == "file 1"
            wait_until(lambda: (mount / "clip.mp4").read_bytes() == (tree / "a b/clip.mp4").read_bytes())
    finally:
        mounting.__exit__(None, None, None)


def test_a_large_file_of_a_server_without_ranges_is_an_error_at_once_and_small_ones_are_read(
    tmp_path: Path, tree: Path
) -> None:
    with WebServer(tree) as server:
        server.gives_ranges = False
        with mounted(f"{server.url}/a%20b/", tmp_path / "m", cache=tmp_path / "c") as mount:
            assert (mount / "07.txt").read_text() == "file 7"
            before = len(server.requests)
            with pytest.raises(OSError, match="Input/output error"):
                (mount / "ü+;?#%41/x y.bin").read_bytes()
            assert len(server.requests) - before < 20
            assert "this server gives no ranges" in (mount / ".egofs/errors.log").read_text()


def test_a_password_that_is_added_later_opens_the_folder_and_is_nowhere_to_be_seen(tmp_path: Path, tree: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret-1\n")
    with WebServer(tree) as server:
        server.authorization = basic("me", "secret-1")
        with mounted(
            f"{server.url}/a%20b/", tmp_path / "m", f"netrc={netrc}", "listing_age=0", cache=tmp_path / "c"
        ) as mount:
            assert (mount / "00.txt").read_text() == "file 0"
            server.authorization = basic("me", "secret-2")
            with pytest.raises(PermissionError):
                (mount / "01.txt").read_text()
            netrc.write_text("machine 127.0.0.1 login me password secret-2\n")
            assert (mount / "01.txt").read_text() == "file 1"
            seen = mount.log.read_text() + str(mount.status()) + (mount / ".egofs/errors.log").read_text()
            seen += Path(f"/proc/{mount.pid}/cmdline").read_text()
        assert "secret" not in seen
        assert str(netrc) in seen


@pytest.mark.parametrize(
    ("path", "option", "says"),
    [
        ("nothing/", "", "404"),
        ("tree/", "listing=webdav", "give listing=index"),
        ("tree/", "manifest=/nonexistent", "/nonexistent"),
        ("tree/", "manifest=empty", "no such folder"),
        ("?x=1", "", "without ? and #"),
    ],
)
def test_a_folder_that_cannot_be_had_is_one_line_and_no_mount(
    tmp_path: Path, tree: Path, path: str, option: str, says: str
) -> None:
    (tmp_path / "m").mkdir()
    with WebServer(tmp_path) as server:
        done = egofs(
            "mount", f"{server.url}/{path}", tmp_path / "m", "-o", f"cache_dir={tmp_path / 'c'},{option}".rstrip(",")
        )
    if "manifest=empty" in option:  # a list of nothing is a tree of nothing
        assert done.returncode == 0
        egofs("umount", tmp_path / "m")
        return
    assert done.returncode in (1, 32), done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not is_mounted(tmp_path / "m")


def test_a_dead_server_is_one_line_and_no_mount(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    done = egofs("mount", "http://127.0.0.1:9/x/", tmp_path / "m", "-o", f"cache_dir={tmp_path / 'c'}")
    assert done.returncode == 32
    assert "nobody answers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_hub_that_limits_is_waited_for(tmp_path: Path, env: dict[str, str]) -> None:
    with HubServer() as hub:
        hub.repository("datasets", "org/name").put("x", b"hello")
        left = [Status(429, headers={"Retry-After": "1"})] * 2
        hub.faults = lambda request: left.pop() if left and "/tree/" in request.path else None
        with mounted(URL, tmp_path / "m", f"endpoint_url={hub.url}", cache=tmp_path / "c", env=env) as mount:
            assert (mount / "x").read_bytes() == b"hello"
            assert mount.status()["fetched"]["retries"] == 2
