"""What a web server says of a folder: index pages, in HTML or JSON, and WebDAV's answers to PROPFIND.

Pure functions over bytes that came from somebody else's server: whatever they hold, only names that stand directly in
the folder come out, of no other host and no parent, and nothing that a document refers to is fetched. The source of
http:// calls them. They ask nothing. Any thread may call.

Sizes in HTML are rounded for people and are left alone; those in JSON (nginx with autoindex_format json, caddy) and of
WebDAV are exact.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit
from xml.parsers import expat

from vfs import web

PROPERTIES = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop>'
    b"<resourcetype/><getcontentlength/><getetag/><getlastmodified/></prop></propfind>"
)
"""The body of a PROPFIND that asks for what `multistatus` reads (RFC 4918, section 9.1)."""

_MOST_DEPTH = 100  # of elements within another: a multistatus has six


@dataclass(frozen=True, slots=True)
class Found:
    """A name in a folder. Of a file: its size (None: not told exactly), ETag ("") and time (0) as far as told."""

    name: str
    is_folder: bool
    size_bytes: int | None = None
    mtime_s: int = 0
    etag: str = ""


def index(body: bytes, content_type: str, url: str) -> list[Found]:
    """What an index page of the folder at `url` (where it was had, with a / at its end) names, each name once.

    Raises ValueError for what is no such page.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        found = _of_json(body)
    elif kind in ("text/html", "application/xhtml+xml", ""):
        found = _of_html(body, url)
    else:
        raise ValueError(f"it is {kind}")
    return list({each.name: each for each in found}.values())


def multistatus(body: bytes, url: str) -> tuple[bool, list[Found]]:
    """Whether the resource at `url` is a folder, and what stands in it, as a 207 answer has it (RFC 4918, section 13).

    Raises ValueError for what is none, or has what a multistatus has no need of (a document type, and so entities).
    """
    parser = _Multistatus()
    folder = _Folder(url)
    found: dict[str, Found] = {}
    is_folder = True
    for href, properties in parser.responses(body):
        child = folder.child(href)
        if child is None:
            if folder.is_itself(href):
                is_folder = properties.is_folder
            continue
        size = int(properties.size) if re.fullmatch("[0-9]{1,18}", properties.size) else None
        moment = int(web.moment_s(properties.modified))
        found[child[0]] = Found(child[0], properties.is_folder, size, moment, properties.etag.strip())
    return is_folder, list(found.values())


# -- names in URLs ------------------------------------------------------------------------------------------------


class _Folder:
    """A folder's URL, and what links on its page lead to."""

    def __init__(self, url: str) -> None:
        self._base = urlsplit(url)
        self._steps = _segments(self._base.path)

    def child(self, href: str) -> tuple[str, bool] | None:
        """The name that a link has in the folder, and whether it is written as a folder's; None for one elsewhere."""
        path = self._path_of(href)
        there = _segments(path) if path is not None else []
        if path is None or len(there) != len(self._steps) + 1 or there[:-1] != self._steps:
            return None
        name = there[-1].decode("utf-8", "surrogateescape")
        return None if name in ("", ".", "..") or "/" in name or "\0" in name else (name, path.endswith("/"))

    def is_itself(self, href: str) -> bool:
        """Whether a link leads to the folder."""
        path = self._path_of(href)
        return path is not None and _segments(path) == self._steps

    def _path_of(self, href: str) -> str | None:
        """The path of a link, in full and still encoded; None for one with a query, or of another host."""
        href = href.strip(" \t\r\n\f").partition("#")[0]
        if not href or "?" in href:
            return None
        if not _NAMES_A_HOST.match(href):
            return href if href.startswith("/") else self._base.path.rpartition("/")[0] + "/" + href
        try:
            there = urlsplit(urljoin(self._base.geturl(), href))
        except ValueError:
            return None
        is_here = there.scheme in ("http", "https") and there.hostname == self._base.hostname
        return there.path if is_here else None


_NAMES_A_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")


def _segments(path: str) -> list[bytes]:
    """The steps of a path, decoded each by itself, so that a / within a name stays in it."""
    steps: list[bytes] = []
    for part in path.split("/"):
        if part == "..":
            del steps[-1:]
        elif part not in ("", "."):
            steps.append(unquote_to_bytes(part.encode("utf-8", "surrogateescape")))
    return steps


# -- pages --------------------------------------------------------------------------------------------------------


# Of HTML no more is read than links take, in one pass: html.parser takes hours for a page that was made for that.
_NAME = re.compile(r"/?[A-Za-z][^\s/>]*+")
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?:(?P<end>>)|(?P<name>[^\s/>=]++)(?:\s*+=\s*+(?P<value>"[^"]*+"|'[^']*+'|[^\s>]*+))?|=|(?P<over>\Z))"""
)
# What stands in these is text, whatever it looks like, up to the end tag.
_TEXTS = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "textarea", "title")}


