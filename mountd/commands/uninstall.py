"""`egofs uninstall`."""

import click

from mountd import install


@click.command("uninstall")
def command() -> None:
    """Takes mount(8)'s helper away."""
    click.echo(install.uninstall())
