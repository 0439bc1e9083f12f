"""NumPy arrays that several processes see: made here, passed to tasks, written in place, nothing copied::

    import treadle

    image = treadle.shared.zeros((4000, 6000, 3), "uint8")
    with treadle.ProcessPoolExecutor() as pool:
        list(pool.map(blur, (image[rows] for rows in bands)))   # each worker writes into its rows of `image`

The functions are NumPy's, and so are the arrays: plain `numpy.ndarray`, whose memory can be mapped by others. As an
argument of a task, or in a global or closure of its function, such an array travels by reference, and so does whatever
views the same memory: slices, transposes, views of another dtype, memoryviews. What a worker writes, everybody sees;
who writes where is the program's affair. A task's *result* is a value of its own: a shared array that a task returns
is copied.

Memory has no name and no file: it goes when nobody holds it any more, also after `kill -9`. A worker that keeps a view
keeps the memory, for as long as it lives. A child of a plain `fork` sees its parent's arrays, too, but holds nothing:
they stay for it as long as they do for the parent.

Sources: python/treadle/_sharing.py, binding/shared.c, core/memory/heap.c, core/pool/held.c.
"""

from __future__ import annotations

import operator
import pickle
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from . import _engine, _views
from . import _sharing as _sharing  # from here on arrays travel by reference
from ._engine import Lock as Lock
from ._sync import Barrier as Barrier
from ._sync import Counter as Counter
from ._sync import Event as Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Shape = int | tuple[int, ...]
    Order = Literal["C", "F"]

T = TypeVar("T")

# Of the `allocator` blocks that this context is in: what was in force before each.
_allocators: ContextVar[tuple[object, ...]] = ContextVar("treadle.shared.allocator", default=())


class _NoNumPy:
    """In NumPy's place where it is not installed: locks and buffers do without."""

    ndarray = None

    def __getattr__(self, name: str) -> object:
        raise ModuleNotFoundError("shared arrays need NumPy, which is not installed", name="numpy")


if not TYPE_CHECKING:
    try:
        import numpy as np
    except ModuleNotFoundError:
        np = _NoNumPy()
    else:
        _engine.use_numpy()

__all__ = [
    "Barrier",
    "Counter",
    "Event",
    "Lock",
    "allocator",
    "array",
    "copy",
    "empty",
    "empty_like",
    "full",
    "info",
    "ones",
    "share",
    "zeros",
]


def _new(shape: Any, dtype: DTypeLike | None, order: str | None, clear: bool) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind in "biufc" and kind.isnative and kind.metadata is None:
        kind = np.dtype(kind.char)  # NumPy's own, not a copy that came out of a pickle: those travel fastest
    if kind.hasobject:
        raise ValueError(f"an array of {kind} holds pointers to Python objects, which mean nothing in another process")
    sizes: tuple[Any, ...] = tuple(shape) if np.iterable(shape) else (shape,)
    if any(size < 0 for size in sizes):
        raise ValueError("negative dimensions are not allowed")
    nbytes = kind.itemsize
    for size in sizes:
        nbytes *= int(size)
    if nbytes > sys.maxsize:
        raise ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size.")
    try:
        block: Any = _engine.shared_new(nbytes, clear)  # see attach_array in _sharing.py
    except MemoryError:
        raise MemoryError(f"no room for a shared array of shape {sizes} and dtype {kind}: {nbytes:,} bytes") from None
    return np.ndarray(sizes, kind, block, order="F" if order == "F" else "C")


