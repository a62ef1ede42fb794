"""`egofs status`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import click

from mountd import process, standing, survey

_EPILOG = """\b
  egofs status
  egofs status --watch
  egofs status --json | jq '.mounts[].pid'
"""


@click.command("status", epilog=_EPILOG)
@click.argument("directory", required=False)  # no click.Path: that looks at it, and a mount may hang
@click.option("--json", "as_json", is_flag=True, help='For programs: {"mounts": [{"mountpoint", "source", "pid", …}]}.')
@click.option("--watch", is_flag=True, help="A live screen; Ctrl-C ends it.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: how often.",
)
def command(directory: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """Tells how the mounts are: what was read of them, what was fetched, what is wrong and what to do.

    DIRECTORY, a mount or a folder in one, tells all of that one. The status is 0 where all of them answer, 32 where one
    is dead or hangs. A mount that hangs is given 3 seconds.
    """
    place = survey.at(Path(directory)).mountpoint if directory else None
    if not watch:
        _tell(place, as_json=as_json)
        return
    try:
        if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not as_json:
            from mountd import watch as screen  # rich, 60 ms

            screen.show(place, interval)
        else:
            _repeat(place, interval, as_json=as_json)
    except KeyboardInterrupt:
        pass  # the way to end it


def _repeat(place: Path | None, interval_s: float, *, as_json: bool) -> None:
    """For a file or a pipe: the same again and again, JSON a line each. Who closes the pipe ends it."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    while True:
        began = time.monotonic()
        _show(_seen(place), as_json=as_json, indent=None)
        if not as_json:
            click.echo()
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


def _tell(place: Path | None, *, as_json: bool) -> None:
    seen = _seen(place)
    _show(seen, as_json=as_json, indent=1)
    if not all(each.is_well for each in seen):
        raise click.exceptions.Exit(process.FAILED)


def _seen(place: Path | None) -> list[survey.Seen]:
    return [each for each in survey.survey() if place in (None, each.mount.mountpoint)]


def _show(seen: list[survey.Seen], *, as_json: bool, indent: int | None) -> None:
    if as_json:
        click.echo(json.dumps({"mounts": [each.as_json() for each in seen]}, indent=indent))
    elif len(seen) == 1:
        click.echo("\n".join(standing.of_one(seen[0])))
    else:
        click.echo("\n".join(standing.of_several(seen)) if seen else "nothing is mounted")
