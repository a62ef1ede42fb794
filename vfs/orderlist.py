"""The list of an order, a line at a time: paths, or ranges of them, out of a file or a pipe.

    PATH                        a file, a picture of frames/, a clip
    PATH<TAB>START<TAB>LENGTH   a range of a large file, in bytes

A path is relative to a folder of the mount, or absolute in it. Empty lines and those that begin with # say nothing. A
file may have millions of lines: none is kept here. Called by ordering.py, by one thread; knows of no mount.
"""

import os
import posixpath
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from vfs.errors import OptionError
from vfs.orderwindow import Line

_PIECE_BYTES = 256 << 10
# The kernel takes no longer path (PATH_MAX); the rest are two numbers.
_LONGEST_LINE = 4096 + 64
_NAMED = 5  # of the lines that come to nothing


@dataclass(frozen=True, slots=True)
class Base:
    """How paths are meant: relative ones below the folder `within` of the mount; absolute ones below one of `roots`,
    which all are names of the mount's root."""

    within: str
    roots: tuple[str, ...]

    def path(self, text: str) -> str:
        """The path below the mount's root. Raises ValueError for one that leads out of it."""
        if text.startswith("/"):
            for root in self.roots:
                if text.startswith(root) and text[len(root) : len(root) + 1] in ("", "/"):
                    inner = text[len(root) :].lstrip("/")
                    break
            else:
                raise ValueError("it is not in the mount")
        else:
            inner = f"{self.within}/{text}" if self.within else text
        if "//" in inner or "/." in inner or inner.startswith("."):
            inner = posixpath.normpath(inner)
            if inner == ".." or inner.startswith("../"):
                raise ValueError("it is not in the mount")
        return inner.rstrip("/")

    def texts(self, path: str) -> Iterator[str]:
        """How a list may name a path."""
        yield from (f"{root}/{path}" for root in self.roots)
        if not self.within:
            yield path
            yield f"./{path}"
        elif path.startswith(f"{self.within}/"):
            yield path[len(self.within) + 1 :]
            yield f"./{path[len(self.within) + 1 :]}"


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that says nothing that could be read."""

    number: int
    text: str
    why: str


@dataclass
class Progress:
    """What has come of a list's lines so far; see orderwindow.Tally for what readers did."""

    fetched_bytes: int = 0
    made: int = 0
    """Pictures that were decoded."""
    done: int = 0
    """Lines whose bytes are at hand, or were."""
    lost: int = 0
    """Lines that lead nowhere."""
    failed: int = 0
    """Lines that could not be fetched."""
    named: list[tuple[int, str, str]] = field(default_factory=list)
    """The first of both: number, path, reason."""

    def lose(self, number: int, path: str, why: str) -> None:
        """A line leads nowhere."""
        self.lost += 1
        self._name(number, path, why)

    def fail(self, number: int, path: str, why: str) -> None:
        """A line could not be fetched."""
        self.failed += 1
        self._name(number, path, why)

    def _name(self, number: int, path: str, why: str) -> None:
        if len(self.named) < _NAMED:
            self.named.append((number, path, why.removeprefix(f"{path}: ")))


