"""The demo's tree: its shape, its videos' numbers, its features, and that only a complete one is taken for it.

The real tree is made once for the session. How it comes to be there is tested with a writer of empty videos.
"""

import subprocess
import sys
import textwrap
import threading

import av
import lmdb
import numpy as np
import pytest

from vfs.datasets import demo_tree
from vfs.errors import SourceError
from vfs.video import sample, stamp

FIRST, SECOND = demo_tree.RECORDINGS
VIDEOS = [
    pytest.param(recording, view, id=f"{recording.toy_id}-{view.canonical}")
    for recording in demo_tree.RECORDINGS
    for view in recording.views
]
FINE_HEADER = (
    "id,video,start_frame,end_frame,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls,"
    "toy_id,toy_name,is_shared,is_RGB"
)


@pytest.fixture(scope="module")
def demo(demo_root):
    return demo_root


@pytest.fixture
def written(monkeypatch):
    """Replaces the encoder by a writer of one byte; the paths of recordings that it was asked for."""
    paths = []

    def write(path, *rest, **more):
        if "recordings" in path.parts:
            paths.append(path)
        path.write_bytes(b"v")

    monkeypatch.setattr(sample, "write", write)
    return paths


# ---- The tree ------------------------------------------------------------------------------------------------------


def test_the_tree_has_the_datasets_names(demo):
    assert sorted(p.name for p in demo.iterdir()) == [
        *("README.txt", "TSM_features", "annotations", "ego4d", "egoexo4d", "kinetics", "metadata.zip", "recordings")
    ]
    assert sorted(p.name for p in (demo / "recordings").iterdir()) == [
        "nusar-2021_action_both_9098-b02_9098_user_id_2021-02-03_140000",
        "nusar-2021_action_both_9099-a01_9099_user_id_2021-02-01_120000",
    ]
    static = {f"{c}_rgb.mp4" for c in ("C10095", "C10115", "C10118", "C10119", "C10379", "C10390", "C10395", "C10404")}
    eights = {f"HMC_{n}_mono10bit.mp4" for n in (84346135, 84347414, 84355350, 84358933)}
    twos = {f"HMC_{n}_mono10bit.mp4" for n in (21176875, 21176623, 21179183)}
    assert {p.name for p in (demo / "recordings" / FIRST.name).iterdir()} == static | eights
    assert {p.name for p in (demo / "recordings" / SECOND.name).iterdir()} == static | twos


def test_the_tree_is_small(demo):
    assert 1 << 20 < sum(p.stat().st_size for p in demo.rglob("*") if p.is_file()) < 40 << 20


def test_a_second_call_makes_nothing(demo, written):
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (demo, *demo.rglob("*"))}
    assert demo_tree.ensure(demo.parent) == demo
    assert written == []
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (demo, *demo.rglob("*"))} == before


# ---- Videos --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recording", "view"), VIDEOS)
def test_a_video_has_the_datasets_format_and_its_own_length(demo, recording, view):
    with av.open(str(demo / "recordings" / recording.name / f"{view.name}.mp4")) as container:
        (stream,) = container.streams
        context = stream.codec_context
        form = (context.name, context.format.name, context.width, context.height)
        if view.name.startswith("C"):
            assert form == ("h264", "yuv420p", 1920, 1080)
            assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)
        else:
            assert form == ("hevc", "gray10le", 636, 480)
        assert context.color_range == 1
        assert stream.average_rate == stream.base_rate == 60
        assert stream.frames == view.picture_count >= 162
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert len(packets) == view.picture_count
        assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, view.picture_count, 60))
        shown = sorted(round(packet.pts * stream.time_base * 60) for packet in packets)
        assert shown == list(range(view.picture_count))
        assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)  # B-frames


@pytest.mark.parametrize(("recording", "view"), VIDEOS)
def test_a_videos_first_and_last_pictures_carry_their_numbers(demo, recording, view):
    with av.open(str(demo / "recordings" / recording.name / f"{view.name}.mp4")) as container:
        stream = container.streams.video[0]
        first = next(container.decode(stream))
        assert stamp.read(first.to_ndarray(format="gray")) == 0
        container.seek(stream.duration, stream=stream, backward=True)
        *_, last = container.decode(stream)
        assert stamp.read(last.to_ndarray(format="gray")) == view.picture_count - 1


def test_every_picture_of_a_view_carries_its_number(demo):
    view = FIRST.views[-1]
    with av.open(str(demo / "recordings" / FIRST.name / f"{view.name}.mp4")) as container:
        numbers = [stamp.read(picture.to_ndarray(format="gray")) for picture in container.decode(video=0)]
    assert numbers == list(range(view.picture_count))


