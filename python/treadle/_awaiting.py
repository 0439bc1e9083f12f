"""Pools in coroutines: `async with`, and `run` for those whose submit is not the engine's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import asyncio
    from contextvars import ContextVar

T = TypeVar("T")


class AsyncContext:
    """`async with pool:` ends the pool as `with` does, and the event loop goes on meanwhile."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from .aio import _closing

        await _closing.close(self, kind)


class RunSubmitted:
    """`run` by way of `submit`."""

    def run(
        self, fn: Callable[..., T], /, *args: Any, context: Iterable[ContextVar[Any]] = (), **kwargs: Any
    ) -> asyncio.Future[T]:
        """Calls `fn(*args, **kwargs)` where `submit` does, for `await` in a coroutine; an asyncio future of it.

        Cancelling it cancels the call, as far as it can be.

        Args:
            fn: What is called: a plain function.
            *args: Its arguments.
            context: Context variables, defined at a module's top level, whose values the call has.
            **kwargs: Its keyword arguments.

        Raises:
            TypeError: fn is a coroutine function.
            RuntimeError: no event loop runs in this thread.
        """
        from .aio import _run

        return _run.run_submitted(self, fn, args, kwargs, context)  # type: ignore[arg-type]
