"""`egofs warm`, from the person's side: asks the daemons, shows how far they are, and says what came of it.

Called by the command. On a terminal there is a bar, drawn by rich, which nothing else here imports; elsewhere a line
now and then. Standard output has the answer of --check, --evict and --json, all else goes to standard error.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click

from mountd import asked, control, mounts, process, shown

_LINE_S = 10.0
# A daemon that lists, or is waited for by many, may say nothing for so long; it tells how far it is all the time.
_SILENCE_S = 120.0
_SHOWN_FAILURES = 20

Facts = dict[str, Any]


def run(words: Sequence[str], what: str, words_of: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Has each mount warm, check or evict its part of `words`. Raises EgofsError, and Exit where not all went well."""
    found = asked.by_mount(words)
    if len(found) > 1:  # or one would be fetched before the other is found not to be there
        for mount, paths in found.items():
            control.ask(mount, "require", {"paths": paths}, timeout_s=_SILENCE_S)
    results = []
    for mount, paths in found.items():
        with _screen(mount, quiet) as screen:
            try:
                done = control.ask(mount, what, {"paths": paths, **words_of}, screen.show, timeout_s=_SILENCE_S)
            except KeyboardInterrupt:
                screen.close()
                shown.say(_interrupted(screen.last, what))
                raise click.exceptions.Exit(process.INTERRUPTED) from None
        results.append({"mountpoint": str(mount.mountpoint), **done})
        _tell_failures(mount, done)
        if not as_json:
            _SAY[what](done, quiet)
    if as_json:
        click.echo(json.dumps({"mounts": results}, indent=1))
    if not all(done.get("all_there", not done["failed"]) for done in results):
        raise click.exceptions.Exit(process.USAGE)


# -- what is said


def _say_warm(done: Facts, quiet: bool) -> None:
    missing = _missing(done)
    if quiet and not missing:
        return
    rate = done["fetched_bytes"] / max(done["seconds"], 0.001)
    text = f"{_amount(done)} on disk" if not missing else f"not all is on disk: {missing} of {_amount(done)}"
    if done["local"]:
        text = f"{_amount(done)}; the files are on local disk anyway" + (f", but {missing}" if missing else "")
    else:
        text += f"; {shown.size(done['fetched_bytes'])} fetched"
    if done["made_pictures"]:
        text += f", {done['made_pictures']:,} pictures made"
    is_rate = done["fetched_bytes"] and not done["made_pictures"]
    shown.say(f"{text} in {_seconds(done['seconds'])}" + (f" ({shown.size(rate)}/s)" if is_rate else ""))
    if missing and not done["failed"]:
        shown.say("some went again, or could not be written: egofs cache info tells how much room there is")


def _say_check(done: Facts, quiet: bool) -> None:
    missing = _missing(done)
    if quiet:
        return
    where = "on local disk" if done["local"] else "on disk"
    click.echo(f"{_amount(done)}: " + (f"all {where}" if not missing else f"{_share(done)} {where}; {missing}"))


def _say_evict(done: Facts, quiet: bool) -> None:
    if not quiet:
        local = "; the files themselves are on local disk, and stay" if done["local"] else ""
        click.echo(f"{done['files']:,} files: {shown.size(done['freed_bytes'])} became free{local}")


_SAY: dict[str, Callable[[Facts, bool], None]] = {"warm": _say_warm, "check": _say_check, "evict": _say_evict}


def _tell_failures(mount: mounts.Mount, done: Facts) -> None:
    for path, why in done["failures"][:_SHOWN_FAILURES]:
        shown.say(f"{mount.mountpoint}/{path}: {why}")
    if done["failed"] > _SHOWN_FAILURES:
        shown.say(f"{done['failed'] - _SHOWN_FAILURES:,} more failed (--json has up to 1000 of them)")


def _amount(counts: Facts) -> str:
    parts = [f"{counts['files']:,} files, {shown.size(counts['bytes'])}"] if counts["files"] else []
    if counts["pictures"] or counts["unknown_videos"] or not parts:
        parts.append(f"{counts['pictures']:,} pictures")
    return ", ".join(parts)


