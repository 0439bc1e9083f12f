"""What does a block of shared memory cost?"""

from __future__ import annotations

import functools
import importlib
import statistics
import time
from typing import Any

import harness
from harness import Claim, Figures, Round, Subject

BATCHES, TIMES = 15, 300
LARGE_MIB = 64
MODULES = {"treadle": "treadle.shared_memory", "stdlib": "multiprocessing.shared_memory"}


def life(block_class: Any, size: int, fill: bytes | None = None) -> float:
    """Seconds from making a block to its end."""
    start = time.perf_counter()
    block = block_class(create=True, size=size)
    if fill is not None:
        block.buf[:] = fill
    block.close()
    block.unlink()
    return time.perf_counter() - start


def median_life(block_class: Any, size: int) -> float:
    """The median over batches, so that what happens to one of them does not count."""
    batches = [sum(life(block_class, size) for _ in range(TIMES)) / TIMES for _ in range(BATCHES)]
    return statistics.median(batches)


def measure(module: str, settings: Figures) -> Figures:
    block_class = importlib.import_module(module).SharedMemory
    with_first = block_class(create=True, size=1)  # whoever helps in the background is there, and stays
    fill = bytes(LARGE_MIB << 20)
    figures = {
        "small": median_life(block_class, 4096) * 1e6,
        "large": statistics.median(life(block_class, LARGE_MIB << 20) for _ in range(9)) * 1e6 / LARGE_MIB,
        "filled": statistics.median(life(block_class, LARGE_MIB << 20, fill) for _ in range(9)) * 1e6 / LARGE_MIB,
    }
    with_first.close()
    with_first.unlink()
    return figures


def ratio(done: Round) -> float:
    return done["treadle"]["small"] / done["stdlib"]["small"]


BENCHMARK = harness.Benchmark(
    question="What does a block of shared memory cost?",
    method="A block is made, closed and unlinked, with one other in use all the time: of 4 KiB; of "
    f"{LARGE_MIB} MiB, per MiB; and of as much, filled once. Treadle allocates all of a block when it is made, so that "
    "a full memory file system is an error there, and not a bus error later; the stdlib's gets its pages as they are "
    "written.",
    subjects=[Subject(name, functools.partial(measure, module)) for name, module in MODULES.items()],
    columns={"small": "4 KiB, us", "large": "untouched, us per MiB", "filled": "filled, us per MiB"},
    claims=[Claim("SharedMemory of 4 KiB, made, closed and unlinked, times the stdlib's", ratio, at_most=0.6)],
    rounds=9,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
