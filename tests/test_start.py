"""What a command imports before it answers: the time that a person waits for it is the time of its imports.

Python itself tells what it imports and when (-X importtime, on standard error, but what comes by importlib is not
told, only what that imports); modules are looked for, never times.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.mounting import EGOFS, egofs, mounted, wait_for_end, wait_until
from tests.s3server import S3Server
from vfs.datasets import demo

_IMPORTED = re.compile(r"import time:[ \d]+\|[ \d]+\| +(\S+)")
_DECODING = {"av", "numpy", "simplejpeg"}
# Libraries that check values by models: options are checked by one that is there anyway (trio brings it).
_MODELS = {"pydantic", "pydantic_core", "cattrs", "msgspec", "marshmallow"}
_NO_FILES = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
_KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", **_NO_FILES}

pytestmark = pytest.mark.timeout(60)


def imported(text: str) -> set[str]:
    """The modules in a text of -X importtime."""
    return set(_IMPORTED.findall(text))


def imported_by(code: str) -> set[str]:
    """The modules that a program has imported at its end."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@contextlib.contextmanager
def in_foreground(*arguments: str | Path, until: str, variables: dict[str, str] = _KEYS) -> Iterator[list[str]]:
    """`egofs mount -f` with -X importtime: the lines it wrote before one has `until` in it, and at the end all."""
    command = [sys.executable, "-X", "importtime", *EGOFS[1:], "mount", "-f", *map(str, arguments)]
    own = {name: value for name, value in os.environ.items() if not re.match("AWS_|.*_PROXY", name, re.IGNORECASE)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**own, **variables})
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if until in line:
                break
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.readlines()
        process.stderr.close()
        lines += rest
        assert process.wait(20) == 0, "".join(rest)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["status"],
        ["umount", "/"],
        ["warm", "/"],
        ["ls", "/"],
        ["--version"],
        ["cache", "--help"],
        ["doctor", "--help"],
    ],
)
def test_commands_that_mount_nothing_import_nothing_of_a_mount(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *EGOFS[1:], *arguments], capture_output=True, text=True)
    modules = imported(done.stderr)
    assert "mountd.cli" in modules
    assert not modules & {"attr", "trio", "pyfuse3", "sqlite3", "botocore", "mountd.config", "rich", *_DECODING}


@pytest.mark.mount
def test_a_local_mount_answers_before_what_only_frames_need_is_imported(tmp_path: Path) -> None:
    for name in ("source", "m"):
        (tmp_path / name).mkdir()
    with in_foreground(tmp_path / "source", tmp_path / "m", until="is mounted on") as lines:
        assert {"pyfuse3", "attr"} <= imported("".join(lines))
        assert not imported("".join(lines)) & {*_DECODING, *_MODELS, "botocore"}


@pytest.mark.mount
def test_a_mount_of_the_demo_that_is_there_imports_nothing_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "c/demo" / demo.TREE).mkdir(parents=True)
    (tmp_path / "m").mkdir()
    with in_foreground("demo", tmp_path / "m", "-o", f"cache_dir={tmp_path / 'c'}", until="is mounted on") as lines:
        assert "pyfuse3" in imported("".join(lines))
        assert not imported("".join(lines)) & {*_DECODING, *_MODELS, "lmdb"}


def test_the_demo_that_is_looked_for_is_the_one_that_would_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfs.datasets import demo_tree

    built: list[Path] = []
    monkeypatch.setattr(demo_tree, "_build_in_place", lambda root: (built.append(root), root.mkdir()))
    found = {demo.default_source(demo.Options(), tmp_path) for _ in range(2)}
    assert found == {str(tmp_path / "demo" / demo.TREE)}
    assert list(map(str, built)) == list(found)


@pytest.mark.mount
def test_an_s3_mount_answers_before_what_only_frames_need_is_imported(tmp_path: Path) -> None:
    (tmp_path / "store/bucket").mkdir(parents=True)
    (tmp_path / "store/bucket/x").write_bytes(b"x")
    (tmp_path / "m").mkdir()
    with S3Server(tmp_path / "store") as server:
        options = f"endpoint_url={server.endpoint_url},cache_dir={tmp_path / 'c'}"
        with in_foreground("s3://bucket", tmp_path / "m", "-o", options, until="is mounted on") as lines:
            assert "pyfuse3" in imported("".join(lines))
            assert not imported("".join(lines)) & (_DECODING | _MODELS)
            assert server.requests


