"""How long do plain arrays travel?"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import harness
import work
from harness import Claim, Figures, Round, Subject
from peers import Peer, load

LARGE_BYTES = 100_000_000
SMALL_BYTES = 100_000
SMALL = 10_000
DISTINCT = 100
TIMES = 9
ENOUGH_S = 3.0
NAMES = ("treadle", "stdlib, fork", "multiprocessing.Pool", "loky", "joblib", "ray")


def measure(pool: Peer, settings: Figures) -> Figures:
    numpy = load("numpy")
    large = numpy.ones(LARGE_BYTES // 8)
    small = [numpy.full(SMALL_BYTES // 8, float(n)) for n in range(DISTINCT)]
    ends_first = elapsed_ms(functools.partial(pool.call, work.ends, large))
    ends = median_ms(functools.partial(pool.call, work.ends, large))
    double = median_ms(functools.partial(pool.call, work.double, large))
    items = small * (SMALL // DISTINCT)
    read(pool.stream(work.double, items[: SMALL // 10]))
    many = elapsed_ms(lambda: read(pool.stream(work.double, items)))
    kept = elapsed_ms(lambda: list(pool.stream(work.double, items)))
    return {"first": ends_first, "ends": ends, "double": double, "many": many / 1e3, "kept": kept / 1e3}


def read(results: Iterable[Any]) -> None:
    """Reads each result, and drops it."""
    numbers = [float(result[-1]) for result in results]
    if numbers != [2.0 * (index % DISTINCT) for index in range(len(numbers))]:
        raise RuntimeError("the results are wrong")


def measure_memcpy(settings: Figures) -> Figures:
    """The least that a copy costs, from and to memory that is there."""
    numpy = load("numpy")
    source = numpy.ones(LARGE_BYTES // 8)
    target = numpy.zeros_like(source)
    copy = functools.partial(numpy.copyto, target, source)
    return {"first": elapsed_ms(copy), "ends": median_ms(copy)}


def elapsed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def median_ms(call: Callable[[], object]) -> float:
    """After one call that does not count; fewer where they take long."""
    call()
    times: list[float] = []
    while len(times) < TIMES and (len(times) < 3 or sum(times) < ENOUGH_S * 1e3):
        times.append(elapsed_ms(call))
    return statistics.median(times)


def times_faster(figure: str, than: str, done: Round) -> float:
    return done[than][figure] / done["treadle"][figure]


def against_stdlib(figure: str, done: Round) -> float:
    return min(times_faster(figure, name, done) for name in ("stdlib, fork", "multiprocessing.Pool"))


BENCHMARK = harness.Benchmark(
    question="How long do plain arrays travel?",
    method=f"A float64 array of {LARGE_BYTES // 1_000_000} MB as argument of a call that reads its ends, for the first "
    "time (its worker imports NumPy then) and later; `a * 2.0` of it, there and back; medians of up to "
    f"{TIMES} calls, after one that does not count. And `map` of {SMALL:,} arrays of {SMALL_BYTES // 1_000} KB each "
    f"way ({DISTINCT} different ones): each result read when it comes, and dropped; or all of them kept, 1 GB. joblib "
    "and Ray get arrays as they do by default: by a file in memory that workers map, and by its store.",
    subjects=[
        Subject("one warm memcpy", measure_memcpy, requires="numpy"),
        *harness.pool_subjects(measure, NAMES),
    ],
    columns={
        "first": "100 MB in, the first time, ms",
        "ends": "100 MB in, ms",
        "double": "in and back, ms",
        "many": f"{SMALL:,} of 100 KB each way, s",
        "kept": "all results kept, s",
    },
    claims=[
        Claim(
            "100 MB as argument, times one warm memcpy",
            lambda done: done["treadle"]["ends"] / done["one warm memcpy"]["ends"],
            at_most=1.3,
        ),
        Claim(
            "100 MB as argument, against the stdlib's faster pool",
            functools.partial(against_stdlib, "ends"),
            at_least=25,
        ),
        Claim(
            "`a * 2.0` of 100 MB, against the stdlib's faster pool",
            functools.partial(against_stdlib, "double"),
            at_least=15,
        ),
        Claim(
            "`a * 2.0` of 100 MB, times Ray",
            lambda done: done["treadle"]["double"] / done["ray"]["double"],
            at_most=0.6,
        ),
        Claim(
            f"{SMALL:,} arrays of 100 KB each way, against the stdlib's faster pool",
            functools.partial(against_stdlib, "many"),
            at_least=8,
        ),
    ],
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
