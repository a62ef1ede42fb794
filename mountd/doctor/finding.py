"""What `egofs doctor` finds: one line about one thing, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "skipped", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at. `found` is one line, without secrets; `remedy` what to type or to do, or ""."""

    check: str
    state: State
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing has to be done."""
    return Finding(check, "ok", found)


def skipped(check: str, found: str, remedy: str = "") -> Finding:
    """It was not looked at, or is not there and need not be."""
    return Finding(check, "skipped", found, remedy)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Something is slower, less safe, or will fail in some case."""
    return Finding(check, "warning", found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(check, "problem", found, remedy)
