"""Everything at once: tasks that end, raise, die, run too long, are cancelled, from several threads, in many pools."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, TaskTimeout, WorkerDied

KillerOf = Callable[[ProcessPoolExecutor], Any]
START_METHODS = ["zygote", "fork", "forkserver", "spawn"]


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> None:
    raise LookupError(number)


def spin(number: int) -> None:
    while True:
        pass


def run_for(number: int) -> int:
    end = time.perf_counter() + number % 5 / 1000
    while time.perf_counter() < end:
        pass
    return 2 * number


def big(number: int) -> bytes:
    return bytes([number % 256]) * 100_000


KINDS: list[Callable[[int], Any]] = [double, fail, spin, run_for, big, os._exit]


def check(future: treadle.Future[Any], kind: Callable[[int], Any], number: int) -> None:
    """Did it end as it may? Any of them may have been cancelled, or have lost its worker."""
    assert future.done()
    try:
        result = future.result()
    except (CancelledError, WorkerDied):
        return
    except LookupError as error:
        assert kind is fail
        assert error.args == (number,)
        return
    except TaskTimeout:
        assert kind is spin
        return
    assert kind in (double, run_for, big)
    assert result == (big(number) if kind is big else 2 * number)


def test_every_future_ends(
    killer_of: KillerOf, rng: random.Random, stress_n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "50ms")
    with ProcessPoolExecutor(2) as pool:
        killer = killer_of(pool)
        for _ in range(stress_n):
            tasks = []
            for number in range(60):
                kind = rng.choices(KINDS, [40, 10, 3, 20, 10, 2])[0]
                options = pool.options(timeout=0.05 if kind is spin else None, retries=rng.choice([0, 2]))
                tasks.append((options.submit(kind, number), kind, number))
                if rng.random() < 0.1:
                    rng.choice(tasks)[0].cancel(force=rng.random() < 0.5)
                if rng.random() < 0.02:
                    killer.kill_one()
            for future, kind, number in tasks:
                treadle.wait([future])
                check(future, kind, number)


def test_threads_share_a_pool(stress_n: int, rng: random.Random) -> None:
    wrong: list[BaseException] = []

    def use(pool: ProcessPoolExecutor, own: random.Random) -> None:
        try:
            for _ in range(stress_n):
                tasks = [(pool.submit(run_for, n), n) for n in range(own.randrange(1, 40))]
                for future, _ in own.sample(tasks, len(tasks) // 4):
                    future.cancel(force=own.random() < 0.5)
                treadle.wait([future for future, _ in tasks[::2]])
                for future, number in tasks:
                    treadle.wait([future])
                    check(future, run_for, number)
                count = own.randrange(100)
                assert list(pool.map(double, range(count))) == [2 * n for n in range(count)]
        except BaseException as error:
            wrong.append(error)

    with ProcessPoolExecutor(2) as pool:
        threads = [threading.Thread(target=use, args=(pool, random.Random(rng.random()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def leave_open(pool: ProcessPoolExecutor) -> None:
    """Let go of without shutdown."""


def shut_down(pool: ProcessPoolExecutor) -> None:
    pool.shutdown()


def shut_down_later(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False)


def test_many_pools(stress_n: int, rng: random.Random) -> None:
    for i in range(stress_n):
        method = START_METHODS[i % len(START_METHODS)]
        pool = ProcessPoolExecutor(rng.choice([1, 2]), start_method=method)
        futures = [pool.submit(double, n) for n in range(rng.choice([0, 1, 50]))]
        rng.choice([leave_open, shut_down, shut_down_later])(pool)
        del pool
        assert [future.result() for future in futures] == [2 * n for n in range(len(futures))]
