"""One call of `Parallel` on a pool of ours: what is dispatched, what has ended, and in which order results come.

Whoever waits for results does the work: it waits in the engine for any batch to end, and dispatches what comes next. A
generator's batches also have a callback that does the same, so that all goes on while nobody waits. Both may meet: a
batch is settled once, under the lock, by whoever comes first.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from .. import _byvalue, _engine, _errors
from . import _batching
from ._config import run_all

if TYPE_CHECKING:
    from .._engine import Future
    from .._executor import ProcessPoolExecutor
    from ._arguments import Interner
    from ._delayed import Task
    from ._parallel import Parallel

PENDING, DONE, FAILED = range(3)
WINDOW = 64
"""Batches that are waited for at once: they run in the order in which they were dispatched."""

_globals_along = _byvalue.GlobalsAlong()


class ParallelTimeout(_errors.TaskTimeout, multiprocessing.TimeoutError):
    """A task of `Parallel` took longer than its `timeout`: a `TimeoutError`, and multiprocessing's, as joblib's is."""

    __module__ = "treadle.joblib"


class Batch:
    """Tasks that were sent together."""

    __slots__ = ("began", "future", "is_single", "size", "state")

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_single = False  # its result is the task's own, and no list
        self.state = PENDING
        self.began = 0.0  # of threads: when it was begun
        self.future: Future[Any]

    def values(self) -> list[Any]:
        """The results."""
        value = self.future.result()
        return [value] if self.is_single else value


class Run:
    """One call of `Parallel`."""

    def __init__(self, parallel: Parallel, tasks: Iterator[Task], n_jobs: int) -> None:
        self.parallel = parallel
        backend = parallel._backend
        self.lease = backend._workers
        self.interner: Interner | None = backend.make_interner()
        self.uses_threads = bool(getattr(backend, "uses_threads", False))
        nested = backend.get_nested_backend()
        self.nested = nested if self.uses_threads or not has_plain_nesting(backend) else None
        self.n_jobs = n_jobs
        self.lock = threading.RLock()
        self.live: dict[Batch, None] = {}  # in the order of their dispatch
        self.order: deque[Batch] = deque()  # in the order of the results
        say = parallel._print if parallel.verbose >= 10 else None
        batch_size = parallel.batch_size if parallel.timeout is None else 1
        self.sizes = _batching.Sizes(batch_size, not self.uses_threads, say)
        self.slices = _batching.Slices(self.sizes, n_jobs)
        self.left: Iterator[Task] | None = tasks
        self.owed = 0  # batches to be dispatched for those that have ended
        self.pumping = True
        self.error: BaseException | None = None
        self.aborted = False
        _runs.add(self)

    # --- dispatching

    def start(self, first: int | None) -> None:
        """Dispatches the tasks that come before any result, or all of them."""
        assert self.left is not None
        tasks = self.left if first is None else islice(self.left, max(first, 1))
        with self.lock:
            while self.dispatch(tasks, first is None):
                pass
            if first is None:
                self.left = None
            self.pumping = False
            self.pump()

    def dispatch(self, tasks: Iterator[Task], is_all: bool) -> bool:
        """Sends the next batch; False: there is none."""
        if self.aborted:
            return False
        found = self.slices.next(tasks, is_all)
        if found is None:
            return False
        batch = Batch(len(found))
        parallel = self.parallel
        parallel.n_dispatched_tasks += batch.size
        parallel.n_dispatched_batches += 1
        batch.future = self.submit(batch, found)
        self.live[batch] = None
        if parallel.return_ordered:
            self.order.append(batch)
        if parallel.return_generator:
            batch.future.add_done_callback(partial(settle_later, self, batch))
        return True

    def submit(self, batch: Batch, tasks: list[Task]) -> Future[Any]:
        """Hands a batch to the pool."""
        pool = self.lease.pool
        function: Callable[..., Any]
        if self.uses_threads:
            future: Future[Any] = pool.submit(self.run_here, batch, tasks)
            return future
        pool.foresee(tasks)
        kwargs: dict[str, Any] | None = None
        if self.nested is not None:
            function, args = run_all, (tasks, self.nested)
        elif len(tasks) == 1 and (self.interner is None or not self.interner.may_find(tasks[0])):
            function, args, kwargs = tasks[0]
            batch.is_single = True
        else:
            function, args = _batching.pack(tasks)
        with _globals_along:
            if self.interner is None:
                return self.send(function, args, kwargs)
            with self.interner:
                return self.send(function, args, kwargs)

    def send(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Future[Any]:
        """To a pool of processes."""
        pool: ProcessPoolExecutor = self.lease.pool
        timeout = self.parallel.timeout
        if timeout is not None:
            return pool._submit(function, args, kwargs, max(float(timeout), 1e-9), 0, None)
        return pool.submit(function, *args, **kwargs) if kwargs else pool.submit(function, *args)

    def run_here(self, batch: Batch, tasks: list[Task]) -> list[Any]:
        """A batch, in a thread of this process."""
        batch.began = time.monotonic()
        return run_all(tasks, self.nested)

    def pump(self) -> None:
        """Dispatches a batch for each that has ended; holds the lock. Not again from inside itself."""
        if self.pumping:
            return
        self.pumping = True
        try:
            while self.left is not None and (self.owed or not self.live):
                self.owed = max(0, self.owed - 1)
                if not self.dispatch(self.left, True):
                    self.left = None
        except BaseException as error:  # of the iterator, or of pickling
            self.fail(error)
        finally:
            self.pumping = False

    # --- what has ended

    def settle(self, batch: Batch) -> None:
        """Takes note of a batch that has ended, and sees that another one is dispatched."""
        with self.lock:
            if batch.state != PENDING:
                return
            self.live.pop(batch, None)
            if self.aborted:
                batch.state = FAILED
                return
            future = batch.future
            error = future.exception() if not future.cancelled() else RuntimeError("the task was cancelled")
            if error is not None:
                batch.state = FAILED
                self.fail(error)
                return
            batch.state = DONE
            if not self.parallel.return_ordered:
                self.order.append(batch)
            if self.sizes.adapts and future.timing is not None:
                self.sizes.note(batch.size, future.timing.run)
            self.parallel.n_completed_tasks += batch.size
            self.parallel.print_progress()
            self.owed += 1
            self.pump()

    def is_dispatching(self) -> bool:
        """Are there tasks that were not dispatched yet?"""
        return self.left is not None

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error."""
        with self.lock:
            if self.error is None and not self.aborted:
                self.error = as_joblib(error, self.parallel.timeout)
            self.abort()

    def abort(self) -> None:
        """Cancels what runs and what waits."""
        with self.lock:
            if self.aborted:
                return
            self.aborted = True
            self.parallel._aborting = True
            self.left = None
            self.slices.clear()
            live = list(self.live)
            self.lease.spoil()
        for batch in live:
            batch.future.cancel() if self.uses_threads else batch.future.cancel(force=True)

    # --- results

    def batches(self) -> Iterator[Batch]:
        """What has ended, in the order of the results, as it is there."""
        while True:
            with self.lock:
                if self.error is not None:
                    raise self.error
                if self.aborted:
                    raise RuntimeError("this call of Parallel was given up")
                batch = self.order.popleft() if self.order and self.order[0].state == DONE else None
                if batch is None and not self.live and not self.order and self.left is None:
                    return
                ended = self.ended() if batch is None else []
                for one in ended:
                    self.settle(one)
            if batch is not None:
                yield batch
            elif not ended:
                self.wait()

    def ended(self) -> list[Batch]:
        """Those of the oldest live batches that have ended."""
        return [batch for batch in islice(self.live, WINDOW + 2 * self.n_jobs) if batch.future.done()]

    def wait(self) -> None:
        """Until one of the oldest live batches has ended, or a thread ran into the timeout."""
        with self.lock:
            window = list(islice(self.live, WINDOW + 2 * self.n_jobs))
        if not window:
            return
        seconds = self.time_left(window) if self.uses_threads and self.parallel.timeout is not None else None
        done = _engine.wait([batch.future for batch in window], seconds, "FIRST_COMPLETED").done
        if not done and seconds is not None and self.time_left(window) <= 0:
            self.fail(too_late(self.parallel.timeout))

    def time_left(self, window: list[Batch]) -> float:
        """Seconds until the first of the threads' tasks has run for too long; all may be about to begin."""
        now = time.monotonic()
        return min((batch.began or now) for batch in window) + float(self.parallel.timeout or 0) - now


