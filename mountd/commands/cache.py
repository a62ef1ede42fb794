"""`egofs cache`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mountd import process, shown
from vfs.errors import EgofsError, OptionError

if TYPE_CHECKING:
    from mountd import mounts
    from mountd.cachecontrol import User, Users

_EPILOG = """\b
  egofs cache info                        of ~/.cache/egofs, or --cache-dir DIR
  egofs cache verify --repair             drop what the disk has garbled
  egofs cache clear --older-than 30d
  egofs cache resize 200G --mount ~/data  until that mount ends
"""


def _which(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which cache."""
    place = click.Path(path_type=Path)
    command = click.option("--mount", "directory", metavar="DIR", type=place, help="The cache of this mount.")(command)
    return click.option("--cache-dir", metavar="DIR", type=place, help="Another cache than the usual one.")(command)


@click.group("cache", epilog=_EPILOG)
def command() -> None:
    """Looks after what is kept on disk."""


@command.command("info")
@_which
@click.option("--json", "as_json", is_flag=True, help="As one object of JSON.")
def _info(cache_dir: Path | None, directory: Path | None, as_json: bool) -> None:
    """Tells what is kept, and who uses it.

    Bytes by part, what its disk has left, when it was used, and the mounts that use it now.
    """
    from mountd import cachecontrol
    from vfs import diskcare

    folder = diskcare.checked(cachecontrol.folder_of(cache_dir, directory), writing=False)
    users = cachecontrol.users_of(folder)
    facts = diskcare.facts(folder)
    if as_json:
        facts["mounts"] = [_user_facts(user) for user in users.known]
        facts["silent_mounts"] = [str(mount.mountpoint) for mount in users.silent]
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(facts["folder"])
    for name, text in [*_parts(facts, _limits(users)), *_mounts(users)]:
        click.echo(f"  {name:<9} {text}")


@command.command("verify")
@_which
@click.option("--repair", is_flag=True, help="Remove what is damaged, and put the accounting right.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Files read at a time.")
def _verify(cache_dir: Path | None, directory: Path | None, repair: bool, jobs: int) -> None:
    """Compares all that is kept with its checksums.

    Also while mounts use the cache. What --repair removes is fetched again when it is wanted. Exits with 1 where
    something was damaged, repaired or not: a disk that garbles files is worth knowing of.
    """
    from mountd import cachecontrol
    from vfs import diskcare
    from vfs.diskcare import verify

    folder = diskcare.checked(cachecontrol.folder_of(cache_dir, directory), writing=repair)
    in_use = repair and cachecontrol.users_of(folder).may_be
    with _bar("verifying", diskcare.about_values(folder)["used_bytes"]) as advance:
        report = verify.verify(folder, repair=repair, in_use=in_use, jobs=jobs, on_progress=advance)
    for line in _findings(report):
        click.echo(line)
    click.echo(f"{folder}: {_many(report.values, 'value')}, {shown.size(report.bytes)}: {_verdict(report)}")
    if report.is_damaged:
        raise click.exceptions.Exit(process.USAGE)


@command.command("clear")
@_which
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--older-than", "age", metavar="AGE", help="Only what was not used for so long: 90m, 12h, 30d, 4w.")
@click.option("--listings", is_flag=True, help="What is known of datasets' folders and of archives, too.")
def _clear(cache_dir: Path | None, directory: Path | None, yes: bool, age: str | None, listings: bool) -> None:
    """Removes what is kept of objects and pictures.

    Mounts that use the cache fetch again what they need. The demo, merged LMDBs and logs stay.
    """
    from mountd import cachecontrol
    from vfs import diskcare
    from vfs.diskcare import clear

    if age is not None and listings:
        raise OptionError("--listings and --older-than: listings have no age to go by: give one")
    before = None if age is None else time.time() - cachecontrol.seconds(age)
    folder = diskcare.checked(cachecontrol.folder_of(cache_dir, directory), writing=True)
    about = diskcare.about_values(folder)
    if not yes and not _agreed(folder, about, age, listings):
        shown.say("nothing was removed")
        raise click.exceptions.Exit(process.USAGE)
    users = cachecontrol.users_of(folder)
    gone = clear.clear_listings(folder) if listings else clear.Gone()
    with _bar("clearing", about["used_bytes"]) as advance:
        more = clear.clear(folder, before=before, in_use=users.may_be, on_progress=advance)
    for user in users.known:
        _let_go(user.mount)
    click.echo(
        f"{folder}: {gone.files + more.files:,} files removed, {shown.size(gone.bytes + more.bytes)} are free now"
    )


@command.command("resize")
@_which
@click.argument("size")
def _resize(cache_dir: Path | None, directory: Path | None, size: str) -> None:
    """Gives live mounts another limit, at once.

    All that use the cache get SIZE, such as 200G. It lasts until they end; cache_size=SIZE at the mount is what lasts.
    """
    from mountd import cachecontrol, control
    from vfs import diskcare

    limit_bytes = cachecontrol.size_bytes(size)
    folder = diskcare.checked(cachecontrol.folder_of(cache_dir, directory), writing=False)
    cachecontrol.refuse_too_large(size, limit_bytes, diskcare.facts(folder))
    users = cachecontrol.users_of(folder)
    if not users.known:
        silent = f" ({users.silent[0].mountpoint} does not tell)" if users.silent else ""
        raise OptionError(f"{folder}: no mount uses it now{silent}: a limit is a mount's own: -o cache_size={size}")
    keeps = False
    for user in users.known:
        done = control.ask(user.mount, "resize", {"limit_bytes": limit_bytes})
        if done["limit_bytes"] is None:
            click.echo(f"{user.mount.mountpoint}: keeps nothing on disk")
            continue
        keeps = True
        freed = done["before_bytes"] - done["used_bytes"]
        click.echo(
            f"{user.mount.mountpoint}: up to {shown.size(done['limit_bytes'])}, {shown.size(done['used_bytes'])} used"
            + (f", {shown.size(freed)} freed" if freed > 0 else "")
        )
    if keeps:
        shown.say(f'this lasts until the mount ends; for good: -o cache_size={size}, in TOML cache_size = "{size}"')


