"""yt-dlp, for one video at a time: where its file is, and what the ways mean in which YouTube refuses.

The source of YouTube's videos asks `locate`, in a thread of its own; yt-dlp finds the address and fetches none of the
video. Nothing is read but what it is given, and nothing written: no configuration, plugins, cookies of a browser or
cache, no ffmpeg. Importing it takes 0.4 s and 30 MiB, which is why this module is imported with the first video.

It asks once and does not retry. Any thread may enter; each call has a YoutubeDL of its own, which serves one thread.
"""

import datetime
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from yt_dlp import YoutubeDL
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError, SSLError
from yt_dlp.utils import ExtractorError, GeoRestrictedError, YoutubeDLError

from vfs.errors import AccessDenied, EgofsError, NotFound, SourceError, Throttled, Timeout, Unavailable

plugin_dirs.value = []  # code from the user's folders has no place in a daemon

_SILENCE_S = 10.0  # without a byte, of each of the two to four requests that a video takes
# Before a video some minutes of advertising may stand, during which YouTube refuses the file. Those are not waited for.
_MOST_AHEAD_S = 15.0

# The seed's tool takes 18: H.264 and AAC in one MP4 of 360 lines or fewer, which nearly every video has. Never
# protocols of many files (HLS, DASH): a range of those is no range of anything.
_DIRECT = "[ext=mp4][protocol~='^https?$']"

# What YouTube says, in lower case; the first that is found tells. Its words are all that it gives: yt-dlp has a type
# for a country's block alone.
_BUSY = ("not a bot", "try again later", "rate-limit", "captcha", "too many requests")
_FOR_SOME = (
    *("confirm your age", "age-restricted", "inappropriate for some users", "age verification", "members-only"),
    *("channel's members", "join this channel", "requires payment", "only available to music premium members"),
)
_GONE = (
    *("private video", "video is private", "unavailable", "not available", "no longer available", "removed"),
    *("terminated", "deleted", "does not exist", "copyright", "premieres in", "premiere will", "will begin"),
    *("live event has ended", "offline", "blocked it", "not made this video available", "is not currently live"),
)
_ADVICE = re.compile(r"\.? (?:Use --cookies|It is recommended to use|You might want to use)|; please report")
_STREAMS = {"is_live": "it is live", "is_upcoming": "it has not begun", "post_live": "it was live, and is not ready"}


@dataclass(frozen=True)
class Settings:
    """How videos are found."""

    height: int
    """Lines of the picture, at most, where YouTube does not have format 18."""
    cookies: str = field(default="", repr=False)
    """Of an account, as a browser's cookies.txt has them."""
    endpoint_url: str = ""
    """Asked instead of YouTube, for tests."""


@dataclass(frozen=True)
class Located:
    """Where the file of a video is for now. The URL lets in whoever has it: it stands in no message."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    itag: str
    """YouTube's name of a format: it tells size, codec and container."""
    mtime_ns: int
    """When the video was put there; 0 where that is not known."""


def locate(what: str, video: str, settings: Settings) -> Located:
    """The one file of a video. `what` stands in front of each message.

    Raises NotFound with YouTube's reason for what is gone, private, blocked here or live, AccessDenied where an
    account's cookies would help, Throttled where YouTube wants to be left alone, SourceError where there is no such
    file, Timeout, Unavailable.
    """
    words = _Words()
    failures: list[RequestError] = []
    try:
        with _client(settings, words, failures) as client:
            said = client.extract_info(f"https://www.youtube.com/watch?v={video}", False, "Youtube", process=False)
            _check(what, video, said)
            chosen = client.process_ie_result(said, download=False)
    except YoutubeDLError as failure:
        raise _meaning(what, failure, words, failures) from failure
    finally:
        for lost in failures:
            if isinstance(lost, HTTPError):
                lost.response.close()  # yt-dlp leaves that to the collector
    ahead = (chosen.get("available_at") or 0) - time.time()
    if ahead > _MOST_AHEAD_S:
        raise Throttled(f"{what}: YouTube gives it in {ahead:.0f} s, after advertisements")
    time.sleep(max(0.0, ahead))
    headers = {name: value for name, value in chosen["http_headers"].items() if name.lower() != "accept-encoding"}
    return Located(chosen["url"], headers, chosen["format_id"], _mtime_ns(said))


