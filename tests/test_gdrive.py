"""The Google Drive source: paths over ids, names over titles, versions, walks, tokens, and errors told apart."""

import json
import logging
import os
import pickle
import stat
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.driveserver import DOCUMENT, DriveServer
from tests.faults import Body, Truncate
from tests.googletokens import READONLY, Refuse
from vfs.drive import fileids, oauth, titles, walk
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    OverQuota,
    SourceError,
    Throttled,
    Unavailable,
)
from vfs.sources import ObjectInfo, gdrive
from vfs.sources.ahead import AheadSource
from vfs.sources.retry import RetryingSource

CAMERAS = [f"C10{n}_rgb.mp4" for n in ("095", 115, 118, 119, 379, 390, 395, 404)] + [
    f"HMC_{n}_mono10bit.mp4" for n in (84346135, 84347414, 84355350, 84358933)
]
Open = Callable[..., gdrive.DriveSource]


def recording(n: int) -> str:
    return f"nusar-2021_action_both_{9000 + n}-a{n % 30:02}_{9000 + n}_user_id_2021-02-01_{n:06}"


def assembly(server: DriveServer, recordings: int) -> dict[str, str]:
    """A tree as Assembly101's is; gives the ids of its recordings."""
    above = server.folder("recordings")
    server.file("AssemblyPoses.zip", b"zip")
    ids = {}
    for n in range(recordings):
        ids[recording(n)] = folder = server.folder(recording(n), above)
        for camera in CAMERAS:
            server.file(camera, f"{n} {camera}".encode(), folder)
    return ids


@pytest.fixture
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
        yield server
        assert {(request.method, request.kind) for request in server.requests} <= {
            *(("GET", kind) for kind in ("list", "get", "media", "about")),
            ("POST", "token"),
        }


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    return tmp_path / "credentials.json"


@pytest.fixture
def opened(server: DriveServer, credentials: Path) -> Iterator[Open]:
    """Opens the server's Drive, by default its root, with credentials that are valid."""
    server.write_credentials(credentials)
    sources = []

    def open_it(url: str = "", **options: object) -> gdrive.DriveSource:
        given = {"credentials": credentials, "endpoint_url": server.endpoint_url, **options}
        source = gdrive.open_source(url or f"gdrive://{server.root}", gdrive.Options(**given))
        sources.append(source)
        return source

    yield open_it
    for source in sources:
        source.close()


def names(source: gdrive.DriveSource, folder: str = "") -> dict[str, str]:
    return {listed.name: listed.kind for listed in source.list(folder)}


def whole(source: gdrive.DriveSource, key: str) -> bytes:
    obj = source.stat(key)
    return source.read(obj, 0, obj.size_bytes)


# -- names


def test_of_several_with_one_title_the_first_made_has_it_and_the_others_a_part_of_their_ids(
    server: DriveServer, opened: Open
) -> None:
    first = server.file("a.mp4", b"first")
    second = server.file("a.mp4", b"second")
    folder = server.folder("a.mp4")
    source = opened()
    before = {"a.mp4": "file", f"a~{second[-8:]}.mp4": "file", f"a~{folder[-8:]}.mp4": "dir"}
    assert names(source) == before
    third = server.file("a.mp4", b"third")
    server._children[server.root].reverse()  # a listing has no order
    assert names(source) == {**before, f"a~{third[-8:]}.mp4": "file"}
    assert whole(source, "a.mp4") == b"first"
    assert whole(source, f"a~{third[-8:]}.mp4") == b"third"
    server.remove(first)
    assert whole(source, "a.mp4") == b"second"


ODD = {"a/b.mp4": "a／b~{}.mp4", "": "~{}", ".": ".~{}", "..": "..~{}", "x\0y": "x␀y~{}"}


@pytest.mark.parametrize(("title", "name"), ODD.items())
def test_a_title_that_is_no_name_is_made_one(title: str, name: str, server: DriveServer, opened: Open) -> None:
    identity = server.file(title, b"data")
    source = opened()
    assert list(names(source)) == [name.format(identity[-8:])]
    assert whole(source, name.format(identity[-8:])) == b"data"


def test_a_long_title_is_cut_and_keeps_its_suffix(server: DriveServer, opened: Open) -> None:
    identity = server.file("日" * 100 + ".mp4", b"data")
    (name,) = names(opened())
    assert name == "日" * 80 + f"~{identity[-8:]}.mp4"
    assert len(name.encode()) <= 255


