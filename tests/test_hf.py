"""The Hugging Face Hub as a source: revisions, listings, signed addresses that end, and who is let in."""

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.faults import Body, Cut, Garble, HangUp, Shift, Status, Truncate, Whole
from tests.hubserver import HubServer, Repository
from tests.test_sources import listed, open_source
from vfs import bulk
from vfs.errors import (
    AccessDenied,
    Changed,
    CorruptData,
    EgofsError,
    NotFound,
    OptionError,
    SourceError,
    Throttled,
    Timeout,
    Unavailable,
)
from vfs.hub import api, walk
from vfs.sources import Source, hf
from vfs.sources.ahead import AheadSource
from vfs.sources.retry import RetryingSource

URL = "hf://datasets/org/name"
LARGE = bytes(range(256)) * 40
SMALL = b"a few words"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in on this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def repo(server: HubServer) -> Repository:
    made = server.repository("datasets", "org/name")
    made.put("a/large.mp4", LARGE)
    made.put("a/small.csv", SMALL)
    made.put("README.md", b"# read me")
    return made


@pytest.fixture
def source(server: HubServer, repo: Repository) -> Iterator[Source]:
    opened = open_source(URL, endpoint_url=server.url)
    yield opened
    opened.close()


def methods(requests: list) -> list[str]:
    return [request.method for request in requests]


# -- what is asked ------------------------------------------------------------------------------------------------


def test_opening_asks_nothing_and_the_revision_is_asked_for_once(server: HubServer, source: Source) -> None:
    assert server.requests == []
    listed(source)
    listed(source, "a")
    source.stat("a/large.mp4")
    assert [request.path for request in server.asked("GET", "/revision/")] == ["/api/datasets/org/name/revision/main"]
    assert len(server.requests) == 4


def test_a_listing_tells_sizes_and_versions_without_asking_for_a_file(server: HubServer, repo: Repository) -> None:
    source = open_source(URL, endpoint_url=server.url)
    objects = {entry.name: entry.object for entry in source.list("a")}
    blobs = repo.commits[repo.commit()]
    assert {name: (obj.size_bytes, obj.version) for name, obj in objects.items() if obj} == {
        "large.mp4": (len(LARGE), blobs["a/large.mp4"].version),
        "small.csv": (len(SMALL), blobs["a/small.csv"].oid),
    }
    assert methods(server.requests) == ["GET", "GET"]
    source.close()


def test_a_large_file_is_read_at_the_networks_address_without_the_token(
    server: HubServer, repo: Repository, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("hf_good\n")
    server.tokens["hf_good"] = {"org/name"}
    source = open_source(URL, endpoint_url=server.url, token_file=str(tmp_path / "token"))
    obj = source.stat("a/large.mp4")
    for start in range(0, 1000, 100):
        assert source.read(obj, start, 100) == LARGE[start : start + 100]
    assert methods(server.asked(path="/resolve/")) == ["HEAD"]
    assert methods(server.network.requests) == ["GET"] * 10
    assert all("authorization" not in request.headers for request in server.network.requests)
    assert all(request.headers["authorization"] == "Bearer hf_good" for request in server.requests)
    source.close()


def test_a_small_file_is_read_from_the_hub_itself(server: HubServer, repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_good")
    repo.private = True
    server.tokens["hf_good"] = {"org/name"}
    source = open_source(URL, endpoint_url=server.url, token_file=str(tmp_path / "token"))
    obj = source.stat("a/small.csv")
    assert source.read(obj, 2, 3) == SMALL[2:5]
    assert source.read(obj, 0, len(SMALL)) == SMALL
    assert methods(server.asked(path="resolve")) == ["HEAD", "HEAD", "GET", "GET"]  # the first is redirected
    assert server.network.requests == []
    source.close()


def test_many_who_read_a_file_have_its_address_asked_for_once(server: HubServer, source: Source) -> None:
    (entry,) = (entry for entry in source.list("a") if entry.name == "large.mp4")
    obj = entry.object
    assert obj is not None
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda n: source.read(obj, n, 64) == LARGE[n : n + 64], range(64))) == {True}
    assert len(server.asked("HEAD")) == 1


