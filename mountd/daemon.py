"""From a checked configuration to a served mount: in this process, or in one of its own that outlives the terminal.

`mount` returns only when a round trip through the kernel has succeeded, or raises what the daemon said. The daemon is
a forked child that reports over a pipe, a line each: `note TEXT` while it prepares, then `ok PID`, or `fail CODE TEXT`.
"""

import json
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import vfs.video
from mountd import cachecontrol, control, invalidation, logs, mounts, notify, orders, supervisor, verification, warm
from mountd.about import AboutDirectory, ErrorLog, RootWithAbout
from mountd.config import Config, load
from mountd.facts import MountFacts
from mountd.process import BUG, FAILED, DaemonFailed, exit_status, settle
from vfs.cache import ChunkCache
from vfs.datasets import Dataset
from vfs.disk import Disk
from vfs.errors import EgofsError, OptionError
from vfs.mounted import MountedDataset
from vfs.options import as_dict
from vfs.sources import Source
from vfs.sources.ahead import AheadSource
from vfs.sources.archives import ArchiveSource
from vfs.sources.retry import TOTAL_S, RetryingSource

if TYPE_CHECKING:
    from mountd import loopback
    from vfs.ops import OpsCounters

log = logging.getLogger(__name__)

# A listing of a local folder costs microseconds: it is looked at again almost at once.
_LOCAL_LISTING_AGE_S = 1.0
# Preparing may take long once (the demo is made); each note of the daemon starts this anew.
_PREPARATION_S = 600.0
# A person waits for the mount: a store that is away, or a wrong endpoint, is told sooner than a reader would be.
_PATIENCE_AT_MOUNT_S = 10.0
_UMASK = 0o077  # what is cached of a licensed dataset, and its names, are for this user alone
_OBJECTS, _DATASETS, _ARCHIVES = "objects", "datasets", "archives"
# What frames need is imported when nothing was read for so long: beside a reader it would hold the interpreter, for
# 150 ms, and for more than a second where its files are not in memory. Who opens a frame before that imports it.
_QUIET_S = 3.0


def start(
    what: str,
    directory: Path,
    options: list[tuple[str, str | bool]],
    note: Callable[[str], None],
    *,
    foreground: bool = False,
) -> None:
    """`egofs mount WHAT DIRECTORY`, for the command line and the mount helper. Raises EgofsError."""
    checked = load(what, options)
    mountpoint = mounts.real(directory)
    if foreground:
        run_in_foreground(checked, mountpoint, note)
    else:
        mount(checked, mountpoint, note)


def mount(config: Config, mountpoint: Path, note: Callable[[str], None]) -> int:
    """Mounts in a daemon and returns its pid once the tree answers. Raises EgofsError with the daemon's own words."""
    mounts.check(mountpoint, config.mount.nonempty)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _leave_terminal(config, mountpoint, writing)
    os.close(writing)
    try:
        return _await_daemon(reading, config.mount.timeout, note)
    finally:
        os.close(reading)
        os.waitpid(child, 0)


def run_in_foreground(config: Config, mountpoint: Path, note: Callable[[str], None]) -> None:
    """Mounts and serves in this process until unmounted, TERM or INT, or HUP where it has a terminal that closes.

    Raises EgofsError.
    """
    mounts.check(mountpoint, config.mount.nonempty)
    os.umask(_UMASK)
    logs.begin(config, mountpoint, background=False)

    def ready() -> None:
        note(f"{config.name} is mounted on {mountpoint}")
        notify.ready(f"{config.name} is mounted on {mountpoint}")

    _run(config, mountpoint, ready, reloads=not sys.stdin.isatty())


