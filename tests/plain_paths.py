"""What a researcher's script does with a dataset, by plain paths and libraries that know nothing of egofs.

    python plain_paths.py ego4d ROOT | egoexo4d ROOT        prints what it found as JSON

It runs unchanged on a mount and on a full local copy; the test compares what it printed. `--frames` reads pictures of
`frames/` through a torch DataLoader as well, where there are some.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import pandas

_TIER = "v2/video_540ss"


def ego4d(root: Path) -> tuple[dict[str, Any], list[Path]]:
    """The manifest by pandas, the metadata by json, each video that the manifest names and that is there."""
    manifest = pandas.read_csv(root / _TIER / "manifest.csv")
    metadata = json.loads((root / "ego4d.json").read_text())
    videos = [root / _TIER / f"{uid}.mp4" for uid in manifest["video_uid"]]
    there = [video for video in videos if video.exists()]
    told = {each["video_uid"]: each["video_metadata"]["num_frames"] for each in metadata["videos"]}
    return {
        "rows": manifest.fillna("").values.tolist(),
        "videos": len(metadata["videos"]),
        "clips": len(metadata.get("clips", [])),
        "absent": sorted(video.name for video in videos if not video.exists()),
        "told": {video.stem: told.get(video.stem) for video in there},
    }, there


def egoexo4d(root: Path) -> tuple[dict[str, Any], list[Path]]:
    """takes.json, and of each take every camera whose file is there."""
    takes = json.loads((root / "takes.json").read_text())
    videos = [
        path
        for take in takes
        for cameras in (take["frame_aligned_videos"] or {}).values()
        for stream in (cameras or {}).values()
        if stream and stream.get("relative_path")
        and (path := root / take["root_dir"] / stream["relative_path"]).exists()
    ]  # fmt: skip
    return {"takes": [[take["take_name"], take["take_uid"], take["best_exo"]] for take in takes]}, videos


def looked_at(video: Path) -> dict[str, Any]:
    """A video's bytes, and what PyAV and OpenCV see in it."""
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    capture = cv2.VideoCapture(str(video))
    try:
        seen, last = 0, None
        while (read := capture.read())[0]:
            seen, last = seen + 1, read[1]
    finally:
        capture.release()
    return {
        "bytes": video.stat().st_size,
        "sha256": hashlib.sha256(video.read_bytes()).hexdigest(),
        "frames": len(frames),
        "shape": frames[0].shape,
        "means": [round(float(frame.mean()), 3) for frame in frames],
        "opencv": [seen, None if last is None else round(float(last.mean()), 3)],
    }


def loaded(videos: list[Path]) -> list[Any]:
    """The pictures of the first frames of some videos, from a DataLoader with two workers."""
    from torch.utils.data import DataLoader, Dataset

    pictures = [
        picture
        for video in videos[:4]
        for picture in sorted((video.parent / "frames" / video.stem).iterdir())[:6]
    ]  # fmt: skip

    class Pictures(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, at: int) -> tuple[str, float]:
            read = cv2.imread(str(pictures[at]))
            return pictures[at].name, round(float(read.mean()), 3)

    loader = DataLoader(Pictures(), batch_size=None, num_workers=2)
    return [list(each) for each in loader]


def main() -> None:
    """Prints what it found."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("dataset", choices=["ego4d", "egoexo4d"])
    arguments.add_argument("root", type=Path)
    arguments.add_argument("--frames", action="store_true")
    given = arguments.parse_args()
    found, videos = (ego4d if given.dataset == "ego4d" else egoexo4d)(given.root)
    found["media"] = {str(video.relative_to(given.root)): looked_at(video) for video in videos}
    if given.frames:
        found["loaded"] = loaded(videos)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
