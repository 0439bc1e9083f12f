"""`multiprocessing.shared_memory` over the engine: nothing leaks, and no view ever crashes.

    from treadle import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=1_000_000)
    memory.buf[:5] = b"hello"

Sources: binding/named.c, core/named/.
"""

from __future__ import annotations

import os

from . import _engine

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any

    from ._shareable import ShareableList as ShareableList

__all__ = ["ShareableList", "SharedMemory"]

_SHM_NAME_PREFIX = "/psm_"


def _make_filename() -> str:
    """A name as the stdlib makes them."""
    return _SHM_NAME_PREFIX + os.urandom(4).hex()


class SharedMemory:
    """A block of memory with a name, by which any process can attach to it; the stdlib's processes, too.

    A drop-in for `multiprocessing.shared_memory.SharedMemory`, but for who removes the block. Here that needs no call
    and no tracker: a block lives as long as any process uses it, and goes with the last one, however that ends. Hand
    its name over while you hold it; what has to outlive all its users is made with `track=False`.

    Args:
        name: The block's name; None makes one up, for a new block.
        create: Make a new block, rather than attach to one.
        size: Bytes of a new block, all of which are allocated at once; not looked at otherwise.
        track: Remove the block with its last user. False, for a new block: it stays until `unlink()`, or the machine's
            end. For an existing one it changes nothing: how it was made counts.

    Raises:
        FileExistsError: There is a block of that name already, which is in use.
        FileNotFoundError: There is none to attach to.
        OSError: No such room (ENOSPC, ENOMEM), or a name that no file can have (ENAMETOOLONG, EINVAL).
        ValueError: A size that is not positive; no name; a block that somebody truncated to nothing.

    Source: python/treadle/shared_memory.py, binding/named.c.
    """

    __module__ = "treadle"

    _buf: memoryview | None

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create and size == 0:
            raise ValueError("'size' must be a positive number different from zero")
        if not create:
            if name is None:
                raise ValueError("'name' can only be None if create=True")
            self._name = "/" + name
            self._segment, self._buf = _engine.segment_attach(self._name)
        elif name is not None:
            self._name = "/" + name
            self._segment, self._buf = _engine.segment_create(self._name, size, track)
        else:
            self._segment, self._buf = self._create_anywhere(size, track)
        if _warn_once and _engine.segments_problem():
            _warn()

    def _create_anywhere(self, size: int, track: bool) -> tuple[_engine.Segment, memoryview]:
        while True:
            self._name = _make_filename()
            try:
                return _engine.segment_create(self._name, size, track)
            except FileExistsError:
                continue

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.__class__, (self.name, False, self.size))

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The memory, writable: `size` unsigned bytes. None after `close()`."""
        return self._buf  # type: ignore[return-value] # as typeshed has it

    @property
    def name(self) -> str:
        """The name by which other processes attach."""
        return self._name.removeprefix("/")

    @property
    def size(self) -> int:
        """Bytes: what was asked for when the block was made, in each process."""
        return self._segment.size

    def close(self) -> None:
        """Ends the use of the block by this object. Never fails, and releases no view that somebody has.

        Where views are left (slices of `buf`, NumPy arrays over it), the memory stays mapped until the last one is
        gone; then, if nobody else uses the block, it is removed.
        """
        self._buf = None

    def unlink(self) -> None:
        """Removes the block's name at once; who uses the memory keeps it. Needed only with `track=False`.

        Raises:
            FileNotFoundError: Somebody unlinked it before. Not where it went by itself, after `close()`.
        """
        self._segment.unlink(self._name)


# --- the guardian

_warn_once = True


def _guardian_in(folder: str) -> str:
    """The guardian's program: in the package's folder, or, for an editable installation, in the build's."""
    program = os.path.join(folder, "treadle-guard")
    if not os.path.exists(program):
        import importlib.resources

        program = str(importlib.resources.files("treadle") / "treadle-guard")
    return program


_engine.segments_guardian(_guardian_in(os.path.dirname(__file__)))


def _warn() -> None:
    global _warn_once
    _warn_once = False
    import warnings

    warnings.warn(
        f"the guardian of shared memory can't be started ({os.strerror(_engine.segments_problem())}): what killed "
        "processes leave is removed only when the next one starts, or by `treadle doctor --clean`",
        RuntimeWarning,
        stacklevel=3,
    )


def __getattr__(name: str) -> Any:
    if name != "ShareableList":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._shareable import ShareableList

    globals()[name] = ShareableList
    return ShareableList
