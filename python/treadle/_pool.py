"""Pool: `multiprocessing.Pool`'s interface over the same engine."""

from __future__ import annotations

import functools
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from . import _launch
from ._engine import MapIterator, wait
from ._errors import TreadleError
from ._executor import ProcessPoolExecutor
from ._maps import MapCall

T = TypeVar("T")
Callback = Callable[[Any], object]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"


class PoolTimeout(TreadleError, multiprocessing.TimeoutError, TimeoutError):
    """A result was not there in time."""


class Pool:
    """A pool of worker processes: `multiprocessing.Pool`'s interface, on Treadle's engine.

    Args:
        processes: How many at most; the CPU budget by default.
        initializer: Called once in each worker before its first task, with `initargs`.
        maxtasksperchild: After so many tasks a worker leaves, and another takes its place.
        context: A multiprocessing context, of which the start method is used.
        options: Keyword arguments of ProcessPoolExecutor.

    A worker that dies fails the task it ran with WorkerDied; with the stdlib's pool, `get` would wait for ever.
    `imap` and `imap_unordered` read an iterable without a length only as fast as workers need it.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type; also from every method that submits,
            when the pool is closed.

    Source: python/treadle/_pool.py.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: _launch.StartContext | None = None,
        **options: Any,
    ) -> None:
        self._state = ""
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._executor = ProcessPoolExecutor(processes, context, initializer, tuple(initargs), **options)
        # Not by the constructor, which refuses it together with fork, as the stdlib's executor does.
        self._executor._max_tasks = maxtasksperchild or 0
        self._state = RUN

    # --- one call

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """`func(*args, **kwds)` in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """`func(*args, **kwds)` in a worker, without waiting.

        The callbacks get the result, or what was raised, in a thread of this process.
        """
        self._check_running()
        return AsyncResult([self._executor.submit(func, *args, **kwds)], first_value, callback, error_callback)

    # --- many calls

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        """`list(map(func, iterable))` in the workers."""
        return self._map(func, iterable, False, chunksize)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        """`list(itertools.starmap(func, iterable))` in the workers."""
        return self._map(func, iterable, True, chunksize)

    def _map(self, func: Callable[..., T], iterable: Iterable[Any], star: bool, chunksize: int | None) -> list[T]:
        self._check_running()
        size = max(1, chunksize) if chunksize is not None else None
        results = self._executor._start_map(MapCall(func, (iterable,), star, chunksize=size, keep_going=True))
        values: list[T] = []
        failure: Exception | None = None
        # One that raises doesn't keep the others from being called; the first is raised at the end.
        while True:
            try:
                values.extend(results)
            except Exception as error:
                failure = failure or error
            else:
                break
        if failure is not None:
            raise failure
        return values

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """`map` without waiting."""
        return self._map_async(call_each, func, iterable, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """`starmap` without waiting."""
        return self._map_async(star_each, func, iterable, chunksize, callback, error_callback)

    def _map_async(
        self,
        call: Callable[..., list[Any]],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> AsyncResult[list[Any]]:
        self._check_running()
        items = iterable if isinstance(iterable, (list, tuple)) else list(iterable)
        if chunksize is None:
            chunksize = -(-len(items) // (self._executor._max_workers * 4))
        size = max(1, chunksize)
        rest = iter(items)
        chunks = iter(lambda: list(islice(rest, size)), [])
        task = functools.partial(call, func)
        futures = [self._executor.submit(task, chunk) for chunk in chunks]
        return AsyncResult(futures, all_values, callback, error_callback)

    def imap(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[T]:
        """The results of `map`, one by one; one that raises doesn't end it."""
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[T]:
        """The results of `map` as they come."""
        return self._imap(func, iterable, chunksize, False)

    def _imap(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int, ordered: bool
    ) -> IMapIterator[T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        # All of it at once where that is possible, so that close() and join() may come before the results are read.
        window = max(1, len(iterable)) if isinstance(iterable, Sized) else None
        size = chunksize if chunksize > 1 else None  # 1 is the default: then it adapts
        call = MapCall(func, (iterable,), chunksize=size, buffersize=window, ordered=ordered, keep_going=True)
        return IMapIterator(self._executor._start_map(call))

    # --- the end

    def close(self) -> None:
        """No more tasks; what was submitted is finished."""
        if self._state == RUN:
            self._state = CLOSE
            self._executor.shutdown(wait=False)

    def terminate(self) -> None:
        """Ends the workers without finishing what they do."""
        if self._state:
            self._state = TERMINATE
            self._executor._interrupt()

    def join(self) -> None:
        """Waits until the workers are gone; `close` or `terminate` comes first."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._executor.shutdown(wait=True)

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == RUN:
            # The stdlib's words, which its users filter by.
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<treadle.Pool state={self._state} pool_size={self._executor._max_workers}>"

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")


class AsyncResult(Generic[T]):
    """What `apply_async` and `map_async` return."""

    def __init__(
        self,
        futures: Sequence[Future[Any]],
        value: Callable[[Sequence[Future[Any]]], T],
        callback: Callable[[T], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._futures = futures
        self._value = value
        self._callback = callback
        self._error_callback = error_callback
        self._called: threading.Event | None = None
        if callback or error_callback:
            self._observe()

    def _observe(self) -> None:
        # With callbacks a result is ready when they have returned.
        self._called = threading.Event()
        left = threading.Semaphore(len(self._futures) - 1) if self._futures else None
        if left is None:
            self._called.set()
            return

        def one_is_done(_: Future[Any]) -> None:
            if not left.acquire(blocking=False):
                self._call_back()

        for future in self._futures:
            future.add_done_callback(one_is_done)

    def _call_back(self) -> None:
        assert self._called is not None
        try:
            try:
                value = self._value(self._futures)
            except BaseException as error:
                if self._error_callback:
                    self._error_callback(error)
            else:
                if self._callback:
                    self._callback(value)
        finally:
            self._called.set()

    def ready(self) -> bool:
        """Has it ended?"""
        if self._called is not None:
            return self._called.is_set()
        return all(future.done() for future in self._futures)

    def successful(self) -> bool:
        """Did it end without raising?

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return all(not future.cancelled() and future.exception() is None for future in self._futures)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it has ended, at most so many seconds."""
        if self._called is not None:
            self._called.wait(timeout)
        else:
            wait(self._futures, timeout)

    def get(self, timeout: float | None = None) -> T:
        """The result, or what the call raised.

        Raises:
            PoolTimeout: it has not ended in so many seconds; a `multiprocessing.TimeoutError`.
        """
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeout(f"no result after {timeout} s")
        return self._value(self._futures)


ApplyResult = MapResult = AsyncResult


class IMapIterator(Generic[T]):
    """What `imap` and `imap_unordered` return."""

    def __init__(self, results: MapIterator[T]) -> None:
        self._results = results

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._results)

    def next(self, timeout: float | None = None) -> T:
        """The next result.

        Raises:
            PoolTimeout: it is not there in so many seconds; it can be asked for again.
        """
        if timeout is None:
            return next(self._results)
        try:
            return self._results.next(timeout)
        except TimeoutError as error:
            raise PoolTimeout(f"no result after {timeout} s") from error


def call_each(func: Callable[[Any], T], items: list[Any]) -> list[T]:
    """A chunk of `map`, in the worker."""
    return list(map(func, items))


def star_each(func: Callable[..., T], items: list[Iterable[Any]]) -> list[T]:
    """A chunk of `starmap`, in the worker."""
    return [func(*item) for item in items]


def first_value(futures: Sequence[Future[T]]) -> T:
    """The only future's result."""
    return futures[0].result()


def all_values(futures: Sequence[Future[list[T]]]) -> list[T]:
    """The chunks' results in one list."""
    values: list[T] = []
    for future in futures:
        values += future.result()
    return values
