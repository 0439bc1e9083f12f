"""NumPy's values as the bytes that stand for them in digests (_keys.py); None for those that pickle takes apart."""

from __future__ import annotations

import sys
from marshal import dumps
from typing import TYPE_CHECKING, Any

from ._keys_words import ARRAY, BYTES, DTYPE, MASKED, MEMMAP, NUMBER, OBJECTS, Steps, buffer

if TYPE_CHECKING:
    from ._keys import Writer

PLAIN_KINDS = frozenset("biufcmMSUV")


def is_plain(dtype: Any) -> bool:
    """Do the bytes of such an array say all, and its dtype's short name how to read them?"""
    own = dtype.type.__module__ == "numpy"
    return own and dtype.kind in PLAIN_KINDS and dtype.fields is None and dtype.subdtype is None


def of_numpy(writer: Writer, value: Any, kind: type) -> Steps | bytes | None:
    numpy: Any = sys.modules["numpy"]
    if kind is numpy.ndarray:
        return of_array(writer, value, ARRAY)
    if kind is numpy.memmap:
        return of_array(writer, numpy.asarray(value), ARRAY if writer.coerce_mmap else MEMMAP)
    if issubclass(kind, numpy.generic) and is_plain(value.dtype):
        return NUMBER + dumps(value.dtype.str, 2) + raw(value)
    if issubclass(kind, numpy.dtype) and is_plain(value):
        return DTYPE + dumps(value.str, 2)
    if issubclass(kind, numpy.ma.MaskedArray):
        return masked(writer, value, kind)
    return None


def masked(writer: Writer, value: Any, kind: type) -> Steps:
    """Not by its own state, which has the fill value only after somebody has asked for it."""
    numpy: Any = sys.modules["numpy"]
    parts = (value.data, numpy.ma.getmaskarray(value), numpy.asarray(value.fill_value), value.hardmask)
    return MASKED + writer.name(kind) + b"".join((yield from writer.each(parts)))


def of_array(writer: Writer, array: Any, mark: bytes) -> Steps | bytes | None:
    """Its dtype, its shape, its order in memory (of a part of another array: that of a copy), and its bytes."""
    dtype = array.dtype
    if dtype.hasobject:
        return objects(writer, array) if dtype.kind == "O" else None
    if is_plain(dtype):
        return described(array, mark, dumps(dtype.str, 2))
    return structured(writer, array, mark)


def objects(writer: Writer, array: Any) -> Steps:
    return OBJECTS + dumps(array.shape, 2) + b"".join((yield from writer.each((array.ravel().tolist(),))))


def structured(writer: Writer, array: Any, mark: bytes) -> Steps:
    return described(array, mark, (yield from writer.object(array.dtype, type(array.dtype))))


def described(array: Any, mark: bytes, dtype: bytes) -> bytes:
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return b"".join((mark, dtype, dumps((array.shape, fortran), 2), raw(array.T if fortran else array)))


def raw(array: Any) -> bytes:
    numpy: Any = sys.modules["numpy"]
    flat = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
    padded = {"f": 1, "c": 2}.get(array.dtype.kind, 0)
    if padded and array.dtype.itemsize == 16 * padded and numpy.finfo(array.dtype).nmant == 63:
        # Ten bytes of each of x87's numbers say something.
        flat = numpy.ascontiguousarray(flat.reshape(-1, 16)[:, :10]).reshape(-1)
    return buffer(BYTES, flat)