def _run(
    config: Config,
    mountpoint: Path,
    ready: Callable[[], None],
    *,
    reloads: bool = True,
    restarts: int = 0,
) -> None:
    """Serves a mount until it ends; `reloads`: HUP has listings and credentials asked for anew, and ends nothing."""
    errors = ErrorLog()
    logging.getLogger().addHandler(errors)
    cache_dir = config.cache.cache_dir
    # Who takes the place of a daemon that died does without a disk that this one may have died of.
    keeps = not restarts or _takes_files(cache_dir)
    dataset_module, options = config.dataset, config.dataset_options
    endpoint = _open_endpoint(config.mount.metrics_port, is_needed=not restarts)
    url = config.url or dataset_module.default_source(options, cache_dir)
    module, source_options = config.source_module(url)
    source = RetryingSource(
        module.open_source(url, source_options),
        total_s=_PATIENCE_AT_MOUNT_S,
        renewal=getattr(dataset_module, "RENEWAL", ""),
    )
    walked = AheadSource(source)
    shown: Source = ArchiveSource(walked, cache_dir / _ARCHIVES) if config.mount.archives else walked
    dataset = dataset_module.open_dataset(shown, options, cache_dir / _DATASETS)
    dataset.check()
    age = config.mount.listing_age
    if age is None:
        age = dataset.listing_age_s if source.remote else _LOCAL_LISTING_AGE_S
    walked.max_age_s = min(walked.max_age_s, age)
    cache = _open_cache(config, source.remote, keeps)
    disk = cache.disk if cache else _open_disk_for_frames(config) if keeps else None
    mounted = MountedDataset(
        dataset,
        getattr(dataset, "source", shown),
        cache,
        cache_dir / "catalog.sqlite" if source.remote and keeps else None,
        space=json.dumps(
            [source.url, dataset_module.__name__, as_dict(options), config.mount.archives, *dataset.selection],
            sort_keys=True,
            default=str,
        ),
        listing_age_s=age,
        show_frames=config.mount.frames,
        disk=disk,
    )
    server: control.Server | None = None
    try:
        asking = ThreadPoolExecutor(1)
        listing = asking.submit(lambda: mounted.root)
        # Only now: the store answers while these are imported (pyfuse3 and trio, 75 ms).
        from mountd.session import serve
        from vfs.ops import Operations

        root = listing.result()
        asking.shutdown()
        source.total_s = TOTAL_S
        about = AboutDirectory(
            lambda: facts.status(),
            errors,
            dataset.missing if type(dataset).missing is not Dataset.missing else None,
        )
        shown_root = RootWithAbout(root, about)
        operations = Operations(
            shown_root,
            uid=config.mount.uid,
            gid=config.mount.gid,
            umask=config.mount.umask,
            total_bytes=mounted.catalog.known_bytes,
        )
        facts = MountFacts(
            config,
            mountpoint,
            mounted,
            source,
            operations,
            errors,
            (config.mount, config.cache, options, source_options),
            restarts=restarts,
        )
        if isinstance(shown, ArchiveSource):
            facts.under_way["indexing"] = shown.under_way

        def answers() -> None:
            nonlocal server
            server = _open_control(
                mountpoint,
                {
                    "status": lambda words, call: about.status(),
                    "options": lambda words, call: {"what": config.name, "options": config.values()},
                    "invalidate": invalidation.operation(mounted, operations),
                    "order": orders.operation(mountpoint, mounted, operations),
                    "verify": verification.operation(mounted, operations),
                    **cachecontrol.operations(mounted.cache, disk),
                    **warm.operations(mounted, shown_root, mountpoint),
                },
            )
            if server is not None:
                facts.control = server.path
                facts.under_way["warming"] = lambda: map(warm.under_way, server.told("warm"))
                facts.under_way["order"] = lambda: map(orders.under_way, server.told("order"))
            if endpoint is not None:
                endpoint.serve(about.metrics)
            _settle(ready, operations.counters if config.mount.frames else None, mounted.shelf.warm)

        serve(
            operations,
            mountpoint,
            name=config.name,
            allow_other=config.mount.allow_other,
            ready=answers,
            timeout_s=config.mount.timeout,
            reload=(lambda: invalidation.forget(mounted, operations, "")) if reloads else None,
        )
    finally:
        if server is not None:
            server.close()
        if endpoint is not None:
            endpoint.close()
        mounted.close()


