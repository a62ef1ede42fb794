"""Buckets of S3, and of stores that speak its protocol, as a source.

It hides boto3: sessions, profiles, signatures, regions, and its hundred exceptions. Found by its URL, s3://BUCKET or
s3://BUCKET/PREFIX. Only GET and HEAD are ever sent. It does not retry: botocore's own retries are off.

Any thread may enter; a client serves all threads, and `_Access` makes a new one where the old one is refused:
* a bucket may be in any region and must be addressed with that one. botocore follows the redirects of a store; where
  a store refuses instead, HEAD on the bucket tells the region in a header, even to those who may not enter;
* keys end (those of a licence after 14 days), and new ones are written into ~/.aws/credentials while the mount lives.

`_fetch` is the one place through which bytes come: a faster client for ranges takes its place and nothing else.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import boto3.exceptions
import boto3.session
import botocore
import botocore.exceptions
import botocore.parsers
import pydantic
import urllib3.exceptions
from botocore.config import Config

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
from vfs.extent import http_range, parse_content_range
from vfs.sources import Listed, ObjectInfo

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# botocore tells at INFO where it found credentials, once a client: that is ours to say, when they are refused.
logging.getLogger("botocore").setLevel(logging.WARNING)

_CONNECT_S = 5
_IDLE_S = 10  # without a byte
# A body slower than this is given up: 1 MiB then has 42 s, and a server that drips a byte a second does not hold a
# reader for days. A minute is the most that any one answer may take, whatever was asked for.
_LOWEST_BYTES_PER_S = 32 << 10
_LONGEST_BODY_S = 60.0
# One receive; sockets give 64 to 200 KiB at a time, and a larger buffer is only allocated and shrunk again.
_PIECE_BYTES = 256 << 10
_CONNECTIONS = 64
_FIRST_REGION = "us-east-1"  # the one region whose endpoint knows where every other bucket is

_RENEW = (
    "licence keys of these datasets end 14 days after issue: put new keys into ~/.aws/credentials, "
    "they are used without a remount"
)
_NO_KEYS = (
    "no credentials were found: put keys into ~/.aws/credentials and name their profile with aws_profile, "
    "or use anonymous=true for a public bucket"
)


class Options(pydantic.BaseModel):
    """The mount options of an S3 source."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    endpoint_url: str = pydantic.Field(
        "", description="URL of a store other than AWS, such as http://127.0.0.1:9000; no other setting is looked at"
    )
    region: str = pydantic.Field("", description="region to try first; a bucket's own is found out if it differs")
    addressing_style: Literal["auto", "path", "virtual"] = pydantic.Field(
        "auto", description="where the bucket stands in a request: in its path, or in the host's name (virtual)"
    )
    aws_profile: str = pydantic.Field("", description="profile of ~/.aws whose credentials are used")
    anonymous: bool = pydantic.Field(False, description="send no credentials, as public buckets allow")


