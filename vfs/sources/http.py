"""Any web server that gives ranges, as a source: folders by its index pages, by WebDAV, or by a list of files.

It hides how a folder is known. With `manifest` the tree is what that list of files says (vfs/filelist.py). Otherwise
the first folder is asked for with PROPFIND, and if the server does not answer that, all folders are read from index
pages (vfs/weblisting.py). A URL without a / at its end may be one file, which is then all there is.

Found by its URL, https://HOST/PATH or http://. A file's version is its strong ETag; else the weak one with its time,
else its time (Last-Modified); a server that tells neither has files known by their sizes alone. A range is asked for of
that version (If-Match, If-Unmodified-Since), and what the answer says of it is compared again (vfs/web.py).

Only GET, HEAD and PROPFIND are sent. It does not retry. Any thread may enter.
"""

import base64
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from vfs import filelist, web, weblisting
from vfs.digests import Checksum
from vfs.errors import AccessDenied, CorruptData, EgofsError, NotFound, OptionError, SourceError
from vfs.extent import parse_content_range
from vfs.flight import Flights
from vfs.options import option, option_group, whole_path
from vfs.sources import UNKNOWN_SIZE, Credentials, Listed, ObjectInfo, token_in
from vfs.tokenfile import NetrcFile, TokenFile

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ROOT = re.compile(r"https?://[^/\s?#@]+(/[^?#]*)?", re.IGNORECASE)
# A list of files that stands on a server is looked at again after so long, when folders are listed.
_LIST_AGE_S = 60.0
# What servers answer to a method that they do not have, or do not want to be asked with: an address that is signed for
# GET refuses HEAD with 403.
_NO_HEAD = {400, 401, 403, 405, 501}
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_ACCEPT = "application/json, text/html;q=0.9, */*;q=0.1"  # caddy then gives sizes
_BY_TIME = "modified "  # begins the version of a file that has no ETag


def _local_or_not(text: str) -> str:
    """A manifest's file by its whole path, now that the working directory is that of who typed it."""
    return str(whole_path(text)) if text.startswith(("~", "./", "../")) else text


@option_group
class Options:
    """The mount options of a web server."""

    listing: Literal["auto", "index", "webdav", "manifest"] = option(
        default="auto", description="how folders are known: from index pages, WebDAV or a manifest; auto finds out"
    )
    manifest: str = option(
        default="",
        description="list of files: a URL, a path below the mounted URL, or a local file (with / ~ or ./ in front)",
        parse=_local_or_not,
    )
    token_file: Path | None = option(
        default=None, description="file with a token, which the server is sent as Authorization: Bearer"
    )
    netrc: Path | None = option(default=None, description="file with names and passwords by host, as netrc(5) has it")


def open_source(url: str, options: Options) -> "HttpSource":
    """A web server's folder, or file, as a source. Sends nothing yet. Raises OptionError."""
    _refuse_password(url)
    if not _ROOT.fullmatch(url):
        raise OptionError(f"{url.partition('?')[0]!r} is no folder's URL: write https://HOST/PATH, without ? and #")
    try:
        where = web.origin(urlsplit(url))
    except ValueError as failure:
        raise OptionError(f"{url!r} is no URL: {failure}") from failure
    if options.listing == "manifest" and not options.manifest:
        raise OptionError("listing=manifest needs to know which: manifest=URL, or manifest=/LOCAL/FILE")
    if options.manifest and options.listing not in ("auto", "manifest"):
        raise OptionError(f"listing={options.listing} and manifest: give one: what is there, or what a list names")
    _refuse_password(options.manifest)
    return HttpSource(url, where, options)


def credentials(url: str, options: Options) -> Credentials:
    """The token, or the name and password, that the server would be sent."""
    if options.token_file is not None:
        return token_in(options.token_file)
    if options.netrc is None:
        return Credentials("none: as anybody")
    try:
        known = NetrcFile(options.netrc).read(urlsplit(url).hostname or "")
    except AccessDenied as failure:
        return Credentials("a password", missing=str(failure))
    what = "a password" if known else "none: the file has none for this server"
    return Credentials(what, str(options.netrc), options.netrc)


def address(url: str, options: Options) -> str:
    """The server itself."""
    return url


def _refuse_password(url: str) -> None:
    if re.match(r"https?://[^/?#]*@", url, re.IGNORECASE):
        raise OptionError("a name and password in a URL are seen by everyone: give netrc=FILE, or token_file=FILE")


