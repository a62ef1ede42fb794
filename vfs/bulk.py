"""Ranges of objects over HTTP: many at a time, and cheap.

It hides obstore (object_store, which is Rust): its stores, what it would take from the environment, and its failures,
most of which it tells in words only. A range of 64 KiB costs 0.13 ms of CPU here and 1.1 ms in boto3, and no Python
lock is held while it comes (measured on loopback, 16 threads).

The S3 source calls it, with an address and keys that it found out; its deadlines, and `drain`, are those of other
clients too. It knows no SDK, and nothing of what stands where
in a bucket. It asks once and does not retry. Any thread may enter. obstore is imported, and its threads
begin, with the first range: that is after the daemon has forked.
"""

import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from vfs.errors import Changed, CorruptData, EgofsError, SourceError, Timeout, Unavailable
from vfs.extent import Buffer

if TYPE_CHECKING:
    from obstore.store import S3Store

CONNECT_S = 5.0
IDLE_S = 10.0  # without a byte
# A body slower than this is given up: 1 MiB then has 42 s, and a server that drips a byte a second does not hold a
# reader for days. A minute is the most that any one answer may take, whatever was asked for.
_LOWEST_BYTES_PER_S = 32 << 10
LONGEST_BODY_S = 60.0
# A store of obstore's has one deadline for all its answers, so there is one for each class of lengths, up to these.
# Looking at the clock between the pieces of a body would be exact, and costs half as much CPU again (measured).
_CLASSES_BYTES = (64 << 10, 256 << 10, 1 << 20)
CONNECTIONS = 64  # kept open while nothing is asked
# One receive; sockets give 64 to 200 KiB at a time, and a larger buffer is only allocated and shrunk again.
PIECE_BYTES = 256 << 10

# obstore asks for keys again five minutes before they end, that is ten after they were given; so long at least live
# those that botocore gives (its mandatory refresh).
_KEYS_LIVE = timedelta(minutes=15)

# object_store takes from AWS_* variables whatever it was not told, and a mount acts on its options alone. These are
# said only for that: none of them has a part in reading. A test sets every variable that there is.
_SAID_FOR_SILENCE = {
    "checksum_algorithm": "SHA256",
    "conditional_put": "etag",
    "copy_if_not_exists": "multipart",
    "disable_bulk_delete": "false",
    "disable_tagging": "false",
    "imdsv1_fallback": "false",
    "request_payer": "false",
    "s3_express": "false",
    "server_side_encryption": "AES256",
    "sse_bucket_key_enabled": "false",
    "unsigned_payload": "false",
}


class Refused(Exception):
    """The store answered with an HTTP error: what it means is the caller's to know. Headers are in lower case."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.body = body
        self.headers = headers or {}  # obstore keeps them to itself


class Unexplained(Exception):
    """No answer, or one that the client's words do not tell the meaning of: it takes another client to find out."""


Keys = tuple[str, str, str]
"""Access key, secret, and token ("" for none)."""


@dataclass(frozen=True)
class Place:
    """Where a bucket is, and how one gets there."""

    url: str
    """Of the bucket itself: a key is appended to it, whichever the style of addressing."""
    region: str
    proxy_url: str = ""
    root_certificates: bytes = b""
    """In PEM, trusted besides the system's own."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version of an object: `etag` without its quotes, "" where the store has none."""

    key: str
    etag: str
    size_bytes: int


def deadline_s(length: int) -> float:
    """How long an answer of so many bytes may take, from the asking to the last byte."""
    return min(LONGEST_BODY_S, IDLE_S + length / _LOWEST_BYTES_PER_S)


def drain(body: Any, what: str, length: int, deadline: float) -> bytes:
    """Exactly `length` bytes of a body that has `read1`, and has no more. `deadline` is one of time.monotonic.

    Raises CorruptData for fewer and for more bytes, Timeout, and what reading raises.
    """
    parts = []
    missing = length
    while piece := body.read1(min(missing, PIECE_BYTES) or 1):
        parts.append(piece)
        missing -= len(piece)
        if missing < 0:
            raise CorruptData(f"{what}: more bytes came")
        if missing and time.monotonic() > deadline:
            raise Timeout(f"{what}: {length - missing} bytes came so far, which is too slow")
    if missing:
        raise CorruptData(f"{what}: the answer ended after {length - missing} bytes")
    return b"".join(parts)


def gathered(pieces: Iterable[bytes], what: str, most_bytes: int) -> bytes:
    """A body of unknown length, from its pieces as they come. Raises SourceError where it is longer than any answer
    needs to be, Timeout where it takes longer than one may, and what the pieces raise."""
    parts, total, deadline = [], 0, time.monotonic() + LONGEST_BODY_S
    for part in pieces:
        parts.append(part)
        total += len(part)
        if total > most_bytes:
            raise SourceError(f"{what}: the answer has more than {most_bytes >> 20} MiB, which it cannot need")
        if time.monotonic() > deadline:
            raise Timeout(f"{what}: {total} bytes came in {LONGEST_BODY_S:.0f} s, which is too slow")
    return b"".join(parts)


def can_name(key: str) -> bool:
    """Whether obstore can ask for this key: it takes keys for paths, with no empty parts nor . and .. in them."""
    return not re.search(r"(?:^|/)\.{0,2}(?:/|\Z)|[\x00-\x1f\x7f]", key)


