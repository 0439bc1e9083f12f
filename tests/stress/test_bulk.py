"""Much of everything: memory grows as stated in docs/internals, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import treadle
from treadle import ProcessPoolExecutor

QUEUED_BYTES = 700
"""What a queued task with small arguments takes in the parent at most, its future included."""
UNDER_WAY_BYTES = 1 << 30
"""What a map of large items takes at most, however many there are."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def echo(data: Any) -> Any:
    return data


def test_many_queued_tasks(stress_n: int) -> None:
    """1,000,000 at the full measure."""
    count = 5000 * stress_n
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1
        before = resident_bytes()
        futures = [pool.submit(abs, -i) for i in range(count)]
        assert resident_bytes() - before < QUEUED_BYTES * count + (16 << 20)
        treadle.wait(futures)
        assert all(future.result() == i for i, future in enumerate(futures))


def test_a_large_value_both_ways(stress_n: int) -> None:
    """1 GB at the full measure."""
    count = 5 * stress_n << 20
    with ProcessPoolExecutor(1) as pool:
        data = pool.submit(bytes, count).result()
        assert len(data) == count
        assert pool.submit(len, data).result() == count


def test_many_large_items(stress_n: int) -> None:
    """10,000 items of 1 MB each way at the full measure."""
    data = bytes(range(256)) * 4096
    before = resident_bytes()
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(echo, (data for _ in range(50 * stress_n))):
            assert found == data
            assert resident_bytes() - before < UNDER_WAY_BYTES
