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

However deep values are in each other, the calls here are not: what waits for its parts is a generator on a stack, which
gives each part that isn't short and gets the bytes that stand for it.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sized
from functools import cache
from itertools import chain
from marshal import dumps
from operator import add, itemgetter
from pickle import whichmodule  # type: ignore[attr-defined] # it is not in its stub
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from ._keys_arrays import of_numpy
from ._keys_words import (
    AGAIN,
    BYTEARRAY,
    BYTES,
    CODE,
    DICT,
    FROZENSET,
    LIST,
    NAME,
    NODE,
    OBJECT,
    SET,
    TEXT,
    TUPLE,
    VERSIONS,
    CodeOf,
    ContainsItself,
    Steps,
    buffer,
    xxh3,
)
from ._keys_words import Changed as Changed
from ._keys_words import fingerprint as fingerprint
from ._keys_words import named as named

SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes, type(Ellipsis)))
INLINE_ITEMS = 64
"""Containers of so many scalars stand as they are inside others; longer ones as digests."""
LARGE = 1 << 16
"""Bytes of more than this stand as a digest, wherever they are."""

first, second = itemgetter(0), itemgetter(1)


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


@cache
def installed_version(package: str) -> str | None:
    """The version of a package that doesn't say it itself."""
    if package in sys.stdlib_module_names or package == "__main__":
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return None


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
            version = getattr(sys.modules.get(package), "__version__", None) or installed_version(package)
            if isinstance(version, str):
                found.append(f"{package}={version}")
        return VERSIONS + dumps(tuple(found), 2)

    def write(self, value: Any) -> bytes:
        written = self.short(value)
        if written is not None:
            return written
        stack: list[tuple[Any, Steps]] = []
        part, following = value, self.begin(value)
        while True:
            if isinstance(following, bytes):
                written = self.end(part, following)
                if not stack:
                    return written
            else:
                stack.append((part, following))
                written = None
            part, steps = stack[-1]
            try:
                part = steps.send(written)  # type: ignore[arg-type] # None begins it
            except StopIteration as done:
                stack.pop()
                following = done.value
            else:
                following = self.begin(part)

    # --- what needs no digest of its own

    def short(self, value: Any) -> bytes | None:
        """What stands for a value that needs no steps; None for any other."""
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
        return self.again(value)

    def scalar(self, value: Any) -> bytes:
        if type(value) is bytes and len(value) > LARGE:
            return buffer(BYTES, value)
        try:
            return dumps(value, 2)
        except ValueError:
            text: Any = value
            return buffer(TEXT, text.encode("utf-8", "surrogatepass"))

    # --- what has one

    def again(self, value: Any) -> bytes | None:
        """What stands for a value that was written before: each is written once, however often it is met."""
        written = self.written.get(id(value))
        if written is None and id(value) in self.open:
            raise ContainsItself
        return written

    def begin(self, value: Any) -> Steps | bytes:
        self.open.add(id(value))
        return self.content(value, type(value))

    def end(self, value: Any, content: bytes) -> bytes:
        self.open.discard(id(value))
        written = self.written[id(value)] = NODE + fingerprint(content)
        self.kept.append(value)
        return written

    def content(self, value: Any, kind: type) -> Steps | bytes:
        if kind is tuple or kind is list:
            return self.sequence(value, TUPLE if kind is tuple else LIST)
        if kind is dict:
            return self.mapping(value)
        if kind is set or kind is frozenset:
            return self.unordered(value, SET if kind is set else FROZENSET)
        if kind is bytearray:
            return buffer(BYTEARRAY, value)
        if self.numpy is not None and kind.__module__.partition(".")[0] == "numpy":
            found = of_numpy(self, value, kind)
            if found is not None:
                return found
        return self.object(value, kind)

    def each(self, items: Iterable[Any]) -> Steps:
        """What stands for each, as a list."""
        parts = []
        for item in items:
            written = self.short(item)
            parts.append((yield item) if written is None else written)
        return parts

    def sequence(self, value: Any, mark: bytes) -> Steps:
        items = tuple(value)
        if SCALARS.issuperset(map(type, items)):
            try:
                return mark + dumps(items, 2)
            except ValueError:
                pass
        return self.counted(mark, value, (yield from self.each(items)))

    def unordered(self, value: Any, mark: bytes) -> Steps:
        items = list(value)  # made in one step
        items = in_order((yield from self.places(items)), items)
        return self.counted(mark, value, (yield from self.each(items)))

    @staticmethod
    def counted(mark: bytes, value: Sized, parts: list[bytes]) -> bytes:
        if len(value) != len(parts):
            raise Changed("a container changed while it was hashed")
        return b"".join((mark, len(parts).to_bytes(8, "little"), *parts))

    def mapping(self, value: dict[Any, Any]) -> Steps:
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
            return self.counted(DICT + b"m" + dumps(names, 2), value, (yield from self.each(values)))
        items = in_order((yield from self.places(list(map(first, items)))), items)
        parts = yield from self.each(chain.from_iterable(items))
        return self.counted(DICT + b"k", value, list(map(add, parts[::2], parts[1::2])))

    def places(self, values: list[Any]) -> Steps:
        """What gives each element its place among others."""
        return self.each(values)

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

    def object(self, value: Any, kind: type) -> Steps:
        if issubclass(kind, type) or (kind in (FunctionType, BuiltinFunctionType) and not is_bound(value)):
            return self.coded(value)
        if kind is ModuleType:
            return NAME + dumps(value.__name__, 2)
        if kind is pickle.PickleBuffer:
            return buffer(BYTES, value.raw())
        reduced = self.reduce(value, kind)
        if isinstance(reduced, str):
            module = getattr(value, "__module__", None) or whichmodule(value, reduced)
            self.packages.add(module.partition(".")[0])
            return NAME + dumps((module, reduced), 2)
        function, arguments, *rest = reduced
        state, items, pairs = (*rest[:3], None, None, None)[:3]
        parts: list[Any] = [tuple(arguments), settled(state) if finds_out(kind) else state]
        if items is not None:
            parts.append(list(items))
        if pairs is not None:
            given = list(pairs)
            parts.append(given if isinstance(value, OrderedDict) else dict(given))
        return b"".join((OBJECT, self.coded(kind), self.coded(function), *(yield from self.each(parts))))

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


