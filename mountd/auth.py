"""`egofs auth gdrive`: the one consent in a browser, and what the credentials that came of it are worth.

It hides the way that the answer takes: Google sends the browser to an address of this machine, where a server waits
for that one request; or nobody waits there, and the person pastes the address. (To show a code to copy instead, as it
once did, Google gave up in 2022.) Called by the command line. What Google is told and what is written,
vfs/drive/oauth.py knows. Raises EgofsError, one line that tells what to do; no secret stands in any.
"""

import contextlib
import time
import webbrowser
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vfs.drive import oauth
from vfs.drive.api import ROOT_URL, Drive
from vfs.errors import OptionError, Timeout

# Those of PyDrive2 first: a client that is registered as a web application may name only addresses that were told.
_PORTS = (8080, 8090, 0)
_PATIENCE_S = 600.0
_PAGE = b"<!DOCTYPE html><title>egofs</title><p>egofs has the answer; this page can be closed."


def files(client_secrets: Path | None, credentials: Path | None) -> oauth.Files:
    """Where the files are, those that were not named as settings.yaml has it. Raises OptionError."""
    told = oauth.Files.told_by(oauth.home() / oauth.SETTINGS)
    return oauth.Files(credentials or told.credentials, client_secrets or told.client_secrets)


def with_browser(files: oauth.Files, say: Callable[[str], None]) -> str:
    """Asks in this machine's browser, and writes the credentials; gives what to say of it."""
    with _listening() as server:
        consent = oauth.Consent(files.client_secrets, f"http://localhost:{server.server_port}/")
        opened = webbrowser.open(consent.url)
        say("The browser asks you now." if opened else "Open this address in a browser on this machine:")
        say(f"\n    {consent.url}\n")
        say("Without a browser here, end this and use --no-browser.")
        return _written(files.credentials, consent.answered(server.wait()))


def with_pasted_address(files: oauth.Files, say: Callable[[str], None], ask: Callable[[str], str]) -> str:
    """Asks in a browser anywhere: the person brings back the address at which it ended."""
    consent = oauth.Consent(files.client_secrets, f"http://localhost:{_PORTS[0]}/")
    say(f"Open this address in any browser, and agree:\n\n    {consent.url}\n")
    say(
        f"It ends at a page that cannot be shown, whose address begins with http://localhost:{_PORTS[0]}/. "
        "Copy that address whole."
    )
    return _written(files.credentials, consent.answered(ask("The address:").strip()))


def checked(files: oauth.Files, endpoint_url: str = "") -> str:
    """What the credentials are worth: whose they are, asked of Google, and how long they last."""
    if not files.credentials.is_file():
        raise OptionError(f"{files.credentials} is not there: run `egofs auth gdrive`, or name one with --credentials")
    access = oauth.Access(files.credentials)
    with contextlib.closing(Drive(access, endpoint_url or ROOT_URL)) as drive:
        account = drive.account()
    until = datetime.fromtimestamp(min(access.until(), time.time() + 86_400)).astimezone()
    return f"{files.credentials}: they work, as {account}\nthe access token ends at {until:%H:%M %Z}, and " + (
        "is renewed by itself" if access.is_renewable() else "cannot be renewed: run `egofs auth gdrive`"
    )


def _written(file: Path, text: str) -> str:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        oauth.write(file, text)
    except OSError as failure:
        raise OptionError(f"{file}: {failure.strerror}: name another file with --credentials") from failure
    return f"{file} is written: it lets whoever has it read your Drive, and can be brought to other machines"


class _Answer(BaseHTTPRequestHandler):
    """Takes the one request that has an answer; a browser asks for pictures too."""

    server: "_Listening"
    timeout = 5.0  # browsers open connections ahead, and say nothing on them

    def do_GET(self) -> None:
        is_answer = {"code", "error"} & parse_qs(urlsplit(self.path).query).keys()
        if is_answer:
            self.server.address = f"http://localhost:{self.server.server_port}{self.path}"
        self.send_response(200 if is_answer else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(_PAGE if is_answer else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the address has the answer in it."""


class _Listening(HTTPServer):
    """Waits for a browser on this machine."""

    address = ""
    timeout = 1.0

    def wait(self) -> str:
        """The address to which the browser was sent. Raises Timeout."""
        give_up = time.monotonic() + _PATIENCE_S
        while not self.address:
            if time.monotonic() > give_up:
                raise Timeout(f"no answer came in {_PATIENCE_S / 60:.0f} minutes: nothing was written")
            self.handle_request()
        return self.address


@contextlib.contextmanager
def _listening() -> Iterator[_Listening]:
    for port in _PORTS:
        try:
            server = _Listening(("127.0.0.1", port), _Answer)
        except OSError:
            continue
        with server:
            yield server
            return
    raise OptionError("no port of this machine can be listened on: use --no-browser")