def test_a_folder_of_a_repository_and_a_revision_are_named_in_the_url(server: HubServer, repo: Repository) -> None:
    repo.branches["refs/convert/parquet"] = repo.commit()
    repo.branches["v1.0"] = repo.commit()
    for url, names in {
        f"{URL}@v1.0/a": {"large.mp4", "small.csv"},
        f"{URL}@refs/convert/parquet": {"a", "README.md"},
        f"{URL}@{repo.commit()}/a/": {"large.mp4", "small.csv"},
        "HF://Datasets/org/name": {"a", "README.md"},
    }.items():
        source = open_source(url, endpoint_url=server.url)
        assert listed(source).keys() == names
        source.close()


def test_models_and_spaces_are_read_in_the_same_way(server: HubServer) -> None:
    for kind in ("models", "spaces"):
        server.repository(kind, "org/name").put("weights", LARGE)
        source = open_source(f"hf://{kind}/org/name", endpoint_url=server.url)
        assert source.read(source.stat("weights"), 5, 5) == LARGE[5:10]
        source.close()


def test_equal_urls_name_equal_things_and_other_hubs_others(server: HubServer) -> None:
    urls = {
        open_source(url, endpoint_url=endpoint).url
        for endpoint in ("https://huggingface.co", "https://huggingface.co/", server.url)
        for url in (URL, f"{URL}/", f"{URL}@main", f"{URL}@main/a", "hf://org/name", "hf://models/org/name")
    }
    assert urls == {
        *(URL, f"{URL}@main", f"{URL}@main/a", "hf://models/org/name"),
        *(f"hf+{server.url}/{path}" for path in ("datasets/org/name", "datasets/org/name@main", "models/org/name")),
        f"hf+{server.url}/datasets/org/name@main/a",
    }


@pytest.mark.parametrize(
    "url",
    ["hf://", "hf://datasets/name", "hf://datasets/org/name@", "hf://kernels/org/name/x@y", f"{URL}/a//b", f"{URL}/.."],
)
def test_a_url_of_no_repository_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="hf://"):
        open_source(url)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="endpoint_url"):
        open_source(URL, endpoint_url="huggingface.co")
    with pytest.raises(OptionError, match="endpoint_url"):
        open_source(URL, endpoint_url="https://me:secret@huggingface.co")


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hf.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "huggingface_hub" else found(name)

    monkeypatch.setattr(hf, "find_spec", find_spec)
    with pytest.raises(OptionError, match=r"pip install 'egofs\[hf\]'"):
        open_source(URL)


def test_the_library_is_imported_with_the_first_question_only(server: HubServer, repo: Repository) -> None:
    import subprocess

    script = (
        "import sys; from tests.test_sources import open_source; "
        f"source = open_source({URL!r}, endpoint_url={server.url!r}); "
        "assert 'huggingface_hub' not in sys.modules; list(source.list('')); "
        "assert 'huggingface_hub.hf_api' not in sys.modules; source.close(); print('well')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")


# -- listings -----------------------------------------------------------------------------------------------------


def recordings(repo: Repository, count: int, each: int = 12) -> None:
    for n in range(count):
        for view in range(each):
            repo.put(f"recordings/r{n:03}/v{view}.mp4", b"%d %d" % (n, view))


def test_a_walk_through_362_recordings_is_a_few_requests(server: HubServer, repo: Repository) -> None:
    recordings(repo, 362)
    source = open_source(URL, endpoint_url=server.url)
    walked = AheadSource(RetryingSource(source))
    names = sorted(listed(walked, "recordings"))
    for n, name in enumerate(names):
        views = {entry.name: entry.object for entry in walked.list(f"recordings/{name}")}
        assert views.keys() == {f"v{view}.mp4" for view in range(12)}
        obj = views["v3.mp4"]
        assert obj is not None
        assert (obj.key, obj.size_bytes) == (f"recordings/{name}/v3.mp4", len(b"%d 3" % n))
    # The commit, the folder, the first recording, and 362 * 13 entries in pages of a thousand.
    assert len(server.requests) == 8
    walked.close()


