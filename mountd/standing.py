"""What a person is told of mounts: the plain text of `egofs status`, and the words that its screen shares with it.

Called by commands/status.py and watch.py, with what survey.py has seen. Pure text, quick to import: no terminal is
asked for anything.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from mountd import shown
from mountd.survey import Seen

_WIDEST = 40  # of a column; what is longer moves the rest of its own line


def of_one(seen: Seen) -> Iterator[str]:
    """All of one mount, a line for each thing."""
    yield f"{seen.mount.mountpoint}  {seen.mount.source}  {state(seen)}"
    if seen.why:
        yield f"  ! {seen.why}"
    if seen.status is not None:
        for name, text in facts(seen.status):
            yield f"  {name:<10} {text}"


def of_several(all_seen: Sequence[Seen]) -> Iterator[str]:
    """Two lines a mount, in columns, and one more for what is wrong."""
    places = _column(str(seen.mount.mountpoint) for seen in all_seen)
    sources = _column(seen.mount.source for seen in all_seen)
    for seen, place, source in zip(all_seen, places, sources, strict=True):
        yield f"{place}  {source}  {state(seen)}"
        if seen.status is not None:
            yield f"  {numbers(seen.status)}"
        for text in troubles(seen):
            yield f"  ! {text}"


def state(seen: Seen) -> str:
    """A word or some, such as "live, up 3 h"."""
    text: str = "another user's" if seen.state == "foreign" else seen.state
    if seen.status is not None:
        text += f", up {shown.duration(seen.status['uptime_s'])}"
        if restarts := seen.status.get("restarts"):
            text += f", restarted {restarts} times"
    return text + (f", pid {seen.pid}" if seen.pid else "")


def numbers(status: dict[str, Any]) -> str:
    """What was read and fetched, in columns of one width."""
    cache = status.get("cache", {})
    text = f"read {shown.size(status['asked']['bytes_read']):>10}"
    text += f"  fetched {shown.size(status['fetched']['bytes_fetched']):>10}"
    text += f"  hits {share(cache.get('hit_rate')):>5}"
    text += f"  cache {share(_fullness(cache)):>5}"
    return text + f"  failures {status['asked']['failures']}"


def troubles(seen: Seen) -> Iterator[str]:
    """What somebody should hear of, a line each."""
    if seen.why:
        yield seen.why
    if seen.status is None:
        return
    if refusal := seen.status["credentials"]:
        yield f"refused {ago(refusal['refused_at'])}: {refusal['message']}"
    for each in seen.status["under_way"]:
        yield under_way(each)


def facts(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a mount says of itself, as pairs of a word and a text."""
    asked, fetched, decoders = status["asked"], status["fetched"], status["decoders"]
    yield "from", status["url"]
    if status["options"]:
        yield "options", ",".join(f"{name}={value}" for name, value in status["options"].items())
    yield (
        "read",
        f"{shown.size(asked['bytes_read'])} in {asked['reads']} reads; {status['open_files']} files open, "
        f"{status['inodes']} names known to the kernel",
    )
    yield (
        "fetched",
        f"{shown.size(fetched['bytes_fetched'])} in {fetched['requests']} requests{amplification(status)}; "
        f"{fetched['retries']} retries, {fetched['errors']} errors",
    )
    if "cache" in status:
        yield "cache", _cache(status["cache"])
    yield (
        "frames",
        f"{status['frames_made']} made, {status['frames_from_disk']} from disk; decoders: {len(decoders['pids'])}, "
        f"replaced {decoders['restarts']} times",
    )
    if status["access"]["state"] != "none needed":
        yield "access", access(status)
    if status["oldest_listing_at"]:
        yield "listings", f"the oldest was made {ago(status['oldest_listing_at'])}"
    for each in status["under_way"]:
        yield each["kind"], under_way(each)
    last = last_error(status)
    if asked["failures"] or last:
        bugs = f", {asked['bugs']} of them bugs" if asked["bugs"] else ""
        yield "failures", f"{asked['failures']}{bugs}" + ("; the last line of .egofs/errors.log:" if last else "")
    if last:
        yield "", last
    if status["log"]:
        yield "log", status["log"]


def access(status: dict[str, Any]) -> str:
    """Whether the store lets us in, and as whom."""
    whose = status["access"]["whose"] or "the store"
    if refusal := status["credentials"]:
        return f"{whose}: refused {ago(refusal['refused_at'])}: {refusal['message']}"
    return f"{whose}: {status['access']['state']}"


def last_error(status: dict[str, Any]) -> str | None:
    """The last line of the log of errors, where that is not the refusal that is told anyway."""
    last, refusal = status["last_error"], status["credentials"]
    return None if last and refusal and last.endswith(refusal["message"]) else last


def amplification(status: dict[str, Any]) -> str:
    """How much was fetched for each byte that was read; below 1 where it was there already."""
    ratio = status["amplification"]
    if ratio is None:
        return ""
    return f", {ratio:.2f} of what was read" if ratio >= 0.005 or not ratio else ", <0.01 of what was read"


def under_way(each: dict[str, Any]) -> str:
    """Something long that a mount is doing."""
    done, whole = each["done_bytes"], each["all_bytes"]
    if not whole:
        return f"{each['kind']} {each['name']}: {shown.size(done)}"
    return f"{each['kind']} {each['name']}: {shown.size(done)} of {shown.size(whole)}{_percent(done, whole)}"


def share(part: float | None) -> str:
    """A part of 1 as a percentage, rounded down: 100 % is all of it."""
    return "-" if part is None else f"{int(part * 100)} %"


def ago(at: float) -> str:
    """How long ago a time of the clock was."""
    return f"{shown.duration(max(0.0, time.time() - at))} ago"


def _cache(cache: dict[str, Any]) -> str:
    if not cache["limit_bytes"]:
        return f"in memory alone; {share(cache.get('hit_rate'))} hits"
    text = f"{shown.size(cache['used_bytes'])} of {shown.size(cache['limit_bytes'])} ({share(_fullness(cache))})"
    if "files" in cache:
        text += f" in {cache['files']} files; {shown.size(cache['free_bytes'])} free on its disk"
    if cache.get("hit_rate") is not None:
        text += f"; {share(cache['hit_rate'])} hits"
    if cache["disk_errors"]:
        text += f"; the disk failed {cache['disk_errors']} times"
    return text


def _fullness(cache: dict[str, Any]) -> float | None:
    return cache["used_bytes"] / cache["limit_bytes"] if cache.get("limit_bytes") else None


def _percent(done: int, whole: int) -> str:
    return f" ({share(min(1.0, done / whole))})" if whole else ""


def _column(texts: Iterator[str]) -> list[str]:
    """The texts, filled up to the width of the longest that is not too long."""
    given = list(texts)
    width = max((len(text) for text in given if len(text) <= _WIDEST), default=0)
    return [text.ljust(width) for text in given]