_TITLES = st.sampled_from(["a.mp4", "a", "", "/", "\0", "..", "a／b", "a/b", "a~11111111.mp4", "x" * 300, "\ud800"])
_ITEMS = st.lists(st.tuples(_TITLES, st.sampled_from("123"), st.sampled_from("xy")), max_size=12)


@given(_ITEMS, st.randoms())
def test_names_are_distinct_can_be_shown_and_depend_on_no_order(
    items: list[tuple[str, str, str]], random: object
) -> None:
    told = [
        SimpleNamespace(id=f"{n:02}{end * 8}{day}", title=title, created=day)
        for n, (title, end, day) in enumerate(items)
    ]
    found = titles.named(told)
    assert all(titles.can_be_name(name) for name in found)
    assert len(found) == len(told)
    random.shuffle(told)  # type: ignore[attr-defined]
    assert titles.named(told) == found
    added = SimpleNamespace(id="99zzzzzzzz", title="a.mp4", created="z")
    assert titles.named([*told, added]).items() >= found.items()


# -- what a folder has


def test_documents_of_google_and_the_trash_are_not_shown_which_is_said_once(
    server: DriveServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("Notes", DOCUMENT, [server.root])
    server.file("gone.mp4", b"data", trashed=True)
    server.file("kept.mp4", b"data")
    source = opened()
    for _ in range(2):
        assert names(source) == {"kept.mp4": "file"}
    assert [record.getMessage().count("Notes") for record in caplog.records] == [1]


def test_a_shortcut_is_what_it_leads_to_and_no_tree_is_endless(server: DriveServer, opened: Open) -> None:
    there = server.folder("there", server.folder("elsewhere", server.folder("top")))
    server.file("a.mp4", b"data", there)
    root = server.folder("root")
    server.shortcut("to file", server.find("top/elsewhere/there/a.mp4"), root)
    server.shortcut("to folder", there, root)
    server.shortcut("to itself", root, root)
    server.shortcut("to nothing", "1nothing", root)
    server.shortcut("back", root, there)
    server.shortcut("beyond", server.find("top"), there)
    source = opened(f"gdrive://{root}")
    assert names(source) == {"to file": "file", "to folder": "dir"}
    assert names(source, "to folder") == {"a.mp4": "file", "beyond": "dir"}
    assert whole(source, "to file") == whole(source, "to folder/a.mp4") == b"data"
    assert names(source, "to folder/beyond/elsewhere") == {}  # that would be the folder again in which this stands


def test_folders_of_a_shared_drive_are_shown_with_its_id_and_without(server: DriveServer, opened: Open) -> None:
    drive = server.folder("shared", drive="1sharedDrive")
    server.file("a.mp4", b"data", drive)
    for options in ({}, {"shared_drive": "1sharedDrive"}):
        assert whole(opened(f"gdrive://{drive}", **options), "a.mp4") == b"data"
    assert {request.query.get("driveId") for request in server.requests if request.kind == "list"} == {
        None,
        "1sharedDrive",
    }


def test_pages_are_followed_to_the_end_even_where_one_is_empty(server: DriveServer, opened: Open) -> None:
    server.most_results, server.empty_pages = 10, True
    for n in range(35):
        server.file(f"{n:02}", b"1")
    assert len(names(opened())) == 35
    assert server.count("list") == 5


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"items": [], "nextPageToken": "~!!~0"}, CorruptData),
        ({"items": [], "incompleteSearch": True}, Unavailable),
        ({"items": [{"title": "a"}]}, CorruptData),
        ({"items": [{"id": "1' or 'x"}]}, CorruptData),
        ({"items": [{"id": "1", "fileSize": "many"}]}, CorruptData),
        ({"items": {}}, CorruptData),
        ([], CorruptData),
    ],
)
def test_an_answer_that_makes_no_sense_is_no_listing(
    told: object, kind: type[EgofsError], server: DriveServer, opened: Open
) -> None:
    server.faults = lambda request: Body(json.dumps(told).encode())
    with pytest.raises(kind, match="list"):
        names(opened())


