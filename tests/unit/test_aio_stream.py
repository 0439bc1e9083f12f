"""treadle.aio.stream: generators in workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, aio

from tests.called import endless, locks, stutter, stutter_later

Loops = Any


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as made:
        yield made


@pytest.mark.parametrize("fn", [stutter, stutter_later])
def test_a_generators_items_come_back_in_order(loops: Loops, fn: Any, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        assert [item async for item in aio.stream(fn, 700, pool=pool)] == list(stutter(700))

    loops.run(main)


@pytest.mark.parametrize("fn", [stutter, stutter_later])
def test_a_generators_error_comes_after_its_items(loops: Loops, fn: Any, pool: ProcessPoolExecutor) -> None:
    async def main() -> None:
        found = []
        with pytest.raises(LookupError, match="the end"):
            async for item in aio.stream(fn, 5, error="the end", pool=pool):
                found.append(item)
        assert found == list(stutter(5))

    loops.run(main)


def test_a_stream_that_is_left_stops_its_generator(loops: Loops, pool: ProcessPoolExecutor, meeting: Any) -> None:
    async def main() -> None:
        place = meeting()
        async with contextlib.aclosing(aio.stream(endless, place, pool=pool)) as items:
            for _ in range(3):
                assert await anext(items) == bytes(10_000)
        place.in_test()

    loops.run(main)


def test_only_generator_functions_are_streamed(loops: Loops, pool: ProcessPoolExecutor) -> None:
    async def fetch() -> None:
        pass

    async def main() -> None:
        with pytest.raises(TypeError):
            aio.stream(fetch, pool=pool)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            async for _ in aio.stream(abs, 2, pool=pool):  # type: ignore[arg-type]
                pass
        with pytest.raises(treadle.TravelError):
            async for _ in aio.stream(locks, pool=pool):
                pass

    loops.run(main)
