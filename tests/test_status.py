"""How mounts are seen, and what is told of them: states, rates, the plain text and the screen, without any mount."""

import errno
import json
import re
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from mountd import mounts, standing, survey, watch
from mountd.commands import status as status_command
from mountd.config import CacheOptions, MountOptions
from mountd.facts import changed
from mountd.mounts import Mount
from mountd.survey import Asked, Seen
from tests.memorysource import MemorySource
from vfs.cache import BLOCK_BYTES, ChunkCache
from vfs.errors import OptionError
from vfs.options import option, option_group
from vfs.sources.s3 import Options as S3Options

MOUNT = Mount(Path("/mnt/ego4d"), "ego4d", mounts.FSTYPE, "0:44", 1000)


def told(**more: Any) -> dict[str, Any]:
    """What a mount says of itself."""
    status = {
        "mountpoint": "/mnt/ego4d", "source": "ego4d", "url": "s3://ego4d-consortium-sharing", "dataset": "ego4d",
        "options": {"aws_profile": "ego4d", "version": "v2_1"}, "cache_dir": "/home/me/.cache/egofs",
        "log": "/home/me/.cache/egofs/log/mnt-ego4d.log", "control": "/run/egofs/0-44.sock", "pid": 4711,
        "version": "0.1.0", "mounted_at": time.time() - 7300.0, "uptime_s": 7300.0, "known_bytes": 7 << 40,
        "oldest_listing_at": time.time() - 7200.0, "open_files": 12, "inodes": 104_233,
        "asked": {"bytes_read": 130 << 30, "reads": 1_104_233, "failures": 0, "bugs": 0},
        "fetched": {"bytes_fetched": 31 << 30, "requests": 32_140, "retries": 2, "errors": 0},
        "amplification": 31 / 130, "credentials": None, "access": {"state": "ok", "whose": "profile 'ego4d'"},
        "frames_made": 120_000, "frames_from_disk": 34_000,
        "decoders": {"pids": [4712, 4713], "restarts": 0, "bugs": 0}, "under_way": [], "last_error": None,
        "process": {"rss_bytes": 1 << 28, "cpu_s": 12.5, "threads": 31, "open_fds": 90},
        "cache": {
            "limit_bytes": 50 << 30, "used_bytes": 31 << 30, "disk_errors": 0, "hit_rate": 0.947, "files": 31_000,
            "free_bytes": 120 << 30, "reserve_bytes": 512 << 20, "memory_hits": 900, "disk_hits": 47, "misses": 53,
            "waits": 0, "not_kept": 0, "bytes_ahead": 0, "damaged": 0, "folder": "/home/me/.cache/egofs/objects",
        },
    }  # fmt: skip
    return status | more


def seen(number: int = 0, **more: Any) -> Seen:
    mount = Mount(Path(f"/mnt/ego4d{number or ''}"), "ego4d", mounts.FSTYPE, f"0:{44 + number}", 1000)
    return Seen(mount, "live", told(**more), "", 4711)


ANSWER = types.SimpleNamespace(f_namemax=255)
DEAD = Seen(MOUNT, "dead", None, "its daemon has ended: egofs mount ego4d /mnt/ego4d mounts it again")
REFUSAL = {"refused_at": 0.0, "message": "read x: refused to profile 'ego4d': renew the keys"}


@pytest.fixture(autouse=True)
def _refused_three_minutes_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFUSAL, "refused_at", time.time() - 190.0)


# -- states


@pytest.mark.parametrize(
    ("failure", "answer", "covered", "state", "says"),
    [
        (0, told(), False, "live", ""),
        (0, "it has no control socket", False, "live", "it has no control socket"),
        (0, None, False, "live", "says nothing of itself"),
        (errno.EACCES, told(), False, "live", ""),  # root may ask a user's daemon, and not enter its mount
        (errno.EACCES, None, False, "foreign", "it is uid 1000's: ask as that user, or as root"),
        (errno.ENOTCONN, "no", False, "dead", "egofs mount ego4d /mnt/ego4d mounts it again"),
        (errno.ECONNABORTED, None, False, "dead", "its daemon has ended"),
        (None, None, False, "hung", "egofs umount -l /mnt/ego4d"),
        (None, told(), False, "hung", "kill -9 4711, then egofs umount -l /mnt/ego4d"),  # its event loop stands still
        (0, told(), True, "covered", "another mount is over it"),
    ],
)
def test_a_mount_is_what_kernel_and_daemon_say_together(
    monkeypatch: pytest.MonkeyPatch, failure: int | None, answer: Any, covered: bool, state: str, says: str
) -> None:
    monkeypatch.setattr(survey.control, "pid_of", lambda mount: None)
    found = survey.judged(MOUNT, failure, answer, is_covered=covered)
    assert found.state == state
    assert says in found.why
    assert bool(says) == bool(found.why)
    assert found.is_well == (state not in ("dead", "hung"))


