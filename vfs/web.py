"""HTTP as plain stores speak it: small answers whole, and ranges of files of which the version is checked.

It hides urllib3: connections that are kept, deadlines, redirects, and its failures. Sources call it that are reached by
URLs (a web server, the hub, the Drive); what stands where, and which headers let one in, they know and this does not.
A header that lets one in goes to the host that it was given for and to no other that this one sends us to.

It asks once and does not retry. Any thread may enter. urllib3 is imported, and connections begin, with the first
request: that is after the daemon has forked. A proxy that the usual variables name (https_proxy, no_proxy) is used.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from vfs import answers, bulk
from vfs.errors import Changed, CorruptData, EgofsError, NotFound, SourceError, Timeout, Unavailable
from vfs.extent import http_range, parse_content_range

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

MOST_BYTES = 64 << 20
"""Of an answer that is taken whole. A page of a listing is some hundred KiB."""

WHOLE_BYTES = 1 << 20
"""Files up to this size are read from servers that give no ranges: the cache asks for such a file at once anyway."""

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_SECRET = {"authorization", "cookie", "proxy-authorization"}
_WORDS_BYTES = 64 << 10  # of what a server says beside an error
# Hosts whose connections are kept: a list of files may name many.
_HOSTS = 64
# What some servers say of files that are packed themselves, and not packed for the way (Apache's AddEncoding).
_PACKED_ITSELF = {"gzip": (".gz", ".tgz"), "x-gzip": (".gz", ".tgz")}


@dataclass(frozen=True)
class Answer:
    """What a server said. Headers by lower-case names; `url` is where it was said, after redirects."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of which ranges are wanted, and what is known of its version: an ETag, else when it was last changed (0:
    nothing is known, and whatever has this size is taken)."""

    url: str
    size_bytes: int
    etag: str = ""
    """As the server wrote it, with quotes, W/ in front where it is weak."""
    mtime_ns: int = 0


Judge = Callable[[str, Answer], EgofsError | None]
"""What a store means by an error, beyond what its status says; None where it says no more. Its first argument is to
stand in front of the message."""


class Web:
    """A client of one store; `judge` says what its errors mean. With `proxied` false no proxy is used."""

    def __init__(self, judge: Judge = lambda what, answer: None, *, proxied: bool = True) -> None:
        self._judge = judge
        self._proxied = proxied
        self._lock = threading.Lock()
        self._pools: dict[str, PoolManager] = {}  # by the proxy that they go through; under the lock
        self._proxies: dict[str, str] = {}  # by the server that they lead to: to look costs as much as a request

    def ask(
        self,
        method: str,
        what: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        most_bytes: int = MOST_BYTES,
        follow: bool = True,
        refused: bool = False,
        take: bool = True,
    ) -> Answer:
        """The whole answer, which is a success; with `follow` false it may be a redirect, with `refused` any error.
        Without `take` no body is waited for, and none is given.

        `what` stands in front of each message, and the URL, which may let one in, in none. Raises the types of
        vfs.errors as the status has it; SourceError for an answer of more than `most_bytes`, and for one that came
        packed although that was not asked for.
        """
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        with self._sent(method, what, url, sent, body=body, follow=follow) as (response, where):
            failed = response.status >= 400
            taken = _words(response) if failed else _taken(what, response, most_bytes) if take else b""
            answer = _answered(response, where, taken)
        if failed and not refused:
            raise self.failure(what, answer)
        if answer.body and not failed and (packed := _packed(answer.headers, answer.url)):
            raise SourceError(f"{what}: it came as {packed}, which was not asked for")
        return answer

    def read(self, what: str, file: File, start: int, length: int, headers: Mapping[str, str] | None = None) -> bytes:
        """Exactly these bytes of this version.

        Of a file of up to WHOLE_BYTES all may come, from a server without ranges, and the rest is thrown away.
        Raises Changed where another version is there, CorruptData where what came is not what was asked for,
        SourceError where the server gives no ranges, and what `ask` raises.
        """
        sent = {"Accept-Encoding": "identity", "Range": http_range(start, length), **_only(file), **(headers or {})}
        deadline = time.monotonic() + bulk.deadline_s(length)
        with self._sent("GET", what, file.url, sent) as (response, where):
            if response.status >= 400:
                raise self.failure(what, _answered(response, where, _words(response)))
            came = _require(what, file, start, length, response)
            with _told(what):
                data = bulk.drain(response, what, came, deadline)
        return data if came == length else data[start : start + length]

    def failure(self, what: str, answer: Answer) -> EgofsError:
        """What an error means here."""
        return self._judge(what, answer) or failure(what, answer)

    def close(self) -> None:
        """Ends the connections that are not in use."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    # -- one request

    @contextmanager
    def _sent(
        self,
        method: str,
        what: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        follow: bool = True,
    ) -> Iterator[tuple["BaseHTTPResponse", str]]:
        """The answer's head, its body to come, and where it came from; its connection is given back afterwards."""
        for _ in range(_MOST_REDIRECTS + 1):
            with _told(what):
                response = self._connections(url).request(
                    method, url, headers=headers, body=body, redirect=False, preload_content=False, decode_content=False
                )
            try:
                target = response.headers.get("Location", "") if response.status in _REDIRECTS and follow else ""
                if not target:
                    yield response, url
                    return
                if method == "POST":
                    raise SourceError(f"{what}: the server sends elsewhere, where what is sent must not go")
                url, headers = _redirected(what, url, target, headers)
            except Timeout:
                response.close()  # what is left of it is not waited for
                raise
            finally:
                _leave(response)
        raise SourceError(f"{what}: the server sends from one address to the next without end")

    def _connections(self, url: str) -> "PoolManager":
        server = "/".join(url.split("/", 3)[:3])
        with self._lock:
            if server not in self._proxies:
                self._proxies[server] = _proxy_for(server) if self._proxied else ""
            proxy = self._proxies[server]
            if proxy not in self._pools:
                import urllib3

                kept: Any = {
                    "num_pools": _HOSTS,
                    "maxsize": bulk.CONNECTIONS,
                    "retries": False,
                    "timeout": urllib3.Timeout(connect=bulk.CONNECT_S, read=bulk.IDLE_S),
                    "headers": {"User-Agent": "egofs"},
                }
                self._pools[proxy] = urllib3.ProxyManager(proxy, **kept) if proxy else urllib3.PoolManager(**kept)
            return self._pools[proxy]


