"""`egofs lmdb`."""

import os
import resource
from pathlib import Path

import click

from mountd import process, shown

_EPILOG = """\b
  egofs lmdb merge e4                   both families' features as one
"""


@click.group("lmdb", epilog=_EPILOG)
def command() -> None:
    """Works on LMDBs of features."""


@command.command("merge")
@click.argument("view", metavar="VIEW", type=click.Choice(["e1", "e2", "e3", "e4"]))
@click.option("--features", type=click.Path(path_type=Path), help="Their folder: the only mount's TSM_features.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the merge goes: mounts show it as VIEW else.")
@click.option("--members", metavar="NAME+…", help="Folders to merge, if others than the view's cameras.")
@click.option("--verify-only", is_flag=True, help="Only compare what was merged with what was written then.")
def _merge(view: str, features: Path | None, out: Path | None, members: str | None, verify_only: bool) -> None:
    """Makes one LMDB of the features of both families' cameras that are VIEW; goes on where it was interrupted."""
    from mountd import config, lmdbmerge

    names = members.split("+") if members else []
    if verify_only and out is not None:
        place, is_shown = out, False
    else:
        folders, place, is_shown = lmdbmerge.plan(view, features, out, names, config.default_cache_dir())
    _in_child(
        f"{place}: ended by signal %d: a page of a file could not be read (.egofs/errors.log of its mount says why); "
        "the same command goes on"
    )
    record = (
        lmdbmerge.verify(place, shown.progress)
        if verify_only
        else lmdbmerge.merge(folders, place, shown.progress, shown.say)
    )
    shown.say(f"{place}: {record.count} features, {shown.size(record.bytes)}, verified")
    if is_shown and not verify_only:
        shown.say(f"what is mounted from now on shows it as {view} beside its cameras")


def _in_child(died: str) -> None:
    """Goes on in a child: a page of a mapped file that cannot be read ends a process by SIGBUS, and somebody has to say
    so. Raises Exit with the child's status in this one."""
    child = os.fork()
    if child == 0:
        process.end_with_parent()
        # The maps that a core would hold are as large as the files.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return
    while True:
        try:
            status = os.waitpid(child, 0)[1]
            break
        except KeyboardInterrupt:  # the child has it too, and says so
            continue
    if os.WIFSIGNALED(status):
        raise process.DaemonFailed(died % os.WTERMSIG(status), process.FAILED)
    raise click.exceptions.Exit(os.WEXITSTATUS(status))
