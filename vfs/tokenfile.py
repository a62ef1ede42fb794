"""A secret that a person keeps in a file: read when it is needed, and again when the file has changed.

So a token can be put there, or replaced, while a mount lives, and stands in no command line. Called by sources whose
options name such a file. Any thread may enter. The secret goes into no message.
"""

import re
from pathlib import Path

from vfs.errors import AccessDenied

# A file of anything else than a token is not read to its end.
_MOST_BYTES = 16 << 10


class TokenFile:
    """A file with one token in it, and nothing else but white space around."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[tuple[int, int, int], str] | None = None  # replaced as a whole

    def read(self) -> str:
        """The token. Raises AccessDenied, which says what to do, where there is none that could be sent."""
        try:
            facts = self.path.stat()
            version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            known = self._known
            if known is not None and known[0] == version:
                return known[1]
            with self.path.open("rb") as file:
                words = file.read(_MOST_BYTES + 1).split()
        except OSError as failure:
            raise AccessDenied(
                f"token_file={self.path}: {failure.strerror}: put a token there, it is used without a remount"
            ) from failure
        if len(words) != 1 or not re.fullmatch(rb"[\x21-\x7e]{1,8192}", words[0]):
            raise AccessDenied(f"token_file={self.path}: put one token there, and nothing else")
        token = words[0].decode("ascii")
        self._known = version, token
        return token