def test_a_walk_asks_for_no_more_than_it_can_save(server: HubServer, repo: Repository) -> None:
    server.page = 10
    recordings(repo, 8, each=30)  # 248 entries are 25 pages, and eight folders 24
    source = open_source(URL, endpoint_url=server.url)
    for name in sorted(listed(source, "recordings")):
        assert len(listed(source, f"recordings/{name}")) == 30
    recursive = [request for request in server.requests if request.query.get("recursive") == "true"]
    assert len(recursive) <= 4
    source.close()


def test_who_opens_folders_in_no_order_has_nothing_listed_ahead(server: HubServer, repo: Repository) -> None:
    recordings(repo, 40)
    source = open_source(URL, endpoint_url=server.url)
    listed(source, "recordings")
    for n in (30, 3, 20, 39, 7):
        assert len(listed(source, f"recordings/r{n:03}")) == 12
    assert len(server.requests) == 2 + 5
    source.close()


def test_a_walk_that_fails_costs_nothing_but_itself(server: HubServer, repo: Repository) -> None:
    recordings(repo, 20)
    server.faults = lambda request: Status(500) if request.query.get("recursive") == "true" else None
    source = open_source(URL, endpoint_url=server.url)
    for name in sorted(listed(source, "recordings")):
        assert len(listed(source, f"recordings/{name}")) == 12
    assert len(server.requests) == 2 + 20 + 1
    source.close()


def test_what_is_listed_ahead_and_not_asked_for_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_KEPT_S", 0.05)
    rows = {"": [api.Row(f"r{n}", True) for n in range(9)]}
    walks = walk.Walks(lambda folder, after: ([api.Row(f"r{n}/x", False, 1, "v") for n in range(9)], ""))
    walks.note("", rows[""], is_first=True)
    assert walks.take("r0") is None
    assert walks.take("r1") == [api.Row("r1/x", False, 1, "v")]
    assert walks.take("r1") is None  # given once
    gone = threading.Event()
    for _ in range(200):
        if walks._walk is None:
            gone.set()
            break
        threading.Event().wait(0.01)
    assert gone.is_set()
    assert walks.take("r2") is None
    walks.close()


def test_pages_of_one_listing_are_of_one_commit(server: HubServer, repo: Repository) -> None:
    server.page = 5
    for n in range(12):
        repo.put(f"many/{n:02}", b"x")
    source = open_source(URL, endpoint_url=server.url)
    first = source.page("many", "")  # type: ignore[attr-defined]
    repo.put("many/00-new", b"x")
    repo.commit()
    second = source.page("many", first.after)  # type: ignore[attr-defined]
    third = source.page("many", second.after)  # type: ignore[attr-defined]
    names = [entry.name for page in (first, second, third) for entry in page.listed]
    assert (names, third.after) == ([f"{n:02}" for n in range(12)], "")
    source.close()


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'[{"type": "file"}]', b'[{"type":"file","path":"b/x","size":1,"oid":"1"}]', b"[1]"]
)
def test_a_listing_that_is_none_is_corrupt(server: HubServer, source: Source, body: bytes) -> None:
    server.faults = lambda request: Body(body) if "/tree/" in request.path else None
    with pytest.raises(CorruptData, match="list"):
        listed(source, "a")


# -- commits ------------------------------------------------------------------------------------------------------


def test_a_source_stays_at_its_commit_when_the_branch_moves(
    server: HubServer, repo: Repository, source: Source
) -> None:
    old = source.stat("a/large.mp4")
    repo.put("a/large.mp4", LARGE[::-1])
    repo.put("a/new", SMALL)
    repo.commit()
    assert listed(source, "a").keys() == {"large.mp4", "small.csv"}
    assert source.read(old, 0, 100) == LARGE[:100]
    assert source.stat("a/large.mp4") == old


