"""How a cached function finds its results in Treadle's own store, and keeps them there.

A call's key is 8 bytes of the function's name, 8 of its code and its parameters' names, 16 of its arguments. The code's
part is made once, and again when something that it was made of is another object (_tracking.py).

A call that is not in the store is computed by one caller, while the others wait for the entry (`_engine.Store.enter`).
Before it is computed, its arguments are read again: those that have changed since, while the caller waited for example,
belong to no key.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping
from reprlib import Repr
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .. import _engine
from .._errors import TreadleError
from . import _keys, _memory_pack, _tracking
from ._memory_base import MISSING, Call, Way
from ._memory_calls import Arguments, log_query, print_duration, print_loading, signature_text
from ._memory_local import ACCESS, LocalStoreBackend, Place, handle, name_key
from ._stores import CacheWarning

if TYPE_CHECKING:
    from ._memory_func import MemorizedFunc

LANDED, LEADER, CYCLE, NOLOCKS = _engine.LANDED, _engine.LEADER, _engine.CYCLE, _engine.NOLOCKS

without_locks: set[Place] = set()
"""Stores of which a warning has told."""

shorten = Repr()
shorten.maxlist = shorten.maxtuple = shorten.maxdict = shorten.maxset = shorten.maxfrozenset = shorten.maxdeque = 100
shorten.maxstring = shorten.maxother = shorten.maxlong = 2000
shorten.maxlevel = 10


def text_of(value: Any) -> str:
    try:
        return shorten.repr(value)
    except Exception:  # as that of an int with very many digits
        return f"<{type(value).__qualname__}>"


class LocalWay(Way):
    """A cached function's way to Treadle's store."""

    quick = True

    def __init__(self, memorized: MemorizedFunc) -> None:
        self.memorized = memorized
        self.store: LocalStoreBackend = memorized.store_backend
        self.arguments = Arguments(memorized.func, memorized.ignore)
        self.transitive = memorized.track == "transitive"
        self.code_of: Callable[[Any], bytes | None] | None = _tracking.code_of if self.transitive else None
        if memorized.mmap_mode not in ACCESS:
            raise ValueError(f"mmap_mode must be one of {', '.join(map(repr, ACCESS))}, not {memorized.mmap_mode!r}")
        self.access = ACCESS[memorized.mmap_mode]
        self.warned: set[str] = set()
        self.leavings: Any = None
        self.noted = b""
        """The prefix whose code is written down."""
        self.find_out()

    # --- keys

    def find_out(self) -> None:
        """Looks at the code."""
        function = self.memorized.func
        self.fingerprint = _tracking.fingerprint(function, self.transitive)
        code = _keys.fingerprint(self.fingerprint.digest + repr(self.arguments.counted()).encode())[:8]
        self.prefix = name_key(self.memorized.func_id) + code
        self.holds = self.fingerprint.holds

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if not self.holds():
            if isinstance(self.memorized.func, FunctionType):
                self.arguments = Arguments(self.memorized.func, self.memorized.ignore)
            self.find_out()
        try:
            digest = _keys.key_digest(self.arguments.values(args, kwargs), True, self.code_of)
        except _keys.Changed:
            digest = os.urandom(16)  # a key that nobody else has, and that is another one at the next look
        return self.prefix + digest

    def call_id(self, key: bytes) -> tuple[str, str]:
        return self.memorized.func_id, key.hex()

    # --- finding

    def hit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Call | None]:
        key = self.key(args, kwargs)
        entry = None
        try:
            entry = handle(self.store.place).get(key, self.access)
            if entry is not None:
                return _memory_pack.unpack(entry.kind, entry.parts), None
            call = Call(self.call_id(key), key, args, kwargs)
        except MemoryError:
            raise
        except Exception as error:
            call = Call(self.call_id(key), key, args, kwargs)
            self.report(call, entry, error)
        call.absent = True
        return MISSING, call

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        key = self.key(args, kwargs)
        call = Call(self.call_id(key), key, args, kwargs)
        if self.memorized._verbose >= 20:
            log_query(self.memorized.func, args, kwargs, call.key.hex(), self.store.location)
        return call

    def find(self, call: Call, shelve: bool) -> Any:
        if call.forced:
            return MISSING
        memorized, entry = self.memorized, None
        try:
            if not call.absent:
                entry = self.store.fetch(call.key, memorized.mmap_mode)
            call.absent = False
            if entry is None and memorized.import_joblib is not None and self.take_over(call):
                entry = self.store.fetch(call.key, memorized.mmap_mode)
        except MemoryError:
            raise
        except Exception as error:
            self.report(call, None, error)
        if entry is None or not self.is_valid(call):
            return MISSING
        return memorized._get_memorized_result(call.call_id) if shelve else self.read(call, entry)

    def read(self, call: Call, entry: _engine.Entry) -> Any:
        """The result in an entry; MISSING where it can't be read."""
        memorized = self.memorized
        try:
            start = time.time()
            verbose = memorized._verbose
            if verbose > 1:
                place = self.store.path_of(call.key.hex())
                print_loading(memorized.func_id, place, verbose, memorized.timestamp, start)
            value = _memory_pack.unpack(entry.kind, entry.parts)
            if verbose > 4:
                print_duration(memorized.func, time.time() - start, "cache loaded ")
            return value
        except MemoryError:
            raise
        except Exception as error:
            self.report(call, entry, error)
            return MISSING

    def report(self, call: Call, entry: _engine.Entry | None, error: Exception) -> None:
        """Warns that a result can't be read, which will be computed anew."""
        call.stale = entry.stamp if entry is not None else 0
        call.failures += 1
        try:
            _, called = signature_text(self.memorized.func, call.args, call.kwargs)
        except Exception:  # an argument has no text
            called = self.memorized.func_id
        self.memorized.warn(
            f"Exception while loading results for {called}: computed anew ({type(error).__name__}: {error})"
        )

    def take_over(self, call: Call) -> bool:
        """Stores a result that joblib has left, if there is one."""
        from ._memory_import import Leavings

        memorized = self.memorized
        if self.leavings is None:
            self.leavings = Leavings(memorized.import_joblib, memorized.func, self.store.place[-1])
        if self.leavings.refused:
            self.warn_once("refused", self.leavings.refused)
        value, known = self.leavings.find(self.arguments.mapping(call.args, call.kwargs))
        if value is MISSING:
            return False
        about = {"duration": 0.0, "time": time.time(), "input_args": {}, **known, "func": memorized.func_id}
        return self.store.keep(call.key, value, about)

    def is_valid(self, call: Call) -> bool:
        callback = self.memorized.cache_validation_callback
        if callback is None or callback(self.store.note(call.key)):
            return True
        try:
            self.store.clear_item(call.call_id)
        except OSError:  # it stays, as in a folder that can only be read
            call.forced = True
        return False

    def is_there(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        call = self.look(args, kwargs)
        return self.store.contains(call.key) and self.is_valid(call)

    # --- one computation for each key

    def enter(self, call: Call, owner: int = 0, timeout: float | None = None) -> int:
        if call.forced or call.failures > 1:  # what can't be read can't always be removed
            return CYCLE
        call.entered = handle(self.store.place)
        role: int = call.entered.enter(call.key, timeout, owner=owner, stale=call.stale)
        return role

    def leave(self, call: Call, role: int, owner: int = 0) -> None:
        if role in (LEADER, NOLOCKS):
            call.entered.leave(call.key, owner=owner)
        if role == NOLOCKS and self.store.place not in without_locks:
            without_locks.add(self.store.place)
            text = f"the file system of {self.store.location} has no locks: several processes may compute the same call"
            warnings.warn(text, CacheWarning, stacklevel=6)

    def warn_once(self, what: str, text: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            warnings.warn(f"{self.memorized.func_id}: {text}", CacheWarning, stacklevel=6)

    # --- keeping

    def is_unchanged(self, call: Call) -> bool:
        if self.key(call.args, call.kwargs) == call.key:
            return True
        self.warn_once(
            "changed", "the arguments have changed between two looks at them, so this call is computed, and not kept"
        )
        return False

    def keep(
        self, call: Call, output: Any, seconds: float, shelve: bool, unchanged: bool
    ) -> tuple[Any, dict[str, Any]]:
        memorized = self.memorized
        metadata = {
            "duration": seconds,
            "input_args": self.inputs(call),
            "time": time.time(),
            "func": memorized.func_id,
        }
        kept = False
        if unchanged:
            if memorized._verbose > 10:
                print(f"Persisting in {self.store.path_of(call.key.hex())}")
            parts, untracked = self.fingerprint.parts, self.fingerprint.untracked
            kept = self.store.keep(call.key, output, metadata)
            if kept and self.noted != self.prefix:
                self.noted = self.prefix
                self.store.keep_note(call.key, parts, untracked, memorized.func_id)
        if memorized._verbose > 0:
            print_duration(memorized.func, seconds)
        if shelve:
            from ._results import NotMemorizedResult

            if not kept:
                return NotMemorizedResult(output), metadata
            return memorized._get_memorized_result(call.call_id, metadata), metadata
        if kept and memorized.mmap_mode is not None:
            # The first caller gets what the next ones will.
            with contextlib.suppress(OSError, TreadleError):
                entry = self.store.fetch(call.key, memorized.mmap_mode)
                if entry is not None:
                    output = _memory_pack.unpack(entry.kind, entry.parts)
        return output, metadata

    def inputs(self, call: Call) -> Mapping[str, str]:
        return {name: text_of(value) for name, value in self.arguments.mapping(call.args, call.kwargs).items()}

    def clear(self) -> None:
        self.store.clear_path((self.memorized.func_id,))
        self.noted = b""