def test_a_page_that_is_refused_has_the_listing_begin_anew(server: DriveServer, opened: Open) -> None:
    server.most_results = 2
    for n in range(5):
        server.file(f"{n}", b"1")
    refused = iter([Refuse(400, "invalid")])
    server.faults = lambda request: next(refused, None) if "pageToken" in request.query else None
    source = RetryingSource(opened(), sleep=lambda seconds: None)
    assert sorted(listed.name for listed in source.list("")) == list("01234")


def test_a_folder_that_took_the_place_of_another_is_found(server: DriveServer, opened: Open) -> None:
    old = server.folder("a")
    server.file("x", b"old", old)
    source = opened()
    assert whole(source, "a/x") == b"old"
    for end in (lambda: setattr(server.items[old], "trashed", True), lambda: server.remove(server.find("a"))):
        end()
        new = server.folder("a")
        server.file("y", b"new", new)
        assert names(source, "a") == {"y": "file"}
        server.items[new].title = "gone"
        server.items[new].trashed = True
        with pytest.raises(NotFound, match="there is no such folder"):
            names(source, "a")
        server.folder("a")


# -- walks


def walked(source: gdrive.DriveSource) -> dict[str, dict[str, str]]:
    """As `ls -R` asks, through what the daemon puts around a source."""
    above = AheadSource(RetryingSource(source))
    found = {"": {entry.name: entry.kind for entry in above.list("")}}
    for folder in ("recordings", *(f"recordings/{name}" for name in sorted(names(source, "recordings")))):
        found[folder] = {entry.name: entry.kind for entry in above.list(folder)}
    return found


def test_a_walk_through_362_recordings_takes_few_queries_and_finds_all(server: DriveServer, opened: Open) -> None:
    ids = assembly(server, 362)
    found = walked(opened())
    assert found == {
        "": {"recordings": "dir", "AssemblyPoses.zip": "file"},
        "recordings": dict.fromkeys(ids, "dir"),
        **{f"recordings/{name}": dict.fromkeys(CAMERAS, "file") for name in ids},
    }
    # The root, `recordings` (here twice), the first recording alone, and 361 in queries of 40.
    assert server.count("list") == 2 + 1 + 1 + 10
    assert server.count("get") == 0
    assert max(len(request.query["q"]) for request in server.requests) < 2500


@pytest.mark.parametrize("left_out", [(0,), (1,), (20,), (5, 45, 85), range(40)])
def test_folders_of_which_drive_tells_nothing_in_a_query_about_several_are_whole_all_the_same(
    left_out: tuple[int, ...], server: DriveServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    ids = assembly(server, 100)
    server.left_out = {ids[recording(n)] for n in left_out}
    found = walked(opened())
    assert all(found[f"recordings/{name}"] == dict.fromkeys(CAMERAS, "file") for name in ids)
    assert server.count("list") <= 2 + 1 + 100 + 1
    assert sum("leaves out" in record.getMessage() for record in caplog.records) == 1


def test_folders_without_anything_in_them_are_asked_for_alone(server: DriveServer, opened: Open) -> None:
    ids = assembly(server, 30)
    for n in (3, 20):
        server._children[ids[recording(n)]].clear()
    source = opened()
    found = walked(source)
    assert [len(found[f"recordings/{recording(n)}"]) for n in (2, 3, 20)] == [12, 0, 0]
    assert server.count("list") <= 2 + 1 + 1 + 2 + 3
    assert source._walks.is_trusted


def test_a_folder_that_is_gone_spoils_no_walk(server: DriveServer, opened: Open) -> None:
    ids = assembly(server, 20)
    source = opened()
    assert names(source, "recordings")
    server.hidden.add(ids[recording(7)])
    for n in range(20):
        if n != 7:
            assert len(names(source, f"recordings/{recording(n)}")) == 12
    with pytest.raises(NotFound):
        names(source, f"recordings/{recording(7)}")


def test_several_who_walk_at_once_each_find_all(server: DriveServer, opened: Open) -> None:
    ids = assembly(server, 60)
    source = opened()
    names(source, "recordings")

    def walk(_: int) -> bool:
        return all(set(names(source, f"recordings/{name}")) == set(CAMERAS) for name in sorted(ids))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(walk, range(8)))
    assert server.count("list") <= 8 * 60


