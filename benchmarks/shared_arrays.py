"""What does it cost to pass an array that workers share?"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import harness
import work
from harness import Claim, Figures, Round, Subject
from peers import Peer, load

ROWS, COLUMNS = 5_000, 2_500  # of float64: 100 MB
TURNS = 15
TURN_S = 0.02
NAMES = ("treadle", "stdlib, fork", "multiprocessing.Pool", "loky", "joblib", "ray")


def interleaved_us(calls: dict[str, Callable[[], object]]) -> Figures:
    """Microseconds for each, medians over turns that they take one after the other, when each was called before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        seconds(call, 3)
    counts = {name: max(3, min(2_000, int(TURN_S / seconds(call, 3)))) for name, call in calls.items()}
    for _ in range(TURNS):
        for name, call in calls.items():
            times[name].append(seconds(call, counts[name]) * 1e6)
    return {name: statistics.median(each) for name, each in times.items()}


def seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def figures(pool: Peer, noop: Any, small: Any, large: Any, part: Any, take: Callable[..., object]) -> Figures:
    """The same function each time, with what stands for nothing, and for each array."""
    taken = {"noop": noop, "small": small, "large": large, "part": part}
    return interleaved_us({name: functools.partial(pool.call, take, what) for name, what in taken.items()})


def measure(pool: Peer, settings: Figures) -> Figures:
    shared = load("treadle").shared
    large = shared.ones((ROWS, COLUMNS))
    return figures(pool, None, shared.ones(100), large, large[::2, ::-1], work.noop)


def measure_by_hand(pool: Peer, settings: Figures) -> Figures:
    """As multiprocessing.shared_memory wants it: name, shape and dtype, attached and closed in each task."""
    numpy = load("numpy")
    blocks = [SharedMemory(create=True, size=bytes_) for bytes_ in (800, ROWS * COLUMNS * 8)]
    try:
        for block in blocks:
            numpy.ndarray((block.size // 8,), "f8", block.buf)[:] = 1.0
        small, large = (block.name for block in blocks)
        shape = (ROWS, COLUMNS)
        return figures(pool, None, (small, (100,), None), (large, shape, None), (large, shape, (2, -1)), work.attach)
    finally:
        for block in blocks:
            block.close()
            block.unlink()


def measure_memmap(pool: Peer, settings: Figures) -> Figures:
    """Joblib's way: an array in a file, which workers map."""
    numpy = load("numpy")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        small, large = (
            numpy.memmap(Path(folder, name), "f8", "w+", shape=shape)
            for name, shape in (("small", (100,)), ("large", (ROWS, COLUMNS)))
        )
        large[:] = 1.0
        return figures(pool, None, small, large, large[::2, ::-1], work.noop)


def measure_stored(pool: Peer, settings: Figures) -> Figures:
    """Ray's way: an object of its store, read-only in workers. Of a part there is a copy in the store."""
    numpy, ray = load("numpy"), load("ray")
    large = numpy.ones((ROWS, COLUMNS))
    return figures(pool, None, ray.put(numpy.ones(100)), ray.put(large), ray.put(large[::2, ::-1]), work.noop)


def subjects() -> list[Subject]:
    ways = {"joblib": measure_memmap, "ray": measure_stored, "treadle": measure}
    return [harness.pool_subjects(ways.get(name, measure_by_hand), [name])[0] for name in NAMES]


def times_noop(figure: str, done: Round) -> float:
    return done["treadle"][figure] / done["treadle"]["noop"]


BENCHMARK = harness.Benchmark(
    question="What does it cost to pass an array that workers share?",
    method="Round trips of a call that does nothing, with None, with a shared array of 100 numbers, one of 100 MB, "
    "and with a part of that (`a[::2, ::-1]`), in turns. With the executors of the standard library and loky the array "
    "is made from a `SharedMemory` in each task, by its name, shape and dtype; with joblib it is a `numpy.memmap` in a "
    "file of /dev/shm, with Ray an object of its store.",
    subjects=subjects(),
    columns={"noop": "None, us", "small": "800 bytes, us", "large": "100 MB, us", "part": "a part of it, us"},
    claims=[
        Claim("a shared array of 800 bytes, times a no-op", functools.partial(times_noop, "small"), at_most=1.5),
        Claim("a shared array of 100 MB, times a no-op", functools.partial(times_noop, "large"), at_most=1.5),
        Claim("a part of it with steps, times a no-op", functools.partial(times_noop, "part"), at_most=1.5),
    ],
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
