"""YouTube's videos as a source: `<id>.mp4` is the whole video, in the one file that YouTube has of it.

It hides where that file is: an address that yt-dlp finds (vfs/ytdlp.py) and that ends after hours, found again when it
does. Nothing is listed, since YouTube has no names of its own; whoever has ids, as a dataset's CSV, asks for them.
Found by its URL, `youtube://`; nothing else in the project leads here.

Finding a video is what YouTube counts. It is done once in so many seconds, whoever asks, and not at all for a while
after YouTube has asked for less; ranges of a file that is found cost it nothing but the bytes.

Any thread may enter. The lock guards what is kept between calls, and is never held while anything is asked for.
"""

import importlib
import importlib.util
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from vfs.errors import AccessDenied, Changed, CorruptData, NotFound, OptionError, SourceError, Throttled, Timeout
from vfs.extent import parse_content_range
from vfs.flight import Flights
from vfs.options import option, option_group
from vfs.sources import Credentials, Listed, ObjectInfo
from vfs.web import File, Web
from vfs.web import mtime_ns as mtime_of

ALONE = "lists nothing by itself: say -o dataset=kinetics,csv=FILES (or ava-kinetics)"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_HEIGHT = 360
_KEY = re.compile(r"([A-Za-z0-9_-]{11})\.mp4")

# Domain, whether for all below it, path, whether for https alone, end in seconds, name and value.
_COOKIE = re.compile(r"(?:#HttpOnly_)?[^#\t]+\t\w+\t[^\t]*\t\w+\t\d*(?:\.\d+)?\t[^\t]*\t[^\t]*|#.*|\s*")
_COOKIES_BEGIN = re.compile(r"#(?: Netscape)? HTTP Cookie File")

# YouTube gives a guest about 300 videos an hour before it refuses them all for up to an hour
# (yt-dlp's wiki, Extractors, "This content isn't available, try again later").
_INTERVAL_S = 12.0
_AT_ONCE = 2  # one that is slow does not hold up the next
# So many can wait for their turn as have it within a reader's patience; others are told at once.
_LONGEST_QUEUE_S = 60.0
_LOCATE_S = 45.0  # four requests, each with its own silence of 10 s
# After a refusal of everything. Asking sooner prolongs it, and an hour would hide that it has ended.
_LEFT_ALONE_S = 300.0

_KEPT = 4096  # addresses, of 2 KiB each
_ENDS_EARLY_S = 60.0  # an address is not begun with in its last minute
_UNSAID_S = 3600.0  # of an address that does not say when it ends


@option_group
class Options:
    """How YouTube's videos are found."""

    height: int = option(
        default=_HEIGHT,
        description="lines of the picture, at most, where YouTube has no format 18 of 360 or fewer",
        form="a whole number from 1 to 4320",
        check=lambda value: 1 <= value <= 4320,
    )
    interval: float = option(
        default=_INTERVAL_S,
        description="seconds from one video that is looked for to the next",
        form="a number from 0 to 3600",
        check=lambda value: 0 <= value <= 3600,
    )
    cookies_file: Path | None = option(
        default=None, description="cookies.txt of an account, for videos that are not for everybody"
    )
    endpoint_url: str = option(default="", description="asked instead of https://www.youtube.com")


def open_source(url: str, options: Options) -> "YouTubeSource":
    """The source. Raises OptionError for a URL with more in it, cookies that cannot be read, and without yt-dlp."""
    if url.rstrip("/").lower() not in ("youtube:", "youtube://"):
        raise OptionError(f"{url!r}: write youtube://, without a video: which ones there are, the dataset says")
    if importlib.util.find_spec("yt_dlp") is None:
        raise OptionError("youtube:// needs yt-dlp, which is not installed: pip install 'egofs[youtube]'")
    _cookies(options)
    return YouTubeSource(options)


def credentials(url: str, options: Options) -> Credentials:
    """Cookies, which open_source has looked at."""
    file = options.cookies_file
    return Credentials("cookies", str(file), file) if file else Credentials("none: as a guest")


def address(url: str, options: Options) -> str:
    """YouTube's, or what stands for it."""
    return options.endpoint_url or "https://www.youtube.com"


