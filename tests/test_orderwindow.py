"""Which lines are ahead of a reader and where it is: lines and reads alone, nothing is fetched."""

import random
from collections.abc import Iterator

import pytest

from vfs.orderwindow import Line, Room, State, Window

MIB = 1 << 20


def room(file_bytes: int = 100, lines: int = 4096, most: int = 100) -> Room:
    return Room(file_bytes, 1000, lines, most, 1000)


def window(count: int, own: Room | None = None, *, follows: bool = True) -> Window:
    """A window that knows so many lines, each of a file of its own."""
    made = Window(own or room(), follows=follows)
    made.add(Line(number, f"f{number}") for number in range(1, count + 1))
    return made


def fetch(window: Window, size: int = 1) -> list[int]:
    """Takes all that may be taken, and has it at hand; the numbers."""
    numbers = []
    while (line := window.take()) is not None:
        window.found(line, line.path)
        window.hold(line, size)
        window.ready(line)
        numbers.append(line.number)
    return numbers


def test_lines_are_taken_in_their_order_until_the_room_is_full() -> None:
    under_test = window(1000)
    assert fetch(under_test) == list(range(1, 101))
    assert (under_test.unread, under_test.held_bytes()) == (100, 100)


def test_a_reader_who_stands_still_has_nothing_more_fetched() -> None:
    under_test = window(1000)
    fetch(under_test)
    for _ in range(5):
        assert fetch(under_test) == []


def test_no_more_lines_than_allowed_are_taken_however_small_they_are() -> None:
    assert fetch(window(1000, room(lines=30)), size=0) == list(range(1, 31))


def test_a_read_makes_room_once_an_eighth_is_free() -> None:
    under_test = window(1000)
    fetch(under_test)
    for number in range(1, 13):
        assert under_test.opened(f"f{number}")
        assert fetch(under_test) == []
    under_test.opened("f13")
    assert fetch(under_test) == list(range(101, 114))
    assert under_test.tally.hits == 13


def test_what_is_read_before_it_is_at_hand_is_late_and_not_fetched() -> None:
    under_test = window(300)
    fetch(under_test)
    assert under_test.opened("f120")  # it waits
    assert (under_test.tally.hits, under_test.tally.late) == (0, 1)
    for number in range(1, 101):
        under_test.opened(f"f{number}")
    assert 120 not in fetch(under_test)


def test_workers_that_read_batches_side_by_side_find_everything_at_hand() -> None:
    under_test = window(8000, room(2000, most=2000))
    workers = 8
    batches = iter([range(at, at + 32) for at in range(1, 8001, 32)])
    fronts: list[Iterator[int]] = [iter(next(batches)) for _ in range(workers)]
    dice = random.Random(5)
    while fronts:
        fetch(under_test)
        front = dice.choice(fronts)
        number = next(front, None)
        if number is None:
            fronts.remove(front)
            if (batch := next(batches, None)) is not None:
                fronts.append(iter(batch))
            continue
        assert under_test.opened(f"f{number}")
    assert (under_test.tally.hits, under_test.tally.late, under_test.tally.skipped) == (8000, 0, 0)
    assert under_test.held_bytes() == 0


def test_one_stray_read_far_ahead_moves_nothing() -> None:
    under_test = window(5000, room(5000, most=5000))
    fetch(under_test)
    under_test.opened("f1")
    under_test.opened("f3000")
    assert under_test.furthest == 1
    under_test.opened("f2")
    assert under_test.furthest == 2


def test_several_reads_far_ahead_and_beside_each_other_move_the_reader_there() -> None:
    under_test = window(5000, room(5000, most=5000))
    fetch(under_test)
    under_test.opened("f1")
    for number in (3000, 3001, 3002, 3003):
        under_test.opened(f"f{number}")
    assert under_test.furthest == 3003
    assert under_test.lowest == 3003 - 1024


def test_a_first_read_that_is_a_stray_moves_nothing_either() -> None:
    under_test = window(5000, room(5000, most=5000))
    fetch(under_test)
    under_test.opened("f3000")
    assert under_test.furthest == 0
    for number in range(1, 100):
        under_test.opened(f"f{number}")
    assert (under_test.furthest, under_test.tally.skipped) == (99, 0)


def test_lines_that_a_reader_skips_hold_half_of_the_room_at_most() -> None:
    under_test = window(4000)
    for read, number in enumerate(range(2, 4001, 2), 1):
        fetch(under_test)
        under_test.opened(f"f{number}")
        assert under_test.tally.hits == read, "what is not skipped is always at hand"
    assert under_test.tally.skipped > 1900


def test_the_room_grows_where_workers_are_further_apart_than_it_is_large_and_no_further_than_its_bound() -> None:
    under_test = window(4000, room(100, most=300))
    for number in range(1, 200):
        fetch(under_test)
        under_test.opened(f"f{number}")
        under_test.opened(f"f{number + 600}")
    assert under_test.room.file_bytes == 300


def test_a_file_that_is_opened_twice_is_one_line_read() -> None:
    under_test = Window(room(), follows=True)
    names = [f"f{number}" for number in range(500)]
    under_test.add(Line(number, name) for number, name in enumerate([*names, *reversed(names)], 1))
    for name in names[:50]:
        fetch(under_test)
        assert under_test.opened(name)
        assert not under_test.opened(name)
    assert under_test.furthest == 50
    assert (under_test.tally.read, under_test.tally.again, under_test.tally.strays) == (50, 50, 0)


