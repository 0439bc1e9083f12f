"""TaskGroup: asyncio's, with CPU work among its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .._executor import ProcessPoolExecutor
    from .._options import TaskOptions

T = TypeVar("T")


class TaskGroup(asyncio.TaskGroup):
    """`asyncio.TaskGroup` whose `cpu` has a worker call a function.

    When one of the group's tasks fails, the others are cancelled, and with them the work that runs in workers.

    Args:
        pool: Where `cpu` calls functions; the program's process pool by default.

    Source: python/treadle/aio/_group.py.
    """

    __module__ = "treadle.aio"

    def __init__(self, pool: ProcessPoolExecutor | TaskOptions | None = None) -> None:
        super().__init__()
        self._pool = pool

    def cpu(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Task[T]:
        """`fn(*args, **kwargs)` in a worker, as a task of this group; `context` is `run`'s.

        Returns:
            The task.

        Raises:
            TypeError: fn is a coroutine function.
        """
        from ._run import check

        check(fn, "cpu()")
        if self._pool is None:
            from ._places import processes

            self._pool = processes()
        return self.create_task(_wait(self._pool, fn, args, kwargs))


async def _wait(pool: Any, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    result: T = await pool.run(fn, *args, **kwargs)
    return result
