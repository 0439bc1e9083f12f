"""Threads: one body on the stdlib's ThreadPoolExecutor and on ours."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
import treadle

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(params=[concurrent.futures.ThreadPoolExecutor, treadle.ThreadPoolExecutor], ids=["stdlib", "treadle"])
def pool_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    """Threads change only where one of them waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.skipif(not GIL, reason="threads run at the same time")
def test_no_thread_is_started_while_one_is_idle(pool_class: Any, one_at_a_time: None) -> None:
    with pool_class(8) as pool:
        for i in range(500):
            assert pool.submit(abs, -i).result() == i
        assert len(pool._threads) == 1


@pytest.mark.skipif(not GIL, reason="threads run at the same time")
def test_a_thread_is_started_for_each_call_that_finds_none_idle(pool_class: Any, one_at_a_time: None) -> None:
    gate = threading.Event()
    with pool_class(4) as pool:
        for i in range(6):
            pool.submit(gate.wait)
            assert len(pool._threads) == min(i + 1, 4)
        gate.set()


def test_a_failed_initializer_is_seen_on_the_pool(pool_class: Any) -> None:
    gate = threading.Event()

    def fail() -> None:
        gate.wait()
        raise OSError("no")

    with pool_class(1, initializer=fail) as pool:
        assert not pool._broken
        futures = [pool.submit(abs, i) for i in range(3)]
        gate.set()
        with pytest.raises(BrokenThreadPool, match="initializer failed"):
            futures[0].result()
        assert "initializer failed" in pool._broken
        with pytest.raises(BrokenThreadPool, match="initializer failed"):
            pool.submit(abs, 1)


def test_a_pool_that_was_shut_down_says_so(pool_class: Any) -> None:
    pool = pool_class(1)
    assert not pool._shutdown
    pool.shutdown(wait=False)
    assert pool._shutdown
