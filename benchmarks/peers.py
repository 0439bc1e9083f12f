"""Pools of many makes, each used as its own documentation says, behind the few calls that the benchmarks make."""

from __future__ import annotations

import concurrent.futures
import importlib
import itertools
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Function = Callable[..., Any]
Calls = Sequence[tuple[Any, ...]]

# For packages that may be missing, and that have no types.
load: Callable[[str], Any] = importlib.import_module


class Peer:
    """A pool; use it in a with statement."""

    slowness = 1
    """A sample of this pool has so many times fewer tasks than one of a pool that makes batches by itself."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool: Any = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Makes the pool."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def call(self, fn: Function, *args: Any) -> Any:
        """One call, waited for."""
        raise NotImplementedError

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        """Each call submitted, then each result collected, in order."""
        raise NotImplementedError

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        """The pool's own map, with its default arguments."""
        raise NotImplementedError

    def stream(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        """The results of a map, in order, as they come."""
        raise NotImplementedError

    def collect_completed(self, fn: Function, calls: Calls) -> int:
        """Each call submitted, then the results collected as they come; how many there were."""
        raise NotImplementedError


class ExecutorPeer(Peer):
    """Whatever has the interface of concurrent.futures."""

    slowness = 10
    as_completed = staticmethod(concurrent.futures.as_completed)

    def stop(self) -> None:
        self.pool.shutdown()

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.submit(fn, *args).result()

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        submit = self.pool.submit
        futures = [submit(fn, *args) for args in calls]
        return [future.result() for future in futures]

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

    def stream(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.map(fn, items)
        return results

    def collect_completed(self, fn: Function, calls: Calls) -> int:
        futures = [self.pool.submit(fn, *args) for args in calls]
        count = 0
        for future in self.as_completed(futures):
            future.result()
            count += 1
        return count


class Treadle(ExecutorPeer):
    slowness = 1
    method = "zygote"

    def start(self) -> None:
        treadle = load("treadle")
        self.as_completed = treadle.as_completed
        self.pool = treadle.ProcessPoolExecutor(self.workers, start_method=self.method)


class TreadleFork(Treadle):
    method = "fork"


class TreadleStdlibCompleted(Treadle):
    """With the stdlib's as_completed, as in a program that changed one import only."""

    def start(self) -> None:
        super().start()
        self.as_completed = concurrent.futures.as_completed


class TreadleThreads(ExecutorPeer):
    def start(self) -> None:
        treadle = load("treadle")
        self.as_completed = treadle.as_completed
        self.pool = treadle.ThreadPoolExecutor(self.workers)


class StdlibFork(ExecutorPeer):
    method = "fork"

    def start(self) -> None:
        context = multiprocessing.get_context(self.method)
        self.pool = concurrent.futures.ProcessPoolExecutor(self.workers, context)


class StdlibForkserver(StdlibFork):
    method = "forkserver"


class StdlibSpawn(StdlibFork):
    method = "spawn"


class StdlibThreads(ExecutorPeer):
    def start(self) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers)


class Loky(ExecutorPeer):
    def start(self) -> None:
        loky = load("loky")
        self.as_completed = loky.as_completed
        self.pool = loky.get_reusable_executor(self.workers)

    def stop(self) -> None:
        self.pool.shutdown(kill_workers=True)


class MultiprocessingPool(Peer):
    def start(self) -> None:
        self.pool = multiprocessing.Pool(self.workers)

    def stop(self) -> None:
        self.pool.terminate()

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.apply(fn, args)

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        results = [self.pool.apply_async(fn, args) for args in calls]
        return [result.get() for result in results]

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

    def stream(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.imap(fn, items)
        return results


class Joblib(Peer):
    """Calls are handed over all at once: joblib makes batches of its own."""

    def start(self) -> None:
        joblib = load("joblib")
        self.delayed = joblib.delayed
        self.pool = joblib.Parallel(n_jobs=self.workers)
        self.pool.__enter__()

    def stop(self) -> None:
        self.pool.__exit__(None, None, None)
        load("joblib.externals.loky").get_reusable_executor().shutdown(kill_workers=True)

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool([self.delayed(fn)(*args)])[0]

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        return list(self.pool(self.delayed(fn)(*args) for args in calls))

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool(self.delayed(fn)(item) for item in items))

    def stream(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        generator = load("joblib").Parallel(n_jobs=self.workers, return_as="generator")
        results: Iterator[Any] = generator(self.delayed(fn)(item) for item in items)
        return results


class Dask(Peer):
    slowness = 100

    def start(self) -> None:
        self.pool = load("distributed").Client(
            n_workers=self.workers, threads_per_worker=1, processes=True, dashboard_address=None
        )

    def stop(self) -> None:
        self.pool.shutdown()

    def call(self, fn: Function, *args: Any) -> Any:
        return self.pool.submit(fn, *args, pure=False).result()

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        futures = [self.pool.submit(fn, *args, pure=False) for args in calls]
        return list(self.pool.gather(futures))

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.gather(self.pool.map(fn, items, pure=False)))


class Ray(Peer):
    slowness = 100

    def start(self) -> None:
        self.ray = load("ray")
        self.ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        self.remotes: dict[Function, Any] = {}

    def stop(self) -> None:
        self.ray.shutdown()

    def remote(self, fn: Function) -> Any:
        """The function's remote, made once, as the decorator would."""
        if fn not in self.remotes:
            self.remotes[fn] = self.ray.remote(fn)
        return self.remotes[fn].remote

    def call(self, fn: Function, *args: Any) -> Any:
        return self.ray.get(self.remote(fn)(*args))

    def submit_all(self, fn: Function, calls: Calls) -> list[Any]:
        remote = self.remote(fn)
        return list(self.ray.get([remote(*args) for args in calls]))

    def map(self, fn: Function, items: Iterable[Any]) -> list[Any]:
        return self.submit_all(fn, [(item,) for item in items])

    def stream(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        remote = self.remote(fn)
        return map(self.ray.get, [remote(item) for item in items])


# --- no pool at all


def bare(fn: Function, items: Sequence[Any], workers: int) -> tuple[float, list[float]]:
    """Forked processes that call the function on every n-th item, and do nothing else.

    Returns the seconds that all of it would take if the processes ended together, however fast each one's CPU is, and
    each item's own seconds, in order.
    """
    go, release = os.pipe()
    pipes = []
    children = []
    for index in range(workers):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(go, 1)  # the end of the file, for all at once
            share = items[index::workers]
            marks = [time.perf_counter()]
            for item in share:
                fn(item)
                marks.append(time.perf_counter())
            with open(write, "wb") as file:
                pickle.dump(marks, file)
            os._exit(0)
        os.close(write)
        pipes.append(read)
        children.append(pid)
    os.close(go)
    os.close(release)
    durations = [0.0] * len(items)
    speeds = []
    for index, read in enumerate(pipes):
        with open(read, "rb") as file:
            marks = pickle.load(file)
        speeds.append((len(marks) - 1) / (marks[-1] - marks[0]))
        durations[index::workers] = [end - start for start, end in itertools.pairwise(marks)]
    for pid in children:
        os.waitpid(pid, 0)
    return len(items) / sum(speeds), durations
