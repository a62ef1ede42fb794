import itertools
import random
import sys

import pytest

from vfs.readahead import _BEHIND_BYTES, _FIRST_WINDOW_BYTES, _IDLE_S, _MOST_STRIDES, _TRUST, MIB, Piece, Readahead

KIB = 1 << 10
STEP = 128 * KIB
BUDGET = 64 * MIB
SIZE = 1024 * MIB
# After reads of 0 to 256 KiB: the whole chunks of up to 2 MiB beyond them.
FIRST_PIECES = [(2 * STEP, MIB - 2 * STEP), (MIB, MIB)]


class Reader:
    """Reads of one object, with a clock that goes on 1 ms a read; `asked` are all ranges that readahead named."""

    def __init__(self, readahead: Readahead | None = None, key: object = "object", size_bytes: int = SIZE) -> None:
        self.readahead = readahead or Readahead(BUDGET)
        self.key = key
        self.size_bytes = size_bytes
        self.now_s = 100.0
        self.asked: list[Piece] = []

    def read(self, start: int, length: int = STEP, *, waits: bool = True) -> list[Piece]:
        self.now_s += 0.001
        pieces = self.readahead.access(self.key, self.size_bytes, start, length, waits=waits, now_s=self.now_s)
        self.asked += pieces
        return pieces

    def run(self, start: int, length: int, *, waits: bool = True) -> int:
        """Reads a range step by step; the end of it."""
        for at in range(start, start + length, STEP):
            self.read(at, waits=waits)
        return start + length

    def ahead_bytes(self) -> int:
        """How far ahead of the reader's stream everything has been asked for."""
        stream = self.asked[-1].stream
        assert stream is not None
        return stream.ahead - stream.position


def spans(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.start, piece.length) for piece in pieces]


def test_an_isolated_read_asks_for_nothing_more() -> None:
    reader = Reader()
    assert reader.read(0) == []
    assert reader.read(500 * MIB, 3 * MIB) == []
    assert reader.read(SIZE - 1, 1) == []


def test_the_same_range_read_again_and_again_is_no_stream() -> None:
    reader = Reader()
    assert [reader.read(5 * MIB) for _ in range(100)] == [[]] * 100


def test_an_adjoining_read_proves_a_stream_whose_pieces_end_at_whole_chunks() -> None:
    reader = Reader()
    reader.read(0)
    assert spans(reader.read(STEP)) == FIRST_PIECES


def test_a_read_that_overlaps_the_end_of_another_proves_a_stream() -> None:
    reader = Reader()
    reader.read(1000, 5000)
    assert reader.read(5000, 5000)


def test_a_reader_who_waits_gets_a_window_of_what_it_has_read_times_trust() -> None:
    reader = Reader()
    for at in range(0, 6 * MIB, STEP):
        reader.read(at)
        if reader.asked:
            assert reader.ahead_bytes() <= max(_FIRST_WINDOW_BYTES + MIB, _TRUST * (at + STEP))
    assert reader.ahead_bytes() > 6 * _FIRST_WINDOW_BYTES, "and it has grown"


def test_a_window_grows_up_to_the_budget_and_no_further() -> None:
    reader = Reader()
    most = 0
    for at in range(0, 256 * MIB, STEP):
        reader.read(at)
        most = max(most, reader.ahead_bytes() if reader.asked else 0)
    assert BUDGET - 4 * MIB <= most <= BUDGET


def test_a_reader_who_never_waits_keeps_a_small_window() -> None:
    reader = Reader()
    reader.run(0, 16 * MIB, waits=False)
    assert max(piece.length for piece in reader.asked) == MIB
    assert reader.ahead_bytes() <= _FIRST_WINDOW_BYTES + MIB


def test_a_long_stream_that_never_waits_has_an_eighth_of_it_ahead_in_larger_pieces_up_to_a_limit() -> None:
    reader = Reader()
    reader.run(0, 64 * MIB, waits=False)
    assert 6 * MIB <= reader.ahead_bytes() <= 8 * MIB
    reader.run(64 * MIB, 448 * MIB, waits=False)
    assert 12 * MIB <= reader.ahead_bytes() <= 16 * MIB
    assert {piece.length for piece in reader.asked[-20:]} == {4 * MIB}


