"""What a crawler leaves behind of two releases of Kinetics: folders by label, and clips that stand in several.

The second release has split one class and written another anew, so that of four clips three stand twice. One clip has
the crawler's shorter name, and one was never to be had. See the package for who calls, and for what a caller may do.
"""

from pathlib import Path

from vfs.datasets.lookalike.store import Footage, Store, csv_text
from vfs.video import sample

_SECONDS = 5
_FRAMES = 30 * _SECONDS
_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_IDS = ("DEMO-clip_1", "-DEMO_clip2", "_DEMO-clip3", "DEMO_clip-4", "gone_-DEMO5")
# Of each clip: when it begins, and its class in either release, "" where that has it not.
KINETICS_CLIPS = (
    (_IDS[0], 10, "picking fruit", "picking apples"),
    (_IDS[1], 103, "passing american football (not in-game)", "passing American football (not in-game)"),
    (_IDS[2], 0, "picking fruit", "picking fruit"),
    (_IDS[3], 27, "", "air drumming"),
)
_RELEASES = ("600", "700")
_MISSING = (_IDS[4], 3, "picking fruit", "picking fruit")


def make_kinetics(root: Path) -> None:
    """Writes the store below a folder that is there: `annotations/`, and a folder of labels for each release."""
    store = Store(root)
    for place, (youtube_id, start, *labels) in enumerate(KINETICS_CLIPS):
        footage = Footage(sample.EGO4D_QUICK, 456, 342, f"KINETICS {place + 1}", place, _FRAMES)
        for release, label in zip(_RELEASES, labels, strict=True):
            if label:
                short = place == len(KINETICS_CLIPS) - 1
                span = f"{start}_{start + _SECONDS}" if short else f"{start:06d}_{start + _SECONDS:06d}"
                store.film(f"{release}/{label}/{youtube_id}_{span}.mp4", footage)
    store.develop()
    for number, release in enumerate(_RELEASES):
        rows = [
            dict(zip(_COLUMNS, (labels[number], youtube_id, start, start + _SECONDS, "train"), strict=True))
            for youtube_id, start, *labels in (*KINETICS_CLIPS, _MISSING)
            if labels[number]
        ]
        store.put(f"annotations/kinetics-{release}_train.csv", csv_text(_COLUMNS, rows))
