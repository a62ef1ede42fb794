"""What stores say of whole objects, and `egofs verify`, which holds files against it."""

import base64
import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mountd import control, verification
from tests.archives import tame, tar_of, zip_of
from tests.driveserver import DriveServer
from tests.hubserver import HubServer
from tests.memorysource import MemorySource
from tests.mounting import egofs, mounted, wait_until
from tests.s3server import S3Server
from tests.test_sources import open_source
from vfs import s3sums, verifying
from vfs.cache import ChunkCache
from vfs.datasets.plain import PlainTree
from vfs.digests import Checksum, begun
from vfs.errors import Changed, CorruptData, SourceError, Unavailable
from vfs.mounted import MountedDataset
from vfs.sources import ObjectInfo, checksum_of
from vfs.sources.ahead import AheadSource
from vfs.sources.archives import ArchiveSource
from vfs.sources.retry import RetryingSource
from vfs.verifying import Verdict, Verifier

DATA = random.Random(5).randbytes(1_300_021)
ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


def digest(checksum: Checksum, data: bytes, piece: int = 100_003) -> bytes:
    made = begun(checksum)
    for start in range(0, len(data), piece):
        made.update(data[start : start + piece])
    return made.digest()


def of_parts(algorithm: str, data: bytes, part: int) -> bytes:
    """The digest of the parts' digests, by hashlib alone."""
    parts = [hashlib.new(algorithm, data[start : start + part]).digest() for start in range(0, len(data), part)]
    return hashlib.new(algorithm, b"".join(parts)).digest()


# -- checksums


@pytest.mark.parametrize(
    ("algorithm", "check"),
    [("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")],
)
def test_crcs_give_the_check_values_of_their_catalogue(algorithm: str, check: str) -> None:
    assert digest(Checksum(algorithm, b""), b"123456789").hex() == check


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "crc32", "crc32c", "crc64nvme"])
def test_a_digest_does_not_depend_on_how_bytes_come(algorithm: str) -> None:
    whole = digest(Checksum(algorithm, b""), DATA, len(DATA))
    assert {digest(Checksum(algorithm, b""), DATA, piece) for piece in (97, 65_536, 700_001)} == {whole}
    changed = bytearray(DATA)
    changed[len(DATA) // 2] ^= 1
    assert digest(Checksum(algorithm, b""), bytes(changed)) != whole


def test_crc32_is_zlibs_at_every_length() -> None:
    for length in (0, 1, 255, 256, 257, 512, 1 << 20, (1 << 20) + 1):
        assert digest(Checksum("crc32", b""), DATA[:length]) == zlib.crc32(DATA[:length]).to_bytes(4, "big")


@pytest.mark.parametrize("kind", ["crc32c", "crc64nvme"])
def test_a_crc_of_lanes_is_that_of_single_bytes(kind: str) -> None:
    for length in (0, 255, 256, 257, 1023, 70_000):
        singly = begun(Checksum(kind, b""))
        for at in range(length):
            singly.update(DATA[at : at + 1])
        assert digest(Checksum(kind, b""), DATA[:length], 1 << 20) == singly.digest()


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 2000, 12_345])
def test_a_digest_of_parts_is_that_of_their_digests(size: int) -> None:
    assert digest(Checksum("md5", b"", part_bytes=1000), DATA[:size], 77) == of_parts("md5", DATA[:size], 1000)


def test_gzip_vouches_for_itself_to_its_end() -> None:
    packed = gzip.compress(DATA[:200_000])
    assert digest(Checksum("gzip", b""), packed, 999) == b""
    assert digest(Checksum("gzip", b""), packed + gzip.compress(b"more") + bytes(512), 999) == b""
    for wrong in (packed[:-1], packed[:-8] + bytes(8), packed + b"x", b"", b"no gzip", packed + b"\x1f\x8bx"):
        assert digest(Checksum("gzip", b""), wrong, 999) != b""


def test_a_bomb_in_gzip_takes_no_memory() -> None:
    packed = gzip.compress(bytes(64 << 20))
    made = begun(Checksum("gzip", b""))
    made.update(packed)
    assert made.digest() == b""


