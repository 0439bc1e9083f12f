"""Functions that a worker finds under their names: they travel without pickle, whose import takes 3 ms."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Loaded = tuple[Callable[..., Any], Callable[[], None] | None]

MARK = b"N"  # a pickle begins with 0x80


def pack(function: Any) -> bytes:
    """The bytes of a function or class that is found under its name (_byvalue.is_by_name)."""
    return MARK + f"{function.__module__}\0{function.__qualname__}".encode("utf-8", "surrogatepass")


def load(data: bytes) -> Any:
    """What pack packed."""
    module, _, qualname = data[len(MARK) :].decode("utf-8", "surrogatepass").partition("\0")
    __import__(module)
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def load_for_worker(data: bytes) -> Loaded:
    """The callable of _travel.pack_function's bytes, and what gives its globals the values again that they came with,
    where some came along.
    """
    if data.startswith(MARK):
        return load(data), None
    from . import _travel

    return _travel.load_by_value(data)
