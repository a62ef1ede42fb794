import pytest

from vfs.extent import chunk_spans, clip, http_range, parse_content_range


def test_clip_ends_at_the_end_of_the_object() -> None:
    assert [clip(0, 10, 4), clip(3, 10, 4), clip(4, 1, 4), clip(9, 1, 4), clip(1, 2, 4)] == [4, 1, 0, 0, 2]


def test_chunk_spans_cover_the_range_once_and_in_order() -> None:
    assert list(chunk_spans(5, 20, 10)) == [(0, 5, 5), (1, 0, 10), (2, 0, 5)]
    assert list(chunk_spans(10, 10, 10)) == [(1, 0, 10)]
    assert list(chunk_spans(7, 0, 10)) == []


def test_http_range_is_inclusive_and_reads_back() -> None:
    assert http_range(100, 28) == "bytes=100-127"
    assert parse_content_range("bytes 100-127/5000") == (100, 28, 5000)
    assert parse_content_range("bytes 0-0/*") == (0, 1, None)


@pytest.mark.parametrize("value", ["bytes */500", "items 0-1/2", "bytes 9-3/10", "bytes 0-1", ""])
def test_content_range_that_is_no_satisfied_range_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Content-Range"):
        parse_content_range(value)