def _open_endpoint(port: int, *, is_needed: bool) -> "loopback.Endpoint | None":
    """The port for metrics, taken; it is answered once the mount is. Raises OptionError where it cannot be had; who
    takes the place of a daemon that died mounts without it."""
    if not port:
        return None
    from mountd import loopback  # 40 ms, for those who want it

    try:
        return loopback.Endpoint(port)
    except OptionError as failure:
        if is_needed:
            raise
        log.warning("no metrics: %s", failure)
        return None


def _open_control(mountpoint: Path, operations: dict[str, control.Operation]) -> control.Server | None:
    """The mount's control socket. A mount without one can still be read: a folder that cannot be is no error."""
    there = mounts.top(mountpoint)
    if there is None:
        return None
    try:
        return control.Server(there.device, operations)
    except OSError as failure:
        log.warning("no control socket, so that egofs warm and others cannot ask this mount: %s", failure)
        return None


def _settle(ready: Callable[[], None], asked: "OpsCounters | None", warm: Callable[[], None]) -> None:
    """Says that the mount is there, then does what could wait until it was; `asked` where frames are shown."""
    ready()
    settle()
    if asked is not None:
        threading.Thread(target=_warm_up, args=(asked, warm), name="warm-up", daemon=True).start()


def _warm_up(asked: "OpsCounters", warm: Callable[[], None]) -> None:
    """Processes are started at once, because they take half a second to be of use; what this one imports can wait."""
    try:
        warm()
    except (EgofsError, OSError) as failure:  # unmounted meanwhile, or none can be started now: a frame will say it
        log.info("decoders are not started yet: %s", failure)
    before = -1
    while asked.reads != before:
        before = asked.reads
        time.sleep(_QUIET_S)
    vfs.video.load()


def _takes_files(cache_dir: Path) -> bool:
    """Whether files can be made in the cache's folders, which is said where they cannot."""
    for folder in (cache_dir, cache_dir / _OBJECTS):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as failure:
            log.warning("nothing is kept on disk any more: cache_dir %s: %s", folder, failure.strerror or failure)
            return False
    return True


def _open_cache(config: Config, remote: bool, keeps: bool) -> ChunkCache | None:
    """A cache on disk, or in memory alone (a remote source is always read ahead), or none for a local source."""
    if config.cache.cache == "off" or not keeps or not (remote or config.cache.cache == "on"):
        return ChunkCache(None, 0) if remote else None
    folder = config.cache.cache_dir / _OBJECTS
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache = ChunkCache(folder, config.cache.cache_size)
    except OSError as failure:
        raise OptionError(
            f"cache_dir {folder}: {failure.strerror or failure}: choose another with -o cache_dir=…"
        ) from failure
    if cache.disk is not None:
        _leave_room(cache.disk, folder)
    return cache


def _open_disk_for_frames(config: Config) -> Disk | None:
    """Where pictures of local videos are kept. A mount of them works without: a folder that cannot be is no error."""
    if config.cache.cache == "off" or not config.mount.frames:
        return None
    folder = config.cache.cache_dir / _OBJECTS
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = Disk(folder, config.cache.cache_size)
    except OSError as failure:
        log.warning("no frames will be kept: cache_dir %s: %s", folder, failure.strerror or failure)
        return None
    _leave_room(disk, folder)
    return disk


def _leave_room(disk: Disk, folder: Path) -> None:
    """Holds the cache to a share of what is free."""
    room = cachecontrol.room_for(disk)
    if room < disk.limit_bytes:
        log.info("the cache is held to %d MiB, four fifths of what is free in %s", room >> 20, folder)
        disk.limit_bytes = room


# -- the daemon's process


