"""ShareableList: a list of fixed length in shared memory, in the stdlib's layout.

8 bytes                the number of items, N
(N + 1) * 8 bytes      where each item begins in the data, and where the last one ends
the data               each item in a multiple of 8 bytes, zeros behind it
N * 8 bytes            each item's struct format, zeros behind it
N bytes                what each item becomes in Python: see below
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from .shared_memory import SharedMemory

Item = TypeVar("Item", int, float, bool, str, bytes, None)

WORD = 8
ENCODING = "utf8"
NUMBERS = {int: "q", float: "d", bool: "xxxxxxx?", type(None): "xxxxxx?x"}
PLAIN, TEXT, BYTES, NOTHING = range(4)


def kind_of(value: Any) -> int:
    """What the item becomes again."""
    if isinstance(value, str):
        return TEXT
    if isinstance(value, bytes):
        return BYTES
    return NOTHING if value is None else PLAIN


def encoded(value: Any) -> Any:
    """The value as struct packs it."""
    return value.encode(ENCODING) if isinstance(value, str) else value


def room_for(item: Any) -> int:
    """Bytes of a new item: as many as the stdlib gives it, but for text that needs more when it is encoded."""
    if not isinstance(item, (str, bytes)):
        return WORD
    return max(WORD * (len(item) // WORD + 1), -(-len(encoded(item)) // WORD) * WORD)


def format_of(value: Any, room: int) -> str:
    """The struct format of an encoded value in its room."""
    return f"{room}s" if isinstance(value, bytes) else NUMBERS[type(value)]


class ShareableList(Generic[Item]):
    """A list of fixed length in shared memory: of int (64 bits), float, bool, str, bytes and None.

    A drop-in for `multiprocessing.shared_memory.ShareableList`, whose processes read it, too. An item can be replaced
    by one of another type, and a str or bytes by one that fits into the room of the first. As in the stdlib, zero bytes
    at the end of a str or bytes are lost, and nothing is locked.

    Args:
        sequence: The items. None, with a name: attach to the list of that name.
        name: The name of its SharedMemory; None makes one up, for a new list.

    Raises:
        KeyError: An item of another type.
        ValueError: An item of 10 MB or more.

    Source: python/treadle/_shareable.py.
    """

    __module__ = "treadle"

    shm: SharedMemory
    """The memory it lies in."""

    def __init__(self, sequence: Iterable[Item] | None = None, *, name: str | None = None) -> None:
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._count = len(self)
            self._offsets: tuple[int, ...] = struct.unpack_from(f"{self._count + 1}q", self.shm.buf, WORD)
        else:
            self._create([] if sequence is None else list(sequence), name)

    def _create(self, items: list[Any], name: str | None) -> None:
        values = [encoded(item) for item in items]
        rooms = [room_for(item) for item in items]
        formats = [format_of(value, room) for value, room in zip(values, rooms, strict=True)]
        if any(len(layout) > WORD for layout in formats):
            raise ValueError("an item of 10 MB or more doesn't fit into a ShareableList")
        self._count = len(items)
        offsets = [0]
        for room in rooms:
            offsets.append(offsets[-1] + room)
        self._offsets = tuple(offsets)
        self.shm = SharedMemory(name, create=True, size=self._kinds_at + self._count)
        struct.pack_into(f"{self._count + 2}q", self.shm.buf, 0, self._count, *offsets)
        for position, item in enumerate(items):
            self._put(position, formats[position], values[position], kind_of(item))

    # --- where things are

    @property
    def _data_at(self) -> int:
        return (self._count + 2) * WORD

    @property
    def _formats_at(self) -> int:
        return self._data_at + self._offsets[-1]

    @property
    def _kinds_at(self) -> int:
        return self._formats_at + self._count * WORD

    def _checked(self, position: int, message: str) -> int:
        place = operator.index(position)
        place += self._count if place < 0 else 0
        if not 0 <= place < self._count:
            raise IndexError(message)
        return place

    def _put(self, position: int, layout: str, value: Any, kind: int) -> None:
        struct.pack_into(layout, self.shm.buf, self._data_at + self._offsets[position], value)
        struct.pack_into("8s", self.shm.buf, self._formats_at + position * WORD, layout.encode(ENCODING))
        struct.pack_into("b", self.shm.buf, self._kinds_at + position, kind)

    def _get_packing_format(self, position: int) -> str:
        """The struct format of an item."""
        place = self._checked(position, "Requested position out of range.")
        (layout,) = struct.unpack_from("8s", self.shm.buf, self._formats_at + place * WORD)
        return str(layout.rstrip(b"\0"), ENCODING)

    # --- the list

    def __getitem__(self, position: int) -> Item:
        place = self._checked(position, "index out of range")
        layout = self._get_packing_format(place)
        (value,) = struct.unpack_from(layout, self.shm.buf, self._data_at + self._offsets[place])
        (kind,) = struct.unpack_from("b", self.shm.buf, self._kinds_at + place)
        if kind == NOTHING:
            value = None
        elif kind != PLAIN:
            value = value.rstrip(b"\0")
            if kind == TEXT:
                value = value.decode(ENCODING)
        return value  # type: ignore[no-any-return]

    def __setitem__(self, position: int, value: Item) -> None:
        place = self._checked(position, "assignment index out of range")
        room = self._offsets[place + 1] - self._offsets[place]
        packed = encoded(value)
        if isinstance(packed, bytes) and len(packed) > room:
            raise ValueError("bytes/str item exceeds available storage")
        self._put(place, format_of(packed, room), packed, kind_of(value))

    def __len__(self) -> int:
        return int(struct.unpack_from("q", self.shm.buf, 0)[0])

    def __iter__(self) -> Iterator[Item]:
        return (self[position] for position in range(self._count))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(self.__class__, name=self.shm.name), ()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The struct format of all items."""
        return "".join(self._get_packing_format(position) for position in range(self._count))

    def count(self, value: Item) -> int:
        """How often the value occurs."""
        return sum(value == item for item in self)

    def index(self, value: Item) -> int:
        """The first position of the value.

        Raises:
            ValueError: It does not occur.
        """
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} not in this container")
