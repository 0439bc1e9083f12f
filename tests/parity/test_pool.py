"""treadle.Pool behaves as multiprocessing.Pool."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def square(x: int) -> int:
    return x * x


def multiply(a: int, b: int) -> int:
    return a * b


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError(x)
    return x


def meet(where: Any) -> int:
    where.in_task()
    return os.getpid()


class IterationError(Exception):
    pass


def failing_input(good: int) -> Iterator[int]:
    yield from range(good)
    raise IterationError


def test_apply(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    assert pool.apply(multiply, (2, 3)) == 6
    assert pool.apply(multiply, (2,), {"b": 5}) == 10
    with pytest.raises(ValueError, match="3"):
        pool.apply(fail_on_three, (3,))


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map(make_mp_pool: Any, chunksize: int | None) -> None:
    assert make_mp_pool(2).map(square, range(50), chunksize) == [i * i for i in range(50)]


def test_map_of_nothing(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    assert pool.map(square, []) == []
    assert pool.map_async(square, iter(())).get() == []
    assert list(pool.imap(square, [])) == []


def test_map_raises_what_the_input_raises(make_mp_pool: Any) -> None:
    with pytest.raises(IterationError):
        make_mp_pool(1).map(square, failing_input(3))


def test_map_raises_what_a_call_raised(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    with pytest.raises(ValueError, match="3") as caught:
        pool.map(fail_on_three, range(10))
    assert "fail_on_three" in str(caught.value.__cause__)
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_starmap(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    pairs = [(i, i + 1) for i in range(20)]
    assert pool.starmap(multiply, pairs) == [a * b for a, b in pairs]
    assert pool.starmap_async(multiply, pairs).get() == [a * b for a, b in pairs]


@pytest.mark.parametrize("chunksize", [1, 4])
def test_imap(make_mp_pool: Any, chunksize: int) -> None:
    pool = make_mp_pool(2)
    assert list(pool.imap(square, range(20), chunksize)) == [i * i for i in range(20)]
    assert sorted(pool.imap_unordered(square, range(20), chunksize)) == [i * i for i in range(20)]


def test_imap_goes_on_after_an_error(make_mp_pool: Any) -> None:
    results = make_mp_pool(2).imap(fail_on_three, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert next(results) == 4
    with pytest.raises(StopIteration):
        next(results)


def test_imap_raises_what_the_input_raises_at_its_place(make_mp_pool: Any) -> None:
    results = make_mp_pool(1).imap(square, failing_input(3))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(IterationError):
        next(results)


def test_imap_refuses_chunks_below_one(make_mp_pool: Any) -> None:
    with pytest.raises(ValueError, match=r"^Chunksize must be 1\+, not 0$"):
        make_mp_pool(1).imap(square, [1], 0)


def test_imap_next_runs_into_its_timeout_and_goes_on(make_mp_pool: Any, meeting: Callable[[], Any]) -> None:
    where = meeting()
    results = make_mp_pool(1).imap(meet, [where])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    where.in_test()
    assert isinstance(results.next(), int)


def test_results_are_read_after_close_and_join(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    one, many, stream = pool.apply_async(square, (3,)), pool.map_async(square, range(9)), pool.imap(square, range(9))
    pool.close()
    pool.join()
    assert one.get() == 9
    assert many.get() == list(stream) == [i * i for i in range(9)]


def test_async_result(make_mp_pool: Any, meeting: Callable[[], Any]) -> None:
    where = meeting()
    result = make_mp_pool(1).apply_async(meet, (where,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    result.wait(0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    where.in_test()
    assert isinstance(result.get(), int)
    assert result.ready()
    assert result.successful()


def test_callbacks_have_run_when_the_result_is_ready(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2)
    seen: list[Any] = []
    pool.apply_async(square, (3,), callback=seen.append).wait()
    pool.map_async(square, range(4), callback=seen.append).wait()
    result = pool.apply_async(fail_on_three, (3,), callback=seen.append, error_callback=seen.append)
    result.wait()
    assert not result.successful()
    assert seen[:2] == [9, [0, 1, 4, 9]]
    assert isinstance(seen[2], ValueError)


def test_the_initializer_runs_in_each_worker(make_mp_pool: Any) -> None:
    pool = make_mp_pool(2, os.putenv, ("TREADLE_PARITY", "1"))
    assert pool.map(square, range(3)) == [0, 1, 4]


def test_workers_are_replaced_after_maxtasksperchild(make_mp_pool: Any) -> None:
    pool = make_mp_pool(1, maxtasksperchild=2)
    pids = [pool.apply(os.getpid) for _ in range(6)]
    assert len(set(pids)) == 3


def test_a_closed_pool_refuses(make_mp_pool: Any) -> None:
    pool = make_mp_pool(1)
    with pytest.raises(ValueError, match=r"^Pool is still running$"):
        pool.join()
    pool.close()
    for call in (pool.apply_async, pool.map_async, pool.imap):
        with pytest.raises(ValueError, match=r"^Pool not running$"):
            call(square, (1,))
    with pytest.raises(ValueError, match=r"^Pool not running$"), pool:
        pass


def test_terminate_does_not_finish_the_queue(make_mp_pool: Any, meeting: Callable[[], Any]) -> None:
    pool = make_mp_pool(1)
    where = meeting()
    pool.apply_async(meet, (where,))
    pool.map_async(square, range(1000), 1)
    pool.terminate()
    pool.join()


def test_the_with_block_terminates(make_mp_pool: Any) -> None:
    with make_mp_pool(1) as pool:
        assert pool.apply(square, (2,)) == 4
    with pytest.raises(ValueError, match=r"^Pool not running$"):
        pool.apply(square, (2,))


def test_a_pool_cannot_be_pickled(make_mp_pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="pool objects cannot be passed between processes or pickled"):
        pickle.dumps(make_mp_pool(1))


def test_letting_go_of_a_running_pool_warns(make_mp_pool: Any) -> None:
    pool = make_mp_pool(1)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        pool.__del__()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"processes": 0}, ValueError, "Number of processes must be at least 1"),
        ({"processes": 1, "maxtasksperchild": 0}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"processes": 1, "maxtasksperchild": 1.5}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"processes": 1, "initializer": 3}, TypeError, "initializer must be a callable"),
    ],
)
def test_bad_arguments(make_mp_pool: Any, arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        make_mp_pool(**arguments)
    assert str(caught.value) == message
