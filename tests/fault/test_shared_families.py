"""A worker's death does not give memory away that others still see through it: its forks, and workers of its pools."""

from __future__ import annotations

import gc
import os
import select
import signal
from typing import Any

import pytest

np = pytest.importorskip("numpy")

import treadle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from treadle import ProcessPoolExecutor, shared  # noqa: E402
from treadle.shared import Counter, Event  # noqa: E402

Array = NDArray[Any]

WORDS = 100_000

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Steps:
    """Where the processes of a test meet."""

    def __init__(self) -> None:
        self.begun, self.go, self.written = Event(), Event(), Event()
        self.pid = Counter()

    def all(self) -> tuple[Any, ...]:
        return self.begun, self.go, self.written, self.pid


def fork_a_child_that_writes(array: Array, begun: Event, go: Event, written: Event, pid: Counter) -> None:
    """It outlives this worker."""
    if os.fork() == 0:
        pid.set(os.getpid())
        begun.set()
        go.wait()
        array += 1
        written.set()
        os._exit(0)
    signal.pause()


def run_in_a_pool(levels: int, *args: Any) -> None:
    with ProcessPoolExecutor(1) as pool:
        if levels == 1:
            pool.submit(fork_a_child_that_writes, *args).result()
        else:
            pool.submit(run_in_a_pool, levels - 1, *args).result()


def write_elsewhere_and_see_nothing(steps: Steps) -> None:
    """Whatever is given to new arrays, the child must not write there."""
    child = os.pidfd_open(steps.pid.value)
    fresh = [shared.zeros(WORDS) for _ in range(4)]
    steps.go.set()
    steps.written.wait()
    assert not any(array.any() for array in fresh)
    select.select([child], [], [])
    os.close(child)


def blocks() -> int:
    gc.collect()
    return shared.info()["blocks"]


def until_there_are(count: int) -> None:
    """The last of a family, and what an ended pool held, may need a moment to go."""
    while blocks() != count:
        os.sched_yield()


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_what_a_dead_workers_family_sees_is_not_given_to_others(levels: int, method: str) -> None:
    before, steps, array = blocks(), Steps(), shared.zeros(WORDS)
    with ProcessPoolExecutor(1, start_method=method) as pool:
        if levels == 0:
            future = pool.submit(fork_a_child_that_writes, array, *steps.all())
        else:
            future = pool.submit(run_in_a_pool, levels, array, *steps.all())
        steps.begun.wait()
        os.kill(pool.stats()["workers"][0]["pid"], signal.SIGKILL)
        with pytest.raises(treadle.WorkerDied):
            future.result()
        del future, array
        assert blocks() == before + len(steps.all()) + 1
        write_elsewhere_and_see_nothing(steps)
        until_there_are(before + len(steps.all()))
    del steps
    assert blocks() == before


kept: list[Array] = []


def keep(array: Array) -> int:
    kept.append(array)
    return os.getpid()


def fork_over_what_was_kept(*args: Any) -> None:
    fork_a_child_that_writes(kept[0], *args)


def test_nor_is_what_it_had_kept_from_a_task_before() -> None:
    before, steps, array = blocks(), Steps(), shared.zeros(WORDS)
    with ProcessPoolExecutor(1) as pool:
        pid = pool.submit(keep, array).result()
        del array
        future = pool.submit(fork_over_what_was_kept, *steps.all())
        steps.begun.wait()
        os.kill(pid, signal.SIGKILL)
        assert isinstance(future.exception(), treadle.WorkerDied)
        assert blocks() == before + len(steps.all()) + 1
        write_elsewhere_and_see_nothing(steps)
        until_there_are(before + len(steps.all()))


def test_nor_once_another_worker_has_run_the_task_again() -> None:
    before, steps, array = blocks(), Steps(), shared.zeros(WORDS)
    with ProcessPoolExecutor(1, retries=1) as pool:
        future = pool.submit(fork_once, array, *steps.all())
        steps.begun.wait()
        os.kill(pool.stats()["workers"][0]["pid"], signal.SIGKILL)
        assert future.result() == 0
        del future, array
        assert blocks() == before + len(steps.all()) + 1
        write_elsewhere_and_see_nothing(steps)
        until_there_are(before + len(steps.all()))


def fork_once(array: Array, begun: Event, go: Event, written: Event, pid: Counter) -> float:
    if not begun.is_set():
        fork_a_child_that_writes(array, begun, go, written, pid)
    return float(array.sum())


def test_a_pool_that_is_broken_keeps_what_its_functions_refer_to_until_its_workers_are_gone() -> None:
    before, steps, array = blocks(), Steps(), shared.zeros(WORDS)
    begun, pid = steps.begun, steps.pid

    def work() -> float:
        pid.set(os.getpid())  # noqa: F821  (all of these are deleted below, when the worker has them)
        begun.set()  # noqa: F821
        signal.pause()
        return float(array.sum())  # noqa: F821

    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(work)
        begun.wait()
        worker = os.pidfd_open(pid.value)
        os.kill(pid.value, signal.SIGSTOP)  # so that it lives on when it is told to end
        pool.terminate_workers()
        with pytest.raises(treadle.PoolBroken):
            future.result()
        del work, future, array
        assert blocks() == before + len(steps.all()) + 1
        os.kill(pid.value, signal.SIGCONT)
        select.select([worker], [], [])
    os.close(worker)
    del steps, begun, pid, pool
    until_there_are(before)  # the engine's thread lets go of the pool a moment after its end is told


def count(array: Array) -> int:
    return int(np.count_nonzero(array))


def test_functions_that_are_gone_hold_nothing_in_their_worker() -> None:
    before = blocks()
    with ProcessPoolExecutor(1) as pool:
        for number in range(1, 20):
            array = shared.full(1000, number)
            assert pool.submit(lambda array=array: int(array.sum())).result() == 1000 * number
            del array
            assert blocks() <= before + 1  # the worker hears of it with its next task
        pool.submit(abs, 1).result()
        assert blocks() == before
