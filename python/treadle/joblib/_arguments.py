"""Large arrays among the arguments: copied into shared memory once for each call of `Parallel`, and passed by name.

It is what joblib's `max_nbytes` and `mmap_mode` are for; there is no file and no folder. An array is recognised by its
identity while it lives. Arrays that are in shared memory already travel as they always do, memory maps by their file.
"""

from __future__ import annotations

import sys
import threading
import weakref
from mmap import mmap
from typing import TYPE_CHECKING, Any

from .. import _sharing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._delayed import Task

ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MODES = {"r": "r", "r+": "r+", "w+": "r+", "c": "c"}


def bytes_of(text: str) -> int:
    """The bytes in a text like "1M".

    Raises:
        ValueError: it is not like that.
    """
    try:
        return int(UNITS[text[-1:]] * float(text[:-1]))
    except (KeyError, ValueError):
        raise ValueError(
            f"Invalid literal for size give: {text} (type {type(text)}) should be alike '10G', '500M', '50K'."
        ) from None


class Interner:
    """The shared copies of one call's arrays. Entered around each submit."""

    def __init__(self, min_bytes: int, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mmap_mode must be one of {list(MODES)} or None, not {mode!r}")
        self.min_bytes = min_bytes
        self.mode = MODES[mode]
        self._copies: dict[int, tuple[weakref.ref[Any], Any]] = {}
        self._lock = threading.Lock()

    def may_find(self, task: Task) -> bool:
        """Is a large array among the arguments, or in one of them? They have to be pickled then, one by one."""
        if "numpy" not in sys.modules:
            return False
        _, args, kwargs = task
        return not all(type(value) in ATOMS for value in (*args, *kwargs.values()))

    def copy_of(self, array: Any) -> Any:
        """The shared copy of an array, or None where it travels by value: it is small, or there is no room."""
        if array.nbytes < self.min_bytes or array.dtype.hasobject:
            return None
        known = self._copies.get(id(array))
        if known is not None and known[0]() is array:
            return known[1]
        from .. import shared

        try:
            copy = shared.copy(array)
        except MemoryError:
            return None
        copies, key = self._copies, id(array)

        def forget(reference: weakref.ref[Any]) -> None:
            if key in copies and copies[key][0] is reference:
                del copies[key]

        self._copies[key] = (weakref.ref(array, forget), copy)
        return copy

    def reducers(self) -> dict[type, Callable[[Any], Any]]:
        """What reduces memory maps: by the file's name."""
        numpy = sys.modules.get("numpy")
        return {} if numpy is None else {numpy.memmap: reduce_memmap}

    def __enter__(self) -> Interner:
        if "numpy" in sys.modules and "treadle.shared" not in sys.modules:
            from .. import shared as shared  # from here on arrays are recognised
        _sharing.intern_with(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _sharing.intern_with(None)


# --- memory maps


def reduce_memmap(array: Any) -> Any:
    """A numpy.memmap, or a part of one, by its file; as NumPy reduces it where what it shows is not in the file."""
    numpy = sys.modules["numpy"]
    root = array
    while isinstance(root.base, numpy.memmap):
        root = root.base
    is_contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    if not isinstance(root.base, mmap) or array.filename is None or array.mode == "c" or not is_contiguous:
        return array.__reduce_ex__(5)
    offset = array.ctypes.data - root.ctypes.data + root.offset
    mode = "r" if not array.flags.writeable else "r+"
    order = "C" if array.flags.c_contiguous else "F"
    return open_memmap, (str(array.filename), array.dtype, mode, offset, array.shape, order)


def open_memmap(name: str, dtype: Any, mode: Any, offset: int, shape: tuple[int, ...], order: Any) -> Any:
    """The same part of the same file."""
    import numpy

    return numpy.memmap(name, dtype, mode, offset, shape, order)