@pytest.mark.parametrize("view", [FIRST.views[0], FIRST.views[-1]], ids=["static", "ego"])
def test_a_videos_index_stands_before_its_pictures(demo, view):
    start = (demo / "recordings" / FIRST.name / f"{view.name}.mp4").read_bytes()[:65536]
    assert 0 < start.index(b"moov") < start.index(b"mdat")


@pytest.mark.parametrize("family", [sample.STATIC, sample.EGO], ids=["static", "ego"])
def test_a_video_is_the_same_every_time(tmp_path, family):
    for name in ("a.mp4", "b.mp4"):
        sample.write(tmp_path / name, family, "v1 C10095_rgb", 0, 7)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("family", [sample.STATIC, sample.EGO], ids=["static", "ego"])
@pytest.mark.parametrize("other", [(1, 0), (0, 1)], ids=["camera", "recording"])
def test_videos_of_another_camera_or_recording_differ_beside_their_labels(tmp_path, family, other):
    pictures = []
    for place, session in ((0, 0), other):
        sample.write(tmp_path / "clip.mp4", family, "same", place, 1, session)
        with av.open(str(tmp_path / "clip.mp4")) as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="gray").astype(int))
    ball = 0.07**2 * 3.14 * family.height / family.width  # of the picture
    assert (abs(pictures[0] - pictures[1]) > 8).mean() > ball / 2


def test_the_label_is_drawn_whether_or_not_the_camera_moves(tmp_path):
    for family in (sample.STATIC, sample.EGO):
        pictures = []
        for label in ("AAAA", "IIII"):
            sample.write(tmp_path / "clip.mp4", family, label, 0, 3)
            with av.open(str(tmp_path / "clip.mp4")) as container:
                *_, last = container.decode(video=0)
            pictures.append(last.to_ndarray(format="gray").astype(int))
        differing = np.argwhere(abs(pictures[0] - pictures[1]) > 100)
        assert len(differing) > 500
        assert differing[:, 0].max() < family.height // 4


def test_a_missing_encoder_is_a_source_error_that_names_it(tmp_path):
    family = sample.Family(64, 64, "no_such_encoder", "gray", np.uint8, 16, 235, {})
    with pytest.raises(SourceError, match=r"clip\.mp4 with no_such_encoder"):
        sample.write(tmp_path / "clip.mp4", family, "x", 0, 1)


# ---- Annotations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", [FIRST, SECOND], ids=["train", "validation"])
def test_fine_rows_stand_for_each_view_and_end_within_its_video(demo, recording):
    folder = demo / "annotations" / "fine-grained-annotations"
    header, *rows = (folder / f"{recording.split}.csv").read_text().splitlines()
    assert header == FINE_HEADER
    views = {f"{recording.name}/{view.name}.mp4": view for view in recording.views}
    cells = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert {cell["video"] for cell in cells} == set(views)
    assert [cell["id"] for cell in cells] == [str(n) for n in range(len(cells))]
    for cell in cells:
        view = views[cell["video"]]
        assert 0 <= int(cell["start_frame"]) < int(cell["end_frame"]) <= view.frame_count
        assert cell["is_RGB"] == str(int(view.name.startswith("C")))
    names, *actions = (folder / "actions.csv").read_text().splitlines()
    assert names == "id,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls"
    known = {row.split(",", 1)[1] for row in actions}
    assert {",".join(list(cell.values())[4:10]) for cell in cells} <= known


def test_a_fine_row_reads_as_the_datasets_do(demo):
    text = (demo / "annotations" / "fine-grained-annotations" / "train.csv").read_text()
    assert text.splitlines()[1] == (
        "0,nusar-2021_action_both_9099-a01_9099_user_id_2021-02-01_120000/C10095_rgb.mp4,"
        "3,11,402,5,33,inspect chassis,inspect,chassis,a01,excavator,1,1"
    )


def test_coarse_labels_follow_on_each_other_and_end_within_the_videos(demo):
    labels = demo / "annotations" / "coarse-annotations" / "coarse_labels"
    names = {f"{task}_{r.name}.txt" for task in ("assembly", "disassembly") for r in (FIRST, SECOND)}
    assert {p.name for p in labels.iterdir()} == names
    for name in names:
        rows = [line.split("\t") for line in (labels / name).read_text().split("\n")]
        assert all(len(start) == len(stop) == 9 for start, stop, _ in rows)
        assert [row[1] for row in rows[:-1]] == [row[0] for row in rows[1:]]
        assert int(rows[-1][1]) <= min(view.frame_count for r in (FIRST, SECOND) for view in r.views)


