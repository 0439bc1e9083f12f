"""Pools in processes that are workers, daemons, or fork at the same time."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, ThreadPoolExecutor, WorkerDied


def square(number: int) -> int:
    return number * number


SQUARES = [square(number) for number in range(50)]


def descend(levels: int) -> list[int]:
    """The sizes of the pools that are made on the way down."""
    with ProcessPoolExecutor() as pool:
        assert list(pool.map(square, range(50))) == SQUARES
        assert [future.result() for future in [pool.submit(square, i) for i in range(50)]] == SQUARES
        return [pool._max_workers, *(pool.submit(descend, levels - 1).result() if levels > 1 else [])]


def count_threads() -> int:
    with ThreadPoolExecutor() as pool:
        return pool._max_workers


def test_pools_in_workers_share_the_budget_at_any_depth() -> None:
    budget = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(2) as pool:
        sizes = pool.submit(descend, 3).result()
        assert len(sizes) == 3
        assert all(size <= max(1, budget // 2) for size in sizes)
        assert pool.submit(count_threads).result() <= max(1, budget // 2) + 4


kept: list[ProcessPoolExecutor] = []


def leave_open(end: bool) -> int:
    kept.append(ProcessPoolExecutor(1))
    pid = kept[-1].submit(os.getpid).result()
    if end:
        os._exit(3)
    return pid


@pytest.mark.parametrize("end", [True, False])
def test_a_pool_that_a_worker_leaves_open_ends_with_the_worker(until_gone: Any, end: bool) -> None:
    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(leave_open, end)
        if end:
            with pytest.raises(WorkerDied):
                future.result()
    if not end:
        until_gone(future.result())


def use_in_child(answers: Any) -> None:
    with ProcessPoolExecutor(2) as pool:
        answers.put(list(pool.map(square, range(50))))


@pytest.mark.leaks_allowed("processes", "descriptors")  # the stdlib's forkserver stays
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_a_daemon_of_multiprocessing(method: str) -> None:
    """Which may not have children of its own there; these are the engine's."""
    context: Any = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    daemon = context.Process(target=use_in_child, args=(answers,), daemon=True)
    daemon.start()
    assert answers.get() == SQUARES
    daemon.join()
    assert daemon.exitcode == 0


def use_pool() -> list[int]:
    with treadle.Pool(2) as pool:
        return pool.map(square, range(50))


@pytest.mark.leaks_allowed("processes", "descriptors")  # the stdlib's forkserver stays
def test_in_the_workers_of_the_stdlibs_pools() -> None:
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        assert pool.apply(use_pool) == SQUARES
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(use_pool).result() == SQUARES


def fork_and_return(where: Any, alive: str, as_error: bool) -> bytes:
    if os.fork() != 0:
        return b"p" * 100_000
    global held
    held = open(alive, "w")  # noqa: SIM115  (as long as the child lives)
    where.in_task()
    if as_error:
        raise RuntimeError("c" * 100_000)
    return b"c" * 100_000


@pytest.mark.parametrize("as_error", [False, True])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_comes_back_from_its_task_writes_into_no_result(
    meeting: Callable[[], Any], tmp_path: Path, as_error: bool
) -> None:
    where, alive = meeting(), str(tmp_path / "alive")
    os.mkfifo(alive)
    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(fork_and_return, where, alive, as_error)
        concurrent.futures.wait([future])
        with open(alive) as end:
            where.in_test()
            end.read()
        assert future.result() == b"p" * 100_000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pools_of_several_threads_while_others_fork() -> None:
    done = threading.Event()
    wrong: list[BaseException] = []

    def fork() -> None:
        while not done.is_set():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    def start_programs() -> None:
        while not done.is_set():
            subprocess.run(["true"], check=True)

    def use() -> None:
        try:
            for _ in range(3):
                assert descend(1)
        except BaseException as error:
            wrong.append(error)

    users = [threading.Thread(target=use) for _ in range(2)]
    others = [threading.Thread(target=fork), threading.Thread(target=start_programs)]
    for thread in users + others:
        thread.start()
    for thread in users:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert wrong == []
