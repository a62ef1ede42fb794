"""Mounts of local folders: lifecycle, bad input, broken videos, odd names, and what kills other mounts."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from mountd import mounts
from tests.clips import make_clip, with_edit
from tests.mounting import EGOFS, egofs, is_mounted, mounted, wait_for_end
from vfs.video import stamp

pytestmark = pytest.mark.mount


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "hello.txt").write_text("hello\n")
    (folder / "empty").touch()
    (folder / "sub/big.bin").write_bytes(random.Random(3).randbytes(5_000_000))
    np.save(folder / "array.npy", np.arange(100_000).reshape(100, 1000))
    return folder


def test_mount_returns_when_the_tree_answers_and_umount_when_it_is_gone(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert (mount / "hello.txt").read_text() == "hello\n"
        assert (mount / "empty").read_bytes() == b""
        assert (mount / "sub/big.bin").read_bytes() == (folder / "sub/big.bin").read_bytes()
        assert os.statvfs(mount.directory).f_blocks > 0
    assert not is_mounted(tmp_path / "m")
    assert os.listdir(tmp_path / "m") == []


def test_numpy_loads_and_maps_arrays(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        right = np.load(folder / "array.npy")
        assert np.array_equal(np.load(mount / "array.npy"), right)
        mapped = np.load(mount / "array.npy", mmap_mode="r")
        assert np.array_equal(mapped[50:60], right[50:60])
        del mapped


def test_random_reads_by_several_processes_give_the_right_bytes(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os,random,sys\n"
        "a,b=(os.open(p,os.O_RDONLY) for p in sys.argv[1:3])\n"
        "dice=random.Random(int(sys.argv[3]))\n"
        "for _ in range(300):\n"
        "    o,n=dice.randrange(5_000_100),dice.randrange(1,300_000)\n"
        "    assert os.pread(a,n,o)==os.pread(b,n,o),(o,n)\n"
    )
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        paths = [mount / "sub/big.bin", folder / "sub/big.bin"]
        readers = [subprocess.Popen([sys.executable, "-c", code, *paths, str(seed)]) for seed in range(6)]
        assert [reader.wait(60) for reader in readers] == [0] * 6


def test_changes_of_a_local_folder_are_seen(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert not (mount / "new").exists()
        (folder / "new").write_text("1")
        (folder / "hello.txt").write_text("another text\n")
        deadline = time.monotonic() + 10
        while not (mount / "new").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.1)
        assert (mount / "new").read_text() == "1"
        assert (mount / "hello.txt").stat().st_size == 13
        assert (mount / "hello.txt").read_text() == "another text\n"


def test_odd_names_and_links_are_served_and_what_leads_outside_is_not(folder: Path, tmp_path: Path) -> None:
    names = [b"new\nline", b"back\\slash", b"-dash", b"caf\xc3\xa9", b"bad\xff\xfeutf8", b"sp ace", b"x" * 255]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(name)
    (folder / "inside").symlink_to("sub/big.bin")
    (folder / "absolute").symlink_to(folder / "hello.txt")
    (folder / "outside").symlink_to("/etc/hostname")
    os.mkfifo(folder / "fifo")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        listed = os.listdir(os.fsencode(mount.directory))
        assert set(names) <= set(listed)
        assert not {b"outside", b"fifo"} & set(listed)
        for name in names:
            assert (mount / os.fsdecode(name)).read_bytes() == name
        assert (mount / "inside").stat().st_size == 5_000_000
        assert (mount / "absolute").read_text() == "hello\n"
        assert not (mount / "fifo").exists()


def test_a_broken_video_reads_byte_for_byte_and_its_neighbours_frames_work(folder: Path, tmp_path: Path) -> None:
    make_clip(folder / "good.mp4", frames=20)
    data = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 8])
    (folder / "noise.mp4").write_bytes(random.Random(1).randbytes(50_000))
    (folder / "nothing.mkv").touch()
    (folder / "list.ts").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        for name in ("good.mp4", "cut.mp4", "noise.mp4", "nothing.mkv", "list.ts"):
            assert (mount / name).read_bytes() == (folder / name).read_bytes()
        assert sorted(os.listdir(mount / "frames")) == ["cut", "good", "list", "noise", "nothing"]
        for name in ("noise", "nothing", "list"):
            with pytest.raises(OSError, match="Input/output error"):
                os.listdir(mount / "frames" / name)
        assert len(os.listdir(mount / "frames/good")) == 20
        for n in (1, 7, 20):
            picture = (mount / f"frames/good/{n:06d}.jpg").read_bytes()
            assert stamp.read(simplejpeg.decode_jpeg(picture)) == n - 1
        assert "noise" in (mount / ".egofs/errors.log").read_text()


def test_every_codec_and_structure_gives_every_frame_through_the_mount(folder: Path, tmp_path: Path) -> None:
    make_clip(folder / "bframes.mp4", frames=30, bframes=3, open_gop=True)
    make_clip(folder / "mono10.mp4", codec="libx265", pix_fmt="gray10le", frames=30)
    make_clip(folder / "vp9.webm", codec="libvpx-vp9", frames=30)
    make_clip(folder / "av1.mp4", codec="libsvtav1", frames=30)
    make_clip(folder / "mpeg4.avi", codec="mpeg4", frames=30, bframes=0)
    make_clip(folder / "late.ts", frames=30, bframes=0)
    make_clip(folder / "uneven.mkv", frames=30, ticks=[n * 40 + (n % 3) * 7 for n in range(30)])
    # 1024 ticks of 1/15360 s before the first frame, 512 a frame; the edit's duration is in thousandths.
    whole = (folder / "bframes.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(with_edit(whole, media_time=1024 + 10 * 512, duration=round(12 * 1000 / 30)))
    dice = random.Random(4)
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        views = sorted(os.listdir(mount / "frames"))
        assert len(views) == 8
        for view in views:
            first, count = (10, 12) if view == "cut" else (0, 30)
            names = sorted(os.listdir(mount / "frames" / view))
            assert names == [f"{n:06d}.jpg" for n in range(1, count + 1)]
            dice.shuffle(names)
            for name in names:
                picture = (mount / "frames" / view / name).read_bytes()
                number = stamp.read(simplejpeg.decode_jpeg(picture, colorspace="GRAY")[..., 0])
                assert number == int(name[:6]) - 1 + first, f"{view}/{name}"


def test_two_videos_of_one_stem_are_both_shown(folder: Path, tmp_path: Path) -> None:
    make_clip(folder / "a.mp4", frames=3)
    make_clip(folder / "a.mkv", frames=4)
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert sorted(os.listdir(mount / "frames")) == ["a.mkv", "a.mp4"]
        assert len(os.listdir(mount / "frames/a.mkv")) == 4
        assert len(os.listdir(mount / "frames/a.mp4")) == 3
        assert not (mount / "frames/a").exists()


def test_links_to_videos_elsewhere_have_frames_and_links_to_nowhere_do_not_hide_them(
    folder: Path, tmp_path: Path
) -> None:
    make_clip(folder / "sub/there.mp4", frames=3)
    (folder / "here.mp4").symlink_to("sub/there.mp4")
    (folder / "folder.mp4").symlink_to("sub")
    (folder / "again.mp4").symlink_to("here.mp4")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert sorted(os.listdir(mount / "frames")) == ["again", "here"]
        pictures = {(mount / view / "000002.jpg").read_bytes() for view in ("frames/again", "sub/frames/there")}
        assert len(pictures) == 1
        assert not (mount / "frames/folder").exists()


def test_a_real_frames_directory_wins(folder: Path, tmp_path: Path) -> None:
    make_clip(folder / "a.mp4", frames=3)
    (folder / "frames").mkdir()
    (folder / "frames/mine.txt").write_text("x")
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        assert os.listdir(mount / "frames") == ["mine.txt"]
        assert len(os.listdir(mount / "frames@fps=0/a")) == 3


def test_frames_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    make_clip(folder / "a.mp4", frames=3)
    with mounted(folder, tmp_path / "m", "frames=false", cache=tmp_path / "c") as mount:
        assert sorted(os.listdir(mount.directory)) == sorted(os.listdir(folder))
        assert not (mount / "frames").exists()


BAD = [
    (["nothing-such", "{m}"], 1, "no source is called 'nothing-such'"),
    (["foo://x", "{m}"], 1, "no store is known for 'foo://x'"),
    (["{data}", "{m}", "-o", "cahce_size=5G"], 1, "did you mean 'cache_size'?"),
    (["{data}", "{m}", "-o", "views=e1"], 1, "'views' belongs to dataset assembly101"),
    (["{data}", "{m}", "-o", "cache_size=big"], 1, "write a size above 0 such as 50G"),
    (["{data}", "{m}", "-o", "cache_size"], 1, "needs a value"),
    (["{data}", "{m}", "-o", "umask=99"], 1, "octal"),
    (["demo", "{m}", "-o", "views=e9"], 1, "views='e9': write one of all, fixed, egocentric"),
    (["demo", "{m}", "-o", "videos=nusar"], 1, "no such recording"),
    (["{data}", "{m}", "-o", "dataset=assembly102"], 1, "dataset='assembly102': write one of assembly101"),
    (["plain", "{m}"], 1, "needs its source"),
    (["{data}/gone", "{m}"], 1, "gone"),
    (["{data}/hello.txt", "{m}"], 1, "hello.txt"),
    (["{data}", "{m}/gone"], 1, "no such directory"),
    (["{data}", "{data}/hello.txt"], 1, "not a directory"),
    (["{data}", "{data}"], 32, "not empty"),
    (["{data}/gone.toml", "{m}"], 1, "gone.toml"),
    (["{data}"], 1, "Missing argument"),
    (["{data}", "{m}", "-o", "cache_dir=/proc/nothing"], 1, "cache_dir"),
]


@pytest.mark.parametrize(("arguments", "status", "says"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_is_one_line_with_mounts_status_and_nothing_mounted(
    folder: Path, tmp_path: Path, demo_cache: Path, arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "m").mkdir()
    given = [argument.format(m=tmp_path / "m", data=folder) for argument in arguments]
    if "cache_dir" not in says:
        given += ["-o", f"cache_dir={demo_cache}"]
    done = egofs("mount", *given)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert says in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("egofs: ")
    # Of this test's own folders: others mount elsewhere meanwhile.
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_bad_input_of_the_other_commands_is_one_line(tmp_path: Path) -> None:
    for arguments in (["umount", tmp_path], ["umount"], ["nothing"], ["mount", "--nothing"]):
        done = egofs(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="taking /dev/fuse away in a mount namespace needs root")
@pytest.mark.parametrize("extra", [[], ["-f"]])
def test_without_fuse_it_is_one_line(folder: Path, tmp_path: Path, extra: list[str]) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be had here (a chroot?)")
    (tmp_path / "m").mkdir()
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"'
    command = [*EGOFS, "mount", folder, tmp_path / "m", *extra, "-o", f"cache_dir={tmp_path / 'c'}"]
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True)
    assert done.returncode == 32, done.stderr
    assert done.stderr.startswith("egofs: there is no /dev/fuse")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_second_mount_on_a_live_one_is_refused(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        done = egofs("mount", folder, mount.directory, "-o", f"cache_dir={tmp_path / 'c'}")
        assert done.returncode == 32
        assert "is mounted here already" in done.stderr
        assert (mount / "hello.txt").read_text() == "hello\n"


def test_a_killed_daemons_mount_is_replaced_by_the_next_and_goes_with_it(folder: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    command = ["mount", folder, directory, "-o", f"cache_dir={tmp_path / 'c'},supervise=false"]
    assert egofs(*command).returncode == 0
    pid = int(json.loads((directory / ".egofs/status.json").read_text())["pid"])
    descriptor = os.open(directory / "sub/big.bin", os.O_RDONLY)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid, 10)
    with contextlib.suppress(OSError):  # ENOTCONN or ECONNABORTED: the descriptor is closed all the same
        os.close(descriptor)
    time.sleep(1.1)  # until the kernel no longer answers lstat by itself
    assert mounts.state(directory) == "dead"
    assert f"{directory}  {folder}  dead" in egofs("status", directory).stdout
    again = egofs(*command)
    assert again.returncode == 0, again.stderr
    assert (directory / "hello.txt").read_text() == "hello\n"
    assert sum(f"{directory}  " in line for line in egofs("status").stdout.splitlines()) == 1
    assert egofs("umount", directory).returncode == 0
    assert not is_mounted(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_foreground_stops_on_a_signal_with_status_0_while_files_are_open(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    command = [*EGOFS, "mount", folder, directory, "-f", "-o", f"cache_dir={tmp_path / 'c'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "is mounted on" not in (line := process.stderr.readline()):
            assert line, "it ended"
        descriptor = os.open(directory / "hello.txt", os.O_RDONLY)
        process.send_signal(number)
        assert process.wait(20) == 0
        with contextlib.suppress(OSError):  # ENOTCONN: its daemon is gone
            os.close(descriptor)
        process.stderr.close()
    assert not is_mounted(directory)


def test_an_interrupted_mount_leaves_nothing_mounted(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    command = [*EGOFS, "mount", "demo", directory, "-o", f"cache_dir={tmp_path / 'c'}"]

    def heed() -> None:  # where tests are run in the background of a script, it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stderr is not None
        assert "making the demo" in process.stderr.readline()  # which takes some seconds
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 8
        assert process.stderr.read().strip() == "egofs: interrupted"
    log = tmp_path / "c/log"
    deadline = time.monotonic() + 100
    while "stopping on SIGTERM" not in "".join(file.read_text() for file in log.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    while is_mounted(directory):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_umount_of_a_busy_mount_says_what_to_do_and_lazy_does_it(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        pid = mount.pid
        with (mount / "hello.txt").open():
            done = egofs("umount", mount.directory)
            assert done.returncode == 32
            assert "--lazy" in done.stderr
            assert egofs("umount", "--lazy", mount.directory).returncode == 0
        assert wait_for_end(pid, 20)


def test_status_lists_mounts_and_what_they_read(folder: Path, tmp_path: Path) -> None:
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        (mount / "sub/big.bin").read_bytes()
        first, *facts = egofs("status", mount.directory).stdout.splitlines()
        assert first.startswith(f"{mount.directory}  {folder}  live, up ")
        assert first.endswith(f"pid {mount.pid}")
        assert [line.split()[:3] for line in facts if line.startswith("  read ")] == [["read", "4.8", "MiB"]]


def test_a_toml_file_says_what_to_mount(folder: Path, tmp_path: Path, demo_root: Path) -> None:
    toml = tmp_path / "lab.toml"
    toml.write_text(f'dataset = "assembly101"\nsource = "{demo_root}"\nviews = ["egocentric", "v3"]\n')
    with mounted(toml, tmp_path / "m", cache=tmp_path / "c") as mount:
        first = max((mount / "recordings").iterdir())
        assert sorted(p.name for p in first.iterdir() if p.is_symlink()) == [
            "e1.mp4",
            "e2.mp4",
            "e3.mp4",
            "e4.mp4",
            "v3.mp4",
        ]


def test_a_local_source_is_cached_when_asked_for(folder: Path, tmp_path: Path) -> None:
    for mode in ("auto", "on"):
        with mounted(folder, tmp_path / "m", f"cache={mode}", cache=tmp_path / mode) as mount:
            assert (mount / "sub/big.bin").read_bytes() == (folder / "sub/big.bin").read_bytes()
        kept = sum(path.stat().st_size for path in (tmp_path / mode).glob("objects/??/*"))
        assert (kept >= (folder / "sub/big.bin").stat().st_size) if mode == "on" else kept == 0


def test_the_demo_runs_as_a_newcomer_runs_it_and_again(tmp_path: Path, demo_cache: Path) -> None:
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "home/.cache/egofs").symlink_to(demo_cache)
    env = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    directory = tmp_path / "home/egofs-demo"
    try:
        for said in ("bytes of videos and annotations were read", "Nothing was read for that"):
            command = [sys.executable, "-m", "mountd.demo"]
            done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert said in done.stdout
            assert "e4.mp4@" in done.stdout
            assert f"umount {directory}" in done.stdout
            # Half-open segment [a, b): its last frame b - 1 at 30 fps is source frame 2(b - 1).
            after = stamp.read(cv2.imread(str(tmp_path / "egofs-demo.jpg"))) // 2 + 1
            assert re.search(rf"frames \d+ to {after}\.", done.stdout)
        assert is_mounted(directory)
    finally:
        assert egofs("umount", directory).returncode == 0


def test_flags_and_o_mean_the_same(tmp_path: Path, demo_root: Path) -> None:
    seen = []
    for number, words in enumerate((["--views", "e4+v3"], ["-o", "views=e4+v3"])):
        directory = tmp_path / str(number)
        directory.mkdir()
        command = ["mount", "assembly101", directory, "--source", demo_root, "--cache-dir", tmp_path / "c", *words]
        assert egofs(*command).returncode == 0
        seen.append(sorted(os.listdir(max((directory / "recordings").iterdir()))))
        assert egofs("umount", directory).returncode == 0
    assert seen[0] == seen[1]
    assert "e4.mp4" in seen[0]


KILLER = """
import os, random, sys
root = sys.argv[1]
dice = random.Random(int(sys.argv[2]))
paths = [os.path.join(f, n) for f, _, names in os.walk(root) for n in names]
while True:
    path = dice.choice(paths)
    os.stat(path)
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, 200_000, dice.randrange(size + 1))
    os.close(fd)
    os.listdir(os.path.dirname(path))
