"""A bucket of an S3, asked by HTTP alone: a mount reaches its first byte before boto3 would have been imported.

It hides Signature Version 4 (docs.aws.amazon.com, "Authenticating Requests: Using the Authorization Header"), and
connections that are kept. The S3 source calls it, with a place and keys that it was told (awssettings.py). It follows
no redirect, and knows no other region and no other keys than those that it was made with: it says that it was refused,
or that it cannot explain what came. Ranges of objects are obstore's (`ranges`).

It asks once and does not retry. Any thread may enter; a request has a connection to itself.
"""

import contextlib
import functools
import hashlib
import hmac
import http.client
import os
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from vfs import bucketlist, bulk
from vfs.bulk import Keys, Place, Ranges, Refused, Unexplained
from vfs.errors import Timeout

_T = TypeVar("_T")
_NO_BODY = hashlib.sha256(b"").hexdigest()


class Bucket:
    """One bucket at its place. `keys` sign each request; without, nothing is signed."""

    def __init__(self, place: Place, keys: Keys | None) -> None:
        self.place = place
        self.keys = keys
        self.ranges = Ranges(place, (lambda: keys) if keys else None)
        url = urlsplit(place.url)
        self._is_tls = url.scheme == "https"
        self._address = url.hostname or "", url.port or (443 if self._is_tls else 80)
        # Without the port that is the scheme's own, as it is signed.
        self._host = url.netloc.removesuffix(":443" if self._is_tls else ":80")
        self._path = url.path
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[http.client.HTTPConnection] = []  # the last used last; under the lock

    def page(self, what: str, wanted: Mapping[str, str]) -> bucketlist.ListPage:
        """The answer to ListObjectsV2, its parameters by the names that boto3 has for them.

        Raises Timeout, Refused, Unexplained; so does `head`.
        """
        query = {_PARAMETERS[name]: value for name, value in wanted.items()}
        _, body = self._ask("GET", what, self._path or "/", {"list-type": "2", "encoding-type": "url", **query})
        page = _understood(lambda: bucketlist.parse(body))
        if page is None:
            raise Unexplained("the answer is no listing")
        return page

    def head(self, what: str, key: str) -> Mapping[str, Any]:
        """What HEAD tells of an object, by the names that boto3 has for it."""
        headers, _ = self._ask("HEAD", what, f"{self._path}/{quote(key, safe='/~')}", {})
        return _understood(
            lambda: {
                "ContentLength": int(headers["content-length"]),
                "LastModified": parsedate_to_datetime(headers["last-modified"]),
                "ETag": headers.get("etag", ""),
            }
        )

    def region(self, what: str) -> str:
        """The bucket's region, which HEAD on it tells to everybody who may not enter; "" where it does not.

        Unsigned, as what is wrong with the keys has no part in it. Raises Timeout, Unexplained.
        """
        try:
            told, _ = self._ask("HEAD", what, self._path or "/", {}, signed=False)
        except Refused as refused:
            told = refused.headers
        return told.get("x-amz-bucket-region", "")

    def close(self) -> None:
        """Ends the connections that are not in use; those that are end with their answers."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(
        self, method: str, what: str, path: str, query: Mapping[str, str], *, signed: bool = True
    ) -> tuple[Mapping[str, str], bytes]:
        """The headers, by lower-case names, and the body of an answer that is 200."""
        text = "&".join(f"{name}={quote(value, safe='~')}" for name, value in sorted(query.items()))
        headers = {"Host": self._host, "User-Agent": "egofs"}
        if self.keys and signed:
            now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            headers |= signature(method, self._host, path, text, self.keys, self.place.region, now)
        with self._telling(what, "Connect"):
            connection = self._taken() or self._connected()
        with self._telling(what, "Read"), _closed_on_failure(connection):
            connection.request(method, f"{path}?{text}" if text else path, headers=headers)
            answer = connection.getresponse()
            body = _whole(answer)
        self._keep(connection)
        told = {name.lower(): value for name, value in answer.getheaders()}
        if answer.status != 200:
            raise Refused(answer.status, body.decode(errors="replace"), told)
        return told, body

    @contextlib.contextmanager
    def _telling(self, what: str, step: str) -> Iterator[None]:
        """Our failures for those of sockets: of a timeout in boto3's words, of others nothing is known."""
        try:
            yield
        except TimeoutError as failure:
            raise Timeout(f'{what}: {step} timeout on endpoint URL: "{self.place.url}"') from failure
        except (OSError, http.client.HTTPException, ValueError) as failure:  # ValueError: a host that cannot be encoded
            raise Unexplained(f"{type(failure).__name__}: {failure}") from failure

    # -- connections ------------------------------------------------------------------------------------------

    def _taken(self) -> http.client.HTTPConnection | None:
        """A kept connection, if there is one whose other end has not closed it in the meantime."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):  # nothing can have come but its end
                return connection
            connection.close()

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        """For the next request, unless the store wants it closed."""
        with self._lock:
            if connection.sock is not None and not self._closed and len(self._idle) < bulk.CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        if self._is_tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *self._address, timeout=bulk.CONNECT_S, context=_trusting(_authorities())
            )
        else:
            connection = http.client.HTTPConnection(*self._address, timeout=bulk.CONNECT_S)
        with _closed_on_failure(connection):
            connection.connect()
            connection.sock.settimeout(bulk.IDLE_S)
        return connection


def _whole(answer: http.client.HTTPResponse) -> bytes:
    """The body. Raises TimeoutError for one that drips on and on, and IncompleteRead for one that ends too early."""
    deadline = time.monotonic() + bulk.LONGEST_BODY_S
    parts = []
    while piece := answer.read1(bulk.PIECE_BYTES):
        parts.append(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("it is too slow")
    if answer.length:
        raise http.client.IncompleteRead(b"".join(parts), answer.length)
    answer.read()  # nothing more, and only this tells the connection so
    return b"".join(parts)


@contextlib.contextmanager
def _closed_on_failure(connection: http.client.HTTPConnection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@functools.cache
def _trusting(authorities: str) -> ssl.SSLContext:
    """With the authorities that boto3 trusts, which are not the system's: what both accept must not differ.

    One for all buckets: it takes 17 ms and 0.7 MB to make.
    """
    return ssl.create_default_context(cafile=authorities)


def _authorities() -> str:
    """The file of those that botocore trusts: certifi's where that is installed, else its own."""
    for package in ("certifi", "botocore"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            file = os.path.join(folder, "cacert.pem")
            if os.path.isfile(file):
                return file
    raise FileNotFoundError("no authorities are installed")


# -- what is sent, and what comes -------------------------------------------------------------------------------

_PARAMETERS = {
    "Prefix": "prefix",
    "Delimiter": "delimiter",
    "ContinuationToken": "continuation-token",
    "StartAfter": "start-after",
}


def signature(method: str, host: str, path: str, query: str, keys: Keys, region: str, now: str) -> dict[str, str]:
    """The headers that sign a request without a body. Path and query as they are sent, the query in order."""
    key_id, secret, token = keys
    signed = {"host": host, "x-amz-content-sha256": _NO_BODY, "x-amz-date": now}
    if token:
        signed["x-amz-security-token"] = token
    names = ";".join(signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    request = "\n".join([method, path, query, lines, names, _NO_BODY])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    proof = hmac.digest(key, text.encode(), "sha256").hex()
    sent = {name: value for name, value in signed.items() if name != "host"}
    return {
        **sent,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={proof}",
    }


def _understood(reading: Callable[[], _T]) -> _T:
    """What an answer says. What makes no sense here may do so elsewhere, or is told better there."""
    try:
        return reading()
    except (ValueError, KeyError) as failure:
        raise Unexplained(f"{type(failure).__name__}: {failure}") from failure
