"""`egofs install`."""

import click

from mountd import install

_EPILOG = """\b
  sudo egofs install
  sudo mount -t egofs demo /mnt/demo
"""


@click.command("install", epilog=_EPILOG)
def command() -> None:
    """Puts mount(8)'s helper in place, so that `mount -t egofs` works (as root)."""
    click.echo(install.install())
