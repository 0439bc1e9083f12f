"""`to_process` and `to_thread`: one call elsewhere, on pools that the whole program shares."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .._engine import Future
from .._executor import ProcessPoolExecutor
from .._threads import ThreadPoolExecutor

T = TypeVar("T")

_lock = threading.Lock()
_processes: ProcessPoolExecutor | None = None
_threads: ThreadPoolExecutor | None = None


def processes() -> ProcessPoolExecutor:
    """The program's process pool, made at its first use, with a worker for each CPU of the budget."""
    global _processes
    with _lock:
        if _processes is None or _processes._closed or _processes._forked:
            _processes = ProcessPoolExecutor()
        return _processes


def threads() -> ThreadPoolExecutor:
    """The program's thread pool, made at its first use."""
    global _threads
    with _lock:
        if _threads is None or _threads._shutdown:
            _threads = ThreadPoolExecutor(thread_name_prefix="treadle-aio")
        return _threads


def _forget() -> None:
    """In a forked child, whose threads are the parent's."""
    global _lock, _processes, _threads
    _lock = threading.Lock()
    _processes = _threads = None


def to_process(
    fn: Callable[..., T], /, *args: Any, context: Iterable[contextvars.ContextVar[Any]] = (), **kwargs: Any
) -> asyncio.Future[T]:
    """`fn(*args, **kwargs)` in a worker process of the program's pool, which is made at the first call.

    For work that computes. A pool of your own has options, and an end: `pool.run`.

    Args:
        fn: A plain function.
        *args: Its arguments: copied.
        context: Context variables, defined at a module's top level, whose values the call has.
        **kwargs: Its keyword arguments.

    Returns:
        An asyncio future; cancelling it stops the call.

    Raises:
        TypeError: fn is a coroutine function.

    Source: python/treadle/aio/_places.py.
    """
    return processes().run(fn, *args, context=context, **kwargs)


def to_thread(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]:
    """`fn(*args, **kwargs)` in a thread of the program's pool, with this context's variables.

    For what blocks: files, name servers, libraries without a coroutine. As `asyncio.to_thread`, but the work begins
    with the call; what runs cannot be cancelled.

    Args:
        fn: A plain function.
        *args: Its arguments, as they are.
        **kwargs: Its keyword arguments.

    Returns:
        An asyncio future.

    Raises:
        TypeError: fn is a coroutine function.

    Source: python/treadle/aio/_places.py.
    """
    from ._run import check

    check(fn, "to_thread()")
    loop = asyncio.get_running_loop()
    run: Any = contextvars.copy_context().run
    future: Future[T] = threads().submit(run, fn, *args, **kwargs)
    return asyncio.wrap_future(future, loop=loop)


def _register() -> None:
    import os

    os.register_at_fork(after_in_child=_forget)


_register()
