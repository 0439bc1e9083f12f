"""How arrays and memoryviews of shared memory travel: by the name of their block, in arguments and functions.

They are recognised by address, whatever made them: slices, transposes and views of other dtypes lie in the same block.
A dump that names blocks collects them (`naming`), for the engine to hold until the worker has told what it still holds
itself. Where nobody collects, in a result or in somebody else's pickle, an array is a value like any other: copied.
"""

from __future__ import annotations

import sys
from _thread import _local
from typing import TYPE_CHECKING, Any

from . import _engine, _views

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._engine import SharedBlock
    from .joblib._arguments import Interner


class _Names(_local):
    """The blocks that this thread's dump has named; None: it must not name any."""

    blocks: list[SharedBlock] | None = None
    interner: Interner | None = None
    """Copies large arrays into shared memory, where a dump may name blocks."""


_names = _Names()


def intern_with(interner: Interner | None) -> None:
    """From now on, what this thread dumps for tasks has its large arrays copied by this."""
    _names.interner = interner


class naming:
    """While it is entered, what this thread pickles may name shared blocks: they are collected in the list."""

    def __enter__(self) -> list[SharedBlock]:
        self.before = _names.blocks
        found: list[SharedBlock] = []
        _names.blocks = found
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _names.blocks = self.before


def table() -> dict[type, Callable[[Any], Any]]:
    """What reduces arrays, memoryviews, locks and their kind by name, by exact type; empty where nobody collects."""
    if _names.blocks is None:
        return {}
    found: dict[type, Callable[[Any], Any]] = {memoryview: reduce_view}
    if _names.interner is not None:
        found.update(_names.interner.reducers())
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found[numpy.ndarray] = reduce_array
    sync = sys.modules.get("treadle._sync")
    if sync is not None:
        found.update(sync.REDUCERS)
    return found


def name_block(block: SharedBlock) -> bytes:
    """The name of a block, which is noted; for reducers in the table."""
    if _names.blocks is not None:
        _names.blocks.append(block)
    return block.name()


def _find(extent: tuple[int, int, int] | None) -> SharedBlock | None:
    """The block around an extent, noted as named."""
    if extent is None or _names.blocks is None:
        return None
    block = _engine.shared_find(extent[0], extent[1])
    if block is not None:
        _names.blocks.append(block)
    return block


def note(block: SharedBlock) -> bool:
    """Notes a block that the running dump names; False: it may not."""
    if _names.blocks is None:
        return False
    _names.blocks.append(block)
    return True


# --- arrays


def _array_extent(array: Any) -> tuple[int, int, int] | None:
    """As shared_extent, also for the dtypes that have no buffer: datetimes, and structures with one in them."""
    try:
        return _engine.shared_extent(array)
    except (ValueError, BufferError):
        pass
    if array.size == 0:
        return None
    reaches = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
    before = -sum(reach for reach in reaches if reach < 0)
    behind = sum(reach for reach in reaches if reach > 0) + array.itemsize
    return array.__array_interface__["data"][0] - before, before + behind, before


def reduce_array(array: Any) -> Any:
    """An ndarray in shared memory by name; another one, and one of Python objects, as NumPy reduces it."""
    extent = None if array.dtype.hasobject else _array_extent(array)
    block = _find(extent)
    if block is None or extent is None:
        interner = _names.interner
        copy = interner.copy_of(array) if interner is not None else None
        if interner is None or copy is None:
            return array.__reduce_ex__(5)
        name, start, shape, strides, dtype, _ = reduce_array(copy)[1]
        return attach_copy, (name, start, shape, strides, dtype, interner.mode)
    start = extent[0] + extent[2] - block.address
    return attach_array, (block.name(), start, array.shape, array.strides, array.dtype, array.flags.writeable)


def attach_array(
    name: bytes, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, writeable: bool
) -> Any:
    """The same bytes as an array here."""
    from numpy import ndarray

    block: Any = _engine.shared_open(name)  # NumPy's types know no buffers but the builtin ones before Python 3.12
    array = ndarray(shape, dtype, block, start, strides)
    if not writeable:
        array.flags.writeable = False
    return array


def attach_copy(
    name: bytes, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, mode: str
) -> Any:
    """What was copied for its size: "r" read-only, "r+" shared by those who have it, "c" a copy of one's own."""
    array = attach_array(name, start, shape, strides, dtype, mode == "r+")
    return array.copy("K") if mode == "c" else array


# --- memoryviews


def reduce_view(view: memoryview) -> Any:
    """A memoryview of shared memory by name, where it is contiguous; any other one as it would travel anyway."""
    extent = _engine.shared_extent(view) if view.c_contiguous and _views.is_makeable(view) else None
    block = _find(extent)
    if block is None or extent is None:
        return _views.reduce_view(view)
    return attach_view, (block.name(), extent[0] - block.address, view.nbytes, view.format, view.shape, view.readonly)


def attach_view(name: bytes, start: int, size: int, form: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """The same bytes as a memoryview here."""
    part = memoryview(_engine.shared_open(name))[start : start + size]
    return _views.make_view(part.toreadonly() if readonly else part, form, shape)
