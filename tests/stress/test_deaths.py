"""Workers are killed at random while tasks run: what is lost is what the engine's log says ran on the killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, WorkerDied
from treadle._maps import MapCall

KillerOf = Callable[[ProcessPoolExecutor], Any]

WORKERS = 2
TASK_S = 0.001
LINE = 1000
"""Items of a map in flight at most: what is still to be run when enough have died."""


def work(number: int) -> int:
    end = time.perf_counter() + TASK_S
    while time.perf_counter() < end:
        pass
    return number * number


def enough(killer: Any, stress_n: int) -> bool:
    """Has each worker died often enough?"""
    return all(killer.deaths_of(worker) >= max(1, stress_n // 4) for worker in range(WORKERS))


def submit_and_kill(pool: Any, killer: Any, stress_n: int) -> dict[str, treadle.Future[int]]:
    """Named tasks, of which some lose their worker."""
    futures: dict[str, treadle.Future[int]] = {}
    while not futures or not enough(killer, stress_n):
        batch = {f"task {i}": i for i in range(len(futures), len(futures) + 50 * stress_n)}
        started = {name: pool.options(name=name).submit(work, number) for name, number in batch.items()}
        futures |= started
        for _ in treadle.as_completed(started.values()):
            if killer.rng.random() < 1 / 60:
                killer.kill_one()
        killer.read_log()
    return futures


def test_the_tasks_lost_are_those_that_ran_on_the_killed(killer_of: KillerOf, stress_n: int) -> None:
    with ProcessPoolExecutor(WORKERS) as pool:
        killer = killer_of(pool)
        futures = submit_and_kill(pool, killer, stress_n)
    killer.check_log()
    lost: dict[str, int] = {}
    for number, (name, future) in enumerate(futures.items()):
        error = future.exception()
        if error is None:
            assert future.result() == number * number
        else:
            assert isinstance(error, WorkerDied), error
            assert error.task == name
            assert error.pid
            lost[name] = error.pid
    assert lost == {death["name"]: death["pid"] for death in killer.lost("died")}
    assert not killer.lost("retried")


def test_with_retries_nothing_is_lost(killer_of: KillerOf, stress_n: int) -> None:
    with ProcessPoolExecutor(WORKERS, retries=1_000_000) as pool:
        killer = killer_of(pool)
        futures = submit_and_kill(pool, killer, stress_n)
        assert pool.stats()["tasks"]["retried"] >= len(killer.lost("retried"))
    killer.check_log()
    assert [future.result() for future in futures.values()] == [i * i for i in range(len(futures))]
    assert not killer.lost("died")


def go_on(results: Iterator[int]) -> Iterator[int | WorkerDied]:
    """The results, and in their places the deaths."""
    while True:
        try:
            yield next(results)
        except StopIteration:
            return
        except WorkerDied as error:
            yield error


def map_and_kill(pool: Any, killer: Any, stress_n: int, chunksize: int | None) -> list[Any]:
    """What a map gives, when workers are killed from time to time until each has died often enough."""

    def numbers() -> Iterator[int]:
        number = 0
        while number < 50 * stress_n or not enough(killer, stress_n):
            yield number
            number += 1

    found = []
    results = pool._start_map(MapCall(work, (numbers(),), chunksize=chunksize, buffersize=LINE, keep_going=True))
    for result in go_on(results):
        found.append(result)
        if killer.rng.random() < 1 / 60:
            killer.kill_one()
    return found


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_the_items_of_a_map_lost_are_those_that_ran_on_the_killed(
    killer_of: KillerOf, stress_n: int, chunksize: int | None
) -> None:
    with ProcessPoolExecutor(WORKERS) as pool:
        killer = killer_of(pool)
        found = map_and_kill(pool, killer, stress_n, chunksize)
    killer.check_log()
    lost = {i: result.pid for i, result in enumerate(found) if isinstance(result, WorkerDied)}
    assert all(found[i] == i * i for i in range(len(found)) if i not in lost)
    assert lost == {item: death["pid"] for death in killer.lost("died") for item in range(*death["items"])}


@pytest.mark.parametrize("chunksize", [None, 10])
def test_a_map_with_retries_loses_nothing(killer_of: KillerOf, stress_n: int, chunksize: int | None) -> None:
    with ProcessPoolExecutor(WORKERS, retries=1_000_000) as pool:
        killer = killer_of(pool)
        found = map_and_kill(pool, killer, stress_n, chunksize)
    killer.check_log()
    assert found == [i * i for i in range(len(found))]
