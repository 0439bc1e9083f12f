"""Workers die while arrays move: what had come stays, what had not is that task's loss alone, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from treadle import ProcessPoolExecutor, WorkerDied

np = pytest.importorskip("numpy")

SIZE = 300_000
DEATHS = 6


def arenas() -> set[str]:
    """The inodes of the workers' arenas that this process maps."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:treadle-results" in line}


@pytest.fixture(autouse=True)
def maps_nothing_more() -> Iterator[None]:
    before = arenas()
    yield
    assert arenas() <= before


def make(seed: int) -> list[Any]:
    return [np.full(SIZE + i, (seed + i) % 251, dtype="u1") for i in range(3)]


def check(value: list[Any], seed: int) -> None:
    for i, array in enumerate(value):
        assert array.shape == (SIZE + i,)
        assert (array == (seed + i) % 251).all()


def kill_one(pool: ProcessPoolExecutor, rng: random.Random) -> None:
    pids = [worker["pid"] for worker in pool.stats()["workers"] if worker["pid"] > 0]
    if pids:
        with contextlib.suppress(ProcessLookupError):  # the one killed before, whose end the pool has yet to hear of
            os.kill(rng.choice(pids), signal.SIGKILL)


def test_results_move_while_workers_are_killed(rng: random.Random) -> None:
    with ProcessPoolExecutor(2, preload=["numpy"]) as pool:
        held: deque[tuple[list[Any], int]] = deque(maxlen=6)
        for seed in range(0, DEATHS * 30, 30):
            futures = [(pool.submit(make, number), number) for number in range(seed, seed + 30)]
            kill_at = rng.randrange(30)
            for i, (future, number) in enumerate(futures):
                if i == kill_at:
                    kill_one(pool, rng)
                with contextlib.suppress(WorkerDied):
                    held.append((future.result(), number))
                for value, then in held:
                    check(value, then)
        assert pool.stats()["bytes_moved"] > 0
        del future, futures, value
        held.clear()
        assert pool.stats()["result_bytes_live"] == 0


def test_a_maps_results_move_while_workers_are_killed(rng: random.Random) -> None:
    with ProcessPoolExecutor(2, retries=1000, preload=["numpy"]) as pool:
        for chunksize in (1, 4, 30):
            kill_at = {rng.randrange(60) for _ in range(2)}
            for i, value in enumerate(pool.map(make, range(60), chunksize=chunksize)):
                check(value, i)
                if i in kill_at:
                    kill_one(pool, rng)
        assert pool.stats()["bytes_moved"] > 0
        del value
        assert pool.stats()["result_bytes_live"] == 0


class DeadlyEnd:
    """Its process dies when it goes, which in a worker is when its result is let go of."""

    def __reduce__(self) -> Any:
        return str, ("never arrives",)

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def make_and_die() -> list[Any]:
    return [*make(1), DeadlyEnd()]


def test_a_worker_that_dies_between_packing_and_reporting_loses_that_task_alone() -> None:
    with ProcessPoolExecutor(1, preload=["numpy"]) as pool:
        before = pool.submit(make, 7).result()
        for _ in range(3):
            pool.submit(make, 8).result()
            with pytest.raises(WorkerDied):
                pool.submit(make_and_die).result()
            assert len(pool.map(make, range(3)).__next__()) == 3
        check(before, 7)
        del before
        pool.submit(abs, 1).result()
        assert pool.stats()["result_bytes_live"] == 0


def test_what_moved_outlives_the_worker_that_made_it() -> None:
    with ProcessPoolExecutor(1, preload=["numpy"]) as pool:
        values = [pool.submit(make, seed).result() for seed in range(10)]
        with pytest.raises(WorkerDied):
            pool.submit(os._exit, 3).result()
        part = values[3][1][100:200]
        for seed, value in enumerate(values):
            check(value, seed)
        del value, values
        assert (part == 4).all()
    assert (part == 4).all()
