"""How results reach a loop: in batches, by one descriptor, and without a turn where they are there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor

from tests.called import noop

Loops = Any


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as made:
        yield made


def eventfds() -> int:
    """How many this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]"
    return found


def test_a_loop_has_one_descriptor_and_no_thread_for_all_its_results(loops: Loops, pool: ProcessPoolExecutor) -> None:
    with ProcessPoolExecutor(1) as another:
        assert pool.submit(abs, -1).result() + another.submit(abs, -1).result() == 2

        async def main() -> None:
            await asyncio.sleep(0)
            before = eventfds(), len(os.listdir("/proc/self/task"))
            for _ in range(3):
                both = [some.run(abs, -number) for number in range(200) for some in (pool, another)]
                assert sum(await asyncio.gather(*both)) == 2 * 19900
                await asyncio.gather(pool.run(time.sleep, 0.002), another.run(time.sleep, 0.002))
                assert await another.submit(abs, -3) == 3
            after = eventfds(), len(os.listdir("/proc/self/task"))
            assert after[0] - before[0] in (0, 1)  # the process's first loop has one that is there already
            assert after[1] == before[1]

        loops.run(main)


def test_a_result_that_is_there_completes_its_await_without_a_turn_of_the_loop(
    loops: Loops, pool: ProcessPoolExecutor
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        turned: list[bool] = []
        while True:
            turned.clear()
            loop.call_soon(turned.append, True)
            done = pool.stats()["tasks"]["succeeded"]
            future = pool.run(abs, -1)
            while pool.stats()["tasks"]["succeeded"] == done:
                os.sched_yield()
            assert await future == 1
            if not turned:  # else half a millisecond was over before: another time
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert turned

    loops.run(main)


def test_awaits_that_need_no_turn_of_the_loop_do_not_starve_others(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        over = False

        async def hog() -> None:
            while not over:
                await pool.run(noop)

        task = asyncio.ensure_future(hog())
        for _ in range(50):
            await asyncio.sleep(0)
        over = True
        await task

    loops.run(main)


def test_results_are_handed_over_in_batches_with_turns_between(loops: Loops, pool: ProcessPoolExecutor) -> None:
    count = 2000 if loops.debug else 20_000

    async def main() -> None:
        futures = [pool.run(noop) for _ in range(count)]
        while pool.stats()["tasks"]["succeeded"] < count:
            time.sleep(0.001)  # the loop stands still until all are there
        await asyncio.sleep(0)
        assert not all(future.done() for future in futures)
        await asyncio.gather(*futures)

    loops.run(main)


def test_a_future_that_nobody_awaits_becomes_done(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        future = pool.run(abs, -1)
        while not future.done():
            await asyncio.sleep(0)
        assert future.result() == 1

    loops.run(main)


def test_results_that_come_while_the_loop_sleeps_wake_it(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        for _ in range(20):
            await pool.run(time.sleep, 0.002)  # longer than any spin

    loops.run(main)


def test_results_are_handed_over_once_a_turn(pool: ProcessPoolExecutor) -> None:
    class Loop:
        def __init__(self) -> None:
            self.called: list[Any] = []

        def call_soon(self, callback: Any) -> object:
            self.called.append(callback)
            return self

    loop = Loop()
    inbox = treadle._engine.Inbox(loop)
    told: list[bool] = []
    future = pool.submit(abs, -1)
    while not pool.stats()["tasks"]["succeeded"]:
        os.sched_yield()
    assert inbox.follow(future, lambda: told.append(True))
    assert len(loop.called) == 1
    inbox.ring()  # readable, too: the turn that is coming is enough
    assert not told
    assert len(loop.called) == 1
    loop.called[0]()
    assert told
    inbox.close()
