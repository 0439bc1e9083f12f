"""CallFuture: the asyncio future that `run` gives. Source of what it does: binding/call.c."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

from .. import _engine

T = TypeVar("T")


class CallFuture(asyncio.Future[T]):
    """An asyncio future of a call in a worker: cancelling it cancels the call, even one that runs."""

    __slots__ = ("_call",)
    _call: _engine.Call

    def cancel(self, msg: Any | None = None) -> bool:
        """As asyncio's; work that is queued is dropped, work that runs is stopped."""
        if not super().cancel(msg):
            return False
        call: _engine.Call | None = getattr(self, "_call", None)
        if call is not None:
            call.cancel()
        return True

    def __await__(self) -> Generator[Any, None, T]:
        return _engine.await_call(self)

    __iter__ = __await__


_engine._use_future(CallFuture, CallFuture.__dict__["_call"], asyncio.Future.__await__)


def wrap(future: _engine.Future[T]) -> asyncio.Future[T]:
    """An asyncio future for one that no worker is at: a thread's, or one that is done."""
    loop = asyncio.get_running_loop()
    if not future.done():
        return asyncio.wrap_future(future, loop=loop)
    wrapped: asyncio.Future[T] = loop.create_future()
    if future.cancelled():
        wrapped.cancel()
    elif (error := future.exception()) is not None:
        wrapped.set_exception(error)
    else:
        wrapped.set_result(future.result())
    return wrapped
