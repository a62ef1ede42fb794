"""A mount whose event loop is busy with something else: run by test_session.py as a process of its own.

`python -m tests.busydaemon DIRECTORY` mounts an endless directory there, keeps the loop busy in pieces of 20 ms, and
prints a line when it is ready. In such a loop time passes between seeing that a request is there and reading it.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from mountd import session
from vfs.errors import NotFound
from vfs.node import Attributes, Directory, Node
from vfs.ops import Operations


class Endless(Directory):
    """A directory in which nothing is ever found, and nothing may be remembered."""

    attributes = Attributes(0, 0, 0.0)

    def lookup(self, name: str) -> Node:
        raise NotFound(name)

    def children(self) -> Iterator[tuple[str, Node]]:
        return iter(())


async def _busy() -> None:
    while True:
        time.sleep(0.02)
        await trio.lowlevel.checkpoint()


def _ready() -> None:
    trio.lowlevel.spawn_system_task(_busy)
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    operations = Operations(Endless(), uid=0, gid=0, umask=0, total_bytes=lambda: 0)
    session.serve(
        operations, Path(sys.argv[1]), name="busy", allow_other=False, ready=_ready, timeout_s=20, reload=None
    )