@pytest.mark.mount
@pytest.mark.parametrize(
    ("more", "variables", "has_boto3"),
    [
        ("", _KEYS, False),
        (",anonymous", _NO_FILES, False),
        ("", {**_KEYS, "AWS_USE_DUALSTACK_ENDPOINT": "false"}, True),  # out of the ordinary, whatever it says
    ],
)
def test_an_ordinary_bucket_is_mounted_and_read_without_boto3(
    tmp_path: Path, more: str, variables: dict[str, str], has_boto3: bool
) -> None:
    (tmp_path / "store/bucket").mkdir(parents=True)
    (tmp_path / "store/bucket/x").write_bytes(b"x")
    (tmp_path / "m").mkdir()
    with S3Server(tmp_path / "store") as server:
        options = f"endpoint_url={server.endpoint_url},cache_dir={tmp_path / 'c'}{more}"
        with in_foreground(
            "s3://bucket", tmp_path / "m", "-o", options, until="is mounted on", variables=variables
        ) as lines:
            assert (tmp_path / "m/x").read_bytes() == b"x"
            assert [request.path for request in server.requests] == ["/bucket", "/bucket/x"]
    modules = imported("".join(lines))
    assert "obstore" in modules
    assert modules & {"boto3", "botocore"} == ({"boto3", "botocore"} if has_boto3 else set())


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
    return found


@pytest.mark.mount
def test_a_mount_that_shows_frames_starts_its_decoders_when_it_is_up_and_has_no_codec_in_its_own_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "source").mkdir()
    with mounted(tmp_path / "source", tmp_path / "m", cache=tmp_path / "c") as mount:
        daemon = mount.pid
        (decoder,) = wait_until(lambda: children_of(daemon))  # not by asking the mount: it waits until nobody reads
        assert mount.status()["decoders"]["pids"] == [decoder]
        wait_until(lambda: "libavcodec" in Path(f"/proc/{decoder}/maps").read_text())
        assert "libavcodec" not in Path(f"/proc/{daemon}/maps").read_text()
    assert wait_for_end(decoder, 5)


@pytest.mark.mount
def test_the_first_frame_does_not_wait_for_that(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    make_clip(tmp_path / "source/a.mp4", frames=3)
    with mounted(tmp_path / "source", tmp_path / "m", cache=tmp_path / "c") as mount:
        assert (mount / "frames/a/000002.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("source", "text", "store", "other"),
    [("/", "timeout=5", "local", "s3"), ("s3://b", "anonymous,cache=off", "s3", "local")],
)
def test_a_right_command_line_imports_no_other_store_and_no_other_dataset(
    source: str, text: str, store: str, other: str
) -> None:
    modules = imported_by(f"from mountd import config; config.load({source!r}, config.parse_o({text!r}))")
    assert {f"vfs.sources.{store}", "vfs.datasets.plain"} <= modules
    assert not modules & {f"vfs.sources.{other}", "vfs.datasets.assembly101", "trio", *_DECODING}


def test_the_names_of_video_come_when_they_are_asked_for() -> None:
    assert not imported_by("import vfs.video, vfs.frames, vfs.mounted") & _DECODING
    assert not imported_by("import vfs.video; vfs.video.Workers") & _DECODING, "decoders are started without it"
    assert "numpy" in imported_by("import vfs.video; vfs.video.dumps")
    code = "import vfs.video as v; v.load(); assert set(v.__all__) <= vars(v).keys(), vars(v).keys()"
    assert imported_by(code) & _DECODING == {"numpy"}


def test_a_name_that_video_has_not_is_an_attribute_error() -> None:
    import vfs.video

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vfs.video.nothing  # noqa: B018


def test_threads_that_ask_for_video_at_once_all_get_it() -> None:
    code = (
        "import threading, vfs.video as v; got = []; start = threading.Barrier(8)\n"
        "def ask(name):\n    start.wait(); got.append(getattr(v, name))\n"
        "names = ['Workers', 'Footage', 'dumps', 'VideoIndex'] * 2\n"
        "threads = [threading.Thread(target=ask, args=[name]) for name in names]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(got) == 8 and len(set(got)) == 4, got"
    )
    assert "numpy" in imported_by(code)


def test_flags_are_explained_with_all_options_there_are() -> None:
    said = egofs("mount", "--help").stdout
    for name in ("--endpoint-url", "--views", "--cache-size", "--listing-age"):
        assert name in said
    assert "did you mean" in egofs("mount", "/", "/", "--endpoint-ur=x").stderr.lower()
