"""boto3, for one bucket: sessions, profiles, credentials, clients, regions, and what its hundred exceptions mean.

The S3 source asks through `Access.ask`, with a question to a client; botocore's own retries are off. It knows neither
folders nor ranges, but tells bulk.py, which fetches ranges without it, where the bucket is and by which keys. It takes
a tenth of a second to import, so that the source imports it when there is something that only boto3 can answer.

Any thread may enter; a client serves all threads, and a new one is made where the old one is refused:
* a bucket may be in any region and must be addressed with that one. botocore follows the redirects of a store; where
  a store refuses instead, HEAD on the bucket tells the region in a header, even to those who may not enter;
* keys end (those of a licence after 14 days), and new ones are written into ~/.aws/credentials while the mount lives.
"""

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import boto3.exceptions
import boto3.session
import botocore
import botocore.exceptions
import botocore.loaders
import botocore.parsers
import botocore.session
import botocore.utils
import urllib3.exceptions
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from vfs import answers, bucketlist, bulk
from vfs.errors import (
    AccessDenied,
    CorruptData,
    EgofsError,
    OptionError,
    SourceError,
    Timeout,
    Unavailable,
)

_T = TypeVar("_T")

# botocore tells at INFO where it found credentials, once a client: that is ours to say, when they are refused.
logging.getLogger("botocore").setLevel(logging.WARNING)

_FIRST_REGION = "us-east-1"  # the one region whose endpoint knows where every other bucket is

_NO_KEYS = (
    "no credentials were found: put keys into ~/.aws/credentials and name their profile with aws_profile, "
    "or use anonymous=true for a public bucket"
)


def check_profile(profile: str) -> None:
    """Raises OptionError where ~/.aws has no such profile, or cannot be read."""
    try:
        _core(profile).get_scoped_config()
    except botocore.exceptions.BotoCoreError as failure:
        raise OptionError(f"aws_profile={profile}: {failure}: see ~/.aws") from failure


def found(profile: str) -> tuple[str, float]:
    """By which method boto3 finds keys, and when they end (0 where it does not tell). Raises AccessDenied.

    It may ask where the keys are made: the machine's own metadata, STS, a program that ~/.aws names.
    """
    try:
        credentials = _credentials_of(_session(profile))
        _keys_of(credentials)  # some are fetched only now
    except _SDK_FAILURES as failure:
        words = _NO_KEYS if isinstance(failure, botocore.exceptions.NoCredentialsError) else f"{failure}: see ~/.aws"
        raise AccessDenied(words) from failure
    # Where it is not there, or is called otherwise in another release, it is not known.
    ends = getattr(credentials, "_expiry_time", None)
    return str(credentials.method), ends.timestamp() if isinstance(ends, datetime) else 0.0


