"""Moving results, item by item in maps, and with all that may come in between: errors, cancels, threads, children."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from treadle import TravelError, wait

np = pytest.importorskip("numpy")

LARGE = 1_000_000
SLACK = 4096
"""Bytes that a result takes beside its arrays: its pickle."""


def numbered(count: int, size: int = LARGE) -> list[Any]:
    return [np.full(size, i, dtype="u1") for i in range(count)]


# --- maps


def of_item(item: int) -> Any:
    return np.full(LARGE, item % 250, dtype="u1")


@pytest.mark.parametrize("chunksize", [1, 7, None])
def test_a_maps_results_move(moving: Any, chunksize: int | None) -> None:
    moved = 0
    while moved < 30 * LARGE:
        before = moving.pool.stats()["bytes_moved"]
        for item, array in enumerate(moving.pool.map(of_item, range(50), chunksize=chunksize)):
            assert array.shape == (LARGE,)
            assert (array == item).all()
        moved = moving.pool.stats()["bytes_moved"] - before
        del array


def test_a_maps_item_keeps_nothing_but_itself(moving: Any) -> None:
    moved = 0
    while moved < 8 * LARGE:
        before = moving.pool.stats()["bytes_moved"]
        kept_item = list(moving.pool.map(of_item, range(8), chunksize=8))[3]
        moved = moving.pool.stats()["bytes_moved"] - before
    assert (kept_item == 3).all()
    assert moving.live() < LARGE + SLACK


def of_odd_item(item: int) -> Any:
    if item % 5 == 4:
        raise ValueError(item)
    return [of_item(item), threading.Lock()] if item % 5 == 3 else [of_item(item)]


def test_items_that_fail_leave_the_others_theirs(moving: Any) -> None:
    for _ in range(3):
        for item in range(0, 40, 5):
            results = moving.pool.map(of_odd_item, range(item, item + 5), chunksize=5)
            for good in range(item, item + 3):
                assert (next(results)[0] == good).all()
            with pytest.raises(TravelError):
                next(results)


# --- what comes in between


class Trouble:
    """Cannot be pickled, after all that came before it was."""

    def __reduce__(self) -> Any:
        raise OSError("trouble")


def trouble() -> list[Any]:
    return [*numbered(3), Trouble()]


def test_a_result_that_cannot_be_pickled_leaves_its_arrays_to_be_collected(moving: Any) -> None:
    for _ in range(30):
        with pytest.raises(TravelError):
            moving.pool.submit(trouble).result()
    moving.until_moved(3 * LARGE, numbered, 3)


class LastWords:
    """Raises when it goes."""

    def __reduce__(self) -> Any:
        return str, ("gone",)

    def __del__(self) -> None:
        np.full(LARGE, 9, dtype="u1")
        raise OSError("last words")


def with_last_words() -> list[Any]:
    import sys

    sys.unraisablehook = lambda _: None
    return [*numbered(2), LastWords()]


def test_what_is_let_go_of_may_raise_and_make_arrays(moving: Any) -> None:
    first, second, words = moving.until_moved(2 * LARGE, with_last_words)
    assert words == "gone"
    assert not first.any()
    assert (second == 1).all()


class MeetsAtItsEnd:
    """Meets the test when it goes, and waits."""

    def __init__(self, meeting: Any) -> None:
        self.meeting = meeting

    def __reduce__(self) -> Any:
        return str, ("gone",)

    def __del__(self) -> None:
        self.meeting.in_task()
        threading.Event().wait()


class MeetsInPickle(MeetsAtItsEnd):
    """Meets the test when it is pickled, and waits."""

    def __reduce__(self) -> Any:
        self.meeting.in_task()
        threading.Event().wait()

    def __del__(self) -> None:
        pass


def arrays_and_meeting(kind: type[MeetsAtItsEnd], meeting: Any) -> list[Any]:
    import sys

    sys.unraisablehook = lambda _: None
    return [*numbered(3), kind(meeting)]


@pytest.mark.parametrize("kind", [MeetsAtItsEnd, MeetsInPickle])
def test_a_task_that_is_cancelled_while_its_result_is_packed_leaves_nothing(
    moving: Any, meeting: Callable[[], Any], kind: type[MeetsAtItsEnd]
) -> None:
    moving.until_moved(3 * LARGE, numbered, 3)
    for _ in range(5):
        met = meeting()
        future = moving.pool.submit(arrays_and_meeting, kind, met)
        met.in_test()
        assert future.cancel(force=True)
        assert moving.pool.submit(abs, -1).result() == 1
        assert future.cancelled()
    moving.until_moved(3 * LARGE, numbered, 3)


def with_threads() -> list[Any]:
    """Others make arrays in the same context, and let go of some that are in the result."""
    shared = numbered(4)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            np.full(LARGE // 3, 7, dtype="u1")

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(churn,)) for _ in range(3)]
    holder = list(shared)
    threads.append(threading.Thread(target=holder.clear))
    for thread in threads:
        thread.start()
    result = [array + 1 for array in shared]
    stop.set()
    return [result, shared]


def test_threads_of_the_task_may_make_arrays_meanwhile(moving: Any) -> None:
    for _ in range(20):
        result, shared = moving.pool.submit(with_threads).result()
        for i in range(4):
            assert (result[i] == i + 1).all()
            assert (shared[i] == i).all()


def changed_by_a_child() -> tuple[int, Any]:
    array = np.full(LARGE, 1, dtype="u1")
    pid = os.fork()
    if pid == 0:
        good = bool((array == 1).all())
        array[:] = 2
        mine = np.full(LARGE, 3, dtype="u1")
        os._exit(0 if good and (array == 2).all() and (mine == 3).all() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), array


def test_a_child_that_a_task_forks_has_arrays_of_its_own(moving: Any) -> None:
    for _ in range(3):
        status, array = moving.until(lambda one: one.moved, changed_by_a_child).value
        assert status == 0
        assert (array == 1).all()


def forked_in_the_middle() -> Any:
    array = np.full(LARGE, 1, dtype="u1")
    pid = os.fork()
    if pid != 0:
        os.waitpid(pid, 0)
    array += pid != 0
    return array


def test_a_child_that_comes_back_from_the_task_writes_nothing(moving: Any) -> None:
    for _ in range(3):
        assert (moving.pool.submit(forked_in_the_middle).result() == 2).all()
        for array in moving.pool.map(lambda _: forked_in_the_middle(), range(3), chunksize=3):
            assert (array == 2).all()


class ForksAtItsEnd:
    """Forks when it goes, and leaves the child there until it is told to go on."""

    told: int
    tell: int
    child = 0

    def __reduce__(self) -> Any:
        return str, ("gone",)

    def __del__(self) -> None:
        cls = ForksAtItsEnd
        cls.told, cls.tell = os.pipe()
        cls.child = os.fork()
        if cls.child == 0:
            os.read(cls.told, 1)


def arrays_and_child() -> list[Any]:
    return [*numbered(2), ForksAtItsEnd()]


def let_child_go_on() -> None:
    os.write(ForksAtItsEnd.tell, b"!")
    os.waitpid(ForksAtItsEnd.child, 0)
    os.close(ForksAtItsEnd.tell)
    os.close(ForksAtItsEnd.told)


def test_a_child_that_was_forked_while_a_result_goes_drops_nothing_of_it(moving: Any) -> None:
    moving.until_moved(2 * LARGE, numbered, 2)
    for _ in range(5):
        future = moving.pool.submit(arrays_and_child)
        wait([future])
        moving.pool.submit(let_child_go_on).result()
        first, second, words = future.result()
        assert words == "gone"
        assert not first.any()
        assert (second == 1).all()
