"""How functions, arguments and results are pickled.

Plain pickle does the work wherever it can: protocol 5, in C, large buffers out of band, with multiprocessing's reducers
where the program uses them. What refers to `__main__`, or to another module that a worker can't import, and what plain
pickle refuses, goes through _byvalue.py.
"""

from __future__ import annotations

import sys
from _pickle import PickleBuffer, Pickler
from _pickle import dumps as _dumps
from _pickle import loads as loads
from copyreg import dispatch_table
from io import BytesIO
from itertools import pairwise
from types import BuiltinFunctionType, FunctionType

from . import _arrival, _named
from ._findable import unfindable_patterns

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from . import _byvalue

    Pieces = list[bytes | PickleBuffer]
    Dump = tuple[bytes | Pieces, list[Any]]
    SharingDump = tuple[bytes | Pieces, list[Any], list[Any]]

SMALL_BUFFER = 1024  # bytes; below, a copy in the pickle is cheaper than a buffer of its own
SMALL_PICKLE = 1024  # bytes; the pickler of a larger one has a memo that takes long to clear
LONG_PIECE = 1 << 16  # bytes; what is shorter is copied into the pickle

_table: dict[type, Any] = {}
_table_key: tuple[int, int] = (-1, -1)


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any], main_by_reference: bool) -> Dump | SharingDump:
    """The arguments of a call: the pickle of (args, kwargs), its large buffers, and the shared blocks if it names any.

    Raises:
        TravelError: something in them can't be pickled; names it.
    """
    sharing = sys.modules.get("treadle._sharing")
    try:
        if sharing is None:
            return dump((args, kwargs), main_by_reference)
        with sharing.naming() as blocks:
            data, buffers = dump((args, kwargs), main_by_reference)
        return (data, buffers, blocks) if blocks else (data, buffers)
    except Exception as error:
        from ._where import explain_call

        raise explain_call(error, args, kwargs, main_by_reference) from error


def dump_result(value: Any) -> Dump:
    """A result on its way to the parent, where `__main__` and all modules are at hand by name.

    Raises:
        TravelError: something in it can't be pickled; names it.
    """
    try:
        return dump(value, True)
    except Exception as error:
        from ._where import explain

        raise explain(error, "the result", value, True) from error


def dump(value: Any, main_by_reference: bool) -> Dump:
    """The pickle of a value, or the pieces of a long one, and its large buffers. Raises what pickling raises."""
    buffers: list[Any] = []
    try:
        data, buffers = plain_pieces(value)
        if main_by_reference or not mentions_unfindable(data):
            return data, buffers
        from . import _definitions

        buffers.clear()
        return _definitions.dump(value, buffers), buffers
    except MemoryError:
        raise
    except Exception:
        pass  # by value, perhaps; what is wrong otherwise goes wrong there again
    from . import _byvalue

    buffers.clear()
    return _byvalue.dump(value, main_by_reference, buffers)[0], buffers


def collector(buffers: list[Any] | None) -> Callable[[Any], object] | None:
    """Pickle's buffer_callback that puts large buffers on the list and leaves small ones in the pickle."""
    if buffers is None:
        return None

    def collect(buffer: Any) -> bool:
        if buffer.raw().nbytes < SMALL_BUFFER:
            return True
        buffers.append(buffer)
        return False

    return collect


def plain(value: Any, callback: Callable[[Any], object] | None = None) -> bytes:
    """pickle.dumps, knowing what multiprocessing can send where that is loaded."""
    table = reducers()
    if table is None:
        return _dumps(value, 5, buffer_callback=callback)
    file = BytesIO()
    pickler = Pickler(file, 5, buffer_callback=callback)
    pickler.dispatch_table = table
    pickler.dump(value)
    return file.getvalue()


class _Written(list):  # type: ignore[type-arg] # of bytes and bytearrays
    """A file that keeps what is written to it: large bytes and bytearrays as they are, what is between in pieces."""

    __slots__ = ()
    write = list.append


_spare: list[tuple[Pickler, list[Any], list[Any]]] = []
"""Picklers to be used again, what they write, and their large buffers: a new one takes longer than a small pickle."""


def plain_pieces(value: Any) -> Dump:
    """As dump, where plain pickle is all that it takes. Large bytes and bytearrays are pieces, and not copied."""
    try:
        kit = _spare.pop()
    except IndexError:
        kit = _new_kit()
    pickler, pieces, buffers = kit
    pickler.dispatch_table = reducers() or dispatch_table
    pickler.dump(value)
    pickler.clear_memo()
    if len(pieces) > 1:
        return _pinned(pieces), buffers
    data = pieces.pop()
    if len(data) > SMALL_PICKLE:
        return data, buffers
    found = data, buffers[:]
    buffers.clear()
    _spare.append(kit)
    return found


def _new_kit() -> tuple[Pickler, list[Any], list[Any]]:
    written = _Written()
    buffers: list[Any] = []
    return Pickler(written, 5, True, collector(buffers)), written, buffers


