"""HTTP to plain servers: ranges of one version, errors in our words, redirects that take no secret along."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vfs import bulk, web
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)

DATA = bytes(range(256)) * 40
LARGE_BYTES = web.WHOLE_BYTES + 1
WHEN_S = 1_600_000_000
Reply = tuple[int, dict[str, str], bytes]
Seen = list[tuple[str, str, dict[str, str]]]


@contextmanager
def serving(reply: Callable[[str, dict[str, str]], Reply]) -> Iterator[tuple[str, Seen]]:
    """A server whose answers `reply` gives for a path and headers: its address, and what it was asked."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append((self.command, self.path, headers))
            status, told, body = reply(self.path, headers)
            self.send_response(status)
            length = {} if "Transfer-Encoding" in told else {"Content-Length": str(len(body))}
            for name, value in (length | told).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            # A body that is not as long as was announced ends with the connection.
            self.close_connection = self.close_connection or told.get("Content-Length", str(len(body))) != str(
                len(body)
            )

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ranges(path: str, headers: dict[str, str]) -> Reply:
    """A file as a server with ranges has it."""
    if headers.get("if-match", '"v1"') != '"v1"':
        return 412, {}, b""
    first, _, last = headers["range"].removeprefix("bytes=").partition("-")
    part = DATA[int(first) : int(last) + 1]
    return 206, {"Content-Range": f"bytes {first}-{last}/{len(DATA)}", "ETag": '"v1"'}, part


@pytest.fixture
def client() -> Iterator[web.Web]:
    made = web.Web()
    yield made
    made.close()


def test_a_range_of_one_version_is_asked_for_and_comes(client: web.Web) -> None:
    with serving(ranges) as (url, seen):
        file = web.File(f"{url}/a", len(DATA), '"v1"')
        assert client.read("read a", file, 100, 50, {"Authorization": "Bearer x"}) == DATA[100:150]
        assert client.read("read a", file, len(DATA) - 1, 1) == DATA[-1:]
    assert [(headers["range"], headers["if-match"]) for _, _, headers in seen] == [
        ("bytes=100-149", '"v1"'),
        (f"bytes={len(DATA) - 1}-{len(DATA) - 1}", '"v1"'),
    ]
    assert seen[0][2]["authorization"] == "Bearer x"
    assert seen[0][2]["accept-encoding"] == "identity"


def whole(**headers: str) -> Callable[[str, dict[str, str]], Reply]:
    return lambda path, asked: (200, {name.replace("_", "-"): value for name, value in headers.items()}, DATA)


