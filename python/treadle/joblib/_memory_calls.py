"""A call of a cached function: its arguments by their names, and what is printed about it.

joblib's rule: an argument is the same however it is passed, defaults included; a method's `self` is one of them.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import tokenize
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from ._log import format_time, pformat

EMPTY = inspect.Parameter.empty
LONG = 1500
"""Characters of an argument's text, beyond which it is cut to SHORT."""
SHORT = 700


class Arguments:
    """The parameters of a function, and which of them count."""

    def __init__(self, function: Any, ignore: Iterable[str]) -> None:
        if isinstance(ignore, str):
            raise ValueError(f"ignore must be a list of parameters to ignore; {ignore!r} (a string) was given")
        self.function = function
        self.ignore = tuple(ignore)
        self.before: tuple[Any, ...] = ()
        self.names: tuple[str, ...] = ()
        self.keywords: tuple[str, ...] = ()
        self.varargs = self.varkw = ""
        self.nameless: set[str] = set()
        """Those that are passed by their positions alone."""
        self.defaults: dict[str, Any] = {}
        self.signature: inspect.Signature | None = None
        self.quick = -1
        if isinstance(function, FunctionType | MethodType):
            self.read(function)
        else:
            if self.ignore:
                warnings.warn(f"Cannot inspect object {function}, ignore list will not work.", stacklevel=4)
            self.before = inside(function)

    def read(self, function: FunctionType | MethodType) -> None:
        self.signature = inspect.signature(function)
        names, keywords = [], []
        for name, parameter in self.signature.parameters.items():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(name)
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    self.nameless.add(name)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                keywords.append(name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self.varargs = name
            else:
                self.varkw = name
            if parameter.default is not EMPTY:
                self.defaults[name] = parameter.default
        if isinstance(function, MethodType):
            names.insert(0, next(iter(inspect.signature(function.__func__).parameters)))
            self.before = (function.__self__,)
        self.names, self.keywords = tuple(names), tuple(keywords)
        known = {*names, *keywords, *(["*"] if self.varargs else []), *(["**"] if self.varkw else [])}
        for name in self.ignore:
            if name not in known:
                raise ValueError(
                    f"Ignore list: argument '{name}' is not defined for function {name_of(function)[1]}{self.signature}"
                )
        if not (keywords or self.varargs or self.varkw or self.ignore):
            self.quick = len(names) - len(self.before)

    def counted(self) -> tuple[str, ...]:
        """The names of what `values` gives."""
        names = (*self.names, *self.keywords, *(["*"] if self.varargs else []), *(["**"] if self.varkw else []))
        return tuple(name for name in names if name not in self.ignore)

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """What the result depends on, in the order of the parameters.

        Raises:
            ValueError: the function can't be called so.
        """
        if not kwargs and len(args) == self.quick:
            return self.before + args if self.before else args
        if self.signature is None:
            return (*self.before, args, kwargs)
        return tuple(self.mapping(args, kwargs).values())

    def mapping(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The same by names; `*` and `**` stand for what has none."""
        if self.signature is None:
            return {"*": list(args), "**": dict(kwargs)}
        given = self.before + args
        found: dict[str, Any] = {}
        named = {name: value for name, value in kwargs.items() if name not in self.nameless}
        for position, name in enumerate(self.names):
            if position < len(given):
                if name in named:
                    raise self.wrong(f"Argument {name} was given both as positional and as keyword", args, kwargs)
                found[name] = given[position]
            else:
                found[name] = self.by_keyword(name, args, kwargs, named)
        rest = given[len(self.names) :]
        if rest and not self.varargs:
            raise self.wrong("Too many arguments", args, kwargs)
        for name in self.keywords:
            found[name] = self.by_keyword(name, args, kwargs, named)
        if self.varargs:
            found["*"] = list(rest)
        more = {name: value for name, value in kwargs.items() if name not in found or name in self.nameless}
        if more and not self.varkw:
            raise self.wrong("Too many keyword arguments", args, kwargs)
        if self.varkw:
            found["**"] = more
        for name in self.ignore:
            del found[name]
        return found

    def by_keyword(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], named: Mapping[str, Any]) -> Any:
        value = named.get(name, self.defaults.get(name, EMPTY))
        if value is EMPTY:
            raise self.wrong("Wrong number of arguments", args, kwargs)
        return value

    def wrong(self, problem: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ValueError:
        _, name = name_of(self.function)
        called = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        return ValueError(f"{problem} for {name}{self.signature}:\n    {name}({called}) was called.")


def inside(function: Any) -> tuple[Any, ...]:
    """What a callable object has in it that its results depend on."""
    if isinstance(function, partial):
        return (*inside(function.func), function.args, function.keywords)
    if isinstance(function, type) or hasattr(function, "__name__"):
        return ()
    return (function,)


# --- names


def name_of(function: Any) -> tuple[list[str], str]:
    """Where a function comes from, as joblib's folders are called, and its name."""
    module = getattr(function, "__module__", None) or (
        "" if hasattr(function, "__module__") else type(function).__module__
    )
    if module == "__main__":
        file = source_of(function)
        if file is not None:
            module = f"{module}-{'-'.join(stable(os.path.abspath(file).split(os.sep))).removesuffix('.py')}"
    name = getattr(function, "__name__", "unknown")
    modules: list[str] = module.split(".")
    qualified = getattr(function, "__qualname__", name)
    if qualified != name:
        modules.extend(qualified.split(".")[:-1])
    return modules, name


def source_of(function: Any) -> str | None:
    try:
        return inspect.getsourcefile(function)
    except TypeError:
        return None


def stable(parts: list[str]) -> list[str]:
    """The parts of a notebook cell's name, without the number of the cell or of the session."""
    if parts[-1].startswith("<ipython-input"):
        words = parts[-1].split("-")
        return [*parts[:-1], "-".join(words[:2] + words[3:])]
    if len(parts) > 2 and parts[-2].startswith("ipykernel_"):
        return [*parts[:-2], "ipykernel", parts[-1]]
    return parts


def identifier(function: Any) -> str:
    """The path that stands for a function in a cache."""
    modules, name = name_of(function)
    return os.path.join(*modules, name)


def source_code(function: Any) -> tuple[str, str | None, int]:
    """A function's source, its file and its first line, read now; -1 and a digest where there is no source."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function), None, -1
    try:
        if not os.path.exists(code.co_filename):
            return "".join(inspect.getsourcelines(function)[0]), code.co_filename, 1
        with tokenize.open(code.co_filename) as file:
            lines = list(itertools.islice(file, code.co_firstlineno - 1, None))
        return "".join(inspect.getblock(lines)), code.co_filename, code.co_firstlineno
    except (OSError, TypeError, SyntaxError, UnicodeError, IndexError):
        return code_digest(code), code.co_filename, -1


def code_digest(code: CodeType) -> str:
    from . import _keys, _tracking_code

    return _keys.fingerprint(_tracking_code.content(code)).hex()


# --- texts


def argument_text(value: Any) -> str:
    text = pformat(value, indent=2)
    return f"{text[:SHORT]}..." if len(text) > LONG else text


def signature_text(function: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """A function's full name, and a call of it."""
    modules, name = name_of(function)
    texts: list[str] = []
    for value in args:
        text = argument_text(value)
        texts.append(f"\n{text}" if texts and len(texts[-1]) > 80 else text)
    texts += [f"{key}={argument_text(value)}" for key, value in kwargs.items()]
    return ".".join([*filter(None, modules), name]), f"{name}({', '.join(texts)})"


def print_call(function: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    path, signature = signature_text(function, args, kwargs)
    print(f"{80 * '_'}\n[Memory] Calling {path}...\n{signature}")


def print_duration(function: Any, seconds: float, context: str = "") -> None:
    text = f"{name_of(function)[1]} {context}- {format_time(seconds)}"
    print(f"{max(0, 80 - len(text)) * '_'}{text}")


def log_query(function: Any, args: Iterable[Any], kwargs: Mapping[str, Any], args_id: str, location: str) -> None:
    _, signature = signature_text(function, args, kwargs)
    logging.basicConfig(level=logging.INFO)
    name = name_of(function)[1]
    logging.info(
        "Querying %s with signature\n%s.\n\n(argument hash %s)\n\nThe store location is %s.\n",
        name, signature, args_id, location,
    )  # fmt: skip


def print_loading(
    name: str, place: str, verbose: int, since: float | None, now: float, inputs: Mapping[str, str] | None = None
) -> None:
    """What is printed before a result is read."""
    if verbose <= 1:
        return
    elapsed = f"{format_time(now - since): <16}" if since is not None else ""
    if inputs is not None:
        name += f"({', '.join(f'{key}={value}' for key, value in inputs.items())})"
    print(f"[Memory]{elapsed}: Loading {name}" + ("..." if verbose < 10 else f" from {place}"))


Callback = Callable[[dict[str, Any]], object]
