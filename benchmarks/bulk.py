"""How much memory does much work take?"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import harness
import work
from harness import Figures, Subject
from peers import load

QUEUED = 1_000_000
RESULT_BYTES = 1_000_000_000
ITEMS = 10_000
ITEM_BYTES = 1_000_000

Make = Callable[[int], Any]


def treadle_pool(workers: int) -> Any:
    return load("treadle").ProcessPoolExecutor(workers)


def stdlib_pool(workers: int) -> Any:
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))


def own_bytes() -> int:
    """Private memory of this process: what lies in shared memory does not count."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024


def queue_up(make: Make, settings: Figures) -> Figures:
    """Calls queued behind one that waits for us; then all done, and all read."""
    blocker, gate = os.pipe()
    with make(1) as pool:
        pool.submit(work.noop).result()
        held = pool.submit(work.read_from, os.getpid(), blocker)
        before = own_bytes()
        futures = [pool.submit(work.noop, number) for number in range(QUEUED)]
        queued = own_bytes() - before
        os.write(gate, b"x")
        held.result()
        futures[-1].result()
        for future in futures:
            future.result()
        return {"queued": queued / QUEUED, "read": (own_bytes() - before) / QUEUED}


class Peak:
    """The most memory that this process and those below it held at a time, looked at twenty times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def look(self) -> int:
        try:
            return work.pss_bytes([os.getpid(), *work.descendants()])
        except OSError:
            return 0  # one has left meanwhile

    def watch(self) -> None:
        while not self.over.wait(0.05):
            self.bytes = max(self.bytes, self.look())

    def __enter__(self) -> Peak:
        self.before = self.look()
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def megabytes(self) -> float:
        return (self.bytes - self.before) / 1e6


def large_result(make: Make, settings: Figures) -> Figures:
    with make(1) as pool:
        pool.submit(work.noop).result()
        with Peak() as peak:
            result = pool.submit(bytes, RESULT_BYTES).result()
            peak.bytes = max(peak.bytes, peak.look())
        assert len(result) == RESULT_BYTES
        return {"result": peak.megabytes()}


def large_items(make: Make, settings: Figures) -> Figures:
    """Through a map, each result let go of before the next."""

    def items() -> Iterator[bytes]:
        for number in range(ITEMS):
            yield bytes([number % 256]) * ITEM_BYTES

    with make(harness.WORKERS) as pool:
        pool.submit(work.noop).result()
        with Peak() as peak:
            count = sum(len(item) == ITEM_BYTES for item in pool.map(work.same, items()))
        assert count == ITEMS
        return {"items": peak.megabytes()}


def measure(make: Make, settings: Figures) -> Figures:
    parts = (queue_up, large_result, large_items)
    figures: Figures = {}
    for part in parts:
        figures |= part(make, settings)
    return figures


BENCHMARK = harness.Benchmark(
    question="How much memory does much work take?",
    method=f"{QUEUED:,} calls with a small argument queued behind one that waits, what each takes in the submitting "
    f"process, its future included, before any has run and after all results are read; a result of {RESULT_BYTES:,} "
    f"bytes; and a map of {ITEMS:,} items of {ITEM_BYTES:,} bytes each way, made as they are asked for. For the last "
    "two the most that all processes held at a time (PSS) beyond those before. For information: no bar was set.",
    subjects=[
        Subject("treadle", functools.partial(measure, treadle_pool), requires="treadle"),
        Subject("stdlib, fork", functools.partial(measure, stdlib_pool)),
    ],
    columns={
        "queued": "bytes a queued call",
        "read": "bytes a call whose result was read",
        "result": "1 GB result, MB",
        "items": "10,000 x 1 MB each way, MB",
    },
    rounds=1,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
