"""`Memory`: results of functions, kept on disk."""

from __future__ import annotations

import functools
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._log import Logger
from ._memory_calls import Callback
from ._memory_func import (
    TRACKS,
    AsyncMemorizedFunc,
    AsyncNotMemorizedFunc,
    MemorizedFunc,
    NotMemorizedFunc,
)
from ._memory_layout import known_functions
from ._results import MemorizedResult, NotMemorizedResult
from ._stores import CacheWarning, StoreBackendBase
from ._stores_known import open_store, register_store_backend

if TYPE_CHECKING:
    from ._explain import Explanation

__all__ = [
    "CacheWarning",
    "MemorizedFunc",
    "MemorizedResult",
    "Memory",
    "NotMemorizedResult",
    "StoreBackendBase",
    "expires_after",
    "register_store_backend",
]


class Memory(Logger):
    """Keeps the results of functions on disk, and finds them again: in this process, in others, and next time.

    Args:
        location: a folder; Treadle's store is in `treadle` inside of it. None keeps nothing.
        backend: `"local"` is Treadle's own store, `"joblib"` joblib's layout, which joblib itself can use; others by
            `register_store_backend`.
        mmap_mode: how hits are read. None: into memory of their own. `"r"`: large arrays are mapped, read-only.
            `"c"`, and likewise `"r+"` and `"w+"`: they are mapped, and changes stay in this process.
        compress: False, True, a level from 0 to 9, or a pair of a method (`"zlib"`, `"gzip"`, `"bz2"`, `"lzma"`,
            `"xz"`) and a level. Compressed results can't be mapped.
        verbose: 0 prints nothing, 1 each call that is computed, more than 1 also those that are not.
        backend_options: options of the store's own.
        track: `"transitive"`: results belong to the code of the function and of the functions outside site-packages
            that it is seen to call, and to the small immutable globals that these read. `"function"`: to the code of
            the function alone, which is joblib's rule.
        bytes_limit: bytes, or a text such as `"10G"`, above which the least recently used results go; None: no limit.
        durable: whether a result is on the disk, not only in the kernel's cache, before its first caller gets it.
        verify: `"full"` checks a result's bytes when a process first uses it, `"header"` only its header.
        shared: whether a folder that other users can write to is used nevertheless. Results are pickles: who writes
            there can run code here.
        import_joblib: whether results that joblib has left under this location are taken over when they are asked for.

    Raises:
        PermissionError: another user can write to the folder.
        ValueError: an option has no such value.

    Source: python/treadle/joblib/_memory.py.
    """

    __module__ = "treadle.joblib"

    def __init__(
        self,
        location: str | Path | None = None,
        backend: str = "local",
        mmap_mode: str | None = None,
        compress: Any = False,
        verbose: int = 1,
        backend_options: dict[str, Any] | None = None,
        *,
        track: str = "transitive",
        bytes_limit: int | str | None = None,
        durable: bool = False,
        verify: str = "full",
        shared: bool = False,
        import_joblib: bool = False,
    ) -> None:
        super().__init__()
        if track not in TRACKS:
            raise ValueError(f"track must be one of {', '.join(map(repr, TRACKS))}, not {track!r}")
        if verify not in ("full", "header"):
            raise ValueError(f"verify must be 'full' or 'header', not {verify!r}")
        self._verbose = verbose
        self.mmap_mode = mmap_mode
        self.timestamp: float | None = time.time()
        self.backend = backend
        self.compress = compress
        self.backend_options = backend_options if backend_options is not None else {}
        self.track = track
        if compress and mmap_mode is not None:
            warnings.warn("Compressed results cannot be memmapped", stacklevel=2)
        self.location = location
        self.import_joblib = joblib_folder(location) if import_joblib else None
        options = {"compress": compress, "mmap_mode": mmap_mode, **self.backend_options}
        if backend == "local":
            own = {"bytes_limit": bytes_limit, "durable": durable, "verify": verify, "shared": shared}
            options = {**own, **options}
        self.store_backend = open_store(backend, place_of(location, backend), verbose, options)

    def cache(
        self,
        func: Callable[..., Any] | None = None,
        ignore: Iterable[str] | None = None,
        verbose: int | None = None,
        mmap_mode: Any = False,
        cache_validation_callback: Callback | None = None,
    ) -> Any:
        """A function whose results are kept; also a decorator, with or without options.

        Args:
            func: the function, or any callable; asynchronous ones stay so.
            ignore: names of arguments on which the result doesn't depend; `"*"` and `"**"` stand for the unnamed.
            verbose: as in `Memory`, whose value it has by default.
            mmap_mode: as in `Memory`, whose value it has by default.
            cache_validation_callback: called with what is known about a stored result (`"time"`, when it was computed,
                in seconds since 1970, `"duration"` in seconds, `"input_args"`); unless it returns something true, the
                result is computed anew.

        Raises:
            ValueError: `cache_validation_callback` can't be called, or there is no argument of a name in `ignore`.
        """
        if cache_validation_callback is not None and not callable(cache_validation_callback):
            raise ValueError(f"cache_validation_callback needs to be callable. Got {cache_validation_callback}.")
        if func is None:
            return functools.partial(
                self.cache,
                ignore=ignore,
                verbose=verbose,
                mmap_mode=mmap_mode,
                cache_validation_callback=cache_validation_callback,
            )
        if self.store_backend is None:
            return (AsyncNotMemorizedFunc if inspect.iscoroutinefunction(func) else NotMemorizedFunc)(func)
        if isinstance(func, MemorizedFunc):
            func = func.func
        cls = AsyncMemorizedFunc if inspect.iscoroutinefunction(func) else MemorizedFunc
        return cls(
            func,
            location=self.store_backend,
            backend=self.backend,
            ignore=ignore,
            mmap_mode=self.mmap_mode if mmap_mode is False else mmap_mode,
            compress=self.compress,
            verbose=self._verbose if verbose is None else verbose,
            timestamp=self.timestamp,
            cache_validation_callback=cache_validation_callback,
            track=self.track,
            import_joblib=self.import_joblib,
        )

    def clear(self, warn: bool = True) -> None:
        """Removes all results."""
        if warn:
            self.warn("Flushing completely the cache")
        if self.store_backend is not None:
            self.store_backend.clear()
            known_functions.clear()

    def reduce_size(
        self,
        bytes_limit: int | str | None = None,
        items_limit: int | None = None,
        age_limit: timedelta | None = None,
    ) -> None:
        """Removes the results that were used least recently, until the rest is within the limits.

        Args:
            bytes_limit: bytes, or a text such as `"10M"` (K, M or G).
            items_limit: results.
            age_limit: the time since their last use.

        Raises:
            ValueError: a limit is negative, or no number of bytes.
        """
        if self.store_backend is not None and not (bytes_limit is None and items_limit is None and age_limit is None):
            self.store_backend.enforce_store_limits(bytes_limit, items_limit, age_limit)

    def eval(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function, unless its result is stored."""
        return func(*args, **kwargs) if self.store_backend is None else self.cache(func)(*args, **kwargs)

    def explain(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Why a call is a hit or a miss, and which code is tracked; calls nothing.

        Args:
            func: a function, or what `cache` has made of it, which knows what is ignored.
            args: the call's.
            kwargs: the call's.
        """
        from ._explain import explain

        return explain(self, func, args, kwargs)

    def __repr__(self) -> str:
        place = None if self.store_backend is None else self.store_backend.location
        return f"{type(self).__name__}(location={place})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "timestamp": None}


def place_of(location: Any, backend: str) -> Any:
    """Where the store is. joblib, too, has a folder of its own inside where the location is a string, and only then."""
    if backend == "local" and isinstance(location, str | os.PathLike):
        return os.path.join(os.fspath(location), "treadle")
    return os.path.join(location, "joblib") if isinstance(location, str) else location


def joblib_folder(location: Any) -> str | None:
    return None if location is None else os.fspath(place_of(location, "joblib"))


def expires_after(
    days: float = 0,
    seconds: float = 0,
    microseconds: float = 0,
    milliseconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    weeks: float = 0,
) -> Callback:
    """A `cache_validation_callback` for results that hold for so long after they were computed.

    Source: python/treadle/joblib/_memory.py.
    """
    span = timedelta(days, seconds, microseconds, milliseconds, minutes, hours, weeks).total_seconds()

    def is_young(metadata: dict[str, Any]) -> bool:
        return bool(time.time() - metadata["time"] < span)

    return is_young