class HttpSource:
    """What stands below a URL; see the module's docstring."""

    remote = True

    def __init__(self, url: str, where: tuple[str, str | None, int | None], options: Options) -> None:
        parts = urlsplit(url)
        path = quote(parts.path, safe="/%~!$&'()*+,;=:@")
        self._origin = where
        self._root = f"{parts.scheme.lower()}://{parts.netloc.lower()}{path.rstrip('/')}"
        self._may_be_file = bool(path) and not path.endswith("/")
        self._is_file: bool | None = None if self._may_be_file and not options.manifest else False
        # What a list says of a path has nothing to do with what stands there, nor with what another list says.
        listed = hashlib.sha256(options.manifest.encode(errors="surrogateescape")).hexdigest()[:16]
        self.url = f"{self._root}?manifest={listed}" if options.manifest else self._root
        self._options = options
        self._is_dav: bool | None = {"webdav": True, "index": False}.get(options.listing)
        self._token = TokenFile(options.token_file) if options.token_file else None
        self._netrc = NetrcFile(options.netrc) if options.netrc else None
        self._web = web.Web(self._judge)
        self._list: tuple[object, filelist.FileList] | None = None  # replaced as a whole
        self._reading: Flights[str, filelist.FileList] = Flights()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder, from one request. Sizes that are not told are UNKNOWN_SIZE."""
        what = f"list {self._root}/{folder}".rstrip("/")
        prefix = f"{folder}/" if folder else ""
        if self._options.manifest:
            yield from self._of_manifest(what, folder)
        elif self._is_one_file(what):
            yield from self._alone(what, folder)
        else:
            for found in self._found(what, self._url_of(what, folder) + "/"):
                yield Listed(found.name, "dir") if found.is_folder else _listed(prefix, found)

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from one HEAD, or where the server does not want to be asked so, one byte of it."""
        what = f"stat {self._root}/{key}"
        url, row = self._where(what, key)
        size, headers = self._size_and_headers(what, url)
        mtime_ns = web.mtime_ns(headers)
        version = version_of(headers.get("etag", ""), mtime_ns // 1_000_000_000)
        if row is not None:
            mtime_ns = row.mtime_ns or mtime_ns
            if row.size_bytes in (None, size) and _is_content(row.version):
                version = row.version
        return ObjectInfo(key, size, mtime_ns, version)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes, from one GET for this version only, where the server tells versions."""
        what = f"read {length} bytes at {start} of {self._root}/{obj.key}"
        url, _ = self._where(what, obj.key)
        etag, mtime_s = told_by(obj.version)
        file = web.File(url, obj.size_bytes, etag, mtime_s * 1_000_000_000)
        return self._web.read(what, file, start, length, self._credentials(url))

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """What a list of files told of the bytes."""
        algorithm, _, digest = obj.version.partition(":")
        is_one = re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", obj.version)
        return Checksum(algorithm, bytes.fromhex(digest)) if is_one else None

    def close(self) -> None:
        """Ends the connections."""
        self._web.close()

    # -- where things are

    def _where(self, what: str, key: str) -> tuple[str, filelist.Row | None]:
        """The URL of a key, and what a list says of it. Raises NotFound."""
        if self._options.manifest:
            row = self._files(what).get(key)
            if row is None:
                raise NotFound(f"{what}: the manifest has no such file")
            return row.url, row
        if self._is_one_file(what):
            if key != self._name:
                raise NotFound(f"{what}: there is one file, {self._name!r}")
            return self._root, None
        if not key:
            raise NotFound(f"{what}: it is a folder")
        return self._url_of(what, key), None

    def _url_of(self, what: str, key: str) -> str:
        if not key:
            return self._root
        if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
            raise NotFound(f"{what}: no URL has that name")
        return f"{self._root}/{quote(key.encode('utf-8', 'surrogateescape'), safe='/')}"

    @property
    def _name(self) -> str:
        return unquote(self._root.rpartition("/")[2], errors="surrogateescape")

    def _is_one_file(self, what: str) -> bool:
        """Whether the root is a file: its server says so by not leading to it with a / behind, where folders are."""
        if self._is_file is None:
            answer = self._ask("HEAD", what, self._root, refused=True)
            if answer.status in _TRANSIENT or answer.status == 404:
                raise self._web.failure(what, answer)
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            is_folder = urlsplit(answer.url).path.endswith("/") or answer.status >= 400
            if not is_folder and kind in ("text/html", "application/json", "httpd/unix-directory"):
                # Not every server sends on to where its pages are.
                is_folder = self._ask("HEAD", what, self._root + "/", refused=True).status < 400
            self._is_file = not is_folder
        return self._is_file

    def _alone(self, what: str, folder: str) -> Iterator[Listed]:
        if folder:
            raise NotFound(f"{what}: there is one file, {self._name!r}")
        yield Listed(self._name, "file", self.stat(self._name))

    # -- folders

    def _found(self, what: str, url: str) -> Sequence[weblisting.Found]:
        if self._is_dav is not False:
            answer = self._ask(
                "PROPFIND",
                what,
                url,
                {"Depth": "1", "Content-Type": "application/xml"},
                body=weblisting.PROPERTIES,
                refused=True,
            )
            if answer.status == 207:
                is_folder, found = self._parsed(what, lambda: weblisting.multistatus(answer.body, answer.url))
                self._is_dav = True
                if not is_folder:
                    raise NotFound(f"{what}: it is no folder")
                return found
            if self._is_dav or answer.status in _TRANSIENT:
                raise self._no_dav(what, answer)
            self._is_dav = False
        page = self._ask("GET", what, url, {"Accept": _ACCEPT})
        kind = page.headers.get("content-type", "")
        return self._parsed(what, lambda: weblisting.index(page.body, kind, page.url))

    def _no_dav(self, what: str, answer: web.Answer) -> EgofsError:
        if answer.status >= 400 and answer.status not in (405, 501):
            return self._web.failure(what, answer)
        return SourceError(f"{what}: the server does not speak WebDAV here ({answer.status}): give listing=index")

    @staticmethod
    def _parsed(what: str, parse: Callable[[], _T]) -> _T:
        try:
            return parse()
        except ValueError as failure:
            raise SourceError(
                f"{what}: what came is no listing of a folder ({failure}): give manifest=, a list of its files"
            ) from failure

    # -- a list of files

    def _of_manifest(self, what: str, folder: str) -> Iterator[Listed]:
        prefix = f"{folder}/" if folder else ""
        is_empty = bool(folder)
        for name, row in self._files(what, look_again=True).entries(folder):
            is_empty = False
            if row is None:
                yield Listed(name, "dir")
            else:
                size = UNKNOWN_SIZE if row.size_bytes is None else row.size_bytes
                version = "" if row.size_bytes is None else row.version
                yield Listed(name, "file", ObjectInfo(prefix + name, size, row.mtime_ns, version))
        if is_empty:
            raise NotFound(f"{what}: the manifest has no such folder")

    def _files(self, what: str, *, look_again: bool = False) -> filelist.FileList:
        """The list, read again where it has changed; a list on a server is looked at again only when asked to."""
        known = self._list
        is_local = self._options.manifest.startswith("/")
        if known is not None and not is_local:
            age_s = time.monotonic() - known[0] if isinstance(known[0], float) else 0.0
            if not look_again or age_s < _LIST_AGE_S:
                return known[1]
        version = self._local_version() if is_local else time.monotonic()
        if known is not None and known[0] == version:
            return known[1]
        flight, mine = self._reading.join("")
        if not mine:
            return Flights.wait(flight, "the manifest")
        try:
            files = self._read_list()
            self._list = version, files
        except BaseException as failure:
            self._reading.crash("", failure)
            raise
        self._reading.land("", files)
        return files

    def renew(self) -> None:
        """Reads the list of files anew."""
        self._list = None

    def _local_version(self) -> tuple[int, int, int]:
        try:
            facts = Path(self._options.manifest).stat()
        except OSError as failure:
            raise SourceError(f"manifest {self._options.manifest}: {failure.strerror}") from failure
        return facts.st_mtime_ns, facts.st_size, facts.st_ino

    def _read_list(self) -> filelist.FileList:
        named = self._options.manifest
        root = f"{self._root}/"
        if named.startswith("/"):
            what, base = f"manifest {named}", root
            try:
                with Path(named).open("rb") as file:
                    content = file.read(filelist.MOST_BYTES + 1)
            except OSError as failure:
                raise SourceError(f"{what}: {failure.strerror}") from failure
        else:
            base = named if re.match(r"https?://", named, re.IGNORECASE) else urljoin(root, quote(named, safe="/%"))
            what = f"manifest {base.partition('?')[0]}"
            content = self._ask("GET", what, base, most_bytes=filelist.MOST_BYTES).body
        if len(content) > filelist.MOST_BYTES:
            raise SourceError(f"{what}: it has more than {filelist.MOST_BYTES >> 20} MiB, which is too much for a list")
        try:
            files = filelist.FileList(content, root=root, base=base)
        except ValueError as failure:
            raise SourceError(f"{what}: it cannot be read: {failure}") from failure
        if files.left_out_count:
            _log.warning("%s: %d rows are left out: %s", what, files.left_out_count, "; ".join(files.left_out))
        return files

    # -- asking

    def _ask(
        self,
        method: str,
        what: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        most_bytes: int = web.MOST_BYTES,
        refused: bool = False,
        take: bool = True,
    ) -> web.Answer:
        sent = {**self._credentials(url), **(headers or {})}
        return self._web.ask(method, what, url, sent, body=body, most_bytes=most_bytes, refused=refused, take=take)

    def _size_and_headers(self, what: str, url: str) -> tuple[int, Mapping[str, str]]:
        """How large a file is, and what else its server says of it. Raises NotFound for a folder too."""
        answer = self._ask("HEAD", what, url, refused=True)
        if answer.status >= 400 and answer.status not in _NO_HEAD:
            raise self._web.failure(what, answer)
        size = web.length(answer)
        if answer.status >= 400 or size is None:
            answer = self._ask("GET", what, url, {"Range": "bytes=0-0"}, refused=True, take=False)
            size = self._size_of_range(what, answer)
        if urlsplit(answer.url).path.endswith("/") and not urlsplit(url).path.endswith("/"):
            raise NotFound(f"{what}: it is a folder")
        return size, answer.headers

    def _size_of_range(self, what: str, answer: web.Answer) -> int:
        """The size of the file of which one byte was asked for."""
        told = answer.headers.get("content-range", "")
        if answer.status == 416 and (match := re.fullmatch(r"bytes \*/(\d+)", told.strip())):
            return int(match[1])  # an empty file has no byte to give
        if answer.status >= 400:
            raise self._web.failure(what, answer)
        try:
            size = parse_content_range(told)[2] if answer.status == 206 else web.length(answer)
        except ValueError as failure:
            raise CorruptData(f"{what}: {failure}") from failure
        if size is None:
            raise SourceError(f"{what}: the server does not tell its size: it makes the file for each who asks")
        return size

    def _credentials(self, url: str) -> dict[str, str]:
        """What lets one in at a URL, where anything does: a token goes to the mounted server alone."""
        where = urlsplit(url)
        if self._token is not None and web.origin(where) == self._origin:
            return {"Authorization": f"Bearer {self._token.read()}"}
        if self._netrc is not None and (known := self._netrc.read(where.hostname or "")):
            return {"Authorization": "Basic " + base64.b64encode(":".join(known).encode()).decode("ascii")}
        return {}

    def _judge(self, what: str, answer: web.Answer) -> EgofsError | None:
        if answer.status == 401:
            file = self._options.token_file or self._options.netrc
            remedy = f"{file} does not let one in" if file else "give token_file=FILE or netrc=FILE"
            return AccessDenied(f"{what}: the server wants to know who asks (401): {remedy}")
        return None


def _listed(prefix: str, found: weblisting.Found) -> Listed:
    """A file of a listing. Without a size nothing that is told of it counts: it is asked for."""
    key = prefix + found.name
    if found.size_bytes is None:
        return Listed(found.name, "file", ObjectInfo(key, UNKNOWN_SIZE, found.mtime_s * 1_000_000_000, ""))
    version = version_of(found.etag, found.mtime_s)
    return Listed(found.name, "file", ObjectInfo(key, found.size_bytes, found.mtime_s * 1_000_000_000, version))


def version_of(etag: str, mtime_s: int) -> str:
    """A version from what a server tells: a weak ETag may stay when bytes change, so the time goes with it."""
    if not re.fullmatch(r'(W/)?"[\x21\x23-\x7e]*"', etag):  # RFC 9110, section 8.8.3
        return f"{_BY_TIME}{mtime_s}" if mtime_s else ""
    return f"{etag} {mtime_s}" if etag.startswith("W/") else etag


def told_by(version: str) -> tuple[str, int]:
    """The ETag, or else the time, by which a server knows a version; neither where it cannot be asked for that."""
    if version.startswith(_BY_TIME):
        return "", int(version.removeprefix(_BY_TIME))
    if _is_content(version):
        return "", 0
    return (version.rpartition(" ")[0] if version.startswith("W/") else version), 0


def _is_content(version: str) -> bool:
    """Whether a version names the bytes themselves, which no server can be asked for."""
    return version.startswith(("sha256:", "md5:"))
