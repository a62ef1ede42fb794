"""S3 in particular: requests and their number, hostile answers, regions, credentials, and every error botocore has."""

import json
import logging
import os
import re
import ssl
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import botocore.parsers
import obstore
import obstore.exceptions
import pytest
import urllib3.exceptions

from tests.faults import Body, Cut, Drip, Fault, Garble, HangUp, Shift, Stall, Status, Truncate, Whole
from tests.s3server import Request, S3Server
from tests.test_sources import KEYS, ODD_NAMES, moto_endpoint, open_source
from vfs import awssettings, boto, bulk
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)
from vfs.sources import Listed, Source
from vfs.sources.ahead import AheadSource
from vfs.sources.s3 import S3Buckets, S3Source

DATA = bytes(range(256)) * 400  # 102,400 bytes


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of credentials, with a profile `lab`; keys without a profile come from the environment."""
    file = tmp_path / "credentials"
    write_keys(file, "old")
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return file


def write_keys(file: Path, key_id: str) -> None:
    file.write_text(f"[lab]\naws_access_key_id = {key_id}\naws_secret_access_key = secret\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    folder = tmp_path / "store/bucket/videos"
    folder.mkdir(parents=True)
    (folder / "x.mp4").write_bytes(DATA)
    with S3Server(tmp_path / "store") as server:
        yield server


@pytest.fixture
def opened(server: S3Server) -> Iterator[Callable[..., S3Source]]:
    """Opens the bucket with options; every source is closed at the end, and no verb that writes was ever sent."""
    sources: list[S3Source] = []

    def opened(url: str = "s3://bucket", **options: object) -> S3Source:
        source = open_source(url, endpoint_url=server.endpoint_url, **options)
        assert isinstance(source, S3Source)
        sources.append(source)
        return source

    yield opened
    for source in sources:
        source.close()
    assert {request.method for request in server.requests} <= {"GET", "HEAD"}


@pytest.fixture
def source(opened: Callable[..., S3Source]) -> S3Source:
    return opened()


@pytest.fixture
def boto3_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket is asked directly, as where address or keys are not ordinary."""
    monkeypatch.setattr(awssettings, "find", lambda *_, **__: None)


@pytest.fixture(params=["directly", "through boto3"])
def in_both_ways(request: pytest.FixtureRequest) -> None:
    """Runs a test with buckets that are asked directly, and again with those that only boto3 asks."""
    if request.param == "through boto3":
        request.getfixturevalue("boto3_asks")


def client_of(request: Request) -> str:
    """The program that sent a request."""
    return request.headers["user-agent"].partition("/")[0]


