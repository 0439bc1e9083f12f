"""Shared arrays in many hands: made, cut up, passed, kept and dropped by threads, while workers are killed."""

from __future__ import annotations

import gc
import os
import queue
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

np = pytest.importorskip("numpy")

import treadle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from treadle import ProcessPoolExecutor, shared  # noqa: E402

KillerOf = Callable[[ProcessPoolExecutor], Any]
Array = NDArray[np.int64]

THREADS = 4
KEPT = 5
"""Views that a worker keeps of what tasks before have shown it."""

kept: list[Array] = []


def fill(part: Array, number: int) -> int:
    """As often as it runs: the same."""
    part[...] = number
    return int(part.sum())


def add(source: Array, target: Array) -> int:
    np.add(source, 1, out=target)
    return int(source.sum())


def keep(part: Array, number: int) -> int:
    kept.append(part)
    del kept[:-KEPT]
    return fill(part, number)


def pass_on(part: Array, number: int) -> int:
    """To workers of this one's own."""
    middle = len(part) // 2
    with ProcessPoolExecutor(1) as pool:
        return sum(pool.map(fill, [part[:middle], part[middle:]], [number, number]))


def give_back(part: Array, number: int) -> Array:
    part[...] = number
    return part[::2]


def use_one(pool: ProcessPoolExecutor, rng: random.Random) -> None:
    """An array, of which tasks see parts: each is as it was told to be, and what is between them is as it was."""
    size = rng.choice([8, 100, 5000, 100_000])
    array = shared.full(size, -1, np.int64)
    first = slice(0, size // 4)
    second = slice(size // 2, size)
    number = rng.randrange(1000)
    task = rng.choice([fill, keep, fill, keep, pass_on])
    future = pool.submit(task, array[first], number)
    if rng.random() < 0.2:  # the last to hold it is the task
        del array
        assert future.result() == number * (size // 4)
        return
    assert future.result() == number * (size // 4)
    backwards = array[second][::-1]
    parts = np.array_split(backwards, 4)
    assert list(pool.map(fill, parts, [7] * 4)) == [7 * len(part) for part in parts]
    target = shared.zeros(size, np.int64)
    wanted = np.full(size, -1)
    wanted[first], wanted[second] = number, 7
    assert pool.submit(add, array, target).result() == wanted.sum()
    assert (array == wanted).all()
    assert (target == wanted + 1).all()
    result = pool.submit(give_back, target, number).result()
    target[...] = 0
    assert (result == number).all()


def work(pool: ProcessPoolExecutor, seed: int, rounds: int, done: queue.SimpleQueue[BaseException | None]) -> None:
    rng = random.Random(seed)
    try:
        for _ in range(rounds):
            use_one(pool, rng)
            done.put(None)
    except BaseException as error:
        done.put(error)


def use_and_kill(pool: ProcessPoolExecutor, killer: Any, stress_n: int) -> None:
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    rounds = max(5, stress_n)
    threads = [threading.Thread(target=work, args=(pool, killer.rng.random(), rounds, done)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    problems = []
    for _ in range(THREADS * rounds):
        error = done.get()
        if error is not None:
            problems.append(error)
            break
        if killer.rng.random() < 1 / 8:
            killer.kill_one()
    for thread in threads:
        thread.join()
    assert not problems, problems


def test_every_result_is_right_and_nothing_is_left(killer_of: KillerOf, stress_n: int) -> None:
    before = shared.info()["blocks"]
    with ProcessPoolExecutor(3, retries=1_000_000) as pool:
        killer = killer_of(pool)
        use_and_kill(pool, killer, stress_n)
    killer.check_log()
    gc.collect()
    while shared.info()["blocks"] != before:  # the last workers of killed workers' pools may need a moment to end
        os.sched_yield()
    assert shared.info()["foreign_blocks"] == 0


def hold_all(arrays: list[Array]) -> None:
    kept.extend(arrays)


def test_workers_that_hold_much_and_are_killed_hold_nothing(killer_of: KillerOf, stress_n: int) -> None:
    before = shared.info()["blocks"]
    with ProcessPoolExecutor(2, retries=1_000_000) as pool:
        killer = killer_of(pool)
        for _ in range(max(2, stress_n // 20)):
            arrays = [shared.full(100, i, np.int64) for i in range(500)]
            treadle.wait([pool.submit(hold_all, arrays[i::10]) for i in range(10)])
            del arrays
            killer.kill_one()
    killer.check_log()
    gc.collect()
    assert shared.info()["blocks"] == before
