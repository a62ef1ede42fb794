"""Repositories of the Hugging Face Hub as a source: datasets, and models and spaces in the same way.

It hides that bytes are somewhere else than listings: the hub (vfs/hub/) tells where a file is, mostly at an address
of a content network that it signs for an hour, and that address is read by ranges (vfs/web.py) until it ends or is
refused. Files that the hub keeps in Xet are had in the same way: for clients that do not speak that protocol the hub
signs an address of a bridge, which puts the file together and gives ranges.

Found by its URL, hf://datasets/ORG/NAME, with @REVISION and /FOLDER behind it where one wants them. The revision is a
commit for as long as the source lives. A file's version is its sha256, or the blob id where git itself holds it, and
what the hub tells of an address is compared with that: a branch that has moved since a catalog was written cannot mix
two states of a file. It does not retry. Any thread may enter.
"""

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from vfs import web
from vfs.digests import Checksum
from vfs.errors import AccessDenied, Changed, CorruptData, EgofsError, NotFound, OptionError
from vfs.flight import Flights
from vfs.hub import walk
from vfs.hub.api import KINDS, Kind, Location, Repository, Row, token_place
from vfs.options import option, option_group
from vfs.sources import Credentials, Listed, ObjectInfo, Page, by_pages, token_in
from vfs.tokenfile import TokenFile

_log = logging.getLogger(__name__)

_URL = re.compile(
    r"hf://(?:(datasets|models|spaces)/)?(?!(?:datasets|models|spaces|kernels|buckets)/)([\w.-]+/[\w.-]+)"
    r"(?:@(refs/(?:pr/\d+|convert/[\w.-]+)|[^/@]+))?(?:/(.*))?",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)
_ENDPOINT = "https://huggingface.co"
# Addresses of a kilobyte each.
_MOST_LOCATIONS = 4096
# What an address answers that has ended, or that its signature is not right for any more.
_ENDED = {400, 401, 403, 404, 410}


@option_group
class Options:
    """The mount options of a repository of the Hugging Face Hub."""

    token_file: Path | None = option(
        default=None, description="file with a token of Hugging Face, else what huggingface_hub finds (hf auth login)"
    )
    endpoint_url: str = option(
        default=_ENDPOINT, description="URL of the hub, or of a mirror of it, such as http://127.0.0.1:8000"
    )


def open_source(url: str, options: Options) -> "HubSource":
    """A repository, or a folder of it, as a source. Sends nothing yet. Raises OptionError."""
    match = _URL.fullmatch(url)
    if not match:
        raise OptionError(
            f"{url!r} names no repository: write hf://datasets/ORG/NAME, then @REVISION or /FOLDER if need be"
        )
    if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", options.endpoint_url):
        raise OptionError(f"endpoint_url={options.endpoint_url!r} is no URL: write https://HOST, or http://HOST:PORT")
    if find_spec("huggingface_hub") is None:
        raise OptionError(f"{url}: huggingface_hub is not installed: pip install 'egofs[hf]'")
    kind = next(known for known in KINDS if known == (match[1] or "models").lower())
    folder = (match[4] or "").strip("/")
    if not _can_be(folder or "x"):
        raise OptionError(f"{url!r}: {folder!r} can be no folder")
    return HubSource(kind, match[2], match[3], folder, options)


def credentials(url: str, options: Options) -> Credentials:
    """The token that the hub would be sent."""
    if options.token_file is not None:
        return token_in(options.token_file)
    where, file = token_place()
    return Credentials("a token", where, file) if where else Credentials("no token: public repositories alone")


def address(url: str, options: Options) -> str:
    """The hub's."""
    return options.endpoint_url


