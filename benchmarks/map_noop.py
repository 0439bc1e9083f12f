"""How many items a second go through map?"""

from __future__ import annotations

import time

import harness
import work
from harness import Claim, Figures
from peers import Peer, StdlibThreads

ITEMS = 1_000_000


def measure(pool: Peer, settings: Figures) -> Figures:
    count = ITEMS // pool.slowness
    start = time.perf_counter()
    pool.map(work.noop, range(count))
    return {"rate": count / (time.perf_counter() - start), "items": count}


BENCHMARK = harness.Benchmark(
    question="How many items a second go through map?",
    method=f"`map` of a function that does nothing, with default arguments: over {ITEMS:,} items where the pool makes "
    "chunks by itself, over fewer where it makes a task of each item.",
    subjects=harness.pool_subjects(measure, more={"stdlib threads": StdlibThreads}),
    columns={"rate": "items/s", "items": "items"},
    claims=[
        Claim(
            "map of no-ops, against multiprocessing.Pool.map",
            lambda done: done["treadle"]["rate"] / done["multiprocessing.Pool"]["rate"],
            at_least=1.5,
        ),
    ],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