def test_epochs_in_one_list_are_followed_one_after_the_other() -> None:
    dice = random.Random(1)
    epochs = [dice.sample(range(300), 300) for _ in range(4)]
    under_test = Window(room(), follows=True)
    under_test.add(Line(n, f"f{each}") for n, each in enumerate([each for epoch in epochs for each in epoch], 1))
    for epoch in epochs:
        for each in epoch:
            fetch(under_test)
            assert under_test.opened(f"f{each}")
    assert under_test.furthest == 1200
    assert (under_test.tally.hits, under_test.tally.late) == (1200, 0)


def test_a_line_whose_path_is_a_link_is_found_by_the_name_that_it_leads_to() -> None:
    under_test = window(10)
    line = under_test.take()
    assert line is not None
    assert under_test.found(line, "elsewhere/x")
    assert under_test.opened("elsewhere/x")
    assert line.state is State.OVER


def test_a_line_without_a_reader_is_over_when_it_is_at_hand() -> None:
    under_test = window(1000, room(10, most=10), follows=False)
    assert fetch(under_test) == list(range(1, 1001))
    assert under_test.unread == 0


# -- ranges


def ranges(count: int, length: int, own: Room | None = None) -> Window:
    made = Window(own or room(1 << 40, most=1 << 40), follows=True)
    places = list(range(count))
    random.Random(7).shuffle(places)
    made.add(Line(number, "shard", place * length, length) for number, place in enumerate(places, 1))
    return made


def test_ranges_of_one_file_are_followed_by_its_reads_and_not_by_its_opening() -> None:
    under_test = ranges(1000, 100_000)
    places = list(range(1000))
    random.Random(7).shuffle(places)
    assert not under_test.opened("shard")
    for number, place in enumerate(places, 1):
        fetch(under_test)
        assert under_test.read("shard", place * 100_000 & ~4095, 4096 * 20)
        assert under_test.furthest == number
        under_test.read("shard", place * 100_000 + 40_000, 4096)
        assert under_test.furthest == number, "more of the same range is no line further on"
    assert under_test.tally.hits == 1000
    assert under_test.tally.again == 1000


def test_a_range_that_the_kernel_reads_along_is_read_and_moves_nothing() -> None:
    under_test = Window(room(), follows=True)
    under_test.add([Line(1, "s", 0, 8192), Line(2, "s", 1 << 20, 8192), Line(3, "s", 8192, 8192)])
    fetch(under_test)
    assert under_test.read("s", 0, 16384)
    assert under_test.furthest == 1
    assert under_test.unread == 1
    assert under_test.tally.hits == 2


# -- elsewhere


def test_many_strays_in_a_row_are_to_be_looked_for() -> None:
    under_test = window(10)
    for number in range(15):
        under_test.opened(f"other{number}")
    assert under_test.strays() == []
    under_test.opened("other15")
    assert under_test.strays() == [(f"other{number}", -1) for number in range(16)]


def test_strays_among_reads_of_lines_are_not_looked_for() -> None:
    under_test = window(100)
    for number in range(1, 101):
        fetch(under_test)
        under_test.opened(f"f{number}")
        under_test.opened("readme.txt")
        assert under_test.strays() == []


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (list(range(7000, 7016)), 7000),
        ([5, *range(7000, 7016), 60_000], 7000),
        (list(range(0, 160_000, 10_000)), None),
        ([], None),
        ([7000, 7001, 7002], None),
    ],
)
def test_the_reader_is_where_most_strays_lie_together(found: list[int], place: int | None) -> None:
    assert window(10).place_of(found, 16) == place


def test_a_reader_of_other_files_beside_the_lists_own_makes_few_looks() -> None:
    under_test, looks, dice = window(4000), 0, random.Random(3)
    for number in range(1, 4001):
        fetch(under_test)
        under_test.opened(f"f{number}")
        for _ in range(dice.randrange(8)):
            under_test.opened(f"other{dice.randrange(10_000)}")
            if under_test.strays():
                looks += 1
                under_test.place_of([], 16)
    assert looks < 6
    assert under_test.tally.hits == 4000


def test_a_reader_who_is_nowhere_is_looked_for_less_and_less() -> None:
    under_test = window(10)
    looks = 0
    for number in range(10_000):
        under_test.opened(f"other{number}")
        if under_test.strays():
            looks += 1
            under_test.place_of([], 64)
    assert looks < 15


def test_after_a_jump_nothing_is_held_and_lines_from_there_are_taken() -> None:
    under_test = window(100)
    fetch(under_test)
    under_test.jump(5001)
    assert (under_test.held_bytes(), under_test.unread, under_test.waiting) == (0, 0, 0)
    under_test.add(Line(number, f"f{number}") for number in range(5001, 6000))
    assert fetch(under_test)[:3] == [5001, 5002, 5003]
    assert under_test.opened("f5001")


def test_what_is_held_is_what_was_taken_and_not_read_whatever_happens() -> None:
    dice = random.Random(11)
    under_test = window(3000, room(200, most=400))
    for _ in range(4_000):
        what = dice.randrange(4)
        if what == 0 and (line := under_test.take()) is not None:
            if dice.random() < 0.1:
                under_test.lose(line)
            elif under_test.found(line, line.path):
                for _ in range(dice.randrange(3)):
                    under_test.hold(line, dice.randrange(5))
                under_test.ready(line)
        elif what == 1:
            under_test.opened(f"f{under_test.furthest + dice.randrange(-30, 60)}")
        elif what == 2:
            under_test.opened(f"f{dice.randrange(1, 3000)}")
        assert under_test.held_bytes() == sum(line.held_bytes for line in under_test._taken.values())
        behind = sum(line.held_bytes for number, line in under_test._taken.items() if number <= under_test.furthest)
        assert behind == sum(held.behind_bytes for held in under_test._held)