def finds_out(kind: type) -> bool:
    """Do values of this type keep what they have found out about themselves?"""
    return any(base.__module__.startswith(("pandas.", "scipy.sparse")) for base in kind.__mro__)


def settled(state: Any) -> Any:
    """A state without what was found out when somebody asked, which is no part of the value."""
    if isinstance(state, dict):
        return {key: each for key, each in state.items() if not str(key).startswith(("_has_", "_cache"))}
    if type(state) is tuple and state and isinstance(state[-1], dict):
        rest = settled(state[-1])
        return (*state[:-1], rest) if rest else state[:-1]
    return state


def in_order(places: list[bytes], values: list[Any]) -> list[Any]:
    return list(map(second, sorted(zip(places, values, strict=True), key=first)))


def is_bound(function: Any) -> bool:
    """Is it a method of an object that is no module?"""
    owner = getattr(function, "__self__", None)
    return owner is not None and not isinstance(owner, ModuleType)


class NumberingWriter(Writer):
    """Writes values in which something contains itself: what is met again stands as its number."""

    def __init__(self, coerce_mmap: bool, code_of: CodeOf | None) -> None:
        super().__init__(coerce_mmap, code_of)
        self.numbers: dict[int, int] = {}

    def again(self, value: Any) -> bytes | None:
        number = self.numbers.get(id(value))
        return None if number is None else AGAIN + number.to_bytes(8, "little")

    def begin(self, value: Any) -> Steps | bytes:
        self.numbers[id(value)] = len(self.numbers)
        self.kept.append(value)
        return self.content(value, type(value))

    def end(self, value: Any, content: bytes) -> bytes:
        return NODE + fingerprint(content)

    def places(self, values: list[Any]) -> Steps:
        yield from ()
        return list(map(self.place, values))

    def place(self, value: Any) -> bytes:
        try:
            return Writer(self.coerce_mmap, self.code_of).digest(value)
        except ContainsItself:
            return b""
