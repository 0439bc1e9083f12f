"""`map`, `gather` and `as_completed` with a limit: no more is begun than there is room for."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from .._executor import ProcessPoolExecutor
    from .._options import TaskOptions
    from .._threads import ThreadPoolExecutor

T = TypeVar("T")
S = TypeVar("S")


def check_limit(limit: int) -> int:
    """A positive number."""
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit must be an int, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return limit


class _Source(Generic[S]):
    """Items one by one, of an iterable or an asynchronous one, of which the next is fetched meanwhile."""

    def __init__(self, items: Iterable[S] | AsyncIterable[S]) -> None:
        self.ended = False
        self.fetching: asyncio.Future[S] | None = None
        self.later: AsyncIterator[S] | None = None
        if isinstance(items, AsyncIterable):
            self.later = aiter(items)
        else:
            self.now = iter(items)

    def take(self) -> list[S]:
        """The next item, if it is there."""
        try:
            if self.later is None:
                return [next(self.now)]
            if self.fetching is None:
                self.fetching = asyncio.ensure_future(_anext(self.later))
            if not self.fetching.done():
                return []
            fetched, self.fetching = self.fetching, None
            return [fetched.result()]
        except (StopIteration, StopAsyncIteration):
            self.ended = True
            return []

    async def wait(self) -> None:
        """Until the item is there that is being fetched."""
        if self.fetching is not None:
            await asyncio.wait([self.fetching])

    async def close(self) -> None:
        """Lets go of what is being fetched."""
        self.ended = True
        if self.fetching is not None:
            fetching, self.fetching = self.fetching, None
            await _cancel([fetching])
        end: Any = getattr(self.later, "aclose", None)
        if end is not None:
            await end()


async def _anext(items: AsyncIterator[S]) -> S:
    return await anext(items)


async def _cancel(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels them, and waits until they have ended; what they raise is of no interest any more."""
    left = list(futures)
    for future in left:
        future.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class _Window(Generic[S, T]):
    """What is under way: at most `limit` at a time, begun as items come."""

    def __init__(
        self, begin: Callable[[S], asyncio.Future[T]], items: Iterable[S] | AsyncIterable[S], limit: int, ordered: bool
    ) -> None:
        self.begin = begin
        self.source = _Source(items)
        self.limit = limit
        self.ordered = ordered
        self.running: dict[asyncio.Future[T], None] = {}
        self.done: deque[asyncio.Future[T]] = deque()
        self.news = asyncio.Event()

    def finish(self, future: asyncio.Future[T]) -> None:
        self.done.append(future)
        self.news.set()

    def fill(self) -> None:
        while not self.source.ended and len(self.running) < self.limit:
            for item in self.source.take():
                future = self.begin(item)
                self.running[future] = None
                if not self.ordered:
                    future.add_done_callback(self.finish)
                break
            else:
                return

    async def next(self) -> asyncio.Future[T] | None:
        """The next future that is done: the oldest, or whichever is. None: there is none any more."""
        while True:
            self.fill()
            if self.done:
                future = self.done.popleft()
            elif not self.running:
                if self.source.ended:
                    return None
                await self.source.wait()
                continue
            elif self.ordered:
                future = next(iter(self.running))
                if not await self.is_over(future):
                    continue
            else:
                self.news.clear()
                await self.wait_for_news()
                continue
            del self.running[future]
            return future

    async def is_over(self, future: asyncio.Future[T]) -> bool:
        """Waits for it, or for another item where there is room for one."""
        fetching = self.source.fetching if len(self.running) < self.limit else None
        if future.done():
            return True
        if fetching is not None:
            either: list[asyncio.Future[Any]] = [future, fetching]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return future.done()
        try:
            await future
        except asyncio.CancelledError:
            if not future.done():
                raise
        except Exception:
            pass  # whoever asked for it will see
        return True

    async def wait_for_news(self) -> None:
        fetching = self.source.fetching if len(self.running) < self.limit else None
        if fetching is None:
            await self.news.wait()
            return
        fetching.add_done_callback(self.hear)
        try:
            await self.news.wait()
        finally:
            fetching.remove_done_callback(self.hear)

    def hear(self, _: object) -> None:
        self.news.set()

    async def close(self) -> None:
        """Cancels what is under way."""
        await _cancel(self.running)
        self.running.clear()
        await self.source.close()


