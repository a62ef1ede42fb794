"""`egofs install`."""

import click

from mountd import install


@click.command("install")
def command() -> None:
    """Puts mount(8)'s helper in place, so that `mount -t egofs` works (as root)."""
    click.echo(install.install())
