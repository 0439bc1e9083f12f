"""Warm pools: what calls of `Parallel` run on, kept between them.

Worker processes are shared by all calls that want the same ones: as many, held to as many threads of BLAS, born with
the same initializer. Threads serve one call at a time, because a call inside a call waits for its own. What nobody uses
is kept, two pools of each kind at most, until it was idle for `idle_worker_timeout` seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _engine, _lifetime
from .._executor import ProcessPoolExecutor
from .._threads import ThreadPoolExecutor
from . import _ahead

if TYPE_CHECKING:
    from ._delayed import Task

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
        self._ahead = _ahead.OWN
        self._openmp = dict(kind.environment).get("OMP_NUM_THREADS", "1")

    def foresee(self, tasks: Sequence[Task]) -> None:
        """Sees that what the workers will import is imported once for all of them, if these are the first tasks."""
        if not self._started:
            self._ahead += _ahead.modules_of(tasks)

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


_lock = threading.RLock()
_processes: list[Shelved] = []  # the one used last comes last
_threads: list[Shelved] = []  # each with one user at most
_leases = 0  # that were given, and were not seen to end
_ended: deque[tuple[Shelved, bool]] = deque()  # leases that ended, and whether their pool was spoiled
_doomed: deque[Shelved] = deque()  # off the shelves, to be closed by a thread that may wait
_news: SimpleQueue[None] = SimpleQueue()  # what the watching thread waits for
_watching = False
_next_look = math.inf  # of the watching thread, by time.monotonic(), if it hears no news
_generation = 0  # of pools: those that were made before `close_all` are not used again


class Lease:
    """The use of a pool, by one call or one `with` block; ends with the object."""

    def __init__(self, shelved: Shelved) -> None:
        self.shelved = shelved
        self.pool = shelved.pool
        self.pid = os.getpid()
        self.spoiled = False

    def __del__(self) -> None:
        # In the garbage collector, so at any point of any thread, whatever that holds: nothing is waited for, and
        # what is to be closed is left to others. Who is at the shelves now may have looked already: then the watching
        # thread, which is there as long as there are leases, sees to it.
        if _lifetime and self.pid == os.getpid() and not _lifetime.exiting:
            _ended.append((self.shelved, self.spoiled))
            if _lock._is_owned() or not _lock.acquire(blocking=False):  # type: ignore[attr-defined]
                _news.put(None)
                return
            try:
                _tidy()
                is_news = bool(_doomed) or self.shelved.until < _next_look
            finally:
                _lock.release()
            if is_news:
                _news.put(None)

    def spoil(self) -> None:
        """What it runs was given up, and may go on for a while: threads are not used again."""
        self.spoiled = not isinstance(self.pool, ProcessPoolExecutor)


def lease_processes(kind: Kind, idle_s: float = IDLE_S) -> Lease:
    """The workers of that kind, which others may use at the same time: those that there are, or new ones."""

    def suits(item: Shelved) -> bool:
        return bool(item.pool._kind.is_same(kind) and item.pool.is_usable())

    return _lease(_processes, suits, lambda: Processes(kind), idle_s)


def lease_threads(n_jobs: int) -> Lease:
    """So many threads that nobody else uses."""

    def suits(item: Shelved) -> bool:
        return bool(item.users == 0 and item.pool._max_workers == n_jobs)

    return _lease(_threads, suits, lambda: ThreadPoolExecutor(n_jobs, "treadle-joblib"), IDLE_S)


def _lease(shelf: list[Shelved], suits: Callable[[Shelved], bool], make: Callable[[], Any], idle_s: float) -> Lease:
    """A pool from the shelf, or a new one; it stays there, or the collector could end it together with its lease."""
    with _lock:
        _tidy()
        found = next(filter(suits, shelf), None)
        if found is None:
            found = Shelved(make())
        found.users += 1
        found.idle_s = idle_s
        if found in shelf:
            shelf.remove(found)
        shelf.append(found)
        lease = _give(found)
    _close_doomed()
    return lease


def _give(item: Shelved) -> Lease:
    """A lease, and a thread that watches over its end; holds the lock."""
    global _leases, _watching
    if not _watching:
        threading.Thread(target=_watch, name="treadle-joblib-idle", daemon=True).start()
        _watching = True
    _leases += 1
    return Lease(item)


def close_all() -> None:
    """Ends all pools that nobody uses, and waits for their end; the others end when nobody does any more."""
    global _generation
    with _lock:
        _generation += 1
        _tidy()
        dropped = [item for item in (*_processes, *_threads) if item.users == 0]
        _processes.clear()
        _threads.clear()
    _news.put(None)
    for item in dropped:
        item.pool.shutdown(wait=True)
    _close_doomed()


def tidy() -> None:
    """Puts the pools of leases that have ended back, as happens by itself soon after."""
    with _lock:
        _tidy()
    _close_doomed()


def _tidy() -> None:
    """The same, without closing those that are not kept. Holds the lock; calls nothing that takes others."""
    global _leases
    now = time.monotonic()
    while _ended:
        item, spoiled = _ended.popleft()
        _leases -= 1
        item.users -= 1
        item.until = now if spoiled else now + item.idle_s
        if item.users == 0 and item.generation != _generation:
            _doomed.append(item)
    for shelf in (_processes, _threads):
        idle = [item for item in shelf if item.users == 0]
        dropped = [item for item in idle if item.until <= now or not is_alive(item.pool)]
        living = [item for item in idle if item not in dropped]
        dropped += living[: max(0, len(living) - KEPT)]
        if dropped:
            _doomed.extend(dropped)
            shelf[:] = [item for item in shelf if item not in dropped]


def is_alive(pool: Any) -> bool:
    """Is it a pool that can be used, or one of threads?"""
    return not isinstance(pool, Processes) or pool.is_usable()


def _close_doomed() -> None:
    with contextlib.suppress(IndexError):
        while True:
            _doomed.popleft().pool.shutdown(wait=False)


# --- idleness


def _watch() -> None:
    """Closes pools that were idle for too long; ends when there are none, and no leases."""
    global _watching, _next_look
    while True:
        with _lock:
            _tidy()
            if not (_leases or _processes or _threads or _doomed):
                _watching = False
                return
            _next_look = min((item.until for item in (*_processes, *_threads) if item.users == 0), default=math.inf)
            look = 0.0 if _doomed else _next_look
        _close_doomed()
        with contextlib.suppress(Empty):
            _news.get(timeout=min(max(look - time.monotonic(), 0.0), threading.TIMEOUT_MAX))


def _in_forked_child() -> None:
    global _lock, _leases, _news, _watching, _next_look
    _lock = threading.RLock()
    _leases = 0
    _news = SimpleQueue()
    _watching = False
    _next_look = math.inf
    for things in (_processes, _threads, _ended, _doomed):
        things.clear()


os.register_at_fork(after_in_child=_in_forked_child)


def is_inline() -> bool:
    """TREADLE_INLINE=1: nothing runs elsewhere."""
    _engine.reload_options()
    return bool(_engine.option("INLINE"))
