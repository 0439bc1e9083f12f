"""How long do arrays travel?"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import harness
import work
from harness import Figures
from peers import Peer, StdlibThreads, load

TIMES = 5


def measure(pool: Peer, settings: Figures) -> Figures:
    numpy = load("numpy")
    figures: Figures = {}
    for megabytes in (1, 100):
        array = numpy.ones(megabytes * 125_000)
        figures[f"in_{megabytes}"] = median_ms(functools.partial(pool.call, work.size, array))
        figures[f"both_{megabytes}"] = median_ms(functools.partial(pool.call, work.same, array))
    return figures


def median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


BENCHMARK = harness.Benchmark(
    question="How long do arrays travel?",
    method=f"A NumPy array as argument of a call that returns little, and of one that returns it; each {TIMES} times, "
    "the median. For information: no bar was set.",
    subjects=harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads}),
    columns={
        "in_1": "1 MB in, ms",
        "both_1": "in and back, ms",
        "in_100": "100 MB in, ms",
        "both_100": "100 MB in and back, ms",
    },
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
