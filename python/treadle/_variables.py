"""Context variables that travel: by the module and the name under which they are defined.

A variable of a module that a worker can import is that module's. One of `__main__` is made anew there, once, with its
default.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

Place = tuple[str, str]
"""Module and name."""

_places: dict[contextvars.ContextVar[Any], Place] = {}


def place_of(variable: contextvars.ContextVar[Any]) -> Place:
    """Where a variable is defined: at the top level of a module.

    Raises:
        ValueError: nowhere.
    """
    place = _places.get(variable)
    if place is not None:
        return place
    for home, module in list(sys.modules.items()):
        names = vars(module) if isinstance(module, ModuleType) else {}
        for name in (variable.name, *names):
            if names.get(name) is variable and home == names.get("__name__"):
                _places[variable] = home, name
                return home, name
    raise ValueError(
        f"the context variable {variable.name!r} is not defined at the top level of a module, so that workers can't "
        "find it: define it there, or pass its value as an argument"
    )


def find(home: str, name: str, *default: Any) -> contextvars.ContextVar[Any]:
    """In a worker: the variable of that place."""
    module = sys.modules.get(home) or import_module(home)
    found = getattr(module, name, None)
    if not isinstance(found, contextvars.ContextVar):
        found = contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)
        setattr(module, name, found)
    return found


def reduce_variable(variable: contextvars.ContextVar[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """How pickles name it."""
    default: tuple[Any, ...]
    try:
        default = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    return find, (*place_of(variable), *default)


class Carrying:
    """A function that is called with some context variables as they are now."""

    def __init__(self, func: Callable[..., T], variables: Iterable[contextvars.ContextVar[Any]]) -> None:
        self.func = func
        self.values = []
        for variable in variables:
            if not isinstance(variable, contextvars.ContextVar):
                raise TypeError(f"context takes context variables, not {type(variable).__name__}")
            place_of(variable)
            with suppress(LookupError):  # it has no value here, and none there
                self.values.append((variable, variable.get()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return contextvars.copy_context().run(self._call, args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for variable, value in self.values:
            variable.set(value)
        return self.func(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _carry, (self.func, [(*reduce_variable(variable), value) for variable, value in self.values])


def _carry(func: Callable[..., Any], values: list[tuple[Callable[..., Any], tuple[Any, ...], Any]]) -> Carrying:
    carrying = Carrying(func, ())
    carrying.values = [(make(*place), value) for make, place, value in values]
    return carrying
