"""How many tasks a second go through submit and result?"""

from __future__ import annotations

import statistics
import time

import harness
import work
from harness import STDLIB, Claim, Figures, Round
from peers import Peer, StdlibThreads

TASKS = 20_000
BATCHES = 3


def measure(pool: Peer, settings: Figures) -> Figures:
    count = TASKS if pool.slowness < 100 else TASKS // 10
    calls: list[tuple[()]] = [()] * count
    rates = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        pool.submit_all(work.noop, calls)
        rates.append(count / (time.perf_counter() - start))
    return {"rate": statistics.median(rates), "tasks": count}


def against_processes(done: Round) -> float:
    """The fastest of the stdlib's start methods."""
    return done["treadle"]["rate"] / max(done[name]["rate"] for name in STDLIB)


BENCHMARK = harness.Benchmark(
    question="How many tasks a second go through submit and result?",
    method=f"{TASKS:,} calls of a function that does nothing: all are submitted, then all results collected in order. "
    f"The median of {BATCHES} such batches. joblib gets them as one list and makes batches of its own.",
    subjects=harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads}),
    columns={"rate": "tasks/s", "tasks": "tasks"},
    claims=[
        Claim("submit + result, against the stdlib's fastest process pool", against_processes, at_least=80),
        Claim(
            "submit + result, against the stdlib's thread pool",
            lambda done: done["treadle"]["rate"] / done["stdlib threads"]["rate"],
            at_least=8,
        ),
    ],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