def partly(content_range: str, body: bytes, **headers: str) -> Callable[[str, dict[str, str]], Reply]:
    told = {"Content-Range": content_range, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda path, asked: (206, told, body)


WRONG: dict[str, tuple[Callable[[str, dict[str, str]], Reply], type[EgofsError], str]] = {
    "another_version_by_its_etag": (partly("bytes 8-15/10240", b"8" * 8, ETag='"v2"'), Changed, "replaced"),
    "the_server_refuses_another_version": (lambda path, asked: (412, {}, b""), Changed, "replaced"),
    "a_range_beyond_the_end": (lambda path, asked: (416, {}, b""), Changed, "replaced"),
    "another_range": (partly("bytes 0-7/10240", b"8" * 8), CorruptData, "another range"),
    "another_size": (partly("bytes 8-15/999", b"8" * 8), CorruptData, "999 bytes"),
    "no_range_header": (partly("", b"8" * 8), CorruptData, "Content-Range"),
    "an_early_end": (partly("bytes 8-15/10240", b"8" * 5, Content_Length="8"), CorruptData, ""),
    "fewer_bytes_than_the_range": (partly("bytes 8-15/10240", b"8" * 5), CorruptData, "ended after 5"),
    "more_bytes_than_the_range": (partly("bytes 8-15/10240", b"8" * 9), CorruptData, "more bytes"),
    "a_server_without_ranges": (
        lambda path, asked: (200, {"Content-Length": str(LARGE_BYTES)}, b""),
        CorruptData,
        "bytes by now",
    ),
    "bytes_that_are_packed": (partly("bytes 8-15/10240", b"8" * 8, Content_Encoding="gzip"), SourceError, "gzip"),
    "forbidden": (lambda path, asked: (403, {}, b""), AccessDenied, "403"),
    "unknown": (lambda path, asked: (401, {}, b""), AccessDenied, "401"),
    "gone": (lambda path, asked: (410, {}, b""), NotFound, "410"),
    "not_there": (lambda path, asked: (404, {}, b""), NotFound, "404"),
    "a_wrong_request": (lambda path, asked: (400, {}, b""), SourceError, "400"),
    "a_broken_server": (lambda path, asked: (500, {}, b""), Unavailable, "500"),
    "no_status_at_all": (lambda path, asked: (799, {}, b""), Unavailable, "799"),
}


@pytest.mark.parametrize(("reply", "kind", "said"), WRONG.values(), ids=WRONG)
def test_what_is_not_the_range_is_an_error_of_ours(
    client: web.Web, reply: Callable[[str, dict[str, str]], Reply], kind: type[EgofsError], said: str
) -> None:
    with serving(reply) as (url, _), pytest.raises(EgofsError) as raised:
        client.read("read a", web.File(f"{url}/a?Signature=secret", len(DATA), '"v1"'), 8, 8)
    assert type(raised.value) is kind
    assert str(raised.value).startswith("read a: ")
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_whole_file_may_come_without_a_range(client: web.Web) -> None:
    with serving(whole()) as (url, _):
        assert client.read("read a", web.File(f"{url}/a", len(DATA)), 0, len(DATA)) == DATA


def test_of_a_small_file_that_comes_whole_the_range_is_cut_out_and_of_a_large_one_nothing_is_taken(
    client: web.Web,
) -> None:
    with serving(whole()) as (url, seen):
        file = web.File(f"{url}/a", len(DATA))
        assert [client.read("read a", file, start, 10) for start in (0, 300, len(DATA) - 10)] == [
            *(DATA[:10], DATA[300:310], DATA[-10:]),
        ]
        assert len(seen) == 3
    for size, kind in ((LARGE_BYTES, SourceError), (len(DATA) - 1, Changed)):
        with serving(whole()) as (url, _), pytest.raises(kind):
            client.read("read a", web.File(f"{url}/a", size), 8, 8)


def test_a_server_that_puts_a_file_together_for_each_who_asks_has_all_of_it_compared(client: web.Web) -> None:
    def reply(path: str, headers: dict[str, str]) -> Reply:
        return 200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"

    with serving(reply) as (url, _):
        assert client.read("read a", web.File(f"{url}/a", 5), 1, 3) == b"ell"
        with pytest.raises(CorruptData):
            client.read("read a", web.File(f"{url}/a", 6), 1, 3)
        with pytest.raises(CorruptData):
            client.read("read a", web.File(f"{url}/a", 4), 1, 3)


def test_bytes_of_a_file_that_is_packed_itself_are_its_own(client: web.Web) -> None:
    with serving(partly("bytes 8-15/10240", b"8" * 8, Content_Encoding="x-gzip")) as (url, _):
        assert client.read("read a", web.File(f"{url}/a.tar.gz", len(DATA)), 8, 8) == b"8" * 8
        with pytest.raises(SourceError, match="x-gzip"):
            client.read("read a", web.File(f"{url}/a.csv", len(DATA)), 8, 8)


def test_an_answer_that_came_packed_is_not_taken_for_what_it_says(client: web.Web) -> None:
    with serving(whole(Content_Encoding="gzip")) as (url, _), pytest.raises(SourceError, match="it came as gzip"):
        client.ask("GET", "list", url)


def test_who_wants_only_the_head_of_an_answer_does_not_wait_for_its_body(client: web.Web) -> None:
    with serving(lambda path, asked: (200, {"Content-Length": str(1 << 40)}, b"x")) as (url, _):
        answer = client.ask("GET", "stat", url, take=False)
    assert (answer.body, web.length(answer)) == (b"", 1 << 40)


def test_who_wants_to_see_refusals_gets_them(client: web.Web) -> None:
    with serving(lambda path, asked: (405, {"Allow": "GET"}, b"no")) as (url, _):
        answer = client.ask("GET", "list", url, refused=True)
        assert (answer.status, answer.body, answer.headers["allow"]) == (405, b"no", "GET")
        assert isinstance(client.failure("list", answer), SourceError)


def test_what_is_posted_goes_to_no_other_address(client: web.Web) -> None:
    with serving(lambda path, asked: (307, {"Location": "/elsewhere"}, b"")) as (url, seen):
        with pytest.raises(SourceError, match="must not go"):
            client.ask("POST", "renew", url, body=b"refresh_token=secret")
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("here", "there", "kept"),
    [
        ("http://h/a", "https://h/a", True),
        ("http://h:80/a", "https://h:443/a", True),
        ("https://h/a", "https://h:443/b", True),
        ("http://h/a", "https://other/a", False),
        ("http://h/a", "https://h:8443/a", False),
        ("http://h:8080/a", "https://h/a", False),
        ("https://h/a", "https://h.evil/a", False),
        ("https://h/a", "//other/a", False),
        ("https://h/a", "/b", True),
    ],
)
def test_a_secret_goes_on_to_the_same_server_alone(here: str, there: str, kept: bool) -> None:
    _, headers = web._redirected("list", here, there, {"authorization": "secret", "Cookie": "c", "Range": "bytes=0-1"})
    assert headers.keys() == ({"authorization", "Cookie", "Range"} if kept else {"Range"})


