"""The pools of this process: what becomes of them at its end, and in its forks."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from . import _engine

if TYPE_CHECKING:
    from ._executor import ProcessPoolExecutor

exiting = False
"""Set when the interpreter ends: from here on nothing can be submitted."""

pools: weakref.WeakSet[ProcessPoolExecutor] = weakref.WeakSet()
# Those that the user let go of with work pending.
abandoned: set[ProcessPoolExecutor] = set()

forking = threading.RLock()
"""Held while a pool's processes are forked from this one. Where two are at it, each one's zygote could hold our end
of the other's channel, and neither would see that this process was killed."""


def abandon(pool: ProcessPoolExecutor) -> None:
    """Keeps a closed pool, which nobody else holds, until it has ended; the next garbage collection drops it then."""
    if not pool._join(0):
        abandoned.add(pool)
        if drop_ended not in gc.callbacks:
            gc.callbacks.append(drop_ended)


def drop_ended(phase: str, info: object) -> None:
    """Called before and after each collection."""
    if phase == "stop" and abandoned:
        for pool in list(abandoned):
            if pool._join(0):
                abandoned.discard(pool)


def at_exit() -> None:
    """The interpreter ends: pending work is finished, as the stdlib's is, unless Ctrl-C ended the program."""
    global exiting
    exiting = True
    last = getattr(sys, "last_value", None)
    interrupted = isinstance(last, KeyboardInterrupt) and not hasattr(sys, "ps1") and not sys.flags.interactive
    for pool in [*pools, *abandoned]:
        if interrupted:
            pool._interrupt()
        else:
            pool.shutdown(wait=True)
    abandoned.clear()
    _engine._dispatch_stop()


def in_forked_child() -> None:
    """After os.fork() in the child: started pools are inert, others work."""
    global forking
    forking = threading.RLock()
    _engine.after_fork_child()
    for pool in [*pools, *abandoned]:
        pool._forked = pool._started
        pool._lock = threading.Lock()
    abandoned.clear()  # they are the parent's to wait for


# Before the threads are joined, so that callbacks may still use them; atexit would be after.
threading._register_atexit(at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=in_forked_child)
