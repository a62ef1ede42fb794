"""mount(8)'s helper: `/sbin/mount.egofs SOURCE DIR [-sfnv] [-o OPTIONS] [-N NS] [-t TYPE]`.

mount(8) passes SOURCE and DIR as they were typed, always gives `-o` with at least `rw` or `ro`, trusts a status of 0
and passes any other on unchanged (mount(8), "EXTERNAL HELPERS"). It may run with no HOME, no PATH and / as the working
directory, and as an ordinary user where fstab says `user`. As /sbin/mount.fuse.egofs it is what mount(8) looks for
first for the type fuse.egofs, the one that the kernel's table of mounts has, so that a remount comes here as well.

    -s  options that no dataset and no store has are left out, with a warning
    -f  mount's --fake: everything is checked, nothing is mounted
    -n  do not write /etc/mtab: nobody does any more
    -v  say what is done

Called by mount(8), and by the command line for `egofs SOURCE DIR -o …`, which is how mount.fuse3 calls it.
"""

import getopt
import json
import sys
from collections.abc import Callable
from pathlib import Path

from mountd import mounts, process
from vfs.errors import EgofsError, OptionError

_USAGE = "usage: mount.egofs SOURCE DIR [-sfnv] [-o OPTIONS] [-N NAMESPACE] [-t TYPE]"
# What mount(8) says in a remount beside what a person asked: it copies the kernel's table (fs/fuse/inode.c,
# fuse_show_options). allow_other stands there too, and is an option of ours.
_OF_THE_TABLE = {"remount", "user_id", "group_id", "default_permissions", "max_read", "blksize"}

Options = list[tuple[str, str | bool]]


def main() -> None:
    """Mounts as mount(8) asks and exits with its statuses."""
    process.begin()
    status = 0
    try:
        mount(sys.argv[1:], _say)
    except EgofsError as failure:
        _say(str(failure))
        status = process.exit_status(failure)
    except KeyboardInterrupt:
        status = process.INTERRUPTED
    process.leave(status)


def mount(argv: list[str], say: Callable[[str], None], *, fake_flag: bool = True) -> None:
    """Does what a helper's arguments say. `-f` is --fake where `fake_flag`, else the foreground. Raises EgofsError."""
    # Only now: what they import is to find the process as `begin` leaves it.
    from mountd import config, daemon

    try:
        given, words = getopt.gnu_getopt(argv, "sfnvo:N:t:")
    except getopt.GetoptError as failure:
        raise OptionError(f"{failure}; {_USAGE}") from failure
    flags = {flag for flag, _ in given}
    if len(words) != 2:
        raise OptionError(_USAGE)
    if "-N" in flags:
        raise OptionError("mounting into another namespace is not supported: run mount inside it (nsenter)")
    options = [option for flag, text in given if flag == "-o" for option in config.parse_o(text)]
    if "-s" in flags:
        options = _tolerated(options, say)
    source, directory = words[0], Path(words[1])
    if ("remount", True) in options:
        _remount(source, directory, options)
        done = "is mounted on {} already, as asked"
    elif fake_flag and "-f" in flags:
        config.load(source, options)
        done = "could be mounted on {}: nothing was done"
    else:
        daemon.start(source, directory, options, say, foreground="-f" in flags)
        done = "is mounted on {}"
    if "-v" in flags:
        say(f"{source} {done.format(directory)}")


def _tolerated(options: Options, say: Callable[[str], None]) -> Options:
    """The options without those that nothing has: mount's --sloppy, for maps that several systems share."""
    from mountd import config

    there = config.all_options()
    unknown = [option for option in config.of_egofs(options) if option[0] not in there and option != ("remount", True)]
    for name, _ in unknown:
        say(f"option {name!r} is not known and is left out (-s)")
    return [option for option in options if option not in unknown]


def _remount(source: str, directory: Path, options: Options) -> None:
    """Sees that the mount is already what is asked: a remount changes nothing. Raises MountRefused, OptionError."""
    from mountd import config, control

    mountpoint = mounts.real(directory)
    top = next((mount for mount in reversed(mounts.mounts()) if mount.mountpoint == mountpoint), None)
    if top is None or top.fstype != mounts.FSTYPE:
        raise mounts.MountRefused(f"{directory}: nothing to remount here: no egofs is mounted on it")
    if mounts.state(mountpoint) != "live":
        raise mounts.MountRefused(f"{directory}: its daemon does not answer: umount {directory}, and mount it again")
    running = control.ask(top, "options")
    asked = [(name, value) for name, value in options if name not in _OF_THE_TABLE]
    if source in (running["what"], top.source) and not config.of_egofs(asked):
        return
    wanted = config.load(source, asked)
    values = wanted.values()
    differing = [] if wanted.name == running["what"] else [f"what is mounted is {running['what']}"]
    differing += [
        f"{name} is {json.dumps(running['options'].get(name))}"
        for name, _ in config.of_egofs(asked)
        if running["options"].get(name) != values[name]
    ]
    if differing:
        raise mounts.MountRefused(
            f"{directory}: a remount changes nothing, and {' and '.join(differing)}: umount it and mount it again"
        )


def _say(text: str) -> None:
    sys.stderr.write(f"mount.egofs: {text}\n")
