"""The fast digest of a value: what `hash(..., "xxh3_128")` gives, and what keys of `Memory` are made of.

A value is written as bytes that it alone has, and these are digested. Scalars, and tuples and lists of nothing else,
are written by marshal's format 2, which has been the same since Python 3.0 and refers to nothing twice. Large buffers,
and whatever has something in it that isn't a scalar, stand as digests of their own. Dicts and sets are written in
order. Everything else is taken apart as pickle would (`__reduce_ex__`), and the bytes then end with the versions of
Python and of the packages that its types come from.

Which parts of a value are one object makes no difference, with one exception: where a value contains itself, its parts
are numbered in the order in which they are met.

A container is read in one step, and a RuntimeError says so if its size was another at the end: what other threads write
into an array meanwhile is not seen.
"""

from __future__ import annotations

import copyreg
import hashlib
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Sized
from marshal import dumps
from operator import itemgetter
from pickle import whichmodule  # type: ignore[attr-defined] # it is not in its stub
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Protocol

xxh3: Callable[[Any], bytes] | None
try:
    from xxhash import xxh3_128_digest as xxh3
except ImportError:
    xxh3 = None

SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes, type(Ellipsis)))
INLINE_ITEMS = 64
"""Containers of so many scalars stand as they are inside others; longer ones as digests."""
LARGE = 1 << 16
"""Bytes of more than this stand as a digest, wherever they are."""
PLAIN_KINDS = frozenset("biufcmMSUV")

# What opens each part: none of these is a type of marshal's.
BYTES, BYTEARRAY, TEXT, LIST, DICT, SET, FROZENSET, TUPLE = (
    b"\x80",
    b"\x81",
    b"\x82",
    b"\x83",
    b"\x84",
    b"\x85",
    b"\x86",
    b"\x87",
)
ARRAY, OBJECTS, NUMBER, DTYPE, NAME, CODE, OBJECT, NODE = (
    b"\x90",
    b"\x91",
    b"\x92",
    b"\x93",
    b"\x94",
    b"\x95",
    b"\x96",
    b"\x97",
)
AGAIN, VERSIONS, MASKED, MEMMAP = b"\x98", b"\x99", b"\x9a", b"\x9b"

first, second = itemgetter(0), itemgetter(1)


class Changed(RuntimeError):
    """A container changed while it was read."""


class ContainsItself(Exception):
    """Its parts need numbers."""


class CodeOf(Protocol):
    """What knows the code of functions and classes."""

    def __call__(self, thing: Any, /) -> bytes | None:
        """A digest of it; None where its name says enough."""