def test_of_mounts_on_one_mount_point_the_last_is_shown_and_known_to_be_covered_by_others() -> None:
    left, over = Mount(Path("/m"), "a", mounts.FSTYPE, "0:1"), Mount(Path("/m"), "b", mounts.FSTYPE, "0:2")
    other = Mount(Path("/m"), "tmpfs", "tmpfs", "0:3")
    assert survey.places([left, over]) == [over]
    assert over not in survey.covered([left, over])
    assert over in survey.covered([left, over, other])


def test_a_daemon_of_another_version_is_told_by_its_version_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {key: value for key, value in told(version="0.0.9").items() if key != "access"}
    monkeypatch.setattr(survey.control, "ask", lambda *args, **more: older)
    monkeypatch.setattr(survey.os, "statvfs", lambda path: ANSWER)
    (found,) = survey.look([MOUNT])
    assert (found.state, found.status) == ("live", None)
    assert "another version of egofs, 0.0.9" in found.why


def test_a_daemon_that_may_not_be_asked_is_read_where_it_lets_everybody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **more: Any) -> None:
        raise mounts.MountRefused("/mnt/ego4d: it belongs to uid 1000: ask as that user, or as root")

    monkeypatch.setattr(survey.control, "ask", refused)
    monkeypatch.setattr(survey.os, "statvfs", lambda path: ANSWER)
    status = told()
    monkeypatch.setattr(survey.mounts, "read_status", lambda place: status)
    assert survey.look([MOUNT])[0].status is status
    monkeypatch.setattr(survey.mounts, "read_status", lambda place: None)
    assert survey.look([MOUNT])[0].why == "it belongs to uid 1000: ask as that user, or as root"


def test_one_that_does_not_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    other = Mount(Path("/mnt/other"), "other", mounts.FSTYPE, "0:45")
    monkeypatch.setattr(survey.control, "pid_of", lambda mount: 99)
    monkeypatch.setattr(
        survey.os, "statvfs", lambda path: never.wait() and ANSWER if path == MOUNT.mountpoint else ANSWER
    )
    monkeypatch.setattr(
        survey.control, "ask", lambda mount, *args, **more: told() if mount == other else never.wait() and {}
    )
    first, second = survey.look([MOUNT, other], patience_s=0.2)
    assert (first.state, first.pid, second.state) == ("hung", 99, "live")
    assert second.status is not None
    never.set()


def test_a_question_is_answered_in_time_or_not_at_all() -> None:
    never = threading.Event()
    assert Asked(lambda: 5).result(time.monotonic() + 5) == 5
    assert Asked(never.wait).result(time.monotonic() + 0.01) is None
    never.set()


def test_a_place_is_found_without_asking_the_mount_that_it_lies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey.mounts, "egofs_mounts", lambda: [MOUNT])
    monkeypatch.setattr(survey.mounts, "real", lambda path: pytest.fail("a mount that hangs would have been asked"))
    assert survey.at(Path("/mnt/ego4d/v2/../v2")) == MOUNT


def test_a_place_that_is_no_mount_is_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"{tmp_path}: no egofs is mounted here"):
        survey.at(tmp_path)


# -- text


def run(monkeypatch: pytest.MonkeyPatch, found: list[Seen], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(survey, "survey", lambda: found)
    result = CliRunner().invoke(status_command.command, arguments)
    return result.exit_code, result.output


def test_nothing_mounted_is_said_to_people_and_an_empty_list_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, []) == (0, "nothing is mounted\n")
    status, text = run(monkeypatch, [], "--json")
    assert (status, json.loads(text)) == (0, {"mounts": []})