class OrderList:
    """The list behind a descriptor, which it closes."""

    def __init__(self, descriptor: int, base: Base) -> None:
        self._descriptor = descriptor
        self._base = base
        self.is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._at = 0
        self._number = 0
        self._rest = b""
        self._ended = False

    def close(self) -> None:
        """No more is read."""
        os.close(self._descriptor)

    def count(self) -> int | None:
        """How many lines there are, those that say nothing among them; None where that is not known yet."""
        if not self.is_file:
            return None
        count, at, last = 0, 0, b"\n"
        while piece := os.pread(self._descriptor, _PIECE_BYTES, at):
            count += piece.count(b"\n")
            at += len(piece)
            last = piece[-1:]
        return count + (last != b"\n")

    def more(self, wait_s: float) -> list[Line | Bad] | None:
        """The next lines; an empty list where none came for so long, None where there are no more."""
        if self._ended:
            return None
        piece = self._piece(wait_s)
        if piece is None:
            return []
        *texts, self._rest = (self._rest + piece).split(b"\n")
        if not piece:
            self._ended = True
            texts, self._rest = [self._rest], b""
        elif len(self._rest) > _LONGEST_LINE:
            raise OptionError("the order is no list of paths: it has lines longer than any path")
        if not self._number and any(b"\0" in text for text in texts):
            raise OptionError("the order is no list of paths: it holds bytes that no path has")
        lines = []
        for text in texts:
            self._number += 1
            line = self._parsed(self._number, text)
            if line is not None:
                lines.append(line)
        return lines

    def _piece(self, wait_s: float) -> bytes | None:
        """The bytes that follow, b"" at the end; None where none came."""
        if self.is_file:
            piece = os.pread(self._descriptor, _PIECE_BYTES, self._at)
            self._at += len(piece)
            return piece
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            return None
        return os.read(self._descriptor, _PIECE_BYTES)

    def _parsed(self, number: int, text: bytes) -> Line | Bad | None:
        text = text.rstrip(b"\r")
        if not text or text.startswith(b"#") or text.isspace():
            return None
        words = os.fsdecode(text).split("\t")
        try:
            start, length = _range(words[1:])
            if len(text) > _LONGEST_LINE or "\0" in words[0]:
                raise ValueError("it is no path")
            return Line(number, self._base.path(words[0]), start, length)
        except ValueError as failure:
            return Bad(number, words[0][:200], str(failure))

    # -- looking for lines

    def find(self, wanted: Sequence[tuple[str, int]]) -> list[int]:
        """The numbers of all lines that name one of these: a file (with -1), or a range in which a place lies.

        Of a pipe none. Reads all of the list: a million lines take a third of a second.
        """
        if not self.is_file:
            return []
        places: dict[bytes, list[int]] = {}
        for path, place in wanted:
            for text in self._base.texts(path):
                places.setdefault(os.fsencode(text), []).append(place)
        found = []
        for number, whole in self._all():
            name, tab, rest = whole.partition(b"\t") if b"\t" in whole else (whole, b"", b"")
            at = places.get(name)
            if at is None:
                continue
            if not tab:
                found += [number] * (-1 in at)
                continue
            with suppress(ValueError):
                start, length = _range(rest.decode(errors="replace").split("\t"))
                found += [number] * any(start <= each < start + length for each in at)
        return found

    def go_to(self, number: int) -> None:
        """What comes next is this line, of a file."""
        at, before, rest = 0, 0, number - 1
        while rest and (piece := os.pread(self._descriptor, _PIECE_BYTES, at)):
            here = piece.count(b"\n")
            if here >= rest:
                for _ in range(rest):
                    before = piece.index(b"\n", before) + 1
                at += before
                break
            rest -= here
            at += len(piece)
        self._at, self._number, self._rest, self._ended = at, number - 1, b"", False

    def _all(self) -> Iterator[tuple[int, bytes]]:
        number, at, rest = 0, 0, b""
        while piece := os.pread(self._descriptor, _PIECE_BYTES, at):
            at += len(piece)
            *texts, rest = (rest + piece).split(b"\n")
            for text in texts:
                number += 1
                yield number, text.rstrip(b"\r")
        if rest:
            yield number + 1, rest.rstrip(b"\r")


def _range(words: Sequence[str]) -> tuple[int, int]:
    """Start and length. Raises ValueError."""
    if not words:
        return 0, 0
    start, length = words if len(words) == 2 else ("", "")
    if not (start.isdecimal() and length.isdecimal() and int(length) > 0 and int(start) + int(length) < 1 << 63):
        raise ValueError("a range is PATH, START and LENGTH with a tab between each, in bytes")
    return int(start), int(length)
