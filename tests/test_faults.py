"""Each fault of a store, met by a first read, in the middle of a stream, in a listing and in a stat: what comes of it.

Through the source, its retries, the file and the cache as a mount puts them together, with deadlines of tenths of a
second instead of tens. A fault that passes costs requests and nothing else; one that stays is the error that is
promised, and whoever waits is released. No fault ever gives other bytes, fewer bytes or other names.
"""

import itertools
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.driveserver import DriveServer
from tests.faults import (
    Body,
    Cut,
    Drip,
    Fault,
    HangUp,
    Late,
    Longer,
    OtherVersion,
    Redirect,
    Reset,
    Shift,
    Stall,
    Status,
    Truncate,
    Whole,
)
from tests.googletokens import Refuse
from tests.hubserver import HubServer
from tests.s3server import Request, S3Server
from tests.test_s3 import make_certificate, write_keys
from tests.test_sources import open_source
from tests.webserver import WebServer
from vfs import bulk
from vfs.cache import ChunkCache
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)
from vfs.objectfile import ObjectFile
from vfs.sources import Source, gdrive
from vfs.sources.retry import RetryingSource

DATA = random.Random(8).randbytes((9 << 20) + 1001)
NAMES = {"x.bin", "y.bin"}
FIRST = (5_000_000, 70_000)
"""A range that nobody has read near."""
LATE_S = 20.0
"""Longer than anybody here waits."""
PATIENCE_S = 0.6
"""What RetryingSource gives all tries together here."""
RELEASED_S = PATIENCE_S + 3.0
"""The last try begins within PATIENCE_S and takes at most 1 s; an S3 that is asked another way takes one more."""


