"""What code can refer to: whose it is, whether it can change, and a watch over the names that were looked at."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Mapping
from itertools import repeat
from operator import attrgetter, is_
from types import CellType, FunctionType
from typing import Any

from . import _keys

MISSING = object()
IMMUTABLE = frozenset(
    (
        "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone",
        "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "re.Pattern", "builtins.range", "builtins.slice",
        "builtins.ellipsis", "builtins.NotImplementedType",
    )
)  # fmt: skip
IMMUTABLE_BASES = frozenset(
    ("pathlib.PurePath", "pathlib._local.PurePath", "enum.Enum", "numpy.generic", "numpy.dtype")
)


def library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {os.path.realpath(sysconfig.get_path(name)) for name in names}
    folders |= {sysconfig.get_path(name) for name in names}
    return tuple(sorted(os.path.join(folder, "") for folder in folders))


LIBRARY = library_folders()
_files: dict[str, bool] = {}


def is_users_file(name: str) -> bool:
    """Is this file, or what has this name as its source, outside the standard library and site-packages?"""
    known = _files.get(name)
    if known is None:
        inside = name.startswith(("<frozen ", *LIBRARY))
        known = _files[name] = not (inside or "/site-packages/" in name or "/dist-packages/" in name)
    return known


def is_users_module(name: str) -> bool:
    module = sys.modules.get(name)
    if name == "__main__" or module is None:
        return True
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return is_users_file(file)
    return getattr(module, "__spec__", None) is None and name not in sys.builtin_module_names


def is_users(thing: Any) -> bool:
    """Is this function or class the user's own?"""
    if isinstance(thing, FunctionType):
        return is_users_file(thing.__code__.co_filename)
    return bool(thing.__flags__ & 1 << 9) and is_users_module(thing.__module__)


def is_immutable(value: Any) -> bool:
    inner = [value]
    while inner:
        each = inner.pop()
        kind = type(each)
        if kind is tuple or kind is frozenset:
            inner.extend(each)
        elif kind not in _keys.SCALARS and not is_immutable_kind(kind):
            return False
    return True


def is_immutable_kind(kind: type) -> bool:
    if f"{kind.__module__}.{kind.__qualname__}" in IMMUTABLE:
        return True
    return any(f"{base.__module__}.{base.__qualname__}" in IMMUTABLE_BASES for base in kind.__mro__)


def by_name(thing: Any) -> bytes:
    """A value's class is tracked for itself."""
    return b""


def label_of(thing: Any) -> str:
    module, name = _keys.named(thing)
    return f"{module}.{name}"


class Watch:
    """What a fingerprint was made of; `holds` as long as each name and each function has what it had."""

    def __init__(self) -> None:
        self.functions: list[FunctionType] = []
        self.cells: list[CellType] = []
        self.contents: list[object] = []
        self.spaces: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}

    def note(self, space: Mapping[str, Any], name: str, value: Any) -> None:
        self.spaces.setdefault(id(space), (space, {}))[1][name] = value

    def freeze(self) -> Callable[[], bool]:
        functions, cells, contents = tuple(self.functions), tuple(self.cells), tuple(self.contents)
        codes, defaults = tuple(map(_code, functions)), tuple(map(_defaults, functions))
        spaces = tuple((space.get, tuple(names), tuple(names.values())) for space, names in self.spaces.values())

        def holds() -> bool:
            for get, names, values in spaces:
                if not all(map(is_, map(get, names, repeat(MISSING)), values)):
                    return False
            if not all(map(is_, map(_code, functions), codes)) or not all(
                map(is_, map(_defaults, functions), defaults)
            ):
                return False
            return not cells or all(map(is_, map(inside, cells), contents))

        return holds


_code, _defaults = attrgetter("__code__"), attrgetter("__defaults__")


def inside(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING
