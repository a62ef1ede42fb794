"""Puts mount(8)'s helper where mount(8) looks for it: /sbin/mount.egofs."""

import os
import shutil
import sys
from pathlib import Path

from vfs.errors import OptionError

HELPER = Path("/sbin/mount.egofs")


def install() -> str:
    """Links the helper of this installation into /sbin; says what was done. Raises OptionError."""
    here = Path(sys.argv[0]).absolute().parent / "mount.egofs"
    if not here.exists():
        found = shutil.which("mount.egofs")
        if found is None:
            raise OptionError("mount.egofs was not found beside egofs: install the package with pip first")
        here = Path(found)
    if HELPER.is_symlink() and Path(os.readlink(HELPER)) == here:
        return f"{HELPER} leads to {here} already"
    if HELPER.exists() and not HELPER.is_symlink():
        raise OptionError(f"{HELPER} is somebody else's file: move it away first")
    try:
        HELPER.unlink(missing_ok=True)
        HELPER.symlink_to(here)
    except PermissionError as failure:
        raise OptionError(f"{HELPER}: only root may write there: sudo {here.parent / 'egofs'} install") from failure
    return f"{HELPER} → {here}: mount -t egofs SOURCE DIR works now"


def uninstall() -> str:
    """Takes the helper's link away; says what was done. Raises OptionError."""
    if not HELPER.is_symlink():
        return f"{HELPER} is not there"
    try:
        HELPER.unlink()
    except PermissionError as failure:
        raise OptionError(f"{HELPER}: only root may write there") from failure
    return f"{HELPER} is gone"
