"""A small web server over a folder, for tests: index pages as several servers write them, WebDAV, and what servers do
otherwise that makes a client's life hard. Read-only.

    with WebServer(tmp_path, pages="nginx") as server: ... server.url ...
    python -m tests.webserver ROOT [PAGES]         prints its port

The pages are written after what Apache (mod_autoindex: plain, pre and table), nginx (html and json), lighttpd, caddy
(html and json), Python's http.server and others send: names cut off, sizes rounded, links to sort by and to parents.
"""

import base64
import hashlib
import html
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from tests.s3server import Request
from tests.standin import READS, Reply, StandIn

_Entry = tuple[str, bool, int, float]  # name, is a folder, size, time


class WebServer(StandIn):
    """The server; what it does is in its attributes, which may be changed at any time."""

    reads = READS | {"PROPFIND"}

    def __init__(self, root: Path | str, *, pages: str = "apache-pre", dav: bool = False, port: int = 0) -> None:
        super().__init__(port)
        self.root = Path(root)
        self.pages = pages
        """Whose index pages: a name of PAGES, or "" for none."""
        self.dav = dav
        self.etags = "strong"
        """Or "weak", or ""."""
        self.tells_time = True
        self.gives_ranges = True
        self.has_head = True
        self.tells_length = True
        """In the answer to HEAD, and to GET without a range."""
        self.packs = ""
        """A Content-Encoding that it puts on everything."""
        self.slash = True
        """Whether it sends from a folder's URL to that with a / behind."""
        self.authorization = ""
        """What must stand in that header."""
        self.moved: dict[str, str] = {}
        """Paths, and the URLs that it sends to instead."""
        self.knows_conditions = True
        self._hashes: dict[str, tuple[tuple[int, int, int], str]] = {}

    def etag(self, path: Path) -> str:
        """As the header has it."""
        facts = path.stat()
        identity = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        known = self._hashes.get(str(path))
        if known is None or known[0] != identity:
            known = (identity, hashlib.md5(repr(identity).encode()).hexdigest())
            self._hashes[str(path)] = known
        return {"strong": f'"{known[1]}"', "weak": f'W/"{known[1]}"'}.get(self.etags, "")

    def answer(self, request: Request) -> Reply:
        if self.authorization and request.headers.get("authorization") != self.authorization:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="data"'}, b"who?")
        if request.path in self.moved:
            return Reply(302, {"Location": self.moved[request.path]})
        if request.method == "HEAD" and not self.has_head:
            return Reply(405)
        name = request.path.removeprefix("/")
        path = self.root / name.rstrip("/")
        try:
            if any(part in (".", "..", "") for part in name.rstrip("/").split("/") if name) or not path.exists():
                return Reply(404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>")
        except (OSError, ValueError):  # a name that is too long, or has a NUL
            return Reply(404)
        if request.method == "PROPFIND":
            return self._propfind(request, path) if self.dav else Reply(405, {"Allow": "GET, HEAD"})
        if path.is_dir():
            if self.slash and not request.path.endswith("/"):
                return Reply(301, {"Location": f"{request.target}/"})
            return self._index(request, path)
        if request.path.endswith("/"):
            return Reply(404)
        return self._file(request, path)

    def _file(self, request: Request, path: Path) -> Reply:
        facts = path.stat()
        etag = self.etag(path)
        modified = formatdate(int(facts.st_mtime), usegmt=True)
        headers = {"Content-Type": "text/html" if path.suffix == ".html" else "application/octet-stream"}
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": modified} if self.tells_time else {}
        headers |= {"Content-Encoding": self.packs} if self.packs else {}
        asked = request.headers
        if self.knows_conditions and (
            asked.get("if-match", etag) != etag or asked.get("if-unmodified-since", modified) != modified
        ):
            return Reply(412)
        with path.open("rb") as file:
            body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if facts.st_size else b""
        return Reply(200, headers, memoryview(body), ranges=self.gives_ranges, length=self.tells_length)

    def _entries(self, folder: Path) -> Iterable[_Entry]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            facts = entry.stat()
            yield entry.name, entry.is_dir(), facts.st_size, facts.st_mtime

    def _index(self, request: Request, folder: Path) -> Reply:
        if not self.pages:
            return Reply(403, {}, b"<h1>Forbidden</h1>")
        kind, page = PAGES[self.pages]
        if self.pages == "caddy" and request.headers.get("accept", "").startswith("application/json"):
            kind, page = PAGES["caddy-json"]
        text = page(request.path, self._entries(folder))
        return Reply(200, {"Content-Type": kind}, text.encode(errors="surrogateescape"))

    # -- WebDAV

    def _propfind(self, request: Request, path: Path) -> Reply:
        assert request.headers["depth"] == "1", "a whole tree is not asked for"
        if path.is_dir() and not request.path.endswith("/"):
            return Reply(301, {"Location": f"{request.target}/"})
        there = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        at = request.path.rstrip("/")
        parts = ['<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">']
        for each in there:
            href = _href(at if each is path else f"{at}/{each.name}") + ("/" if each.is_dir() else "")
            parts.append(f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{self._properties(each)}</D:prop>")
            parts.append("<D:status>HTTP/1.1 200 OK</D:status></D:propstat>")
            parts.append("<D:propstat><D:prop><D:getcontentlength/></D:prop>" if each.is_dir() else "")
            parts.append("<D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>" if each.is_dir() else "")
            parts.append("</D:response>")
        parts.append("</D:multistatus>")
        return Reply(207, {"Content-Type": "application/xml"}, "".join(parts).encode(errors="surrogateescape"))

    def _properties(self, path: Path) -> str:
        if path.is_dir():
            return "<D:resourcetype><D:collection/></D:resourcetype>"
        facts = path.stat()
        etag = f"<D:getetag>{html.escape(self.etag(path))}</D:getetag>" if self.etags else ""
        when = f"<D:getlastmodified>{formatdate(int(facts.st_mtime), usegmt=True)}</D:getlastmodified>"
        return (
            f"<D:resourcetype/><D:getcontentlength>{facts.st_size}</D:getcontentlength>{etag}"
            f"{when if self.tells_time else ''}"
        )


def basic(name: str, password: str) -> str:
    """The header of somebody with a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# -- pages --------------------------------------------------------------------------------------------------------


def _href(name: str) -> str:
    return quote(os.fsencode(name), safe="/")


def _link(name: str, is_folder: bool) -> str:
    return _href(name) + "/" * is_folder


def _cut(name: str, most: int, mark: str) -> str:
    return html.escape(name if len(name) <= most else name[: most - len(mark)] + mark)


def _short(size: int) -> str:
    return f"{size / 1024:.1f}K" if size > 1023 else f"{size}"


def _apache_pre(path: str, entries: Iterable[_Entry]) -> str:
    lines = [
        f"<html><head><title>Index of {html.escape(path)}</title></head><body><h1>Index of {html.escape(path)}</h1>",
        '<pre><img src="/icons/blank.gif" alt="Icon "> <a href="?C=N;O=D">Name</a>  <a href="?C=M;O=A">'
        'Last modified</a>      <a href="?C=S;O=A">Size</a>  <a href="?C=D;O=A">Description</a><hr>',
        '<img src="/icons/back.gif" alt="[PARENTDIR]"> <a href="/">Parent Directory</a>      -',
    ]
    for name, is_folder, size, when in entries:
        shown, slash = _cut(name, 23, "..>"), "/" if is_folder else ""
        moment = time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))
        alt = "[DIR]" if is_folder else "[VID]"
        lines.append(
            f'<img src="/icons/movie.gif" alt="{alt}"> <a href="{_link(name, is_folder)}">{shown}{slash}</a> {moment} '
            f"{'-' if is_folder else _short(size)}"
        )
    return "\n".join(lines) + "\n<hr></pre></body></html>"


def _apache_table(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<tr><td valign="top"><a href="{_link(name, is_folder)}"><img src="/icons/x.gif"></a></td>'
        f'<td><a href="{_link(name, is_folder)}">{_cut(name, 23, "..>")}</a></td>'
        f'<td align="right">{_short(size)}</td></tr>\n'
        for name, is_folder, size, _ in entries
    )
    return (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN"><html><body><table><tr><th><a href="?C=N;O=D">Name</a>'
        f'</th></tr><tr><td><a href="../">Parent Directory</a></td></tr>{rows}</table><address>Apache/2.4 at '
        '<a href="mailto:admin@example.org">us</a></address></body></html>'
    )


def _apache_plain(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<li><a href="{_link(name, is_folder)}"> {html.escape(name)}</a></li>\n' for name, is_folder, *_ in entries
    )
    return f'<html><body><h1>Index</h1><ul><li><a href="/"> Parent Directory</a></li>\n{rows}</ul></body></html>'


def _nginx(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<a href="{_link(name, is_folder)}">{_cut(name, 50, "..>")}</a>  19-May-2026 10:00  {size}\r\n'
        for name, is_folder, size, _ in entries
    )
    return (
        f"<html>\r\n<head><title>Index of {path}</title></head>\r\n<body>\r\n<h1>Index of {path}</h1><hr><pre>"
        f'<a href="../">../</a>\r\n{rows}</pre><hr></body>\r\n</html>\r\n'
    )


def _nginx_json(path: str, entries: Iterable[_Entry]) -> str:
    told = [
        {"name": name, "type": "directory" if is_folder else "file", "mtime": formatdate(int(when), usegmt=True)}
        | ({} if is_folder else {"size": size})
        for name, is_folder, size, when in entries
    ]
    return json.dumps(told)


def _python(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<li><a href="{_link(name, is_folder)}">{html.escape(name)}{"/" if is_folder else ""}</a></li>\n'
        for name, is_folder, *_ in entries
    )
    return f"<!DOCTYPE HTML>\n<html>\n<body>\n<h1>Directory listing</h1>\n<hr>\n<ul>\n{rows}</ul>\n<hr></body></html>"


def _caddy(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<tr class="file"><td><a href="./{_link(name, is_folder)}"><svg></svg><span class="name">'
        f'{html.escape(name)}</span></a></td><td class="size" data-size="{size}">{_short(size)}</td></tr>\n'
        for name, is_folder, size, _ in entries
    )
    crumbs = (
        '<h1><a href="/">/</a><a href="../">up</a></h1><a href="./?sort=name&order=desc">Name</a><a href="#top">top</a>'
    )
    return f"<html><body>{crumbs}<table>{rows}</table><a href='https://caddyserver.com'>Caddy</a></body></html>"


def _caddy_json(path: str, entries: Iterable[_Entry]) -> str:
    told = [
        {
            "name": name + ("/" if is_folder else ""),
            "size": size,
            "url": f"./{_href(name)}",
            "mod_time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + ".123456789Z",
            "mode": 420,
            "is_dir": is_folder,
            "is_symlink": False,
        }
        for name, is_folder, size, when in entries
    ]
    return json.dumps(told)


def _lighttpd(path: str, entries: Iterable[_Entry]) -> str:
    rows = "".join(
        f'<tr class="d"><td class="n"><a href="{_link(name, is_folder)}">{html.escape(name)}</a>/</td>'
        f'<td class="s" data="1">{_short(size)}</td></tr>\n'
        for name, is_folder, size, _ in entries
    )
    return f'<html><body><table><tr class="d"><td class="n"><a href="../">..</a>/</td></tr>{rows}</table></body></html>'


def _links(path: str, entries: Iterable[_Entry]) -> str:
    """Links in full, as pages of a site's own have them, among links to elsewhere."""
    rows = "".join(
        f"<p><A HREF='{html.escape(_href(path + name))}{'/' if is_folder else ''}'>get it</A>"
        for name, is_folder, *_ in entries
    )
    return (
        f"<a href='/'>home</a><a href='//elsewhere.example/{path}x'>x</a><a href='javascript:go()'>js</a>{rows}"
        "<a href='deeper/down/file'>no</a><a href='?page=2'>more</a><a name='top'>here</a><a href=''>self</a>"
        "<a href='%2e%2e/x'>"
    )


PAGES: dict[str, tuple[str, Callable[[str, Iterable[_Entry]], str]]] = {
    "apache-pre": ("text/html;charset=ISO-8859-1", _apache_pre),
    "apache-table": ("text/html;charset=UTF-8", _apache_table),
    "apache-plain": ("text/html", _apache_plain),
    "nginx": ("text/html", _nginx),
    "nginx-json": ("application/json", _nginx_json),
    "python": ("text/html; charset=utf-8", _python),
    "caddy": ("text/html; charset=utf-8", _caddy),
    "caddy-json": ("application/json; charset=utf-8", _caddy_json),
    "lighttpd": ("text/html", _lighttpd),
    "links": ("text/html", _links),
}


def main() -> None:
    """Serves a folder until killed."""
    with WebServer(sys.argv[1], pages=sys.argv[2] if len(sys.argv) > 2 else "apache-pre") as server:
        print(server.port, flush=True)
        server.closing.wait()


if __name__ == "__main__":
    main()