async def _results(window: _Window[S, T]) -> AsyncIterator[T]:
    try:
        while (future := await window.next()) is not None:
            yield future.result()
    finally:
        await window.close()


def map(
    fn: Callable[[S], Awaitable[T]] | Callable[[S], T],
    items: Iterable[S] | AsyncIterable[S],
    *,
    limit: int,
    ordered: bool = True,
    pool: ProcessPoolExecutor | TaskOptions | ThreadPoolExecutor | None = None,
) -> AsyncIterator[T]:
    """`fn(item)` for each item, at most `limit` at a time, as an asynchronous iterator.

    A coroutine function is called here; a plain function by the workers of a pool. Items are read as there is room for
    them, so that an endless iterable works, and results that nobody takes hold back what has not begun. An item's
    error is raised at the item's place; it ends the iteration, and cancels what is under way, as leaving the loop does
    once the iterator is closed.

    Args:
        fn: A coroutine function, or a plain one.
        items: An iterable, or an asynchronous one.
        limit: How many calls may be under way, or done and not taken.
        ordered: False gives results as they come.
        pool: Where plain functions are called; the program's process pool by default.

    Raises:
        TypeError, ValueError: limit is not a positive int, or items is not iterable.

    Source: python/treadle/aio/_work.py.
    """
    check_limit(limit)
    begin: Any = fn
    if inspect.iscoroutinefunction(fn):

        def begin_here(item: S) -> asyncio.Future[T]:
            return asyncio.ensure_future(fn(item))

        begin = begin_here
    else:
        if pool is None:
            from ._places import processes

            pool = processes()
        begin = partial(pool.run, fn)
    return _results(_Window(begin, items, limit, ordered))


async def gather(*awaitables: Awaitable[Any], limit: int, return_exceptions: bool = False) -> list[Any]:
    """`asyncio.gather` of which at most `limit` are under way at a time.

    Coroutines begin in their order, as there is room; futures are under way already. The first error cancels what is
    left, unlike asyncio's, and is raised when that has ended.

    Args:
        *awaitables: Coroutines, tasks and futures.
        limit: How many may be under way.
        return_exceptions: Errors take their places among the results.

    Returns:
        The results, in the order of the awaitables.

    Raises:
        TypeError, ValueError: limit is not a positive int.

    Source: python/treadle/aio/_work.py.
    """
    check_limit(limit)
    left = deque(awaitables)

    def feed() -> Iterable[Awaitable[Any]]:
        while left:
            yield left.popleft()

    results: list[Any] = []
    window: _Window[Awaitable[Any], Any] = _Window(asyncio.ensure_future, feed(), limit, True)
    try:
        while (future := await window.next()) is not None:
            if return_exceptions:
                error = asyncio.CancelledError() if future.cancelled() else future.exception()
                results.append(error if error is not None else future.result())
            else:
                results.append(future.result())
    finally:
        await window.close()
        for awaitable in left:
            if inspect.iscoroutine(awaitable):
                awaitable.close()  # never begun: no warning that it was not awaited
    return results


async def as_completed(
    awaitables: Iterable[Awaitable[T]] | AsyncIterable[Awaitable[T]], *, limit: int
) -> AsyncIterator[asyncio.Future[T]]:
    """Futures as they are done, of awaitables that are read as there is room for them.

    Args:
        awaitables: Coroutines or futures; a generator of them makes each when it is its turn.
        limit: How many may be under way, or done and not taken.

    Yields:
        Futures that are done: `await future`, or `future.result()`.

    Raises:
        TypeError, ValueError: limit is not a positive int.

    Source: python/treadle/aio/_work.py.
    """
    check_limit(limit)
    window: _Window[Awaitable[T], T] = _Window(asyncio.ensure_future, awaitables, limit, False)
    try:
        while (future := await window.next()) is not None:
            yield future
    finally:
        await window.close()
