"""What does a cached result cost?"""

from __future__ import annotations

import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import harness
import work
from harness import Claim, Figures, Round, Subject
from peers import load

NUMBERS = 12_500_000  # of float64: 100 MB
CALLS = 300
TURNS = 15
LARGE_TURNS = 5
SMALL = (1, 2.5, "three")


def median_us(call: Callable[[], object], count: int, turns: int) -> float:
    """Microseconds of a call: the median of some turns."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - start) / count * 1e6)
    return statistics.median(times)


def measure(library: str, algorithm: str, settings: Figures) -> Figures:
    joblib: Any = load(library)
    large = load("numpy").random.default_rng(0).random(NUMBERS)
    digest = functools.partial(joblib.hash, hash_name=algorithm)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        memory = joblib.Memory(folder, verbose=0)
        cached, of_array = memory.cache(work.remember), memory.cache(work.remember_array)
        numbers = itertools.count()
        cached(next(numbers), "text")
        of_array(large)
        return {
            "hit": median_us(lambda: cached(0, "text"), CALLS, TURNS),
            "miss": median_us(lambda: cached(next(numbers), "text"), CALLS // 3, TURNS),
            "large hit": median_us(lambda: of_array(large), 1, LARGE_TURNS) / 1e3,
            "large hash": median_us(lambda: digest(large), 1, LARGE_TURNS) / 1e3,
            "small hash": median_us(lambda: digest(SMALL), CALLS, TURNS),
        }


def share(figure: str, done: Round) -> float:
    return done["treadle"][figure] / done["joblib"][figure]


def claim(text: str, figure: str, part: int) -> Claim:
    return Claim(f"{text}, times joblib's", functools.partial(share, figure), at_most=round(1 / part, 4))


BENCHMARK = harness.Benchmark(
    question="What does a cached result cost?",
    method="`Memory` of both, in /dev/shm, so that the disk is out of it: a call with a number and a word whose "
    "result, a number, is stored (hit), or isn't yet (miss); a hit with an array of 100 MB as its argument. `hash` of "
    "that array, and of `(1, 2.5, 'three')`: joblib's md5, and `hash_name=\"xxh3_128\"`.",
    subjects=[
        Subject("treadle", functools.partial(measure, "treadle.joblib", "xxh3_128"), "xxhash", harness.ENVIRONMENT),
        Subject("joblib", functools.partial(measure, "joblib", "md5"), "joblib", harness.ENVIRONMENT),
    ],
    columns={
        "hit": "hit, us",
        "miss": "miss, us",
        "large hit": "hit with 100 MB, ms",
        "large hash": "hash of 100 MB, ms",
        "small hash": "hash of a tuple, us",
    },
    claims=[
        claim("a hit with small arguments", "hit", 8),
        claim("a miss with small arguments", "miss", 4),
        claim("a hit with an argument of 100 MB", "large hit", 8),
        claim('`hash(..., hash_name="xxh3_128")` of 100 MB', "large hash", 15),
        claim('`hash(..., hash_name="xxh3_128")` of a small tuple', "small hash", 4),
    ],
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