"""


@pytest.mark.timeout(180)
def test_killing_readers_at_random_for_a_minute_leaves_a_mount_that_answers(folder: Path, tmp_path: Path) -> None:
    for n in range(200):
        (folder / f"sub/{n}").write_bytes(bytes(n * 1000))
    make_clip(folder / "a.mp4", frames=30)
    dice = random.Random(7)
    with mounted(folder, tmp_path / "m", cache=tmp_path / "c") as mount:
        start = [sys.executable, "-c", KILLER, str(mount.directory)]
        readers = [subprocess.Popen([*start, str(n)], stderr=subprocess.DEVNULL) for n in range(4)]
        killed = 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(dice.uniform(0.0, 0.25))
            victim = dice.randrange(len(readers))
            readers[victim].kill()
            readers[victim].wait(20)
            killed += 1
            readers[victim] = subprocess.Popen([*start, str(killed)], stderr=subprocess.DEVNULL)
            if killed % 20 == 0:
                assert mounts.state(mount.directory) == "live"
        for reader in readers:
            reader.kill()
            reader.wait(20)
        assert killed > 100
        assert mounts.state(mount.directory) == "live"
        assert (mount / "sub/big.bin").read_bytes() == (folder / "sub/big.bin").read_bytes()
        assert mount.status()["asked"]["bugs"] == 0
