"""What a backend is, for Treadle's own and for those that users write, and the one that calls in a loop."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import _counts

if TYPE_CHECKING:
    from ._parallel import Parallel

    Nested = tuple["ParallelBackendBase", int | None]


class FallbackToBackend(Exception):
    """Raised by `configure`: another backend does the work."""

    def __init__(self, backend: ParallelBackendBase) -> None:
        self.backend = backend


class ParallelBackendBase(metaclass=ABCMeta):
    """The base of backends, as joblib has it: `submit` starts a call, and a callback says that it has ended.

    With `supports_retrieve_callback` the callback is given what `retrieve_result_callback` makes the result of.
    Without, it takes anything, and the result is fetched by `retrieve_result`.

    Source: python/treadle/joblib/_base.py.
    """

    __module__ = "treadle.joblib"

    default_n_jobs = 1
    supports_inner_max_num_threads = False
    supports_retrieve_callback = False
    supports_return_generator: Any = property(lambda self: self.supports_retrieve_callback)
    """Whether `return_as="generator"` works."""
    supports_timeout: Any = property(lambda self: self.supports_retrieve_callback)
    """Whether `timeout` is heeded."""
    nesting_level: int | None = None
    inner_max_num_threads: int | None = None
    parallel: Any = None

    MAX_NUM_THREADS_VARS = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    )
    TBB_ENABLE_IPC_VAR = "ENABLE_IPC"

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **backend_kwargs: Any
    ) -> None:
        self.nesting_level = nesting_level
        self.inner_max_num_threads = inner_max_num_threads
        self.backend_kwargs = backend_kwargs

    @abstractmethod
    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once with this `n_jobs`."""

    def apply_async(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Any:
        """The older name of `submit`."""
        raise NotImplementedError("Implement `submit` instead.")

    def submit(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Any:
        """Starts a call of `func()`, after which `callback` is called; something from which to fetch the result."""
        warnings.warn(
            "`apply_async` is deprecated, implement and use `submit` instead.", DeprecationWarning, stacklevel=2
        )
        return self.apply_async(func, callback)

    def retrieve_result_callback(self, out: Any) -> Any:  # noqa: B027
        """The result, of what the callback was given; raises what the call raised."""

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """The result, of what `submit` returned; raises what the call raised."""
        return out.get(timeout=timeout) if self.supports_timeout else out.get()

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Parallel | None = None,
        prefer: str | None = None,
        require: str | None = None,
        **backend_kwargs: Any,
    ) -> int:
        """Makes ready for a call of `Parallel`; the number of workers."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def start_call(self) -> None:  # noqa: B027
        """A call of `Parallel` begins."""

    def stop_call(self) -> None:  # noqa: B027
        """It has ended."""

    def terminate(self) -> None:  # noqa: B027
        """Lets go of the workers."""

    def compute_batch_size(self) -> int:
        """How many calls go to a worker at once."""
        return 1

    def batch_completed(self, batch_size: int, duration: float) -> None:  # noqa: B027
        """So many calls took so many seconds, from their start to their end here."""

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: B027
        """Ends what runs. If `ensure_ready`, others will be submitted."""

    def get_nested_backend(self) -> Nested | ParallelBackendBase:
        """The backend of calls of `Parallel` in what this one runs: threads, and in those a loop."""
        level = (self.nesting_level or 0) + 1
        if level > 1:
            return SequentialBackend(nesting_level=level), None
        from ._backends import ThreadingBackend

        return ThreadingBackend(nesting_level=level), None

    def _prepare_worker_env(self, n_jobs: int) -> dict[str, str]:
        share = max(_counts.cpus_lately() // n_jobs, 1)
        told = self.inner_max_num_threads
        found = {name: os.environ.get(name, str(share)) if told is None else str(told) for name in self.thread_names()}
        if self.TBB_ENABLE_IPC_VAR not in os.environ:
            found[self.TBB_ENABLE_IPC_VAR] = "1"
        return found

    def thread_names(self) -> tuple[str, ...]:
        """The variables that hold BLAS and OpenMP to a number of threads."""
        return tuple(self.MAX_NUM_THREADS_VARS)

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Entered while results are fetched."""
        yield

    @staticmethod
    def in_main_thread() -> bool:
        """Is this the main thread?"""
        return threading.current_thread() is threading.main_thread()


class SequentialBackend(ParallelBackendBase):
    """Calls in a loop, in the calling thread."""

    uses_threads = True
    supports_timeout = False
    supports_retrieve_callback = False
    supports_sharedmem = True

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """One.

        Raises:
            ValueError: n_jobs is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return 1

    def submit(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Any:
        """Never called."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def retrieve_result_callback(self, out: Any) -> Any:
        """Never called."""
        raise RuntimeError("Should never be called for SequentialBackend.")

    def get_nested_backend(self) -> Nested:
        """The one that is active, as if there was no loop."""
        from ._config import get_active_backend

        return get_active_backend()
