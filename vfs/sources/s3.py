"""Buckets of S3, and of stores that speak its protocol, as a source.

It hides what an S3 has instead of folders, and that three clients work on it: obstore (bulk.py) fetches ranges, and
all else is asked by HTTP alone (direct.py) where address and keys are ordinary (awssettings.py), which saves a mount
the import of boto3, or else by boto3 (boto.py), which knows all there is about regions, keys and failures. A bucket
that refuses is asked again, directly, in the region that it tells, or with the keys that are in ~/.aws by now. Once
there is an answer that is not explained, or what is in ~/.aws is out of the ordinary, boto3 asks for good. Found by
its URL, s3://BUCKET or s3://BUCKET/PREFIX, or s3:// for all buckets. Only GET and HEAD are ever sent. It does not
retry. Any thread may enter.

`_fetch` is a range through boto3, at eight times the price: for keys that obstore cannot name, for failures that it
does not explain, and while a store throttles, since only boto3 shows how long that asks to wait.
"""

import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vfs import answers, bucketlist, bulk, s3sums
from vfs.digests import Checksum
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
)
from vfs.extent import Buffer, http_range, parse_content_range
from vfs.options import as_dict, option, option_group
from vfs.sources import Credentials, DeepPage, Listed, ObjectInfo, Page, by_pages

if TYPE_CHECKING:
    from vfs import boto, direct

ALONE = "names no bucket: write s3://BUCKET, or -o dataset=NAME for what is in many"

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_REDIRECTS = {301, 302, 307, 308}


@option_group
class Options:
    """The mount options of an S3 source."""

    endpoint_url: str = option(
        default="",
        description="URL of a store other than AWS, such as http://127.0.0.1:9000; no other setting is looked at",
    )
    region: str = option(default="", description="region to try first; a bucket's own is found out if it differs")
    addressing_style: Literal["auto", "path", "virtual"] = option(
        default="auto", description="where the bucket stands in a request: in its path, or in the host's name (virtual)"
    )
    aws_profile: str = option(default="", description="profile of ~/.aws whose credentials are used")
    anonymous: bool = option(default=False, description="send no credentials, as public buckets allow")


def open_source(url: str, options: Options) -> "S3Source | S3Buckets":
    """The bucket, a folder of it, or all buckets, as a source. Sends nothing yet. Raises OptionError."""
    match = re.fullmatch(r"s3://([^/]*)(?:/(.*))?", url, re.IGNORECASE | re.DOTALL)
    bucket, prefix = (match[1], (match[2] or "").strip("/")) if match else ("", "")
    if not _BUCKET.fullmatch(bucket) and url.lower() != "s3://":
        raise OptionError(f"{url!r} names no bucket: write s3://BUCKET or s3://BUCKET/PREFIX")
    if options.endpoint_url and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", options.endpoint_url):
        raise OptionError(f"endpoint_url={options.endpoint_url!r} is no URL: write http://HOST:PORT or https://HOST")
    if options.region and not _REGION.fullmatch(options.region):
        raise OptionError(f"region={options.region!r} is no region: write one such as eu-west-2")
    if options.anonymous and options.aws_profile:
        raise OptionError("anonymous=true sends no credentials: leave out aws_profile, or anonymous")
    directly = _way_to(bucket or "any-bucket", options)
    if options.aws_profile and not directly:
        from vfs import boto

        boto.check_profile(options.aws_profile)
    return S3Source(bucket, prefix, options, directly) if bucket else S3Buckets(options)


def credentials(url: str, options: Options) -> Credentials:
    """The keys that requests would be signed with."""
    if options.anonymous:
        return Credentials("none: nothing is signed (anonymous)")
    from vfs import awssettings

    profile = options.aws_profile
    what = f"keys of profile {profile!r}" if profile else "keys"
    method, until = awssettings.origin(profile), 0.0
    if _way_to(_bucket_of(url) or "any-bucket", options) is None:
        from vfs import boto

        try:
            method, until = boto.found(profile)
        except AccessDenied as failure:
            return Credentials(what, missing=str(failure))
    file = awssettings.file_of(profile, method)
    where = str(file) if file else {"env": "variables (AWS_ACCESS_KEY_ID, …)"}.get(method, method)
    return Credentials(what, where, file, is_dated=file is not None, until=until)