def test_a_proxy_of_the_environment_is_used_but_for_hosts_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(whole()) as (url, seen):
        client = web.Web()
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert client.ask("GET", "list", "http://store.invalid/x").body == DATA
        assert client.ask("GET", "list", f"{url}/direct").body == DATA
        client.close()
    assert [path for _, path, _ in seen] == ["http://store.invalid/x", "/direct"]


def test_without_an_etag_the_time_of_the_last_change_is_the_version(client: web.Web) -> None:
    when = formatdate(WHEN_S, usegmt=True)
    file = web.File("", len(DATA), mtime_ns=WHEN_S * 1_000_000_000)
    told = partly("bytes 8-15/10240", b"8" * 8, Last_Modified=when)
    later = partly("bytes 8-15/10240", b"8" * 8, Last_Modified=formatdate(WHEN_S + 1, usegmt=True))
    with serving(told) as (url, seen):
        assert client.read("read a", web.File(f"{url}/a", len(DATA), mtime_ns=file.mtime_ns), 8, 8) == b"8" * 8
        assert seen[0][2]["if-unmodified-since"] == when
    with serving(later) as (url, _), pytest.raises(Changed):
        client.read("read a", web.File(f"{url}/a", len(DATA), mtime_ns=file.mtime_ns), 8, 8)


def test_a_weak_etag_is_compared_and_not_asked_for(client: web.Web) -> None:
    with serving(partly("bytes 8-15/10240", b"8" * 8, ETag='W/"v1"')) as (url, seen):
        assert client.read("read a", web.File(f"{url}/a", len(DATA), 'W/"v1"'), 8, 8) == b"8" * 8
        assert "if-match" not in seen[0][2]
        with pytest.raises(Changed):
            client.read("read a", web.File(f"{url}/a", len(DATA), 'W/"v2"'), 8, 8)


