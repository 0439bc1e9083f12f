"""TREADLE_INLINE=1: every task runs in the caller, at its submit, so that debuggers and profilers see it.

Futures are done when `submit` returns. Nothing is pickled, timeouts and retries don't apply, and no process starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import _errors, _lifetime
from ._awaiting import RunSubmitted
from ._engine import Future

if TYPE_CHECKING:
    from ._executor import ProcessPoolExecutor
    from ._maps import MapCall
    from ._options import TaskOptions

    class Base(RunSubmitted, ProcessPoolExecutor):
        """What it is put before."""
else:
    Base = RunSubmitted

T = TypeVar("T")


class InlineExecutor(Base):
    """Put before the pool's class."""

    def _begin(self) -> None:
        with self._lock:
            self._check_open()
            if self._started:
                return
            self._started = True
            if self._initializer is not None:
                self._initializer(*self._initargs)

    def _check_open(self) -> None:
        if self._closed or _lifetime.exiting:
            raise _errors.pool_closed()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Calls the function here and now."""
        return self._submit_with(fn, args, kwargs, self.options())

    def _submit_with(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> Future[T]:
        self._check_open()
        self._begin()
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            result = options.wrap(fn)(*args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def _start_map(self, call: MapCall[Any], options: TaskOptions | None = None) -> Any:
        self._check_open()
        self._begin()
        call.check()
        calls = iter(call.iterables[0]) if call.star else zip(*call.iterables, strict=False)
        return InlineMap((options or self.options()).wrap(call.fn), calls, call.timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more submits."""
        self._closed = True

    def _interrupt(self) -> None:
        self._closed = True

    def _force(self, flag: int) -> None:
        self._closed = True


class InlineMap:
    """A map's iterator that makes each call when its result is asked for."""

    def __init__(self, fn: Callable[..., Any], calls: Iterator[Iterable[Any]], timeout: float | None) -> None:
        self.fn = fn
        self.calls = calls
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.lock = threading.Lock()

    def __iter__(self) -> InlineMap:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        with self.lock:
            args = next(self.calls)
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise TimeoutError
        return self.fn(*args)

    def close(self) -> None:
        self.calls = iter(())
