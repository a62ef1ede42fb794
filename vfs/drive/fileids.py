"""`file_ids.pkl` of Assembly101's download scripts: the id of each recording's folder, by the recording's name.

It hides pickle, of which only so much is read as a dict of texts needs: a file that would do anything else, import or
call something, is refused before it is loaded. Called by the Drive's source. Any thread may enter.

The file is a pickle of protocol 2 with a plain dict (the scripts' download.py reads it with pickle.load).
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from vfs.drive.api import ID
from vfs.drive.titles import can_be_name
from vfs.errors import OptionError

# 362 names and ids are 40 kB.
_MOST_BYTES = 4 << 20
# What a dict of texts is made of, in the protocols from 2 on; texts as Python 2 wrote them, too.
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "SETITEM", "SETITEMS", "MEMOIZE", "BINPUT", "LONG_BINPUT",
    "BINGET", "LONG_BINGET", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip


class _Texts(pickle.Unpickler):
    """Knows no global, so that nothing can be made but what pickle has opcodes for."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuses."""
        raise pickle.UnpicklingError(f"{module}.{name} is no text")


def read(file: Path) -> Mapping[str, str]:
    """Ids by names. Raises OptionError for a file that is not there, or not of this kind."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as failure:
        raise OptionError(f"file_ids={file}: {failure.strerror}") from failure
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError("it is too large")
        # Opcodes first: there are some for huge numbers, and some that have memory reserved.
        for opcode, argument, _ in pickletools.genops(data):
            _require(opcode.name in _OPCODES, f"it has {opcode.name} in it")
            _require("PUT" not in opcode.name or (argument or 0) <= len(data), "it numbers its texts too high")
        found: Any = _Texts(io.BytesIO(data)).load()
        _require(isinstance(found, dict) and len(found) > 0, "it is no dict")
        for name, identity in found.items():
            _require(isinstance(name, str) and can_be_name(name), "not every key is a name")
            _require(isinstance(identity, str) and ID.fullmatch(identity), f"what it has of {name!r:.80} is no id")
    except (
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
    ) as failure:
        said = str(failure).partition("\n")[0][:100]
        raise OptionError(
            f"file_ids={file}: this is not the dataset's file_ids.pkl, a dict of names and ids ({said})"
        ) from failure
    return dict(sorted(found.items()))


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
