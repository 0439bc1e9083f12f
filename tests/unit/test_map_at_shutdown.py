"""Maps whose pool is shut down by another thread, which then feeds them. binding/map.c"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import treadle


class Slow:
    """An item whose pickling waits: `begun` says that it has begun, `go` lets it go on."""

    def __init__(self, begun: threading.Event, go: threading.Event) -> None:
        self.begun, self.go = begun, go

    def __reduce__(self) -> Any:
        self.begun.set()
        self.go.wait()
        return int, (7,)


def invert(number: int) -> float:
    return 1 / number


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_fails_while_shutdown_feeds_it_ends(ordered: bool) -> None:
    begun, go = threading.Event(), threading.Event()
    pool = treadle.ProcessPoolExecutor(1)
    results = pool.map(invert, [0, 1, Slow(begun, go), *range(1, 10)], buffersize=2, chunksize=2, ordered=ordered)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    begun.wait()
    with pytest.raises(ZeroDivisionError):
        next(results)
    go.set()
    ending.join()
    assert list(results) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_a_reader_gets_all_while_shutdown_feeds(ordered: bool) -> None:
    begun, go = threading.Event(), threading.Event()
    pool = treadle.ProcessPoolExecutor(1)
    results = pool.map(abs, [1, 2, Slow(begun, go), 3], buffersize=2, chunksize=2, ordered=ordered)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    begun.wait()
    read = [next(results), next(results)]
    with pytest.raises(TimeoutError):
        results.next(timeout=0)  # type: ignore[attr-defined]
    threading.Timer(0, go.set).start()
    read.extend(results)
    ending.join()
    assert sorted(read) == [1, 2, 3, 7]
