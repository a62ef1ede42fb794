"""One target's inputs, one after the other, in a process of their own: what is done with each, and what is a finding.

Called by __main__.py's child. Time is the processor's (a busy machine finds nothing), and beside it a limit for who
waits for ever; memory is the most that was resident at any moment. Both bounds are far above what any input takes that
is in order, and far below what harms a mount.
"""

import faulthandler
import hashlib
import logging
import random
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.mutate import Mutator, plain
from vfs.errors import EgofsError

CORPUS = Path(__file__).parents[1] / "corpus"
_PATIENCE_S = 60.0
_MUTATIONS = 8  # of one file of the corpus, one after the other, before the next is taken
_KEPT_FINDINGS = 40


@dataclass(frozen=True)
class Target:
    """What reads bytes: `run` raises nothing but `refusals`, and AssertionError where a result cannot be."""

    name: str
    run: Callable[[bytes], None]
    mutate: Mutator = plain
    refusals: tuple[type[BaseException], ...] = (EgofsError,)
    deadline_s: float = 5.0
    memory_bytes: int = 256 << 20


@dataclass
class Report:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    given: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    """By where they are: what was seen there first."""


class TooLong(BaseException):
    """An input took more of the processor than it may."""


class _Bugs(logging.Handler):
    """What the product logs with a traceback is a finding even where it was survived."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.seen.append("".join(traceback.format_exception(record.exc_info[1])))


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir()) if path.is_file()]


def run(target: Target, *, seed: int, seconds: float, inputs: int, folder: Path) -> Report:
    """Goes through the corpus, then through mutants of it, for so many seconds or so many inputs (0: no limit)."""
    report, bugs = Report(), _Bugs()
    logging.basicConfig(handlers=[bugs], level=logging.WARNING, force=True)
    signal.signal(signal.SIGPROF, _too_long)
    current = folder / f"{target.name}.now"
    ends = time.monotonic() + seconds
    for data in _inputs(target, seed):
        if (inputs and report.inputs >= inputs) or (seconds and time.monotonic() > ends):
            break
        current.write_bytes(data)  # for whoever looks at a process that died of it
        report.inputs += 1
        failure = _tried(target, data, report, bugs)
        if failure is not None:
            place, text = failure
            if place not in report.findings and len(report.findings) < _KEPT_FINDINGS:
                name = f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
                (folder / name).write_bytes(data)
                report.findings[place] = f"{folder / name}\n{text}"
    current.unlink(missing_ok=True)
    return report


def _inputs(target: Target, seed: int) -> Iterator[bytes]:
    kept = corpus(target.name)
    yield from kept
    draw = random.Random(f"{target.name} {seed}")
    while True:
        data = draw.choice(kept)
        for _ in range(draw.randrange(1, _MUTATIONS)):
            data = target.mutate(draw, data, kept)
            yield data


def _tried(target: Target, data: bytes, report: Report, bugs: _Bugs) -> tuple[str, str] | None:
    """What is wrong with what came of an input, and where; None where nothing is."""
    before = _forget_peak()
    faulthandler.dump_traceback_later(_PATIENCE_S, exit=True)
    signal.setitimer(signal.ITIMER_PROF, target.deadline_s)
    try:
        target.run(data)
        report.given += 1
    except target.refusals as refusal:
        report.refused += 1
        if "\n" in str(refusal) and isinstance(refusal, EgofsError):
            return f"a message of several lines: {type(refusal).__name__}", str(refusal)[:2000]
    except TooLong as failure:
        return f"too long: {_place_of(failure)}", f"more than {target.deadline_s} s\n{_text_of(failure)}"
    except Exception as failure:  # noqa: BLE001 - that is what is looked for
        return f"{type(failure).__name__}: {_place_of(failure)}", _text_of(failure)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    if bugs.seen:
        text, bugs.seen = bugs.seen[0], []
        return f"logged as a bug: {text.strip().splitlines()[-1][:60]}", text
    grown = _status("VmHWM") - before
    if grown > target.memory_bytes:
        return "too much memory", f"{grown >> 20} MiB for {len(data)} bytes"
    return None


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _place_of(failure: BaseException) -> str:
    """Where in the product it was raised, or else where in a target."""
    frames = traceback.extract_tb(failure.__traceback__)
    ours = [frame for frame in frames if re.search(r"/(vfs|mountd)/", frame.filename)] or frames
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].name}"


def _text_of(failure: BaseException) -> str:
    return "".join(traceback.format_exception(failure))[-4000:]


def _forget_peak() -> int:
    """What is resident now, from which on the peak is counted (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(what: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text[text.index(f"{what}:") :].split(None, 2)[1]) << 10


def by_name(targets: Sequence[Target]) -> dict[str, Target]:
    """The targets, each of whose corpora has something in it."""
    return {target.name: target for target in targets}
