"""`map` and `starmap` as users call them, for pools and for views of them. What runs them is in C: binding/map.c."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class MapCall(Generic[T]):
    """One call of `map`, or of `starmap`. No NamedTuple, which would take 2 ms to define."""

    def __init__(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        star: bool = False,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        keep_going: bool = False,
    ) -> None:
        self.fn = fn
        self.iterables = iterables
        self.star = star
        self.timeout = timeout
        self.chunksize = chunksize
        self.buffersize = buffersize
        self.ordered = ordered
        self.keep_going = keep_going
        """Whether the iterator goes on after an item that raised."""

    def check(self) -> None:
        """Refuses options that make no sense, in the stdlib's words."""
        if self.chunksize is not None and self.chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if self.buffersize is not None and not isinstance(self.buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if self.buffersize is not None and self.buffersize < 1:
            raise ValueError("buffersize must be None or > 0")


class Maps:
    """The two methods; a class that has them says how a call is started."""

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> Iterator[T]:
        """`map(fn, *iterables)` in the workers.

        Items are read as workers need them, so that an infinite iterable works; abandoning the iterator cancels what
        has not run. An item's error is raised at the item's place, and ends the iteration.

        Args:
            fn: What is called in the workers.
            *iterables: Its arguments, as for the built-in `map`.
            timeout: Seconds from this call on, after which `__next__` raises TimeoutError.
            chunksize: Items in one task; by default it adapts to the time that an item takes.
            buffersize: How many items may be under way; by default enough to keep all workers busy.
            ordered: False gives results as they come.

        Raises:
            ValueError, TypeError: chunksize or buffersize is not a positive integer.
            PoolClosed: the pool is shut down.
        """
        return self._start_map(MapCall(fn, iterables, False, timeout, chunksize, buffersize, ordered))

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> Iterator[T]:
        """`itertools.starmap(fn, iterable)` in the workers; the arguments are those of `map`."""
        return self._start_map(MapCall(fn, (iterable,), True, timeout, chunksize, buffersize, ordered))

    def _start_map(self, call: MapCall[T]) -> Iterator[T]:
        raise NotImplementedError
