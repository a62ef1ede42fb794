"""A list of files that a person gave: paths, and where their bytes are. The tree is exactly that.

It reads CSV and TSV with a header, JSON and JSON lines with the same names (path, url, size, and one of version, etag,
sha256, md5; mtime), and plain lists of URLs or paths, one a line. Whatever such a list holds, no path leads out of the
tree: what cannot be a path is left out, and how much of that there is is told once. Pure: it fetches nothing. The
source of http:// calls it. Any thread may read a list.
"""

import csv
import io
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

MOST_BYTES = 64 << 20
_MOST_ROWS = 500_000
_MOST_NAME_BYTES = 255  # NAME_MAX of Linux
# A relative URL of plain names: none of them begins with a dot.
_SIMPLE = re.compile(r"(?:[A-Za-z0-9_~%-][A-Za-z0-9_~%.-]*/)*[A-Za-z0-9_~%-][A-Za-z0-9_~%.-]*")
_COLUMNS = {"path", "url", "size", "version", "etag", "sha256", "md5", "mtime"}


@dataclass(frozen=True, slots=True)
class Row:
    """A file: `size_bytes` None and `version` "" where they are not told.

    A version is an ETag, with its quotes, or sha256:… or md5:…, which a server cannot be asked for.
    """

    url: str
    size_bytes: int | None
    version: str
    mtime_ns: int


