"""Awaits that are cancelled, and what else goes wrong under a loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor

from tests.called import Unloadable, kill_self, noop, refuse_to_stop, wait_in_task

Loops = Any


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as made:
        yield made


def answer(pool: ProcessPoolExecutor) -> int:
    """What shows that a pool's workers are free: each takes a call."""
    return sum(future.result() for future in [pool.submit(abs, -number) for number in (1, 2)])


# --- cancelling


def test_cancelled_work_that_is_queued_never_runs(loops: Loops, meeting: Any) -> None:
    async def main() -> None:
        place = meeting()
        with ProcessPoolExecutor(1) as pool:
            busy = pool.run(place.in_task)
            queued = [pool.run(noop) for _ in range(100)]
            for future in queued:
                assert future.cancel()
            place.in_test()
            await busy
            for future in queued:
                with pytest.raises(asyncio.CancelledError):
                    await future
        tasks = pool.stats()["tasks"]
        assert (tasks["cancelled"], tasks["succeeded"]) == (100, 1)

    loops.run(main)


async def cancel_the_task(place: Any, pool: ProcessPoolExecutor, fn: Any = wait_in_task) -> None:
    async def wait() -> None:
        await pool.run(fn, place)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    place.in_test()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_what_was_submitted(place: Any, pool: ProcessPoolExecutor) -> None:
    async def wait() -> None:
        await pool.submit(wait_in_task, place)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    place.in_test()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def run_out_of_time(place: Any, pool: ProcessPoolExecutor) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            future = pool.run(wait_in_task, place)
            place.in_test()
            limit.reschedule(0)
            await future


async def fail_beside_it(place: Any, pool: ProcessPoolExecutor) -> None:
    async def fail_soon() -> None:
        place.in_test()
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with treadle.aio.TaskGroup(pool) as group:
            group.cpu(wait_in_task, place)
            await asyncio.sleep(0)
            group.create_task(fail_soon())
    assert caught.group_contains(LookupError)


async def leave_it_to_the_loops_end(place: Any, pool: ProcessPoolExecutor) -> None:
    pool.run(wait_in_task, place)
    place.in_test()


@pytest.mark.parametrize(
    "body",
    [cancel_the_task, cancel_what_was_submitted, run_out_of_time, fail_beside_it, leave_it_to_the_loops_end],
)
def test_work_that_runs_is_stopped_and_its_slot_is_free(body: Any, loops: Loops, meeting: Any) -> None:
    with ProcessPoolExecutor(2) as pool:
        loops.run(functools.partial(body, meeting(), pool))
        assert answer(pool) == 3
        while pool.stats()["tasks"]["running"]:
            answer(pool)
        assert pool.stats()["tasks"]["cancelled"] == 1


def test_work_that_does_not_stop_is_killed_after_the_grace_time(
    loops: Loops, meeting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "50ms")

    async def main() -> None:
        with ProcessPoolExecutor(1) as pool:
            before = await pool.run(os.getpid)
            await cancel_the_task(meeting(), pool, refuse_to_stop)
            assert await pool.run(os.getpid) != before

    loops.run(main)


def test_work_that_is_queued_at_the_loops_end_never_runs(loops: Loops, meeting: Any) -> None:
    with ProcessPoolExecutor(1) as pool:

        async def main() -> None:
            place = meeting()
            futures.append(pool.run(wait_in_task, place))
            place.in_test()
            futures.extend(pool.run(noop) for _ in range(50))

        futures: list[asyncio.Future[None]] = []
        loops.run(main)
        assert all(future.cancelled() for future in futures)
        assert pool.submit(abs, -1).result() == 1
    tasks = pool.stats()["tasks"]
    assert (tasks["cancelled"], tasks["succeeded"]) == (51, 1)


def test_a_shield_keeps_the_work(loops: Loops, pool: ProcessPoolExecutor, meeting: Any) -> None:
    async def main() -> None:
        place = meeting()
        future = pool.run(place.in_task)

        async def wait() -> None:
            await asyncio.shield(future)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        place.in_test()
        assert await future is None

    loops.run(main)


def test_a_loop_that_is_only_closed_stops_its_work(loops: Loops, meeting: Any) -> None:
    if loops.module.__name__ == "rloop":
        pytest.skip("rloop never lets go of a loop")
    with ProcessPoolExecutor(2) as pool:
        place = meeting()

        async def main() -> asyncio.Future[None]:
            future = pool.run(wait_in_task, place)
            place.in_test()
            return future

        loop = loops.new()
        future = loop.run_until_complete(main())
        loop.close()
        del loop
        assert not future.done()
        del future
        gc.collect()
        assert answer(pool) == 3