def test_a_checksum_of_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(SourceError, match="'xxhash' is not known"):
        begun(Checksum("xxhash", b""))


# -- what S3 says


def asked_in_vain(number: int) -> int:
    raise AssertionError("no part had to be asked for")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_s3_says_a_checksum_of_its_own_before_an_etag() -> None:
    told = {
        "etag": '"' + "0" * 32 + '"',
        "x-amz-checksum-crc64nvme": b64(b"12345678"),
        "x-amz-checksum-type": "FULL_OBJECT",
    }
    assert s3sums.find(told, 9, asked_in_vain) == Checksum("crc64nvme", b"12345678")
    assert s3sums.find(told | {"x-amz-checksum-sha256": b64(bytes(32))}, 9, asked_in_vain) == Checksum(
        "sha256", bytes(32)
    )


@pytest.mark.parametrize("key", ["aws:kms", "aws:kms:dsse"])
def test_an_etag_of_what_a_key_encrypts_is_no_md5(key: str) -> None:
    told = {"etag": '"' + "0" * 32 + '"'}
    assert s3sums.find(told, 9, asked_in_vain) == Checksum("md5", bytes(16))
    assert s3sums.find(told | {"x-amz-server-side-encryption": "AES256"}, 9, asked_in_vain) is not None
    assert s3sums.find(told | {"x-amz-server-side-encryption": key}, 9, asked_in_vain) is None
    assert s3sums.find(told | {"x-amz-server-side-encryption-customer-algorithm": "AES256"}, 9, asked_in_vain) is None


@pytest.mark.parametrize("etag", ["", "abc", "W/" + "0" * 32, "0" * 31, "0" * 33, "0" * 32 + "-", "0" * 32 + "-0"])
def test_an_etag_of_another_form_says_nothing(etag: str) -> None:
    assert s3sums.find({"etag": f'"{etag}"'}, 9, asked_in_vain) is None


@pytest.mark.parametrize(
    ("size", "sizes", "part_bytes"),
    [
        (2500, {1: 1000, 3: 500}, 1000),
        (3000, {1: 1000, 3: 1000}, 1000),
        (2000, {1: 1000}, None),  # there would be two parts
        (3001, {1: 1000}, None),
        (2500, {1: 900, 3: 600}, None),  # the second is larger than the first
        (2500, {1: 0, 3: 0}, None),
    ],
)
def test_parts_count_where_all_but_the_last_are_as_large(
    size: int, sizes: dict[int, int], part_bytes: int | None
) -> None:
    found = s3sums.find({"etag": '"' + "0" * 32 + '-3"'}, size, sizes.__getitem__)
    assert found == (None if part_bytes is None else Checksum("md5", bytes(16), part_bytes))


def test_a_checksum_that_is_none_is_an_error() -> None:
    with pytest.raises(CorruptData, match="a checksum that is none"):
        s3sums.find({"x-amz-checksum-sha256": "no base 64!"}, 9, asked_in_vain)
    with pytest.raises(CorruptData, match="20000 parts"):
        s3sums.find({"etag": '"' + "0" * 32 + '-20000"'}, 9, asked_in_vain)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "store/bucket/a").mkdir(parents=True)
    (tmp_path / "store/bucket/a/x.bin").write_bytes(DATA)
    with S3Server(tmp_path / "store") as server:
        yield server


