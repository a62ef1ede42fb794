"""The daemon's end of `egofs warm --order`: an order lives as long as its asker listens, who is told once a second.

Called by daemon.py, which registers the operation; what is fetched when is vfs/ordering.py's. Imported by a mount
alone: vfs.ordering, which brings the rest of it, is there by then.
"""

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mountd import control
from vfs.errors import OptionError
from vfs.mounted import MountedDataset
from vfs.orderlist import Base

if TYPE_CHECKING:
    from vfs.ops import Operations
    from vfs.ordering import Orders

_TOLD_S = 1.0
_LOOK_S = 0.1  # whether the asker is still there


def under_way(told: dict[str, Any]) -> tuple[str, int, int]:
    """An order for `egofs status`, by the progress that it told last: where it is, and the bytes that it fetched."""
    lines = f" of {told['lines']}" if told["lines"] else ""
    return f"line {told['line']}{lines}, {told['ahead_lines']} ahead", told["fetched_bytes"], 0


def operation(mountpoint: Path, mounted: MountedDataset, served: "Operations") -> control.Operation:
    """`{"do": "order", "within": FOLDER, "roots": […], "follow": BOOL, "ahead": BYTES}` with the list's open file.

    Tells `Order.facts` as it goes, and in the end.
    """
    made: list[Orders] = []
    making = threading.Lock()

    def watch(orders: "Orders | None") -> None:
        served.watcher = orders

    def order(words: dict[str, Any], call: control.Call) -> dict[str, Any]:
        from vfs.ordering import Orders

        descriptor = call.descriptor()
        if descriptor is None:
            raise OptionError("no list came with the order")
        with making:
            if not made:
                made.append(Orders(mounted, watch))
        base = Base(str(words.get("within", "")), (str(mountpoint), *map(str, words.get("roots", ()))))
        ahead = words.get("ahead")
        begun = made[0].begin(
            descriptor, base, follows=bool(words.get("follow")), ahead_bytes=int(ahead) if ahead else None
        )
        try:
            told_at_s = time.monotonic()
            while not begun.wait(_LOOK_S):
                call.go_on()
                if time.monotonic() - told_at_s >= _TOLD_S:
                    told_at_s = time.monotonic()
                    call.tell(**begun.facts())
            if begun.failure is not None:
                raise begun.failure
            return begun.facts()
        finally:
            begun.close()

    return order
