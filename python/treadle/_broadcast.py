"""Values that are sent to each worker once: encoded into shared memory, loaded at the first use there, and kept."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _engine, _sharing
from ._travel import dump, loads

if TYPE_CHECKING:
    from ._engine import SharedBlock

T = TypeVar("T")

_ALIGN = 64
_HEAD = 64  # bytes before the pickle; the first is 1 while the sender has the value
_MISSING = object()

_kept: dict[bytes, Broadcast[Any]] = {}
"""In a worker: what came, by the name of its block."""


class Broadcast(Generic[T]):
    """A value that every worker gets once; made by `treadle.broadcast`."""

    __module__ = "treadle"
    __slots__ = ("__weakref__", "_block", "_spans", "_value")

    def __init__(self, block: SharedBlock, spans: tuple[tuple[int, int], ...], value: object = _MISSING) -> None:
        self._block = block
        self._spans = spans  # where the pickle and its buffers lie in the block: (start, length)
        self._value = value

    @property
    def value(self) -> T:
        """The object itself, where it was made; in a worker a copy.

        It is loaded at the first use there and kept for the tasks that follow. Arrays and other buffers in it are views
        of memory that all workers share, and read-only.
        """
        if self._value is _MISSING:
            whole = memoryview(self._block).toreadonly()
            data, *buffers = (whole[start : start + length] for start, length in self._spans)
            self._value = loads(data, buffers=buffers)
        return cast("T", self._value)

    def __repr__(self) -> str:
        return f"<treadle.Broadcast of {sum(length for _, length in self._spans):,} bytes>"

    def __reduce__(self) -> Any:
        if not _sharing.note(self._block):
            raise TypeError(
                "a Broadcast can only be passed to tasks: as an argument, or in a function that refers to it"
            )
        return arrive, (self._block.name(), self._spans)


def broadcast(obj: T) -> Broadcast[T]:
    """A handle of an object that is sent to each worker once, however many tasks it is passed to.

    The object is pickled now: later changes of it are not seen. Tasks take the handle as an argument, or refer to it as
    a global, and read `handle.value`. A worker drops what it has of it after the last handle is gone here.

    Raises:
        TravelError, pickle.PicklingError: it can't be pickled.
        MemoryError: there is no room for it.

    Sources: python/treadle/_broadcast.py.
    """
    data, buffers = dump(obj, False)
    parts = [memoryview(data if isinstance(data, bytes) else b"".join(data)), *(buffer.raw() for buffer in buffers)]
    spans, end = [], _HEAD
    for part in parts:
        spans.append((end, part.nbytes))
        end += -(-part.nbytes // _ALIGN) * _ALIGN
    block = _engine.shared_new(end, False)
    whole = memoryview(block)
    for part, (start, length) in zip(parts, spans, strict=True):
        whole[start : start + length] = part
    whole[0] = 1
    made = Broadcast[T](block, tuple(spans), obj)
    finalizer: Any = weakref.finalize(made, _end, block, os.getpid())
    finalizer.atexit = False
    return made


def _end(block: SharedBlock, maker: int) -> None:
    if os.getpid() == maker:  # and not a child that it forked, whose handle is a copy
        memoryview(block)[0] = 0


def arrive(name: bytes, spans: tuple[tuple[int, int], ...]) -> Broadcast[Any]:
    """The same handle in a worker: the one that is there already, if there is."""
    known = _kept.get(name)
    if known is None:
        known = _kept[name] = Broadcast(_engine.shared_open(name), spans)
        _engine.after_task(forget)
    return known


def forget() -> None:
    """After each task of a worker that keeps some: drops those whose sender has dropped them."""
    for name in [name for name, kept in _kept.items() if memoryview(kept._block)[0] == 0]:
        del _kept[name]
    if not _kept:
        _engine.after_task(None)
