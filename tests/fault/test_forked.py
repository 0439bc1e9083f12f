"""Pools and futures in a forked child of the process that made them."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(body: Callable[[], object]) -> int:
    """Runs the body in a forked child; the child's exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_started_pool_is_inert_in_a_forked_child() -> None:
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(abs, -1).result() == 1

        def use() -> None:
            for fn in (abs, int):  # one that the engine knows, and one that it does not
                with pytest.raises(treadle.ForkedPool, match=r"os\.fork"):
                    pool.submit(fn, 1)
                with pytest.raises(treadle.ForkedPool, match=r"os\.fork"):
                    pool.map(fn, [1])
            pool.shutdown()

        assert in_child(use) == 0
        assert pool.submit(abs, -2).result() == 2


def test_a_forked_child_forgets_the_pools_that_its_parent_has_let_go_of(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = ProcessPoolExecutor(1)
    future = pool.submit(fifo.read_text)
    del pool
    problems: list[object] = []

    def collect() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "unraisablehook", problems.append)
            gc.collect()
        assert not problems

    assert in_child(collect) == 0
    fifo.write_text("text")
    assert future.result() == "text"


def test_nobody_waits_in_a_forked_child_for_what_ends_in_the_parent(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ProcessPoolExecutor(1) as pool:
        done, pending, observed = pool.submit(abs, -1), pool.submit(fifo.read_text), pool.submit(abs, -2)
        assert done.result() == 1
        observed.add_done_callback(str)

        def use() -> None:
            waits: list[Callable[[Any], object]] = [
                treadle.wait,
                lambda futures: treadle.wait(futures, return_when=treadle.FIRST_EXCEPTION),
                lambda futures: list(treadle.as_completed(futures)),
                concurrent.futures.wait,
                lambda futures: list(concurrent.futures.as_completed(futures)),
                lambda futures: futures[-1].add_done_callback(str),
                lambda futures: futures[-1].exception(),
            ]
            for future in (pending, observed):
                for wait in waits:
                    with pytest.raises(treadle.ForkedPool):
                        wait([done, future])
            assert concurrent.futures.wait([done]).done == treadle.wait([done]).done == {done}

        assert in_child(use) == 0
        fifo.write_text("told")
        assert (pending.result(), observed.result()) == ("told", 2)


def test_a_pool_that_has_not_started_works_in_a_forked_child() -> None:
    pool = ProcessPoolExecutor(1)

    def use() -> None:
        with pool:
            assert pool.submit(abs, -1).result() == 1

    assert in_child(use) == 0
    with pool:
        assert pool.submit(abs, -2).result() == 2


def test_a_forked_child_makes_pools_of_its_own() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1

        def use() -> None:
            with ProcessPoolExecutor(1) as own:
                assert own.submit(abs, -3).result() == 3

        assert in_child(use) == 0
        assert pool.submit(abs, -2).result() == 2
