"""Event, Barrier and Counter in shared memory, and how they and Lock travel: to tasks alone, by their block's name.

Sources: binding/sync.c, binding/lock.c, core/memory/lock.c, flag.c, barrier.c, counter.c.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NoReturn

from . import _engine, _errors, _sharing
from ._engine import Lock

if TYPE_CHECKING:
    from collections.abc import Callable


class BrokenBarrier(_errors.TreadleError, threading.BrokenBarrierError):
    """A `treadle.shared.Barrier` is broken: a party died or ran into its timeout, or `abort` or `reset` was called.

    A `threading.BrokenBarrierError`, and so a `RuntimeError`.
    """

    __module__ = "treadle"


class Event:
    """A flag that threads of all processes wait for; as `threading.Event`.

    It is passed to tasks: as an argument, inside one, or in a global or closure of a function. Whoever waits when it is
    set is told, also if it is cleared at once.

    Sources: python/treadle/_sync.py, core/memory/flag.c.
    """

    __module__ = "treadle.shared"
    __slots__ = ("__weakref__", "_block")

    def __init__(self) -> None:
        self._block = _engine.flag_new()

    def set(self) -> None:
        """Sets the flag and wakes all who wait for it."""
        _engine.flag_set(self._block)

    def clear(self) -> None:
        """Clears the flag; who comes from now on waits."""
        _engine.flag_clear(self._block)

    def is_set(self) -> bool:
        """Is the flag set?"""
        return _engine.flag_is_set(self._block)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is set: True. False: the timeout, in seconds, has passed."""
        return _engine.flag_wait(self._block, timeout)

    def __repr__(self) -> str:
        return f"<treadle.shared.Event at {id(self):#x}: {'set' if self.is_set() else 'unset'}>"

    def __reduce__(self) -> NoReturn:
        raise _errors.only_to_tasks("Event")


class Barrier:
    """Where threads of all processes wait for each other, again and again; as `threading.Barrier`, but for `action`.

    A party that dies while it waits breaks the barrier, and the others get `BrokenBarrier`. One that dies before it
    comes can't be known: give a `timeout` where that can happen.

    Args:
        parties: How many must come, 1 to 4096. As many tasks must run at once: more than the pool has workers never do.
        timeout: The seconds after which a wait breaks the barrier, where `wait` gives no other number; None: never.

    Raises:
        ValueError: the parties are too few or too many.

    Sources: python/treadle/_sync.py, core/memory/barrier.c.
    """

    __module__ = "treadle.shared"
    __slots__ = ("__weakref__", "_block", "_timeout")

    def __init__(self, parties: int, *, timeout: float | None = None) -> None:
        self._block = _engine.barrier_new(parties)
        self._timeout = timeout

    def wait(self, timeout: float | None = None) -> int:
        """Waits until all have come; a number from 0 to `parties - 1`, another one for each.

        Raises:
            BrokenBarrier: it is broken, perhaps by this wait's timeout, in seconds.
        """
        return _engine.barrier_wait(self._block, self._timeout if timeout is None else timeout)

    def abort(self) -> None:
        """Breaks the barrier, for all who wait and all who come, until it is reset."""
        _engine.barrier_abort(self._block)

    def reset(self) -> None:
        """Makes the barrier whole and empty; who waits gets `BrokenBarrier`."""
        _engine.barrier_reset(self._block)

    @property
    def parties(self) -> int:
        """How many must come."""
        return _engine.barrier_info(self._block)[0]

    @property
    def n_waiting(self) -> int:
        """How many wait at this moment."""
        return _engine.barrier_info(self._block)[1]

    @property
    def broken(self) -> bool:
        """Is it broken?"""
        return _engine.barrier_info(self._block)[2]

    def __repr__(self) -> str:
        parties, waiting, broken = _engine.barrier_info(self._block)
        state = "broken" if broken else f"waiters={waiting}/{parties}"
        return f"<treadle.shared.Barrier at {id(self):#x}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise _errors.only_to_tasks("Barrier")


class Counter:
    """A whole number that all processes add to, without a lock: nothing that is added is lost.

    It has 64 bits and wraps around. It is passed to tasks as `Lock` is.

    Args:
        value: What it begins with.

    Raises:
        OverflowError: a number does not fit in 64 bits.

    Sources: python/treadle/_sync.py, core/memory/counter.c.
    """

    __module__ = "treadle.shared"
    __slots__ = ("__weakref__", "_block")

    def __init__(self, value: int = 0) -> None:
        self._block = _engine.counter_new(value)

    def add(self, number: int = 1) -> int:
        """Adds a number, in one step; the sum."""
        return _engine.counter_add(self._block, number)

    @property
    def value(self) -> int:
        """The number at this moment."""
        return _engine.counter_get(self._block)

    def set(self, value: int) -> None:
        """Sets the number, whatever it was."""
        _engine.counter_set(self._block, value)

    def __repr__(self) -> str:
        return f"<treadle.shared.Counter at {id(self):#x}: {self.value}>"

    def __reduce__(self) -> NoReturn:
        raise _errors.only_to_tasks("Counter")


# --- how they travel


def _reduce_lock(lock: Lock) -> Any:
    return attach_lock, (_sharing.name_block(lock._block()),)


def attach_lock(name: bytes) -> Lock:
    """The same lock here."""
    return Lock._at(_engine.shared_open(name))


def _reduce_event(event: Event) -> Any:
    return attach_event, (_sharing.name_block(event._block),)


def attach_event(name: bytes) -> Event:
    """The same event here."""
    made = Event.__new__(Event)
    made._block = _engine.shared_open(name)
    return made


def _reduce_counter(counter: Counter) -> Any:
    return attach_counter, (_sharing.name_block(counter._block),)


def attach_counter(name: bytes) -> Counter:
    """The same counter here."""
    made = Counter.__new__(Counter)
    made._block = _engine.shared_open(name)
    return made


def _reduce_barrier(barrier: Barrier) -> Any:
    return attach_barrier, (_sharing.name_block(barrier._block), barrier._timeout)


def attach_barrier(name: bytes, timeout: float | None) -> Barrier:
    """The same barrier here."""
    made = Barrier.__new__(Barrier)
    made._block = _engine.shared_open(name)
    made._timeout = timeout
    return made


REDUCERS: dict[type, Callable[[Any], Any]] = {
    Lock: _reduce_lock,
    Event: _reduce_event,
    Barrier: _reduce_barrier,
    Counter: _reduce_counter,
}
