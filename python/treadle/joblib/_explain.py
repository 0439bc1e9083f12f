"""Why a cached call hits or misses."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._errors import TreadleError
from ._memory_func import AsyncMemorizedFunc, AsyncNotMemorizedFunc, MemorizedFunc, NotMemorizedFunc
from ._memory_local import NOTE, LocalStoreBackend, name_key
from ._memory_way import LocalWay

if TYPE_CHECKING:
    from ._memory import Memory

SHOWN = 20


@dataclass(frozen=True)
class Explanation:
    """What `Memory.explain` gives; its text is for people.

    Source: python/treadle/joblib/_explain.py.
    """

    hit: bool
    """Is there a result? (`cache_validation_callback` is not asked.)"""
    reason: str
    key: str = ""
    """The entry's key, in hexadecimal digits."""
    tracked: tuple[str, ...] = ()
    """The functions, classes, files and values that the result belongs to."""
    untracked: Mapping[str, str] = field(default_factory=dict)
    """What the code reads and the result is not seen to depend on, each with the reason."""
    changed: tuple[str, ...] = ()
    """What is not as it was when the last result of this function was stored."""

    def __str__(self) -> str:
        lines = [f"{'hit' if self.hit else 'miss'}: {self.reason}"]
        lines += listed("changed", self.changed)
        lines += listed("tracked", self.tracked)
        lines += listed("not tracked", [f"{name}: {reason}" for name, reason in self.untracked.items()])
        return "\n".join(lines)


def listed(title: str, names: Any) -> list[str]:
    names = list(names)
    more = [f"    and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{title}:", *(f"    {name}" for name in names[:SHOWN]), *more] if names else []


def explain(memory: Memory, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
    if isinstance(function, NotMemorizedFunc | AsyncNotMemorizedFunc) or memory.store_backend is None:
        return Explanation(False, "there is no store: location is None")
    if not isinstance(function, MemorizedFunc | AsyncMemorizedFunc):
        function = memory.cache(function)
    memorized: Any = function
    way: Any = memorized._way
    if not isinstance(way, LocalWay):
        hit = way.store.contains_item(way.look(args, kwargs).call_id)
        return Explanation(hit, f"by the rules of {type(way.store).__name__}: the function's own source is compared")
    key = way.key(args, kwargs)
    seen = key.hex(), tuple(way.fingerprint.parts), way.fingerprint.untracked
    if way.store.contains(key):
        return Explanation(True, "this code was called with these arguments", *seen)
    reason, changed = reason_of_miss(way.store, way.memorized.func_id, key, way.fingerprint.parts)
    return Explanation(False, reason, *seen, changed)


def reason_of_miss(
    store: LocalStoreBackend, func_id: str, key: bytes, parts: Mapping[str, bytes]
) -> tuple[str, tuple[str, ...]]:
    found = [each for each in store.results() if each[0].startswith(name_key(func_id))]
    if not found:
        return f"no result of {func_id} is stored", ()
    code, arguments = key[: -len(NOTE)], key[-len(NOTE) :]
    if any(each[0].startswith(code) for each in found):
        return "this code was called, but not with these arguments", ()
    same = [each for each in found if each[0].endswith(arguments)]
    last = max(same or found, key=lambda each: each[2])[0]
    before = noted(store, last)
    if before is None:
        return "the results that are stored are of another code", ()
    now = {name: digest.hex() for name, digest in parts.items()}
    changed = tuple(name for name in {**now, **before} if now.get(name) != before.get(name))
    what = "with these arguments " if same else ""
    if not changed:
        return "the results that are stored are for other parameters, or other ignored ones", ()
    return f"the function was called {what}when its code was another one", changed


def noted(store: LocalStoreBackend, key: bytes) -> dict[str, str] | None:
    """What the code of a result was made of."""
    try:
        entry = store.fetch(key[: -len(NOTE)] + NOTE, None)
        if entry is None or entry.kind != "code":
            return None
        parts: dict[str, str] = pickle.loads(entry.parts[1])["parts"]
    except (TreadleError, OSError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError):
        return None  # also where another version has written it
    return parts
