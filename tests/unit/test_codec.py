"""Payloads: what is encoded is decoded, and bytes that nobody encoded get an error, never a crash."""

from __future__ import annotations

import array
import contextlib
import gc
import math
import pickle
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import CorruptData, _engine

engine: Any = _engine  # the codec's functions are for tests and slow paths, and not in the stub

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, 2**63 + 1)
    | st.floats()
    | st.text()
    | st.text(st.characters())
    | st.binary()
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.tuples(inner, inner) | st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple)
    ),
)


def same(a: object, b: object) -> bool:
    """Equal in value and in type, all the way down; a NaN equals itself, 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return len(a) == len(b) and all(key in b and same(item, b[key]) for key, item in a.items())
    return a == b


@given(values)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    payload = engine.encode_value(value)
    assert engine.check_payload(payload)
    assert same(engine.decode_value(payload), value)


@given(st.lists(values).map(tuple), st.dictionaries(st.text(), values, max_size=5))
def test_a_call_comes_back_as_it_was(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    payload = engine.encode_call(args, kwargs)
    assert engine.check_payload(payload)
    assert same(engine.decode_call(payload), (args, kwargs))


@given(st.lists(st.lists(values, max_size=4).map(tuple), min_size=1))
def test_the_items_of_a_chunk_come_back_one_by_one(items: list[tuple[object, ...]]) -> None:
    payload = engine.encode_chunk(items)
    for number, item in enumerate(items):
        assert same(engine.decode_chunk_item(payload, number), (item, {}))
    with pytest.raises(CorruptData):
        engine.decode_chunk_item(payload, len(items))


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.tuples(st.floats())


@given(st.integers(0, 9).flatmap(lambda count: st.lists(st.tuples(*[plain] * count), min_size=1, max_size=200)))
def test_items_alike_come_back_one_by_one(items: list[tuple[object, ...]]) -> None:
    payload = engine.encode_chunk(items)
    for number, item in reversed(list(enumerate(items))):
        assert same(engine.decode_chunk_item(payload, number), (item, {}))
    with pytest.raises(CorruptData):
        engine.decode_chunk_item(payload, len(items))


@pytest.mark.parametrize("odd", [(), (1, 2), ([],), (2**70,), (bytearray(5000),), (1,) * 9, (1,) * 300])
@pytest.mark.parametrize("place", [0, 1, 63, 64, 65, 199])
def test_an_item_unlike_the_others_may_stand_anywhere(odd: tuple[object, ...], place: int) -> None:
    items: list[tuple[object, ...]] = [(i * 1000,) for i in range(200)]
    items[place] = odd
    payload = engine.encode_chunk(items)
    for number, item in enumerate(items):
        args, kwargs = engine.decode_chunk_item(payload, number)
        assert args == item
        assert kwargs == {}


SCALARS = [
    "bool_(1)", "int8(-3)", "uint8(255)", "int16(-300)", "uint16(65535)", "int32(-70000)", "uint32(2**32 - 1)",
    "int64(-(2**63))", "uint64(2**64 - 1)", "longlong(-1)", "ulonglong(2**63)", "float32('-inf')", "float32(0.1)",
    "float64(0.1)", "float64('nan')", "float16(0.5)", "longdouble(0.1)", "complex64(1j)", "complex128(-1j)",
    "datetime64('2020-02-29')", "timedelta64(5, 's')", "str_('x')", "bytes_(b'x')", "void(b'ab')",
]  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_of_numpy_comes_back_with_its_type(text: str) -> None:
    numpy = pytest.importorskip("numpy")
    scalar = eval(f"numpy.{text}", {"numpy": numpy})
    payload = engine.encode_value(scalar)
    assert engine.check_payload(payload)
    back = engine.decode_value(payload)
    assert type(back) is type(scalar)
    assert back.dtype == scalar.dtype
    assert back.tobytes() == scalar.tobytes()
    assert repr(engine.decode_call(engine.encode_call((scalar, (scalar, 1))))) == repr(((scalar, (scalar, 1)), {}))


def test_an_array_of_no_dimensions_is_no_scalar() -> None:
    numpy = pytest.importorskip("numpy")
    back = engine.decode_value(engine.encode_value(numpy.array(0.5)))
    assert type(back) is numpy.ndarray
    assert back == 0.5


def test_a_scalar_that_ends_early_is_an_error() -> None:
    pytest.importorskip("numpy")
    for payload in (b"n", b"nd", b"nd1234567", b"nx12345678", b"n\xff12345678", b"nb", b"nb12"):
        with pytest.raises(CorruptData):
            engine.decode_value(payload)


def test_an_item_with_an_argument_may_follow_those_without() -> None:
    items: list[tuple[object, ...]] = [(), (), ([],), (), (1,)]
    payload = engine.encode_chunk(items)
    assert [engine.decode_chunk_item(payload, number) for number in range(5)] == [(item, {}) for item in items]


def test_items_alike_take_little_more_than_their_values() -> None:
    assert len(engine.encode_chunk([(None,)] * 6400)) == 8 + 101 * 8 + 6400
    assert len(engine.encode_chunk([(0.5, 100_000)] * 6400)) == 8 + 101 * 8 + 6400 * 14


@pytest.mark.parametrize(
    "value",
    [0, 127, 128, -1, -64, -65, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, True, (), ((((1,),),),), (((((1,),),),),)],
    ids=repr,
)
def test_the_edges_of_the_compact_code(value: object) -> None:
    assert same(engine.decode_value(engine.encode_value(value)), value)


def test_a_small_call_takes_few_bytes() -> None:
    assert len(engine.encode_call((7,))) == 4
    assert len(engine.encode_value("x" * 40)) == 42


class Text(str):
    pass


class Number(int):
    pass


@pytest.mark.parametrize("value", [Text("a"), Number(3)], ids=repr)
def test_a_subclass_of_a_built_in_type_keeps_its_type(value: object) -> None:
    assert same(engine.decode_value(engine.encode_value(value)), value)


def test_large_buffers_are_aligned_and_keep_their_bytes() -> None:
    buffers = [bytes([number]) * (4096 + number) for number in range(5)]
    payload = engine.encode_value([pickle.PickleBuffer(buffer) for buffer in buffers])
    assert payload[0:1] == b"P"
    for number in range(5):
        (offset,) = struct.unpack_from("Q", payload, 16 + 24 * number)
        assert offset % 64 == 0
    assert [bytes(buffer) for buffer in engine.decode_value(payload)] == buffers


def test_a_small_buffer_stays_in_the_pickle() -> None:
    assert engine.encode_value(pickle.PickleBuffer(b"few"))[0:1] == b"p"


def test_a_read_only_buffer_is_a_view_and_a_writable_one_a_copy_where_others_read_too() -> None:
    fixed, writable = b"f" * 5000, bytearray(b"w" * 5000)
    payload = engine.encode_value((pickle.PickleBuffer(fixed), pickle.PickleBuffer(writable)))
    view, copy = engine.decode_value(payload)
    assert memoryview(view).readonly
    assert not memoryview(copy).readonly
    copy[0] = 0
    assert engine.decode_value(payload)[1][0] == ord("w")


def test_a_view_keeps_the_payload_alive() -> None:
    view = engine.decode_value(engine.encode_value(pickle.PickleBuffer(b"f" * 5000)))
    gc.collect()
    assert bytes(view) == b"f" * 5000


def test_a_numpy_array_comes_back_equal_and_writable() -> None:
    numpy = pytest.importorskip("numpy")
    for source in (numpy.arange(3000.0).reshape(30, 100), numpy.arange(3000.0).reshape(30, 100).T, numpy.zeros(3)):
        result = engine.decode_value(engine.encode_value(source))
        assert (result == source).all()
        assert result.flags.writeable
        assert result.flags.f_contiguous == source.flags.f_contiguous


def test_arrays_in_a_chunk_come_back() -> None:
    numbers = [array.array("d", range(number)) for number in (0, 1, 1000)]
    payload = engine.encode_chunk([(item, index) for index, item in enumerate(numbers)])
    assert [engine.decode_chunk_item(payload, number) for number in range(3)] == [
        ((item, index), {}) for index, item in enumerate(numbers)
    ]


def test_a_chunk_mixes_items_with_and_without_buffers() -> None:
    items = [(pickle.PickleBuffer(b"x" * 3000), 1), (2,), (pickle.PickleBuffer(b"y" * 3000),), ("z",)]
    payload = engine.encode_chunk(items)
    assert bytes(engine.decode_chunk_item(payload, 0)[0][0]) == b"x" * 3000
    assert engine.decode_chunk_item(payload, 1) == ((2,), {})
    assert bytes(engine.decode_chunk_item(payload, 2)[0][0]) == b"y" * 3000
    assert engine.decode_chunk_item(payload, 3) == (("z",), {})


def test_an_item_that_cannot_be_pickled_fails_alone() -> None:
    with pytest.raises(pickle.PicklingError):
        engine.encode_chunk([(1,), (threading.Lock(),)])


# --- bytes that nobody encoded

payloads = st.binary() | st.builds(
    lambda payload, at, byte: payload[: at % (len(payload) + 1)] + byte + payload[at % (len(payload) + 1) + 1 :],
    atoms.map(engine.encode_value) | st.lists(atoms).map(tuple).map(engine.encode_call),
    st.integers(0, 1000),
    st.binary(max_size=1),
)


@given(payloads)
def test_a_broken_payload_is_an_error(payload: bytes) -> None:
    if payload[:1] in (b"p", b"P", b"X", b"M"):
        return  # pickle's own errors, by whose rules only we write pickles
    for decode in (engine.decode_value, engine.decode_call, engine.decode_error):
        with contextlib.suppress(CorruptData, TypeError):
            decode(payload)


numbers = st.none() | st.integers(-300, 300) | st.floats()
chunks = st.builds(
    lambda items, at, byte: (
        (payload := engine.encode_chunk(items))[: at % len(payload)] + byte + payload[at % len(payload) + 1 :]
    ),
    st.lists(st.tuples(numbers), min_size=1, max_size=150),
    st.integers(0, 1000),
    st.binary(max_size=1),
)


@given(st.binary() | chunks, st.integers(0, 5))
def test_a_broken_chunk_is_an_error(payload: bytes, item: int) -> None:
    refused = (CorruptData, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)
    with contextlib.suppress(*refused):
        engine.decode_chunk_item(payload, item)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"(",
        b"(\x02\x80",
        b"(\x01" * 6 + b"\x80",
        b"s\x05abc",
        b"s\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"s\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"u\x01\xff\xff\xff\xff",
        b"t\x02ab",
        b"d1234567",
        b"\x80\x80",
        b"P" + bytes(14),
        b"P\0\0\0" + struct.pack("=IQ", 2**32 - 1, 0),
        b"P\0\0\0" + struct.pack("=IQ", 0, 2**63),
        b"P\0\0\0" + struct.pack("=IQQQQ", 1, 0, 64, 2**64 - 1, 0),
        b"P\0\0\0" + struct.pack("=IQQQQ", 1, 0, 1, 1, 0),
    ],
    ids=repr,
)
def test_lengths_that_lie_are_refused(payload: bytes) -> None:
    with pytest.raises(CorruptData):
        engine.decode_value(payload)
    assert payload[:1] in (b"u",) or not engine.check_payload(payload)


def test_a_call_with_a_keyword_that_is_no_string_is_refused() -> None:
    with pytest.raises(CorruptData):
        engine.decode_call(b"C\x00\x01\x80\x80")


def test_an_error_with_no_room_is_a_memory_error() -> None:
    error = engine.decode_error(b"Mno room")
    assert type(error) is MemoryError
    assert str(error) == "no room"
