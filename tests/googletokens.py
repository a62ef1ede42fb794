"""Google's endpoints that give tokens, for tests: refresh tokens, authorization codes, service accounts.

Answers and errors are those of RFC 6749 (sections 4.1, 5 and 6) and RFC 7523. Called by the Drive for tests.
"""

import base64
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

DRIVE = "https://www.googleapis.com/auth/drive"
READONLY = f"{DRIVE}.readonly"


@dataclass(frozen=True)
class Refuse:
    """Answers this error of the API instead."""

    status: int
    reason: str
    domain: str = "global"
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """What is answered instead."""

    def __init__(self, refuse: Refuse) -> None:
        self.refuse = refuse


class TokenGiver:
    """Whom a server lets in, and with what."""

    url: str

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        """How long a token lives."""
        self.tokens: dict[str, tuple[float, str]] = {}
        self.refresh_tokens: set[str] = set()
        self.client_secret = "client-secret-" + secrets.token_hex(8)
        self.codes: dict[str, str] = {}
        self.service_keys: dict[str, Any] = {}

    def issue(self, scope: str = READONLY, lifetime_s: float | None = None) -> str:
        """A token that is valid for a while."""
        token = "ya29." + secrets.token_urlsafe(24)
        self.tokens[token] = time.time() + (self.lifetime_s if lifetime_s is None else lifetime_s), scope
        return token

    def expire(self) -> None:
        """No token that was issued is valid any more."""
        self.tokens.clear()

    def write_credentials(
        self, file: Path, *, scope: str = DRIVE, valid_for_s: float = 3600.0, refresh: str | None = None
    ) -> str:
        """credentials.json as PyDrive2 saves it; gives its refresh token."""
        refresh = "1//" + secrets.token_urlsafe(16) if refresh is None else refresh
        if refresh:
            self.refresh_tokens.add(refresh)
        expiry = datetime.now(UTC) + timedelta(seconds=valid_for_s)
        told = {
            "access_token": self.issue(scope, valid_for_s),
            "client_id": "tester.apps.googleusercontent.com",
            "client_secret": self.client_secret,
            "refresh_token": refresh or None,
            "token_expiry": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "token_uri": f"{self.url}/token",
            "user_agent": None,
            "revoke_uri": f"{self.url}/revoke",
            "id_token": None,
            "id_token_jwt": None,
            "token_response": None,
            "scopes": [scope],
            "token_info_uri": f"{self.url}/tokeninfo",
            "invalid": False,
            "_class": "OAuth2Credentials",
            "_module": "oauth2client.client",
        }
        file.write_text(json.dumps(told))
        file.chmod(0o600)
        return refresh

    def write_client_secrets(self, file: Path, **more: Any) -> None:
        """client_secrets.json as Google's console gives it."""
        client = {
            "client_id": "tester.apps.googleusercontent.com",
            "project_id": "tests",
            "auth_uri": f"{self.url}/auth",
            "token_uri": f"{self.url}/token",
            "client_secret": self.client_secret,
            "redirect_uris": ["http://localhost"],
        }
        file.write_text(json.dumps({"installed": {**client, **more}}))

    def write_service_account(self, file: Path) -> None:
        """The key of a service account that is let in."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048)
        email = f"robot{len(self.service_keys)}@tests.iam.gserviceaccount.com"
        self.service_keys[email] = key.public_key()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        told = {"type": "service_account", "client_email": email, "private_key": pem.decode(), "private_key_id": "k1"}
        file.write_text(json.dumps({**told, "client_id": "1", "token_uri": f"{self.url}/token"}))

    def consent(self, url: str, *, grants: bool = True) -> str:
        """What a person does at the address of the question; gives where the browser is sent."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["scope"] == READONLY
        assert asked["access_type"] == "offline"
        assert re.match(r"http://(localhost|127\.0\.0\.1):\d+/", asked["redirect_uri"])
        told = {"state": asked["state"]}
        if grants:
            code = "4/" + secrets.token_urlsafe(16)
            self.codes[code] = asked["redirect_uri"]
            told["code"] = code
        else:
            told["error"] = "access_denied"
        return f"{asked['redirect_uri']}?{urlencode(told)}"

    def admit(self, authorization: str) -> None:
        """Raises Refused for a header without a token that is valid for reading."""
        until, scope = self.tokens.get(authorization.removeprefix("Bearer "), (0.0, ""))
        if until < time.time():
            raise Refused(Refuse(401, "authError"))
        if scope not in (DRIVE, READONLY):
            raise Refused(Refuse(403, "insufficientPermissions"))

    def given(self, form: dict[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint to a form. Raises Refused."""
        kind = form.get("grant_type", "")
        if kind == "urn:ietf:params:oauth:grant-type:jwt-bearer" or "assertion" in form:
            scope = self._asserted(form["assertion"])
            return {"access_token": self.issue(scope), "expires_in": int(self.lifetime_s), "token_type": "Bearer"}
        if form.get("client_secret") != self.client_secret:
            raise Refused(Refuse(401, "invalid_client", "token"))
        told: dict[str, Any] = {"expires_in": int(self.lifetime_s), "token_type": "Bearer", "scope": READONLY}
        if kind == "refresh_token" and form.get("refresh_token") in self.refresh_tokens:
            return {**told, "access_token": self.issue()}
        if kind == "authorization_code" and self.codes.pop(form["code"], "") == form.get("redirect_uri"):
            refresh = "1//" + secrets.token_urlsafe(16)
            self.refresh_tokens.add(refresh)
            return {**told, "access_token": self.issue(), "refresh_token": refresh}
        raise Refused(Refuse(400, "invalid_grant", "token"))

    def _asserted(self, assertion: str) -> str:
        """The scope that a service account asks for, its signature checked."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        head, body, signature = assertion.split(".")
        claims = json.loads(_unbase64(body))
        key = self.service_keys.get(claims["iss"])
        try:
            assert json.loads(_unbase64(head))["alg"] == "RS256"
            assert claims["aud"] == f"{self.url}/token"
            assert time.time() - 60 < claims["iat"] <= time.time() < claims["exp"] <= claims["iat"] + 3600
            key.verify(_unbase64(signature), f"{head}.{body}".encode(), PKCS1v15(), SHA256())
        except (AssertionError, AttributeError, InvalidSignature) as failure:
            raise Refused(Refuse(400, "invalid_grant", "token")) from failure
        return str(claims["scope"])


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
