"""`egofs invalidate`."""

import os
from pathlib import Path

import click

from mountd import mounts, shown
from vfs.errors import OptionError

_EPILOG = """\b
  egofs invalidate ~/data/annotations       a folder with all below it
  egofs invalidate ~/data                   everything
"""


@click.command("invalidate", epilog=_EPILOG)
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=Path)
def command(paths: tuple[Path, ...]) -> None:
    """Has the store asked anew for what is at PATH, a file or a folder with all below it, when it is next looked at.

    For when something has just changed there and the listing is still believed. Bytes that are kept stay: they are of
    the version that they were read of, and a new version is read anew.
    """
    from mountd import control

    asked: dict[mounts.Mount, list[str]] = {}
    for path in paths:
        # Only the folder is resolved: the name itself may be new, or a link that is meant.
        folder = mounts.real(path.parent) if path.name not in ("", "..") else mounts.real(path)
        whole = folder / path.name if path.name not in ("", "..") else folder
        mount = mounts.of(whole)
        if mount is None:
            raise OptionError(f"{path}: no egofs is mounted here (egofs status lists what is)")
        inside = os.path.relpath(whole, mount.mountpoint)
        asked.setdefault(mount, []).append("" if inside == "." else inside)
    for mount, inside_paths in asked.items():
        done = control.ask(mount, "invalidate", {"paths": inside_paths}, timeout_s=90)
        shown.say(f"{mount.mountpoint}: {done['listings']} listings are forgotten")
