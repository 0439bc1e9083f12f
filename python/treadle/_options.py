"""Options of pools and tasks: checks, in the stdlib's words where it has them, and a view with options of its own."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import _context, _engine
from ._awaiting import RunSubmitted
from ._maps import MapCall, Maps

if TYPE_CHECKING:
    from ._executor import ProcessPoolExecutor

T = TypeVar("T")


def read_environment() -> None:
    """Takes over the `TREADLE_*` variables as they are now; warns of one that is not understood."""
    problem = _engine.reload_options()
    if problem is not None:
        warnings.warn(f"{problem}; the default is in force", RuntimeWarning, stacklevel=3)


class TaskOptions(Maps, RunSubmitted, Executor):
    """A view of a pool whose tasks have options of their own; made by `ProcessPoolExecutor.options`."""

    __module__ = "treadle"

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        timeout: float | None,
        retries: int,
        name: str | None,
        retry_on: tuple[type[Exception], ...],
    ) -> None:
        self.pool = pool
        self.timeout = timeout
        self.retries = retries
        self.name = name
        self.retry_on = retry_on

    def wrap(self, fn: Callable[..., T]) -> Callable[..., T]:
        """The function that the workers call."""
        if not (self.retry_on and self.retries):
            return fn
        from . import _retry

        return _retry.Retrying(fn, self.retry_on, self.retries)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> _engine.Future[T]:
        """As the pool's, with these options."""
        return self.pool._submit_with(fn, args, kwargs, self)

    def _start_map(self, call: MapCall[T]) -> Iterator[T]:
        """As the pool's, with these options; a `timeout` given to `map` is the whole map's."""
        return self.pool._start_map(call, self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The pool's own."""
        self.pool.shutdown(wait, cancel_futures=cancel_futures)


# --- pools that do something otherwise


_variants: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def variant(first: type[Any], cls: type[T]) -> type[T]:
    """A pool's class with another one's methods before its own."""
    made: Any = _variants.get((first, cls))
    if made is None:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        made = _variants[first, cls] = type(cls.__name__, (first, cls), names)
    return cast("type[T]", made)


# --- checks, in the stdlib's words where it has them


def cpu_budget() -> int:
    """The CPUs that this process may use: its share, where it is a worker."""
    return _context.cpu_share() or _engine.cpus()


def check_workers(max_workers: int | None) -> int:
    if max_workers is None:
        return min(_engine.MAX_WORKERS, int(_engine.option("WORKERS")) or cpu_budget())
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if max_workers > _engine.MAX_WORKERS:
        raise ValueError(f"max_workers must be <= {_engine.MAX_WORKERS}")
    return operator.index(max_workers)


def check_initargs(initargs: Iterable[Any]) -> tuple[Any, ...]:
    if not isinstance(initargs, Iterable):
        raise TypeError("initargs must be a tuple of arguments")
    return tuple(initargs)


def check_preload(preload: Iterable[str]) -> tuple[str, ...]:
    if isinstance(preload, str) or not isinstance(preload, Iterable):
        raise TypeError("preload must be a sequence of module names")
    names = tuple(preload)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("preload must be a sequence of module names")
    return names


def check_forward_output(forward_output: bool | None) -> bool | None:
    if forward_output not in (None, True, False):
        raise TypeError("forward_output must be True, False or None")
    return forward_output


def check_max_tasks(count: int | None, start_method: str | None) -> int:
    if count is None:
        return 0
    if not isinstance(count, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if count <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if start_method == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )
    return count


def check_retries(retries: int | EllipsisType) -> int:
    if not isinstance(retries, int):
        raise TypeError("retries must be an integer")
    if retries < 0:
        raise ValueError("retries must be >= 0")
    return retries


def check_timeout(timeout: float | EllipsisType | None) -> float | None:
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)):
        raise TypeError("timeout must be a number of seconds or None")
    if not timeout > 0:
        raise ValueError("timeout must be greater than 0")
    return float(timeout)


def check_name(name: str | None) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError("name must be a string or None")
    return name


def check_retry_on(given: Any) -> tuple[type[Exception], ...]:
    kinds: tuple[Any, ...] = given if isinstance(given, tuple) else (given,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError("retry_on must be an exception type or a tuple of them")
    return kinds
