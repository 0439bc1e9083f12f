"""The errors. Each derives from TreadleError and from the built-in or stdlib class that existing handlers catch.

WorkerDied, PoolBroken and ArrivalError derive from the stdlib's BrokenProcessPool, whose module takes 15 ms to import:
they are made at their first use, by the module's `__getattr__`. The functions below it make the errors that the engine
reports, so that the extension module knows no wording. Each message says what happened, to which task, and what can be
done.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any


class TreadleError(Exception):
    """The base of all of Treadle's errors. Sources: python/treadle/_errors.py, _broken.py."""

    __module__ = "treadle"


class TaskTimeout(TreadleError, TimeoutError):
    """A task ran longer than its `timeout` and was stopped. A `TimeoutError`."""

    __module__ = "treadle"


class TaskCancelled(BaseException):
    """Raised inside a running task by `future.cancel(force=True)` or at its timeout.

    Not an `Exception`, for the reason for which KeyboardInterrupt is none: a task's `except Exception` must not
    swallow it. In an import it waits for the import's end, and where a finalizer drops it it comes again. A task that
    goes on regardless is killed after the grace time (TREADLE_GRACE).
    """

    __module__ = "treadle"


class PoolClosed(TreadleError, RuntimeError):
    """A task was submitted after `shutdown()`, or at the interpreter's end. A `RuntimeError`."""

    __module__ = "treadle"


class ForkedPool(TreadleError, RuntimeError):
    """A pool that the parent had started was used in a child made by `os.fork()`. A `RuntimeError`."""

    __module__ = "treadle"


class TravelError(TreadleError, pickle.PicklingError):
    """A function, an argument or a result that can't be pickled; the message has the path to it.

    A `pickle.PicklingError`. Where pickling raised one of the common built-in exceptions, it is one of these, too.
    """

    __module__ = "treadle"


class NoRoom(TreadleError, MemoryError):
    """Data that doesn't fit below a memory limit: TREADLE_ARENA_BYTES, the cgroup's, `ulimit`. A `MemoryError`."""

    __module__ = "treadle"


class PerformanceHint(UserWarning):
    """A warning of what works but is slow: it names the cause and the cure, and is given once.

    `warnings.simplefilter("ignore", treadle.PerformanceHint)` has it be silent.
    """

    __module__ = "treadle"


class CorruptData(TreadleError, RuntimeError):
    """Data from another process that failed a check. A `RuntimeError`."""

    __module__ = "treadle"


class CorruptEntry(CorruptData):
    """An entry of a cache that was torn, or changed on the disk; it is removed. A `RuntimeError`."""

    __module__ = "treadle"


class LockHolderDied(TreadleError, RuntimeError):
    """Who held a `treadle.shared.Lock` ended without releasing it. A `RuntimeError`.

    `acquire()` raises it once and has the lock then: look at what the lock protects, which may be half done, and
    release it. `with` raises it without the lock, and so it does for all who come after, until one has taken the lock
    with `acquire()`.
    """

    __module__ = "treadle"


class RemoteTraceback(Exception):
    """The cause of an exception that a worker raised: its text is the worker's traceback."""

    __module__ = "treadle"

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb
        """The text, as the stdlib's class has it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.tb.rstrip()}\n"""'


if TYPE_CHECKING:
    from ._broken import ArrivalError as ArrivalError
    from ._broken import PoolBroken as PoolBroken
    from ._broken import WorkerDied as WorkerDied
    from ._sync import BrokenBarrier as BrokenBarrier


def __getattr__(name: str) -> Any:
    if name in ("ArrivalError", "PoolBroken", "WorkerDied"):
        from . import _broken as home
    elif name == "BrokenBarrier":
        from . import _sync as home  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(home, name)
    globals()[name] = value
    return value


# --- made for the extension module


def worker_died(*details: Any) -> BaseException:
    """The error of a task whose worker died: see _broken.py, whose import can wait until one does."""
    from . import _broken

    return _broken.worker_died(*details)


# As which a TravelError may be caught.
_REASONS = (TypeError, AttributeError, ValueError, RecursionError, NotImplementedError, RuntimeError)
_travel_errors: dict[type[BaseException], type[TravelError]] = {Exception: TravelError}


def travel_error(message: str, kind: type[BaseException]) -> TravelError:
    """A TravelError that is also of the kind, as far as that is a common one."""
    base = next((base for base in kind.__mro__ if base in _REASONS), Exception)
    if base not in _travel_errors:
        members = {"__module__": "treadle", "__reduce__": lambda self: (travel_error, (str(self), base))}
        _travel_errors[base] = type("TravelError", (TravelError, base), members)
    return _travel_errors[base](message)


def task_timeout(name: str | None, seconds: float | None) -> BaseException:
    """The error of a task that ran into its timeout."""
    limit = f"its timeout of {seconds:g} s" if seconds else "its timeout"
    return TaskTimeout(
        f"{task_title(name)} ran longer than {limit} and was stopped. Give it more time with "
        "pool.options(timeout=...), or split its work into smaller tasks."
    )


def pool_broken(reason: str | None) -> BaseException:
    """The error of all tasks of a broken pool, and of submitting to it."""
    from . import _broken

    return _broken.PoolBroken(reason or "the pool is broken and can't be used any more")


def pool_closed() -> BaseException:
    """The error of submitting after shutdown, in the stdlib's words."""
    if is_exiting():
        # The traceback of an exit handler is read by people who look for the stdlib's line.
        return RuntimeError("cannot schedule new futures after interpreter shutdown")
    return PoolClosed("cannot schedule new futures after shutdown")


def pool_forked() -> BaseException:
    """The error of using, in a forked child, a pool that its parent had started."""
    return ForkedPool(
        "this pool was started before os.fork() and belongs to the parent process: make a new one in the child, "
        "or submit nothing before the fork (a pool that has not started yet works in the child)"
    )


def lock_holder_died(in_with: bool) -> BaseException:
    """The error of acquiring a lock whose holder has died."""
    if in_with:
        return LockHolderDied(
            "the process or thread that held this lock ended without releasing it, and what the lock protects may be "
            "half done. `with` has not taken it: call acquire(), which raises this too but holds the lock then, look "
            "after what it protects, and release()"
        )
    return LockHolderDied(
        "the process or thread that held this lock ended without releasing it, and what the lock protects may be half "
        "done. This thread holds it now: look after that, and release()"
    )


def corrupt_entry(path: str, key: bytes) -> BaseException:
    """The error of getting an entry that failed its checks."""
    return CorruptEntry(
        f"the entry {key.hex()} of the cache in {path!r} was torn, or changed on the disk: it is not used"
    )


def only_to_tasks(name: str) -> BaseException:
    """The error of pickling what stands for a place in shared memory, where nobody would keep that place."""
    return TypeError(
        f"a treadle.shared.{name} can only be passed to tasks, in their arguments or in what their function refers to: "
        "it can't be pickled otherwise, copied, or returned"
    )


def task_title(name: str | None) -> str:
    """How messages name a task."""
    return f"the task {name!r}" if name else "the task"


def is_exiting() -> bool:
    """Is the interpreter past the point from which pools may not be used?"""
    lifetime = sys.modules.get("treadle._lifetime")
    return bool(lifetime and lifetime.exiting) or sys.is_finalizing()