def has_plain_nesting(backend: Any) -> bool:
    """Do its workers know by themselves which backend is active in them?"""
    from ._base import ParallelBackendBase

    return type(backend).get_nested_backend is ParallelBackendBase.get_nested_backend


def settle_later(run: Run, batch: Batch, _: Any) -> None:
    """A generator's batch has ended: called in a thread of the engine's, or at once."""
    run.settle(batch)


def as_joblib(error: BaseException, timeout: float | None) -> BaseException:
    """The error that a user of joblib expects."""
    if isinstance(error, _errors.TravelError) and not str(error).startswith("the result"):
        message = f"Could not pickle the task to send to the workers: {error}"
        return _errors.travel_error(message, type(error)).with_traceback(error.__traceback__)
    is_late = timeout is not None and isinstance(error, _errors.TaskTimeout)
    return too_late(timeout) if is_late and not isinstance(error, ParallelTimeout) else error


def too_late(timeout: float | None) -> ParallelTimeout:
    """The error of a task that ran into its timeout."""
    return ParallelTimeout(f"a task took longer than its timeout of {timeout} s, and was stopped")


_runs: weakref.WeakSet[Run] = weakref.WeakSet()


def _end_all() -> None:
    """At the interpreter's end nobody asks a generator for results any more."""
    for run in list(_runs):
        if run.parallel.return_generator:
            run.abort()


threading._register_atexit(_end_all)  # type: ignore[attr-defined]
