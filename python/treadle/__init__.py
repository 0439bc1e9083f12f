"""One push, many threads: parallel Python on one C engine.

Everything here is imported at its first use, so that `import treadle` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from . import aio as aio
    from . import joblib as joblib
    from . import shared as shared
    from ._broadcast import Broadcast as Broadcast
    from ._broadcast import broadcast as broadcast
    from ._engine import Future as Future
    from ._errors import (
        ArrivalError as ArrivalError,
    )
    from ._errors import (
        BrokenBarrier as BrokenBarrier,
    )
    from ._errors import (
        CorruptData as CorruptData,
    )
    from ._errors import (
        CorruptEntry as CorruptEntry,
    )
    from ._errors import (
        ForkedPool as ForkedPool,
    )
    from ._errors import (
        LockHolderDied as LockHolderDied,
    )
    from ._errors import (
        NoRoom as NoRoom,
    )
    from ._errors import (
        PerformanceHint as PerformanceHint,
    )
    from ._errors import (
        PoolBroken as PoolBroken,
    )
    from ._errors import (
        PoolClosed as PoolClosed,
    )
    from ._errors import (
        RemoteTraceback as RemoteTraceback,
    )
    from ._errors import (
        TaskCancelled as TaskCancelled,
    )
    from ._errors import (
        TaskTimeout as TaskTimeout,
    )
    from ._errors import (
        TravelError as TravelError,
    )
    from ._errors import (
        TreadleError as TreadleError,
    )
    from ._errors import (
        WorkerDied as WorkerDied,
    )
    from ._executor import ProcessPoolExecutor as ProcessPoolExecutor
    from ._futures import (
        ALL_COMPLETED as ALL_COMPLETED,
    )
    from ._futures import (
        FIRST_COMPLETED as FIRST_COMPLETED,
    )
    from ._futures import (
        FIRST_EXCEPTION as FIRST_EXCEPTION,
    )
    from ._futures import (
        as_completed as as_completed,
    )
    from ._futures import (
        wait as wait,
    )
    from ._pool import Pool as Pool
    from ._shareable import ShareableList as ShareableList
    from ._threads import ThreadPoolExecutor as ThreadPoolExecutor
    from .shared_memory import SharedMemory as SharedMemory

__version__ = "0.1.0"

# Public name -> the submodule that it comes from.
_HOME = {
    "ALL_COMPLETED": "_futures",
    "ArrivalError": "_errors",
    "Broadcast": "_broadcast",
    "BrokenBarrier": "_errors",
    "CorruptData": "_errors",
    "CorruptEntry": "_errors",
    "FIRST_COMPLETED": "_futures",
    "FIRST_EXCEPTION": "_futures",
    "ForkedPool": "_errors",
    "Future": "_engine",
    "LockHolderDied": "_errors",
    "NoRoom": "_errors",
    "PerformanceHint": "_errors",
    "Pool": "_pool",
    "PoolBroken": "_errors",
    "PoolClosed": "_errors",
    "ProcessPoolExecutor": "_executor",
    "RemoteTraceback": "_errors",
    "ShareableList": "_shareable",
    "SharedMemory": "shared_memory",
    "TaskCancelled": "_errors",
    "TaskTimeout": "_errors",
    "ThreadPoolExecutor": "_threads",
    "TravelError": "_errors",
    "TreadleError": "_errors",
    "WorkerDied": "_errors",
    "as_completed": "_futures",
    "broadcast": "_broadcast",
    "wait": "_futures",
}

_MODULES = ("aio", "joblib", "shared")

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "ArrivalError",
    "Broadcast",
    "BrokenBarrier",
    "CorruptData",
    "CorruptEntry",
    "ForkedPool",
    "Future",
    "LockHolderDied",
    "NoRoom",
    "PerformanceHint",
    "Pool",
    "PoolBroken",
    "PoolClosed",
    "ProcessPoolExecutor",
    "RemoteTraceback",
    "ShareableList",
    "SharedMemory",
    "TaskCancelled",
    "TaskTimeout",
    "ThreadPoolExecutor",
    "TravelError",
    "TreadleError",
    "WorkerDied",
    "aio",
    "as_completed",
    "broadcast",
    "joblib",
    "shared",
    "wait",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def _start_watchdog() -> None:
    """Where the environment asks for it."""
    from os import environ

    if environ.get("TREADLE_WATCHDOG"):
        from .aio._watchdog import from_environment

        from_environment()


_start_watchdog()
