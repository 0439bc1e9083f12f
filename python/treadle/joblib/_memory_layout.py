"""How a cached function finds its results in a store of joblib's kind, and keeps them there: joblib's rule.

The arguments' md5 is the call's identifier. The source of the function lies beside its results, and when it is another
one, all of these are removed; so functions of one name that take turns remove each other's, of which a warning tells.
Nobody waits for anybody.
"""

from __future__ import annotations

import os
import time
import tokenize
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ._hashing import hash as joblib_hash
from ._memory_base import MISSING, Call, Way
from ._memory_calls import Arguments, log_query, name_of, print_duration, signature_text, source_code
from ._stores import JobLibCollisionWarning

if TYPE_CHECKING:
    from ._memory_func import MemorizedFunc

FIRST_LINE = "# first line:"
LIMIT_S = 0.5

known_functions: WeakKeyDictionary[Any, tuple[int, int, int]] = WeakKeyDictionary()
"""Functions whose sources were compared, as they were then."""


def mark(function: Any) -> tuple[int, int, int]:
    return id(function), hash(function), hash(getattr(function, "__code__", None))


class LayoutWay(Way):
    """A cached function's way to a store of joblib's kind."""

    def __init__(self, memorized: MemorizedFunc) -> None:
        self.memorized = memorized
        self.store: Any = memorized.store_backend
        self.arguments = Arguments(memorized.func, memorized.ignore)
        self.code_id = 0

    # --- the function's source

    def source(self) -> tuple[str, str | None, int]:
        """The function's source, its file and its first line; read once, in the process that has it."""
        memorized = self.memorized
        code_id = id(getattr(memorized.func, "__code__", None))
        if memorized._func_code_info is None or self.code_id not in (0, code_id):
            memorized._func_code_info = source_code(memorized.func)
        self.code_id = code_id
        found: tuple[str, str | None, int] = memorized._func_code_info
        return found

    def describe_code(self) -> None:
        self.source()

    def write_source(self) -> None:
        source, _, line = self.source()
        self.store.store_cached_func_code([self.memorized.func_id], f"{FIRST_LINE} {line}\n{source}")
        function = self.memorized.func
        if getattr(function, "__name__", "<lambda>") != "<lambda>":
            try:
                known_functions[function] = mark(function)
            except TypeError:
                return  # it can't be a key

    def is_same_source(self) -> bool:
        """Are the function's results of the source that it has now? Removes them otherwise."""
        function = self.memorized.func
        try:
            if known_functions.get(function) == mark(function):
                return True
        except TypeError:
            pass
        source, _, line = self.source()
        try:
            before = self.store.get_cached_func_code([self.memorized.func_id])
        except OSError:
            self.write_source()
            return False
        line_before = -1
        if before.startswith(FIRST_LINE):
            first, _, before = before.partition("\n")
            line_before = int(first[len(FIRST_LINE) :])
        if before == source:
            return True
        self.warn_of_collision(before, line_before, line)
        if self.memorized._verbose > 10:
            self.memorized.warn(
                f"Function {name_of(function)[1]} (identified by {self.memorized.func_id}) has changed."
            )
        self.memorized.clear(warn=True)
        return False

    def warn_of_collision(self, before: str, line_before: int, line: int) -> None:
        source, file, _ = self.source()
        _, name = name_of(self.memorized.func)
        if line_before == line == -1 or name == "<lambda>":
            described = f"{name} ({file}:{line})" if line != -1 else name
            text = f"Cannot detect name collisions for function '{described}'"
            warnings.warn(JobLibCollisionWarning(text), stacklevel=7)
        if line_before != line and file is not None and self.is_still_there(file, before, line_before, source):
            places = f"'{name}' ({file}:{line_before}) and '{name}' ({file}:{line})"
            text = f"Possible name collisions between functions {places}"
            warnings.warn(JobLibCollisionWarning(text), stacklevel=7)

    @staticmethod
    def is_still_there(file: str, before: str, line: int, source: str) -> bool:
        """Does the file have, at that line, what a function of this name was before?"""
        if not os.path.exists(file):
            return file.startswith("<doctest ")
        with tokenize.open(file) as opened:
            lines = list(islice(opened, max(line - 1, 0), max(line - 1, 0) + source.count("\n")))
        return "".join(lines).rstrip() == before.rstrip()

    # --- finding

    def identifier(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return joblib_hash(self.arguments.mapping(args, kwargs), coerce_mmap=self.memorized.mmap_mode is not None)

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = Call((self.memorized.func_id, self.identifier(args, kwargs)), b"", args, kwargs)
        if self.memorized._verbose >= 20:
            location = self.store.get_cached_func_info([self.memorized.func_id])["location"]
            log_query(self.memorized.func, args, kwargs, call.call_id[1], location)
        return call

    def is_valid(self, call: Call) -> bool:
        if not self.is_same_source() or not self.store.contains_item(call.call_id):
            return False
        callback = self.memorized.cache_validation_callback
        if callback is None or callback(self.store.get_metadata(call.call_id)):
            return True
        self.store.clear_item(call.call_id)
        return False

    def find(self, call: Call, shelve: bool) -> Any:
        memorized = self.memorized
        if call.forced or not self.is_valid(call):
            return MISSING
        if shelve:
            return memorized._get_memorized_result(call.call_id)
        start = time.time()
        try:
            value = self.load(call)
        except MemoryError:
            raise
        except Exception as error:
            _, signature = signature_text(memorized.func, call.args, call.kwargs)
            memorized.warn(
                f"Exception while loading results for {signature}: computed anew ({type(error).__name__}: {error})"
            )
            return MISSING
        if memorized._verbose > 4:
            print_duration(memorized.func, time.time() - start, "cache loaded ")
        return value

    def load(self, call: Call, metadata: dict[str, Any] | None = None) -> Any:
        memorized = self.memorized
        return self.store.load_item(
            call.call_id, metadata=metadata, timestamp=memorized.timestamp, verbose=memorized._verbose
        )

    def is_there(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self.is_valid(self.look(args, kwargs))

    def is_unchanged(self, call: Call) -> bool:
        return True

    # --- keeping

    def keep(
        self, call: Call, output: Any, seconds: float, shelve: bool, unchanged: bool
    ) -> tuple[Any, dict[str, Any]]:
        memorized = self.memorized
        self.store.dump_item(call.call_id, output, verbose=memorized._verbose)
        if memorized._verbose > 0:
            print_duration(memorized.func, seconds)
        metadata = self.describe(call, seconds)
        if shelve:
            return memorized._get_memorized_result(call.call_id, metadata), metadata
        if memorized.mmap_mode is not None:
            output = self.load(call, metadata)
        return output, metadata

    def describe(self, call: Call, seconds: float) -> dict[str, Any]:
        start = time.time()
        inputs = {name: repr(value) for name, value in self.arguments.mapping(call.args, call.kwargs).items()}
        metadata = {"duration": seconds, "input_args": inputs, "time": start}
        self.store.store_metadata(call.call_id, metadata)
        taken = time.time() - start
        if taken > LIMIT_S:
            text = f"Persisting input arguments took {taken:.2f}s, as the text of some of them is large."
            warnings.warn(text, stacklevel=6)
        return metadata

    def clear(self) -> None:
        self.store.clear_path([self.memorized.func_id])
        self.write_source()
