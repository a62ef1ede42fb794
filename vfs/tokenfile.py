"""Secrets that a person keeps in files: read when they are needed, and again when the file has changed.

So a token can be put there, or replaced, while a mount lives, and stands in no command line. Called by sources whose
options name such files. Any thread may enter. No secret goes into a message.
"""

import netrc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from vfs.errors import AccessDenied

_T = TypeVar("_T")

_MOST_BYTES = 1 << 20  # a larger file is none of these


class _Kept(Generic[_T]):
    """What was read of a file, for as long as that stays as it is."""

    def __init__(self, option: str, path: Path, parse: Callable[[bytes], _T]) -> None:
        self._named = f"{option}={path}"
        self._path = path
        self._parse = parse
        self._known: tuple[tuple[int, int, int], _T] | None = None  # replaced as a whole

    def read(self) -> _T:
        try:
            facts = self._path.stat()
            version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            known = self._known
            if known is not None and known[0] == version:
                return known[1]
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as failure:
            raise AccessDenied(
                f"{self._named}: {failure.strerror}: put it there, it is used without a remount"
            ) from failure
        try:
            value = self._parse(content)
        except ValueError as failure:
            raise AccessDenied(f"{self._named}: {failure}") from None  # where it came from may quote the secret
        self._known = version, value
        return value


class TokenFile:
    """A file with one token in it, and nothing else but white space around."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = _Kept("token_file", path, _token)

    def read(self) -> str:
        """The token. Raises AccessDenied, which says what to do, where there is none that could be sent."""
        return self._kept.read()


class NetrcFile:
    """A file of names and passwords by host, as curl, wget and ftp have it (netrc(5))."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = _Kept("netrc", path, lambda content: _hosts(path))

    def read(self, host: str) -> tuple[str, str] | None:
        """Name and password for a host, None where the file has none. Raises AccessDenied for a file that is none."""
        found = self._kept.read().authenticators(host)
        return (found[0], found[2]) if found else None


def _token(content: bytes) -> str:
    words = content.split()
    if len(words) != 1 or not re.fullmatch(rb"[\x21-\x7e]{1,8192}", words[0]):
        raise ValueError("put one token there, and nothing else")
    return words[0].decode("ascii")


def _hosts(path: Path) -> netrc.netrc:
    try:
        return netrc.netrc(str(path))
    except netrc.NetrcParseError as failure:
        raise ValueError(f"line {failure.lineno} cannot be read: write machine HOST login NAME password WORD") from None
