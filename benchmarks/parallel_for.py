"""What does a parallel loop of the engine cost?"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import harness
from harness import Claim, Figures, Subject

COLUMNS = {
    "tight": "empty, one after the other, us",
    "apart": "empty, 200 us apart, us",
    "work": "2 x 20 us of work, us",
    "work_apart": "2 x 20 us of work, 200 us apart, us",
}


def program(name: str) -> Path:
    """One of benchmarks/c/, built with the environment that this runs in."""
    environment = Path(sys.prefix).name.lstrip(".")
    return harness.FOLDER.parent / "build" / environment / "benchmarks" / "c" / name


def measure(name: str, settings: Figures) -> Figures:
    done = subprocess.run([program(name)], check=True, capture_output=True, text=True)
    return dict(zip(COLUMNS, map(float, done.stdout.split()), strict=True))


OPENMP = functools.partial(measure, "loop_openmp")

BENCHMARK = harness.Benchmark(
    question="What does a parallel loop of the engine cost?",
    method="Loops of two chunks for two threads, in C: td_parallel_for (benchmarks/c/loop_treadle.c) and the OpenMP of "
    "the compiler (gcc's libgomp), which spins between loops, or sleeps (OMP_WAIT_POLICY=passive); Treadle's thread "
    "spins for 50 us and then sleeps. Of two chunks of work, 20 us is the least. A chunk that no other thread has "
    "begun is run by the caller: most of the empty ones are.",
    subjects=[
        Subject("treadle", functools.partial(measure, "loop_treadle")),
        Subject("OpenMP", OPENMP),
        Subject("OpenMP, passive", OPENMP, environment={"OMP_WAIT_POLICY": "passive"}),
    ],
    columns=COLUMNS,
    claims=[
        Claim(
            "an empty loop, one after the other, times OpenMP's",
            lambda done: done["treadle"]["tight"] / done["OpenMP"]["tight"],
            at_most=1.5,
        ),
        Claim(
            "an empty loop, 200 us apart, times that of OpenMP, passive",
            lambda done: done["treadle"]["apart"] / done["OpenMP, passive"]["apart"],
            at_most=1,
        ),
    ],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
