import mmap
import threading

from vfs.arena import Arena

MIB = 1 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE


def is_from(arena: Arena, view: memoryview) -> bool:
    """Whether a view lies in the arena's own memory, not in fresh one."""
    view[:8] = b"\xa5\x5asought"
    return arena._memory.find(b"\xa5\x5asought") >= 0


def test_slots_are_whole_pages_and_begin_at_pages() -> None:
    arena = Arena(3, mmap.PAGESIZE + 1)
    views = [arena.take() for _ in range(4)]
    assert [len(view) for view in views] == [2 * mmap.PAGESIZE] * 4
    for number, view in enumerate(views):
        view[:] = bytes([number + 1]) * len(view)
    assert [set(view) for view in views] == [{1}, {2}, {3}, {4}], "no two slots share memory"


def test_a_slot_comes_back_when_its_last_view_is_gone_and_not_before() -> None:
    arena = Arena(1, mmap.PAGESIZE)
    slot = arena.take()
    slot[:4] = b"mine"
    part = slot[1:3]
    del slot
    other = arena.take()
    assert not is_from(arena, other), "the only slot is still seen through `part`"
    assert bytes(part) == b"in"
    del part
    assert is_from(arena, arena.take())


def test_more_takes_than_slots_get_memory_of_their_own() -> None:
    arena = Arena(2, mmap.PAGESIZE)
    views = [arena.take() for _ in range(5)]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * len(view)
    assert [view[7] for view in views] == [0, 1, 2, 3, 4]
    views.clear()
    assert [is_from(arena, view) for view in (arena.take(), arena.take())] == [True, True], "both came back"


def test_give_back_returns_the_memory_of_free_slots_and_leaves_slots_in_use_alone() -> None:
    arena = Arena(64, MIB)
    views = [arena.take() for _ in range(64)]
    for view in views:
        view[:] = b"x" * MIB
    kept = views[10]
    views.clear()
    del view
    before = resident_bytes()
    arena.give_back()
    assert before - resident_bytes() > 60 * MIB
    assert kept == b"x" * MIB
    # Zeros, not what was there: the system has the memory itself, not only this process's view of it.
    assert arena._memory[:].count(b"x") == MIB


def test_a_slot_given_back_can_be_taken_again() -> None:
    arena = Arena(2, mmap.PAGESIZE)
    arena.give_back()
    views = [arena.take() for _ in range(2)]
    assert [is_from(arena, view) for view in views] == [True, True]


def test_many_threads_never_get_the_same_slot_at_once() -> None:
    arena = Arena(4, mmap.PAGESIZE)
    clashes: list[int] = []

    def use(number: int) -> None:
        mark = bytes([number]) * mmap.PAGESIZE
        for turn in range(300):
            view = arena.take()
            view[:] = mark
            if turn % 50 == 0:
                arena.give_back()
            if view != mark:
                clashes.append(number)
            del view

    threads = [threading.Thread(target=use, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    views = [arena.take() for _ in range(4)]
    assert [is_from(arena, view) for view in views] == [True] * 4, "every slot came back once"
