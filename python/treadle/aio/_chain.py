"""asyncio's `wrap_future`, and so `loop.run_in_executor`, without a thread in between.

asyncio ties a future of `concurrent.futures` to one of its own by a callback, which some thread calls, and which then
sends word to the loop. Where that callback is added in the loop's own thread, the loop's inbox sets the outcome.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from functools import partial
from typing import Any

from .. import _engine


def chain(future: _engine.Future[Any], callback: Any) -> bool:
    """Has the inbox do what asyncio's callback would; False: it is not that one, or no loop runs here."""
    loop = _get_running_loop()
    if loop is None or callback.__module__ != "asyncio.futures" or callback.__closure__ is None:
        return False
    cells = dict(zip(callback.__code__.co_freevars, callback.__closure__, strict=True))
    try:
        tied, target, set_state = (cells[name].cell_contents for name in ("dest_loop", "destination", "_set_state"))
    except (KeyError, ValueError):  # asyncio does it otherwise now
        return False
    if tied is not loop:
        return False
    return _engine.follow_in_loop(future, partial(set_state, target, future))
