"""A stand-in for YouTube on 127.0.0.1: its watch page, its player API, and the servers of its files.

It answers as yt-dlp's own extractor, which runs unchanged against it, expects of the real one: JSON with a playability
status and the formats of a video, whose URLs are signed, end, and say when their file was made. It is not YouTube: what
the real one refuses beyond this (tokens, challenges in JavaScript) is not here.
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit


@dataclass
class Format:
    """One file of a video."""

    itag: int
    data: bytes
    mime: str = 'video/mp4; codecs="avc1.42001E, mp4a.40.2"'
    height: int = 360
    made: int = 1_500_000_000_123_456
    """`lmt`, in microseconds."""
    tells_size: bool = True


@dataclass
class Video:
    """What YouTube has of a video; without formats, what it says instead."""

    formats: list[Format] = field(default_factory=list)
    status: str = "OK"
    reason: str = ""
    subreason: str = ""
    countries: list[str] = field(default_factory=list)
    live: bool = False
    trailer: str = ""
    published: str = "2015-03-04T05:06:07-00:00"


class YouTubeServer:
    """To be entered with `with`. What is asked is in `requests`, as (method, path, query)."""

    def __init__(self, videos: dict[str, Video]) -> None:
        self.videos = videos
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self.lives_s = 6 * 3600.0
        """How long a URL does."""
        self.page_status = 200
        self.player_status = 200
        self.file_status = 200
        self.delay_s = 0.0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._signed = 0
        self._revoked: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "YouTubeServer":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(each == path for _, each, _ in self.requests)

    @property
    def extractions(self) -> int:
        return self.count("/watch")

    def revoke(self) -> None:
        """No URL that was given so far lets anybody in."""
        with self._lock:
            self._revoked = {str(number) for number in range(self._signed + 1)}

    # -- answers

    def page(self, video: str) -> bytes:
        response = json.dumps(self.player(video, with_formats=False))
        data = json.dumps(
            {
                "currentVideoEndpoint": {"watchEndpoint": {"videoId": video}},
                "contents": {"twoColumnWatchNextResults": {}},
            }
        )
        scripts = (
            f"<script>var ytInitialPlayerResponse = {response};</script><script>var ytInitialData = {data};</script>"
        )
        return f"<html><body>{scripts}</body></html>".encode()

    def player(self, video: str, *, with_formats: bool = True) -> dict[str, Any]:
        """The player API's answer for a video."""
        known = self.videos.get(video, Video(status="ERROR", reason="Video unavailable"))
        status: dict[str, Any] = {"status": known.status}
        if known.reason:
            status["reason"] = known.reason
        if known.subreason:
            screen = {"reason": {"simpleText": known.reason}, "subreason": {"simpleText": known.subreason}}
            status["errorScreen"] = {"playerErrorMessageRenderer": screen}
        if known.trailer:
            status["errorScreen"] = {"playerLegacyDesktopYpcTrailerRenderer": {"trailerVideoId": known.trailer}}
        answer: dict[str, Any] = {
            "playabilityStatus": status,
            "videoDetails": {"videoId": video, "title": "A video", "lengthSeconds": "10", "isLive": known.live},
            "microformat": {
                "playerMicroformatRenderer": {"uploadDate": known.published, "availableCountries": known.countries}
            },
        }
        if known.formats and with_formats:
            kinds: dict[str, list[dict[str, Any]]] = {"formats": [], "adaptiveFormats": []}
            for each in known.formats:
                kinds["formats" if "," in each.mime else "adaptiveFormats"].append(self._described(video, each))
            answer["streamingData"] = {"expiresInSeconds": str(int(self.lives_s)), **kinds}
        return answer

    def _described(self, video: str, form: Format) -> dict[str, Any]:
        with self._lock:
            self._signed += 1
            number = self._signed
        signed = {
            "expire": str(int(time.time() + self.lives_s)),
            "id": video,
            "itag": str(form.itag),
            "lmt": str(form.made),
            "ei": str(number),
        }
        url = f"{self.endpoint_url}/videoplayback?" + urlencode({**signed, "sig": _signature(signed)})
        told = {"itag": form.itag, "url": url, "mimeType": form.mime, "height": form.height, "width": 640, "fps": 30}
        told |= {"lastModified": str(form.made), "quality": "medium", "bitrate": 500_000, "approxDurationMs": "10000"}
        return told | ({"contentLength": str(len(form.data))} if form.tells_size else {})

    def file(self, query: dict[str, str], wanted: str) -> tuple[int, dict[str, str], bytes]:
        """A range of a file, for a URL that lets in."""
        signed = {name: value for name, value in query.items() if name != "sig"}
        if (
            query.get("sig") != _signature(signed)
            or float(query["expire"]) < time.time()
            or query["ei"] in self._revoked
        ):
            return 403, {}, b""
        forms = [form for form in self.videos[query["id"]].formats if str(form.itag) == query["itag"]]
        if not forms or str(forms[0].made) != query["lmt"]:
            return 404, {}, b""
        data = forms[0].data
        named = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        if named is None:
            return 200, {}, data
        first, last = int(named[1]), min(int(named[2]), len(data) - 1)
        if first >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


_EMBEDDED = b'<html><script>ytcfg.set({"INNERTUBE_CONTEXT": {"client": {"clientVersion": "1.0"}}});</script></html>'


def _signature(signed: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()


def _handler(server: YouTubeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            with server._lock:
                server.requests.append((self.command, parts.path, query))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.at_once += parts.path == "/watch"
                server.most_at_once = max(server.most_at_once, server.at_once)
            status, headers, data = self.answered(parts.path, query, body)
            with server._lock:
                server.at_once -= parts.path == "/watch"
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def answered(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            if path == "/watch" and self.command == "GET":
                time.sleep(server.delay_s)
                ok = server.page_status == 200
                return server.page_status, {"Content-Type": "text/html"}, server.page(query["v"]) if ok else b""
            if path.startswith("/embed/") and self.command == "GET":
                return 200, {"Content-Type": "text/html"}, _EMBEDDED
            if path == "/youtubei/v1/player" and self.command == "POST":
                if server.player_status != 200:
                    return server.player_status, {}, b""
                answer = server.player(json.loads(body)["videoId"])
                return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
            if path == "/videoplayback" and self.command == "GET":
                if server.file_status != 200:
                    return server.file_status, {}, b""
                return server.file(query, self.headers.get("Range", ""))
            return 404, {}, b""

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
