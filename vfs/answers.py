"""What an error means that an S3 answered with, whoever asked: which of our failures it is, and what a person can do.

The S3 source calls it for answers that came without boto3, and boto.py for those that came through it. It knows no
SDK, and sends nothing. Any thread may enter.
"""

import html
import re
from collections.abc import Mapping
from http import HTTPStatus

from vfs.errors import AccessDenied, Changed, EgofsError, NotFound, SourceError, Throttled, Timeout, Unavailable

RENEW = "put keys that are valid into ~/.aws/credentials, they are used without a remount"
ANONYMOUS = "anonymous reading"

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
# Refusals that come as 400. A HEAD has no body and its code is the bare status: that is an ended token there.
_REFUSED = {
    "400", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}  # fmt: skip


def code_and_message(status: int, body: str) -> tuple[str, str]:
    """What the body of an error says, and in the words of HTTP where there is none, as after a HEAD."""
    found = (re.search(f"<{name}>(.*?)</{name}>", body, re.DOTALL) for name in ("Code", "Message"))
    code, message = (html.unescape(match[1]) if match else "" for match in found)
    if not code and status in set(HTTPStatus):
        message = message or HTTPStatus(status).phrase
    return code or str(status), message


def meaning(status: int, code: str) -> type[EgofsError]:
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


def failure(
    what: str, status: int, code: str, message: str, headers: Mapping[str, str], *, bucket: str, who: str = ""
) -> EgofsError:
    """Our failure, in words. `headers` by lower-case names; `who` is whose keys were refused, for AccessDenied."""
    said = " ".join(f"{code} {message}".split())
    kind = meaning(status, code)
    if kind is NotFound:
        named = (
            f"there is no bucket {bucket!r}: check its name" if code == "NoSuchBucket" else "there is no such object"
        )
        return kind(f"{what}: {named}")
    if kind is Changed:
        return kind(f"{what}: the object has been replaced: open it again")
    if kind is AccessDenied and who == ANONYMOUS:
        return kind(f"{what}: refused to {who} ({said}): give aws_profile, the name of a profile in ~/.aws")
    if kind is AccessDenied:
        return kind(f"{what}: refused to {who} ({said}): {RENEW}")
    ours = kind(f"{what}: {said}")
    retry_after = headers.get("retry-after", "")
    if retry_after.isdecimal():
        ours.retry_after_s = float(retry_after)
    return ours
