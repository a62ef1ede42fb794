"""A small S3 over a folder, for tests: ROOT/<bucket>/<key>, addressed by path, read-only.

It answers as S3 does where egofs looks: ListObjectsV2 with pages, HEAD and GET with ranges and If-Match, ETags, error
bodies, regions and access keys. It can be told to fail (`faults`), and remembers every request (`requests`).

    with S3Server(tmp_path) as server: ... server.endpoint_url ...
    python -m tests.s3server ROOT          prints its port; GET /__requests__ gives the requests as JSON lines

Signatures are not checked, only whose and for which region they are. A folder without a file below is not there.
"""

import base64
import hashlib
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.sax.saxutils import escape

from tests import faults
from tests.faults import Body, Fault, Status


@dataclass(frozen=True)
class Request:
    """One request: `path` is decoded and without its query, `range` is the header's value or ""."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    range: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    target: str = field(default="", repr=False)
    """What stood in the request line: signatures are made over that."""


class S3Server:
    """The store, served from a thread between `with` and its end."""

    def __init__(
        self,
        root: Path | str,
        *,
        access_key_id: str | None = None,
        region: str | None = None,
        regions: dict[str, str] | None = None,
        region_answer: int = 400,
        max_keys: int = 1000,
        port: int = 0,
    ) -> None:
        self.root = Path(root)
        self.access_key_id = access_key_id
        """Whose signatures are accepted; everyone's, and none, where None."""
        self.region = region
        """For which region signatures must be made; any where None."""
        self.regions = regions or {}
        """The same of single buckets, by name."""
        self.region_answer = region_answer
        """The status of a request of another region: 400, 301, or 403 without telling the region but to HEAD bucket."""
        self.max_keys = max_keys
        """The most names in a page of a listing."""
        self.clock_s = 0.0
        """How much its clock is ahead of this machine's."""
        self.knows_if_match = True
        """Some stores ignore the header and answer with whatever version is there."""
        self.part_bytes: dict[str, int] = {}
        """By key, of objects that were uploaded in parts: how large each was but the last."""
        self.checksums: dict[str, dict[str, str]] = {}
        """By key, the headers that tell checksums, to those who ask for them."""
        self.requests: list[Request] = []
        self.faults: Callable[[Request], Fault | None] = lambda request: None
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.etags: dict[str, tuple[tuple[int, int, int], str]] = {}
        self.connections: set[socket.socket] = set()
        self._http = faults.Server(("127.0.0.1", port), _Handler)
        self._http.store = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrap(self, tls: ssl.SSLContext) -> None:
        """Speaks HTTPS from now on."""
        self._http.wrap(tls)

    def __enter__(self) -> "S3Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was first
        self._http.server_close()
        assert {each.method for each in self.requests} <= {"GET", "HEAD"}, "something was to be written"

    def etag(self, path: Path) -> str:
        """The object's MD5, computed once for each version of its file."""
        facts = path.stat()
        identity = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        known = self.etags.get(str(path))
        if known is None or known[0] != identity:
            with path.open("rb") as file:
                known = (identity, hashlib.file_digest(file, "md5").hexdigest())
            self.etags[str(path)] = known
        return known[1]


