"""The command line: `egofs mount|umount|status|stats|lmdb|auth|install|uninstall`.

Every mount option is a flag of `egofs mount` too, made from the models of mountd.config. A failure is one line on
standard error and mount(8)'s exit status.

What only a mount needs is imported by it: the other commands take 100 ms less for that.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from mountd import install, mounts, process
from vfs.errors import EgofsError, OptionError

_EPILOG = """\b
  egofs mount demo ~/demo                           no account, no network
  egofs mount /data/videos ~/v                      any folder
  egofs mount s3://bucket/prefix ~/data -o anonymous
  egofs mount assembly101 ~/a101 -o source=s3://bucket/a101,views=egocentric
  egofs status
  egofs stats ~/a101 -O stats.pkl                   which frames each video has
  egofs lmdb merge e4                               one LMDB of both families' features
  egofs umount ~/demo
"""
_T = TypeVar("_T")
_HAS_FLAGS = "egofs.has_flags"


class _Main(click.Group):
    """Turns failures into one line and a status of mount(8)."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Runs the command and process."""
        process.begin()
        status = 0
        try:
            # A command's own status, which it sets with Exit; what commands return is None.
            status = super().main(args, standalone_mode=False, **extra) or 0
        except click.exceptions.NoArgsIsHelpError as failure:
            click.echo(failure.format_message())
        except click.ClickException as failure:
            _say(" ".join(failure.format_message().split()))
            status = process.USAGE
        except EgofsError as failure:
            _say(str(failure))
            status = process.exit_status(failure)
        except (KeyboardInterrupt, click.Abort):
            _say("interrupted")
            status = process.INTERRUPTED
        process.leave(status)


