"""One repository of the Hugging Face Hub, as its HTTP API tells of it: commits, listings, and where bytes are.

Hides huggingface_hub: the token that it finds, its connections, its exceptions, which become ours here. The source of
hf:// calls it. What is asked is asked once: of the library only the parts are used that do not try again by
themselves (HfApi does, for minutes, and its import takes twice as long). Nothing but GET and HEAD is sent.

A revision is resolved to a commit with the first question and stays that for good, so that all that is told is of one
state. A commit that is gone, because history was rewritten, is resolved once more.

Any thread may enter. The library is imported with the first question: that is after the daemon has forked.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from vfs import bulk, web
from vfs.errors import (
    AccessDenied,
    CorruptData,
    EgofsError,
    NotFound,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)
from vfs.flight import Flights
from vfs.tokenfile import TokenFile

if TYPE_CHECKING:
    from httpx2 import Response

_T = TypeVar("_T")

Kind = Literal["datasets", "models", "spaces"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MOST_BYTES = 64 << 20  # of one answer; a page of a listing has a thousand entries, some hundred KiB
_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
# The hub signs for an hour. Where an address does not tell for how long it is good, it is asked for again this often.
_UNTOLD_S = 900.0
# So long before its end an address is not used any more: a request has to arrive, and clocks of servers differ.
_MARGIN_S = 30.0


@dataclass(frozen=True)
class Commit:
    """A state of the repository, and when it was made (0: not told)."""

    sha: str
    date_ns: int


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a listing, by its path in the repository. `version` is the content's sha256 or, of what git itself
    holds, its blob id."""

    path: str
    is_folder: bool
    size_bytes: int = 0
    version: str = ""