def test_what_was_listed_ahead_is_not_given_when_it_is_old(server: DriveServer, opened: Open) -> None:
    assembly(server, 20)
    now = 0.0
    source = opened()
    source._walks = walk.Walks(source._drive.children, clock=lambda: now)
    names(source, "recordings")
    for n in range(3):
        names(source, f"recordings/{recording(n)}")
    asked = server.count("list")
    now = walk.MAX_AGE_S + 1
    server.file("new.mp4", b"data", server.find(f"recordings/{recording(3)}"))
    assert "new.mp4" in names(source, f"recordings/{recording(3)}")
    assert server.count("list") == asked + 1


# -- file_ids.pkl


def write_ids(file: Path, ids: object) -> Path:
    file.write_bytes(pickle.dumps(ids, protocol=2))
    return file


def test_with_file_ids_one_recording_costs_one_query(server: DriveServer, opened: Open, tmp_path: Path) -> None:
    ids = assembly(server, 362)
    source = opened(file_ids=write_ids(tmp_path / "file_ids.pkl", ids))
    assert names(source, "recordings") == dict.fromkeys(ids, "dir")
    assert server.count("list") == 0
    assert set(names(source, f"recordings/{recording(77)}")) == set(CAMERAS)
    assert server.count("list") == 1
    assert whole(source, f"recordings/{recording(77)}/{CAMERAS[0]}") == f"77 {CAMERAS[0]}".encode()
    with pytest.raises(NotFound):
        source.stat(f"recordings/{recording(77)}")
    with pytest.raises(NotFound):
        names(source, "recordings/nothing")


def test_with_file_ids_the_recordings_alone_need_no_folder(server: DriveServer, opened: Open, tmp_path: Path) -> None:
    ids = assembly(server, 5)
    source = opened("gdrive://", file_ids=write_ids(tmp_path / "file_ids.pkl", ids))
    assert names(source) == dict.fromkeys(ids, "dir")
    assert server.count("list") == 0
    assert set(names(source, recording(3))) == set(CAMERAS)
    assert server.count("list") == 1
    assert source.url != opened("gdrive://", file_ids=write_ids(tmp_path / "other.pkl", {"a": "1b"})).url


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil-was-here",)


HOSTILE = {
    "runs something": pickle.dumps({"a": _Evil()}, 2),
    "imports something": b"cantigravity\n.",
    "stack global": pickle.dumps(_Evil(), 4),
    "reserves memory": b"\x80\x02}r" + struct.pack("<I", 0xFFFFFFF0) + b".",
    "a huge number": b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b".",
    "a list": pickle.dumps(["a"], 2),
    "nested": pickle.dumps({"a": {"b": "c"}}, 2),
    "numbers": pickle.dumps({1: 2}, 2),
    "nothing": pickle.dumps({}, 2),
    "no ids": pickle.dumps({"a": "x' or 'y"}, 2),
    "no names": pickle.dumps({"../a": "1x"}, 2),
    "cut short": pickle.dumps({"a": "1x"}, 2)[:-3],
    "too large": b"\x80\x02" + bytes(5 << 20),
    "empty": b"",
    "pops nothing": b"\x80\x02s.",
    "a text": b"hello",
    "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_is_no_dict_of_texts_is_refused_and_runs_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file_ids.pkl").write_bytes(data)
    with pytest.raises(OptionError, match=r"file_ids=.*file_ids\.pkl") as raised:
        fileids.read(tmp_path / "file_ids.pkl")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file_ids.pkl"]


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\x80\x02}q\x00U\x01aq\x01U\x021xq\x02s.")
    assert fileids.read(tmp_path / "p") == {"a": "1x"}


# -- reading and versions


def test_reading_needs_no_listing_even_of_a_source_that_was_opened_since(server: DriveServer, opened: Open) -> None:
    server.put("a/b/x.mp4", b"0123456789")
    obj = opened().stat("a/b/x.mp4")
    asked = server.count("list")
    source = opened()
    assert b"".join(source.read(obj, start, 2) for start in range(0, 10, 2)) == b"0123456789"
    assert server.count("list") == asked
    assert server.count("get") == 1  # of five ranges


def test_one_asks_for_the_version_for_all_who_read(server: DriveServer, opened: Open) -> None:
    data = os.urandom(64_000)
    server.file("x.mp4", data)
    source = opened()
    obj = source.stat("x.mp4")
    with ThreadPoolExecutor(16) as threads:
        assert b"".join(threads.map(lambda n: source.read(obj, n * 1000, 1000), range(64))) == data
    assert server.count("get") == 1


