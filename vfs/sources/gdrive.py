"""A folder of Google Drive as a source: gdrive://FOLDER_ID, as the last part of its address in a browser has it.

It hides that Drive knows ids and no paths, that a folder may have several things of one title (drive/titles.py), and
shortcuts, which look like what they lead to; one that leads to a folder above itself is left out, and so are Google's
own documents, which have no bytes. What one folder needs is one query; walks are asked for many folders at a time
(vfs/drive/walk.py). With `file_ids`, the folders of recordings are known without any.

A version is the file's id and its md5, so that reading needs no listing. What comes of a file says nothing of the
version that it is of, only how large the whole is. So a file is asked for its md5 after the first bytes that came of
it, and again after bytes that come more than half a minute later. What is guaranteed: no bytes of a file of another
size, and none of one that had been replaced for CHECKED_FOR_S when they were asked for. For so long, bytes of another
file of exactly the same size can be taken for those of the one before.

It does not retry. Any thread may enter; `_lock` is over what paths are known, and nothing is asked under it.
"""

import hashlib
import logging
import os
import posixpath
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from vfs.digests import Checksum
from vfs.drive import fileids, oauth, titles
from vfs.drive.api import FOLDER, ID, ROOT_URL, SHORTCUT, Drive, Item
from vfs.drive.walk import Walks
from vfs.errors import AccessDenied, Changed, NotFound, OptionError
from vfs.flight import Flights
from vfs.options import option, option_group
from vfs.sources import Credentials, Listed, ObjectInfo

_log = logging.getLogger(__name__)

CHECKED_FOR_S = 30.0
RECORDINGS = "recordings"
"""The folder whose folders `file_ids` knows, as in Assembly101's tree."""

_MOST_PATHS = 100_000
_MOST_CHECKED = 10_000
_SHORTCUTS_AT_ONCE = 8


@option_group
class Options:
    """The mount options of a Drive source."""

    credentials: Path | None = option(
        default=None, description=f"credentials of `egofs auth gdrive` or PyDrive2 ({oauth.CREDENTIALS})"
    )
    settings: Path = option(
        factory=lambda: oauth.home() / oauth.SETTINGS,
        description="settings.yaml of PyDrive2, here or in ~/.config/egofs/gdrive; its other files stand beside it",
    )
    service_account: Path | None = option(
        default=None, description="key of a service account (JSON), to which the folder has been shared"
    )
    file_ids: Path | None = option(
        default=None, description="file_ids.pkl of Assembly101's scripts: recordings are known without listing them"
    )
    shared_drive: str = option(
        default="",
        description="id of the shared drive that the folder is in, where it is not found without",
        form="the last part of the drive's address in a browser",
        check=lambda drive: not drive or ID.fullmatch(drive) is not None,
    )
    endpoint_url: str = option(default=ROOT_URL, description="URL of another API that speaks Drive's version 2")


def open_source(url: str, options: Options) -> "DriveSource":
    """The folder as a source. Sends nothing yet. Raises OptionError."""
    match = re.fullmatch(r"gdrive://([A-Za-z0-9_-]*)/?", url, re.IGNORECASE)
    if not match or not (match[1] or options.file_ids):
        raise OptionError(
            f"{url!r} names no folder of a Drive: write gdrive://FOLDER_ID, the last part of the folder's address in a "
            "browser; gdrive:// alone needs file_ids"
        )
    if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", options.endpoint_url):
        raise OptionError(f"endpoint_url={options.endpoint_url!r} is no URL: write https://HOST/drive/v2")
    ids = fileids.read(options.file_ids) if options.file_ids else {}
    endpoint = options.endpoint_url.rstrip("/")
    place = f"gdrive+{endpoint}/{match[1]}" if endpoint != ROOT_URL else f"gdrive://{match[1]}"
    if ids:  # it says what the tree is
        place += f"#{hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}"
    drive = Drive(_access(options), endpoint, options.shared_drive)
    return DriveSource(drive, match[1], ids, place)


def credentials(url: str, options: Options) -> Credentials:
    """Those of a person, or of a service account."""
    try:
        access = _access(options)
        what, until = access.told()
    except (AccessDenied, OptionError) as failure:
        return Credentials("Google's credentials", missing=str(failure))
    return Credentials(what, str(access.file), access.file, until=until)


def address(url: str, options: Options) -> str:
    """The API's."""
    return options.endpoint_url


def _access(options: Options) -> oauth.Access:
    oauth.require_library()
    files = oauth.Files.told_by(options.settings)
    key = options.service_account or (None if options.credentials else files.service_account)
    file = key or options.credentials or files.credentials
    if not os.path.isfile(file):
        raise OptionError(
            f"{file} is not there: run `egofs auth gdrive` once, or bring the credentials.json that it made elsewhere, "
            "and name it with -o credentials=FILE"
        )
    return oauth.Access(file, is_service=key is not None, as_user=files.as_user)