def test_what_is_needed_soon_comes_in_small_pieces_and_what_is_far_ahead_in_large_ones() -> None:
    reader = Reader()
    for at in range(0, 64 * MIB, STEP):
        for piece in reader.read(at):
            assert piece.length <= max(MIB, (piece.start - at - STEP) // 2)
    assert {piece.length for piece in reader.asked[-8:]} == {4 * MIB}


@pytest.mark.parametrize("shuffled", [4, 16, 32])
def test_requests_of_a_stream_in_any_order_stay_one_stream(shuffled: int) -> None:
    reader = Reader()
    end = reader.run(0, 2 * MIB)
    dice = random.Random(1)
    for begin in range(end, 64 * MIB, shuffled * STEP):
        places = list(range(begin, begin + shuffled * STEP, STEP))
        dice.shuffle(places)
        for at in places:
            reader.read(at)
    assert len({id(piece.stream) for piece in reader.asked}) == 1
    assert_cover(reader, 2 * STEP)


def test_a_skip_within_the_window_stays_in_the_stream() -> None:
    reader = Reader()
    end = reader.run(0, 4 * MIB)
    before = reader.asked[-1].stream
    assert reader.ahead_bytes() > 2 * MIB + STEP
    reader.read(end + 2 * MIB)
    reader.run(end + 2 * MIB + STEP, 2 * MIB)
    assert reader.asked[-1].stream is before
    assert_cover(reader, 2 * STEP)


def test_a_jump_beyond_the_window_begins_anew() -> None:
    reader = Reader()
    reader.run(0, 4 * MIB)
    asked = len(reader.asked)
    old = reader.asked[-1].stream
    assert reader.read(500 * MIB) == [], "an isolated read"
    fresh = reader.read(500 * MIB + STEP)
    assert spans(fresh) == [(500 * MIB + start, length) for start, length in FIRST_PIECES]
    assert fresh[0].stream is not old
    assert len(reader.asked) == asked + 2


def test_pieces_that_their_reader_has_passed_are_not_wanted_any_more() -> None:
    reader = Reader()
    reader.run(0, 4 * MIB)
    stream = reader.asked[-1].stream
    assert stream is not None
    waiting = [piece for piece in reader.asked if piece.start >= stream.position]
    assert waiting
    assert all(piece.is_wanted() for piece in waiting)
    reader.read(stream.ahead)
    assert not any(piece.is_wanted() for piece in waiting)


def test_a_backward_seek_within_what_was_just_read_stays_in_the_stream_and_asks_for_nothing() -> None:
    reader = Reader()
    end = reader.run(0, 32 * MIB, waits=False)
    assert reader.read(end - _BEHIND_BYTES + STEP, waits=False) == []
    reader.run(end, 4 * MIB, waits=False)
    assert len({id(piece.stream) for piece in reader.asked}) == 1
    assert_cover(reader, 2 * STEP)


def test_a_backward_seek_to_the_beginning_begins_a_stream_there() -> None:
    reader = Reader()
    reader.run(0, 32 * MIB)
    assert reader.read(0) == []
    assert spans(reader.read(STEP)) == FIRST_PIECES


@pytest.mark.parametrize("distance", [17 * MIB, 3 * MIB, -17 * MIB, -STEP])
def test_a_stride_is_recognised_after_three_equal_distances_and_grows(distance: int) -> None:
    reader = Reader()
    first = SIZE // 2
    got = [spans(reader.read(first + distance * n)) for n in range(6)]
    at = [first + distance * n for n in range(30)]
    assert got[:3] == [[], [], []]
    assert got[3] == [(at[n], STEP) for n in (4, 5, 6)]
    assert got[4] == [(at[n], STEP) for n in (7, 8)]
    assert got[5] == [(at[n], STEP) for n in (9, 10)]
    assert all(piece.stream is None and piece.is_wanted() for piece in reader.asked)


def test_a_stride_asks_for_each_place_once_and_for_a_bounded_number_ahead() -> None:
    reader = Reader()
    for n in range(60):
        reader.read(n * 9 * MIB)
        places = [piece.start for piece in reader.asked]
        assert len(set(places)) == len(places)
        assert all(at <= (n + _MOST_STRIDES) * 9 * MIB for at in places)
    assert sorted(places) == [n * 9 * MIB for n in range(4, 60 + _MOST_STRIDES) if n * 9 * MIB < SIZE]


def test_a_stride_stays_within_the_object() -> None:
    forwards, backwards = Reader(), Reader()
    for n in range(8):
        forwards.read(SIZE - (8 - n) * 5 * MIB + 1, 6 * MIB)
        backwards.read((7 - n) * 5 * MIB)
    assert forwards.asked
    assert all(piece.length > 0 and piece.start + piece.length <= SIZE for piece in forwards.asked)
    assert all(piece.start >= 0 for piece in backwards.asked)
    assert len(backwards.asked) == 4


def test_unequal_distances_are_no_stride() -> None:
    reader = Reader()
    at = itertools.accumulate([20 * MIB, 20 * MIB, 21 * MIB] * 10, initial=0)
    for place in at:
        reader.read(place)
    assert reader.asked == []


@pytest.mark.parametrize("aligned", [True, False])
def test_random_reads_cost_less_than_as_much_again(aligned: bool) -> None:
    """1,000 reads of 128 KiB out of 1 GiB, five times: 0.6 bytes extra for each that was asked for."""
    ahead = 0
    for seed in range(5):
        reader, dice = Reader(), random.Random(seed)
        for _ in range(1000):
            reader.read(dice.randrange(SIZE // STEP) * STEP if aligned else dice.randrange(SIZE - STEP))
        ahead += sum(piece.length for piece in reader.asked)
    assert ahead < 5 * 1000 * STEP


def test_a_very_long_random_reader_does_not_come_to_look_like_streams() -> None:
    reader, dice = Reader(), random.Random(7)
    for _ in range(20_000):
        reader.read(dice.randrange(SIZE - STEP))
    assert sum(piece.length for piece in reader.asked) < 2 * 20_000 * STEP


@pytest.mark.parametrize("one_file", [True, False])
def test_sixteen_streams_share_the_budget_equally(one_file: bool) -> None:
    readahead = Readahead(BUDGET)
    readers = [Reader(readahead, "object" if one_file else number) for number in range(16)]
    begin = [number * 64 * MIB if one_file else 0 for number in range(16)]
    for at in range(0, 32 * MIB, STEP):
        for reader, start in zip(readers, begin, strict=True):
            reader.now_s = max(other.now_s for other in readers)
            reader.read(start + at)
    ahead = [reader.ahead_bytes() for reader in readers]
    assert all(BUDGET // 16 - MIB <= each <= BUDGET // 16 for each in ahead), ahead
    assert sum(ahead) <= BUDGET


def test_an_idle_stream_gives_its_share_back() -> None:
    readahead = Readahead(BUDGET)
    busy, idle = Reader(readahead, "busy"), Reader(readahead, "idle")
    for at in range(0, 64 * MIB, STEP):
        busy.now_s = idle.now_s
        busy.read(at)
        idle.now_s = busy.now_s
        idle.read(at)
    assert busy.ahead_bytes() <= BUDGET // 2
    busy.now_s += _IDLE_S
    end = busy.run(64 * MIB, 4 * MIB)
    busy.now_s += _IDLE_S / 2
    busy.run(end, 8 * MIB)
    assert busy.ahead_bytes() > BUDGET - 8 * MIB


@pytest.mark.parametrize("readers", [1, 3, 5, 7])
def test_pieces_of_a_shared_budget_still_end_at_whole_chunks(readers: int) -> None:
    readahead = Readahead(BUDGET)
    streams = [Reader(readahead, number) for number in range(readers)]
    for at in range(0, 128 * MIB, STEP):
        for reader in streams:
            reader.now_s = max(other.now_s for other in streams)
            reader.read(at)
    pieces = [piece for reader in streams for piece in reader.asked]
    assert all((piece.start + piece.length) % MIB == 0 for piece in pieces)
    assert {piece.length for piece in pieces} <= {MIB - 2 * STEP, MIB, 2 * MIB, 4 * MIB}


def assert_cover(reader: Reader, begin: int) -> None:
    """Pieces of a stream from `begin` on neither overlap nor leave a hole nor pass the end."""
    position = begin
    for piece in reader.asked:
        assert piece.start == position, "neither a hole nor an overlap"
        assert piece.length > 0
        position += piece.length
    assert position <= reader.size_bytes


@pytest.mark.parametrize("size_bytes", [2 * MIB, 5 * MIB + 1, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1])
def test_a_whole_file_is_covered_to_its_last_byte_and_no_further(size_bytes: int) -> None:
    reader = Reader(size_bytes=size_bytes)
    reader.run(0, size_bytes)
    assert_cover(reader, 2 * STEP)
    assert reader.asked[-1].start + reader.asked[-1].length == size_bytes


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_nearly_sequential_reader_cover_it_without_holes(seed: int) -> None:
    dice = random.Random(seed)
    reader = Reader(size_bytes=dice.randrange(20 * MIB, 80 * MIB))
    origin = dice.randrange(4 * MIB)
    first = dice.randrange(1, 256 * KIB)
    reader.read(origin, first)
    position = origin + first
    reader.read(position, 1)
    while position < reader.size_bytes:
        waiting = []
        for _ in range(dice.randrange(1, 9)):
            length = dice.randrange(1, 250 * KIB)
            waiting.append((position, length))
            position += length
        dice.shuffle(waiting)
        for start, length in waiting:
            if start < reader.size_bytes:
                reader.read(start, length, waits=dice.random() < 0.5)
        if dice.random() < 0.1:
            reader.read(max(origin, position - dice.randrange(4 * MIB)), 1000)
    streams = {id(piece.stream) for piece in reader.asked}
    assert len(streams) == 1
    ends = [piece.start + piece.length for piece in reader.asked]
    assert ends[-1] == reader.size_bytes
    for piece, end in zip(reader.asked[1:], ends, strict=False):
        # Where the reader was faster than its window, the window begins at the reader.
        assert piece.start >= end
    assert all(piece.length > 0 and piece.start + piece.length <= reader.size_bytes for piece in reader.asked)


def test_a_read_past_the_end_asks_for_nothing() -> None:
    reader = Reader(size_bytes=0)
    assert reader.read(0) == []
    assert reader.read(0, 0) == []
    reader = Reader(size_bytes=100)
    reader.read(0, 50)
    assert reader.read(50, 1000) == []
    assert reader.read(100, 1000) == []


def test_what_is_remembered_of_random_reads_of_a_thousand_objects_is_bounded() -> None:
    readahead, dice = Readahead(BUDGET), random.Random(3)
    sizes = []
    for turn in range(1, 100_001):
        key, start = dice.randrange(1000), dice.randrange(SIZE - STEP)
        readahead.access(key, SIZE, start, STEP, waits=True, now_s=turn / 1000)
        if turn % 25_000 == 0:
            sizes.append((len(readahead._objects), len(readahead._active)))
    streams = [len(known.streams) for known in readahead._objects.values()]
    assert sizes[-1][0] <= 256
    assert max(streams) <= 64
    assert sizes[-1][1] <= 1000
    assert sys.getsizeof(readahead._active) < 1 << 20


def test_one_object_does_not_make_another_forget_its_stream() -> None:
    readahead = Readahead(BUDGET)
    reader, others = Reader(readahead), Reader(readahead)
    reader.read(0)
    for number in range(200):
        others.key = number
        others.read(number * MIB)
    assert spans(reader.read(STEP)) == FIRST_PIECES
