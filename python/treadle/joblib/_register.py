"""Treadle under joblib: backends for `joblib.Parallel`, so that scikit-learn and others run on Treadle as they are.

Of joblib's two ways to fetch results the one without `supports_retrieve_callback` is used, which waits for a future
and not by the clock, but for unordered generators, which know only the other. There joblib's callback, which dispatches
what comes next, may be late: joblib would look again every 10 ms. So who waits for a result makes the call where nobody
has yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from .. import _byvalue, _errors
from .._engine import Future, wait
from .._options import check_preload
from . import _backends, _base, _batching, _pools
from ._arguments import Interner
from ._run import as_joblib, too_late

_globals_along = _byvalue.GlobalsAlong()


class Job:
    """What a backend's `submit` returns."""

    def __init__(self, future: Any, size: int, callback: Callable[..., object] | None) -> None:
        self.future = future
        self.size = size
        self.callback = callback
        self.lock = threading.Lock()


# joblib has no types, and what a checker guesses of them is wrong.
joblib_parallel: Any = import_module("joblib.parallel")
theirs: Any = import_module("joblib._parallel_backends")
Base: Any = theirs.ParallelBackendBase


class Served(Base):  # type: ignore[misc]
    """A backend of joblib's on a pool of Treadle's."""

    uses_threads = False

    supports_timeout = True
    supports_return_generator = True
    ours: type[_backends.PoolBackend]

    _pool: _backends.PoolBackend | None = None
    _interner: Interner | None = None
    _failure: BaseException | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parallel: Any = None
        self._jobs: set[Job] = set()
        self._alarm: Future[None] | None = None
        """Ends when a task has failed, so that who waits for another one need not any more."""
        self._sizes = _batching.Sizes(1, False, None)

    def __reduce__(self) -> Any:
        """Of a nested one, which goes along with each batch."""
        return remake, (type(self), self.nesting_level, self.inner_max_num_threads, self.backend_kwargs)

    @property
    def supports_retrieve_callback(self) -> bool:
        """Only where joblib knows no other way."""
        return self.parallel is not None and self.parallel.return_as == "generator_unordered"

    @property
    def _workers(self) -> Any:
        return None if self._pool is None else self._pool._workers

    def _make(self) -> _backends.PoolBackend:
        made = self.ours(self.nesting_level, self.inner_max_num_threads, **self.backend_kwargs)
        made.inner_max_num_threads = self.inner_max_num_threads
        return made

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers there will be."""
        return self._make().effective_n_jobs(n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Leases the workers."""
        self.parallel = parallel
        pool = self._make()
        # joblib always gives a context; the default one asks for nothing.
        context = options.pop("context", None)
        if context is not None and context is joblib_parallel.DEFAULT_MP_CONTEXT:
            options["context"] = context
        try:
            count = pool.configure(n_jobs, None, **options)
        except _base.FallbackToBackend:
            raise theirs.FallbackToBackend(theirs.SequentialBackend(nesting_level=self.nesting_level)) from None
        self._pool = pool
        self._failure = None
        self._alarm = Future()
        self._jobs = set()
        say = parallel._print if parallel is not None and parallel.verbose >= 10 else None
        adapts = parallel is not None and parallel.timeout is None and not self.uses_threads
        self._sizes = _batching.Sizes("auto", adapts, say)
        return count

    def start_call(self) -> None:
        """Arrays are copied anew for each call."""
        self._interner = None if self._pool is None else self._pool.make_interner()

    def stop_call(self) -> None:
        """Lets the copies go."""
        self._interner = None

    def compute_batch_size(self) -> int:
        """As many tasks as take ten milliseconds."""
        return self._sizes.size

    def submit(self, func: Any, callback: Callable[..., object] | None = None) -> Job:
        """Sends a batch."""
        assert self._pool is not None
        lease = self._pool._workers
        assert lease is not None
        timeout = None if self.parallel is None else self.parallel.timeout
        pool = lease.pool
        future = pool.submit(func) if self.uses_threads else send(pool, self._interner, func, timeout)
        job = Job(future, len(func), callback)
        self._jobs.add(job)
        future.add_done_callback(partial(self._ended, job))
        return job

    def _ended(self, job: Job, _: Any = None) -> None:
        """Calls joblib back, once: in a thread of the engine's, or in the one that waits for the result."""
        with job.lock:
            if job not in self._jobs:
                return
            future = job.future
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or (error is not None and not self.supports_retrieve_callback):
                self._jobs.discard(job)
                if error is not None and self._failure is None:
                    self._failure = error
                    assert self._alarm is not None
                    self._alarm.set_result(None)
                    self._cancel()
                return
            if error is None and future.timing is not None:
                self._sizes.note(job.size, future.timing.run)
            if job.callback is not None:
                job.callback(future)
            self._jobs.discard(job)

    def retrieve_result(self, out: Job, timeout: float | None = None) -> Any:
        """The batch's results, once joblib knows that it has ended."""
        limit = None if self.parallel is None else self.parallel.timeout
        assert self._alarm is not None
        wait((out.future, self._alarm), timeout if self.uses_threads else None, "FIRST_COMPLETED")
        if self._failure is not None:
            raise as_joblib(self._failure, limit)
        if not out.future.done():
            raise too_late(timeout)
        try:
            value = out.future.result()
        except BaseException as error:
            raise as_joblib(error, limit) from None
        self._ended(out)
        return value

    def retrieve_result_callback(self, out: Any) -> Any:
        """The batch's results."""
        try:
            return out.result()
        except (_errors.TaskTimeout, _errors.TravelError) as error:
            raise as_joblib(error, self.parallel.timeout) from None

    def _cancel(self) -> None:
        """Gives up what runs and what waits."""
        if self._workers is not None:
            self._workers.spoil()
        for job in list(self._jobs):
            job.future.cancel() if self.uses_threads else job.future.cancel(force=True)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Gives up the call; if `ensure_ready`, leases workers for the next one."""
        self._cancel()
        self.terminate()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self.parallel._backend_kwargs)

    def terminate(self) -> None:
        """Gives the workers back."""
        self._pool = None

    def get_nested_backend(self) -> Any:
        """Threads of Treadle's in what this backend runs, and in those a loop."""
        level = (self.nesting_level or 0) + 1
        return (theirs.SequentialBackend if level > 1 else ThreadingBackend)(nesting_level=level), None