def test_a_catalog_of_an_older_commit_is_never_mixed_with_a_newer(server: HubServer, repo: Repository) -> None:
    first = open_source(URL, endpoint_url=server.url)
    before = {entry.name: entry.object for entry in first.list("a")}
    first.close()
    repo.put("a/large.mp4", LARGE[::-1])
    repo.put("a/other", LARGE)
    second = open_source(URL, endpoint_url=server.url)
    large, small = before["large.mp4"], before["small.csv"]
    assert large is not None
    assert small is not None
    with pytest.raises(Changed):
        second.read(large, 0, 10)
    assert second.read(small, 0, 10) == SMALL[:10]
    assert second.read(second.stat("a/large.mp4"), 0, 10) == LARGE[::-1][:10]
    repo.delete("a/small.csv")
    third = open_source(URL, endpoint_url=server.url)
    with pytest.raises(NotFound):
        third.read(small, 0, 10)
    second.close()
    third.close()


def test_a_history_that_was_rewritten_is_looked_up_again(server: HubServer, repo: Repository, source: Source) -> None:
    obj = source.stat("a/large.mp4")
    repo.put("a/small.csv", b"other words")
    repo.rewrite()
    assert listed(source, "a").keys() == {"large.mp4", "small.csv"}
    assert source.stat("a/large.mp4").version == obj.version
    small = source.stat("a/small.csv")
    assert source.read(small, 0, small.size_bytes) == b"other words"
    assert len(server.asked("GET", "/revision/")) == 2


def test_an_address_of_an_older_commit_does_not_hide_the_newer_file(
    server: HubServer, repo: Repository, source: Source
) -> None:
    source.read(source.stat("a/large.mp4"), 0, 10)
    repo.put("a/large.mp4", LARGE[::-1])
    repo.rewrite()
    (obj,) = (entry.object for entry in source.list("a") if entry.name == "large.mp4")
    assert obj is not None
    assert source.read(obj, 0, 10) == LARGE[::-1][:10]


def test_the_files_time_is_that_of_the_commit(server: HubServer, repo: Repository, source: Source) -> None:
    assert source.stat("a/small.csv").mtime_ns == 1_779_271_200 * 1_000_000_000


# -- addresses that end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_an_address_that_is_refused_is_asked_for_once_more(server: HubServer, source: Source, status: int) -> None:
    obj = source.stat("a/large.mp4")
    server.network.refused_with = status
    assert source.read(obj, 0, 10) == LARGE[:10]
    server.network.revoked |= {request.query["X-Amz-Signature"] for request in server.network.requests}
    server.lives_s = 1800  # another address, therefore
    assert source.read(obj, 10, 10) == LARGE[10:20]
    assert source.read(obj, 20, 10) == LARGE[20:30]
    assert (len(server.asked("HEAD")), len(server.network.requests)) == (2, 4)


def test_many_who_are_refused_ask_once(server: HubServer, source: Source) -> None:
    obj = source.stat("a/large.mp4")
    assert source.read(obj, 0, 10) == LARGE[:10]
    server.network.revoked |= {request.query["X-Amz-Signature"] for request in server.network.requests}
    server.lives_s = 1800
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda n: source.read(obj, n, 64) == LARGE[n : n + 64], range(64))) == {True}
    assert len(server.asked("HEAD")) == 2


def test_an_address_that_is_about_to_end_is_not_used(server: HubServer, source: Source) -> None:
    server.lives_s = 0.2
    obj = source.stat("a/large.mp4")
    assert source.read(obj, 0, 10) == LARGE[:10]
    threading.Event().wait(0.3)
    assert source.read(obj, 10, 10) == LARGE[10:20]
    assert len(server.network.requests) == 2  # none of them was refused


def test_an_address_that_stays_refused_is_an_error_without_the_signature(server: HubServer, source: Source) -> None:
    obj = source.stat("a/large.mp4")
    server.network.faults = lambda request: Status(403)
    with pytest.raises(AccessDenied, match=r"a/large.mp4: refused \(403\)") as raised:
        source.read(obj, 0, 10)
    assert "Signature" not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)
    assert len(server.network.requests) == 2


