"""What do uneven tasks cost?"""

from __future__ import annotations

import random
import time

import harness
import work
from harness import WORKERS, Claim, Figures
from peers import Peer, StdlibThreads, undisturbed

SHORT_US = 100
LONG_US = 100 * SHORT_US
LONG = 40
TASKS = 100 * LONG
IDEAL = "in-order list scheduling"


def settings() -> Figures:
    return {"loops_per_us": work.calibrate()}


def loops(settings: Figures) -> list[int]:
    """For each task, in an order that is the same in every run."""
    us = [LONG_US] * LONG + [SHORT_US] * (TASKS - LONG)
    random.Random(1).shuffle(us)
    return [round(each * settings["loops_per_us"]) for each in us]


def measure(pool: Peer, settings: Figures) -> Figures:
    work_list = loops(settings)
    start = time.perf_counter()
    pool.map(work.burn, work_list)
    return {"ms": (time.perf_counter() - start) * 1e3}


def list_schedule(settings: Figures) -> Figures:
    """Each task in turn to the worker that is free first, with the times that bare processes take for the tasks."""
    _, durations = undisturbed(work.burn, loops(settings), WORKERS)
    free_at = [0.0] * WORKERS
    for duration in durations:
        first = min(range(WORKERS), key=free_at.__getitem__)
        free_at[first] += duration
    return {"ms": max(free_at) * 1e3}


BENCHMARK = harness.Benchmark(
    question="What do uneven tasks cost?",
    method=f"`map`, with default arguments, of {TASKS:,} tasks that keep a CPU busy for {SHORT_US} us; 1 in 100 takes "
    "100 times as long. In-order list scheduling, which hands each task to the worker that is free first and costs "
    "nothing, is computed from what the same tasks take in bare processes in the same round (the best of three).",
    subjects=[
        harness.Subject(IDEAL, list_schedule),
        *harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads}),
    ],
    columns={"ms": "ms"},
    claims=[
        Claim(
            "uneven tasks, times in-order list scheduling",
            lambda done: done["treadle"]["ms"] / done[IDEAL]["ms"],
            at_most=1.05,
        ),
    ],
    settings=settings,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
