"""Which modules can a worker import?

A fresh interpreter with our search path finds most modules; it does not find `__main__`, modules that were made by hand
(`types.ModuleType`), and those loaded from a place that no path leads to. What lives in such a module travels by value.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib_external import PathFinder  # importlib.machinery's, which is another import
from types import ModuleType

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any

MAIN = ("__main__", "__mp_main__")

_known: dict[str, tuple[ModuleType, bool]] = {}
_patterns: tuple[bytes, ...] = ()
_scanned = 0


def is_findable(name: str) -> bool:
    """Can a fresh interpreter with this search path import the module that we know under that name?"""
    module = sys.modules.get(name)
    if module is None or name in MAIN:
        return False
    known = _known.get(name)
    if known is None or known[0] is not module:
        known = _known[name] = (module, _look(name, module))
    return known[1]


def _look(name: str, module: Any) -> bool:
    spec = getattr(module, "__spec__", None)
    parent, _, _ = name.rpartition(".")
    if spec is None:
        # Some extension modules make their submodules by hand, and make them again when they are imported.
        return bool(parent) and getattr(module, "__file__", None) is None and is_findable(parent)
    if spec.origin in ("built-in", "frozen"):
        return True
    if parent and not is_findable(parent):
        return False
    return _is_beside(spec, parent) or _is_found(name, spec, parent)


def _is_beside(spec: Any, parent: str) -> bool:
    """The short way: the file lies right where the search path says."""
    if not spec.has_location or not isinstance(spec.origin, str):
        return False
    folder = os.path.dirname(spec.origin)
    if spec.submodule_search_locations is not None:
        folder = os.path.dirname(folder)
    path = getattr(sys.modules[parent], "__path__", ()) if parent else sys.path
    return folder in path


def _is_found(name: str, spec: Any, parent: str) -> bool:
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    # Finders of editable installations are installed by the site module in a fresh interpreter, too.
    finders: list[Any] = [PathFinder, *sys.meta_path]
    for finder in finders:
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue
        if found is not None:
            return bool(found.origin == spec.origin)
    return False


def unfindable_patterns() -> tuple[bytes, ...]:
    """How references to modules that travel by value look inside a pickle: their names as it writes them."""
    global _patterns, _scanned
    if len(sys.modules) != _scanned:
        names = list(sys.modules)
        patterns = [_pattern(name) for name in names if name in MAIN or not is_findable(name)]
        _patterns, _scanned = tuple(patterns), len(names)
    return _patterns


def _pattern(name: str) -> bytes:
    """SHORT_BINUNICODE, the length, the name."""
    encoded = name.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(encoded)]) + encoded if len(encoded) < 256 else encoded