def test_another_file_of_the_same_size_is_noticed_when_the_version_is_asked_for_again(
    server: DriveServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = server.file("x.mp4", b"old-bytes")
    source = opened()
    obj = source.stat("x.mp4")
    assert source.read(obj, 0, 3) == b"old"
    server.replace(identity, b"new-bytes")
    monkeypatch.setattr(gdrive, "CHECKED_FOR_S", 0.0)
    for _ in range(2):
        with pytest.raises(Changed):
            source.read(obj, 0, 3)
    assert source.read(source.stat("x.mp4"), 0, 3) == b"new"


def test_another_file_of_another_size_is_noticed_at_once(server: DriveServer, opened: Open) -> None:
    identity = server.file("x.mp4", b"old-bytes")
    source = opened()
    obj = source.stat("x.mp4")
    assert source.read(obj, 0, 3) == b"old"
    server.replace(identity, b"newer-bytes")
    with pytest.raises(Changed):
        source.read(obj, 0, 3)


@pytest.mark.parametrize("has_revision", [True, False])
def test_a_file_without_md5_has_a_version_too(has_revision: bool, server: DriveServer, opened: Open) -> None:
    identity = server.file("x.mp4", b"old-bytes", has_md5=False, has_revision=has_revision)
    source = opened()
    obj = source.stat("x.mp4")
    assert source.read(obj, 0, 3) == b"old"
    server.replace(identity, b"new-bytes")
    assert source.stat("x.mp4").version != obj.version


def test_a_file_that_went_to_the_trash_is_not_found(server: DriveServer, opened: Open) -> None:
    identity = server.file("x.mp4", b"data")
    source = opened()
    obj = source.stat("x.mp4")
    server.items[identity].trashed = True
    with pytest.raises(NotFound):
        source.read(obj, 0, 4)


def test_an_object_that_was_named_without_a_version_is_read(server: DriveServer, opened: Open) -> None:
    server.put("a/x.mp4", b"data")
    source = opened()
    assert source.read(ObjectInfo("a/x.mp4", 4, 0, ""), 1, 2) == b"at"
    with pytest.raises(Changed):
        source.read(ObjectInfo("a/x.mp4", 5, 0, ""), 1, 2)


def test_a_redirect_is_followed_and_an_answer_cut_short_is_no_answer(server: DriveServer, opened: Open) -> None:
    server.file("x.mp4", bytes(range(100)))
    source = opened()
    server.redirects = True
    assert whole(source, "x.mp4") == bytes(range(100))
    server.faults = lambda request: Truncate(50) if request.kind == "media" else None
    with pytest.raises(CorruptData):
        whole(source, "x.mp4")


# -- tokens


def test_an_ended_token_is_renewed_by_one_for_all_and_kept_in_the_file(
    server: DriveServer, opened: Open, credentials: Path
) -> None:
    server.file("x.mp4", bytes(1000))
    server.write_credentials(credentials, valid_for_s=-10)
    before = json.loads(credentials.read_text())
    source = opened()
    server.write_credentials(credentials, valid_for_s=-10, refresh=before["refresh_token"])
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda n: names(source) == {"x.mp4": "file"}, range(16)))
    assert server.count("token") == 1
    after = json.loads(credentials.read_text())
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"access_token", "token_expiry", "token_response"}
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert [path.name for path in credentials.parent.iterdir()] == [credentials.name]
    assert names(opened()) == {"x.mp4": "file"}  # with the token that was kept
    assert server.count("token") == 1


def test_a_token_that_ends_soon_is_renewed_before(server: DriveServer, opened: Open, credentials: Path) -> None:
    source = opened()
    server.write_credentials(credentials, valid_for_s=200)
    names(source)
    assert server.count("token") == 1
    assert all(request.authorization for request in server.requests if request.kind == "list")


def test_a_token_that_is_refused_is_renewed_once_while_bytes_are_read(server: DriveServer, opened: Open) -> None:
    data = os.urandom(100_000)
    server.file("x.mp4", data)
    source = opened()
    obj = source.stat("x.mp4")
    server.expire()
    with ThreadPoolExecutor(8) as threads:
        parts = threads.map(lambda n: source.read(obj, n * 1000, 1000), range(100))
        assert b"".join(parts) == data
    assert server.count("token") == 1


