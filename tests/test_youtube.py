"""YouTube's videos as a source: yt-dlp itself, against a stand-in for YouTube."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.networking.exceptions import SSLError, TransportError
from yt_dlp.utils import ExtractorError, GeoRestrictedError, UserNotLive

from tests.youtubeserver import Format, Video, YouTubeServer
from vfs import ytdlp
from vfs.errors import (
    AccessDenied,
    Changed,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
    errno_of,
)
from vfs.sources import module_for, youtube

ID, KEY = "-bcd_fghij-", "-bcd_fghij-.mp4"
DATA = os.urandom(300_000)
DASH = 'video/mp4; codecs="avc1.4d401e"'
Opened = Callable[..., youtube.YouTubeSource]


@pytest.fixture
def server() -> Iterator[YouTubeServer]:
    with YouTubeServer({ID: Video([Format(18, DATA)])}) as running:
        yield running
        assert {(method, path) for method, path, _ in running.requests} <= {
            ("GET", "/watch"),
            ("POST", "/youtubei/v1/player"),  # a question, which is put as YouTube has it put
            ("GET", "/embed/age00000000"),
            ("GET", "/iframe_api"),
            ("GET", "/videoplayback"),
        }


@pytest.fixture
def opened(server: YouTubeServer) -> Iterator[Opened]:
    made = []

    def opened(**options: object) -> youtube.YouTubeSource:
        given = {"interval": 0, "endpoint_url": server.endpoint_url} | options
        made.append(youtube.open_source("youtube://", youtube.Options(**given)))
        return made[-1]

    yield opened
    for source in made:
        source.close()


def test_a_video_is_found_once_and_then_read_by_ranges(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    found = source.stat(KEY)
    assert (found.key, found.size_bytes, found.version) == (KEY, len(DATA), "18.1500000000123456")
    assert found.mtime_ns == 1_425_445_567_000_000_000
    assert [path for _, path, _ in server.requests] == ["/watch", "/youtubei/v1/player", "/videoplayback"]
    assert server.headers[-1]["range"] == "bytes=0-0"
    assert source.read(found, 1000, 5000) == DATA[1000:6000]
    assert source.read(found, len(DATA) - 1, 1) == DATA[-1:]
    assert source.stat(KEY) == found
    assert server.extractions == 1
    assert server.count("/videoplayback") == 3


def test_nothing_is_listed_and_other_names_are_not_asked_for(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    assert list(source.list("")) == []
    for key in ("", "x", ID, f"{ID}.webm", f"{ID}a.mp4", f"a/{KEY}", "annotations/k400.csv"):
        with pytest.raises(NotFound):
            source.stat(key)
    with pytest.raises(NotFound):
        list(source.list("a"))
    assert server.requests == []


FORMATS: dict[str, tuple[list[Format], dict[str, object], str]] = {
    "18_as_the_downloader_took_it": ([Format(22, b"x", height=720), Format(18, b"y")], {}, "18"),
    "18_of_an_upright_video": ([Format(18, b"y", height=640)], {}, "18"),
    "the_best_in_one_file": ([Format(59, b"x", height=240), Format(78, b"y", height=144)], {}, "59"),
    "the_best_up_to_the_height": ([Format(22, b"x", height=720), Format(18, b"y")], {"height": 720}, "22"),
    "18_where_nothing_is_as_high": ([Format(18, b"y")], {"height": 1080}, "18"),
    "pictures_alone": ([Format(134, b"x", DASH), Format(135, b"y", DASH, height=480)], {}, "134"),
    "h264_before_what_is_newer": (
        [Format(396, b"x", 'video/mp4; codecs="av01.0.01M.08"'), Format(133, b"y", DASH, height=240)],
        {},
        "133",
    ),
}


@pytest.mark.parametrize(("formats", "options", "itag"), FORMATS.values(), ids=FORMATS)
def test_the_file_of_a_video_is(
    server: YouTubeServer, opened: Opened, formats: list[Format], options: dict[str, object], itag: str
) -> None:
    server.videos[ID] = Video(formats)
    assert opened(**options).stat(KEY).version.partition(".")[0] == itag


@pytest.mark.parametrize("mime", ['video/webm; codecs="vp9, opus"', 'audio/mp4; codecs="mp4a.40.2"'])
def test_what_is_no_mp4_in_one_file_is_not_taken(server: YouTubeServer, opened: Opened, mime: str) -> None:
    server.videos[ID] = Video([Format(43, DATA, mime)])
    with pytest.raises(SourceError, match="no MP4 in one file"):
        opened().stat(KEY)


def test_a_version_is_the_same_however_often_it_is_found(server: YouTubeServer, opened: Opened) -> None:
    server.videos[ID].formats[0].tells_size = False
    assert opened().stat(KEY) == opened().stat(KEY)
    assert server.extractions == 2


def test_sources_of_other_heights_are_others(opened: Opened) -> None:
    assert opened().url == opened(height=360).url != opened(height=480).url
    assert youtube.open_source("youtube://", youtube.Options()).url == "youtube://"


# -- addresses that end


def test_an_address_that_is_refused_is_found_again_once(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    found = source.stat(KEY)
    server.revoke()
    assert source.read(found, 10, 20) == DATA[10:30]
    assert (server.extractions, server.count("/videoplayback")) == (2, 4)
    server.file_status = 403
    with pytest.raises(AccessDenied, match=f"find {KEY}: the address that YouTube has just given is refused"):
        source.read(found, 10, 20)
    assert server.extractions == 3


def test_an_address_that_has_ended_is_not_asked(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    server.lives_s = 30  # it is not begun with in its last minute
    found = source.stat(KEY)
    asked = server.count("/videoplayback")
    assert source.read(found, 10, 20) == DATA[10:30]
    assert (server.extractions, server.count("/videoplayback")) == (2, asked + 2)


def test_another_file_of_a_video_is_a_change(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    found = source.stat(KEY)
    server.videos[ID] = Video([Format(18, DATA[::-1], made=1_600_000_000_000_000)])
    with pytest.raises(Changed, match="open it again"):
        source.read(found, 10, 20)
    assert source.stat(KEY).version == "18.1600000000000000"
    with pytest.raises(Changed):
        source.read(found, 10, 20)
    assert source.read(replace(found, version=""), 0, 4) == DATA[::-1][:4]


def test_a_file_without_ranges_is_refused(
    server: YouTubeServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "file", lambda query, wanted: (200, {}, b"whole"))
    with pytest.raises(SourceError, match="gives no ranges"):
        opened().stat(KEY)


def test_addresses_are_kept_within_a_bound(
    server: YouTubeServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(youtube, "_KEPT", 2)
    source = opened()
    for number in (0, 1, 2, 2, 1, 0):
        server.videos[f"video00000{number}"] = Video([Format(18, DATA)])
        source.stat(f"video00000{number}.mp4")
    assert server.extractions == 4


# -- what YouTube says instead of a video

SIGN_IN = "LOGIN_REQUIRED"
SAID: dict[str, tuple[Video, type[EgofsError], str]] = {
    "unknown": (Video(status="ERROR", reason="Video unavailable"), NotFound, "Video unavailable"),
    "removed": (
        Video(status="ERROR", reason="Video unavailable", subreason="This video has been removed by the uploader"),
        NotFound,
        "removed by the uploader",
    ),
    "terminated": (
        Video(
            status="ERROR",
            reason="Video unavailable",
            subreason="This video is no longer available because the YouTube account associated with this video has "
            "been terminated.",
        ),
        NotFound,
        "terminated",
    ),
    "private": (
        Video(status=SIGN_IN, reason="Private video", subreason="Sign in if you've been granted access to this video"),
        NotFound,
        "Private video",
    ),
    "blocked_in_a_country": (
        Video(
            status="UNPLAYABLE",
            reason="Video unavailable",
            subreason="The uploader has not made this video available in your country",
            countries=["DE", "FR"],
        ),
        NotFound,
        "in your country",
    ),
    "blocked_by_an_owner": (
        Video(
            status="UNPLAYABLE",
            reason="Video unavailable",
            subreason="This video contains content from X, who has blocked it on copyright grounds",
        ),
        NotFound,
        "copyright",
    ),
    "a_trailer_in_its_place": (Video(status="UNPLAYABLE", reason="Rent it", trailer=ID), NotFound, "something else"),
    "live": (Video([Format(18, DATA)], live=True), NotFound, "it is live"),
    "a_premiere": (Video(status="LIVE_STREAM_OFFLINE", reason="Premieres in 5 hours"), NotFound, "Premieres"),
    "announced": (
        Video(status="LIVE_STREAM_OFFLINE", reason="This live event will begin in 2 days."),
        NotFound,
        "will begin",
    ),
    "for_adults": (
        Video(
            status=SIGN_IN,
            reason="Sign in to confirm your age",
            subreason="This video may be inappropriate for some users.",
        ),
        AccessDenied,
        "cookies_file=",
    ),
    "for_members": (
        Video(
            status="UNPLAYABLE",
            reason="Join this channel to get access to members-only content like this video.",
        ),
        AccessDenied,
        "cookies_file=",
    ),
    "not_for_robots": (
        Video(
            status=SIGN_IN,
            reason="Sign in to confirm you\N{RIGHT SINGLE QUOTATION MARK}re not a bot",
            subreason="This helps protect our community. Learn more",
        ),
        Throttled,
        "wants this machine to ask less",
    ),
    "not_so_often": (
        Video(
            status="UNPLAYABLE", reason="Video unavailable", subreason="This content isn't available, try again later."
        ),
        Throttled,
        "rate-limited",
    ),
}


@pytest.mark.parametrize(("video", "kind", "said"), SAID.values(), ids=SAID)
def test_a_video_that_cannot_be_had_is_said_so(
    server: YouTubeServer, opened: Opened, video: Video, kind: type[EgofsError], said: str
) -> None:
    server.videos["age00000000"] = video
    with pytest.raises(EgofsError) as raised:
        opened().stat("age00000000.mp4")
    assert type(raised.value) is kind
    message = str(raised.value)
    assert message.startswith("find age00000000.mp4: ")
    assert said in message
    assert "\n" not in message
    assert "--cookies" not in message
    assert server.extractions == 1


def lost(status: int) -> Callable[[YouTubeServer], None]:
    def change(server: YouTubeServer) -> None:
        server.page_status = server.player_status = status

    return change


ANSWERS: dict[str, tuple[Callable[[YouTubeServer], None], type[EgofsError], str]] = {
    "too_often_for_the_page": (lambda server: setattr(server, "page_status", 429), Throttled, "ask less"),
    "too_often_for_the_player": (lambda server: setattr(server, "player_status", 429), Throttled, "ask less"),
    "broken": (lost(503), Unavailable, "503"),
    "unknown": (lost(418), SourceError, "418"),
}


@pytest.mark.parametrize(("change", "kind", "said"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_an_error_is_one_of_ours(
    server: YouTubeServer,
    opened: Opened,
    change: Callable[[YouTubeServer], None],
    kind: type[EgofsError],
    said: str,
) -> None:
    server.videos[ID] = Video(status="", reason="") if kind is not Throttled else Video(status="ERROR")
    change(server)
    with pytest.raises(EgofsError, match=said) as raised:
        opened().stat(KEY)
    assert type(raised.value) is kind


RAISED: dict[str, tuple[Exception, type[EgofsError]]] = {
    "a_country": (GeoRestrictedError("not here", countries=["DE"]), NotFound),
    "no_stream": (UserNotLive(), NotFound),
    "a_sentence_that_is_new": (ExtractorError("Ask your parents", expected=True), SourceError),
    "a_bug_of_its_own": (KeyError("player"), SourceError),
    "no_certificate": (ExtractorError("x", cause=SSLError("y")), SourceError),
}


@pytest.mark.parametrize(("failure", "kind"), RAISED.values(), ids=RAISED)
def test_failures_of_ytdlp_are_told_by_their_types(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[EgofsError]
) -> None:
    def raising(self: YoutubeIE, url: str) -> None:
        raise failure

    monkeypatch.setattr(YoutubeIE, "_real_extract", raising)
    with pytest.raises(EgofsError) as raised:
        opened().stat(KEY)
    assert type(raised.value) is kind
    assert "https://github.com" not in str(raised.value)


def test_a_youtube_that_is_not_there_is_said_so(opened: Opened) -> None:
    with YouTubeServer({}) as gone:
        pass
    with pytest.raises(Unavailable, match="YouTube cannot be reached"):
        opened(endpoint_url=gone.endpoint_url).stat(KEY)


def test_a_youtube_that_says_nothing_is_a_timeout(
    server: YouTubeServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ytdlp, "_SILENCE_S", 0.1)
    server.delay_s = 0.5
    monkeypatch.setattr(server, "player", lambda video, **_: time.sleep(0.5) or {})
    with pytest.raises(Timeout):
        opened().stat(KEY)


def test_a_search_that_does_not_end_is_not_waited_for(
    server: YouTubeServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(youtube, "_LOCATE_S", 0.1)
    server.delay_s = 0.5
    with pytest.raises(Timeout, match="has not told where it is"):
        opened().stat(KEY)


def test_the_errno_of_a_dead_video_is_enoent() -> None:
    assert errno_of(NotFound("x")) == 2
    assert not issubclass(TransportError, EgofsError)


# -- politeness


def test_turns_are_an_interval_apart_and_who_would_wait_too_long_is_told_at_once() -> None:
    now = 100.0
    turns = youtube._Turns(12.0, lambda: now)
    assert [turns._turn("find a") for _ in range(6)] == [0, 12, 24, 36, 48, 60]
    with pytest.raises(Timeout, match=r"find b: 6 others wait, and YouTube is asked for one video in 12 s"):
        turns._turn("find b")
    now = 173.0
    assert [turns._turn("find c") for _ in range(2)] == [0, 12]


def test_the_interval_is_kept_between_videos(
    server: YouTubeServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(interval=12)
    source._turns = youtube._Turns(12, lambda: 0.0)
    waited: list[float] = []
    monkeypatch.setattr(source._turns._closed, "wait", waited.append)
    for number in range(3):
        server.videos[f"video00000{number}"] = Video([Format(18, DATA)])
        found = source.stat(f"video00000{number}.mp4")
        source.read(found, 0, 10)
    assert waited == [0, 12, 24]


def test_two_are_looked_for_at_once_and_a_video_once_for_all(server: YouTubeServer, opened: Opened) -> None:
    server.delay_s = 0.1
    keys = [KEY] * 4
    for number in range(4):
        server.videos[f"video00000{number}"] = Video([Format(18, DATA)])
        keys.append(f"video00000{number}.mp4")
    source = opened()
    with ThreadPoolExecutor(8) as threads:
        assert {found.size_bytes for found in threads.map(source.stat, keys)} == {len(DATA)}
    assert server.extractions == 5
    assert server.most_at_once == 2


def test_after_a_refusal_youtube_is_left_alone(server: YouTubeServer, opened: Opened) -> None:
    source = opened()
    found = source.stat(KEY)
    server.videos["robot000000"] = SAID["not_for_robots"][0]
    with pytest.raises(Throttled):
        source.stat("robot000000.mp4")
    asked = server.extractions
    for key in ("robot000000.mp4", "another0000.mp4"):
        with pytest.raises(Throttled, match="is left alone for") as raised:
            source.stat(key)
        assert not raised.value.retryable  # a reader would wait in vain
    assert server.extractions == asked
    assert source.read(found, 0, 10) == DATA[:10]  # what was found before is still given
    source._turns._left_alone_until = 0
    server.videos["another0000"] = Video([Format(18, DATA)])
    assert source.stat("another0000.mp4").size_bytes == len(DATA)


def test_the_terms_are_told_once(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = opened()
        assert caplog.text == ""
        source.stat(KEY)
        source.stat(KEY)
    assert caplog.text.count("youtube.com/t/terms") == 1


# -- what it may and may not do


def test_cookies_are_read_and_neither_written_nor_told(
    server: YouTubeServer, opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cookies = tmp_path / "cookies.txt"
    secret = ".youtube.com\tTRUE\t/\tTRUE\t4102444800\tX\tsecret-cookie\n"
    text = "# Netscape HTTP Cookie File\n# x\n\n#HttpOnly_.youtube.com\tTRUE\t/\tTRUE\t\tA\tb\n" + secret
    cookies.write_text(text)
    source = opened(cookies_file=cookies)
    seen: list[str] = []

    class Client(ytdlp._Client):
        def urlopen(self, request: object) -> object:
            seen.append(self.cookiejar.get_cookie_header("https://www.youtube.com/watch"))
            return super().urlopen(request)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(ytdlp, "_Client", Client)
        source.stat(KEY)
        server.videos["private0000"] = SAID["private"][0]
        with pytest.raises(NotFound) as raised:
            source.stat("private0000.mp4")
    assert all("secret-cookie" in each for each in seen)
    assert seen
    assert "secret-cookie" not in caplog.text + str(raised.value)
    assert not any("secret-cookie" in str(headers) for headers in server.headers)  # it is not YouTube
    assert cookies.read_text() == text


NETSCAPE = b"# Netscape HTTP Cookie File\n"


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe\x00", b"no cookies", NETSCAPE + b"x\n", b".a\tTRUE\t/\tTRUE\t0\ta\tb\n"]
)
def test_cookies_that_cannot_be_read_are_told_at_mount(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "c").write_bytes(content)
    with pytest.raises(OptionError, match=r"cookies_file .*: give a browser's cookies.txt"):
        youtube.open_source("youtube://", youtube.Options(cookies_file=tmp_path / "c"))


def test_no_address_is_told(server: YouTubeServer, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    source = opened()
    with caplog.at_level(logging.DEBUG, "vfs"):
        found = source.stat(KEY)
        server.file_status = 403
        with pytest.raises(AccessDenied) as raised:
            source.read(found, 0, 10)
    said = caplog.text + str(raised.value) + repr(source._found)
    assert "sig=" not in said
    assert "videoplayback" not in said


PROGRAM = """
import sys
from vfs.sources import youtube
assert "yt_dlp" not in sys.modules
source = youtube.open_source("youtube://", youtube.Options(interval=0, endpoint_url=sys.argv[1]))
assert "yt_dlp" not in sys.modules
print(source.stat(sys.argv[2]).size_bytes)
source.close()
"""


def test_nothing_of_the_users_is_read_nor_written(server: YouTubeServer, tmp_path: Path) -> None:
    config = tmp_path / ".config/yt-dlp"
    plugin = config / "plugins/evil/yt_dlp_plugins/extractor/evil.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    (config / "config").write_text("--write-info-json\n--no-such-option\n")
    before = sorted(tmp_path.rglob("*"))
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["http_proxy"] = environment["https_proxy"] = "http://127.0.0.1:9"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, server.endpoint_url, KEY],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == str(len(DATA)), done.stderr
    assert done.stderr.count("\n") == 1  # the terms
    assert sorted(tmp_path.rglob("*")) == before


def test_the_source_is_found_by_its_url_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module_for("youtube://") is youtube
    for url in ("youtube://abc", "youtube://www.youtube.com/watch?v=x"):
        with pytest.raises(OptionError, match="write youtube://, without a video"):
            youtube.open_source(url, youtube.Options())
    monkeypatch.setattr(youtube.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'egofs\[youtube\]'"):
        youtube.open_source("youtube://", youtube.Options())


@pytest.mark.parametrize("option", [{"height": 0}, {"interval": -1}, {"interval": float("nan")}, {"height": "tall"}])
def test_an_option_that_is_none_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=f"option {next(iter(option))}="):
        youtube.Options(**option)


def test_a_source_that_is_closed_keeps_nobody_waiting(opened: Opened) -> None:
    source = opened(interval=3600)
    source._turns._next += 50
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(source.stat, KEY)
        source.close()
        with pytest.raises(SourceError, match="the mount is ending"):
            waiting.result(10)
