"""`run_sync`: a call in a worker process, from whatever event loop anyio runs on: asyncio's or Trio's."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from .. import _engine
from ._places import processes
from ._run import check

if TYPE_CHECKING:
    from .._executor import ProcessPoolExecutor

T = TypeVar("T")


class _Desk:
    """The inbox of a loop that is not asyncio's. One of those who wait polls it, for all of them."""

    def __init__(self) -> None:
        self.inbox = _engine.Inbox(None)
        self.waiting: list[Any] = []  # anyio events
        self.polled = False

    async def wait(self, future: _engine.Future[Any]) -> None:
        """Returns when the future is done."""
        anyio = import_module("anyio")
        done = anyio.Event()
        if not self.inbox.follow(future, done.set):
            return
        self.waiting.append(done)
        try:
            while not future.done():
                if self.polled:
                    await done.wait()  # until it is, or it is our turn to poll
                    done = self._renew(done)
                    continue
                self.polled = True
                try:
                    await anyio.wait_readable(self.inbox.fileno())
                    self.inbox.ring()
                finally:
                    self.polled = False
        finally:
            self.waiting.remove(done)
            if self.waiting and not self.polled:
                self.waiting[0].set()

    def _renew(self, done: Any) -> Any:
        place = self.waiting.index(done)
        self.waiting[place] = import_module("anyio").Event()
        return self.waiting[place]


_desk: Any = None
"""An anyio RunVar: each loop's desk."""


def _desk_here() -> _Desk:
    global _desk
    if _desk is None:
        _desk = import_module("anyio.lowlevel").RunVar("treadle_desk")
    desk: _Desk | None = _desk.get(None)
    if desk is None:
        desk = _Desk()
        _desk.set(desk)
    return desk


async def run_sync(fn: Callable[..., T], /, *args: Any, pool: ProcessPoolExecutor | None = None) -> T:
    """`fn(*args)` in a worker process, under Trio and whatever else anyio runs on.

    As `anyio.to_process.run_sync`, and cancelling stops the call.

    Args:
        fn: A plain function.
        *args: Its arguments: copied.
        pool: Where it is called; the program's process pool by default.

    Returns:
        What the function returns.

    Raises:
        TypeError: fn is a coroutine function.
        ModuleNotFoundError: anyio is not installed.

    Source: python/treadle/aio/_anyio.py.
    """
    check(fn, "run_sync()")
    pool = pool or processes()
    if _get_running_loop() is not None:
        return await pool.run(fn, *args)
    future = pool.submit(fn, *args)
    try:
        await _desk_here().wait(future)
    except BaseException:
        future.cancel(force=True)
        raise
    return future.result()
