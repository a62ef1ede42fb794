"""Who one is to Google: credentials in files, access tokens that are renewed in time, and the one consent in a browser.

It hides PyDrive2 and what that is made of (oauth2client): settings.yaml, client_secrets.json, credentials.json as
PyDrive2 reads and writes them, keys of service accounts, refresh tokens, and Google's errors about all these. Called
by the client of the Drive (api.py), which wants a token for each request, and by `egofs auth gdrive`; it knows
nothing of files and folders. PyDrive2 takes 0.3 s to import: that is done when a token has to be renewed.

Any thread may enter. One of them renews; others go on with the token there is while it is valid, or wait. Nothing is
fetched under a lock. Tokens and secrets stand in no message. Only the token endpoint that the credentials name is
asked, by HTTP as web.py has it: httplib2, which PyDrive2 would take, has no deadline and is not for several threads.
"""

import contextlib
import importlib.util
import json
import logging
import math
import os
import re
import secrets
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vfs.errors import AccessDenied, EgofsError, OptionError, SourceError, Throttled, Timeout, Unavailable
from vfs.flight import Flights
from vfs.web import Answer, Web

_log = logging.getLogger(__name__)

READONLY = "https://www.googleapis.com/auth/drive.readonly"
CREDENTIALS, SETTINGS, CLIENT_SECRETS = "credentials.json", "settings.yaml", "client_secrets.json"
RENEW = "run `egofs auth gdrive`, the new credentials are used without a remount"
_SECRETS = (
    "take the file that Google's console gives for a client, or that of the dataset's tool with the key in it that "
    "was mailed to you"
)

# A token lives for an hour. So early it is renewed that no request under way outlives it, which has a minute.
_EARLY_S = 300.0
# One that is still good for so long may go with a request while another is fetched.
_STILL_GOOD_S = 20.0
# Google is not asked again by each reader: with credentials that have ended, unless the file has changed; and for a
# token that would only be early, where nobody answered.
_LEFT_ALONE_S = 30.0
_MOST_FILE_BYTES = 1 << 20
# What a credentials.json may name as its class: oauth2client imports whatever stands there.
_CLASSES = {("oauth2client.client", "OAuth2Credentials"), ("oauth2client.client", "GoogleCredentials")}
_Facts = tuple[int, int, int]


def home() -> Path:
    """Where the files are that nobody named: here, if one of them is, as PyDrive2 has it; else in ~/.config."""
    with contextlib.suppress(FileNotFoundError):  # a folder that was deleted
        here = Path.cwd()
        if any((here / name).is_file() for name in (CREDENTIALS, SETTINGS, CLIENT_SECRETS)):
            return here
    return Path(os.path.expanduser("~/.config/egofs/gdrive"))


def require_library() -> None:
    """Raises OptionError where PyDrive2 is not installed; does not import it."""
    if importlib.util.find_spec("pydrive2") is None:
        raise OptionError("Google Drive needs PyDrive2: pip install 'egofs[gdrive]'")


@dataclass(frozen=True)
class Files:
    """What settings.yaml says of PyDrive2's other files, those it names relatively as they stand beside it."""

    credentials: Path
    client_secrets: Path
    service_account: Path | None = None
    as_user: str = ""
    """Whom the service account acts for, "" for itself."""

    @classmethod
    def told_by(cls, settings: Path) -> "Files":
        """Where there are no settings, the names that PyDrive2's documents use. Raises OptionError."""
        told: dict[str, Any] = {}
        if settings.is_file():
            told = _settings(settings)
        beside = settings.parent
        service = told.get("service_config") if told.get("client_config_backend") == "service" else None
        key = (service or {}).get("client_json_file_path")
        if service and not key:
            raise OptionError(f"{settings}: service_config has no client_json_file_path, which alone is read here")
        return cls(
            beside / (told.get("save_credentials_file") or CREDENTIALS),
            beside / (told.get("client_config_file") or CLIENT_SECRETS),
            beside / key if key else None,
            (service or {}).get("client_user_email") or "",
        )


def _settings(file: Path) -> dict[str, Any]:
    require_library()
    from pydrive2.settings import InvalidConfigError, LoadSettingsFile, SettingsError, ValidateSettings

    try:
        told = LoadSettingsFile(file)
        if not isinstance(told, dict):
            raise InvalidConfigError("it has no settings")
        ValidateSettings(told)
    except (SettingsError, InvalidConfigError, UnicodeDecodeError) as failure:
        raise OptionError(f"{file}: these are no settings of PyDrive2: {_first_line(failure)}") from failure
    return told


