"""One body on the stdlib's class and on ours: `make_pool` and `make_mp_pool` make either."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import treadle

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
