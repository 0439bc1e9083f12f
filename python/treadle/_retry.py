"""`retry_on`: running a task again after some exceptions, in the worker that ran it.

Deaths of workers are the engine's to retry; an exception is caught where it was raised, which needs no second way
through the queue and works for a map's items as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._awaiting import RunSubmitted

if TYPE_CHECKING:
    from ._engine import Future
    from ._executor import ProcessPoolExecutor

T = TypeVar("T")


class Retrying:
    """A function that is called again, up to `retries` times, when it raises one of `kinds`."""

    def __init__(self, func: Callable[..., Any], kinds: tuple[type[Exception], ...], retries: int) -> None:
        self.func = func
        self.kinds = kinds
        self.retries = retries

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for _ in range(self.retries):
            try:
                return self.func(*args, **kwargs)
            except self.kinds:
                pass
        return self.func(*args, **kwargs)


class RetryingSubmit(RunSubmitted):
    """Put before the pool's class when it was made with `retry_on`: the submit written in C knows of none."""

    def submit(self: ProcessPoolExecutor, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # type: ignore[misc]
        """As the pool's."""
        return self._submit_with(fn, args, kwargs, self.options())
