"""One call of `Parallel` on a backend that is not Treadle's: joblib's protocol for those that users and others write.

The backend calls back, in a thread of its own, when a batch has ended; what comes next is dispatched there. Results
are waited for on a condition.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import _batching
from ._config import BatchedCalls
from ._run import DONE, FAILED, PENDING, too_late

if TYPE_CHECKING:
    from ._delayed import Task
    from ._parallel import Parallel


class ForeignBatch:
    """Tasks that were sent together; the callback that the backend gets."""

    def __init__(self, run: ForeignRun, size: int) -> None:
        self.run = run
        self.size = size
        self.state = PENDING
        self.has_ended = False
        self.job: Any = None
        self.result: Any = None

    def __call__(self, out: Any = None) -> None:
        self.run.ended(self, out)

    def values(self) -> list[Any]:
        """The results."""
        values: list[Any] = self.result
        return values


class ForeignRun:
    """One call of `Parallel`, as _run.Run."""

    def __init__(self, parallel: Parallel, tasks: Iterator[Task], n_jobs: int) -> None:
        self.parallel = parallel
        self.backend = parallel._backend
        self.n_jobs = n_jobs
        self.calls_back = bool(self.backend.supports_retrieve_callback)
        self.lock = threading.Condition(threading.RLock())
        self.order: deque[ForeignBatch] = deque()
        self.live = 0  # batches whose callback was not called yet
        self.left: Iterator[Task] | None = tasks
        self.error: BaseException | None = None
        self.aborted = False
        self.sizes = _batching.Sizes(parallel.batch_size, False, None)
        self.slices = _batching.Slices(self.sizes, n_jobs)

    def start(self, first: int | None) -> None:
        """Dispatches the tasks that come before any result, or all of them."""
        assert self.left is not None
        tasks = self.left if first is None else islice(self.left, max(first, 1))
        with self.lock:
            while self.dispatch(tasks, first is None):
                pass
            if first is None:
                self.left = None

    def dispatch(self, tasks: Iterator[Task], is_all: bool) -> bool:
        """Sends the next batch; False: there is none."""
        parallel = self.parallel
        with self.lock:
            if self.aborted:
                return False
            if parallel.batch_size == "auto":
                self.sizes.size = max(1, self.backend.compute_batch_size())
            found = self.slices.next(tasks, is_all)
            if found is None:
                return False
            batch = ForeignBatch(self, len(found))
            parallel.n_dispatched_tasks += batch.size
            parallel.n_dispatched_batches += 1
            if parallel.return_ordered or not self.calls_back:
                self.order.append(batch)
            self.live += 1
            batch.job = self.backend.submit(BatchedCalls(found, self.backend.get_nested_backend()), callback=batch)
            return True

    def ended(self, batch: ForeignBatch, out: Any) -> None:
        """A batch has ended; in a thread of the backend's."""
        with self.lock:
            if batch.has_ended:
                return
            batch.has_ended = True
            self.live -= 1
            self.lock.notify_all()
            if self.aborted:
                return
            if self.calls_back:
                try:
                    batch.result = self.backend.retrieve_result_callback(out)
                except BaseException as error:
                    batch.state = FAILED
                    self.fail(error)
                    return
                batch.state = DONE
                if not self.parallel.return_ordered:
                    self.order.append(batch)
            self.parallel.n_completed_tasks += batch.size
            self.parallel.print_progress()
            try:
                if self.left is not None and not self.dispatch(self.left, True):
                    self.left = None
            except BaseException as error:
                self.fail(error)

    def is_dispatching(self) -> bool:
        """Are there tasks that were not dispatched yet?"""
        return self.left is not None

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error."""
        with self.lock:
            if self.error is None:
                self.error = error
            self.abort()

    def abort(self) -> None:
        """Nothing more is dispatched; what runs is for the backend to end."""
        with self.lock:
            self.aborted = True
            self.parallel._aborting = True
            self.left = None
            self.slices.clear()
            self.lock.notify_all()

    def batches(self) -> Iterator[ForeignBatch]:
        """What has ended, in the order of the results, as it is there."""
        while (batch := self.next_batch()) is not None:
            if not self.calls_back:
                batch.result = self.backend.retrieve_result(batch.job, timeout=self.parallel.timeout)
            yield batch

    def next_batch(self) -> ForeignBatch | None:
        """The next one, when it is there; None: there are no more."""
        with self.lock:
            while True:
                if self.error is not None:
                    raise self.error
                if self.aborted:
                    raise RuntimeError("this call of Parallel was given up")
                if self.order and (self.order[0].state == DONE or not self.calls_back):
                    return self.order.popleft()
                if not self.live and not self.order and self.left is None:
                    return None
                before = self.live, self.order[0] if self.order else None
                timeout = self.parallel.timeout if self.backend.supports_timeout else None
                if not self.lock.wait(timeout) and before == (self.live, self.order[0] if self.order else None):
                    self.fail(too_late(timeout))
