"""The control socket: who may ask, what is answered, and what is not a question."""

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountd import control, mounts, process
from tests.mounting import wait_until
from vfs.errors import NotFound

DEVICE = "9999:424242"  # no mount has such a number


def refuse(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
    raise NotFound("there is no such thing: look elsewhere")


def count(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
    for number in range(int(words["to"])):
        call.tell(number=number)
    return {"counted": words["to"]}


def fail(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
    raise ZeroDivisionError("a slip")


OPERATIONS: dict[str, control.Operation] = {
    "echo": lambda words, call: words,
    "refuse": refuse,
    "count": count,
    "fail": fail,
}


@pytest.fixture
def place(open_place: Path) -> Path:
    return open_place


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control, "_folders", lambda uid: [place / "run", place / f"other-{uid}"])
    return place / "run"


@pytest.fixture
def server(folder: Path) -> Iterator[control.Server]:
    server = control.Server(DEVICE, OPERATIONS)
    yield server
    server.close()


def mount_of(uid: int | None = None) -> mounts.Mount:
    return mounts.Mount(Path("/m"), "demo", mounts.FSTYPE, DEVICE, os.geteuid() if uid is None else uid)


def said(server: control.Server, sent: bytes) -> dict[str, Any]:
    """The last line that is answered to these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(server.path))
        connection.sendall(sent)
        with connection.makefile("rb") as lines:
            return json.loads(list(lines)[-1])


def is_answered(what: str) -> bool:
    """Whether there is room for another request."""
    try:
        return control.ask(mount_of(), what) == {}
    except process.DaemonFailed:
        return False


def in_child(work: Callable[[], None], uid: int) -> int:
    """The status of a process of another user that does the work: 0, or 7 where it raised MountRefused."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(uid)
            work()
            status = 0
        except mounts.MountRefused:
            status = 7
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_operation_has_its_words_and_gives_its_answer(server: control.Server) -> None:
    assert control.ask(mount_of(), "echo", {"paths": ["a\nb", "ü", "\udcff"]}) == {"paths": ["a\nb", "ü", "\udcff"]}


def test_progress_comes_before_the_answer_in_order(server: control.Server) -> None:
    seen: list[int] = []
    assert control.ask(mount_of(), "count", {"to": 5}, lambda facts: seen.append(facts["number"])) == {"counted": 5}
    assert seen == [0, 1, 2, 3, 4]


def test_a_failure_is_the_operations_own_line_and_status(server: control.Server) -> None:
    with pytest.raises(process.DaemonFailed, match="there is no such thing: look elsewhere") as failure:
        control.ask(mount_of(), "refuse")
    assert process.exit_status(failure.value) == process.FAILED


def test_a_bug_in_an_operation_ends_neither_the_daemon_nor_the_socket(server: control.Server) -> None:
    with pytest.raises(process.DaemonFailed, match="a bug: ZeroDivisionError: a slip") as failure:
        control.ask(mount_of(), "fail")
    assert failure.value.status == process.BUG
    assert control.ask(mount_of(), "echo", {"a": 1}) == {"a": 1}


def test_who_goes_away_breaks_off_what_was_asked(folder: Path) -> None:
    begun, gone = threading.Event(), threading.Event()

    def work(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
        begun.set()
        try:
            while True:
                call.go_on()
        except control.Gone:
            gone.set()
            raise

    server = control.Server(DEVICE, {"work": work})
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.path))
            connection.sendall(b'{"do": "work"}\n')
            assert begun.wait(20)
        assert gone.wait(20)
    finally:
        server.close()


NO_QUESTIONS = {
    "an_unknown_name": (b'{"do": "eat"}\n', "does not know what was asked"),
    "no_name": (b"{}\n", "does not know what was asked"),
    "a_name_that_is_no_text": (b'{"do": ["a"]}\n', "does not know what was asked"),
    "no_object": (b"[1, 2]\n", "is no object"),
    "no_json": (b"GET / HTTP/1.1\n", "is no JSON"),
    "no_text": (b"\xff\xfe\x00\n", "is no JSON"),
    "deep": (b"[" * 100_000 + b"\n", "is no JSON"),
}


@pytest.mark.parametrize(("sent", "says"), NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_what_is_no_question_is_answered_in_one_line(server: control.Server, sent: bytes, says: str) -> None:
    answer = said(server, sent)
    assert says in answer["failed"]
    assert answer["status"] == 1
    assert control.ask(mount_of(), "echo") == {}


def test_a_request_without_an_end_is_cut_off(server: control.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_REQUEST_BYTES", 1 << 20)
    assert "ask for less" in said(server, b"x" * ((1 << 20) + 1))["failed"]


def test_who_asks_for_nothing_is_not_waited_for_for_ever(
    server: control.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.2)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(server.path))
        assert connection.recv(1) == b""


def test_only_so_many_are_answered_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_CALLS", 2)
    release = threading.Event()

    def wait(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
        call.tell(here=True)
        release.wait(20)
        return {}

    server = control.Server(DEVICE, {"wait": wait})
    try:
        here = threading.Semaphore(0)
        askers = [
            threading.Thread(target=control.ask, args=(mount_of(), "wait", {}, lambda facts: here.release()))
            for _ in range(2)
        ]
        for asker in askers:
            asker.start()
        for _ in askers:
            assert here.acquire(timeout=20)
        with pytest.raises(process.DaemonFailed, match="2 requests are under way"):
            control.ask(mount_of(), "wait")
        release.set()
        for asker in askers:
            asker.join()
        wait_until(lambda: is_answered("wait"))
    finally:
        server.close()


def test_the_socket_is_for_its_owner_alone(server: control.Server) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_refused_even_where_the_files_would_let_him(server: control.Server) -> None:
    for each in (server.path, server.path.parent):
        each.chmod(0o777)
    said_to_him: list[dict[str, Any]] = []

    def ask() -> None:
        said_to_him.append(said(server, b'{"do": "echo"}\n'))
        assert "the mount belongs to uid 0: ask as that user, or as root" in said_to_him[0]["failed"]

    assert in_child(ask, 65534) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_hears_whose_mount_it_is(server: control.Server) -> None:
    assert in_child(lambda: control.ask(mount_of(0), "echo") and None, 65534) == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_socket_that_another_user_has_put_there_is_not_asked(server: control.Server, place: Path) -> None:
    # The mount is uid 65534's, and what listens is root's: that is allowed. The other way round it is not.
    assert control.ask(mount_of(65534), "echo") == {}
    os.chown(place, 65534, 65534)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        (place / "run").rename(place / "away")
        (place / "run").mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / "run" / server.path.name))
        listener.listen()
        os.write(ready[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(mounts.MountRefused, match="another user's"):
            control.ask(mount_of(0), "echo")
    finally:
        os.write(done[1], b"1")
        os.waitpid(child, 0)


def test_a_mount_without_a_socket_says_what_to_do(folder: Path) -> None:
    with pytest.raises(mounts.MountRefused, match="it has no control socket: umount it, and mount it again"):
        control.ask(mount_of(), "echo")


def test_a_socket_of_a_daemon_that_is_gone_says_what_to_do(server: control.Server) -> None:
    left = server.path.with_name("left")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    server.close()
    left.rename(server.path)
    with pytest.raises(mounts.MountRefused, match=r"does not answer.*mount it again"):
        control.ask(mount_of(), "echo")
    # And the next mount of that number takes its place.
    again = control.Server(DEVICE, OPERATIONS)
    try:
        assert control.ask(mount_of(), "echo") == {}
    finally:
        again.close()
    assert not again.path.exists()


def test_a_folder_that_others_can_write_to_is_not_used(folder: Path, place: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    server = control.Server(DEVICE, OPERATIONS)
    assert server.path.parent == place / f"other-{os.geteuid()}"
    server.close()


def test_a_link_in_the_folders_place_is_not_followed(folder: Path, place: Path) -> None:
    (place / "elsewhere").mkdir(mode=0o700)
    for each in (folder, place / f"other-{os.geteuid()}"):
        each.symlink_to(place / "elsewhere")
    with pytest.raises(OSError, match="not a folder of uid"):
        control.Server(DEVICE, OPERATIONS)
    assert list((place / "elsewhere").iterdir()) == []


def test_what_killed_daemons_left_is_swept_and_what_others_listen_at_is_not(server: control.Server) -> None:
    left = server.path.with_name("0-1.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    other = control.Server("0:2", OPERATIONS)
    try:
        assert not left.exists()
        assert control.ask(mount_of(), "echo") == {}
    finally:
        other.close()
