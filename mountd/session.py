"""One FUSE session from mount to unmount: start, prove that the mount answers, serve, stop.

Hides pyfuse3's start and its traps. Called by daemon.py in the process's main thread.

Two cures stand here against one trap: pyfuse3 polls the FUSE descriptor and then reads it, blocking, with the GIL
held; when the request is withdrawn in between (its caller was killed) the whole process stands still until another
one happens to arrive. So the wait for readability looks again before it returns, and a timer signal interrupts a
read that blocks all the same. Each alone cured it in 150 of 150 trials; both are used.
"""

import faulthandler
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from mountd import kernelmount, mounts, notify
from mountd.below import Below, give_back
from vfs import malloc
from vfs.errors import EgofsError
from vfs.ops import Operations

log = logging.getLogger(__name__)

_INTERRUPT_S = 0.25
# After terminate, requests under way may still end; then they are cancelled.
_GRACE_S = 10.0
# The kernel is told of each name at the root; it may wait for requests that hang.
_RELOAD_S = 60.0
# Handlers at once. The kernel sends at most 12 buffered reads unless it is told otherwise, but lookups come on top.
_MAX_TASKS = 1100

_FUSE_CONF = Path("/etc/fuse.conf")

# What the kernel is told where the mount is root's. Requests of 1 MiB instead of 128 KiB: an eighth of the crossings.
_READ_AHEAD_KIB = 1024
# Buffered reads under way at once, of all files together; as shipped 12, so that one slow file would hold up all.
_MAX_BACKGROUND = 1000
_CONGESTION_THRESHOLD = 750


class MountFailed(EgofsError):
    """The kernel or fusermount3 would not mount."""


def serve(
    operations: Operations,
    mountpoint: Path,
    *,
    name: str,
    allow_other: bool,
    ready: Callable[[], None],
    timeout_s: float,
    reload: Callable[[], object] | None,
) -> None:
    """Mounts, calls `ready` once a round trip through the kernel has succeeded, and serves until unmounted.

    TERM and INT unmount, even while the mount is used; so does HUP where there is nothing to `reload`, which else is
    called for it in a thread. Raises MountFailed where nothing could be mounted or the mount did not answer in time.
    """
    malloc.keep_freed()
    is_over_dead = mounts.is_over_dead(mountpoint)
    below = Below(mountpoint)
    if mounts.top(mountpoint) is None:
        below.begin()
    try:
        _mount(operations, mountpoint, name, allow_other, is_over_dead)
        below.close()
        mine = mounts.top(mountpoint)
        try:
            trio.run(_main, mountpoint, ready, timeout_s, reload)
        finally:
            # Python gives up its handlers before the process has ended: a signal then would kill it, status 0 or not.
            signal.setitimer(signal.ITIMER_REAL, 0)
            # What was unmounted from outside is not unmounted again: another mount may stand there by now.
            pyfuse3.close(unmount=True)
            if is_over_dead:
                _uncover(mountpoint, mine)
    finally:
        if mounts.top(mountpoint) is None:
            give_back(mountpoint)


def _mount(operations: Operations, mountpoint: Path, name: str, allow_other: bool, is_over_dead: bool) -> None:
    options = {"ro", "default_permissions", "subtype=egofs", "fsname=" + _escaped(name)}
    if allow_other:
        options.add("allow_other")
    place = str(mountpoint)
    try:
        if is_over_dead:
            place = f"/dev/fd/{kernelmount.mount_over(mountpoint, name, allow_other)}"
        pyfuse3.init(operations, place, options)
    except (RuntimeError, OSError) as failure:
        raise MountFailed(f"{mountpoint}: mounting failed: {_why(allow_other)}") from failure


def _uncover(mountpoint: Path, mine: mounts.Mount | None) -> None:
    """Takes a mount away that libfuse has not made, and the dead ones below it."""
    with suppress(OSError, mounts.MountRefused):
        if mine is not None and mounts.top(mountpoint) == mine:
            kernelmount.detach(mountpoint)
        mounts.clear_dead(mountpoint)


async def _main(
    mountpoint: Path, ready: Callable[[], None], timeout_s: float, reload: Callable[[], object] | None
) -> None:
    _interrupt_blocking_reads()
    _look_twice()
    failed: list[EgofsError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, nursery, reload)

        async def prove() -> None:
            try:
                with trio.fail_after(timeout_s):
                    await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
                    await trio.to_thread.run_sync(_first_name, mountpoint, abandon_on_cancel=True)
            except trio.TooSlowError:
                failed.append(MountFailed(f"{mountpoint}: the mount did not answer within {timeout_s:.0f} s"))
            except OSError as failure:
                failed.append(MountFailed(f"{mountpoint}: the mount does not answer: {failure.strerror}"))
            if failed:
                pyfuse3.terminate()
            else:
                # Only now: the kernel takes its own settings when it has the mount's first answer.
                _tune_kernel(mountpoint)
                ready()
                if (limit_s := notify.watchdog_s()) is not None:
                    nursery.start_soon(_keep_watchdog, mountpoint, limit_s)

        nursery.start_soon(prove)
        await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
        nursery.cancel_scope.cancel()
    if failed:
        raise failed[0]


