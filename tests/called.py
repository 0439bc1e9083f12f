"""What tests have workers call, in a module of its own: a worker imports it, and pytest would take it 0.1 s."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

# --- meetings


class Meeting:
    """A task and its test meet, once: each waits until the other is there."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def in_task(self) -> None:
        with open(self.path, "w"):
            pass

    def in_test(self) -> None:
        with open(self.path):
            pass


def wait_in_task(meeting: Meeting) -> None:
    meeting.in_task()
    while True:
        signal.pause()


def refuse_to_stop(meeting: Meeting) -> None:
    signal.signal(signal.SIGURG, signal.SIG_IGN)  # which tells a worker to raise TaskCancelled
    wait_in_task(meeting)


# --- outcomes


def noop() -> None:
    pass


def square(number: int) -> int:
    if number < 0:
        raise LookupError(number)
    return number * number


def fail(text: str) -> None:
    raise LookupError(text)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Unloadable:
    """Made in a worker, and not to be made anywhere else."""

    def __reduce__(self) -> Any:
        return refuse_outside, (os.getpid(),)


def refuse_outside(pid: int) -> None:
    if pid != os.getpid():
        raise RuntimeError("not here")


# --- context variables

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")
unset: contextvars.ContextVar[str] = contextvars.ContextVar("unset")


def colour_now() -> tuple[str, str]:
    return colour.get(), unset.get("unset")


# --- generators


def stutter(numbers: int, error: str = "") -> Iterator[tuple[int, bytes]]:
    for number in range(numbers):
        yield number, bytes(number)
    if error:
        raise LookupError(error)


async def stutter_later(numbers: int, error: str = "") -> AsyncIterator[tuple[int, bytes]]:
    import asyncio

    for number, data in stutter(numbers):
        await asyncio.sleep(0)
        yield number, data
    if error:
        raise LookupError(error)


def endless(place: Meeting) -> Iterator[bytes]:
    try:
        while True:
            yield bytes(10_000)
    finally:
        place.in_task()


def locks() -> Iterator[Any]:
    yield threading.Lock()
