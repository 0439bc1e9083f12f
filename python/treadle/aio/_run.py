"""`run` where it is more than a submit: options, context variables, and what cannot be run at all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from .. import _engine

if TYPE_CHECKING:
    from .._executor import ProcessPoolExecutor
    from .._options import TaskOptions
    from .._threads import ThreadPoolExecutor

T = TypeVar("T")


def check(fn: Any, method: str = "run()") -> None:
    """Refuses what would only make a coroutine or a generator in the worker."""
    name = getattr(fn, "__qualname__", None) or repr(fn)
    if inspect.iscoroutine(fn):
        fn.close()
        raise TypeError(
            f"{method} was given a coroutine, {name}(...): await it in this process; what runs in a worker is a plain "
            "function, given without being called"
        )
    call = getattr(fn, "__call__", None)  # noqa: B004 - what an object's own is
    if inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(call):
        raise TypeError(
            f"{method} was given the asynchronous generator function {name!r}: treadle.aio.stream({name}, ...) runs "
            "it in a worker, and its items come back one by one"
        )
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call):
        raise TypeError(
            f"{method} was given the coroutine function {name!r}, of which a worker would only make a coroutine: call "
            f"`await {name}(...)` in this process, or, to have a worker run it, give it a plain function that calls "
            f"asyncio.run({name}(...))"
        )


def carry(fn: Callable[..., T], variables: Iterable[ContextVar[Any]]) -> Callable[..., T]:
    """The function that workers call, with the context variables as they are now."""
    if not variables:
        return fn
    from .. import _variables

    return _variables.Carrying(fn, variables)


def run(
    pool: ProcessPoolExecutor,
    fn: Callable[..., T],
    /,
    *args: Any,
    context: Iterable[ContextVar[Any]] = (),
    **kwargs: Any,
) -> asyncio.Future[T]:
    """A process pool's, for all that binding/call.c does not see to itself."""
    check(fn)
    return pool._run(carry(fn, context), args, kwargs)


def run_submitted(
    pool: ProcessPoolExecutor | TaskOptions | ThreadPoolExecutor,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Iterable[ContextVar[Any]] = (),
) -> asyncio.Future[T]:
    """The same by way of submit, for pools and views whose submit is not the engine's own."""
    check(fn)
    asyncio.get_running_loop()
    future: _engine.Future[T] = pool.submit(carry(fn, context), *args, **kwargs)
    return _engine.follow(future)
