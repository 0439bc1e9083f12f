"""Treadle's backends: worker processes under three names, and threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _counts, _pools
from ._arguments import Interner
from ._base import FallbackToBackend, ParallelBackendBase, SequentialBackend

if TYPE_CHECKING:
    from .._engine import Future
    from ._parallel import Parallel


class PoolBackend(ParallelBackendBase):
    """What processes and threads have in common: a lease of a warm pool, and Treadle's futures."""

    supports_return_generator = True
    supports_timeout = True
    supports_retrieve_callback = True
    _workers: _pools.Lease | None = None
    _interning: tuple[int, str] | None = None

    def make_interner(self) -> Interner | None:
        """What copies a call's large arrays, where that was not switched off."""
        return None if self._interning is None else Interner(*self._interning)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers there will be.

        Raises:
            ValueError: n_jobs is 0.
        """
        return _counts.workers_of(n_jobs)

    def settle(self, n_jobs: int, parallel: Parallel | None) -> int:
        """The number of workers.

        Raises:
            FallbackToBackend: it is one, which the calling thread is.
        """
        count = self.effective_n_jobs(n_jobs)
        if count == 1 or _pools.is_inline():
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Future[Any]:
        """Starts a call; for those who derive a backend from this one. `Parallel` submits to the pool itself."""
        assert self._workers is not None
        future: Future[Any] = self._workers.pool.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """The future's result."""
        return out.result()

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """The future's result."""
        return out.result(timeout)

    def terminate(self) -> None:
        """Gives the workers back; they stay warm for the next call."""
        self._workers = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Gives the workers back; if `ensure_ready`, for others."""
        if self._workers is not None:
            self._workers.spoil()
        self._workers = None
        if ensure_ready and self.parallel is not None:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs)


class ThreadingBackend(PoolBackend):
    """Threads of this process."""

    uses_threads = True
    supports_sharedmem = True

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Parallel | None = None,
        prefer: str | None = None,
        require: str | None = None,
        **backend_kwargs: Any,
    ) -> int:
        """Leases threads."""
        count = self.settle(n_jobs, parallel)
        self._workers = _pools.lease_threads(count)
        return count


class TreadleBackend(PoolBackend):
    """Worker processes of a warm pool."""

    supports_inner_max_num_threads = True
    family = "loky"
    """Which rules there are for calls inside of what it runs: those of joblib's default, or of multiprocessing."""

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Parallel | None = None,
        prefer: str | None = None,
        require: str | None = None,
        *,
        idle_worker_timeout: float | None = None,
        max_nbytes: int | None = None,
        mmap_mode: str | None = "r",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        context: Any = None,
        **others: Any,
    ) -> int:
        """Leases worker processes. What only concerns joblib's own pools is accepted and without effect."""
        count = self.settle(n_jobs, parallel)
        own = self.backend_kwargs
        if "timeout" in others or "timeout" in own:
            raise ValueError(
                "The 'timeout' parameter is not supported by the LokyBackend. Please use the `idle_worker_timeout` "
                "parameter instead."
            )
        if initializer is None:
            initializer, initargs = own.get("initializer"), own.get("initargs", ())
        idle_s = own.get("idle_worker_timeout") if idle_worker_timeout is None else idle_worker_timeout
        self._interning = None if max_nbytes is None or mmap_mode is None else (max_nbytes, mmap_mode)
        kind = _pools.Kind(
            count,
            self.family,
            (self.nesting_level or 0) + 1,
            tuple(self._prepare_worker_env(count).items()),
            self.start_method(context),
            initializer,
            tuple(initargs),
        )
        self._workers = _pools.lease_processes(kind, _pools.IDLE_S if idle_s is None else idle_s)
        return count

    def make_ready(self, n_jobs: int) -> None:
        """Starts what workers are forked from, for calls with this `n_jobs`; does not wait for it."""
        with contextlib.suppress(FallbackToBackend):
            self.configure(n_jobs)
        if self._workers is not None:
            self._workers.pool._begin()

    def start_method(self, context: Any) -> str | None:
        """How the workers come to be: the pool's default, unless a multiprocessing context was given."""
        return None if context is None else context.get_start_method()


class LokyBackend(TreadleBackend):
    """The same under the name of joblib's default, with its rules for calls inside calls."""

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers there will be; one below threads, and in workers of `multiprocessing`."""
        if n_jobs != 1 and n_jobs != 0 and n_jobs is not None:
            if _pools.family == "multiprocessing" or multiprocessing.current_process().daemon:
                return refuse("Loky-backed parallel loops cannot be called in a multiprocessing, setting n_jobs=1")
            if not (self.in_main_thread() or self.nesting_level == 0):
                return refuse("Loky-backed parallel loops cannot be nested below threads, setting n_jobs=1")
        return super().effective_n_jobs(n_jobs)


class MultiprocessingBackend(TreadleBackend):
    """The same under the name of joblib's oldest, with its rules for calls inside calls."""

    family = "multiprocessing"
    supports_inner_max_num_threads = False

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers there will be; one below threads, and in any workers."""
        if n_jobs != 1 and n_jobs != 0 and n_jobs is not None:
            if _pools.family == "loky":
                return refuse("Multiprocessing-backed parallel loops cannot be nested, below loky, setting n_jobs=1")
            if _pools.family or multiprocessing.current_process().daemon:
                return refuse("Multiprocessing-backed parallel loops cannot be nested, setting n_jobs=1")
            if not (self.in_main_thread() or self.nesting_level == 0):
                return refuse("Multiprocessing-backed parallel loops cannot be nested below threads, setting n_jobs=1")
        return super().effective_n_jobs(n_jobs)

    def start_method(self, context: Any) -> str | None:
        """The context's, or JOBLIB_START_METHOD's."""
        told = os.environ.get("JOBLIB_START_METHOD", "").strip()
        return super().start_method(context) or told or None


def refuse(message: str) -> int:
    """One worker, with a warning."""
    warnings.warn(message, stacklevel=4)
    return 1