@pytest.mark.parametrize(
    ("query", "date", "seconds"),
    [
        ("Expires=1000003600&Signature=x", "Sun, 09 Sep 2001 01:46:40 GMT", 3570),
        ("X-Amz-Date=20010909T014640Z&X-Amz-Expires=3600", "Sun, 09 Sep 2001 01:46:40 GMT", 3570),
        ("X-Amz-Date=20010909T014640Z&X-Amz-Expires=3600", "Sun, 09 Sep 2001 02:46:40 GMT", 0),
        ("Expires=1000000100", "Sun, 09 Sep 2001 01:46:40 GMT", 90),
        ("Expires=soon", "", 900),
        ("Expires=1e400", "", 604800),
        ("", "", 900),
    ],
)
def test_an_address_tells_how_long_it_is_good_by_the_servers_clock(query: str, date: str, seconds: float) -> None:
    assert api.lifetime_s(f"https://x/y?{query}", date) == seconds


def test_addresses_that_are_kept_are_bounded(
    server: HubServer, repo: Repository, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "_MOST_LOCATIONS", 5)
    recordings(repo, 1, each=9)
    for n in range(9):
        source.stat(f"recordings/r000/v{n}.mp4")
    assert isinstance(source, hf.HubSource)
    assert len(source._locations) == 5


# -- bytes --------------------------------------------------------------------------------------------------------

WRONG = [
    (Truncate(3), CorruptData),
    (Cut(2), CorruptData),
    (Shift(1), CorruptData),
    (Status(416), CorruptData),
    (Status(500), Unavailable),
    (Status(429, headers={"Retry-After": "7"}), Throttled),
    (HangUp(), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), WRONG, ids=lambda value: str(value))
def test_what_is_not_the_range_is_an_error(server: HubServer, source: Source, fault, kind: type[EgofsError]) -> None:
    obj = source.stat("a/large.mp4")
    server.network.faults = lambda request: fault
    with pytest.raises(EgofsError) as raised:
        source.read(obj, 100, 50)
    assert type(raised.value) is kind
    assert "a/large.mp4" in str(raised.value)
    assert raised.value.retry_after_s == (7 if kind is Throttled else 0)


def test_a_mirror_without_ranges_gives_small_files(server: HubServer, source: Source) -> None:
    obj = source.stat("a/large.mp4")
    server.network.faults = lambda request: Whole()
    assert source.read(obj, 100, 50) == LARGE[100:150]


def test_another_size_than_was_told_is_corrupt(server: HubServer, repo: Repository, source: Source) -> None:
    obj = source.stat("a/large.mp4")
    server.network.blobs[obj.version] = LARGE + b"more"
    with pytest.raises(CorruptData, match="something else"):
        source.read(obj, 0, 10)


def test_a_mirror_that_tells_no_version_is_not_believed(server: HubServer, source: Source) -> None:
    server.faults = lambda request: Status(200) if request.method == "HEAD" else None
    with pytest.raises(SourceError, match="version and size"):
        source.stat("a/large.mp4")


def test_a_version_that_is_not_that_of_the_listing_is_changed(source: Source) -> None:
    obj = source.stat("a/large.mp4")
    with pytest.raises(Changed):
        source.read(replace(obj, version="0" * 64), 0, 10)
    with pytest.raises(Changed):
        source.read(replace(obj, size_bytes=5), 0, 5)
    assert source.read(replace(obj, version=""), 0, 10) == LARGE[:10]


def test_flipped_bits_are_not_seen_here(server: HubServer, source: Source) -> None:
    """TLS is what holds them off; the cache's own checksums begin after this."""
    obj = source.stat("a/large.mp4")
    server.network.faults = lambda request: Garble()
    assert source.read(obj, 0, 10) != LARGE[:10]


# -- who is let in ------------------------------------------------------------------------------------------------


def refusal(url: str = URL, **options: object) -> EgofsError:
    source = open_source(url, **options)
    with pytest.raises(EgofsError) as raised:
        listed(source)
    source.close()
    assert "\n" not in str(raised.value)
    assert "hf_" not in str(raised.value)
    return raised.value


