"""What do uneven tasks cost?"""

from __future__ import annotations

import random
import time

import harness
import work
from harness import WORKERS, Claim, Figures, bare
from peers import Peer, StdlibThreads

SHORT_US = 100
LONG_US = 100 * SHORT_US
LONG = 40
TASKS = 100 * LONG


def settings() -> Figures:
    return {"loops_per_us": work.calibrate()}


def loops(settings: Figures) -> list[int]:
    """For each task, in an order that is the same in every run."""
    us = [LONG_US] * LONG + [SHORT_US] * (TASKS - LONG)
    random.Random(1).shuffle(us)
    return [round(each * settings["loops_per_us"]) for each in us]


def list_schedule_ms(work_list: list[int]) -> float:
    """Each task in turn to the worker that is free first, with the times that bare processes take for the tasks."""
    free_at = [0.0] * WORKERS
    for seconds in bare(work_list)[1]:
        first = min(range(WORKERS), key=free_at.__getitem__)
        free_at[first] += seconds
    return max(free_at) * 1e3


def measure(pool: Peer, settings: Figures) -> Figures:
    work_list = loops(settings)
    before = list_schedule_ms(work_list)
    start = time.perf_counter()
    pool.map(work.burn, work_list)
    ms = (time.perf_counter() - start) * 1e3
    ideal = (before + list_schedule_ms(work_list)) / 2
    return {"ms": ms, "ideal": ideal, "ratio": ms / ideal}


BENCHMARK = harness.Benchmark(
    question="What do uneven tasks cost?",
    method=f"`map`, with default arguments, of {TASKS:,} tasks that keep a CPU busy for {SHORT_US} us; 1 in 100 takes "
    "100 times as long. In-order list scheduling, which hands each task to the worker that is free first and costs "
    "nothing, is computed from what the same tasks take in bare processes right before and right after (their mean).",
    subjects=[
        *harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads}),
    ],
    columns={"ms": "ms", "ideal": "in-order list scheduling, ms", "ratio": "times as long"},
    claims=[
        Claim(
            "uneven tasks, times in-order list scheduling",
            lambda done: done["treadle"]["ratio"],
            at_most=1.05,
        ),
    ],
    settings=settings,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
