"""ProcessPoolExecutor behaves as the stdlib's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

# The stdlib's own fork, in a process that has threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def multiply(a: int, b: int = 2) -> int:
    return a * b


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def divide(a: int, b: int) -> float:
    return a / b


def fail_with_note() -> None:
    error = ValueError("bad")
    error.add_note("a note")
    raise error


def fail_with_group() -> None:
    raise ExceptionGroup("several", [ValueError(1), KeyError("x")])


def meet_twice(first: Any, second: Any) -> str:
    first.in_task()
    second.in_task()
    return "met"


STATE: list[Any] = []


def set_state(*values: Any) -> None:
    import builtins

    builtins.parity_state = values  # type: ignore[attr-defined]


def get_state() -> Any:
    import builtins

    return builtins.parity_state  # type: ignore[attr-defined]


def fail_at_start() -> None:
    raise RuntimeError("no start")


def test_submit_returns_a_future_with_the_result(make_pool: Any) -> None:
    future = make_pool(1).submit(multiply, 3, b=5)
    assert isinstance(future, Future)
    assert future.result() == 15
    assert future.done()
    assert not future.running()
    assert future.exception() is None


def test_keywords_may_have_any_name(make_pool: Any) -> None:
    expected = {"self": 1, "fn": 2, "timeout": 3, "name": 4}
    assert make_pool(1).submit(keywords, **expected).result() == expected


def test_an_exception_keeps_its_type_and_has_the_workers_traceback_as_cause(make_pool: Any) -> None:
    error = make_pool(1).submit(divide, 1, 0).exception()
    assert type(error) is ZeroDivisionError
    assert error.args == ("division by zero",)
    assert "Traceback (most recent call last)" in str(error.__cause__)
    assert "in divide" in str(error.__cause__)


def test_notes_are_kept(make_pool: Any) -> None:
    assert make_pool(1).submit(fail_with_note).exception().__notes__ == ["a note"]


def test_exception_groups_are_kept(make_pool: Any) -> None:
    error = make_pool(1).submit(fail_with_group).exception()
    assert type(error) is ExceptionGroup
    assert [type(part) for part in error.exceptions] == [ValueError, KeyError]


def test_map_gives_results_in_order(make_pool: Any) -> None:
    assert list(make_pool(2).map(multiply, range(100), range(100))) == [i * i for i in range(100)]


def test_map_ends_with_the_shortest_iterable(make_pool: Any) -> None:
    pool = make_pool(1)
    assert list(pool.map(multiply, range(3), itertools.count(1))) == [0, 2, 6]
    assert list(pool.map(multiply, [], range(3))) == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100])
def test_map_with_chunks(make_pool: Any, chunksize: int) -> None:
    assert list(make_pool(2).map(multiply, range(50), chunksize=chunksize)) == [2 * i for i in range(50)]


def test_map_refuses_chunks_below_one(make_pool: Any) -> None:
    with pytest.raises(ValueError, match=r"^chunksize must be >= 1\.$"):
        make_pool(1).map(multiply, [1], chunksize=0)


def test_an_error_in_map_surfaces_at_its_place_and_ends_it(make_pool: Any) -> None:
    results = make_pool(1).map(divide, [4, 1, 9], [2, 0, 3])
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_runs_into_its_timeout(make_pool: Any, meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    pool = make_pool(1)
    blocker = pool.submit(meet_twice, first, second)
    first.in_test()
    results = pool.map(multiply, [1], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    second.in_test()
    assert blocker.result() == "met"


def meet_once(where: Any) -> int:
    where.in_task()
    return os.getpid()


def test_result_runs_into_its_timeout(make_pool: Any, meeting: Callable[[], Any]) -> None:
    late = meeting()
    future = make_pool(1).submit(meet_once, late)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    late.in_test()
    assert isinstance(future.result(), int)


@pytest.mark.parametrize("timeout", ["1", b"1", [], 1j])
def test_a_timeout_that_is_no_number_is_a_type_error(make_pool: Any, meeting: Callable[[], Any], timeout: Any) -> None:
    late = meeting()
    pool = make_pool(1)
    future = pool.submit(meet_once, late)
    with pytest.raises(TypeError):
        future.result(timeout)
    with pytest.raises(TypeError):
        future.exception(timeout)
    with pytest.raises(TypeError):
        list(pool.map(multiply, [1], timeout=timeout))
    late.in_test()
    assert isinstance(future.result(), int)


def test_a_running_task_cannot_be_cancelled(make_pool: Any, meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    future = make_pool(1).submit(meet_twice, first, second)
    first.in_test()
    assert future.running()
    assert not future.cancel()
    second.in_test()
    assert future.result() == "met"


def test_a_queued_task_is_cancelled(make_pool: Any, meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    pool = make_pool(1)
    blocked = pool.submit(meet_twice, first, second)
    first.in_test()
    queued = [pool.submit(multiply, i) for i in range(10)]
    assert queued[-1].cancel()
    assert queued[-1].cancelled()
    with pytest.raises(CancelledError):
        queued[-1].result()
    second.in_test()
    assert blocked.result() == "met"
    assert [future.result() for future in queued[:-1]] == [2 * i for i in range(9)]


def test_callbacks_run_in_their_order_and_with_the_future(make_pool: Any, meeting: Callable[[], Any]) -> None:
    where = meeting()
    future = make_pool(1).submit(meet_once, where)
    seen: list[Any] = []
    for i in range(3):
        future.add_done_callback(lambda done, i=i: seen.append((i, done)))
    where.in_test()
    future.result()
    late: list[Any] = []
    future.add_done_callback(late.append)  # runs now, after the others
    while len(seen) < 3:
        concurrent.futures.wait([future])
        time.sleep(0)
    assert seen == [(i, future) for i in range(3)]
    assert late == [future]


def test_wait_and_as_completed_of_the_stdlib(make_pool: Any, meeting: Callable[[], Any]) -> None:
    pool = make_pool(2)
    late = meeting()
    quick, slow = pool.submit(multiply, 1), pool.submit(meet_once, late)
    done, pending = concurrent.futures.wait([quick, slow], return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    stream = concurrent.futures.as_completed([slow, quick, quick])
    assert next(stream) is quick
    late.in_test()
    assert next(stream) is slow
    with pytest.raises(StopIteration):
        next(stream)


def test_wait_for_the_first_exception(make_pool: Any, meeting: Callable[[], Any]) -> None:
    pool = make_pool(2)
    late = meeting()
    bad, slow = pool.submit(divide, 1, 0), pool.submit(meet_once, late)
    done, _ = concurrent.futures.wait([bad, slow], return_when=concurrent.futures.FIRST_EXCEPTION)
    assert done == {bad}
    late.in_test()


def test_as_completed_runs_into_its_timeout(make_pool: Any, meeting: Callable[[], Any]) -> None:
    late = meeting()
    future = make_pool(1).submit(meet_once, late)
    with pytest.raises(TimeoutError, match="1 \\(of 1\\) futures unfinished"):
        list(concurrent.futures.as_completed([future], timeout=0.01))
    late.in_test()


def test_submitting_after_shutdown(make_pool: Any) -> None:
    pool = make_pool(1)
    pool.submit(multiply, 1).result()
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(multiply, 1)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.map(multiply, [1])
    pool.shutdown()


def test_shutdown_of_a_pool_that_never_started(make_pool: Any) -> None:
    pool = make_pool(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(multiply, 1)


def test_shutdown_finishes_what_is_queued(make_pool: Any) -> None:
    pool = make_pool(1)
    futures = [pool.submit(multiply, i) for i in range(20)]
    pool.shutdown(wait=False)
    assert [future.result() for future in futures] == [2 * i for i in range(20)]


def test_a_map_is_finished_though_nobody_waits_for_the_pool(make_pool: Any) -> None:
    pool = make_pool(2)
    results = pool.map(multiply, range(20))
    pool.shutdown(wait=False)
    assert list(results) == [2 * i for i in range(20)]


def test_a_map_is_finished_though_the_pool_was_let_go_of(make_pool: Any) -> None:
    results = make_pool(2, kept=False).map(multiply, range(20))
    gc.collect()
    assert list(results) == [2 * i for i in range(20)]


def test_shutdown_cancels_what_is_queued(make_pool: Any, meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    pool = make_pool(1)
    running = pool.submit(meet_twice, first, second)
    first.in_test()
    queued = [pool.submit(multiply, i) for i in range(10)]
    cancelled = threading.Event()
    queued[-1].add_done_callback(lambda _: cancelled.set())
    pool.shutdown(wait=False, cancel_futures=True)
    cancelled.wait()
    second.in_test()
    assert running.result() == "met"
    assert queued[-1].cancelled()


def test_what_is_about_to_begin_is_not_cancelled(make_pool: Any) -> None:
    pool = make_pool(1)
    futures = [pool.submit(multiply, i) for i in range(50)]
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert futures[0].result() == 0


def test_leaving_the_with_block_waits(make_pool: Any) -> None:
    with make_pool(2) as pool:
        futures = [pool.submit(multiply, i) for i in range(10)]
    assert all(future.done() for future in futures)


def test_the_initializer_runs_in_each_worker(make_pool: Any) -> None:
    pool = make_pool(2, initializer=set_state, initargs=("a", 1))
    assert {pool.submit(get_state).result() for _ in range(10)} == {("a", 1)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_initializer_breaks_the_pool(make_pool: Any) -> None:
    pool = make_pool(1, initializer=fail_at_start)
    with pytest.raises(BrokenProcessPool):
        pool.submit(multiply, 1).result()
    with pytest.raises(BrokenExecutor):
        pool.submit(multiply, 1)


def test_a_worker_that_leaves_is_a_broken_process_pool(make_pool: Any) -> None:
    with pytest.raises(BrokenProcessPool):
        make_pool(1).submit(os._exit, 3).result()


def test_workers_are_replaced_after_max_tasks_per_child(make_pool: Any) -> None:
    if make_pool.kind in ("stdlib", "fork"):
        with pytest.raises(ValueError, match="max_tasks_per_child is incompatible with the 'fork'"):
            make_pool(1, max_tasks_per_child=2)
        return
    pool = make_pool(1, max_tasks_per_child=2)
    pids = [pool.submit(os.getpid).result() for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_asyncio_runs_in_it(make_pool: Any) -> None:
    pool = make_pool(1)

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        first = await loop.run_in_executor(pool, multiply, 4)
        return first, await asyncio.wrap_future(pool.submit(multiply, 5))

    assert asyncio.run(main()) == (8, 10)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "'<=' not supported between instances of 'str' and 'int'"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
    ],
)
def test_bad_arguments(make_pool: Any, arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        make_pool(**arguments)
    assert str(caught.value) == message


def test_what_cannot_be_pickled_fails_its_own_future(make_pool: Any) -> None:
    pool = make_pool(1)
    with pytest.raises(Exception, match="pickle"):
        pool.submit(multiply, (i for i in range(3))).result()
    assert pool.submit(multiply, 2).result() == 4


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("its own words")


def test_the_error_of_pickling_is_of_the_type_that_was_raised(make_pool: Any) -> None:
    with pytest.raises(RuntimeError, match="its own words"):
        make_pool(1).submit(multiply, Unpicklable()).result()


def test_an_error_of_pickling_reaches_its_future_after_shutdown(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool.submit(multiply, 2).result() == 4
    future = pool.submit(multiply, Unpicklable())
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="its own words"):
        future.result()
