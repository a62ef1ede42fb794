"""Web servers as sources: index pages, WebDAV, lists of files, versions, sizes, and servers that are as they are."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.faults import Body, Status
from tests.s3server import Request
from tests.standin import Reply
from tests.test_sources import listed, open_source
from tests.webserver import PAGES, WebServer, basic
from vfs import filelist, weblisting
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
    Unavailable,
)
from vfs.sources import UNKNOWN_SIZE, ObjectInfo, Source, http

DATA = bytes(range(256)) * 8000  # 2 MB: more than what is read of a server without ranges
ODD = [
    *(
        "with space",
        "a+b",
        "a&b<c>",
        "ünïcode-日本",
        "100%",
        "a%2Fb",
        "quote'\"s",
        "semi;colon",
        "q?x=1#y",
        "~.",
        " x ",
    ),
    *("trailing ", "x" * 200, "a:b", "..x", "...", "C=N;O=D", "\udcff\udcfe", "[1]", "a\\b", "(x)", "@", "=", "A.MP4"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    root = tmp_path / "root"
    (root / "data/sub").mkdir(parents=True)
    (root / "data/x.bin").write_bytes(DATA)
    (root / "data/sub/y.txt").write_bytes(b"words")
    (root / "data/empty").write_bytes(b"")
    with WebServer(root) as server:
        yield server


@pytest.fixture
def source(server: WebServer) -> Iterator[Source]:
    opened = open_source(f"{server.url}/data/")
    yield opened
    opened.close()


def objects(source: Source, folder: str = "") -> dict[str, ObjectInfo]:
    return {entry.name: entry.object for entry in source.list(folder) if entry.object}


def asked(server: WebServer) -> list[str]:
    return [f"{request.method} {request.path}" for request in server.requests]


# -- index pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", PAGES)
def test_every_kind_of_index_page_lists_what_is_there(tmp_path: Path, pages: str) -> None:
    folder = tmp_path / "root/däta"
    folder.mkdir(parents=True)
    for name in ODD:
        (folder / f"dir {name}"[:250]).mkdir()
        (folder / name).write_bytes(b"x" * 2000)
    (tmp_path / "root/beside").write_text("not in there")
    with WebServer(tmp_path / "root", pages=pages) as server:
        source = open_source(f"{server.url}/däta/", listing="index")
        assert listed(source) == dict.fromkeys(ODD, "file") | {f"dir {name}"[:250]: "dir" for name in ODD}
        sizes = {obj.size_bytes for obj in objects(source).values()}
        assert sizes == ({2000} if pages in ("nginx-json", "caddy", "caddy-json") else {UNKNOWN_SIZE})
        for name in ODD:
            obj = source.stat(name)
            assert source.read(obj, 0, 2000) == b"x" * 2000
        source.close()


def test_an_index_page_costs_a_request_and_finding_out_that_it_is_one_another(
    server: WebServer, source: Source
) -> None:
    assert listed(source) == {"x.bin": "file", "sub": "dir", "empty": "file"}
    assert listed(source, "sub") == {"y.txt": "file"}
    assert asked(server) == ["PROPFIND /data/", "GET /data/", "GET /data/sub/"]


HREFS = {
    "x": "x",
    "./x": "x",
    "/data/x": "x",
    "/data//x": "x",
    "http://here.example/data/x": "x",
    "//here.example/data/x": "x",
    "../data/x": "x",
    "x#part": "x",
    " x ": "x",
    "%78": "x",
    "a%2fb": None,
    "sub/x": None,
    "../x": None,
    "/x": None,
    "/other/x": None,
    "http://elsewhere.example/data/x": None,
    "//elsewhere.example/data/x": None,
    "ftp://here.example/data/x": None,
    "mailto:x": None,
    "javascript:x": None,
    "x?download=1": None,
    "?C=N": None,
    "#x": None,
    "": None,
    ".": None,
    "..": None,
    "/data/": None,
    "%2e%2e": None,
    "%2e": None,
    "x%00": None,
    "http://[": None,
    "/data/../etc/passwd": None,
    "x/../../etc": None,
}


@pytest.mark.parametrize(("href", "name"), HREFS.items(), ids=lambda value: repr(value))
def test_only_direct_children_of_the_folder_are_taken_from_links(href: str, name: str | None) -> None:
    page = f'<html><a class="l" href="{href}">text</a>'.encode()
    found = weblisting.index(page, "text/html", "http://here.example/data/")
    assert [each.name for each in found] == ([name] if name else [])
    assert not any(each.is_folder for each in found)


def test_a_page_that_says_what_its_links_are_relative_to_is_believed_within_its_folder() -> None:
    page = b'<base href="/data/"><a href="x">x</a><a href="/other/y">y</a>'
    assert [found.name for found in weblisting.index(page, "", "http://h/data/")] == ["x"]
    page = b'<base href="http://elsewhere.example/data/"><a href="x">x</a>'
    assert weblisting.index(page, "", "http://h/data/") == []


def test_names_in_another_encoding_than_utf8_are_bytes_that_go_back_as_they_came() -> None:
    (found,) = weblisting.index(b'<a href="m\xfcller%FC.mp4">x</a>', "text/html; charset=latin-1", "http://h/")
    assert os.fsencode(found.name) == b"m\xfcller\xfc.mp4"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"[1]", "application/json"),
        (b'[{"name": 1}]', "application/json"),
        (b"[", "application/json"),
        (b"plain", "text/plain"),
        (b"<a href='x'>", "application/xml"),
        (b"\x00\x01", "video/mp4"),
    ],
)
def test_what_is_no_index_page_is_said_with_a_remedy(server: WebServer, body: bytes, kind: str) -> None:
    source = open_source(f"{server.url}/data/", listing="index")
    server.answer = lambda request: Reply(200, {"Content-Type": kind}, body)  # type: ignore[method-assign]
    with pytest.raises(SourceError, match=r"no listing of a folder .*manifest="):
        listed(source)
    source.close()


def test_a_json_listing_leaves_out_what_is_no_name() -> None:
    told = [{"name": name, "type": "file", "size": 3} for name in ("", ".", "..", "a/b", "x\0", "/", "ok")]
    told += [{"name": "odd", "type": "file", "size": -1}, {"name": "odd2", "type": "file", "size": "3"}]
    told += [{"name": "link", "is_symlink": True, "is_dir": False, "size": 5}]
    found = weblisting.index(json.dumps(told).encode(), "application/json", "http://h/")
    assert [(each.name, each.size_bytes) for each in found] == [
        *(("ok", 3), ("odd", None), ("odd2", None), ("link", None)),
    ]


def test_a_page_of_100000_links_is_read(server: WebServer) -> None:
    page = "".join(f'<img src="i.gif"><a href="{n:06}.jpg">{n:06}..&gt;</a> 1.2K\n' for n in range(100_000)).encode()
    server.answer = lambda request: Reply(200, {"Content-Type": "text/html"}, page)  # type: ignore[method-assign]
    source = open_source(f"{server.url}/data/", listing="index")
    assert len(listed(source)) == 100_000
    source.close()


# -- one file -----------------------------------------------------------------------------------------------------


def test_a_url_of_a_file_shows_that_file(server: WebServer) -> None:
    (server.root / "data/n ü+.bin").write_bytes(DATA)
    source = open_source(f"{server.url}/data/{quote('n ü+.bin')}")
    (entry,) = source.list("")
    assert entry.name == "n ü+.bin"
    assert entry.object == source.stat("n ü+.bin")
    assert source.read(source.stat("n ü+.bin"), 5, 9) == DATA[5:14]
    with pytest.raises(NotFound, match="there is one file"):
        source.stat("x.bin")
    with pytest.raises(NotFound):
        listed(source, "n ü+.bin")
    assert {request.method for request in server.requests} <= {"HEAD", "GET"}
    source.close()


@pytest.mark.parametrize("slash", [True, False])
def test_a_folder_without_a_slash_is_a_folder(server: WebServer, slash: bool) -> None:
    server.slash = slash
    source = open_source(f"{server.url}/data")
    assert listed(source) == {"x.bin": "file", "sub": "dir", "empty": "file"}
    assert source.read(source.stat("x.bin"), 0, 5) == DATA[:5]
    source.close()


def test_a_page_of_html_that_is_no_folder_is_a_file(server: WebServer) -> None:
    (server.root / "page.html").write_text("<a href=x>")
    source = open_source(f"{server.url}/page.html")
    assert listed(source) == {"page.html": "file"}
    source.close()


def test_a_url_of_nothing_is_not_found(server: WebServer) -> None:
    for path in ("nothing", "nothing/", "data/nothing.bin"):
        source = open_source(f"{server.url}/{path}")
        with pytest.raises(NotFound):
            listed(source)
        source.close()


# -- WebDAV -------------------------------------------------------------------------------------------------------


def test_webdav_is_found_out_and_tells_sizes_and_versions(server: WebServer, source: Source) -> None:
    server.dav = True
    known = objects(source)
    assert known == {name: source.stat(name) for name in ("x.bin", "empty")}
    assert source.read(known["x.bin"], 7, 7) == DATA[7:14]
    assert listed(source, "sub") == {"y.txt": "file"}
    assert asked(server) == [
        *("PROPFIND /data/", "HEAD /data/x.bin", "HEAD /data/empty", "GET /data/x.bin", "PROPFIND /data/sub/"),
    ]


def test_webdav_that_was_asked_for_and_is_not_there_is_said(server: WebServer) -> None:
    source = open_source(f"{server.url}/data/", listing="webdav")
    with pytest.raises(SourceError, match=r"does not speak WebDAV here \(405\): give listing=index"):
        listed(source)
    server.dav = True
    with pytest.raises(NotFound):
        listed(source, "nothing")
    source.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_not_taken_for_one_without_webdav(
    server: WebServer, source: Source, status: int
) -> None:
    server.dav = True
    server.faults = lambda request: Status(status) if len(server.requests) == 1 else None
    with pytest.raises((Throttled, Unavailable)):
        listed(source)
    assert objects(source)["x.bin"].size_bytes == len(DATA)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_a_server_that_will_not_hear_of_webdav_has_index_pages(server: WebServer, source: Source, status: int) -> None:
    server.faults = lambda request: Status(status) if request.method == "PROPFIND" else None
    assert len(listed(source)) == 3
    assert len(listed(source, "sub")) == 1
    assert len(server.asked("PROPFIND")) == 1


HEAD = '<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">'


def response(href: str, properties: str = "", status: str = "HTTP/1.1 200 OK") -> str:
    return (
        f"<d:response><d:href>{href}</d:href><d:propstat><d:prop>{properties}</d:prop>"
        f"<d:status>{status}</d:status></d:propstat></d:response>"
    )


COLLECTION = "<d:resourcetype><d:collection/></d:resourcetype>"


def test_a_multistatus_tells_only_of_children_and_only_what_the_server_has() -> None:
    body = HEAD + "".join(
        (
            response("/data/", COLLECTION),
            response("http://inner.example/data/x", "<d:getcontentlength>5</d:getcontentlength>"),
            response("/data/a%20b", '<d:getcontentlength>12</d:getcontentlength><d:getetag>W/"1"</d:getetag>'),
            response("/data/sub/", COLLECTION),
            response("/data/iis", COLLECTION),
            response("/data/locked", "<d:getcontentlength>7</d:getcontentlength>", "HTTP/1.1 403 Forbidden"),
            response("/data/odd", "<d:getcontentlength>-7</d:getcontentlength>"),
            response("/data/sub/deeper", "<d:getcontentlength>7</d:getcontentlength>"),
            response("/etc/passwd"),
            response("/data/%2e%2e"),
            response("/data/../x"),
            response("/data/a%2fb"),
            response(""),
        )
    )
    is_folder, found = weblisting.multistatus(f"{body}</d:multistatus>".encode(), "http://h/data/")
    assert is_folder
    assert {each.name: (each.is_folder, each.size_bytes, each.etag) for each in found} == {
        "a b": (False, 12, 'W/"1"'),
        "sub": (True, None, ""),
        "iis": (True, None, ""),
        "locked": (False, None, ""),
        "odd": (False, None, ""),
    }


BOMBS = {
    "laughs": '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    + HEAD
    + "<d:response>&b;</d:response></d:multistatus>",
    "external": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + HEAD + "&a;</d:multistatus>",
    "external_type": '<!DOCTYPE x SYSTEM "http://elsewhere.example/x.dtd">' + HEAD + "</d:multistatus>",
    "deep": HEAD + "<a>" * 100_000,
    "cut": HEAD,
    "html": "<html><body>login</body></html>",
    "nothing": "",
    "undefined": HEAD + "&laugh;</d:multistatus>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_multistatus_that_is_none_or_a_bomb_is_refused(server: WebServer, body: str, encoding: str) -> None:
    data = body.replace(' version="1.0"', f' version="1.0" encoding="{encoding}"').encode(encoding)
    source = open_source(f"{server.url}/data/", listing="webdav")
    server.answer = lambda request: Reply(207, {}, data)  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="no listing of a folder"):
        listed(source)
    source.close()


# -- lists of files -----------------------------------------------------------------------------------------------


def of_list(content: str | bytes, root: str = "http://h/data/", base: str = "") -> filelist.FileList:
    return filelist.FileList(content.encode() if isinstance(content, str) else content, root=root, base=base or root)


def rows(files: filelist.FileList) -> dict[str, tuple[str, int | None, str]]:
    found = {}

    def walk(folder: str) -> None:
        for name, row in files.entries(folder):
            path = f"{folder}/{name}" if folder else name
            if row is None:
                walk(path)
            else:
                assert files.get(path) is row
                found[path] = (row.url, row.size_bytes, row.version)

    walk("")
    return found


TABLE = {"a/b.mp4": ("http://h/data/a/b.mp4", 12, ""), "c": ("http://other.example/x?sig=1", None, '"v1"')}
SAME = {
    "csv": 'path,size,url,version\na/b.mp4,12,,\n"c",,http://other.example/x?sig=1,v1\n',
    "csv_with_mark_and_crlf": '\ufeffPath, Size ,URL,etag\r\na/b.mp4,12,,\r\n\r\nc,?,http://other.example/x?sig=1,"""v1"""\r\n',
    "tsv": "url\tpath\tversion\tsize\n\ta/b.mp4\t\t12\nhttp://other.example/x?sig=1\tc\tv1\n",
    "json": '[{"path": "a/b.mp4", "size": 12}, {"path": "c", "url": "http://other.example/x?sig=1", "version": "v1"}]',
    "json_lines": '{"path": "./a/b.mp4", "size": "12"}\n\n{"path":"c","url":"http://other.example/x?sig=1","etag":"v1"}\n',
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_a_list_may_be_written_in_several_ways(content: str) -> None:
    assert rows(of_list(content)) == TABLE


def test_a_plain_list_of_urls_is_a_tree_as_far_as_it_stands_below_the_root() -> None:
    content = "# train\nhttps://h/kinetics/400/train/part_0.tar.gz\n\nhttps://h/kinetics/400/val/a%20b.tar.gz\r\nhttps://o/x/y.tgz\n"
    assert rows(of_list(content, "https://h/kinetics/400/")) == {
        "train/part_0.tar.gz": ("https://h/kinetics/400/train/part_0.tar.gz", None, ""),
        "val/a b.tar.gz": ("https://h/kinetics/400/val/a%20b.tar.gz", None, ""),
        "y.tgz": ("https://o/x/y.tgz", None, ""),
    }
    assert rows(of_list("a b/c+d\n./e\n")) == {
        "a b/c+d": ("http://h/data/a%20b/c%2Bd", None, ""),
        "e": ("http://h/data/e", None, ""),
    }


def test_hashes_are_versions_and_relative_urls_are_the_lists() -> None:
    content = (
        "path,url,sha256,md5,size,mtime\na,files/1,ABC,,3,2026-05-19T10:00:00\nb,/2,,dEf,3,1700000000\nc,../3,,,3,x\n"
    )
    files = of_list(content, base="https://o.example/lists/list.csv")
    assert rows(files) == {
        "a": ("https://o.example/lists/files/1", 3, "sha256:abc"),
        "b": ("https://o.example/2", 3, "md5:def"),
        "c": ("https://o.example/3", 3, ""),
    }
    assert [files.get(path).mtime_ns for path in "abc"] == [  # type: ignore[union-attr]
        *(1_779_184_800 * 10**9, 1_700_000_000 * 10**9, 0),
    ]


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a/", "..", ".", "x\0y", "n" * 256, "ü" * 128, "a/.."],
)
def test_no_path_of_a_list_leads_out_of_the_tree(path: str) -> None:
    files = of_list(json.dumps([{"path": path, "size": 1}, {"path": "ok", "size": 1}]))
    assert rows(files).keys() == {"ok"}
    assert files.left_out_count == 1
    assert "row 1" in files.left_out[0]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "http:///", "http://[", "data:,x", "http://me:secret@h/x", "http://h:x/"]
)
def test_no_url_of_a_list_leads_to_what_is_not_the_web(url: str) -> None:
    files = of_list(json.dumps([{"path": "x", "url": url}]))
    assert rows(files) == {}
    assert files.left_out_count == 1
    assert "secret" not in str(files.left_out)


def test_of_doubles_the_first_stays_and_of_a_file_and_a_folder_the_folder() -> None:
    files = of_list("path,url\na,1\na,2\nb,3\nb/c,4\nb-,5\nb/c/d,6\n")
    assert {path: row[0] for path, row in rows(files).items()} == {
        "a": "http://h/data/1",
        "b-": "http://h/data/5",
        "b/c/d": "http://h/data/6",
    }
    assert files.left_out_count == 3


@pytest.mark.parametrize(
    "content",
    [
        'path,url\n"' + "x" * 200_000,
        "[" * 100_000,
        '{"path": ',
        "[1,",
        '[{"path": "a"}',
        "path,url\n" + "a,b\n" * 500_001,
    ],
    ids=lambda content: content[:12],
)
def test_a_list_that_cannot_be_read_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"line|row"):
        of_list(content)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"path,url\n", b"[]", b"\xff\xfe\x00"])
def test_a_list_of_nothing_is_a_tree_of_nothing(content: bytes) -> None:
    assert rows(of_list(content)) == {} or b"\xff" in content


def test_versions_that_no_header_can_have_are_none() -> None:
    files = of_list(json.dumps([{"path": "a", "size": 1, "version": "x\r\nHost: elsewhere", "md5": "é"}]))
    assert rows(files)["a"][2] == ""


def test_a_list_of_100000_rows_is_read_and_listed(tmp_path: Path, server: WebServer) -> None:
    lines = [f"r{n % 1000:04}/{n:06}.jpg,{n},u/{n}" for n in range(100_000)]
    (tmp_path / "list.csv").write_text("path,size,url\n" + "\n".join(lines))
    source = open_source(f"{server.url}/data", manifest=str(tmp_path / "list.csv"))
    assert len(listed(source)) == 1000
    assert len(objects(source, "r0007")) == 100
    assert server.requests == []
    source.close()


def test_a_list_names_files_of_other_servers_and_takes_no_token_there(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/far.bin").write_bytes(DATA)
    with WebServer(tmp_path / "other") as other:
        (server.root / "data/list.csv").write_text(f"path,url\nnear,x.bin\nfar,{other.url}/far.bin\n")
        source = open_source(f"{server.url}/data", manifest="list.csv", token_file=str(tmp_path / "token"))
        assert objects(source)["far"].size_bytes == UNKNOWN_SIZE
        for name in ("near", "far"):
            obj = source.stat(name)
            assert source.read(obj, 1000, 500) == DATA[1000:1500]
        assert all("authorization" not in request.headers for request in other.requests)
        assert all(request.headers["authorization"] == "Bearer secret" for request in server.requests)
        source.close()
    assert asked(server) == ["GET /data/list.csv", "HEAD /data/x.bin", "GET /data/x.bin"]


def test_a_list_on_this_machine_is_read_again_when_it_has_changed(server: WebServer, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("x.bin\n")
    source = open_source(f"{server.url}/data", manifest=str(file))
    assert listed(source) == {"x.bin": "file"}
    file.write_text("x.bin\nsub/y.txt\n")
    assert listed(source) == {"x.bin": "file", "sub": "dir"}
    assert source.stat("sub/y.txt").size_bytes == 5
    with pytest.raises(NotFound, match="the manifest has no such"):
        source.stat("empty")
    with pytest.raises(NotFound, match="the manifest has no such"):
        listed(source, "x.bin")
    file.unlink()
    with pytest.raises(SourceError, match="No such file"):
        listed(source)
    source.close()


def test_a_list_on_a_server_is_looked_at_again_after_a_while(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_file = server.root / "data/list.txt"
    list_file.write_text("x.bin\n")
    source = open_source(f"{server.url}/data", manifest=f"{server.url}/data/list.txt")
    for _ in range(3):
        assert listed(source) == {"x.bin": "file"}
        source.stat("x.bin")
    assert len(server.asked("GET", "list.txt")) == 1
    monkeypatch.setattr(http, "_LIST_AGE_S", 0.0)
    list_file.write_text("x.bin\nempty\n")
    assert listed(source) == {"x.bin": "file", "empty": "file"}
    source.close()


def test_what_is_left_out_of_a_list_is_one_line_of_the_log(
    server: WebServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("x.bin\n" + "".join(f"../up{n}\n" for n in range(50)))
    source = open_source(f"{server.url}/data", manifest=str(file))
    with caplog.at_level(logging.INFO):
        assert listed(source) == {"x.bin": "file"}
        assert listed(source) == {"x.bin": "file"}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "vfs.sources.http"]
    assert "50 rows are left out" in line
    assert line.count("../up") == 3
    source.close()


def test_a_hash_in_a_list_is_the_version_for_as_long_as_the_size_is_right(server: WebServer, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"path,size,sha256\nx.bin,{len(DATA)},abc\nsub/y.txt,9,def\n")
    source = open_source(f"{server.url}/data", manifest=str(file))
    assert objects(source)["x.bin"] == ObjectInfo("x.bin", len(DATA), 0, "sha256:abc")
    assert source.stat("x.bin").version == "sha256:abc"
    assert source.read(objects(source)["x.bin"], 3, 3) == DATA[3:6]
    wrong = objects(source, "sub")["y.txt"]
    with pytest.raises(Changed):
        source.read(wrong, 0, 9)
    right = source.stat("sub/y.txt")
    assert right.size_bytes == 5
    assert right.version not in ("", "sha256:def")
    assert source.read(right, 0, 5) == b"words"
    source.close()


def test_other_lists_are_other_sources(server: WebServer) -> None:
    urls = {open_source(f"{server.url}/data/", **more).url for more in ({}, {"manifest": "a"}, {"manifest": "b"})}
    assert len(urls) == 3
    assert open_source(f"{server.url}/data", manifest="a").url in urls


# -- versions and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etag", "mtime_s", "version", "known_by"),
    [
        ('"v1"', 5, '"v1"', ('"v1"', 0)),
        ('W/"v1"', 5, 'W/"v1" 5', ('W/"v1"', 0)),
        ("", 5, "modified 5", ("", 5)),
        ("", 0, "", ("", 0)),
        ("unquoted", 5, "modified 5", ("", 5)),
        ('"a"\r\nX: "b"', 0, "", ("", 0)),
    ],
)
def test_a_version_is_made_of_what_a_server_tells(
    etag: str, mtime_s: int, version: str, known_by: tuple[str, int]
) -> None:
    assert http.version_of(etag, mtime_s) == version
    assert http.told_by(version) == known_by


@pytest.mark.parametrize("knows_conditions", [True, False])
@pytest.mark.parametrize("etags", ["strong", "weak", ""])
def test_a_replaced_file_is_changed_however_its_server_tells_versions(
    server: WebServer, source: Source, etags: str, knows_conditions: bool
) -> None:
    server.etags, server.knows_conditions = etags, knows_conditions
    old = source.stat("x.bin")
    assert source.read(old, 0, 5) == DATA[:5]
    (server.root / "new").write_bytes(DATA[::-1])
    os.utime(server.root / "new", (1_800_000_000, 1_800_000_000))
    os.replace(server.root / "new", server.root / "data/x.bin")
    with pytest.raises(Changed):
        source.read(old, 0, 5)
    assert source.read(source.stat("x.bin"), 0, 5) == DATA[::-1][:5]
    condition = {"strong": "if-match", "weak": "", "": "if-unmodified-since"}[etags]
    sent = server.asked("GET", "x.bin")[-1].headers.keys() & {"if-match", "if-unmodified-since", "if-none-match"}
    assert sent == ({condition} if condition else set())


def test_a_server_without_any_version_has_files_known_by_their_sizes(server: WebServer, source: Source) -> None:
    server.etags, server.tells_time = "", False
    obj = source.stat("x.bin")
    assert (obj.version, obj.mtime_ns) == ("", 0)
    assert source.read(obj, 0, 5) == DATA[:5]
    (server.root / "data/x.bin").write_bytes(DATA + b"more")
    with pytest.raises(Changed):
        source.read(obj, 0, 5)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_a_server_that_refuses_head_is_asked_for_a_byte(server: WebServer, source: Source, status: int) -> None:
    server.faults = lambda request: Status(status) if request.method == "HEAD" else None
    assert source.stat("x.bin").size_bytes == len(DATA)
    assert source.stat("empty").size_bytes == 0
    assert [request.range for request in server.asked("GET")] == ["bytes=0-0"] * 2
    with pytest.raises(NotFound):
        source.stat("nothing")


def test_a_server_whose_head_tells_no_length_is_asked_for_a_byte(server: WebServer, source: Source) -> None:
    server.tells_length = False
    assert source.stat("x.bin").size_bytes == len(DATA)
    assert source.stat("x.bin").version == server.etag(server.root / "data/x.bin")
    server.gives_ranges = False
    with pytest.raises(SourceError, match="does not tell its size"):
        source.stat("x.bin")


def test_a_folder_is_no_object(server: WebServer, source: Source) -> None:
    for key in ("sub", "", "sub/"):
        with pytest.raises(NotFound):
            source.stat(key)


def test_a_server_without_ranges_gives_small_files_and_says_why_not_large_ones(
    server: WebServer, source: Source
) -> None:
    server.gives_ranges = False
    small, large = source.stat("sub/y.txt"), source.stat("x.bin")
    assert [source.read(small, start, 2) for start in range(4)] == [b"wo", b"or", b"rd", b"ds"]
    with pytest.raises(SourceError, match="gives no ranges, and without them files of up to 1 MiB can be read"):
        source.read(large, 0, 10)


@pytest.mark.parametrize("packing", ["gzip", "br", "deflate"])
def test_bytes_that_are_packed_for_the_way_are_not_taken(server: WebServer, source: Source, packing: str) -> None:
    obj = source.stat("x.bin")
    server.packs = packing
    with pytest.raises(SourceError, match=f"came as {packing}, which was not asked for"):
        source.read(obj, 0, 10)
    server.gives_ranges = False
    with pytest.raises(SourceError):
        source.stat("x.bin")
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


def test_a_file_that_is_packed_itself_is_taken_as_it_is(server: WebServer, source: Source) -> None:
    """Apache says of a .tar.gz that it is gzip, and gives its bytes."""
    (server.root / "data/x.tar.gz").write_bytes(DATA)
    server.packs = "x-gzip"
    obj = source.stat("x.tar.gz")
    assert source.read(obj, 10, 10) == DATA[10:20]


def test_redirects_are_followed_and_the_url_stays_that_which_was_given(server: WebServer, tmp_path: Path) -> None:
    with WebServer(server.root / "data") as other:
        server.moved = {f"/old/{path}": f"{other.url}/{path}" for path in ("", "x.bin", "sub/", "sub/y.txt")}
        source = open_source(f"{server.url}/old/", listing="index")
        assert listed(source) == {"x.bin": "file", "sub": "dir", "empty": "file"}
        assert source.read(source.stat("x.bin"), 5, 5) == DATA[5:10]
        assert source.url == f"{server.url}/old"
        source.close()


def test_a_server_of_http_1_0_is_read(server: WebServer) -> None:
    class Old(WebServer):
        protocol = "HTTP/1.0"

    with Old(server.root) as old:
        source = open_source(f"{old.url}/data/")
        assert len(listed(source)) == 3
        obj = source.stat("x.bin")
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda n: source.read(obj, n, 99) == DATA[n : n + 99], range(30))) == {True}
        source.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(404), NotFound),
        (Status(410), NotFound),
        (Status(403), AccessDenied),
        (Status(412), Changed),
        (Status(416), Changed),
        (Status(429), Throttled),
        (Status(500), Unavailable),
        (Body(b"<html>a page about the error"), Changed),
    ],
    ids=str,
)
def test_the_servers_errors_are_ours(server: WebServer, source: Source, fault, kind: type[EgofsError]) -> None:
    server.etags, server.tells_time = "", False
    obj = source.stat("sub/y.txt")
    server.faults = lambda request: fault
    with pytest.raises(EgofsError) as raised:
        source.read(obj, 0, 5)
    assert type(raised.value) is kind
    assert "sub/y.txt" in str(raised.value)


def test_an_error_page_instead_of_a_known_version_is_corrupt(server: WebServer, source: Source) -> None:
    obj = source.stat("sub/y.txt")
    server.faults = lambda request: Body(b"<html>a page about the error")
    with pytest.raises(CorruptData):
        source.read(obj, 0, 5)


# -- who is let in ------------------------------------------------------------------------------------------------


def test_a_password_comes_from_a_netrc_and_goes_to_its_host_alone(server: WebServer, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine elsewhere.example login you password other\n")
    server.authorization = basic("me", "secret")
    source = open_source(f"{server.url}/data/", netrc=str(netrc))
    with pytest.raises(AccessDenied, match=f"{netrc} does not let one in"):
        listed(source)
    assert all("authorization" not in request.headers for request in server.requests)
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    assert len(listed(source)) == 3
    assert source.read(source.stat("x.bin"), 0, 5) == DATA[:5]
    netrc.write_text("machine 127.0.0.1 login me\npassword sec ret oops secret\n")
    with pytest.raises(AccessDenied, match="line 2 cannot be read") as raised:
        listed(source)
    assert "secret" not in str(raised.value)
    source.close()


def test_who_gives_nothing_is_told_what_to_give(server: WebServer, source: Source) -> None:
    server.authorization = "Bearer x"
    with pytest.raises(AccessDenied, match="give token_file=FILE or netrc=FILE"):
        listed(source)


def test_a_token_is_read_again_when_its_file_has_changed(server: WebServer, tmp_path: Path) -> None:
    server.authorization = "Bearer good"
    source = open_source(f"{server.url}/data/", token_file=str(tmp_path / "token"))
    with pytest.raises(AccessDenied, match="token_file="):
        listed(source)
    (tmp_path / "token").write_text("bad\n")
    with pytest.raises(AccessDenied, match="does not let one in"):
        listed(source)
    (tmp_path / "token").write_text("good\n")
    assert len(listed(source)) == 3
    source.close()


# -- options ------------------------------------------------------------------------------------------------------

REFUSED = {
    "https://me:secret@h/x": {},
    "https://secret@h/x": {},
    "https://h/x?token=secret": {},
    "https://h/x#part": {},
    "https:///x": {},
    "https://": {},
    "https://h:port/x": {},
    "https://[/x": {},
    "https://h/a": {"listing": "manifest"},
    "https://h/b": {"listing": "index", "manifest": "x"},
    "https://h/c": {"manifest": "https://me:secret@h/list"},
}


@pytest.mark.parametrize(("url", "options"), REFUSED.items(), ids=list(REFUSED))
def test_what_cannot_be_is_refused_without_repeating_a_secret(url: str, options: dict[str, object]) -> None:
    with pytest.raises(OptionError) as raised:
        open_source(url, **options)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_equal_urls_name_equal_things() -> None:
    urls = {"https://h/a b", "https://h/a%20b/", "HTTPS://H/a%20b"}
    assert {open_source(url).url for url in urls} == {"https://h/a%20b"}
    assert open_source("https://h").url == open_source("https://h/").url == "https://h"


def test_a_local_list_is_found_from_where_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert http.Options(manifest="./list.csv").manifest == str(tmp_path / "list.csv")
    assert http.Options(manifest="~/list.csv").manifest == str(Path.home() / "list.csv")
    assert http.Options(manifest="lists/list.csv").manifest == "lists/list.csv"


def test_requests_name_paths_in_full_and_encoded(server: WebServer, source: Source) -> None:
    seen: list[Request] = server.requests
    for name in ("a b", "x?y", "x#y", "100%", "ü", "a;b", "a+b", " "):
        with pytest.raises(NotFound):
            source.stat(name)
    assert [request.target for request in seen] == [
        *("/data/a%20b", "/data/x%3Fy", "/data/x%23y", "/data/100%25", "/data/%C3%BC", "/data/a%3Bb", "/data/a%2Bb"),
        "/data/%20",
    ]
    assert all(not request.query for request in seen)


def test_pythons_own_server_is_read_by_somebody_elses_pages(tmp_path: Path) -> None:
    """A server that nobody here wrote: no ETags, no ranges, HTTP/1.0."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    folder = tmp_path / "some folder"
    (folder / "sub").mkdir(parents=True)
    names = [name for name in ODD if name.isprintable()]  # it has an encoding of its own for what is not UTF-8
    for name in names:
        (folder / name).write_bytes(os.fsencode(name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            source = open_source(f"http://127.0.0.1:{server.server_port}/some folder")
            assert listed(source) == dict.fromkeys(names, "file") | {"sub": "dir"}
            for name in names:
                obj = source.stat(name)
                assert obj.version.startswith("modified ")
                assert source.read(obj, 0, obj.size_bytes) == os.fsencode(name)
            with pytest.raises(NotFound):
                source.stat("sub")
            source.close()
        finally:
            server.shutdown()
            thread.join()
