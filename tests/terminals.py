"""Terminals for tests: what a person sees of a command, drawn by tmux."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import EGOFS


class Terminal:
    """A terminal of a tmux server of its own."""

    def __init__(self, server: str, columns: int, lines: int, command: list[str]) -> None:
        self._tmux = ["tmux", "-L", server, "-f", "/dev/null"]
        # Some shells and libraries tell the size that a terminal had when they began.
        text = f"COLUMNS=80 LINES=24 {subprocess.list2cmdline(command)}; echo ended with $?; exec cat"
        size = ["-x", str(columns), "-y", str(lines)]
        self._run("new-session", "-d", *size, "-s", "t", text)

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True).stdout

    def screen(self) -> list[str]:
        """What is seen now."""
        return self._run("capture-pane", "-p", "-t", "t").splitlines()

    def until(self, question: Callable[[str], Any]) -> list[str]:
        """The screen as soon as it is what is asked for."""

        deadline = time.monotonic() + 30
        while not question("\n".join(lines := self.screen())):
            assert time.monotonic() < deadline, "\n".join(lines)
            time.sleep(0.05)
        return lines

    def resize(self, columns: int, lines: int) -> None:
        self._run("resize-window", "-t", "t", "-x", str(columns), "-y", str(lines))

    def press(self, key: str) -> None:
        self._run("send-keys", "-t", "t", key)

    def close(self) -> None:
        self._run("kill-server")


@contextmanager
def terminals() -> Iterator[Callable[..., Terminal]]:
    """What opens terminals of so many columns and lines that run egofs with these arguments; all end with the block."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux here: install it to see what a terminal shows")
    opened: list[Terminal] = []

    def open_one(columns: int, lines: int, *arguments: str | Path) -> Terminal:
        name = f"egofs-tests-{os.getpid()}-{len(opened)}"
        opened.append(Terminal(name, columns, lines, [*EGOFS, *map(str, arguments)]))
        return opened[-1]

    try:
        yield open_one
    finally:
        for each in opened:
            each.close()
