"""The contract that every source keeps, run over each.

A new source adds a store to `STORES`: how a test puts and deletes an object there, and how the source is opened.
"""

import csv
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.driveserver import DriveServer
from tests.hubserver import HubServer
from tests.s3server import S3Server
from tests.webserver import WebServer
from vfs.errors import Changed, EgofsError, NotFound, OptionError
from vfs.options import described
from vfs.sources import UNKNOWN_SIZE, Deep, DeepPage, Listed, ObjectInfo, Page, Paged, Source, module_for, names

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
ODD_NAMES = ["with space", "a+b", "a&b<c>", "ünïcode-日本", "100%", "a%2Fb", "quote'\"s", "semi;colon", "q?x=1#y", "~."]


@dataclass
class Store:
    """A store that a test fills: `put` makes or replaces an object, `delete` removes one."""

    source: Source
    put: Callable[[str, bytes], object]
    delete: Callable[[str], object]
    many: int = 2500
    """How many objects make a folder of several pages."""


def folder_store(root: Path, source: Source) -> Store:
    """A store whose objects are files below a folder."""

    def put(key: str, data: bytes) -> None:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        # As downloaders do, and S3: a new object takes the old one's place, whole.
        (root / "../new").write_bytes(data)
        os.replace(root / "../new", root / key)

    return Store(source, put, lambda key: (root / key).unlink())


def open_source(url: str, **options: object) -> Source:
    module = module_for(url)
    source: Source = module.open_source(url, module.Options(**options))
    return source


@contextmanager
def local(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "root").mkdir()
    yield folder_store(tmp_path / "root", open_source(str(tmp_path / "root")))


@contextmanager
def s3(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "root/bucket/some/prefix").mkdir(parents=True)
    with S3Server(tmp_path / "root", max_keys=300) as server:
        source = open_source("s3://bucket/some/prefix", endpoint_url=server.endpoint_url)
        yield folder_store(tmp_path / "root/bucket/some/prefix", source)
        source.close()
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}


class Below:
    """What stands below a folder of another source, as a source of its own."""

    remote = True

    def __init__(self, inner: Deep, top: str) -> None:
        self.inner = inner
        self.top = top
        self.url = f"{inner.url}{top}"

    def _above(self, obj: ObjectInfo) -> ObjectInfo:
        assert obj.key.startswith(f"{self.top}/")
        return replace(obj, key=obj.key.removeprefix(f"{self.top}/"))

    def _listed(self, entry: Listed) -> Listed:
        return replace(entry, object=self._above(entry.object)) if entry.object else entry

    def _path(self, folder: str) -> str:
        return f"{self.top}/{folder}" if folder else self.top

    def list(self, folder: str) -> Iterator[Listed]:
        return map(self._listed, self.inner.list(self._path(folder)))

    def page(self, folder: str, after: str) -> Page:
        page = self.inner.page(self._path(folder), after)
        return Page([*map(self._listed, page.listed)], page.after)

    def deep_page(self, folder: str, after: str) -> DeepPage:
        page = self.inner.deep_page(self._path(folder), after)
        return DeepPage([*map(self._above, page.objects)], page.more)

    def stat(self, key: str) -> ObjectInfo:
        return self._above(self.inner.stat(f"{self.top}/{key}"))

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        return self.inner.read(replace(obj, key=f"{self.top}/{obj.key}"), start, length)

    def close(self) -> None:
        self.inner.close()


@contextmanager
def s3_of_buckets(tmp_path: Path) -> Iterator[Store]:
    """Keys that begin with their bucket; what a root lists is the bucket's, as that of all buckets lists nothing."""
    (tmp_path / "root/bucket").mkdir(parents=True)
    with S3Server(tmp_path / "root", max_keys=300) as server:
        source = open_source("s3://", endpoint_url=server.endpoint_url)
        assert isinstance(source, Deep)
        yield folder_store(tmp_path / "root/bucket", Below(source, "bucket"))
        source.close()
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}


