"""`egofs options`."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import click

_MOST_COLUMNS = 110
_EPILOG = """\b
  egofs options                         all there are
  egofs options ego4d                   what `egofs mount ego4d DIR -o …` takes
  egofs options assembly101 s3://       the same with -o source=s3://…
  egofs options views cache_size        these alone
"""


@dataclass(frozen=True)
class _Row:
    """An option of one owner."""

    name: str
    form: str
    default: Any
    owner: str
    """any mount, source NAME or dataset NAME."""
    description: str


@click.command("options", epilog=_EPILOG)
@click.argument("words", metavar="[NAME|SOURCE]…", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Lists mount options: those of each dataset and store, or what a SOURCE takes, or those of these names.

    Each stands with what to write for it and with its default, under whose it is: any mount's, a source's (a kind of
    store) or a dataset's. All of them can be said behind -o, as a flag and in a .toml file.
    """
    rows = [*_rows(words)]
    if as_json:
        shown = [
            {
                "name": row.name,
                "type": row.form,
                "default": _plain(row.default),
                "where": row.owner,
                "description": row.description,
            }
            for row in rows
        ]
        click.echo(json.dumps({"options": shown}, indent=1))
    else:
        click.echo(_table(rows), nl=False)


def _rows(words: Iterable[str]) -> Iterator[_Row]:
    """The options that words ask for, or all. Raises OptionError for a word that is nothing of that."""
    from mountd import config
    from vfs.options import described

    everything = [
        _Row(name, told.form, told.default, owner, told.description)
        for owner, group in config.groups()
        for name, told in described(group).items()
    ]
    names: set[str] = set()
    owners: set[str] = set()
    for word in words:
        name = word.lstrip("-").replace("-", "_")
        if name in {row.name for row in everything}:
            names.add(name)
        else:
            owners |= config.takers(word)
    yield from (row for row in everything if not (names or owners) or row.name in names or row.owner in owners)


def _plain(default: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(default, tuple):
        return list(default)
    return str(default) if isinstance(default, Path) else default


def _table(rows: Iterable[_Row]) -> str:
    """What a person reads, as wide as the terminal, or 80 columns."""
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    by_owner: dict[str, list[_Row]] = {}
    for row in rows:
        by_owner.setdefault(row.owner, []).append(replace(row, owner=""))
    by_rows: dict[tuple[_Row, ...], list[str]] = {}
    for owner, some in by_owner.items():
        by_rows.setdefault(tuple(some), []).append(owner)
    return "\n".join(_section(owners, some, width) for some, owners in by_rows.items())


def _section(owners: Sequence[str], rows: Sequence[_Row], width: int) -> str:
    """The options of one owner, or of several that have the same."""
    kind, *names = owners[0].split(" ")
    lines = [f"{kind.capitalize()} {' and '.join([*names, *(other.split(' ')[1] for other in owners[1:])])}:"]
    column = 4 + max(len(row.name) for row in rows)
    for row in rows:
        default = _default_of(row.default)
        lines += wrap(
            row.description, width, initial_indent=f"  {row.name:<{column - 2}}", subsequent_indent=" " * column
        )
        told = f"{row.form}; {default}" if default else row.form
        lines += wrap(told, width, initial_indent=" " * (column + 2), subsequent_indent=" " * (column + 4))
    return "\n".join(lines) + "\n"


def _default_of(default: Any) -> str:
    """A default in words; none where nothing in particular is one."""
    if default is None or default in ("", ()):
        return ""
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, float):
        default = f"{default:g}"
    elif isinstance(default, tuple):
        default = "+".join(default)
    return f"default {default}"
