"""`hash`: joblib's own md5 and sha1 values, and fast ones by XXH3.

joblib's value is the digest of a pickle of protocol 3, in which dicts and sets are in order, strings are never
referred to twice, and arrays stand as what describes them, their bytes having gone into the digest at once. The pickler
below writes the same stream, joblib or no joblib: it needs nothing of it but the names of two of its classes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, ClassVar

XXH3 = "xxh3_128"
NAMES = ("md5", "sha1")


class Bound:
    """A method, in the pickle: its name, and what it is bound to."""

    joblib_name = b"_MyHash"

    def __init__(self, *args: object) -> None:
        self.args = args


class Sorted:
    """A set, in the pickle: its elements in order, or their hashes where they have none."""

    joblib_name = b"_ConsistentSet"

    def __init__(self, elements: Iterable[Any]) -> None:
        try:
            self._sequence = sorted(elements)
        except (TypeError, ArithmeticError):  # that of decimal, for a NaN
            self._sequence = sorted(map(hash, elements))


def bound(method: Any) -> Bound:
    name = getattr(method, "__func__", method).__name__
    owner = method.__self__
    if type(owner) is ModuleType:
        return Bound(name, owner.__name__)
    return Bound(name, owner) if owner is None else Bound(name, owner, owner.__class__)


PythonPickler: Any = pickle._Pickler  # the one that is written in Python


class JoblibPickler(PythonPickler):  # type: ignore[misc]
    """Writes what joblib digests."""

    def __init__(self, algorithm: str, coerce_mmap: bool) -> None:
        self.stream = io.BytesIO()
        super().__init__(self.stream, protocol=3)
        self.digest = hashlib.new(algorithm, usedforsecurity=False)
        self.coerce_mmap = coerce_mmap
        self.numpy: Any = sys.modules.get("numpy")

    def hexdigest(self, value: object) -> str:
        try:
            self.dump(value)
        except pickle.PicklingError as error:
            error.args += (f"PicklingError while hashing {value!r}: {error!r}",)
            raise
        self.digest.update(self.stream.getvalue())
        return self.digest.hexdigest()

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if self.numpy is not None:
            if isinstance(obj, self.numpy.dtype):
                # By value: which dtypes are one object differs between a fresh one and one that was unpickled.
                self.digest.update(b"_HASHED_DTYPE")
                self.digest.update(pickle.dumps(obj))
                return
            if isinstance(obj, self.numpy.ndarray) and not obj.dtype.hasobject:
                obj = self.described(obj)
        if isinstance(obj, MethodType | BuiltinMethodType):
            obj = bound(obj)
        super().save(obj, save_persistent_id)

    def described(self, array: Any) -> tuple[object, ...]:
        """Digests an array's bytes; gives what stands for it in the pickle."""
        if array.shape == () or not (array.flags.c_contiguous or array.flags.f_contiguous):
            flat = array.flatten()
        else:
            flat = array if array.flags.c_contiguous else array.T
        # As bytes, because some dtypes have no buffers, such as those of dates.
        self.digest.update(memoryview(flat.view(self.numpy.ndarray).view(self.numpy.uint8)))
        mask: Any = getattr(flat, "mask", None)
        if isinstance(mask, self.numpy.ndarray) and mask.shape:  # for which joblib has no value
            self.digest.update(mask.tobytes())
        mapped = self.coerce_mmap and isinstance(array, self.numpy.memmap)
        cls = self.numpy.ndarray if mapped else array.__class__
        return cls, ("HASHED", array.dtype, array.shape, array.strides)

    def memoize(self, obj: object) -> None:
        if not isinstance(obj, bytes | str):
            super().memoize(obj)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """The two classes of this module under the names that joblib's have; all else as pickle has it."""
        if obj is Bound or obj is Sorted:
            self.write(pickle.GLOBAL + b"joblib.hashing\n" + obj.joblib_name + b"\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    def save_set(self, obj: set[Any]) -> None:
        super().save(Sorted(obj))

    def _batch_setitems(self, items: Iterable[tuple[Any, Any]], *rest: Any) -> None:
        items = list(items)
        try:
            ordered = sorted(items)
        except TypeError:
            ordered = sorted((hash(key), value) for key, value in items)
        super()._batch_setitems(iter(ordered), *rest)

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {
        **PythonPickler.dispatch,
        type(len): save_global,
        type: save_global,
        type(bound): save_global,
        set: save_set,
    }


def hash(obj: object, hash_name: str = "md5", coerce_mmap: bool = False) -> str:
    """A digest of a value, in hexadecimal digits, the same in every process.

    `"md5"` and `"sha1"` give the values that joblib gives. `"xxh3_128"` is for speed, and stands against accidents, not
    against people who look for two values with one hash; it needs the package xxhash. Its values are those of every
    Python version and machine for None, numbers, strings, bytes, the built-in containers and NumPy arrays of plain
    dtypes; others hold for the versions of Python and of the libraries that their types come from. The order of a dict
    or set, and which parts of a value are the same object, make no difference to it; the signs of zeros and the bits of
    NaNs do.

    Args:
        obj: what can be pickled; with `"xxh3_128"` also functions of any kind, by their code.
        hash_name: `"md5"`, `"sha1"` or `"xxh3_128"`.
        coerce_mmap: whether a `numpy.memmap` counts as the array that it is.

    Raises:
        ValueError: there is no such `hash_name`.
        PicklingError: something in it can't be pickled.
        RuntimeError: `"xxh3_128"`, and a container changed while it was read.

    Source: python/treadle/joblib/_hashing.py and _keys.py.
    """
    if hash_name == XXH3:
        from . import _keys

        return _keys.digest(obj, coerce_mmap=coerce_mmap).hex()
    if hash_name not in NAMES:
        raise ValueError(f"Valid options for 'hash_name' are {(*NAMES, XXH3)}. Got hash_name={hash_name!r} instead.")
    return JoblibPickler(hash_name, coerce_mmap).hexdigest(obj)