def test_a_token_that_is_refused_again_is_a_refusal(server: DriveServer, opened: Open) -> None:
    source = opened()
    server.faults = lambda request: Refuse(401, "authError") if request.kind == "list" else None
    with pytest.raises(AccessDenied, match="egofs auth gdrive"):
        names(source)
    assert (server.count("token"), server.count("list")) == (1, 2)


def test_while_the_token_is_good_nobody_hears_of_an_endpoint_that_is_away(
    server: DriveServer, opened: Open, credentials: Path
) -> None:
    server.write_credentials(credentials, valid_for_s=200)
    source = opened()
    server.write_credentials(credentials, valid_for_s=200)
    server.faults = lambda request: Refuse(500, "backendError") if request.kind == "token" else None
    for _ in range(3):
        assert names(source) == {}
    assert server.count("token") == 1
    server.expire()
    with pytest.raises(Unavailable):
        names(source)


def test_a_place_that_cannot_be_written_to_is_no_error(
    server: DriveServer, opened: Open, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened()
    server.write_credentials(credentials, valid_for_s=-10)
    before = credentials.read_text()
    monkeypatch.setattr(oauth, "write", lambda file, text: (_ for _ in ()).throw(OSError(30, "Read-only")))
    for _ in range(3):
        assert names(source) == {}
    assert server.count("token") == 1
    assert credentials.read_text() == before


def test_a_link_to_the_credentials_stays_one(server: DriveServer, opened: Open, tmp_path: Path) -> None:
    server.write_credentials(tmp_path / "real.json", valid_for_s=-10)
    (tmp_path / "link.json").symlink_to("real.json")
    assert names(opened(credentials=tmp_path / "link.json")) == {}
    assert (tmp_path / "link.json").is_symlink()
    assert server.count("token") == 1


def test_credentials_that_ended_are_a_refusal_until_others_are_there_and_google_is_left_alone(
    server: DriveServer, opened: Open, credentials: Path
) -> None:
    source = opened()
    server.file("x.mp4", b"data")
    obj = source.stat("x.mp4")
    server.expire()
    server.refresh_tokens.clear()
    for _ in range(5):
        with pytest.raises(AccessDenied, match=r"have ended or were revoked.*egofs auth gdrive"):
            source.read(obj, 0, 4)
    assert server.count("token") == 1
    server.write_credentials(credentials)
    assert source.read(obj, 0, 4) == b"data"
    assert server.count("token") == 1


def test_credentials_of_another_account_work_where_those_before_were_not_let_in(
    server: DriveServer, opened: Open, credentials: Path
) -> None:
    server.file("x.mp4", b"data")
    source = opened()
    assert names(source)
    server.hidden.add(server.root)
    with pytest.raises(AccessDenied):
        names(source)
    server.write_credentials(credentials)
    server.hidden.clear()
    assert names(source) == {"x.mp4": "file"}


def test_new_credentials_are_not_overwritten_by_the_renewed_old_ones(
    server: DriveServer, opened: Open, credentials: Path
) -> None:
    source = opened()
    server.write_credentials(credentials, valid_for_s=-10)
    newer = ""

    def replace_them(request: object) -> None:
        nonlocal newer
        if request.kind == "token":  # type: ignore[attr-defined]
            server.write_credentials(credentials)
            newer = credentials.read_text()

    server.faults = replace_them
    assert names(source) == {}
    assert credentials.read_text() == newer


def _changed(**more: object) -> Callable[[dict[str, object]], object]:
    return lambda told: {**told, **more}


BROKEN: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "a wrong client secret": (_changed(client_secret="wrong-secret"), "Google does not know the client"),
    "no refresh token": (_changed(refresh_token=None), "has no refresh token"),
    "no credentials": (lambda told: {}, "no credentials of PyDrive2"),
    "a list": (lambda told: [], "this holds no credentials"),
    "another class": (_changed(_module="os", _class="system"), "no credentials of PyDrive2"),
    "a part of them": (lambda told: {key: told[key] for key in ("_module", "_class")}, "not whole"),
    "no time": (_changed(token_expiry="soon", access_token=""), ""),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN)