def send(pool: Any, interner: Any, func: Any, timeout: float | None) -> Any:
    """Submits a batch of joblib's to processes."""
    args = (func._backend, func._n_jobs, func.items)
    pool.foresee([(run_batch, (), {}), *func.items])
    with _globals_along:
        if interner is None:
            return pool._submit(run_batch, args, None, timeout, 0, None)
        with interner:
            return pool._submit(run_batch, args, None, timeout, 0, None)


def run_batch(backend: Any, n_jobs: int | None, items: list[Any]) -> list[Any]:
    """A batch, in the worker; what is nested in it runs on the backend."""
    with joblib_parallel.parallel_config(backend=backend, n_jobs=n_jobs):
        return [function(*args, **kwargs) for function, args, kwargs in items]


def remake(cls: type[Served], level: int | None, threads: int | None, options: dict[str, Any]) -> Served:
    """A backend that was pickled."""
    return cls(nesting_level=level, inner_max_num_threads=threads, **options)


class ThreadingBackend(Served):
    """Threads."""

    ours = _backends.ThreadingBackend
    uses_threads = True
    supports_sharedmem = True


class TreadleBackend(Served):
    """Worker processes."""

    ours = _backends.TreadleBackend
    supports_inner_max_num_threads = True


class LokyBackend(TreadleBackend):
    """Worker processes, under the name of joblib's default."""

    ours = _backends.LokyBackend


class MultiprocessingBackend(TreadleBackend):
    """Worker processes, under the name of joblib's oldest."""

    ours = _backends.MultiprocessingBackend
    supports_inner_max_num_threads = False


_OURS = {
    "treadle": TreadleBackend,
    "loky": LokyBackend,
    "multiprocessing": MultiprocessingBackend,
    "threading": ThreadingBackend,
}
_theirs: dict[str, Any] = {}


def register(default: bool = True, *, n_jobs: int | None = None, preload: Sequence[str] = ()) -> None:
    """Makes Treadle a backend of joblib itself, so that scikit-learn, or whatever calls joblib, can run on it.

    Args:
        default: Whether it is the default, and serves the names "loky", "multiprocessing" and "threading", too. If not,
            it is there for those who ask: `joblib.parallel_config(backend="treadle")`.
        n_jobs: As `joblib.Parallel` has it: workers for calls with this `n_jobs` are made ready now, beside what the
            program does next.
        preload: Names of modules that are imported once for all workers, before these are forked.

    Raises:
        ModuleNotFoundError: joblib is not installed.
        TypeError, ValueError: `preload` is no sequence of names; `n_jobs` is 0.

    Source: python/treadle/joblib/_register.py.
    """
    _pools.preloaded = check_preload(preload)
    for name, backend in _OURS.items():
        if default or name == "treadle":
            if joblib_parallel.BACKENDS.get(name) is not backend:
                _theirs[name] = joblib_parallel.BACKENDS.get(name)
            joblib_parallel.register_parallel_backend(name, backend)
    if default:
        _theirs.setdefault("", joblib_parallel.DEFAULT_BACKEND)
        joblib_parallel.DEFAULT_BACKEND = "treadle"
    if n_jobs is not None:
        _backends.TreadleBackend(nesting_level=0).make_ready(n_jobs)


def unregister() -> None:
    """Puts joblib's own backends back.

    Source: python/treadle/joblib/_register.py.
    """
    joblib_parallel.DEFAULT_BACKEND = _theirs.pop("", joblib_parallel.DEFAULT_BACKEND)
    for name, backend in _theirs.items():
        if backend is None:
            del joblib_parallel.BACKENDS[name]
        else:
            joblib_parallel.BACKENDS[name] = backend
    _theirs.clear()
