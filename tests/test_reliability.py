"""The page of what has been tried: its tests exist, and its figures are a run's."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load import Crowd, Grown, Sample
from tests.reliabilitypage import ROWS, Figures, page

TOP = Path(__file__).resolve().parent.parent
NAMED = sorted({test for row in ROWS for test in row.tests})


def functions_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


@pytest.mark.parametrize("test", NAMED)
def test_every_test_that_the_page_names_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in functions_in(TOP / file)


def test_the_page_is_there_and_names_what_its_rows_name() -> None:
    written = (TOP / "doc/RELIABILITY.md").read_text()
    for row in ROWS:
        assert f"| {row.failure} | {row.promised} |" in written, "run ./dev reliability again"
    for test in NAMED:
        assert f"`{test}`" in written


def figures(**other: object) -> Figures:
    grown = Grown(10, 1, 60.0, [Sample(1.0, 100.0, 20, 9), Sample(2.0, 110.0, 21, 9)], 3, Sample(3.0, 90.0, 20, 5))
    values: dict[str, object] = {
        "seed": "7", "minutes": 20.0, "machine": "a machine", "when": "2026-01-01", "games": 3,
        "operations": {"read": 200_000}, "errors": {"ESTALE": 5}, "faults": {"Status 500": 20_000},
        "damages": {"data flipped": 3000}, "kills": 200, "gib_compared": 1.0, "wrong": 0, "beyond_deadline_s": 0.1,
        "hangs": 30, "longest_operation_s": 6.0,
        "fault_recovery_s": 0.5, "kill_recovery_s": [0.4, 0.6], "crowds": [Crowd(10, 256, 0, 0, 1.0, 90)],
        "grown": grown,
    }  # fmt: skip
    return Figures(**{**values, **other})  # type: ignore[arg-type]


def test_what_was_reached_is_told_in_figures() -> None:
    made = page(figures())
    assert "**missed**" not in made
    assert "| operations | 200,000 | at least 100,000 |" in made
    assert "20,000 played" in made
    assert "3,000 done" in made


@pytest.mark.parametrize(
    "other",
    [
        {"operations": {"read": 99_999}},
        {"faults": {}},
        {"kills": 0, "damages": {"cut": 999}},
        {"wrong": 1},
        {"beyond_deadline_s": 1.5},
        {"fault_recovery_s": 5.1},
        {"crowds": [Crowd(10, 256, 0, 1, 1.0, 90)]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_was_missed_is_said(other: dict[str, object]) -> None:
    assert page(figures(**other)).count("**missed**") == 1
