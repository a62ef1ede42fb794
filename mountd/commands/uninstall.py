"""`egofs uninstall`."""

import click

from mountd import install

_EPILOG = """\b
  sudo egofs uninstall
"""


@click.command("uninstall", epilog=_EPILOG)
def command() -> None:
    """Takes mount(8)'s helper away."""
    click.echo(install.uninstall())