class _Words:
    """What yt-dlp would write on a terminal."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, line: str) -> None:
        """What it does next: nobody reads that."""

    def warning(self, line: str) -> None:
        """What did not work, after which it went on."""
        self.lines.append(line)

    error = warning


class _Client(YoutubeDL):  # type: ignore[misc]
    """A YoutubeDL that keeps what failed, and may ask somebody else than YouTube."""

    def __init__(self, parameters: dict[str, Any], endpoint_url: str, failures: list[RequestError]) -> None:
        super().__init__(parameters, auto_init=False)  # without the 1,800 sites that it knows
        self.add_info_extractor(YoutubeIE())
        self._failures = failures
        self._endpoint_url = endpoint_url

    def urlopen(self, request: Any) -> Any:
        """One request, of any part of yt-dlp."""
        request = Request(request) if isinstance(request, str) else request
        parts = urlsplit(request.url)
        if self._endpoint_url and (parts.hostname or "").endswith("youtube.com"):
            request.url = self._endpoint_url.rstrip("/") + urlunsplit(("", "", *parts[2:]))
        try:
            return super().urlopen(request)
        except RequestError as failure:
            self._failures.append(failure)
            raise


def _client(settings: Settings, words: _Words, failures: list[RequestError]) -> _Client:
    best = f"b{_DIRECT}[vcodec!=none][acodec!=none][height<=?{settings.height}]"
    mute = f"bv{_DIRECT}[height<=?{settings.height}]"
    parameters: dict[str, Any] = {
        "format": "/".join((*(["18"] if settings.height <= 360 else []), best, "18", f"{mute}[vcodec^=avc1]", mute)),
        "logger": words,
        "quiet": True,
        "noprogress": True,
        "color": "never",
        "cachedir": False,
        "noplaylist": True,
        "simulate": True,
        "check_formats": False,
        "socket_timeout": _SILENCE_S,
        "extractor_retries": 0,
        # A URL serves the address that asked for it, and ranges are asked for directly.
        "proxy": "",
        "geo_bypass": False,
        "extractor_args": {"youtube": {"skip": ["hls", "dash", "translated_subs"], "player_skip": ["initial_data"]}},
    }
    if settings.cookies:
        parameters["cookiefile"] = io.StringIO(settings.cookies)  # a file would be written to at the end
    return _Client(parameters, settings.endpoint_url, failures)


def _check(what: str, video: str, said: Any) -> None:
    """Raises where what came is not a video that has a file, or is another one: trailers stand in for some."""
    if not said or said.get("_type", "video") != "video" or said.get("id") != video:
        raise NotFound(f"{what}: YouTube has something else in the place of this video")
    if stream := _STREAMS.get(said.get("live_status") or ""):
        raise NotFound(f"{what}: {stream}")


def _mtime_ns(said: Mapping[str, Any]) -> int:
    """From the second of the upload, else its day."""
    seconds = said.get("timestamp")
    if not seconds and re.fullmatch(r"\d{8}", said.get("upload_date") or ""):
        day = datetime.datetime.strptime(said["upload_date"], "%Y%m%d").replace(tzinfo=datetime.UTC)
        seconds = day.timestamp()
    return int(seconds or 0) * 1_000_000_000


def _meaning(what: str, failure: YoutubeDLError, words: _Words, failures: list[RequestError]) -> EgofsError:
    """Our failure for what yt-dlp says, which is in part a type and in part YouTube's own sentence."""
    cause = failure.__context__ if isinstance(failure.__context__, ExtractorError) else failure
    reason = _reason(cause)
    said = "\n".join((reason, *words.lines)).lower()
    statuses = {each.status for each in failures if isinstance(each, HTTPError)}
    if 429 in statuses or any(each in said for each in _BUSY):
        return Throttled(f"{what}: YouTube wants this machine to ask less, or to sign in: {reason}")
    if isinstance(cause, GeoRestrictedError):
        return NotFound(f"{what}: {reason}")
    sentence = reason.lower()
    if any(each in sentence for each in _FOR_SOME):
        return AccessDenied(f"{what}: {reason}: give the cookies of an account that may see it with -o cookies_file=…")
    if failures and not any(each in sentence for each in _GONE):
        return _lost(what, failures[-1])
    if any(each in sentence for each in _GONE) and "requested format" not in sentence:
        return NotFound(f"{what}: {reason}")
    if "requested format" in sentence or "no video formats" in sentence:
        return SourceError(f"{what}: YouTube gives no MP4 in one file of it")
    return SourceError(f"{what}: {reason}: a newer yt-dlp may know better: pip install -U 'egofs[youtube]'")


def _reason(failure: BaseException) -> str:
    """YouTube's sentence, without what yt-dlp adds for its own command line."""
    text = getattr(failure, "orig_msg", None) or str(failure)
    line = " ".join(text.removeprefix("ERROR: ").split())
    return re.split(r"\.? (?:Use --cookies|It is recommended to use|You might want to use|; please report)", line)[0][
        :300
    ]


def _lost(what: str, failure: RequestError) -> EgofsError:
    """A request that was not answered, or with an error."""
    if isinstance(failure, HTTPError):
        kind = Unavailable if failure.status >= 500 else SourceError
        return kind(f"{what}: YouTube answered {failure.status} ({failure.reason})")
    if isinstance(failure, SSLError):
        return SourceError(f"{what}: YouTube's certificate is not trusted, or TLS fails")
    if "timed out" in str(failure).lower():
        return Timeout(f"{what}: YouTube said nothing for {_SILENCE_S:.0f} s")
    return Unavailable(f"{what}: YouTube cannot be reached ({type(failure).__name__})")
