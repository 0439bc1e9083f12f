"""How small may a task be?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import harness
import work
from harness import WORKERS, Claim, Figures, bare
from peers import Peer, StdlibThreads, TreadleStdlibCompleted

# Microseconds of a task -> how many of them: a second of work for each worker.
COUNTS = {10: 100_000 * WORKERS, 100: 10_000 * WORKERS}


def settings() -> Figures:
    return {"loops_per_us": work.calibrate()}


def loops(us: int, settings: Figures) -> int:
    return round(us * settings["loops_per_us"])


def share(us: int, count: int, settings: Figures, job: Callable[[list[int]], object]) -> float:
    """What the tasks take in bare processes right before and after, over what they take in the pool."""
    tasks = [loops(us, settings)] * count
    before, _ = bare(tasks)
    start = time.perf_counter()
    job(tasks)
    seconds = time.perf_counter() - start
    after, _ = bare(tasks)
    return (before + after) / 2 / seconds


def measure(pool: Peer, settings: Figures) -> Figures:
    figures: Figures = {}
    for us, count in COUNTS.items():
        job = functools.partial(pool.map, work.burn)
        figures[f"share_map_{us}"] = share(us, count // pool.slowness, settings, job)
    if type(pool).collect_completed is not Peer.collect_completed:
        count = COUNTS[100] // pool.slowness
        figures["share_completed_100"] = share(
            100, count, settings, lambda tasks: pool.collect_completed(work.burn, [(task,) for task in tasks])
        )
    return figures


BENCHMARK = harness.Benchmark(
    question="How small may a task be?",
    method="Tasks that keep a CPU busy for 10 and for 100 us, a second of work for each worker (less of it where "
    "each item is a task of its own). The figures are shares of the ideal: what processes take that are forked "
    "beforehand, call the function in a loop, and do nothing else, right before and right after (their mean).",
    subjects=[
        *harness.pool_subjects(
            measure, more={"stdlib threads": StdlibThreads, "treadle, stdlib's as_completed": TreadleStdlibCompleted}
        ),
    ],
    columns={
        "share_map_10": "map, 10 us",
        "share_map_100": "map, 100 us",
        "share_completed_100": "submit + as_completed, 100 us",
    },
    claims=[
        Claim("map of 100 us tasks", lambda done: done["treadle"]["share_map_100"], at_least=0.95, unit=" of ideal"),
        Claim("map of 10 us tasks", lambda done: done["treadle"]["share_map_10"], at_least=0.8, unit=" of ideal"),
        Claim(
            "submit + as_completed of 100 us tasks",
            lambda done: done["treadle"]["share_completed_100"],
            at_least=0.9,
            unit=" of ideal",
        ),
    ],
    settings=settings,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
