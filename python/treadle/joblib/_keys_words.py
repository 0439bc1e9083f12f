"""What the digests of values are written in: marks, the digest itself, and what tells that there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from pickle import whichmodule  # type: ignore[attr-defined] # it is not in its stub
from types import ModuleType
from typing import Any, Protocol, TypeAlias

xxh3: Callable[[Any], bytes] | None
try:
    from xxhash import xxh3_128_digest as xxh3
except ImportError:
    xxh3 = None

# What opens each part: none of these is a type of marshal's.
BYTES, BYTEARRAY, TEXT, LIST, DICT, SET, FROZENSET, TUPLE = (
    b"\x80",
    b"\x81",
    b"\x82",
    b"\x83",
    b"\x84",
    b"\x85",
    b"\x86",
    b"\x87",
)
ARRAY, OBJECTS, NUMBER, DTYPE, NAME, CODE, OBJECT, NODE = (
    b"\x90",
    b"\x91",
    b"\x92",
    b"\x93",
    b"\x94",
    b"\x95",
    b"\x96",
    b"\x97",
)
AGAIN, VERSIONS, MASKED, MEMMAP = b"\x98", b"\x99", b"\x9a", b"\x9b"

Steps: TypeAlias = Generator[Any, bytes, Any]
"""The writing of a value: gives parts that are not short, gets their bytes, and ends with its own."""


class Changed(RuntimeError):
    """A container changed while it was read."""


class ContainsItself(Exception):
    """Its parts need numbers."""


class CodeOf(Protocol):
    """What knows the code of functions and classes."""

    def __call__(self, thing: Any, /) -> bytes | None:
        """A digest of it; None where its name says enough."""


def blake2(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


fingerprint: Callable[[Any], bytes] = xxh3 or blake2
"""A digest of 16 bytes: XXH3 where the package xxhash is there."""


def buffer(mark: bytes, data: Any) -> bytes:
    return mark + len(data).to_bytes(8, "little") + fingerprint(data)


def named(thing: Any) -> tuple[str, str]:
    """The module and the name of a function or class."""
    name = getattr(thing, "__qualname__", None) or thing.__name__
    module = getattr(thing, "__module__", None)
    if isinstance(getattr(thing, "__self__", None), ModuleType):
        module = thing.__self__.__name__
    return module or whichmodule(thing, name), name
