"""What does it cost NumPy code in workers that results move?"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import harness
from harness import Figures, Round
from peers import load

SIZES = {"100 KB": 12_500, "1 MB": 125_000, "10 MB": 1_250_000}
TURNS = 15
TURN_S = 0.03
FLOATS_PER_S = 3e8
"""About as many as one expression gets through."""


def arithmetic(size: int) -> Callable[[], Any]:
    """An expression of five temporaries."""
    numpy = load("numpy")
    a, b = numpy.linspace(0, 1, size), numpy.linspace(1, 2, size)

    def run() -> Any:
        d = numpy.sqrt(a * b + a)
        e = d - d.mean()
        return numpy.where(e > 0, e, -e).sum()

    return run


def gather(size: int) -> Callable[[], Any]:
    """Elements in random order: what larger pages would speed up."""
    numpy = load("numpy")
    order, a = numpy.random.default_rng(0).permutation(size), numpy.ones(size)
    return lambda: a[order][order]


def transpose(size: int) -> Callable[[], Any]:
    """A copy of a transposed matrix, joined with itself."""
    numpy = load("numpy")
    side = int(size**0.5)
    a = numpy.ones((side, side))
    return lambda: numpy.concatenate((a.T.copy(), a))


def time_code(make: Callable[[int], Callable[[], Any]], size: int) -> float:
    """Microseconds a turn of the code, in a worker."""
    run = make(size)
    turns = max(1, int(TURN_S * FLOATS_PER_S / size / 5))
    start = time.perf_counter()
    for _ in range(turns):
        run()
    return (time.perf_counter() - start) / turns * 1e6


def results(size: int) -> list[Any]:
    """What makes blocks warm."""
    numpy = load("numpy")
    return [numpy.full(size, 1.0) for _ in range(8)]


def worker(least: str) -> Any:
    """A pool of one worker, whose results of at least so many bytes move; "0": none do."""
    import treadle

    os.environ["TREADLE_MOVE_BYTES"] = least
    pool = treadle.ProcessPoolExecutor(1, preload=["numpy"])
    pool.submit(results, 10).result()
    return pool


def measure(make: Callable[[int], Callable[[], Any]], settings: Figures) -> Figures:
    figures: Figures = {}
    pools = {"own": worker("0"), "cold": worker("64K"), "warm": worker("64K")}
    for name, size in SIZES.items():
        times: dict[str, list[float]] = {kind: [] for kind in pools}
        for turn in range(TURNS):
            for kind in sorted(pools, reverse=turn % 2 == 0):
                if kind == "warm" and turn == 0:
                    for _ in range(3):
                        pools[kind].submit(results, size).result()
                times[kind].append(pools[kind].submit(time_code, make, size).result())
        figures[f"own {name}"] = statistics.median(times["own"])
        for kind in ("warm", "cold"):
            ratios = [mine / own for mine, own in zip(times[kind], times["own"], strict=True)]
            figures[f"{kind} {name}"] = statistics.median(ratios)
    return figures


def ratio(subject: str, figure: str, done: Round) -> float:
    return done[subject][figure]


CODE = {"arithmetic": arithmetic, "gather": gather, "transpose": transpose}

BENCHMARK = harness.Benchmark(
    question="What does it cost NumPy code in workers that results move?",
    method="NumPy code whose temporaries are of one size, in a worker whose arrays are born where results go, beside "
    f"one with NumPy's own allocator: {TURNS} turns of each by turns, the median of their ratios. Warm: the arena has "
    "blocks of that size; cold: it has none.",
    subjects=[harness.Subject(name, functools.partial(measure, make), "treadle") for name, make in CODE.items()],
    columns={f"own {size}": f"{size}, us" for size in SIZES}
    | {f"{kind} {size}": f"{size}, {kind}" for size in SIZES for kind in ("warm", "cold")},
    claims=[
        harness.Claim(
            f"{name}, temporaries of {size}, warm blocks beside NumPy's own memory",
            functools.partial(ratio, name, f"warm {size}"),
            at_most=1.05,
        )
        for name in CODE
        for size in SIZES
    ],
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
