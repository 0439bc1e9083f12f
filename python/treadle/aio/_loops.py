"""`run`: asyncio.run on the fastest event loop that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")

FASTEST = ("uvloop", "rloop")


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    loop: str | Callable[[], asyncio.AbstractEventLoop] = "auto",
) -> T:
    """`asyncio.run(main)` on a loop of your choice.

    Args:
        main: A coroutine.
        debug: asyncio's debug mode; None leaves it to PYTHONASYNCIODEBUG.
        loop: "auto": uvloop where it is installed, else rloop, else asyncio's own. One of these three by name. Or a
            function that makes a loop.

    Returns:
        What the coroutine returns.

    Raises:
        ModuleNotFoundError: the loop of that name is not installed.
        ValueError: there is no such name.
        RuntimeError: a loop runs in this thread already.

    Source: python/treadle/aio/_loops.py.
    """
    try:
        factory = loop if callable(loop) else factory_of(loop)
    except BaseException:
        main.close()
        raise
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)


def factory_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop of that name."""
    if name == "auto":
        name = next((module for module in FASTEST if find_spec(module) is not None), "asyncio")
    if name not in (*FASTEST, "asyncio"):
        raise ValueError(f"loop must be 'auto', 'asyncio', 'uvloop', 'rloop' or a function, not {name!r}")
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module(name).new_event_loop
    return _new_rloop if name == "rloop" else factory


def _new_rloop() -> asyncio.AbstractEventLoop:
    """rloop's, that closes each of its descriptors once.

    rloop 0.5 closes a pair of sockets and then lets go of the objects that have them, which close the same numbers
    again: by then they may be another thread's.
    """
    loop: Any = import_module("rloop").new_event_loop()
    stop: Any = getattr(loop, "_ssock_stop", None)

    def stop_once() -> None:
        pair = [getattr(loop, name, None) for name in ("_ssock_r", "_ssock_w")]
        stop()
        for end in pair:
            if end is not None:
                end.detach()

    if stop is not None:
        loop._ssock_stop = stop_once
    made: asyncio.AbstractEventLoop = loop
    return made
