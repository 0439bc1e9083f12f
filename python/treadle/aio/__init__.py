"""CPU work one await away: what asyncio's users need beside `pool.run`.

Everything here is imported at its first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from ._anyio import run_sync as run_sync
    from ._group import TaskGroup as TaskGroup
    from ._loops import run as run
    from ._places import to_process as to_process
    from ._places import to_thread as to_thread
    from ._stream import stream as stream
    from ._watchdog import Block as Block
    from ._watchdog import LoopBlocked as LoopBlocked
    from ._watchdog import LoopBlockedWarning as LoopBlockedWarning
    from ._watchdog import Report as Report
    from ._watchdog import watchdog as watchdog
    from ._work import as_completed as as_completed
    from ._work import gather as gather
    from ._work import map as map

# Public name -> the submodule that it comes from.
_HOME = {
    "Block": "_watchdog",
    "LoopBlocked": "_watchdog",
    "LoopBlockedWarning": "_watchdog",
    "Report": "_watchdog",
    "TaskGroup": "_group",
    "as_completed": "_work",
    "gather": "_work",
    "map": "_work",
    "run": "_loops",
    "run_sync": "_anyio",
    "stream": "_stream",
    "to_process": "_places",
    "to_thread": "_places",
    "watchdog": "_watchdog",
}

__all__ = [
    "Block",
    "LoopBlocked",
    "LoopBlockedWarning",
    "Report",
    "TaskGroup",
    "as_completed",
    "gather",
    "map",
    "run",
    "run_sync",
    "stream",
    "to_process",
    "to_thread",
    "watchdog",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