def blake2(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


fingerprint: Callable[[Any], bytes] = xxh3 or blake2
"""A digest of 16 bytes: XXH3 where the package xxhash is there."""


def digest(value: object, coerce_mmap: bool = True, code_of: CodeOf | None = None) -> bytes:
    """The digest of a value, 16 bytes; see the top of this file.

    Raises:
        ImportError: xxhash is missing.
    """
    if xxh3 is None:
        raise ImportError("hash_name='xxh3_128' needs the package xxhash: pip install xxhash")
    return key_digest(value, coerce_mmap, code_of)


def key_digest(value: object, coerce_mmap: bool = True, code_of: CodeOf | None = None) -> bytes:
    """`digest`, by another algorithm where xxhash is missing."""
    if type(value) is tuple and len(value) <= INLINE_ITEMS and SCALARS.issuperset(map(type, value)):
        try:
            return fingerprint(dumps(value, 2))
        except ValueError:  # something in it is larger than marshal's format knows
            pass
    try:
        return Writer(coerce_mmap, code_of).digest(value)
    except ContainsItself:
        return NumberingWriter(coerce_mmap, code_of).digest(value)


def is_plain(dtype: Any) -> bool:
    """Do the bytes of such an array say all, and its dtype's short name how to read them?"""
    own = dtype.type.__module__ == "numpy"
    return own and dtype.kind in PLAIN_KINDS and dtype.fields is None and dtype.subdtype is None


def named(thing: Any) -> tuple[str, str]:
    """The module and the name of a function or class."""
    name = getattr(thing, "__qualname__", None) or thing.__name__
    module = getattr(thing, "__module__", None)
    if isinstance(getattr(thing, "__self__", None), ModuleType):
        module = thing.__self__.__name__
    return module or whichmodule(thing, name), name


class Writer:
    """Writes values, in which nothing contains itself."""

    def __init__(self, coerce_mmap: bool, code_of: CodeOf | None) -> None:
        self.coerce_mmap = coerce_mmap
        self.code_of = code_of
        self.numpy = sys.modules.get("numpy")
        self.packages: set[str] = set()
        self.written: dict[int, bytes] = {}
        self.open: set[int] = set()
        self.kept: list[object] = []  # so that no other object gets one's id

    def digest(self, value: object) -> bytes:
        written = self.write(value)
        return fingerprint(written + self.versions() if self.packages else written)

    def versions(self) -> bytes:
        """Those of the interpreter and of the packages that types came from."""
        found = [f"{sys.implementation.name}={sys.version_info[0]}.{sys.version_info[1]}"]
        for package in sorted(self.packages):
            version = getattr(sys.modules.get(package), "__version__", None)
            if isinstance(version, str):
                found.append(f"{package}={version}")
        return VERSIONS + dumps(tuple(found), 2)

    # --- what needs no digest of its own

    def write(self, value: Any) -> bytes:
        kind = type(value)
        if kind in SCALARS:
            return self.scalar(value)
        if kind is tuple or kind is list:
            items = tuple(value)
            if len(items) <= INLINE_ITEMS and SCALARS.issuperset(map(type, items)):
                try:
                    return dumps(items, 2) if kind is tuple else LIST + dumps(items, 2)
                except ValueError:
                    pass
        return self.node(value, kind)

    def scalar(self, value: Any) -> bytes:
        if type(value) is bytes and len(value) > LARGE:
            return self.buffer(BYTES, value)
        try:
            return dumps(value, 2)
        except ValueError:
            text: Any = value
            return self.buffer(TEXT, text.encode("utf-8", "surrogatepass"))

    @staticmethod
    def buffer(mark: bytes, data: Any) -> bytes:
        return mark + len(data).to_bytes(8, "little") + fingerprint(data)

    # --- what has one

    def node(self, value: Any, kind: type) -> bytes:
        """A value that is written once, however often it is met."""
        at = id(value)
        if at in self.written:
            return self.written[at]
        if at in self.open:
            raise ContainsItself
        self.open.add(at)
        written = NODE + fingerprint(self.content(value, kind))
        self.open.discard(at)
        self.written[at] = written
        self.kept.append(value)
        return written

    def content(self, value: Any, kind: type) -> bytes:
        if kind is tuple or kind is list:
            return self.sequence(value, TUPLE if kind is tuple else LIST)
        if kind is dict:
            return self.mapping(value)
        if kind is set or kind is frozenset:
            items = sorted(list(value), key=self.place)  # noqa: C414 - a list is made in one step
            return self.counted(SET if kind is set else FROZENSET, value, list(map(self.write, items)))
        if kind is bytearray:
            return self.buffer(BYTEARRAY, value)
        if self.numpy is not None and kind.__module__.partition(".")[0] == "numpy":
            found = self.of_numpy(value, kind)
            if found is not None:
                return found
        return self.object(value, kind)

    def sequence(self, value: Any, mark: bytes) -> bytes:
        items = tuple(value)
        if SCALARS.issuperset(map(type, items)):
            try:
                return mark + dumps(items, 2)
            except ValueError:
                pass
        return self.counted(mark, value, [self.write(item) for item in items])

    @staticmethod
    def counted(mark: bytes, value: Sized, parts: list[bytes]) -> bytes:
        if len(value) != len(parts):
            raise Changed("a container changed while it was hashed")
        return b"".join((mark, len(parts).to_bytes(8, "little"), *parts))

    def mapping(self, value: dict[Any, Any]) -> bytes:
        items = list(value.items())
        keys = set(map(type, map(first, items)))
        if keys <= {str}:
            items.sort(key=first)
            names, values = tuple(map(first, items)), tuple(map(second, items))
            if SCALARS.issuperset(map(type, values)):
                try:
                    return DICT + b"s" + dumps((names, values), 2)
                except ValueError:
                    pass
            return self.counted(DICT + b"m" + dumps(names, 2), value, [self.write(item) for item in values])
        items.sort(key=lambda pair: self.place(pair[0]))
        return self.counted(DICT + b"k", value, [self.write(key) + self.write(item) for key, item in items])

    def place(self, value: Any) -> bytes:
        """What gives an element its place among others."""
        return self.write(value)

    # --- NumPy

    def of_numpy(self, value: Any, kind: type) -> bytes | None:
        numpy = self.numpy
        assert numpy is not None
        if kind is numpy.ndarray:
            return self.array(value, ARRAY)
        if kind is numpy.memmap:
            return self.array(numpy.asarray(value), ARRAY if self.coerce_mmap else MEMMAP)
        if issubclass(kind, numpy.generic) and is_plain(value.dtype):
            return NUMBER + dumps(value.dtype.str, 2) + self.raw(value)
        if issubclass(kind, numpy.dtype) and is_plain(value):
            return DTYPE + dumps(value.str, 2)
        if issubclass(kind, numpy.ma.MaskedArray):
            # Not by its own state, which has the fill value only after somebody has asked for it.
            parts = (value.data, numpy.ma.getmaskarray(value), numpy.asarray(value.fill_value), value.hardmask)
            return MASKED + self.name(kind) + b"".join(map(self.write, parts))
        return None

    def array(self, array: Any, mark: bytes) -> bytes | None:
        """Its dtype, its shape, its order in memory (of a part of another array: that of a copy), and its bytes."""
        dtype = array.dtype
        if dtype.hasobject:
            if dtype.kind != "O":
                return None
            return OBJECTS + dumps(array.shape, 2) + self.write(array.ravel().tolist())
        described = dumps(dtype.str, 2) if is_plain(dtype) else self.object(dtype, type(dtype))
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return b"".join((mark, described, dumps((array.shape, fortran), 2), self.raw(array.T if fortran else array)))

    def raw(self, array: Any) -> bytes:
        numpy: Any = self.numpy
        flat = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
        padded = {"f": 1, "c": 2}.get(array.dtype.kind, 0)
        if padded and array.dtype.itemsize == 16 * padded and numpy.finfo(array.dtype).nmant == 63:
            # Ten bytes of each of x87's numbers say something.
            flat = numpy.ascontiguousarray(flat.reshape(-1, 16)[:, :10]).reshape(-1)
        return self.buffer(BYTES, flat)

    # --- everything else, as pickle takes it apart

    def name(self, thing: Any) -> bytes:
        module, name = named(thing)
        self.packages.add(module.partition(".")[0])
        return NAME + dumps((module, name), 2)

    def coded(self, thing: Any) -> bytes:
        """A function or class: its name, and its code where that can be another one under the same name."""
        code = self.code_of(thing) if self.code_of is not None else None
        if code is None and isinstance(thing, FunctionType | type):
            from . import _tracking

            code = _tracking.code_of_the_unnamed(thing)
        return self.name(thing) if code is None else CODE + self.name(thing) + code

    def object(self, value: Any, kind: type) -> bytes:
        if issubclass(kind, type) or (kind in (FunctionType, BuiltinFunctionType) and not is_bound(value)):
            return self.coded(value)
        if kind is ModuleType:
            return NAME + dumps(value.__name__, 2)
        if kind is pickle.PickleBuffer:
            return self.buffer(BYTES, value.raw())
        reduced = self.reduce(value, kind)
        if isinstance(reduced, str):
            module = getattr(value, "__module__", None) or whichmodule(value, reduced)
            self.packages.add(module.partition(".")[0])
            return NAME + dumps((module, reduced), 2)
        function, arguments, *rest = reduced
        state, items, pairs = (*rest[:3], None, None, None)[:3]
        if kind.__module__.startswith("scipy.sparse") and isinstance(state, dict):
            # What it has found out about itself is no part of its value.
            state = {key: each for key, each in state.items() if not key.startswith("_has_")}
        parts = [OBJECT, self.coded(kind), self.coded(function), self.write(tuple(arguments)), self.write(state)]
        if items is not None:
            parts.append(self.write(list(items)))
        if pairs is not None:
            given = list(pairs)
            parts.append(self.write(given if isinstance(value, OrderedDict) else dict(given)))
        return b"".join(parts)

    @staticmethod
    def reduce(value: Any, kind: type) -> Any:
        reducer = copyreg.dispatch_table.get(kind)
        try:
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(5)
        except RecursionError:
            raise
        except RuntimeError as error:
            raise Changed(f"{value!r:.200} changed while it was hashed: {error}") from error
        except (TypeError, AttributeError) as error:
            raise pickle.PicklingError(f"PicklingError while hashing {value!r:.200}: {error}") from error
        if not isinstance(reduced, str | tuple):
            raise pickle.PicklingError(
                f"PicklingError while hashing {value!r:.200}: no string or tuple from __reduce__"
            )
        return reduced


def is_bound(function: Any) -> bool:
    """Is it a method of an object that is no module?"""
    owner = getattr(function, "__self__", None)
    return owner is not None and not isinstance(owner, ModuleType)


class NumberingWriter(Writer):
    """Writes values in which something contains itself: what is met again stands as its number."""

    def __init__(self, coerce_mmap: bool, code_of: CodeOf | None) -> None:
        super().__init__(coerce_mmap, code_of)
        self.numbers: dict[int, int] = {}

    def node(self, value: Any, kind: type) -> bytes:
        number = self.numbers.get(id(value))
        if number is not None:
            return AGAIN + number.to_bytes(8, "little")
        self.numbers[id(value)] = len(self.numbers)
        self.kept.append(value)
        return NODE + fingerprint(self.content(value, kind))

    def place(self, value: Any) -> bytes:
        try:
            return Writer(self.coerce_mmap, self.code_of).digest(value)
        except ContainsItself:
            return b""
