"""Every promise of doc/SEMANTICS.md has tests, and these are there."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TEXT = (TOP / "doc/SEMANTICS.md").read_text()


def named() -> dict[int, list[str]]:
    """The tests of each promise, as FILE or FILE::NAME."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", TEXT, re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", cell) for number, cell in rows}


def promises(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^(\d+)\. \*\*", text, re.MULTILINE)]


def lacking(tests: list[str]) -> list[str]:
    """Those of the tests that do not exist."""
    gone = []
    for each in tests:
        file, _, name = each.partition("::")
        path = TOP / "tests" / file
        names = set()
        if path.is_file():
            names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
        if not path.is_file() or (name and name not in names):
            gone.append(each)
    return gone


def test_promises_are_numbered_in_order() -> None:
    numbers = promises(TEXT)
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_promise_has_tests() -> None:
    assert [number for number in promises(TEXT) if not named().get(number)] == []
    assert set(named()) == set(promises(TEXT))


def test_the_tests_of_promises_exist() -> None:
    assert lacking([each for tests in named().values() for each in tests]) == []


def test_a_test_that_is_not_there_is_noticed() -> None:
    absent = ["test_semantics.py::test_of_nothing", "test_nothing.py"]
    assert lacking([*absent, "test_semantics.py", "test_semantics.py::test_every_promise_has_tests"]) == absent
