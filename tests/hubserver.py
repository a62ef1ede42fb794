"""A small Hugging Face Hub for tests: repositories in memory, spoken of as the real one's HTTP API does, read-only.

It has what egofs looks at: revisions, listings in pages with a Link to the next, `resolve` with a redirect to a signed
address on another port that ends, small files that are redirected to the hub itself, private and gated repositories,
tokens, error codes in headers, limits on requests. Names of headers, codes and statuses are the real hub's
(huggingface_hub reads the same). What is listed recursively comes in no order, since none is promised.

    with HubServer() as hub: repo = hub.repository("datasets", "org/name"); repo.put("a/b.mp4", data); ... hub.url ...
"""

import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote, urlencode, urlsplit

from tests.s3server import Request
from tests.standin import Reply, StandIn

DATE = "2026-05-20T10:00:00.000Z"
_KEY = b"what the content network signs with"


@dataclass(frozen=True)
class Blob:
    """A file of a commit; large ones stand outside of git, by their sha256."""

    data: bytes
    is_large: bool

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def version(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.is_large else self.oid


@dataclass
class Repository:
    """A repository. What is put is committed to `main` when somebody next asks for that."""

    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    lists_gated: bool = True
    """Whether a gated repository is listed for everyone, as the hub does it."""
    large_from_bytes: int = 1000
    date: str = DATE
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    _work: dict[str, Blob] = field(default_factory=dict)
    _dirty: bool = True

    def put(self, path: str, data: bytes) -> None:
        self._work[path] = Blob(data, len(data) >= self.large_from_bytes)
        self._dirty = True

    def delete(self, path: str) -> None:
        del self._work[path]
        self._dirty = True

    def commit(self) -> str:
        """The commit of what has been put, to which `main` then leads."""
        if self._dirty:
            sha = hashlib.sha1(f"{self.name} {len(self.commits)} {time.time_ns()}".encode()).hexdigest()
            self.commits[sha] = dict(self._work)
            self.branches["main"] = sha
            self._dirty = False
        return self.branches["main"]

    def rewrite(self) -> None:
        """Forgets all commits but the newest, as super_squash_history does."""
        files = self.commits[self.commit()]
        self.commits.clear()
        self._work, self._dirty = dict(files), True
        self.commit()

    def resolved(self, revision: str) -> str | None:
        self.commit()
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer(StandIn):
    """The hub; `network` is what its signed addresses lead to."""

    def __init__(self, *, page: int = 1000, lives_s: float = 3600, port: int = 0) -> None:
        super().__init__(port)
        self.page = page
        self.lives_s = lives_s
        """How long signed addresses are good."""
        self.tokens: dict[str, set[str]] = {}
        """Valid tokens, with the gated and private repositories that they open."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.network = Network()

    def repository(self, kind: str, name: str, **more: object) -> Repository:
        made = self.repositories[kind, name] = Repository(kind, name, **more)  # type: ignore[arg-type]
        return made

    def __enter__(self) -> "HubServer":
        self.network.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.network.__exit__(*exc)

    # -- requests

    def answer(self, request: Request) -> Reply:
        path = urlsplit(request.target).path
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return _error(401, "", "Invalid username or password.")
        parts = path.removeprefix("/").split("/")
        api = parts[0] == "api"
        if api and parts[1] == "resolve-cache":
            kind, name, rest = parts[2], "/".join(parts[3:5]), ["file", *parts[5:]]
        elif api:
            kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        else:
            kind = parts.pop(0) if parts[0] in ("datasets", "spaces") else "models"
            name, rest = "/".join(parts[:2]), parts[2:]
        repo = self.repositories.get((kind, name))
        opened = bool(token) and name in self.tokens[token]
        if repo is None or (repo.private and not opened):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        refusal = None if opened or not repo.gated else self._gated(repo, bool(token))
        if refusal and (rest[0] not in ("revision", "tree") or not repo.lists_gated):
            return refusal
        if rest[0] == "auth-check":
            return Reply(200, {}, b"OK")
        sha = repo.resolved(unquote(rest[1]))
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {unquote(rest[1])}")
        below = unquote("/".join(rest[2:]))
        return {"revision": self._revision, "tree": self._tree, "resolve": self._resolve, "file": self._file}[rest[0]](
            request, repo, sha, below
        )

    def _gated(self, repo: Repository, with_token: bool) -> Reply:
        if with_token:
            words = f"Access to dataset {repo.name} is restricted and you are not in the authorized list."
            return _error(403, "GatedRepo", words)
        words = f"Access to dataset {repo.name} is restricted. You must have access to it and be authenticated."
        return _error(401, "GatedRepo", words)

    def _revision(self, request: Request, repo: Repository, sha: str, below: str) -> Reply:
        told = {"_id": "621f", "id": repo.name, "sha": sha, "lastModified": repo.date, "gated": repo.gated}
        return _json(told)

    def _tree(self, request: Request, repo: Repository, sha: str, folder: str) -> Reply:
        files = repo.commits[sha]
        prefix = f"{folder}/" if folder else ""
        recursive = request.query.get("recursive") == "true"
        rows: dict[str, dict[str, object]] = {}
        for path, blob in files.items():
            if not path.startswith(prefix):
                continue
            steps = path.removeprefix(prefix).split("/")
            for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
                above = prefix + "/".join(steps[:depth])
                oid = hashlib.sha1(f"{sha} {above}".encode()).hexdigest()
                rows[above] = {"type": "directory", "oid": oid, "size": 0, "path": above}
            if recursive or len(steps) == 1:
                rows[path] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
                if blob.is_large:
                    rows[path]["lfs"] = {"oid": blob.version, "size": len(blob.data), "pointerSize": 134}
                    rows[path]["xetHash"] = hashlib.sha256(b"xet" + blob.data).hexdigest()
        if not rows and folder:
            return _error(404, "EntryNotFound", f"{folder} does not exist on {sha}")
        key = (lambda path: hashlib.md5(path.encode()).hexdigest()) if recursive else None
        names = sorted(rows, key=key)
        begin = int(request.query.get("cursor") or 0)
        more = {}
        if begin + self.page < len(names):
            query = urlencode({**request.query, "cursor": begin + self.page})
            more["Link"] = f'<{self.url}{urlsplit(request.target).path}?{query}>; rel="next"'
        return _json([rows[name] for name in names[begin : begin + self.page]], more)

    def _resolve(self, request: Request, repo: Repository, sha: str, path: str) -> Reply:
        blob = repo.commits[sha].get(path)
        if blob is None:
            return _error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.version}"', "Date": formatdate(usegmt=True)}
        if not blob.is_large:
            there = f"/api/resolve-cache/{repo.kind}/{repo.name}/{sha}/{quote(path)}?etag={quote(headers['ETag'])}"
            return Reply(307, {**headers, "Location": there})
        there = self.network.sign(blob, self.lives_s)
        linked = {"X-Linked-Etag": f'"{blob.version}"', "X-Linked-Size": str(len(blob.data)), "X-Xet-Hash": "0" * 64}
        return Reply(302, {**headers, **linked, "Location": there}, b"Found. Redirecting")

    def _file(self, request: Request, repo: Repository, sha: str, path: str) -> Reply:
        blob = repo.commits[sha].get(path)
        if blob is None or blob.is_large:
            return _error(404, "EntryNotFound", "Entry not found")
        return Reply(200, {"ETag": f'"{blob.oid}"', "X-Repo-Commit": sha}, blob.data, ranges=True)


class Network(StandIn):
    """The content network: files by the hash of what is in them, for who has an address that is signed and not over."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.refused_with = 403
        self.revoked: set[str] = set()
        """Signatures that are not good any more, whatever they say."""

    def sign(self, blob: Blob, lives_s: float) -> str:
        self.blobs[blob.version] = blob.data
        now = time.time()
        query = {
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)),
            "X-Amz-Expires": str(lives_s),
            "X-Egofs-End": f"{now + lives_s:.3f}",
        }
        query["X-Amz-Signature"] = _signature(blob.version, query)
        return f"{self.url}/xet-bridge-us/0123/{blob.version}?{urlencode(query)}"

    def answer(self, request: Request) -> Reply:
        if "authorization" in request.headers:  # as S3 answers: two ways to let one in
            return Reply(400, {}, b"<Error><Code>InvalidArgument</Code></Error>")
        version = request.path.rpartition("/")[2]
        query = dict(request.query)
        signature = query.pop("X-Amz-Signature", "")
        over = time.time() > float(query.get("X-Egofs-End", 0)) or signature in self.revoked
        if over or not hmac.compare_digest(signature, _signature(version, query)):
            return Reply(self.refused_with, {}, b"<Error><Code>AccessDenied</Code></Error>")
        return Reply(200, {"ETag": '"something-of-the-network"'}, self.blobs[version], ranges=True)


def _signature(version: str, query: dict[str, str]) -> str:
    return hmac.new(_KEY, f"{version} {sorted(query.items())}".encode(), hashlib.sha256).hexdigest()


def _json(told: object, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, json.dumps(told).encode())


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    told = {**({"X-Error-Code": code} if code else {}), "X-Error-Message": message, **(headers or {})}
    return Reply(status, {"Content-Type": "application/json", **told}, json.dumps({"error": message}).encode())
