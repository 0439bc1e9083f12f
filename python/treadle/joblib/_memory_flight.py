"""Asynchronous cached functions: one computation for each key, and no wait that blocks the event loop.

Callers of one loop wait for each other by futures of that loop. The first of them asks the store, which knows about the
callers in other threads and processes: without waiting, and where that won't do, in a thread that waits.

Whoever would wait for itself computes instead: a context knows what is computed in it, and `waits` what waits for what.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ._memory_base import MISSING, Call, Way
from ._memory_way import LANDED

if TYPE_CHECKING:
    from ._memory_func import AsyncMemorizedFunc

Place = tuple[str, bytes]

chain: ContextVar[tuple[Place, ...]] = ContextVar("treadle_chain", default=())
"""What is computed in this context, the outermost first."""
owner: ContextVar[int] = ContextVar("treadle_owner", default=0)
"""Under which number the store knows this context."""
owners = itertools.count(1 << 62)  # apart from threads' numbers
busy: set[int] = set()
"""Those that wait already: the store lets each wait for one key at a time."""
flights: dict[tuple[asyncio.AbstractEventLoop, Place], asyncio.Future[None]] = {}
waits: list[tuple[Place, Place]] = []


def waits_for(start: Place, goals: Iterable[Place]) -> bool:
    """Does the computation of `start` wait for one of these, by whatever way?"""
    wanted, found, new = set(goals), {start}, [start]
    while new:
        if wanted & found:
            return True
        new = [to for source, to in tuple(waits) if source in new and to not in found]  # other loops' threads change it
        found.update(new)
    return bool(wanted & found)


async def fly(memorized: AsyncMemorizedFunc, args: tuple[Any, ...], kwargs: dict[str, Any], shelve: bool) -> Any:
    """The result of a call, or a reference to it; and what is known about the call."""
    way = memorized._way
    call = way.look(args, kwargs)
    if not way.quick:
        value = way.find(call, shelve)
        return (value, {}) if value is not MISSING else await memorized._compute_async(way, call, shelve)
    place = memorized.store_backend.location, call.key
    loop = asyncio.get_running_loop()
    while (value := way.find(call, shelve)) is MISSING:
        above = chain.get()
        if waits_for(place, above):
            return await memorized._compute_async(way, call, shelve)
        flight = flights.get((loop, place))
        if flight is None:
            landed = await lead(memorized, way, call, place, shelve)
            if landed is not None:
                return landed
        else:
            pair = (above[-1], place) if above else None
            if pair is not None:
                waits.append(pair)
            try:
                await asyncio.shield(flight)
            finally:
                if pair is not None:
                    waits.remove(pair)
    return value, {}


async def lead(memorized: AsyncMemorizedFunc, way: Way, call: Call, place: Place, shelve: bool) -> Any:
    """Computes a call for all of this loop; None: somebody else has, meanwhile."""
    loop = asyncio.get_running_loop()
    flight = flights[loop, place] = loop.create_future()
    number = owner.get()
    if number in busy or not number:
        number = next(owners)
    of_chain, of_owner = chain.set((*chain.get(), place)), owner.set(number)
    try:
        role = await enter(way, call, number)
        if role == LANDED:
            return None
        try:
            return await memorized._compute_async(way, call, shelve)
        finally:
            way.leave(call, role, number)
    finally:
        chain.reset(of_chain)
        owner.reset(of_owner)
        del flights[loop, place]
        flight.set_result(None)


async def enter(way: Way, call: Call, number: int) -> int:
    try:
        return way.enter(call, number, 0.0)
    except TimeoutError:
        pass
    busy.add(number)
    try:
        return await Waiting(way, call, number).role()
    finally:
        busy.discard(number)


class Waiting:
    """A thread that waits for the store, for a coroutine that may be cancelled meanwhile."""

    def __init__(self, way: Way, call: Call, number: int) -> None:
        self.way = way
        self.call = call
        self.number = number
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[int] = self.loop.create_future()
        self.lock = threading.Lock()
        self.entered: int | None = None
        self.abandoned = False

    async def role(self) -> int:
        threading.Thread(target=self.wait, name="treadle-memory", daemon=True).start()
        try:
            return await asyncio.shield(self.future)
        except BaseException:  # cancelled, or thrown away with its loop
            with self.lock:
                self.abandoned = True
                entered = self.entered
            if entered is not None:
                self.way.leave(self.call, entered, self.number)
            raise

    def wait(self) -> None:
        problem = None
        role = LANDED
        try:
            role = self.way.enter(self.call, self.number, None)
        except Exception as error:
            problem = error
        with self.lock:
            if not self.abandoned:
                self.entered = role
                try:
                    self.loop.call_soon_threadsafe(self.tell, role, problem)
                except RuntimeError:  # the loop is closed
                    self.abandoned = True
        if self.abandoned:
            self.way.leave(self.call, role, self.number)

    def tell(self, role: int, problem: Exception | None) -> None:
        if problem is not None:
            self.future.set_exception(problem)
        else:
            self.future.set_result(role)
