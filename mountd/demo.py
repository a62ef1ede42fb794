"""`./dev demo`: mounts the built-in datasets, looks at them as a person would, reads one as a training script would.

Everything here goes through the mounted paths with plain file calls; it leaves the mount in place.
"""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import simplejpeg

from mountd import mounts

_SEGMENT_VIEW = "e4"
_PICTURE = "egofs-demo.jpg"
_OTHERS = ("ego4d/v2/full_scale", "egoexo4d/takes/cmu_bike99_2/frame_aligned_videos", "kinetics/videos")
"""Where the datasets beside Assembly101 show what they are."""


def main() -> None:
    """Runs the demo on the directory given, else on ~/egofs-demo. Exits with the status of what failed."""
    home = os.environ.get("HOME") or os.getcwd()
    directory = mounts.real(Path(sys.argv[1] if len(sys.argv) > 1 else Path(home) / "egofs-demo"))
    egofs = shutil.which("egofs", path=str(Path(sys.executable).parent)) or "egofs"
    if _is_demo(directory):
        _print(f"The demo is still mounted on {directory}.\n")
    else:
        directory.mkdir(parents=True, exist_ok=True)
        _shell(egofs, "mount", "demo", str(directory), shown=f"egofs mount demo {directory}")
    _look(directory)
    _train(directory)
    _print(f"\nTo unmount:   {shlex.quote(egofs)} umount {shlex.quote(str(directory))}\n")


def _look(directory: Path) -> None:
    _shell("ls", str(directory))
    recordings = sorted((directory / "recordings").iterdir())
    for recording in recordings:
        _shell("ls", "-F", str(recording), shown=f"ls -F {directory.name}/recordings/{recording.name}")
    frames = recordings[0] / "frames" / _SEGMENT_VIEW
    names = sorted(entry.name for entry in frames.iterdir())
    _print(f"\n{frames.relative_to(directory)} has {len(names)} frames that nobody has decoded yet:\n")
    _print(f"  {names[0]} … {names[-1]}, {(frames / names[0]).stat().st_size:,} bytes each\n")
    for folder in _OTHERS:
        _shell("ls", "-F", str(directory / folder), shown=f"ls -F {directory.name}/{folder}")


def _train(directory: Path) -> None:
    """Reads the frames of one annotated segment; the CSV counts from 0 at 30 fps, the files from 1."""
    before = _fetched(directory)
    with (directory / "annotations/fine-grained-annotations/train.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if "mono10bit" in row["video"])
    recording = directory / "recordings" / row["video"].split("/")[0]
    first, after = int(row["start_frame"]), int(row["end_frame"])
    _print(f"\nThe first segment of train.csv: {row['action_cls']!r}, frames {first} to {after}. ")
    pictures = []
    for frame in range(first, after):
        path = recording / "frames" / _SEGMENT_VIEW / f"{_SEGMENT_VIEW}_{frame + 1:010d}.jpg"
        pictures.append(simplejpeg.decode_jpeg(path.read_bytes(), colorspace="GRAY"))
    clip = np.stack(pictures)
    _print(f"Read through frames/{_SEGMENT_VIEW},\nit is an array of shape {clip.shape}, {clip.dtype}.\n")
    shutil.copyfile(path, _PICTURE)
    _print(f"Its last picture is now ./{_PICTURE}: have a look.\n")
    read, total = _fetched(directory) - before, _total(directory)
    share = f"{read:,} bytes of videos and annotations were read for that, of {total:,} ({read / total:.1%})"
    _print(f"\n{share if read else 'Nothing was read for that: it was read before'}.\n")


def _total(directory: Path) -> int:
    """The sum of the sizes of Assembly101's files; without frames, whose listing reads the index of every video."""
    total = 0
    others = {folder.partition("/")[0] for folder in _OTHERS}
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name != "frames" and name not in others]
        paths = [os.path.join(folder, name) for name in names]
        total += sum(os.path.getsize(path) for path in paths if not os.path.islink(path))
    return total


def _fetched(directory: Path) -> int:
    status = mounts.read_status(directory)
    return int(status["fetched"]["bytes_fetched"]) if status else 0


def _is_demo(directory: Path) -> bool:
    here = [mount for mount in mounts.egofs_mounts() if mount.mountpoint == directory]
    return bool(here) and here[-1].source == "demo" and mounts.state(directory) == "live"


def _shell(*command: str, shown: str | None = None) -> None:
    _print(f"\n$ {shown or shlex.join(command)}\n")
    sys.stdout.flush()
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _print(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