def through_all(source: object) -> ArchiveSource:
    """In the wrappers that a mount has."""
    return ArchiveSource(AheadSource(RetryingSource(source)), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("by_boto3", [False, True])
def test_a_bucket_is_asked_by_one_head_and_for_parts_by_three(
    s3: S3Server, by_boto3: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    bucket = open_source("s3://bucket", endpoint_url=s3.endpoint_url, region="us-east-1")
    bucket._direct_is_over = by_boto3  # type: ignore[attr-defined]
    source = through_all(bucket)
    try:
        obj = source.stat("a/x.bin")
        before = len(s3.requests)
        assert checksum_of(source, obj) == Checksum("md5", hashlib.md5(DATA).digest())
        s3.checksums["a/x.bin"] = {"x-amz-checksum-sha256": b64(hashlib.sha256(DATA).digest())}
        assert checksum_of(source, obj) == Checksum("sha256", hashlib.sha256(DATA).digest())
        assert len(s3.requests) == before + 2
        s3.part_bytes["a/x.bin"] = 500_000
        s3.checksums["a/x.bin"] = {"x-amz-checksum-sha256": b64(of_parts("sha256", DATA, 500_000)) + "-3"}
        found = checksum_of(source, obj)
        assert found == Checksum("sha256", of_parts("sha256", DATA, 500_000), 500_000)
        assert digest(found, DATA) == found.digest
        assert [(request.method, request.query) for request in s3.requests[before + 2 :]] == [
            ("HEAD", {}),
            ("HEAD", {"partNumber": "1"}),
            ("HEAD", {"partNumber": "3"}),
        ]
        with pytest.raises(Changed):
            checksum_of(source, ObjectInfo(obj.key, obj.size_bytes, 0, "0" * 32))
    finally:
        source.close()


def test_other_stores_say_it_by_the_version(tmp_path: Path) -> None:
    sha256, md5 = hashlib.sha256(DATA), hashlib.md5(DATA)
    blob = hashlib.sha1(b"blob 3\0abc").digest()
    with HubServer() as hub:
        repository = hub.repository("datasets", "org/name")
        repository.put("large.mp4", DATA)
        repository.put("small", b"abc")
        source = through_all(open_source("hf://datasets/org/name", endpoint_url=hub.url))
        large, small = source.stat("large.mp4"), source.stat("small")
        before = len(hub.requests)
        assert checksum_of(source, large) == Checksum("sha256", sha256.digest())
        told = checksum_of(source, small)
        assert told is not None
        assert told.digest == blob == digest(told, b"abc")
        assert len(hub.requests) == before
        source.close()
    listed = tmp_path / "files.csv"
    listed.write_text(
        f"path,size,sha256,md5\na,{len(DATA)},{sha256.hexdigest()},\nb,{len(DATA)},,{md5.hexdigest()}\nc,1,,x\n"
    )
    source = through_all(open_source("http://127.0.0.1:9/", manifest=str(listed)))
    objects = {entry.name: entry.object for entry in source.list("")}
    assert checksum_of(source, objects["a"]) == Checksum("sha256", sha256.digest())
    assert checksum_of(source, objects["b"]) == Checksum("md5", md5.digest())
    assert checksum_of(source, objects["c"]) is None
    source.close()


def test_drive_says_the_md5_of_what_has_one() -> None:
    from vfs.sources.gdrive import DriveSource

    with DriveServer() as server:
        server.file("x.mp4", DATA)
        version = f"{'a' * 20}/{hashlib.md5(DATA).hexdigest()}"
        source = DriveSource.__new__(DriveSource)
        assert source.checksum(ObjectInfo("x", 1, 0, version)) == Checksum("md5", hashlib.md5(DATA).digest())
        assert source.checksum(ObjectInfo("x", 1, 0, f"{'a' * 20}/revision-7")) is None


def test_archives_vouch_for_their_members_and_gzip_for_itself() -> None:
    tar = tar_of({"t/x": tame(5000)})
    source = ArchiveSource(MemorySource({"a.zip": zip_of({"x": DATA, "y": b""}), "t.tar.gz": gzip.compress(tar)}), None)
    try:
        for name, data in (("x", DATA), ("y", b"")):
            (obj,) = [entry.object for entry in source.list("a") if entry.name == name]
            told = checksum_of(source, obj)
            assert told == Checksum("crc32", zlib.crc32(data).to_bytes(4, "big"))
        packed = source.stat("t.tar.gz")
        assert checksum_of(source, packed) == Checksum("gzip", b"")
        (member,) = source.list("t")
        assert member.object is not None
        assert checksum_of(source, member.object) is None
        assert checksum_of(source, source.stat("a.zip")) is None
    finally:
        source.close()


# -- files held against it


class Told(MemorySource):
    """A store that says the SHA-256 of its objects, as they should be, and gives other bytes while `wrong`."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.right = dict(objects)
        self.wrong: set[str] = set()

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        if obj.key.startswith("untold"):
            return None
        return Checksum("sha256", hashlib.sha256(self.right[obj.key]).digest())

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        data = bytearray(super().read(obj, start, length))
        if obj.key in self.wrong:
            data[0] ^= 1
        return bytes(data)


@pytest.fixture
def store() -> Told:
    return Told({"a/one": DATA, "a/b/two": DATA[:70_000], "a/b/empty": b"", "untold": b"x", "three": DATA[:99]})


@pytest.fixture
def tree(store: Told, tmp_path: Path) -> Iterator[MountedDataset]:
    cache = ChunkCache(tmp_path, 1 << 30)
    opened = MountedDataset(PlainTree(store), store, cache, None, space="t", listing_age_s=60.0, disk=cache.disk)
    yield opened
    opened.close()


def verdicts(
    tree: MountedDataset, path: str = "", note: Callable[[int], None] = lambda count: None
) -> dict[str, Verdict]:
    verifier = Verifier(tree, note)
    return {file.path: verifier.verdict(file) for file in verifier.files(path)}


OK = Verdict("ok", "sha256")


def test_a_folder_is_verified_with_all_below_and_a_file_alone(tree: MountedDataset) -> None:
    counted: list[int] = []
    assert verdicts(tree, "", counted.append) == {
        "three": OK,
        "untold": Verdict("unknown"),
        "a/one": OK,
        "a/b/two": OK,
        "a/b/empty": OK,
    }
    assert sum(counted) == len(DATA) + 70_000 + 99
    assert verdicts(tree, "a/b/two") == {"a/b/two": OK}


def test_what_is_not_kept_is_read_once_and_not_kept(tree: MountedDataset, store: Told) -> None:
    verdicts(tree, "a/one")
    assert sum(length for _, _, length in store.reads) == len(DATA)
    assert tree.cache is not None
    tree.cache.settle()
    assert tree.cache.used_bytes() == 0


def kept(tree: MountedDataset, folder: str, name: str) -> None:
    """Reads a file to its end, so that it is kept on disk."""
    obj = tree.catalog.lookup(folder, name).object
    assert obj is not None
    tree.object_file(folder, obj).read(0, obj.size_bytes)
    assert tree.cache is not None
    tree.cache.settle()


def test_what_is_kept_is_verified_as_it_is_kept(tree: MountedDataset, store: Told) -> None:
    kept(tree, "a", "one")
    before = len(store.reads)
    assert verdicts(tree, "a/one") == {"a/one": OK}
    assert len(store.reads) == before


def test_a_damaged_copy_is_dropped_and_a_damaged_object_is_told(tree: MountedDataset, store: Told) -> None:
    store.wrong.add("a/one")
    kept(tree, "a", "one")
    obj = tree.sizes.entry("a", "one").object
    assert obj is not None
    file = tree.object_file("a", obj)
    assert file.cached_bytes() == len(DATA)
    assert verdicts(tree, "a/one") == {"a/one": Verdict("differs", "sha256")}
    kept(tree, "a", "one")
    store.wrong.clear()
    assert verdicts(tree, "a/one") == {"a/one": Verdict("mended", "sha256")}
    wait_until(lambda: file.cached_bytes() == 0)
    assert bytes(file.read(0, len(DATA))) == DATA
    assert verdicts(tree, "a/one") == {"a/one": OK}


def test_a_file_that_cannot_be_read_stops_no_other(tree: MountedDataset, store: Told) -> None:
    def fail() -> None:
        raise Unavailable("the network is down")

    store.before_read = fail
    found = verdicts(tree)
    assert found["a/one"] == Verdict("failed", why="the network is down")
    assert found["a/b/empty"] == OK


def test_who_breaks_off_is_heard_at_the_next_piece(tree: MountedDataset) -> None:
    class Enough(Exception):
        pass

    def note(count: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        verdicts(tree, "a/one", note)


class Asker:
    """The other end of a request, which listens to so many messages."""

    def __init__(self, listens: int) -> None:
        self.told: list[dict[str, object]] = []
        self._listens = listens

    def tell(self, **facts: object) -> None:
        if len(self.told) == self._listens:
            raise control.Gone
        self.told.append(facts)


def test_the_daemon_tells_of_each_file_and_reads_no_more_once_nobody_listens(
    tree: MountedDataset, store: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "_PIECE_BYTES", 1000)
    verify = verification.operation(tree, SimpleNamespace())  # type: ignore[arg-type]
    asker = Asker(100)
    done = verify({"paths": ["a", "untold"], "jobs": 2}, asker)  # type: ignore[arg-type]
    assert done == {"ok": 3, "mended": 0, "differs": 0, "unknown": 1, "failed": 0, "bytes": len(DATA) + 70_000}
    assert {told["file"] for told in asker.told if "file" in told} == {"a/one", "a/b/two", "a/b/empty", "untold"}
    before = len(store.reads)
    store.delay_s = 0.002
    with pytest.raises(control.Gone):
        verify({"paths": ["a"], "jobs": 2}, Asker(1))  # type: ignore[arg-type]
    assert len(store.reads) - before < len(DATA) // 1000


# -- the command


@pytest.mark.mount
def test_the_command_tells_of_each_file_and_its_status_of_all(s3: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "store/bucket/a"
    (folder / "wrong.bin").write_bytes(DATA)
    (folder / "untold").write_bytes(b"x")
    s3.checksums["a/wrong.bin"] = {"x-amz-checksum-sha256": b64(bytes(32))}
    s3.etags[str(folder / "untold")] = ((0, 0, 0), "")
    facts = (folder / "untold").stat()
    s3.etags[str(folder / "untold")] = ((facts.st_mtime_ns, facts.st_size, facts.st_ino), "opaque")
    options = f"endpoint_url={s3.endpoint_url}"
    with mounted("s3://bucket", tmp_path / "m", options, cache=tmp_path / "c", env=ENV) as m:
        done = egofs("verify", m.directory)
        assert done.returncode == 1
        assert sorted(done.stdout.splitlines()) == [
            f"{m.directory}/a/untold: no checksum is known",
            f"{m.directory}/a/wrong.bin: DIFFERS from what the store says of it (sha256)",
            f"{m.directory}/a/x.bin: ok (md5)",
        ]
        assert done.stderr == "egofs: 1 ok, 1 differ, 1 without a known checksum; 2.5 MiB read\n"
        done = egofs("verify", "--json", "--jobs", "1", m / "a/x.bin", m / "a/untold")
        assert done.returncode == 0
        assert [json.loads(line) for line in done.stdout.splitlines()] == [
            {"path": f"{m.directory}/a/x.bin", "size": len(DATA), "outcome": "ok", "checksum": "md5"},
            {"path": f"{m.directory}/a/untold", "size": 1, "outcome": "unknown", "checksum": None},
        ]
        done = egofs("verify", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no egofs is mounted here" in done.stderr
        done = egofs("verify", m / "a/nothing")
        assert done.returncode == 32
        assert m.status()["asked"]["bugs"] == 0


@pytest.mark.mount
def test_a_mended_file_reads_right_at_once(s3: S3Server, tmp_path: Path) -> None:
    """The kernel had its wrong bytes too."""
    from tests.faults import Garble

    s3.faults = lambda request: Garble() if request.range else None
    options = f"endpoint_url={s3.endpoint_url}"
    with mounted("s3://bucket", tmp_path / "m", options, cache=tmp_path / "c", env=ENV) as m:
        file = m / "a/x.bin"
        assert file.read_bytes() != DATA
        s3.faults = lambda request: None
        assert file.read_bytes() != DATA
        done = egofs("verify", file)
        assert done.returncode == 0, done.stderr
        assert "what was kept of it was damaged" in done.stdout
        assert file.read_bytes() == DATA
