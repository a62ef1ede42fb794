"""`egofs doctor`."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mountd import process

if TYPE_CHECKING:
    from mountd.doctor.finding import Finding

_EPILOG = """\b
  egofs doctor                              this machine, and what is mounted
  egofs doctor ego4d -o aws_profile=ego4d   and whether that can be mounted
  egofs doctor lab.toml --offline           asking no store
  egofs doctor ~/data                       one mount
"""
_COLOURS = {"ok": "green", "skipped": "bright_black", "warning": "yellow", "problem": "red"}
_MARKS = {"ok": "ok", "skipped": "-", "warning": "warning", "problem": "PROBLEM"}
_MARK_WIDTH = 9
_NARROW, _WIDE = 60, 120


@click.command("doctor", epilog=_EPILOG)
@click.argument("what", metavar="[SOURCE|DIR]", required=False)
@click.option("-o", "texts", multiple=True, metavar="NAME=VALUE,…", help="Options as `egofs mount` takes them.")
@click.option("--json", "as_json", is_flag=True, help="A list of {check, state, found, remedy}.")
@click.option("--offline", is_flag=True, help="Ask no store.")
def command(what: str | None, texts: tuple[str, ...], as_json: bool, offline: bool) -> None:
    """Finds what is wrong, and says what to do about it.

    Looks at this machine, the cache and what is mounted; with a SOURCE (a dataset, a URL, a folder or a .toml file) at
    its options, credentials and store too. Nothing is changed. Ends within half a minute, with status 1 where there is
    a problem.
    """
    from mountd import config, doctor

    # What is kept of a dataset's documents is for this user alone, as a mount has it.
    os.umask(0o077)
    options = [option for text in texts for option in config.parse_o(text)]
    groups = doctor.groups(what, options, offline=offline)
    everything: list[Finding] = []
    for name, findings in doctor.examined(groups):
        everything += findings
        if not as_json:
            _show(name, findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in everything], indent=1))
    else:
        click.echo(_verdict(everything))
    if any(finding.state == "problem" for finding in everything):
        raise click.exceptions.Exit(process.USAGE)


def _show(name: str, findings: Sequence["Finding"]) -> None:
    width = min(max(shutil.get_terminal_size((80, 24)).columns, _NARROW), _WIDE)
    click.echo(click.style(name, bold=True))
    for finding in findings:
        mark = click.style(f"{_MARKS[finding.state]:<{_MARK_WIDTH}}", fg=_COLOURS[finding.state])
        lines = _wrapped(f"{finding.check}: {finding.found}", width, "")
        click.echo(f"  {mark}{lines[0]}")
        if finding.remedy:
            lines += _wrapped(finding.remedy, width, "→ ")
        for line in lines[1:]:
            click.echo(" " * (2 + _MARK_WIDTH) + line)
    # A store may take seconds: what there is, is seen.
    sys.stdout.flush()


def _wrapped(text: str, width: int, begin: str) -> list[str]:
    """Lines of what stands beside a mark. Paths and URLs stay whole, so that they can be copied."""
    return textwrap.wrap(
        text,
        width - 2 - _MARK_WIDTH,
        initial_indent=begin,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [begin]


def _verdict(findings: Sequence["Finding"]) -> str:
    counts = {state: sum(finding.state == state for finding in findings) for state in ("problem", "warning")}
    told = [f"{count} {state}{'' if count == 1 else 's'}" for state, count in counts.items() if count]
    return ", ".join(told) or "nothing is wrong"
