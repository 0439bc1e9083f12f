"""submit: functions by identity, calls that cannot be sent, ends of the pool. binding/executor.c, binding/pool.c"""

from __future__ import annotations

import functools
import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest
import treadle
from treadle import PoolClosed, TravelError, _engine


@pytest.fixture
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(2) as pool:
        yield pool


def everything(*args: object, **kwargs: object) -> tuple[object, object]:
    return args, kwargs


class Adder:
    def __init__(self, step: int) -> None:
        self.step = step

    def add(self, number: int) -> int:
        return number + self.step

    def __call__(self, number: int) -> int:
        return number + self.step


def test_all_arguments_arrive(pool):
    assert pool.submit(everything).result() == ((), {})
    assert pool.submit(everything, 1, "b", c=3, d=None).result() == ((1, "b"), {"c": 3, "d": None})
    assert pool.submit(everything, *range(100), **{f"k{i}": i for i in range(100)}).result() == (
        tuple(range(100)),
        {f"k{i}": i for i in range(100)},
    )
    assert pool.submit(everything, fn=1, self=2).result() == ((), {"fn": 1, "self": 2})


def test_the_function_is_needed(pool):
    with pytest.raises(TypeError, match=r"ProcessPoolExecutor.submit\(\) missing 1 required positional argument: 'fn'"):
        pool.submit()
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        pool.submit(fn=abs)


@pytest.mark.parametrize(
    "callable_",
    [Adder(3).add, Adder(3), functools.partial(Adder.add, Adder(3)), lambda number: number + 3],
    ids=["method", "object", "partial", "lambda"],
)
def test_callables_of_all_kinds(pool, callable_):
    assert [pool.submit(callable_, i).result() for i in range(5)] == [3, 4, 5, 6, 7]


def test_a_function_that_changes_is_sent_anew(pool):
    factor = 2

    def scale(number):
        return number * factor

    assert pool.submit(scale, 10).result() == 20
    factor = 5
    assert pool.submit(scale, 10).result() == 50


def test_an_object_that_changes_is_sent_anew(pool):
    adder = Adder(1)
    assert pool.submit(adder.add, 1).result() == 2
    adder.step = 10
    assert pool.submit(adder.add, 1).result() == 11


def test_more_functions_than_the_table_holds(pool):
    functions = [functools.partial(pow, i) for i in range(50)]
    made = [eval(f"lambda: {i}") for i in range(3000)]
    futures = [pool.submit(function) for function in made]
    assert [future.result() for future in futures] == list(range(3000))
    assert [pool.submit(function, 2).result() for function in functions] == [i * i for i in range(50)]


def test_functions_are_let_go_of_at_the_end():
    def local():
        return 7

    pool = treadle.ProcessPoolExecutor(1)
    assert pool.submit(local).result() == 7
    pool.shutdown()
    reference = weakref.ref(local)
    del local
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    "call",
    [lambda pool, lock: pool.submit(abs, lock), lambda pool, lock: pool.submit(lock.acquire)],
    ids=["argument", "function"],
)
def test_what_cannot_be_sent_fails_alone(pool, call):
    lock = threading.Lock()
    future = call(pool, lock)
    assert future.done()
    assert not future.cancel()
    assert isinstance(future.exception(), TravelError)
    calls = []
    future.add_done_callback(calls.append)
    assert calls == [future]
    assert treadle.wait([future, pool.submit(abs, -1)]).not_done == set()
    assert pool.submit(abs, -2).result() == 2


def test_an_interrupt_while_packing_is_the_callers(pool):
    class Stop:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.submit(abs, Stop())
    assert pool.submit(abs, -2).result() == 2


def test_options_of_one_task_are_checked(pool):
    with pytest.raises(ValueError, match="timeout"):
        pool._submit(abs, (1,), None, -1, 0, None)
    with pytest.raises(ValueError, match="retries"):
        pool._submit(abs, (1,), None, None, -1, None)
    with pytest.raises(TypeError, match="name"):
        pool._submit(abs, (1,), None, None, 0, 5)
    future = pool._submit(abs, (-1,), {}, None, 0, "the task")
    assert future.result() == 1
    assert "task=the task" in repr(future)


def test_large_arguments_and_results(pool):
    data = os.urandom(3_000_000)
    assert pool.submit(everything, data, b=data).result() == ((data,), {"b": data})


def test_after_shutdown_nothing_is_accepted():
    pool = treadle.ProcessPoolExecutor(1)
    futures = [pool.submit(abs, -i) for i in range(100)]
    pool.shutdown(wait=False)
    with pytest.raises(PoolClosed, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(abs, 1)
    pool.shutdown()
    assert [future.result() for future in futures] == list(range(100))
    with pytest.raises(PoolClosed, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(abs, 1)
    with pytest.raises(PoolClosed):
        pool.map(abs, [1])
    assert pool._join(0)
    assert pool.stats()["tasks"]["succeeded"] == 100
    assert pool.stats()["workers"] == []


def test_a_pool_that_broke_says_why_for_ever():
    pool = treadle.ProcessPoolExecutor(1)
    pool.submit(abs, 1).result()
    pool._break("on purpose")
    for _ in range(2):
        with pytest.raises(treadle.PoolBroken, match="on purpose"):
            pool.submit(abs, 1)
        assert pool._broken_reason() == "on purpose"
        pool.shutdown()


def test_the_engines_calls_need_a_pool_that_has_begun():
    pool = treadle.ProcessPoolExecutor(1)
    for call in (lambda: pool._prestart(1), lambda: pool._break("x"), lambda: pool._set_context(b"")):
        with pytest.raises(RuntimeError, match="has not begun"):
            call()
    assert pool._stats()["submitted"] == 0
    assert pool._workers() == []
    assert pool._broken_reason() is None
    assert pool._idle() is True


def test_threads_submit_at_once(pool):
    results: list[list[int]] = []

    def submit_some():
        futures = [pool.submit(abs, -i) for i in range(300)]
        results.append([future.result() for future in futures])

    threads = [threading.Thread(target=submit_some) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(300))] * 6


def test_the_base_type_stands_alone():
    executor = _engine.Executor()
    with pytest.raises(AttributeError, match="_begin"):
        executor.submit(abs, 1)
    with pytest.raises(TypeError):
        _engine.MapIterator()
