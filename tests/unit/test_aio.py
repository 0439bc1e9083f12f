"""treadle.aio: work with a limit, groups, streams, and calls elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, aio

from tests.called import square, wait_in_task

Loops = Any


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as made:
        yield made


class Counted:
    """Coroutines that know how many of them are under way."""

    def __init__(self) -> None:
        self.now = self.most = self.begun = self.cancelled = 0

    async def __call__(self, number: int) -> int:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(number % 3):
                await asyncio.sleep(0)
            if number < 0:
                raise LookupError(number)
            return number * number
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1

    async def square(self, number: int) -> int:
        return await self(number)


async def count(numbers: int) -> AsyncIterator[int]:
    for number in range(numbers):
        await asyncio.sleep(0)
        yield number


# --- map


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_map_calls_coroutine_functions_within_its_limit(loops: Loops, ordered: bool, later: bool) -> None:
    async def main() -> None:
        counted = Counted()
        items: Any = count(100) if later else range(100)
        found = [result async for result in aio.map(counted.square, items, limit=7, ordered=ordered)]
        expected = [number * number for number in range(100)]
        assert (found if ordered else sorted(found)) == expected
        assert counted.most <= 7

    loops.run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_map_calls_plain_functions_in_a_pool(
    loops: Loops, ordered: bool, later: bool, pool: ProcessPoolExecutor
) -> None:
    async def main() -> None:
        items: Any = count(100) if later else range(100)
        found = [result async for result in aio.map(square, items, limit=5, ordered=ordered, pool=pool)]
        assert (found if ordered else sorted(found)) == [number * number for number in range(100)]

    loops.run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_results_that_nobody_takes_hold_back_what_has_not_begun(loops: Loops, ordered: bool) -> None:
    async def main() -> None:
        counted = Counted()
        results = aio.map(counted.square, itertools.count(), limit=3, ordered=ordered)
        for taken in range(1, 5):
            await anext(results)
            for _ in range(20):
                await asyncio.sleep(0)
            assert counted.begun <= taken + 3
        await results.aclose()  # type: ignore[attr-defined]
        assert counted.now == 0

    loops.run(main)


@pytest.mark.parametrize("later", [True, False])
def test_an_items_error_is_raised_at_its_place_and_ends_the_map(loops: Loops, later: bool) -> None:
    async def main() -> None:
        counted = Counted()
        items: Any = [1, 2, -3, 4, 5]

        async def feed() -> AsyncIterator[int]:
            for item in items:
                yield item

        found = []
        with pytest.raises(LookupError):
            async for result in aio.map(counted.square, feed() if later else items, limit=2):
                found.append(result)
        assert found == [1, 4]
        assert counted.now == 0

    loops.run(main)


def test_an_error_of_the_iterable_is_raised(loops: Loops) -> None:
    async def feed() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            async for _ in aio.map(Counted().square, feed(), limit=2):
                pass

    loops.run(main)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (True, TypeError)])
def test_a_limit_is_a_positive_number(loops: Loops, limit: Any, error: type[Exception]) -> None:
    async def main() -> None:
        with pytest.raises(error):
            aio.map(square, [], limit=limit)
        with pytest.raises(error):
            await aio.gather(limit=limit)
        with pytest.raises(error):
            await anext(aio.as_completed([], limit=limit))

    loops.run(main)


# --- gather and as_completed


def test_gather_keeps_to_its_limit_and_to_the_order(loops: Loops) -> None:
    async def main() -> None:
        counted = Counted()
        assert await aio.gather(*map(counted, range(50)), limit=4) == [number * number for number in range(50)]
        assert 1 < counted.most <= 4
        assert await aio.gather(limit=1) == []

    loops.run(main)


def test_the_first_error_of_a_gather_cancels_the_rest(loops: Loops) -> None:
    async def main() -> None:
        counted = Counted()
        with pytest.raises(LookupError):
            await aio.gather(counted(1), counted(-1), *map(counted, range(1, 50)), limit=4)
        assert counted.now == 0
        assert counted.begun < 51

    loops.run(main)


def test_gathered_errors_take_their_places_on_request(loops: Loops) -> None:
    async def main() -> None:
        counted = Counted()
        found = await aio.gather(counted(2), counted(-1), counted(3), limit=1, return_exceptions=True)
        assert found[0] == 4
        assert isinstance(found[1], LookupError)
        assert found[2] == 9

    loops.run(main)


def test_as_completed_begins_what_there_is_room_for(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        counted = Counted()
        found = [future.result() async for future in aio.as_completed(map(counted, range(60)), limit=5)]
        assert sorted(found) == [number * number for number in range(60)]
        assert counted.most <= 5
        calls = (pool.run(square, number) for number in range(60))
        assert sorted([await future async for future in aio.as_completed(calls, limit=5)]) == sorted(found)

    loops.run(main)


# --- groups


def test_a_groups_cpu_work_is_done_when_it_ends(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        async with aio.TaskGroup(pool) as group:
            tasks = [group.cpu(square, number) for number in range(20)]
            task = group.create_task(asyncio.sleep(0, "slept"))
        assert [task.result() for task in tasks] == [number * number for number in range(20)]
        assert task.result() == "slept"

    loops.run(main)


def test_a_group_fails_with_its_cpu_work(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup(pool) as group:
                group.cpu(square, -1)
                sleeper = group.create_task(asyncio.sleep(3600))
        assert caught.group_contains(LookupError)
        assert sleeper.cancelled()
        with pytest.raises(TypeError):
            async with aio.TaskGroup(pool) as group:
                group.cpu(count, 1)

    with pytest.raises(ExceptionGroup):
        loops.run(main)


# --- pools


def test_async_with_ends_a_pool_and_the_loop_goes_on(loops: Loops) -> None:
    async def main() -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(turn())
        async with ProcessPoolExecutor(1) as pool:
            future = pool.submit(os.getpid)
            before = turns
        assert turns > before
        assert future.result() != os.getpid()
        with pytest.raises(treadle.PoolClosed):
            pool.submit(abs, 1)
        task.cancel()

    loops.run(main)


def test_async_with_that_is_cancelled_stops_the_work(loops: Loops, meeting: Any) -> None:
    async def use(place: Any, inside: bool) -> None:
        async with ProcessPoolExecutor(1) as pool:
            future = pool.submit(wait_in_task, place)
            place.in_test()
            if inside:
                await asyncio.sleep(3600)
        assert future.cancelled()

    async def main() -> None:
        for inside in (True, False):
            task = asyncio.ensure_future(use(meeting(), inside))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    loops.run(main)


def test_the_programs_pools_run_calls_elsewhere(loops: Loops) -> None:
    async def main() -> None:
        assert await aio.to_process(os.getpid) != os.getpid()
        assert await aio.to_thread(threading.get_ident) != threading.get_ident()
        assert await asyncio.gather(*[aio.to_process(square, number) for number in range(5)]) == [0, 1, 4, 9, 16]
        with pytest.raises(TypeError):
            aio.to_thread(count, 1)
        aio._places.processes().shutdown()
        assert await aio.to_process(square, 3) == 9  # another one
        aio._places.processes().shutdown()
        aio._places.threads().shutdown()

    loops.run(main)


# --- loops


def test_run_takes_the_loop_that_is_asked_for() -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert aio.run(kind(), loop="asyncio") == "asyncio"
    assert aio.run(kind(), loop=asyncio.new_event_loop) == "asyncio"
    assert aio.run(kind()) in ("asyncio", "uvloop", "rloop")
    with pytest.raises(ValueError, match="'curio'"):
        aio.run(kind(), loop="curio")


@pytest.mark.parametrize("name", ["uvloop", pytest.param("rloop", marks=pytest.mark.leaks_allowed("descriptors"))])
def test_run_takes_an_installed_loop_by_its_name(name: str) -> None:
    pytest.importorskip(name)

    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert aio.run(kind(), loop=name) == name
    if name == "uvloop":
        assert aio.run(kind(), loop="auto") == name


def test_a_loop_that_is_not_installed_is_an_error_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    for name in ("uvloop", "rloop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ModuleNotFoundError):
            aio.run(kind(), loop=name)
    assert aio.run(kind()) == "asyncio"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_sync_works_under_anyio(backend: str, pool: ProcessPoolExecutor, meeting: Any) -> None:
    anyio = pytest.importorskip("anyio")
    pytest.importorskip(backend)

    async def main() -> None:
        assert await aio.run_sync(square, 3, pool=pool) == 9
        with pytest.raises(LookupError):
            await aio.run_sync(square, -3, pool=pool)
        found: list[int] = []

        async def one(number: int) -> None:
            found.append(await aio.run_sync(square, number, pool=pool))

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
        assert sorted(found) == [number * number for number in range(50)]
        place = meeting()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: aio.run_sync(wait_in_task, place, pool=pool))
                group.start_soon(one, 2)
                await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(place.in_test)
                scope.cancel()
        assert await aio.run_sync(square, 4, pool=pool) == 16

    anyio.run(main, backend=backend)
    assert [pool.submit(square, number).result() for number in (1, 2)] == [1, 4]