class FileList:
    """The files of a list, by path; see the module's docstring."""

    def __init__(self, content: bytes, *, root: str, base: str) -> None:
        """`root` is the URL below which paths without a URL stand, `base` what relative URLs are relative to; both
        have a / at their ends where they are folders: the root always has. Raises ValueError for what is no list."""
        self.left_out: list[str] = []
        """Why rows are left out, the first of them; `left_out_count` says how many there are."""
        self.left_out_count = 0
        self._root, self._base = root, base
        self._rows: dict[str, Row] = {}
        self._paths: list[str] = []
        for number, told in _told(content):
            if number > _MOST_ROWS:
                raise ValueError(f"it has more than {_MOST_ROWS} rows")
            self._add(number, told)
        self._paths = sorted(self._rows)
        for path in [path for path in self._paths if self._is_folder(path)]:
            self._leave_out(f"{path!r} is a folder too")
            del self._rows[path]
        self._paths = sorted(self._rows)

    def get(self, path: str) -> Row | None:
        """The file of that path."""
        return self._rows.get(path)

    def entries(self, folder: str) -> Iterator[tuple[str, Row | None]]:
        """The names that stand directly in a folder, with their files; None for folders."""
        prefix = f"{folder}/" if folder else ""
        at = bisect_left(self._paths, prefix)
        while at < len(self._paths) and self._paths[at].startswith(prefix):
            name, slash, _ = self._paths[at].removeprefix(prefix).partition("/")
            yield name, None if slash else self._rows[self._paths[at]]
            # "0" follows "/": on to what stands after the folder.
            at = bisect_left(self._paths, f"{prefix}{name}0", at) if slash else at + 1

    def _is_folder(self, path: str) -> bool:
        at = bisect_left(self._paths, f"{path}/")
        return at < len(self._paths) and self._paths[at].startswith(f"{path}/")

    def _add(self, number: int, told: Mapping[str, Any]) -> None:
        url = str(told.get("url") or "").strip()
        path = (str(told.get("path") or "") or self._path_of(url)).removeprefix("./")
        why = _why_not(path)
        where = ""
        if not why and path in self._rows:
            why = f"{path[:100]!r} stands twice"
        if not why:
            try:
                where = self._where(path, url)
            except ValueError as failure:
                why = f"its url {failure}"
        if why:
            self._leave_out(f"row {number}: {why}")
        else:
            self._rows[path] = Row(where, _size(told.get("size")), _version(told), _mtime_ns(told.get("mtime")))

    def _leave_out(self, why: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < 3:
            self.left_out.append(why)

    def _path_of(self, url: str) -> str:
        """Where a URL without a path stands in the tree: as it stands below the root, else under its last name."""
        whole = urljoin(self._base, url)
        if whole.startswith(self._root):
            return unquote(whole.removeprefix(self._root).partition("?")[0], errors="surrogateescape")
        try:
            return unquote(urlsplit(whole).path.rpartition("/")[2], errors="surrogateescape")
        except ValueError:
            return ""

    def _where(self, path: str, url: str) -> str:
        """The URL of a row. Raises ValueError for one that is not of the web, with what is wrong with it."""
        if not url:
            return self._root + _quoted(path)
        if _SIMPLE.fullmatch(url):  # nearly all are, and putting URLs together by all rules takes ten times as long
            return self._base.rpartition("/")[0] + "/" + url
        try:
            where = urljoin(self._base, url)
            there = urlsplit(where)
            is_web = there.scheme in ("http", "https") and there.hostname and there.port != 0
        except ValueError:
            raise ValueError("is none") from None
        if not is_web or re.match("https?:/*$", url):
            raise ValueError("is none of http or https")
        if "@" in there.netloc:
            raise ValueError("has a password in it")
        return where


def _told(content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a list, numbered as they stand there, as names and values."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    first = text.lstrip()[:1]
    if first in ("[", "{"):
        yield from _of_json(text, first)
        return
    head = text.partition("\n")[0].strip()
    for delimiter in ("\t", ","):
        names = [name.strip().strip('"').lower() for name in head.split(delimiter)]
        if {"path", "url"} & set(names) and (len(names) > 1 or names[0] in _COLUMNS):
            yield from _of_table(text, delimiter)
            return
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield number, {"url": line} if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", line) else {"path": line}


def _of_table(text: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names: list[str] = []
    try:
        for row in reader:
            if not names:
                names = [name.strip().lower() for name in row]
            elif row:
                yield reader.line_num, dict(zip(names, row, strict=False))
    except csv.Error as failure:
        raise ValueError(f"line {reader.line_num}: {failure}") from failure


def _of_json(text: str, first: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    try:
        rows: Iterator[tuple[int, Any]] = enumerate(json.loads(text) if first == "[" else (), 1)
        if first == "{":
            rows = ((number, json.loads(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        for number, row in rows:
            yield number, row if isinstance(row, dict) else {"url": row} if "://" in str(row) else {"path": row}
    except (ValueError, RecursionError) as failure:
        raise ValueError(f"row {number + 1}: it is no JSON") from failure


def _why_not(path: str) -> str:
    """Why a path cannot stand in the tree, "" where it can."""
    if path.startswith("/"):
        return "its path begins with /"
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        return f"{path[:100]!r} is no path below the root"
    try:
        if any(len(part.encode("utf-8", "surrogateescape")) > _MOST_NAME_BYTES for part in path.split("/")):
            return f"{path[:100]!r}… is too long for a name"
    except UnicodeEncodeError:
        return f"{path[:100]!r} is not UTF-8"
    return ""


def _quoted(path: str) -> str:
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def _size(told: object) -> int | None:
    """A whole number of bytes; what is none is not told, and asked for."""
    text = str(told).strip() if told is not None and not isinstance(told, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _version(told: Mapping[str, Any]) -> str:
    for name in ("version", "etag", "sha256", "md5"):
        value = str(told.get(name) or "").strip()
        if not value or not re.fullmatch(r"[\x20-\x7e]{1,500}", value):  # what no header can have is no ETag
            continue
        if name in ("sha256", "md5"):
            return f"{name}:{value.lower()}"
        return value if re.fullmatch(r'(W/)?".*"', value) else f'"{value}"'
    return ""


def _mtime_ns(told: object) -> int:
    """Seconds of the epoch, or a date of ISO 8601 (UTC where it names no zone)."""
    text = str(told).strip() if told is not None else ""
    if not text:
        return 0
    try:
        if re.fullmatch(r"\d{1,11}(\.\d*)?", text):
            return int(float(text)) * 1_000_000_000
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0
