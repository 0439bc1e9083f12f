"""Pools in coroutines: one body on asyncio's loop, with its debug mode too, on uvloop and on rloop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor

from tests.called import Unloadable, colour, colour_now, fail, noop, unset

Loops = Any


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as made:
        yield made


# --- outcomes


def test_run_gives_an_asyncio_future_of_the_result(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        future = pool.run(divmod, 7, 2)
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        assert await future == (3, 1)
        assert future.result() == (3, 1)
        assert await pool.run(int, "11", base=2) == 3
        assert await pool.run(functools.partial(divmod, 9), 2) == (4, 1)

    loops.run(main)


def test_an_error_is_raised_at_the_await_with_the_workers_traceback(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="lost") as caught:
            await pool.run(fail, "lost")
        assert isinstance(caught.value.__cause__, treadle.RemoteTraceback)
        with pytest.raises((RuntimeError, TypeError), match="StopIteration"):  # as asyncio of each version says it
            await pool.run(next, iter(()))

    loops.run(main)


def test_submitted_futures_can_be_awaited(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        future = pool.submit(abs, -3)
        assert await future == 3
        assert await future == 3
        assert await asyncio.gather(pool.submit(abs, -1), pool.submit(abs, -2)) == [1, 2]
        assert await asyncio.wrap_future(pool.submit(abs, -4)) == 4
        with pytest.raises(LookupError):
            await pool.submit(fail, "lost")
        grouped = [pool.submit(abs, -5)]
        for done in treadle.as_completed(grouped):
            assert await done == 5

    loops.run(main)


def test_a_future_of_another_group_can_be_awaited_meanwhile(
    loops: Loops, pool: ProcessPoolExecutor, meeting: Any
) -> None:
    async def main() -> None:
        place = meeting()
        future = pool.submit(place.in_task)
        iterator = treadle.as_completed([future, pool.submit(abs, -1)])
        assert next(iterator).result() == 1
        asyncio.get_running_loop().call_later(0, place.in_test)
        assert await future is None
        assert next(iterator) is future

    loops.run(main)


def test_gathered_results_come_in_order_and_each_once(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        numbers = range(300 if loops.debug else 5000)  # where each keeps the stack on which it was made
        assert await asyncio.gather(*[pool.run(abs, -number) for number in numbers]) == list(numbers)

        async def one(number: int) -> int:
            return await pool.run(abs, -number)

        assert await asyncio.gather(*[one(number) for number in numbers]) == list(numbers)

    loops.run(main)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 and later")
def test_tasks_that_begin_at_once_await_too(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def one(number: int) -> int:
        return await pool.run(abs, -number) + await pool.submit(abs, -number)

    async def main() -> None:
        begin: Any = functools.partial(asyncio.Task, loop=asyncio.get_running_loop(), eager_start=True)
        tasks = [begin(one(number)) for number in range(300)]
        assert await asyncio.gather(*tasks) == list(range(0, 600, 2))

    loops.run(main)


def test_run_in_executor_takes_the_pool(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, abs, -1) == 1
        with pytest.raises(LookupError):
            await loop.run_in_executor(pool, fail, "lost")
        assert await asyncio.gather(*[loop.run_in_executor(pool, abs, -n) for n in range(500)]) == list(range(500))

    loops.run(main)


def test_results_of_run_in_executor_need_no_thread(loops: Loops, pool: ProcessPoolExecutor, meeting: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        vars(loop)["call_soon_threadsafe"] = told.append
        try:
            assert await asyncio.gather(*[loop.run_in_executor(pool, abs, -n) for n in range(50)]) == list(range(50))
            with pytest.raises(LookupError):
                await loop.run_in_executor(pool, fail, "lost")
            assert await asyncio.wrap_future(pool.submit(abs, -4)) == 4
        finally:
            del vars(loop)["call_soon_threadsafe"]
        assert not told

    loops.run(main)


def test_run_in_executor_cancels_what_is_queued_and_lets_run_what_runs(loops: Loops, meeting: Any) -> None:
    async def main() -> None:
        place = meeting()
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as pool:
            running = loop.run_in_executor(pool, place.in_task)
            queued = loop.run_in_executor(pool, noop)
            assert queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            await asyncio.sleep(0)  # asyncio tells the pool at the next turn
            place.in_test()
            await running
        tasks = pool.stats()["tasks"]
        assert (tasks["cancelled"], tasks["succeeded"]) == (1, 1)

    loops.run(main)


def test_options_and_threads_run_too(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(treadle.TaskTimeout):
            await pool.options(timeout=0.1).run(time.sleep, 600)
        async with treadle.ThreadPoolExecutor(2) as threads:
            assert await threads.run(threading.get_ident) != threading.get_ident()
            assert await threads.submit(abs, -2) == 2
            with pytest.raises(LookupError):
                await threads.run(fail, "lost")

    loops.run(main)


def test_threads_may_be_a_loops_default_executor(loops: Loops) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(treadle.ThreadPoolExecutor(2, thread_name_prefix="ours"))
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert name.startswith("ours")
        assert await asyncio.to_thread(abs, -1) == 1
        await loop.shutdown_default_executor()

    loops.run(main)


def test_inline_pools_run_too(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_INLINE", "1")

    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            assert await pool.run(os.getpid) == os.getpid()
            with pytest.raises(LookupError):
                await pool.run(fail, "lost")

    loops.run(main)


# --- what cannot be run


async def fetch() -> int:
    return 1


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class CalledLater:
    async def __call__(self) -> None:
        pass

    async def method(self) -> None:
        pass


@pytest.mark.parametrize(
    "fn",
    [fetch, functools.partial(fetch), CalledLater(), CalledLater().method, numbers],
    ids=["function", "partial", "object", "method", "generator"],
)
def test_coroutine_functions_are_refused(fn: Any, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"treadle\.aio\.stream" if fn is numbers else "await"):
            pool.run(fn)
        with pytest.raises(TypeError):
            pool.options().run(fn)

    asyncio.run(main())


def test_a_coroutine_is_refused_and_closed(pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="was given a coroutine"):
            pool.run(fetch())  # type: ignore[arg-type]

    asyncio.run(main())


def test_without_a_running_loop_run_says_so(pool: ProcessPoolExecutor) -> None:
    with pytest.raises(RuntimeError, match="no event loop is running"):
        pool.run(abs, -1)
    with pytest.raises(RuntimeError, match="no event loop is running"):
        pool.submit(abs, -1).__await__()


def test_what_cannot_be_sent_or_loaded_fails_its_await(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(treadle.TravelError):
            await pool.run(abs, threading.Lock())
        with pytest.raises(treadle.ArrivalError):
            await pool.run(Unloadable)
        assert await pool.run(abs, -1) == 1

    loops.run(main)


def test_a_closed_pool_refuses(loops: Loops) -> None:
    async def main() -> None:
        pool = ProcessPoolExecutor(1)
        assert await pool.run(abs, -1) == 1
        pool.shutdown()
        with pytest.raises(treadle.PoolClosed):
            pool.run(abs, -1)

    loops.run(main)


# --- context


def test_context_variables_are_carried_on_request(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        colour.set("red")
        assert await pool.run(colour_now) == ("none", "unset")
        assert await pool.run(colour_now, context=(colour, unset)) == ("red", "unset")
        assert await pool.run(colour_now) == ("none", "unset")
        assert await treadle.aio.to_thread(colour_now) == ("red", "unset")
        local: contextvars.ContextVar[int] = contextvars.ContextVar("local")
        with pytest.raises(ValueError, match="'local' is not defined at the top level"):
            pool.run(colour_now, context=(local,))
        with pytest.raises(TypeError):
            pool.run(colour_now, context=("colour",))  # type: ignore[arg-type]

    loops.run(main)
