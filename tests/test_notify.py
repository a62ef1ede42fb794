"""What systemd is told, by a socket as its own is; and the watchdog, in a loop without a mount."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mountd import notify, session
from tests.mounting import wait_for_end


class Systemd:
    """The end at which systemd reads."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """The messages since it was last asked."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    name = f"egofs-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
    listener = Systemd("\0" + name if request.param == "abstract" else name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if request.param == "abstract" else name)
    yield listener
    listener.socket.close()


def test_each_thing_that_is_told_is_one_message(systemd: Systemd) -> None:
    notify.ready("s3://b is mounted on /m")
    notify.status("half of it is there")
    notify.stopping("unmounting")
    notify.alive()
    assert systemd.heard() == [
        "READY=1\nSTATUS=s3://b is mounted on /m",
        "STATUS=half of it is there",
        "STOPPING=1\nSTATUS=unmounting",
        "WATCHDOG=1",
    ]


def test_a_status_of_several_lines_assigns_nothing_else(systemd: Systemd) -> None:
    notify.status("a name with\nMAINPID=1\n in it")
    assert systemd.heard() == ["STATUS=a name with MAINPID=1 in it"]


def test_a_reload_is_told_with_the_time_at_which_it_began(systemd: Systemd) -> None:
    before = time.monotonic_ns() // 1000
    notify.reloading()
    (message,) = systemd.heard()
    first, _, when = message.partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(when) <= time.monotonic_ns() // 1000


def test_who_was_not_started_by_systemd_tells_nobody(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify.ready("x")
    assert systemd.heard() == []


@pytest.mark.parametrize("address", ["/no/such/folder/socket", "@no-such-name", "/" + "x" * 200, "vsock:2:1"])
def test_a_socket_that_is_not_there_is_a_warning_and_no_failure(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready("x")
    assert "systemd was not told READY=1" in caplog.text


def test_a_full_socket_does_not_hold_up_the_mount(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(10_000):
        notify.alive()
        if caplog.text:
            break
    assert "systemd was not told WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", None, 3.0),
        ("500000", "own", 0.5),
        ("3000000", "1", None),
        ("0", None, None),
        (None, None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("3000000", "me", None),
    ],
)
def test_the_watchdogs_time_is_that_which_is_meant_for_this_process(
    usec: str | None, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == seconds


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the watchdog says, where stat(1) is a script in tmp_path."""
    said: list[str] = []
    monkeypatch.setattr(notify, "alive", lambda: said.append("alive"))
    monkeypatch.setattr(session.faulthandler, "enable", lambda: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return said


def _stat_is(script: str, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(f"#!/bin/sh\necho $$ >>{tmp_path}/asked\n{script}\n")
    (tmp_path / "stat").chmod(0o755)


def _watch(seconds: float, limit_s: float, place: Path) -> None:
    async def main() -> None:
        with trio.move_on_after(seconds):
            await session._keep_watchdog(place, limit_s)

    trio.run(main)


def test_the_watchdog_says_so_after_each_answer_of_the_mount_three_times_in_its_time(
    rounds: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    real = trio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            raise KeyboardInterrupt
        await real(0)

    monkeypatch.setattr(trio, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        _watch(60, 60, tmp_path)
    assert rounds == ["alive"] * 4
    assert set(waits) == {20.0}


def test_a_mount_is_asked_from_another_process_so_that_a_killed_daemon_can_end(
    rounds: list[str], tmp_path: Path
) -> None:
    _stat_is('echo "$@" >' + str(tmp_path / "words"), tmp_path)
    assert trio.run(session._asked_from_outside, Path("/m")) == ""
    assert (tmp_path / "asked").read_text().strip() != str(os.getpid())
    assert (tmp_path / "words").read_text() == "--file-system --format= /m\n"


def test_a_mount_that_answers_with_an_error_is_not_said_to_live(
    rounds: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _watch(2, 0.06, tmp_path / "nothing")
    assert rounds == []
    assert "the mount does not answer: stat -f ended with status 1" in caplog.text


def test_without_stat_nothing_is_said_and_the_log_has_it(
    rounds: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _watch(0.3, 0.06, tmp_path)
    assert rounds == []
    assert "stat could not be started: No such file or directory" in caplog.text


def test_a_mount_that_does_not_answer_is_not_said_to_live_and_leaves_no_processes(
    rounds: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _stat_is("exec sleep 60", tmp_path)
    _watch(2, 0.6, tmp_path)
    assert rounds == []
    assert "the mount did not answer within 0.6 s" in caplog.text
    asked = [int(pid) for pid in (tmp_path / "asked").read_text().split()]
    assert asked
    assert all(wait_for_end(pid, 20) for pid in asked)
