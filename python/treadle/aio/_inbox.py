"""The inbox of an event loop: how it is made, and how it is closed with its loop. What it does: binding/inbox.c."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator

from .. import _engine
from . import _future as _future  # what the inbox's calls have for targets


def open_inbox(loop: asyncio.AbstractEventLoop) -> _engine.Inbox:
    """The inbox of the running loop, which has none yet. The loop's reader holds it."""
    inbox = _engine.Inbox(loop)
    loop.add_reader(inbox.fileno(), inbox.ring)
    keeper = _keep(weakref.ref(inbox))
    inbox.keep(keeper)
    # Begun, it is one of the generators that the loop closes when it shuts down.
    with contextlib.suppress(StopIteration):
        keeper.__anext__().send(None)
    return inbox


async def _keep(reference: weakref.ref[_engine.Inbox]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        inbox = reference()
        if inbox is not None:
            asyncio.get_running_loop().remove_reader(inbox.fileno())
            inbox.close()