class Access:
    """The way to one bucket. `_lock` is over all that it keeps; no object is asked for under it."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str,
        region: str,
        addressing_style: Literal["auto", "path", "virtual"],
        aws_profile: str,
        anonymous: bool,
    ) -> None:
        self._bucket = bucket
        self._endpoint_url = endpoint_url
        self._addressing_style = addressing_style
        self._profile = aws_profile
        self._anonymous = anonymous
        self._lock = threading.Lock()
        self._client: Any = None
        self._ranges: bulk.Ranges | None = None  # where the client is, with its keys; made at the first range
        self._certificates = ""
        self._credentials: Any = None
        self._keys: tuple[str, ...] = ()  # of the credentials, when the client was made
        self._region = region
        self._region_is_known = False

    def ask(
        self, what: str, question: Callable[[Any], _T], already: tuple[bulk.Refused, bulk.Ranges] | None = None
    ) -> _T:
        """The answer of the client at hand, or of a better one where that one is refused.

        `already`: a refusal of this question, asked otherwise, and where and as whom. A client that would ask there,
        as the same, does not ask again.
        """
        try:
            client = self._open_client()
            # Twice there may be a better one: in the bucket's region, and with new keys.
            for _ in range(2):
                try:
                    if already and self._asks_as(client, already[1]):
                        raise self.refusal(already[0])
                    return question(client)
                except botocore.exceptions.ClientError as failure:
                    refusal = self._translated(failure, what)
                    if not isinstance(refusal, AccessDenied):
                        raise refusal from failure
                    better = self._better_than(client, failure)
                    if better is None:
                        raise refusal from failure
                client = better
            return question(client)
        except _SDK_FAILURES as failure:
            raise self._translated(failure, what) from failure

    @staticmethod
    def refusal(refused: bulk.Refused) -> botocore.exceptions.ClientError:
        """What botocore would have raised for this answer."""
        code, message = answers.code_and_message(refused.status, refused.body)
        metadata = {"HTTPStatusCode": refused.status, "HTTPHeaders": refused.headers}
        return botocore.exceptions.ClientError(
            {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, "GetObject"
        )

    def ranges(self, client: Any) -> bulk.Ranges | None:
        """The cheaper way to the bucket, with the client's keys; None where another client has taken its place."""
        with self._lock:
            if client is not self._client:
                return None
            if self._ranges is None:
                keys = functools.partial(_keys_of, self._credentials) if self._credentials else None
                self._ranges = bulk.Ranges(self._place(), keys)
            return self._ranges

    def _asks_as(self, client: Any, other: bulk.Ranges) -> bool:
        ranges = self.ranges(client)
        return ranges is not None and ranges.asks_as(other)

    def look_again(self, ranges: bulk.Ranges) -> None:
        """Called when the client got what these ranges did not: it may have been sent on to another place."""
        with self._lock:
            if ranges is self._ranges and self._place() != ranges.place:
                self._ranges = None

    def _open_client(self) -> Any:
        """The client at hand, made where there is none. Raises the SDK's errors."""
        with self._lock:
            if self._client is None:
                self._open()
            return self._client

    def _better_than(self, refused: Any, failure: botocore.exceptions.ClientError) -> Any | None:
        """Another client than the one that was refused; None where neither its region nor its keys were at fault."""
        region = self._told_region(refused, failure)
        with self._lock:
            if self._client is not refused:  # another thread has been here
                return self._client
            if region and region != refused.meta.region_name:
                self._region = region
            elif self._anonymous or self._current_keys() == self._keys:
                return None
            self._open()
            return self._client

    def _who(self) -> str:
        """Whose credentials were sent, for a person to find them."""
        if self._anonymous:
            return answers.ANONYMOUS
        profile = f"profile {self._profile!r}" if self._profile else "the credentials"
        return f"{profile} (from {getattr(self._credentials, 'method', 'nowhere')})"

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = self._ranges = None

    def _open(self) -> None:
        """Makes a client, with the keys that are there now."""
        core = _core(self._profile)
        session = boto3.session.Session(botocore_session=core)
        self._certificates = core.get_config_variable("ca_bundle") or ""
        if not self._anonymous:
            self._credentials = _credentials_of(session)
            self._keys = _keys_of(self._credentials)
        config = Config(
            connect_timeout=bulk.CONNECT_S,
            read_timeout=bulk.IDLE_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=bulk.CONNECTIONS,
            signature_version=botocore.UNSIGNED if self._anonymous else "s3v4",
            s3={"addressing_style": self._addressing_style},
            # A checksum is of a whole object: stores that send it with a range would fail every read.
            response_checksum_validation="when_required",
            # A source's URL names its store: no file or variable may put another in its place.
            ignore_configured_endpoint_urls=True,
        )
        self._client = session.client(
            "s3",
            endpoint_url=self._endpoint_url or None,
            region_name=self._region or session.region_name or _FIRST_REGION,
            config=config,
            verify=self._certificates or None,
        )
        self._client.meta.events.register("before-call.s3.GetObjectTagging", _whereabouts)
        self._ranges = None
        bucketlist.prepare(self._client)

    def _current_keys(self) -> tuple[str, ...]:
        return _keys_of(_credentials_of(_session(self._profile)))

    def _place(self) -> bulk.Place:
        """Where the client at hand would ask for the bucket's objects: by its style, region, proxy and certificates."""
        where = self._client.get_object_tagging(Bucket=self._bucket, Key="k")
        url = where["url"].partition("?")[0].removesuffix("/k")
        proxies = botocore.utils.get_environ_proxies(url)
        try:
            trusted = self._certificates if url.startswith("https:") else ""
            certificates = Path(trusted).read_bytes() if trusted else b""
        except OSError as failure:
            raise OptionError(f"ca_bundle {self._certificates} cannot be read: {failure.strerror}") from failure
        region = where["region"] or self._client.meta.region_name
        return bulk.Place(url, region, proxies.get(url.partition(":")[0], ""), certificates)

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

    def _translated(self, failure: BaseException, what: str) -> EgofsError:
        """Our failure for one of the SDK's, with what a person can do about it."""
        if isinstance(failure, botocore.exceptions.ClientError):
            error, metadata = failure.response.get("Error", {}), failure.response.get("ResponseMetadata", {})
            return answers.failure(
                what,
                int(metadata.get("HTTPStatusCode", 0)),
                str(error.get("Code", "")),
                str(error.get("Message", "")),
                metadata.get("HTTPHeaders", {}),
                bucket=self._bucket,
                who=self._who(),
            )
        kind = meaning_of(type(failure))
        if isinstance(failure, botocore.exceptions.NoCredentialsError):
            return kind(f"{what}: {_NO_KEYS}")
        if isinstance(failure, RecursionError):
            return kind(f"{what}: the store sends from one address to the next without end")
        advice = f": {answers.RENEW}" if kind is AccessDenied else ""
        return kind(f"{what}: {failure}{advice}")