def test_coarse_splits_and_views_have_the_datasets_lines(demo):
    folder = demo / "annotations" / "coarse-annotations"
    assert {p.name: p.read_text() for p in (folder / "coarse_splits").iterdir()} == {
        f"{split}_coarse_{task}.txt": f"{task}_{name}.txt\t\t{rest}"
        for split, name, rest in (
            ("train", FIRST.name, "-\ta01\texcavator"),
            ("val", SECOND.name, "notshared\tb02\tdump truck"),
        )
        for task in ("assembly", "disassembly")
    }
    listed = (folder / "coarse_seq_views.txt").read_text().split("\n")
    videos = {f"{p.parent.name}/{p.name}" for p in (demo / "recordings").glob("*/*.mp4")}
    assert len(listed) == 2 * len(videos)
    assert set(listed) == {f"{task}_{video}" for task in ("assembly", "disassembly") for video in videos}


# ---- Features ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["C10118_rgb", "HMC_84358933_mono10bit", "HMC_21179183_mono10bit"])
def test_features_stand_under_each_frame_of_their_view(demo, view):
    folder = demo / "TSM_features" / view
    assert sorted(p.name for p in folder.iterdir()) == ["data.mdb", "lock.mdb"]
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
        held = {key.decode(): value for key, value in transaction.cursor()}
    recordings = [r for r in (FIRST, SECOND) if any(v.name == view for v in r.views)]
    lengths = {r.name: next(v.picture_count for v in r.views if v.name == view) for r in recordings}
    assert set(held) == {
        f"{name}/{view}/{view}_{n:010d}.jpg" for name in lengths for n in range(1, (lengths[name] + 1) // 2 + 1)
    }
    for key, value in held.items():
        assert len(value) == 8192
        assert np.array_equal(np.frombuffer(value, "<f4"), demo_tree.feature(key))
    assert len(set(held.values())) == len(held)


def test_a_feature_is_the_same_on_every_machine():
    feature = demo_tree.feature("a/b/b_0000000001.jpg")
    assert (feature.shape, feature.dtype.str) == ((2048,), "<f4")
    assert 0 <= feature.min() < 0.01
    assert 0.99 < feature.max() < 1
    # crc32 of the key, by the multiplier, its upper 24 bits: worked out with Python's integers.
    assert feature[0] == (3567022224 * 2654435761 % 2**32 >> 8) / 2**24


# ---- How a tree comes to be there ----------------------------------------------------------------------------------


def test_a_failed_build_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    count = []

    def write(path, *rest, **more):
        count.append(path)
        if len(count) == 5:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"v")

    monkeypatch.setattr(sample, "write", write)
    with pytest.raises(SourceError, match="No space left on device"):
        demo_tree.ensure(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".demo.lock"]


def test_a_folder_that_cannot_be_made_is_a_source_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot make the demo's tree"):
        demo_tree.ensure(tmp_path / "file" / "demo")


KILLED = """
    import os, signal
    from pathlib import Path
    from vfs.datasets import demo_tree
    from vfs.video import sample

    def write(path, *rest, **more):
        path.write_bytes(b"half")
        if len(list(path.parent.parent.glob("*/*.mp4"))) >= 9:  # two threads write
            os.kill(os.getpid(), signal.SIGKILL)

    sample.write = write
    demo_tree.ensure(Path({folder!r}))
"""


def test_a_killed_build_is_not_taken_for_a_tree_and_is_cleared_up(tmp_path, written):
    code = textwrap.dedent(KILLED).format(folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    partial = tmp_path / ".demo-v3.partial"
    assert len(list(partial.rglob("*.mp4"))) >= 9
    assert not (tmp_path / "demo-v3").exists()

    root = demo_tree.ensure(tmp_path)

    assert len(written) == 23
    assert {p.read_bytes() for p in root.glob("recordings/*/*.mp4")} == {b"v"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".demo.lock", "demo-v3"]


MADE = """
    import sys
    from pathlib import Path
    from vfs.datasets import demo_tree
    from vfs.video import sample

    def write(path, *rest, **more):
        path.write_bytes(b"v")
        if "recordings" in path.parts:
            sys.stdout.write(path.name + "\\n")  # print writes the newline apart, where another thread can come between

    sample.write = write
    print("ready", flush=True)
    sys.stdin.readline()
    demo_tree.ensure(Path({folder!r}))
"""


def test_processes_at_once_make_one_tree(tmp_path):
    code = textwrap.dedent(MADE).format(folder=str(tmp_path / "new"))
    builders = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("\n")
        builder.stdin.flush()
    made = [builder.communicate(timeout=60)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert sorted(map(len, made)) == [0, 0, 23]


def test_threads_at_once_make_one_tree(tmp_path, written):
    together = threading.Barrier(4)
    roots = []

    def build():
        together.wait()
        roots.append(demo_tree.ensure(tmp_path))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roots == [tmp_path / "demo-v3"] * 4
    assert len(written) == 23
