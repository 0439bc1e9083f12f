"""Warm pools: what calls of `Parallel` run on, kept between them.

Worker processes are shared by all calls that want the same ones: as many, held to as many threads of BLAS, born with
the same initializer. Threads serve one call at a time, because a call inside a call waits for its own. What nobody uses
is kept, two pools of each kind at most, until it was idle for `idle_worker_timeout` seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .. import _engine, _lifetime
from .._executor import ProcessPoolExecutor
from .._threads import ThreadPoolExecutor

KEPT = 2
IDLE_S = 300.0


class Kind(NamedTuple):
    """What makes two pools of processes the same."""

    n_jobs: int
    family: str
    """The backend's name, which decides what may be nested in it."""
    level: int
    """Of nesting, for what runs in the workers."""
    environment: tuple[tuple[str, str], ...]
    """What the workers' environment has besides the user's."""
    start_method: str | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()

    def is_same(self, other: Kind) -> bool:
        """Whether the other's workers would do."""
        mine, theirs = (self.initializer, *self.initargs), (other.initializer, *other.initargs)
        return self[:5] == other[:5] and len(mine) == len(theirs) and all(map(is_same, mine, theirs))


def is_same(one: object, other: object) -> bool:
    """Equality, where that is a yes or a no."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # arrays, for example
        return False


preloaded: tuple[str, ...] = ()
"""Modules that are imported once for all workers of a pool, before they are forked."""

# --- in the workers

family = ""
"""In a worker of `Parallel`: the family of its pool."""


def prepare(kind: str, level: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """A worker's initializer: calls of `Parallel` in its tasks are nested ones."""
    from . import _config
    from ._backends import ThreadingBackend
    from ._base import SequentialBackend

    global family
    family = kind
    backend = (SequentialBackend if level > 1 else ThreadingBackend)(nesting_level=level)
    _config.set_for_process({"backend": backend, "n_jobs": None})
    if initializer is not None:
        initializer(*initargs)


# --- pools


class Processes(ProcessPoolExecutor):
    """A pool whose workers' environment has more than this process's."""

    def __init__(self, kind: Kind) -> None:
        initargs = (kind.family, kind.level, kind.initializer, kind.initargs)
        options: dict[str, Any] = {"start_method": kind.start_method, "preload": preloaded}
        super().__init__(kind.n_jobs, initializer=prepare, initargs=initargs, **options)
        self._kind = kind

    def _set_capture(self, cpus: int, initializer: bytes | None, main: dict[str, str] | None) -> Any:
        settled = super()._set_capture(cpus, initializer, main)
        self._capture = partial(self._capture, added=dict(self._kind.environment))
        return settled

    def is_usable(self) -> bool:
        """Can it be submitted to?"""
        if self._closed or self._forked:
            return False
        return not self._started or self._broken_reason() is None


class Shelved:
    """A pool on the shelf."""

    def __init__(self, pool: Any, idle_s: float = IDLE_S) -> None:
        self.pool = pool
        self.users = 0
        self.idle_s = idle_s
        self.until = 0.0  # when it has been idle for too long, by time.monotonic()
        self.generation = _generation


_lock = threading.Condition()
_processes: list[Shelved] = []  # the one used last comes last
_threads: list[Shelved] = []  # idle ones only
_ended: deque[tuple[Shelved, bool]] = deque()  # leases that ended, and whether their pool was spoiled
_watching = False
_generation = 0  # of pools: those that were made before `close_all` are not used again


class Lease:
    """The use of a pool, by one call or one `with` block; ends with the object."""

    def __init__(self, shelved: Shelved) -> None:
        self.shelved = shelved
        self.pool = shelved.pool
        self.pid = os.getpid()
        self.spoiled = False

    def __del__(self) -> None:
        # At any point of any thread: also inside this module, with the lock held.
        if _lifetime and self.pid == os.getpid() and not _lifetime.exiting:
            _ended.append((self.shelved, self.spoiled))
            _sweep()

    def spoil(self) -> None:
        """What it runs was given up, and may go on for a while: threads are not used again."""
        self.spoiled = not isinstance(self.pool, ProcessPoolExecutor)