def test_json_has_of_each_mount_where_what_pid_and_state_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = run(monkeypatch, [seen(1), DEAD], "--json")
    live, dead = json.loads(text)["mounts"]
    assert status == 32
    assert {"mountpoint": "/mnt/ego4d", "source": "ego4d", "pid": 4711, "state": "live", "remedy": None}.items() <= (
        live.items()
    )
    assert live["cache"]["hit_rate"] == 0.947
    assert (dead["mountpoint"], dead["source"], dead["pid"], dead["state"]) == ("/mnt/ego4d", "ego4d", None, "dead")
    assert "egofs mount ego4d /mnt/ego4d" in dead["remedy"]


@pytest.mark.parametrize(
    ("found", "status"), [([seen()], 0), ([seen(), seen(1)], 0), ([seen(), DEAD], 32), ([DEAD], 32)]
)
def test_the_status_is_0_where_all_answer(monkeypatch: pytest.MonkeyPatch, found: list[Seen], status: int) -> None:
    assert run(monkeypatch, found)[0] == status


@pytest.mark.parametrize("count", [2, 10])
def test_several_mounts_stand_in_columns_of_80_characters(count: int) -> None:
    lines = list(standing.of_several([*(seen(number) for number in range(count - 1)), DEAD]))
    assert len(lines) == 2 * count
    assert max(map(len, lines)) <= 80
    numbers = [line for line in lines if line.startswith("  read")]
    assert len({line.index("fetched") for line in numbers}) == 1
    assert "read  130.0 GiB  fetched   31.0 GiB  hits  94 %  cache  62 %  failures 0" in numbers[0]


def test_one_mount_is_told_whole() -> None:
    one = seen(
        under_way=[{"kind": "indexing", "name": "a.tgz", "done_bytes": 1 << 30, "all_bytes": 4 << 30}],
        credentials=REFUSAL,
        access={"state": "refused", "whose": "profile 'ego4d'"},
        last_error="12:00 ERROR x",
        asked=told()["asked"] | {"failures": 7, "bugs": 2},
    )
    first, *rest = standing.of_one(one)
    assert first == "/mnt/ego4d  ego4d  live, up 2 h, pid 4711"
    facts = {line[2:12].strip(): line[13:] for line in rest}
    assert facts["options"] == "aws_profile=ego4d,version=v2_1"
    assert facts["fetched"] == "31.0 GiB in 32140 requests, 0.24 of what was read; 2 retries, 0 errors"
    assert facts["cache"] == "31.0 GiB of 50.0 GiB (62 %) in 31000 files; 120.0 GiB free on its disk; 94 % hits"
    assert facts["access"] == f"profile 'ego4d': refused 3 min ago: {REFUSAL['message']}"
    assert facts["indexing"] == "indexing a.tgz: 1.0 GiB of 4.0 GiB (25 %)"
    assert facts["failures"] == "7, 2 of them bugs; the last line of .egofs/errors.log:"
    assert facts[""] == "12:00 ERROR x"
    assert max(len(line) for line in rest if "access" not in line) <= 100


def test_a_refusal_is_told_once() -> None:
    access = {"state": "refused", "whose": "profile 'ego4d'"}
    status = told(credentials=REFUSAL, access=access, last_error=f"12:00 ERROR {REFUSAL['message']}")
    lines = list(standing.of_one(Seen(MOUNT, "live", status)))
    assert [line for line in lines if "renew" in line] == [
        f"  access     profile 'ego4d': refused 3 min ago: {REFUSAL['message']}"
    ]
    assert [line for line in screen([Seen(MOUNT, "live", status)], 120, 40) if "renew" in line] == [
        f"  ! refused 3 min ago: {REFUSAL['message']}"
    ]


def test_a_mount_without_a_cache_is_told_without_one() -> None:
    status = told()
    del status["cache"]
    lines = list(standing.of_one(Seen(MOUNT, "live", status)))
    assert not [line for line in lines if line.startswith("  cache")]
    assert "hits     -  cache     -" in standing.numbers(status)


def test_hits_of_all_but_one_are_not_100_percent() -> None:
    assert [standing.share(part) for part in (None, 0.0, 0.9999, 1.0)] == ["-", "0 %", "99 %", "100 %"]


# -- the screen


def grown(times: int, **more: Any) -> dict[str, Any]:
    """A status after so many seconds of 2 MiB read, and 1 MiB fetched in 4 requests, each."""
    return told(
        asked=told()["asked"] | {"bytes_read": times * (2 << 20)},
        fetched=told()["fetched"] | {"bytes_fetched": times * (1 << 20), "requests": 4 * times},
        **more,
    )