@dataclass(frozen=True)
class _Token:
    text: str
    until: float
    """Seconds of the epoch; infinite where nobody said."""

    def is_good_for(self, seconds: float) -> bool:
        return bool(self.text) and self.until > time.time() + seconds


_NONE = _Token("", 0.0)


class Access:
    """The tokens of one account, from its credentials.json or from the key of a service account."""

    def __init__(self, file: Path, *, is_service: bool = False, as_user: str = "") -> None:
        """Reads nothing yet."""
        self.file = file
        self._is_service = is_service
        self._as_user = as_user
        self._web = Web(_refusal)
        self._flights: Flights[str, None] = Flights()
        self._token = _NONE  # replaced whole
        self._later = 0.0  # nobody asks before, while the token is good
        # The rest is the owner's of the flight.
        self._auth: Any = None
        self._facts: _Facts | None = None
        self._ended: tuple[float, _Facts | None, str] | None = None

    def token(self, refused: str = "") -> str:
        """A token that is valid now, and another than the one that was refused. Raises AccessDenied, and what the
        token endpoint's failures are."""
        known = self._token
        if known.text != refused and known.is_good_for(_EARLY_S if time.time() > self._later else _STILL_GOOD_S):
            return known.text
        flight, mine = self._flights.join("")
        if mine:
            try:
                self._renew(refused)
            except BaseException as failure:
                self._flights.crash("", failure)
                raise
            self._flights.land("", None)
        elif known.text == refused or not known.is_good_for(_STILL_GOOD_S):
            self._flights.wait(flight, "renew the access token")
        return self._token.text

    def look_again(self) -> bool:
        """Whether the file is another than the one that was read: the next token will be of that then."""
        if self._facts is None or self._facts == _facts(self.file):
            return False
        self._token = _NONE
        return True

    def until(self) -> float:
        """When the token ends that is in use, in seconds of the epoch."""
        return self._token.until

    def is_renewable(self) -> bool:
        """Whether a token that has ended can be renewed without anybody's consent."""
        return self._is_service or bool(self._auth and self._auth.credentials.refresh_token)

    def told(self) -> tuple[str, float]:
        """Whose the credentials are, and when they end for good (0: they are renewed by themselves), as the file tells.

        Asks nobody. Raises AccessDenied for a file that holds none.
        """
        told = _read(self.file)
        if self._is_service:
            return f"the key of {told.get('client_email', 'a service account')}", 0.0
        if (told.get("_module"), told.get("_class")) not in _CLASSES:
            raise AccessDenied(f"{self.file}: these are no credentials of PyDrive2: {RENEW}")
        until = 0.0
        if not told.get("refresh_token"):
            with contextlib.suppress(ValueError):
                ends = datetime.strptime(str(told.get("token_expiry")), "%Y-%m-%dT%H:%M:%SZ")
                until = ends.replace(tzinfo=UTC).timestamp()
        return "credentials of `egofs auth gdrive`, or of PyDrive2", until

    def close(self) -> None:
        """Ends the connections."""
        self._web.close()

    # -- the owner of the flight

    def _renew(self, refused: str) -> None:
        """Has another token: that of the file, where somebody else put one there, or a new one."""
        known = self._token
        if known.text != refused and known.is_good_for(_EARLY_S):
            return  # it has come since
        if self._auth is None or self._facts != _facts(self.file):
            found = self._load()
            if found.text != refused:
                self._token = known = found
            if known.text != refused and known.is_good_for(_EARLY_S):
                return
        try:
            self._refresh()
        except (Timeout, Unavailable, Throttled) as failure:
            if known.text == refused or not known.is_good_for(_STILL_GOOD_S):
                raise
            _log.info("the access token could not be renewed yet: %s", failure)
            self._later = time.time() + _LEFT_ALONE_S
            return
        self._save()
        self._token = _token_of(self._auth.credentials)

    def _load(self) -> _Token:
        require_library()
        facts, told = _facts(self.file), _read(self.file)
        credentials = _service_account(self.file, told, self._as_user) if self._is_service else _saved(self.file, told)
        self._auth = _google_auth()
        self._auth.auth_method = "service" if self._is_service else ""
        self._auth.credentials = credentials
        self._facts = facts
        return _token_of(credentials)

    def _refresh(self) -> None:
        from pydrive2.auth import RefreshError

        if self._ended and self._ended[1] == self._facts and time.time() - self._ended[0] < _LEFT_ALONE_S:
            raise AccessDenied(self._ended[2])
        self._auth.http = _Endpoint(self._web, "renew the access token")
        try:
            self._auth.Refresh()
        except RefreshError as failure:
            ours = _ended(str(failure).removeprefix("Access token refresh failed: "), self.file)
            if isinstance(ours, AccessDenied):
                self._ended = time.time(), self._facts, str(ours)
            raise ours from failure
        except (KeyError, ValueError, TypeError) as failure:
            raise SourceError("renew the access token: the answer is not one of a token endpoint") from failure

    def _save(self) -> None:
        """Writes the token back for other programs and the next mount, unless somebody wrote other credentials."""
        if self._is_service or self._facts != _facts(self.file):
            return
        try:
            write(self.file, self._auth.credentials.to_json())
        except OSError as failure:
            _log.info("the renewed token is not kept in %s: %s", self.file, failure.strerror)
        self._facts = _facts(self.file)


