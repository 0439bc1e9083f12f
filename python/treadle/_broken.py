"""The errors that derive from the stdlib's BrokenProcessPool; see _errors.py for why they live apart."""

from __future__ import annotations

import signal as signals
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ._errors import TravelError, TreadleError, task_title


class WorkerDied(TreadleError, BrokenProcessPool):
    """The worker that ran a task died: killed, out of memory, crashed in C, or left by `os._exit`.

    Only this task failed; its pool goes on. A `concurrent.futures.process.BrokenProcessPool`.
    """

    __module__ = "treadle"

    task: str | None = None
    """The task's name."""
    pid: int | None = None
    """The worker that died last with it."""
    signal: int | None = None
    """The signal that killed the worker, or None."""
    exit_code: int | None = None
    """Its exit code, where it left by itself, or None."""
    oom_suspected: bool = False
    """Whether the kernel's out-of-memory killer is the likely cause."""
    quarantined: bool = False
    """Whether its retries were used up by deaths."""
    deaths: int = 1
    """How many workers died with this task."""
    stack: str = ""
    """The Python stack that faulthandler wrote in the worker, or an empty string."""

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.__dict__.update(details)


class PoolBroken(TreadleError, BrokenProcessPool):
    """The pool can run nothing any more; the message has the reason.

    A `concurrent.futures.process.BrokenProcessPool`.
    """

    __module__ = "treadle"


class ArrivalError(TravelError, BrokenProcessPool):
    """Something that was sent could not be loaded where it arrived; the cause is what loading raised.

    A `BrokenProcessPool`, as that is what the stdlib's pool gives to all its tasks then. Here only one task fails.
    """

    __module__ = "treadle"


def worker_died(
    name: str | None,
    pid: int | None,
    signal: int | None,
    exit_code: int | None,
    oom: bool,
    quarantined: bool,
    deaths: int,
    stack: str,
    broken: bool = False,
) -> WorkerDied:
    """The error of a task whose worker died. Non-positive signals and negative exit codes are unknown ones."""
    signal = signal if signal is not None and signal > 0 else None
    exit_code = exit_code if exit_code is not None and exit_code >= 0 and signal is None else None
    parts = [f"the worker that ran {task_title(name)} died: {how(pid, signal, exit_code)}."]
    if oom:
        parts.append(
            "The kernel's out-of-memory killer is the likely cause: give the pool fewer workers or the task less data."
        )
    if quarantined:
        parts.append(f"It is quarantined: {deaths} workers died with it, and no retry is left.")
    elif broken:
        parts.append("Its pool is broken, too.")
    else:
        parts.append("Only this task failed, and the pool goes on; retries=1 would have run it again.")
    if stack:
        parts.append(f"\nIts last Python stack:\n{stack.rstrip()}")
    return WorkerDied(
        " ".join(parts),
        task=name,
        pid=pid,
        signal=signal,
        exit_code=exit_code,
        oom_suspected=oom,
        quarantined=quarantined,
        deaths=deaths,
        stack=stack,
    )


def how(pid: int | None, signal: int | None, exit_code: int | None) -> str:
    """The manner of a death, for a message."""
    who = f"process {pid}" if pid else "it"
    if signal is not None:
        try:
            return f"{who} was ended by {signals.Signals(signal).name}"
        except ValueError:
            return f"{who} was ended by signal {signal}"
    if exit_code is not None:
        return f"{who} left with exit code {exit_code}"
    return f"{who} ended, its exit code is not known"
