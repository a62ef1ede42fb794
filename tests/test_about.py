"""What a mount says of itself: its log of errors."""

import logging
from collections.abc import Iterator

import pytest

from mountd.about import AboutDirectory, ErrorLog, Refusals
from vfs.errors import AccessDenied, CorruptData
from vfs.node import File


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, ErrorLog]]:
    logger, errors = logging.getLogger("tests.about"), ErrorLog()
    logger.addHandler(errors)
    yield logger, errors
    logger.removeHandler(errors)


def test_a_refusal_is_in_the_log_once_a_minute_whatever_was_read(log: tuple[logging.Logger, ErrorLog]) -> None:
    logger, errors = log
    for n in range(1000):
        logger.error("%s", AccessDenied(f"read s3://b/{n}: refused to profile 'lab': renew the keys"))
    logger.error("%s", AccessDenied("read s3://b/1: refused to profile 'other': renew the keys"))
    lines = errors.text().decode().splitlines()
    assert [line.partition("ERROR ")[2] for line in lines] == [
        "read s3://b/0: refused to profile 'lab': renew the keys",
        "read s3://b/1: refused to profile 'other': renew the keys",
    ]


def test_other_errors_are_all_in_the_log(log: tuple[logging.Logger, ErrorLog]) -> None:
    logger, errors = log
    for _ in range(3):
        logger.error("%s", CorruptData("read x: the answer ended too early"))
        logger.warning("something else")
        logger.warning("%(a)s", {"a": "by name"})
    assert len(errors.text().splitlines()) == 9


def test_a_refusal_is_heard_again_after_a_minute() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (AccessDenied("read x: no"),), None)
    heard = []
    for now in (0.0, 59.0, 60.0, 100.0, 121.0):  # noqa: B007 - the clock tells it
        heard.append(refusals.filter(record))
    assert heard == [True, False, True, False, True]


def test_listing_what_a_mount_tells_finds_out_nothing_that_takes_long() -> None:
    asked = []

    def missing() -> Iterator[tuple[str, str]]:
        asked.append(True)
        yield "a.mp4", "gone"

    about = AboutDirectory(dict, ErrorLog(), missing)
    assert {name for name, *_ in about.children()} >= {b"missing.csv", b"status.json"}
    assert asked == []
    node = about.lookup("missing.csv")
    assert isinstance(node, File)
    assert node.open().read(0, node.attributes.size_bytes) == b"name,reason,since\na.mp4,gone\n"
    assert asked == [True]
