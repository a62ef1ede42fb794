"""Google Drive over HTTP, as version 2 of its API has it: items, what stands in folders, ranges of files.

It hides the API: queries and their pages, which fields are asked for, the token that goes with each request and is
another after a refusal, and what Drive's errors mean. Called by the Drive's source, which knows which item is which
path, and by `egofs auth gdrive`. Only GET is ever sent. It asks once and does not retry, but for a refused token. Any
thread may enter: the requests go through web.py and not through PyDrive2's own client, which is not for threads (each
needs a connection of its own) and reads no ranges.

Names, fields and meanings are those of Google's documents (Drive API v2 reference; "Resolve errors"). What a file's
version is: its md5, else its head revision, else whatever changes with it. An answer with a file's bytes says nothing
of the version that they are of, so only the size is compared here; see the source for the rest.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from vfs.drive.oauth import RENEW, Access
from vfs.errors import AccessDenied, CorruptData, EgofsError, NotFound, OverQuota, SourceError, Throttled, Unavailable
from vfs.web import Answer, File, Web, retry_after_s

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

ROOT_URL = "https://www.googleapis.com/drive/v2"
FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
OF_GOOGLE = "application/vnd.google-apps."
"""What begins so has no bytes: folders, shortcuts, documents that only Google's programs read."""

ID = re.compile(r"[A-Za-z0-9_-]+")
_PAGE = "1000"  # the most there is
_MOST_PAGES = 10_000
_FIELDS = (
    "id,title,mimeType,fileSize,md5Checksum,headRevisionId,etag,version,createdDate,modifiedDate,labels(trashed),"
    "parents(id),shortcutDetails(targetId,targetMimeType)"
)
_REASONS_KEPT_S = 60.0  # a file whose quota is spent is not asked for again by each reader


@dataclass(frozen=True, slots=True)
class Item:
    """What Drive says of a file or folder."""

    id: str
    title: str
    mime: str
    size_bytes: int
    """-1 for what has none."""
    version: str
    created: str
    mtime_ns: int
    is_trashed: bool
    parents: tuple[str, ...]
    target: str
    """The id of what a shortcut leads to."""
    target_mime: str

    @property
    def has_bytes(self) -> bool:
        """Whether it is a file that can be read."""
        return self.size_bytes >= 0 and not self.mime.startswith(OF_GOOGLE)


