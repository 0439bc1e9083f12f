"""Which code a function's results depend on: its own, that of functions which it is seen to call, what they read.

Followed from a function: the names that its bytecode loads from the globals, from its closure, and from modules and
classes found there; `self.name` in methods; modules that it imports, as files. Of these count

- functions and classes that are not from the standard library or site-packages: by their code, and followed in turn;
- values that are immutable and small: as they are.

The rest is listed as not tracked: what is mutable or large, what a function assigns itself, and calls of what only a
run knows: methods of values that it is given or makes, what `getattr`, `eval` and their like find.

However long a chain of calls is, the calls here are not deep: what is found is read later.

A fingerprint remembers what it was made of; that this is still there takes a look at each name.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from inspect import getattr_static
from marshal import dumps
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from . import _keys, _tracking_code
from ._tracking_things import (
    MISSING,
    Watch,
    by_name,
    inside,
    is_immutable,
    is_users,
    is_users_file,
    is_users_module,
    label_of,
)

SMALL = 4096
"""Items of a value that is tracked, at most."""
FINDERS = frozenset(("getattr", "eval", "exec", "globals", "locals", "vars", "__import__"))
"""Builtins that find what only a run knows."""


class Fingerprint:
    """The code that some results depend on."""

    def __init__(
        self, digest: bytes, parts: dict[str, bytes], untracked: dict[str, str], holds: Callable[[], bool]
    ) -> None:
        self.digest = digest
        self.parts = parts
        """What is tracked, by names for people, each with its digest."""
        self.untracked = untracked
        """What is not, each with the reason."""
        self.holds = holds
        """Is all of it as it was?"""


class Tracker:
    """Follows code, once."""

    def __init__(self, transitive: bool) -> None:
        self.transitive = transitive
        self.parts: dict[str, bytes] = {}
        self.untracked: dict[str, str] = {}
        self.seen: dict[int, object] = {}
        self.values: dict[str, tuple[int, str]] = {}
        self.assigned: set[tuple[int, str]] = set()
        self.watch = Watch()
        self.later: deque[Callable[[], None]] = deque()
        """What is found, and not read yet."""

    def finish(self) -> Fingerprint:
        while self.later:
            self.later.popleft()()
        for label, place in self.values.items():
            if place in self.assigned:
                self.parts.pop(label, None)
                self.untracked[label] = "assigned by the code itself"
        digest = _keys.fingerprint(dumps(tuple(self.parts.items()), 2))
        return Fingerprint(digest, self.parts, self.untracked, self.watch.freeze())

    def add(self, label: str, content: bytes) -> None:
        number, given = 1, label
        while label in self.parts:
            number += 1
            label = f"{given} ({number})"
        self.parts[label] = _keys.fingerprint(content)

    def is_new(self, thing: object) -> bool:
        if id(thing) in self.seen:
            return False
        self.seen[id(thing)] = thing
        return True

    # --- things

    def root(self, thing: Any) -> None:
        """What is called: also what is no function, or not the user's."""
        if isinstance(thing, FunctionType):
            self.function(thing, None, root=True)
        elif isinstance(thing, MethodType):
            self.method(thing, root=True)
        elif isinstance(thing, partial):
            self.root(thing.func)  # what it is given goes with the arguments
        elif isinstance(thing, type):
            self.cls(thing) if is_users(thing) else self.add(label_of(thing), b"class")
        elif hasattr(type(thing), "__call__") and is_users(type(thing)):  # noqa: B004 - whose it is
            self.cls(type(thing))
        else:
            self.add(label_of(thing) if hasattr(thing, "__name__") else label_of(type(thing)), b"named")

    def function(self, function: FunctionType, owner: type | None, root: bool = False) -> None:
        if not self.is_new(function):
            return
        code = function.__code__
        content = [_tracking_code.content(code)]
        label = label_of(function)
        if not root:
            for default in (*(function.__defaults__ or ()), *sorted_values(function.__kwdefaults__)):
                content.append(self.small(default) or b"?")
        self.add(label, b"".join(content))
        self.watch.functions.append(function)
        if self.transitive:
            self.later.append(lambda: self.read(function, owner, label))

    def read(self, function: FunctionType, owner: type | None, label: str) -> None:
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        unknown: dict[str, None] = {}
        for each in _tracking_code.nested(code):
            self.names(each, function, cells, owner, label, unknown)
        if unknown:
            self.untracked.setdefault(f"what {label} calls as {', '.join(unknown)}", "only a run knows it")

    def method(self, method: MethodType, root: bool = False) -> None:
        function, owner = method.__func__, method.__self__
        cls = owner if isinstance(owner, type) else type(owner)
        if isinstance(function, FunctionType) and (root or is_users(function)):
            self.function(function, cls, root)

    def cls(self, cls: type) -> None:
        """A class: its functions, its small values, and its bases."""
        if not self.is_new(cls):
            return
        label = label_of(cls)
        self.add(label, dumps(tuple(map(label_of, cls.__mro__)), 2))
        self.later.append(lambda: self.members(cls, label))

    def members(self, cls: type, label: str) -> None:
        space = vars(cls)
        for name, value in list(space.items()):
            if name.startswith("__") and not callable(value) and not isinstance(value, classmethod | staticmethod):
                continue
            if not name.startswith("_abc_"):
                self.watch.note(space, name, value)
                self.thing(value, f"{label}.{name}", cls, None)
        for base in cls.__bases__:
            if is_users(base):
                self.cls(base)

    def thing(self, value: Any, label: str, owner: type | None, place: tuple[int, str] | None) -> None:
        """Something that code refers to."""
        if isinstance(value, FunctionType):
            if is_users(value):
                self.function(value, owner)
            elif (wrapped := own(value, "__wrapped__")) is not None:
                self.thing(wrapped, label, owner, None)
        elif isinstance(value, type):
            if is_users(value):
                self.cls(value)
        elif isinstance(value, classmethod | staticmethod):
            self.thing(value.__func__, label, owner, None)
        elif isinstance(value, property):
            for each in (value.fget, value.fset, value.fdel):
                if each is not None:
                    self.thing(each, label, owner, None)
        elif isinstance(value, MethodType):
            self.method(value)
            self.value(value.__self__, f"{label}.__self__", None)
        elif isinstance(value, partial):
            self.thing(value.func, label, owner, None)
            for number, each in enumerate((*value.args, *sorted_values(value.keywords))):
                self.thing(each, f"{label}, its argument {number}", owner, None)
        elif isinstance(value, tuple) and not is_immutable(value):
            for number, each in enumerate(value):
                self.thing(each, f"{label}[{number}]", owner, None)
        elif callable(value) and (wrapped := own(value, "__wrapped__")) is not None:
            if is_users(type(value)):
                self.cls(type(value))
            self.thing(wrapped, label, owner, None)
        elif not isinstance(value, ModuleType | BuiltinFunctionType):
            self.value(value, label, place)

    def value(self, value: Any, label: str, place: tuple[int, str] | None) -> None:
        if isinstance(value, type | ModuleType | Instance) or (callable(value) and own(value, "__name__")):
            return
        written = self.small(value)
        if written is not None:
            if self.parts.get(label) != _keys.fingerprint(written):
                self.add(label, written)
            if place is not None:
                self.values[label] = place
        else:
            kind = "large" if is_immutable(value) else "mutable"
            self.untracked.setdefault(label, f"a {type(value).__qualname__}, which is {kind}")

    @staticmethod
    def small(value: Any) -> bytes | None:
        if not is_immutable(value):
            return None
        if isinstance(value, tuple | frozenset | str | bytes) and len(value) > SMALL:
            return None
        return _keys.key_digest(value, code_of=by_name)

    # --- names in code

    def names(
        self,
        code: CodeType,
        function: FunctionType,
        cells: dict[str, CellType],
        owner: type | None,
        label: str,
        unknown: dict[str, None],
    ) -> None:
        """Everything that a code object refers to, each with the attributes that follow it."""
        space = function.__globals__
        chain: tuple[Any, str, tuple[int, str] | None] | None = None
        constants: list[Any] = []
        before = ""
        for _, name, argument, what in _tracking_code.steps(code):
            if name in ("LOAD_ATTR", "LOAD_METHOD") and chain is not None:
                following = self.attribute(chain[0], what)
                if following is not MISSING:
                    chain, before = (following, f"{chain[1]}.{what}", None), name
                    continue
            found = before == "LOAD_CONST" or (chain is not None and not isinstance(chain[0], Instance))
            if _tracking_code.is_method(name, argument) and not found:
                unknown[f".{what}()"] = None
            before = name
            if chain is not None:
                self.thing(chain[0], chain[1], owner, chain[2])
                chain = None
            if name in ("LOAD_GLOBAL", "LOAD_NAME"):
                chain = self.load(space, what, label)
                if chain is None and what in FINDERS:
                    unknown[f"{what}()"] = None
            elif name in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF") and what in cells:
                chain = self.load_cell(cells[what], what, label)
            elif name == "STORE_DEREF" and what in cells:
                self.assigned.add((id(cells[what]), what))
            elif name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                self.assigned.add((id(space), what))
            elif name.startswith("LOAD_FAST") and owner is not None and is_first(name, argument, code, function):
                chain = (Instance(owner), label_of(owner), None)
            elif name == "IMPORT_NAME":
                self.imported(what, constants, space)
            constants = [*constants[-1:], what] if name in ("LOAD_CONST", "LOAD_SMALL_INT") else constants
            if name == "LOAD_SMALL_INT":
                constants[-1] = argument
        if chain is not None:
            self.thing(chain[0], chain[1], owner, chain[2])

    def load(self, space: dict[str, Any], name: str, label: str) -> tuple[Any, str, tuple[int, str]] | None:
        value = space.get(name, MISSING)
        self.watch.note(space, name, value)
        if value is MISSING:
            return None  # one of the builtins, or nothing yet
        return value, f"{space.get('__name__', label)}.{name}", (id(space), name)

    def load_cell(self, cell: CellType, name: str, label: str) -> tuple[Any, str, tuple[int, str]] | None:
        value = inside(cell)
        self.watch.cells.append(cell)
        self.watch.contents.append(value)
        return None if value is MISSING else (value, f"{label}, its variable {name}", (id(cell), name))

    def attribute(self, owner: Any, name: str) -> Any:
        """What is found under a name in a module, a class or an instance of one, without any code being run."""
        if isinstance(owner, ModuleType):
            space: Mapping[str, Any] = vars(owner)
            value = space.get(name, MISSING)
            if value is not MISSING and is_users_module(owner.__name__):
                self.watch.note(space, name, value)
            return value
        cls = owner.cls if isinstance(owner, Instance) else owner
        for base in cls.__mro__ if isinstance(cls, type) else ():
            if name in vars(base) and is_users(base):
                self.watch.note(vars(base), name, vars(base)[name])
                return vars(base)[name]
        return MISSING

    def imported(self, name: str, constants: list[Any], space: dict[str, Any]) -> None:
        """A module that a function imports when it is called: its file, read as it is."""
        level, members = constants if len(constants) == 2 else (0, None)
        try:
            absolute = resolve_name("." * level + name, space.get("__package__") or "") if level else name
        except ImportError:
            return
        if absolute.partition(".")[0] in sys.stdlib_module_names:
            return
        wanted = [absolute, *(f"{absolute}.{member}" for member in members or ())]
        for each in wanted:
            for file in files_of(each):
                if is_users_file(file) and f"the file of {each}" not in self.parts:
                    with open(file, "rb") as source:
                        self.add(f"the file of {each}", source.read())


