"""`egofs doctor`: looks at all that a mount needs, and says beside each finding what to do.

It hides that any of this may hang: each group of checks runs in a thread of its own, all at the same time, and what has
not been found by the deadline is said to be missing. Nothing is written to a store, and no secret is shown. Called by
the command. The groups are machine.py (what any mount needs), folder.py (the cache), live.py (what is mounted) and
store.py (one SOURCE).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from mountd import cachecontrol, mounts
from mountd.doctor import folder, live, machine, store
from mountd.doctor.finding import Finding, problem
from vfs import datasets
from vfs.errors import OptionError

# With what comes before and after, a run ends within half a minute whatever hangs.
LIMIT_S = 25.0

Check: TypeAlias = Callable[[], Iterator[Finding]]
Group: TypeAlias = tuple[str, Check]


def groups(
    what: str | None, options: Sequence[tuple[str, str | bool]], *, offline: bool, here: machine.Machine | None = None
) -> list[Group]:
    """The checks, by what they are about. `what` is a SOURCE, a mount point, or None for all mounts there are.

    Raises OptionError for options without a SOURCE.
    """
    here = here or machine.Machine()
    mount = _mount_on(what) if what is not None else None
    if options and (what is None or mount is not None):
        raise OptionError("options are those of a SOURCE: name one")
    found: list[Group] = [
        ("FUSE", lambda: machine.fuse(here)),
        ("mount(8) and systemd", lambda: machine.helper(here)),
        ("installation", lambda: machine.libraries(here)),
    ]
    if mount is not None:
        found += [("cache", lambda: _cache_of(mount)), ("mounts", lambda: live.mounted(mount.mountpoint))]
        return found
    found += [("cache", lambda: _cache(what, options)), ("mounts", live.mounted)]
    if what is not None:
        found.append((what, lambda: store.source(store.Asked(what, options), offline)))
    return found


def _mount_on(what: str) -> mounts.Mount | None:
    """The mount on a mount point; None for what is a SOURCE."""
    if "://" in what or what.replace("-", "_") in datasets.names():
        return None
    point = mounts.real(Path(what))
    return next((mount for mount in reversed(mounts.egofs_mounts()) if mount.mountpoint == point), None)


def examined(groups: Sequence[Group], limit_s: float = LIMIT_S) -> Iterator[tuple[str, list[Finding]]]:
    """Each group with what was found, in order, as they end; all within the limit."""
    deadline = time.monotonic() + limit_s
    runs = [(name, *_begun(check)) for name, check in groups]
    for name, thread, found in runs:
        thread.join(max(0.0, deadline - time.monotonic()))
        findings = list(found)
        if thread.is_alive():
            after = f" after {findings[-1].check}" if findings else ""
            remedy = "what it waits for hangs: a store, a network file system, a mount"
            findings.append(problem("no answer", f"nothing more was found within {limit_s:.0f} s{after}", remedy))
        yield name, findings


def _begun(check: Check) -> tuple[threading.Thread, list[Finding]]:
    found: list[Finding] = []

    def run() -> None:
        try:
            for finding in check():
                found.append(finding)  # one by one: what is found before it hangs is shown
        except Exception as failure:  # noqa: BLE001 - a check that fails must not end the others
            remedy = "report this, with what stands above it"
            found.append(problem("bug", f"the check failed: {type(failure).__name__}: {failure}", remedy))

    # A thread that hangs cannot be ended; as a daemon thread it does not keep the process either.
    thread = threading.Thread(target=run, name="doctor", daemon=True)
    thread.start()
    return thread, found


def _cache(what: str | None, options: Sequence[tuple[str, str | bool]]) -> Iterator[Finding]:
    """The cache folder that a mount of SOURCE would use, or the usual one."""
    from mountd import config

    settings = config.CacheOptions()
    with suppress(OptionError):  # which the SOURCE's own group tells
        settings = config.load(what, options).cache if what else settings
    return folder.cache(settings.cache_dir, settings.cache_size)


def _cache_of(mount: mounts.Mount) -> Iterator[Finding]:
    """The cache folder that a mount uses."""
    status = cachecontrol.status_of(mount)
    if status is not None:
        limit_bytes = (status.get("cache") or {}).get("limit_bytes", 0)
        yield from folder.cache(Path(status["cache_dir"]), limit_bytes)