def test_ctrl_c_ends_the_program_and_stops_the_work(loops: Loops, meeting: Any) -> None:
    with ProcessPoolExecutor(2) as pool:
        place = meeting()

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(0, place.in_test)
            loop.call_later(0, os.kill, os.getpid(), signal.SIGINT)
            await pool.run(wait_in_task, place)

        with pytest.raises(KeyboardInterrupt):
            loops.run(main)
        assert answer(pool) == 3


# --- faults


def test_a_worker_that_dies_fails_its_await(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(treadle.WorkerDied):
            await pool.run(kill_self)
        died = await asyncio.gather(*[pool.run(kill_self) for _ in range(4)], pool.run(abs, -1), return_exceptions=True)
        assert [type(error) for error in died[:4]] == [treadle.WorkerDied] * 4
        assert died[4] == 1

    loops.run(main)


def test_a_broken_pool_fails_its_awaits(loops: Loops, meeting: Any) -> None:
    async def main() -> None:
        place = meeting()
        pool = ProcessPoolExecutor(1)
        futures = [pool.run(wait_in_task, place), pool.run(noop)]
        place.in_test()
        pool.kill_workers()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(outcomes[0], treadle.PoolBroken)
        assert isinstance(outcomes[1], (treadle.PoolBroken, asyncio.CancelledError))
        pool.shutdown()

    loops.run(main)


def test_each_task_gets_its_own_error(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def one(number: int) -> object:
        if number % 4 == 0:
            return await pool.run(Unloadable)
        if number % 4 == 1:
            return await pool.run(int, str(number) + "?")
        if number % 4 == 2:
            return await pool.run(abs, threading.Lock())
        return await pool.run(abs, -number)

    async def main() -> None:
        outcomes = await asyncio.gather(*map(one, range(100)), return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if number % 4 == 3:
                assert outcome == number
            else:
                assert isinstance(outcome, (treadle.ArrivalError, ValueError, treadle.TravelError)[number % 4])
        for number in (5, 9):
            assert f"'{number}?'" in str(outcomes[number])

    loops.run(main)


def test_two_loops_in_two_threads_share_a_pool(loops: Loops, pool: ProcessPoolExecutor) -> None:
    sums: list[int] = []

    async def main() -> None:
        for _ in range(3):
            sums.append(sum(await asyncio.gather(*[pool.run(abs, -number) for number in range(1000)])))
            await pool.run(time.sleep, 0.002)
        for number in range(100):
            assert await pool.run(abs, -number) == number

    threads = [threading.Thread(target=loops.run, args=(main,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [499500] * 9


def test_a_waiting_thread_and_a_loop_each_get_theirs(loops: Loops, pool: ProcessPoolExecutor) -> None:
    def wait() -> int:
        return sum(pool.submit(abs, -number).result() for number in range(500))

    async def main() -> None:
        waiting = asyncio.ensure_future(asyncio.to_thread(wait))
        while not waiting.done():
            assert await asyncio.gather(*[pool.run(abs, -number) for number in range(50)]) == list(range(50))
        assert await waiting == 124750
        called: list[int] = []
        futures = [pool.submit(abs, -number) for number in range(100)]
        for future in futures:
            future.add_done_callback(lambda future: called.append(future.result()))
        assert sum(await asyncio.gather(*[pool.run(abs, -number) for number in range(100)])) == 4950
        await asyncio.gather(*futures)
        while len(called) < 100:
            await asyncio.sleep(0)

    loops.run(main)


def test_a_forked_child_may_use_loops_and_pools_of_its_own(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def again() -> int:
        try:
            await pool.run(abs, -1)
        except treadle.ForkedPool:
            with ProcessPoolExecutor(1) as own:
                return await own.run(abs, -7)
        return 1

    async def main() -> int:
        future = pool.run(time.sleep, 0.01)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with pytest.raises(RuntimeError):
                    pool.run(abs, -1)
                asyncio.events._set_running_loop(None)
                status = asyncio.run(again())
            finally:
                os._exit(status)
        await future
        assert await pool.run(abs, -2) == 2
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert loops.run(main) == 7


def test_a_hundred_thousand_awaits_at_once(pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        assert sum(await asyncio.gather(*[pool.run(abs, -1) for _ in range(100_000)])) == 100_000

    asyncio.run(main())
