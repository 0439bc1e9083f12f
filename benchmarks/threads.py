"""What does a thread pool's task cost?"""

from __future__ import annotations

import time

import harness
import work
from harness import Claim, Figures
from peers import Peer, StdlibThreads, TreadleThreads

TASKS = 20_000
CALLS = 2_000


def measure(pool: Peer, settings: Figures) -> Figures:
    calls: list[tuple[()]] = [()] * TASKS
    start = time.perf_counter()
    pool.submit_all(work.noop, calls)
    rate = TASKS / (time.perf_counter() - start)
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter_ns()
        pool.call(work.noop)
        times.append(time.perf_counter_ns() - begin)
    times.sort()
    return {"rate": rate, "p50": times[CALLS // 2] / 1e3, "p99": times[CALLS * 99 // 100] / 1e3}


BENCHMARK = harness.Benchmark(
    question="What does a thread pool's task cost?",
    method=f"{TASKS:,} calls of a function that does nothing, submitted and then collected; and {CALLS:,}, each waited "
    "for before the next.",
    subjects=harness.pool_subjects(measure, [], {"treadle threads": TreadleThreads, "stdlib threads": StdlibThreads}),
    columns={"rate": "tasks/s", "p50": "round trip, median, us", "p99": "99th percentile, us"},
    claims=[
        Claim(
            "submit + result in threads, against the stdlib's",
            lambda done: done["treadle threads"]["rate"] / done["stdlib threads"]["rate"],
            at_least=3,
        ),
    ],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