def test_who_is_not_let_in_is_told_what_to_do(server: HubServer, repo: Repository, tmp_path: Path) -> None:
    token = tmp_path / "token"
    with_token = {"endpoint_url": server.url, "token_file": str(token)}
    server.tokens = {"hf_other": set(), "hf_good": {"org/name"}}
    page = f"{server.url}/datasets/org/name"

    repo.gated = "auto"
    failure = refusal(endpoint_url=server.url)
    assert type(failure) is AccessDenied
    assert f"ask for it at {page}" in str(failure)
    assert "token_file=FILE" in str(failure)

    token.write_text("hf_other")
    failure = refusal(**with_token)
    assert type(failure) is AccessDenied
    assert f"the token in {token} has not been given access: ask for it at {page}" in str(failure)

    token.write_text("hf_wrong")
    failure = refusal(**with_token)
    assert type(failure) is AccessDenied
    assert f"does not know the token (the token in {token})" in str(failure)

    repo.gated, repo.private = False, True
    failure = refusal(endpoint_url=server.url)
    assert type(failure) is AccessDenied
    assert "there is no org/name, or it is private" in str(failure)

    token.write_text("hf_other")
    failure = refusal(**with_token)
    assert type(failure) is NotFound
    assert "there is no org/name, or it is private: check the name, or whether the token" in str(failure)

    token.write_text("hf_good")
    source = open_source(URL, **with_token)
    assert listed(source).keys() == {"a", "README.md"}
    source.close()


def test_a_gated_repository_that_is_listed_for_everyone_is_refused_at_once(server: HubServer, repo: Repository) -> None:
    repo.gated = "manual"
    refusal(endpoint_url=server.url)
    assert [request.path.rpartition("/")[2] for request in server.requests] == ["main", "auth-check"]