class DriveSource:
    """A folder of a Drive; see the module's docstring."""

    remote = True

    def __init__(self, drive: Drive, root: str, ids: Mapping[str, str], url: str) -> None:
        """`root` is the folder's id; "" where it is the recordings' folder, of which only `ids` are known."""
        self.url = url
        self._drive = drive
        self._root = root
        self._walks = Walks(drive.children)
        self._lock = threading.Lock()
        # The ids from the root to a folder, by its path. None of these is forgotten: no listing brings them again.
        self._given: dict[str, tuple[str, ...]] = {"": (root,)} if root else {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._checked: dict[str, float] = {}
        self._checks: Flights[str, None] = Flights()
        self._told: set[str] = set()
        # Folders that are known to have these folders in them, and no more.
        self._known: dict[str, Mapping[str, str]] = {}
        if ids:
            above = RECORDINGS if root else ""
            self._known[above] = ids
            self._given |= {posixpath.join(above, name): (*self._given.get("", ()), each) for name, each in ids.items()}
            self._walks.remember(above, tuple(ids[name] for name in sorted(ids, key=str.encode)))
        self._witness = root or next(iter(ids.values()))

    def renew(self) -> None:
        """Lists anew. Credentials are looked at whenever a token has ended or is refused."""
        self._walks.forget()
        with self._lock:
            self._paths.clear()
            self._checked.clear()

    def list(self, folder: str) -> Iterator[Listed]:
        """What stands directly in a folder; it is whole when the first name comes."""
        if folder in self._known:
            yield from (Listed(name, "dir") for name in self._known[folder])
            return
        yield from self._listed(f"list {self._place(folder)}", folder)

    def stat(self, key: str) -> ObjectInfo:
        """The object as it is now, from a listing of its folder."""
        what = f"stat {self._place(key)}"
        folder, name = posixpath.split(key)
        if folder not in self._known:
            for listed in self._listed(what, folder):
                if listed.name == name and listed.object is not None:
                    return listed.object
        raise NotFound(f"{what}: there is no such file")

    def read(self, obj: ObjectInfo, start: int, length: int) -> bytes:
        """The bytes; see the module's docstring for what is known of their version."""
        what = f"read {length} bytes at {start} of {self._place(obj.key)}"
        identity, _, version = obj.version.partition("/")
        if not version:  # it was named without one
            return self.read(replace(self.stat(obj.key), size_bytes=obj.size_bytes), start, length)
        try:
            data = self._drive.read(what, identity, obj.size_bytes, start, length)
            if not self._is_checked(obj):
                self._check(what, identity, obj)
        except NotFound as failure:
            self._require_access(what)
            raise NotFound(f"{what}: it is not there any more") from failure
        return data

    def checksum(self, obj: ObjectInfo) -> Checksum | None:
        """The md5 that Drive told with the listing; its own documents, and what is encrypted, have none."""
        md5 = obj.version.partition("/")[2]
        return Checksum("md5", bytes.fromhex(md5)) if re.fullmatch("[0-9a-f]{32}", md5) else None

    def close(self) -> None:
        """Ends the connections."""
        self._drive.close()

    def _place(self, key: str) -> str:
        return f"gdrive://{self._root}/{key}".rstrip("/") if self._root else f"gdrive://{key}"

    # -- reading

    def _is_checked(self, obj: ObjectInfo) -> bool:
        """Whether Drive has said of late that this is the version there is."""
        return self._checked.get(obj.version, -CHECKED_FOR_S) > time.monotonic() - CHECKED_FOR_S

    def _check(self, what: str, identity: str, obj: ObjectInfo) -> None:
        """Raises where the file is another by now than the one that was opened; one asks for all who read it."""
        flight, mine = self._checks.join(obj.version)
        if not mine:
            self._checks.wait(flight, what)
            return
        try:
            if not self._is_checked(obj):
                self._ask_version(what, identity, obj)
        except BaseException as failure:
            self._checks.crash(obj.version, failure)
            raise
        self._checks.land(obj.version, None)

    def _ask_version(self, what: str, identity: str, obj: ObjectInfo) -> None:
        item = self._drive.item(identity)
        if item.is_trashed:
            raise NotFound(f"{what}: it is in the trash")
        if _version(item) != obj.version:
            raise Changed(f"{what}: it has been replaced: open it again")
        now = time.monotonic()
        with self._lock:
            if len(self._checked) > _MOST_CHECKED:
                self._checked = {key: at for key, at in self._checked.items() if at > now - CHECKED_FOR_S}
            self._checked[obj.version] = now

    def _require_access(self, what: str) -> None:
        """Raises where it is not that something is not there, but that nothing is shown to us any more."""
        try:
            witness = self._drive.item(self._witness)
        except NotFound as failure:
            raise AccessDenied(
                f"{what}: Drive shows {self._place('')} to this account no longer, or never did (it does not tell "
                "which): access to a dataset such as Assembly101 ends after 14 days; ask for it again at "
                f"https://drive.google.com/drive/folders/{self._witness}, with the account that "
                "`egofs auth gdrive --check` tells"
            ) from failure
        if witness.mime not in (FOLDER, SHORTCUT):
            raise NotFound(f"{what}: {self._witness} is a file: give the id of the folder that it is in")

    # -- folders

    def _listed(self, what: str, folder: str) -> Sequence[Listed]:
        """What stands in a folder, asked now or a moment ago."""
        chain = self._chain(what, folder)
        try:
            items = self._children(folder, chain)
        except NotFound as failure:
            self._require_access(what)
            chain, items = self._found_again(what, folder, failure)
        return self._shown(folder, chain, titles.named(self._followed(folder, chain, items)))

    def _chain(self, what: str, folder: str) -> tuple[str, ...]:
        """The ids from the root to a folder, the folder's own last; listings of those above it are asked for where
        it is not known. Raises NotFound."""
        known = self._given.get(folder) or self._paths.get(folder)
        if known:
            return known
        above = posixpath.dirname(folder)
        if folder and above not in self._known:
            self._listed(what, above)
        if folder not in self._paths:
            raise NotFound(f"{what}: there is no such folder")
        return self._paths[folder]

    def _children(self, folder: str, chain: tuple[str, ...]) -> Sequence[Item]:
        """What stands in a folder by its id. Raises NotFound where it is not there."""
        items = self._walks.children(posixpath.dirname(folder) if folder else "\0", chain[-1])
        # Of a folder that is in the trash, or that may not be seen, there may be nothing instead of an error.
        if not items:
            item = self._drive.item(chain[-1])
            if item.is_trashed or item.mime not in (FOLDER, SHORTCUT):
                raise NotFound(f"{chain[-1]} is no folder any more")
        return items

    def _found_again(self, what: str, folder: str, failure: NotFound) -> tuple[tuple[str, ...], Sequence[Item]]:
        """The same for another folder that by now has the path of one that is gone."""
        with self._lock:
            gone = self._paths.pop(folder, None)
        if gone is None:
            raise NotFound(f"{what}: there is no such folder") from failure
        chain = self._chain(what, folder)
        return chain, self._children(folder, chain)

    def _followed(self, folder: str, chain: tuple[str, ...], items: Sequence[Item]) -> "Sequence[_Entry]":
        """What is shown of these items, each with what it leads to."""
        if any(item.mime == SHORTCUT for item in items):
            with ThreadPoolExecutor(_SHORTCUTS_AT_ONCE) as threads:
                found = [*threads.map(self._meant, items)]
        else:
            found = [*items]
        entries, left_out = [], []
        for item, meant in zip(items, found, strict=True):
            # Of a shortcut to a folder that it is in, following it would have no end.
            if meant is None or meant.id in chain or not (meant.mime == FOLDER or meant.has_bytes):
                left_out.append(item)
            else:
                entries.append(_Entry(item.id, item.title, item.created, meant))
        if left_out:
            self._tell_once(folder, left_out)
        return entries

    def _meant(self, item: Item) -> Item | None:
        """What an item leads to, itself if it is no shortcut; None where that is not there."""
        if item.mime != SHORTCUT:
            return item
        if item.target_mime == FOLDER:
            return replace(item, id=item.target, mime=FOLDER)
        try:
            meant = self._drive.item(item.target) if item.target else None
        except (AccessDenied, NotFound):
            return None
        return None if meant is None or meant.is_trashed else meant

    def _shown(self, folder: str, chain: tuple[str, ...], named: "Mapping[str, _Entry]") -> Sequence[Listed]:
        """The folder's names; keeps the ids of the folders among them."""
        listed = []
        folders = {}
        for name, entry in named.items():
            path, meant = posixpath.join(folder, name), entry.meant
            if meant.mime == FOLDER:
                listed.append(Listed(name, "dir"))
                folders[name] = (*chain, meant.id)
            else:
                obj = ObjectInfo(path, meant.size_bytes, meant.mtime_ns, _version(meant))
                listed.append(Listed(name, "file", obj))
        with self._lock:
            if len(self._paths) > _MOST_PATHS:
                self._paths.clear()
            self._paths |= {posixpath.join(folder, name): ids for name, ids in folders.items()}
        self._walks.remember(folder, tuple(folders[name][-1] for name in sorted(folders, key=str.encode)))
        return listed

    def _tell_once(self, folder: str, items: Sequence[Item]) -> None:
        with self._lock:
            if folder in self._told or len(self._told) > _MOST_PATHS:
                return
            self._told.add(folder)
        _log.warning(
            "%s: %d without bytes are not shown, such as %r: Google's own documents, and shortcuts to nothing or to "
            "a folder that they are in",
            *(self._place(folder), len(items), items[0].title),
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """What stands in a folder, and the file or folder that it is or, as a shortcut, leads to."""

    id: str
    title: str
    created: str
    meant: Item


def _version(item: Item) -> str:
    """The file's id with what tells its bytes; the id is read from here again."""
    return f"{item.id}/{item.version}"
