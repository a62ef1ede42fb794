import random

import pytest

from vfs.frameahead import FrameAhead, Next

FIRST, COUNT = 1, 10_000


@pytest.fixture
def ahead() -> FrameAhead:
    return FrameAhead(FIRST, COUNT)


def made(ahead: FrameAhead, numbers, most: int = 32) -> list[int]:
    """All that is made ahead for these reads."""
    return [each for number in numbers for each in ahead.access(number, most).make]


def test_the_first_picture_makes_nothing_ahead_and_spares_those_behind_it(ahead: FrameAhead) -> None:
    assert ahead.access(500, 32) == Next(coming=range(500, 505))


def test_in_order_each_picture_is_made_ahead_once_and_before_it_is_read(ahead: FrameAhead) -> None:
    asked: set[int] = set()
    for number in range(100, 400):
        following = ahead.access(number, 32)
        assert not asked & set(following.make)
        assert list(following.make) == sorted(following.make)
        asked |= set(following.make)
        assert number < 102 or number in asked
    assert asked >= set(range(102, 400))
    assert max(asked) <= 399 + 32


def test_eight_in_a_row_cost_at_most_four_for_nothing(ahead: FrameAhead) -> None:
    assert max(made(ahead, range(100, 108))) <= 111


def test_no_more_than_allowed_is_made_ahead_and_nothing_where_nothing_is_allowed(ahead: FrameAhead) -> None:
    for number in range(100, 200):
        assert all(each <= number + 5 for each in ahead.access(number, 5).make)
    assert made(FrameAhead(FIRST, COUNT), range(100, 200), most=0) == []


def test_backwards_whole_stretches_are_made_in_the_order_they_are_decoded_in(ahead: FrameAhead) -> None:
    asked: list[int] = []
    for number in range(900, 600, -1):
        following = ahead.access(number, 32)
        assert list(following.make) == sorted(following.make)
        asked += following.make
    assert len(asked) == len(set(asked))
    assert set(asked) >= set(range(601, 898))


@pytest.mark.parametrize("step", [2, 30, 600, -30])
def test_equal_steps_are_recognised_at_the_third_picture(ahead: FrameAhead, step: int) -> None:
    numbers = [5000 + step * n for n in range(8 if abs(step) > 100 else 40)]
    assert made(ahead, numbers[:2]) == []
    asked = made(ahead, numbers[2:])
    assert set(asked) >= set(numbers[4:])
    assert all((number - 5000) % step == 0 for number in asked)


def test_random_reading_makes_nothing_ahead(ahead: FrameAhead) -> None:
    assert len(made(ahead, random.Random(3).sample(range(FIRST, COUNT, 3), 400))) < 8


def test_several_readers_each_have_their_place(ahead: FrameAhead) -> None:
    places = [1000, 3000, 5000, 7000]
    asked = [each for n in range(100) for place in places for each in ahead.access(place + n, 8).make]
    assert len(asked) == len(set(asked))
    for place in places:
        assert set(asked) >= set(range(place + 3, place + 100))


def test_what_was_made_for_a_reader_who_goes_elsewhere_is_given_up(ahead: FrameAhead) -> None:
    asked = made(ahead, range(100, 120))
    following = ahead.access(5000, 32)
    assert set(following.given_up) == {each for each in asked if each >= 120}
    assert ahead.access(7000, 32).given_up == range(0)


def test_a_reader_who_comes_back_has_pictures_made_again(ahead: FrameAhead) -> None:
    made(ahead, range(100, 120))
    ahead.access(5000, 32)
    assert set(made(ahead, range(120, 140))) >= set(range(122, 140))


def test_a_picture_read_twice_or_skipped_does_not_end_a_stream(ahead: FrameAhead) -> None:
    made(ahead, range(100, 140))
    assert made(ahead, [139, 139]) == []
    assert made(ahead, [142, 143, 144, 145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 156])


def test_nothing_outside_the_video_is_named() -> None:
    ahead = FrameAhead(1, 20)
    named = []
    for number in [*range(1, 21), *range(20, 0, -1), 1, 6, 11, 16]:
        following = ahead.access(number, 32)
        named += [*following.make, *following.coming, *following.given_up]
    assert set(named) <= set(range(1, 21))


def test_places_are_forgotten_when_there_are_too_many(ahead: FrameAhead) -> None:
    for number in range(1, COUNT, 7):
        ahead.access(number * 13 % COUNT + 1, 4)
    assert len(ahead._places) <= 32
