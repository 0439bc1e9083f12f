"""Cached functions: what `Memory.cache` gives."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from ._log import Logger
from ._memory_base import MISSING, Call, Way
from ._memory_calls import Callback, identifier, name_of, print_call
from ._memory_flight import fly
from ._memory_layout import LayoutWay
from ._memory_local import LocalStoreBackend
from ._memory_way import LANDED, LocalWay
from ._results import MemorizedResult, NotMemorizedResult
from ._stores import CacheWarning
from ._stores_known import open_store

TRACKS = ("transitive", "function")


class MemorizedFunc(Logger):
    """A function whose results are kept; made by `Memory.cache`.

    Calls of it from several threads and processes with the same arguments are computed once, while the others wait. A
    hit gives what was stored, read anew each time: a copy of its own, or a mapping where `mmap_mode` asks for one.

    Raises:
        ValueError: a call doesn't fit the function's parameters.
        PicklingError: an argument can't be pickled.

    Source: python/treadle/joblib/_memory_func.py and _memory_way.py.
    """

    __slots__ = ("_way_made",)  # so that it is no part of the state

    def __init__(
        self,
        func: Any,
        location: Any,
        backend: str = "local",
        ignore: Iterable[str] | None = None,
        mmap_mode: str | None = None,
        compress: Any = False,
        verbose: int = 1,
        timestamp: float | None = None,
        cache_validation_callback: Callback | None = None,
        *,
        track: str = "transitive",
        import_joblib: str | None = None,
    ) -> None:
        super().__init__()
        if track not in TRACKS:
            raise ValueError(f"track must be one of {', '.join(map(repr, TRACKS))}, not {track!r}")
        self.mmap_mode = mmap_mode
        self.compress = compress
        self.func = func
        self.cache_validation_callback = cache_validation_callback
        self.func_id = identifier(func)
        self.ignore = ignore if ignore is not None else []
        self.track = track
        self.import_joblib: Any = import_joblib
        self._verbose = verbose
        self._func_code_info: Any = None
        self.store_backend = open_store(backend, location, verbose, {"compress": compress, "mmap_mode": mmap_mode})
        if not isinstance(self.store_backend, LocalStoreBackend):
            self.store_backend.store_cached_func_code([self.func_id])
        self.timestamp = timestamp if timestamp is not None else time.time()
        with contextlib.suppress(Exception):  # some callables have no such names
            functools.update_wrapper(self, func)
        self.__doc__ = described(func)

    @property
    def _way(self) -> Way:
        try:
            return self._way_made
        except AttributeError:
            pass
        way: Way = LocalWay(self) if isinstance(self.store_backend, LocalStoreBackend) else LayoutWay(self)
        self._way_made: Way = way
        return way

    # --- calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(args, kwargs, False)[0]

    def call_and_shelve(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function unless its result is stored; a `MemorizedResult`, which refers to it."""
        return self._cached(args, kwargs, True)[0]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, whatever is stored, and stores the result; that, and what is known about the call."""
        way = self._way
        call = way.look(args, kwargs)
        call.forced = True
        return self._compute(way, call, False)

    def check_call_in_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Is the result of this call stored, and valid? Calls nothing but `cache_validation_callback`."""
        return self._way.is_there(args, kwargs)

    def clear(self, warn: bool = True) -> None:
        """Removes all results of this function, whatever its code was."""
        if self._verbose > 0 and warn:
            super().warn(f"Clearing function cache identified by {self.func_id}")
        self._way.clear()

    def warn(self, msg: object) -> None:
        """Warns that results could not be read."""
        warnings.warn(f"[{self.func_id}]: {msg}", CacheWarning, stacklevel=6)

    def _cached(self, args: tuple[Any, ...], kwargs: dict[str, Any], shelve: bool) -> tuple[Any, dict[str, Any]]:
        way = self._way
        call: Call | None
        if way.quick and self._verbose <= 1 and not shelve and self.cache_validation_callback is None:
            value, call = way.hit(args, kwargs)
            if call is None:
                return value, {}
        else:
            call = way.look(args, kwargs)
        while (value := way.find(call, shelve)) is MISSING:
            role = way.enter(call)
            if role == LANDED:
                continue
            try:
                return self._compute(way, call, shelve)
            finally:
                way.leave(call, role)
        return value, {}

    def _compute(self, way: Way, call: Call, shelve: bool) -> tuple[Any, dict[str, Any]]:
        unchanged = self._before(way, call)
        start = time.time()
        output = self.func(*call.args, **call.kwargs)
        return way.keep(call, output, time.time() - start, shelve, unchanged)

    def _before(self, way: Way, call: Call) -> bool:
        if self._verbose > 10:
            place = self.store_backend.location
            text = f"Computing func {name_of(self.func)[1]}, argument hash {call.call_id[1]} in location {place}"
            Logger.warn(self, text)
        if self._verbose > 0:
            print_call(self.func, call.args, call.kwargs)
        return way.is_unchanged(call)

    def _get_args_id(self, *args: Any, **kwargs: Any) -> str:
        return self._way.look(args, kwargs).call_id[1]

    def _get_memorized_result(
        self, call_id: tuple[str, str], metadata: dict[str, Any] | None = None
    ) -> MemorizedResult:
        return MemorizedResult(
            self.store_backend, call_id, metadata=metadata, timestamp=self.timestamp, verbose=self._verbose - 1
        )

    # --- travelling

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By name, where that stands for it, as functions travel."""
        module = getattr(self, "__module__", None)
        name = getattr(self, "__qualname__", None)
        if isinstance(module, str) and isinstance(name, str) and module != "__main__":
            found: Any = sys.modules.get(module)
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is self:
                return name
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> dict[str, Any]:
        self._way.describe_code()
        return {**self.__dict__, "timestamp": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func}, location={self.store_backend.location})"


def described(func: Any) -> str:
    """The docstring of a cached function."""
    if isinstance(func, FunctionType):
        with contextlib.suppress(TypeError, ValueError):
            return f"Memoized version of {func.__name__}{inspect.signature(func)}\n\n{inspect.getdoc(func) or ''}"
    return f"Memoized version of {getattr(func, '__doc__', None)}"


class AsyncMemorizedFunc(MemorizedFunc):
    """A `MemorizedFunc` whose function is asynchronous: its calls are awaited, and no wait blocks the event loop.

    Source: python/treadle/joblib/_memory_func.py and _memory_flight.py.
    """

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (await fly(self, args, kwargs, False))[0]

    async def call_and_shelve(self, *args: Any, **kwargs: Any) -> Any:
        """Awaits the function unless its result is stored; a `MemorizedResult`, which refers to it."""
        return (await fly(self, args, kwargs, True))[0]

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        """Awaits the function, whatever is stored, and stores the result; that, and what is known about the call."""
        way = self._way
        call = way.look(args, kwargs)
        call.forced = True
        return await self._compute_async(way, call, False)

    async def _compute_async(self, way: Way, call: Call, shelve: bool) -> tuple[Any, dict[str, Any]]:
        unchanged = self._before(way, call)
        start = time.time()
        output = await self.func(*call.args, **call.kwargs)
        return way.keep(call, output, time.time() - start, shelve, unchanged)


class NotMemorizedFunc:
    """Stands for a `MemorizedFunc` where there is no store: it calls the function.

    Source: python/treadle/joblib/_memory_func.py.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def call_and_shelve(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; a `NotMemorizedResult` with what it returned."""
        return NotMemorizedResult(self.func(*args, **kwargs))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; what it returned, and an empty dict."""
        return self.func(*args, **kwargs), {}

    def check_call_in_cache(self, *args: Any, **kwargs: Any) -> bool:
        """False."""
        return False

    def clear(self, warn: bool = True) -> None:
        """Nothing is kept."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(func={self.func})"


class AsyncNotMemorizedFunc(NotMemorizedFunc):
    """A `NotMemorizedFunc` whose function is asynchronous.

    Source: python/treadle/joblib/_memory_func.py.
    """

    async def call_and_shelve(self, *args: Any, **kwargs: Any) -> Any:
        """Awaits the function; a `NotMemorizedResult` with what it returned."""
        return NotMemorizedResult(await self.func(*args, **kwargs))

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        """Awaits the function; what it returned, and an empty dict."""
        return await self.func(*args, **kwargs), {}