@dataclass
class Store:
    """A store that can fail, and the way to it."""

    name: str
    server: Any
    source: RetryingSource
    cache: ChunkCache

    def file(self) -> ObjectFile:
        return ObjectFile(self.source, self.cache, self.source.stat("x.bin"), on_change=lambda: False)

    def fail(
        self, fault: Fault | None, times: int | None = None, only: Callable[[Request], bool] | None = None
    ) -> None:
        """The next so many requests (all, where None) meet the fault."""
        left = itertools.count() if times is None else iter(range(times))
        turn = threading.Lock()

        def faults(request: Request) -> Fault | None:
            with turn:
                return fault if (only is None or only(request)) and next(left, None) is not None else None

        self.server.requests.clear()
        self.server.faults = faults


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits are a twentieth of what they are."""
    for name, seconds in {"CONNECT_S": 0.3, "IDLE_S": 0.3, "LONGEST_BODY_S": 0.5}.items():
        monkeypatch.setattr(bulk, name, seconds)
    for name, value in {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def wrapped(inner: Source) -> RetryingSource:
    return RetryingSource(inner, total_s=PATIENCE_S, first_wait_s=0.02, longest_wait_s=0.1)


@pytest.fixture(params=["s3", "http"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    root = tmp_path / "root"
    (root / "bucket").mkdir(parents=True)
    for name in NAMES:
        (root / f"bucket/{name}").write_bytes(DATA)
    server: S3Server | WebServer = S3Server(root) if request.param == "s3" else WebServer(root)
    cache = ChunkCache(tmp_path / "cache", 1 << 30)
    with server:
        if isinstance(server, S3Server):
            inner = open_source("s3://bucket", endpoint_url=server.endpoint_url)
        else:
            inner = open_source(f"{server.url}/bucket/")
        store = Store(request.param, server, wrapped(inner), cache)
        yield store
        server.faults = lambda request: None
        cache.close()
        store.source.close()
    assert {each.method for each in server.requests} <= {"GET", "HEAD", "PROPFIND"}


def first_read(store: Store) -> Callable[[], None]:
    file = store.file()
    start, length = FIRST

    def go() -> None:
        assert file.read(start, length) == DATA[start : start + length]

    return go


def stream(store: Store) -> Callable[[], None]:
    """The rest of a file of which the first has been read in turn, so that more is fetched ahead."""
    file = store.file()
    step = 256 << 10
    for at in (0, step):
        assert file.read(at, step) == DATA[at : at + step]
    store.cache.settle()

    def go() -> None:
        for at in range(2 * step, len(DATA), step):
            assert file.read(at, step) == DATA[at : at + step]

    return go


def listing(store: Store) -> Callable[[], None]:
    list(store.source.list(""))  # a web server has been found out by now to have index pages

    def go() -> None:
        assert {each.name for each in store.source.list("")} == NAMES

    return go


def stat(store: Store) -> Callable[[], None]:
    store.source.stat("x.bin")

    def go() -> None:
        assert store.source.stat("x.bin").size_bytes == len(DATA)

    return go


MEETINGS = {"first read": first_read, "stream": stream, "listing": listing, "stat": stat}
READS = ("first read", "stream")
ALL = (*READS, "listing", "stat")

PASSING: list[tuple[Fault, tuple[str, ...]]] = [
    (Status(500), ALL),
    (Status(502, "BadGateway"), ALL),
    (Status(503, "SlowDown"), ALL),
    (Status(429, "TooManyRequests"), ALL),
    (Status(408, "RequestTimeout"), ALL),
    (HangUp(), ALL),
    (Reset("once"), ALL),
    (Reset("head"), ALL),
    (Reset(7), (*READS, "listing")),
    (Truncate(0), (*READS, "listing")),
    (Truncate(50), (*READS, "listing")),
    (Late(LATE_S), ALL),
    (Stall(LATE_S, 0), (*READS, "listing")),
    (Stall(LATE_S, 50), (*READS, "listing")),
    (Drip(1, 0.05), (*READS, "listing")),
    (Shift(1), READS),
    (Shift(4096), READS),
    (Cut(1), READS),
    (Longer(1), READS),
    (Longer(70_000), READS),
    (Longer(5000, announced=False), READS),
]
"""Faults after which the same question is answered right, and where they are met."""


def named(values: list[Any]) -> list[str]:
    """Names of parameters: what makes the faults."""
    return [repr(value[0] if isinstance(value, tuple) else value).replace(", headers={}", "") for value in values]


@pytest.mark.parametrize(("fault", "meetings"), PASSING, ids=named(PASSING))
def test_a_fault_that_passes_costs_requests_and_nothing_else(
    store: Store, fault: Fault, meetings: tuple[str, ...]
) -> None:
    for meeting in meetings:
        go = MEETINGS[meeting](store)
        store.fail(fault, times=1)
        before = store.source.counters.retries
        go()
        # Who cannot explain an answer asks once more another way, and that may be all it takes.
        assert store.source.counters.retries - before <= 1, meeting
        is_seen = meeting != "stream" and not isinstance(fault, Longer)
        assert len(store.server.requests) >= 1 + is_seen, meeting
        store.fail(None)
    assert store.source.counters.errors == 0


STAYING: list[tuple[Fault, type[EgofsError], tuple[str, ...]]] = [
    (Status(500), Unavailable, ALL),
    (Status(503, "SlowDown"), Throttled, ALL),
    (Status(429, "TooManyRequests"), Throttled, ALL),
    (HangUp(), Unavailable, ALL),
    (Reset("once"), Unavailable, ALL),
    (Reset("head"), Unavailable, ALL),
    (Truncate(50), CorruptData, READS),
    (Late(LATE_S), Timeout, ALL),
    (Stall(LATE_S, 50), Timeout, (*READS, "listing")),
    (Drip(1, 0.05), Timeout, READS),
    (Shift(1), CorruptData, READS),
    (Cut(1), CorruptData, READS),
    (Longer(1), CorruptData, READS),
    (Status(403, "AccessDenied"), AccessDenied, ALL),
    (Status(401, "Unauthorized"), AccessDenied, ALL),
    (Status(404, "NoSuchKey"), Changed, READS),
    (Status(404, "NoSuchKey"), NotFound, ("stat",)),
    (Status(412, "PreconditionFailed"), Changed, READS),
    (OtherVersion(), Changed, READS),
    (Redirect(), SourceError, ALL),
]
"""Faults that never end, and the failure that is promised."""


@pytest.mark.parametrize(("fault", "kind", "meetings"), STAYING, ids=named(STAYING))
def test_a_fault_that_stays_is_the_promised_failure_and_nobody_waits_for_ever(
    store: Store, fault: Fault, kind: type[EgofsError], meetings: tuple[str, ...]
) -> None:
    for meeting in meetings:
        go = MEETINGS[meeting](store)
        store.fail(fault)
        began = time.monotonic()
        with pytest.raises(EgofsError) as raised:
            go()
        # In a stream, what is fetched ahead is waited for first.
        assert time.monotonic() - began < (2 if meeting == "stream" else 1) * RELEASED_S, meeting
        assert isinstance(raised.value, kind), (meeting, raised.value)
        # Nothing of it is remembered: when the fault is over, the same question has its answer.
        store.fail(None)
        store.cache.settle()  # of what was being fetched ahead, waiters are told the failure
        go()


@pytest.mark.parametrize("fault", [Truncate(50), Shift(1), Cut(1), Longer(1)], ids=repr)
def test_wrong_bytes_are_fetched_three_times_and_never_kept(store: Store, fault: Fault) -> None:
    file, (start, length) = store.file(), FIRST
    store.source.total_s = 20  # boto3 may have to be imported first
    store.fail(fault)
    before = store.source.counters.requests
    with pytest.raises(CorruptData):
        file.read(start, length)
    assert store.source.counters.requests - before == 3
    store.cache.settle()
    assert file.cached_bytes() == 0
    store.fail(None)
    assert file.read(start, length) == DATA[start : start + length]


def test_a_whole_object_in_the_place_of_a_range_is_never_taken_for_it(store: Store) -> None:
    """An S3 that sends it is asked again; a web server that does has no ranges, and is not asked again."""
    file, (start, length) = store.file(), FIRST
    store.fail(Whole(), times=1 if store.name == "s3" else None)
    if store.name == "http":
        with pytest.raises(SourceError, match="no ranges"):
            file.read(start, length)
        assert len(store.server.requests) == 1
        store.fail(None)
    assert file.read(start, length) == DATA[start : start + length]


@pytest.mark.parametrize("body", [b"<html>please log in</html>", bytes(70_000), b""], ids=["page", "zeros", "nothing"])
def test_a_page_instead_of_a_file_or_a_listing_is_never_taken_for_it(store: Store, body: bytes) -> None:
    file, (start, length) = store.file(), FIRST
    list(store.source.list(""))
    store.fail(Body(body))
    with pytest.raises((CorruptData, SourceError)):
        file.read(start, length)
    if store.name == "s3":
        with pytest.raises((CorruptData, SourceError, Unavailable)):
            list(store.source.list(""))
    store.fail(None)
    assert file.read(start, length) == DATA[start : start + length]
    assert {each.name for each in store.source.list("")} == NAMES


def test_a_version_that_changes_in_the_middle_of_a_stream_is_never_mixed(store: Store, tmp_path: Path) -> None:
    file = store.file()
    new = random.Random(9).randbytes(len(DATA))
    step = 512 << 10
    at = 0
    while at < 3 << 20:
        assert file.read(at, step) == DATA[at : at + step]
        at += step
    path = tmp_path / "root/bucket/x.bin"
    path.with_suffix(".new").write_bytes(new)
    path.with_suffix(".new").replace(path)

    def read_on() -> None:
        for further in range(at, len(DATA), step):
            assert file.read(further, step) == DATA[further : further + step][:step]

    with pytest.raises(Changed):
        read_on()
    fresh = store.file()
    assert fresh.read(0, len(DATA)) == new
    assert file.read(0, step) == DATA[:step], "what was cached of the old version is still its"


def test_retry_after_is_waited_out(store: Store) -> None:
    go = stat(store)
    store.source.total_s = 5
    store.fail(Status(503, "SlowDown", {"Retry-After": "1"}), times=1)
    began = time.monotonic()
    go()
    assert time.monotonic() - began >= 1.0
    assert len(store.server.requests) == 2


def test_nobody_at_the_address_is_unavailable_and_its_return_is_noticed(store: Store) -> None:
    file, (start, length) = store.file(), FIRST
    port = store.server.port
    # The address stays taken, and refuses: nobody listens there.
    http = store.server.http if isinstance(store.server, WebServer) else store.server._http
    http.shutdown()
    http.socket.close()
    with store.server.lock:
        connections = list(store.server.connections)
    for connection in connections:
        connection.shutdown(socket.SHUT_RDWR)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        file.read(start, length)
    assert time.monotonic() - began < RELEASED_S
    again = type(store.server)(store.server.root, port=port)
    with again:
        assert file.read(start, length) == DATA[start : start + length]


def test_an_address_that_takes_no_connection_is_given_up(store: Store, tmp_path: Path) -> None:
    """A host that is switched off answers nothing at all: here, one whose queue of connections is full."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        full = [socket.socket() for _ in range(4)]
        try:
            for each in full:
                each.setblocking(False)
                each.connect_ex(deaf.getsockname())
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            inner = open_source("s3://bucket", endpoint_url=url) if store.name == "s3" else open_source(f"{url}/x/")
            source = wrapped(inner)
            began = time.monotonic()
            with pytest.raises((Timeout, Unavailable)):
                source.stat("x.bin")
            assert time.monotonic() - began < RELEASED_S + 3
            source.close()
        finally:
            for each in full:
                each.close()