def test_access_that_ends_while_mounted_is_said(server: HubServer, repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_good")
    server.tokens["hf_good"] = {"org/name"}
    repo.gated = "auto"
    source = open_source(URL, endpoint_url=server.url, token_file=str(tmp_path / "token"))
    obj = source.stat("a/small.csv")
    server.tokens["hf_good"] = set()
    with pytest.raises(AccessDenied, match="has not been given access: ask for it at"):
        source.read(obj, 0, 5)
    server.tokens["hf_good"] = {"org/name"}
    assert source.read(obj, 0, 5) == SMALL[:5]
    source.close()


def test_a_token_that_is_put_there_later_is_used(server: HubServer, repo: Repository, tmp_path: Path) -> None:
    token = tmp_path / "token"
    repo.private = True
    server.tokens["hf_good"] = {"org/name"}
    source = open_source(URL, endpoint_url=server.url, token_file=str(token))
    for content in (None, "", "two words", "hf_wrong", "hf_ünïcode"):
        if content is not None:
            token.write_text(content)
        with pytest.raises(AccessDenied, match=str(token)) as raised:
            listed(source)
        assert not content or content not in str(raised.value)
    token.write_text("hf_good\n")
    assert listed(source).keys() == {"a", "README.md"}
    source.close()


def test_the_token_that_the_library_finds_is_used(
    server: HubServer, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.private = True
    server.tokens["hf_good"] = {"org/name"}
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    source = open_source(URL, endpoint_url=server.url)
    assert source.read(source.stat("a/large.mp4"), 0, 3) == LARGE[:3]
    source.close()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the token that huggingface_hub finds" in str(refusal(endpoint_url=server.url))


def test_a_page_of_a_listing_on_another_server_is_not_asked_there(server: HubServer, source: Source) -> None:
    listed(source)
    there = {"Link": f'<{server.network.url}/api/datasets/org/name/tree/x?cursor=0>; rel="next"'}
    server.faults = lambda request: (
        Status(200, "[]", there) if "/tree/" in request.path and not request.query.get("cursor") else None
    )
    assert listed(source, "a").keys() == {"large.mp4", "small.csv"}
    assert server.network.requests == []


def test_an_api_that_sends_to_another_server_is_not_followed(server: HubServer, source: Source) -> None:
    server.faults = lambda request: Status(307, headers={"Location": f"{server.network.url}/api"})
    with pytest.raises(SourceError, match="endpoint_url"):
        listed(source)
    assert server.network.requests == []


@pytest.mark.parametrize("target", ["ftp://elsewhere/x", "file:///etc/passwd", "http://[", "http://h:port/"])
def test_an_address_that_is_not_of_the_web_is_not_followed(server: HubServer, source: Source, target: str) -> None:
    linked = {"X-Linked-Etag": '"1"', "X-Linked-Size": "9"}
    server.faults = lambda request: (
        Status(302, headers={"Location": target, **linked}) if request.method == "HEAD" else None
    )
    with pytest.raises(SourceError, match="the hub sends to"):
        source.stat("a/large.mp4")


def test_an_encrypted_hub_does_not_send_to_where_nothing_is_encrypted() -> None:
    follow = api.Repository._followed
    assert follow("stat x", "https://h/a", "https://network/x?s=1") == "https://network/x?s=1"
    with pytest.raises(SourceError, match="http://network, where this does not follow"):
        follow("stat x", "https://h/a", "http://network/x?s=1")


def test_a_repository_with_another_name_by_now_is_followed(server: HubServer, source: Source) -> None:
    new = server.repository("datasets", "org/new")
    new.put("x", SMALL)
    server.faults = lambda request: (
        Status(307, headers={"Location": request.target.replace("org/name", "org/new")})
        if "org/name" in request.path
        else None
    )
    assert listed(source).keys() == {"x"}
    assert source.read(source.stat("x"), 0, 5) == SMALL[:5]


@pytest.mark.parametrize(
    ("fault", "kind", "said", "after_s"),
    [
        (Status(429, headers={"Retry-After": "9"}), Throttled, "fewer requests", 9),
        (Status(429, headers={"RateLimit": '"api";r=0;t=55'}), Throttled, "fewer requests", 55),
        (Status(429, headers={"RateLimit": '"api";r=3;t=55'}), Throttled, "fewer requests", 0),
        (Status(503), Throttled, "503", 0),
        (Status(500), Unavailable, "500", 0),
        (Status(404, headers={"X-Error-Code": "RevisionNotFound"}), NotFound, "no revision 'main'", 0),
        (Status(403, headers={"X-Error-Message": "fine-grained token"}), AccessDenied, "fine-grained token", 0),
        (Status(403, headers={"X-Error-Message": "Access to this resource is disabled."}), AccessDenied, "disabled", 0),
        (Status(400), SourceError, "400", 0),
        (HangUp(), Unavailable, "connection was lost", 0),
        (Body(b"not json"), CorruptData, "no JSON", 0),
        (Body(b'{"sha": "main"}'), CorruptData, "tells no commit", 0),
        (Status(302, headers={"Location": "/api/datasets/org/name/revision/main"}), SourceError, "without end", 0),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_hubs_errors_are_ours(
    server: HubServer, repo: Repository, fault, kind: type[EgofsError], said: str, after_s: float
) -> None:
    server.faults = lambda request: fault
    failure = refusal(endpoint_url=server.url)
    assert type(failure) is kind or (kind is NotFound and isinstance(failure, NotFound))
    assert said in str(failure)
    assert failure.retry_after_s == after_s
    assert len(server.requests) <= 6  # nothing is tried again but a redirect


def test_a_revision_that_is_not_there_is_said(server: HubServer, repo: Repository) -> None:
    failure = refusal(f"{URL}@v9", endpoint_url=server.url)
    assert isinstance(failure, NotFound)
    assert "org/name has no revision 'v9'" in str(failure)


def test_a_hub_that_is_not_there_is_said(server: HubServer) -> None:
    assert "the hub cannot be reached" in str(refusal(endpoint_url="http://127.0.0.1:9"))
    assert type(refusal(endpoint_url="http://127.0.0.1:9")) is Unavailable


def test_a_hub_that_says_nothing_is_a_timeout(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IDLE_S", 0.2)
    server.faults = lambda request: server.closing.wait(1) and None
    assert type(refusal(endpoint_url=server.url)) is Timeout


def test_offline_mode_is_said(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in str(refusal(endpoint_url=server.url))


def test_no_secret_is_logged(
    server: HubServer, repo: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text("hf_good")
    server.tokens["hf_good"] = {"org/name"}
    source = open_source(URL, endpoint_url=server.url, token_file=str(tmp_path / "token"))
    obj = source.stat("a/large.mp4")
    server.network.faults = lambda request: Status(403)
    with pytest.raises(AccessDenied):
        source.read(obj, 0, 10)
    source.close()
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith(("vfs", "httpx", "hugg")))
    assert "hf_good" not in ours
    assert "X-Amz-Signature" not in ours
