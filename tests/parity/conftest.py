"""One body on the stdlib's class and on ours: `make_pool` and `make_mp_pool` make either."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import treadle


class Meeting:
    """A task and its test meet: each waits until the other is there."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def in_task(self) -> None:
        with open(self.path, "w"):
            pass

    def in_test(self) -> None:
        with open(self.path):
            pass


@pytest.fixture
def meeting(tmp_path: Path) -> Callable[[], Meeting]:
    numbers = iter(range(1000))
    return lambda: Meeting(tmp_path / f"meeting-{next(numbers)}")


MakePool = Callable[..., Any]


@pytest.fixture(params=["stdlib", "zygote", "fork", "forkserver", "spawn"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Makes a ProcessPoolExecutor; all are shut down at the end, but for one that was made with `kept=False`."""
    with ExitStack() as stack:

        def make(*args: Any, kept: bool = True, **kwargs: Any) -> Any:
            if request.param == "stdlib":
                kwargs.setdefault("mp_context", multiprocessing.get_context("fork"))
                pool: Any = concurrent.futures.ProcessPoolExecutor(*args, **kwargs)
            elif "mp_context" in kwargs:
                pool = treadle.ProcessPoolExecutor(*args, **kwargs)
            else:
                pool = treadle.ProcessPoolExecutor(*args, start_method=request.param, **kwargs)
            if kept:
                stack.callback(pool.shutdown)
            return pool

        make.kind = request.param  # type: ignore[attr-defined]
        yield make


@pytest.fixture(params=["stdlib", "treadle"])
def make_mp_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Makes a multiprocessing.Pool or a treadle.Pool; all are terminated at the end."""
    with ExitStack() as stack:

        def make(*args: Any, **kwargs: Any) -> Any:
            ours = request.param == "treadle"
            pool: Any = treadle.Pool if ours else multiprocessing.get_context("fork").Pool
            pool = pool(*args, **kwargs)
            stack.callback(pool.join)
            stack.callback(pool.terminate)
            return pool

        yield make
