"""TREADLE_TRACE=FILE: each process of a pool appends its trace to FILE when it ends."""

from __future__ import annotations

import os

from . import _engine

_begun = 0


def begin() -> None:
    """Switches the engine's trace points on in this process, once, where the option names a file."""
    global _begun
    path = str(_engine.option("TRACE"))
    if path and _begun != os.getpid():
        import atexit

        _begun = os.getpid()
        _engine.trace_on()
        atexit.register(_append, path)


def _append(path: str) -> None:
    if _begun == os.getpid():
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _engine.trace_dump(fd)
        finally:
            os.close(fd)