def _share(counts: Facts) -> str:
    parts = [f"{counts['files_on_disk']:,} files, {shown.size(counts['bytes_on_disk'])}"] if counts["files"] else []
    if counts["pictures"] or counts["unknown_videos"]:
        parts.append(f"{counts['pictures_on_disk']:,} pictures")
    return ", ".join(parts)


def _missing(counts: Facts) -> str:
    """What is not on disk; "" for nothing."""
    files = counts["files"] - counts["files_on_disk"]
    pictures = counts["pictures"] - counts["pictures_on_disk"]
    parts = []
    if files:
        missing = shown.size(counts["bytes"] - counts["bytes_on_disk"])
        unknown = f", {counts['unknown_sizes']:,} of them of unknown size" if counts["unknown_sizes"] else ""
        parts.append(f"{files:,} files ({missing}{unknown}) are missing")
    if pictures:
        parts.append(f"{pictures:,} pictures are missing")
    if counts["unknown_videos"]:
        parts.append(f"of {counts['unknown_videos']:,} videos no picture is there")
    return ", ".join(parts)


def _interrupted(last: Facts, what: str) -> str:
    if what != "warm" or not last:
        return "interrupted"
    whole = last["asked"]
    parts = [f"{shown.size(last['bytes'])} of {shown.size(whole['bytes'])}"] if whole["bytes"] else []
    if whole["pictures"]:
        parts.append(f"{last['pictures']:,} of {whole['pictures']:,} pictures")
    return f"interrupted: {' and '.join(parts) or 'nothing'} on disk by now; the same command goes on"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else shown.duration(seconds)


# -- how far it is


class Screen(Protocol):
    """Shows how far it is; `last` is what was told last."""

    last: Facts

    def show(self, facts: Facts) -> None:
        """Takes what a daemon tells (vfs.warmrun.Progress)."""
        ...

    def close(self) -> None:
        """Shows nothing any more."""
        ...


class _Nothing:
    """Shows nothing."""

    def __init__(self) -> None:
        self.last: Facts = {}

    def show(self, facts: Facts) -> None:
        self.last = facts

    def close(self) -> None:
        pass


class _Lines(_Nothing):
    """A line now and then, for logs."""

    def __init__(self, mount: mounts.Mount) -> None:
        super().__init__()
        self._mount = mount
        self._said_at = time.monotonic()

    def show(self, facts: Facts) -> None:
        super().show(facts)
        if time.monotonic() - self._said_at >= _LINE_S:
            self._said_at = time.monotonic()
            shown.say(f"{self._mount.mountpoint}: {_line(facts)}")


def _line(facts: Facts) -> str:
    whole = facts["asked"]
    if facts["phase"] not in ("fetching", "making pictures"):
        text = f"{facts['phase']}: {whole['files'] or facts['files']:,} files"
    else:
        more = "" if facts["is_counted"] else " so far"
        text = f"{shown.size(facts['bytes'])} of {shown.size(whole['bytes'])}, "
        text += f"{facts['files']:,} of {whole['files']:,} files"
        if facts["phase"] != "fetching":
            text = f"{facts['pictures']:,} of {whole['pictures']:,} pictures"
        text = f"{facts['phase']}: {text}{more}"
    return text + _indexing(facts) + (f", {facts['failed']:,} failed" if facts["failed"] else "")


def _indexing(facts: Facts) -> str:
    if "indexing" not in facts:
        return ""
    name, done, size = facts["indexing"]
    return f"; reading {name.rpartition('/')[2]} for its index: {shown.size(done)} of {shown.size(size)}"


@contextmanager
def _screen(mount: mounts.Mount, quiet: bool) -> Iterator[Screen]:
    screen: Screen
    if quiet:
        screen = _Nothing()
    elif sys.stderr.isatty():
        from mountd.warmscreen import Bars

        screen = Bars()
    else:
        screen = _Lines(mount)
    try:
        yield screen
    finally:
        screen.close()