def through_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges go the slow way, as they do for keys that obstore cannot name."""
    monkeypatch.setattr(bulk, "can_name", lambda key: False)


def asked(server: S3Server) -> list[tuple[str, str, str]]:
    """What was asked, and forgets it."""
    found = [(request.method, request.path, request.range) for request in server.requests]
    server.requests.clear()
    return found


# -- what is asked -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_both_ways")
def test_each_call_is_one_request_and_opening_is_none(server: S3Server, source: S3Source) -> None:
    assert asked(server) == []
    list(source.list("videos"))
    assert asked(server) == [("GET", "/bucket", "")]
    obj = source.stat("videos/x.mp4")
    assert asked(server) == [("HEAD", "/bucket/videos/x.mp4", "")]
    assert source.read(obj, 1000, 24) == DATA[1000:1024]
    assert asked(server) == [("GET", "/bucket/videos/x.mp4", "bytes=1000-1023")]


@pytest.mark.usefixtures("in_both_ways")
def test_a_listing_is_one_request_a_page(server: S3Server, source: S3Source, tmp_path: Path) -> None:
    for n in range(250):
        (tmp_path / f"store/bucket/videos/{n}").touch()
    server.max_keys = 100
    assert len(list(source.list("videos"))) == 251
    assert len(server.requests) == 3
    assert {request.query["prefix"] for request in server.requests} == {"videos/"}


@pytest.mark.usefixtures("in_both_ways")
def test_a_deep_page_is_one_request_without_a_delimiter(server: S3Server, source: S3Source, tmp_path: Path) -> None:
    (tmp_path / "store/bucket/videos/y").mkdir()
    (tmp_path / "store/bucket/videos/y/z.mp4").touch()
    assert [obj.key for obj in source.deep_page("videos", "x.mp4").objects] == ["videos/y/z.mp4"]
    (request,) = server.requests
    assert (request.query["prefix"], request.query["start-after"]) == ("videos/", "videos/x.mp4")
    assert "delimiter" not in request.query


@pytest.mark.parametrize("keys", [("v/b", "v/a"), ("v/a", "v/a"), ("elsewhere",), ("v/A",)])
def test_a_store_that_does_not_list_in_order_is_not_listed_flat(
    server: S3Server, source: S3Source, keys: tuple[str, ...]
) -> None:
    rows = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    server.faults = lambda request: Body(LISTING.format(rows).encode())
    with pytest.raises((SourceError, CorruptData)):
        source.deep_page("v", "B")


def test_a_deep_page_of_nothing_is_not_followed_by_more(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Body(LISTING.format("<IsTruncated>true</IsTruncated>").encode())
    with pytest.raises(CorruptData):
        source.deep_page("v", "")


def test_reads_one_after_another_share_connections(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    before = len(server.connections)
    for start in range(0, 100_000, 5_000):
        source.read(obj, start, 1000)
    # One, or a few: a read may begin before the last one's connection is back in the pool.
    assert 1 <= len(server.connections) - before <= 5


def test_ranges_are_asked_by_obstore_and_all_else_directly(server: S3Server, source: S3Source) -> None:
    list(source.list("videos"))
    source.read(source.stat("videos/x.mp4"), 0, 10)
    assert [client_of(request) for request in server.requests] == ["egofs", "egofs", "object_store"]


@pytest.mark.usefixtures("boto3_asks")
def test_where_boto3_must_ask_it_does_not_fetch_ranges(server: S3Server, source: S3Source) -> None:
    list(source.list("videos"))
    source.read(source.stat("videos/x.mp4"), 0, 10)
    assert [client_of(request) for request in server.requests] == ["Boto3", "Boto3", "object_store"]


def test_what_was_read_is_still_there_when_the_source_is_closed(source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    data = source.read(obj, 0, len(DATA))
    source.close()
    assert memoryview(data).readonly
    assert data == DATA


def test_a_store_is_known_to_all_commands_without_its_clients_being_imported() -> None:
    code = "import sys, vfs.sources.s3; print({'boto3', 'botocore', 'obstore'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_obstore_is_not_there_before_the_first_range() -> None:
    """Its threads would not be there after a fork, nor would the daemon be able to tell."""
    code = "import sys, vfs.boto, vfs.bulk, vfs.direct; print('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_read_is_pinned_to_the_version_by_if_match(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    source.read(obj, 0, 10)
    assert server.requests[-1].headers["if-match"] == f'"{obj.version}"'


@pytest.mark.usefixtures("in_both_ways")
def test_failures_are_not_tried_again_here(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Status(500)
    for ask in (lambda: list(source.list("")), lambda: source.stat("x")):
        with pytest.raises(Unavailable):
            ask()
    assert len(server.requests) == 2


# -- hostile answers -----------------------------------------------------------------------------------------------


# What comes of each answer, and how many requests it takes obstore and boto3 to find out: one where obstore's words
# tell, two where boto3 must look, and two where a refusal is met with a look at the bucket's region.
HOSTILE: list[tuple[Fault, type[EgofsError], int]] = [
    (Truncate(5000), CorruptData, 1),
    (Truncate(0), CorruptData, 1),
    (Whole(), CorruptData, 2),
    (Shift(1), CorruptData, 2),
    (Cut(1), CorruptData, 2),
    (Body(b"<html>a captive portal</html>"), CorruptData, 2),
    (Body(bytes(10_000)), CorruptData, 2),
    (HangUp(), Unavailable, 1),
    (Status(500), Unavailable, 1),
    (Status(502, "BadGateway"), Unavailable, 1),
    (Status(503, "SlowDown"), Throttled, 1),
    (Status(503, "ServiceUnavailable"), Unavailable, 1),
    (Status(429, "TooManyRequests"), Throttled, 1),
    (Status(400, "RequestTimeout"), Timeout, 1),
    (Status(408, "TooSlow"), Timeout, 1),
    (Status(403, "AccessDenied"), AccessDenied, 2),
    (Status(401, "Unauthorized"), AccessDenied, 2),
    (Status(400, "ExpiredToken"), AccessDenied, 2),
    (Status(403, "InvalidAccessKeyId"), AccessDenied, 2),
    (Status(403, "SignatureDoesNotMatch"), AccessDenied, 2),
    (Status(403, "InvalidObjectState"), SourceError, 1),
    (Status(404, "NoSuchKey"), NotFound, 1),
    (Status(404, "NoSuchBucket"), NotFound, 1),
    (Status(412, "PreconditionFailed"), Changed, 1),
    (Status(416, "InvalidRange"), Changed, 1),
    (Status(400, "InvalidArgument"), SourceError, 1),
    (Status(501, "NotImplemented"), Unavailable, 1),
    (Status(409, "OperationAborted"), SourceError, 1),
]


@pytest.mark.parametrize(("fault", "kind", "requests"), HOSTILE, ids=repr)
@pytest.mark.parametrize("way", ["obstore", "boto3"])
@pytest.mark.usefixtures("in_both_ways")
def test_an_answer_that_is_not_the_range_is_an_error(
    server: S3Server,
    source: S3Source,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    fault: Fault,
    kind: type[EgofsError],
    requests: int,
) -> None:
    if way == "boto3":
        through_boto3(monkeypatch)
    obj = source.stat("videos/x.mp4")
    server.faults = lambda request: fault
    server.requests.clear()
    with pytest.raises(kind) as raised:
        source.read(obj, 100, 10_000)
    assert type(raised.value) is kind
    assert "videos/x.mp4" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == (requests if way == "obstore" or kind is AccessDenied else 1)
    server.faults = lambda request: None
    assert source.read(obj, 100, 10_000) == DATA[100:10_100]


@pytest.mark.parametrize("fault", [fault for fault, _, _ in HOSTILE if isinstance(fault, Status)], ids=repr)
def test_a_refusal_says_the_same_whoever_asked(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    said = []
    for source in (opened(), opened()):
        obj = source.stat("videos/x.mp4")
        server.faults = lambda request: fault
        with pytest.raises(EgofsError) as raised:
            source.read(obj, 100, 10_000)
        said.append(str(raised.value))
        server.faults = lambda request: None
        through_boto3(monkeypatch)
    assert said[0] == said[1]


@pytest.mark.parametrize(("fault", "requests"), [(Whole(), 2), (Truncate(10), 1), (Cut(7), 2)], ids=repr)
def test_the_whole_object_may_come_as_200_but_only_whole(
    server: S3Server, source: S3Source, fault: Fault, requests: int
) -> None:
    obj = source.stat("videos/x.mp4")
    server.faults = lambda request: fault
    server.requests.clear()
    if fault == Whole():
        assert source.read(obj, 0, len(DATA)) == DATA
    else:
        with pytest.raises(CorruptData):
            source.read(obj, 0, len(DATA))
    assert len(server.requests) == requests


@pytest.mark.parametrize("way", ["obstore", "boto3"])
@pytest.mark.usefixtures("in_both_ways")
def test_a_store_that_ignores_if_match_is_found_out_by_its_etag(
    server: S3Server, source: S3Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "boto3":
        through_boto3(monkeypatch)
    obj = source.stat("videos/x.mp4")
    server.knows_if_match = False
    server.requests.clear()
    for data in (bytes(len(DATA)), bytes(2 * len(DATA))):
        (tmp_path / "store/bucket/videos/x.mp4").write_bytes(data)
        with pytest.raises(Changed):
            source.read(obj, 0, 10)
    assert len(server.requests) == 2


def test_the_size_that_a_range_came_from_is_looked_at(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    with pytest.raises(CorruptData):
        source.read(replace(obj, size_bytes=obj.size_bytes + 1), 0, 10)


@pytest.mark.parametrize("way", ["obstore", "boto3"])
@pytest.mark.usefixtures("in_both_ways")
def test_a_stall_times_out(server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "boto3":
        through_boto3(monkeypatch)
    monkeypatch.setattr(bulk, "IDLE_S", 0.2)
    obj = source.stat("videos/x.mp4")
    server.requests.clear()
    for fault in (Stall(30), Stall(30, after_bytes=50)):
        server.faults = lambda request, fault=fault: fault
        with pytest.raises(Timeout):
            source.read(obj, 0, 10_000)
    assert len(server.requests) == 2


@pytest.mark.parametrize("way", ["obstore", "boto3"])
@pytest.mark.usefixtures("in_both_ways")
def test_a_drip_times_out_though_bytes_keep_coming(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "boto3":
        through_boto3(monkeypatch)
    obj = source.stat("videos/x.mp4")
    monkeypatch.setattr(bulk, "LONGEST_BODY_S", 0.3)
    server.faults = lambda request: Drip(1, 0.02)
    server.requests.clear()
    with pytest.raises(Timeout, match="too slow"):
        source.read(obj, 0, 10_000)
    assert len(server.requests) == 1


def test_no_answer_has_less_time_than_a_slow_one_needs_nor_more_than_a_minute() -> None:
    ranges = bulk.Ranges(bulk.Place("http://127.0.0.1:9/bucket", "us-east-1"), None)
    limits = []
    for length in (1, 64 << 10, (64 << 10) + 1, 256 << 10, 1 << 20, (1 << 20) + 1, 64 << 20):
        _, limit_s = ranges._store(length)
        assert bulk.deadline_s(length) <= limit_s <= 60
        limits.append(limit_s)
    assert limits == [12, 12, 18, 18, 42, 60, 60]


@pytest.mark.usefixtures("in_both_ways")
def test_a_store_that_is_not_there_is_unavailable_and_named(server: S3Server, tmp_path: Path) -> None:
    with S3Server(tmp_path / "store") as gone:
        endpoint = gone.endpoint_url
        source = open_source("s3://bucket", endpoint_url=endpoint)
        obj = source.stat("videos/x.mp4")
    with pytest.raises(Unavailable, match=endpoint):
        source.stat("x")
    with pytest.raises(Unavailable, match=endpoint):
        source.read(obj, 0, 10)
    source.close()


@pytest.mark.usefixtures("in_both_ways")
def test_how_long_a_throttling_store_asks_to_wait_is_carried(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Status(503, "SlowDown", {"Retry-After": "7"})
    for ask in (lambda: list(source.list("")), lambda: source.stat("x")):  # HEAD has no body to say SlowDown
        with pytest.raises(Throttled) as raised:
            ask()
        assert vars(raised.value)["retry_after_s"] == 7


def test_while_a_store_throttles_boto3_asks_as_it_sees_how_long_to_wait(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    server.requests.clear()
    server.faults = lambda request: Status(503, "SlowDown", {"Retry-After": "7"})
    waits = []
    for _ in range(3):
        with pytest.raises(Throttled) as raised:
            source.read(obj, 0, 10)
        waits.append(raised.value.retry_after_s)
    assert waits == [0, 7, 7]
    server.faults = lambda request: None
    for _ in range(3):
        assert source.read(obj, 0, 10) == DATA[:10]
    clients = [client_of(request) for request in server.requests]
    assert clients == ["object_store", "Boto3", "Boto3", "Boto3", "object_store", "object_store"]


OBSTORE_ERRORS = [
    kind
    for kind in vars(obstore.exceptions).values()
    if isinstance(kind, type) and issubclass(kind, obstore.exceptions.BaseError)
]


@pytest.mark.usefixtures("boto3_asks")
@pytest.mark.parametrize("kind", [*OBSTORE_ERRORS, FileNotFoundError], ids=lambda kind: kind.__name__)
def test_a_failure_that_obstore_does_not_explain_is_left_to_boto3(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    obj = source.stat("videos/x.mp4")
    server.requests.clear()

    def get(*_: object, **__: object) -> None:
        raise kind("news")

    monkeypatch.setattr(obstore, "get", get)
    assert source.read(obj, 0, 10) == DATA[:10]
    assert [client_of(request) for request in server.requests] == ["Boto3"]


# -- keys, and who is asked ----------------------------------------------------------------------------------------

UNNAMED = ["/lead", "trail/", "a//b", "a/./b", "a/../b", "..", ".", "a\nb", "a\tb", "\x00", "a\x7fb", "", "a/.."]
NAMED = [*ODD_NAMES, "a\\b", "...", ".a", "a..b", "a/.b/..c", "%2e%2e/x", "e\u0301", "\u2028", "😀", "C:/x", "x" * 255]


def test_keys_that_obstore_takes_for_other_keys_are_not_asked_of_it() -> None:
    assert [key for key in UNNAMED if bulk.can_name(key)] == []
    assert [key for key in NAMED if not bulk.can_name(key)] == []


def test_keys_of_all_kinds_are_signed_as_boto3_would_sign_them(
    server: S3Server, source: S3Source, tmp_path: Path
) -> None:
    for key in [*NAMED, "/".join(["日" * 60] * 5) + "/" + "x" * 119]:  # the last has 1,024 bytes, as many as can be
        path = tmp_path / "store/bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
        obj = source.stat(key)
        assert source.read(obj, 0, obj.size_bytes) == key.encode()
        request = server.requests[-1]
        assert client_of(request) == "object_store"
        assert request.path == f"/bucket/{key}"
        assert f"Signature={signature(request, server)}" in request.headers["authorization"]


def signature(request: Request, server: S3Server) -> str:
    """What botocore signs such a request with."""
    signer = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials("tester", "secret"), "s3", "us-east-1")
    names = re.findall(r"SignedHeaders=([^,]*)", request.headers["authorization"])[0].split(";")
    same = botocore.awsrequest.AWSRequest(
        "GET", server.endpoint_url + request.target, headers={name: request.headers[name] for name in names}
    )
    same.context["timestamp"] = request.headers["x-amz-date"]
    return str(signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same))


@pytest.mark.usefixtures("in_both_ways")
def test_keys_that_obstore_cannot_name_are_read_all_the_same() -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=moto_endpoint(), region_name="us-east-1")
    client.create_bucket(Bucket="unnamed")
    source = open_source("s3://unnamed", endpoint_url=moto_endpoint())
    for key in ("trail/", "a//b", "a\tb"):
        client.put_object(Bucket="unnamed", Key=key, Body=key.encode())
        obj = source.stat(key)
        assert source.read(obj, 0, obj.size_bytes) == key.encode()
    source.close()
    client.close()


def test_no_variable_changes_what_obstore_sends(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """object_store would take from the environment whatever it is not told."""
    plain, noisy = opened(), opened()
    obj = plain.stat("videos/x.mp4")
    noisy.stat("videos/x.mp4")
    plain.read(obj, 0, 10)
    stub = (Path(obstore.__file__).parent / "_store/_aws.pyi").read_text()
    names = {*re.findall(r"`(AWS_[A-Z0-9_]+)`", stub), "AWS_PROXY_URL", "AWS_TIMEOUT", "AWS_USER_AGENT"}
    assert len(names) > 30
    for name in names:
        monkeypatch.setenv(name, "leak")
    assert noisy.read(obj, 0, 10) == DATA[:10]
    assert client_of(server.requests[-1]) == "object_store"
    changing = {"x-amz-date", "authorization"}
    sent = [{k: v for k, v in r.headers.items() if k not in changing} for r in server.requests if r.range]
    assert sent[0] == sent[1]
    scopes = [r.headers["authorization"].partition(", Signature=")[0] for r in server.requests if r.range]
    assert scopes[0] == scopes[1]


def test_a_proxy_is_used_where_boto3_uses_it(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: S3Source) -> list[str]:
        server.requests.clear()
        assert source.read(source.stat("videos/x.mp4"), 0, 10) == DATA[:10]
        return [client_of(request) for request in server.requests]

    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")  # boto3 does not know this one
    assert read(opened()) == ["egofs", "object_store"]
    monkeypatch.setenv("HTTP_PROXY", server.endpoint_url)
    away = open_source("s3://bucket", endpoint_url="http://store.invalid")
    assert isinstance(away, S3Source)
    assert read(away) == ["Boto3", "object_store"]
    assert {request.headers["host"] for request in server.requests} == {"store.invalid"}
    away.close()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert read(opened()) == ["Boto3", "object_store"]


def test_the_certificates_that_boto3_trusts_are_trusted(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, chain = tmp_path / "authority.pem", tmp_path / "chain.pem"
    make_certificate(authority, chain)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    with S3Server(tmp_path / "store") as safe:
        safe.wrap(tls)
        source = open_source("s3://bucket", endpoint_url=f"https://localhost:{safe.port}")
        assert source.read(source.stat("videos/x.mp4"), 0, 10) == DATA[:10]
        assert [client_of(request) for request in safe.requests] == ["Boto3", "object_store"]
        source.close()


def make_certificate(authority: Path, chain: Path) -> None:
    """A certificate of localhost with its key, and the one that it is signed with."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("a lab", "localhost")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    for file, name, key, is_authority in zip((authority, chain), names, keys, (True, False), strict=True):
        made = (
            x509.CertificateBuilder()
            .issuer_name(names[0])
            .subject_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    with chain.open("ab") as file:
        plain = serialization.NoEncryption()
        file.write(keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://bucket.s3.amazonaws.com"),
        ({"region": "eu-west-2"}, "https://bucket.s3.eu-west-2.amazonaws.com"),
        ({"region": "eu-west-2", "addressing_style": "path"}, "https://s3.eu-west-2.amazonaws.com/bucket"),
        ({"region": "eu-west-2", "anonymous": True}, "https://bucket.s3.eu-west-2.amazonaws.com"),
        ({"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn"),
        ({"endpoint_url": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/bucket"),
        ({"endpoint_url": "https://lab.example/s3"}, "https://lab.example/s3/bucket"),
        ({"endpoint_url": "https://lab.example", "addressing_style": "virtual"}, "https://bucket.lab.example"),
    ],
)
def test_a_bucket_is_where_boto3_says(options: dict[str, Any], url: str) -> None:
    source = open_source("s3://bucket", **options)
    assert isinstance(source, S3Source)
    client = source._boto3()._open_client()
    ranges = source._boto3().ranges(client)
    assert ranges is not None
    assert ranges.place == bulk.Place(url, options.get("region", "us-east-1"))
    source.close()


LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'


@pytest.mark.usefixtures("in_both_ways")
@pytest.mark.parametrize(
    "content",
    [
        LISTING.format("<IsTruncated>true</IsTruncated><Contents><Key>v/a</Key><Size>1</Size></Contents>"),
        LISTING.format("<Contents><Key>elsewhere</Key><Size>1</Size></Contents>"),
        LISTING.format("<Contents><Key>v/a</Key></Contents>"),
        LISTING.format("<Contents><Key>v/a</Key><Size>many</Size></Contents>"),
        LISTING.format("<Contents><Key>v/a</Key><Size>1</Size><LastModified>lately</LastModified></Contents>"),
        LISTING.format("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
    ],
)
def test_a_listing_that_makes_no_sense_is_corrupt(server: S3Server, source: S3Source, content: str) -> None:
    server.faults = lambda request: Body(content.encode())
    with pytest.raises(CorruptData):
        list(source.list("v"))
    assert len(server.requests) <= 2


@pytest.mark.usefixtures("in_both_ways")
def test_a_listing_that_is_no_xml_is_a_failure_of_the_store(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Body(b"<html>a captive portal")
    with pytest.raises(Unavailable):
        list(source.list("v"))


def test_flipped_bits_are_not_for_a_range_to_find(server: S3Server, source: S3Source) -> None:
    """What this layer cannot know, so that nobody relies on it: S3 has no checksum of a range."""
    obj = source.stat("videos/x.mp4")
    server.faults = lambda request: Garble()
    assert source.read(obj, 0, 10) != DATA[:10]


# -- folders and names ---------------------------------------------------------------------------------------------


def test_markers_are_folders_and_names_that_are_empty_are_left_out_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=moto_endpoint(), region_name="us-east-1")
    client.create_bucket(Bucket="markers")
    for key in ("made/", "full/", "full/x", "a//b", "a/c", "both", "both/x"):
        client.put_object(Bucket="markers", Key=key, Body=b"")
    source = open_source("s3://markers", endpoint_url=moto_endpoint())

    def names(folder: str) -> list[tuple[str, str]]:
        return sorted((entry.name, entry.kind) for entry in source.list(folder))

    tops = [("a", "dir"), ("both", "dir"), ("both", "file"), ("full", "dir"), ("made", "dir")]
    assert names("") == tops
    assert names("made") == []
    assert names("full") == [("x", "file")]
    for _ in range(2):
        assert names("a") == [("c", "file")]
    assert len([r for r in caplog.records if r.name == "vfs.sources.s3" and r.levelno == logging.WARNING]) == 1
    source.close()
    client.close()


def test_odd_keys_are_listed_ahead_as_they_are_listed_one_folder_after_another() -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=moto_endpoint(), region_name="us-east-1")
    client.create_bucket(Bucket="odd-keys")
    odd = ("a", "a!", "a-", "a0", "a b", "a+b", "a%2Fb", "é", "日本", "x\x01y", "&<>")
    keys = [f"{name}/{below}" for name in odd for below in ("", "f", "/g", "sub/", "sub/h", *odd)]
    for key in (*keys, *odd[:4], "/top"):
        client.put_object(Bucket="odd-keys", Key=key, Body=b"")
    plain = open_source("s3://odd-keys", endpoint_url=moto_endpoint())
    walked = AheadSource(open_source("s3://odd-keys", endpoint_url=moto_endpoint()))

    def found(source: Source, folder: str = "") -> dict[str, set[Listed]]:
        entries = list(source.list(folder))
        folders = sorted(f"{folder}/{entry.name}".lstrip("/") for entry in entries if entry.kind == "dir")
        below = [found(source, each) for each in folders]
        return {folder: set(entries)} | {path: names for part in below for path, names in part.items()}

    assert found(walked) == found(plain)
    for source in (walked, plain):
        source.close()
    client.close()


@pytest.mark.usefixtures("in_both_ways")
def test_the_root_of_an_empty_bucket_is_there_and_that_of_an_empty_prefix_is_not(
    server: S3Server, opened: Callable[..., S3Source], tmp_path: Path
) -> None:
    (tmp_path / "store/empty-bucket").mkdir()
    assert list(opened("s3://empty-bucket").list("")) == []
    with pytest.raises(NotFound, match="nothing/here"):
        list(opened("s3://bucket/nothing/here").list(""))
    with pytest.raises(NotFound, match="no-such-bucket"):
        list(opened("s3://no-such-bucket").list(""))


def test_a_stores_url_is_its_own(server: S3Server, opened: Callable[..., S3Source]) -> None:
    assert open_source("s3://bucket/a/b/").url == open_source("s3://bucket/a/b").url == "s3://bucket/a/b"
    assert opened("s3://bucket/a").url == f"s3+{server.endpoint_url}/bucket/a"
    assert open_source("s3://").url == open_source("S3://").url == "s3://"
    assert open_source("s3://", endpoint_url=server.endpoint_url).url == f"s3+{server.endpoint_url}/"


def test_no_variable_puts_another_store_in_the_place_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    source = open_source("s3://bucket", region="eu-west-2")
    assert isinstance(source, S3Source)
    assert source._boto3()._open_client().meta.endpoint_url == "https://s3.eu-west-2.amazonaws.com"
    source.close()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("s3:///key", {}, "names no bucket"),
        ("s3://a b/key", {}, "names no bucket"),
        ("s3://x", {}, "names no bucket"),
        ("s3://bucket", {"endpoint_url": "127.0.0.1:9000"}, "http://HOST:PORT"),
        ("s3://bucket", {"region": "eu west"}, "eu-west-2"),
        ("s3://bucket", {"aws_profile": "nobody"}, "nobody"),
        ("s3://bucket", {"aws_profile": "lab", "anonymous": True}, "leave out"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        open_source(url, **options)


# -- regions -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_both_ways")
@pytest.mark.parametrize("answer", [400, 301, 403])
@pytest.mark.parametrize("first", ["", "us-west-2", "eu-south-1"])
def test_a_buckets_region_is_found_out_once(
    server: S3Server, opened: Callable[..., S3Source], answer: int, first: str
) -> None:
    server.region, server.region_answer = "eu-south-1", answer
    source = opened(region=first)
    obj = source.stat("videos/x.mp4")
    assert len(server.requests) <= (1 if first == "eu-south-1" else 3)
    server.requests.clear()
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(list(source.list("videos"))) == 1
    assert len(server.requests) == 2


@pytest.mark.usefixtures("in_both_ways")
@pytest.mark.parametrize("answer", [400, 301, 403])
def test_a_buckets_region_is_found_out_by_a_first_request_that_is_a_range(
    server: S3Server, opened: Callable[..., S3Source], answer: int
) -> None:
    server.region, server.region_answer = "eu-south-1", answer
    obj = opened(region="eu-south-1").stat("videos/x.mp4")
    source = opened()
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(server.requests) <= 5
    server.requests.clear()
    assert source.read(obj, 0, 10) == DATA[:10]
    assert [client_of(request) for request in server.requests] == ["object_store"]


@pytest.mark.usefixtures("in_both_ways")
def test_a_bucket_that_may_not_be_entered_in_its_right_region_is_denied(
    server: S3Server, opened: Callable[..., S3Source]
) -> None:
    server.region, server.access_key_id = "eu-south-1", "somebody-else"
    source = opened()
    for _ in range(2):
        with pytest.raises(AccessDenied):
            source.stat("videos/x.mp4")
    server.requests.clear()
    with pytest.raises(AccessDenied):
        source.stat("videos/x.mp4")
    assert len(server.requests) == 1


# -- all buckets ---------------------------------------------------------------------------------------------------


@pytest.fixture
def buckets(server: S3Server, tmp_path: Path) -> Iterator[S3Buckets]:
    """Three buckets in three regions, as one source; none of them is where it is looked for first."""
    for name, region in {"one": "eu-south-1", "two": "us-west-2", "three": "ap-south-1"}.items():
        (tmp_path / "store" / name / "a").mkdir(parents=True)
        (tmp_path / "store" / name / "a/x").write_bytes(name.encode())
        server.regions[name] = region
    source = open_source("s3://", endpoint_url=server.endpoint_url)
    assert isinstance(source, S3Buckets)
    yield source
    source.close()
    assert {request.method for request in server.requests} <= {"GET", "HEAD"}


@pytest.mark.parametrize("answer", [400, 301])
def test_a_bucket_in_another_region_costs_one_more_request_once(
    server: S3Server, buckets: S3Buckets, answer: int
) -> None:
    server.region_answer = answer
    for name in ("one", "two", "three"):
        obj = buckets.stat(f"{name}/a/x")
        assert asked(server) == [("HEAD", f"/{name}/a/x", "")] * 2
        assert obj.key == f"{name}/a/x"
        assert buckets.read(obj, 0, obj.size_bytes) == name.encode()
        (entry,) = buckets.list(f"{name}/a")
        assert entry.object == obj
        assert asked(server) == [("GET", f"/{name}/a/x", f"bytes=0-{len(name) - 1}"), ("GET", f"/{name}", "")]


@pytest.mark.parametrize("answer", [400, 301, 403])
def test_buckets_in_other_regions_do_not_need_boto3(server: S3Server, buckets: S3Buckets, answer: int) -> None:
    """Nor do those of which ranges are asked first, by several threads at once."""
    server.region_answer = answer
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from tests.test_sources import open_source
from vfs.sources import ObjectInfo
source = open_source("s3://", endpoint_url={server.endpoint_url!r})
objects = [ObjectInfo(f"{{name}}/a/x", len(name), 0, "") for name in ("one", "two", "three")] * 8
with ThreadPoolExecutor(8) as threads:
    read = list(threads.map(lambda obj: bytes(source.read(obj, 0, obj.size_bytes)).decode(), objects))
assert read == ["one", "two", "three"] * 8, read
source.stat("one/a/x"), list(source.list("two")), source.deep_page("three", "")
print({{"boto3", "botocore", "vfs.boto"}} & sys.modules.keys())
"""
    top = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_which_buckets_there_are_is_not_asked(server: S3Server, buckets: S3Buckets) -> None:
    assert list(buckets.list("")) == []
    assert list(buckets.deep_page("", "").objects) == []
    for name in ("x", "a b/c", "-/x", "one", "", "ü/x", "/x"):
        with pytest.raises(NotFound):
            buckets.stat(name)
    assert asked(server) == []
    with pytest.raises(NotFound, match="no-such-bucket"):
        list(buckets.list("no-such-bucket"))
    assert list(buckets.deep_page("no-such-bucket", "").objects) == []


def test_a_bucket_is_opened_once_whoever_comes_first(buckets: S3Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    find = awssettings.find

    def slowly(bucket: str, **options: Any) -> Any:
        opened.append(bucket)
        time.sleep(0.02)
        return find(bucket, **{**options, "region": "eu-south-1"})

    monkeypatch.setattr(awssettings, "find", slowly)
    with ThreadPoolExecutor(8) as threads:
        assert {entry.key for entry in threads.map(buckets.stat, ["one/a/x"] * 8)} == {"one/a/x"}
    assert opened == ["one"]


# -- credentials ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_both_ways")
def test_ended_keys_are_denied_with_advice_and_new_ones_work_at_once(
    server: S3Server, opened: Callable[..., S3Source], credentials: Path
) -> None:
    server.access_key_id = "old"
    source = opened(aws_profile="lab")
    obj = source.stat("videos/x.mp4")
    server.access_key_id = "new"
    for ask in (lambda: source.read(obj, 0, 10), lambda: source.stat("videos/x.mp4"), lambda: list(source.list(""))):
        with pytest.raises(
            AccessDenied, match=r"profile 'lab' \(from shared-credentials-file\).*keys that are valid.*~/.aws"
        ):
            ask()
    write_keys(credentials, "new")
    server.requests.clear()
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(server.requests) == 2
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(server.requests) == 3


@pytest.mark.usefixtures("boto3_asks")
def test_ranges_are_asked_with_keys_that_renewed_themselves(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = source.stat("videos/x.mp4")
    given = [("first", "secret", ""), ("second", "secret", "a token")]
    monkeypatch.setattr(boto, "_keys_of", lambda credentials: given.pop(0) if len(given) > 1 else given[0])
    monkeypatch.setattr(bulk, "_KEYS_LIVE", timedelta(0))
    for key_id, _, token in [*given]:
        time.sleep(0.15)  # obstore asks for keys once in a tenth of a second at most
        source.read(obj, 0, 10)
        assert f"Credential={key_id}/" in server.requests[-1].headers["authorization"]
        assert server.requests[-1].headers.get("x-amz-security-token", "") == token


@pytest.mark.usefixtures("boto3_asks")
def test_keys_that_cannot_be_renewed_are_denied_as_boto3_says_it(
    source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = source.stat("videos/x.mp4")

    def fails() -> None:
        raise botocore.exceptions.TokenRetrievalError(provider="sso", error_msg="log in again")

    monkeypatch.setattr(source._access._credentials, "get_frozen_credentials", fails)
    with pytest.raises(AccessDenied, match="log in again"):
        source.read(obj, 0, 10)


@pytest.mark.usefixtures("in_both_ways")
def test_keys_that_are_denied_and_the_same_in_the_file_are_not_sent_again(
    server: S3Server, opened: Callable[..., S3Source]
) -> None:
    server.access_key_id = "somebody-else"
    source = opened(aws_profile="lab")
    with pytest.raises(AccessDenied):
        source.stat("videos/x.mp4")
    server.requests.clear()
    with pytest.raises(AccessDenied):
        source.stat("videos/x.mp4")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("boto3_asks")
def test_a_file_of_credentials_that_is_being_edited_is_denied_and_then_works(
    server: S3Server, opened: Callable[..., S3Source], credentials: Path
) -> None:
    source = opened(aws_profile="lab")
    for content in ("[other]\n", "[lab]\naws_access_key_id = x\n", "[lab\n", ""):
        credentials.write_text(content)
        with pytest.raises(AccessDenied, match=r"~/\.aws/credentials"):
            source.stat("videos/x.mp4")
    write_keys(credentials, "new")
    assert source.stat("videos/x.mp4").size_bytes == len(DATA)


@pytest.mark.usefixtures("in_both_ways")
def test_no_credentials_at_all_says_what_to_do(
    opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDenied, match=r"~/\.aws/credentials.*anonymous=true"):
        opened().stat("videos/x.mp4")


@pytest.mark.usefixtures("in_both_ways")
def test_anonymous_reading_signs_nothing_and_needs_no_credentials(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    source = opened(anonymous=True)
    assert source.read(source.stat("videos/x.mp4"), 0, 10) == DATA[:10]
    assert all("authorization" not in request.headers for request in server.requests)
    server.access_key_id = "somebody"
    with pytest.raises(AccessDenied, match=r"anonymous.*aws_profile"):
        source.stat("videos/x.mp4")


# -- every error that there is -------------------------------------------------------------------------------------

BOTOCORE_ERRORS = sorted(
    (
        kind
        for kind in vars(botocore.exceptions).values()
        if isinstance(kind, type)
        and kind.__module__ == "botocore.exceptions"
        and issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind is not botocore.exceptions.BotoCoreError
    ),
    key=lambda kind: kind.__name__,
)


def example(kind: type[Exception]) -> Exception:
    """An instance of an exception of botocore, with something in each place of its message."""
    if issubclass(kind, botocore.exceptions.ClientError):
        return kind({"Error": {"Code": "Odd"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "GetObject")
    if issubclass(kind, botocore.exceptions.WaiterError):
        return kind("name", "reason", {})
    fields = {name for _, name, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if name}
    return kind(**dict.fromkeys(fields, "something")) if fields else kind()


@pytest.fixture(scope="module")
def asking() -> Iterator[S3Source]:
    """A source that needs no server, since its client is never used."""
    source = open_source("s3://bucket", endpoint_url="http://127.0.0.1:9", anonymous=True)
    assert isinstance(source, S3Source)
    yield source
    source.close()


def raising(failure: Exception) -> Callable[[Any], Any]:
    def question(client: Any) -> Any:
        raise failure

    return question


def test_botocore_still_has_errors() -> None:
    assert len(BOTOCORE_ERRORS) > 70


@pytest.mark.parametrize("kind", BOTOCORE_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_becomes_one_of_ours(asking: S3Source, kind: type[Exception]) -> None:
    assert any(base.__name__ in boto._MEANING for base in kind.__mro__), f"add {kind.__name__} to _NAMES_BY_MEANING"
    with pytest.raises(EgofsError) as raised:
        asking._boto3().ask("stat s3://bucket/x", raising(example(kind)))
    assert str(raised.value).startswith("stat s3://bucket/x: ")
    assert isinstance(raised.value.__cause__, kind)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="x"), Timeout),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), Timeout),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), Unavailable),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="x"), Unavailable),
        (botocore.exceptions.ResponseStreamingError(error="x"), Unavailable),
        (botocore.exceptions.ProxyConnectionError(proxy_url="x"), Unavailable),
        (botocore.exceptions.SSLError(endpoint_url="x", error="x"), Unavailable),
        (botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), CorruptData),
        (botocore.parsers.ResponseParserError("x"), CorruptData),
        (ValueError("no date"), CorruptData),
        (botocore.exceptions.NoCredentialsError(), AccessDenied),
        (botocore.exceptions.PartialCredentialsError(provider="x", cred_var="y"), AccessDenied),
        (botocore.exceptions.UnauthorizedSSOTokenError(), AccessDenied),
        (botocore.exceptions.InvalidRegionError(region_name="x"), OptionError),
        (botocore.exceptions.UnknownEndpointError(service_name="s3", region_name="x"), OptionError),
        (botocore.exceptions.ParamValidationError(report="x"), SourceError),
        (urllib3.exceptions.ReadTimeoutError(None, "", "x"), Timeout),  # type: ignore[arg-type]
        (urllib3.exceptions.ProtocolError("reset"), Unavailable),
        (urllib3.exceptions.SSLError("x"), Unavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_means_what_it_should(asking: S3Source, failure: Exception, kind: type[EgofsError]) -> None:
    with pytest.raises(kind):
        asking._boto3().ask("stat", raising(failure))


def test_an_error_that_botocore_will_add_becomes_ours_too(asking: S3Source) -> None:
    class BrandNewError(botocore.exceptions.BotoCoreError):
        fmt = "news"

    with pytest.raises(SourceError, match="news"):
        asking._boto3().ask("stat", raising(BrandNewError()))


# -- the stand-in --------------------------------------------------------------------------------------------------


def test_the_stand_in_runs_as_a_program_and_tells_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/x").write_bytes(DATA)
    command = [sys.executable, "-m", "tests.s3server", str(tmp_path)]
    top = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=top, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        source = open_source("s3://bucket", endpoint_url=endpoint)
        source.read(source.stat("x"), 5, 5)
        source.close()
        with urllib.request.urlopen(f"{endpoint}/__requests__") as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
        process.terminate()
    assert lines == [
        {"method": "HEAD", "path": "/bucket/x", "range": ""},
        {"method": "GET", "path": "/bucket/x", "range": "bytes=5-9"},
    ]


def test_the_stand_in_answers_as_moto_does(server: S3Server, tmp_path: Path) -> None:
    """Status and headers of each kind of request, next to those of an independent implementation."""
    import boto3

    moto = boto3.client("s3", endpoint_url=moto_endpoint(), region_name="us-east-1")
    ours = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
    moto.create_bucket(Bucket="same")
    (tmp_path / "store/same/dir").mkdir(parents=True)
    for key in ("x", "dir/a b+c", "dir.txt"):
        moto.put_object(Bucket="same", Key=key, Body=DATA)
        (tmp_path / "store/same" / key).write_bytes(DATA)

    def seen(client: Any, verb: str, wanted: dict[str, Any]) -> Any:
        try:
            answer = getattr(client, verb)(Bucket="same", **wanted)
        except botocore.exceptions.ClientError as failure:
            answer = failure.response
        body = answer["Body"].read() if "Body" in answer else b""
        names = [item["Key"] for item in answer.get("Contents", [])]
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        said = {name: answer.get(name) for name in ("ETag", "ContentLength", "ContentRange", "IsTruncated")}
        return answer["ResponseMetadata"]["HTTPStatusCode"], body, names, folders, said

    for verb, wanted in (
        ("list_objects_v2", {}),
        ("list_objects_v2", {"Delimiter": "/"}),
        ("list_objects_v2", {"Prefix": "dir", "Delimiter": "/"}),
        ("list_objects_v2", {"Prefix": "dir/"}),
        ("list_objects_v2", {"Prefix": "nothing/"}),
        ("list_objects_v2", {"MaxKeys": 2}),
        ("list_objects_v2", {"StartAfter": "dir.txt"}),
        ("head_object", {"Key": "x"}),
        ("head_object", {"Key": "nothing"}),
        ("get_object", {"Key": "x"}),
        ("get_object", {"Key": "dir/a b+c", "Range": "bytes=10-19"}),
        ("get_object", {"Key": "x", "Range": "bytes=102390-999999"}),
        ("get_object", {"Key": "x", "Range": "bytes=999999-"}),
        ("get_object", {"Key": "x", "IfMatch": '"other"'}),
        ("get_object", {"Key": "nothing"}),
        ("head_bucket", {}),
    ):
        assert seen(ours, verb, wanted) == seen(moto, verb, wanted), (verb, wanted)
    moto.close()
    ours.close()


def test_the_stand_in_records_and_refuses_every_other_verb(server: S3Server) -> None:
    for method in ("PUT", "POST", "DELETE"):
        request = urllib.request.Request(f"{server.endpoint_url}/bucket/videos/x.mp4", b"", method=method)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request)
        assert raised.value.code == 405
        raised.value.close()
    assert [request.method for request in server.requests] == ["PUT", "POST", "DELETE"]
    server.requests.clear()  # it fails at its end where one is left