def _leave_terminal(config: Config, mountpoint: Path, pipe: int) -> NoReturn:
    """The forked child: becomes the daemon, or the supervisor of one, and leaves what started it.

    The group of processes is left only when the mount is there: an automount point lets nobody pass before that but the
    group of the mount(8) that systemd started. Until then, an interrupt is for the process that waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    os.umask(_UMASK)
    if os.fork():
        os._exit(0)
    if not config.mount.supervise:
        _be_daemon(config, mountpoint, pipe, lambda: None, 0)

    def begin() -> None:
        os.close(pipe)  # the daemon has it
        _point_stdio_away()

    supervisor.keep_up(
        mountpoint,
        lambda ready, restarts: _be_daemon(config, mountpoint, None if restarts else pipe, ready, restarts),
        begin,
        lambda line: _log_line(config, mountpoint, line),
    )


def _leave_group() -> None:
    """Leaves the terminal and its signals behind, where that was not done before."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def _be_daemon(
    config: Config, mountpoint: Path, pipe: int | None, came_up: Callable[[], None], restarts: int
) -> NoReturn:
    """Serves, reports over the pipe where somebody waits, never returns."""
    status = BUG
    try:
        try:
            logs.begin(config, mountpoint, background=True)
        except OptionError:
            if not restarts:
                raise  # else nobody waits for the reason, and readers for the mount
        notes = _NoteHandler(pipe)
        logging.getLogger("vfs.datasets").addHandler(notes)
        _point_stdio_away()

        def ready() -> None:
            logging.getLogger("vfs.datasets").removeHandler(notes)
            came_up()
            _leave_group()
            if not _tell(pipe, f"ok {os.getpid()}"):
                # Who waited was interrupted or killed: they do not expect a mount any more.
                signal.raise_signal(signal.SIGTERM)
            if pipe is not None:
                os.close(pipe)
            notify.ready(f"{config.name} is mounted on {mountpoint}")

        log.info("%s on %s", config.name, mountpoint)
        _run(config, mountpoint, ready, restarts=restarts)
        status = 0
    except EgofsError as failure:
        status = exit_status(failure)
        log.error("%s", failure)
        _tell(pipe, f"fail {status} {failure}")
    except BaseException as failure:
        log.exception("the daemon ended by a bug")
        where = logs.place(config, mountpoint, background=True)
        _tell(pipe, f"fail {BUG} a bug: {type(failure).__name__}: {failure}; {where} has more")
    finally:
        logging.shutdown()
        os._exit(status)


def _await_daemon(pipe: int, timeout_s: float, note: Callable[[str], None]) -> int:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    pending = b""
    while poll.poll((_PREPARATION_S + timeout_s) * 1000):
        data = os.read(pipe, 4096)
        if not data:
            raise DaemonFailed("the daemon ended without a word; its log has more", BUG)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            kind, _, text = line.decode(errors="replace").partition(" ")
            if kind == "note":
                note(text)
            elif kind == "ok":
                return int(text)
            else:
                status, _, message = text.partition(" ")
                raise DaemonFailed(message, int(status))
    raise DaemonFailed(f"the daemon said nothing for {_PREPARATION_S + timeout_s:.0f} s; its log has more", FAILED)


class _NoteHandler(logging.Handler):
    """Sends what a dataset says while it prepares to the terminal that waits."""

    def __init__(self, pipe: int | None) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        _tell(self._pipe, f"note {record.getMessage()}")


def _tell(pipe: int | None, line: str) -> bool:
    """Whether there was still somebody to tell, if anybody waited; the log has it in any case."""
    if pipe is None:
        return True
    try:
        os.write(pipe, line.replace("\n", " ").encode(errors="replace") + b"\n")
    except OSError:
        return False
    return True


def _log_line(config: Config, mountpoint: Path, line: str) -> None:
    """Says something in the daemon's log while there is no daemon."""
    with suppress(OptionError):
        logs.begin(config, mountpoint, background=True)
    log.warning("%s", line)
    logging.shutdown()


def _point_stdio_away() -> None:
    """The terminal is not held open; what a library prints goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