def _proxy_for(url: str) -> str:
    """The proxy that leads to a URL, as the usual variables have it; "" where none does."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if not proxies:
        return ""
    try:
        there = urlsplit(url)
        proxy = proxies.get(there.scheme) or proxies.get("all") or ""
        return "" if not proxy or proxy_bypass(there.netloc.rpartition("@")[2]) else proxy
    except ValueError:
        return ""


def failure(what: str, answer: Answer) -> EgofsError:
    """What the status of an error means."""
    status = answer.status
    # 400 says that the request was wrong; S3, for whose errors the table was made, says so to whom it refuses.
    kind = NotFound if status == 410 else answers.meaning(status, "" if status == 400 else str(status))
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "no status that is known"
    if kind is Changed:
        return kind(f"{what}: it has been replaced: open it again")
    ours = kind(f"{what}: the server answered {status} ({phrase})")
    ours.retry_after_s = retry_after_s(answer.headers.get("retry-after", ""))
    return ours


def retry_after_s(value: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), 0 for what is none."""
    if value.isascii() and value.isdigit():
        return float(value)
    return max(0.0, moment_s(value) - time.time())


def moment_s(value: str) -> float:
    """Seconds of the epoch that a header's date means, 0 for what is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def mtime_ns(headers: Mapping[str, str]) -> int:
    """When the file was changed last, 0 where the server does not say."""
    return int(moment_s(headers.get("last-modified", ""))) * 1_000_000_000


def length(answer: Answer) -> int | None:
    """How large a file is of which this is the answer to HEAD, or to a GET of all; None where it does not say."""
    told = answer.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdigit() and not _packed(answer.headers, answer.url) else None


def _only(file: File) -> dict[str, str]:
    """Headers that have another version refused. A weak ETag cannot be asked for (RFC 9110, section 13.1.1)."""
    if file.etag:
        return {} if file.etag.startswith("W/") else {"If-Match": file.etag}
    if file.mtime_ns:
        return {"If-Unmodified-Since": formatdate(file.mtime_ns // 1_000_000_000, usegmt=True)}
    return {}


def _require(what: str, file: File, start: int, length: int, response: "BaseHTTPResponse") -> int:
    """How many bytes the body has: those of the range, or the whole file.

    Raises where an answer is of another version or range, before any of its body is read.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    etag = headers.get("etag", "")
    replaced = etag.removeprefix("W/") != file.etag.removeprefix("W/") if file.etag and etag else False
    if not file.etag and file.mtime_ns and mtime_ns(headers) not in (0, file.mtime_ns):
        replaced = True
    if replaced:
        raise Changed(f"{what}: it has been replaced: open it again")
    if packed := _packed(headers, file.url):
        raise SourceError(f"{what}: it came as {packed}, which was not asked for")
    if response.status == 206:
        try:
            came = parse_content_range(headers.get("content-range", ""))
        except ValueError as failure:
            raise CorruptData(f"{what}: {failure}") from failure
        if came[2] not in (None, file.size_bytes):
            raise (CorruptData if file.etag else Changed)(f"{what}: it came from a file of {came[2]} bytes")
        if came[:2] != (start, length):
            raise CorruptData(f"{what}: bytes of another range came: {headers.get('content-range')}")
    elif (start, length) != (0, file.size_bytes) and file.size_bytes > WHOLE_BYTES:
        raise SourceError(
            f"{what}: the whole file came instead of a range: this server gives no ranges, and without them "
            f"files of up to {WHOLE_BYTES >> 20} MiB can be read"
        )
    elif headers.get("content-length", str(file.size_bytes)) != str(file.size_bytes):
        raise (CorruptData if file.etag else Changed)(f"{what}: it has {headers['content-length']} bytes by now")
    else:
        return file.size_bytes
    return length