async def _heed_signals(nursery: trio.Nursery, reload: Callable[[], object] | None) -> None:
    """Ends the session gently, then by force: after a while, or at once when the signal comes a second time."""
    stopping = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP and reload is not None:
                nursery.start_soon(_reload, reload)
                continue
            log.info("stopping on %s", signal.Signals(number).name)
            now = trio.current_time()
            nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, now if stopping else now + _GRACE_S)
            if not stopping:
                notify.stopping(f"unmounting on {signal.Signals(number).name}")
                pyfuse3.terminate()
            stopping = True


async def _reload(reload: Callable[[], object]) -> None:
    began = time.monotonic()
    log.info("reloading on SIGHUP: credentials and listings are asked for anew")
    notify.reloading()
    with trio.move_on_after(_RELOAD_S):
        await trio.to_thread.run_sync(reload, abandon_on_cancel=True)
        log.info("reloaded in %.1f s", time.monotonic() - began)
    notify.ready("credentials and listings are asked for anew")


async def _keep_watchdog(mountpoint: Path, limit_s: float) -> None:
    """Tells systemd that the mount lives, for as long as a round trip through the kernel shows it.

    A third of the time that systemd waits: one answer may be late. systemd ends a process that says nothing by SIGABRT,
    at which it writes where each of its threads is.
    """
    faulthandler.enable()
    while True:
        await trio.sleep(limit_s / 3)
        with trio.move_on_after(limit_s) as patience:
            if why := await _asked_from_outside(mountpoint):
                log.error("%s: the mount does not answer: %s", mountpoint, why)
            else:
                notify.alive()
        if patience.cancelled_caught:
            log.error("%s: the mount did not answer within %.1f s", mountpoint, limit_s)


async def _asked_from_outside(mountpoint: Path) -> str:
    """Has stat(1) ask the mount for its statvfs; why that failed, or nothing.

    A process of its own: where the daemon is killed between taking a request and answering it, a thread of it that
    waits for that answer cannot end, so that the descriptor stays open that would have to be closed for it to end.
    Nobody waits long for a stat that was killed to be gone: it may be this loop that it waits for.
    """
    command = ["stat", "--file-system", "--format=", str(mountpoint)]
    try:
        probe = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as failure:
        return f"stat could not be started: {failure.strerror}"
    try:
        status = await probe.wait()
    finally:
        if probe.returncode is None:
            probe.kill()
            with trio.move_on_after(1, shield=True):
                await probe.wait()
    return f"stat -f ended with status {status}" if status else ""


def _first_name(directory: Path) -> None:
    """Opens a directory and reads a little of it; it may have a million names."""
    with os.scandir(directory) as names:
        next(names, None)


def _tune_kernel(mountpoint: Path) -> None:
    """Larger and more requests at once (Documentation/filesystems/fuse.rst, ABI/testing/sysfs-class-bdi)."""
    there = mounts.top(mountpoint)
    if there is None:
        return
    device = there.device
    connection = Path("/sys/fs/fuse/connections") / device.partition(":")[2]
    settings = {
        Path("/sys/class/bdi") / device / "read_ahead_kb": _READ_AHEAD_KIB,
        connection / "max_background": _MAX_BACKGROUND,
        connection / "congestion_threshold": _CONGESTION_THRESHOLD,
    }
    for file, number in settings.items():
        try:
            file.write_text(str(number))
        except OSError as failure:
            # Only root may, and only where sysfs and fusectl are mounted: slower, and otherwise the same.
            log.debug("%s stays as it is: %s", file, failure.strerror)


def _interrupt_blocking_reads() -> None:
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_S, _INTERRUPT_S)


def _look_twice() -> None:
    """Makes trio's wait return only when there really is something to read at that moment."""
    once = trio.lowlevel.wait_readable

    async def wait_readable(fd: Any) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            await once(fd)
            # POLLERR and POLLHUP come too, for a mount that has ended: its reader must see that.
            if poll.poll(0):
                return

    trio.lowlevel.wait_readable = wait_readable


def _escaped(name: str) -> str:
    """A value within a list of options that libfuse splits at commas."""
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _why(allow_other: bool) -> str:
    if os.getuid() == 0:
        return "is this a container without CAP_SYS_ADMIN? dmesg or the log may say more"
    if allow_other and not _others_may_be_let_in():
        return f"only root may say allow_other, unless {_FUSE_CONF} has a line user_allow_other: leave it out"
    return "install fuse3 (it brings fusermount3), and own the mount point"


def _others_may_be_let_in() -> bool:
    """Whether an ordinary user may (fusermount3(1), /etc/fuse.conf)."""
    try:
        return "user_allow_other" in map(str.strip, _FUSE_CONF.read_text().splitlines())
    except OSError:
        return False
