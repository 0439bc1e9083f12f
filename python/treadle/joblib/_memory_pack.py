"""A result as the parts of an entry, and back.

The kind of an entry is "pickle", or "pickle+METHOD" where its pickle is compressed. Its parts are a few words about the
call, as JSON; a pickle of protocol 5; and the buffers that stand outside of it, as they are.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

PLAIN = "pickle"
OUTSIDE = 512
"""Bytes from which on a buffer stands outside of the pickle."""


METHODS = ("zlib", "gzip", "bz2", "lzma", "xz")
DEFAULT_LEVEL = 3


def method_and_level(compress: Any) -> tuple[str, int] | None:
    """What `Memory(compress=...)` asks for; None: nothing.

    Raises:
        ValueError: there is no such method, or level.
    """
    if not compress:
        return None
    if isinstance(compress, tuple | list):
        if len(compress) != 2:
            raise ValueError(f"compress should be a bool, an int or a pair of method and level, not {compress!r}")
        method, level = compress
    elif isinstance(compress, str):
        method, level = compress, DEFAULT_LEVEL
    else:
        method, level = "zlib", DEFAULT_LEVEL if compress is True else compress
    if method not in METHODS:
        raise ValueError(f"compress: no method {method!r}; there are {', '.join(METHODS)}")
    if not (isinstance(level, int) and 0 <= level <= 9):
        raise ValueError(f"compress: a level is a number from 0 to 9, not {level!r}")
    return (method, level) if level else None


def pack(value: object, compress: tuple[str, int] | None) -> tuple[str, list[Any]]:
    """The kind and the parts of an entry, but for the first.

    Raises:
        Exception: what pickling raises.
    """
    if compress is not None:
        method, level = compress
        return f"{PLAIN}+{method}", [compressed(method, level, pickle.dumps(value, 5))]
    buffers: list[Any] = []

    def outside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUTSIDE:
            return True
        buffers.append(raw)
        return False

    return PLAIN, [pickle.dumps(value, 5, buffer_callback=outside), *buffers]


def compressed(method: str, level: int, data: bytes) -> bytes:
    if method == "zlib":
        import zlib

        return zlib.compress(data, level)
    if method == "gzip":
        import gzip

        return gzip.compress(data, level, mtime=0)
    if method == "bz2":
        import bz2

        return bz2.compress(data, level)
    import lzma

    return lzma.compress(data, preset=level)


def unpack(kind: str, parts: Sequence[Any]) -> Any:
    """The value of an entry.

    Raises:
        Exception: what unpickling raises.
    """
    if kind == PLAIN:
        return pickle.loads(parts[1], buffers=parts[2:])
    method = kind.removeprefix(f"{PLAIN}+")
    if method == kind:
        raise pickle.UnpicklingError(f"an entry of another kind: {kind}")
    return pickle.loads(decompressed(method, bytes(parts[1])))


def decompressed(method: str, data: bytes) -> bytes:
    import importlib

    found: bytes = importlib.import_module("lzma" if method == "xz" else method).decompress(data)
    return found
