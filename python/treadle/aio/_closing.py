"""Ending a pool while the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


async def close(pool: Any, kind: type[BaseException] | None) -> None:
    """Ends it as `with` does; cancelled, or where the body was, it stops what runs."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    stop = kind is not None and issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt))

    def tell(error: BaseException | None) -> None:
        if error is not None:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    def end() -> None:
        error = None
        try:
            if stop:
                interrupt(pool)
            pool.shutdown(wait=True)
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=end, name="treadle-aio-close", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
            await asyncio.shield(loop.run_in_executor(None, interrupt, pool))
    ended.result()
    if cancelled is not None:
        raise cancelled


def interrupt(pool: Any) -> None:
    """Stops what runs, where that can be."""
    if hasattr(pool, "_interrupt"):
        pool._interrupt()
    else:
        pool.shutdown(wait=False, cancel_futures=True)
