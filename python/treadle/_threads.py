"""ThreadPoolExecutor: the stdlib's, with Treadle's Future (asyncio accepts only a subclass as default executor)."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Callable
from concurrent.futures import thread
from typing import Any, TypeVar

from ._engine import Future

T = TypeVar("T")


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A pool of threads: the stdlib's, whose futures are Treadle's. For work that releases the GIL."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Schedules `fn(*args, **kwargs)` and returns its future."""
        pool: Any = self
        module: Any = thread
        with pool._shutdown_lock, module._global_shutdown_lock:
            if pool._broken:
                raise thread.BrokenThreadPool(pool._broken)
            if pool._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if module._shutdown:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            future: Future[T] = Future()
            if sys.version_info >= (3, 14):
                work = module._WorkItem(future, pool._resolve_work_item_task(fn, args, kwargs))
            else:
                work = module._WorkItem(future, fn, args, kwargs)
            pool._work_queue.put(work)
            pool._adjust_thread_count()
            return future


ThreadPoolExecutor.__module__ = "treadle"
