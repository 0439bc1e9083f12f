"""What came by value is made anew here, in the worker: the other half of _byvalue.py.

Functions live in the module of the same name as at home (`__main__`, as a rule), so that they share their globals.
"""

from __future__ import annotations

import sys
from _pickle import loads
from types import CellType, FunctionType, ModuleType

from . import _engine

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    Entries = dict[str, tuple[object, Any]]  # a global's name, a digest of its value, and the value

EMPTY = "treadle:empty cell"

_received: dict[str, dict[str, object]] = {}  # module -> name -> the digest that it last came with
_tape: Tape | None = None
_epoch = 0  # how often a global was changed that had come before
_parcels: dict[int, tuple[Tape, list[int]]] = {}  # the definitions that were loaded, and in which epoch they hold
PARCELS = 256


class Tape:
    """Notes the globals that come along while something is loaded, to give them their values again later."""

    def __init__(self) -> None:
        self.entries: list[tuple[dict[str, Any], Entries]] = []
        self.outer: Tape | None = None

    def __enter__(self) -> Tape:
        global _tape
        self.outer, _tape = _tape, self
        return self

    def __exit__(self, *_: object) -> None:
        global _tape
        _tape = self.outer

    def replay(self) -> None:
        """Another version of a function may have changed them since."""
        for space, entries in self.entries:
            receive(space, entries)


def module_named(name: str) -> ModuleType:
    """The module of that name; one that can't be imported and is not there yet is made."""
    module = sys.modules.get(name)
    if module is None:
        import importlib

        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            module = sys.modules[name] = ModuleType(name)
    return module


def space_of(name: str) -> dict[str, Any]:
    """The globals of the module of that name."""
    return module_named(name).__dict__


def empty_cell() -> CellType:
    """A cell that the function which holds it will fill."""
    return CellType()


def make_function(code: CodeType, space: dict[str, Any], closure: tuple[CellType, ...]) -> FunctionType:
    """The function, to be completed by set_function."""
    space.setdefault("__builtins__", __builtins__)
    return FunctionType(code, space, None, None, closure or None)


def set_function(function: FunctionType, state: dict[str, Any]) -> None:
    """Everything about a function that may refer to the function itself."""
    function.__name__, function.__qualname__, function.__module__, function.__doc__ = state["names"]
    function.__defaults__, function.__kwdefaults__ = state["defaults"]
    function.__annotations__ = state["annotations"]
    function.__dict__.update(state["dict"])
    for cell, value in state["cells"]:
        if type(value) is not str or value != EMPTY:
            cell.cell_contents = value
    receive(function.__globals__, state["entries"])


def make_cached(function: FunctionType, parameters: dict[str, Any]) -> Any:
    """The function with a cache of its own, as functools.cache makes it."""
    from functools import lru_cache

    return lru_cache(**parameters)(function)


def set_cached(cached: object, state: tuple[dict[str, Any], Entries]) -> None:
    """Binds it where it was bound at home."""
    space, entries = state
    receive(space, entries)


def receive(space: dict[str, Any], entries: Entries) -> None:
    """Takes over globals that are new here, or that the parent has changed since it last sent them."""
    global _epoch
    home = str(space.get("__name__"))
    if vars(sys.modules.get(home, sys)) is not space:
        space.update((name, value) for name, (_, value) in entries.items())
        return
    if _tape is not None:
        _tape.entries.append((space, entries))
    seen = _received.setdefault(home, {})
    for name, (digest, value) in entries.items():
        if name not in space or (name not in seen and space[name] is None):  # None: a new module's __package__
            space[name] = value
        elif seen.get(name, digest) != digest:
            space[name] = value
            _epoch += 1
            _engine.globals_changed()
        seen[name] = digest


def unpack(key: int, definitions: bytes, data: bytes | memoryview, buffers: list[Any]) -> Any:
    """What _definitions.py packed: a pickle, and the classes and functions that it refers to, which are loaded once."""
    known = _parcels.get(key)
    if known is None:
        with Tape() as tape:
            loads(definitions)
        if len(_parcels) >= PARCELS:
            _parcels.clear()
        _parcels[key] = tape, [_epoch]
    elif known[1][0] != _epoch:
        known[0].replay()
        known[1][0] = _epoch
    return loads(data, buffers=buffers)