@cache
def moto_endpoint() -> str:
    """moto's server, started once and left running: it takes half a second to stop."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "http://{}:{}".format(*server.get_host_and_port())


@contextmanager
def s3_of_moto(tmp_path: Path) -> Iterator[Store]:
    """Somebody else's idea of S3, as a judge of ours."""
    import boto3

    bucket = f"bucket-{uuid.uuid4()}"
    client = boto3.client("s3", endpoint_url=moto_endpoint(), region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    source = open_source(f"s3://{bucket}/some/prefix", endpoint_url=moto_endpoint())
    yield Store(
        source,
        lambda key, data: client.put_object(Bucket=bucket, Key=f"some/prefix/{key}", Body=data),
        lambda key: client.delete_object(Bucket=bucket, Key=f"some/prefix/{key}"),
        many=1050,  # two pages: it takes 4 ms to store one
    )
    source.close()
    client.close()


@contextmanager
def gdrive(tmp_path: Path) -> Iterator[Store]:
    with DriveServer(most_results=300) as server:
        server.write_credentials(tmp_path / "credentials.json")
        source = open_source(
            f"gdrive://{server.root}", endpoint_url=server.endpoint_url, credentials=tmp_path / "credentials.json"
        )
        yield Store(source, server.put, lambda key: server.remove(server.find(key)))
        source.close()
        assert {request.method for request in server.requests} <= {"GET"}


@contextmanager
def hf(tmp_path: Path) -> Iterator[Store]:
    """A repository. Its source is of one commit for good: what is put is there for the next one that is opened."""
    with HubServer(page=300) as hub:
        repo = hub.repository("datasets", "org/name")

        def changed(change: Callable[..., None], *arguments: object) -> None:
            change(*arguments)
            sources.append(open_source("hf://datasets/org/name/some/folder", endpoint_url=hub.url))
            store.source = sources[-1]

        sources = [open_source("hf://datasets/org/name/some/folder", endpoint_url=hub.url)]
        repo.put("some/folder.txt", b"stands beside")
        store = Store(
            sources[0],
            lambda key, data: changed(repo.put, f"some/folder/{key}", data),
            lambda key: changed(repo.delete, f"some/folder/{key}"),
        )
        yield store
        for source in sources:
            source.close()


@contextmanager
def http(tmp_path: Path, **options: object) -> Iterator[Store]:
    """A folder of a web server, below a path that has to be encoded."""
    (tmp_path / "root/some folder").mkdir(parents=True)
    with WebServer(tmp_path / "root", pages="apache-pre", dav="listing" not in options) as server:
        source = open_source(f"{server.url}/some%20folder/", **options)
        yield folder_store(tmp_path / "root/some folder", source)
        source.close()


@contextmanager
def http_manifest(tmp_path: Path) -> Iterator[Store]:
    """A list of files, written anew when it is next read, with what the server tells of each."""
    root, file = tmp_path / "root/some folder", tmp_path / "list.csv"
    root.mkdir(parents=True)
    with WebServer(tmp_path / "root", pages="") as server:
        source = open_source(f"{server.url}/some folder", manifest=str(file))
        store = folder_store(root, source)

        def write() -> None:
            with file.open("w", newline="") as text:
                rows = csv.writer(text)
                rows.writerow(["path", "size", "version", "mtime", "url"])
                for path in (path for path in root.rglob("*") if path.is_file()):
                    facts, key = path.stat(), str(path.relative_to(root))
                    rows.writerow([key, facts.st_size, server.etag(path), int(facts.st_mtime), quote(key)])

        def changed(change: Callable[..., object], *arguments: object) -> None:
            change(*arguments)
            stale.append(True)

        def listed_anew(source: Source) -> Source:
            if stale:
                stale.clear()
                write()
            return source

        stale = [True]
        lazily = _Lazily(source, listed_anew)
        yield Store(lazily, lambda key, data: changed(store.put, key, data), lambda key: changed(store.delete, key))
        source.close()


class _Lazily:
    """A source that is prepared before it is asked."""

    def __init__(self, source: Source, prepared: Callable[[Source], Source]) -> None:
        self.url, self.remote = source.url, source.remote
        self._source, self._prepared = source, prepared
        self.close = source.close

    def list(self, folder: str) -> Iterator[Listed]:
        return self._prepared(self._source).list(folder)

    def stat(self, key: str) -> ObjectInfo:
        return self._prepared(self._source).stat(key)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        return self._prepared(self._source).read(obj, start, length)


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "local": local,
    "s3": s3,
    "s3_of_buckets": s3_of_buckets,
    "s3_of_moto": s3_of_moto,
    "gdrive": gdrive,
    "hf": hf,
    "http_index": partial(http, listing="index"),
    "http_webdav": http,
    "http_manifest": http_manifest,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with STORES[request.param](tmp_path) as opened:
        yield opened


def listed(source: Source, folder: str = "") -> dict[str, str]:
    """Names below a folder with their kinds; a name listed twice fails."""
    found = list(source.list(folder))
    assert len({entry.name for entry in found}) == len(found)
    return {entry.name: entry.kind for entry in found}


def agree(listed: ObjectInfo | None, obj: ObjectInfo) -> bool:
    """Whether a listing tells of an object what it is, or that it does not know its size, and then nothing but that."""
    if listed is not None and listed.size_bytes == UNKNOWN_SIZE:
        return (listed.key, listed.version) == (obj.key, "")
    return listed == obj


def test_a_folder_lists_its_files_and_folders_and_nothing_further_below(store: Store) -> None:
    for key in ("top.txt", "a/x.mp4", "a/y.mp4", "a/b/c/deep.bin", "a.txt"):
        store.put(key, b"data")
    assert listed(store.source) == {"top.txt": "file", "a": "dir", "a.txt": "file"}
    assert listed(store.source, "a") == {"x.mp4": "file", "y.mp4": "file", "b": "dir"}
    assert listed(store.source, "a/b") == {"c": "dir"}
    assert listed(store.source, "a/b/c") == {"deep.bin": "file"}


def test_a_folder_is_not_taken_for_another_whose_name_begins_alike(store: Store) -> None:
    store.put("train/x", b"1")
    store.put("training/y", b"2")
    assert listed(store.source, "train") == {"x": "file"}
    with pytest.raises(NotFound):
        list(store.source.list("trai"))


def test_a_listed_object_is_the_one_that_stat_gives(store: Store) -> None:
    store.put("a/x.bin", b"12345")
    store.put("empty", b"")
    (entry,) = store.source.list("a")
    obj = store.source.stat("a/x.bin")
    assert agree(entry.object, obj)
    assert obj.key == "a/x.bin"
    assert obj.size_bytes == 5
    assert obj.version != ""
    assert obj.mtime_ns > 1_600_000_000_000_000_000
    assert store.source.stat("empty").size_bytes == 0


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_listed_found_and_read(store: Store, name: str) -> None:
    store.put(f"in {name}/{name}", name.encode())
    assert listed(store.source) == {f"in {name}": "dir"}
    (entry,) = store.source.list(f"in {name}")
    assert entry.name == name
    obj = store.source.stat(f"in {name}/{name}")
    assert agree(entry.object, obj)
    assert store.source.read(obj, 0, obj.size_bytes) == name.encode()


def test_thousands_of_names_are_listed_once_each(store: Store) -> None:
    wanted = {f"many/{n:04}.jpg" for n in range(store.many)}
    for key in wanted:
        store.put(key, b"")
    assert {f"many/{name}" for name in listed(store.source, "many")} == wanted


def test_pages_and_deep_pages_show_each_object_once(store: Store) -> None:
    """What a store can do beyond listing a folder: a folder on disk can do neither, and the hub only pages."""
    if not isinstance(store.source, Paged):
        assert not isinstance(store.source, Deep)
        return
    keys = {f"{folder}/{n:03}" for folder in ("top/a", "top/a!", "top/a-b/c d", "top/ü") for n in range(90)}
    for key in keys:
        store.put(key, b"1")
    assert isinstance(store.source, Paged)
    first = store.source.page("top", "")
    assert ({entry.name for entry in first.listed}, first.after) == ({"a", "a!", "a-b", "ü"}, "")
    if not isinstance(store.source, Deep):
        return
    found, page = list[str](), store.source.deep_page("top", "")
    while True:
        found += [obj.key for obj in page.objects]
        if not page.more:
            break
        page = store.source.deep_page("top", found[-1].removeprefix("top/"))
    assert found == sorted(keys, key=str.encode)
    assert page.objects[-1] == store.source.stat(found[-1])
    beyond = store.source.deep_page("top", "a/").objects
    assert [obj.key for obj in beyond] == [key for key in found if key > "top/a/"][: len(beyond)]
    assert list(store.source.deep_page("nothing", "").objects) == []


@pytest.mark.parametrize("folder", ["nothing", "nothing/below", "file", "file/below", "dir/nothing", "x\0y", "\udcff"])
def test_a_folder_that_is_not_there_is_not_found(store: Store, folder: str) -> None:
    store.put("file", b"data")
    store.put("dir/file", b"data")
    with pytest.raises(NotFound):
        list(store.source.list(folder))


@pytest.mark.parametrize("key", ["nothing", "nothing/below", "file/below", "dir", "dir/nothing", "\udcff", "n" * 300])
def test_an_object_that_is_not_there_is_not_found(store: Store, key: str) -> None:
    store.put("file", b"data")
    store.put("dir/file", b"data")
    with pytest.raises(NotFound):
        store.source.stat(key)


def test_a_range_is_read_exactly_wherever_it_lies(store: Store) -> None:
    data = os.urandom(300_000)
    store.put("x.bin", data)
    obj = store.source.stat("x.bin")
    ranges = [(0, 1), (0, 100), (123_456, 65_536), (299_999, 1), (200_000, 100_000), (0, 300_000), (1, 299_999)]
    for start, length in ranges:
        assert store.source.read(obj, start, length) == data[start : start + length], (start, length)


def test_an_object_that_was_replaced_is_changed_for_who_opened_it_and_fresh_for_stat(store: Store) -> None:
    store.put("x.bin", b"old-bytes")
    old = store.source.stat("x.bin")
    store.put("x.bin", b"new-bytes")
    with pytest.raises(Changed):
        store.source.read(old, 0, 9)
    new = store.source.stat("x.bin")
    assert new.version != old.version
    assert store.source.read(new, 0, 9) == b"new-bytes"


def test_an_object_that_became_shorter_is_changed_even_beyond_its_end(store: Store) -> None:
    store.put("x.bin", bytes(1000))
    old = store.source.stat("x.bin")
    store.put("x.bin", b"short")
    with pytest.raises(Changed):
        store.source.read(old, 900, 100)


def test_an_object_that_was_deleted_is_not_found(store: Store) -> None:
    store.put("a/x.bin", b"data")
    store.put("a/y.bin", b"data")
    obj = store.source.stat("a/x.bin")
    store.delete("a/x.bin")
    for attempt in (lambda: store.source.read(obj, 0, 4), lambda: store.source.stat("a/x.bin")):
        with pytest.raises(NotFound):
            attempt()
    assert listed(store.source, "a") == {"y.bin": "file"}


def test_sixteen_threads_read_the_right_bytes(store: Store) -> None:
    data = os.urandom(1 << 20)
    store.put("x.bin", data)
    obj = store.source.stat("x.bin")

    def reads(seed: int) -> bool:
        starts = [(seed * 7919 + n * 104_729) % (len(data) - 5000) for n in range(8)]
        return all(store.source.read(obj, start, 5000) == data[start : start + 5000] for start in starts)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(reads, range(16)))


def test_errors_are_ours_and_name_the_object(store: Store) -> None:
    with pytest.raises(EgofsError, match="missing/thing"):
        store.source.stat("missing/thing")


@pytest.mark.parametrize("name", ["local", "s3", "gdrive", "hf", "http"])
def test_a_store_describes_its_options_and_refuses_others(name: str) -> None:
    module = module_for("." if name == "local" else f"{name}://x")
    assert name in names()
    assert all(told.description for told in described(module.Options).values())
    with pytest.raises(TypeError, match="nonsense"):
        module.Options(nonsense=1)
    with pytest.raises(AttributeError):
        module.Options().endpoint_url = "x"


def test_a_url_of_no_known_store_says_which_there_are() -> None:
    with pytest.raises(OptionError, match="s3://"):
        module_for("gopher://x")