def _tags(text: str) -> Iterator[tuple[str, str]]:
    """Each start tag's name, with the first `href` that it has, "" for none."""
    at = text.find("<")
    while at >= 0:
        at += 1
        if text.startswith("!--", at):
            at = text.find("-->", at + 3)
            if at < 0:
                return
        elif found := _NAME.match(text, at):
            name = found[0].lower()
            at, href = _attributes(text, found.end())
            yield name, href
            if name in _TEXTS:
                end = _TEXTS[name].search(text, at)
                if end is None:
                    return
                at = end.start()
        at = text.find("<", at)


def _attributes(text: str, at: int) -> tuple[int, str]:
    """Where a tag ends whose attributes begin at a place, and its `href`."""
    href = ""
    while (found := _ATTRIBUTE.match(text, at)) is not None:
        at = found.end()
        if found["end"] or found["over"] is not None:
            break
        if not href and (found["name"] or "").lower() == "href":
            value = found["value"] or ""
            href = html.unescape(value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value)
    return at, href


def _of_html(body: bytes, url: str) -> Iterator[Found]:
    # Names are bytes; what a page says of its encoding is not needed to give back the same.
    tags = [tag for tag in _tags(body.decode("utf-8", "surrogateescape")) if tag[1] and tag[0] in ("a", "base")]
    base = next((href for name, href in tags if name == "base"), "")
    folder = _Folder(url)
    for name, href in tags:
        child = folder.child(urljoin(urljoin(url, base), href) if base else href) if name == "a" else None
        if child is not None:
            yield Found(*child)


def _of_json(body: bytes) -> Iterator[Found]:
    try:
        told = json.loads(body.decode("utf-8", "surrogateescape"))
    except RecursionError as failure:
        raise ValueError("it is JSON, with lists in lists without end") from failure
    if not isinstance(told, list):
        raise ValueError("it is JSON, and no list of files")
    for entry in told:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError("it is JSON, and no list of files")
        name = entry["name"].removesuffix("/")  # caddy writes folders so
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            continue
        if entry.get("is_dir") or entry.get("type") == "directory":
            yield Found(name, True)
        elif entry.get("type", "file") == "file" and not entry.get("is_symlink"):
            size = entry.get("size")
            is_size = type(size) is int and 0 <= size < 10**18
            yield Found(name, False, size if is_size else None, _moment_s(entry))
        else:  # a link is followed by the server; what it has there is told by a request
            yield Found(name, False)


def _moment_s(entry: dict[str, Any]) -> int:
    if "mtime" in entry:
        return int(web.moment_s(str(entry["mtime"])))
    try:
        return int(datetime.fromisoformat(str(entry.get("mod_time"))).timestamp())
    except (ValueError, OverflowError):
        return 0


# -- WebDAV -------------------------------------------------------------------------------------------------------


@dataclass
class _Properties:
    is_folder: bool = False
    size: str = ""
    etag: str = ""
    modified: str = ""


class _Multistatus:
    """The responses of a multistatus, read without a tree of it in memory."""

    def __init__(self) -> None:
        self._found: list[tuple[str, _Properties]] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._href = self._status = ""
        self._told, self._all = _Properties(), _Properties()

    def responses(self, body: bytes) -> Iterable[tuple[str, _Properties]]:
        """Each response's href, with the properties that the server has of it."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        try:
            parser.Parse(body, True)
        except expat.ExpatError as failure:
            raise ValueError(f"it is no XML ({expat.ErrorString(failure.code)})") from failure
        except LookupError as failure:
            raise ValueError("it is XML in an encoding that there is not") from failure
        return self._found

    def _refuse(self, *_: object) -> None:
        raise ValueError("it has a document type, which no multistatus has")

    def _start(self, name: str, _: dict[str, str]) -> None:
        if not self._open and name != "DAV: multistatus":
            raise ValueError("it is no multistatus")
        if len(self._open) > _MOST_DEPTH:
            raise ValueError("it has elements in elements without end")
        self._open.append(name)
        self._text.clear()
        if name == "DAV: response":
            self._href, self._all = "", _Properties()
        elif name == "DAV: propstat":
            self._status, self._told = "", _Properties()
        elif name == "DAV: collection" and self._open[-2] == "DAV: resourcetype":
            self._told.is_folder = True

    def _end(self, name: str) -> None:
        self._open.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        parent = self._open[-1] if self._open else ""
        if name == "DAV: href" and parent == "DAV: response":
            self._href = text
        elif name == "DAV: status" and parent == "DAV: propstat":
            self._status = text
        elif parent == "DAV: prop" and name in _PROPERTY:
            setattr(self._told, _PROPERTY[name], text)
        elif name == "DAV: propstat" and re.match(r"(HTTP/\S+ 2\d\d\b|$)", self._status):
            self._all = self._told
        elif name == "DAV: response" and self._href:
            self._found.append((self._href, self._all))


_PROPERTY = {"DAV: getcontentlength": "size", "DAV: getetag": "etag", "DAV: getlastmodified": "modified"}
