"""Small files opened in turn: which are fetched next."""

import random

from vfs.siblings import Question, Siblings
from vfs.sources import ObjectInfo

FILES = [ObjectInfo(f"d/{n:05}", 20_000, 0, "v") for n in range(10_000)]
PLACE = {obj.key: n for n, obj in enumerate(FILES)}


class Folder:
    """Opens files, answers what is asked, and remembers what was to be fetched."""

    def __init__(self, files: list[ObjectInfo], largest_bytes: int = 1 << 20) -> None:
        self.files = files
        self.place = {obj.key: n for n, obj in enumerate(files)}
        self.siblings = Siblings(largest_bytes)
        self.fetched: list[str] = []
        self.questions = 0

    def open(self, number: int) -> Question | None:
        question = self.siblings.opened("d", self.files[number])
        if question is not None:
            self.questions += 1
            begin = 0 if question.key is None else self.place[question.key] + 1
            following = self.files[begin : begin + question.count]
            self.fetched += [obj.key for obj in self.siblings.answer(question, following)]
        return question


def test_files_opened_in_turn_are_each_fetched_once_and_ahead() -> None:
    folder = Folder(FILES)
    late = 0
    for number, obj in enumerate(FILES):
        late += obj.key not in folder.fetched[-200:]
        folder.open(number)
    assert len(folder.fetched) == len(set(folder.fetched)) == len(FILES) - late
    assert late <= 6
    assert folder.questions < len(FILES) / 10


def test_sixteen_who_share_the_files_are_one_walk() -> None:
    folder = Folder(FILES)
    dice = random.Random(1)
    waiting = list(range(len(FILES)))
    while waiting:
        folder.open(waiting.pop(dice.randrange(min(16, len(waiting)))))
    assert len(folder.fetched) == len(set(folder.fetched)) > len(FILES) * 0.98


def test_one_opening_and_random_ones_fetch_nothing() -> None:
    folder = Folder(FILES)
    folder.open(500)
    assert folder.fetched == []
    dice = random.Random(2)
    for _ in range(2000):
        folder.open(dice.randrange(len(FILES)))
    assert len(folder.fetched) < 20
    assert folder.questions < 2000 / 10, "each costs as much as an opening"


def test_a_small_folder_opened_at_random_is_fetched_whole_once_an_eighth_of_it_was_opened() -> None:
    folder = Folder(FILES[:100])
    order = list(range(100))
    random.Random(3).shuffle(order)
    late = [at for at, number in enumerate(order) if (folder.open(number), FILES[number].key not in folder.fetched)[1]]
    assert set(late) <= set(range(20))
    assert set(folder.fetched) >= {FILES[number].key for number in order[20:]}
    assert folder.questions <= 12


def test_of_a_large_folder_opened_at_random_nothing_is_fetched_however_much_was_opened() -> None:
    folder = Folder(FILES[:1000])
    order = list(range(1000))
    random.Random(3).shuffle(order)
    for number in order[:500]:
        folder.open(number)
    assert len(folder.fetched) < 150
    assert folder.questions < 60


def test_of_a_small_folder_of_many_bytes_nothing_is_fetched_at_random() -> None:
    folder = Folder([ObjectInfo(obj.key, 1 << 20, 0, "v") for obj in FILES[:40]])
    for number in (30, 3, 25, 1, 18, 39, 10, 35, 0, 33, 5, 37):
        folder.open(number)
    assert len(folder.fetched) < 16


def test_no_more_than_the_window_is_ahead_of_who_stops() -> None:
    folder = Folder(FILES)
    for number in range(200):
        folder.open(number)
    assert max(PLACE[key] for key in folder.fetched) <= 199 + 96


def test_bytes_ahead_are_bounded_and_large_files_left_out() -> None:
    large = [ObjectInfo(f"d/{n:05}", 1_000_000 if n % 2 else 5_000_000, 0, "v") for n in range(400)]
    folder = Folder(large)
    for number in range(100):
        folder.open(number)
    assert all(folder.place[key] % 2 for key in folder.fetched)
    ahead = [key for key in folder.fetched if folder.place[key] > 99]
    assert 0 < len(ahead) <= 16


def test_a_small_folder_is_fetched_to_its_end_and_not_asked_about_again() -> None:
    folder = Folder(FILES[:20])
    for number in (0, 1, 2, 3, 4, 5):
        folder.open(number)
    asked = folder.questions
    for number in range(20):
        folder.open(number)
    assert {f"d/{n:05}" for n in range(6, 20)} <= set(folder.fetched)
    assert folder.questions <= asked + 2


def test_a_walk_that_begins_elsewhere_is_followed_there() -> None:
    folder = Folder(FILES)
    for number in [*range(50), *range(7000, 7050)]:
        folder.open(number)
    assert any(PLACE[key] > 7050 for key in folder.fetched)


def test_openings_while_a_question_is_open_ask_nothing_more() -> None:
    siblings = Siblings(1 << 20)
    question = siblings.opened("d", FILES[0])
    assert question == Question("d", "d/00000", 32)
    assert [siblings.opened("d", obj) for obj in FILES[1:8]] == [None] * 7
    assert siblings.answer(question, FILES[1:33]) == []
    assert siblings.answer(question, FILES[1:33]) == [], "a second answer to one question"


def test_folders_remembered_are_bounded() -> None:
    siblings = Siblings(1 << 20)
    for number in range(1000):
        siblings.opened(f"f{number}", FILES[0])
    assert len(siblings._folders) == 512
