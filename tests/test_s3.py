"""S3 in particular: requests and their number, hostile answers, regions, credentials, and every error botocore has."""

import json
import logging
import os
import string
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.parsers
import pytest
import urllib3.exceptions

from tests.s3server import (
    Body,
    Cut,
    Drip,
    Fault,
    Garble,
    HangUp,
    S3Server,
    Shift,
    Stall,
    Status,
    Truncate,
    Whole,
)
from tests.test_sources import KEYS, moto_endpoint, open_source
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
from vfs.sources import s3
from vfs.sources.s3 import S3Source

DATA = bytes(range(256)) * 400  # 102,400 bytes


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of credentials, with a profile `lab`; keys without a profile come from the environment."""
    file = tmp_path / "credentials"
    write_keys(file, "old")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
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


def asked(server: S3Server) -> list[tuple[str, str, str]]:
    """What was asked, and forgets it."""
    found = [(request.method, request.path, request.range) for request in server.requests]
    server.requests.clear()
    return found


# -- what is asked -------------------------------------------------------------------------------------------------


def test_each_call_is_one_request_and_opening_is_none(server: S3Server, source: S3Source) -> None:
    assert asked(server) == []
    list(source.list("videos"))
    assert asked(server) == [("GET", "/bucket", "")]
    obj = source.stat("videos/x.mp4")
    assert asked(server) == [("HEAD", "/bucket/videos/x.mp4", "")]
    assert source.read(obj, 1000, 24) == DATA[1000:1024]
    assert asked(server) == [("GET", "/bucket/videos/x.mp4", "bytes=1000-1023")]


def test_a_listing_is_one_request_a_page(server: S3Server, source: S3Source, tmp_path: Path) -> None:
    for n in range(250):
        (tmp_path / f"store/bucket/videos/{n}").touch()
    server.max_keys = 100
    assert len(list(source.list("videos"))) == 251
    assert len(server.requests) == 3
    assert {request.query["prefix"] for request in server.requests} == {"videos/"}


def test_reads_one_after_another_use_one_connection(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    for start in range(0, 100_000, 10_000):
        source.read(obj, start, 1000)
    assert len(server.connections) == 1


def test_a_read_is_pinned_to_the_version_by_if_match(server: S3Server, source: S3Source) -> None:
    obj = source.stat("videos/x.mp4")
    source.read(obj, 0, 10)
    assert server.requests[-1].headers["if-match"] == f'"{obj.version}"'


def test_failures_are_not_tried_again_here(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Status(500)
    for ask in (lambda: list(source.list("")), lambda: source.stat("x")):
        with pytest.raises(Unavailable):
            ask()
    assert len(server.requests) == 2


# -- hostile answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Truncate(5000), CorruptData),
        (Truncate(0), CorruptData),
        (Whole(), CorruptData),
        (Shift(1), CorruptData),
        (Cut(1), CorruptData),
        (Body(b"<html>a captive portal</html>"), CorruptData),
        (Body(bytes(10_000)), CorruptData),
        (HangUp(), Unavailable),
        (Status(500), Unavailable),
        (Status(502, "BadGateway"), Unavailable),
        (Status(503, "SlowDown"), Throttled),
        (Status(503, "ServiceUnavailable"), Unavailable),
        (Status(429, "TooManyRequests"), Throttled),
        (Status(400, "RequestTimeout"), Timeout),
        (Status(408, "TooSlow"), Timeout),
        (Status(403, "AccessDenied"), AccessDenied),
        (Status(401, "Unauthorized"), AccessDenied),
        (Status(400, "ExpiredToken"), AccessDenied),
        (Status(403, "InvalidAccessKeyId"), AccessDenied),
        (Status(403, "SignatureDoesNotMatch"), AccessDenied),
        (Status(403, "InvalidObjectState"), SourceError),
        (Status(404, "NoSuchKey"), NotFound),
        (Status(404, "NoSuchBucket"), NotFound),
        (Status(412, "PreconditionFailed"), Changed),
        (Status(416, "InvalidRange"), Changed),
        (Status(400, "InvalidArgument"), SourceError),
        (Status(501, "NotImplemented"), Unavailable),
    ],
    ids=repr,
)
def test_an_answer_that_is_not_the_range_is_an_error(
    server: S3Server, source: S3Source, fault: Fault, kind: type[EgofsError]
) -> None:
    obj = source.stat("videos/x.mp4")
    server.faults = lambda request: fault
    with pytest.raises(kind) as raised:
        source.read(obj, 100, 10_000)
    assert type(raised.value) is kind
    assert "videos/x.mp4" in str(raised.value)
    assert "\n" not in str(raised.value)
    server.faults = lambda request: None
    assert source.read(obj, 100, 10_000) == DATA[100:10_100]


@pytest.mark.parametrize("fault", [Whole(), Truncate(10), Cut(7)], ids=repr)
def test_the_whole_object_may_come_as_200_but_only_whole(server: S3Server, source: S3Source, fault: Fault) -> None:
    obj = source.stat("videos/x.mp4")
    server.faults = lambda request: fault
    if fault == Whole():
        assert source.read(obj, 0, len(DATA)) == DATA
    else:
        with pytest.raises(CorruptData):
            source.read(obj, 0, len(DATA))


def test_a_store_that_ignores_if_match_is_found_out_by_its_etag(
    server: S3Server, source: S3Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = source.stat("videos/x.mp4")
    (tmp_path / "store/bucket/videos/x.mp4").write_bytes(bytes(len(DATA)))
    fetch = S3Source._fetch
    monkeypatch.setattr(S3Source, "_fetch", lambda self, client, *rest: fetch(self, WithoutIfMatch(client), *rest))
    with pytest.raises(Changed):
        source.read(obj, 0, 10)
    assert "if-match" not in server.requests[-1].headers


class WithoutIfMatch:
    """A client that drops the header, so that the server answers as one that ignores it."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def get_object(self, **wanted: Any) -> Any:
        wanted.pop("IfMatch")
        return self.client.get_object(**wanted)


