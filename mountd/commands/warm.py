"""`egofs warm`."""

import click

_EPILOG = """\b
  egofs warm ~/a101/recordings/nusar-2021*            what a pattern names
  egofs warm --frames ~/a101/recordings/*/e4.mp4      and their pictures
  egofs warm '~/a101/recordings/*/frames@short=224/e4'
  egofs warm @train.txt                               a list, a path a line
  egofs warm --check @train.txt                       is it all there?
"""


@click.command("warm", epilog=_EPILOG)
@click.argument("words", metavar="PATH|GLOB|@LIST…", nargs=-1, required=True)
@click.option("--frames", is_flag=True, help="Make the pictures of videos too: those in frames/ of their folders.")
@click.option("--jobs", type=click.IntRange(1, 128), metavar="N", help="Requests at a time. [16]")
@click.option("--check", is_flag=True, help="Fetch nothing: tell how much is on disk; status 1 if not all is.")
@click.option("--evict", is_flag=True, help="Take it out of the cache.")
@click.option("--force", is_flag=True, help="Even if it is more than the cache holds.")
@click.option("--json", "as_json", is_flag=True, help="What came of it as JSON, an object a mount.")
@click.option("--quiet", is_flag=True, help="No progress; failures only.")
def command(
    words: tuple[str, ...],
    frames: bool,
    jobs: int | None,
    check: bool,
    evict: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Brings files, folders and pictures of mounts to the disk cache; goes on where it was interrupted.

    Folders count with all that is below them. A directory of pictures, a picture or a clip is named as it is opened:
    …/frames/e4, …/frames@short=224/e4, …/frames/e4/0-64.npy.
    """
    from mountd import warmer

    if check and evict:
        raise click.UsageError("--check and --evict do not go together")
    asked = {"frames": frames, "jobs": jobs, "force": force}
    warmer.run(words, "check" if check else "evict" if evict else "warm", asked, as_json=as_json, quiet=quiet)
