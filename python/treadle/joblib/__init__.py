"""joblib's interface on Treadle: every name of joblib 1.6, and `register`, which puts Treadle under joblib itself.

Everything here is imported at its first use. joblib itself is needed by `dump`, `load`, `register_compressor` and
`register` alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._base import ParallelBackendBase as ParallelBackendBase
    from ._config import parallel_backend as parallel_backend
    from ._config import parallel_config as parallel_config
    from ._config import register_parallel_backend as register_parallel_backend
    from ._counts import cpu_count as cpu_count
    from ._counts import effective_n_jobs as effective_n_jobs
    from ._delayed import delayed as delayed
    from ._dump import dump as dump
    from ._dump import load as load
    from ._dump import register_compressor as register_compressor
    from ._hashing import hash as hash
    from ._log import Logger as Logger
    from ._log import PrintTime as PrintTime
    from ._memory import CacheWarning as CacheWarning
    from ._memory import MemorizedResult as MemorizedResult
    from ._memory import Memory as Memory
    from ._memory import NotMemorizedResult as NotMemorizedResult
    from ._memory import StoreBackendBase as StoreBackendBase
    from ._memory import expires_after as expires_after
    from ._memory import register_store_backend as register_store_backend
    from ._parallel import Parallel as Parallel
    from ._register import register as register
    from ._register import unregister as unregister
    from ._wrapping import wrap_non_picklable_objects as wrap_non_picklable_objects

# Public name -> the submodule that it comes from.
_HOME = {
    "CacheWarning": "_memory",
    "Logger": "_log",
    "MemorizedResult": "_memory",
    "Memory": "_memory",
    "NotMemorizedResult": "_memory",
    "Parallel": "_parallel",
    "ParallelBackendBase": "_base",
    "PrintTime": "_log",
    "StoreBackendBase": "_memory",
    "cpu_count": "_counts",
    "delayed": "_delayed",
    "dump": "_dump",
    "effective_n_jobs": "_counts",
    "expires_after": "_memory",
    "hash": "_hashing",
    "load": "_dump",
    "parallel_backend": "_config",
    "parallel_config": "_config",
    "register": "_register",
    "register_compressor": "_dump",
    "register_parallel_backend": "_config",
    "register_store_backend": "_memory",
    "unregister": "_register",
    "wrap_non_picklable_objects": "_wrapping",
}

__all__ = [
    "Logger",
    "MemorizedResult",
    "Memory",
    "Parallel",
    "ParallelBackendBase",
    "PrintTime",
    "StoreBackendBase",
    "cpu_count",
    "delayed",
    "dump",
    "effective_n_jobs",
    "expires_after",
    "hash",
    "load",
    "parallel_backend",
    "parallel_config",
    "register",
    "register_compressor",
    "register_parallel_backend",
    "register_store_backend",
    "unregister",
    "wrap_non_picklable_objects",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