def test_a_rate_is_what_lies_between_two_sums() -> None:
    pace = watch.Pace()
    assert pace.now("reading") == 0
    for second in range(5):
        pace.take(grown(second), 100.0 + 2 * second)
    assert (pace.now("reading"), pace.now("fetching"), pace.now("requests")) == (1 << 20, 1 << 19, 2)
    assert pace.line("reading", 6) == "  ████"


def test_a_minute_of_rates_is_kept_and_drawn_in_any_width() -> None:
    pace = watch.Pace()
    for second in range(200):
        pace.take(grown(second if second < 170 else 170), float(second))
    assert pace.now("reading") == 0
    for width in (1, 7, 40, 60, 100):
        line = pace.line("reading", width)
        assert len(line) == width
        assert line[-1] == "▁" or width == 1
    assert pace.line("reading", 60).strip("▁") == "█" * 31


def test_the_sums_of_a_daemon_that_was_started_again_are_no_rate() -> None:
    pace = watch.Pace()
    pace.take(grown(1000), 1.0)
    pace.take(grown(1001), 2.0)
    pace.take(grown(3, pid=4800), 3.0)
    assert pace.now("reading") == 0
    pace.take(grown(4, pid=4800), 4.0)
    assert pace.now("reading") == 2 << 20


def screen(found: list[Seen], width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    paced = []
    for each in found:
        pace = watch.Pace()
        for second in range(3):
            if each.status is not None:
                pace.take(grown(second), float(second))
        paced.append((each, pace))
    with console.capture() as capture:
        console.print(watch.drawn(paced, width, height))
    return capture.get().splitlines()


HOSTILE = Seen(Mount(Path("/mnt/" + "y" * 300 + "\x1b[2J\nx"), "s" * 300, mounts.FSTYPE, "0:9"), "live", told(), "", 1)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 8), (200, 5)])
@pytest.mark.parametrize("count", [0, 1, 3, 10, 60])
def test_the_screen_has_room_for_itself(width: int, height: int, count: int) -> None:
    lines = screen(
        [*(seen(number, last_error="x" * 300) for number in range(count)), HOSTILE, DEAD][:count], width, height
    )
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"egofs: {count} mount")
    assert lines[0].endswith("Ctrl-C ends")


def test_a_name_with_control_characters_does_not_move_the_cursor() -> None:
    lines = screen([HOSTILE, DEAD], 80, 24)
    assert re.fullmatch(r"● …y+\?\[2J\?x  …s+  live, up 2 h, pid 1", lines[1])


def test_one_mount_has_its_rates_in_all_and_what_is_wrong() -> None:
    lines = screen([seen(credentials=REFUSAL, last_error="12:00 ERROR y")], 120, 40)
    (reading,) = [line for line in lines if line.startswith("  reading")]
    assert "2.0 MiB/s" in reading
    assert reading.endswith("██  130.0 GiB, 12 files open")
    assert [line for line in lines if line.startswith("  requests") and "4.0 /s" in line]
    assert [line for line in lines if line.startswith("  cache") and "62 % ███" in line and "94 % hits" in line]
    assert "  ! refused 3 min ago: read x: refused to profile 'ego4d': renew the keys" in lines
    assert "  ! 0 failures; the last line of the log: 12:00 ERROR y" in lines


@pytest.mark.parametrize(("width", "height", "requests"), [(80, 24, False), (120, 40, True)])
def test_ten_mounts_have_two_lines_each_with_rates_hits_and_how_full_the_cache_is(
    width: int, height: int, requests: bool
) -> None:
    lines = screen([*(seen(number) for number in range(9)), DEAD], width, height)
    assert len(lines) == 21
    assert len([line for line in lines if "read    2.0 MiB/s" in line and "hits  94 %  cache  62 %" in line]) == 9
    assert bool([line for line in lines if "4.0 req/s" in line]) == requests
    assert lines[-2:] == ["● /mnt/ego4d  ego4d  dead", f"  ! {DEAD.why}"]


def test_more_mounts_than_lines_are_counted() -> None:
    assert screen([seen(number) for number in range(60)], 80, 24)[-1] == "  and 38 more: make the window higher"


