"""Functions and classes that travel by value: what pickles them. _arrival.py makes them anew in the worker.

A function that a worker can't import is sent as its code, its defaults, the contents of its closure and the globals
that it refers to. In the worker it lives in the module of the same name (`__main__`, as a rule), so that all such
functions share their globals there as they do here: an initializer may set a global that tasks read. Each global is
sent with a digest of its value; a worker takes it over when it is new or when the parent has changed it, and otherwise
keeps what its own code has made of it.

Functions need nothing but pickle. Classes, and what else plain pickle refuses, are left to cloudpickle, which takes
30 ms to import and is imported for them only.
"""

from __future__ import annotations

import io
import marshal
import sys
from _contextvars import ContextVar
from _pickle import Pickler
from _thread import _local
from functools import _lru_cache_wrapper  # _pickle has imported it
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType

from ._arrival import EMPTY, empty_cell, make_cached, make_function, module_named, set_cached, set_function, space_of
from ._findable import MAIN, is_findable
from ._travel import collector, mentions_unfindable, plain, shared_reducers

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._arrival import Entries

Cached = _lru_cache_wrapper
ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range))
MISSING = object()


class _Here(_local):
    """How this thread pickles."""

    along = False


_here = _Here()


class GlobalsAlong:
    """While it is entered, functions by value take the globals that they use along wherever they are from.

    Otherwise one whose module a worker can import finds that module's globals as they are there. cloudpickle, and so
    joblib, sends them.
    """

    def __enter__(self) -> None:
        _here.along = True

    def __exit__(self, *_: object) -> None:
        _here.along = False


class NeedsCloudpickle(Exception):
    """Something by value that is no function: the caller starts again with the full pickler."""


# --- by name or by value


def lookup(module: str | None, qualname: str) -> Any:
    """What a name stands for in a module that is loaded, or MISSING."""
    found: Any = sys.modules.get(module) if module else None
    if found is None:
        return MISSING
    for part in qualname.split("."):
        found = getattr(found, part, MISSING)
    return found


def is_by_name(thing: Any, main_by_reference: bool) -> bool:
    """Does a worker find this function or class under its name?"""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or lookup(module, thing.__qualname__) is not thing:
        return False
    return main_by_reference if module in MAIN else is_findable(module)


def is_homeless(thing: Any) -> bool:
    """Is this an object with a name of its own, as functions have, from a module that a worker can't import?"""
    return isinstance(getattr(thing, "__name__", None), str) and not is_findable(str(thing.__module__))


def global_names(code: CodeType) -> tuple[str, ...]:
    """The names that a code, and what is nested in it, loads from or stores into its globals."""
    known = _names.get(id(code))
    if known is not None and known[0] is code:
        return known[1]
    names = dict.fromkeys(_walk(code))
    if len(_names) >= 1024:
        _names.clear()
    _names[id(code)] = (code, tuple(names))
    return tuple(names)


_names: dict[int, tuple[CodeType, tuple[str, ...]]] = {}
_ops: dict[int, int] = {}  # opcode -> by how many bits its argument is shifted against the name's index
_EXTENDED = "EXTENDED_ARG"


def _walk(code: CodeType) -> Iterator[str]:
    import opcode

    if not _ops:
        for name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_GLOBAL"):
            if name in opcode.opmap:
                _ops[opcode.opmap[name]] = 1 if name == "LOAD_GLOBAL" else 0
    extended = opcode.opmap[_EXTENDED]
    argument = 0
    bytecode = code.co_code
    for at in range(0, len(bytecode), 2):
        operation = bytecode[at]
        argument = argument << 8 | bytecode[at + 1]
        if operation == extended:
            continue
        if operation in _ops:
            yield code.co_names[argument >> _ops[operation]]
        argument = 0
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _walk(constant)


# --- pickling


class Shared:
    """What the picklers of one dump have in common."""

    def __init__(self, main_by_reference: bool) -> None:
        self.main_by_reference = main_by_reference
        self.digesting: set[int] = set()
        self.places: list[Any] | None = []  # for a Watch; None: something changes unseen
        self.seen: list[tuple[dict[str, Any], str, Any]] = []

    def watch(self, value: Any) -> None:
        """Notes that a value was pickled: it can be watched when it can't change, or travels by name."""
        if self.places is not None and not self.is_fixed(value):
            self.places = None

    def is_fixed(self, value: Any) -> bool:
        """Is the identity of this value enough to know its pickle?"""
        kind = type(value)
        if kind in ATOMS or kind is FunctionType or kind is Cached:  # a function notes its own places
            return True
        if kind is tuple or kind is frozenset:
            return all(self.is_fixed(item) for item in value)
        if kind is ModuleType:
            return is_findable(value.__name__)
        if isinstance(value, type) or kind is ContextVar:  # it is by name, or notes its own places, too
            return True
        if kind is BuiltinFunctionType:  # of a module or a class, and not of some object
            return value.__self__ is None or isinstance(value.__self__, (ModuleType, type))
        return False


