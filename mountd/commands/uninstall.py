"""`egofs uninstall`."""

from pathlib import Path

import click

from mountd import install

_EPILOG = """\b
  sudo egofs uninstall
"""


@click.command("uninstall", epilog=_EPILOG)
@click.option("--root", type=click.Path(path_type=Path), help="The folder that `install --root` was given.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
def command(root: Path | None, dry_run: bool) -> None:
    """Takes away what `egofs install` put in place, and nothing else (as root)."""
    for line in install.uninstall(root and root.absolute(), dry_run):
        click.echo(line)
