"""Who may see what: the daemon's files and sockets, other users, secrets; and servers that are not what they say."""

import os
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd import control, mounts
from tests.driveserver import DriveServer
from tests.hubserver import HubServer
from tests.mounting import Mount, egofs, mounted
from tests.s3server import S3Server, Status
from tests.test_s3 import make_certificate
from tests.test_sources import open_source
from tests.webserver import WebServer
from vfs.drive import oauth
from vfs.errors import EgofsError
from vfs.sources import Source, gdrive

NOBODY = 65534
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDKNOWN",
    "AWS_SECRET_ACCESS_KEY": "Secret-Key-Xyz",
    "AWS_SESSION_TOKEN": "Session-Token-Xyz",
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "store/bucket").mkdir(parents=True)
    for name in ("a.txt", "b.txt"):
        (tmp_path / "store/bucket" / name).write_bytes(b"data")
    with S3Server(tmp_path / "store") as server:
        yield server


# -- what the daemon leaves on disk


@pytest.mark.mount
def test_what_is_cached_logged_and_listened_at_is_its_owners_alone(bucket: S3Server, tmp_path: Path) -> None:
    """Though whoever mounts has a umask that gives all to everybody."""
    before = os.umask(0)
    try:
        options = f"endpoint_url={bucket.endpoint_url}"
        with mounted("s3://bucket", tmp_path / "m", options, cache=tmp_path / "c", env=AWS) as m:
            assert (m / "a.txt").read_bytes() == b"data"
            (mount,) = [each for each in mounts.egofs_mounts() if each.mountpoint == m.directory]
            sockets = [folder / control._name(mount.device) for folder in control._folders(os.geteuid())]
            (there,) = [path for path in sockets if path.exists()]
            assert stat.S_IMODE(there.stat().st_mode) == 0o600
            assert stat.S_IMODE(there.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    found = [tmp_path / "c", *(tmp_path / "c").rglob("*")]
    assert {path.name for path in found} >= {"log", "objects", "catalog.sqlite"}
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# -- other users


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@needs_root
@pytest.mark.mount
@pytest.mark.parametrize(
    ("options", "may"),
    [
        ([], False),  # the kernel lets nobody in
        (["allow_other"], True),
        (["allow_other", "umask=0077"], False),
        (["allow_other", "umask=0077", f"uid={NOBODY}"], True),
        (["allow_other", "umask=0007", f"gid={NOBODY}"], True),
        (["allow_other", "umask=0027"], False),
    ],
)
def test_another_user_gets_in_where_the_options_say_so(
    options: list[str], may: bool, open_place: Path, tmp_path: Path
) -> None:
    (open_place / "data").mkdir()
    (open_place / "data/file").write_text("data")
    (open_place / "data/file").chmod(0o600)  # of the source's own bits nothing is taken
    with mounted(open_place / "data", open_place / "m", *options, cache=tmp_path / "c") as m:
        read, listed = as_nobody("cat", m / "file"), as_nobody("ls", m.directory)
        assert (read.stdout, listed.stdout) == (("data", "file\n") if may else ("", ""))
        assert (read.returncode == 0, listed.returncode == 0) == (may, may)
        if not may:
            assert "Permission denied" in read.stderr
        facts = (m / "file").stat()
        wanted = dict(option.split("=") for option in options if "=" in option)
        assert stat.S_IMODE(facts.st_mode) == 0o444 & ~int(wanted.get("umask", "0"), 8)
        assert stat.S_IMODE(m.directory.stat().st_mode) == 0o555 & ~int(wanted.get("umask", "0"), 8)
        assert facts.st_uid == int(wanted.get("uid", 0))
        assert facts.st_gid == int(wanted.get("gid", 0))


@needs_root
@pytest.mark.mount
def test_another_user_cannot_ask_the_daemon(open_place: Path, tmp_path: Path) -> None:
    (open_place / "data").mkdir()
    with mounted(open_place / "data", open_place / "m", "allow_other", cache=tmp_path / "c") as m:
        (mount,) = [each for each in mounts.egofs_mounts() if each.mountpoint == m.directory]
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                control.ask(mount, "status")
            except mounts.MountRefused:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- secrets


_TEXTS = ("errors.log", "help.txt")


def everything_said(m: Mount, cache: Path) -> str:
    """Whatever a mount tells anybody, and what it keeps."""
    said = [
        m.log.read_text(),
        str(m.status()),
        (m / ".egofs/errors.log").read_text(),
        (m / ".egofs/help.txt").read_text(),
    ]
    said += [Path(f"/proc/{m.pid}/cmdline").read_text(), Path("/proc/mounts").read_text()]
    said += [done.stdout + done.stderr for done in (egofs("status"), egofs("status", "--help"))]
    said += [subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout]
    for path in m.directory.iterdir():
        if path.is_file():
            said += [os.getxattr(path, name).decode() for name in os.listxattr(path) if "user.egofs" in name]
    said += [path.read_bytes().decode("latin-1") for path in cache.rglob("*") if path.is_file()]
    return "\n".join(said)


@pytest.mark.mount
def test_keys_of_s3_are_nowhere_to_be_seen(bucket: S3Server, tmp_path: Path) -> None:
    bucket.access_key_id = AWS["AWS_ACCESS_KEY_ID"]
    options = f"endpoint_url={bucket.endpoint_url}"
    with mounted("s3://bucket", tmp_path / "m", options, cache=tmp_path / "c", env=AWS) as m:
        assert (m / "a.txt").read_bytes() == b"data"
        bucket.access_key_id = "another"
        with pytest.raises(PermissionError):
            (m / "b.txt").read_bytes()
        bucket.faults = lambda request: Status(403, "SignatureDoesNotMatch")
        with pytest.raises(PermissionError):
            (m / "b.txt").read_bytes()
        said = everything_said(m, tmp_path / "c")
    assert "b.txt" in said
    assert [value for name, value in AWS.items() if value in said and name != "AWS_ACCESS_KEY_ID"] == []


@pytest.mark.mount
@pytest.mark.parametrize("store", ["http", "hub"])
def test_tokens_are_nowhere_to_be_seen(store: str, tmp_path: Path) -> None:
    token, file = "hf_TokenThatNobodyMaySee", tmp_path / "token"
    file.write_text(token)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a.txt").write_text("data")
    (tmp_path / "tree/b.txt").write_text("data")
    if store == "http":
        with WebServer(tmp_path / "tree") as server:
            server.authorization = f"Bearer {token}"
            with mounted(f"{server.url}/", tmp_path / "m", f"token_file={file}", cache=tmp_path / "c") as m:
                assert (m / "a.txt").read_text() == "data"
                server.authorization = "Bearer other"
                with pytest.raises(PermissionError):
                    (m / "b.txt").read_text()
                said = everything_said(m, tmp_path / "c")
    else:
        with HubServer() as hub:
            hub.tokens[token] = set()
            repository = hub.repository("datasets", "org/name")
            repository.put("a.txt", b"data")
            repository.put("b.txt", b"x" * 20_000_000)
            options = (f"endpoint_url={hub.url}", f"token_file={file}")
            with mounted("hf://datasets/org/name", tmp_path / "m", *options, cache=tmp_path / "c") as m:
                assert (m / "a.txt").read_text() == "data"
                hub.faults = lambda request: Status(401)
                with pytest.raises(OSError):
                    (m / "b.txt").read_bytes()
                said = everything_said(m, tmp_path / "c")
    assert "b.txt" in said
    assert token not in said
    assert str(file) in said


def test_only_reading_is_asked_of_a_drive() -> None:
    assert oauth.READONLY == "https://www.googleapis.com/auth/drive.readonly"
    scopes = [line for line in Path(oauth.__file__).read_text().splitlines() if "googleapis.com/auth/" in line]
    assert scopes == [f'READONLY = "{oauth.READONLY}"']


# -- servers that are others


@pytest.mark.parametrize("store", ["s3", "s3 by boto3", "http", "hub", "drive"])
def test_a_server_whose_certificate_nobody_vouches_for_is_refused_until_its_authority_is_named(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, chain = tmp_path / "authority.pem", tmp_path / "chain.pem"
    make_certificate(authority, chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    for name, value in {**AWS, "AWS_EC2_METADATA_DISABLED": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "store/bucket").mkdir(parents=True)
    with S3Server(tmp_path / "store") as server, DriveServer() as drive:
        server.wrap(tls)
        drive.write_credentials(tmp_path / "credentials.json")

        def ask() -> EgofsError | None:
            source = opened(store, f"https://localhost:{server.port}", tmp_path)
            try:
                source.stat("x") if store != "hub" else next(iter(source.list("")), None)
            except EgofsError as failure:
                return failure
            finally:
                source.close()
            return None

        failure = ask()
        assert failure is not None
        assert server.requests == []
        assert any(word in str(failure).lower() for word in ("certificate", "ssl", "tls", "cannot be reached")), failure
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(authority))
        forget_connections()
        ask()
        assert server.requests != []


def opened(store: str, url: str, tmp_path: Path) -> Source:
    if store.startswith("s3"):
        source = open_source("s3://bucket", endpoint_url=url, region="us-east-1")
        if store != "s3":
            source._direct_is_over = True  # type: ignore[attr-defined]
        return source
    if store == "http":
        return open_source(f"{url}/bucket/")
    if store == "hub":
        return open_source("hf://datasets/org/name", endpoint_url=url)
    options = gdrive.Options(credentials=tmp_path / "credentials.json", endpoint_url=url)
    return gdrive.open_source("gdrive://rootrootroot", options)


def forget_connections() -> None:
    """The hub's library keeps what it was told of authorities as long as its connections."""
    from huggingface_hub.utils import close_session

    close_session()
