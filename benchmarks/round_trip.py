"""How long does one call take, there and back?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import harness
import work
from harness import STDLIB, Claim, Figures, Round, Subject
from peers import Peer, StdlibThreads

CALLS = 2_000
PING_PONGS = 20_000


def measure(pool: Peer, settings: Figures) -> Figures:
    call, noop, now = pool.call, work.noop, time.perf_counter_ns
    times = []
    for _ in range(CALLS):
        start = now()
        call(noop)
        times.append(now() - start)
    times.sort()
    return {"p50": times[CALLS // 2] / 1e3, "p99": times[CALLS * 99 // 100] / 1e3}


def measure_apart(pool: Peer, settings: Figures) -> Figures:
    """The caller on one CPU and the workers on the others, as the ping-pong's processes are."""
    first, *others = sorted(os.sched_getaffinity(0))
    for worker in pool.pool.stats()["workers"]:
        os.sched_setaffinity(worker["pid"], others or [first])
    os.sched_setaffinity(0, [first])
    return measure(pool, settings)


def ping_pong(settings: Figures) -> Figures:
    """Two processes that wake each other, in C: benchmarks/c/futex_ping_pong.c."""
    output = subprocess.run([ping_pong_program(), str(PING_PONGS)], check=True, capture_output=True, text=True).stdout
    p50, p99 = output.split()
    return {"p50": float(p50), "p99": float(p99)}


def ping_pong_program() -> Path:
    """From this environment's build folder: `make bench` builds it."""
    name = Path(sys.prefix).name.lstrip(".")
    return harness.FOLDER.parent / "build" / name / "benchmarks" / "c" / "futex_ping_pong"


def against_stdlib(figure: str, done: Round) -> float:
    """How many times as long as Treadle's the best of the stdlib's start methods takes."""
    return min(done[name][figure] for name in STDLIB) / done["treadle"][figure]


def subjects() -> list[Subject]:
    pools = harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads})
    (apart,) = harness.pool_subjects(measure_apart, ["treadle"])
    asleep = harness.renamed(apart, "treadle, TREADLE_SPIN=0", TREADLE_SPIN="0")
    return [pools[0], asleep, Subject("futex ping-pong", ping_pong), *pools[1:]]


BENCHMARK = harness.Benchmark(
    question="How long does one call take, there and back?",
    method=f"{CALLS:,} calls of a function that does nothing, each waited for before the next. Beside them, two "
    "processes that do nothing but wake each other through a futex, which is what remains when nobody spins "
    "(TREADLE_SPIN=0). For these two, caller and worker are kept on different CPUs: in some runs the scheduler would "
    "put them on one, where a turn costs a tenth.",
    subjects=subjects(),
    columns={"p50": "median, us", "p99": "99th percentile, us"},
    claims=[
        Claim(
            "round trip at the median, times faster than the stdlib's fastest pool",
            lambda done: against_stdlib("p50", done),
            at_least=50,
        ),
        Claim("round trip at the 99th percentile, likewise", lambda done: against_stdlib("p99", done), at_least=20),
        Claim(
            "without spinning, times a futex ping-pong (medians)",
            lambda done: done["treadle, TREADLE_SPIN=0"]["p50"] / done["futex ping-pong"]["p50"],
            at_most=1.3,
        ),
    ],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
