"""mount(8)'s helper: `/sbin/mount.egofs SOURCE DIR [-sfnv] [-o OPTIONS] [-N NS] [-t TYPE]`.

mount(8) passes SOURCE and DIR as they were typed, always gives `-o` with at least `rw` or `ro`, trusts a status of 0
and passes any other on unchanged (mount(8), "EXTERNAL HELPERS"). It may run with no HOME and with / as the working
directory. `-f` is mount's --fake: check, and mount nothing.
"""

import getopt
import sys
from pathlib import Path

from mountd import mounts, process
from vfs.errors import EgofsError, OptionError

_USAGE = "usage: mount.egofs SOURCE DIR [-sfnv] [-o OPTIONS] [-N NAMESPACE] [-t TYPE]"


def main() -> None:
    """Mounts as mount(8) asks and exits with its statuses."""
    process.begin()
    status = 0
    try:
        _mount(sys.argv[1:])
    except EgofsError as failure:
        _say(str(failure))
        status = process.exit_status(failure)
    except KeyboardInterrupt:
        status = process.INTERRUPTED
    process.leave(status)


def _mount(argv: list[str]) -> None:
    # Only now: what they import is to find the process as `begin` leaves it.
    from mountd import config, daemon

    try:
        flags, words = getopt.gnu_getopt(argv, "sfnvo:N:t:")
    except getopt.GetoptError as failure:
        raise OptionError(f"{failure}; {_USAGE}") from failure
    if len(words) != 2:
        raise OptionError(_USAGE)
    if any(flag == "-N" for flag, _ in flags):
        raise OptionError("mounting into another namespace is not supported: run mount inside it (nsenter)")
    options = [option for flag, text in flags if flag == "-o" for option in config.parse_o(text)]
    source, directory = words[0], Path(words[1])
    if ("remount", True) in options:
        # A mount is read-only whatever is asked, and its other options are read at mount only.
        if not any(mount.mountpoint == mounts.real(directory) for mount in mounts.egofs_mounts()):
            raise mounts.MountRefused(f"{directory}: nothing to remount here")
        raise mounts.MountRefused(f"{directory}: egofs cannot remount: umount it and mount it again")
    if ("-f", "") in flags:
        config.load(source, options)
        return
    daemon.start(source, directory, options, _say)


def _say(text: str) -> None:
    sys.stderr.write(f"mount.egofs: {text}\n")
