"""`egofs umount`."""

from pathlib import Path

import click

from mountd import completion, mounts

_EPILOG = """\b
  egofs umount ~/demo
"""


@click.command("umount", epilog=_EPILOG)
@click.argument("directory", type=Path, shell_complete=completion.mount_points)
@click.option("-l", "--lazy", is_flag=True, help="Take it away even while something uses it.")
def command(directory: Path, lazy: bool) -> None:
    """Ends the mount on DIRECTORY and its daemon."""
    mounts.unmount(mounts.real(directory), lazy)
