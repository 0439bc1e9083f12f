"""What does an idle pool use?"""

from __future__ import annotations

import os
import time

import harness
import work
from harness import Claim, Figures
from peers import Peer

SECONDS = 5


def measure(pool: Peer, settings: Figures) -> Figures:
    time.sleep(1)  # whatever spins after work, stops
    pids = [os.getpid(), *work.descendants()]
    before = work.cpu_seconds(pids)
    time.sleep(SECONDS)
    return {"ms": (work.cpu_seconds(pids) - before) * 1e3}


BENCHMARK = harness.Benchmark(
    question="What does an idle pool use?",
    method=f"CPU time of a program and all its processes over {SECONDS} seconds, a second after its pool had work.",
    subjects=harness.pool_subjects(measure),
    columns={"ms": "ms of CPU"},
    claims=[Claim(f"CPU of an idle pool in {SECONDS} s", lambda done: done["treadle"]["ms"], at_most=1, unit=" ms")],
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