def _pinned(written: list[Any]) -> Pieces:
    """Pieces that keep their size, which for a bytearray is written at the end of the piece before it.

    Raises:
        BufferError: a bytearray has another one by now.
    """
    pieces = [piece if isinstance(piece, bytes) else PickleBuffer(piece) for piece in written]
    for before, piece in pairwise(written):
        if isinstance(piece, bytearray) and len(piece) != int.from_bytes(before[-8:], "little"):
            raise BufferError("a bytearray was changed while it was pickled")
    return pieces


def reducers() -> dict[type, Any] | None:
    """Copyreg's table, multiprocessing's and what names shared arrays, in one dict; None where copyreg's is all."""
    global _table, _table_key
    reduction = sys.modules.get("multiprocessing.reduction")
    by_name = shared_reducers()
    if reduction is None and not by_name:
        return None
    copyreg = sys.modules["copyreg"].dispatch_table
    extra = {} if reduction is None else reduction.ForkingPickler._extra_reducers
    if (len(copyreg), len(extra)) != _table_key:
        _table, _table_key = {**copyreg, **extra}, (len(copyreg), len(extra))
    return {**_table, **by_name} if by_name else _table


def shared_reducers() -> dict[type, Any]:
    """What names arrays of shared memory, where this dump may do that."""
    sharing = sys.modules.get("treadle._sharing")
    return {} if sharing is None else sharing.table()


def mentions_unfindable(data: bytes | Pieces) -> bool:
    """Does a pickle name a module that a worker can't import? A text that merely looks so costs time, no more."""
    if isinstance(data, list):
        return any(isinstance(piece, bytes) and _is_pickle(piece) and mentions_unfindable(piece) for piece in data)
    for pattern in unfindable_patterns():  # noqa: SIM110  (there are one or two, and a generator is dear)
        if pattern in data:
            return True
    return False


def _is_pickle(piece: bytes) -> bool:
    """Did the pickler make this piece? Its long ones open with PROTO or FRAME; the others are a value's contents."""
    return len(piece) < LONG_PIECE or piece[0] in (0x80, 0x95)


# --- functions


def pack_sharing(function: Callable[..., Any], main_by_reference: bool) -> tuple[bytes, Any, list[Any] | None]:
    """As pack_function, which may name shared blocks here: those, too."""
    sharing = sys.modules.get("treadle._sharing")
    if sharing is None:
        return (*pack_function(function, main_by_reference), None)
    with sharing.naming() as blocks:
        return (*pack_function(function, main_by_reference), blocks)


def pack_function(function: Callable[..., Any], main_by_reference: bool) -> tuple[bytes, Any]:
    """The bytes from which a worker makes the callable, and how long they are good.

    True: for this object, always. A Watch: as long as it holds. None: for this call.

    Raises:
        TravelError: it can't be pickled; names what in it can't.
    """
    from . import _byvalue

    kind = type(function)
    by_value = kind is FunctionType or kind is _byvalue.Cached
    named = by_value or kind is BuiltinFunctionType or isinstance(function, type)
    if named and _byvalue.is_by_name(function, main_by_reference):
        return _named.pack(function), True
    try:
        if not by_value:
            return dump_whole(function, main_by_reference), None
        data, shared = _byvalue.dump(function, main_by_reference)
        return data, watch(shared)
    except Exception as error:
        from ._where import explain_function

        raise explain_function(error, function, main_by_reference) from error


def dump_whole(value: Any, main_by_reference: bool) -> bytes:
    """The pickle of a value, its buffers inside."""
    try:
        data = plain(value)
        if main_by_reference or not mentions_unfindable(data):
            return data
    except MemoryError:
        raise
    except Exception:
        pass  # as in dump
    from . import _byvalue

    return _byvalue.dump(value, main_by_reference)[0]


def watch(shared: _byvalue.Shared) -> Any:
    """A Watch over all that a function's pickle was made from, or None where not all of it can be watched."""
    if shared.places is None:
        return None
    from ._byvalue import MISSING
    from ._engine import Watch

    try:
        watched = Watch(shared.places)
    except RuntimeError:
        return None  # a class that changes all the time
    if all(space.get(name, MISSING) is value for space, name, value in shared.seen):
        return watched
    return None  # another thread changed a global between the pickling and the watching


def pack_call(function: Callable[..., Any], args: tuple[Any, ...], main_by_reference: bool) -> bytes:
    """A function and its arguments in one: for load_call. The caller holds them, and so what shared blocks it names.

    Raises:
        TravelError: something in it can't be pickled; names it.
    """
    sharing = sys.modules.get("treadle._sharing")
    try:
        if sharing is None:
            return dump_whole((function, args), main_by_reference)
        with sharing.naming():
            return dump_whole((function, args), main_by_reference)
    except Exception as error:
        from ._where import explain

        raise explain(error, "the call", (function, args), main_by_reference) from error


def load_call(data: bytes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What pack_call packed."""
    function, args = loads(data)
    return function, args


def load_function(data: bytes) -> Callable[..., Any]:
    """What pack_function packed."""
    return _named.load_for_worker(data)[0]


def load_by_value(data: bytes) -> _named.Loaded:
    """For _named.load_for_worker."""
    with _arrival.Tape() as tape:
        function = loads(data)
    return function, tape.replay if tape.entries else None
