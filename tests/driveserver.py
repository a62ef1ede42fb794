"""A small Google Drive for tests: version 2 of its API, and the endpoints that give tokens. Read-only.

It answers as Google's documents say where egofs looks: files.list with `q`, pages and `fields`, files.get, alt=media
with ranges, about.get; refresh tokens, authorization codes and service accounts; errors with their reasons. It can be
told to fail (`faults`), to show folders no longer (`hidden`), and to leave out what stands in some folders where
several are asked for (`left_out`), as Drive sometimes does. It remembers every request (`requests`).

    with DriveServer() as server: id = server.file("a.mp4", b"…"); server.write_credentials(tmp_path / CREDENTIALS)

An answer with a file's bytes has no ETag and nothing else of its version, as nothing of the kind is documented.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import drivequery, faults
from tests.faults import Body
from tests.googletokens import Refuse, Refused, TokenGiver

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
DOCUMENT = "application/vnd.google-apps.document"
_PERSON = {"user": {"displayName": "Test Person", "emailAddress": "person@example.org"}}
_BEGINNING = datetime(2021, 2, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Request:
    """One request. `kind` is list, get, media, about, token, or the method and path of anything else."""

    kind: str
    method: str
    path: str
    query: dict[str, str]
    range: str = ""
    form: dict[str, str] = field(default_factory=dict, repr=False)
    authorization: str = field(default="", repr=False)


Fault = Refuse | faults.Fault


@dataclass
class Stored:
    """What the Drive has under an id."""

    id: str
    title: str
    mime: str
    parents: list[str]
    created: datetime
    data: bytes | None = None
    revision: int = 1
    modified: datetime = _BEGINNING
    drive: str = ""
    target: str = ""
    trashed: bool = False
    has_md5: bool = True
    has_revision: bool = True


class DriveServer(TokenGiver):
    """The Drive, served from a thread between `with` and its end."""

    def __init__(self, *, most_results: int = 1000, lifetime_s: float = 3600.0) -> None:
        super().__init__(lifetime_s)
        self.most_results = most_results
        """The most items in a page."""
        self.items: dict[str, Stored] = {}
        self.hidden: set[str] = set()
        """Files, and folders with all below, that the account may not see."""
        self.left_out: set[str] = set()
        """Folders of which nothing is told in an answer about several."""
        self.empty_pages = False
        """Each listing begins with a page without items, as documented."""
        self.redirects = False
        """Bytes come from another address of this host."""
        self.requests: list[Request] = []
        self.faults: Callable[[Request], Fault | None] = lambda request: None
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.lock = threading.Lock()
        self._children: dict[str, list[str]] = {}
        self._now = _BEGINNING
        self._http = faults.Server(("127.0.0.1", 0), _Handler)
        self._http.store = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self.root = self.add("root", FOLDER, [])

    @property
    def url(self) -> str:  # type: ignore[override]
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def endpoint_url(self) -> str:
        return f"{self.url}/drive/v2"

    def __enter__(self) -> "DriveServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was first
        self._http.server_close()

    def count(self, kind: str) -> int:
        """How many requests of a kind there were."""
        return sum(request.kind == kind for request in self.requests)

    # -- what it holds

    def add(self, title: str, mime: str, parents: list[str], **more: Any) -> str:
        """Anything; gives its id, which has 33 characters as Google's have."""
        with self._lock:
            self._now += timedelta(seconds=1)
            identity = more.pop("id", None)
            if identity is None:
                digest = hashlib.sha256(f"{title}{len(self.items)}".encode()).digest()
                identity = "1" + base64.urlsafe_b64encode(digest).decode()[:32]
            item = Stored(identity, title, mime, parents, more.pop("created", self._now), modified=self._now, **more)
            if parents and not item.drive:
                item.drive = self.items[parents[0]].drive
            self.items[identity] = item
            for parent in parents:
                self._children.setdefault(parent, []).append(identity)
            return identity

    def folder(self, title: str, parent: str | None = None, **more: Any) -> str:
        return self.add(title, FOLDER, [parent or self.root], **more)

    def file(self, title: str, data: bytes, parent: str | None = None, **more: Any) -> str:
        return self.add(title, more.pop("mime", "video/mp4"), [parent or self.root], data=data, **more)

    def shortcut(self, title: str, target: str, parent: str | None = None, **more: Any) -> str:
        return self.add(title, SHORTCUT, [parent or self.root], target=target, **more)

    def replace(self, identity: str, data: bytes) -> None:
        """Another revision of a file."""
        with self._lock:
            self._now += timedelta(seconds=1)
            item = self.items[identity]
            item.data, item.revision, item.modified = data, item.revision + 1, self._now

    def remove(self, identity: str) -> None:
        with self._lock:
            item = self.items.pop(identity)
            for parent in item.parents:
                self._children[parent].remove(identity)

    def put(self, path: str, data: bytes) -> str:
        """A file at a path below the root, new or in another revision."""
        *folders, name = path.split("/")
        above = self.root
        for each in folders:
            above = self._named(above, each) or self.folder(each, above)
        identity = self._named(above, name)
        if identity is None:
            return self.file(name, data, above)
        self.replace(identity, data)
        return identity

    def find(self, path: str) -> str:
        """The id of what stands at a path."""
        above: str | None = self.root
        for each in path.split("/"):
            above = self._named(above, each) if above else None
        assert above is not None, path
        return above

    def _named(self, folder: str, title: str) -> str | None:
        return next((each for each in self._children.get(folder, ()) if self.items[each].title == title), None)

    # -- answers

    def answer(self, request: Request) -> dict[str, Any] | bytes:
        """The answer as JSON, or a file. Raises Refused."""
        if request.kind == "token":
            return self.given(request.form)
        if request.method != "GET":
            raise Refused(Refuse(403, "insufficientPermissions"))
        self.admit(request.authorization)
        if request.kind == "about":
            return drivequery.pick(_PERSON, request.query.get("fields", ""))
        if request.kind == "list":
            return self._list(request)
        item = self._visible(request.path.rpartition("/")[2], request.query.get("supportsAllDrives") == "true")
        if request.kind == "get":
            return drivequery.pick(self._resource(item), request.query.get("fields", ""))
        if item.data is None:
            raise Refused(Refuse(403, "fileNotDownloadable"))
        return item.data

    def _visible(self, identity: str, all_drives: bool) -> Stored:
        item = self.items.get(identity)
        if item is None or self._is_hidden(item) or (item.drive and not all_drives):
            raise Refused(Refuse(404, "notFound"))
        return item

    def _is_hidden(self, item: Stored) -> bool:
        return item.id in self.hidden or any(
            parent not in self.items or self._is_hidden(self.items[parent]) for parent in item.parents
        )

    def _is_trashed(self, item: Stored) -> bool:
        return item.trashed or any(self._is_trashed(self.items[parent]) for parent in item.parents)

    def _list(self, request: Request) -> dict[str, Any]:
        query = request.query
        all_drives = query.get("supportsAllDrives") == query.get("includeItemsFromAllDrives") == "true"
        if (query.get("corpora") == "drive") != ("driveId" in query) or ("driveId" in query and not all_drives):
            raise Refused(Refuse(400, "invalid"))
        if len(request.query.get("q", "")) > 10_000:
            raise Refused(Refuse(400, "invalid"))
        try:
            matches, parents = drivequery.parse(query.get("q", ""))
        except drivequery.NotUnderstood as failure:
            raise Refused(Refuse(400, "invalid")) from failure
        for parent in parents:
            self._visible(parent, all_drives)
        found = []
        for each in dict.fromkeys(child for parent in parents for child in self._children.get(parent, ())):
            item = self.items[each]
            above = [p for p in item.parents if len(parents) == 1 or p not in self.left_out]
            facts = {"parents": above, "trashed": self._is_trashed(item), "title": item.title, "mimeType": item.mime}
            if not self._is_hidden(item) and matches(facts) and item.drive == query.get("driveId", item.drive):
                found.append(item)
        return self._paged(found, query)

    def _paged(self, found: list[Stored], query: dict[str, str]) -> dict[str, Any]:
        count = min(int(query.get("maxResults", "100")), self.most_results, 1000)
        token = query.get("pageToken", "")
        if token and not re.fullmatch(r"~!!~\d+", token):
            raise Refused(Refuse(400, "invalid"))
        start = int(token.removeprefix("~!!~") or "0")
        if self.empty_pages and not token:
            count = 0
        told: dict[str, Any] = {"kind": "drive#fileList", "incompleteSearch": False}
        told["items"] = [self._resource(item) for item in found[start : start + count]]
        if start + count < len(found) or (self.empty_pages and not token):
            told["nextPageToken"] = f"~!!~{start + count}"
        return drivequery.pick(told, query.get("fields", ""))

    def _resource(self, item: Stored) -> dict[str, Any]:
        told: dict[str, Any] = {
            "kind": "drive#file",
            "id": item.id,
            "etag": f'"{item.id[:8]}/{item.revision}"',
            "title": item.title,
            "mimeType": item.mime,
            "labels": {"trashed": self._is_trashed(item), "starred": False},
            "createdDate": _rfc3339(item.created),
            "modifiedDate": _rfc3339(item.modified),
            "version": str(item.revision * 7),
            "parents": [{"kind": "drive#parentReference", "id": parent, "isRoot": False} for parent in item.parents],
        }
        if item.drive:
            told["driveId"] = item.drive
        if item.data is not None:
            told["fileSize"] = str(len(item.data))
            if item.has_md5:
                told["md5Checksum"] = hashlib.md5(item.data).hexdigest()
            if item.has_revision:
                told["headRevisionId"] = f"0B{item.id[:6]}{item.revision}"
        if item.mime == DOCUMENT:
            told["fileSize"] = "1024"  # documents have had one since 2021
        if item.target:
            mime = self.items[item.target].mime if item.target in self.items else "video/mp4"
            told["shortcutDetails"] = {"targetId": item.target, "targetMimeType": mime}
        return told