class Reducers:
    """How functions, cells, codes, modules and memoryviews are reduced; mixed into plain picklers and cloudpickle's."""

    shared: Shared
    spaces: dict[int, dict[str, Any]]
    by_name: dict[type, Callable[[Any], Any]]  # of shared memory

    def reduce_special(self, thing: Any) -> Any:
        """A reduction, None for by name, or MISSING when it is for others to reduce."""
        kind = type(thing)
        if kind is FunctionType:
            return None if is_by_name(thing, self.shared.main_by_reference) else self.reduce_function(thing)
        if kind is Cached:
            return None if is_by_name(thing, self.shared.main_by_reference) else self.reduce_cached(thing)
        if kind is CellType:
            return empty_cell, ()  # its contents are filled in by the function that holds it
        if kind is CodeType:
            return marshal.loads, (code_bytes(thing),)
        if kind in self.by_name:
            return self.by_name[kind](thing)
        if kind is memoryview:
            from ._views import reduce_view

            return reduce_view(thing)
        if kind is ContextVar:
            from ._variables import reduce_variable

            return reduce_variable(thing)
        if isinstance(thing, ModuleType) and (thing.__name__ in MAIN or is_findable(thing.__name__)):
            return module_named, (thing.__name__,)
        return MISSING

    def reduce_function(self, function: FunctionType) -> Any:
        """A function by value. The state comes after the function is known, so that it may refer to itself."""
        shared = self.shared
        closure = function.__closure__ or ()
        contents = [_contents(cell) for cell in closure]
        if shared.places is not None:
            shared.places += [function, *closure]
        for name, value in zip(function.__code__.co_freevars, contents, strict=True):
            if name != "repr_running":  # of each dataclass's __repr__
                shared.watch(value)
        shared.watch(function.__defaults__)
        for own in (function.__dict__, function.__kwdefaults__ or {}):
            for name, value in own.items():
                self.note(own, name, value)
        space, entries = self.reduce_globals(function)
        state = {
            "names": (function.__name__, function.__qualname__, function.__module__, function.__doc__),
            "defaults": (function.__defaults__, function.__kwdefaults__),
            "annotations": plain_annotations(function),
            "dict": function.__dict__,
            "cells": tuple(zip(closure, contents, strict=True)),
            "entries": entries,
        }
        return make_function, (function.__code__, space, closure), state, None, None, set_function

    def reduce_cached(self, cached: Any) -> Any:
        """What functools.cache made of a function: the function, with an empty cache."""
        wrapped, entries = cached.__wrapped__, {}
        home, name = cached.__module__, cached.__qualname__
        if "." not in name and lookup(home, name) is cached:
            entries = {name: (self.digest(cached), cached)}
        return make_cached, (wrapped, cached.cache_parameters()), (Space(home), entries), None, None, set_cached

    def reduce_globals(self, function: FunctionType) -> tuple[Any, Entries]:
        """The namespace of a function, and what of it travels along."""
        space = function.__globals__
        home = space.get("__name__")
        module = sys.modules.get(home) if isinstance(home, str) else None
        is_alone = module is None or module.__dict__ is not space
        if home is None or is_alone or (_here.along and is_findable(home)):
            return self.spaces.setdefault(id(space), {"__name__": home}), self.entries(function, space)
        if is_findable(home) or (home in MAIN and self.shared.main_by_reference):
            return Space(home), {}
        return Space(home), self.entries(function, space)

    def entries(self, function: FunctionType, space: dict[str, Any]) -> Entries:
        """The globals that a function refers to, and itself where it is one."""
        entries: Entries = {}
        names = global_names(function.__code__)
        if "." not in function.__qualname__ and space.get(function.__qualname__) is function:
            names = (*names, function.__qualname__)
        if space.get("__package__"):
            names = (*names, "__package__")  # for relative imports
        for name in names:
            value = space.get(name, MISSING)
            self.note(space, name, value)
            if value is not MISSING:
                entries[name] = (self.digest(value), value)
        return entries

    def note(self, space: dict[str, Any], name: str, value: Any) -> None:
        """Notes a name that was looked up."""
        shared = self.shared
        if shared.places is not None:
            shared.places.append((space, name))
            shared.seen.append((space, name, value))
            if value is not MISSING:
                shared.watch(value)

    def digest(self, value: Any) -> object:
        """Something small that differs when the value's contents differ. Compared in the worker, never computed."""
        kind = type(value)
        main_by_reference = self.shared.main_by_reference
        if kind is str or kind is bytes:
            return value
        if kind in ATOMS:
            return repr(value)
        if isinstance(value, ModuleType):
            return value.__name__
        if _is_definition(value) and is_by_name(value, main_by_reference):
            return f"{value.__module__}:{value.__qualname__}"
        if isinstance(value, type):
            return _class_digest(value)
        if kind is Cached:
            return self.digest(value.__wrapped__)
        if id(value) in self.shared.digesting:
            return None  # it refers to itself: the outer digest has it
        self.shared.digesting.add(id(value))
        try:
            if kind is FunctionType:
                own = (*value.__dict__.items(), *(value.__kwdefaults__ or {}).items())
                inner = (value.__defaults__, *own, *map(_contents, value.__closure__ or ()))
                return hash(code_bytes(value.__code__)), tuple(self.digest(item) for item in inner)
            if kind is tuple:
                return tuple(self.digest(item) for item in value)
            inner_shared = Shared(main_by_reference)
            inner_shared.digesting = self.shared.digesting
            return hash(dump_shared(value, inner_shared, None))
        finally:
            self.shared.digesting.discard(id(value))


