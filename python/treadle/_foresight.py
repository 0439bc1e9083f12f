"""What will the workers import? Of the standard library the zygote imports it ahead, once for all of them.

A worker that loads a function by name imports its module, and that what it uses. Modules of the standard library can be
imported by a process that forks: they start no thread, and do nothing but be there. Of others nobody knows, so they are
left to the workers, or to `preload`.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType
from typing import Any

from . import _byvalue

LIBRARY = os.path.dirname(os.__file__) + os.sep
LOOKED_AT = 2000  # globals


def imports_of(function: Any, main_by_reference: bool) -> list[str]:
    """The modules of the standard library from which a function's module, or a function by value, has something."""
    try:
        used = {home_of(value) for value in values_of(function, main_by_reference)}
        return sorted(name for name in used if is_of_library(name))
    except Exception:
        return []  # no more than a hint: where looking fails, the workers see to themselves


def values_of(function: Any, main_by_reference: bool) -> list[Any]:
    """The globals that come along with a function."""
    named = getattr(function, "__module__", None)
    if not isinstance(named, str) or named not in sys.modules:
        return []
    space = vars(sys.modules[named])
    if not isinstance(function, FunctionType) or _byvalue.is_by_name(function, main_by_reference):
        return list(space.values())[:LOOKED_AT]
    return [space[name] for name in _byvalue.global_names(function.__code__) if name in space]


def home_of(value: object) -> str:
    """The module that a value is, or comes from. Looks at the type alone where looking might run code."""
    if isinstance(value, ModuleType):
        return str(value.__dict__.get("__name__", ""))
    owner = value if isinstance(value, (type, FunctionType)) else type(value)
    name = owner.__module__
    return name if isinstance(name, str) else ""


def is_of_library(name: str) -> bool:
    """Is this a module of the standard library, and loaded from there, whoever else may have one of that name?"""
    if name.partition(".")[0] not in sys.stdlib_module_names or name == "__main__":
        return False
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    return isinstance(origin, str) and (origin in ("built-in", "frozen") or origin.startswith(LIBRARY))
