"""Treadle's classes in place of the stdlib's, for a suite that imports those by their own names.

`install` runs from a .pth file in each interpreter of the suite, also under `python -I`. The suite's few looks at the
stdlib's private `_processes` and `_broken` are answered here, from `pool.stats()`; Treadle itself has no such thing.
"""

import concurrent.futures
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import treadle
from treadle import shared_memory

# Set while a class is run a second time without its mp_context, for the default start method.
NO_CONTEXT = "TREADLE_UPSTREAM_NO_CONTEXT"

on_worker_death = "heal"
"""What pools are made with from now on."""


class ProcessPoolExecutor(treadle.ProcessPoolExecutor):
    def __init__(self, max_workers: Any = None, mp_context: Any = None, *args: Any, **kwargs: Any) -> None:
        if os.environ.get(NO_CONTEXT):
            mp_context = None
        super().__init__(max_workers, mp_context, *args, on_worker_death=on_worker_death, **kwargs)

    @property
    def _processes(self) -> Mapping[int, "Worker"]:
        return Workers(self)

    @property
    def _broken(self) -> bool:
        return self.stats()["broken"] is not None


class ThreadPoolExecutor(treadle.ThreadPoolExecutor):
    @property
    def _broken(self) -> bool:
        return bool(self._crew.broken)

    @_broken.setter
    def _broken(self, value: bool) -> None:
        """The stdlib's constructor says False."""


class Workers(Mapping[int, "Worker"]):
    """The workers that there are at the moment of each look, by their pids."""

    def __init__(self, pool: treadle.ProcessPoolExecutor) -> None:
        self.pool = pool

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.pool.stats()["workers"] if worker["pid"]]

    def __iter__(self) -> Iterator[int]:
        if not self.pids() and self.pool.stats()["workers"]:
            self.pool.submit(os.getpid).result()  # one is on its way
        return iter(self.pids())

    def __len__(self) -> int:
        return len(self.pool.stats()["workers"])

    def __getitem__(self, pid: int) -> "Worker":
        return Worker(pid)


class Worker:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def terminate(self) -> None:
        """At once: on SIGTERM a worker of Treadle's finishes its task first."""
        os.kill(self.pid, signal.SIGKILL)

    def join(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)


def install() -> None:
    future = treadle.Future  # made of the stdlib's: before that is replaced
    concurrent.futures.Future = concurrent.futures._base.Future = future
    concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor
    concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
    shared_memory._USE_POSIX = True
    sys.modules["multiprocessing.shared_memory"] = multiprocessing.shared_memory = shared_memory


def install_causes() -> None:
    """In the suite's own process: the class of a remote exception's cause, for which there is no public name."""
    import concurrent.futures.process
    import multiprocessing.pool

    concurrent.futures.process._RemoteTraceback = treadle.RemoteTraceback
    multiprocessing.pool.RemoteTraceback = treadle.RemoteTraceback
