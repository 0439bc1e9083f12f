"""What signals do in a zygote and in a worker, and in the children that a task forks.

SIGINT is the parent's business. SIGTERM ends a worker after its task. SIGURG makes the engine's wish to stop the
running task an exception in it (core/pool/cancel.c).

At two places the exception can't be had, so the engine hears of it there, and signals again. In a finalizer or a
callback of the collector Python drops it. In an import it would do lasting harm: a package whose import fails is
forgotten, but the modules it had imported from itself are not, and no later import makes them its attributes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, whose enums take 2 ms
import os
import sys

from . import _engine

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from types import FrameType

IMPORTLIB = "<frozen importlib._bootstrap>"
"""The file that importlib's own frames name, which are on the stack of all that an import runs."""


def leave_ctrl_c_to_parent() -> None:
    """Which decides what becomes of us. A fresh interpreter was started with the signal blocked."""
    _signal.signal(_signal.SIGINT, lambda number, frame: None)  # an ignored one would be inherited by subprocesses
    _signal.siginterrupt(_signal.SIGINT, False)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))


def prepare(birth: _engine.Birth) -> None:
    """A worker's: SIGINT nothing, SIGTERM leave after the task, SIGURG interrupt the task if the engine wants that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not birth.interrupted():
            return
        if imports(frame):
            birth.interrupt_again()
            return
        from ._errors import TaskCancelled

        raise TaskCancelled("the task was cancelled, or ran into its timeout")

    leave_ctrl_c_to_parent()
    _signal.signal(_signal.SIGTERM, lambda number, frame: birth.leave())
    birth.heed(_signal.SIGTERM)
    _signal.signal(_signal.SIGURG, interrupt)
    interrupt_again_where_lost(birth)
    let_children_go(birth)


def imports(frame: FrameType | None) -> bool:
    """Is an import under way here, or further out?"""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTLIB:
            return True
        frame = frame.f_back
    return False


def interrupt_again_where_lost(birth: _engine.Birth) -> None:
    """An interruption that Python drops is asked for once more, and not reported."""
    report = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        errors = sys.modules.get(f"{__package__}._errors")  # not there: none was raised yet
        if errors is not None and unraisable.exc_type is errors.TaskCancelled:
            birth.interrupt_again()
        else:
            report(unraisable)

    sys.unraisablehook = hook


def let_children_go(birth: _engine.Birth) -> None:
    """Children that a task forks (multiprocessing's, say) are ordinary processes, which SIGTERM ends at once."""
    before: list[set[int]] = []

    def hold() -> None:  # lest the child's first signal comes to our handler
        before.append(_signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT, _signal.SIGTERM, _signal.SIGURG)))

    def release() -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before.pop())

    def leave_worker_behind() -> None:
        birth.disown()
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.signal(_signal.SIGURG, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=leave_worker_behind)
