"""What the tasks do: in an importable module, so that every peer's workers find the functions by name."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def noop(item: object = None) -> None:
    """Nothing: all that is left is what the pool costs."""


def burn(loops: int) -> None:
    """Keeps a CPU busy, without allocating and without giving the GIL away."""
    for _ in range(loops):
        pass


def calibrate() -> float:
    """Loops of `burn` in a microsecond: the best of many short runs, which nothing interrupted."""
    loops = 20_000
    best = min(timed(loops) for _ in range(100))
    return loops / best / 1e6


def timed(loops: int) -> float:
    start = time.perf_counter()
    burn(loops)
    return time.perf_counter() - start


def size(array: Any) -> int:
    """Takes an array, and returns little."""
    return len(array)


def ends(array: Any) -> float:
    """Reads the first element and the last one."""
    return float(array[0] + array[-1])


def double(array: Any) -> Any:
    return array * 2.0


def same(array: Any) -> Any:
    """Takes an array, and returns it."""
    return array


def attach(what: tuple[str, tuple[int, ...], tuple[int, int] | None] | None) -> None:
    """Makes an array, or a part of it, of a block of multiprocessing.shared_memory, and lets go of it."""
    if what is None:
        return
    from multiprocessing import shared_memory

    import numpy

    name, shape, steps = what
    untracked: dict[str, bool] = {"track": False} if sys.version_info >= (3, 13) else {}
    block = shared_memory.SharedMemory(name, **untracked)
    array = numpy.ndarray(shape, "f8", block.buf)
    if steps is not None:
        array = array[:: steps[0], :: steps[1]]
    del array
    block.close()


def read_from(pid: int, descriptor: int) -> None:
    """Waits until something can be read from another process's pipe."""
    with open(f"/proc/{pid}/fd/{descriptor}", "rb", buffering=0) as pipe:
        pipe.read(1)


# --- looking at processes


def descendants() -> list[int]:
    """All children of this process, and theirs."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has left meanwhile
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def pss_bytes(pids: list[int]) -> int:
    """Memory of some processes; a page that n processes share counts 1/n in each."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    return total


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that all threads of some processes have used."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    total += int(file.read().split()[0])
            except OSError:
                continue  # it has left meanwhile
    return total / 1e9


def remember(number: int, text: str) -> int:
    """What a cache is asked for."""
    return number + len(text)


def remember_array(array: Any) -> float:
    return float(array[0])