def address(url: str, options: Options) -> str:
    """The bucket's server, as far as it is known before it is asked."""
    way = _way_to(_bucket_of(url) or "any-bucket", options)
    if way is None or not _bucket_of(url):
        region = options.region or "us-east-1"
        return options.endpoint_url or f"https://s3.{region}.amazonaws.com"
    return way.place.url


def _bucket_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _way_to(bucket: str, options: Options, **more: str) -> "direct.Bucket | None":
    """How the bucket is asked without boto3, as things are now; None where only boto3 can."""
    from vfs import awssettings, direct  # here, because all commands import this module for its Options

    ordinary = awssettings.find(bucket, **(as_dict(options) | more))
    return direct.Bucket(*ordinary) if ordinary else None


class S3Source:
    """A bucket, or what stands below a prefix of it; see the module's docstring."""

    remote = True

    def __init__(self, bucket: str, prefix: str, options: Options, directly: "direct.Bucket | None") -> None:
        endpoint = options.endpoint_url.rstrip("/")
        self._place = f"s3://{bucket}/{prefix}".rstrip("/")
        # Another store's bucket of the same name holds other objects.
        self.url = f"s3+{endpoint}/{bucket}/{prefix}".rstrip("/") if endpoint else self._place
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options
        self._direct = directly
        self._direct_is_over = directly is None
        self._region = directly.place.region if directly else options.region
        self._region_was_asked = False
        self._lock = threading.Lock()
        self._access: boto.Access | None = None  # made when it is needed, under the lock
        self._throttled = False
        self._detoured = False
        self._logged: set[str] = set()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder; one request for each thousand names."""
        return by_pages(folder, self.page)

    def page(self, folder: str, after: str) -> Page:
        """A thousand names of a folder, with those further below rolled up into folders."""
        what = f"list {self._place}/{folder}".rstrip("/")
        prefix = self._prefix_of(folder)
        more = {"ContinuationToken": after} if after else {}
        answer = self._listing(what, {"Prefix": prefix, "Delimiter": "/", **more})
        if prefix and not after and not (answer.rows or answer.prefixes or answer.more):
            raise NotFound(f"{what}: there is no such folder, nor any object below it")
        if answer.more and not answer.token:
            raise CorruptData(f"{what}: the store says there is more, and not where")
        found: list[Listed] = []
        for key in answer.prefixes:
            if name := _name(key, prefix, what).removesuffix("/"):
                found.append(Listed(name, "dir"))
            else:
                self._leave_out(key)
        for row in answer.rows:
            if name := _name(row[0], prefix, what):  # else it is the folder's own marker
                found.append(Listed(name, "file", self._object_of(row)))
        return Page(found, answer.token if answer.more else "")

    def deep_page(self, folder: str, after: str) -> DeepPage:
        """A thousand objects at any depth below a folder, from one request without a delimiter."""
        what = f"list all below {self._place}/{folder}".rstrip("/")
        prefix = self._prefix_of(folder)
        start = prefix + _valid(after)
        answer = self._listing(what, {"Prefix": prefix, **({"StartAfter": start} if after else {})})
        last = start if after else ""
        for row in answer.rows:
            name = _name(row[0], prefix, what)
            if row[0] <= last:
                raise SourceError(f"{what}: the store lists {row[0]!r} after {last!r}, which is not in order")
            last = row[0]
            if name.startswith("/") or "//" in name:
                self._leave_out(prefix + (name[: name.index("//") + 2] if name[0] != "/" else "/"))
        if answer.more and not answer.rows:
            raise CorruptData(f"{what}: the store says there is more, and not where")
        return DeepPage([self._object_of(row) for row in answer.rows], answer.more)

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from one HEAD."""
        name = self._prefix + _valid(key)
        what = f"stat {self._place}/{key}"
        facts = self._ask(
            what,
            lambda bucket: bucket.head(what, name),
            lambda client: client.head_object(Bucket=self._bucket, Key=name),
        )
        return _object(key, facts, "ContentLength", what)

    def read(self, obj: ObjectInfo, start: int, length: int) -> Buffer:
        """The bytes, from one GET that the store answers for this version only."""
        what = f"read {length} bytes at {start} of {self._place}/{obj.key}"
        wanted = bulk.Wanted(self._prefix + _valid(obj.key), obj.version, obj.size_bytes)
        by_obstore = bulk.can_name(wanted.key) and not self._throttled
        try:
            if self._direct_is_over or not by_obstore:
                ask = functools.partial(self._range if by_obstore else self._fetch, what, wanted, start, length)
                data = self._boto3().ask(what, ask)
            else:
                data = self._ask(
                    what,
                    lambda bucket: bucket.ranges.read(what, wanted, start, length),
                    functools.partial(self._fetch, what, wanted, start, length),
                )
        except Throttled:
            self._throttled = True
            raise
        if not by_obstore:
            self._throttled = False
        return data

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the store says of the object's bytes, from one HEAD, or three where it came there in parts."""
        what = f"checksum of {self._place}/{obj.key}"
        name = self._prefix + _valid(obj.key)

        def told(part: int) -> Mapping[str, str]:
            wanted = {"Bucket": self._bucket, "Key": name, "ChecksumMode": "ENABLED"}

            def ask(client: Any) -> Mapping[str, str]:
                answer = client.head_object(**wanted, **({"PartNumber": part} if part else {}))
                headers: Mapping[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
                return headers

            headers = self._ask(what, lambda bucket: bucket.told(what, name, part), ask)
            if obj.version and headers.get("etag", "").strip('"') not in ("", obj.version):
                raise Changed(f"{what}: the object has been replaced: open it again")
            return headers

        def part_bytes(number: int) -> int:
            length = told(number).get("content-length", "")
            return int(length) if re.fullmatch("[0-9]{1,18}", length) else 0

        return s3sums.find(told(0), obj.size_bytes, part_bytes)

    def renew(self) -> None:
        """Looks for keys anew. Whoever is in the middle of a request ends it with those that there were."""
        better = _way_to(self._bucket, self._options, region=self._region)
        with self._lock:
            before, self._access = (self._direct, self._access), None
            if not self._direct_is_over:
                self._direct, self._direct_is_over = better, better is None
        for way in before:
            if way is not None:
                way.close()

    def whose(self) -> str:
        """As whom the store is asked: a profile where there is one, and where the keys are from; never a key."""
        return _who(self._options, is_told=not self._direct_is_over)

    def close(self) -> None:
        """Ends the connections."""
        for way in (self._direct, self._access):
            if way is not None:
                way.close()

    # -- asking -----------------------------------------------------------------------------------------------

    def _ask(self, what: str, directly: "Callable[[direct.Bucket], _T]", through_boto3: Callable[[Any], _T]) -> _T:
        """The answer that came directly, while that way is open, and otherwise boto3's."""
        already, why = None, ""
        way = None if self._direct_is_over else self._direct
        # Twice there may be a better way: in the bucket's region, and with new keys.
        for _ in range(3):
            if way is None:
                break
            try:
                try:
                    return directly(way)
                except bulk.Refused as refused:
                    already = (refused, way.ranges) if refused.status >= 400 else None
                    why = " ".join(answers.code_and_message(refused.status, refused.body))
                    way = self._better_than(way, refused, what)
            except bulk.Unexplained as failure:
                already, why, way = None, str(failure), None
        if why and not self._direct_is_over:
            self._direct_is_over = True
            _log.info("%s: boto3 is asked from now on: %s", what, why)
        return self._boto3().ask(what, through_boto3, already)

    def _better_than(self, way: "direct.Bucket", refused: bulk.Refused, what: str) -> "direct.Bucket | None":
        """Where the bucket's region or the keys are others by now, the way with those; None where boto3 must ask.

        Raises the refusal as ours where neither was at fault, and Unexplained.
        """
        code, message = answers.code_and_message(refused.status, refused.body)
        is_denied = refused.status >= 400 and answers.meaning(refused.status, code) is AccessDenied
        if is_denied or refused.status in _REDIRECTS:
            region = self._told_region(way, refused, what)
            with self._lock:
                if self._direct is not way:  # another thread has been here
                    return self._direct
                better = _way_to(self._bucket, self._options, region=region)
                if better is None:
                    return None
                if (better.place, better.keys) != (way.place, way.keys):
                    self._direct, self._region = better, region
                    way.close()
                    return better
        if refused.status < 400:
            return None
        raise answers.failure(
            what, refused.status, code, message, refused.headers, bucket=self._bucket, who=_who(self._options)
        ) from refused

    def _told_region(self, way: "direct.Bucket", refused: bulk.Refused, what: str) -> str:
        """The bucket's region, as the refusal tells it or else, once, HEAD on the bucket; the one at hand otherwise."""
        told = refused.headers.get("x-amz-bucket-region", "")
        if found := re.search("<Region>(.*?)</Region>", refused.body):
            told = told or found[1]
        if not told and not self._region_was_asked and (refused.status >= 400 or not refused.headers):
            told = way.region(what)
            if _REGION.fullmatch(told):
                self._region = told  # before it counts as asked: others take it from here
            self._region_was_asked = True
        return told if _REGION.fullmatch(told) else self._region

    def _boto3(self) -> "boto.Access":
        with self._lock:
            if self._access is None:
                from vfs import boto

                self._access = boto.Access(self._bucket, **(as_dict(self._options) | {"region": self._region}))
            return self._access

    def _listing(self, what: str, wanted: Mapping[str, str]) -> bucketlist.ListPage:
        return self._ask(
            what,
            lambda bucket: bucket.page(what, wanted),
            lambda client: bucketlist.ask(client, {"Bucket": self._bucket, **wanted}),
        )

    def _prefix_of(self, folder: str) -> str:
        return f"{self._prefix}{_valid(folder)}/" if folder else self._prefix

    def _object_of(self, row: tuple[str, int, int, str]) -> ObjectInfo:
        key, size_bytes, mtime_s, etag = row
        return ObjectInfo(key.removeprefix(self._prefix), size_bytes, mtime_s * 1_000_000_000, etag)

    def _range(self, what: str, wanted: bulk.Wanted, start: int, length: int, client: Any) -> Buffer:
        """The bytes of the range of this version, through obstore with the place and keys of boto3's client."""
        boto3 = self._boto3()
        ranges = boto3.ranges(client)
        if ranges is None:
            return self._fetch(what, wanted, start, length, client)
        try:
            return ranges.read(what, wanted, start, length)
        except (bulk.Refused, bulk.Unexplained) as failure:
            if isinstance(failure, bulk.Refused) and failure.status >= 400:
                raise boto3.refusal(failure) from failure
            data = self._fetch(what, wanted, start, length, client)
            if not self._detoured:
                self._detoured = True
                _log.warning("%s: came through boto3, which costs more; this is not said again: %s", what, failure)
            boto3.look_again(ranges)
            return data

    def _fetch(self, what: str, wanted: bulk.Wanted, start: int, length: int, client: Any) -> bytes:
        """The bytes of the range of this version, through boto3."""
        pinned = {"IfMatch": f'"{wanted.etag}"'} if wanted.etag else {}
        asked_at = time.monotonic()
        answer = client.get_object(Bucket=self._bucket, Key=wanted.key, Range=http_range(start, length), **pinned)
        with answer["Body"] as body:  # closes the connection too, unless the body was read to its end
            _require_range(answer, what, wanted, start, length)
            return bulk.drain(body, what, length, asked_at + bulk.deadline_s(length))

    def _leave_out(self, key: str) -> None:
        if key not in self._logged and len(self._logged) < 1000:
            self._logged.add(key)
            _log.warning("s3://%s/%s is left out: a folder without a name cannot be shown", self._bucket, key)


class S3Buckets:
    """All buckets of a store, as one source: its keys begin with the bucket, which is opened when it is first needed.

    Its root lists nothing: which buckets there are is not asked, and few may ask.
    """

    remote = True

    def __init__(self, options: Options) -> None:
        endpoint = options.endpoint_url.rstrip("/")
        self.url = f"s3+{endpoint}/" if endpoint else "s3://"
        self._options = options
        self._lock = threading.Lock()
        self._buckets: dict[str, S3Source] = {}  # under the lock

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder; one request for each thousand names."""
        return by_pages(folder, self.page)

    def page(self, folder: str, after: str) -> Page:
        """A thousand names of a folder."""
        if not folder:
            return Page((), "")
        bucket, name, below = self._found(folder)
        part = bucket.page(below, after)
        listed = [
            replace(entry, object=_within(name, entry.object)) if entry.object else entry for entry in part.listed
        ]
        return Page(listed, part.after)

    def deep_page(self, folder: str, after: str) -> DeepPage:
        """A thousand objects at any depth below a folder."""
        if not folder:
            return DeepPage((), more=False)
        try:
            bucket, name, below = self._found(folder)
            part = bucket.deep_page(below, after)
        except NotFound:
            return DeepPage((), more=False)
        return DeepPage([_within(name, obj) for obj in part.objects], part.more)

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from one HEAD."""
        bucket, name, below = self._found(key)
        if not below:
            raise NotFound(f"stat s3://{key}: a bucket is no object")
        return _within(name, bucket.stat(below))

    def read(self, obj: ObjectInfo, start: int, length: int) -> Buffer:
        """The bytes, from one GET that the store answers for this version only."""
        bucket, _, below = self._found(obj.key)
        return bucket.read(replace(obj, key=below), start, length)

    def whose(self) -> str:
        """As whom the store is asked: a profile where there is one."""
        return _who(self._options, is_told=False)

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What the store says of the object's bytes."""
        bucket, _, below = self._found(obj.key)
        return bucket.checksum(replace(obj, key=below))

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            buckets = [*self._buckets.values()]
        for bucket in buckets:
            bucket.close()

    def _found(self, key: str) -> "tuple[S3Source, str, str]":
        """The bucket that a key stands in, its name, and the key there. Raises NotFound for what can be no bucket."""
        name, _, below = key.partition("/")
        with self._lock:
            bucket = self._buckets.get(name)
            if bucket is None:
                if not _BUCKET.fullmatch(name):
                    raise NotFound(f"s3://{key}: no bucket can be called {name!r}")
                bucket = self._buckets[name] = S3Source(name, "", self._options, _way_to(name, self._options))
        return bucket, name, below


def _who(options: Options, *, is_told: bool = True) -> str:
    """As whom a store is asked; `is_told`: by the keys that were found without boto3, so that their place is known."""
    from vfs import awssettings

    if options.anonymous:
        return answers.ANONYMOUS
    who = f"profile {options.aws_profile!r}" if options.aws_profile else "the credentials"
    return f"{who} (from {awssettings.origin(options.aws_profile)})" if is_told else who


def _within(bucket: str, obj: ObjectInfo) -> ObjectInfo:
    """The object under the key that it has among all buckets."""
    return ObjectInfo(f"{bucket}/{obj.key}", obj.size_bytes, obj.mtime_ns, obj.version)


# -- names and objects ------------------------------------------------------------------------------------------


def _valid(name: str) -> str:
    """The name, where an S3 key can hold it: keys are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as failure:
        raise NotFound(f"{name!r} cannot be a key: it is not UTF-8") from failure
    return name


def _name(key: str, prefix: str, what: str) -> str:
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


def _require_range(answer: Mapping[str, Any], what: str, wanted: bulk.Wanted, start: int, length: int) -> None:
    """Raises where an answer is of another version or range, before any of it is read."""
    etag = str(answer.get("ETag", "")).strip('"')
    if wanted.etag and etag not in ("", wanted.etag):
        raise Changed(f"{what}: the object has been replaced: open it again")
    if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
        try:
            came = parse_content_range(answer.get("ContentRange", ""))
        except ValueError as failure:
            raise CorruptData(f"{what}: {failure}") from failure
        if came[:2] != (start, length) or came[2] not in (None, wanted.size_bytes):
            raise CorruptData(f"{what}: bytes of another range came: {answer['ContentRange']}")
    elif (start, length) != (0, wanted.size_bytes):
        raise CorruptData(f"{what}: the whole object came instead of a range; does the endpoint serve ranges?")