def lease_processes(kind: Kind, idle_s: float = IDLE_S) -> Lease:
    """The workers of that kind, which others may use at the same time: those that there are, or new ones."""
    with _lock:
        dropped = _tidy()
        found = next((item for item in _processes if item.pool._kind.is_same(kind) and item.pool.is_usable()), None)
        if found is None:
            found = Shelved(Processes(kind))
        else:
            _processes.remove(found)
        _processes.append(found)
        found.idle_s = idle_s
        found.users += 1
    _close(dropped)
    _sweep()
    return Lease(found)


def lease_threads(n_jobs: int) -> Lease:
    """So many threads that nobody else uses."""
    with _lock:
        dropped = _tidy()
        found = next((item for item in _threads if item.pool._max_workers == n_jobs), None)
        if found is not None:
            _threads.remove(found)
        else:
            found = Shelved(ThreadPoolExecutor(n_jobs, "treadle-joblib"))
        found.users = 1
    _close(dropped)
    _sweep()
    return Lease(found)


def close_all() -> None:
    """Ends all pools that nobody uses, and waits for their end; the others end when nobody does any more."""
    global _generation
    with _lock:
        _generation += 1
        dropped = _tidy()
        dropped += [item for item in (*_processes, *_threads) if item.users == 0]
        _processes.clear()
        _threads.clear()
        _lock.notify_all()
    for item in dropped:
        item.pool.shutdown(wait=True)
    _sweep()


def _sweep() -> None:
    """Sees to leases that have ended, unless this thread holds the lock: it does so afterwards."""
    while _ended and not _lock._is_owned():  # type: ignore[attr-defined]
        with _lock:
            dropped = _tidy()
        _close(dropped)


def _tidy() -> list[Shelved]:
    """Puts back what leases have ended; gives what is to be closed. Holds the lock."""
    dropped = []
    while _ended:
        item, spoiled = _ended.popleft()
        item.users -= 1
        if item.users:
            pass
        elif spoiled or item.generation != _generation:
            dropped.append(item)
        elif isinstance(item.pool, Processes):
            _rest(item)
        else:
            _threads.append(item)
            _rest(item)
    for shelf in (_processes, _threads):
        idle = [item for item in shelf if item.users == 0]
        dead = [item for item in idle if isinstance(item.pool, Processes) and not item.pool.is_usable()]
        living = [item for item in idle if item not in dead]
        dropped += dead + living[: max(0, len(living) - KEPT)]
        shelf[:] = [item for item in shelf if item not in dropped]
    return dropped


def _close(dropped: list[Shelved]) -> None:
    for item in dropped:
        item.pool.shutdown(wait=False)


# --- idleness


def _rest(item: Shelved) -> None:
    """Notes when it has been idle for too long; holds the lock."""
    global _watching
    item.until = time.monotonic() + item.idle_s
    if not _watching:
        _watching = True
        threading.Thread(target=_watch, name="treadle-joblib-idle", daemon=True).start()


def _watch() -> None:
    """Closes pools that were idle for too long; ends when there are none."""
    global _watching
    while True:
        with _lock:
            now = time.monotonic()
            dropped = _tidy()
            for shelf in (_processes, _threads):
                late = [item for item in shelf if item.users == 0 and item.until <= now]
                dropped += late
                shelf[:] = [item for item in shelf if item not in late]
            waits = [item.until - now for item in (*_processes, *_threads) if item.users == 0]
            if not dropped:
                if not waits:
                    _watching = False
                    return
                if not _ended:
                    _lock.wait(min(waits))
        _close(dropped)
        _sweep()


def _in_forked_child() -> None:
    global _lock, _watching
    _lock = threading.Condition()
    _watching = False
    _processes.clear()
    _threads.clear()
    _ended.clear()


os.register_at_fork(after_in_child=_in_forked_child)


def is_inline() -> bool:
    """TREADLE_INLINE=1: nothing runs elsewhere."""
    _engine.reload_options()
    return bool(_engine.option("INLINE"))