def open_source(url: str, options: Options) -> "S3Source":
    """The bucket, or a folder of it, as a source. Sends nothing yet. Raises OptionError."""
    match = re.fullmatch(r"s3://([^/]*)(?:/(.*))?", url, re.IGNORECASE | re.DOTALL)
    bucket, prefix = (match[1], (match[2] or "").strip("/")) if match else ("", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", bucket):
        raise OptionError(f"{url!r} names no bucket: write s3://BUCKET or s3://BUCKET/PREFIX")
    if options.endpoint_url and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", options.endpoint_url):
        raise OptionError(f"endpoint_url={options.endpoint_url!r} is no URL: write http://HOST:PORT or https://HOST")
    if options.region and not re.fullmatch(r"[A-Za-z0-9-]{1,63}", options.region):
        raise OptionError(f"region={options.region!r} is no region: write one such as eu-west-2")
    if options.anonymous and options.aws_profile:
        raise OptionError("anonymous=true sends no credentials: leave out aws_profile, or anonymous")
    try:
        _session(options)
    except botocore.exceptions.BotoCoreError as failure:
        raise OptionError(f"aws_profile={options.aws_profile}: {failure}: see ~/.aws") from failure
    return S3Source(bucket, prefix, options)


class S3Source:
    """A bucket, or what stands below a prefix of it; see the module's docstring."""

    remote = True

    def __init__(self, bucket: str, prefix: str, options: Options) -> None:
        endpoint = options.endpoint_url.rstrip("/")
        self._place = f"s3://{bucket}/{prefix}".rstrip("/")
        # Another store's bucket of the same name holds other objects.
        self.url = f"s3+{endpoint}/{bucket}/{prefix}".rstrip("/") if endpoint else self._place
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._access = _Access(bucket, options)
        self._logged: set[str] = set()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder, page by page; one request for each thousand names."""
        what = f"list {self._place}/{folder}".rstrip("/")
        prefix = f"{self._prefix}{_valid(folder)}/" if folder else self._prefix
        empty = True
        for page in self._pages(what, prefix):
            for part in page.get("CommonPrefixes", []):
                empty = False
                name = _name(part, "Prefix", prefix, what).removesuffix("/")
                if name:
                    yield Listed(name, "dir")
                else:
                    self._leave_out(part["Prefix"])
            for item in page.get("Contents", []):
                empty = False
                name = _name(item, "Key", prefix, what)
                if name:  # else it is the folder's own marker
                    key = item["Key"].removeprefix(self._prefix)
                    yield Listed(name, "file", _object(key, item, "Size", what))
        if empty and prefix:
            raise NotFound(f"{what}: there is no such folder, nor any object below it")

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from one HEAD."""
        name = self._prefix + _valid(key)
        what = f"stat {self._place}/{key}"
        answer = self._ask(what, lambda client: client.head_object(Bucket=self._bucket, Key=name))
        return _object(key, answer, "ContentLength", what)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes, from one GET that the store answers for this version only."""
        what = f"read {length} bytes at {start} of {self._place}/{obj.key}"
        return self._ask(what, lambda client: self._fetch(client, what, obj, start, length))

    def close(self) -> None:
        """Ends the connections."""
        self._access.close()

    # -- asking -----------------------------------------------------------------------------------------------

    def _pages(self, what: str, prefix: str) -> Iterator[Mapping[str, Any]]:
        """The pages of a listing, with folders rolled up."""
        wanted = {"Bucket": self._bucket, "Prefix": prefix, "Delimiter": "/"}
        while True:
            page = self._ask(what, lambda client: client.list_objects_v2(**wanted))
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken", "")
            if token in ("", wanted.get("ContinuationToken")):
                raise CorruptData(f"{what}: the store says there is more, and not where")
            wanted["ContinuationToken"] = token

    def _ask(self, what: str, question: Callable[[Any], _T]) -> _T:
        """The answer of the client at hand, or of a better one where that one is refused."""
        try:
            client = self._access.client()
            # Twice there may be a better one: in the bucket's region, and with new keys.
            for _ in range(2):
                try:
                    return question(client)
                except botocore.exceptions.ClientError as failure:
                    refusal = self._translated(failure, what)
                    if not isinstance(refusal, AccessDenied):
                        raise refusal from failure
                    better = self._access.better_than(client, failure)
                    if better is None:
                        raise refusal from failure
                client = better
            return question(client)
        except _SDK_FAILURES as failure:
            raise self._translated(failure, what) from failure

    def _fetch(self, client: Any, what: str, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes of the range of this version, whole."""
        pinned = {"IfMatch": f'"{obj.version}"'} if obj.version else {}
        name = self._prefix + _valid(obj.key)
        asked_at = time.monotonic()
        answer = client.get_object(Bucket=self._bucket, Key=name, Range=http_range(start, length), **pinned)
        with answer["Body"] as body:  # closes the connection too, unless the body was read to its end
            _require_range(answer, what, obj, start, length)
            deadline = asked_at + min(_LONGEST_BODY_S, _IDLE_S + length / _LOWEST_BYTES_PER_S)
            return _drain(body, what, length, deadline)

    def _translated(self, failure: BaseException, what: str) -> EgofsError:
        """Our failure for one of the SDK's, with what a person can do about it."""
        if isinstance(failure, botocore.exceptions.ClientError):
            return _translated_answer(failure, what, self._bucket, self._access.who())
        kind = meaning_of(type(failure))
        if isinstance(failure, botocore.exceptions.NoCredentialsError):
            return kind(f"{what}: {_NO_KEYS}")
        advice = f": {_RENEW}" if kind is AccessDenied else ""
        return kind(f"{what}: {failure}{advice}")

    def _leave_out(self, key: str) -> None:
        if key not in self._logged and len(self._logged) < 1000:
            self._logged.add(key)
            _log.warning("s3://%s/%s is left out: a folder without a name cannot be shown", self._bucket, key)


class _Access:
    """The client of a bucket, and how a better one is had. `_lock` is over all that it keeps; nothing is sent
    under it."""

    def __init__(self, bucket: str, options: Options) -> None:
        self._bucket = bucket
        self._options = options
        self._lock = threading.Lock()
        self._client: Any = None
        self._keys: tuple[str, ...] = ()
        self._method = ""
        self._region = options.region
        self._region_is_known = False

    def client(self) -> Any:
        """The client at hand, made where there is none. Raises the SDK's errors."""
        with self._lock:
            if self._client is None:
                self._open()
            return self._client

    def better_than(self, refused: Any, failure: botocore.exceptions.ClientError) -> Any | None:
        """Another client than the one that was refused; None where neither its region nor its keys were at fault."""
        region = self._told_region(refused, failure)
        with self._lock:
            if self._client is not refused:  # another thread has been here
                return self._client
            if region and region != refused.meta.region_name:
                self._region = region
            elif self._options.anonymous or self._current_keys() == self._keys:
                return None
            self._open()
            return self._client

    def who(self) -> str:
        """Whose credentials were sent, for a person to find them."""
        if self._options.anonymous:
            return "anonymous reading"
        profile = f"profile {self._options.aws_profile!r}" if self._options.aws_profile else "the credentials"
        return f"{profile} (from {self._method or 'nowhere'})"

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _open(self) -> None:
        """Makes a client, with the keys that are there now."""
        session = _session(self._options)
        if not self._options.anonymous:
            self._keys, self._method = _keys_of(session)
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_IDLE_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            signature_version=botocore.UNSIGNED if self._options.anonymous else "s3v4",
            s3={"addressing_style": self._options.addressing_style},
            # A checksum is of a whole object: stores that send it with a range would fail every read.
            response_checksum_validation="when_required",
            # A source's URL names its store: no file or variable may put another in its place.
            ignore_configured_endpoint_urls=True,
        )
        self._client = session.client(
            "s3",
            endpoint_url=self._options.endpoint_url or None,
            region_name=self._region or session.region_name or _FIRST_REGION,
            config=config,
        )

    def _current_keys(self) -> tuple[str, ...]:
        return _keys_of(_session(self._options))[0]

    def _told_region(self, client: Any, failure: botocore.exceptions.ClientError) -> str:
        """The bucket's region from the headers of a refusal, else, once, of HEAD on the bucket; "" if neither tells."""
        region = _region_in(failure.response)
        if not region and not self._region_is_known:
            try:
                region = _region_in(client.head_bucket(Bucket=self._bucket))
            except botocore.exceptions.ClientError as refusal:
                region = _region_in(refusal.response)
        self._region_is_known = True
        return region