def test_a_stall_times_out(server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_IDLE_S", 0.2)
    obj = source.stat("videos/x.mp4")
    for fault in (Stall(30), Stall(30, after_bytes=50)):
        server.faults = lambda request, fault=fault: fault
        with pytest.raises(Timeout):
            source.read(obj, 0, 10_000)


def test_a_drip_times_out_though_bytes_keep_coming(
    server: S3Server, source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = source.stat("videos/x.mp4")
    monkeypatch.setattr(s3, "_LONGEST_BODY_S", 0.3)
    server.faults = lambda request: Drip(1, 0.02)
    with pytest.raises(Timeout, match="too slow"):
        source.read(obj, 0, 10_000)


def test_a_store_that_is_not_there_is_unavailable_and_named(tmp_path: Path) -> None:
    with S3Server(tmp_path) as gone:
        endpoint = gone.endpoint_url
    source = open_source("s3://bucket", endpoint_url=endpoint)
    with pytest.raises(Unavailable, match=endpoint):
        source.stat("x")


def test_how_long_a_throttling_store_asks_to_wait_is_carried(server: S3Server, source: S3Source) -> None:
    server.faults = lambda request: Status(503, "SlowDown", {"Retry-After": "7"})
    for ask in (lambda: list(source.list("")), lambda: source.stat("x")):  # HEAD has no body to say SlowDown
        with pytest.raises(Throttled) as raised:
            ask()
        assert vars(raised.value)["retry_after_s"] == 7


LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'


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


def test_no_variable_puts_another_store_in_the_place_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    source = open_source("s3://bucket", region="eu-west-2")
    assert isinstance(source, S3Source)
    assert source._access.client().meta.endpoint_url == "https://s3.eu-west-2.amazonaws.com"
    source.close()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("s3://", {}, "names no bucket"),
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


# -- credentials ---------------------------------------------------------------------------------------------------


def test_ended_keys_are_denied_with_advice_and_new_ones_work_at_once(
    server: S3Server, opened: Callable[..., S3Source], credentials: Path
) -> None:
    server.access_key_id = "old"
    source = opened(aws_profile="lab")
    obj = source.stat("videos/x.mp4")
    server.access_key_id = "new"
    for ask in (lambda: source.read(obj, 0, 10), lambda: source.stat("videos/x.mp4"), lambda: list(source.list(""))):
        with pytest.raises(AccessDenied, match=r"profile 'lab' \(from shared-credentials-file\).*14 days.*~/.aws"):
            ask()
    write_keys(credentials, "new")
    server.requests.clear()
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(server.requests) == 2
    assert source.read(obj, 0, 10) == DATA[:10]
    assert len(server.requests) == 3


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


def test_no_credentials_at_all_says_what_to_do(
    opened: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDenied, match=r"~/\.aws/credentials.*anonymous=true"):
        opened().stat("videos/x.mp4")


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
    assert any(base.__name__ in s3._MEANING for base in kind.__mro__), f"add {kind.__name__} to _NAMES_BY_MEANING"
    with pytest.raises(EgofsError) as raised:
        asking._ask("stat s3://bucket/x", raising(example(kind)))
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
        asking._ask("stat", raising(failure))


def test_an_error_that_botocore_will_add_becomes_ours_too(asking: S3Source) -> None:
    class BrandNewError(botocore.exceptions.BotoCoreError):
        fmt = "news"

    with pytest.raises(SourceError, match="news"):
        asking._ask("stat", raising(BrandNewError()))


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