class Consent:
    """The question in a browser whether egofs may read one's Drive, and what becomes of the answer."""

    def __init__(self, client_secrets: Path, redirect: str) -> None:
        """`redirect` is the address to which Google sends the browser with the answer. Raises OptionError."""
        require_library()
        _read(client_secrets, OptionError, _SECRETS)
        settings = {
            "client_config_backend": "file",
            "client_config_file": str(client_secrets),
            "save_credentials": False,
            "get_refresh_token": True,
            "oauth_scope": [READONLY],
        }
        auth = _google_auth(settings)
        from pydrive2.settings import InvalidConfigError

        try:
            auth.GetFlow()
        except (InvalidConfigError, ValueError, TypeError, AttributeError) as failure:
            raise OptionError(
                f"{client_secrets}: no secrets of a client ({_first_line(failure)}): {_SECRETS}"
            ) from failure
        self._state = secrets.token_urlsafe(16)
        self._flow = auth.flow
        self._flow.redirect_uri = redirect
        self._flow.params["state"] = self._state
        self._file = client_secrets
        self.url = str(auth.GetAuthUrl())
        """Where a person is asked."""

    def answered(self, address: str) -> str:
        """credentials.json for the answer that came with the address to which the browser was sent.

        Raises AccessDenied for a refusal, OptionError for what is no answer to this question.
        """
        told = parse_qs(urlsplit(address).query)
        if "error" in told:
            raise AccessDenied(f"Google answers: {told['error'][0]:.80}: nothing was written")
        if "code" not in told or not secrets.compare_digest(told.get("state", [""])[0].encode(), self._state.encode()):
            raise OptionError(
                "that is not the address to which the browser was sent after this question: it begins with "
                f"{self._flow.redirect_uri} and has code= and state= in it"
            )
        from oauth2client.client import FlowExchangeError

        with contextlib.closing(Web(_refusal)) as web:
            try:
                endpoint = _Endpoint(web, "have the consent acknowledged")
                credentials = self._flow.step2_exchange(told["code"][0], http=endpoint)
            except FlowExchangeError as failure:
                raise _ended(str(failure), self._file) from failure
            except (KeyError, ValueError, TypeError) as failure:
                raise SourceError("the answer to the consent is not one of a token endpoint") from failure
        if not credentials.refresh_token:
            raise SourceError(
                "Google gave no refresh token: take egofs out of the account's third-party access, and retry"
            )
        return str(credentials.to_json())


def write(file: Path, text: str) -> None:
    """Puts a file that only its owner may read in place, whole. Raises OSError."""
    target = Path(os.path.realpath(file))
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # with mode 0600
    try:
        with open(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


# -- PyDrive2's parts


def _google_auth(settings: dict[str, Any] | None = None) -> Any:
    import pydrive2.auth

    # It tells what came from the token endpoint, at the level of information.
    logging.getLogger("oauth2client").setLevel(logging.WARNING)
    plain = {"client_config_backend": "file", "client_config_file": CLIENT_SECRETS, "save_credentials": False}
    return pydrive2.auth.GoogleAuth(settings={**plain, **(settings or {})})


def _read(file: Path, kind: type[EgofsError] = AccessDenied, remedy: str = RENEW) -> dict[str, Any]:
    """A file of JSON. Raises what `kind` is."""
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_FILE_BYTES + 1)
        told = json.loads(text) if len(text) <= _MOST_FILE_BYTES else None
    except OSError as failure:
        raise kind(f"{file}: {failure.strerror}: {remedy}") from failure
    except (ValueError, RecursionError) as failure:
        raise kind(f"{file}: this is not JSON: {remedy}") from failure
    if not isinstance(told, dict):
        raise kind(f"{file}: this holds no credentials: {remedy}")
    return told


