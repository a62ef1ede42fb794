"""`egofs warm`."""

from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
  egofs warm ~/a101/recordings/nusar-2021*          what a pattern names
  egofs warm --frames ~/a101/recordings/*/e4.mp4    and their pictures
  egofs warm '~/a101/recordings/*/frames@short=224/e4'
  egofs warm @train.txt                             a list, a path a line
  egofs warm --check @train.txt                     is it all there?
  egofs warm --order epoch.txt --follow ~/a101      ahead of its reader
"""


@click.command("warm", epilog=_EPILOG)
@click.argument("words", metavar="PATH|GLOB|@LIST…", nargs=-1)
@click.option("--frames", is_flag=True, help="Make the pictures of videos too: those in frames/ of their folders.")
@click.option("--jobs", type=click.IntRange(1, 128), metavar="N", help="Requests at a time. [16]")
@click.option("--check", is_flag=True, help="Fetch nothing: tell how much is on disk; status 1 if not all is.")
@click.option("--evict", is_flag=True, help="Take it out of the cache.")
@click.option("--force", is_flag=True, help="Even if it is more than the cache holds.")
@click.option("--json", "as_json", is_flag=True, help="What came of it as JSON, an object a mount.")
@click.option("--quiet", is_flag=True, help="No progress; failures only.")
@click.option("--order", metavar="FILE", help="Fetch what FILE (- is stdin) lists, in its order.")
@click.option("--follow", is_flag=True, help="With --order: stay a little ahead of the job that reads in this order.")
@click.option("--ahead", metavar="SIZE", help="With --follow: how much to hold ahead of the reader, such as 256M.")
def command(words: tuple[str, ...], order: str | None, follow: bool, ahead: str | None, **asked: Any) -> None:
    """Brings files, folders and pictures of mounts to the disk cache; goes on where it was interrupted.

    Folders count with all that is below them. A directory of pictures, a picture or a clip is named as it is opened:
    …/frames/e4, …/frames@short=224/e4, …/frames/e4/0-64.npy.

    With --order, FILE has what a job will read, a path a line (or PATH, START and LENGTH between tabs), in the order in
    which it will be read; PATH is then the mount, or the folder, that they are relative to.
    """
    if order is None:
        _warm(words, follow or ahead is not None, **asked)
        return
    if len(words) > 1 or any(asked.values()):
        raise click.UsageError("--order FILE goes with --follow and --ahead, and one mount or folder in one")
    from mountd import ordercall

    ordercall.run(order, Path(words[0]) if words else None, follow=follow, ahead=ahead)


def _warm(
    words: tuple[str, ...],
    is_order: bool,
    *,
    frames: bool,
    jobs: int | None,
    check: bool,
    evict: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from mountd import warmer

    if is_order:
        raise click.UsageError("--follow and --ahead go with --order FILE")
    if not words:
        raise click.UsageError("say what: a PATH, a GLOB or an @LIST")
    if check and evict:
        raise click.UsageError("--check and --evict do not go together")
    told = {"frames": frames, "jobs": jobs, "force": force}
    warmer.run(words, "check" if check else "evict" if evict else "warm", told, as_json=as_json, quiet=quiet)