def test_throttling_tells_how_long_to_wait(client: web.Web) -> None:
    busy = serving(lambda path, asked: (429, {"Retry-After": "7"}, b""))
    with busy as (url, _), pytest.raises(Throttled) as raised:
        client.ask("GET", "list", url)
    assert raised.value.retry_after_s == 7
    assert web.retry_after_s(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert web.retry_after_s(formatdate(0, usegmt=True)) == 0
    assert web.retry_after_s("soon") == 0


def test_a_store_says_what_its_errors_mean() -> None:
    def judge(what: str, answer: web.Answer) -> EgofsError | None:
        return Throttled(f"{what}: {answer.body.decode()}") if answer.status == 403 else None

    client = web.Web(judge)
    with serving(lambda path, asked: (403 if path == "/a" else 404, {}, b"rateLimitExceeded")) as (url, _):
        with pytest.raises(Throttled, match="list: rateLimitExceeded"):
            client.ask("GET", "list", f"{url}/a")
        with pytest.raises(NotFound):
            client.ask("GET", "list", f"{url}/b")
    client.close()


def test_a_redirect_to_another_host_takes_no_secret_along(client: web.Web) -> None:
    sent = {"Authorization": "Bearer secret", "X-Own": "1"}
    with (
        serving(ranges) as (there, seen),
        serving(lambda path, asked: (302, {"Location": f"{there}/signed?x=1"}, b"")) as (here, _),
    ):
        assert client.read("read a", web.File(f"{here}/a", len(DATA), '"v1"'), 8, 8, sent) == DATA[8:16]
    assert seen[0][1] == "/signed?x=1"
    assert "authorization" not in seen[0][2]
    assert seen[0][2]["x-own"] == "1"
    assert seen[0][2]["range"] == "bytes=8-15"


def test_a_redirect_on_the_same_host_keeps_what_lets_one_in(client: web.Web) -> None:
    def reply(path: str, headers: dict[str, str]) -> Reply:
        return (307, {"Location": "b"}, b"") if path == "/x/a" else (200, {}, b"ok")

    with serving(reply) as (url, seen):
        assert client.ask("GET", "list", f"{url}/x/a", {"Authorization": "Bearer secret"}).url == f"{url}/x/b"
    assert seen[1][2]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/", "http://[", "/a"])
def test_a_redirect_to_nowhere_ends(client: web.Web, target: str) -> None:
    with serving(lambda path, asked: (302, {"Location": target}, b"")) as (url, seen):
        with pytest.raises(SourceError, match="list: the server sends"):
            client.ask("GET", "list", f"{url}/a")
        assert len(seen) <= 6


def test_who_does_not_want_to_follow_gets_the_redirect(client: web.Web) -> None:
    with serving(lambda path, asked: (302, {"Location": "/b"}, b"")) as (url, seen):
        answer = client.ask("HEAD", "stat", f"{url}/a", follow=False)
        assert (answer.status, answer.headers["location"], len(seen)) == (302, "/b", 1)


def test_an_endless_answer_is_not_taken(client: web.Web) -> None:
    with serving(lambda path, asked: (200, {}, DATA)) as (url, _):
        assert client.ask("GET", "list", url, most_bytes=len(DATA)).body == DATA
        with pytest.raises(SourceError, match="which it cannot need"):
            client.ask("GET", "list", url, most_bytes=len(DATA) - 1)


def test_a_server_that_is_not_there_is_said_so(client: web.Web) -> None:
    with serving(ranges) as (url, _):
        pass
    with pytest.raises(Unavailable, match="list: nobody answers there"):
        client.ask("GET", "list", f"{url}/?token=secret")
    with pytest.raises(Unavailable, match="the host's name is not found"):
        client.ask("GET", "list", "http://no-such-host.invalid/")
    with pytest.raises(SourceError, match="its address is none"):
        client.ask("GET", "list", "http:///nothing")


def test_a_server_that_says_nothing_is_a_timeout(client: web.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IDLE_S", 0.2)
    waited = threading.Event()

    def reply(path: str, headers: dict[str, str]) -> Reply:
        waited.wait(5)
        return 200, {}, b""

    with serving(reply) as (url, _):
        try:
            with pytest.raises(Timeout):
                client.ask("GET", "list", url)
        finally:
            waited.set()


def test_connections_are_kept(client: web.Web) -> None:
    with serving(ranges) as (url, seen):
        for start in range(0, 80, 8):
            client.read("read a", web.File(f"{url}/a", len(DATA), '"v1"'), start, 8)
        pool = client._connections(url)
        assert pool.connection_from_url(url).num_connections == 1
    assert len(seen) == 10