class _Handler(faults.Handler):
    wbufsize = -1

    def serve(self) -> None:
        store: DriveServer = self.server.store
        request = self._request()
        store.requests.append(request)
        fault = store.faults(request)
        if self.spoil(fault):
            return
        try:
            if isinstance(fault, Refuse):
                raise Refused(fault)
            if isinstance(fault, Body):
                self.send(200, fault.content, {})
                return
            if store.redirects and request.kind == "media" and request.path.startswith("/drive/"):
                self.send(307, b"", {"Location": f"/download{self.path}"})
                return
            with store._lock:
                answer = store.answer(request)
        except Refused as refused:
            self._refuse(refused.refuse)
            return
        if isinstance(answer, bytes):
            self._send_range(answer, request.range, fault)
        else:
            self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json; charset=UTF-8"}, fault)

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        path = parts.path.removeprefix("/download")
        kind = f"{self.command} {parts.path}"
        if (self.command, path) == ("POST", "/token"):
            kind = "token"
        elif self.command == "GET" and path in ("/drive/v2/about", "/drive/v2/files"):
            kind = "about" if path.endswith("about") else "list"
        elif self.command == "GET" and re.fullmatch(r"/drive/v2/files/[\w-]+", path):
            kind = "media" if query.get("alt") == "media" else "get"
        headers = self.headers
        return Request(
            kind, self.command, parts.path, query, headers.get("Range", ""), form, headers.get("Authorization", "")
        )

    def _send_range(self, data: bytes, asked: str, fault: Fault | None) -> None:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        part = faults.part(asked, len(data), fault)
        if part is None:
            self.send(200, data, headers, fault)
            return
        start, stop = part
        if start == stop:
            self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        self.send(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, fault)

    def _refuse(self, refuse: Refuse) -> None:
        told: dict[str, Any]
        if refuse.domain == "token":
            told = {"error": refuse.reason, "error_description": "Token has been expired or revoked."}
        else:
            detail = {"domain": refuse.domain, "reason": refuse.reason, "message": f"({refuse.reason})"}
            told = {"error": {"errors": [detail], "code": refuse.status, "message": detail["message"]}}
        self.send(refuse.status, json.dumps(told).encode(), {"Content-Type": "application/json", **refuse.headers})


def _rfc3339(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"
