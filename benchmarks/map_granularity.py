"""How small may a task be?"""

from __future__ import annotations

import time

import harness
import work
from harness import WORKERS, Claim, Figures, Round
from peers import Peer, StdlibThreads, TreadleStdlibCompleted, undisturbed

# Microseconds of a task -> how many of them: a second of work for each worker.
COUNTS = {10: 100_000 * WORKERS, 100: 10_000 * WORKERS}


def settings() -> Figures:
    return {"loops_per_us": work.calibrate()}


def loops(us: int, settings: Figures) -> int:
    return round(us * settings["loops_per_us"])


def measure(pool: Peer, settings: Figures) -> Figures:
    figures: Figures = {}
    for us, count in COUNTS.items():
        count //= pool.slowness
        start = time.perf_counter()
        pool.map(work.burn, [loops(us, settings)] * count)
        figures[f"map_{us}"] = (time.perf_counter() - start) / count
    if type(pool).collect_completed is not Peer.collect_completed:
        count = COUNTS[100] // pool.slowness
        start = time.perf_counter()
        pool.collect_completed(work.burn, [(loops(100, settings),)] * count)
        figures["completed_100"] = (time.perf_counter() - start) / count
    return figures


def measure_bare(settings: Figures) -> Figures:
    figures: Figures = {}
    for us, count in COUNTS.items():
        seconds, _ = undisturbed(work.burn, [loops(us, settings)] * count, WORKERS)
        figures[f"map_{us}"] = seconds / count
    return {**figures, "completed_100": figures["map_100"]}


def shares(done: Round) -> None:
    """What a task would take with no pool at all, over what it took."""
    ideal = done[IDEAL]
    for figures in done.values():
        for name, seconds in list(figures.items()):
            figures[f"share_{name}"] = ideal[name] / seconds


IDEAL = "bare processes"
BENCHMARK = harness.Benchmark(
    question="How small may a task be?",
    method="Tasks that keep a CPU busy for 10 and for 100 us, a second of work for each worker (less of it where "
    "each item is a task of its own). The figures are shares of the ideal: what processes take that are forked "
    "beforehand, call the function in a loop, and do nothing else (the best of three).",
    subjects=[
        harness.Subject(IDEAL, measure_bare),
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
    derive=shares,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