class HubSource:
    """A repository at one revision, or what stands below a folder of it; see the module's docstring."""

    remote = True

    def __init__(self, kind: Kind, name: str, revision: str | None, folder: str, options: Options) -> None:
        endpoint = options.endpoint_url.rstrip("/")
        at = f"@{revision}" if revision else ""
        self._place = f"hf://{kind}/{name}{at}/{folder}".rstrip("/")
        # Another hub's repository of the same name holds other objects.
        self.url = self._place if endpoint == _ENDPOINT else f"hf+{endpoint}/{self._place.removeprefix('hf://')}"
        self._folder = folder
        token_file = TokenFile(options.token_file) if options.token_file else None
        self._hub = Repository(endpoint, kind, name, revision or "main", token_file)
        self._web = web.Web(_judge)
        self._walks = walk.Walks(
            lambda folder, after: self._hub.tree(f"list all below {folder}", folder, after, recursive=True)
        )
        self._lock = threading.Lock()
        self._locations: OrderedDict[str, Location] = OrderedDict()  # by path; under the lock
        self._asking: Flights[str, Location] = Flights()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder; one request for each thousand names."""
        return by_pages(folder, self.page)

    def page(self, folder: str, after: str) -> Page:
        """A thousand entries of a folder, or all that were listed ahead of a walk."""
        what = f"list {self._place}/{folder}".rstrip("/")
        path = self._path(folder, what) if folder else self._folder
        date_ns = self._hub.commit().date_ns
        ahead = None if after else self._walks.take(path)
        rows, following = (ahead, "") if ahead is not None else self._hub.tree(what, path, after)
        if ahead is None:
            self._walks.note(path, rows, is_first=not after)
        return Page([self._listed(what, path, row, date_ns) for row in rows], following)

    def renew(self) -> None:
        """Looks at which commit the revision is by now. The file with the token is looked at whenever it is sent."""
        self._hub.renew()
        self._walks.forget()
        with self._lock:
            self._locations.clear()

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is in the commit, from one HEAD."""
        what = f"stat {self._place}/{key}"
        location = self._located(what, self._path(key, what), None)
        return ObjectInfo(key, location.size_bytes, self._hub.commit().date_ns, location.version)

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes, from one GET at an address that the hub gave for this version."""
        what = f"read {length} bytes at {start} of {self._place}/{obj.key}"
        path = self._path(obj.key, what)
        known = self._known(path)
        if known is not None:
            try:
                return self._bytes(what, obj, known, start, length)
            except (_Ended, Changed) as failure:
                _log.info("%s: the hub is asked where it is by now: %s", obj.key, failure)
        return self._bytes(what, obj, self._located(what, path, known), start, length)

    def _bytes(self, what: str, obj: ObjectInfo, location: Location, start: int, length: int) -> bytes:
        if location.size_bytes != obj.size_bytes or obj.version not in ("", location.version):
            raise Changed(f"{what}: it has been replaced: open it again")
        # The address has the content's hash in it, or the commit: an answer need not tell the version again.
        file = web.File(location.url, location.size_bytes)
        try:
            return self._web.read(what, file, start, length, location.headers)
        except Changed as failure:
            raise CorruptData(f"{what}: something else came, from where the hub says that it is") from failure

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """The version: the sha256 of what stands outside of git, else what git calls a blob of these bytes."""
        if re.fullmatch("[0-9a-f]{64}", obj.version):
            return Checksum("sha256", bytes.fromhex(obj.version))
        if re.fullmatch("[0-9a-f]{40}", obj.version):
            return Checksum("sha1", bytes.fromhex(obj.version), before=b"blob %d\0" % obj.size_bytes)
        return None

    def close(self) -> None:
        """Ends the connections."""
        self._walks.close()
        self._web.close()
        self._hub.close()

    # -- names

    def _path(self, key: str, what: str) -> str:
        """The path in the repository. Raises NotFound for what git cannot name."""
        if not _can_be(key):
            raise NotFound(f"{what}: nothing can have that name in a repository")
        return f"{self._folder}/{key}" if self._folder else key

    def _listed(self, what: str, folder: str, row: Row, date_ns: int) -> Listed:
        name = row.path.removeprefix(f"{folder}/") if folder else row.path
        if (folder and name == row.path) or "/" in name:
            raise CorruptData(f"{what}: the hub listed {row.path!r}, which does not stand there")
        if row.is_folder:
            return Listed(name, "dir")
        key = row.path.removeprefix(f"{self._folder}/") if self._folder else row.path
        return Listed(name, "file", ObjectInfo(key, row.size_bytes, date_ns, row.version))

    # -- where bytes are

    def _known(self, path: str) -> Location | None:
        with self._lock:
            location = self._locations.get(path)
            if location is None or location.good_until <= time.monotonic():
                return None
            self._locations.move_to_end(path)
            return location

    def _located(self, what: str, path: str, again: Location | None) -> Location:
        """Where a file is, asked of the hub once for all who want to know; `again`: not where that says."""
        flight, mine = self._asking.join(path)
        if not mine:
            return Flights.wait(flight, path)
        try:
            # Another reader may have asked since this one was refused.
            known = self._known(path)
            location = known if known and again and known is not again else self._hub.locate(what, path)
            with self._lock:
                self._locations[path] = location
                self._locations.move_to_end(path)
                if len(self._locations) > _MOST_LOCATIONS:
                    self._locations.popitem(last=False)
        except BaseException as failure:
            self._asking.crash(path, failure)
            raise
        self._asking.land(path, location)
        return location


class _Ended(AccessDenied):
    """An address is not good any more."""


def _judge(what: str, answer: web.Answer) -> EgofsError | None:
    if answer.status in _ENDED:
        return _Ended(f"{what}: refused ({answer.status}) where the hub says that it is, which it was asked for anew")
    return None


def _can_be(path: str) -> bool:
    """Whether git can hold something under this path, and a URL name it."""
    return not any(part in ("", ".", "..") for part in path.split("/")) and not re.search("[\0\ud800-\udfff]", path)