def _session(profile: str) -> boto3.session.Session:
    return boto3.session.Session(botocore_session=_core(profile))


def _core(profile: str) -> Any:
    """A session of botocore, which does not look for all there is before it makes a client of S3.

    Its loader searches the folders of 400 services, twice, to find that the one asked for is among them: 2,800 looks
    at the disk, and a fifth of the CPU time that the first client takes (measured: 86 ms without them, 107 with).
    """
    core = botocore.session.Session(profile=profile or None)
    loader = botocore.loaders.Loader()
    loader.list_available_services = lambda type_name: _Every()
    core.register_component("data_loader", loader)
    return core


class _Every:
    """A collection with everything in it. What is not there after all is found out when it is loaded."""

    def __contains__(self, name: object) -> bool:
        return True


def _credentials_of(session: boto3.session.Session) -> Any:
    credentials = session.get_credentials()
    if credentials is None:
        raise botocore.exceptions.NoCredentialsError
    return credentials


def _keys_of(credentials: Any) -> tuple[str, str, str]:
    """Access key, secret and token as they are now: some renew themselves."""
    frozen = credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token or ""


def _whereabouts(params: Mapping[str, Any], **_: Any) -> tuple[AWSResponse, Mapping[str, Any]]:
    """Stands in for the answer to a request that is never sent: where it would have gone, and signed for which region.

    No public call of botocore tells that. GetObjectTagging is a request that this module makes for nothing else.
    """
    signing = params["context"].get("signing", {})
    return AWSResponse(params["url"], 200, {}, None), {"url": params["url"], "region": signing.get("region", "")}


def _region_in(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


# -- failures -----------------------------------------------------------------------------------------------------

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
    # botocore asks for the region of a bucket that redirects with a request that may be redirected too, and so on.
    RecursionError,
)


def meaning_of(kind: type[BaseException]) -> type[EgofsError]:
    """Our failure for a class of the SDK's exceptions; SourceError for those that the table does not name."""
    return next((_MEANING[base.__name__] for base in kind.__mro__ if base.__name__ in _MEANING), SourceError)