class _Handler(faults.Handler):
    def date_time_string(self, timestamp: float | None = None) -> str:
        """The server's time, for the header Date."""
        ahead_s = getattr(self.server.store, "clock_s", 0.0)  # other stand-ins have no clock of their own
        return formatdate(time.time() + ahead_s if timestamp is None else timestamp, usegmt=True)

    # -- a request --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        store: S3Server = self.server.store
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(url.path), query, headers.get("range", ""), headers, self.path)
        if request.path == "/__requests__":
            lines = [json.dumps({"method": r.method, "path": r.path, "range": r.range}) for r in store.requests]
            return self.send(200, "\n".join(lines).encode(), {"Content-Type": "application/json"})
        store.requests.append(request)
        fault = store.faults(request)
        if self.spoil(fault):
            return None
        if isinstance(fault, Status):
            return self._error(fault.status, fault.code, headers=fault.headers)
        if isinstance(fault, Body):
            return self.send(200, fault.content, {"Content-Type": "application/xml"})
        if request.method not in ("GET", "HEAD"):
            self.close_connection = True  # its body is not read
            return self._error(405, "MethodNotAllowed")
        bucket, _, key = request.path.removeprefix("/").partition("/")
        if self._refuses(request, bucket, key):
            return None
        if not bucket or not (store.root / bucket).is_dir():
            return self._error(404, "NoSuchBucket")
        if key:
            return self._object(request, store.root / bucket, key, fault)
        if request.method == "HEAD":
            return self.send(200, b"", self._region_header(bucket))
        return self._list(request, bucket, fault)

    def _refuses(self, request: Request, bucket: str, key: str) -> bool:
        """Whether the request was refused for its signature's access key or region."""
        store = self.server.store
        signature = re.search(
            r"Credential=([^/,]+)/\d+/([^/,]+)/s3/aws4_request", request.headers.get("authorization", "")
        )
        region, header = store.regions.get(bucket, store.region), self._region_header(bucket)
        if region and signature and signature[2] != region:
            told = {} if store.region_answer == 403 and key else header
            if store.region_answer == 403:
                self._error(403, "AccessDenied", headers=told)
            elif store.region_answer == 301:
                self._error(301, "PermanentRedirect", headers=told)
            else:
                extra = f"<Region>{region}</Region>"
                self._error(400, "AuthorizationHeaderMalformed", extra=extra, headers=told)
            return True
        if store.access_key_id is None or (signature and signature[1] == store.access_key_id):
            return False
        self._error(403, "InvalidAccessKeyId" if signature else "AccessDenied", headers=header)
        return True

    def _region_header(self, bucket: str) -> dict[str, str]:
        store = self.server.store
        return {"x-amz-bucket-region": store.regions.get(bucket, store.region) or "us-east-1"}

    # -- objects ----------------------------------------------------------------------------------------------

    def _object(self, request: Request, bucket: Path, key: str, fault: Fault | None) -> None:
        try:
            self._existing(request, bucket, key, fault)
        except FileNotFoundError:  # deleted just now
            self._error(404, "NoSuchKey")

    def _existing(self, request: Request, bucket: Path, key: str, fault: Fault | None) -> None:
        path = bucket / key
        if any(part in ("", ".", "..") for part in key.split("/")) or not os.path.isfile(path):
            return self._error(404, "NoSuchKey")
        etag = self.server.store.etag(path)
        if self.server.store.knows_if_match and request.headers.get("if-match", f'"{etag}"') != f'"{etag}"':
            return self._error(412, "PreconditionFailed")
        size = path.stat().st_size
        headers = {
            "ETag": f'"{etag}"',
            "Last-Modified": formatdate(int(path.stat().st_mtime), usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        }
        if request.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers |= self.server.store.checksums.get(key, {})
        part = faults.part(request.range, size, fault)
        number, length = int(request.query.get("partNumber", 0)), self.server.store.part_bytes.get(key, size)
        if number and length:
            part = (number - 1) * length, min(size, number * length)
            if part[0] >= size:
                return self._error(416, "InvalidPartNumber")
        start, stop = part or (0, size)
        if part:
            if start == stop:
                return self._error(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if request.method == "HEAD":
            headers["Content-Length"] = str(stop - start)
            return self.send(206 if part else 200, b"", headers, fault)
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        return self.send(206 if part else 200, body, headers, fault)

    # -- listings ---------------------------------------------------------------------------------------------

    def _list(self, request: Request, bucket: str, fault: Fault | None) -> None:
        store, query = self.server.store, request.query
        if query.get("list-type") != "2":
            return self._error(501, "NotImplemented")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        if delimiter not in ("", "/"):
            return self._error(501, "NotImplemented")
        page = min(int(query.get("max-keys", "1000")), store.max_keys)
        after = query.get("start-after", "")
        if "continuation-token" in query:
            after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
        found = sorted(
            (name for name in _names(store.root / bucket, prefix, delimiter) if name.encode() > after.encode()),
            key=str.encode,
        )
        shown, more = found[:page], len(found) > page
        urlencoded = query.get("encoding-type") == "url"

        def text(value: str) -> str:
            return escape(quote_plus(value, safe="/") if urlencoded else value)

        parts = [
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
            f"<Name>{bucket}</Name><Prefix>{text(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>",
            f"<MaxKeys>{page}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>",
        ]
        if delimiter:
            parts.append(f"<Delimiter>{delimiter}</Delimiter>")
        if urlencoded:
            parts.append("<EncodingType>url</EncodingType>")
        if more:
            token = base64.urlsafe_b64encode(shown[-1].encode()).decode()
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for name in shown:
            if name.endswith("/"):
                parts.append(f"<CommonPrefixes><Prefix>{text(name)}</Prefix></CommonPrefixes>")
                continue
            path = store.root / bucket / name
            try:
                facts, etag = path.stat(), store.etag(path)
            except FileNotFoundError:  # deleted just now
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(int(facts.st_mtime)))
            parts.append(
                f"<Contents><Key>{text(name)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>&quot;{etag}&quot;</ETag><Size>{facts.st_size}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        parts.append("</ListBucketResult>")
        headers = {"Content-Type": "application/xml", **self._region_header(bucket)}
        return self.send(200, "".join(parts).encode(), headers, fault)

    # -- answers ----------------------------------------------------------------------------------------------

    def _error(self, status: int, code: str, *, extra: str = "", headers: dict[str, str] | None = None) -> None:
        message = HTTPStatus(status).phrase
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{extra}'
            "<RequestId>0</RequestId><HostId>0</HostId></Error>"
        ).encode()
        self.send(status, body, {"Content-Type": "application/xml", **(headers or {})})


def _names(bucket: Path, prefix: str, delimiter: str) -> Iterator[str]:
    """The keys with a prefix, and with a delimiter the folders that stand for those further below, ending in /."""
    folder = prefix.rpartition("/")[0]
    if any(part in ("", ".", "..") for part in folder.split("/")) and folder:
        return
    top = bucket / folder if folder else bucket
    if not top.is_dir():
        return
    with os.scandir(top) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_file() and name.startswith(prefix):
                yield name
            elif entry.is_dir() and f"{name}/".startswith(prefix if delimiter else prefix[: len(name) + 1]):
                if not delimiter:
                    yield from (below for below in _names(bucket, f"{name}/", "") if below.startswith(prefix))
                elif any(True for _ in _names(bucket, f"{name}/", "")):
                    yield f"{name}/"


def main() -> None:
    """Serves a folder until killed."""
    with S3Server(sys.argv[1]) as server:
        print(server.port, flush=True)
        server.closing.wait()


if __name__ == "__main__":
    main()