# -- what is said


def _parts(facts: dict[str, Any], limits: str) -> Iterator[tuple[str, str]]:
    values, catalog, disk = facts["values"], facts["catalog"], facts["disk"]
    if values["trouble"]:
        yield "values", f"cannot be counted ({values['trouble']}): egofs cache verify --repair"
    else:
        yield "values", f"{shown.size(values['used_bytes'])} in {_many(values['files'], 'file')}, of {limits}"
    if values["newest_use"] is not None:
        yield "", f"used last {_ago(values['newest_use'])}, the oldest {_ago(values['oldest_use'])}"
    if catalog["trouble"]:
        yield "listings", f"cannot be read ({catalog['trouble']}): egofs cache verify --repair"
    elif catalog["bytes"]:
        names = f"{_many(catalog['entries'], 'name')} in {_many(catalog['folders'], 'folder')}"
        yield "listings", f"{shown.size(catalog['bytes'])}: {names}, of {_many(catalog['datasets'], 'tree')}"
    what = {"archives": "indices of archives", "datasets": "merged LMDBs, manifests", "demo": "", "logs": ""}
    for part, words in what.items():
        if facts[part]["files"]:
            count = _many(facts[part]["files"], "file")
            yield part, f"{shown.size(facts[part]['bytes'])} in {count}{words and f' ({words})'}"
    read_only = "; it is read-only" if disk["read_only"] else ""
    free, total, reserved = (shown.size(disk[f"{which}_bytes"]) for which in ("free", "total", "reserved"))
    yield "disk", f"{free} free of {total}; {reserved} are left to others{read_only}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _ago(at: float) -> str:
    seconds = time.time() - at
    return "just now" if seconds < 60 else f"{shown.duration(seconds)} ago"


def _limits(users: "Users") -> str:
    """How much the mounts that use it may keep."""
    known = {user.status["cache"]["limit_bytes"] for user in users.known if user.status.get("cache")}
    return " and ".join(shown.size(limit) for limit in sorted(known)) or "what a mount's cache_size= says (50.0 GiB)"


def _mounts(users: "Users") -> Iterator[tuple[str, str]]:
    if not users.may_be:
        yield "mounts", "none uses it now"
    for user in users.known:
        yield "mount", f"{user.mount.mountpoint} (pid {user.status['pid']}, {user.mount.source})"
    for mount in users.silent:
        yield "mount?", f"{mount.mountpoint} does not say which cache it uses"


def _user_facts(user: "User") -> dict[str, Any]:
    return {
        "mountpoint": str(user.mount.mountpoint),
        "source": user.mount.source,
        "pid": user.status["pid"],
        "limit_bytes": (user.status.get("cache") or {}).get("limit_bytes"),
    }


def _findings(report: Any) -> Iterator[str]:
    """A line for each kind of what was found."""
    for name, said in report.databases.items():
        yield f"damaged   {name}: {said}"
    for name in report.damaged_names:
        yield f"damaged   {name}"
    if report.damaged > len(report.damaged_names):
        yield f"damaged   and {report.damaged - len(report.damaged_names):,} more"
    for count, what in (
        (report.unfinished, "files that a crash left half-written"),
        (report.uncounted, "values that nobody has counted"),
        (report.lost, "values that are counted and not there"),
        (report.miscounted, "sizes that are counted wrong"),
    ):
        if count:
            yield f"left over {count:,} {what}"


def _verdict(report: Any) -> str:
    left_over = report.unfinished + report.uncounted + report.lost + report.miscounted
    if not report.is_damaged and not left_over:
        return "all as they were kept"
    damage = f"{report.damaged:,} damaged ({shown.size(report.damaged_bytes)})" if report.damaged else "none damaged"
    return f"{damage}, " + ("repaired" if report.repaired else "egofs cache verify --repair puts this right")


def _agreed(folder: Path, about: dict[str, Any], age: str | None, listings: bool) -> bool:
    if not sys.stdin.isatty():
        raise OptionError(f"{folder}: nobody is asked whether to clear it: say --yes")
    what = (
        f"what was not used for {age}"
        if age
        else f"{shown.size(about['used_bytes'])} in {_many(about['files'], 'file')}"
    )
    return click.confirm(f"Remove {what}{' and all listings' if listings else ''} from {folder}?", err=True)


def _let_go(mount: "mounts.Mount") -> None:
    """Has a mount close files that are gone; one that does not answer keeps a few until it does."""
    from mountd import control

    try:
        control.ask(mount, "let-go", timeout_s=5.0)
    except EgofsError as failure:
        shown.say(f"some of it is free when this mount ends: {failure}")


@contextmanager
def _bar(what: str, size_bytes: int) -> Iterator[Callable[[int, int], None]]:
    """Bytes, their rate and the time left, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda files, size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=size_bytes)
        yield lambda files, size: bar.advance(task, size)
