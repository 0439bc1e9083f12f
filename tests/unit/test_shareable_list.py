"""ShareableList: what its items may be, and what becomes of them."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import ShareableList, SharedMemory

TEXT = st.text(max_size=40).filter(lambda text: not text.endswith("\0"))
BYTES = st.binary(max_size=40).filter(lambda data: not data.endswith(b"\0"))
INTEGERS = st.integers(-(2**63), 2**63 - 1)
ITEMS = st.one_of(INTEGERS, st.floats(allow_nan=False), st.booleans(), st.none(), TEXT, BYTES)


def same(left: list[Any], right: list[Any]) -> bool:
    return left == right and [type(item) for item in left] == [type(item) for item in right]


@given(st.lists(ITEMS))
def test_the_items_come_back_as_they_were(items: list[Any]) -> None:
    made = ShareableList(items)
    other: ShareableList[Any] = ShareableList(name=made.shm.name)
    assert same(list(made), items)
    assert same(list(other), items)
    assert len(other) == len(items)
    assert other.format == made.format


@given(st.lists(ITEMS, min_size=1), st.data())
def test_an_item_is_replaced_by_one_that_fits(items: list[Any], data: st.DataObject) -> None:
    made = ShareableList(items)
    other: ShareableList[Any] = ShareableList(name=made.shm.name)
    position = data.draw(st.integers(-len(items), len(items) - 1))
    value = data.draw(ITEMS)
    try:
        made[position] = value
    except ValueError:
        assert len(value.encode() if isinstance(value, str) else value) > 8
    else:
        items[position] = value
    assert same(list(other), items)


def test_text_is_given_the_room_that_it_takes_when_encoded() -> None:
    assert list(ShareableList(["é" * 20, "😀" * 100])) == ["é" * 20, "😀" * 100]


def test_any_iterable_will_do() -> None:
    assert list(ShareableList(number**2 for number in range(4))) == [0, 1, 4, 9]
    assert list(ShareableList("abc")) == ["a", "b", "c"]


def test_an_empty_list_has_no_items() -> None:
    empty: ShareableList[int] = ShareableList()
    assert (len(empty), empty.format, empty.count(1)) == (0, "", 0)
    with pytest.raises(ValueError, match="not in this container"):
        empty.index(1)


@pytest.mark.parametrize("position", [3, -4, 10**9])
def test_a_position_outside_is_an_index_error(position: int) -> None:
    made = ShareableList([1, 2, 3])
    with pytest.raises(IndexError, match="index out of range"):
        made[position]
    with pytest.raises(IndexError, match="assignment index out of range"):
        made[position] = 1


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(KeyError):
        ShareableList([[1]])  # type: ignore[type-var]
    with pytest.raises(struct.error):
        ShareableList([2**63])
    with pytest.raises(ValueError, match="10 MB"):
        ShareableList([b"x" * 10_000_000])


def test_a_pickle_is_the_same_list() -> None:
    made = ShareableList([1, "two", None])
    again = pickle.loads(pickle.dumps(made))
    again[0] = 5
    assert list(made) == [5, "two", None]


def test_what_is_no_list_is_not_read_as_one() -> None:
    memory = SharedMemory(create=True, size=16)
    memory.buf[:8] = struct.pack("q", 2**40)
    with pytest.raises(struct.error):
        ShareableList(name=memory.name)
