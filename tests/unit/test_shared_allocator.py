"""`treadle.shared.allocator`: NumPy's own arrays are born in shared memory, and live there while somebody has them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from treadle import ProcessPoolExecutor, shared  # noqa: E402

KIB = 1 << 10


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_blocks_left() -> Iterator[None]:
    gc.collect()
    before = shared.info()["blocks"]
    yield
    gc.collect()
    assert shared.info()["blocks"] == before


def blocks() -> int:
    return shared.info()["blocks"]


def increment(array: Any) -> None:
    array += 1


MAKERS = [
    lambda: np.empty(100_000),
    lambda: np.zeros(100_000),
    lambda: np.ones((100, 1000)) * 2.0,
    lambda: np.arange(100_000),
    lambda: np.concatenate([np.zeros(50_000), np.ones(50_000)]),
    lambda: np.frombuffer(bytes(800_000)).copy(),
    lambda: np.random.default_rng(1).random(100_000),
    lambda: np.zeros(100_000, "M8[s]"),
    lambda: np.zeros(10_000, [("a", "i4"), ("b", "f8", 9)]),
    lambda: np.linspace(0, 1, 100_000).reshape(100, 1000).T.copy(order="F"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_numpy_makes_is_written_to_in_place(make: Any, pool: ProcessPoolExecutor) -> None:
    with shared.allocator():
        array = make()
    view = array.view("u1") if array.dtype.kind in "MV" else array
    before = array.copy()
    assert blocks() >= 1
    pool.submit(increment, view).result()
    expected = before.view(view.dtype) if array.dtype.kind in "MV" else before
    assert (view == expected + 1).all()


def test_slices_and_views_too(pool: ProcessPoolExecutor) -> None:
    with shared.allocator():
        array = np.zeros((100, 1000))
    for view in (array[10:20], array.T[::7, ::-3], array.ravel()[5:10]):
        pool.submit(increment, view).result()
        assert (view == 1).all()
        view[...] = 0
    assert not array.any()


def test_small_arrays_are_as_always(pool: ProcessPoolExecutor) -> None:
    before = blocks()
    with shared.allocator(min_bytes=1000 * KIB):
        small, large = np.zeros(100_000, "u1"), np.zeros(1000 * KIB, "u1")
        assert blocks() == before + 1
    for array in (small, large):
        pool.submit(increment, array).result()
    assert (small[0], large[0]) == (0, 1)


def test_after_the_block_numpy_is_as_before() -> None:
    before = blocks()
    with shared.allocator():
        with shared.allocator(min_bytes=1 << 30):
            inner = np.zeros(100_000)
            assert blocks() == before
        outer = np.zeros(100_000)
        assert blocks() == before + 1
    after = np.zeros(100_000)
    assert blocks() == before + 1
    del inner, outer, after
    assert blocks() == before


def test_one_allocator_may_be_entered_again() -> None:
    before, same = blocks(), shared.allocator()
    with same, same:
        first = np.zeros(100_000)
    with same:
        second = np.zeros(100_000)
    assert blocks() == before + 2
    del first, second


def test_an_array_outlives_the_block_and_changes_its_size_there(pool: ProcessPoolExecutor) -> None:
    with shared.allocator():
        array = np.arange(100_000)
    expected = list(range(100_000))
    for size in (99_000, 300_000, 20_000, 200_000):
        array.resize(size, refcheck=False)
        expected = (expected + [0] * size)[:size]
        assert array.tolist() == expected
    pool.submit(increment, array).result()
    assert array.tolist() == [value + 1 for value in expected]


def test_what_a_task_holds_is_not_reused_when_its_array_goes(pool: ProcessPoolExecutor, meeting: Any) -> None:
    where, late = meeting(), meeting()

    def total(array: Any) -> float:
        where.in_task()
        late.in_task()
        return float(array.sum())

    with shared.allocator():
        array = np.ones(100_000)
        future = pool.submit(total, array)
        where.in_test()
        del array
        others = [np.zeros(100_000) for _ in range(5)]
    late.in_test()
    assert future.result() == 100_000
    del others


def test_arrays_of_objects_are_copied(pool: ProcessPoolExecutor) -> None:
    with shared.allocator():
        array = np.array([[i] for i in range(20_000)], object)
        pairs = np.zeros(20_000, [("a", object), ("b", "i4")])
    assert pool.submit(list, array[:, 0]).result() == list(range(20_000))
    assert pool.submit(len, pairs).result() == 20_000


def test_threads_and_tasks_of_their_own_are_not_in_the_block() -> None:
    before = blocks()

    async def apart() -> None:
        made = []
        inside, outside = asyncio.Event(), asyncio.Event()

        async def within() -> None:
            with shared.allocator():
                inside.set()
                await outside.wait()
                made.append(np.zeros(100_000))

        async def beside() -> None:
            await inside.wait()
            made.append(np.zeros(100_000))
            assert blocks() == before
            outside.set()

        await asyncio.gather(within(), beside())
        assert blocks() == before + 1
        made.clear()

    asyncio.run(apart())
    arrays: list[Any] = []
    with shared.allocator():
        thread = threading.Thread(target=lambda: arrays.append(np.zeros(100_000)))
        if getattr(thread, "_context", None) is None:  # where threads inherit no context
            thread.start()
            thread.join()
            assert blocks() == before


def test_arrays_may_be_freed_by_any_thread() -> None:
    before, arrays = blocks(), []
    with shared.allocator():
        arrays.extend(np.zeros(100_000) for _ in range(100))
    threads = [threading.Thread(target=lambda: [arrays.pop() for _ in range(25)] and None) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocks() == before


def test_no_room_is_a_memory_error() -> None:
    with shared.allocator():
        for make in (np.empty, np.zeros):
            with pytest.raises(MemoryError):
                make(1 << 58, "u1")
        assert np.zeros(100_000)[0] == 0


@pytest.mark.parametrize("wrong", [-1, 1 << 70])
def test_a_size_that_is_none(wrong: int) -> None:
    with pytest.raises((ValueError, OverflowError)), shared.allocator(wrong):
        pass
    with pytest.raises(TypeError):
        shared.allocator("large")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_sees_the_parents_arrays_and_makes_its_own() -> None:
    with shared.allocator():
        array, other = np.zeros(100_000), np.zeros(100_000)
        child = os.fork()
        if child == 0:
            try:
                array[0] = 1  # the parent sees it
                other[:] = 2
                array.resize(50, refcheck=False)
                more = [np.ones(100_000) for _ in range(10)]
                known = sum(int(one.sum()) for one in more) == 1_000_000 and shared.info()["blocks"] == 10
                del array, other, more
                gc.collect()
                os._exit(0 if known and shared.info()["blocks"] == 0 else 1)
            finally:
                os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert array[0] == 1
    assert (other == 2).all()
    assert blocks() >= 2


def make_shared(count: int) -> Any:
    with shared.allocator():
        return np.arange(count)


def test_a_task_may_use_it_and_its_result_is_a_value(pool: ProcessPoolExecutor) -> None:
    for _ in range(3):
        assert (pool.submit(make_shared, 100_000).result() == np.arange(100_000)).all()