def _session(options: Options) -> boto3.session.Session:
    return boto3.session.Session(profile_name=options.aws_profile or None)


def _keys_of(session: boto3.session.Session) -> tuple[tuple[str, ...], str]:
    """The keys that a session finds now, and by which of botocore's methods."""
    credentials = session.get_credentials()
    if credentials is None:
        raise botocore.exceptions.NoCredentialsError
    frozen = credentials.get_frozen_credentials()
    return (frozen.access_key, frozen.secret_key, frozen.token or ""), credentials.method


def _region_in(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


# -- names and objects ------------------------------------------------------------------------------------------


def _valid(name: str) -> str:
    """The name, where an S3 key can hold it: keys are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as failure:
        raise NotFound(f"{name!r} cannot be a key: it is not UTF-8") from failure
    return name


def _name(listed: Mapping[str, Any], field: str, prefix: str, what: str) -> str:
    key = str(listed.get(field, ""))
    if not key.startswith(prefix):
        raise CorruptData(f"{what}: the store listed {key!r}, which does not stand there")
    return key.removeprefix(prefix)


def _object(key: str, facts: Mapping[str, Any], size_field: str, what: str) -> ObjectInfo:
    if size_field not in facts:
        raise CorruptData(f"{what}: the store does not tell the size of {key!r}")
    # Whole seconds: HEAD tells no more, and some stores' listings do.
    mtime_s = int(facts["LastModified"].timestamp()) if "LastModified" in facts else 0
    return ObjectInfo(key, facts[size_field], mtime_s * 1_000_000_000, str(facts.get("ETag", "")).strip('"'))


# -- bytes ------------------------------------------------------------------------------------------------------


def _require_range(answer: Mapping[str, Any], what: str, obj: ObjectInfo, start: int, length: int) -> None:
    """Raises where an answer is of another version or range, before any of it is read."""
    etag = str(answer.get("ETag", "")).strip('"')
    if obj.version and etag not in ("", obj.version):
        raise Changed(f"{what}: the object has been replaced: open it again")
    if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
        try:
            came = parse_content_range(answer.get("ContentRange", ""))
        except ValueError as failure:
            raise CorruptData(f"{what}: {failure}") from failure
        if came[:2] != (start, length) or came[2] not in (None, obj.size_bytes):
            raise CorruptData(f"{what}: bytes of another range came: {answer['ContentRange']}")
    elif (start, length) != (0, obj.size_bytes):
        raise CorruptData(f"{what}: the whole object came instead of a range; does the endpoint serve ranges?")


def _drain(body: urllib3.HTTPResponse, what: str, length: int, deadline: float) -> bytes:
    """Exactly `length` bytes of a body that has no more."""
    parts = []
    missing = length
    while piece := body.read1(min(missing, _PIECE_BYTES) or 1):
        parts.append(piece)
        missing -= len(piece)
        if missing < 0:
            raise CorruptData(f"{what}: more bytes came")
        if missing and time.monotonic() > deadline:
            raise Timeout(f"{what}: {length - missing} bytes came so far, which is too slow")
    if missing:
        raise CorruptData(f"{what}: the answer ended after {length - missing} bytes")
    return b"".join(parts)


# -- failures ---------------------------------------------------------------------------------------------------

# What each exception means, by the name of its class or of one it derives from, the nearest first: by name, because
# botocore adds classes in every release and a range of releases is supported. A test holds that none is left out.
_NAMES_BY_MEANING: dict[type[EgofsError], str] = {
    Timeout: "ConnectTimeoutError ReadTimeoutError TimeoutError",
    Unavailable: "ConnectionError HTTPClientError HTTPError CapacityNotAvailableError MetadataRetrievalError",
    CorruptData: "IncompleteReadError ChecksumError FlexibleChecksumError ResponseParserError ValueError",
    # At a mount's start open_source makes option errors of those about files; later somebody is editing them.
    AccessDenied: """
        NoCredentialsError PartialCredentialsError CredentialRetrievalError NoAuthTokenError TokenRetrievalError
        UnknownTokenProviderError UnknownCredentialError SSOError LoginError RefreshWithMFAUnsupportedError
        InvalidConfigError ConfigParseError ConfigNotFound ProfileNotFound MissingDependencyException
        InvalidIMDSEndpointError InvalidIMDSEndpointModeError""",
    OptionError: """
        BaseEndpointResolverError EndpointProviderError InvalidRegionError UnknownRegionError InvalidDNSNameError
        InvalidS3AddressingStyleError InvalidHostLabelError InvalidProxiesConfigError UnsupportedS3ConfigurationError
        InvalidEndpointConfigurationError InvalidRetryConfigurationError InvalidDefaultsMode
        InvalidChecksumConfigError InvalidS3UsEast1RegionalEndpointConfigError InvalidSTSRegionalEndpointsConfigError
        InvalidEndpointDiscoveryConfigurationError""",
    # What only comes of calling the SDK in ways that this module does not, or of a broken installation.
    SourceError: """
        ClientError Boto3Error DataNotFoundError ApiVersionNotFoundError ServiceNotInRegionError ValidationError
        ParamValidationError MissingParametersError UnknownSignatureVersionError UnsupportedSignatureVersionError
        UnknownServiceStyle PaginationError OperationNotPageableError UnseekableStreamError WaiterError
        WaiterConfigError InvalidExpressionError UnknownClientMethodError UnsupportedS3ArnError
        UnsupportedS3ControlArnError UnsupportedOutpostResourceError UnsupportedS3AccesspointConfigurationError
        UnsupportedS3ControlConfigurationError StubResponseError MD5UnavailableError UndefinedModelAttributeError
        AwsChunkedWrapperError UnsupportedServiceProtocolsError""",
}
_MEANING = {name: kind for kind, names in _NAMES_BY_MEANING.items() for name in names.split()}

# ValueError: botocore lets it through for dates and numbers that it cannot read.
_SDK_FAILURES = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    botocore.exceptions.UndefinedModelAttributeError,
    botocore.parsers.ResponseParserError,
    boto3.exceptions.Boto3Error,
    urllib3.exceptions.HTTPError,
    ValueError,
)

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
# Refusals that come as 400. A HEAD has no body and its code is the bare status: that is an ended token there.
_REFUSED = {
    "400", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}  # fmt: skip


def meaning_of(kind: type[BaseException]) -> type[EgofsError]:
    """Our failure for a class of the SDK's exceptions; SourceError for those that the table does not name."""
    return next((_MEANING[base.__name__] for base in kind.__mro__ if base.__name__ in _MEANING), SourceError)


def _meaning_of_answer(status: int, code: str) -> type[EgofsError]:
    """Our failure for an error that the store answered."""
    if status == 404 or code in ("NoSuchKey", "NoSuchBucket", "KeyTooLongError"):
        return NotFound
    if status in (412, 416):  # 416: the range lay within the object that was opened, so this is another
        return Changed
    if status == 429 or code in _THROTTLED or (status == 503 and code == "503"):  # HEAD has no body to say SlowDown
        return Throttled
    if status == 408 or code == "RequestTimeout":
        return Timeout
    if status == 403 and code == "InvalidObjectState":  # archived: no credentials help
        return SourceError
    if status in (401, 403) or (status == 400 and code in _REFUSED):
        return AccessDenied
    return Unavailable if status >= 500 else SourceError


def _translated_answer(failure: botocore.exceptions.ClientError, what: str, bucket: str, who: str) -> EgofsError:
    """Our failure for an error that the store answered, with what a person can do."""
    answer = failure.response
    error, metadata = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    status, code = int(metadata.get("HTTPStatusCode", 0)), str(error.get("Code", ""))
    said = " ".join(f"{code} {error.get('Message', '')}".split())
    kind = _meaning_of_answer(status, code)
    if kind is NotFound:
        named = (
            f"there is no bucket {bucket!r}: check its name" if code == "NoSuchBucket" else "there is no such object"
        )
        return kind(f"{what}: {named}")
    if kind is Changed:
        return kind(f"{what}: the object has been replaced: open it again")
    if kind is AccessDenied and who == "anonymous reading":
        return kind(f"{what}: refused to {who} ({said}): give aws_profile, the name of a profile in ~/.aws")
    if kind is AccessDenied:
        return kind(f"{what}: refused to {who} ({said}): {_RENEW}")
    ours = kind(f"{what}: {said}")
    retry_after = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
    if retry_after.isdecimal():
        ours.retry_after_s = float(retry_after)
    return ours
