"""Exceptions across processes: the same type, the worker's traceback as their cause, notes kept, groups too.

What is sent is the pickle of a node: the exception, the text of its traceback (which has those that it was raised
from), its notes, and of a group a node for each member. An exception that can't be pickled, or that can't be loaded
again, is replaced by a TravelError that has its type, its text and its traceback: a fault never stays unreported, and
never kills the worker.
"""

from __future__ import annotations

import builtins
from types import TracebackType
from typing import Any

from . import _errors, _travel

Node = tuple[Any, str, "list[str] | None", "list[Any] | None"]


def dump_exception(error: BaseException) -> bytes:
    """The bytes of an exception and its traceback. Raises nothing but what a signal's handler or no memory raises."""
    text = traceback_text(error)
    try:
        if not isinstance(error, BaseExceptionGroup) and is_plain(error):
            return _travel.plain((error, text, notes(error), None))
        return _travel.dump_whole(node(error, text), True)
    except MemoryError:
        raise
    except Exception as reason:
        return _travel.plain((unsendable(error, reason), text, None, None))


def load_exception(data: bytes) -> BaseException:
    """The exception, to be raised: its cause is the worker's traceback as text."""
    return revive(_travel.loads(data))


# --- the worker


def node(error: BaseException, text: str) -> Node:
    """The node of any exception."""
    if not isinstance(error, BaseExceptionGroup):
        return sendable(error), text, notes(error), None
    members = [node(member, traceback_text(member)) for member in error.exceptions]
    return shell(error), text, notes(error), members


def is_plain(error: BaseException) -> bool:
    """A built-in exception with nothing special about it travels for sure where its arguments do."""
    return (
        type(error).__module__ == "builtins"
        and not vars(error).keys() - {"__notes__"}
        and all(type(arg) in (str, int, float, bool, type(None), bytes) for arg in error.args)
    )


def sendable(error: BaseException) -> BaseException:
    """The exception where it can be pickled and loaded again, else what stands for it."""
    try:
        data = _travel.dump_whole(error, True)
        if getattr(builtins, type(error).__name__, None) is not type(error):
            copy = _travel.loads(data)
            if type(copy) is not type(error):
                raise TypeError(f"loads as {type(copy).__name__}")
        return error
    except MemoryError:
        raise
    except Exception as reason:
        return unsendable(error, reason)


def unsendable(error: BaseException, reason: BaseException) -> BaseException:
    """Stands for an exception that can't travel."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _errors.TravelError(
        f"the task raised {name}: {text_of(error)}\n"
        f"which could not be sent back itself: {type(reason).__name__}: {text_of(reason)}"
    )


def shell(group: BaseExceptionGroup[Any]) -> BaseExceptionGroup[Any]:
    """A group without its members, which are sent beside it: derive() makes it again."""
    member: BaseException = Exception() if isinstance(group, ExceptionGroup) else BaseException()
    try:
        empty = group.derive([member])
        empty.__dict__.update({name: item for name, item in vars(group).items() if name != "__notes__"})
        _travel.loads(_travel.dump_whole(empty, True))
        return empty
    except MemoryError:
        raise
    except Exception:
        return BaseExceptionGroup(group.message, [member])  # an ExceptionGroup, where the member allows it


def notes(error: BaseException) -> list[str] | None:
    """The notes that the user added, as strings."""
    found = getattr(error, "__notes__", None)
    return [str(note) for note in found] if isinstance(found, (list, tuple)) else None


def traceback_text(error: BaseException) -> str:
    """The traceback as Python would print it, less Treadle's own frames."""
    try:
        import traceback

        return "".join(traceback.format_exception(type(error), error, skip_own(error.__traceback__)))
    except MemoryError:
        raise
    except Exception as reason:
        return f"{type(error).__name__}: {text_of(error)} (its traceback could not be formatted: {text_of(reason)})\n"


def skip_own(trace: TracebackType | None) -> TracebackType | None:
    """The first frame that isn't Treadle's."""
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    return trace


def text_of(error: BaseException) -> str:
    """str() that never fails."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without text>"


def cannot_load(what: str, error: BaseException) -> BaseException:
    """What stands for an exception that loading something raised; what says enough stays as it is."""
    if isinstance(error, (_errors.TreadleError, MemoryError)):
        return error
    failure: BaseException = _errors.ArrivalError(f"{what}: {type(error).__qualname__}: {text_of(error)}")
    failure.__cause__ = error
    return failure


# --- the parent


def revive(sent: Node) -> BaseException:
    """The exception that a node stands for."""
    error, text, added, members = sent
    if not isinstance(error, BaseException):
        raise _errors.CorruptData("data from another process failed a check: an error is no exception")
    if members is not None:
        error = regroup(error, [revive(member) for member in members])
    if added:
        error.__notes__ = list(added)
    error.__cause__ = _errors.RemoteTraceback(text)
    return error


def regroup(shell: Any, members: list[BaseException]) -> BaseException:
    """The group with its members again."""
    group = shell.derive(members)
    group.__dict__.update(vars(shell))
    return group  # type: ignore[no-any-return]
