"""What boto3 would find in the environment and in ~/.aws, told without boto3, where that is ordinary.

It hides which variables, files and settings are looked at, in which order. Called by the S3 source when it opens a
bucket, and each time that a bucket refuses: new keys may have been written, and a file that is as it was is not read
again. Ordinary are anonymous reading, and keys that stand in variables or in a profile as they are; a store at a URL,
or AWS itself. Whatever might make boto3 ask elsewhere, or with other keys, is not ordinary, nor is anything that is
not known here: then nothing is found, and boto3 is to say what holds. A test holds each finding against boto3's.

The one module of vfs that reads the environment: variables are where the SDK has its keys. Any thread may enter.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vfs.bulk import Keys, Place

if TYPE_CHECKING:
    from configparser import RawConfigParser

# Variables that are read here, or that have no part in reading a bucket; any other may change what boto3 does.
_KNOWN = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_PROFILE",
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION", "AWS_DEFAULT_OUTPUT", "AWS_PAGER", "AWS_EC2_METADATA_DISABLED", "AWS_EXECUTION_ENV",
}  # fmt: skip
# Which variables boto3 may look at, by the scheme of the address. It knows no ALL_PROXY.
_LOOKED_AT = {
    "http": re.compile(r"AWS_(?!CA_BUNDLE\Z)|BOTO|(?i:http_proxy)\Z"),
    "https": re.compile(r"AWS_|BOTO|(?i:https_proxy)\Z|REQUESTS_CA_BUNDLE\Z"),
}
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_SETTINGS = {"region", "output", "cli_pager", "cli_auto_prompt", "cli_timestamp_format"}  # in ~/.aws/config
# A file that was written so shortly before it was read may have been written again since without looking different:
# file systems tell the time in ticks, of up to two seconds.
_TICK_S = 2.0

# Of the partition that is AWS to most; China, GovCloud and the isolated ones have names of more parts or other hosts.
_REGION = re.compile(r"(?:af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-\d")
_ENDPOINT = re.compile(r"https?://[a-z0-9.-]+(?::(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}))?(?:/[A-Za-z0-9_-]+)*")
# No access points, directory buckets (--x-s3) and the like, which have hosts of their own.
_BUCKET = re.compile(r"(?!.*--)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def find(
    bucket: str, *, endpoint_url: str, region: str, addressing_style: str, aws_profile: str, anonymous: bool
) -> tuple[Place, Keys | None] | None:
    """Where the bucket is, and with which keys it is asked (None: nothing is signed); None where boto3 must say."""
    variables = os.environ
    settings = _settings(aws_profile or variables.get("AWS_PROFILE", "default"), variables)
    if settings is None:
        return None
    keys = None if anonymous else _keys(settings, variables, aws_profile)
    region = region or variables.get("AWS_DEFAULT_REGION") or settings.get("region") or "us-east-1"
    place = _place(bucket, endpoint_url.rstrip("/"), region, addressing_style)
    if place is None or not (keys or anonymous) or not _are_ordinary(variables, place.url.partition(":")[0]):
        return None
    return place, keys


def origin(aws_profile: str) -> str:
    """Where the keys that `find` found stand, in boto3's words."""
    of_variables = not aws_profile and any(name.upper() in os.environ for name in _KEYS)
    return "env" if of_variables else "shared-credentials-file"


def file_of(aws_profile: str, method: str = "") -> Path | None:
    """The file in which the keys stand that `find` found, or that boto3 found by a method; None for variables."""
    method = method or origin(aws_profile)
    if method not in ("shared-credentials-file", "config-file"):
        return None
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    files = (credentials, config) if method == "shared-credentials-file" else (config,)
    paths = [Path(os.path.expandvars(os.path.expanduser(file))) for file in files]
    return next((path for path in paths if path.is_file()), None)


def _are_ordinary(variables: Mapping[str, str], scheme: str) -> bool:
    """Whether none of the variables may change who is asked, or how. An empty one is unset to boto3, or it is not."""
    looked_at = {name for name, value in variables.items() if value and _LOOKED_AT[scheme].match(name)}
    return looked_at <= _KNOWN and "" not in [variables.get(name) for name in _KNOWN]


def _keys(settings: Mapping[str, str], variables: Mapping[str, str], aws_profile: str) -> Keys | None:
    """The keys in the variables, or else those of the profile; an option that names a profile goes before all."""
    of_variables = {name: variables[name.upper()] for name in _KEYS if name.upper() in variables}
    if of_variables and not aws_profile:
        if "AWS_PROFILE" in variables:
            return None
        settings = of_variables
    key_id, secret, token = (settings.get(name, "") for name in _KEYS)
    printable = all(" " < character <= "~" for character in key_id + secret + token)  # as a header can have it
    return (key_id, secret, token) if key_id and secret and printable else None


def _settings(profile: str, variables: Mapping[str, str]) -> Mapping[str, str] | None:
    """What ~/.aws has of a profile, keys and all; None where that is not ordinary, or there is no such profile."""
    config = _section(variables.get("AWS_CONFIG_FILE", "~/.aws/config"), profile, of_config=True)
    credentials = _section(variables.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), profile)
    if config is None or credentials is None or not (config or credentials or profile == "default"):
        return None
    if not (config.keys() <= _SETTINGS and credentials.keys() <= set(_KEYS)):
        return None
    return {**config, **credentials}


def _section(file: str, profile: str, *, of_config: bool = False) -> Mapping[str, str] | None:
    """What a file has of a profile, nothing where there is no file; None where that is not plainly told."""
    if "$" in file:  # boto3 replaces variables in it
        return None
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        return {}
    parser = _parsed(path)
    if parser is None:
        return None
    named = f"profile {profile}" if of_config and profile != "default" else profile
    # In ~/.aws/config a name may be written in several ways, with quotes or without.
    alike = [name for name in parser.sections() if profile in re.findall(r"[^\s'\"]+", name)]
    if alike not in ([], [named]):
        return None
    found = dict(parser[named]) if alike else {}
    return None if any(not value or "\n" in value for value in found.values()) else found


_files: dict[str, tuple[tuple[int, ...], "RawConfigParser | None"]] = {}
"""What was read, of each file the last that was not written only just before, with how it looked then."""


def _parsed(path: str) -> "RawConfigParser | None":
    """What the file says, read again only if it has changed; None where it makes no sense."""
    import configparser  # as boto3 does; not everybody has such a file

    parser = configparser.RawConfigParser(default_section="")
    try:
        now, facts = time.time(), os.stat(path)
        looks = facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino
        known = _files.get(path)
        if known and known[0] == looks:
            return known[1]
        parser.read([path])
    except FileNotFoundError:
        return parser
    except (configparser.Error, UnicodeError):
        return None
    if now - max(facts.st_mtime, facts.st_ctime) > _TICK_S:
        _files[path] = looks, parser
    return parser


def _place(bucket: str, endpoint: str, region: str, addressing_style: str) -> Place | None:
    """Where boto3 would look for the bucket, among stores that have no more to them than an address."""
    if not _BUCKET.fullmatch(bucket) or re.search("global|fips|s3-", region):
        return None
    if endpoint:
        of_aws = "amazonaws" in endpoint
        if addressing_style == "virtual" or of_aws or not _ENDPOINT.fullmatch(endpoint):
            return None
        return Place(f"{endpoint}/{bucket}", region)
    if addressing_style == "path" or "." in bucket or not _REGION.fullmatch(region):
        return None
    return Place(f"https://{bucket}.s3{'' if region == 'us-east-1' else '.' + region}.amazonaws.com", region)
