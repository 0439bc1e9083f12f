"""How tasks are put together: as many at once as take a few milliseconds, and what a worker does with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice, repeat, starmap
from operator import is_
from typing import Any

from ._delayed import Task

IDEAL_S = 0.01
"""What a batch should take: a hundred times what it costs to send one."""
TOO_LONG_S = 0.1
GROWTH = 16
MOST = 8192
FLOOR_S = 1e-7

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Sizes:
    """How many tasks go into a batch: a number that was given, or what the times of those before suggest."""

    def __init__(self, given: int | str, adapts: bool, say: Callable[[str], object] | None) -> None:
        self.adapts = given == "auto" and adapts
        self.size = 1 if given == "auto" else int(given)
        self._say = say
        self._each_s = 0.0

    def note(self, tasks: int, seconds: float) -> None:
        """A batch of so many tasks took so long in its worker."""
        if not self.adapts:
            return
        each = max(seconds / tasks, FLOOR_S)
        self._each_s = 0.8 * self._each_s + 0.2 * each if self._each_s else each
        batch_s = self._each_s * self.size
        if IDEAL_S / 2 <= batch_s <= TOO_LONG_S or (batch_s > TOO_LONG_S and self.size == 1):
            return
        size = max(1, min(int(IDEAL_S / self._each_s), GROWTH * self.size, MOST))
        if size == self.size:
            return
        if self._say is not None:
            speed = "fast" if size > self.size else "slow"
            self._say(f"Batch computation too {speed} ({batch_s}s.) Setting batch_size={size}.")
        self.size = size
        self._each_s = 0.0  # a new size is measured anew


class Slices:
    """Cuts an iterator of tasks into batches."""

    def __init__(self, sizes: Sizes, n_jobs: int) -> None:
        self._sizes = sizes
        self._n_jobs = n_jobs
        self._ready: deque[list[Task]] = deque()

    def next(self, tasks: Iterator[Task], is_all: bool) -> list[Task] | None:
        """The next batch, or None at the end.

        Batches for all workers are read at once; if that is not enough for all (and `is_all`: nothing comes after this
        iterator), they are cut smaller, so that the workers finish together.
        """
        if not self._ready:
            wanted = self._sizes.size * self._n_jobs
            read = list(islice(tasks, wanted))
            pieces = self._n_jobs * 10 if is_all and len(read) < wanted else self._n_jobs
            size = max(1, len(read) // pieces)
            self._ready.extend(read[start : start + size] for start in range(0, len(read), size))
        return self._ready.popleft() if self._ready else None

    def clear(self) -> None:
        """Drops what was read and not asked for."""
        self._ready.clear()


def pack(tasks: list[Task]) -> Call:
    """The tasks as one call, as short as they allow; its result is the list of theirs."""
    functions, args, kwargs = zip(*tasks, strict=True)
    function = functions[0]
    if any(kwargs) or not all(map(is_, functions, repeat(function))):
        return call_tasks, (tasks,)
    if all(map((1).__eq__, map(len, args))):
        return call_each, (function, [value for (value,) in args])
    return call_star, (function, list(args))


# --- in the worker


def call_tasks(tasks: list[Task]) -> list[Any]:
    """Tasks of any kind."""
    return [function(*args, **kwargs) for function, args, kwargs in tasks]


def call_each(function: Callable[..., Any], values: list[Any]) -> list[Any]:
    """One function with one argument each."""
    return list(map(function, values))


def call_star(function: Callable[..., Any], args: list[tuple[Any, ...]]) -> list[Any]:
    """One function with several arguments each."""
    return list(starmap(function, args))
