"""`egofs install`."""

from pathlib import Path

import click

from mountd import install

_EPILOG = """\b
  sudo egofs install
  sudo mount -t egofs demo /mnt/demo
"""


@click.command("install", epilog=_EPILOG)
@click.option("--root", type=click.Path(path_type=Path), help="Put everything below this folder, for a package.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
def command(root: Path | None, dry_run: bool) -> None:
    """Makes egofs a filesystem of this machine (as root): `mount -t egofs`, fstab, `systemctl start egofs@NAME`.

    Puts mount(8)'s helpers, the command and a systemd unit in place, and shows each. What is somebody else's is left.
    """
    for line in install.install(root and root.absolute(), dry_run):
        click.echo(line)