def _packed(headers: Mapping[str, str], url: str) -> str:
    """In what form a body came that was packed for the way; "" for the file's own bytes."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity") or urlsplit(url).path.lower().endswith(_PACKED_ITSELF.get(encoding, ())):
        return ""
    return encoding


def _redirected(what: str, url: str, target: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Where to go on, and with what: nothing that lets one in leaves its host, or its encryption."""
    try:
        there, here = urlsplit(urljoin(url, target)), urlsplit(url)
        same = origin(there) == origin(here)
    except ValueError as failure:
        raise SourceError(f"{what}: the server sends to an address that is none") from failure
    if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
        raise SourceError(f"{what}: the server sends to {there.scheme}://{there.hostname}, where this does not follow")
    if origin(here) == ("http", there.hostname, 80) and origin(there) == ("https", here.hostname, 443):
        same = True  # the same server, which does not want to be asked in clear
    kept = headers if same else {name: value for name, value in headers.items() if name.lower() not in _SECRET}
    return there.geturl(), kept


def origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    """The server that a URL is of (RFC 6454, section 4). Raises ValueError for a port that is none."""
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _leave(response: "BaseHTTPResponse") -> None:
    """Gives the connection back. What is left of a body would have to be read before another request can be sent."""
    left = getattr(response, "length_remaining", None)
    if left is not None and left <= _WORDS_BYTES:
        response.drain_conn()
    else:
        response.close()
    response.release_conn()


def _answered(response: "BaseHTTPResponse", url: str, body: bytes) -> Answer:
    return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, body, url)


def _words(response: "BaseHTTPResponse") -> bytes:
    """The first of what a server says beside an error; b"" where even that breaks off, or does not end."""
    try:
        with _told(""):
            return b"".join(_pieces("", response, _WORDS_BYTES))
    except EgofsError:
        return b""


def _taken(what: str, response: "BaseHTTPResponse", most_bytes: int) -> bytes:
    """The whole body of an answer."""
    with _told(what):
        return bulk.gathered(_pieces(what, response, most_bytes + 1), what, most_bytes)


def _pieces(what: str, response: "BaseHTTPResponse", most_bytes: int) -> Iterator[bytes]:
    """The first of a body as it comes, so that one that drips on and on is found out. Raises Timeout for that."""
    deadline = time.monotonic() + bulk.LONGEST_BODY_S
    left = most_bytes
    # Where a chunk of the transfer's encoding ends, there may be none without the body being over.
    while left > 0 and not response.closed:
        piece = response.read1(min(left, bulk.PIECE_BYTES), decode_content=False)
        left -= len(piece)
        yield piece
        if time.monotonic() > deadline:
            raise Timeout(f"{what}: {most_bytes - left} bytes came in {bulk.LONGEST_BODY_S:.0f} s, which is too slow")


def _failures() -> tuple[type[Exception], ...]:
    from urllib3.exceptions import HTTPError

    return (HTTPError, OSError)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Our failures for urllib3's, in words that name no URL."""
    try:
        yield
    except EgofsError:
        raise
    except _failures() as failure:
        raise _meaning(what, failure) from failure


def _meaning(what: str, failure: Any) -> EgofsError:
    from urllib3 import exceptions as known

    if isinstance(failure, known.SSLError):
        return SourceError(f"{what}: the server's certificate is not trusted, or TLS fails: {_first_line(failure)}")
    if isinstance(failure, known.NameResolutionError):
        return Unavailable(f"{what}: the host's name is not found: check it, and the network")
    if isinstance(failure, known.NewConnectionError):
        return Unavailable(f"{what}: nobody answers there")
    if isinstance(failure, known.TimeoutError | TimeoutError):
        return Timeout(f"{what}: no answer for {bulk.IDLE_S:.0f} s, or no connection in {bulk.CONNECT_S:.0f} s")
    if any(isinstance(each, known.IncompleteRead) for each in (failure, *failure.args)):
        return CorruptData(f"{what}: the answer ended too early")
    if isinstance(failure, known.LocationValueError):
        return SourceError(f"{what}: its address is none")
    return Unavailable(f"{what}: the connection was lost ({type(failure).__name__})")


def _first_line(failure: Exception) -> str:
    return str(failure).partition("\n")[0][:200]
