"""Whether a SOURCE can be mounted: its configuration, its credentials, the way to its store, and what the store gives.

Called by mountd.doctor. Everything that is sent is what a mount would send when it is read: a listing or some, and one
byte of one object; and HEAD of the server's root, for its clock. Nothing is tried again, so that nothing takes long.
What is found is given as it is found, so that a store that hangs takes away no more than what comes after it.
"""

import http.client
import posixpath
import socket
import ssl
import stat
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mountd import shown
from mountd.doctor.finding import Finding, ok, problem, skipped, warning
from vfs import sources
from vfs.catalog import Entry, Tree
from vfs.errors import AccessDenied, EgofsError, NotFound
from vfs.node import Kind
from vfs.sources import Credentials, ObjectInfo, Source

_T = TypeVar("_T")

# Of Signature Version 4 (RequestTimeTooSkewed); tokens of others bear about as much.
_MOST_SKEW_S = 900.0
_MUCH_SKEW_S = 60.0
_LICENCE_S = 14 * 86_400.0
_SOON_S = 86_400.0
_CONNECT_S = 5.0
_SLOW_S = 5.0
# Listings that may be asked for to find one file, and names of one that are looked at.
_LISTINGS = 6
_NAMES = 200
# With what the last part of a message begins that says what to do.
_ADVISING = {
    "put", "give", "check", "choose", "run", "make", "use", "write", "ask", "see", "say", "open", "take", "install",
    "pip", "name", "unset", "mkdir", "leave", "add", "sign",
}  # fmt: skip
_CLOCK = "set the clock: timedatectl set-ntp true (or chronyc makestep)"


@dataclass(frozen=True)
class Asked:
    """What the person named, and what it means."""

    text: str
    options: Sequence[tuple[str, str | bool]]


def source(asked: Asked, offline: bool) -> Iterator[Finding]:
    """All about one SOURCE."""
    from mountd import config

    try:
        settings = config.load(asked.text, asked.options)
        name = settings.dataset.__name__.rpartition(".")[2].replace("_", "-")
        url = settings.url or _default_source(settings, name)
        if url is None:
            yield ok("configuration", f"{asked.text}: the demo, which is made at its first mount")
            return
        module, options = settings.source_module(url)
        opened = module.open_source(url, options)
    except EgofsError as failure:
        yield _refused("configuration", failure)
        return
    with closing(opened):
        yield ok("configuration", f"{name} at {opened.url}")
        renewal = getattr(settings.dataset, "RENEWAL", "")
        known = module.credentials(url, options) if hasattr(module, "credentials") else Credentials("none")
        if hasattr(module, "credentials"):
            yield from _credentials(known, renewal)
        if hasattr(module, "address"):
            if offline:
                yield skipped("store", "not asked (--offline)")
                return
            reached = True
            for finding in _way(module.address(url, options)):
                reached = reached and finding.state != "problem"
                yield finding
            if not reached:
                return
        if known.missing:
            yield skipped("listing", "not asked without credentials")
            return
        yield from _contents(settings, opened, renewal)


def _default_source(settings: Any, name: str) -> str | None:
    """Where the dataset is; None for a demo that would have to be made to be looked at."""
    if name == "demo":
        from vfs.datasets import demo

        if not (settings.cache.cache_dir / "demo" / demo.TREE).is_dir():
            return None
    url: str = settings.dataset.default_source(settings.dataset_options, settings.cache.cache_dir)
    return url


# -- credentials


def _credentials(known: Credentials, renewal: str) -> Iterator[Finding]:
    name = "credentials"
    if known.missing:
        yield _refused(name, AccessDenied(known.missing), renewal)
        return
    told = f"{known.what}{known.where and f', from {known.where}'}"
    now = time.time()
    if known.until and known.until < now:
        yield problem(name, f"{told}: ended {shown.duration(now - known.until)} ago", renewal or "renew them")
    elif known.until and known.until < now + _SOON_S:
        yield warning(name, f"{told}: end in {shown.duration(known.until - now)}", renewal or "renew them")
    else:
        yield ok(name, told)
    if known.file is not None:
        yield from _file(known, renewal)


