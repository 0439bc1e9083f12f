"""Long pickles: large bytes and bytearrays are pieces of them as they are, and not copied. python/treadle/_travel.py"""

from __future__ import annotations

import pickle
import threading
import tracemalloc
from typing import Any

import pytest
from treadle import ProcessPoolExecutor, _engine, _travel

engine: Any = _engine  # the codec's functions are for tests and slow paths, and not in the stub

LARGE = 200_000
FRAME = 1 << 16  # from here on the pickler hands bytes over as they are


def dump(*args: object) -> Any:
    return _travel.dump_call(args, {}, False)[0]


def test_large_bytes_are_not_copied() -> None:
    value = bytes(LARGE)
    pieces = dump([1, value], {"key": (value, 2)})
    assert [piece is value for piece in pieces].count(True) == 1
    assert pickle.loads(b"".join(pieces)) == (([1, value], {"key": (value, 2)}), {})


def test_large_bytearrays_are_not_copied() -> None:
    value = bytearray(LARGE)
    [piece] = [piece for piece in dump([1, value]) if type(piece) is pickle.PickleBuffer]
    value[0] = 7
    assert piece.raw()[0] == 7


def test_a_bytearray_is_free_when_it_was_sent() -> None:
    value = bytearray(LARGE)
    engine.encode_call(([value],))
    value.clear()
    assert not value


BYTES = [bytes(size) for size in (FRAME - 1, FRAME, FRAME + 1)]
VALUES = [
    *([value] for value in BYTES),
    BYTES,
    [bytearray(value) for value in BYTES],
    [b"\x80" * LARGE, b"\x95" * LARGE, bytearray(b"\x95" * LARGE)],
    ["a" * LARGE, "\xe9" * LARGE, "\udc80" * LARGE, bytes(LARGE)],
    list(range(100_000)),
    [1, [bytes(LARGE), [bytearray(LARGE), ()]], dict],
]


def plain(value: Any) -> bytes:
    return pickle.dumps(value, 5)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_long_pickles_come_back(value: Any) -> None:
    payload = engine.encode_call((value, 1))
    assert engine.check_payload(payload)
    args, kwargs = engine.decode_call(payload)
    assert (plain(args[0]), args[1:], kwargs) == (plain(value), (1,), {})
    assert plain(engine.decode_value(engine.encode_value(value))) == plain(value)


def test_long_and_short_pickles_share_a_chunk() -> None:
    items: list[tuple[Any, ...]] = [(value, number) for number, value in enumerate([[1], *VALUES[:-1], 2, {}])]
    payload = engine.encode_chunk(items)
    for number, item in enumerate(items):
        assert engine.decode_chunk_item(payload, number) == (item, {})


def test_a_long_pickle_may_have_buffers_too() -> None:
    value = [bytes(LARGE), pickle.PickleBuffer(b"a" * LARGE), 1]
    for decoded in (engine.decode_value(engine.encode_value(value)), engine.decode_call(engine.encode_call((value,)))):
        back = decoded if isinstance(decoded, list) else decoded[0][0]
        assert (back[0], bytes(back[1]), back[2]) == (bytes(LARGE), b"a" * LARGE, 1)


def test_long_bytes_of_a_chunk_are_copied_once() -> None:
    items = [(number, bytes(LARGE)) for number in range(10)]
    engine.encode_chunk(items)
    tracemalloc.start()
    try:
        payload = engine.encode_chunk(items)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * len(payload)  # the block, and the payload that is made of it here
    assert [engine.decode_chunk_item(payload, number) for number in range(10)] == [(item, {}) for item in items]


class Clears:
    """Pickling it empties a bytearray."""

    def __init__(self, victim: bytearray) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        self.victim.clear()
        return int, ()


def test_a_bytearray_that_shrinks_while_it_is_pickled_does_no_harm() -> None:
    value = bytearray(LARGE)
    args, _ = engine.decode_call(engine.encode_call(([value, Clears(value)],)))
    assert args == ([bytearray(), 0],)


def look(value: Any, place: int) -> Any:
    return value[place].x, len(value)


def test_what_travels_by_value_is_found_between_large_bytes(module: Any) -> None:
    module.define("class Point:\n  x = 3")
    with ProcessPoolExecutor(1) as pool:
        for place in range(3):
            value: list[Any] = [b"y" * FRAME, b"\x95" * FRAME]
            value.insert(place, module.Point())
            assert pool.submit(look, value, place).result() == (3, 3)


def test_what_is_pickled_by_value_is_not_pickled_twice(module: Any) -> None:
    module.define("class Holder:\n  def __init__(self, data): self.data = data")
    held = bytes(LARGE)
    data, buffers = _travel.dump_call((module.Holder(held),), {}, False)
    assert len(data) < FRAME
    assert [buffer.raw().nbytes // LARGE for buffer in buffers] == [1]
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(getattr, module.Holder(held), "data").result() == held


def test_an_error_while_pickling_leaves_nothing_for_the_next() -> None:
    with pytest.raises(pickle.PicklingError):
        engine.encode_call(([bytes(100), bytes(LARGE), threading.Lock()],))
    assert engine.decode_call(engine.encode_call(([1],))) == (([1],), {})


def same(value: Any) -> Any:
    return value


def test_long_pickles_travel_there_and_back() -> None:
    with ProcessPoolExecutor(1) as pool:
        for value in VALUES[:-1]:
            assert pool.submit(same, value).result() == value
        assert list(pool.map(same, VALUES[:-1], chunksize=4)) == VALUES[:-1]
