"""A mount against a plain model of what may be seen in it; tests/model.py has the rules, and plays for longer."""

import os
import time
from pathlib import Path

import pytest

from tests import model
from tests.model import play, staged
from tests.world import BELIEVED_S, Span, Surprise, World

pytestmark = pytest.mark.mount


def test_nothing_is_seen_that_was_not_promised_whatever_goes_wrong(tmp_path: Path) -> None:
    # Each run plays another game, unless it is told which: what fails says its seed.
    seed = os.environ.get("EGOFS_SEED", str(time.time_ns()))
    with staged(tmp_path, seed) as stage:
        play(stage, 25)
        tally = stage.tally
    assert sum(tally.operations.values()) > 150
    assert sum(tally.damages.values()) > 1
    assert tally.faults.total() > 5
    assert tally.beyond_deadline_s < 1.0


def test_the_model_finds_a_mount_that_gives_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(tmp_path, "1", files=10) as stage:
        right = stage.world.contents
        monkeypatch.setattr(stage.world, "contents", lambda path, version: right(path, version)[:-1] + b"x")
        with pytest.raises(Surprise, match="seed 1, step"):
            play(stage, 20)


def test_the_model_finds_a_mount_that_shows_what_is_long_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "AGE_S", 3600.0)
    with staged(tmp_path, "1", files=10) as stage:
        looker = stage.looker(0)
        for path in stage.world.there():
            os.stat(stage.mount / path)
            stage.world.delete(path)
        time.sleep(BELIEVED_S + 0.5)
        with pytest.raises(Surprise):
            looker._list()
        looker.close()


def test_the_past_is_remembered_with_its_edges(tmp_path: Path) -> None:
    world = World(tmp_path / "store", "1")
    world.put("x", 10)
    world._spans["x"] = [Span(None, 0.0, 10.0), Span(1, 9.0, 20.0), Span(2, 19.0, 30.0), Span(None, 29.0)]
    assert world.versions("x", 5.0, 8.0) == {None}
    assert world.versions("x", 9.5, 9.6) == {None, 1}
    assert world.versions("x", 12.0, 13.0) == {1}
    assert world.versions("x", 12.0, 25.0) == {1, 2}
    assert world.versions("x", 40.0, 41.0) == {None}
    assert world.versions("y", 40.0, 41.0) == {None}
