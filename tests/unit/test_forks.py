"""Tasks that fork: a child is an ordinary process, with memory of its own, and the pool is its parent's affair."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from treadle import ProcessPoolExecutor

LARGE = 1_000_000


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as made:
        made.submit(abs, 1).result()  # its processes belong to no single test
        yield made


@pytest.fixture(autouse=True)
def still_works(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Whatever a task and its children did, the same worker takes the next one."""
    before = pool.submit(os.getpid).result()
    yield
    assert pool.submit(os.getpid).result() == before


def test_children_of_a_task_are_ordinary_processes(pool: ProcessPoolExecutor) -> None:
    def start_and_terminate() -> tuple[int | None, int]:
        import multiprocessing

        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
        child.terminate()
        child.join()
        return child.exitcode, os.getpid()

    first, second = pool.submit(start_and_terminate).result(), pool.submit(start_and_terminate).result()
    assert first == second == (-signal.SIGTERM, first[1])


def test_a_child_that_returns_from_its_task_answers_nothing(pool: ProcessPoolExecutor) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid != 0:
            os.waitpid(pid, 0)
        return pid

    assert pool.submit(fork).result() > 0
    assert 0 not in list(pool.map(lambda _: fork(), range(3), chunksize=3))


class ForksInPickle:
    """Forks when it is pickled; says whether it is the parent."""

    def __reduce__(self) -> Any:
        pid = os.fork()
        if pid != 0:
            os.waitpid(pid, 0)
        return bool, (pid,)


def fork_in_pickle() -> Any:
    return ForksInPickle()


def test_a_child_that_was_forked_while_a_result_is_packed_answers_nothing(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(fork_in_pickle).result() is True
    assert pool.submit(lambda: [fork_in_pickle(), bytes(LARGE)]).result()[0] is True
    assert list(pool.map(lambda _: fork_in_pickle(), range(3), chunksize=3)) == [True] * 3


class ForksInPickleAndReturns:
    """Forks when it is pickled, and leaves the child there, packing on once it is told to."""

    def __reduce__(self) -> Any:
        told, self.tell = os.pipe()
        self.child = os.fork()
        if self.child != 0:
            return str, ("parent",)
        os.read(told, 1)
        return str, ("child!",)


late = ForksInPickleAndReturns()


def fork_and_wait_for_child(item: int) -> Any:
    if item == 0:
        return late
    os.write(late.tell, b"!")
    return os.waitpid(late.child, 0)[0] == late.child


def test_what_a_child_packs_later_overwrites_nothing(pool: ProcessPoolExecutor) -> None:
    assert list(pool.map(fork_and_wait_for_child, range(2), chunksize=2)) == ["parent", True]


class ForksInFlush:
    """Takes the place of the standard output until it is flushed, and forks then."""

    def __init__(self) -> None:
        stream: Any = self
        self.before, sys.stdout = sys.stdout, stream

    def flush(self) -> None:
        sys.stdout = self.before
        pid = os.fork()
        if pid != 0:
            os.waitpid(pid, 0)


def fork_in_flush(_: int) -> str:
    if not isinstance(sys.stdout, ForksInFlush):
        ForksInFlush()
    begun = time.monotonic()
    while time.monotonic() < begun + 0.02:
        pass  # as long as the worker waits at most before it flushes, in a chunk
    return "once"


def test_a_child_that_was_forked_while_output_is_flushed_answers_nothing(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(fork_in_flush, 0).result() == "once"
    assert list(pool.map(fork_in_flush, range(3), chunksize=3)) == ["once"] * 3


kept: list[memoryview] = []


def keep(view: memoryview) -> None:
    kept.append(view)


def let_a_child_forget() -> None:
    pid = os.fork()
    if pid == 0:
        kept.clear()
        os._exit(0)
    os.waitpid(pid, 0)


def values_kept() -> set[int]:
    return set(kept.pop())


def test_a_child_of_a_task_gives_back_no_argument_that_its_parent_keeps(pool: ProcessPoolExecutor) -> None:
    pool.submit(keep, memoryview(bytes([1]) * LARGE)).result()
    pool.submit(let_a_child_forget).result()
    for value in range(2, 10):
        pool.submit(len, memoryview(bytes([value]) * LARGE)).result()
    assert pool.submit(values_kept).result() == {1}
