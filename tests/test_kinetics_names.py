"""Names of clips, and arrays of them."""

import numpy as np
import pytest

from vfs.datasets.kinetics import names
from vfs.datasets.kinetics.stems import StemSet, groups, places


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("AAAAAAAAAAA_000010_000020", "AAAAAAAAAAA_000010_000020"),
        ("AAAAAAAAAAA_10_20", "AAAAAAAAAAA_000010_000020"),
        ("-bbbbbbbbbb_000103_000113", "-bbbbbbbbbb_000103_000113"),
        ("cc_cccccc-0_7_17", "cc_cccccc-0_000007_000017"),
        ("____________1_2", "____________000001_000002"),
        ("1_2_3_4_5_6_10_20", "1_2_3_4_5_6_000010_000020"),
        ("AAAAAAAAAAA_000010", None),
        ("AAAAAAAAAAA_000020_000010", None),
        ("AAAAAAAAAAA_000010_000010", None),
        ("AAAAAAAAAAA", None),
        ("AAAAAAAAAA_000010_000020", None),
        ("AAAAAAAAAAAA_000010_000020", None),
        ("AAAAAAAAAAA_000010_1000000", None),
        ("AAAAAAAAAAA_٠_١", None),
        ("AAAAAAAAAA\n_000010_000020", None),
    ],
)
def test_a_clips_name_is_read_with_an_id_of_eleven_characters(name: str, stem: str | None) -> None:
    assert names.kinetics_shape(name) == stem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("10", 10), ("10.0", 10), ("000010", 10), ("10.000000", 10), (" 10 ", 10), ("10.", 10), ("0", 0)],
        *[("10.5", None), ("-1", None), ("", None), ("1e3", None), ("nan", None), ("1000000", None)],
        *[("٣", None), ("9" * 5000, None)],
    ],
)
def test_times_are_whole_seconds_however_they_are_written(text: str, seconds: int | None) -> None:
    assert names.whole_seconds(text) == seconds


def test_a_set_of_names_knows_what_is_new() -> None:
    seen, known = StemSet(3), set()
    generator = np.random.default_rng(1)
    for _ in range(50):
        names = [b"%03d" % number for number in generator.integers(0, 999, 40)]
        expected = []
        for name in names:
            expected.append(name not in known)
            known.add(name)
        assert seen.new_of(np.array(names, dtype="S3")).tolist() == expected
    assert seen.array().tolist() == sorted(known)
    assert len(seen._runs) < 6


def test_places_and_groups() -> None:
    among = np.array([b"a", b"c", b"e"], dtype="S3")
    assert places(among, np.array([b"c", b"b", b"", b"e", b"f"], dtype="S5")).tolist() == [1, -1, -1, 2, -1]
    assert places(among[:0], among).tolist() == [-1, -1, -1]
    found = groups(np.array([2, 1, 2, 0, 2, 1], dtype="u2"), np.array([5, 3, 4, 1, 4, -1], dtype=np.int32))
    assert [(number, at.tolist()) for number, at in found] == [(1, [3]), (2, [4, 5])]
    assert list(groups(np.array([], dtype="u2"), np.array([], dtype=np.int32))) == []
