"""Plain arrays travel without pickle where nobody could tell the difference, and only there."""

from __future__ import annotations

import copyreg
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import CorruptData, _engine, shared

np: Any = pytest.importorskip("numpy")
engine: Any = _engine

HEAD, ENTRY = 16, 24  # bytes of a pickle's head and of each entry, as binding/frame.h has them
DTYPES = "?bBhHiIlLqQefdFD"


class Named(np.ndarray):
    """An array of another type."""


def inner(payload: bytes) -> bytes:
    """What stands where a pickle with buffers would be; nothing: the payload has no buffers."""
    if payload[:1] != b"P":
        return b""
    spans, length = struct.unpack_from("<4xIQ", payload)
    start = HEAD + ENTRY * spans
    return payload[start : start + length]


def is_pickled(payload: bytes) -> bool:
    return payload[:1] == b"p" or inner(payload)[:1] == b"\x80"


def same(a: Any, b: Any) -> bool:
    """Of one type, shape, order, and bit by bit."""
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.flags.c_contiguous == b.flags.c_contiguous
        and a.flags.f_contiguous == b.flags.f_contiguous
        and a.tobytes("A") == b.tobytes("A")
    )


def numbers(dtype: str = "d", shape: tuple[int, ...] = (40, 50), order: str = "C") -> Any:
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape, order=order)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_of_numbers_comes_back_without_pickle(dtype: str, order: str) -> None:
    array = numbers(dtype, order=order)
    payload = engine.encode_value(array)
    assert not is_pickled(payload)
    assert engine.check_payload(payload)
    assert same(engine.decode_value(payload), array)


@given(
    st.lists(st.integers(1, 7), max_size=8).map(tuple),
    st.sampled_from(DTYPES),
    st.sampled_from("CF"),
    st.binary(min_size=16, max_size=16),
)
def test_shapes_of_all_kinds_come_back(shape: tuple[int, ...], dtype: str, order: str, seed: bytes) -> None:
    items = int(np.prod(shape, dtype=int))
    raw = (seed * (items * 16 // len(seed) + 1))[: items * np.dtype(dtype).itemsize]
    array = np.frombuffer(raw, dtype).reshape(shape, order=order)
    back = engine.decode_value(engine.encode_value((array, 1)))[0]
    assert same(back, array)


def test_arrays_stand_among_compact_arguments() -> None:
    one, other = numbers("f"), numbers("q", (200,))
    payload = engine.encode_call((1, one, "text", (None, other)), {"where": one + 1})
    args, kwargs = engine.decode_call(payload)
    assert args[0] == 1 and args[2] == "text" and args[3][0] is None
    assert same(args[1], one) and same(args[3][1], other) and same(kwargs["where"], one + 1)
    assert not is_pickled(engine.encode_call((1, one, "text", (None, other)), {}))


def test_the_arrays_of_a_chunk_come_back_one_by_one() -> None:
    items = [(numbers() + i, i) for i in range(5)]
    payload = engine.encode_chunk(items)
    for i, item in enumerate(items):
        (array, number), kwargs = engine.decode_chunk_item(payload, i)
        assert same(array, item[0]) and number == i and kwargs == {}


def test_one_array_passed_twice_is_one_array() -> None:
    array = numbers()
    (first, second), _ = engine.decode_call(engine.encode_call((array, array), {}))
    assert first is second


@pytest.mark.parametrize(
    "array",
    [
        numbers()[:, ::2],
        numbers()[::-1],
        numbers().astype(">f8"),
        numbers().astype("M8[s]"),
        numbers().astype("g"),
        np.zeros(2000, "O"),
        np.zeros(2000, "i4,f8"),
        np.zeros((1,) * 9 + (500,)),
        np.zeros((0, 500)),
        np.zeros(3),
        numbers().view(Named),
        np.ma.masked_array(numbers(), numbers() > 3),
        numbers().view(np.dtype("f8", metadata={"unit": "m"})),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{array.ndim}d",
)
def test_other_arrays_are_pickled_and_come_back(array: Any) -> None:
    payload = engine.encode_value(array)
    assert is_pickled(payload)
    back = engine.decode_value(payload)
    assert type(back) is type(array) and back.dtype == array.dtype and back.shape == array.shape
    assert back.dtype.metadata == array.dtype.metadata
    assert back.tolist() == array.tolist()


def test_a_program_that_pickles_arrays_in_its_own_way_is_heard() -> None:
    array = numbers()
    copyreg.pickle(np.ndarray, lambda it: (list, ([it.shape],)))
    try:
        assert engine.decode_value(engine.encode_value(array)) == [array.shape]
    finally:
        del copyreg.dispatch_table[np.ndarray]
    assert same(engine.decode_value(engine.encode_value(array)), array)


def test_a_result_in_shared_memory_is_a_value() -> None:
    array = shared.array(numbers())
    back = engine.decode_value(engine.encode_value(array))
    assert same(back, array)
    back[0, 0] = -1.0
    assert array[0, 0] == 0.0


@pytest.mark.parametrize("writable", [True, False])
def test_an_array_that_may_not_be_written_to_arrives_so(writable: bool) -> None:
    array = numbers()
    array.flags.writeable = writable
    back = engine.decode_value(engine.encode_value(array))
    assert back.flags.writeable is writable
    assert back.flags.aligned


@pytest.mark.parametrize(
    ("what", "offset", "value"),
    [
        ("a type that is no number's", 1, b"\x11"),
        ("a type beyond all", 1, b"\xff"),
        ("too many dimensions", 2, b"\x09"),
        ("a buffer that is not there", 4, b"\x01\0\0\0"),
        ("a length that is too large", 8, b"\xff"),
        ("a length of nothing", 8, b"\0"),
        ("a length below nothing", 15, b"\xff"),
        ("a product beyond counting", 14, b"\xff"),
    ],
)
def test_a_vector_that_cannot_be_is_refused(what: str, offset: int, value: bytes) -> None:
    payload = bytearray(engine.encode_value(numbers("d", (200,))))
    at = HEAD + ENTRY + offset
    payload[at : at + len(value)] = value
    with pytest.raises(CorruptData):
        engine.decode_value(bytes(payload))


def test_a_vector_outside_a_pickles_place_is_refused() -> None:
    payload = engine.encode_value(numbers("d", (200,)))
    with pytest.raises(CorruptData):
        engine.decode_value(inner(payload))
