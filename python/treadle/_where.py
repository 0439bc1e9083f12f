"""Where in an object is what can't be pickled? Asked only after pickling failed.

The object is walked from the outside in: of each container the first part that can't be pickled by itself is entered,
until a part is reached all of whose own parts can. That one is to blame, and the error has the path to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from . import _byvalue, _errors

DEPTH = 24  # containers in one another
BREADTH = 1000  # parts of one container that are tried
ATTEMPTS = 4000  # in all

Part = tuple[str, Any]


def explain(error: BaseException, name: str, value: Any, main_by_reference: bool) -> BaseException:
    """A TravelError that names what in the value can't travel. `name` is what the value is called."""
    if isinstance(error, (MemoryError, _errors.TravelError)):
        return error
    return Search(main_by_reference).explain(error, [(name, value)])


def explain_call(
    error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], main_by_reference: bool
) -> BaseException:
    """As explain, for the arguments of a call: the first is argument 1."""
    if isinstance(error, (MemoryError, _errors.TravelError)):
        return error
    parts: list[Part] = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    return Search(main_by_reference).explain(error, parts)


def explain_function(error: BaseException, function: Any, main_by_reference: bool) -> BaseException:
    """As explain, for what is to be called."""
    return explain(
        error, f"the function {getattr(function, '__qualname__', None) or function!r}", function, main_by_reference
    )


class Search:
    """One walk."""

    def __init__(self, main_by_reference: bool) -> None:
        self.main_by_reference = main_by_reference
        self.left = ATTEMPTS

    def explain(self, error: BaseException, parts: list[Part]) -> BaseException:
        """The error for the first of the parts that fails."""
        path, reason = "", error
        entered: set[int] = set()
        for _ in range(DEPTH):
            found = self.first_failing(parts, entered)
            if found is None:
                break
            (name, value), reason = found
            path += f" {name}" if len(entered) == 1 and name.startswith("[") else name
            entered.add(id(value))
            parts = list(parts_of(value))
        text = str(reason) or type(reason).__name__
        return _errors.travel_error(f"{path}: {text}" if path else text, type(error))

    def first_failing(self, parts: list[Part], entered: set[int]) -> tuple[Part, BaseException] | None:
        """The first part that can't be pickled by itself, and why."""
        for name, value in parts[:BREADTH]:
            if self.left == 0:
                return None
            if id(value) in entered:
                continue
            self.left -= 1
            try:
                _byvalue.dump(value, self.main_by_reference, [])
            except Exception as error:
                # Its traceback leads to our caller, which keeps the error: a cycle that would hold the value.
                return (name, value), error.with_traceback(None)
        return None


def parts_of(value: Any) -> Iterator[Part]:
    """What an object consists of, each part with the words that lead to it."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{short(key)}]", item
            yield f" key {short(key)}", key
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield f" item {short(item)}", item
    elif isinstance(value, FunctionType):
        yield from parts_of_function(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, BaseException):
        yield ".args", value.args
    if not isinstance(value, (ModuleType, FunctionType, type)):
        yield from attributes(value)
    elif isinstance(value, type):
        for name, item in list(vars(value).items()):
            if name not in ("__dict__", "__weakref__"):
                yield f".{name}", item


def parts_of_function(function: FunctionType) -> Iterator[Part]:
    """What a function that travels by value takes along."""
    cells: tuple[CellType, ...] = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
        contents = _byvalue._contents(cell)
        yield f", its variable {name!r}", contents
    for name in _byvalue.global_names(function.__code__):
        if name in function.__globals__:
            yield f", its global {name!r}", function.__globals__[name]
    yield ", its defaults ", function.__defaults__
    yield ", its keyword defaults ", function.__kwdefaults__
    for name, item in list(function.__dict__.items()):
        yield f".{name}", item


def attributes(value: Any) -> Iterator[Part]:
    """Instance attributes, slots included."""
    if type(value).__module__ == "treadle.shared":
        return  # what it says of itself is enough
    if hasattr(type(value), "func") and hasattr(value, "keywords"):  # functools.partial
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    for name, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def short(value: Any) -> str:
    """A repr of bounded length that never fails."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
