"""Logs: where they go, how their lines look, and that no secret is in them."""

import json
import logging
import os
import re
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountd import config, logs
from mountd.about import ErrorLog
from mountd.secrets import redacted
from tests.mounting import EGOFS, egofs, mounted, wait_until
from tests.s3server import S3Server
from vfs.errors import AccessDenied, OptionError

MOUNTPOINT = Path("/mnt/a b")
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ "

Begin = Callable[..., Path]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Begins a log with options and gives its file; afterwards logging is as it was."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(logs, "JOURNAL", str(tmp_path / "no-journal"))
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in ("vfs", "mountd")]
    handlers, levels = root.handlers[:], [(each, each.level) for each in (root, *ours)]
    root.handlers[:] = []  # those of pytest are not ours to close

    def begin_with(text: str = "", *, background: bool = True) -> Path:
        checked = config.load("s3://bucket", config.parse_o(f"cache_dir={tmp_path / 'c'},{text}"))
        logs.begin(checked, MOUNTPOINT, background=background)
        return logs.file_of(checked, MOUNTPOINT)

    yield begin_with
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    for logger, level in levels:
        logger.setLevel(level)


@pytest.fixture
def journal(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What stands in for journald's socket."""
    monkeypatch.setattr(logs, "JOURNAL", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(5)
        yield listening


def entry(listening: socket.socket) -> dict[str, str]:
    """The next entry, read as the protocol has it (systemd.io, Native Journal Protocol)."""
    datagram = listening.recv(1 << 20)
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", datagram[:8])
            value, end, datagram = datagram[8 : 8 + length], datagram[8 + length : 9 + length], datagram[9 + length :]
            assert end == b"\n"
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name)
        fields[name.decode()] = value.decode()
    return fields


log = logging.getLogger("vfs.some")


def fail() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it failed")


def test_a_mount_in_the_background_logs_to_a_file_that_is_its_owners_alone(begin: Begin) -> None:
    before = os.umask(0)
    try:
        file = begin()
    finally:
        os.umask(before)
    log.info("hello")
    assert re.fullmatch(LINE + r"INFO vfs\.some: hello\n", file.read_text())
    assert file.name == "mnt-a-b.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert logs.where() == str(file)


def test_a_file_that_is_full_is_turned_over_and_three_are_kept(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_FILE_BYTES", 1000)
    before = os.umask(0)
    try:
        file = begin()
        for number in range(100):
            log.info("%d %s", number, "x" * 100)
    finally:
        os.umask(before)
    files = sorted(file.parent.iterdir())
    assert [each.name for each in files] == [file.name, *(f"{file.name}.{n}" for n in (1, 2, 3))]
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    assert "99 x" in file.read_text()


def test_a_link_that_somebody_put_in_the_logs_place_is_not_followed(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "c/log").mkdir(parents=True)
    (tmp_path / "other").write_text("")
    (tmp_path / "c/log/mnt-a-b.log").symlink_to(tmp_path / "other")
    with pytest.raises(OptionError, match="choose another with -o cache_dir="):
        begin()
    assert (tmp_path / "other").read_text() == ""


def test_a_folder_that_cannot_be_is_refused_and_says_nothing_on_the_terminal(
    begin: Begin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").write_text("")
    with pytest.raises(OptionError, match="choose another with -o cache_dir="):
        begin()
    log.error("nobody hears this")
    assert capfd.readouterr() == ("", "")


def test_a_mount_in_the_foreground_logs_to_standard_error(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    file = begin(background=False)
    log.info("hello")
    fail()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["INFO hello", "ERROR it failed", "Traceback (most recent call last):"]
    assert not file.exists()
    assert logs.where() == "standard error"


@pytest.mark.parametrize("where", ["file", "stderr"])
def test_where_the_log_goes_can_be_said(begin: Begin, capsys: pytest.CaptureFixture[str], where: str) -> None:
    file = begin(f"log={where}", background=False)
    log.info("hello")
    assert file.exists() == (where == "file")
    assert ("hello" in capsys.readouterr().err) == (where == "stderr")


def test_a_mount_in_the_background_has_no_standard_error_to_log_to(begin: Begin) -> None:
    with pytest.raises(OptionError, match=r"log=stderr is for a mount in the foreground \(-f\)"):
        begin("log=stderr")


@pytest.mark.parametrize("is_journals", [True, False])
def test_under_systemd_each_line_says_how_bad_it_is_and_not_when(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_journals: bool
) -> None:
    with (tmp_path / "stderr").open("w+") as stream:
        facts = os.fstat(stream.fileno())
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino + (not is_journals)}")
        begin("log_level=debug", background=False)
        log.debug("d")
        log.info("i")
        log.warning("w")
        fail()
        stream.flush()
        lines = (tmp_path / "stderr").read_text().splitlines()
    if is_journals:
        assert lines[:4] == ["<7>vfs.some: d", "<6>vfs.some: i", "<4>vfs.some: w", "<3>vfs.some: it failed"]
        assert {line[:3] for line in lines[3:]} == {"<3>"}
        assert lines[-2:] == ["<3>ValueError: first", "<3>second"]
        assert logs.where() == "the journal of its service"
    else:
        assert lines[:2] == ["DEBUG d", "INFO i"]


def test_json_is_one_object_a_line_with_all_that_is_known(begin: Begin) -> None:
    file = begin("log_format=json,log_level=debug")
    log.debug("two\nlines, \udcff and \x1b[31m")
    fail()
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    first, second = map(json.loads, lines)
    assert all(line.isascii() and line.decode().isprintable() for line in lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "debug",
        "logger": "vfs.some",
        "message": "two\nlines, \udcff and \x1b[31m",
        "pid": os.getpid(),
        "mountpoint": "/mnt/a b",
        "source": "s3://bucket",
    }
    assert (second["level"], second["message"]) == ("error", "it failed")
    assert second["exception"].endswith("ValueError: first\nsecond")


def test_json_can_be_had_on_standard_error_and_in_the_journal(
    begin: Begin, journal: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    begin("log_format=json", background=False)
    log.info("hello")
    assert json.loads(capsys.readouterr().err)["message"] == "hello"
    begin("log_format=json,log=journal")
    log.info("hello")
    assert json.loads(entry(journal)["MESSAGE"])["message"] == "hello"


def test_a_message_is_one_line_of_text_whatever_names_are_in_it(begin: Begin) -> None:
    file = begin()
    log.info("%s", "a\nb\r\x1b[31m\udcff é")
    assert file.read_text(encoding="utf-8").endswith("vfs.some: a\\nb\\r\\x1b[31m\\udcff é\n")


def test_the_journal_is_told_what_and_how_bad(begin: Begin, journal: socket.socket) -> None:
    file = begin("log=journal")
    log.warning("hello = 1")
    assert entry(journal) == {
        "MESSAGE": "vfs.some: hello = 1",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "egofs",
        "EGOFS_LOGGER": "vfs.some",
        "EGOFS_SOURCE": "s3://bucket",
        "EGOFS_MOUNTPOINT": "/mnt/a b",
    }
    fail()
    assert entry(journal)["MESSAGE"].splitlines()[-2:] == ["ValueError: first", "second"]
    assert not file.parent.exists()
    assert logs.where() == "journalctl -t egofs"


def test_what_is_too_long_for_the_journal_is_cut(begin: Begin, journal: socket.socket) -> None:
    begin("log=journal")
    log.info("x" * 1_000_000)
    assert len(entry(journal)["MESSAGE"]) == 64 << 10


def test_without_a_journal_the_file_has_the_log_and_says_why(begin: Begin) -> None:
    file = begin("log=journal")
    log.info("hello")
    first, second = file.read_text().splitlines()
    assert re.fullmatch(LINE + f"WARNING mountd.logs: log=journal: nothing listens at .*: logging to {file}", first)
    assert second.endswith("hello")
    assert logs.where() == str(file)


def test_what_the_journal_does_not_take_goes_to_the_file(begin: Begin, journal: socket.socket) -> None:
    file = begin("log=journal")
    for number in range(5000):  # nobody reads them: a queue is full after some hundreds (net.unix.max_dgram_qlen)
        log.info("%d", number)
        if file.exists():
            break
    assert file.read_text().endswith(f"vfs.some: {number}\n")
    journal.close()
    log.info("journald is gone")
    assert file.read_text().endswith("vfs.some: journald is gone\n")


def test_nothing_is_said_where_nobody_takes_it(
    begin: Begin, journal: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin("log=journal")
    journal.close()
    (tmp_path / "c").write_text("")
    log.error("nobody hears this")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("level", "heard"), [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")])
def test_the_level_is_that_of_our_own_words_and_errors_log_hears_warnings_all_the_same(
    begin: Begin, level: str, heard: str
) -> None:
    file = begin(f"log_level={level}")
    errors = ErrorLog()
    logging.getLogger().addHandler(errors)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    logging.getLogger("urllib3").info("a library's")
    logging.getLogger("botocore").debug("a library's")
    assert "".join(line[-1] for line in file.read_text().splitlines()) == heard
    assert [line[-1] for line in errors.text().decode().splitlines()] == ["w", "e"]


def test_a_refusal_that_goes_on_is_logged_once_a_minute(begin: Begin) -> None:
    file = begin()
    for number in range(10):
        log.warning("%s", AccessDenied(f"read {number}: the key has ended"))
    assert len(file.read_text().splitlines()) == 1


SECRET = "s3cr3tS3CR3Ts3cr3t/+="
SAID = [
    f"https://user:{SECRET}@host/path failed",
    f"https://user:p@{SECRET}@host/path failed",
    f"GET /a?X-Amz-Algorithm=AWS4&X-Amz-Credential=x%2F2&X-Amz-Signature={SECRET}&X-Amz-Expires=5 HTTP/1.1",
    f"Retrying after connection broken: /repo/file?sig={SECRET}",
    f"https://host/a?b=1&token={SECRET}",
    f"'Authorization': 'Bearer {SECRET}'",
    f"Authorization: AWS4-HMAC-SHA256 Credential={SECRET}, Signature={SECRET}",
    f"bearer {SECRET} was sent",
    f"{{'access_token': '{SECRET}', 'expires_in': 5}}",
    f"aws_secret_access_key={SECRET}",
    "hf_" + "Q7x" * 12,
    "key AKIAQQQQWWWWEEEERRRR was refused",
    "ya29." + "a0AfH6SMBx" * 3,
]
HIDDEN = re.compile(r"s3cr3t|Q7xQ7x|QQQQWWWW|a0AfH6")


@pytest.mark.parametrize("said", SAID)
def test_what_looks_like_a_secret_is_not_logged(
    begin: Begin, journal: socket.socket, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    for form in ("text", "json"):
        file = begin(f"log_format={form}")
        logging.getLogger("urllib3").warning("%s", said)
        try:
            raise ValueError(said)
        except ValueError:
            log.exception("it failed")
        begin(f"log_format={form}", background=False)
        log.error("%s", said)
        begin(f"log_format={form},log=journal")
        log.error("%s", said)
        everything = file.read_text() + capsys.readouterr().err + entry(journal)["MESSAGE"]
        assert not HIDDEN.search(everything)
        assert "…" in everything or "\\u2026" in everything


@pytest.mark.parametrize(
    "said",
    [
        "token_file=/home/me/token: No such file or directory: put it there, it is used without a remount",
        "hf://datasets/org/name@refs/pr/1 list all below x",
        "https://host/a?b=c&d=e: 404",
        "http://127.0.0.1:9000/bucket/a@b: 404",
        "s3://bucket/a@b.mp4: the bearer of bad news",
        "a name and password in a URL are seen by everyone: give netrc=FILE, or token_file=FILE",
        "Basic things: the key of frames is frames/e4/e4_0000000081.jpg",
    ],
)
def test_what_looks_like_none_is_left_as_it_is(said: str) -> None:
    assert redacted(said) == said


# -- real mounts


@pytest.mark.mount
def test_a_mount_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with mounted(tmp_path / "data", tmp_path / "m", "log_format=json", cache=tmp_path / "c") as mount:
        log_file = Path(mount.status()["log"])
        assert log_file == mount.log
        records = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert {record["mountpoint"] for record in records} == {str(tmp_path / "m")}
    assert records[0]["message"] == f"{tmp_path / 'data'} on {tmp_path / 'm'}"


@pytest.mark.mount
@pytest.mark.skipif(os.path.exists("/run/systemd/journal/socket"), reason="journald listens here: it would be told")
def test_a_mount_that_finds_no_journal_is_mounted_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with mounted(tmp_path / "data", tmp_path / "m", "log=journal", cache=tmp_path / "c") as mount:
        assert "nothing listens at /run/systemd/journal/socket" in Path(mount.status()["log"]).read_text()


@pytest.mark.mount
def test_a_mount_in_the_background_cannot_log_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    done = egofs("mount", tmp_path, tmp_path / "m", "-o", f"log=stderr,nonempty,cache_dir={tmp_path / 'c'}")
    assert done.returncode == 1
    assert done.stderr == ("egofs: log=stderr is for a mount in the foreground (-f): say log=file or log=journal\n")


@pytest.mark.mount
def test_a_mount_in_the_foreground_tells_systemd_how_bad_things_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "m").mkdir()
    with (tmp_path / "stderr").open("w") as stream:
        facts = os.fstat(stream.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}
        command = [*EGOFS, "mount", tmp_path / "data", tmp_path / "m", "-f", "--log-level=debug"]
        options = ["-o", f"cache_dir={tmp_path / 'c'},cache=on"]
        # The cache takes more than this disk has: that is said.
        with subprocess.Popen(
            [*map(str, command), *options, "--cache-size=1000T"], stderr=stream, env=environment
        ) as process:
            wait_until(lambda: "is mounted on" in (tmp_path / "stderr").read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert any(re.match(r"<6>mountd\.daemon: the cache is held to", line) for line in lines)


@pytest.mark.mount
def test_no_secret_of_a_real_mount_is_in_its_log_its_status_or_its_errors(tmp_path: Path) -> None:
    (tmp_path / "store/bucket").mkdir(parents=True)
    (tmp_path / "store/bucket/x").write_bytes(b"x")
    keys = {"AWS_ACCESS_KEY_ID": "AKIAQQQQWWWWEEEERRRR", "AWS_SECRET_ACCESS_KEY": "s3cr3ts3cr3t"}
    nobody = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    with S3Server(tmp_path / "store") as server:
        options = ("log_level=debug", f"endpoint_url={server.endpoint_url}")
        with mounted("s3://bucket", tmp_path / "m", *options, cache=tmp_path / "c", env={**keys, **nobody}) as mount:
            assert (mount / "x").read_bytes() == b"x"
            assert server.requests
            told: dict[str, Any] = mount.status()
            everything = json.dumps(told) + (mount / ".egofs/errors.log").read_text()
    everything += mount.log.read_text()
    assert not HIDDEN.search(everything)
    assert all(not HIDDEN.search(str(path)) for path in (tmp_path / "c").rglob("*"))
