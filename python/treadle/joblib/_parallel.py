"""`Parallel`: its parameters, its life as a context manager, and a call of it. What is dispatched and when: _run.py."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from numbers import Integral
from typing import Any, Self

from . import _arguments, _config, _foreign, _progress, _run
from ._backends import MultiprocessingBackend, PoolBackend
from ._base import SequentialBackend
from ._config import DEFAULTS, UNSET, value_of
from ._delayed import Task
from ._log import Logger

_beginning = threading.Lock()
RETURNS = ("list", "generator", "generator_unordered")


class Parallel(Logger):
    """Calls functions in parallel: `Parallel(n_jobs=2)(delayed(f)(i) for i in range(10))` is a list of ten results.

    Args:
        n_jobs: Workers. -1: as many as there are CPUs (`cpu_count`), -2: one less, and so on. 1: a loop in the calling
            thread. None: what `parallel_config` says, or else 1.
        backend: "treadle" (worker processes that are kept between calls; the default), "threading" or "sequential".
            "loky" and "multiprocessing" are served by Treadle. Or the name of one that was registered, here or with
            joblib; or a backend; or a multiprocessing context, of which the start method is used.
        return_as: "list", "generator" (results as they are there, in the order of the tasks; the work goes on while
            nobody asks) or "generator_unordered" (in the order in which they are there).
        verbose: From 1 on progress is printed, to stdout from 50 on; the higher, the more often.
        timeout: Seconds that each task may take. One that takes longer is stopped (a thread can't be: it is left
            alone), and TimeoutError is raised. Tasks are sent one by one then.
        pre_dispatch: Tasks that are read before there is any result: a number, an expression like "2 * n_jobs", or
            "all". From then on, tasks are read as others end.
        batch_size: Tasks that are sent together, or "auto": as many as take ten milliseconds.
        temp_folder: Accepted, and without effect: there is no folder.
        max_nbytes: From which size on an array among the arguments is copied into shared memory, once for each call,
            rather than sent with each task: bytes, or a text like "1M"; None: never. Of processes only.
        mmap_mode: What workers may do with such an array: "r" read, "r+" write (which all of them see, the caller does
            not), "c" write into a copy of their own. None: as if max_nbytes was.
        prefer: "processes" or "threads", where no backend was chosen.
        require: "sharedmem": threads, whatever was chosen.
        **backend_kwargs: Of processes: `initializer` and `initargs`, `idle_worker_timeout` (seconds).

    A call raises what a task raised, as soon as it has, and gives up the other tasks. One object runs one call at a
    time. As a context manager it holds its workers between calls; they stay warm without that, too.

    Raises:
        ValueError: a parameter is not valid, in joblib's words.

    Sources: python/treadle/joblib/_parallel.py, _run.py, _pools.py.
    """

    __module__ = "treadle.joblib"

    def __init__(
        self,
        n_jobs: int | None = UNSET["n_jobs"],
        backend: Any = UNSET["backend"],
        return_as: str = "list",
        verbose: int = UNSET["verbose"],
        timeout: float | None = None,
        pre_dispatch: int | str = "2 * n_jobs",
        batch_size: Any = "auto",
        temp_folder: Any = UNSET["temp_folder"],
        max_nbytes: int | str | None = UNSET["max_nbytes"],
        mmap_mode: str | None = UNSET["mmap_mode"],
        prefer: str | None = UNSET["prefer"],
        require: str | None = UNSET["require"],
        **backend_kwargs: Any,
    ) -> None:
        super().__init__()
        active, config = _config.choose(prefer, require, verbose)
        given = {
            "max_nbytes": max_nbytes,
            "temp_folder": temp_folder,
            "mmap_mode": mmap_mode,
            "prefer": prefer,
            "require": require,
            "verbose": verbose,
        }
        settings = {key: value_of(value, config, key) for key, value in given.items()}
        self.verbose = settings["verbose"]
        self.timeout = timeout
        self.pre_dispatch = pre_dispatch
        if return_as not in RETURNS:
            raise ValueError(
                'Expected `return_as` parameter to be a string equal to "list","generator" or "generator_unordered", '
                f"but got {return_as} instead."
            )
        self.return_as = return_as
        self.return_generator = return_as != "list"
        self.return_ordered = return_as != "generator_unordered"
        if isinstance(settings["max_nbytes"], str):
            settings["max_nbytes"] = _arguments.bytes_of(settings["max_nbytes"])
        settings["verbose"] = max(0, settings["verbose"] - 50)
        self._backend_kwargs = {**backend_kwargs, **settings}
        self._backend = self._settle_backend(backend, active)
        jobs = value_of(DEFAULTS["n_jobs"] if n_jobs is None else n_jobs, config, "n_jobs")
        try:
            self.n_jobs = int(self._backend.default_n_jobs if jobs is None else jobs)
        except ValueError:
            raise ValueError("n_jobs could not be converted to int") from None
        if settings["require"] == "sharedmem" and not getattr(self._backend, "supports_sharedmem", False):
            raise ValueError(f"Backend {self._backend} does not support shared memory")
        if batch_size != "auto" and not (isinstance(batch_size, Integral) and int(batch_size) > 0):
            raise ValueError(f"batch_size must be 'auto' or a positive integer, got: {batch_size!r}")
        self.batch_size: Any = batch_size
        is_sequential = isinstance(self._backend, SequentialBackend)
        if self.return_generator and not is_sequential and not self._backend.supports_return_generator:
            raise ValueError(f"Backend {self._backend} does not support return_as={return_as}")
        self._reset()

    _running = _managed_backend = _calling = False
    _aborting: bool = False
    _aborted: bool = False
    _call: _run.Run | _foreign.ForeignRun | None = None

    def _settle_backend(self, backend: Any, active: Any) -> Any:
        if backend is DEFAULTS["backend"] or backend is None:
            return active
        if _config.is_backend(backend):
            if backend.nesting_level is None:
                backend.nesting_level = active.nesting_level
            return backend
        if hasattr(backend, "Pool") and hasattr(backend, "Lock"):
            self._backend_kwargs["context"] = backend
            return MultiprocessingBackend(nesting_level=active.nesting_level)
        return _config.factory_of(backend)(nesting_level=active.nesting_level)

    # --- workers

    def __enter__(self) -> Self:
        self._managed_backend = True
        self._calling = False
        self._initialize_backend()
        return self

    def __exit__(self, *_: object) -> None:
        self._managed_backend = False
        if self.return_generator and self._calling:
            self._abort()
        self._terminate_and_reset()

    def _initialize_backend(self) -> int:
        """Leases the workers, or makes a foreign backend ready; their number."""
        try:
            n_jobs: int = self._backend.configure(n_jobs=self.n_jobs, parallel=self, **self._backend_kwargs)
        except Exception as error:
            if type(error).__name__ != "FallbackToBackend":  # ours, or joblib's
                raise
            self._backend = error.backend  # type: ignore[attr-defined]
            return self._initialize_backend()
        if self.timeout is not None and not self._backend.supports_timeout:
            warnings.warn(
                f"The backend class {type(self._backend).__name__!r} does not support timeout. You have set "
                f"'timeout={self.timeout}' in Parallel but the 'timeout' parameter will not be used.",
                stacklevel=3,
            )
        return n_jobs

    def _is_ready(self) -> bool:
        """Does it hold workers already?"""
        gave_them_back = isinstance(self._backend, PoolBackend) and self._backend._workers is None
        return self._managed_backend and not gave_them_back

    def _effective_n_jobs(self) -> int:
        count: int = self._backend.effective_n_jobs(self.n_jobs) if self._backend else 1
        return count

    def _terminate_and_reset(self) -> None:
        if self._calling and hasattr(self._backend, "stop_call"):
            self._backend.stop_call()
        self._calling = False
        self._call = None
        if not self._managed_backend:
            self._backend.terminate()

    def _abort(self, ensure_ready: bool = False) -> None:
        """Gives up the running call; in the garbage collector, perhaps: then the next call finds workers for itself."""
        self._aborting = True
        if self._call is not None:
            self._call.abort()
        if not self._aborted and hasattr(self._backend, "abort_everything"):
            ours_later = isinstance(self._backend, PoolBackend) and not ensure_ready
            self._backend.abort_everything(ensure_ready=self._managed_backend and not ours_later)
        self._aborted = True

    # --- progress

    def _print(self, msg: str) -> None:
        if self.verbose:
            (sys.stderr if self.verbose < 50 else sys.stdout).write(f"[{self}]: {msg}\n")

    def _is_dispatching(self) -> bool:
        return self._iterating or (self._call is not None and self._call.is_dispatching())

    def _is_completed(self) -> bool:
        is_all = self.n_completed_tasks == self.n_dispatched_tasks
        return is_all and not (self._is_dispatching() or self._aborting)

    def print_progress(self) -> None:
        """Called after each batch; `n_completed_tasks` has the tasks that were done so far."""
        if self.verbose:
            text = _progress.message(self)
            if text is not None:
                self._print(text)

    # --- a call

    def _reset(self) -> None:
        self.n_dispatched_batches = self.n_dispatched_tasks = self.n_completed_tasks = 0
        self.n_tasks: int | None = None
        self._nb_consumed = 0
        self._start_time = 0.0
        self._iterating = self._exception = self._aborting = self._aborted = False
        self._pre_dispatch_amount = 0

    def __call__(self, iterable: Iterable[Task]) -> Any:
        """Calls the tasks, which `delayed` made; a list or a generator of the results, as `return_as` says.

        Raises:
            RuntimeError: a call of this object is running.
            TimeoutError: a task took longer than `timeout`.
            pickle.PicklingError: a task can't be sent.
            Exception: what a task raised, or reading the tasks.
        """
        self._begin()
        try:
            self.n_tasks = len(iterable) if isinstance(iterable, Sized) else None
            n_jobs = self._effective_n_jobs() if self._is_ready() else self._initialize_backend()
            if n_jobs == 1 or isinstance(self._backend, SequentialBackend):
                output = self._loop(iterable)
            else:
                output = self._results(self._dispatch(iterable, n_jobs))
        except BaseException:
            self._running = False
            raise
        next(output)  # from here on it cleans up
        return output if self.return_generator else list(output)

    def _begin(self) -> None:
        with _beginning:
            if self._running:
                message = "This Parallel instance is already running !"
                if self.return_generator:
                    message += (
                        " Before submitting new tasks, you must wait for the completion of all the previous tasks, or "
                        "clean all references to the output generator."
                    )
                raise RuntimeError(message)
            self._running = True
        self._reset()
        self._start_time = time.time()

    def _dispatch(self, iterable: Iterable[Task], n_jobs: int) -> _run.Run | _foreign.ForeignRun:
        """What is to run, with nothing dispatched yet."""
        name = type(self._backend).__name__
        if n_jobs == 0:
            raise RuntimeError(f"{name} has no active worker.")
        self._print(f"Using backend {name} with {n_jobs} concurrent workers.")
        self._calling = True
        if hasattr(self._backend, "start_call"):
            self._backend.start_call()
        is_ours = isinstance(self._backend, PoolBackend) and type(self._backend).submit is PoolBackend.submit
        self._call = (_run.Run if is_ours else _foreign.ForeignRun)(self, iter(iterable), n_jobs)
        return self._call

    def _first(self, n_jobs: int) -> int | None:
        """How many tasks are read before there is a result; None: all."""
        given = self.pre_dispatch
        if given == "all":
            return None
        if isinstance(given, str):
            given = int(_progress.evaluate(given.replace("n_jobs", str(n_jobs))))
        self._pre_dispatch_amount = int(given)
        return self._pre_dispatch_amount

    def _results(self, run: _run.Run | _foreign.ForeignRun) -> Iterator[Any]:
        """Dispatches; from the second item on, the results."""
        thread = threading.get_ident()
        try:
            run.start(self._first(run.n_jobs))
            yield None
            with self._backend.retrieval_context():
                for batch in run.batches():
                    for value in batch.values():
                        self._nb_consumed += 1
                        yield value
        except GeneratorExit:
            self._exception = True
            if thread == threading.get_ident():
                self._abort()
            else:  # the collector may run in any thread, at any point, also while this one holds a lock
                threading.Thread(target=self._abort, name="treadle-joblib-abort").start()
            self._warn_exit_early()
            raise
        except BaseException:
            self._exception = True
            self._abort(ensure_ready=True)
            raise
        finally:
            self._running = False
            self._terminate_and_reset()

    def _warn_exit_early(self) -> None:
        unused = self.n_completed_tasks - self._nb_consumed
        texts = [f"{unused} tasks have been successfully executed  but not used."] if unused else []
        if not self._is_completed() and self.n_dispatched_tasks > self.n_completed_tasks:
            running = self.n_dispatched_tasks - self.n_completed_tasks
            texts.append(f"{running} tasks which were still being processed by the workers have been cancelled.")
        if texts and self.return_generator:
            advice = " You could benefit from adjusting the input task iterator to limit unnecessary computation time."
            warnings.warn(" Additionally, ".join(texts) + advice, stacklevel=3)

    def _loop(self, iterable: Iterable[Task]) -> Iterator[Any]:
        """The same without workers."""
        try:
            self._iterating = True
            if self.batch_size not in ("auto", 1):
                iterable = read_ahead(iterable, self.batch_size)
            yield None
            for function, args, kwargs in iterable:
                self.n_dispatched_batches += 1
                self.n_dispatched_tasks += 1
                value = function(*args, **kwargs)
                self.n_completed_tasks += 1
                self.print_progress()
                yield value
                self._nb_consumed += 1
        except BaseException:
            self._exception = self._aborting = self._aborted = True
            raise
        finally:
            self._running = self._iterating = False
            self.print_progress()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"


def read_ahead(iterable: Iterable[Task], count: int) -> Iterator[Task]:
    """The same tasks, of which so many are read at a time."""
    tasks = iter(iterable)
    while batch := list(itertools.islice(tasks, count)):
        yield from batch