@pytest.mark.parametrize("slow", [False, True], ids=["in time", "never"])
def test_a_slow_tls_handshake_is_waited_for_and_given_up(
    store: Store, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path / "authority.pem", tmp_path / "chain.pem")
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "chain.pem")
    server = type(store.server)(tmp_path / "root")
    http = server.http if isinstance(server, WebServer) else server._http
    http.handshake_s = LATE_S if slow else 0.1
    with server:
        server.wrap(tls)
        url = f"https://localhost:{server.port}"
        source = wrapped(
            open_source("s3://bucket", endpoint_url=url) if store.name == "s3" else open_source(f"{url}/bucket/")
        )
        if slow:
            began = time.monotonic()
            with pytest.raises((Timeout, Unavailable)):
                source.stat("x.bin")
            assert time.monotonic() - began < RELEASED_S + 3
            assert server.requests == []
        else:
            obj = source.stat("x.bin")
            assert source.read(obj, *FIRST) == DATA[FIRST[0] : sum(FIRST)]
        source.close()


def test_redirects_are_followed_where_a_web_server_sends_to_the_same_file(store: Store, tmp_path: Path) -> None:
    if store.name != "http":
        pytest.skip("an S3 that sends elsewhere means another region, which tests/test_s3.py looks at")
    file = store.file()
    with WebServer(tmp_path / "root") as other:
        store.fail(Redirect(f"{other.url}/bucket/x.bin"))
        start, length = FIRST
        assert file.read(start, length) == DATA[start : start + length]
        assert len(other.requests) == 1


