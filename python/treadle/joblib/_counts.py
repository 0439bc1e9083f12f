"""How many CPUs there are, and what `n_jobs` makes of them."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from .. import _options

CPUS = Path("/sys/devices/system/cpu")
FRESH_S = 1.0

_lately = (-math.inf, 0)
"""When the CPUs were counted last for `cpus_lately`, and how many there were."""


def has_processes() -> bool:
    """JOBLIB_MULTIPROCESSING=0 switches worker processes off."""
    return os.environ.get("JOBLIB_MULTIPROCESSING", "1") != "0"


def cpu_count(only_physical_cores: bool = False) -> int:
    """The CPUs that this process may use: affinity mask, cgroup quota, a worker's share, and LOKY_MAX_CPU_COUNT.

    With `only_physical_cores`, CPUs that share a core count as one, unless something else than the machine sets the
    limit. With JOBLIB_MULTIPROCESSING=0 it is 1.

    Source: python/treadle/joblib/_counts.py.
    """
    if not has_processes():
        return 1
    count = _options.cpu_budget()
    told = os.environ.get("LOKY_MAX_CPU_COUNT")
    if told:
        count = min(count, int(told))
    count = max(count, 1)
    if only_physical_cores and count == os.cpu_count():
        return physical_cores() or count
    return count


def cpus_lately() -> int:
    """`cpu_count()`, as it was a second ago at most: it takes 90 us, as cgroups are files."""
    global _lately
    now = time.monotonic()
    when, count = _lately
    if now - when > FRESH_S:
        count = cpu_count()
        _lately = now, count
    return count


def physical_cores() -> int:
    """The cores of the machine, or 0 where it doesn't tell."""
    cores = {path.read_text() for path in CPUS.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return len(cores)


def workers_of(n_jobs: int | None) -> int:
    """The number of workers that `n_jobs` stands for: from -1 on downwards, all CPUs, all but one, and so on.

    Raises:
        ValueError: n_jobs is 0.
    """
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    if n_jobs is None or not has_processes():
        return 1
    return n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)


def effective_n_jobs(n_jobs: int | None = -1) -> int:
    """How many calls run at once with this `n_jobs`, on the backend that is active here.

    Source: python/treadle/joblib/_counts.py.
    """
    if n_jobs == 1:
        return 1
    from ._config import get_active_backend

    backend, configured = get_active_backend()
    return int(backend.effective_n_jobs(configured if n_jobs is None else n_jobs))
