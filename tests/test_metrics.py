"""A mount's status as Prometheus reads it, and the port of this machine at which it is answered."""

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mountd import loopback, metrics
from tests.test_status import REFUSAL, told
from vfs.errors import OptionError

UNITS = ("_bytes", "_seconds", "_fds", "_threads", "_files", "_info", "_inodes", "_decoders", "_refused")
ASKED = {"lookups": 5, "getattrs": 6, "readdirs": 7, "xattrs": 8, "opens": 9}


def parsed(status: dict[str, Any]) -> dict[str, Any]:
    """The families of an exposition, by name."""
    text = metrics.exposition(status).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture
def status() -> dict[str, Any]:
    return told(asked=told()["asked"] | ASKED)


def test_every_metric_is_described_typed_and_named_with_its_unit(status: dict[str, Any]) -> None:
    for name, family in parsed(status).items():
        assert name.startswith("egofs_")
        assert family.documentation.endswith(".") or family.documentation.startswith("1")
        assert family.type == "counter" or (family.type == "gauge" and name.endswith(UNITS)), name
        for sample in family.samples:
            assert sample.name == (f"{name}_total" if family.type == "counter" else name)
            assert {"mountpoint": "/mnt/ego4d", "source": "ego4d", "dataset": "ego4d"}.items() <= sample.labels.items()


def test_the_numbers_are_those_of_the_status(status: dict[str, Any]) -> None:
    found = {
        (sample.name, sample.labels.get("place")): sample.value
        for family in parsed(status).values()
        for sample in family.samples
    }
    asked, fetched, cache = status["asked"], status["fetched"], status["cache"]
    expected = {
        "egofs_reads_total": asked["reads"], "egofs_read_bytes_total": asked["bytes_read"],
        "egofs_opens_total": 9, "egofs_lookups_total": 5, "egofs_failures_total": 0, "egofs_bugs_total": 0,
        "egofs_fetched_bytes_total": fetched["bytes_fetched"], "egofs_source_requests_total": fetched["requests"],
        "egofs_source_retries_total": 2, "egofs_source_errors_total": 0, "egofs_cache_misses_total": cache["misses"],
        "egofs_cache_used_bytes": cache["used_bytes"], "egofs_cache_limit_bytes": cache["limit_bytes"],
        "egofs_cache_disk_errors_total": 0, "egofs_cache_damaged_total": 0, "egofs_frames_made_total": 120_000,
        "egofs_frames_from_disk_total": 34_000, "egofs_decoder_restarts_total": 0, "egofs_open_files": 12,
        "egofs_inodes": 104_233, "egofs_mounted_seconds": 7300.0, "egofs_process_resident_memory_bytes": 1 << 28,
        "egofs_process_cpu_seconds_total": 12.5, "egofs_process_open_fds": 90, "egofs_process_threads": 31,
        "egofs_decoders": 2, "egofs_credentials_refused": 0, "egofs_mount_info": 1,
    }  # fmt: skip
    assert {name: found[name, None] for name in expected} == expected
    assert found["egofs_cache_hits_total", "memory"] == 900
    assert found["egofs_cache_hits_total", "disk"] == 47


def test_a_mount_without_a_cache_has_no_numbers_of_one(status: dict[str, Any]) -> None:
    del status["cache"]
    assert not [name for name in parsed(status) if "cache" in name]


def test_what_a_mount_does_not_know_is_not_told_as_0(status: dict[str, Any]) -> None:
    assert "egofs_oldest_listing_timestamp_seconds" in parsed(status)
    assert "egofs_oldest_listing_timestamp_seconds" not in parsed(status | {"oldest_listing_at": None})


def test_a_refusal_is_1(status: dict[str, Any]) -> None:
    (sample,) = parsed(status | {"credentials": REFUSAL})["egofs_credentials_refused"].samples
    assert sample.value == 1


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "a{b}=,c"])
def test_labels_come_back_as_they_were(status: dict[str, Any], name: str) -> None:
    for family in parsed(status | {"mountpoint": name}).values():
        assert {sample.labels["mountpoint"] for sample in family.samples} == {name}


def test_a_path_that_is_no_text_is_shown_as_well_as_can_be(status: dict[str, Any]) -> None:
    (sample,) = parsed(status | {"mountpoint": "/mnt/\udcff"})["egofs_open_files"].samples
    assert sample.labels["mountpoint"] == "/mnt/�"


# -- the port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> Iterator[int]:
    port = free_port()
    endpoint = loopback.Endpoint(port)
    endpoint.serve(lambda: b"egofs_x 1\n")
    yield port
    endpoint.close()


def ask(port: int, path: str = "/metrics", method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_the_page_is_answered_on_both_loopback_addresses_as_prometheus_wants_it(port: int) -> None:
    page = (200, "text/plain; version=0.0.4; charset=utf-8", b"egofs_x 1\n")
    assert ask(port) == page
    assert ask(port, "/metrics?x=1") == page
    if has_ipv6():
        assert ask(port, host="::1") == page


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/x", "GET", 404), ("/../etc/passwd", "GET", 404), ("/metrics", "POST", 501)],
)
def test_anything_else_is_refused(port: int, path: str, method: str, status: int) -> None:
    assert ask(port, path, method)[0] == status


def test_no_other_machine_can_ask() -> None:
    endpoint = loopback.Endpoint(free_port())
    assert {listener.getsockname()[0] for listener in endpoint._listeners} <= {"127.0.0.1", "::1"}
    endpoint.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_a_wrong_option_and_nothing_is_kept_of_it(address: str) -> None:
    if address == "::1" and not has_ipv6():
        pytest.skip("this machine has no address ::1")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OptionError, match=f"metrics_port={port}: Address already in use .{address}.: choose"):
            loopback.Endpoint(port)
    loopback.Endpoint(port).close()


def test_a_port_is_free_again_after_it_was_answered() -> None:
    port = free_port()
    for _ in range(2):
        endpoint = loopback.Endpoint(port)
        endpoint.serve(lambda: b"x")
        assert ask(port)[2] == b"x"
        endpoint.close()
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_those_who_say_nothing_take_a_few_threads_and_no_more(port: int) -> None:
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(loopback._CALLS - 1)]
    assert ask(port)[0] == 200
    silent += [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    hung_up = silent[-1]
    hung_up.settimeout(10)
    assert hung_up.recv(1) == b""
    assert threading.active_count() - before <= loopback._CALLS
    for connection in silent:
        connection.close()


def test_a_bug_in_the_page_is_an_answer_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    endpoint, port = None, free_port()
    pages = [ValueError("a bug"), b"x"]

    def page() -> bytes:
        first = pages.pop(0)
        if isinstance(first, Exception):
            raise first
        return first

    endpoint = loopback.Endpoint(port)
    endpoint.serve(page)
    assert ask(port)[0] == 500
    assert ask(port)[0] == 200
    endpoint.close()
    assert "a bug in making the metrics" in caplog.text
