"""`egofs ls`."""

import click

_EPILOG = """\b
  egofs ls -l ~/a101/recordings/nusar-2021*    which cameras are on disk
  egofs ls -l ~/a101/recordings/*/frames/e4    which pictures are
"""


@click.command("ls", epilog=_EPILOG)
@click.argument("words", metavar="[PATH|GLOB|@LIST]…", nargs=-1)
@click.option("-l", "long", is_flag=True, help="Size, time, and how much of it is in the disk cache.")
@click.option("--json", "as_json", is_flag=True, help="An object a name, each on a line.")
def command(words: tuple[str, ...], long: bool, as_json: bool) -> None:
    """Lists folders of mounts, with what is on disk of each file; opens nothing and fetches nothing but listings.

    Without PATH the current folder. Columns of -l: kind, size, share on disk, bytes on disk, time, name; of a link to a
    file they are the file's. A ? stands for a size that nobody has asked the store for, a - where nothing is kept.
    """
    from mountd import lister

    lister.run(words or (".",), long=long, as_json=as_json)