class Drive:
    """A client of the Drive of one account."""

    def __init__(self, access: Access, root_url: str = ROOT_URL, shared_drive: str = "") -> None:
        self._access = access
        self._files = f"{root_url.rstrip('/')}/files"
        self._about = f"{root_url.rstrip('/')}/about"
        self._in = {"corpora": "drive", "driveId": shared_drive} if shared_drive else {}
        self._web = Web(_judged)
        self._lock = threading.Lock()
        self._spent: dict[str, tuple[float, str]] = {}  # until when, and what was said, by file; under the lock

    def children(self, folders: Sequence[str]) -> list[Item]:
        """What stands in any of these folders and is not in the trash, all pages of it, in any order.

        Raises NotFound where one of them is not there, or may not be seen.
        """
        what = f"list {'the folder' if len(folders) == 1 else f'{len(folders)} folders beginning with'} {folders[0]}"
        parents = " or ".join(f"'{folder}' in parents" for folder in folders)
        wanted = {
            "q": f"({parents}) and trashed=false" if len(folders) > 1 else f"{parents} and trashed=false",
            "maxResults": _PAGE,
            "fields": f"items({_FIELDS}),nextPageToken,incompleteSearch",
            "supportsAllDrives": "true",
            "includeItemsFromAllDrives": "true",
            **self._in,
        }
        found: list[Item] = []
        pages: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            told = self._page(what, wanted | pages)
            found += [_item(what, each) for each in _list_of(what, told.get("items", []))]
            following = told.get("nextPageToken")
            if not following:
                return found
            if following == pages.get("pageToken"):
                break
            pages = {"pageToken": str(following)}
        raise CorruptData(f"{what}: Drive says there is more, and gives no end of it")

    def _page(self, what: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        try:
            told = self._ask(what, self._files, wanted)
        except SourceError as failure:
            if "pageToken" not in wanted:
                raise
            # As documented, a token may be refused for any reason, and the listing is to begin anew.
            raise Unavailable(f"{failure}; the listing begins anew") from failure
        if told.get("incompleteSearch"):
            raise Unavailable(f"{what}: Drive says that it has not looked everywhere: give shared_drive=ID")
        return told

    def item(self, identity: str) -> Item:
        """A file or folder as it is now. Raises NotFound for one that is not there or may not be seen."""
        what = f"stat {identity}"
        url = f"{self._files}/{identity}"
        return _item(what, self._ask(what, url, {"fields": _FIELDS, "supportsAllDrives": "true"}))

    def read(self, what: str, identity: str, size_bytes: int, start: int, length: int) -> bytes:
        """A range of a file of this size, whichever version it is. Raises Changed where it has another size."""
        with self._lock:
            until, said = self._spent.get(identity, (0.0, ""))
        if until > time.monotonic():
            raise OverQuota(f"{what}: {said}")
        file = File(f"{self._files}/{identity}?alt=media&supportsAllDrives=true", size_bytes)
        try:
            return self._admitted(lambda headers: self._web.read(what, file, start, length, headers))
        except OverQuota as failure:
            with self._lock:
                now = time.monotonic()
                self._spent = {key: known for key, known in self._spent.items() if known[0] > now}
                self._spent[identity] = now + _REASONS_KEPT_S, str(failure).removeprefix(f"{what}: ")
            raise

    def account(self) -> str:
        """Whose Drive this is: a name and an address."""
        what = "ask whose credentials these are"
        user = self._ask(what, self._about, {"fields": "user(displayName,emailAddress)"}).get("user", {})
        return f"{user.get('displayName', '')} <{user.get('emailAddress', 'unknown')}>".strip()

    def close(self) -> None:
        """Ends the connections."""
        self._web.close()
        self._access.close()

    # -- requests

    def _ask(self, what: str, url: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        address = f"{url}?{urlencode(wanted)}"
        answer = self._admitted(lambda headers: self._web.ask("GET", what, address, headers))
        try:
            told = json.loads(answer.body)
        except (ValueError, RecursionError) as failure:
            raise CorruptData(f"{what}: the answer is not JSON") from failure
        if not isinstance(told, dict):
            raise CorruptData(f"{what}: the answer is no object")
        return told

    def _admitted(self, ask: Callable[[Mapping[str, str]], _T]) -> _T:
        """What is answered to a token; once more to another, where that one is refused or there are new credentials."""
        token = self._access.token()
        try:
            return ask(_bearer(token))
        except _TokenRefused:
            token = self._access.token(refused=token)
        except (AccessDenied, NotFound):
            if not self._access.look_again():
                raise
            token = self._access.token()
        return ask(_bearer(token))


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


# -- what is answered


def _list_of(what: str, told: object) -> list[dict[str, Any]]:
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise CorruptData(f"{what}: the answer has no list of items")
    return told


def _item(what: str, told: Mapping[str, Any]) -> Item:
    try:
        target = told.get("shortcutDetails") or {}
        item = Item(
            id=told["id"],
            title=str(told.get("title", "")),
            mime=str(told.get("mimeType", "")),
            size_bytes=int(told.get("fileSize", -1)),
            version=_version(told),
            created=str(told.get("createdDate", "")),
            mtime_ns=_time_ns(told.get("modifiedDate", "")),
            is_trashed=bool((told.get("labels") or {}).get("trashed")),
            parents=tuple(parent["id"] for parent in told.get("parents") or ()),
            target=str(target.get("targetId", "")),
            target_mime=str(target.get("targetMimeType", "")),
        )
        if not all(ID.fullmatch(identity) for identity in (item.id, item.target or item.id)):
            raise ValueError("no id")
    except (KeyError, ValueError, TypeError, AttributeError) as failure:
        raise CorruptData(f"{what}: Drive describes an item in a way that is not understood") from failure
    return item


def _version(told: Mapping[str, Any]) -> str:
    """Which bytes the item has, as far as Drive tells."""
    if md5 := told.get("md5Checksum"):
        return str(md5)
    if revision := told.get("headRevisionId"):
        return f"revision-{revision}"
    return str(told.get("etag") or f"{told.get('version', '')}-{told.get('modifiedDate', '')}")


def _time_ns(text: str) -> int:
    """Of a time as RFC 3339 has it; 0 for none."""
    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000 if text else 0


# -- errors


class _TokenRefused(AccessDenied):
    """Drive does not take this token, and may take another."""


_SLOWER = {"rateLimitExceeded", "userRateLimitExceeded", "sharingRateLimitExceeded", "rateLimitExceededUnreg"}
_SPENT = {
    # The second is what the first was called before.
    "downloadQuotaExceeded": "it has been downloaded too often, by whomever: Google gives it again within 24 hours; "
    "until then take another copy of it, such as the dataset's other home",
    "quotaExceeded": "it has been downloaded too often, by whomever: Google gives it again within 24 hours; "
    "until then take another copy of it, such as the dataset's other home",
    "dailyLimitExceeded": "the client's project has asked for all that it may in a day: it may again after midnight, "
    "Pacific Time, or the Google console raises its quota",
}
_DENIED = {
    "accessNotConfigured": "the Drive API is switched off in the project of the client: its owner switches it on in "
    "the Google console, under APIs & Services",
    "insufficientPermissions": f"the credentials were not given for reading a Drive: {RENEW}",
    "insufficientFilePermissions": "this account may not read it, or no longer: access to a dataset such as "
    "Assembly101 ends after 14 days; ask for it again on the folder's page",
    "cannotDownloadFile": "its owner lets nobody download it who may only look at it",
    "fileNotDownloadable": "it has no bytes that could be downloaded",
    "domainPolicy": "the administrators of the account's domain do not let programs read Drives",
    "appNotAuthorizedToFile": f"the credentials are for files of the client alone: {RENEW}",
}
_ABUSE = "Google has found malware in it, or what it takes for that, and gives it to its owner alone"


def _judged(what: str, answer: Answer) -> EgofsError | None:
    """What Drive means by an error; None where the status says as much."""
    reason = _reason(answer.body)
    failure: EgofsError
    if answer.status == 401:
        return _TokenRefused(f"{what}: Google refuses the access token ({reason or 'authError'}): {RENEW}")
    if answer.status == 404:
        return NotFound(f"{what}: there is no such item, or this account may not see it (Drive does not tell which)")
    if reason in _SLOWER or answer.status == 429:
        failure = Throttled(f"{what}: Drive asks for fewer requests ({reason or answer.status})")
        failure.retry_after_s = retry_after_s(answer.headers.get("retry-after", ""))
        return failure
    if answer.status != 403:
        return None
    if reason in _SPENT:
        return OverQuota(f"{what}: {_SPENT[reason]}")
    if reason == "cannotDownloadAbusiveFile":
        return SourceError(f"{what}: {_ABUSE}")
    return AccessDenied(f"{what}: {_DENIED.get(reason, f'Drive refuses it to this account ({reason or 403})')}")


def _reason(body: bytes) -> str:
    """The first reason in the body of an error, "" for none."""
    try:
        reason = json.loads(body)["error"]["errors"][0]["reason"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return reason if isinstance(reason, str) and re.fullmatch(r"\w{1,80}", reason) else ""