def test_credentials_that_cannot_be_used_are_told_in_one_line_without_a_secret(
    change: Callable[[dict[str, object]], object],
    said: str,
    server: DriveServer,
    opened: Open,
    credentials: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    source = opened()
    server.write_credentials(credentials, valid_for_s=-10)
    told = json.loads(credentials.read_text())
    credentials.write_text(json.dumps(change(told)))
    if not said:
        assert names(source) == {}
        return
    with pytest.raises(AccessDenied, match=said) as raised:
        names(source)
    text = str(raised.value) + caplog.text
    assert "\n" not in str(raised.value)
    assert not [key for key in ("access_token", "refresh_token", "client_secret") if told[key] in text]
    assert "wrong-secret" not in text


def test_a_service_account_is_let_in_by_its_key(server: DriveServer, opened: Open, tmp_path: Path) -> None:
    server.write_service_account(tmp_path / "key.json")
    server.file("x.mp4", b"data")
    source = opened(service_account=tmp_path / "key.json")
    assert whole(source, "x.mp4") == b"data"
    server.expire()
    assert names(source) == {"x.mp4": "file"}
    assert server.count("token") == 2
    assert {scope for _, scope in server.tokens.values()} == {READONLY}
    server.service_keys.clear()
    server.expire()
    with pytest.raises(AccessDenied, match=r"key\.json"):
        names(source)


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"type": "service_account", "client_email": "a"}'])
def test_a_key_that_is_none_is_said_so(text: str, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(text)
    with pytest.raises(AccessDenied, match=r"key\.json"):
        names(opened(service_account=tmp_path / "key.json"))


def test_settings_say_where_the_other_files_are(server: DriveServer, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    server.write_credentials(tmp_path / "s/saved.json")
    server.write_service_account(tmp_path / "s/key.json")
    settings = tmp_path / "s/settings.yaml"
    settings.write_text(
        "client_config_backend: file\nclient_config_file: client_secrets.json\n"
        "save_credentials: True\nsave_credentials_backend: file\nsave_credentials_file: saved.json\n"
        "get_refresh_token: True\noauth_scope:\n  - https://www.googleapis.com/auth/drive\n"
    )
    assert names(opened(credentials=None, settings=settings)) == {}
    settings.write_text("client_config_backend: service\nservice_config:\n  client_json_file_path: key.json\n")
    assert names(opened(credentials=None, settings=settings)) == {}
    assert server.count("token") == 1
    for text, said in (
        ("- a", "no settings"),
        ("{", "no settings"),
        ("save_credentials: maybe", "no settings"),
        ("client_config_backend: service\nservice_config:\n  client_user_email: a", "client_json_file_path"),
    ):
        settings.write_text(text)
        with pytest.raises(OptionError, match=said):
            opened(credentials=None, settings=settings)


def test_the_files_are_those_here_or_else_those_of_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert gdrive.Options().settings == tmp_path / "home/.config/egofs/gdrive/settings.yaml"
    (tmp_path / "client_secrets.json").touch()
    assert gdrive.Options().settings == tmp_path / "settings.yaml"


# -- errors

ERRORS = {
    "quota of a file": (Refuse(403, "downloadQuotaExceeded", "usageLimits"), OverQuota, "24 hours"),
    "the same before": (Refuse(403, "quotaExceeded", "usageLimits"), OverQuota, "24 hours"),
    "a day's requests": (Refuse(403, "dailyLimitExceeded", "usageLimits"), OverQuota, "Pacific"),
    "too fast": (Refuse(403, "userRateLimitExceeded", "usageLimits"), Throttled, "fewer"),
    "too fast together": (Refuse(403, "rateLimitExceeded", "usageLimits"), Throttled, "fewer"),
    "too many": (Refuse(429, "rateLimitExceeded", headers={"Retry-After": "7"}), Throttled, "fewer"),
    "no permission": (Refuse(403, "insufficientFilePermissions"), AccessDenied, "14 days"),
    "no scope": (Refuse(403, "insufficientPermissions"), AccessDenied, "egofs auth gdrive"),
    "no API": (Refuse(403, "accessNotConfigured", "usageLimits"), AccessDenied, "switched off"),
    "no download": (Refuse(403, "cannotDownloadFile"), AccessDenied, "owner"),
    "malware": (Refuse(403, "cannotDownloadAbusiveFile"), SourceError, "malware"),
    "a domain": (Refuse(403, "domainPolicy"), AccessDenied, "administrators"),
    "anything else": (Refuse(403, "whoKnows"), AccessDenied, "whoKnows"),
    "no reason": (Refuse(403, "<b>"), AccessDenied, "403"),
    "a failure": (Refuse(500, "internalError"), Unavailable, "500"),
    "nobody home": (Refuse(503, "backendError"), Throttled, "503"),
}


@pytest.mark.parametrize(("fault", "kind", "said"), ERRORS.values(), ids=ERRORS)
def test_errors_are_told_apart(
    fault: Refuse, kind: type[EgofsError], said: str, server: DriveServer, opened: Open
) -> None:
    server.file("x.mp4", b"data")
    source = opened()
    obj = source.stat("x.mp4")
    server.faults = lambda request: fault if request.kind == "media" else None
    with pytest.raises(kind, match=said) as raised:
        source.read(obj, 0, 4)
    assert type(raised.value) is kind
    assert str(raised.value).startswith(f"read 4 bytes at 0 of gdrive://{server.root}/x.mp4: ")
    assert "\n" not in str(raised.value)
    assert raised.value.retry_after_s == (7 if fault.headers else 0)


def test_a_file_whose_quota_is_spent_is_not_asked_for_by_every_reader(server: DriveServer, opened: Open) -> None:
    server.file("x.mp4", b"data")
    server.file("y.mp4", b"data")
    source = RetryingSource(opened())
    x, y = source.stat("x.mp4"), source.stat("y.mp4")
    spent = x.version.partition("/")[0]
    server.faults = lambda request: (
        Refuse(403, "downloadQuotaExceeded") if request.kind == "media" and spent in request.path else None
    )
    for _ in range(5):
        with pytest.raises(OverQuota, match=r"x\.mp4: it has been downloaded too often"):
            source.read(x, 0, 4)
    assert server.count("media") == 1
    assert source.read(y, 0, 4) == b"data"
    assert source.refusal is None


def test_access_that_ended_is_told_with_where_to_ask_for_it_again(server: DriveServer, opened: Open) -> None:
    server.put("a/x.mp4", b"data")
    source = opened()
    obj = source.stat("a/x.mp4")
    server.hidden.add(server.root)
    where = f"14 days.*drive.google.com/drive/folders/{server.root}"
    for attempt in (
        lambda: names(source),
        lambda: names(source, "a"),
        lambda: source.stat("a/x.mp4"),
        lambda: source.read(obj, 0, 4),
        lambda: names(opened()),
    ):
        with pytest.raises(AccessDenied, match=where):
            attempt()


def test_a_file_instead_of_a_folder_is_said_so(server: DriveServer, opened: Open) -> None:
    identity = server.file("x.mp4", b"data")
    with pytest.raises(NotFound, match="is a file: give the id of the folder"):
        names(opened(f"gdrive://{identity}"))


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("gdrive://", {}, "names no folder"),
        ("gdrive://a b", {}, "names no folder"),
        ("gdrive://x/y", {}, "names no folder"),
        ("gdrive://x?q=1", {}, "names no folder"),
        ("gdrive://x", {"endpoint_url": "ftp://x"}, "is no URL"),
        ("gdrive://x", {"credentials": "/nowhere/credentials.json"}, "run `egofs auth gdrive`"),
        ("gdrive://x", {"service_account": "/nowhere/key.json"}, "/nowhere/key.json is not there"),
        ("gdrive://x", {"file_ids": "/nowhere/file_ids.pkl"}, "No such file"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_sent(
    url: str, options: dict[str, object], said: str, opened: Open, server: DriveServer
) -> None:
    with pytest.raises(OptionError, match=said):
        opened(url, **options)
    assert server.requests == []
    with pytest.raises(OptionError, match="shared_drive"):
        gdrive.Options(shared_drive="a b")


def test_without_pydrive2_the_extra_is_named(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'egofs\[gdrive\]'"):
        opened()


def test_opening_asks_nothing_and_imports_no_pydrive2(server: DriveServer, opened: Open) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from vfs.sources import gdrive; from pathlib import Path; "
        f"gdrive.open_source('gdrive://x', gdrive.Options(credentials=Path({str(__file__)!r}))); "
        "print(sorted({'pydrive2', 'oauth2client', 'googleapiclient', 'urllib3'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    opened()
    assert server.requests == []


def test_times_are_those_of_drive(server: DriveServer, opened: Open) -> None:
    identity = server.file("x.mp4", b"data")
    expected = server.items[identity].modified.timestamp()
    assert opened().stat("x.mp4").mtime_ns == int(expected * 1000) * 1_000_000
    assert time.time_ns() > opened().stat("x.mp4").mtime_ns
