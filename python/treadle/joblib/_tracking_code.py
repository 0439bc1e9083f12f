"""A code object, read without its place: what it does as bytes, and the names that it uses.

The bytes leave out line numbers, file names and docstrings: constants stand where they are loaded, so that one which is
never loaded, as a docstring is, doesn't count. They differ between versions of Python.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Iterator
from marshal import dumps
from types import CodeType
from typing import Any, NamedTuple

from . import _keys

HAS_DOCSTRING = 0x4000000  # CO_HAS_DOCSTRING, from Python 3.14 on
UNSAID = ("__doc__", "__firstlineno__", "__static_attributes__")
"""What a class's body stores under these names is no code of its own."""
CONSTANTS = frozenset(opcode.hasconst)
NAMES = {operation: name for name, operation in opcode.opmap.items()}
CACHE, EXTENDED_ARG, STORE_NAME = (opcode.opmap.get(name, -1) for name in ("CACHE", "EXTENDED_ARG", "STORE_NAME"))
SHIFTS = {"LOAD_GLOBAL": 1, "LOAD_ATTR": 1 if sys.version_info >= (3, 12) else 0}
"""By how many bits an argument is shifted against the index of its name."""
BY_NAME = (
    "LOAD_GLOBAL",
    "LOAD_NAME",
    "LOAD_ATTR",
    "LOAD_METHOD",
    "STORE_GLOBAL",
    "DELETE_GLOBAL",
    "IMPORT_NAME",
    "STORE_NAME",
)


class Step(NamedTuple):
    """An instruction: its number and its name, its argument, and what that stands for (a constant or a name)."""

    operation: int
    name: str
    argument: int
    what: Any


def steps(code: CodeType) -> Iterator[Step]:
    bytecode, argument = code.co_code, 0
    for at in range(0, len(bytecode), 2):
        operation = bytecode[at]
        if operation == CACHE:
            continue
        argument = argument << 8 | bytecode[at + 1]
        if operation == EXTENDED_ARG:
            continue
        name = NAMES.get(operation, "")
        yield Step(operation, name, argument, meaning(code, operation, name, argument))
        argument = 0


def meaning(code: CodeType, operation: int, name: str, argument: int) -> Any:
    if operation in CONSTANTS:
        return code.co_consts[argument]
    if name in BY_NAME:
        return code.co_names[argument >> SHIFTS.get(name, 0)]
    if name in ("LOAD_DEREF", "STORE_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
        return cell_name(code, argument)
    return None


def is_method(name: str, argument: int) -> bool:
    """Does this instruction take an attribute in order to call it?"""
    return name == "LOAD_METHOD" or (name == "LOAD_ATTR" and SHIFTS["LOAD_ATTR"] == 1 and bool(argument & 1))


def cell_name(code: CodeType, argument: int) -> str:
    """The variable in a cell: those that are arguments too have the places of these."""
    places = [
        *code.co_varnames,
        *(name for name in code.co_cellvars if name not in code.co_varnames),
        *code.co_freevars,
    ]
    return places[argument]


def content(code: CodeType) -> bytes:
    """What a code object does."""
    done = bytearray()
    read = list(steps(code))
    for step, following in zip(read, [*read[1:], None], strict=True):
        done.append(step.operation)
        if step.operation not in CONSTANTS:
            done += step.argument.to_bytes(4, "little")
        elif following is None or following.operation != STORE_NAME or following.what not in UNSAID:
            done += constant(step.what)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~HAS_DOCSTRING)
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    return dumps((code.co_name, counts, names, bytes(code.co_exceptiontable), bytes(done)), 2)


def constant(value: Any) -> bytes:
    return _keys.fingerprint(content(value)) if isinstance(value, CodeType) else _keys.key_digest(value)


def nested(code: CodeType) -> Iterator[CodeType]:
    """A code object, and those of the functions, classes and comprehensions in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from nested(value)