def test_ended_keys_are_refused_and_those_that_take_their_place_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root/bucket").mkdir(parents=True)
    (tmp_path / "root/bucket/x.bin").write_bytes(DATA)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    write_keys(tmp_path / "keys", "first")
    with S3Server(tmp_path / "root", access_key_id="first") as server:
        source = wrapped(open_source("s3://bucket", endpoint_url=server.endpoint_url, aws_profile="lab"))
        obj = source.stat("x.bin")
        expired = Status(400, "ExpiredToken")
        server.faults = lambda request: expired if "first" in request.headers.get("authorization", "") else None
        for ask in (lambda: source.read(obj, 0, 10), lambda: source.stat("x.bin"), lambda: list(source.list(""))):
            server.requests.clear()
            with pytest.raises(AccessDenied):
                ask()
            assert 1 <= len(server.requests) <= 5, "it is not tried again and again"
        server.access_key_id = "second"
        write_keys(tmp_path / "keys", "second")
        assert source.read(obj, 0, 10) == DATA[:10]
        assert source.stat("x.bin") == obj
        assert [each.name for each in source.list("")] == ["x.bin"]
        source.close()


# -- the Drive and the hub: what their stand-ins have of it


HTTP_FAULTS: list[Fault] = [
    Status(500), Status(503), HangUp(), Reset("once"), Reset("head"), Reset(7), Truncate(50), Late(LATE_S),
    Stall(LATE_S, 50), Cut(1), Shift(1), Longer(1),
]  # fmt: skip


@pytest.mark.parametrize("fault", HTTP_FAULTS, ids=repr)
def test_a_fault_of_the_hub_or_its_network_that_passes_is_not_noticed(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "nothing"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as hub:
        repo = hub.repository("datasets", "org/name")
        repo.put("x.bin", DATA)
        repo.put("y.txt", b"small")
        source = wrapped(open_source("hf://datasets/org/name", endpoint_url=hub.url))
        source.total_s = 5
        assert {each.name for each in source.list("")} == {"x.bin", "y.txt"}
        obj, small = source.stat("x.bin"), source.stat("y.txt")
        for server in (hub, hub.network):
            left = iter([fault])
            server.faults = lambda request, left=left: next(left, None) if request.range else None
            assert source.read(obj, *FIRST) == DATA[FIRST[0] : sum(FIRST)]
            assert source.read(small, 0, 5) == b"small"
        left = iter([fault if not isinstance(fault, Cut | Shift | Longer) else None])
        hub.faults = lambda request: next(left, None)
        assert source.read(obj, 0, 1000) == DATA[:1000]
        source.close()


DRIVE_FAULTS = [
    *(fault for fault in HTTP_FAULTS if not isinstance(fault, Status)),
    Refuse(403, "userRateLimitExceeded"),
    Refuse(429, "rateLimitExceeded"),
    Refuse(500, "backendError"),
    Refuse(401, "authError"),
]


@pytest.mark.parametrize("fault", DRIVE_FAULTS, ids=repr)
def test_a_fault_of_the_drive_that_passes_is_not_noticed(fault: Fault | Refuse, tmp_path: Path) -> None:
    with DriveServer() as drive:
        drive.file("x.bin", DATA)
        drive.write_credentials(tmp_path / "credentials.json")
        options = gdrive.Options(credentials=tmp_path / "credentials.json", endpoint_url=drive.endpoint_url)
        source = wrapped(gdrive.open_source(f"gdrive://{drive.root}", options))
        assert [each.name for each in source.list("")] == ["x.bin"]
        obj = source.stat("x.bin")
        left = iter([fault])
        drive.faults = lambda request: next(left, None) if request.kind == "media" else None
        assert source.read(obj, *FIRST) == DATA[FIRST[0] : sum(FIRST)]
        source.close()