def empty(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A new shared array of arbitrary contents; as `numpy.empty`.

    Args:
        shape: One length, or a tuple of them.
        dtype: Any but those that hold Python objects.
        order: "C" (rows are contiguous) or "F" (columns are).

    Raises:
        MemoryError: there is no room for it, in the machine or the cgroup.
        ValueError: the dtype holds Python objects, or a length is negative.
    """
    return _new(shape, dtype, order, False)


def zeros(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A new shared array of zeros; as `numpy.zeros`. Raises what `empty` does."""
    return _new(shape, dtype, order, True)


def ones(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A new shared array of ones; as `numpy.ones`. Raises what `empty` does."""
    return full(shape, 1, dtype, order)


def full(shape: Shape, fill_value: ArrayLike, dtype: DTypeLike | None = None, order: Order = "C") -> NDArray[Any]:
    """A new shared array of one value; as `numpy.full`. Raises what `empty` does."""
    made = _new(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order, False)
    np.copyto(made, fill_value, casting="unsafe")
    return made


def empty_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Literal["C", "F", "A", "K"] = "K",
    shape: Shape | None = None,
) -> NDArray[Any]:
    """A new shared array laid out as another is; as `numpy.empty_like`. Raises what `empty` does."""
    like = np.asanyarray(prototype)
    kind = like.dtype if dtype is None else np.dtype(dtype)
    if kind.hasobject:
        return _new(0, kind, None, False)  # which says why not
    # NumPy says how the axes lie, by an array of the same shape that takes no memory to speak of.
    layout = np.empty_like(like, np.dtype("V1"), order, False, shape)
    made = _new(layout.size, kind, None, False)
    if layout.size == 0:
        return made.reshape(layout.shape)
    strides = tuple(step * kind.itemsize for step in layout.strides)
    return np.ndarray(layout.shape, kind, made.base, 0, strides)


def array(
    object: ArrayLike, dtype: DTypeLike | None = None, *, order: Literal["C", "F", "A", "K"] = "K", ndmin: int = 0
) -> NDArray[Any]:
    """A shared copy of anything that NumPy makes an array of; as `numpy.array`. Raises what `empty` does."""
    source = np.asarray(object, dtype)
    return copy(source[(None,) * (ndmin - source.ndim)], order)


def copy(a: ArrayLike, order: Literal["C", "F", "A", "K"] = "K") -> NDArray[Any]:
    """A shared copy of an array; as `numpy.copy`. Raises what `empty` does."""
    source = np.asarray(a)
    made = empty_like(source, order=order)
    np.copyto(made, source)
    return made


def share(obj: T) -> T:
    """The same value with its large buffers in shared memory: copied there once, and passed by reference from then on.

    An array gives an array, bytes, a bytearray or another owner of a buffer gives a memoryview (writable, unless it
    was bytes), and an object that pickles with out-of-band buffers, such as a pandas DataFrame or a pyarrow Table,
    gives one whose buffers are shared. What is shared already is returned as it is.

    Raises:
        MemoryError: there is no room for it.
        ValueError: it is an array of Python objects.
        TypeError, pickle.PicklingError: it is neither a buffer nor can it be pickled.
    """
    if type(obj) is np.ndarray:
        return obj if _is_shared(obj) else cast("T", copy(cast("Any", obj)))
    try:
        view = memoryview(obj)  # type: ignore[arg-type]
    except TypeError:
        return _share_parts(obj)
    return obj if _is_shared(view) else cast("T", _copy_view(view))


def _is_shared(buffer: Any) -> bool:
    extent = _sharing._array_extent(buffer)
    return extent is not None and _engine.shared_find(extent[0], extent[1]) is not None


def _copy_view(view: memoryview) -> memoryview:
    part = memoryview(_engine.shared_new(view.nbytes, False))[: view.nbytes]
    part[:] = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    return _views.make_view(part.toreadonly() if view.readonly else part, view.format, view.shape or ())


def _share_parts(obj: T) -> T:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    made: T = pickle.loads(data, buffers=[_copy_view(buffer.raw()) for buffer in buffers])
    return made


class allocator:
    """A `with` block in which NumPy's own arrays are born shared, whoever makes them::

        with treadle.shared.allocator(min_bytes=1 << 20):
            frames = load(path)                    # any library that makes NumPy arrays
        pool.map(blur, frames)                     # by reference, as arrays of `treadle.shared` are

    Arrays of `min_bytes` bytes and more are shared arrays like those of `zeros`, for as long as they live, also after
    the block: what is passed to a task is not copied, and what a task writes there, everybody sees. Smaller ones, and
    other memory than NumPy's, are as they always are. It may be entered several times, also inside itself.

    NumPy's allocator is one of the calling *context* (NEP 49, `contextvars`): other threads go on as before, and so do
    asyncio tasks that were started outside the block. After a plain `fork`, the child sees these arrays as its parent
    does, what either writes is seen by both, and they stay for as long as the parent keeps them; arrays that the child
    makes are its own.

    Args:
        min_bytes: From which size on, in bytes; smaller arrays are cheaper to copy than to share.

    Raises:
        MemoryError: from whatever makes an array, when there is no room for it in shared memory.
        ValueError: `min_bytes` is negative.
        RuntimeError: this NumPy is older than 1.22 (when it is entered).

    Sources: binding/allocator.c, binding/numpy_memory.c.
    """

    def __init__(self, min_bytes: int = 1 << 16) -> None:
        self._min_bytes = operator.index(min_bytes)
        if self._min_bytes < 0:
            raise ValueError("min_bytes must be 0 or more")

    def __enter__(self) -> Self:
        before = _engine.numpy_use_allocator(_engine.numpy_allocator(self._min_bytes))
        _allocators.set((*_allocators.get(), before))
        return self

    def __exit__(self, *_: object) -> None:
        *outer, before = _allocators.get()
        _allocators.set(tuple(outer))
        _engine.numpy_use_allocator(before)


def info() -> dict[str, Any]:
    """How much shared memory there is, as this process sees it, and who has it.

    Returns:
        `blocks` and `bytes` of its own that somebody holds; `committed_bytes` of memory that they take, with what is
        kept for the next ones; `foreign_blocks` and `foreign_bytes` of other processes that are held here, in
        `foreign_heaps` of them; and `segments`, a list: this process's arrays, all in one (`name` is None), and the
        named segments of `treadle.SharedMemory` that this user has. Of each the `bytes`, and `holders`, the ids of the
        processes that have it mapped.
    """
    from . import _holders

    found = dict[str, Any](_engine.shared_info())
    found["segments"] = _holders.segments()
    del found["device"], found["inode"]
    return found
