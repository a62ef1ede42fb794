"""`egofs auth gdrive`: the consent in a browser here or elsewhere, and what credentials are worth."""

import json
import re
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driveserver import DriveServer
from tests.googletokens import READONLY, Refuse
from tests.mounting import EGOFS, egofs
from vfs.sources import gdrive


@pytest.fixture
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def begun(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """`egofs auth gdrive`, begun in `home`, with a browser that cannot be opened."""
    # `BROWSER` names one that tells webbrowser that it failed.
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "BROWSER": "/bin/false %s", "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(
        [*EGOFS, "auth", "gdrive", *arguments],
        cwd=home,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def question(process: "subprocess.Popen[str]") -> str:
    """The address that a person is to open."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+/auth\?\S+", line):
            return found[0]
    raise AssertionError(process.stderr.read() if process.stderr else "")


def told(process: "subprocess.Popen[str]", text: str | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(text, timeout=60)
    return process.returncode, out, err


def test_the_consent_on_this_machine_makes_credentials_that_a_mount_uses(server: DriveServer, home: Path) -> None:
    server.write_client_secrets(home / "client_secrets.json")
    process = begun(home)
    address = server.consent(question(process))
    base = address.partition("?")[0]
    for path in ("favicon.ico", "?nothing=1"):  # browsers ask for more than the one page
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{base}{path}", timeout=10)
    with urllib.request.urlopen(address, timeout=10) as page:
        assert b"can be closed" in page.read()
    status, out, err = told(process)
    assert (status, err) == (0, "")
    file = home / "credentials.json"
    assert str(file) in out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    saved = json.loads(file.read_text())
    assert saved["scopes"] == [READONLY]
    assert saved["refresh_token"] in server.refresh_tokens
    assert not [saved[key] for key in ("refresh_token", "access_token", "client_secret") if saved[key] in out]
    server.file("x.mp4", b"data")
    options = gdrive.Options(credentials=file, endpoint_url=server.endpoint_url)
    source = gdrive.open_source(f"gdrive://{server.root}", options)
    assert [listed.name for listed in source.list("")] == ["x.mp4"]
    source.close()


def test_the_consent_elsewhere_is_brought_as_an_address(server: DriveServer, home: Path) -> None:
    secrets = home / "elsewhere.json"
    server.write_client_secrets(secrets)
    file = home / "new/folder/mine.json"
    process = begun(home, "--no-browser", "--client-secrets", str(secrets), "--credentials", str(file))
    status, _, err = told(process, server.consent(question(process)) + "\n")
    assert (status, err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["mine.json"]


WRONG_ANSWERS = {
    "another question's": ("http://localhost:8080/?state=x&code=4/y", "is not the address"),
    "a code alone": ("4/0Axyz", "is not the address"),
    "nothing": ("http://localhost:8080/", "is not the address"),
}


@pytest.mark.parametrize(("answer", "said"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_an_address_that_is_no_answer_is_refused(answer: str, said: str, server: DriveServer, home: Path) -> None:
    server.write_client_secrets(home / "client_secrets.json")
    process = begun(home, "--no-browser")
    question(process)
    status, _, err = told(process, f"{answer}\n")
    assert status == 1
    assert said in err
    assert err.count("\n") == 1
    assert not (home / "credentials.json").exists()


def test_a_person_who_does_not_agree_leaves_nothing_behind(server: DriveServer, home: Path) -> None:
    server.write_client_secrets(home / "client_secrets.json")
    process = begun(home, "--no-browser")
    status, _, err = told(process, server.consent(question(process), grants=False) + "\n")
    assert status == 32
    assert "access_denied" in err
    assert not (home / "credentials.json").exists()


def test_a_client_secret_that_was_never_filled_in_is_told(server: DriveServer, home: Path) -> None:
    server.write_client_secrets(home / "client_secrets.json", client_secret="your key here")
    process = begun(home, "--no-browser")
    status, _, err = told(process, server.consent(question(process)) + "\n")
    assert status == 32
    assert "mailed" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text", [None, "no json", "[]", "{}", '{"installed": {"client_id": "a"}}', '{"installed": []}']
)
def test_client_secrets_that_are_none_are_told_in_a_line(text: str | None, home: Path) -> None:
    if text is not None:
        (home / "client_secrets.json").write_text(text)
    status, out, err = told(begun(home, "--client-secrets", str(home / "client_secrets.json")))
    assert (status, out) == (1, "")
    assert err.startswith(f"egofs: {home / 'client_secrets.json'}: ")
    assert err.count("\n") == 1


def test_an_answer_that_does_not_come_is_an_interruption(server: DriveServer, home: Path) -> None:
    server.write_client_secrets(home / "client_secrets.json")
    process = begun(home, "--no-browser")
    question(process)
    status, _, err = told(process, "")
    assert status == 8
    assert "interrupted" in err


def test_check_tells_whose_credentials_they_are_and_no_secret(server: DriveServer, home: Path) -> None:
    file = home / "credentials.json"
    refresh = server.write_credentials(file)
    endpoint = ("--endpoint-url", server.endpoint_url, "--credentials", file)
    done = egofs("auth", "gdrive", "--check", *endpoint)
    assert done.returncode == 0, done.stderr
    assert "person@example.org" in done.stdout
    assert "is renewed by itself" in done.stdout
    assert not [secret for secret in (refresh, *server.tokens, server.client_secret) if secret in done.stdout]
    server.write_credentials(file, refresh="")
    assert "cannot be renewed" in egofs("auth", "gdrive", "--check", *endpoint).stdout
    server.faults = lambda request: Refuse(401, "authError") if request.kind == "about" else None
    done = egofs("auth", "gdrive", "--check", *endpoint)
    assert (done.returncode, done.stdout) == (32, "")
    assert "egofs auth gdrive" in done.stderr
    assert done.stderr.count("\n") == 1
    file.unlink()
    done = egofs("auth", "gdrive", "--check", *endpoint)
    assert done.returncode == 1
    assert "is not there" in done.stderr