@dataclass(frozen=True)
class Location:
    """Where the bytes of a file are: at the hub itself (`headers` let one in), or at an address that the hub signed."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    version: str
    size_bytes: int
    good_until: float
    """By time.monotonic."""


class _NoRevision(NotFound):
    """There is no such branch, tag or commit."""


class Repository:
    """One repository at one revision; see the module's docstring."""

    def __init__(
        self,
        endpoint: str,
        kind: Kind,
        name: str,
        revision: str,
        token_file: TokenFile | None,
    ) -> None:
        self.page = f"{endpoint}/{'' if kind == 'models' else f'{kind}/'}{name}"
        """Where a person reads of it, and asks for access."""
        self._name = name
        self._revision = revision
        self._token_file = token_file
        self._api = f"{endpoint}/api/{kind}/{name}"
        self._commit: Commit | None = None
        self._flights: Flights[str, Commit] = Flights()

    def renew(self) -> None:
        """The commit is asked for anew."""
        self._commit = None

    def commit(self) -> Commit:
        """The commit that all is told of. Raises AccessDenied where the repository is gated and not open to us."""
        if self._commit is not None:
            return self._commit
        flight, mine = self._flights.join("")
        if not mine:
            return Flights.wait(flight, self._name)
        try:
            commit = self._commit = self._commit or self._resolved()
        except BaseException as failure:
            self._flights.crash("", failure)
            raise
        self._flights.land("", commit)
        return commit

    def tree(self, what: str, folder: str, after: str, *, recursive: bool = False) -> tuple[list[Row], str]:
        """A page of a folder's entries, or of all below it, in any order, and where the next one begins ("": nowhere).

        A page that follows another is of the same commit.
        """
        begun, _, cursor = after.partition(" ")

        def ask(commit: str) -> tuple[list[Row], str]:
            # The library sends a path as one segment.
            url = f"{self._api}/tree/{begun or commit}{'/' if folder else ''}{_quoted(folder, safe='')}"
            query = {"recursive": str(recursive).lower(), "expand": "false", **({"cursor": cursor} if cursor else {})}
            answer, told = self._json(what, url, query)
            following = _cursor_in(answer.links.get("next", {}).get("url", ""))
            return [*_rows(what, told)], f"{begun or commit} {following}" if following else ""

        return ask(begun) if begun else self._at_commit(ask)

    def locate(self, what: str, path: str) -> Location:
        """Where a file's bytes are, from one HEAD that is not followed to another server. Raises NotFound."""
        return self._at_commit(lambda commit: self._located(what, f"{self.page}/resolve/{commit}/{_quoted(path)}"))

    def close(self) -> None:
        """Ends the connections, which are the library's; it makes new ones for whoever still asks."""
        import sys

        if library := sys.modules.get("huggingface_hub.utils"):
            library.close_session()

    # -- revisions

    def _at_commit(self, ask: Callable[[str], _T]) -> _T:
        commit = self.commit()
        try:
            return ask(commit.sha)
        except _NoRevision:
            if self._commit is commit:
                self._commit = None
        return ask(self.commit().sha)

    def _resolved(self) -> Commit:
        what = f"find revision {self._revision} of {self.page}"
        asked = {"expand": ["sha", "lastModified", "gated"]}  # all else would name every file there is
        _, told = self._json(what, f"{self._api}/revision/{_quoted(self._revision, safe='')}", asked)
        if not isinstance(told, dict) or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(told.get("sha"))):
            raise CorruptData(f"{what}: the hub tells no commit")
        if told.get("gated"):  # what is gated is listed for everyone: that nothing can be read is said at once
            self._json(f"open {self.page}", f"{self._api}/auth-check", {}, parse=False)
        return Commit(told["sha"], _nanoseconds(told.get("lastModified")))

    # -- asking

    def _located(self, what: str, url: str) -> Location:
        with self._asked("HEAD", what, url, {}) as (response, headers):
            told = {name.lower(): value for name, value in response.headers.items()}
            version = (told.get("x-linked-etag") or told.get("etag", "")).removeprefix("W/").strip('"')
            moved = response.status_code in _REDIRECTS
            size = told.get("x-linked-size") or ("" if moved else told.get("content-length", ""))
            if not version or not size.isdecimal():
                raise SourceError(f"{what}: the hub does not tell the file's version and size: is it one?")
            if not moved:
                return Location(str(response.request.url), headers, version, int(size), float("inf"))
            there = self._followed(what, str(response.request.url), told["location"])
            return Location(there, {}, version, int(size), time.monotonic() + lifetime_s(there, told.get("date", "")))

    @staticmethod
    def _followed(what: str, url: str, target: str) -> str:
        """Where the hub sends to. Raises SourceError for what is not the web, or gives up its encryption."""
        try:
            there = urlsplit(urljoin(url, target))
            web.origin(there)
        except ValueError as failure:
            raise SourceError(f"{what}: the hub sends to an address that is none") from failure
        if there.scheme not in ("http", "https") or (url.startswith("https:") and there.scheme == "http"):
            raise SourceError(f"{what}: the hub sends to {there.scheme}://{there.hostname}, where this does not follow")
        return there.geturl()

    def _json(self, what: str, url: str, query: Mapping[str, Any], *, parse: bool = True) -> "tuple[Response, Any]":
        with self._asked("GET", what, url, query) as (response, _):
            body = bulk.gathered(response.iter_bytes(), what, _MOST_BYTES)
            try:
                return response, json.loads(body) if parse else None
            except (ValueError, RecursionError) as failure:
                raise CorruptData(f"{what}: what the hub answered is no JSON") from failure

    @contextmanager
    def _asked(
        self, method: str, what: str, url: str, query: Mapping[str, Any]
    ) -> "Iterator[tuple[Response, Mapping[str, str]]]":
        """A success's head, or a redirect to another server, and the headers that let one in at the hub."""
        from httpx2 import Timeout as Limits
        from huggingface_hub.utils import get_session, hf_raise_for_status

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request
        limits = Limits(bulk.IDLE_S, connect=bulk.CONNECT_S)
        with self._told(what):
            headers = self._headers(what)
            params: Mapping[str, Any] | None = query or None
            for _ in range(_MOST_REDIRECTS + 1):
                request = get_session().stream(
                    method, url, params=params, headers=headers, timeout=limits, follow_redirects=False
                )
                with request as response:
                    hf_raise_for_status(response)
                    target = response.headers.get("location", "") if response.status_code in _REDIRECTS else ""
                    if not target or (method == "HEAD" and not _is_same_server(url, target)):
                        yield response, {"Authorization": value} if (value := headers.get("authorization")) else {}
                        return
                there = self._followed(what, url, target)
                if not _is_same_server(url, there):  # the token is not for that one
                    raise SourceError(f"{what}: the hub sends to {urlsplit(there).hostname}: give that as endpoint_url")
                url, params = there, None  # a repository that has another name by now
        raise SourceError(f"{what}: the hub sends from one address to the next without end")

    def _headers(self, what: str) -> dict[str, str]:
        from huggingface_hub.errors import OIDCError
        from huggingface_hub.utils import build_hf_headers

        token = self._token_file.read() if self._token_file else None
        try:
            headers: dict[str, str] = build_hf_headers(token=token, library_name="egofs")
        except (OIDCError, OSError, ValueError, RuntimeError) as failure:
            raise AccessDenied(f"{what}: huggingface_hub cannot give a token: {type(failure).__name__}") from failure
        return {**headers, "accept-encoding": "identity"}

    # -- failures

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Our failures for the library's, in one line that names no address but the repository's page."""
        from httpx2 import HTTPError, InvalidURL
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except EgofsError:
            raise
        except HfHubHTTPError as failure:
            raise self._refusal(what, failure) from failure
        except OfflineModeIsEnabled as failure:
            raise SourceError(f"{what}: HF_HUB_OFFLINE is set: unset it where egofs is started") from failure
        except (HTTPError, InvalidURL, OSError, RuntimeError) as failure:  # the last of a client that was closed
            raise _connection(what, failure) from failure

    def _refusal(self, what: str, failure: Any) -> EgofsError:
        """What an error that the hub answered means (huggingface_hub.errors, which read it from X-Error-Code)."""
        from huggingface_hub import errors

        response = failure.response
        status = response.status_code
        said = " ".join(str(response.headers.get("x-error-message", "")).split())[:200]
        with_token = "authorization" in response.request.headers
        if isinstance(failure, errors.GatedRepoError):
            return AccessDenied(f"{what}: {self._access(with_token)}")
        if isinstance(failure, errors.DisabledRepoError):
            return AccessDenied(f"{what}: the hub has disabled {self._name}")
        if isinstance(failure, errors.RevisionNotFoundError):
            return _NoRevision(f"{what}: {self._name} has no revision {self._revision!r}: see {self.page}/tree/main")
        if isinstance(failure, errors.EntryNotFoundError):
            return NotFound(f"{what}: there is no such entry")
        # The library takes most of what 401 says for a repository that is not there.
        is_unknown = said.lower().startswith("invalid") or not isinstance(failure, errors.RepositoryNotFoundError)
        if status == 401 and with_token and is_unknown:
            return AccessDenied(f"{what}: the hub does not know the token ({self._token_words()}): {_RENEW}")
        if isinstance(failure, errors.RepositoryNotFoundError) or status == 401:
            kind = NotFound if status == 404 else AccessDenied
            return kind(f"{what}: there is no {self._name}, or it is private: {self._private(with_token)}")
        if status == 403:
            return AccessDenied(f"{what}: refused to {self._token_words()}{f' ({said})' if said else ''}: {_SCOPE}")
        if status == 429:
            return self._throttled(what, response.headers)
        ours = web.failure(what, web.Answer(status, {k.lower(): v for k, v in response.headers.items()}, b"", ""))
        return ours

    def _throttled(self, what: str, headers: Mapping[str, str]) -> Throttled:
        from huggingface_hub.utils import parse_ratelimit_headers

        limit = parse_ratelimit_headers(headers)
        ours = Throttled(f"{what}: the hub asks for fewer requests; with a token it allows more")
        ours.retry_after_s = web.retry_after_s(headers.get("retry-after", ""))
        if not ours.retry_after_s and limit is not None and limit.remaining == 0:
            ours.retry_after_s = float(limit.reset_in_seconds)
        return ours

    def _access(self, with_token: bool) -> str:
        if with_token:
            return f"the account of {self._token_words()} has not been given access: ask for it at {self.page}"
        return f"access is gated: ask for it at {self.page}, then {_LOGIN}"

    def _private(self, with_token: bool) -> str:
        return (
            f"check the name, or whether {self._token_words()} may see it"
            if with_token
            else f"check the name, or {_LOGIN}"
        )

    def _token_words(self) -> str:
        return f"the token in {self._token_file.path}" if self._token_file else "the token that huggingface_hub finds"


_LOGIN = "put a token into a file and give token_file=FILE, or run: hf auth login"
_RENEW = "make a new one at https://huggingface.co/settings/tokens, it is used without a remount"
_SCOPE = "give it read access to gated repositories at https://huggingface.co/settings/tokens"


def lifetime_s(url: str, date: str) -> float:
    """How long a signed address may be used, by what its query says of its end and the server's clock.

    CloudFront has Expires, S3 and what signs like it X-Amz-Date and X-Amz-Expires.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        now = web.moment_s(date) or time.time()
        if "Expires" in query:
            told = float(query["Expires"]) - now
        else:
            signed = datetime.strptime(query["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
            told = signed + float(query["X-Amz-Expires"]) - now
    except (KeyError, ValueError, OverflowError):
        return _UNTOLD_S
    return max(0.0, min(told - min(_MARGIN_S, told / 10), 7 * 86400.0))


def _rows(what: str, told: Any) -> Iterator[Row]:
    """The entries of a page. What is neither file nor folder (another repository within this one) is left out."""
    if not isinstance(told, list):
        raise CorruptData(f"{what}: what the hub answered is no listing")
    for entry in told:
        try:
            kind, path = entry["type"], entry["path"]
            if not isinstance(path, str):
                raise TypeError("a path is a text")
            if kind == "directory":
                yield Row(path, True)
            elif kind == "file":
                lfs = entry.get("lfs")
                size, version = (lfs["size"], lfs["oid"]) if lfs else (entry["size"], entry["oid"])
                yield Row(path, False, _natural(size), str(version).removeprefix("sha256:"))
        except (KeyError, TypeError, ValueError, OverflowError) as failure:
            raise CorruptData(f"{what}: an entry of the listing cannot be read") from failure


def _natural(size: Any) -> int:
    """A number of bytes. Raises ValueError for one below 0: that would be one that is not known."""
    number = int(size)
    if number < 0:
        raise ValueError("no size")
    return number


def _cursor_in(url: str) -> str:
    """Where the next page begins. Of the address that the hub gives only this is used: a token goes nowhere else."""
    return parse_qs(urlsplit(url).query).get("cursor", [""])[0]


def token_place() -> tuple[str, Path | None]:
    """What the token that huggingface_hub finds stands in, and its file if that is one; "" where it finds none."""
    from huggingface_hub.constants import HF_TOKEN_PATH
    from huggingface_hub.utils import get_token

    token, file = get_token(), Path(HF_TOKEN_PATH)
    if not token:
        return "", None
    try:
        is_there = file.read_text().strip() == token
    except (OSError, UnicodeDecodeError):
        is_there = False
    return (str(file), file) if is_there else ("HF_TOKEN", None)


def _quoted(path: str, safe: str = "/") -> str:
    return quote(path.encode(errors="surrogateescape"), safe=safe)


def _nanoseconds(date: object) -> int:
    try:
        return int(datetime.fromisoformat(str(date)).timestamp()) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0


def _is_same_server(url: str, target: str) -> bool:
    try:
        return web.origin(urlsplit(url)) == web.origin(urlsplit(urljoin(url, target)))
    except ValueError:
        return False


def _connection(what: str, failure: Exception) -> EgofsError:
    """What it means that no answer came."""
    import httpx2

    if isinstance(failure, httpx2.TimeoutException):
        return Timeout(f"{what}: no answer for {bulk.IDLE_S:.0f} s, or no connection in {bulk.CONNECT_S:.0f} s")
    if isinstance(failure, httpx2.ConnectError):
        words = str(failure).partition("\n")[0][:150]
        return Unavailable(f"{what}: the hub cannot be reached ({words}): check endpoint_url, and the network")
    if isinstance(failure, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return SourceError(f"{what}: its address is none")
    return Unavailable(f"{what}: the connection was lost ({type(failure).__name__})")