class Ranges:
    """The objects of one bucket of an S3. `keys` gives those that are valid now; without, nothing is signed."""

    def __init__(self, place: Place, keys: Callable[[], Keys] | None) -> None:
        self.place = place
        self._keys = keys
        self._lock = threading.Lock()
        self._stores: dict[float, S3Store] = {}  # by the deadline of their answers; under the lock

    def read(self, what: str, wanted: Wanted, start: int, length: int) -> Buffer:
        """The bytes, from one GET for this version only, in memory that obstore allocated.

        Raises Changed, CorruptData, Timeout and Unavailable with `what` in front, and Refused and Unexplained.
        """
        store, limit_s = self._store(length)
        import obstore
        from obstore.exceptions import BaseError

        options: Any = {"range": (start, start + length)}
        if wanted.etag:
            options["if_match"] = f'"{wanted.etag}"'
        try:
            answer = obstore.get(store, wanted.key, options=options)
            _require_version(answer.meta, what, wanted)
            data = memoryview(answer.bytes())
        except (BaseError, FileNotFoundError) as failure:
            raise _meaning(str(failure), what, limit_s) from failure
        if len(data) != length:
            raise CorruptData(f"{what}: {len(data)} bytes came")
        return data

    def asks_as(self, other: "Ranges") -> bool:
        """Whether the other would be answered the same: both ask at one place, with one's keys."""
        return self.place == other.place and (self._keys and self._keys()) == (other._keys and other._keys())

    def _store(self, length: int) -> tuple["S3Store", float]:
        """The store for ranges of this length, and the deadline that it has."""
        size_class = bisect_left(_CLASSES_BYTES, length)
        limit_s = deadline_s(_CLASSES_BYTES[size_class]) if size_class < len(_CLASSES_BYTES) else LONGEST_BODY_S
        with self._lock:
            if limit_s not in self._stores:
                self._stores[limit_s] = self._open(limit_s)
            return self._stores[limit_s], limit_s

    def _open(self, limit_s: float) -> "S3Store":
        from obstore.store import S3Store

        client: Any = {
            "allow_http": self.place.url.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=IDLE_S),
            "timeout": timedelta(seconds=limit_s),
            "pool_max_idle_per_host": str(CONNECTIONS),
            # Without a proxy of ours it would look for one by rules of its own; "all excluded" is how to say none.
            "proxy_url": self.place.proxy_url or "http://127.0.0.1:9",
        }
        if not self.place.proxy_url:
            client["proxy_excludes"] = "*,0.0.0.0/0,::/0"
        if self.place.root_certificates:
            client["root_certificate"] = self.place.root_certificates
        config: Any = {
            **_SAID_FOR_SILENCE,
            "endpoint": self.place.url,
            "aws_endpoint_url_s3": self.place.url,  # goes before the other, and has a variable of its own
            "virtual_hosted_style_request": True,  # that is: the address has the bucket in it already
            "region": self.place.region,
            "skip_signature": self._keys is None,
        }
        return S3Store(
            "bucket",  # a word for its messages, since the address has the bucket in it
            config=config,
            client_options=client,
            retry_config={"max_retries": 0},
            credential_provider=self._credential if self._keys else None,
        )

    def _credential(self) -> Any:
        assert self._keys is not None
        access_key, secret_key, token = self._keys()
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token or None,
            "expires_at": datetime.now(UTC) + _KEYS_LIVE,
        }


def _require_version(meta: Any, what: str, wanted: Wanted) -> None:
    """Raises where an answer is of another version, before its body is read. obstore has compared the range."""
    etag = (meta["e_tag"] or "").strip('"')
    if wanted.etag and etag not in ("", wanted.etag):
        raise Changed(f"{what}: the object has been replaced: open it again")
    if meta["size"] != wanted.size_bytes:
        raise CorruptData(f"{what}: it came from an object of {meta['size']} bytes")


# What its words are when the store answered an error, and when it did not answer. The tests hold these against the
# installed version: where they change, failures are Unexplained and cost one more request.
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})\b[^:\n]*: (.*?)(?:\n\nDebug source:|\Z)", re.DOTALL)
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
# A connection that cannot be made (kind Connect) is Unexplained on purpose: no store is burdened by being asked once
# more, and what a resolver, proxy or certificate has against it is told better elsewhere.
_MEANING_OF_KIND: dict[str, type[EgofsError]] = {
    "Timeout": Timeout,
    "Interrupted": Unavailable,
    "Request": Unavailable,
}


def _meaning(words: str, what: str, limit_s: float) -> Exception:
    """The failure that obstore's words are about."""
    if answered := _STATUS.search(words):
        return Refused(int(answered[1]), answered[2])
    if "redirect without LOCATION" in words:  # it tells neither the status nor the rest
        return Refused(301, "")
    if "IncompleteBody" in words:
        return CorruptData(f"{what}: the answer ended too early")
    kind = _KIND.search(words)
    meaning = _MEANING_OF_KIND.get(kind[1]) if kind else None
    if meaning is Timeout:
        return Timeout(f"{what}: nothing came for {IDLE_S:g} s, or not all in {limit_s:g} s, which is too slow")
    line = words.partition("\n")[0]
    return meaning(f"{what}: the connection was lost: {line}") if meaning else Unexplained(line)
