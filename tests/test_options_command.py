"""`egofs options`, and what `--help` teaches."""

import json
import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mountd import cli, config
from mountd.commands import options
from tests.mounting import egofs
from vfs import datasets
from vfs.errors import OptionError
from vfs.options import described


def told(*words: str, columns: int | None = None) -> str:
    """What the command writes, read by a pipe or in a terminal of so many columns."""
    variables = {"COLUMNS": str(columns) if columns else None}
    done = CliRunner().invoke(options.command, words, env=variables, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def as_json(*words: str) -> list[dict[str, Any]]:
    found = json.loads(told("--json", *words))
    assert found.keys() == {"options"}
    return list(found["options"])


def test_every_option_there_is_is_told_with_whose_it_is() -> None:
    rows = as_json()
    assert {(row["where"], row["name"]) for row in rows} == {
        (owner, name) for owner, group in config.groups() for name in described(group)
    }
    assert all(row.keys() == {"name", "type", "default", "where", "description"} for row in rows)
    assert all(row["type"] and row["description"] for row in rows)


def test_types_and_defaults_are_those_that_the_options_have() -> None:
    by_name = {row["name"]: row for row in as_json() if row["where"] in ("any mount", "dataset ego4d")}
    forms = {name: (row["type"], row["default"]) for name, row in by_name.items()}
    assert forms["cache_size"] == ("a size above 0 such as 50G", "50G")
    assert forms["frames"] == ("true or false", True)
    assert forms["log"] == ("one of auto, file, journal, stderr", "auto")
    assert forms["timeout"] == ("a number of seconds above 0", 60.0)
    assert forms["cache_dir"] == ("a path", str(config.default_cache_dir()))
    assert forms["uid"] == ("a whole number", os.getuid())
    assert forms["listing_age"] == ("a number of seconds, 0 or more", None)
    assert forms["benchmarks"] == ("a text, or several joined with +", [])
    assert forms["version"] == ("one of v1, v2, v2_1", "v2_1")


def test_every_default_is_a_value_that_can_be_given() -> None:
    for _, group in config.groups():
        for name, option in described(group).items():
            if option.default is not None:
                assert group(**{name: option.default}) == group()


@pytest.mark.parametrize(
    ("words", "owners"),
    [
        (["ego4d"], {"any mount", "source s3", "dataset ego4d"}),
        (["assembly101"], {"any mount", "source hf", "dataset assembly101"}),
        (["ava-kinetics"], {"any mount", "dataset ava-kinetics"}),
        (["kinetics", "youtube://"], {"any mount", "dataset kinetics", "source youtube"}),
        (["demo"], {"any mount", "dataset demo"}),
        (["s3://bucket/x"], {"any mount", "source s3"}),
        (["https://host"], {"any mount", "source http"}),
        (["/"], {"any mount"}),
        (["."], {"any mount"}),
    ],
)
def test_a_source_is_told_what_a_mount_of_it_takes(words: list[str], owners: set[str]) -> None:
    assert {row["where"] for row in as_json(*words)} == owners


def test_what_is_told_of_a_dataset_is_what_its_mount_takes() -> None:
    for name in (row["name"] for row in as_json("ego4d")):
        with pytest.raises(OptionError, match=rf"^option {name}='\\x00': write "):  # known, and this is no value
            config.load("ego4d", [(name, "\0")])
    with pytest.raises(OptionError, match="belongs to"):
        config.load("ego4d", [("splits", "\0")])


def test_a_name_is_told_of_all_who_have_it() -> None:
    assert [row["where"] for row in as_json("views")] == [
        "dataset assembly101",
        "dataset demo",
        "dataset egoexo4d",
    ]
    assert [row["name"] for row in as_json("--", "--cache-size", "log")] == ["cache_size", "log"]
    assert told("views").startswith("Dataset assembly101 and demo:\n  views  cameras to show")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("veiws", "did you mean 'views'?"),
        ("egod4", "did you mean 'ego4d'?"),
        ("qqqq", "`egofs options` lists all there are"),
        ("a\x1b[31m", r"'a\\x1b\[31m'"),
        ("gopher://x", "no store is known"),
        ("https://user:s3cr3t@host", "everybody can see"),
    ],
)
def test_a_word_that_is_nothing_is_refused_in_one_line(word: str, says: str) -> None:
    done = egofs("options", word)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(says, done.stderr)
    assert done.stderr.startswith("egofs: ")
    assert done.stderr.rstrip("\n").isprintable()
    assert "s3cr3t" not in done.stderr


@pytest.mark.parametrize(("columns", "widest"), [(None, 80), (80, 80), (60, 60), (300, 110)])
def test_it_is_as_wide_as_can_be_read(columns: int | None, widest: int) -> None:
    lines = told(columns=columns).splitlines()
    words = max(len(word) for line in lines for word in line.split())
    assert widest - words <= max(map(len, lines)) <= widest
    assert "Any mount:" in lines
    assert "Source s3:" in lines


def test_a_dataset_that_names_a_store_has_it_from_there() -> None:
    for name in datasets.names():
        module = datasets.module_for(name)
        if name == "demo":  # it would be made: a folder of this machine
            assert module.STORE == "local"
            continue
        try:
            url = module.default_source(module.Options(), Path("/nothing"))
        except OptionError:
            assert not hasattr(module, "STORE"), name
        else:
            assert url.startswith(f"{module.STORE}://"), name


# -- what --help teaches


def test_help_has_all_commands_in_groups_with_whole_sentences() -> None:
    done = egofs("--help")
    assert done.returncode == 0
    assert "…" not in re.sub(r"-o …", "", done.stdout)
    assert "..." not in done.stdout.replace("[ARGS]...", "")
    text = " ".join(done.stdout.split())
    for name in cli.main.list_commands(click.Context(cli.main)):
        assert re.search(rf"^  {name}  ", done.stdout, re.MULTILINE), name
        command = cli.main.get_command(click.Context(cli.main), name)
        assert command is not None
        assert command.get_short_help_str(1000).rstrip(".") in text, name
    for title, names in cli._GROUPS:
        there = [name for name in names if re.search(rf"^  {name}  ", done.stdout, re.MULTILINE)]
        assert (f"\n{title}:\n" in done.stdout) == bool(there)
    assert "egofs mount demo ~/demo" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_command_that_stands_in_no_group_is_told_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_GROUPS", (("Only", ("mount", "absent")),))
    ctx = click.Context(cli.main)
    formatter = click.HelpFormatter(width=80)
    cli.main.format_commands(ctx, formatter)
    text = formatter.getvalue()
    assert text.index("Only:") < text.index("  mount ") < text.index("More:") < text.index("  umount ")
    assert "absent" not in text


@pytest.mark.parametrize("name", [*(each for each in cli.main.list_commands(click.Context(cli.main)))])
def test_every_commands_help_has_an_example(name: str) -> None:
    done = egofs(name, "--help")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.search(rf"^  (sudo |eval \"\$\()?egofs {name}\b", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("mounts", "did you mean 'mount' or 'umount'?"),
        ("stauts", "did you mean 'stats' or 'status'?"),
        ("qqqq", "egofs --help lists all there are"),
        ("a\x1b[31m", "no command is called 'a\\x1b[31m'"),
    ],
)
def test_a_command_that_is_none_is_answered_with_the_nearest(word: str, says: str) -> None:
    done = egofs(word)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