def _file(known: Credentials, renewal: str) -> Iterator[Finding]:
    assert known.file is not None, "there is one"
    try:
        facts = known.file.stat()
    except OSError as failure:
        yield problem("credentials file", f"{known.file}: {failure.strerror}", "see that you may read it")
        return
    mode, age = stat.S_IMODE(facts.st_mode), time.time() - facts.st_mtime
    if mode & 0o077:
        yield warning(
            "credentials file", f"{known.file}: others may read it (mode {mode:04o})", f"chmod 600 {known.file}"
        )
    else:
        yield ok("credentials file", f"{known.file}: for its owner alone")
    if renewal and known.is_dated:
        written = f"written {shown.duration(age)} ago"
        if age > _LICENCE_S:
            yield warning("keys' age", f"{written}: keys of this licence end after 14 days", renewal)
        else:
            yield ok("keys' age", f"{written}, of the 14 days that keys of this licence have")


# -- the way there


def _way(address: str) -> Iterator[Finding]:
    """Name, connection, encryption and clock of a server, or of the proxy in front of it."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        yield skipped("network", f"{host} is asked through the proxy {urlsplit(proxy).hostname}")
        return
    addresses = yield from _step(
        "name",
        host,
        lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        "check the name, the network, and /etc/resolv.conf (getent hosts NAME)",
    )
    if addresses is None:
        return
    connection = yield from _step(
        "connection",
        f"{host}:{port}, at {addresses[0][4][0]}",
        lambda: socket.create_connection((host, port), _CONNECT_S),
        "check the network, firewalls, and https_proxy where there is a proxy",
    )
    if connection is None:
        return
    with connection:
        yield from _greeted(connection, parts.scheme == "https", host)


def _step(check: str, what: str, attempt: Callable[[], _T], remedy: str) -> Generator[Finding, None, _T | None]:
    """What came of the attempt; None where it failed, which is told then."""
    began = time.monotonic()
    try:
        result = attempt()
    except (OSError, UnicodeError) as failure:
        yield problem(check, f"{what}: {getattr(failure, 'strerror', None) or failure}", remedy)
        return None
    yield ok(check, f"{what} ({(time.monotonic() - began) * 1000:.0f} ms)")
    return result


def _greeted(connection: socket.socket, is_tls: bool, host: str) -> Iterator[Finding]:
    if is_tls:
        try:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        except (OSError, ValueError) as failure:
            # No end: the store's own client may trust others (ca_bundle), and what it says counts.
            why = getattr(failure, "verify_message", "") or str(failure)
            remedy = "apt install ca-certificates; behind a proxy that decrypts: its certificate as ca_bundle"
            yield warning("encryption", f"{host}: not trusted by this machine: {why}", remedy)
            return
        yield ok("encryption", f"{connection.version()}, trusted")
    asking = http.client.HTTPConnection(host)
    asking.sock = connection
    try:
        asking.request("HEAD", "/", headers={"Host": host, "User-Agent": "egofs"})
        told = asking.getresponse().headers.get("date", "")
        skew_s = time.time() - parsedate_to_datetime(told).timestamp()
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        yield skipped("clock", "the server does not tell the time")
        return
    finally:
        asking.close()
    yield _clock(skew_s)


def _clock(skew_s: float) -> Finding:
    how = f"{shown.duration(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} the store's"
    if abs(skew_s) > _MOST_SKEW_S:
        return problem("clock", f"{how}: signed requests are refused beyond 15 min", _CLOCK)
    if abs(skew_s) > _MUCH_SKEW_S:
        return warning("clock", f"{how}: signed requests are refused beyond 15 min", _CLOCK)
    return ok("clock", "as the store's, to the minute")


# -- what is there


def _contents(settings: Any, opened: Source, renewal: str) -> Iterator[Finding]:
    try:
        began = time.monotonic()
        dataset = settings.dataset.open_dataset(opened, settings.dataset_options, settings.cache.cache_dir / "datasets")
        dataset.check()
        names = _names(dataset, "")
        took_s = time.monotonic() - began
    except EgofsError as failure:
        yield _refused("listing", failure, renewal)
        return
    told = f"{_some(names)} ({took_s:.1f} s)"
    if not names:
        yield warning("listing", "there is nothing", "check the URL: a prefix, a folder or a revision may be wrong")
        return
    if took_s > _SLOW_S:
        yield warning("listing", f"{told}, which is slow", "once: listings are kept; is the store far away?")
    else:
        yield ok("listing", told)
    version = getattr(settings.dataset_options, "version", "") or getattr(settings.dataset_options, "release", "")
    yield ok("dataset", f"{dataset.name}{version and f', {version}'}")
    yield _one_byte(dataset, getattr(dataset, "source", opened), names, renewal)


def _one_byte(dataset: Any, reading: Source, names: Sequence[tuple[str, Entry]], renewal: str) -> Finding:
    """Reads one byte of the first file that is found near the root."""
    try:
        obj = _an_object(dataset, reading, names)
        if obj is None:
            return skipped("reading", "no file was found near the root to read a byte of")
        began = time.monotonic()
        reading.read(obj, 0, 1)
        return ok("reading", f"{obj.key}: one byte of {shown.size(obj.size_bytes)} ({time.monotonic() - began:.1f} s)")
    except EgofsError as failure:
        return _refused("reading", failure, renewal)


def _an_object(dataset: Any, reading: Source, names: Sequence[tuple[str, Entry]]) -> ObjectInfo | None:
    waiting = [names]
    for _ in range(_LISTINGS):
        if not waiting:
            break
        here = waiting.pop(0)
        for _folder, entry in here:
            obj = entry.object
            if obj is not None and obj.size_bytes == sources.UNKNOWN_SIZE:
                try:
                    obj = reading.stat(obj.key)
                except NotFound:  # a manifest names more than there is
                    continue
            if obj is not None and obj.size_bytes > 0:
                return obj
        folders = [posixpath.join(folder, entry.name) for folder, entry in here if entry.kind is Kind.DIRECTORY]
        waiting[:0] = [_names(dataset, folder) for folder in folders[:1]]
    return None


def _names(dataset: Any, folder: str) -> list[tuple[str, Entry]]:
    """The first names of a folder, or of a whole tree, each with its folder."""
    found = dataset.entries(folder)
    if isinstance(found, Tree):
        return [(path, entry) for path, entry in islice(found.entries, _NAMES) if isinstance(entry, Entry)]
    return [(folder, entry) for entry in islice(found, _NAMES)]


def _some(names: Sequence[tuple[str, Entry]]) -> str:
    first = ", ".join(posixpath.join(folder, entry.name) for folder, entry in names[:3])
    return f"{first}{', …' if len(names) > 3 else ''}"


def _refused(check: str, failure: EgofsError, renewal: str = "") -> Finding:
    """What a failure means. Its own words say what to do, but for what only the dataset knows."""
    found, remedy = _parted(str(failure))
    if isinstance(failure, AccessDenied) and renewal:
        remedy = f"{remedy and f'{remedy}; '}{renewal}"
    return problem(check, found, remedy or "doc/SOURCES.md has what this store needs; egofs options, what can be said")


def _parted(text: str) -> tuple[str, str]:
    """One of our messages as what is wrong and what to do; all of it, and "", where it does not end with that."""
    text = " ".join(text.split())
    found, _, advice = text.rpartition(": ")
    return (found, advice) if found and advice.partition(" ")[0] in _ADVISING else (text, "")
