"""Arguments whose classes a worker can't import, the fast way.

An instance of a class of `__main__` is pickled plainly, by name; beside it travel the definitions of the classes and
functions that it names. They are pickled once, as long as nothing in them changes, and a worker loads them once: it
knows them by their key. So such an argument costs microseconds, where cloudpickle would make and load the class anew
each time.
"""

from __future__ import annotations

import io
from _pickle import PickleBuffer, Pickler
from types import FunctionType

from . import _arrival, _byvalue, _travel
from ._findable import is_findable

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CACHED = 256
DEFINED = (type, FunctionType, _byvalue.Cached)


class NotByName(Exception):
    """Something has no name that a definition could be bound to."""


class ByName(Pickler):
    """Plain pickle, which notes the classes and functions that a worker can't import."""

    def __init__(self, file: Any, callback: Callable[[Any], object] | None) -> None:
        super().__init__(file, 5, buffer_callback=callback)
        self.homeless: dict[int, Any] = {}
        table = _travel.reducers()
        if table is not None:
            self.dispatch_table = table

    def reducer_override(self, thing: Any) -> Any:
        """Called by the pickler for all but the simplest types."""
        if isinstance(thing, DEFINED):
            module = thing.__module__
            if not (isinstance(module, str) and is_findable(module)):
                if "." in thing.__qualname__ or _byvalue.lookup(module, thing.__qualname__) is not thing:
                    raise NotByName
                self.homeless[id(thing)] = thing
        elif _byvalue.is_homeless(thing):
            raise NotByName
        return NotImplemented


class Parcel:
    """A pickle and the definitions that it needs, on their way."""

    def __init__(self, key: int, definitions: bytes, data: bytes | PickleBuffer, buffers: list[Any]) -> None:
        self.contents = key, definitions, data, buffers

    def __reduce__(self) -> Any:
        return _arrival.unpack, self.contents


def dump(value: Any, buffers: list[Any]) -> bytes:
    """The pickle of a value; large buffers go on the list.

    Raises:
        NotByName: it isn't made for this way; or what pickling raises.
    """
    file = io.BytesIO()
    pickler = ByName(file, _travel.collector(buffers))
    pickler.dump(value)
    data = file.getvalue()
    if not pickler.homeless:
        return data
    key, bundle = definitions(pickler.homeless)
    inner, buffers[:] = list(buffers), []
    held = data if len(data) < _travel.LONG_PIECE else PickleBuffer(data)  # which is loaded where it lies
    return _travel.plain(Parcel(key, bundle, held, inner), _travel.collector(buffers))


_cache: dict[tuple[int, ...], tuple[tuple[Any, ...], Any, int, bytes]] = {}


def definitions(things: dict[int, Any]) -> tuple[int, bytes]:
    """The definitions of some classes and functions, and a key that is theirs alone."""
    ids = tuple(sorted(things))
    known = _cache.get(ids)
    if known is not None and known[1].holds():
        return known[2], known[3]
    parts = tuple(things.values())
    data, shared = _byvalue.dump(parts, False)
    key = hash(data)
    watch = _travel.watch(shared)
    if watch is not None:
        if len(_cache) >= CACHED:
            _cache.clear()
        _cache[ids] = parts, watch, key, data
    return key, data
