"""What do joblib's calls and scikit-learn's n_jobs cost?"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from math import sqrt
from typing import Any

import harness
from harness import Claim, Figures, Round, Subject
from peers import load

JOBS = 2
CALLS = 10
MANY = 100_000
TURNS = 40
PAUSE_S = 0.002
GRID = {"C": [0.1, 1, 10, 100], "gamma": [1e-4, 1e-3, 1e-2]}
TREES = 100

PROGRAM = """
import time
start = time.perf_counter()
{first}
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
X, y = load_digits(return_X_y=True)
GridSearchCV(SVC(), {grid}, cv=3, n_jobs={jobs}).fit(X, y)
print({{"program": time.perf_counter() - start}})
"""
CALLS_PROGRAM = """
import parallel, peers
print(parallel.call(peers.load({package!r}), {backend!r}))
"""
READY = f"""
import treadle.joblib
treadle.joblib.register(n_jobs={JOBS}, preload=("sklearn.model_selection", "sklearn.svm", "treadle.joblib._register"))
"""


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median(call: Callable[[], object], turns: int, pause_s: float = 0.0) -> float:
    times = []
    for _ in range(turns):
        time.sleep(pause_s)
        times.append(seconds(call))
    return statistics.median(times)


def fit_grid(X: Any, y: Any) -> None:
    model_selection, svm = load("sklearn.model_selection"), load("sklearn.svm")
    model_selection.GridSearchCV(svm.SVC(), GRID, cv=3, n_jobs=JOBS).fit(X, y)


def fit_forest(X: Any, y: Any) -> None:
    load("sklearn.ensemble").RandomForestClassifier(TREES, n_jobs=JOBS, random_state=0).fit(X, y)


def learn(backend: str | None) -> Figures:
    """scikit-learn's fits, of which the first one starts the workers."""
    joblib = load("joblib")
    X, y = load("sklearn.datasets").load_digits(return_X_y=True)
    load("sklearn.model_selection")
    load("sklearn.svm")
    load("sklearn.ensemble")
    with joblib.parallel_config(backend=backend) if backend else joblib.parallel_config(n_jobs=JOBS):
        figures = {"cold": seconds(lambda: fit_grid(X, y))}
        figures["warm"] = median(lambda: fit_grid(X, y), 3)
        fit_forest(X, y)
        figures["forest"] = median(lambda: fit_forest(X, y), 5)
    return figures


def call(package: Any, backend: str | None) -> Figures:
    """Calls that do next to nothing."""
    delayed = package.delayed

    def run(function: Callable[..., object], count: int) -> None:
        package.Parallel(n_jobs=JOBS, backend=backend)(delayed(function)(i) for i in range(count))

    run(abs, CALLS)
    return {
        "tiny": median(lambda: run(abs, CALLS), TURNS, PAUSE_S) * 1e6,
        "many": median(lambda: run(sqrt, MANY), 5),
    }


def measure_treadle(settings: Figures) -> Figures:
    treadle = load("treadle.joblib")
    treadle.register()
    return learn(None) | run_programs("treadle.joblib", None, READY)


def measure_joblib(backend: str, settings: Figures) -> Figures:
    first = "" if backend == "loky" else f"import joblib; joblib.parallel_config(backend={backend!r})"
    return learn(backend) | run_programs("joblib", backend, first)


def run_programs(package: str, backend: str | None, first: str) -> Figures:
    """What is measured in processes of their own: calls, where nothing else is imported, and a whole program."""
    calls = harness.run_program(CALLS_PROGRAM.format(package=package, backend=backend))
    return calls | harness.run_program(PROGRAM.format(first=first, grid=GRID, jobs=JOBS))


def ratio(figure: str, other: str, done: Round) -> float:
    return done["treadle"][figure] / done[other][figure]


LOKY, THREADING = "joblib, loky", "joblib, threading"

BENCHMARK = harness.Benchmark(
    question="What do joblib's calls and scikit-learn's n_jobs cost?",
    method=f"`Parallel(n_jobs={JOBS})` of {CALLS} calls of `abs`, the median of {TURNS}; of {MANY:,} calls of `sqrt`, "
    "the median of 5; with `treadle.joblib`'s own, and with joblib's, in a process with nothing else in it. "
    f"`GridSearchCV` of an SVC on the digits data (12 candidates, 3 folds, {JOBS} jobs), the first time in a process, "
    "which starts the workers, and the median of 3 more; a fit of `RandomForestClassifier` with "
    f"{TREES} trees, the median of 5: scikit-learn's own code on joblib's `Parallel`, with Treadle registered as its "
    "backend. And a whole program that does one such search, from its first line to its end; Treadle's begins with "
    "`register(n_jobs=2, preload=...)`, so that the workers' imports run beside its own.",
    subjects=[
        Subject("treadle", measure_treadle, requires="sklearn", environment=harness.ENVIRONMENT),
        *(
            Subject(
                name,
                functools.partial(measure_joblib, name.removeprefix("joblib, ")),
                requires="sklearn",
                environment=harness.ENVIRONMENT,
            )
            for name in (LOKY, THREADING)
        ),
    ],
    columns={
        "tiny": f"{CALLS} tiny calls, us",
        "many": f"{MANY:,} x sqrt, s",
        "cold": "grid search, cold, s",
        "warm": "warm, s",
        "program": "whole program, s",
        "forest": "forest, s",
    },
    claims=[
        Claim(
            f"{CALLS} tiny calls, how much faster than joblib", lambda done: 1 / ratio("tiny", LOKY, done), at_least=30
        ),
        Claim(f"{MANY:,} x sqrt, how much faster than joblib", lambda done: 1 / ratio("many", LOKY, done), at_least=5),
        Claim("grid search, warm, times loky's", functools.partial(ratio, "warm", LOKY), at_most=1),
        Claim("grid search, warm, times threading's", functools.partial(ratio, "warm", THREADING), at_most=1.05),
        Claim("grid search, cold, times loky's", functools.partial(ratio, "cold", LOKY), at_most=0.8),
        Claim("whole program, times loky's", functools.partial(ratio, "program", LOKY), at_most=0.8),
        Claim("random forest, times joblib's threading", functools.partial(ratio, "forest", THREADING), at_most=1),
    ],
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