class _MountCommand(click.Command):
    """`egofs mount`, with a flag for each option there is; made when one is given, since it loads all datasets."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As ever; sees first whether there are flags."""
        ctx.meta[_HAS_FLAGS] = any(argument.startswith("--") for argument in args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options written out above the command, and the flags where there are any, or nobody knows yet."""
        flags = _option_flags() if ctx.meta.get(_HAS_FLAGS, True) else ()
        return [*super().get_params(ctx), *flags]


def _option_flags() -> Iterator[click.Option]:
    from mountd import config

    for name, told in config.all_options().items():
        flag = "--" + name.replace("_", "-")
        owners: dict[str, list[str]] = {}
        for owner, field in told.items():
            owners.setdefault(field.description, []).append(owner)
        text = "; ".join(f"{description} [{', '.join(each)}]" for description, each in owners.items())
        # A flag's text is parsed where that of `-o` is: None means that it was not given.
        if all(field.annotation is bool for field in told.values()):
            yield click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=text)
        else:
            yield click.Option([flag, name], default=None, metavar="VALUE", help=text)


@click.group(cls=_Main, epilog=_EPILOG)
@click.version_option(package_name="egofs", prog_name="egofs")
def main() -> None:
    """Mounts egocentric-video datasets as plain, read-only directories; frames are decoded when they are opened."""


@main.command("mount", cls=_MountCommand, epilog=_EPILOG)
@click.argument("what", metavar="SOURCE")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "texts", multiple=True, metavar="NAME=VALUE,…", help="Mount options, as mount(8) takes them.")
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground and log to the terminal.")
@click.option("-v", "verbose", is_flag=True, help="Say what is done.")
def _mount(what: str, directory: Path, texts: tuple[str, ...], foreground: bool, verbose: bool, **flags: Any) -> None:
    """Mounts SOURCE (a dataset, a URL, a folder or a .toml file) on DIRECTORY; returns when the tree answers."""
    from mountd import config, daemon

    options = [option for text in texts for option in config.parse_o(text)]
    options += [(name, value) for name, value in flags.items() if value is not None]
    daemon.start(what, directory, options, _say, foreground=foreground)
    if verbose:
        click.echo(f"{what} is mounted on {directory}")


@main.command("umount")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Take it away even while something uses it.")
def _umount(directory: Path, lazy: bool) -> None:
    """Ends the mount on DIRECTORY and its daemon."""
    mounts.unmount(mounts.real(directory), lazy)


@main.command("status")
def _status() -> None:
    """Lists the mounts: what they are, what was read of them and what was fetched."""
    found = mounts.egofs_mounts()
    if not found:
        click.echo("nothing is mounted")
    for mount in found:
        health = mounts.state(mount.mountpoint)
        status = mounts.read_status(mount.mountpoint) if health == "live" else None
        click.echo(f"{mount.mountpoint}  {mount.source}  {health if status is None else _summary(status)}")
        if status and (refusal := status.get("credentials")):
            click.echo(f"  refused {_duration(time.time() - refusal['refused_at'])} ago: {refusal['message']}")


def _summary(status: dict[str, Any]) -> str:
    asked, fetched = status["asked"], status["fetched"]
    text = (
        f"pid {status['pid']}, up {_duration(time.time() - status['mounted_at'])}, "
        f"read {_bytes(asked['bytes_read'])} in {asked['reads']} reads, "
        f"fetched {_bytes(fetched['bytes_fetched'])} in {fetched['requests']} requests"
    )
    if "cache" in status:
        text += f", cache {_bytes(status['cache']['used_bytes'])} of {_bytes(status['cache']['limit_bytes'])}"
    if asked["failures"]:
        text += f", {asked['failures']} failures (see .egofs/errors.log)"
    return text


@main.command("stats")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["pickle", "json", "csv"]), help="As FILE's suffix says, or json.")
@click.option("-O", "--output", "file", type=click.Path(path_type=Path), help="Where to write it, instead of here.")
@click.option("--views", metavar="NAME+…", help="Of these views alone: v3+e4, egocentric, … or videos' names.")
@click.option("--jobs", type=click.IntRange(1, 256), default=16, show_default=True, help="Videos at a time.")
def _stats(directory: Path | None, form: str | None, file: Path | None, views: str | None, jobs: int) -> None:
    """Tells which frames the videos of a mount have, as training code wants it: {recording: {view: [1, last + 1]}}.

    DIRECTORY is a mount or a folder in one; where there is one mount, it need not be said. Only headers are read.
    """
    from mountd import stats

    top = mounts.real(directory or mounts.only().mountpoint)
    mount = mounts.of(top)
    if mount is None:
        raise OptionError(f"{top}: no egofs is mounted here (egofs status lists what is)")
    before = mounts.live_status(mount)
    if not top.is_dir():
        raise OptionError(f"{top}: no such folder")
    form = form or stats.form_of(file)
    if file is None and form == "pickle" and sys.stdout.isatty():
        raise OptionError("a pickle is not for terminals: say -O FILE")
    with stats.Result(file) as result:
        asked = tuple((views or "all").split("+"))
        videos, failures = stats.find(stats.top_of(top, before["dataset"]), mount.mountpoint, asked, jobs)
        if not videos and not failures:
            raise OptionError(f"{top}: no videos with frames are below it")
        with _progress("videos", len(videos)) as bar:
            found, more = stats.gather(_counted(stats.measured(videos, jobs), bar))
        result.write(stats.as_bytes(found, form), whole=not (failures := failures + more))
    for failure in failures:
        _say(f"{failure.path}: {failure.why}")
    _say(_cost(found, before, mounts.live_status(mount), failures, result.place))
    if failures:
        raise click.exceptions.Exit(process.USAGE)


def _cost(
    found: dict[str, Any], before: dict[str, Any], after: dict[str, Any], failures: Sequence[Any], place: Path | None
) -> str:
    count = sum(map(len, found.values()))
    fetched, requests = (after["fetched"][key] - before["fetched"][key] for key in ("bytes_fetched", "requests"))
    text = f"{len(found)} recordings, {count} videos; {_bytes(fetched)} fetched in {requests} requests"
    if failures:
        errors = f"{after['mountpoint']}/.egofs/errors.log"
        text += f"; {len(failures)} could not be read ({errors} has more)" + (
            f": {place} has the rest" if place else ""
        )
    return text


def _counted(all_of: Iterable[_T], advance: Callable[[int, int], None]) -> Iterator[_T]:
    for each in all_of:
        yield each
        advance(1, 0)


@contextmanager
def _progress(what: str, length: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; gives what is told how many have been done since, and of how many bytes."""
    if not sys.stderr.isatty():
        yield lambda count, size_bytes: None
        return
    began, done_bytes = time.monotonic(), 0

    def rate(size_bytes: int | None) -> str:
        return f"{_bytes(done_bytes / max(time.monotonic() - began, 0.001))}/s" if size_bytes else ""

    with click.progressbar(
        length=length, label=what, show_pos=True, show_eta=True, item_show_func=rate, file=sys.stderr
    ) as bar:

        def advance(count: int, size_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += size_bytes
            bar.update(count, size_bytes)

        yield advance


@main.group("lmdb")
def _lmdb() -> None:
    """Works on LMDBs of features."""


@_lmdb.command("merge")
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
        place, shown = out, False
    else:
        folders, place, shown = lmdbmerge.plan(view, features, out, names, config.default_cache_dir())
    _in_child(
        f"{place}: ended by signal %d: a page of a file could not be read (.egofs/errors.log of its mount says why); "
        "the same command goes on"
    )
    record = lmdbmerge.verify(place, _progress) if verify_only else lmdbmerge.merge(folders, place, _progress, _say)
    _say(f"{place}: {record.count} features, {_bytes(record.bytes)}, verified")
    if shown and not verify_only:
        _say(f"what is mounted from now on shows it as {view} beside its cameras")


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


@main.group("auth")
def _auth() -> None:
    """Makes the credentials that a store wants, once."""


@_auth.command("gdrive")
@click.option("--client-secrets", type=click.Path(path_type=Path), help="Who asks: client_secrets.json of Google.")
@click.option("--credentials", type=click.Path(path_type=Path), help="What is written: credentials.json.")
@click.option("--no-browser", is_flag=True, help="Show the address, and take the one that a browser elsewhere ends at.")
@click.option("--check", is_flag=True, help="Write nothing; say whose the credentials are, and whether they work.")
@click.option("--endpoint-url", default="", hidden=True)
def _auth_gdrive(
    client_secrets: Path | None, credentials: Path | None, no_browser: bool, check: bool, endpoint_url: str
) -> None:
    """Asks Google, in a browser, whether egofs may read your Drive; writes credentials.json, for you alone to read.

    The files are those of the current folder, or of ~/.config/egofs/gdrive. A machine without a browser is given the
    credentials.json that was made on another, or uses --no-browser.
    """
    from mountd import auth

    files = auth.files(client_secrets, credentials)
    if check:
        click.echo(auth.checked(files, endpoint_url))
    elif no_browser:
        click.echo(auth.with_pasted_address(files, click.echo, lambda text: str(click.prompt(text, prompt_suffix=" "))))
    else:
        click.echo(auth.with_browser(files, click.echo))


@main.command("install")
def _install() -> None:
    """Puts mount(8)'s helper in place, so that `mount -t egofs` works (as root)."""
    click.echo(install.install())


@main.command("uninstall")
def _uninstall() -> None:
    """Takes mount(8)'s helper away."""
    click.echo(install.uninstall())


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{days:.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{minutes:.0f} min"


def _say(text: str) -> None:
    click.echo(f"egofs: {text}", err=True)
