"""ThreadPoolExecutor: the stdlib's interface over the engine's queue (binding/threads.c).

A subclass of the stdlib's class, because asyncio takes nothing else as a loop's default executor. Of that class it
keeps the constructor's checks and `map`; calls, futures and threads are ours.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from typing import Any, TypeVar

from . import _awaiting, _engine, _options
from ._engine import Future

T = TypeVar("T")

_LOG = logging.getLogger("concurrent.futures")
_at_exit = False
_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


class _Crew:
    """The threads of one executor. They hold this, never the executor, so that one that is let go of can end."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        size: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.executor = weakref.ref(executor)
        self.prefix = prefix
        self.initializer = initializer
        self.initargs = initargs
        self.threads: set[threading.Thread] = set()
        self.broken = ""
        self.queue = _engine.ThreadQueue(size, self.start, self.refuse)
        _crews.add(self)

    def start(self) -> None:
        name = f"{self.prefix}_{len(self.threads)}"
        thread = threading.Thread(name=name, target=self.serve)
        self.threads.add(thread)
        try:
            thread.start()
        except BaseException:
            self.threads.discard(thread)
            raise

    def serve(self) -> None:
        if self.initializer is not None:
            try:
                self.initializer(*self.initargs)
            except BaseException:
                _LOG.critical("Exception in initializer:", exc_info=True)
                self.fail()
                return
        self.queue.serve()

    def fail(self) -> None:
        self.broken = "A thread initializer failed, the thread pool is not usable anymore"
        executor = self.executor()
        if executor is not None:
            # As in the stdlib: False, or the reason.
            executor._broken = self.broken  # type: ignore[assignment]
        for future in self.queue.close(cancel=True):
            if future.set_running_or_notify_cancel():
                future.set_exception(BrokenThreadPool(self.broken))

    def refuse(self) -> None:
        if self.broken:
            raise BrokenThreadPool(self.broken)
        if _at_exit:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        raise RuntimeError("cannot schedule new futures after shutdown")

    def join(self) -> None:
        for thread in tuple(self.threads):
            if thread is not threading.current_thread():
                thread.join()


def _end_all() -> None:
    """At interpreter exit: work that was accepted is finished, as the stdlib does."""
    global _at_exit
    _at_exit = True
    crews = list(_crews)
    for crew in crews:
        crew.queue.close()
    for crew in crews:
        crew.join()


threading._register_atexit(_end_all)  # type: ignore[attr-defined]


class ThreadPoolExecutor(_awaiting.RunSubmitted, _awaiting.AsyncContext, concurrent.futures.ThreadPoolExecutor):
    """A pool of threads with `concurrent.futures.ThreadPoolExecutor`'s interface and Treadle's `Future`.

    For work that releases the GIL (I/O, NumPy, compression) and for free-threaded Python. `max_workers` defaults to
    the CPU budget + 4, at most 32; threads start as they are needed. Raises what the stdlib's class raises.
    Source: binding/threads.c, python/treadle/_threads.py.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = min(32, _options.cpu_budget() + 4)
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)
        prefix: str = getattr(self, "_thread_name_prefix")  # noqa: B009 - private to the base class
        self._crew = _Crew(self, max_workers, prefix, initializer, initargs)
        self._threads = self._crew.threads
        self._work_queue: Any = self._crew.queue  # its length is what others look at
        if type(self).submit is ThreadPoolExecutor.submit:
            self.submit = self._crew.queue.submit  # type: ignore[method-assign]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Has a thread call `fn(*args, **kwargs)`; the Future of the outcome. Nothing is copied.

        Raises:
            RuntimeError: after `shutdown`, or at the interpreter's end.
            BrokenThreadPool: an initializer raised.
        """
        return self._crew.queue.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; waits for those accepted unless told otherwise. Cancels those not begun if asked."""
        self._shutdown = True
        for future in self._crew.queue.close(cancel=cancel_futures):
            future.cancel()
            future.set_running_or_notify_cancel()
        if wait:
            self._crew.join()

    def __del__(self) -> None:
        crew = getattr(self, "_crew", None)
        if crew is not None:
            crew.queue.close()


ThreadPoolExecutor.__module__ = "treadle"