def test_a_mount_that_comes_or_goes_is_on_the_screen_or_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Mount(Path("/mnt/other"), "other", mounts.FSTYPE, "0:45")
    there = [MOUNT]
    monkeypatch.setattr(watch.mounts, "mounts", lambda: there)
    monkeypatch.setattr(watch.survey, "look", lambda found, covered: [Seen(found[0], "live", told())])
    watched = watch.Watched(None)
    shown = []
    for there in ([MOUNT], [MOUNT, other], [other], []):  # noqa: B007 - the machine's mounts
        watched.ask(5.0)
        shown.append([each.mount for each, _ in watched.all()])
    assert shown == [[MOUNT], [MOUNT, other], [other], []]


def test_a_mount_that_does_not_answer_is_asked_once_and_shown_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = threading.Event(), []

    def look(found: list[Mount], covered: Any) -> list[Seen]:
        asked.append(found[0])
        if len(asked) > 1:
            answers.wait(10)
            return [Seen(found[0], "hung", None)]
        return [Seen(found[0], "live", told())]

    monkeypatch.setattr(watch.mounts, "mounts", lambda: [MOUNT])
    monkeypatch.setattr(watch.survey, "look", look)
    watched = watch.Watched(None)
    for _ in range(4):
        watched.ask(0.05)
        assert [each.state for each, _ in watched.all()] == ["live"]
    watched.ask(0.05)
    answers.set()
    watched.ask(5.0)
    assert [each.state for each, _ in watched.all()] == ["hung"]
    assert len(asked) == 2


# -- facts


@option_group
class Signed:
    manifest: str = option(default="", description="a list")


@pytest.mark.parametrize(
    ("group", "shown"),
    [
        (MountOptions(), {}),
        (
            MountOptions(umask="0077", frames="false", source="s3://b"),
            {"umask": "0077", "frames": "false", "source": "s3://b"},
        ),
        (CacheOptions(cache_dir="/x", cache_size="1G"), {"cache_dir": "/x", "cache_size": str(1 << 30)}),
        (S3Options(endpoint_url="http://me:secret@host:9/"), {"endpoint_url": "http://…@host:9/"}),
        (Signed(manifest="https://host/list?X-Sig=secret"), {"manifest": "https://host/list?…"}),
        (Signed(manifest="lists/who?.txt"), {"manifest": "lists/who?.txt"}),
    ],
)
def test_options_are_told_that_are_no_defaults_and_never_a_secret(group: Any, shown: dict[str, str]) -> None:
    assert dict(changed([group])) == shown


# -- hits


def test_hits_and_misses_count_the_blocks_that_readers_asked_for(tmp_path: Path) -> None:
    data = bytes(range(256)) * (16 << 10)  # 4 MiB
    source = MemorySource({"x": data, "small": b"s" * 1000})
    cache = ChunkCache(tmp_path, 1 << 30)
    assert cache.hit_rate is None
    thing, small = cache.object(source, source.info("x")), cache.object(source, source.info("small"))
    cache.read(
        thing,
        0,
        4 * BLOCK_BYTES,
    )
    assert (cache.counters.misses, cache.counters.memory_hits, cache.hit_rate) == (4, 0, 0.0)
    cache.read(small, 0, 1000)
    assert cache.counters.misses == 5
    for _ in range(3):
        assert bytes(cache.read(thing, 0, 4 * BLOCK_BYTES)) == data[: 4 * BLOCK_BYTES]
    assert cache.ready(small, 10, 20) is not None
    assert (cache.counters.misses, cache.counters.memory_hits) == (5, 13)
    assert cache.hit_rate == 13 / 18
    cache.settle()
    cache.close()
    again = ChunkCache(tmp_path, 1 << 30)
    again.read(again.object(source, source.info("x")), 0, 4 * BLOCK_BYTES)
    assert (again.counters.disk_hits, again.counters.misses, again.hit_rate) == (4, 0, 1.0)
    again.close()


def test_whoever_waits_for_what_another_fetches_has_not_hit(tmp_path: Path) -> None:
    source = MemorySource({"x": bytes(1 << 20)})
    cache = ChunkCache(None, 0)
    thing = cache.object(source, source.info("x"))
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        go_on.wait(10)

    source.before_read = hold
    first, second = (threading.Thread(target=cache.read, args=(thing, 0, BLOCK_BYTES)) for _ in range(2))
    first.start()
    assert began.wait(10)
    second.start()
    while not cache.counters.waits:
        time.sleep(0.001)
    go_on.set()
    first.join()
    second.join()
    assert (cache.counters.waits, cache.counters.memory_hits, cache.hit_rate) == (1, 0, 0.0)
    assert len(source.reads) == 1
    cache.close()