def _cookies(options: Options) -> str:
    """The text of the cookies' file. It is read for each video: a browser writes a new one when they change."""
    if options.cookies_file is None:
        return ""
    try:
        text = options.cookies_file.read_text(encoding="utf-8")
        if not _COOKIES_BEGIN.match(text) or not all(map(_COOKIE.fullmatch, text.splitlines())):
            raise ValueError("not in the format of Netscape")  # yt-dlp would show the line on the terminal
        return text
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or "it has no cookies in Netscape's format"
        raise OptionError(f"cookies_file {options.cookies_file}: {reason}: give a browser's cookies.txt") from None


@dataclass(frozen=True)
class _Found:
    """A video's file, as it was found."""

    object: ObjectInfo
    file: File = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    ends: float
    """When its address does, in seconds of the epoch."""


class YouTubeSource:
    """See the module's docstring."""

    remote = True

    def __init__(self, options: Options) -> None:
        self._options = options
        # Videos of another height are others under the same names.
        height = "" if options.height == _HEIGHT else f"?height={options.height}"
        self.url = f"youtube://{options.endpoint_url.partition('://')[2]}{height}"
        # An address serves only the machine that asked for it, by its `ip` parameter.
        self._web = Web(proxied=False)
        self._turns = _Turns(options.interval)
        self._flights: Flights[str, _Found] = Flights()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._found: OrderedDict[str, _Found] = OrderedDict()
        """By key; used last at the end."""
        self._told = False

    def list(self, folder: str) -> Iterator[Listed]:
        """Nothing: YouTube's names are those that are asked for."""
        if folder:
            raise NotFound(f"{folder}: YouTube has no folders")
        yield from ()

    def stat(self, key: str) -> ObjectInfo:
        """The video's file, as it was when its address was found."""
        return self._lookup(key).object

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes; where the address is refused, from the one that is found instead."""
        found = self._same(obj, self._lookup(obj.key))
        what = f"read {obj.key}"
        try:
            return self._web.read(what, found.file, start, length, found.headers)
        except (AccessDenied, NotFound) as failure:
            _log.debug("%s: its address has ended: %s", what, failure)
        found = self._same(obj, self._lookup(obj.key, instead_of=found))
        try:
            return self._web.read(what, found.file, start, length, found.headers)
        except (AccessDenied, NotFound) as failure:
            raise _refused(what) from failure

    def close(self) -> None:
        """Ends connections; who waits for a turn is told so."""
        self._turns.close()
        self._web.close()

    @staticmethod
    def _same(obj: ObjectInfo, found: _Found) -> _Found:
        """Raises Changed unless this version is what was found. An object without a version is any of its size."""
        now = found.object
        if now.size_bytes != obj.size_bytes or (obj.version and now.version != obj.version):
            raise Changed(f"{obj.key}: YouTube has another file of this video now: open it again")
        return found

    def _lookup(self, key: str, instead_of: _Found | None = None) -> _Found:
        """The video, from memory while its address lasts."""
        named = _KEY.fullmatch(key)
        if named is None:
            raise NotFound(f"{key}: YouTube's videos are called <id>.mp4, with an id of 11 characters")
        with self._lock:
            found = self._found.get(key)
            if found is not None and found is not instead_of and time.time() < found.ends:
                self._found.move_to_end(key)
                return found
        flight, mine = self._flights.join(key)
        if not mine:
            return Flights.wait(flight, f"find {key}")
        try:
            found = self._find(key, named[1])
        except BaseException as failure:
            self._flights.crash(key, failure)
            raise
        with self._lock:
            self._found[key] = found
            if len(self._found) > _KEPT:
                self._found.popitem(last=False)
        self._flights.land(key, found)
        return found

    def _find(self, key: str, video: str) -> _Found:
        """The video's file, from YouTube, with its size from whoever has the file."""
        self._tell()
        what = f"find {key}"
        ytdlp = _library()
        settings = ytdlp.Settings(self._options.height, _cookies(self._options), self._options.endpoint_url)
        located = self._turns.take(what, lambda: ytdlp.locate(what, video, settings))
        try:
            # One byte tells the size, and that ranges are served; format 18 often comes without its size.
            answer = self._web.ask(
                "GET", what, located.url, {**located.headers, "Range": "bytes=0-0"}, most_bytes=1 << 16
            )
        except (AccessDenied, NotFound) as failure:
            raise _refused(what) from failure
        try:
            size = parse_content_range(answer.headers.get("content-range", ""))[2]
        except ValueError as failure:
            raise SourceError(f"{what}: the server of its file gives no ranges") from failure
        if size is None:
            raise CorruptData(f"{what}: the server of its file does not say how large it is")
        asked = parse_qs(urlsplit(located.url).query)
        etag = answer.headers.get("etag", "")
        # `lmt` is when YouTube made this file of the video, in microseconds; the URL is signed with it.
        made = asked.get("lmt", [""])[-1] or etag or str(mtime_of(answer.headers))
        ends = asked.get("expire", [""])[-1]
        return _Found(
            ObjectInfo(key, size, located.mtime_ns, f"{located.itag}.{made}"),
            File(located.url, size, etag),
            located.headers,
            float(ends) - _ENDS_EARLY_S if ends.isascii() and ends.isdigit() else time.time() + _UNSAID_S,
        )

    def _tell(self) -> None:
        """Says once what is being used here."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            _log.warning(
                "videos come from YouTube, whose terms (https://www.youtube.com/t/terms) let videos be taken only where"
                " it, or the law, allows that: see to it that you may; it is asked for one in %g s (-o interval=…)",
                self._options.interval,
            )


def _refused(what: str) -> AccessDenied:
    return AccessDenied(
        f"{what}: the address that YouTube has just given is refused: YouTube lets this machine have no videos now, "
        "or wants an account (-o cookies_file=…), or a newer yt-dlp: pip install -U 'egofs[youtube]'"
    )


def _library() -> ModuleType:
    """vfs.ytdlp, which brings yt-dlp."""
    try:
        return importlib.import_module("vfs.ytdlp")
    except ImportError as failure:
        raise OptionError(f"yt-dlp cannot be used ({failure}): pip install -U 'egofs[youtube]'") from failure


class _Turns:
    """When YouTube may be asked for a video: one begins in each interval, and few are under way at once."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._free = threading.Semaphore(_AT_ONCE)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._next = clock()
        self._left_alone_until = clock()

    def take(self, what: str, work: Callable[[], _T]) -> _T:
        """What the work gives, in its turn. Raises what it raises, Throttled while YouTube is left alone, Timeout."""
        wait_s = self._turn(what)
        if self._closed.wait(wait_s):
            raise SourceError(f"{what}: the mount is ending")
        self._check(what)  # those before may have been refused meanwhile
        if not self._free.acquire(timeout=_LOCATE_S):
            raise Timeout(f"{what}: {_AT_ONCE} other videos are being looked for, and take longer than {_LOCATE_S:g} s")
        done: Future[_T] = Future()
        threading.Thread(target=self._work, args=(work, done), name="youtube", daemon=True).start()
        try:
            return done.result(_LOCATE_S)
        except Throttled as failure:
            with self._lock:
                self._left_alone_until = self._clock() + _LEFT_ALONE_S
            failure.retryable = False  # not within a reader's patience
            raise
        except FutureTimeout as failure:
            if done.done():
                raise
            raise Timeout(f"{what}: YouTube has not told where it is for {_LOCATE_S:g} s") from failure

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed.set()

    def _turn(self, what: str) -> float:
        """Seconds until the caller's turn, which is now taken."""
        self._check(what)
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            if turn - now > _LONGEST_QUEUE_S:
                others = round((turn - now) / self._interval_s)
                raise Timeout(
                    f"{what}: {others} others wait, and YouTube is asked for one video in {self._interval_s:g} s "
                    "(-o interval=…): try again later"
                )
            self._next = turn + self._interval_s
            return turn - now

    def _check(self, what: str) -> None:
        with self._lock:
            left_s = self._left_alone_until - self._clock()
        if left_s > 0:
            failure = Throttled(
                f"{what}: YouTube has asked for fewer requests, or a sign-in, and is left alone for {left_s:.0f} s more"
            )
            failure.retryable = False
            raise failure

    def _work(self, work: Callable[[], _T], done: "Future[_T]") -> None:
        """In a thread of its own, which goes on where nobody waits any longer, and holds its place until it ends."""
        try:
            done.set_result(work())
        except BaseException as failure:  # noqa: BLE001  it is raised by who waits
            done.set_exception(failure)
        finally:
            self._free.release()