def own(value: Any, name: str) -> Any:
    """An attribute that is there without any code being run, or None."""
    return getattr_static(value, name, None)


class Instance:
    """Stands for an instance of a class."""

    def __init__(self, cls: type) -> None:
        self.cls = cls


def is_first(name: str, argument: int, code: CodeType, function: FunctionType) -> bool:
    """Does this load a function's first argument, last?"""
    index = argument & 15 if name.count("LOAD_FAST") == 2 else argument
    return code is function.__code__ and index == 0 and code.co_argcount > 0


def sorted_values(given: Mapping[str, Any] | None) -> list[Any]:
    return [given[name] for name in sorted(given)] if given else []


def files_of(module: str) -> Iterator[str]:
    """The source of a module, found without importing anything."""
    path = None
    spec = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None:
            return
        path = spec.submodule_search_locations
    if spec is not None and spec.has_location and isinstance(spec.origin, str) and os.path.isfile(spec.origin):
        yield spec.origin


# --- fingerprints


_known: WeakKeyDictionary[Any, Fingerprint] = WeakKeyDictionary()


def fingerprint(thing: Any, transitive: bool = True) -> Fingerprint:
    """The fingerprint of something that is called."""
    tracker = Tracker(transitive)
    tracker.root(thing)
    return tracker.finish()


def code_of(thing: Any) -> bytes | None:
    """The digest of the code of a function or class; None where it is a library's."""
    if not isinstance(thing, FunctionType | type) or not is_users(thing):
        return None
    known = _known.get(thing)
    if known is None or not known.holds():
        found = fingerprint(thing)
        if isinstance(thing, FunctionType) and thing.__defaults__:
            found.digest = _keys.fingerprint(found.digest + _keys.key_digest(thing.__defaults__))
        known = _known[thing] = found
    return known.digest


def code_of_the_unnamed(thing: Any) -> bytes | None:
    """The same, for what isn't found under its name, or may be another thing there in the next program."""
    module, name = _keys.named(thing)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return code_of(thing) if found is not thing or module == "__main__" else None
