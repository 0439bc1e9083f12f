"""What does the import cost?"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time

import harness
from harness import Claim, Figures, Round, Subject

TIMES = 15
STATEMENTS = {
    "bare interpreter": "pass",
    "import treadle": "import treadle",
    "treadle's ProcessPoolExecutor": "from treadle import ProcessPoolExecutor",
    "stdlib's ProcessPoolExecutor": "from concurrent.futures import ProcessPoolExecutor",
    "multiprocessing.Pool": "import multiprocessing.pool",
    "import loky": "import loky",
    "import joblib": "import joblib",
    "import distributed": "import distributed",
    "import ray": "import ray",
}


def measure(statement: str, settings: Figures) -> Figures:
    times = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - start)
    return {"ms": statistics.median(times) * 1e3}


def over_bare(done: Round) -> None:
    for figures in done.values():
        figures["over"] = figures["ms"] - done["bare interpreter"]["ms"]


def over_stdlib(done: Round) -> float:
    return done["treadle's ProcessPoolExecutor"]["ms"] - done["stdlib's ProcessPoolExecutor"]["ms"]


BENCHMARK = harness.Benchmark(
    question="What does the import cost?",
    method=f"An interpreter is started, runs the statement, and ends; a sample is the median of {TIMES}.",
    subjects=[
        Subject(
            name,
            functools.partial(measure, statement),
            requires=statement.removeprefix("import ") if statement.startswith("import ") else "",
            rounds=1 if name in ("import ray", "import distributed") else sys.maxsize,
        )
        for name, statement in STATEMENTS.items()
    ],
    columns={"ms": "ms", "over": "over the bare interpreter, ms"},
    claims=[
        Claim("`import treadle`", lambda done: done["import treadle"]["over"], at_most=8, unit=" ms over bare"),
        Claim("`from treadle import ProcessPoolExecutor`", over_stdlib, at_most=5, unit=" ms over the stdlib's"),
    ],
    derive=over_bare,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
