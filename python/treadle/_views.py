"""Memoryviews, which plain pickle refuses: the bytes travel as a large buffer does, and a view of them is made anew."""

from __future__ import annotations

from pickle import PickleBuffer

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any


def reduce_view(view: memoryview) -> Any:
    """A reduction whose bytes go out of band where they are contiguous, and are made so where they are not.

    Raises:
        TypeError: a view of this format or shape can't be made of bytes.
        ValueError: the view was released.
    """
    if not is_makeable(view):
        raise TypeError(
            f"a memoryview of format {view.format!r} and shape {view.shape} can't be made anew: "
            "send what it is a view of"
        )
    if view.c_contiguous:
        data: Any = PickleBuffer(view)
    else:
        data = bytes(view) if view.readonly else bytearray(view)
    return make_view, (data, view.format, view.shape)


def is_makeable(view: memoryview) -> bool:
    """memoryview.cast knows only the formats of one character, and refuses several dimensions without an element."""
    if view.ndim > 1 and view.nbytes == 0:
        return False
    try:
        return memoryview(bytes(view.itemsize)).cast(view.format).nbytes == view.itemsize  # type: ignore[call-overload,no-any-return]
    except ValueError:
        return False


def make_view(data: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    """The view, writable where the data is."""
    view = memoryview(data)
    if len(shape) == 1:
        return view if format == "B" else view.cast(format)  # type: ignore[call-overload]
    made: memoryview = view.cast("B").cast(format, shape)  # type: ignore[call-overload]
    return made
