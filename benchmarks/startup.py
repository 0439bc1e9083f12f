"""How long from making a pool to its first result?"""

from __future__ import annotations

import functools

import harness
from harness import WORKERS, Claim, Figures, Round, Subject

PROGRAM = """
import time, work
{imports}
start = time.perf_counter()
{make}
{first}
seconds = time.perf_counter() - start
{end}
print({{'ms': seconds * 1e3}})
"""
EXECUTOR = {"first": "pool.submit(work.noop).result()", "end": "pool.shutdown()"}
TREADLE = {"imports": "from treadle import ProcessPoolExecutor; ProcessPoolExecutor"} | EXECUTOR
STDLIB = {
    "imports": "import multiprocessing; from concurrent.futures import ProcessPoolExecutor; ProcessPoolExecutor"
} | EXECUTOR


def treadle(method: str) -> dict[str, str]:
    return TREADLE | {"make": f"pool = ProcessPoolExecutor({WORKERS}, start_method={method!r})"}


def stdlib(method: str) -> dict[str, str]:
    return STDLIB | {"make": f"pool = ProcessPoolExecutor({WORKERS}, multiprocessing.get_context({method!r}))"}


PROGRAMS = {
    "treadle, zygote": treadle("zygote"),
    "treadle, fork": treadle("fork"),
    "treadle, forkserver": treadle("forkserver"),
    "treadle, spawn": treadle("spawn"),
    "stdlib, fork": stdlib("fork"),
    "stdlib, forkserver": stdlib("forkserver"),
    "stdlib, spawn": stdlib("spawn"),
    "multiprocessing.Pool": {
        "imports": "from multiprocessing import Pool",
        "make": f"pool = Pool({WORKERS})",
        "first": "pool.apply(work.noop)",
        "end": "pool.terminate()",
    },
    "loky": EXECUTOR | {"imports": "import loky", "make": f"pool = loky.get_reusable_executor({WORKERS})"},
    "joblib": {
        "imports": "from joblib import Parallel, delayed",
        "make": f"pool = Parallel(n_jobs={WORKERS})",
        "first": "pool([delayed(work.noop)()])",
        "end": "",
    },
    "dask": {
        "imports": "from distributed import Client",
        "make": f"pool = Client(n_workers={WORKERS}, threads_per_worker=1, dashboard_address=None)",
        "first": "pool.submit(work.noop).result()",
        "end": "pool.shutdown()",
    },
    "ray": {
        "imports": "import ray",
        "make": f"ray.init(num_cpus={WORKERS}, include_dashboard=False, logging_level='error')",
        "first": "ray.get(ray.remote(work.noop).remote())",
        "end": "ray.shutdown()",
    },
}


def measure(parts: dict[str, str], settings: Figures) -> Figures:
    return harness.run_program(PROGRAM.format(**parts), **harness.ENVIRONMENT)


def ratio(ours: str, theirs: str, done: Round) -> float:
    return done[ours]["ms"] / done[theirs]["ms"]


BENCHMARK = harness.Benchmark(
    question="How long from making a pool to its first result?",
    method=f"A fresh interpreter that has imported the package makes a pool of {WORKERS} workers and waits for the "
    "result of one call.",
    subjects=[
        Subject(name, functools.partial(measure, parts), requires=harness.requirement(name))
        for name, parts in PROGRAMS.items()
    ],
    columns={"ms": "ms"},
    claims=[
        Claim(
            "first result with zygote, times the stdlib's with forkserver",
            functools.partial(ratio, "treadle, zygote", "stdlib, forkserver"),
            at_most=0.35,
        ),
        Claim(
            "first result with fork, times the stdlib's with fork",
            functools.partial(ratio, "treadle, fork", "stdlib, fork"),
            at_most=0.5,
        ),
    ],
    rounds=9,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
