"""What works but is slow is said once: a PerformanceHint, a warning that names the cause and the cure."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ._byvalue import global_names
from ._errors import PerformanceHint
from ._travel import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGE = str(Path(__file__).parent)
_said: set[object] = set()


def large_function(function: Callable[..., object], packed_bytes: int) -> None:
    """Says what makes a function large, once for each function.

    Its bytes go to each worker once for each content, but are made, and compared, for each submit or map: what it
    refers to may have changed.
    """
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    code = getattr(inner, "__code__", name)
    if code in _said:
        return
    _said.add(code)
    parts = sorted(((_size(value), where) for where, value in _captured(function)), reverse=True)
    size, where = parts[0] if parts else (0, "")
    cause = f", most of it in {where} ({_text(size)})" if 2 * size > packed_bytes else ""
    _hint(
        f"the function '{name}' takes {_text(packed_bytes)} along{cause}. They are looked through at each submit. "
        "A treadle.broadcast(...) is sent to each worker once, an array of treadle.shared not at all"
    )


def _captured(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, FunctionType):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            try:
                yield f"its closure's '{name}'", cell.cell_contents
            except ValueError:
                continue  # not filled in yet
        for name in global_names(function.__code__):
            if name in function.__globals__:
                yield f"the global '{name}'", function.__globals__[name]
        for value in function.__defaults__ or ():
            yield "its defaults", value
    elif isinstance(function, MethodType):
        yield f"its object, a {type(function.__self__).__qualname__}", function.__self__
        yield from _captured(function.__func__)
    elif isinstance(function, partial):
        for number, value in enumerate(function.args):
            yield f"its argument {number}", value
        for name, value in function.keywords.items():
            yield f"its argument '{name}'", value
        yield from _captured(function.func)


def _size(value: object) -> int:
    """As it travels; 0: it can't by itself."""
    try:
        data, buffers, *_ = dump(value, True)
    except Exception:
        return 0
    pieces = [data] if isinstance(data, bytes) else data
    return sum(memoryview(piece).nbytes for piece in [*pieces, *buffers])


def _text(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _hint(text: str) -> None:
    """Shown at the first line outside the package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, PerformanceHint, stacklevel=level)
