"""Buckets that are asked without boto3: signatures, which address and keys it takes, and when boto3 is asked after all.

boto3 is the measure in all of it: the same signature, the same place and keys, the same failure in the same words.
"""

import configparser
import logging
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.httpsession
import pytest

from tests.faults import Body, Fault, HangUp, Stall, Status, Truncate
from tests.s3server import Request, S3Server
from tests.test_s3 import DATA, HOSTILE, LISTING, NAMED, UNNAMED, client_of, make_certificate
from tests.test_sources import open_source
from vfs import answers, awssettings, boto, bulk, direct
from vfs.errors import AccessDenied, EgofsError, NotFound, Throttled, Timeout, Unavailable
from vfs.sources.s3 import S3Source

KEYS = ("tester", "secret", "")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without an .aws, keys in variables, and no other variable that anybody would look at."""
    for name in list(os.environ):
        if re.match("AWS_|.*_PROXY|.*_CA_BUNDLE", name, re.IGNORECASE):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return home


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    folder = tmp_path / "store/bucket/videos"
    folder.mkdir(parents=True)
    (folder / "x.mp4").write_bytes(DATA)
    with S3Server(tmp_path / "store") as server:
        yield server


@pytest.fixture
def opened(server: S3Server) -> Iterator[Callable[..., S3Source]]:
    sources: list[S3Source] = []

    def opened(**options: object) -> S3Source:
        source = open_source("s3://bucket", endpoint_url=server.endpoint_url, **options)
        assert isinstance(source, S3Source)
        sources.append(source)
        return source

    yield opened
    for source in sources:
        source.close()


@pytest.fixture
def source(opened: Callable[..., S3Source]) -> S3Source:
    return opened()


def through_boto3(source: S3Source) -> S3Source:
    source._direct_is_over = True
    return source


def clients(server: S3Server) -> list[str]:
    """Who asked, and forgets it."""
    found = [client_of(request) for request in server.requests]
    server.requests.clear()
    return found


# -- signatures ----------------------------------------------------------------------------------------------------


def signed_by_botocore(request: Request, server: S3Server, keys: bulk.Keys, region: str) -> str:
    """The Authorization header that botocore makes for a request that came."""
    credentials = botocore.credentials.Credentials(keys[0], keys[1], keys[2] or None)
    signer = botocore.auth.S3SigV4Auth(credentials, "s3", region)
    names = re.findall(r"SignedHeaders=([^,]*)", request.headers["authorization"])[0].split(";")
    same = botocore.awsrequest.AWSRequest(
        request.method, server.endpoint_url + request.target, headers={name: request.headers[name] for name in names}
    )
    same.context["timestamp"] = request.headers["x-amz-date"]
    proof = signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same)
    return f"AWS4-HMAC-SHA256 Credential={signer.scope(same)}, SignedHeaders={';'.join(names)}, Signature={proof}"


ODD = [*NAMED, *(key for key in UNNAMED if key), "a~b", "a=b&c", "+", "%", "%25", "'\"<>", "a;b", "日本/ü", "x" * 1024]


@pytest.mark.parametrize("keys", [KEYS, ("AKIA/+=", "s/+=é", "to/+ken==")], ids=["lasting", "with a token"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-south-1"])
def test_requests_are_signed_as_botocore_signs_them(server: S3Server, keys: bulk.Keys, region: str) -> None:
    bucket = direct.Bucket(bulk.Place(f"{server.endpoint_url}/bucket", region), keys)
    server.faults = lambda request: Status(404)
    for key in ODD:
        with pytest.raises(bulk.Refused):
            bucket.head("", key)
        assert server.requests[-1].path == f"/bucket/{key}"
        wanted = {"Prefix": key, "Delimiter": "/", "ContinuationToken": f"{key}==", "StartAfter": key[::-1]}
        with pytest.raises(bulk.Refused):
            bucket.page("", wanted)
        assert server.requests[-1].query["prefix"] == key
    bucket.close()
    assert len(server.requests) == 2 * len(ODD)
    for request in server.requests:
        assert request.headers["authorization"] == signed_by_botocore(request, server, keys, region)
        assert request.headers.get("x-amz-security-token", "") == keys[2]


def test_the_same_is_asked_as_through_boto3(server: S3Server, opened: Callable[..., S3Source]) -> None:
    asked = []
    for source in (opened(), through_boto3(opened())):
        for key in ODD:
            server.faults = lambda request: Status(404)
            with pytest.raises(NotFound):
                source.stat(key)
            server.faults = lambda request: Body(LISTING.format("").encode())
            source.deep_page(key, "a+b")
            with pytest.raises(NotFound):
                source.page(key, "")
        asked.append([(request.method, request.path, request.query) for request in server.requests])
        server.requests.clear()
    assert len(asked[0]) == 3 * len(ODD)
    assert asked[0] == asked[1]


# -- where, and with which keys ------------------------------------------------------------------------------------

IN_FILE = "[{}]\naws_access_key_id = filed\naws_secret_access_key = kept\n"
FILED = IN_FILE.format("lab")
LAB = {"aws_profile": "lab"}
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}

# (options, variables, ~/.aws/credentials, ~/.aws/config): what is ordinary, and is found as boto3 finds it.
ORDINARY: list[tuple[dict[str, Any], dict[str, str | None], str, str]] = [
    ({}, {}, "", ""),
    ({"region": "eu-west-2"}, {}, "", ""),
    ({"region": "us-east-1"}, {}, "", ""),
    ({"region": "ap-southeast-2", "addressing_style": "virtual"}, {}, "", ""),
    ({}, {"AWS_SESSION_TOKEN": "token"}, "", ""),
    ({}, {"AWS_DEFAULT_REGION": "eu-west-3", "AWS_REGION": "us-west-1"}, "", ""),
    ({"region": "eu-west-2"}, {"AWS_DEFAULT_REGION": "eu-west-3"}, "", ""),
    ({}, {}, "", "[default]\nregion = eu-north-1\noutput = json\n[profile other]\nrole_arn = x\n"),
    ({}, {"AWS_DEFAULT_REGION": "eu-west-3"}, "", "[default]\nregion = eu-north-1\n"),
    ({}, {}, IN_FILE.format("default"), ""),
    ({}, NO_KEYS, IN_FILE.format("default"), "[default]\nregion = eu-north-1\n"),
    ({}, NO_KEYS, IN_FILE.format("default") + "aws_session_token = t=/+\n", ""),
    ({}, {**NO_KEYS, "AWS_PROFILE": "lab"}, IN_FILE.format("default").replace("filed", "d") + FILED, ""),
    (LAB, {}, FILED, ""),
    (LAB, NO_KEYS, FILED + IN_FILE.format("default"), "[profile lab]\nregion = eu-north-1\n"),
    ({**LAB, "region": "eu-west-1"}, {}, FILED, "[profile lab]\nregion = eu-north-1\n[default]\nx = y\n"),
    ({"anonymous": True}, {}, IN_FILE.format("default"), "[default]\nregion = eu-north-1\n"),
    ({"anonymous": True}, NO_KEYS, "", ""),
    ({"endpoint_url": "http://127.0.0.1:9000/"}, {}, "", ""),
    ({"endpoint_url": "http://minio:80", "region": "garage"}, {}, "", ""),
    ({"endpoint_url": "http://127.0.0.1:64999"}, {}, "", ""),
    ({"endpoint_url": "https://lab.example:443/s3/x", "addressing_style": "path"}, {}, "", ""),
    ({"endpoint_url": "https://lab.example", **LAB}, {}, FILED, "[default]\nendpoint_url = http://x\n"),
    ({"endpoint_url": "http://lab.example"}, {"HTTPS_PROXY": "http://x", "ALL_PROXY": "http://y"}, "", ""),
    ({"endpoint_url": "http://lab.example"}, {"AWS_CA_BUNDLE": "/dev/null", "REQUESTS_CA_BUNDLE": "/x"}, "", ""),
]


def arrange(home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], *files: str) -> None:
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    for file, content in zip(("credentials", "config"), files, strict=True):
        if content:
            (home / ".aws" / file).write_text(content)


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    plain = {"endpoint_url": "", "region": "", "addressing_style": "auto", "aws_profile": "", "anonymous": False}
    return plain | options


@pytest.mark.parametrize(("options", "variables", "credentials", "config"), ORDINARY)
def test_what_is_ordinary_is_found_as_boto3_finds_it(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    variables: dict[str, str | None],
    credentials: str,
    config: str,
) -> None:
    arrange(environment, monkeypatch, variables, credentials, config)
    found = awssettings.find("a-bucket", **options_of(options))
    assert found is not None
    ours = direct.Bucket(*found).ranges
    access = boto.Access("a-bucket", **options_of(options))
    theirs = access.ranges(access._open_client())
    assert theirs is not None
    access.close()
    assert ours.place == theirs.place
    assert ours.asks_as(theirs)
    assert theirs.asks_as(ours)
    assert not ours.asks_as(bulk.Ranges(theirs.place, lambda: ("other", "keys", "")))
    assert not ours.asks_as(bulk.Ranges(bulk.Place("http://elsewhere", ""), theirs._keys))


# The same, of what is out of the ordinary: boto3 is to say what holds.
ODD_SETTINGS: list[tuple[dict[str, Any], dict[str, str | None], str, str]] = [
    ({}, NO_KEYS, "", ""),
    ({}, {"AWS_SECRET_ACCESS_KEY": None}, "", ""),
    ({}, {"AWS_SESSION_TOKEN": ""}, "", ""),
    ({}, {"AWS_PROFILE": "lab"}, FILED, ""),
    ({}, {**NO_KEYS, "AWS_PROFILE": "lab"}, IN_FILE.format("default"), ""),
    ({}, {**NO_KEYS, "AWS_DEFAULT_PROFILE": "lab"}, FILED, ""),
    *(
        ({}, {name: "true"}, "", "")
        for name in (
            "AWS_ENDPOINT_URL",
            "AWS_ENDPOINT_URL_S3",
            "AWS_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "AWS_USE_DUALSTACK_ENDPOINT",
            "AWS_USE_FIPS_ENDPOINT",
            "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
            "AWS_SECURITY_TOKEN",
            "AWS_CREDENTIAL_EXPIRATION",
            "AWS_A_VARIABLE_OF_TOMORROW",
            "HTTPS_PROXY",
            "https_proxy",
            "BOTO_CONFIG",
        )
    ),
    ({"endpoint_url": "http://lab.example"}, {"http_proxy": "http://x"}, "", ""),
    ({"endpoint_url": "http://lab.example"}, {"AWS_USE_FIPS_ENDPOINT": "true"}, "", ""),
    (LAB, {}, "", ""),
    (LAB, {}, "[lab]\naws_access_key_id = x\n", ""),
    (LAB, {}, "[lab]\naws_access_key_id = x\naws_secret_access_key =\n", ""),
    (LAB, {}, "[lab\n", ""),
    (LAB, {}, FILED + FILED, ""),
    (LAB, {}, FILED + "role_arn = x\n", ""),
    (LAB, {}, FILED, "[profile 'lab']\nregion = eu-west-1\n"),
    (LAB, {}, FILED, "[profile lab]\nregion = eu-west-1\n[profile 'lab']\nregion = eu-west-2\n"),
    *(
        (LAB, {}, FILED, f"[profile lab]\n{line}\n")
        for line in (
            "role_arn = x",
            "credential_process = x",
            "sso_session = x",
            "endpoint_url = http://x",
            "services = x",
            "s3 =\n  addressing_style = path",
            "ca_bundle = /x",
            "use_fips_endpoint = true",
        )
    ),
    (LAB, {"AWS_CONFIG_FILE": "$HOME/.aws/config"}, FILED, ""),
    ({"region": "cn-north-1"}, {}, "", ""),
    ({"region": "us-gov-west-1"}, {}, "", ""),
    ({"region": "aws-global"}, {}, "", ""),
    ({"region": "eu-west-2", "addressing_style": "path"}, {}, "", ""),
    ({"endpoint_url": "https://s3.eu-west-2.amazonaws.com"}, {}, "", ""),
    ({"endpoint_url": "http://lab.example", "region": "s3-external-1"}, {}, "", ""),
    ({"endpoint_url": "http://Lab.example"}, {}, "", ""),
    ({"endpoint_url": "http://me@lab.example"}, {}, "", ""),
    ({"endpoint_url": "http://lab.example:0"}, {}, "", ""),
    ({"endpoint_url": "http://lab.example:70000"}, {}, "", ""),
    ({}, {"AWS_SESSION_TOKEN": "日本"}, "", ""),
    ({}, {"AWS_ACCESS_KEY_ID": "two words"}, "", ""),
    ({"endpoint_url": "http://lab.example/a//b"}, {}, "", ""),
    ({"endpoint_url": "http://lab.example", "addressing_style": "virtual"}, {}, "", ""),
]


@pytest.mark.parametrize(("options", "variables", "credentials", "config"), ODD_SETTINGS)
def test_what_is_out_of_the_ordinary_is_left_to_boto3(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    variables: dict[str, str | None],
    credentials: str,
    config: str,
) -> None:
    arrange(environment, monkeypatch, variables, credentials, config)
    assert awssettings.find("bucket", **options_of(options)) is None


@pytest.mark.parametrize("bucket", ["with.dots", "bucket--use1-az4--x-s3", "Bucket", "under_score"])
def test_buckets_that_have_hosts_of_their_own_are_left_to_boto3(bucket: str) -> None:
    assert awssettings.find(bucket, **options_of({})) is None


# -- when boto3 is asked after all ---------------------------------------------------------------------------------

ASKING: list[Callable[[S3Source], Any]] = [
    lambda source: source.page("videos", ""),
    lambda source: source.stat("videos/x.mp4"),
]


@pytest.mark.parametrize("ask", ASKING, ids=["a listing", "an object"])
@pytest.mark.parametrize("fault", [fault for fault, _, _ in HOSTILE if isinstance(fault, Status)], ids=repr)
def test_a_refusal_says_the_same_as_through_boto3_and_costs_no_more_requests(
    server: S3Server, opened: Callable[..., S3Source], fault: Fault, ask: Callable[[S3Source], Any]
) -> None:
    told, requests = [], []
    for source in (opened(), through_boto3(opened())):
        server.faults = lambda request: fault
        with pytest.raises(EgofsError) as raised:
            ask(source)
        told.append((type(raised.value), str(raised.value)))
        requests.append(len(server.requests))
        server.requests.clear()
        server.faults = lambda request: None
        ask(source)
        server.requests.clear()
    assert told[0] == told[1]
    assert requests[0] <= requests[1]  # of a 400 without words, botocore asks once more than it must


def test_a_refusal_that_keys_or_regions_do_not_explain_leaves_the_way_open(server: S3Server, source: S3Source) -> None:
    for fault, kind in ((Status(404), NotFound), (Status(503), Throttled), (Status(500), Unavailable)):
        server.faults = lambda request, fault=fault: fault
        with pytest.raises(kind):
            source.stat("videos/x.mp4")
    server.faults = lambda request: None
    source.stat("videos/x.mp4")
    assert clients(server) == ["egofs"] * 4


@pytest.mark.parametrize("ask", ASKING, ids=["a listing", "an object"])
def test_who_is_denied_is_denied_once_and_the_way_stays_open(
    server: S3Server, source: S3Source, ask: Callable[[S3Source], Any]
) -> None:
    server.access_key_id = "somebody-else"
    with pytest.raises(AccessDenied, match=r"\(from env\)"):
        ask(source)
    server.access_key_id = None
    ask(source)
    assert clients(server) == ["egofs"] * 2


def test_a_region_that_is_not_told_is_asked_for_once(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Status(403, "AccessDenied")
    for _ in range(3):
        with pytest.raises(AccessDenied):
            source.stat("videos/x.mp4")
    assert [request.path for request in server.requests] == [
        "/bucket/videos/x.mp4",
        "/bucket",
        *["/bucket/videos/x.mp4"] * 2,
    ]
    assert "authorization" not in server.requests[1].headers


def test_a_store_that_tells_another_region_each_time_is_not_followed_for_long(
    server: S3Server, source: S3Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vfs.sources.s3")
    regions = [f"eu-south-{n}" for n in range(3)]
    server.faults = lambda request: Status(400, "Lost", {"x-amz-bucket-region": regions.pop()}) if regions else None
    assert source.stat("videos/x.mp4").size_bytes == len(DATA)
    assert clients(server) == ["egofs"] * 3 + ["Boto3"]
    assert [record.message for record in caplog.records if "boto3 is asked from now on" in record.message]


@pytest.mark.parametrize("region", ["", "no region", "é"])
def test_a_region_of_nonsense_is_not_gone_to(server: S3Server, source: S3Source, region: str) -> None:
    server.faults = lambda request: Status(403, "AccessDenied", {"x-amz-bucket-region": region})
    with pytest.raises(AccessDenied):
        source.stat("videos/x.mp4")
    assert {client_of(request) for request in server.requests} == {"egofs"}


@pytest.mark.parametrize("fault", [HangUp(), Status(301), Status(304), Body(b"<html>a portal"), Body(b"")], ids=repr)
def test_what_cannot_be_explained_is_asked_again_through_boto3_and_so_is_all_else(
    server: S3Server, source: S3Source, fault: Fault
) -> None:
    server.faults = lambda request: fault if client_of(request) == "egofs" else None
    assert [entry.name for entry in source.page("videos", "").listed] == ["x.mp4"]
    assert clients(server) == ["egofs", "Boto3"]
    obj = source.stat("videos/x.mp4")
    assert source.read(obj, 0, 10) == DATA[:10]
    assert clients(server) == ["Boto3", "object_store"]


def test_a_listing_that_is_cut_off_is_asked_again_through_boto3(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Truncate(50) if client_of(request) == "egofs" else None
    assert [entry.name for entry in source.page("videos", "").listed] == ["x.mp4"]
    assert clients(server) == ["egofs", "Boto3"]


def test_a_range_that_cannot_be_explained_is_asked_once_more_and_then_all_is_boto3s(
    server: S3Server, source: S3Source
) -> None:
    obj = source.stat("videos/x.mp4")
    server.requests.clear()
    server.faults = lambda request: Body(b"a portal") if client_of(request) == "object_store" else None
    assert source.read(obj, 0, 10) == DATA[:10]
    assert clients(server) == ["object_store", "Boto3"]
    server.faults = lambda request: None
    assert source.read(obj, 0, 10) == DATA[:10]
    source.stat("videos/x.mp4")
    assert clients(server) == ["object_store", "Boto3"]


def test_new_keys_in_the_file_are_asked_with_though_the_old_ones_were_refused_directly(
    server: S3Server, opened: Callable[..., S3Source], environment: Path
) -> None:
    file = environment / ".aws/credentials"
    file.write_text(FILED)
    source = opened(aws_profile="lab")
    obj = source.stat("videos/x.mp4")
    server.requests.clear()
    for ask, asker in (
        (lambda: source.stat("videos/x.mp4"), "egofs"),
        (lambda: source.page("videos", ""), "egofs"),
        (lambda: source.read(obj, 0, 10), "object_store"),
    ):
        server.access_key_id = "new"
        with pytest.raises(AccessDenied, match=r"profile 'lab' \(from shared-credentials-file\)"):
            ask()
        server.requests.clear()
        file.write_text(FILED.replace("filed", "new"))
        ask()
        assert clients(server) == [asker] * 2
        ask()
        assert clients(server) == [asker]
        server.access_key_id = "filed"
        file.write_text(FILED)
        ask()
        server.requests.clear()


def test_a_file_of_keys_that_was_not_written_to_is_read_once_and_not_for_each_refusal(
    server: S3Server, opened: Callable[..., S3Source], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = environment / ".aws/credentials"
    file.write_text(FILED)
    reads: list[object] = []
    read = configparser.RawConfigParser.read
    monkeypatch.setattr(configparser.RawConfigParser, "read", lambda *given: reads.append(given) or read(*given))
    monkeypatch.setattr(awssettings, "_TICK_S", -1)  # as though it had been written long ago
    server.access_key_id = "new"
    for source in [opened(aws_profile="lab") for _ in range(3)]:
        for _ in range(3):
            with pytest.raises(AccessDenied):
                source.stat("videos/x.mp4")
    assert len(reads) == 1
    file.write_text(FILED.replace("filed", "new"))
    for source in [opened(aws_profile="lab") for _ in range(3)]:
        source.stat("videos/x.mp4")
    assert len(reads) == 2


def test_a_file_that_was_written_twice_within_a_tick_is_read_twice(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = environment / ".aws/credentials"
    facts = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda *_, **__: facts)  # whatever is written to the file
    monkeypatch.setattr(awssettings, "_TICK_S", float("inf"))
    for key_id in ("old", "new"):
        file.write_text(FILED.replace("filed", key_id))
        found = awssettings.find("bucket", **options_of(LAB))
        assert found is not None
        assert found[1] == (key_id, "kept", "")


def test_keys_that_are_out_of_the_ordinary_by_now_are_boto3s(
    server: S3Server, opened: Callable[..., S3Source], environment: Path
) -> None:
    file = environment / ".aws/credentials"
    file.write_text(FILED)
    source = opened(aws_profile="lab")
    server.access_key_id = "new"
    file.write_text(FILED.replace("filed", "new") + "x = y\n")
    assert source.stat("videos/x.mp4").size_bytes == len(DATA)
    assert clients(server) == ["egofs", "Boto3"]


@pytest.mark.parametrize("ask", ASKING, ids=["a listing", "an object"])
def test_a_timeout_is_told_in_boto3s_words_and_asked_once(
    server: S3Server, opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, ask: Callable[[S3Source], Any]
) -> None:
    monkeypatch.setattr(bulk, "IDLE_S", 0.2)
    waiting = threading.Event()

    def stall(request: Request) -> Fault | None:
        waiting.wait(1)
        return None

    said = []
    for source in (opened(), through_boto3(opened())):
        server.faults = stall
        with pytest.raises(Timeout) as raised:
            ask(source)
        said.append(str(raised.value).partition(": ")[2].partition('"')[0])
        assert len(server.requests) == 1
        server.requests.clear()
    waiting.set()
    assert said[0] == said[1]
    server.faults = lambda request: Stall(5, after_bytes=20)
    with pytest.raises(Timeout):
        opened().page("videos", "")
    assert clients(server) == ["egofs"]


def test_a_store_that_cannot_be_reached_in_time_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(connection: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    bucket = direct.Bucket(bulk.Place("http://127.0.0.1:9/bucket", "us-east-1"), KEYS)
    with pytest.raises(Timeout, match=r"list: Connect timeout .*http://127\.0\.0\.1:9/bucket"):
        bucket.page("list", {})


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_cannot_be_is_boto3s_to_explain(host: str) -> None:
    source = open_source("s3://bucket", endpoint_url=f"http://{host}")
    with pytest.raises(EgofsError):
        source.stat("x")
    assert isinstance(source, S3Source)
    assert source._direct is not None
    assert source._direct_is_over
    source.close()


@pytest.mark.parametrize("header", ["Content-Length", "Last-Modified"])
def test_an_object_without_a_size_or_with_a_date_of_nonsense_is_boto3s_to_tell(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    def ask(self: Any, *_: Any) -> tuple[dict[str, str], bytes]:
        return {"content-length": "1", "last-modified": "Sat, 21 Nov 2026 08:00:00 GMT", header.lower(): "-"}, b""

    monkeypatch.setattr(direct.Bucket, "_ask", ask)
    assert source.stat("videos/x.mp4").size_bytes == len(DATA)
    assert clients(server) == ["Boto3"]


# -- answers -------------------------------------------------------------------------------------------------------


def test_an_object_is_the_same_as_through_boto3(opened: Callable[..., S3Source]) -> None:
    assert opened().stat("videos/x.mp4") == through_boto3(opened()).stat("videos/x.mp4")


def test_an_error_without_a_body_is_told_in_the_words_of_http() -> None:
    assert answers.code_and_message(503, "") == ("503", "Service Unavailable")
    assert answers.code_and_message(599, "") == ("599", "")
    assert answers.code_and_message(400, "<Error><Code>A&amp;B</Code><Message>\nno</Message>") == ("A&B", "\nno")


# -- connections ---------------------------------------------------------------------------------------------------


def test_questions_one_after_another_use_one_connection(server: S3Server, source: S3Source) -> None:
    for _ in range(10):
        source.stat("videos/x.mp4")
        list(source.list("videos"))
    assert len(server.connections) == 1


def test_a_connection_that_the_store_has_closed_is_not_asked_on(server: S3Server, source: S3Source) -> None:
    source.stat("videos/x.mp4")
    with server.lock:
        (connection,) = server.connections
    connection.shutdown(2)
    source.stat("videos/x.mp4")
    assert clients(server) == ["egofs", "egofs"]


def test_many_ask_at_once_and_each_gets_its_own_answer(server: S3Server, source: S3Source, tmp_path: Path) -> None:
    for n in range(16):
        (tmp_path / f"store/bucket/{n}").write_bytes(bytes(n))
    together = threading.Barrier(16)
    wrong: list[int] = []

    def ask(n: int) -> None:
        together.wait()
        for _ in range(5):
            if source.stat(str(n)).size_bytes != n:
                wrong.append(n)

    threads = [threading.Thread(target=ask, args=[n]) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert clients(server) == ["egofs"] * 80
    assert len(server.connections) <= 16
    assert source._direct is not None
    source.close()
    assert source._direct._idle == []


def test_no_more_connections_are_kept_than_boto3_would_keep(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CONNECTIONS", 0)
    bucket = source._direct
    assert bucket is not None
    source.stat("videos/x.mp4")
    assert bucket._idle == []


# -- TLS -----------------------------------------------------------------------------------------------------------


def test_the_authorities_are_those_that_boto3_trusts() -> None:
    assert direct._authorities() == botocore.httpsession.where()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_looked_at_before_anything_is_asked(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool
) -> None:
    authority, chain = tmp_path / "authority.pem", tmp_path / "chain.pem"
    make_certificate(authority, chain)
    if trusted:
        monkeypatch.setattr(direct, "_authorities", lambda: str(authority))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    with S3Server(tmp_path / "store") as safe:
        safe.wrap(tls)
        source = open_source("s3://bucket", endpoint_url=f"https://localhost:{safe.port}")
        if trusted:
            assert source.stat("videos/x.mp4").size_bytes == len(DATA)
            assert clients(safe) == ["egofs"]
        else:
            with pytest.raises(Unavailable, match="SSL validation failed"):
                source.stat("videos/x.mp4")
            assert safe.requests == []
        source.close()