class Light(Reducers, Pickler):
    """Plain pickle, and functions by value."""

    def __init__(self, file: Any, shared: Shared, callback: Callable[[Any], object] | None) -> None:
        super().__init__(file, 5, buffer_callback=callback)
        self.shared = shared
        self.spaces = {}
        self.by_name = shared_reducers()

    def reducer_override(self, thing: Any) -> Any:
        """Called by the pickler for all but the simplest types."""
        if type(thing) is Space:
            return space_of, (thing.name,)
        reduced = self.reduce_special(thing)
        if reduced is None:
            return NotImplemented
        if reduced is not MISSING:
            return reduced
        if isinstance(thing, type):
            if not is_by_name(thing, self.shared.main_by_reference):
                raise NeedsCloudpickle
        elif is_homeless(thing):
            raise NeedsCloudpickle  # a type variable: pickle would send its name alone
        return NotImplemented


def dump(thing: Any, main_by_reference: bool, buffers: list[Any] | None = None) -> tuple[bytes, Shared]:
    """The pickle of something that plain pickle refuses, or may not pickle by name. Large buffers go on the list."""
    shared = Shared(main_by_reference)
    return dump_shared(thing, shared, buffers), shared


def dump_shared(thing: Any, shared: Shared, buffers: list[Any] | None) -> bytes:
    """As dump, for one of several picklers."""
    file = io.BytesIO()
    try:
        Light(file, shared, collector(buffers)).dump(thing)
        return file.getvalue()
    except Exception as error:
        if isinstance(error, (MemoryError, RecursionError)):
            raise
    from ._cloud import Full

    if buffers is not None:
        buffers.clear()
    if shared.places is not None:
        shared.places.clear()
        shared.seen.clear()
    file = io.BytesIO()
    Full(file, shared, collector(buffers)).dump(thing)
    return file.getvalue()


def code_bytes(code: CodeType) -> bytes:
    """The marshalled code. Newer versions of the format depend on reference counts, so that no two dumps are alike."""
    try:
        return marshal.dumps(code, 2)
    except ValueError:  # a constant that is younger than that format
        return marshal.dumps(code)


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def plain_annotations(function: FunctionType) -> dict[str, Any]:
    """Those that travel by name: no class is sent, and no cloudpickle imported, for an annotation's sake."""
    try:
        return {name: item for name, item in function.__annotations__.items() if not mentions_unfindable(plain(item))}
    except Exception:  # names that are not there yet (Python 3.14 evaluates late), or what can't be pickled
        return {}


def _is_definition(value: Any) -> bool:
    """Has it a name of its own, in its module?"""
    return isinstance(value, (type, FunctionType, Cached))


def _class_digest(cls: type) -> object:
    from ._cloud import tracker_id

    return tracker_id(cls)


class Space:
    """A module's namespace, on its way."""

    def __init__(self, name: str) -> None:
        self.name = name