def _saved(file: Path, told: dict[str, Any]) -> Any:
    """Credentials as PyDrive2 saves them."""
    from oauth2client.client import OAuth2Credentials

    if (told.get("_module"), told.get("_class")) not in _CLASSES:
        raise AccessDenied(f"{file}: these are no credentials of PyDrive2: {RENEW}")
    try:
        return OAuth2Credentials.from_json(json.dumps(told))
    except (KeyError, ValueError, TypeError, AttributeError) as failure:
        raise AccessDenied(f"{file}: these credentials are not whole: {RENEW}") from failure


class _Signer:
    """Signs for a service account. oauth2client's own has OpenSSL do it in a way that is no more."""

    def __init__(self, pem: str) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self._key: Any = load_pem_private_key(pem.encode(), None)

    def sign(self, message: bytes | str) -> bytes:
        """RSA with SHA-256."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        return bytes(self._key.sign(message.encode() if isinstance(message, str) else message, PKCS1v15(), SHA256()))


def _service_account(file: Path, told: dict[str, Any], as_user: str) -> Any:
    from oauth2client.service_account import ServiceAccountCredentials

    try:
        if told["type"] != "service_account":
            raise ValueError(told["type"])
        credentials = ServiceAccountCredentials(
            told["client_email"],
            _Signer(told["private_key"]),
            scopes=[READONLY],
            private_key_id=told["private_key_id"],
            client_id=told.get("client_id"),
            token_uri=told.get("token_uri") or "https://oauth2.googleapis.com/token",
        )
        return credentials.create_delegated(as_user) if as_user else credentials
    except (KeyError, ValueError, TypeError, AttributeError) as failure:
        raise AccessDenied(
            f"{file}: this is no key of a service account: take the JSON file that Google's console gives"
        ) from failure


class _Endpoint:
    """What oauth2client asks a token endpoint with; it takes whatever has httplib2's `request`."""

    def __init__(self, web: Web, what: str) -> None:
        self._web = web
        self._what = what

    def request(
        self, uri: str, method: str = "GET", body: str | None = None, headers: Any = None, **extra: Any
    ) -> tuple[Any, bytes]:
        """The answer, a refusal too. Raises our failures for others."""
        try:
            sent = body.encode() if body else None
            answer = self._web.ask(method, self._what, uri, headers, body=sent, most_bytes=_MOST_FILE_BYTES)
        except _Refused as refused:
            answer = refused.answer
        return SimpleNamespace(status=answer.status), answer.body


class _Refused(EgofsError):
    """The token endpoint refuses, and says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP status {answer.status}")
        self.answer = answer


def _refusal(what: str, answer: Answer) -> EgofsError | None:
    return _Refused(answer) if answer.status in (400, 401, 403) else None


_REASONS = {
    "invalid_grant": (
        "the credentials in {file} have ended or were revoked (those of a client that Google has not verified end "
        f"after 7 days): {RENEW}"
    ),
    "invalid_client": (
        "Google does not know the client of {file}: the client_secret is wrong or was never filled in; that of a "
        "dataset is mailed to whom it gives access"
    ),
    "unauthorized_client": "the client of {file} may not do this: Google's console says what it may",
}


def _ended(said: str, file: Path) -> EgofsError:
    """What a token endpoint's refusal means. `said` is its code, with a description or without."""
    for reason, words in _REASONS.items():
        if said.startswith(reason):
            return AccessDenied(words.format(file=file))
    if "refresh_token" in said:
        return AccessDenied(f"{file} has no refresh token and its access token has ended: {RENEW}")
    code = re.match(r"\w*", said)
    return AccessDenied(f"Google refuses the credentials in {file} ({code[0] if code else ''}): {RENEW}")


def _token_of(credentials: Any) -> _Token:
    if not credentials.access_token or credentials.invalid:
        return _NONE
    expiry = credentials.token_expiry
    return _Token(credentials.access_token, expiry.replace(tzinfo=UTC).timestamp() if expiry else math.inf)


def _facts(file: Path) -> _Facts | None:
    """What tells a file that was written anew; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _first_line(failure: BaseException) -> str:
    return str(failure).partition("\n")[0][:200]
